//! amqp-client, by its low-level layer (the high-level one adds a codec per message and
//! offers no confirms in flight).

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp_client::{
    BasicProperties, Channel, Confirmation, Connection, ConsumeOpts, PublishConfirm,
};
use bytes::Bytes;

use super::{
    Contestant, Job, Latencies, Threads, Tokio, ended, latencies, record, same_size, shares,
};
use crate::Fallible;
use crate::modes::{Mode, Task};
use crate::raw::Target;

struct AmqpClient {
    tokio: Tokio,
    _connection: Connection,
    /// One for each task.
    channels: Vec<Arc<Channel>>,
    task: Task,
}

pub(super) fn open(
    target: &Target,
    task: &Task,
    threads: Threads,
) -> Fallible<Box<dyn Contestant>> {
    let tokio = Tokio::new(threads)?;
    let (url, mode, prefetch) = (target.url.clone(), task.mode, task.prefetch());
    let (connection, channels) = tokio.run(async move {
        let connection = Connection::connect(&url).await?;
        let mut channels = Vec::new();
        for _ in 0..mode.tasks() {
            let channel = connection.open_channel().await?;
            if mode.confirms() {
                channel.confirm_select().await?;
            }
            if let Some(count) = prefetch {
                channel.basic_qos(count, false).await?;
            }
            channels.push(Arc::new(channel));
        }
        Ok((connection, channels))
    })?;
    Ok(Box::new(AmqpClient { tokio, _connection: connection, channels, task: task.clone() }))
}

impl Contestant for AmqpClient {
    fn idle(&mut self, time: Duration) {
        self.tokio.idle(time);
    }

    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        let task = self.task.clone();
        let channels = self.channels.clone();
        self.tokio.run(async move {
            let channel = &channels[0];
            match task.mode {
                Mode::Publish | Mode::Publish4Tasks => {
                    let mut running = Vec::new();
                    for (channel, count) in
                        channels.iter().zip(shares(job.count, task.mode.tasks()))
                    {
                        let (channel, task) = (Arc::clone(channel), task.clone());
                        running.push(tokio::spawn(publish(channel, task, count)));
                    }
                    for each in running {
                        each.await??;
                    }
                    Ok(None)
                }
                Mode::ConfirmPipelined | Mode::ConfirmPersistent => {
                    publish_confirmed(channel, &task, job.count).await.map(|()| None)
                }
                Mode::ConfirmOne => confirm_one(channel, &task, job.count).await.map(Some),
                Mode::PingPong => ping_pong(channel, &task, &job).await.map(Some),
                Mode::ConsumeNoAck | Mode::ConsumeAck1000 | Mode::ConsumeAck100 => {
                    consume(channel, &task, job).await.map(|()| None)
                }
            }
        })
    }
}

/// Where bodies come from.
struct Source {
    body: Vec<u8>,
    /// The same, if it is large.
    shared: Option<Bytes>,
}

impl Source {
    fn of(task: &Task) -> Self {
        Self { body: task.body(), shared: task.shared_body() }
    }

    fn body(&self) -> Bytes {
        self.shared.clone().unwrap_or_else(|| Bytes::copy_from_slice(&self.body))
    }
}

async fn publish(channel: Arc<Channel>, task: Task, count: u64) -> Fallible {
    let source = Source::of(&task);
    for _ in 0..count {
        channel.basic_publish("", &task.queue, source.body(), BasicProperties::new()).await?;
    }
    Ok(())
}

async fn send(channel: &Channel, task: &Task, body: Bytes) -> Fallible<PublishConfirm> {
    let mut properties = BasicProperties::new();
    if task.persistent() {
        properties.delivery_mode = Some(2);
    }
    Ok(channel.basic_publish_confirmed("", &task.queue, body, properties, false).await?)
}

async fn settled(confirm: PublishConfirm) -> Fallible {
    match confirm.await? {
        Confirmation::Acked => Ok(()),
        Confirmation::Nacked { .. } => Err("not confirmed".into()),
    }
}

async fn publish_confirmed(channel: &Channel, task: &Task, count: u64) -> Fallible {
    let source = Source::of(task);
    let mut pending = VecDeque::with_capacity(task.window());
    for _ in 0..count {
        if pending.len() == task.window()
            && let Some(oldest) = pending.pop_front()
        {
            settled(oldest).await?;
        }
        pending.push_back(send(channel, task, source.body()).await?);
    }
    for confirm in pending {
        settled(confirm).await?;
    }
    Ok(())
}

async fn confirm_one(channel: &Channel, task: &Task, count: u64) -> Fallible<Latencies> {
    let source = Source::of(task);
    let mut times = latencies()?;
    for _ in 0..count {
        let start = Instant::now();
        settled(send(channel, task, source.body()).await?).await?;
        record(&mut times, start.elapsed());
    }
    Ok(times)
}

/// The first delivery cannot come in the same read as consume-ok, which this client would lose:
/// it is published afterwards.
async fn ping_pong(channel: &Channel, task: &Task, job: &Job) -> Fallible<Latencies> {
    let source = Source::of(task);
    let options = ConsumeOpts { no_ack: true, ..Default::default() };
    let mut consumer = channel.basic_consume(&job.queue, &job.tag, options).await?;
    let mut times = latencies()?;
    for _ in 0..job.count {
        let start = Instant::now();
        channel.basic_publish("", &job.queue, source.body(), BasicProperties::new()).await?;
        let delivery = consumer.next().await.ok_or_else(ended)?;
        record(&mut times, start.elapsed());
        same_size(&delivery.body, task)?;
    }
    channel.basic_cancel(&job.tag).await?;
    Ok(times)
}

async fn consume(channel: &Channel, task: &Task, job: Job) -> Fallible {
    let no_ack = !task.mode.acks();
    let options = ConsumeOpts { no_ack, ..Default::default() };
    let mut consumer = channel.basic_consume(&job.queue, &job.tag, options).await?;
    // What comes in the same read as consume-ok is lost to this client: the sink delivers from
    // here on.
    channel.basic_qos(task.prefetch().unwrap_or(0), false).await?;
    for _ in 0..job.count {
        let delivery = consumer.next().await.ok_or_else(ended)?;
        black_box(&delivery.body);
        if !no_ack {
            delivery.ack()?;
        }
    }
    Ok(channel.basic_cancel(&job.tag).await?)
}
