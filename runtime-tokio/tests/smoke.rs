//! The whole stack on tokio, against the in-process broker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lavinmq_testing::Broker;
use lavinmq_tokio::{
    BufferPolicy, Client, ConnectError, EndReason, Event, Options, Settle, State, Verdict, connect,
    connect_lazy, with_driver,
};

/// A hang is a failure. Never waited for when all is well.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn client(broker: &Broker) -> Client {
    let options = Options::new(broker.url()).unwrap().name("smoke");
    within("connect", connect(options)).await.unwrap()
}

#[tokio::test]
async fn publish_confirm_consume_ack_and_close() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    assert!(client.is_connected());
    let queue = within("declare", client.queue("orders").declare()).await.unwrap();
    assert_eq!(&*queue.name(), "orders");

    let orders = client.producer(&queue).confirm().open().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(orders.publish(format!("order {number}")).await.unwrap());
    }
    for receipt in receipts {
        within("a receipt", receipt).await.unwrap();
    }

    let mut jobs = within("open", client.consumer(&queue).prefetch(10).open()).await.unwrap();
    for number in 0..100 {
        let delivery = within("a delivery", jobs.next()).await.unwrap();
        assert_eq!(delivery.body(), format!("order {number}").as_bytes());
        assert_eq!(delivery.routing_key(), "orders");
        assert!(!delivery.redelivered());
        assert_eq!(delivery.ack(), Settle::Queued);
    }
    within("settled", jobs.settled()).await;
    within("the last ack", async {
        while broker.unacked("orders") > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(broker.depth("orders"), 0);

    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!((stats.publish.confirmed, stats.consume.acked), (100, 100));

    let report = within("close", jobs.close()).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(jobs.end_reason(), Some(EndReason::Closed));
    let report = within("close", client.close()).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(client.state(), State::Closed { loss: None });
}

#[tokio::test]
async fn s48_closing_does_not_wait_for_what_the_application_never_saw() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    within("declare", client.queue("jobs").declare()).await.unwrap();
    for number in 0..500 {
        broker.put("jobs", format!("{number}"));
    }
    let mut jobs = within("open", client.consumer("jobs").open()).await.unwrap();
    for _ in 0..3 {
        within("a delivery", jobs.next()).await.unwrap().ack();
    }
    // The consumer stays, with the rest of a batch; within() is shorter than the deadline.
    let report = within("close", client.close()).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(jobs.end_reason(), Some(EndReason::ClientClosed));
    assert_eq!((broker.depth("jobs"), broker.unacked("jobs")), (497, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_after_the_link_is_cut() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    let mut events = client.events();
    within("declare", client.queue("orders").declare()).await.unwrap();
    let orders = client.producer("orders").confirm().open().await.unwrap();
    let mut jobs = within("open", client.consumer("orders").open()).await.unwrap();
    let mut seen = Vec::new();
    for round in 0..5 {
        let receipt = within("publish", orders.publish(format!("{round}"))).await.unwrap();
        broker.cut();
        within("a receipt", receipt).await.unwrap();
        // At least once: copies of earlier rounds may come again.
        loop {
            let delivery = within("a delivery", jobs.next()).await.unwrap();
            let body = String::from_utf8(delivery.body().to_vec()).unwrap();
            delivery.ack();
            seen.push(body.clone());
            if body == round.to_string() {
                break;
            }
        }
    }
    let reconnecting = async {
        loop {
            if let Event::State(State::Reconnecting { .. }) = events.next().await.unwrap() {
                return;
            }
        }
    };
    within("an event", reconnecting).await;
    let report = within("close", client.close()).await;
    assert_eq!((report.dropped, report.unknown, report.timed_out), (0, 0, false));
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.publish.confirmed, 5);
    assert!(stats.reconnects >= 5, "{stats:?}");
}

#[tokio::test]
async fn fire_and_forget_and_no_ack() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    within("declare", client.queue("clicks").declare()).await.unwrap();
    let clicks = client.producer("clicks").open().await.unwrap();
    let mut sink = within("open", client.consumer("clicks").no_ack().open()).await.unwrap();
    for number in 0..2000_u32 {
        within("publish", clicks.publish(number.to_be_bytes().to_vec())).await.unwrap();
    }
    within("flush", clicks.flush()).await;
    for number in 0..2000_u32 {
        let received = within("a delivery", sink.next()).await.unwrap();
        assert_eq!(received.body(), number.to_be_bytes());
    }
    let stats = clicks.stats();
    assert_eq!((stats.sent, stats.queued), (2000, 0));
    drop((clicks, sink));
    assert!(within("close", client.close()).await.is_clean());
}

#[tokio::test]
async fn run_handles_a_thousand_and_stops() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    within("declare", client.queue("jobs").declare()).await.unwrap();
    for number in 0..1000 {
        assert!(broker.put("jobs", format!("{number}")));
    }
    let mut jobs = within("open", client.consumer("jobs").prefetch(50).open()).await.unwrap();
    let handle = jobs.handle();
    let done = Arc::new(AtomicU64::new(0));
    let running = jobs.run(8, |received| {
        let (done, handle) = (Arc::clone(&done), handle.clone());
        async move {
            tokio::task::yield_now().await;
            assert!(!received.body().is_empty());
            if done.fetch_add(1, Ordering::Relaxed) + 1 == 1000 {
                handle.stop();
            }
            Ok::<_, std::convert::Infallible>(())
        }
    });
    assert_eq!(within("run", running).await, EndReason::Closed);
    // It closed after its last ack.
    assert_eq!(broker.depth("jobs") + broker.unacked("jobs"), 0);
}

#[tokio::test]
async fn a_batch_comes_when_its_linger_is_over() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    within("declare", client.queue("jobs").declare()).await.unwrap();
    broker.put("jobs", "one");
    broker.put("jobs", "two");
    let mut jobs = within("open", client.consumer("jobs").open()).await.unwrap();
    let mut count = 0;
    while count < 2 {
        let batch = within("a batch", jobs.next_batch(50, Duration::from_millis(20))).await;
        for delivery in batch.unwrap() {
            count += 1;
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn a_missing_queue_is_returned_and_a_missing_consumer_queue_refused() {
    let broker = Broker::start().unwrap();
    let client = client(&broker).await;
    let orders = client.producer("nowhere").confirm().open().await.unwrap();
    let receipt = within("publish", orders.publish("lost?")).await.unwrap();
    let error = within("a receipt", receipt).await.unwrap_err();
    assert!(matches!(error.verdict, Verdict::Returned(_)), "{error}");
    assert_eq!(error.into_message().body(), b"lost?");
    let error = within("open", client.consumer("nowhere").open()).await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

#[tokio::test]
async fn f24_a_dropped_client_sends_what_was_accepted() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("clicks");
    let client = client(&broker).await;
    let clicks = client.producer("clicks").open().await.unwrap();
    for number in 0..500 {
        clicks.publish(format!("{number}")).await.unwrap();
    }
    drop((client, clicks));
    let arrived = async {
        while broker.depth("clicks") < 500 || !broker.connections().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    within("the shutdown", arrived).await;
}

#[tokio::test]
async fn f24_a_dropped_driver_closes_the_client_at_once() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let (client, driver) = with_driver(broker.url()).unwrap();
    let driver = tokio::spawn(driver);
    within("ready", client.ready()).await.unwrap();
    let orders = client.producer("orders").confirm().open().await.unwrap();
    broker.hold_confirms();
    let receipt = orders.publish("x").await.unwrap();
    while client.stats().publish.in_flight == 0 {
        tokio::task::yield_now().await;
    }
    driver.abort();
    let error = within("a receipt", receipt).await.unwrap_err();
    assert!(matches!(error.verdict, Verdict::Unknown(_)), "{error}");
    assert!(matches!(client.state(), State::Closed { .. }));
    assert!(within("declare", client.queue("q").declare()).await.is_err());
    assert!(within("open", client.consumer("orders").open()).await.is_err());
    assert!(orders.publish("y").await.is_err());
    assert_eq!(within("close", client.close()).await.unknown, 1);
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
}

#[tokio::test]
async fn f5_a_refused_first_connect_is_an_error_and_a_lazy_one_goes_on() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("amqp://127.0.0.1:{port}");
    let error = within("connect", connect(&url)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Failed(_)), "{error:?}");

    let client = connect_lazy(&url).unwrap();
    let clicks = client
        .producer("q")
        .buffer_size(2)
        .buffer_policy(BufferPolicy::Error)
        .open()
        .await
        .unwrap();
    clicks.publish("buffered").await.unwrap();
    clicks.publish("buffered").await.unwrap();
    assert!(clicks.publish("too many").await.is_err());
    let report = within("shutdown", client.shutdown(Duration::ZERO)).await;
    assert_eq!((report.dropped, report.timed_out), (2, true));
    assert!(client.stats().is_conserved());
    assert_eq!(client.stats().publish.refused_full, 1);
}

#[test]
fn connect_outside_a_runtime_is_an_error_but_block_on_works() {
    let broker = Broker::start().unwrap();
    let lazy = connect_lazy(broker.url());
    assert_eq!(lazy.unwrap_err(), ConnectError::NoRuntime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connecting = connect(broker.url());
    let client = runtime.block_on(connecting).unwrap();
    let report = runtime.block_on(client.close());
    assert!(report.is_clean());
}
