//! Frames in: who gets them, and what the peer may not send.

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic};

use super::Session;
use crate::{
    connection::{
        CLOSE_OK, Connection, Phase,
        channel::{Arriving, Channel, Content, Incoming, Owner},
        receive::{Payload, Receive},
    },
    consume::{Batch, batch::weight},
    error::{Incompatible, ProtocolError},
    event::{Event, Return, Returned},
    ids::{ConnectionId, ConsumerId, ProducerId},
    message::{Message, Properties},
    publish::lane::LaneState,
    time::Time,
    wire::{
        Ack, Deliver, FRAME_END, FRAME_HEADER, Frame, FrameKind, Method, Nack, REFERENCE_HEADER,
        WireError, decode, decode_content_header, decode_deliver, decode_method, decode_properties,
        is_deliver, parse_generated_id,
    },
};

/// Bodies from this length on become `Bytes` of their own instead of being copied into a batch.
const LARGE_BODY: usize = 16 << 10;

/// Deliveries that a consumer with this prefetch may hold before its broker counts as one that knows
/// no prefetch (s35). Twice as many, and some, so that none which merely counts otherwise is cut off.
const fn held_at_most(prefetch: u16) -> usize {
    prefetch as usize * 2 + 128
}

// The reply code for a tag that does not exist, as brokers use it.
const PRECONDITION_FAILED: u16 = 406;

impl Session {
    /// `n` bytes were read into the front of [`receive_buffer`](Self::receive_buffer).
    pub fn handle_received(&mut self, connection: ConnectionId, n: usize, now: Time) {
        self.advance(now);
        let c = connection.0 as usize;
        let Some(connection) = self.connections.get_mut(c).filter(|c| c.has_transport()) else {
            return;
        };
        connection.receive.read(n);
        connection.last_received = self.now;
        if connection.receive.is_adrift() {
            return self.seek_close_ok(c);
        }
        let mut receive = std::mem::take(&mut connection.receive);
        let mut result = Ok(());
        while let Some(connection) = self.connections.get(c).filter(|c| c.has_transport()) {
            if connection.phase == Phase::AwaitStart && receive.bytes().starts_with(b"AMQP") {
                if let Some(version) = receive.bytes().first_chunk::<8>() {
                    self.hang_up(c, Incompatible::Version(*version).into());
                }
                break;
            }
            if receive.payload().is_some() {
                match self.on_payload(c, &mut receive) {
                    Ok(Some(ended)) => {
                        if let Err(error) = ended {
                            self.flush_batches();
                            self.protocol_error(c, error);
                        }
                        continue;
                    }
                    Ok(None) => break,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            match decode(receive.bytes(), connection.tuned.frame_max) {
                Ok(Some((frame, used))) => {
                    let rest = receive.bytes().get(used..).unwrap_or_default();
                    match self.on_frame(c, frame, rest) {
                        Ok(more) => receive.consume(used + more),
                        Err(error) => {
                            // What follows still counts: confirms do until close-ok.
                            receive.consume(used);
                            self.flush_batches();
                            self.protocol_error(c, error);
                        }
                    }
                }
                Ok(None) => match self.begun_payload(c, receive.bytes()) {
                    None => break,
                    payload => {
                        receive.consume(FRAME_HEADER);
                        receive.set_payload(payload);
                    }
                },
                Err(error) => {
                    // Nobody knows where the next frame begins.
                    result = Err(error);
                    break;
                }
            }
        }
        self.flush_batches();
        let lost = result.is_err();
        if let Err(error) = result {
            self.protocol_error(c, error.into());
            receive.lose_frames();
        }
        if let Some(connection) = self.connections.get_mut(c).filter(|c| c.has_transport()) {
            connection.receive = receive;
            if lost {
                self.seek_close_ok(c);
            }
        }
    }

    /// Whether these bytes are the beginning of a long body frame that is due: its payload is then
    /// taken as it arrives, so that each byte of a large body is copied once, into its place, and
    /// none waits in the receive buffer for the last one of its frame.
    fn begun_payload(&self, c: usize, bytes: &[u8]) -> Option<Payload> {
        let &[kind, c0, c1, s0, s1, s2, s3] = bytes.first_chunk()?;
        let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
        let number = u16::from_be_bytes([c0, c1]);
        if kind != FrameKind::Body as u8 || size < LARGE_BODY {
            return None;
        }
        let connection = self.connections.get(c).filter(|connection| connection.is_open())?;
        let channel = connection.channels.get(number)?;
        // All that is wrong with a frame is found when it is whole.
        (channel.content.missing() >= size as u64)
            .then_some(Payload { channel: number, missing: size })
    }

    /// Takes what is here of a payload, and at its end handles its frame, whatever comes of that.
    /// `None`: more bytes are needed.
    fn on_payload(
        &mut self,
        c: usize,
        receive: &mut Receive,
    ) -> Result<Option<Result<(), ProtocolError>>, WireError> {
        let Some(Payload { channel, missing }) = receive.payload() else { return Ok(None) };
        let here = missing.min(receive.bytes().len());
        if let (Some(connection), Some(piece)) =
            (self.connections.get_mut(c), receive.bytes().get(..here))
        {
            connection.channels.append(channel, piece);
        }
        receive.consume(here);
        receive.set_payload(Some(Payload { channel, missing: missing - here }));
        let Some(&end) = receive.bytes().first().filter(|_| here == missing) else {
            return Ok(None);
        };
        if end != FRAME_END {
            return Err(WireError::FrameEnd(end));
        }
        receive.consume(1);
        receive.set_payload(None);
        let frame = Frame { kind: FrameKind::Body, channel, payload: &[] };
        Ok(Some(self.on_frame(c, frame, &[]).map(|_| ())))
    }

    /// Among bytes that are no frames one thing alone is looked for: the answer to our close.
    fn seek_close_ok(&mut self, c: usize) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        if connection.receive.discard_and_seek(&CLOSE_OK)
            && let Phase::Closing(then) = &connection.phase
        {
            let then = then.clone();
            self.hang_up(c, then);
        }
    }

    /// Handles one frame. Returns how many bytes of `rest`, which follows it, were used as well.
    #[inline]
    fn on_frame(
        &mut self,
        c: usize,
        frame: Frame<'_>,
        rest: &[u8],
    ) -> Result<usize, ProtocolError> {
        let Some(connection) = self.connections.get_mut(c) else { return Ok(0) };
        match connection.phase {
            Phase::Open | Phase::AwaitStart | Phase::AwaitTune | Phase::AwaitOpenOk => {}
            Phase::Closing(_) => {
                self.on_late_frame(c, frame);
                return Ok(0);
            }
            // After the peer's close nothing counts.
            _ => return Ok(0),
        }
        let channel = frame.channel;
        match frame.kind {
            FrameKind::Heartbeat if channel == 0 => Ok(0),
            FrameKind::Heartbeat => Err(ProtocolError::HeartbeatChannel(channel)),
            // By itself: it comes most often, and is cheaper to decode than to find among the others.
            FrameKind::Method if is_deliver(frame.payload) => {
                self.on_deliver(c, channel, &decode_deliver(frame.payload)?, rest)
            }
            FrameKind::Method => match decode_method(frame.payload)? {
                Method::Deliver(deliver) => self.on_deliver(c, channel, &deliver, rest),
                Method::Ack(Ack { delivery_tag, multiple, .. }) => {
                    self.on_ack(c, channel, delivery_tag, multiple, false).map(|()| 0)
                }
                Method::Nack(Nack { delivery_tag, multiple, .. }) => {
                    self.on_ack(c, channel, delivery_tag, multiple, true).map(|()| 0)
                }
                Method::Publish(_) => {
                    Err(ProtocolError::UnexpectedMethod { channel, class: 60, method: 40 })
                }
                Method::Other(class) => self.on_method(c, channel, *class).map(|()| 0),
            },
            FrameKind::Header => self.on_header(c, channel, frame.payload).map(|()| 0),
            FrameKind::Body => self.on_body(c, channel, frame.payload).map(|()| 0),
        }
    }

    /// A frame after our own close: the peer's close and close-ok, confirms and returns count until
    /// close-ok, and everything else is ignored, right or wrong (s14).
    fn on_late_frame(&mut self, c: usize, frame: Frame<'_>) {
        let number = frame.channel;
        let returning = self.channel(c, number).is_ok_and(|channel| {
            matches!(channel.owner, Owner::Lane(_)) && !matches!(channel.content, Content::None)
        });
        let is_return =
            |class: &AMQPClass| matches!(class, AMQPClass::Basic(basic::AMQPMethod::Return(_)));
        let _ = match frame.kind {
            FrameKind::Header if returning => self.on_header(c, number, frame.payload),
            FrameKind::Body if returning => self.on_body(c, number, frame.payload),
            FrameKind::Method => match decode_method(frame.payload) {
                Ok(Method::Ack(Ack { delivery_tag, multiple, .. })) => {
                    self.on_ack(c, number, delivery_tag, multiple, false)
                }
                Ok(Method::Nack(Nack { delivery_tag, multiple, .. })) => {
                    self.on_ack(c, number, delivery_tag, multiple, true)
                }
                Ok(Method::Other(class)) if number == 0 || is_return(&class) => {
                    self.on_method(c, number, *class)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
    }

    fn on_method(&mut self, c: usize, number: u16, class: AMQPClass) -> Result<(), ProtocolError> {
        if number == 0 {
            return match class {
                AMQPClass::Connection(method) => self.on_connection_method(c, method),
                class => Err(ProtocolError::UnexpectedMethod {
                    channel: 0,
                    class: class.get_amqp_class_id(),
                    method: class.get_amqp_method_id(),
                }),
            };
        }
        let channel = self.channel(c, number)?;
        if !matches!(channel.content, Content::None) {
            return Err(ProtocolError::UnexpectedFrame(number));
        }
        if let AMQPClass::Basic(basic::AMQPMethod::Return(method)) = class {
            if matches!(channel.owner, Owner::Lane(_)) {
                let reply = Return {
                    code: method.reply_code,
                    text: method.reply_text.as_str().into(),
                    exchange: method.exchange.as_str().into(),
                    routing_key: method.routing_key.as_str().into(),
                };
                channel.content =
                    Content::Header(Incoming::Return { reply, properties: Vec::new() });
                return Ok(());
            }
            if channel.owner == Owner::Nobody {
                return Ok(());
            }
            return Err(ProtocolError::UnexpectedMethod { channel: number, class: 60, method: 50 });
        }
        self.on_channel_method(c, number, class)
    }

    fn channel(&mut self, c: usize, number: u16) -> Result<&mut Channel, ProtocolError> {
        self.connections
            .get_mut(c)
            .and_then(|connection| connection.channels.get_mut(number))
            .ok_or(ProtocolError::ChannelNotOpen(number))
    }

    /// A confirm. It counts on a channel that we are closing, too.
    fn on_ack(
        &mut self,
        c: usize,
        number: u16,
        tag: u64,
        multiple: bool,
        nack: bool,
    ) -> Result<(), ProtocolError> {
        let stands = self.connections.get(c).is_some_and(Connection::is_open);
        let channel = self.channel(c, number)?;
        if !matches!(channel.content, Content::None) {
            return Err(ProtocolError::UnexpectedFrame(number));
        }
        match channel.owner {
            Owner::Lane(l) => {
                let open = self
                    .lanes
                    .get(l)
                    .is_some_and(|lane| matches!(lane.state, LaneState::Open | LaneState::Closing));
                if open && self.on_confirm(l, tag, multiple, nack) {
                    return Ok(());
                }
                let error = ProtocolError::UnknownConfirm { channel: number, tag };
                // Only this channel's count is wrong (s19). In the middle of a body it cannot be closed.
                if !stands
                    || self
                        .lanes
                        .get(l)
                        .is_none_or(|lane| lane.state != LaneState::Open || lane.partial.is_some())
                {
                    return Err(error);
                }
                self.disown(c, number);
                self.close_channel(c, number, PRECONDITION_FAILED, &error.to_string());
                self.lane_channel_lost(l);
                self.delay_lane(l);
                Ok(())
            }
            Owner::Nobody => Ok(()),
            Owner::Control | Owner::Consumer(..) => Err(ProtocolError::UnexpectedMethod {
                channel: number,
                class: 60,
                method: if nack { 120 } else { 80 },
            }),
        }
    }

    // ---- content ---------------------------------------------------------------------------------

    /// A delivery. When all of it is here, it goes straight into its batch.
    #[inline]
    fn on_deliver(
        &mut self,
        c: usize,
        number: u16,
        deliver: &Deliver<'_>,
        rest: &[u8],
    ) -> Result<usize, ProtocolError> {
        let frame_max = self.connections.get(c).map_or(0, |connection| connection.tuned.frame_max);
        let body_max = self.config.limits.body_max;
        let channel = self.channel(c, number)?;
        if !matches!(channel.content, Content::None) {
            return Err(ProtocolError::UnexpectedFrame(number));
        }
        let (consumer, generation) = match channel.owner {
            Owner::Consumer(consumer, generation) => (consumer, generation),
            // Late frames of a channel that is being closed.
            Owner::Nobody => return Ok(0),
            Owner::Control | Owner::Lane(_) => {
                return Err(ProtocolError::UnexpectedMethod {
                    channel: number,
                    class: 60,
                    method: 60,
                });
            }
        };
        if let Some((properties, body, used)) = whole_content(number, rest, frame_max, body_max) {
            let length = deliver.frame_len() + used;
            let more = (rest.len() - used) / length;
            self.deliver(consumer, generation, number, deliver, properties, body, more)?;
            return Ok(used);
        }
        channel.content = Content::Header(Incoming::Delivery(Arriving::new(deliver)));
        Ok(0)
    }

    fn on_header(&mut self, c: usize, number: u16, payload: &[u8]) -> Result<(), ProtocolError> {
        let limit = self.config.limits.body_max as u64;
        let channel = self.channel(c, number)?;
        if channel.owner == Owner::Nobody {
            return Ok(());
        }
        let Content::Header(mut incoming) = std::mem::take(&mut channel.content) else {
            return Err(ProtocolError::UnexpectedFrame(number));
        };
        let header = decode_content_header(payload)?;
        let announced = header.body_size;
        if announced > limit {
            return Err(ProtocolError::BodyTooLarge { announced, limit });
        }
        let (Incoming::Delivery(Arriving { properties, .. }) | Incoming::Return { properties, .. }) =
            &mut incoming;
        properties.extend_from_slice(header.properties.as_bytes());
        if announced == 0 {
            return self.on_content(c, number, incoming, Vec::new());
        }
        let body = Vec::new();
        self.channel(c, number)?.content = Content::Body { incoming, body, missing: announced };
        Ok(())
    }

    fn on_body(&mut self, c: usize, number: u16, payload: &[u8]) -> Result<(), ProtocolError> {
        let channel = self.channel(c, number)?;
        if channel.owner == Owner::Nobody {
            return Ok(());
        }
        let Content::Body { body, missing, .. } = &channel.content else {
            channel.content = Content::None;
            return Err(ProtocolError::UnexpectedFrame(number));
        };
        let (arrived, length) = (body.len() as u64, payload.len() as u64);
        let announced = arrived + missing;
        if length > *missing {
            channel.content = Content::None;
            return Err(ProtocolError::BodyOverrun { announced, got: arrived + length });
        }
        if let Some(connection) = self.connections.get_mut(c) {
            connection.channels.append(number, payload);
        }
        let channel = self.channel(c, number)?;
        if channel.content.missing() > 0 {
            return Ok(());
        }
        match std::mem::take(&mut channel.content) {
            Content::Body { incoming, body, .. } => self.on_content(c, number, incoming, body),
            Content::None | Content::Header(_) => Ok(()),
        }
    }

    fn on_content(
        &mut self,
        c: usize,
        number: u16,
        incoming: Incoming,
        body: Vec<u8>,
    ) -> Result<(), ProtocolError> {
        match (incoming, self.channel(c, number)?.owner) {
            (Incoming::Delivery(arriving), Owner::Consumer(consumer, generation)) => {
                let Arriving { tag, redelivered, names, properties } = arriving;
                if body.len() < LARGE_BODY {
                    let deliver = Deliver {
                        consumer_tag: &[],
                        delivery_tag: tag,
                        redelivered,
                        names: &names,
                    };
                    return self.deliver(
                        consumer,
                        generation,
                        number,
                        &deliver,
                        &properties,
                        &body,
                        0,
                    );
                }
                let size = (properties.len(), body.len());
                if !self.count_delivery(consumer, generation, number, tag, size)? {
                    return Ok(());
                }
                self.flush_batch(consumer, generation);
                let mut batch = Batch::new(generation);
                batch.push_large(tag, redelivered, &names, &properties, body.into());
                self.batches.push_back((consumer, Arc::new(batch)));
            }
            (Incoming::Return { reply, properties }, Owner::Lane(l)) => {
                self.on_return(l, reply, &properties, body)
            }
            _ => {}
        }
        Ok(())
    }

    // ---- deliveries ------------------------------------------------------------------------------

    /// Takes note of a delivery with so many bytes of properties and body; whether its consumer wants
    /// it.
    #[inline]
    fn count_delivery(
        &mut self,
        id: ConsumerId,
        generation: u64,
        channel: u16,
        tag: u64,
        (properties, body): (usize, usize),
    ) -> Result<bool, ProtocolError> {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return Ok(false) };
        let closing = consumer.is_closing();
        if consumer.config.no_ack {
            consumer.stats.receive(body);
            consumer.stats.acked += 1;
            // What still comes while it closes is handed over as well: nobody else gets it. Then
            // nobody waits for room, either: cancel-ok has to be read.
            if !closing {
                consumer.queue_bytes += weight(properties, body);
                if consumer.full.is_none()
                    && consumer.queue_bytes > consumer.config.queue_bytes as u64
                {
                    self.pause_reading(id, generation);
                }
            }
            return Ok(true);
        }
        let prefetch = consumer.config.prefetch;
        let Some(subscription) = consumer.subscription_mut(generation) else {
            consumer.stats.receive(body);
            consumer.stats.abandoned += 1;
            return Ok(false);
        };
        let expected = subscription.acks.next_tag();
        if tag != expected {
            return Err(ProtocolError::DeliveryTag { channel, expected, got: tag });
        }
        // The broker has seen at most those settlements that are written: by its own count these are
        // outstanding, too.
        let outstanding = subscription.acks.outstanding() + subscription.acks.settling();
        if outstanding >= held_at_most(prefetch) {
            return Err(ProtocolError::PrefetchExceeded { channel, prefetch, outstanding });
        }
        subscription.acks.received();
        let unwanted = closing || subscription.cancelled;
        consumer.stats.receive(body);
        if unwanted {
            // Nobody is there to take it (s31, s48).
            let run = crate::consume::SettleRun {
                generation,
                first: tag,
                last: tag,
                settlement: crate::consume::Settlement::Requeue,
            };
            self.settle_run(id, run);
            return Ok(false);
        }
        Ok(true)
    }

    /// A whole delivery for its batch. About `more` like it follow in this read.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a delivery has many parts")]
    fn deliver(
        &mut self,
        id: ConsumerId,
        generation: u64,
        channel: u16,
        deliver: &Deliver<'_>,
        properties: &[u8],
        body: &[u8],
        more: usize,
    ) -> Result<(), ProtocolError> {
        let size = (properties.len(), body.len());
        if !self.count_delivery(id, generation, channel, deliver.delivery_tag, size)? {
            return Ok(());
        }
        let length = deliver.names.len() + properties.len() + body.len();
        let Some(subscription) =
            self.consumers.get_mut(id.0).and_then(|c| c.subscription_mut(generation))
        else {
            return Ok(());
        };
        if subscription.batch.is_empty() {
            self.filling.push((id, generation));
            subscription.batch.reserve(more, properties.len() + body.len(), deliver.names.len());
        } else if !subscription.batch.has_room(length) {
            let mut next = Batch::new(generation);
            next.reserve(more, properties.len() + body.len(), deliver.names.len());
            let full = std::mem::replace(&mut subscription.batch, next);
            self.batches.push_back((id, Arc::new(full)));
        }
        subscription.batch.push(
            deliver.delivery_tag,
            deliver.redelivered,
            deliver.names,
            properties,
            body,
        );
        Ok(())
    }

    /// Hands out what was gathered of this read.
    fn flush_batches(&mut self) {
        while let Some((consumer, generation)) = self.filling.pop() {
            self.hand_out(consumer, generation);
        }
    }

    fn flush_batch(&mut self, consumer: ConsumerId, generation: u64) {
        self.filling.retain(|&filling| filling != (consumer, generation));
        self.hand_out(consumer, generation);
    }

    fn hand_out(&mut self, id: ConsumerId, generation: u64) {
        if let Some(subscription) =
            self.consumers.get_mut(id.0).and_then(|c| c.subscription_mut(generation))
            && !subscription.batch.is_empty()
        {
            let batch = std::mem::replace(&mut subscription.batch, Batch::new(generation));
            self.batches.push_back((id, Arc::new(batch)));
        }
    }

    // ---- returns (s20) ---------------------------------------------------------------------------

    fn on_return(&mut self, l: usize, reply: Return, raw: &[u8], body: Vec<u8>) {
        let properties = decode_properties(raw).unwrap_or_default();
        let (generated, sequence) = identify(&properties);
        let message = Message::from(body).with_properties(properties);
        let members = self.lanes.get(l).map(|lane| lane.members.clone()).unwrap_or_default();
        let confirm =
            self.lanes.get(l).is_some_and(|lane| lane.mode == crate::config::PublishMode::Confirm);
        if !confirm {
            let owner =
                members.iter().copied().find(|producer| self.publishes_to(*producer, &reply));
            if let Some(producer) = owner.and_then(|owner| self.producers.get_mut(owner.0)) {
                producer.stats.returns += 1;
            }
            self.event(Event::Returned(Box::new(Returned { reply, message })));
            return;
        }
        for producer in members {
            let Some(p) = self.producers.get_mut(producer.0) else { continue };
            let sequence = match generated {
                Some((prefix, sequence)) if prefix == p.id_prefix().0 => Some(sequence),
                Some(_) if sequence.is_none() => continue,
                _ => sequence,
            };
            if let Some(place) = p.find_returned(&reply, &message, sequence) {
                p.note_return(place, Box::new(reply));
                return;
            }
        }
    }

    fn publishes_to(&self, producer: ProducerId, reply: &Return) -> bool {
        self.producers.get(producer.0).is_some_and(|p| *p.config.exchange == *reply.exchange)
    }
}

/// The id and the reference that a producer of ours gave the message.
fn identify(properties: &Properties) -> (Option<(u64, u64)>, Option<u64>) {
    let generated = properties.message_id().as_ref().and_then(|id| parse_generated_id(id.as_str()));
    let reference = properties.headers().as_ref().and_then(|headers| {
        match headers.inner().get(REFERENCE_HEADER) {
            Some(amq_protocol::types::AMQPValue::LongLongInt(sequence)) => {
                Some(sequence.cast_unsigned())
            }
            _ => None,
        }
    });
    (generated, reference)
}

/// A delivery's content, if all of it lies in `rest` and nothing is wrong with it: properties, body,
/// and the bytes it takes. Otherwise its frames are handled one by one.
#[inline]
fn whole_content(
    number: u16,
    rest: &[u8],
    frame_max: u32,
    body_max: usize,
) -> Option<(&[u8], &[u8], usize)> {
    let (header, used) = decode(rest, frame_max).ok()??;
    if header.kind != FrameKind::Header || header.channel != number {
        return None;
    }
    let content = decode_content_header(header.payload).ok()?;
    if content.body_size == 0 {
        return Some((content.properties.as_bytes(), &[], used));
    }
    let (body, body_used) = decode(rest.get(used..)?, frame_max).ok()??;
    if body.kind != FrameKind::Body
        || body.channel != number
        || body.payload.len() as u64 != content.body_size
        || body.payload.len() >= LARGE_BODY
        || body.payload.len() > body_max
    {
        return None;
    }
    Some((content.properties.as_bytes(), body.payload, used + body_used))
}
