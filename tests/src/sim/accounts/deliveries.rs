//! Deliveries: nothing out of thin air, nothing again without a reason, nothing left behind.

use std::time::Duration;

use lavinmq_core::{config::PublishMode, time::Time};

use super::{Accounts, Treatment};
use crate::sim::scenario::{Scenario, Target};

/// How long a delivery can be under way to the application.
const UNDER_WAY: Duration = Duration::from_secs(5);

impl Accounts {
    /// Nothing was delivered out of thin air, and nothing again without a reason.
    pub(super) fn check_deliveries(&mut self, scenario: &Scenario) {
        let mut wrong = Vec::new();
        for (id, handed) in &self.handed {
            let copies = self.stored.get(id).map_or(0, Vec::len);
            let first = handed.iter().filter(|handed| !handed.redelivered).count();
            if first > copies && !scenario.restarts() {
                wrong.push(format!("{id}: delivered {first} times as new, stored {copies} times"));
            }
            if copies != 1 {
                continue;
            }
            for pair in handed.windows(2) {
                let (before, after) = (&pair[0], &pair[1]);
                let may_return =
                    !matches!(before.treatment, Some(Treatment::Ack | Treatment::Reject));
                // It may have been under way when its channel ended at the broker.
                let from = before.at - Time::ZERO;
                let from = Time::ZERO + from.saturating_sub(UNDER_WAY);
                let lost = self.losses.iter().any(|at| *at >= from && *at <= after.at);
                if !may_return && !lost {
                    wrong.push(format!(
                        "{id}: {:?} at {}, delivered again at {} without a loss (consumers {} and {})",
                        before.treatment, before.at, after.at, before.consumer, after.consumer
                    ));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// Messages that were confirmed, or sent, into this queue and never reached a consumer.
    /// For worlds that ended calmly with every consumer draining its queue.
    pub fn check_drained(&mut self, scenario: &Scenario) {
        let mut wrong = Vec::new();
        for (id, copies) in &self.stored {
            let Target::Queue(queue) = scenario.producers[id.producer].target else { continue };
            // What a restart, a deletion or a no-ack consumer loses is lost by agreement.
            let lossy = scenario.deletes(queue)
                || scenario.consumers.iter().any(|c| c.queue == queue && c.no_ack)
                || (scenario.restarts()
                    && scenario.producers[id.producer].mode == PublishMode::FireAndForget);
            if !lossy && !self.handed.contains_key(id) {
                wrong.push(format!("{id}: stored {copies:?}, and never handed to a consumer"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }
}
