//! The handles that applications hold, and what they share with the driver. All wakers live here.

mod account;
pub(crate) mod hand_over;
pub(crate) mod limits;
pub(crate) mod link;
mod outcomes;
mod producer;
pub(crate) mod producer_shared;
mod publish;
mod receipt;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
pub(crate) mod waiters;

pub use producer::{Confirm, FireAndForget, Mode, Producer};
pub use publish::Publish;
pub use receipt::{Flush, Receipt};
