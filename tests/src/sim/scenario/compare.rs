//! What must come out the same however long things take.

use std::fmt;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};

use super::{EndingPlan, Fault, ProducerPlan, PublishOp, Scenario, Target};

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
        self.ending == EndingPlan::Calm
            && is_patient(plan)
            && self.faults.iter().all(|(_, fault)| !self.decides(*fault, plan))
            && self.queue_is_open(plan)
            && plan.tasks.get(place.task).is_some_and(|ops| {
                let mut offers = ops.iter().filter(|op| offers(op));
                matches!(
                    offers.nth(place.offer),
                    Some(PublishOp::Publish { .. } | PublishOp::Invalid)
                )
            })
    }

    /// Whether a fault can decide what becomes of a message of this producer.
    fn decides(&self, fault: Fault, plan: &ProducerPlan) -> bool {
        let confirm = plan.mode == PublishMode::Confirm;
        match fault {
            Fault::Nack(_) => confirm,
            Fault::DeleteQueue(queue) => confirm && plan.target == Target::Queue(queue),
            // The search for the offender ends with one that is blamed.
            Fault::CloseChannels { blames, .. } => confirm && blames,
            Fault::Cut { .. }
            | Fault::CutNext(_)
            | Fault::End { .. }
            | Fault::Silence { .. }
            | Fault::Refuse(_)
            | Fault::HangDial
            | Fault::Restart { .. }
            | Fault::Block(_)
            | Fault::CloseConnections
            | Fault::HoldConfirms(_)
            | Fault::ReorderConfirms
            | Fault::StopFlow(_)
            | Fault::Stall(_) => false,
        }
    }

    fn queue_is_open(&self, plan: &ProducerPlan) -> bool {
        match plan.target {
            Target::Queue(queue) => {
                plan.mode != PublishMode::Confirm
                    || self.queues.get(queue).is_some_and(|queue| queue.rejects_over.is_none())
            }
            Target::Nowhere | Target::MissingExchange => true,
        }
    }
}

/// Whether its messages wait as long as it takes.
fn is_patient(plan: &ProducerPlan) -> bool {
    plan.policy == BufferPolicy::Block
        && plan.when_offline == WhenOffline::Buffer
        && plan.publish_timeout.is_none()
        && plan.ttl.is_none()
        && plan.confirm_timeout.is_none()
        && !plan.abandons()
}

/// Whether it offers a message.
const fn offers(op: &PublishOp) -> bool {
    match op {
        PublishOp::Publish { .. }
        | PublishOp::Abandon { .. }
        | PublishOp::Try { .. }
        | PublishOp::Invalid => true,
        PublishOp::Flush(_) | PublishOp::Pause(_) => false,
    }
}
