//! Counters: one `u64` per term of the conservation law.

use crate::event::DropReason;

/// One producer's account, as of the driver's last turn.
///
/// In every snapshot both sides are equal:
///
/// ```text
/// offered  = accepted + waiting + refused_full + refused_closed + refused_offline
///          + refused_invalid + timed_out + cancelled
/// accepted = confirmed + nacked + returned + dropped_* + failed + sent + unknown + queued + in_flight
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStats {
    /// Publishes begun: futures polled at least once, and `try_publish` calls.
    pub offered: u64,
    /// Messages taken. Each has, or will have, exactly one outcome.
    pub accepted: u64,
    /// Publish futures that wait for room.
    pub waiting: u64,
    /// Refused because the buffer was full.
    pub refused_full: u64,
    /// Refused because the producer or the client was closed.
    pub refused_closed: u64,
    /// Refused because there was no connection and the producer was told not to buffer.
    pub refused_offline: u64,
    /// Refused because a limit was exceeded.
    pub refused_invalid: u64,
    /// Gave up waiting for room at their deadline.
    pub timed_out: u64,
    /// Dropped by the application while they waited for room.
    pub cancelled: u64,

    /// Confirmed by the broker.
    pub confirmed: u64,
    /// Nacked by the broker.
    pub nacked: u64,
    /// Returned by the broker, and then settled.
    pub returned: u64,
    /// Evicted by `DropOldest`.
    pub dropped_buffer_full: u64,
    /// Expired in the buffer.
    pub dropped_ttl: u64,
    /// Never written before a close.
    pub dropped_closed: u64,
    /// Never written before the reconnect attempts ran out.
    pub dropped_disconnected: u64,
    /// Refused by the broker with a channel close, or over a limit of the broker's.
    pub failed: u64,
    /// Fire-and-forget: written.
    pub sent: u64,
    /// Possibly written, never settled.
    pub unknown: u64,
    /// In the buffer, not encoded yet.
    pub queued: u64,
    /// Encoded once and not settled, those that wait to be sent again included.
    pub in_flight: u64,

    /// Bytes of the bodies in the buffer.
    pub queued_bytes: u64,
    /// Copies sent again after a loss.
    pub resent: u64,
    /// `basic.return`s received in fire-and-forget mode (beside the law).
    pub returns: u64,
    /// Confirms for a tag that was settled already; ignored.
    pub duplicate_confirms: u64,
}

macro_rules! sum {
    ($a:ident, $b:ident, $($field:ident),*) => {{ $($a.$field += $b.$field;)* }};
}

impl ProducerStats {
    /// Everything on the right of `offered = …`.
    #[must_use]
    pub const fn offered_terms(&self) -> u64 {
        self.accepted
            + self.waiting
            + self.refused_full
            + self.refused_closed
            + self.refused_offline
            + self.refused_invalid
            + self.timed_out
            + self.cancelled
    }

    /// Everything on the right of `accepted = …`.
    #[must_use]
    pub const fn accepted_terms(&self) -> u64 {
        self.settled() + self.queued + self.in_flight
    }

    /// Messages that have their outcome.
    #[must_use]
    pub const fn settled(&self) -> u64 {
        self.confirmed
            + self.nacked
            + self.returned
            + self.dropped()
            + self.failed
            + self.sent
            + self.unknown
    }

    /// Messages that the broker never got, for whatever reason.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped_buffer_full
            + self.dropped_ttl
            + self.dropped_closed
            + self.dropped_disconnected
    }

    /// Whether the conservation law holds in this snapshot.
    #[must_use]
    pub const fn is_conserved(&self) -> bool {
        self.offered == self.offered_terms() && self.accepted == self.accepted_terms()
    }

    /// Adds another producer's account.
    pub fn add(&mut self, other: &Self) {
        sum!(
            self,
            other,
            offered,
            accepted,
            waiting,
            refused_full,
            refused_closed,
            refused_offline,
            refused_invalid,
            timed_out,
            cancelled,
            confirmed,
            nacked,
            returned,
            dropped_buffer_full,
            dropped_ttl,
            dropped_closed,
            dropped_disconnected,
            failed,
            sent,
            unknown,
            queued,
            in_flight,
            queued_bytes,
            resent,
            returns,
            duplicate_confirms
        );
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        *match reason {
            DropReason::BufferFull => &mut self.dropped_buffer_full,
            DropReason::TtlExpired => &mut self.dropped_ttl,
            DropReason::Closed => &mut self.dropped_closed,
            DropReason::Disconnected => &mut self.dropped_disconnected,
        } += 1;
    }
}

/// One consumer's account, as of the driver's last turn.
///
/// `received = acked + requeued + rejected + abandoned + queued + in_hand + settling` (for a no-ack
/// consumer `received = acked + queued + in_hand`, where whatever left the queue counts as acked: it was
/// handed over, or its consumer was dropped before).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Deliveries received whole.
    pub received: u64,
    /// Acked: the last byte of the ack was written.
    pub acked: u64,
    /// Requeued: the last byte of the nack was written.
    pub requeued: u64,
    /// Rejected: the last byte of the nack was written.
    pub rejected: u64,
    /// Their channel ended first; the broker delivers them again.
    pub abandoned: u64,
    /// Received, and not handed to the application yet.
    pub queued: u64,
    /// Handed to the application, and not settled by it.
    pub in_hand: u64,
    /// Settled by the application, and not written yet.
    pub settling: u64,
    /// Of the requeued: dropped by the application without being settled.
    pub forgotten: u64,
    /// Bytes of the bodies received.
    pub received_bytes: u64,
}

impl ConsumerStats {
    /// A delivery with a body of so many bytes was received whole.
    pub(crate) const fn receive(&mut self, body: usize) {
        self.received += 1;
        self.received_bytes += body as u64;
    }

    /// Everything on the right of `received = …`.
    #[must_use]
    pub const fn received_terms(&self) -> u64 {
        self.acked
            + self.requeued
            + self.rejected
            + self.abandoned
            + self.queued
            + self.in_hand
            + self.settling
    }

    /// Whether the law holds in this snapshot.
    #[must_use]
    pub const fn is_conserved(&self) -> bool {
        self.received == self.received_terms()
    }

    /// Adds another consumer's account.
    pub fn add(&mut self, other: &Self) {
        sum!(
            self,
            other,
            received,
            acked,
            requeued,
            rejected,
            abandoned,
            queued,
            in_hand,
            settling,
            forgotten,
            received_bytes
        );
    }
}

/// A client's account: its producers' and consumers' sums, closed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The sum over all producers.
    pub publish: ProducerStats,
    /// The sum over all consumers.
    pub consume: ConsumerStats,
    /// Connections lost since the start.
    pub losses: u64,
    /// Connections opened again after a loss.
    pub reconnects: u64,
    /// Hooks and handlers that panicked.
    pub hook_panics: u64,
}

impl Stats {
    /// Whether both laws hold in this snapshot.
    #[must_use]
    pub const fn is_conserved(&self) -> bool {
        self.publish.is_conserved() && self.consume.is_conserved()
    }
}
