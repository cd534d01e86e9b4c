//! Many clients in one process, each connected and publishing a little.

use std::time::Instant;

use super::{Run, figures::Figures, options};
use crate::Fallible;
use crate::usage::{Counters, Usage, entries, resident_memory};

/// So many handshakes at a time: a thousand at once would be a test of the sink's listen queue.
const TOGETHER: usize = 50;

pub(super) fn run(run: &Run) -> Fallible<Figures> {
    let runtime = match run.what.as_str() {
        "current-thread" => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        "multi-thread" => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        what => return Err(format!("no runtime {what}").into()),
    };
    let mut figures = Figures::default();
    runtime.block_on(async {
        let memory = resident_memory()?;
        let start = Usage::now(&mut Counters::default())?;
        let mut clients = Vec::with_capacity(run.n);
        while clients.len() < run.n {
            let count = TOGETHER.min(run.n - clients.len());
            let connecting: Vec<_> = (0..count)
                .map(|_| Ok(lavinmq_tokio::connect(options(&run.target.url)?)))
                .collect::<Fallible<_>>()?;
            clients.extend(futures::future::try_join_all(connecting).await?);
        }
        let cost = start.elapsed(&mut Counters::default())?;
        figures.set("connect-cpu", cost.cpu.as_nanos() as f64 / run.n as f64);
        figures.set("connect-wall", cost.wall.as_nanos() as f64 / run.n as f64);

        let mut producers = Vec::with_capacity(run.n);
        for client in &clients {
            producers.push(client.producer("scale").confirm().open().await?);
        }
        let share = (run.messages / run.n as u64).max(1);
        for warm in [true, false] {
            let start = Usage::now(&mut Counters::default())?;
            let mut tasks = Vec::with_capacity(run.n);
            for producer in &producers {
                let producer = producer.clone();
                tasks.push(tokio::spawn(async move {
                    let mut receipts = Vec::new();
                    for _ in 0..share {
                        receipts.push(producer.publish("0123456789abcdef").await?);
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
            if !warm {
                let cost = start.elapsed(&mut Counters::default())?;
                let n = (share * run.n as u64) as f64;
                figures.set("cpu", cost.cpu.as_nanos() as f64 / n);
                figures.set("rate", n / cost.wall.as_secs_f64());
            }
        }
        figures.set("resident", (resident_memory()? - memory) as f64 / run.n as f64);
        figures.set("threads", entries("task")? as f64);
        figures.set("descriptors", entries("fd")? as f64);

        let start = Instant::now();
        drop(producers);
        let mut closing = Vec::new();
        for client in clients {
            closing.push(tokio::spawn(async move { client.close().await.is_clean() }));
        }
        for each in closing {
            if !each.await? {
                return Err("a client did not close cleanly".into());
            }
        }
        figures.set("close-wall", start.elapsed().as_nanos() as f64 / run.n as f64);
        Fallible::Ok(())
    })?;
    Ok(figures)
}
