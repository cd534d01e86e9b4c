//! Simulator, oracle and suites.

pub mod sim;
