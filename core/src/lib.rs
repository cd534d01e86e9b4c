//! Sans-IO AMQP 0-9-1 client core.

pub mod client;
mod arena;
mod backoff;
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
pub mod session;
pub mod stats;
pub mod time;
mod timers;
mod topology;
pub mod uri;
pub mod wire;

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
