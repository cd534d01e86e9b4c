//! One world: the real client, its applications, the broker, and everything that goes wrong.
//!
//! Every actor is a task of the executor: the driver, each producer's tasks, each awaited receipt,
//! each consumer, the broker, the one that makes faults, and the director, who lets everything heal
//! and ends the world. The oracle looks at the accounts after every single poll.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use amq_protocol::types::AMQPValue;
use futures::future::{Either, select};
use lavinmq_core::{
    Client, Confirm, Consumer, Delivery, FireAndForget, Manual, Mode, NoAck, Options, Producer,
    Receipt, Settle,
    config::PublishMode,
    error::{ConsumeError, PublishError},
    event::Settled,
    stats::{ProducerStats, Stats},
    time::Time,
};
use lavinmq_testing::{BrokerState, Settings};

use super::{
    accounts::{Accounts, Id, Treatment},
    executor::{Executor, Handle, Step},
    host::Host,
    network::Network,
    random::Random,
    runtime::SimRuntime,
    scenario::{ConsumerPlan, EndingPlan, Fault, PublishOp, ReceiptPlan, Scenario, Target},
    trace::Trace,
};

/// How long a healed world may take until everything is settled and drained.
const LIVENESS: Duration = Duration::from_secs(240);
/// The same where nothing ever went wrong: a single lost wake-up that a later one makes up for takes
/// longer than this.
const QUIET_LIVENESS: Duration = Duration::from_secs(20);
/// How long it may take after the last handle was closed or dropped.
const CLOSING: Duration = Duration::from_secs(60);
/// How long bytes may be under way in a healed network that was bad before.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Polls of one world; more means that somebody spins.
const POLLS: u64 = 1_000_000;

/// What became of one world.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What is wrong; empty if nothing is.
    pub violations: Vec<String>,
    /// The hash over all bytes and events.
    pub hash: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Deliveries handed to the application.
    pub deliveries: u64,
    /// Reconnects.
    pub reconnects: u64,
    /// Things that happened, by name; faults begin with `fault `.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
    /// Polls.
    pub polls: u64,
    /// Virtual time at the end.
    pub ended_at: Time,
}

impl Outcome {
    /// How often connections were cut, ended or silenced.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        let is_cut = |name: &str| {
            name.starts_with("cut-")
                || matches!(name, "end-eof" | "end-reset" | "silence" | "crash")
        };
        self.counters.iter().filter(|(name, _)| is_cut(name)).map(|(_, n)| n).sum()
    }
}

/// Runs the world of this scenario.
#[must_use]
pub fn run(scenario: &Scenario, tick: Option<Duration>, print: bool) -> Outcome {
    World::new(scenario.clone(), tick, print).run()
}

/// What all actors share.
struct Shared {
    scenario: Scenario,
    handle: Handle,
    network: Network,
    host: Host,
    accounts: Arc<Mutex<Accounts>>,
    root: Random,
    /// Everything is well from now on.
    healed: Gate,
    /// Applications let go of everything.
    stop: Gate,
    /// Handles whose stats the oracle reads.
    handles: Mutex<Handles>,
    /// Producer tasks and awaited receipts that are not done.
    busy: AtomicUsize,
}

#[derive(Default)]
struct Handles {
    client: Option<Client>,
    producers: Vec<Option<AnyProducer>>,
    /// The stats as last seen.
    stats: Vec<Option<ProducerStats>>,
    sum: Option<Stats>,
}

enum AnyProducer {
    FireAndForget(Producer<FireAndForget>),
    Confirm(Producer<Confirm>),
}

impl AnyProducer {
    fn stats(&self) -> ProducerStats {
        match self {
            Self::FireAndForget(producer) => producer.stats(),
            Self::Confirm(producer) => producer.stats(),
        }
    }

    async fn flush(&self) {
        match self {
            Self::FireAndForget(producer) => producer.flush().await,
            Self::Confirm(producer) => producer.flush().await,
        }
    }

    fn again(&self) -> Self {
        match self {
            Self::FireAndForget(producer) => Self::FireAndForget(producer.clone()),
            Self::Confirm(producer) => Self::Confirm(producer.clone()),
        }
    }
}

/// Something that many wait for and that happens once.
#[derive(Default)]
struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    fn open(&self) {
        let wakers = {
            let mut state = lock(&self.0);
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    fn is_open(&self) -> bool {
        lock(&self.0).0
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of two futures to end.
async fn race<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    match select(pin!(a), pin!(b)).await {
        Either::Left((a, _)) => Either::Left(a),
        Either::Right((b, _)) => Either::Right(b),
    }
}

struct World {
    executor: Executor,
    shared: Arc<Shared>,
}

impl World {
    fn new(scenario: Scenario, tick: Option<Duration>, print: bool) -> Self {
        let root = Random::new(scenario.seed);
        let executor = Executor::new(root.split("executor"), Trace::new(print));
        let handle = executor.handle().clone();
        let accounts = Arc::new(Mutex::new(Accounts::new(scenario.producers.len())));
        let network = Network::new(&handle, root.split("network"), scenario.conditions.clone());
        let mut settings = Settings::new(scenario.personality);
        if scenario.client.heartbeat.is_zero() {
            // Both sides must say so.
            settings.tune.heartbeat = 0;
        }
        let broker = BrokerState::with_settings(settings, root.split("broker").bits());
        let host =
            Host::start(broker, network.clone(), &handle, accounts.clone(), root.split("host"));
        let runtime = SimRuntime::new(handle.clone(), network.clone(), root.split("runtime"), tick);
        let producers = scenario.producers.len();
        let shared = Arc::new(Shared {
            scenario,
            handle: handle.clone(),
            network,
            host,
            accounts,
            root,
            healed: Gate::default(),
            stop: Gate::default(),
            handles: Mutex::new(Handles {
                producers: (0..producers).map(|_| None).collect(),
                stats: vec![None; producers],
                ..Handles::default()
            }),
            busy: AtomicUsize::new(0),
        });
        shared.start(runtime);
        Self { executor, shared }
    }

    fn run(mut self) -> Outcome {
        let shared = self.shared.clone();
        let limit = Time::ZERO
            + shared.scenario.heals_at
            + if shared.scenario.faults.is_empty() { QUIET_LIVENESS } else { LIVENESS + CLOSING };
        loop {
            match self.executor.step() {
                Step::Polled(_) => shared.check_step(),
                Step::Waited => {}
                Step::Quiet => break,
            }
            let violated = !lock(&shared.accounts).violations().is_empty();
            if violated || shared.handle.now() > limit || self.executor.polls() > POLLS {
                break;
            }
            if self.executor.is_done() && shared.host.connections() == 0 {
                break;
            }
        }
        let waiting = self.executor.waiting();
        if !waiting.is_empty() && lock(&shared.accounts).violations().is_empty() {
            shared.hang(&waiting, self.executor.polls());
        }
        if waiting.is_empty() {
            shared.check_end();
        }
        let accounts = lock(&shared.accounts);
        Outcome {
            violations: accounts.violations().to_vec(),
            hash: shared.handle.hash(),
            accepted: accounts.accepted(),
            deliveries: accounts.deliveries(),
            reconnects: lock(&shared.handles).sum.map_or(0, |sum| sum.reconnects),
            counters: shared.handle.counters(),
            polls: self.executor.polls(),
            ended_at: shared.handle.now(),
        }
    }
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.accounts)
    }

    /// The client's handle, while the world holds one.
    fn client(&self) -> Option<Client> {
        lock(&self.handles).client.clone()
    }

    // ---- the oracle ---------------------------------------------------------------------------

    fn check_step(&self) {
        let mut handles = lock(&self.handles);
        let Handles { client, producers, stats, sum } = &mut *handles;
        for (stats, producer) in stats.iter_mut().zip(producers.iter()) {
            if let Some(producer) = producer {
                *stats = Some(producer.stats());
            }
        }
        if let Some(client) = client {
            *sum = Some(client.stats());
        }
        if let Some(sum) = sum {
            self.books().check_step(stats, sum);
        }
    }

    fn hang(&self, waiting: &[(Arc<str>, u64)], polls: u64) {
        let names: Vec<_> =
            waiting.iter().map(|(name, polls)| format!("{name} ({polls} polls)")).collect();
        let explain = self.client().map_or_else(|| "(no client)".into(), |client| client.explain());
        let word = if polls > POLLS { "somebody spins" } else { "hang" };
        self.books().violation(format!(
            "{word} at {}: waiting: {}; {} stale wake-ups; the client explains:\n{explain}",
            self.handle.now(),
            names.join(", "),
            self.handle.stale_wakes(),
        ));
    }

    /// Every task is done: the books must be closed, and nothing left over.
    fn check_end(&self) {
        self.check_step();
        let handles = lock(&self.handles);
        let mut books = self.books();
        let scenario = &self.scenario;
        match scenario.ending {
            // With the last handle the stats are gone.
            EndingPlan::Dropped => books.check_end(scenario, None),
            EndingPlan::Calm | EndingPlan::Abrupt => {
                let stats: Vec<_> =
                    handles.stats.iter().map(|stats| stats.unwrap_or_default()).collect();
                let sum = handles.sum.unwrap_or_default();
                books.check_end(scenario, Some((&stats, &sum)));
            }
        }
        let (connections, links) = (self.host.connections(), self.network.links().len());
        if connections + links > 0 {
            books.violation(format!("{connections} connections and {links} links are left"));
        }
        if scenario.ending == EndingPlan::Calm {
            books.check_drained(scenario);
        }
        self.host.disarm();
        let timers = self.handle.armed_timers();
        if timers > 0 {
            books.violation(format!("{timers} timers are still armed"));
        }
    }

    // ---- the actors -----------------------------------------------------------------------------

    fn start(self: &Arc<Self>, runtime: SimRuntime) {
        let plan = &self.scenario.client;
        let options = Options::new("amqp://guest:guest@broker")
            .map(|options| {
                options
                    .heartbeat(plan.heartbeat)
                    .connections(plan.connections)
                    .frame_max(plan.frame_max)
                    .reconnect_max_delay(plan.max_delay)
                    .message_ids(plan.message_ids)
            })
            .map_err(lavinmq_core::error::ConnectError::from);
        let made = options.and_then(|options| lavinmq_core::driver::with_driver(runtime, options));
        let (client, driver) = match made {
            Ok(made) => made,
            Err(error) => return self.books().violation(format!("no client: {error}")),
        };
        let mut events = client.events();
        lock(&self.handles).client = Some(client);
        self.handle.spawn("driver", async move {
            driver.await;
        });
        let shared = self.clone();
        self.handle.spawn("events", async move {
            while let Some(event) = events.next().await {
                shared.handle.event(format_args!("event {event:?}"));
                shared.books().event(&event);
            }
        });
        self.handle.spawn("director", self.clone().direct());
        self.handle.spawn("faults", self.clone().make_faults());
    }

    /// Sets the stage, lets everything heal, and ends the world.
    async fn direct(self: Arc<Self>) {
        let Some(client) = self.client() else { return };
        if !self.scenario.client.impatient {
            race(client.ready(), self.stop.wait()).await;
        }
        for queue in 0..self.scenario.queues.len() {
            self.declare(&client, queue).await;
        }
        for index in 0..self.scenario.producers.len() {
            self.busy.fetch_add(1, Ordering::Relaxed);
            self.handle.spawn(format!("producer {index}"), self.clone().produce(index));
        }
        for (index, plan) in self.scenario.consumers.iter().enumerate() {
            self.handle
                .spawn(format!("consumer {index}"), self.clone().consume(index, plan.clone()));
        }
        self.handle.sleep_until(Time::ZERO + self.scenario.heals_at).await;
        match self.scenario.ending {
            EndingPlan::Calm => {
                self.heal();
                self.settle_everything().await;
                self.stop.open();
                let report = client.shutdown(Duration::from_secs(20)).await;
                self.handle.event(format_args!("shutdown: {report:?}"));
                if report.dropped + report.unknown > 0 || report.timed_out {
                    self.books().violation(format!("a calm shutdown left something: {report:?}"));
                }
            }
            EndingPlan::Abrupt => {
                let patience = self.root.split("shutdown").below(3000);
                self.stop.open();
                let report = client.shutdown(Duration::from_millis(patience)).await;
                self.handle.event(format_args!("shutdown: {report:?}"));
                self.heal();
            }
            EndingPlan::Dropped => {
                self.stop.open();
                {
                    let mut handles = lock(&self.handles);
                    handles.producers.iter_mut().for_each(|producer| *producer = None);
                    handles.client = None;
                }
                drop(client);
                // The driver gets its five seconds in bad weather; then even lost links are found.
                self.handle.sleep(Duration::from_secs(10)).await;
                self.heal();
            }
        }
    }

    fn heal(&self) {
        self.handle.event(format_args!("everything heals"));
        self.healed.open();
        self.network.heal();
        self.host.heal();
    }

    /// Waits until every producer's task is done, every message has its outcome, every queue is empty.
    async fn settle_everything(&self) {
        while self.busy.load(Ordering::Relaxed) > 0 {
            self.handle.sleep(Duration::from_millis(20)).await;
        }
        for index in 0..self.scenario.producers.len() {
            let producer = lock(&self.handles).producers[index].as_ref().map(AnyProducer::again);
            if let Some(producer) = producer {
                producer.flush().await;
            }
        }
        // What was sent may still be under way to its queue.
        self.handle.sleep(UNDER_WAY).await;
        let consumed = |queue: &str| {
            self.host.with(|broker, _| broker.queue_depth(queue) + broker.unacked(queue) == 0)
        };
        while !self.scenario.queues.iter().all(|queue| consumed(&queue.name)) {
            self.handle.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Declares a queue, again and again until it stands or the world ends.
    async fn declare(&self, client: &Client, queue: usize) {
        let plan = &self.scenario.queues[queue];
        loop {
            let mut builder = client.queue(&plan.name);
            if let Some(most) = plan.rejects_over {
                let mut arguments = amq_protocol::types::FieldTable::default();
                arguments.insert("x-max-length".into(), AMQPValue::LongInt(most as i32));
                let overflow = AMQPValue::LongString("reject-publish".into());
                arguments.insert("x-overflow".into(), overflow);
                builder = builder.arguments(arguments);
            }
            match race(builder.declare(), self.stop.wait()).await {
                Either::Left(Ok(_)) | Either::Right(()) => return,
                Either::Left(Err(error)) => {
                    self.handle.event(format_args!("declare {}: {error}", plan.name));
                    if self.stop.is_open() {
                        return;
                    }
                    self.handle.sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }

    // ---- publishing -----------------------------------------------------------------------------

    async fn produce(self: Arc<Self>, index: usize) {
        let _busy = Busy(self.clone());
        let plan = self.scenario.producers[index].clone();
        let Some(client) = self.client() else { return };
        let key = self.scenario.routing_key(index);
        let builder = match plan.target {
            Target::Queue(_) | Target::Nowhere => client.producer(key.as_str()),
            Target::MissingExchange => client.producer_on("missing", &key),
        };
        drop(client);
        let mut builder = builder
            .buffer_size(plan.buffer_size)
            .buffer_bytes(plan.buffer_bytes)
            .buffer_policy(plan.policy)
            .when_offline(plan.when_offline);
        if let Some(timeout) = plan.publish_timeout {
            builder = builder.publish_timeout(timeout);
        }
        if let Some(ttl) = plan.ttl {
            builder = builder.ttl(ttl);
        }
        let calls = Arc::new(AtomicU64::new(0));
        let hook = || {
            let (shared, calls, every) = (self.clone(), calls.clone(), plan.hook_panics_every);
            move |settled: &Settled| {
                shared.books().hook(index, settled);
                let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
                if every > 0 && call.is_multiple_of(every) {
                    shared.books().hook_panicked();
                    // Without the panic hook's message: it is meant.
                    std::panic::resume_unwind(Box::new("planned"));
                }
            }
        };
        builder = builder.on_nack(hook()).on_return(hook()).on_error(hook()).on_drop(hook());
        match plan.mode {
            PublishMode::Confirm => {
                let mut builder = builder.confirm().max_in_flight(plan.max_in_flight);
                if let Some(timeout) = plan.confirm_timeout {
                    builder = builder.confirm_timeout(timeout);
                }
                if plan.hears_confirms {
                    builder = builder.on_confirm(hook());
                }
                if let Some(producer) = self.opened(index, builder.open()).await {
                    lock(&self.handles).producers[index] =
                        Some(AnyProducer::Confirm(producer.clone()));
                    self.publish_in_tasks(index, producer);
                }
            }
            _ => {
                if let Some(producer) = self.opened(index, builder.open()).await {
                    lock(&self.handles).producers[index] =
                        Some(AnyProducer::FireAndForget(producer.clone()));
                    self.publish_in_tasks(index, producer);
                }
            }
        }
    }

    async fn opened<P>(
        &self,
        index: usize,
        open: impl Future<Output = Result<P, lavinmq_core::error::OpenError>>,
    ) -> Option<P> {
        match race(open, self.stop.wait()).await {
            Either::Left(Ok(producer)) if !self.stop.is_open() => Some(producer),
            Either::Left(Err(error)) if !self.stop.is_open() => {
                self.books().violation(format!("producer {index} did not open: {error}"));
                None
            }
            _ => None,
        }
    }

    fn publish_in_tasks<M>(self: &Arc<Self>, index: usize, producer: Producer<M>)
    where
        M: Mode,
        M::Accepted: Ticket,
    {
        for (task, ops) in self.scenario.producers[index].tasks.iter().enumerate() {
            let publisher = Publisher {
                shared: self.clone(),
                producer: producer.clone(),
                index,
                task,
                receipts: 0,
            };
            self.busy.fetch_add(1, Ordering::Relaxed);
            let name = format!("producer {index} task {task}");
            self.handle.spawn(name, publisher.run(ops.clone()));
        }
    }

    // ---- consuming ------------------------------------------------------------------------------

    async fn consume(self: Arc<Self>, index: usize, plan: ConsumerPlan) {
        let mut random = self.root.split(&format!("consumer {index}"));
        let mut reopens_at = plan.reopens_at.map(|at| Time::ZERO + at);
        while !self.stop.is_open() {
            let Some(client) = self.client() else { return };
            let builder = client.consumer(self.scenario.queues[plan.queue].name.as_str());
            drop(client);
            let until = reopens_at.take();
            let again = if plan.no_ack {
                match race(builder.no_ack().open(), self.stop.wait()).await {
                    Either::Left(Ok(consumer)) => self.receive(index, consumer, until).await,
                    Either::Left(Err(error)) => self.refused(index, &error).await,
                    Either::Right(()) => false,
                }
            } else {
                match race(
                    builder.prefetch(plan.prefetch).requeue_delay(plan.requeue_delay).open(),
                    self.stop.wait(),
                )
                .await
                {
                    Either::Left(Ok(consumer)) => {
                        self.settle_all(index, &plan, &mut random, consumer, until).await
                    }
                    Either::Left(Err(error)) => self.refused(index, &error).await,
                    Either::Right(()) => false,
                }
            };
            if !again {
                return;
            }
        }
    }

    /// A consumer did not open; whether to try again.
    async fn refused(&self, index: usize, error: &ConsumeError) -> bool {
        self.handle.event(format_args!("consumer {index}: {error}"));
        race(self.handle.sleep(Duration::from_millis(300)), self.stop.wait()).await;
        !matches!(error, ConsumeError::Closed)
    }

    async fn until(&self, at: Option<Time>) {
        match at {
            Some(at) => self.handle.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// A no-ack consumer; whether it is to be opened again.
    async fn receive(
        &self,
        index: usize,
        mut consumer: Consumer<NoAck>,
        until: Option<Time>,
    ) -> bool {
        loop {
            let stop = race(self.until(until), self.stop.wait());
            match race(consumer.next(), stop).await {
                Either::Left(Some(received)) => {
                    let now = self.handle.now();
                    let id = read_id(&received);
                    self.handle.event(format_args!("consumer {index} gets {id:?}"));
                    match id {
                        Some(id) => {
                            let place = self.books().handed(id, now, index, received.redelivered());
                            self.books().treated(place, Treatment::Ack);
                        }
                        None => self.books().violation("a delivery that nobody published"),
                    }
                }
                Either::Left(None) => return self.ended(index, consumer.end_reason().is_some()),
                Either::Right(Either::Left(())) => {
                    self.books().loss(self.handle.now());
                    self.close(index, consumer.close()).await;
                    self.books().loss(self.handle.now());
                    return true;
                }
                Either::Right(Either::Right(())) => return false,
            }
        }
    }

    fn ended(&self, index: usize, says_why: bool) -> bool {
        if !says_why {
            self.books().violation(format!("consumer {index} ended without a reason"));
        }
        if !self.stop.is_open() {
            self.books().violation(format!("consumer {index} ended though nobody closed it"));
        }
        false
    }

    async fn close(
        &self,
        index: usize,
        close: impl Future<Output = lavinmq_core::session::Report>,
    ) {
        match race(close, self.stop.wait()).await {
            Either::Left(report) => {
                self.handle.event(format_args!("consumer {index} closed: {report:?}"));
            }
            Either::Right(()) => {}
        }
    }

    /// A consumer that settles; whether it is to be opened again.
    async fn settle_all(
        self: &Arc<Self>,
        index: usize,
        plan: &ConsumerPlan,
        random: &mut Random,
        mut consumer: Consumer<Manual>,
        until: Option<Time>,
    ) -> bool {
        loop {
            let stop = race(self.until(until), self.stop.wait());
            match race(consumer.next(), stop).await {
                Either::Left(Some(delivery)) => self.treat(index, plan, random, delivery),
                Either::Left(None) => return self.ended(index, consumer.end_reason().is_some()),
                Either::Right(Either::Left(())) => {
                    self.books().loss(self.handle.now());
                    self.close(index, consumer.close()).await;
                    self.books().loss(self.handle.now());
                    return true;
                }
                Either::Right(Either::Right(())) => return false,
            }
        }
    }

    fn treat(
        self: &Arc<Self>,
        index: usize,
        plan: &ConsumerPlan,
        random: &mut Random,
        delivery: Delivery,
    ) {
        let now = self.handle.now();
        let id = read_id(&delivery);
        self.handle.event(format_args!("consumer {index} gets {id:?}"));
        let Some(id) = id else {
            return self.books().violation("a delivery that nobody published");
        };
        let place = self.books().handed(id, now, index, delivery.redelivered());
        let habits = plan.habits;
        let mut draw = if self.healed.is_open() { 64 } else { random.below(64) };
        let mut is = |n: u64| {
            let hit = draw < n;
            draw = draw.saturating_sub(n);
            hit
        };
        let (settle, treatment) = if is(habits.requeue) {
            (delivery.requeue(), Treatment::Requeue)
        } else if is(habits.reject) {
            (delivery.reject(), Treatment::Reject)
        } else if is(habits.forget) {
            drop(delivery);
            (Settle::Queued, Treatment::Forget)
        } else if is(habits.ack_through) {
            let settle = delivery.ack_through();
            if settle == Settle::Queued {
                self.books().acked_through(index);
            }
            (settle, Treatment::Ack)
        } else if is(habits.hold) {
            let shared = self.clone();
            let pause = Duration::from_millis(random.below(3000));
            let (_, acker) = delivery.into_parts();
            self.handle.spawn(format!("holder of {id}"), async move {
                race(race(shared.handle.sleep(pause), shared.healed.wait()), shared.stop.wait())
                    .await;
                let settle = acker.ack();
                shared.handle.event(format_args!("acks {id} late: {settle:?}"));
                if settle == Settle::Queued {
                    shared.books().treated(place, Treatment::Ack);
                }
            });
            return;
        } else {
            (delivery.ack(), Treatment::Ack)
        };
        self.handle.event(format_args!("{treatment:?} of {id}: {settle:?}"));
        if settle == Settle::Queued {
            self.books().treated(place, treatment);
        }
    }

    // ---- faults ---------------------------------------------------------------------------------

    async fn make_faults(self: Arc<Self>) {
        for &(at, fault) in &self.scenario.faults {
            let sleep = self.handle.sleep_until(Time::ZERO + at);
            if let Either::Right(()) = race(sleep, self.healed.wait()).await {
                return;
            }
            self.handle.event(format_args!("fault {fault:?}"));
            self.make(fault);
        }
    }

    fn make(self: &Arc<Self>, fault: Fault) {
        let handle = &self.handle;
        let now = handle.now();
        match fault {
            // Counted when it strikes.
            Fault::Cut { link, cut } => {
                self.network.pick(link).into_iter().for_each(|link| link.cut(cut));
            }
            Fault::CutNext(cut) => self.network.cut_next(cut),
            Fault::End { link, ending } => {
                if let Some(link) = self.network.pick(link) {
                    handle.count(match ending {
                        super::pipe::Ending::Eof => "end-eof",
                        super::pipe::Ending::Reset => "end-reset",
                    });
                    link.end(ending);
                }
            }
            Fault::Silence { link } => {
                if let Some(link) = self.network.pick(link) {
                    handle.count("silence");
                    link.silence();
                }
            }
            Fault::Refuse(down) => {
                handle.count("refuse");
                self.network.refuse_until(now + down);
            }
            Fault::HangDial => self.network.hang_next_dial(),
            Fault::Restart { down, kill } => {
                handle.count(if kill { "crash" } else { "restart" });
                self.network.refuse_until(now + down);
                self.books().loss(now);
                self.host.with(
                    |broker, now| {
                        if kill { broker.crash(now) } else { broker.restart(now) }
                    },
                );
            }
            Fault::Block(down) => {
                handle.count("block");
                self.host.with(|broker, now| broker.block("low on memory", now));
                self.later("unblock", down, |shared| {
                    shared.host.with(|broker, now| broker.unblock(now));
                });
            }
            Fault::CloseConnections => {
                handle.count("close-connections");
                self.books().loss(now);
                self.host
                    .with(|broker, now| broker.close_connections(320, "CONNECTION_FORCED", now));
            }
            Fault::DeleteQueue(queue) => {
                handle.count("delete-queue");
                self.books().loss(now);
                let name = self.scenario.queues[queue].name.clone();
                self.host.with(|broker, now| broker.delete_queue(&name, now));
                let shared = self.clone();
                handle.spawn(format!("redeclare {name}"), async move {
                    shared.handle.sleep(Duration::from_millis(700)).await;
                    if let Some(client) = shared.client() {
                        shared.declare(&client, queue).await;
                    }
                });
            }
            Fault::CloseChannels { code, blames } => {
                let (class, method) = if blames { (60, 40) } else { (0, 0) };
                let closed = self.host.with(|broker, now| {
                    let open: Vec<_> = broker
                        .connections()
                        .iter()
                        .flat_map(|info| {
                            broker.channels(info.id).into_iter().map(|ch| (info.id, ch))
                        })
                        .collect();
                    for &(id, channel) in &open {
                        broker.close_channel(
                            id,
                            channel,
                            code,
                            "by the simulator",
                            class,
                            method,
                            now,
                        );
                    }
                    open.len() as u64
                });
                self.books().loss(now);
                handle.add("channel-closed", closed);
            }
            Fault::Stall(down) => {
                handle.count("stall");
                self.host.stall_until(now + down);
            }
            Fault::Nack(n) => {
                handle.add("nack", n);
                self.host.with(|broker, _| broker.nack_next(n));
            }
            Fault::HoldConfirms(down) => {
                handle.count("hold-confirms");
                self.host.with(|broker, _| broker.hold_confirms());
                self.later("release confirms", down, |shared| {
                    shared.host.with(|broker, now| broker.release_confirms(now));
                });
            }
            Fault::ReorderConfirms => {
                handle.count("reorder-confirms");
                self.host.with(|broker, _| broker.reorder_confirms(true));
            }
            Fault::StopFlow(down) => {
                handle.count("stop-flow");
                self.flow(false);
                self.later("flow again", down, |shared| shared.flow(true));
            }
        }
    }

    fn flow(&self, active: bool) {
        self.host.with(|broker, now| {
            for info in broker.connections() {
                for channel in broker.channels(info.id) {
                    broker.flow(info.id, channel, active, now);
                }
            }
        });
    }

    fn later(
        self: &Arc<Self>,
        name: &'static str,
        delay: Duration,
        act: impl FnOnce(&Self) + Send + 'static,
    ) {
        let shared = self.clone();
        self.handle.spawn(name, async move {
            race(shared.handle.sleep(delay), shared.healed.wait()).await;
            act(&shared);
        });
    }
}

/// One task that counts as busy until it ends.
struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn read_id(received: &lavinmq_core::Received) -> Option<Id> {
    if !received.body().is_empty() {
        return Id::read(received.body(), None);
    }
    let properties = received.properties().ok()?;
    Id::read(b"", properties.message_id().as_ref().map(|id| id.as_str()))
}

/// What a publish yields: nothing, or a receipt.
trait Ticket: Send + 'static {
    fn receipt(self) -> Option<Receipt>;
}

impl Ticket for () {
    fn receipt(self) -> Option<Receipt> {
        None
    }
}

impl Ticket for Receipt {
    fn receipt(self) -> Option<Receipt> {
        Some(self)
    }
}

/// One task of a producer.
struct Publisher<M: Mode> {
    shared: Arc<Shared>,
    producer: Producer<M>,
    index: usize,
    task: usize,
    receipts: u64,
}

impl<M: Mode> Publisher<M>
where
    M::Accepted: Ticket,
{
    async fn run(mut self, ops: Vec<PublishOp>) {
        let _busy = Busy(self.shared.clone());
        for op in ops {
            if self.shared.stop.is_open() {
                return;
            }
            match op {
                PublishOp::Publish { bytes, receipt } => self.publish(bytes, receipt).await,
                PublishOp::Abandon { bytes, polls, patience } => {
                    self.abandon(bytes, polls, patience).await;
                }
                PublishOp::Try { bytes } => self.try_publish(bytes),
                PublishOp::Invalid => self.invalid().await,
                PublishOp::Flush(patience) => {
                    let shared = self.shared.clone();
                    let enough = race(shared.handle.sleep(patience), shared.stop.wait());
                    race(self.producer.flush(), enough).await;
                }
                PublishOp::Pause(pause) => {
                    // Once everything has healed there is no more dallying.
                    let shared = &self.shared;
                    let enough = race(shared.healed.wait(), shared.stop.wait());
                    race(shared.handle.sleep(pause), enough).await;
                }
            }
        }
    }

    fn offer(&self) -> Id {
        self.shared.books().offer(self.index, self.task)
    }

    /// Writes down how an offer ended.
    fn offered(&self, id: Id, result: Result<M::Accepted, PublishError>) -> Option<Receipt> {
        match result {
            Ok(accepted) => {
                let receipt = accepted.receipt();
                let sequence = receipt.as_ref().map(Receipt::sequence);
                self.shared.handle.event(format_args!("{id} accepted as {sequence:?}"));
                self.shared.books().accepted_one(id, sequence);
                receipt
            }
            Err(error) => {
                self.shared.handle.event(format_args!("{id} refused: {error}"));
                self.shared.books().refused(id, &error);
                None
            }
        }
    }

    /// Polls a publish until it ends, or the world stops, or it was pending so often.
    async fn poll_publish(&self, id: Id, bytes: usize, polls: Option<u32>) -> Option<Receipt> {
        let mut publish = self.producer.publish(id.message(bytes));
        let mut stop = pin!(self.shared.stop.wait());
        let mut left = polls;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut publish).poll(cx) {
                return Poll::Ready(Some(result));
            }
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) || stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match result {
            Some(result) => self.offered(id, result),
            None => {
                drop(publish);
                self.shared.handle.event(format_args!("{id} cancelled"));
                self.shared.books().cancelled(id);
                None
            }
        }
    }

    async fn publish(&mut self, bytes: usize, plan: ReceiptPlan) {
        let id = self.offer();
        if let Some(receipt) = self.poll_publish(id, bytes, None).await {
            self.keep(id, receipt, plan).await;
        }
    }

    async fn abandon(&mut self, bytes: usize, polls: u32, patience: Duration) {
        let id = self.offer();
        let shared = self.shared.clone();
        let outcome = {
            let publish = pin!(self.poll_publish(id, bytes, Some(polls)));
            let timer = pin!(shared.handle.sleep(patience));
            match select(publish, timer).await {
                Either::Left((receipt, _)) => Some(receipt),
                Either::Right(((), _)) => None,
            }
        };
        match outcome {
            Some(Some(receipt)) => self.keep(id, receipt, ReceiptPlan::AwaitLater).await,
            Some(None) => {}
            None => shared.books().cancelled(id),
        }
    }

    fn try_publish(&mut self, bytes: usize) {
        let id = self.offer();
        let result = self.producer.try_publish(id.message(bytes));
        if let Some(receipt) = self.offered(id, result) {
            self.await_later(id, receipt);
        }
    }

    async fn invalid(&mut self) {
        let id = self.offer();
        let message = id.message(20).message_id(&"y".repeat(256));
        match self.producer.publish(message).await {
            Ok(_) => self.shared.books().violation(format!("{id}: accepted, though invalid")),
            Err(error) => self.shared.books().refused(id, &error),
        }
    }

    async fn keep(&mut self, id: Id, mut receipt: Receipt, plan: ReceiptPlan) {
        match plan {
            ReceiptPlan::AwaitLater => self.await_later(id, receipt),
            ReceiptPlan::AwaitNow => {
                let stop = self.shared.stop.wait();
                match race(&mut receipt, stop).await {
                    Either::Left(result) => {
                        self.shared.books().receipt(id, result.as_ref().copied());
                    }
                    Either::Right(()) => self.await_later(id, receipt),
                }
            }
            ReceiptPlan::Detach => receipt.detach(),
            ReceiptPlan::PollThenDrop => {
                let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut receipt).poll(cx))).await;
                if let Poll::Ready(result) = polled {
                    self.shared.books().receipt(id, result.as_ref().copied());
                }
            }
            ReceiptPlan::Drop => drop(receipt),
        }
    }

    fn await_later(&mut self, id: Id, receipt: Receipt) {
        self.receipts += 1;
        let shared = self.shared.clone();
        shared.busy.fetch_add(1, Ordering::Relaxed);
        self.shared.handle.spawn(format!("receipt of {id}"), async move {
            let _busy = Busy(shared.clone());
            let result = receipt.await;
            shared.handle.event(format_args!("receipt of {id}: {:?}", result.is_ok()));
            shared.books().receipt(id, result.as_ref().copied());
        });
    }
}
