//! What a hostile peer can make other clients do: hold memory, overflow the stack, loop.

use std::thread;

use lavinmq_core::error::ProtocolError;

use crate::{nesting::nested, words::*, *};

/// A session that has written its protocol header, and waits for Start.
fn awaiting_start() -> Stage {
    let mut stage = Stage::with_retry(config(), true);
    stage.connect(PUB);
    assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
    stage
}

/// The loss that the state names.
fn loss(stage: &mut Stage) -> Loss {
    match stage.session.state() {
        State::Reconnecting { loss, .. } => loss.clone(),
        State::Closed { loss: Some(loss) } => loss.clone(),
        other => panic!("{other}: {}", stage.session.explain(stage.now)),
    }
}

#[test]
fn a_length_announced_before_authentication_allocates_nothing() {
    for kind in [1, 2, 3, 8] {
        for size in [8192, 131_072, 1 << 24, u32::MAX - 8, u32::MAX] {
            let mut stage = awaiting_start();
            let held = held_for(&mut stage, PUB, &frame_header(kind, 0, size));
            assert!(held <= FIXED, "{held} bytes for a header that announces {size}");
            stage.pump();
            assert!(!stage.peers[PUB].up, "kind {kind}, size {size}");
            assert!(matches!(loss(&mut stage), Loss::Protocol(_)));
        }
    }
}

#[test]
fn before_tune_a_frame_may_have_8192_bytes_and_no_more() {
    // Of the largest frame that is allowed, all but the last byte: held, and no more than that.
    let mut stage = awaiting_start();
    let mut bytes = frame_header(1, 0, 8192 - 8);
    bytes.extend(vec![0; 8192 - 8]);
    feed_counted(&mut stage, PUB, &bytes);
    assert!(stage.peers[PUB].up, "it may still become a frame");
}

#[test]
fn frames_above_frame_max_are_refused_from_their_header() {
    // What was agreed is less than what we would allow ourselves.
    for kind in [1, 2, 3] {
        let mut stage = Stage::new(config());
        for c in [PUB, CON] {
            stage.accept(c, &Broker { tune: (2047, 8192, 0), ..Broker::default() });
        }
        let (_, channel, _) = stage.consuming();
        let held = held_for(&mut stage, CON, &frame_header(kind, channel, 8192 - 7));
        assert!(held <= FIXED, "{held}");
        stage.pump();
        assert_eq!(stage.expect_close(CON), 501);
    }
}

#[test]
fn a_frame_max_of_zero_or_of_4_gib_disables_no_cap() {
    for offered in [0, u32::MAX] {
        let mut stage = Stage::new(config());
        for c in [PUB, CON] {
            stage.accept(c, &Broker { tune: (0, offered, 0), ..Broker::default() });
        }
        let held = held_for(&mut stage, PUB, &frame_header(1, 0, 131_072));
        assert!(held <= FIXED, "{held}");
        stage.pump();
        assert_eq!(stage.expect_close(PUB), 501);
    }
}

#[test]
fn an_undersized_frame_max_in_tune_is_refused_and_never_used() {
    for offered in [1, 7, 8, 9, 100, 4095] {
        let mut stage = Stage::with_retry(config(), true);
        stage.connect(PUB);
        stage.next(PUB);
        stage.start(PUB, &Broker::default());
        stage.expect_start_ok(PUB);
        let tune = connection::Tune { channel_max: 10, frame_max: offered, heartbeat: 0 };
        stage.reply(PUB, 0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
        assert!(!stage.has_frames(PUB) && !stage.peers[PUB].up, "{offered} is not agreed to");
        assert!(stage.session.state().to_string().contains("frame"), "{}", stage.session.state());
    }
}

#[test]
fn a_body_announced_is_not_allocated() {
    let mut stage = Stage::connected(config());
    let (_, channel, _) = stage.consuming();
    // As large as is allowed: nothing is wrong yet.
    let begun = begun_delivery(channel, 1, &content_header(128 << 20));
    feed_counted(&mut stage, CON, &begun);
    assert!(stage.peers[CON].up);
    // It costs what arrives, in pieces as large as frames may be, and small ones.
    for length in [1, 100, 65_536, 131_064] {
        feed_counted(&mut stage, CON, &frame(3, channel, &vec![7; length]));
    }
    assert!(stage.peers[CON].up);
}

#[test]
fn f20_bodies_that_nobody_could_hold_are_refused_from_the_header() {
    for size in [(128 << 20) + 1, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let begun = begun_delivery(channel, 1, &content_header(size));
        feed_counted(&mut stage, CON, &begun);
        assert_eq!(stage.expect_close(CON), 501, "{size}");
        stage.close_ok(CON);
        let Loss::Protocol(ProtocolError::BodyTooLarge { announced, .. }) = loss(&mut stage) else {
            panic!("{}", loss(&mut stage));
        };
        assert_eq!(announced, size);
    }
}

#[test]
fn more_body_than_was_announced_is_refused() {
    for (announced, pieces) in [(0, vec![1]), (1, vec![2]), (5, vec![5, 1]), (5, vec![4, 2])] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let mut bytes = begun_delivery(channel, 1, &content_header(announced));
        for length in &pieces {
            bytes.extend(frame(3, channel, &vec![7; *length]));
        }
        feed_counted(&mut stage, CON, &bytes);
        assert!([501, 505].contains(&stage.expect_close(CON)), "{announced}: {pieces:?}");
        assert!(stage.got().iter().all(|got| got.body.len() as u64 == announced));
    }
}

/// The peer begins a body on every channel and sends no more of any.
#[test]
fn bodies_begun_on_many_channels_cost_what_arrived() {
    let mut stage = Stage::connected(config());
    let channels: Vec<_> = (0..50).map(|_| stage.consuming().1).collect();
    let mut bytes = Vec::new();
    for channel in channels {
        bytes.extend(begun_delivery(channel, 1, &content_header(100 << 20)));
        bytes.extend(frame(3, channel, &[7; 10]));
    }
    feed_counted(&mut stage, CON, &bytes);
    assert!(stage.peers[CON].up);
}

#[test]
fn strings_whose_length_lies_are_refused() {
    // In a long string of Start (mechanisms), in a table, in a short string at the end.
    let start = |rest: &[u8]| [&[0, 10, 0, 10, 0, 9][..], rest].concat();
    let lies: [&[u8]; 6] = [
        &[0xFF, 0xFF, 0xFF, 0xFF],
        &[0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, b'P'],
        &[0, 0, 0, 0, 0x80, 0, 0, 0, b'P'],
        &[0, 0, 0, 8, 1, b'k', b'S', 0xFF, 0xFF, 0xFF, 0xFF, 0],
        &[0, 0, 0, 3, 200, b'k', b'S'],
        &[0, 0, 0, 0, 0, 0, 0, 5, b'P', b'L', b'A', b'I', b'N', 0, 0, 0, 99],
    ];
    for lie in lies {
        let mut stage = awaiting_start();
        feed_counted(&mut stage, PUB, &frame(1, 0, &start(lie)));
        assert!(!stage.peers[PUB].up && !stage.has_frames(PUB), "{lie:?}");
        assert!(matches!(loss(&mut stage), Loss::Protocol(_)), "{lie:?}");
    }
}

#[test]
fn f21_tables_nested_as_deep_as_a_frame_allows_need_little_stack() {
    // Before authentication in Start, and later in the headers of a delivery.
    let run = || {
        let mut stage = awaiting_start();
        let mut start = vec![0, 10, 0, 10, 0, 9];
        start.extend(nested(1_100));
        start.extend([0; 8]);
        feed_counted(&mut stage, PUB, &frame(1, 0, &start));
        assert!(!stage.peers[PUB].up);

        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x20, 0];
        header.extend(nested(18_000));
        let mut bytes = begun_delivery(channel, 1, &header);
        bytes.extend(frame(3, channel, b"x"));
        feed_counted(&mut stage, CON, &bytes);
    };
    thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

/// A message whose headers cannot be read is one message, not the end of the connection: the broker
/// would deliver it again, and the client come back to it for ever.
#[test]
fn f21_headers_that_cannot_be_read_are_no_poison() {
    let table = |entry: &[u8]| {
        let mut raw = vec![0x20, 0];
        raw.extend(u32::try_from(entry.len()).unwrap().to_be_bytes());
        raw.extend_from_slice(entry);
        raw
    };
    let unreadable = [
        table(b"\x02\xFF\xFEt\x01"),
        table(b"\x01kz\x01"),
        table(b"\x01kS\xFF\xFF\xFF\xFF"),
        vec![0x20, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        [&[0x20, 0][..], &nested(600)].concat(),
    ];
    for raw in unreadable {
        let mut stage = Stage::connected(config());
        let (consumer, channel, _) = stage.consuming();
        let mut header = content_header(1);
        header.truncate(12);
        header.extend(&raw);
        let mut bytes = begun_delivery(channel, 1, &header);
        bytes.extend(frame(3, channel, b"x"));
        bytes.extend(delivery(channel, 2, "good"));
        feed_counted(&mut stage, CON, &bytes);
        assert!(stage.peers[CON].up, "{raw:?}");
        let (_, batch) = &stage.batches[0];
        let properties = lavinmq_core::wire::decode_properties(batch.raw_properties(0));
        assert!(properties.is_err(), "{raw:?}");
        let (generation, tags) = stage.got_tags();
        assert_eq!(tags, [1, 2]);
        stage.settle(consumer, generation, 1..=1, Settlement::Reject);
        assert_eq!(stage.next(CON), reject(channel, 1));
    }
}

/// What a frame's header could be is waited for, but not for longer than silence is borne.
#[test]
fn garbage_ends_the_connection_and_is_not_hoarded() {
    for first in 0..=255_u8 {
        let garbage: Vec<u8> = (0..100).map(|n| first.wrapping_mul(31).wrapping_add(n)).collect();
        let mut stage = awaiting_start();
        feed_counted(&mut stage, PUB, &garbage);
        stage.advance(11 * SEC);
        assert!(stage.peers[PUB].hang_ups >= 1, "{first}: {}", stage.session.explain(stage.now));

        let mut beating = config();
        beating.heartbeat = 10 * SEC;
        let mut stage = Stage::new(beating);
        for c in [PUB, CON] {
            stage.accept(c, &Broker { tune: (2047, 131_072, 10), ..Broker::default() });
        }
        stage.consuming();
        feed_counted(&mut stage, CON, &garbage);
        stage.advance(31 * SEC);
        assert!(stage.peers[CON].hang_ups >= 1, "{first}: {}", stage.session.explain(stage.now));
    }
}
