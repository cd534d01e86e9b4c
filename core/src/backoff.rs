//! How long to wait before the next attempt.

use std::time::Duration;

use rand_chacha::{ChaCha8Rng, rand_core::Rng};

use crate::config::BackoffConfig;

/// Everything random in a session comes from this one seeded generator.
pub(crate) type SeededRng = ChaCha8Rng;

/// Delays that grow with each failure (semantics s41).
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Failures in a row.
    pub(crate) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay before the next attempt: zero after the first failure, then the configured ones.
    pub(crate) fn next(&mut self, config: &BackoffConfig, rng: &mut SeededRng) -> Duration {
        let delay = match self.failures {
            0 => Duration::ZERO,
            failures => jittered(nth_delay(config, failures - 1), config, rng),
        };
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// The longest delay: for refusals that only a change of configuration can end.
    pub(crate) fn longest(&mut self, config: &BackoffConfig, rng: &mut SeededRng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        jittered(config.max, config, rng)
    }
}

/// The delay number `n` from 0, without jitter.
fn nth_delay(config: &BackoffConfig, n: u32) -> Duration {
    let max = config.max.as_secs_f64();
    let factor = config.multiplier.max(1.0).powi(i32::try_from(n).unwrap_or(i32::MAX));
    let seconds = (config.initial.as_secs_f64() * factor).min(max);
    Duration::try_from_secs_f64(seconds).unwrap_or(config.max)
}

fn jittered(delay: Duration, config: &BackoffConfig, rng: &mut SeededRng) -> Duration {
    if !config.jitter {
        return delay;
    }
    let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
    delay.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn s41_immediate_then_100_ms_doubling_to_30_s() {
        let config = BackoffConfig { jitter: false, ..BackoffConfig::default() };
        let mut rng = SeededRng::from_seed([1; 32]);
        let mut backoff = Backoff::default();
        let delays: Vec<u128> =
            (0..12).map(|_| backoff.next(&config, &mut rng).as_millis()).collect();
        assert_eq!(
            delays,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        backoff.reset();
        assert_eq!(backoff.next(&config, &mut rng), Duration::ZERO);
    }

    #[test]
    fn s41_jitter_stays_within_half_and_whole_and_follows_the_seed() {
        let config = BackoffConfig::default();
        let run = |seed| {
            let mut rng = SeededRng::from_seed([seed; 32]);
            let mut backoff = Backoff { failures: 3 };
            (0..20).map(|_| backoff.next(&config, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        for (n, delay) in (2..).zip(run(1)) {
            let full = nth_delay(&config, n);
            assert!(delay >= full / 2 && delay <= full, "{n}: {delay:?} of {full:?}");
        }
    }

    #[test]
    fn a_hostile_multiplier_overflows_nothing() {
        let config =
            BackoffConfig { multiplier: f64::MAX, jitter: false, ..BackoffConfig::default() };
        let mut backoff = Backoff { failures: u32::MAX };
        let mut rng = SeededRng::from_seed([0; 32]);
        assert_eq!(backoff.next(&config, &mut rng), config.max);
    }
}
