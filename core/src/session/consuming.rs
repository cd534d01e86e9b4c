//! Consumers: subscribing, settling, recovering, ending.

use std::{collections::VecDeque, sync::Arc};

use amq_protocol::{
    protocol::{AMQPClass, basic},
    types::{FieldTable, ShortString},
};

use super::{Session, SessionEvent, timer::Timer};
use crate::{
    config::{ConsumerConfig, WhenCancelled, check_name},
    connection::{
        OUTPUT_LIMIT, Role,
        channel::{Expect, Owner},
    },
    consume::{
        Batch, SettleRun, Settlement,
        acks::{self, AckTracker},
        consumer::{Consumer, ConsumerState, Subscription},
    },
    error::ConsumeError,
    event::{EndReason, Event, Interruption},
    ids::ConsumerId,
    session::appended::{Appended, What},
    time::Time,
};

/// How often a warning about forgotten deliveries may come.
const FORGOTTEN_EVERY: u64 = 1000;

impl Session {
    /// Opens a consumer on a channel of its own. [`SessionEvent::ConsumerOpened`] says whether the
    /// broker agreed; it comes within the request deadline.
    ///
    /// # Errors
    ///
    /// If the session is closed, a name is too long, or an option is outside its range.
    pub fn open_consumer(
        &mut self,
        config: ConsumerConfig,
        now: Time,
    ) -> Result<ConsumerId, ConsumeError> {
        self.advance(now);
        if self.closed || self.closing.is_some() {
            return Err(ConsumeError::Closed);
        }
        check_name("queue", &config.queue)?;
        if let Some(tag) = &config.tag {
            check_name("consumer tag", tag)?;
        }
        if config.prefetch == 0 && !config.no_ack {
            // 0 is "no limit" to the broker: the delivery queue would have no bound.
            return Err(ConsumeError::Option { key: "prefetch", expected: "at least 1" });
        }
        let tag = config.tag.clone().unwrap_or_else(|| self.random_tag());
        let no_ack = config.no_ack;
        let consumer = Consumer::new(config, tag);
        let Some(number) = self.consumers.insert(consumer) else {
            return Err(ConsumeError::Option {
                key: "consumers",
                expected: "at most a million on one client",
            });
        };
        let id = ConsumerId(number);
        self.timers.arm(Timer::Opening(id), self.now + self.config.deadlines.request);
        self.want_connection(self.connection_for(no_ack));
        self.subscribe(id);
        Ok(id)
    }

    /// The connection that serves consumers of this kind.
    fn connection_for(&self, no_ack: bool) -> usize {
        let wanted = if no_ack { Role::NoAck } else { Role::Consume };
        self.connections
            .iter()
            .position(|connection| connection.role == wanted)
            .unwrap_or_else(|| self.consuming())
    }

    /// Subscribes whoever waits: a connection, a queue or a channel is there.
    pub(super) fn subscribe_waiting(&mut self) {
        for number in self.consumers.numbers() {
            self.subscribe(ConsumerId(number));
        }
    }

    /// Subscribes a consumer that waits, if its connection and its queue stand and its backoff is over.
    pub(super) fn subscribe(&mut self, id: ConsumerId) {
        if self.timers.get(Timer::Resubscribe(id)).is_some() {
            return;
        }
        let Some(consumer) = self.consumers.get(id.0) else { return };
        if consumer.state != ConsumerState::Waiting || !self.topology.stands(&consumer.config.queue)
        {
            return;
        }
        let c = self.connection_for(consumer.config.no_ack);
        let Some(connection) =
            self.connections.get_mut(c).filter(|connection| connection.is_open())
        else {
            return;
        };
        let generation = self.generation + 1;
        let Some(channel) = connection.open_channel(Owner::Consumer(id, generation)) else {
            let limit = connection.tuned.channel_max;
            self.refuse_or_retry(id, |_| ConsumeError::ChannelsExhausted { limit });
            return;
        };
        self.generation = generation;
        self.await_reply(c, channel);
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.state = ConsumerState::Opening;
        consumer.subscriptions.push(Subscription {
            generation,
            connection: c,
            channel,
            acks: AckTracker::new(),
            cancelled: false,
            batch: Batch::new(generation),
        });
    }

    /// The first subscription failed: the application is told, and the consumer is gone. A later one
    /// is retried.
    fn refuse_or_retry(&mut self, id: ConsumerId, error: impl FnOnce(&Consumer) -> ConsumeError) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        if consumer.was_active {
            self.resubscribe_later(id);
        } else {
            let error = error(consumer);
            self.events
                .push_back(SessionEvent::ConsumerOpened { consumer: id, result: Err(error) });
            self.forget_consumer(id);
        }
    }

    fn resubscribe_later(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.state = ConsumerState::Waiting;
        let delay = consumer.backoff.next(&self.config.backoff, &mut self.rng);
        if delay.is_zero() {
            self.subscribe(id);
        } else {
            self.timers.arm(Timer::Resubscribe(id), self.now + delay);
        }
    }

    pub(super) fn opening_timed_out(&mut self, id: ConsumerId) {
        let after = self.config.deadlines.request;
        let state: Arc<str> = self.state.to_string().into();
        if self.consumers.get(id.0).is_some_and(|consumer| !consumer.was_active) {
            self.close_channels(id, |_| true);
            self.refuse_or_retry(id, |consumer| ConsumeError::TimedOut {
                queue: consumer.config.queue.clone(),
                after,
                state,
            });
        }
    }

    /// A reply came on a consumer's channel: the next step of its setup (s30: qos before consume).
    pub(super) fn consumer_step(&mut self, id: ConsumerId, generation: u64, done: Expect) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let Some(subscription) = consumer.subscription(generation) else { return };
        let (c, channel) = (subscription.connection, subscription.channel);
        let config = &consumer.config;
        match done {
            Expect::OpenOk if !config.no_ack => {
                let qos = basic::Qos { prefetch_count: config.prefetch, global: false };
                self.call(
                    c,
                    channel,
                    &AMQPClass::Basic(basic::AMQPMethod::Qos(qos)),
                    Expect::QosOk,
                );
            }
            Expect::OpenOk | Expect::QosOk => {
                let consume = basic::Consume {
                    queue: short(&config.queue),
                    consumer_tag: short(&consumer.tag),
                    no_local: false,
                    no_ack: config.no_ack,
                    exclusive: config.exclusive,
                    nowait: false,
                    arguments: FieldTable::default(),
                };
                self.call(
                    c,
                    channel,
                    &AMQPClass::Basic(basic::AMQPMethod::Consume(consume)),
                    Expect::ConsumeOk,
                );
            }
            Expect::ConsumeOk => self.subscribed(id),
            Expect::CancelOk => {
                if let Some(subscription) = self
                    .consumers
                    .get_mut(id.0)
                    .and_then(|consumer| consumer.subscription_mut(generation))
                {
                    subscription.cancelled = true;
                }
                self.check_consumer(id);
            }
            Expect::SelectOk | Expect::DeclareOk | Expect::CloseOk => {}
        }
    }

    fn subscribed(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.state = ConsumerState::Active;
        if std::mem::replace(&mut consumer.was_active, true) {
            let queue = consumer.config.queue.clone();
            self.event(Event::ConsumerResumed { queue });
        } else {
            self.timers.cancel(Timer::Opening(id));
            self.events.push_back(SessionEvent::ConsumerOpened { consumer: id, result: Ok(()) });
        }
    }

    // ---- settling --------------------------------------------------------------------------------

    /// The application settles a run of deliveries. Stale runs, and tags settled before, are left
    /// alone. Each call counts as one for [`SessionEvent::SettlesWritten`].
    pub fn settle(&mut self, consumer: ConsumerId, run: SettleRun, now: Time) {
        self.advance(now);
        let now = self.now;
        let id = consumer;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.settles += 1;
        let closing = consumer.is_closing();
        let later = run.settlement == Settlement::RequeueLater;
        let settlement = if later && closing { Settlement::Requeue } else { run.settlement };
        let Some(subscription) = consumer.subscription_mut(run.generation) else {
            self.note_settles(id);
            return;
        };
        let count = subscription.acks.settle(run.first, run.last, settlement);
        if later {
            consumer.stats.forgotten += count;
            consumer.forgotten_since_event += count;
            if count > 0 && !closing {
                let at = now + consumer.next_requeue_delay();
                consumer.delayed.push_back((at, run.generation, run.first, run.last));
                self.timers.arm_if_idle(Timer::Requeue(id), at);
                self.warn_of_forgotten(id);
                self.note_settles(id);
                return;
            }
        } else if count > 0 {
            consumer.reset_requeue_delay();
            if !self.closed && consumer.backoff.failures() > 0 {
                consumer.backoff.reset();
            }
        }
        self.note_settles(id);
    }

    /// The consumer has settlements to encode, or a call of `settle` to confirm.
    fn note_settles(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if consumer.encoded == 0 && !consumer.subscriptions.iter().any(|s| s.acks.has_pending()) {
            // Nothing of it has to be written (any more).
            let settles = consumer.settles;
            if consumer.delayed.is_empty() {
                self.settlements_written(id, acks::Settled::default(), settles);
            }
            return;
        }
        if consumer.dirty {
            return;
        }
        consumer.dirty = true;
        let c = self.connection_for(false);
        if let Some(settling) = self.settling.get_mut(c) {
            settling.push_back(id);
        }
    }

    fn warn_of_forgotten(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        // The first one, and then now and then.
        if consumer.stats.forgotten == consumer.forgotten_since_event
            && consumer.stats.forgotten == 1
            || consumer.forgotten_since_event >= FORGOTTEN_EVERY
        {
            let count = std::mem::take(&mut consumer.forgotten_since_event);
            let queue = consumer.config.queue.clone();
            self.event(Event::DeliveriesForgotten { queue, count });
        }
    }

    pub(super) fn requeue_due(&mut self, id: ConsumerId) {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        while let Some(&(at, generation, first, last)) = consumer.delayed.front() {
            if at > now {
                self.timers.arm(Timer::Requeue(id), at);
                break;
            }
            consumer.delayed.pop_front();
            if let Some(subscription) = consumer.subscription_mut(generation) {
                subscription.acks.requeue_delayed(first, last);
            }
        }
        self.note_settles(id);
    }

    /// Encodes settlements of this connection's consumers, in as few frames as is safe, while there
    /// is room for output.
    pub(super) fn encode_settlements(&mut self, c: usize) {
        for _ in 0..self.settling.get(c).map_or(0, VecDeque::len) {
            let (Some(settling), Some(connection)) =
                (self.settling.get_mut(c), self.connections.get_mut(c))
            else {
                return;
            };
            if !Self::has_output_room(connection) {
                return;
            }
            let Some(id) = settling.pop_front() else { return };
            let Some(consumer) = self.consumers.get_mut(id.0) else { continue };
            let mut settled = acks::Settled::default();
            let mut more = false;
            for subscription in &mut consumer.subscriptions {
                let channel = subscription.channel;
                let acks = &mut subscription.acks;
                connection
                    .transmit
                    .append(|out| settled.add(acks.encode(out, channel, OUTPUT_LIMIT)));
                more |= acks.has_pending();
            }
            consumer.dirty = more;
            if more {
                settling.push_back(id);
            }
            consumer.encoded += settled.total();
            let settles = if more { consumer.settles_written } else { consumer.settles };
            let end = connection.transmit.enqueued();
            if connection.transmit.flushed() == end {
                self.settlements_written(id, settled, settles);
            } else if let Some(appended) = self.appended.get_mut(c) {
                let what = What::Settlements { consumer: id, settled, settles };
                appended.push_back(Appended { end, what });
            }
        }
    }

    pub(super) fn settlements_written(
        &mut self,
        id: ConsumerId,
        settled: acks::Settled,
        settles: u64,
    ) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.stats.acked += settled.acked;
        consumer.stats.requeued += settled.requeued;
        consumer.stats.rejected += settled.rejected;
        consumer.encoded -= settled.total().min(consumer.encoded);
        if settles > consumer.settles_written {
            consumer.settles_written = settles;
            self.events.push_back(SessionEvent::SettlesWritten { consumer: id, settles });
        }
        self.check_consumer(id);
    }

    /// Settlements that were encoded and never reached the peer: it delivers those messages again.
    pub(super) fn settlements_lost(&mut self, id: ConsumerId, settled: acks::Settled) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.stats.abandoned += settled.total();
        consumer.encoded -= settled.total().min(consumer.encoded);
    }

    /// The application took deliveries of so much [`Batch::weight`] out of a no-ack consumer's queue.
    pub fn handle_consumed(&mut self, consumer: ConsumerId, bytes: u64, now: Time) {
        self.advance(now);
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(consumer.0) else { return };
        consumer.queue_bytes = consumer.queue_bytes.saturating_sub(bytes);
        if consumer.full && consumer.queue_bytes <= consumer.config.queue_bytes as u64 / 2 {
            consumer.full = false;
            if let Some(subscription) = consumer.subscriptions.last()
                && let Some(connection) = self.connections.get_mut(subscription.connection)
            {
                connection.full_queues = connection.full_queues.saturating_sub(1);
                connection.last_received = now;
            }
        }
    }

    // ---- loss and recovery -----------------------------------------------------------------------

    /// Forgets the subscriptions that `gone` names: the broker delivers again what was outstanding.
    fn abandon_subscriptions(
        &mut self,
        id: ConsumerId,
        gone: impl Fn(&Subscription) -> bool,
    ) -> bool {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return false };
        let before = consumer.subscriptions.len();
        let mut abandoned = 0;
        consumer.subscriptions.retain(|subscription| {
            let gone = gone(subscription);
            if gone {
                abandoned +=
                    (subscription.acks.outstanding() + subscription.acks.settling()) as u64;
            }
            !gone
        });
        if consumer.subscriptions.len() == before {
            return false;
        }
        consumer.stats.abandoned += abandoned;
        let valid_from =
            consumer.subscriptions.first().map_or(self.generation + 1, |s| s.generation);
        let no_ack = consumer.config.no_ack;
        let full = std::mem::take(&mut consumer.full);
        self.filling.retain(|&(other, generation)| other != id || generation >= valid_from);
        if !no_ack {
            self.batches.retain(|(other, batch)| *other != id || batch.generation() >= valid_from);
        }
        if full
            && let Some(connection) =
                self.connections.iter_mut().find(|c| c.role == Role::NoAck || c.role == Role::All)
        {
            connection.full_queues = connection.full_queues.saturating_sub(1);
        }
        if let Some(report) = &mut self.closing {
            report.abandoned += abandoned;
        }
        self.events.push_back(SessionEvent::Generation { consumer: id, valid_from });
        self.note_settles(id);
        true
    }

    /// A connection is gone, and with it every consumer's channel on it.
    pub(super) fn consumers_lost(&mut self, c: usize) {
        for number in self.consumers.numbers() {
            let id = ConsumerId(number);
            self.keep_whole_deliveries(id, c);
            if !self.abandon_subscriptions(id, |subscription| subscription.connection == c) {
                continue;
            }
            let Some(consumer) = self.consumers.get_mut(id.0) else { continue };
            if consumer.is_closing() {
                self.check_consumer(id);
                continue;
            }
            consumer.state = ConsumerState::Waiting;
            if consumer.was_active {
                let queue = consumer.config.queue.clone();
                self.event(Event::ConsumerInterrupted { queue, why: Interruption::Disconnected });
            }
        }
    }

    /// Complete no-ack deliveries stay, whatever happens to their connection: nobody sends them again.
    fn keep_whole_deliveries(&mut self, id: ConsumerId, c: usize) {
        let Some(consumer) = self.consumers.get_mut(id.0).filter(|consumer| consumer.config.no_ack)
        else {
            return;
        };
        let mut kept = Vec::new();
        for subscription in consumer.subscriptions.iter_mut().filter(|s| s.connection == c) {
            if !subscription.batch.is_empty() {
                kept.push(std::mem::replace(
                    &mut subscription.batch,
                    Batch::new(subscription.generation),
                ));
            }
        }
        for batch in kept {
            self.batches.push_back((id, Arc::new(batch)));
        }
    }

    /// The broker closed a consumer's channel, or refused its subscription.
    pub(super) fn consumer_closed(
        &mut self,
        id: ConsumerId,
        generation: u64,
        code: u16,
        text: &Arc<str>,
    ) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let current = consumer
            .subscriptions
            .last()
            .is_some_and(|s| s.generation == generation && !s.cancelled);
        if !current {
            // An old channel that waited for its last settlements.
            self.forget_settlements(id, generation);
            self.abandon_subscriptions(id, |s| s.generation <= generation);
            self.check_consumer(id);
            return;
        }
        // Older channels go with it: generations are valid from one number on.
        self.close_channels(id, |s| s.generation < generation);
        self.forget_settlements(id, generation);
        self.abandon_subscriptions(id, |_| true);
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if consumer.is_closing() {
            self.check_consumer(id);
            return;
        }
        let queue = consumer.config.queue.clone();
        if consumer.was_active {
            consumer.state = ConsumerState::Waiting;
            let why = Interruption::Refused { code, text: text.clone() };
            self.event(Event::ConsumerInterrupted { queue: queue.clone(), why });
            if code == 404 {
                self.redeclare(&queue);
            }
        }
        self.refuse_or_retry(id, |_| ConsumeError::Refused { queue, code, text: text.clone() });
    }

    /// Settlements that are encoded for a channel that is gone never count.
    fn forget_settlements(&mut self, id: ConsumerId, generation: u64) {
        let Some(c) = self
            .consumers
            .get(id.0)
            .and_then(|consumer| consumer.subscription(generation))
            .map(|s| s.connection)
        else {
            return;
        };
        let mut lost = Vec::new();
        if let Some(appended) = self.appended.get_mut(c) {
            for appended in appended.iter_mut() {
                if let What::Settlements { consumer, settled, .. } = &mut appended.what
                    && *consumer == id
                {
                    lost.push(std::mem::take(settled));
                }
            }
        }
        for settled in lost {
            self.settlements_lost(id, settled);
        }
    }

    /// The broker cancelled a consumer (s31): it is subscribed again on a new channel; the old one
    /// stays until what is in hand is settled.
    pub(super) fn consumer_cancelled(&mut self, id: ConsumerId, generation: u64) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let Some(subscription) = consumer.subscription_mut(generation) else { return };
        if std::mem::replace(&mut subscription.cancelled, true) {
            return;
        }
        let queue = consumer.config.queue.clone();
        if consumer.is_closing() {
            self.check_consumer(id);
            return;
        }
        if consumer.config.when_cancelled == WhenCancelled::End {
            consumer.state = ConsumerState::Closing(EndReason::Cancelled);
            self.arm_consumer_close(id);
            self.check_consumer(id);
            return;
        }
        if consumer.state != ConsumerState::Active {
            // It was on its way: the reply to its consume does not come any more.
            self.close_channels(id, |s| s.generation == generation);
            self.abandon_subscriptions(id, |s| s.generation == generation);
        }
        self.event(Event::ConsumerInterrupted {
            queue: queue.clone(),
            why: Interruption::Cancelled,
        });
        self.redeclare(&queue);
        self.resubscribe_later(id);
        self.check_consumer(id);
    }

    // ---- ending ----------------------------------------------------------------------------------

    /// Cancels a consumer. [`SessionEvent::ConsumerEnded`] follows once the deliveries in hand are
    /// settled and that is written, at the latest after the shutdown deadline; what still arrives is
    /// requeued. Then the channel is closed, and the broker requeues what was not settled.
    pub fn close_consumer(&mut self, consumer: ConsumerId, now: Time) {
        self.advance(now);
        self.cancel_consumer(consumer, EndReason::Closed);
    }

    pub(super) fn cancel_consumer(&mut self, id: ConsumerId, reason: EndReason) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if consumer.is_closing() {
            return;
        }
        let active = consumer.state == ConsumerState::Active;
        if !consumer.config.no_ack {
            self.events.push_back(SessionEvent::HandBack { consumer: id });
        }
        consumer.state = ConsumerState::Closing(reason);
        self.timers.cancel(Timer::Resubscribe(id));
        self.timers.cancel(Timer::Requeue(id));
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        // Nothing is put off any more.
        while let Some((_, generation, first, last)) = consumer.delayed.pop_front() {
            if let Some(subscription) = consumer.subscription_mut(generation) {
                subscription.acks.requeue_delayed(first, last);
            }
        }
        self.note_settles(id);
        self.arm_consumer_close(id);
        if active {
            self.cancel_current(id);
        } else {
            // Never subscribed, or not at the moment: only older channels may have something in hand.
            let opening = |s: &Subscription| !s.cancelled;
            self.close_channels(id, opening);
            self.abandon_subscriptions(id, opening);
        }
        self.check_consumer(id);
    }

    fn arm_consumer_close(&mut self, id: ConsumerId) {
        self.timers.arm(Timer::ConsumerClose(id), self.now + self.config.deadlines.shutdown);
    }

    fn cancel_current(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let Some(subscription) = consumer.subscriptions.last().filter(|s| !s.cancelled) else {
            return;
        };
        let (c, channel) = (subscription.connection, subscription.channel);
        let cancel = basic::Cancel { consumer_tag: short(&consumer.tag), nowait: false };
        self.call(
            c,
            channel,
            &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)),
            Expect::CancelOk,
        );
    }

    /// Closes channels that are done: cancelled, with nothing left to settle; and ends the consumer
    /// when it was closing and the last one is done.
    fn check_consumer(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let done =
            |s: &Subscription| s.cancelled && s.acks.outstanding() == 0 && s.acks.settling() == 0;
        if consumer.encoded == 0 && consumer.subscriptions.iter().any(done) {
            self.close_channels(id, done);
            let Some(consumer) = self.consumers.get_mut(id.0) else { return };
            consumer.subscriptions.retain(|s| !done(s));
        }
        let Some(consumer) = self.consumers.get(id.0) else { return };
        if consumer.is_closing() && consumer.subscriptions.is_empty() {
            self.end_consumer(id);
        }
    }

    fn close_channels(&mut self, id: ConsumerId, which: impl Fn(&Subscription) -> bool) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let channels: Vec<_> = consumer
            .subscriptions
            .iter()
            .filter(|s| which(s))
            .map(|s| (s.connection, s.channel))
            .collect();
        for (c, channel) in channels {
            self.disown(c, channel);
            self.close_channel(c, channel, 200, "consumer closed");
        }
    }

    /// The consumer is gone, with whatever it still has outstanding.
    pub(super) fn end_consumer(&mut self, id: ConsumerId) {
        self.close_channels(id, |_| true);
        self.abandon_subscriptions(id, |_| true);
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let reason = match &consumer.state {
            ConsumerState::Closing(reason) => reason.clone(),
            _ => EndReason::Closed,
        };
        if !consumer.was_active {
            let result = Err(ConsumeError::Closed);
            self.events.push_back(SessionEvent::ConsumerOpened { consumer: id, result });
        }
        let abandoned = consumer.stats.abandoned;
        self.events.push_back(SessionEvent::ConsumerEnded { consumer: id, reason, abandoned });
        self.forget_consumer(id);
        self.advance_closing();
    }

    fn forget_consumer(&mut self, id: ConsumerId) {
        self.close_channels(id, |_| true);
        for timer in [
            Timer::Resubscribe(id),
            Timer::Requeue(id),
            Timer::Opening(id),
            Timer::ConsumerClose(id),
        ] {
            self.timers.cancel(timer);
        }
        if let Some(consumer) = self.consumers.remove(id.0) {
            let mut account = consumer.snapshot();
            // Encoded and not written when it ended: the broker may or may not have them.
            account.abandoned += account.settling + account.in_hand;
            account.settling = 0;
            account.in_hand = 0;
            self.closed_stats.consume.add(&account);
        }
        for settling in &mut self.settling {
            settling.retain(|&other| other != id);
        }
        self.filling.retain(|&(other, _)| other != id);
    }
}

/// Names were checked when they came in.
fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}
