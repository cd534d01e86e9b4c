//! `hand-over`: how publishing threads hand messages to the driver. The queue that the client has
//! (crossbeam's `SegQueue`) beside those that it could have, in one interleaved run: CPU time a
//! message, and how long a publisher is held up at worst.

mod load;
mod queues;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use lavinmq_core::publish::Accepted;

use self::load::{Load, Outcome};
use self::queues::{Array, ParkingLot, ParkingLotHeld, Segmented, StdLock};
use crate::contestants::{Latencies, latencies};
use crate::report::Spread;
use crate::table::{Findings, Table, time};
use crate::{Fallible, machine};

/// What `hand-over` is asked for.
#[derive(Debug, Args)]
pub(crate) struct HandOver {
    /// Half a minute: fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// Publishing threads.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,32")]
    threads: Vec<usize>,
    /// Rounds: each has every candidate once.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one run is measured, in milliseconds.
    #[arg(long)]
    budget: Option<u64>,
    /// Run on these cores only.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    cores: Vec<usize>,
    /// Write the table to this file as well, as markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// Something to hand over by.
struct Candidate {
    name: &'static str,
    run: fn(Load) -> Fallible<Outcome>,
}

const CANDIDATES: [Candidate; 5] = [
    Candidate { name: "SegQueue", run: load::run::<Segmented> },
    Candidate { name: "ArrayQueue", run: load::run::<Array> },
    Candidate { name: "Mutex<VecDeque>, std", run: load::run::<StdLock> },
    Candidate { name: "Mutex<VecDeque>, parking_lot", run: load::run::<ParkingLot> },
    Candidate { name: "the same, held to drain", run: load::run::<ParkingLotHeld> },
];

/// What a candidate did with so many threads.
struct Row {
    threads: usize,
    candidate: &'static Candidate,
    /// From the runs that read no clock, one for each round.
    cpu: Vec<f64>,
    per_second: Vec<f64>,
    /// From those that do, all rounds together: publishers that do nothing else, and such as work
    /// between two messages.
    flooding: Latencies,
    working: Latencies,
}

/// Above this a publisher was held up for longer than the client promises.
const MILLISECOND: u64 = 1_000_000;

/// What a publisher works between two messages, in nanoseconds.
const WORK: u32 = 1_000;

/// Runs all candidates, and prints the tables.
pub(crate) fn run(options: &HandOver) -> Fallible {
    machine::pin_to(&options.cores)?;
    let (rounds, budget) = if options.quick { (3, 100) } else { (9, 500) };
    let rounds = options.rounds.unwrap_or(rounds).max(1);
    let budget = Duration::from_millis(options.budget.unwrap_or(budget));
    let load_before = machine::load();

    let mut rows = Vec::new();
    for &threads in &options.threads {
        for candidate in &CANDIDATES {
            let (flooding, working) = (latencies()?, latencies()?);
            let (cpu, per_second) = Default::default();
            rows.push(Row { threads, candidate, cpu, per_second, flooding, working });
        }
    }
    for round in 0..rounds {
        for step in 0..rows.len() {
            // Each time another candidate begins.
            let (threads, place) = (step / CANDIDATES.len(), step % CANDIDATES.len());
            let place = threads * CANDIDATES.len() + (place + round) % CANDIDATES.len();
            let row = &mut rows[place];
            eprint!("\rround {round}: {} threads, {}          ", row.threads, row.candidate.name);
            let mut load = Load { threads: row.threads, time: budget, work: 0, timed: false };
            let outcome = (row.candidate.run)(load)?;
            row.cpu.push(outcome.cpu);
            row.per_second.push(outcome.per_second);
            load.timed = true;
            row.flooding.add((row.candidate.run)(load)?.pushes)?;
            load.work = WORK;
            row.working.add((row.candidate.run)(load)?.pushes)?;
        }
    }
    eprintln!();

    let mut about = machine::description();
    about.push(format!("cores {:?} only; the driver is a thread of its own", options.cores));
    about.push(format!(
        "{rounds} rounds of three runs of {} ms each, interleaved; load average before {load_before}, after {}",
        budget.as_millis(),
        machine::load(),
    ));
    let slot = size_of::<Accepted>();
    let notes = vec![
        format!(
            "A message on its way is {slot} bytes; an ArrayQueue of 10,000 takes {} KiB for each \
             idle producer.",
            10_000 * (slot + 8) / 1024
        ),
        "CPU: user and system time of all threads over messages, median of the rounds, from runs \
         that read no clock."
            .to_owned(),
        "Percentiles: the time of one push that found room, all rounds together. Flooding: the \
         buffer is full most of the time, and most publishers wait for room (which is not in these \
         times). Working: each publisher works for about 1 µs between two messages, so that \
         there is room, and all want a core all the time."
            .to_owned(),
    ];
    let tables = vec![
        costs(&rows),
        times("The time of one push, flooding", &rows, |row| &row.flooding),
        times("The time of one push, working", &rows, |row| &row.working),
    ];
    Findings { about, tables, notes }.show(options.markdown.as_deref())
}

fn costs(rows: &[Row]) -> Table {
    let heads = ["threads, candidate", "CPU ns/msg", "min–max", "msg/s"];
    let mut table = Table::new("Cost of a message of 16 bytes, flooding", &heads);
    for row in rows {
        let cpu = Spread::of(row.cpu.iter().copied());
        let rate = Spread::of(row.per_second.iter().copied());
        table.row(vec![
            row.label(),
            cpu.map_or_else(String::new, |cpu| format!("{:.0}", cpu.median)),
            cpu.map_or_else(String::new, |cpu| format!("{:.0}–{:.0}", cpu.min, cpu.max)),
            rate.map_or_else(String::new, |rate| format!("{:.2}M", rate.median / 1e6)),
        ]);
    }
    table
}

fn times(title: &str, rows: &[Row], of: impl Fn(&Row) -> &Latencies) -> Table {
    let heads =
        ["threads, candidate", "p50", "p99", "p99.9", "p99.99", "max", "over 1 ms", "pushes"];
    let mut table = Table::new(title, &heads);
    for row in rows {
        let pushes = of(row);
        let mut cells = vec![row.label()];
        for quantile in [0.5, 0.99, 0.999, 0.9999, 1.0] {
            cells.push(time(pushes.value_at_quantile(quantile) as f64));
        }
        cells.push(format!("{:.5} %", share_above(pushes, MILLISECOND) * 100.0));
        cells.push(format!("{:.1}M", pushes.len() as f64 / 1e6));
        table.row(cells);
    }
    table
}

impl Row {
    fn label(&self) -> String {
        format!("{}, {}", self.threads, self.candidate.name)
    }
}

/// The share of values above `limit`, as far as the histogram tells values apart.
fn share_above(values: &Latencies, limit: u64) -> f64 {
    let above = values.count_between(limit + 1, values.high());
    above as f64 / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_above_a_limit_is_of_all_values_and_does_not_count_the_limit() -> Fallible {
        let mut values = latencies()?;
        values.record_n(100, 997)?;
        values.record(MILLISECOND)?;
        values.record_n(3 * MILLISECOND, 2)?;
        assert_eq!(share_above(&values, 2 * MILLISECOND), 0.002);
        assert_eq!(share_above(&latencies()?, MILLISECOND), 0.0);
        Ok(())
    }
}
