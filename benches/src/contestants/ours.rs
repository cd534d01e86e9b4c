//! Our client on tokio's two runtimes and on smol: `ours-tokio-ct`, `ours-tokio-mt`, `ours-smol`.
//! The same code for all three, as an application would write it: receipts wait in a queue, the
//! oldest is awaited when it holds 1,000; each delivery is acked as it is handled.

use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::time::{Duration, Instant};

use lavinmq_core::{Client, Confirm, Consumer, FireAndForget, Kind, Message, Producer};

use super::{
    Contestant, Entry, Job, Latencies, Role, Threads, Tokio, ended, latencies, record, same_size,
    shares,
};
use crate::Fallible;
use crate::modes::{Mode, OUTSTANDING, Task};
use crate::raw::Target;

const fn entry(
    name: &'static str,
    role: Role,
    open: fn(&Target, &Task) -> Fallible<Box<dyn Contestant>>,
) -> Entry {
    Entry { name, role, package: Some("lavinmq-core"), quick: true, deaf: false, open }
}

pub(crate) const ALL: &[Entry] = &[
    entry("ours-tokio-ct", Role::OursCurrentThread, |to, task| {
        open(to, task, Runtime::Tokio(Tokio::new(Threads::One)?))
    }),
    entry("ours-tokio-mt", Role::OursMultiThread, |to, task| {
        open(to, task, Runtime::Tokio(Tokio::new(Threads::Many)?))
    }),
    entry("ours-smol", Role::OursSmol, |to, task| open(to, task, Runtime::Smol)),
];

struct Ours {
    runtime: Runtime,
    client: Client,
    producers: Producers,
    task: Task,
}

/// One for each task of a mode that publishes.
#[derive(Clone)]
enum Producers {
    FireAndForget(Vec<Producer<FireAndForget>>),
    Confirm(Producer<Confirm>),
}

fn open(target: &Target, task: &Task, runtime: Runtime) -> Fallible<Box<dyn Contestant>> {
    let (url, opened) = (target.url.clone(), task.clone());
    let smol = matches!(runtime, Runtime::Smol);
    let (client, producers) = runtime.run(async move {
        let client = match smol {
            true => lavinmq_smol::connect(&url).await?,
            false => lavinmq_tokio::connect(&url).await?,
        };
        let producers = if opened.mode.confirms() {
            let producer = client.producer(opened.queue.as_str()).buffer_bytes(OUTSTANDING);
            Producers::Confirm(producer.confirm().open().await?)
        } else {
            let mut producers = Vec::new();
            if !opened.mode.consumes() {
                for _ in 0..opened.mode.tasks() {
                    let producer = client.producer(opened.queue.as_str());
                    producers.push(producer.buffer_bytes(OUTSTANDING).open().await?);
                }
            }
            Producers::FireAndForget(producers)
        };
        Ok((client, producers))
    })?;
    Ok(Box::new(Ours { runtime, client, producers, task: task.clone() }))
}

impl Contestant for Ours {
    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        let task = self.task.clone();
        let spawn = self.runtime.spawner();
        match self.producers.clone() {
            Producers::Confirm(producer) if task.mode == Mode::ConfirmOne => self
                .runtime
                .run(async move { confirm_one(&producer, &task, job.count).await.map(Some) }),
            Producers::Confirm(producer) => self.runtime.run(async move {
                confirm_pipelined(&producer, &task, job.count).await.map(|()| None)
            }),
            Producers::FireAndForget(producers) if task.mode == Mode::PingPong => {
                let client = self.client.clone();
                self.runtime.run(async move {
                    let producer = producers.first().ok_or("no producer")?;
                    ping_pong(&client, producer, &task, &job).await.map(Some)
                })
            }
            Producers::FireAndForget(producers) if !task.mode.consumes() => {
                self.runtime.run(async move {
                    let mut running = Vec::new();
                    for (producer, count) in
                        producers.into_iter().zip(shares(job.count, task.mode.tasks()))
                    {
                        running.push(spawn(Box::pin(publish(producer, task.clone(), count))));
                    }
                    for each in running {
                        each.await?;
                    }
                    Ok(None)
                })
            }
            Producers::FireAndForget(_) => {
                let client = self.client.clone();
                self.runtime.run(async move { consume(&client, &task, &job).await.map(|()| None) })
            }
        }
    }

    fn idle(&mut self, time: Duration) {
        match &self.runtime {
            Runtime::Tokio(tokio) => tokio.idle(time),
            // Its executor has a thread.
            Runtime::Smol => std::thread::sleep(time),
        }
    }
}

async fn flood<T: Into<Message> + Copy>(
    producer: &Producer<FireAndForget>,
    message: T,
    count: u64,
) -> Fallible {
    for _ in 0..count {
        producer.publish(message).await?;
    }
    Ok(())
}

async fn publish(producer: Producer<FireAndForget>, task: Task, count: u64) -> Fallible {
    let source = Source::of(&task);
    match &source.ready {
        None => flood(&producer, &source.body, count).await?,
        Some(message) => flood(&producer, message, count).await?,
    }
    producer.flush().await;
    match producer.stats().dropped() {
        0 => Ok(()),
        // By default this mode evicts when nothing has left for 100 ms, which the sink is too slow
        // for only on a machine that is too busy to measure on.
        dropped => Err(format!("{dropped} messages were evicted: nothing left for 100 ms").into()),
    }
}

/// Where messages come from.
struct Source {
    body: Vec<u8>,
    /// All of them, where they are not made anew from the body each time: large ones, and those that
    /// say "transient" (confirm producers publish persistent messages by default).
    ready: Option<Message>,
}

impl Source {
    fn of(task: &Task) -> Self {
        let body = task.body();
        let ready = match task.shared_body().map(Message::from) {
            ready if !task.transient => ready,
            ready => Some(ready.unwrap_or_else(|| Message::from(&body)).persistent(false)),
        };
        Self { body, ready }
    }
}

async fn confirm_pipelined(producer: &Producer<Confirm>, task: &Task, count: u64) -> Fallible {
    let source = Source::of(task);
    match &source.ready {
        None => confirm_all(producer, &source.body, task, count).await,
        Some(message) => confirm_all(producer, message, task, count).await,
    }
}

async fn confirm_all<T: Into<Message> + Copy>(
    producer: &Producer<Confirm>,
    message: T,
    task: &Task,
    count: u64,
) -> Fallible {
    let mut receipts = VecDeque::with_capacity(task.window());
    for _ in 0..count {
        if receipts.len() >= task.window()
            && let Some(oldest) = receipts.pop_front()
        {
            oldest.await?;
        }
        receipts.push_back(producer.publish(message).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

async fn confirm_one(producer: &Producer<Confirm>, task: &Task, count: u64) -> Fallible<Latencies> {
    let source = Source::of(task);
    let mut times = latencies()?;
    for _ in 0..count {
        let start = Instant::now();
        match &source.ready {
            None => producer.publish(&source.body).await?.await?,
            Some(message) => producer.publish(message).await?.await?,
        }
        record(&mut times, start.elapsed());
    }
    Ok(times)
}

async fn ping_pong(
    client: &Client,
    producer: &Producer<FireAndForget>,
    task: &Task,
    job: &Job,
) -> Fallible<Latencies> {
    let source = Source::of(task);
    let mut consumer = client.consumer(job.queue.as_str()).no_ack().open().await?;
    let mut times = latencies()?;
    for _ in 0..job.count {
        let start = Instant::now();
        match &source.ready {
            None => producer.publish(&source.body).await?,
            Some(message) => producer.publish(message).await?,
        };
        let received = consumer.next().await.ok_or_else(ended)?;
        record(&mut times, start.elapsed());
        same_size(received.body(), task)?;
    }
    consumer.close().await;
    Ok(times)
}

async fn consume(client: &Client, task: &Task, job: &Job) -> Fallible {
    let consumer = client.consumer(job.queue.as_str());
    match task.prefetch() {
        None => {
            let mut consumer = consumer.no_ack().open().await?;
            receive(&mut consumer, job.count, |received| {
                black_box(received.body());
            })
            .await
        }
        Some(prefetch) => {
            let mut consumer = consumer.prefetch(prefetch).open().await?;
            receive(&mut consumer, job.count, |delivery| {
                black_box(delivery.body());
                delivery.ack();
            })
            .await
        }
    }
}

/// Returns when every ack is written, and the consumer is cancelled.
async fn receive<K: Kind>(
    consumer: &mut Consumer<K>,
    count: u64,
    handle: impl Fn(K::Item),
) -> Fallible {
    for _ in 0..count {
        handle(consumer.next().await.ok_or_else(ended)?);
    }
    match consumer.close().await.is_clean() {
        true => Ok(()),
        false => Err("deliveries were left".into()),
    }
}

/// Where the client and the application's tasks run.
enum Runtime {
    Tokio(Tokio),
    /// smol's global executor, which has one thread.
    Smol,
}

type Work = Pin<Box<dyn Future<Output = Fallible> + Send>>;

impl Runtime {
    fn run<T, F>(&self, work: F) -> Fallible<T>
    where
        T: Send + 'static,
        F: Future<Output = Fallible<T>> + Send + 'static,
    {
        match self {
            Self::Tokio(tokio) => tokio.run(work),
            // Not `smol::block_on`: this thread would take turns with the executor's in waiting
            // for the sockets.
            Self::Smol => futures::executor::block_on(smol::spawn(work)),
        }
    }

    fn spawner(&self) -> fn(Work) -> Work {
        match self {
            Self::Tokio(_) => |work| {
                let task = tokio::spawn(work);
                Box::pin(async { task.await? })
            },
            Self::Smol => |work| Box::pin(smol::spawn(work)),
        }
    }
}
