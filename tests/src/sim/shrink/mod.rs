//! Makes a failing world small, as long as it fails in the same way: fewer producers, consumers,
//! queues, faults and operations, and every knob at its plainest.

mod knobs;

use std::ops::Range;

use super::scenario::{Fault, PublishOp, Scenario, Target};

/// The smallest failing scenario found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The scenario.
    pub scenario: Scenario,
    /// What is wrong in it.
    pub violations: Vec<String>,
    /// How many worlds that took.
    pub runs: usize,
}

/// Shrinks a scenario in which `judge` finds something wrong, in at most so many worlds; none if it does
/// not.
#[must_use]
pub fn shrink(
    scenario: &Scenario,
    most: usize,
    judge: impl Fn(&Scenario) -> Vec<String>,
) -> Option<Shrunk> {
    let violations = judge(scenario);
    let kind = kind(violations.first()?);
    let mut search =
        Search { best: scenario.clone(), violations, kind, judge: &judge, runs: 1, most };
    loop {
        let before = search.best.to_string();
        search.round();
        if search.best.to_string() == before || search.runs >= most {
            let Search { best, violations, runs, .. } = search;
            return Some(Shrunk { scenario: best, violations, runs });
        }
    }
}

/// What sort of violation it is: its words without its numbers. A world that fails in another way is
/// not a smaller one of the same.
fn kind(violation: &str) -> String {
    for word in ["hang", "somebody spins"] {
        if violation.starts_with(word) {
            return word.to_owned();
        }
    }
    let line = violation.lines().next().unwrap_or_default();
    let mut kind = String::new();
    for c in line.chars().take(160) {
        match c {
            '0'..='9' if kind.ends_with('#') => {}
            '0'..='9' => kind.push('#'),
            // What follows is the stats in full, or a list.
            '{' | '[' => break,
            _ => kind.push(c),
        }
    }
    kind
}

struct Search<'a> {
    best: Scenario,
    violations: Vec<String>,
    kind: String,
    judge: &'a dyn Fn(&Scenario) -> Vec<String>,
    runs: usize,
    most: usize,
}

impl Search<'_> {
    /// Keeps the change if the world still fails, and in the same way.
    fn keep(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        if self.runs >= self.most || candidate.to_string() == self.best.to_string() {
            return false;
        }
        self.runs += 1;
        let violations = (self.judge)(&candidate);
        let same = violations.first().is_some_and(|violation| kind(violation) == self.kind);
        if same {
            self.best = candidate;
            self.violations = violations;
        }
        same
    }

    /// The boldest changes first: what is gone needs no further thought.
    fn round(&mut self) {
        for index in (0..self.best.producers.len()).rev() {
            self.keep(|s| drop(s.producers.remove(index)));
        }
        for index in (0..self.best.producers.len()).rev() {
            for task in (0..self.best.producers[index].tasks.len()).rev() {
                self.keep(|s| drop(s.producers[index].tasks.remove(task)));
            }
        }
        self.thin(|s| s.faults.len(), |s, range| drop(s.faults.drain(range)));
        self.thin(|s| s.declares.len(), |s, range| drop(s.declares.drain(range)));
        self.consumers();
        self.queues();
        self.hurry();
        for index in 0..self.best.producers.len() {
            for task in 0..self.best.producers[index].tasks.len() {
                self.operations(index, task);
            }
        }
        for knob in knobs::all(&self.best) {
            self.keep(knob);
        }
    }

    /// Fewer operations, and simpler ones.
    fn operations(&mut self, index: usize, task: usize) {
        let len = |s: &Scenario| s.producers[index].tasks[task].len();
        self.thin(len, |s, part| drop(s.producers[index].tasks[task].drain(part)));
        // Time must pass before the fault that matters, whatever else happens meanwhile.
        self.thin(len, |s, part| {
            let ops = &mut s.producers[index].tasks[task];
            let pause = ops[part.clone()].iter().map(knobs::pause).sum();
            if part.len() > 1 {
                ops.splice(part, [PublishOp::Pause(pause)]);
            }
        });
        for simplify in knobs::SIMPLER {
            let mut chunk = len(&self.best);
            while chunk > 0 {
                for at in (0..len(&self.best)).step_by(chunk) {
                    self.keep(|s| {
                        let ops = s.producers[index].tasks[task].iter_mut();
                        ops.skip(at).take(chunk).for_each(simplify);
                    });
                }
                chunk /= 2;
            }
        }
    }

    /// Everything happens sooner.
    fn hurry(&mut self) {
        while self.keep(knobs::halve_times) {}
        for index in 0..self.best.faults.len() {
            while self.keep(|s| {
                s.faults[index].0 /= 2;
                s.faults.sort_by_key(|(at, _)| *at);
            }) {}
        }
    }

    /// Removes parts of a list: all of it, halves, quarters, down to single entries.
    fn thin(
        &mut self,
        len: impl Fn(&Scenario) -> usize,
        cut: impl Fn(&mut Scenario, Range<usize>),
    ) {
        let mut chunk = len(&self.best);
        while chunk > 0 {
            let mut at = 0;
            while at < len(&self.best) {
                let end = (at + chunk).min(len(&self.best));
                let before = len(&self.best);
                if !self.keep(|s| cut(s, at..end)) || len(&self.best) == before {
                    at = end;
                }
            }
            chunk /= 2;
        }
    }

    /// Every queue keeps one: without it, a world that ends calmly is never drained.
    fn consumers(&mut self) {
        for index in (0..self.best.consumers.len()).rev() {
            let queue = self.best.consumers[index].queue;
            if self.best.consumers.iter().filter(|plan| plan.queue == queue).count() > 1 {
                self.keep(|s| drop(s.consumers.remove(index)));
            }
        }
    }

    /// A queue goes with its consumers, if nobody publishes to it.
    fn queues(&mut self) {
        for queue in (0..self.best.queues.len()).rev() {
            let publishes =
                |op: &PublishOp| matches!(op, PublishOp::PublishTo { queue: q, .. } if *q == queue);
            let wanted = self.best.producers.iter().any(|plan| {
                plan.target == Target::Queue(queue) || plan.tasks.iter().flatten().any(publishes)
            });
            if !wanted && self.best.queues.len() > 1 {
                self.keep(|s| remove_queue(s, queue));
            }
        }
    }
}

fn remove_queue(s: &mut Scenario, queue: usize) {
    s.queues.remove(queue);
    s.consumers.retain(|plan| plan.queue != queue);
    s.faults.retain(|(_, fault)| *fault != Fault::DeleteQueue(queue));
    let down = |other: &mut usize| *other -= usize::from(*other > queue);
    s.consumers.iter_mut().for_each(|plan| down(&mut plan.queue));
    for plan in &mut s.producers {
        if let Target::Queue(other) = &mut plan.target {
            down(other);
        }
        for op in plan.tasks.iter_mut().flatten() {
            if let PublishOp::PublishTo { queue: other, .. } = op {
                down(other);
            }
        }
    }
    for (_, fault) in &mut s.faults {
        if let Fault::DeleteQueue(other) = fault {
            down(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_of_one_sort_differ_in_numbers_only() {
        let one = kind("p0.12: confirmed, but the broker never stored it");
        assert_eq!(one, kind("p3.7: confirmed, but the broker never stored it"));
        assert_ne!(one, kind("p3.7: two outcomes, Confirmed and Nacked"));
        assert_eq!(kind("hang at 3 s: waiting: a"), kind("hang at 4 s: waiting: b"));
    }

    #[test]
    fn what_fails_without_a_reason_shrinks_to_nothing() {
        let scenario = Scenario::draw(3);
        let shrunk = shrink(&scenario, 10_000, |_| vec!["always".into()]);
        let small = shrunk.map(|shrunk| shrunk.scenario);
        let size = |s: &Scenario| (s.producers.len(), s.faults.len(), s.queues.len());
        assert_eq!(small.as_ref().map(size), Some((0, 0, 1)));
        assert!(shrink(&scenario, 10, |_| Vec::new()).is_none());
    }

    /// It fails if two invalid messages are offered and one fault is there: that is what is left.
    #[test]
    fn what_makes_it_fail_stays() {
        let invalid = |s: &Scenario| {
            let ops = s.producers.iter().flat_map(|p| &p.tasks).flatten();
            ops.filter(|op| **op == PublishOp::Invalid).count()
        };
        let judge = |s: &Scenario| {
            let fails = invalid(s) >= 2 && !s.faults.is_empty();
            fails.then(|| "p1: wrong".to_owned()).into_iter().collect()
        };
        let scenario = (0..50).map(Scenario::draw).find(|s| invalid(s) > 4 && s.faults.len() > 4);
        let small = scenario.and_then(|s| shrink(&s, 10_000, judge)).map(|s| s.scenario);
        assert_eq!(small.map(|s| (s.operations(), s.faults.len(), invalid(&s))), Some((2, 1, 2)));
    }
}
