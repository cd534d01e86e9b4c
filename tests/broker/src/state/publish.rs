//! Publishing: content, routing, returns, confirms.

use std::{cell::OnceCell, collections::BTreeSet, sync::Arc, time::Duration};

use amq_protocol::protocol::{AMQPClass, basic, confirm};
use bytes::Bytes;
use lavinmq_core::wire::{
    self, decode_content_header, decode_properties, put_ack, put_body, put_content_header_raw,
    put_nack,
};

use super::{
    BrokerState, ConnId,
    channel::{Confirms, Incoming},
    exchange::Destination,
    frames::{MethodId, Refusal, put_method, short},
    queue::{Content, QueueId},
};

/// How long confirms are put off while they are reordered.
const PUT_OFF: Duration = Duration::from_millis(1);

/// Memory for a body is taken in advance up to this many bytes.
const AT_ONCE: usize = 64 * 1024;

/// Bits of the property flags that mean something to a broker (specification 4.2.6.1).
const DELIVERY_MODE: u16 = 0x1000;
const EXPIRATION: u16 = 0x0100;
const USER_ID: u16 = 0x0010;

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// In every queue that it matched; or in none, if it matched none.
    Taken,
    /// A queue refused it.
    Refused,
}

impl BrokerState {
    /// A publish method; its content follows.
    pub(super) fn publish(
        &mut self,
        id: ConnId,
        channel: u16,
        publish: wire::Publish<'_>,
    ) -> Result<(), Refusal> {
        let (Ok(exchange), Ok(routing_key)) =
            (std::str::from_utf8(publish.exchange()), std::str::from_utf8(publish.routing_key()))
        else {
            return Err(Refusal::connection(502, "a name that is not UTF-8"));
        };
        let rabbitmq = self.settings.personality.is_rabbitmq();
        self.logs.count(id, channel, "basic.publish", exchange);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(open) = connection.channels.get_mut(&channel) else { return Ok(()) };
        let (exchange, routing_key) = open.target(exchange, routing_key);
        open.incoming = Some(Incoming {
            exchange,
            routing_key,
            mandatory: publish.mandatory,
            immediate: publish.immediate,
            size: None,
            properties: Bytes::new(),
            body: Vec::new(),
        });
        // RabbitMQ stops at the method of the first publish after the alarm; its content waits in the
        // input.
        if self.blocked.is_some() && rabbitmq {
            self.block_connection(id);
        }
        Ok(())
    }

    pub(super) fn content_header(
        &mut self,
        id: ConnId,
        channel: u16,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let header = decode_content_header(payload)
            .map_err(|error| Refusal::connection(error.code(), error.to_string()))?;
        let largest = self.settings.personality.body_max();
        let Some(incoming) = self.incoming(id, channel)? else { return Ok(()) };
        if incoming.size.is_some() {
            return Err(Refusal::connection(
                505,
                "expected content body, got non content body frame instead",
            ));
        }
        if header.class != MESSAGES {
            return Err(Refusal::connection(505, "a header of another class than basic"));
        }
        if header.body_size > largest {
            return Err(Refusal::channel(
                406,
                format!(
                    "message size {} is larger than configured max size {largest}",
                    header.body_size
                ),
            ));
        }
        incoming.size = Some(header.body_size);
        // Memory grows with what arrives, not with what was announced.
        let expected = usize::try_from(header.body_size).unwrap_or(usize::MAX);
        incoming.body.reserve_exact(expected.min(AT_ONCE));
        incoming.properties = Bytes::copy_from_slice(header.properties.as_bytes());
        if header.body_size == 0 {
            return self.published(id, channel);
        }
        Ok(())
    }

    pub(super) fn content_body(
        &mut self,
        id: ConnId,
        channel: u16,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let Some(incoming) = self.incoming(id, channel)? else { return Ok(()) };
        let Some(size) = incoming.size else {
            return Err(Refusal::connection(
                505,
                "expected content header for class 60, got non content header frame instead",
            ));
        };
        incoming.body.extend_from_slice(payload);
        let arrived = u64::try_from(incoming.body.len()).unwrap_or(u64::MAX);
        if arrived > size {
            return Err(Refusal::connection(501, "more body than its header announced"));
        }
        if arrived == size {
            return self.published(id, channel);
        }
        Ok(())
    }

    /// The publish that content belongs to; none where content is to be discarded.
    fn incoming(&mut self, id: ConnId, channel: u16) -> Result<Option<&mut Incoming>, Refusal> {
        let Some(connection) = self.connections.get(&id) else { return Ok(None) };
        if !connection.is_running() {
            return Ok(None);
        }
        match connection.channels.get(&channel) {
            None => return self.unopened().map(|()| None),
            Some(open) if open.closing => return Ok(None),
            Some(open) if open.incoming.is_none() => {
                return Err(Refusal::connection(
                    505,
                    "expected method frame, got non method frame instead",
                )
                .about(MethodId::default()));
            }
            Some(_) => {}
        }
        Ok(self.channel_mut(id, channel).and_then(|open| open.incoming.as_mut()))
    }

    /// A message is there as a whole.
    fn published(&mut self, id: ConnId, channel: u16) -> Result<(), Refusal> {
        let rabbitmq = self.settings.personality.is_rabbitmq();
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let Some(open) = connection.channels.get_mut(&channel) else { return Ok(()) };
        let Some(incoming) = open.incoming.take() else { return Ok(()) };
        if incoming.immediate && rabbitmq {
            return Err(Refusal::connection(540, "immediate=true"));
        }
        if self.blocked.is_some() && !rabbitmq {
            return Err(Refusal::channel(406, "Server low on disk space"));
        }
        let mandatory = incoming.mandatory;
        let content = content(incoming, &connection.user)?;
        self.note_received(id, channel, &content);
        let queues = self.route(&content)?;
        self.counters.published += 1;
        let open = self.channel_mut(id, channel);
        let tag = open.and_then(|open| open.confirms.as_mut()).map(Confirms::take_tag);
        if tag.is_some() && self.controls.nack_next > 0 {
            self.controls.nack_next -= 1;
            self.decide(id, channel, tag, Fate::Refused);
            return Ok(());
        }
        let content = Arc::new(content);
        let mut fate = Fate::Taken;
        for queue in &queues {
            if self.enqueue(*queue, &content) {
                self.record(id, *queue, &content);
            } else {
                fate = Fate::Refused;
            }
        }
        // LavinMQ returns what a full queue refused, too, and nacks it then.
        let unwanted =
            queues.is_empty() || (!rabbitmq && fate == Fate::Refused && queues.len() == 1);
        if mandatory && unwanted {
            self.give_back(id, channel, &content);
        }
        self.decide(id, channel, tag, fate);
        Ok(())
    }

    /// Adds a message to a queue; false if the queue refuses it.
    pub(super) fn enqueue(&mut self, queue: QueueId, content: &Arc<Content>) -> bool {
        let now = self.now;
        let Some(queue_state) = self.queues.get_mut(&queue) else { return true };
        self.counters.expired += queue_state.expire(now);
        if queue_state.refuses() {
            self.counters.refused += 1;
            return false;
        }
        queue_state.push(content.clone(), now);
        // A waiting consumer gets it before the queue's length or its time to live matter.
        self.deliver_unexpired(queue);
        if let Some(queue_state) = self.queues.get_mut(&queue) {
            self.counters.dropped += queue_state.trim();
        }
        true
    }

    /// The queues that a message goes to, each once.
    fn route(&self, content: &Content) -> Result<Vec<QueueId>, Refusal> {
        let (exchange, routing_key) = (&*content.exchange, &*content.routing_key);
        if exchange.is_empty() {
            return Ok(self.queue_names.get(routing_key).copied().into_iter().collect());
        }
        let Some(first) = self.exchanges.get(exchange) else {
            return Err(Refusal::channel(404, format!("no exchange '{exchange}' in vhost '/'")));
        };
        if first.internal {
            return Err(Refusal::channel(
                403,
                format!("cannot publish to internal exchange '{exchange}' in vhost '/'"),
            ));
        }
        let mut queues = BTreeSet::new();
        let mut seen = BTreeSet::from([exchange]);
        let mut pending = vec![first];
        let decoded = OnceCell::new();
        let headers = || decoded.get_or_init(|| content.headers());
        while let Some(exchange) = pending.pop() {
            for destination in exchange.matching(routing_key, headers) {
                match destination {
                    Destination::Queue(queue) => {
                        queues.insert(*queue);
                    }
                    Destination::Exchange(name) => {
                        if seen.insert(name)
                            && let Some(exchange) = self.exchanges.get(name)
                        {
                            pending.push(exchange);
                        }
                    }
                }
            }
        }
        Ok(queues.into_iter().collect())
    }

    /// Returns a message that no queue wanted.
    fn give_back(&mut self, id: ConnId, channel: u16, content: &Content) {
        self.counters.returned += 1;
        let Some(connection) = self.connections.get(&id) else { return };
        let frame_max = connection.frame_max;
        let method = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: short(&content.exchange).into(),
            routing_key: short(&content.routing_key).into(),
        };
        self.write(id, |out| {
            put_method(out, channel, &AMQPClass::Basic(basic::AMQPMethod::Return(method)));
            put_content(out, channel, content, frame_max);
        });
    }

    pub(super) fn confirm_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: confirm::AMQPMethod,
    ) -> Result<(), Refusal> {
        let confirm::AMQPMethod::Select(select) = method else {
            return Err(Refusal::connection(503, "unimplemented method"));
        };
        self.logs.add(id, channel, "confirm.select", "");
        if let Some(open) = self.channel_mut(id, channel) {
            open.confirms.get_or_insert_with(Confirms::new);
        }
        if !select.nowait {
            let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
            self.send(id, channel, &AMQPClass::Confirm(ok));
        }
        Ok(())
    }

    /// Notes what a confirm will say.
    fn decide(&mut self, id: ConnId, channel: u16, tag: Option<u64>, fate: Fate) {
        let Some(tag) = tag else { return };
        let ack = fate == Fate::Taken;
        if !ack && !self.settings.personality.is_rabbitmq() {
            // LavinMQ's nacks are single and go out at once.
            self.counters.nacked += 1;
            self.write(id, |out| put_nack(out, channel, tag, false, false));
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(open) = connection.channels.get_mut(&channel) else { return };
        let Some(confirms) = &mut open.confirms else { return };
        confirms.decided.push((tag, ack));
        if !connection.confirming.contains(&channel) {
            connection.confirming.push(channel);
        }
    }

    /// Tells a connection's client what was decided, unless a test holds that back.
    pub(super) fn send_confirms(&mut self, id: ConnId) {
        if self.controls.hold_confirms {
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.confirming.is_empty() {
            return;
        }
        let mut channels = std::mem::take(&mut connection.confirming);
        channels.retain(|&channel| self.send_channel_confirms(id, channel));
        if channels.is_empty() {
            // The allocation is worth keeping: this runs once per read.
        } else {
            self.confirms_due = Some(self.now + PUT_OFF);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.confirming = channels;
        }
    }

    pub(super) fn send_all_confirms(&mut self) {
        for id in self.connection_ids() {
            self.send_confirms(id);
        }
    }

    /// Tells what was decided on one channel; whether something was put off.
    fn send_channel_confirms(&mut self, id: ConnId, channel: u16) -> bool {
        let rabbitmq = self.settings.personality.is_rabbitmq();
        let reorder = self.controls.reorder_confirms && rabbitmq;
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let Some(open) = connection.channels.get_mut(&channel) else { return false };
        let Some(confirms) = &mut open.confirms else { return false };
        let mut batch = std::mem::take(&mut confirms.decided);
        if reorder && batch.len() > 1 && self.random.one_in(2) {
            // Some wait for the next time, as those of a slower queue would.
            let random = &mut self.random;
            let (now, later) = batch.into_iter().partition(|_| random.one_in(2));
            batch = now;
            confirms.decided = later;
        }
        // Below this tag, nothing is undecided or put off.
        let open_from =
            confirms.decided.iter().map(|(tag, _)| *tag).min().unwrap_or(confirms.next_tag);
        let put_off = !confirms.decided.is_empty();
        let mut out = Vec::new();
        let (acks, nacks): (Vec<_>, Vec<_>) = batch.iter().partition(|(_, ack)| *ack);
        self.counters.confirmed += acks.len() as u64;
        self.counters.nacked += nacks.len() as u64;
        let tags = |of: &[(u64, bool)]| of.iter().map(|(tag, _)| *tag).collect::<Vec<_>>();
        let (acks, nacks) = (tags(&acks), tags(&nacks));
        if reorder {
            let mut singles = batch;
            self.random.shuffle(&mut singles);
            for (tag, ack) in singles {
                if ack {
                    put_ack(&mut out, channel, tag, false);
                } else {
                    put_nack(&mut out, channel, tag, false, true);
                }
            }
        } else if rabbitmq {
            coalesce(&nacks, &acks, open_from, |tag, many| {
                put_nack(&mut out, channel, tag, many, true);
            });
            if let [tag] = *acks {
                put_ack(&mut out, channel, tag, false);
            } else {
                coalesce(&acks, &nacks, open_from, |tag, many| {
                    put_ack(&mut out, channel, tag, many);
                });
            }
        } else if let Some(last) = acks.iter().max() {
            put_ack(&mut out, channel, *last, true);
        }
        if !out.is_empty() {
            self.write(id, |output| output.extend_from_slice(&out));
        }
        put_off
    }
}

/// The class `basic`.
const MESSAGES: u16 = 60;

impl Confirms {
    const fn new() -> Self {
        Self { next_tag: 1, decided: Vec::new() }
    }

    const fn take_tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }
}

/// As RabbitMQ does it: the tags below everything that is open or has the other verdict become one
/// confirm with `multiple`, the others single ones.
fn coalesce(tags: &[u64], others: &[u64], open_from: u64, mut put: impl FnMut(u64, bool)) {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    let cutoff = others.iter().copied().min().unwrap_or(u64::MAX).min(open_from);
    let below = tags.partition_point(|tag| *tag < cutoff);
    if let Some(last) = tags[..below].last() {
        put(*last, true);
    }
    for tag in &tags[below..] {
        put(*tag, false);
    }
}

/// What queues keep of a publish, or what is wrong with it.
fn content(incoming: Incoming, user: &str) -> Result<Content, Refusal> {
    let properties = incoming.properties;
    let flags = match *properties {
        [a, b, ..] => u16::from_be_bytes([a, b]),
        _ => 0,
    };
    let (mut persistent, mut expiration) = (false, None);
    if flags & (DELIVERY_MODE | EXPIRATION | USER_ID) != 0 {
        let decoded = decode_properties(&properties)
            .map_err(|error| Refusal::connection(error.code(), error.to_string()))?;
        persistent = *decoded.delivery_mode() == Some(2);
        if let Some(text) = decoded.expiration() {
            let millis = millis(text.as_str()).map_err(|why| {
                Refusal::channel(406, format!("invalid expiration '{text}': {why}"))
            })?;
            expiration = Some(Duration::from_millis(millis));
        }
        if let Some(claimed) = decoded.user_id()
            && claimed.as_str() != user
        {
            return Err(Refusal::channel(
                406,
                format!("user_id property set to '{claimed}' but authenticated user was '{user}'"),
            ));
        }
    }
    Ok(Content {
        exchange: incoming.exchange,
        routing_key: incoming.routing_key,
        properties,
        body: Bytes::from(incoming.body),
        persistent,
        expiration,
    })
}

/// The property `expiration`, or what is wrong with it, as RabbitMQ says it.
fn millis(text: &str) -> Result<u64, String> {
    let sign = usize::from(text.starts_with(['-', '+']));
    let digits = text.bytes().skip(sign).take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(sign + digits);
    let number: i64 = match number.parse() {
        Ok(number) => number,
        Err(_) if digits == 0 => return Err("no_integer".to_owned()),
        Err(_) if number.starts_with('-') => return Err(format!("{{value_negative,{number}}}")),
        Err(_) => return Err(format!("{{value_too_large,{number}}}")),
    };
    if !rest.is_empty() {
        return Err(format!("{{leftover_string,\"{rest}\"}}"));
    }
    match u64::try_from(number) {
        Err(_) => Err(format!("{{value_negative,{number}}}")),
        Ok(number) if number > u32::MAX.into() => Err(format!("{{value_too_large,{number}}}")),
        Ok(number) => Ok(number),
    }
}

/// Appends a content's header and body frames.
pub(super) fn put_content(out: &mut Vec<u8>, channel: u16, content: &Content, frame_max: u32) {
    let size = u64::try_from(content.body.len()).unwrap_or(u64::MAX);
    put_content_header_raw(out, channel, size, &content.properties);
    put_body(out, channel, &content.body, frame_max);
}
