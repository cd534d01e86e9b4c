//! Publishes orders and consumes them again, while the network cuts the connections in the middle
//! of frames; then shows that every order arrived.
//!
//! Without a URL (argument, or `AMQP_URL`) it brings its own broker, in this process.

use std::{
    collections::VecDeque,
    env,
    error::Error,
    io::IsTerminal as _,
    net::ToSocketAddrs as _,
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::try_join;
use indicatif::{ProgressBar, ProgressStyle};
use lavinmq_testing::{Broker, Direction, FaultLink};

use crate::lavinmq::{
    self, Client, Confirm, Consumer, ConsumerHandle, Delivery, Manual, Options, Producer, Receipt,
    types::AMQPValue,
};

const USAGE: &str = "\
usage: quickstart [--messages N] [--size BYTES] [--no-faults] [--sabotage skip-one] [AMQP-URL]

  --messages N          how many orders (100000)
  --size BYTES          how long each is, at least 32 (100)
  --no-faults           leave the network alone
  --sabotage skip-one   throw one order away as it arrives: the accounts must show it
  AMQP-URL              a broker of yours, also from AMQP_URL; without one, one in this process";

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

/// What was seen on the way, by the program itself: not the client's counters.
#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    confirmed: AtomicU64,
    received: AtomicU64,
    unique: AtomicU64,
    resent: AtomicU64,
    cuts_ordered: AtomicU64,
    all_confirmed: AtomicBool,
}

/// The last line, and the verdict.
struct Accounts {
    accepted: u64,
    confirmed: u64,
    resent: u64,
    received_unique: u64,
    duplicates: u64,
    cuts: u64,
    reconnects: u64,
    conserved: bool,
}

impl Accounts {
    fn close(&self, wanted: &Wanted) -> ExitCode {
        let Self {
            accepted,
            confirmed,
            resent,
            received_unique,
            duplicates,
            cuts,
            reconnects,
            conserved,
        } = self;
        let lost = accepted - received_unique;
        let mut good = lost == 0 && *accepted == wanted.messages && accepted == confirmed;
        if !conserved {
            eprintln!("quickstart: the client's own accounts do not add up");
            good = false;
        }
        if wanted.faults && (*resent == 0 || *cuts < 5) {
            eprintln!("quickstart: the network was not bad enough to prove anything");
            good = false;
        }
        println!(
            "accounts accepted={accepted} confirmed={confirmed} resent={resent} \
             received_unique={received_unique} duplicates={duplicates} lost={lost} cuts={cuts} \
             reconnects={reconnects}"
        );
        if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What the command line asks for.
struct Wanted {
    messages: u64,
    size: usize,
    faults: bool,
    sabotage: bool,
    url: Option<String>,
}

impl Wanted {
    fn from_command_line() -> std::result::Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut wanted = Self {
            messages: 100_000,
            size: 100,
            faults: true,
            sabotage: false,
            url: env::var("AMQP_URL").ok(),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("messages") => wanted.messages = arguments.value()?.parse()?,
                Long("size") => wanted.size = arguments.value()?.parse()?,
                Long("no-faults") => wanted.faults = false,
                Long("sabotage") => match arguments.value()?.string()?.as_str() {
                    "skip-one" => wanted.sabotage = true,
                    other => return Err(format!("--sabotage: {other} is not known").into()),
                },
                Long("help") | Short('h') => {
                    println!("{USAGE}");
                    process::exit(0);
                }
                Value(url) => wanted.url = Some(url.string()?),
                other => return Err(other.unexpected()),
            }
        }
        if wanted.messages == 0 {
            return Err("--messages: at least 1".into());
        }
        Ok(wanted)
    }
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

/// Shows the progress; stops the consumer when everything has arrived, or when nothing more comes.
struct Watch {
    bar: ProgressBar,
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
    report: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// On something other than a terminal: a line for each percent.
    step: Option<u64>,
}

impl Watch {
    fn start(
        wanted: &Wanted,
        client: &Client,
        tally: &Arc<Tally>,
        link: &Arc<FaultLink>,
        consumer: ConsumerHandle,
    ) -> Self {
        let step = (!std::io::stderr().is_terminal()).then_some(wanted.messages.div_ceil(100));
        let bar =
            if step.is_none() { ProgressBar::new(wanted.messages) } else { ProgressBar::hidden() };
        let template = "{bar:30} {pos}/{len} confirmed, {per_sec}; {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let over = Arc::new(AtomicBool::new(false));
        let report = {
            let (client, tally, link) = (client.clone(), Arc::clone(tally), Arc::clone(link));
            move |separator: &str| {
                let stats = client.stats();
                [
                    format!("buffered={}", stats.publish.queued),
                    format!("in_flight={}", stats.publish.in_flight),
                    format!("received={}", tally.received.load(Relaxed)),
                    format!("cuts={}", link.counters().cuts),
                    format!("reconnects={}", stats.reconnects),
                    format!("state={}", client.state()),
                ]
                .join(separator)
            }
        };
        let report = Arc::new(report);
        let thread = {
            let (client, tally, over) = (client.clone(), Arc::clone(tally), Arc::clone(&over));
            let (bar, report, messages) = (bar.clone(), Arc::clone(&report), wanted.messages);
            thread::spawn(move || {
                let mut last = (0, 0);
                let mut since = Instant::now();
                while !over.load(Relaxed) {
                    thread::sleep(Duration::from_millis(100));
                    bar.set_position(tally.confirmed.load(Relaxed));
                    bar.set_message(report(", "));
                    let now = (tally.confirmed.load(Relaxed), tally.received.load(Relaxed));
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                    let idle = since.elapsed();
                    let complete = tally.unique.load(Relaxed) == messages;
                    let patience = Duration::from_millis(if complete { 300 } else { 5_000 });
                    if tally.all_confirmed.load(Relaxed) && client.is_connected() && idle > patience
                    {
                        consumer.stop();
                    }
                    if idle > Duration::from_secs(120) {
                        eprintln!("quickstart: no progress for two minutes:\n{}", client.explain());
                        process::exit(1);
                    }
                }
            })
        };
        Self { bar, over, thread, report: Box::new(move |separator| report(separator)), step }
    }

    fn confirmed(&self, confirmed: u64) {
        if self.step.is_some_and(|step| confirmed % step == 0) {
            eprintln!("progress confirmed={confirmed} {}", (self.report)(" "));
        }
    }

    fn stop(self) {
        self.over.store(true, Relaxed);
        // It only sleeps and counts: it cannot have panicked.
        let _ = self.thread.join();
        self.bar.finish_and_clear();
    }
}
