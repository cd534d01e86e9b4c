//! Errors: one enum per operation. Each says whose fault it is (the peer's, the caller's, the
//! network's), and can be compared in tests. None ever carries a password.

use std::{io, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    event::{State, Verdict},
    message::Message,
    wire::WireError,
};

/// A URL or an option that cannot be used. The caller's fault; nothing was tried.
///
/// The URL itself is never part of the error: it can hold a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// Not a URL at all.
    #[error("not an AMQP URL: {reason} (expected amqp://user:password@host:port/vhost)")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// Neither `amqp` nor `amqps`.
    #[error("unknown scheme {scheme:?} (expected amqp or amqps)")]
    Scheme {
        /// The scheme given.
        scheme: String,
    },
    /// A query parameter that does not exist.
    #[error("unknown parameter {key:?}{}", .suggestion.map(|s| format!(" (did you mean {s:?}?)")).unwrap_or_default())]
    UnknownKey {
        /// The parameter's name.
        key: String,
        /// A parameter of a similar name.
        suggestion: Option<&'static str>,
    },
    /// A parameter or setter was given a value outside its range.
    #[error("{key}: {expected}")]
    Value {
        /// The parameter's or setter's name.
        key: &'static str,
        /// What is expected of it.
        expected: &'static str,
    },
    /// The user name, the password or the virtual host contains a NUL or does not decode.
    #[error("the {part} {reason}")]
    Part {
        /// "user name", "password", "virtual host".
        part: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `amqps` was asked for, and this build has no TLS.
    #[error("amqps is not supported by this version; it never falls back to amqp")]
    TlsUnavailable,
}

/// A transport could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The host name has no address.
    #[error("cannot resolve {host}: {message}")]
    Resolve {
        /// The host.
        host: Arc<str>,
        /// The resolver's words.
        message: Arc<str>,
    },
    /// The operating system refused, such as with "connection refused".
    #[error("{message}")]
    Io {
        /// The kind of the I/O error.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: Arc<str>,
    },
    /// No answer within the connect deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The TLS handshake failed.
    #[error("TLS: {message}")]
    Tls {
        /// What failed.
        message: Arc<str>,
    },
    /// A connector of the application's own failed.
    #[error("{0}")]
    Other(Arc<str>),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), message: error.to_string().into() }
    }
}

/// Why a connection ended, or an attempt at one failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Loss {
    /// The transport could not be opened (network).
    #[error("cannot connect to {target}: {error}")]
    Dial {
        /// Host and port.
        target: Arc<str>,
        /// Why.
        error: DialError,
    },
    /// The peer closed the transport without a word.
    #[error("the connection was closed by the peer")]
    Eof,
    /// The transport failed (network).
    #[error("the connection failed: {message}")]
    Io {
        /// The kind of the I/O error.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: Arc<str>,
    },
    /// Nothing was heard for two heartbeat intervals (network).
    #[error("the broker has been silent for {0:?} (two heartbeat intervals)")]
    Silence(Duration),
    /// A write made no progress (network, or a broker that stopped reading).
    #[error("no byte could be written for {0:?}")]
    WriteStalled(Duration),
    /// The handshake was not finished in time.
    #[error("the AMQP handshake was not finished within {0:?}")]
    HandshakeTimedOut(Duration),
    /// The broker did not answer a method.
    #[error("the broker did not answer {method} within {after:?}")]
    RpcTimedOut {
        /// The method.
        method: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The broker closed the connection (`connection.close`).
    #[error("the broker closed the connection: {code} {text}")]
    Closed {
        /// The reply code, such as 320.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
        /// The method that it blames, or (0, 0).
        method: (u16, u16),
    },
    /// The broker refused the credentials, or closed during authentication.
    #[error("access refused for user {user:?}: {text}")]
    AccessRefused {
        /// The user.
        user: Arc<str>,
        /// The broker's words.
        text: Arc<str>,
    },
    /// The broker refused the virtual host.
    #[error("virtual host {vhost:?}: {code} {text}")]
    VhostRefused {
        /// The virtual host.
        vhost: Arc<str>,
        /// The reply code.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// The peer cannot be worked with.
    #[error("incompatible with the peer: {0}")]
    Incompatible(#[from] Incompatible),
    /// Closed by us, because it was asked for.
    #[error("closed")]
    LocalClose,
}

impl Loss {
    /// Whether another attempt cannot help, so that none is made.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Incompatible(_) | Self::LocalClose)
    }

    /// Whether it is about who we are: retried at the longest backoff only.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::AccessRefused { .. } | Self::VhostRefused { .. })
    }
}

impl From<io::Error> for Loss {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Eof;
        }
        Self::Io { kind: error.kind(), message: error.to_string().into() }
    }
}

/// The peer sent something that AMQP 0-9-1 does not allow. Its fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Bytes that are no frame, method, header or table.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A heartbeat on a channel other than 0 (501).
    #[error("a heartbeat on channel {0}")]
    HeartbeatChannel(u16),
    /// A frame on a channel that is not open (504).
    #[error("a frame on channel {0}, which is not open")]
    ChannelNotOpen(u16),
    /// A content frame where none belongs, or a method where content belongs (505).
    #[error("an unexpected frame on channel {0}")]
    UnexpectedFrame(u16),
    /// A method that makes no sense in this state (503).
    #[error("an unexpected method {class}.{method} on channel {channel}")]
    UnexpectedMethod {
        /// The channel.
        channel: u16,
        /// Its class.
        class: u16,
        /// Its number.
        method: u16,
    },
    /// More body than announced (501).
    #[error("a body of {got} bytes where {announced} were announced")]
    BodyOverrun {
        /// Bytes announced by the content header.
        announced: u64,
        /// Bytes received.
        got: u64,
    },
    /// A body larger than the limit.
    #[error("a body of {announced} bytes exceeds the limit of {limit}")]
    BodyTooLarge {
        /// Bytes announced by the content header.
        announced: u64,
        /// The limit (`body_max`).
        limit: u64,
    },
    /// A confirm for a tag that was never sent.
    #[error("a confirm for tag {tag}, which was never sent on channel {channel}")]
    UnknownConfirm {
        /// The channel.
        channel: u16,
        /// The tag.
        tag: u64,
    },
    /// A delivery on a channel without a consumer, or with a tag out of order.
    #[error("delivery tag {got} on channel {channel} where {expected} was due")]
    DeliveryTag {
        /// The channel.
        channel: u16,
        /// The tag that was due.
        expected: u64,
        /// The tag received.
        got: u64,
    },
    /// Many more deliveries than the prefetch allows: without a bound they would be held in memory.
    #[error(
        "{outstanding} deliveries unsettled on channel {channel}, whose prefetch is {prefetch}"
    )]
    PrefetchExceeded {
        /// The channel.
        channel: u16,
        /// What was asked for.
        prefetch: u16,
        /// Deliveries whose settlement was not written.
        outstanding: usize,
    },
}

impl ProtocolError {
    /// The reply code of the `connection.close` that answers it (specification 1.2).
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Wire(error) => error.code(),
            Self::HeartbeatChannel(_) | Self::BodyOverrun { .. } | Self::BodyTooLarge { .. } => 501,
            Self::ChannelNotOpen(_) => 504,
            Self::UnexpectedFrame(_) => 505,
            Self::UnexpectedMethod { .. }
            | Self::UnknownConfirm { .. }
            | Self::DeliveryTag { .. }
            | Self::PrefetchExceeded { .. } => 503,
        }
    }
}

/// The peer speaks, but not with us.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// It answered our protocol header with another one.
    #[error("the broker does not speak AMQP 0-9-1 (it answered {})", .0.escape_ascii())]
    Version([u8; 8]),
    /// It does not offer the mechanism that the credentials need.
    #[error("the broker does not offer the mechanism {wanted} (it offers: {offered})")]
    Mechanism {
        /// The mechanism that we need.
        wanted: &'static str,
        /// The mechanisms offered.
        offered: Arc<str>,
    },
    /// StartOk would exceed the frame size before Tune: the client properties are too long.
    #[error("start-ok would take {size} bytes; before tune a frame may have {limit}")]
    StartOkTooLarge {
        /// Bytes needed.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The frame sizes do not meet.
    #[error("a frame_max of {offered} is below the minimum of {minimum}")]
    FrameMax {
        /// The frame size offered, or asked for.
        offered: u32,
        /// The smallest acceptable one.
        minimum: u32,
    },
}

/// A client could not be made, or could not connect the first time.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL or the options are wrong.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no runtime here: call this inside one.
    #[error(
        "no runtime is running here: await this inside the runtime that shall drive the client"
    )]
    NoRuntime,
    /// The first connection failed.
    #[error("{0}")]
    Failed(#[from] Loss),
    /// The client was closed while it was still connecting.
    #[error("the client was closed before it was connected")]
    Closed,
    /// Not connected within the deadline that was asked for.
    #[error("not connected within {0:?}")]
    TimedOut(Duration),
}

impl From<std::convert::Infallible> for ConnectError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A name that AMQP cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the {what} has {length} bytes; AMQP allows 255")]
pub struct NameTooLong {
    /// "queue", "exchange", "routing key", "consumer tag", …
    pub what: &'static str,
    /// Its length in bytes.
    pub length: usize,
}

/// A producer could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// A name exceeds 255 bytes.
    #[error(transparent)]
    Name(#[from] NameTooLong),
    /// An option is outside its range.
    #[error("{key}: {expected}")]
    Option {
        /// The option.
        key: &'static str,
        /// What is expected of it.
        expected: &'static str,
    },
    /// The broker allows no further channel.
    #[error("all {limit} channels that the broker allows are in use")]
    ChannelsExhausted {
        /// channel_max, as negotiated.
        limit: u16,
    },
}

/// A queue could not be declared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// A name exceeds 255 bytes.
    #[error(transparent)]
    Name(#[from] NameTooLong),
    /// The arguments do not fit into one frame.
    #[error("the declaration would take {size} bytes; a frame may have {limit}")]
    TooLarge {
        /// Bytes needed.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The broker refused, such as with 406 because the queue exists with other properties.
    #[error("the broker refused to declare queue {queue:?}: {code} {text}")]
    Refused {
        /// The queue.
        queue: Arc<str>,
        /// The reply code.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// No answer within the request deadline.
    #[error("queue {queue:?} was not declared within {after:?} (client {state})")]
    TimedOut {
        /// The queue.
        queue: Arc<str>,
        /// The deadline.
        after: Duration,
        /// The client's state when it expired.
        state: Arc<str>,
    },
}

/// A consumer could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// A name exceeds 255 bytes.
    #[error(transparent)]
    Name(#[from] NameTooLong),
    /// An option is outside its range.
    #[error("{key}: {expected}")]
    Option {
        /// The option.
        key: &'static str,
        /// What is expected of it.
        expected: &'static str,
    },
    /// The broker refused, such as with 404 because the queue does not exist.
    #[error("the broker refused to consume queue {queue:?}: {code} {text}{}", hint(*.code))]
    Refused {
        /// The queue.
        queue: Arc<str>,
        /// The reply code.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// The broker allows no further channel.
    #[error("all {limit} channels that the broker allows are in use")]
    ChannelsExhausted {
        /// channel_max, as negotiated.
        limit: u16,
    },
    /// No answer within the request deadline.
    #[error("queue {queue:?} could not be consumed within {after:?} (client {state})")]
    TimedOut {
        /// The queue.
        queue: Arc<str>,
        /// The deadline.
        after: Duration,
        /// The client's state when it expired.
        state: Arc<str>,
    },
}

const fn hint(code: u16) -> &'static str {
    match code {
        404 => " (declare it first)",
        403 => " (another exclusive consumer, or no permission)",
        _ => "",
    }
}

/// A message that no broker could take. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// A short string exceeds 255 bytes.
    #[error(transparent)]
    Name(#[from] NameTooLong),
    /// The body exceeds `body_max`.
    #[error("the body has {length} bytes; the limit is {limit}")]
    BodyTooLarge {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The properties do not fit into one frame.
    #[error("the properties take {length} bytes; a frame may have {limit}")]
    PropertiesTooLarge {
        /// Their encoded length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The message alone exceeds the buffer's byte cap.
    #[error("the message has {length} bytes; the whole buffer may have {limit}")]
    LargerThanBuffer {
        /// Its length.
        length: usize,
        /// The buffer's byte cap.
        limit: usize,
    },
}

/// A message was not accepted. It comes back to the caller.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The buffer is full.
    #[error("the buffer is full")]
    Full(Message),
    /// The producer or its client is closed.
    #[error("the producer is closed")]
    Closed(Message),
    /// There is no connection, and the producer was told not to buffer.
    #[error("not connected ({1})")]
    Offline(Message, Arc<State>),
    /// The message exceeds a limit.
    #[error("{1}")]
    Invalid(Message, InvalidMessage),
    /// There was no room within the producer's `publish_timeout`.
    #[error("no room within the publish timeout")]
    TimedOut(Message),
}

impl PublishError {
    /// The message that was not accepted.
    #[must_use]
    pub const fn message(&self) -> &Message {
        match self {
            Self::Full(message)
            | Self::Closed(message)
            | Self::Offline(message, _)
            | Self::Invalid(message, _)
            | Self::TimedOut(message) => message,
        }
    }

    /// Takes the message back.
    #[must_use]
    pub fn into_message(self) -> Message {
        match self {
            Self::Full(message)
            | Self::Closed(message)
            | Self::Offline(message, _)
            | Self::Invalid(message, _)
            | Self::TimedOut(message) => message,
        }
    }

    /// Whether publishing the same message later could succeed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Offline(..) | Self::TimedOut(_))
    }
}

/// An accepted message was not confirmed.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("message {sequence} was not confirmed: {verdict}")]
#[non_exhaustive]
pub struct NotConfirmed {
    /// What became of it.
    pub verdict: Verdict,
    /// Its number within its producer, as in hooks and events.
    pub sequence: u64,
    /// The message itself.
    pub message: Box<Message>,
}

impl NotConfirmed {
    /// An error made by hand, for tests of applications and for the crates of this project.
    #[must_use]
    pub fn new(verdict: Verdict, sequence: u64, message: Message) -> Self {
        Self { verdict, sequence, message: Box::new(message) }
    }

    /// Takes the message, to publish it again perhaps.
    #[must_use]
    pub fn into_message(self) -> Message {
        *self.message
    }

    /// Whether publishing the same message again could succeed. After `Unknown` and `Nacked` a
    /// second copy may be a duplicate.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        self.verdict.is_retryable()
    }
}
