//! What was sent when a channel or a connection is lost: what counts as written, what is sent again.

use super::{PUBLISH, Session, timer::Timer};
use crate::{
    ids::ProducerId,
    publish::{lane::LaneState, producer::Outcome},
    session::appended::{Appended, What},
};

impl Session {
    /// What was not begun to be written on this connection never will be: forget it, and remember
    /// which messages the peer cannot have whole.
    pub(super) fn cut_output(&mut self, c: usize) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.transmit.keep_begun_frame();
        let limit = connection.transmit.enqueued();
        self.forget_appended(c, limit, |_| true);
    }

    /// Forgets what was appended beyond `limit` and is `wanted`, after noting in `unwritten` the first
    /// message of each producer that ends beyond it; and settlements that never reach the peer.
    fn forget_appended(&mut self, c: usize, limit: u64, wanted: impl Fn(&What) -> bool) {
        let Some(appended) = self.appended.get_mut(c) else { return };
        let mut kept = std::mem::take(appended);
        let mut beyond = Vec::new();
        kept.retain(|appended| {
            let forget = appended.end > limit && wanted(&appended.what);
            if forget {
                beyond.push(*appended);
            }
            !forget
        });
        if let Some(appended) = self.appended.get_mut(c) {
            *appended = kept;
        }
        for Appended { mut end, what } in beyond {
            match what {
                What::Messages { producer, first, last } => {
                    let Some(p) = self.producers.get(producer.0) else { continue };
                    // The last one is, in any case.
                    let mut unwritten = last;
                    for place in (first..=last).rev() {
                        if end <= limit {
                            break;
                        }
                        unwritten = place;
                        end -= p.ring.get(place).map_or(0, |sent| u64::from(sent.encoded));
                    }
                    if unwritten > first
                        && let Some(appended) = self.appended.get_mut(c)
                    {
                        // Those in front are still to be written, or lost.
                        let what = What::Messages { producer, first, last: unwritten - 1 };
                        let at = appended.partition_point(|other| other.end <= end);
                        appended.insert(at, Appended { end, what });
                    }
                    self.note_unwritten(producer, unwritten);
                }
                What::Settlements { consumer, settled, .. } => {
                    self.settlements_lost(consumer, settled)
                }
            }
        }
        if c == PUBLISH {
            let partial: Vec<_> = self
                .lanes
                .iter()
                .filter_map(|lane| {
                    lane.partial.as_ref().map(|partial| (partial.producer, partial.place))
                })
                .filter(|&(producer, place)| {
                    wanted(&What::Messages { producer, first: place, last: place })
                })
                .collect();
            for (producer, place) in partial {
                self.note_unwritten(producer, place);
            }
        }
    }

    fn note_unwritten(&mut self, producer: ProducerId, place: u64) {
        let first = self.unwritten.entry(producer).or_insert(place);
        *first = place.min(*first);
    }

    /// The connection is gone: whatever the transport did not take was never written.
    pub(super) fn settle_lost(&mut self, c: usize) {
        let Some(offered) = self.connections.get(c).map(|connection| connection.transmit.offered())
        else {
            return;
        };
        self.forget_appended(c, offered, |_| true);
        if let Some(appended) = self.appended.get_mut(c) {
            for appended in std::mem::take(appended) {
                // Offered, and never flushed: messages count as written, settlements as lost.
                if let What::Settlements { consumer, settled, .. } = appended.what {
                    self.settlements_lost(consumer, settled);
                }
            }
        }
        if c == PUBLISH {
            self.active.clear();
            for l in 0..self.lanes.len() {
                self.lane_lost(l);
            }
            self.unwritten.clear();
        }
    }

    /// The lane's channel is gone, with its connection or alone: what was sent on it and is not
    /// settled is sent again when the lane is open again.
    fn lane_lost(&mut self, l: usize) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        let waiting = lane.state == LaneState::Reopening;
        lane.active = false;
        if lane.channel.is_some() {
            for producer in lane.members.clone() {
                self.rewind(producer);
            }
        }
        let Some(lane) = self.lanes.get_mut(l) else { return };
        lane.forget_channel();
        if waiting {
            self.timers.cancel(Timer::Reopen(l));
        }
        self.timers.cancel(Timer::Confirm(l));
        self.active.retain(|&other| other != l);
    }

    /// The lane's channel was closed while its connection stands: the peer discards what of its
    /// frames it has not read; what the transport has not taken it cannot have.
    pub(super) fn lane_channel_lost(&mut self, l: usize) {
        let Some(offered) =
            self.connections.get(PUBLISH).map(|connection| connection.transmit.offered())
        else {
            return;
        };
        let members = self.lanes.get(l).map(|lane| lane.members.clone()).unwrap_or_default();
        let ours = |what: &What| matches!(what, What::Messages { producer, .. } if members.contains(producer));
        self.forget_appended(PUBLISH, offered, ours);
        if let Some(appended) = self.appended.get_mut(PUBLISH) {
            appended.retain(|appended| !ours(&appended.what));
        }
        self.lane_lost(l);
        self.unwritten.clear();
    }

    /// Takes back what was sent on a channel that is gone. In fire-and-forget mode, what was possibly
    /// written whole counts as sent.
    fn rewind(&mut self, producer: ProducerId) {
        let unwritten = self.unwritten.get(&producer).copied().unwrap_or(u64::MAX);
        self.finish_sent(producer, unwritten);
        self.take_back(producer, unwritten);
    }

    /// Fire-and-forget: what was sent of the messages before this place has its outcome.
    fn finish_sent(&mut self, producer: ProducerId, unwritten: u64) {
        let Some(p) = self.producers.get(producer.0).filter(|p| !p.is_confirm()) else { return };
        let written: Vec<u64> =
            p.ring.sent_places().take_while(|&place| place < unwritten).collect();
        for place in written {
            self.finish(producer, place, &Outcome::Sent);
        }
    }

    fn take_back(&mut self, producer: ProducerId, unwritten: u64) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        p.ring.rewind(unwritten);
        p.forget_returns();
        self.mark_dirty(producer);
        self.check_closed(producer);
        self.make_ready_quietly(producer);
    }

    /// Puts the producer on its lane's list, without opening the lane.
    fn make_ready_quietly(&mut self, producer: ProducerId) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if !p.ready
            && p.can_send()
            && let Some(lane) = self.lanes.get_mut(p.lane)
        {
            p.ready = true;
            lane.ready.push_back(producer);
        }
    }

    /// Takes back what one producer has sent, because it is abandoned: some of it may be on its way.
    pub(super) fn rewind_if_sent(&mut self, producer: ProducerId) {
        let ours =
            |what: &What| matches!(what, What::Messages { producer: p, .. } if *p == producer);
        // In fire-and-forget mode, what the transport took is sent.
        let offered = self.connections.get(PUBLISH).map_or(0, |c| c.transmit.offered());
        self.forget_appended(PUBLISH, offered, ours);
        if let Some(appended) = self.appended.get_mut(PUBLISH) {
            appended.retain(|appended| !ours(&appended.what));
        }
        let unwritten = self.unwritten.remove(&producer).unwrap_or(u64::MAX);
        self.finish_sent(producer, unwritten);
        // The rest of what is encoded goes out still, and a body that was begun is finished: all of it
        // counts as possibly written, since nobody will look again.
        self.take_back(producer, u64::MAX);
    }
}
