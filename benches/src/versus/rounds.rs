//! The runs against one peer: one process for each contestant, task and round, interleaved, so
//! that slow minutes of the machine fall on all alike.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::peer::Peer;
use crate::Fallible;
use crate::child::Outcome;
use crate::report::Row;

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Timed ones.
    pub(super) rounds: usize,
    /// Those that count allocations and system calls.
    pub(super) counting: usize,
    /// What is measured in a timed round.
    pub(super) budget: Duration,
}

/// What runs contestants.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) timed: PathBuf,
    /// Over an allocator that counts.
    pub(super) counting: Option<PathBuf>,
    /// The contestants' core.
    pub(super) core: Option<usize>,
    /// System calls can be counted.
    pub(super) syscalls: bool,
}

/// Fills `rows`, which come task by task, each task with the same contestants.
pub(super) fn play(
    rows: &mut [Row],
    contestants: usize,
    effort: Effort,
    programs: &Programs,
    peer: &Peer,
) {
    let steps = rows.len();
    for round in 0..effort.rounds + effort.counting {
        let counting = round >= effort.rounds;
        for step in 0..steps {
            // Each time somebody else begins.
            let row = &mut rows[order(step, contestants, round)];
            // Who hung at a broker once does so again, for as long.
            if row.excused.is_some() || (peer.is_broker() && !row.failures.is_empty()) {
                continue;
            }
            eprint!("\rround {}, {}/{steps}: {:60}", round + 1, step + 1, row.label());
            let said = said(command(row, counting, effort, programs, peer), DEADLINE);
            match said.and_then(|said| said.parse::<Outcome>()) {
                Ok(outcome) if counting => row.counts.push(outcome),
                Ok(outcome) => row.outcomes.push(outcome),
                Err(failure) => row.failures.push(failure.to_string()),
            }
        }
    }
    eprintln!();
}

/// The place of a step among the rows: tasks in order, within a task the contestants rotated
/// by the round.
fn order(step: usize, contestants: usize, round: usize) -> usize {
    let (task, place) = (step / contestants, step % contestants);
    task * contestants + (place + round) % contestants
}

fn command(row: &Row, counting: bool, effort: Effort, programs: &Programs, peer: &Peer) -> Command {
    let Row { entry, task, .. } = row;
    let counted = programs.counting.as_deref().filter(|_| counting);
    let mut command = Command::new(counted.unwrap_or(&programs.timed));
    command.args(["contestant", entry.name, task.mode.name()]);
    command.args(["--size", &task.size.to_string(), "--queue", &task.queue]);
    command.args(["--url", peer.url(task)]);
    if !peer.is_broker() {
        command.arg("--sink");
    }
    if task.transient {
        command.arg("--transient");
    }
    if counting && programs.syscalls {
        command.arg("--syscalls");
    }
    let budget = if counting { effort.budget / 4 } else { effort.budget };
    command.args(["--budget", &budget.as_millis().to_string()]);
    if let Some(core) = programs.core {
        command.args(["--core", &core.to_string()]);
    }
    command
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
