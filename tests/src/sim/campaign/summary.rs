//! What is said of a campaign.

use std::{collections::BTreeMap, fmt};

use lavinmq_core::config::PublishMode;

use super::{Failure, SeedRun};
use crate::sim::states;

/// Seeds from which on every state of the must-happen list must have been reached.
const ENOUGH_SEEDS: u64 = 20_000;
/// How often.
const OFTEN: u64 = 10;

/// One seed in so many is run again by another process.
const CHECKED_AGAIN: u64 = 100;

/// What became of many worlds. The distributions are of the runs with exact deadlines.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run, each with exact deadlines and with ticks.
    pub seeds: u64,
    /// What went wrong.
    pub failures: Vec<Failure>,
    /// How often things happened: states begin with `state `, everything else is a fault.
    pub counters: BTreeMap<&'static str, u64>,
    /// Messages accepted.
    pub accepted: Vec<u64>,
    /// Connections opened again after a loss.
    pub reconnects: Vec<u64>,
    /// Connections cut.
    pub cuts: Vec<u64>,
    /// Producers in fire-and-forget mode.
    pub fire_and_forget: Vec<u64>,
    /// Producers in confirm mode.
    pub confirm: Vec<u64>,
    /// Seeds, one in a hundred, with the hashes of their runs.
    pub hashes: Vec<(u64, (u64, u64))>,
    /// Messages that had to end alike in both runs of their seed.
    pub compared: u64,
    /// Messages accepted in all runs.
    pub accepted_total: u64,
    /// Deliveries in all runs.
    pub deliveries: u64,
    /// Polls of tasks in all runs.
    pub polls: u64,
}

impl Summary {
    pub(super) fn add(&mut self, run: SeedRun, failures: Vec<Failure>) {
        if self.seeds.is_multiple_of(CHECKED_AGAIN) && failures.is_empty() {
            self.hashes.push((run.scenario.seed, run.hashes()));
        }
        self.seeds += 1;
        self.failures.extend(failures);
        self.compared += run.compared;
        self.accepted.push(run.exact.accepted);
        self.reconnects.push(run.exact.reconnects);
        self.cuts.push(run.exact.cuts());
        let confirm =
            run.scenario.producers.iter().filter(|plan| plan.mode == PublishMode::Confirm).count();
        self.confirm.push(confirm as u64);
        self.fire_and_forget.push((run.scenario.producers.len() - confirm) as u64);
        for outcome in [run.exact, run.ticks] {
            self.accepted_total += outcome.accepted;
            self.deliveries += outcome.deliveries;
            self.polls += outcome.polls;
            for (name, n) in outcome.counters {
                *self.counters.entry(name).or_default() += n;
            }
        }
    }

    /// The states that had to be reached, and were not, or not often enough; none before there were
    /// enough seeds.
    #[must_use]
    pub fn unreached(&self) -> Vec<&'static str> {
        if self.seeds < ENOUGH_SEEDS {
            return Vec::new();
        }
        let rare = |name: &&&str| self.counters.get(**name).copied().unwrap_or(0) < OFTEN;
        states::ALL.iter().filter(rare).copied().collect()
    }
}

/// The median of these; 0 if there are none.
#[must_use]
pub fn median(of: &[u64]) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl Summary {
    /// Faults, states and distributions, a line each.
    #[must_use]
    pub fn details(&self) -> String {
        let mut lines = Vec::new();
        let faults = self.counters.iter().filter(|(name, _)| !name.starts_with("state "));
        lines.extend(faults.map(|(name, n)| format!("fault {name} {n}")));
        for name in states::ALL {
            lines.push(format!("{name} {}", self.counters.get(name).unwrap_or(&0)));
        }
        lines.push("of a seed, least, median and most:".to_owned());
        for (name, of) in [
            ("accepted messages", &self.accepted),
            ("reconnects", &self.reconnects),
            ("cuts", &self.cuts),
            ("fire-and-forget producers", &self.fire_and_forget),
            ("confirm producers", &self.confirm),
        ] {
            let (least, most) = (of.iter().min().unwrap_or(&0), of.iter().max().unwrap_or(&0));
            lines.push(format!("  {name}: {least}, {}, {most}", median(of)));
        }
        let compared = self.compared;
        lines.push(format!("{compared} messages had to end alike in both runs of their seed"));
        lines.join("\n")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seeds {}, violations {}, accepted {}, deliveries {}, polls {}",
            self.seeds,
            self.failures.len(),
            self.accepted_total,
            self.deliveries,
            self.polls
        )
    }
}
