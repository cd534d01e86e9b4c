//! A lane: the channel that one or several producers of one mode publish through, across all of its
//! openings.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{backoff::Backoff, config::PublishMode, ids::ProducerId, message::Message, time::Time};

/// What a lane does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneState {
    /// Without a channel; opened when one of its producers has something to send.
    Closed,
    /// `channel.open` or `confirm.select` is on its way.
    Opening,
    /// It publishes.
    Open,
    /// Waiting before it is opened again.
    Reopening,
    /// `channel.close` is on its way from us; confirms still count.
    Closing,
}

/// Which message a confirm tag stands for.
#[derive(Clone, Copy, Debug)]
struct Tag {
    /// `None` once it is settled.
    producer: Option<ProducerId>,
    place: u64,
}

/// A message whose body is being encoded, one frame at a time.
///
/// It holds the message itself: once begun it must be finished, whatever becomes of its producer, for
/// as long as the channel stands.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) producer: ProducerId,
    pub(crate) place: u64,
    pub(crate) message: Message,
    /// Bytes of the body encoded so far.
    pub(crate) offset: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) mode: PublishMode,
    pub(crate) state: LaneState,
    pub(crate) channel: Option<u16>,
    pub(crate) members: BTreeSet<ProducerId>,
    /// Whether a single producer owns it.
    pub(crate) own: bool,
    /// Members that have something to send, in turn.
    pub(crate) ready: VecDeque<ProducerId>,
    /// The broker paused it (`channel.flow`).
    pub(crate) paused: bool,
    /// The answer to `channel.flow` that waits for the end of a body.
    pub(crate) owed_flow_ok: Option<bool>,
    pub(crate) partial: Option<Partial>,
    /// Messages left to send one at a time, to find the one that made the broker close the channel
    /// (semantics s25); 0: no search is on.
    pub(crate) suspects: usize,
    /// Messages in a row that were refused with this code, without a confirm in between.
    pub(crate) offenders: u32,
    pub(crate) offence: u16,
    pub(crate) opened_at: Time,
    /// Confirm timeouts in a row.
    pub(crate) timeouts: u32,
    /// When what was sent: times, and the tag that came next.
    marks: VecDeque<(Time, u64)>,
    pub(crate) backoff: Backoff,
    /// Whether it stands in the session's list of lanes to visit.
    pub(crate) active: bool,
    /// Tags outstanding that were left behind in front of `tags`, each with the time of its mark.
    stragglers: BTreeMap<u64, (ProducerId, u64, Option<Time>)>,
    tags: VecDeque<Tag>,
    /// The tag of the front of `tags`.
    base: u64,
    outstanding: usize,
}

/// So many tags are never sparse enough to be tidied up.
const SMALL_LANE: usize = 1024;

/// A confirm for a tag that was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownTag;

impl Lane {
    pub(crate) fn new(mode: PublishMode, own: bool) -> Self {
        Self {
            mode,
            state: LaneState::Closed,
            channel: None,
            members: BTreeSet::new(),
            own,
            ready: VecDeque::new(),
            paused: false,
            owed_flow_ok: None,
            partial: None,
            suspects: 0,
            offenders: 0,
            offence: 0,
            opened_at: Time::ZERO,
            timeouts: 0,
            marks: VecDeque::new(),
            backoff: Backoff::default(),
            active: false,
            stragglers: BTreeMap::new(),
            tags: VecDeque::new(),
            base: 1,
            outstanding: 0,
        }
    }

    /// Whether a message may be sent now.
    pub(crate) fn may_send(&self) -> bool {
        self.state == LaneState::Open
            && !self.paused
            && (self.suspects == 0 || (self.outstanding == 0 && self.partial.is_none()))
    }

    /// Gives the next confirm tag to the message at this place. Tags are given in wire order, by the
    /// one who also writes (semantics s18).
    pub(crate) fn assign_tag(&mut self, producer: ProducerId, place: u64) {
        self.tags.push_back(Tag { producer: Some(producer), place });
        self.outstanding += 1;
        #[cfg(feature = "sabotage")]
        if let Some(count) = crate::sabotage::count(crate::sabotage::Sabotage::TagsOutOfOrder)
            && count.is_multiple_of(8)
            && let [.., before, last] = self.tags.make_contiguous()
        {
            std::mem::swap(before, last);
        }
    }

    /// Messages sent on this channel and not confirmed.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The only message outstanding.
    pub(crate) fn only_outstanding(&self) -> Option<(ProducerId, u64)> {
        if self.outstanding != 1 {
            return None;
        }
        let straggler =
            self.stragglers.values().next().map(|&(producer, place, _)| (producer, place));
        straggler.or_else(|| {
            self.tags.iter().find_map(|tag| tag.producer.map(|producer| (producer, tag.place)))
        })
    }

    /// The broker confirms (or nacks) a tag, or all up to it; tag 0 with `multiple` is everything
    /// (semantics s19). Calls `settle` for each message that was outstanding, in order, and returns
    /// how many of the named tags were settled already.
    pub(crate) fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        mut settle: impl FnMut(ProducerId, u64),
    ) -> Result<u64, UnknownTag> {
        let next = self.base + self.tags.len() as u64;
        let tag = if tag == 0 && multiple { next - 1 } else { tag };
        if tag == 0 && !multiple || tag >= next {
            return Err(UnknownTag);
        }
        let before = self.outstanding;
        if multiple {
            while let Some(straggler) = self.stragglers.first_entry().filter(|s| *s.key() <= tag) {
                let (producer, place, _) = straggler.remove();
                self.outstanding -= 1;
                settle(producer, place);
            }
        } else if let Some((producer, place, _)) = self.stragglers.remove(&tag) {
            self.outstanding -= 1;
            settle(producer, place);
            return Ok(0);
        }
        if tag < self.base {
            return Ok(u64::from(self.outstanding == before));
        }
        if multiple {
            let count = (tag + 1 - self.base) as usize;
            self.base = tag + 1;
            for tag in self.tags.drain(..count) {
                if let Some(producer) = tag.producer {
                    self.outstanding -= 1;
                    settle(producer, tag.place);
                }
            }
            self.skip_settled();
            return Ok(0);
        }
        let Some(entry) = self.tags.get_mut((tag - self.base) as usize) else {
            return Err(UnknownTag);
        };
        let Some(producer) = entry.producer.take() else { return Ok(1) };
        self.outstanding -= 1;
        settle(producer, entry.place);
        self.skip_settled();
        Ok(0)
    }

    /// The front is outstanding: what is settled there goes, and so does what is not, where nearly
    /// all that follows is settled.
    fn skip_settled(&mut self) {
        let mut sparse = self.tags.len() > SMALL_LANE && self.tags.len() / 4 > self.outstanding;
        while let Some(&Tag { producer, place }) = self.tags.front() {
            sparse = sparse && self.tags.len() / 2 > self.outstanding;
            if let Some(producer) = producer {
                if !sparse {
                    return;
                }
                while self.marks.front().is_some_and(|&(_, end)| end <= self.base) {
                    self.marks.pop_front();
                }
                let sent = self.marks.front().map(|&(at, _)| at);
                self.stragglers.insert(self.base, (producer, place, sent));
            }
            self.tags.pop_front();
            self.base += 1;
        }
    }

    /// Takes note of when the latest tags were given, for a confirm timeout.
    pub(crate) fn note_sent(&mut self, now: Time) {
        let next = self.base + self.tags.len() as u64;
        while self.marks.front().is_some_and(|&(_, tag)| tag <= self.base) {
            self.marks.pop_front();
        }
        match self.marks.back_mut() {
            Some((at, tag)) if *at == now => *tag = next,
            _ => self.marks.push_back((now, next)),
        }
    }

    /// The time for confirms starts again.
    pub(crate) fn forgive(&mut self, now: Time) {
        for (at, _) in &mut self.marks {
            *at = now;
        }
        for (.., sent) in self.stragglers.values_mut() {
            *sent = sent.map(|_| now);
        }
    }

    /// Messages outstanding for longer than `wait` says for their producer, and when the next one
    /// will be.
    pub(crate) fn overdue(
        &self,
        now: Time,
        wait: impl Fn(ProducerId) -> Option<Duration>,
    ) -> (Vec<(ProducerId, u64)>, Option<Time>) {
        let mut marks = self.marks.iter().copied().peekable();
        let stragglers =
            self.stragglers.values().map(|&(producer, place, sent)| (producer, place, sent));
        let tags = (self.base..).zip(&self.tags).filter_map(|(number, tag)| {
            while marks.next_if(|&(_, end)| end <= number).is_some() {}
            Some((tag.producer?, tag.place, marks.peek().map(|&(sent, _)| sent)))
        });
        let (mut overdue, mut next) = (Vec::new(), None);
        for (producer, place, sent) in stragglers.chain(tags) {
            let (Some(sent), Some(wait)) = (sent, wait(producer)) else { continue };
            let due = sent + wait;
            if due <= now {
                overdue.push((producer, place));
            } else {
                next = Some(next.map_or(due, |next: Time| next.min(due)));
            }
        }
        (overdue, next)
    }

    /// What decides what it does next (see `session::model`).
    #[cfg(feature = "model")]
    pub(crate) fn fingerprint(&self, now: Time) -> impl std::fmt::Debug + '_ {
        let Self {
            mode: _,
            state,
            channel,
            members,
            own: _,
            ready,
            paused,
            owed_flow_ok,
            partial,
            suspects,
            offenders,
            offence,
            opened_at,
            timeouts,
            marks,
            backoff,
            active,
            stragglers,
            tags,
            base,
            outstanding: _,
        } = self;
        let stragglers: Vec<_> = stragglers
            .iter()
            .map(|(tag, &(producer, place, at))| (*tag, producer, place, at.map(|at| now - at)))
            .collect();
        let marks: Vec<_> = marks.iter().map(|&(at, tag)| (now - at, tag)).collect();
        let partial =
            partial.as_ref().map(|partial| (partial.producer, partial.place, partial.offset));
        let open = matches!(state, LaneState::Open).then(|| now - *opened_at);
        (
            (state, channel, members, ready, paused, owed_flow_ok, partial),
            (suspects, offenders, offence, open, timeouts, marks, backoff, active),
            (stragglers, tags, base),
        )
    }

    /// Gives memory back, if nothing is outstanding.
    pub(crate) fn shrink(&mut self) {
        if self.tags.is_empty() {
            self.tags = VecDeque::new();
        }
    }

    /// The channel is gone: its tags mean nothing any more.
    pub(crate) fn forget_channel(&mut self) {
        self.channel = None;
        self.state = LaneState::Closed;
        self.paused = false;
        self.owed_flow_ok = None;
        self.partial = None;
        self.stragglers.clear();
        self.tags = VecDeque::new();
        self.marks.clear();
        self.base = 1;
        self.outstanding = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(messages: u64) -> Lane {
        let mut lane = Lane::new(PublishMode::Confirm, true);
        for place in 0..messages {
            lane.assign_tag(ProducerId(0), place);
        }
        lane
    }

    fn confirm(lane: &mut Lane, tag: u64, multiple: bool) -> (Vec<u64>, Result<u64, UnknownTag>) {
        let mut places = Vec::new();
        let result = lane.confirm(tag, multiple, |_, place| places.push(place));
        (places, result)
    }

    #[test]
    fn s19_out_of_order_mixed_duplicated_and_zero() {
        let mut lane = lane(6);
        assert_eq!(confirm(&mut lane, 3, false), (vec![2], Ok(0)));
        assert_eq!(confirm(&mut lane, 3, false), (vec![], Ok(1)));
        assert_eq!(confirm(&mut lane, 4, true), (vec![0, 1, 3], Ok(0)));
        assert_eq!(confirm(&mut lane, 2, true), (vec![], Ok(1)));
        assert_eq!(confirm(&mut lane, 0, true), (vec![4, 5], Ok(0)));
        assert_eq!(lane.outstanding(), 0);
    }

    /// The first message outstanding decides when a confirm is overdue, not one settled before it: a
    /// timer armed for that one would be due for ever.
    #[test]
    fn s26_what_is_settled_in_front_is_not_waited_for() {
        let (mut lane, wait) = (lane(2), Duration::from_secs(1));
        lane.note_sent(Time::ZERO);
        let later = Time::ZERO + Duration::from_millis(500);
        lane.assign_tag(ProducerId(0), 2);
        lane.note_sent(later);
        assert_eq!(confirm(&mut lane, 2, false).1, Ok(0));
        assert_eq!(confirm(&mut lane, 1, true).1, Ok(0));
        let overdue = |now| lane.overdue(now, |_| Some(wait));
        assert_eq!(overdue(Time::ZERO + wait), (vec![], Some(later + wait)));
        assert_eq!(overdue(later + wait), (vec![(ProducerId(0), 2)], None));
    }

    #[test]
    fn s19_a_tag_never_sent_is_an_error_and_settles_nothing() {
        let mut lane = lane(2);
        assert_eq!(confirm(&mut lane, 3, false), (vec![], Err(UnknownTag)));
        assert_eq!(confirm(&mut lane, 3, true), (vec![], Err(UnknownTag)));
        assert_eq!(confirm(&mut lane, 0, false), (vec![], Err(UnknownTag)));
        assert_eq!(lane.outstanding(), 2);
    }

    /// A broker may never confirm one message, and all that follow: the tags must not be kept.
    #[test]
    fn s19_tags_that_are_left_behind_keep_no_others() {
        let (mut lane, wait) = (lane(0), Duration::from_secs(1));
        let time = |n: u64| Time::ZERO + Duration::from_micros(n);
        let mut longest = 0;
        for place in 0..50_000 {
            lane.assign_tag(ProducerId(0), place);
            lane.note_sent(time(place));
            if ![0, 700, 5_000].contains(&place) {
                assert_eq!(confirm(&mut lane, place + 1, false), (vec![place], Ok(0)));
            }
            longest = longest.max(lane.tags.len()).max(lane.marks.len());
        }
        assert!(longest <= SMALL_LANE + 2, "{longest}");
        assert_eq!((lane.outstanding(), lane.stragglers.len()), (3, 3));
        let overdue = lane.overdue(time(700) + wait, |_| Some(wait));
        let due = |place| (ProducerId(0), place);
        assert_eq!(overdue, (vec![due(0), due(700)], Some(time(5_000) + wait)));
        lane.forgive(time(60_000));
        assert_eq!(lane.overdue(time(60_000), |_| Some(wait)), (vec![], Some(time(60_000) + wait)));
        // Each form of a confirm still finds them, once.
        assert_eq!(confirm(&mut lane, 701, false), (vec![700], Ok(0)));
        assert_eq!(confirm(&mut lane, 701, false), (vec![], Ok(1)));
        assert_eq!(confirm(&mut lane, 800, true), (vec![0], Ok(0)));
        assert_eq!(confirm(&mut lane, 800, true), (vec![], Ok(1)));
        assert_eq!(lane.only_outstanding(), Some(due(5_000)));
        assert_eq!(confirm(&mut lane, 0, true), (vec![5_000], Ok(0)));
        assert_eq!(lane.outstanding(), 0);
    }

    /// Tidying costs time: only where nearly all is settled, and no further than to half.
    #[test]
    fn a_lane_is_tidied_only_where_nearly_all_of_it_is_settled() {
        let mut small = lane(SMALL_LANE as u64);
        for tag in 2..=SMALL_LANE as u64 {
            assert_eq!(confirm(&mut small, tag, false).1, Ok(0));
        }
        assert_eq!((small.stragglers.len(), small.tags.len()), (0, SMALL_LANE));

        // One more: a quarter of 1,025 is 256. Tag 516 will be at the front where half is 255.
        let mut lane = lane(1025);
        for tag in (2..=515).chain(771..=1025) {
            assert_eq!(confirm(&mut lane, tag, false).1, Ok(0));
        }
        assert_eq!((lane.stragglers.len(), lane.outstanding()), (0, 256));
        assert_eq!(confirm(&mut lane, 770, false).1, Ok(0));
        assert_eq!(lane.stragglers.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!((lane.base, lane.tags.len(), lane.outstanding()), (516, 510, 255));
    }

    #[test]
    fn s26_what_is_sent_at_one_time_has_one_mark() {
        let mut lane = lane(1);
        lane.note_sent(Time::ZERO);
        lane.assign_tag(ProducerId(0), 1);
        lane.note_sent(Time::ZERO);
        assert_eq!(lane.marks.len(), 1);
    }

    #[test]
    fn s18_tags_start_at_one_on_each_channel() {
        let mut lane = lane(3);
        lane.forget_channel();
        lane.assign_tag(ProducerId(0), 0);
        assert_eq!(confirm(&mut lane, 1, false), (vec![0], Ok(0)));
    }
}
