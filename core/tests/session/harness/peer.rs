//! The broker's end of a connection: what it received, and the rules that it holds its client to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lavinmq_core::wire::{FrameKind, Method};

use super::*;

/// What the session wrote: a frame, or the protocol header.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrote {
    ProtocolHeader,
    Heartbeat,
    /// A method, those not included that have a variant of their own.
    Method(u16, AMQPClass),
    Publish {
        channel: u16,
        exchange: String,
        routing_key: String,
        mandatory: bool,
    },
    Ack {
        channel: u16,
        tag: u64,
        multiple: bool,
    },
    Nack {
        channel: u16,
        tag: u64,
        multiple: bool,
        requeue: bool,
    },
    Header {
        channel: u16,
        size: u64,
        properties: Properties,
    },
    Body(u16, Vec<u8>),
}

/// One whole publish as a peer received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    pub channel: u16,
    pub exchange: String,
    pub routing_key: String,
    pub mandatory: bool,
    pub properties: Properties,
    pub body: Vec<u8>,
    /// The lengths of its body frames.
    pub chunks: Vec<usize>,
}

impl Copy {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The header `x-attempt`, if it has one.
    pub fn attempt(&self) -> Option<i32> {
        match self.header(wire::ATTEMPT_HEADER)? {
            AMQPValue::LongInt(attempt) => Some(*attempt),
            other => panic!("x-attempt is {other:?}"),
        }
    }

    pub fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }

    pub fn message_id(&self) -> Option<String> {
        self.properties.message_id().as_ref().map(|id| id.as_str().to_owned())
    }
}

/// How a peer introduces itself.
#[derive(Clone, Debug)]
pub struct Broker {
    pub product: &'static str,
    pub version: &'static str,
    pub mechanisms: &'static str,
    /// channel_max, frame_max, heartbeat.
    pub tune: (u16, u32, u16),
}

impl Default for Broker {
    fn default() -> Self {
        Self { product: "LavinMQ", version: "2.9.1", mechanisms: "PLAIN", tune: (2048, 131_072, 0) }
    }
}

/// What a channel's content may be next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    Method,
    Header,
    Body { missing: u64 },
}

/// The broker's end of one connection, and the rules that it holds its client to.
#[derive(Debug, Default)]
pub struct Peer {
    /// Whether there is a transport.
    pub up: bool,
    /// The session asked to dial, and nobody answered yet.
    pub dialling: bool,
    /// How often the session hung up.
    pub hang_ups: usize,
    /// Bytes that are no whole frame yet.
    pub partial: Vec<u8>,
    /// Bytes received on this transport.
    pub bytes: u64,
    pub(super) frames: VecDeque<Wrote>,
    /// Frames on channels that we are closing: a broker discards them.
    pub discarded: Vec<Wrote>,
    started: bool,
    frame_max: u32,
    /// Open channels, or being opened.
    channels: BTreeMap<u16, Due>,
    /// Channels that we closed, until close-ok.
    closing_by_us: BTreeSet<u16>,
    /// Channels that the client closed, until our close-ok.
    closing_by_client: BTreeSet<u16>,
    /// The client sent connection.close.
    client_closed: bool,
    /// The client sent connection.close-ok.
    client_closed_ok: bool,
}

impl Peer {
    pub(super) fn connected(&mut self) {
        *self = Self { up: true, hang_ups: self.hang_ups, frame_max: 8192, ..Self::default() };
    }

    /// Whether a publish was received that the test has not taken.
    pub fn frames_contain_publish(&self) -> bool {
        self.frames.iter().any(|frame| matches!(frame, Wrote::Publish { .. }))
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.partial.extend_from_slice(bytes);
        if !self.started {
            let Some(header) = self.partial.first_chunk::<8>() else { return };
            assert_eq!(*header, wire::PROTOCOL_HEADER, "a client begins with its protocol header");
            self.partial.drain(..8);
            self.started = true;
            self.frames.push_back(Wrote::ProtocolHeader);
        }
        let buffer = std::mem::take(&mut self.partial);
        let mut rest = &buffer[..];
        while let Some((frame, used)) =
            wire::decode(rest, self.frame_max).expect("a frame that the client may send")
        {
            self.frame(&frame);
            rest = &rest[used..];
        }
        self.partial = rest.to_vec();
    }

    fn frame(&mut self, frame: &wire::Frame<'_>) {
        let n = frame.channel;
        let wrote = match frame.kind {
            FrameKind::Heartbeat => {
                assert_eq!(n, 0, "a heartbeat is on channel 0");
                Wrote::Heartbeat
            }
            FrameKind::Method => match wire::decode_method(frame.payload).unwrap() {
                Method::Publish(publish) => Wrote::Publish {
                    channel: n,
                    exchange: String::from_utf8(publish.exchange().to_vec()).unwrap(),
                    routing_key: String::from_utf8(publish.routing_key().to_vec()).unwrap(),
                    mandatory: publish.mandatory,
                },
                Method::Ack(ack) => {
                    Wrote::Ack { channel: n, tag: ack.delivery_tag, multiple: ack.multiple }
                }
                Method::Nack(nack) => Wrote::Nack {
                    channel: n,
                    tag: nack.delivery_tag,
                    multiple: nack.multiple,
                    requeue: nack.requeue,
                },
                Method::Other(class) => Wrote::Method(n, *class),
                other => panic!("a client never sends {other:?}"),
            },
            FrameKind::Header => {
                let header = wire::decode_content_header(frame.payload).unwrap();
                let properties = header.properties.decode().unwrap();
                Wrote::Header { channel: n, size: header.body_size, properties }
            }
            FrameKind::Body => Wrote::Body(n, frame.payload.to_vec()),
        };
        self.judge(n, &wrote);
        if self.closing_by_us.contains(&n) {
            if matches!(
                &wrote,
                Wrote::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)))
            ) {
                self.closing_by_us.remove(&n);
                self.channels.remove(&n);
            } else {
                self.discarded.push(wrote);
                return;
            }
        }
        self.frames.push_back(wrote);
    }

    /// Whether the client may send this now (specification 2.2, 4.2.6).
    fn judge(&mut self, n: u16, wrote: &Wrote) {
        assert!(!self.client_closed_ok, "after connection.close-ok: {wrote:?}");
        if self.client_closed {
            assert!(
                matches!(
                    wrote,
                    Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))
                        | Wrote::Heartbeat
                ),
                "after connection.close: {wrote:?}"
            );
        }
        match wrote {
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                self.client_closed = true;
            }
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => {
                self.client_closed_ok = true;
            }
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(ok))) => {
                self.frame_max = ok.frame_max;
            }
            Wrote::Method(n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                let old = self.channels.insert(*n, Due::Method);
                assert_eq!(old, None, "channel {n} is opened although it is open");
                return;
            }
            Wrote::Heartbeat => return,
            _ => {}
        }
        if n == 0 {
            return;
        }
        let Some(due) = self.channels.get_mut(&n) else {
            panic!("on channel {n}, which is not open: {wrote:?}");
        };
        let close_ok =
            matches!(wrote, Wrote::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))));
        if self.closing_by_client.contains(&n) {
            assert!(close_ok, "after channel.close on channel {n}: {wrote:?}");
        }
        if close_ok {
            // The rest of a message may be missing: the channel is gone.
            if !self.closing_by_us.contains(&n) {
                panic!("channel.close-ok on channel {n}, which nobody closed");
            }
            return;
        }
        *due = match (*due, wrote) {
            (Due::Method, Wrote::Publish { .. }) => Due::Header,
            (Due::Method, Wrote::Ack { .. } | Wrote::Nack { .. } | Wrote::Method(..)) => {
                Due::Method
            }
            (Due::Header, Wrote::Header { size: 0, .. }) => Due::Method,
            (Due::Header, Wrote::Header { size, .. }) => Due::Body { missing: *size },
            (Due::Body { missing }, Wrote::Body(_, bytes)) => {
                assert!(!bytes.is_empty(), "an empty body frame on channel {n}");
                match missing.checked_sub(bytes.len() as u64).expect("more body than announced") {
                    0 => Due::Method,
                    missing => Due::Body { missing },
                }
            }
            (due, wrote) => panic!("on channel {n}, where {due:?} is due: {wrote:?}"),
        };
        if matches!(wrote, Wrote::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(_)))) {
            self.closing_by_client.insert(n);
        }
    }

    /// What this peer sends changes what the client may send next.
    pub fn note_reply(&mut self, n: u16, class: &AMQPClass) {
        match class {
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                self.closing_by_us.insert(n);
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                self.closing_by_client.remove(&n);
                self.channels.remove(&n);
            }
            _ => {}
        }
    }
}
