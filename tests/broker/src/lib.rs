#![doc = include_str!("../README.md")]
//!
//! ## Where to look
//!
//! - [`Broker`]: the broker on a port, and everything that a test can ask of it.
//! - [`FaultLink`]: a TCP proxy that cuts, stalls, delays and splits.
//! - [`BrokerState`]: the broker as a state machine; its own documentation is the contract.
//! - [`Pipe`]: one direction of a link in memory.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic"))]

mod broker;
mod error;
mod link;
mod personality;
mod pipe;
mod random;
mod server;
mod state;

pub use broker::{Broker, Builder};
pub use error::StartError;
pub use link::{Direction, FaultLink, LinkCounters};
pub use personality::{Ending, Personality, Tune};
pub use pipe::{BrokenPipe, Pipe, PipeRead, PipeSettings};
pub use random::Random;
pub use state::{
    BrokerState, ConnId, ConnectionInfo, Counters, Enqueued, Fact, Logged, Lost, Settings,
    StoredMessage,
};
