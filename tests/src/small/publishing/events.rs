//! What a world that publishes is made of, and what can happen in it.

use std::{fmt, time::Duration};

use lavinmq_core::config::{BufferPolicy, PublishMode};

/// What a world is made of, and how much may happen in it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Fire-and-forget or confirm.
    pub mode: PublishMode,
    /// When the buffer is full.
    pub policy: BufferPolicy,
    /// Messages that the buffer holds.
    pub buffer: usize,
    /// Messages that the application publishes.
    pub messages: u8,
    /// Bytes of a body.
    pub body: usize,
    /// Whether frames are written in parts; otherwise whole, or all at once.
    pub parts: bool,
    /// Times that the network cuts the connection, or the broker closes it.
    pub cuts: u8,
    /// Whether it can be the broker.
    pub broker_closes: bool,
    /// Times that time passes (beside a backoff's).
    pub ticks: u8,
    /// Whether the application shuts the session down.
    pub shutdown: bool,
    /// Whether the application closes the producer and gives up what it has.
    pub abandon: bool,
    /// Whether the broker nacks.
    pub nacks: bool,
    /// Whether the broker returns messages.
    pub returns: bool,
    /// Whether the broker blocks publishers, once.
    pub blocks: bool,
    /// The message over which the broker closes the channel.
    pub poison: Option<u8>,
    /// Times that the broker closes the channel for no reason of the messages'.
    pub channel_closes: u8,
    /// How long confirms are waited for.
    pub confirm_timeout: Option<Duration>,
    /// How long a message may wait.
    pub ttl: Option<Duration>,
    /// Whether each confirm is reported by itself.
    pub report_confirmed: bool,
}

impl Setup {
    /// Confirm mode, three messages, two cuts, frames in parts.
    #[must_use]
    pub const fn confirm() -> Self {
        Self {
            mode: PublishMode::Confirm,
            policy: BufferPolicy::Block,
            buffer: 3,
            messages: 3,
            body: 16,
            parts: false,
            cuts: 2,
            broker_closes: false,
            ticks: 0,
            shutdown: false,
            abandon: false,
            nacks: false,
            returns: false,
            blocks: false,
            poison: None,
            channel_closes: 0,
            confirm_timeout: None,
            ttl: None,
            report_confirmed: true,
        }
    }

    /// The same in fire-and-forget mode.
    #[must_use]
    pub const fn fire_and_forget() -> Self {
        Self { mode: PublishMode::FireAndForget, ..Self::confirm() }
    }

    /// The window: two messages.
    pub(super) const WINDOW: usize = 2;
}

/// A tag, with its channel.
pub type On = (u16, u64);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The application publishes.
    Publish,
    /// The driver asks for bytes to write.
    Encode,
    /// The transport takes half of the next frame.
    WritePart,
    /// The transport takes what is left of the next frame.
    WriteFrame,
    /// The transport takes everything.
    WriteAll,
    /// The broker answers a call.
    Answer(u16),
    /// The broker acks a tag.
    Ack(On),
    /// The broker acks a tag and those before it.
    AckThrough(On),
    /// The broker nacks a tag.
    Nack(On),
    /// The broker nacks a tag and those before it.
    NackThrough(On),
    /// The broker returns the message with this tag.
    Return(On),
    /// The broker closes the channel over the message that it does not want.
    Refuse(u16),
    /// The broker closes the channel.
    CloseChannel(u16),
    /// The broker blocks publishers, or no longer does.
    Block(bool),
    /// The connection ends.
    Cut,
    /// The broker closes the connection.
    BrokerCloses,
    /// The transport is opened, and the handshake done.
    Connect,
    /// The next deadline is reached.
    Tick,
    /// The application gives the producer up.
    Abandon,
    /// The application shuts down.
    Shutdown,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish => f.write_str("the application publishes the next message"),
            Self::Encode => f.write_str("the driver asks for bytes to write"),
            Self::WritePart => f.write_str("the transport takes half of the next frame"),
            Self::WriteFrame => f.write_str("the transport takes the rest of the next frame"),
            Self::WriteAll => f.write_str("the transport takes everything"),
            Self::Answer(channel) => write!(f, "the broker answers the call on channel {channel}"),
            Self::Ack((c, tag)) => write!(f, "the broker acks tag {tag} on channel {c}"),
            Self::AckThrough((c, tag)) => {
                write!(f, "the broker acks everything up to tag {tag} on channel {c}")
            }
            Self::Nack((c, tag)) => write!(f, "the broker nacks tag {tag} on channel {c}"),
            Self::NackThrough((c, tag)) => {
                write!(f, "the broker nacks everything up to tag {tag} on channel {c}")
            }
            Self::Return((c, tag)) => {
                write!(f, "the broker returns the message with tag {tag} on channel {c}")
            }
            Self::Refuse(c) => write!(f, "the broker closes channel {c} over a publish"),
            Self::CloseChannel(c) => write!(f, "the broker closes channel {c}"),
            Self::Block(true) => f.write_str("the broker blocks publishers"),
            Self::Block(false) => f.write_str("the broker unblocks publishers"),
            Self::Cut => f.write_str("the connection is cut"),
            Self::BrokerCloses => f.write_str("the broker closes the connection"),
            Self::Connect => f.write_str("the connection is opened"),
            Self::Tick => f.write_str("time passes until the next deadline"),
            Self::Abandon => f.write_str("the application gives the producer up"),
            Self::Shutdown => f.write_str("the application shuts down"),
        }
    }
}
