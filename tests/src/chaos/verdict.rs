//! The accounts at the end, message by message.

use std::{fmt::Write as _, sync::Arc};

use lavinmq_core::ProducerStats;

use super::{
    ledger::{Heard, Ledger, Mode, Sums, Violations},
    load::Target,
};

/// Compares everything that was said and seen of one producer's messages. Returns those that were
/// confirmed and nobody has.
pub fn judge(
    ledger: &Ledger,
    target: Target,
    stats: &ProducerStats,
    violations: &Violations,
) -> Vec<(u64, u32)> {
    let mut lost = Vec::new();
    let violation = |number: u64, what: String| {
        violations.add(format!("{} message {number}: {what}", ledger.name));
    };
    ledger.for_each(|number, entry| {
        if !entry.accepted {
            if entry.hook != Heard::Nothing {
                violation(number, format!("never accepted, but {:?}", entry.hook));
            }
            if entry.was_seen() {
                violation(number, "never accepted, but received".to_owned());
            }
            return;
        }
        if entry.receipt != Heard::Nothing && entry.receipt != entry.hook {
            let what = format!("receipt {:?}, hook {:?}", entry.receipt, entry.hook);
            violation(number, what);
        }
        match (ledger.mode, entry.hook) {
            (Mode::Confirm, Heard::Nothing) => violation(number, "no outcome".to_owned()),
            (Mode::FireAndForget, Heard::Nothing) => {}
            (_, Heard::Dropped) => {
                if entry.was_seen() {
                    violation(number, "dropped, but received".to_owned());
                }
            }
            (Mode::Confirm, Heard::Confirmed) => {
                if !entry.was_seen() && target != Target::NoAck {
                    lost.push((number, entry.settled_ms));
                }
            }
            // Nothing here refuses a message, and no attempt or deadline is limited.
            (_, other) => violation(number, format!("an outcome out of place: {other:?}")),
        }
    });
    let sums = ledger.sums();
    agree(ledger, stats, &sums, violations);
    lost
}

/// The client's own sums are the sums of what it said.
fn agree(ledger: &Ledger, stats: &ProducerStats, sums: &Sums, violations: &Violations) {
    let sent = match ledger.mode {
        Mode::Confirm => 0,
        Mode::FireAndForget => sums.unheard,
    };
    let said = (stats.accepted, stats.confirmed, stats.dropped(), stats.sent);
    let heard = (sums.accepted, sums.confirmed, sums.dropped, sent);
    if said != heard || !stats.is_conserved() || stats.queued + stats.in_flight > 0 {
        violations.add(format!(
            "{}: the client's account (accepted, confirmed, dropped, sent) is {said:?}, what was \
             heard {heard:?}; {stats:?}",
            ledger.name
        ));
    }
}

/// Says which messages are missing, and when they were confirmed (milliseconds since the start).
pub fn describe(ledger: &Arc<Ledger>, lost: &[(u64, u32)]) -> String {
    let mut text = format!(
        "{} messages of {} in queue {} were confirmed, and nobody has them:",
        lost.len(),
        ledger.name,
        ledger.queue
    );
    let mut rest = lost;
    let mut shown = 0;
    while let Some(&(first, from)) = rest.first()
        && shown < 20
    {
        let run = rest.iter().zip(first..).take_while(|((number, _), next)| number == next).count();
        let (last, to) = rest[run - 1];
        let _ = write!(text, " {first}..={last} (confirmed at {from}..={to} ms)");
        rest = &rest[run..];
        shown += 1;
    }
    if !rest.is_empty() {
        let _ = write!(text, " and {} more", rest.len());
    }
    text
}
