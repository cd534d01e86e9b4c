//! Large messages: bodies of a mebibyte and more leave without a copy, arrive with one, and hold up
//! nobody else.
//!
//! Memory is watched from outside: by the addresses that the transport sees, and by an allocator that
//! counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "tests: a panic is a failure; they use a part of the words"
)]

mod arriving;
mod leaving;
mod turns;
mod whole_client;

#[path = "../session/harness/mod.rs"]
mod harness;
#[path = "../session_consuming/words.rs"]
mod words;

use std::ops::Range;

use allocation_counter::AllocationInfo;

/// A mebibyte.
pub const MIB: usize = 1 << 20;

/// The most of a body that a frame of 131,072 bytes holds.
pub const CHUNK: usize = 131_072 - 8;

/// A body in which every byte depends on its place.
pub fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// Where it lies.
pub fn place(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

/// What was allocated meanwhile. What grows by `realloc` counts as a whole, as if it were copied.
pub fn allocated(act: impl FnOnce()) -> AllocationInfo {
    allocation_counter::measure(act)
}
