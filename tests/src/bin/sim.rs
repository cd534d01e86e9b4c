//! Simulates worlds: `--seeds N`, `--seed S` for one, `--minutes M` for fresh seeds.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use lavinmq_core::sabotage::{Sabotage, plant};
use lavinmq_tests::sim::{
    campaign::{self, Campaign, SeedRun, Summary, known},
    heap::Heap,
    reconnects,
    scenario::Scenario,
    shrink::shrink,
    world,
};

/// Runs seeds of the simulator; exits with 1 if one of them violates the oracle.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this many seeds, from `--from` on, and those that failed once (tests/seeds.txt).
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone, and print everything that happens to standard error.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: print no events, only the result.
    #[arg(long)]
    quiet: bool,
    /// With `--seed`: look for the smallest world that fails in the same way, and run that.
    #[arg(long)]
    shrink: bool,
    /// With `--seed`: plant a defect, to see what is said of it.
    #[arg(long, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
    /// Run fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Worlds at the same time.
    #[arg(long)]
    threads: Option<usize>,
    /// Reconnect one client so often, with flat memory, and nothing else. (Otherwise one seed in a
    /// thousand reconnects 10,000 times, after the others.)
    #[arg(long)]
    reconnects: Option<u64>,
    /// Print the hashes of these seeds, for another process that compares.
    #[arg(long, hide = true, value_delimiter = ',')]
    hashes: Vec<u64>,
}

/// Worlds that a search for a smaller one may take.
const SHRINKING: usize = 20_000;

/// One seed in so many reconnects very often.
const RECONNECTING: u64 = 1000;
const RECONNECTS: u64 = 10_000;

/// Seeds that a second process is given at once.
const AT_ONCE: usize = 500;

const HEAP: Heap = Heap {
    measure: |run| allocation_counter::measure(run).bytes_current,
    apart: |run| allocation_counter::opt_out(run),
};

fn sabotage(name: &str) -> Result<Sabotage, String> {
    let known = || Sabotage::ALL.iter().map(|sabotage| format!("{sabotage:?}"));
    let found = Sabotage::ALL.into_iter().find(|sabotage| format!("{sabotage:?}") == name);
    found.ok_or_else(|| format!("one of {}", known().collect::<Vec<_>>().join(", ")))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.seed, arguments.reconnects) {
        _ if !arguments.hashes.is_empty() => hashes(&arguments.hashes),
        (_, Some(count)) => reconnect(&[arguments.seed.unwrap_or(arguments.from)], count),
        (Some(seed), None) => one(seed, &arguments),
        (None, None) => many(&arguments),
    }
}

/// Runs one seed both ways.
fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let print = !arguments.quiet;
    let mut scenario = Scenario::draw(seed);
    if arguments.sabotage == Some(Sabotage::LostWakeUp) {
        // Nothing else may wake the driver.
        scenario = scenario.without_faults();
    }
    let runs = [None, Some(campaign::TICK)];
    let run = |scenario: &Scenario, tick, print| {
        plant(arguments.sabotage);
        let outcome = if print {
            world::run(scenario, tick, true)
        } else {
            campaign::run_world(scenario, tick, Some(HEAP))
        };
        plant(None);
        outcome
    };
    if arguments.shrink {
        let failing = runs.into_iter().find_map(|tick| {
            shrink(&scenario, SHRINKING, |candidate| run(candidate, tick, false).violations)
        });
        if let Some(shrunk) = failing {
            println!("it had {}", scenario.size());
            println!("in {} worlds it became:\n{}", shrunk.runs, shrunk.scenario);
            println!("and says:\n  {}", shrunk.violations.join("\n  "));
            scenario = shrunk.scenario;
        }
    } else if print {
        eprintln!("{scenario}");
    }
    if arguments.sabotage.is_some() || arguments.shrink {
        for tick in runs {
            if print {
                eprintln!("---- seed {seed}, tick {tick:?}");
            }
            let outcome = run(&scenario, tick, print);
            if !outcome.violations.is_empty() {
                println!("seed {seed}, tick {tick:?}: {}", outcome.violations.join("\n  "));
                return ExitCode::FAILURE;
            }
        }
        return ExitCode::SUCCESS;
    }
    if print {
        for tick in runs {
            eprintln!("---- seed {seed}, tick {tick:?}");
            run(&scenario, tick, true);
        }
    }
    let result = SeedRun::of(scenario, Some(HEAP));
    for (tick, outcome) in [("no tick", &result.exact), ("100 ms ticks", &result.ticks)] {
        println!(
            "seed {seed}, {tick}: accepted {}, deliveries {}, reconnects {}, cuts {}, polls {}, ended at {}, hash {:016x}",
            outcome.accepted,
            outcome.deliveries,
            outcome.reconnects,
            outcome.cuts(),
            outcome.polls,
            outcome.ended_at,
            outcome.hash
        );
    }
    let failures = result.failures();
    failures.iter().for_each(|failure| println!("{failure}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (first, count) = match limit {
        Some(_) => (fresh(), u64::MAX),
        None => (arguments.from, arguments.seeds),
    };
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    let once_failed = known().into_iter().map(|(seed, _)| seed);
    let seeds = once_failed.chain((0..count).map(|n| first.wrapping_add(n)));
    let campaign = Campaign { threads, heap: Some(HEAP) };
    let summary = campaign.run(seeds, || limit.is_some_and(|limit| started.elapsed() >= limit));
    let took = started.elapsed().as_secs_f64();

    let strange = differing(&summary);
    for seed in &strange {
        println!("seed {seed} differs in a second process; replay: {}", campaign::replay(*seed));
    }
    if strange.is_empty() {
        println!("determinism ok ({} seeds in a second process)", summary.hashes.len());
    }
    let many_times: Vec<u64> =
        (0..summary.seeds / RECONNECTING).map(|n| first.wrapping_add(n * RECONNECTING)).collect();
    let flat = reconnect(&many_times, RECONNECTS) == ExitCode::SUCCESS;
    let unreached = summary.unreached();
    println!("{}", summary.details());
    for name in &unreached {
        println!("{name}: reached less than ten times");
    }
    println!("{summary}, took {took:.1} s");
    if summary.failures.is_empty() && strange.is_empty() && unreached.is_empty() && flat {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn reconnect(seeds: &[u64], count: u64) -> ExitCode {
    let mut result = ExitCode::SUCCESS;
    for &seed in seeds {
        match reconnects::run(seed, count, HEAP) {
            Ok(report) => println!(
                "seed {seed}: {} reconnects, {} messages confirmed, heap {:+} bytes after the first fifth, {} in the end",
                report.reconnects, report.confirmed, report.grown, report.left
            ),
            Err(what) => {
                println!("{what}\n  replay: --seed {seed} --reconnects {count}");
                result = ExitCode::FAILURE;
            }
        }
    }
    result
}

fn hashes(seeds: &[u64]) -> ExitCode {
    for &seed in seeds {
        let (exact, ticks) = SeedRun::new(seed, None).hashes();
        println!("{seed} {exact:016x} {ticks:016x}");
    }
    ExitCode::SUCCESS
}

/// Seeds, one in a hundred, whose hashes another process does not find again.
fn differing(summary: &Summary) -> Vec<u64> {
    let mut differing = Vec::new();
    for part in summary.hashes.chunks(AT_ONCE) {
        let seeds: Vec<_> = part.iter().map(|(seed, _)| seed.to_string()).collect();
        let second = std::env::current_exe().and_then(|program| {
            Command::new(program).arg("--hashes").arg(seeds.join(",")).output()
        });
        let said = second.map(|output| output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: std::collections::BTreeSet<_> = said.lines().collect();
        differing.extend(part.iter().filter_map(|(seed, (exact, ticks))| {
            let line = format!("{seed} {exact:016x} {ticks:016x}");
            (!lines.contains(line.as_str())).then_some(*seed)
        }));
    }
    differing
}

/// A seed that nobody ran before, probably.
fn fresh() -> u64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    (nanos as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}
