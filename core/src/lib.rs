//! Sans-IO AMQP 0-9-1 client core.

pub mod config;
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
pub mod uri;
pub mod wire;
