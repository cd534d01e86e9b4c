//! Simulator, oracle and suites.

pub mod chaos;
pub mod live;
pub mod runtimes;
pub mod sim;
pub mod small;
