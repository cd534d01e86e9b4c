//! All producers of a client, for the driver to visit.
#![expect(clippy::disallowed_types, reason = "whoever waits for a producer is woken by the driver")]

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    task::Waker,
};

use futures::channel::oneshot;

use super::{hooks::Hooks, producer_shared::ProducerShared};
use crate::{
    ids::ProducerId,
    session::{Report, Session},
    stats::ProducerStats,
    time::Time,
    timers::Timers,
};

/// Messages taken from one producer at one visit, so that the others have their turn.
const PER_VISIT: usize = 1024;

/// The producers of a client.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    open: BTreeMap<ProducerId, Entry>,
    /// For all that have no hooks of their own.
    no_hooks: Arc<Hooks>,
    /// Closed, and still held by somebody, whose publishes are refused and counted. The last handle
    /// that goes asks for the close once more.
    closed: BTreeMap<ProducerId, Arc<ProducerShared>>,
    /// The admission's half of the accounts of those that nobody holds any more.
    past: ProducerStats,
    /// When to visit a producer because somebody has waited for too long there.
    expiries: Timers<ProducerId>,
    /// When to give up a producer that is being closed.
    deadlines: Timers<ProducerId>,
    /// Whom to wake once no lock is held.
    wakers: Vec<Waker>,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<ProducerShared>,
    hooks: Arc<Hooks>,
    closing: Option<Closing>,
    /// It has more than one visit takes, and the driver comes back by itself.
    again: bool,
}

#[derive(Debug)]
struct Closing {
    /// What was dropped, and what was unknown, when it began.
    before: (u64, u64),
    timed_out: bool,
    replies: Vec<oneshot::Sender<Report>>,
}

/// A producer that has closed: whom to tell what.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) shared: Arc<ProducerShared>,
    pub(crate) report: Report,
    pub(crate) replies: Vec<oneshot::Sender<Report>>,
}

impl Producers {
    pub(crate) fn insert(&mut self, shared: Arc<ProducerShared>, hooks: Hooks) {
        let hooks = if hooks.are_unset() { Arc::clone(&self.no_hooks) } else { Arc::new(hooks) };
        let entry = Entry { shared, hooks, closing: None, again: false };
        self.open.insert(entry.shared.id(), entry);
    }

    pub(crate) fn get(&self, producer: ProducerId) -> Option<&Arc<ProducerShared>> {
        self.open.get(&producer).map(|entry| &entry.shared)
    }

    pub(crate) fn hooks(&self, producer: ProducerId) -> Option<&Arc<Hooks>> {
        self.open.get(&producer).map(|entry| &entry.hooks)
    }

    /// The driver comes back to these, as it was told to: they can be told again.
    pub(crate) fn come_back(&mut self, producers: &[ProducerId]) {
        for producer in producers {
            if let Some(entry) = self.open.get_mut(producer) {
                entry.again = false;
            }
        }
    }

    /// Takes what was handed over, and sees to those who have waited for too long. Returns whether
    /// the driver must come back by itself, since it has more: once, until it comes.
    pub(crate) fn visit(&mut self, producer: ProducerId, session: &mut Session, now: Time) -> bool {
        let Some(Entry { shared, again, .. }) = self.open.get_mut(&producer) else { return false };
        shared.take_evicted(|accepted| session.accept_evicted(producer, accepted, now));
        let more = shared.take(PER_VISIT, |accepted| session.accept(producer, accepted, now));
        self.wakers.append(&mut shared.expire(now));
        match shared.next_deadline() {
            Some(at) => self.expiries.arm(producer, at),
            None => self.expiries.cancel(producer),
        }
        more && !std::mem::replace(again, true)
    }

    /// Those whose waiting publishers have a deadline that has come.
    pub(crate) fn expired(&mut self, now: Time, into: &mut Vec<ProducerId>) {
        into.extend(std::iter::from_fn(|| self.expiries.pop_due(now)));
    }

    /// The earliest deadline of any.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let (expiry, deadline) = (self.expiries.next(), self.deadlines.next());
        expiry.into_iter().chain(deadline).map(|(at, _)| at).min()
    }

    /// Closes one: what was accepted is given to the session, and nothing more will be. Returns the
    /// reply if it is closed already.
    pub(crate) fn close(
        &mut self,
        producer: ProducerId,
        deadline: Option<Time>,
        reply: Option<oneshot::Sender<Report>>,
        session: &mut Session,
        now: Time,
    ) -> Option<oneshot::Sender<Report>> {
        let Some(entry) = self.open.get_mut(&producer) else {
            self.forget_closed(producer);
            return reply;
        };
        if entry.closing.is_none() {
            self.wakers.append(&mut take_rest(&entry.shared, session, now));
            let stats = session.producer_stats(producer).unwrap_or_default();
            let before = (stats.dropped(), stats.unknown);
            entry.closing = Some(Closing { before, timed_out: false, replies: Vec::new() });
            session.close_producer(producer, false, now);
        }
        if let Some(closing) = &mut entry.closing {
            // Some no longer wait, perhaps.
            closing.replies.retain(|reply| !reply.is_canceled());
            closing.replies.extend(reply);
        }
        if let Some(deadline) = deadline {
            let at = self.deadlines.get(producer).map_or(deadline, |at| at.min(deadline));
            self.deadlines.arm(producer, at);
        }
        None
    }

    /// Gives up those that are being closed and whose deadline has come.
    pub(crate) fn give_up(&mut self, session: &mut Session, now: Time) {
        while let Some(producer) = self.deadlines.pop_due(now) {
            if let Some(Entry { closing: Some(closing), .. }) = self.open.get_mut(&producer) {
                closing.timed_out = true;
                session.close_producer(producer, true, now);
            }
        }
    }

    /// Ends admission everywhere, and gives the session all that was accepted.
    pub(crate) fn close_admission(&mut self, session: &mut Session, now: Time) {
        for entry in self.open.values() {
            self.wakers.append(&mut take_rest(&entry.shared, session, now));
        }
    }

    /// Whom to wake, once no lock is held.
    pub(crate) fn take_wakers(&mut self, into: &mut Vec<Waker>) {
        into.append(&mut self.wakers);
    }

    /// The session has closed it, with this account, and forgotten it.
    pub(crate) fn closed(
        &mut self,
        producer: ProducerId,
        account: Option<ProducerStats>,
    ) -> Option<Closed> {
        let Entry { shared, closing, .. } = self.open.remove(&producer)?;
        let stats = account.unwrap_or_default();
        shared.publish_stats(stats);
        self.expiries.cancel(producer);
        self.deadlines.cancel(producer);
        self.closed.insert(producer, Arc::clone(&shared));
        self.forget_closed(producer);
        let (report, replies) = match closing {
            Some(closing) => {
                let report = Report {
                    dropped: stats.dropped().saturating_sub(closing.before.0),
                    unknown: stats.unknown.saturating_sub(closing.before.1),
                    timed_out: closing.timed_out,
                    ..Report::default()
                };
                (report, closing.replies)
            }
            None => Default::default(),
        };
        Some(Closed { shared, report, replies })
    }

    /// One that is closed and that nobody holds any more counts in the sum only.
    fn forget_closed(&mut self, producer: ProducerId) {
        if let btree_map::Entry::Occupied(entry) = self.closed.entry(producer)
            && !entry.get().is_held()
        {
            self.past.add(&entry.remove().snapshot(ProducerStats::default()));
        }
    }

    /// All that are open.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Arc<ProducerShared>> {
        self.open.values().map(|entry| &entry.shared)
    }

    /// Adds the admission's half to the session's sum of all producers.
    pub(crate) fn complete(&self, mut sum: ProducerStats) -> ProducerStats {
        sum.add(&self.past);
        for shared in self.open.values().map(|entry| &entry.shared).chain(self.closed.values()) {
            sum.add(&shared.snapshot(ProducerStats::default()));
        }
        sum.offered = sum.offered_terms();
        sum
    }
}

fn take_rest(shared: &ProducerShared, session: &mut Session, now: Time) -> Vec<Waker> {
    let wakers = shared.end_admission();
    shared.take_rest(|evicted, accepted| {
        if evicted {
            session.accept_evicted(shared.id(), accepted, now);
        } else {
            session.accept(shared.id(), accepted, now);
        }
    });
    wakers
}
