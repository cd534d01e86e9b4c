//! One world: the real client, its applications, the broker, and everything that goes wrong.
//!
//! Every actor is a task of the executor: the driver, each producer's tasks, each awaited receipt,
//! each consumer, the broker, the one that makes faults, and the director, who lets everything heal
//! and ends the world. The oracle looks at the accounts after every single poll.
//!
//! `shared` is what they share; `director`, `producing`, `consuming` and `faults` are the actors.

mod consuming;
mod director;
mod faults;
mod producing;
mod publisher;
mod shared;
mod treating;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use lavinmq_core::time::Time;
use lavinmq_testing::{BrokerState, Settings};

use self::shared::{Gate, Handles, Shared, lock};
use super::{
    accounts::{Accounts, Fate},
    executor::{Executor, Step},
    host::Host,
    network::Network,
    random::Random,
    runtime::SimRuntime,
    scenario::{EndingPlan, Place, Scenario},
    tap::Tap,
    trace::Trace,
};

/// How long a healed world may take until everything is settled and drained.
const LIVENESS: Duration = Duration::from_secs(240);
/// The same where nothing ever went wrong: a single lost wake-up that a later one makes up for takes
/// longer than this.
const QUIET_LIVENESS: Duration = Duration::from_secs(20);
/// How long it may take after the last handle was closed or dropped.
const CLOSING: Duration = Duration::from_secs(60);
/// Polls of one world; more means that somebody spins.
const POLLS: u64 = 1_000_000;

/// What became of one world.
#[derive(Clone, Debug, Default)]
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
    pub counters: BTreeMap<&'static str, u64>,
    /// How each message ended.
    pub outcomes: BTreeMap<Place, Fate>,
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

struct World {
    executor: Executor,
    shared: Arc<Shared>,
}

impl World {
    fn new(scenario: Scenario, tick: Option<Duration>, print: bool) -> Self {
        let root = Random::new(scenario.seed);
        let executor = Executor::new(root.split("executor"), Trace::new(print));
        let handle = executor.handle().clone();
        let accounts = Arc::new(Mutex::new(Accounts::of(&scenario)));
        let network = Network::new(&handle, root.split("network"), scenario.conditions.clone());
        let books = accounts.clone();
        network.watch_with(move |link| Box::new(Tap::new(link, books.clone())));
        let mut settings = Settings::new(scenario.personality);
        if scenario.client.heartbeat.is_zero() {
            // Both sides must say so.
            settings.tune.heartbeat = 0;
        }
        let broker = BrokerState::with_settings(settings, root.split("broker").bits());
        let host = Host::start(
            broker,
            network.clone(),
            &handle,
            Some(accounts.clone()),
            root.split("host"),
        );
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
            closing: Gate::default(),
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
            + match (shared.scenario.faults.is_empty(), shared.scenario.forgets()) {
                (true, false) => QUIET_LIVENESS,
                // A forgotten delivery comes back after up to 30 s.
                (true, true) => QUIET_LIVENESS + Duration::from_secs(30),
                (false, _) => LIVENESS + CLOSING,
            };
        loop {
            match self.executor.step() {
                Step::Polled(task) => shared.check_after(&task),
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
        if waiting.is_empty() {
            shared.check_end();
        } else if lock(&shared.accounts).violations().is_empty() {
            shared.hang(&waiting, self.executor.polls());
        }
        let polls = self.executor.polls();
        drop(self);
        if waiting.is_empty() {
            shared.check_leftovers();
        }
        let accounts = lock(&shared.accounts);
        Outcome {
            violations: accounts.violations().to_vec(),
            hash: shared.handle.hash(),
            accepted: accounts.accepted(),
            deliveries: accounts.deliveries(),
            reconnects: lock(&shared.handles).sum.map_or(0, |sum| sum.reconnects),
            counters: {
                let mut counters = shared.handle.counters();
                counters.extend(accounts.states());
                counters
            },
            outcomes: accounts.fates(),
            polls,
            ended_at: shared.handle.now(),
        }
    }
}

impl Shared {
    /// After every poll: the accounts that it can have changed. The driver can change all. Of the others,
    /// a producer's task changes its producer's, a consumer's the sum; the other end of the wire and
    /// readers none.
    fn check_after(&self, task: &str) {
        let mut words = task.split(' ');
        match (words.next(), words.next().and_then(|word| word.parse().ok())) {
            (Some("broker" | "faults" | "events" | "receipt"), _) => {}
            (Some("consumer" | "holder"), _) => self.check_step(0..0),
            (Some("producer"), Some(index)) => self.check_step(index..index + 1),
            _ => self.check_step(0..self.scenario.producers.len()),
        }
    }

    fn check_step(&self, which: Range<usize>) {
        let mut handles = lock(&self.handles);
        let Handles { client, producers, stats, sum } = &mut *handles;
        let mut books = self.books();
        for index in which {
            if let Some(producer) = &producers[index] {
                let stats = stats[index].insert(producer.stats());
                books.check_producer(index, stats);
            }
        }
        if let Some(client) = client {
            books.check_law(sum.insert(client.stats()));
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
        self.check_step(0..self.scenario.producers.len());
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
    }

    /// Every task is done and dropped: nobody waits, and a client that is closed keeps nothing, though
    /// handles of it may still be held here.
    fn check_leftovers(&self) {
        self.host.stop();
        let (timers, wakers) = (self.handle.armed_timers(), self.handle.live_wakers());
        let kept = self.client().map(|client| client.leftovers()).unwrap_or_default();
        if timers + wakers + kept.len() > 0 {
            self.books().violation(format!(
                "left at the end: {timers} armed timers, {wakers} wakers; the client keeps {kept:?}"
            ));
        }
    }
}
