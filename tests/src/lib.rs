//! Simulator, oracle and suites.

pub mod live;
pub mod runtimes;
pub mod sim;
