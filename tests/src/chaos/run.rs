//! One run on one runtime.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use lavinmq_core::{Client, Options, event::State};
use lavinmq_testing::FaultLink;

use super::{
    consumers::AnyConsumer,
    faults::{Injector, Kind},
    ledger::{Ledger, Mode, Sums, Violations},
    load::{AnyProducer, LoadControl, Order, Sabotage, Spec, Target, visits},
    resources::{Reading, descriptors, settles},
    verdict::{describe, judge},
};
use crate::{
    live::{broker::Broker, witness::Witness},
    runtimes::{Rt, within},
    sim::random::Random,
};

/// How long anything may take before that is a violation: a broker that was killed on a loaded
/// machine may need a while. Not a measure of speed.
const PATIENCE: Duration = Duration::from_secs(180);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub duration: Duration,
    /// Messages a second.
    pub rate: u64,
    /// The kinds of fault; all if empty.
    pub only: Vec<Kind>,
    /// The most that this process's memory may grow between the warm-up and the end, in KiB.
    pub memory: u64,
    pub sabotage: Option<Sabotage>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub faults: BTreeMap<Kind, u64>,
    pub sums: Sums,
    pub received: u64,
    pub drained: u64,
    pub lost: u64,
    /// Copies beyond the first, of confirmed messages: each said that it was one.
    pub resent: u64,
    /// Fire-and-forget: written, and not there. That is what the mode is.
    pub forgotten: u64,
    pub reconnects: u64,
    pub violations: Vec<String>,
    pub violation_count: u64,
}

/// Everything that is going on.
struct Stage<'a> {
    broker: &'a Broker,
    began: Instant,
    runtime: &'static str,
    name: String,
    client: Client,
    link: Arc<FaultLink>,
    specs: Vec<Spec>,
    producers: Vec<Arc<AnyProducer>>,
    control: Arc<LoadControl>,
    violations: Arc<Violations>,
    /// Something did not come to its end.
    stuck: AtomicBool,
}

/// Runs on one runtime.
pub fn run<R: Rt>(broker: &Broker, plan: &Plan) -> Outcome {
    let before = descriptors();
    let outcome = R::block_on(whole::<R>(broker, plan));
    // What a runtime opens for itself, and keeps: an event queue, an event, a timer; twice, because a
    // resolver or a second thread may want its own.
    let allowed = before + 8;
    let mut outcome = outcome;
    if !settles(Duration::from_secs(20), || descriptors() <= allowed) {
        outcome.violation_count += 1;
        outcome.violations.push(format!(
            "{} file descriptors are open after everything is closed, {before} were before",
            descriptors()
        ));
    }
    outcome
}

fn queue_name<R: Rt>(target: Target) -> String {
    format!("chaos-{}-{}-{}", std::process::id(), R::NAME, target.name())
}

async fn whole<R: Rt>(broker: &Broker, plan: &Plan) -> Outcome {
    let random = Random::new(plan.seed).split(R::NAME);
    let witness = Witness::new(&broker.url);
    for target in Target::ALL {
        witness.declare(&queue_name::<R>(target));
    }
    broker.sync();
    let stage = open::<R>(broker, plan).await;
    let violations = Arc::clone(&stage.violations);

    // The load.
    let orders: BTreeMap<_, _> =
        Target::ALL.map(|target| (target, Arc::new(Order::of(&queue_name::<R>(target))))).into();
    let mut consumers = Vec::new();
    let mut handles = Vec::new();
    for target in Target::ALL.into_iter().filter(|target| target.is_consumed()) {
        let consumer = AnyConsumer::open(&stage.client, target, &queue_name::<R>(target)).await;
        let consumer = consumer.expect("a consumer at the start");
        handles.push(consumer.handle());
        let (control, order) = (Arc::clone(&stage.control), Arc::clone(&orders[&target]));
        let consume = consumer.consume(control, order, random.split(target.name()));
        consumers.push(R::spawn(consume));
    }
    let mut publishing = Vec::new();
    for (spec, producer) in stage.specs.iter().zip(&stage.producers) {
        let (spec, producer, control) = (*spec, Arc::clone(producer), Arc::clone(&stage.control));
        let ledger = Arc::clone(stage.ledger(&spec));
        let random = random.split(spec.name);
        let task = async move { producer.publish::<R>(&spec, &ledger, &control, random).await };
        publishing.push(R::spawn(task));
    }
    let visiting = {
        let (client, control) = (stage.client.clone(), Arc::clone(&stage.control));
        let ledger = Arc::clone(stage.visits());
        let random = random.split("visits");
        R::spawn(async move { visits::<R>(&client, &ledger, &control, random).await })
    };

    // The faults.
    let mut injector =
        Injector::new(broker, Arc::clone(&stage.link), random.split("faults"), &plan.only);
    let warm = stage.disturb::<R>(&mut injector, plan.duration).await;
    if let Err(why) = injector.heal::<R>().await {
        violations.add(format!("the broker does not heal: {why}"));
    }

    // Everything heals, and is flushed.
    stage.say("healed; finishing");
    stage.control.over.store(true, Relaxed);
    let finishing = join_all(publishing);
    let finished = stage.finishes::<R, _>("publishing ends", finishing).await.is_some();
    let visited = stage.finishes::<R, _>("visits end", visiting).await.unwrap_or_default();
    if finished {
        let flushes = stage.producers.iter().map(|producer| producer.flush());
        stage.finishes::<R, _>("flush", join_all(flushes)).await;
    }
    stage.empty::<R>().await;
    stage.compare(warm, plan.memory);

    // Closed, with nothing left.
    handles.iter().for_each(lavinmq_core::ConsumerHandle::stop);
    stage.finishes::<R, _>("consumers end", join_all(consumers)).await;
    let mut stats: Vec<_> = stage.producers.iter().map(|producer| producer.stats()).collect();
    stats.push(visited);
    let (explain, client) = (stage.client.explain(), stage.client.clone());
    match stage.finishes::<R, _>("close", client.close()).await {
        Some(report) if report.is_clean() => {}
        report => {
            violations.add(format!("the close was not clean: {report:?}; before it:\n{explain}"))
        }
    }
    let all = stage.client.stats();
    if !all.is_conserved() || all.hook_panics > 0 {
        violations.add(format!("the client's account does not add up: {all:?}"));
    }
    let gone = || broker.connections(&stage.name).is_none_or(|left| left == (0, 0));
    if !settles(Duration::from_secs(20), gone) {
        let left = broker.connections(&stage.name);
        violations.add(format!("left at the broker (connections, channels): {left:?}"));
    }

    // What is left, read by another client.
    let mut outcome = Outcome {
        faults: injector.counts.clone(),
        received: stage.control.received.load(Relaxed),
        reconnects: all.reconnects,
        ..Outcome::default()
    };
    for target in Target::ALL {
        let queue = queue_name::<R>(target);
        let copies = witness.drain(&queue);
        outcome.drained += copies.len() as u64;
        for copy in copies {
            stage.control.note(&orders[&target], &copy.body, copy.attempt, copy.redelivered);
        }
    }
    let targets = stage.specs.iter().map(|spec| spec.target).chain([Target::Kept]);
    for ((ledger, target), stats) in stage.control.ledgers.iter().zip(targets).zip(&stats) {
        let lost = judge(ledger, target, stats, &violations);
        if !lost.is_empty() {
            outcome.lost += lost.len() as u64;
            let depth = broker.depth(&ledger.queue);
            violations.add(format!(
                "{}; the broker says that its queue now holds {depth:?} messages",
                describe(ledger, &lost)
            ));
        }
        let sums = ledger.sums();
        outcome.resent += sums.copies - sums.seen;
        if ledger.mode == Mode::FireAndForget {
            outcome.forgotten += sums.accepted - sums.dropped - sums.seen.min(sums.accepted);
        }
        outcome.sums += sums;
        stage.say(&format!("{:20} {sums:?}", ledger.name));
    }
    for target in Target::ALL {
        witness.delete(&queue_name::<R>(target));
    }
    if violations.count() > 0 {
        eprintln!("chaos: {explain}\n{all:?}");
    }
    let (kept, more) = violations.take();
    outcome.violation_count = kept.len() as u64 + more;
    outcome.violations = kept;
    outcome
}

async fn open<'a, R: Rt>(broker: &'a Broker, plan: &Plan) -> Stage<'a> {
    let began = Instant::now();
    let link = Arc::new(FaultLink::start(broker.address()).unwrap());
    let mut url = url::Url::parse(&broker.url).unwrap();
    url.set_host(Some(&link.addr().ip().to_string())).unwrap();
    url.set_port(Some(link.addr().port())).unwrap();
    let name = format!("chaos-{}-{}", std::process::id(), R::NAME);
    let options = Options::new(url.as_str())
        .unwrap()
        .name(&*name)
        .heartbeat(Duration::from_secs(2))
        .reconnect_initial_delay(Duration::from_millis(50))
        .reconnect_max_delay(Duration::from_millis(500));
    let client = within::<R, _>(PATIENCE, "connect", R::connect(options)).await.unwrap();
    let specs = Spec::all();
    let violations = Arc::new(Violations::default());
    let ledger = |(id, spec): (usize, &Spec)| {
        let queue = queue_name::<R>(spec.target);
        Ledger::new(id as u16, spec.name, spec.mode, &queue, began, &violations)
    };
    let mut ledgers: Vec<_> = specs.iter().enumerate().map(ledger).collect();
    let kept = queue_name::<R>(Target::Kept);
    let id = ledgers.len() as u16;
    ledgers.push(Ledger::new(id, "visits", Mode::Confirm, &kept, began, &violations));
    let mut producers = Vec::new();
    for (spec, ledger) in specs.iter().zip(&ledgers) {
        producers.push(Arc::new(spec.open(&client, ledger, plan.sabotage).await.unwrap()));
    }
    let control = Arc::new(LoadControl {
        rate: plan.rate,
        paused: AtomicBool::new(false),
        over: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        held: Mutex::default(),
        received: AtomicU64::new(0),
        violations: Arc::clone(&violations),
        ledgers,
        sabotage: plan.sabotage,
    });
    let runtime = R::NAME;
    let stuck = AtomicBool::new(false);
    Stage {
        broker,
        began,
        runtime,
        name,
        client,
        link,
        specs,
        producers,
        control,
        violations,
        stuck,
    }
}

impl Stage<'_> {
    fn say(&self, what: &str) {
        println!("{:8.1} s  {}  {what}", self.began.elapsed().as_secs_f64(), self.runtime);
    }

    fn ledger(&self, spec: &Spec) -> &Arc<Ledger> {
        let place = self.specs.iter().position(|known| known.name == spec.name);
        &self.control.ledgers[place.expect("one of the specs")]
    }

    fn visits(&self) -> &Arc<Ledger> {
        self.control.ledgers.last().expect("the visits")
    }

    fn progress(&self) {
        let stats = self.client.stats();
        self.say(&format!(
            "progress accepted={} confirmed={} sent={} dropped={} queued={} in_flight={} received={} \
             acked={} reconnects={} state={}",
            stats.publish.accepted,
            stats.publish.confirmed,
            stats.publish.sent,
            stats.publish.dropped(),
            stats.publish.queued,
            stats.publish.in_flight,
            stats.consume.received,
            stats.consume.acked,
            stats.reconnects,
            self.client.state(),
        ));
    }

    fn reading(&self) -> Reading {
        let ledgers = self.control.ledgers.iter().map(|ledger| ledger.memory()).sum();
        Reading::take(self.broker, &self.name, ledgers)
    }

    /// The output of a future that must come to an end; without it, that is a violation.
    async fn finishes<R: Rt, F: Future>(&self, what: &str, future: F) -> Option<F::Output> {
        let future = std::pin::pin!(future);
        // Once something is stuck, the rest is not waited for as long.
        let patience = if self.stuck.load(Relaxed) { PATIENCE / 18 } else { PATIENCE };
        match futures::future::select(future, R::sleep(patience)).await {
            futures::future::Either::Left((output, _)) => Some(output),
            futures::future::Either::Right(_) => {
                let explain = self.client.explain();
                self.violations.add(format!("{what}: not within {patience:?}:\n{explain}"));
                self.stuck.store(true, Relaxed);
                None
            }
        }
    }

    /// Waits for a condition that nothing announces; a violation if it does not come.
    async fn reaches<R: Rt>(&self, what: &str, condition: impl Fn() -> bool) -> bool {
        let wait = async {
            while !condition() {
                R::sleep(Duration::from_millis(20)).await;
            }
        };
        self.finishes::<R, _>(what, wait).await.is_some()
    }

    /// Disturbs for so long. Returns a reading from the first quiet moment after a third of the
    /// time: by then everything has been in use, and lost and opened again.
    async fn disturb<R: Rt>(
        &self,
        injector: &mut Injector<'_>,
        duration: Duration,
    ) -> Option<Reading> {
        let mut warm = None;
        let mut quiet = duration / 3;
        let mut progress = Duration::ZERO;
        while self.began.elapsed() < duration {
            if self.began.elapsed() >= progress {
                self.progress();
                progress = self.began.elapsed() + Duration::from_secs(10);
            }
            R::sleep(injector.pause()).await;
            if let Err(why) = injector.one::<R>(&|line| self.say(&line)).await {
                self.violations.add(format!("a fault could not be injected: {why}"));
                return warm;
            }
            if injector.waits() && !self.recovers::<R>().await {
                return warm;
            }
            if self.began.elapsed() >= quiet && self.began.elapsed() < duration {
                if !self.calm::<R>().await {
                    return warm;
                }
                let reading = self.reading();
                self.say(&format!("quiet {reading:?}"));
                warm = warm.or(Some(reading));
                quiet = self.began.elapsed() + (duration / 3).min(Duration::from_secs(60));
                self.control.paused.store(false, Relaxed);
            }
        }
        warm
    }

    /// Waits until new messages are confirmed and received.
    async fn recovers<R: Rt>(&self) -> bool {
        let before = self.client.stats();
        self.reaches::<R>("recovery: confirms and deliveries go on", || {
            let now = self.client.stats();
            self.client.state() == State::Connected
                && now.publish.confirmed > before.publish.confirmed
                && now.consume.acked > before.consume.acked
        })
        .await
    }

    /// Pauses the load until nothing is under way.
    async fn calm<R: Rt>(&self) -> bool {
        self.control.paused.store(true, Relaxed);
        let calm = || {
            let publish = self.client.stats().publish;
            self.client.state() == State::Connected
                && publish.queued + publish.in_flight + publish.waiting == 0
                && self.link.connections() == 2 + NO_ACK_CONNECTIONS
        };
        self.reaches::<R>("calm: buffers are empty", calm).await
    }

    /// Waits until our consumers have emptied their queues.
    async fn empty<R: Rt>(&self) {
        self.control.draining.store(true, Relaxed);
        // Requeued, and delivered once more.
        self.control.held.lock().unwrap().clear();
        let queues: Vec<_> = Target::ALL
            .into_iter()
            .filter(|target| target.is_consumed() && self.broker.has_control())
            .map(|target| {
                format!("chaos-{}-{}-{}", std::process::id(), self.runtime, target.name())
            })
            .collect();
        for queue in &queues {
            let empty = || self.broker.depth(queue) == Some(0);
            if !self.reaches::<R>(&format!("{queue} is emptied"), empty).await {
                let (depth, unacked) = (self.broker.depth(queue), self.broker.unacked(queue));
                self.violations.add(format!("{queue} holds {depth:?}, unacked {unacked:?}"));
            }
        }
    }

    /// Compares what is held now with what was held after the warm-up.
    fn compare(&self, warm: Option<Reading>, memory: u64) {
        let Some(warm) = warm else {
            self.violations.add("no quiet moment: too short to compare memory".to_owned());
            return;
        };
        // Channels open when they are needed: one for each producer and consumer at most.
        let one_each = self.producers.len() + Target::ALL.len() - 1;
        let flat = |now: &Reading| {
            now.memory <= warm.memory + memory
                // A socket of a connection just cut may be there still.
                && now.descriptors <= warm.descriptors + 2
                && now.connections == warm.connections
                && now.channels.is_none_or(|channels| channels <= one_each as u64)
        };
        settles(Duration::from_secs(20), || flat(&self.reading()));
        let now = self.reading();
        self.say(&format!("end {now:?}"));
        if !flat(&now) {
            self.violations
                .add(format!("not flat: {warm:?} after the warm-up, {now:?} at the end"));
        }
    }
}

/// The connection that no-ack consumers have for themselves.
const NO_ACK_CONNECTIONS: usize = 1;
