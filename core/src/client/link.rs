//! What all handles of one client share with its driver: the way to wake it, and to ask it things.
#![expect(clippy::disallowed_types, reason = "handles and driver share state between threads")]

use std::{fmt, sync::Arc, task::Context, time::Duration};

use futures::channel::oneshot;

use super::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, AtomicWaker, Mutex, Ordering, SegQueue, fence,
    lock,
};
use crate::{
    client::{
        hooks::Hooks,
        opened::{OpenedConsumer, OpenedProducer},
        queue::QueueState,
    },
    config::{ConsumerConfig, ProducerConfig, QueueConfig},
    error::{ConsumeError, DeclareError, OpenError},
    event::State,
    ids::{ConsumerId, ProducerId},
    session::Report,
    time::Time,
};

/// Acceptances of a client after which `publish()` yields, unless the driver ran in between.
const ACCEPTED_PER_TURN: u32 = 512;

/// Something that a handle asks of the driver. A reply that is dropped means: the driver is gone.
pub(crate) enum Control {
    /// Open a producer.
    OpenProducer {
        /// Its settings.
        config: Box<ProducerConfig>,
        /// Its own hooks.
        hooks: Box<Hooks>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<OpenedProducer, OpenError>>,
    },
    /// No more messages come from this producer: send what it has queued, and close it. Can come
    /// twice, and for a producer that is closed already.
    CloseProducer {
        /// Which one.
        producer: ProducerId,
        /// After this long, what is left is given up; `None`: the client's default.
        deadline: Option<Duration>,
        /// Whom to tell what was left; `None`: its last handle was dropped, nobody waits, and there
        /// is no deadline.
        reply: Option<oneshot::Sender<Report>>,
    },
    /// Open a consumer. The answer comes with the broker's.
    OpenConsumer {
        /// Its settings.
        config: Box<ConsumerConfig>,
        /// Whether deliveries that are dropped stay outstanding.
        hold_on_drop: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<OpenedConsumer, ConsumeError>>,
    },
    /// Cancel a consumer, and close it once what was settled is written.
    CloseConsumer {
        /// Which one.
        consumer: ConsumerId,
    },
    /// Declare a queue. The answer comes with the broker's.
    Declare {
        /// The queue.
        config: Box<QueueConfig>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Arc<QueueState>, DeclareError>>,
    },
    /// Somebody no longer waits for an answer: forget what nobody waits for.
    Forget,
    /// Close the client: drain, then close the connections.
    Shutdown {
        /// After this long, what is left is given up.
        deadline: Duration,
    },
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenProducer { .. } => "OpenProducer",
            Self::CloseProducer { .. } => "CloseProducer",
            Self::OpenConsumer { .. } => "OpenConsumer",
            Self::CloseConsumer { .. } => "CloseConsumer",
            Self::Declare { .. } => "Declare",
            Self::Forget => "Forget",
            Self::Shutdown { .. } => "Shutdown",
        })
    }
}

/// What all handles of one client share with its driver.
///
/// No wake-up is lost: a handle first leaves something in a queue and then looks whether the driver
/// is asleep; the driver first says that it is asleep and then looks into every queue again. Both put
/// a sequentially consistent fence between the two, so at least one of them sees the other.
#[derive(Debug)]
pub(crate) struct DriverLink {
    /// Producers to visit: their hand-over went from empty to non-empty, or a deadline was set.
    ready: SegQueue<ProducerId>,
    /// Consumers to visit: something was settled, consumed, or has to be timed. Each is listed once.
    consumers: SegQueue<ConsumerId>,
    /// Requests, each by a caller that waits for it (so there are no more than callers), or by a
    /// handle that was dropped (so no more than handles).
    controls: SegQueue<Control>,
    asleep: AtomicBool,
    waker: AtomicWaker,
    /// The driver is gone: nobody reads the queues any more.
    gone: AtomicBool,
    /// Handles that keep the client alive.
    holds: AtomicUsize,
    /// The driver's coarse clock.
    now: AtomicU64,
    /// When the driver last woke after it had slept.
    awake_since: AtomicU64,
    accepted_since_turn: AtomicU32,
    state: Mutex<Arc<State>>,
}

impl DriverLink {
    /// A link whose driver has not run yet.
    pub(crate) fn new(now: Time) -> Arc<Self> {
        Arc::new(Self {
            ready: SegQueue::new(),
            consumers: SegQueue::new(),
            controls: SegQueue::new(),
            asleep: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            gone: AtomicBool::new(false),
            holds: AtomicUsize::new(0),
            now: AtomicU64::new(now.as_nanos()),
            awake_since: AtomicU64::new(now.as_nanos()),
            accepted_since_turn: AtomicU32::new(0),
            state: Mutex::new(Arc::new(State::Connecting)),
        })
    }

    // ---- for handles ----------------------------------------------------------------------------

    /// Has the driver visit this producer.
    pub(crate) fn notify(&self, producer: ProducerId) {
        self.ready.push(producer);
        self.wake();
    }

    /// Has the driver visit this consumer.
    pub(crate) fn notify_consumer(&self, consumer: ConsumerId) {
        self.consumers.push(consumer);
        self.wake();
    }

    /// Wakes the driver if it sleeps. Call it after leaving something for it.
    #[inline]
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        // Whoever comes second writes nothing: loom would take a swap's second `false` for one that
        // may come after the driver's next `true`.
        if self.asleep.load(Ordering::Relaxed)
            && self
                .asleep
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            #[cfg(feature = "sabotage")]
            if crate::sabotage::count(crate::sabotage::Sabotage::LostWakeUp) >= Some(50) {
                return;
            }
            self.waker.wake();
        }
    }

    /// Asks the driver for something. If the driver is gone the request is dropped, and with it the
    /// reply's sender: whoever waits learns it.
    pub(crate) fn request(&self, control: Control) {
        self.controls.push(control);
        self.wake(); // fences
        if self.gone.load(Ordering::SeqCst) {
            self.drop_controls();
        }
    }

    /// The driver's coarse clock: as of the start of its latest turn.
    #[inline]
    pub(crate) fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// Counts an acceptance towards the fairness yield. Races lose counts, which does no harm.
    #[inline]
    pub(crate) fn count_accepted(&self) {
        let count = self.accepted_since_turn.load(Ordering::Relaxed);
        self.accepted_since_turn.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether a publish should yield first: so many were accepted since the driver last ran.
    #[inline]
    pub(crate) fn is_yield_due(&self) -> bool {
        self.accepted_since_turn.load(Ordering::Relaxed) >= ACCEPTED_PER_TURN
    }

    /// One yields now: the others go on.
    pub(crate) fn yielded(&self) {
        self.accepted_since_turn.store(0, Ordering::Relaxed);
    }

    /// The client's state, as the driver last told it.
    pub(crate) fn state(&self) -> Arc<State> {
        lock(&self.state).clone()
    }

    // ---- for the driver -------------------------------------------------------------------------

    /// The start of a turn: sets the coarse clock.
    pub(crate) fn begin_turn(&self, now: Time) {
        self.now.store(now.as_nanos(), Ordering::Relaxed);
        self.accepted_since_turn.store(0, Ordering::Relaxed);
    }

    /// The start of a poll of the driver, before its first turn.
    pub(crate) fn woke(&self, now: Time) {
        self.asleep.store(false, Ordering::Relaxed);
        self.awake_since.store(now.as_nanos(), Ordering::Relaxed);
        self.begin_turn(now);
    }

    /// Before returning `Pending`: call this, *then look at every source again* ([`Self::is_idle`],
    /// [`Self::is_abandoned`]), and call [`Self::woke`] if there is something.
    pub(crate) fn prepare_sleep(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// When the driver last woke. What was accepted while it slept carries an older coarse time.
    pub(crate) fn awake_since(&self) -> Time {
        Time::from_nanos(self.awake_since.load(Ordering::Relaxed))
    }

    /// The next producer to visit. One can be listed twice, or for nothing.
    pub(crate) fn pop_ready(&self) -> Option<ProducerId> {
        pop(&self.ready)
    }

    /// The next consumer to visit.
    pub(crate) fn pop_consumer(&self) -> Option<ConsumerId> {
        pop(&self.consumers)
    }

    /// The next request.
    pub(crate) fn pop_control(&self) -> Option<Control> {
        pop(&self.controls)
    }

    /// Whether nothing waits for the driver here.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.consumers.is_empty() && self.controls.is_empty()
    }

    /// Whether every handle is gone: the client closes.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.holds.load(Ordering::Acquire) == 0
    }

    /// Sets the state that `when_offline(Fail)` shows. Set it before telling producers.
    pub(crate) fn set_state(&self, state: Arc<State>) {
        let old = std::mem::replace(&mut *lock(&self.state), state);
        drop(old);
    }

    /// The driver ends: requests, those still to come included, are dropped unanswered.
    pub(crate) fn driver_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.drop_controls();
        // It would keep the driver's task in memory for as long as anybody holds a handle.
        drop(self.waker.take());
    }

    fn drop_controls(&self) {
        while self.controls.pop().is_some() {}
    }
}

/// Mostly there is nothing, and finding that out by `pop` takes a fence. (What comes meanwhile is
/// found by the last look before the driver sleeps.)
fn pop<T>(queue: &SegQueue<T>) -> Option<T> {
    if queue.is_empty() { None } else { queue.pop() }
}

/// Keeps a client alive. When the last one is dropped, the driver is woken to close the client.
#[derive(Debug)]
pub(crate) struct Hold(Arc<DriverLink>);

impl Hold {
    /// One more handle.
    pub(crate) fn new(link: &Arc<DriverLink>) -> Self {
        link.holds.fetch_add(1, Ordering::Relaxed);
        Self(link.clone())
    }

    /// The link itself.
    #[inline]
    pub(crate) const fn link(&self) -> &Arc<DriverLink> {
        &self.0
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}
