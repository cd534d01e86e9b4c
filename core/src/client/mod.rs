//! The handles that applications hold, and what they share with the driver. All wakers live here.

pub(crate) mod link;
pub(crate) mod sync;
