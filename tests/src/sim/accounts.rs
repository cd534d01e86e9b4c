//! The oracle's books, kept apart from the client's: what the application asked for, what it was told,
//! and what the broker really got, message by message.
//!
//! Every message has an identity in its body (or, if that is empty, in its message id). Each source
//! that reports a message (its publish, its receipt, the hooks, the events) is written down, and they
//! must agree with each other; their sums must agree with the client's stats.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use lavinmq_core::{
    config::{BufferPolicy, PublishMode},
    error::{NotConfirmed, PublishError},
    event::{DropReason, Event, Settled, UnknownReason, Verdict},
    message::Message,
    stats::{ProducerStats, Stats},
    time::Time,
};

use super::scenario::{EndingPlan, Fault, Scenario, Target};

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The producer's index.
    pub producer: usize,
    /// Its number in the order of offers of this producer, from 0.
    pub number: usize,
}

impl Id {
    /// A message of about this length with this identity.
    #[must_use]
    pub fn message(self, bytes: usize) -> Message {
        if bytes == 0 {
            return Message::new("").message_id(&self.to_string());
        }
        let mut body = self.to_string().into_bytes();
        body.push(b';');
        if bytes > body.len() {
            body.resize(bytes, b'x');
        }
        Message::new(body)
    }

    /// The identity in a body, or in a message id.
    #[must_use]
    pub fn read(body: &[u8], message_id: Option<&str>) -> Option<Self> {
        let text = if body.is_empty() {
            message_id?
        } else {
            let end = body.iter().position(|&byte| byte == b';')?;
            std::str::from_utf8(&body[..end]).ok()?
        };
        let (producer, number) = text.strip_prefix('p')?.split_once('.')?;
        Some(Self { producer: producer.parse().ok()?, number: number.parse().ok()? })
    }

    fn of(message: &Message) -> Option<Self> {
        let id = message.properties().and_then(|properties| properties.message_id().as_ref());
        Self::read(message.body(), id.map(|id| id.as_str()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}.{}", self.producer, self.number)
    }
}

/// What became of an accepted message. (Fire-and-forget messages that were sent are not reported.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Confirmed.
    Confirmed,
    /// Nacked.
    Nacked,
    /// Returned.
    Returned,
    /// Dropped.
    Dropped(DropReason),
    /// Failed.
    Failed,
    /// Unknown.
    Unknown(UnknownReason),
    /// One that this oracle does not know.
    Other,
}

impl Outcome {
    fn of(verdict: Option<&Verdict>) -> Self {
        match verdict {
            None => Self::Confirmed,
            Some(Verdict::Nacked) => Self::Nacked,
            Some(Verdict::Returned(_)) => Self::Returned,
            Some(Verdict::Dropped(reason)) => Self::Dropped(*reason),
            Some(Verdict::Failed(_)) => Self::Failed,
            Some(Verdict::Unknown(reason)) => Self::Unknown(*reason),
            Some(_) => Self::Other,
        }
    }
}

/// How an offer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It waits for room.
    Waiting,
    /// It was taken.
    Accepted,
    /// It came back.
    Refused,
    /// Its future was dropped while it waited.
    Cancelled,
}

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

/// How long a delivery can be under way to the application.
const UNDER_WAY: Duration = Duration::from_secs(5);

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

    /// The client's own sums are those of its parts.
    fn check_sum(&mut self, scenario: &Scenario, producers: &[ProducerStats], sum: &Stats) {
        let mut total = ProducerStats::default();
        producers.iter().for_each(|stats| total.add(stats));
        if total != sum.publish {
            let publish = sum.publish;
            self.violation(format!("the sum is {publish:?}, the producers' is {total:?}"));
        }
        let panics = self.hook_panics;
        if sum.hook_panics != panics {
            self.violation(format!("{panics} hooks panicked, counted {}", sum.hook_panics));
        }
        let treated = |wanted| {
            let all = self.handed.values().flatten();
            all.filter(|handed| handed.treatment == Some(wanted)).count() as u64
        };
        let consume = sum.consume;
        // What a no-ack consumer had not handed over when it was dropped counts as acked, too.
        let no_ack = scenario.consumers.iter().any(|plan| plan.no_ack);
        let acked = if no_ack { consume.received } else { treated(Treatment::Ack) };
        for (what, most, counted) in [
            ("handed over", consume.received, self.deliveries()),
            ("acked", acked, consume.acked),
            ("rejected", treated(Treatment::Reject), consume.rejected),
            ("forgotten", treated(Treatment::Forget), consume.forgotten),
            ("queued after close", 0, consume.queued),
            ("in hand after close", 0, consume.in_hand),
            ("settling after close", 0, consume.settling),
        ] {
            if counted > most {
                self.violation(format!("{counted} deliveries {what}, at most {most} can be"));
            }
        }
    }

    /// What the world counted on the way in is what the client counted.
    fn check_counts(&mut self, index: usize, stats: &ProducerStats) {
        let counts = self.counts(index);
        for (what, ours, theirs) in [
            ("offered", counts.offered, stats.offered),
            ("accepted", counts.accepted, stats.accepted),
            ("waiting", counts.waiting, stats.waiting),
            ("refused_full", counts.refused_full, stats.refused_full),
            ("refused_closed", counts.refused_closed, stats.refused_closed),
            ("refused_offline", counts.refused_offline, stats.refused_offline),
            ("refused_invalid", counts.refused_invalid, stats.refused_invalid),
            ("timed_out", counts.timed_out, stats.timed_out),
            ("cancelled", counts.cancelled, stats.cancelled),
            ("waiting after close", 0, stats.waiting),
            ("queued after close", 0, stats.queued),
            ("in flight after close", 0, stats.in_flight),
            ("queued bytes after close", 0, stats.queued_bytes),
        ] {
            if ours != theirs {
                self.violation(format!("producer {index}: {what} is {theirs}, should be {ours}"));
            }
        }
        if !stats.is_conserved() {
            self.violation(format!("producer {index}: not conserved at the end: {stats:?}"));
        }
    }

    /// Every source tells the same of every message, and their sums are the stats.
    fn check_outcomes(&mut self, index: usize, stats: Option<&ProducerStats>, scenario: &Scenario) {
        let plan = &scenario.producers[index];
        let confirm = plan.mode == PublishMode::Confirm;
        let mut heard = ProducerStats::default();
        let mut wrong = Vec::new();
        for (number, record) in self.producers[index].records.iter().enumerate() {
            let hook = record.hook.map(|(_, outcome)| outcome);
            match hook {
                Some(Outcome::Confirmed) => heard.confirmed += 1,
                Some(Outcome::Nacked) => heard.nacked += 1,
                Some(Outcome::Returned) => heard.returned += 1,
                Some(Outcome::Failed) => heard.failed += 1,
                Some(Outcome::Unknown(_)) => heard.unknown += 1,
                Some(Outcome::Dropped(DropReason::BufferFull)) => heard.dropped_buffer_full += 1,
                Some(Outcome::Dropped(DropReason::TtlExpired)) => heard.dropped_ttl += 1,
                Some(Outcome::Dropped(DropReason::Closed)) => heard.dropped_closed += 1,
                Some(Outcome::Dropped(DropReason::Disconnected)) => {
                    heard.dropped_disconnected += 1;
                }
                Some(Outcome::Dropped(_) | Outcome::Other) => {
                    wrong.push(format!("p{index}.{number}: an outcome nobody knows"));
                }
                // Confirmed without a hook for it; or sent.
                None if record.admission == Admission::Accepted => {
                    if confirm {
                        heard.confirmed += 1;
                        if plan.hears_confirms {
                            wrong.push(format!("p{index}.{number}: accepted, and no hook heard"));
                        }
                    } else {
                        heard.sent += 1;
                    }
                }
                None => {}
            }
            let told = hook.unwrap_or(Outcome::Confirmed);
            if let Some(receipt) = record.receipt.filter(|receipt| *receipt != told) {
                wrong.push(format!("p{index}.{number}: receipt {receipt:?}, hooks {hook:?}"));
            }
            if !confirm
                && matches!(hook, Some(Outcome::Confirmed | Outcome::Nacked | Outcome::Returned))
            {
                wrong.push(format!("p{index}.{number}: fire-and-forget, and {hook:?}"));
            }
        }
        if let Some(stats) = stats {
            for (what, ours, theirs) in [
                ("confirmed", heard.confirmed, stats.confirmed),
                ("nacked", heard.nacked, stats.nacked),
                ("returned", heard.returned, stats.returned),
                ("failed", heard.failed, stats.failed),
                ("unknown", heard.unknown, stats.unknown),
                ("sent", heard.sent, stats.sent),
                ("dropped_buffer_full", heard.dropped_buffer_full, stats.dropped_buffer_full),
                ("dropped_ttl", heard.dropped_ttl, stats.dropped_ttl),
                ("dropped_closed", heard.dropped_closed, stats.dropped_closed),
                ("dropped_disconnected", heard.dropped_disconnected, stats.dropped_disconnected),
            ] {
                if ours != theirs {
                    wrong.push(format!("producer {index}: {what} is {theirs}, heard {ours}"));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// No outcome without something in the world that can lead to it.
    fn check_reasons(&mut self, index: usize, scenario: &Scenario) {
        let plan = &scenario.producers[index];
        let calm = scenario.ending == EndingPlan::Calm;
        let blames = |(_, fault): &(Duration, Fault)| {
            matches!(fault, Fault::CloseChannels { blames: true, .. })
        };
        let mut wrong = Vec::new();
        for (number, record) in self.producers[index].records.iter().enumerate() {
            let Some((_, outcome)) = record.hook else { continue };
            let possible = match outcome {
                Outcome::Confirmed | Outcome::Nacked => true,
                // A full queue of LavinMQ's returns, too; and a queue may not be there for a while.
                Outcome::Returned => plan.target != Target::MissingExchange,
                Outcome::Dropped(DropReason::BufferFull) => plan.policy == BufferPolicy::DropOldest,
                Outcome::Dropped(DropReason::TtlExpired) => plan.ttl.is_some(),
                Outcome::Dropped(DropReason::Closed) | Outcome::Unknown(UnknownReason::Closed) => {
                    !calm
                }
                Outcome::Unknown(UnknownReason::ConfirmTimeout) => plan.confirm_timeout.is_some(),
                Outcome::Failed => {
                    plan.target == Target::MissingExchange || scenario.faults.iter().any(blames)
                }
                Outcome::Dropped(_) | Outcome::Unknown(_) | Outcome::Other => false,
            };
            if !possible {
                wrong
                    .push(format!("p{index}.{number}: {outcome:?}, which cannot be in this world"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// Sequence numbers are the order of acceptance: within a task they grow, and none is used twice.
    fn check_sequences(&mut self, index: usize) {
        let mut seen = BTreeMap::new();
        let mut latest: BTreeMap<usize, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        let book = &self.producers[index];
        for (number, record) in book.records.iter().enumerate() {
            let Some(sequence) = record.sequence.or(record.hook.map(|(sequence, _)| sequence))
            else {
                continue;
            };
            if let Some(other) = seen.insert(sequence, number) {
                wrong.push(format!("p{index}.{number} and .{other} share the number {sequence}"));
            }
            if sequence == 0 || sequence > book.counts.accepted {
                wrong.push(format!("p{index}.{number}: a sequence of {sequence}"));
            }
            let latest = latest.entry(record.task).or_default();
            if sequence <= *latest {
                wrong.push(format!("p{index}.{number}: {sequence} comes after {latest}"));
            }
            *latest = sequence;
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// The broker's copies fit the outcomes.
    fn check_copies(&mut self, index: usize, scenario: &Scenario) {
        let plan = &scenario.producers[index];
        let confirm = plan.mode == PublishMode::Confirm;
        let mut wrong = Vec::new();
        for (number, record) in self.producers[index].records.iter().enumerate() {
            let id = Id { producer: index, number };
            let copies = self.stored.get(&id).map(Vec::as_slice).unwrap_or_default();
            let outcome = match (record.admission, record.hook) {
                (Admission::Accepted, Some((_, outcome))) => Some(outcome),
                (Admission::Accepted, None) if confirm => Some(Outcome::Confirmed),
                // Sent, or not accepted.
                _ => None,
            };
            if record.admission != Admission::Accepted && !copies.is_empty() {
                wrong.push(format!("{id}: {:?}, but the broker has it", record.admission));
            }
            if outcome == Some(Outcome::Confirmed) && copies.is_empty() {
                wrong.push(format!("{id}: confirmed, but the broker never stored it"));
            }
            if matches!(outcome, Some(Outcome::Dropped(_))) && !copies.is_empty() {
                wrong.push(format!("{id}: {outcome:?}, but the broker has it: {copies:?}"));
            }
            if !confirm && copies.len() > 1 {
                wrong.push(format!("{id}: fire-and-forget, and {} copies", copies.len()));
            }
            // A copy without x-attempt is the first that was possibly whole; numbers grow.
            let mut attempts: Vec<_> =
                copies.iter().map(|copy| copy.attempt.unwrap_or(1)).collect();
            attempts.sort_unstable();
            if attempts.windows(2).any(|pair| pair[0] == pair[1]) {
                wrong.push(format!("{id}: two copies of one attempt: {copies:?}"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// First copies arrive in the order of acceptance.
    fn check_order(&mut self, index: usize, scenario: &Scenario) {
        let confirm = scenario.producers[index].mode == PublishMode::Confirm;
        let mut wrong = Vec::new();
        let records = &self.producers[index].records;
        for ((producer, queue), copies) in &self.first_copies {
            if *producer != index {
                continue;
            }
            // Fire-and-forget: what an old connection still carries may come after what the next one
            // brought. And only a task knows the order of its own publishes, without receipts.
            let mut latest: BTreeMap<(usize, u64), (u64, usize)> = BTreeMap::new();
            for &(number, connection) in copies {
                let record = &records[number];
                let (key, order) = match record.sequence {
                    Some(sequence) => ((0, 0), sequence),
                    None => ((record.task, connection), number as u64),
                };
                let key = if confirm { key } else { (record.task, connection) };
                if let Some((before, other)) = latest.insert(key, (order, number))
                    && before > order
                {
                    wrong.push(format!("p{index}.{number} came after .{other} into {queue}"));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// The events told what the hooks heard.
    fn check_events(&mut self, scenario: &Scenario) {
        let mut expected: BTreeMap<(Arc<str>, u64, Outcome), u64> = BTreeMap::new();
        for (index, book) in self.producers.iter().enumerate() {
            let key: Arc<str> = scenario.routing_key(index).into();
            for (sequence, outcome) in book.records.iter().filter_map(|record| record.hook) {
                if outcome != Outcome::Confirmed {
                    *expected.entry((key.clone(), sequence, outcome)).or_default() += 1;
                }
            }
        }
        let told: u64 = self.events.values().sum();
        let heard: u64 = expected.values().sum();
        let differs = if self.skipped == 0 {
            self.events != expected
        } else {
            told > heard || self.events.iter().any(|(key, n)| expected.get(key) < Some(n))
        };
        if differs {
            let odd: Vec<_> = expected
                .iter()
                .filter(|(key, n)| self.events.get(key) != Some(n))
                .map(|(key, n)| format!("{key:?}: hooks {n}"))
                .chain(
                    self.events
                        .iter()
                        .filter(|(key, n)| expected.get(key) != Some(n))
                        .map(|(key, n)| format!("{key:?}: events {n}")),
                )
                .take(4)
                .collect();
            self.violation(format!("events and hooks disagree: {odd:?}"));
        }
    }

    /// Nothing was delivered out of thin air, and nothing again without a reason.
    fn check_deliveries(&mut self, scenario: &Scenario) {
        let mut wrong = Vec::new();
        for (id, handed) in &self.handed {
            let copies = self.stored.get(id).map_or(0, Vec::len);
            let first = handed.iter().filter(|handed| !handed.redelivered).count();
            if first > copies && !scenario.restarts() {
                wrong.push(format!("{id}: delivered {first} times as new, stored {copies} times"));
            }
            if copies != 1 {
                continue;
            }
            for pair in handed.windows(2) {
                let (before, after) = (&pair[0], &pair[1]);
                let may_return =
                    !matches!(before.treatment, Some(Treatment::Ack | Treatment::Reject));
                // It may have been under way when its channel ended at the broker.
                let from = before.at - Time::ZERO;
                let from = Time::ZERO + from.saturating_sub(UNDER_WAY);
                let lost = self.losses.iter().any(|at| *at >= from && *at <= after.at);
                if !may_return && !lost {
                    wrong.push(format!(
                        "{id}: {:?} at {}, delivered again at {} without a loss (consumers {} and {})",
                        before.treatment, before.at, after.at, before.consumer, after.consumer
                    ));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// Messages that were confirmed, or sent, into this queue and never reached a consumer.
    /// For worlds that ended calmly with every consumer draining its queue.
    pub fn check_drained(&mut self, scenario: &Scenario) {
        let mut wrong = Vec::new();
        for (id, copies) in &self.stored {
            let Target::Queue(queue) = scenario.producers[id.producer].target else { continue };
            // What a restart, a deletion or a no-ack consumer loses is lost by agreement.
            let lossy = scenario.deletes(queue)
                || scenario.consumers.iter().any(|c| c.queue == queue && c.no_ack)
                || (scenario.restarts()
                    && scenario.producers[id.producer].mode == PublishMode::FireAndForget);
            if !lossy && !self.handed.contains_key(id) {
                wrong.push(format!("{id}: stored {copies:?}, and never handed to a consumer"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_identity() {
        let id = Id { producer: 3, number: 141 };
        for bytes in [0, 1, 10, 100, 5000] {
            let message = id.message(bytes);
            assert_eq!(Id::of(&message), Some(id));
            assert!(bytes == 0 || message.body().len() >= bytes);
        }
        assert_eq!(Id::read(b"something else", None), None);
    }
}
