//! Sans-IO AMQP 0-9-1 client core.

pub mod config;
pub mod error;
pub mod event;
pub mod message;
pub mod runtime;
pub mod stats;
pub mod time;
pub mod wire;
