//! Consumers: subscribing and ending.

use std::sync::Arc;

use amq_protocol::{
    protocol::{AMQPClass, basic},
    types::{FieldTable, ShortString},
};

use super::{Session, SessionEvent, timer::Timer};
use crate::{
    config::{ConsumerConfig, check_name},
    connection::{
        Role,
        channel::{Expect, Owner},
    },
    consume::{
        Batch,
        acks::AckTracker,
        consumer::{Consumer, ConsumerState, Subscription},
    },
    error::ConsumeError,
    event::{EndReason, Event},
    ids::ConsumerId,
    time::Time,
};

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
        let queue = config.queue.clone();
        let Some(number) = self.consumers.insert(Consumer::new(config)) else {
            return Err(ConsumeError::Option {
                key: "consumers",
                expected: "at most a million on one client",
            });
        };
        let id = ConsumerId(number);
        self.dependents.add_consumer(&queue, id);
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

    /// Subscribes whoever waits: a connection is there.
    pub(super) fn subscribe_waiting(&mut self) {
        for number in self.consumers.numbers() {
            self.subscribe(ConsumerId(number));
        }
    }

    /// A channel is free: it goes to whoever waits for one.
    pub(super) fn subscribe_starved(&mut self, c: usize) {
        while let Some(&next) = self.starved.range((c, ConsumerId(0))..).next()
            && next.0 == c
        {
            self.starved.remove(&next);
            self.subscribe(next.1);
            if self.starved.contains(&next) {
                // There was none left.
                return;
            }
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
                self.starved.insert((c, id));
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
    pub(super) fn refuse_or_retry(
        &mut self,
        id: ConsumerId,
        error: impl FnOnce(&Consumer) -> ConsumeError,
    ) {
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

    pub(super) fn resubscribe_later(&mut self, id: ConsumerId) {
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

    pub(super) fn subscribed(&mut self, id: ConsumerId) {
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

    pub(super) fn arm_consumer_close(&mut self, id: ConsumerId) {
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
    pub(super) fn check_consumer(&mut self, id: ConsumerId) {
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

    pub(super) fn close_channels(&mut self, id: ConsumerId, which: impl Fn(&Subscription) -> bool) {
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
        for c in 0..self.connections.len() {
            self.starved.remove(&(c, id));
        }
        if let Some(consumer) = self.consumers.remove(id.0) {
            self.dependents.remove_consumer(&consumer.config.queue, id);
            if consumer.dirty {
                for settling in &mut self.settling {
                    settling.retain(|&other| other != id);
                }
            }
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
        self.filling.retain(|&(other, _)| other != id);
    }
}

/// Names were checked when they came in.
fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}
