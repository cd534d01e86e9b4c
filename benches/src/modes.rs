//! What is measured: the modes, and one task of a mode.

use bytes::Bytes;
use clap::ValueEnum;

/// The most bytes of bodies that a contestant may have unsettled, as far as its user has a say:
/// a thousand messages of 1 MiB would be a gigabyte.
pub(crate) const OUTSTANDING: usize = 16 << 20;

/// From this size on a client that takes bodies by reference count gets them so: what an
/// application does that cares. Smaller ones are copied out of a buffer for each message.
const SHARED: usize = 1 << 10;

/// Messages to a queue whose name begins so, the sink delivers to the consumers of that queue.
pub(crate) const ECHO: &str = "lavinmq-benches-echo";

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
    /// The same with persistent messages, which only a real broker handles differently.
    ConfirmPersistent,
    /// Publish one message, await its confirm, repeat; client and sink on the same core.
    ConfirmOne,
    /// Publish one message, await it as a consumer of its queue, repeat; client and sink on
    /// the same core.
    PingPong,
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
    /// What is run against the sink.
    pub(crate) const ALL: [Self; 8] = [
        Self::Publish,
        Self::Publish4Tasks,
        Self::ConfirmPipelined,
        Self::ConfirmOne,
        Self::PingPong,
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
            Self::ConfirmPersistent => "confirm-persistent",
            Self::ConfirmOne => "confirm-one",
            Self::PingPong => "ping-pong",
            Self::ConsumeNoAck => "consume-no-ack",
            Self::ConsumeAck1000 => "consume-ack-1000",
            Self::ConsumeAck100 => "consume-ack-100",
        }
    }

    /// Messages come to the client, from a queue that holds them already.
    pub(crate) fn consumes(self) -> bool {
        matches!(self, Self::ConsumeNoAck | Self::ConsumeAck1000 | Self::ConsumeAck100)
    }

    /// Deliveries are acked.
    pub(crate) fn acks(self) -> bool {
        matches!(self, Self::ConsumeAck1000 | Self::ConsumeAck100)
    }

    /// Each message has a confirm.
    pub(crate) fn confirms(self) -> bool {
        matches!(self, Self::ConfirmPipelined | Self::ConfirmPersistent | Self::ConfirmOne)
    }

    /// A client is done when it has accepted the last message: that all have arrived is to be
    /// asked for.
    pub(crate) fn is_unconfirmed(self) -> bool {
        matches!(self, Self::Publish | Self::Publish4Tasks)
    }

    /// Publishers at once.
    pub(crate) fn tasks(self) -> u64 {
        if self == Self::Publish4Tasks { 4 } else { 1 }
    }

    /// What counts is the time of one message, not the cost of many: client and sink share a
    /// core, since waking another one is what would be measured otherwise.
    pub(crate) fn is_latency(self) -> bool {
        matches!(self, Self::ConfirmOne | Self::PingPong)
    }
}

/// A mode and what stays the same through a contestant's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) mode: Mode,
    /// Bytes of a body.
    pub(crate) size: usize,
    /// Where publishers publish to, over the default exchange.
    pub(crate) queue: String,
    /// Who publishes persistent messages unless told otherwise is told otherwise, to do the same
    /// as the others: a broker writes them to disk.
    pub(crate) transient: bool,
}

impl Task {
    /// The body of every message.
    pub(crate) fn body(&self) -> Vec<u8> {
        vec![b'x'; self.size]
    }

    /// The same, where it is to be shared and not copied.
    pub(crate) fn shared_body(&self) -> Option<Bytes> {
        (self.size >= SHARED).then(|| self.body().into())
    }

    /// All publishers mark their messages persistent.
    pub(crate) fn persistent(&self) -> bool {
        self.mode == Mode::ConfirmPersistent
    }

    /// The most unconfirmed messages; where there are no confirms, of calls under way.
    pub(crate) fn window(&self) -> usize {
        match self.mode {
            Mode::ConfirmOne | Mode::PingPong => 1,
            _ => self.bounded(1_000),
        }
    }

    /// The most unsettled deliveries; `None` without acks, and for publishers.
    pub(crate) fn prefetch(&self) -> Option<u16> {
        let most = match self.mode {
            Mode::ConsumeAck1000 => self.bounded(1_000),
            Mode::ConsumeAck100 => self.bounded(100),
            _ => return None,
        };
        u16::try_from(most).ok()
    }

    /// So many messages, or as many as [`OUTSTANDING`] holds.
    pub(crate) fn bounded(&self, messages: usize) -> usize {
        messages.min(OUTSTANDING / self.size.max(1)).max(1)
    }

    /// Above the tables: mode and size.
    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.mode.name(), size(self.size))
    }
}

/// Bytes as people write them.
pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0 => "0 B".to_owned(),
        n if n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        n if n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        n => format!("{n} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_narrow_every_window_to_the_same_number_of_bytes() {
        let task = |mode, size| Task { mode, size, queue: String::new(), transient: false };
        for (size, messages) in [(16, 1_000), (1 << 10, 1_000), (64 << 10, 256), (1 << 20, 16)] {
            assert_eq!(task(Mode::ConfirmPipelined, size).window(), messages);
            assert_eq!(task(Mode::Publish, size).window(), messages);
            assert_eq!(task(Mode::ConsumeAck1000, size).prefetch(), Some(messages as u16));
        }
        assert_eq!(task(Mode::ConsumeAck100, 64 << 10).prefetch(), Some(100));
        assert_eq!(task(Mode::ConsumeAck100, 1 << 20).prefetch(), Some(16));
        assert_eq!(task(Mode::ConfirmOne, 1 << 20).window(), 1);
        assert_eq!(task(Mode::ConsumeNoAck, 16).prefetch(), None);
    }

    #[test]
    fn sizes_read_well() {
        let sizes = [16, 1 << 10, 1_500, 64 << 10, 1 << 20].map(size);
        assert_eq!(sizes, ["16 B", "1 KiB", "1500 B", "64 KiB", "1 MiB"]);
    }
}
