//! From the call of `publish` to acceptance, with 100 tasks publishing over one producer.

use std::time::{Duration, Instant};

use lavinmq_core::{BufferPolicy, FireAndForget, Options, Producer};

use super::line::Said;
use crate::Fallible;
use crate::contestants::{Latencies, latencies, record};
use crate::raw::Target;
use crate::runtimes::Runtime;

/// Publishing tasks.
pub(super) const TASKS: usize = 100;

/// How often a task publishes where it does not as fast as it can.
const BEAT: Duration = Duration::from_millis(10);

/// 100 tasks publish for a while: `rate` messages a second together, or as many as are accepted.
pub(super) fn run(
    runtime: Runtime,
    target: &Target,
    queue: &'static str,
    rate: Option<f64>,
    time: Duration,
) -> Fallible<Said> {
    let url = target.url.clone();
    runtime.run(async move {
        let client = runtime.connect(Options::new(&url)?).await?;
        // What the promise is about: a full buffer makes publishers wait, and nothing is dropped.
        let producer = client.producer(queue).buffer_policy(BufferPolicy::Block).open().await?;
        let warm_up = time.min(Duration::from_millis(100));
        let _ = all(runtime, &producer, rate, warm_up).await?;
        let said = all(runtime, &producer, rate, time).await?;
        if said.messages == 0 {
            return Err("nothing was accepted".into());
        }
        Ok(said)
    })
}

async fn all(
    runtime: Runtime,
    producer: &Producer<FireAndForget>,
    rate: Option<f64>,
    time: Duration,
) -> Fallible<Said> {
    let start = Instant::now();
    let each = rate.map(|rate| rate / TASKS as f64);
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let producer = producer.clone();
            // Not all at the same moment.
            let first = start + BEAT.mul_f64(number as f64 / TASKS as f64);
            runtime.spawn(async move {
                match each {
                    None => flood(&producer, start + time).await,
                    Some(rate) => beat(runtime, &producer, rate, first, start + time).await,
                }
            })
        })
        .collect();
    let mut times = latencies()?;
    for task in tasks {
        times.add(task.await?)?;
    }
    let took = start.elapsed();
    producer.flush().await;
    Ok(Said { messages: times.len(), took, times })
}

async fn flood(producer: &Producer<FireAndForget>, end: Instant) -> Fallible<Latencies> {
    let mut times = latencies()?;
    let mut now = Instant::now();
    while now < end {
        producer.publish(&[b'x'; 16]).await?;
        let then = std::mem::replace(&mut now, Instant::now());
        record(&mut times, now - then);
    }
    Ok(times)
}

/// A few messages at a time, every 10 ms, so that a task's rate does not depend on how exact the
/// runtime's timer is.
async fn beat(
    runtime: Runtime,
    producer: &Producer<FireAndForget>,
    rate: f64,
    first: Instant,
    end: Instant,
) -> Fallible<Latencies> {
    let mut times = latencies()?;
    let mut sent = 0_u64;
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(times);
        }
        let due = (now.saturating_duration_since(first).as_secs_f64() * rate) as u64;
        while sent < due {
            let start = Instant::now();
            producer.publish(&[b'x'; 16]).await?;
            record(&mut times, start.elapsed());
            sent += 1;
        }
        runtime.sleep(BEAT).await;
    }
}
