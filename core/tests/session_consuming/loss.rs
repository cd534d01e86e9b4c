//! Losses and what becomes of deliveries: f11, s15, s44, s45.

use crate::words::*;

/// Everything that is whole counts, and nothing that is not.
#[test]
fn f11_a_cut_at_each_byte_of_two_deliveries() {
    let bytes = |channel| {
        let mut bytes = delivery(channel, 1, "first");
        let one = bytes.len();
        bytes.extend(delivery(channel, 2, "second"));
        (bytes, one)
    };
    let (all, one) = bytes(1);
    for at in 0..=all.len() {
        let whole = usize::from(at >= one) + usize::from(at >= all.len());
        for no_ack in [false, true] {
            let mut orders = consume("orders");
            orders.no_ack = no_ack;
            let c = if no_ack { NOACK } else { CON };
            let mut stage = Stage::connected(config());
            let (consumer, channel, _) = stage.subscribed(&orders);
            stage.feed(c, &all[..at]);
            assert_eq!(channel, 1);
            stage.cut(c);
            assert_eq!(stage.got_bodies(), ["first", "second"][..whole], "cut at {at}");
            let account = stage.account(consumer);
            assert_eq!(account.received, whole as u64);
            assert_eq!(if no_ack { account.acked } else { account.abandoned }, whole as u64);
            // What follows on the next channel is whole, and counts from 1.
            stage.reconnect(c);
            let (channel, _) = stage.accept_consumer(c, &orders);
            stage.feed(c, &bytes(channel).0);
            assert_eq!(stage.got_bodies(), ["first", "second"], "cut at {at}");
            stage.finish();
        }
    }
}

/// Deliveries that the driver has not fetched when the connection goes are purged if the broker
/// delivers them again, and kept if it does not.
#[test]
fn s15_what_was_not_handed_over_is_purged_only_if_it_comes_again() {
    for no_ack in [false, true] {
        let mut orders = consume("orders");
        orders.no_ack = no_ack;
        let c = if no_ack { NOACK } else { CON };
        let mut stage = Stage::connected(config());
        let (consumer, channel, _) = stage.subscribed(&orders);
        let bytes = deliveries(channel, 1..=3);
        let id = stage.id(c);
        stage.session.receive_buffer(id)[..bytes.len()].copy_from_slice(&bytes);
        stage.session.handle_received(id, bytes.len(), stage.now);
        // No output is drained in between.
        stage.peers[c].up = false;
        stage.session.handle_disconnected(id, Loss::Eof, stage.now);
        let expected: &[&str] = if no_ack { &["1", "2", "3"] } else { &[] };
        assert_eq!(stage.got_bodies(), expected);
        assert!(stage.told().contains(&Told::Generation(consumer, 2)));
        let account = stage.account(consumer);
        assert_eq!((account.acked, account.abandoned), if no_ack { (3, 0) } else { (0, 3) });
    }
}

#[test]
fn s15_a_channel_error_ends_one_consumer_and_nothing_else_notices() {
    let mut stage = Stage::connected(config());
    let (first, channel, _) = stage.consuming();
    let (second, other, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.deliver(CON, other, 1..=2);
    stage.got();
    // An ack is encoded and half written: the frame is finished before close-ok.
    stage.stalled.insert(CON);
    stage.settle(first, 1, 1..=1, Settlement::Ack);
    stage.write(CON, 10);
    stage.close_channel(CON, channel, 406, "unknown delivery tag", (60, 80));
    stage.stalled.clear();
    stage.pump();
    assert_eq!(stage.peers[CON].discarded, [ack(channel, 1)]);
    stage.expect_channel_close_ok(CON, channel);
    let why = interrupted("orders", refused(406, "unknown delivery tag"));
    let told = stage.told();
    assert_eq!(told[0], Told::Generation(first, 3), "{told:?}");
    assert!(told.contains(&why), "{told:?}");
    assert_eq!(stage.terms(first), [2, 0, 0, 0, 2, 0, 0]);
    let (again, _) = stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(again, channel);
    assert_eq!(stage.told(), [resumed("orders")]);
    stage.settle(second, 2, 1..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(other, 2)]);
    assert_eq!(stage.terms(second), [2, 2, 0, 0, 0, 0, 0]);
    stage.finish();
}

#[test]
fn s15_losing_the_publishing_connection_concerns_no_consumer() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.cut(PUB);
    assert_eq!(stage.told(), []);
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(channel, 2)]);
    stage.finish();
}

/// RabbitMQ's delivery-ack timeout: 406, class 0 and method 0.
#[test]
fn s44_after_an_ack_timeout_it_is_reopened_and_what_is_in_hand_is_stale() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.got();
    let text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out";
    stage.refuse(CON, channel, 406, text);
    assert_eq!(
        stage.told(),
        [Told::Generation(consumer, 2), interrupted("orders", refused(406, text))]
    );
    assert_eq!(stage.terms(consumer), [2, 0, 0, 0, 2, 0, 0]);
    let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.settle(consumer, 1, 1..=2, Settlement::Ack);
    stage.told();
    stage.feed(CON, &redelivery(channel, 1, "1", true));
    assert_eq!(stage.got_tags(), (2, vec![1]));
    stage.silent();
    stage.finish();
}

/// Such a close is no refusal: a consumer that ends when it is refused goes on.
#[test]
fn s44_after_an_ack_timeout_a_consumer_that_ends_when_cancelled_is_reopened_too() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.when_cancelled = lavinmq_core::WhenCancelled::End;
    let (_, channel, _) = stage.subscribed(&orders);
    stage.refuse(CON, channel, 406, "timed out");
    stage.accept_consumer(CON, &orders);
    assert_eq!(stage.told().last(), Some(&resumed("orders")));
    stage.finish();
}

#[test]
fn s45_redelivered_is_passed_on_with_the_properties_that_count() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    let mut headers = FieldTable::default();
    headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(7));
    let properties = Properties::default().with_headers(headers);
    let mut bytes = Vec::new();
    wire::put_deliver(&mut bytes, channel, "", 1, true, "logs", "a.b");
    wire::put_content_header(&mut bytes, channel, 0, &properties);
    stage.feed(CON, &bytes);
    stage.deliver(CON, channel, 2..=2);
    let (_, batch) = &stage.batches[0];
    assert!(batch.redelivered(0) && !stage.batches[1].1.redelivered(0));
    assert_eq!((batch.exchange(0), batch.routing_key(0), batch.body(0)), ("logs", "a.b", &b""[..]));
    assert_eq!(wire::decode_properties(batch.raw_properties(0)), Ok(properties));
    stage.finish();
}

#[test]
fn s8_a_delivery_tag_out_of_order_is_a_protocol_error_and_counts_as_nothing() {
    for tag in [0, 2, u64::MAX] {
        let mut stage = Stage::connected(config());
        let (consumer, channel, _) = stage.consuming();
        stage.feed(CON, &delivery(channel, tag, "what?"));
        assert_eq!(stage.expect_close(CON), 503);
        assert_eq!(stage.got(), []);
        let account = stage.account(consumer);
        assert_eq!((account.received, account.received_bytes), (0, 0));
        // s14: nothing that follows counts.
        stage.feed(CON, &delivery(channel, 1, "late"));
        assert_eq!((stage.got(), stage.account(consumer).received), (vec![], 0));
        stage.close_ok(CON);
        stage.reconnect(CON);
        let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
        stage.deliver(CON, channel, 1..=1);
        assert_eq!(stage.got_bodies(), ["1"]);
        stage.finish();
    }
}

/// Whether the delivery is whole in one read or comes in pieces, the limit on bodies is the same.
#[test]
fn f20_a_body_over_the_limit_is_refused_in_one_read_as_in_pieces() {
    for pieces in [1, 7] {
        let mut config = config();
        config.limits.body_max = 5;
        let mut stage = Stage::connected(config);
        let (_, channel, _) = stage.subscribed(&consume("orders"));
        let bytes = delivery(channel, 1, "123456");
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            stage.feed(CON, piece);
        }
        assert!(stage.got_bodies().is_empty());
        assert_eq!(stage.expect_close(CON), 501);
    }
}
