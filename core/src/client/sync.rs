//! The one way in which a lock is taken.
#![expect(clippy::disallowed_types, reason = "handles and driver share state between threads")]

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not a thread panicked while it held the lock: what we keep behind locks is
/// consistent between any two statements, and one panic must not become everybody's.
#[inline]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
