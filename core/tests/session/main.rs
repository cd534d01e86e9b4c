//! `Session` against a broker that is played by hand: every byte, every event, virtual time.
//!
//! Each test is named after the line of the semantics that it checks (`sNN`, `fNN`), or after the
//! row of the table of transitions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "tests: a panic is a failure"
)]

mod accounts;
mod channels;
mod closing;
mod copies;
mod cuts;
mod explain;
mod handshake;
mod harness;
mod liveness;
mod publishing;
mod recovery;
mod settled;
