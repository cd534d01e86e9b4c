//! The scripts, played by amqprs.

use std::collections::{BTreeMap, HashMap, VecDeque};

use amqprs::{
    Ack, BasicProperties, Cancel, Close, CloseChannel, DecimalValue, FieldTable, FieldValue, Nack,
    Return,
    callbacks::{ChannelCallback, ConnectionCallback},
    channel::*,
    connection::{Connection, OpenConnectionArguments},
};
use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{
    play::{Failure, Player, Properties, Seen, Shown, arguments, headers, show_return},
    script::{Step, body},
    value::Value,
};

/// What amqprs tells by callbacks.
enum Heard {
    Closed {
        channel: u16,
        code: u16,
        text: String,
    },
    ConnectionClosed {
        code: u16,
        text: String,
    },
    Cancelled(String),
    /// A confirm: the channel, the tag, `multiple`, and whether it is an ack.
    Confirm(u16, u64, bool, bool),
    Returned {
        channel: u16,
        line: String,
        body: Vec<u8>,
    },
}

struct Callbacks(mpsc::UnboundedSender<Heard>);

#[async_trait]
impl ConnectionCallback for Callbacks {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), amqprs::error::Error> {
        let (code, text) = (close.reply_code(), close.reply_text().clone());
        let _ = self.0.send(Heard::ConnectionClosed { code, text });
        Ok(())
    }

    async fn blocked(&mut self, _: &Connection, _: String) {}

    async fn unblocked(&mut self, _: &Connection) {}

    async fn secret_updated(&mut self, _: &Connection) {}
}

#[async_trait]
impl ChannelCallback for Callbacks {
    async fn close(
        &mut self,
        channel: &Channel,
        close: CloseChannel,
    ) -> Result<(), amqprs::error::Error> {
        let (code, text) = (close.reply_code(), close.reply_text().clone());
        let _ = self.0.send(Heard::Closed { channel: channel.channel_id(), code, text });
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), amqprs::error::Error> {
        let _ = self.0.send(Heard::Cancelled(cancel.consumer_tag().clone()));
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_ack(&mut self, channel: &Channel, ack: Ack) {
        let confirm = Heard::Confirm(channel.channel_id(), ack.delivery_tag(), ack.mutiple(), true);
        let _ = self.0.send(confirm);
    }

    async fn publish_nack(&mut self, channel: &Channel, nack: Nack) {
        let confirm =
            Heard::Confirm(channel.channel_id(), nack.delivery_tag(), nack.multiple(), false);
        let _ = self.0.send(confirm);
    }

    async fn publish_return(
        &mut self,
        channel: &Channel,
        returned: Return,
        properties: BasicProperties,
        body: Vec<u8>,
    ) {
        let shown = Shown {
            tag: None,
            redelivered: false,
            exchange: returned.exchange(),
            routing_key: returned.routing_key(),
            body: &body,
            properties: neutral(&properties),
        };
        let line = show_return(returned.reply_code(), returned.reply_text(), &shown);
        let _ = self.0.send(Heard::Returned { channel: channel.channel_id(), line, body });
    }
}

struct Open {
    connection: Connection,
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Heard, and not asked for yet.
    kept: VecDeque<Heard>,
}

impl Open {
    /// The next thing heard that `wanted` takes; the others stay.
    async fn hear<T>(&mut self, mut wanted: impl FnMut(&Heard) -> Option<T>) -> T {
        for at in 0..self.kept.len() {
            if let Some(found) = wanted(&self.kept[at]) {
                self.kept.remove(at);
                return found;
            }
        }
        loop {
            // Never ends: the callbacks live as long as the connection, which we hold.
            let Some(heard) = self.heard.recv().await else { std::future::pending().await };
            match wanted(&heard) {
                Some(found) => return found,
                None => self.kept.push_back(heard),
            }
        }
    }

    async fn why(&mut self, id: u16) -> Failure {
        self.hear(|heard| match heard {
            Heard::Closed { channel, code, text } if *channel == id => {
                Some(Failure::Channel(*code, text.clone()))
            }
            Heard::ConnectionClosed { code, text } => {
                Some(Failure::Connection(*code, text.clone()))
            }
            _ => None,
        })
        .await
    }
}

struct Lane {
    channel: Channel,
    /// The name of its connection.
    on: String,
    confirming: bool,
    next_tag: u64,
    /// Bodies of publishes whose confirm nobody asked for yet.
    unconfirmed: VecDeque<(u64, Vec<u8>)>,
    confirmed: BTreeMap<u64, bool>,
}

pub struct Amqprs {
    url: url::Url,
    connections: HashMap<String, Open>,
    lanes: HashMap<String, Lane>,
    /// By channel and tag.
    consumers: HashMap<(String, String), mpsc::UnboundedReceiver<ConsumerMessage>>,
    /// Names that the server chose.
    names: HashMap<String, String>,
    /// Where the callbacks of each connection speak to.
    tells: HashMap<String, mpsc::UnboundedSender<Heard>>,
}

impl Amqprs {
    pub fn new(url: &str) -> Self {
        Self {
            url: url::Url::parse(url).unwrap(),
            connections: HashMap::new(),
            lanes: HashMap::new(),
            consumers: HashMap::new(),
            names: HashMap::new(),
            tells: HashMap::new(),
        }
    }

    async fn connect(&mut self, name: &str, step: &Step) -> Seen {
        let host = self.url.host_str().unwrap();
        let user = step.option("user").unwrap_or(self.url.username());
        let password = step.option("password").or(self.url.password()).unwrap_or("guest");
        let port = self.url.port().unwrap_or(5672);
        let mut arguments = OpenConnectionArguments::new(host, port, user, password);
        let vhost = crate::vhost(&self.url);
        arguments.virtual_host(step.option("vhost").unwrap_or(&vhost));
        let connection = Connection::open(&arguments).await;
        let connection = connection.map_err(|error| Failure::Refused(error.to_string()))?;
        let (tell, heard) = mpsc::unbounded_channel();
        connection.register_callback(Callbacks(tell.clone())).await.map_err(Failure::other)?;
        let open = Open { connection, heard, kept: VecDeque::new() };
        self.connections.insert(name.to_owned(), open);
        self.tells.insert(name.to_owned(), tell);
        Ok("connected".to_owned())
    }

    fn lane(&mut self, step: &Step) -> &mut Lane {
        self.lanes.get_mut(step.word(0)).unwrap_or_else(|| panic!("no such channel: {}", step.line))
    }

    /// A word; what starts with `$` is a name that the server chose, and `?` leaves it to the server.
    fn name(&self, word: &str) -> String {
        match word.strip_prefix('$') {
            Some(variable) => self.names[variable].clone(),
            None if word == "?" => String::new(),
            None => word.to_owned(),
        }
    }

    fn open(&mut self, step: &Step) -> (&mut Open, &mut Lane) {
        let lane = self.lanes.get_mut(step.word(0)).unwrap();
        (self.connections.get_mut(&lane.on).unwrap(), lane)
    }

    async fn returned(&mut self, step: &Step) -> String {
        let (open, lane) = self.open(step);
        let id = lane.channel.channel_id();
        open.hear(|heard| match heard {
            Heard::Returned { channel, line, .. } if *channel == id => Some(line.clone()),
            _ => None,
        })
        .await
    }

    async fn confirm(&mut self, step: &Step) -> Seen {
        let (open, lane) = self.open(step);
        let id = lane.channel.channel_id();
        let (tag, body) = lane.unconfirmed.pop_front().expect("a publish before it");
        while !lane.confirmed.contains_key(&tag) {
            let (upto, multiple, ack) = open
                .hear(|heard| match heard {
                    Heard::Confirm(channel, tag, multiple, ack) if *channel == id => {
                        Some(Ok((*tag, *multiple, *ack)))
                    }
                    Heard::Closed { channel, code, text } if *channel == id => {
                        Some(Err(Failure::Channel(*code, text.clone())))
                    }
                    Heard::ConnectionClosed { code, text } => {
                        Some(Err(Failure::Connection(*code, text.clone())))
                    }
                    _ => None,
                })
                .await?;
            let from = if multiple { 1 } else { upto };
            for tag in from..=upto {
                lane.confirmed.entry(tag).or_insert(ack);
            }
        }
        let verdict = if lane.confirmed[&tag] { "ack" } else { "nack" };
        // A return comes before its confirm.
        while let Ok(heard) = open.heard.try_recv() {
            open.kept.push_back(heard);
        }
        let returned = open.kept.iter().position(|heard| {
            matches!(heard, Heard::Returned { channel, body: other, .. } if *channel == id && *other == body)
        });
        Ok(match returned.and_then(|at| open.kept.remove(at)) {
            Some(Heard::Returned { line, .. }) => format!("{line}, then {verdict}"),
            _ => verdict.to_owned(),
        })
    }

    async fn publish(&mut self, step: &Step) -> Result<String, amqprs::error::Error> {
        let mut arguments = BasicPublishArguments::new(step.word(1), &self.name(step.word(2)));
        arguments.mandatory(step.flag("mandatory")).immediate(step.flag("immediate"));
        let body = body(step.word(3));
        let lane = self.lane(step);
        if lane.confirming {
            lane.next_tag += 1;
            lane.unconfirmed.push_back((lane.next_tag, body.clone()));
        }
        lane.channel.basic_publish(properties(step), body, arguments).await?;
        Ok("published".to_owned())
    }

    async fn consume(&mut self, step: &Step) -> Result<String, amqprs::error::Error> {
        let (queue, tag) = (self.name(step.word(1)), self.name(step.word(2)));
        let mut consume = BasicConsumeArguments::new(&queue, &tag);
        consume.manual_ack(!step.flag("no-ack")).exclusive(step.flag("exclusive"));
        consume.arguments(table(&arguments(step)));
        let (tag, deliveries) = self.lane(step).channel.basic_consume_rx(consume).await?;
        if let Some(variable) = step.option("as") {
            self.names.insert(variable.to_owned(), tag.clone());
        }
        self.consumers.insert((step.word(0).to_owned(), tag.clone()), deliveries);
        Ok(format!("consumer {tag}"))
    }

    fn consumer(&mut self, step: &Step) -> &mut mpsc::UnboundedReceiver<ConsumerMessage> {
        let key = (step.word(0).to_owned(), self.name(step.word(1)).to_string());
        self.consumers.get_mut(&key).unwrap_or_else(|| panic!("no consumer: {}", step.line))
    }

    async fn method(&mut self, step: &Step) -> Result<String, amqprs::error::Error> {
        let channel = self.lane(step).channel.clone();
        let queue = step.words.get(1).map(|word| self.name(word)).unwrap_or_default();
        match step.verb.as_str() {
            "close" => {
                let lane = self.lanes.remove(step.word(0)).unwrap();
                drop(channel);
                lane.channel.close().await?;
            }
            "declare" => {
                let mut declare = QueueDeclareArguments::new(&queue);
                declare
                    .passive(step.flag("passive"))
                    .durable(!step.flag("transient"))
                    .exclusive(step.flag("exclusive"))
                    .auto_delete(step.flag("auto-delete"))
                    .arguments(table(&arguments(step)));
                let (name, messages, consumers) = channel.queue_declare(declare).await?.unwrap();
                if let Some(variable) = step.option("as") {
                    self.names.insert(variable.to_owned(), name.clone());
                }
                return Ok(format!("{name}: {messages} messages, {consumers} consumers"));
            }
            "delete" => {
                let mut delete = QueueDeleteArguments::new(&queue);
                delete.if_unused(step.flag("if-unused")).if_empty(step.flag("if-empty"));
                let messages = channel.queue_delete(delete).await?.unwrap();
                return Ok(format!("{messages} messages"));
            }
            "purge" => {
                let messages = channel.queue_purge(QueuePurgeArguments::new(&queue)).await?;
                return Ok(format!("{} messages", messages.unwrap()));
            }
            "bind" => {
                let mut bind = QueueBindArguments::new(&queue, step.word(2), step.word(3));
                bind.arguments(table(&arguments(step)));
                channel.queue_bind(bind).await?;
            }
            "unbind" => {
                let mut unbind = QueueUnbindArguments::new(&queue, step.word(2), step.word(3));
                unbind.arguments(table(&arguments(step)));
                channel.queue_unbind(unbind).await?;
            }
            "exchange" => {
                let mut declare = ExchangeDeclareArguments::new(&queue, step.word(2));
                declare
                    .passive(step.flag("passive"))
                    .durable(!step.flag("transient"))
                    .auto_delete(step.flag("auto-delete"))
                    .internal(step.flag("internal"))
                    .arguments(table(&arguments(step)));
                channel.exchange_declare(declare).await?;
            }
            "exchange-delete" => {
                let mut delete = ExchangeDeleteArguments::new(&queue);
                delete.if_unused(step.flag("if-unused"));
                channel.exchange_delete(delete).await?;
            }
            "exchange-bind" => {
                let mut bind = ExchangeBindArguments::new(&queue, step.word(2), step.word(3));
                bind.arguments(table(&arguments(step)));
                channel.exchange_bind(bind).await?;
            }
            "exchange-unbind" => {
                let mut unbind = ExchangeUnbindArguments::new(&queue, step.word(2), step.word(3));
                unbind.arguments(table(&arguments(step)));
                channel.exchange_unbind(unbind).await?;
            }
            "tx-select" => channel.tx_select().await?,
            "tx-commit" => channel.tx_commit().await?,
            "tx-rollback" => channel.tx_rollback().await?,
            "confirm-select" => {
                channel.confirm_select(ConfirmSelectArguments::default()).await?;
                self.lane(step).confirming = true;
            }
            "get" => {
                let mut get = BasicGetArguments::new(&queue);
                get.no_ack(step.flag("no-ack"));
                return Ok(match channel.basic_get(get).await? {
                    Some((got, properties, body)) => {
                        let shown = Shown {
                            tag: Some(got.delivery_tag()),
                            redelivered: got.redelivered(),
                            exchange: got.exchange(),
                            routing_key: got.routing_key(),
                            body: &body,
                            properties: neutral(&properties),
                        };
                        format!("{}, {} left", shown.show(), got.message_count())
                    }
                    None => "empty".to_owned(),
                });
            }
            "until" => {
                let wanted: u32 = step.option("messages").unwrap().parse().unwrap();
                loop {
                    let mut declare = QueueDeclareArguments::new(&queue);
                    declare.passive(true);
                    let (_, messages, _) = channel.queue_declare(declare).await?.unwrap();
                    if messages == wanted {
                        return Ok(format!("{wanted} messages"));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            }
            "qos" => {
                let size = step.option("size").map_or(0, |size| size.parse().unwrap());
                let count = step.word(1).parse().unwrap();
                channel.basic_qos(BasicQosArguments::new(size, count, step.flag("global"))).await?;
            }
            "ack" => {
                let ack =
                    BasicAckArguments::new(step.word(1).parse().unwrap(), step.flag("multiple"));
                channel.basic_ack(ack).await?;
                return Ok("sent".to_owned());
            }
            "nack" => {
                let (multiple, requeue) = (step.flag("multiple"), step.flag("requeue"));
                let tag = step.word(1).parse().unwrap();
                channel.basic_nack(BasicNackArguments::new(tag, multiple, requeue)).await?;
                return Ok("sent".to_owned());
            }
            "reject" => {
                let tag = step.word(1).parse().unwrap();
                channel.basic_reject(BasicRejectArguments::new(tag, step.flag("requeue"))).await?;
                return Ok("sent".to_owned());
            }
            "cancel" => {
                channel.basic_cancel(BasicCancelArguments::new(&queue)).await?;
            }
            "recover" => channel.basic_recover(step.flag("requeue")).await?,
            "flow" => {
                let active = channel.flow(step.word(1) == "on").await?;
                return Ok(format!("flow {}", if active { "on" } else { "off" }));
            }
            "publish" => return self.publish(step).await,
            "consume" => return self.consume(step).await,
            verb => panic!("amqprs does not know {verb}"),
        }
        Ok("ok".to_owned())
    }
}

impl Player for Amqprs {
    async fn step(&mut self, step: &Step) -> Seen {
        match step.verb.as_str() {
            "connect" => self.connect(step.word(0), step).await,
            "channel" => {
                let on = step.option("on").unwrap_or("main").to_owned();
                if !self.connections.contains_key(&on) {
                    self.connect(&on, step).await?;
                }
                let channel = self.connections[&on].connection.open_channel(None).await;
                let channel = channel.map_err(Failure::other)?;
                let callbacks = Callbacks(self.tells[&on].clone());
                channel.register_callback(callbacks).await.map_err(Failure::other)?;
                let lane = Lane {
                    channel,
                    on,
                    confirming: false,
                    next_tag: 0,
                    unconfirmed: VecDeque::new(),
                    confirmed: BTreeMap::new(),
                };
                self.lanes.insert(step.word(0).to_owned(), lane);
                Ok("ok".to_owned())
            }
            "disconnect" => {
                let open = self.connections.remove(step.word(0)).unwrap();
                open.connection.close().await.map_err(Failure::other)?;
                // Not earlier: a dropped channel closes itself, at the same time.
                self.lanes.retain(|_, lane| lane.on != step.word(0));
                Ok("ok".to_owned())
            }
            "deliver" => match self.consumer(step).recv().await {
                Some(message) => Ok(show(&message)),
                None => Ok("the consumer ended".to_owned()),
            },
            "idle" => match self.consumer(step).try_recv() {
                Ok(message) => Ok(show(&message)),
                Err(mpsc::error::TryRecvError::Empty) => Ok("nothing".to_owned()),
                Err(_) => Ok("the consumer ended".to_owned()),
            },
            "cancelled" => {
                let wanted = self.name(step.word(1));
                let (open, _) = self.open(step);
                open.hear(|heard| match heard {
                    Heard::Cancelled(tag) if *tag == wanted => Some(()),
                    _ => None,
                })
                .await;
                Ok("cancelled by the server".to_owned())
            }
            "closed" => {
                let (open, lane) = self.open(step);
                Err(open.why(lane.channel.channel_id()).await)
            }
            "confirm" => self.confirm(step).await,
            "returned" => Ok(self.returned(step).await),
            _ => match self.method(step).await {
                Ok(seen) => Ok(seen),
                // The call's own error says nothing of use.
                Err(_) => {
                    let (open, lane) = self.open(step);
                    Err(open.why(lane.channel.channel_id()).await)
                }
            },
        }
    }

    async fn end(&mut self) {
        for (_, open) in self.connections.drain() {
            let _ = open.connection.close().await;
        }
        self.lanes.clear();
    }
}

fn show(message: &ConsumerMessage) -> String {
    let deliver = message.deliver.as_ref().unwrap();
    Shown {
        tag: Some(deliver.delivery_tag()),
        redelivered: deliver.redelivered(),
        exchange: deliver.exchange(),
        routing_key: deliver.routing_key(),
        body: message.content.as_deref().unwrap_or_default(),
        properties: message.basic_properties.as_ref().map(neutral).unwrap_or_default(),
    }
    .show()
}

fn properties(step: &Step) -> BasicProperties {
    let mut set = BasicProperties::default();
    if let Some(headers) = headers(step) {
        set.with_headers(table(&headers));
    }
    for (name, value) in &step.options {
        match name.as_str() {
            "content-type" => set.with_content_type(value),
            "content-encoding" => set.with_content_encoding(value),
            "delivery-mode" => set.with_delivery_mode(value.parse().unwrap()),
            "priority" => set.with_priority(value.parse().unwrap()),
            "correlation-id" => set.with_correlation_id(value),
            "reply-to" => set.with_reply_to(value),
            "expiration" => set.with_expiration(value),
            "message-id" => set.with_message_id(value),
            "timestamp" => set.with_timestamp(value.parse().unwrap()),
            "type" => set.with_message_type(value),
            "user-id" => set.with_user_id(value),
            "app-id" => set.with_app_id(value),
            _ => &mut set,
        };
    }
    set
}

fn neutral(properties: &BasicProperties) -> Properties {
    let mut set = Properties::default();
    set.set("content-type", properties.content_type());
    set.set("content-encoding", properties.content_encoding());
    set.set("delivery-mode", properties.delivery_mode());
    set.set("priority", properties.priority());
    set.set("correlation-id", properties.correlation_id());
    set.set("reply-to", properties.reply_to());
    set.set("expiration", properties.expiration());
    set.set("message-id", properties.message_id());
    set.set("timestamp", properties.timestamp());
    set.set("type", properties.message_type());
    set.set("user-id", properties.user_id());
    set.set("app-id", properties.app_id());
    set.headers = properties.headers().map(neutral_table);
    set
}

fn neutral_table(table: &FieldTable) -> BTreeMap<String, Value> {
    let fields: &HashMap<_, _> = table.as_ref();
    fields.iter().map(|(name, value)| (name.to_string(), neutral_value(value))).collect()
}

fn neutral_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::t(value) => Value::Bool(*value),
        FieldValue::b(value) => Value::Int("i8", (*value).into()),
        FieldValue::B(value) => Value::Int("u8", (*value).into()),
        FieldValue::s(value) => Value::Int("i16", (*value).into()),
        FieldValue::u(value) => Value::Int("u16", (*value).into()),
        FieldValue::I(value) => Value::Int("i32", (*value).into()),
        FieldValue::i(value) => Value::Int("u32", (*value).into()),
        FieldValue::l(value) => Value::Int("i64", *value),
        FieldValue::f(value) => Value::Float("f32", (*value).into()),
        FieldValue::d(value) => Value::Float("f64", *value),
        // Its parts are private: they are read out of what it shows.
        FieldValue::D(value) => {
            let shown = value.to_string();
            let parts = shown.trim_start_matches("Decimal(").trim_end_matches(')');
            let (scale, value) = parts.split_once(", ").unwrap();
            Value::Decimal(scale.parse().unwrap(), value.parse().unwrap())
        }
        FieldValue::S(text) => Value::Str(text.to_string()),
        FieldValue::A(list) => {
            let list: Vec<FieldValue> = list.clone().into();
            Value::List(list.iter().map(neutral_value).collect())
        }
        FieldValue::T(value) => Value::Timestamp(*value),
        FieldValue::F(table) => Value::Table(neutral_table(table)),
        FieldValue::V => Value::Void,
        FieldValue::x(bytes) => Value::Bytes(bytes.clone().into()),
    }
}

fn table(fields: &BTreeMap<String, Value>) -> FieldTable {
    let mut table = FieldTable::new();
    for (name, value) in fields {
        table.insert(name.as_str().try_into().unwrap(), field(value));
    }
    table
}

fn field(value: &Value) -> FieldValue {
    match value {
        Value::Bool(value) => FieldValue::t(*value),
        Value::Int("i8", value) => FieldValue::b(*value as i8),
        Value::Int("u8", value) => FieldValue::B(*value as u8),
        Value::Int("i16", value) => FieldValue::s(*value as i16),
        Value::Int("u16", value) => FieldValue::u(*value as u16),
        Value::Int("i32", value) => FieldValue::I(*value as i32),
        Value::Int("u32", value) => FieldValue::i(*value as u32),
        Value::Int(_, value) => FieldValue::l(*value),
        Value::Float("f32", value) => FieldValue::f(*value as f32),
        Value::Float(_, value) => FieldValue::d(*value),
        Value::Str(text) => FieldValue::S(text.as_str().try_into().unwrap()),
        Value::Bytes(bytes) => FieldValue::x(bytes.clone().try_into().unwrap()),
        Value::Timestamp(value) => FieldValue::T(*value),
        Value::Void => FieldValue::V,
        Value::Decimal(scale, value) => FieldValue::D(DecimalValue::new(*scale, *value)),
        Value::List(values) => {
            let values: Vec<_> = values.iter().map(field).collect();
            FieldValue::A(values.try_into().unwrap())
        }
        Value::Table(fields) => FieldValue::F(table(fields)),
    }
}
