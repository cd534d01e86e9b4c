//! Deliveries: nothing left behind. (Nothing out of thin air, nothing twice, and no settlement but the
//! application's: checked as it happens, against what the broker sent and received.)

use lavinmq_core::config::PublishMode;

use super::Accounts;
use crate::sim::scenario::{Scenario, Target};

impl Accounts {
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
