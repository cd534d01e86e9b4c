//! Large messages: what a mebibyte costs, out and in, and what small messages on the same connection
//! wait meanwhile.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use lavinmq_core::Client;
use tokio::runtime::{Builder, Runtime};

use crate::cli::Large;
use crate::raw::Raw;
use crate::usage::{Cost, Counters, Usage};
use crate::versus::peer::Sink;
use crate::{Failure, Fallible, machine, wire};

const MIB: usize = 1 << 20;

/// Where messages go: the sink swallows them.
const QUEUE: &str = "lavinmq-benches-large";

/// What is done, as in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A body written where it lies, over and over: the kernel's copy alone.
    RawOut,
    /// Published without confirms, `Bytes` that are shared.
    Publish,
    /// The same, confirmed.
    Confirm,
    /// Read and taken apart, bodies not looked at: the kernel's copy alone.
    RawIn,
    /// The same, each body put together in memory of its own.
    RawInBodies,
    /// Consumed without acks.
    NoAck,
    /// Consumed and acked, prefetch 10.
    Ack,
}

impl Work {
    const ALL: [Self; 7] = [
        Self::RawOut,
        Self::Publish,
        Self::Confirm,
        Self::RawIn,
        Self::RawInBodies,
        Self::NoAck,
        Self::Ack,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::RawOut => "out: raw",
            Self::Publish => "out: publish",
            Self::Confirm => "out: confirmed",
            Self::RawIn => "in: raw",
            Self::RawInBodies => "in: raw, bodies put together",
            Self::NoAck => "in: no ack",
            Self::Ack => "in: ack",
        }
    }

    const fn floor(self) -> Self {
        match self {
            Self::RawOut | Self::Publish | Self::Confirm => Self::RawOut,
            Self::RawIn | Self::RawInBodies | Self::NoAck | Self::Ack => Self::RawIn,
        }
    }
}

/// Runs it all, and prints two tables.
pub(crate) fn run(options: &Large) -> Fallible {
    if cfg!(debug_assertions) {
        eprintln!("not a release build: the figures mean nothing");
    }
    let pinned = std::thread::available_parallelism()?.get() > 1;
    let sink = Sink::start(&std::env::current_exe()?, pinned.then_some(options.sink_core), 0)?;
    let mut text = String::new();
    for line in machine::description() {
        writeln!(text, "- {line}")?;
    }
    if pinned {
        machine::pin(options.client_core)?;
    }
    writeln!(text, "- load before: {}\n", machine::load())?;
    costs(options, &sink.url, &mut text)?;
    waits(options, &sink.url, &mut text)?;
    writeln!(text, "\nload after: {}", machine::load())?;
    print!("{text}");
    if let Some(file) = &options.markdown {
        std::fs::write(file, text)?;
    }
    Ok(())
}

// ---- what a mebibyte costs -----------------------------------------------------------------------

fn costs(options: &Large, url: &str, text: &mut String) -> Fallible {
    writeln!(text, "| | body | CPU µs/MiB | | of raw | MiB/s |\n|---|---:|---:|---|---:|---:|")?;
    for &size in &options.sizes {
        let count = (options.volume * MIB / size).max(1);
        let mut rounds: Vec<Vec<(f64, f64)>> = vec![Vec::new(); Work::ALL.len()];
        for round in 0..options.rounds {
            for step in 0..Work::ALL.len() {
                let at = (step + round) % Work::ALL.len();
                eprint!("\rround {round}: {} of {size} bytes            ", Work::ALL[at].name());
                let cost = measure(Work::ALL[at], url, size, count)?;
                let mebibytes = (count * size) as f64 / MIB as f64;
                let cpu = cost.cpu.as_nanos() as f64 / 1e3 / mebibytes;
                rounds[at].push((cpu, mebibytes / cost.wall.as_secs_f64()));
            }
        }
        let median = |at: usize, figure: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = rounds[at].iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            (values[values.len() / 2], values[0], values[values.len() - 1])
        };
        for (at, work) in Work::ALL.iter().enumerate() {
            let (cpu, least, most) = median(at, |row| row.0);
            let floor = Work::ALL.iter().position(|other| *other == work.floor()).unwrap_or(at);
            let (raw, ..) = median(floor, |row| row.0);
            let (rate, ..) = median(at, |row| row.1);
            writeln!(
                text,
                "| {} | {} | {cpu:.0} | {least:.0} to {most:.0} | {:.2} | {rate:.0} |",
                work.name(),
                readable(size),
                cpu / raw,
            )?;
        }
    }
    eprintln!();
    Ok(())
}

fn readable(size: usize) -> String {
    if size >= MIB { format!("{} MiB", size / MIB) } else { format!("{} KiB", size >> 10) }
}

/// The cost of `count` messages, after a few that warm up.
fn measure(work: Work, url: &str, size: usize, count: usize) -> Fallible<Cost> {
    let target = url.parse()?;
    let supply = |count: usize| format!("deliver-{size}-{count}");
    let warm = (count / 8).max(1);
    let mut none = Counters::default();
    match work {
        Work::RawOut => {
            let mut raw = Raw::open(&target)?;
            let body = vec![b'x'; size];
            raw_out(&mut raw, &body, warm)?;
            let start = Usage::now(&mut none)?;
            raw_out(&mut raw, &body, count)?;
            start.elapsed(&mut none)
        }
        Work::RawIn | Work::RawInBodies => {
            let mut raw = Raw::open(&target)?;
            let together = work == Work::RawInBodies;
            raw_in(&mut raw, &supply(warm), size, warm, together)?;
            let start = Usage::now(&mut none)?;
            raw_in(&mut raw, &supply(count), size, count, together)?;
            start.elapsed(&mut none)
        }
        Work::Publish | Work::Confirm | Work::NoAck | Work::Ack => {
            let url = url.to_owned();
            runtime()?.block_on(async move {
                let client = lavinmq_tokio::connect(&url).await?;
                let body = Bytes::from(vec![b'x'; size]);
                ours(work, &client, &body, &supply(warm), warm).await?;
                let start = Usage::now(&mut none)?;
                ours(work, &client, &body, &supply(count), count).await?;
                start.elapsed(&mut none)
            })
        }
    }
}

fn runtime() -> Fallible<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn raw_out(raw: &mut Raw, body: &[u8], count: usize) -> Fallible {
    let base = raw.declare(QUEUE, true)?;
    let mut out = Vec::new();
    for _ in 0..count {
        raw.publish(&mut out, QUEUE, body)?;
    }
    raw.write(&out)?;
    raw.await_messages(QUEUE, base, count as u64, std::thread::sleep)
}

fn raw_in(raw: &mut Raw, queue: &str, size: usize, count: usize, together: bool) -> Fallible {
    raw.consume(queue, queue, true)?;
    let (mut left, mut body) = (count * size, Vec::new());
    while left > 0 {
        raw.read(|frame| {
            if frame.kind != wire::BODY {
                return Ok(());
            }
            left -= frame.payload.len();
            if together {
                if body.is_empty() {
                    body = Vec::with_capacity(size);
                }
                body.extend_from_slice(frame.payload);
                if body.len() == size {
                    black_box(std::mem::take(&mut body));
                }
            }
            Ok(())
        })?;
    }
    raw.cancel(queue)
}

async fn ours(work: Work, client: &Client, body: &Bytes, queue: &str, count: usize) -> Fallible {
    match work {
        Work::Publish => {
            let producer = client.producer(QUEUE).open().await?;
            for _ in 0..count {
                producer.publish(body.clone()).await?;
            }
            producer.flush().await;
            match producer.stats().dropped() {
                0 => {}
                dropped => return Err(format!("{dropped} messages were evicted").into()),
            }
            producer.close().await;
        }
        Work::Confirm => {
            let producer = client.producer(QUEUE).confirm().open().await?;
            let mut receipts = Vec::new();
            for _ in 0..count {
                receipts.push(producer.publish(body.clone()).await?);
            }
            for receipt in receipts {
                receipt.await?;
            }
            producer.close().await;
        }
        Work::NoAck => {
            let mut consumer = client.consumer(queue).no_ack().open().await?;
            for _ in 0..count {
                black_box(consumer.next().await.ok_or("the stream ended")?);
            }
            consumer.close().await;
        }
        Work::Ack => {
            let mut consumer = client.consumer(queue).prefetch(10).open().await?;
            for _ in 0..count {
                consumer.next().await.ok_or("the stream ended")?.ack();
            }
            consumer.close().await;
        }
        Work::RawOut | Work::RawIn | Work::RawInBodies => {}
    }
    Ok(())
}

// ---- what small messages wait --------------------------------------------------------------------

fn waits(options: &Large, url: &str, text: &mut String) -> Fallible {
    writeln!(
        text,
        "\n| 16 B, published and confirmed one by one | messages | p50 µs | p99 µs | most µs |\n\
         |---|---:|---:|---:|---:|"
    )?;
    let time = Duration::from_millis(options.latency);
    for (name, large, apart) in [
        ("alone", 0, false),
        ("beside bodies of 1 MiB", MIB, false),
        ("beside bodies of 16 MiB", 16 * MIB, false),
        ("beside bodies of 16 MiB of another client", 16 * MIB, true),
    ] {
        eprint!("\rwaiting {name}            ");
        let times = runtime()?.block_on(small_beside(url, large, apart, time))?;
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        let (p50, p99, most) = (at(0.5), at(0.99), times.max() as f64 / 1e3);
        writeln!(text, "| {name} | {} | {p50:.0} | {p99:.0} | {most:.0} |", times.len())?;
    }
    eprintln!();
    Ok(())
}

async fn small_beside(
    url: &str,
    large: usize,
    apart: bool,
    time: Duration,
) -> Fallible<Histogram<u64>> {
    let mut times = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let client = lavinmq_tokio::connect(url).await?;
    let other = if apart { lavinmq_tokio::connect(url).await? } else { client.clone() };
    let flood = (large > 0).then(|| tokio::spawn(flood(other, large)));
    let producer = client.producer(QUEUE).confirm().open().await?;
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        producer.publish("sixteen bytes...").await?.await?;
        times.saturating_record(sent.elapsed().as_nanos() as u64);
        // Not at once: at any moment of the large body.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if let Some(flood) = flood {
        if flood.is_finished() {
            return flood.await?.map(|()| times);
        }
        flood.abort();
    }
    Ok(times)
}

/// Publishes large bodies, as fast as they go.
async fn flood(client: Client, size: usize) -> Result<(), Failure> {
    let body = Bytes::from(vec![b'x'; size]);
    let producer = client.producer(QUEUE).confirm().open().await?;
    loop {
        producer.publish(body.clone()).await?.detach();
    }
}
