//! How fast our client must be: the first table of the design's section 6, in one place.
//!
//! The figures stand for the machine of that table. A ceiling in nanoseconds is scaled by the
//! raw client's figure in this run over the raw client's figure there, if that is above 1.

use crate::modes::Mode;

/// What bounds our figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// Nanoseconds on the table's machine: of tokio, and of smol where it may take longer.
    Nanoseconds { tokio: f64, smol: f64 },
    /// A factor times the raw client's figure: of tokio, and of smol.
    TimesRaw { tokio: f64, smol: f64 },
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceiling {
    mode: Mode,
    size: usize,
    /// The raw client there: CPU nanoseconds a message; for latencies, nanoseconds (p50).
    raw: f64,
    bound: Bound,
}

const fn nanoseconds(mode: Mode, raw: f64, tokio: f64, smol: f64) -> Ceiling {
    Ceiling { mode, size: 16, raw, bound: Bound::Nanoseconds { tokio, smol } }
}

const fn times(mode: Mode, size: usize, raw: f64, tokio: f64, smol: f64) -> Ceiling {
    Ceiling { mode, size, raw, bound: Bound::TimesRaw { tokio, smol } }
}

const TABLE: [Ceiling; 9] = [
    nanoseconds(Mode::Publish, 60.0, 105.0, 105.0),
    nanoseconds(Mode::Publish4Tasks, 60.0, 105.0, 105.0),
    nanoseconds(Mode::ConfirmPipelined, 67.0, 140.0, 170.0),
    nanoseconds(Mode::ConsumeNoAck, 19.0, 75.0, 75.0),
    nanoseconds(Mode::ConsumeAck1000, 38.0, 80.0, 80.0),
    times(Mode::ConsumeAck100, 16, 121.0, 1.6, 2.0),
    times(Mode::ConfirmOne, 16, 16_000.0, 1.2, 1.2),
    times(Mode::Publish, 1024, 319.0, 1.35, 1.35),
    times(Mode::ConsumeNoAck, 1024, 139.0, 1.45, 1.45),
];

/// The ceilings of a run: tokio's and smol's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) tokio: f64,
    pub(crate) smol: f64,
}

/// The limits of a mode at a body size, given the raw client's figure in the same run;
/// `None` where the table has no row.
pub(crate) fn limits(mode: Mode, size: usize, raw: f64) -> Option<Limits> {
    let row = TABLE.iter().find(|row| row.mode == mode && row.size == size)?;
    Some(match row.bound {
        Bound::Nanoseconds { tokio, smol } => {
            let scale = (raw / row.raw).max(1.0);
            Limits { tokio: tokio * scale, smol: smol * scale }
        }
        Bound::TimesRaw { tokio, smol } => Limits { tokio: tokio * raw, smol: smol * raw },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slower_machine_raises_a_ceiling_in_nanoseconds_and_a_faster_one_does_not_lower_it() {
        let at = |raw| limits(Mode::Publish, 16, raw).map(|limits| limits.tokio);
        assert_eq!(at(120.0), Some(210.0));
        assert_eq!(at(30.0), Some(105.0));
    }

    #[test]
    fn a_factor_follows_raw_both_ways() {
        let smol = |raw| limits(Mode::ConsumeAck100, 16, raw).map(|limits| limits.smol);
        assert_eq!(smol(100.0), Some(200.0));
        assert_eq!(smol(10.0), Some(20.0));
    }
}
