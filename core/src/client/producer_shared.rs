//! What the handles of one producer share with the driver.
#![expect(clippy::disallowed_types, reason = "handles and driver share it")]

use std::{sync::Arc, task::Waker};

use super::{
    hand_over::{Admission, Attempt, HandOver},
    link::{Control, DriverLink},
    outcomes::Outcomes,
    sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock, yield_now},
    waiters::Amount,
};
use crate::{
    config::{Limits, ProducerConfig, PublishMode},
    error::NotConfirmed,
    ids::ProducerId,
    message::Message,
    publish::{Accepted, limits::PublishLimits},
    session::ProducerUpdate,
    stats::ProducerStats,
    time::Time,
};

/// What the handles of one producer share with the driver.
///
/// The driver visits a producer when the link's ready list names it, and while `take` says that
/// there is more. A visit is: `take_evicted`, `take`, `expire`; then, after the session ran,
/// `not_confirmed` for each bad outcome, `apply` for the producer's update, `publish_stats`.
/// At the end it calls `close`, `take_rest`, gives the session what came of that, tells the outcomes
/// as before, and calls `abandon`.
#[derive(Debug)]
pub(crate) struct ProducerShared {
    id: ProducerId,
    mode: PublishMode,
    link: Arc<DriverLink>,
    limits: PublishLimits,
    hand_over: HandOver,
    outcomes: Arc<Outcomes>,
    /// The session's half of the account, and how much had been taken then.
    stats: Mutex<(ProducerStats, Amount)>,
    in_flight: AtomicU64,
    /// The exchange and routing key, for `Debug` and labels.
    config: ProducerConfig,
    /// Clones of the producer.
    handles: AtomicUsize,
}

impl ProducerShared {
    /// The shared part of a producer that the session has opened under this number.
    pub(crate) fn new(
        id: ProducerId,
        config: ProducerConfig,
        limits: &Limits,
        link: &Arc<DriverLink>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            mode: config.mode,
            link: link.clone(),
            limits: PublishLimits::new(&config, limits),
            hand_over: HandOver::new(&config),
            outcomes: Arc::default(),
            stats: Mutex::default(),
            in_flight: AtomicU64::new(0),
            config,
            handles: AtomicUsize::new(0),
        })
    }

    /// Its number.
    pub(crate) const fn id(&self) -> ProducerId {
        self.id
    }

    /// Its settings.
    pub(crate) const fn config(&self) -> &ProducerConfig {
        &self.config
    }

    // ---- for the handles ------------------------------------------------------------------------

    pub(super) const fn hand_over(&self) -> &HandOver {
        &self.hand_over
    }

    pub(super) const fn outcomes(&self) -> &Arc<Outcomes> {
        &self.outcomes
    }

    pub(super) const fn link(&self) -> &Arc<DriverLink> {
        &self.link
    }

    pub(super) const fn limits(&self) -> &PublishLimits {
        &self.limits
    }

    /// Admits a message if nothing about it or the buffer needs a second look.
    #[inline]
    pub(super) fn admit(&self, message: &Message) -> Option<u64> {
        if self.limits.is_plain(message) || self.limits.check(message).is_ok() {
            self.hand_over.admit(message.body().len() as u64)
        } else {
            None
        }
    }

    /// Admits a message that was checked, or says why not.
    pub(super) fn admit_slowly(&self, message: &Message, attempt: Attempt<'_>) -> Admission {
        let state = || self.link.state();
        let admission = self.hand_over.admit_slowly(message.body().len() as u64, attempt, state);
        if let Admission::Waiting { tell: true, .. } = admission {
            self.link.notify(self.id);
        }
        admission
    }

    /// Hands over what was admitted under this number.
    #[inline]
    pub(super) fn push(&self, sequence: u64, routing_key: Option<Arc<str>>, message: Message) {
        self.link.count_accepted();
        let at = self.link.now();
        if self.hand_over.push(Accepted { sequence, at, routing_key, message }) {
            self.link.notify(self.id);
        }
    }

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a handle is left. Once there is none, there will never be one.
    pub(crate) fn is_held(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    /// With the last one, the driver is asked to close the producer once all is sent.
    pub(super) fn remove_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.link.request(Control::CloseProducer {
                producer: self.id,
                deadline: None,
                reply: None,
            });
        }
    }

    /// The account: admission as of now, outcomes as of the driver's last turn.
    pub(super) fn stats(&self) -> ProducerStats {
        let (session, taken) = *lock(&self.stats);
        self.hand_over.complete(session, taken)
    }

    /// Messages in flight as of the driver's last turn.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    // ---- for the driver -------------------------------------------------------------------------

    /// Takes up to `max` messages, in the order in which they came. `true`: there are more, and the
    /// driver must come back by itself.
    pub(crate) fn take(&self, max: usize, mut each: impl FnMut(Accepted)) -> bool {
        if self.config.ttl.is_none() {
            // Nobody asks how old they are, and a message that was just written to is moved slowly
            // (the processor cannot forward two stores to one load).
            return self.hand_over.take(max, each);
        }
        // What came while the driver slept carries the coarse time of when it fell asleep.
        let since = self.link.awake_since();
        self.hand_over.take(max, |mut accepted| {
            accepted.at = accepted.at.max(since);
            each(accepted);
        })
    }

    /// Takes what was evicted at the hand-over itself, for `Session::accept_evicted`. Call it before
    /// `take`.
    pub(crate) fn take_evicted(&self, each: impl FnMut(Accepted)) {
        self.hand_over.take_evicted(each);
    }

    /// After `close`: takes everything that is left, and waits (a few instructions) for publishers
    /// that are just between being admitted and having pushed. `true`: it was evicted.
    pub(crate) fn take_rest(&self, mut each: impl FnMut(bool, Accepted)) {
        loop {
            self.take_evicted(|accepted| each(true, accepted));
            self.take(usize::MAX, |accepted| each(false, accepted));
            if self.hand_over.is_drained() {
                return;
            }
            yield_now();
        }
    }

    /// Whether bad outcomes must be told by `not_confirmed`.
    pub(crate) const fn wants_verdicts(&self) -> bool {
        matches!(self.mode, PublishMode::Confirm)
    }

    /// A message ended badly: its receipt, if it still exists, will say so. Call it *before* the
    /// `apply` that covers it, so that no receipt takes the watermark's word for it.
    pub(crate) fn not_confirmed(&self, verdict: NotConfirmed) {
        if self.wants_verdicts() {
            self.outcomes.store(verdict);
        }
    }

    /// What changed: room for those who wait, how messages flow, and what has its outcome. `early`
    /// are the runs of `Session::take_settled_early`. The link must know the client's state by then:
    /// with `when_offline(Fail)` it goes into the errors. Call it once before the producer is handed
    /// to the application, so that it knows how things stand.
    pub(crate) fn apply(&self, update: &ProducerUpdate, early: &[(u64, u64)]) {
        let left = Amount { messages: update.left, bytes: update.left_bytes };
        let waiters = self.hand_over.apply(left, update.flow, || self.link.state());
        let settled = self.outcomes.settle(update.settled, early);
        wake(waiters);
        wake(settled);
    }

    /// Ends admission: those who wait, and all later publishes, are refused as closed.
    pub(crate) fn close(&self) {
        wake(self.end_admission());
    }

    /// [`Self::close`], for a caller that wakes them later: no waker may run under a lock.
    #[must_use]
    pub(crate) fn end_admission(&self) -> Vec<Waker> {
        self.hand_over.close()
    }

    /// The driver is gone, or the producer is forgotten: nothing waits here any more.
    pub(crate) fn abandon(&self) {
        self.close();
        wake(self.outcomes.abandon());
    }

    /// Completes the session's half of the account with the admission's: the law holds in it. Call it
    /// after giving the session all that was taken.
    pub(crate) fn snapshot(&self, session: ProducerStats) -> ProducerStats {
        self.hand_over.complete(session, self.hand_over.taken())
    }

    /// Publishes the snapshot made of the session's half of the account, and returns it.
    pub(crate) fn publish_stats(&self, session: ProducerStats) -> ProducerStats {
        let taken = self.hand_over.taken();
        self.in_flight.store(session.in_flight, Ordering::Relaxed);
        *lock(&self.stats) = (session, taken);
        self.hand_over.complete(session, taken)
    }

    /// The earliest deadline of those who wait. Ask after `expire`.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.hand_over.next_deadline()
    }

    /// Sets the deadlines of those who began to wait since the last call, by the driver's clock, and
    /// ends the waiting of those whose deadline has come. Call it at each visit, and at
    /// `next_deadline`.
    ///
    /// Returns whom to wake, outside every lock.
    #[must_use]
    pub(crate) fn expire(&self, now: Time) -> Vec<Waker> {
        self.hand_over.expire(now)
    }
}

/// Never under a lock: a waker runs an executor's code.
fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}
