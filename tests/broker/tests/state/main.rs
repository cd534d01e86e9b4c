//! The broker's state machine, driven frame by frame.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests may panic")]

mod common;
mod connections;
mod declarations;
mod messages;
