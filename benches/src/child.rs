//! One measured run of one contestant, in a process of its own: warm up, find out how many
//! messages fill the time, do that many, and print what they cost on one line.

use std::time::{Duration, Instant};

use crate::contestants::{self, Contestant, Entry, Job, Latencies};
use crate::modes::Task;
use crate::raw::{Raw, Target};
use crate::syscalls::Syscalls;
use crate::usage::{Cost, Counters, Usage, peak_memory};
use crate::{AllocationCount, Fallible};

/// A run warms up until one batch of messages took this long.
const WARM_UP: Duration = Duration::from_millis(40);

/// The first batch of the warm-up, and the least that is measured; each is four times the one
/// before. Of large bodies it is less.
const FIRST_BATCH: usize = 256;

/// The most messages of a run: what a real broker can be asked to hold.
const MOST: u64 = 20_000_000;

/// What one run is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) contestant: String,
    pub(crate) task: Task,
    pub(crate) target: Target,
    /// The peer is our sink: queues need no filling.
    pub(crate) sink: bool,
    /// About how long to measure.
    pub(crate) budget: Duration,
    /// Count system calls, which makes each of them dearer.
    pub(crate) syscalls: bool,
}

/// What it says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) messages: u64,
    /// CPU nanoseconds of the process a message.
    pub(crate) cpu: f64,
    /// Messages a second.
    pub(crate) rate: f64,
    /// Voluntary context switches a message.
    pub(crate) switches: f64,
    /// Allocations a message, where they are counted.
    pub(crate) allocations: Option<f64>,
    /// System calls a message, where they are counted.
    pub(crate) syscalls: Option<f64>,
    /// Bytes.
    pub(crate) memory: u64,
    /// Nanoseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) p999: Option<f64>,
}

/// Runs `plan` and prints the outcome.
pub(crate) fn run(plan: &Plan, allocations: Option<AllocationCount>) -> Fallible {
    let entry = contestants::named(&plan.contestant)?;
    // Before the contestant's threads begin.
    let syscalls = plan.syscalls.then(Syscalls::start).transpose()?;
    let mut counters = Counters { allocations, syscalls };
    let mut harness = Harness::new(plan, entry)?;
    let mut contestant = (entry.open)(&plan.target, &plan.task)?;

    let least = plan.task.bounded(FIRST_BATCH) as u64;
    let mut batch = least;
    let fitting = loop {
        let queue = harness.prepare(batch)?;
        let start = Instant::now();
        harness.run(contestant.as_mut(), batch, queue)?;
        let took = start.elapsed();
        if took >= WARM_UP {
            break batch as f64 * plan.budget.as_secs_f64() / took.as_secs_f64();
        }
        batch *= 4;
    };
    let messages = (fitting as u64).clamp(least, MOST);

    let queue = harness.prepare(messages)?;
    let start = Usage::now(&mut counters)?;
    let latencies = harness.run(contestant.as_mut(), messages, queue)?;
    let cost = start.elapsed(&mut counters)?;
    let outcome = outcome(messages, cost, latencies, peak_memory()?);
    harness.clean_up()?;
    println!("{}", outcome.line());
    // How a client ends is not measured, and some panic when they outlive their runtime.
    std::mem::forget(contestant);
    Ok(())
}

fn outcome(messages: u64, cost: Cost, latencies: Option<Latencies>, memory: u64) -> Outcome {
    let n = messages as f64;
    let at = |quantile| latencies.as_ref().map(|times| times.value_at_quantile(quantile) as f64);
    Outcome {
        messages,
        cpu: cost.cpu.as_nanos() as f64 / n,
        rate: n / cost.wall.as_secs_f64(),
        switches: cost.switches as f64 / n,
        allocations: cost.allocations.map(|count| count as f64 / n),
        syscalls: cost.syscalls.map(|count| count as f64 / n),
        memory,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    }
}

/// The broker's side of a run, over a connection of its own.
struct Harness<'a> {
    plan: &'a Plan,
    probe: Raw,
    /// The sink is to wait for a sign before it delivers.
    held: bool,
    /// Messages that the probe has published.
    sent: u64,
    jobs: u64,
    /// Queues that consumers were given.
    used: Vec<String>,
}

impl<'a> Harness<'a> {
    fn new(plan: &'a Plan, entry: &Entry) -> Fallible<Self> {
        let mut probe = Raw::open(&plan.target)?;
        probe.confirm_select()?;
        probe.declare(&plan.task.queue, false)?;
        probe.purge(&plan.task.queue)?;
        Ok(Self { plan, probe, held: entry.deaf, sent: 0, jobs: 0, used: Vec::new() })
    }

    /// A queue with `count` messages, if the mode consumes.
    fn prepare(&mut self, count: u64) -> Fallible<String> {
        let Plan { task, sink, .. } = self.plan;
        if !task.mode.consumes() {
            return Ok(task.queue.clone());
        }
        if *sink {
            let held = if self.held { "-held" } else { "" };
            return Ok(format!("deliver-{}-{count}{held}", task.size));
        }
        let queue = format!("{}-{}", task.queue, self.used.len());
        self.probe.declare(&queue, false)?;
        self.probe.purge(&queue)?;
        self.used.push(queue.clone());
        let Self { probe, sent, .. } = self;
        probe.publish_confirmed(&queue, &task.body(), task.bounded(1_000), sent, count)?;
        Ok(queue)
    }

    /// One job, and the time until its last byte has arrived.
    fn run(
        &mut self,
        contestant: &mut dyn Contestant,
        count: u64,
        queue: String,
    ) -> Fallible<Option<Latencies>> {
        let task = &self.plan.task;
        let unconfirmed = task.mode.is_unconfirmed();
        let base = if unconfirmed { self.probe.declare(&task.queue, true)? } else { 0 };
        self.jobs += 1;
        let tag = format!("bench-{}", self.jobs);
        let latencies = contestant.run(Job { count, queue, tag })?;
        if unconfirmed {
            self.probe.await_messages(&task.queue, base, count, |time| contestant.idle(time))?;
        }
        Ok(latencies)
    }

    fn clean_up(&mut self) -> Fallible {
        if !self.plan.sink {
            for queue in std::mem::take(&mut self.used) {
                self.probe.delete(&queue)?;
            }
            self.probe.purge(&self.plan.task.queue)?;
        }
        Ok(())
    }
}

impl Outcome {
    fn line(&self) -> String {
        let Self { messages, cpu, rate, switches, memory, .. } = self;
        let mut line = format!(
            "messages={messages} cpu={cpu} rate={rate} switches={switches} memory={memory}"
        );
        for (name, value) in [
            ("allocations", self.allocations),
            ("syscalls", self.syscalls),
            ("p50", self.p50),
            ("p99", self.p99),
            ("p999", self.p999),
        ] {
            if let Some(value) = value {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        line
    }
}

impl std::str::FromStr for Outcome {
    type Err = crate::Failure;

    fn from_str(line: &str) -> Fallible<Self> {
        let mut outcome = Self::default();
        for part in line.split_whitespace() {
            let (name, value) = part.split_once('=').ok_or("an outcome without names")?;
            let value: f64 = value.parse()?;
            match name {
                "messages" => outcome.messages = value as u64,
                "cpu" => outcome.cpu = value,
                "rate" => outcome.rate = value,
                "switches" => outcome.switches = value,
                "memory" => outcome.memory = value as u64,
                "allocations" => outcome.allocations = Some(value),
                "syscalls" => outcome.syscalls = Some(value),
                "p50" => outcome.p50 = Some(value),
                "p99" => outcome.p99 = Some(value),
                "p999" => outcome.p999 = Some(value),
                _ => return Err(format!("an outcome with {name}").into()),
            }
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_its_line() -> Fallible {
        let outcome = Outcome {
            messages: 3,
            cpu: 61.25,
            rate: 1e6,
            switches: 0.001,
            allocations: Some(2.0),
            syscalls: Some(0.5),
            memory: 4096,
            p50: None,
            p99: Some(17_000.0),
            p999: Some(18_000.0),
        };
        assert_eq!(outcome.line().parse::<Outcome>()?, outcome);
        Ok(())
    }
}
