//! A whole client on several threads, under trouble: publishers of every policy, closes, futures and
//! receipts and handles dropped in the middle, consumers that come and go, and a broker that cuts,
//! blocks, closes and is late. At the end the broker says what it holds.
//!
//! Nothing here depends on the order in which threads run: each message is held to its own outcome.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use futures::{FutureExt as _, future::join_all};
use lavinmq_core::{
    BufferPolicy, Client, Confirm, FireAndForget, Options, Producer, PublishError, Receipt,
    Verdict, WhenOffline,
};
use lavinmq_testing::{Broker, Personality};

/// Messages of each publishing task.
const EACH: usize = 1_500;

/// Deliveries that consumers share.
const JOBS: usize = 3_000;

/// How long anything may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(100);

/// What the application knows of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Refused, or its future was dropped before it was accepted.
    NotAccepted,
    /// Accepted; nobody listened for its outcome.
    Accepted,
    Confirmed,
    /// Never sent.
    Dropped,
    /// The broker may have it.
    Perhaps,
}

/// What the application knows of all messages, by body; and how often it offered one.
#[derive(Default)]
struct Ledger {
    known: Mutex<BTreeMap<String, Known>>,
    offered: AtomicU64,
    accepted: AtomicU64,
}

impl Ledger {
    fn note(&self, body: &str, known: Known) {
        self.known.lock().unwrap().insert(body.to_owned(), known);
    }

    fn accepted(&self, body: &str) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        self.note(body, Known::Accepted);
    }
}

async fn hear(ledger: &Ledger, body: &str, receipt: Receipt) {
    let known = match receipt.await {
        Ok(()) => Known::Confirmed,
        Err(error) => match error.verdict {
            Verdict::Dropped(_) => Known::Dropped,
            Verdict::Nacked | Verdict::Returned(_) => panic!("{error}"),
            _ => Known::Perhaps,
        },
    };
    ledger.note(body, known);
}

/// One publisher: every way to publish, to give up, and to let go.
async fn confirming(orders: Producer<Confirm>, name: String, ledger: Arc<Ledger>) {
    let mut kept = Vec::new();
    for i in 0..EACH {
        let body = format!("{name} {i}");
        ledger.offered.fetch_add(1, Ordering::SeqCst);
        let published = match i % 7 {
            // Given up at once, perhaps while it waits.
            0 => orders.publish(body.as_str()).now_or_never(),
            1 => Some(orders.try_publish(body.as_str())),
            // Given up after a while.
            2 => {
                let publish = orders.publish(body.as_str());
                tokio::select! {
                    biased;
                    published = publish => Some(published),
                    () = tokio::task::yield_now() => None,
                }
            }
            _ => Some(orders.publish(body.as_str()).await),
        };
        match published {
            Some(Ok(receipt)) => {
                ledger.accepted(&body);
                match i % 5 {
                    0 => receipt.detach(),
                    // Polled once, and dropped with its waker.
                    1 => drop(Box::pin(receipt).now_or_never()),
                    _ => kept.push((body, receipt)),
                }
            }
            Some(Err(
                PublishError::Full(_) | PublishError::Offline(..) | PublishError::Closed(_),
            ))
            | None => ledger.note(&body, Known::NotAccepted),
            Some(Err(error)) => panic!("{error}"),
        }
        if i % 64 == 63 {
            for (body, receipt) in kept.drain(..) {
                hear(&ledger, &body, receipt).await;
            }
        }
        if i % 500 == 499 {
            orders.flush().now_or_never();
        }
    }
    for (body, receipt) in kept {
        hear(&ledger, &body, receipt).await;
    }
}

async fn forgetting(clicks: Producer<FireAndForget>, name: String, ledger: Arc<Ledger>) {
    for i in 0..EACH {
        let body = format!("{name} {i}");
        ledger.offered.fetch_add(1, Ordering::SeqCst);
        let published = match i % 3 {
            0 => clicks.publish(body.as_str()).now_or_never(),
            1 => Some(clicks.try_publish(body.as_str())),
            _ => Some(clicks.publish(body.as_str()).await),
        };
        match published {
            Some(Ok(())) => ledger.accepted(&body),
            _ => ledger.note(&body, Known::NotAccepted),
        }
    }
}

/// Consumers come and go; what they hold when they go comes again.
async fn consume(client: Client, seen: Arc<Mutex<BTreeSet<String>>>, n: usize) {
    loop {
        let mut jobs = client.consumer("jobs").prefetch(20).open().await.unwrap();
        for round in 0..200 {
            if seen.lock().unwrap().len() == JOBS {
                return;
            }
            let next = tokio::time::timeout(Duration::from_millis(20), jobs.next()).await;
            let Ok(Some(delivery)) = next else { continue };
            match (round + n) % 9 {
                0 => drop(delivery.requeue()),
                1 => drop(delivery),
                _ => {
                    let body = String::from_utf8_lossy(delivery.body()).into_owned();
                    // Even one that comes too late was seen; it comes again, and counts once.
                    delivery.ack();
                    seen.lock().unwrap().insert(body);
                }
            }
        }
        if n.is_multiple_of(2) {
            jobs.close().now_or_never();
        }
    }
}

/// Trouble, each time the broker has taken so many messages more (or after a while, if it takes none).
fn trouble(broker: &Broker, over: &AtomicBool) -> u64 {
    let mut cuts = 0;
    for round in 0.. {
        let before = broker.counters().published;
        let _ = broker.wait_until(Duration::from_millis(100), |state| {
            state.counters().published >= before + 250
        });
        if over.load(Ordering::SeqCst) {
            break;
        }
        match round % 6 {
            0 => broker.cut(),
            1 => broker.hold_confirms(),
            2 => broker.block("stress"),
            3 => broker.close_connections(320, "stress"),
            4 => broker.release_confirms(),
            _ => broker.unblock(),
        }
        cuts += u64::from(matches!(round % 6, 0 | 3));
    }
    broker.release_confirms();
    broker.unblock();
    cuts
}

fn stress(personality: Personality) {
    let broker = Broker::builder().personality(personality).start().unwrap();
    for queue in ["orders", "jobs"] {
        broker.declare_queue(queue);
    }
    for job in 0..JOBS {
        assert!(broker.put("jobs", format!("{job}")));
    }
    let (ledger, over) = (Arc::new(Ledger::default()), AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let cuts = thread::scope(|scope| {
        let troubles = scope.spawn(|| trouble(&broker, &over));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .unwrap();
        let work = work(&broker, ledger.clone(), seen.clone(), &over);
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, work).await.expect("a hang");
        });
        troubles.join().unwrap()
    });
    verdict(&broker, &ledger, cuts);
}

async fn work(
    broker: &Broker,
    ledger: Arc<Ledger>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    over: &AtomicBool,
) {
    let options = Options::new(broker.url())
        .unwrap()
        .reconnect_initial_delay(Duration::from_millis(5))
        .reconnect_max_delay(Duration::from_millis(20));
    let client = lavinmq_tokio::connect(options).await.unwrap();
    let mut tasks = Vec::new();
    let policies = [BufferPolicy::Block, BufferPolicy::Error, BufferPolicy::DropOldest];
    for (p, policy) in policies.into_iter().enumerate() {
        let when = if p == 1 { WhenOffline::Fail } else { WhenOffline::Buffer };
        let builder = client.producer("orders").confirm().buffer_policy(policy);
        let orders = builder.when_offline(when).buffer_size(50).open().await.unwrap();
        for clone in 0..2 {
            let name = format!("CM {p} {clone}");
            tasks.push(tokio::spawn(confirming(orders.clone(), name, ledger.clone())));
        }
        // Its last handle goes with the tasks.
        let builder = client.producer("orders").buffer_policy(policy).buffer_size(50);
        let clicks = builder.open().await.unwrap();
        tasks.push(tokio::spawn(forgetting(clicks, format!("FF {p}"), ledger.clone())));
    }
    // One that is closed while others publish.
    let closed = client.producer("orders").confirm().buffer_size(20).open().await.unwrap();
    for clone in 0..2 {
        let name = format!("CM closed {clone}");
        tasks.push(tokio::spawn(confirming(closed.clone(), name, ledger.clone())));
    }
    tasks.push(tokio::spawn(async move {
        while closed.stats().accepted < 300 {
            tokio::task::yield_now().await;
            if closed.flush().now_or_never().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        closed.close().now_or_never();
    }));
    for n in 0..3 {
        tasks.push(tokio::spawn(consume(client.clone(), seen.clone(), n)));
    }
    for done in join_all(tasks).await {
        done.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    broker.release_confirms();
    broker.unblock();
    let report = client.shutdown(PATIENCE).await;
    assert_eq!((report.dropped, report.unknown), (0, 0), "{report:?}");
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    let publish = stats.publish;
    assert_eq!((publish.waiting, publish.queued, publish.in_flight), (0, 0, 0), "{publish:?}");
    assert_eq!(publish.offered, ledger.offered.load(Ordering::SeqCst), "{publish:?}");
    assert_eq!(publish.accepted, ledger.accepted.load(Ordering::SeqCst), "{publish:?}");
    assert!(publish.cancelled > 0 && publish.dropped() > 0, "too calm: {publish:?}");
}

/// The broker's word on each message.
fn verdict(broker: &Broker, ledger: &Ledger, cuts: u64) {
    let mut copies = BTreeMap::<String, u64>::new();
    for message in broker.messages("orders") {
        *copies.entry(String::from_utf8_lossy(&message.body).into_owned()).or_default() += 1;
    }
    let known = ledger.known.lock().unwrap();
    assert!(cuts > 1, "too calm");
    let (mut confirmed, mut dropped) = (0, 0);
    for (body, known) in &*known {
        let there = copies.remove(body).unwrap_or_default();
        let most = match known {
            Known::NotAccepted | Known::Dropped => 0,
            _ if body.starts_with("FF") => 1,
            _ => 1 + cuts,
        };
        assert!(there <= most, "{body}: {known:?}, and {there} copies after {cuts} cuts");
        assert!(*known != Known::Confirmed || there > 0, "{body}: confirmed, and not there");
        confirmed += u64::from(*known == Known::Confirmed);
        dropped += u64::from(*known == Known::Dropped);
    }
    assert!(copies.is_empty(), "nobody published these: {copies:?}");
    println!("{cuts} cuts; {confirmed} heard confirmed, {dropped} dropped, of {}", known.len());
    assert!(confirmed > 0 && dropped > 0, "too calm");
    let jobs = broker.with(|state, _| (state.queue_depth("jobs"), state.unacked("jobs")));
    let acked = broker.counters().acked;
    assert_eq!(jobs.1, 0, "unacked, and nobody is there");
    assert_eq!(acked + jobs.0 as u64, JOBS as u64, "a job is lost");
}

#[test]
fn many_threads_and_a_rabbitmq_that_makes_trouble() {
    stress(Personality::RabbitMq);
}

#[test]
fn many_threads_and_a_lavinmq_that_makes_trouble() {
    stress(Personality::LavinMq);
}
