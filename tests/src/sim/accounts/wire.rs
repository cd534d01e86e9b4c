//! What the wire at the client's end says: which messages were possibly written whole, what the broker
//! said of them, what was delivered and settled.

use super::{Accounts, Admission, Id, Outcome, Record};
use crate::sim::states;

/// How a delivery was settled on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// `basic.ack`.
    Ack,
    /// `basic.nack` or `basic.reject` that requeues.
    Requeue,
    /// The same without requeueing.
    Reject,
}

/// What is known of the connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    up: u64,
    blocked: u64,
}

/// One message on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OnWire {
    /// Copies of which the first byte that identifies it was written.
    pub(super) begun: u64,
    /// Copies that were possibly written whole.
    pub(super) whole: u64,
    /// Whether a copy was cut.
    pub(super) cut: bool,
    /// What the broker said first, if it was not too late.
    pub(super) told: Option<Outcome>,
}

/// The deliveries of one message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deliveries {
    /// Sent by the broker as new, and as redelivered.
    pub(super) sent: [u64; 2],
    /// Handed to the application as new, and as redelivered.
    pub(super) handed: [u64; 2],
    /// Read whole by the client.
    pub(super) read: u64,
    /// Acks and rejects by the application, on channels that stood as far as it was told.
    pub(super) app_acks: u64,
    pub(super) app_rejects: u64,
    /// Settled on the wire.
    pub(super) wire_acks: u64,
    pub(super) wire_requeues: u64,
    /// Received by the broker.
    pub(super) acks: u64,
    pub(super) rejects: u64,
}

impl Accounts {
    /// A rare state was reached.
    pub fn state(&mut self, name: &'static str) {
        *self.states.entry(name).or_default() += 1;
    }

    // ---- connections ------------------------------------------------------------------------------

    /// A connection is open.
    pub fn link_up(&mut self) {
        self.links.up += 1;
    }

    /// A connection that was open is over.
    pub fn link_down(&mut self, blocked: bool) {
        self.links.up = self.links.up.saturating_sub(1);
        self.links.blocked = self.links.blocked.saturating_sub(u64::from(blocked));
    }

    /// The broker told a connection that it is blocked, or no longer.
    pub fn blocked(&mut self, blocked: bool) {
        if blocked {
            self.links.blocked += 1;
        } else {
            self.links.blocked = self.links.blocked.saturating_sub(1);
        }
    }

    /// Whether no connection is open.
    #[must_use]
    pub const fn is_offline(&self) -> bool {
        self.links.up == 0
    }

    /// Whether a connection is blocked.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.links.blocked > 0
    }

    // ---- publishing -------------------------------------------------------------------------------

    pub(super) fn record(&mut self, id: Id) -> Option<&mut Record> {
        self.producers.get_mut(id.producer)?.records.get_mut(id.number)
    }

    /// A copy begins to be written; `idle` if nothing else on its channel awaits a confirm. Its
    /// header `x-attempt` must count the copies that were possibly written whole.
    pub fn begun(&mut self, id: Id, confirms: bool, attempt: Option<u64>, idle: bool) {
        let Some(record) = self.record(id) else {
            return self.violation(format!("{id}: published, and nobody offered it"));
        };
        let (wire, admission, hook) = (record.wire, record.admission, record.hook);
        let (sequence, task) = (record.sequence, record.task);
        record.wire.begun += 1;
        if admission != Admission::Accepted {
            self.violation(format!("{id}: published, but it is {admission:?}"));
        }
        if let Some((_, outcome)) = hook
            && !matches!(outcome, Outcome::Unknown(_))
        {
            self.violation(format!("{id}: published again after its outcome {outcome:?}"));
        }
        if let Some(told) = wire.told {
            self.violation(format!("{id}: published again, though the broker said {told:?}"));
        }
        if attempt.unwrap_or(1) != wire.whole + 1 || attempt == Some(1) {
            let whole = wire.whole;
            self.violation(format!(
                "{id}: a copy says attempt {attempt:?}, and {whole} were possibly written whole"
            ));
        }
        match attempt {
            Some(3) => self.state(states::RESENT_TWICE),
            None if wire.cut && confirms => self.state(states::CUT_COPY_AGAIN),
            None if wire.cut => self.state(states::CUT_FF_AGAIN),
            _ => {}
        }
        if wire.begun == 0 {
            self.begun_first(id, confirms, sequence, task);
        }
        let book = &self.producers[id.producer];
        if book.window == 1 && idle && book.queued > 0 {
            self.state(states::WINDOW_OF_ONE);
        }
    }

    /// First copies are written in the order of acceptance.
    fn begun_first(&mut self, id: Id, confirms: bool, sequence: Option<u64>, task: usize) {
        let book = &mut self.producers[id.producer];
        book.queued -= 1;
        // Without receipts, only a task knows the order of its own publishes.
        let (task, order) = match sequence {
            Some(sequence) if confirms => (usize::MAX, sequence),
            _ => (task, id.number as u64),
        };
        if let Some(before) = book.begun.insert(task, order)
            && before > order
        {
            self.violation(format!("{id}: {order} is written after {before}"));
        }
    }

    /// The last byte of a copy was taken by the transport.
    pub fn whole(&mut self, id: Id, confirms: bool) {
        let Some(record) = self.record(id) else { return };
        record.wire.whole += 1;
        if !confirms && record.wire.whole > 1 {
            self.violation(format!("{id}: fire-and-forget, and written whole again"));
        }
    }

    /// A copy was cut.
    pub fn cut(&mut self, id: Id) {
        if let Some(record) = self.record(id) {
            record.wire.cut = true;
        }
    }

    /// The broker acked or nacked a copy.
    pub fn confirm(&mut self, id: Id, nack: bool, returned: bool) {
        let Some(record) = self.record(id) else { return };
        let outcome = match (nack, returned) {
            (true, _) => Outcome::Nacked,
            (false, true) => Outcome::Returned,
            (false, false) => Outcome::Confirmed,
        };
        let (late, before) = (record.hook, record.wire.told);
        match (late, before) {
            (Some((_, Outcome::Unknown(_))), _) => self.state(states::CONFIRM_TOO_LATE),
            (Some(_), _) => {}
            // A copy is written only while nothing was said: see `begun`.
            (None, Some(_)) => {}
            (None, None) => record.wire.told = Some(outcome),
        }
    }

    // ---- consuming --------------------------------------------------------------------------------

    /// A consumer subscribes, after it asked for this prefetch on its channel.
    pub fn subscribes(&mut self, queue: &str, no_ack: bool, prefetch: Option<u16>) {
        if !no_ack && prefetch.is_none_or(|prefetch| prefetch == 0) {
            self.violation(format!("a consumer of {queue} subscribes without qos: {prefetch:?}"));
        }
    }

    /// The client read a delivery whole, on a channel that stood.
    pub fn read_delivery(&mut self, id: Option<Id>, no_ack: bool) {
        self.reads += 1;
        self.reads_without_ack += u64::from(no_ack);
        if let Some(id) = id {
            self.deliveries_of(id).read += 1;
        }
    }

    /// The client settled a delivery on the wire.
    pub fn settled(&mut self, id: Option<Id>, how: Settlement) {
        self.wire_settled[how as usize] += 1;
        let Some(id) = id else { return };
        let deliveries = self.deliveries_of(id);
        match how {
            Settlement::Ack => deliveries.wire_acks += 1,
            Settlement::Requeue => deliveries.wire_requeues += 1,
            Settlement::Reject => {}
        }
        let Deliveries { read, app_acks, app_rejects, wire_requeues, .. } = *deliveries;
        if wire_requeues + app_acks + app_rejects > read {
            self.violation(format!(
                "{id}: requeued {wire_requeues} times, though the application acked {app_acks} and \
                 rejected {app_rejects} of {read} deliveries"
            ));
        }
    }

    pub(super) fn deliveries_of(&mut self, id: Id) -> &mut Deliveries {
        self.deliveries.entry(id).or_default()
    }

    /// A declaration was written.
    pub fn asks(&mut self, queue: &str) {
        *self.asked.entry(queue.to_owned()).or_default() += 1;
    }

    /// Its reply came, or cannot come any more.
    pub fn answered(&mut self, queue: &str, lost: bool) {
        if let Some(asked) = self.asked.get_mut(queue) {
            *asked = asked.saturating_sub(1);
        }
        if self.given_up.remove(queue) && !lost {
            self.state(states::TOMBSTONE);
        }
    }

    /// The application let go of a declaration before it was answered.
    pub fn gives_up(&mut self, queue: &str) {
        if self.asked.get(queue).is_some_and(|asked| *asked > 0) {
            self.given_up.insert(queue.to_owned());
        }
    }

    /// Publishes of this producer that wait for room.
    #[must_use]
    pub fn waiting(&self, producer: usize) -> u64 {
        self.producers[producer].counts.waiting
    }

    /// Messages of this producer that were accepted, and have no outcome that anybody heard of.
    #[must_use]
    pub fn unsettled(&self, producer: usize) -> bool {
        let records = &self.producers[producer].records;
        records.iter().any(|record| {
            record.admission == Admission::Accepted
                && record.hook.is_none()
                && record.wire.told.is_none()
        })
    }
}
