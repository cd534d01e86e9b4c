//! The core of an AMQP 0-9-1 client for LavinMQ and RabbitMQ: everything but sockets, time and threads.
//!
//! Applications use `lavinmq-tokio` or `lavinmq-smol`, which add those to it and export the rest.
//! This crate alone is for event loops of one's own, for simulation and for fuzzing.
//!
//! # Promises, in this order
//!
//! 1. Every accepted message has exactly one reported outcome ([`Verdict`], or confirmed, or sent).
//! 2. The broker is the bottleneck, never the client.
//! 3. The whole behaviour can be replayed from a seed.
//!
//! # The run loop
//!
//! [`session::Session`] is a pure state machine. Whoever drives it makes one call that tells it
//! something (`handle_*`), or asks it for something, and then drains every output (`poll_*`,
//! `transmit`). Its type says which methods are which. `examples/blocking.rs` is a whole driver on
//! a blocking socket, in about a hundred lines; [`Driver`] is the one that the runtime crates spawn.
//!
//! Modules import only from those listed before them: `config`, `error`, `event`, `stats`, `uri`,
//! [`wire`], `time`, timers and backoff, the connection, [`publish`], [`consume`], the topology,
//! [`session`], [`client`], [`driver`]. Clocks, locks and wakers exist in the last two only;
//! `clippy.toml` sees to it.
//!
//! # Large messages
//!
//! A body leaves from where it lies: given as `Bytes` (or as a `Vec<u8>` or `String` that is moved in),
//! it reaches the transport as slices of the same memory, the first time and each time that it is sent
//! again, and is freed with the message's outcome. What allocates is its frames' heads. (A frame of
//! less than 4 KiB is copied, which costs less than a slice of its own: so are small bodies, and what is
//! left of a large one for its last frame.)
//!
//! Each byte of a body that arrives is copied once, from the receive buffer (64 KiB at most) into its
//! place; the application gets that memory. It grows with what has arrived, whatever was announced, to
//! an eighth, a quarter, a half and all of the size, so that allocators that cannot extend a block in
//! place, nor move its pages, copy it once over. On a connection on which a body as long has arrived
//! before, one body at a time has all of its memory at once. (Of frames under 16 KiB, where a broker wants
//! those, one in each read is moved to the front of the buffer first.)
//!
//! Bodies on different channels take turns, frame by frame (131,072 bytes, if the broker allows). So a
//! small message that is published while large ones are being written waits for at most
//!
//! - what the driver's turn goes on to write, and what is encoded ahead: less than 512 KiB together,
//! - one frame of each large body on another channel.
//!
//! Acks, declarations and heartbeats wait for the former alone, and one poll of the driver moves about
//! 128 KiB before the other tasks on its thread have their turn. What the kernel's send buffer holds comes
//! on top. On the same channel a message waits for the whole of the one before it: AMQP allows nothing
//! between its frames. Producers have channels of their own while there are at most `own_channels` (64)
//! of them, then they share. Large bodies and small ones that must not wait belong on different clients.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | accepted | taken by `publish`: has exactly one outcome from then on |
//! | buffer, queue | a producer's messages that were never encoded; they can be evicted and expire |
//! | window | what is encoded and not settled; sent again, from its start, when its channel is lost |
//! | sequence | a message's number within its producer, from 1, drawn at acceptance |
//! | place | a message's position in the window; it never changes |
//! | settled | of a message: has its outcome; of a delivery: acked, requeued or rejected |
//! | verdict | an outcome that is neither confirmed nor sent |
//! | hand-over | the lock-free queue from publishing threads to the driver |
//! | lane | the channel that producers publish through, across its re-openings |
//! | generation | the number of one opening of a consumer's channel; older deliveries are stale |
//! | batch | deliveries that arrived in one read, sharing one allocation |
//! | turn | one pass of the driver over everything |
//! | loss | why a connection ended |

mod arena;
mod backoff;
pub mod client;
pub mod config;
mod connection;
pub mod consume;
pub mod driver;
pub mod error;
pub mod event;
pub mod ids;
pub mod message;
pub mod publish;
pub mod runtime;
#[cfg(feature = "sabotage")]
#[doc(hidden)]
pub mod sabotage;
pub mod session;
pub mod stats;
pub mod time;
mod timers;
mod topology;
pub mod uri;
pub mod wire;

/// The values of headers and arguments, as amq-protocol has them.
pub use amq_protocol::types;
pub use client::{
    Acker, BoxError, Client, Confirm, Connect, Consumer, ConsumerBuilder, ConsumerHandle, Delivery,
    Events, FireAndForget, Flush, Health, Kind, Manual, Mode, NoAck, OnFailure, Options, Producer,
    ProducerBuilder, Publish, Queue, QueueBuilder, QueueRef, Receipt, Received, Settle,
};
pub use config::{BufferPolicy, Deadlines, Limits, Target, WhenCancelled, WhenOffline};
pub use driver::Driver;
pub use error::{
    ConnectError, ConsumeError, DeclareError, NotConfirmed, OpenError, OptionsError, PublishError,
};
pub use event::{DropReason, EndReason, Event, Settled, State, Verdict};
pub use message::{Message, Properties};
pub use session::Report;
pub use stats::{ConsumerStats, ProducerStats, Stats};
pub use time::Time;

#[cfg(test)]
mod tests {
    use super::*;

    const fn sends<T: Send + 'static>() {}
    const fn shares<T: Send + Sync + Unpin + 'static>() {}

    #[test]
    fn handles_go_where_applications_take_them() {
        shares::<Client>();
        shares::<Producer<Confirm>>();
        shares::<Producer<FireAndForget>>();
        shares::<Options>();
        shares::<Queue>();
        shares::<Received>();
        shares::<Delivery>();
        shares::<ConsumerHandle>();
        shares::<Consumer<Manual>>();
        shares::<Consumer<NoAck>>();
        shares::<Events>();
        shares::<Receipt>();
        sends::<Connect>();
        sends::<ProducerBuilder<Confirm>>();
        sends::<ConsumerBuilder<Manual>>();
        sends::<QueueBuilder>();
    }
}
