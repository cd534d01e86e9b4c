//! What the fuzz targets check: one module a target, each with a function `check` that panics on a
//! finding. `tests/tests/corpus.rs` includes this file and runs the same functions over the committed
//! corpora, on stable.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a panic is the finding"
)]

pub mod connection;
pub mod differential;
pub mod frame_decode;
mod heap;
mod input;
pub mod operations;
pub mod split;
pub mod tables;
pub mod uri;
pub mod world;
