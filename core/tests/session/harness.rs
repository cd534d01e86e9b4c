//! A session, the peers that it talks to, and a clock that moves only when told to.
//!
//! [`Stage`] drives the session as strictly as it allows: ticks come at its deadlines and at no other
//! time, and every frame that it writes must be taken by the test. A [`Peer`] holds what it received
//! against the rules that any broker holds its clients to.

#![allow(unused_imports, dead_code, reason = "a vocabulary: not every suite uses every word")]

pub use std::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::IoSlice,
    sync::Arc,
};

pub use amq_protocol::{
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};
use lavinmq_core::wire::{FrameKind, Method};
pub use lavinmq_core::{
    DropReason, Event, Message, Properties, State, Verdict,
    config::{Config, ProducerConfig, PublishMode, QueueConfig},
    consume::Batch,
    error::{DeclareError, Loss},
    event::DeadlineReason,
    ids::{ConnectionId, ConsumerId, ProducerId, RequestId},
    session::{Action, ProducerUpdate, Session, SessionEvent},
    stats::ProducerStats,
    time::Time,
    wire,
};

/// The connection that publishes.
pub const PUB: usize = 0;
/// The connection that consumes and declares, where there are two.
pub const CON: usize = 1;
/// The connection of the no-ack consumers.
pub const NOACK: usize = 2;

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
    frames: VecDeque<Wrote>,
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
    fn connected(&mut self) {
        *self = Self { up: true, hang_ups: self.hang_ups, frame_max: 8192, ..Self::default() };
    }

    /// Whether a publish was received that the test has not taken.
    pub fn frames_contain_publish(&self) -> bool {
        self.frames.iter().any(|frame| matches!(frame, Wrote::Publish { .. }))
    }

    fn take(&mut self, bytes: &[u8]) {
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

/// A session among its peers.
#[derive(Debug)]
pub struct Stage {
    pub session: Session,
    pub now: Time,
    pub peers: Vec<Peer>,
    ids: Vec<ConnectionId>,
    /// Bytes go to the session in pieces of at most so many.
    pub chunk: usize,
    /// Transports that take nothing: their peers do not read.
    pub stalled: BTreeSet<usize>,
    /// Transports whose writes are not flushed by themselves (TLS).
    pub unflushed: BTreeSet<usize>,
    events: VecDeque<SessionEvent>,
    pub batches: Vec<(ConsumerId, Arc<Batch>)>,
    updates: BTreeMap<ProducerId, ProducerUpdate>,
    /// How many messages left each producer's buffer, over all updates.
    pub left: BTreeMap<ProducerId, u64>,
}

/// A session's settings for tests: no heartbeats and no jitter, unless the test is about them.
pub fn config() -> Config {
    let mut config = Config::default();
    config.heartbeat = Duration::ZERO;
    config.backoff.jitter = false;
    config
}

pub const MS: Duration = Duration::from_millis(1);
pub const SEC: Duration = Duration::from_secs(1);

impl Stage {
    /// A session that dials, and no peer that answers yet.
    pub fn new(config: Config) -> Self {
        Self::with_retry(config, false)
    }

    /// The same, where `retry_first` says whether a failed first connect ends it.
    pub fn with_retry(config: Config, retry_first: bool) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let session = Session::new(config, retry_first, [7; 32], now);
        let ids: Vec<_> = session.connections().collect();
        let mut stage = Self {
            session,
            now,
            peers: ids.iter().map(|_| Peer::default()).collect(),
            ids,
            chunk: usize::MAX,
            stalled: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            events: VecDeque::new(),
            batches: Vec::new(),
            updates: BTreeMap::new(),
            left: BTreeMap::new(),
        };
        stage.pump();
        stage
    }

    /// A session whose connections stand, by a broker that has no limits to speak of.
    pub fn connected(config: Config) -> Self {
        let mut stage = Self::new(config);
        for c in 0..stage.ids.len().min(2) {
            stage.accept(c, &Broker::default());
        }
        assert!(stage.take_events(|event| matches!(event, SessionEvent::Ready)).len() == 1);
        stage.states();
        stage
    }

    pub fn id(&self, c: usize) -> ConnectionId {
        self.ids[c]
    }

    // ---- the run loop ------------------------------------------------------------------------

    /// Drains every output of the session.
    pub fn pump(&mut self) {
        loop {
            self.drain();
            let writable = (0..self.ids.len()).filter(|c| !self.stalled.contains(c));
            let written: usize =
                writable.collect::<Vec<_>>().into_iter().map(|c| self.write(c, usize::MAX)).sum();
            if written == 0 {
                return;
            }
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Dial { connection, .. } => {
                    let peer = &mut self.peers[connection.get() as usize];
                    assert!(!peer.dialling && !peer.up, "{connection} is dialled twice");
                    peer.dialling = true;
                }
                Action::HangUp { connection } => {
                    let peer = &mut self.peers[connection.get() as usize];
                    assert!(peer.dialling || peer.up, "{connection} is hung up twice");
                    peer.dialling = false;
                    peer.up = false;
                    peer.hang_ups += 1;
                }
                other => panic!("an unknown action: {other:?}"),
            }
        }
        while let Some(event) = self.session.poll_event() {
            // The same is in `Settled`, which tests look at.
            if !matches!(event, SessionEvent::Event(Event::NotConfirmed { .. })) {
                self.events.push_back(event);
            }
        }
        while let Some(batch) = self.session.poll_batch() {
            self.batches.push(batch);
        }
        while let Some(update) = self.session.poll_producer() {
            *self.left.entry(update.producer).or_default() += update.left;
            self.updates.insert(update.producer, update);
        }
        let stats = self.session.stats();
        assert!(stats.is_conserved(), "the conservation law is broken: {stats:#?}");
    }

    /// The transport takes at most `most` bytes of what the session has; how many it took.
    pub fn write(&mut self, c: usize, most: usize) -> usize {
        let mut total = 0;
        while total < most && self.peers[c].up {
            let mut slices = [IoSlice::new(&[]); 16];
            let used = self.session.transmit(self.ids[c], &mut slices);
            let mut bytes = Vec::new();
            for slice in &slices[..used] {
                let room = most - total - bytes.len();
                bytes.extend_from_slice(&slice[..slice.len().min(room)]);
            }
            if bytes.is_empty() {
                break;
            }
            total += bytes.len();
            self.peers[c].take(&bytes);
            let last = !self.unflushed.contains(&c);
            self.session.handle_written(self.ids[c], bytes.len(), last, self.now);
            self.drain();
        }
        total
    }

    /// How many bytes the session would write now.
    pub fn pending(&mut self, c: usize) -> usize {
        let mut slices = [IoSlice::new(&[]); 64];
        let used = self.session.transmit(self.ids[c], &mut slices);
        slices[..used].iter().map(|slice| slice.len()).sum()
    }

    /// Everything that the transport took is written (TLS).
    pub fn flush(&mut self, c: usize) {
        self.session.handle_flushed(self.ids[c], self.now);
        self.pump();
    }

    /// The peer's bytes reach the session, in pieces of `chunk`. Returns how many it would read.
    pub fn feed(&mut self, c: usize, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && self.peers[c].up {
            let space = self.session.receive_buffer(self.ids[c]);
            let n = space.len().min(rest.len()).min(self.chunk);
            if n == 0 {
                break;
            }
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            self.session.handle_received(self.ids[c], n, self.now);
            self.drain();
        }
        self.pump();
        bytes.len() - rest.len()
    }

    /// Time passes: the session is ticked at its deadlines and at no other time.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(deadline) = self.session.poll_deadline()
            && deadline.at <= until
        {
            self.now = self.now.max(deadline.at);
            self.session.handle_tick(self.now);
            self.pump();
            let next = self.session.poll_deadline();
            assert!(next.as_ref() != Some(&deadline), "{deadline:?} is due again at once");
        }
        self.now = until;
    }

    /// Time passes up to the next deadline of this kind, and no further. (One that falls together
    /// with an earlier one to the nanosecond goes unseen: keep them apart.)
    pub fn until_reason(&mut self, reason: DeadlineReason) {
        for _ in 0..100 {
            let deadline = self.session.poll_deadline().expect("a deadline");
            self.advance(deadline.at - self.now);
            if deadline.reason == reason {
                return;
            }
        }
        panic!("{reason:?} does not come: {}", self.session.explain(self.now));
    }

    /// Time passes, and nobody ticks the session.
    pub fn sleep(&mut self, by: Duration) {
        self.now += by;
    }

    // ---- transports --------------------------------------------------------------------------

    /// The transport opens.
    pub fn connect(&mut self, c: usize) {
        assert!(self.peers[c].dialling, "connection {c} was not dialled");
        self.peers[c].connected();
        self.session.handle_connected(self.ids[c], self.now);
        self.pump();
    }

    /// The transport breaks; what the session has not written by now is lost.
    pub fn cut(&mut self, c: usize) {
        self.cut_by(c, Loss::Eof);
    }

    pub fn cut_by(&mut self, c: usize, loss: Loss) {
        let peer = &mut self.peers[c];
        assert!(peer.up || peer.dialling, "connection {c} is down already");
        peer.up = false;
        peer.dialling = false;
        self.stalled.remove(&c);
        self.session.handle_disconnected(self.ids[c], loss, self.now);
        self.pump();
    }

    /// The whole handshake of a connection that is being dialled.
    pub fn accept(&mut self, c: usize, broker: &Broker) {
        self.connect(c);
        assert_eq!(self.next(c), Wrote::ProtocolHeader);
        self.start(c, broker);
        self.expect_start_ok(c);
        let (channel_max, frame_max, heartbeat) = broker.tune;
        let tune = connection::Tune { channel_max, frame_max, heartbeat };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
        self.expect_tune_ok(c);
        self.expect_connection_open(c);
        self.open_ok(c);
    }

    pub fn start(&mut self, c: usize, broker: &Broker) {
        let mut properties = FieldTable::default();
        properties.insert("product".into(), AMQPValue::LongString(broker.product.into()));
        properties.insert("version".into(), AMQPValue::LongString(broker.version.into()));
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: broker.mechanisms.into(),
            locales: "en_US".into(),
        };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Start(start)));
    }

    pub fn open_ok(&mut self, c: usize) {
        let ok = connection::OpenOk {};
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(ok)));
    }

    pub fn expect_start_ok(&mut self, c: usize) -> connection::StartOk {
        match self.next(c) {
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(ok))) => ok,
            other => panic!("start-ok is due: {other:?}"),
        }
    }

    pub fn expect_tune_ok(&mut self, c: usize) -> connection::TuneOk {
        match self.next(c) {
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(ok))) => ok,
            other => panic!("tune-ok is due: {other:?}"),
        }
    }

    pub fn expect_connection_open(&mut self, c: usize) -> String {
        match self.next(c) {
            Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::Open(open))) => {
                open.virtual_host.as_str().to_owned()
            }
            other => panic!("connection.open is due: {other:?}"),
        }
    }

    // ---- what the session wrote --------------------------------------------------------------

    /// The next frame that the session wrote.
    pub fn next(&mut self, c: usize) -> Wrote {
        self.pump();
        match self.peers[c].frames.pop_front() {
            Some(frame) => frame,
            None => {
                panic!("connection {c}: nothing was written\n{}", self.session.explain(self.now))
            }
        }
    }

    /// Whether the session has written something that the test has not taken.
    pub fn has_frames(&mut self, c: usize) -> bool {
        self.pump();
        !self.peers[c].frames.is_empty()
    }

    /// The session has written nothing that the test has not taken: neither frames nor parts.
    pub fn silent(&mut self) {
        self.pump();
        for (c, peer) in self.peers.iter().enumerate() {
            assert!(peer.frames.is_empty(), "connection {c}: unexpected {:?}", peer.frames);
            assert!(
                !peer.up || peer.partial.is_empty() || self.stalled.contains(&c),
                "connection {c}: half a frame"
            );
        }
    }

    /// The same, but for one connection.
    pub fn silent_but(&mut self, but: usize) {
        self.pump();
        for (c, peer) in self.peers.iter().enumerate().filter(|&(c, _)| c != but) {
            assert!(peer.frames.is_empty(), "connection {c}: unexpected {:?}", peer.frames);
        }
    }

    /// Nothing is left unexpected, and the law holds: the end of a test.
    pub fn finish(mut self) {
        self.silent();
        assert!(self.session.stats().is_conserved(), "{:#?}", self.session.stats());
    }

    pub fn expect_method(&mut self, c: usize) -> (u16, AMQPClass) {
        match self.next(c) {
            Wrote::Method(n, class) => (n, class),
            other => panic!("a method is due: {other:?}"),
        }
    }

    /// `channel.open`; the number.
    pub fn expect_channel_open(&mut self, c: usize) -> u16 {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => n,
            other => panic!("channel.open is due: {other:?}"),
        }
    }

    /// `channel.close`; the number and the reply code.
    pub fn expect_channel_close(&mut self, c: usize) -> (u16, u16) {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => (n, close.reply_code),
            other => panic!("channel.close is due: {other:?}"),
        }
    }

    pub fn expect_channel_close_ok(&mut self, c: usize, channel: u16) {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => assert_eq!(n, channel),
            other => panic!("channel.close-ok is due: {other:?}"),
        }
    }

    /// `connection.close`; the reply code.
    pub fn expect_close(&mut self, c: usize) -> u16 {
        match self.expect_method(c) {
            (0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => close.reply_code,
            other => panic!("connection.close is due: {other:?}"),
        }
    }

    pub fn expect_close_ok(&mut self, c: usize) {
        match self.expect_method(c) {
            (0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => {}
            other => panic!("connection.close-ok is due: {other:?}"),
        }
    }

    pub fn expect_declare(&mut self, c: usize) -> (u16, queue::Declare) {
        match self.expect_method(c) {
            (n, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))) => (n, declare),
            other => panic!("queue.declare is due: {other:?}"),
        }
    }

    /// One whole publish: method, header, body.
    pub fn expect_publish(&mut self, c: usize) -> Copy {
        let Wrote::Publish { channel, exchange, routing_key, mandatory } = self.next(c) else {
            panic!("basic.publish is due");
        };
        let Wrote::Header { size, properties, .. } = self.next(c) else {
            panic!("a content header is due");
        };
        let (mut body, mut chunks) = (Vec::new(), Vec::new());
        while (body.len() as u64) < size {
            match self.next(c) {
                Wrote::Body(n, bytes) if n == channel => {
                    chunks.push(bytes.len());
                    body.extend(bytes);
                }
                other => panic!("a body frame is due: {other:?}"),
            }
        }
        Copy { channel, exchange, routing_key, mandatory, properties, body, chunks }
    }

    /// A publish whose channel was closed before it was whole.
    pub fn expect_publish_begun(&mut self, c: usize) {
        assert!(matches!(self.next(c), Wrote::Publish { .. }));
        while matches!(self.peers[c].frames.front(), Some(Wrote::Header { .. } | Wrote::Body(..))) {
            self.next(c);
        }
    }

    /// One whole publish with methods of other kinds between its frames, as long as they are on
    /// other channels or the peer tolerates them.
    pub fn expect_publish_around(&mut self, c: usize, mut other: impl FnMut(&AMQPClass)) -> Copy {
        self.pump();
        let mut kept = VecDeque::new();
        for frame in self.peers[c].frames.drain(..) {
            match frame {
                Wrote::Method(_, class) => other(&class),
                frame => kept.push_back(frame),
            }
        }
        self.peers[c].frames = kept;
        self.expect_publish(c)
    }

    /// Publishes with these bodies, in this order, and nothing else on this connection.
    pub fn expect_publishes(&mut self, c: usize, bodies: &[&str]) -> Vec<Copy> {
        let copies: Vec<_> = bodies.iter().map(|_| self.expect_publish(c)).collect();
        let seen: Vec<_> = copies.iter().map(Copy::text).collect();
        assert_eq!(seen, bodies);
        copies
    }

    // ---- what the peer says ------------------------------------------------------------------

    /// The peer sends a method.
    pub fn reply(&mut self, c: usize, channel: u16, class: AMQPClass) {
        self.peers[c].note_reply(channel, &class);
        let mut bytes = Vec::new();
        wire::put_method(&mut bytes, channel, &class).unwrap();
        self.feed(c, &bytes);
    }

    pub fn channel_open_ok(&mut self, c: usize, channel: u16) {
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
    }

    pub fn select_ok(&mut self, c: usize, channel: u16) {
        let ok = confirm::SelectOk {};
        self.reply(c, channel, AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(ok)));
    }

    /// The peer closes the channel over `method`.
    pub fn close_channel(
        &mut self,
        c: usize,
        channel: u16,
        code: u16,
        text: &str,
        method: (u16, u16),
    ) {
        let close = channel::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
    }

    pub fn channel_close_ok(&mut self, c: usize, channel: u16) {
        let ok = channel::CloseOk {};
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::CloseOk(ok)));
    }

    /// The peer closes the connection over `method`.
    pub fn close(&mut self, c: usize, code: u16, text: &str, method: (u16, u16)) {
        let close = connection::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    }

    pub fn close_ok(&mut self, c: usize) {
        let ok = connection::CloseOk {};
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(ok)));
    }

    pub fn blocked(&mut self, c: usize, reason: &str) {
        let blocked = connection::Blocked { reason: reason.into() };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
    }

    pub fn unblocked(&mut self, c: usize) {
        let unblocked = connection::Unblocked {};
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Unblocked(unblocked)));
    }

    pub fn declare_ok(&mut self, c: usize, channel: u16, name: &str) {
        let ok = queue::DeclareOk { queue: name.into(), message_count: 0, consumer_count: 0 };
        self.reply(c, channel, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
    }

    pub fn ack(&mut self, c: usize, channel: u16, tag: u64, multiple: bool) {
        let mut bytes = Vec::new();
        wire::put_ack(&mut bytes, channel, tag, multiple);
        self.feed(c, &bytes);
    }

    pub fn nack(&mut self, c: usize, channel: u16, tag: u64, multiple: bool) {
        let mut bytes = Vec::new();
        wire::put_nack(&mut bytes, channel, tag, multiple, false);
        self.feed(c, &bytes);
    }

    /// The peer returns a message that no queue wants.
    pub fn give_back(&mut self, c: usize, copy: &Copy) {
        let bytes = returned(copy, 312, "NO_ROUTE");
        self.feed(c, &bytes);
    }

    // ---- the application ---------------------------------------------------------------------

    pub fn open_producer(&mut self, config: ProducerConfig) -> ProducerId {
        let producer = self.session.open_producer(config, self.now).unwrap();
        self.pump();
        producer
    }

    /// A producer to the queue of this name, every outcome reported.
    pub fn producer(&mut self, queue: &str, mode: PublishMode) -> ProducerId {
        self.open_producer(to_queue(queue, mode))
    }

    /// A confirm producer whose channel stands; its channel.
    pub fn confirming(&mut self, queue: &str) -> (ProducerId, u16) {
        self.warmed_up(to_queue(queue, PublishMode::Confirm))
    }

    /// A fire-and-forget producer whose channel stands; its channel.
    pub fn forgetting(&mut self, queue: &str) -> (ProducerId, u16) {
        self.warmed_up(to_queue(queue, PublishMode::FireAndForget))
    }

    /// A producer whose channel stands: channels open with the first message, which is settled here
    /// (so that the next one is number 2 on the channel, and number 2 of the producer).
    pub fn warmed_up(&mut self, config: ProducerConfig) -> (ProducerId, u16) {
        let mode = config.mode;
        let producer = self.open_producer(config);
        self.publish(producer, "warm-up");
        let channel = self.accept_lane(PUB, mode);
        self.expect_publishes(PUB, &["warm-up"]);
        if mode == PublishMode::Confirm {
            self.ack(PUB, channel, 1, false);
        }
        self.outcomes();
        (producer, channel)
    }

    /// The peer lets the session open a channel to publish on; its number.
    pub fn accept_lane(&mut self, c: usize, mode: PublishMode) -> u16 {
        let channel = self.expect_channel_open(c);
        self.channel_open_ok(c, channel);
        if mode == PublishMode::Confirm {
            match self.expect_method(c) {
                (n, AMQPClass::Confirm(confirm::AMQPMethod::Select(select))) => {
                    assert_eq!((n, select.nowait), (channel, false));
                }
                other => panic!("confirm.select is due: {other:?}"),
            }
            self.select_ok(c, channel);
        }
        channel
    }

    pub fn declare(&mut self, config: QueueConfig) -> RequestId {
        let request = self.session.declare_queue(config, self.now).unwrap();
        self.pump();
        request
    }

    /// The answers to declarations told since the last call: the queue's name, or the error.
    pub fn declared(&mut self) -> Vec<(RequestId, Result<String, DeclareError>)> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Declared { .. }));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Declared { request, result } => {
                (request, result.map(|queue| queue.name.to_string()))
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// Declares a queue on the consuming connection, and the peer agrees. The control channel's
    /// number, which the first declaration opens.
    pub fn declare_now(&mut self, config: QueueConfig, name: &str) -> (RequestId, u16) {
        let request = self.declare(config);
        let (n, class) = self.expect_method(CON);
        let channel = match class {
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                self.channel_open_ok(CON, n);
                self.expect_declare(CON).0
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(_)) => n,
            other => panic!("queue.declare is due: {other:?}"),
        };
        self.declare_ok(CON, channel, name);
        assert_eq!(self.declared(), [(request, Ok(name.to_owned()))]);
        (request, channel)
    }

    pub fn publish(&mut self, producer: ProducerId, message: impl Into<Message>) -> u64 {
        let sequence = self.session.publish(producer, message.into(), self.now).unwrap();
        self.pump();
        sequence
    }

    pub fn stats(&self, producer: ProducerId) -> ProducerStats {
        self.session.producer_stats(producer).unwrap()
    }

    /// The latest update about a producer.
    pub fn update(&self, producer: ProducerId) -> ProducerUpdate {
        self.updates[&producer]
    }

    /// Takes the events that `wanted` picks.
    pub fn take_events(&mut self, wanted: impl Fn(&SessionEvent) -> bool) -> Vec<SessionEvent> {
        self.pump();
        let (taken, kept) = self.events.drain(..).partition(wanted);
        self.events = kept;
        taken.into_iter().collect::<Vec<_>>()
    }

    /// The outcomes told since the last call: `None` is confirmed.
    pub fn outcomes(&mut self) -> Vec<(ProducerId, u64, Option<Verdict>)> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Settled { .. }));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Settled { producer, settled } => {
                (producer, settled.sequence, settled.verdict)
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// The outcomes of one producer's messages told since the last call, by sequence number.
    pub fn verdicts(&mut self) -> Vec<(u64, Option<Verdict>)> {
        self.outcomes().into_iter().map(|(_, sequence, verdict)| (sequence, verdict)).collect()
    }

    /// The client's states told since the last call.
    pub fn states(&mut self) -> Vec<State> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Event(Event::State(_))));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Event(Event::State(state)) => state,
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// Other events told since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let told = self.take_events(|event| {
            matches!(event, SessionEvent::Event(event) if !matches!(event, Event::State(_)))
        });
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Event(event) => event,
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    pub fn is_closed(&mut self) -> bool {
        self.pump();
        self.session.is_closed()
    }
}

/// A producer's settings to the queue of this name, where confirms are reported, too.
pub fn to_queue(queue: &str, mode: PublishMode) -> ProducerConfig {
    let mut config = ProducerConfig::new("", queue, mode).unwrap();
    config.report_confirmed = true;
    config
}

/// A producer's settings to an exchange.
pub fn to_exchange(exchange: &str, key: &str, mode: PublishMode) -> ProducerConfig {
    let mut config = ProducerConfig::new(exchange, key, mode).unwrap();
    config.report_confirmed = true;
    config
}

/// `queue.declare` of a durable queue.
pub fn declare(name: &str) -> queue::Declare {
    queue::Declare { queue: name.into(), durable: true, ..queue::Declare::default() }
}

/// The frames of `basic.return` for this copy.
pub fn returned(copy: &Copy, code: u16, text: &str) -> Vec<u8> {
    let method = basic::Return {
        reply_code: code,
        reply_text: text.into(),
        exchange: copy.exchange.as_str().into(),
        routing_key: copy.routing_key.as_str().into(),
    };
    let mut bytes = Vec::new();
    let class = AMQPClass::Basic(basic::AMQPMethod::Return(method));
    wire::put_method(&mut bytes, copy.channel, &class).unwrap();
    wire::put_content_header(&mut bytes, copy.channel, copy.body.len() as u64, &copy.properties);
    wire::put_body(&mut bytes, copy.channel, &copy.body, 131_072);
    bytes
}

/// `count` messages' bodies: "1", "2", …
pub fn bodies(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}
