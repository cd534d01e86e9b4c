//! Sweeps over byte offsets: f1 to f3, f9, f10, f30.

use crate::harness::*;

const FLOW: fn(bool) -> AMQPClass =
    |active| AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }));

/// A conversation in which the peer says a bit of everything; what the session wrote and told.
fn conversation(chunk: usize) -> String {
    let mut stage = Stage::new(config());
    stage.chunk = chunk;
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    let mut told = String::new();
    let mut note = |stage: &mut Stage| {
        stage.pump();
        for c in [PUB, CON] {
            while stage.has_frames(c) {
                told.push_str(&format!("{c}: {:?}\n", stage.next(c)));
            }
        }
        for event in stage.take_events(|_| true) {
            told.push_str(&format!("{event:?}\n"));
        }
    };
    stage.declare(QueueConfig::new("a").unwrap());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    note(&mut stage);
    stage.declare_ok(CON, control, "a");
    let (producer, channel) = stage.confirming("a");
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    let copies = stage.expect_publishes(PUB, &["2", "3", "4", "5"]);
    stage.give_back(PUB, &copies[1]);
    stage.feed(PUB, &wire::HEARTBEAT);
    stage.nack(PUB, channel, 2, false);
    stage.ack(PUB, channel, 3, true);
    note(&mut stage);
    stage.reply(PUB, channel, FLOW(false));
    stage.publish(producer, "6");
    stage.reply(PUB, channel, FLOW(true));
    note(&mut stage);
    stage.blocked(PUB, "memory");
    stage.unblocked(PUB);
    stage.close_channel(PUB, channel, 404, "no", (60, 40));
    note(&mut stage);
    stage.close(CON, 320, "bye", (0, 0));
    note(&mut stage);
    stage.close(PUB, 541, "internal", (0, 0));
    note(&mut stage);
    told.push_str(&format!("{:?}", stage.session.stats()));
    told
}

#[test]
fn f01_a_read_split_anywhere_gives_the_same_events() {
    let whole = conversation(usize::MAX);
    assert!(whole.contains("Returned(Return") && whole.contains("Nacked"), "{whole}");
    for chunk in 1..=40 {
        assert_eq!(conversation(chunk), whole, "in pieces of {chunk}");
    }
}

/// A producer with four messages in flight, and the bytes that settle them in all ways.
fn settling() -> (Stage, Vec<u8>) {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("a");
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    let copies = stage.expect_publishes(PUB, &["2", "3", "4", "5"]);
    let mut bytes = returned(&copies[2], 312, "NO_ROUTE");
    wire::put_nack(&mut bytes, channel, 3, false, false);
    bytes.extend_from_slice(&wire::HEARTBEAT);
    wire::put_ack(&mut bytes, channel, 4, true);
    wire::put_ack(&mut bytes, channel, 5, false);
    (stage, bytes)
}

#[test]
fn f01_f02_frames_coalesced_and_cut_at_every_byte_give_the_same_events() {
    let (mut stage, bytes) = settling();
    stage.feed(PUB, &bytes);
    let whole = format!("{:?}", stage.verdicts());
    assert!(whole.contains("(4, Some(Returned(") && whole.contains("(3, Some(Nacked))"), "{whole}");
    stage.finish();
    for at in 1..bytes.len() {
        let (mut stage, bytes) = settling();
        stage.feed(PUB, &bytes[..at]);
        stage.feed(PUB, &bytes[at..]);
        assert_eq!(format!("{:?}", stage.verdicts()), whole, "cut at {at}");
        stage.finish();
    }
}

#[test]
fn f03_a_transport_that_takes_a_byte_at_a_time_gets_the_same_bytes() {
    let run = |step: usize| {
        let mut config = config();
        // Chunks on both sides of what is copied (below 4,096 bytes) and what leaves beside the tail.
        config.limits.frame_max = 8192;
        let mut stage = Stage::connected(config);
        let (producer, _) = stage.forgetting("a");
        let (other, _) = stage.confirming("b");
        stage.stalled.insert(PUB);
        for length in [0, 1, 100, 4095, 4096, 8184, 9000, 17_000] {
            stage.publish(producer, vec![b'x'; length]);
            stage.publish(other, vec![b'y'; length]);
        }
        while stage.write(PUB, step) > 0 {}
        stage.stalled.clear();
        let mut seen = Vec::new();
        while stage.has_frames(PUB) {
            seen.push(stage.next(PUB));
        }
        let stats = stage.session.stats().publish;
        assert_eq!((stats.sent, stats.in_flight), (9, 8));
        stage.finish();
        seen
    };
    let whole = run(usize::MAX);
    assert_eq!(whole.len(), 16 * 2 + 2 * 10);
    for step in [1, 2, 3, 7, 8, 9, 1000, 4096, 5000] {
        assert_eq!(run(step), whole, "{step} at a time");
    }
}

/// What is on its way before each cut.
const SMALL: &[usize] = &[3, 1];
const BESIDE: &[usize] = &[5000, 4];
const SEVERAL_FRAMES: &[usize] = &[9000, 0, 5];

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// Messages of these lengths encoded, one by one or `together`, and nothing taken by the transport.
fn pending(lengths: &[usize], mode: PublishMode, together: bool) -> (Stage, ProducerId) {
    let mut config = config();
    config.limits.frame_max = 4096;
    let mut stage = Stage::connected(config);
    let (producer, _) = stage.warmed_up(to_queue("a", mode));
    stage.stalled.insert(PUB);
    for &length in lengths {
        stage.publish(producer, body(length));
        if !together {
            stage.pending(PUB);
        }
    }
    stage.pending(PUB);
    (stage, producer)
}

/// Where each message ends in the bytes that are pending.
fn ends(lengths: &[usize], mode: PublishMode) -> Vec<usize> {
    (1..=lengths.len()).map(|n| pending(&lengths[..n], mode, true).0.pending(PUB)).collect()
}

fn cut_after(
    (lengths, ends, mode, together): (&[usize], &[usize], PublishMode, bool),
    written: usize,
    flushed: usize,
) {
    let (mut stage, producer) = pending(lengths, mode, together);
    let what = format!("{mode:?}, {lengths:?}: {written} bytes of {ends:?}, {flushed} flushed");
    stage.unflushed.insert(PUB);
    stage.write(PUB, flushed);
    stage.session.handle_flushed(stage.id(PUB), stage.now);
    let sent = stage.stats(producer).sent;
    let surely = match together {
        // One record for all of them: it retires with its last byte.
        true if flushed < *ends.last().unwrap() => 0,
        _ => ends.iter().filter(|&&end| end <= flushed).count(),
    };
    if mode == PublishMode::FireAndForget {
        assert_eq!(sent, 1 + surely as u64, "{what}");
    }
    stage.write(PUB, written - flushed);
    assert_eq!(stage.stats(producer).sent, sent, "what is not flushed is not sent yet: {what}");
    stage.unflushed.clear();
    stage.cut(PUB);
    let whole = ends.iter().filter(|&&end| end <= written).count();
    let stats = stage.stats(producer);
    let left = match mode {
        PublishMode::Confirm => lengths.len(),
        _ => lengths.len() - whole,
    };
    assert_eq!(stats.in_flight, left as u64, "{what}");
    if mode == PublishMode::FireAndForget {
        assert_eq!(stats.sent, 1 + whole as u64, "{what}");
    }
    assert_eq!(stage.verdicts(), [], "{what}");
    // A message that came meanwhile goes behind them.
    stage.publish(producer, "new");
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker { tune: (10, 4096, 0), ..Broker::default() });
    let channel = stage.accept_lane(PUB, mode);
    let first = lengths.len() - left;
    for (number, &length) in lengths.iter().enumerate().skip(first) {
        let copy = stage.expect_publish(PUB);
        assert_eq!(copy.body, body(length), "{what}");
        let attempt = (number < whole).then_some(2);
        assert_eq!(copy.attempt(), attempt, "only a copy possibly whole counts: {what}");
        if mode == PublishMode::Confirm {
            let id = copy.message_id().unwrap();
            assert_eq!(wire::parse_generated_id(&id).unwrap().1, number as u64 + 2, "{what}");
        }
    }
    assert_eq!(stage.expect_publishes(PUB, &["new"])[0].attempt(), None);
    let stats = stage.stats(producer);
    match mode {
        PublishMode::Confirm => {
            assert_eq!(stats.resent, whole as u64, "{what}");
            stage.ack(PUB, channel, 0, true);
            assert_eq!(stage.verdicts().len(), lengths.len() + 1, "{what}");
        }
        _ => assert_eq!((stats.sent, stats.in_flight), (lengths.len() as u64 + 2, 0), "{what}"),
    }
    stage.finish();
}

/// The offsets worth trying: all of them in short streams, else those around each message's end and
/// each frame's, and a few between.
fn offsets(ends: &[usize]) -> Vec<usize> {
    let total = *ends.last().unwrap();
    if total < 1000 {
        return (0..=total).collect();
    }
    let near = |at: usize| (at.saturating_sub(9)..=(at + 9).min(total)).collect::<Vec<_>>();
    let mut all: Vec<_> = (0..total).step_by(1013).collect();
    all.extend(0..60);
    for &end in ends {
        for frame in [0, 4096, 8192] {
            all.extend(near(end.saturating_sub(frame)));
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn f09_f10_a_cut_at_every_byte_of_a_publish_resends_exactly_what_was_not_whole() {
    for lengths in [SMALL, BESIDE, SEVERAL_FRAMES] {
        for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
            let ends = ends(lengths, mode);
            for written in offsets(&ends) {
                for together in [true, false] {
                    cut_after((lengths, &ends, mode, together), written, written);
                }
            }
        }
    }
}

#[test]
fn f30_at_a_loss_every_byte_offered_counts_as_possibly_written_flushed_or_not() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let ends = ends(SMALL, mode);
        for written in offsets(&ends) {
            for flushed in [0, written / 2, written.saturating_sub(1)] {
                cut_after((SMALL, &ends, mode, true), written, flushed);
            }
        }
    }
}

#[test]
fn f30_fire_and_forget_is_sent_at_the_flush_and_a_close_waits_for_it() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.forgetting("a");
    stage.unflushed.insert(PUB);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    assert_eq!(stage.stats(producer).sent, 1);
    stage.flush(PUB);
    assert_eq!(stage.stats(producer).sent, 2);
    // The transport is dropped once close-ok is surely written.
    stage.close(PUB, 320, "bye", (0, 0));
    stage.expect_close_ok(PUB);
    assert!(stage.peers[PUB].up);
    stage.flush(PUB);
    assert!(!stage.peers[PUB].up);
    stage.finish();
}

#[test]
fn f09_a_second_copy_that_is_cut_adds_no_attempt() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    assert_eq!(stage.expect_publish(PUB).attempt(), None);
    let reconnect = |stage: &mut Stage| {
        stage.cut(PUB);
        stage.until_reason(DeadlineReason::Reconnect);
        stage.accept(PUB, &Broker::default());
    };
    // Copies: whole; whole; cut; whole; whole. The cut one is not counted.
    reconnect(&mut stage);
    stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publish(PUB).attempt(), Some(2));
    reconnect(&mut stage);
    let channel = stage.expect_channel_open(PUB);
    stage.channel_open_ok(PUB, channel);
    stage.expect_method(PUB);
    stage.stalled.insert(PUB);
    stage.select_ok(PUB, channel);
    let all = stage.pending(PUB);
    stage.write(PUB, all - 1);
    reconnect(&mut stage);
    stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publish(PUB).attempt(), Some(3));
    reconnect(&mut stage);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publish(PUB).attempt(), Some(4));
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn f09_a_body_longer_than_what_is_encoded_at_once_is_resent_whole() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for written in [0, 1, 70_000, 200_000, 299_999] {
            let mut stage = Stage::connected(config());
            let (producer, _) = stage.warmed_up(to_queue("a", mode));
            stage.stalled.insert(PUB);
            stage.publish(producer, body(300_000));
            stage.publish(producer, "3");
            stage.write(PUB, written);
            stage.cut(PUB);
            let stats = stage.stats(producer);
            assert_eq!(stats.in_flight + stats.queued, 2, "{mode:?} {written}");
            stage.advance(Duration::ZERO);
            stage.accept(PUB, &Broker::default());
            stage.accept_lane(PUB, mode);
            let copy = stage.expect_publish(PUB);
            assert_eq!((copy.attempt(), copy.body), (None, body(300_000)), "{mode:?} {written}");
            stage.expect_publishes(PUB, &["3"]);
            stage.finish();
        }
    }
}
