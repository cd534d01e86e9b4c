//! The hand-over of one producer: where messages are accepted, and wait for the driver to take them.
//!
//! It is the first of two stages that share one capacity (the second is the session's buffer). A
//! message is accepted by one compare-and-swap on one word, which decides admission, draws the
//! sequence number, and sees whether somebody waits in line; then it is pushed into a lock-free queue.
//! Whatever that word cannot decide takes the slow path, under a lock: waiting, refusing, evicting.
#![expect(clippy::disallowed_types, reason = "publishers and the driver share it")]

use std::{collections::VecDeque, mem, sync::Arc, task::Waker, time::Duration};

use super::{
    account::{self, Account},
    sync::{AtomicBool, AtomicI64, AtomicU64, Mutex, Ordering, SegQueue, lock},
    waiters::{Amount, Line, Refusal, Turn},
};
use crate::{
    config::{BufferPolicy, ProducerConfig, WhenOffline},
    event::State,
    publish::Accepted,
    session::Flow,
    stats::ProducerStats,
    time::Time,
};

/// Messages over capacity that a `DropOldest` producer hands over before the session, which evicts
/// as many, has taken them.
pub(crate) const BURST: u64 = if cfg!(all(loom, test)) { 1 } else { 1024 };

/// What became of an attempt to be admitted.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Accepted under this number: push it now.
    Accepted(u64),
    /// In line, with this ticket. `tell`: the driver must set the deadline.
    Waiting {
        ticket: u64,
        tell: bool,
    },
    Refused(Refusal),
}

/// How an attempt behaves when there is no room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt<'a> {
    /// It never waits.
    Try,
    /// It waits if the policy says so.
    Await(&'a Waker),
    /// The same, after its fairness yield.
    AfterYield(&'a Waker),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct HandOver {
    capacity: Amount,
    /// How far beyond the capacity evicting publishers may run ahead of the driver.
    burst: Amount,
    policy: BufferPolicy,
    refuse_offline: bool,
    timeout: Option<Duration>,

    account: Account,
    may_evict: AtomicBool,
    queue: SegQueue<Accepted>,
    /// What was pushed and not taken, evicted messages included. Below zero for a moment when the
    /// driver is faster than the push that it serves.
    pending: AtomicI64,

    /// What the driver has taken, evicted messages included; written by the driver only.
    taken: AtomicU64,
    taken_bytes: AtomicU64,

    /// Whether `Slow::evicted` holds something.
    has_evicted: AtomicBool,
    slow: Mutex<Slow>,
}

/// What the slow path works on.
#[derive(Debug, Default)]
struct Slow {
    line: Line,
    /// Accepted, evicted here, and still to be reported by the session.
    evicted: VecDeque<Accepted>,
    evicted_bytes: u64,
}

impl HandOver {
    pub(crate) fn new(config: &ProducerConfig) -> Self {
        let capacity = Amount {
            messages: (config.buffer_size as u64).clamp(1, account::MAX.messages),
            bytes: (config.buffer_bytes as u64).clamp(1, account::MAX.bytes),
        };
        Self {
            capacity,
            burst: Amount { messages: BURST, bytes: capacity.bytes / 8 },
            policy: config.policy,
            refuse_offline: config.when_offline == WhenOffline::Fail,
            timeout: config.publish_timeout,
            account: Account::default(),
            may_evict: AtomicBool::new(false),
            queue: SegQueue::new(),
            pending: AtomicI64::new(0),
            taken: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            has_evicted: AtomicBool::new(false),
            slow: Mutex::default(),
        }
    }

    /// Messages and bytes that both stages may hold.
    pub(crate) const fn capacity(&self) -> Amount {
        self.capacity
    }

    /// What both stages hold now.
    pub(crate) fn queued(&self) -> Amount {
        self.account.read().queued
    }

    /// Messages ever accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.account.read().accepted
    }

    // ---- publishing -----------------------------------------------------------------------------

    /// Admits a message with a body of so many bytes, if that needs no second look. Returns its
    /// number; the caller must push it then.
    #[inline]
    pub(crate) fn admit(&self, bytes: u64) -> Option<u64> {
        self.account.claim(bytes, |now| !now.slow && self.fits(now.queued, bytes))
    }

    /// Admits, refuses or queues up a message that [`HandOver::admit`] did not admit.
    #[cold]
    pub(crate) fn admit_slowly(
        &self,
        bytes: u64,
        attempt: Attempt<'_>,
        state: impl FnOnce() -> Arc<State>,
    ) -> Admission {
        let mut wakers = Vec::new();
        let mut slow = lock(&self.slow);
        let waker = match attempt {
            Attempt::Try => None,
            Attempt::Await(waker) => Some(waker),
            Attempt::AfterYield(waker) => {
                slow.line.yielding -= 1;
                Some(waker)
            }
        };
        let refusal = if slow.line.closed {
            Refusal::Closed
        } else if let Some(state) = slow.line.offline.then(state)
            // Once it is connected again, the producer is about to be told.
            && !state.is_connected()
        {
            Refusal::Offline(state)
        } else {
            if !slow.line.is_occupied()
                && let Some(sequence) =
                    self.account.claim(bytes, |now| self.fits(now.queued, bytes))
            {
                return Admission::Accepted(sequence);
            }
            match (self.policy, waker) {
                (BufferPolicy::DropOldest, None) => {
                    if let Some(sequence) = self.evict_for(bytes, &mut slow) {
                        return Admission::Accepted(sequence);
                    }
                }
                (BufferPolicy::Block | BufferPolicy::DropOldest, Some(waker)) => {
                    let (ticket, first) = slow.line.join(bytes, waker.clone());
                    self.mark(&slow.line);
                    // Those in front hold grants only, perhaps.
                    self.grant(&mut slow.line, &mut wakers);
                    drop(slow);
                    wakers.into_iter().for_each(Waker::wake);
                    return Admission::Waiting { ticket, tell: first && self.timeout.is_some() };
                }
                (BufferPolicy::Block, None) | (BufferPolicy::Error, _) => {}
            }
            Refusal::Full
        };
        slow.line.counts.count(&refusal);
        Admission::Refused(refusal)
    }

    /// A future in line looks after its place.
    #[cold]
    pub(crate) fn poll_place(&self, ticket: u64, waker: &Waker) -> Admission {
        let mut slow = lock(&self.slow);
        match slow.line.poll(ticket, waker) {
            Turn::Wait(old) => {
                drop(slow);
                drop(old);
                Admission::Waiting { ticket, tell: false }
            }
            Turn::Granted(bytes) => {
                let sequence = self.claim_anyway(bytes);
                self.mark(&slow.line);
                Admission::Accepted(sequence)
            }
            Turn::Refused(refusal) => Admission::Refused(refusal),
        }
    }

    /// A future in line was dropped: its room passes to the next.
    #[cold]
    pub(crate) fn leave(&self, ticket: u64) {
        let mut wakers = Vec::new();
        let mut slow = lock(&self.slow);
        let own = slow.line.leave(ticket);
        self.grant(&mut slow.line, &mut wakers);
        self.mark(&slow.line);
        drop(slow);
        drop(own);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A future begins its fairness yield.
    pub(crate) fn begin_yield(&self) {
        lock(&self.slow).line.yielding += 1;
    }

    /// A future was dropped at its fairness yield.
    pub(crate) fn cancel_yield(&self) {
        let mut slow = lock(&self.slow);
        slow.line.yielding -= 1;
        slow.line.counts.cancelled += 1;
    }

    /// A message over a limit was refused.
    pub(crate) fn count_invalid(&self) {
        lock(&self.slow).line.counts.refused_invalid += 1;
    }

    /// Hands over what was accepted. `true`: the hand-over was empty, so the driver must be told.
    #[inline]
    pub(crate) fn push(&self, accepted: Accepted) -> bool {
        self.queue.push(accepted);
        // Below zero: the driver has overtaken somebody's increment, and may miss this message.
        self.pending.fetch_add(1, Ordering::AcqRel) <= 0
    }

    // ---- the driver's side ----------------------------------------------------------------------

    /// Takes up to `max` messages. Returns whether there are more.
    pub(crate) fn take(&self, max: usize, mut each: impl FnMut(Accepted)) -> bool {
        let mut sum = Amount::default();
        while sum.messages < max as u64
            && let Some(accepted) = self.queue.pop()
        {
            sum.messages += 1;
            sum.bytes += accepted.message.body().len() as u64;
            each(accepted);
        }
        self.took(sum)
    }

    /// Takes what was evicted here. Call it before `take`: these are older.
    pub(crate) fn take_evicted(&self, each: impl FnMut(Accepted)) {
        if !self.has_evicted.load(Ordering::Acquire) {
            return;
        }
        let mut slow = lock(&self.slow);
        let evicted = mem::take(&mut slow.evicted);
        let bytes = mem::take(&mut slow.evicted_bytes);
        self.has_evicted.store(false, Ordering::Release);
        drop(slow);
        let messages = evicted.len() as u64;
        evicted.into_iter().for_each(each);
        self.took(Amount { messages, bytes });
    }

    /// Whether everything that was accepted has been taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.accepted() == self.taken.load(Ordering::Relaxed)
    }

    /// So much has left both stages (beside what was evicted here), and so it flows now. Those in
    /// line are granted what became free; returns whom to wake.
    pub(crate) fn apply(
        &self,
        left: Amount,
        flow: Flow,
        state: impl FnOnce() -> Arc<State>,
    ) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut slow = lock(&self.slow);
        self.account.leave(left);
        let may_evict = flow.may_evict && self.policy == BufferPolicy::DropOldest;
        self.may_evict.store(may_evict, Ordering::Relaxed);
        if self.refuse_offline {
            slow.line.offline = flow.offline;
            if flow.offline {
                slow.line.refuse_all(&Refusal::Offline(state()), &mut wakers);
            }
        }
        self.grant(&mut slow.line, &mut wakers);
        self.mark(&slow.line);
        drop(slow);
        wakers
    }

    /// Ends admission for good. What was accepted stays, to be taken.
    pub(crate) fn close(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut slow = lock(&self.slow);
        slow.line.closed = true;
        slow.line.refuse_all(&Refusal::Closed, &mut wakers);
        self.mark(&slow.line);
        drop(slow);
        wakers
    }

    /// Sets the deadlines of those who came since the last call, and ends the waiting of those
    /// whose deadline has come.
    pub(crate) fn expire(&self, now: Time) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if let Some(timeout) = self.timeout {
            let mut slow = lock(&self.slow);
            slow.line.stamp(now + timeout);
            slow.line.expire(now, self.policy == BufferPolicy::DropOldest, &mut wakers);
            self.grant(&mut slow.line, &mut wakers);
            self.mark(&slow.line);
        }
        wakers
    }

    /// The earliest deadline of those in line.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timeout.and_then(|_| lock(&self.slow).line.next_deadline())
    }

    /// What was ever taken (bytes modulo): what a half of the account is as of. For the driver.
    pub(crate) fn taken(&self) -> Amount {
        Amount {
            messages: self.taken.load(Ordering::Relaxed),
            bytes: self.taken_bytes.load(Ordering::Relaxed),
        }
    }

    /// Completes the session's half of the account, in which so much had been taken. What was
    /// accepted since then counts as queued.
    pub(crate) fn complete(&self, mut stats: ProducerStats, taken: Amount) -> ProducerStats {
        let slow = lock(&self.slow);
        let handed = self.account.read().accepted - taken.messages;
        let handed_bytes = self.account.bytes_since(taken.bytes);
        stats.accepted += handed;
        stats.queued += handed;
        stats.queued_bytes += handed_bytes;
        stats.waiting = slow.line.waiting();
        stats.refused_full = slow.line.counts.refused_full;
        stats.refused_closed = slow.line.counts.refused_closed;
        stats.refused_offline = slow.line.counts.refused_offline;
        stats.refused_invalid = slow.line.counts.refused_invalid;
        stats.timed_out = slow.line.counts.timed_out;
        stats.cancelled = slow.line.counts.cancelled;
        drop(slow);
        stats.offered = stats.offered_terms();
        stats
    }

    /// Lets the account begin elsewhere than at zero.
    #[cfg(test)]
    pub(crate) fn start_at(&self, start: Amount) {
        self.account.start_at(start);
        self.taken.store(start.messages, Ordering::SeqCst);
        self.taken_bytes.store(start.bytes, Ordering::SeqCst);
    }

    // ---- the rest is private --------------------------------------------------------------------

    fn claim_anyway(&self, bytes: u64) -> u64 {
        self.account.claim(bytes, |_| true).unwrap_or_default()
    }

    /// Whether one more message of so many bytes is admitted. A `DropOldest` producer that may evict
    /// overruns the capacity: the session evicts as many when it takes them. (What is over already
    /// decides then, so that a message larger than the burst is admitted, too.)
    #[inline]
    fn fits(&self, queued: Amount, bytes: u64) -> bool {
        (queued.messages < self.capacity.messages && queued.bytes + bytes <= self.capacity.bytes)
            || (self.may_evict.load(Ordering::Relaxed) && self.is_within_burst(queued))
    }

    const fn is_within_burst(&self, queued: Amount) -> bool {
        queued.messages < self.capacity.messages + self.burst.messages
            && queued.bytes < self.capacity.bytes + self.burst.bytes
    }

    /// Admits a message that may not wait: within the burst the session evicts for it, beyond it the
    /// oldest messages here give way. `None`: so many wait to be reported as evicted that the driver
    /// must run first; the bound on memory.
    fn evict_for(&self, bytes: u64, slow: &mut Slow) -> Option<u64> {
        while !self.is_within_burst(self.queued()) {
            if slow.evicted.len() as u64 >= self.capacity.messages + self.burst.messages
                || slow.evicted_bytes >= self.capacity.bytes + self.burst.bytes
            {
                return None;
            }
            let Some(oldest) = self.queue.pop() else { break };
            let size = Amount { messages: 1, bytes: oldest.message.body().len() as u64 };
            self.account.leave(size);
            slow.evicted_bytes += size.bytes;
            // `pending` stays as it is: the driver takes it from there.
            slow.evicted.push_back(oldest);
            self.has_evicted.store(true, Ordering::Release);
        }
        Some(self.claim_anyway(bytes))
    }

    fn took(&self, sum: Amount) -> bool {
        if sum.messages == 0 {
            return self.pending.load(Ordering::Acquire) > 0;
        }
        let taken = self.taken.load(Ordering::Relaxed) + sum.messages;
        let bytes = self.taken_bytes.load(Ordering::Relaxed).wrapping_add(sum.bytes);
        self.taken.store(taken, Ordering::Relaxed);
        self.taken_bytes.store(bytes, Ordering::Relaxed);
        let taken = i64::try_from(sum.messages).unwrap_or(i64::MAX);
        self.pending.fetch_sub(taken, Ordering::AcqRel) - taken > 0
    }

    fn grant(&self, line: &mut Line, wakers: &mut Vec<Waker>) {
        if line.is_occupied() {
            let queued = self.queued(); // exact: newcomers come by the lock
            line.grant(|granted, bytes| self.fits(queued + granted, bytes), wakers);
        }
    }

    /// Sends newcomers the way that the line needs. Only under the lock.
    fn mark(&self, line: &Line) {
        self.account.set_slow(line.is_needed());
    }
}
