//! The facade: a pure state machine for everything that outlives one connection.

pub mod api;
mod appended;
mod channels;
mod closing;
mod confirming;
mod connecting;
mod consuming;
mod declaring;
mod dependents;
mod explain;
mod inbound;
mod lanes;
#[cfg(feature = "sabotage")]
mod leftovers;
#[cfg(feature = "model")]
mod model;
mod offenders;
mod publishing;
mod recovering;
mod resending;
mod settling;
mod timer;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::IoSlice,
    sync::Arc,
};

use rand_chacha::rand_core::{Rng, SeedableRng};

pub use api::{Action, DeclaredQueue, Flow, ProducerUpdate, Report, SessionEvent};
use appended::Appended;
use dependents::Dependents;
use timer::Timer;

use crate::{
    arena::Arena,
    backoff::SeededRng,
    config::Config,
    connection::{Connection, OUTPUT_LIMIT, Phase, Role},
    consume::{Batch, consumer::Consumer},
    event::{Deadline, Event, State},
    ids::{ConnectionId, ConsumerId, ProducerId, RequestId},
    publish::{lane::Lane, producer::Producer},
    stats::{ConsumerStats, ProducerStats, Stats},
    time::Time,
    timers::Timers,
    topology::{Declaration, Topology},
};

/// An AMQP client as a pure state machine: bytes and times in, bytes and events out.
///
/// It holds everything that outlives one connection: producers with their outage buffers, consumers,
/// what was declared, reconnection. It has no clock, socket, thread, lock, waker or randomness of its
/// own: time and seed are parameters, and the same inputs give the same outputs, byte for byte.
///
/// # The run loop
///
/// Whoever drives it does one thing at a time, and drains all outputs after it:
///
/// - `handle_*`: the transport tells it something: [`connected`](Self::handle_connected), bytes
///   [`received`](Self::handle_received), [`written`](Self::handle_written),
///   [`flushed`](Self::handle_flushed), [`disconnected`](Self::handle_disconnected), a
///   [`tick`](Self::handle_tick).
/// - mutators: the application asks for something: open a producer, publish, declare, consume, settle,
///   close. Synchronous; applied whole or not at all.
/// - `poll_*`, [`transmit`](Self::transmit), [`receive_buffer`](Self::receive_buffer): the outputs:
///   actions, events, producers' watermarks, batches of deliveries, bytes, the next deadline.
/// - getters: state, accounts, [`explain`](Self::explain).
///
/// `handle_tick` is due at each [`poll_deadline`](Self::poll_deadline). Calling it at least every
/// 100 ms as well is the failsafe; nothing depends on it.
///
/// Bytes concern one of several connections: two by default, so that a blocked publishing connection
/// does not stop acks.
///
/// It never panics on what a peer sends, and holds no more than its limits allow: 64 KiB and one
/// frame of output and of input a connection, the buffers and windows of its producers, the prefetch of
/// its consumers.
#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
pub struct Session {
    config: Config,
    retry_first: bool,
    rng: SeededRng,
    now: Time,
    state: State,
    /// Whether every connection has stood at the same time once.
    was_ready: bool,
    closing: Option<Report>,
    closed: bool,

    connections: Vec<Connection>,
    appended: Vec<VecDeque<Appended>>,
    /// By producer, the first place that a connection's transport certainly never got whole.
    unwritten: BTreeMap<ProducerId, u64>,
    timers: Timers<Timer>,

    producers: Arena<Producer>,
    /// Producers that are not closed.
    not_closed: usize,
    lanes: Vec<Lane>,
    /// Lanes with something to send, in turn.
    active: VecDeque<usize>,
    /// One message at a time over all lanes, to find the one that closes the connection (s25).
    single_file: bool,
    /// Producers to report by `poll_producer`.
    dirty: VecDeque<ProducerId>,

    /// Producers whose memory may be given back, since when.
    resting: VecDeque<(Time, ProducerId)>,

    consumers: Arena<Consumer>,
    /// Consumers that wait for a channel to be free, by connection.
    starved: BTreeSet<(usize, ConsumerId)>,
    /// Consumers with settlements to encode, by connection.
    settling: Vec<VecDeque<ConsumerId>>,
    /// Consumers with an open batch: deliveries of the read that is being handled.
    filling: Vec<(ConsumerId, u64)>,
    batches: VecDeque<(ConsumerId, Arc<Batch>)>,
    generation: u64,

    topology: Topology,
    dependents: Dependents,
    control: Option<u16>,
    /// The declaration on the wire.
    declaring: Option<Declaration>,
    requests: BTreeMap<RequestId, Arc<str>>,
    next_request: u32,

    actions: VecDeque<Action>,
    events: VecDeque<SessionEvent>,
    closed_stats: Stats,
    /// The producer that was told to be closed last, and its account.
    last_closed: Option<(ProducerId, ProducerStats)>,
}

/// The connection that publishes.
const PUBLISH: usize = 0;

impl Session {
    /// A session that begins to connect at once: [`poll_action`](Self::poll_action) says where to.
    ///
    /// With `retry_first` it goes on trying when the first connect fails; otherwise that ends it
    /// ([`SessionEvent::ConnectFailed`]).
    #[must_use]
    pub fn new(config: Config, retry_first: bool, seed: [u8; 32], now: Time) -> Self {
        let roles: &[Role] = if config.connections <= 1 {
            &[Role::All]
        } else {
            &[Role::Publish, Role::Consume, Role::NoAck]
        };
        let mut session = Self {
            config,
            retry_first,
            rng: SeededRng::from_seed(seed),
            now,
            state: State::Connecting,
            was_ready: false,
            closing: None,
            closed: false,
            connections: roles.iter().map(|&role| Connection::new(role)).collect(),
            appended: roles.iter().map(|_| VecDeque::new()).collect(),
            unwritten: BTreeMap::new(),
            timers: Timers::new(),
            producers: Arena::new(),
            not_closed: 0,
            lanes: Vec::new(),
            active: VecDeque::new(),
            single_file: false,
            dirty: VecDeque::new(),
            resting: VecDeque::new(),
            consumers: Arena::new(),
            starved: BTreeSet::new(),
            settling: roles.iter().map(|_| VecDeque::new()).collect(),
            filling: Vec::new(),
            batches: VecDeque::new(),
            generation: 0,
            topology: Topology::default(),
            dependents: Dependents::default(),
            control: None,
            declaring: None,
            requests: BTreeMap::new(),
            next_request: 1,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            closed_stats: Stats::default(),
            last_closed: None,
        };
        for c in 0..session.connections.len() {
            if session.connections.get(c).is_some_and(|connection| connection.role != Role::NoAck) {
                session.dial(c);
            }
        }
        session
    }

    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(SessionEvent::Event(event));
    }

    /// The connection that consumes with acks and declares.
    fn consuming(&self) -> usize {
        usize::from(self.connections.len() > 1)
    }

    // ---- outputs ---------------------------------------------------------------------------------

    /// What to do with the transports.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// A batch of deliveries for a consumer.
    pub fn poll_batch(&mut self) -> Option<(ConsumerId, Arc<Batch>)> {
        self.batches.pop_front()
    }

    /// The space to read into; empty while there is nothing to read from, or reading is paused: a
    /// no-ack consumer's queue is full, or the peer does not read our answers.
    pub fn receive_buffer(&mut self, connection: ConnectionId) -> &mut [u8] {
        match self.connections.get_mut(connection.0 as usize) {
            Some(connection) if connection.reads() => {
                connection.receive.space(connection.tuned.frame_max as usize)
            }
            _ => &mut [],
        }
    }

    /// Encodes what is due, and fills `slices` with the bytes to write; 0 if there are none.
    ///
    /// Offer them to the transport and report what it took by
    /// [`handle_written`](Self::handle_written).
    pub fn transmit<'a>(
        &'a mut self,
        connection: ConnectionId,
        slices: &mut [IoSlice<'a>],
    ) -> usize {
        let c = connection.0 as usize;
        if self.connections.get(c).is_some_and(Connection::is_open) {
            self.encode_settlements(c);
            if c == PUBLISH {
                self.encode_messages();
            }
        }
        let now = self.now;
        let Some(connection) =
            self.connections.get_mut(c).filter(|connection| connection.has_transport())
        else {
            return 0;
        };
        if connection.transmit.pending() == 0 {
            return 0;
        }
        if !connection.output_waits {
            connection.output_waits = true;
            connection.last_progress = now;
            self.timers.arm_if_idle(Timer::Write(c), now + self.config.deadlines.write);
        }
        connection.transmit.slices(slices)
    }

    /// When [`handle_tick`](Self::handle_tick) is due next, and why.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Deadline> {
        self.timers.next().map(|(at, timer)| Deadline { at, reason: timer.reason() })
    }

    // ---- getters ---------------------------------------------------------------------------------

    /// The state over all connections.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether it has ended: every transport gone, every outcome told.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Its connections, those included that are not open at the moment.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> + use<> {
        (0..self.connections.len() as u32).map(ConnectionId)
    }

    /// A producer's account: `accepted` and everything that it became. The admission terms are its
    /// hand-over's; here they are 0, but for what [`publish`](Self::publish) refused.
    #[must_use]
    pub fn producer_stats(&self, producer: ProducerId) -> Option<ProducerStats> {
        self.producers.get(producer.0).map(Producer::snapshot)
    }

    /// The last account of a producer that the latest [`poll_producer`](Self::poll_producer) told to
    /// be closed: it is forgotten since.
    #[must_use]
    pub fn closed_producer_stats(&self, producer: ProducerId) -> Option<ProducerStats> {
        self.last_closed.filter(|(closed, _)| *closed == producer).map(|(_, account)| account)
    }

    /// A consumer's account; what waits for the application counts as in hand.
    #[must_use]
    pub fn consumer_stats(&self, consumer: ConsumerId) -> Option<ConsumerStats> {
        self.consumers.get(consumer.0).map(Consumer::snapshot)
    }

    /// The sums over all producers and consumers, closed ones included.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.closed_stats;
        for (_, producer) in self.producers.iter() {
            stats.publish.add(&producer.snapshot());
        }
        for (_, consumer) in self.consumers.iter() {
            stats.consume.add(&consumer.snapshot());
        }
        stats
    }

    /// What the shutdown has left behind so far; all zero before one.
    #[must_use]
    pub fn report(&self) -> Report {
        self.closing.unwrap_or_default()
    }

    /// 128 random bits in 22 characters: every delivery carries them.
    fn random_tag(&mut self) -> Arc<str> {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from(self.rng.next_u64()) << 64 | u128::from(self.rng.next_u64());
        let digit = |at: u32| char::from(DIGITS[(bits >> (6 * at)) as usize & 63]);
        (0..22).map(digit).collect::<String>().into()
    }

    /// Whether this connection's output has room for more publishes.
    fn has_output_room(connection: &Connection) -> bool {
        connection.transmit.pending() < OUTPUT_LIMIT
    }

    /// Recomputes the state, and tells it if it changed.
    fn update_state(&mut self) {
        if matches!(self.state, State::Closed { .. }) {
            return;
        }
        let missing = self.connections.iter().filter(|connection| connection.is_missing());
        let worst =
            missing.max_by_key(|connection| (connection.cause().is_some(), connection.attempts));
        let state = match worst {
            None if self.connections.iter().all(|connection| connection.phase == Phase::Idle) => {
                self.state.clone()
            }
            None => {
                match self.connections.first().and_then(|connection| connection.blocked.clone()) {
                    Some(reason) => State::Blocked { reason },
                    None => State::Connected,
                }
            }
            Some(connection) => match connection.cause() {
                Some(loss) => {
                    // The attempt that comes; one that is being closed has not counted it yet.
                    let ahead = u32::from(connection.is_ending());
                    State::Reconnecting { loss: loss.clone(), attempt: connection.attempts + ahead }
                }
                None if self.was_ready => return,
                None => State::Connecting,
            },
        };
        if state.is_connected() && !self.was_ready {
            self.was_ready = true;
            self.events.push_back(SessionEvent::Ready);
        }
        if state != self.state {
            self.state = state.clone();
            self.event(Event::State(state));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn s33_a_tag_spells_128_bits() {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let value = |tag: u8| digits.iter().position(|&digit| digit == tag).unwrap() as u128;
        let mut session = Session::new(Config::default(), false, [7; 32], Time::ZERO);
        let mut rng = session.rng.clone();
        let [high, low] = [rng.next_u64(), rng.next_u64()].map(u128::from);
        let tag = session.random_tag();
        let bits = tag.bytes().rev().fold(0, |bits, digit| bits << 6 | value(digit));
        assert_eq!(bits, high << 64 | low);
    }

    #[test]
    fn memory_is_given_back_after_a_second_without_a_read() {
        let mut session = Session::new(Config::default(), false, [7; 32], Time::ZERO);
        let at = |millis| Time::ZERO + std::time::Duration::from_millis(millis);
        let connection = &mut session.connections[0];
        connection.start(at(0));
        let space = |session: &mut Session| session.connections[0].receive.space(131_072).len();
        for _ in 0..4 {
            let length = space(&mut session);
            session.connections[0].receive.read(length);
            session.connections[0].receive.consume(length);
        }
        assert_eq!(space(&mut session), 64 << 10);
        session.handle_tick(at(999));
        assert_eq!(space(&mut session), 64 << 10);
        session.handle_tick(at(1000));
        assert_eq!(space(&mut session), 8 << 10);
    }
}
