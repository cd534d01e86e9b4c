//! The candidates for the hand-over of one producer, each with the admission that it needs: a
//! capacity that both stages (this queue and the driver's buffer) share, a sequence number, and
//! the answer to whether the driver must be told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_queue::{ArrayQueue, SegQueue};
use lavinmq_core::publish::Accepted;
use lavinmq_core::{Message, Time};

/// How a push ended.
#[derive(Debug)]
pub(super) enum Pushed {
    /// The hand-over was not empty: the driver knows.
    Behind,
    /// The hand-over was empty: the driver must be told.
    First,
    /// There is no room.
    Full,
}

/// One way to hand over.
pub(super) trait HandOver: Send + Sync + 'static {
    /// What the driver keeps between two visits.
    type Local: Default;

    fn new(capacity: u64) -> Self;

    /// Admits a message and hands it over.
    fn push(&self, message: Message, at: Time) -> Pushed;

    /// Takes up to `max` messages. Returns whether there are more. One caller at a time.
    fn take(&self, local: &mut Self::Local, max: usize, each: impl FnMut(Accepted)) -> bool;

    /// So many messages, with so many bytes of bodies, have left both stages.
    fn leave(&self, messages: u64, bytes: u64);

    /// Whether one more would be admitted.
    fn has_room(&self) -> bool;

    /// Messages ever accepted.
    fn accepted(&self) -> u64;
}

/// A queue that needs no lock.
pub(super) trait LockFree: Send + Sync + 'static {
    fn new(capacity: u64) -> Self;
    fn push(&self, accepted: Accepted);
    fn pop(&self) -> Option<Accepted>;
}

impl LockFree for SegQueue<Accepted> {
    fn new(_: u64) -> Self {
        Self::new()
    }

    #[inline]
    fn push(&self, accepted: Accepted) {
        Self::push(self, accepted);
    }

    #[inline]
    fn pop(&self) -> Option<Accepted> {
        Self::pop(self)
    }
}

impl LockFree for ArrayQueue<Accepted> {
    fn new(capacity: u64) -> Self {
        Self::new(capacity as usize)
    }

    #[inline]
    fn push(&self, mut accepted: Accepted) {
        // What was admitted has a place: it is as large as the capacity that admission keeps.
        while let Err(back) = Self::push(self, accepted) {
            accepted = back;
            std::thread::yield_now();
        }
    }

    #[inline]
    fn pop(&self) -> Option<Accepted> {
        Self::pop(self)
    }
}

/// As the client does it: one compare-and-swap on one word decides admission and draws the number,
/// then the push, then a count that says whether the driver knows.
#[derive(Debug)]
pub(super) struct WithoutLock<Q> {
    capacity: u64,
    /// Messages in the upper 28 bits, bytes in the others, both modulo.
    word: AtomicU64,
    left: AtomicU64,
    left_bytes: AtomicU64,
    queue: Q,
    pending: AtomicI64,
}

/// The client's choice.
pub(super) type Segmented = WithoutLock<SegQueue<Accepted>>;
pub(super) type Array = WithoutLock<ArrayQueue<Accepted>>;
pub(super) type StdLock = WithLock<Mutex<Locked>, true>;
pub(super) type ParkingLot = WithLock<parking_lot::Mutex<Locked>, true>;
pub(super) type ParkingLotHeld = WithLock<parking_lot::Mutex<Locked>, false>;

const BYTES_BITS: u32 = 36;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const MESSAGES_MASK: u64 = (1 << 28) - 1;

/// The limit on bytes, never reached here, but checked as the client checks it.
const BYTES: u64 = 64 << 20;

impl<Q> WithoutLock<Q> {
    /// The word, the number of messages ever accepted, and the messages and bytes queued now.
    #[inline]
    fn read(&self) -> (u64, u64, u64, u64) {
        let left = self.left.load(Ordering::Acquire);
        let left_bytes = self.left_bytes.load(Ordering::Acquire);
        let word = self.word.load(Ordering::Acquire);
        let messages = (word >> BYTES_BITS).wrapping_sub(left) & MESSAGES_MASK;
        (word, left + messages, messages, word.wrapping_sub(left_bytes) & BYTES_MASK)
    }

    #[inline]
    fn claim(&self, bytes: u64) -> Option<u64> {
        loop {
            let (word, accepted, queued, queued_bytes) = self.read();
            if queued >= self.capacity || queued_bytes + bytes > BYTES {
                return None;
            }
            let next = (word.wrapping_add(1 << BYTES_BITS) & (MESSAGES_MASK << BYTES_BITS))
                | (word.wrapping_add(bytes) & BYTES_MASK);
            let swap =
                self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed);
            if swap.is_ok() {
                return Some(accepted + 1);
            }
        }
    }
}

impl<Q: LockFree> HandOver for WithoutLock<Q> {
    type Local = ();

    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            word: AtomicU64::new(0),
            left: AtomicU64::new(0),
            left_bytes: AtomicU64::new(0),
            queue: Q::new(capacity),
            pending: AtomicI64::new(0),
        }
    }

    #[inline]
    fn push(&self, message: Message, at: Time) -> Pushed {
        let Some(sequence) = self.claim(message.body().len() as u64) else {
            return Pushed::Full;
        };
        self.queue.push(Accepted { sequence, at, routing_key: None, message });
        match self.pending.fetch_add(1, Ordering::AcqRel) <= 0 {
            true => Pushed::First,
            false => Pushed::Behind,
        }
    }

    fn take(&self, (): &mut (), max: usize, mut each: impl FnMut(Accepted)) -> bool {
        let mut taken = 0;
        while taken < max as i64
            && let Some(accepted) = self.queue.pop()
        {
            taken += 1;
            each(accepted);
        }
        if taken == 0 {
            return self.pending.load(Ordering::Acquire) > 0;
        }
        self.pending.fetch_sub(taken, Ordering::AcqRel) - taken > 0
    }

    fn leave(&self, messages: u64, bytes: u64) {
        let messages = self.left.load(Ordering::Relaxed) + messages;
        let bytes = self.left_bytes.load(Ordering::Relaxed) + bytes;
        self.left.store(messages, Ordering::Release);
        self.left_bytes.store(bytes, Ordering::Release);
    }

    fn has_room(&self) -> bool {
        self.read().2 < self.capacity
    }

    fn accepted(&self) -> u64 {
        self.read().1
    }
}

/// A lock around a value.
pub(super) trait Lock<T>: Send + Sync + 'static {
    fn new(value: T) -> Self;
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

impl<T: Send + 'static> Lock<T> for Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Send + 'static> Lock<T> for parking_lot::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock())
    }
}

/// Everything under one lock, which then needs no atomic beside it. With `SWAPS` the driver takes
/// the whole deque at once, so that it holds the lock for a few instructions only; without, it holds
/// it for the whole of a visit.
#[derive(Debug)]
pub(super) struct WithLock<L, const SWAPS: bool> {
    capacity: u64,
    locked: L,
    /// Written by the driver alone, which needs no lock for that.
    left: AtomicU64,
    left_bytes: AtomicU64,
}

/// What the lock is around.
#[derive(Debug, Default)]
pub(super) struct Locked {
    queue: VecDeque<Accepted>,
    accepted: u64,
    bytes: u64,
}

impl<L: Lock<Locked>, const SWAPS: bool> HandOver for WithLock<L, SWAPS> {
    type Local = VecDeque<Accepted>;

    fn new(capacity: u64) -> Self {
        Self {
            capacity,
            locked: L::new(Locked::default()),
            left: AtomicU64::new(0),
            left_bytes: AtomicU64::new(0),
        }
    }

    #[inline]
    fn push(&self, message: Message, at: Time) -> Pushed {
        let bytes = message.body().len() as u64;
        self.locked.with(|locked| {
            let queued = locked.accepted - self.left.load(Ordering::Acquire);
            let queued_bytes = locked.bytes - self.left_bytes.load(Ordering::Acquire);
            if queued >= self.capacity || queued_bytes + bytes > BYTES {
                return Pushed::Full;
            }
            locked.accepted += 1;
            locked.bytes += bytes;
            let first = locked.queue.is_empty();
            let sequence = locked.accepted;
            locked.queue.push_back(Accepted { sequence, at, routing_key: None, message });
            if first { Pushed::First } else { Pushed::Behind }
        })
    }

    fn take(&self, local: &mut Self::Local, max: usize, each: impl FnMut(Accepted)) -> bool {
        if !SWAPS {
            return self.locked.with(|locked| {
                locked.queue.drain(..max.min(locked.queue.len())).for_each(each);
                !locked.queue.is_empty()
            });
        }
        let swaps = local.is_empty();
        if swaps {
            self.locked.with(|locked| std::mem::swap(&mut locked.queue, local));
        }
        local.drain(..max.min(local.len())).for_each(each);
        // Whoever pushed since the swap has found the queue empty, and told the driver; but the
        // driver may have heard that before this visit, which then did not look.
        !local.is_empty() || !swaps
    }

    fn leave(&self, messages: u64, bytes: u64) {
        self.left.fetch_add(messages, Ordering::Release);
        self.left_bytes.fetch_add(bytes, Ordering::Release);
    }

    fn has_room(&self) -> bool {
        self.accepted() - self.left.load(Ordering::Acquire) < self.capacity
    }

    fn accepted(&self) -> u64 {
        self.locked.with(|locked| locked.accepted)
    }
}
