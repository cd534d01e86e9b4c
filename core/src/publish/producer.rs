//! A producer as the session knows it: its ring, its account, and how it encodes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    config::{BufferPolicy, ProducerConfig, PublishMode},
    connection::{
        OUTPUT_LIMIT,
        handshake::body_chunk,
        transmit::{CUT_THRESHOLD, Transmit},
    },
    event::{FailReason, Return, Verdict},
    message::{Message, Properties},
    publish::{Accepted, Flow, SettledSet, ring::Ring},
    stats::ProducerStats,
    time::Time,
    wire::{FRAME_END, IdPrefix, Template, check_encodable, put_body, put_body_header},
};

/// How long nothing may leave a `DropOldest` buffer before it evicts although the connection stands.
pub(crate) const STALL: Duration = Duration::from_millis(100);

/// What became of a message.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Sent,
    Confirmed,
    Not(Verdict),
}

#[derive(Clone, Debug)]
pub(crate) struct Producer {
    pub(crate) config: ProducerConfig,
    pub(crate) ring: Ring,
    pub(crate) lane: usize,
    /// The right-hand side of the law, but for `queued` and `in_flight`, which the ring knows.
    pub(crate) stats: ProducerStats,
    pub(crate) settled: SettledSet,
    /// Runs settled beyond the watermark since they were last taken.
    pub(crate) early: Vec<(u64, u64)>,
    /// Left the buffer since the last update.
    pub(crate) left: u64,
    pub(crate) left_bytes: u64,
    pub(crate) last_left: Time,
    pub(crate) flow: Flow,
    /// Nothing has left the buffer for [`STALL`].
    pub(crate) stalled: bool,
    pub(crate) stall_armed: bool,
    pub(crate) ttl_armed: bool,
    /// Whether it stands in the list of producers to report.
    pub(crate) dirty: bool,
    /// Whether it stands in its lane's list.
    pub(crate) ready: bool,
    /// Whether the topology that it depends on stands.
    pub(crate) gate_open: bool,
    /// Whether it stands in the list of producers that may be at rest.
    pub(crate) resting: bool,
    /// No more messages will come.
    pub(crate) closing: bool,
    pub(crate) closed: bool,
    next_sequence: u64,
    encoder: Encoder,
    /// `basic.return`s noted on messages that are not settled yet, by place (semantics s20).
    returns: BTreeMap<u64, Box<Return>>,
    /// Confirm timeouts spent, by place.
    pub(crate) timeouts: BTreeMap<u64, u16>,
}

impl Producer {
    pub(crate) fn new(
        config: ProducerConfig,
        lane: usize,
        id: IdPrefix,
        message_ids: bool,
    ) -> Self {
        let encoder = Encoder::new(&config, id, message_ids);
        Self {
            config,
            ring: Ring::default(),
            lane,
            stats: ProducerStats::default(),
            settled: SettledSet::default(),
            early: Vec::new(),
            left: 0,
            left_bytes: 0,
            last_left: Time::ZERO,
            flow: Flow { may_evict: true, offline: true },
            stalled: false,
            stall_armed: false,
            ttl_armed: false,
            dirty: false,
            ready: false,
            gate_open: false,
            resting: false,
            closing: false,
            closed: false,
            next_sequence: 1,
            encoder,
            returns: BTreeMap::new(),
            timeouts: BTreeMap::new(),
        }
    }

    pub(crate) fn is_confirm(&self) -> bool {
        self.config.mode == PublishMode::Confirm
    }

    /// The next sequence number, for messages that come without a hand-over.
    pub(crate) const fn draw_sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence - 1
    }

    /// The whole account.
    pub(crate) fn snapshot(&self) -> ProducerStats {
        ProducerStats {
            queued: self.ring.queued() as u64,
            queued_bytes: self.ring.queued_bytes() as u64,
            in_flight: self.ring.in_flight() as u64,
            ..self.stats
        }
    }

    /// Whether a message of this length would exceed the buffer, beside what it holds.
    pub(crate) fn is_full(&self, length: usize) -> bool {
        self.ring.queued() >= self.config.buffer_size
            || self.ring.queued_bytes() + length > self.config.buffer_bytes
    }

    /// Whether the buffer holds more than it may.
    pub(crate) fn is_over(&self) -> bool {
        self.ring.queued() > self.config.buffer_size
            || self.ring.queued_bytes() > self.config.buffer_bytes
    }

    pub(crate) fn evicts(&self) -> bool {
        self.config.policy == BufferPolicy::DropOldest
    }

    /// Whether the ring has something that the window has room for.
    pub(crate) fn can_send(&self) -> bool {
        self.ring.can_send(self.config.max_in_flight, self.config.max_in_flight_bytes)
    }

    /// A message left the buffer.
    pub(crate) const fn note_left(&mut self, length: usize, now: Time) {
        self.left += 1;
        self.left_bytes += length as u64;
        self.last_left = now;
    }

    /// Counts an outcome and settles its number.
    pub(crate) fn count(&mut self, sequence: u64, outcome: &Outcome) {
        let stats = &mut self.stats;
        match outcome {
            Outcome::Sent => stats.sent += 1,
            Outcome::Confirmed => stats.confirmed += 1,
            Outcome::Not(Verdict::Nacked) => stats.nacked += 1,
            Outcome::Not(Verdict::Returned(_)) => stats.returned += 1,
            Outcome::Not(Verdict::Dropped(reason)) => stats.count_drop(*reason),
            Outcome::Not(Verdict::Failed(_)) => stats.failed += 1,
            Outcome::Not(Verdict::Unknown(_)) => stats.unknown += 1,
        }
        self.note_settled(sequence, sequence);
    }

    fn note_settled(&mut self, first: u64, last: u64) {
        self.settled.insert_run(first, last);
        if last > self.settled.watermark() {
            match self.early.last_mut() {
                Some((_, end)) if *end + 1 == first => *end = last,
                _ => self.early.push((first, last)),
            }
        }
    }

    /// The messages in these places went well, and nobody wants to hear of each: settles them all.
    pub(crate) fn finish_run(&mut self, first: u64, last: u64) {
        let mut count = 0;
        // Numbers mostly follow each other: told to the set in runs.
        let mut run: Option<(u64, u64)> = None;
        let mut broken = Vec::new();
        self.ring.settle_run(first, last, |sequence| {
            count += 1;
            match &mut run {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => broken.extend(run.replace((sequence, sequence))),
            }
        });
        for (first, last) in broken.into_iter().chain(run) {
            self.note_settled(first, last);
        }
        if self.is_confirm() {
            self.stats.confirmed += count;
        } else {
            self.stats.sent += count;
        }
        if !self.timeouts.is_empty() {
            self.timeouts.retain(|&place, _| place < first || place > last);
        }
    }

    /// Whether a confirmed message has to be looked at by itself: somebody wants to hear of it, or a
    /// return was noted on one.
    pub(crate) fn confirms_singly(&self) -> bool {
        self.config.report_confirmed || !self.returns.is_empty()
    }

    /// Notes a return on a message in flight.
    pub(crate) fn note_return(&mut self, place: u64, reply: Box<Return>) {
        self.returns.insert(place, reply);
    }

    pub(crate) fn take_return(&mut self, place: u64) -> Option<Box<Return>> {
        if self.returns.is_empty() { None } else { self.returns.remove(&place) }
    }

    /// The channel is gone: what was noted about copies on it means nothing any more.
    pub(crate) fn forget_returns(&mut self) {
        self.returns.clear();
    }

    /// The routing key of a message: its own, or the producer's.
    pub(crate) fn routing_key<'a>(&'a self, own: Option<&'a Arc<str>>) -> &'a Arc<str> {
        own.unwrap_or(&self.config.routing_key)
    }

    /// Moves on to the next message that has to be sent, and encodes as much of it as `room` bytes of
    /// pending output allow (its head and at least one frame of its body).
    #[inline]
    pub(crate) fn send_next(&mut self, wire: &mut Wire<'_>, now: Time) -> Option<Step> {
        let (max, max_bytes) = (self.config.max_in_flight, self.config.max_in_flight_bytes);
        let (place, sent, fresh) = self.ring.next(max, max_bytes)?;
        let length = sent.message.body().len();
        let from = wire.transmit.enqueued();
        let attempt = sent.attempts + 1;
        let copy = Copy {
            message: &sent.message,
            routing_key: sent.routing_key.as_deref(),
            sequence: sent.sequence,
            attempt,
        };
        let tail = wire.transmit.tail();
        let at = tail.len();
        let head = self.encoder.encode(&self.config, &copy, tail, wire.channel, wire.frame_max);
        wire.transmit.appended(at);
        if attempt > 1 {
            self.stats.resent += 1;
        }
        let result = head.map(|()| wire.put_body(&sent.message, 0));
        sent.encoded = (wire.transmit.enqueued() - from) as u32;
        let result = result.map(|offset| (offset < length).then_some(offset));
        if fresh {
            self.note_left(length, now);
        }
        Some(Step { place, result, attempt })
    }

    /// Which message in flight a returned one is (semantics s20): by the id or the reference that we
    /// gave it, else the oldest that looks the same.
    pub(crate) fn find_returned(
        &self,
        reply: &Return,
        message: &Message,
        sequence: Option<u64>,
    ) -> Option<u64> {
        if *self.config.exchange != *reply.exchange {
            return None;
        }
        let mut places = self.ring.sent_places().filter(|place| !self.returns.contains_key(place));
        if let Some(sequence) = sequence {
            return places
                .find(|&place| self.ring.get(place).is_some_and(|sent| sent.sequence == sequence));
        }
        places.find(|&place| {
            self.ring.get(place).is_some_and(|sent| {
                sent.message.body() == message.body()
                    && **self.routing_key(sent.routing_key.as_ref()) == *reply.routing_key
                    && same_properties(&sent.message, message, self.is_confirm())
            })
        })
    }

    /// Whether ids generated by this producer start so.
    pub(crate) const fn id_prefix(&self) -> IdPrefix {
        self.encoder.id
    }

    /// The queue that it publishes to has another name.
    pub(crate) fn rename(&mut self, routing_key: Arc<str>, message_ids: bool) {
        self.config.routing_key = routing_key;
        self.encoder = Encoder::new(&self.config, self.encoder.id, message_ids);
    }

    /// What decides what it does next (see `session::model`).
    #[cfg(feature = "model")]
    pub(crate) fn fingerprint(&self, now: Time) -> impl std::fmt::Debug + '_ {
        let Self {
            config,
            ring,
            lane,
            stats: _,
            settled,
            early,
            left,
            left_bytes: _,
            last_left,
            flow,
            stalled,
            stall_armed,
            ttl_armed,
            dirty,
            ready,
            gate_open,
            // Memory alone.
            resting: _,
            closing,
            closed,
            next_sequence,
            encoder: _,
            returns,
            timeouts,
        } = self;
        (
            (ring.fingerprint(now, config.ttl.is_some()), lane, settled, early, left, flow),
            (stall_armed.then(|| now - *last_left), stalled, ttl_armed, dirty, ready, gate_open),
            (closing, closed, next_sequence, returns.keys(), timeouts),
        )
    }

    #[inline]
    pub(crate) fn accept(&mut self, accepted: Accepted) {
        self.stats.accepted += 1;
        self.ring.push(accepted);
    }
}

fn same_properties(sent: &Message, returned: &Message, confirm: bool) -> bool {
    let sent = with_default_mode(sent.properties().cloned().unwrap_or_default(), confirm);
    returned.properties().cloned().unwrap_or_default() == sent
}

fn with_default_mode(properties: Properties, confirm: bool) -> Properties {
    if confirm && properties.delivery_mode().is_none() {
        properties.with_delivery_mode(2)
    } else {
        properties
    }
}

/// One message encoded, or begun.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) place: u64,
    /// The offset reached if a part of the body is still to be encoded.
    pub(crate) result: Result<Option<usize>, FailReason>,
    /// Which copy it is, from 1.
    pub(crate) attempt: u32,
}

/// Where a producer's frames go.
pub(crate) struct Wire<'a> {
    pub(crate) transmit: &'a mut Transmit,
    pub(crate) channel: u16,
    pub(crate) frame_max: u32,
}

impl Wire<'_> {
    /// Encodes frames of the body from `offset` on, until it is whole or enough output is pending;
    /// returns the offset reached.
    #[inline]
    pub(crate) fn put_body(&mut self, message: &Message, mut offset: usize) -> usize {
        let body = message.body();
        let chunk = body_chunk(self.frame_max);
        while offset < body.len() {
            let end = body.len().min(offset + chunk);
            let length = end - offset;
            match message.shared_body() {
                Some(shared) if length >= CUT_THRESHOLD => {
                    let channel = self.channel;
                    self.transmit.append(|out| put_body_header(out, channel, length as u32));
                    self.transmit.cut(shared.slice(offset..end));
                    self.transmit.append(|out| out.push(FRAME_END));
                }
                _ => {
                    let (channel, frame_max) = (self.channel, self.frame_max);
                    self.transmit
                        .append(|out| put_body(out, channel, &body[offset..end], frame_max));
                }
            }
            offset = end;
            if self.transmit.pending() >= OUTPUT_LIMIT {
                break;
            }
        }
        offset
    }
}

/// One copy of a message, about to be encoded.
struct Copy<'a> {
    message: &'a Message,
    routing_key: Option<&'a str>,
    sequence: u64,
    attempt: u32,
}

/// Encodes a producer's publishes: the common case by copying a prefix that was encoded once.
#[derive(Clone, Debug)]
struct Encoder {
    id: IdPrefix,
    message_ids: bool,
    /// For messages without properties or a key of their own.
    plain: Template,
    /// For messages that share the properties of the one before.
    shared: Option<(Message, Template)>,
    /// The properties seen last.
    seen: Option<Message>,
}

impl Encoder {
    fn new(config: &ProducerConfig, id: IdPrefix, message_ids: bool) -> Self {
        let message_ids = message_ids && config.mode == PublishMode::Confirm;
        let plain = template(config, id, message_ids, &Message::empty(), None, None);
        Self { id, message_ids, plain, shared: None, seen: None }
    }

    #[inline]
    fn encode(
        &mut self,
        config: &ProducerConfig,
        copy: &Copy<'_>,
        out: &mut Vec<u8>,
        channel: u16,
        frame_max: u32,
    ) -> Result<(), FailReason> {
        let length = copy.message.body().len() as u64;
        let first = copy.attempt <= 1;
        if first && copy.routing_key.is_none() {
            if copy.message.properties().is_none() {
                return put(&self.plain, out, channel, length, copy.sequence, frame_max);
            }
            if let Some((key, template)) = &self.shared
                && key.shares_properties_with(copy.message)
            {
                return put(template, out, channel, length, copy.sequence, frame_max);
            }
        }
        if copy.message.properties().is_some_and(|properties| check_encodable(properties).is_err())
        {
            return Err(FailReason::FrameTooLarge);
        }
        let attempt = (!first).then_some(copy.attempt);
        let template =
            template(config, self.id, self.message_ids, copy.message, copy.routing_key, attempt);
        put(&template, out, channel, length, copy.sequence, frame_max)?;
        if first && copy.routing_key.is_none() {
            // Kept once it is seen a second time: properties that differ each time are not worth it.
            let key = copy.message.properties_only();
            if self.seen.as_ref().is_some_and(|seen| seen.shares_properties_with(&key)) {
                self.shared = Some((key, template));
            } else {
                self.seen = Some(key);
            }
        }
        Ok(())
    }
}

fn template(
    config: &ProducerConfig,
    id: IdPrefix,
    message_ids: bool,
    message: &Message,
    key: Option<&str>,
    attempt: Option<u32>,
) -> Template {
    let confirm = config.mode == PublishMode::Confirm;
    let properties = with_default_mode(message.properties().cloned().unwrap_or_default(), confirm);
    let key = key.unwrap_or(&config.routing_key);
    // An id that we make ties a return to its message. One of the application's own may be shared by
    // several messages: those carry a reference.
    let reference =
        confirm && config.mandatory && (!message_ids || properties.message_id().is_some());
    let (exchange, mandatory, id) =
        (&*config.exchange, config.mandatory, message_ids.then_some(id));
    match attempt {
        None => Template::new(exchange, key, mandatory, &properties, id, reference),
        Some(n) => Template::with_attempt(exchange, key, mandatory, &properties, id, reference, n),
    }
}

#[inline]
fn put(
    template: &Template,
    out: &mut Vec<u8>,
    channel: u16,
    length: u64,
    sequence: u64,
    frame_max: u32,
) -> Result<(), FailReason> {
    if template.header_len() > frame_max as usize {
        return Err(FailReason::FrameTooLarge);
    }
    template.encode(out, channel, length, sequence);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn s26_what_a_settled_message_spent_is_forgotten() {
        let config = ProducerConfig::new("", "orders", PublishMode::Confirm).unwrap();
        let mut producer = Producer::new(config, 0, IdPrefix(1), true);
        producer.timeouts = (1..=5).map(|place| (place, 1)).collect();
        producer.finish_run(2, 4);
        assert_eq!(producer.timeouts.into_keys().collect::<Vec<_>>(), [1, 5]);
    }
}
