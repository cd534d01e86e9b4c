//! Who takes part. A contestant connects once and then does jobs; what its jobs cost is
//! measured around it, in a process that it has for itself.
//!
//! To add one: implement [`Contestant`], and give it a line in [`OTHERS`].

mod amqp_client;
mod amqprs;
mod lapin;
mod ours;
mod raw;

use std::future::Future;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::runtime::{Builder, Runtime};

use crate::modes::Task;
use crate::raw::Target;
use crate::{Failure, Fallible};

/// A client, connected, in one mode.
pub(crate) trait Contestant {
    /// Does `job` and returns when the last message has the outcome that the mode observes:
    /// accepted (publish), confirmed, delivered, or acked. That bytes of accepted messages
    /// leave is awaited by the caller. In the latency mode, the time of each message.
    fn run(&mut self, job: Job) -> Fallible<Option<Latencies>>;

    /// Lets accepted messages leave, for about `time`: a runtime without threads of its own
    /// does that only while somebody is in it.
    fn idle(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Nanoseconds, three digits.
pub(crate) type Latencies = Histogram<u64>;

/// A number of messages.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) count: u64,
    /// Where consumers consume from: it holds `count` messages, in time.
    pub(crate) queue: String,
    /// A consumer tag that this connection has not used before: amqp-client 0.1 loses the
    /// deliveries of a tag that is used again.
    pub(crate) tag: String,
}

/// What a contestant is compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The socket itself.
    Floor,
    /// Another client.
    Peer,
    /// Our client on tokio's current-thread runtime, which the ceilings are for.
    OursCurrentThread,
    /// Our client on tokio's multi-thread runtime.
    OursMultiThread,
    /// Our client on smol.
    OursSmol,
}

type Open = fn(&Target, &Task) -> Fallible<Box<dyn Contestant>>;

/// A line of the list.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    /// The package whose version the tables state.
    pub(crate) package: Option<&'static str>,
    /// Takes part in quick runs: of each peer the form that is fastest in most modes.
    pub(crate) quick: bool,
    /// Loses deliveries that come in the same read as consume-ok. The sink waits with them until
    /// it is told by a `basic.qos`; a real broker does not.
    pub(crate) deaf: bool,
    pub(crate) open: Open,
}

const fn peer(name: &'static str, package: &'static str, quick: bool, open: Open) -> Entry {
    Entry { name, role: Role::Peer, package: Some(package), quick, deaf: false, open }
}

/// amqp-client 0.1 drops deliveries that come in the same read as consume-ok (its own known
/// defect 007), and would wait for them for ever.
const fn deaf(entry: Entry) -> Entry {
    Entry { deaf: true, ..entry }
}

const FLOOR: Entry = Entry {
    name: "raw",
    role: Role::Floor,
    package: None,
    quick: true,
    deaf: false,
    open: raw::open,
};

/// In the order of the tables.
const OTHERS: &[Entry] = &[
    FLOOR,
    deaf(peer("amqp-client", "amqp-client", false, |to, task| {
        amqp_client::open(to, task, Threads::Many)
    })),
    deaf(peer("amqp-client-ct", "amqp-client", true, |to, task| {
        amqp_client::open(to, task, Threads::One)
    })),
    peer("lapin", "lapin", true, |to, task| lapin::open(to, task, Threads::Many)),
    peer("lapin-ct", "lapin", false, |to, task| lapin::open(to, task, Threads::One)),
    peer("amqprs", "amqprs", false, |to, task| amqprs::open(to, task, Threads::Many)),
    peer("amqprs-ct", "amqprs", true, |to, task| amqprs::open(to, task, Threads::One)),
];

/// Everybody, ours last.
pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    OTHERS.iter().chain(ours::ALL)
}

/// The contestant of that name.
pub(crate) fn named(name: &str) -> Fallible<&'static Entry> {
    all().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<_> = all().map(|entry| entry.name).collect();
        format!("no contestant {name}: there are {}", names.join(", ")).into()
    })
}

/// The version of a package in the lock file that this program was built with.
pub(crate) fn version(package: &str) -> Option<&'static str> {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let wanted = format!("name = \"{package}\"");
    let mut lines = LOCK.lines().skip_while(|line| **line != wanted);
    let version = lines.nth(1)?;
    version.strip_prefix("version = \"")?.strip_suffix('"')
}

/// An empty histogram of latencies, up to a minute.
pub(crate) fn latencies() -> Fallible<Latencies> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

pub(crate) fn record(latencies: &mut Latencies, elapsed: Duration) {
    latencies.saturating_record(elapsed.as_nanos() as u64);
}

/// Which of tokio's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    One,
    Many,
}

/// A tokio runtime, and work in it as services do it: in a spawned task. (A future in `block_on`
/// costs more on both runtimes: on the multi-thread one it is woken from another thread, on the
/// current-thread one each wake of it makes the runtime ask the kernel for events once more.)
struct Tokio {
    runtime: Runtime,
}

impl Tokio {
    fn new(threads: Threads) -> Fallible<Self> {
        let mut builder = match threads {
            Threads::One => Builder::new_current_thread(),
            Threads::Many => Builder::new_multi_thread(),
        };
        Ok(Self { runtime: builder.enable_all().build()? })
    }

    fn idle(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    fn run<T, F>(&self, work: F) -> Fallible<T>
    where
        T: Send + 'static,
        F: Future<Output = Fallible<T>> + Send + 'static,
    {
        let work = self.runtime.spawn(work);
        self.runtime.block_on(work).map_err(Failure::from)?
    }
}

/// Splits a job among the tasks of a mode: how many each does.
fn shares(count: u64, tasks: u64) -> impl Iterator<Item = u64> {
    (0..tasks).map(move |task| count / tasks + u64::from(task < count % tasks))
}

/// What came back has to be as long as what was sent.
fn same_size(body: &[u8], task: &Task) -> Fallible {
    match body.len() == task.size {
        true => Ok(()),
        false => Err(format!("{} bytes came back", body.len()).into()),
    }
}

/// The stream ended before the job did.
fn ended() -> Failure {
    "the deliveries ended before the job did".into()
}
