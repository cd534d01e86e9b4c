//! What an application does with its messages, over and over.

use std::{
    collections::VecDeque,
    fmt,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use lavinmq_core::{
    Client, Confirm, Consumer, FireAndForget, Manual, NoAck, Options, Producer, Receipt,
    driver::with_driver,
};

use crate::{
    apart::measure,
    executor::Executor,
    network::{Events, Network},
    transport::Counted,
};

/// The most unconfirmed messages of the pipelined modes.
const WINDOW: usize = 1_000;

/// A mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Its name, in the table and on the command line.
    pub name: &'static str,
    /// Bytes of a body.
    size: usize,
    /// Messages that are measured. As many come before, to warm up.
    pub messages: u64,
    work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// From so many tasks, each with a producer of its own.
    Publish {
        tasks: u64,
    },
    /// At most [`WINDOW`] unconfirmed, receipts in a queue, the oldest is awaited.
    ConfirmByReceipt,
    /// The same window, a hook hears the outcomes.
    ConfirmByHook,
    ConfirmOneByOne,
    ConsumeNoAck,
    ConsumeAck {
        prefetch: u16,
    },
}

const fn mode(name: &'static str, size: usize, messages: u64, work: Work) -> Mode {
    Mode { name, size, messages, work }
}

/// All modes.
pub const MODES: [Mode; 12] = [
    mode("publish", 16, 20_000, Work::Publish { tasks: 1 }),
    mode("publish-4-tasks", 16, 20_000, Work::Publish { tasks: 4 }),
    mode("confirm-pipelined", 16, 20_000, Work::ConfirmByReceipt),
    mode("confirm-hook", 16, 20_000, Work::ConfirmByHook),
    mode("confirm-one", 16, 5_000, Work::ConfirmOneByOne),
    mode("consume-no-ack", 16, 20_000, Work::ConsumeNoAck),
    mode("consume-ack-1000", 16, 20_000, Work::ConsumeAck { prefetch: 1_000 }),
    mode("consume-ack-100", 16, 20_000, Work::ConsumeAck { prefetch: 100 }),
    mode("publish-1k", 1 << 10, 10_000, Work::Publish { tasks: 1 }),
    mode("consume-1k", 1 << 10, 10_000, Work::ConsumeNoAck),
    mode("publish-64k", 1 << 16, 1_000, Work::Publish { tasks: 1 }),
    mode("consume-64k", 1 << 16, 1_000, Work::ConsumeNoAck),
];

impl Mode {
    /// The mode of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        MODES.into_iter().find(|mode| mode.name == name)
    }
}

/// A client in a mode: connected and warm.
pub struct Bench {
    network: Network,
    executor: Executor,
    // Keeps the connection.
    _client: Client,
    mode: Mode,
    hands: Hands,
    /// Messages published, or taken and settled, so far.
    done: u64,
}

/// What the application holds.
enum Hands {
    Publishers(Vec<Producer<FireAndForget>>),
    Confirming(Producer<Confirm>),
    /// With what its hook has heard.
    Hooked(Producer<Confirm>, Arc<AtomicU64>),
    Receiving(Consumer<NoAck>),
    Acking(Consumer<Manual>),
}

impl Bench {
    /// Connects, and handles as many messages as are measured later.
    ///
    /// # Panics
    ///
    /// If the client does anything else than what it is asked to.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let network = Network::default();
        let options = Options::new("amqp://memory").expect("a URL").name("counts");
        let (client, driver) =
            with_driver(Counted(network.clone()), options).expect("options that are right");
        let mut executor = Executor::new(network.clone(), driver);
        let mut hands = None;
        executor.run(vec![Box::pin(async {
            client.ready().await.expect("a connection");
            hands = Some(Hands::open(&client, mode).await);
        })]);
        let hands = hands.expect("was opened");
        let mut bench = Self { network, executor, _client: client, mode, hands, done: 0 };
        bench.run();
        bench.check();
        bench
    }

    /// Handles `mode.messages` messages, and says what happened meanwhile.
    pub fn measured(&mut self) -> Events {
        let before = self.network.events();
        measure(|| self.run());
        self.network.events().since(&before)
    }

    fn run(&mut self) {
        let Self { executor, mode, hands, .. } = self;
        executor.run(hands.tasks(*mode));
        self.done += mode.messages;
    }

    /// Compares with what the peer has seen.
    ///
    /// # Panics
    ///
    /// If it has seen anything else than what the application did.
    pub fn check(&self) {
        self.executor.settle();
        let seen = self.network.seen();
        let Self { done, mode, .. } = self;
        match &self.hands {
            Hands::Publishers(_) | Hands::Confirming(_) | Hands::Hooked(..) => {
                assert_eq!(seen.published, *done, "{}: published", mode.name);
                assert_eq!(seen.published_bytes, done * mode.size as u64, "{}: bytes", mode.name);
            }
            Hands::Receiving(_) => {}
            Hands::Acking(_) => assert_eq!(seen.acked, *done, "{}: acked", mode.name),
        }
    }
}

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Hands {
    async fn open(client: &Client, mode: Mode) -> Self {
        // The peer sends messages of the size that the queue's name says.
        let queue = mode.size.to_string();
        match mode.work {
            Work::Publish { tasks } => {
                let mut producers = Vec::new();
                for _ in 0..tasks {
                    producers.push(client.producer(&*queue).open().await.expect("a producer"));
                }
                Self::Publishers(producers)
            }
            Work::ConfirmByReceipt | Work::ConfirmOneByOne => {
                let producer = client.producer(&*queue).confirm();
                Self::Confirming(producer.open().await.expect("a producer"))
            }
            Work::ConfirmByHook => {
                let heard = Arc::new(AtomicU64::new(0));
                let hook = Arc::clone(&heard);
                let producer = client
                    .producer(&*queue)
                    .on_confirm(move |_| {
                        hook.fetch_add(1, Ordering::Relaxed);
                    })
                    .confirm()
                    .max_in_flight(WINDOW);
                Self::Hooked(producer.open().await.expect("a producer"), heard)
            }
            Work::ConsumeNoAck => {
                Self::Receiving(client.consumer(&*queue).no_ack().open().await.expect("a consumer"))
            }
            Work::ConsumeAck { prefetch } => {
                let consumer = client.consumer(&*queue).prefetch(prefetch);
                Self::Acking(consumer.open().await.expect("a consumer"))
            }
        }
    }

    fn tasks(&mut self, mode: Mode) -> Vec<LocalBoxFuture<'_, ()>> {
        match self {
            Self::Publishers(producers) => {
                let share = mode.messages / producers.len() as u64;
                let publishing = |producer| -> LocalBoxFuture<'_, ()> {
                    // A large body is shared, not copied: what an application would do.
                    match mode.size {
                        ..4096 => Box::pin(publish(producer, body(mode), share)),
                        _ => Box::pin(publish_shared(producer, body(mode).into(), share)),
                    }
                };
                producers.iter().map(publishing).collect()
            }
            Self::Confirming(producer) => vec![match mode.work {
                Work::ConfirmOneByOne => Box::pin(confirm_one(producer, mode)),
                _ => Box::pin(confirm_pipelined(producer, mode)),
            }],
            Self::Hooked(producer, heard) => vec![Box::pin(confirm_hook(producer, heard, mode))],
            Self::Receiving(consumer) => vec![Box::pin(receive(consumer, mode))],
            Self::Acking(consumer) => vec![Box::pin(ack(consumer, mode))],
        }
    }
}

fn body(mode: Mode) -> Vec<u8> {
    vec![b'x'; mode.size]
}

async fn publish(producer: &Producer<FireAndForget>, body: Vec<u8>, count: u64) {
    for _ in 0..count {
        producer.publish(&body).await.expect("accepted");
    }
    producer.flush().await;
}

async fn publish_shared(producer: &Producer<FireAndForget>, body: Bytes, count: u64) {
    for _ in 0..count {
        producer.publish(body.clone()).await.expect("accepted");
    }
    producer.flush().await;
}

async fn confirm_pipelined(producer: &Producer<Confirm>, mode: Mode) {
    let body = body(mode);
    let mut receipts: VecDeque<Receipt> = VecDeque::with_capacity(WINDOW);
    for _ in 0..mode.messages {
        if receipts.len() >= WINDOW
            && let Some(oldest) = receipts.pop_front()
        {
            oldest.await.expect("confirmed");
        }
        receipts.push_back(producer.publish(&body).await.expect("accepted"));
    }
    for receipt in receipts {
        receipt.await.expect("confirmed");
    }
}

async fn confirm_hook(producer: &Producer<Confirm>, heard: &AtomicU64, mode: Mode) {
    let body = body(mode);
    let before = heard.load(Ordering::Relaxed);
    for _ in 0..mode.messages {
        producer.publish(&body).await.expect("accepted").detach();
    }
    producer.flush().await;
    assert_eq!(heard.load(Ordering::Relaxed) - before, mode.messages, "outcomes heard");
}

async fn confirm_one(producer: &Producer<Confirm>, mode: Mode) {
    let body = body(mode);
    for _ in 0..mode.messages {
        producer.publish(&body).await.expect("accepted").await.expect("confirmed");
    }
}

async fn receive(consumer: &mut Consumer<NoAck>, mode: Mode) {
    for _ in 0..mode.messages {
        let received = consumer.next().await.expect("a delivery");
        assert_eq!(black_box(received.body()).len(), mode.size);
    }
}

async fn ack(consumer: &mut Consumer<Manual>, mode: Mode) {
    for _ in 0..mode.messages {
        let delivery = consumer.next().await.expect("a delivery");
        assert_eq!(black_box(delivery.body()).len(), mode.size);
        delivery.ack();
    }
    consumer.settled().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_counts_the_same_each_time() {
        for mode in MODES {
            let events = Bench::new(mode).measured();
            assert_eq!(Bench::new(mode).measured(), events, "{}", mode.name);
        }
    }

    #[test]
    #[should_panic(expected = "publish: published")]
    fn what_the_peer_did_not_see_is_noticed() {
        let mut bench = Bench::new(MODES[0]);
        bench.done += 1;
        bench.check();
    }
}
