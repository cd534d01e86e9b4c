//! What every row starts from and ends with.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use lavinmq_core::{
    Client, Confirm, Consumer, Manual, Message, Producer, client::Events, driver::FirstConnect,
};

use crate::world::{Bell, World};

/// What the world is like while a future waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Everything works.
    Calm,
    /// No connection, and none to be had.
    Offline,
    /// The broker has blocked us.
    Blocked,
    /// Blocked, and the buffer is full.
    Full,
    /// The broker answers no request.
    Silent,
    /// The broker confirms nothing.
    Unconfirmed,
    /// No byte leaves the client.
    Stalled,
}

pub const SCENES: [Scene; 7] = [
    Scene::Calm,
    Scene::Offline,
    Scene::Blocked,
    Scene::Full,
    Scene::Silent,
    Scene::Unconfirmed,
    Scene::Stalled,
];

/// Polls after which all is well again, so that every future can complete.
const HEALED_AFTER: usize = 24;

/// More polls than any future needs.
const FAR: usize = 200;

/// A future is dropped after so many polls.
#[derive(Debug)]
pub struct Cut {
    pub polls: usize,
    /// It completed before.
    pub completed: bool,
}

impl Cut {
    /// Whether it was dropped before it had been polled at all.
    pub const fn never_polled(&self) -> bool {
        self.polls == 0
    }
}

/// Runs a row in each scene, for every number of polls.
pub fn each(row: fn(&mut Stage, &mut Cut)) {
    each_with(false, row);
}

/// The same where the consumer has its two jobs before the trouble begins.
pub fn each_with_jobs(row: fn(&mut Stage, &mut Cut)) {
    each_with(true, row);
}

fn each_with(jobs: bool, row: fn(&mut Stage, &mut Cut)) {
    for scene in SCENES {
        let mut polls = 0;
        loop {
            let mut stage = Stage::new(scene, jobs);
            let mut cut = Cut { polls, completed: false };
            stage.context = format!("{scene:?}, dropped after {polls} polls");
            row(&mut stage, &mut cut);
            stage.finish();
            if cut.completed {
                break;
            }
            polls += 1;
            assert!(polls < FAR, "{scene:?}: it never completes");
        }
        println!("{scene:?}: complete after {polls} polls");
        // Otherwise the row would show nothing.
        assert!(polls > 0, "{scene:?}: complete before it was polled");
    }
}

/// One client with one of everything, and what must come of it.
pub struct Stage {
    pub world: World,
    pub scene: Scene,
    /// `None` once a row has closed it.
    pub client: Option<Client>,
    /// Publishes to `orders`, confirms, and waits when its buffer of two is full.
    pub orders: Producer<Confirm>,
    /// Consumes `jobs`, where `job 1` and `job 2` are, or come while a future waits. A row may take it
    /// out for a while.
    pub jobs: Option<Consumer<Manual>>,
    pub events: Events,
    /// What must be in `orders` at the end.
    pub accepted: Vec<String>,
    /// Publishes that were polled at least once, and those of them that were given up.
    pub offered: u64,
    pub cancelled: u64,
    /// Whether a dropped future's waker may still be there: one, until the next event of its kind.
    pub keeps_one_waker: bool,
    /// Whether the row closed `orders`, or `jobs`.
    pub orders_closed: bool,
    pub jobs_closed: bool,
    /// Called before each poll, with its number.
    pub at_poll: Option<Box<dyn FnMut(usize)>>,
    pub context: String,
    jobs_there: bool,
    channels: usize,
    consumers: usize,
    explained: usize,
}

impl Stage {
    pub fn new(scene: Scene, jobs_there: bool) -> Self {
        let mut world = World::empty();
        for queue in ["orders", "jobs", "alive", "other"] {
            world.net.broker(|broker, _| broker.declare_queue(queue));
        }
        let client = world.start(FirstConnect::Retry).unwrap();
        world.block_on(client.ready()).unwrap();
        let builder = client.producer("orders").confirm().buffer_size(2);
        let orders = world.block_on(builder.open()).unwrap();
        let jobs = world.block_on(client.consumer("jobs").prefetch(10).open()).unwrap();
        // So that every channel is there, and confirms are on.
        world.block_on(client.queue("orders").declare()).unwrap();
        world.block_on(async { orders.publish("first").await.unwrap().await }).unwrap();
        world.settle();
        let mut stage = Self {
            events: client.events(),
            client: Some(client),
            world,
            scene,
            orders,
            jobs: Some(jobs),
            accepted: vec!["first".into()],
            offered: 1,
            cancelled: 0,
            keeps_one_waker: false,
            orders_closed: false,
            jobs_closed: false,
            at_poll: None,
            context: String::new(),
            jobs_there: false,
            channels: 0,
            consumers: 0,
            explained: 0,
        };
        (stage.channels, stage.consumers) = stage.at_the_broker();
        stage.explained = stage.explain().lines().count();
        if jobs_there {
            stage.put_jobs();
        }
        stage.begin();
        stage
    }

    fn put_jobs(&mut self) {
        if !std::mem::replace(&mut self.jobs_there, true) {
            for job in ["job 1", "job 2"] {
                self.world.net.broker(|broker, now| broker.put("jobs", &Message::from(job), now));
            }
            self.world.settle();
        }
    }

    pub fn client(&self) -> Client {
        self.client.clone().unwrap()
    }

    pub fn explain(&self) -> String {
        let text = self.client.as_ref().map(Client::explain).unwrap_or_default();
        text.lines()
            .filter(|line| !line.starts_with("next deadline"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn at_the_broker(&self) -> (usize, usize) {
        let connections = self.world.net.broker(|broker, _| broker.connections());
        let sum = |each: fn(&lavinmq_testing::ConnectionInfo) -> usize| {
            connections.iter().map(each).sum::<usize>()
        };
        (sum(|connection| connection.channels), sum(|connection| connection.consumers))
    }

    /// The trouble begins.
    fn begin(&mut self) {
        let net = self.world.net.clone();
        match self.scene {
            Scene::Calm => {}
            Scene::Offline => {
                net.refuse(true);
                net.cut();
            }
            Scene::Blocked | Scene::Full => net.broker(|broker, now| broker.block("memory", now)),
            Scene::Silent => net.broker(|broker, _| broker.hold_replies()),
            Scene::Stalled => net.stall(true),
            Scene::Unconfirmed => net.broker(|broker, _| broker.hold_confirms()),
        }
        self.world.settle();
        if self.scene == Scene::Full {
            // RabbitMQ blocks whoever publishes: it takes one to find out.
            for body in ["told", "second", "third"] {
                self.publish(body);
                self.world.settle();
            }
            assert_eq!(self.orders.buffer_size(), 2);
        }
    }

    /// The trouble is over.
    pub fn heal(&mut self) {
        let net = self.world.net.clone();
        net.refuse(false);
        net.stall(false);
        net.broker(|broker, now| {
            broker.unblock(now);
            broker.release_replies(false, now);
            broker.release_confirms(now);
        });
    }

    /// A message that is accepted at once.
    pub fn publish(&mut self, body: &str) {
        self.orders.try_publish(body).unwrap().detach();
        self.offered += 1;
        self.accepted.push(body.into());
    }

    /// Polls a future up to so many times, with one step of the world between two polls, and drops it.
    pub fn drop_after<F: Future>(&mut self, cut: &mut Cut, future: F) -> Option<F::Output> {
        let bell = Bell::new();
        let waker = Waker::from(bell.clone());
        let output = {
            let mut output = None;
            let mut future = pin!(future);
            for poll in 0..cut.polls {
                match poll {
                    3 => self.put_jobs(),
                    HEALED_AFTER => self.heal(),
                    _ => {}
                }
                if let Some(at_poll) = &mut self.at_poll {
                    at_poll(poll);
                }
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(ready) = polled {
                    output = Some(ready);
                    break;
                }
                if poll < HEALED_AFTER {
                    self.world.step();
                } else {
                    self.world.step_or_jump();
                }
            }
            output
        };
        drop(waker);
        self.put_jobs();
        cut.completed = output.is_some();
        // While what it waited for is still going on.
        self.world.settle();
        let kept = Arc::strong_count(&bell) - 1;
        let may = usize::from(self.keeps_one_waker && !cut.completed);
        assert!(kept <= may, "{}: {kept} wakers of the dropped future are kept", self.context);
        output
    }

    /// All is well again: everything accepted has its outcome, and nothing is left.
    pub fn finish(mut self) {
        let context = self.context.clone();
        self.heal();
        self.world.pass(Duration::from_secs(40));
        let (acked, bodies) = (self.acked(), self.world.net.bodies("jobs"));
        assert_eq!(acked + bodies.len() as u64, 2, "{context}: {acked} acked, there {bodies:?}");
        if let Some(client) = self.client.take() {
            let stats = client.stats().publish;
            assert!(stats.is_conserved(), "{context}: {stats:?}");
            assert_eq!(
                (stats.offered, stats.accepted, stats.cancelled),
                (self.offered, self.accepted.len() as u64, self.cancelled),
                "{context}: {stats:?}"
            );
            assert_eq!(
                (stats.waiting, stats.queued, stats.in_flight),
                (0, 0, 0),
                "{context}: {stats:?}"
            );
            self.client = Some(client.clone());
            let explained = self.explain();
            let gone = usize::from(self.orders_closed) + usize::from(self.jobs_closed);
            assert_eq!(explained.lines().count() + gone, self.explained, "{context}:\n{explained}");
            let (channels, consumers) = self.at_the_broker();
            // A producer's channel stays for the next producer.
            let jobs_closed = usize::from(self.jobs_closed);
            assert!(channels <= self.channels, "{context}: {channels} channels\n{explained}");
            assert_eq!(consumers + jobs_closed, self.consumers, "{context}\n{explained}");
            self.still_works(&client);
            let report = self.world.block_on(client.close());
            assert!(report.is_clean() || self.jobs_in_hand(report), "{context}: {report:?}");
        }
        assert_eq!(self.world.net.bodies("orders"), self.accepted, "{context}");
        self.world.settle();
        assert!(self.world.driver.is_none(), "{context}: the driver goes on");
        let connections = self.world.net.broker(|broker, _| broker.connections().len());
        assert_eq!(connections, 0, "{context}");
    }

    /// Deliveries that a row leaves with the application are nobody's fault.
    fn jobs_in_hand(&self, report: lavinmq_core::Report) -> bool {
        report.dropped == 0 && report.unknown == 0 && self.jobs_closed
    }

    fn still_works(&mut self, client: &Client) {
        let context = self.context.clone();
        let producer = self.world.block_on(client.producer("alive").confirm().open()).unwrap();
        self.world.block_on(async { producer.publish("alive").await.unwrap().await }).unwrap();
        let mut consumer = self.world.block_on(client.consumer("alive").open()).unwrap();
        let delivery = self.world.block_on(consumer.next()).unwrap();
        assert_eq!(delivery.body(), b"alive", "{context}");
        delivery.ack();
        self.world.block_on(consumer.close());
        assert!(self.world.block_on(producer.close()).is_clean());
        assert_eq!(self.world.net.bodies("alive"), [""; 0], "{context}");
        self.world.block_on(client.queue("orders").declare()).unwrap();
        if !self.jobs_closed {
            self.read_jobs();
        }
    }

    /// How many jobs the broker has seen acked.
    pub fn acked(&self) -> u64 {
        self.world.net.broker(|broker, _| broker.counters().acked)
    }

    /// Every job that the broker still has is delivered, once, whatever was dropped before.
    fn read_jobs(&mut self) {
        let mut jobs = self.jobs.take().unwrap();
        let mut expected = self.world.net.bodies("jobs");
        expected.sort();
        let mut bodies = Vec::new();
        while bodies.len() < expected.len() {
            let delivery = self.world.block_on(jobs.next()).unwrap();
            bodies.push(String::from_utf8_lossy(delivery.body()).into_owned());
            delivery.ack();
        }
        bodies.sort();
        assert_eq!(bodies, expected, "{}", self.context);
        self.world.block_on(jobs.settled());
        self.world.settle();
        assert_eq!(self.world.net.bodies("jobs"), [""; 0], "{}", self.context);
    }
}
