//! Settling: s34, f28, f36, and what is told when a settlement is written.

use std::time::Duration;

use crate::words::*;

#[test]
fn s34_a_settlement_counts_when_its_last_byte_is_written_and_only_then_is_it_told() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    assert_eq!(stage.terms(consumer), [1, 0, 0, 0, 0, 0, 1]);
    for _ in 0..20 {
        assert_eq!(stage.write(CON, 1), 1);
        assert_eq!((stage.terms(consumer), stage.told()), ([1, 0, 0, 0, 0, 0, 1], vec![]));
    }
    assert_eq!(stage.write(CON, 1), 1);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    assert_eq!(stage.terms(consumer), [1, 1, 0, 0, 0, 0, 0]);
    stage.stalled.clear();
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.finish();
}

#[test]
fn s34_under_tls_a_settlement_counts_when_it_is_flushed() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.unflushed.insert(CON);
    stage.settle(consumer, 1, 1..=2, Settlement::Reject);
    assert_eq!(stage.next(CON), Wrote::Nack { channel, tag: 2, multiple: true, requeue: false });
    assert_eq!((stage.terms(consumer), stage.told()), ([2, 0, 0, 0, 0, 0, 2], vec![]));
    stage.flush(CON);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    assert_eq!(stage.terms(consumer), [2, 0, 0, 2, 0, 0, 0]);
    stage.finish();
}

#[test]
fn s34_each_call_is_told_once_it_is_covered() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=9);
    // Nothing of these has to be written: a generation that never was, a tag that never came.
    stage.settle(consumer, 7, 1..=1, Settlement::Ack);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    stage.settle(consumer, 1, 99..=99, Settlement::Ack);
    assert_eq!(stage.told(), [Told::Written(consumer, 2)]);
    for tag in [1, 2, 9] {
        stage.settle_quietly(consumer, 1, tag..=tag, Settlement::Ack);
    }
    assert_eq!(stage.told(), [Told::Written(consumer, 5)]);
    stage.expect_frames(CON, &[ack_multiple(channel, 2), ack(channel, 9)]);
    // One that comes while another is on its way is not covered by it.
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 3..=3, Settlement::Ack);
    let first = stage.pending(CON);
    stage.settle_quietly(consumer, 1, 4..=4, Settlement::Ack);
    assert_eq!(stage.write(CON, first), first);
    assert_eq!(stage.told(), [Told::Written(consumer, 6)]);
    stage.stalled.clear();
    assert_eq!(stage.told(), [Told::Written(consumer, 7)]);
    stage.expect_frames(CON, &[ack(channel, 3), ack(channel, 4)]);
    stage.finish();
}

#[test]
fn s34_each_frame_of_one_drain_counts_when_it_is_written() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.stalled.insert(CON);
    stage.settle_quietly(consumer, 1, 1..=1, Settlement::Ack);
    stage.settle_quietly(consumer, 1, 2..=2, Settlement::Reject);
    let first = stage.pending(CON) / 2;
    stage.write(CON, first + 1);
    assert_eq!(stage.terms(consumer), [2, 1, 0, 0, 0, 0, 1]);
    assert_eq!(stage.told(), []);
    stage.cut(CON);
    assert_eq!(stage.terms(consumer), [2, 1, 0, 0, 1, 0, 0]);
}

/// What was of no effect is told with what was written, not at the next occasion to write.
#[test]
fn f28_a_stale_settle_behind_one_that_is_on_its_way_is_told_with_it() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    let pending = stage.pending(CON);
    stage.settle_quietly(consumer, 7, 1..=1, Settlement::Ack);
    stage.write(CON, pending);
    assert_eq!(stage.told(), [Told::Written(consumer, 2)]);
    stage.stalled.clear();
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.finish();
}

#[test]
fn f28_an_ack_that_races_a_reconnect_is_never_sent_and_nothing_hangs() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=4);
    assert_eq!(stage.got_tags(), (1, vec![1, 2, 3, 4]));
    stage.stalled.insert(CON);
    // 1 is written, 2 is encoded, 3 is settled after the loss, 4 after the reconnect.
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    let first = stage.pending(CON);
    stage.settle_quietly(consumer, 1, 2..=2, Settlement::Ack);
    stage.pending(CON);
    stage.write(CON, first + 20);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    stage.cut(CON);
    let why = interrupted("orders", Interruption::Disconnected);
    let told = stage.told();
    assert_eq!(told, [Told::Generation(consumer, 2), Told::Written(consumer, 2), why]);
    assert_eq!(stage.terms(consumer), [4, 1, 0, 0, 3, 0, 0]);
    stage.settle(consumer, 1, 3..=3, Settlement::Ack);
    assert_eq!(stage.told(), [Told::Written(consumer, 3)]);
    stage.reconnect(CON);
    let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.settle(consumer, 1, 4..=4, Settlement::Ack);
    assert_eq!(stage.told(), [resumed("orders"), Told::Written(consumer, 4)]);
    stage.silent();
    // The same tags on the new channel are others.
    stage.deliver(CON, channel, 1..=3);
    stage.settle(consumer, 1, 1..=3, Settlement::Reject);
    stage.silent();
    stage.settle(consumer, 2, 1..=3, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(channel, 3)]);
    assert_eq!(stage.terms(consumer), [7, 4, 0, 0, 3, 0, 0]);
    stage.finish();
}

#[test]
fn f28_of_an_ack_cut_in_two_the_broker_gets_nothing() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.write(CON, 20);
    stage.cut(CON);
    assert_eq!(stage.terms(consumer), [1, 0, 0, 0, 1, 0, 0]);
    assert!(stage.told().contains(&Told::Written(consumer, 1)), "nothing hangs");
}

#[test]
fn f36_a_forgotten_delivery_is_requeued_after_a_delay_that_grows_until_something_is_settled() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=9);
    let forget = |stage: &mut Stage, tag: u64, wait: u32| {
        stage.settle(consumer, 1, tag..=tag, Settlement::RequeueLater);
        stage.silent();
        stage.advance(wait * MS - MS);
        stage.silent();
        stage.advance(MS);
        stage.expect_frames(CON, &[requeue(channel, tag)]);
    };
    forget(&mut stage, 1, 100);
    forget(&mut stage, 3, 200);
    forget(&mut stage, 2, 400);
    assert_eq!(stage.account(consumer).forgotten, 3);
    assert_eq!(stage.terms(consumer), [9, 0, 3, 0, 0, 6, 0]);
    stage.settle(consumer, 1, 4..=4, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 4)]);
    forget(&mut stage, 5, 100);
    stage.finish();
}

#[test]
fn f36_the_delay_is_30_s_at_most() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=20);
    for tag in 1..=19 {
        stage.settle(consumer, 1, tag..=tag, Settlement::RequeueLater);
        stage.advance(30 * SEC);
        stage.expect_frames(CON, &[requeue(channel, tag)]);
    }
    stage.settle(consumer, 1, 20..=20, Settlement::RequeueLater);
    stage.advance(30 * SEC - MS);
    stage.silent();
    stage.advance(MS);
    stage.expect_frames(CON, &[requeue(channel, 20)]);
    stage.finish();
}

#[test]
fn f36_one_that_waits_for_long_does_not_hold_up_one_that_waits_for_less() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=9);
    for tag in 1..=4 {
        stage.settle(consumer, 1, tag..=tag, Settlement::RequeueLater);
    }
    // A settlement makes the next delay short again.
    stage.settle(consumer, 1, 5..=5, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 5)]);
    stage.settle(consumer, 1, 6..=6, Settlement::RequeueLater);
    stage.advance(100 * MS);
    stage.expect_frames(CON, &[requeue(channel, 1), requeue(channel, 6)]);
    stage.advance(100 * MS);
    stage.expect_frames(CON, &[requeue(channel, 2)]);
    stage.advance(SEC);
    stage.expect_frames(CON, &[requeue(channel, 3), requeue(channel, 4)]);
    stage.finish();
}

fn forgotten(count: u64) -> Told {
    Told::Event(Event::DeliveriesForgotten { queue: "orders".into(), count })
}

#[test]
fn f36_forgotten_deliveries_are_warned_about_at_once_and_then_once_a_minute() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=30);
    // Two at once, as one panic drops them.
    stage.settle(consumer, 1, 1..=2, Settlement::RequeueLater);
    assert!(stage.told().contains(&forgotten(2)));
    for tag in 3..=10 {
        stage.settle(consumer, 1, tag..=tag, Settlement::RequeueLater);
        stage.advance(SEC);
    }
    let warnings = |stage: &mut Stage| {
        stage.told().into_iter().filter(|told| matches!(told, Told::Event(_))).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&mut stage), []);
    stage.advance(52 * SEC);
    assert_eq!(warnings(&mut stage), [forgotten(8)]);
    stage.advance(120 * SEC);
    assert_eq!(warnings(&mut stage), []);
    stage.settle(consumer, 1, 11..=11, Settlement::RequeueLater);
    assert_eq!(warnings(&mut stage), [forgotten(1)]);
    assert_eq!(stage.account(consumer).forgotten, 11);
}

#[test]
fn f36_what_is_put_off_blocks_neither_other_settlements_nor_what_is_told_of_them() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=4);
    stage.settle(consumer, 1, 2..=2, Settlement::RequeueLater);
    assert_eq!(stage.told(), [forgotten(1), Told::Written(consumer, 1)]);
    // Not over the one that is put off, which is outstanding.
    stage.settle(consumer, 1, 1..=4, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1), ack(channel, 3), ack(channel, 4)]);
    assert_eq!(stage.told(), [Told::Written(consumer, 2)]);
    assert_eq!(stage.terms(consumer), [4, 3, 0, 0, 0, 1, 0]);
    stage.advance(SEC);
    stage.expect_frames(CON, &[requeue(channel, 2)]);
    assert_eq!(stage.told(), []);
    stage.finish();
}

#[test]
fn f36_a_loss_while_one_is_put_off_abandons_it_and_its_timer_does_nothing() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.settle(consumer, 1, 1..=1, Settlement::RequeueLater);
    stage.cut(CON);
    assert_eq!(stage.terms(consumer), [1, 0, 0, 0, 1, 0, 0]);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, channel, 1..=1);
    stage.advance(60 * SEC);
    assert_eq!(stage.terms(consumer), [2, 0, 0, 0, 1, 1, 0]);
    stage.finish();
}

/// A peer that does not read: acks wait without growing the output beyond its bound.
#[test]
fn s34_acks_wait_for_room_and_none_is_lost() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.prefetch = 20_000;
    let (consumer, channel, _) = stage.subscribed(&orders);
    stage.deliver(CON, channel, 1..=20_000);
    stage.stalled.insert(CON);
    // Each one is a frame of its own, since the first is outstanding.
    stage.settle(consumer, 1, 2..=20_000, Settlement::Ack);
    assert!(stage.pending(CON) <= (64 << 10) + 21, "{}", stage.pending(CON));
    assert_eq!(stage.told(), []);
    stage.stalled.clear();
    stage.pump();
    for tag in 2..=20_000 {
        assert_eq!(stage.next(CON), ack(channel, tag));
    }
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    assert_eq!(stage.terms(consumer), [20_000, 19_999, 0, 0, 0, 1, 0]);
    stage.finish();
}

#[test]
fn f36_a_delivery_that_was_settled_before_it_was_forgotten_is_put_off_by_nobody() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.settle(consumer, 1, 1..=1, Settlement::RequeueLater);
    assert_eq!(stage.account(consumer).forgotten, 0);
    // The first delay is still the short one; and what was settled before does not make it so.
    for (tag, wait) in [(2, 100), (3, 200)] {
        stage.settle(consumer, 1, tag..=tag, Settlement::RequeueLater);
        stage.settle(consumer, 1, 1..=1, Settlement::Ack);
        stage.advance(wait * MS - MS);
        stage.silent();
        stage.advance(MS);
        stage.expect_frames(CON, &[requeue(channel, tag)]);
    }
    stage.finish();
}
