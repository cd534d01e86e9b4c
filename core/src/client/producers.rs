//! All producers of a client, for the driver to visit.
#![expect(clippy::disallowed_types, reason = "whoever waits for a producer is woken by the driver")]

use std::{
    collections::{BTreeMap, BTreeSet},
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
};

/// Messages taken from one producer at one visit, so that the others have their turn.
const PER_VISIT: usize = 1024;

/// The producers of a client.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    open: BTreeMap<ProducerId, Entry>,
    /// Closed, and still held by somebody, whose publishes are refused and counted.
    closed: Vec<Arc<ProducerShared>>,
    /// The admission's half of the accounts of those that nobody holds any more.
    past: ProducerStats,
    /// Those that are being closed.
    closing: BTreeSet<ProducerId>,
    /// When to visit a producer because somebody has waited for too long there.
    expiries: BTreeMap<ProducerId, Time>,
    /// When to give up a producer that is being closed.
    deadlines: BTreeMap<ProducerId, Time>,
    /// Whom to wake once no lock is held.
    wakers: Vec<Waker>,
}

#[derive(Debug)]
struct Entry {
    shared: Arc<ProducerShared>,
    hooks: Arc<Hooks>,
    closing: Option<Closing>,
    /// The session's half of its account, while it may be closed any moment.
    last: Option<ProducerStats>,
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
        let entry = Entry { shared, hooks: Arc::new(hooks), closing: None, last: None };
        self.open.insert(entry.shared.id(), entry);
    }

    pub(crate) fn get(&self, producer: ProducerId) -> Option<&Arc<ProducerShared>> {
        self.open.get(&producer).map(|entry| &entry.shared)
    }

    pub(crate) fn hooks(&self, producer: ProducerId) -> Option<&Arc<Hooks>> {
        self.open.get(&producer).map(|entry| &entry.hooks)
    }

    /// Takes what was handed over, and sees to those who have waited for too long. Returns whether
    /// it has more.
    pub(crate) fn visit(&mut self, producer: ProducerId, session: &mut Session, now: Time) -> bool {
        let Some(Entry { shared, .. }) = self.open.get(&producer) else { return false };
        shared.take_evicted(|accepted| session.accept_evicted(producer, accepted, now));
        let more = shared.take(PER_VISIT, |accepted| session.accept(producer, accepted, now));
        self.wakers.append(&mut shared.expire(now));
        match shared.next_deadline() {
            Some(at) => self.expiries.insert(producer, at),
            None => self.expiries.remove(&producer),
        };
        more
    }

    /// Those whose waiting publishers have a deadline that has come.
    pub(crate) fn expired(&self, now: Time, into: &mut Vec<ProducerId>) {
        into.extend(self.expiries.iter().filter(|&(_, &at)| at <= now).map(|(&id, _)| id));
    }

    /// The earliest deadline of any.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.expiries.values().chain(self.deadlines.values()).min().copied()
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
        let Some(entry) = self.open.get_mut(&producer) else { return reply };
        if entry.closing.is_none() {
            self.wakers.append(&mut take_rest(&entry.shared, session, now));
            let stats = session.producer_stats(producer).unwrap_or_default();
            let before = (stats.dropped(), stats.unknown);
            entry.closing = Some(Closing { before, timed_out: false, replies: Vec::new() });
            session.close_producer(producer, false, now);
            self.closing.insert(producer);
        }
        if let Some(closing) = &mut entry.closing {
            // Some no longer wait, perhaps.
            closing.replies.retain(|reply| !reply.is_canceled());
            closing.replies.extend(reply);
        }
        if let Some(deadline) = deadline {
            let at = self.deadlines.entry(producer).or_insert(deadline);
            *at = deadline.min(*at);
        }
        None
    }

    /// Gives up those that are being closed and whose deadline has come.
    pub(crate) fn give_up(&mut self, session: &mut Session, now: Time) {
        if self.deadlines.is_empty() {
            return;
        }
        let open = &mut self.open;
        self.deadlines.retain(|&producer, &mut at| {
            if at > now {
                return true;
            }
            if let Some(Entry { closing: Some(closing), .. }) = open.get_mut(&producer) {
                closing.timed_out = true;
                session.close_producer(producer, true, now);
            }
            false
        });
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

    /// Notes the accounts of those that may be closed by now (or of all), before the session forgets
    /// them.
    pub(crate) fn note_closing(&mut self, session: &Session, all: bool) {
        if all {
            for (&producer, entry) in &mut self.open {
                entry.last = session.producer_stats(producer).or(entry.last);
            }
            return;
        }
        for producer in &self.closing {
            if let Some(entry) = self.open.get_mut(producer) {
                entry.last = session.producer_stats(*producer).or(entry.last);
            }
        }
    }

    /// The session has closed it, and forgotten it.
    pub(crate) fn closed(&mut self, producer: ProducerId) -> Option<Closed> {
        let Entry { shared, closing, last, .. } = self.open.remove(&producer)?;
        let stats = last.unwrap_or_default();
        shared.publish_stats(stats);
        self.closing.remove(&producer);
        self.expiries.remove(&producer);
        self.deadlines.remove(&producer);
        let past = &mut self.past;
        self.closed.retain(|shared| {
            let held = Arc::strong_count(shared) > 1;
            if !held {
                past.add(&shared.snapshot(ProducerStats::default()));
            }
            held
        });
        self.closed.push(Arc::clone(&shared));
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

    /// All that are open.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Arc<ProducerShared>> {
        self.open.values().map(|entry| &entry.shared)
    }

    /// Adds the admission's half to the session's sum of all producers.
    pub(crate) fn complete(&self, mut sum: ProducerStats) -> ProducerStats {
        sum.add(&self.past);
        for shared in self.open.values().map(|entry| &entry.shared).chain(&self.closed) {
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
