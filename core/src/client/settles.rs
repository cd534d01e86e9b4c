//! What an application settled, in runs, until the driver takes it.
#![expect(clippy::disallowed_types, reason = "whoever awaits settled() is woken from here")]

use std::task::{Context, Poll, Waker};

use super::delivery::Settle;
use crate::{
    consume::{SettleRun, Settlement},
    publish::SettledSet,
};

/// Runs looked at for a neighbour: handlers that work side by side settle nearly in order.
const NEIGHBOURS: usize = 16;

/// Settlements of one consumer. All of it is bounded by the number of deliveries outstanding.
#[derive(Debug, Default)]
pub(crate) struct Settles {
    /// Tags settled, of each generation that can be settled: two at most, in practice.
    generations: Vec<(u64, SettledSet)>,
    runs: Vec<SettleRun>,
    /// Runs that the driver took, ever.
    taken: u64,
    /// Of these, how many are written.
    written: u64,
    waiting: Vec<Waker>,
}

impl Settles {
    /// Notes one settlement (`through`: of all earlier ones, too).
    #[inline]
    pub(crate) fn note(
        &mut self,
        generation: u64,
        tag: u64,
        settlement: Settlement,
        through: bool,
    ) -> Settle {
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

    /// Notes a run of tags that nobody else can settle.
    pub(crate) fn note_run(&mut self, run: SettleRun) {
        self.settled(run.generation).insert_run(run.first, run.last);
        self.runs.push(run);
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

    pub(crate) fn poll_written(&mut self, cx: &Context<'_>, target: u64) -> Poll<()> {
        if self.written >= target {
            return Poll::Ready(());
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) fn written(&mut self, written: u64, wakers: &mut Vec<Waker>) {
        self.written = self.written.max(written);
        wakers.append(&mut self.waiting);
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
        let mut cx = Context::from_waker(Waker::noop());
        let cx = &mut cx;
        let mut settles = Settles::default();
        assert!(settles.poll_written(cx, settles.target()).is_ready());
        settles.note(1, 1, Settlement::Ack, false);
        runs(&mut settles);
        settles.note(1, 5, Settlement::Ack, false);
        let target = settles.target();
        // Joins the run that is waiting: the target stays.
        settles.note(1, 6, Settlement::Ack, false);
        settles.written(1, &mut Vec::new());
        assert!(settles.poll_written(cx, target).is_pending());
        let mut woken = Vec::new();
        settles.written(2, &mut woken);
        assert_eq!(woken.len(), 1);
        assert!(settles.poll_written(cx, target).is_ready());
    }
}
