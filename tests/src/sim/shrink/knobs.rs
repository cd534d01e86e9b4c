//! The knobs of a scenario, each turned to its plainest.

use std::time::Duration;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};

use crate::sim::{
    pipe::Conditions,
    scenario::{EndingPlan, Habits, PublishOp, ReceiptPlan, Scenario, Style},
};

type Knob = Box<dyn FnOnce(&mut Scenario)>;

/// All of them. One that changes nothing costs nothing.
pub(super) fn all(of: &Scenario) -> Vec<Knob> {
    let mut knobs: Vec<Knob> = Vec::new();
    let mut add = |knob: Knob| knobs.push(knob);
    add(Box::new(|s| s.conditions = Conditions::calm()));
    add(Box::new(|s| {
        s.conditions = Conditions { buffers: s.conditions.buffers, ..Conditions::calm() };
    }));
    add(Box::new(|s| s.conditions.spurious = 0));
    add(Box::new(|s| s.conditions.buffers = false));
    add(Box::new(|s| s.conditions.chunk = 1 << 16));
    add(Box::new(|s| s.conditions.capacity = 1 << 18));
    add(Box::new(|s| s.conditions.latency = Duration::from_millis(1)));
    add(Box::new(|s| s.ending = EndingPlan::Calm));
    add(Box::new(|s| {
        let last = s.faults.last().map_or(Duration::ZERO, |(at, _)| *at);
        s.heals_at = s.heals_at.min(last + Duration::from_secs(1));
    }));
    add(Box::new(|s| s.client.heartbeat = Duration::ZERO));
    add(Box::new(|s| s.client.connections = 1));
    add(Box::new(|s| s.client.frame_max = 131_072));
    add(Box::new(|s| s.client.max_delay = Duration::from_millis(200)));
    add(Box::new(|s| s.client.message_ids = true));
    add(Box::new(|s| s.client.impatient = false));
    for index in 0..of.queues.len() {
        add(Box::new(move |s| s.queues[index].rejects_over = None));
        add(Box::new(move |s| s.queues[index].transient = false));
    }
    for index in 0..of.consumers.len() {
        add(Box::new(move |s| s.consumers[index].habits = Habits::default()));
        add(Box::new(move |s| s.consumers[index].reopens_at.clear()));
        add(Box::new(move |s| s.consumers[index].reopens_at.truncate(1)));
        add(Box::new(move |s| s.consumers[index].style = Style::Next));
        add(Box::new(move |s| s.consumers[index].drops = false));
        add(Box::new(move |s| s.consumers[index].no_ack = false));
        add(Box::new(move |s| s.consumers[index].prefetch = 100));
        add(Box::new(move |s| s.consumers[index].requeue_delay = Duration::ZERO));
    }
    for index in 0..of.producers.len() {
        producer(index, &mut add);
    }
    knobs
}

fn producer(index: usize, add: &mut impl FnMut(Knob)) {
    add(Box::new(move |s| s.producers[index].mode = PublishMode::FireAndForget));
    add(Box::new(move |s| s.producers[index].buffer_size = 1000));
    add(Box::new(move |s| s.producers[index].buffer_bytes = 64 << 20));
    add(Box::new(move |s| s.producers[index].max_in_flight = 1000));
    add(Box::new(move |s| s.producers[index].policy = BufferPolicy::Block));
    add(Box::new(move |s| s.producers[index].when_offline = WhenOffline::Buffer));
    add(Box::new(move |s| s.producers[index].publish_timeout = None));
    add(Box::new(move |s| s.producers[index].ttl = None));
    add(Box::new(move |s| s.producers[index].confirm_timeout = None));
    add(Box::new(move |s| s.producers[index].hears_confirms = true));
    add(Box::new(move |s| s.producers[index].mandatory = true));
    add(Box::new(move |s| s.producers[index].closes = None));
    add(Box::new(move |s| s.producers[index].hook_panics_every = 0));
}

/// What can be simpler about an operation.
pub(super) const SIMPLER: [fn(&mut PublishOp); 4] = [
    |op| {
        if let PublishOp::Publish { bytes, .. }
        | PublishOp::PublishTo { bytes, .. }
        | PublishOp::Abandon { bytes, .. }
        | PublishOp::Try { bytes } = op
        {
            *bytes = 20;
        }
    },
    |op| {
        if let PublishOp::Publish { receipt, .. } | PublishOp::PublishTo { receipt, .. } = op {
            *receipt = ReceiptPlan::Drop;
        }
    },
    |op| {
        if let PublishOp::Try { bytes }
        | PublishOp::Abandon { bytes, .. }
        | PublishOp::PublishTo { bytes, .. } = op
        {
            *op = PublishOp::Publish { bytes: *bytes, receipt: ReceiptPlan::Drop };
        }
    },
    |op| {
        if let PublishOp::Pause(pause) = op {
            *pause /= 2;
        }
    },
];

/// How long it pauses at most.
pub(super) const fn pause(op: &PublishOp) -> Duration {
    match op {
        PublishOp::Pause(pause) => *pause,
        _ => Duration::ZERO,
    }
}

/// Faults, pauses and the end come in half the time.
pub(super) fn halve_times(s: &mut Scenario) {
    s.heals_at /= 2;
    s.faults.iter_mut().for_each(|(at, _)| *at /= 2);
    for op in s.producers.iter_mut().flat_map(|plan| &mut plan.tasks).flatten() {
        if let PublishOp::Pause(pause) = op {
            *pause /= 2;
        }
    }
    s.consumers.iter_mut().flat_map(|plan| &mut plan.reopens_at).for_each(|at| *at /= 2);
    s.producers.iter_mut().filter_map(|plan| plan.closes.as_mut()).for_each(|(at, _)| *at /= 2);
    s.declares.iter_mut().for_each(|plan| plan.at /= 2);
}
