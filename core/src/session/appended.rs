//! What was appended to a connection's stream and is not surely written yet.

use crate::{
    consume::acks,
    ids::{ConsumerId, ProducerId},
};

/// A stretch of a connection's stream that somebody waits for, by the offset after its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub(crate) end: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// Messages of a producer, from one place to another, the last one included.
    Messages { producer: ProducerId, first: u64, last: u64 },
    /// Settlements of a consumer on its channel of this generation; so many of its `settle` calls are
    /// covered then.
    Settlements { consumer: ConsumerId, generation: u64, settled: acks::Settled, settles: u64 },
}
