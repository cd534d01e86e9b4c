//! Several threads, or tasks on several threads, that publish through one client: over producers of
//! their own, or over one that all share.

use std::time::Duration;

use lavinmq_core::{BufferPolicy, Client, FireAndForget, Producer};

use super::{Run, figures::Figures, options};
use crate::Fallible;
use crate::raw::Raw;
use crate::usage::{Counters, Usage};

const QUEUE: &str = "scale";

/// A buffer that is full nearly always: then publishers wait in line.
const SMALL: usize = 64;

/// `what` is `KIND-PRODUCERS-BUFFER`, such as `threads-shared-full`.
pub(super) fn run(run: &Run) -> Fallible<Figures> {
    let mut words = run.what.split('-');
    let threads = words.next() == Some("threads");
    let shared = words.next() == Some("shared");
    let full = words.next() == Some("full");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (client, producers) = runtime.block_on(async {
        let client = lavinmq_tokio::connect(options(&run.target.url)?).await?;
        let producers = open(&client, run.n, shared, full).await?;
        Fallible::Ok((client, producers))
    })?;
    let share = run.messages / run.n as u64;
    let publish = |share: u64| -> Fallible {
        if threads {
            on_threads(&producers, share)
        } else {
            runtime.block_on(in_tasks(&producers, share))
        }
    };
    publish(share / 10)?;
    let mut probe = Raw::open(&run.target)?;
    let base = probe.declare(QUEUE, true)?;
    let start = Usage::now(&mut Counters::default())?;
    publish(share)?;
    let all = share * run.n as u64;
    probe.await_messages(QUEUE, base, all, std::thread::sleep)?;
    let cost = start.elapsed(&mut Counters::default())?;
    let mut figures = Figures::default();
    figures.set("cpu", cost.cpu.as_nanos() as f64 / all as f64);
    figures.set("rate", all as f64 / cost.wall.as_secs_f64());
    figures.set("switches", cost.switches as f64 / all as f64);
    drop(producers);
    runtime.block_on(client.close());
    Ok(figures)
}

async fn open(
    client: &Client,
    n: usize,
    shared: bool,
    full: bool,
) -> Fallible<Vec<Producer<FireAndForget>>> {
    let mut producers: Vec<Producer<FireAndForget>> = Vec::new();
    for _ in 0..n {
        let producer = match producers.first() {
            Some(first) if shared => first.clone(),
            _ => {
                let producer = client.producer(QUEUE).buffer_policy(BufferPolicy::Block);
                let producer = if full { producer.buffer_size(SMALL) } else { producer };
                producer.open().await?
            }
        };
        producers.push(producer);
    }
    Ok(producers)
}

fn on_threads(producers: &[Producer<FireAndForget>], share: u64) -> Fallible {
    std::thread::scope(|scope| {
        let running: Vec<_> = producers
            .iter()
            .map(|producer| {
                scope.spawn(move || futures::executor::block_on(publish(producer.clone(), share)))
            })
            .collect();
        for thread in running {
            thread.join().map_err(|_| "a publisher panicked")??;
        }
        Ok(())
    })
}

async fn in_tasks(producers: &[Producer<FireAndForget>], share: u64) -> Fallible {
    let running: Vec<_> =
        producers.iter().map(|producer| tokio::spawn(publish(producer.clone(), share))).collect();
    for task in running {
        tokio::time::timeout(Duration::from_secs(60), task).await???;
    }
    Ok(())
}

async fn publish(producer: Producer<FireAndForget>, share: u64) -> Fallible {
    for _ in 0..share {
        producer.publish("0123456789abcdef").await?;
    }
    producer.flush().await;
    Ok(())
}
