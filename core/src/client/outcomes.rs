//! What became of one producer's messages, as far as somebody still wants to know.
//!
//! A message that was confirmed or sent takes no memory here: everything up to a watermark has its
//! outcome, beside runs of numbers that settled early. Kept are bad verdicts until their receipt
//! asks, and the wakers of receipts and flushes that were polled before their time.
#![expect(clippy::disallowed_types, reason = "receipts and the driver share it")]

use std::{
    collections::BTreeMap,
    mem,
    task::{Poll, Waker},
};

use super::{
    sync::{AtomicU64, Mutex, Ordering, lock},
    unwanted::Unwanted,
    waiters::store,
};
use crate::{
    error::NotConfirmed,
    event::{UnknownReason, Verdict},
    message::Message,
    publish::SettledSet,
};

/// See the module.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Everything up to here is settled. Set after the verdicts that it covers are stored.
    watermark: AtomicU64,
    /// Bad verdicts stored. Raised before the watermark that covers them.
    stored: AtomicU64,
    /// Receipts dropped before their time, as far as `State::unwanted` does not have them yet.
    dropped: Unwanted,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    settled: SettledSet,
    verdicts: BTreeMap<u64, NotConfirmed>,
    /// Numbers whose receipts were dropped before their time: nobody wants their verdicts. What is
    /// settled is in here, too, so that it stays one run per gap.
    unwanted: SettledSet,
    receipts: BTreeMap<u64, Option<Waker>>,
    /// By the number that must be reached, and a key.
    flushes: BTreeMap<(u64, u64), Option<Waker>>,
    next_flush: u64,
    /// The driver is gone: what is not settled never will be.
    abandoned: bool,
}

impl Outcomes {
    /// Whether this message has its outcome.
    pub(crate) fn is_settled(&self, sequence: u64) -> bool {
        self.watermark.load(Ordering::Acquire) >= sequence || {
            let state = lock(&self.state);
            state.abandoned || state.settled.contains(sequence)
        }
    }

    /// Whether its outcome is known without a lock: settled, and no bad verdict is stored at all.
    #[inline]
    pub(crate) fn is_plainly_good(&self, sequence: u64) -> bool {
        self.watermark.load(Ordering::Acquire) >= sequence
            && self.stored.load(Ordering::Acquire) == 0
    }

    /// A receipt asks for its outcome. The verdict is handed out once.
    #[inline]
    pub(crate) fn poll_receipt(
        &self,
        sequence: u64,
        waker: &Waker,
    ) -> Poll<Result<(), NotConfirmed>> {
        if self.is_plainly_good(sequence) {
            return Poll::Ready(Ok(()));
        }
        self.poll_slowly(sequence, waker)
    }

    #[cold]
    fn poll_slowly(&self, sequence: u64, waker: &Waker) -> Poll<Result<(), NotConfirmed>> {
        let mut state = lock(&self.state);
        if let Some(verdict) = state.verdicts.remove(&sequence) {
            self.stored.fetch_sub(1, Ordering::SeqCst);
            return Poll::Ready(Err(verdict));
        }
        if state.settled.contains(sequence) {
            return Poll::Ready(Ok(()));
        }
        if state.abandoned {
            // Only if the session itself broke down: otherwise it gave each message an outcome.
            let verdict = Verdict::Unknown(UnknownReason::Closed);
            return Poll::Ready(Err(NotConfirmed::new(verdict, sequence, Message::empty())));
        }
        let old = store(state.receipts.entry(sequence).or_default(), waker);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// A receipt was dropped without having been told. `polled`: it may have left a waker.
    pub(crate) fn forget(&self, sequence: u64, polled: bool) {
        if self.is_plainly_good(sequence) {
            return;
        }
        self.dropped.add(sequence);
        // `store` raises the count, and `settle` then looks there: one of the two sees the other.
        if !polled && self.stored.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        let waker = state.receipts.remove(&sequence);
        let verdicts = self.collect_dropped(&mut state);
        drop(state);
        drop((waker, verdicts));
    }

    /// Notes which receipts are gone, and returns the verdicts that they would have asked for.
    fn collect_dropped(&self, state: &mut State) -> Vec<NotConfirmed> {
        let mut unheard = Vec::new();
        self.dropped.drain(state.settled.watermark(), |first, last| {
            while let Some((&sequence, _)) = state.verdicts.range(first..=last).next() {
                unheard.extend(state.verdicts.remove(&sequence));
                self.stored.fetch_sub(1, Ordering::SeqCst);
            }
            state.unwanted.insert_run(first, last);
        });
        unheard
    }

    /// A flush asks whether everything up to a number is settled. `key` is its own, once it waits.
    pub(crate) fn poll_flush(
        &self,
        through: u64,
        key: &mut Option<u64>,
        waker: &Waker,
    ) -> Poll<()> {
        if self.watermark.load(Ordering::Acquire) >= through {
            return Poll::Ready(());
        }
        let mut state = lock(&self.state);
        if state.settled.watermark() >= through || state.abandoned {
            return Poll::Ready(());
        }
        let key = *key.get_or_insert_with(|| {
            state.next_flush += 1;
            state.next_flush
        });
        let old = store(state.flushes.entry((through, key)).or_default(), waker);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// A flush was dropped while it waited.
    pub(crate) fn forget_flush(&self, through: u64, key: u64) {
        let waker = lock(&self.state).flushes.remove(&(through, key));
        drop(waker);
    }

    // ---- the driver's side ----------------------------------------------------------------------

    /// A message ended badly. Call it before the `settle` that covers it (which drops the verdict if
    /// the receipt was dropped just now).
    pub(crate) fn store(&self, verdict: NotConfirmed) {
        let mut state = lock(&self.state);
        if !state.unwanted.contains(verdict.sequence)
            && state.verdicts.insert(verdict.sequence, verdict).is_none()
        {
            self.stored.fetch_add(1, Ordering::SeqCst);
        }
        let unheard = self.collect_dropped(&mut state);
        drop(state);
        drop(unheard);
    }

    /// Everything up to `watermark`, and these runs beyond it, are settled. Returns whom to wake.
    pub(crate) fn settle(&self, watermark: u64, early: &[(u64, u64)]) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut state = lock(&self.state);
        let unheard = self.collect_dropped(&mut state);
        let before = state.settled.watermark();
        state.settled.insert_run(1, watermark);
        for &(first, last) in early {
            state.settled.insert_run(first, last);
            // Nobody's verdict can come any more.
            state.unwanted.insert_run(first, last);
            while let Some((&sequence, _)) = state.receipts.range(first..=last).next() {
                wakers.extend(state.receipts.remove(&sequence).flatten());
            }
        }
        let watermark = state.settled.watermark();
        if watermark > before {
            state.unwanted.insert_run(1, watermark);
            while let Some(first) = state.receipts.first_entry()
                && *first.key() <= watermark
            {
                wakers.extend(first.remove());
            }
            while let Some(first) = state.flushes.first_entry()
                && first.key().0 <= watermark
            {
                wakers.extend(first.remove());
            }
            self.watermark.store(watermark, Ordering::Release);
        }
        drop(state);
        drop(unheard);
        wakers
    }

    /// The driver is gone: whoever waits still is woken, and told that nobody knows.
    pub(crate) fn abandon(&self) -> Vec<Waker> {
        let mut state = lock(&self.state);
        state.abandoned = true;
        let receipts = mem::take(&mut state.receipts);
        let flushes = mem::take(&mut state.flushes);
        drop(state);
        receipts.into_values().chain(flushes.into_values()).flatten().collect()
    }

    /// What is kept: bad verdicts, receipts' wakers, flushes' wakers, runs of unwanted numbers.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> (usize, usize, usize, usize) {
        let state = lock(&self.state);
        debug_assert_eq!(state.verdicts.len() as u64, self.stored.load(Ordering::Relaxed));
        (
            state.verdicts.len(),
            state.receipts.len(),
            state.flushes.len(),
            state.unwanted.early_runs(),
        )
    }
}
