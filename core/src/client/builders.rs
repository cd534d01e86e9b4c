//! How producers and consumers are asked for.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use super::{
    answer::Answer,
    client_shared::ClientShared,
    consumer::{Consumer, Kind, Manual, NoAck, OnFailure},
    hooks::Hooks,
    link::{Control, Hold},
    producer::{Confirm, FireAndForget, Mode, Producer},
};
use crate::{
    config::{
        BufferPolicy, ConsumerConfig, ProducerConfig, WhenCancelled, WhenOffline, check_name,
    },
    error::{ConsumeError, OpenError},
    event::Settled,
};

/// A producer to be opened: fire-and-forget, unless [`ProducerBuilder::confirm`] says otherwise.
#[derive(Debug)]
#[must_use = "a producer is opened by open().await"]
pub struct ProducerBuilder<M: Mode> {
    client: Arc<ClientShared>,
    hold: Hold,
    config: Result<ProducerConfig, OpenError>,
    /// Whether the policy was set here or for the client; else it is the mode's own.
    policy_set: bool,
    hooks: Hooks,
    mode: PhantomData<M>,
}

impl ProducerBuilder<FireAndForget> {
    pub(crate) fn new(
        client: &Arc<ClientShared>,
        hold: &Hold,
        exchange: &str,
        routing_key: &str,
    ) -> Self {
        let mut config = ProducerConfig::new(exchange, routing_key, FireAndForget::MODE);
        if let Ok(config) = &mut config {
            config.buffer_size = client.buffer_size.unwrap_or(config.buffer_size);
            config.policy = client.buffer_policy.unwrap_or(config.policy);
        }
        Self {
            client: Arc::clone(client),
            hold: hold.clone(),
            config: config.map_err(OpenError::Name),
            policy_set: client.buffer_policy.is_some(),
            hooks: Hooks::default(),
            mode: PhantomData,
        }
    }

    /// Every message is confirmed by the broker, and each publish gives a receipt.
    ///
    /// Unless set here or for the client, a full buffer then makes publishers wait
    /// (`BufferPolicy::Block`). To the default exchange, messages are published mandatory, so that a
    /// queue that does not exist is an error and no false confirmation.
    pub fn confirm(self) -> ProducerBuilder<Confirm> {
        let Self { client, hold, config, policy_set, hooks, mode: _ } = self;
        let config = config.and_then(|chosen| {
            let defaults =
                ProducerConfig::new(&chosen.exchange, &chosen.routing_key, Confirm::MODE)?;
            Ok(ProducerConfig {
                mode: defaults.mode,
                mandatory: defaults.mandatory,
                policy: if policy_set { chosen.policy } else { defaults.policy },
                ..chosen
            })
        });
        ProducerBuilder { client, hold, config, policy_set, hooks, mode: PhantomData }
    }
}

impl<M: Mode> ProducerBuilder<M> {
    fn set(mut self, set: impl FnOnce(&mut ProducerConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            set(config);
        }
        self
    }

    fn check(mut self, holds: bool, key: &'static str, expected: &'static str) -> Self {
        if !holds && self.config.is_ok() {
            self.config = Err(OpenError::Option { key, expected });
        }
        self
    }

    /// The most messages in the buffer (10,000). Memory is taken as it fills.
    pub fn buffer_size(self, messages: usize) -> Self {
        self.set(|config| config.buffer_size = messages).check(
            messages > 0,
            "buffer_size",
            "at least 1",
        )
    }

    /// The most bytes of bodies in the buffer (64 MiB).
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        self.set(|config| config.buffer_bytes = bytes).check(
            bytes > 0,
            "buffer_bytes",
            "at least 1",
        )
    }

    /// What to do with a message when the buffer is full.
    pub fn buffer_policy(mut self, policy: BufferPolicy) -> Self {
        self.policy_set = true;
        self.set(|config| config.policy = policy)
    }

    /// What to do with a message while there is no connection (buffer it).
    pub fn when_offline(self, what: WhenOffline) -> Self {
        self.set(|config| config.when_offline = what)
    }

    /// How long `publish().await` may wait for room (as long as it takes).
    pub fn publish_timeout(self, after: Duration) -> Self {
        self.set(|config| config.publish_timeout = Some(after))
    }

    /// How long a message may wait in the buffer; after that it is dropped (for ever). What was
    /// begun to be sent never expires here.
    pub fn ttl(self, after: Duration) -> Self {
        self.set(|config| config.ttl = Some(after))
    }

    /// Called for every message of this producer that was confirmed, before the client's own hook.
    /// See `Options::on_state_change` for what a hook may do.
    pub fn on_confirm(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.confirm = Some(Arc::new(hook));
        self
    }

    /// Called for every message of this producer that was nacked, before the client's own hook.
    /// See `Options::on_state_change` for what a hook may do.
    pub fn on_nack(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.nack = Some(Arc::new(hook));
        self
    }

    /// Called for every message of this producer that was returned, before the client's own hook.
    /// See `Options::on_state_change` for what a hook may do.
    pub fn on_return(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.returned = Some(Arc::new(hook));
        self
    }

    /// Called for every message of this producer that failed, or whose fate is unknown, before the
    /// client's own hook. See `Options::on_state_change` for what a hook may do.
    pub fn on_error(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.error = Some(Arc::new(hook));
        self
    }

    /// Called for every message of this producer that was dropped, before the client's own hook.
    /// See `Options::on_state_change` for what a hook may do.
    pub fn on_drop(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.dropped = Some(Arc::new(hook));
        self
    }

    /// Opens the producer. It does not wait for a connection: its channel opens when there is one.
    ///
    /// # Errors
    ///
    /// If a name or an option is invalid, the client is closed, or no channel is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future opens nothing.
    pub async fn open(self) -> Result<Producer<M>, OpenError> {
        let mut config = self.config?;
        config.report_confirmed =
            self.hooks.confirm.is_some() || self.client.hooks.confirm.is_some();
        let (config, hooks) = (Box::new(config), Box::new(self.hooks));
        let answer =
            Answer::ask(self.hold.link(), |reply| Control::OpenProducer { config, hooks, reply });
        let opened = answer.await.unwrap_or(Err(OpenError::Closed))?;
        Ok(Producer::new(Arc::clone(opened.shared()), self.hold))
    }
}

impl ProducerBuilder<Confirm> {
    /// Whether a message that no queue wants comes back as `Returned` (yes on the default exchange,
    /// no elsewhere). Without it the broker confirms such a message.
    pub fn mandatory(self, mandatory: bool) -> Self {
        self.set(|config| config.mandatory = mandatory)
    }

    /// The most messages sent and not settled (10,000); at the cap the buffer is not drained.
    pub fn max_in_flight(self, messages: usize) -> Self {
        self.set(|config| config.max_in_flight = messages).check(
            messages > 0,
            "max_in_flight",
            "at least 1",
        )
    }

    /// Resets the channel and sends again when a confirm does not come for so long (never). The time
    /// doubles with each attempt; after three, the message ends as `Unknown(ConfirmTimeout)`.
    pub fn confirm_timeout(self, after: Duration) -> Self {
        self.set(|config| config.confirm_timeout = Some(after)).check(
            !after.is_zero(),
            "confirm_timeout",
            "more than zero",
        )
    }
}

/// A consumer to be opened: with acks and a prefetch of 100, unless told otherwise.
#[derive(Debug)]
#[must_use = "a consumer is opened by open().await"]
pub struct ConsumerBuilder<K: Kind> {
    client: Arc<ClientShared>,
    hold: Hold,
    config: Result<ConsumerConfig, ConsumeError>,
    hold_on_drop: bool,
    on_failure: OnFailure,
    kind: PhantomData<K>,
}

impl ConsumerBuilder<Manual> {
    pub(crate) fn new(client: &Arc<ClientShared>, hold: &Hold, queue: &str) -> Self {
        Self {
            client: Arc::clone(client),
            hold: hold.clone(),
            config: ConsumerConfig::new(queue).map_err(ConsumeError::Name),
            hold_on_drop: false,
            on_failure: OnFailure::default(),
            kind: PhantomData,
        }
    }

    /// The most deliveries outstanding: queued here, in hand, or not acked on the wire (100).
    pub fn prefetch(self, deliveries: u16) -> Self {
        self.set(|config| config.prefetch = deliveries).check(
            deliveries > 0,
            "prefetch",
            "at least 1 (no_ack() has no prefetch)",
        )
    }

    /// Deliveries that are dropped without being settled stay outstanding (they are requeued
    /// otherwise). The application then has to keep count: a consumer whose prefetch is used up by
    /// forgotten deliveries receives nothing more.
    pub const fn hold_on_drop(mut self) -> Self {
        self.hold_on_drop = true;
        self
    }

    /// What `Consumer::run` does with a delivery whose handler failed or panicked.
    pub const fn on_failure(mut self, what: OnFailure) -> Self {
        self.on_failure = what;
        self
    }

    /// The delay before a delivery that was dropped, or whose handler failed, is requeued (100 ms;
    /// doubles up to 30 s while it happens again and again).
    pub fn requeue_delay(self, delay: Duration) -> Self {
        self.set(|config| config.requeue_delay = delay)
    }

    /// The broker forgets each message as it sends it: at most once, and nothing to settle.
    pub fn no_ack(self) -> ConsumerBuilder<NoAck> {
        let Self { client, hold, config, hold_on_drop, on_failure, kind: _ } =
            self.set(|config| config.no_ack = true);
        ConsumerBuilder { client, hold, config, hold_on_drop, on_failure, kind: PhantomData }
    }
}

impl ConsumerBuilder<NoAck> {
    /// The most bytes of bodies that wait for the application (1 MiB). More pauses reading from the
    /// connection that all no-ack consumers of the client share.
    pub fn queue_bytes(self, bytes: usize) -> Self {
        self.set(|config| config.queue_bytes = bytes).check(bytes > 0, "queue_bytes", "at least 1")
    }
}

impl<K: Kind> ConsumerBuilder<K> {
    fn set(mut self, set: impl FnOnce(&mut ConsumerConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            set(config);
        }
        self
    }

    fn check(mut self, holds: bool, key: &'static str, expected: &'static str) -> Self {
        if !holds && self.config.is_ok() {
            self.config = Err(ConsumeError::Option { key, expected });
        }
        self
    }

    /// The consumer tag, instead of 128 random bits. Brokers do not take kindly to duplicates:
    /// RabbitMQ closes the whole connection.
    pub fn tag(mut self, tag: &str) -> Self {
        if let Err(error) = check_name("consumer tag", tag)
            && self.config.is_ok()
        {
            self.config = Err(error.into());
        }
        self.set(|config| config.tag = Some(tag.into()))
    }

    /// Nobody else may consume the queue.
    pub fn exclusive(self) -> Self {
        self.set(|config| config.exclusive = true)
    }

    /// What to do when the broker cancels it, because the queue was deleted for instance
    /// (subscribe again, with backoff).
    pub fn when_cancelled(self, what: WhenCancelled) -> Self {
        self.set(|config| config.when_cancelled = what)
    }

    /// Subscribes, and waits until the broker has agreed.
    ///
    /// It waits for a connection if there is none, up to `deadlines.request` in all.
    ///
    /// # Errors
    ///
    /// If the broker refuses (there is no such queue, …), does not answer in time, a name or an
    /// option is invalid, the client is closed, or no channel is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what was opened.
    pub async fn open(self) -> Result<Consumer<K>, ConsumeError> {
        let config = Box::new(self.config?);
        let hold_on_drop = self.hold_on_drop;
        let answer = Answer::ask(self.hold.link(), |reply| Control::OpenConsumer {
            config,
            hold_on_drop,
            reply,
        });
        let opened = answer.await.unwrap_or(Err(ConsumeError::Closed))?;
        let events = Arc::clone(&self.client.events);
        Ok(Consumer::new(opened.keep(), events, self.hold, self.on_failure))
    }
}
