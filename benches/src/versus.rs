//! All runs: starts the sinks, then one process per contestant, task and round, so that slow
//! minutes of the machine fall on all alike.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::child::Outcome;
use crate::cli::Versus;
use crate::contestants::{self, Entry};
use crate::modes::{Mode, Task};
use crate::report::{self, Row};
use crate::sink::CHANNEL_MAX;
use crate::{Fallible, machine};

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// Where messages go.
const QUEUE: &str = "lavinmq-benches";

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    budget: Duration,
}

/// A sink in a process of its own, ended with it.
pub(crate) struct Sink {
    process: Child,
    pub(crate) url: String,
}

impl Sink {
    pub(crate) fn start(
        program: &Path,
        core: Option<usize>,
        spin: u64,
        channel_max: u16,
    ) -> Fallible<Self> {
        let mut command = Command::new(program);
        command.args(["sink", "--spin", &spin.to_string()]).stdout(Stdio::piped());
        command.args(["--channel-max", &channel_max.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut process = command.spawn()?;
        let mut port = String::new();
        let output = process.stdout.take().ok_or("the sink has no output")?;
        BufReader::new(output).read_line(&mut port)?;
        Ok(Self { process, url: format!("amqp://guest:guest@127.0.0.1:{}", port.trim()) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It has no state to lose, and may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs everything that `options` ask for, and prints the tables.
pub(crate) fn run(options: &Versus) -> Fallible {
    if cfg!(debug_assertions) {
        eprintln!("not a release build: the figures mean nothing");
    }
    let program = std::env::current_exe()?;
    let counted = counted_program(&program);
    let pinned = !options.no_pin && std::thread::available_parallelism()?.get() > 1;
    let core = |core: usize| pinned.then_some(core);
    let (far, near) = match &options.url {
        Some(_) => (None, None),
        None => (
            Some(Sink::start(&program, core(options.sink_core), options.spin, CHANNEL_MAX)?),
            Some(Sink::start(&program, core(options.client_core), 0, CHANNEL_MAX)?),
        ),
    };

    let effort = effort(options);
    let entries = entries(options)?;
    let mut rows: Vec<Row> = Vec::new();
    for task in tasks(options) {
        rows.extend(entries.iter().map(|&entry| Row::new(entry, task.clone())));
    }
    let started = Instant::now();
    let load_before = machine::load();
    let per_round = rows.len();
    for round in 0..effort.rounds + usize::from(counted.is_some()) {
        // The last round is for the column of allocations alone.
        let counting = round == effort.rounds;
        for step in 0..per_round {
            // Each time somebody else begins.
            let row = &mut rows[order(step, entries.len(), round)];
            eprint!("\rround {round}, {}/{per_round}: {}          ", step + 1, row.label());
            let sink = if row.task.mode.is_latency() { &near } else { &far };
            let binary = if counting { counted.as_deref() } else { None };
            let mut command = Command::new(binary.unwrap_or(&program));
            command.args(["contestant", row.entry.name, row.task.mode.name()]);
            command.args(["--size", &row.task.size.to_string(), "--queue", &row.task.queue]);
            match (sink, &options.url) {
                (Some(sink), _) => command.args(["--sink", "--url", &sink.url]),
                (None, Some(target)) => command.args(["--url", &target.url]),
                (None, None) => return Err("no broker".into()),
            };
            let budget = if counting { effort.budget / 4 } else { effort.budget };
            command.args(["--budget", &budget.as_millis().to_string()]);
            if let Some(core) = core(options.client_core) {
                command.args(["--core", &core.to_string()]);
            }
            match said(command, DEADLINE).and_then(|said| said.parse::<Outcome>()) {
                Ok(outcome) if counting => row.allocations = outcome.allocations,
                Ok(outcome) => row.outcomes.push(outcome),
                Err(failure) => row.failures.push(failure.to_string()),
            }
        }
    }
    eprintln!();

    let mut about = machine::description();
    about.push(match &options.url {
        None => format!("against: the sink (spins {} µs before it sleeps)", options.spin),
        Some(target) => format!("against: a broker at {}:{}", target.host, target.port),
    });
    about.push(match (pinned, options.url.is_some()) {
        (false, _) => "not pinned".to_owned(),
        (true, true) => format!("client on core {}", options.client_core),
        (true, false) => format!(
            "client on core {}, sink on core {} (latency: on the client's)",
            options.client_core, options.sink_core
        ),
    });
    about.push(format!(
        "{} rounds of {} ms a run, interleaved, in {} s; load average before {load_before}, after {}",
        effort.rounds,
        effort.budget.as_millis(),
        started.elapsed().as_secs(),
        machine::load(),
    ));
    let report = report::Report { about, rows, broker: options.url.is_some() };
    print!("{}", report.text());
    if let Some(file) = &options.markdown {
        std::fs::write(file, report.markdown())?;
    }
    Ok(())
}

/// The place of a step among the rows: tasks in order, within a task the contestants rotated
/// by the round.
fn order(step: usize, contestants: usize, round: usize) -> usize {
    let (task, place) = (step / contestants, step % contestants);
    task * contestants + (place + round) % contestants
}

fn effort(options: &Versus) -> Effort {
    let (rounds, budget) = if options.quick { (3, 100) } else { (7, 300) };
    Effort {
        rounds: options.rounds.unwrap_or(rounds).max(1),
        budget: Duration::from_millis(options.budget.unwrap_or(budget)),
    }
}

fn entries(options: &Versus) -> Fallible<Vec<&'static Entry>> {
    if options.contestants.is_empty() {
        return Ok(contestants::all().filter(|entry| entry.quick || !options.quick).collect());
    }
    options.contestants.iter().map(|name| contestants::named(name)).collect()
}

fn tasks(options: &Versus) -> Vec<Task> {
    let modes = if options.modes.is_empty() { &Mode::ALL[..] } else { &options.modes };
    let quick = options.quick && options.sizes.is_empty();
    let sizes = if options.sizes.is_empty() { &[16, 1024][..] } else { &options.sizes };
    let mut tasks = Vec::new();
    for &size in sizes {
        for &mode in modes {
            let has_ceiling = matches!(mode, Mode::Publish | Mode::ConsumeNoAck);
            if !quick || size == 16 || has_ceiling {
                tasks.push(Task { mode, size, queue: QUEUE.to_owned() });
            }
        }
    }
    tasks
}

/// Builds the binary that counts, beside this one: everything but the last step is built
/// already. Without cargo (the program was copied elsewhere) there is no such column.
pub(crate) fn counted_program(program: &Path) -> Option<PathBuf> {
    let path = program.with_file_name("lavinmq-benches-counted");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", env!("CARGO_PKG_NAME")]);
        build.args(["--bin", "lavinmq-benches-counted"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        // Its fate shows in whether the file is there.
        let _ = build.status();
    }
    path.exists().then_some(path)
}

/// Runs one measuring process to its end, or ends it at the deadline: what it says.
pub(crate) fn said(mut command: Command, deadline: Duration) -> Fallible<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let errors = child.stderr.take().ok_or("no errors")?;
    let child = Arc::new(Mutex::new(child));
    let (done, is_done) = mpsc::channel::<()>();
    let watched = Arc::clone(&child);
    let watchdog = std::thread::spawn(move || {
        let late = is_done.recv_timeout(deadline).is_err();
        if late {
            let mut child = watched.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
        }
        late
    });
    let mut said = String::new();
    let mut complaint = String::new();
    let read = { BufReader::new(output).read_to_string(&mut said) };
    // Short enough for the pipe to hold it meanwhile.
    let _ = BufReader::new(errors).read_to_string(&mut complaint);
    let _ = done.send(());
    let late = watchdog.join().unwrap_or(false);
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait()?;
    read?;
    if late {
        return Err(format!("hung for {} s", deadline.as_secs()).into());
    }
    if !status.success() {
        return Err(complaint.lines().last().unwrap_or("failed without a word").into());
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_visits_every_row_once_and_begins_with_another_contestant() {
        for round in 0..4 {
            let mut visited: Vec<_> = (0..12).map(|step| order(step, 3, round)).collect();
            assert_eq!(visited[0], round % 3);
            visited.sort_unstable();
            assert_eq!(visited, (0..12).collect::<Vec<_>>());
        }
    }
}
