//! What a client costs that does nothing: how often its driver is woken, how often the process's
//! threads wait, and the processor's time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use lavinmq_core::{Client, Options};

use super::{Run, figures::Figures, options};
use crate::Fallible;
use crate::usage::{Counters, Usage};

/// Handshakes, opening and what follows them are over after this long.
const SETTLE: Duration = Duration::from_secs(3);

/// `what` is `RUNTIME-SCENE`, such as `tokio-producers`.
pub(super) fn run(run: &Run) -> Fallible<Figures> {
    let (runtime, scene) = run.what.split_once('-').ok_or("no scene")?;
    let url = run.target.url.clone();
    let (scene, n, seconds) = (scene.to_owned(), run.n, run.messages);
    match runtime {
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(
                url,
                scene,
                n,
                seconds,
                |options, polls| {
                    let (client, driver) = lavinmq_tokio::with_driver(options)?;
                    tokio::spawn(Counted(driver, polls));
                    Ok(client)
                },
                |time| Box::pin(tokio::time::sleep(time)),
            ))
        }
        "smol" => {
            let work = measure(
                url,
                scene,
                n,
                seconds,
                |options, polls| {
                    let (client, driver) = lavinmq_smol::with_driver(options)?;
                    smol::spawn(Counted(driver, polls)).detach();
                    Ok(client)
                },
                |time| Box::pin(async move { _ = smol::Timer::after(time).await }),
            );
            futures::executor::block_on(smol::spawn(work))
        }
        runtime => Err(format!("no runtime {runtime}").into()),
    }
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn measure(
    url: String,
    scene: String,
    n: usize,
    seconds: u64,
    start: fn(Options, Arc<AtomicU64>) -> Fallible<Client>,
    sleep: fn(Duration) -> Sleep,
) -> Fallible<Figures> {
    let polls = Arc::new(AtomicU64::new(0));
    let (clients, connections) = match scene.as_str() {
        "one-connection" => (1, 1),
        "clients" => (n, 2),
        _ => (1, 2),
    };
    let mut kept: Vec<Client> = Vec::new();
    let (mut producers, mut consumers, mut settling) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..clients {
        let options = options(&url)?.connections(connections);
        let client = start(options, Arc::clone(&polls))?;
        client.ready().await?;
        kept.push(client);
    }
    if let (Some(client), "producers") = (kept.first(), scene.as_str()) {
        for _ in 0..n {
            let producer = client.producer("idle").open().await?;
            producer.publish("0123456789abcdef").await?;
            producers.push(producer);
        }
    }
    if let (Some(client), "consumers") = (kept.first(), scene.as_str()) {
        for _ in 0..n {
            consumers.push(client.consumer("idle").no_ack().open().await?);
            settling.push(client.consumer("idle").open().await?);
        }
    }
    sleep(SETTLE).await;
    let before = polls.load(Ordering::Relaxed);
    let usage = Usage::now(&mut Counters::default())?;
    sleep(Duration::from_secs(seconds)).await;
    let cost = usage.elapsed(&mut Counters::default())?;
    let woken = polls.load(Ordering::Relaxed) - before;
    let wall = cost.wall.as_secs_f64();
    let mut figures = Figures::default();
    figures.set("wake-ups", woken as f64 / wall / clients as f64);
    figures.set("switches", cost.switches as f64 / wall / clients as f64);
    figures.set("cpu", cost.cpu.as_secs_f64() / wall * 100.0);
    drop((producers, consumers, settling));
    Ok(figures)
}

/// A driver that counts how often it is polled: each time it was woken.
struct Counted<D>(D, Arc<AtomicU64>);

impl<D: Future<Output = ()> + Unpin> Future for Counted<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll(cx)
    }
}
