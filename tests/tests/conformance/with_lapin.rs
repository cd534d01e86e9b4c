//! The scripts, played by lapin.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::Pin,
};

use futures::{FutureExt as _, Stream, StreamExt as _};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    Event, ExchangeKind, PublisherConfirm,
    message::{BasicReturnMessage, Delivery},
    options::*,
    protocol::{AMQPError, AMQPErrorKind},
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString},
};

use crate::{
    play::{Failure, Player, Properties, Seen, Shown, arguments, headers, show_return},
    script::{Step, body},
    value::Value,
};

type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

struct Open {
    connection: Connection,
    events: Events,
}

struct Lane {
    channel: Channel,
    /// The name of its connection.
    on: String,
    unconfirmed: VecDeque<PublisherConfirm>,
    returned: VecDeque<BasicReturnMessage>,
}

pub struct Lapin {
    url: url::Url,
    connections: HashMap<String, Open>,
    lanes: HashMap<String, Lane>,
    /// By channel and tag.
    consumers: HashMap<(String, String), Consumer>,
    /// Names that the server chose.
    names: HashMap<String, String>,
}

impl Lapin {
    pub fn new(url: &str) -> Self {
        Self {
            url: url::Url::parse(url).unwrap(),
            connections: HashMap::new(),
            lanes: HashMap::new(),
            consumers: HashMap::new(),
            names: HashMap::new(),
        }
    }

    async fn connect(&mut self, name: &str, step: &Step) -> Seen {
        let mut url = self.url.clone();
        if let Some(user) = step.option("user") {
            url.set_username(user).unwrap();
        }
        if let Some(password) = step.option("password") {
            url.set_password(Some(password)).unwrap();
        }
        if let Some(vhost) = step.option("vhost") {
            url.set_path(vhost);
        }
        let connection = Connection::connect(url.as_str(), ConnectionProperties::default()).await;
        let connection = connection.map_err(|error| match error.kind() {
            ErrorKind::ProtocolError(error) => Failure::Connection(error.get_id(), text(error)),
            _ => Failure::Refused(error.to_string()),
        })?;
        let events = Box::pin(connection.events_listener());
        self.connections.insert(name.to_owned(), Open { connection, events });
        Ok("connected".to_owned())
    }

    fn lane(&mut self, step: &Step) -> &mut Lane {
        self.lanes.get_mut(step.word(0)).unwrap_or_else(|| panic!("no such channel: {}", step.line))
    }

    fn channel(&mut self, step: &Step) -> Channel {
        self.lane(step).channel.clone()
    }

    /// A word; what starts with `$` is a name that the server chose, and `?` leaves it to the server.
    fn name(&self, word: &str) -> ShortString {
        match word.strip_prefix('$') {
            Some(variable) => self.names[variable].as_str().into(),
            None if word == "?" => "".into(),
            None => word.into(),
        }
    }

    /// Why the server closed a channel: lapin says it in an event, whatever the call's own error is.
    async fn why(&mut self, on: &str, error: Option<lapin::Error>) -> Failure {
        if let Some(error) = &error
            && let ErrorKind::ProtocolError(error) = error.kind()
            && let AMQPErrorKind::Hard(_) = error.kind()
        {
            return Failure::Connection(error.get_id(), text(error));
        }
        let Some(open) = self.connections.get_mut(on) else {
            return Failure::Other(format!("{error:?} without a connection"));
        };
        while let Some(event) = open.events.next().await {
            if let Event::Error(error) = event {
                return match error.kind() {
                    ErrorKind::ProtocolError(error) => match error.kind() {
                        AMQPErrorKind::Soft(_) => Failure::Channel(error.get_id(), text(error)),
                        AMQPErrorKind::Hard(_) => Failure::Connection(error.get_id(), text(error)),
                    },
                    _ => Failure::other(error),
                };
            }
        }
        Failure::Other("the events ended".to_owned())
    }

    async fn returned(&mut self, step: &Step) -> lapin::Result<String> {
        let lane = self.lane(step);
        loop {
            if let Some(message) = lane.returned.pop_front() {
                return Ok(show_returned(&message));
            }
            // A return comes before the answer to this.
            lane.channel.channel_flow(ChannelFlowOptions { active: true }).await?;
            lane.returned.extend(lane.channel.wait_for_confirms().await?);
        }
    }

    async fn confirm(&mut self, step: &Step) -> lapin::Result<String> {
        let confirm = self.lane(step).unconfirmed.pop_front().expect("a publish before it");
        let (verdict, message) = match confirm.await? {
            Confirmation::Ack(message) => ("ack", message),
            Confirmation::Nack(message) => ("nack", message),
            Confirmation::NotRequested => ("not requested", None),
        };
        Ok(match message {
            Some(message) => format!("{}, then {verdict}", show_returned(&message)),
            None => verdict.to_owned(),
        })
    }

    async fn publish(&mut self, step: &Step) -> lapin::Result<String> {
        let options = BasicPublishOptions {
            mandatory: step.flag("mandatory"),
            immediate: step.flag("immediate"),
        };
        let key = self.name(step.word(2));
        let lane = self.lane(step);
        let exchange = step.word(1).into();
        let body = body(step.word(3));
        let publish = lane.channel.basic_publish(exchange, key, options, &body, properties(step));
        let confirm = publish.await?;
        if lane.channel.status().confirm() {
            lane.unconfirmed.push_back(confirm);
        }
        Ok("published".to_owned())
    }

    async fn consume(&mut self, step: &Step) -> lapin::Result<String> {
        let options = BasicConsumeOptions {
            no_ack: step.flag("no-ack"),
            exclusive: step.flag("exclusive"),
            ..Default::default()
        };
        let (queue, tag) = (self.name(step.word(1)), self.name(step.word(2)));
        let channel = self.channel(step);
        let consumer = channel.basic_consume(queue, tag, options, table(&arguments(step))).await?;
        let tag = consumer.tag();
        if let Some(variable) = step.option("as") {
            self.names.insert(variable.to_owned(), tag.to_string());
        }
        let key = (step.word(0).to_owned(), tag.to_string());
        // Dropped, it would cancel itself.
        self.consumers.insert(key, consumer);
        Ok(format!("consumer {tag}"))
    }

    fn consumer(&mut self, step: &Step) -> &mut Consumer {
        let key = (step.word(0).to_owned(), self.name(step.word(1)).to_string());
        self.consumers.get_mut(&key).unwrap_or_else(|| panic!("no consumer: {}", step.line))
    }

    async fn method(&mut self, step: &Step) -> lapin::Result<String> {
        let channel = self.channel(step);
        let queue = step.words.get(1).map(|word| self.name(word)).unwrap_or_default();
        match step.verb.as_str() {
            "close" => channel.close(200, "done".into()).await?,
            "declare" => {
                let options = QueueDeclareOptions {
                    passive: step.flag("passive"),
                    durable: !step.flag("transient"),
                    exclusive: step.flag("exclusive"),
                    auto_delete: step.flag("auto-delete"),
                    nowait: false,
                };
                let queue = channel.queue_declare(queue, options, table(&arguments(step))).await?;
                if let Some(variable) = step.option("as") {
                    self.names.insert(variable.to_owned(), queue.name().to_string());
                }
                let (messages, consumers) = (queue.message_count(), queue.consumer_count());
                return Ok(format!("{}: {messages} messages, {consumers} consumers", queue.name()));
            }
            "delete" => {
                let options = QueueDeleteOptions {
                    if_unused: step.flag("if-unused"),
                    if_empty: step.flag("if-empty"),
                    nowait: false,
                };
                let messages = channel.queue_delete(queue, options).await?;
                return Ok(format!("{messages} messages"));
            }
            "purge" => {
                let messages = channel.queue_purge(queue, QueuePurgeOptions::default()).await?;
                return Ok(format!("{messages} messages"));
            }
            "bind" => {
                let (exchange, key) = (step.word(2).into(), step.word(3).into());
                let options = QueueBindOptions::default();
                channel.queue_bind(queue, exchange, key, options, table(&arguments(step))).await?;
            }
            "unbind" => {
                let (exchange, key) = (step.word(2).into(), step.word(3).into());
                channel.queue_unbind(queue, exchange, key, table(&arguments(step))).await?;
            }
            "exchange" => {
                let options = ExchangeDeclareOptions {
                    passive: step.flag("passive"),
                    durable: !step.flag("transient"),
                    auto_delete: step.flag("auto-delete"),
                    internal: step.flag("internal"),
                    nowait: false,
                };
                let kind = ExchangeKind::Custom(step.word(2).to_owned());
                channel.exchange_declare(queue, kind, options, table(&arguments(step))).await?;
            }
            "exchange-delete" => {
                let options =
                    ExchangeDeleteOptions { if_unused: step.flag("if-unused"), nowait: false };
                channel.exchange_delete(queue, options).await?;
            }
            "exchange-bind" => {
                let (source, key) = (step.word(2).into(), step.word(3).into());
                let options = ExchangeBindOptions::default();
                channel.exchange_bind(queue, source, key, options, table(&arguments(step))).await?;
            }
            "exchange-unbind" => {
                let (source, key) = (step.word(2).into(), step.word(3).into());
                let options = ExchangeUnbindOptions::default();
                channel
                    .exchange_unbind(queue, source, key, options, table(&arguments(step)))
                    .await?;
            }
            "tx-select" => channel.tx_select().await?,
            "tx-commit" => channel.tx_commit().await?,
            "tx-rollback" => channel.tx_rollback().await?,
            "confirm-select" => channel.confirm_select(ConfirmSelectOptions::default()).await?,
            "get" => {
                let options = BasicGetOptions { no_ack: step.flag("no-ack") };
                return Ok(match channel.basic_get(queue, options).await? {
                    Some(got) => {
                        format!("{}, {} left", show(&got.delivery), got.message_count)
                    }
                    None => "empty".to_owned(),
                });
            }
            "until" => {
                let wanted: u32 = step.option("messages").unwrap().parse().unwrap();
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                loop {
                    let state =
                        channel.queue_declare(queue.clone(), options, FieldTable::default());
                    if state.await?.message_count() == wanted {
                        return Ok(format!("{wanted} messages"));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            }
            "qos" => {
                let options = BasicQosOptions { global: step.flag("global") };
                channel.basic_qos(step.word(1).parse().unwrap(), options).await?;
            }
            "ack" => {
                let options = BasicAckOptions { multiple: step.flag("multiple") };
                channel.basic_ack(step.word(1).parse().unwrap(), options).await?;
                return Ok("sent".to_owned());
            }
            "nack" => {
                let options = BasicNackOptions {
                    multiple: step.flag("multiple"),
                    requeue: step.flag("requeue"),
                };
                channel.basic_nack(step.word(1).parse().unwrap(), options).await?;
                return Ok("sent".to_owned());
            }
            "reject" => {
                let options = BasicRejectOptions { requeue: step.flag("requeue") };
                channel.basic_reject(step.word(1).parse().unwrap(), options).await?;
                return Ok("sent".to_owned());
            }
            "cancel" => channel.basic_cancel(queue, BasicCancelOptions::default()).await?,
            "recover" => {
                let options = BasicRecoverOptions { requeue: step.flag("requeue") };
                channel.basic_recover(options).await?;
            }
            "flow" => {
                let active = step.word(1) == "on";
                let active = channel.channel_flow(ChannelFlowOptions { active }).await?;
                return Ok(format!("flow {}", if active { "on" } else { "off" }));
            }
            "publish" => return self.publish(step).await,
            "confirm" => return self.confirm(step).await,
            "returned" => return self.returned(step).await,
            "consume" => return self.consume(step).await,
            verb => panic!("lapin does not know {verb}"),
        }
        Ok("ok".to_owned())
    }
}

impl Player for Lapin {
    async fn step(&mut self, step: &Step) -> Seen {
        match step.verb.as_str() {
            "connect" => self.connect(step.word(0), step).await,
            "channel" => {
                let on = step.option("on").unwrap_or("main").to_owned();
                if !self.connections.contains_key(&on) {
                    self.connect(&on, step).await?;
                }
                let channel = self.connections[&on].connection.create_channel().await;
                let channel = channel.map_err(Failure::other)?;
                let (unconfirmed, returned) = (VecDeque::new(), VecDeque::new());
                let lane = Lane { channel, on, unconfirmed, returned };
                self.lanes.insert(step.word(0).to_owned(), lane);
                Ok("ok".to_owned())
            }
            "disconnect" => {
                let open = self.connections.remove(step.word(0)).unwrap();
                open.connection.close(200, "done".into()).await.map_err(Failure::other)?;
                Ok("ok".to_owned())
            }
            "deliver" => match self.consumer(step).next().await {
                Some(Ok(delivery)) => Ok(show(&delivery)),
                Some(Err(error)) => Err(Failure::other(error)),
                None => Ok("the consumer ended".to_owned()),
            },
            "idle" => match self.consumer(step).next().now_or_never() {
                None => Ok("nothing".to_owned()),
                Some(Some(Ok(delivery))) => Ok(show(&delivery)),
                Some(_) => Ok("the consumer ended".to_owned()),
            },
            "cancelled" => match self.consumer(step).next().await {
                None => Ok("cancelled by the server".to_owned()),
                Some(other) => Ok(format!("not cancelled: {other:?}")),
            },
            "closed" => {
                let on = self.lane(step).on.clone();
                Err(self.why(&on, None).await)
            }
            _ => match self.method(step).await {
                Ok(seen) => Ok(seen),
                Err(error) => {
                    let on = self.lane(step).on.clone();
                    Err(self.why(&on, Some(error)).await)
                }
            },
        }
    }

    async fn end(&mut self) {
        for (_, open) in self.connections.drain() {
            let _ = open.connection.close(200, "done".into()).await;
        }
    }
}

fn text(error: &AMQPError) -> String {
    error.get_message().to_string()
}

fn show(delivery: &Delivery) -> String {
    shown(delivery, true).show()
}

fn show_returned(message: &BasicReturnMessage) -> String {
    let shown = shown(&message.delivery, false);
    show_return(message.reply_code, message.reply_text.as_str(), &shown)
}

fn shown(delivery: &Delivery, tagged: bool) -> Shown<'_> {
    Shown {
        tag: tagged.then_some(delivery.delivery_tag),
        redelivered: delivery.redelivered,
        exchange: delivery.exchange.as_str(),
        routing_key: delivery.routing_key.as_str(),
        body: &delivery.data,
        properties: neutral(&delivery.properties),
    }
}

fn properties(step: &Step) -> BasicProperties {
    let mut set = BasicProperties::default();
    if let Some(headers) = headers(step) {
        set = set.with_headers(table(&headers));
    }
    for (name, value) in &step.options {
        let text = || ShortString::from(value.as_str());
        set = match name.as_str() {
            "content-type" => set.with_content_type(text()),
            "content-encoding" => set.with_content_encoding(text()),
            "delivery-mode" => set.with_delivery_mode(value.parse().unwrap()),
            "priority" => set.with_priority(value.parse().unwrap()),
            "correlation-id" => set.with_correlation_id(text()),
            "reply-to" => set.with_reply_to(text()),
            "expiration" => set.with_expiration(text()),
            "message-id" => set.with_message_id(text()),
            "timestamp" => set.with_timestamp(value.parse().unwrap()),
            "type" => set.with_type(text()),
            "user-id" => set.with_user_id(text()),
            "app-id" => set.with_app_id(text()),
            _ => set,
        };
    }
    set
}

fn neutral(properties: &BasicProperties) -> Properties {
    let mut set = Properties::default();
    set.set("content-type", properties.content_type().as_ref());
    set.set("content-encoding", properties.content_encoding().as_ref());
    set.set("delivery-mode", *properties.delivery_mode());
    set.set("priority", *properties.priority());
    set.set("correlation-id", properties.correlation_id().as_ref());
    set.set("reply-to", properties.reply_to().as_ref());
    set.set("expiration", properties.expiration().as_ref());
    set.set("message-id", properties.message_id().as_ref());
    set.set("timestamp", *properties.timestamp());
    set.set("type", properties.kind().as_ref());
    set.set("user-id", properties.user_id().as_ref());
    set.set("app-id", properties.app_id().as_ref());
    set.headers = properties.headers().as_ref().map(neutral_table);
    set
}

fn neutral_table(table: &FieldTable) -> BTreeMap<String, Value> {
    table.inner().iter().map(|(name, value)| (name.to_string(), neutral_value(value))).collect()
}

fn neutral_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::ShortShortInt(value) => Value::Int("i8", (*value).into()),
        AMQPValue::ShortShortUInt(value) => Value::Int("u8", (*value).into()),
        AMQPValue::ShortInt(value) => Value::Int("i16", (*value).into()),
        AMQPValue::ShortUInt(value) => Value::Int("u16", (*value).into()),
        AMQPValue::LongInt(value) => Value::Int("i32", (*value).into()),
        AMQPValue::LongUInt(value) => Value::Int("u32", (*value).into()),
        AMQPValue::LongLongInt(value) => Value::Int("i64", *value),
        AMQPValue::Float(value) => Value::Float("f32", (*value).into()),
        AMQPValue::Double(value) => Value::Float("f64", *value),
        AMQPValue::DecimalValue(value) => Value::Decimal(value.scale, value.value as i32),
        AMQPValue::ShortString(text) => Value::Str(text.to_string()),
        AMQPValue::LongString(text) => Value::Str(text.to_string()),
        AMQPValue::FieldArray(list) => {
            Value::List(list.as_slice().iter().map(neutral_value).collect())
        }
        AMQPValue::Timestamp(value) => Value::Timestamp(*value),
        AMQPValue::FieldTable(table) => Value::Table(neutral_table(table)),
        AMQPValue::ByteArray(bytes) => Value::Bytes(bytes.as_slice().to_vec()),
        AMQPValue::Void => Value::Void,
    }
}

fn table(fields: &BTreeMap<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert(name.as_str().into(), field(value));
    }
    table
}

fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Int("i8", value) => AMQPValue::ShortShortInt(*value as i8),
        Value::Int("u8", value) => AMQPValue::ShortShortUInt(*value as u8),
        Value::Int("i16", value) => AMQPValue::ShortInt(*value as i16),
        Value::Int("u16", value) => AMQPValue::ShortUInt(*value as u16),
        Value::Int("i32", value) => AMQPValue::LongInt(*value as i32),
        Value::Int("u32", value) => AMQPValue::LongUInt(*value as u32),
        Value::Int(_, value) => AMQPValue::LongLongInt(*value),
        Value::Float("f32", value) => AMQPValue::Float(*value as f32),
        Value::Float(_, value) => AMQPValue::Double(*value),
        Value::Str(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Bytes(bytes) => AMQPValue::ByteArray(bytes.clone().into()),
        Value::Timestamp(value) => AMQPValue::Timestamp(*value),
        Value::Void => AMQPValue::Void,
        Value::Decimal(scale, value) => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value as u32 })
        }
        Value::List(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(field).collect::<Vec<_>>()))
        }
        Value::Table(fields) => AMQPValue::FieldTable(table(fields)),
    }
}
