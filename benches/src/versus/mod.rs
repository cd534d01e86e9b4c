//! All runs: the contestants against the sink, then against a real broker, and what came of it.

pub(crate) mod peer;
pub(crate) mod rounds;

use std::time::{Duration, Instant};

use crate::cli::{Against, Versus};
use crate::contestants::{self, Entry};
use crate::modes::{ECHO, Mode, Task};
use crate::raw::Target;
use crate::report::{Measure, Part, Report, Row};
use crate::{Fallible, machine, plots, syscalls};
use peer::{Broker, Peer, Sink};
use rounds::{Effort, Programs};

/// Where messages go.
const QUEUE: &str = "lavinmq-benches";

/// Runs everything that `options` ask for, and prints the tables.
pub(crate) fn run(options: &Versus) -> Fallible {
    if cfg!(debug_assertions) {
        eprintln!("not a release build: the figures mean nothing");
    }
    let program = std::env::current_exe()?;
    let pinned = !options.no_pin && std::thread::available_parallelism()?.get() > 1;
    let core = |core: usize| pinned.then_some(core);
    let mut notes = Vec::new();
    let obstacle = syscalls::obstacle();
    let programs = Programs {
        counting: rounds::counted_program(&program),
        timed: program,
        core: core(options.client_core),
        syscalls: obstacle.is_none(),
    };
    if let Some(why) = obstacle {
        notes.push(format!("no system calls: counting them is not permitted here: {why}"));
    }
    if programs.counting.is_none() {
        notes.push("no allocations: the program that counts them could not be built".to_owned());
    }
    let entries = entries(options)?;

    let load_before = machine::load();
    let started = Instant::now();
    let mut parts = Vec::new();
    if options.against != Against::Broker {
        let peer = Peer::Sinks {
            far: Sink::start(&programs.timed, core(options.sink_core), options.spin)?,
            near: Sink::start(&programs.timed, core(options.client_core), 0)?,
        };
        let cores = match pinned {
            true => format!(
                "client on core {}, sink on core {} (latency: on the client's)",
                options.client_core, options.sink_core
            ),
            false => "not pinned".to_owned(),
        };
        let about = format!("against: the sink (spins {} µs before it sleeps)", options.spin);
        parts.push(part(options, &entries, &programs, &peer, vec![about, cores]));
    }
    if options.against != Against::Sink {
        match broker(options, core(options.sink_core)) {
            Ok(broker) => {
                let cores = core(options.client_core)
                    .map_or("not pinned".to_owned(), |core| format!("client on core {core}"));
                let about = vec![broker.about.clone(), cores];
                parts.push(part(options, &entries, &programs, &Peer::Broker(broker), about));
            }
            Err(why) => notes.push(format!("the part with a real broker did not run: {why}")),
        }
    }

    let mut about = machine::description();
    about.push(format!(
        "{} s in all; load average before {load_before}, after {}",
        started.elapsed().as_secs(),
        machine::load()
    ));
    if let Some(directory) = &options.plots {
        plots::write(&parts, directory)?;
    }
    let report = Report { about, parts, notes };
    print!("{}", report.text());
    if let Some(file) = &options.markdown {
        std::fs::write(file, report.markdown())?;
    }
    Ok(())
}

/// Everybody in every task, against one peer.
fn part(
    options: &Versus,
    entries: &[&'static Entry],
    programs: &Programs,
    peer: &Peer,
    mut about: Vec<String>,
) -> Part {
    let broker = peer.is_broker();
    let mut rows: Vec<Row> = Vec::new();
    for task in tasks(options, broker) {
        let measure = Measure::of(&task, broker);
        rows.extend(entries.iter().map(|&entry| {
            let mut row = Row::new(entry, task.clone(), measure);
            if broker && task.mode.consumes() && entry.deaf {
                row.excused = Some("it loses deliveries that come together with consume-ok");
            }
            row
        }));
    }
    let effort = effort(options, broker);
    let started = Instant::now();
    rounds::play(&mut rows, entries.len(), effort, programs, peer);
    about.push(format!(
        "{} rounds of {} ms a run, interleaved, and {} that count, in {} s",
        effort.rounds,
        effort.budget.as_millis(),
        effort.counting,
        started.elapsed().as_secs(),
    ));
    Part { about, broker, rows }
}

/// The one that was asked for, or one of our own.
fn broker(options: &Versus, core: Option<usize>) -> Fallible<Broker> {
    let named = std::env::var("AMQP_TEST_URL").ok().filter(|url| !url.is_empty());
    match (&options.url, named) {
        (Some(target), _) => Broker::at(target),
        (None, Some(url)) => Broker::at(&url.parse::<Target>()?),
        (None, None) => Broker::start(core),
    }
}

fn effort(options: &Versus, broker: bool) -> Effort {
    let (rounds, counting, budget) = match (options.quick, broker) {
        (false, false) => (5, 2, 300),
        (false, true) => (3, 1, 500),
        (true, false) => (2, 1, 60),
        (true, true) => (2, 0, 100),
    };
    Effort {
        rounds: options.rounds.unwrap_or(rounds).max(1),
        counting,
        budget: Duration::from_millis(options.budget.unwrap_or(budget)),
    }
}

fn entries(options: &Versus) -> Fallible<Vec<&'static Entry>> {
    if options.contestants.is_empty() {
        return Ok(contestants::all().filter(|entry| entry.quick || !options.quick).collect());
    }
    options.contestants.iter().map(|name| contestants::named(name)).collect()
}

/// What is done: at 16 B and 1 KiB every mode, with large bodies where bytes are what counts, at
/// a broker every mode at 16 B, and confirms twice: of transient messages, which is what a
/// comparison needs, and of persistent ones, which is what a confirm is for.
fn tasks(options: &Versus, broker: bool) -> Vec<Task> {
    let task = |mode: Mode, size| {
        let queue = if mode == Mode::PingPong { ECHO } else { QUEUE }.to_owned();
        let transient = broker && mode.confirms() && mode != Mode::ConfirmPersistent;
        Task { mode, size, queue, transient }
    };
    let sizes: &[usize] = match (options.sizes.as_slice(), broker) {
        ([], true) => &[16],
        ([], false) => &[16, 1 << 10, 64 << 10, 1 << 20],
        (sizes, _) => sizes,
    };
    let modes = |size: usize| -> Vec<Mode> {
        if !options.modes.is_empty() {
            return options.modes.clone();
        }
        match (size, options.quick, broker) {
            (_, true, true) => BROKER_QUICK.to_vec(),
            (_, false, true) => Mode::ALL.into_iter().chain([Mode::ConfirmPersistent]).collect(),
            (16, ..) => Mode::ALL.to_vec(),
            (1_024, false, false) => Mode::ALL.to_vec(),
            (1_024, true, false) => vec![Mode::Publish, Mode::ConsumeNoAck],
            (_, false, false) => LARGE.to_vec(),
            (_, true, false) => vec![Mode::Publish],
        }
    };
    sizes
        .iter()
        .flat_map(|&size| modes(size).into_iter().map(move |mode| (mode, size)))
        .map(|(mode, size)| task(mode, size))
        .collect()
}

/// The modes of bodies above 1 KiB.
const LARGE: [Mode; 4] =
    [Mode::Publish, Mode::ConfirmPipelined, Mode::ConsumeNoAck, Mode::ConsumeAck100];

/// The modes of a quick run against a broker.
const BROKER_QUICK: [Mode; 4] =
    [Mode::Publish, Mode::ConfirmPipelined, Mode::ConsumeNoAck, Mode::ConsumeAck1000];
