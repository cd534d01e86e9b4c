//! Simulator, oracle and suites.

pub mod sim;
pub mod small;
