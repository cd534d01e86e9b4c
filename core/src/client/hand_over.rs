//! The hand-over of one producer: where messages are accepted, and wait for the driver to take them.
//!
//! It is the first of two stages that share one capacity (the second is the session's buffer). A
//! message is accepted by one compare-and-swap on one word, which decides admission, draws the
//! sequence number, and sees whether somebody waits in line; then it is pushed into a lock-free queue.
//! Whatever that word cannot decide takes the slow path, under a lock: waiting, refusing, evicting.
#![expect(clippy::disallowed_types, reason = "publishers and the driver share it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use crossbeam_queue::SegQueue;

use super::{
    sync::lock,
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
pub(crate) const BURST: u64 = 1024;

/// The word of what was ever accepted: `[slow: 1 | messages: 27 | bytes: 36]`, both modulo.
const BYTES_BITS: u32 = 36;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const MESSAGES_MASK: u64 = (1 << 27) - 1;
/// Newcomers take the slow path.
const SLOW: u64 = 1 << 63;

/// The largest capacities: half of what the word can tell apart.
const MAX_MESSAGES: u64 = MESSAGES_MASK / 2;
const MAX_BYTES: u64 = BYTES_MASK / 2;

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

    accepted: AtomicU64,
    queue: SegQueue<Accepted>,
    /// What was pushed and not taken, evicted messages included. Below zero for a moment when the
    /// driver is faster than the push that it serves.
    pending: AtomicI64,

    /// What has left both stages; written under the lock only. Whoever reads these before
    /// `accepted`, and then swaps `accepted`, can only overestimate what is queued.
    left: AtomicU64,
    left_bytes: AtomicU64,
    may_evict: AtomicBool,

    /// What the driver has taken, evicted messages included; written by the driver only.
    taken: AtomicU64,
    taken_bytes: AtomicU64,

    /// Accepted, evicted here, and still to be reported by the session.
    evicted: SegQueue<Accepted>,
    evicted_messages: AtomicU64,
    evicted_bytes: AtomicU64,

    line: Mutex<Line>,
}

impl HandOver {
    pub(crate) fn new(config: &ProducerConfig) -> Self {
        let capacity = Amount {
            messages: (config.buffer_size as u64).clamp(1, MAX_MESSAGES),
            bytes: (config.buffer_bytes as u64).clamp(1, MAX_BYTES),
        };
        Self {
            capacity,
            burst: Amount { messages: BURST, bytes: capacity.bytes / 8 },
            policy: config.policy,
            refuse_offline: config.when_offline == WhenOffline::Fail,
            timeout: config.publish_timeout,
            accepted: AtomicU64::new(0),
            queue: SegQueue::new(),
            pending: AtomicI64::new(0),
            left: AtomicU64::new(0),
            left_bytes: AtomicU64::new(0),
            may_evict: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            evicted: SegQueue::new(),
            evicted_messages: AtomicU64::new(0),
            evicted_bytes: AtomicU64::new(0),
            line: Mutex::default(),
        }
    }

    /// Messages and bytes that both stages may hold.
    pub(crate) const fn capacity(&self) -> Amount {
        self.capacity
    }

    /// What both stages hold now.
    pub(crate) fn queued(&self) -> Amount {
        self.read().1
    }

    /// Messages ever accepted.
    pub(crate) fn accepted(&self) -> u64 {
        let (left, queued) = self.read();
        left + queued.messages
    }

    // ---- publishing -----------------------------------------------------------------------------

    /// Admits a message with a body of so many bytes, if that needs no second look. Returns its
    /// number; the caller must push it then.
    #[inline]
    pub(crate) fn admit(&self, bytes: u64) -> Option<u64> {
        self.claim(|word, queued| word & SLOW == 0 && self.fits(queued, bytes), bytes)
    }

    /// Admits, refuses or queues up a message that [`HandOver::admit`] did not admit.
    #[cold]
    pub(crate) fn admit_slowly(&self, bytes: u64, attempt: Attempt<'_>) -> Admission {
        let mut wakers = Vec::new();
        let mut line = lock(&self.line);
        let waker = match attempt {
            Attempt::Try => None,
            Attempt::Await(waker) => Some(waker),
            Attempt::AfterYield(waker) => {
                line.yielding -= 1;
                Some(waker)
            }
        };
        let refusal = if line.closed {
            Refusal::Closed
        } else if let Some(state) = &line.offline {
            Refusal::Offline(state.clone())
        } else {
            if !line.is_occupied()
                && let Some(sequence) = self.claim(|_, queued| self.fits(queued, bytes), bytes)
            {
                return Admission::Accepted(sequence);
            }
            match (self.policy, waker) {
                (BufferPolicy::DropOldest, None) => {
                    if let Some(sequence) = self.evict_for(bytes) {
                        return Admission::Accepted(sequence);
                    }
                }
                (BufferPolicy::Block | BufferPolicy::DropOldest, Some(waker)) => {
                    let (ticket, first) = line.join(bytes, waker.clone());
                    self.mark(&line);
                    // Those in front hold grants only, perhaps.
                    self.grant(&mut line, &mut wakers);
                    drop(line);
                    wakers.into_iter().for_each(Waker::wake);
                    return Admission::Waiting { ticket, tell: first && self.timeout.is_some() };
                }
                (BufferPolicy::Block, None) | (BufferPolicy::Error, _) => {}
            }
            Refusal::Full
        };
        line.counts.count(&refusal);
        Admission::Refused(refusal)
    }

    /// A future in line looks after its place.
    #[cold]
    pub(crate) fn poll_place(&self, ticket: u64, waker: &Waker) -> Admission {
        let mut line = lock(&self.line);
        match line.poll(ticket, waker) {
            Turn::Wait => Admission::Waiting { ticket, tell: false },
            Turn::Granted(bytes) => {
                let sequence = self.claim_anyway(bytes);
                self.mark(&line);
                Admission::Accepted(sequence)
            }
            Turn::Refused(refusal) => Admission::Refused(refusal),
        }
    }

    /// A future in line was dropped: its room passes to the next.
    #[cold]
    pub(crate) fn leave(&self, ticket: u64) {
        let mut wakers = Vec::new();
        let mut line = lock(&self.line);
        let own = line.leave(ticket);
        self.grant(&mut line, &mut wakers);
        self.mark(&line);
        drop(line);
        drop(own);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A future begins its fairness yield.
    pub(crate) fn begin_yield(&self) {
        lock(&self.line).yielding += 1;
    }

    /// A future was dropped at its fairness yield.
    pub(crate) fn cancel_yield(&self) {
        let mut line = lock(&self.line);
        line.yielding -= 1;
        line.counts.cancelled += 1;
    }

    /// A message over a limit was refused.
    pub(crate) fn count_invalid(&self) {
        lock(&self.line).counts.refused_invalid += 1;
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
    pub(crate) fn take_evicted(&self, mut each: impl FnMut(Accepted)) {
        let mut sum = Amount::default();
        while let Some(accepted) = self.evicted.pop() {
            sum.messages += 1;
            sum.bytes += accepted.message.body().len() as u64;
            each(accepted);
        }
        if sum.messages > 0 {
            self.evicted_messages.fetch_sub(sum.messages, Ordering::Relaxed);
            self.evicted_bytes.fetch_sub(sum.bytes, Ordering::Relaxed);
            self.took(sum);
        }
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
        let mut line = lock(&self.line);
        self.add_left(left);
        let may_evict = flow.may_evict && self.policy == BufferPolicy::DropOldest;
        self.may_evict.store(may_evict, Ordering::Relaxed);
        if self.refuse_offline {
            if !flow.offline {
                line.offline = None;
            } else if line.offline.is_none() {
                self.go_offline(&mut line, state(), &mut wakers);
            }
        }
        self.grant(&mut line, &mut wakers);
        self.mark(&line);
        drop(line);
        wakers
    }

    /// There is no connection (and the state is this), or there is one again. Matters with
    /// `when_offline(Fail)` only.
    pub(crate) fn offline(&self, state: Option<Arc<State>>) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if self.refuse_offline {
            let mut line = lock(&self.line);
            match state {
                Some(state) => self.go_offline(&mut line, state, &mut wakers),
                None => line.offline = None,
            }
            self.mark(&line);
        }
        wakers
    }

    /// Ends admission for good. What was accepted stays, to be taken.
    pub(crate) fn close(&self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut line = lock(&self.line);
        line.closed = true;
        line.refuse_all(&Refusal::Closed, &mut wakers);
        self.mark(&line);
        drop(line);
        wakers
    }

    /// Whether admission has ended.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.line).closed
    }

    /// Sets the deadlines of those who came since the last call, and ends the waiting of those
    /// whose deadline has come.
    pub(crate) fn expire(&self, now: Time) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if let Some(timeout) = self.timeout {
            let mut line = lock(&self.line);
            line.stamp(now + timeout);
            line.expire(now, self.policy == BufferPolicy::DropOldest, &mut wakers);
            self.grant(&mut line, &mut wakers);
            self.mark(&line);
        }
        wakers
    }

    /// The earliest deadline of those in line.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timeout.and_then(|_| lock(&self.line).next_deadline())
    }

    /// Completes the session's half of the account. What is handed over and not taken yet counts as
    /// accepted and queued. Only the driver may call it, after giving the session all that it took.
    pub(crate) fn snapshot(&self, mut stats: ProducerStats) -> ProducerStats {
        let line = lock(&self.line);
        let word = self.accepted.load(Ordering::Acquire);
        let left = self.left.load(Ordering::Relaxed);
        let accepted = left + since(word, Amount { messages: left, bytes: 0 }).messages;
        let handed = accepted - self.taken.load(Ordering::Relaxed);
        let handed_bytes = word.wrapping_sub(self.taken_bytes.load(Ordering::Relaxed)) & BYTES_MASK;
        stats.accepted += handed;
        stats.queued += handed;
        stats.queued_bytes += handed_bytes;
        stats.waiting = line.waiting();
        stats.refused_full = line.counts.refused_full;
        stats.refused_closed = line.counts.refused_closed;
        stats.refused_offline = line.counts.refused_offline;
        stats.refused_invalid = line.counts.refused_invalid;
        stats.timed_out = line.counts.timed_out;
        stats.cancelled = line.counts.cancelled;
        drop(line);
        stats.offered = stats.offered_terms();
        stats
    }

    // ---- the account ----------------------------------------------------------------------------

    /// Reads what has left, and what is queued (or a little more).
    #[inline]
    fn read(&self) -> (u64, Amount) {
        let left = Amount {
            messages: self.left.load(Ordering::Acquire),
            bytes: self.left_bytes.load(Ordering::Acquire),
        };
        (left.messages, since(self.accepted.load(Ordering::Acquire), left))
    }

    /// Counts a message as accepted if `admits` says so, given the word and what is queued.
    #[inline]
    fn claim(&self, admits: impl Fn(u64, Amount) -> bool, bytes: u64) -> Option<u64> {
        loop {
            // In this order: what has left was accepted before.
            let left = Amount {
                messages: self.left.load(Ordering::Acquire),
                bytes: self.left_bytes.load(Ordering::Acquire),
            };
            let word = self.accepted.load(Ordering::Acquire);
            let queued = since(word, left);
            if !admits(word, queued) {
                return None;
            }
            let next = (word & SLOW)
                | (word.wrapping_add(1 << BYTES_BITS) & (MESSAGES_MASK << BYTES_BITS))
                | (word.wrapping_add(bytes) & BYTES_MASK);
            let swapped = self.accepted.compare_exchange_weak(
                word,
                next,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if swapped.is_ok() {
                return Some(left.messages + queued.messages + 1);
            }
        }
    }

    fn claim_anyway(&self, bytes: u64) -> u64 {
        self.claim(|_, _| true, bytes).unwrap_or_default()
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

    /// Admits a message that may not wait, under the lock: within the burst the session evicts for
    /// it, beyond it the oldest messages here give way. `None`: so many wait to be reported as
    /// evicted that the driver must run first; the bound on memory.
    fn evict_for(&self, bytes: u64) -> Option<u64> {
        while !self.is_within_burst(self.queued()) {
            if self.evicted_messages.load(Ordering::Relaxed) >= self.capacity.messages + BURST
                || self.evicted_bytes.load(Ordering::Relaxed) >= self.capacity.bytes
            {
                return None;
            }
            let Some(oldest) = self.queue.pop() else { break };
            let size = Amount { messages: 1, bytes: oldest.message.body().len() as u64 };
            self.add_left(size);
            self.evicted_messages.fetch_add(1, Ordering::Relaxed);
            self.evicted_bytes.fetch_add(size.bytes, Ordering::Relaxed);
            // `pending` stays as it is: the driver takes it from there.
            self.evicted.push(oldest);
        }
        Some(self.claim_anyway(bytes))
    }

    /// Only under the lock.
    fn add_left(&self, sum: Amount) {
        // Bytes first: a reader in between overestimates what is queued.
        let messages = self.left.load(Ordering::Relaxed).wrapping_add(sum.messages);
        let bytes = self.left_bytes.load(Ordering::Relaxed).wrapping_add(sum.bytes);
        self.left.store(messages, Ordering::Release);
        self.left_bytes.store(bytes, Ordering::Release);
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

    fn go_offline(&self, line: &mut Line, state: Arc<State>, wakers: &mut Vec<Waker>) {
        line.refuse_all(&Refusal::Offline(state.clone()), wakers);
        line.offline = Some(state);
        self.mark(line);
    }

    /// Sends newcomers the way that the line needs. Only under the lock.
    fn mark(&self, line: &Line) {
        let slow = self.accepted.load(Ordering::Relaxed) & SLOW != 0;
        match (line.is_needed(), slow) {
            (true, false) => _ = self.accepted.fetch_or(SLOW, Ordering::AcqRel),
            (false, true) => _ = self.accepted.fetch_and(!SLOW, Ordering::AcqRel),
            (true, true) | (false, false) => {}
        }
    }
}

/// What was accepted since `left` was.
#[inline]
const fn since(word: u64, left: Amount) -> Amount {
    Amount {
        messages: (word >> BYTES_BITS).wrapping_sub(left.messages) & MESSAGES_MASK,
        bytes: word.wrapping_sub(left.bytes) & BYTES_MASK,
    }
}
