//! What a world that consumes is made of, and what can happen in it.

use std::fmt;

use lavinmq_core::consume::Settlement;

/// What a world is made of, and how much may happen in it.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Messages in the queue.
    pub messages: u8,
    /// Deliveries that the broker makes, those that it makes again included.
    pub deliveries: u8,
    /// How deliveries are settled one by one.
    pub settlements: &'static [Settlement],
    /// Whether the application also settles everything up to a delivery.
    pub through: bool,
    /// Whether settlements are written in parts.
    pub parts: bool,
    /// Times that the network cuts the connection, or the broker closes it.
    pub cuts: u8,
    /// Whether it can be the broker.
    pub broker_closes: bool,
    /// Times that the broker closes a channel.
    pub channel_closes: u8,
    /// Times that the broker cancels the consumer.
    pub cancels: u8,
    /// Times that time passes (beside a backoff's).
    pub ticks: u8,
    /// Whether the application closes the consumer.
    pub close: bool,
    /// Whether it shuts the session down.
    pub shutdown: bool,
}

impl Setup {
    /// Three messages, all of them acked, and two cuts.
    #[must_use]
    pub const fn acks() -> Self {
        Self {
            messages: 3,
            deliveries: 5,
            settlements: &[Settlement::Ack],
            through: false,
            parts: false,
            cuts: 2,
            broker_closes: false,
            channel_closes: 0,
            cancels: 0,
            ticks: 0,
            close: false,
            shutdown: false,
        }
    }
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
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
    /// The broker delivers the next message.
    Deliver(u16),
    /// The broker answers a consume, and delivers the next message in the same read.
    AnswerAndDeliver(u16),
    /// The application settles a delivery in hand.
    Settle(Delivery, Settlement),
    /// The application acks a delivery in hand and those before it.
    AckThrough(Delivery),
    /// The broker cancels the consumer.
    Cancel(u16),
    /// The broker closes the channel.
    CloseChannel(u16),
    /// The connection ends.
    Cut,
    /// The broker closes the connection.
    BrokerCloses,
    /// The transport is opened, and the handshake done.
    Connect,
    /// The next deadline is reached.
    Tick,
    /// The application closes the consumer.
    Close,
    /// The application shuts down.
    Shutdown,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode => f.write_str("the driver asks for bytes to write"),
            Self::WritePart => f.write_str("the transport takes half of the next frame"),
            Self::WriteFrame => f.write_str("the transport takes the rest of the next frame"),
            Self::WriteAll => f.write_str("the transport takes everything"),
            Self::Answer(channel) => write!(f, "the broker answers the call on channel {channel}"),
            Self::Deliver(channel) => write!(f, "the broker delivers on channel {channel}"),
            Self::AnswerAndDeliver(channel) => {
                write!(f, "the broker answers the call on channel {channel} and delivers at once")
            }
            Self::Settle(delivery, how) => write!(f, "the application settles {delivery}: {how:?}"),
            Self::AckThrough(delivery) => {
                write!(f, "the application acks everything up to {delivery}")
            }
            Self::Cancel(channel) => write!(f, "the broker cancels the consumer on {channel}"),
            Self::CloseChannel(channel) => write!(f, "the broker closes channel {channel}"),
            Self::Cut => f.write_str("the connection is cut"),
            Self::BrokerCloses => f.write_str("the broker closes the connection"),
            Self::Connect => f.write_str("the connection is opened"),
            Self::Tick => f.write_str("time passes until the next deadline"),
            Self::Close => f.write_str("the application closes the consumer"),
            Self::Shutdown => f.write_str("the application shuts down"),
        }
    }
}

/// A delivery, as the application has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Delivery {
    pub(super) generation: u64,
    pub(super) tag: u64,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delivery {} of generation {}", self.tag, self.generation)
    }
}
