//! Rows of figures: what one contestant did in one task, round after round.

use crate::child::Outcome;
use crate::contestants::{Entry, Role};
use crate::modes::Task;

/// What contestants are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// CPU nanoseconds a message: the client is the limit.
    Cpu,
    /// The median time of one message.
    Latency,
    /// Messages a second: the broker is the limit.
    Rate,
}

impl Measure {
    /// For a task against the sink, or a real broker.
    pub(crate) fn of(task: &Task, broker: bool) -> Self {
        match (task.mode.is_latency(), broker) {
            (true, _) => Self::Latency,
            (false, true) => Self::Rate,
            (false, false) => Self::Cpu,
        }
    }

    /// Whether `a` is better than `b`.
    fn prefers(self, a: f64, b: f64) -> bool {
        if self == Self::Rate { a > b } else { a < b }
    }
}

/// What one contestant did in one task.
pub(crate) struct Row {
    pub(crate) entry: &'static Entry,
    pub(crate) task: Task,
    pub(crate) measure: Measure,
    /// One for each round.
    pub(crate) outcomes: Vec<Outcome>,
    /// From the rounds that count: they are not timed.
    pub(crate) counts: Vec<Outcome>,
    pub(crate) failures: Vec<String>,
    /// Why it is not run at all.
    pub(crate) excused: Option<&'static str>,
}

/// The middle of several runs, and the least and the greatest of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        };
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

impl Row {
    pub(crate) fn new(entry: &'static Entry, task: Task, measure: Measure) -> Self {
        Self {
            entry,
            task,
            measure,
            outcomes: Vec::new(),
            counts: Vec::new(),
            failures: Vec::new(),
            excused: None,
        }
    }

    /// For the progress line, and for failures.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.entry.name, self.task.title())
    }

    /// Of the timed rounds.
    pub(crate) fn spread(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.outcomes.iter().filter_map(figure))
    }

    /// Of the rounds that count.
    pub(crate) fn counted(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        Spread::of(self.counts.iter().filter_map(figure)).map(|spread| spread.median)
    }

    /// What contestants are compared by.
    pub(crate) fn figure(&self) -> Option<Spread> {
        self.spread(|outcome| match self.measure {
            Measure::Cpu => Some(outcome.cpu),
            Measure::Latency => outcome.p50,
            Measure::Rate => Some(outcome.rate),
        })
    }

    /// The middle of it.
    pub(crate) fn median(&self) -> Option<f64> {
        self.figure().map(|spread| spread.median)
    }
}

/// The figure of the first row of that role.
pub(crate) fn of_role(rows: &[Row], role: Role) -> Option<f64> {
    rows.iter().find(|row| row.entry.role == role)?.median()
}

/// The peer that did best.
pub(crate) fn best_peer(rows: &[Row]) -> Option<(&'static str, f64)> {
    rows.iter()
        .filter(|row| row.entry.role == Role::Peer)
        .filter_map(|row| Some((row, row.median()?)))
        .reduce(|best, next| if next.0.measure.prefers(next.1, best.1) { next } else { best })
        .map(|(row, figure)| (row.entry.name, figure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0].into_iter());
        assert_eq!(spread, Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }
}
