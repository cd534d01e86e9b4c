//! Frames to methods, and what is answered to mistakes: the closes.

use amq_protocol::protocol::{AMQPClass, channel as chan, connection as conn};
use lavinmq_core::wire::{
    self, Frame, FrameKind, HEARTBEAT, Method, PROTOCOL_HEADER, decode, decode_method,
};

use super::{
    BrokerState, ConnId,
    channel::Channel,
    connection::{Connection, Phase},
    queue::QueueId,
};
use crate::personality::{Ending, Personality};

/// A mistake of the client's.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Whether the whole connection is closed for it, not its channel alone.
    connection: bool,
    code: u16,
    text: String,
    /// The method that it is for, if not the one at hand.
    about: Option<MethodId>,
}

impl Refusal {
    /// Closes the channel.
    pub(super) fn channel(code: u16, text: impl AsRef<str>) -> Self {
        Self { connection: false, code, text: reply_text(code, text.as_ref()), about: None }
    }

    /// Closes the connection.
    pub(super) fn connection(code: u16, text: impl AsRef<str>) -> Self {
        Self { connection: true, code, text: reply_text(code, text.as_ref()), about: None }
    }

    /// Names another method than the one at hand.
    pub(super) fn about(self, method: MethodId) -> Self {
        Self { about: Some(method), ..self }
    }
}

/// Class and method of a method.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MethodId(pub(super) u16, pub(super) u16);

pub(super) const PUBLISH: MethodId = MethodId(60, 40);

/// The code's name and the particulars, as both brokers write it.
pub(super) fn reply_text(code: u16, text: &str) -> String {
    let name = match code {
        311 => "CONTENT_TOO_LARGE",
        320 => "CONNECTION_FORCED",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        _ => "INTERNAL_ERROR",
    };
    format!("{name} - {text}")
}

/// Appends a method. None of ours has a table that could not be encoded.
pub(super) fn put_method(out: &mut Vec<u8>, channel: u16, method: &AMQPClass) {
    let encoded = wire::put_method(out, channel, method);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
}

pub(super) fn put_heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&HEARTBEAT);
}

/// `text`, cut to what fits into a short string.
pub(super) fn short(text: &str) -> &str {
    cut(text, 255)
}

/// A close's text as far as it fits. RabbitMQ shows that there was more.
fn close_text(personality: Personality, text: &str) -> String {
    if personality.is_rabbitmq() && text.len() > 255 {
        format!("{}...", cut(text, 252))
    } else {
        short(text).to_owned()
    }
}

fn cut(text: &str, end: usize) -> &str {
    let mut end = text.len().min(end);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl BrokerState {
    /// Takes whole frames from a connection's input for as long as it is read.
    pub(super) fn process_input(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let input = std::mem::take(&mut connection.input);
        let mut at = 0;
        while let Some(connection) = self.connections.get(&id)
            && connection.is_reading()
        {
            let rest = input.get(at..).unwrap_or_default();
            if connection.phase == Phase::Header {
                match self.protocol_header(id, rest) {
                    Some(n) => at += n,
                    None => break,
                }
                continue;
            }
            match decode(rest, connection.frame_max) {
                Ok(None) => break,
                Ok(Some((frame, n))) => {
                    at += n;
                    self.take_frame(id, frame);
                    if !self.dirty.is_empty() {
                        self.dispatch();
                    }
                }
                Err(error) => {
                    at = input.len();
                    if connection.is_unproven() {
                        self.give_up(id);
                        continue;
                    }
                    let text = reply_text(error.code(), &error.to_string());
                    self.close_connection_with(id, error.code(), &text, MethodId::default());
                    // Where the next frame starts is not known: nobody waits for close-ok.
                    let (after, ending) = self.settings.personality.after_a_bad_frame();
                    self.end_at(id, self.now + after, ending);
                }
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            let mut input = input;
            input.drain(..at.min(input.len()));
            connection.input = input;
        }
        self.send_confirms(id);
        self.dispatch();
    }

    /// The protocol header: how many bytes of it were taken, if it is whole.
    fn protocol_header(&mut self, id: ConnId, input: &[u8]) -> Option<usize> {
        if input.starts_with(&PROTOCOL_HEADER) {
            self.start(id);
            return Some(PROTOCOL_HEADER.len());
        }
        let wrong = input.iter().zip(&PROTOCOL_HEADER).any(|(is, should)| is != should);
        if wrong {
            self.write(id, |out| out.extend_from_slice(&PROTOCOL_HEADER));
            self.end(id, self.settings.personality.ending());
            return Some(input.len());
        }
        None
    }

    fn take_frame(&mut self, id: ConnId, frame: Frame<'_>) {
        let channel = frame.channel;
        let mut method = MethodId::default();
        let outcome = match frame.kind {
            FrameKind::Heartbeat if channel == 0 => Ok(()),
            FrameKind::Heartbeat if self.settings.personality.is_rabbitmq() => {
                Err(Refusal::connection(505, "type 8, all octets = <<>>"))
            }
            FrameKind::Heartbeat => Err(Refusal::connection(501, "heartbeat on a channel")),
            FrameKind::Method => match decode_method(frame.payload) {
                Ok(decoded) => {
                    method = method_id(frame.payload);
                    self.take_method(id, channel, decoded, frame.payload)
                }
                Err(error) => Err(Refusal::connection(error.code(), error.to_string())),
            },
            FrameKind::Header | FrameKind::Body if channel == 0 => {
                Err(Refusal::connection(505, "content on channel 0"))
            }
            FrameKind::Header => {
                method = PUBLISH;
                self.content_header(id, channel, frame.payload)
            }
            FrameKind::Body => {
                method = PUBLISH;
                self.content_body(id, channel, frame.payload)
            }
        };
        if let Err(refusal) = outcome {
            self.refuse(id, channel, &refusal, method);
        }
    }

    fn take_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: Method<'_>,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        if channel == 0 {
            return match method {
                Method::Other(class) => match *class {
                    AMQPClass::Connection(method) => self.connection_method(id, method),
                    _ => Err(on_channel_0()),
                },
                _ => Err(on_channel_0()),
            };
        }
        match connection.phase {
            Phase::Running => {}
            Phase::Closing | Phase::Over => return Ok(()),
            _ => {
                return Err(Refusal::connection(
                    503,
                    "a channel's method before connection.open-ok",
                ));
            }
        }
        match connection.channels.get(&channel) {
            Some(open) if open.closing => return self.method_while_closing(id, channel, method),
            Some(Channel { incoming: Some(incoming), .. }) => {
                let what = match incoming.size {
                    None => "header for class 60, got non content header",
                    Some(_) => "body, got non content body",
                };
                let text = format!("expected content {what} frame instead");
                return Err(Refusal::connection(505, text).about(PUBLISH));
            }
            Some(_) => {}
            None => {
                if let Method::Other(class) = &method
                    && let AMQPClass::Channel(chan::AMQPMethod::Open(_)) = **class
                {
                    return self.open_channel(id, channel);
                }
                return self.unopened();
            }
        }
        match method {
            Method::Publish(publish) => self.publish(id, channel, publish),
            Method::Ack(ack) => {
                self.settle(id, channel, "basic.ack", ack.delivery_tag, ack.multiple, None)
            }
            Method::Nack(nack) => self.settle(
                id,
                channel,
                "basic.nack",
                nack.delivery_tag,
                nack.multiple,
                Some(nack.requeue),
            ),
            Method::Other(class) => match *class {
                AMQPClass::Channel(method) => self.channel_method(id, channel, method),
                AMQPClass::Exchange(method) => self.exchange_method(id, channel, method),
                AMQPClass::Queue(method) => self.queue_method(id, channel, method),
                AMQPClass::Basic(method) => self.basic_method(id, channel, method, payload),
                AMQPClass::Confirm(method) => self.confirm_method(id, channel, method),
                AMQPClass::Tx(_) => Err(Refusal::connection(540, "transactions")),
                AMQPClass::Connection(_) => Err(Refusal::connection(503, "unimplemented method")),
                AMQPClass::Access(_) => Err(Refusal::connection(540, "access")),
            },
            _ => Err(Refusal::connection(503, "unimplemented method")),
        }
    }

    /// A frame on a channel that is not open. LavinMQ does not care.
    pub(super) fn unopened(&self) -> Result<(), Refusal> {
        if self.settings.personality.is_rabbitmq() {
            return Err(Refusal::connection(504, "expected 'channel.open'"));
        }
        Ok(())
    }

    /// Our channel.close is out: everything but closes is discarded.
    fn method_while_closing(
        &mut self,
        id: ConnId,
        channel: u16,
        method: Method<'_>,
    ) -> Result<(), Refusal> {
        let Method::Other(class) = method else { return Ok(()) };
        match *class {
            AMQPClass::Channel(chan::AMQPMethod::Close(_)) => {
                self.logs.add(id, channel, "channel.close", "");
                // Closes crossed: the other one's close-ok is still awaited.
                self.send(id, channel, &close_ok());
            }
            AMQPClass::Channel(chan::AMQPMethod::CloseOk(_)) => {
                self.logs.add(id, channel, "channel.close-ok", "");
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.channels.remove(&channel);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open_channel(&mut self, id: ConnId, channel: u16) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        self.logs.add(id, channel, "channel.open", "");
        let max = connection.channel_max;
        if max != 0 && (channel > max || connection.channels.len() >= max.into()) {
            return Err(Refusal::connection(
                530,
                format!(
                    "number of channels opened ({}) has reached the negotiated channel_max ({max})",
                    connection.channels.len()
                ),
            ));
        }
        connection.channels.insert(channel, Channel::new());
        self.send(id, channel, &AMQPClass::Channel(chan::AMQPMethod::OpenOk(chan::OpenOk {})));
        Ok(())
    }

    fn channel_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: chan::AMQPMethod,
    ) -> Result<(), Refusal> {
        match method {
            chan::AMQPMethod::Open(_) => {
                Err(Refusal::connection(504, "second 'channel.open' seen"))
            }
            chan::AMQPMethod::Close(_) => {
                self.logs.add(id, channel, "channel.close", "");
                // What was decided is told first: confirms count until close-ok.
                self.send_confirms(id);
                self.release_channel(id, channel);
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.channels.remove(&channel);
                }
                self.send(id, channel, &close_ok());
                Ok(())
            }
            chan::AMQPMethod::Flow(flow) => {
                self.logs.add(id, channel, "channel.flow", if flow.active { "on" } else { "off" });
                if self.settings.personality.is_rabbitmq() && !flow.active {
                    return Err(Refusal::connection(540, "active=false"));
                }
                if let Some(open) = self.channel_mut(id, channel) {
                    open.flow = flow.active;
                    let queues: Vec<QueueId> = open.consumers.iter().map(|c| c.queue).collect();
                    self.dirty.extend(queues);
                }
                let ok = chan::FlowOk { active: flow.active };
                self.send(id, channel, &AMQPClass::Channel(chan::AMQPMethod::FlowOk(ok)));
                Ok(())
            }
            // An answer to a channel.flow or a channel.close of ours that crossed with something.
            chan::AMQPMethod::FlowOk(_) => {
                self.logs.add(id, channel, "channel.flow-ok", "");
                Ok(())
            }
            chan::AMQPMethod::CloseOk(_) => Ok(()),
            chan::AMQPMethod::OpenOk(_) => Err(Refusal::connection(503, "unimplemented method")),
        }
    }

    pub(super) fn channel_mut(&mut self, id: ConnId, channel: u16) -> Option<&mut Channel> {
        self.connections.get_mut(&id)?.channels.get_mut(&channel)
    }

    fn refuse(&mut self, id: ConnId, channel: u16, refusal: &Refusal, method: MethodId) {
        let method = refusal.about.unwrap_or(method);
        if self.connections.get(&id).is_some_and(Connection::is_unproven) {
            self.give_up(id);
        } else if refusal.connection || channel == 0 {
            self.close_connection_with(id, refusal.code, &refusal.text, method);
        } else {
            self.close_channel_with(id, channel, refusal.code, &refusal.text, method);
        }
    }

    /// Sends channel.close; the channel's deliveries and consumers are released at once.
    pub(super) fn close_channel_with(
        &mut self,
        id: ConnId,
        channel: u16,
        code: u16,
        text: &str,
        method: MethodId,
    ) {
        self.send_confirms(id);
        self.release_channel(id, channel);
        let Some(open) = self.channel_mut(id, channel) else { return };
        if open.closing {
            return;
        }
        *open = Channel::new();
        open.closing = true;
        let close = chan::Close {
            reply_code: code,
            reply_text: close_text(self.settings.personality, text).into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.send(id, channel, &AMQPClass::Channel(chan::AMQPMethod::Close(close)));
    }

    /// Sends connection.close; everything the connection had is released at once.
    pub(super) fn close_connection_with(
        &mut self,
        id: ConnId,
        code: u16,
        text: &str,
        method: MethodId,
    ) {
        let Some(connection) = self.connections.get(&id) else { return };
        if matches!(connection.phase, Phase::Closing | Phase::Over) {
            return;
        }
        self.send_confirms(id);
        self.release_connection(id);
        let close = conn::Close {
            reply_code: code,
            reply_text: close_text(self.settings.personality, text).into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.send(id, 0, &AMQPClass::Connection(conn::AMQPMethod::Close(close)));
        let (now, patience) = (self.now, self.settings.personality.close_ok_patience());
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Closing;
            connection.blocked = false;
            // For a client that never answers.
            connection.end_at(now + patience, Ending::Eof);
        }
    }

    /// Reads nothing more, and ends the transport once everything is written.
    pub(super) fn end(&mut self, id: ConnId, ending: Ending) {
        self.end_at(id, self.now, ending);
    }

    pub(super) fn end_at(&mut self, id: ConnId, at: lavinmq_core::time::Time, ending: Ending) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Over;
            connection.end_at(at, ending);
        }
        self.announce(id);
    }

    /// Takes away what a connection had: channels and exclusive queues.
    pub(super) fn release_connection(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let channels: Vec<u16> = connection.channels.keys().copied().collect();
        for channel in channels {
            self.release_channel(id, channel);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.channels.clear();
            connection.confirming.clear();
        }
        let exclusive: Vec<QueueId> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.exclusive == Some(id))
            .map(|(queue, _)| *queue)
            .collect();
        for queue in exclusive {
            self.delete_queue_id(queue);
        }
    }

    /// Takes away what a channel had: its consumers end, its deliveries go back.
    pub(super) fn release_channel(&mut self, id: ConnId, channel: u16) {
        let Some(open) = self.channel_mut(id, channel) else { return };
        let consumers = std::mem::take(&mut open.consumers);
        let unacked = std::mem::take(&mut open.unacked);
        open.incoming = None;
        // Deliveries go back before an auto-delete queue goes, so that the accounts are right.
        self.requeue(unacked);
        for consumer in consumers {
            self.forget_consumer(consumer.queue, consumer.id);
        }
    }
}

/// Whether a method of ours answers one of the client's. (Replies have odd numbers. Those of `basic.get`
/// go another way: their content has to stay with them.)
pub(super) fn is_reply(method: &AMQPClass) -> bool {
    method.get_amqp_method_id() % 2 == 1
}

fn on_channel_0() -> Refusal {
    Refusal::connection(504, "unexpected method in connection state running")
}

pub(super) fn close_ok() -> AMQPClass {
    AMQPClass::Channel(chan::AMQPMethod::CloseOk(chan::CloseOk {}))
}

fn method_id(payload: &[u8]) -> MethodId {
    match payload {
        [a, b, c, d, ..] => MethodId(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
        _ => MethodId::default(),
    }
}
