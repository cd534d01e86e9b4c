//! From the moment that a message should have been sent to the moment that its confirm is known,
//! at a rate that is kept whatever happens.
//!
//! A thread of its own sends what is due and then sleeps until the next message is (a timer of the
//! runtime's would add up to a millisecond). Ours and amqp-client's confirms are awaited in order
//! by one task, from a queue; lapin's publish resolves when it is written, so that each message has
//! a task of its own there, as in a server that publishes for each request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::executor::block_on;
use futures::{FutureExt, StreamExt, select};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, ConnectionProperties};
use lavinmq_core::{Message, Options};

use super::line::Said;
use super::schedule::Schedule;
use crate::contestants::{Latencies, latencies, record};
use crate::raw::Target;
use crate::runtimes::Runtime;
use crate::{Failure, Fallible};

/// How long the last confirms may take once everything should have been sent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Before the first message is due.
const LEAD: Duration = Duration::from_millis(20);

/// Sent before, and not counted, for as long as this.
const WARM_UP: Duration = Duration::from_millis(200);

/// What is published.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) url: String,
    pub(super) queue: String,
    pub(super) size: usize,
    /// Messages a second.
    pub(super) rate: f64,
    pub(super) time: Duration,
    /// The broker writes each message to its disk, if the queue is durable.
    pub(super) persistent: bool,
}

impl Task {
    pub(super) fn new(target: &Target, queue: &str, rate: f64, time: Duration) -> Self {
        let (url, queue) = (target.url.clone(), queue.to_owned());
        Self { url, queue, size: 16, rate, time, persistent: false }
    }

    /// Message number `i` of the warm-up included, and whether it counts.
    fn schedule(&self) -> (Schedule, u64) {
        let schedule = Schedule::new(Instant::now() + LEAD, self.rate, WARM_UP + self.time);
        (schedule, (self.rate * WARM_UP.as_secs_f64()) as u64)
    }
}

/// Sends what is due when it is due, by a thread of its own. Ends early if `send` says no.
fn pace(schedule: Schedule, mut send: impl FnMut(u64) -> bool) {
    let mut sent = 0;
    while sent < schedule.count {
        let due = schedule.due(Instant::now());
        while sent < due {
            if !send(sent) {
                return;
            }
            sent += 1;
        }
        if sent < schedule.count {
            let next = schedule.intended(sent);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// Messages of a peer that are sent and not confirmed. Ours is bounded by its own buffer and window;
/// some peers would take what they cannot send until the memory is full.
#[derive(Clone, Default)]
struct Outstanding(Arc<AtomicU64>);

impl Outstanding {
    /// One more, once there are fewer than ours may have.
    fn add(&self) {
        while self.0.load(Ordering::Relaxed) >= 20_000 {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Our client.
pub(super) fn ours(runtime: Runtime, task: Task) -> Fallible<Said> {
    runtime.run(async move {
        let client = runtime.connect(Options::new(&task.url)?).await?;
        let producer = client.producer(task.queue.as_str()).confirm().open().await?;
        let (schedule, skipped) = task.schedule();
        let (sender, receipts) = mpsc::unbounded();
        let body = vec![b'x'; task.size];
        let persistent = task.persistent;
        let pacer = std::thread::spawn(move || {
            pace(schedule, |i| {
                let message = Message::new(&body).persistent(persistent);
                match block_on(producer.publish(message)) {
                    Ok(receipt) => sender.unbounded_send((i, receipt)).is_ok(),
                    Err(_) => false,
                }
            });
        });
        let until = runtime.sleep(WARM_UP + task.time + LEAD + PATIENCE);
        let said = in_order(receipts, schedule, skipped, until, |receipt| async {
            receipt.await.map_err(Failure::from)
        })
        .await?;
        // It has ended, or the confirms have ended it.
        drop(client);
        drop(pacer);
        Ok(said)
    })
}

/// amqp-client, which queues a publish at once.
pub(super) fn amqp_client(runtime: Runtime, task: Task) -> Fallible<Said> {
    use amqp_client::{Confirmation, Connection};
    runtime.run(async move {
        let connection = Connection::connect(&task.url).await?;
        let channel = Arc::new(connection.open_channel().await?);
        channel.confirm_select().await?;
        // With the last handle the channel is closed, whatever is unconfirmed.
        let publishing = Arc::clone(&channel);
        let (schedule, skipped) = task.schedule();
        let (sender, receipts) = mpsc::unbounded();
        let outstanding = Outstanding::default();
        let awaited = outstanding.clone();
        let tokio = tokio::runtime::Handle::current();
        let (body, queue, persistent) =
            (vec![b'x'; task.size], task.queue.clone(), task.persistent);
        std::thread::spawn(move || {
            let _inside = tokio.enter();
            pace(schedule, |i| {
                let mut properties = amqp_client::BasicProperties::new();
                if persistent {
                    properties.delivery_mode = Some(2);
                }
                let body = body.as_slice();
                outstanding.add();
                match block_on(
                    publishing.basic_publish_confirmed("", &queue, body, properties, false),
                ) {
                    Ok(confirm) => sender.unbounded_send((i, confirm)).is_ok(),
                    Err(_) => false,
                }
            });
        });
        let until = runtime.sleep(WARM_UP + task.time + LEAD + PATIENCE);
        let said = in_order(receipts, schedule, skipped, until, |confirm| async {
            let confirmation = confirm.await?;
            awaited.remove();
            match confirmation {
                Confirmation::Acked => Ok(()),
                Confirmation::Nacked { .. } => Err("not confirmed".into()),
            }
        })
        .await?;
        std::mem::forget((channel, connection));
        Ok(said)
    })
}

/// Awaits confirms, the oldest first, until all are there or time is up.
async fn in_order<R, F>(
    mut receipts: mpsc::UnboundedReceiver<(u64, R)>,
    schedule: Schedule,
    skipped: u64,
    until: impl Future<Output = ()>,
    settled: impl Fn(R) -> F,
) -> Fallible<Said>
where
    F: Future<Output = Fallible>,
{
    let mut times = latencies()?;
    let mut last = Instant::now();
    let ended = {
        let mut until = std::pin::pin!(until.fuse());
        let mut all = std::pin::pin!(
            async {
                while let Some((i, receipt)) = receipts.next().await {
                    settled(receipt).await?;
                    if i >= skipped {
                        last = Instant::now();
                        record(&mut times, last.saturating_duration_since(schedule.intended(i)));
                    }
                }
                Fallible::Ok(())
            }
            .fuse()
        );
        select! {
            ended = all => ended,
            () = until => Ok(()),
        }
    };
    ended?;
    let took = last.saturating_duration_since(schedule.intended(skipped));
    Ok(Said { messages: times.len(), took, times })
}

/// lapin.
pub(super) fn lapin(runtime: Runtime, task: Task) -> Fallible<Said> {
    runtime.run(async move {
        let properties = ConnectionProperties::default();
        let connection = lapin::Connection::connect(&task.url, properties).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (schedule, skipped) = task.schedule();
        let times = Arc::new(Mutex::new((latencies()?, Instant::now())));
        let (done, mut is_done) = mpsc::channel::<()>(0);
        let tokio = tokio::runtime::Handle::current();
        let (noted, task_of_all) = (Arc::clone(&times), task.clone());
        let outstanding = Outstanding::default();
        std::thread::spawn(move || {
            let task = Arc::new(task_of_all);
            pace(schedule, |i| {
                let (channel, task) = (channel.clone(), Arc::clone(&task));
                let (noted, done) = (Arc::clone(&noted), done.clone());
                let outstanding = outstanding.clone();
                outstanding.add();
                tokio.spawn(async move {
                    let body = vec![b'x'; task.size];
                    let mut properties = BasicProperties::default();
                    if task.persistent {
                        properties = properties.with_delivery_mode(2);
                    }
                    let queue = task.queue.as_str().into();
                    let options = BasicPublishOptions::default();
                    let sent = channel.basic_publish("".into(), queue, options, &body, properties);
                    if let Ok(confirm) = sent.await
                        && confirm.await.is_ok_and(|confirmation| confirmation.is_ack())
                        && i >= skipped
                    {
                        let now = Instant::now();
                        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                        let waited = now.saturating_duration_since(schedule.intended(i));
                        record(&mut noted.0, waited);
                        noted.1 = now;
                    }
                    outstanding.remove();
                    // The last task to end closes the channel of those who wait for it.
                    drop(done);
                });
                true
            });
        });
        let mut until = runtime.sleep(WARM_UP + task.time + LEAD + PATIENCE).fuse();
        select! {
            _ = is_done.next() => {}
            () = until => {}
        }
        let (times, last): (Latencies, Instant) =
            times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let took = last.saturating_duration_since(schedule.intended(skipped));
        std::mem::forget(connection);
        Ok(Said { messages: times.len(), took, times })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_sent_once_in_order_and_never_early() {
        let schedule = Schedule::new(Instant::now(), 20_000.0, Duration::from_millis(50));
        let mut next = 0;
        pace(schedule, |i| {
            assert_eq!(i, next);
            assert!(Instant::now() >= schedule.intended(i));
            next += 1;
            true
        });
        assert_eq!(next, schedule.count);
    }

    /// A confirm that is awaited for long makes those behind it late, by as much as they should have
    /// been sent before: nothing is left out because nobody was there to send it.
    #[test]
    fn a_stall_counts_for_every_message_that_was_due_meanwhile() -> Fallible {
        let stall = Duration::from_millis(40);
        let schedule = Schedule::new(Instant::now(), 1_000.0, Duration::from_millis(40));
        let (sender, receipts) = mpsc::unbounded();
        for i in 0..schedule.count {
            sender.unbounded_send((i, ()))?;
        }
        drop(sender);
        std::thread::sleep(stall);
        let never = futures::future::pending();
        let said = block_on(in_order(receipts, schedule, 0, never, |()| async { Ok(()) }))?;
        assert_eq!(said.messages, 40);
        // The first was due 40 ms ago, the last 1 ms.
        assert!(said.times.max() >= 39_900_000, "{}", said.times.max());
        assert!(said.times.value_at_quantile(0.5) >= 19_900_000);
        Ok(())
    }
}
