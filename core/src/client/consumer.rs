//! The application's end of a consumer.

use std::{
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _, Stream, StreamExt,
    future::poll_fn,
    stream::{FusedStream, FuturesUnordered, Next},
};

use super::{
    consumer_queue::ConsumerShared,
    delivery::{Acker, Delivery, Parcel, Received},
    events::EventHub,
    link::{Control, Hold},
};
use crate::{event::EndReason, session::Report};

/// An error of an application's handler.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a consumer's deliveries are settled: [`Manual`] or [`NoAck`].
pub trait Kind: sealed::Kind + Copy + fmt::Debug + Send + Sync + Unpin + 'static {
    /// What the stream yields.
    type Item: fmt::Debug + Send + 'static;
}

/// The application settles each delivery: at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manual;

/// The broker forgets each message as it sends it: at most once. What is on its way when a
/// connection is lost, or a process ends, is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAck;

impl Kind for Manual {
    type Item = Delivery;
}

impl Kind for NoAck {
    type Item = Received;
}

mod sealed {
    use super::{Arc, Delivery, Manual, NoAck, Parcel, Received};

    pub trait Kind {
        #[doc(hidden)]
        fn item(parcel: ParcelRef, index: usize) -> Self::Item
        where
            Self: super::Kind;
    }

    /// A private type in a public trait that nobody outside can name.
    #[derive(Debug)]
    pub struct ParcelRef(pub(super) Arc<Parcel>);

    impl Kind for Manual {
        fn item(parcel: ParcelRef, index: usize) -> Delivery {
            Delivery::new(parcel.0, index)
        }
    }

    impl Kind for NoAck {
        fn item(parcel: ParcelRef, index: usize) -> Received {
            Received::new(parcel.0, index)
        }
    }
}

/// What [`Consumer::run`] does with a delivery whose handler failed or panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// Requeues it after the consumer's requeue delay, which grows while it happens again and again
    /// (the default).
    #[default]
    RequeueLater,
    /// Rejects it: the broker drops the message, or moves it to the dead letter exchange.
    Reject,
}

/// A subscription to one queue: a stream of [`Delivery`] ([`Manual`]), or of [`Received`]
/// ([`NoAck`]).
///
/// It outlives connections: after a loss it is subscribed again, and what the application still
/// holds from before is stale. Deliveries wait in a queue bounded by the prefetch, or by bytes
/// without acks, where a full one pauses reading from the connection that the client's no-ack
/// consumers share. An idle one holds about 3 KiB.
///
/// Dropping it closes it, without waiting: what was not handed over is requeued. What the application
/// holds can still be settled for a while (`deadlines.shutdown`, 30 s). A consumer keeps its client
/// alive; its deliveries do not.
#[must_use = "a consumer that is dropped is closed"]
pub struct Consumer<K: Kind> {
    shared: Arc<ConsumerShared>,
    events: Arc<EventHub>,
    hold: Hold,
    on_failure: OnFailure,
    /// The batch that is being handed out, and how much of it was.
    current: Option<Arc<Parcel>>,
    index: usize,
    kind: PhantomData<K>,
}

impl<K: Kind> Consumer<K> {
    pub(crate) const fn new(
        shared: Arc<ConsumerShared>,
        events: Arc<EventHub>,
        hold: Hold,
        on_failure: OnFailure,
    ) -> Self {
        Self { shared, events, hold, on_failure, current: None, index: 0, kind: PhantomData }
    }

    /// The next delivery; `None` at the end, for which [`Consumer::end_reason`] has the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no delivery.
    #[expect(clippy::should_implement_trait, reason = "the word that every stream has")]
    pub fn next(&mut self) -> Next<'_, Self> {
        StreamExt::next(self)
    }

    /// Up to `max` deliveries at once: as soon as so many are there, or `linger` after the first;
    /// `None` at the end. Never empty.
    ///
    /// More than the prefetch are never there at once: a `max` above it always waits for `linger`.
    ///
    /// # Cancel safety
    ///
    /// Deliveries are taken only when all of them are handed over: dropping the future loses none.
    pub async fn next_batch(&mut self, max: usize, linger: Duration) -> Option<Vec<K::Item>> {
        let max = max.max(1);
        self.shared.reset_linger();
        poll_fn(|cx| {
            let held = self.held();
            self.shared.poll_enough(cx, held, max, linger)
        })
        .await;
        let mut items = Vec::new();
        while items.len() < max {
            match self.next().now_or_never() {
                Some(Some(item)) => items.push(item),
                Some(None) | None => break,
            }
        }
        // The stream had something or has ended, unless it was stale by now.
        if items.is_empty() { Some(vec![self.next().await?]) } else { Some(items) }
    }

    /// How much is left of the batch that is being handed out, unless it became stale.
    fn held(&mut self) -> usize {
        if self.current.as_ref().is_some_and(|parcel| !self.shared.is_current(parcel)) {
            self.drop_current();
        }
        self.current.as_ref().map_or(0, |parcel| parcel.batch.len() - self.index)
    }

    /// Nothing more of this batch is handed out. The broker delivers the rest again.
    fn drop_current(&mut self) {
        self.current = None;
        self.index = 0;
        self.shared.hand_back_current();
    }

    /// Why the stream ended; `None` while it goes on.
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.shared.end_reason()
    }

    /// A handle to stop or close it from elsewhere.
    #[must_use]
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle { shared: Arc::clone(&self.shared), link: Arc::clone(self.hold.link()) }
    }

    /// Cancels the subscription, and waits until every delivery that the application holds is
    /// settled and that is written, at most for `deadlines.shutdown` (30 s). After that the broker
    /// requeues what is left, which the report counts.
    ///
    /// What was not handed over is requeued. Without acks, what is queued stays and can still be read.
    ///
    /// # Cancel safety
    ///
    /// The consumer closes even if the future is dropped once it was polled.
    pub async fn close(&mut self) -> Report {
        self.begin_close();
        self.shared.ended().await
    }

    fn begin_close(&self) {
        if self.shared.begin_close() {
            self.hold.link().request(Control::CloseConsumer { consumer: self.shared.id() });
        }
    }
}

impl Consumer<Manual> {
    /// Waits until everything settled so far is written, or belongs to a channel that is gone.
    pub async fn settled(&self) {
        self.shared.settled().await;
    }

    /// Calls `handler` for each delivery, up to `concurrency` at a time, until the stream ends;
    /// returns why. All of it happens in the caller's task; spawn inside the handler to use more
    /// threads.
    ///
    /// `Ok` acks. After `Err` or a panic (caught, counted, and reported as an event) the delivery is
    /// requeued later, or rejected: see [`OnFailure`]. After [`ConsumerHandle::stop`], or when the
    /// client is closed, handlers that have begun are finished.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the handlers that run; their deliveries are requeued later.
    pub async fn run<F, Fut, E>(&mut self, concurrency: usize, handler: F) -> EndReason
    where
        F: Fn(Received) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        let concurrency = concurrency.max(1);
        let mut running = FuturesUnordered::new();
        let mut ended = false;
        loop {
            let done = poll_fn(|cx| {
                while !ended && running.len() < concurrency {
                    match self.poll_next_unpin(cx) {
                        Poll::Ready(Some(delivery)) => running.push(handle(delivery, &handler)),
                        Poll::Ready(None) => ended = true,
                        Poll::Pending => break,
                    }
                }
                match running.poll_next_unpin(cx) {
                    Poll::Ready(None) if !ended => Poll::Pending,
                    done => done,
                }
            })
            .await;
            let Some((acker, outcome)) = done else { break };
            self.settle_handled(acker, outcome);
        }
        let reason = self.end_reason().unwrap_or(EndReason::Closed);
        self.close().await;
        reason
    }

    fn settle_handled<E: Into<BoxError>>(&self, acker: Acker, outcome: Handled<E>) {
        match outcome {
            Handled::Done => {
                acker.ack();
                return;
            }
            Handled::Failed(error) => {
                let error: BoxError = error.into();
                tracing::warn!(%error, "the handler of a delivery failed");
            }
            Handled::Panicked => self.events.panicked("handler"),
        }
        match self.on_failure {
            OnFailure::RequeueLater => acker.requeue_later(),
            OnFailure::Reject => acker.reject(),
        };
    }
}

enum Handled<E> {
    Done,
    Failed(E),
    Panicked,
}

fn handle<F, Fut, E>(
    delivery: Delivery,
    handler: &F,
) -> impl Future<Output = (Acker, Handled<E>)> + use<F, Fut, E>
where
    F: Fn(Received) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let (received, acker) = delivery.into_parts();
    let begun = catch_unwind(AssertUnwindSafe(|| handler(received)));
    async move {
        let Ok(running) = begun else { return (acker, Handled::Panicked) };
        let outcome = match AssertUnwindSafe(running).catch_unwind().await {
            Ok(Ok(())) => Handled::Done,
            Ok(Err(error)) => Handled::Failed(error),
            Err(_) => Handled::Panicked,
        };
        (acker, outcome)
    }
}

impl<K: Kind> Stream for Consumer<K> {
    type Item = K::Item;

    #[inline]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<K::Item>> {
        let this = &mut *self;
        loop {
            if let Some(parcel) = &this.current {
                if this.shared.is_current(parcel) {
                    let index = this.index;
                    let item = if index + 1 == parcel.batch.len() {
                        this.shared.finished(&parcel.batch);
                        this.index = 0;
                        this.current.take()
                    } else {
                        this.index += 1;
                        Some(Arc::clone(parcel))
                    };
                    this.shared.set_shown(index + 1);
                    return Poll::Ready(
                        item.map(|parcel| K::item(sealed::ParcelRef(parcel), index)),
                    );
                }
                this.drop_current();
            }
            match this.shared.poll_parcel(cx) {
                Poll::Ready(Some(parcel)) => this.current = Some(parcel),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<K: Kind> FusedStream for Consumer<K> {
    fn is_terminated(&self) -> bool {
        self.current.is_none() && self.end_reason().is_some()
    }
}

impl<K: Kind> Drop for Consumer<K> {
    fn drop(&mut self) {
        self.begin_close();
        self.shared.abandon();
    }
}

impl<K: Kind> fmt::Debug for Consumer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("id", &self.shared.id())
            .field("queued", &self.shared.queued())
            .field("end_reason", &self.end_reason())
            .finish_non_exhaustive()
    }
}

/// Stops or closes a consumer from elsewhere. It does not keep the client alive.
#[derive(Clone, Debug)]
pub struct ConsumerHandle {
    shared: Arc<ConsumerShared>,
    link: Arc<super::link::DriverLink>,
}

impl ConsumerHandle {
    /// Begins to close the consumer, without waiting: its stream ends, and what was not handed over is
    /// requeued. What the application holds can still be settled; a [`Consumer::run`] finishes the
    /// handlers that have begun. Without acks, what is queued can still be read.
    pub fn stop(&self) {
        self.begin_close();
    }

    /// Closes the consumer, as [`Consumer::close`] does.
    ///
    /// # Cancel safety
    ///
    /// The consumer closes even if the future is dropped once it was polled.
    pub async fn close(&self) -> Report {
        self.begin_close();
        self.shared.ended().await
    }

    /// Waits until everything settled so far is written, or belongs to a channel that is gone.
    pub async fn settled(&self) {
        self.shared.settled().await;
    }

    fn begin_close(&self) {
        if self.shared.begin_close() {
            self.link.request(Control::CloseConsumer { consumer: self.shared.id() });
        }
    }
}
