//! A session that an honest broker brought to a certain state, and then a peer that says anything.
//!
//! Whatever comes: no panic, the accounts hold after every read, what is allocated and written is
//! bounded by what was received, silence ends the connection, and once the broker is honest again the
//! session recovers and every message gets its outcome.

use std::time::Duration;

use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, queue};
use lavinmq_core::{
    Message, State,
    config::{Config, ConsumerConfig, ProducerConfig, PublishMode, QueueConfig},
    consume::{SettleRun, Settlement},
    error::Loss,
    session::SessionEvent,
    wire::{self, FrameKind},
};
use lavinmq_testing::{Personality, Settings};

use super::{heap, input::Input, world::World};

/// The most that a read may allocate for each byte received, frees not counted: 64 for the values of
/// a table, and what is made of them.
const HEAP_PER_BYTE: usize = 96;
/// The same, whatever was received: buffers that grow, messages that are sent again.
const HEAP_AT_ALL: usize = 256 << 10;
/// The most that the session may hold beyond what it held before, for each byte received.
const HELD_PER_BYTE: usize = 96;
/// The same, whatever was received.
const HELD_AT_ALL: usize = 512 << 10;
/// The most that the session may write for each byte received: few bytes close a channel, and each
/// time all that was in flight on it is sent again.
const WRITTEN_PER_BYTE: u64 = 64;
/// The same, whatever was received.
const WRITTEN_AT_ALL: u64 = 256 << 10;

/// Where the session stands when its peer turns hostile.
pub const STATES: usize = 16;

/// The one of them in which a consumer without acks receives.
pub const NO_ACK: usize = 8;

/// The honest broker brings a session to this state. The world, and the connection to attack.
pub fn stage(state: usize, settings: u8) -> (World, usize) {
    let mut config = Config::default();
    config.connections = 1 + (settings & 1);
    config.limits.frame_max = if settings & 2 == 0 { 131_072 } else { 4096 };
    config.backoff.jitter = false;
    let personality = if settings & 4 == 0 { Personality::LavinMq } else { Personality::RabbitMq };
    let (publish, consume) = (0, usize::from(config.connections > 1));
    let mut world = World::new(config, Settings::new(personality));
    for queue in ["q", "r"] {
        world.broker.declare_queue(queue);
        for body in ["one", "two", "three"] {
            world.broker.put(queue, &body.into(), world.now);
        }
    }
    // Awaiting Start, Tune and Open-ok.
    if state < 3 {
        for c in 0..world.links.len() {
            world.accept(c);
        }
        for _ in 0..state {
            world.serve();
        }
        return (world, publish);
    }
    world.settle();
    assert_eq!(*world.session.state(), State::Connected);
    match state {
        // Idle.
        3 => (world, publish),
        // Messages unconfirmed.
        4 => {
            world.broker.hold_confirms();
            publish_some(&mut world, PublishMode::Confirm, 4);
            world.settle();
            (world, publish)
        }
        // Half a publish is out, in either mode.
        5 | 6 => {
            let mode = if state == 5 { PublishMode::FireAndForget } else { PublishMode::Confirm };
            let producer = publish_some(&mut world, mode, 1);
            world.settle();
            let now = world.now;
            let _ = world.session.publish(producer, Message::new(vec![b'x'; 6000]), now);
            world.write(publish, 1000);
            world.carry(publish, usize::MAX);
            (world, publish)
        }
        // Consuming, with deliveries in hand.
        7 => {
            consume_some(&mut world, false);
            world.settle();
            (world, consume)
        }
        // The same without acks; on a connection of its own if there are several.
        NO_ACK => {
            consume_some(&mut world, true);
            world.settle();
            let last = world.links.len() - 1;
            (world, last)
        }
        // Replies to come: channel.open, confirm.select, queue.declare, basic.qos, basic.consume.
        9 => {
            world.broker.hold_replies();
            publish_some(&mut world, PublishMode::Confirm, 2);
            declare(&mut world);
            consume_some(&mut world, false);
            world.settle();
            (world, consume)
        }
        10 => {
            publish_some(&mut world, PublishMode::Confirm, 2);
            for _ in 0..2 {
                world.serve();
            }
            (world, publish)
        }
        // Blocked.
        11 => {
            let producer = publish_some(&mut world, PublishMode::Confirm, 1);
            world.settle();
            world.broker.block("low on memory", world.now);
            for _ in 0..2 {
                let now = world.now;
                let _ = world.session.publish(producer, "blocked".into(), now);
                world.settle();
            }
            (world, publish)
        }
        // connection.close is out.
        12 => {
            let now = world.now;
            world.session.shutdown(Duration::from_secs(30), now);
            world.drain();
            for c in 0..world.links.len() {
                world.write(c, usize::MAX);
            }
            (world, publish)
        }
        // A consumer is closing.
        13 => {
            let consumer = consume_some(&mut world, false);
            world.settle();
            let now = world.now;
            world.session.close_consumer(consumer, now);
            world.drain();
            world.write(consume, usize::MAX);
            (world, consume)
        }
        // Recovering after a loss: topology, consumer and messages are to be replayed.
        14 => {
            declare(&mut world);
            world.broker.hold_confirms();
            publish_some(&mut world, PublishMode::Confirm, 3);
            consume_some(&mut world, false);
            world.settle();
            for c in 0..world.links.len() {
                world.cut(c, Loss::Eof, false);
            }
            world.broker.hold_replies();
            world.pass(Duration::from_secs(1));
            for _ in 0..8 {
                world.serve();
            }
            (world, consume)
        }
        // Looking for the message that closes the channel.
        _ => {
            let config = ProducerConfig::new("missing", "key", PublishMode::Confirm).unwrap();
            let now = world.now;
            let producer = world.session.open_producer(config, now).unwrap();
            for _ in 0..4 {
                let _ = world.session.publish(producer, "lost".into(), now);
            }
            for _ in 0..5 {
                world.serve();
            }
            (world, publish)
        }
    }
}

fn publish_some(
    world: &mut World,
    mode: PublishMode,
    count: usize,
) -> lavinmq_core::ids::ProducerId {
    let mut config = ProducerConfig::new("", "q", mode).unwrap();
    config.report_confirmed = true;
    let producer = world.session.open_producer(config, world.now).unwrap();
    for _ in 0..count {
        world.session.publish(producer, "a message".into(), world.now).unwrap();
    }
    world.drain();
    producer
}

fn consume_some(world: &mut World, no_ack: bool) -> lavinmq_core::ids::ConsumerId {
    let mut config = ConsumerConfig::new("r").unwrap();
    config.no_ack = no_ack;
    config.tag = Some("t".into());
    let consumer = world.session.open_consumer(config, world.now).unwrap();
    world.drain();
    consumer
}

fn declare(world: &mut World) {
    world.session.declare_queue(QueueConfig::new("s").unwrap(), world.now).unwrap();
    world.drain();
}

/// One input: the state, settings, and what the peer says.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (state, settings) = (input.below(STATES), input.u8());
    let (world, c) = stage(state, settings);
    let mut attack = Attack::new(world, c);
    while !input.is_empty() {
        attack.step(&mut input);
    }
    attack.silence();
    attack.heal();
}

struct Attack {
    world: World,
    c: usize,
    /// Channels that were open when the peer turned hostile.
    channels: Vec<u16>,
    received: usize,
    held_before: usize,
    written: u64,
    /// Settled and not written, or in hand: generation and tag.
    in_hand: Vec<(lavinmq_core::ids::ConsumerId, u64, u64)>,
}

impl Attack {
    fn new(mut world: World, c: usize) -> Self {
        let channels = match world.links[c].peer.take() {
            Some(peer) => {
                let mut channels = world.broker.channels(peer);
                world.broker.disconnect(peer, world.now);
                channels.push(0);
                channels
            }
            None => vec![0],
        };
        world.batches.shrink_to_fit();
        let held_before = heap::live();
        let mut attack =
            Self { world, c, channels, received: 0, held_before, written: 0, in_hand: Vec::new() };
        attack.collect();
        attack
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let mut bytes = Vec::new();
        match input.below(8) {
            // Anything.
            0 => {
                let n = input.amount();
                bytes.extend_from_slice(input.bytes(n));
            }
            // A frame with anything in it.
            1 => {
                let kind = input.of(&[FrameKind::Method, FrameKind::Header, FrameKind::Body]);
                let channel = self.channel(input);
                let n = input.amount();
                let payload = input.bytes(n);
                wire::put_frame(&mut bytes, kind, channel, |out| out.extend_from_slice(payload));
            }
            // A method that a server can send.
            2..=4 => {
                let channel = self.channel(input);
                method(&mut bytes, channel, input);
            }
            // A whole message, or one whose header lies.
            5 => {
                let channel = self.channel(input);
                delivery(&mut bytes, channel, input);
            }
            6 => self.application(input),
            _ => match input.below(4) {
                0 => bytes.extend_from_slice(&wire::HEARTBEAT),
                1 => self.world.pass(Duration::from_millis(input.u16().into())),
                2 => {
                    self.write(input.amount());
                }
                _ => {
                    // The others go on as they were.
                    for c in (0..self.world.links.len()).filter(|c| *c != self.c) {
                        self.world.accept(c);
                        self.world.write(c, usize::MAX);
                        self.world.carry(c, usize::MAX);
                        self.world.read(c, usize::MAX);
                    }
                }
            },
        }
        self.feed(&bytes);
    }

    fn channel(&self, input: &mut Input<'_>) -> u16 {
        match input.u8() {
            n @ 0..=199 => self.channels[usize::from(n) % self.channels.len()],
            n => u16::from(n - 200),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !self.world.links[self.c].up {
            self.collect();
            return;
        }
        let (fed, spent) = {
            let (world, c) = (&mut self.world, self.c);
            heap::spent(|| world.feed(c, bytes))
        };
        self.received += fed;
        // A frame's last byte pays for all of it.
        let limit = HEAP_AT_ALL + HEAP_PER_BYTE * self.received;
        assert!(spent <= limit, "{spent} bytes allocated for {fed} of {} received", self.received);
        self.collect();
        self.write(usize::MAX);
    }

    fn write(&mut self, most: usize) {
        self.written += self.world.write(self.c, most) as u64;
        self.world.links[self.c].wire = Vec::new();
        let limit = WRITTEN_AT_ALL + WRITTEN_PER_BYTE * self.received as u64;
        assert!(self.written <= limit, "{} written for {}", self.written, self.received);
        self.collect();
    }

    /// Takes what the session told, and checks what must always hold.
    fn collect(&mut self) {
        self.world.drain();
        let mut waits = Vec::new();
        for event in self.world.events.drain(..) {
            if let SessionEvent::HandBack { consumer } = event {
                waits.push(consumer);
            }
        }
        self.world.events.shrink_to_fit();
        self.world.updates = Vec::new();
        for (consumer, batch) in std::mem::take(&mut self.world.batches) {
            let weight = batch.weight();
            for index in 0..batch.len() {
                // Whatever was handed over can be looked at.
                let _ = (batch.body(index), batch.exchange(index), batch.routing_key(index));
                let _ = wire::decode_properties(batch.raw_properties(index));
                if self.in_hand.len() < 1000 {
                    self.in_hand.push((consumer, batch.generation(), batch.tag(index)));
                }
            }
            self.world.session.handle_consumed(consumer, weight, self.world.now);
        }
        for consumer in waits {
            self.settle_of(consumer, Settlement::Requeue);
        }
        let stats = self.world.session.stats();
        assert!(stats.is_conserved(), "{stats:#?}");
        let held = heap::live().saturating_sub(self.held_before);
        let limit = HELD_AT_ALL + HELD_PER_BYTE * self.received;
        assert!(held <= limit, "{held} bytes held after {} received", self.received);
        let _ = self.world.session.explain(self.world.now);
    }

    fn settle_of(&mut self, consumer: lavinmq_core::ids::ConsumerId, settlement: Settlement) {
        let now = self.world.now;
        self.in_hand.retain(|&(owner, generation, tag)| {
            if owner == consumer {
                let run = SettleRun { generation, first: tag, last: tag, settlement };
                self.world.session.settle(owner, run, now);
            }
            owner != consumer
        });
        self.world.drain();
    }

    fn application(&mut self, input: &mut Input<'_>) {
        let now = self.world.now;
        match input.below(6) {
            0 if !self.in_hand.is_empty() => {
                let at = input.below(self.in_hand.len());
                let (consumer, generation, tag) = self.in_hand.swap_remove(at);
                let settlement = input.of(&[
                    Settlement::Ack,
                    Settlement::Requeue,
                    Settlement::Reject,
                    Settlement::RequeueLater,
                ]);
                // Runs reach beyond what there is, too: tags settled already are left alone.
                let last = tag + u64::from(input.u8() / 64);
                self.world.session.settle(
                    consumer,
                    SettleRun { generation, first: tag, last, settlement },
                    now,
                );
            }
            1 => {
                let mode = input.of(&[PublishMode::Confirm, PublishMode::FireAndForget]);
                let config = ProducerConfig::new("", "q", mode).unwrap();
                if self.world.session.stats().publish.accepted < 8
                    && let Ok(producer) = self.world.session.open_producer(config, now)
                {
                    let _ = self.world.session.publish(producer, "more".into(), now);
                }
            }
            2 => {
                let _ = self.world.session.declare_queue(QueueConfig::new("s").unwrap(), now);
            }
            3 if input.u8() == 0 => self.world.session.shutdown(Duration::from_secs(30), now),
            4 if input.u8() == 0 => self.world.session.abort(now),
            _ => {}
        }
        self.collect();
    }

    /// The peer says nothing more. A connection does not survive that.
    fn silence(&mut self) {
        for c in 0..self.world.links.len() {
            self.world.links[c].peer = None;
        }
        for _ in 0..200 {
            if self.world.links.iter().all(|link| !link.up) {
                break;
            }
            self.world.pass(Duration::from_secs(10));
            // Not even dialling succeeds.
            for c in 0..self.world.links.len() {
                self.world.refuse(c);
            }
            self.collect();
            self.write(usize::MAX);
        }
        let up = self.world.links.iter().any(|link| link.up);
        assert!(!up, "2,000 s of silence\n{}", self.world.session.explain(self.world.now));
    }

    /// The broker is honest again: the session recovers, or it is closed.
    fn heal(mut self) {
        let (now, world) = (self.world.now, &mut self.world);
        world.broker.unblock(now);
        world.broker.release_confirms(now);
        world.broker.release_replies(false, now);
        for _ in 0..500 {
            for _ in 0..50 {
                if !self.world.serve() {
                    break;
                }
                self.collect();
                let consumers: Vec<_> = self.in_hand.iter().map(|&(owner, ..)| owner).collect();
                for consumer in consumers {
                    self.settle_of(consumer, Settlement::Ack);
                }
            }
            let publish = self.world.session.stats().publish;
            let done = publish.queued == 0 && publish.in_flight == 0;
            match self.world.session.state() {
                State::Connected if done => break,
                State::Closed { .. } if self.world.session.is_closed() => {
                    assert!(done, "closed, with messages that have no outcome: {publish:#?}");
                    return;
                }
                _ => self.world.pass(Duration::from_secs(60)),
            }
            self.collect();
        }
        let publish = self.world.session.stats().publish;
        assert!(
            *self.world.session.state() == State::Connected
                && publish.queued == 0
                && publish.in_flight == 0,
            "no recovery: {publish:#?}\n{}",
            self.world.session.explain(self.world.now)
        );
    }
}

fn method(out: &mut Vec<u8>, number: u16, input: &mut Input<'_>) {
    let small = |input: &mut Input<'_>| u64::from(input.u8() % 8);
    let tag = || "t".into();
    let codes = [200, 311, 320, 403, 404, 405, 406, 501, 504, 505, 506, 530, 540, 541];
    let class = match input.below(25) {
        0 => AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})),
        1 => AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})),
        2 => AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: input.of(&codes),
            reply_text: "no".into(),
            class_id: input.of(&[0, 60, 60, 50]),
            method_id: input.of(&[0, 40, 20, 10]),
        })),
        3 => AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
        4 => AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: input.bool() })),
        5 => AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
            reply_code: input.of(&codes),
            reply_text: "no".into(),
            class_id: 0,
            method_id: 0,
        })),
        6 => AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})),
        7 => {
            let blocked = connection::Blocked { reason: "memory".into() };
            AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))
        }
        8 => AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {})),
        9 => AMQPClass::Connection(connection::AMQPMethod::Tune(connection::Tune {
            channel_max: input.of(&[0, 1, 2, 2047, 65_535]),
            frame_max: input.of(&[0, 1, 4095, 4096, 8192, 131_072, u32::MAX]),
            heartbeat: input.of(&[0, 1, 10, 60, 65_535]),
        })),
        10 => AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})),
        11 => AMQPClass::Connection(connection::AMQPMethod::Start(connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: amq_protocol::types::FieldTable::default(),
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        })),
        12 => {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(basic::ConsumeOk { consumer_tag: tag() }))
        }
        13 => {
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: tag() }))
        }
        14 => AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: tag(),
            nowait: input.bool(),
        })),
        15 => AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})),
        16 => AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk {
            queue: input.of(&["q", "s", "amq.gen-1"]).into(),
            message_count: 3,
            consumer_count: 0,
        })),
        17 | 18 => AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
            delivery_tag: small(input),
            multiple: input.bool(),
        })),
        19 | 20 => AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
            delivery_tag: small(input),
            multiple: input.bool(),
            requeue: input.bool(),
        })),
        21 => AMQPClass::Connection(connection::AMQPMethod::Secure(connection::Secure {
            challenge: "?".into(),
        })),
        22 => AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})),
        // Bytes after, or too few: a method's identity and anything behind it.
        _ => {
            let (class, method) = input.of(&[
                (10, 10),
                (10, 20),
                (10, 30),
                (10, 41),
                (10, 50),
                (10, 60),
                (20, 11),
                (20, 20),
                (20, 40),
                (40, 11),
                (50, 11),
                (50, 21),
                (60, 11),
                (60, 21),
                (60, 30),
                (60, 50),
                (60, 60),
                (60, 71),
                (60, 80),
                (60, 120),
                (85, 11),
                (90, 11),
                (60, 40),
                (99, 1),
            ]);
            let length = input.amount();
            let fields = input.bytes(length);
            wire::put_frame(out, FrameKind::Method, number, |out| {
                out.extend_from_slice(&u16::to_be_bytes(class));
                out.extend_from_slice(&u16::to_be_bytes(method));
                out.extend_from_slice(fields);
            });
            return;
        }
    };
    wire::put_method(out, number, &class).unwrap();
}

fn delivery(out: &mut Vec<u8>, n: u16, input: &mut Input<'_>) {
    let kind = input.below(4);
    if kind == 0 {
        let class = basic::AMQPMethod::Return(basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "".into(),
            routing_key: "q".into(),
        });
        wire::put_method(out, n, &AMQPClass::Basic(class)).unwrap();
    } else if kind < 3 {
        let tag = input.of(&["t", "t", "t", "u"]);
        let number = u64::from(input.u8() % 16);
        wire::put_deliver(out, n, tag, number, input.bool(), "", "r");
    }
    let n_body = input.amount().min(9000);
    let body: Vec<u8> = (0..n_body).map(|at| at as u8).collect();
    let announced = match input.u8() {
        0..=199 => body.len() as u64,
        200..=229 => input.u8().into(),
        230..=239 => 1 << 63,
        240..=247 => u64::MAX,
        _ => 100 << 20,
    };
    if input.u8() < 200 {
        let reference = i64::from(input.u8() % 8);
        let mut headers = amq_protocol::types::FieldTable::default();
        headers.insert(
            wire::REFERENCE_HEADER.into(),
            amq_protocol::types::AMQPValue::LongLongInt(reference),
        );
        let properties = lavinmq_core::Properties::default().with_headers(headers);
        wire::put_content_header(out, n, announced, &properties);
    } else {
        let n_properties = input.amount();
        wire::put_content_header_raw(out, n, announced, input.bytes(n_properties));
    }
    wire::put_body(out, n, &body, input.of(&[16, 1000, 4096, 131_072]));
}
