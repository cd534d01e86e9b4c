//! The broker as a state machine: no sockets, no clock, no threads, no randomness of its own.
//!
//! Read this file for the contract. `handshake` opens connections, `frames` takes frames apart and
//! closes things, `declare`, `publish` and `consume` are the methods, `control` is what tests ask for.

mod arguments;
mod channel;
mod connection;
mod consume;
mod control;
mod declare;
mod exchange;
mod facts;
mod frames;
mod handshake;
mod log;
mod publish;
mod queue;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use amq_protocol::protocol::AMQPClass;
use lavinmq_core::time::Time;

pub use control::{ConnectionInfo, Counters, Enqueued, StoredMessage};
pub use facts::{Fact, Lost};
pub use log::Logged;
pub use settings::Settings;

use self::{
    connection::{Connection, Phase},
    control::Controls,
    exchange::{Exchange, Kind},
    log::Logs,
    queue::{Queue, QueueId},
};
use crate::{
    personality::{Ending, Personality},
    random::Random,
};

/// How long a connection that was closed may take to accept what is still to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// A connection. Never used twice in the life of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

impl ConnId {
    /// The number itself, counted from 0.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Many connections over one set of queues and exchanges, as a pure state machine.
///
/// [`Broker`](crate::Broker) serves it over TCP. A simulator drives it itself:
///
/// 1. [`connect`](Self::connect) when a transport was opened; [`receive`](Self::receive) when bytes
///    arrived (as long as [`wants_input`](Self::wants_input)); [`disconnect`](Self::disconnect) when the
///    transport is gone, whoever ended it; [`tick`](Self::tick) at
///    [`next_deadline`](Self::next_deadline).
/// 2. After each of these, and after each control: [`poll_changed`](Self::poll_changed) until it is
///    `None`, and for each connection it names: write its [`output`](Self::output), reporting progress
///    by [`consume_output`](Self::consume_output); end the transport once [`ending`](Self::ending) says
///    so, and then call `disconnect`.
///
/// The same calls with the same seed give the same bytes. Times must not go backwards (an earlier time
/// counts as the latest one seen).
///
/// A connection's pending output is bounded for deliveries: over
/// [`Settings::output_limit`] nothing more is delivered to it, and over twice that, nothing is read from
/// it.
///
/// All virtual hosts share one set of queues and exchanges.
#[derive(Debug)]
pub struct BrokerState {
    settings: Settings,
    now: Time,
    random: Random,
    connections: BTreeMap<ConnId, Connection>,
    next_connection: u64,
    next_consumer: u64,
    next_queue: u64,
    queues: BTreeMap<QueueId, Queue>,
    queue_names: BTreeMap<Arc<str>, QueueId>,
    exchanges: BTreeMap<Arc<str>, Exchange>,
    /// Why publishers are stopped, if they are.
    blocked: Option<String>,
    controls: Controls,
    counters: Counters,
    logs: Logs,
    /// What happened, if it is recorded.
    facts: Option<Vec<Fact>>,
    /// Connections whose output, wish for input or ending changed.
    changed: Vec<ConnId>,
    /// Queues that may have something to deliver.
    dirty: BTreeSet<QueueId>,
    /// When confirms that were put off are to be sent.
    confirms_due: Option<Time>,
}

impl BrokerState {
    /// A broker without queues or connections, with default settings.
    #[must_use]
    pub fn new(personality: Personality, seed: u64) -> Self {
        Self::with_settings(Settings::new(personality), seed)
    }

    /// A broker without queues or connections.
    #[must_use]
    pub fn with_settings(settings: Settings, seed: u64) -> Self {
        let exchanges = [
            ("amq.direct", Kind::Direct),
            ("amq.fanout", Kind::Fanout),
            ("amq.topic", Kind::Topic),
            ("amq.headers", Kind::Headers),
            ("amq.match", Kind::Headers),
        ];
        Self {
            settings,
            now: Time::ZERO,
            random: Random::new(seed),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_consumer: 0,
            next_queue: 0,
            queues: BTreeMap::new(),
            queue_names: BTreeMap::new(),
            exchanges: exchanges
                .into_iter()
                .map(|(name, kind)| (Arc::from(name), Exchange::predeclared(kind)))
                .collect(),
            blocked: None,
            controls: Controls::default(),
            counters: Counters::default(),
            logs: Logs::default(),
            facts: None,
            changed: Vec::new(),
            dirty: BTreeSet::new(),
            confirms_due: None,
        }
    }

    /// A transport was opened.
    pub fn connect(&mut self, now: Time) -> ConnId {
        self.advance(now);
        let id = ConnId(self.next_connection);
        self.next_connection += 1;
        self.counters.connections += 1;
        self.connections.insert(id, Connection::new(self.now));
        id
    }

    /// Bytes arrived. Bytes for a connection that [wants none](Self::wants_input) are kept until it
    /// does; those for one that is over are discarded.
    pub fn receive(&mut self, id: ConnId, bytes: &[u8], now: Time) {
        self.advance(now);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.last_received = self.now;
        if connection.phase == Phase::Over {
            return;
        }
        connection.input.extend_from_slice(bytes);
        self.process_input(id);
    }

    /// Whether the transport should be read. Not while an alarm blocks the connection (RabbitMQ stops
    /// reading the socket), nor while its output is not taken.
    #[must_use]
    pub fn wants_input(&self, id: ConnId) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            !connection.blocked && connection.output.len() <= self.settings.output_limit * 2
        })
    }

    /// A connection whose output, wish for input or ending changed since it was last polled; none twice.
    pub fn poll_changed(&mut self) -> Option<ConnId> {
        while let Some(id) = self.changed.pop() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.announced = false;
                return Some(id);
            }
        }
        None
    }

    /// The bytes to write to the transport. Empty for a connection that is gone.
    #[must_use]
    pub fn output(&self, id: ConnId) -> &[u8] {
        self.connections.get(&id).map(|connection| connection.output.pending()).unwrap_or_default()
    }

    /// The transport took the first `n` bytes of the output.
    pub fn consume_output(&mut self, id: ConnId, n: usize, now: Time) {
        self.advance(now);
        self.after_output(id, |connection| connection.output.consume(n));
    }

    /// Takes all output, replacing what `into` held; for writing it while others use the state. It counts
    /// as pending until [`output_written`](Self::output_written) reports it.
    pub fn take_output(&mut self, id: ConnId, into: &mut Vec<u8>) {
        into.clear();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.output.take(into);
        }
    }

    /// The transport took `n` of the bytes that were taken.
    pub fn output_written(&mut self, id: ConnId, n: usize, now: Time) {
        self.advance(now);
        self.after_output(id, |connection| connection.output.written(n));
    }

    /// Whether, and how, the transport is to be ended now. That is the case when the connection is over
    /// and its output written, or its output was not taken for 5 s.
    #[must_use]
    pub fn ending(&self, id: ConnId) -> Option<Ending> {
        let connection = self.connections.get(&id)?;
        let (due, ending) = connection.ending?;
        let flushed = connection.output.len() == 0;
        (due <= self.now && (flushed || due + FLUSH <= self.now)).then_some(ending)
    }

    /// The transport is gone: what was delivered and not settled goes back to its queues, consumers end,
    /// exclusive queues are deleted.
    pub fn disconnect(&mut self, id: ConnId, now: Time) {
        self.advance(now);
        self.note_lost(id);
        self.release_connection(id);
        self.connections.remove(&id);
        self.dispatch();
    }

    /// Time passed: heartbeats, silence, expiry.
    pub fn tick(&mut self, now: Time) {
        self.advance(now);
        for id in self.connection_ids() {
            self.check_liveness(id);
        }
        let mut expired = 0;
        for queue in self.queues.values_mut() {
            expired += queue.expire(self.now);
        }
        self.counters.expired += expired;
        if self.confirms_due.is_some_and(|due| due <= self.now) {
            self.confirms_due = None;
            self.send_all_confirms();
        }
        self.dispatch();
    }

    /// When [`tick`](Self::tick) is next needed; possibly a time that has passed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let (silence, _) = self.settings.personality.silence();
        let connections = self.connections.values().flat_map(|connection| {
            [connection.heartbeat_due(), connection.silence_due(silence), connection.ending_check]
        });
        let queues = self.queues.values().map(Queue::next_expiry);
        connections.chain(queues).chain([self.confirms_due]).flatten().min()
    }

    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn connection_ids(&self) -> Vec<ConnId> {
        self.connections.keys().copied().collect()
    }

    /// Appends one method frame to a connection's output.
    fn send(&mut self, id: ConnId, channel: u16, method: &AMQPClass) {
        if self.controls.hold_replies && channel != 0 && frames::is_reply(method) {
            let mut frame = Vec::new();
            frames::put_method(&mut frame, channel, method);
            self.controls.held_replies.push((id, frame));
            return;
        }
        self.write(id, |out| frames::put_method(out, channel, method));
    }

    /// Appends to a connection's output, unless it is over.
    fn write(&mut self, id: ConnId, put: impl FnOnce(&mut Vec<u8>)) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.phase != Phase::Over
        {
            put(connection.output.buffer());
            connection.last_sent = self.now;
            announce(&mut self.changed, id, connection);
        }
    }

    fn announce(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            announce(&mut self.changed, id, connection);
        }
    }

    /// Output left: where deliveries had stopped because there was too much of it, they go on.
    fn after_output(&mut self, id: ConnId, progress: impl FnOnce(&mut Connection)) {
        let limit = self.settings.output_limit;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = connection.output.len();
        progress(connection);
        let after = connection.output.len();
        let over = connection.ending.is_some() && after == 0;
        let reads_again = before > limit * 2 && after <= limit * 2;
        if before >= limit && after < limit {
            let queues = connection.channels.values().flat_map(|channel| &channel.consumers);
            self.dirty.extend(queues.map(|consumer| consumer.queue));
        }
        if over || reads_again {
            announce(&mut self.changed, id, connection);
        }
        self.dispatch();
    }

    /// Sends a heartbeat if one is due, and gives up a client that was silent for too long.
    fn check_liveness(&mut self, id: ConnId) {
        let (half_intervals, ending) = self.settings.personality.silence();
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.heartbeat_due().is_some_and(|due| due <= now) {
            self.write(id, frames::put_heartbeat);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.silence_due(half_intervals).is_some_and(|due| due <= now) {
            connection.phase = Phase::Over;
            connection.end_at(now, ending);
            // A client that is dead takes no output either.
            connection.output = connection::Output::default();
        }
        if let Some(check) = connection.ending_check
            && check <= now
        {
            // Looked at when it is due, and again when the output had its time.
            let due = connection.ending.map(|(due, _)| due);
            connection.ending_check = (due == Some(check)).then_some(check + FLUSH);
            announce(&mut self.changed, id, connection);
        }
    }
}

fn announce(changed: &mut Vec<ConnId>, id: ConnId, connection: &mut Connection) {
    if !connection.announced {
        connection.announced = true;
        changed.push(id);
    }
}
