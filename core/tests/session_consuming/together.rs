//! What arrives in one read: whose content is whose, which deliveries share a batch, in which order
//! they are handed out, and that the end of one consumer takes nothing from another.

use crate::words::*;

/// From this length on a body is no part of a batch with others.
const LARGE: usize = 16 << 10;

/// The method, the header and the body of a delivery, apart.
fn parts(channel: u16, tag: u64, body: &[u8]) -> [Vec<u8>; 3] {
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    wire::put_deliver(&mut parts[0], channel, "", tag, false, "", "orders");
    wire::put_content_header(&mut parts[1], channel, body.len() as u64, &Properties::default());
    wire::put_body(&mut parts[2], channel, body, 131_072);
    parts
}

#[test]
fn f02_content_of_two_channels_may_alternate_frame_by_frame() {
    // Which consumer's frame comes next: each has three.
    let orders = [[0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]];
    for (order, empty) in orders.into_iter().flat_map(|order| [(order, false), (order, true)]) {
        let mut stage = Stage::connected(config());
        let (_, one, _) = stage.subscribed(&consume("one"));
        let (_, two, _) = stage.subscribed(&consume("two"));
        let first = if empty { "" } else { "for one" };
        let both = [parts(one, 1, first.as_bytes()), parts(two, 1, b"for two")];
        let mut frames = both.map(Vec::from);
        let bytes: Vec<u8> = order.iter().flat_map(|&who: &usize| frames[who].remove(0)).collect();
        stage.feed(CON, &bytes);
        let mut bodies = stage.got_bodies();
        bodies.sort();
        assert_eq!(bodies, [first, "for two"], "{order:?}");
        stage.finish();
    }
}

/// A consumer whose connection is read 64 KiB at a time, since a read has filled the space; its
/// channel, on a new one of which tags begin at 1.
fn wide_reads(stage: &mut Stage) -> (ConsumerId, u16) {
    let (_, channel, _) = stage.subscribed(&consume("filler"));
    stage.feed(CON, &delivery(channel, 1, &"x".repeat(200_000)));
    assert_eq!(stage.got_bodies().len(), 1);
    let (consumer, channel, _) = stage.consuming();
    (consumer, channel)
}

#[test]
fn a_large_body_has_a_batch_of_its_own_and_the_order_stays() {
    for length in [LARGE - 1, LARGE] {
        for chunk in [usize::MAX, 1000] {
            let mut stage = Stage::connected(config());
            let (_, channel) = wide_reads(&mut stage);
            let mut bytes = deliveries(channel, 1..=2);
            for part in parts(channel, 3, &vec![b'x'; length]) {
                bytes.extend(part);
            }
            bytes.extend(deliveries(channel, 4..=5));
            stage.chunk = chunk;
            stage.feed(CON, &bytes);
            stage.pump();
            let batches: Vec<_> = stage.batches.drain(..).map(|(_, batch)| batch).collect();
            let tags = batches.iter().flat_map(|batch| (0..batch.len()).map(|at| batch.tag(at)));
            assert_eq!(tags.collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{length} {chunk}");
            let with = batches.iter().find(|batch| (0..batch.len()).any(|at| batch.tag(at) == 3));
            let with = with.unwrap();
            let at = (0..with.len()).find(|&at| with.tag(at) == 3).unwrap();
            assert_eq!(with.body(at).len(), length);
            // Only then is it shared, and not copied, by who keeps it.
            let shared = with.body_bytes(at).as_ptr() == with.body(at).as_ptr();
            assert_eq!(shared, length == LARGE, "{length} {chunk}");
            assert!(length < LARGE || with.len() == 1);
        }
    }
}

#[test]
fn a_batch_has_32_kib_at_most_and_deliveries_in_one_read_share_one() {
    let mut stage = Stage::connected(config());
    let (_, channel) = wide_reads(&mut stage);
    let bytes: Vec<u8> =
        (1..=60).flat_map(|tag| delivery(channel, tag, &"y".repeat(1000))).collect();
    stage.feed(CON, &bytes);
    stage.pump();
    let sizes: Vec<_> = stage.batches.iter().map(|(_, batch)| batch.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 60);
    // 1,002 bytes each, and their names once.
    assert!(sizes.iter().all(|&size| size <= 32) && sizes.contains(&32), "{sizes:?}");
    let (_, tags) = stage.got_tags();
    assert!(tags.into_iter().eq(1..=60));
}

#[test]
fn a_body_of_exactly_the_limit_is_delivered() {
    for chunk in [usize::MAX, 7] {
        let mut config = config();
        config.limits.body_max = 5;
        let mut stage = Stage::connected(config);
        let (_, channel, _) = stage.consuming();
        stage.chunk = chunk;
        stage.feed(CON, &delivery(channel, 1, "12345"));
        assert_eq!(stage.got_bodies(), ["12345"]);
        stage.finish();
    }
}

#[test]
fn s48_a_consumer_that_ends_takes_neither_deliveries_nor_settlements_from_another() {
    let mut stage = Stage::connected(config());
    let (one, channel_one, tag) = stage.subscribed(&consume("one"));
    let (two, channel_two, _) = stage.subscribed(&consume("two"));
    stage.deliver(CON, channel_two, 1..=1);
    let (generation, _) = stage.got_tags();
    stage.session.close_consumer(one, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel_one), tag);
    // Settled, not written yet; then a delivery and the other one's end in one read.
    stage.settle_quietly(two, generation, 1..=1, Settlement::Ack);
    let mut bytes = delivery(channel_two, 2, "2");
    bytes.extend(cancel_ok(channel_one, &tag));
    stage.feed(CON, &bytes);
    assert_eq!(stage.got_bodies(), ["2"]);
    let mut frames = vec![stage.next(CON), stage.next(CON)];
    frames.retain(|frame| *frame == ack(channel_two, 1));
    assert_eq!(frames.len(), 1, "and the other one is channel.close");
    assert!(stage.told().contains(&Told::Ended(one, EndReason::Closed)));
    stage.finish();
}

/// A broker that gets a settlement after all counts it; the client cannot know, and says so.
#[test]
fn s48_settlements_encoded_and_not_written_when_a_consumer_ends_are_abandoned() {
    let mut config = config();
    config.deadlines.shutdown = 5 * SEC;
    let mut stage = Stage::connected(config);
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    let (generation, _) = stage.got_tags();
    stage.stalled.insert(CON);
    stage.settle(consumer, generation, 1..=2, Settlement::Ack);
    stage.pending(CON);
    stage.session.shutdown(60 * SEC, stage.now);
    stage.advance(5 * SEC);
    assert!(stage.told().contains(&Told::Ended(consumer, EndReason::ClientClosed)));
    let account = stage.session.stats().consume;
    assert_eq!((account.acked, account.abandoned, account.settling), (0, 3, 0));
    assert_eq!(stage.session.report().abandoned, 3);
}

/// What was begun before our own close and goes on after it does not count (s14).
#[test]
fn s14_a_delivery_that_our_close_cuts_in_two_is_not_handed_out() {
    for (cut, body) in [(1, "late"), (2, "late"), (1, "")] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let parts = parts(channel, 1, body.as_bytes());
        stage.feed(CON, &parts[..cut].concat());
        // A heartbeat on a channel: we close.
        let mut bytes = Vec::new();
        wire::put_frame(&mut bytes, wire::FrameKind::Heartbeat, channel, |_| {});
        stage.feed(CON, &bytes);
        assert_eq!(stage.expect_close(CON), 501);
        stage.feed(CON, &parts[cut..].concat());
        assert!(stage.got().is_empty(), "the broker delivers it again");
        stage.close_ok(CON);
        stage.reconnect(CON);
        stage.accept_consumer(CON, &consume("orders"));
        stage.finish();
    }
}

/// Large enough for a batch of its own, which is handed out before the read ends, or gathered until
/// then.
#[test]
fn s15_a_channel_that_closes_in_the_same_read_takes_no_delivery_from_another_consumer() {
    for length in [1, LARGE] {
        for first in [true, false] {
            let mut stage = Stage::connected(config());
            let (one, channel_one, _) = stage.subscribed(&consume("one"));
            let (two, channel_two, _) = stage.subscribed(&consume("two"));
            // The channel that closes is the older one, or the newer one.
            let (closes, closed, stays) =
                if first { (one, channel_one, two) } else { (two, channel_two, one) };
            let other = if first { channel_two } else { channel_one };
            let mut bytes = parts(other, 1, &vec![b'x'; length]).concat();
            bytes.extend(delivery(closed, 1, "gone"));
            stage.feed_and_close(CON, bytes, closed, 406);
            stage.expect_channel_close_ok(CON, closed);
            let got = stage.got();
            assert_eq!(got.len(), 1, "{length} {first}");
            assert_eq!((got[0].consumer, got[0].body.len()), (stays, length));
            assert_eq!(stage.terms(stays), [1, 0, 0, 0, 0, 1, 0]);
            assert_eq!(stage.terms(closes), [1, 0, 0, 0, 1, 0, 0]);
        }
    }
}

#[test]
fn s08_no_frame_of_another_kind_passes_for_a_body() {
    // Small, in one read; and large, begun before it is whole.
    for (kind, length) in [(wire::FrameKind::Method, 5), (wire::FrameKind::Header, 20_000)] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let mut bytes = parts(channel, 1, &vec![0; length])[..2].concat();
        wire::put_frame(&mut bytes, kind, channel, |out| out.resize(out.len() + length, 0));
        bytes.extend(delivery(channel, 2, "2"));
        stage.feed(CON, &bytes);
        assert!(stage.got().is_empty());
        let code = stage.expect_close(CON);
        assert!(code > 500, "{code}");
    }
}
