//! f23: every public future, dropped after 0, 1, 2, … polls until it completes, while it waits for
//! one reason or another.
//!
//! Between two polls one thing happens in the world: the driver is polled, or bytes of one connection
//! move in one direction. So a future is dropped before and after each step of what it waits for: the
//! request not taken, taken, written, read by the broker, answered. Before acceptance nothing may have
//! happened; after it everything still must. The broker says which it was, and:
//!
//! - no waker of the dropped future is kept by anybody;
//! - the account adds up, and nobody counts as waiting;
//! - `explain()` tells of nothing that is still waited for, and the broker's channels, consumers and
//!   connections are those of before;
//! - the client goes on working, and closes cleanly.
//!
//! [`list`] reads the sources, so that a public future without a row here fails the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod list;
mod rows;
mod stage;
mod world;
