//! Publishing: the outage buffer, the window of what is sent and not settled, and their owner.

pub(crate) mod lane;
pub(crate) mod limits;
pub(crate) mod producer;
pub(crate) mod ring;
pub mod settled;

pub use settled::SettledSet;

use crate::{message::Message, time::Time};

/// A message on its way from a hand-over into the session.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Its number within its producer, drawn at acceptance, from 1 and without a gap. Messages may
    /// arrive in another order than their numbers when threads race; they are sent in the order of
    /// arrival and settled by number.
    pub sequence: u64,
    /// When it was accepted, by the driver's coarse clock.
    pub at: Time,
    /// A routing key of its own (`publish_to`).
    pub routing_key: Option<std::sync::Arc<str>>,
    /// The message.
    pub message: Message,
}

/// How messages leave a producer's buffer at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Flow {
    /// Whether `DropOldest` may evict: the connection is down or blocked, the channel closed or
    /// paused, or nothing has left the buffer for 100 ms.
    pub may_evict: bool,
    /// Whether there is no connection: `WhenOffline::Fail` refuses. A blocked one is not offline.
    pub offline: bool,
}
