//! Sequences of what applications do and what can go wrong, on a real session and the in-process
//! broker, which is the model: the conservation law and the broker's side of every outcome are
//! checked after each step. At the end everything heals, and nothing may be left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use amq_protocol::types::AMQPValue;
use lavinmq_core::{
    BufferPolicy, Message, State, Verdict, WhenOffline,
    config::{Config, ConsumerConfig, ProducerConfig, PublishMode, QueueConfig},
    consume::{SettleRun, Settlement},
    error::Loss,
    event::{DropReason, Event, Interruption},
    ids::{ConsumerId, ProducerId},
    session::SessionEvent,
    wire,
};
use lavinmq_testing::{Personality, Settings};

use super::{input::Input, world::World};

/// More operations find nothing new, only later.
const OPERATIONS: usize = 600;
const PRODUCERS: usize = 4;
const CONSUMERS: usize = 3;
const QUEUES: [&str; 2] = ["q", "r"];

/// One input: settings, then operations.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut run = Run::new(&mut input);
    for _ in 0..OPERATIONS {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
        run.observe();
    }
    run.heal();
}

struct Producing {
    id: ProducerId,
    mode: PublishMode,
    queue: &'static str,
    mandatory: bool,
    evicts: bool,
    expires: bool,
    /// It was told to close.
    closing: bool,
    accepted: u64,
    /// What was told of each message: `None` is confirmed.
    outcomes: BTreeMap<u64, Option<Verdict>>,
    watermark: u64,
    closed: bool,
    /// The attempt that each copy in the broker says it is, by message.
    copies: BTreeMap<u64, Vec<i32>>,
    /// The latest message whose first copy the broker has.
    newest: u64,
}

struct Consuming {
    id: ConsumerId,
    no_ack: bool,
    /// Generation and tag of what the application holds.
    in_hand: Vec<(u64, u64)>,
    seen: BTreeSet<(u64, u64)>,
    opened: bool,
    refused: bool,
    ended: bool,
}

struct Run {
    world: World,
    producers: Vec<Producing>,
    consumers: Vec<Consuming>,
    received: u64,
    shut: bool,
}

impl Run {
    fn new(input: &mut Input<'_>) -> Self {
        let (first, second) = (input.u8(), input.u8());
        let mut config = Config::default();
        config.connections = 1 + (first & 1);
        config.limits.frame_max = if first & 2 == 0 { 131_072 } else { 4096 };
        config.limits.own_channels = if first & 4 == 0 { 64 } else { 1 };
        config.message_ids = first & 8 == 0;
        let personality =
            if first & 16 == 0 { Personality::LavinMq } else { Personality::RabbitMq };
        let mut world = World::new(config, Settings::new(personality));
        world.flushes = second & 1 == 1;
        world.broker.reorder_confirms(second & 2 == 2);
        world.broker.record_enqueued(true);
        for queue in QUEUES {
            world.broker.declare_queue(queue);
        }
        if second & 4 == 0 {
            world.settle();
        }
        Self { world, producers: Vec::new(), consumers: Vec::new(), received: 0, shut: false }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let c = |run: &Self, input: &mut Input<'_>| input.below(run.world.links.len());
        let now = self.world.now;
        match input.below(32) {
            0 => self.open_producer(input),
            1 => self.open_consumer(input),
            2..=6 => self.publish(input),
            7 | 8 => {
                let (c, most) = (c(self, input), input.amount());
                self.world.write(c, most);
            }
            9 => {
                let c = c(self, input);
                self.world.flush(c);
            }
            10 | 11 => {
                let (c, most) = (c(self, input), input.amount());
                self.world.carry(c, most);
            }
            12 | 13 => {
                let (c, most) = (c(self, input), input.amount());
                self.world.read(c, most);
            }
            14 | 15 => {
                self.world.serve();
            }
            16 => {
                for _ in 0..6 {
                    self.world.serve();
                }
            }
            17 | 18 => self.settle(input),
            19 => {
                let (c, late) = (c(self, input), input.bool());
                let loss = input.of(&[0, 1, 2]);
                let loss = match loss {
                    0 => Loss::Eof,
                    _ => std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
                };
                self.world.cut(c, loss, late);
            }
            20 => {
                let c = c(self, input);
                if input.bool() { self.world.refuse(c) } else { self.world.accept(c) }
            }
            21 => self.world.pass(Duration::from_millis(input.u16().into())),
            22 => match input.below(8) {
                0 => self.world.broker.hold_confirms(),
                1 => self.world.broker.release_confirms(now),
                2 => self.world.broker.nack_next(1 + u64::from(input.u8() % 4)),
                // Held and sent late they could come after a close-ok, which no broker does.
                3 => self.world.broker.hold_replies(),
                4 | 5 => self.world.broker.drop_replies(),
                6 => self.world.broker.block("low on memory", now),
                _ => self.world.broker.unblock(now),
            },
            23 => self.close_channel(input),
            24 => {
                // Codes that blame the network, not us.
                if let Some(peer) = self.peer(input) {
                    self.world.broker.close_connection(peer, 320, "maintenance", now);
                }
            }
            25 => match input.below(3) {
                0 => self.world.broker.restart(now),
                1 => self.world.broker.crash(now),
                _ => self.world.broker.cut(now),
            },
            26 => {
                let queue = input.of(&QUEUES);
                if input.bool() {
                    self.world.broker.declare_queue(queue);
                } else {
                    self.world.broker.delete_queue(queue, now);
                }
            }
            27 => {
                let queue = input.of(&QUEUES);
                for _ in 0..input.below(4) {
                    self.world.broker.put(queue, &"from elsewhere".into(), now);
                }
            }
            28 => {
                if let Some(peer) = self.peer(input) {
                    let channels = self.world.broker.channels(peer);
                    if !channels.is_empty() {
                        self.world.broker.flow(peer, input.of(&channels), input.bool(), now);
                    }
                }
            }
            29 => {
                let queue = input.of(&["q", "r", "s", ""]);
                let _ = self.world.session.declare_queue(QueueConfig::new(queue).unwrap(), now);
            }
            30 => {
                if input.bool() {
                    if !self.producers.is_empty() {
                        let at = input.below(self.producers.len());
                        let id = self.producers[at].id;
                        self.producers[at].closing = true;
                        self.world.session.close_producer(id, input.bool(), now);
                    }
                } else if !self.consumers.is_empty() {
                    let at = input.below(self.consumers.len());
                    self.world.session.close_consumer(self.consumers[at].id, now);
                }
            }
            _ => {
                if input.u8() < 32 {
                    self.world.session.shutdown(Duration::from_secs(30), now);
                    self.shut = true;
                } else if input.u8() < 16 {
                    self.world.session.abort(now);
                    self.shut = true;
                }
            }
        }
    }

    fn peer(&self, input: &mut Input<'_>) -> Option<lavinmq_testing::ConnId> {
        let c = input.below(self.world.links.len());
        self.world.links[c].peer
    }

    fn open_producer(&mut self, input: &mut Input<'_>) {
        if self.producers.len() >= PRODUCERS {
            return;
        }
        let (first, second) = (input.u8(), input.u8());
        let mode = if first & 1 == 0 { PublishMode::Confirm } else { PublishMode::FireAndForget };
        let queue = if first & 2 == 0 { "q" } else { "r" };
        let mut config = ProducerConfig::new("", queue, mode).unwrap();
        config.report_confirmed = true;
        config.policy = match first >> 2 & 3 {
            0 => BufferPolicy::Block,
            1 => BufferPolicy::Error,
            _ => BufferPolicy::DropOldest,
        };
        if first & 16 != 0 {
            config.when_offline = WhenOffline::Fail;
        }
        config.buffer_size = 1 + usize::from(second & 7);
        config.max_in_flight = 1 + usize::from(second >> 3 & 3);
        if second & 32 != 0 {
            config.buffer_bytes = 9000;
        }
        if second & 64 != 0 {
            config.ttl = Some(Duration::from_millis(500));
        }
        if second & 128 != 0 {
            config.confirm_timeout = Some(Duration::from_secs(5));
        }
        let mandatory = config.mandatory;
        let (evicts, expires) = (config.policy == BufferPolicy::DropOldest, config.ttl.is_some());
        if let Ok(id) = self.world.session.open_producer(config, self.world.now) {
            self.producers.push(Producing {
                id,
                mode,
                queue,
                mandatory,
                evicts,
                expires,
                closing: false,
                accepted: 0,
                outcomes: BTreeMap::new(),
                watermark: 0,
                closed: false,
                copies: BTreeMap::new(),
                newest: 0,
            });
        }
    }

    fn open_consumer(&mut self, input: &mut Input<'_>) {
        if self.consumers.len() >= CONSUMERS {
            return;
        }
        let choice = input.u8();
        let mut config = ConsumerConfig::new(input.of(&QUEUES)).unwrap();
        config.no_ack = choice & 1 == 1;
        config.prefetch = 1 + u16::from(choice >> 1 & 3);
        config.queue_bytes = 200;
        let no_ack = config.no_ack;
        if let Ok(id) = self.world.session.open_consumer(config, self.world.now) {
            self.consumers.push(Consuming {
                id,
                no_ack,
                in_hand: Vec::new(),
                seen: BTreeSet::new(),
                opened: false,
                refused: false,
                ended: false,
            });
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        if self.producers.is_empty() {
            return;
        }
        let at = input.below(self.producers.len());
        let length = input.of(&[16, 16, 64, 65, 4095, 4096, 9000]);
        let producer = &mut self.producers[at];
        let message = Message::new(body(at, producer.accepted + 1, length));
        let before = self.world.session.producer_stats(producer.id);
        match self.world.session.publish(producer.id, message, self.world.now) {
            Ok(sequence) => {
                producer.accepted += 1;
                assert_eq!(sequence, producer.accepted);
            }
            // It is not counted as accepted.
            Err(_) => {
                if let (Some(before), Some(after)) =
                    (before, self.world.session.producer_stats(producer.id))
                {
                    assert_eq!(before.accepted, after.accepted);
                }
            }
        }
    }

    fn settle(&mut self, input: &mut Input<'_>) {
        if self.consumers.is_empty() {
            return;
        }
        let at = input.below(self.consumers.len());
        let consumer = &mut self.consumers[at];
        if consumer.in_hand.is_empty() {
            return;
        }
        let from = input.below(consumer.in_hand.len());
        let settlement = input.of(&[
            Settlement::Ack,
            Settlement::Ack,
            Settlement::Requeue,
            Settlement::Reject,
            Settlement::RequeueLater,
        ]);
        let (generation, first) = consumer.in_hand[from];
        let last = first + u64::from(input.u8() % 4);
        consumer.in_hand.retain(|&(g, tag)| g != generation || !(first..=last).contains(&tag));
        let run = SettleRun { generation, first, last, settlement };
        self.world.session.settle(consumer.id, run, self.world.now);
    }

    fn close_channel(&mut self, input: &mut Input<'_>) {
        let Some(peer) = self.peer(input) else { return };
        let channels = self.world.broker.channels(peer);
        if channels.is_empty() {
            return;
        }
        let (class, method) = input.of(&[(60, 40), (60, 40), (0, 0), (60, 20), (60, 80)]);
        let code = input.of(&[311, 403, 404, 405, 406]);
        let channel = input.of(&channels);
        let now = self.world.now;
        self.world.broker.close_channel(peer, channel, code, "meddled", class, method, now);
    }

    /// Takes everything that the session told and the broker got, and compares.
    fn observe(&mut self) {
        self.world.drain();
        self.copies();
        // In the driver's order: batches, events, updates.
        for (id, batch) in std::mem::take(&mut self.world.batches) {
            let consumer = self.consumers.iter_mut().find(|consumer| consumer.id == id).unwrap();
            assert!(!consumer.ended, "a delivery after the end");
            for at in 0..batch.len() {
                let delivery = (batch.generation(), batch.tag(at));
                assert!(consumer.seen.insert(delivery), "{delivery:?} twice");
                assert!(is_known(batch.body(at)), "a body that nobody sent: {:?}", batch.body(at));
                if !consumer.no_ack {
                    consumer.in_hand.push(delivery);
                }
            }
            self.received += batch.len() as u64;
            self.world.session.handle_consumed(id, batch.weight(), self.world.now);
        }
        for event in std::mem::take(&mut self.world.events) {
            self.hear(event);
        }
        for update in std::mem::take(&mut self.world.updates) {
            let producer = self.producers.iter_mut().find(|p| p.id == update.producer);
            let producer = producer.expect("an update of a producer that was opened");
            assert!(!producer.closed, "an update after the last one");
            assert!((producer.watermark..=producer.accepted).contains(&update.settled));
            if producer.mode == PublishMode::Confirm {
                for sequence in producer.watermark + 1..=update.settled {
                    assert!(producer.outcomes.contains_key(&sequence), "{sequence} in silence");
                }
            }
            producer.watermark = update.settled;
            producer.closed = update.closed;
            if update.closed {
                assert_eq!(producer.watermark, producer.accepted, "closed, with messages left");
            }
        }
        self.world.drain();
        self.law();
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Settled { producer, settled } => {
                let producer = self.producers.iter_mut().find(|p| p.id == producer).unwrap();
                let sequence = settled.sequence;
                assert!((1..=producer.accepted).contains(&sequence));
                let copies = producer.copies.get(&sequence).map_or(0, Vec::len);
                match &settled.verdict {
                    // The broker confirms what no queue wanted, unless it was mandatory.
                    None => {
                        assert_eq!(producer.mode, PublishMode::Confirm);
                        assert!(copies > 0 || !producer.mandatory, "confirmed without a copy");
                    }
                    Some(Verdict::Dropped(reason)) => {
                        assert_eq!(copies, 0, "dropped ({reason}), and in the broker");
                        assert!(
                            match reason {
                                DropReason::BufferFull => producer.evicts,
                                DropReason::TtlExpired => producer.expires,
                                DropReason::Closed => producer.closing || self.shut,
                                _ => false,
                            },
                            "dropped ({reason}) for no reason"
                        );
                    }
                    Some(_) => {}
                }
                let old = producer.outcomes.insert(sequence, settled.verdict);
                assert!(old.is_none(), "a second outcome of {sequence}: first {old:?}");
            }
            SessionEvent::Generation { consumer, valid_from } => {
                let consumer = self.consumers.iter_mut().find(|c| c.id == consumer).unwrap();
                if !consumer.no_ack {
                    consumer.in_hand.retain(|&(generation, _)| generation >= valid_from);
                }
            }
            SessionEvent::HandBack { consumer } => {
                let consumer = self.consumers.iter_mut().find(|c| c.id == consumer).unwrap();
                for (generation, tag) in std::mem::take(&mut consumer.in_hand) {
                    let settlement = Settlement::Requeue;
                    let run = SettleRun { generation, first: tag, last: tag, settlement };
                    self.world.session.settle(consumer.id, run, self.world.now);
                }
            }
            SessionEvent::ConsumerOpened { consumer, result } => {
                let consumer = self.consumers.iter_mut().find(|c| c.id == consumer).unwrap();
                assert!(!consumer.ended && !std::mem::replace(&mut consumer.opened, true));
                consumer.ended = result.is_err();
                consumer.refused = result.is_err();
            }
            SessionEvent::ConsumerEnded { consumer, .. } => {
                let consumer = self.consumers.iter_mut().find(|c| c.id == consumer).unwrap();
                // One that never opened is told so, and may be told its end as well.
                assert!(!consumer.ended || consumer.refused, "a second end");
                assert!(consumer.opened, "an end before the beginning");
                consumer.refused = false;
                consumer.ended = true;
                consumer.in_hand.clear();
            }
            SessionEvent::Event(Event::State(State::Reconnecting { loss, .. })) => {
                let ours = match &loss {
                    // An honest broker breaks no rule, and has no reason to say that we did.
                    Loss::Protocol(_) | Loss::Incompatible(_) => true,
                    Loss::Closed { code, .. } => *code != 320,
                    _ => false,
                };
                assert!(!ours, "{loss}");
            }
            SessionEvent::Event(Event::ChannelClosed { code: 406, text })
            | SessionEvent::Event(Event::ConsumerInterrupted {
                why: Interruption::Refused { code: 406, text },
                ..
            }) => {
                // Tags that the broker does not know; low disk is LavinMQ's.
                assert!(text.contains("meddled") || text.contains("disk"), "{text}");
            }
            _ => {}
        }
    }

    /// What came into the broker's queues since the last time.
    fn copies(&mut self) {
        for copy in self.world.broker.take_enqueued() {
            let Some((at, sequence)) = origin(&copy.body) else {
                panic!("a copy of nothing: {:?}", copy.body);
            };
            let producer = &mut self.producers[at];
            assert_eq!(*copy.queue, *producer.queue);
            assert!((1..=producer.accepted).contains(&sequence));
            let properties = wire::decode_properties(&copy.properties).unwrap();
            let attempt = properties
                .headers()
                .as_ref()
                .and_then(|headers| headers.inner().get(wire::ATTEMPT_HEADER));
            let attempt = match attempt {
                None => 1,
                Some(AMQPValue::LongInt(attempt)) => *attempt,
                other => panic!("x-attempt: {other:?}"),
            };
            let copies = producer.copies.entry(sequence).or_default();
            // Not a copy that is sent again: the broker may have refused the first one, and its nack
            // may be lost.
            if copies.is_empty() && attempt == 1 {
                assert!(sequence > producer.newest, "{sequence} after {}", producer.newest);
                producer.newest = sequence;
            }
            copies.push(attempt);
            assert!(usize::try_from(attempt).unwrap() >= copies.len(), "attempts: {copies:?}");
            if producer.mode == PublishMode::FireAndForget {
                assert_eq!(copies[..], [1], "fire-and-forget");
            }
            let dropped =
                matches!(producer.outcomes.get(&sequence), Some(Some(Verdict::Dropped(_))));
            assert!(!dropped, "{sequence} was dropped, and came");
        }
    }

    fn law(&self) {
        let stats = self.world.session.stats();
        assert!(stats.is_conserved(), "{stats:#?}");
        let publish = stats.publish;
        assert_eq!(publish.accepted, self.producers.iter().map(|p| p.accepted).sum::<u64>());
        let told = |of: fn(&Option<Verdict>) -> bool| {
            let all = self.producers.iter().flat_map(|producer| producer.outcomes.values());
            all.filter(|outcome| of(outcome)).count() as u64
        };
        assert_eq!(publish.confirmed, told(Option::is_none));
        assert_eq!(publish.nacked, told(|o| matches!(o, Some(Verdict::Nacked))));
        assert_eq!(publish.returned, told(|o| matches!(o, Some(Verdict::Returned(_)))));
        assert_eq!(publish.failed, told(|o| matches!(o, Some(Verdict::Failed(_)))));
        assert_eq!(publish.unknown, told(|o| matches!(o, Some(Verdict::Unknown(_)))));
        for (count, reason) in [
            (publish.dropped_buffer_full, DropReason::BufferFull),
            (publish.dropped_ttl, DropReason::TtlExpired),
            (publish.dropped_closed, DropReason::Closed),
            (publish.dropped_disconnected, DropReason::Disconnected),
        ] {
            let all = self.producers.iter().flat_map(|producer| producer.outcomes.values());
            let told = all.filter(|o| **o == Some(Verdict::Dropped(reason))).count() as u64;
            assert_eq!(count, told, "dropped ({reason})");
        }
        for producer in &self.producers {
            if let Some(stats) = self.world.session.producer_stats(producer.id) {
                assert!(stats.is_conserved(), "{stats:#?}");
                assert_eq!(stats.accepted, producer.accepted);
            }
        }
        // What came on a channel that the broker had cancelled was given back, unseen.
        assert!(stats.consume.received >= self.received);
        // The broker cannot have more acks than were written. What was not flushed may be written, but
        // is still settling, or abandoned if its connection was lost.
        let acked = self.world.broker.counters().acked;
        let consume = stats.consume;
        let unflushed = if self.world.flushes { consume.settling + consume.abandoned } else { 0 };
        assert!(acked <= consume.acked + unflushed, "{acked} acked at the broker, {stats:#?}");
    }

    /// Trouble ends. Everything that was accepted gets its outcome, every queue is emptied, and the
    /// session closes with nothing left behind.
    fn heal(mut self) {
        let now = self.world.now;
        self.world.broker.unblock(now);
        self.world.broker.release_confirms(now);
        self.world.broker.drop_replies();
        self.world.broker.nack_next(0);
        for queue in QUEUES {
            self.world.broker.declare_queue(queue);
        }
        for link in &self.world.links {
            if let Some(peer) = link.peer {
                for channel in self.world.broker.channels(peer) {
                    self.world.broker.flow(peer, channel, true, now);
                }
            }
        }
        self.until("at rest", |run| {
            let publish = run.world.session.stats().publish;
            publish.queued == 0
                && publish.in_flight == 0
                && (run.shut || *run.world.session.state() == State::Connected)
                && run.consumers.iter().all(|consumer| consumer.in_hand.is_empty())
                && QUEUES.iter().all(|queue| {
                    run.world.broker.unacked(queue) == 0
                        && (run.world.broker.queue_depth(queue) == 0
                            || run.world.broker.consumer_count(queue) == 0)
                })
        });
        let shut_before = self.shut;
        self.shut = true;
        self.world.session.shutdown(Duration::from_secs(30), self.world.now);
        self.until("closed", |run| run.world.session.is_closed());
        let report = self.world.session.report();
        assert!(shut_before || report.is_clean(), "{report:?}");
        for producer in &self.producers {
            if producer.mode == PublishMode::Confirm {
                assert_eq!(producer.outcomes.len() as u64, producer.accepted);
            }
        }
        assert!(self.consumers.iter().all(|consumer| consumer.ended), "a consumer goes on");
        assert!(self.world.links.iter().all(|link| !link.up && !link.dialling));
        assert_eq!(self.world.session.poll_deadline(), None);
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            for _ in 0..200 {
                let moved = self.world.serve();
                self.observe();
                for consumer in &mut self.consumers {
                    for (generation, tag) in std::mem::take(&mut consumer.in_hand) {
                        let settlement = Settlement::Ack;
                        let run = SettleRun { generation, first: tag, last: tag, settlement };
                        self.world.session.settle(consumer.id, run, self.world.now);
                    }
                }
                if !moved {
                    break;
                }
            }
            if done(self) {
                return;
            }
            self.world.pass(Duration::from_secs(30));
            self.observe();
        }
        panic!(
            "never {what}\n{}\n{:#?}",
            self.world.session.explain(self.world.now),
            self.world.session.stats()
        );
    }
}

/// A body that says whose it is: producer, sequence, and a pattern.
fn body(producer: usize, sequence: u64, length: usize) -> Vec<u8> {
    let mut body = vec![b'p', producer as u8];
    body.extend_from_slice(&sequence.to_be_bytes());
    body.extend((body.len()..length).map(|at| at as u8));
    body
}

/// Whose a body is, if it is whole.
fn origin(bytes: &[u8]) -> Option<(usize, u64)> {
    let (&[b'p', producer], rest) = bytes.split_first_chunk()? else { return None };
    let sequence = u64::from_be_bytes(*rest.first_chunk()?);
    let whole = body(producer.into(), sequence, bytes.len()) == bytes;
    whole.then_some((producer.into(), sequence))
}

fn is_known(bytes: &[u8]) -> bool {
    bytes == b"from elsewhere" || origin(bytes).is_some()
}
