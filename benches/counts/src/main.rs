//! Counts what one message costs in each mode, and compares with FIGURES.md.
//!
//!     cargo run --release -p lavinmq-counts               compare; fails where a figure changed by over 5 %
//!     cargo run --release -p lavinmq-counts -- --update   write the figures as they are now
//!
//! `--without-instructions` does without valgrind and gungraun-runner.

use std::{
    alloc::System,
    collections::HashMap,
    env, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use lavinmq_counts::{
    figures::{COLUMNS, INSTRUCTIONS, Row, Table},
    modes::{Bench, MODES, Mode},
    network::Events,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/FIGURES.md");

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lavinmq-counts: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing has changed.
fn run() -> Fallible<bool> {
    let (mut update, mut instructions) = (false, true);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--update" => update = true,
            "--without-instructions" => instructions = false,
            other => return Err(format!("{other}: no such option").into()),
        }
    }
    if update && !instructions {
        return Err("an update needs the instructions, too".into());
    }
    let counted = if instructions { count_instructions()? } else { HashMap::new() };
    let compiler = compiler()?;
    let rows = MODES.iter().map(|&mode| row(mode, counted.get(mode.name).copied()));
    let now = Table { compiler, rows: rows.collect() };
    if update {
        fs::write(Path::new(FILE), now.to_string())?;
        println!("{FILE} is written");
        return Ok(true);
    }
    println!("{now}");
    let committed = fs::read_to_string(FILE)?;
    let committed = Table::parse(&committed).ok_or("FIGURES.md is no table of these columns")?;
    Ok(compare(&committed, &now))
}

/// Says what has changed, and whether nothing has.
fn compare(committed: &Table, now: &Table) -> bool {
    let same_compiler = committed.compiler == now.compiler;
    let mut passed = true;
    for difference in committed.differences(now) {
        if difference.column == INSTRUCTIONS && !same_compiler {
            println!("warning: {}", difference.text);
        } else {
            println!("CHANGED: {}", difference.text);
            passed = false;
        }
    }
    if !same_compiler {
        let (ours, theirs) = (&now.compiler, &committed.compiler);
        println!("warning: instructions are held for {theirs} alone; this is {ours}");
    }
    if !passed {
        println!(
            "A figure that grew is to be explained or mended, one that shrank to be kept. Then:\n    \
             cargo run --release -p lavinmq-counts -- --update"
        );
    }
    passed
}

fn row(mode: Mode, instructions: Option<f64>) -> Row {
    let mut bench = Bench::new(mode);
    let before = ALLOCATOR.stats();
    let events = bench.measured();
    let allocated = ALLOCATOR.stats() - before;
    bench.check();
    let Events {
        reads,
        reads_pending,
        writes,
        writes_pending,
        flushes,
        driver_wakes,
        application_wakes,
        driver_polls,
        application_polls,
    } = events;
    let per_message = |count: u64| Some(count as f64 / mode.messages as f64);
    let figures: [_; COLUMNS.len()] = [
        // A realloc is a trip to the allocator, too.
        per_message((allocated.allocations + allocated.reallocations) as u64),
        per_message(allocated.bytes_allocated as u64),
        per_message(reads),
        per_message(reads_pending),
        per_message(writes),
        per_message(writes_pending),
        per_message(flushes),
        per_message(driver_wakes),
        per_message(driver_polls),
        per_message(application_wakes),
        per_message(application_polls),
        instructions,
    ];
    Row { mode: mode.name.to_owned(), figures }
}

/// Instructions per message, by mode: from benches/instructions.rs.
fn count_instructions() -> Fallible<HashMap<&'static str, f64>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--quiet", "--package", env!("CARGO_PKG_NAME"), "--bench", "instructions"])
        .args(["--", "--output-format=json"])
        // It would change nothing to turn it off, and not every container may.
        .env("GUNGRAUN_ALLOW_ASLR", "yes")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the instructions could not be counted".into());
    }
    let mut counted = HashMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let summary: serde_json::Value = serde_json::from_str(line)?;
        let id = summary["id"].as_str().ok_or("a summary without an id")?;
        let mode = Mode::named(&id.replace('_', "-")).ok_or("a summary of no mode")?;
        let instructions =
            summary["profiles"][0]["data"]["total"]["metrics"]["Ir"]["values"]["new"]
                .as_f64()
                .ok_or("a summary without instructions")?;
        counted.insert(mode.name, instructions / mode.messages as f64);
    }
    match MODES.iter().find(|mode| !counted.contains_key(mode.name)) {
        None => Ok(counted),
        Some(mode) => Err(format!("{} is missing in benches/instructions.rs", mode.name).into()),
    }
}

/// What the instructions depend on beside the sources.
fn compiler() -> Fallible<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = String::from_utf8(Command::new(rustc).arg("-vV").output()?.stdout)?;
    let field = |name| {
        let mut lines = output.lines();
        lines.find_map(|line| line.strip_prefix(name)).ok_or("rustc does not say its version")
    };
    Ok(format!("rustc {} for {}", field("release: ")?, field("host: ")?))
}
