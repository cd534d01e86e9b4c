//! What differs between the brokers that this one can play.

use std::time::Duration;

/// The broker to play. The differences are those that clients notice: what Tune offers, which
/// mistakes close a channel and which the connection, how confirms are batched, and so on.
///
/// Modelled on recorded behaviour, not on the brokers' documentation alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Personality {
    /// RabbitMQ 3.10.
    RabbitMq,
    /// LavinMQ 2.9.
    #[default]
    LavinMq,
}

/// How the server ends a transport that it no longer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An orderly end of the stream.
    Eof,
    /// A reset: the peer can lose what it has not read yet.
    Reset,
}

/// What connection.tune offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tune {
    /// The highest channel number; 0 is no limit.
    pub channel_max: u16,
    /// The largest frame, in bytes; 0 is no limit.
    pub frame_max: u32,
    /// The heartbeat interval, in seconds; 0 is none.
    pub heartbeat: u16,
}

impl Personality {
    /// Whether this is RabbitMQ.
    pub(crate) const fn is_rabbitmq(self) -> bool {
        matches!(self, Self::RabbitMq)
    }

    pub(crate) const fn product(self) -> &'static str {
        match self {
            Self::RabbitMq => "RabbitMQ",
            Self::LavinMq => "LavinMQ",
        }
    }

    pub(crate) const fn version(self) -> &'static str {
        match self {
            Self::RabbitMq => "3.10.8",
            Self::LavinMq => "2.9.1",
        }
    }

    pub(crate) const fn tune(self) -> Tune {
        match self {
            Self::RabbitMq => Tune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 },
            Self::LavinMq => Tune { channel_max: 2048, frame_max: 131_072, heartbeat: 300 },
        }
    }

    /// How long a connection that failed its authentication or tuning is left in silence, and how it
    /// ends. (RabbitMQ slows attackers down.)
    pub(crate) const fn after_a_bad_handshake(self) -> (Duration, Ending) {
        match self {
            Self::RabbitMq => (Duration::from_secs(3), Ending::Reset),
            Self::LavinMq => (Duration::ZERO, Ending::Eof),
        }
    }

    /// As [`after_a_bad_handshake`](Self::after_a_bad_handshake), after the close for bytes that are no
    /// frame.
    pub(crate) const fn after_a_bad_frame(self) -> (Duration, Ending) {
        self.after_a_bad_handshake()
    }

    /// How long the answer to a connection.close is awaited.
    pub(crate) const fn close_ok_patience(self) -> Duration {
        match self {
            Self::RabbitMq => Duration::from_secs(30),
            Self::LavinMq => Duration::from_secs(5),
        }
    }

    /// After how many *half* heartbeat intervals of silence the client counts as dead (measured at an
    /// interval of 2 s: 6 s and 7 s), and how its connection ends.
    pub(crate) const fn silence(self) -> (u32, Ending) {
        match self {
            Self::RabbitMq => (6, Ending::Reset),
            Self::LavinMq => (7, Ending::Eof),
        }
    }

    /// How a connection ends that the server has no more use for.
    pub(crate) const fn ending(self) -> Ending {
        match self {
            Self::RabbitMq => Ending::Reset,
            Self::LavinMq => Ending::Eof,
        }
    }

    /// The largest message body, in bytes.
    pub(crate) const fn body_max(self) -> u64 {
        128 * 1024 * 1024
    }
}
