//! The same names under loom. Two things are a library's own, whose atomics loom cannot see, and are
//! stand-ins here: what the models show is shown of our protocols around them, not of the libraries.
//!
//! - [`SegQueue`] (crossbeam) is a deque behind a lock. A look at an empty one synchronises with
//!   nothing, and may be out of date: less than crossbeam promises, so a protocol that needs more from
//!   such a look than its own fences give is found out.
//! - [`AtomicWaker`] (futures) is a waker behind a lock.
//!
//! And loom takes a sequentially consistent operation for an acquiring and releasing one. So a
//! sequentially consistent load of our [`AtomicU64`] reads the latest value there, as a
//! read-modify-write: enough for two threads that each write one word and then read the other's.
//! Not seen at all are `Arc`'s counts and the one-shot channels that carry answers.

use std::{collections::VecDeque, fmt, task::Waker};

pub(crate) use loom::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering, fence},
    },
    thread::yield_now,
};

use super::lock;

#[derive(Debug, Default)]
pub(crate) struct AtomicU64(loom::sync::atomic::AtomicU64);

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(loom::sync::atomic::AtomicU64::new(value))
    }

    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        if order == Ordering::SeqCst {
            return self.0.fetch_add(0, Ordering::AcqRel);
        }
        self.0.load(order)
    }

    #[track_caller]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    #[track_caller]
    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }

    #[track_caller]
    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange_weak(current, new, success, failure)
    }
}

macro_rules! read_modify_writes {
    ($($name:ident)*) => {
        impl AtomicU64 {
            $(#[track_caller]
            pub(crate) fn $name(&self, value: u64, order: Ordering) -> u64 {
                self.0.$name(value, order)
            })*
        }
    };
}

read_modify_writes!(swap fetch_add fetch_sub fetch_or fetch_and);

pub(crate) struct SegQueue<T> {
    /// Changed under the lock, and read without it.
    len: AtomicUsize,
    items: Mutex<VecDeque<T>>,
}

impl<T> SegQueue<T> {
    pub(crate) fn new() -> Self {
        Self { len: AtomicUsize::new(0), items: Mutex::new(VecDeque::new()) }
    }

    pub(crate) fn push(&self, item: T) {
        let mut items = lock(&self.items);
        items.push_back(item);
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let mut items = lock(&self.items);
        let item = items.pop_front();
        if item.is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        item
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }
}

impl<T> Default for SegQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for SegQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegQueue")
    }
}

#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn register(&self, waker: &Waker) {
        let old = lock(&self.0).replace(waker.clone());
        drop(old);
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        lock(&self.0).take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}
