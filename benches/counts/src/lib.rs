//! What one message costs, in counts: allocations, calls to the transport, wake-ups, instructions.
//!
//! The whole client (handles, driver, session) runs on one thread over memory that counts
//! ([`transport`]), against a peer that knows just enough AMQP ([`peer`]). There is no real clock
//! and nothing random, so a count is the same in each run, and a change in it is a change in the client.
//!
//! What is not the client's (the peer, the transport, the executor's queue) runs inside
//! [`apart`](apart::apart), whose instructions are not counted, and does not allocate once it is warm.

// A world in which something fails is of no use: the program ends.
#![allow(clippy::expect_used, clippy::unwrap_used)]

pub mod apart;
pub mod executor;
pub mod figures;
pub mod modes;
pub mod network;
pub mod peer;
pub mod transport;
