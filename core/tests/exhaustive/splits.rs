//! However bytes are cut into reads and writes, the trace is the same: f1 to f3.

use crate::{
    harness::*,
    trace,
    world::{Cut, Failure, Reads, Side, World},
};

fn played(reads: Reads) -> World {
    let mut world = trace::world().with_reads(reads);
    trace::play(&mut world, false);
    world
}

/// Both wrote and told the same, in the same order.
fn assert_same(reads: Reads, whole: &World) {
    let other = played(reads);
    for (part, whole_part) in other.log.iter().flatten().zip(whole.log.iter().flatten()) {
        for (line, whole_line) in part.iter().zip(whole_part) {
            assert_eq!(line, whole_line, "{reads:?}");
        }
        assert_eq!(part.len(), whole_part.len(), "{reads:?}");
    }
    assert_eq!(other.volumes, whole.volumes, "{reads:?}: bytes read and written");
}

#[test]
fn f01_f02_single_frames_and_pieces_of_any_length_give_the_same_trace() {
    let whole = played(Reads::Coalesced);
    assert!(whole.log.iter().flatten().flatten().count() > 100, "{:#?}", whole.log);
    assert_same(Reads::Frames, &whole);
    for length in 1..=64 {
        assert_same(Reads::Pieces(length), &whole);
    }
}

#[test]
fn f01_every_split_of_every_read_gives_the_same_trace() {
    let whole = played(Reads::Coalesced);
    let mut splits = 0;
    for (read, &length) in whole.read_lengths.iter().enumerate() {
        for after in 1..length {
            assert_same(Reads::Split { read, after }, &whole);
            splits += 1;
        }
    }
    assert!(splits > 2000, "{splits} splits");
}

/// A write that ends after every byte, and goes on there with the next one: the broker gets the same
/// messages, whole. (It hears the halves one after the other, so its answers come in another order.)
#[test]
fn f03_every_split_of_what_is_written_brings_the_same_messages() {
    let whole = played(Reads::Coalesced);
    let copies = |world: &World| {
        let mut copies: Vec<_> =
            world.broker.copies.iter().map(|copy| format!("{copy:?}")).collect();
        copies.sort();
        copies
    };
    let expected = copies(&whole);
    for connection in [PUB, CON] {
        for after in 1..whole.volumes[connection][0].1 {
            let (side, failure) = (Side::Out, Failure::Pause);
            let pause = Cut { connection, transport: 1, side, after, failure };
            let mut world = trace::world().with_cuts([pause]);
            trace::play(&mut world, false);
            assert_eq!(world.cuts_left(), 0, "{pause:?}");
            assert_eq!(copies(&world), expected, "{pause:?}");
        }
    }
}
