//! Consumers: subscribing, settling, recovering, ending.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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

/// How often a warning about forgotten deliveries may come (s34).
const FORGOTTEN_EVERY: Duration = Duration::from_secs(60);

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
        let c = self.connection_for(&config);
        let Some(number) = self.consumers.insert(Consumer::new(config)) else {
            return Err(ConsumeError::Option {
                key: "consumers",
                expected: "at most a million on one client",
            });
        };
        let id = ConsumerId(number);
        self.timers.arm(Timer::Opening(id), self.now + self.config.deadlines.request);
        self.want_connection(c);
        self.subscribe(id);
        Ok(id)
    }

    /// The connection that serves such a consumer. Exclusive queues are consumed where they were
    /// declared (s39).
    fn connection_for(&self, config: &ConsumerConfig) -> usize {
        let apart = config.no_ack && !self.topology.is_exclusive(&config.queue);
        let apart = if apart {
            self.connections.iter().position(|connection| connection.role == Role::NoAck)
        } else {
            None
        };
        apart.unwrap_or_else(|| self.consuming())
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
        let c = self.connection_for(&consumer.config);
        let tag = consumer.config.tag.clone();
        let Some(connection) =
            self.connections.get_mut(c).filter(|connection| connection.is_open())
        else {
            return;
        };
        let generation = self.generation + 1;
        let Some(channel) = connection.open_channel(Owner::Consumer(id, generation)) else {
            let limit = connection.tuned.channel_max;
            if connection.is_closing_channels() {
                // One that is being closed makes room.
                return;
            }
            self.refuse_or_retry(id, |_| ConsumeError::ChannelsExhausted { limit });
            return;
        };
        self.generation = generation;
        self.await_reply(c, channel);
        // A new one for each channel, unless the application chose it (s31, s33).
        let tag = tag.unwrap_or_else(|| self.random_tag());
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.state = ConsumerState::Opening;
        consumer.tag = tag;
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
        consumer.interrupted(self.now, self.config.backoff.stable);
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
            #[cfg(feature = "sabotage")]
            Expect::OpenOk
                if consumer.was_active
                    && crate::sabotage::is(crate::sabotage::Sabotage::QosNotReplayed) =>
            {
                self.consumer_step(id, generation, Expect::QosOk);
            }
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
        consumer.active_since = Some(self.now);
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
        let Some(known) = self.consumers.get_mut(consumer.0) else { return };
        known.settles += 1;
        self.settle_run(consumer, run);
    }

    /// Settles a run: for the application, or where nobody is there to take the deliveries.
    pub(super) fn settle_run(&mut self, id: ConsumerId, run: SettleRun) {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let closing = consumer.is_closing();
        let later = run.settlement == Settlement::RequeueLater;
        let settlement = if later && closing { Settlement::Requeue } else { run.settlement };
        #[cfg(feature = "sabotage")]
        let run = if crate::sabotage::is(crate::sabotage::Sabotage::AcksWithoutGeneration) {
            let latest = consumer.subscriptions.last().map_or(0, |latest| latest.generation);
            SettleRun { generation: latest, ..run }
        } else {
            run
        };
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
                consumer.delay(at, run.generation, run.first, run.last);
                if let Some(&(first, ..)) = consumer.delayed.front() {
                    self.timers.arm(Timer::Requeue(id), first);
                }
                if self.timers.get(Timer::Forgotten(id)).is_none() {
                    self.warn_again(id);
                }
                self.note_settles(id);
                return;
            }
        } else if count > 0 {
            consumer.reset_requeue_delay();
        }
        self.note_settles(id);
    }

    /// The consumer has settlements to encode, or a call of `settle` to confirm.
    fn note_settles(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if consumer.is_settled() {
            // Nothing of it has to be written (any more). What is put off was not settled by anybody.
            let settles = consumer.settles;
            self.settlements_written(id, acks::Settled::default(), settles);
            return;
        }
        if consumer.dirty {
            return;
        }
        consumer.dirty = true;
        let c = self.consuming();
        if let Some(settling) = self.settling.get_mut(c) {
            settling.push_back(id);
        }
    }

    /// Warns of forgotten deliveries, if there are some since the last warning: now, and a minute
    /// later at the earliest.
    pub(super) fn warn_again(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let count = std::mem::take(&mut consumer.forgotten_since_event);
        if count > 0 {
            let queue = consumer.config.queue.clone();
            self.event(Event::DeliveriesForgotten { queue, count });
            self.timers.arm(Timer::Forgotten(id), self.now + FORGOTTEN_EVERY);
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
            let mut more = false;
            let mut records = Vec::new();
            for subscription in &mut consumer.subscriptions {
                let (channel, acks) = (subscription.channel, &mut subscription.acks);
                // Frame by frame: a loss in the middle abandons only what was not written.
                let limit = connection.transmit.enqueued() + OUTPUT_LIMIT as u64;
                while acks.has_pending() && connection.transmit.enqueued() < limit {
                    let mut settled = acks::Settled::default();
                    connection.transmit.append(|out| settled = acks.encode(out, channel, 1));
                    if settled.total() == 0 {
                        break;
                    }
                    let end = connection.transmit.enqueued();
                    records.push((end, subscription.generation, settled));
                }
                more |= acks.has_pending();
            }
            consumer.dirty = more;
            if more {
                settling.push_back(id);
            }
            consumer.encoded += records.iter().map(|(.., settled)| settled.total()).sum::<u64>();
            // The last record covers every call so far, unless something is left to encode.
            let settles = if more { consumer.settles_written } else { consumer.settles };
            let end = connection.transmit.enqueued();
            let flushed = connection.transmit.flushed() == end;
            if let Some(appended) = self.appended.get_mut(c)
                && !flushed
            {
                let done = consumer.settles_written;
                let last = records.pop().unwrap_or((end, 0, acks::Settled::default()));
                let records = records.into_iter().map(|record| (record, done));
                for ((end, generation, settled), settles) in records.chain([(last, settles)]) {
                    let what = What::Settlements { consumer: id, generation, settled, settles };
                    appended.push_back(Appended { end, what });
                }
            } else {
                // Nothing had to be encoded after all.
                self.settlements_written(id, acks::Settled::default(), settles);
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
        // With nothing left to write, calls that came since are covered, too: they were of no effect.
        let settles = if consumer.is_settled() { consumer.settles } else { settles };
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
        if let Some(report) = &mut self.closing {
            report.abandoned += settled.total();
        }
    }

    /// A no-ack consumer's queue is full: its connection is not read any more.
    pub(super) fn pause_reading(&mut self, id: ConsumerId, generation: u64) {
        if let Some(consumer) = self.consumers.get_mut(id.0)
            && let Some(subscription) = consumer.subscription(generation)
            && let Some(connection) = self.connections.get_mut(subscription.connection)
        {
            consumer.full = Some(subscription.connection);
            connection.full_queues += 1;
        }
    }

    /// It has room again, or nobody waits for that any more.
    fn resume_reading(&mut self, id: ConsumerId) {
        let Some(c) = self.consumers.get_mut(id.0).and_then(|consumer| consumer.full.take()) else {
            return;
        };
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.full_queues = connection.full_queues.saturating_sub(1);
        if connection.full_queues > 0 {
            return;
        }
        // What the peer said meanwhile is read from now on (s35).
        connection.last_received = now;
        self.restart_deadlines(c);
    }

    /// The application took batches of so much [`Batch::weight`] out of a no-ack consumer's queue.
    pub fn handle_consumed(&mut self, consumer: ConsumerId, weight: u64, now: Time) {
        self.advance(now);
        let id = consumer;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.queue_bytes = consumer.queue_bytes.saturating_sub(weight);
        if consumer.queue_bytes <= consumer.config.queue_bytes as u64 / 2 {
            self.resume_reading(id);
        }
    }

    // ---- loss and recovery -----------------------------------------------------------------------

    /// Forgets the subscriptions that `gone` names: the broker delivers again what was outstanding.
    fn abandon_subscriptions(
        &mut self,
        id: ConsumerId,
        gone: impl Fn(&Subscription) -> bool,
    ) -> bool {
        let abandoned = self.remove_subscriptions(id, gone);
        let Some(consumer) = self.consumers.get_mut(id.0) else { return false };
        let Some(abandoned) = abandoned else { return false };
        consumer.stats.abandoned += abandoned;
        if let Some(report) = &mut self.closing {
            report.abandoned += abandoned;
        }
        self.tell_generation(id);
        self.note_settles(id);
        true
    }

    /// Removes subscriptions: how many deliveries were not settled on them; `None` if there were none
    /// such. Complete deliveries without ack stay: nobody sends them again.
    fn remove_subscriptions(
        &mut self,
        id: ConsumerId,
        which: impl Fn(&Subscription) -> bool,
    ) -> Option<u64> {
        let consumer = self.consumers.get_mut(id.0)?;
        let before = consumer.subscriptions.len();
        let no_ack = consumer.config.no_ack;
        let mut unsettled = 0;
        let batches = &mut self.batches;
        consumer.subscriptions.retain_mut(|subscription| {
            let gone = which(subscription);
            if gone {
                unsettled +=
                    (subscription.acks.outstanding() + subscription.acks.settling()) as u64;
                if no_ack && !subscription.batch.is_empty() {
                    batches.push_back((id, Arc::new(std::mem::take(&mut subscription.batch))));
                }
            }
            !gone
        });
        let removed = consumer.subscriptions.len() < before;
        if removed && consumer.subscriptions.iter().all(|subscription| subscription.cancelled) {
            // Nothing comes that would have to wait for room.
            self.resume_reading(id);
        }
        removed.then_some(unsettled)
    }

    /// Tells the oldest generation whose deliveries can be settled.
    fn tell_generation(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let valid_from =
            consumer.subscriptions.first().map_or(self.generation + 1, |s| s.generation);
        if !consumer.config.no_ack {
            self.batches.retain(|(other, batch)| *other != id || batch.generation() >= valid_from);
        }
        self.filling.retain(|&(other, generation)| other != id || generation >= valid_from);
        self.events.push_back(SessionEvent::Generation { consumer: id, valid_from });
    }

    /// A connection is gone, and with it every consumer's channel on it.
    pub(super) fn consumers_lost(&mut self, c: usize) {
        for number in self.consumers.numbers() {
            let id = ConsumerId(number);
            if !self.abandon_subscriptions(id, |subscription| subscription.connection == c) {
                continue;
            }
            let Some(consumer) = self.consumers.get_mut(id.0) else { continue };
            if consumer.is_closing() {
                self.check_consumer(id);
                continue;
            }
            consumer.state = ConsumerState::Waiting;
            consumer.interrupted(self.now, self.config.backoff.stable);
            if consumer.was_active {
                let queue = consumer.config.queue.clone();
                self.event(Event::ConsumerInterrupted { queue, why: Interruption::Disconnected });
            }
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
        // Generations are valid from one number on: older channels go with it, unless nothing came on
        // this one.
        let unused = consumer.subscription(generation).is_some_and(|s| s.acks.next_tag() == 1)
            && consumer.state == ConsumerState::Opening;
        let refused = consumer.state == ConsumerState::Opening && code != 0;
        if unused {
            self.abandon_subscriptions(id, |s| s.generation == generation);
        } else {
            self.forget_settlements(id, generation);
            self.close_channels(id, |s| s.generation < generation);
            self.abandon_subscriptions(id, |s| s.generation <= generation);
        }
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if refused && consumer.was_active && consumer.config.when_cancelled == WhenCancelled::End {
            consumer.begin_closing(EndReason::Refused { code, text: text.clone() });
            self.arm_consumer_close(id);
        }
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if !current || consumer.is_closing() {
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
        let (after, state) = (self.config.deadlines.rpc, self.state.to_string().into());
        self.refuse_or_retry(id, |_| match code {
            // No broker refuses with 0: it has not answered.
            0 => ConsumeError::TimedOut { queue, after, state },
            code => ConsumeError::Refused { queue, code, text: text.clone() },
        });
    }

    /// Settlements that are encoded for a channel that the broker has closed never count. Those on older
    /// channels do: they are written ahead of our own close.
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
                if let What::Settlements { consumer, generation: of, settled, .. } =
                    &mut appended.what
                    && *consumer == id
                    && *of == generation
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
            consumer.begin_closing(EndReason::Cancelled);
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
        self.check_consumer(id);
        self.redeclare(&queue);
        self.resubscribe_later(id);
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
        consumer.begin_closing(reason);
        self.timers.cancel(Timer::Resubscribe(id));
        self.timers.cancel(Timer::Requeue(id));
        self.arm_consumer_close(id);
        // Nobody has to make room for cancel-ok to be read.
        self.resume_reading(id);
        if active {
            self.cancel_current(id);
        } else {
            // Never subscribed, or not at the moment: only older channels may have something in hand.
            let opening = |s: &Subscription| !s.cancelled;
            self.close_channels(id, opening);
            self.abandon_subscriptions(id, opening);
        }
        // Nothing is put off any more.
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        while let Some((_, generation, first, last)) = consumer.delayed.pop_front() {
            if let Some(subscription) = consumer.subscription_mut(generation) {
                subscription.acks.requeue_delayed(first, last);
            }
        }
        self.note_settles(id);
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
            self.remove_subscriptions(id, done);
            if self.consumers.get(id.0).is_some_and(|consumer| !consumer.is_closing()) {
                self.tell_generation(id);
            }
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
        let abandoned = consumer.abandoned_at_end();
        if !consumer.was_active {
            let result = Err(ConsumeError::Closed);
            self.events.push_back(SessionEvent::ConsumerOpened { consumer: id, result });
        }
        self.events.push_back(SessionEvent::ConsumerEnded { consumer: id, reason, abandoned });
        self.forget_consumer(id);
        self.advance_closing();
    }

    fn forget_consumer(&mut self, id: ConsumerId) {
        self.close_channels(id, |_| true);
        self.resume_reading(id);
        for timer in [
            Timer::Resubscribe(id),
            Timer::Requeue(id),
            Timer::Forgotten(id),
            Timer::Opening(id),
            Timer::ConsumerClose(id),
        ] {
            self.timers.cancel(timer);
        }
        if let Some(consumer) = self.consumers.remove(id.0) {
            let mut account = consumer.snapshot();
            // Encoded and not written when it ended: the broker may or may not have them.
            let unsettled = account.settling + account.in_hand;
            account.abandoned += unsettled;
            if let Some(report) = &mut self.closing {
                report.abandoned += unsettled;
            }
            account.settling = 0;
            account.in_hand = 0;
            self.closed_stats.consume.add(&account);
            if consumer.was_active {
                self.forget_auto_delete(&consumer.config.queue);
            }
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
