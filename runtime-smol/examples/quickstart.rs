//! Orders through a bad network, on smol:
//!
//! ```text
//! cargo run --release -p lavinmq-smol --example quickstart [amqp://user:password@host/vhost]
//! ```
//!
//! The program itself is in lavinmq-tokio's `examples/quickstart/common.rs`: it is the same for
//! every runtime.

use std::process::ExitCode;

use lavinmq_smol as lavinmq;

#[path = "../../runtime-tokio/examples/quickstart/common.rs"]
mod common;

pub(crate) fn main() -> ExitCode {
    smol::block_on(common::main("smol"))
}
