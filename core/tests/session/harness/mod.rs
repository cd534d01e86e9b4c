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

mod application;
mod broker;
mod peer;

pub use amq_protocol::{
    protocol::{AMQPClass, basic, channel, confirm, connection, queue},
    types::{AMQPValue, FieldTable},
};
pub use lavinmq_core::{
    DropReason, Event, Message, Properties, State, Verdict,
    config::{Config, ProducerConfig, PublishMode, QueueConfig},
    consume::Batch,
    error::{DeclareError, Loss},
    event::DeadlineReason,
    ids::{ConnectionId, ConsumerId, ProducerId, RequestId},
    publish::Accepted,
    session::{Action, ProducerUpdate, Session, SessionEvent},
    stats::ProducerStats,
    time::Time,
    wire,
};

pub use application::{to_exchange, to_queue};
pub use broker::{declare, returned};
pub use peer::{Broker, Copy, Peer, Wrote};

/// The connection that publishes.
pub const PUB: usize = 0;
/// The connection that consumes and declares, where there are two.
pub const CON: usize = 1;
/// The connection of the no-ack consumers.
pub const NOACK: usize = 2;

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
    /// Messages that a hand-over offered and accepted: the session counts the latter alone.
    handed_over: u64,
    /// Where in memory the bytes lay that the transports took: address and length of each piece.
    pub taken: Vec<(usize, usize)>,
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
            handed_over: 0,
            taken: Vec::new(),
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
        let mut stats = self.session.stats();
        stats.publish.offered += self.handed_over;
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
                let taken = slice.len().min(most - total - bytes.len());
                if taken > 0 {
                    self.taken.push((slice.as_ptr().addr(), taken));
                }
                bytes.extend_from_slice(&slice[..taken]);
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
}
