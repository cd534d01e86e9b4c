//! amqprs. Confirms come to a callback of the channel, which counts them; deliveries by
//! `basic_consume_rx`, which spares a boxed future for each.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amqprs::callbacks::ChannelCallback;
use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicPublishArguments,
    BasicQosArguments, Channel, ConfirmSelectArguments,
};
use amqprs::connection::{Connection, OpenConnectionArguments};
use amqprs::{Ack, BasicProperties, Cancel, CloseChannel, Nack, Return};
use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Contestant, Job, Latencies, Threads, Tokio, ended, latencies, record, same_size, shares,
};
use crate::Fallible;
use crate::modes::{Mode, Task};
use crate::raw::Target;

struct Amqprs {
    tokio: Tokio,
    _connection: Connection,
    /// One for each task.
    channels: Vec<Channel>,
    confirms: Arc<Confirms>,
    /// Publishes on the first channel so far.
    sent: u64,
    task: Task,
}

/// What the callback has seen: all up to this tag are confirmed.
#[derive(Default)]
struct Confirms {
    settled: AtomicU64,
    more: Notify,
    nacked: AtomicU64,
}

struct OnConfirm(Arc<Confirms>);

pub(super) fn open(
    target: &Target,
    task: &Task,
    threads: Threads,
) -> Fallible<Box<dyn Contestant>> {
    let tokio = Tokio::new(threads)?;
    let mut arguments =
        OpenConnectionArguments::new(&target.host, target.port, &target.user, &target.password);
    arguments.virtual_host(&target.vhost);
    let (mode, prefetch) = (task.mode, task.prefetch());
    let confirms = Arc::new(Confirms::default());
    let callback = OnConfirm(Arc::clone(&confirms));
    let (connection, channels) = tokio.run(async move {
        let connection = Connection::open(&arguments).await?;
        let mut channels = Vec::new();
        for _ in 0..mode.tasks() {
            let channel = connection.open_channel(None).await?;
            if let Some(count) = prefetch {
                channel.basic_qos(BasicQosArguments::new(0, count, false)).await?;
            }
            channels.push(channel);
        }
        if mode.confirms() {
            channels[0].register_callback(callback).await?;
            channels[0].confirm_select(ConfirmSelectArguments::default()).await?;
        }
        Ok((connection, channels))
    })?;
    Ok(Box::new(Amqprs {
        tokio,
        _connection: connection,
        channels,
        confirms,
        sent: 0,
        task: task.clone(),
    }))
}

impl Contestant for Amqprs {
    fn idle(&mut self, time: Duration) {
        self.tokio.idle(time);
    }

    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        let task = self.task.clone();
        let channels = self.channels.clone();
        let confirms = Arc::clone(&self.confirms);
        let sent = self.sent;
        self.sent += job.count;
        self.tokio.run(async move {
            let channel = &channels[0];
            match task.mode {
                Mode::Publish | Mode::Publish4Tasks => {
                    let mut running = Vec::new();
                    for (channel, count) in
                        channels.iter().zip(shares(job.count, task.mode.tasks()))
                    {
                        running.push(tokio::spawn(publish(channel.clone(), task.clone(), count)));
                    }
                    for each in running {
                        each.await??;
                    }
                    Ok(None)
                }
                Mode::ConfirmPipelined | Mode::ConfirmPersistent => {
                    let (body, window) = (task.body(), task.window() as u64);
                    let last = sent + job.count;
                    for tag in sent + 1..=last {
                        if tag > window {
                            confirms.wait(tag - window).await?;
                        }
                        send(channel, &task, &body).await?;
                    }
                    confirms.wait(last).await?;
                    Ok(None)
                }
                Mode::ConfirmOne => {
                    let body = task.body();
                    let mut times = latencies()?;
                    for tag in sent + 1..=sent + job.count {
                        let start = Instant::now();
                        send(channel, &task, &body).await?;
                        confirms.wait(tag).await?;
                        record(&mut times, start.elapsed());
                    }
                    Ok(Some(times))
                }
                Mode::PingPong => ping_pong(channel, &task, &job).await.map(Some),
                Mode::ConsumeNoAck | Mode::ConsumeAck1000 | Mode::ConsumeAck100 => {
                    consume(channel, &task, job).await.map(|()| None)
                }
            }
        })
    }
}

async fn send(channel: &Channel, task: &Task, body: &[u8]) -> Fallible {
    let arguments = BasicPublishArguments::new("", &task.queue);
    let mut properties = BasicProperties::default();
    if task.persistent() {
        properties.with_delivery_mode(2);
    }
    Ok(channel.basic_publish(properties, body.to_vec(), arguments).await?)
}

async fn publish(channel: Channel, task: Task, count: u64) -> Fallible {
    let body = task.body();
    for _ in 0..count {
        send(&channel, &task, &body).await?;
    }
    Ok(())
}

async fn ping_pong(channel: &Channel, task: &Task, job: &Job) -> Fallible<Latencies> {
    let body = task.body();
    let mut arguments = BasicConsumeArguments::new(&job.queue, &job.tag);
    arguments.manual_ack(false);
    let (_, mut deliveries) = channel.basic_consume_rx(arguments).await?;
    let mut times = latencies()?;
    for _ in 0..job.count {
        let start = Instant::now();
        send(channel, task, &body).await?;
        let message = deliveries.recv().await.ok_or_else(ended)?;
        record(&mut times, start.elapsed());
        same_size(message.content.as_deref().unwrap_or_default(), task)?;
    }
    channel.basic_cancel(BasicCancelArguments::new(&job.tag)).await?;
    Ok(times)
}

async fn consume(channel: &Channel, task: &Task, job: Job) -> Fallible {
    let no_ack = !task.mode.acks();
    let mut arguments = BasicConsumeArguments::new(&job.queue, &job.tag);
    arguments.manual_ack(!no_ack);
    let (_, mut deliveries) = channel.basic_consume_rx(arguments).await?;
    for _ in 0..job.count {
        let message = deliveries.recv().await.ok_or_else(ended)?;
        black_box(&message.content);
        if !no_ack {
            let tag = message.deliver.ok_or_else(ended)?.delivery_tag();
            channel.basic_ack(BasicAckArguments::new(tag, false)).await?;
        }
    }
    channel.basic_cancel(BasicCancelArguments::new(&job.tag)).await?;
    Ok(())
}

impl Confirms {
    /// Until `tag` and all before it are confirmed.
    async fn wait(&self, tag: u64) -> Fallible {
        // One publisher waits, and `notify_one` keeps one permit: nothing is missed.
        while self.settled.load(Ordering::Acquire) < tag {
            self.more.notified().await;
        }
        if self.nacked.load(Ordering::Relaxed) > 0 { Err("not confirmed".into()) } else { Ok(()) }
    }
}

#[async_trait]
impl ChannelCallback for OnConfirm {
    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        // The sink and both brokers ack in order on a channel that nothing is nacked on.
        self.0.settled.fetch_max(ack.delivery_tag(), Ordering::AcqRel);
        self.0.more.notify_one();
    }

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {
        self.0.nacked.fetch_add(1, Ordering::Relaxed);
        self.0.settled.store(u64::MAX, Ordering::Release);
        self.0.more.notify_one();
    }

    async fn close(
        &mut self,
        _: &Channel,
        close: CloseChannel,
    ) -> Result<(), amqprs::error::Error> {
        eprintln!("amqprs: the broker closed the channel: {close}");
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), amqprs::error::Error> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, amqprs::error::Error> {
        Ok(active)
    }

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}
