//! A deterministic simulation of the whole stack.
//!
//! The real client, its driver, producers, consumers and receipts run on a third runtime: one thread,
//! a virtual clock, memory pipes, and every choice drawn from a seed. Read [`world`] first.

pub mod accounts;
pub mod campaign;
pub mod executor;
pub mod heap;
pub mod host;
pub mod network;
pub mod pipe;
pub mod random;
pub mod reconnects;
pub mod runtime;
pub mod scenario;
pub mod shrink;
pub mod states;
pub mod tap;
pub mod trace;
pub mod world;
