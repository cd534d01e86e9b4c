//! A session between an application that settles what it gets and a broker that keeps everything,
//! over transports that fail where a test says so. Time is virtual and moves from deadline to deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lavinmq_core::{
    config::ConsumerConfig,
    consume::{SettleRun, Settlement},
    error::ConsumeError,
};

use crate::{
    broker::{Holder, short},
    harness::*,
};

/// How a transport fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    Eof,
    Reset,
    /// Nothing more comes from the peer, which still gets what we write (or, when we write, takes
    /// nothing more and still talks).
    Silence,
    /// Nothing arrives any more in either direction, and nobody says so.
    HalfOpen,
    /// The peer closes the connection, and reads on once we have read that.
    Closed,
    /// Nothing fails: a write ends here, and the next one goes on.
    Pause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Bytes that the peer sent.
    In,
    /// Bytes that we wrote.
    Out,
}

/// A transport fails after so many bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub connection: usize,
    /// Which of the connection's transports, counted from 1.
    pub transport: usize,
    pub side: Side,
    pub after: u64,
    pub failure: Failure,
}

/// How what the peer sent becomes reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Everything that is there.
    Coalesced,
    /// Frame by frame.
    Frames,
    /// In pieces of so many bytes.
    Pieces(usize),
    /// Everything that is there, but one read, by its number, is split after so many bytes.
    Split { read: usize, after: usize },
}

/// One transport.
#[derive(Debug, Default)]
struct Wire {
    /// Bytes that were read and written on it.
    read: u64,
    written: u64,
    /// How much more it takes; `None`: whatever comes.
    room: Option<u64>,
    /// What the peer says vanishes.
    deaf: bool,
    /// What we write vanishes.
    dumb: bool,
    up: bool,
    /// It takes nothing until something was read.
    held: bool,
}

/// A delivery in the application's hands.
#[derive(Clone, Debug)]
pub struct InHand {
    pub consumer: ConsumerId,
    pub generation: u64,
    pub tag: u64,
    /// The broker's own number of this delivery.
    pub number: u64,
    pub body: Vec<u8>,
    pub redelivered: bool,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub stage: Stage,
    pub broker: Holder,
    wires: Vec<Wire>,
    /// The cuts to come, in their order.
    cuts: VecDeque<Cut>,
    /// How many transports each connection has had.
    transports: Vec<usize>,
    reads: Reads,
    /// The length of each read so far.
    pub read_lengths: Vec<usize>,
    /// Bytes of the transports that are gone, by connection: read, written.
    pub volumes: Vec<Vec<(u64, u64)>>,
    /// What the session told and wrote, where somebody wants to compare it.
    /// By connection what it wrote, and behind those what was told.
    pub log: Option<Vec<Vec<String>>>,

    /// Messages accepted, in order, by producer.
    pub accepted: Vec<(ProducerId, u64, Vec<u8>)>,
    pub modes: BTreeMap<ProducerId, PublishMode>,
    pub outcomes: BTreeMap<(ProducerId, u64), Vec<Option<Verdict>>>,
    pub in_hand: Vec<InHand>,
    /// Deliveries that the application has settled, by the broker's numbers.
    pub settled: BTreeSet<u64>,
    pub received: u64,
    pub consumers: Vec<ConsumerId>,
    /// Consumers and declarations that were answered, and how.
    pub subscribed: Vec<Result<(), ConsumeError>>,
    declaring: Vec<(RequestId, &'static str)>,
    pub declared: Vec<Result<String, DeclareError>>,
    consuming: Option<ConsumerConfig>,
    /// Whether a declaration or subscription that was not answered in time is tried again.
    pub patient: bool,
    pub ready: bool,
    pub closed: bool,
    pub events: Vec<Event>,
    /// The client's states, and when they began; and when connections were opened.
    pub states: Vec<(Time, State)>,
    pub dials: Vec<(Time, usize)>,
}

impl World {
    pub fn new(config: Config, tune: (u16, u32, u16)) -> Self {
        let stage = Stage::with_retry(config, true);
        let connections = stage.peers.len();
        let mut world = Self {
            stage,
            broker: Holder::new(connections, tune),
            wires: (0..connections).map(|_| Wire::default()).collect(),
            cuts: VecDeque::new(),
            transports: vec![0; connections],
            reads: Reads::Coalesced,
            read_lengths: Vec::new(),
            volumes: vec![Vec::new(); connections],
            log: None,
            accepted: Vec::new(),
            modes: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            in_hand: Vec::new(),
            settled: BTreeSet::new(),
            received: 0,
            consumers: Vec::new(),
            subscribed: Vec::new(),
            declaring: Vec::new(),
            declared: Vec::new(),
            consuming: None,
            patient: true,
            ready: false,
            closed: false,
            events: Vec::new(),
            states: Vec::new(),
            dials: Vec::new(),
        };
        world.react();
        world
    }

    pub fn with_cuts(mut self, cuts: impl IntoIterator<Item = Cut>) -> Self {
        self.cuts = cuts.into_iter().collect();
        self
    }

    /// The cuts that have not come.
    pub fn cuts_left(&self) -> usize {
        self.cuts.len()
    }

    pub fn with_reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self.log = Some(vec![Vec::new(); self.wires.len() + 1]);
        self
    }

    // ---- the application -----------------------------------------------------------------------

    pub fn producer(&mut self, exchange: &str, key: &str, mode: PublishMode) -> ProducerId {
        self.open_producer(to_exchange(exchange, key, mode))
    }

    pub fn open_producer(&mut self, config: ProducerConfig) -> ProducerId {
        let mode = config.mode;
        let producer = self.stage.open_producer(config);
        self.modes.insert(producer, mode);
        producer
    }

    pub fn publish(&mut self, producer: ProducerId, body: impl Into<Vec<u8>>) {
        let body = body.into();
        let sequence = self.stage.publish(producer, body.clone());
        self.accepted.push((producer, sequence, body));
    }

    pub fn declare(&mut self, queue: &'static str) {
        let request = self.stage.declare(QueueConfig::new(queue).unwrap());
        self.declaring.push((request, queue));
    }

    pub fn consume(&mut self, config: ConsumerConfig) {
        let now = self.stage.now;
        let consumer = self.stage.session.open_consumer(config.clone(), now).unwrap();
        self.consuming = Some(config);
        self.consumers.push(consumer);
        self.stage.pump();
    }

    /// Settles everything in hand: acked, but that the first delivery of a body that begins with
    /// "again" is handed back. Stale deliveries are settled before the others, so that a settlement of
    /// theirs that was sent would show.
    pub fn settle(&mut self) {
        let newest = self.in_hand.iter().map(|delivery| delivery.generation).max();
        let in_hand = std::mem::take(&mut self.in_hand);
        let (newest, stale): (Vec<_>, Vec<_>) =
            in_hand.into_iter().partition(|delivery| Some(delivery.generation) == newest);
        for deliveries in [stale, newest] {
            for delivery in deliveries {
                let again = delivery.body.starts_with(b"again") && !delivery.redelivered;
                let settlement = if again { Settlement::Requeue } else { Settlement::Ack };
                let run = SettleRun {
                    generation: delivery.generation,
                    first: delivery.tag,
                    last: delivery.tag,
                    settlement,
                };
                self.settled.insert(delivery.number);
                self.stage.session.settle(delivery.consumer, run, self.stage.now);
            }
            self.turn();
        }
    }

    pub fn shutdown(&mut self) {
        self.stage.session.shutdown(300 * SEC, self.stage.now);
        self.stage.pump();
    }

    // ---- transports ----------------------------------------------------------------------------

    /// Whether the connection has a transport.
    pub fn is_up(&self, c: usize) -> bool {
        self.stage.peers[c].up
    }

    /// From now on the transport takes so many bytes and no more.
    pub fn limit(&mut self, c: usize, room: Option<u64>) {
        self.wires[c].room = room;
    }

    /// Nothing arrives any more in either direction.
    pub fn silence(&mut self, c: usize) {
        self.wires[c].deaf = true;
        self.wires[c].dumb = true;
    }

    pub fn fail(&mut self, c: usize, failure: Failure) {
        match failure {
            Failure::Eof => self.stage.cut_by(c, Loss::Eof),
            Failure::Reset => {
                let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                self.stage.cut_by(c, Loss::from(reset));
            }
            Failure::Silence => self.wires[c].deaf = true,
            Failure::HalfOpen => self.silence(c),
            Failure::Pause => {}
            Failure::Closed => {
                self.wires[c].held = true;
                self.broker.say_close(&mut self.stage, c, 320);
            }
        }
    }

    fn fail_if_due(&mut self, c: usize) {
        if !self.is_up(c) {
            return;
        }
        let due = self.cuts.front().is_some_and(|cut| self.until_cut(c, cut.side) == 0);
        if due && let Some(cut) = self.cuts.pop_front() {
            match (cut.side, cut.failure) {
                (Side::Out, Failure::Silence) => self.wires[c].room = Some(0),
                _ => self.fail(c, cut.failure),
            }
            self.notice_transports();
        }
    }

    /// How much the transport may carry before it fails.
    fn until_cut(&self, c: usize, side: Side) -> u64 {
        let wire = &self.wires[c];
        let done = if side == Side::In { wire.read } else { wire.written };
        match self.cuts.front() {
            Some(cut)
                if (cut.connection, cut.transport) == (c, self.transports[c])
                    && cut.side == side =>
            {
                cut.after - done
            }
            _ => u64::MAX,
        }
    }

    /// The broker learns which transports are gone, and dials are answered.
    fn notice_transports(&mut self) {
        for c in 0..self.wires.len() {
            if self.wires[c].up && !self.stage.peers[c].up {
                self.volumes[c].push((self.wires[c].read, self.wires[c].written));
                self.wires[c] = Wire::default();
                self.broker.lost(c);
            }
        }
    }

    fn write(&mut self, c: usize) -> bool {
        if self.wires[c].held {
            return false;
        }
        let most = self.until_cut(c, Side::Out).min(self.wires[c].room.unwrap_or(u64::MAX));
        let written = self.stage.write(c, usize::try_from(most).unwrap_or(usize::MAX)) as u64;
        self.wires[c].written += written;
        if let Some(room) = &mut self.wires[c].room {
            *room -= written;
        }
        while self.stage.has_frames(c) {
            let frame = self.stage.next(c);
            self.note(c, || match &frame {
                Wrote::Body(n, bytes) => format!("Body({n}, {})", short(bytes)),
                frame => format!("{frame:?}"),
            });
            if !self.wires[c].dumb {
                self.broker.hear(&mut self.stage, c, frame);
            }
        }
        written > 0
    }

    fn read(&mut self, c: usize) -> bool {
        let frames = std::mem::take(&mut self.broker.links[c].out);
        if frames.is_empty() || self.wires[c].deaf {
            return false;
        }
        let most = usize::try_from(self.until_cut(c, Side::In)).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = frames.iter().flatten().copied().collect();
        bytes.truncate(most);
        self.read_lengths.push(bytes.len());
        match self.reads {
            Reads::Coalesced => self.feed(c, &bytes),
            Reads::Frames => frames.iter().for_each(|frame| self.feed(c, frame)),
            Reads::Pieces(length) => bytes.chunks(length).for_each(|piece| self.feed(c, piece)),
            Reads::Split { read, after } if read + 1 == self.read_lengths.len() => {
                self.feed(c, &bytes[..after]);
                // Whatever it says to the first half leaves before the second one comes.
                for c in 0..self.wires.len() {
                    if self.is_up(c) {
                        self.write(c);
                    }
                }
                self.feed(c, &bytes[after..]);
            }
            Reads::Split { .. } => self.feed(c, &bytes),
        }
        true
    }

    fn feed(&mut self, c: usize, bytes: &[u8]) {
        if !self.is_up(c) {
            return;
        }
        self.wires[c].held = false;
        let read = self.stage.feed(c, bytes);
        self.wires[c].read += read as u64;
        assert!(read == bytes.len() || !self.is_up(c), "reading has stopped");
    }

    // ---- the run loop --------------------------------------------------------------------------

    /// Everything that can happen without time passing happens.
    pub fn turn(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for c in 0..self.wires.len() {
                if self.stage.peers[c].dialling && !self.broker.refuses_dials {
                    self.wires[c] = Wire { up: true, ..Wire::default() };
                    self.transports[c] += 1;
                    self.dials.push((self.stage.now, c));
                    // Nothing leaves by itself: `write` says how much.
                    self.stage.stalled.insert(c);
                    self.stage.connect(c);
                    moved = true;
                }
                self.fail_if_due(c);
                if self.is_up(c) {
                    moved |= self.write(c);
                }
                self.fail_if_due(c);
            }
            self.broker.confirm_and_deliver();
            self.check_settlements();
            for c in 0..self.wires.len() {
                if self.is_up(c) {
                    moved |= self.read(c);
                }
                self.fail_if_due(c);
            }
            self.notice_transports();
            self.react();
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Time passes up to the next deadline, or five seconds: heartbeats come as often.
    pub fn pass(&mut self) {
        let now = self.stage.now;
        let next = self.stage.session.poll_deadline().map_or(now + 5 * SEC, |next| next.at);
        let by = next.saturating_since(now).min(5 * SEC);
        self.stage.advance(by);
        self.notice_transports();
        self.broker.heartbeat();
        self.react();
        self.turn();
    }

    /// Time passes until this is so.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            self.turn();
            if done(self) {
                return;
            }
            self.pass();
        }
        panic!(
            "it hangs: {what}\n{}\noutcomes {:?}\nbroker {:?}",
            self.stage.session.explain(self.stage.now),
            self.outcomes,
            self.broker.left(),
        );
    }

    /// Everything in this queue is consumed.
    pub fn drain(&mut self, queue: &str) {
        for _ in 0..400 {
            self.turn();
            if self.broker.left_in(queue) == 0 {
                return;
            }
            if self.in_hand.is_empty() {
                self.pass();
            } else {
                self.settle();
            }
        }
        panic!("not consumed: {:?}", self.broker.left());
    }

    fn note(&mut self, part: usize, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log[part].push(line());
        }
    }

    /// The application takes what it is told.
    fn react(&mut self) {
        let told = self.wires.len();
        for event in self.stage.take_events(|_| true) {
            self.note(told, || format!("{event:?}"));
            match event {
                SessionEvent::Ready => self.ready = true,
                SessionEvent::Settled { producer, settled } => self
                    .outcomes
                    .entry((producer, settled.sequence))
                    .or_default()
                    .push(settled.verdict),
                SessionEvent::Declared { request, result } => {
                    let at = self.declaring.iter().position(|(other, _)| *other == request);
                    let (_, queue) = self.declaring.remove(at.expect("answered once"));
                    match result {
                        Err(DeclareError::TimedOut { .. }) if self.patient => self.declare(queue),
                        result => self.declared.push(result.map(|queue| queue.name.to_string())),
                    }
                }
                SessionEvent::ConsumerOpened { consumer, result } => match result {
                    Err(ConsumeError::TimedOut { .. }) if self.patient => {
                        self.consumers.retain(|other| *other != consumer);
                        let config = self.consuming.clone().unwrap();
                        self.consume(config);
                    }
                    result => self.subscribed.push(result),
                },
                SessionEvent::HandBack { .. } => self.in_hand.clear(),
                SessionEvent::Closed => self.closed = true,
                SessionEvent::Event(Event::State(state)) => {
                    self.states.push((self.stage.now, state));
                }
                SessionEvent::Event(event) => self.events.push(event),
                _ => {}
            }
        }
        for (consumer, batch) in std::mem::take(&mut self.stage.batches) {
            for index in 0..batch.len() {
                let delivery = InHand {
                    consumer,
                    generation: batch.generation(),
                    tag: batch.tag(index),
                    number: batch.exchange(index).parse().unwrap(),
                    body: batch.body_bytes(index).to_vec(),
                    redelivered: batch.redelivered(index),
                };
                self.note(told, || {
                    let body = short(&delivery.body);
                    format!("got {} of {}: {body}", delivery.tag, delivery.generation)
                });
                self.received += 1;
                self.in_hand.push(delivery);
            }
        }
    }

    /// From now on the broker answers everything, what it withheld included.
    pub fn heal(&mut self) {
        self.broker.release(&mut self.stage);
        self.broker.low_disk = false;
        self.broker.refuses_dials = false;
        // A peer that is silent does not begin to read.
        for wire in self.wires.iter_mut().filter(|wire| !wire.deaf) {
            wire.room = None;
        }
    }
}
