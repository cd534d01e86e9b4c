//! A table of named timers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use crate::time::Time;

/// Timers by name. Arming one again moves it.
///
/// The hot paths never touch it: a timer that depends on activity is armed once, and looks at the
/// latest activity when it fires (then it is armed again if it fired too early).
#[derive(Clone, Debug)]
pub(crate) struct Timers<K> {
    by_time: BTreeSet<(Time, K)>,
    by_key: BTreeMap<K, Time>,
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) const fn new() -> Self {
        Self { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }

    /// Arms `key` for `at`.
    pub(crate) fn arm(&mut self, key: K, at: Time) {
        if let Some(old) = self.by_key.insert(key, at) {
            if old == at {
                return;
            }
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
    }

    /// Arms `key` for `at` unless it is armed already.
    pub(crate) fn arm_if_idle(&mut self, key: K, at: Time) {
        if !self.by_key.contains_key(&key) {
            self.arm(key, at);
        }
    }

    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    pub(crate) fn get(&self, key: K) -> Option<Time> {
        self.by_key.get(&key).copied()
    }

    /// Those armed among keys that follow each other, in their order.
    pub(crate) fn armed(&self, keys: RangeInclusive<K>) -> Vec<K> {
        self.by_key.range(keys).map(|(&key, _)| key).collect()
    }

    /// The earliest timer.
    pub(crate) fn next(&self) -> Option<(Time, K)> {
        self.by_time.first().copied()
    }

    /// Takes the earliest timer if it is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<K> {
        let (at, key) = self.next()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }

    /// How many are armed.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// All of them, the earliest first.
    #[cfg(feature = "model")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Time, K)> + '_ {
        self.by_time.iter().copied()
    }

    pub(crate) fn clear(&mut self) {
        self.by_time.clear();
        self.by_key.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f22_an_overdue_timer_fires_once_however_late() {
        let mut timers = Timers::new();
        timers.arm('a', Time::from_nanos(10));
        timers.arm('b', Time::from_nanos(5));
        timers.arm('a', Time::from_nanos(20));
        timers.arm_if_idle('a', Time::from_nanos(1));
        assert_eq!(timers.armed('b'..='c'), ['b']);
        assert_eq!(timers.next(), Some((Time::from_nanos(5), 'b')));
        let late = Time::from_nanos(1_000_000);
        assert_eq!(timers.pop_due(late), Some('b'));
        assert_eq!(timers.pop_due(Time::from_nanos(19)), None);
        assert_eq!(timers.pop_due(late), Some('a'));
        assert_eq!(timers.pop_due(late), None);
    }
}
