//! Producers: taking messages in, and telling what became of them.

use std::{sync::Arc, time::Duration};

use super::{PUBLISH, Session, api::ProducerUpdate, timer::Timer};
use crate::{
    config::{BufferPolicy, ProducerConfig, WhenOffline, check_name},
    error::{InvalidMessage, OpenError, PublishError},
    event::{DropReason, Event, Settled, UnknownReason, Verdict},
    ids::ProducerId,
    message::Message,
    publish::{
        Accepted, Flow,
        lane::LaneState,
        limits::PublishLimits,
        producer::{Outcome, Producer, STALL},
    },
    session::api::SessionEvent,
    time::Time,
    wire::IdPrefix,
};
use rand_chacha::rand_core::Rng;

/// How long memory that was needed once is kept for a producer that holds nothing.
const REST: Duration = Duration::from_secs(1);

impl Session {
    /// Opens a producer. It needs no connection: its channel is opened with its first message.
    ///
    /// # Errors
    ///
    /// If the session is closed, a name is too long, or an option is outside its range.
    pub fn open_producer(
        &mut self,
        config: ProducerConfig,
        now: Time,
    ) -> Result<ProducerId, OpenError> {
        self.advance(now);
        if self.closed || self.closing.is_some() {
            return Err(OpenError::Closed);
        }
        check_name("exchange", &config.exchange)?;
        check_name("routing key", &config.routing_key)?;
        for (key, value) in [
            ("buffer_size", config.buffer_size),
            ("buffer_bytes", config.buffer_bytes),
            ("max_in_flight", config.max_in_flight),
            ("max_in_flight_bytes", config.max_in_flight_bytes),
        ] {
            if value == 0 {
                return Err(OpenError::Option { key, expected: "at least 1" });
            }
        }
        let lane = self.lane_for(config.mode);
        let prefix = IdPrefix(self.rng.next_u64());
        let producer = Producer::new(config, lane, prefix, self.config.message_ids);
        let Some(number) = self.producers.insert(producer) else {
            return Err(OpenError::Option {
                key: "producers",
                expected: "at most a million on one client",
            });
        };
        let id = ProducerId(number);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.members.insert(id);
        }
        if let Some(p) = self.producers.get(number) {
            self.dependents.add_producer(&p.config, id);
        }
        self.not_closed += 1;
        self.refresh_gate(id);
        self.refresh_flow(id);
        self.mark_dirty(id);
        Ok(id)
    }

    /// Whether the session could ever send this message.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check(&self, producer: ProducerId, message: &Message) -> Result<(), InvalidMessage> {
        let Some(p) = self.producers.get(producer.0) else { return Ok(()) };
        PublishLimits::new(&p.config, &self.config.limits).check(message)
    }

    /// Takes over a message that was accepted at a hand-over. It never refuses: at capacity it evicts
    /// ([`BufferPolicy::DropOldest`]), or overruns the buffer by what the hand-over admitted.
    #[inline]
    pub fn accept(&mut self, producer: ProducerId, accepted: Accepted, now: Time) {
        self.advance(now);
        let now = self.now;
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if p.ring.queued() == 0 {
            p.last_left = now;
        }
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is(crate::sabotage::Sabotage::BlockDrops)
            && p.config.policy == BufferPolicy::Block
            && p.ring.queued() + 1 >= p.config.buffer_size
        {
            self.drop_oldest(producer, DropReason::BufferFull);
        }
        #[cfg(feature = "sabotage")]
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        p.accept(accepted);
        let armed = p.stall_armed == p.evicts() && p.config.ttl.is_none();
        if p.ready && p.dirty && armed && !p.is_over() && !self.closed {
            // Like the one before it.
            return;
        }
        if !p.dirty {
            p.dirty = true;
            self.dirty.push_back(producer);
        }
        if self.closed {
            self.abandon(producer, DropReason::Closed);
            return;
        }
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if p.evicts() {
            if p.is_over() {
                self.evict(producer);
            } else if !p.stall_armed {
                p.stall_armed = true;
                self.timers.arm(Timer::Stall(producer), now + STALL);
            }
        }
        if self.producers.get(producer.0).is_some_and(|p| p.config.ttl.is_some() && !p.ttl_armed) {
            self.expire(producer);
        }
        self.make_ready(producer);
    }

    /// Takes over a message that was accepted and then evicted at the hand-over itself: it is counted
    /// and reported as `Dropped(BufferFull)`, and does not count in `ProducerUpdate::left`.
    pub fn accept_evicted(&mut self, producer: ProducerId, accepted: Accepted, now: Time) {
        self.advance(now);
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        p.stats.accepted += 1;
        self.report_unsent(producer, accepted, Verdict::Dropped(DropReason::BufferFull));
        self.mark_dirty(producer);
    }

    /// Publishes without a hand-over, for event loops of your own: applies the policy itself, where
    /// `Block` is [`PublishError::Full`], since the core cannot wait. Returns the sequence number.
    ///
    /// # Errors
    ///
    /// The message comes back with the reason.
    pub fn publish(
        &mut self,
        producer: ProducerId,
        message: Message,
        now: Time,
    ) -> Result<u64, PublishError> {
        self.advance(now);
        let invalid = self.check(producer, &message).err();
        let state = self.state.clone();
        let Some(p) = self.producers.get_mut(producer.0).filter(|p| !p.closing) else {
            return Err(PublishError::Closed(message));
        };
        p.stats.offered += 1;
        if let Some(invalid) = invalid {
            p.stats.refused_invalid += 1;
            return Err(PublishError::Invalid(message, invalid));
        }
        if p.config.when_offline == WhenOffline::Fail && p.flow.offline {
            p.stats.refused_offline += 1;
            return Err(PublishError::Offline(message, Arc::new(state)));
        }
        if p.is_full(message.body().len()) && p.config.policy != BufferPolicy::DropOldest {
            p.stats.refused_full += 1;
            return Err(PublishError::Full(message));
        }
        let sequence = p.draw_sequence();
        self.accept(producer, Accepted { sequence, at: now, routing_key: None, message }, now);
        Ok(sequence)
    }

    /// No more messages will come; what is queued is still sent, and [`ProducerUpdate::closed`]
    /// follows. With `abandon`, what is queued or in flight ends now.
    pub fn close_producer(&mut self, producer: ProducerId, abandon: bool, now: Time) {
        self.advance(now);
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        p.closing = true;
        if abandon {
            self.abandon(producer, DropReason::Closed);
        }
        self.check_closed(producer);
        self.mark_dirty(producer);
    }

    // ---- outputs ---------------------------------------------------------------------------------

    /// What changed about a producer.
    pub fn poll_producer(&mut self) -> Option<ProducerUpdate> {
        loop {
            let producer = self.dirty.pop_front()?;
            let Some(p) = self.producers.get_mut(producer.0) else { continue };
            p.dirty = false;
            let update = ProducerUpdate {
                producer,
                left: std::mem::take(&mut p.left),
                left_bytes: std::mem::take(&mut p.left_bytes),
                flow: p.flow,
                settled: p.settled.watermark(),
                closed: p.closed,
            };
            if !p.resting && !p.closed && p.ring.is_empty() && p.ring.is_roomy() {
                p.resting = true;
                self.resting.push_back((self.now, producer));
            }
            if p.closed {
                let account = p.snapshot();
                self.closed_stats.publish.add(&account);
                self.forget_producer(producer);
                self.last_closed = Some((producer, account));
            }
            return Some(update);
        }
    }

    /// Producers whose buffers and windows have been empty for a while give their memory back.
    pub(super) fn give_memory_back(&mut self) {
        while let Some(&(since, producer)) = self.resting.front()
            && self.now - since >= REST
        {
            self.resting.pop_front();
            let Some(p) = self.producers.get_mut(producer.0) else { continue };
            // If it is not empty now, it is listed again when it is.
            p.resting = false;
            p.ring.shrink();
            if let Some(lane) = self.lanes.get_mut(p.lane) {
                lane.shrink();
            }
        }
    }

    /// Runs of sequence numbers beyond the watermark that settled since the last call.
    pub fn take_settled_early(&mut self, producer: ProducerId, runs: &mut Vec<(u64, u64)>) {
        if let Some(p) = self.producers.get_mut(producer.0) {
            runs.append(&mut p.early);
        }
    }

    pub(super) fn mark_dirty(&mut self, producer: ProducerId) {
        if let Some(p) = self.producers.get_mut(producer.0)
            && !p.dirty
        {
            p.dirty = true;
            self.dirty.push_back(producer);
        }
    }

    fn forget_producer(&mut self, producer: ProducerId) {
        let Some(p) = self.producers.remove(producer.0) else { return };
        self.dependents.remove_producer(&p.config, producer);
        self.timers.cancel(Timer::Ttl(producer));
        self.timers.cancel(Timer::Stall(producer));
        self.leave_lane(producer, p.lane, p.ready);
    }

    // ---- outcomes --------------------------------------------------------------------------------

    /// A message in the window has its outcome.
    pub(super) fn finish(&mut self, producer: ProducerId, place: u64, outcome: &Outcome) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let key = match outcome {
            Outcome::Not(_) => p.ring.get(place).and_then(|sent| sent.routing_key.clone()),
            Outcome::Confirmed if p.config.report_confirmed => {
                p.ring.get(place).and_then(|sent| sent.routing_key.clone())
            }
            Outcome::Confirmed | Outcome::Sent => None,
        };
        let Some((sequence, message)) = p.ring.settle(place) else { return };
        if !p.timeouts.is_empty() {
            p.timeouts.remove(&place);
        }
        p.count(sequence, outcome);
        let verdict = match outcome {
            Outcome::Sent => None,
            Outcome::Confirmed => p.config.report_confirmed.then_some(None),
            Outcome::Not(verdict) => Some(Some(verdict.clone())),
        };
        if let Some(verdict) = verdict {
            self.tell(producer, sequence, key, verdict, message);
        }
        self.mark_dirty(producer);
    }

    fn tell(
        &mut self,
        producer: ProducerId,
        sequence: u64,
        key: Option<Arc<str>>,
        verdict: Option<Verdict>,
        message: Message,
    ) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let exchange = p.config.exchange.clone();
        let routing_key = key.unwrap_or_else(|| p.config.routing_key.clone());
        if let (Some(verdict), Some(report)) = (&verdict, &mut self.closing) {
            match verdict {
                Verdict::Dropped(_) => report.dropped += 1,
                Verdict::Unknown(_) => report.unknown += 1,
                _ => {}
            }
        }
        if let Some(verdict) = &verdict {
            let (exchange, routing_key, verdict) =
                (exchange.clone(), routing_key.clone(), verdict.clone());
            self.event(Event::NotConfirmed { exchange, routing_key, sequence, verdict });
        }
        let settled = Box::new(Settled { sequence, exchange, routing_key, verdict, message });
        self.events.push_back(SessionEvent::Settled { producer, settled });
    }

    /// A message that was never encoded has its outcome.
    fn report_unsent(&mut self, producer: ProducerId, accepted: Accepted, verdict: Verdict) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let outcome = Outcome::Not(verdict);
        p.count(accepted.sequence, &outcome);
        let Outcome::Not(verdict) = outcome else { return };
        self.tell(
            producer,
            accepted.sequence,
            accepted.routing_key,
            Some(verdict),
            accepted.message,
        );
    }

    fn drop_oldest(&mut self, producer: ProducerId, reason: DropReason) -> bool {
        let now = self.now;
        let Some(p) = self.producers.get_mut(producer.0) else { return false };
        let Some(oldest) = p.ring.pop_queued() else { return false };
        p.note_left(oldest.message.body().len(), now);
        #[cfg(feature = "sabotage")]
        if reason == DropReason::BufferFull
            && crate::sabotage::is(crate::sabotage::Sabotage::ForgetsEvicted)
        {
            return true;
        }
        self.report_unsent(producer, oldest, Verdict::Dropped(reason));
        true
    }

    /// Evicts the oldest unsent messages until the buffer holds what it may. The byte cap can evict
    /// several for one.
    fn evict(&mut self, producer: ProducerId) {
        while self.producers.get(producer.0).is_some_and(Producer::is_over) {
            if !self.drop_oldest(producer, DropReason::BufferFull) {
                return;
            }
        }
    }

    /// Everything that this producer still has ends now: `Dropped` if the broker can have no whole
    /// copy, `Unknown` otherwise.
    pub(super) fn abandon(&mut self, producer: ProducerId, reason: DropReason) {
        self.rewind_if_sent(producer);
        while let Some(place) =
            self.producers.get(producer.0).and_then(|p| p.ring.first_in_flight())
        {
            let attempts = self
                .producers
                .get(producer.0)
                .and_then(|p| p.ring.get(place))
                .map_or(0, |sent| sent.attempts);
            let verdict = match (attempts, reason) {
                (0, _) => Verdict::Dropped(reason),
                (_, DropReason::Disconnected) => Verdict::Unknown(UnknownReason::Disconnected),
                (_, _) => Verdict::Unknown(UnknownReason::Closed),
            };
            self.finish(producer, place, &Outcome::Not(verdict));
        }
        while self.drop_oldest(producer, reason) {}
        self.check_closed(producer);
    }

    /// Whether a closing producer has nothing left.
    pub(super) fn check_closed(&mut self, producer: ProducerId) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        if p.closing && !p.closed && p.ring.is_empty() {
            p.closed = true;
            self.not_closed -= 1;
            self.mark_dirty(producer);
            self.advance_closing();
        }
    }

    // ---- time in the buffer ----------------------------------------------------------------------

    pub(super) fn ttl_due(&mut self, producer: ProducerId) {
        if let Some(p) = self.producers.get_mut(producer.0) {
            p.ttl_armed = false;
        }
        self.expire(producer);
        self.check_closed(producer);
    }

    /// Drops what has waited for longer than the producer's ttl. Queued messages only: once encoded
    /// a message never expires here.
    pub(super) fn expire(&mut self, producer: ProducerId) {
        let now = self.now;
        while let Some(p) = self.producers.get_mut(producer.0) {
            let Some(ttl) = p.config.ttl else { return };
            match p.ring.expiry(ttl) {
                Some(at) if at <= now => {
                    self.drop_oldest(producer, DropReason::TtlExpired);
                    self.mark_dirty(producer);
                }
                Some(at) => {
                    if !std::mem::replace(&mut p.ttl_armed, true) {
                        self.timers.arm(Timer::Ttl(producer), at);
                    }
                    return;
                }
                None => return,
            }
        }
    }

    /// Nothing may have left the buffer for a while: `DropOldest` evicts from now on.
    pub(super) fn stall_due(&mut self, producer: ProducerId) {
        let now = self.now;
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        p.stall_armed = false;
        if p.ring.queued() == 0 {
            return;
        }
        let at = p.last_left + STALL;
        if at <= now {
            p.stalled = true;
            self.refresh_flow(producer);
        } else {
            p.stall_armed = true;
            self.timers.arm(Timer::Stall(producer), at);
        }
    }

    // ---- flow ------------------------------------------------------------------------------------

    /// Tells the hand-over of every producer how messages leave.
    pub(super) fn refresh_flows(&mut self) {
        for number in self.producers.numbers() {
            self.refresh_flow(ProducerId(number));
        }
    }

    pub(super) fn refresh_flow(&mut self, producer: ProducerId) {
        let Some(connection) = self.connections.get(PUBLISH) else { return };
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let offline = !connection.is_open();
        let lane = self.lanes.get(p.lane);
        let held = lane.is_none_or(|lane| lane.paused || lane.state == LaneState::Reopening);
        let may_evict = offline || connection.blocked.is_some() || held || p.stalled;
        let flow = Flow { may_evict, offline };
        if p.flow != flow {
            p.flow = flow;
            self.mark_dirty(producer);
        }
    }

    /// Whether the topology that the producer depends on stands.
    pub(super) fn refresh_gate(&mut self, producer: ProducerId) {
        let Some(p) = self.producers.get_mut(producer.0) else { return };
        let open = if p.config.exchange.is_empty() {
            self.topology.stands(&p.config.routing_key)
        } else {
            self.topology.is_standing()
        };
        p.gate_open = open;
        if open {
            self.make_ready(producer);
        }
    }

    pub(super) fn refresh_gates(&mut self) {
        for number in self.producers.numbers() {
            self.refresh_gate(ProducerId(number));
        }
    }

    /// The same for those that one queue concerns: its own, and once everything stands, those that
    /// depend on that.
    pub(super) fn refresh_gates_of(&mut self, queue: &str) {
        for producer in self.dependents.producers(queue) {
            self.refresh_gate(producer);
        }
        if self.topology.is_standing() {
            self.refresh_gates_on_all();
        }
    }

    /// The same for those that depend on everything.
    pub(super) fn refresh_gates_on_all(&mut self) {
        for producer in self.dependents.producers_on_all() {
            self.refresh_gate(producer);
        }
    }
}
