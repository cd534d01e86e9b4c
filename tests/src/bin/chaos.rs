//! Soak and chaos against a real broker: see `lavinmq_tests::chaos`, and `tests/chaos`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::Parser;
use lavinmq_tests::{
    chaos::{Outcome, Plan, faults::Kind, load::Sabotage, run},
    live::broker::Broker,
    runtimes::{Smol, Tokio},
};

/// Publishes and consumes on both runtimes while the broker is killed, restarted, blocked and cut
/// off; exits with 1 if a message was lost, duplicated or unaccounted for, or something grew.
///
/// The broker: `AMQP_TEST_URL`, and `AMQP_TEST_CTL` to control it, or a private RabbitMQ that it starts
/// and ends.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// How long, both runtimes together.
    #[arg(default_value_t = 2.0)]
    minutes: f64,
    /// Draws the same faults and messages again (their timing is the machine's).
    #[arg(long)]
    seed: Option<u64>,
    /// Only these kinds of fault, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Only this runtime.
    #[arg(long, value_parser = ["tokio", "smol"])]
    runtime: Option<String>,
    /// Messages a second.
    #[arg(long, default_value_t = 1500)]
    rate: u64,
    /// KiB that this process may grow by after the warm-up: what all producers' buffers hold at most
    /// (12 of a MiB), and the allocator keeps, and a few MiB for what consumers and connections buffer.
    #[arg(long, default_value_t = 20 * 1024)]
    memory: u64,
    /// Spoil one message's account, which must show.
    #[arg(long, value_parser = ["skip-one", "miss-one", "count-twice"])]
    sabotage: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64 % 1_000_000_000
    });
    println!("chaos seed={seed} minutes={}", arguments.minutes);
    let broker = match Broker::from_env() {
        Ok(broker) => broker,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    if !broker.has_control() {
        println!("NOT RUN: kills, restarts and alarms: they need AMQP_TEST_CTL");
    }
    let wanted = |name: &str| arguments.runtime.as_deref().is_none_or(|only| only == name);
    let runs: Vec<fn(&Broker, &Plan) -> Outcome> =
        [("tokio", run::<Tokio> as fn(&_, &_) -> _), ("smol", run::<Smol>)]
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, run)| run)
            .collect();
    let plan = Plan {
        seed,
        duration: Duration::from_secs_f64(arguments.minutes * 60.0 / runs.len() as f64),
        rate: arguments.rate,
        only: arguments.only.clone(),
        memory: arguments.memory,
        sabotage: arguments.sabotage.as_deref().map(|name| match name {
            "skip-one" => Sabotage::SkipOne,
            "miss-one" => Sabotage::MissOne,
            _ => Sabotage::CountTwice,
        }),
    };
    let mut whole = Outcome::default();
    for run in runs {
        let outcome = run(&broker, &plan);
        for (kind, count) in outcome.faults {
            *whole.faults.entry(kind).or_default() += count;
        }
        whole.sums += outcome.sums;
        whole.received += outcome.received;
        whole.drained += outcome.drained;
        whole.lost += outcome.lost;
        whole.resent += outcome.resent;
        whole.forgotten += outcome.forgotten;
        whole.reconnects += outcome.reconnects;
        whole.violation_count += outcome.violation_count;
        whole.violations.extend(outcome.violations);
    }
    drop(broker);
    report(&arguments, seed, &whole)
}

fn report(arguments: &Arguments, seed: u64, whole: &Outcome) -> ExitCode {
    for (kind, count) in &whole.faults {
        println!("fault {kind} {count}");
    }
    for violation in &whole.violations {
        println!("VIOLATION {violation}");
    }
    let Outcome { sums, received, drained, lost, resent, forgotten, reconnects, .. } = whole;
    println!(
        "chaos minutes={} seed={seed} faults={} accepted={} confirmed={} dropped={} received={received} \
         drained={drained} lost={lost} duplicates={resent} forgotten={forgotten} \
         reconnects={reconnects} violations={}",
        arguments.minutes,
        whole.faults.values().sum::<u64>(),
        sums.accepted,
        sums.confirmed,
        sums.dropped,
        whole.violation_count,
    );
    if whole.violation_count == 0 && *lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
