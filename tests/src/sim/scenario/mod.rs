//! What one seed means: a world and a list of operations, drawn before anything runs, so that it can
//! be printed, replayed and shrunk. `draw` draws them.

mod compare;
mod describe;
mod draw;

use std::time::Duration;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};
use lavinmq_testing::Personality;

pub use self::compare::Place;
use super::pipe::{Conditions, Cut, Ending};

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
    /// Queues that are declared on the way, in the order of their times.
    pub declares: Vec<DeclarePlan>,
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
    /// Whether a broker that restarts forgets it.
    pub transient: bool,
}

/// A queue declared on the way, that nobody publishes to.
#[derive(Clone, Debug)]
pub struct DeclarePlan {
    /// When.
    pub at: Duration,
    /// Its name.
    pub name: String,
    /// Whether it belongs to its connection.
    pub exclusive: bool,
    /// The application gives up after so long.
    pub patience: Option<Duration>,
    /// The broker deletes it after so long.
    pub deleted_after: Option<Duration>,
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
    /// Whether the broker returns what no queue wants.
    pub mandatory: bool,
    /// When, and how, it is closed while others go on.
    pub closes: Option<(Duration, ClosePlan)>,
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
    /// `publish_to(..).await`, to another queue.
    PublishTo {
        /// The queue's index.
        queue: usize,
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
    /// How it takes its deliveries.
    pub style: Style,
    /// Closed at these times, in their order, and opened again.
    pub reopens_at: Vec<Duration>,
    /// Whether it is dropped instead of closed.
    pub drops: bool,
}

/// How a consumer takes its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `next().await`.
    Next,
    /// `next_batch(..).await`.
    Batch {
        /// The most deliveries.
        most: usize,
        /// How long it waits for them.
        linger: Duration,
    },
    /// `run(..)`, with a handler that fails or panics instead of rejecting and forgetting.
    Run {
        /// Handlers at the same time.
        concurrency: usize,
        /// Whether failure rejects.
        rejects: bool,
    },
}

/// How a producer is closed while others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosePlan {
    /// With all the time in the world.
    Drain,
    /// With so much time.
    Abandon(Duration),
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
    /// The broker closes every connection with this code.
    CloseConnections(u16),
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
    /// The broker confirms again what it confirmed last, on every channel.
    RepeatConfirms,
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

impl ProducerPlan {
    /// Whether it may be closed with messages left.
    #[must_use]
    pub const fn abandons(&self) -> bool {
        matches!(self.closes, Some((_, ClosePlan::Abandon(_))))
    }
}

impl Scenario {
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

    /// The queue that a message of this producer is meant for; `own` if it is not the producer's.
    #[must_use]
    pub fn target_queue(&self, producer: usize, own: Option<usize>) -> Option<&str> {
        let queue = match (own, &self.producers[producer].target) {
            (Some(queue), _) => queue,
            (None, Target::Queue(queue)) => *queue,
            (None, Target::Nowhere | Target::MissingExchange) => return None,
        };
        self.queues.get(queue).map(|queue| queue.name.as_str())
    }

    /// Whether an application forgets deliveries, or fails to handle them.
    #[must_use]
    pub fn forgets(&self) -> bool {
        self.consumers.iter().any(|plan| {
            plan.habits.forget > 0
                || (plan.style != Style::Next && plan.habits != Habits::default())
        })
    }

    /// Whether this queue may not be there for a while; none is never there.
    #[must_use]
    pub fn may_be_missing(&self, queue: Option<&str>) -> bool {
        let index = self.queues.iter().position(|plan| Some(plan.name.as_str()) == queue);
        index.is_none_or(|index| {
            self.deletes(index) || (self.queues[index].transient && self.restarts())
        })
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
