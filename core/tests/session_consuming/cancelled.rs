//! The broker cancels a consumer: s31.

use lavinmq_core::WhenCancelled;

use crate::words::*;

#[test]
fn s31_a_server_cancel_resubscribes_on_a_new_channel_with_a_new_tag() {
    let mut stage = Stage::connected(config());
    let (consumer, old, old_tag) = stage.consuming();
    stage.deliver(CON, old, 1..=3);
    stage.feed(CON, &server_cancel(old, &old_tag, true));
    assert_eq!(stage.told(), [interrupted("orders", Interruption::Cancelled)]);
    let (new, new_tag) = stage.accept_consumer(CON, &consume("orders"));
    assert_ne!((new, &new_tag), (old, &old_tag));
    assert_ne!(new_tag, old_tag);
    assert_eq!(stage.told(), [resumed("orders")]);
    stage.got();

    // The old channel stays until what is in hand is settled, and both are settled on their own.
    stage.deliver(CON, new, 1..=2);
    assert_eq!(stage.got_tags(), (2, vec![1, 2]));
    stage.settle(consumer, 2, 1..=2, Settlement::Reject);
    assert_eq!(
        stage.next(CON),
        Wrote::Nack { channel: new, tag: 2, multiple: true, requeue: false }
    );
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    assert_eq!(stage.next(CON), ack_multiple(old, 2));
    stage.silent();
    stage.settle(consumer, 1, 3..=3, Settlement::Ack);
    assert_eq!(stage.next(CON), ack(old, 3));
    assert_eq!(stage.expect_channel_close(CON), (old, 200));
    stage.channel_close_ok(CON, old);
    assert_eq!(stage.terms(consumer), [5, 3, 0, 2, 0, 0, 0]);
    stage.deliver(CON, new, 3..=3);
    assert_eq!(stage.got_tags(), (2, vec![3]));
    stage.finish();
}

#[test]
fn s31_what_is_requeued_because_it_came_late_is_no_settle_of_the_applications() {
    let mut stage = Stage::connected(config());
    let (consumer, old, tag) = stage.consuming();
    stage.deliver(CON, old, 1..=1);
    stage.feed(CON, &server_cancel(old, &tag, true));
    stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, old, 2..=2);
    assert_eq!(stage.next(CON), requeue(old, 2));
    assert_eq!(stage.terms(consumer), [2, 0, 1, 0, 0, 1, 0]);
    let told = stage.told();
    assert!(!told.iter().any(|told| matches!(told, Told::Written(..))), "{told:?}");
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    assert_eq!(stage.told(), []);
    stage.stalled.clear();
    assert_eq!(stage.told().first(), Some(&Told::Written(consumer, 1)));
}

#[test]
fn s31_an_ack_on_its_way_on_the_old_channel_counts_although_the_new_one_is_closed() {
    let mut stage = Stage::connected(config());
    let (consumer, old, tag) = stage.consuming();
    stage.deliver(CON, old, 1..=1);
    stage.feed(CON, &server_cancel(old, &tag, true));
    let (new, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.pending(CON);
    stage.reply(CON, new, channel_close(406, "no"));
    stage.stalled.clear();
    stage.pump();
    assert_eq!(stage.next(CON), ack(old, 1));
    assert_eq!(stage.terms(consumer), [1, 1, 0, 0, 0, 0, 0]);
    assert!(stage.told().contains(&Told::Written(consumer, 1)));
}

#[test]
fn s31_cancel_ok_is_sent_when_the_broker_asks_for_it() {
    let mut stage = Stage::connected(config());
    let (_, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.feed(CON, &server_cancel(channel, &tag, false));
    assert_eq!(stage.expect_cancel_ok(CON, channel), tag);
    stage.accept_consumer(CON, &consume("orders"));
    stage.finish();
}

#[test]
fn s31_cancel_ok_is_sent_to_a_broker_that_advertises_that_it_takes_it() {
    let mut stage = Stage::connected(config());
    stage.cut(CON);
    stage.advance(MS);
    // The handshake, with the capability.
    stage.connect(CON);
    assert_eq!(stage.next(CON), Wrote::ProtocolHeader);
    let mut capabilities = FieldTable::default();
    capabilities.insert("accept_consumer_cancel_ok".into(), AMQPValue::Boolean(true));
    let mut properties = FieldTable::default();
    properties.insert("product".into(), AMQPValue::LongString("RabbitMQ".into()));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: properties,
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    };
    stage.reply(CON, 0, AMQPClass::Connection(connection::AMQPMethod::Start(start)));
    stage.expect_start_ok(CON);
    let tune = connection::Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
    stage.reply(CON, 0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
    stage.expect_tune_ok(CON);
    stage.expect_connection_open(CON);
    stage.open_ok(CON);

    let (_, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.feed(CON, &server_cancel(channel, &tag, true));
    assert_eq!(stage.expect_cancel_ok(CON, channel), tag);
    stage.accept_consumer(CON, &consume("orders"));
    stage.finish();
}

#[test]
fn s31_what_still_arrives_on_a_cancelled_channel_is_requeued() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.got();
    stage.feed(CON, &server_cancel(channel, &tag, true));
    let (new, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, channel, 3..=4);
    stage.expect_frames(CON, &[requeue(channel, 3), requeue(channel, 4)]);
    assert_eq!(stage.got(), []);
    assert_eq!(stage.terms(consumer), [4, 0, 2, 0, 0, 2, 0]);
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(channel, 2)]);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    stage.deliver(CON, new, 1..=1);
    assert_eq!(stage.got_tags(), (2, vec![1]));
    stage.finish();
}

#[test]
fn s31_a_consumer_that_is_told_to_ends_with_the_reason_once_what_is_in_hand_is_settled() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.when_cancelled = WhenCancelled::End;
    let (consumer, channel, tag) = stage.subscribed(&orders);
    let mut bytes = deliveries(channel, 1..=2);
    bytes.extend(server_cancel(channel, &tag, true));
    stage.feed(CON, &bytes);
    assert_eq!(stage.got_tags(), (1, vec![1, 2]));
    stage.silent();
    assert_eq!(stage.told(), []);
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(channel, 2)]);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(
        stage.told(),
        [Told::Written(consumer, 1), Told::Ended(consumer, EndReason::Cancelled)]
    );
    stage.advance(60 * SEC);
}

#[test]
fn s31_a_race_with_our_own_cancel_is_no_error() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    stage.feed(CON, &server_cancel(channel, &tag, true));
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(stage.told(), [Told::HandBack(consumer), Told::Ended(consumer, EndReason::Closed)]);
    // The broker answers both.
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.channel_close_ok(CON, channel);
    assert_eq!(stage.told(), []);
    stage.advance(60 * SEC);
    stage.finish();
}

#[test]
fn s31_a_cancel_before_consume_ok_subscribes_again() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.feed(CON, &server_cancel(channel, &tag, true));
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    stage.channel_close_ok(CON, channel);
    let (channel, tag) = stage.accept_consume(CON, &consume("orders"));
    stage.told();
    stage.feed(CON, &server_cancel(channel, &tag, true));
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    assert_eq!(
        stage.told(),
        [Told::Generation(consumer, 3), interrupted("orders", Interruption::Cancelled)]
    );
    stage.feed(CON, &consume_ok(channel, &tag));
    stage.channel_close_ok(CON, channel);
    stage.advance(100 * MS);
    stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.told(), [resumed("orders")]);
    stage.finish();
}

/// A queue that cancels its consumer again and again, each time after a delivery.
#[test]
fn s31_the_backoff_grows_while_a_consumer_flaps_and_is_forgotten_once_it_has_stood() {
    let mut stage = Stage::connected(config());
    let orders = consume("orders");
    let (consumer, mut channel, mut tag) = stage.subscribed(&orders);
    let mut generation = 1;
    let mut flap = |stage: &mut Stage, wait: u32| {
        stage.deliver(CON, channel, 1..=1);
        stage.settle(consumer, generation, 1..=1, Settlement::Ack);
        stage.expect_frames(CON, &[ack(channel, 1)]);
        stage.feed(CON, &server_cancel(channel, &tag, true));
        assert_eq!(stage.expect_channel_close(CON), (channel, 200));
        stage.channel_close_ok(CON, channel);
        if wait > 0 {
            stage.advance(wait * MS - MS);
            stage.silent();
            stage.advance(MS);
        }
        (channel, tag) = stage.accept_consumer(CON, &orders);
        generation += 1;
    };
    for wait in [0, 100, 200, 400] {
        flap(&mut stage, wait);
    }
    stage.advance(10 * SEC);
    flap(&mut stage, 0);
    stage.finish();
}

#[test]
fn s31_when_the_broker_closes_an_old_channel_those_before_it_are_closed_and_the_new_one_stays() {
    let mut stage = Stage::connected(config());
    let (consumer, first, tag) = stage.consuming();
    stage.deliver(CON, first, 1..=1);
    stage.feed(CON, &server_cancel(first, &tag, true));
    let (second, tag) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, second, 1..=2);
    stage.feed(CON, &server_cancel(second, &tag, true));
    stage.advance(100 * MS);
    let (third, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, third, 1..=3);
    stage.told();
    // Generations are valid from one number on: the first goes with the second.
    stage.reply(CON, second, channel_close(406, "timeout"));
    let (mut closed, mut answered) = (None, false);
    for _ in 0..2 {
        match stage.expect_method(CON) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Close(_))) => closed = Some(n),
            (n, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => answered = n == second,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((closed, answered), (Some(first), true));
    assert_eq!(stage.told(), [Told::Generation(consumer, 3)]);
    assert_eq!(stage.terms(consumer), [6, 0, 0, 0, 3, 3, 0]);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.settle(consumer, 3, 1..=3, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(third, 3)]);
    stage.finish();
}

/// Acks of the channel that stands are not lost with those of one that does not.
#[test]
fn s31_when_an_old_channel_is_closed_acks_on_the_new_one_still_count() {
    let mut stage = Stage::connected(config());
    let (consumer, old, tag) = stage.consuming();
    stage.deliver(CON, old, 1..=1);
    stage.feed(CON, &server_cancel(old, &tag, true));
    let (new, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, new, 1..=2);
    stage.stalled.insert(CON);
    stage.settle(consumer, 2, 1..=2, Settlement::Ack);
    // Encoded, and not written.
    assert!(stage.pending(CON) > 0);
    assert_eq!(stage.terms(consumer), [3, 0, 0, 0, 0, 1, 2]);
    stage.reply(CON, old, channel_close(406, "timeout"));
    assert_eq!(stage.terms(consumer), [3, 0, 0, 0, 1, 0, 2]);
    stage.stalled.clear();
    stage.expect_frames(CON, &[ack_multiple(new, 2)]);
    stage.expect_channel_close_ok(CON, old);
    assert_eq!(stage.terms(consumer), [3, 2, 0, 0, 1, 0, 0]);
}

#[test]
fn s31_what_is_in_hand_on_the_old_channel_can_be_settled_although_the_new_one_is_refused() {
    let mut stage = Stage::connected(config());
    let (consumer, old, tag) = stage.consuming();
    stage.deliver(CON, old, 1..=2);
    stage.feed(CON, &server_cancel(old, &tag, true));
    let (new, _) = stage.accept_consume(CON, &consume("orders"));
    stage.refuse(CON, new, 404, "no queue");
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    assert_eq!(stage.next(CON), ack_multiple(old, 2));
    assert_eq!(stage.terms(consumer), [2, 2, 0, 0, 0, 0, 0]);
}
