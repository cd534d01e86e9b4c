//! What a client is told at its birth: where to connect to, and how to behave.

use std::{convert::Infallible, fmt, str::FromStr, sync::Arc, time::Duration};

use crate::{
    client::hooks::Hooks,
    config::{BufferPolicy, Config, Credentials, Deadlines, Limits, Secret, Target},
    error::{DialError, OptionsError},
    event::{Settled, State},
    runtime::{BoxFuture, Transport},
    uri,
};

/// Opens transports in the place of the runtime.
pub(crate) type Connector =
    Arc<dyn Fn(Target) -> BoxFuture<'static, Result<Box<dyn Transport>, DialError>> + Send + Sync>;

/// A client's settings: a URL, and what setters change of it.
///
/// ```
/// use lavinmq_core::Options;
///
/// let options = Options::new("amqp://user:secret@localhost/shop?heartbeat=20")?.name("orders-api");
/// # Ok::<(), lavinmq_core::error::OptionsError>(())
/// ```
///
/// A setter given a value outside its range keeps the error; connecting then fails with
/// [`OptionsError::Value`]. `Debug` shows no password.
#[derive(Clone)]
#[must_use = "options do nothing until a client is made of them"]
pub struct Options {
    pub(crate) config: Config,
    pub(crate) buffer_size: Option<usize>,
    pub(crate) buffer_policy: Option<BufferPolicy>,
    pub(crate) connector: Option<Connector>,
    pub(crate) hooks: Hooks,
    invalid: Option<OptionsError>,
}

impl Options {
    /// The settings that a URL asks for: `amqp://user:password@host:port/vhost?parameter=value`.
    ///
    /// # Errors
    ///
    /// If it is no AMQP URL, or a parameter is unknown or outside its range.
    pub fn new(url: impl AsRef<str>) -> Result<Self, OptionsError> {
        let parsed = uri::parse(url.as_ref())?;
        Ok(Self {
            config: parsed.config,
            buffer_size: parsed.buffer_size,
            buffer_policy: parsed.buffer_policy,
            connector: None,
            hooks: Hooks::default(),
            invalid: None,
        })
    }

    fn check(mut self, holds: bool, key: &'static str, expected: &'static str) -> Self {
        if !holds && self.invalid.is_none() {
            self.invalid = Some(OptionsError::Value { key, expected });
        }
        self
    }

    /// The first thing that is wrong with them.
    pub(crate) fn validate(&self) -> Result<(), OptionsError> {
        match &self.invalid {
            Some(error) => Err(error.clone()),
            None if self.config.target.tls && self.connector.is_none() => {
                Err(OptionsError::TlsUnavailable)
            }
            None => Ok(()),
        }
    }

    /// Names the connections, for the broker's management pages and logs.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.config.name = Some(name.into());
        self
    }

    /// Who we are (guest and guest, unless the URL says otherwise).
    pub fn credentials(mut self, user: impl Into<Arc<str>>, password: impl Into<String>) -> Self {
        self.config.credentials =
            Credentials { user: user.into(), password: Secret::new(password) };
        self
    }

    /// The virtual host (`/`, unless the URL says otherwise).
    pub fn vhost(mut self, vhost: impl Into<Arc<str>>) -> Self {
        self.config.vhost = vhost.into();
        self
    }

    /// The heartbeat interval that we ask for (10 s). After two intervals of silence the connection
    /// counts as lost. Zero asks for none; the broker may still want some.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.config.heartbeat = interval;
        self.check(
            interval <= Duration::from_secs(65_535) && interval.subsec_nanos() == 0,
            "heartbeat",
            "whole seconds, at most 65,535",
        )
    }

    /// Connections per client: 2 (one for publishing, one for consuming), or 1.
    ///
    /// A broker that runs low on memory stops reading from connections that publish. With one
    /// connection, that stops acks, too.
    pub fn connections(mut self, count: u8) -> Self {
        self.config.connections = count;
        self.check(matches!(count, 1 | 2), "connections", "1 or 2")
    }

    /// The most messages in each producer's buffer (10,000), unless the producer says otherwise.
    /// Memory is taken as it fills.
    pub fn buffer_size(mut self, messages: usize) -> Self {
        self.buffer_size = Some(messages);
        self.check(messages > 0, "buffer_size", "at least 1")
    }

    /// What each producer does when its buffer is full, unless the producer says otherwise
    /// (`Block` in confirm mode, `DropOldest` in fire-and-forget mode).
    pub fn buffer_policy(mut self, policy: BufferPolicy) -> Self {
        self.buffer_policy = Some(policy);
        self
    }

    /// The delay before the second connection attempt after a loss; the first is immediate (100 ms).
    pub fn reconnect_initial_delay(mut self, delay: Duration) -> Self {
        self.config.backoff.initial = delay;
        self.check(!delay.is_zero(), "reconnect_initial_delay", "more than zero")
    }

    /// The longest delay between connection attempts (30 s).
    pub fn reconnect_max_delay(mut self, delay: Duration) -> Self {
        self.config.backoff.max = delay;
        self.check(!delay.is_zero(), "reconnect_max_delay", "more than zero")
    }

    /// The factor from one delay to the next (2).
    pub fn reconnect_multiplier(mut self, factor: f64) -> Self {
        self.config.backoff.multiplier = factor;
        self.check(
            factor.is_finite() && factor >= 1.0,
            "reconnect_multiplier",
            "a finite number, at least 1",
        )
    }

    /// Whether delays are spread at random over [0.5, 1] of their length (yes), so that many clients
    /// do not come back at the same moment.
    pub fn reconnect_jitter(mut self, jitter: bool) -> Self {
        self.config.backoff.jitter = jitter;
        self
    }

    /// Connection attempts in a row after which the client gives up and closes (without limit,
    /// unless this is called). Buffered messages then end as `Dropped(Disconnected)`.
    pub fn reconnect_attempts(mut self, attempts: u32) -> Self {
        self.config.backoff.max_attempts = Some(attempts);
        self.check(attempts > 0, "reconnect_attempts", "at least 1")
    }

    /// Whether confirm producers give each message an id where it has none (yes). Without ids, a
    /// consumer cannot recognise a copy that was sent again after a loss.
    pub fn message_ids(mut self, generate: bool) -> Self {
        self.config.message_ids = generate;
        self
    }

    /// Replaces all deadlines.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.config.deadlines = deadlines;
        self
    }

    /// Replaces all limits.
    pub fn limits(self, limits: Limits) -> Self {
        let (frame_max, channel_max) = (limits.frame_max, limits.channel_max);
        Self { config: Config { limits, ..self.config }, ..self }
            .frame_max(frame_max)
            .channel_max(channel_max)
    }

    /// The largest frame that we negotiate, in bytes (131,072). The broker may ask for less.
    pub fn frame_max(mut self, bytes: u32) -> Self {
        self.config.limits.frame_max = bytes;
        self.check(bytes >= 4096, "frame_max", "at least 4,096")
    }

    /// The most channels on one connection that we negotiate (2,047).
    pub fn channel_max(mut self, channels: u16) -> Self {
        self.config.limits.channel_max = channels;
        self.check(channels > 0, "channel_max", "at least 1")
    }

    /// The largest body, in either direction, in bytes (128 MiB).
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.config.limits.body_max = bytes;
        self
    }

    /// Opens transports in a way of the application's own: a unix socket, a proxy, TLS, memory.
    ///
    /// Called for every connection attempt with the target of the URL; the future is dropped when
    /// `deadlines.connect` expires. A panic counts as a failed attempt. With `amqps` the connector
    /// is responsible for TLS.
    pub fn connector<C, F, T>(mut self, connect: C) -> Self
    where
        C: Fn(Target) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, DialError>> + Send + 'static,
        T: Transport,
    {
        self.connector = Some(Arc::new(move |target| {
            let opening = connect(target);
            Box::pin(async move { Ok(Box::new(opening.await?) as Box<dyn Transport>) })
        }));
        self
    }

    /// Called whenever the client's state changes, in order.
    ///
    /// Like every hook, it runs in the driver's task, outside every lock: while it runs, nothing is
    /// sent or received. It must not block. A panic is caught, counted and reported as an event.
    pub fn on_state_change(mut self, hook: impl Fn(State) + Send + Sync + 'static) -> Self {
        self.hooks.state = Some(Arc::new(hook));
        self
    }

    /// Called for every message confirmed by the broker, whichever the producer.
    /// See [`Options::on_state_change`] for what a hook may do.
    ///
    /// It costs a copy of each message's handle; without it, confirmed messages are counted only.
    pub fn on_confirm(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.confirm = Some(Arc::new(hook));
        self
    }

    /// Called for every message that the broker nacked.
    /// See [`Options::on_state_change`] for what a hook may do.
    pub fn on_nack(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.nack = Some(Arc::new(hook));
        self
    }

    /// Called for every message of a confirm producer that no queue wanted.
    /// See [`Options::on_state_change`] for what a hook may do.
    pub fn on_return(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.returned = Some(Arc::new(hook));
        self
    }

    /// Called for every message that failed, or whose fate is unknown.
    /// See [`Options::on_state_change`] for what a hook may do.
    pub fn on_error(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.error = Some(Arc::new(hook));
        self
    }

    /// Called for every message dropped before the broker could have it; the verdict has the reason.
    /// See [`Options::on_state_change`] for what a hook may do.
    pub fn on_drop(mut self, hook: impl Fn(&Settled) + Send + Sync + 'static) -> Self {
        self.hooks.dropped = Some(Arc::new(hook));
        self
    }
}

/// Shows no secret: the password's own `Debug` hides it.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("config", &self.config)
            .field("buffer_size", &self.buffer_size)
            .field("buffer_policy", &self.buffer_policy)
            .field("connector", &self.connector.is_some())
            .field("hooks", &self.hooks)
            .finish_non_exhaustive()
    }
}

impl FromStr for Options {
    type Err = OptionsError;
    fn from_str(url: &str) -> Result<Self, OptionsError> {
        Self::new(url)
    }
}

impl TryFrom<&str> for Options {
    type Error = OptionsError;
    fn try_from(url: &str) -> Result<Self, OptionsError> {
        Self::new(url)
    }
}

impl TryFrom<&String> for Options {
    type Error = OptionsError;
    fn try_from(url: &String) -> Result<Self, OptionsError> {
        Self::new(url)
    }
}

impl TryFrom<String> for Options {
    type Error = OptionsError;
    fn try_from(url: String) -> Result<Self, OptionsError> {
        Self::new(url)
    }
}

impl From<&Self> for Options {
    fn from(options: &Self) -> Self {
        options.clone()
    }
}

/// Options as any argument of `connect` yields them.
pub(crate) fn convert<O>(options: O) -> Result<Options, crate::error::ConnectError>
where
    O: TryInto<Options>,
    crate::error::ConnectError: From<O::Error>,
{
    let options = options.try_into()?;
    options.validate()?;
    Ok(options)
}

// `Options` itself converts by the blanket `TryFrom`, whose error is `Infallible`.
const _: fn(Infallible) -> crate::error::ConnectError = crate::error::ConnectError::from;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::error::ConnectError;

    fn options() -> Options {
        Options::new("amqp://alice:canary-password@localhost/shop").unwrap()
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = format!("{:?}", options().on_confirm(|_| ()));
        assert!(text.contains("alice") && !text.contains("canary"), "{text}");
    }

    #[test]
    fn the_first_invalid_value_is_reported_at_connect() {
        let error = convert(options().connections(3).frame_max(1)).unwrap_err();
        let expected = OptionsError::Value { key: "connections", expected: "1 or 2" };
        assert_eq!(error, ConnectError::Options(expected));
    }

    #[test]
    fn amqps_needs_a_connector() {
        let plain = Options::new("amqps://localhost").unwrap();
        assert_eq!(
            convert(plain.clone()).unwrap_err(),
            ConnectError::Options(OptionsError::TlsUnavailable)
        );
        let own = plain.connector(|_| async {
            Err::<futures::io::AllowStdIo<std::io::Cursor<Vec<u8>>>, _>(DialError::Other(
                "no".into(),
            ))
        });
        assert!(convert(own).is_ok());
    }

    #[test]
    fn everything_that_is_a_url_or_options_converts() {
        let url = "amqp://localhost".to_owned();
        assert!(convert(url.as_str()).is_ok());
        assert!(convert(&url).is_ok());
        let plain = options();
        assert!(convert(&plain).is_ok());
        assert!(convert(plain).is_ok());
        assert!(convert(url).is_ok());
        assert!(convert("http://localhost").is_err());
    }
}
