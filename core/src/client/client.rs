//! The client: where everything begins.

use std::{fmt, future::poll_fn, sync::Arc, time::Duration};

use super::{
    builders::{ConsumerBuilder, ProducerBuilder},
    client_shared::ClientShared,
    consumer::Manual,
    events::Events,
    link::{Control, Hold},
    producer::FireAndForget,
    queue::{QueueBuilder, QueueRef},
    sync::lock,
    waiting::Place,
};
use crate::{error::ConnectError, event::State, session::Report, stats::Stats};

/// A client of one broker: two connections (by default) that are opened again whenever they are lost.
/// Idle, it holds about 25 KiB with both, and is woken about ten times a second.
///
/// Cloning it is cheap; all clones are the same client. A client ends with its last `Client`,
/// `Producer` or `Consumer`; receipts and deliveries do not keep it. Dropping the last one starts a
/// shutdown with the deadline `deadlines.drop` in the background; [`Client::shutdown`] awaits it and
/// says what was left.
#[derive(Clone)]
pub struct Client {
    shared: Arc<ClientShared>,
    hold: Hold,
}

/// How a client is doing, for a health check.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Health {
    /// Its state.
    pub state: State,
    /// Messages accepted and not sent yet, of all producers.
    pub queued: u64,
    /// Messages sent and not settled, of all producers.
    pub in_flight: u64,
    /// Connections lost since the start.
    pub losses: u64,
}

impl Health {
    /// Whether every connection is open, and the broker takes publishes.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        matches!(self.state, State::Connected)
    }
}

impl Client {
    pub(crate) const fn new(shared: Arc<ClientShared>, hold: Hold) -> Self {
        Self { shared, hold }
    }

    /// A queue to be declared. An empty name lets the broker make one up.
    pub fn queue(&self, name: &str) -> QueueBuilder {
        QueueBuilder::new(self.hold.clone(), name)
    }

    /// A producer to be opened that publishes to a queue by its name (through the default exchange).
    pub fn producer(&self, queue: impl Into<QueueRef>) -> ProducerBuilder<FireAndForget> {
        let QueueRef(queue) = queue.into();
        self.producer_on("", &queue)
    }

    /// A producer to be opened that publishes to an exchange with a routing key.
    pub fn producer_on(&self, exchange: &str, routing_key: &str) -> ProducerBuilder<FireAndForget> {
        ProducerBuilder::new(&self.shared, &self.hold, exchange, routing_key)
    }

    /// A consumer to be opened.
    pub fn consumer(&self, queue: impl Into<QueueRef>) -> ConsumerBuilder<Manual> {
        let QueueRef(queue) = queue.into();
        ConsumerBuilder::new(&self.shared, &self.hold, &queue)
    }

    /// Waits until every connection has been open once. A client made by `connect_lazy` waits as
    /// long as that takes: put a timeout around it, or look at [`Client::state`].
    ///
    /// # Errors
    ///
    /// If the client is closed, or its attempts have run out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn ready(&self) -> Result<(), ConnectError> {
        let mut place = Place::new(|key| self.shared.stop_waiting(key));
        poll_fn(|cx| self.shared.poll_ready(cx, &mut place.key)).await
    }

    /// Whether every connection is open, blocked by the broker or not.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.link.state().is_connected()
    }

    /// The state, over all connections.
    #[must_use]
    pub fn state(&self) -> State {
        (*self.shared.link.state()).clone()
    }

    /// State and backlog, for a health check. Waits for the driver's current turn, if it is in one.
    #[must_use]
    pub fn health(&self) -> Health {
        let stats = self.stats();
        Health {
            state: self.state(),
            queued: stats.publish.queued,
            in_flight: stats.publish.in_flight,
            losses: stats.losses,
        }
    }

    /// What happens from now on, as a stream. Each call makes a reader of its own.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// The account of all producers and consumers, closed ones included, as of the driver's last
    /// turn. Waits for the current one, if it is in one.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// In words: what each producer, consumer and connection waits for, and until when. For people;
    /// the words may change. Waits for the driver's current turn, if it is in one.
    #[must_use]
    pub fn explain(&self) -> String {
        let now = self.shared.link.now();
        lock(&self.shared.core).session.explain(now)
    }

    /// What is still kept for somebody: nothing, once the client is closed. For the simulator.
    #[cfg(feature = "sabotage")]
    #[doc(hidden)]
    #[must_use]
    pub fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let waiting = lock(&self.shared.status).waiting.len();
        let core = lock(&self.shared.core);
        let mut kept = core.session.leftovers();
        let ours = [
            ("who waits for the client", waiting),
            ("producers' handles", core.producers.open().count()),
            ("consumers' queues", core.consumers.len()),
        ];
        kept.extend(ours.into_iter().filter(|&(_, n)| n > 0));
        kept
    }

    /// Closes the client: no more is accepted, what is queued is sent, what is in flight is awaited,
    /// consumers and connections are closed. After `deadline`, whatever is left ends as dropped or
    /// unknown; the report counts it.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on if the future is dropped once it was polled.
    pub async fn shutdown(&self, deadline: Duration) -> Report {
        self.hold.link().request(Control::Shutdown { deadline });
        let mut place = Place::new(|key| self.shared.stop_waiting(key));
        poll_fn(|cx| self.shared.poll_closed(cx, &mut place.key)).await
    }

    /// [`Client::shutdown`] with the default deadline (`deadlines.shutdown`, 30 s).
    pub async fn close(&self) -> Report {
        self.shutdown(self.shared.config.deadlines.shutdown).await
    }

    pub(crate) fn shared(&self) -> &ClientShared {
        &self.shared
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.shared.link.state()).finish_non_exhaustive()
    }
}
