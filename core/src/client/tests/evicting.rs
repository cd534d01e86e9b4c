//! `DropOldest`.

use std::{task::Poll, time::Duration};

use super::{Fake, config, poll_once};
use crate::{
    client::{Confirm, FireAndForget, hand_over::BURST},
    config::BufferPolicy,
    error::PublishError,
    event::{DropReason, Verdict},
    session::Flow,
    time::Time,
};

fn may_evict() -> Flow {
    Flow { may_evict: true, offline: false }
}

#[test]
fn while_bytes_flow_nothing_is_thrown_away() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 2));
    let producer = fake.producer::<FireAndForget>();
    producer.try_publish("a").unwrap();
    producer.try_publish("b").unwrap();
    let (mut waiting, poll) = poll_once(producer.publish("c"));
    assert!(poll.is_pending());
    let stats = fake.turn(0);
    assert_eq!((stats.waiting, stats.dropped_buffer_full), (1, 0));
    fake.turn(1);
    assert!(waiting.run().is_ready());
    assert_eq!(fake.turn(0).dropped_buffer_full, 0);
}

#[test]
fn once_it_may_evict_waiters_are_admitted_in_order_and_the_oldest_go() {
    let mut fake = Fake::new(config::<Confirm>(BufferPolicy::DropOldest, 2));
    let producer = fake.producer::<Confirm>();
    let receipts: Vec<_> = ["a", "b"].map(|body| producer.try_publish(body).unwrap()).into();
    let (mut c, _) = poll_once(producer.publish("c"));
    let (mut d, _) = poll_once(producer.publish("d"));
    fake.flow = may_evict();
    fake.turn(0);
    let (Poll::Ready(Ok(c)), Poll::Ready(Ok(d))) = (c.run(), d.run()) else { panic!() };
    assert_eq!((c.sequence(), d.sequence()), (3, 4));
    let stats = fake.turn(0);
    assert_eq!((stats.dropped_buffer_full, stats.queued, stats.waiting), (2, 2, 0));
    for receipt in receipts {
        let (_, Poll::Ready(Err(error))) = poll_once(receipt) else { panic!() };
        assert_eq!(error.verdict, Verdict::Dropped(DropReason::BufferFull));
    }
    assert!(!c.is_settled());
}

#[test]
fn a_publisher_that_outruns_the_driver_by_a_burst_waits_for_the_driver_only() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 2));
    let producer = fake.producer::<FireAndForget>();
    fake.flow = may_evict();
    fake.turn(0);
    for _ in 0..2 + BURST {
        fake.link.yielded(); // not what is tested here
        assert!(poll_once(producer.publish("x")).1.is_ready());
    }
    fake.link.yielded();
    let (mut waiting, poll) = poll_once(producer.publish("x"));
    assert!(poll.is_pending() && !waiting.is_woken());
    let stats = fake.turn(0);
    assert_eq!((stats.queued, stats.dropped_buffer_full, stats.waiting), (2, BURST, 1));
    assert!(waiting.run().is_ready());
}

#[test]
fn try_publish_evicts_from_the_hand_over_and_the_driver_reports_it() {
    let mut fake = Fake::new(config::<Confirm>(BufferPolicy::DropOldest, 2));
    let producer = fake.producer::<Confirm>();
    let mut receipts: Vec<_> =
        (0..2 + BURST + 3).map(|_| producer.try_publish("x").unwrap()).collect();
    assert_eq!(producer.buffer_size() as u64, 2 + BURST);
    assert_eq!(fake.shared.snapshot(fake.session).offered, 2 + BURST + 3);
    let stats = fake.turn(0);
    assert_eq!((stats.queued, stats.dropped_buffer_full), (2, BURST + 3));
    assert_eq!(fake.taken, (1..=2 + BURST + 3).collect::<Vec<_>>(), "the oldest went first");
    let kept = receipts.split_off(receipts.len() - 2);
    assert!(receipts.into_iter().all(|r| matches!(poll_once(r).1, Poll::Ready(Err(_)))));
    assert!(kept.into_iter().all(|r| poll_once(r).1.is_pending()));
}

#[test]
fn try_publish_while_others_wait_evicts() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 1));
    let producer = fake.producer::<FireAndForget>();
    producer.try_publish("a").unwrap();
    let (waiting, poll) = poll_once(producer.publish("b"));
    assert!(poll.is_pending());
    producer.try_publish("c").unwrap();
    let stats = fake.turn(0);
    assert_eq!((stats.dropped_buffer_full, stats.queued, stats.waiting), (1, 1, 1));
    assert_eq!(fake.buffer[0].message.body(), b"c");
    assert!(!waiting.is_woken());
}

#[test]
fn newcomers_still_wait_behind_those_who_wait_after_an_eviction() {
    let mut config = config::<FireAndForget>(BufferPolicy::DropOldest, 10);
    config.buffer_bytes = 10;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    producer.try_publish("12345678").unwrap();
    let (_large, poll) = poll_once(producer.publish("1234567890"));
    assert!(poll.is_pending());
    producer.try_publish("9").unwrap();
    assert!(poll_once(producer.publish("0")).1.is_pending(), "it would fit");
    assert_eq!(fake.turn(0).queued, 2);
}

#[test]
fn the_burst_is_bounded_in_bytes_too() {
    let mut config = config::<FireAndForget>(BufferPolicy::DropOldest, 1000);
    config.buffer_bytes = 800;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    fake.flow = may_evict();
    fake.turn(0);
    for _ in 0..9 {
        assert!(poll_once(producer.publish(vec![0; 100])).1.is_ready());
    }
    let (mut waiting, poll) = poll_once(producer.publish("x"));
    assert!(poll.is_pending());
    assert_eq!(fake.turn(0).dropped_buffer_full, 1);
    assert!(waiting.run().is_ready());
}

#[test]
fn the_byte_cap_can_need_several_evictions_for_one_message() {
    let mut config = config::<FireAndForget>(BufferPolicy::DropOldest, 100);
    config.buffer_bytes = 10;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    fake.flow = may_evict();
    fake.turn(0);
    for _ in 0..5 {
        producer.try_publish("12").unwrap();
    }
    assert!(poll_once(producer.publish("1234567")).1.is_ready());
    let stats = fake.turn(0);
    assert_eq!((stats.dropped_buffer_full, stats.queued, stats.queued_bytes), (4, 2, 9));
    // The largest that there can be is admitted, too.
    assert!(poll_once(producer.publish("1234567890")).1.is_ready());
    assert_eq!(fake.turn(0).queued_bytes, 10);
}

#[test]
fn what_was_evicted_and_not_reported_is_bounded() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 2));
    let producer = fake.producer::<FireAndForget>();
    let bound = 2 * (2 + BURST);
    for _ in 0..bound {
        producer.try_publish("x").unwrap();
    }
    assert!(matches!(producer.try_publish("y"), Err(PublishError::Full(_))));
    let stats = fake.turn(0);
    assert_eq!((stats.accepted, stats.refused_full, stats.queued), (bound, 1, 2));
    producer.try_publish("z").unwrap();
}

#[test]
fn publish_timeout_with_drop_oldest_admits() {
    let mut config = config::<FireAndForget>(BufferPolicy::DropOldest, 1);
    config.publish_timeout = Some(Duration::from_secs(1));
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    producer.try_publish("a").unwrap();
    let (mut waiting, _) = poll_once(producer.publish("b"));
    fake.turn(0);
    fake.now = Time::from_nanos(1_000_000_000);
    fake.turn(0);
    assert!(matches!(waiting.run(), Poll::Ready(Ok(()))));
    let stats = fake.turn(0);
    assert_eq!((stats.timed_out, stats.dropped_buffer_full, stats.accepted), (0, 1, 2));
    assert_eq!(fake.buffer[0].message.body(), b"b");
}
