//! The oracle's books, kept apart from the client's: what the application asked for, what it was told,
//! and what the broker really got, message by message.
//!
//! Every message has an identity in its body (or, if that is empty, in its message id). Each source
//! that reports a message (its publish, its receipt, the hooks, the events) is written down, and they
//! must agree with each other; their sums must agree with the client's stats. `sums` checks the sums,
//! `messages` each message, `deliveries` the consumers' side.

mod deliveries;
mod id;
mod messages;
mod outcome;
mod sums;

use std::{collections::BTreeMap, sync::Arc};

use lavinmq_core::{
    error::{NotConfirmed, PublishError},
    event::{Event, Settled},
    stats::{ProducerStats, Stats},
    time::Time,
};

pub use self::{
    id::Id,
    outcome::{Admission, Outcome},
};
use super::scenario::Scenario;

#[derive(Clone, Debug)]
struct Record {
    task: usize,
    admission: Admission,
    /// As its receipt says.
    sequence: Option<u64>,
    receipt: Option<Outcome>,
    hook: Option<(u64, Outcome)>,
}

/// A copy of a message that the broker put into a queue.
#[derive(Clone, Debug)]
pub struct StoredCopy {
    /// The queue.
    pub queue: Arc<str>,
    /// On which connection it came.
    pub connection: u64,
    /// Its header `x-attempt`.
    pub attempt: Option<u64>,
}

/// The number of a message, and the connection on which its first copy came.
type FirstCopy = (usize, u64);

/// How a delivery was settled by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// `ack()`, or the broker forgot it when it sent it.
    Ack,
    /// `requeue()`.
    Requeue,
    /// `reject()`.
    Reject,
    /// Dropped.
    Forget,
}

#[derive(Clone, Copy, Debug)]
struct Handed {
    at: Time,
    redelivered: bool,
    consumer: usize,
    treatment: Option<Treatment>,
}

#[derive(Clone, Debug, Default)]
struct ProducerBook {
    counts: ProducerStats,
    records: Vec<Record>,
}

/// The books of one world.
#[derive(Clone, Debug)]
pub struct Accounts {
    producers: Vec<ProducerBook>,
    stored: BTreeMap<Id, Vec<StoredCopy>>,
    /// First copies in the order in which the broker stored them, by producer and queue.
    first_copies: BTreeMap<(usize, Arc<str>), Vec<FirstCopy>>,
    handed: BTreeMap<Id, Vec<Handed>>,
    events: BTreeMap<(Arc<str>, u64, Outcome), u64>,
    skipped: u64,
    hook_panics: u64,
    /// When anything happened after which a broker may deliver again.
    losses: Vec<Time>,
    violations: Vec<String>,
}

impl Accounts {
    /// Empty books.
    #[must_use]
    pub fn new(producers: usize) -> Self {
        Self {
            producers: vec![ProducerBook::default(); producers],
            stored: BTreeMap::new(),
            first_copies: BTreeMap::new(),
            handed: BTreeMap::new(),
            events: BTreeMap::new(),
            skipped: 0,
            hook_panics: 0,
            losses: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Something is wrong.
    pub fn violation(&mut self, what: impl Into<String>) {
        // The first few say it all.
        if self.violations.len() < 20 {
            self.violations.push(what.into());
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// What the world counted for this producer.
    #[must_use]
    pub fn counts(&self, producer: usize) -> ProducerStats {
        self.producers[producer].counts
    }

    /// Messages accepted by all producers.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.producers.iter().map(|book| book.counts.accepted).sum()
    }

    // ---- publishing -----------------------------------------------------------------------------

    /// The next message of this producer is about to be offered.
    pub fn offer(&mut self, producer: usize, task: usize) -> Id {
        let book = &mut self.producers[producer];
        book.counts.offered += 1;
        book.counts.waiting += 1;
        book.records.push(Record {
            task,
            admission: Admission::Waiting,
            sequence: None,
            receipt: None,
            hook: None,
        });
        Id { producer, number: book.records.len() - 1 }
    }

    fn end_offer(&mut self, id: Id, admission: Admission) -> &mut ProducerStats {
        let book = &mut self.producers[id.producer];
        book.counts.waiting -= 1;
        book.records[id.number].admission = admission;
        &mut book.counts
    }

    /// It was accepted; confirm producers say with which sequence number.
    pub fn accepted_one(&mut self, id: Id, sequence: Option<u64>) {
        self.end_offer(id, Admission::Accepted).accepted += 1;
        self.producers[id.producer].records[id.number].sequence = sequence;
    }

    /// Its future was dropped while it waited.
    pub fn cancelled(&mut self, id: Id) {
        self.end_offer(id, Admission::Cancelled).cancelled += 1;
    }

    /// It was refused.
    pub fn refused(&mut self, id: Id, error: &PublishError) {
        if Id::of(error.message()).is_some_and(|back| back != id) {
            self.violation(format!("{id} was refused, and another message came back"));
        }
        let counts = self.end_offer(id, Admission::Refused);
        match error {
            PublishError::Full(_) => counts.refused_full += 1,
            PublishError::Closed(_) => counts.refused_closed += 1,
            PublishError::Offline(..) => counts.refused_offline += 1,
            PublishError::Invalid(..) => counts.refused_invalid += 1,
            PublishError::TimedOut(_) => counts.timed_out += 1,
            _ => self.violation(format!("{id}: an unknown refusal {error:?}")),
        }
    }

    /// Its receipt resolved.
    pub fn receipt(&mut self, id: Id, result: Result<(), &NotConfirmed>) {
        let outcome = Outcome::of(result.as_ref().err().map(|error| &error.verdict));
        let record = &mut self.producers[id.producer].records[id.number];
        let (sequence, before) = (record.sequence, record.receipt.replace(outcome));
        if let Some(before) = before {
            self.violation(format!("{id}: its receipt says {before:?}, then {outcome:?}"));
        }
        if let Err(error) = result {
            if Some(error.sequence) != sequence {
                self.violation(format!(
                    "{id}: receipt {sequence:?} ended with the sequence {}",
                    error.sequence
                ));
            }
            if Id::of(&error.message) != Some(id) {
                self.violation(format!("{id}: its receipt gave back another message"));
            }
        }
    }

    /// A hook of this producer heard of a message.
    pub fn hook(&mut self, producer: usize, settled: &Settled) {
        let outcome = Outcome::of(settled.verdict.as_ref());
        let id = match Id::of(&settled.message) {
            Some(id) if id.producer == producer => id,
            other => {
                return self.violation(format!(
                    "a hook of producer {producer} heard {outcome:?} of message {other:?}"
                ));
            }
        };
        let Some(record) = self.producers[producer].records.get_mut(id.number) else {
            return self.violation(format!("{id}: a hook heard of it before it was offered"));
        };
        let (admission, sequence) = (record.admission, record.sequence);
        let before = record.hook.replace((settled.sequence, outcome));
        if admission != Admission::Accepted {
            self.violation(format!("{id}: {outcome:?}, but it is {admission:?}"));
        }
        if let Some((_, before)) = before {
            self.violation(format!("{id}: two outcomes, {before:?} and {outcome:?}"));
        }
        if sequence.is_some_and(|sequence| sequence != settled.sequence) {
            self.violation(format!(
                "{id}: its receipt has sequence {sequence:?}, a hook heard {}",
                settled.sequence
            ));
        }
    }

    /// A hook panicked on purpose.
    pub const fn hook_panicked(&mut self) {
        self.hook_panics += 1;
    }

    /// An event was read.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::NotConfirmed { routing_key, sequence, verdict, .. } => {
                let key = (routing_key.clone(), *sequence, Outcome::of(Some(verdict)));
                *self.events.entry(key).or_default() += 1;
            }
            Event::Skipped(n) => self.skipped += n,
            _ => {}
        }
    }

    // ---- the broker's side ------------------------------------------------------------------------

    /// The broker put a copy into a queue.
    pub fn stored(&mut self, id: Id, copy: StoredCopy) {
        let known = self.producers.get(id.producer).and_then(|book| book.records.get(id.number));
        if known.is_none() {
            return self.violation(format!("{id}: the broker has a message that nobody offered"));
        }
        let copies = self.stored.entry(id).or_default();
        let first = copies.iter().all(|other| other.queue != copy.queue);
        // One with x-attempt may have been refused (nacked, and the nack lost) when its turn was.
        if first && copy.attempt.is_none() {
            self.first_copies
                .entry((id.producer, copy.queue.clone()))
                .or_default()
                .push((id.number, copy.connection));
        }
        copies.push(copy);
    }

    /// Something happened after which a broker may deliver again.
    pub fn loss(&mut self, at: Time) {
        self.losses.push(at);
    }

    // ---- consuming --------------------------------------------------------------------------------

    /// A delivery was handed to the application. Returns its place, for [`Accounts::treated`].
    pub fn handed(&mut self, id: Id, at: Time, consumer: usize, redelivered: bool) -> (Id, usize) {
        if !self.stored.contains_key(&id) {
            self.violation(format!("{id}: delivered, but it never was in a queue"));
        }
        let handed = self.handed.entry(id).or_default();
        handed.push(Handed { at, redelivered, consumer, treatment: None });
        (id, handed.len() - 1)
    }

    /// The application settled a delivery so, and was told that it is queued.
    pub fn treated(&mut self, (id, at): (Id, usize), treatment: Treatment) {
        if let Some(handed) = self.handed.get_mut(&id).and_then(|all| all.get_mut(at)) {
            handed.treatment = Some(treatment);
        }
    }

    /// The application acked a delivery and every earlier one of its consumer.
    pub fn acked_through(&mut self, consumer: usize) {
        for handed in self.handed.values_mut().flatten() {
            if handed.consumer == consumer {
                handed.treatment.get_or_insert(Treatment::Ack);
            }
        }
    }

    /// Deliveries handed to the application.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.handed.values().map(|all| all.len() as u64).sum()
    }

    // ---- checks -----------------------------------------------------------------------------------

    /// After every step: the laws, and nothing counted that did not happen.
    pub fn check_step(&mut self, producers: &[Option<ProducerStats>], sum: &Stats) {
        for (index, stats) in producers.iter().enumerate() {
            let Some(stats) = stats else { continue };
            if !stats.is_conserved() {
                self.violation(format!("producer {index}: not conserved: {stats:?}"));
            }
            let counts = &self.producers[index].counts;
            if stats.offered > counts.offered || stats.accepted > counts.accepted {
                self.violation(format!("producer {index} counts more than happened: {stats:?}"));
            }
        }
        if !sum.is_conserved() {
            self.violation(format!("the client's sum is not conserved: {sum:?}"));
        }
    }

    /// At the end of a world, when every task is done. Without handles there are no stats any more,
    /// and the messages' outcomes are checked alone.
    pub fn check_end(&mut self, scenario: &Scenario, end: Option<(&[ProducerStats], &Stats)>) {
        for index in 0..self.producers.len() {
            let stats = end.and_then(|(producers, _)| producers.get(index));
            if let Some(stats) = stats {
                self.check_counts(index, stats);
            }
            self.check_outcomes(index, stats, scenario);
            self.check_reasons(index, scenario);
            self.check_sequences(index);
            self.check_copies(index, scenario);
            self.check_order(index, scenario);
        }
        self.check_events(scenario);
        self.check_deliveries(scenario);
        if let Some((producers, sum)) = end {
            self.check_sum(scenario, producers, sum);
        }
    }
}
