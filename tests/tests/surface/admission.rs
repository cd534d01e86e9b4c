//! What happens to a message for which there is no room, or no connection. Of `stats()`, outcomes are
//! as of the driver's last turn, so those are waited for.

use std::time::Duration;

use futures::FutureExt as _;
use lavinmq_core::{
    BufferPolicy, PublishError, Verdict, WhenOffline,
    event::{DropReason, State},
};
use lavinmq_testing::Broker;

use crate::{
    runtimes::{Rt, eventually},
    stage::{bodies, broker, connect, stop, until_depth, until_state},
};

/// A client whose broker is away.
async fn offline<R: Rt>(broker: &Broker) -> lavinmq_core::Client {
    let client = connect::<R>(broker).await;
    stop::<R>(broker, &client).await;
    client
}

pub async fn block_waits_for_room<R: Rt>() {
    let broker = broker();
    let client = offline::<R>(&broker).await;
    let orders = client.producer("orders").confirm().buffer_size(2).open().await.unwrap();
    orders.publish("1").await.unwrap().detach();
    orders.publish("2").await.unwrap().detach();
    let mut third = orders.publish("3");
    assert!((&mut third).now_or_never().is_none(), "no room, and yet accepted");
    // While others wait, nobody overtakes.
    let error = orders.try_publish("4").unwrap_err();
    assert!(matches!(error, PublishError::Full(_)) && error.is_retryable());
    assert_eq!(orders.stats().waiting, 1);
    broker.resume().unwrap();
    third.await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["1", "2", "3"]);
}

pub async fn error_gives_the_message_back<R: Rt>() {
    let broker = broker();
    let client = offline::<R>(&broker).await;
    let builder = client.producer("orders").confirm().buffer_policy(BufferPolicy::Error);
    let orders = builder.buffer_size(1).open().await.unwrap();
    orders.publish("kept").await.unwrap().detach();
    let error = orders.publish("back").await.unwrap_err();
    assert!(matches!(error, PublishError::Full(_)), "{error}");
    assert!(error.is_retryable());
    assert_eq!(error.into_message().body(), b"back");
    assert_eq!(orders.stats().refused_full, 1);
    broker.resume().unwrap();
    orders.flush().await;
    assert_eq!(bodies(&broker, "orders"), ["kept"]);
}

pub async fn drop_oldest_evicts_while_the_broker_is_away<R: Rt>() {
    let broker = broker();
    let client = offline::<R>(&broker).await;
    let builder = client.producer("orders").confirm().buffer_policy(BufferPolicy::DropOldest);
    let orders = builder.buffer_size(3).open().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..5 {
        receipts.push(orders.publish(format!("{number}")).await.unwrap());
    }
    for (number, receipt) in receipts.drain(..2).enumerate() {
        let error = receipt.await.unwrap_err();
        assert_eq!(error.verdict, Verdict::Dropped(DropReason::BufferFull));
        assert!(error.is_retryable());
        assert_eq!(error.into_message().body(), format!("{number}").as_bytes());
    }
    orders.try_publish("5").unwrap().detach();
    broker.resume().unwrap();
    orders.flush().await;
    assert_eq!(bodies(&broker, "orders"), ["3", "4", "5"]);
    let stats = orders.stats();
    assert_eq!((stats.dropped_buffer_full, stats.confirmed), (3, 3), "{stats:?}");
}

pub async fn when_offline_fail_refuses_and_says_the_state<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let builder = client.producer("orders").confirm().when_offline(WhenOffline::Fail);
    let orders = builder.open().await.unwrap();
    orders.publish("online").await.unwrap().await.unwrap();
    stop::<R>(&broker, &client).await;
    let error = orders.publish("back").await.unwrap_err();
    let PublishError::Offline(message, state) = &error else { panic!("{error}") };
    assert_eq!(message.body(), b"back");
    assert!(matches!(&**state, State::Reconnecting { .. }), "{state}");
    assert!(error.is_retryable());
    broker.resume().unwrap();
    until_state::<R>(&client, State::is_connected).await;
    eventually::<R>("admission again", || orders.try_publish("again").is_ok()).await;
    orders.flush().await;
    assert_eq!(bodies(&broker, "orders"), ["online", "again"]);
    assert!(orders.stats().refused_offline >= 1);
}

pub async fn a_publish_timeout_gives_the_message_back<R: Rt>() {
    let broker = broker();
    let client = offline::<R>(&broker).await;
    let builder = client.producer("orders").confirm().buffer_size(1);
    let orders = builder.publish_timeout(Duration::from_millis(30)).open().await.unwrap();
    orders.publish("kept").await.unwrap().detach();
    let error = orders.publish("back").await.unwrap_err();
    assert!(matches!(error, PublishError::TimedOut(_)), "{error}");
    assert_eq!(error.into_message().body(), b"back");
    assert_eq!(orders.stats().timed_out, 1);
    broker.resume().unwrap();
    orders.flush().await;
    assert_eq!(bodies(&broker, "orders"), ["kept"]);
}

pub async fn a_ttl_drops_what_waited_too_long<R: Rt>() {
    let broker = broker();
    let client = offline::<R>(&broker).await;
    let builder = client.producer("orders").confirm().ttl(Duration::from_millis(30));
    let orders = builder.open().await.unwrap();
    let error = orders.publish("old").await.unwrap().await.unwrap_err();
    assert_eq!(error.verdict, Verdict::Dropped(DropReason::TtlExpired));
    assert_eq!(error.into_message().body(), b"old");
    broker.resume().unwrap();
    until_state::<R>(&client, State::is_connected).await;
    eventually::<R>("one dropped", || orders.stats().dropped_ttl == 1).await;
    assert_eq!(broker.counters().published, 0);
}

pub async fn max_in_flight_bounds_what_is_sent<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let orders = client.producer("orders").confirm().max_in_flight(3).open().await.unwrap();
    broker.hold_confirms();
    for number in 0..10 {
        orders.publish(format!("{number}")).await.unwrap().detach();
    }
    until_depth(&broker, 3);
    eventually::<R>("7 wait in the buffer", || orders.buffer_size() == 7).await;
    assert_eq!(orders.in_flight(), 3);
    broker.release_confirms();
    orders.flush().await;
    assert_eq!(broker.depth("orders"), 10);
}
