//! The wakers of tasks, counted: whoever keeps one after the end is found.

use std::{
    sync::{Arc, atomic::Ordering},
    task::Wake,
};

use super::handle::Inner;

/// Wakes the task in this slot, if it is the waker that counts.
pub(super) struct TaskWaker {
    pub(super) slot: usize,
    /// The poll that it was made for.
    pub(super) poll: u64,
    pub(super) inner: Arc<Inner>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inner.wake(self.slot, self.poll);
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        self.inner.wakers.fetch_sub(1, Ordering::Relaxed);
    }
}
