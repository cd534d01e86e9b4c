//! The ack tracker: what is outstanding on one consuming channel, and how settlements reach the wire.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    consume::Settlement,
    wire::{put_ack, put_nack},
};

/// The state of one delivery tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// Received, and not settled by the application.
    Outstanding,
    /// Requeued once its delay is over.
    Delayed,
    /// Settled by the application, not encoded.
    Pending(Verdict),
    /// Encoded.
    Done,
}

/// A settlement as the wire knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Requeue,
    Reject,
}

/// How many deliveries were settled in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) acked: u64,
    pub(crate) requeued: u64,
    pub(crate) rejected: u64,
}

impl Settled {
    fn count(&mut self, verdict: Verdict, by: u64) {
        match verdict {
            Verdict::Ack => self.acked += by,
            Verdict::Requeue => self.requeued += by,
            Verdict::Reject => self.rejected += by,
        }
    }

    pub(crate) const fn total(&self) -> u64 {
        self.acked + self.requeued + self.rejected
    }
}

/// Done tags that may wait behind one that is held, before the held one is set aside.
const DONE_KEPT: usize = 4096;

/// Tracks the tags of one channel from 1 on, without a gap: both brokers number them so.
///
/// Its memory is bounded by the deliveries outstanding, however many go by while one is held.
#[derive(Clone, Debug)]
pub(crate) struct AckTracker {
    tags: VecDeque<Tag>,
    /// The tag of the front of `tags`.
    base: u64,
    /// How many of `tags` are done.
    done: usize,
    /// Tags below `base` that are not done: held while many others went by.
    held: BTreeMap<u64, Tag>,
    /// Runs with pending settlements, in the order in which they were settled.
    pending: VecDeque<(u64, u64)>,
    outstanding: usize,
    settling: usize,
}

impl AckTracker {
    pub(crate) const fn new() -> Self {
        Self {
            tags: VecDeque::new(),
            base: 1,
            done: 0,
            held: BTreeMap::new(),
            pending: VecDeque::new(),
            outstanding: 0,
            settling: 0,
        }
    }

    /// The tag that the next delivery must carry.
    pub(crate) fn next_tag(&self) -> u64 {
        self.base + self.tags.len() as u64
    }

    /// A delivery arrived, with [`Self::next_tag`].
    #[inline]
    pub(crate) fn received(&mut self) {
        self.tags.push_back(Tag::Outstanding);
        self.outstanding += 1;
    }

    /// Deliveries not settled by the application, delayed ones included.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Deliveries settled by the application and not encoded.
    pub(crate) const fn settling(&self) -> usize {
        self.settling
    }

    /// Settles a run of tags; those settled before are left alone. Returns how many were settled now.
    pub(crate) fn settle(&mut self, first: u64, last: u64, settlement: Settlement) -> u64 {
        let verdict = match settlement {
            Settlement::Ack => Verdict::Ack,
            Settlement::Requeue => Verdict::Requeue,
            Settlement::Reject => Verdict::Reject,
            Settlement::RequeueLater => {
                return self.change(first, last, Tag::Outstanding, Tag::Delayed);
            }
        };
        let count = self.change(first, last, Tag::Outstanding, Tag::Pending(verdict));
        self.note_pending(first, last, count);
        count
    }

    /// The delay of these delayed tags is over: they are requeued. Returns how many.
    pub(crate) fn requeue_delayed(&mut self, first: u64, last: u64) -> u64 {
        let count = self.change(first, last, Tag::Delayed, Tag::Pending(Verdict::Requeue));
        self.note_pending(first, last, count);
        count
    }

    /// Changes the tags of a run that are `from`. Returns how many.
    fn change(&mut self, first: u64, last: u64, from: Tag, to: Tag) -> u64 {
        let mut count = 0;
        if first < self.base && first <= last {
            for (_, tag) in self.held.range_mut(first..=last).filter(|(_, tag)| **tag == from) {
                *tag = to;
                count += 1;
            }
        }
        let first = first.max(self.base);
        let last = last.min(self.next_tag() - 1);
        if first <= last {
            let (first, last) = ((first - self.base) as usize, (last - self.base) as usize);
            for tag in self.tags.range_mut(first..=last).filter(|tag| **tag == from) {
                *tag = to;
                count += 1;
            }
        }
        count
    }

    fn note_pending(&mut self, first: u64, last: u64, count: u64) {
        if count == 0 {
            return;
        }
        let last = last.min(self.next_tag() - 1);
        self.outstanding -= count as usize;
        self.settling += count as usize;
        match self.pending.back_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.pending.push_back((first, last)),
        }
    }

    /// Whether something waits to be encoded.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Encodes what is pending, in as few frames as is safe: a `multiple` names a tag that is itself
    /// outstanding, and only when every lower outstanding tag has the same verdict (semantics
    /// section 1). Stops once `out` has grown by `budget` bytes.
    pub(crate) fn encode(&mut self, out: &mut Vec<u8>, channel: u16, budget: usize) -> Settled {
        let mut settled = Settled::default();
        let limit = out.len() + budget;
        while out.len() < limit {
            let (tag, verdict, count) = if let Some((verdict, count)) = self.pop_prefix() {
                (self.base - 1, verdict, count)
            } else if let Some((tag, verdict)) = self.pop_single() {
                (tag, verdict, 1)
            } else {
                break;
            };
            put(out, channel, tag, count > 1, verdict);
            settled.count(verdict, count);
        }
        self.settling -= settled.total() as usize;
        self.set_aside();
        settled
    }

    /// Pops the longest run at the front that has one verdict, and says which and how many it settles.
    /// Afterwards the run's last tag is `base - 1`.
    fn pop_prefix(&mut self) -> Option<(Verdict, u64)> {
        self.pop_done();
        let Tag::Pending(verdict) = *self.tags.front()? else { return None };
        if !self.held.is_empty() {
            return None;
        }
        let mut count = 0;
        let mut length = 0;
        for (index, tag) in self.tags.iter().enumerate() {
            match tag {
                Tag::Pending(other) if *other == verdict => {
                    count += 1;
                    length = index + 1;
                }
                Tag::Done => {}
                #[cfg(feature = "sabotage")]
                Tag::Pending(_)
                    if crate::sabotage::is(crate::sabotage::Sabotage::SettlesSpanned) =>
                {
                    count += 1;
                    length = index + 1;
                }
                Tag::Pending(_) | Tag::Outstanding | Tag::Delayed => break,
            }
        }
        self.tags.drain(..length);
        self.base += length as u64;
        self.done -= length - count as usize;
        Some((verdict, count))
    }

    /// The next tag with a pending settlement, in the order in which they were settled. It is done now.
    fn pop_single(&mut self) -> Option<(u64, Verdict)> {
        while let Some((first, last)) = self.pending.front_mut() {
            if *first > *last {
                self.pending.pop_front();
            } else if *first < self.base {
                match self.held.range(*first..=*last).next().map(|(&tag, &state)| (tag, state)) {
                    Some((tag, Tag::Pending(verdict))) => {
                        *first = tag + 1;
                        self.held.remove(&tag);
                        return Some((tag, verdict));
                    }
                    Some((tag, _)) => *first = tag + 1,
                    None => *first = self.base,
                }
            } else {
                let tag = *first;
                *first += 1;
                if let Some(state) = self.tags.get_mut((tag - self.base) as usize)
                    && let Tag::Pending(verdict) = *state
                {
                    *state = Tag::Done;
                    self.done += 1;
                    return Some((tag, verdict));
                }
            }
        }
        None
    }

    fn pop_done(&mut self) {
        while self.tags.front() == Some(&Tag::Done) {
            self.tags.pop_front();
            self.base += 1;
            self.done -= 1;
        }
    }

    /// Takes tags that are held out of the way of those that go by.
    fn set_aside(&mut self) {
        if self.done < DONE_KEPT {
            return;
        }
        while self.done > DONE_KEPT / 2
            && let Some(tag) = self.tags.pop_front()
        {
            match tag {
                Tag::Done => self.done -= 1,
                Tag::Outstanding | Tag::Delayed | Tag::Pending(_) => {
                    self.held.insert(self.base, tag);
                }
            }
            self.base += 1;
        }
    }
}

fn put(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool, verdict: Verdict) {
    match verdict {
        Verdict::Ack => put_ack(out, channel, tag, multiple),
        Verdict::Requeue => put_nack(out, channel, tag, multiple, true),
        Verdict::Reject => put_nack(out, channel, tag, multiple, false),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::wire::{Ack, Method, Nack, decode, decode_method};

    fn tracker(deliveries: usize) -> AckTracker {
        let mut tracker = AckTracker::new();
        (0..deliveries).for_each(|_| tracker.received());
        tracker
    }

    /// (tag, multiple, verdict) of each frame.
    fn encode(tracker: &mut AckTracker) -> Vec<(u64, bool, Verdict)> {
        let mut out = Vec::new();
        tracker.encode(&mut out, 1, usize::MAX / 2);
        let mut frames = Vec::new();
        let mut rest = &out[..];
        while let Some((frame, used)) = decode(rest, 4096).unwrap() {
            frames.push(match decode_method(frame.payload).unwrap() {
                Method::Ack(Ack { delivery_tag, multiple, .. }) => {
                    (delivery_tag, multiple, Verdict::Ack)
                }
                Method::Nack(Nack { delivery_tag, multiple, requeue, .. }) => (
                    delivery_tag,
                    multiple,
                    if requeue { Verdict::Requeue } else { Verdict::Reject },
                ),
                other => panic!("{other:?}"),
            });
            rest = &rest[used..];
        }
        frames
    }

    #[test]
    fn neighbours_with_one_verdict_become_one_frame() {
        let mut tracker = tracker(5);
        tracker.settle(1, 1, Settlement::Ack);
        tracker.settle(2, 4, Settlement::Ack);
        assert_eq!(encode(&mut tracker), [(4, true, Verdict::Ack)]);
        assert_eq!((tracker.outstanding(), tracker.settling()), (1, 0));
    }

    #[test]
    fn a_multiple_never_spans_an_outstanding_or_otherwise_settled_tag() {
        let mut tracker = tracker(6);
        tracker.settle(2, 2, Settlement::Ack);
        tracker.settle(3, 3, Settlement::Reject);
        tracker.settle(6, 6, Settlement::Ack);
        let single =
            [(2, false, Verdict::Ack), (3, false, Verdict::Reject), (6, false, Verdict::Ack)];
        assert_eq!(encode(&mut tracker), single);
        // 1 closes the gap; 2 and 3 are done already and may be spanned, but not named.
        tracker.settle(1, 1, Settlement::Requeue);
        tracker.settle(4, 4, Settlement::Requeue);
        assert_eq!(encode(&mut tracker), [(4, true, Verdict::Requeue)]);
        tracker.settle(5, 5, Settlement::Ack);
        assert_eq!(encode(&mut tracker), [(5, false, Verdict::Ack)]);
        assert_eq!((tracker.outstanding(), tracker.settling(), tracker.done), (0, 0, 0));
    }

    /// Behind a delivery that is held. The first run is longer than what was received by then.
    #[test]
    fn single_settlements_keep_the_order_in_which_they_were_made() {
        let mut tracker = tracker(2);
        assert_eq!(tracker.settle(2, 9, Settlement::Ack), 1);
        (0..3).for_each(|_| tracker.received());
        tracker.settle(4, 4, Settlement::Ack);
        tracker.settle(3, 3, Settlement::Ack);
        let frames = [2, 4, 3].map(|tag| (tag, false, Verdict::Ack));
        assert_eq!(encode(&mut tracker), frames);
    }

    #[test]
    fn neighbours_settled_one_by_one_wait_as_one_run() {
        let mut tracker = tracker(1000);
        (2..=1000).for_each(|tag| _ = tracker.settle(tag, tag, Settlement::Ack));
        assert_eq!(tracker.pending, [(2, 1000)]);
        assert_eq!(encode(&mut tracker).len(), 999);
    }

    #[test]
    fn verdicts_alternate_in_separate_multiples() {
        let mut tracker = tracker(6);
        tracker.settle(1, 2, Settlement::Ack);
        tracker.settle(3, 4, Settlement::Requeue);
        tracker.settle(5, 6, Settlement::Ack);
        let frames =
            [(2, true, Verdict::Ack), (4, true, Verdict::Requeue), (6, true, Verdict::Ack)];
        assert_eq!(encode(&mut tracker), frames);
    }

    #[test]
    fn s34_a_forgotten_delivery_waits_and_is_requeued_alone() {
        let mut tracker = tracker(3);
        assert_eq!(tracker.settle(2, 2, Settlement::RequeueLater), 1);
        tracker.settle(1, 1, Settlement::Ack);
        tracker.settle(3, 3, Settlement::Ack);
        assert_eq!(encode(&mut tracker), [(1, false, Verdict::Ack), (3, false, Verdict::Ack)]);
        assert_eq!(tracker.requeue_delayed(2, 2), 1);
        assert_eq!(encode(&mut tracker), [(2, false, Verdict::Requeue)]);
    }

    #[test]
    fn settling_again_or_beyond_what_was_received_is_nothing() {
        let mut tracker = tracker(2);
        assert_eq!(tracker.settle(1, 9, Settlement::Ack), 2);
        assert_eq!(tracker.settle(1, 2, Settlement::Reject), 0);
        assert_eq!(encode(&mut tracker), [(2, true, Verdict::Ack)]);
        assert_eq!(tracker.settle(1, 2, Settlement::Ack), 0);
        assert_eq!(tracker.settle(0, u64::MAX, Settlement::Ack), 0);
        assert_eq!(tracker.settle(2, 1, Settlement::Ack), 0);
        assert!(encode(&mut tracker).is_empty());
    }

    #[test]
    fn a_delivery_held_for_long_costs_no_memory_for_those_that_go_by() {
        let mut tracker = tracker(3);
        tracker.settle(2, 2, Settlement::RequeueLater);
        let mut acked = 0;
        for last in (13..100_000).step_by(10) {
            (0..10).for_each(|_| tracker.received());
            acked += tracker.settle(last - 9, last, Settlement::Ack);
            assert!(encode(&mut tracker).iter().all(|(_, multiple, _)| !multiple));
            assert!(tracker.tags.capacity() <= 2 * DONE_KEPT && tracker.held.len() <= 3);
        }
        assert_eq!((acked, tracker.outstanding(), tracker.held.len()), (99_990, 3, 3));
        // Those set aside are settled one by one, and then neighbours are coalesced again.
        assert_eq!(tracker.settle(1, 3, Settlement::Ack), 2);
        assert_eq!(tracker.settle(3, 2, Settlement::Ack), 0, "an empty run");
        let frames = [(1, false, Verdict::Ack), (3, false, Verdict::Ack)];
        assert_eq!(encode(&mut tracker), frames);
        assert_eq!(tracker.requeue_delayed(2, 2), 1);
        (0..4).for_each(|_| tracker.received());
        tracker.settle(99_994, 99_996, Settlement::Ack);
        let frames = [(2, false, Verdict::Requeue), (99_996, true, Verdict::Ack)];
        assert_eq!(encode(&mut tracker), frames);
        assert_eq!((tracker.outstanding(), tracker.settling(), tracker.done), (1, 0, 0));
        assert_eq!(tracker.settle(0, u64::MAX, Settlement::Reject), 1);
        assert_eq!(encode(&mut tracker), [(99_997, false, Verdict::Reject)]);
    }

    #[test]
    fn many_verdicts_in_turn_stay_within_the_budget() {
        let mut tracker = tracker(1000);
        for tag in 1..=1000 {
            let settlement = if tag % 2 == 0 { Settlement::Ack } else { Settlement::Reject };
            tracker.settle(tag, tag, settlement);
        }
        let mut out = Vec::new();
        tracker.encode(&mut out, 1, 1000);
        assert!(out.len() < 1021, "{}", out.len());
        assert!(tracker.has_pending());
        // Two frames of 21 bytes are enough for 42, and for 22.
        for (budget, frames) in [(42, 2), (22, 2), (21, 1), (0, 0)] {
            out.clear();
            tracker.encode(&mut out, 1, budget);
            assert_eq!(out.len(), frames * 21, "{budget}");
        }
    }

    #[test]
    fn a_budget_splits_the_work_without_losing_any() {
        let mut tracker = tracker(101);
        tracker.settle(2, 101, Settlement::Ack);
        let mut out = Vec::new();
        let mut acked = 0;
        let mut rounds = 0;
        while tracker.has_pending() {
            acked += tracker.encode(&mut out, 1, 100).acked;
            rounds += 1;
        }
        assert_eq!(acked, 100);
        assert!(rounds > 5);
    }
}
