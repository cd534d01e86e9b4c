//! Publishes orders and consumes them again, while the network cuts the connections in the middle
//! of frames; then shows that every order arrived.
//!
//! Without a URL (argument, or `AMQP_URL`) it brings its own broker, in this process.

mod accounts;
mod wanted;
mod watch;

use std::{
    collections::VecDeque,
    error::Error,
    net::ToSocketAddrs as _,
    process::{self, ExitCode},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::try_join;
use lavinmq_testing::{Broker, Direction, FaultLink};

use self::{
    accounts::{Accounts, Tally},
    wanted::{USAGE, Wanted},
    watch::Watch,
};
use super::lavinmq::{
    self, Confirm, Consumer, Delivery, Manual, Options, Producer, Receipt, types::AMQPValue,
};

/// How many times the network fails.
const CUTS: u64 = 6;
/// How many receipts are awaited at a time.
const PIPELINE: usize = 5_000;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The whole program.
pub(crate) async fn main(runtime: &str) -> ExitCode {
    let wanted = match Wanted::from_command_line() {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("quickstart: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(runtime, &wanted).await {
        Ok(accounts) => accounts.close(&wanted),
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(runtime: &str, wanted: &Wanted) -> Result<Accounts> {
    // A broker, and a bad network in front of it.
    let mut own = None;
    let url = match &wanted.url {
        Some(url) => url.clone(),
        None => own.insert(Broker::start()?).url(),
    };
    let (link, url) = link(&url)?;
    eprintln!(
        "quickstart: on {runtime}, {}",
        if own.is_some() { "with a broker in this process" } else { "with your broker" }
    );

    // A client. It reconnects by itself; half a second between attempts is enough for a quickstart.
    let options = Options::new(&url)?
        .name("quickstart")
        .reconnect_initial_delay(Duration::from_millis(50))
        .reconnect_max_delay(Duration::from_millis(500));
    let client = lavinmq::connect(options).await?;

    // A queue, new and of its own name, which the broker removes when it was unused for ten minutes.
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let queue = format!("quickstart-orders-{}-{}", process::id(), since_1970.as_millis());
    client.queue(&queue).argument("x-expires", AMQPValue::LongInt(600_000)).declare().await?;

    let producer = client.producer(&*queue).confirm().open().await?;
    let mut consumer = client.consumer(&*queue).prefetch(1000).open().await?;

    // Publish and consume, both at once, until every order has arrived.
    let tally = Arc::new(Tally::default());
    let watch = Watch::start(wanted, &client, &tally, &link, consumer.handle());
    let ((), seen) = try_join(
        publish(&producer, wanted, &tally, &link, &watch),
        consume(&mut consumer, wanted, &tally),
    )
    .await?;
    watch.stop();

    consumer.settled().await;
    let report = client.close().await;
    if !report.is_clean() {
        eprintln!("quickstart: the close left something behind: {report:?}");
    }
    let stats = client.stats();
    Ok(Accounts {
        accepted: tally.accepted.load(Relaxed),
        confirmed: tally.confirmed.load(Relaxed),
        resent: tally.resent.load(Relaxed),
        received_unique: seen.iter().filter(|copies| **copies > 0).count() as u64,
        duplicates: seen.iter().map(|copies| u64::from(copies.saturating_sub(1))).sum(),
        cuts: link.counters().cuts,
        reconnects: stats.reconnects,
        conserved: stats.is_conserved(),
    })
}

/// Publishes every order and awaits every receipt.
async fn publish(
    orders: &Producer<Confirm>,
    wanted: &Wanted,
    tally: &Tally,
    link: &FaultLink,
    watch: &Watch,
) -> Result<()> {
    let confirmed = |confirmed: u64| {
        tally.confirmed.store(confirmed, Relaxed);
        // Every so often the network fails, a little later: in the middle of whatever goes by then.
        let cut = confirmed * (CUTS + 1) / wanted.messages;
        if wanted.faults && cut > tally.cuts_ordered.load(Relaxed) && cut <= CUTS {
            tally.cuts_ordered.store(cut, Relaxed);
            link.cut_after(1_000 + 37 * cut, Direction::ToBroker);
        }
        watch.confirmed(confirmed);
    };
    let mut count = 0;
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    for number in 0..wanted.messages {
        // Accepted: from here on the order has exactly one outcome.
        receipts.push_back(orders.publish(order(number, wanted.size)).await?);
        tally.accepted.fetch_add(1, Relaxed);
        while receipts.len() >= PIPELINE || receipts.front().is_some_and(Receipt::is_settled) {
            let Some(receipt) = receipts.pop_front() else { break };
            // The outcome: the broker has it, or the error says what became of it.
            receipt.await?;
            count += 1;
            confirmed(count);
        }
    }
    for receipt in receipts {
        receipt.await?;
        count += 1;
        confirmed(count);
    }
    tally.all_confirmed.store(true, Relaxed);
    Ok(())
}

/// Consumes orders until the watch stops the consumer; says how many copies of each there were.
async fn consume(
    orders: &mut Consumer<Manual>,
    wanted: &Wanted,
    tally: &Tally,
) -> Result<Vec<u32>> {
    let mut seen = vec![0_u32; usize::try_from(wanted.messages)?];
    let thrown_away = wanted.sabotage.then_some(wanted.messages / 2);
    while let Some(delivery) = orders.next().await {
        let number = number(delivery.body())?;
        if thrown_away != Some(number) {
            let copies = seen.get_mut(usize::try_from(number)?).ok_or("an order nobody sent")?;
            *copies += 1;
            tally.unique.fetch_add(u64::from(*copies == 1), Relaxed);
            tally.resent.fetch_add(u64::from(says_that_it_was_resent(&delivery)), Relaxed);
        }
        tally.received.fetch_add(1, Relaxed);
        delivery.ack();
    }
    Ok(seen)
}

/// An order: JSON, filled up to its size.
fn order(number: u64, size: usize) -> String {
    let order = format!(r#"{{"order":{number:012},"note":"#);
    let note = size.saturating_sub(order.len() + 3);
    format!("{order}\"{:x<note$}\"}}", "")
}

/// Its number, read out of the body.
fn number(order: &[u8]) -> Result<u64> {
    let digits = order.get(9..21).ok_or("an order cut short")?;
    Ok(std::str::from_utf8(digits)?.parse()?)
}

/// A copy that may be the second one carries the header `x-attempt`.
fn says_that_it_was_resent(delivery: &Delivery) -> bool {
    let Ok(properties) = delivery.properties() else { return false };
    properties.headers().as_ref().is_some_and(|headers| headers.inner().contains_key("x-attempt"))
}

/// A fault link to the broker at `url`, and the URL that leads through it.
fn link(url: &str) -> Result<(Arc<FaultLink>, String)> {
    let mut url = url::Url::parse(url).map_err(|error| format!("not a URL: {error}"))?;
    let host = url.host_str().unwrap_or("localhost").trim_matches(['[', ']']);
    let broker = (host, url.port().unwrap_or(5672));
    let broker = broker.to_socket_addrs()?.next().ok_or("the broker's host has no address")?;
    let link = FaultLink::start(broker)?;
    url.set_host(Some(&link.addr().ip().to_string()))?;
    url.set_port(Some(link.addr().port())).map_err(|()| "not a URL with a port")?;
    Ok((Arc::new(link), url.into()))
}
