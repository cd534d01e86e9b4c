use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use lavinmq_core::{
    NoAck, OnFailure, Received, WhenCancelled, error::ConsumeError, event::EndReason,
    message::Message, types::AMQPValue,
};

use crate::{
    runtimes::{Rt, eventually},
    stage::{bodies, broker, confirming, connect, consumer, put, until, until_depth},
};

pub async fn a_consumer_is_a_stream<R: Rt>() {
    let broker = broker();
    put(&broker, 10);
    let client = connect::<R>(&broker).await;
    let stream = consumer(&client).await;
    let bodies: Vec<_> = stream
        .take(10)
        .map(|delivery| {
            let body = String::from_utf8(delivery.body().to_vec()).unwrap();
            delivery.ack();
            body
        })
        .collect()
        .await;
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    // The stream is dropped, which closes the consumer once everything is settled.
    until(&broker, "10 acks", |state| state.counters().acked == 10);
    until(&broker, "the end of the consumer", |state| state.consumer_count("orders") == 0);
}

pub async fn a_delivery_shows_the_message_as_it_was_published<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = confirming(&client).await;
    let message = Message::new("the body").kind("order").header("n", AMQPValue::LongInt(7));
    orders.publish(&message).await.unwrap().await.unwrap();
    let mut consumer = consumer(&client).await;
    let delivery = consumer.next().await.unwrap();
    assert_eq!((delivery.body(), &*delivery.to_bytes()), (&b"the body"[..], &b"the body"[..]));
    assert_eq!((delivery.exchange(), delivery.routing_key()), ("", "orders"));
    assert_eq!((delivery.redelivered(), delivery.redelivery_count()), (false, 0));
    let properties = delivery.properties().unwrap();
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "order");
    // What the client needs for itself does not show.
    let headers: Vec<_> = properties
        .headers()
        .as_ref()
        .unwrap()
        .inner()
        .keys()
        .map(|key| key.as_str().to_owned())
        .collect();
    assert_eq!(headers, ["n"]);
    delivery.requeue();

    let delivery = consumer.next().await.unwrap();
    assert_eq!((delivery.redelivered(), delivery.redelivery_count()), (true, 1));
    let copy: Received = (*delivery).clone();
    delivery.ack();
    // It can be published again as it is.
    orders.publish(copy.into_message()).await.unwrap().await.unwrap();
    let again = consumer.next().await.unwrap();
    assert_eq!(again.body(), b"the body");
    assert_eq!(again.properties().unwrap().kind().as_ref().unwrap().as_str(), "order");
    again.ack();
}

pub async fn next_batch_is_never_empty_and_ends_with_the_stream<R: Rt>() {
    let broker = broker();
    put(&broker, 25);
    let client = connect::<R>(&broker).await;
    let mut consumer = consumer(&client).await;
    let linger = Duration::from_millis(20);
    let mut received = 0;
    while received < 25 {
        let batch = consumer.next_batch(10, linger).await.unwrap();
        assert!((1..=10).contains(&batch.len()), "{}", batch.len());
        for delivery in batch {
            assert_eq!(delivery.body(), received.to_string().as_bytes());
            received += 1;
            delivery.ack();
        }
    }
    // Nothing is there: it waits, and loses nothing when it is given up.
    assert!(consumer.next_batch(10, linger).now_or_never().is_none());
    put(&broker, 1);
    assert_eq!(consumer.next_batch(10, linger).await.unwrap().len(), 1);
    let handle = consumer.handle();
    handle.stop();
    assert!(consumer.next_batch(10, linger).await.is_none());
}

pub async fn run_acks_what_went_well_and_rejects_what_did_not<R: Rt>() {
    let broker = broker();
    put(&broker, 20);
    let client = connect::<R>(&broker).await;
    let builder = client.consumer("orders").on_failure(OnFailure::Reject);
    let mut consumer = builder.open().await.unwrap();
    let handle = consumer.handle();
    let (handled, running, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let reason = consumer
        .run(4, |received| {
            let (handled, running, most, handle) = (&handled, &running, &most, &handle);
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                // Others of the four get their turn.
                R::sleep(Duration::from_millis(1)).await;
                running.fetch_sub(1, Ordering::Relaxed);
                let number: usize = std::str::from_utf8(received.body())?.parse()?;
                if handled.fetch_add(1, Ordering::Relaxed) + 1 == 20 {
                    handle.stop();
                }
                assert!(number != 7, "a panic of the application's");
                if number == 8 {
                    Err("no good".into())
                } else {
                    Ok::<_, lavinmq_core::BoxError>(())
                }
            }
        })
        .await;
    assert_eq!(reason, EndReason::Closed);
    assert_eq!(most.load(Ordering::Relaxed), 4);
    let counters = broker.counters();
    assert_eq!((counters.acked, counters.rejected, broker.depth("orders")), (18, 2, 0));
    assert_eq!(client.stats().hook_panics, 1);
}

pub async fn run_requeues_a_failure_later<R: Rt>() {
    let broker = broker();
    put(&broker, 1);
    let client = connect::<R>(&broker).await;
    let builder = client.consumer("orders").requeue_delay(Duration::from_millis(10));
    let mut consumer = builder.open().await.unwrap();
    let handle = consumer.handle();
    let attempts = AtomicUsize::new(0);
    consumer
        .run(1, |received| {
            let attempt = attempts.fetch_add(1, Ordering::Relaxed);
            assert_eq!(received.redelivered(), attempt > 0);
            if attempt == 3 {
                handle.stop();
            }
            std::future::ready(if attempt < 3 { Err("not yet") } else { Ok(()) })
        })
        .await;
    let counters = broker.counters();
    assert_eq!((counters.delivered, counters.requeued, counters.acked), (4, 3, 1));
}

pub async fn a_handle_stops_and_closes_a_consumer_from_elsewhere<R: Rt>() {
    let broker = broker();
    put(&broker, 3);
    let client = connect::<R>(&broker).await;
    let mut first = consumer(&client).await;
    let handle = first.handle();
    assert_eq!(first.end_reason(), None);
    let delivery = first.next().await.unwrap();
    let task = R::spawn({
        let handle = handle.clone();
        async move { handle.stop() }
    });
    task.await;
    assert!(first.next().await.is_none());
    // What is in hand can still be settled.
    delivery.ack();
    handle.settled().await;
    until(&broker, "one ack", |state| state.counters().acked == 1);
    let report = handle.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(first.end_reason(), Some(EndReason::Closed));
    until(&broker, "no consumer", |state| state.consumer_count("orders") == 0);
    assert_eq!(bodies(&broker, "orders"), ["1", "2"]);

    let mut second = consumer(&client).await;
    let held = second.next().await.unwrap();
    let report = second.close().await;
    assert_eq!(report.abandoned, 1, "{report:?}");
    assert!(!report.is_clean());
    held.ack();
    assert!(second.next().await.is_none());
    until_depth(&broker, 2);
}

pub async fn s30_prefetch_bounds_what_is_outstanding<R: Rt>() {
    let broker = broker();
    put(&broker, 50);
    let client = connect::<R>(&broker).await;
    let mut consumer = client.consumer("orders").prefetch(7).open().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(consumer.next().await.unwrap());
    }
    assert_eq!((broker.unacked("orders"), broker.depth("orders")), (7, 43));
    broker.cut();
    for _ in 0..7 {
        held.push(consumer.next().await.unwrap());
    }
    assert_eq!((broker.unacked("orders"), broker.depth("orders")), (7, 43));
    let error = client.consumer("orders").prefetch(0).open().await.unwrap_err();
    assert!(matches!(error, ConsumeError::Option { key: "prefetch", .. }), "{error}");
}

pub async fn s31_a_cancelled_consumer_can_end_instead<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let builder = client.consumer("orders").when_cancelled(WhenCancelled::End);
    let mut consumer = builder.open().await.unwrap();
    broker.delete_queue("orders");
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.end_reason(), Some(EndReason::Cancelled));
}

pub async fn s32_a_missing_queue_is_shown_at_once<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let error = client.consumer("missing").open().await.unwrap_err();
    assert!(
        matches!(&error, ConsumeError::Refused { queue, code: 404, .. } if &**queue == "missing"),
        "{error}"
    );
    let error = client.consumer("x".repeat(256)).open().await.unwrap_err();
    assert!(matches!(error, ConsumeError::Name(_)), "{error}");
    // Neither disturbed anything.
    let _consumer = consumer(&client).await;
    assert_eq!(client.stats().losses, 0);
}

pub async fn s33_tags_are_unique_unless_they_are_named<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let mut named = client.consumer("orders").tag("mine").open().await.unwrap();
    let (mut first, mut second) = (consumer(&client).await, consumer(&client).await);
    let connections = broker.connections();
    for consumer in [&mut named, &mut first, &mut second] {
        consumer.close().await;
    }
    // Each was cancelled by its tag.
    let log = connections.iter().flat_map(|connection| broker.log(connection.id));
    let cancels = log.filter(|entry| entry.method == "basic.cancel");
    let tags: Vec<_> = cancels.map(|cancel| cancel.subject).collect();
    assert_eq!(tags.len(), 3);
    assert_eq!(tags.iter().filter(|tag| *tag == "mine").count(), 1);
    for tag in tags.iter().filter(|tag| *tag != "mine") {
        // 128 random bits at least.
        assert!(tag.len() >= 22, "{tag}");
    }
    assert_ne!(tags[1], tags[2]);
    assert!(client.consumer("orders").tag(&"x".repeat(256)).open().await.is_err());
}

pub async fn exclusive_keeps_others_away<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let mut only = client.consumer("orders").exclusive().open().await.unwrap();
    let error = client.consumer("orders").open().await.unwrap_err();
    assert!(matches!(&error, ConsumeError::Refused { code: 403, .. }), "{error}");
    assert!(error.to_string().contains("exclusive"), "{error}");
    only.close().await;
    let _other = consumer(&client).await;
}

pub async fn no_ack_has_nothing_to_settle<R: Rt>() {
    let broker = broker();
    put(&broker, 500);
    let client = connect::<R>(&broker).await;
    let mut consumer: lavinmq_core::Consumer<NoAck> =
        client.consumer("orders").no_ack().queue_bytes(100).open().await.unwrap();
    for expected in 0..500 {
        let received: Received = consumer.next().await.unwrap();
        assert_eq!(received.body(), expected.to_string().as_bytes());
    }
    assert_eq!((broker.unacked("orders"), broker.depth("orders")), (0, 0));
    // A third connection: a slow no-ack consumer pauses nobody else.
    assert_eq!(broker.connections().len(), 3);
    consumer.close().await;
    eventually::<R>("the consumer is closed", || broker.consumer_count("orders") == 0).await;
}
