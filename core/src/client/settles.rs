//! What an application settled, in runs, until the driver takes it.
#![expect(clippy::disallowed_types, reason = "deliveries and the driver share it")]

use std::task::Waker;

use super::{
    delivery::Settle,
    sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock},
    waiting::Waiting,
};
use crate::{
    consume::{SettleRun, Settlement},
    publish::SettledSet,
};

/// Runs looked at for a neighbour: handlers that work side by side settle nearly in order.
const NEIGHBOURS: usize = 16;

/// Settlements of one consumer, between threads.
///
/// Acks in the order of delivery, the common case, take one compare-and-swap: of the tag that comes
/// next. Everything else takes the lock, and whoever takes the lock ends that shortcut first, so that
/// what is behind the lock is the whole truth.
#[derive(Debug, Default)]
pub(crate) struct SettleLog {
    /// Generation and tag of the delivery whose ack can be noted here ([`word`]); 0: none can.
    next_ack: AtomicU64,
    settles: Mutex<Settles>,
}

const TAG_BITS: u32 = 40;

/// `[generation: 24 | tag: 40]`; `None` for what does not fit (and takes the lock instead).
#[inline]
const fn word(generation: u64, tag: u64) -> Option<u64> {
    if generation >> (u64::BITS - TAG_BITS) == 0 && tag >> TAG_BITS == 0 {
        Some(generation << TAG_BITS | tag)
    } else {
        None
    }
}

impl SettleLog {
    /// Notes one settlement (`through`: of all earlier ones, too).
    #[inline]
    pub(crate) fn note(
        &self,
        generation: u64,
        tag: u64,
        settlement: Settlement,
        through: bool,
    ) -> Settle {
        let in_order = settlement == Settlement::Ack && !through;
        if in_order
            && let Some(next) = word(generation, tag + 1)
            && self
                .next_ack
                .compare_exchange(next - 1, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            return Settle::Queued;
        }
        let mut settles = self.lock();
        let noted = settles.note(generation, tag, settlement, through);
        if in_order
            && noted == Settle::Queued
            && settles.is_settled_exactly_to(generation, tag)
            && let Some(next) = word(generation, tag + 1)
        {
            settles.acks_from = (generation, tag + 1);
            self.next_ack.store(next, Ordering::Release);
        }
        noted
    }

    /// Everything that was noted so far.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Settles> {
        let mut settles = lock(&self.settles);
        let word = self.next_ack.swap(0, Ordering::AcqRel);
        let (generation, first) = settles.acks_from;
        let next = word & ((1 << TAG_BITS) - 1);
        if next > first {
            settles.note_acks(generation, first, next - 1);
        }
        settles
    }
}

/// Settlements of one consumer. All of it is bounded by the number of deliveries outstanding.
#[derive(Debug, Default)]
pub(crate) struct Settles {
    /// Generation and first tag of the acks that [`SettleLog::next_ack`] counts.
    acks_from: (u64, u64),
    /// Tags settled, of each generation that can be settled: two at most, in practice.
    generations: Vec<(u64, SettledSet)>,
    runs: Vec<SettleRun>,
    /// Runs that the driver took, ever.
    taken: u64,
    /// Of these, how many are written.
    written: u64,
    waiting: Waiting,
}

impl Settles {
    fn note(&mut self, generation: u64, tag: u64, settlement: Settlement, through: bool) -> Settle {
        let settled = self.settled(generation);
        if settled.contains(tag) {
            return Settle::AlreadySettled;
        }
        if through {
            let first = settled.watermark() + 1;
            settled.insert_run(first, tag);
            self.runs.push(SettleRun { generation, first, last: tag, settlement });
            return Settle::Queued;
        }
        settled.insert(tag);
        // Joining an earlier run changes no other's meaning: no later run has this tag.
        for run in self.runs.iter_mut().rev().take(NEIGHBOURS) {
            if run.generation == generation && run.settlement == settlement {
                if run.last + 1 == tag {
                    run.last = tag;
                    return Settle::Queued;
                }
                if tag + 1 == run.first {
                    run.first = tag;
                    return Settle::Queued;
                }
            }
        }
        self.runs.push(SettleRun { generation, first: tag, last: tag, settlement });
        Settle::Queued
    }

    /// Notes acks in the order of delivery.
    fn note_acks(&mut self, generation: u64, first: u64, last: u64) {
        self.settled(generation).insert_run(first, last);
        for run in self.runs.iter_mut().rev().take(NEIGHBOURS) {
            if run.generation == generation
                && run.settlement == Settlement::Ack
                && run.last + 1 == first
            {
                run.last = last;
                return;
            }
        }
        self.runs.push(SettleRun { generation, first, last, settlement: Settlement::Ack });
    }

    /// Notes a run of tags that nobody else can settle.
    pub(crate) fn note_run(&mut self, run: SettleRun) {
        self.settled(run.generation).insert_run(run.first, run.last);
        self.runs.push(run);
    }

    /// Whether nothing is settled out of order: the next tag and all beyond it are not.
    fn is_settled_exactly_to(&mut self, generation: u64, tag: u64) -> bool {
        let settled = self.settled(generation);
        settled.watermark() == tag && settled.early_runs() == 0
    }

    fn settled(&mut self, generation: u64) -> &mut SettledSet {
        let place = match self.generations.iter().rposition(|&(known, _)| known == generation) {
            Some(place) => place,
            None => {
                self.generations.push((generation, SettledSet::default()));
                self.generations.len() - 1
            }
        };
        &mut self.generations[place].1
    }

    pub(crate) fn forget_before(&mut self, generation: u64) {
        self.generations.retain(|&(known, _)| known >= generation);
    }

    /// Moves all runs out, oldest first.
    pub(crate) fn take(&mut self, runs: &mut Vec<SettleRun>) {
        self.taken += self.runs.len() as u64;
        runs.append(&mut self.runs);
    }

    /// How many runs have to be written for all that was settled until now.
    pub(crate) const fn target(&self) -> u64 {
        self.taken + self.runs.len() as u64
    }

    /// Whether so many runs are written.
    pub(crate) const fn is_written(&self, target: u64) -> bool {
        self.written >= target
    }

    /// Those who wait for runs to be written.
    pub(crate) const fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    pub(crate) fn written(&mut self, written: u64, wakers: &mut Vec<Waker>) {
        self.written = self.written.max(written);
        wakers.extend(self.waiting.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(settles: &mut Settles) -> Vec<(u64, u64, u64, Settlement)> {
        let mut runs = Vec::new();
        settles.take(&mut runs);
        runs.iter().map(|run| (run.generation, run.first, run.last, run.settlement)).collect()
    }

    #[test]
    fn acks_in_order_and_all_else_mixed_are_noted_as_behind_the_lock() {
        let log = SettleLog::default();
        let mut plain = Settles::default();
        let (mut taken, mut expected) = (Vec::new(), Vec::new());
        let mut x = 7_u64;
        for step in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let generation = 1 + step / 5_000;
            // Mostly the next one, now and then one before or after it.
            let next = plain.settled(generation).watermark() + 1;
            let tag = if (x >> 60) < 13 { next } else { (next + (x >> 33) % 9).max(4) - 3 };
            let settlement = if (x >> 40).is_multiple_of(16) {
                Settlement::RequeueLater
            } else {
                Settlement::Ack
            };
            let through = (x >> 45).is_multiple_of(64);
            let noted = log.note(generation, tag, settlement, through);
            assert_eq!(noted, plain.note(generation, tag, settlement, through), "step {step}");
            if (x >> 50).is_multiple_of(32) {
                log.lock().take(&mut taken);
                plain.take(&mut expected);
            }
        }
        log.lock().take(&mut taken);
        plain.take(&mut expected);
        // How tags are joined into runs may differ.
        assert_eq!(tags(&taken), tags(&expected));
        assert!(taken.len() < 9_000, "{}", taken.len());
    }

    fn tags(runs: &[SettleRun]) -> Vec<(u64, u64, Settlement)> {
        let each = |run: &SettleRun| {
            let SettleRun { generation, settlement, .. } = *run;
            (run.first..=run.last).map(move |tag| (generation, tag, settlement))
        };
        let mut tags: Vec<_> = runs.iter().flat_map(each).collect();
        tags.sort_by_key(|&(generation, tag, _)| (generation, tag));
        tags
    }

    #[test]
    fn acks_from_many_threads_are_all_noted_once() {
        const THREADS: u64 = 4;
        const EACH: u64 = 5_000;
        let log = SettleLog::default();
        let next = AtomicU64::new(1);
        let mut runs = Vec::new();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        let tag = next.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(log.note(1, tag, Settlement::Ack, false), Settle::Queued);
                    }
                });
            }
            for _ in 0..1_000 {
                log.lock().take(&mut runs);
            }
        });
        log.lock().take(&mut runs);
        let acked: Vec<_> = tags(&runs).iter().map(|&(_, tag, _)| tag).collect();
        assert_eq!(acked, (1..=THREADS * EACH).collect::<Vec<_>>());
    }

    #[test]
    fn tags_and_generations_beyond_the_shortcut_take_the_lock() {
        for (generation, tag) in [(1, (1 << TAG_BITS) - 2), (1 << 24, 1), (u64::MAX, 1 << 50)] {
            let log = SettleLog::default();
            for tag in tag..tag + 4 {
                assert_eq!(log.note(generation, tag, Settlement::Ack, false), Settle::Queued);
            }
            let mut runs = Vec::new();
            log.lock().take(&mut runs);
            assert_eq!(tags(&runs).len(), 4, "{generation} {tag}");
        }
    }

    #[test]
    fn neighbours_settled_alike_are_one_run() {
        let mut settles = Settles::default();
        for tag in [1, 2, 3, 7, 6, 5] {
            assert_eq!(settles.note(1, tag, Settlement::Ack, false), Settle::Queued);
        }
        settles.note(1, 8, Settlement::Reject, false);
        settles.note(2, 9, Settlement::Reject, false);
        let expected = [
            (1, 1, 3, Settlement::Ack),
            (1, 5, 7, Settlement::Ack),
            (1, 8, 8, Settlement::Reject),
            (2, 9, 9, Settlement::Reject),
        ];
        assert_eq!(runs(&mut settles), expected);
    }

    #[test]
    fn s34_what_ack_through_settled_is_already_settled() {
        let mut settles = Settles::default();
        assert_eq!(settles.note(1, 2, Settlement::Reject, false), Settle::Queued);
        assert_eq!(settles.note(1, 5, Settlement::Ack, true), Settle::Queued);
        for tag in 1..=5 {
            assert_eq!(settles.note(1, tag, Settlement::Ack, false), Settle::AlreadySettled);
        }
        // Tags count anew in every generation.
        assert_eq!(settles.note(2, 1, Settlement::Ack, false), Settle::Queued);
        let expected =
            [(1, 2, 2, Settlement::Reject), (1, 1, 5, Settlement::Ack), (2, 1, 1, Settlement::Ack)];
        assert_eq!(runs(&mut settles), expected);
    }

    #[test]
    fn settled_waits_for_runs_taken_and_not_taken() {
        let mut key = None;
        let mut settles = Settles::default();
        assert!(settles.is_written(settles.target()));
        settles.note(1, 1, Settlement::Ack, false);
        runs(&mut settles);
        settles.note(1, 5, Settlement::Ack, false);
        let target = settles.target();
        // Joins the run that is waiting: the target stays.
        settles.note(1, 6, Settlement::Ack, false);
        settles.written(1, &mut Vec::new());
        assert!(!settles.is_written(target));
        settles.waiting().wait(&mut key, Waker::noop());
        let mut woken = Vec::new();
        settles.written(2, &mut woken);
        assert_eq!(woken.len(), 1);
        assert!(settles.is_written(target));
    }
}
