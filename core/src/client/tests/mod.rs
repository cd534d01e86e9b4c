//! The publishing half without a session: a driver and a session's buffer, played by hand.
#![expect(clippy::disallowed_types, reason = "tests look at wakers")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod evicting;
mod law;
#[cfg(loom)]
mod loom_models;
mod receipts;
mod threads;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::{Mode, Producer, link::DriverLink, link::Hold, producer_shared::ProducerShared};
use crate::{
    config::{BufferPolicy, Limits, ProducerConfig},
    error::NotConfirmed,
    event::{DropReason, Verdict},
    ids::ProducerId,
    publish::{Accepted, SettledSet},
    session::{Flow, ProducerUpdate},
    stats::ProducerStats,
    time::Time,
};

/// Counts how often it was woken.
#[derive(Default)]
pub(super) struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future with a waker of its own.
pub(super) struct Task<F: Future> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    heard: usize,
}

impl<F: Future> Task<F> {
    pub(super) fn new(future: F) -> Self {
        // One ring to begin with: a new task is polled once.
        Self { future: Box::pin(future), bell: Arc::new(Bell(AtomicUsize::new(1))), heard: 0 }
    }

    pub(super) fn poll(&mut self) -> Poll<F::Output> {
        self.heard = self.bell.0.load(Ordering::SeqCst);
        let waker = Waker::from(self.bell.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    pub(super) fn is_woken(&self) -> bool {
        self.bell.0.load(Ordering::SeqCst) > self.heard
    }

    /// As an executor does: polls only what was woken.
    pub(super) fn run(&mut self) -> Poll<F::Output> {
        if self.is_woken() { self.poll() } else { Poll::Pending }
    }

    pub(super) fn into_future(self) -> F
    where
        F: Unpin,
    {
        *Pin::into_inner(self.future)
    }
}

/// A new future, polled once.
pub(super) fn poll_once<F: Future>(future: F) -> (Task<F>, Poll<F::Output>) {
    let mut task = Task::new(future);
    let poll = task.poll();
    (task, poll)
}

/// The driver and the session's buffer, by hand.
pub(super) struct Fake {
    pub(super) link: Arc<DriverLink>,
    pub(super) shared: Arc<ProducerShared>,
    pub(super) now: Time,
    pub(super) flow: Flow,
    /// Queued, in order.
    pub(super) buffer: VecDeque<Accepted>,
    pub(super) in_flight: BTreeMap<u64, Accepted>,
    /// Everything that was taken, in that order.
    pub(super) taken: Vec<u64>,
    /// And their bodies.
    pub(super) bodies: Vec<Vec<u8>>,
    pub(super) session: ProducerStats,
    settled: SettledSet,
    early: Vec<(u64, u64)>,
    left: (u64, u64),
    hold: Hold,
}

impl Fake {
    pub(super) fn new(config: ProducerConfig) -> Self {
        let link = DriverLink::new(Time::ZERO);
        link.set_state(Arc::new(crate::event::State::Connected));
        let shared = ProducerShared::new(ProducerId(7), config, &Limits::default(), &link);
        Self {
            hold: Hold::new(&link),
            link,
            shared,
            now: Time::ZERO,
            flow: Flow::default(),
            buffer: VecDeque::new(),
            in_flight: BTreeMap::new(),
            taken: Vec::new(),
            bodies: Vec::new(),
            session: ProducerStats::default(),
            settled: SettledSet::default(),
            early: Vec::new(),
            left: (0, 0),
        }
    }

    pub(super) fn producer<M: Mode>(&self) -> Producer<M> {
        Producer::new(self.shared.clone(), self.hold.clone())
    }

    fn leaves(&mut self, accepted: &Accepted) {
        self.left.0 += 1;
        self.left.1 += accepted.message.body().len() as u64;
        self.session.queued -= 1;
        self.session.queued_bytes -= accepted.message.body().len() as u64;
    }

    fn outcome(&mut self, accepted: Accepted, verdict: Option<Verdict>) {
        let sequence = accepted.sequence;
        self.settled.insert(sequence);
        self.early.push((sequence, sequence));
        if let Some(verdict) = verdict {
            self.shared.not_confirmed(NotConfirmed::new(verdict, sequence, accepted.message));
        }
    }

    /// As the session accepts: a `DropOldest` buffer at capacity evicts.
    fn accept(&mut self, accepted: Accepted) {
        let config = self.shared.config().clone();
        self.taken.push(accepted.sequence);
        self.bodies.push(accepted.message.body().to_vec());
        self.session.accepted += 1;
        self.session.queued += 1;
        self.session.queued_bytes += accepted.message.body().len() as u64;
        self.buffer.push_back(accepted);
        while config.policy == BufferPolicy::DropOldest
            && (self.buffer.len() > config.buffer_size
                || self.session.queued_bytes > config.buffer_bytes as u64)
        {
            let oldest = self.buffer.pop_front().unwrap();
            self.leaves(&oldest);
            self.session.dropped_buffer_full += 1;
            self.outcome(oldest, Some(Verdict::Dropped(DropReason::BufferFull)));
        }
    }

    fn accept_evicted(&mut self, accepted: Accepted) {
        self.taken.push(accepted.sequence);
        self.bodies.push(accepted.message.body().to_vec());
        self.session.accepted += 1;
        self.session.dropped_buffer_full += 1;
        self.outcome(accepted, Some(Verdict::Dropped(DropReason::BufferFull)));
    }

    /// Takes what was handed over, up to `max`.
    pub(super) fn take(&mut self, max: usize) -> bool {
        let shared = self.shared.clone();
        let mut evicted = Vec::new();
        shared.take_evicted(|accepted| evicted.push(accepted));
        evicted.into_iter().for_each(|accepted| self.accept_evicted(accepted));
        shared.take(max, |accepted| self.accept(accepted))
    }

    /// Encodes the oldest `n`.
    pub(super) fn send(&mut self, n: usize) {
        for _ in 0..n {
            let Some(accepted) = self.buffer.pop_front() else { return };
            self.leaves(&accepted);
            self.session.in_flight += 1;
            self.in_flight.insert(accepted.sequence, accepted);
        }
    }

    pub(super) fn settle(&mut self, sequence: u64, verdict: Option<Verdict>) {
        let accepted = self.in_flight.remove(&sequence).unwrap();
        self.session.in_flight -= 1;
        *match verdict {
            None => &mut self.session.confirmed,
            Some(Verdict::Nacked) => &mut self.session.nacked,
            Some(_) => &mut self.session.unknown,
        } += 1;
        self.outcome(accepted, verdict);
    }

    /// The end of a turn: everything is told. The law holds.
    pub(super) fn tell(&mut self) -> ProducerStats {
        let (left, left_bytes) = std::mem::take(&mut self.left);
        let settled = self.settled.watermark();
        let early: Vec<_> =
            self.early.drain(..).filter(|&(sequence, _)| sequence > settled).collect();
        let update = ProducerUpdate {
            producer: self.shared.id(),
            left,
            left_bytes,
            flow: self.flow,
            settled,
            closed: false,
        };
        self.shared.apply(&update, &early);
        let stats = self.shared.publish_stats(self.session);
        assert!(stats.is_conserved(), "{stats:?}");
        stats
    }

    /// A whole turn: `n` messages are encoded.
    pub(super) fn turn(&mut self, n: usize) -> ProducerStats {
        self.link.begin_turn(self.now);
        while self.link.pop_ready().is_some() {}
        while self.take(usize::MAX) {}
        self.shared.expire(self.now).into_iter().for_each(Waker::wake);
        self.send(n);
        self.tell()
    }
}

pub(super) fn config<M: Mode>(policy: BufferPolicy, buffer_size: usize) -> ProducerConfig {
    let mut config = ProducerConfig::new("", "q", M::MODE).unwrap();
    config.policy = policy;
    config.buffer_size = buffer_size;
    config
}
