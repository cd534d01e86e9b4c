//! Lanes: publishing channels across their openings, what is encoded on them, and what settles.

use amq_protocol::protocol::{AMQPClass, confirm};

use super::{PUBLISH, Session, timer::Timer};
use crate::{
    config::PublishMode,
    connection::{
        Connection,
        channel::{Expect, Owner},
    },
    event::{FailReason, UnknownReason, Verdict},
    ids::ProducerId,
    publish::{
        lane::{Lane, LaneState, Partial},
        producer::{Outcome, STALL, Step, Wire},
    },
    session::appended::{Appended, What},
};

/// How many bytes one producer may encode before the next one has its turn.
const QUANTUM: u64 = 16 << 10;

/// Channels that producers without one of their own share, for each mode.
const SHARED_LANES: usize = 8;

impl Session {
    // ---- membership ------------------------------------------------------------------------------

    /// The lane for a new producer: one of its own while there are plenty of channels, then the one
    /// with the fewest members among those that producers of its mode share.
    pub(super) fn lane_for(&mut self, mode: PublishMode) -> usize {
        let own = self.lanes.iter().filter(|lane| lane.own && !lane.members.is_empty()).count();
        if own < usize::from(self.config.limits.own_channels) {
            return self.new_lane(mode, true);
        }
        let shared =
            self.lanes.iter().enumerate().filter(|(_, lane)| !lane.own && lane.mode == mode);
        let (count, best) = shared.fold(
            (0, None),
            |(count, best): (usize, Option<(usize, usize)>), (index, lane)| {
                let members = lane.members.len();
                let best = best.filter(|&(_, fewest)| fewest <= members).or(Some((index, members)));
                (count + 1, best)
            },
        );
        match best {
            Some((index, members)) if members == 0 || count >= SHARED_LANES => index,
            _ => self.new_lane(mode, false),
        }
    }

    fn new_lane(&mut self, mode: PublishMode, own: bool) -> usize {
        // A lane whose members are gone and whose channel is closed is used again.
        let unused = |lane: &Lane| {
            lane.members.is_empty()
                && lane.channel.is_none()
                && lane.state == LaneState::Closed
                && !lane.active
        };
        if let Some(index) = self.lanes.iter().position(unused)
            && let Some(lane) = self.lanes.get_mut(index)
        {
            *lane = Lane::new(mode, own);
            return index;
        }
        self.lanes.push(Lane::new(mode, own));
        self.lanes.len() - 1
    }

    pub(super) fn leave_lane(&mut self, producer: ProducerId, l: usize) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        lane.members.retain(|&member| member != producer);
        lane.ready.retain(|&member| member != producer);
        if !lane.members.is_empty() {
            return;
        }
        match lane.state {
            LaneState::Open => self.close_if_unused(l),
            LaneState::Reopening => {
                lane.state = LaneState::Closed;
                self.timers.cancel(Timer::Reopen(l));
            }
            LaneState::Closed | LaneState::Opening | LaneState::Closing => {}
        }
    }

    // ---- opening ---------------------------------------------------------------------------------

    /// The producer may have something to send: its lane shall know, and open if it must.
    pub(super) fn make_ready(&mut self, producer: ProducerId) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if p.ready || !p.can_send() {
            return;
        }
        let l = p.lane;
        let Some(lane) = self.lanes.get_mut(l) else { return };
        p.ready = true;
        lane.ready.push_back(producer);
        match lane.state {
            LaneState::Open => self.activate(l),
            LaneState::Closed => self.open_lane(l),
            LaneState::Opening | LaneState::Reopening | LaneState::Closing => {}
        }
    }

    fn activate(&mut self, l: usize) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if !lane.active && (!lane.ready.is_empty() || lane.partial.is_some()) {
            lane.active = true;
            self.active.push_back(l);
        }
    }

    /// Opens every lane that has something to send: the publishing connection is up.
    pub(super) fn open_waiting_lanes(&mut self) {
        for l in 0..self.lanes.len() {
            if self
                .lanes
                .get(l)
                .is_some_and(|lane| lane.state == LaneState::Closed && !lane.ready.is_empty())
            {
                self.open_lane(l);
            }
        }
    }

    fn open_lane(&mut self, l: usize) {
        let Some(connection) =
            self.connections.get_mut(PUBLISH).filter(|connection| connection.is_open())
        else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(l) else { return };
        match connection.open_channel(Owner::Lane(l)) {
            Some(number) => {
                lane.channel = Some(number);
                lane.state = LaneState::Opening;
                self.await_reply(PUBLISH, number);
            }
            // Every channel is taken: one may be free later (s47).
            None => self.delay_lane(l),
        }
    }

    /// Opens the lane again after its backoff.
    pub(super) fn delay_lane(&mut self, l: usize) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        let delay = lane.backoff.next(&self.config.backoff, &mut self.rng);
        lane.state = LaneState::Reopening;
        self.timers.arm(Timer::Reopen(l), self.now + delay);
        self.refresh_lane(l);
    }

    pub(super) fn reopen_lane(&mut self, l: usize) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if lane.state != LaneState::Reopening {
            return;
        }
        lane.state = LaneState::Closed;
        if !lane.ready.is_empty() {
            self.open_lane(l);
        }
        self.refresh_lane(l);
    }

    /// Tells the lane's producers how messages leave.
    pub(super) fn refresh_lane(&mut self, l: usize) {
        let members = self.lanes.get(l).map(|lane| lane.members.clone()).unwrap_or_default();
        for producer in members {
            self.refresh_flow(producer);
        }
    }

    /// `channel.open-ok` or `confirm.select-ok` came.
    pub(super) fn lane_step(&mut self, l: usize, channel: u16, done: Expect) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if lane.mode == PublishMode::Confirm && done == Expect::OpenOk {
            let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
            self.call(PUBLISH, channel, &AMQPClass::Confirm(select), Expect::SelectOk);
            return;
        }
        lane.state = LaneState::Open;
        lane.opened_at = self.now;
        self.close_if_unused(l);
        self.activate(l);
        self.refresh_lane(l);
    }

    /// `channel.flow` pauses the lane, or lets it go on (s24).
    pub(super) fn lane_flow(&mut self, l: usize, c: usize, channel: u16, active: bool) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        lane.paused = !active;
        if lane.partial.is_some() {
            lane.owed_flow_ok = Some(active);
        } else {
            self.answer_flow(c, channel, active);
        }
        self.activate(l);
        self.refresh_lane(l);
    }

    // ---- encoding --------------------------------------------------------------------------------

    /// Encodes what is ready, lane by lane, until enough output is pending.
    pub(super) fn encode_messages(&mut self) {
        if !self.publishes() {
            return;
        }
        let mut idle = 0;
        while idle < self.active.len()
            && self.connections.get(PUBLISH).is_some_and(Self::has_output_room)
            && !(self.single_file && self.in_single_file())
        {
            let Some(l) = self.active.pop_front() else { return };
            let before =
                self.connections.get(PUBLISH).map(|connection| connection.transmit.enqueued());
            let more = self.encode_lane(l);
            let after =
                self.connections.get(PUBLISH).map(|connection| connection.transmit.enqueued());
            idle = if before == after { idle + 1 } else { 0 };
            if more {
                self.active.push_back(l);
            } else if let Some(lane) = self.lanes.get_mut(l) {
                lane.active = false;
            }
        }
    }

    /// Gives the lane a turn: one producer's quantum. Whether it has more to send.
    fn encode_lane(&mut self, l: usize) -> bool {
        let now = self.now;
        let (Some(connection), Some(lane)) =
            (self.connections.get_mut(PUBLISH), self.lanes.get_mut(l))
        else {
            return false;
        };
        let Some(channel) = lane.channel else { return false };
        let mut wire = Wire {
            transmit: &mut connection.transmit,
            channel,
            frame_max: connection.tuned.frame_max,
        };
        if let Some(partial) = &mut lane.partial {
            let &mut Partial { producer, place, .. } = partial;
            let from = wire.transmit.enqueued();
            partial.offset = wire.put_body(&partial.message, partial.offset);
            let end = wire.transmit.enqueued();
            if let Some(p) = self.producers.get_mut(producer.0) {
                p.note_encoded(place, end - from);
            }
            if partial.offset >= partial.message.body().len() {
                lane.partial = None;
                if let Some(appended) = self.appended.get_mut(PUBLISH) {
                    appended.push_back(Appended {
                        end,
                        what: What::Messages { producer, first: place, last: place },
                    });
                }
                self.after_body(l, channel);
            }
            return true;
        }
        if !lane.may_send() {
            return false;
        }
        let Some(producer) = lane.ready.pop_front() else { return false };
        let Some(p) = self.producers.get_mut(producer.0) else { return !lane.ready.is_empty() };
        if !p.gate_open {
            // Its queue is declared again first (s37); then it is made ready again.
            p.ready = false;
            return !lane.ready.is_empty();
        }
        let until = wire.transmit.enqueued() + QUANTUM;
        let left = p.left;
        let confirm = lane.mode == PublishMode::Confirm;
        let single = self.single_file;
        let mut run: Option<(u64, u64, u64)> = None;
        let mut failed = Vec::new();
        while lane.may_send() && wire.transmit.enqueued() < until {
            if p.config.ttl.is_some_and(|ttl| p.ring.expiry(ttl).is_some_and(|at| at <= now)) {
                break;
            }
            let Some(Step { place, result, attempt }) = p.send_next(&mut wire, now) else { break };
            match result {
                Ok(rest) => {
                    if confirm {
                        lane.assign_tag(producer, place);
                    }
                    if let Some(offset) = rest
                        && let Some(sent) = p.ring.get(place)
                    {
                        let message = sent.message.clone();
                        lane.partial = Some(Partial { producer, place, message, offset });
                        break;
                    }
                    let first = run.map_or(place, |(first, ..)| first);
                    run = Some((first, place, wire.transmit.enqueued()));
                }
                Err(_) => failed.push((place, attempt)),
            }
            if single {
                break;
            }
        }
        p.ready = p.can_send();
        if p.ready {
            lane.ready.push_back(producer);
        }
        if p.left != left && p.evicts() {
            // Something left: nothing is thrown away, unless the rest stands still for as long again.
            p.stalled = false;
            if p.ring.queued() > 0 && !p.stall_armed {
                p.stall_armed = true;
                self.timers.arm(Timer::Stall(producer), now + STALL);
            }
        }
        let more = lane.partial.is_some() || (!lane.ready.is_empty() && lane.may_send());
        let confirm_timeout = p.config.confirm_timeout.filter(|_| confirm);
        if confirm_timeout.is_some() {
            lane.note_sent(now);
        }
        if let (Some((first, last, end)), Some(appended)) = (run, self.appended.get_mut(PUBLISH)) {
            appended.push_back(Appended { end, what: What::Messages { producer, first, last } });
        }
        if let Some(timeout) = confirm_timeout {
            self.timers.arm_if_idle(Timer::Confirm(l), now + timeout);
        }
        self.expire(producer);
        self.refresh_flow(producer);
        self.mark_dirty(producer);
        for (place, attempt) in failed {
            let verdict = if attempt > 1 {
                Verdict::Unknown(UnknownReason::FrameTooLarge)
            } else {
                Verdict::Failed(FailReason::FrameTooLarge)
            };
            self.finish(producer, place, &Outcome::Not(verdict));
            self.check_closed(producer);
        }
        more
    }

    /// A long body is encoded to its end: what had to wait for it, since nothing may come between
    /// the frames of a message on its channel (s11).
    fn after_body(&mut self, l: usize, channel: u16) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if let Some(active) = lane.owed_flow_ok.take() {
            self.answer_flow(PUBLISH, channel, active);
        }
        self.close_if_unused(l);
    }

    /// Closes the channel of a lane that nobody publishes on any more.
    fn close_if_unused(&mut self, l: usize) {
        let stands = self.connections.get(PUBLISH).is_some_and(Connection::is_open);
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if stands
            && lane.state == LaneState::Open
            && lane.members.is_empty()
            && lane.partial.is_none()
            && let Some(channel) = lane.channel
        {
            lane.state = LaneState::Closing;
            self.close_channel(PUBLISH, channel, 200, "producer closed");
        }
    }

    // ---- settling --------------------------------------------------------------------------------

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
    fn sent(&mut self, producer: ProducerId, first: u64, last: u64) {
        if let Some(p) = self.producers.get_mut(producer.0) {
            p.finish_run(first, last);
            self.mark_dirty(producer);
        }
        self.check_closed(producer);
        self.make_ready(producer);
    }

    // ---- loss ------------------------------------------------------------------------------------

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
                    let mut unwritten = last + 1;
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
    pub(super) fn lane_lost(&mut self, l: usize) {
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
