//! `scale`: what a message costs with many producers and consumers on one client, what each of them
//! holds in memory, a thousand clients in one process, several publishing threads, and a client
//! that does nothing.
//!
//! Each run is a process of its own against the sink, as in `versus`; rounds are interleaved.
//! `flow`, `memory`, `clients`, `threads` and `idle` are the runs, `figures` what they say.

mod clients;
mod figures;
mod flow;
mod idle;
mod memory;
mod threads;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::{Args, ValueEnum};

use self::figures::Figures;
use crate::raw::Target;
use crate::report::table::rate;
use crate::report::{Cells, aligned, markdown};
use crate::sink::CHANNEL_MAX;
use crate::usage::Counters;
use crate::versus::peer::Sink;
use crate::versus::rounds::{counted_program, said};
use crate::{AllocationCount, Fallible, LiveBytes, machine};

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(180);

/// How many producers, or consumers.
const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// What is compared with one producer or consumer may cost so much more.
const FLAT: f64 = 1.5;

/// The channels that the sink offers: the client asks for as many, so that 10,000 consumers have
/// one each.
const CHANNELS: u16 = 65_535;

/// What `scale` is asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One round, a tenth of the messages.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only these flows, of the part `flow`.
    #[arg(long, value_delimiter = ',')]
    flows: Vec<String>,
    /// Rounds: the median of so many runs.
    #[arg(long)]
    rounds: Option<usize>,
    /// Messages of a run of the part `flow`.
    #[arg(long)]
    messages: Option<u64>,
    /// How long the part `idle` looks, in seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Leave it to the kernel which cores are used.
    #[arg(long)]
    no_pin: bool,
    /// The core of the clients.
    #[arg(long, default_value_t = 0)]
    client_core: usize,
    /// The core of the sink.
    #[arg(long, default_value_t = 1)]
    sink_core: usize,
    /// Write the tables to this file as well, as markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// A part of `scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    /// The cost of a message with 1 to 10,000 producers or consumers.
    Flow,
    /// Bytes per producer, consumer and client.
    Memory,
    /// A thousand clients in one process.
    Clients,
    /// Several publishing threads and tasks.
    Threads,
    /// Clients that do nothing.
    Idle,
}

impl Part {
    const ALL: [Self; 5] = [Self::Flow, Self::Memory, Self::Clients, Self::Threads, Self::Idle];

    const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Memory => "memory",
            Self::Clients => "clients",
            Self::Threads => "threads",
            Self::Idle => "idle",
        }
    }
}

/// What one run is told on its command line.
#[derive(Debug, Args)]
pub(crate) struct Child {
    part: Part,
    what: String,
    #[arg(long)]
    url: Target,
    #[arg(long, default_value_t = 1)]
    n: usize,
    #[arg(long, default_value_t = 0)]
    messages: u64,
    #[arg(long)]
    core: Option<usize>,
}

/// One run.
struct Run {
    what: String,
    target: Target,
    n: usize,
    messages: u64,
    allocations: Option<AllocationCount>,
    live: Option<LiveBytes>,
}

impl Run {
    fn counters(&self) -> Counters {
        Counters { allocations: self.allocations, ..Counters::default() }
    }
}

/// One run, in a process of its own: prints its figures.
pub(crate) fn child(
    child: Child,
    allocations: Option<AllocationCount>,
    live: Option<LiveBytes>,
) -> Fallible {
    let Child { part, what, url: target, n, messages, core } = child;
    core.map(machine::pin).transpose()?;
    let run = Run { what, target, n, messages, allocations, live };
    let figures = match part {
        Part::Flow => flow::run(&run)?,
        Part::Memory => memory::run(&run)?,
        Part::Clients => clients::run(&run)?,
        Part::Threads => threads::run(&run)?,
        Part::Idle => idle::run(&run)?,
    };
    println!("{}", figures.line());
    Ok(())
}

/// As many channels as the sink offers.
fn options(url: &str) -> Fallible<lavinmq_core::Options> {
    Ok(lavinmq_core::Options::new(url)?.channel_max(CHANNELS))
}

/// A run's place in the tables.
type Key = (Part, &'static str, usize);

/// A run to be made, in each round.
#[derive(Clone, Copy, Debug)]
struct Plan {
    key: Key,
    messages: u64,
    /// In the binary that counts, once.
    counted: bool,
    /// Over the sink that offers fewer channels.
    few_channels: bool,
    pinned: bool,
}

/// The flows, and whether 10,000 of them are held against one.
const FLOWS: [(&str, bool); 6] = [
    ("publish", true),
    ("confirm", true),
    ("consume-no-ack", true),
    ("consume-ack", true),
    ("publish-in-turn", false),
    ("consume-in-turn", false),
];

const THREADS: [&str; 8] = [
    "threads-own-room",
    "threads-shared-room",
    "threads-own-full",
    "threads-shared-full",
    "tasks-own-room",
    "tasks-shared-room",
    "tasks-own-full",
    "tasks-shared-full",
];

const IDLE: [(&str, usize); 8] = [
    ("tokio-one-connection", 1),
    ("tokio-two-connections", 1),
    ("tokio-producers", 1_000),
    ("tokio-consumers", 1_000),
    ("tokio-clients", 10),
    ("smol-two-connections", 1),
    ("smol-producers", 1_000),
    ("smol-clients", 10),
];

fn plans(options: &Options) -> Vec<Plan> {
    let parts = if options.parts.is_empty() { &Part::ALL[..] } else { &options.parts };
    let less = if options.quick { 10 } else { 1 };
    let mut plans = Vec::new();
    for &part in parts {
        let plan = Plan {
            key: (part, "", 0),
            messages: 0,
            counted: false,
            few_channels: false,
            pinned: true,
        };
        match part {
            Part::Flow => {
                let messages = options.messages.unwrap_or(2_000_000 / less);
                for (flow, _) in FLOWS {
                    if !options.flows.is_empty() && !options.flows.iter().any(|f| f == flow) {
                        continue;
                    }
                    for n in SIZES {
                        let key = (part, flow, n);
                        plans.push(Plan { key, messages, ..plan });
                        plans.push(Plan { key, messages: messages / 4, counted: true, ..plan });
                    }
                }
                if options.flows.is_empty() {
                    let key = (part, "consumers-until-refused", 3_000);
                    plans.push(Plan { key, few_channels: true, ..plan });
                }
            }
            Part::Memory => {
                for what in ["producers", "confirm-producers", "consumers"] {
                    for n in [100, 1_000, 10_000] {
                        plans.push(Plan { key: (part, what, n), counted: true, ..plan });
                    }
                }
                plans.push(Plan { key: (part, "clients", 100), counted: true, ..plan });
            }
            Part::Clients => {
                for what in ["current-thread", "multi-thread"] {
                    for n in [1, 1_000] {
                        let messages = 200_000 / less;
                        plans.push(Plan { key: (part, what, n), messages, ..plan });
                    }
                }
            }
            Part::Threads => {
                for what in THREADS {
                    for n in [1, 2, 4, 8] {
                        let full = what.ends_with("full");
                        let messages = if full { 200_000 } else { 2_000_000 } / less;
                        plans.push(Plan { key: (part, what, n), messages, pinned: false, ..plan });
                    }
                }
            }
            Part::Idle => {
                let seconds = options.seconds.unwrap_or(if options.quick { 2 } else { 10 });
                for (what, n) in IDLE {
                    plans.push(Plan { key: (part, what, n), messages: seconds, ..plan });
                }
            }
        }
    }
    plans
}

/// What was measured.
#[derive(Default)]
struct Results {
    runs: BTreeMap<Key, Vec<Figures>>,
    counted: BTreeMap<Key, Figures>,
    failures: BTreeMap<Key, String>,
}

/// Runs everything that `options` ask for, and prints the tables.
pub(crate) fn run(options: &Options) -> Fallible {
    if cfg!(debug_assertions) {
        eprintln!("not a release build: the figures mean nothing");
    }
    let program = std::env::current_exe()?;
    let counted = counted_program(&program).ok_or("the binary that counts was not built")?;
    let pinned = !options.no_pin && std::thread::available_parallelism()?.get() > 1;
    let core = |core: usize| pinned.then_some(core);
    let sink = Sink::start_with(&program, core(options.sink_core), 0, CHANNELS)?;
    let free = Sink::start_with(&program, None, 0, CHANNELS)?;
    let few = Sink::start_with(&program, core(options.sink_core), 0, CHANNEL_MAX)?;
    let load_before = machine::load();

    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 }).max(1);
    let plans = plans(options);
    let mut results = Results::default();
    for round in 0..rounds {
        for (step, plan) in plans.iter().enumerate() {
            let (part, what, n) = plan.key;
            // What is counted, and what takes its time, once.
            let once = plan.counted || plan.few_channels || part == Part::Idle;
            if once && round > 0 {
                continue;
            }
            eprint!(
                "\rround {round}, {}/{}: {} {what} {n}          ",
                step + 1,
                plans.len(),
                part.name()
            );
            let url = match plan {
                Plan { few_channels: true, .. } => &few.url,
                Plan { pinned: false, .. } => &free.url,
                _ => &sink.url,
            };
            let binary: &Path = if plan.counted { &counted } else { &program };
            let mut command = Command::new(binary);
            command.args(["scale-run", part.name(), what, "--url", url]);
            command.args(["--n", &n.to_string(), "--messages", &plan.messages.to_string()]);
            if let Some(core) = core(options.client_core).filter(|_| plan.pinned) {
                command.args(["--core", &core.to_string()]);
            }
            match said(command, DEADLINE).and_then(|said| said.parse::<Figures>()) {
                Ok(figures) if plan.counted => drop(results.counted.insert(plan.key, figures)),
                Ok(figures) => results.runs.entry(plan.key).or_default().push(figures),
                Err(failure) => drop(results.failures.insert(plan.key, failure.to_string())),
            }
        }
    }
    eprintln!();

    let mut about = machine::description();
    about.push(format!(
        "{rounds} rounds, interleaved (medians); load average before {load_before}, after {}",
        machine::load(),
    ));
    let tables = results.tables();
    for line in &about {
        println!("{line}");
    }
    for (title, table) in &tables {
        print!("\n{title}\n{}", aligned(table));
    }
    let mut lines = results.verdicts();
    lines.extend(results.failures());
    println!("\n{}", lines.join("\n"));
    if let Some(file) = &options.markdown {
        let mut out = String::new();
        about.iter().for_each(|line| _ = writeln!(out, "- {line}"));
        for (title, table) in &tables {
            let _ = write!(out, "\n### {title}\n\n{}", markdown(table));
        }
        let _ = write!(out, "\n```\n{}\n```\n", lines.join("\n"));
        std::fs::write(file, out)?;
    }
    Ok(())
}

impl Results {
    fn median(&self, key: Key) -> Figures {
        self.runs.get(&key).map(|runs| Figures::median(runs)).unwrap_or_default()
    }

    fn has(&self, part: Part) -> bool {
        self.runs.keys().chain(self.counted.keys()).any(|key| key.0 == part)
    }

    fn tables(&self) -> Vec<(String, Vec<Cells>)> {
        let mut tables = Vec::new();
        for (flow, _) in FLOWS {
            if self.runs.contains_key(&(Part::Flow, flow, 1)) {
                tables.push((
                    format!("{flow}: producers or consumers on one client"),
                    self.flow(flow),
                ));
            }
        }
        if self.has(Part::Memory) {
            tables.push(("Bytes on the heap for each".to_owned(), self.memory()));
        }
        if self.has(Part::Clients) {
            tables.push(("Clients in one process".to_owned(), self.clients()));
        }
        if self.has(Part::Threads) {
            tables.push(("Publishing threads and tasks on two cores".to_owned(), self.threads()));
        }
        if self.has(Part::Idle) {
            tables.push(("Idle clients".to_owned(), self.idle()));
        }
        tables
    }

    fn flow(&self, flow: &'static str) -> Vec<Cells> {
        let head = [
            "n",
            "CPU ns/msg",
            "× n = 1",
            "msg/s",
            "allocs/msg",
            "peak MB",
            "open µs CPU",
            "open µs",
            "close µs CPU",
            "close µs",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        let one = self.median((Part::Flow, flow, 1)).get("cpu");
        for n in SIZES {
            let key = (Part::Flow, flow, n);
            let figures = self.median(key);
            let allocations = self.counted.get(&key).and_then(|f| f.get("allocations"));
            let micro = |name: &str| show(figures.get(name), |ns| number(ns / 1e3));
            table.push(vec![
                n.to_string(),
                show(figures.get("cpu"), number),
                show(figures.get("cpu").zip(one), |(cpu, one)| format!("{:.2}", cpu / one)),
                show(figures.get("rate"), rate),
                show(allocations, |n| format!("{n:.3}")),
                show(figures.get("memory"), |bytes| number(bytes / 1e6)),
                micro("open-cpu"),
                micro("open-wall"),
                micro("close-cpu"),
                micro("close-wall"),
            ]);
        }
        table
    }

    fn memory(&self) -> Vec<Cells> {
        let head = ["of", "n", "opened", "used once", "after a burst", "closed"];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for (&(part, what, n), figures) in &self.counted {
            if part != Part::Memory {
                continue;
            }
            let bytes = |name: &str| show(figures.get(name), |bytes| format!("{bytes:.0}"));
            if what == "clients" {
                for (word, name, closed) in [
                    ("client, one connection", "one", "one-closed"),
                    ("client, two connections", "two", "two-closed"),
                ] {
                    let none = "-".to_owned();
                    table.push(vec![
                        word.to_owned(),
                        n.to_string(),
                        bytes(name),
                        none.clone(),
                        none,
                        bytes(closed),
                    ]);
                }
            } else {
                table.push(vec![
                    what.to_owned(),
                    n.to_string(),
                    bytes("opened"),
                    bytes("used"),
                    bytes("burst"),
                    bytes("closed"),
                ]);
            }
        }
        table
    }

    fn clients(&self) -> Vec<Cells> {
        let head = [
            "runtime",
            "clients",
            "CPU ns/msg",
            "msg/s",
            "resident KiB each",
            "threads",
            "descriptors",
            "connect µs CPU",
            "connect µs",
            "close µs",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for &key in self.runs.keys().filter(|key| key.0 == Part::Clients) {
            let figures = self.median(key);
            let micro = |name: &str| show(figures.get(name), |ns| number(ns / 1e3));
            table.push(vec![
                key.1.to_owned(),
                key.2.to_string(),
                show(figures.get("cpu"), number),
                show(figures.get("rate"), rate),
                show(figures.get("resident"), |bytes| number(bytes / 1024.0)),
                show(figures.get("threads"), |n| format!("{n:.0}")),
                show(figures.get("descriptors"), |n| format!("{n:.0}")),
                micro("connect-cpu"),
                micro("connect-wall"),
                micro("close-wall"),
            ]);
        }
        table
    }

    fn threads(&self) -> Vec<Cells> {
        let head = [
            "who, producers, buffer",
            "n",
            "CPU ns/msg",
            "× n = 1",
            "msg/s",
            "× n = 1",
            "waits/msg",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for what in THREADS {
            let one = self.median((Part::Threads, what, 1));
            for n in [1, 2, 4, 8] {
                let figures = self.median((Part::Threads, what, n));
                let ratio = |name: &str| {
                    show(figures.get(name).zip(one.get(name)), |(f, one)| format!("{:.2}", f / one))
                };
                table.push(vec![
                    what.replace('-', ", "),
                    n.to_string(),
                    show(figures.get("cpu"), number),
                    ratio("cpu"),
                    show(figures.get("rate"), rate),
                    ratio("rate"),
                    show(figures.get("switches"), |n| format!("{n:.3}")),
                ]);
            }
        }
        table
    }

    fn idle(&self) -> Vec<Cells> {
        let head = ["scene", "of", "wake-ups/s and client", "waits/s and client", "CPU %"];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for (what, n) in IDLE {
            let figures = self.median((Part::Idle, what, n));
            table.push(vec![
                what.replacen('-', ", ", 1).replace('-', " "),
                n.to_string(),
                show(figures.get("wake-ups"), |n| format!("{n:.1}")),
                show(figures.get("switches"), |n| format!("{n:.1}")),
                show(figures.get("cpu"), |percent| format!("{percent:.3}")),
            ]);
        }
        table
    }

    /// A line for each flow that has to be flat, and for what else has a limit.
    fn verdicts(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let word = |ok: bool| if ok { "ok" } else { "over" };
        for (flow, _) in FLOWS.into_iter().filter(|(_, flat)| *flat) {
            let cpu = |n| self.median((Part::Flow, flow, n)).get("cpu");
            if let (Some(one), Some(many)) = (cpu(1), cpu(10_000)) {
                let ratio = many / one;
                let word = word(ratio <= FLAT);
                lines.push(format!(
                    "{flow}: {one:.0} ns with one, {many:.0} ns with 10,000: {ratio:.2}, limit {FLAT}, {word}"
                ));
            }
        }
        let refused = self.median((Part::Flow, "consumers-until-refused", 3_000));
        if let (Some(opened), Some(limit)) = (refused.get("opened"), refused.get("limit")) {
            lines.push(format!(
                "with {limit} channels a connection: {opened} consumers, then ChannelsExhausted"
            ));
        }
        for (what, name, limit) in [
            ("producers", "opened", 4096.0),
            ("confirm-producers", "opened", 4096.0),
            ("producers", "used", 4096.0),
            ("confirm-producers", "used", 4096.0),
        ] {
            let figures = self.counted.get(&(Part::Memory, what, 1_000));
            if let Some(bytes) = figures.and_then(|f| f.get(name)) {
                lines.push(format!(
                    "{what}, {name}: {bytes:.0} bytes, limit {limit}, {}",
                    word(bytes <= limit)
                ));
            }
        }
        if let Some(figures) = self.counted.get(&(Part::Memory, "clients", 100))
            && let Some((one, two)) = figures.get("one").zip(figures.get("two"))
        {
            let limit = 65_536.0;
            let ok = word(one <= limit && two - one <= limit);
            lines.push(format!(
                "client with one connection: {one:.0} bytes, with a second one {:.0} more, limit {limit}, {ok}",
                two - one
            ));
        }
        for (what, n) in IDLE {
            let figures = self.median((Part::Idle, what, n));
            if let (Some(woken), Some(cpu)) = (figures.get("wake-ups"), figures.get("cpu")) {
                let clients = if what.ends_with("-clients") { n as f64 } else { 1.0 };
                let ok = word(woken <= 12.0 && cpu / clients < 0.1);
                lines.push(format!(
                    "idle, {what}: {woken:.1} wake-ups a second, {:.3} % CPU a client, limits 12 and 0.1, {ok}",
                    cpu / clients
                ));
            }
        }
        lines
    }

    fn failures(&self) -> impl Iterator<Item = String> {
        self.failures
            .iter()
            .map(|((part, what, n), why)| format!("{} {what} {n} failed: {why}", part.name()))
    }
}

fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

fn show<T>(value: Option<T>, words: impl FnOnce(T) -> String) -> String {
    value.map_or("-".to_owned(), words)
}
