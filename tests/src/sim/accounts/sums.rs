//! Sums: what the world counted, what was heard, and what the client says.

use lavinmq_core::stats::{ProducerStats, Stats};

use super::{Accounts, Settlement, Treatment};
use crate::sim::scenario::Scenario;

impl Accounts {
    /// The client's own sums are those of its parts.
    pub(super) fn check_sum(
        &mut self,
        scenario: &Scenario,
        producers: &[ProducerStats],
        sum: &Stats,
    ) {
        let mut total = ProducerStats::default();
        producers.iter().for_each(|stats| total.add(stats));
        if total != sum.publish {
            let publish = sum.publish;
            self.violation(format!("the sum is {publish:?}, the producers' is {total:?}"));
        }
        let panics = self.hook_panics;
        if sum.hook_panics != panics {
            self.violation(format!("{panics} hooks panicked, counted {}", sum.hook_panics));
        }
        let consume = sum.consume;
        for (what, most, counted) in [
            ("received", self.reads, consume.received),
            ("rejected", self.treated_so(Treatment::Reject), consume.rejected),
            ("forgotten", self.treated_so(Treatment::Forget) + self.untreated(), consume.forgotten),
            ("queued after close", 0, consume.queued),
            ("in hand after close", 0, consume.in_hand),
            ("settling after close", 0, consume.settling),
        ] {
            if counted > most {
                self.violation(format!("{counted} deliveries {what}, at most {most} can be"));
            }
        }
        // Acked is what was written; where the transport buffers, what was flushed.
        let written = self.wire_settled[Settlement::Ack as usize];
        // Without acks, a delivery counts once it is read, whether or not it was handed over before its
        // consumer was dropped.
        let least = self.treated_so(Treatment::NoAck);
        let most = written + self.reads_without_ack;
        let least = if scenario.conditions.buffers { least } else { written + least };
        if !(least..=most).contains(&consume.acked) {
            let acked = consume.acked;
            self.violation(format!("{acked} deliveries acked, it must be from {least} to {most}"));
        }
    }

    /// What the world counted on the way in is what the client counted.
    pub(super) fn check_counts(&mut self, index: usize, stats: &ProducerStats) {
        let counts = self.counts(index);
        for (what, ours, theirs) in [
            ("offered", counts.offered, stats.offered),
            ("accepted", counts.accepted, stats.accepted),
            ("waiting", counts.waiting, stats.waiting),
            ("refused_full", counts.refused_full, stats.refused_full),
            ("refused_closed", counts.refused_closed, stats.refused_closed),
            ("refused_offline", counts.refused_offline, stats.refused_offline),
            ("refused_invalid", counts.refused_invalid, stats.refused_invalid),
            ("timed_out", counts.timed_out, stats.timed_out),
            ("cancelled", counts.cancelled, stats.cancelled),
            ("waiting after close", 0, stats.waiting),
            ("queued after close", 0, stats.queued),
            ("in flight after close", 0, stats.in_flight),
            ("queued bytes after close", 0, stats.queued_bytes),
        ] {
            if ours != theirs {
                self.violation(format!("producer {index}: {what} is {theirs}, should be {ours}"));
            }
        }
        if !stats.is_conserved() {
            self.violation(format!("producer {index}: not conserved at the end: {stats:?}"));
        }
    }
}
