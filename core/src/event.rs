//! What happened, in words that hooks, events, receipts and errors share.

use std::{fmt, sync::Arc};

use crate::{error::Loss, message::Message, time::Time};

/// What became of an accepted message that was not confirmed (and, in fire-and-forget mode, not sent).
///
/// Each accepted message has exactly one outcome. `Dropped` means that the broker never got it;
/// `Unknown` that it may have, but never said so.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// The broker refused it (`basic.nack`): a queue overflowed with `reject-publish`, or the broker
    /// failed internally. It says nothing about copies in other queues.
    Nacked,
    /// No queue wanted it (`basic.return`, because it was published mandatory).
    Returned(Box<Return>),
    /// It never left us.
    Dropped(DropReason),
    /// It cannot be published at all: the broker closed the channel over it, or it exceeds a limit.
    Failed(FailReason),
    /// It was, or may have been, written whole, and was never settled.
    Unknown(UnknownReason),
}

impl Verdict {
    /// Whether publishing the same message again could succeed.
    ///
    /// After `Unknown` and `Nacked` a second copy may be a duplicate.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Nacked | Self::Dropped(_) | Self::Unknown(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nacked => f.write_str("the broker refused the message (basic.nack)"),
            Self::Returned(reply) => write!(f, "no queue took the message: {reply}"),
            Self::Dropped(reason) => write!(f, "the message never left the client: {reason}"),
            Self::Failed(reason) => write!(f, "the message cannot be published: {reason}"),
            Self::Unknown(reason) => {
                write!(f, "the message was written, but its fate is unknown: {reason}")
            }
        }
    }
}

/// Why a message was dropped before the broker could have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// The buffer was full and the policy is `DropOldest`.
    BufferFull,
    /// It waited in the buffer for longer than the producer's `ttl`.
    TtlExpired,
    /// The client or producer was closed first.
    Closed,
    /// The reconnect attempts were limited, and ran out.
    Disconnected,
}

impl DropReason {
    /// Every reason, in the order in which [`crate::stats::ProducerStats`] counts them.
    pub const ALL: [Self; 4] =
        [Self::BufferFull, Self::TtlExpired, Self::Closed, Self::Disconnected];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BufferFull => "the buffer was full (DropOldest)",
            Self::TtlExpired => "its time to live ran out in the buffer",
            Self::Closed => "the client was closed first",
            Self::Disconnected => "the reconnect attempts ran out",
        })
    }
}

/// Why nobody knows what became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum UnknownReason {
    /// The client or producer was closed before the broker answered.
    Closed,
    /// The connection was lost, and the reconnect attempts ran out.
    Disconnected,
    /// The broker never answered within the confirm timeout.
    ConfirmTimeout,
    /// It was possibly written once, and does not fit the frame size negotiated since.
    FrameTooLarge,
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the client was closed before the broker answered",
            Self::Disconnected => "the connection was lost and the reconnect attempts ran out",
            Self::ConfirmTimeout => "the broker did not confirm it in time",
            Self::FrameTooLarge => "the broker now takes smaller frames only",
        })
    }
}

/// Why a message can never be published.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailReason {
    /// The broker closed the channel (or the connection) because of this message.
    Refused {
        /// The reply code, such as 404.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// Its properties do not fit the frame size that the broker asked for.
    FrameTooLarge,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, text } => {
                write!(f, "the broker closed the channel over it: {code} {text}")
            }
            Self::FrameTooLarge => f.write_str("its properties do not fit the broker's frame size"),
        }
    }
}

/// What the broker said when it returned a message (`basic.return`, specification 1.8.3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Return {
    /// The reply code, such as 312 (`NO_ROUTE`).
    pub code: u16,
    /// The broker's words.
    pub text: Arc<str>,
    /// The exchange that it was published to.
    pub exchange: Arc<str>,
    /// The routing key that it was published with.
    pub routing_key: Arc<str>,
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} (exchange {:?}, routing key {:?})",
            self.code, self.text, self.exchange, self.routing_key
        )
    }
}

/// A returned message that no outcome covers: in fire-and-forget mode a return is an event only.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Returned {
    /// What the broker said.
    pub reply: Return,
    /// The message as the broker sent it back.
    pub message: Message,
}

/// What became of one accepted message, as hooks hear it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settled {
    /// The number that the message's receipt carries, counted from 1 within its producer.
    pub sequence: u64,
    /// The exchange that the producer publishes to (empty: the default exchange).
    pub exchange: Arc<str>,
    /// The queue or routing key that it was published with.
    pub routing_key: Arc<str>,
    /// `None` if it was confirmed.
    pub verdict: Option<Verdict>,
    /// The message itself.
    pub message: Message,
}

/// The state of a client, over all of its connections.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum State {
    /// It has not been connected yet.
    Connecting,
    /// Every connection it needs is open.
    Connected,
    /// Connected, but the broker takes no publishes (`connection.blocked`); consuming goes on.
    Blocked {
        /// The broker's words, such as "low on memory".
        reason: Arc<str>,
    },
    /// At least one connection was lost and is being opened again.
    Reconnecting {
        /// Why it was lost, or why the latest attempt failed.
        loss: Loss,
        /// Attempts since the loss, from 1.
        attempt: u32,
    },
    /// Closed for good: by the application, or because the reconnect attempts ran out.
    Closed {
        /// The loss that ended it; `None` after a close that was asked for.
        loss: Option<Loss>,
    },
}

impl State {
    /// Connected, blocked or not.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected | Self::Blocked { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::Blocked { reason } => write!(f, "blocked by the broker: {reason}"),
            Self::Reconnecting { loss, attempt } => {
                write!(f, "reconnecting (attempt {attempt}): {loss}")
            }
            Self::Closed { loss: None } => f.write_str("closed"),
            Self::Closed { loss: Some(loss) } => write!(f, "closed: {loss}"),
        }
    }
}

/// Why a consumer's stream ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EndReason {
    /// The application closed the consumer.
    Closed,
    /// The application closed the client.
    ClientClosed,
    /// The reconnect attempts ran out.
    Disconnected(Loss),
    /// The broker cancelled it (its queue was deleted, for instance), and the consumer was told not
    /// to subscribe again.
    Cancelled,
    /// The broker refused to subscribe it again, and the consumer was told to end then.
    Refused {
        /// The reply code, such as 404.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the consumer was closed"),
            Self::ClientClosed => f.write_str("the client was closed"),
            Self::Disconnected(loss) => write!(f, "the reconnect attempts ran out: {loss}"),
            Self::Cancelled => f.write_str("the broker cancelled the consumer"),
            Self::Refused { code, text } => {
                write!(f, "the broker refused the consumer: {code} {text}")
            }
        }
    }
}

/// Something that an application may want to log or react to.
///
/// Events come in order, from a bounded queue: whoever reads too slowly is told by
/// [`Event::Skipped`] how many it missed. Outcomes are never decided by events: they are counted in
/// `stats()` and reach receipts and hooks whether or not anybody reads this.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The client's state changed.
    State(State),
    /// An accepted message ended otherwise than confirmed or sent.
    NotConfirmed {
        /// The exchange that its producer publishes to.
        exchange: Arc<str>,
        /// The queue or routing key.
        routing_key: Arc<str>,
        /// The message's number within its producer.
        sequence: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// A fire-and-forget message came back. It stays counted as sent.
    Returned(Box<Returned>),
    /// A publishing channel was closed by the broker; it is being opened again.
    ChannelClosed {
        /// The reply code, such as 404.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// A queue could not be declared again after a reconnect.
    RedeclareFailed {
        /// The queue.
        queue: Arc<str>,
        /// The reply code, such as 405.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// A server-named queue has a new name after a reconnect.
    QueueRenamed {
        /// The name until now.
        from: Arc<str>,
        /// The name from now on.
        to: Arc<str>,
    },
    /// A consumer is being subscribed again: why it stopped receiving.
    ConsumerInterrupted {
        /// The queue that it consumes.
        queue: Arc<str>,
        /// What happened.
        why: Interruption,
    },
    /// A consumer receives again.
    ConsumerResumed {
        /// The queue that it consumes.
        queue: Arc<str>,
    },
    /// Deliveries were dropped without being settled, and requeued.
    DeliveriesForgotten {
        /// The queue that they came from.
        queue: Arc<str>,
        /// How many since the last such event of this consumer.
        count: u64,
    },
    /// A hook or handler of the application panicked. It was caught.
    HookPanicked {
        /// Which one: "on_confirm", "handler", …
        hook: &'static str,
    },
    /// The reader of events was too slow and missed this many.
    Skipped(u64),
}

/// Why a consumer stopped receiving for a while.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Interruption {
    /// The connection was lost.
    Disconnected,
    /// The broker cancelled it (its queue was deleted or moved).
    Cancelled,
    /// The broker closed its channel, or refused to subscribe it.
    Refused {
        /// The reply code.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
}

/// Why something waits, and until when: what the driver sleeps for, and what `explain()` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadline {
    /// When it expires.
    pub at: Time,
    /// What for.
    pub reason: DeadlineReason,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeadlineReason {
    /// The next connection attempt.
    Reconnect,
    /// Opening the socket (and TLS) takes too long.
    Dial,
    /// The AMQP handshake takes too long.
    Handshake,
    /// A heartbeat is due from us.
    HeartbeatSend,
    /// The peer has been silent for two heartbeat intervals.
    HeartbeatReceive,
    /// A write makes no progress.
    Write,
    /// The broker owes the reply to a method.
    Rpc,
    /// A declaration or subscription that the application waits for.
    Request,
    /// The close handshake takes too long.
    Close,
    /// A shutdown's deadline.
    Shutdown,
    /// The oldest buffered message expires.
    Ttl,
    /// Nothing has left a `DropOldest` buffer for 100 ms: eviction begins.
    Stall,
    /// A channel is opened again.
    Reopen,
    /// A forgotten delivery is requeued.
    Requeue,
    /// The next warning of a kind that comes once a minute at most.
    Warning,
    /// A connection has stood for the stable period: its backoff is forgotten.
    Stable,
    /// The broker owes a confirm.
    Confirm,
}
