//! Orders through a bad network, on tokio:
//!
//! ```text
//! cargo run --release -p lavinmq-tokio --example quickstart [amqp://user:password@host/vhost]
//! ```
//!
//! The program itself is in `quickstart/common.rs`: it is the same for every runtime.

use std::process::ExitCode;

use lavinmq_tokio as lavinmq;

#[path = "quickstart/common.rs"]
mod common;

#[tokio::main]
pub(crate) async fn main() -> ExitCode {
    common::main("tokio").await
}
