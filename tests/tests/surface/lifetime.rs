use std::time::Duration;

use lavinmq_core::{
    PublishError, Verdict,
    error::{ConsumeError, OpenError},
    event::{DropReason, UnknownReason},
};

use crate::{
    runtimes::{Rt, eventually},
    stage::{
        bodies, broker, confirming, connect, consumer, forgetting, put, stop, until, until_depth,
    },
};

const NO_TIME: Duration = Duration::from_millis(20);

pub async fn shutdown_says_what_it_left_behind<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    put(&broker, 1);
    let mut consumer = consumer(&client).await;
    let held = consumer.next().await.unwrap();
    broker.hold_confirms();
    let unconfirmed = orders.publish("written, never confirmed").await.unwrap();
    until(&broker, "the publish", |state| state.counters().published == 1);
    let report = client.shutdown(NO_TIME).await;
    assert!(!report.is_clean());
    assert_eq!((report.unknown, report.dropped, report.abandoned), (1, 0, 1), "{report:?}");
    assert!(report.timed_out);
    let error = unconfirmed.await.unwrap_err();
    assert_eq!(error.verdict, Verdict::Unknown(UnknownReason::Closed));
    held.ack();
    assert!(consumer.next().await.is_none());

    // And when the broker is away, what never left is dropped.
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    stop::<R>(&broker, &client).await;
    let queued = orders.publish("never left").await.unwrap();
    let report = client.shutdown(NO_TIME).await;
    assert_eq!((report.unknown, report.dropped), (0, 1), "{report:?}");
    let error = queued.await.unwrap_err();
    assert_eq!(error.verdict, Verdict::Dropped(DropReason::Closed));
    assert_eq!(error.into_message().body(), b"never left");
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
}

pub async fn close_sends_what_is_queued<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let (orders, clicks) = (confirming(&client).await, forgetting(&client).await);
    let mut receipts = Vec::new();
    for _ in 0..1000 {
        receipts.push(orders.publish("x").await.unwrap());
        clicks.publish("x").await.unwrap();
    }
    let report = client.close().await;
    assert!(report.is_clean(), "{report:?}");
    for receipt in receipts {
        receipt.await.unwrap();
    }
    until_depth(&broker, 2000);
    until(&broker, "no connection", |state| state.connections().is_empty());
}

pub async fn s14_a_closed_producer_gives_messages_back<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let (orders, others) = (confirming(&client).await, confirming(&client).await);
    let receipt = orders.publish("before").await.unwrap();
    let report = orders.close().await;
    assert!(report.is_clean(), "{report:?}");
    receipt.await.unwrap();
    let error = orders.clone().publish("back").await.unwrap_err();
    assert!(matches!(error, PublishError::Closed(_)) && !error.is_retryable());
    assert_eq!(error.into_message().body(), b"back");
    assert!(matches!(orders.try_publish("back"), Err(PublishError::Closed(_))));
    // Only this producer.
    others.publish("by another").await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["before", "by another"]);

    broker.hold_confirms();
    let unconfirmed = others.publish("never confirmed").await.unwrap();
    until_depth(&broker, 3);
    let report = others.shutdown(NO_TIME).await;
    assert_eq!((report.unknown, report.timed_out), (1, true), "{report:?}");
    let error = unconfirmed.await.unwrap_err();
    assert_eq!(error.verdict, Verdict::Unknown(UnknownReason::Closed));
}

pub async fn a_closed_client_opens_nothing<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    client.clone().close().await;
    assert_eq!(client.producer("orders").open().await.unwrap_err(), OpenError::Closed);
    assert_eq!(client.consumer("orders").open().await.unwrap_err(), ConsumeError::Closed);
    assert!(client.ready().await.is_err());
    assert!(client.close().await.is_clean());
}

pub async fn f24_a_client_dropped_without_close_sends_what_is_queued<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(orders.publish(format!("{number}")).await.unwrap());
    }
    drop((client, orders));
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(broker.depth("orders"), 100);
    until(&broker, "no connection", |state| state.connections().is_empty());
}

pub async fn a_client_lives_as_long_as_its_producers_and_consumers<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let mut consumer = consumer(&client).await;
    drop(client);
    orders.publish("still there").await.unwrap().await.unwrap();
    drop(orders);
    let delivery = consumer.next().await.unwrap();
    assert_eq!(delivery.body(), b"still there");
    assert_eq!(broker.connections().len(), 2);
    // A delivery does not keep it.
    drop(consumer);
    until(&broker, "no connection", |state| state.connections().is_empty());
    assert_eq!(delivery.body(), b"still there");
    delivery.ack();
}

pub async fn stats_add_up_with_closed_producers<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    for _ in 0..3 {
        let orders = confirming(&client).await;
        for _ in 0..10 {
            orders.publish("x").await.unwrap().await.unwrap();
        }
        orders.close().await;
    }
    let clicks = forgetting(&client).await;
    clicks.publish("x").await.unwrap();
    clicks.flush().await;
    drop(clicks);
    eventually::<R>("31 accepted", || client.stats().publish.accepted == 31).await;
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!((stats.publish.confirmed, stats.publish.sent), (30, 1), "{stats:?}");
    until_depth(&broker, 31);
}
