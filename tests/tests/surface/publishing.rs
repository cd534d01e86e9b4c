use std::borrow::Cow;

use bytes::Bytes;
use futures::{FutureExt as _, future::FusedFuture as _};
use lavinmq_core::{
    PublishError, Verdict, error::InvalidMessage, event::FailReason, message::Message,
    types::AMQPValue,
};

use crate::{
    runtimes::{Rt, eventually},
    stage::{bodies, broker, confirming, connect, forgetting, stop, until_depth},
};

pub async fn every_kind_of_body_is_a_message<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let clicks = forgetting(&client).await;
    let (text, bytes) = ("&String".to_owned(), b"&Vec".to_vec());
    clicks.publish("&str").await.unwrap();
    clicks.publish("String".to_owned()).await.unwrap();
    clicks.publish(&text).await.unwrap();
    clicks.publish(&b"&[u8]"[..]).await.unwrap();
    clicks.publish(b"&[u8; N]").await.unwrap();
    clicks.publish(b"Vec".to_vec()).await.unwrap();
    clicks.publish(&bytes).await.unwrap();
    clicks.publish(Bytes::from_static(b"Bytes")).await.unwrap();
    clicks.publish(Cow::Borrowed("Cow")).await.unwrap();
    let message = Message::new("&Message");
    clicks.publish(&message).await.unwrap();
    clicks.publish(Message::new("Message")).await.unwrap();
    clicks.flush().await;
    until_depth(&broker, 11);
    assert_eq!(
        bodies(&broker, "orders"),
        [
            "&str", "String", "&String", "&[u8]", "&[u8; N]", "Vec", "&Vec", "Bytes", "Cow",
            "&Message", "Message"
        ]
    );
}

pub async fn properties_arrive_as_they_were_set<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let message = Message::new("{}")
        .content_type("application/json")
        .content_encoding("identity")
        .persistent(false)
        .priority(3)
        .correlation_id("c")
        .reply_to("r")
        .expiration(std::time::Duration::from_secs(60))
        .message_id("m")
        .timestamp(1_700_000_000)
        .kind("order")
        .user_id("guest")
        .app_id("surface")
        .header("x-shop", AMQPValue::Boolean(true));
    orders.publish(&message).await.unwrap().await.unwrap();
    let stored = &broker.messages("orders")[0].properties;
    let text = |value: &Option<lavinmq_core::types::ShortString>| {
        value.as_ref().map(|value| value.as_str().to_owned())
    };
    assert_eq!(text(stored.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(stored.content_encoding()).as_deref(), Some("identity"));
    assert_eq!(*stored.delivery_mode(), Some(1));
    assert_eq!(*stored.priority(), Some(3));
    assert_eq!(text(stored.correlation_id()).as_deref(), Some("c"));
    assert_eq!(text(stored.reply_to()).as_deref(), Some("r"));
    assert_eq!(text(stored.expiration()).as_deref(), Some("60000"));
    assert_eq!(text(stored.message_id()).as_deref(), Some("m"));
    assert_eq!(*stored.timestamp(), Some(1_700_000_000));
    assert_eq!(text(stored.kind()).as_deref(), Some("order"));
    assert_eq!(text(stored.user_id()).as_deref(), Some("guest"));
    assert_eq!(text(stored.app_id()).as_deref(), Some("surface"));
    let headers = stored.headers().as_ref().unwrap();
    assert_eq!(headers.inner().get("x-shop"), Some(&AMQPValue::Boolean(true)));

    // Unset: persistent, and with an id of its own.
    orders.publish("plain").await.unwrap().await.unwrap();
    let stored = &broker.messages("orders")[1].properties;
    assert_eq!(*stored.delivery_mode(), Some(2));
    assert!(stored.message_id().is_some());
}

pub async fn a_producer_on_an_exchange_publishes_by_routing_key<R: Rt>() {
    let broker = broker();
    broker.declare_queue("others");
    let client = connect::<R>(&broker).await;
    // The default exchange routes by queue name.
    let anywhere = client.producer_on("", "orders").confirm().open().await.unwrap();
    anywhere.publish("by the producer's key").await.unwrap().await.unwrap();
    anywhere.publish_to("others", "by its own key").await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["by the producer's key"]);
    assert_eq!(bodies(&broker, "others"), ["by its own key"]);
    assert_eq!(broker.messages("others")[0].routing_key, "others");
    // A named one: nothing is bound to it, and not mandatory, so the broker confirms and drops it.
    let fanout = client.producer_on("amq.fanout", "k").confirm().open().await.unwrap();
    fanout.publish("to nobody").await.unwrap().await.unwrap();
    assert_eq!(broker.counters().published, 3);
}

pub async fn try_publish_takes_a_message_without_waiting<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let receipt = orders.try_publish("at once").unwrap();
    receipt.await.unwrap();
    let clicks = forgetting(&client).await;
    clicks.try_publish("and this").unwrap();
    clicks.flush().await;
    until_depth(&broker, 2);
}

pub async fn flush_waits_for_everything_accepted<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    broker.hold_confirms();
    for number in 0..100 {
        orders.publish(format!("{number}")).await.unwrap().detach();
    }
    until_depth(&broker, 100);
    let mut flush = std::pin::pin!(orders.flush().fuse());
    assert!(flush.as_mut().now_or_never().is_none(), "flushed without a confirm");
    broker.release_confirms();
    flush.await;
    let stats = orders.stats();
    assert_eq!((stats.confirmed, broker.counters().confirmed), (100, 100));
}

pub async fn a_receipt_says_what_became_of_its_own_message<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    broker.hold_confirms();
    let mut first = orders.publish("first").await.unwrap();
    let second = orders.publish("second").await.unwrap();
    assert_eq!((first.sequence(), second.sequence()), (1, 2));
    assert!(!first.is_settled() && !first.is_terminated());
    assert!((&mut first).now_or_never().is_none());
    second.detach();
    broker.release_confirms();
    (&mut first).await.unwrap();
    assert!(first.is_terminated() && first.is_settled());
    orders.flush().await;
    assert_eq!(orders.stats().confirmed, 2);
    assert_eq!(bodies(&broker, "orders"), ["first", "second"]);
    fn is_send_and_static<T: Send + Unpin + 'static>(_: &T) {}
    is_send_and_static(&first);
}

pub async fn the_producer_says_what_it_holds<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = client.producer("orders").confirm().buffer_size(50).open().await.unwrap();
    assert_eq!((orders.buffer_size(), orders.buffer_capacity(), orders.in_flight()), (0, 50, 0));
    broker.hold_confirms();
    for _ in 0..7 {
        orders.publish("x").await.unwrap().detach();
    }
    until_depth(&broker, 7);
    eventually::<R>("7 in flight", || orders.in_flight() == 7).await;
    assert_eq!(orders.buffer_size(), 0);
    let stats = orders.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!((stats.accepted, stats.in_flight, stats.confirmed), (7, 7, 0));
    broker.release_confirms();
    orders.flush().await;
    let stats = orders.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!((stats.accepted, stats.in_flight, stats.confirmed), (7, 0, 7));
}

pub async fn f23_a_publish_dropped_before_it_is_accepted_publishes_nothing<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = client.producer("orders").confirm().buffer_size(1).open().await.unwrap();
    stop::<R>(&broker, &client).await;
    let kept = orders.publish("kept").await.unwrap();
    let mut waiting = orders.publish("given up");
    assert!((&mut waiting).now_or_never().is_none(), "accepted into a full buffer");
    assert_eq!(waiting.into_message().unwrap().body(), b"given up");
    // Never polled: nothing happened at all.
    assert_eq!(orders.publish("never polled").into_message().unwrap().body(), b"never polled");
    let mut dropped = orders.publish("dropped");
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);
    broker.resume().unwrap();
    kept.await.unwrap();
    orders.publish("after").await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["kept", "after"]);
    let stats = orders.stats();
    assert_eq!((stats.offered, stats.accepted, stats.cancelled), (4, 2, 2), "{stats:?}");
}

pub async fn s20_a_message_that_no_queue_wants_is_returned<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let lost = client.producer("missing").confirm().open().await.unwrap();
    let error = lost.publish("to nobody").await.unwrap().await.unwrap_err();
    let Verdict::Returned(reply) = &error.verdict else { panic!("{error}") };
    assert_eq!((reply.code, &*reply.routing_key), (312, "missing"));
    assert!(!error.is_retryable());
    assert_eq!((error.sequence, error.into_message().body()), (1, &b"to nobody"[..]));
    assert_eq!(broker.counters().returned, 1);
    assert_eq!(lost.stats().returned, 1);
}

pub async fn s20_without_mandatory_the_broker_confirms_it<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let lost = client.producer("missing").confirm().mandatory(false).open().await.unwrap();
    lost.publish("to nobody").await.unwrap().await.unwrap();
    assert_eq!((broker.counters().published, broker.counters().returned), (1, 0));
}

pub async fn s23_a_nack_is_a_verdict<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    broker.nack_next(1);
    let refused = orders.publish("refused").await.unwrap();
    let error = refused.await.unwrap_err();
    assert_eq!(error.verdict, Verdict::Nacked);
    assert!(error.is_retryable());
    orders.publish(error.into_message()).await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["refused"]);
}

pub async fn s25_a_missing_exchange_is_the_fault_of_its_own_message<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let wrong = client.producer_on("missing", "x").confirm().open().await.unwrap();
    let before = orders.publish("before").await.unwrap();
    let error = wrong.publish("nowhere").await.unwrap().await.unwrap_err();
    let after = orders.publish("after").await.unwrap();
    assert!(
        matches!(&error.verdict, Verdict::Failed(FailReason::Refused { code: 404, .. })),
        "{error}"
    );
    before.await.unwrap();
    after.await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["before", "after"]);
}

pub async fn s12_what_amqp_cannot_carry_is_refused<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let long = "x".repeat(256);
    let error = orders.publish(Message::new("kept").message_id(&long)).await.unwrap_err();
    assert!(!error.is_retryable());
    assert_eq!(error.message().body(), b"kept");
    let PublishError::Invalid(_, InvalidMessage::Name(name)) = &error else { panic!("{error}") };
    assert_eq!((name.what, name.length), ("message id", 256));
    let error = orders.publish_to(&long, "kept").await.unwrap_err();
    assert!(matches!(error, PublishError::Invalid(_, InvalidMessage::Name(_))), "{error}");
    assert!(client.producer(&long).open().await.is_err());
    assert_eq!(broker.counters().published, 0);
}

pub async fn clones_share_one_buffer_and_one_order<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let mut tasks = Vec::new();
    for task in 0..4 {
        let orders = orders.clone();
        tasks.push(R::spawn(async move {
            for number in 0..100 {
                orders.publish(format!("{task} {number:02}")).await.unwrap().await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await;
    }
    assert_eq!(orders.stats().confirmed, 400);
    let bodies = bodies(&broker, "orders");
    assert_eq!(bodies.len(), 400);
    for task in 0..4 {
        let of_task = bodies.iter().filter(|body| body.starts_with(&format!("{task} ")));
        assert!(of_task.is_sorted(), "task {task} out of order");
    }
}
