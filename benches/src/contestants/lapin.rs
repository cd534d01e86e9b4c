//! lapin. Its `publish` and `ack` resolve when their frame was written, so that awaiting one
//! after the other would cost a write each: a window (1,000; a prefetch of acks) runs at once, by
//! `buffered`, which is what its users do for speed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt, TryStreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::{
    Contestant, Job, Latencies, Threads, Tokio, ended, latencies, record, same_size, shares,
};
use crate::Fallible;
use crate::modes::{Mode, Task};
use crate::raw::Target;

struct Lapin {
    tokio: Tokio,
    _connection: Connection,
    /// One for each task.
    channels: Vec<Channel>,
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
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let mut channels = Vec::new();
        for _ in 0..mode.tasks() {
            let channel = connection.create_channel().await?;
            if mode.confirms() {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
            }
            if let Some(count) = prefetch {
                channel.basic_qos(count, BasicQosOptions::default()).await?;
            }
            channels.push(channel);
        }
        Ok((connection, channels))
    })?;
    Ok(Box::new(Lapin { tokio, _connection: connection, channels, task: task.clone() }))
}

impl Contestant for Lapin {
    fn idle(&mut self, time: Duration) {
        self.tokio.idle(time);
    }

    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>> {
        let task = self.task.clone();
        let channels = self.channels.clone();
        self.tokio.run(async move {
            match task.mode {
                Mode::Publish
                | Mode::Publish4Tasks
                | Mode::ConfirmPipelined
                | Mode::ConfirmPersistent => {
                    let mut running = Vec::new();
                    for (channel, count) in
                        channels.into_iter().zip(shares(job.count, task.mode.tasks()))
                    {
                        running.push(tokio::spawn(publish(channel, task.clone(), count)));
                    }
                    for each in running {
                        each.await??;
                    }
                    Ok(None)
                }
                Mode::ConfirmOne => confirm_one(&channels[0], &task, job.count).await.map(Some),
                Mode::PingPong => ping_pong(&channels[0], &task, &job).await.map(Some),
                Mode::ConsumeNoAck | Mode::ConsumeAck1000 | Mode::ConsumeAck100 => {
                    consume(&channels[0], &task, job).await.map(|()| None)
                }
            }
        })
    }
}

async fn publish(channel: Channel, task: Task, count: u64) -> Fallible {
    let body = task.body();
    let confirms = task.mode.confirms();
    let mut properties = BasicProperties::default();
    if task.persistent() {
        properties = properties.with_delivery_mode(2);
    }
    let (channel, body, queue) = (&channel, &body, task.queue.as_str());
    let properties = &properties;
    stream::iter(0..count)
        .map(|_| async move {
            let confirm = channel
                .basic_publish(
                    "".into(),
                    queue.into(),
                    BasicPublishOptions::default(),
                    body,
                    properties.clone(),
                )
                .await?;
            if confirms && !confirm.await?.is_ack() {
                return Err("not confirmed".into());
            }
            Ok(())
        })
        .buffered(task.window())
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn confirm_one(channel: &Channel, task: &Task, count: u64) -> Fallible<Latencies> {
    let body = task.body();
    let mut times = latencies()?;
    for _ in 0..count {
        let start = Instant::now();
        let confirm = channel
            .basic_publish(
                "".into(),
                task.queue.as_str().into(),
                BasicPublishOptions::default(),
                &body,
                BasicProperties::default(),
            )
            .await?
            .await?;
        if !confirm.is_ack() {
            return Err("not confirmed".into());
        }
        record(&mut times, start.elapsed());
    }
    Ok(times)
}

async fn ping_pong(channel: &Channel, task: &Task, job: &Job) -> Fallible<Latencies> {
    let body = task.body();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel
        .basic_consume(
            job.queue.as_str().into(),
            job.tag.as_str().into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let mut times = latencies()?;
    for _ in 0..job.count {
        let start = Instant::now();
        channel
            .basic_publish(
                "".into(),
                job.queue.as_str().into(),
                BasicPublishOptions::default(),
                &body,
                BasicProperties::default(),
            )
            .await?;
        let delivery = consumer.next().await.ok_or_else(ended)??;
        record(&mut times, start.elapsed());
        same_size(&delivery.data, task)?;
    }
    channel.basic_cancel(job.tag.as_str().into(), BasicCancelOptions::default()).await?;
    Ok(times)
}

async fn consume(channel: &Channel, task: &Task, job: Job) -> Fallible {
    let prefetch = task.prefetch();
    let options = BasicConsumeOptions { no_ack: prefetch.is_none(), ..Default::default() };
    let mut consumer = channel
        .basic_consume(
            job.queue.as_str().into(),
            job.tag.as_str().into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let count = usize::try_from(job.count)?;
    let mut received = 0;
    match prefetch {
        None => {
            while received < count {
                let delivery = consumer.next().await.ok_or_else(ended)??;
                black_box(&delivery.data);
                received += 1;
            }
        }
        Some(prefetch) => {
            let mut acks = consumer
                .by_ref()
                .take(count)
                .map(|delivery| async {
                    let delivery = delivery?;
                    black_box(&delivery.data);
                    delivery.acker.ack(BasicAckOptions::default()).await
                })
                .buffered(prefetch.into());
            while let Some(acked) = acks.next().await {
                acked?;
                received += 1;
            }
            if received < count {
                return Err(ended());
            }
        }
    }
    channel.basic_cancel(job.tag.as_str().into(), BasicCancelOptions::default()).await?;
    Ok(())
}
