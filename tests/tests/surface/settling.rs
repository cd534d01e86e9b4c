//! `settled()` says that everything is written; the broker then takes a moment to read it.

use lavinmq_core::Settle;
use lavinmq_testing::Broker;

use crate::{
    runtimes::Rt,
    stage::{bodies, broker, connect, consumer, put, until},
};

/// Waits until the broker has seen exactly so many settlements of each kind.
fn until_settled(broker: &Broker, acked: u64, rejected: u64, requeued: u64) {
    let what = format!("{acked} acked, {rejected} rejected, {requeued} requeued");
    until(broker, &what, |state| {
        let counters = state.counters();
        (counters.acked, counters.rejected, counters.requeued) == (acked, rejected, requeued)
    });
}

pub async fn ack_requeue_and_reject_do_what_they_say<R: Rt>() {
    let broker = broker();
    put(&broker, 3);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    assert_eq!(consumer.next().await.unwrap().ack(), Settle::Queued);
    assert_eq!(consumer.next().await.unwrap().reject(), Settle::Queued);
    assert_eq!(consumer.next().await.unwrap().requeue(), Settle::Queued);
    let again = consumer.next().await.unwrap();
    assert_eq!((again.body(), again.redelivered()), (&b"2"[..], true));
    until_settled(&broker, 1, 1, 1);
    again.ack();
    consumer.settled().await;
    until_settled(&broker, 2, 1, 1);
    assert_eq!(broker.messages("orders"), []);
}

pub async fn through_settles_everything_before<R: Rt>() {
    let broker = broker();
    put(&broker, 9);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    let mut deliveries = Vec::new();
    for _ in 0..9 {
        deliveries.push(consumer.next().await.unwrap());
    }
    let mut deliveries = deliveries.into_iter();
    let mut next = || deliveries.next().unwrap();
    // Held, all of them: a dropped one would be requeued.
    let (first, _second, third) = (next(), next(), next());
    assert_eq!(third.ack_through(), Settle::Queued);
    assert_eq!(first.ack(), Settle::AlreadySettled);
    let (_fourth, _fifth, sixth) = (next(), next(), next());
    assert_eq!(sixth.reject_through(), Settle::Queued);
    consumer.settled().await;
    until_settled(&broker, 3, 3, 0);
    let (_seventh, _eighth, ninth) = (next(), next(), next());
    assert_eq!(ninth.requeue_through(), Settle::Queued);
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = consumer.next().await.unwrap();
        again.push(delivery.body().to_vec());
        delivery.ack();
    }
    assert_eq!(again, [b"6", b"7", b"8"]);
}

pub async fn into_parts_separates_content_and_settlement<R: Rt>() {
    let broker = broker();
    put(&broker, 7);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    let mut parts = Vec::new();
    for _ in 0..7 {
        parts.push(consumer.next().await.unwrap().into_parts());
    }
    let (received, ackers): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let mut ackers = ackers.into_iter();
    let mut next = || ackers.next().unwrap();
    assert_eq!(next().ack(), Settle::Queued);
    assert_eq!(next().reject(), Settle::Queued);
    let (_third, fourth) = (next(), next());
    assert_eq!(fourth.ack_through(), Settle::Queued);
    assert_eq!(next().reject_through(), Settle::Queued);
    let sixth = next();
    assert_eq!(next().requeue_through(), Settle::Queued);
    assert_eq!(sixth.requeue(), Settle::AlreadySettled);
    consumer.settled().await;
    until_settled(&broker, 3, 2, 2);
    // The content outlives its settlement, and the client.
    drop((consumer, client));
    assert_eq!(received[6].body(), b"6");
}

pub async fn s34_a_forgotten_delivery_is_requeued<R: Rt>() {
    let broker = broker();
    put(&broker, 2);
    let client = connect::<R>(&broker).await;
    let mut consumer = client.consumer("orders").prefetch(1).open().await.unwrap();
    drop(consumer.next().await.unwrap());
    let again = consumer.next().await.unwrap();
    assert_eq!((again.body(), again.redelivered()), (&b"0"[..], true));
    let (received, acker) = again.into_parts();
    drop(acker);
    let third = consumer.next().await.unwrap();
    assert_eq!(third.body(), received.body());
    third.ack();
    consumer.next().await.unwrap().ack();
    consumer.settled().await;
    until_settled(&broker, 2, 0, 2);
    assert_eq!(client.stats().consume.forgotten, 2);
}

pub async fn s34_hold_on_drop_keeps_it<R: Rt>() {
    let broker = broker();
    put(&broker, 3);
    let client = connect::<R>(&broker).await;
    let mut consumer = client.consumer("orders").hold_on_drop().open().await.unwrap();
    drop(consumer.next().await.unwrap());
    consumer.next().await.unwrap().ack();
    consumer.settled().await;
    until_settled(&broker, 1, 0, 0);
    assert_eq!(broker.unacked("orders"), 2);
    consumer.next().await.unwrap().ack_through();
    consumer.settled().await;
    until_settled(&broker, 3, 0, 0);
}

pub async fn f28_a_settle_after_a_reconnect_is_stale<R: Rt>() {
    let broker = broker();
    put(&broker, 2);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    let old = [consumer.next().await.unwrap(), consumer.next().await.unwrap()];
    broker.cut();
    let new = consumer.next().await.unwrap();
    assert_eq!((new.body(), new.redelivered()), (&b"0"[..], true));
    for delivery in old {
        assert_eq!(delivery.ack(), Settle::Stale);
    }
    consumer.settled().await;
    assert_eq!(broker.counters().acked, 0);
    assert_eq!(new.ack(), Settle::Queued);
    consumer.next().await.unwrap().ack();
    consumer.settled().await;
    // The broker requeued the old ones itself when their channel died.
    until_settled(&broker, 2, 0, 2);
    assert_eq!(bodies(&broker, "orders"), [""; 0]);
}

pub async fn settled_waits_until_everything_is_written<R: Rt>() {
    let broker = broker();
    put(&broker, 1000);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    for _ in 0..1000 {
        consumer.next().await.unwrap().ack();
    }
    consumer.settled().await;
    let stats = client.stats().consume;
    assert_eq!((stats.acked, stats.settling), (1000, 0), "{stats:?}");
    until_settled(&broker, 1000, 0, 0);
}
