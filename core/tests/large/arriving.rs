//! The way in: each byte of a large body is copied once, from the receive buffer into its place; what
//! is announced costs nothing; other channels' frames between those of a body are handed out at once.

use lavinmq_core::error::ProtocolError;

use crate::{words::*, *};

/// What the session keeps beside bodies: the receive buffer, as it grows to 64 KiB (16 + 32 + 64, and
/// what it was), and what a delivery needs.
const BESIDE: u64 = 160 << 10;

/// The frames of a delivery of this body.
fn delivered(channel: u16, tag: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = begun(channel, tag, body.len());
    wire::put_body(&mut bytes, channel, body, 131_072);
    bytes
}

/// The frames of a delivery before its body.
fn begun(channel: u16, tag: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_deliver(&mut bytes, channel, "", tag, false, "", "orders");
    wire::put_content_header(&mut bytes, channel, length as u64, &Properties::default());
    bytes
}

/// One frame of a body.
fn piece(channel: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_body(&mut out, channel, bytes, 131_072);
    out
}

/// As a driver reads: as much as there is room for.
fn read(stage: &mut Stage, bytes: &[u8]) -> AllocationInfo {
    let (id, now) = (stage.id(CON), stage.now);
    let session = &mut stage.session;
    allocated(|| {
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = session.receive_buffer(id);
            let n = space.len().min(rest.len());
            assert!(n > 0 && space.len() <= 64 << 10, "a buffer of {}", space.len());
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            session.handle_received(id, n, now);
        }
    })
}

/// The bodies handed out since the last call, with their tags.
fn bodies(stage: &mut Stage) -> Vec<(u64, bytes::Bytes)> {
    stage.pump();
    let batches = stage.batches.drain(..);
    let each = batches.flat_map(|(_, batch)| {
        (0..batch.len()).map(|at| (batch.tag(at), batch.body_bytes(at))).collect::<Vec<_>>()
    });
    each.collect()
}

#[test]
fn a_large_body_takes_its_own_size_of_memory_and_is_not_copied_again() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    let expected = body(16 * MIB);
    let frames: Vec<_> = (1..=3).map(|tag| delivered(channel, tag, &expected)).collect();
    let size = expected.len() as u64;
    // The first one grows as it comes, by doubling: counted as if each step were a copy.
    let first = read(&mut stage, &frames[0]);
    assert!(first.bytes_total <= 2 * size + BESIDE, "{first:?}");
    assert!(first.bytes_max <= size + size / 2 + BESIDE, "{first:?}");
    // Then the connection has shown that it sends such bodies: one allocation, of the right size.
    for frames in &frames[1..] {
        let info = read(&mut stage, frames);
        assert!(info.bytes_total <= size + 4096, "{info:?}");
        assert!(info.count_total <= 8, "{info:?}");
    }
    stage.pump();
    for (tag, (_, batch)) in (1..).zip(&stage.batches) {
        assert!((batch.tag(0), batch.body(0)) == (tag, &expected[..]));
        let mut again = None;
        let info = allocated(|| again = Some(batch.body_bytes(0)));
        assert!(info.bytes_total <= 64, "{info:?}");
        assert_eq!(place(&again.unwrap()), place(batch.body(0)), "the application's is the same");
    }
}

/// A body with two whole frames and a rest, between small ones.
fn conversation(channel: u16) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = delivered(channel, 1, b"before");
    let mut edges = vec![bytes.len()];
    bytes.extend(begun(channel, 2, 90_000));
    edges.push(bytes.len());
    for part in body(90_000).chunks(40_000) {
        bytes.extend(piece(channel, part));
        edges.push(bytes.len());
    }
    bytes.extend(delivered(channel, 3, b"after"));
    (bytes, edges)
}

fn assert_conversation(stage: &mut Stage, how: &str) {
    let got = bodies(stage);
    assert_eq!(got.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3], "{how}");
    assert!(got[1].1 == body(90_000), "{how}");
    assert!(got[0].1 == "before" && got[2].1 == "after", "{how}");
    assert!(stage.peers[CON].up && !stage.has_frames(CON), "{how}");
}

#[test]
fn f01_a_read_split_anywhere_in_a_large_body_gives_the_same_deliveries() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    let (bytes, edges) = conversation(channel);
    // Every byte around the frames' ends, and some between.
    let near = edges.iter().flat_map(|&edge| edge.saturating_sub(20)..edge + 20);
    let mut splits: Vec<_> = near.chain((1..bytes.len()).step_by(4999)).collect();
    splits.sort_unstable();
    for at in splits {
        for then in [1, 8, usize::MAX] {
            let mut stage = Stage::connected(config());
            stage.consuming();
            stage.feed(CON, &bytes[..at]);
            let second = at.saturating_add(then).min(bytes.len());
            stage.feed(CON, &bytes[at..second]);
            stage.feed(CON, &bytes[second..]);
            assert_conversation(&mut stage, &format!("split at {at} and {second}"));
        }
    }
    for chunk in [1, 7, 1460, 8191] {
        let mut stage = Stage::connected(config());
        stage.consuming();
        stage.chunk = chunk;
        stage.feed(CON, &bytes);
        assert_conversation(&mut stage, &format!("in pieces of {chunk}"));
    }
}

#[test]
fn f11_a_body_cut_anywhere_is_discarded_and_the_next_connection_begins_anew() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    let whole = delivered(channel, 1, &body(90_000));
    for at in [1, 60, 200, 30_000, whole.len() - 2, whole.len() - 1] {
        let mut stage = Stage::connected(config());
        stage.consuming();
        stage.feed(CON, &whole[..at]);
        stage.cut(CON);
        stage.advance(Duration::ZERO);
        stage.accept(CON, &Broker::default());
        let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
        stage.feed(CON, &delivered(channel, 1, &body(90_000)));
        let got = bodies(&mut stage);
        assert_eq!(got.len(), 1, "cut at {at}");
        assert!(got[0].1 == body(90_000));
    }
}

#[test]
fn small_deliveries_between_the_frames_of_a_large_one_are_handed_out_at_once() {
    let mut stage = Stage::connected(config());
    let (_, large, _) = stage.consuming();
    let (_, small, _) = stage.consuming();
    let expected = body(4 * MIB);
    stage.feed(CON, &begun(large, 1, expected.len()));
    for (part, tag) in expected.chunks(CHUNK).zip(1..) {
        assert_eq!(bodies(&mut stage), [], "the large one is not whole");
        // One read brings the end of a frame, the small delivery, and the beginning of the next frame.
        let frame = piece(large, part);
        stage.feed(CON, &frame[..frame.len() / 2]);
        assert_eq!(bodies(&mut stage), []);
        let mut rest = frame[frame.len() / 2..].to_vec();
        if tag < 33 {
            rest.extend(delivered(small, tag, b"small"));
            stage.feed(CON, &rest);
            assert_eq!(bodies(&mut stage), [(tag, "small".into())]);
        } else {
            stage.feed(CON, &rest);
        }
    }
    let got = bodies(&mut stage);
    assert!(got.len() == 1 && got[0].1 == expected);
}

#[test]
fn two_large_bodies_that_arrive_frame_by_frame_in_turn_are_both_whole() {
    let mut stage = Stage::connected(config());
    let (_, a, _) = stage.consuming();
    let (_, b, _) = stage.consuming();
    let (first, second) = (body(3 * MIB), body(2 * MIB).into_iter().rev().collect::<Vec<_>>());
    for round in 1..=2 {
        let mut bytes = begun(a, round, first.len());
        bytes.extend(begun(b, round, second.len()));
        let mut others = second.chunks(CHUNK);
        for part in first.chunks(CHUNK) {
            bytes.extend(piece(a, part));
            others.next().into_iter().for_each(|part| bytes.extend(piece(b, part)));
        }
        let info = read(&mut stage, &bytes);
        // At most one of them has memory for what it has not sent; all growth counted as copies.
        let size = (first.len() + second.len()) as u64;
        assert!(info.bytes_total <= 2 * size + BESIDE, "{info:?}");
        let got = bodies(&mut stage);
        assert!(got.len() == 2 && got[0].1 == second && got[1].1 == first);
    }
}

#[test]
fn s09_an_end_octet_that_is_wrong_after_a_large_frame_ends_the_connection() {
    for last in [false, true] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let length = if last { 50_000 } else { 90_000 };
        stage.feed(CON, &begun(channel, 1, length));
        let mut frame = piece(channel, &body(50_000));
        *frame.last_mut().unwrap() = 0xCD;
        stage.feed(CON, &frame[..20_000]);
        stage.feed(CON, &frame[20_000..]);
        assert_eq!(stage.expect_close(CON), 501);
        assert_eq!(bodies(&mut stage), [], "nobody knows what it was");
        stage.close_ok(CON);
    }
}

#[test]
fn s10_a_large_frame_with_more_body_than_was_announced_is_refused() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    stage.feed(CON, &begun(channel, 1, 90_000));
    stage.feed(CON, &piece(channel, &body(50_000)));
    stage.feed(CON, &piece(channel, &body(40_001)));
    assert_eq!(stage.expect_close(CON), 501);
    stage.close_ok(CON);
    let State::Reconnecting { loss, .. } = stage.session.state() else { panic!() };
    let error = ProtocolError::BodyOverrun { announced: 90_000, got: 90_001 };
    assert_eq!(*loss, Loss::Protocol(error));
}

/// A consumer that is closed while a body arrives: the rest of it is requeued when it is whole.
#[test]
fn s48_a_body_that_arrives_while_its_consumer_closes_is_given_back() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    let bytes = delivered(channel, 1, &body(90_000));
    stage.feed(CON, &bytes[..40_000]);
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    stage.feed(CON, &bytes[40_000..]);
    assert_eq!(bodies(&mut stage), []);
    stage.feed(CON, &cancel_ok(channel, &tag));
    assert_eq!(stage.next(CON), requeue(channel, 1));
}

/// A channel that is given up in the middle of a frame: the rest of that is nobody's, and what follows
/// it counts.
#[test]
fn s16_the_rest_of_a_body_on_a_channel_that_was_given_up_is_discarded() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    let (_, other, _) = stage.consuming();
    let bytes = delivered(channel, 1, &body(90_000));
    stage.feed(CON, &bytes[..40_000]);
    // Its cancel is not answered in time.
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    for _ in 0..60 {
        if stage.has_frames(CON) {
            break;
        }
        stage.advance(SEC);
    }
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    stage.feed(CON, &bytes[40_000..]);
    stage.feed(CON, &delivered(other, 1, b"next"));
    assert!(stage.peers[CON].up, "{}", stage.session.explain(stage.now));
    assert_eq!(bodies(&mut stage), [(1, "next".into())], "{}", stage.session.explain(stage.now));
}

/// Behind our own close a large frame is nobody's, and close-ok is found after it.
#[test]
fn s14_close_ok_is_found_behind_a_large_frame() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    let large = delivered(channel, 1, &body(90_000));
    // A heartbeat is on channel 0.
    let bytes = [&[8, 0, 1, 0, 0, 0, 0, 0xCE], &large[..]].concat();
    stage.feed(CON, &bytes[..40_000]);
    assert_eq!(stage.expect_close(CON), 501);
    stage.feed(CON, &bytes[40_000..]);
    assert!(stage.peers[CON].up);
    stage.close_ok(CON);
    assert!(!stage.peers[CON].up, "{}", stage.session.explain(stage.now));
    assert_eq!(bodies(&mut stage), []);
}

/// What a connection was trusted with for one body is no credit for many.
#[test]
fn f20_bodies_begun_on_many_channels_cost_what_arrived_and_one_that_is_trusted() {
    let mut stage = Stage::connected(config());
    let channels: Vec<_> = (0..20).map(|_| stage.consuming().1).collect();
    read(&mut stage, &delivered(channels[0], 1, &body(16 * MIB)));
    stage.pump();
    stage.batches.clear();
    let mut bytes = Vec::new();
    for &channel in &channels[1..] {
        bytes.extend(begun(channel, 1, 16 * MIB));
        bytes.extend(piece(channel, &[7; 20_000]));
    }
    let info = read(&mut stage, &bytes);
    let limit = 16 * MIB as u64 + 4 * bytes.len() as u64 + BESIDE;
    assert!(info.bytes_max <= limit, "{info:?}");
    assert!(stage.peers[CON].up);
}
