//! Clients made by hand: they speak to the state machine frame by frame.

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue},
    types::{AMQPValue, FieldTable},
};
use lavinmq_core::{message::Properties, time::Time, wire};
use lavinmq_testing::{BrokerState, ConnId, Ending, Personality, Settings};
use std::time::Duration;

/// What a client received.
#[derive(Clone, Debug, PartialEq)]
pub enum Got {
    Method(u16, AMQPClass),
    Deliver { channel: u16, consumer: String, tag: u64, redelivered: bool },
    Ack { channel: u16, tag: u64, multiple: bool },
    Nack { channel: u16, tag: u64, multiple: bool },
    Body(u16, Vec<u8>),
    Header(u16, u64),
    Heartbeat,
    ProtocolHeader,
}

/// A broker and its clients, at a time.
pub struct World {
    pub state: BrokerState,
    pub now: Time,
}

pub fn rabbit() -> World {
    World::new(Settings::new(Personality::RabbitMq))
}

pub fn lavin() -> World {
    World::new(Settings::new(Personality::LavinMq))
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self { state: BrokerState::with_settings(settings, 1), now: Time::ZERO }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.state.tick(self.now);
    }

    pub fn receive(&mut self, id: ConnId, bytes: &[u8]) {
        self.state.receive(id, bytes, self.now);
    }

    pub fn send(&mut self, id: ConnId, channel: u16, method: AMQPClass) {
        let mut bytes = Vec::new();
        wire::put_method(&mut bytes, channel, &method).unwrap();
        self.receive(id, &bytes);
    }

    /// Everything that the client got since it last looked.
    pub fn got(&mut self, id: ConnId) -> Vec<Got> {
        let mut bytes = self.state.output(id).to_vec();
        self.state.consume_output(id, bytes.len(), self.now);
        let mut all = Vec::new();
        if bytes.starts_with(b"AMQP") {
            bytes.drain(..8);
            all.push(Got::ProtocolHeader);
        }
        let mut rest = &bytes[..];
        while let Some((frame, n)) = wire::decode(rest, u32::MAX).unwrap() {
            rest = &rest[n..];
            all.push(got(frame));
        }
        assert!(rest.is_empty(), "half a frame");
        all
    }

    /// The only method that the client got.
    pub fn one(&mut self, id: ConnId) -> AMQPClass {
        let got = self.got(id);
        match <[Got; 1]>::try_from(got) {
            Ok([Got::Method(_, method)]) => method,
            other => panic!("not one method: {other:?}"),
        }
    }

    pub fn call(&mut self, id: ConnId, channel: u16, method: AMQPClass) -> AMQPClass {
        self.send(id, channel, method);
        self.one(id)
    }

    /// An open connection.
    pub fn open(&mut self) -> ConnId {
        self.open_with(start_ok("guest", "guest", ALL), (0, 0, 0))
    }

    pub fn open_with(&mut self, start_ok: AMQPClass, tune: (u16, u32, u16)) -> ConnId {
        let id = self.state.connect(self.now);
        self.receive(id, &wire::PROTOCOL_HEADER);
        assert!(matches!(self.one(id), AMQPClass::Connection(connection::AMQPMethod::Start(_))));
        let AMQPClass::Connection(connection::AMQPMethod::Tune(offer)) = self.call(id, 0, start_ok)
        else {
            panic!("no tune")
        };
        let tune_ok = connection::TuneOk {
            channel_max: if tune.0 == 0 { offer.channel_max } else { tune.0 },
            frame_max: if tune.1 == 0 { offer.frame_max } else { tune.1 },
            heartbeat: tune.2,
        };
        self.send(id, 0, conn(connection::AMQPMethod::TuneOk(tune_ok)));
        assert_eq!(
            self.call(id, 0, open("/")),
            conn(connection::AMQPMethod::OpenOk(connection::OpenOk {}))
        );
        id
    }

    /// An open connection with channel 1.
    pub fn client(&mut self) -> ConnId {
        let id = self.open();
        self.channel(id, 1);
        id
    }

    pub fn channel(&mut self, id: ConnId, channel: u16) {
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        let ok = AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}));
        assert_eq!(self.call(id, channel, open), ok);
    }

    pub fn declare(&mut self, id: ConnId, declare: queue::Declare) -> queue::DeclareOk {
        match self.call(id, 1, queue(queue::AMQPMethod::Declare(declare))) {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => ok,
            other => panic!("{other:?}"),
        }
    }

    /// Puts the channel into confirm mode.
    pub fn confirms(&mut self, id: ConnId) {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        let ok = AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}));
        assert_eq!(self.call(id, 1, AMQPClass::Confirm(select)), ok);
    }

    pub fn publish(&mut self, id: ConnId, exchange: &str, key: &str, body: &[u8]) {
        let bytes = publish(1, exchange, key, false, body, &Properties::default());
        self.receive(id, &bytes);
    }

    pub fn consume(&mut self, id: ConnId, queue: &str, tag: &str) {
        let consume = consume(queue, tag);
        self.send(id, 1, consume);
    }

    /// The bodies of a queue, ready or not.
    pub fn bodies(&self, queue: &str) -> Vec<String> {
        let messages = self.state.messages(queue);
        messages.iter().map(|m| String::from_utf8(m.body.to_vec()).unwrap()).collect()
    }

    pub fn ending(&self, id: ConnId) -> Option<Ending> {
        self.state.ending(id)
    }
}

fn got(frame: wire::Frame<'_>) -> Got {
    let channel = frame.channel;
    match frame.kind {
        wire::FrameKind::Heartbeat => Got::Heartbeat,
        wire::FrameKind::Body => Got::Body(channel, frame.payload.to_vec()),
        wire::FrameKind::Header => {
            Got::Header(channel, wire::decode_content_header(frame.payload).unwrap().body_size)
        }
        wire::FrameKind::Method => match wire::decode_method(frame.payload).unwrap() {
            wire::Method::Deliver(deliver) => Got::Deliver {
                channel,
                consumer: String::from_utf8(deliver.consumer_tag.to_vec()).unwrap(),
                tag: deliver.delivery_tag,
                redelivered: deliver.redelivered,
            },
            wire::Method::Ack(ack) => {
                Got::Ack { channel, tag: ack.delivery_tag, multiple: ack.multiple }
            }
            wire::Method::Nack(nack) => {
                Got::Nack { channel, tag: nack.delivery_tag, multiple: nack.multiple }
            }
            wire::Method::Other(class) => Got::Method(channel, *class),
            other => panic!("{other:?}"),
        },
    }
}

pub fn conn(method: connection::AMQPMethod) -> AMQPClass {
    AMQPClass::Connection(method)
}

pub fn queue(method: queue::AMQPMethod) -> AMQPClass {
    AMQPClass::Queue(method)
}

pub fn exchange(method: exchange::AMQPMethod) -> AMQPClass {
    AMQPClass::Exchange(method)
}

pub fn basic(method: basic::AMQPMethod) -> AMQPClass {
    AMQPClass::Basic(method)
}

/// Capabilities of a client that has them all.
pub const ALL: &[&str] =
    &["authentication_failure_close", "consumer_cancel_notify", "connection.blocked"];

pub fn start_ok(user: &str, password: &str, capabilities: &[&str]) -> AMQPClass {
    let mut table = FieldTable::default();
    for name in capabilities {
        table.insert((*name).into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(table));
    conn(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties: properties,
        mechanism: "PLAIN".into(),
        response: format!("\0{user}\0{password}").into(),
        locale: "en_US".into(),
    }))
}

pub fn open(vhost: &str) -> AMQPClass {
    conn(connection::AMQPMethod::Open(connection::Open { virtual_host: vhost.into() }))
}

pub fn durable(name: &str) -> queue::Declare {
    queue::Declare { queue: name.into(), durable: true, ..Default::default() }
}

pub fn with_arguments(name: &str, arguments: &[(&str, AMQPValue)]) -> queue::Declare {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    queue::Declare { arguments: table, ..durable(name) }
}

pub fn consume(queue: &str, tag: &str) -> AMQPClass {
    basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        ..Default::default()
    }))
}

pub fn qos(prefetch_count: u16) -> AMQPClass {
    basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count, global: false }))
}

pub fn persistent() -> Properties {
    Properties::default().with_delivery_mode(2)
}

pub fn publish(
    channel: u16,
    exchange: &str,
    key: &str,
    mandatory: bool,
    body: &[u8],
    properties: &Properties,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_publish(&mut bytes, channel, exchange, key, mandatory);
    wire::put_content_header(&mut bytes, channel, body.len() as u64, properties);
    wire::put_body(&mut bytes, channel, body, 4096);
    bytes
}

/// The reply code of a close, and whether it closes the connection, class and method.
pub fn closed(method: &AMQPClass) -> (&'static str, u16, (u16, u16)) {
    match method {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            ("channel", close.reply_code, (close.class_id, close.method_id))
        }
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            ("connection", close.reply_code, (close.class_id, close.method_id))
        }
        other => panic!("no close: {other:?}"),
    }
}

pub fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

/// Deliveries as (consumer, tag, redelivered).
pub fn deliveries(got: &[Got]) -> Vec<(String, u64, bool)> {
    got.iter()
        .filter_map(|got| match got {
            Got::Deliver { consumer, tag, redelivered, .. } => {
                Some((consumer.clone(), *tag, *redelivered))
            }
            _ => None,
        })
        .collect()
}

pub fn confirms(got: &[Got]) -> Vec<(bool, u64, bool)> {
    got.iter()
        .filter_map(|got| match got {
            Got::Ack { tag, multiple, .. } => Some((true, *tag, *multiple)),
            Got::Nack { tag, multiple, .. } => Some((false, *tag, *multiple)),
            _ => None,
        })
        .collect()
}
