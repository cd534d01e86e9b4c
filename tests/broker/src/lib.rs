//! An in-process AMQP 0-9-1 broker and a fault link, for tests.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

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
    BrokerState, ConnId, ConnectionInfo, Counters, Enqueued, Logged, Settings, StoredMessage,
};
