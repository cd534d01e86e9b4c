//! The oracle's books, kept apart from the client's: what the application asked for, what it was told,
//! and what the broker really got, message by message.
//!
//! Every message has an identity in its body (or, if that is empty, in its message id). Each source
//! that reports a message (its publish, its receipt, the hooks, the events) is written down, and they
//! must agree with each other; their sums must agree with the client's stats. `sums` checks the sums,
//! `messages` each message, `deliveries` the consumers' side.

mod broker;
mod deliveries;
mod fates;
mod id;
mod messages;
mod outcome;
mod sums;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lavinmq_core::{
    error::{NotConfirmed, PublishError},
    event::{DropReason, Event, Settled},
    stats::{ProducerStats, Stats},
};

use self::{
    broker::Arrival,
    wire::{Deliveries, Links, OnWire},
};
pub use self::{
    fates::Fate,
    id::Id,
    outcome::{Admission, Outcome},
    wire::Settlement,
};
use super::{scenario::Scenario, states};

#[derive(Clone, Debug)]
struct Record {
    task: usize,
    admission: Admission,
    /// As its receipt says.
    sequence: Option<u64>,
    receipt: Option<Outcome>,
    hook: Option<(u64, Outcome)>,
    /// The queue that it is published to, if not the producer's.
    queue: Option<usize>,
    wire: OnWire,
    /// Copies that the broker received whole.
    received: u64,
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

/// How a delivery was settled by the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// `ack()`.
    Ack,
    /// None: the broker forgot it when it sent it.
    NoAck,
    /// `requeue()`.
    Requeue,
    /// `reject()`.
    Reject,
    /// Dropped.
    Forget,
}

/// A delivery that was handed to the application: of which message, and which one of it.
pub type Place = (Id, usize);

#[derive(Clone, Debug, Default)]
struct ProducerBook {
    counts: ProducerStats,
    records: Vec<Record>,
    /// Messages accepted, and neither begun to be written nor dropped.
    queued: i64,
    /// The window and the ring, as planned.
    window: usize,
    ring: usize,
    /// The latest first copy that was begun to be written, by task.
    begun: BTreeMap<usize, u64>,
    /// First copies in the order in which the broker received them.
    arrivals: Vec<Arrival>,
}

/// The books of one world.
#[derive(Clone, Debug)]
pub struct Accounts {
    producers: Vec<ProducerBook>,
    stored: BTreeMap<Id, Vec<StoredCopy>>,
    deliveries: BTreeMap<Id, Deliveries>,
    /// How each delivery was treated, by message.
    handed: BTreeMap<Id, Vec<Option<Treatment>>>,
    /// Deliveries in hand, by consumer.
    in_hand: BTreeMap<usize, Vec<Place>>,
    /// The prefetches that a queue's consumers want.
    prefetches: BTreeMap<String, Vec<u16>>,
    /// Deliveries read whole by the client.
    reads: u64,
    reads_without_ack: u64,
    /// Settled on the wire, by [`Settlement`].
    wire_settled: [u64; 3],
    links: Links,
    cut_in_handshake: bool,
    /// Declarations on the wire, by queue; and those of them that the application gave up.
    asked: BTreeMap<String, u64>,
    given_up: BTreeSet<String>,
    states: BTreeMap<&'static str, u64>,
    events: BTreeMap<(Arc<str>, u64, Outcome), u64>,
    skipped: u64,
    hook_panics: u64,
    violations: Vec<String>,
}

impl Accounts {
    /// Empty books.
    #[must_use]
    pub fn new(producers: usize) -> Self {
        Self {
            producers: vec![ProducerBook::default(); producers],
            stored: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            handed: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            prefetches: BTreeMap::new(),
            reads: 0,
            reads_without_ack: 0,
            wire_settled: [0; 3],
            links: Links::default(),
            cut_in_handshake: false,
            asked: BTreeMap::new(),
            given_up: BTreeSet::new(),
            states: BTreeMap::new(),
            events: BTreeMap::new(),
            skipped: 0,
            hook_panics: 0,
            violations: Vec::new(),
        }
    }

    /// Empty books for this world.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Self {
        let mut books = Self::new(scenario.producers.len());
        for (book, plan) in books.producers.iter_mut().zip(&scenario.producers) {
            book.window = plan.max_in_flight;
            book.ring = plan.buffer_size;
        }
        for plan in scenario.consumers.iter().filter(|plan| !plan.no_ack) {
            let queue = scenario.queues[plan.queue].name.clone();
            books.prefetches.entry(queue).or_default().push(plan.prefetch);
        }
        books
    }

    /// The rare states that were reached, and how often.
    #[must_use]
    pub const fn states(&self) -> &BTreeMap<&'static str, u64> {
        &self.states
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
    pub fn offer(&mut self, producer: usize, task: usize, queue: Option<usize>) -> Id {
        let book = &mut self.producers[producer];
        book.counts.offered += 1;
        book.counts.waiting += 1;
        book.records.push(Record {
            task,
            admission: Admission::Waiting,
            sequence: None,
            receipt: None,
            hook: None,
            queue,
            wire: OnWire::default(),
            received: 0,
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
        let book = &mut self.producers[id.producer];
        book.records[id.number].sequence = sequence;
        book.queued += 1;
    }

    /// Its future was dropped while it waited.
    pub fn cancelled(&mut self, id: Id) {
        self.end_offer(id, Admission::Cancelled).cancelled += 1;
        self.state(states::CANCELLED_WAITING);
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
        match error {
            PublishError::Offline(..) => self.state(states::REFUSED_OFFLINE),
            PublishError::TimedOut(_) if self.is_offline() => {
                self.state(states::TIMED_OUT_OFFLINE);
            }
            _ => {}
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
        let begun = record.wire.begun > 0;
        let before = record.hook.replace((settled.sequence, outcome));
        self.note_drop(id, outcome, begun);
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

    fn note_drop(&mut self, id: Id, outcome: Outcome, begun: bool) {
        let book = &mut self.producers[id.producer];
        let full = book.queued >= book.ring as i64;
        if !begun {
            book.queued -= 1;
        }
        match outcome {
            Outcome::Dropped(DropReason::BufferFull) if self.is_offline() => {
                self.state(states::EVICTED_OFFLINE);
            }
            Outcome::Dropped(DropReason::BufferFull) if self.is_blocked() => {
                self.state(states::EVICTED_BLOCKED);
            }
            Outcome::Dropped(DropReason::TtlExpired) if full => self.state(states::TTL_FULL),
            Outcome::Failed if begun => self.state(states::OFFENDER_FOUND),
            _ => {}
        }
    }

    /// A hook panicked on purpose.
    pub fn hook_panicked(&mut self) {
        self.hook_panics += 1;
        self.state(states::HOOK_PANIC);
    }

    /// A handler panicked on purpose.
    pub fn handler_panicked(&mut self) {
        self.hook_panics += 1;
        self.state(states::HANDLER_PANICKED);
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
        if self.record(id).is_none() {
            return self.violation(format!("{id}: the broker has a message that nobody offered"));
        }
        self.stored.entry(id).or_default().push(copy);
    }

    // ---- consuming --------------------------------------------------------------------------------

    /// A delivery was handed to the application. Returns its place, for [`Accounts::treated`].
    pub fn handed(&mut self, id: Id, consumer: usize, redelivered: bool) -> Place {
        let deliveries = self.deliveries_of(id);
        deliveries.handed[usize::from(redelivered)] += 1;
        let Deliveries { sent, handed, .. } = *deliveries;
        if handed[0] > sent[0] || handed[1] > sent[1] {
            self.violation(format!(
                "{id}: handed over {handed:?} times (new, redelivered), delivered {sent:?} times"
            ));
        }
        let all = self.handed.entry(id).or_default();
        all.push(None);
        let place = (id, all.len() - 1);
        self.in_hand.entry(consumer).or_default().push(place);
        place
    }

    /// The application settled a delivery so, and was told that it is queued.
    pub fn treated(&mut self, (id, at): Place, treatment: Treatment) {
        let slot = self.handed.get_mut(&id).and_then(|all| all.get_mut(at));
        let Some(slot) = slot.filter(|slot| slot.is_none()) else { return };
        *slot = Some(treatment);
        let deliveries = self.deliveries_of(id);
        match treatment {
            Treatment::Ack => deliveries.app_acks += 1,
            Treatment::Reject => deliveries.app_rejects += 1,
            Treatment::NoAck | Treatment::Requeue | Treatment::Forget => {}
        }
    }

    /// The application settled a delivery and every earlier one of its consumer.
    pub fn treated_through(&mut self, consumer: usize, treatment: Treatment) {
        for place in self.in_hand.remove(&consumer).unwrap_or_default() {
            self.treated(place, treatment);
        }
    }

    /// Whether a consumer's application holds deliveries that it did not settle.
    #[must_use]
    pub fn holds(&self, consumer: usize) -> bool {
        let unsettled =
            |&(id, at): &Place| self.handed.get(&id).is_some_and(|all| all[at].is_none());
        self.in_hand.get(&consumer).is_some_and(|all| all.iter().any(unsettled))
    }

    /// Deliveries handed to the application.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.handed.values().map(|all| all.len() as u64).sum()
    }

    /// Deliveries that were handed over and not settled: handlers that were dropped.
    fn untreated(&self) -> u64 {
        self.handed.values().flatten().filter(|handed| handed.is_none()).count() as u64
    }

    /// How many deliveries were treated so.
    fn treated_so(&self, treatment: Treatment) -> u64 {
        let all = self.handed.values().flatten();
        all.filter(|handed| **handed == Some(treatment)).count() as u64
    }

    // ---- checks -----------------------------------------------------------------------------------

    /// After every step that can have changed it: the law, and nothing counted that did not happen.
    pub fn check_producer(&mut self, index: usize, stats: &ProducerStats) {
        if !stats.is_conserved() {
            self.violation(format!("producer {index}: not conserved: {stats:?}"));
        }
        let counts = &self.producers[index].counts;
        if stats.offered > counts.offered || stats.accepted > counts.accepted {
            self.violation(format!("producer {index} counts more than happened: {stats:?}"));
        }
    }

    /// The same of the client's sum over all producers and all consumers.
    pub fn check_law(&mut self, sum: &Stats) {
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
        if let Some((producers, sum)) = end {
            self.check_sum(scenario, producers, sum);
        }
    }
}
