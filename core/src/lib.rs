//! Sans-IO AMQP 0-9-1 client core.

pub mod client;
mod arena;
mod backoff;
pub mod config;
mod connection;
pub mod consume;
pub mod error;
pub mod event;
pub mod ids;
pub mod message;
pub mod publish;
pub mod runtime;
pub mod session;
pub mod stats;
pub mod time;
mod timers;
mod topology;
pub mod uri;
pub mod wire;
