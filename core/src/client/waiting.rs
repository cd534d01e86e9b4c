//! Those who wait for one thing to happen.
#![expect(clippy::disallowed_types, reason = "a waker is stored while its future waits")]

use std::{collections::BTreeMap, task::Waker};

use super::waiters::store;

/// The wakers of futures that wait for one thing: one each, until it happens or the future is dropped.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    wakers: BTreeMap<u64, Option<Waker>>,
    next: u64,
}

impl Waiting {
    /// Has a future woken. `key` is its own, once it waits. Returns the waker that this replaces, to
    /// be dropped outside the lock.
    pub(crate) fn wait(&mut self, key: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let key = *key.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        store(self.wakers.entry(key).or_default(), waker)
    }

    /// A future was dropped while it waited. Returns its waker, to be dropped outside the lock.
    pub(crate) fn leave(&mut self, key: u64) -> Option<Waker> {
        self.wakers.remove(&key).flatten()
    }

    /// How many wait.
    #[cfg(feature = "sabotage")]
    pub(crate) fn len(&self) -> usize {
        self.wakers.len()
    }

    /// It has happened: whom to wake.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.wakers).into_values().flatten()
    }
}

/// A future's place among those who wait. Dropped, it is given up.
pub(crate) struct Place<F: FnMut(u64)> {
    /// What [`Waiting::wait`] sets.
    pub(crate) key: Option<u64>,
    leave: F,
}

impl<F: FnMut(u64)> Place<F> {
    /// No place yet. `leave` gives it up.
    pub(crate) const fn new(leave: F) -> Self {
        Self { key: None, leave }
    }
}

impl<F: FnMut(u64)> Drop for Place<F> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            (self.leave)(key);
        }
    }
}
