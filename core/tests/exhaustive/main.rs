//! Exhaustive layers: every byte of a canonical trace as the place of a cut, every split of its reads,
//! every state against every kind of failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "tests: a panic is a failure"
)]

mod broker;
mod cells;
mod cuts;
mod failures;
#[path = "../session/harness/mod.rs"]
mod harness;
mod oracle;
mod splits;
mod states;
mod table;
mod trace;
mod world;
