//! The handles that applications hold, and what they share with the driver. All wakers live here.

mod account;
mod answer;
mod builders;
#[expect(clippy::module_inception, reason = "the client itself")]
mod client;
pub(crate) mod client_shared;
mod connect;
mod consumer;
pub(crate) mod consumer_queue;
#[cfg(test)]
mod consumer_tests;
mod delivery;
pub(crate) mod events;
pub(crate) mod hand_over;
pub(crate) mod hooks;
pub(crate) mod link;
pub(crate) mod opened;
pub(crate) mod options;
mod outcomes;
mod producer;
pub(crate) mod producer_shared;
pub(crate) mod producers;
mod publish;
pub(crate) mod queue;
mod receipt;
mod settles;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
mod unwanted;
pub(crate) mod waiters;
mod waiting;

pub use builders::{ConsumerBuilder, ProducerBuilder};
pub use client::{Client, Health};
pub use connect::Connect;
pub use consumer::{BoxError, Consumer, ConsumerHandle, Kind, Manual, NoAck, OnFailure};
pub use delivery::{Acker, Delivery, Received, Settle};
pub use events::Events;
pub use options::Options;
pub use producer::{Confirm, FireAndForget, Mode, Producer};
pub use publish::Publish;
pub use queue::{Queue, QueueBuilder, QueueRef};
pub use receipt::{Flush, Receipt};
