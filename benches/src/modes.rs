//! What is measured: the modes, and one task of a mode.

use clap::ValueEnum;

/// What a contestant does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Mode {
    /// Publish without confirms, from one task.
    Publish,
    /// The same from four tasks, over one connection.
    #[value(name = "publish-4-tasks")]
    Publish4Tasks,
    /// Publish with at most 1,000 messages unconfirmed, every outcome observed.
    ConfirmPipelined,
    /// Publish one message, await its confirm, repeat; client and sink on the same core.
    ConfirmOne,
    /// Consume without acks.
    ConsumeNoAck,
    /// Consume and ack each, prefetch 1,000.
    #[value(name = "consume-ack-1000")]
    ConsumeAck1000,
    /// Consume and ack each, prefetch 100.
    #[value(name = "consume-ack-100")]
    ConsumeAck100,
}

impl Mode {
    pub(crate) const ALL: [Self; 7] = [
        Self::Publish,
        Self::Publish4Tasks,
        Self::ConfirmPipelined,
        Self::ConfirmOne,
        Self::ConsumeNoAck,
        Self::ConsumeAck1000,
        Self::ConsumeAck100,
    ];

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Publish4Tasks => "publish-4-tasks",
            Self::ConfirmPipelined => "confirm-pipelined",
            Self::ConfirmOne => "confirm-one",
            Self::ConsumeNoAck => "consume-no-ack",
            Self::ConsumeAck1000 => "consume-ack-1000",
            Self::ConsumeAck100 => "consume-ack-100",
        }
    }

    /// Messages come to the client.
    pub(crate) fn consumes(self) -> bool {
        matches!(self, Self::ConsumeNoAck | Self::ConsumeAck1000 | Self::ConsumeAck100)
    }

    /// The most unsettled deliveries; `None` without acks, and for publishers.
    pub(crate) fn prefetch(self) -> Option<u16> {
        match self {
            Self::ConsumeAck1000 => Some(1_000),
            Self::ConsumeAck100 => Some(100),
            _ => None,
        }
    }

    /// Each message has a confirm.
    pub(crate) fn confirms(self) -> bool {
        matches!(self, Self::ConfirmPipelined | Self::ConfirmOne)
    }

    /// Publishers at once.
    pub(crate) fn tasks(self) -> u64 {
        if self == Self::Publish4Tasks { 4 } else { 1 }
    }

    /// The most unconfirmed messages.
    pub(crate) fn window(self) -> usize {
        if self == Self::ConfirmOne { 1 } else { 1_000 }
    }

    /// What counts is the time of one message, not the cost of many: client and sink share a
    /// core, since waking another one is what would be measured otherwise.
    pub(crate) fn is_latency(self) -> bool {
        self == Self::ConfirmOne
    }
}

/// A mode and what stays the same through a contestant's life.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) mode: Mode,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// Where publishers publish to, over the default exchange.
    pub(crate) queue: String,
}

impl Task {
    /// The body of every message.
    pub(crate) fn body(&self) -> Vec<u8> {
        vec![b'x'; self.size]
    }
}
