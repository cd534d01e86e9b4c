//! What the harness lacks to speak about consumers.

use std::sync::Arc;

pub use lavinmq_core::{
    config::ConsumerConfig,
    consume::{SettleRun, Settlement},
    error::ConsumeError,
    event::{EndReason, Interruption},
    session::Report,
    stats::ConsumerStats,
};

pub use crate::harness::*;

/// What a session tells about consumers, in a form that can be compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Opened(ConsumerId, Result<(), ConsumeError>),
    Generation(ConsumerId, u64),
    Written(ConsumerId, u64),
    HandBack(ConsumerId),
    Ended(ConsumerId, EndReason),
    Closed,
    Event(Event),
}

/// A delivery as the application sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    pub consumer: ConsumerId,
    pub generation: u64,
    pub tag: u64,
    pub body: String,
}

/// Settings of a consumer of this queue.
pub fn consume(queue: &str) -> ConsumerConfig {
    ConsumerConfig::new(queue).unwrap()
}

/// The same, without acks.
pub fn consume_no_ack(queue: &str) -> ConsumerConfig {
    let mut config = consume(queue);
    config.no_ack = true;
    config
}

/// The frames of a delivery.
pub fn delivery(channel: u16, tag: u64, body: &str) -> Vec<u8> {
    redelivery(channel, tag, body, false)
}

pub fn redelivery(channel: u16, tag: u64, body: &str, redelivered: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_deliver(&mut bytes, channel, "", tag, redelivered, "", "orders");
    wire::put_content_header(&mut bytes, channel, body.len() as u64, &Properties::default());
    wire::put_body(&mut bytes, channel, body.as_bytes(), 131_072);
    bytes
}

/// The frames of deliveries with consecutive tags, whose bodies are their tags.
pub fn deliveries(channel: u16, tags: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    tags.flat_map(|tag| delivery(channel, tag, &tag.to_string())).collect()
}

/// A method's frame.
pub fn method(channel: u16, class: AMQPClass) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_method(&mut bytes, channel, &class).unwrap();
    bytes
}

pub fn consume_ok(channel: u16, tag: &str) -> Vec<u8> {
    let ok = basic::ConsumeOk { consumer_tag: tag.into() };
    method(channel, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)))
}

pub fn cancel_ok(channel: u16, tag: &str) -> Vec<u8> {
    let ok = basic::CancelOk { consumer_tag: tag.into() };
    method(channel, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)))
}

pub fn server_cancel(channel: u16, tag: &str, nowait: bool) -> Vec<u8> {
    let cancel = basic::Cancel { consumer_tag: tag.into(), nowait };
    method(channel, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)))
}

pub fn channel_close(code: u16, text: &str) -> AMQPClass {
    let close =
        channel::Close { reply_code: code, reply_text: text.into(), class_id: 0, method_id: 0 };
    AMQPClass::Channel(channel::AMQPMethod::Close(close))
}

impl Stage {
    // ---- what the session writes ----------------------------------------------------------------

    pub fn expect_qos(&mut self, c: usize, channel: u16) -> u16 {
        match self.expect_method(c) {
            (n, AMQPClass::Basic(basic::AMQPMethod::Qos(qos))) => {
                assert_eq!((n, qos.global), (channel, false));
                qos.prefetch_count
            }
            other => panic!("basic.qos is due: {other:?}"),
        }
    }

    pub fn expect_consume(&mut self, c: usize, channel: u16) -> basic::Consume {
        match self.expect_method(c) {
            (n, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))) => {
                assert_eq!((n, consume.nowait), (channel, false));
                consume
            }
            other => panic!("basic.consume is due: {other:?}"),
        }
    }

    pub fn expect_cancel(&mut self, c: usize, channel: u16) -> String {
        match self.expect_method(c) {
            (n, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))) => {
                assert_eq!((n, cancel.nowait), (channel, false));
                cancel.consumer_tag.as_str().to_owned()
            }
            other => panic!("basic.cancel is due: {other:?}"),
        }
    }

    pub fn expect_cancel_ok(&mut self, c: usize, channel: u16) -> String {
        match self.expect_method(c) {
            (n, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok))) if n == channel => {
                ok.consumer_tag.as_str().to_owned()
            }
            other => panic!("basic.cancel-ok is due: {other:?}"),
        }
    }

    /// Exactly these frames, in this order.
    pub fn expect_frames(&mut self, c: usize, frames: &[Wrote]) {
        for frame in frames {
            assert_eq!(self.next(c), *frame);
        }
    }

    // ---- what the peer says ---------------------------------------------------------------------

    pub fn qos_ok(&mut self, c: usize, channel: u16) {
        self.reply(c, channel, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
    }

    /// Deliveries with these tags, whose bodies are their tags, in one read.
    pub fn deliver(&mut self, c: usize, channel: u16, tags: std::ops::RangeInclusive<u64>) {
        self.feed(c, &deliveries(channel, tags));
    }

    /// The peer closes a channel, over no method in particular.
    pub fn refuse(&mut self, c: usize, channel: u16, code: u16, text: &str) {
        self.close_channel(c, channel, code, text, (0, 0));
        self.expect_channel_close_ok(c, channel);
    }

    /// The peer subscribes a consumer up to consume-ok, which is left to the test: channel and tag.
    pub fn accept_consume(&mut self, c: usize, config: &ConsumerConfig) -> (u16, String) {
        let channel = self.expect_channel_open(c);
        self.channel_open_ok(c, channel);
        if !config.no_ack {
            assert_eq!(self.expect_qos(c, channel), config.prefetch);
            self.qos_ok(c, channel);
        }
        let consume = self.expect_consume(c, channel);
        assert_eq!((consume.queue.as_str(), consume.no_ack), (&*config.queue, config.no_ack));
        (channel, consume.consumer_tag.as_str().to_owned())
    }

    /// The same, with consume-ok.
    pub fn accept_consumer(&mut self, c: usize, config: &ConsumerConfig) -> (u16, String) {
        let (channel, tag) = self.accept_consume(c, config);
        self.feed(c, &consume_ok(channel, &tag));
        (channel, tag)
    }

    /// The peer sends these bytes and closes the channel, all in one read.
    pub fn feed_and_close(&mut self, c: usize, mut bytes: Vec<u8>, channel: u16, code: u16) {
        let close = channel_close(code, "closed");
        self.peers[c].note_reply(channel, &close);
        bytes.extend(method(channel, close));
        self.feed(c, &bytes);
    }

    /// The backoff of whoever subscribes again is over.
    pub fn wait_for_backoff(&mut self) {
        use lavinmq_core::event::DeadlineReason::{Reopen, Stable, Write};
        while let Some(deadline) = self.session.poll_deadline()
            && matches!(deadline.reason, Reopen | Stable | Write)
        {
            let wait = deadline.at - self.now;
            self.advance(wait);
        }
    }

    /// The connection is dialled again, when its backoff is over, and stands.
    pub fn reconnect(&mut self, c: usize) {
        for _ in 0..400 {
            if self.peers[c].dialling {
                break;
            }
            self.advance(100 * MS);
        }
        self.accept(c, &Broker::default());
    }

    // ---- the application ------------------------------------------------------------------------

    pub fn open_consumer(&mut self, config: &ConsumerConfig) -> ConsumerId {
        let consumer = self.session.open_consumer(config.clone(), self.now).unwrap();
        self.pump();
        consumer
    }

    /// A consumer with acks that is subscribed: its channel and tag.
    pub fn subscribed(&mut self, config: &ConsumerConfig) -> (ConsumerId, u16, String) {
        let consumer = self.open_consumer(config);
        if config.no_ack && !self.peers[NOACK].up {
            self.accept(NOACK, &Broker::default());
        }
        let c = if config.no_ack { NOACK } else { CON };
        let (channel, tag) = self.accept_consumer(c, config);
        assert_eq!(self.told(), [Told::Opened(consumer, Ok(()))]);
        (consumer, channel, tag)
    }

    /// Consumes the queue "orders".
    pub fn consuming(&mut self) -> (ConsumerId, u16, String) {
        self.subscribed(&consume("orders"))
    }

    pub fn settle(
        &mut self,
        consumer: ConsumerId,
        generation: u64,
        tags: std::ops::RangeInclusive<u64>,
        settlement: Settlement,
    ) {
        self.settle_quietly(consumer, generation, tags, settlement);
        self.pump();
    }

    /// Settles, and lets nothing be written yet.
    pub fn settle_quietly(
        &mut self,
        consumer: ConsumerId,
        generation: u64,
        tags: std::ops::RangeInclusive<u64>,
        settlement: Settlement,
    ) {
        let run = SettleRun { generation, first: *tags.start(), last: *tags.end(), settlement };
        self.session.settle(consumer, run, self.now);
    }

    /// What was handed to the application since the last call.
    pub fn got(&mut self) -> Vec<Got> {
        self.pump();
        let got = self.batches.drain(..).flat_map(|(consumer, batch)| {
            (0..batch.len())
                .map(|index| Got {
                    consumer,
                    generation: batch.generation(),
                    tag: batch.tag(index),
                    body: String::from_utf8(batch.body(index).to_vec()).unwrap(),
                })
                .collect::<Vec<_>>()
        });
        got.collect()
    }

    /// The bodies of what was handed to the application since the last call.
    pub fn got_bodies(&mut self) -> Vec<String> {
        self.got().into_iter().map(|got| got.body).collect()
    }

    /// The generation and the tags of what was handed to the application since the last call.
    pub fn got_tags(&mut self) -> (u64, Vec<u64>) {
        let got = self.got();
        let generation = got.first().expect("something was delivered").generation;
        assert!(got.iter().all(|got| got.generation == generation), "{got:?}");
        (generation, got.into_iter().map(|got| got.tag).collect())
    }

    /// What was told about consumers since the last call, in order.
    pub fn told(&mut self) -> Vec<Told> {
        let told = self.take_events(|event| {
            matches!(
                event,
                SessionEvent::ConsumerOpened { .. }
                    | SessionEvent::Generation { .. }
                    | SessionEvent::SettlesWritten { .. }
                    | SessionEvent::HandBack { .. }
                    | SessionEvent::ConsumerEnded { .. }
                    | SessionEvent::Closed
            ) || matches!(event, SessionEvent::Event(event) if !matches!(event, Event::State(_)))
        });
        told.into_iter()
            .map(|event| match event {
                SessionEvent::ConsumerOpened { consumer, result } => Told::Opened(consumer, result),
                SessionEvent::Generation { consumer, valid_from } => {
                    Told::Generation(consumer, valid_from)
                }
                SessionEvent::SettlesWritten { consumer, settles } => {
                    Told::Written(consumer, settles)
                }
                SessionEvent::HandBack { consumer } => Told::HandBack(consumer),
                SessionEvent::ConsumerEnded { consumer, reason, .. } => {
                    Told::Ended(consumer, reason)
                }
                SessionEvent::Closed => Told::Closed,
                SessionEvent::Event(event) => Told::Event(event),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// A consumer's account, in which the law holds.
    pub fn account(&mut self, consumer: ConsumerId) -> ConsumerStats {
        self.pump();
        let account = self.session.consumer_stats(consumer).unwrap();
        assert!(account.is_conserved(), "{account:#?}");
        account
    }

    /// received, acked, requeued, rejected, abandoned, in hand, settling.
    pub fn terms(&mut self, consumer: ConsumerId) -> [u64; 7] {
        let a = self.account(consumer);
        [a.received, a.acked, a.requeued, a.rejected, a.abandoned, a.in_hand, a.settling]
    }
}

pub fn ack(channel: u16, tag: u64) -> Wrote {
    Wrote::Ack { channel, tag, multiple: false }
}

pub fn ack_multiple(channel: u16, tag: u64) -> Wrote {
    Wrote::Ack { channel, tag, multiple: true }
}

pub fn requeue(channel: u16, tag: u64) -> Wrote {
    Wrote::Nack { channel, tag, multiple: false, requeue: true }
}

pub fn requeue_multiple(channel: u16, tag: u64) -> Wrote {
    Wrote::Nack { channel, tag, multiple: true, requeue: true }
}

pub fn reject(channel: u16, tag: u64) -> Wrote {
    Wrote::Nack { channel, tag, multiple: false, requeue: false }
}

pub fn interrupted(queue: &str, why: Interruption) -> Told {
    Told::Event(Event::ConsumerInterrupted { queue: queue.into(), why })
}

pub fn refused(code: u16, text: &str) -> Interruption {
    Interruption::Refused { code, text: text.into() }
}

pub fn resumed(queue: &str) -> Told {
    Told::Event(Event::ConsumerResumed { queue: queue.into() })
}

pub fn name(name: &str) -> Arc<str> {
    name.into()
}
