//! Waiting, refusing, cancelling.

use std::{sync::Arc, task::Poll, time::Duration};

use super::{Fake, Task, config, poll_once};
use crate::{
    client::{Confirm, FireAndForget, Producer, waiters::Amount},
    config::{BufferPolicy, WhenOffline},
    error::{InvalidMessage, PublishError},
    event::State,
    message::Message,
    session::Flow,
    time::Time,
};

fn fill(producer: &Producer<FireAndForget>, n: usize) {
    for i in 0..n {
        producer.try_publish(format!("{i}")).unwrap();
    }
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 2));
    let producer = fake.producer::<FireAndForget>();
    let publish = producer.publish("a");
    assert_eq!(fake.turn(0).offered, 0);
    assert_eq!(publish.into_message().unwrap().body(), b"a");
    assert_eq!(fake.turn(0).offered, 0);
}

#[test]
fn waiters_are_admitted_first_in_first_out_and_only_they_are_woken() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 2));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 2);
    let mut waiters: Vec<_> =
        (0..4).map(|i| Task::new(producer.publish(format!("w{i}")))).collect();
    assert!(waiters.iter_mut().all(|task| task.poll().is_pending()));
    let stats = fake.turn(1);
    assert_eq!((stats.waiting, stats.accepted, stats.offered), (4, 2, 6));
    let woken: Vec<_> = waiters.iter().map(Task::is_woken).collect();
    assert_eq!(woken, [true, false, false, false]);
    assert!(matches!(waiters[0].poll(), Poll::Ready(Ok(()))));
    fake.turn(2);
    let woken: Vec<_> = waiters.iter().map(Task::is_woken).collect();
    assert_eq!(woken, [false, true, true, false]);
    // Polled in whatever order.
    assert!(matches!(waiters[2].poll(), Poll::Ready(Ok(()))));
    assert!(matches!(waiters[1].poll(), Poll::Ready(Ok(()))));
    let stats = fake.turn(2);
    assert!(matches!(waiters[3].poll(), Poll::Ready(Ok(()))));
    assert_eq!((stats.waiting, stats.accepted), (1, 5));
    let stats = fake.turn(9);
    assert_eq!((stats.waiting, stats.accepted, stats.in_flight), (0, 6, 6));
    assert_eq!(fake.taken, [1, 2, 3, 4, 5, 6]);
    fill(&producer, 2); // the fast path is open again
}

#[test]
fn newcomers_overtake_neither_those_who_wait_nor_those_who_were_granted_room() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 2));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 2);
    let (mut first, poll) = poll_once(producer.publish("first"));
    assert!(poll.is_pending());
    assert!(matches!(producer.try_publish("x"), Err(PublishError::Full(_))));
    fake.turn(2); // room for two; the first has a grant that it has not taken yet
    assert!(first.is_woken());
    assert!(matches!(producer.try_publish("x"), Err(PublishError::Full(_))));
    let (mut second, poll) = poll_once(producer.publish("second"));
    assert!(poll.is_pending(), "it has room, but the first comes first");
    assert!(second.is_woken(), "and it is asked again soon");
    assert!(first.poll().is_ready());
    assert!(second.poll().is_ready());
    let stats = fake.turn(0);
    let bodies: Vec<_> = fake.buffer.iter().map(|a| a.message.body().to_vec()).collect();
    assert_eq!(bodies, [b"first".to_vec(), b"second".to_vec()]);
    assert_eq!((stats.refused_full, stats.accepted), (2, 4));
}

#[test]
fn f23_a_waiter_dropped_at_each_point_publishes_nothing_and_passes_its_room_on() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 1);
    let (waiting, _) = poll_once(producer.publish("waiting"));
    let (granted, _) = poll_once(producer.publish("granted"));
    let (mut last, _) = poll_once(producer.publish("last"));
    drop(waiting);
    assert_eq!(fake.turn(0).cancelled, 1);
    fake.turn(1);
    assert!(granted.is_woken() && !last.is_woken());
    assert_eq!(granted.into_future().into_message().unwrap().body(), b"granted");
    assert!(last.is_woken(), "the grant passes on");
    assert!(last.poll().is_ready());
    drop(last); // after acceptance nothing changes
    let stats = fake.turn(0);
    assert_eq!((stats.cancelled, stats.accepted, stats.waiting), (2, 2, 0));
    assert_eq!(fake.taken, [1, 2]);
}

#[test]
fn a_large_message_in_front_holds_the_line_until_it_leaves() {
    let mut config = config::<FireAndForget>(BufferPolicy::Block, 10);
    config.buffer_bytes = 10;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    producer.try_publish("12345").unwrap();
    let (large, poll) = poll_once(producer.publish("1234567890"));
    assert!(poll.is_pending());
    let (mut small, poll) = poll_once(producer.publish("12345"));
    assert!(poll.is_pending(), "there is room for it, but it is not first");
    fake.turn(0);
    assert!(!small.is_woken());
    drop(large);
    assert!(small.is_woken());
    assert!(small.poll().is_ready());
    assert!(matches!(producer.try_publish("1"), Err(PublishError::Full(_))), "10 bytes are queued");
    assert_eq!(producer.buffer_size(), 2);
    fake.turn(1);
    producer.try_publish("12345").unwrap();
    assert!(matches!(producer.try_publish("1"), Err(PublishError::Full(_))));
    assert_eq!(fake.turn(0).queued_bytes, 10);
}

#[test]
fn error_gives_the_message_back_at_once() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Error, 1));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 1);
    let (_, poll) = poll_once(producer.publish("x"));
    assert_eq!(poll, Poll::Ready(Err(PublishError::Full(Message::new("x")))));
    assert_eq!(producer.try_publish("y").unwrap_err().into_message().body(), b"y");
    let stats = fake.turn(1);
    assert_eq!((stats.refused_full, stats.offered), (2, 3));
    fill(&producer, 1);
}

#[test]
fn s12_what_exceeds_a_limit_alone_is_invalid() {
    let mut config = config::<FireAndForget>(BufferPolicy::Block, 10);
    config.buffer_bytes = 10;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    let invalid = |poll| match poll {
        Poll::Ready(Err(PublishError::Invalid(_, invalid))) => invalid,
        other => panic!("{other:?}"),
    };
    let (_, poll) = poll_once(producer.publish("12345678901"));
    assert_eq!(invalid(poll), InvalidMessage::LargerThanBuffer { length: 11, limit: 10 });
    let (_, poll) = poll_once(producer.publish_to(&"k".repeat(256), "x"));
    assert!(matches!(invalid(poll), InvalidMessage::Name(_)));
    let (_, poll) = poll_once(producer.publish(Message::new("x").message_id(&"i".repeat(256))));
    assert!(matches!(invalid(poll), InvalidMessage::Name(_)));
    let header = amq_protocol::types::AMQPValue::LongString("v".repeat(140_000).into());
    let message = Message::new("x").header("h", header);
    assert!(matches!(
        producer.try_publish(&message),
        Err(PublishError::Invalid(_, InvalidMessage::PropertiesTooLarge { .. }))
    ));
    let (_, poll) = poll_once(producer.publish_to(&"k".repeat(255), "x"));
    assert!(matches!(poll, Poll::Ready(Ok(()))));
    let stats = fake.turn(0);
    assert_eq!((stats.refused_invalid, stats.accepted, stats.offered), (4, 1, 5));
    assert_eq!(fake.buffer[0].routing_key.as_deref(), Some("k".repeat(255).as_str()));
}

#[test]
fn properties_do_not_cost_the_fast_path() {
    let fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 10));
    let message = Message::new("x").header("h", amq_protocol::types::AMQPValue::Boolean(true));
    assert_eq!(fake.shared.admit(&message), Some(1));
}

#[test]
fn publish_timeout_ends_the_waiting_by_the_drivers_clock() {
    let mut config = config::<FireAndForget>(BufferPolicy::Block, 1);
    config.publish_timeout = Some(Duration::from_secs(1));
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 1);
    fake.turn(0);
    // The driver sleeps for a long time meanwhile: its coarse clock stands still.
    fake.now = Time::from_nanos(60_000_000_000);
    let (mut first, _) = poll_once(producer.publish("first"));
    let (mut second, _) = poll_once(producer.publish("second"));
    assert!(fake.link.pop_ready().is_some(), "the driver is told");
    fake.turn(0);
    assert!(!first.is_woken(), "the second began now, not when the driver fell asleep");
    assert_eq!(fake.shared.next_deadline(), Some(Time::from_nanos(61_000_000_000)));
    fake.now = Time::from_nanos(60_500_000_000);
    let (third, _) = poll_once(producer.publish("third"));
    assert!(fake.link.pop_ready().is_some());
    fake.turn(1);
    assert!(first.poll().is_ready(), "it got its room");
    fake.now = Time::from_nanos(61_000_000_000);
    let stats = fake.turn(0);
    assert_eq!((stats.timed_out, stats.waiting), (1, 1));
    assert!(second.is_woken());
    assert_eq!(second.poll(), Poll::Ready(Err(PublishError::TimedOut(Message::new("second")))));
    assert_eq!(fake.shared.next_deadline(), Some(Time::from_nanos(61_500_000_000)));
    fake.now = Time::from_nanos(61_500_000_000);
    assert_eq!(fake.turn(0).timed_out, 2);
    assert_eq!(fake.shared.next_deadline(), None);
    assert!(third.is_woken());
    drop(third); // it was timed out already: not cancelled as well
    let stats = fake.turn(1);
    assert_eq!((stats.timed_out, stats.cancelled, stats.offered), (2, 0, 4));
    fill(&producer, 1);
}

#[test]
fn offline_fail_refuses_newcomers_and_waiters_with_the_state() {
    let mut config = config::<FireAndForget>(BufferPolicy::Block, 1);
    config.when_offline = WhenOffline::Fail;
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 1);
    let (mut waiting, _) = poll_once(producer.publish("waiting"));
    let state = Arc::new(State::Connecting);
    fake.link.set_state(state.clone());
    fake.flow = Flow { offline: true, ..Flow::default() };
    let stats = fake.turn(1);
    assert_eq!((stats.refused_offline, stats.waiting), (1, 0));
    assert!(waiting.is_woken());
    let offline = |body| PublishError::Offline(Message::new(body), state.clone());
    assert_eq!(waiting.poll(), Poll::Ready(Err(offline("waiting"))));
    assert_eq!(producer.try_publish("x"), Err(offline("x")));
    let (_, poll) = poll_once(producer.publish("y"));
    assert_eq!(poll, Poll::Ready(Err(offline("y"))));
    assert_eq!(fake.turn(0).refused_offline, 3);
    let loss = crate::error::Loss::Eof;
    let state = Arc::new(State::Reconnecting { loss, attempt: 2 });
    // The state is that of the moment, and one that stands refuses nothing: the flow that says so
    // is under way.
    fake.link.set_state(state.clone());
    assert_eq!(producer.try_publish("z"), Err(PublishError::Offline(Message::new("z"), state)));
    fake.link.set_state(Arc::new(State::Connected));
    fill(&producer, 1);
    fake.flow.offline = false;
    fake.turn(1);
    fill(&producer, 1);
}

#[test]
fn offline_buffer_goes_on_waiting() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
    let producer = fake.producer::<FireAndForget>();
    fake.flow = Flow { offline: true, may_evict: true };
    fake.turn(0);
    fill(&producer, 1);
    let (waiting, _) = poll_once(producer.publish("waiting"));
    let stats = fake.turn(0);
    assert_eq!((stats.waiting, stats.accepted), (1, 1));
    assert!(!waiting.is_woken());
}

#[test]
fn close_refuses_waiters_and_all_later_publishes() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 2));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 2);
    let (mut granted, _) = poll_once(producer.publish("granted"));
    let (mut waiting, _) = poll_once(producer.publish("waiting"));
    let (dropped, _) = poll_once(producer.publish("dropped"));
    fake.turn(1);
    fake.shared.close();
    assert_eq!(granted.run(), Poll::Ready(Err(PublishError::Closed(Message::new("granted")))));
    assert_eq!(waiting.run(), Poll::Ready(Err(PublishError::Closed(Message::new("waiting")))));
    drop(dropped);
    assert_eq!(producer.try_publish("x"), Err(PublishError::Closed(Message::new("x"))));
    let (_, poll) = poll_once(producer.publish("y"));
    assert_eq!(poll, Poll::Ready(Err(PublishError::Closed(Message::new("y")))));
    let stats = fake.turn(9);
    assert_eq!((stats.refused_closed, stats.cancelled, stats.waiting), (5, 0, 0));
    assert_eq!((stats.accepted, stats.queued), (2, 0));
}

#[test]
fn publish_yields_once_per_512_acceptances_unless_the_driver_ran() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 10_000));
    let producer = fake.producer::<FireAndForget>();
    for _ in 0..512 {
        assert!(poll_once(producer.publish("x")).1.is_ready());
    }
    let (mut yielding, poll) = poll_once(producer.publish("y"));
    assert!(poll.is_pending() && yielding.is_woken());
    assert_eq!(fake.shared.snapshot(fake.session).waiting, 1);
    assert!(yielding.poll().is_ready(), "once only, even if the driver did not run");
    for _ in 0..511 {
        assert!(poll_once(producer.publish("x")).1.is_ready());
    }
    let (dropped, poll) = poll_once(producer.publish("z"));
    assert!(poll.is_pending());
    drop(dropped);
    let stats = fake.turn(0);
    assert_eq!((stats.cancelled, stats.waiting, stats.accepted), (1, 0, 1024));
    for _ in 0..4 {
        for _ in 0..500 {
            assert!(poll_once(producer.publish("x")).1.is_ready());
        }
        fake.turn(500);
    }
}

#[test]
fn the_driver_is_told_only_when_the_hand_over_was_empty() {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 100));
    let producer = fake.producer::<FireAndForget>();
    fill(&producer, 3);
    assert!(fake.link.pop_ready().is_some());
    assert!(fake.link.pop_ready().is_none());
    assert!(fake.take(2), "there is more: the driver comes back by itself");
    fill(&producer, 1);
    assert!(fake.link.pop_ready().is_none());
    assert!(!fake.take(2));
    fill(&producer, 1);
    assert!(fake.link.pop_ready().is_some());
}

#[test]
fn ttl_counts_from_acceptance_even_if_the_driver_slept() {
    let mut config = config::<FireAndForget>(BufferPolicy::Block, 100);
    config.ttl = Some(Duration::from_secs(1));
    let mut fake = Fake::new(config);
    let producer = fake.producer::<FireAndForget>();
    fake.link.begin_turn(Time::from_nanos(5));
    fill(&producer, 1); // while it sleeps
    fake.link.woke(Time::from_nanos(90));
    fake.take(9);
    fake.link.begin_turn(Time::from_nanos(95));
    fill(&producer, 1);
    fake.link.begin_turn(Time::from_nanos(99));
    fake.take(9);
    let at: Vec<_> = fake.buffer.iter().map(|accepted| accepted.at.as_nanos()).collect();
    assert_eq!(at, [90, 95]);
}

#[test]
fn sequences_survive_the_words_wrap_around() {
    // 64 GiB of bytes and 2^27 messages are too many to publish here: start just before.
    let mut fake = Fake::new(config::<Confirm>(BufferPolicy::Block, 3));
    let start = (1 << 27) - 2;
    fake.shared.hand_over().start_at(Amount { messages: start, bytes: (1 << 36) - 3 });
    let producer = fake.producer::<Confirm>();
    for i in 1..=6 {
        let receipt = producer.try_publish("12").unwrap();
        assert_eq!(receipt.sequence(), start + i);
        receipt.detach();
        fake.take(1);
        assert_eq!(producer.buffer_size(), 1);
        fake.send(1);
        fake.session.accepted = 0; // the fake's account did not start there
        let update = crate::session::ProducerUpdate {
            producer: fake.shared.id(),
            left: 1,
            left_bytes: 2,
            flow: Flow::default(),
            settled: 0,
            closed: false,
        };
        fake.shared.apply(&update, &[]);
        assert_eq!(producer.buffer_size(), 0);
    }
}
