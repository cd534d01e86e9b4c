//! Closing one consumer: s16, s48, f31.

use crate::words::*;

#[test]
fn s48_cancel_then_requeue_what_was_not_handed_over_then_settle_then_close_the_channel() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=4);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    assert_eq!(stage.told(), [Told::HandBack(consumer)]);
    // The driver hands back what the application has not seen.
    stage.settle(consumer, 1, 3..=4, Settlement::Requeue);
    stage.expect_frames(CON, &[requeue(channel, 3), requeue(channel, 4)]);
    // What arrives before cancel-ok goes back, too.
    stage.deliver(CON, channel, 5..=5);
    stage.expect_frames(CON, &[requeue(channel, 5)]);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.advance(10 * SEC);
    stage.silent();
    assert_eq!(stage.terms(consumer), [5, 1, 3, 0, 0, 1, 0]);
    stage.told();

    // 2 is still in hand. The channel stays until its ack is written.
    stage.unflushed.insert(CON);
    stage.settle(consumer, 1, 2..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 2)]);
    stage.silent();
    assert_eq!(stage.told(), []);
    stage.unflushed.clear();
    stage.flush(CON);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    let told = stage.told();
    assert!(matches!(told[0], Told::Written(..)), "{told:?}");
    assert_eq!(told[1..], [Told::Ended(consumer, EndReason::Closed)]);
    assert_eq!(stage.got().len(), 4, "the fifth was never shown");
    let account = stage.session.stats().consume;
    assert_eq!((account.received, account.acked, account.requeued), (5, 2, 3));
    assert_eq!(stage.session.consumer_stats(consumer), None);
    stage.channel_close_ok(CON, channel);
    stage.finish();
}

#[test]
fn s48_when_cancel_ok_comes_before_the_last_ack_is_flushed_the_channel_stays_until_it_is() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.unflushed.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.silent();
    assert_eq!(stage.told(), [Told::HandBack(consumer)]);
    stage.unflushed.clear();
    stage.flush(CON);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(
        stage.told(),
        [Told::Written(consumer, 1), Told::Ended(consumer, EndReason::Closed)]
    );
    assert_eq!(stage.session.stats().consume.acked, 1);
    stage.finish();
}

#[test]
fn s48_the_cancel_is_ahead_of_what_is_requeued_so_that_none_of_it_comes_back() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    // As the driver does it: what the application left goes back in the same turn.
    stage.settle_quietly(consumer, 1, 1..=2, Settlement::Requeue);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.expect_frames(CON, &[requeue_multiple(channel, 2)]);
    stage.finish();
}

#[test]
fn s48_what_was_forgotten_is_requeued_at_once_when_the_consumer_closes() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    stage.settle(consumer, 1, 1..=1, Settlement::RequeueLater);
    stage.silent();
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.expect_frames(CON, &[requeue(channel, 1)]);
    // And what is forgotten from here on.
    stage.settle(consumer, 1, 2..=3, Settlement::RequeueLater);
    stage.expect_frames(CON, &[requeue_multiple(channel, 3)]);
    assert_eq!(stage.account(consumer).forgotten, 3);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.expect_channel_close(CON);
    assert_eq!(stage.told().last(), Some(&Told::Ended(consumer, EndReason::Closed)));
    stage.advance(60 * SEC);
}

#[test]
fn s48_at_the_deadline_the_channel_is_closed_and_what_is_in_hand_is_abandoned() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.settle(consumer, 1, 2..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 2)]);
    stage.told();
    stage.advance(30 * SEC - MS);
    stage.silent();
    stage.advance(MS);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    let told = stage.told();
    assert_eq!(told.first(), Some(&Told::Generation(consumer, 2)), "what is in hand is stale");
    assert_eq!(told.last(), Some(&Told::Ended(consumer, EndReason::Closed)));
    let account = stage.session.stats().consume;
    assert_eq!((account.received, account.acked, account.abandoned), (3, 1, 2));
    // Too late, and nobody minds.
    stage.settle(consumer, 1, 1..=3, Settlement::Ack);
    stage.channel_close_ok(CON, channel);
    stage.finish();
}

/// The application is told how much of what it had comes back.
#[test]
fn s48_the_end_says_how_many_deliveries_were_abandoned_since_it_was_asked_for() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=5);
    stage.cut(CON);
    stage.reconnect(CON);
    let (channel, tag) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, channel, 1..=3);
    stage.settle(consumer, 2, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.advance(30 * SEC);
    stage.expect_channel_close(CON);
    let ended = stage.take_events(|event| matches!(event, SessionEvent::ConsumerEnded { .. }));
    match &ended[..] {
        [SessionEvent::ConsumerEnded { abandoned, .. }] => assert_eq!(*abandoned, 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s48_closing_while_it_waits_for_a_connection_ends_it_at_once() {
    let mut stage = Stage::with_retry(config(), true);
    let consumer = stage.open_consumer(&consume("orders"));
    stage.session.close_consumer(consumer, stage.now);
    let opened = Told::Opened(consumer, Err(ConsumeError::Closed));
    let ended = Told::Ended(consumer, EndReason::Closed);
    assert_eq!(stage.told(), [Told::HandBack(consumer), opened, ended]);
    // It is not subscribed when the connection comes.
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    stage.advance(60 * SEC);
    assert_eq!(stage.told(), []);
    stage.finish();
}

#[test]
fn s48_closing_at_each_step_of_a_subscription_closes_its_channel() {
    for step in 0..3 {
        let mut stage = Stage::connected(config());
        let consumer = stage.open_consumer(&consume("orders"));
        let channel = stage.expect_channel_open(CON);
        let mut reply =
            method(channel, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
        if step > 0 {
            stage.feed(CON, &reply);
            stage.expect_qos(CON, channel);
            reply = method(channel, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        }
        if step > 1 {
            stage.feed(CON, &reply);
            let tag = stage.expect_consume(CON, channel).consumer_tag;
            reply = consume_ok(channel, tag.as_str());
            reply.extend(deliveries(channel, 1..=2));
        }
        stage.session.close_consumer(consumer, stage.now);
        assert_eq!(stage.expect_channel_close(CON), (channel, 200), "step {step}");
        let told = stage.told();
        assert!(told.contains(&Told::Opened(consumer, Err(ConsumeError::Closed))), "{told:?}");
        assert_eq!(told.last(), Some(&Told::Ended(consumer, EndReason::Closed)));
        // The reply crosses our close, and is swallowed with all that follows it.
        stage.feed(CON, &reply);
        stage.channel_close_ok(CON, channel);
        assert_eq!((stage.told(), stage.got()), (vec![], vec![]));
        // The number is free, and its next owner counts from 1.
        let (next, channel_again, _) = stage.consuming();
        assert_eq!(channel_again, channel);
        stage.deliver(CON, channel, 1..=1);
        assert_eq!(stage.terms(next), [1, 0, 0, 0, 0, 1, 0]);
        stage.finish();
    }
}

#[test]
fn s48_closing_while_its_backoff_runs_ends_it_once_the_old_channel_is_settled() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.feed(CON, &server_cancel(channel, &tag, true));
    stage.expect_channel_close(CON);
    stage.channel_close_ok(CON, channel);
    let (channel, tag) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, channel, 1..=2);
    stage.feed(CON, &server_cancel(channel, &tag, true));
    stage.told();
    // Cancelled, with two in hand, and waiting for 100 ms.
    stage.session.close_consumer(consumer, stage.now);
    stage.silent();
    assert_eq!(stage.told(), [Told::HandBack(consumer)]);
    stage.advance(SEC);
    stage.silent();
    stage.settle(consumer, 2, 1..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(channel, 2)]);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(
        stage.told(),
        [Told::Written(consumer, 1), Told::Ended(consumer, EndReason::Closed)]
    );
    stage.channel_close_ok(CON, channel);
    stage.finish();
}

#[test]
fn s48_closing_twice_and_after_the_end_is_closing_once() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.session.close_consumer(consumer, stage.now);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.silent();
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.expect_channel_close(CON);
    assert_eq!(stage.told(), [Told::HandBack(consumer), Told::Ended(consumer, EndReason::Closed)]);
    stage.session.close_consumer(consumer, stage.now);
    stage.channel_close_ok(CON, channel);
    assert_eq!(stage.told(), []);
    stage.finish();
}

#[test]
fn s48_a_connection_lost_while_it_closes_ends_it() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.cut(CON);
    let told = stage.told();
    assert_eq!(told.last(), Some(&Told::Ended(consumer, EndReason::Closed)), "{told:?}");
    assert!(told.contains(&Told::Generation(consumer, 2)));
    assert_eq!(stage.session.stats().consume.abandoned, 2);
    stage.reconnect(CON);
    stage.advance(60 * SEC);
    stage.finish();
}

#[test]
fn s48_a_cancel_that_is_never_answered_closes_the_channel_at_its_deadline() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.advance(10 * SEC);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(stage.told().last(), Some(&Told::Ended(consumer, EndReason::Closed)));
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.channel_close_ok(CON, channel);
    stage.finish();
}

#[test]
fn f31_channel_closes_that_cross_are_both_answered_and_the_number_stays_taken_until_ours_is() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    stage.told();
    // The peer closed it, too, before it read ours; half a delivery was under way.
    let delivery = delivery(channel, 1, "late");
    let method_only = wire::decode(&delivery, 4096).unwrap().unwrap().1;
    stage.feed(CON, &delivery[..method_only]);
    stage.reply(CON, channel, channel_close(406, "crossed"));
    match stage.expect_method(CON) {
        (n, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => assert_eq!(n, channel),
        other => panic!("channel.close-ok is due: {other:?}"),
    }
    assert_eq!(stage.told(), []);
    // RabbitMQ would answer 504 to a number that is used before its close-ok.
    let (_, other, _) = stage.consuming();
    assert_ne!(other, channel);
    stage.channel_close_ok(CON, channel);
    let (third, again, _) = stage.consuming();
    assert_eq!(again, channel);
    stage.deliver(CON, channel, 1..=1);
    assert_eq!(stage.got_bodies(), ["1"]);
    assert_eq!(stage.terms(third), [1, 0, 0, 0, 0, 1, 0]);
    stage.finish();
}

#[test]
fn s13_after_the_peers_connection_close_a_consumer_that_closes_writes_nothing() {
    let mut stage = Stage::connected(config());
    let (first, channel, _) = stage.consuming();
    let (second, ..) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.stalled.insert(CON);
    stage.close(CON, 320, "shutdown", (0, 0));
    stage.session.close_consumer(first, stage.now);
    stage.settle(first, 1, 1..=2, Settlement::Ack);
    stage.stalled.clear();
    // The peer panics at anything behind close-ok.
    stage.expect_close_ok(CON);
    assert_eq!(stage.peers[CON].hang_ups, 1);
    let told = stage.told();
    assert!(told.contains(&Told::Ended(first, EndReason::Closed)), "{told:?}");
    assert_eq!(stage.session.stats().consume.abandoned, 2);
    stage.reconnect(CON);
    stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.terms(second), [0; 7]);
    stage.finish();
}
