//! The other end of the wire: a broker that is asked, at each step, what it says.
//!
//! It takes every byte at once and holds its answers. That loses no behaviour of the session's: bytes
//! that the network loses behind the kernel are bytes whose answer never comes, and an answer that is
//! on its way when the connection is cut is one that was not given.

use amq_protocol::{
    protocol::{
        AMQPClass, BasicProperties, basic, channel, confirm,
        connection::{self, AMQPMethod as C},
    },
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use lavinmq_core::{
    consume::Settlement,
    ids::ConnectionId,
    session::Session,
    time::Time,
    wire::{
        self, ATTEMPT_HEADER, Ack, FrameKind, Method, Nack, PROTOCOL_HEADER, parse_generated_id,
    },
};

/// The largest frame that the peer agrees to.
pub const FRAME_MAX: u32 = 4096;

/// What the peer heard.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The header of a publish.
    Header {
        /// Its generated id: who made it, and its number.
        id: Option<(u64, u64)>,
        /// Which copy it says it is.
        attempt: Option<i32>,
    },
    /// The last byte of a publish.
    Message {
        /// The channel.
        channel: u16,
        /// Its generated id.
        id: Option<(u64, u64)>,
        /// Its body.
        body: Vec<u8>,
        /// Whether it wants to be returned.
        mandatory: bool,
        /// Its number on the channel: what a confirm names.
        tag: u64,
        /// Whether the peer had closed the connection before: nobody looks at it.
        discarded: bool,
    },
    /// A settlement of deliveries.
    Settle {
        /// The channel.
        channel: u16,
        /// The tag.
        tag: u64,
        /// Whether all tags up to it are meant.
        multiple: bool,
        /// What to do with them.
        settlement: Settlement,
        /// Whether the peer had closed the connection before: nobody looks at it.
        discarded: bool,
    },
    /// A call that wants this reply.
    Call(u16, Reply),
}

/// A reply that the peer owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the methods are called so")]
pub enum Reply {
    OpenOk,
    SelectOk,
    QosOk,
    ConsumeOk,
    CancelOk,
    CloseOk,
}

/// What is written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The rest of a frame.
    Rest,
    /// A frame of a publish.
    Publish,
    /// A settlement.
    Settle,
    /// Any other frame.
    Other,
}

/// Where a connection stands, as the peer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No transport.
    #[default]
    Gone,
    /// In use.
    Open,
    /// The peer has closed it: the rest of a frame may come, and close-ok.
    Closing {
        /// A frame was begun before the session heard of it.
        begun: bool,
    },
    /// Close-ok came: nothing may follow.
    Closed,
    /// The session has closed it: nothing may follow but close-ok.
    ClosedByClient,
}

/// One channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// Its number.
    pub number: u16,
    /// The reply that is owed on it.
    pub owed: Option<Reply>,
    /// Whether the peer has closed it, and waits for close-ok.
    pub closed: bool,
    /// Whether it is in confirm mode.
    pub confirms: bool,
    /// Messages published, or delivered, on it.
    pub tags: u64,
    /// The prefetch asked for.
    pub prefetch: u16,
    /// The consumer's tag.
    pub consumer: Option<String>,
    /// The tag in the latest call.
    called: String,
    content: Option<Content>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    mandatory: bool,
    header: Option<Header>,
    body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Header {
    id: Option<(u64, u64)>,
    size: u64,
}

/// The peer's side of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where it stands.
    pub stage: Stage,
    /// Its channels, by number.
    pub channels: Vec<Channel>,
    /// The beginning of a frame.
    input: Vec<u8>,
}

impl Peer {
    /// The channel of this number.
    #[must_use]
    pub fn channel(&self, number: u16) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.number == number)
    }

    /// The channel of this number.
    pub fn channel_mut(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.number == number)
    }

    /// Of what is pending, the bytes left of the frame that is written next, and what it is; `None` if
    /// nothing is pending.
    #[must_use]
    pub fn next_frame(&self, pending: &[u8]) -> Option<(usize, Next)> {
        if pending.is_empty() {
            return None;
        }
        let begun = self.input.len();
        if begun > 0 {
            // Its header may be here, there, or across.
            let head: Vec<u8> = self.input.iter().chain(pending).take(7).copied().collect();
            return frame_len(&head).map(|length| (length - begun, Next::Rest));
        }
        let next = match (pending.first(), pending.get(7..11)) {
            (Some(2 | 3), _) | (_, Some([0, 60, 0, 40])) => Next::Publish,
            (_, Some([0, 60, 0, 80 | 120])) => Next::Settle,
            _ => Next::Other,
        };
        frame_len(pending).map(|length| (length, next))
    }

    /// Takes bytes, and says what they mean.
    ///
    /// # Errors
    ///
    /// What a broker would close the connection for.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Heard>, String> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let (mut rest, mut heard) = (&input[..], Vec::new());
        while let Some((frame, used)) =
            wire::decode(rest, FRAME_MAX).map_err(|error| format!("not a frame: {error}"))?
        {
            self.frame(&frame, &mut heard)?;
            rest = &rest[used..];
        }
        if !rest.is_empty() && self.stage == Stage::Closed {
            return Err("bytes after close-ok".into());
        }
        self.input = rest.to_vec();
        Ok(heard)
    }

    fn frame(&mut self, frame: &wire::Frame<'_>, heard: &mut Vec<Heard>) -> Result<(), String> {
        let number = frame.channel;
        let method = match frame.kind {
            FrameKind::Method => Some(
                wire::decode_method(frame.payload).map_err(|error| format!("a method: {error}"))?,
            ),
            _ => None,
        };
        let close_ok = matches!(&method, Some(Method::Other(class))
            if **class == AMQPClass::Connection(C::CloseOk(connection::CloseOk {})));
        match &mut self.stage {
            Stage::Gone => return Err("bytes without a connection".into()),
            Stage::Closed => return Err("a frame after close-ok".into()),
            Stage::Closing { .. } if close_ok => {
                self.stage = Stage::Closed;
                return Ok(());
            }
            Stage::Closing { begun: true } => self.stage = Stage::Closing { begun: false },
            Stage::Closing { begun: false } => {
                return Err(format!("another frame than close-ok after our close: {method:?}"));
            }
            Stage::ClosedByClient => return Err(format!("a frame after its close: {method:?}")),
            Stage::Open => {}
        }
        if number == 0 {
            return match method {
                Some(Method::Other(class))
                    if matches!(*class, AMQPClass::Connection(C::Close(_))) =>
                {
                    self.stage = Stage::ClosedByClient;
                    heard.push(Heard::Call(0, Reply::CloseOk));
                    Ok(())
                }
                other => Err(format!("on channel 0: {other:?}")),
            };
        }
        if let Some(Method::Other(class)) = &method
            && matches!(**class, AMQPClass::Channel(channel::AMQPMethod::Open(_)))
        {
            if self.channel(number).is_some() {
                return Err(format!("channel {number} is opened twice"));
            }
            self.channels.push(Channel {
                number,
                owed: Some(Reply::OpenOk),
                closed: false,
                confirms: false,
                tags: 0,
                prefetch: 0,
                consumer: None,
                called: String::new(),
                content: None,
            });
            self.channels.sort_by_key(|channel| channel.number);
            return Ok(());
        }
        let closing = matches!(self.stage, Stage::Closing { .. });
        let Some(channel) = self.channel_mut(number) else {
            return Err(format!("channel {number} is not open: {method:?}"));
        };
        let discarded = closing || channel.closed;
        let Some(method) = method else {
            return channel.content(frame, closing, heard);
        };
        if channel.content.is_some() {
            return Err(format!("a method in the middle of a message: {method:?}"));
        }
        let settle = |tag, multiple, settlement| Heard::Settle {
            channel: number,
            tag,
            multiple,
            settlement,
            discarded: closing,
        };
        let lost = channel.closed;
        match method {
            Method::Publish(publish) => {
                if channel.owed.is_some() {
                    return Err("a publish before its channel stands".into());
                }
                let mandatory = publish.mandatory;
                channel.content = Some(Content { mandatory, header: None, body: Vec::new() });
            }
            Method::Ack(Ack { delivery_tag, multiple, .. }) if !lost => {
                heard.push(settle(delivery_tag, multiple, Settlement::Ack));
            }
            Method::Nack(Nack { delivery_tag, multiple, requeue, .. }) if !lost => {
                let settlement = if requeue { Settlement::Requeue } else { Settlement::Reject };
                heard.push(settle(delivery_tag, multiple, settlement));
            }
            Method::Ack(_) | Method::Nack(_) => {}
            Method::Other(class) => self.call(number, *class, discarded, heard)?,
            other => return Err(format!("unexpected: {other:?}")),
        }
        Ok(())
    }

    fn call(
        &mut self,
        number: u16,
        class: AMQPClass,
        discarded: bool,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        let Some(channel) = self.channel_mut(number) else { return Ok(()) };
        let reply = match class {
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) if channel.closed => {
                self.channels.retain(|channel| channel.number != number);
                return Ok(());
            }
            _ if discarded => return Ok(()),
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                // It need not wait for the reply to a call.
                channel.owed = None;
                Reply::CloseOk
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => Reply::SelectOk,
            AMQPClass::Basic(basic::AMQPMethod::Qos(qos)) => {
                channel.prefetch = qos.prefetch_count;
                Reply::QosOk
            }
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                if channel.prefetch == 0 {
                    return Err("a consume before its qos".into());
                }
                channel.called = consume.consumer_tag.to_string();
                channel.consumer = Some(channel.called.clone());
                Reply::ConsumeOk
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                channel.called = cancel.consumer_tag.to_string();
                Reply::CancelOk
            }
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)) => return Ok(()),
            other => return Err(format!("unexpected: {other:?}")),
        };
        if channel.owed.is_some() {
            return Err(format!("a second call ({reply:?}) before the reply to the first"));
        }
        channel.owed = Some(reply);
        heard.push(Heard::Call(number, reply));
        Ok(())
    }

    /// Gives the reply that is owed on this channel.
    #[must_use]
    pub fn answer(&mut self, number: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(channel) = self.channel_mut(number) else { return out };
        let Some(reply) = channel.owed.take() else { return out };
        let tag = short(&channel.called);
        let class = match reply {
            Reply::OpenOk => AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})),
            Reply::SelectOk => {
                channel.confirms = true;
                AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }
            Reply::QosOk => AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
            Reply::ConsumeOk => AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk {
                consumer_tag: tag,
            })),
            Reply::CancelOk => {
                let class = AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk {
                    consumer_tag: tag,
                }));
                channel.consumer = None;
                class
            }
            Reply::CloseOk => {
                self.channels.retain(|channel| channel.number != number);
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            }
        };
        put(&mut out, number, &class);
        out
    }

    /// Closes the connection.
    #[must_use]
    pub fn close(&mut self, code: u16, text: &str) -> Vec<u8> {
        self.stage = Stage::Closing { begun: !self.input.is_empty() };
        let (class_id, method_id) = (0, 0);
        let close =
            connection::Close { reply_code: code, reply_text: short(text), class_id, method_id };
        let mut out = Vec::new();
        put(&mut out, 0, &AMQPClass::Connection(C::Close(close)));
        out
    }

    /// Closes a channel, over a publish or for no reason that it names.
    #[must_use]
    pub fn close_channel(&mut self, number: u16, code: u16, text: &str, publish: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(channel) = self.channel_mut(number) else { return out };
        channel.closed = true;
        channel.owed = None;
        let (class_id, method_id) = if publish { (60, 40) } else { (0, 0) };
        let reply_text = short(text);
        let close = channel::Close { reply_code: code, reply_text, class_id, method_id };
        put(&mut out, number, &AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        out
    }

    /// Takes a new connection through its handshake, at once.
    ///
    /// # Errors
    ///
    /// If the session says something else than it should.
    pub fn connect(
        &mut self,
        session: &mut Session,
        id: ConnectionId,
        now: Time,
    ) -> Result<(), String> {
        session.handle_connected(id, now);
        if take(session, id, usize::MAX, now) != PROTOCOL_HEADER {
            return Err("no protocol header".into());
        }
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: LongString::from("PLAIN"),
            locales: LongString::from("en_US"),
        };
        give(session, id, &method(0, C::Start(start)), now)?;
        if take(session, id, usize::MAX, now).is_empty() {
            return Err("no start-ok".into());
        }
        let tune = connection::Tune { channel_max: 7, frame_max: FRAME_MAX, heartbeat: 0 };
        give(session, id, &method(0, C::Tune(tune)), now)?;
        if take(session, id, usize::MAX, now).is_empty() {
            return Err("no tune-ok and open".into());
        }
        *self = Self { stage: Stage::Open, ..Self::default() };
        give(session, id, &method(0, C::OpenOk(connection::OpenOk {})), now)
    }
}

impl Channel {
    fn content(
        &mut self,
        frame: &wire::Frame<'_>,
        discarded: bool,
        heard: &mut Vec<Heard>,
    ) -> Result<(), String> {
        let channel = self.number;
        let Some(mut content) = self.content.take() else {
            return Err(format!("content without its method on channel {channel}"));
        };
        match (frame.kind, &content.header) {
            (FrameKind::Header, None) => {
                let header = wire::decode_content_header(frame.payload)
                    .map_err(|error| format!("a header: {error}"))?;
                let properties = wire::decode_properties(header.properties.as_bytes())
                    .map_err(|error| format!("properties: {error}"))?;
                let id =
                    properties.message_id().as_ref().and_then(|id| parse_generated_id(id.as_str()));
                if !self.closed {
                    heard.push(Heard::Header { id, attempt: attempt(&properties) });
                }
                content.header = Some(Header { id, size: header.body_size });
            }
            (FrameKind::Body, Some(_)) => content.body.extend_from_slice(frame.payload),
            (kind, _) => return Err(format!("a frame out of place: {kind:?}")),
        }
        let Content { mandatory, header, body } = &content;
        match header {
            Some(Header { id, size }) if body.len() as u64 == *size => {
                let (id, mandatory, body) = (*id, *mandatory, content.body);
                self.tags += 1;
                let tag = self.tags;
                // What follows our close of the channel nobody ever sees.
                if !self.closed {
                    heard.push(Heard::Message { channel, id, body, mandatory, tag, discarded });
                }
            }
            Some(Header { size, .. }) if body.len() as u64 > *size => {
                return Err("more body than announced".into());
            }
            _ => self.content = Some(content),
        }
        Ok(())
    }
}

fn attempt(properties: &BasicProperties) -> Option<i32> {
    match properties.headers().as_ref()?.inner().get(ATTEMPT_HEADER) {
        Some(AMQPValue::LongInt(attempt)) => Some(*attempt),
        _ => None,
    }
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

fn put(out: &mut Vec<u8>, channel: u16, class: &AMQPClass) {
    // Methods of the peer's own making encode.
    let _ = wire::put_method(out, channel, class);
}

fn method(channel: u16, method: C) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, channel, &AMQPClass::Connection(method));
    out
}

/// `basic.cancel` from the broker.
#[must_use]
pub fn cancel(channel: u16, tag: &str) -> Vec<u8> {
    let cancel = basic::Cancel { consumer_tag: short(tag), nowait: true };
    let mut out = Vec::new();
    put(&mut out, channel, &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
    out
}

/// A delivery.
#[must_use]
pub fn delivery(channel: u16, consumer: &str, tag: u64, again: bool, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_deliver(&mut out, channel, consumer, tag, again, "", "q");
    let length = body.len() as u64;
    wire::put_content_header(&mut out, channel, length, &BasicProperties::default());
    wire::put_body(&mut out, channel, body, FRAME_MAX);
    out
}

/// Close-ok, on channel 0.
#[must_use]
pub fn close_ok() -> Vec<u8> {
    method(0, C::CloseOk(connection::CloseOk {}))
}

/// `connection.blocked`, or `connection.unblocked`.
#[must_use]
pub fn blocked(blocked: bool) -> Vec<u8> {
    if blocked {
        method(0, C::Blocked(connection::Blocked { reason: short("low on memory") }))
    } else {
        method(0, C::Unblocked(connection::Unblocked {}))
    }
}

/// `basic.return` of a message published to the default exchange.
#[must_use]
pub fn returned(channel: u16, key: &str, (prefix, number): (u64, u64), body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let method = basic::Return {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: short(""),
        routing_key: short(key),
    };
    put(&mut out, channel, &AMQPClass::Basic(basic::AMQPMethod::Return(method)));
    let id = short(&format!("{prefix:016x}{number:016x}"));
    let properties = BasicProperties::default().with_delivery_mode(2).with_message_id(id);
    wire::put_content_header(&mut out, channel, body.len() as u64, &properties);
    wire::put_body(&mut out, channel, body, FRAME_MAX);
    out
}

fn frame_len(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(3..7)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*size) as usize + 8)
}

/// Lets the transport take up to `n` bytes of what is pending, and gives them.
pub fn take(session: &mut Session, id: ConnectionId, n: usize, now: Time) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.pending_output(id, &mut bytes);
    bytes.truncate(n);
    if !bytes.is_empty() {
        session.handle_written(id, bytes.len(), true, now);
    }
    bytes
}

/// Lets the session read these bytes.
///
/// # Errors
///
/// If it does not read.
pub fn give(
    session: &mut Session,
    id: ConnectionId,
    bytes: &[u8],
    now: Time,
) -> Result<(), String> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = session.receive_buffer(id);
        let n = space.len().min(rest.len());
        if n == 0 {
            return Err("the session does not read".into());
        }
        space[..n].copy_from_slice(&rest[..n]);
        session.handle_received(id, n, now);
        rest = &rest[n..];
    }
    Ok(())
}
