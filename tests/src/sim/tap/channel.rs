//! One channel: what is published on it, what its confirms mean, what its consumer has not settled.

use std::collections::{BTreeMap, VecDeque};

use amq_protocol::types::AMQPValue;
use lavinmq_core::wire::{ATTEMPT_HEADER, decode_properties};

use crate::sim::{
    accounts::{Accounts, Id, Settlement},
    states,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// The client sent channel.close: confirms still count.
    Closing,
    /// Its connection is closed; the frame that the client had begun is still finished (s13), and
    /// counts.
    LastFrame,
    /// Nothing on it means anything.
    Gone,
}

/// A publish that went out on the channel.
#[derive(Debug)]
struct Sent {
    id: Option<Id>,
    resent: bool,
    returned: bool,
    settled: bool,
}

/// A publish that is going out.
#[derive(Debug, Default)]
struct Outgoing {
    id: Option<Id>,
    attempt: Option<u64>,
    size: Option<u64>,
    done: u64,
}

/// Content that is coming in.
#[derive(Debug)]
pub(super) struct Content {
    tag: u64,
    id: Option<Id>,
    size: u64,
    done: u64,
}

impl Content {
    pub(super) const fn new(tag: u64) -> Self {
        Self { tag, id: None, size: 0, done: 0 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) phase: Phase,
    pub(super) confirms: bool,
    pub(super) no_ack: bool,
    pub(super) prefetch: Option<u16>,
    pub(super) declares: VecDeque<String>,
    pub(super) delivery: Option<Content>,
    pub(super) returned: Option<Content>,
    outgoing: Option<Outgoing>,
    /// Without what is settled in front.
    sent: VecDeque<Sent>,
    /// The tag before the first of `sent`.
    passed: u64,
    /// The lowest tag that was nacked since the last `multiple` ack that spans it.
    nacked: Option<u64>,
    outstanding: BTreeMap<u64, Option<Id>>,
}

impl Channel {
    // ---- publishing -----------------------------------------------------------------------------

    pub(super) fn publish(&mut self) {
        self.outgoing = (!self.is_over()).then(Outgoing::default);
    }

    pub(super) fn publish_header(&mut self, size: u64, properties: &[u8], books: &mut Accounts) {
        let Some(outgoing) = &mut self.outgoing else { return };
        outgoing.size = Some(size);
        let (attempt, id) = read_properties(properties, size == 0);
        outgoing.attempt = attempt;
        if size == 0 {
            self.begun(id, books);
            self.whole(books);
        }
    }

    pub(super) fn publish_body(&mut self, payload: &[u8], books: &mut Accounts) {
        let Some(outgoing) = &mut self.outgoing else { return };
        let first = outgoing.done == 0;
        outgoing.done += payload.len() as u64;
        let whole = Some(outgoing.done) >= outgoing.size;
        if first {
            if !whole {
                books.state(states::BODY_IN_FRAMES);
            }
            self.begun(Id::read(payload, None), books);
        }
        if whole {
            self.whole(books);
        }
    }

    /// It is known which message this is.
    fn begun(&mut self, id: Option<Id>, books: &mut Accounts) {
        let idle = self.sent.iter().all(|sent| sent.settled);
        let Some(outgoing) = &mut self.outgoing else { return };
        outgoing.id = id;
        match id {
            Some(id) => books.begun(id, self.confirms, outgoing.attempt, idle),
            None => books.violation("the client published what nobody offered"),
        }
    }

    /// Its last byte was taken.
    fn whole(&mut self, books: &mut Accounts) {
        let Some(Outgoing { id, attempt, .. }) = self.outgoing.take() else { return };
        if let Some(id) = id {
            books.whole(id, self.confirms);
        }
        if self.confirms && !self.is_over() {
            let resent = attempt.is_some();
            self.sent.push_back(Sent { id, resent, returned: false, settled: false });
        }
    }

    pub(super) fn has_unsettled(&self) -> bool {
        self.sent.iter().any(|sent| !sent.settled)
    }

    /// The broker confirms, or nacks.
    pub(super) fn confirm(&mut self, tag: u64, multiple: bool, nack: bool, books: &mut Accounts) {
        if self.is_over() {
            return;
        }
        if self.phase == Phase::Closing {
            books.state(states::CONFIRM_AFTER_CLOSE);
        }
        let last = self.passed + self.sent.len() as u64;
        let tag = if tag == 0 && multiple { last } else { tag };
        if tag <= self.passed {
            books.state(states::CONFIRM_REPEATED);
            return;
        }
        // The rest of this publish is still to be written (it has its tag already): none can come.
        let count = usize::try_from(tag - self.passed).unwrap_or(usize::MAX).min(self.sent.len());
        let from = if multiple { 0 } else { count.saturating_sub(1) };
        if !multiple && self.sent.range(..from).any(|sent| !sent.settled) {
            books.state(states::CONFIRM_OUT_OF_ORDER);
        }
        if nack {
            self.nacked = Some(self.nacked.map_or(tag, |lowest| lowest.min(tag)));
        } else if multiple && self.nacked.is_some_and(|nacked| nacked < tag) {
            self.nacked = None;
            books.state(states::NACK_THEN_MULTIPLE);
        }
        let (mut fresh, mut resent) = (false, false);
        for sent in self.sent.range_mut(from..count) {
            if std::mem::replace(&mut sent.settled, true) {
                continue;
            }
            fresh |= !sent.resent;
            resent |= sent.resent;
            let Some(id) = sent.id else { continue };
            match (nack, sent.returned) {
                (true, true) => books.state(states::RETURN_THEN_NACK),
                (false, true) => books.state(states::RETURN_THEN_ACK),
                (_, false) => {}
            }
            if sent.resent && nack {
                books.state(states::RESENT_NACKED);
            } else if sent.resent && sent.returned {
                books.state(states::RESENT_RETURNED);
            }
            books.confirm(id, nack, sent.returned);
        }
        if multiple && fresh && resent {
            books.state(states::MULTIPLE_ACROSS_RECONNECT);
        }
        while self.sent.front().is_some_and(|sent| sent.settled) {
            self.sent.pop_front();
            self.passed += 1;
        }
    }

    pub(super) fn closed_by_broker(&mut self, books: &mut Accounts) {
        if self.phase == Phase::Open && self.confirms && self.has_unsettled() {
            books.state(states::CLOSED_IN_FLIGHT);
        }
        // It discards what is still written on it.
        self.lost(false, books);
    }

    /// The channel is gone, by itself or with its connection; `begun` if a frame is still finished.
    pub(super) fn lost(&mut self, begun: bool, books: &mut Accounts) {
        if self.sent.iter().any(|sent| sent.returned && !sent.settled) {
            books.state(states::RETURN_THEN_LOST);
        }
        self.sent.clear();
        self.delivery = None;
        self.returned = None;
        self.declares.drain(..).for_each(|queue| books.answered(&queue, true));
        if begun && self.phase != Phase::Gone {
            self.phase = Phase::LastFrame;
        } else {
            self.forget();
        }
    }

    pub(super) fn forget(&mut self) {
        self.phase = Phase::Gone;
        self.outgoing = None;
        self.outstanding.clear();
    }

    const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::LastFrame | Phase::Gone)
    }

    /// The connection ends: what was begun on it is a cut copy. `partial` is the beginning of the
    /// frame that was not taken whole.
    pub(super) fn cut(&self, partial: &[u8], books: &mut Accounts) {
        let Some(outgoing) = &self.outgoing else { return };
        let id = outgoing.id.or_else(|| Id::read(partial.get(7..)?, None));
        if let Some(id) = id {
            books.cut(id);
        }
    }

    // ---- consuming ------------------------------------------------------------------------------

    pub(super) fn content_header(&mut self, size: u64, properties: &[u8], books: &mut Accounts) {
        let Some(content) = self.delivery.as_mut().or(self.returned.as_mut()) else { return };
        content.size = size;
        if size == 0 {
            content.id = read_properties(properties, true).1;
            self.arrived(books);
        }
    }

    pub(super) fn content_body(&mut self, payload: &[u8], books: &mut Accounts) {
        let Some(content) = self.delivery.as_mut().or(self.returned.as_mut()) else { return };
        if content.done == 0 {
            content.id = Id::read(payload, None);
        }
        content.done += payload.len() as u64;
        if content.done >= content.size {
            self.arrived(books);
        }
    }

    fn arrived(&mut self, books: &mut Accounts) {
        if let Some(Content { tag, id, .. }) = self.delivery.take() {
            if self.is_over() {
                return;
            }
            books.read_delivery(id, self.no_ack);
            if !self.no_ack {
                self.outstanding.insert(tag, id);
            }
        } else if let Some(Content { id, .. }) = self.returned.take() {
            let mut all = self.sent.iter_mut();
            if let Some(sent) = all.find(|sent| sent.id == id && !sent.settled) {
                sent.returned = true;
            }
        }
    }

    /// The client settles deliveries of this channel.
    pub(super) fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        how: Settlement,
        books: &mut Accounts,
    ) {
        if self.phase == Phase::Gone {
            return;
        }
        let Some(id) = self.outstanding.remove(&tag) else {
            books.violation(format!(
                "{how:?} of tag {tag}, which is not outstanding on its channel"
            ));
            return;
        };
        books.settled(id, how);
        if multiple {
            let rest = self.outstanding.split_off(&tag);
            let lower = std::mem::replace(&mut self.outstanding, rest);
            if !lower.is_empty() && how == Settlement::Ack {
                books.state(states::MULTIPLE_SETTLE);
            }
            lower.into_values().for_each(|id| books.settled(id, how));
        }
    }
}

/// The attempt, if it says one; and the identity in the message id, if that is wanted.
fn read_properties(properties: &[u8], id: bool) -> (Option<u64>, Option<Id>) {
    let name = ATTEMPT_HEADER.as_bytes();
    let attempt = properties.windows(name.len()).any(|window| window == name);
    if !attempt && !id {
        return (None, None);
    }
    let Ok(properties) = decode_properties(properties) else { return (None, None) };
    let headers = properties.headers().as_ref();
    let attempt = headers.and_then(|headers| match headers.inner().get(ATTEMPT_HEADER)? {
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        _ => None,
    });
    let message_id = properties.message_id().as_ref().map(|id| id.as_str());
    (attempt, id.then(|| Id::read(b"", message_id)).flatten())
}
