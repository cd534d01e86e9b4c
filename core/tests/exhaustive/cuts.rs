//! The trace cut after every byte, in both directions, by every kind of failure.

use crate::{
    harness::*,
    trace,
    world::{Cut, Failure, Side},
};

/// Plays the trace with these cuts; the bytes of each transport by connection: read, written.
fn played(cuts: &[Cut]) -> Vec<Vec<(u64, u64)>> {
    let lossy = cuts.iter().any(|cut| cut.failure == Failure::HalfOpen);
    let run = std::panic::catch_unwind(|| {
        let mut world = trace::world().with_cuts(cuts.iter().copied());
        trace::play(&mut world, lossy);
        assert_eq!(world.cuts_left(), 0, "it was cut");
        world.volumes
    });
    run.unwrap_or_else(|_| panic!("{cuts:?}"))
}

/// How many bytes one transport carries in one direction, if `cuts` come before.
fn total(cuts: &[Cut], connection: usize, transport: usize, side: Side) -> u64 {
    let (read, written) = played(cuts)[connection][transport - 1];
    if side == Side::In { read } else { written }
}

/// Cuts connection `c` after every byte that went in this direction.
fn sweep(connection: usize, side: Side, failure: Failure) {
    let total = total(&[], connection, 1, side);
    assert!(total > 500, "the trace has hardly begun: {total}");
    for after in 0..total {
        played(&[Cut { connection, transport: 1, side, after, failure }]);
    }
}

macro_rules! sweeps {
    ($($name:ident: $connection:ident $side:ident $failure:ident;)*) => {$(
        #[test]
        fn $name() {
            sweep($connection, Side::$side, Failure::$failure);
        }
    )*};
}

sweeps! {
    f07_f11_publishing_cut_by_eof_after_every_byte_read: PUB In Eof;
    f07_f11_publishing_cut_by_reset_after_every_byte_read: PUB In Reset;
    f12_publishing_silent_after_every_byte_read: PUB In Silence;
    f07_f11_consuming_cut_by_eof_after_every_byte_read: CON In Eof;
    f07_f11_consuming_cut_by_reset_after_every_byte_read: CON In Reset;
    f12_consuming_silent_after_every_byte_read: CON In Silence;
    f09_f10_publishing_cut_by_eof_after_every_byte_written: PUB Out Eof;
    f09_f10_publishing_cut_by_reset_after_every_byte_written: PUB Out Reset;
    f13_publishing_takes_nothing_after_every_byte_written: PUB Out Silence;
    f12_publishing_half_open_after_every_byte_written: PUB Out HalfOpen;
    f28_consuming_cut_by_eof_after_every_byte_written: CON Out Eof;
    f28_consuming_cut_by_reset_after_every_byte_written: CON Out Reset;
    f13_consuming_takes_nothing_after_every_byte_written: CON Out Silence;
    f12_consuming_half_open_after_every_byte_written: CON Out HalfOpen;
    f32_publishing_closed_by_the_peer_after_every_byte_written: PUB Out Closed;
    f32_consuming_closed_by_the_peer_after_every_byte_written: CON Out Closed;
}

/// The recovery is cut, too: after a first cut with much in flight, the next transport after every
/// byte, in both directions.
fn sweep_recovery(connection: usize, part: f64) {
    let length = total(&[], connection, 1, Side::Out);
    let after = (length as f64 * part) as u64;
    let first = Cut { connection, transport: 1, side: Side::Out, after, failure: Failure::Reset };
    for side in [Side::In, Side::Out] {
        let total = total(&[first], connection, 2, side);
        assert!(total > 200, "the recovery has hardly begun: {total}");
        for after in 0..total {
            let again = Cut { connection, transport: 2, side, after, failure: Failure::Eof };
            played(&[first, again]);
        }
    }
}

#[test]
fn f07_the_recovery_of_publishing_cut_after_every_byte() {
    sweep_recovery(PUB, 0.84);
}

#[test]
fn f07_the_recovery_of_consuming_cut_after_every_byte() {
    sweep_recovery(CON, 0.8);
}
