//! `latency`: how long a publish takes under load. From the call to acceptance, with 100 tasks; and
//! from the moment that it should have been sent to its confirm, at shares of what the broker takes.

mod accept;
mod confirm;
mod line;
mod plot;
mod schedule;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::confirm::Task;
use self::line::Said;
use crate::contestants::{Latencies, latencies};
use crate::raw::{Raw, Target};
use crate::runtimes::Runtime;
use crate::table::{Findings, Table, rate, time};
use crate::versus::peer::{Broker, Sink};
use crate::{Fallible, child, machine};

/// Where messages go.
const QUEUE: &str = "lavinmq-benches-latency";

/// Of what the broker takes, and of what is accepted, in percent.
const SHARES: [u32; 3] = [10, 50, 90];

/// What `latency` is asked for.
#[derive(Debug, Args)]
pub(crate) struct Latency {
    /// Two minutes: one round, and shorter ones.
    #[arg(long)]
    quick: bool,
    /// Rounds: each has every run once.
    #[arg(long)]
    rounds: Option<usize>,
    /// How long one run is measured, in milliseconds.
    #[arg(long)]
    budget: Option<u64>,
    /// A broker that is running, instead of a private RabbitMQ (as in AMQP_TEST_URL). The queue
    /// `lavinmq-benches-latency` is emptied and deleted.
    #[arg(long)]
    url: Option<Target>,
    /// Only the sink, no broker.
    #[arg(long)]
    sink_only: bool,
    /// Persistent messages, which a broker writes to its disk before it confirms them.
    #[arg(long)]
    persistent: bool,
    /// Write the tables to this file as well, as markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Draw the plots into this directory: accept.svg, confirm-sink.svg, confirm-broker.svg.
    #[arg(long)]
    plots: Option<PathBuf>,
}

/// One run in a process of its own (what `latency` starts).
#[derive(Debug, Args)]
pub(crate) struct LatencyRun {
    what: What,
    who: Who,
    #[arg(long)]
    url: Target,
    /// Messages a second; without it, as many as are accepted.
    #[arg(long)]
    rate: Option<f64>,
    /// Milliseconds.
    #[arg(long)]
    budget: u64,
    #[arg(long)]
    persistent: bool,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Accept,
    Confirm,
}

/// Whose publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    OursTokioCt,
    OursTokioMt,
    OursSmol,
    AmqpClient,
    Lapin,
}

impl Who {
    const OURS: [Self; 3] = [Self::OursTokioCt, Self::OursTokioMt, Self::OursSmol];
    const ALL: [Self; 5] =
        [Self::OursTokioCt, Self::OursTokioMt, Self::OursSmol, Self::AmqpClient, Self::Lapin];

    fn name(self) -> &'static str {
        match self {
            Self::OursTokioCt => "ours-tokio-ct",
            Self::OursTokioMt => "ours-tokio-mt",
            Self::OursSmol => "ours-smol",
            Self::AmqpClient => "amqp-client",
            Self::Lapin => "lapin",
        }
    }

    /// The peers are on tokio's multi-thread runtime.
    fn runtime(self) -> Runtime {
        match self {
            Self::OursTokioCt => Runtime::TokioCurrentThread,
            Self::OursSmol => Runtime::Smol,
            Self::OursTokioMt | Self::AmqpClient | Self::Lapin => Runtime::TokioMultiThread,
        }
    }
}

/// All rounds of one run.
struct Row {
    who: Who,
    load: Load,
    times: Latencies,
    /// Messages a second that were offered (if it was said how many), and that came about.
    offered: Option<f64>,
    reached: Vec<f64>,
    failures: Vec<String>,
}

/// How much is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Percent.
    Share(u32),
    /// As much as is accepted.
    Flood,
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Share(share) => format!("{share} %"),
            Self::Flood => "flooding".to_owned(),
        }
    }
}

impl Row {
    fn new(who: Who, load: Load, offered: Option<f64>) -> Fallible<Self> {
        let (reached, failures) = Default::default();
        Ok(Self { who, load, times: latencies()?, offered, reached, failures })
    }
}

/// How runs are started.
struct Runs {
    program: PathBuf,
    budget: Duration,
    rounds: usize,
    persistent: bool,
}

/// Runs everything that `options` ask for, and prints the tables.
pub(crate) fn run(options: &Latency) -> Fallible {
    if cfg!(debug_assertions) {
        eprintln!("not a release build: the figures mean nothing");
    }
    let (rounds, budget) = if options.quick { (1, 1_000) } else { (3, 2_000) };
    let runs = Runs {
        program: std::env::current_exe()?,
        budget: Duration::from_millis(options.budget.unwrap_or(budget)),
        rounds: options.rounds.unwrap_or(rounds).max(1),
        persistent: options.persistent,
    };
    let load_before = machine::load();
    let sink = Sink::start(&runs.program, None, 0)?;
    let mut notes = Vec::new();

    let accepts = runs.accepts(&sink.url)?;
    let (confirms, taken) = runs.confirms(&sink.url)?;
    notes.push(capacity("the sink", taken));
    let mut tables = vec![
        table("From publish to acceptance: 100 tasks, 16 B, against the sink", &accepts),
        table("From when it was due to its confirm: 16 B, against the sink", &confirms),
    ];
    let mut at_broker = Vec::new();
    if !options.sink_only {
        let broker = match (&options.url, std::env::var("AMQP_TEST_URL").ok()) {
            (Some(target), _) => Broker::at(target)?,
            (None, Some(url)) if !url.is_empty() => Broker::at(&url.parse()?)?,
            _ => Broker::start(None)?,
        };
        let (rows, taken) = runs.confirms(&broker.url)?;
        Raw::open(&broker.url.parse()?)?.delete(QUEUE)?;
        notes.push(capacity(&broker.about, taken));
        tables.push(table("From when it was due to its confirm: 16 B, against a broker", &rows));
        at_broker = rows;
    }
    eprintln!();
    for row in accepts.iter().chain(&confirms).chain(&at_broker) {
        for failure in &row.failures {
            notes.push(format!("{} at {}: {failure}", row.who.name(), row.load.name()));
        }
    }
    notes.push(ABOUT.to_owned());

    let mut about = machine::description();
    about.push(format!(
        "{} rounds of {} ms a run, interleaved, each in a process of its own, not pinned; load \
         average before {load_before}, after {}",
        runs.rounds,
        runs.budget.as_millis(),
        machine::load(),
    ));
    if let Some(directory) = &options.plots {
        std::fs::create_dir_all(directory)?;
        let title = "From publish to acceptance: 100 tasks publishing";
        plot::write(&directory.join("accept.svg"), title, &accepts)?;
        let title = "From when a message was due to its confirm, against the sink";
        plot::write(&directory.join("confirm-sink.svg"), title, &confirms)?;
        let title = "From when a message was due to its confirm, against RabbitMQ";
        plot::write(&directory.join("confirm-broker.svg"), title, &at_broker)?;
    }
    Findings { about, tables, notes }.show(options.markdown.as_deref())
}

const ABOUT: &str = "\
    Acceptance: the time of `publish().await`, the policy being Block. Flooding, the buffer of \
    10,000 messages is full and publishers wait in line until the sink has taken those before \
    them; below that, shares of what was accepted then, on the same runtime. Confirms: an open \
    loop; each message is timed from the moment it was due, so that nothing is left out because \
    something before it was slow. A run that did not reach its rate has a backlog, which its times \
    then measure.";

fn capacity(whom: &str, taken: f64) -> String {
    format!(
        "{whom}: takes {}/s of ours-tokio-ct with at most 1,000 unconfirmed; the shares are of \
         that",
        rate(taken)
    )
}

impl Runs {
    fn accepts(&self, url: &str) -> Fallible<Vec<Row>> {
        let mut rows = Vec::new();
        for load in [Load::Flood, Load::Share(50), Load::Share(10)] {
            for who in Who::OURS {
                rows.push(Row::new(who, load, None)?);
            }
        }
        for round in 0..self.rounds {
            for step in 0..rows.len() {
                let flooded = rows
                    .iter()
                    .find(|row| (row.who, row.load) == (rows[step].who, Load::Flood))
                    .and_then(|row| row.reached.last().copied());
                let row = &mut rows[step];
                row.offered = match row.load {
                    Load::Flood => None,
                    Load::Share(share) => {
                        Some(flooded.ok_or("no flood")? * f64::from(share) / 100.0)
                    }
                };
                self.one(round, row, What::Accept, url);
            }
        }
        Ok(rows)
    }

    /// And how much the broker took.
    fn confirms(&self, url: &str) -> Fallible<(Vec<Row>, f64)> {
        let mut probe = Raw::open(&url.parse()?)?;
        probe.declare(QUEUE, false)?;
        let taken = self.closed_loop(url)?;
        let mut rows = Vec::new();
        for share in SHARES {
            for who in Who::ALL {
                let offered = taken * f64::from(share) / 100.0;
                rows.push(Row::new(who, Load::Share(share), Some(offered))?);
            }
        }
        for round in 0..self.rounds {
            for row in &mut rows {
                probe.purge(QUEUE)?;
                self.one(round, row, What::Confirm, url);
            }
        }
        Ok((rows, taken))
    }

    /// Messages a second with at most 1,000 unconfirmed: the middle of three runs.
    fn closed_loop(&self, url: &str) -> Fallible<f64> {
        let mut rates = Vec::new();
        for _ in 0..3 {
            let mut command = Command::new(&self.program);
            command.args(["contestant", "ours-tokio-ct", "confirm-pipelined", "--queue", QUEUE]);
            command.args(["--url", url, "--budget", &self.budget.as_millis().to_string()]);
            if !self.persistent {
                command.arg("--transient");
            }
            rates.push(said(&mut command)?.parse::<child::Outcome>()?.rate);
        }
        rates.sort_by(f64::total_cmp);
        Ok(rates[1])
    }

    fn one(&self, round: usize, row: &mut Row, what: What, url: &str) {
        let (who, load) = (row.who.name(), row.load.name());
        eprint!("\rround {round}: {what:?} {who} {load}          ");
        let mut command = Command::new(&self.program);
        let what = if what == What::Accept { "accept" } else { "confirm" };
        command.args(["latency-run", what, who, "--url", url]);
        command.args(["--budget", &self.budget.as_millis().to_string()]);
        if let Some(rate) = row.offered {
            command.args(["--rate", &rate.to_string()]);
        }
        if self.persistent {
            command.arg("--persistent");
        }
        let result = said(&mut command).and_then(|line| {
            let said = Said::read(&line)?;
            row.reached.push(said.per_second());
            Ok(row.times.add(said.times)?)
        });
        if let Err(failure) = result {
            row.failures.push(failure.to_string());
        }
    }
}

/// What a child says on its standard output. It ends by itself: its runs have deadlines.
fn said(command: &mut Command) -> Fallible<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(complaint.lines().last().unwrap_or("failed without a word").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What a child does.
pub(crate) fn run_one(options: &LatencyRun) -> Fallible {
    let time = Duration::from_millis(options.budget);
    let runtime = options.who.runtime();
    let said = match (options.what, options.rate) {
        (What::Accept, rate) => accept::run(runtime, &options.url, QUEUE, rate, time)?,
        (What::Confirm, None) => return Err("a rate is needed".into()),
        (What::Confirm, Some(rate)) => {
            let mut task = Task::new(&options.url, QUEUE, rate, time);
            task.persistent = options.persistent;
            match options.who {
                Who::OursTokioCt | Who::OursTokioMt | Who::OursSmol => {
                    confirm::ours(runtime, task)?
                }
                Who::AmqpClient => confirm::amqp_client(runtime, task)?,
                Who::Lapin => confirm::lapin(runtime, task)?,
            }
        }
    };
    println!("{}", said.line());
    // How a client ends is not measured.
    std::process::exit(0);
}

fn table(title: &str, rows: &[Row]) -> Table {
    let heads = ["load, client", "offered/s", "reached/s", "p50", "p99", "p99.9", "p99.99", "max"];
    let mut table = Table::new(title, &heads);
    for row in rows {
        let mut reached = row.reached.clone();
        reached.sort_by(f64::total_cmp);
        let median = reached.get(reached.len() / 2).copied();
        let mut cells = vec![
            format!("{}, {}", row.load.name(), row.who.name()),
            row.offered.map_or_else(|| "-".to_owned(), rate),
            median.map_or_else(|| "-".to_owned(), rate),
        ];
        for quantile in [0.5, 0.99, 0.999, 0.9999, 1.0] {
            cells.push(match row.times.is_empty() {
                true => "-".to_owned(),
                false => time(row.times.value_at_quantile(quantile) as f64),
            });
        }
        table.row(cells);
    }
    table
}
