//! What a session tells its driver.

use std::sync::Arc;

pub use crate::publish::Flow;
use crate::{
    config::Target,
    error::{ConsumeError, DeclareError, Loss},
    event::{EndReason, Event, Settled},
    ids::{ConnectionId, ConsumerId, ProducerId, RequestId},
};

/// Something for the driver to do with a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Open a transport, then call `handle_connected`, or `handle_disconnected` with `Loss::Dial`.
    /// The session watches the deadline: a [`Action::HangUp`] can come while dialling.
    Dial {
        /// For which connection.
        connection: ConnectionId,
        /// Where to.
        target: Target,
    },
    /// Drop the transport (or the dial), with whatever is still unwritten. The session has forgotten
    /// it already: report nothing more about it. A polite driver shuts it down first (TLS:
    /// close_notify), without waiting.
    HangUp {
        /// Which one.
        connection: ConnectionId,
    },
}

/// What changed about a producer since it was last polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerUpdate {
    /// Which one.
    pub producer: ProducerId,
    /// Messages that left the buffer (encoded, evicted, expired or dropped) since the last update:
    /// room for others.
    pub left: u64,
    /// The bytes of their bodies.
    pub left_bytes: u64,
    /// How messages leave the buffer.
    pub flow: Flow,
    /// Every message up to this sequence number has its outcome.
    pub settled: u64,
    /// The producer is closed and all of its messages have their outcome: forget it.
    pub closed: bool,
}

/// A queue, as the broker declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeclaredQueue {
    /// Its name: the broker's, if it was declared without one.
    pub name: Arc<str>,
    /// Messages ready in it at that time.
    pub messages: u32,
    /// Its consumers at that time.
    pub consumers: u32,
}

/// Something that happened, for the driver to pass on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// For `events()`, logs and `on_state_change`.
    Event(Event),
    /// Every connection stands for the first time.
    Ready,
    /// The first connect failed, and the session was told not to retry: it is closed.
    ConnectFailed(Loss),
    /// A message has an outcome other than sent; or it was confirmed, and its producer reports that.
    Settled {
        /// Which producer's.
        producer: ProducerId,
        /// The outcome.
        settled: Box<Settled>,
    },
    /// A declaration was answered, or failed.
    Declared {
        /// Which one.
        request: RequestId,
        /// The broker's answer.
        result: Result<DeclaredQueue, DeclareError>,
    },
    /// A queue that the broker named has another name now.
    QueueRenamed {
        /// The request that declared it.
        request: RequestId,
        /// Its new name.
        name: Arc<str>,
    },
    /// A consumer was subscribed for the first time, or could not be; then it is gone.
    ConsumerOpened {
        /// Which one.
        consumer: ConsumerId,
        /// The broker's answer.
        result: Result<(), ConsumeError>,
    },
    /// Deliveries of generations below `valid_from` are stale: their channel is gone. Purge those
    /// not handed over yet, if the consumer settles deliveries (complete no-ack ones stay).
    Generation {
        /// Which consumer.
        consumer: ConsumerId,
        /// The oldest generation that can still be settled.
        valid_from: u64,
    },
    /// Everything that the application settled up to now is written.
    SettlesWritten {
        /// Which consumer.
        consumer: ConsumerId,
        /// The `settle` calls that are covered, counted from 1.
        settles: u64,
    },
    /// A consumer is closing: settle as [`crate::consume::Settlement::Requeue`] what waits for the
    /// application and was not handed to it (s48).
    HandBack {
        /// Which one.
        consumer: ConsumerId,
    },
    /// A consumer ended: no delivery follows.
    ConsumerEnded {
        /// Which one.
        consumer: ConsumerId,
        /// Why.
        reason: EndReason,
        /// Deliveries that were abandoned since its end was asked for: in hand and not settled, or
        /// settled and not written.
        abandoned: u64,
    },
    /// The session is closed for good: every transport is gone, every outcome told.
    Closed,
}

/// What a shutdown left behind. All zero after a clean one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Messages that never left us.
    pub dropped: u64,
    /// Messages that were, or may have been, written, and never settled.
    pub unknown: u64,
    /// Deliveries that the application had and did not settle, or whose settlement was not written:
    /// the broker delivers them again.
    pub abandoned: u64,
    /// Whether the deadline cut it short.
    pub timed_out: bool,
}

impl Report {
    /// Whether nothing was left behind.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.dropped == 0 && self.unknown == 0 && self.abandoned == 0 && !self.timed_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_is_clean_only_if_nothing_at_all_was_left_behind() {
        let clean = Report::default();
        assert!(clean.is_clean());
        for report in [
            Report { dropped: 1, ..clean },
            Report { unknown: 1, ..clean },
            Report { abandoned: 1, ..clean },
            Report { timed_out: true, ..clean },
        ] {
            assert!(!report.is_clean(), "{report:?}");
        }
    }
}
