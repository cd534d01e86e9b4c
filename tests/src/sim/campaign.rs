//! Many worlds: what to run for one seed, and what to say about all of them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
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
    /// Whether with the tick, or by exact deadlines alone.
    pub tick: bool,
    /// What is wrong.
    pub violations: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, tick, violations } = self;
        let ticks = if *tick { "100 ms ticks" } else { "exact deadlines, no tick" };
        writeln!(f, "seed {seed} ({ticks}), commit {}:", commit())?;
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

/// What became of many worlds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run, each with exact deadlines and with ticks.
    pub seeds: u64,
    /// What went wrong.
    pub failures: Vec<Failure>,
    /// How often things happened, faults among them.
    pub counters: BTreeMap<&'static str, u64>,
    /// Of the runs with exact deadlines.
    pub accepted: Vec<u64>,
    /// Of the runs with exact deadlines.
    pub reconnects: Vec<u64>,
    /// Of the runs with exact deadlines.
    pub cuts: Vec<u64>,
    /// Messages accepted in all runs.
    pub accepted_total: u64,
    /// Deliveries in all runs.
    pub deliveries: u64,
    /// Polls of tasks in all runs.
    pub polls: u64,
}

impl Summary {
    fn add(&mut self, seed: u64, exact: Outcome, ticks: Outcome) {
        self.seeds += 1;
        self.accepted.push(exact.accepted);
        self.reconnects.push(exact.reconnects);
        self.cuts.push(exact.cuts());
        for (tick, outcome) in [(false, exact), (true, ticks)] {
            self.accepted_total += outcome.accepted;
            self.deliveries += outcome.deliveries;
            self.polls += outcome.polls;
            for (name, n) in outcome.counters {
                *self.counters.entry(name).or_default() += n;
            }
            if !outcome.violations.is_empty() {
                let violations = outcome.violations;
                // At once: the rest may take long.
                eprintln!("{}", Failure { seed, tick, violations: violations.clone() });
                self.failures.push(Failure { seed, tick, violations });
            }
        }
    }
}

/// The median of these; 0 if there are none.
#[must_use]
pub fn median(of: &[u64]) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in &self.counters {
            writeln!(f, "fault {name} {n}")?;
        }
        let spread = |of: &[u64]| {
            let (least, most) = (of.iter().min().copied(), of.iter().max().copied());
            format!("{} ({} to {})", median(of), least.unwrap_or(0), most.unwrap_or(0))
        };
        writeln!(
            f,
            "median (least to most) of a seed: accepted {}, reconnects {}, cuts {}",
            spread(&self.accepted),
            spread(&self.reconnects),
            spread(&self.cuts)
        )?;
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

/// Runs one seed both ways.
#[must_use]
pub fn run_seed(seed: u64) -> (Outcome, Outcome) {
    let scenario = Scenario::draw(seed);
    (world::run(&scenario, None, false), world::run(&scenario, Some(TICK), false))
}

/// Runs seeds on so many threads (each world has one thread only) until there are none left, or
/// `enough` says so. Stops early after ten failures.
pub fn run_many(
    seeds: impl Iterator<Item = u64> + Send,
    threads: usize,
    enough: impl Fn() -> bool + Sync,
) -> Summary {
    let seeds = Mutex::new(seeds);
    let summary = Mutex::new(Summary::default());
    let stop = AtomicBool::new(false);
    let failures = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && !enough() {
                    let next = seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = next else { return };
                    let (exact, ticks) = run_seed(seed);
                    let failed = !exact.violations.is_empty() || !ticks.violations.is_empty();
                    if failed && failures.fetch_add(1, Ordering::Relaxed) >= 9 {
                        stop.store(true, Ordering::Relaxed);
                    }
                    summary.lock().unwrap_or_else(PoisonError::into_inner).add(seed, exact, ticks);
                }
            });
        }
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}
