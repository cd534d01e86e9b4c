//! The run loop, once, generic over the runtime.
//!
//! One hand-written future drives all connections of a client. A turn takes what handles left
//! for it, gives it to the session, does what the session wants with the transports, and passes on
//! what came of that: hooks and wake-ups last, outside every lock. When a turn changed nothing, the
//! driver sleeps until a handle, a transport or the next deadline wakes it.

mod alarm;
mod effects;
mod requests;
#[cfg(test)]
mod sleep_tests;
mod transport;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use self::{alarm::Alarm, effects::Effects, requests::Requests, transport::Transports};
use crate::{
    client::{
        Client, Options,
        client_shared::{ClientShared, Core},
        link::{DriverLink, Hold},
        options::{Connector, convert},
        sync::lock,
    },
    error::ConnectError,
    event::EndReason,
    ids::ProducerId,
    runtime::Runtime,
    session::Session,
    time::Time,
};

/// Turns in one poll, before others on the same thread have theirs.
const TURNS: u32 = 32;

/// Bytes read and written in one poll, after which the same. (More piles up in memory that has left the
/// cache, and that the allocator gives back to the system, before anybody consumes it.)
const MOVED: usize = 128 << 10;

/// Visits to producers and to consumers in one turn.
const VISITS: usize = 1024;

/// What a session whose deadline does not move is given before it is asked again.
const PATIENCE: Duration = Duration::from_millis(1);

/// What happens if the first connection cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstConnect {
    /// The client is closed, and `Client::ready` has the error.
    OrFail,
    /// It is tried again, like after any loss.
    Retry,
}

/// Makes a client and its driver, which the caller has to poll. It connects as soon as it is polled,
/// and goes on trying.
///
/// # Errors
///
/// If the options are wrong.
pub fn with_driver<R, O>(runtime: R, options: O) -> Result<(Client, Driver<R>), ConnectError>
where
    R: Runtime,
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    start(runtime, convert(options)?, FirstConnect::Retry)
}

/// [`with_driver`] for runtime crates: with a choice of what a failure of the first connect means.
///
/// # Errors
///
/// If the options are wrong.
pub fn start<R: Runtime>(
    runtime: R,
    options: Options,
    first: FirstConnect,
) -> Result<(Client, Driver<R>), ConnectError> {
    options.validate()?;
    let now = runtime.now();
    let retry = first == FirstConnect::Retry;
    let session = Session::new(options.config.clone(), retry, runtime.seed(), now);
    let connector = options.connector.clone();
    let link = DriverLink::new(now);
    let client = ClientShared::new(Arc::clone(&link), session, options);
    let hold = Hold::new(&link);
    let driver = Driver::new(runtime, Arc::clone(&client), connector, now);
    Ok((Client::new(client, hold), driver))
}

/// Drives one client: a future that ends when the client is closed.
///
/// Dropping it closes the client at once: every message gets its outcome, and everybody who waits is
/// woken.
#[must_use = "a client makes no progress unless its driver is polled"]
pub struct Driver<R: Runtime> {
    runtime: R,
    client: Arc<ClientShared>,
    transports: Transports<R>,
    connector: Option<Connector>,
    alarm: Alarm<R::Timer>,
    requests: Requests,
    effects: Effects,
    /// Producers that have more to take.
    again: Vec<ProducerId>,
    last_tick: Time,
    /// When the session wants its next tick.
    session_deadline: Option<Time>,
    /// When to wake at the latest, that and the failsafe tick included.
    deadline: Option<Time>,
    finished: bool,
}

/// Nothing in it is pinned in place.
impl<R: Runtime> Unpin for Driver<R> {}

impl<R: Runtime> Driver<R> {
    fn new(runtime: R, client: Arc<ClientShared>, connector: Option<Connector>, now: Time) -> Self {
        Self {
            alarm: Alarm::new(runtime.timer()),
            runtime,
            client,
            transports: Transports::new(),
            connector,
            requests: Requests::default(),
            effects: Effects::default(),
            again: Vec::new(),
            last_tick: now,
            session_deadline: None,
            deadline: None,
            finished: false,
        }
    }

    /// One turn. Returns whether anything changed, so that another one may find more.
    fn turn(&mut self, cx: &mut Context<'_>, now: Time) -> bool {
        let Self { client, requests, effects, transports, again, .. } = self;
        let link = &client.link;
        link.begin_turn(now);
        let mut guard = lock(&client.core);
        let core = &mut *guard;

        let mut changed = requests.take(core, client, effects, now);
        changed |= visit_producers(core, link, effects, again, now);
        changed |= visit_consumers(core, link, requests, now);
        if self.session_deadline.is_some_and(|at| at <= now)
            || self.runtime.tick().is_some_and(|tick| self.last_tick + tick <= now)
        {
            core.session.handle_tick(now);
            self.last_tick = now;
        }
        requests.expire(core, effects, now);

        changed |=
            transports.drive(&mut core.session, &self.runtime, self.connector.as_ref(), cx, now);
        changed |= effects.collect(core, client, requests, now);
        effects.finish_turn(core);

        self.session_deadline = core.session.poll_deadline().map(|deadline| {
            // Due already, and nothing came of it: not a reason to spin.
            if deadline.at <= now && !changed { now + PATIENCE } else { deadline.at }
        });
        let tick = self.runtime.tick().map(|tick| now + tick);
        let deadlines = [
            self.session_deadline,
            core.producers.next_deadline(),
            requests.next_linger(),
            transports.next_deadline(),
            tick,
        ];
        self.deadline = deadlines.into_iter().flatten().min();
        let closed = core.session.is_closed();
        drop(guard);
        effects.run(client);
        if closed && !changed {
            self.finish(now);
            return true;
        }
        changed || !self.again.is_empty()
    }

    /// Whether a handle has left something since the last turn looked.
    fn is_wanted(&self) -> bool {
        let link = &self.client.link;
        !link.is_idle() || (link.is_abandoned() && !self.requests.is_shutting_down())
    }

    /// Ends everything: each message has its outcome now, and everybody who waits learns it.
    fn finish(&mut self, now: Time) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let Self { client, requests, effects, transports, .. } = self;
        transports.clear();
        let mut guard = lock(&client.core);
        let core = &mut *guard;
        // The session may be what panicked.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            core.producers.close_admission(&mut core.session, now);
            if !core.session.is_closed() {
                core.session.abort(now);
            }
            while core.session.poll_action().is_some() {}
            while effects.collect(core, client, requests, now) {}
            effects.finish_turn(core);
            core.session.report()
        }));
        for (_, consumer) in std::mem::take(&mut core.consumers) {
            effects.end_consumer(&consumer, EndReason::ClientClosed, 0);
        }
        let producers: Vec<_> = core.producers.open().cloned().collect();
        drop(guard);
        effects.run(client);
        producers.iter().for_each(|producer| producer.abandon());
        *requests = Requests::default();
        client.link.driver_gone();
        client.finish(ended.unwrap_or_default());
    }
}

fn visit_producers(
    core: &mut Core,
    link: &DriverLink,
    effects: &mut Effects,
    again: &mut Vec<ProducerId>,
    now: Time,
) -> bool {
    let mut visits = std::mem::take(again);
    core.producers.come_back(&visits);
    core.producers.expired(now, &mut visits);
    while visits.len() < VISITS
        && let Some(producer) = link.pop_ready()
    {
        visits.push(producer);
    }
    for &producer in &visits {
        if core.producers.visit(producer, &mut core.session, now) {
            again.push(producer);
        }
        effects.touch(producer);
    }
    core.producers.give_up(&mut core.session, now);
    let visited = !visits.is_empty();
    if again.is_empty() {
        // For its memory.
        visits.clear();
        *again = visits;
    }
    visited
}

fn visit_consumers(core: &mut Core, link: &DriverLink, requests: &mut Requests, now: Time) -> bool {
    let mut changed = false;
    for _ in 0..VISITS {
        let Some(consumer) = link.pop_consumer() else { break };
        changed = true;
        requests.visit_consumer(core, consumer, now);
    }
    changed
}

impl<R: Runtime> Future for Driver<R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.finished {
            return Poll::Ready(());
        }
        let mut now = this.runtime.now();
        this.client.link.woke(now);
        let mut moved = 0;
        for _ in 0..TURNS {
            let changed = this.turn(cx, now);
            moved += this.transports.take_moved();
            if this.finished {
                return Poll::Ready(());
            }
            if !changed {
                // Registered and asleep first, then a last look: no wake-up is lost between them.
                this.client.link.prepare_sleep(cx);
                let asleep = !this.is_wanted()
                    && this.deadline.is_none_or(|at| this.alarm.poll(cx, at, now).is_pending());
                if asleep {
                    return Poll::Pending;
                }
                now = this.runtime.now();
                this.client.link.woke(now);
            } else {
                now = this.runtime.now();
            }
            if moved >= MOVED {
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<R: Runtime> Drop for Driver<R> {
    fn drop(&mut self) {
        let now = self.runtime.now();
        self.finish(now);
    }
}

impl<R: Runtime> fmt::Debug for Driver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("finished", &self.finished).finish_non_exhaustive()
    }
}
