//! Soak and chaos: load on a real broker that is killed, restarted, blocked and cut off, and the
//! accounts afterwards.
//!
//! [`run`] is one run on one runtime: [`load`] publishes, [`consumers`] consume, [`faults`] disturbs, and then
//! everything heals and [`verdict`] compares what the client said of each message (the [`ledger`])
//! with what consumers received and what lapin drains out of the queues.

// What cannot go on ends the run: this is for tests only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations
)]

pub mod consumers;
pub mod faults;
pub mod ledger;
pub mod load;
pub mod resources;
mod run;
pub mod verdict;

pub use run::{Outcome, Plan, run};
