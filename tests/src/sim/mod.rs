//! A deterministic simulation of the whole stack.

pub mod executor;
pub mod network;
pub mod pipe;
pub mod random;
pub mod runtime;
pub mod trace;
