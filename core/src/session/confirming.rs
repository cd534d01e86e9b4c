//! Confirms: what they settle, and those that never come (s26).

use super::{PUBLISH, Session, timer::Timer};
use crate::{
    event::{UnknownReason, Verdict},
    ids::ProducerId,
    publish::{
        lane::{Lane, LaneState},
        producer::Outcome,
    },
    session::appended::{Appended, What},
};

impl Session {
    /// `basic.ack` or `basic.nack` on a lane.
    pub(super) fn on_confirm(&mut self, l: usize, tag: u64, multiple: bool, nack: bool) -> bool {
        #[cfg(feature = "sabotage")]
        if nack && crate::sabotage::is(crate::sabotage::Sabotage::AckSpansNack) {
            return true;
        }
        let Some(mut lane) = self
            .lanes
            .get_mut(l)
            .map(|lane| std::mem::replace(lane, Lane::new(lane.mode, lane.own)))
        else {
            return false;
        };
        // Neighbours mostly belong to one producer, in places that follow each other.
        let mut run: Option<(ProducerId, u64, u64)> = None;
        let mut others = Vec::new();
        let mut settled = 0;
        let result = lane.confirm(tag, multiple, |producer, place| {
            settled += 1;
            match &mut run {
                Some((same, _, last)) if *same == producer && *last + 1 == place => *last = place,
                _ => {
                    if let Some((other, first, last)) = run.replace((producer, place, place)) {
                        self.confirm_run(other, first, last, nack);
                        others.push(other);
                    }
                }
            }
        });
        let last = run.map(|(producer, first, last)| {
            self.confirm_run(producer, first, last, nack);
            producer
        });
        if settled > 0 {
            lane.backoff.reset();
            lane.offenders = 0;
            lane.timeouts = 0;
            lane.suspects = lane.suspects.saturating_sub(settled);
        }
        if let Some(slot) = self.lanes.get_mut(l) {
            *slot = lane;
        }
        match result {
            Err(_) => return false,
            Ok(duplicates) => self.count_duplicates(l, duplicates),
        }
        for producer in others.into_iter().chain(last) {
            self.check_closed(producer);
            self.make_ready(producer);
        }
        if self.single_file {
            self.end_single_file();
        }
        self.activate(l);
        true
    }

    fn confirm_run(&mut self, producer: ProducerId, first: u64, last: u64, nack: bool) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if nack || p.confirms_singly() {
            for place in first..=last {
                self.confirm_one(producer, place, nack);
            }
        } else {
            p.finish_run(first, last);
            self.mark_dirty(producer);
        }
    }

    fn confirm_one(&mut self, producer: ProducerId, place: u64, nack: bool) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let returned = p.take_return(place);
        let outcome = match (nack, returned) {
            #[cfg(feature = "sabotage")]
            (true, _) if crate::sabotage::is(crate::sabotage::Sabotage::NackIsDrop) => {
                Outcome::Not(Verdict::Dropped(crate::event::DropReason::BufferFull))
            }
            (true, _) => Outcome::Not(Verdict::Nacked),
            (false, Some(reply)) => Outcome::Not(Verdict::Returned(reply)),
            (false, None) => Outcome::Confirmed,
        };
        self.finish(producer, place, &outcome);
    }

    fn count_duplicates(&mut self, l: usize, duplicates: u64) {
        if let Some(producer) = self.lanes.get(l).and_then(|lane| lane.members.first().copied())
            && let Some(p) = self.producers.get_mut(producer.0)
        {
            p.stats.duplicate_confirms += duplicates;
        }
    }

    /// Bytes are surely written: fire-and-forget messages are sent, settlements are done.
    pub(super) fn settle_written(&mut self, c: usize) {
        let Some(flushed) = self.connections.get(c).map(|connection| connection.transmit.flushed())
        else {
            return;
        };
        while let Some(appended) = self.appended.get_mut(c) {
            if appended.front().is_none_or(|front| front.end > flushed) {
                return;
            }
            let Some(Appended { what, .. }) = appended.pop_front() else { return };
            match what {
                What::Messages { producer, first, last } => {
                    if self.producers.get(producer.0).is_some_and(|p| !p.is_confirm()) {
                        self.sent(producer, first, last);
                    }
                }
                What::Settlements { consumer, settled, settles, .. } => {
                    self.settlements_written(consumer, settled, settles);
                }
            }
        }
    }

    /// Fire-and-forget: written.
    pub(super) fn sent(&mut self, producer: ProducerId, first: u64, last: u64) {
        if let Some(p) = self.producers.get_mut(producer.0) {
            p.finish_run(first, last);
            self.mark_dirty(producer);
        }
        self.check_closed(producer);
        self.make_ready(producer);
    }

    // ---- confirms that never come (s26) ----------------------------------------------------------

    pub(super) fn confirm_due(&mut self, l: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get(PUBLISH).filter(|c| c.is_open()) else {
            return;
        };
        // While nobody reads, on either side, no confirm can come (s21, s35).
        let blocked = connection.blocked.is_some() || !connection.reads();
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if lane.state != LaneState::Open || lane.outstanding() == 0 {
            return;
        }
        if blocked || lane.partial.is_some() {
            // A channel cannot be closed in the middle of a body.
            lane.forgive(now);
        }
        let factor = 1 << lane.timeouts.min(16);
        let (overdue, next) = lane.overdue(now, |producer| {
            let timeout = self.producers.get(producer.0)?.config.confirm_timeout?;
            Some(timeout.saturating_mul(factor))
        });
        if overdue.is_empty() {
            if let Some(at) = next {
                self.timers.arm(Timer::Confirm(l), at);
            }
            return;
        }
        lane.timeouts = lane.timeouts.saturating_add(1);
        let channel = lane.channel;
        for (producer, place) in overdue {
            let Some(p) = self.producers.get_mut(producer.0) else { continue };
            let spent = p.timeouts.entry(place).or_insert(0);
            *spent += 1;
            if *spent > p.config.confirm_retries {
                let verdict = Verdict::Unknown(UnknownReason::ConfirmTimeout);
                self.finish(producer, place, &Outcome::Not(verdict));
                self.check_closed(producer);
            }
        }
        // Reset the channel; acks that arrive before close-ok still count.
        if let (Some(lane), Some(channel)) = (self.lanes.get_mut(l), channel) {
            lane.state = LaneState::Closing;
            self.close_channel(PUBLISH, channel, 200, "no confirm in time");
        }
    }

    /// What the lane's members have in flight, to be sent one by one.
    pub(super) fn suspects(&self, l: usize) -> usize {
        self.lanes.get(l).map_or(0, |lane| {
            lane.members
                .iter()
                .filter_map(|producer| self.producers.get(producer.0))
                .map(|p| p.ring.in_flight())
                .sum()
        })
    }
}
