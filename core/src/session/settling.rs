//! Settlements: from the application to the wire, and what is counted when they get there.

use std::{collections::VecDeque, time::Duration};

use super::{Session, SessionEvent, timer::Timer};
use crate::{
    connection::OUTPUT_LIMIT,
    consume::{SettleRun, Settlement, acks},
    event::Event,
    ids::ConsumerId,
    session::appended::{Appended, What},
    time::Time,
};

/// How often a warning about forgotten deliveries may come (s34).
const FORGOTTEN_EVERY: Duration = Duration::from_secs(60);

impl Session {
    /// The application settles a run of deliveries. Stale runs, and tags settled before, are left
    /// alone. Each call counts as one for [`SessionEvent::SettlesWritten`].
    pub fn settle(&mut self, consumer: ConsumerId, run: SettleRun, now: Time) {
        self.advance(now);
        let Some(known) = self.consumers.get_mut(consumer.0) else { return };
        known.settles += 1;
        self.settle_run(consumer, run);
    }

    /// Settles a run: for the application, or where nobody is there to take the deliveries.
    pub(super) fn settle_run(&mut self, id: ConsumerId, run: SettleRun) {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let closing = consumer.is_closing();
        let later = run.settlement == Settlement::RequeueLater;
        let settlement = if later && closing { Settlement::Requeue } else { run.settlement };
        #[cfg(feature = "sabotage")]
        let run = if crate::sabotage::is(crate::sabotage::Sabotage::AcksWithoutGeneration) {
            let latest = consumer.subscriptions.last().map_or(0, |latest| latest.generation);
            SettleRun { generation: latest, ..run }
        } else {
            run
        };
        let Some(subscription) = consumer.subscription_mut(run.generation) else {
            self.note_settles(id);
            return;
        };
        let count = subscription.acks.settle(run.first, run.last, settlement);
        if later {
            consumer.stats.forgotten += count;
            consumer.forgotten_since_event += count;
            if count > 0 && !closing {
                let at = now + consumer.next_requeue_delay();
                consumer.delay(at, run.generation, run.first, run.last);
                if let Some(&(first, ..)) = consumer.delayed.front() {
                    self.timers.arm(Timer::Requeue(id), first);
                }
                if self.timers.get(Timer::Forgotten(id)).is_none() {
                    self.warn_again(id);
                }
                self.note_settles(id);
                return;
            }
        } else if count > 0 {
            consumer.reset_requeue_delay();
        }
        self.note_settles(id);
    }

    /// The consumer has settlements to encode, or a call of `settle` to confirm.
    pub(super) fn note_settles(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if consumer.is_settled() {
            // Nothing of it has to be written (any more). What is put off was not settled by anybody.
            let settles = consumer.settles;
            self.settlements_written(id, acks::Settled::default(), settles);
            return;
        }
        if consumer.dirty {
            return;
        }
        consumer.dirty = true;
        let c = self.consuming();
        if let Some(settling) = self.settling.get_mut(c) {
            settling.push_back(id);
        }
    }

    /// Warns of forgotten deliveries, if there are some since the last warning: now, and a minute
    /// later at the earliest.
    pub(super) fn warn_again(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let count = std::mem::take(&mut consumer.forgotten_since_event);
        if count > 0 {
            let queue = consumer.config.queue.clone();
            self.event(Event::DeliveriesForgotten { queue, count });
            self.timers.arm(Timer::Forgotten(id), self.now + FORGOTTEN_EVERY);
        }
    }

    pub(super) fn requeue_due(&mut self, id: ConsumerId) {
        let now = self.now;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        while let Some(&(at, generation, first, last)) = consumer.delayed.front() {
            if at > now {
                self.timers.arm(Timer::Requeue(id), at);
                break;
            }
            consumer.delayed.pop_front();
            if let Some(subscription) = consumer.subscription_mut(generation) {
                subscription.acks.requeue_delayed(first, last);
            }
        }
        self.note_settles(id);
    }

    /// Encodes settlements of this connection's consumers, in as few frames as is safe, while there
    /// is room for output.
    pub(super) fn encode_settlements(&mut self, c: usize) {
        for _ in 0..self.settling.get(c).map_or(0, VecDeque::len) {
            let (Some(settling), Some(connection)) =
                (self.settling.get_mut(c), self.connections.get_mut(c))
            else {
                return;
            };
            if !Self::has_output_room(connection) {
                return;
            }
            let Some(id) = settling.pop_front() else { return };
            let Some(consumer) = self.consumers.get_mut(id.0) else { continue };
            let mut more = false;
            let mut records = Vec::new();
            for subscription in &mut consumer.subscriptions {
                let (channel, acks) = (subscription.channel, &mut subscription.acks);
                // Frame by frame: a loss in the middle abandons only what was not written.
                let limit = connection.transmit.enqueued() + OUTPUT_LIMIT as u64;
                while acks.has_pending() && connection.transmit.enqueued() < limit {
                    let mut settled = acks::Settled::default();
                    connection.transmit.append(|out| settled = acks.encode(out, channel, 1));
                    if settled.total() == 0 {
                        break;
                    }
                    let end = connection.transmit.enqueued();
                    records.push((end, subscription.generation, settled));
                }
                more |= acks.has_pending();
            }
            consumer.dirty = more;
            if more {
                settling.push_back(id);
            }
            consumer.encoded += records.iter().map(|(.., settled)| settled.total()).sum::<u64>();
            // The last record covers every call so far, unless something is left to encode.
            let settles = if more { consumer.settles_written } else { consumer.settles };
            let end = connection.transmit.enqueued();
            let flushed = connection.transmit.flushed() == end;
            if let Some(appended) = self.appended.get_mut(c)
                && !flushed
            {
                let done = consumer.settles_written;
                let last = records.pop().unwrap_or((end, 0, acks::Settled::default()));
                let records = records.into_iter().map(|record| (record, done));
                for ((end, generation, settled), settles) in records.chain([(last, settles)]) {
                    let what = What::Settlements { consumer: id, generation, settled, settles };
                    appended.push_back(Appended { end, what });
                }
            } else {
                // Nothing had to be encoded after all.
                self.settlements_written(id, acks::Settled::default(), settles);
            }
        }
    }

    pub(super) fn settlements_written(
        &mut self,
        id: ConsumerId,
        settled: acks::Settled,
        settles: u64,
    ) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.stats.acked += settled.acked;
        consumer.stats.requeued += settled.requeued;
        consumer.stats.rejected += settled.rejected;
        consumer.encoded -= settled.total().min(consumer.encoded);
        // With nothing left to write, calls that came since are covered, too: they were of no effect.
        let settles = if consumer.is_settled() { consumer.settles } else { settles };
        if settles > consumer.settles_written {
            consumer.settles_written = settles;
            self.events.push_back(SessionEvent::SettlesWritten { consumer: id, settles });
        }
        self.check_consumer(id);
    }

    /// Settlements that were encoded and never reached the peer: it delivers those messages again.
    pub(super) fn settlements_lost(&mut self, id: ConsumerId, settled: acks::Settled) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.stats.abandoned += settled.total();
        consumer.encoded -= settled.total().min(consumer.encoded);
        if let Some(report) = &mut self.closing {
            report.abandoned += settled.total();
        }
    }

    /// A no-ack consumer's queue is full: its connection is not read any more.
    pub(super) fn pause_reading(&mut self, id: ConsumerId, generation: u64) {
        if let Some(consumer) = self.consumers.get_mut(id.0)
            && let Some(subscription) = consumer.subscription(generation)
            && let Some(connection) = self.connections.get_mut(subscription.connection)
        {
            consumer.full = Some(subscription.connection);
            connection.full_queues += 1;
        }
    }

    /// It has room again, or nobody waits for that any more.
    pub(super) fn resume_reading(&mut self, id: ConsumerId) {
        let Some(c) = self.consumers.get_mut(id.0).and_then(|consumer| consumer.full.take()) else {
            return;
        };
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.full_queues = connection.full_queues.saturating_sub(1);
        if connection.full_queues > 0 {
            return;
        }
        // What the peer said meanwhile is read from now on (s35).
        connection.last_received = now;
        self.restart_deadlines(c);
    }

    /// The application took batches of so much [`Batch::weight`](crate::consume::Batch::weight) out of a no-ack consumer's queue.
    pub fn handle_consumed(&mut self, consumer: ConsumerId, weight: u64, now: Time) {
        self.advance(now);
        let id = consumer;
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        consumer.queue_bytes = consumer.queue_bytes.saturating_sub(weight);
        if consumer.queue_bytes <= consumer.config.queue_bytes as u64 / 2 {
            self.resume_reading(id);
        }
    }
}
