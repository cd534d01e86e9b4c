//! Timers on the virtual clock.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use lavinmq_core::{runtime::Timer, time::Time};

use super::Handle;

/// The runtime's timer: one entry in the executor's heap.
#[derive(Debug)]
pub struct SimTimer {
    handle: Handle,
    armed: Option<(Time, u64)>,
}

impl SimTimer {
    pub(super) const fn new(handle: Handle) -> Self {
        Self { handle, armed: None }
    }

    /// It no longer wakes anybody.
    pub fn disarm(&mut self) {
        self.handle.disarm(&mut self.armed);
    }
}

impl Timer for SimTimer {
    fn poll_until(mut self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        let Self { handle, armed } = &mut *self;
        if handle.now() >= at {
            handle.disarm(armed);
            return Poll::Ready(());
        }
        if at == Time::MAX {
            handle.disarm(armed);
        } else {
            handle.arm(armed, at, cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Done at a point in time.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    timer: SimTimer,
    at: Time,
}

impl Sleep {
    pub(super) const fn new(timer: SimTimer, at: Time) -> Self {
        Self { timer, at }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        Pin::new(&mut self.timer).poll_until(cx, at)
    }
}
