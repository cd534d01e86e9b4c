//! Bytes on the heap per producer, consumer and client, at rest.
//!
//! The binary that counts runs this: bytes live before and after opening many, over how many. The
//! sink is another process, so nothing of it is in there; the runtime's own share is.

use std::time::Duration;

use lavinmq_core::{BufferPolicy, Client};

use super::{Run, figures::Figures, options};
use crate::Fallible;

/// Long enough for what is given back when idle to be given back.
const REST: Duration = Duration::from_millis(2_500);

/// More than fits into any buffer that is kept at rest.
const BURST: u64 = 9_000;

pub(super) fn run(run: &Run) -> Fallible<Figures> {
    let live = run.live.ok_or("this binary does not count bytes")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut figures = Figures::default();
    runtime.block_on(async {
        if run.what == "clients" {
            return clients(run, live, &mut figures).await;
        }
        let client = lavinmq_tokio::connect(options(&run.target.url)?).await?;
        // Lists that all share have grown, and the connection for no-ack consumers stands.
        drop(client.consumer("idle").no_ack().open().await?);
        drop(client.consumer("idle").open().await?);
        tokio::time::sleep(REST).await;
        match run.what.as_str() {
            "producers" => producers(run, live, &client, &mut figures).await,
            "confirm-producers" => confirm_producers(run, live, &client, &mut figures).await,
            "consumers" => consumers(run, live, &client, &mut figures).await,
            what => Err(format!("no memory of {what}").into()),
        }
    })?;
    Ok(figures)
}

type Live = fn() -> u64;

/// Bytes since `before`, for each of `n`.
fn each(live: Live, before: u64, n: usize) -> f64 {
    (live() as f64 - before as f64) / n as f64
}

async fn producers(run: &Run, live: Live, client: &Client, figures: &mut Figures) -> Fallible {
    let mut producers = Vec::with_capacity(run.n);
    let before = live();
    for _ in 0..run.n {
        let producer = client.producer("idle").buffer_policy(BufferPolicy::Block);
        producers.push(producer.open().await?);
    }
    tokio::time::sleep(REST).await;
    figures.set("opened", each(live, before, run.n));
    for producer in &producers {
        producer.publish("0123456789abcdef").await?;
    }
    for producer in &producers {
        producer.flush().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("used", each(live, before, run.n));
    // One after the other: what is kept of a burst shows, not how large a burst may be.
    let bursting = run.n.min(50);
    let before_burst = live();
    for producer in &producers[..bursting] {
        for _ in 0..BURST {
            if let Err(error) = producer.try_publish("0123456789abcdef") {
                producer.publish(error.into_message()).await?;
            }
        }
        producer.flush().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("burst", each(live, before_burst, bursting) + figures.get("used").unwrap_or(0.0));
    drop(producers);
    tokio::time::sleep(REST).await;
    figures.set("closed", each(live, before, run.n));
    Ok(())
}

async fn confirm_producers(
    run: &Run,
    live: Live,
    client: &Client,
    figures: &mut Figures,
) -> Fallible {
    let mut producers = Vec::with_capacity(run.n);
    let before = live();
    for _ in 0..run.n {
        producers.push(client.producer("idle").confirm().open().await?);
    }
    tokio::time::sleep(REST).await;
    figures.set("opened", each(live, before, run.n));
    for producer in &producers {
        producer.publish("0123456789abcdef").await?.detach();
    }
    for producer in &producers {
        producer.flush().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("used", each(live, before, run.n));
    let bursting = run.n.min(50);
    let before_burst = live();
    for producer in &producers[..bursting] {
        for _ in 0..BURST {
            match producer.try_publish("0123456789abcdef") {
                Ok(receipt) => receipt.detach(),
                Err(error) => producer.publish(error.into_message()).await?.detach(),
            }
        }
        producer.flush().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("burst", each(live, before_burst, bursting) + figures.get("used").unwrap_or(0.0));
    drop(producers);
    tokio::time::sleep(REST).await;
    figures.set("closed", each(live, before, run.n));
    Ok(())
}

async fn consumers(run: &Run, live: Live, client: &Client, figures: &mut Figures) -> Fallible {
    let mut consumers = Vec::with_capacity(run.n);
    let before = live();
    for _ in 0..run.n {
        consumers.push(client.consumer("deliver-16-100-1000").open().await?);
    }
    figures.set("opened", each(live, before, run.n));
    for consumer in &mut consumers {
        for _ in 0..100 {
            consumer.next().await.ok_or("the deliveries ended early")?.ack();
        }
    }
    for consumer in &consumers {
        consumer.settled().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("used", each(live, before, run.n));
    for mut consumer in consumers {
        consumer.close().await;
    }
    tokio::time::sleep(REST).await;
    figures.set("closed", each(live, before, run.n));
    Ok(())
}

async fn clients(run: &Run, live: Live, figures: &mut Figures) -> Fallible {
    for (connections, word) in [(1, "one"), (2, "two")] {
        let mut clients = Vec::with_capacity(run.n);
        // What the runtime and the program allocate once is not a client's.
        drop(lavinmq_tokio::connect(options(&run.target.url)?.connections(connections)).await?);
        tokio::time::sleep(REST).await;
        let before = live();
        for _ in 0..run.n {
            let options = options(&run.target.url)?.connections(connections);
            clients.push(lavinmq_tokio::connect(options).await?);
        }
        tokio::time::sleep(REST).await;
        figures.set(word, each(live, before, run.n));
        drop(clients);
        tokio::time::sleep(REST).await;
        figures.set(&format!("{word}-closed"), each(live, before, run.n));
    }
    Ok(())
}
