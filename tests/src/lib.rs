//! Simulator, oracle and suites
