//! Makes a failing world small: fewer faults, fewer operations, a calmer network, as long as it fails.

use std::time::Duration;

use super::{
    pipe::Conditions,
    scenario::{Habits, Scenario, Style},
    world,
};

/// The smallest failing scenario found, and how many worlds that took. The scenario itself must fail
/// with this tick.
#[must_use]
pub fn shrink(scenario: &Scenario, tick: Option<Duration>, most: usize) -> (Scenario, usize) {
    let fails = |candidate: &Scenario| !world::run(candidate, tick, false).violations.is_empty();
    let mut best = scenario.clone();
    let mut runs = 0;
    loop {
        let mut smaller = None;
        for candidate in candidates(&best) {
            if runs >= most {
                return (best, runs);
            }
            runs += 1;
            if fails(&candidate) {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => best = candidate,
            None => return (best, runs),
        }
    }
}

/// Smaller scenarios, the boldest first.
fn candidates(of: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Scenario)| {
        let mut candidate = of.clone();
        change(&mut candidate);
        all.push(candidate);
    };
    for (index, plan) in of.producers.iter().enumerate() {
        if plan.tasks.iter().any(|ops| !ops.is_empty()) {
            add(&|s| s.producers[index].tasks.iter_mut().for_each(Vec::clear));
        }
    }
    let faults = of.faults.len();
    if faults > 1 {
        add(&|s| s.faults.truncate(faults / 2));
        add(&|s| drop(s.faults.drain(..faults / 2)));
    }
    for (index, plan) in of.producers.iter().enumerate() {
        for (task, ops) in plan.tasks.iter().enumerate() {
            let half = ops.len() / 2;
            if half > 0 {
                add(&|s| s.producers[index].tasks[task].truncate(half));
                add(&|s| drop(s.producers[index].tasks[task].drain(..half)));
            }
        }
    }
    for index in 0..faults {
        add(&|s| {
            s.faults.remove(index);
        });
    }
    if of.consumers.len() > of.queues.len() {
        add(&|s| {
            s.consumers.pop();
        });
    }
    for (index, plan) in of.consumers.iter().enumerate() {
        if plan.habits != Habits::default() {
            add(&|s| s.consumers[index].habits = Habits::default());
        }
        if plan.style != Style::Next {
            add(&|s| s.consumers[index].style = Style::Next);
        }
        if !plan.reopens_at.is_empty() {
            add(&|s| s.consumers[index].reopens_at.clear());
        }
    }
    if of.conditions.spurious > 0 {
        add(&|s| s.conditions.spurious = 0);
    }
    if of.conditions.chunk < 1 << 16 {
        add(&|s| s.conditions = Conditions { buffers: s.conditions.buffers, ..Conditions::calm() });
    }
    if of.conditions.buffers {
        add(&|s| s.conditions.buffers = false);
    }
    for (index, plan) in of.producers.iter().enumerate() {
        for (task, ops) in plan.tasks.iter().enumerate() {
            let step = (ops.len() / 8).max(1);
            if ops.len() <= 64 {
                for at in (0..ops.len()).step_by(step) {
                    let end = (at + step).min(ops.len());
                    add(&|s| drop(s.producers[index].tasks[task].drain(at..end)));
                }
            }
        }
    }
    all
}
