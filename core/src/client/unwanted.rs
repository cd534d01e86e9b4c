//! The numbers of receipts that were dropped before their time, on their way to the driver.
//!
//! Most producers drop receipts in the order of their numbers (`publish(x).await?.detach()`), so the
//! latest run of neighbours is one word that grows by one compare-and-swap a receipt, without a lock.
//! A number that does not fit pushes the run so far into a lock-free queue, and begins another.

use super::sync::{AtomicU64, Ordering, SegQueue};

/// The word: `[length: 24 | last number: 40, modulo]`; 0 is no run.
const LAST_BITS: u32 = 40;
const LAST_MASK: u64 = (1 << LAST_BITS) - 1;
const MAX_LENGTH: u64 = (1 << 24) - 1;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Unwanted {
    run: AtomicU64,
    runs: SegQueue<(u64, u64)>,
}

impl Unwanted {
    /// Adds a number.
    ///
    /// Between its two steps the run that it displaces is in neither place: whoever looks afterwards
    /// for what it missed must do so after this has returned.
    #[inline]
    pub(crate) fn add(&self, number: u64) {
        let mut word = self.run.load(Ordering::Relaxed);
        loop {
            let run = unpack(word, number);
            let (next, displaced) = match run {
                Some((first, last)) if last + 1 == number && number - first < MAX_LENGTH => {
                    (pack(first, number), None)
                }
                _ => (pack(number, number), run),
            };
            let swap =
                self.run.compare_exchange_weak(word, next, Ordering::SeqCst, Ordering::Relaxed);
            match swap {
                Ok(_) => {
                    if let Some(run) = displaced {
                        self.runs.push(run);
                    }
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Takes everything, as runs. `near`: a number less than 2^39 away from all of them.
    pub(crate) fn drain(&self, near: u64, mut each: impl FnMut(u64, u64)) {
        if self.run.load(Ordering::SeqCst) != 0
            && let Some((first, last)) = unpack(self.run.swap(0, Ordering::SeqCst), near)
        {
            each(first, last);
        }
        while let Some((first, last)) = self.runs.pop() {
            each(first, last);
        }
    }
}

const fn pack(first: u64, last: u64) -> u64 {
    ((last - first + 1) << LAST_BITS) | (last & LAST_MASK)
}

const fn unpack(word: u64, near: u64) -> Option<(u64, u64)> {
    let length = word >> LAST_BITS;
    if length == 0 {
        return None;
    }
    let behind = near.wrapping_sub(word) & LAST_MASK;
    let last = if behind <= LAST_MASK / 2 {
        near.wrapping_sub(behind)
    } else {
        near.wrapping_add(LAST_MASK + 1 - behind)
    };
    Some((last + 1 - length, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(unwanted: &Unwanted, near: u64) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        unwanted.drain(near, |first, last| runs.push((first, last)));
        runs.sort_unstable();
        runs
    }

    #[test]
    fn neighbours_are_one_run() {
        let unwanted = Unwanted::default();
        (1..=1000).for_each(|number| unwanted.add(number));
        assert!(unwanted.runs.is_empty());
        assert_eq!(drained(&unwanted, 0), [(1, 1000)]);
        assert_eq!(drained(&unwanted, 0), []);
    }

    #[test]
    fn nothing_is_lost_in_any_order() {
        let unwanted = Unwanted::default();
        for number in [5, 6, 2, 3, 4, 9, 8] {
            unwanted.add(number);
        }
        assert_eq!(drained(&unwanted, 0), [(2, 4), (5, 6), (8, 8), (9, 9)]);
    }

    #[test]
    fn numbers_survive_the_words_wrap_around() {
        for start in [LAST_MASK - 2, LAST_MASK * 5, (1 << 60) - 1] {
            let unwanted = Unwanted::default();
            (start..start + 6).for_each(|number| unwanted.add(number));
            assert_eq!(drained(&unwanted, start - 1), [(start, start + 5)]);
            unwanted.add(start);
            assert_eq!(drained(&unwanted, start + 1000), [(start, start)]);
        }
    }

    #[test]
    fn a_run_never_outgrows_its_word() {
        let unwanted = Unwanted::default();
        unwanted.run.store(pack(1, MAX_LENGTH), Ordering::SeqCst);
        unwanted.add(MAX_LENGTH + 1);
        let longest = (1, MAX_LENGTH);
        assert_eq!(drained(&unwanted, 0), [longest, (MAX_LENGTH + 1, MAX_LENGTH + 1)]);
    }
}
