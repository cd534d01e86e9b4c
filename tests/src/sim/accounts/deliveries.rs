//! Deliveries: nothing left behind. (Nothing out of thin air, nothing twice, and no settlement but the
//! application's: checked as it happens, against what the broker sent and received.)

use lavinmq_core::config::PublishMode;

use super::{Accounts, StoredCopy};
use crate::sim::scenario::Scenario;

impl Accounts {
    /// Messages that were confirmed, or sent, into this queue and never reached a consumer.
    /// For worlds that ended calmly with every consumer draining its queue.
    pub fn check_drained(&mut self, scenario: &Scenario) {
        let mut wrong = Vec::new();
        let lossy = |copy: &StoredCopy, producer: usize| {
            let queue = scenario.queues.iter().position(|plan| *plan.name == *copy.queue);
            // What a restart, a deletion or a no-ack consumer loses is lost by agreement.
            queue.is_none_or(|queue| {
                scenario.may_be_missing(Some(&copy.queue))
                    || scenario.consumers.iter().any(|c| c.queue == queue && c.no_ack)
                    || (scenario.restarts()
                        && scenario.producers[producer].mode == PublishMode::FireAndForget)
            })
        };
        for (id, copies) in &self.stored {
            let lost = copies.iter().any(|copy| lossy(copy, id.producer));
            if !lost && !self.handed.contains_key(id) {
                wrong.push(format!("{id}: stored {copies:?}, and never handed to a consumer"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }
}
