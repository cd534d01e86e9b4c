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

    /// `ready`: it stands in the lane's list.
    pub(super) fn leave_lane(&mut self, producer: ProducerId, l: usize, ready: bool) {
        let Some(lane) = self.lanes.get_mut(l) else { return };
        lane.members.remove(&producer);
        if ready {
            lane.ready.retain(|&member| member != producer);
        }
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

    pub(super) fn activate(&mut self, l: usize) {
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
        {
            let Some(l) = self.active.pop_front() else { return };
            // A body that was begun goes on, whoever waits for it.
            let begun = self.lanes.get(l).is_some_and(|lane| lane.partial.is_some());
            if self.single_file && !begun && self.in_single_file() {
                self.active.push_back(l);
                idle += 1;
                continue;
            }
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
            partial.offset = wire.put_body(&partial.message, partial.offset);
            let end = wire.transmit.enqueued();
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
        let producer = loop {
            let Some(producer) = lane.ready.pop_front() else { return false };
            match self.producers.get_mut(producer.0) {
                Some(p) if p.gate_open => break producer,
                // Its queue is declared again first (s37); then it is made ready again.
                Some(p) => p.ready = false,
                None => {}
            }
        };
        let Some(p) = self.producers.get_mut(producer.0) else { return false };
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
}
