//! One client for very many reconnects: its memory must stay flat.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::{Either, select};
use lavinmq_core::{Client, Options, driver::with_driver, error::ConnectError};
use lavinmq_testing::{BrokerState, Personality};

use super::{
    campaign::TICK,
    executor::{Executor, Handle, Step},
    heap::Heap,
    host::Host,
    network::Network,
    pipe::{Conditions, Ending},
    random::Random,
    runtime::SimRuntime,
    trace::Trace,
};

/// What may be there after many reconnects that was not there before: a read that is under way, a
/// queue that grew to its usual size. Less than ten bytes a reconnect in the long run.
const NOISE: i64 = 32 * 1024;

/// The share of the reconnects, in tenths, after which everything has its usual size.
const WARM: u64 = 2;

/// What came of many reconnects.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Connections opened again.
    pub reconnects: u64,
    /// Messages confirmed on the way.
    pub confirmed: u64,
    /// Bytes that the heap grew by, after the first fifth.
    pub grown: i64,
    /// Bytes left in the end.
    pub left: i64,
}

/// Reconnects so often, with a message confirmed and one consumed in between.
///
/// # Errors
///
/// What is wrong.
pub fn run(seed: u64, reconnects: u64, heap: Heap) -> Result<Report, String> {
    let mut result = Err("it did not run".to_owned());
    let left = (heap.measure)(&mut || {
        let world = World::new(seed, reconnects).and_then(|world| world.run(heap));
        (heap.apart)(&mut || result.clone_from(&world));
    });
    let report = Report { left, ..result? };
    match report {
        Report { grown, .. } if grown > NOISE => {
            Err(format!("seed {seed}: {grown} bytes more after {reconnects} reconnects"))
        }
        Report { left, .. } if left != 0 => {
            Err(format!("seed {seed}: {left} bytes left after {reconnects} reconnects"))
        }
        report => Ok(report),
    }
}

struct World {
    executor: Executor,
    host: Host,
    seed: u64,
    wanted: u64,
    /// Reconnects and confirmed messages, as the application sees them.
    reconnects: Arc<AtomicU64>,
    confirmed: Arc<AtomicU64>,
}

impl World {
    fn new(seed: u64, wanted: u64) -> Result<Self, String> {
        let mut random = Random::new(seed).split("reconnects");
        let executor = Executor::new(random.split("executor"), Trace::default());
        let handle = executor.handle().clone();
        let conditions = Conditions {
            chunk: random.pick(&[64, 700, 1 << 16]),
            buffers: random.chance(1, 2),
            spurious: random.pick(&[0, 4]),
            ..Conditions::calm()
        };
        let network = Network::new(&handle, random.split("network"), conditions);
        let personality = random.pick(&[Personality::LavinMq, Personality::RabbitMq]);
        let broker = BrokerState::new(personality, seed);
        let host = Host::start(broker, network.clone(), &handle, None, random.split("host"));
        let tick = random.chance(1, 2).then_some(TICK);
        let runtime = SimRuntime::new(handle.clone(), network.clone(), random.split("rt"), tick);
        let options = Options::new("amqp://guest:guest@broker")
            .map(|options| {
                options
                    .reconnect_initial_delay(Duration::from_millis(5))
                    .reconnect_max_delay(Duration::from_millis(20))
            })
            .map_err(ConnectError::from);
        let (client, driver) = options
            .and_then(|options| with_driver(runtime, options))
            .map_err(|error| error.to_string())?;
        handle.spawn("driver", driver);
        let (reconnects, confirmed) = (Arc::default(), Arc::default());
        let application = Application {
            client,
            handle: handle.clone(),
            network,
            random: random.split("application"),
            reconnects: Arc::clone(&reconnects),
            confirmed: Arc::clone(&confirmed),
        };
        handle.spawn("application", application.run(wanted));
        Ok(Self { executor, host, seed, wanted, reconnects, confirmed })
    }

    fn run(mut self, heap: Heap) -> Result<Report, String> {
        let mut grown = 0;
        for tenth in 1..=10 {
            let goal = self.wanted * tenth / 10;
            let reconnects = Arc::clone(&self.reconnects);
            let mut stuck = false;
            let slice = (heap.measure)(&mut || {
                while !stuck && reconnects.load(Ordering::Relaxed) < goal {
                    stuck = self.executor.step() == Step::Quiet;
                }
            });
            if stuck {
                return Err(format!("seed {}: hang: {:?}", self.seed, self.executor.waiting()));
            }
            if tenth > WARM {
                grown += slice;
            }
        }
        // The broker learns a little later that they are gone.
        while !self.executor.is_done() || self.host.connections() > 0 {
            if self.executor.step() == Step::Quiet {
                return Err(format!("seed {}: hang: {:?}", self.seed, self.executor.waiting()));
            }
        }
        self.host.stop();
        let handle = self.executor.handle().clone();
        drop(self.executor);
        let (timers, wakers) = (handle.armed_timers(), handle.live_wakers());
        if timers + wakers > 0 {
            return Err(format!("seed {}: {timers} timers and {wakers} wakers left", self.seed));
        }
        Ok(Report {
            reconnects: self.reconnects.load(Ordering::Relaxed),
            confirmed: self.confirmed.load(Ordering::Relaxed),
            grown,
            left: 0,
        })
    }
}

struct Application {
    client: Client,
    handle: Handle,
    network: Network,
    random: Random,
    reconnects: Arc<AtomicU64>,
    confirmed: Arc<AtomicU64>,
}

impl Application {
    async fn run(mut self, wanted: u64) {
        // Whatever fails here shows as a hang: the count stands still.
        if self.client.queue("q").declare().await.is_err() {
            return;
        }
        let Ok(producer) = self.client.producer("q").confirm().open().await else { return };
        let Ok(sender) = self.client.producer("q").open().await else { return };
        let Ok(mut consumer) = self.client.consumer("q").prefetch(3).open().await else { return };
        while self.reconnects.load(Ordering::Relaxed) < wanted {
            let sent = sender.publish("sent").await;
            let Ok(receipt) = producer.publish("confirmed").await else { return };
            if self.random.chance(1, 4) {
                // Cut with everything under way.
                self.cut();
            }
            let confirmed = self.while_consuming(&mut consumer, receipt).await;
            if sent.is_err() || confirmed.is_err() {
                return;
            }
            self.confirmed.fetch_add(1, Ordering::Relaxed);
            self.cut();
            self.reconnects.store(self.client.stats().reconnects, Ordering::Relaxed);
        }
        drop((producer, sender));
        consumer.close().await;
        self.client.close().await;
    }

    fn cut(&mut self) {
        let ending = self.random.pick(&[Ending::Eof, Ending::Reset]);
        let all = self.random.chance(1, 2);
        for link in self.network.links() {
            if all || self.random.chance(1, 2) {
                link.end(ending);
            }
        }
        self.handle.event(format_args!("cut: {ending:?}"));
    }

    /// Awaits something, and consumes meanwhile.
    async fn while_consuming<F: Future + Unpin>(
        &self,
        consumer: &mut lavinmq_core::Consumer<lavinmq_core::Manual>,
        mut wanted: F,
    ) -> F::Output {
        loop {
            match select(&mut wanted, pin!(consumer.next())).await {
                Either::Left((output, _)) => return output,
                Either::Right((Some(delivery), _)) => _ = delivery.ack(),
                // The receipt will say why.
                Either::Right((None, _)) => return wanted.await,
            }
        }
    }
}
