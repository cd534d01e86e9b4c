//! Which messages of a producer have their outcome.

use std::collections::BTreeMap;

/// A watermark, and the runs of numbers beyond it that settled early.
///
/// Numbers count from 1. Runs that touch are joined, so that the memory is bounded by the number of
/// messages *not* settled, however many are evicted behind one that is stuck in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettledSet {
    watermark: u64,
    /// First to last, both included; all beyond `watermark + 1`, none touching another.
    early: BTreeMap<u64, u64>,
}

impl SettledSet {
    /// Every number up to this one is settled.
    #[must_use]
    pub const fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Whether this one is settled.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        number <= self.watermark
            || self.early.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    /// Runs settled beyond the watermark.
    #[must_use]
    pub fn early_runs(&self) -> usize {
        self.early.len()
    }

    /// Settles one number. Settling it again changes nothing.
    #[inline]
    pub fn insert(&mut self, number: u64) {
        if number == self.watermark + 1 && self.early.is_empty() {
            self.watermark = number;
        } else {
            self.insert_run(number, number);
        }
    }

    /// Settles every number from `first` to `last`, both included.
    pub fn insert_run(&mut self, first: u64, last: u64) {
        if last <= self.watermark || last < first {
            return;
        }
        let (mut first, mut last) = (first.max(self.watermark + 1), last);
        if let Some((&start, &end)) = self.early.range(..=first).next_back()
            && end + 1 >= first
        {
            self.early.remove(&start);
            first = start;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.early.range(first..).next()
            && start <= last.saturating_add(1)
        {
            self.early.remove(&start);
            last = last.max(end);
        }
        if first == self.watermark + 1 {
            self.watermark = last;
        } else {
            self.early.insert(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn runs_join_in_every_order() {
        for (a, b, c) in [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (2, 1, 3)] {
            let mut set = SettledSet::default();
            for number in [a, b, c] {
                set.insert(number);
            }
            assert_eq!((set.watermark(), set.early_runs()), (3, 0), "{a} {b} {c}");
        }
    }

    #[test]
    fn agrees_with_a_plain_set() {
        let mut set = SettledSet::default();
        let mut plain = BTreeSet::new();
        let mut x = 7_u64;
        for _ in 0..2000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let first = (x >> 33) % 400 + 1;
            let last = first + (x >> 60) % 4;
            set.insert_run(first, last);
            plain.extend(first..=last);
            assert!((1..=410).all(|n| set.contains(n) == plain.contains(&n)));
            assert!(
                (1..=set.watermark()).all(|n| plain.contains(&n))
                    && !plain.contains(&(set.watermark() + 1))
            );
        }
    }

    #[test]
    fn a_stuck_message_costs_one_run_however_many_settle_behind_it() {
        let mut set = SettledSet::default();
        for number in 2..1_000_000 {
            set.insert(number);
        }
        assert_eq!((set.watermark(), set.early_runs()), (0, 1));
        set.insert(1);
        assert_eq!((set.watermark(), set.early_runs()), (999_999, 0));
    }
}
