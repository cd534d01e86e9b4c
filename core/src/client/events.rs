//! What happened, as a stream that never makes the driver wait.
#![expect(clippy::disallowed_types, reason = "readers and driver share queues between threads")]

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{
    Stream, StreamExt,
    stream::{FusedStream, Next},
};

use crate::{
    client::sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock},
    event::Event,
};

/// How many events wait for one reader.
const CAPACITY: usize = 1024;

/// A client's events, in order.
///
/// Each reader has a queue of its own for 1,024 events. When it is full, newer ones are left out,
/// and [`Event::Skipped`] says in their place how many. The stream ends when the client is closed
/// and everything was read. It does not keep the client alive.
#[must_use = "events are read by polling the stream"]
#[derive(Debug)]
pub struct Events {
    queue: Arc<Queue>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Queue {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Event>,
    skipped: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl Inner {
    /// The next event. What was skipped came after all that is queued.
    fn pop(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| {
            let skipped = std::mem::take(&mut self.skipped);
            (skipped > 0).then_some(Event::Skipped(skipped))
        })
    }

    fn push(&mut self, event: Event) {
        if self.events.len() >= CAPACITY {
            self.skipped += 1;
            return;
        }
        if self.skipped > 0 {
            self.events.push_back(Event::Skipped(std::mem::take(&mut self.skipped)));
        }
        self.events.push_back(event);
    }
}

impl Events {
    /// The next event; `None` once the client is closed and everything was read.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    #[expect(clippy::should_implement_trait, reason = "the word that every stream has")]
    pub fn next(&mut self) -> Next<'_, Self> {
        StreamExt::next(self)
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = lock(&self.queue.inner);
        if let Some(event) = inner.pop() {
            return Poll::Ready(Some(event));
        }
        if inner.closed {
            drop(inner);
            self.ended = true;
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl FusedStream for Events {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

/// All readers of a client's events.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    queues: Mutex<Vec<Arc<Queue>>>,
    closed: AtomicBool,
    panics: AtomicU64,
}

impl EventHub {
    /// A new reader, of what happens from now on.
    pub(crate) fn subscribe(&self) -> Events {
        let queue = Arc::new(Queue::default());
        let mut queues = lock(&self.queues);
        if self.closed.load(Ordering::Acquire) {
            lock(&queue.inner).closed = true;
        } else {
            queues.push(Arc::clone(&queue));
        }
        Events { queue, ended: false }
    }

    /// Tells all readers.
    pub(crate) fn emit(&self, event: &Event) {
        let mut wakers = Vec::new();
        lock(&self.queues).retain(|queue| {
            // Its reader is gone: only the hub holds it.
            if Arc::strong_count(queue) == 1 {
                return false;
            }
            let mut inner = lock(&queue.inner);
            inner.push(event.clone());
            wakers.extend(inner.waker.take());
            true
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Code of the application's panicked. It was caught; the client goes on.
    pub(crate) fn panicked(&self, hook: &'static str) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(hook, "a hook or handler of the application panicked");
        self.emit(&Event::HookPanicked { hook });
    }

    /// How often that happened.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Nothing follows.
    pub(crate) fn close(&self) {
        let mut wakers = Vec::new();
        let mut queues = lock(&self.queues);
        self.closed.store(true, Ordering::Release);
        for queue in queues.drain(..) {
            let mut inner = lock(&queue.inner);
            inner.closed = true;
            wakers.extend(inner.waker.take());
        }
        drop(queues);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::event::State;

    fn next(events: &mut Events) -> Option<Option<Event>> {
        events.next().now_or_never()
    }

    #[test]
    fn a_slow_reader_is_told_in_the_right_place_how_many_it_missed() {
        let hub = EventHub::default();
        let mut events = hub.subscribe();
        for _ in 0..CAPACITY + 3 {
            hub.emit(&Event::State(State::Connecting));
        }
        assert_eq!(next(&mut events), Some(Some(Event::State(State::Connecting))));
        // One place is free: the gap comes before what is pushed now.
        hub.emit(&Event::State(State::Connected));
        for _ in 0..CAPACITY - 1 {
            assert_eq!(next(&mut events), Some(Some(Event::State(State::Connecting))));
        }
        assert_eq!(next(&mut events), Some(Some(Event::Skipped(3))));
        assert_eq!(next(&mut events), Some(Some(Event::State(State::Connected))));
        assert_eq!(next(&mut events), None);
    }

    #[test]
    fn the_stream_ends_with_the_client_after_what_was_queued() {
        let hub = EventHub::default();
        let mut early = hub.subscribe();
        hub.emit(&Event::State(State::Connected));
        hub.close();
        assert_eq!(next(&mut early), Some(Some(Event::State(State::Connected))));
        assert_eq!(next(&mut early), Some(None));
        assert_eq!(next(&mut hub.subscribe()), Some(None));
    }

    #[test]
    fn a_dropped_reader_is_forgotten() {
        let hub = EventHub::default();
        drop(hub.subscribe());
        hub.emit(&Event::State(State::Connected));
        assert_eq!(lock(&hub.queues).len(), 0);
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let hub = EventHub::default();
        let mut events = hub.subscribe();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut events).poll_next(&mut cx).is_pending());
        hub.emit(&Event::State(State::Connected));
        assert!(woken.0.load(Ordering::Relaxed));
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
