//! Consumers of every kind, each of its own queue.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use futures::future::BoxFuture;
use lavinmq_core::{Client, Consumer, ConsumerHandle, Delivery, Manual, NoAck, Received};

use super::load::{LoadControl, Order, Target};
use crate::sim::random::Random;

/// Consumes in the way that is this queue's, until the consumer ends.
pub enum AnyConsumer {
    Manual(Consumer<Manual>),
    Handler(Consumer<Manual>),
    Batches(Consumer<Manual>),
    NoAck(Consumer<NoAck>),
}

impl AnyConsumer {
    pub async fn open(client: &Client, target: Target, queue: &str) -> Option<Self> {
        let builder = client.consumer(queue).requeue_delay(Duration::from_millis(20));
        Some(match target {
            Target::Manual => Self::Manual(builder.prefetch(300).open().await.ok()?),
            Target::Handler => Self::Handler(builder.prefetch(64).open().await.ok()?),
            Target::Batches => Self::Batches(builder.prefetch(200).open().await.ok()?),
            Target::NoAck => Self::NoAck(builder.no_ack().open().await.ok()?),
            Target::Kept => return None,
        })
    }

    pub fn handle(&self) -> ConsumerHandle {
        match self {
            Self::Manual(consumer) | Self::Handler(consumer) | Self::Batches(consumer) => {
                consumer.handle()
            }
            Self::NoAck(consumer) => consumer.handle(),
        }
    }

    pub fn consume(
        self,
        control: Arc<LoadControl>,
        order: Arc<Order>,
        random: Random,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match self {
                Self::Manual(consumer) => manual(consumer, &control, &order, random).await,
                Self::Handler(consumer) => handler(consumer, &control, &order, random).await,
                Self::Batches(consumer) => batches(consumer, &control, &order, random).await,
                Self::NoAck(mut consumer) => {
                    while let Some(received) = consumer.next().await {
                        control.saw(&order, &received);
                    }
                }
            }
        })
    }
}

async fn manual(
    mut consumer: Consumer<Manual>,
    control: &LoadControl,
    order: &Order,
    mut random: Random,
) {
    while let Some(delivery) = consumer.next().await {
        control.saw(order, &delivery);
        let mut held = control.held.lock().unwrap();
        if control.draining.load(Relaxed) {
            held.clear();
            delivery.ack();
            continue;
        }
        match random.below(100) {
            0 => drop(delivery.requeue()),
            1 => drop(delivery),
            2..12 => held.push(delivery),
            _ if held.len() > 20 => {
                delivery.ack_through();
                held.clear();
            }
            _ => drop(delivery.ack()),
        }
    }
}

async fn handler(
    mut consumer: Consumer<Manual>,
    control: &Arc<LoadControl>,
    order: &Arc<Order>,
    random: Random,
) {
    let random = Arc::new(Mutex::new(random));
    let (control, order) = (Arc::clone(control), Arc::clone(order));
    let handle = move |received: Received| {
        control.saw(&order, &received);
        let (yields, fails) = {
            let mut random = random.lock().unwrap();
            (random.below(4), random.chance(1, 50) && !control.draining.load(Relaxed))
        };
        async move {
            // Handlers end in another order than they began.
            for _ in 0..yields {
                yield_now().await;
            }
            if fails { Err("it fails now and then") } else { Ok(()) }
        }
    };
    consumer.run(16, handle).await;
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn batches(
    mut consumer: Consumer<Manual>,
    control: &LoadControl,
    order: &Order,
    mut random: Random,
) {
    while let Some(mut batch) = consumer.next_batch(50, Duration::from_millis(5)).await {
        batch.iter().for_each(|delivery| control.saw(order, delivery));
        match random.below(20) {
            0 if !control.draining.load(Relaxed) => {
                batch.pop().map(Delivery::requeue_through);
            }
            1..4 => batch.into_iter().rev().for_each(|delivery| {
                delivery.ack();
            }),
            _ => {
                batch.pop().map(Delivery::ack_through);
            }
        }
    }
}
