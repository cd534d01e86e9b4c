//! Simulates worlds: `--seeds N`, `--seed S` for one, `--minutes M` for fresh seeds.

use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use clap::Parser;
use lavinmq_core::sabotage::{Sabotage, plant};
use lavinmq_tests::sim::{campaign, scenario::Scenario, shrink::shrink, world};

/// Runs seeds of the simulator; exits with 1 if one of them violates the oracle.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this many seeds, from `--from` on.
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
    /// With `--seed`: look for a smaller world that fails, too, and run that.
    #[arg(long)]
    shrink: bool,
    /// With `--seed`: plant a defect, to see what is said of it.
    #[arg(long, value_parser = ["lost-wake-up", "no-rewind", "nack-is-drop"])]
    sabotage: Option<String>,
    /// Run fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Worlds at the same time.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, &arguments),
        None => many(&arguments),
    }
}

/// Runs one seed both ways. The last line is for another process that compares.
fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let print = !arguments.quiet;
    let mut scenario = Scenario::draw(seed);
    let sabotage = arguments.sabotage.as_deref().map(|name| match name {
        "lost-wake-up" => Sabotage::LostWakeUp,
        "no-rewind" => Sabotage::NoRewind,
        _ => Sabotage::NackIsDrop,
    });
    if sabotage == Some(Sabotage::LostWakeUp) {
        // Nothing else may wake the driver.
        scenario = scenario.without_faults();
    }
    plant(sabotage);
    if arguments.shrink {
        for tick in [None, Some(campaign::TICK)] {
            if !world::run(&scenario, tick, false).violations.is_empty() {
                let (smaller, runs) = shrink(&scenario, tick, 2000);
                println!("shrunk in {runs} runs");
                scenario = smaller;
                break;
            }
        }
    }
    if print {
        eprintln!("{scenario:#?}");
    }
    let mut hashes = Vec::new();
    for tick in [None, Some(campaign::TICK)] {
        if print {
            eprintln!("---- seed {seed}, tick {tick:?}");
        }
        let outcome = world::run(&scenario, tick, print);
        println!(
            "seed {seed}, tick {tick:?}: accepted {}, deliveries {}, reconnects {}, cuts {}, polls {}, ended at {}",
            outcome.accepted,
            outcome.deliveries,
            outcome.reconnects,
            outcome.cuts(),
            outcome.polls,
            outcome.ended_at
        );
        hashes.push(format!("{:016x}", outcome.hash));
        if !outcome.violations.is_empty() {
            let violations = outcome.violations;
            println!("{}", campaign::Failure { seed, tick: tick.is_some(), violations });
            return ExitCode::FAILURE;
        }
    }
    println!("hashes {}", hashes.join(" "));
    ExitCode::SUCCESS
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
    let seeds = (0..count).map(|n| first.wrapping_add(n));
    let summary = campaign::run_many(seeds, threads, || {
        limit.is_some_and(|limit| started.elapsed() >= limit)
    });
    let strange = differing(first, summary.seeds);
    for seed in &strange {
        println!("seed {seed} differs in a second process; replay: {}", campaign::replay(*seed));
    }
    if strange.is_empty() {
        println!("determinism ok");
    }
    println!("{summary}, took {:.1} s", started.elapsed().as_secs_f64());
    if summary.failures.is_empty() && strange.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Seeds, one in a hundred, whose hashes another process does not find again.
fn differing(first: u64, count: u64) -> Vec<u64> {
    (0..count)
        .step_by(100)
        .map(|n| first.wrapping_add(n))
        .filter(|seed| {
            let (exact, ticks) = campaign::run_seed(*seed);
            let expected = format!("hashes {:016x} {:016x}", exact.hash, ticks.hash);
            let Ok(program) = std::env::current_exe() else { return true };
            let second = std::process::Command::new(program)
                .args(["--quiet", "--seed", &seed.to_string()])
                .output();
            match second {
                Ok(output) => {
                    !String::from_utf8_lossy(&output.stdout).lines().any(|line| line == expected)
                        // A seed that fails is reported as such.
                        && output.status.success()
                }
                Err(_) => true,
            }
        })
        .collect()
}

/// A seed that nobody ran before, probably.
fn fresh() -> u64 {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    (nanos as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}
