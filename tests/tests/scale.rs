//! What a client costs that has much of everything, or nothing to do: counted on the simulator's
//! virtual clock and by an allocator that counts, so that no figure depends on the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use lavinmq_core::{BufferPolicy, Client, Options, driver::with_driver, sabotage::steps};
use lavinmq_testing::{BrokerState, Personality, Settings};
use lavinmq_tests::sim::{
    executor::{Executor, Handle},
    host::Host,
    network::Network,
    pipe::{Conditions, Ending},
    random::Random,
    runtime::SimRuntime,
    trace::Trace,
};

/// The failsafe tick of the real runtimes.
const TICK: Option<Duration> = Some(Duration::from_millis(100));

/// What may be held for a producer at rest that has never published.
const IDLE_PRODUCER: i64 = 4096;

/// The same of one that has: a block of its lock-free queue and its channel, of which the broker's
/// part is counted here, too.
const USED_PRODUCER: i64 = 24 << 10;

struct World {
    executor: Executor,
    handle: Handle,
    network: Network,
    client: Client,
    /// How often the driver was polled.
    polls: Arc<AtomicU64>,
}

impl World {
    fn new(tick: Option<Duration>) -> Self {
        let root = Random::new(7);
        let executor = Executor::new(root.split("executor"), Trace::default());
        let handle = executor.handle().clone();
        let network = Network::new(&handle, root.split("network"), Conditions::calm());
        let mut settings = Settings::new(Personality::RabbitMq);
        settings.tune.channel_max = 0;
        let broker = BrokerState::with_settings(settings, 7);
        Host::start(broker, network.clone(), &handle, None, root.split("host"));
        let runtime = SimRuntime::new(handle.clone(), network.clone(), root.split("runtime"), tick);
        let options = Options::new("amqp://guest:guest@broker").unwrap();
        let (client, driver) = with_driver(runtime, options).unwrap();
        let polls = Arc::new(AtomicU64::new(0));
        handle.spawn_background("driver", Counted(driver, Arc::clone(&polls)));
        let mut world = Self { executor, handle, network, client, polls };
        let connecting = world.client.clone();
        world.run(async move { connecting.ready().await.unwrap() });
        world
    }

    /// Runs the world until this is done.
    fn run<T: Send + 'static>(&mut self, work: impl Future<Output = T> + Send + 'static) -> T {
        let result = Arc::new(Mutex::new(None));
        let place = Arc::clone(&result);
        self.handle.spawn("work", async move {
            let done = work.await;
            *place.lock().unwrap() = Some(done);
        });
        while !self.executor.is_done() {
            self.executor.step();
        }
        let result = result.lock().unwrap().take();
        result.expect("it is done")
    }

    fn rest(&mut self, time: Duration) {
        let sleep = self.handle.sleep(time);
        self.run(sleep);
    }
}

/// A driver that counts how often it is polled: each time it was woken.
struct Counted<D>(D, Arc<AtomicU64>);

impl<D: Future<Output = ()> + Unpin> Future for Counted<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Wake-ups of the driver in ten seconds in which a client with all three connections, a thousand
/// producers that have published, and a hundred consumers does nothing.
fn idle_wake_ups(tick: Option<Duration>) -> u64 {
    let mut world = World::new(tick);
    let client = world.client.clone();
    let kept = world.run(async move {
        let mut producers = Vec::new();
        for _ in 0..1_000 {
            let producer = client.producer("nowhere").open().await.unwrap();
            producer.publish("once").await.unwrap();
            producer.flush().await;
            producers.push(producer);
        }
        client.queue("idle").declare().await.unwrap();
        let (mut consumers, mut without_ack) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            consumers.push(client.consumer("idle").open().await.unwrap());
            without_ack.push(client.consumer("idle").no_ack().open().await.unwrap());
        }
        (producers, consumers, without_ack)
    });
    world.rest(Duration::from_secs(60));
    let before = world.polls.load(Ordering::Relaxed);
    world.rest(Duration::from_secs(10));
    let woken = world.polls.load(Ordering::Relaxed) - before;
    drop(kept);
    woken
}

#[test]
fn an_idle_client_wakes_at_most_twelve_times_a_second_and_without_the_tick_for_heartbeats_alone() {
    let woken = idle_wake_ups(TICK);
    assert!((90..=120).contains(&woken), "{woken} wake-ups in ten seconds");
    // Three connections: a heartbeat each way every five seconds.
    let woken = idle_wake_ups(None);
    assert!((3..=20).contains(&woken), "{woken} wake-ups in ten seconds without the tick");
}

/// Bytes held on this thread's heap since before `run`, for each of `n`.
fn bytes_each(n: usize, run: impl FnOnce()) -> i64 {
    allocation_counter::measure(run).bytes_current / n as i64
}

#[test]
fn an_idle_producer_takes_less_than_four_kib_and_a_closed_one_next_to_nothing() {
    const N: usize = 1_000;
    let mut world = World::new(TICK);
    world.rest(Duration::from_secs(5));
    let client = world.client.clone();
    let mut producers = Vec::with_capacity(N);
    let opened = bytes_each(N, || {
        producers = world.run(async move {
            let mut producers = Vec::with_capacity(N);
            for _ in 0..N {
                producers.push(client.producer("nowhere").open().await.unwrap());
            }
            producers
        });
        world.rest(Duration::from_secs(5));
    });
    assert!((500..=IDLE_PRODUCER).contains(&opened), "{opened} bytes");
    let closed = opened
        + bytes_each(N, || {
            world.run(async move { drop(producers) });
            world.rest(Duration::from_secs(5));
        });
    // The place in the list of producers stays for the next one.
    assert!(closed < 1_500, "{closed} bytes are left of a closed producer");
}

/// What is held after `n` producers have published 2,000 messages each and then rested.
fn held_after_bursts(n: usize, confirm: bool) -> i64 {
    let mut world = World::new(TICK);
    world.rest(Duration::from_secs(5));
    let client = world.client.clone();
    let mut kept = None;
    bytes_each(1, || {
        kept = Some(world.run(async move {
            let (mut plain, mut confirmed) = (Vec::new(), Vec::new());
            for _ in 0..n {
                if confirm {
                    let producer = client.producer("nowhere").confirm().mandatory(false);
                    let producer = producer.open().await.unwrap();
                    for _ in 0..2_000 {
                        producer.publish("a message").await.unwrap().detach();
                    }
                    producer.flush().await;
                    confirmed.push(producer);
                } else {
                    let producer = client.producer("nowhere");
                    let producer = producer.buffer_policy(BufferPolicy::Block);
                    let producer = producer.open().await.unwrap();
                    for _ in 0..2_000 {
                        producer.publish("a message").await.unwrap();
                    }
                    producer.flush().await;
                    plain.push(producer);
                }
            }
            (plain, confirmed)
        }));
        world.rest(Duration::from_secs(5));
    })
}

#[test]
fn a_producer_gives_the_memory_of_a_burst_back() {
    for confirm in [false, true] {
        // What all share does not count.
        let each = (held_after_bursts(40, confirm) - held_after_bursts(20, confirm)) / 20;
        assert!(each <= USED_PRODUCER, "confirm {confirm}: {each} bytes after a burst");
    }
}

/// What was looked at, for each of `n` queues with a producer and a consumer, from their opening to
/// their end: opened one by one, used, cut off and recovered, closed one by one, the rest by the client.
fn steps_each(n: usize) -> u64 {
    let mut world = World::new(TICK);
    let before = steps();
    let client = world.client.clone();
    let (producers, mut consumers) = world.run(async move {
        let (mut producers, mut consumers) = (Vec::new(), Vec::new());
        for number in 0..n {
            let queue = client.queue(&format!("queue {number}")).declare().await.unwrap();
            let producer = client.producer(&queue).confirm().open().await.unwrap();
            producer.publish("first").await.unwrap().await.unwrap();
            let mut consumer = client.consumer(&queue).open().await.unwrap();
            consumer.next().await.unwrap().ack();
            producers.push(producer);
            consumers.push(consumer);
        }
        (producers, consumers)
    });
    for link in world.network.links() {
        link.end(Ending::Reset);
    }
    let (producers, consumers) = world.run(async move {
        for (producer, consumer) in producers.iter().zip(&mut consumers) {
            producer.publish("second").await.unwrap().await.unwrap();
            let delivery = consumer.next().await.unwrap();
            delivery.ack();
        }
        (producers, consumers)
    });
    let client = world.client.clone();
    world.run(async move {
        let half = n / 2;
        for (at, mut consumer) in consumers.into_iter().enumerate() {
            if at < half {
                consumer.close().await;
            }
        }
        for (at, producer) in producers.iter().enumerate() {
            if at < half {
                producer.close().await;
            }
        }
        client.close().await;
    });
    (steps() - before) / n as u64
}

#[test]
fn work_for_each_producer_and_consumer_does_not_grow_with_their_number() {
    let (few, many) = (steps_each(40), steps_each(320));
    assert!(few > 10, "{few} steps: nothing counts");
    assert!(many * 2 <= few * 3, "{many} steps for each of 320, {few} for each of 40");
}
