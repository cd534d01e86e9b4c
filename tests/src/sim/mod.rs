//! A deterministic simulation of the whole stack.

pub mod executor;
pub mod random;
pub mod trace;
