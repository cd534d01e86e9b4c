//! The way out: the transport is given the application's own memory, in confirm mode and without,
//! the first time and after every loss.

use std::{io::IoSlice, ops::Range, sync::Arc};

use bytes::Bytes;

use crate::{harness::*, *};

/// What a publish may allocate, whatever its length: the buffer that the frames' heads go to, places
/// in queues.
const HEADS: u64 = 16 << 10;

/// A frame of a body this short may be copied.
const SHORT: usize = 4096;

const MODES: [PublishMode; 2] = [PublishMode::Confirm, PublishMode::FireAndForget];

/// The pieces that lie in this memory, as offsets; the number of other bytes.
fn within(taken: &[(usize, usize)], place: &Range<usize>) -> (Vec<Range<usize>>, usize) {
    let (mut inside, mut outside) = (Vec::new(), 0);
    for &(at, length) in taken {
        if place.contains(&at) && at + length <= place.end {
            let from = at - place.start;
            inside.push(from..from + length);
        } else {
            outside += length;
        }
    }
    (inside, outside)
}

/// The transport took the body out of this memory, in frames as large as they may be, and hardly
/// anything else. (What is left for the last frame is copied if it is short.)
fn assert_taken_from(stage: &mut Stage, place: &Range<usize>) {
    let taken = std::mem::take(&mut stage.taken);
    let (inside, outside) = within(&taken, place);
    let chunks: Vec<_> = (0..place.len())
        .step_by(CHUNK)
        .map(|from| from..(from + CHUNK).min(place.len()))
        .filter(|chunk| chunk.len() > SHORT)
        .collect();
    assert!(inside == chunks, "{inside:?}");
    let frames = chunks.len();
    assert!(outside < 200 + SHORT + 8 * frames, "{outside} bytes beside {frames} frames");
}

#[test]
fn a_large_body_reaches_the_transport_as_the_applications_own_memory() {
    for mode in MODES {
        for length in [MIB, 16 * MIB] {
            let mut stage = Stage::connected(config());
            let (producer, channel) = stage.warmed_up(to_queue("a", mode));
            let vec = body(length);
            let moved = place(&vec);
            stage.taken.clear();
            stage.publish(producer, vec);
            assert_taken_from(&mut stage, &moved);
            assert!(stage.expect_publish(PUB).body == body(length));

            let shared = Bytes::from(body(length));
            // A slice of something larger, too.
            let shared = shared.slice(100..);
            stage.publish(producer, shared.clone());
            assert_taken_from(&mut stage, &place(&shared));
            assert!(stage.expect_publish(PUB).body == shared);
            if mode == PublishMode::Confirm {
                stage.ack(PUB, channel, 3, true);
                assert_eq!(stage.verdicts(), [(2, None), (3, None)]);
            }
            assert_eq!(stage.stats(producer).in_flight, 0);
            stage.finish();
        }
    }
}

/// Where the last byte taken before a cut lies.
#[test]
fn f09_f10_what_is_resent_after_a_cut_is_the_same_memory() {
    for mode in MODES {
        // In the heads, inside of each of the first frames, near the end, and all of it.
        for written in [1, 100, CHUNK / 2, 3 * CHUNK, 16 * MIB - 1, usize::MAX] {
            let mut stage = Stage::connected(config());
            let (producer, _) = stage.warmed_up(to_queue("a", mode));
            let message = Bytes::from(body(16 * MIB));
            stage.stalled.insert(PUB);
            stage.publish(producer, message.clone());
            stage.write(PUB, written);
            stage.cut(PUB);
            let whole = written == usize::MAX;
            if whole && mode == PublishMode::FireAndForget {
                assert_eq!(stage.stats(producer).sent, 2);
                continue;
            }
            stage.taken.clear();
            stage.advance(Duration::ZERO);
            stage.accept(PUB, &Broker::default());
            let handshake: usize = stage.taken.drain(..).map(|(_, length)| length).sum();
            assert!(handshake < 1000, "{handshake}");
            stage.accept_lane(PUB, mode);
            let heads = |&(at, _): &(usize, usize)| place(&message).contains(&at);
            let first = stage.taken.iter().position(heads).unwrap();
            stage.taken.drain(..first);
            assert_taken_from(&mut stage, &place(&message));
            let copy = stage.expect_publish(PUB);
            assert_eq!(copy.attempt(), whole.then_some(2), "{mode:?} {written}");
            assert!(copy.body == message);
            stage.finish();
        }
    }
}

/// The transport takes so many bytes at a time, and nobody looks at them.
fn write_away(stage: &mut Stage, each: usize) -> usize {
    let (id, now, mut total) = (stage.id(PUB), stage.now, 0);
    loop {
        let mut slices = [IoSlice::new(&[]); 64];
        let used = stage.session.transmit(id, &mut slices);
        let offered: usize = slices[..used].iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return total;
        }
        total += offered.min(each);
        stage.session.handle_written(id, offered.min(each), true, now);
    }
}

#[test]
fn a_large_body_is_published_written_and_settled_without_memory_of_its_size() {
    for mode in MODES {
        for length in [MIB, 16 * MIB] {
            for each in [10_000, 1 << 20] {
                let mut stage = Stage::connected(config());
                let (producer, channel) = stage.warmed_up(to_queue("a", mode));
                let (id, now) = (stage.id(PUB), stage.now);
                let message = Bytes::from(body(length));
                let mut ack = Vec::new();
                wire::put_ack(&mut ack, channel, 2, false);
                let info = allocated(|| {
                    stage.session.publish(producer, message.clone().into(), now).unwrap();
                    assert!(write_away(&mut stage, each) > length);
                    if mode == PublishMode::Confirm {
                        let space = stage.session.receive_buffer(id);
                        space[..ack.len()].copy_from_slice(&ack);
                        stage.session.handle_received(id, ack.len(), now);
                    }
                });
                assert!(info.bytes_total <= HEADS, "{mode:?} {length} {each}: {info:?}");
                let stats = stage.stats(producer);
                assert_eq!((stats.in_flight, stats.sent + stats.confirmed), (0, 2));
            }
        }
    }
}

#[test]
fn f09_a_large_body_is_resent_without_memory_of_its_size() {
    for mode in MODES {
        let mut stage = Stage::connected(config());
        let (producer, _) = stage.warmed_up(to_queue("a", mode));
        stage.stalled.insert(PUB);
        stage.publish(producer, body(16 * MIB));
        stage.write(PUB, 5 * MIB);
        let lost = allocated(|| {
            stage.session.handle_disconnected(stage.id(PUB), Loss::Eof, stage.now);
        });
        assert!(lost.bytes_total <= HEADS, "{lost:?}");
        stage.peers[PUB].up = false;
        stage.pump();
        stage.advance(Duration::ZERO);
        stage.stalled.clear();
        stage.accept(PUB, &Broker::default());
        let channel = stage.expect_channel_open(PUB);
        if mode == PublishMode::Confirm {
            stage.channel_open_ok(PUB, channel);
            stage.expect_method(PUB);
            stage.stalled.insert(PUB);
            stage.select_ok(PUB, channel);
        } else {
            stage.stalled.insert(PUB);
            stage.channel_open_ok(PUB, channel);
        }
        let resent = allocated(|| {
            assert!(write_away(&mut stage, MIB) > 16 * MIB);
        });
        assert!(resent.bytes_total <= HEADS, "{mode:?}: {resent:?}");
    }
}

/// A body that says when nobody holds it any more.
struct Watched(Arc<Vec<u8>>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn a_body_is_held_until_its_outcome_and_no_longer() {
    for mode in MODES {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.warmed_up(to_queue("a", mode));
        stage.stalled.insert(PUB);
        let held = Arc::new(body(MIB));
        stage.publish(producer, Bytes::from_owner(Watched(Arc::clone(&held))));
        stage.write(PUB, MIB);
        assert_eq!(Arc::strong_count(&held), 2, "not all of it is written");
        stage.stalled.clear();
        assert!(stage.expect_publish(PUB).body == *held);
        if mode == PublishMode::Confirm {
            assert_eq!(Arc::strong_count(&held), 2, "it is not confirmed");
            stage.ack(PUB, channel, 2, false);
        }
        // The outcome tells the message, too.
        stage.verdicts();
        assert_eq!(Arc::strong_count(&held), 1, "{mode:?}: it has its outcome");
        stage.finish();
    }
}

#[test]
fn what_expires_or_is_evicted_comes_back_as_the_applications_own_memory() {
    let expiring = |config: &mut ProducerConfig| config.ttl = Some(SEC);
    let evicting = |config: &mut ProducerConfig| {
        config.policy = lavinmq_core::config::BufferPolicy::DropOldest;
        config.buffer_bytes = 20 * MIB;
    };
    for (reason, set) in [
        (DropReason::TtlExpired, &expiring as &dyn Fn(&mut ProducerConfig)),
        (DropReason::BufferFull, &evicting),
    ] {
        let mut stage = Stage::connected(config());
        let mut settings = to_queue("a", PublishMode::Confirm);
        set(&mut settings);
        let (producer, _) = stage.warmed_up(settings);
        stage.cut(PUB);
        let (message, now) = (Bytes::from(body(16 * MIB)), stage.now);
        let info = allocated(|| {
            stage.session.publish(producer, message.clone().into(), now).unwrap();
            if reason == DropReason::TtlExpired {
                stage.session.handle_tick(now + SEC);
            } else {
                stage.session.publish(producer, message.clone().into(), now).unwrap();
            }
        });
        assert!(info.bytes_total <= HEADS, "{info:?}");
        let settled = stage.take_events(|event| matches!(event, SessionEvent::Settled { .. }));
        let [SessionEvent::Settled { settled, .. }] = &settled[..] else { panic!("{settled:?}") };
        assert_eq!(settled.verdict, Some(Verdict::Dropped(reason)));
        assert_eq!(place(settled.message.body()), place(&message));
    }
}
