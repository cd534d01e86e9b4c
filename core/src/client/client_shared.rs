//! What a client's handles and its driver share, beside the link between them.
#![expect(clippy::disallowed_types, reason = "handles and driver share state between threads")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::{
    consumer_queue::ConsumerShared,
    events::EventHub,
    hooks::Hooks,
    link::DriverLink,
    options::Options,
    producers::Producers,
    sync::{Mutex, lock},
    waiting::Waiting,
};
use crate::{
    config::{BufferPolicy, Config},
    error::{ConnectError, Loss},
    event::{Event, State},
    ids::ConsumerId,
    session::{Report, Session},
    stats::Stats,
};

/// One per client. It keeps nothing alive: handles that do carry a `Hold`.
#[derive(Debug)]
pub(crate) struct ClientShared {
    pub(crate) link: Arc<DriverLink>,
    /// Locked by the driver for the length of each turn, hooks and wake-ups excepted.
    pub(crate) core: Mutex<Core>,
    pub(crate) status: Mutex<Status>,
    pub(crate) events: Arc<EventHub>,
    pub(crate) hooks: Hooks,
    pub(crate) config: Config,
    pub(crate) buffer_size: Option<usize>,
    pub(crate) buffer_policy: Option<BufferPolicy>,
}

/// The state machine, and the handles that it serves.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) session: Session,
    pub(crate) producers: Producers,
    pub(crate) consumers: BTreeMap<ConsumerId, Arc<ConsumerShared>>,
}

/// What `ready()`, `shutdown()` and the like wait for.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) ready: bool,
    pub(crate) failed: Option<Loss>,
    pub(crate) closed: Option<Report>,
    pub(crate) waiting: Waiting,
}

impl ClientShared {
    pub(crate) fn new(link: Arc<DriverLink>, session: Session, options: Options) -> Arc<Self> {
        let core = Core { session, producers: Producers::default(), consumers: BTreeMap::new() };
        Arc::new(Self {
            link,
            core: Mutex::new(core),
            status: Mutex::default(),
            events: Arc::default(),
            hooks: options.hooks,
            config: options.config,
            buffer_size: options.buffer_size,
            buffer_policy: options.buffer_policy,
        })
    }

    /// Changes what `ready()` and `shutdown()` wait for, and wakes them.
    pub(crate) fn wake_waiting(&self, change: impl FnOnce(&mut Status)) {
        let mut status = lock(&self.status);
        change(&mut status);
        let waiting = status.waiting.take();
        drop(status);
        waiting.for_each(Waker::wake);
    }

    /// The client is closed for good.
    pub(crate) fn finish(&self, report: Report) {
        let state = self.link.state();
        if !matches!(*state, State::Closed { .. }) {
            let state = State::Closed { loss: None };
            self.link.set_state(Arc::new(state.clone()));
            self.events.emit(&Event::State(state));
        }
        self.wake_waiting(|status| status.closed = Some(report));
        self.events.close();
    }

    /// Ready once every connection stood, or never will.
    /// `key` is the future's own, once it waits.
    pub(crate) fn poll_ready(
        &self,
        cx: &Context<'_>,
        key: &mut Option<u64>,
    ) -> Poll<Result<(), ConnectError>> {
        let mut status = lock(&self.status);
        if let Some(loss) = &status.failed {
            return Poll::Ready(Err(loss.clone().into()));
        }
        if status.closed.is_some() {
            return Poll::Ready(Err(ConnectError::Closed));
        }
        if status.ready {
            return Poll::Ready(Ok(()));
        }
        let old = status.waiting.wait(key, cx.waker());
        drop(status);
        drop(old);
        Poll::Pending
    }

    /// Ready once the client is closed for good.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>, key: &mut Option<u64>) -> Poll<Report> {
        let mut status = lock(&self.status);
        if let Some(report) = status.closed {
            return Poll::Ready(report);
        }
        let old = status.waiting.wait(key, cx.waker());
        drop(status);
        drop(old);
        Poll::Pending
    }

    /// A future that waited for one of these was dropped.
    pub(crate) fn stop_waiting(&self, key: u64) {
        let waker = lock(&self.status).waiting.leave(key);
        drop(waker);
    }

    /// The account of all, as of the driver's last turn.
    pub(crate) fn stats(&self) -> Stats {
        let core = lock(&self.core);
        let mut stats = core.session.stats();
        stats.publish = core.producers.complete(stats.publish);
        let queued: u64 = core.consumers.values().map(|consumer| consumer.queued()).sum();
        let queued = queued.min(stats.consume.in_hand);
        stats.consume.queued += queued;
        stats.consume.in_hand -= queued;
        stats.hook_panics = self.events.panics();
        stats
    }
}
