//! The session's timers: each deadline has a name.

use crate::{
    event::DeadlineReason,
    ids::{ConsumerId, ProducerId, RequestId},
};

/// What a timer is for. Connections and lanes by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Reconnect(usize),
    Dial(usize),
    Handshake(usize),
    HeartbeatSend(usize),
    HeartbeatReceive(usize),
    Write(usize),
    /// Our close, or our close-ok, takes too long.
    Close(usize),
    Stable(usize),
    Rpc(usize, u16),
    Reopen(usize),
    Confirm(usize),
    Ttl(ProducerId),
    Stall(ProducerId),
    Resubscribe(ConsumerId),
    Requeue(ConsumerId),
    /// The next warning about forgotten deliveries may come.
    Forgotten(ConsumerId),
    /// The application waits for a first subscription.
    Opening(ConsumerId),
    ConsumerClose(ConsumerId),
    Request(RequestId),
    Redeclare,
    Shutdown,
}

impl Timer {
    pub(crate) const fn reason(self) -> DeadlineReason {
        match self {
            Self::Reconnect(_) => DeadlineReason::Reconnect,
            Self::Dial(_) => DeadlineReason::Dial,
            Self::Handshake(_) => DeadlineReason::Handshake,
            Self::HeartbeatSend(_) => DeadlineReason::HeartbeatSend,
            Self::HeartbeatReceive(_) => DeadlineReason::HeartbeatReceive,
            Self::Write(_) => DeadlineReason::Write,
            Self::Close(_) | Self::ConsumerClose(_) => DeadlineReason::Close,
            Self::Stable(_) => DeadlineReason::Stable,
            Self::Rpc(..) => DeadlineReason::Rpc,
            Self::Reopen(_) | Self::Resubscribe(_) | Self::Redeclare => DeadlineReason::Reopen,
            Self::Confirm(_) => DeadlineReason::Confirm,
            Self::Ttl(_) => DeadlineReason::Ttl,
            Self::Stall(_) => DeadlineReason::Stall,
            Self::Requeue(_) => DeadlineReason::Requeue,
            Self::Forgotten(_) => DeadlineReason::Warning,
            Self::Opening(_) | Self::Request(_) => DeadlineReason::Request,
            Self::Shutdown => DeadlineReason::Shutdown,
        }
    }
}
