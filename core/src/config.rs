//! What a session is told at its birth: plain data, no behaviour.

use std::{fmt, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::error::NameTooLong;

/// A secret string: zeroed when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(secret.into())))
    }

    /// The secret itself. Write it to the wire and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Who we are, by the mechanism PLAIN (RFC 4616).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub user: Arc<str>,
    /// The password.
    pub password: Secret,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Target {
    /// A host name or an address (IPv6 without brackets).
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// Whether TLS is asked for.
    pub tls: bool,
}

impl Target {
    /// A target by host and port.
    #[must_use]
    pub fn new(host: &str, port: u16, tls: bool) -> Self {
        Self { host: host.into(), port, tls }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How long to wait between connection attempts (semantics s41).
///
/// After a connection that stood for `stable` the first attempt is immediate; then `initial`,
/// multiplied each time, at most `max`, each times a random factor in [0.5, 1].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// The first delay (100 ms).
    pub initial: Duration,
    /// The longest delay (30 s).
    pub max: Duration,
    /// The factor from one delay to the next (2).
    pub multiplier: f64,
    /// Whether delays are spread at random over [0.5, 1] of their length (yes).
    pub jitter: bool,
    /// Attempts in a row after which the client gives up; `None`: never.
    pub max_attempts: Option<u32>,
    /// How long a connection must stand before its loss starts the backoff anew (10 s).
    pub stable: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: true,
            max_attempts: None,
            stable: Duration::from_secs(10),
        }
    }
}

/// How long each step may take.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// Opening a TCP connection (10 s).
    pub connect: Duration,
    /// The TLS handshake (10 s).
    pub tls: Duration,
    /// The AMQP handshake, from the protocol header to open-ok (10 s).
    pub handshake: Duration,
    /// The reply to a method (10 s).
    pub rpc: Duration,
    /// A write without progress (30 s).
    pub write: Duration,
    /// A declaration or subscription that the application awaits, waiting for a connection
    /// included (30 s).
    pub request: Duration,
    /// `close()`: draining, and the close handshake (30 s).
    pub shutdown: Duration,
    /// The same when a client is dropped without `close()` (5 s).
    pub drop: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            rpc: Duration::from_secs(10),
            write: Duration::from_secs(30),
            request: Duration::from_secs(30),
            shutdown: Duration::from_secs(30),
            drop: Duration::from_secs(5),
        }
    }
}

/// How much is taken from the peer and from the application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest frame that we negotiate (131,072 bytes; 4,096 at least). The broker can ask for less.
    pub frame_max: u32,
    /// The most channels on one connection that we negotiate (2,047).
    pub channel_max: u16,
    /// The largest body, in either direction (128 MiB).
    pub body_max: usize,
    /// Producers with a channel of their own (64); later ones share channels with those of their mode.
    pub own_channels: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { frame_max: 131_072, channel_max: 2047, body_max: 128 << 20, own_channels: 64 }
    }
}

/// What to do with a message for which the buffer has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BufferPolicy {
    /// Wait for room (the default of confirm producers).
    Block,
    /// Refuse the message at once: it comes back to the caller.
    Error,
    /// Evict the oldest unsent message (the default of fire-and-forget producers). While messages
    /// leave, `publish().await` waits: what would be dropped is about to be sent.
    DropOldest,
}

/// What to do with a message while there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenOffline {
    /// Take it into the buffer (the default).
    #[default]
    Buffer,
    /// Refuse it at once.
    Fail,
}

/// Fire-and-forget or confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PublishMode {
    /// Sent when the last byte is written; may be lost after that.
    FireAndForget,
    /// Settled when the broker says so.
    Confirm,
}

/// One producer's settings, as the session needs them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// The exchange ("" is the default exchange, which routes to the queue named by the key).
    pub exchange: Arc<str>,
    /// The routing key, or queue.
    pub routing_key: Arc<str>,
    /// The mode.
    pub mode: PublishMode,
    /// The most messages in the buffer (10,000).
    pub buffer_size: usize,
    /// The most bytes of bodies in the buffer (64 MiB).
    pub buffer_bytes: usize,
    /// What to do when the buffer is full.
    pub policy: BufferPolicy,
    /// What to do while there is no connection.
    pub when_offline: WhenOffline,
    /// How long `publish().await` may wait for room; `None`: as long as it takes.
    pub publish_timeout: Option<Duration>,
    /// How long a message may wait in the buffer; `None`: for ever.
    pub ttl: Option<Duration>,
    /// Publish mandatory: a message that no queue wants comes back. In confirm mode on the default
    /// exchange that is the default, since the broker confirms such a message otherwise.
    pub mandatory: bool,
    /// The most messages sent and not settled (10,000).
    pub max_in_flight: usize,
    /// The most bytes of bodies sent and not settled (64 MiB).
    pub max_in_flight_bytes: usize,
    /// Reset the channel and send again when a confirm does not come for so long; `None`: wait.
    pub confirm_timeout: Option<Duration>,
    /// How many times a confirm timeout may resend one message (3).
    pub confirm_retries: u16,
    /// Whether confirmed messages are reported one by one (somebody has set `on_confirm`).
    pub report_confirmed: bool,
}

impl ProducerConfig {
    /// The defaults of a producer of this mode to this exchange and routing key.
    ///
    /// # Errors
    ///
    /// If a name exceeds 255 bytes.
    pub fn new(exchange: &str, routing_key: &str, mode: PublishMode) -> Result<Self, NameTooLong> {
        check_name("exchange", exchange)?;
        check_name("routing key", routing_key)?;
        let confirm = mode == PublishMode::Confirm;
        Ok(Self {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mode,
            buffer_size: 10_000,
            buffer_bytes: 64 << 20,
            policy: if confirm { BufferPolicy::Block } else { BufferPolicy::DropOldest },
            when_offline: WhenOffline::Buffer,
            publish_timeout: None,
            ttl: None,
            mandatory: confirm && exchange.is_empty(),
            max_in_flight: 10_000,
            max_in_flight_bytes: 64 << 20,
            confirm_timeout: None,
            confirm_retries: 3,
            report_confirmed: false,
        })
    }
}

/// What a consumer does when the broker cancels or refuses it after it has once received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenCancelled {
    /// Subscribe again, with backoff (the default).
    #[default]
    Resubscribe,
    /// End the stream.
    End,
}

/// One consumer's settings, as the session needs them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// The queue.
    pub queue: Arc<str>,
    /// Whether the broker counts a message as delivered when it is sent: at most once.
    pub no_ack: bool,
    /// The most deliveries outstanding (100); unused with `no_ack`.
    pub prefetch: u16,
    /// Whether nobody else may consume the queue.
    pub exclusive: bool,
    /// The consumer tag; `None`: 128 random bits (RabbitMQ closes the connection on a duplicate).
    pub tag: Option<Arc<str>>,
    /// The most bytes waiting for the application, with `no_ack` (1 MiB): bodies, properties, and 64
    /// for each delivery. More pauses reading on the connection that the client's no-ack consumers
    /// share.
    pub queue_bytes: usize,
    /// The first delay before a forgotten delivery is requeued (100 ms; doubles up to 30 s while it
    /// happens again and again).
    pub requeue_delay: Duration,
    /// What to do when the broker cancels it.
    pub when_cancelled: WhenCancelled,
}

impl ConsumerConfig {
    /// The defaults of a consumer of this queue.
    ///
    /// # Errors
    ///
    /// If the name exceeds 255 bytes.
    pub fn new(queue: &str) -> Result<Self, NameTooLong> {
        check_name("queue", queue)?;
        Ok(Self {
            queue: queue.into(),
            no_ack: false,
            prefetch: 100,
            exclusive: false,
            tag: None,
            queue_bytes: 1 << 20,
            requeue_delay: Duration::from_millis(100),
            when_cancelled: WhenCancelled::default(),
        })
    }
}

/// A queue to declare.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Its name; empty: the broker makes one up, and another one after an outage.
    pub name: Arc<str>,
    /// Whether it survives a restart of the broker (yes).
    pub durable: bool,
    /// Whether only this connection may use it, and it goes with the connection.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Only look it up; never replayed.
    pub passive: bool,
    /// Further arguments, such as `x-queue-type`.
    pub arguments: amq_protocol::types::FieldTable,
}

impl QueueConfig {
    /// A durable queue of this name.
    ///
    /// # Errors
    ///
    /// If the name exceeds 255 bytes.
    pub fn new(name: &str) -> Result<Self, NameTooLong> {
        check_name("queue", name)?;
        Ok(Self {
            name: name.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            passive: false,
            arguments: amq_protocol::types::FieldTable::default(),
        })
    }
}

/// A session's settings.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Where to connect to. One host for now.
    pub target: Target,
    /// The virtual host.
    pub vhost: Arc<str>,
    /// Who we are.
    pub credentials: Credentials,
    /// The connection's name, shown by the broker's management pages.
    pub name: Option<Arc<str>>,
    /// The heartbeat interval that we ask for (10 s); zero asks for none.
    pub heartbeat: Duration,
    /// Connections per client: 2 (publishing and consuming), or 1.
    pub connections: u8,
    /// Whether confirm producers give each message an id, where it has none (yes). Without it,
    /// a copy that was sent again cannot be recognised.
    pub message_ids: bool,
    /// Delays between connection attempts.
    pub backoff: BackoffConfig,
    /// Deadlines of each step.
    pub deadlines: Deadlines,
    /// Limits.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            target: Target::new("localhost", 5672, false),
            vhost: "/".into(),
            credentials: Credentials { user: "guest".into(), password: Secret::new("guest") },
            name: None,
            heartbeat: Duration::from_secs(10),
            connections: 2,
            message_ids: true,
            backoff: BackoffConfig::default(),
            deadlines: Deadlines::default(),
            limits: Limits::default(),
        }
    }
}

/// An error for names over 255 bytes.
pub(crate) const fn check_name(what: &'static str, name: &str) -> Result<(), NameTooLong> {
    if name.len() > 255 { Err(NameTooLong { what, length: name.len() }) } else { Ok(()) }
}
