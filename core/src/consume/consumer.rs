//! A consumer as the session knows it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    backoff::Backoff,
    config::ConsumerConfig,
    consume::{acks::AckTracker, batch::Batch},
    event::EndReason,
    stats::ConsumerStats,
    time::Time,
};

/// The longest delay before a forgotten delivery is requeued.
const MAX_REQUEUE_DELAY: Duration = Duration::from_secs(30);

/// What a consumer does at the moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ConsumerState {
    /// Waiting for its connection, its queue, or its backoff.
    Waiting,
    /// Its channel is being opened and set up.
    Opening,
    /// Deliveries come.
    Active,
    /// `basic.cancel` is on its way, or answered: settlements are still written.
    Closing(EndReason),
}

/// One channel of a consumer. There can be older ones, cancelled by the broker, that stay until the
/// deliveries in hand are settled (s31).
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(crate) struct Subscription {
    pub(crate) generation: u64,
    pub(crate) connection: usize,
    pub(crate) channel: u16,
    pub(crate) acks: AckTracker,
    /// No consumer on it any more: what still arrives is requeued.
    pub(crate) cancelled: bool,
    /// Deliveries of the read that is being handled.
    pub(crate) batch: Batch,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub(crate) struct Consumer {
    pub(crate) config: ConsumerConfig,
    /// Its tag on the current channel.
    pub(crate) tag: Arc<str>,
    pub(crate) state: ConsumerState,
    /// Oldest first; the last one is the current one, unless it is cancelled.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Whether it has ever been subscribed.
    pub(crate) was_active: bool,
    /// Since when it is subscribed, while it is.
    pub(crate) active_since: Option<Time>,
    pub(crate) backoff: Backoff,
    pub(crate) stats: ConsumerStats,
    /// Calls of `settle` so far, and those covered by what was written.
    pub(crate) settles: u64,
    pub(crate) settles_written: u64,
    /// Whether it stands in its connection's list of consumers with settlements to encode.
    pub(crate) dirty: bool,
    /// What the deliveries weigh that the application has not taken (no-ack).
    pub(crate) queue_bytes: u64,
    /// The connection that is not read because that is too much.
    pub(crate) full: Option<usize>,
    requeue_delay: Duration,
    /// Forgotten deliveries, by time: when they are requeued, their generation, their run of tags.
    pub(crate) delayed: VecDeque<(Time, u64, u64, u64)>,
    pub(crate) forgotten_since_event: u64,
    /// Settlements encoded and not written.
    pub(crate) encoded: u64,
    /// What was abandoned before its end was asked for.
    abandoned_before: u64,
}

impl Consumer {
    pub(crate) fn new(config: ConsumerConfig) -> Self {
        Self {
            requeue_delay: config.requeue_delay,
            config,
            tag: "".into(),
            state: ConsumerState::Waiting,
            subscriptions: Vec::new(),
            was_active: false,
            active_since: None,
            backoff: Backoff::default(),
            stats: ConsumerStats::default(),
            settles: 0,
            settles_written: 0,
            dirty: false,
            queue_bytes: 0,
            full: None,
            delayed: VecDeque::new(),
            forgotten_since_event: 0,
            encoded: 0,
            abandoned_before: 0,
        }
    }

    pub(crate) fn subscription(&self, generation: u64) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.generation == generation)
    }

    #[inline]
    pub(crate) fn subscription_mut(&mut self, generation: u64) -> Option<&mut Subscription> {
        self.subscriptions
            .iter_mut()
            .rev()
            .find(|subscription| subscription.generation == generation)
    }

    /// The delay of the next forgotten delivery; it doubles until a delivery is settled.
    pub(crate) fn next_requeue_delay(&mut self) -> Duration {
        let delay = self.requeue_delay;
        self.requeue_delay = (delay * 2).min(MAX_REQUEUE_DELAY);
        delay
    }

    pub(crate) const fn reset_requeue_delay(&mut self) {
        self.requeue_delay = self.config.requeue_delay;
    }

    /// Whether nothing of what was settled is still to be written.
    pub(crate) fn is_settled(&self) -> bool {
        self.encoded == 0 && !self.subscriptions.iter().any(|s| s.acks.has_pending())
    }

    pub(crate) const fn is_closing(&self) -> bool {
        matches!(self.state, ConsumerState::Closing(_))
    }

    /// Its end begins.
    pub(crate) fn begin_closing(&mut self, reason: EndReason) {
        if !self.is_closing() {
            self.abandoned_before = self.stats.abandoned;
            self.state = ConsumerState::Closing(reason);
        }
    }

    /// What was abandoned since its end began, whatever is not written now included.
    pub(crate) fn abandoned_at_end(&self) -> u64 {
        let now = self.snapshot();
        now.abandoned + now.in_hand + now.settling - self.abandoned_before
    }

    /// It is not subscribed any more. After it stood for so long, the backoff begins anew.
    pub(crate) fn interrupted(&mut self, now: Time, stable: Duration) {
        if self.active_since.take().is_some_and(|since| now - since >= stable) {
            self.backoff.reset();
        }
    }

    /// Puts forgotten deliveries off: in the order in which they are due.
    pub(crate) fn delay(&mut self, at: Time, generation: u64, first: u64, last: u64) {
        let place = self.delayed.partition_point(|&(other, ..)| other <= at);
        self.delayed.insert(place, (at, generation, first, last));
    }

    /// What decides what it does next (see `session::model`).
    #[cfg(feature = "model")]
    pub(crate) fn fingerprint(&self, now: Time, stable: Duration) -> impl std::fmt::Debug + '_ {
        let Self {
            config: _,
            tag: _,
            state,
            subscriptions,
            was_active,
            active_since,
            backoff,
            stats: _,
            settles,
            settles_written,
            dirty,
            queue_bytes,
            full,
            requeue_delay,
            delayed,
            forgotten_since_event,
            encoded,
            abandoned_before: _,
        } = self;
        let delayed: Vec<_> = delayed
            .iter()
            .map(|&(at, generation, first, last)| (at - now, generation, first, last))
            .collect();
        let active_for = active_since.map(|since| (now - since).min(stable));
        (
            (state, subscriptions, was_active, active_for, backoff, settles - settles_written),
            (dirty, queue_bytes, full, requeue_delay, delayed, forgotten_since_event, encoded),
        )
    }

    /// The account, with what the subscriptions know.
    pub(crate) fn snapshot(&self) -> ConsumerStats {
        let mut stats = self.stats;
        if !self.config.no_ack {
            let sum = |count: fn(&AckTracker) -> usize| {
                self.subscriptions
                    .iter()
                    .map(|subscription| count(&subscription.acks) as u64)
                    .sum::<u64>()
            };
            stats.in_hand = sum(AckTracker::outstanding);
            stats.settling = sum(AckTracker::settling) + self.encoded;
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::consume::Settlement;

    #[test]
    fn s48_abandoned_at_the_end_is_whatever_is_not_written_by_then() {
        let mut consumer = Consumer::new(ConsumerConfig::new("orders").unwrap());
        consumer.stats.abandoned = 100;
        consumer.begin_closing(EndReason::Closed);
        let mut acks = AckTracker::new();
        (0..5).for_each(|_| acks.received());
        acks.settle(1, 2, Settlement::Ack);
        consumer.subscriptions.push(Subscription {
            generation: 1,
            connection: 0,
            channel: 1,
            acks,
            cancelled: false,
            batch: Batch::new(1),
        });
        // Three in hand; two settled, and 20 more encoded; 1,000 abandoned meanwhile.
        consumer.encoded = 20;
        consumer.stats.abandoned += 1000;
        assert_eq!(consumer.abandoned_at_end(), 1025);
    }
}
