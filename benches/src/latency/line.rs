//! What a run says, on one line: how much was done, and a histogram, whole, so that rounds can be
//! put together.

use std::time::Duration;

use crate::Fallible;
use crate::contestants::{Latencies, latencies};

/// What one run says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    /// Messages that were accepted, or confirmed.
    pub(super) messages: u64,
    pub(super) took: Duration,
    /// Nanoseconds.
    pub(super) times: Latencies,
}

impl Said {
    pub(super) fn per_second(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }

    /// Number, nanoseconds, and then VALUE:COUNT for each value that occurred.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{} {}", self.messages, self.took.as_nanos());
        for value in self.times.iter_recorded() {
            let count = value.count_since_last_iteration();
            line.push_str(&format!(" {}:{count}", value.value_iterated_to()));
        }
        line
    }

    /// The same, read.
    pub(super) fn read(line: &str) -> Fallible<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or("a line that is too short");
        let messages = next()?.parse()?;
        let took = Duration::from_nanos(next()?.parse()?);
        let mut times = latencies()?;
        for word in words {
            let (value, count) = word.split_once(':').ok_or("a value without a count")?;
            times.record_n(value.parse()?, count.parse()?)?;
        }
        Ok(Self { messages, took, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(values: impl Iterator<Item = u64>) -> Fallible<Said> {
        let mut times = latencies()?;
        for value in values {
            times.record(value)?;
        }
        Ok(Said { messages: times.len(), took: Duration::from_millis(7), times })
    }

    #[test]
    fn a_histogram_survives_its_line() -> Fallible {
        let one = said((1..5_000).map(|i| i * i))?;
        let read = Said::read(&one.line())?;
        assert_eq!(read, one);
        for quantile in [0.0, 0.5, 0.99, 0.9999, 1.0] {
            assert_eq!(
                read.times.value_at_quantile(quantile),
                one.times.value_at_quantile(quantile)
            );
        }
        Ok(())
    }

    #[test]
    fn two_that_are_put_together_are_as_one_of_all_their_values() -> Fallible {
        let mut sum = Said::read(&said((0..900).map(|i| 50 + i))?.line())?.times;
        sum.add(Said::read(&said((0..100).map(|i| 1_000_000 + i * 1_000))?.line())?.times)?;
        let all = said((0..900).map(|i| 50 + i).chain((0..100).map(|i| 1_000_000 + i * 1_000)))?;
        assert_eq!(sum.len(), 1_000);
        for quantile in [0.5, 0.9, 0.99, 1.0] {
            assert_eq!(
                sum.value_at_quantile(quantile),
                all.times.value_at_quantile(quantile),
                "{quantile}"
            );
        }
        Ok(())
    }
}
