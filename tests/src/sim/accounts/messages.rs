//! Message by message: its outcome, its reason, its number, its copies, its order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lavinmq_core::{
    config::{BufferPolicy, PublishMode},
    event::{DropReason, UnknownReason},
    stats::ProducerStats,
};

use super::{Accounts, Admission, Arrival, Id, Outcome, Record};
use crate::sim::scenario::{EndingPlan, Fault, Scenario, Target};

impl Accounts {
    /// Every source tells the same of every message, and their sums are the stats.
    pub(super) fn check_outcomes(
        &mut self,
        index: usize,
        stats: Option<&ProducerStats>,
        scenario: &Scenario,
    ) {
        let plan = &scenario.producers[index];
        let confirm = plan.mode == PublishMode::Confirm;
        let calm = scenario.ending == EndingPlan::Calm && !plan.abandons();
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
            if record.admission == Admission::Accepted {
                wrong.extend(
                    against_wire(record, confirm, calm)
                        .map(|what| format!("p{index}.{number}: {what}")),
                );
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
    pub(super) fn check_reasons(&mut self, index: usize, scenario: &Scenario) {
        let plan = &scenario.producers[index];
        let calm = scenario.ending == EndingPlan::Calm && !plan.abandons();
        let blames = |(_, fault): &(Duration, Fault)| {
            match fault {
                Fault::CloseChannels { blames, .. } => *blames,
                // Twice soon after a resend, and the client looks for a message to blame.
                Fault::CloseConnections(code) => *code != 320,
                _ => false,
            }
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
    pub(super) fn check_sequences(&mut self, index: usize) {
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
    pub(super) fn check_copies(&mut self, index: usize, scenario: &Scenario) {
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
            // An ack says nothing of a message that no queue wanted.
            let unwanted = !plan.mandatory
                && scenario.may_be_missing(scenario.target_queue(index, record.queue));
            if outcome == Some(Outcome::Confirmed) && copies.is_empty() && !unwanted {
                wrong.push(format!("{id}: confirmed, but the broker never stored it"));
            }
            if matches!(outcome, Some(Outcome::Dropped(_))) && !copies.is_empty() {
                wrong.push(format!("{id}: {outcome:?}, but the broker has it: {copies:?}"));
            }
            if copies.len() as u64 > record.wire.whole {
                let whole = record.wire.whole;
                wrong.push(format!("{id}: {whole} copies were written, stored: {copies:?}"));
            }
            let queue = scenario.target_queue(index, record.queue);
            if let Some(copy) = copies.iter().find(|copy| Some(&*copy.queue) != queue) {
                wrong.push(format!("{id}: meant for {queue:?}, and in {}", copy.queue));
            }
            // Each copy says which one it is.
            let mut attempts: Vec<_> =
                copies.iter().map(|copy| copy.attempt.unwrap_or(1)).collect();
            attempts.sort_unstable();
            if attempts.windows(2).any(|pair| pair[0] == pair[1]) {
                wrong.push(format!("{id}: two copies of one attempt: {copies:?}"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// The broker received first copies in the order of acceptance.
    pub(super) fn check_order(&mut self, index: usize, scenario: &Scenario) {
        let confirm = scenario.producers[index].mode == PublishMode::Confirm;
        let mut wrong = Vec::new();
        let book = &self.producers[index];
        // Fire-and-forget: what an old connection still carries may come after what the next one
        // brought. And only a task knows the order of its own publishes, without receipts.
        let mut latest: BTreeMap<(usize, u64), (u64, usize)> = BTreeMap::new();
        for &Arrival { number, connection } in &book.arrivals {
            let record = &book.records[number];
            let (key, order) = match record.sequence {
                Some(sequence) if confirm => ((0, 0), sequence),
                _ => ((record.task, connection), number as u64),
            };
            if let Some((before, other)) = latest.insert(key, (order, number))
                && before > order
            {
                wrong.push(format!("p{index}.{number} reached the broker after .{other}"));
            }
        }
        wrong.into_iter().for_each(|what| self.violation(what));
    }

    /// The events told what the hooks heard.
    pub(super) fn check_events(&mut self, scenario: &Scenario) {
        let mut expected: BTreeMap<(Arc<str>, u64, Outcome), u64> = BTreeMap::new();
        for (index, book) in self.producers.iter().enumerate() {
            let key: Arc<str> = scenario.routing_key(index).into();
            for record in &book.records {
                let Some((sequence, outcome)) = record.hook else { continue };
                if outcome != Outcome::Confirmed {
                    let own = record.queue.map(|queue| scenario.queues[queue].name.as_str().into());
                    let key = own.unwrap_or_else(|| key.clone());
                    *expected.entry((key, sequence, outcome)).or_default() += 1;
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
}

/// What is wrong with an accepted message's outcome, judged by what went over the wire.
fn against_wire(record: &Record, confirm: bool, calm: bool) -> Option<String> {
    let wire = record.wire;
    let whole = wire.whole;
    let outcome = record.hook.map(|(_, outcome)| outcome);
    if !confirm {
        return match outcome {
            None if whole != 1 => {
                Some(format!("counts as sent, and was written whole {whole} times"))
            }
            Some(Outcome::Dropped(_)) if whole > 0 => {
                Some(format!("{outcome:?}, and was written whole"))
            }
            _ => None,
        };
    }
    let outcome = outcome.unwrap_or(Outcome::Confirmed);
    let by_broker = matches!(outcome, Outcome::Confirmed | Outcome::Nacked | Outcome::Returned);
    match wire.told {
        Some(told) if told != outcome => Some(format!("{outcome:?}, the broker said {told:?}")),
        None if by_broker => Some(format!("{outcome:?}, and the broker said nothing")),
        Some(_) | None => match outcome {
            Outcome::Dropped(_) if whole > 0 => {
                Some(format!("{outcome:?}, and was possibly written whole"))
            }
            Outcome::Unknown(_) if whole == 0 && calm => {
                Some(format!("{outcome:?}, and was never written whole"))
            }
            _ => None,
        },
    }
}
