//! Consuming and closing: `Session` against a broker that is played by hand.
//!
//! Each test is named after the line of the semantics that it checks (`sNN`, `fNN`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "tests: a panic is a failure"
)]

mod cancelled;
mod closing;
mod coalescing;
mod explain;
#[path = "../session/harness/mod.rs"]
mod harness;
mod loss;
mod many;
mod no_ack;
mod settling;
mod shutdown;
mod subscribing;
mod together;
mod words;
