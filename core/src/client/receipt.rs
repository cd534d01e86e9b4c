//! Receipts: what a confirm producer's `publish` gives for an accepted message.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::FusedFuture;

use super::outcomes::Outcomes;
use crate::error::NotConfirmed;

/// The right to be told what became of an accepted message.
///
/// Awaiting it gives `Ok` once the broker has confirmed the message, and otherwise the error that
/// says what became of it, with the message in it. It resolves when *its own* message has its
/// outcome, whatever becomes of earlier ones, and however often the connection is lost meanwhile.
///
/// A confirm proves that a copy reached every matching durable queue, provided that the message is
/// persistent (the default here), and that the queue kept it (overflow, TTL) and still exists.
///
/// It is a pointer and a number: nothing is allocated for a message, and to keep a few thousand in a
/// `VecDeque` and await the front is the cheapest way to watch a stream of publishes. A bad outcome
/// is kept in memory, message included, until its receipt asks for it or is dropped.
///
/// # Cancel safety
///
/// It can be polled, left alone and polled again. Dropping it cancels nothing: the message still
/// gets its outcome, is counted in `stats()`, and reaches the hooks; [`Receipt::detach`] is the way
/// to say that this is meant. It does not keep the client alive: when the client ends, every receipt
/// resolves.
#[must_use = "a receipt says whether the broker has the message; `detach()` it if you do not want to know"]
pub struct Receipt {
    /// `None` once it has told.
    outcomes: Option<Arc<Outcomes>>,
    /// The number, and `POLLED`.
    word: u64,
}

/// The bit of a receipt's word that says that it has been polled: it may have left a waker. (A flag of
/// its own would make receipts, which are kept by the thousand, half as large again.)
const POLLED: u64 = 1 << 63;

impl Receipt {
    pub(super) const fn new(outcomes: Arc<Outcomes>, sequence: u64) -> Self {
        Self { outcomes: Some(outcomes), word: sequence }
    }

    /// The message's number within its producer, counted from 1: the one that hooks and events carry.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.word & !POLLED
    }

    /// Whether the message has its outcome, so that awaiting the receipt would not wait.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.outcomes.as_ref().is_none_or(|outcomes| outcomes.is_settled(self.sequence()))
    }

    /// Gives up the right to be told, on purpose. The message still gets its outcome.
    pub fn detach(self) {
        drop(self);
    }
}

impl Future for Receipt {
    type Output = Result<(), NotConfirmed>;

    /// Pending for ever once it has been `Ready`.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(outcomes) = &self.outcomes else { return Poll::Pending };
        let outcome = outcomes.poll_receipt(self.sequence(), cx.waker());
        if outcome.is_ready() {
            self.outcomes = None;
        }
        self.word |= POLLED;
        outcome
    }
}

impl FusedFuture for Receipt {
    fn is_terminated(&self) -> bool {
        self.outcomes.is_none()
    }
}

impl Drop for Receipt {
    #[inline]
    fn drop(&mut self) {
        if let Some(outcomes) = &self.outcomes {
            outcomes.forget(self.sequence(), self.word & POLLED != 0);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

/// Waits until everything accepted so far has its outcome. Made by `Producer::flush`.
#[must_use = "futures do nothing unless they are awaited"]
#[derive(Debug)]
pub struct Flush {
    outcomes: Arc<Outcomes>,
    through: u64,
    key: Option<u64>,
}

impl Flush {
    pub(super) const fn new(outcomes: Arc<Outcomes>, through: u64) -> Self {
        Self { outcomes, through, key: None }
    }
}

impl Future for Flush {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.outcomes.poll_flush(this.through, &mut this.key, cx.waker())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.outcomes.forget_flush(self.through, key);
        }
    }
}
