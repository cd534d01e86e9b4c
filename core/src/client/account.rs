//! The account of one producer's buffer: what was ever accepted, and what has left.
//!
//! Admission is one compare-and-swap on one word, so that whether there is room, which number a
//! message gets, and whether newcomers must look behind the lock first are one decision.

use super::{
    sync::{AtomicU64, Ordering},
    waiters::Amount,
};

/// The word of what was ever accepted: `[slow: 1 | messages: 27 | bytes: 36]`, both modulo.
const BYTES_BITS: u32 = 36;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const MESSAGES_MASK: u64 = (1 << 27) - 1;
const SLOW: u64 = 1 << 63;

/// The largest amount that may be queued: half of what the word can tell apart.
pub(crate) const MAX: Amount = Amount { messages: MESSAGES_MASK / 2, bytes: BYTES_MASK / 2 };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Account {
    accepted: AtomicU64,
    /// What has left, written by one at a time. Whoever reads these *before* `accepted` can only
    /// overestimate what is queued; and swapping `accepted` then proves that nothing was accepted
    /// since.
    left: AtomicU64,
    left_bytes: AtomicU64,
}

/// What an account says at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Newcomers must take the slow path.
    pub(crate) slow: bool,
    /// Messages ever accepted.
    pub(crate) accepted: u64,
    /// What is queued, or a little more if something is leaving just now.
    pub(crate) queued: Amount,
}

impl Account {
    /// Reads it. Exact for whoever keeps things from leaving (by the lock).
    #[inline]
    pub(crate) fn read(&self) -> Reading {
        self.read_word().1
    }

    #[inline]
    fn read_word(&self) -> (u64, Reading) {
        let left = self.left.load(Ordering::Acquire);
        let left_bytes = self.left_bytes.load(Ordering::Acquire);
        let word = self.accepted.load(Ordering::Acquire);
        let messages = (word >> BYTES_BITS).wrapping_sub(left) & MESSAGES_MASK;
        let reading = Reading {
            slow: word & SLOW != 0,
            accepted: left + messages,
            queued: Amount { messages, bytes: word.wrapping_sub(left_bytes) & BYTES_MASK },
        };
        (word, reading)
    }

    /// Counts one more message of so many bytes as accepted if `admits` says so. Returns its number.
    #[inline]
    pub(crate) fn claim(&self, bytes: u64, admits: impl Fn(Reading) -> bool) -> Option<u64> {
        loop {
            let (word, reading) = self.read_word();
            if !admits(reading) {
                return None;
            }
            let next = (word & SLOW)
                | (word.wrapping_add(1 << BYTES_BITS) & (MESSAGES_MASK << BYTES_BITS))
                | (word.wrapping_add(bytes) & BYTES_MASK);
            let swap = self.accepted.compare_exchange_weak(
                word,
                next,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if swap.is_ok() {
                return Some(reading.accepted + 1);
            }
        }
    }

    /// So much has left. One caller at a time. More than was queued cannot leave: it would read as a
    /// buffer that is full for ever, so a caller's miscount is cut off here.
    pub(crate) fn leave(&self, sum: Amount) {
        let Reading { queued, .. } = self.read();
        debug_assert!(sum.messages <= queued.messages && sum.bytes <= queued.bytes);
        let messages = self.left.load(Ordering::Relaxed) + sum.messages.min(queued.messages);
        let bytes = self.left_bytes.load(Ordering::Relaxed) + sum.bytes.min(queued.bytes);
        self.left.store(messages, Ordering::Release);
        self.left_bytes.store(bytes, Ordering::Release);
    }

    /// Sends newcomers to the slow path, or to the fast one. One caller at a time.
    pub(crate) fn set_slow(&self, slow: bool) {
        match (slow, self.read().slow) {
            (true, false) => _ = self.accepted.fetch_or(SLOW, Ordering::AcqRel),
            (false, true) => _ = self.accepted.fetch_and(!SLOW, Ordering::AcqRel),
            (true, true) | (false, false) => {}
        }
    }

    /// Bytes ever accepted less those given (modulo).
    pub(crate) fn bytes_since(&self, bytes: u64) -> u64 {
        self.accepted.load(Ordering::Acquire).wrapping_sub(bytes) & BYTES_MASK
    }

    /// Begins elsewhere than at zero.
    #[cfg(test)]
    pub(crate) fn start_at(&self, start: Amount) {
        let word = ((start.messages & MESSAGES_MASK) << BYTES_BITS) | (start.bytes & BYTES_MASK);
        self.accepted.store(word, Ordering::SeqCst);
        self.left.store(start.messages, Ordering::SeqCst);
        self.left_bytes.store(start.bytes, Ordering::SeqCst);
    }
}
