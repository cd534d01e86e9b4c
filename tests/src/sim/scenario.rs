//! What one seed means: a world and a list of operations, drawn before anything runs, so that it can
//! be printed, replayed and shrunk.

use std::time::Duration;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};
use lavinmq_testing::Personality;

use super::{
    pipe::{Conditions, Cut, Ending, Way},
    random::Random,
};

/// One world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed that it was drawn from.
    pub seed: u64,
    /// The broker to play.
    pub personality: Personality,
    /// The client's settings.
    pub client: ClientPlan,
    /// The network until it heals.
    pub conditions: Conditions,
    /// The queues, declared through the client at the start.
    pub queues: Vec<QueuePlan>,
    /// The producers.
    pub producers: Vec<ProducerPlan>,
    /// The consumers.
    pub consumers: Vec<ConsumerPlan>,
    /// Faults, in the order of their times.
    pub faults: Vec<(Duration, Fault)>,
    /// When faults end and everything heals.
    pub heals_at: Duration,
    /// How it ends.
    pub ending: EndingPlan,
}

/// The client's settings.
#[derive(Clone, Debug)]
pub struct ClientPlan {
    /// Zero is none; then no link falls silent, since nobody would notice.
    pub heartbeat: Duration,
    /// One or two.
    pub connections: u8,
    /// 4,096 or larger.
    pub frame_max: u32,
    /// The longest delay between attempts.
    pub max_delay: Duration,
    /// Whether messages get ids.
    pub message_ids: bool,
    /// Whether the first connect may fail (`connect_lazy`); the world always connects lazily, but
    /// waits for `ready` first if this is off.
    pub impatient: bool,
}

/// One queue.
#[derive(Clone, Debug)]
pub struct QueuePlan {
    /// Its name.
    pub name: String,
    /// The most messages; then publishes are rejected (nacked).
    pub rejects_over: Option<u32>,
}

/// One producer and its operations.
#[derive(Clone, Debug)]
pub struct ProducerPlan {
    /// The mode.
    pub mode: PublishMode,
    /// Where to.
    pub target: Target,
    /// The ring.
    pub buffer_size: usize,
    /// The ring, in bytes.
    pub buffer_bytes: usize,
    /// The window.
    pub max_in_flight: usize,
    /// What when full.
    pub policy: BufferPolicy,
    /// What when offline.
    pub when_offline: WhenOffline,
    /// How long a publish may wait.
    pub publish_timeout: Option<Duration>,
    /// How long a message may wait.
    pub ttl: Option<Duration>,
    /// How long a confirm may take.
    pub confirm_timeout: Option<Duration>,
    /// Whether confirmed messages are reported by a hook.
    pub hears_confirms: bool,
    /// One hook call in so many panics; 0: none.
    pub hook_panics_every: u64,
    /// Each task's operations; they share the producer.
    pub tasks: Vec<Vec<PublishOp>>,
}

/// Where a producer publishes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One of the queues, through the default exchange.
    Queue(usize),
    /// A queue that does not exist, through the default exchange: returned if mandatory.
    Nowhere,
    /// An exchange that does not exist: the broker closes the channel with 404.
    MissingExchange,
}

/// One operation of a producer's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOp {
    /// `publish(..).await`.
    Publish {
        /// The body's length.
        bytes: usize,
        /// What becomes of the receipt.
        receipt: ReceiptPlan,
    },
    /// `publish(..)`, dropped if it is still pending after so many polls or so long.
    Abandon {
        /// The body's length.
        bytes: usize,
        /// Polls before it is dropped.
        polls: u32,
        /// Time before it is dropped.
        patience: Duration,
    },
    /// `try_publish`.
    Try {
        /// The body's length.
        bytes: usize,
    },
    /// A message that no broker could take.
    Invalid,
    /// `flush().await`, given up after this long.
    Flush(Duration),
    /// Nothing for a while.
    Pause(Duration),
}

/// What becomes of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptPlan {
    /// Awaited before the next operation.
    AwaitNow,
    /// Awaited by a task of its own.
    AwaitLater,
    /// `detach()`.
    Detach,
    /// Polled once, then dropped.
    PollThenDrop,
    /// Dropped.
    Drop,
}

/// One consumer.
#[derive(Clone, Debug)]
pub struct ConsumerPlan {
    /// The queue's index.
    pub queue: usize,
    /// The prefetch.
    pub prefetch: u16,
    /// Whether the broker forgets what it sends.
    pub no_ack: bool,
    /// Out of 64 deliveries, those that are: requeued, rejected, held, dropped, settled through.
    pub habits: Habits,
    /// The delay before a forgotten delivery is requeued.
    pub requeue_delay: Duration,
    /// Closed at this time, and opened again after a second.
    pub reopens_at: Option<Duration>,
}

/// How many deliveries out of 64 are treated how, until everything heals; the rest is acked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Habits {
    /// `requeue()`.
    pub requeue: u64,
    /// `reject()`.
    pub reject: u64,
    /// Kept for a while, then acked.
    pub hold: u64,
    /// Dropped without being settled.
    pub forget: u64,
    /// `ack_through()`.
    pub ack_through: u64,
}

/// Something bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A connection is cut after so many more bytes.
    Cut {
        /// Which of those that stand.
        link: u64,
        /// How.
        cut: Cut,
    },
    /// A connection to come is cut, in its handshake perhaps.
    CutNext(Cut),
    /// A connection ends at once.
    End {
        /// Which of those that stand.
        link: u64,
        /// How.
        ending: Ending,
    },
    /// A connection falls silent.
    Silence {
        /// Which of those that stand.
        link: u64,
    },
    /// Connections are refused for so long.
    Refuse(Duration),
    /// A dial gets no answer.
    HangDial,
    /// The broker restarts: everything is closed and refused for so long.
    Restart {
        /// How long.
        down: Duration,
        /// By SIGKILL rather than in good order.
        kill: bool,
    },
    /// The broker blocks publishers for so long.
    Block(Duration),
    /// The broker closes every connection with 320.
    CloseConnections,
    /// A queue is deleted; it is declared again after a while.
    DeleteQueue(usize),
    /// The broker closes all channels of one connection.
    CloseChannels {
        /// With this code.
        code: u16,
        /// Whether it blames a publish.
        blames: bool,
    },
    /// The broker nacks the next publishes.
    Nack(u64),
    /// The broker keeps its confirms back for so long.
    HoldConfirms(Duration),
    /// RabbitMQ confirms singly and out of order, from now on.
    ReorderConfirms,
    /// The broker stops one connection's channels by channel.flow for so long.
    StopFlow(Duration),
    /// The broker reads nothing for so long.
    Stall(Duration),
}

/// How a world ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingPlan {
    /// Everything heals, everything is settled, then `shutdown`.
    Calm,
    /// `shutdown` at the height of the faults, with a short deadline.
    Abrupt,
    /// Every handle is dropped at the height of the faults.
    Dropped,
}

impl Scenario {
    /// Draws a world.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let root = Random::new(seed);
        let mut random = root.split("scenario");
        let heals_at = Duration::from_millis(random.range(8_000, 30_000));
        let heartbeat = random.pick(&[0, 1, 1, 2, 10]);
        let client = ClientPlan {
            heartbeat: Duration::from_secs(heartbeat),
            connections: random.pick(&[1, 2, 2, 2]),
            frame_max: random.pick(&[4096, 4096, 131_072]),
            max_delay: Duration::from_millis(random.pick(&[200, 1000, 5000])),
            message_ids: random.chance(7, 8),
            impatient: random.chance(1, 2),
        };
        let conditions = Conditions {
            chunk: random.pick(&[8, 64, 700, 700, 1 << 16]).max(random.range(1, 64) as usize),
            capacity: random.pick(&[200, 4096, 1 << 16, 1 << 18]),
            latency: Duration::from_micros(random.pick(&[50, 1_000, 5_000, 20_000])),
            spurious: random.pick(&[0, 0, 4, 16]),
            buffers: random.chance(1, 3),
        };
        let queues = draw_queues(&mut root.split("queues"));
        let producers = draw_producers(&mut root.split("producers"), &queues, heals_at);
        let consumers = draw_consumers(&mut root.split("consumers"), &queues, heals_at);
        let faults = draw_faults(&mut root.split("faults"), heals_at, heartbeat > 0, queues.len());
        let ending = random.pick(&[
            EndingPlan::Calm,
            EndingPlan::Calm,
            EndingPlan::Calm,
            EndingPlan::Calm,
            EndingPlan::Calm,
            EndingPlan::Calm,
            EndingPlan::Abrupt,
            EndingPlan::Dropped,
        ]);
        let personality = random.pick(&[Personality::LavinMq, Personality::RabbitMq]);
        let quiet = random.chance(1, 16);
        let scenario = Self {
            seed,
            personality,
            client,
            conditions,
            queues,
            producers,
            consumers,
            faults,
            heals_at,
            ending,
        };
        if quiet { scenario.without_faults() } else { scenario }
    }

    /// The same without faults, in a good network, and without heartbeats: a world in which nothing
    /// ever happens by itself, so that whoever is not woken waits for ever.
    #[must_use]
    pub fn without_faults(mut self) -> Self {
        self.faults.clear();
        self.conditions = Conditions::calm();
        self.client.heartbeat = Duration::ZERO;
        self.ending = EndingPlan::Calm;
        self
    }

    /// The routing key that a producer publishes with.
    #[must_use]
    pub fn routing_key(&self, producer: usize) -> String {
        match self.producers[producer].target {
            Target::Queue(queue) => self.queues[queue].name.clone(),
            Target::Nowhere => format!("nowhere-{producer}"),
            Target::MissingExchange => format!("key-{producer}"),
        }
    }

    /// Whether anybody deletes this queue.
    #[must_use]
    pub fn deletes(&self, queue: usize) -> bool {
        self.faults.iter().any(|(_, fault)| *fault == Fault::DeleteQueue(queue))
    }

    /// Whether the broker restarts.
    #[must_use]
    pub fn restarts(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Restart { .. }))
    }
}

fn draw_queues(random: &mut Random) -> Vec<QueuePlan> {
    (0..random.range(1, 3))
        .map(|n| QueuePlan {
            name: format!("q{n}"),
            rejects_over: random.chance(1, 6).then(|| random.range(1, 20) as u32),
        })
        .collect()
}

fn draw_producers(
    random: &mut Random,
    queues: &[QueuePlan],
    heals_at: Duration,
) -> Vec<ProducerPlan> {
    let count = random.range(2, 5);
    (0..count)
        .map(|n| {
            // Both modes in every world.
            let mode = match n {
                0 => PublishMode::FireAndForget,
                1 => PublishMode::Confirm,
                _ => random.pick(&[PublishMode::FireAndForget, PublishMode::Confirm]),
            };
            let confirm = mode == PublishMode::Confirm;
            let target = match random.below(24) {
                0 => Target::Nowhere,
                1 if n >= 2 => Target::MissingExchange,
                _ => Target::Queue(random.index(queues.len())),
            };
            let small_ring = random.chance(1, 2);
            let small_window = random.chance(1, 3);
            let policy = random.pick(&[
                BufferPolicy::Block,
                if confirm { BufferPolicy::Block } else { BufferPolicy::DropOldest },
                BufferPolicy::Error,
                BufferPolicy::DropOldest,
            ]);
            let millis =
                |random: &mut Random, low, high| Duration::from_millis(random.range(low, high));
            let tasks = if random.chance(1, 4) { 2 } else { 1 };
            let mut plan = ProducerPlan {
                mode,
                target,
                buffer_size: if small_ring { random.range(1, 16) as usize } else { 1000 },
                buffer_bytes: if random.chance(1, 6) {
                    random.range(50, 10_000) as usize
                } else {
                    64 << 20
                },
                max_in_flight: if small_window { random.range(1, 4) as usize } else { 1000 },
                policy,
                when_offline: if random.chance(1, 6) {
                    WhenOffline::Fail
                } else {
                    WhenOffline::Buffer
                },
                publish_timeout: random.chance(1, 6).then(|| millis(random, 1, 2000)),
                ttl: random.chance(1, 8).then(|| millis(random, 1, 3000)),
                confirm_timeout: random.chance(1, 8).then(|| millis(random, 300, 5000)),
                hears_confirms: random.chance(2, 3),
                hook_panics_every: if random.chance(1, 8) { random.range(1, 50) } else { 0 },
                tasks: Vec::new(),
            };
            if plan.target == Target::MissingExchange {
                plan.max_in_flight = plan.max_in_flight.min(8);
            }
            plan.tasks =
                (0..tasks).map(|_| draw_publishes(random, &plan, tasks, heals_at)).collect();
            plan
        })
        .collect()
}

fn draw_publishes(
    random: &mut Random,
    plan: &ProducerPlan,
    tasks: u64,
    heals_at: Duration,
) -> Vec<PublishOp> {
    let count = if plan.target == Target::MissingExchange {
        random.range(1, 6)
    } else {
        random.range(100, 400) / tasks
    };
    // Spread over the time in which things go wrong, and a little beyond.
    let millis = u64::try_from(heals_at.as_millis()).unwrap_or(u64::MAX);
    let pauses = (count / 6).max(16);
    let pause = (millis * 11 / 10 / pauses).max(1) * 2;
    (0..count)
        .map(|_| {
            let bytes = match random.below(40) {
                0 => 0,
                1 => random.range(65, 3000) as usize,
                2 => random.range(4_000, 5_000) as usize,
                3 if random.chance(1, 3) => random.range(8_000, 30_000) as usize,
                _ => random.range(1, 80) as usize,
            };
            match random.below(60) {
                0..10 => PublishOp::Pause(Duration::from_millis(random.below(pause))),
                10 => PublishOp::Flush(Duration::from_millis(random.range(1, 3000))),
                11 => PublishOp::Invalid,
                12..15 => PublishOp::Abandon {
                    bytes,
                    polls: random.range(1, 3) as u32,
                    patience: Duration::from_millis(random.range(1, 500)),
                },
                15..20 => PublishOp::Try { bytes },
                _ => PublishOp::Publish {
                    bytes,
                    receipt: random.pick(&[
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitNow,
                        ReceiptPlan::Detach,
                        ReceiptPlan::PollThenDrop,
                        ReceiptPlan::Drop,
                    ]),
                },
            }
        })
        .collect()
}

fn draw_consumers(
    random: &mut Random,
    queues: &[QueuePlan],
    heals_at: Duration,
) -> Vec<ConsumerPlan> {
    // Every queue has a consumer, so that all is drained in the end; some have two.
    let extra = random.index(queues.len() + 1);
    (0..queues.len() + extra)
        .map(|n| {
            let odd = random.chance(1, 2);
            let mut habit = |most| if odd { random.below(most) } else { 0 };
            let habits = Habits {
                requeue: habit(6),
                reject: habit(4),
                hold: habit(10),
                forget: habit(4),
                ack_through: habit(6),
            };
            ConsumerPlan {
                queue: n % queues.len(),
                prefetch: random.pick(&[1, 2, 3, 100]),
                no_ack: random.chance(1, 8),
                habits,
                requeue_delay: Duration::from_millis(random.pick(&[0, 1, 100])),
                reopens_at: random
                    .chance(1, 6)
                    .then(|| heals_at * random.range(10, 90) as u32 / 100),
            }
        })
        .collect()
}

fn draw_faults(
    random: &mut Random,
    heals_at: Duration,
    may_be_silent: bool,
    queues: usize,
) -> Vec<(Duration, Fault)> {
    // Swarm: each world turns some kinds off, so that others are not drowned.
    let kinds: Vec<u64> = (3..18).filter(|_| random.chance(1, 2)).collect();
    let millis = u64::try_from(heals_at.as_millis()).unwrap_or(u64::MAX);
    let mut faults: Vec<_> = (0..random.range(6, 16))
        .filter_map(|_| {
            let early = if random.chance(1, 8) { 1 } else { 500 };
            let at = Duration::from_millis(random.range(early, millis));
            let ending = random.pick(&[Ending::Eof, Ending::Reset]);
            let after = match random.below(3) {
                0 => random.below(40),
                1 => random.below(600),
                _ => random.below(6000),
            };
            let cut = Cut {
                way: random.pick(&[Way::Up, Way::Up, Way::Down]),
                after,
                ending,
                takes_more: random.chance(1, 2),
            };
            let link = random.bits();
            let down = Duration::from_millis(random.range(1, 3000));
            let kind =
                if random.chance(1, 2) || kinds.is_empty() { 0 } else { random.pick(&kinds) };
            let fault = match kind {
                0 => Fault::Cut { link, cut },
                3 => Fault::CutNext(cut),
                4 => Fault::End { link, ending },
                5 if may_be_silent => Fault::Silence { link },
                6 => Fault::Refuse(down),
                7 => Fault::HangDial,
                8 => Fault::Restart { down, kill: random.chance(1, 2) },
                9 => Fault::Block(down * 2),
                10 => Fault::CloseConnections,
                11 => Fault::DeleteQueue(random.index(queues)),
                12 => Fault::CloseChannels {
                    code: random.pick(&[404, 406, 311]),
                    blames: random.chance(1, 2),
                },
                13 => Fault::Stall(down),
                14 => Fault::Nack(random.range(1, 5)),
                15 => Fault::HoldConfirms(down),
                16 => Fault::ReorderConfirms,
                17 => Fault::StopFlow(down),
                _ => return None,
            };
            Some((at, fault))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_means_the_same_world() {
        assert_eq!(format!("{:?}", Scenario::draw(7)), format!("{:?}", Scenario::draw(7)));
        assert_ne!(format!("{:?}", Scenario::draw(7)), format!("{:?}", Scenario::draw(8)));
    }

    #[test]
    fn worlds_are_of_every_kind() {
        let worlds: Vec<_> = (0..300).map(Scenario::draw).collect();
        for ending in [EndingPlan::Calm, EndingPlan::Abrupt, EndingPlan::Dropped] {
            assert!(worlds.iter().any(|world| world.ending == ending));
        }
        for target in [Target::Queue(0), Target::Nowhere, Target::MissingExchange] {
            assert!(worlds.iter().any(|w| w.producers.iter().any(|p| p.target == target)));
        }
        assert!(worlds.iter().any(|world| world.restarts()));
        assert!(worlds.iter().any(|world| world.deletes(0)));
        assert!(worlds.iter().all(|world| world.faults.is_sorted_by_key(|(at, _)| *at)));
    }
}
