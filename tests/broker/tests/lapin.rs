//! Somebody else's client against the in-process broker, and the same scenarios against a real one:
//! `AMQP_TEST_URL=amqp://… cargo test -p lavinmq-testing --test lapin -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "tests may panic")]

use std::time::Duration;

use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, Event,
    ExchangeKind,
    message::Delivery,
    options::*,
    types::{AMQPValue, FieldTable},
};
use lavinmq_testing::{Broker, Direction, FaultLink, Personality};

/// Longer than anything here takes; only so that a defect is a failure and not a hang.
const LONG: Duration = Duration::from_secs(60);

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("connect")
}

async fn channel(connection: &Connection) -> Channel {
    connection.create_channel().await.expect("channel")
}

/// A queue of the test's own, empty.
async fn queue(channel: &Channel, name: &str, arguments: FieldTable) {
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("delete");
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.into(), options, arguments).await.expect("declare");
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = channel(connection).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm.select");
    channel
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    mandatory: bool,
    body: &[u8],
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory, ..Default::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await
}

async fn ready(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let queue = channel.queue_declare(queue.into(), options, FieldTable::default());
    queue.await.expect("passive declare").message_count()
}

async fn subscribe(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Consumer {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("qos");
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    consumer.await.expect("consume")
}

async fn next(consumer: &mut lapin::Consumer) -> Delivery {
    consumer.next().await.expect("a delivery").expect("a delivery")
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.data.clone()).unwrap()
}

fn code<T: std::fmt::Debug>(result: lapin::Result<T>) -> u16 {
    match result.expect_err("an error").kind() {
        ErrorKind::ProtocolError(error) => error.get_id(),
        other => panic!("{other:?}"),
    }
}

/// A thousand confirmed messages, consumed in order and acked.
async fn a_thousand_messages(url: String) {
    let connection = connect(&url).await;
    let producer = confirming(&connection).await;
    queue(&producer, "thousand", FieldTable::default()).await;
    let mut confirms = Vec::new();
    for i in 0..1000 {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        let body = i.to_string();
        let publish = producer.basic_publish(
            "".into(),
            "thousand".into(),
            options,
            body.as_bytes(),
            properties,
        );
        confirms.push(publish.await.unwrap());
    }
    for confirm in confirms {
        assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
    }
    assert_eq!(ready(&producer, "thousand").await, 1000);
    let consuming = channel(&connection).await;
    let mut consumer = subscribe(&consuming, "thousand", 10).await;
    for i in 0..1000 {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.redelivered), (i.to_string(), false));
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    // An RPC on the consumer's channel: the acks came before it.
    let cancel = consuming.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    cancel.await.unwrap();
    assert_eq!(ready(&consuming, "thousand").await, 0);
    connection.close(200, "bye".into()).await.unwrap();
}

/// Mandatory, and no queue: a return, then an ack. Not mandatory: an ack alone.
async fn a_mandatory_return(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    channel
        .queue_delete("nobody".into(), QueueDeleteOptions::default())
        .await
        .expect("deleting what does not exist succeeds");
    let confirmation = publish(&channel, "", "nobody", true, b"back").await.unwrap();
    assert!(confirmation.is_ack());
    let returned = confirmation.take_message().expect("a returned message");
    assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
    assert_eq!(returned.delivery.data, b"back");
    let confirmation = publish(&channel, "", "nobody", false, b"gone").await.unwrap();
    assert_eq!(confirmation, Confirmation::Ack(None));
}

/// At most `prefetch` messages are out; an ack makes room for one.
async fn prefetch_is_respected(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    queue(&channel, "prefetch", FieldTable::default()).await;
    for _ in 0..20 {
        publish(&channel, "", "prefetch", false, b"x").await.unwrap();
    }
    let mut consumer = subscribe(&channel, "prefetch", 5).await;
    let mut deliveries = Vec::new();
    for _ in 0..5 {
        deliveries.push(next(&mut consumer).await);
    }
    assert_eq!(ready(&channel, "prefetch").await, 15);
    let two = BasicAckOptions { multiple: true };
    deliveries[1].acker.ack(two).await.unwrap();
    next(&mut consumer).await;
    next(&mut consumer).await;
    assert_eq!(ready(&channel, "prefetch").await, 13);
}

/// A deleted queue cancels its consumers.
async fn deleting_a_queue_cancels(url: String) {
    let connection = connect(&url).await;
    let (consuming, other) = (channel(&connection).await, channel(&connection).await);
    queue(&consuming, "deleted", FieldTable::default()).await;
    let mut consumer = subscribe(&consuming, "deleted", 5).await;
    other.queue_delete("deleted".into(), QueueDeleteOptions::default()).await.unwrap();
    assert!(consumer.next().await.is_none(), "the consumer ends");
}

/// What is requeued, or left unsettled by a channel that closes, comes again, in its old place.
async fn requeued_messages_keep_their_place(url: String) {
    let connection = connect(&url).await;
    let channel1 = confirming(&connection).await;
    queue(&channel1, "requeue", FieldTable::default()).await;
    for body in ["a", "b", "c", "d"] {
        publish(&channel1, "", "requeue", false, body.as_bytes()).await.unwrap();
    }
    let mut consumer = subscribe(&channel1, "requeue", 3).await;
    let first = [next(&mut consumer).await, next(&mut consumer).await, next(&mut consumer).await];
    assert_eq!(first.each_ref().map(text), ["a", "b", "c"]);
    first[1].acker.ack(BasicAckOptions::default()).await.unwrap();
    assert_eq!(text(&next(&mut consumer).await), "d");
    channel1.close(200, "enough".into()).await.unwrap();
    let channel2 = channel(&connection).await;
    let mut consumer = subscribe(&channel2, "requeue", 0).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        again.push((text(&delivery), delivery.redelivered));
        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
    }
    let expected = [("a", true), ("c", true), ("d", true)];
    assert_eq!(again, expected.map(|(body, again)| (body.to_owned(), again)));
}

/// `basic.get`: a message with the number of those left, then none.
async fn get(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    queue(&channel, "get", FieldTable::default()).await;
    publish(&channel, "", "get", false, b"1").await.unwrap();
    publish(&channel, "", "get", false, b"2").await.unwrap();
    let options = BasicGetOptions { no_ack: true };
    let message = channel.basic_get("get".into(), options).await.unwrap().expect("a message");
    assert_eq!((message.delivery.data.as_slice(), message.message_count), (&b"1"[..], 1));
    assert!(channel.basic_get("get".into(), options).await.unwrap().is_some());
    assert!(channel.basic_get("get".into(), options).await.unwrap().is_none());
}

/// The mistakes that close a channel, each with its code.
async fn mistakes_close_the_channel(url: String) {
    let connection = connect(&url).await;
    let setup = channel(&connection).await;
    queue(&setup, "mistakes", FieldTable::default()).await;
    let table = FieldTable::default;
    let wrong = confirming(&connection).await;
    assert_eq!(code(publish(&wrong, "no such exchange", "", false, b"").await), 404);
    let wrong = channel(&connection).await;
    let transient = QueueDeclareOptions::default();
    assert_eq!(code(wrong.queue_declare("mistakes".into(), transient, table()).await), 406);
    let wrong = channel(&connection).await;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    assert_eq!(code(wrong.queue_declare("no such queue".into(), passive, table()).await), 404);
    let wrong = channel(&connection).await;
    let consume =
        wrong.basic_consume("no such queue".into(), "".into(), Default::default(), table());
    assert_eq!(code(consume.await), 404);
    let wrong = channel(&connection).await;
    let reserved = QueueDeclareOptions { durable: true, ..Default::default() };
    assert_eq!(code(wrong.queue_declare("amq.mine".into(), reserved, table()).await), 403);
    // An exclusive queue belongs to its connection.
    let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
    setup.queue_declare("exclusive".into(), exclusive, table()).await.unwrap();
    let other = connect(&url).await;
    let wrong = channel(&other).await;
    assert_eq!(code(wrong.queue_declare("exclusive".into(), exclusive, table()).await), 405);
}

/// Fanout, topic, unbinding, and exchange to exchange.
async fn exchanges_route(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    queue(&channel, "routed", FieldTable::default()).await;
    let table = FieldTable::default;
    let temporary = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
    for (name, kind) in [("ex.fanout", ExchangeKind::Fanout), ("ex.topic", ExchangeKind::Topic)] {
        channel.exchange_delete(name.into(), Default::default()).await.unwrap();
        channel.exchange_declare(name.into(), kind, temporary, table()).await.unwrap();
    }
    let bind = |key: &str| {
        let key = key.to_owned();
        let channel = channel.clone();
        async move {
            let options = QueueBindOptions::default();
            let bind = channel.queue_bind(
                "routed".into(),
                "ex.topic".into(),
                key.as_str().into(),
                options,
                FieldTable::default(),
            );
            bind.await.unwrap();
        }
    };
    bind("orders.*.new").await;
    bind("#.urgent").await;
    channel
        .exchange_bind(
            "ex.topic".into(),
            "ex.fanout".into(),
            "".into(),
            Default::default(),
            table(),
        )
        .await
        .unwrap();
    for (exchange, key, matches) in [
        ("ex.topic", "orders.eu.new", true),
        ("ex.topic", "orders.eu.old", false),
        ("ex.topic", "orders.new.urgent", true),
        ("ex.topic", "urgent", true),
        ("ex.fanout", "a.b.urgent", true),
        ("ex.fanout", "a.b", false),
    ] {
        let returned = publish(&channel, exchange, key, true, b"").await.unwrap().take_message();
        assert_eq!(returned.is_none(), matches, "{exchange} {key}");
    }
    assert_eq!(ready(&channel, "routed").await, 4);
    channel
        .queue_unbind("routed".into(), "ex.topic".into(), "#.urgent".into(), table())
        .await
        .unwrap();
    let returned = publish(&channel, "ex.topic", "urgent", true, b"").await.unwrap();
    assert!(returned.take_message().is_some());
}

/// A full queue drops its head, or nacks.
async fn full_queues(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    let limit = |overflow: &str| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(2));
        arguments.insert("x-overflow".into(), AMQPValue::LongString(overflow.into()));
        arguments
    };
    queue(&channel, "rejects", limit("reject-publish")).await;
    let mut nacks = 0;
    for _ in 0..10 {
        nacks += u32::from(publish(&channel, "", "rejects", false, b"x").await.unwrap().is_nack());
    }
    assert_eq!((nacks, ready(&channel, "rejects").await), (8, 2));
    queue(&channel, "drops", limit("drop-head")).await;
    for body in ["1", "2", "3"] {
        assert!(publish(&channel, "", "drops", false, body.as_bytes()).await.unwrap().is_ack());
    }
    let get = channel.basic_get("drops".into(), BasicGetOptions { no_ack: true });
    assert_eq!(get.await.unwrap().expect("a message").delivery.data, b"2");
}

/// A body of many frames comes back as it was.
async fn large_bodies(url: String) {
    let connection = connect(&url).await;
    let channel = confirming(&connection).await;
    queue(&channel, "large", FieldTable::default()).await;
    let body: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    publish(&channel, "", "large", false, &body).await.unwrap();
    let mut consumer = subscribe(&channel, "large", 1).await;
    assert_eq!(next(&mut consumer).await.data, body);
}

/// Each scenario against both personalities, and against a real broker where one is named.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        mod in_process {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $name() {
                    for personality in [Personality::RabbitMq, Personality::LavinMq] {
                        let broker =
                            Broker::builder().personality(personality).start().expect("a broker");
                        let scenario = super::$name(broker.url());
                        tokio::time::timeout(LONG, scenario).await.expect("no hang");
                    }
                }
            )*
        }
        mod external {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                #[ignore = "needs a broker at AMQP_TEST_URL"]
                async fn $name() {
                    let url = std::env::var("AMQP_TEST_URL").expect("AMQP_TEST_URL");
                    tokio::time::timeout(LONG, super::$name(url)).await.expect("no hang");
                }
            )*
        }
    };
}

scenarios!(
    a_thousand_messages,
    a_mandatory_return,
    prefetch_is_respected,
    deleting_a_queue_cancels,
    requeued_messages_keep_their_place,
    get,
    mistakes_close_the_channel,
    exchanges_route,
    full_queues,
    large_bodies,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn s21_blocked_is_notified() {
    let broker = Broker::builder().personality(Personality::RabbitMq).start().unwrap();
    let connection = connect(&broker.url()).await;
    let mut events = std::pin::pin!(connection.events_listener());
    let channel = confirming(&connection).await;
    queue(&channel, "blocked", FieldTable::default()).await;
    broker.block("low on memory");
    let waits = tokio::spawn({
        let channel = channel.clone();
        async move { publish(&channel, "", "blocked", false, b"1").await }
    });
    let mut next = async || loop {
        match tokio::time::timeout(LONG, events.next()).await.unwrap().unwrap() {
            Event::ConnectionBlocked(reason) => return Some(reason),
            Event::ConnectionUnblocked => return None,
            _ => {}
        }
    };
    assert_eq!(next().await.as_deref(), Some("low on memory"));
    assert_eq!(broker.depth("blocked"), 0);
    broker.unblock();
    assert_eq!(next().await, None);
    assert!(waits.await.unwrap().unwrap().is_ack());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn held_confirms_stay_in_flight_and_nacks_come_when_asked_for() {
    let broker = Broker::start().unwrap();
    let connection = connect(&broker.url()).await;
    let channel = confirming(&connection).await;
    queue(&channel, "held", FieldTable::default()).await;
    broker.hold_confirms();
    let held = tokio::spawn({
        let channel = channel.clone();
        async move { publish(&channel, "", "held", false, b"1").await }
    });
    assert!(broker.wait_until(LONG, |state| state.queue_depth("held") == 1));
    assert!(!held.is_finished());
    broker.release_confirms();
    assert!(held.await.unwrap().unwrap().is_ack());
    broker.nack_next(1);
    assert!(publish(&channel, "", "held", false, b"2").await.unwrap().is_nack());
    assert!(publish(&channel, "", "held", false, b"3").await.unwrap().is_ack());
    let bodies: Vec<_> = broker.messages("held").into_iter().map(|m| m.body).collect();
    assert_eq!(bodies, ["1", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn f09_a_link_cut_in_the_middle_of_a_publish_leaves_whole_messages_only() {
    let broker = Broker::start().unwrap();
    let link = FaultLink::start(broker.addr()).unwrap();
    let connection = connect(&broker.url_at(link.addr())).await;
    let producer = channel(&connection).await;
    queue(&producer, "cut", FieldTable::default()).await;
    // One publish is 104 bytes: the cut is in the eleventh.
    let one = {
        let before = link.counters().to_broker;
        let body = [7; 50];
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let publish =
            producer.basic_publish("".into(), "cut".into(), options, &body, properties.clone());
        publish.await.unwrap();
        assert!(broker.wait_until(LONG, |state| state.queue_depth("cut") == 1));
        link.counters().to_broker - before
    };
    link.cut_after(one * 10 + one / 2, Direction::ToBroker);
    while producer.status().connected() {
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        let publish =
            producer.basic_publish("".into(), "cut".into(), options, &[7; 50], properties);
        if publish.await.is_err() {
            break;
        }
    }
    assert!(link.wait_until(LONG, |counters| counters.cuts == 1));
    assert!(broker.wait_until(LONG, |state| state.connections().is_empty()));
    assert_eq!(broker.depth("cut"), 11);
    assert_eq!(link.counters().cuts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn f19_a_stopped_broker_refuses_and_comes_back_with_what_is_durable() {
    for personality in [Personality::RabbitMq, Personality::LavinMq] {
        let broker = Broker::builder().personality(personality).start().unwrap();
        let url = broker.url();
        let connection = connect(&url).await;
        let channel1 = confirming(&connection).await;
        queue(&channel1, "kept", FieldTable::default()).await;
        publish(&channel1, "", "kept", false, b"persistent").await.unwrap();
        let transient = BasicProperties::default();
        let publish =
            channel1.basic_publish("".into(), "kept".into(), Default::default(), b"x", transient);
        publish.await.unwrap().await.unwrap();
        assert_eq!(broker.depth("kept"), 2);
        broker.stop();
        assert!(Connection::connect(&url, ConnectionProperties::default()).await.is_err());
        broker.resume().unwrap();
        let connection = connect(&url).await;
        let channel2 = channel(&connection).await;
        assert_eq!(ready(&channel2, "kept").await, 1);
        broker.cut();
        assert!(broker.wait_until(LONG, |state| state.connections().is_empty()));
    }
}
