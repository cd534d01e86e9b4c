//! Turns: while large bodies are being written, everybody else's frames wait for a stated number of
//! their bytes, and no more.

use crate::{words::*, *};

/// What the session encodes ahead: 64 KiB, and the frame that passes it.
const AHEAD: usize = (64 << 10) + FRAME;

/// A whole frame of a large body.
const FRAME: usize = 131_072;

/// What one lane encodes before the next has its turn, where frames are large.
const TURN: usize = FRAME;

/// The transport takes `each` bytes at a time until the peer has a frame that is `wanted`; how many
/// bytes passed before that frame was whole.
fn passed_until(
    stage: &mut Stage,
    c: usize,
    each: usize,
    wanted: impl Fn(&Wrote) -> bool,
) -> usize {
    let mut passed = 0;
    loop {
        // What was taken is known exactly only a byte at a time: count the frame's last write out.
        let wrote = stage.write(c, each);
        assert!(wrote > 0, "it never comes: {}", stage.session.explain(stage.now));
        while stage.has_frames(c) {
            if wanted(&stage.next(c)) {
                return passed;
            }
        }
        passed += wrote;
    }
}

/// A session in which a body of 16 MiB is being written, the first megabyte of it is, and the transport
/// takes nothing by itself.
fn writing(config: Config, each: usize) -> (Stage, ProducerId, ProducerId) {
    let mut stage = Stage::connected(config);
    let (small, _) = stage.confirming("small");
    let (large, _) = stage.confirming("large");
    stage.stalled.insert(PUB);
    stage.publish(large, body(16 * MIB));
    let mut written = 0;
    while written < MIB {
        written += stage.write(PUB, each);
    }
    while stage.has_frames(PUB) {
        stage.next(PUB);
    }
    (stage, small, large)
}

const STEPS: [usize; 5] = [777, 4096, 65_536, 131_072, 1_000_000];

fn is_small(wrote: &Wrote) -> bool {
    matches!(wrote, Wrote::Body(_, bytes) if bytes == b"small")
}

#[test]
fn a_small_publish_waits_for_what_is_encoded_and_one_turn_of_the_large_body() {
    for each in STEPS {
        let (mut stage, small, _) = writing(config(), each);
        stage.publish(small, "small");
        let passed = passed_until(&mut stage, PUB, each, is_small);
        assert!(passed <= AHEAD + TURN, "{passed} bytes, {each} at a time");
        stage.stalled.clear();
        while stage.has_frames(PUB) {
            stage.next(PUB);
        }
        stage.finish();
    }
}

#[test]
fn a_small_publish_waits_for_one_turn_of_each_large_body_of_several() {
    for each in [4096, 131_072] {
        let (mut stage, small, first) = writing(config(), each);
        let mut large = vec![first];
        for n in 0..5 {
            let other = stage.producer(&n.to_string(), PublishMode::FireAndForget);
            stage.stalled.clear();
            stage.stalled.insert(PUB);
            stage.publish(other, body(16 * MIB));
            // Its channel opens between the first one's frames.
            let mut opened = None;
            while opened.is_none() {
                stage.write(PUB, each);
                while stage.has_frames(PUB) {
                    if let Wrote::Method(n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) =
                        stage.next(PUB)
                    {
                        opened = Some(n);
                    }
                }
            }
            stage.channel_open_ok(PUB, opened.unwrap());
            large.push(other);
        }
        // All of them have begun.
        for _ in 0..20 * FRAME / each {
            stage.write(PUB, each);
        }
        while stage.has_frames(PUB) {
            stage.next(PUB);
        }
        stage.publish(small, "small");
        let passed = passed_until(&mut stage, PUB, each, is_small);
        let bound = AHEAD + large.len() * TURN;
        assert!(passed <= bound, "{passed} bytes of at most {bound}, {each} at a time");
    }
}

#[test]
fn two_large_bodies_on_two_channels_take_turns_frame_by_frame() {
    let mut stage = Stage::connected(config());
    let (a, on_a) = stage.confirming("a");
    let (b, on_b) = stage.forgetting("b");
    stage.stalled.insert(PUB);
    stage.publish(a, body(4 * MIB));
    stage.publish(b, body(4 * MIB));
    stage.stalled.clear();
    let mut order = Vec::new();
    while stage.has_frames(PUB) {
        if let Wrote::Body(channel, bytes) = stage.next(PUB) {
            order.push(channel);
            assert!(bytes.len() == CHUNK || order.len() > 64, "a frame of {}", bytes.len());
        }
    }
    // 33 frames each.
    let turns: Vec<_> = [on_a, on_b].into_iter().cycle().take(66).collect();
    assert_eq!(order, turns);
    stage.finish();
}

/// What AMQP asks for (s11): nothing may come between the frames of a message on its channel.
#[test]
fn s11_a_small_publish_on_the_same_channel_waits_for_the_whole_body() {
    let mut config = config();
    config.limits.own_channels = 0;
    let mut stage = Stage::connected(config);
    // Eight channels are shared at least: the ninth producer is on the channel of the first.
    let (small, channel) = stage.confirming("small");
    let others: Vec<_> = (0..8).map(|_| stage.producer("large", PublishMode::Confirm)).collect();
    stage.stalled.insert(PUB);
    stage.publish(others[7], body(16 * MIB));
    stage.write(PUB, MIB);
    assert!(matches!(stage.next(PUB), Wrote::Publish { channel: on, .. } if on == channel));
    stage.publish(small, "small");
    let passed = passed_until(&mut stage, PUB, 65_536, is_small);
    assert!(passed > 14 * MIB, "{passed}");
}

/// A session with one connection for everything, that writes a large body.
fn writing_on_the_only_connection() -> (Stage, ConsumerId, u16, u64) {
    let mut config = config();
    config.connections = 1;
    let mut stage = Stage::new(config);
    stage.accept(PUB, &Broker::default());
    let consumer = stage.session.open_consumer(consume("orders"), stage.now).unwrap();
    stage.pump();
    let (channel, _) = stage.accept_consumer(PUB, &consume("orders"));
    stage.deliver(PUB, channel, 1..=3);
    let (generation, _) = stage.got_tags();
    let (large, _) = stage.confirming("large");
    stage.stalled.insert(PUB);
    stage.publish(large, body(16 * MIB));
    let mut written = 0;
    while written < MIB {
        written += stage.write(PUB, 65_536);
    }
    while stage.has_frames(PUB) {
        stage.next(PUB);
    }
    (stage, consumer, channel, generation)
}

#[test]
fn acks_wait_for_what_is_encoded_and_no_more() {
    let (mut stage, consumer, channel, generation) = writing_on_the_only_connection();
    stage.settle(consumer, generation, 1..=2, Settlement::Ack);
    let ack = Wrote::Ack { channel, tag: 2, multiple: true };
    let passed = passed_until(&mut stage, PUB, 65_536, |wrote| *wrote == ack);
    assert!(passed <= AHEAD, "{passed}");
}

#[test]
fn declarations_and_cancels_wait_for_what_is_encoded_and_no_more() {
    let (mut stage, consumer, on, _) = writing_on_the_only_connection();
    stage.declare(QueueConfig::new("a").unwrap());
    let opens = |wrote: &Wrote| {
        matches!(wrote, Wrote::Method(_, AMQPClass::Channel(channel::AMQPMethod::Open(_))))
    };
    let passed = passed_until(&mut stage, PUB, 65_536, opens);
    assert!(passed <= AHEAD, "{passed}");
    stage.session.close_consumer(consumer, stage.now);
    stage.pump();
    let cancels = |wrote: &Wrote| matches!(wrote, Wrote::Method(n, AMQPClass::Basic(basic::AMQPMethod::Cancel(_))) if *n == on);
    let passed = passed_until(&mut stage, PUB, 65_536, cancels);
    assert!(passed <= AHEAD, "{passed}");
}

/// A body on a slow transport is traffic enough: nobody takes us for dead, the peer's own heartbeats
/// are heard, and ours come again when there is nothing else to say.
#[test]
fn s06_a_body_that_takes_minutes_keeps_the_connection_alive_both_ways() {
    let mut config = config();
    config.heartbeat = 10 * SEC;
    let mut stage = Stage::new(config);
    for c in [PUB, CON] {
        stage.accept(c, &Broker { tune: (2048, 131_072, 10), ..Broker::default() });
    }
    let (producer, channel) = stage.confirming("large");
    stage.stalled.insert(PUB);
    stage.publish(producer, body(2 * MIB));
    // 10,000 bytes a second: more than three minutes.
    let mut seconds = 0;
    while stage.write(PUB, 10_000) > 0 {
        stage.advance(SEC);
        seconds += 1;
        if seconds % 5 == 0 {
            stage.feed(PUB, &wire::HEARTBEAT);
            stage.feed(CON, &wire::HEARTBEAT);
        }
    }
    assert!(seconds > 200 && stage.peers[PUB].up, "{}", stage.session.explain(stage.now));
    stage.stalled.clear();
    assert!(stage.expect_publish(PUB).body == body(2 * MIB));
    stage.ack(PUB, channel, 2, false);
    for _ in 0..2 {
        stage.feed(PUB, &wire::HEARTBEAT);
        stage.advance(5 * SEC);
    }
    assert_eq!(stage.next(PUB), Wrote::Heartbeat);
}
