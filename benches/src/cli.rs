//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::child::Plan;
use crate::hand_over::{self, HandOver};
use crate::latency::{self, Latency, LatencyRun};
use crate::modes::{Mode, Task};
use crate::outage::{self, Outage};
use crate::raw::Target;
use crate::sink::Manner;
use crate::{AllocationCount, Fallible, LiveBytes, child, large, machine, scale, sink, versus};

/// Benchmarks of AMQP 0-9-1 clients, side by side.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All contestants in all modes, against the sink and a real broker; prints tables.
    Versus(Versus),
    /// Large bodies: CPU a mebibyte, out and in, and what small messages wait meanwhile.
    Large(Large),
    /// Latency under load: to acceptance, and to the confirm at a constant rate.
    Latency(Latency),
    /// One run of `latency`; prints a histogram on one line.
    #[command(hide = true)]
    LatencyRun(LatencyRun),
    /// The hand-over between publishing threads and the driver: queues with and without a lock.
    HandOver(HandOver),
    /// What a cut costs: from it to the first message sent again, and draining a full buffer.
    Outage(Outage),
    /// The fast sink alone: prints its port, and serves until killed.
    Sink(Sink),
    /// The sink counts and checks what the raw client sends and takes; prints its speed.
    SelfTest,
    /// Many producers, consumers, clients and threads, and none that does anything; prints tables.
    Scale(scale::Options),
    /// One measured run (what `scale` starts); prints its figures on one line.
    #[command(hide = true)]
    ScaleRun(scale::Child),
    /// One measured run (what `versus` starts); prints its figures on one line.
    #[command(hide = true)]
    Contestant(Contestant),
}

/// What `versus` is asked for.
#[derive(Debug, Args)]
pub(crate) struct Versus {
    /// Two minutes: fewer and shorter rounds, fewer contestants, and beside 16 B only some modes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these modes.
    #[arg(long, value_delimiter = ',')]
    pub(crate) modes: Vec<Mode>,
    /// Only these contestants.
    #[arg(long, value_delimiter = ',')]
    pub(crate) contestants: Vec<String>,
    /// Body sizes in bytes, instead of 16, 1024, 65536 and 1048576 (at the broker: 16).
    #[arg(long, value_delimiter = ',')]
    pub(crate) sizes: Vec<usize>,
    /// Rounds: the median of so many runs.
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// How long one run is measured, in milliseconds.
    #[arg(long)]
    pub(crate) budget: Option<u64>,
    /// What the clients talk to.
    #[arg(long, value_enum, default_value_t = Against::Both)]
    pub(crate) against: Against,
    /// A broker that is running, instead of a private RabbitMQ (as in AMQP_TEST_URL). Queues
    /// beginning with `lavinmq-benches` are emptied and deleted.
    #[arg(long)]
    pub(crate) url: Option<Target>,
    /// Leave it to the kernel which cores are used.
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// The core of the clients.
    #[arg(long, default_value_t = 0)]
    pub(crate) client_core: usize,
    /// The core of the sink, and of the private broker.
    #[arg(long, default_value_t = 1)]
    pub(crate) sink_core: usize,
    /// The sink looks for bytes this long before it sleeps, in microseconds: the client then
    /// does not pay for waking it. (Not in the latency modes, where both share a core.)
    #[arg(long, default_value_t = 0)]
    pub(crate) spin: u64,
    /// Write the tables to this file as well, as markdown.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Draw the plots into this directory: cost.svg and latency.svg.
    #[arg(long)]
    pub(crate) plots: Option<PathBuf>,
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// The sink, and then a broker.
    Both,
    Sink,
    Broker,
}

/// What `large` is asked for.
#[derive(Debug, Args)]
pub(crate) struct Large {
    /// Body sizes in bytes.
    #[arg(long, value_delimiter = ',', default_value = "65536,1048576,16777216")]
    pub(crate) sizes: Vec<usize>,
    /// Mebibytes of one run.
    #[arg(long, default_value_t = 512)]
    pub(crate) volume: usize,
    /// Rounds: the median of so many runs.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// How long small messages are timed, in milliseconds, each way.
    #[arg(long, default_value_t = 3000)]
    pub(crate) latency: u64,
    /// The core of the clients.
    #[arg(long, default_value_t = 0)]
    pub(crate) client_core: usize,
    /// The core of the sink.
    #[arg(long, default_value_t = 1)]
    pub(crate) sink_core: usize,
    /// Write the tables to this file as well, as markdown.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Sink {
    /// The loopback port; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Run on this core only.
    #[arg(long)]
    core: Option<usize>,
    /// Say on stderr what each connection did.
    #[arg(long)]
    verbose: bool,
    /// Look for bytes this long before sleeping, in microseconds.
    #[arg(long, default_value_t = 0)]
    spin: u64,
    /// The most channels of a connection, as offered; 0 is no limit.
    #[arg(long, default_value_t = sink::CHANNEL_MAX)]
    channel_max: u16,
}

#[derive(Debug, Args)]
struct Contestant {
    name: String,
    mode: Mode,
    #[arg(long)]
    url: Target,
    #[arg(long, default_value_t = 16)]
    size: usize,
    #[arg(long, default_value = "lavinmq-benches")]
    queue: String,
    /// The peer is our sink.
    #[arg(long)]
    sink: bool,
    /// Milliseconds.
    #[arg(long, default_value_t = 300)]
    budget: u64,
    #[arg(long)]
    core: Option<usize>,
    /// Publish transient messages even where the client's default is persistent ones.
    #[arg(long)]
    transient: bool,
    /// Count system calls.
    #[arg(long)]
    syscalls: bool,
}

/// Does what the command line says.
pub(crate) fn run(
    allocations: Option<AllocationCount>,
    live: Option<LiveBytes>,
) -> Fallible<ExitCode> {
    match Cli::parse().command {
        Command::Versus(options) => versus::run(&options)?,
        Command::Large(options) => large::run(&options)?,
        Command::Latency(options) => latency::run(&options)?,
        Command::LatencyRun(options) => latency::run_one(&options)?,
        Command::HandOver(options) => hand_over::run(&options)?,
        Command::Outage(options) => outage::run(&options)?,
        Command::Sink(options) => {
            options.core.map(machine::pin).transpose()?;
            let spin = Duration::from_micros(options.spin);
            sink::serve(
                options.port,
                Manner { verbose: options.verbose, spin, channel_max: options.channel_max },
            )?;
        }
        Command::Scale(options) => scale::run(&options)?,
        Command::ScaleRun(options) => scale::child(options, allocations, live)?,
        Command::SelfTest => sink::self_test(3_000_000)?,
        Command::Contestant(options) => {
            options.core.map(machine::pin).transpose()?;
            let plan = Plan {
                contestant: options.name,
                task: Task {
                    mode: options.mode,
                    size: options.size,
                    queue: options.queue,
                    transient: options.transient,
                },
                target: options.url,
                sink: options.sink,
                budget: Duration::from_millis(options.budget),
                syscalls: options.syscalls,
            };
            child::run(&plan, allocations)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
