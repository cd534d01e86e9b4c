//! What handles and driver share state by: locks, atomics, and the lock-free queues of a library.
//!
//! Everything shared in `client` comes from here, so that the very code that ships can run under
//! [loom](https://docs.rs/loom), which tries every interleaving of a few threads, and every value that
//! a weak ordering lets a load return:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p lavinmq-core --lib --release --target-dir target/loom loom_
//! ```
//!
//! Without that `cfg`, and in whatever is not this crate's own test, these are the plain types.
#![expect(clippy::disallowed_types, reason = "handles and driver share state between threads")]

#[cfg(all(loom, test))]
#[path = "sync/under_loom.rs"]
mod types;

#[cfg(not(all(loom, test)))]
mod types {
    pub(crate) use std::{
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
        },
        thread::yield_now,
    };

    pub(crate) use crossbeam_queue::SegQueue;
    pub(crate) use futures::task::AtomicWaker;
}

use std::sync::PoisonError;

pub(crate) use types::*;

/// Locks, whether or not a thread panicked while it held the lock: what we keep behind locks is
/// consistent between any two statements, and one panic must not become everybody's.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
