//! An open loop: when each message should be sent, whatever became of those before it. Times are
//! measured from then, so that a stall counts for every message that should have been sent
//! meanwhile, and not only for the one that was being sent (coordinated omission).

use std::time::{Duration, Instant};

/// So many messages, evenly spread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start: Instant,
    /// Nanoseconds from one message to the next.
    interval: f64,
    /// How many there are.
    pub(super) count: u64,
}

impl Schedule {
    /// `rate` messages a second for `time`.
    pub(super) fn new(start: Instant, rate: f64, time: Duration) -> Self {
        let count = (rate * time.as_secs_f64()).round().max(1.0) as u64;
        Self { start, interval: 1e9 / rate, count }
    }

    /// When message number `i`, from 0, should be sent.
    pub(super) fn intended(&self, i: u64) -> Instant {
        self.start + self.offset(i)
    }

    /// How many should have been sent by `now`.
    pub(super) fn due(&self, now: Instant) -> u64 {
        let Some(passed) = now.checked_duration_since(self.start) else { return 0 };
        let about = (passed.as_nanos() as f64 / self.interval) as u64 + 1;
        // Rounding may have made it one too many or too few: what was intended decides.
        let mut due = about.saturating_sub(1);
        while due <= about && self.offset(due) <= passed {
            due += 1;
        }
        due.min(self.count)
    }

    fn offset(&self, i: u64) -> Duration {
        Duration::from_nanos((i as f64 * self.interval) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_due_from_the_moment_it_was_intended_for() {
        let start = Instant::now();
        for rate in [7.0, 1_000.0, 33_333.0, 3_456_789.0] {
            let schedule = Schedule::new(start, rate, Duration::from_secs(2));
            assert_eq!(schedule.count, (2.0 * rate) as u64);
            for i in [0, 1, 2, schedule.count / 3, schedule.count - 1] {
                let at = schedule.intended(i);
                assert_eq!(schedule.due(at), i + 1, "message {i} at {rate}/s");
                if i > 0 {
                    let before = at - Duration::from_nanos(1);
                    assert_eq!(schedule.due(before), i, "before message {i} at {rate}/s");
                }
            }
            assert_eq!(schedule.due(start + Duration::from_secs(9)), schedule.count);
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let start = Instant::now() + Duration::from_secs(1);
        assert_eq!(Schedule::new(start, 1e6, Duration::from_secs(1)).due(Instant::now()), 0);
    }

    #[test]
    fn the_last_is_intended_one_interval_before_the_end() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1_000.0, Duration::from_secs(2));
        assert_eq!(schedule.intended(1_999), start + Duration::from_millis(1_999));
    }
}
