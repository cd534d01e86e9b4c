//! The load: producers of both modes and all policies; what they share with the consumers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::FutureExt as _;
use lavinmq_core::{
    BufferPolicy, Client, Confirm, Delivery, FireAndForget, Message, Producer, ProducerBuilder,
    ProducerStats, PublishError, Receipt, Received, Settled, WhenOffline, error::OpenError,
    types::AMQPValue,
};

use super::ledger::{Heard, Ledger, Mode, Violations, body, parse};
use crate::{runtimes::Rt, sim::random::Random};

/// Which queue of the run a producer publishes to, and who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A stream of deliveries: acked, now and then requeued, forgotten, held and acked together.
    Manual,
    /// `Consumer::run`, with a handler that fails now and then.
    Handler,
    /// `next_batch`, settled as a whole, or backwards.
    Batches,
    /// A consumer that acks nothing: what it loses is lost.
    NoAck,
    /// Nobody: the witness reads it at the end.
    Kept,
}

impl Target {
    pub const ALL: [Self; 5] =
        [Self::Manual, Self::Handler, Self::Batches, Self::NoAck, Self::Kept];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Handler => "handler",
            Self::Batches => "batches",
            Self::NoAck => "no-ack",
            Self::Kept => "kept",
        }
    }

    /// Whether our consumers empty it.
    pub const fn is_consumed(self) -> bool {
        !matches!(self, Self::Kept)
    }
}

/// One producer of the load.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub mode: Mode,
    policy: BufferPolicy,
    pub target: Target,
    when_offline: WhenOffline,
    buffer: usize,
    ttl: Option<Duration>,
    max_in_flight: usize,
    /// Its part of the rate, in percent.
    share: u64,
}

impl Spec {
    const fn new(
        name: &'static str,
        mode: Mode,
        policy: BufferPolicy,
        target: Target,
        share: u64,
    ) -> Self {
        let when_offline = WhenOffline::Buffer;
        let (buffer, max_in_flight) = (1000, 500);
        Self { name, mode, policy, target, when_offline, buffer, ttl: None, max_in_flight, share }
    }

    /// The producers of a run. Their place is the number in their bodies.
    pub fn all() -> Vec<Self> {
        use BufferPolicy::{Block, DropOldest, Error};
        use Mode::{Confirm, FireAndForget};
        let mut specs = vec![
            Self::new("confirm-block", Confirm, Block, Target::Manual, 25),
            Self::new("confirm-error", Confirm, Error, Target::Handler, 10),
            Self::new("confirm-drop-oldest", Confirm, DropOldest, Target::Batches, 10),
            Self::new("confirm-ttl", Confirm, Block, Target::Batches, 5),
            Self::new("confirm-small", Confirm, Block, Target::Handler, 10),
            Self::new("confirm-kept", Confirm, Block, Target::Kept, 5),
            Self::new("forget-drop-oldest", FireAndForget, DropOldest, Target::Manual, 10),
            Self::new("forget-block", FireAndForget, Block, Target::Batches, 5),
            Self::new("forget-error", FireAndForget, Error, Target::Handler, 5),
            Self::new("forget-online", FireAndForget, Block, Target::NoAck, 10),
            Self::new("forget-kept", FireAndForget, DropOldest, Target::Kept, 5),
        ];
        for spec in &mut specs {
            match spec.name {
                "confirm-ttl" => spec.ttl = Some(Duration::from_millis(1500)),
                "confirm-small" => (spec.buffer, spec.max_in_flight) = (16, 4),
                "confirm-drop-oldest" => spec.buffer = 200,
                "forget-drop-oldest" => spec.buffer = 100,
                "forget-online" => spec.when_offline = WhenOffline::Fail,
                _ => {}
            }
        }
        specs
    }

    fn build<M: lavinmq_core::Mode>(
        &self,
        builder: ProducerBuilder<M>,
        ledger: &Arc<Ledger>,
        sabotage: Option<Sabotage>,
    ) -> ProducerBuilder<M> {
        let mut builder = with_hooks(builder, ledger, sabotage)
            .buffer_policy(self.policy)
            .buffer_size(self.buffer)
            .buffer_bytes(BUFFER_BYTES)
            .when_offline(self.when_offline);
        if let Some(ttl) = self.ttl {
            builder = builder.ttl(ttl);
        }
        builder
    }

    pub async fn open(
        &self,
        client: &Client,
        ledger: &Arc<Ledger>,
        sabotage: Option<Sabotage>,
    ) -> Result<AnyProducer, OpenError> {
        let builder = self.build(client.producer(&*ledger.queue), ledger, sabotage);
        Ok(match self.mode {
            Mode::FireAndForget => AnyProducer::Forget(builder.open().await?),
            Mode::Confirm => AnyProducer::Confirm(
                builder.confirm().max_in_flight(self.max_in_flight).open().await?,
            ),
        })
    }
}

/// What one producer's buffer may take at most: all of them together bound what memory may grow by.
pub const BUFFER_BYTES: usize = 1 << 20;

fn with_hooks<M: lavinmq_core::Mode>(
    builder: ProducerBuilder<M>,
    ledger: &Arc<Ledger>,
    sabotage: Option<Sabotage>,
) -> ProducerBuilder<M> {
    let deaf = sabotage == Some(Sabotage::MissOne);
    let hook = || {
        let ledger = Arc::clone(ledger);
        move |settled: &Settled| match parse(settled.message.body()) {
            Some((id, number)) if deaf && Sabotage::MissOne.strikes(id, number) => {}
            Some((id, number)) if id == ledger.id => {
                ledger.hook(number, Heard::of(settled.verdict.as_ref()));
            }
            other => panic!("{}: a hook with another's message: {other:?}", ledger.name),
        }
    };
    builder.on_confirm(hook()).on_nack(hook()).on_return(hook()).on_error(hook()).on_drop(hook())
}

/// A producer of either mode.
pub enum AnyProducer {
    Forget(Producer<FireAndForget>),
    Confirm(Producer<Confirm>),
}

impl AnyProducer {
    pub fn stats(&self) -> ProducerStats {
        match self {
            Self::Forget(producer) => producer.stats(),
            Self::Confirm(producer) => producer.stats(),
        }
    }

    pub async fn flush(&self) {
        match self {
            Self::Forget(producer) => producer.flush().await,
            Self::Confirm(producer) => producer.flush().await,
        }
    }

    /// Publishes until the load is over, about so many messages a second.
    pub async fn publish<R: Rt>(
        &self,
        spec: &Spec,
        ledger: &Ledger,
        control: &LoadControl,
        mut random: Random,
    ) {
        let rate = (control.rate * spec.share / 100).max(1);
        let mut receipts = VecDeque::new();
        while !control.over.load(Relaxed) {
            let burst = random.range(1, 40);
            if !control.paused.load(Relaxed) {
                for _ in 0..burst {
                    match self {
                        Self::Forget(producer) => {
                            publish_one(producer, ledger, control, &mut random).await;
                        }
                        Self::Confirm(producer) => {
                            let receipt = publish_one(producer, ledger, control, &mut random).await;
                            receipts.extend(receipt);
                        }
                    }
                }
                note(&mut receipts, 2000, ledger, &mut random).await;
            }
            let pause = random.range(burst * 500_000 / rate, burst * 1_500_000 / rate);
            R::sleep(Duration::from_micros(pause)).await;
        }
        note(&mut receipts, 0, ledger, &mut random).await;
    }
}

/// Notes what the receipts say that are settled, and awaits the oldest until `most` are left. Some
/// are dropped, which changes nothing.
async fn note(
    receipts: &mut VecDeque<(u64, Receipt)>,
    most: usize,
    ledger: &Ledger,
    random: &mut Random,
) {
    while receipts.len() > most || receipts.front().is_some_and(|(_, receipt)| receipt.is_settled())
    {
        let Some((number, receipt)) = receipts.pop_front() else { break };
        if random.chance(1, 16) {
            receipt.detach();
            continue;
        }
        let heard = match receipt.await {
            Ok(()) => Heard::Confirmed,
            Err(error) => Heard::of(Some(&error.verdict)),
        };
        ledger.receipt(number, heard);
    }
}

/// Publishes one message, in one of the ways there are. What came of it, if it was accepted.
async fn publish_one<M: lavinmq_core::Mode>(
    producer: &Producer<M>,
    ledger: &Ledger,
    control: &LoadControl,
    random: &mut Random,
) -> Option<(u64, M::Accepted)> {
    let number = ledger.offer();
    let length = match random.below(1000) {
        0 => random.range(100_000, 300_000),
        1..20 => random.range(3_000, 20_000),
        _ => random.range(16, 300),
    };
    let sent = body(ledger.id, number, length as usize);
    let message = Message::from(sent.clone()).persistent(true);
    let result = match random.below(32) {
        0 | 1 => producer.try_publish(message),
        2 => {
            // Dropped while it waits: then it was never published.
            let mut publish = producer.publish(message);
            match (&mut publish).now_or_never() {
                Some(result) => result,
                None => {
                    if publish.into_message().is_none_or(|message| message.body() != sent) {
                        control.violations.add(format!("{}: {number} not given back", ledger.name));
                    }
                    return None;
                }
            }
        }
        _ => producer.publish(message).await,
    };
    match result {
        Ok(accepted) => {
            ledger.accept(number);
            Some((number, accepted))
        }
        Err(error) => {
            if error.message().body() != sent {
                control.violations.add(format!("{}: another message came back", ledger.name));
            }
            if matches!(error, PublishError::Closed(_) | PublishError::Invalid(..)) {
                control.violations.add(format!("{}: {number} refused: {error}", ledger.name));
            }
            None
        }
    }
}

/// Producers that come and go: opened, used, closed, until the load is over.
pub async fn visits<R: Rt>(
    client: &Client,
    ledger: &Arc<Ledger>,
    control: &LoadControl,
    mut random: Random,
) -> ProducerStats {
    let mut stats = ProducerStats::default();
    while !control.over.load(Relaxed) {
        R::sleep(Duration::from_millis(random.range(100, 1000))).await;
        if control.paused.load(Relaxed) {
            continue;
        }
        let builder = with_hooks(client.producer(&*ledger.queue).confirm(), ledger, None);
        // While the broker is away, it may not be opened in time.
        let Ok(producer) = builder.open().await else { continue };
        let mut receipts = VecDeque::new();
        for _ in 0..random.range(1, 20) {
            receipts.extend(publish_one(&producer, ledger, control, &mut random).await);
        }
        producer.shutdown(Duration::from_secs(300)).await;
        note(&mut receipts, 0, ledger, &mut random).await;
        stats.add(&producer.stats());
    }
    stats
}

/// What steers the load.
#[derive(Debug)]
pub struct LoadControl {
    /// Messages a second, all producers together.
    pub rate: u64,
    /// Publishing stops for a while.
    pub paused: AtomicBool,
    /// Publishing ends.
    pub over: AtomicBool,
    /// Consumers ack whatever comes.
    pub draining: AtomicBool,
    /// What the manual consumer holds, to ack it together with later ones.
    pub held: Mutex<Vec<Delivery>>,
    pub received: AtomicU64,
    pub violations: Arc<Violations>,
    pub ledgers: Vec<Arc<Ledger>>,
    pub sabotage: Option<Sabotage>,
}

/// A defect on purpose, to see that the accounts show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// One message of the first producer is thrown away as it arrives.
    SkipOne,
    /// What a hook says of one message of the first producer is not heard.
    MissOne,
    /// One copy of the first producer's counts twice.
    CountTwice,
}

impl Sabotage {
    /// The message that it strikes.
    pub const MESSAGE: u64 = 1000;

    const fn strikes(self, producer: u16, number: u64) -> bool {
        producer == 0 && number == Self::MESSAGE
    }
}

impl LoadControl {
    /// Notes a copy that a consumer received.
    pub fn saw(&self, order: &Order, received: &Received) {
        self.received.fetch_add(1, Relaxed);
        let attempt = received.properties().ok().and_then(|properties| {
            let headers = properties.headers().as_ref()?;
            match headers.inner().get("x-attempt")? {
                AMQPValue::LongInt(attempt) => Some(i64::from(*attempt)),
                AMQPValue::LongLongInt(attempt) => Some(*attempt),
                _ => None,
            }
        });
        self.note(order, received.body(), attempt, received.redelivered());
    }

    /// Notes a copy, whoever read it.
    pub fn note(&self, order: &Order, body: &[u8], attempt: Option<i64>, redelivered: bool) {
        let ours =
            parse(body).and_then(|(id, number)| Some((self.ledgers.get(usize::from(id))?, number)));
        let Some((ledger, number)) = ours else {
            let start = &body[..body.len().min(30)];
            self.violations.add(format!("a body that nobody sent: {start:?}"));
            return;
        };
        match self.sabotage.filter(|sabotage| sabotage.strikes(ledger.id, number)) {
            Some(Sabotage::SkipOne) => return,
            Some(Sabotage::CountTwice) => ledger.saw(number, attempt, redelivered),
            Some(Sabotage::MissOne) | None => {}
        }
        if ledger.queue != order.queue {
            self.violations.add(format!("{} {number} in queue {}", ledger.name, order.queue));
        }
        ledger.saw(number, attempt, redelivered);
        if attempt.is_none() && !redelivered {
            let before = order.last.lock().unwrap().insert(ledger.id, number);
            if before.is_some_and(|before| before >= number) {
                let before = before.unwrap_or_default();
                self.violations
                    .add(format!("{}: {number} came after {before}, first copies", ledger.name));
            }
        }
    }
}

/// The order of first copies in one queue, by producer.
#[derive(Debug, Default)]
pub struct Order {
    queue: String,
    last: Mutex<HashMap<u16, u64>>,
}

impl Order {
    pub fn of(queue: &str) -> Self {
        Self { queue: queue.to_owned(), last: Mutex::default() }
    }
}
