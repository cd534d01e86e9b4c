//! Consuming without acks: bounded by bytes, at most once: s35, s39, f11.

use crate::words::*;

/// A consumer whose queue holds ten deliveries of [`BODY`], on a connection with heartbeats.
fn narrow(stage: &mut Stage) -> (ConsumerId, u16, String) {
    let mut config = consume_no_ack("orders");
    config.queue_bytes = 10 * weight(stage);
    let consumer = stage.open_consumer(&config);
    if !stage.peers[NOACK].up {
        stage.accept(NOACK, &Broker { tune: (2048, 131_072, 10), ..Broker::default() });
    }
    let (channel, tag) = stage.accept_consumer(NOACK, &config);
    assert_eq!(stage.told(), [Told::Opened(consumer, Ok(()))]);
    (consumer, channel, tag)
}

const BODY: &str = "0123456789012345678901234567890123456789";

/// What one delivery of `BODY` counts.
fn weight(_: &Stage) -> usize {
    // Its body, its properties (none: two octets), and 64.
    BODY.len() + 2 + 64
}

/// Delivers until reading pauses: how many were taken.
fn fill(stage: &mut Stage, channel: u16, first: u64) -> u64 {
    for tag in first.. {
        if stage.feed(NOACK, &delivery(channel, tag, BODY)) == 0 {
            return tag - first;
        }
        assert!(tag < first + 1000, "it never pauses");
    }
    0
}

/// The application takes `count` batches out of the queue.
fn take(stage: &mut Stage, count: usize) {
    for (consumer, batch) in stage.batches.drain(..count).collect::<Vec<_>>() {
        stage.session.handle_consumed(consumer, batch.weight(), stage.now);
    }
    stage.pump();
}

fn reads(stage: &mut Stage) -> bool {
    let id = stage.id(NOACK);
    !stage.session.receive_buffer(id).is_empty()
}

#[test]
fn s35_reading_pauses_at_the_byte_limit_and_resumes_at_half() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = narrow(&mut stage);
    assert_eq!(fill(&mut stage, channel, 1), 11);
    take(&mut stage, 5);
    assert!(!reads(&mut stage), "six are left");
    take(&mut stage, 1);
    assert!(reads(&mut stage), "five are left");
    assert_eq!(fill(&mut stage, channel, 12), 6);
    let bodies: u64 = 17 * BODY.len() as u64;
    let account = stage.account(consumer);
    assert_eq!((account.received, account.acked, account.received_bytes), (17, 17, bodies));
    stage.finish();
}

#[test]
fn s35_deliveries_with_empty_bodies_count_too() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = narrow(&mut stage);
    let empty: Vec<u8> = (1..=17).flat_map(|tag| delivery(channel, tag, "")).collect();
    stage.feed(NOACK, &empty);
    assert!(!reads(&mut stage));
    take(&mut stage, 1);
    assert!(reads(&mut stage));
    stage.finish();
}

#[test]
fn s35_while_reading_is_paused_heartbeats_go_on_and_silence_is_not_counted() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = narrow(&mut stage);
    fill(&mut stage, channel, 1);
    for _ in 0..20 {
        stage.advance(5 * SEC);
        assert_eq!(stage.next(NOACK), Wrote::Heartbeat);
        stage.silent();
    }
    assert_eq!(stage.peers[NOACK].hang_ups, 0);
    take(&mut stage, 11);
    // From here on it counts, and counts from here.
    stage.advance(20 * SEC - MS);
    assert_eq!(stage.peers[NOACK].hang_ups, 0);
    stage.advance(MS);
    assert_eq!(stage.peers[NOACK].hang_ups, 1);
}

#[test]
fn s35_while_reading_is_paused_replies_are_not_overdue_and_have_their_whole_time_again() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = narrow(&mut stage);
    fill(&mut stage, channel, 1);
    let second = stage.open_consumer(&consume_no_ack("second"));
    let opening = stage.expect_channel_open(NOACK);
    let heartbeats = |stage: &mut Stage, count| {
        for _ in 0..count {
            assert_eq!(stage.next(NOACK), Wrote::Heartbeat);
        }
        stage.silent();
    };
    stage.advance(20 * SEC - MS);
    take(&mut stage, 11);
    // A reply that waits in the socket must be read before its deadline is looked at again.
    stage.advance(MS);
    heartbeats(&mut stage, 4);
    stage.advance(9 * SEC);
    heartbeats(&mut stage, 1);
    assert_eq!(stage.peers[NOACK].hang_ups, 0);
    stage.channel_open_ok(NOACK, opening);
    let consume = stage.expect_consume(NOACK, opening);
    stage.feed(NOACK, &consume_ok(opening, consume.consumer_tag.as_str()));
    assert_eq!(stage.told(), [Told::Opened(second, Ok(()))]);
    stage.finish();
}

#[test]
fn s35_a_slow_no_ack_consumer_pauses_no_other_connection() {
    let mut stage = Stage::connected(config());
    let (consumer, acking, _) = stage.consuming();
    let (_, channel, _) = narrow(&mut stage);
    fill(&mut stage, channel, 1);
    stage.batches.clear();
    stage.deliver(CON, acking, 1..=3);
    assert_eq!(stage.got_tags(), (1, vec![1, 2, 3]));
    stage.settle(consumer, 1, 1..=3, Settlement::Ack);
    stage.expect_frames(CON, &[ack_multiple(acking, 3)]);
    stage.finish();
}

#[test]
fn s35_reading_resumes_when_the_last_full_queue_has_room() {
    let mut stage = Stage::connected(config());
    let (_, first, _) = narrow(&mut stage);
    let (_, second, _) = narrow(&mut stage);
    // Both in one read.
    let mut bytes: Vec<u8> = (1..=12).flat_map(|tag| delivery(first, tag, BODY)).collect();
    bytes.extend((1..=12).flat_map(|tag| delivery(second, tag, BODY)));
    stage.feed(NOACK, &bytes);
    assert_eq!(stage.batches.len(), 2);
    assert!(!reads(&mut stage));
    take(&mut stage, 1);
    assert!(!reads(&mut stage));
    take(&mut stage, 1);
    assert!(reads(&mut stage));
    stage.finish();
}

#[test]
fn s35_with_one_connection_the_full_queue_pauses_that_one() {
    let mut config = config();
    config.connections = 1;
    let mut stage = Stage::connected(config);
    let mut narrow = consume_no_ack("orders");
    narrow.queue_bytes = 10;
    let consumer = stage.open_consumer(&narrow);
    let (channel, _) = stage.accept_consumer(0, &narrow);
    assert_eq!(stage.told(), [Told::Opened(consumer, Ok(()))]);
    stage.feed(0, &delivery(channel, 1, BODY));
    assert_eq!(stage.feed(0, &delivery(channel, 2, BODY)), 0);
    take(&mut stage, 1);
    assert!(stage.feed(0, &delivery(channel, 2, BODY)) > 0);
    stage.finish();
}

#[test]
fn s35_with_one_connection_no_confirm_is_overdue_while_reading_is_paused() {
    let mut config = config();
    config.connections = 1;
    let mut stage = Stage::connected(config);
    let mut orders = to_queue("orders", PublishMode::Confirm);
    orders.confirm_timeout = Some(5 * SEC);
    let (producer, lane) = stage.warmed_up(orders);
    let mut narrow = consume_no_ack("orders");
    narrow.queue_bytes = 10;
    stage.open_consumer(&narrow);
    let (channel, _) = stage.accept_consumer(0, &narrow);
    stage.publish(producer, "hello");
    stage.expect_publishes(0, &["hello"]);
    stage.feed(0, &delivery(channel, 1, BODY));
    stage.advance(60 * SEC);
    stage.silent();
    // Its whole time again, from here on.
    take(&mut stage, 1);
    stage.advance(5 * SEC - MS);
    stage.silent();
    stage.ack(0, lane, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn s35_a_queue_that_is_full_when_its_connection_is_lost_pauses_the_next_one_with_its_next_delivery()
{
    let mut stage = Stage::connected(config());
    let (_, channel, _) = narrow(&mut stage);
    fill(&mut stage, channel, 1);
    stage.cut(NOACK);
    stage.told();
    stage.reconnect(NOACK);
    let mut config = consume_no_ack("orders");
    config.queue_bytes = 10 * weight(&stage);
    let (channel, _) = stage.accept_consumer(NOACK, &config);
    assert_eq!(stage.told(), [resumed("orders")]);
    assert_eq!(fill(&mut stage, channel, 1), 1);
    // What came before the loss is still there.
    assert_eq!(stage.batches.len(), 12);
    take(&mut stage, 7);
    assert!(reads(&mut stage));
    stage.finish();
}

#[test]
fn s31_deliveries_in_the_same_read_as_the_end_of_their_channel_are_handed_over() {
    for cancelled in [true, false] {
        let mut stage = Stage::connected(config());
        let (consumer, channel, tag) = stage.subscribed(&consume_no_ack("orders"));
        let mut bytes = deliveries(channel, 1..=3);
        if cancelled {
            bytes.extend(server_cancel(channel, &tag, true));
            stage.feed(NOACK, &bytes);
        } else {
            stage.feed_and_close(NOACK, bytes, channel, 404);
        }
        assert_eq!(stage.got_bodies(), ["1", "2", "3"]);
        assert_eq!(stage.account(consumer).acked, 3);
    }
}

#[test]
fn s31_a_queue_that_is_full_when_its_consumer_is_cancelled_pauses_nobody() {
    let mut stage = Stage::connected(config());
    let (_, other, _) = stage.subscribed(&consume_no_ack("other"));
    let (_, channel, tag) = narrow(&mut stage);
    let mut bytes: Vec<u8> = (1..=12).flat_map(|tag| delivery(channel, tag, BODY)).collect();
    bytes.extend(server_cancel(channel, &tag, true));
    stage.feed(NOACK, &bytes);
    take(&mut stage, 1);
    assert!(reads(&mut stage));
    stage.deliver(NOACK, other, 1..=1);
    assert_eq!(stage.got_bodies(), ["1"]);
}

#[test]
fn s48_closing_a_consumer_whose_queue_is_full_waits_for_nobody() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = narrow(&mut stage);
    fill(&mut stage, channel, 1);
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(NOACK, channel), tag);
    // What is on its way can be read, and is handed over: nobody else gets it.
    let mut bytes: Vec<u8> = (12..=40).flat_map(|tag| delivery(channel, tag, BODY)).collect();
    bytes.extend(cancel_ok(channel, &tag));
    for piece in bytes.chunks(500) {
        assert_eq!(stage.feed(NOACK, piece), piece.len());
    }
    assert_eq!(stage.got().len(), 40);
    assert_eq!(stage.expect_channel_close(NOACK), (channel, 200));
    assert_eq!(stage.told(), [Told::Ended(consumer, EndReason::Closed)]);
    let consumed = stage.session.stats().consume;
    assert_eq!((consumed.received, consumed.acked, consumed.abandoned), (40, 40, 0));
    stage.finish();
}

#[test]
fn s35_settling_a_delivery_of_a_no_ack_consumer_sends_nothing() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.subscribed(&consume_no_ack("orders"));
    stage.deliver(NOACK, channel, 1..=3);
    stage.settle(consumer, 1, 1..=3, Settlement::Ack);
    assert_eq!(stage.told(), [Told::Written(consumer, 1)]);
    assert_eq!(stage.terms(consumer), [3, 3, 0, 0, 0, 0, 0]);
    stage.finish();
}

/// Declared on another connection, it would answer 405 there.
#[test]
fn s39_an_exclusive_queue_is_consumed_on_the_connection_that_declared_it() {
    let mut stage = Stage::connected(config());
    let mut queue = QueueConfig::new("mine").unwrap();
    queue.exclusive = true;
    stage.session.declare_queue(queue, stage.now).unwrap();
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    assert!(stage.expect_declare(CON).1.exclusive);
    stage.declare_ok(CON, control, "mine");
    let mine = consume_no_ack("mine");
    let consumer = stage.open_consumer(&mine);
    let (channel, _) = stage.accept_consumer(CON, &mine);
    assert_eq!(stage.told(), [Told::Opened(consumer, Ok(()))]);
    stage.deliver(CON, channel, 1..=2);
    assert_eq!(stage.got_bodies(), ["1", "2"]);
    assert!(!stage.peers[NOACK].dialling, "nobody needs that one");
    stage.finish();
}
