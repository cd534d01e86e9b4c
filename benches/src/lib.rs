//! Side-by-side benchmarks of AMQP 0-9-1 clients: one command, every client in a process of
//! its own, rounds interleaved, against a fast sink or a real broker. See `README.md`.
//!
//! From the bottom up: `wire` (frames), `sink` (the fast peer), `raw` (a blocking client
//! without comfort), `modes` (what is done) and `ceilings` (how fast it must be),
//! `contestants` (who does it), `usage` (what it cost), `child` (one measured run),
//! `versus` (all runs, interleaved), `report` (the tables); `large` (large bodies) and `scale`
//! (many of everything), by themselves.

mod ceilings;
mod child;
mod cli;
mod contestants;
mod hand_over;
mod large;
mod latency;
mod machine;
mod modes;
mod outage;
mod plots;
mod raw;
mod report;
mod runtimes;
mod scale;
mod sink;
mod syscalls;
mod table;
mod usage;
mod versus;
mod wire;

use std::process::ExitCode;

/// Why a benchmark could not run. Nobody matches on it: it is printed.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Whether it ran.
pub(crate) type Fallible<T = ()> = Result<T, Failure>;

/// The number of allocations of this process so far, where they are counted.
pub type AllocationCount = fn() -> u64;

/// The bytes that this process has allocated and not freed, where they are counted.
pub type LiveBytes = fn() -> u64;

/// Runs the program named by the command line. `allocations` and `live` count in the binary that
/// counts.
pub fn main(allocations: Option<AllocationCount>, live: Option<LiveBytes>) -> ExitCode {
    match cli::run(allocations, live) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("lavinmq-benches: {failure}");
            ExitCode::FAILURE
        }
    }
}
