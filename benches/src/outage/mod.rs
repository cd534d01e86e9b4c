//! `outage`: what a cut costs. How long after it the first message is sent again, and how long a
//! full buffer takes to drain once there is a connection again; both measured at the peer.

mod peer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use lavinmq_core::{Client, Confirm, Options, Producer, PublishError, State};

use self::peer::{Marks, Peer, Plan};
use crate::runtimes::Runtime;
use crate::table::{Findings, Table, time};
use crate::{Fallible, machine};

/// What `outage` is asked for.
#[derive(Debug, Args)]
pub(crate) struct Outage {
    /// Twenty cuts each.
    #[arg(long)]
    quick: bool,
    /// So many cuts each, of both kinds.
    #[arg(long)]
    cuts: Option<usize>,
    /// Body sizes in bytes.
    #[arg(long, value_delimiter = ',', default_value = "16,1024")]
    sizes: Vec<usize>,
    /// Write the tables to this file as well, as markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// What a producer's buffer holds, by default.
const BUFFER: u64 = 10_000;

/// In flight at the cut.
const UNCONFIRMED: u64 = 1_000;

/// A row of both tables: nanoseconds, one entry for each cut.
struct Row {
    runtime: Runtime,
    size: usize,
    resends: Vec<Resend>,
    drains: Vec<Drain>,
}

/// From the cut to the first byte of a message on the next connection.
#[derive(Clone, Copy, Debug)]
struct Resend {
    /// Until the client says that it has lost the connection.
    notice: f64,
    /// Until the next one is accepted: the backoff's first delay, which is none, and TCP's
    /// handshake.
    dial: f64,
    /// Until open-ok is written.
    handshake: f64,
    /// Until the channel confirms.
    channel: f64,
    /// Until the first bytes of a message are read.
    first: f64,
    total: f64,
}

/// From the moment that the peer answers again, with a full buffer.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Until the first message is there.
    first: f64,
    /// From then until the last one is.
    last: f64,
    /// And until it is confirmed.
    confirmed: f64,
    /// Until the client knows.
    flushed: f64,
}

/// Cuts connections, and prints the tables.
pub(crate) fn run(options: &Outage) -> Fallible {
    let cuts = options.cuts.unwrap_or(if options.quick { 20 } else { 50 }).max(1);
    let load_before = machine::load();
    let mut rows = Vec::new();
    for &size in &options.sizes {
        for runtime in Runtime::ALL {
            rows.push(Row { runtime, size, resends: Vec::new(), drains: Vec::new() });
        }
    }
    for cut in 0..cuts {
        for row in &mut rows {
            let (runtime, size) = (row.runtime, row.size);
            eprint!("\rcut {cut}: {}, {size} B          ", runtime.name());
            row.resends.push(runtime.run(resend(runtime, size))?);
            row.drains.push(runtime.run(drain(runtime, size))?);
        }
    }
    eprintln!();

    let mut about = machine::description();
    about.push(format!(
        "{cuts} cuts each, interleaved; client and peer in one process, not pinned; load average \
         before {load_before}, after {}",
        machine::load(),
    ));
    let notes = vec![
        format!(
            "First: {UNCONFIRMED} messages unconfirmed and {} queued when the peer resets the \
             connection; it listens all the time. Notice: the client's state says that it \
             reconnects. Dial: no delay (the first attempt is immediate), and TCP's handshake. All \
             times but the notice are read at the peer; the parts are medians.",
            BUFFER / 2
        ),
        format!(
            "Second: {BUFFER} messages queued when the peer answers again. The peer confirms what \
             each of its reads brought, and one read brings up to 512 KiB: where it comes late to \
             the first, all others may be there already."
        ),
    ];
    Findings { about, tables: vec![resend_table(&rows), drain_table(&rows)], notes }
        .show(options.markdown.as_deref())
}

/// A client on its way to the peer, and when it said first that it reconnects.
struct Applicant {
    client: Client,
    producer: Producer<Confirm>,
    noticed: Arc<Mutex<Option<Instant>>>,
}

async fn applicant(runtime: Runtime, peer: &Peer, in_flight: u64) -> Fallible<Applicant> {
    let noticed = Arc::new(Mutex::new(None));
    let notice = Arc::clone(&noticed);
    let options = Options::new(format!("amqp://{}", peer.address))?.on_state_change(move |state| {
        if matches!(state, State::Reconnecting { .. }) {
            let now = Instant::now();
            notice.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        }
    });
    let client = runtime.connect(options).await?;
    let producer = client
        .producer("outage")
        .confirm()
        .buffer_size(BUFFER as usize)
        .max_in_flight(in_flight as usize)
        .open()
        .await?;
    Ok(Applicant { client, producer, noticed })
}

/// One cut with messages unconfirmed and others queued.
async fn resend(runtime: Runtime, size: usize) -> Fallible<Resend> {
    let queued = BUFFER / 2;
    let plan = Plan { unconfirmed: UNCONFIRMED, gated: false, expected: UNCONFIRMED + queued };
    let peer = peer::start(plan)?;
    let applicant = applicant(runtime, &peer, UNCONFIRMED).await?;
    let body = vec![b'x'; size];
    let mut receipts = Vec::new();
    for _ in 0..UNCONFIRMED + queued {
        receipts.push(applicant.producer.publish(&body).await?);
    }
    peer.loaded.await.map_err(peer::gone)?;
    while applicant.producer.buffer_size() as u64 > queued {
        // The driver is about to tell.
        runtime.sleep(Duration::from_millis(1)).await;
    }
    peer.steering.cut();
    let marks = peer.done.await.map_err(peer::gone)??;
    for receipt in receipts {
        receipt.await?;
    }
    let noticed = *applicant.noticed.lock().unwrap_or_else(PoisonError::into_inner);
    let noticed = noticed.ok_or("the client has noticed nothing")?;
    applicant.client.close().await;
    Ok(Resend::of(&marks, noticed))
}

/// One cut while the buffer is empty, which is full when the peer answers again.
async fn drain(runtime: Runtime, size: usize) -> Fallible<Drain> {
    let plan = Plan { unconfirmed: 1, gated: true, expected: BUFFER + 1 };
    let peer = peer::start(plan)?;
    let applicant = applicant(runtime, &peer, BUFFER + 1).await?;
    let body = vec![b'x'; size];
    let mut receipts = vec![applicant.producer.publish(&body).await?];
    peer.loaded.await.map_err(peer::gone)?;
    peer.steering.cut();
    peer.accepted.await.map_err(peer::gone)?;
    loop {
        match applicant.producer.try_publish(&body) {
            Ok(receipt) => receipts.push(receipt),
            Err(PublishError::Full(_)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if receipts.len() as u64 != BUFFER + 1 {
        return Err(format!("{} messages fill the buffer", receipts.len()).into());
    }
    // What was handed over becomes the driver's.
    runtime.sleep(Duration::from_millis(5)).await;
    peer.steering.open();
    applicant.producer.flush().await;
    let flushed = Instant::now();
    let marks = peer.done.await.map_err(peer::gone)??;
    for receipt in receipts {
        receipt.await?;
    }
    applicant.client.close().await;
    Ok(Drain::of(&marks, flushed))
}

fn between(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_nanos() as f64
}

impl Resend {
    fn of(marks: &Marks, noticed: Instant) -> Self {
        Self {
            notice: between(marks.cut, noticed),
            dial: between(noticed, marks.accepted),
            handshake: between(marks.accepted, marks.open),
            channel: between(marks.open, marks.ready),
            first: between(marks.ready, marks.first),
            total: between(marks.cut, marks.first),
        }
    }
}

impl Drain {
    fn of(marks: &Marks, flushed: Instant) -> Self {
        Self {
            first: between(marks.answered, marks.first),
            last: between(marks.first, marks.last),
            confirmed: between(marks.first, marks.confirmed),
            flushed: between(marks.first, flushed),
        }
    }
}

fn resend_table(rows: &[Row]) -> Table {
    let heads = [
        "runtime, body",
        "p50",
        "min",
        "p90",
        "max",
        "notice",
        "dial",
        "handshake",
        "channel",
        "first bytes",
    ];
    let mut table = Table::new("From the cut to the first message sent again", &heads);
    for row in rows {
        let figure = |of: fn(&Resend) -> f64, rank| time(ranked(row.resends.iter().map(of), rank));
        let total = |rank| figure(|resend| resend.total, rank);
        table.row(vec![
            row.label(),
            total(0.5),
            total(0.0),
            total(0.9),
            total(1.0),
            figure(|resend| resend.notice, 0.5),
            figure(|resend| resend.dial, 0.5),
            figure(|resend| resend.handshake, 0.5),
            figure(|resend| resend.channel, 0.5),
            figure(|resend| resend.first, 0.5),
        ]);
    }
    table
}

fn drain_table(rows: &[Row]) -> Table {
    let heads = [
        "runtime, body",
        "all sent p50",
        "min",
        "p90",
        "max",
        "all confirmed p50",
        "p90",
        "known to the client p50",
        "from answer to first message p50",
        "from answer to last confirm p50",
    ];
    let title = format!("A full buffer of {BUFFER} messages, from the first one sent");
    let mut table = Table::new(title, &heads);
    for row in rows {
        let figure = |of: fn(&Drain) -> f64, rank| time(ranked(row.drains.iter().map(of), rank));
        let sent = |rank| figure(|drain| drain.last, rank);
        table.row(vec![
            row.label(),
            sent(0.5),
            sent(0.0),
            sent(0.9),
            sent(1.0),
            figure(|drain| drain.confirmed, 0.5),
            figure(|drain| drain.confirmed, 0.9),
            figure(|drain| drain.flushed, 0.5),
            figure(|drain| drain.first, 0.5),
            figure(|drain| drain.first + drain.confirmed, 0.5),
        ]);
    }
    table
}

impl Row {
    fn label(&self) -> String {
        format!("{}, {} B", self.runtime.name(), self.size)
    }
}

/// The value that the given part of all values do not exceed.
fn ranked(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let place = (part * values.len() as f64).ceil() as usize;
    values.get(place.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_one_of_the_values() {
        let ranks =
            |values: &[f64]| [0.0, 0.5, 0.9, 1.0].map(|part| ranked(values.iter().copied(), part));
        assert_eq!(ranks(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0, 3.0]);
        let ten: Vec<_> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(ranks(&ten), [1.0, 5.0, 9.0, 10.0]);
    }

    /// The parts add up, and everything that was published before, at and after the cut is confirmed
    /// (else the receipts were errors).
    #[test]
    fn one_cut_of_each_kind_is_measured_on_each_runtime() -> Fallible {
        for runtime in Runtime::ALL {
            let Resend { notice, dial, handshake, channel, first, total } =
                runtime.run(resend(runtime, 16))?;
            assert_eq!(notice + dial + handshake + channel + first, total);
            let Drain { last, confirmed, .. } = runtime.run(drain(runtime, 16))?;
            assert!(last > 0.0 && confirmed >= last);
        }
        Ok(())
    }
}
