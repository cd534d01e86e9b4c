//! What everything that goes to a real broker shares: the broker itself (a private RabbitMQ, or one
//! that is running), its control, and the witness.

// What cannot go on ends its test: this is for tests only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations
)]

pub mod broker;
pub mod witness;
