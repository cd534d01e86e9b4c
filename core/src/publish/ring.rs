//! One producer's messages: those that wait, and those that are sent and not settled.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{message::Message, publish::Accepted, time::Time};

/// The outage buffer (`queue`) behind the window (`window`), in the order of sending.
///
/// A message in the queue can be evicted and can expire. Once encoded it moves to the window and
/// stays there until it is settled; at the loss of a channel `cursor` goes back to the window's
/// start, and sending goes on from there. That is the whole resend logic.
///
/// Each message in the window has a *place*, which never changes.
///
/// A message that stays unsettled while those after it are settled would keep their slots: such
/// *stragglers* are set aside, so that memory follows what is in flight, not what was sent since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    queue: VecDeque<Accepted>,
    queue_bytes: usize,
    /// What was left behind in front of the window, by place.
    stragglers: BTreeMap<u64, Sent>,
    /// Stragglers from this place on are to be sent again.
    straggler_cursor: Option<u64>,
    window: VecDeque<Sent>,
    /// The place of the window's front.
    base: u64,
    /// Index into the window: what lies before it is sent on the current channel.
    cursor: usize,
    in_flight: usize,
    in_flight_bytes: usize,
}

/// A window of so many slots is never sparse enough to be tidied up.
const SMALL_WINDOW: usize = 1024;

/// Memory for so many messages is kept by a producer at rest.
const FEW: usize = 4;

/// A message in the window.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) sequence: u64,
    pub(crate) routing_key: Option<Arc<str>>,
    pub(crate) message: Message,
    /// Copies that were possibly written whole and are not on the current channel.
    pub(crate) attempts: u32,
    /// Bytes of its latest encoding, up to where it was interrupted if its body is long.
    pub(crate) encoded: u32,
    settled: bool,
}

impl Ring {
    #[inline]
    pub(crate) fn push(&mut self, accepted: Accepted) {
        if self.queue.is_empty() {
            // Back to the start of its memory, which is in the cache.
            self.queue.clear();
        }
        self.queue_bytes += accepted.message.body().len();
        self.queue.push_back(accepted);
    }

    #[inline]
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) const fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight == 0
    }

    /// Whether more memory is kept than a few messages need.
    pub(crate) fn is_roomy(&self) -> bool {
        self.queue.capacity().max(self.window.capacity()) > FEW
    }

    /// Gives memory back, if it holds nothing. Places go on.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.window.is_empty() {
            self.queue = VecDeque::new();
            self.window = VecDeque::new();
        }
    }

    /// Takes the oldest message that was never encoded.
    pub(crate) fn pop_queued(&mut self) -> Option<Accepted> {
        let oldest = self.queue.pop_front()?;
        self.queue_bytes -= oldest.message.body().len();
        Some(oldest)
    }

    /// When the oldest queued message expires.
    pub(crate) fn expiry(&self, ttl: Duration) -> Option<Time> {
        self.queue.front().map(|oldest| oldest.at + ttl)
    }

    /// Whether something in the window is to be sent again.
    pub(crate) fn has_resend(&self) -> bool {
        self.straggler_cursor.is_some()
            || self.window.range(self.cursor..).any(|sent| !sent.settled)
    }

    /// Whether [`Self::next`] would give something under these caps.
    #[inline]
    pub(crate) fn can_send(&self, max: usize, max_bytes: usize) -> bool {
        (self.cursor < self.window.len() || self.straggler_cursor.is_some()) && self.has_resend()
            || (!self.queue.is_empty() && self.in_flight < max && self.in_flight_bytes < max_bytes)
    }

    /// The next message to encode, with its place; `true` if it comes from the queue. The caps bound
    /// what is newly moved into the window (one message more than the bytes allow can be in it).
    #[inline]
    pub(crate) fn next(&mut self, max: usize, max_bytes: usize) -> Option<(u64, &mut Sent, bool)> {
        if let Some(from) = self.straggler_cursor {
            let place = self.stragglers.range(from..).next().map(|(&place, _)| place);
            // The cursor never stands behind the last one.
            self.straggler_cursor = place
                .and_then(|place| self.stragglers.range(place + 1..).next())
                .map(|(&place, _)| place);
            if let Some(place) = place {
                return self.stragglers.get_mut(&place).map(|sent| (place, sent, false));
            }
        }
        while self.window.get(self.cursor).is_some_and(|sent| sent.settled) {
            self.cursor += 1;
        }
        let fresh = self.cursor == self.window.len();
        if fresh {
            if self.in_flight >= max || self.in_flight_bytes >= max_bytes {
                return None;
            }
            let Accepted { sequence, routing_key, message, .. } = self.queue.pop_front()?;
            let length = message.body().len();
            self.queue_bytes -= length;
            self.in_flight_bytes += length;
            self.in_flight += 1;
            self.window.push_back(Sent {
                sequence,
                routing_key,
                message,
                attempts: 0,
                encoded: 0,
                settled: false,
            });
            #[cfg(feature = "sabotage")]
            if let Some(sent) = self.window.back_mut() {
                sent.attempts = crate::sabotage::attempts_of(sent.message.body());
            }
        }
        let place = self.base + self.cursor as u64;
        self.cursor += 1;
        self.window.get_mut(self.cursor - 1).map(|sent| (place, sent, fresh))
    }

    fn index(&self, place: u64) -> Option<usize> {
        usize::try_from(place.checked_sub(self.base)?).ok()
    }

    /// A message in the window that is not settled.
    pub(crate) fn get(&self, place: u64) -> Option<&Sent> {
        match self.index(place) {
            Some(index) => self.window.get(index).filter(|sent| !sent.settled),
            None => self.stragglers.get(&place),
        }
    }

    /// Settles the message at this place: its sequence, and the message.
    pub(crate) fn settle(&mut self, place: u64) -> Option<(u64, Message)> {
        let Some(index) = self.index(place) else {
            let Sent { sequence, message, .. } = self.settle_straggler(place)?;
            return Some((sequence, message));
        };
        let sent = self.window.get_mut(index).filter(|sent| !sent.settled)?;
        sent.settled = true;
        let sequence = sent.sequence;
        let message = std::mem::replace(&mut sent.message, Message::empty());
        self.in_flight -= 1;
        self.in_flight_bytes -= message.body().len();
        if index == 0 {
            self.pop_settled();
        } else {
            self.set_stragglers_aside();
        }
        Some((sequence, message))
    }

    fn settle_straggler(&mut self, place: u64) -> Option<Sent> {
        let sent = self.stragglers.remove(&place)?;
        self.in_flight -= 1;
        self.in_flight_bytes -= sent.message.body().len();
        if self.straggler_cursor == Some(place) {
            self.straggler_cursor = self.stragglers.range(place..).next().map(|(&place, _)| place);
        }
        Some(sent)
    }

    /// Where nearly all that was sent is settled and its front is not, the front moves out of the way.
    fn set_stragglers_aside(&mut self) {
        if self.window.len() <= SMALL_WINDOW || self.window.len() / 4 <= self.in_flight {
            return;
        }
        // Not what is to be sent again: that stays in order. Tidied up to half of what is allowed, so
        // that each message is moved at most once between two losses.
        while self.cursor > 0
            && self.window.len() / 2 > self.in_flight
            && let Some(sent) = self.window.pop_front()
        {
            if !sent.settled {
                self.stragglers.insert(self.base, sent);
            }
            self.base += 1;
            self.cursor -= 1;
        }
        self.pop_settled();
    }

    /// Settles what is unsettled from `first` to `last`, both included, and drops those messages.
    /// Tells their sequence numbers.
    pub(crate) fn settle_run(&mut self, first: u64, last: u64, mut each: impl FnMut(u64)) {
        if !self.stragglers.is_empty() && first <= last {
            let places: Vec<_> =
                self.stragglers.range(first..=last).map(|(&place, _)| place).collect();
            for place in places {
                if let Some(sent) = self.settle_straggler(place) {
                    each(sent.sequence);
                }
            }
        }
        let from = usize::try_from(first.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let Some(last) = last.checked_sub(self.base) else { return };
        let to = usize::try_from(last).map_or(usize::MAX, |last| last.saturating_add(1));
        let to = to.min(self.window.len());
        if from >= to {
            return;
        }
        for sent in self.window.range_mut(from..to).filter(|sent| !sent.settled) {
            sent.settled = true;
            each(sent.sequence);
            self.in_flight -= 1;
            self.in_flight_bytes -= sent.message.body().len();
            if from > 0 {
                // It stays in the window for a while.
                sent.message = Message::empty();
            }
        }
        if from == 0 {
            self.pop_settled();
        } else {
            self.set_stragglers_aside();
        }
    }

    fn pop_settled(&mut self) {
        let settled = self.window.iter().take_while(|sent| sent.settled).count();
        // Dropped in place, and in one go.
        self.window.drain(..settled);
        self.base += settled as u64;
        self.cursor = self.cursor.saturating_sub(settled);
    }

    /// Unsettled messages sent on the current channel, oldest first.
    pub(crate) fn sent_places(&self) -> impl DoubleEndedIterator<Item = u64> + use<'_> {
        let places = self.base..;
        let behind = self.straggler_cursor.unwrap_or(u64::MAX);
        let stragglers = self.stragglers.range(..behind).map(|(&place, _)| place);
        stragglers.chain(self.window.range(..self.cursor).zip_places(places))
    }

    /// The channel is gone. Of what was sent on it, the messages before `whole_before` were possibly
    /// written whole: those count an attempt. Sending starts again at the window's front.
    pub(crate) fn rewind(&mut self, whole_before: u64) {
        let base = self.base;
        for (index, sent) in self.window.range_mut(..self.cursor).enumerate() {
            if base + (index as u64) < whole_before {
                sent.attempts = sent.attempts.saturating_add(1);
                #[cfg(feature = "sabotage")]
                crate::sabotage::note_attempts(sent.message.body(), sent.attempts);
            }
        }
        let behind = self.straggler_cursor.unwrap_or(u64::MAX);
        for (_, sent) in self.stragglers.range_mut(..behind.min(whole_before)) {
            sent.attempts = sent.attempts.saturating_add(1);
        }
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is(crate::sabotage::Sabotage::NoRewind) {
            return;
        }
        self.cursor = 0;
        self.straggler_cursor = self.stragglers.keys().next().copied();
    }

    /// What decides what it does next (see `session::model`): the numbers of the messages that wait,
    /// those in the window, and how many of these are sent. With a `ttl`, how long each has waited.
    #[cfg(feature = "model")]
    pub(crate) fn fingerprint(&self, now: Time, ttl: bool) -> impl std::fmt::Debug + use<> {
        // Lengths follow from the numbers, counts from the states.
        let Self {
            queue,
            queue_bytes: _,
            stragglers,
            straggler_cursor,
            window,
            base,
            cursor,
            in_flight: _,
            in_flight_bytes: _,
        } = self;
        let queued: Vec<_> = queue.iter().map(|a| (a.sequence, ttl.then(|| now - a.at))).collect();
        let sent: Vec<_> = stragglers
            .values()
            .chain(window)
            .map(|s| (s.sequence, s.attempts, s.settled, if s.settled { 0 } else { s.encoded }))
            .collect();
        (queued, sent, stragglers.len(), *straggler_cursor, *base, *cursor)
    }

    /// The first unsettled message in the window, sent or not.
    pub(crate) fn first_in_flight(&self) -> Option<u64> {
        // The window's front is never settled: what is settled there goes.
        let straggler = self.stragglers.keys().next().copied();
        straggler.or_else(|| self.window.front().map(|_| self.base))
    }
}

/// Pairs the window's messages with their places, leaving settled ones out.
trait ZipPlaces<'a>: DoubleEndedIterator<Item = &'a Sent> + ExactSizeIterator + Sized {
    fn zip_places(
        self,
        places: std::ops::RangeFrom<u64>,
    ) -> impl DoubleEndedIterator<Item = u64> + use<'a, Self> {
        self.enumerate()
            .filter(|(_, sent)| !sent.settled)
            .map(move |(index, _)| places.start + index as u64)
    }
}

impl<'a, I: DoubleEndedIterator<Item = &'a Sent> + ExactSizeIterator> ZipPlaces<'a> for I {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ring(messages: u64) -> Ring {
        let mut ring = Ring::default();
        for sequence in 1..=messages {
            let message = Message::new(format!("{sequence}"));
            ring.push(Accepted { sequence, at: Time::ZERO, routing_key: None, message });
        }
        ring
    }

    fn send(ring: &mut Ring, max: usize) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some((_, next, _)) = ring.next(max, usize::MAX) {
            sent.push(next.sequence);
        }
        sent
    }

    #[test]
    fn a_rewind_sends_the_window_again_ahead_of_the_queue_without_what_is_settled() {
        let mut ring = ring(5);
        assert_eq!(send(&mut ring, 4), [1, 2, 3, 4]);
        assert_eq!(ring.settle(0).unwrap().0, 1);
        assert_eq!(ring.settle(2).unwrap().0, 3);
        // Places 0 to 2 were written whole, 3 was not.
        ring.rewind(3);
        assert_eq!(send(&mut ring, 10), [2, 4, 5]);
        assert_eq!(ring.get(1).unwrap().attempts, 1);
        assert_eq!(ring.get(3).unwrap().attempts, 0);
        assert_eq!((ring.in_flight(), ring.queued()), (3, 0));
    }

    #[test]
    fn the_window_caps_what_is_new_but_never_a_resend() {
        let mut ring = ring(6);
        assert_eq!(send(&mut ring, 3), [1, 2, 3]);
        assert!(!ring.can_send(3, usize::MAX));
        ring.rewind(0);
        assert!(ring.can_send(1, usize::MAX));
        assert_eq!(send(&mut ring, 1), [1, 2, 3]);
    }

    #[test]
    fn a_run_settles_like_its_messages_one_by_one() {
        for (first, last) in [(0, 5), (0, 2), (1, 3), (2, 2), (3, 9), (0, 0), (6, 9), (4, 1)] {
            let (mut run, mut singly) = (ring(6), ring(6));
            for ring in [&mut run, &mut singly] {
                send(ring, 6);
                ring.settle(1);
            }
            let mut told = Vec::new();
            run.settle_run(first, last, |sequence| told.push(sequence));
            let expected: Vec<u64> = (first..=last)
                .filter_map(|place| singly.settle(place).map(|(sequence, _)| sequence))
                .collect();
            assert_eq!(told, expected, "{first} to {last}");
            for ring in [&mut run, &mut singly] {
                ring.rewind(u64::MAX);
            }
            assert_eq!(run.in_flight(), singly.in_flight());
            assert_eq!(run.in_flight_bytes, singly.in_flight_bytes);
            assert_eq!((run.base, run.window.len()), (singly.base, singly.window.len()));
            assert_eq!(send(&mut run, 9), send(&mut singly, 9), "{first} to {last}");
        }
    }

    /// A broker may never confirm one message, and all that follow: the window must not keep them.
    #[test]
    fn what_is_left_behind_keeps_no_slots_and_is_sent_again_first() {
        const MANY: u64 = 50_000;
        let mut ring = ring(MANY);
        let behind = [0, 1, 700, 5_000];
        let mut longest = 0;
        for place in 0..MANY - 2 {
            assert_eq!(ring.next(100, usize::MAX).unwrap().0, place);
            if behind.contains(&place) {
                continue;
            }
            // Singly and in runs of one.
            if place % 2 == 0 {
                assert_eq!(ring.settle(place).unwrap().0, place + 1);
            } else {
                ring.settle_run(place, place, |sequence| assert_eq!(sequence, place + 1));
            }
            longest = longest.max(ring.window.len());
        }
        assert!(longest <= SMALL_WINDOW + 1 && ring.window.capacity() <= 4 * SMALL_WINDOW);
        assert_eq!((ring.in_flight(), ring.stragglers.len()), (4, 4));
        assert_eq!(ring.sent_places().collect::<Vec<_>>(), behind);
        assert_eq!(ring.first_in_flight(), Some(0));
        // Two are sent and not settled as the channel goes; of all but the last, whole copies.
        assert_eq!(send(&mut ring, 100), [MANY - 1, MANY]);
        ring.rewind(MANY - 1);
        assert_eq!(ring.sent_places().next(), None);
        assert!(ring.has_resend() && ring.can_send(0, 0));
        let (place, sent, fresh) = ring.next(0, 0).unwrap();
        assert_eq!((place, sent.sequence, sent.attempts, fresh), (0, 1, 1, false));
        // Cut again before the others were sent again: they count no further attempt.
        assert_eq!(ring.sent_places().collect::<Vec<_>>(), [0]);
        ring.rewind(u64::MAX);
        ring.settle_run(700, 1, |sequence| panic!("an empty run: {sequence}"));
        // Settled while it waits to be sent again.
        assert_eq!(ring.settle(0).unwrap().0, 1);
        assert!(ring.settle(0).is_none());
        let mut attempts = Vec::new();
        while let Some((_, sent, _)) = ring.next(0, 0) {
            attempts.push((sent.sequence, sent.attempts));
        }
        assert_eq!(attempts, [(2, 1), (701, 1), (5_001, 1), (MANY - 1, 1), (MANY, 0)]);
        let mut told = Vec::new();
        ring.settle_run(700, MANY, |sequence| told.push(sequence));
        assert_eq!(told, [701, 5_001, MANY - 1, MANY]);
        assert_eq!(ring.get(1).unwrap().sequence, 2);
        ring.settle(1);
        assert!(ring.is_empty() && !ring.can_send(0, 0) && ring.in_flight_bytes == 0);
    }

    /// Tidying costs time: only where nearly all is settled, and no further than to half.
    #[test]
    fn a_window_is_tidied_only_where_nearly_all_of_it_is_settled() {
        let mut small = ring(1024);
        send(&mut small, 1024);
        (1..1024).for_each(|place| _ = small.settle(place));
        assert_eq!((small.stragglers.len(), small.window.len()), (0, SMALL_WINDOW));

        // One more: a quarter of 1,025 is 256. Place 515 will be at the front where half is 255.
        let mut ring = ring(1025);
        send(&mut ring, 1025);
        (1..515).chain(770..1025).for_each(|place| _ = ring.settle(place));
        assert_eq!((ring.stragglers.len(), ring.in_flight()), (0, 256));
        ring.settle(769);
        assert_eq!(ring.stragglers.keys().collect::<Vec<_>>(), [&0]);
        assert_eq!((ring.base, ring.window.len(), ring.in_flight()), (515, 510, 255));

        // What is to be sent again is not set aside.
        ring.rewind(0);
        ring.next(0, 0).unwrap();
        (516..768).for_each(|place| _ = ring.settle(place));
        assert_eq!((ring.stragglers.len(), ring.base), (1, 515));
    }

    #[test]
    fn settling_twice_or_beyond_the_window_is_nothing() {
        let mut ring = ring(2);
        send(&mut ring, 2);
        assert!(ring.settle(1).is_some());
        assert!(ring.settle(1).is_none());
        assert!(ring.settle(7).is_none());
        assert!(ring.settle(0).is_some());
        assert!(ring.settle(0).is_none());
        assert!(ring.is_empty());
    }

    #[test]
    fn bytes_are_accounted_through_queue_and_window() {
        let mut ring = Ring::default();
        for sequence in 1..=3 {
            let message = Message::new(vec![0; 100]);
            ring.push(Accepted { sequence, at: Time::ZERO, routing_key: None, message });
        }
        assert_eq!(ring.queued_bytes(), 300);
        assert!(ring.next(10, 150).is_some() && ring.next(10, 150).is_some());
        assert!(ring.next(10, 150).is_none(), "200 bytes are in flight already");
        assert_eq!(ring.pop_queued().unwrap().sequence, 3);
        assert_eq!(ring.queued_bytes(), 0);
        ring.settle(0);
        ring.settle(1);
        assert_eq!(ring.in_flight_bytes, 0);
    }

    #[test]
    fn settling_one_that_was_left_behind_moves_no_other_out_of_turn() {
        for (settled, expected) in [(0, [2, 701]), (1, [1, 701]), (700, [1, 2])] {
            let mut ring = ring(5000);
            for place in 0..5000 {
                ring.next(100, usize::MAX).unwrap();
                if ![0, 1, 700].contains(&place) {
                    ring.settle(place);
                }
            }
            assert_eq!(ring.stragglers.len(), 3);
            ring.rewind(0);
            assert!(ring.settle(settled).is_some());
            assert_eq!(send(&mut ring, 0), expected);
        }
    }

    /// What is to be sent again stays in order.
    #[test]
    fn nothing_is_set_aside_before_it_is_sent_again() {
        let mut ring = ring(2000);
        send(&mut ring, 2000);
        ring.rewind(0);
        (1..1990).for_each(|place| _ = ring.settle(place));
        assert_eq!((ring.stragglers.len(), ring.window.len()), (0, 2000));
        assert_eq!(send(&mut ring, 0)[..2], [1, 1991]);
    }

    #[test]
    fn what_is_settled_gives_its_body_back_although_it_stays_in_the_window() {
        let mut ring = ring(6);
        send(&mut ring, 6);
        ring.settle_run(2, 3, |_| ());
        ring.settle(4);
        let bodies: Vec<_> = ring.window.iter().map(|sent| sent.message.body().len()).collect();
        assert_eq!(bodies, [1, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn what_can_be_sent_is_what_next_would_give() {
        let mut ring = ring(3);
        assert!(ring.can_send(1, 1) && !ring.can_send(0, 1) && !ring.can_send(1, 0));
        assert_eq!(send(&mut ring, 2), [1, 2]);
        // A byte each.
        for (max, max_bytes, can) in [(3, 3, true), (2, 3, false), (3, 2, false)] {
            assert_eq!(ring.can_send(max, max_bytes), can, "{max} {max_bytes}");
            assert_eq!(ring.clone().next(max, max_bytes).is_some(), can, "{max} {max_bytes}");
        }
        ring.rewind(2);
        ring.settle(1);
        assert!(ring.can_send(0, 0) && ring.next(0, 0).is_some());
        assert!(!ring.can_send(0, 0) && ring.next(0, 0).is_none(), "the other one is settled");
    }
}
