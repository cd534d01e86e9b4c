//! What must come out the same however long things take.

use std::fmt;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};

use super::{EndingPlan, Fault, ProducerPlan, PublishOp, ReceiptPlan, Scenario, Target};

/// A message by its place in the plan, which does not depend on who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The producer.
    pub producer: usize,
    /// Its task.
    pub task: usize,
    /// The place among the messages that this task offers, from 0.
    pub offer: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, task, offer } = self;
        write!(f, "offer {offer} of producer {producer}, task {task}")
    }
}

impl Scenario {
    /// Whether this message ends the same way in every run of the scenario.
    ///
    /// Two runs with different deadlines are two different weathers: a cut strikes another byte, and
    /// what was written then or was not is another message. So what is the same is what the plan
    /// alone decides: the message waits for room (`Block`, buffered while offline, no timeout), does
    /// not expire, and nobody drops its future or merely tries; everything heals, and nothing that
    /// may hit one message or another decides its outcome (nacks, a full or deleted queue, a channel
    /// that is closed on a publish's account). In confirm mode that outcome is the broker's verdict.
    /// In fire-and-forget it is `sent`, and says only that: whether a copy reached its queue depends
    /// on the weather, and is promised to nobody.
    #[must_use]
    pub fn is_comparable(&self, place: &Place) -> bool {
        let Some(plan) = self.producers.get(place.producer) else { return false };
        let Some(ops) = plan.tasks.get(place.task) else { return false };
        let Some(op) = ops.iter().filter(|op| offers(op)).nth(place.offer) else { return false };
        let calm = self.ending == EndingPlan::Calm;
        let target = match (op, &plan.target) {
            (PublishOp::PublishTo { queue, .. }, _)
            | (PublishOp::Publish { .. }, Target::Queue(queue)) => Some(*queue),
            (PublishOp::Publish { .. }, Target::Nowhere | Target::MissingExchange) => None,
            // Nobody else has a say.
            (PublishOp::Invalid, _) => return calm && plan.closes.is_none(),
            _ => return false,
        };
        let confirm = plan.mode == PublishMode::Confirm;
        let queue = target.and_then(|queue| self.queues.get(queue));
        let transient = queue.is_some_and(|queue| queue.transient);
        let decides = |fault| confirm && may_decide(fault, target, transient);
        calm && is_patient(plan)
            && !(confirm && queue.is_some_and(|queue| queue.rejects_over.is_some()))
            && !self.faults.iter().any(|(_, fault)| decides(*fault))
    }

    /// The same without all that makes an outcome depend on who comes first.
    #[must_use]
    pub fn made_comparable(mut self) -> Self {
        self.ending = EndingPlan::Calm;
        for queue in &mut self.queues {
            queue.rejects_over = None;
            queue.transient = false;
        }
        for plan in &mut self.producers {
            plan.policy = BufferPolicy::Block;
            plan.when_offline = WhenOffline::Buffer;
            plan.publish_timeout = None;
            plan.ttl = None;
            plan.confirm_timeout = None;
            plan.closes = None;
            plan.tasks.truncate(1);
            for op in plan.tasks.iter_mut().flatten() {
                if let PublishOp::Abandon { bytes, .. } | PublishOp::Try { bytes } = *op {
                    *op = PublishOp::Publish { bytes, receipt: ReceiptPlan::AwaitLater };
                }
            }
        }
        self.faults.retain(|(_, fault)| {
            !matches!(
                fault,
                Fault::Nack(_) | Fault::DeleteQueue(_) | Fault::CloseChannels { blames: true, .. }
            )
        });
        self
    }
}

/// Whether a fault may decide what becomes of a confirmed message to this queue.
fn may_decide(fault: Fault, target: Option<usize>, transient: bool) -> bool {
    match fault {
        Fault::Nack(_) => true,
        Fault::DeleteQueue(queue) => target == Some(queue),
        Fault::Restart { .. } => transient,
        // The search for the offender ends with one that is blamed.
        Fault::CloseChannels { blames, .. } => blames,
        Fault::CloseConnections(code) => code != 320,
        Fault::Cut { .. }
        | Fault::CutNext(_)
        | Fault::End { .. }
        | Fault::Silence { .. }
        | Fault::Refuse(_)
        | Fault::HangDial
        | Fault::Block(_)
        | Fault::HoldConfirms(_)
        | Fault::RepeatConfirms
        | Fault::ReorderConfirms
        | Fault::StopFlow(_)
        | Fault::Stall(_) => false,
    }
}

/// Whether its messages wait as long as it takes.
fn is_patient(plan: &ProducerPlan) -> bool {
    plan.policy == BufferPolicy::Block
        && plan.when_offline == WhenOffline::Buffer
        && plan.publish_timeout.is_none()
        && plan.ttl.is_none()
        && plan.confirm_timeout.is_none()
        && plan.closes.is_none()
}

/// Whether it offers a message.
const fn offers(op: &PublishOp) -> bool {
    match op {
        PublishOp::Publish { .. }
        | PublishOp::PublishTo { .. }
        | PublishOp::Abandon { .. }
        | PublishOp::Try { .. }
        | PublishOp::Invalid => true,
        PublishOp::Flush(_) | PublishOp::Pause(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(s: &Scenario) -> Vec<Place> {
        let mut places = Vec::new();
        for (producer, plan) in s.producers.iter().enumerate() {
            for (task, ops) in plan.tasks.iter().enumerate() {
                let count = ops.iter().filter(|op| offers(op)).count();
                places.extend((0..count).map(|offer| Place { producer, task, offer }));
            }
        }
        places
    }

    #[test]
    fn some_messages_are_comparable_and_in_a_scenario_made_so_all_but_the_odd_one() {
        let scenarios: Vec<_> = (0..60).map(Scenario::draw).collect();
        let count = |s: &Scenario| places(s).iter().filter(|place| s.is_comparable(place)).count();
        assert!(scenarios.iter().any(|s| count(s) == 0));
        assert!(scenarios.iter().any(|s| count(s) > 0 && count(s) < places(s).len()));
        for scenario in scenarios {
            let made = scenario.made_comparable();
            let odd =
                |(_, fault): &(_, Fault)| matches!(fault, Fault::CloseConnections(n) if *n != 320);
            if !made.faults.iter().any(odd) {
                assert_eq!(count(&made), places(&made).len(), "{made}");
            }
        }
    }
}
