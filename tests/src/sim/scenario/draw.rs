//! How a world is drawn from its seed.

use std::time::Duration;

use lavinmq_core::config::{BufferPolicy, PublishMode, WhenOffline};
use lavinmq_testing::Personality;

use super::{
    ClientPlan, ClosePlan, ConsumerPlan, DeclarePlan, EndingPlan, Fault, Habits, ProducerPlan,
    PublishOp, QueuePlan, ReceiptPlan, Scenario, Style, Target,
};
use crate::sim::{
    pipe::{Conditions, Cut, Ending, Way},
    random::Random,
};

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
            capacity: random.pick(&[200, 200, 4096, 4096, 1 << 16, 1 << 16, 1 << 18, 0]),
            latency: Duration::from_micros(random.pick(&[50, 1_000, 5_000, 20_000])),
            spurious: random.pick(&[0, 0, 4, 16]),
            buffers: random.chance(1, 3),
        };
        let mut conditions = conditions;
        // Hardly any room: then there are fewer messages.
        let narrow = conditions.capacity == 0;
        if narrow {
            conditions.capacity = random.range(1, 64) as usize;
        }
        let queues = draw_queues(&mut root.split("queues"));
        let mut producers = draw_producers(&mut root.split("producers"), &queues, heals_at);
        if narrow {
            let tasks = producers.iter_mut().flat_map(|plan| &mut plan.tasks);
            tasks.for_each(|ops| ops.truncate(40));
        }
        let declares = draw_declares(&mut root.split("declares"), heals_at);
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
            declares,
            faults,
            heals_at,
            ending,
        };
        if quiet { scenario.without_faults() } else { scenario }
    }
}

fn draw_queues(random: &mut Random) -> Vec<QueuePlan> {
    (0..random.range(1, 3))
        .map(|n| QueuePlan {
            name: format!("q{n}"),
            rejects_over: random.chance(1, 6).then(|| random.range(1, 20) as u32),
            transient: random.chance(1, 6),
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
                mandatory: random.chance(7, 8),
                closes: draw_close(random, heals_at, n),
                tasks: Vec::new(),
            };
            if plan.target == Target::MissingExchange {
                plan.max_in_flight = plan.max_in_flight.min(8);
            }
            plan.tasks = (0..tasks)
                .map(|_| draw_publishes(random, &plan, tasks, heals_at, queues.len()))
                .collect();
            plan
        })
        .collect()
}

/// Only producers beyond the first two, one of each mode, are closed on the way.
fn draw_close(
    random: &mut Random,
    heals_at: Duration,
    number: u64,
) -> Option<(Duration, ClosePlan)> {
    let at = heals_at * random.range(10, 90) as u32 / 100;
    let how = if random.chance(1, 2) {
        ClosePlan::Drain
    } else {
        ClosePlan::Abandon(Duration::from_millis(random.below(500)))
    };
    (random.chance(1, 4) && number >= 2).then_some((at, how))
}

fn draw_declares(random: &mut Random, heals_at: Duration) -> Vec<DeclarePlan> {
    let count = if random.chance(1, 2) { random.range(1, 4) } else { 0 };
    let mut all: Vec<_> = (0..count)
        .map(|n| {
            let millis = |random: &mut Random, most| Duration::from_millis(random.below(most));
            DeclarePlan {
                at: heals_at * random.range(5, 95) as u32 / 100,
                name: format!("extra{n}"),
                exclusive: random.chance(1, 4),
                patience: random.chance(1, 2).then(|| millis(random, 30)),
                deleted_after: random.chance(1, 3).then(|| millis(random, 3000)),
            }
        })
        .collect();
    all.sort_by_key(|plan| plan.at);
    all
}

fn draw_publishes(
    random: &mut Random,
    plan: &ProducerPlan,
    tasks: u64,
    heals_at: Duration,
    queues: usize,
) -> Vec<PublishOp> {
    let count = if plan.target == Target::MissingExchange {
        random.range(1, 6)
    } else {
        random.range(100, 400) / tasks
    };
    // Some use keys of their own.
    let elsewhere =
        if plan.target != Target::MissingExchange && random.chance(1, 6) { 15 } else { 0 };
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
                n => {
                    let receipt = random.pick(&[
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitLater,
                        ReceiptPlan::AwaitNow,
                        ReceiptPlan::Detach,
                        ReceiptPlan::PollThenDrop,
                        ReceiptPlan::Drop,
                    ]);
                    if n < 20 + elsewhere {
                        PublishOp::PublishTo { queue: random.index(queues), bytes, receipt }
                    } else {
                        PublishOp::Publish { bytes, receipt }
                    }
                }
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
                prefetch: random.pick(&[1, 1, 2, 3, 100]),
                no_ack: random.chance(1, 8),
                habits,
                requeue_delay: Duration::from_millis(random.pick(&[0, 1, 100])),
                style: match random.below(4) {
                    0 => Style::Batch {
                        most: random.range(1, 8) as usize,
                        linger: Duration::from_millis(random.below(20)),
                    },
                    1 => Style::Run {
                        concurrency: random.range(1, 4) as usize,
                        rejects: random.chance(1, 4),
                    },
                    _ => Style::Next,
                },
                reopens_at: {
                    let times = if random.chance(1, 4) { random.range(1, 3) } else { 0 };
                    let mut all: Vec<_> =
                        (0..times).map(|_| heals_at * random.range(10, 90) as u32 / 100).collect();
                    all.sort_unstable();
                    all
                },
                drops: random.chance(1, 3),
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
    let kinds: Vec<u64> = (3..19).filter(|_| random.chance(1, 2)).collect();
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
                10 => Fault::CloseConnections(
                    random.pick(&[320, 320, 320, 501, 502, 503, 504, 505, 506, 530, 540, 541]),
                ),
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
                18 => Fault::RepeatConfirms,
                _ => return None,
            };
            Some((at, fault))
        })
        .collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}
