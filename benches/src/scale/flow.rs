//! The cost of a message with many producers, or many consumers, on one client; and what opening
//! and closing each of them costs.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::try_join_all;
use lavinmq_core::error::ConsumeError;
use lavinmq_core::{BufferPolicy, Client, Confirm, Consumer, FireAndForget, Kind, Producer};

use super::{Run, figures::Figures, options};
use crate::Fallible;
use crate::raw::Raw;
use crate::usage::{Usage, peak_memory};

/// Where publishers publish to.
const QUEUE: &str = "scale";

/// How long after the last consume-ok the deliveries begin, in milliseconds: every consumer is open
/// by then.
const DELAY: u64 = 500;

/// Unconfirmed messages of one producer: 1,000 over all, but no fewer than this.
const WINDOW: usize = 16;

/// Consumers opened at a time: one by one, each would wait for the sink three times.
const TOGETHER: usize = 100;

/// Unsettled deliveries: 1,000 over all, but no fewer than a consumer's default.
fn prefetch(n: usize) -> u16 {
    (1_000 / n).max(100) as u16
}

/// Messages of 16 bytes.
const BODY: [u8; 16] = [b'x'; 16];

pub(super) fn run(run: &Run) -> Fallible<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut figures = Figures::default();
    runtime.block_on(async {
        let client = lavinmq_tokio::connect(options(&run.target.url)?).await?;
        match run.what.as_str() {
            "publish" => publishers(run, &client, &mut figures).await,
            "confirm" => confirmers(run, &client, &mut figures).await,
            "publish-in-turn" => publish_in_turn(run, &client, &mut figures).await,
            "consume-no-ack" => consumers(run, &client, None, u64::MAX, &mut figures).await,
            "consume-ack" => {
                consumers(run, &client, Some(prefetch(run.n)), u64::MAX, &mut figures).await
            }
            "consume-in-turn" => {
                consumers(run, &client, Some(prefetch(run.n)), 1, &mut figures).await
            }
            "consumers-until-refused" => until_refused(run, &client, &mut figures).await,
            what => Err(format!("no flow {what}").into()),
        }
    })?;
    figures.set("memory", peak_memory()? as f64);
    Ok(figures)
}

/// Times `n` of something by their setting up, or their taking down.
async fn timed<T>(
    run: &Run,
    word: &str,
    figures: &mut Figures,
    work: impl Future<Output = Fallible<T>>,
) -> Fallible<T> {
    let start = Usage::now(&mut run.counters())?;
    let result = work.await?;
    let cost = start.elapsed(&mut run.counters())?;
    let n = run.n as f64;
    figures.set(&format!("{word}-cpu"), cost.cpu.as_nanos() as f64 / n);
    figures.set(&format!("{word}-wall"), cost.wall.as_nanos() as f64 / n);
    Ok(result)
}

/// Measures `messages` messages, and that they have arrived.
async fn measured(
    run: &Run,
    figures: &mut Figures,
    messages: u64,
    idle: Duration,
    work: impl Future<Output = Fallible>,
) -> Fallible {
    let start = Usage::now(&mut run.counters())?;
    work.await?;
    let cost = start.elapsed(&mut run.counters())?;
    let n = messages as f64;
    figures.set("cpu", cost.cpu.as_nanos() as f64 / n);
    figures.set("rate", n / cost.wall.saturating_sub(idle).as_secs_f64());
    if let Some(allocations) = cost.allocations {
        figures.set("allocations", allocations as f64 / n);
    }
    Ok(())
}

async fn publishers(run: &Run, client: &Client, figures: &mut Figures) -> Fallible {
    let open = async {
        let mut producers = Vec::with_capacity(run.n);
        for _ in 0..run.n {
            let producer = client.producer(QUEUE).buffer_policy(BufferPolicy::Block);
            producers.push(producer.open().await?);
        }
        Ok(producers)
    };
    let producers = timed(run, "open", figures, open).await?;
    let share = run.messages.div_ceil(run.n as u64);
    publish(&producers, share.min(20)).await?;
    let mut probe = Raw::open(&run.target)?;
    let base = probe.declare(QUEUE, true)?;
    let work = publish(&producers, share);
    measured(run, figures, share * run.n as u64, Duration::ZERO, work).await?;
    arrived(&mut probe, base, share * run.n as u64).await?;
    timed(run, "close", figures, async move {
        drop(producers);
        closed(client).await
    })
    .await
}

/// A task for each producer.
async fn publish(producers: &[Producer<FireAndForget>], share: u64) -> Fallible {
    let mut tasks = Vec::with_capacity(producers.len());
    for producer in producers {
        let producer = producer.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..share {
                producer.publish(&BODY).await?;
            }
            producer.flush().await;
            Fallible::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// One task that publishes one message on each producer in turn.
async fn publish_in_turn(run: &Run, client: &Client, figures: &mut Figures) -> Fallible {
    let mut producers = Vec::with_capacity(run.n);
    for _ in 0..run.n {
        let producer = client.producer(QUEUE).buffer_policy(BufferPolicy::Block);
        producers.push(producer.open().await?);
    }
    let share = run.messages.div_ceil(run.n as u64);
    publish(&producers, share.min(20)).await?;
    let mut probe = Raw::open(&run.target)?;
    let base = probe.declare(QUEUE, true)?;
    let work = async {
        for _ in 0..share {
            for producer in &producers {
                producer.publish(&BODY).await?;
            }
        }
        for producer in &producers {
            producer.flush().await;
        }
        Ok(())
    };
    measured(run, figures, share * run.n as u64, Duration::ZERO, work).await?;
    arrived(&mut probe, base, share * run.n as u64).await
}

async fn confirmers(run: &Run, client: &Client, figures: &mut Figures) -> Fallible {
    let open = async {
        let mut producers = Vec::with_capacity(run.n);
        for _ in 0..run.n {
            producers.push(client.producer(QUEUE).confirm().open().await?);
        }
        Ok(producers)
    };
    let producers = timed(run, "open", figures, open).await?;
    let share = run.messages.div_ceil(run.n as u64);
    let window = (1_000 / run.n).max(WINDOW);
    confirm(&producers, share.min(20), window).await?;
    let work = confirm(&producers, share, window);
    measured(run, figures, share * run.n as u64, Duration::ZERO, work).await?;
    timed(run, "close", figures, async move {
        drop(producers);
        closed(client).await
    })
    .await
}

/// A task for each producer, every outcome awaited.
async fn confirm(producers: &[Producer<Confirm>], share: u64, window: usize) -> Fallible {
    let mut tasks = Vec::with_capacity(producers.len());
    for producer in producers {
        let producer = producer.clone();
        tasks.push(tokio::spawn(async move {
            let mut receipts = VecDeque::with_capacity(window);
            for _ in 0..share {
                if receipts.len() >= window
                    && let Some(oldest) = receipts.pop_front()
                {
                    oldest.await?;
                }
                receipts.push_back(producer.publish(&BODY).await?);
            }
            for receipt in receipts {
                receipt.await?;
            }
            Fallible::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Consumers in tasks of their own, each with its share; `turn` deliveries for one of them before
/// the sink goes on to the next.
async fn consumers(
    run: &Run,
    client: &Client,
    prefetch: Option<u16>,
    turn: u64,
    figures: &mut Figures,
) -> Fallible {
    let share = run.messages.div_ceil(run.n as u64);
    let queue = format!("deliver-{}-{share}-{DELAY}-{turn}", BODY.len());
    match prefetch {
        None => {
            let open = async {
                let mut consumers = Vec::with_capacity(run.n);
                while consumers.len() < run.n {
                    let some = (consumers.len()..run.n).take(TOGETHER);
                    let open = some.map(|_| client.consumer(queue.as_str()).no_ack().open());
                    consumers.extend(try_join_all(open).await?);
                }
                Ok(consumers)
            };
            let consumers = timed(run, "open", figures, open).await?;
            drain(run, figures, consumers, share, |received| {
                std::hint::black_box(received.body());
            })
            .await
        }
        Some(prefetch) => {
            let open = async {
                let mut consumers = Vec::with_capacity(run.n);
                while consumers.len() < run.n {
                    let some = (consumers.len()..run.n).take(TOGETHER);
                    let consumer = || client.consumer(queue.as_str()).prefetch(prefetch);
                    consumers.extend(try_join_all(some.map(|_| consumer().open())).await?);
                }
                Ok(consumers)
            };
            let consumers = timed(run, "open", figures, open).await?;
            drain(run, figures, consumers, share, |delivery| {
                std::hint::black_box(delivery.body());
                delivery.ack();
            })
            .await
        }
    }
}

async fn drain<K: Kind>(
    run: &Run,
    figures: &mut Figures,
    consumers: Vec<Consumer<K>>,
    share: u64,
    handle: fn(K::Item),
) -> Fallible
where
    Consumer<K>: Send + 'static,
{
    let mut idle = Vec::new();
    let work = async {
        let mut tasks = Vec::with_capacity(run.n);
        for mut consumer in consumers {
            tasks.push(tokio::spawn(async move {
                for _ in 0..share {
                    handle(consumer.next().await.ok_or("the deliveries ended early")?);
                }
                Fallible::Ok(consumer)
            }));
        }
        for task in tasks {
            idle.push(task.await??);
        }
        Ok(())
    };
    let delay = Duration::from_millis(DELAY);
    measured(run, figures, share * run.n as u64, delay, work).await?;
    timed(run, "close", figures, async move {
        let mut closing = Vec::with_capacity(idle.len());
        for mut consumer in idle {
            closing.push(tokio::spawn(async move { consumer.close().await.is_clean() }));
        }
        for each in closing {
            if !each.await? {
                return Err("deliveries were left".into());
            }
        }
        Ok(())
    })
    .await
}

/// Everything that was dropped before is closed, since requests are answered in order.
async fn closed(client: &Client) -> Fallible {
    let last = client.producer(QUEUE).open().await?;
    last.close().await;
    Ok(())
}

/// The sink has swallowed them: what is measured has left.
async fn arrived(probe: &mut Raw, base: u32, messages: u64) -> Fallible {
    let (all, started) = (messages as u32, std::time::Instant::now());
    while probe.declare(QUEUE, true)?.wrapping_sub(base) < all {
        if started.elapsed() > Duration::from_secs(60) {
            return Err("messages were accepted and never arrived".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Opens consumers until one is refused.
async fn until_refused(run: &Run, client: &Client, figures: &mut Figures) -> Fallible {
    let mut consumers = Vec::new();
    while consumers.len() < run.n {
        match client.consumer(QUEUE).open().await {
            Ok(consumer) => consumers.push(consumer),
            Err(ConsumeError::ChannelsExhausted { limit }) => {
                figures.set("limit", f64::from(limit));
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    figures.set("opened", consumers.len() as f64);
    Ok(())
}
