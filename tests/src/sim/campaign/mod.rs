//! Many worlds: what to run for one seed, and what to say about all of them.

mod known;
mod summary;

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::{
    known::known,
    summary::{Summary, median},
};
use super::{
    heap::Heap,
    scenario::Scenario,
    world::{self, Outcome},
};

/// The failsafe tick of the runs that have one.
pub const TICK: Duration = Duration::from_millis(100);

/// A seed whose world went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// In which of its runs: with exact deadlines, with ticks, or when the two were compared.
    pub run: &'static str,
    /// What is wrong.
    pub violations: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, run, violations } = self;
        writeln!(f, "seed {seed} ({run}), commit {}:", commit())?;
        for violation in violations {
            writeln!(f, "  {violation}")?;
        }
        write!(f, "  replay: {}", replay(*seed))
    }
}

/// The one command that runs a seed again, with everything that happens printed.
#[must_use]
pub fn replay(seed: u64) -> String {
    format!("cargo run --release -p lavinmq-tests --bin sim -- --seed {seed}")
}

/// The commit that this is, as far as git knows.
fn commit() -> String {
    let asked =
        std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    match asked {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

/// One seed, run both ways.
#[derive(Clone, Debug)]
pub struct SeedRun {
    /// Its scenario.
    pub scenario: Scenario,
    /// With exact deadlines, and no tick.
    pub exact: Outcome,
    /// With ticks.
    pub ticks: Outcome,
    /// How many messages must end alike in both.
    pub compared: u64,
    /// Those that did not.
    pub differences: Vec<String>,
}

impl SeedRun {
    /// Runs this seed. With a heap to look at, each world must give back all its memory.
    #[must_use]
    pub fn new(seed: u64, heap: Option<Heap>) -> Self {
        Self::of(Scenario::draw(seed), heap)
    }

    /// Runs this scenario.
    #[must_use]
    pub fn of(scenario: Scenario, heap: Option<Heap>) -> Self {
        let exact = run_world(&scenario, None, heap);
        let ticks = run_world(&scenario, Some(TICK), heap);
        let mut compared = 0;
        let mut differences = Vec::new();
        if exact.violations.is_empty() && ticks.violations.is_empty() {
            let comparable = |outcome: &Outcome| {
                let mut fates = outcome.outcomes.clone();
                fates.retain(|place, _| scenario.is_comparable(place));
                fates
            };
            let (mut others, fates) = (comparable(&ticks), comparable(&exact));
            compared = fates.len() as u64;
            for (place, fate) in fates {
                let other = others.remove(&place);
                if other != Some(fate) {
                    differences.push(format!("{place}: {fate:?} exactly, {other:?} with ticks"));
                }
            }
            differences.extend(others.keys().map(|place| format!("{place}: with ticks alone")));
            differences.truncate(8);
        }
        Self { scenario, exact, ticks, compared, differences }
    }

    /// The hashes of both runs.
    #[must_use]
    pub const fn hashes(&self) -> (u64, u64) {
        (self.exact.hash, self.ticks.hash)
    }

    /// What went wrong in each run, and between them.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        [
            ("exact deadlines, no tick", &self.exact.violations),
            ("100 ms ticks", &self.ticks.violations),
            ("exact deadlines and ticks compared", &self.differences),
        ]
        .into_iter()
        .filter(|(_, violations)| !violations.is_empty())
        .map(|(run, violations)| Failure {
            seed: self.scenario.seed,
            run,
            violations: violations.clone(),
        })
        .collect()
    }
}

/// Runs a world; with a heap to look at, one that keeps memory is a violation.
#[must_use]
pub fn run_world(scenario: &Scenario, tick: Option<Duration>, heap: Option<Heap>) -> Outcome {
    let Some(heap) = heap else { return world::run(scenario, tick, false) };
    let (mut outcome, bytes) = heap.run(|| world::run(scenario, tick, false));
    // What is made once (a lazy static, a thread's buffer) is no leak: it is not made again.
    if bytes != 0 && outcome.violations.is_empty() {
        let (_, again) = heap.run(|| world::run(scenario, tick, false));
        if again != 0 {
            outcome.violations.push(format!("{again} bytes of the heap are left"));
        }
    }
    outcome
}

/// How to run a campaign.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// Worlds at the same time. Each has one thread only.
    pub threads: usize,
    /// How to look at the heap, if it is to be looked at.
    pub heap: Option<Heap>,
}

impl Campaign {
    /// Runs these seeds until there are none left, or `enough` says so. Stops early after ten
    /// failures.
    pub fn run(
        self,
        seeds: impl Iterator<Item = u64> + Send,
        enough: impl Fn() -> bool + Sync,
    ) -> Summary {
        let seeds = Mutex::new(seeds);
        let summary = Mutex::new(Summary::default());
        let stop = AtomicBool::new(false);
        let failed = AtomicU64::new(0);
        let work = || {
            while !stop.load(Ordering::Relaxed) && !enough() {
                let next = seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(seed) = next else { return };
                let run = SeedRun::new(seed, self.heap);
                let failures = run.failures();
                // At once: the rest may take long.
                failures.iter().for_each(|failure| eprintln!("{failure}"));
                if !failures.is_empty() && failed.fetch_add(1, Ordering::Relaxed) >= 9 {
                    stop.store(true, Ordering::Relaxed);
                }
                summary.lock().unwrap_or_else(PoisonError::into_inner).add(run, failures);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        summary.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs seeds on so many threads, without a look at the heap: see [`Campaign::run`].
pub fn run_many(
    seeds: impl Iterator<Item = u64> + Send,
    threads: usize,
    enough: impl Fn() -> bool + Sync,
) -> Summary {
    Campaign { threads, heap: None }.run(seeds, enough)
}
