//! Producers: handles to publish with.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use futures::channel::oneshot;

use super::{
    link::{Control, Hold},
    outcomes::Outcomes,
    producer_shared::ProducerShared,
    publish::{Publish, try_publish},
    receipt::{Flush, Receipt},
};
use crate::{
    config::{PublishMode, check_name},
    error::PublishError,
    message::Message,
    session::Report,
    stats::ProducerStats,
};

/// The mode of a producer: [`FireAndForget`] or [`Confirm`].
pub trait Mode: sealed::Sealed + Copy + fmt::Debug + Send + Sync + Unpin + 'static {
    /// What a publish gives once the message is accepted.
    type Accepted: Send + Unpin + 'static;

    /// The same as a value.
    const MODE: PublishMode;
}

mod sealed {
    use std::sync::Arc;

    use super::{Confirm, FireAndForget, Mode, Outcomes, Receipt};

    pub trait Sealed {
        fn accepted(outcomes: &Arc<Outcomes>, sequence: u64) -> Self::Accepted
        where
            Self: Mode;
    }

    impl Sealed for FireAndForget {
        #[inline]
        fn accepted(_: &Arc<Outcomes>, _: u64) {}
    }

    impl Sealed for Confirm {
        #[inline]
        fn accepted(outcomes: &Arc<Outcomes>, sequence: u64) -> Receipt {
            Receipt::new(outcomes.clone(), sequence)
        }
    }
}

/// The mode in which a message is done with when its last byte is written: at most once. An accepted
/// message gives `()`.
#[derive(Clone, Copy, Debug)]
pub struct FireAndForget;

/// The mode in which a message is done with when the broker says so: at least once. An accepted
/// message gives a [`Receipt`].
#[derive(Clone, Copy, Debug)]
pub struct Confirm;

impl Mode for FireAndForget {
    type Accepted = ();
    const MODE: PublishMode = PublishMode::FireAndForget;
}

impl Mode for Confirm {
    type Accepted = Receipt;
    const MODE: PublishMode = PublishMode::Confirm;
}

/// Publishes messages to one exchange, by one routing key (or queue).
///
/// A message is *accepted* when `publish` takes it. From then on it has exactly one outcome, whatever
/// becomes of the connection; until it can be sent it waits in the producer's buffer (10,000
/// messages and 64 MiB by default, memory taken as it fills).
///
/// An idle producer holds less than 4 KiB, and about 8 KiB once it has published. What a burst took is
/// given back when its buffer and window have been empty for a second.
///
/// Cheap to clone; clones share one buffer and one order. When the last clone is dropped, what is
/// queued is still sent, and then the producer is closed. A producer keeps its client alive.
///
/// With a confirm producer, `orders.publish(x).await?;` warns that the receipt is unused, as it
/// should. Through a generic `M::Accepted`, or after `.ok()`, the compiler cannot know.
pub struct Producer<M: Mode> {
    shared: Arc<ProducerShared>,
    hold: Hold,
    mode: PhantomData<M>,
}

impl<M: Mode> Producer<M> {
    /// A handle to a producer that the driver has opened. The mode must be the one in its settings.
    pub(crate) fn new(shared: Arc<ProducerShared>, hold: Hold) -> Self {
        debug_assert_eq!(shared.config().mode, M::MODE);
        shared.add_handle();
        Self { shared, hold, mode: PhantomData }
    }

    #[inline]
    pub(super) fn shared(&self) -> &ProducerShared {
        &self.shared
    }

    /// Publishes a message: anything that is a body, or a [`Message`].
    ///
    /// Waits for room if the buffer is full and the policy is `Block`, or `DropOldest` while messages
    /// leave; after 512 acceptances without the driver having run, it lets the driver run first.
    ///
    /// # Errors
    ///
    /// The message comes back in the error: `Full` (policy `Error`), `Offline` (`when_offline(Fail)`),
    /// `TimedOut` (`publish_timeout`), `Closed`, or `Invalid` (over a limit; nothing was tried).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready publishes nothing.
    #[inline]
    pub fn publish<T: Into<Message>>(&self, message: T) -> Publish<'_, M, T> {
        Publish::new(self, Ok(None), message)
    }

    /// Publishes a message with a routing key of its own. Costs one allocation, for the key.
    ///
    /// # Errors
    ///
    /// As [`Producer::publish`]; `Invalid` if the key exceeds 255 bytes, too.
    ///
    /// # Cancel safety
    ///
    /// As [`Producer::publish`].
    pub fn publish_to<T: Into<Message>>(&self, routing_key: &str, message: T) -> Publish<'_, M, T> {
        let key = check_name("routing key", routing_key).map(|()| Some(routing_key.into()));
        Publish::new(self, key, message)
    }

    /// Publishes a message without ever waiting: when the buffer is full, `DropOldest` evicts.
    ///
    /// A tight loop of it can starve the driver on a single-threaded executor: yield now and then.
    ///
    /// # Errors
    ///
    /// The message comes back in the error: `Full` (also while others wait for room; with
    /// `DropOldest` only when a whole buffer of evicted messages waits for the driver to report
    /// them), `Offline`, `Closed`, or `Invalid`.
    pub fn try_publish<T: Into<Message>>(&self, message: T) -> Result<M::Accepted, PublishError> {
        try_publish::<M>(&self.shared, message.into())
    }

    /// Waits until everything accepted so far, by all clones, has its outcome.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn flush(&self) -> Flush {
        Flush::new(self.shared.outcomes().clone(), self.shared.hand_over().accepted())
    }

    /// Closes this producer, all clones included: [`Producer::shutdown`] with the client's default
    /// deadline (30 s).
    pub async fn close(&self) -> Report {
        self.end(None).await
    }

    /// Stops admission at once (publishes that wait are refused as `Closed`), sends what is queued,
    /// and awaits the outcomes. After `deadline`, what is left is given up: `Dropped(Closed)` if it
    /// never left, else `Unknown(Closed)`. The report counts those.
    ///
    /// # Cancel safety
    ///
    /// Once polled it goes on even if the future is dropped.
    pub async fn shutdown(&self, deadline: Duration) -> Report {
        self.end(Some(deadline)).await
    }

    async fn end(&self, deadline: Option<Duration>) -> Report {
        self.shared.close();
        let (reply, report) = oneshot::channel();
        self.hold.link().request(Control::CloseProducer {
            producer: self.shared.id(),
            deadline,
            reply: Some(reply),
        });
        // No answer: the driver is gone, and gave every message its outcome before.
        report.await.unwrap_or_default()
    }

    /// Messages in the buffer now: accepted, and not encoded yet.
    #[must_use]
    pub fn buffer_size(&self) -> usize {
        usize::try_from(self.shared.hand_over().queued().messages).unwrap_or(usize::MAX)
    }

    /// Messages that the buffer may hold.
    #[must_use]
    pub fn buffer_capacity(&self) -> usize {
        usize::try_from(self.shared.hand_over().capacity().messages).unwrap_or(usize::MAX)
    }

    /// Messages encoded and not settled, as of the driver's last turn.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.shared.in_flight()).unwrap_or(usize::MAX)
    }

    /// This producer's account, in which the law holds: what was offered as of now, the outcomes as
    /// of the driver's last turn.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        self.shared.stats()
    }
}

impl<M: Mode> Clone for Producer<M> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.hold.clone())
    }
}

impl<M: Mode> Drop for Producer<M> {
    fn drop(&mut self) {
        self.shared.remove_handle();
    }
}

impl<M: Mode> fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("exchange", &self.shared.config().exchange)
            .field("routing_key", &self.shared.config().routing_key)
            .field("mode", &M::MODE)
            .field("buffer_size", &self.buffer_size())
            .finish_non_exhaustive()
    }
}
