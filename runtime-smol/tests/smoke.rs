//! The whole stack on smol, against the in-process broker.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use futures::{FutureExt as _, future::Either};
use lavinmq_smol::{Client, ConnectError, Options, Settle, connect, connect_lazy, with_driver};
use lavinmq_testing::Broker;

/// A hang is a failure. Never waited for when all is well.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let timeout = smol::Timer::after(Duration::from_secs(20));
    match futures::future::select(Box::pin(future), timeout).await {
        Either::Left((output, _)) => output,
        Either::Right(_) => panic!("{what} hangs"),
    }
}

async fn round_trips(client: &Client, broker: &Broker) {
    within("declare", client.queue("orders").declare()).await.unwrap();
    let orders = client.producer("orders").confirm().open().await.unwrap();
    let mut jobs = within("open", client.consumer("orders").open()).await.unwrap();
    for round in 0..6 {
        let receipt = within("publish", orders.publish(format!("{round}"))).await.unwrap();
        if round == 3 {
            broker.cut();
        }
        within("a receipt", receipt).await.unwrap();
        // At least once: a copy of an earlier one may come again.
        loop {
            let delivery = within("a delivery", jobs.next()).await.unwrap();
            let wanted = delivery.body() == round.to_string().as_bytes();
            assert_ne!(delivery.ack(), Settle::AlreadySettled);
            if wanted {
                break;
            }
        }
    }
    let report = within("close", client.close()).await;
    assert_eq!((report.dropped, report.unknown, report.timed_out), (0, 0, false));
    let stats = client.stats();
    assert!(stats.is_conserved() && stats.reconnects > 0, "{stats:?}");
}

#[test]
fn on_the_global_executor() {
    let broker = Broker::start().unwrap();
    smol::block_on(async {
        let options = Options::new(broker.url()).unwrap().name("smoke");
        let client = within("connect", connect(options)).await.unwrap();
        round_trips(&client, &broker).await;
    });
}

#[test]
fn on_a_local_executor() {
    let broker = Broker::start().unwrap();
    let executor = smol::LocalExecutor::new();
    let (client, driver) = with_driver(broker.url()).unwrap();
    executor.spawn(driver).detach();
    smol::block_on(executor.run(async {
        within("ready", client.ready()).await.unwrap();
        round_trips(&client, &broker).await;
    }));
}

#[test]
fn f5_a_refused_first_connect_is_an_error_and_a_lazy_one_goes_on() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("amqp://127.0.0.1:{port}");
    smol::block_on(async {
        let error = within("connect", connect(&url)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Failed(_)), "{error:?}");
        let client = connect_lazy(&url).unwrap();
        assert!(client.ready().now_or_never().is_none());
        let report = within("shutdown", client.shutdown(Duration::ZERO)).await;
        assert_eq!((report.dropped, report.unknown), (0, 0));
        let error = within("ready", client.ready()).await.unwrap_err();
        assert_eq!(error, ConnectError::Closed);
    });
}
