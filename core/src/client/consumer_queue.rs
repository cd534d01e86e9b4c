//! One consumer's two ways: deliveries on their way in, settlements on their way back.
#![expect(clippy::disallowed_types, reason = "handles and driver share state between threads")]

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    delivery::{Parcel, Settle},
    link::DriverLink,
    settles::SettleLog,
    sync::{AtomicBool, AtomicU64, Mutex, Ordering, lock},
    waiting::{Place, Waiting},
};
use crate::{
    config::ConsumerConfig,
    consume::{Batch, SettleRun, Settlement},
    event::EndReason,
    ids::ConsumerId,
    session::Report,
};

/// What a consumer, its deliveries and the driver share.
///
/// Deliveries keep it alive, but not the client. Batches go in and out under one lock each, not
/// deliveries; a settlement takes the other lock, briefly, and touches the driver only when it is
/// the first since the driver looked.
#[derive(Debug)]
pub(crate) struct ConsumerShared {
    id: ConsumerId,
    /// `None`: made by hand, for a test.
    link: Option<Arc<DriverLink>>,
    no_ack: bool,
    hold_on_drop: bool,
    /// Consumed bytes that are worth a wake-up of the driver.
    worth_telling: u64,
    /// Deliveries of older generations can no longer be settled.
    valid_from: AtomicU64,
    /// The stream of a consumer that settles ends here, whatever is still queued.
    stopped: AtomicBool,
    inbox: Mutex<Inbox>,
    /// How many deliveries of the batch that is being handed out were.
    shown: AtomicU64,
    settles: SettleLog,
    /// Bytes that left a no-ack queue, and that the driver has not heard of.
    consumed: AtomicU64,
    /// Whether it is on the driver's list of consumers to visit.
    listed: AtomicBool,
}

#[derive(Debug, Default)]
struct Inbox {
    parcels: VecDeque<Arc<Parcel>>,
    /// Deliveries in them.
    queued: usize,
    /// The batch that the consumer is handing out.
    current: Option<SettleRun>,
    /// It is closing, and why: what the application has not seen is handed back.
    closing: Option<EndReason>,
    ended: Option<(EndReason, Report)>,
    /// The consumer is gone: nobody reads what is queued.
    unread: bool,
    stream: Option<Waker>,
    /// Who waits for the end.
    closers: Waiting,
    linger: Linger,
}

/// The timer of `next_batch`. The driver has the clock: it starts the timer at its next turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Linger {
    #[default]
    Off,
    Asked(Duration),
    Running,
    Over,
}

/// All of a batch, to be requeued: its tags are consecutive.
fn whole(batch: &Batch) -> SettleRun {
    SettleRun {
        generation: batch.generation(),
        first: batch.tag(0),
        last: batch.tag(batch.len().saturating_sub(1)),
        settlement: Settlement::Requeue,
    }
}

impl ConsumerShared {
    pub(crate) fn new(
        id: ConsumerId,
        link: Option<Arc<DriverLink>>,
        config: &ConsumerConfig,
        hold_on_drop: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            link,
            no_ack: config.no_ack,
            hold_on_drop,
            worth_telling: (config.queue_bytes as u64 / 8).max(1),
            valid_from: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            inbox: Mutex::default(),
            shown: AtomicU64::new(0),
            settles: SettleLog::default(),
            consumed: AtomicU64::new(0),
            listed: AtomicBool::new(false),
        })
    }

    // ---- for deliveries -------------------------------------------------------------------------

    pub(crate) const fn holds_on_drop(&self) -> bool {
        self.hold_on_drop
    }

    /// Notes a settlement, and has the driver send it.
    #[inline]
    pub(crate) fn settle(
        &self,
        generation: u64,
        tag: u64,
        settlement: Settlement,
        through: bool,
    ) -> Settle {
        let stale = generation < self.valid_from.load(Ordering::Acquire);
        #[cfg(feature = "sabotage")]
        let stale = stale && !crate::sabotage::is(crate::sabotage::Sabotage::AcksWithoutGeneration);
        if stale {
            return Settle::Stale;
        }
        let noted = self.settles.note(generation, tag, settlement, through);
        if noted == Settle::Queued {
            self.list();
        }
        noted
    }

    #[inline]
    fn list(&self) {
        // Whoever left something here did it after the driver's last visit (then `listed` reads as
        // false), or before it took everything: by one lock or read-modify-write that both pass.
        if !self.listed.load(Ordering::Acquire)
            && !self.listed.swap(true, Ordering::AcqRel)
            && let Some(link) = &self.link
        {
            link.notify_consumer(self.id);
        }
    }

    // ---- for the consumer -----------------------------------------------------------------------

    pub(crate) const fn id(&self) -> ConsumerId {
        self.id
    }

    /// Whether the stream hands out nothing more, for an application that settles deliveries.
    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) && !self.no_ack
    }

    /// Whether deliveries of this batch can still be handed out: the broker delivers stale ones
    /// again. Those of a no-ack consumer are never delivered again.
    #[inline]
    pub(crate) fn is_current(&self, parcel: &Parcel) -> bool {
        self.no_ack
            || (parcel.batch.generation() >= self.valid_from.load(Ordering::Acquire)
                && !self.is_stopped())
    }

    /// The next batch; `None` at the end of the stream.
    pub(crate) fn poll_parcel(&self, cx: &Context<'_>) -> Poll<Option<Arc<Parcel>>> {
        let mut inbox = lock(&self.inbox);
        if self.is_stopped() {
            return Poll::Ready(None);
        }
        if let Some(parcel) = inbox.parcels.pop_front() {
            inbox.queued -= parcel.batch.len();
            if !self.no_ack {
                inbox.current = Some(whole(&parcel.batch));
                self.shown.store(0, Ordering::Relaxed);
            }
            return Poll::Ready(Some(parcel));
        }
        if inbox.ended.is_some() {
            return Poll::Ready(None);
        }
        inbox.stream = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ready once `wanted` deliveries are queued, or some are and the time is over, or the stream
    /// has ended. `linger` is asked for when the first ones are there, `held` of which the consumer
    /// has already.
    pub(crate) fn poll_enough(
        &self,
        cx: &Context<'_>,
        held: usize,
        wanted: usize,
        linger: Duration,
    ) -> Poll<()> {
        let mut inbox = lock(&self.inbox);
        let there = held + inbox.queued;
        if there >= wanted
            || inbox.ended.is_some()
            || self.is_stopped()
            || (there > 0 && (linger.is_zero() || inbox.linger == Linger::Over))
        {
            return Poll::Ready(());
        }
        inbox.stream = Some(cx.waker().clone());
        let ask = there > 0 && inbox.linger == Linger::Off;
        if ask {
            inbox.linger = Linger::Asked(linger);
        }
        drop(inbox);
        if ask {
            self.list();
        }
        Poll::Pending
    }

    /// Forgets the timer of an earlier `next_batch`.
    pub(crate) fn reset_linger(&self) {
        lock(&self.inbox).linger = Linger::Off;
    }

    /// The last delivery of a batch was handed out.
    pub(crate) fn finished(&self, batch: &Batch) {
        if self.no_ack {
            self.count_consumed(batch.weight());
        }
    }

    fn count_consumed(&self, bytes: u64) {
        let told_late = self.consumed.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if told_late >= self.worth_telling {
            self.list();
        }
    }

    /// Closes, and hands back what the application has not seen. Returns whether it was the first to do so; then the driver has to be asked.
    ///
    /// What a no-ack consumer has queued stays, since nobody else will get it; but it no longer
    /// makes the connection wait.
    pub(crate) fn begin_close(&self) -> bool {
        let (first, stream) = self.hand_back_all(EndReason::Closed);
        stream.into_iter().for_each(Waker::wake);
        first && self.link.is_some()
    }

    /// The consumer is gone. What is queued would keep its queue in memory, and so itself.
    pub(crate) fn abandon(&self) {
        let mut inbox = lock(&self.inbox);
        inbox.unread = true;
        inbox.queued = 0;
        let unread = std::mem::take(&mut inbox.parcels);
        drop(inbox);
        drop(unread);
    }

    /// So many deliveries of the batch taken last were handed out.
    #[inline]
    pub(crate) fn set_shown(&self, shown: usize) {
        // A driver that hands back the rest at this very moment may take one too many: the broker
        // delivers it again, and the one handed out answers that it is settled already.
        self.shown.store(shown as u64, Ordering::Release);
    }

    /// The rest of the batch taken last was never seen by the application, nor will be.
    pub(crate) fn hand_back_current(&self) {
        let current = lock(&self.inbox).current.take();
        if let Some(run) = current {
            let first = run.first + self.shown.load(Ordering::Acquire);
            self.requeue(SettleRun { first, ..run });
        }
    }

    fn requeue(&self, run: SettleRun) {
        if run.first <= run.last && run.generation >= self.valid_from.load(Ordering::Acquire) {
            self.settles.lock().note_run(run);
            self.list();
        }
    }

    /// Why the stream ended.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        let inbox = lock(&self.inbox);
        match &inbox.ended {
            Some((reason, _)) => Some(reason.clone()),
            None if self.is_stopped() => Some(inbox.closing.clone().unwrap_or(EndReason::Closed)),
            None => None,
        }
    }

    /// The end of the consumer. A future that is dropped gives up its place.
    pub(crate) async fn ended(&self) -> Report {
        let mut place = Place::new(|key| {
            // Dropped outside the lock.
            let waker = lock(&self.inbox).closers.leave(key);
            drop(waker);
        });
        poll_fn(|cx| self.poll_ended(cx, &mut place.key)).await
    }

    /// Everything settled until now is written, or never will be.
    pub(crate) async fn settled(&self) {
        let target = self.settle_target();
        let mut place = Place::new(|key| {
            let waker = self.settles.lock().waiting().leave(key);
            drop(waker);
        });
        poll_fn(|cx| self.poll_settled(cx, target, &mut place.key)).await;
    }

    /// Ready once the consumer has ended.
    /// `key` is the future's own, once it waits.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>, key: &mut Option<u64>) -> Poll<Report> {
        let mut inbox = lock(&self.inbox);
        if let Some((_, report)) = &inbox.ended {
            return Poll::Ready(*report);
        }
        let old = inbox.closers.wait(key, cx.waker());
        drop(inbox);
        drop(old);
        Poll::Pending
    }

    /// How many settlements have to be written for all of those made until now.
    pub(crate) fn settle_target(&self) -> u64 {
        self.settles.lock().target()
    }

    /// Ready once so many settlements are written, or never will be.
    /// `key` is the future's own, once it waits.
    pub(crate) fn poll_settled(
        &self,
        cx: &Context<'_>,
        target: u64,
        key: &mut Option<u64>,
    ) -> Poll<()> {
        let mut settles = self.settles.lock();
        if settles.is_written(target) {
            return Poll::Ready(());
        }
        let old = settles.waiting().wait(key, cx.waker());
        drop(settles);
        drop(old);
        Poll::Pending
    }

    // ---- for the driver -------------------------------------------------------------------------

    /// A batch for the application. Returns whom to wake.
    pub(crate) fn push(self: &Arc<Self>, batch: Arc<Batch>) -> Option<Waker> {
        let mut inbox = lock(&self.inbox);
        if !self.no_ack {
            if batch.generation() < self.valid_from.load(Ordering::Relaxed) {
                return None;
            }
            if inbox.closing.is_some() {
                drop(inbox);
                self.requeue(whole(&batch));
                return None;
            }
        } else if inbox.closing.is_some() {
            self.consumed.fetch_add(batch.weight(), Ordering::AcqRel);
        }
        if inbox.unread {
            return None;
        }
        inbox.queued += batch.len();
        inbox.parcels.push_back(Arc::new(Parcel { batch, consumer: Arc::clone(self) }));
        inbox.stream.take()
    }

    /// The consumer closes for this reason: what the application has not seen is handed back, and
    /// its stream ends. Returns whether that is news, and whom to wake.
    pub(crate) fn hand_back_all(&self, reason: EndReason) -> (bool, Option<Waker>) {
        self.stopped.store(true, Ordering::Release);
        let mut inbox = lock(&self.inbox);
        let stream = inbox.stream.take();
        let first = inbox.closing.is_none();
        inbox.closing.get_or_insert(reason);
        if self.no_ack {
            let bytes = inbox.parcels.iter().map(|parcel| parcel.batch.weight()).sum();
            drop(inbox);
            if first {
                self.count_consumed(bytes);
            }
        } else {
            let unseen = std::mem::take(&mut inbox.parcels);
            inbox.queued = 0;
            drop(inbox);
            self.hand_back_current();
            for parcel in &unseen {
                self.requeue(whole(&parcel.batch));
            }
        }
        (first, stream)
    }

    /// The channel of all older generations is gone. What the application has not seen of them is
    /// dropped, if the broker delivers it again.
    pub(crate) fn set_valid_from(&self, generation: u64) {
        self.valid_from.store(generation, Ordering::Release);
        self.settles.lock().forget_before(generation);
        if self.no_ack {
            return;
        }
        let mut inbox = lock(&self.inbox);
        inbox.parcels.retain(|parcel| parcel.batch.generation() >= generation);
        inbox.queued = inbox.parcels.iter().map(|parcel| parcel.batch.len()).sum();
    }

    /// What was settled and consumed since the last call, and a timer to start.
    pub(crate) fn take(&self, runs: &mut Vec<SettleRun>) -> Taken {
        // Before looking: whoever comes after that lists it again.
        self.listed.store(false, Ordering::SeqCst);
        self.settles.lock().take(runs);
        let consumed = self.consumed.swap(0, Ordering::AcqRel);
        let mut inbox = lock(&self.inbox);
        let linger = match inbox.linger {
            Linger::Asked(after) => {
                inbox.linger = Linger::Running;
                Some(after)
            }
            Linger::Off | Linger::Running | Linger::Over => None,
        };
        Taken { consumed, linger }
    }

    /// The timer of `next_batch` is over.
    pub(crate) fn linger_over(&self) -> Option<Waker> {
        let mut inbox = lock(&self.inbox);
        if inbox.linger != Linger::Running {
            return None;
        }
        inbox.linger = Linger::Over;
        inbox.stream.take()
    }

    /// So many settlements are written.
    pub(crate) fn settles_written(&self, settles: u64, wakers: &mut Vec<Waker>) {
        self.settles.lock().written(settles, wakers);
    }

    /// Deliveries that wait for the application.
    pub(crate) fn queued(&self) -> u64 {
        lock(&self.inbox).queued as u64
    }

    /// No delivery follows. `abandoned` deliveries were not settled when its channel closed.
    pub(crate) fn end(&self, reason: EndReason, abandoned: u64, wakers: &mut Vec<Waker>) {
        self.settles.lock().written(u64::MAX, wakers);
        let mut inbox = lock(&self.inbox);
        if inbox.ended.is_none() {
            inbox.ended = Some((reason, Report { abandoned, ..Report::default() }));
        }
        if !self.no_ack {
            // The broker delivers them again, to somebody else.
            inbox.parcels.clear();
            inbox.queued = 0;
        }
        wakers.extend(inbox.stream.take());
        wakers.extend(inbox.closers.take());
    }

    /// Belongs to no client.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn detached() -> Arc<Self> {
        let config = ConsumerConfig::new("").unwrap_or_else(|_| unreachable!("a short name"));
        Self::new(ConsumerId(0), None, &config, false)
    }
}

/// What the driver takes out of a consumer at a visit, beside settlements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes of bodies that left a no-ack queue.
    pub(crate) consumed: u64,
    /// A timer to start.
    pub(crate) linger: Option<Duration>,
}
