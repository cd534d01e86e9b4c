//! Consuming: deliveries on their way to the application, and their settlements on the way back.

pub(crate) mod acks;
pub mod batch;
pub(crate) mod consumer;

pub use batch::Batch;

/// How the application settles a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settlement {
    /// Done: `basic.ack`.
    Ack,
    /// Back into the queue: `basic.nack` with requeue.
    Requeue,
    /// Away with it, or into the dead letter exchange: `basic.nack` without requeue.
    Reject,
    /// Back into the queue after the consumer's requeue delay: dropped without being settled, or
    /// its handler failed.
    RequeueLater,
}

/// A run of neighbouring tags that are settled alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettleRun {
    /// The generation of the channel that the tags belong to.
    pub generation: u64,
    /// The first tag.
    pub first: u64,
    /// The last tag, included.
    pub last: u64,
    /// What to do with them. Tags in the run that are settled already are left alone.
    pub settlement: Settlement,
}
