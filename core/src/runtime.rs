//! The seam to a runtime: sockets, a timer and the time. Everything else is the core's.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};

use crate::{config::Target, error::DialError, time::Time};

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A transport of any kind: what a custom connector yields.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// What a runtime provides. Implemented by `lavinmq-tokio`, `lavinmq-smol` and the simulator.
pub trait Runtime: Send + Sync + 'static {
    /// A connected transport, TLS included (an enum of plain and TLS streams).
    ///
    /// `poll_write` may buffer (TLS does): the driver counts bytes as written only once
    /// `poll_flush` has returned `Ready(Ok(()))`, unless [`Runtime::writes_are_final`] says that a
    /// write is final at once.
    type Io: Transport;
    /// A timer.
    type Timer: Timer + Unpin + Send + 'static;

    /// The time: monotonic, since an epoch of the runtime's choice.
    fn now(&self) -> Time;

    /// 32 random bytes, from which everything random in a session is derived.
    fn seed(&self) -> [u8; 32];

    /// Opens a transport. The driver puts the connect deadline around it and drops the future when
    /// that expires.
    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Self::Io, DialError>>;

    /// A timer, lazily bound to the runtime: it may be made outside of it.
    fn timer(&self) -> Self::Timer;

    /// Whether a byte that `poll_write` took is in the kernel's hands (plain TCP), so that no flush
    /// is needed to count it as written.
    fn writes_are_final(io: &Self::Io) -> bool {
        let _ = io;
        false
    }

    /// The longest the driver sleeps whatever its deadlines say: the failsafe tick (100 ms).
    /// `None` switches it off; the simulator does, to prove that nothing depends on it.
    fn tick(&self) -> Option<std::time::Duration> {
        Some(std::time::Duration::from_millis(100))
    }
}

/// A timer that the driver re-arms at each poll.
pub trait Timer {
    /// `Ready` once `at` has come. Arms the timer for `at`, replacing what it was armed for, and
    /// registers the waker otherwise.
    fn poll_until(self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()>;
}
