//! Outages in mid-stream.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use futures::{
    StreamExt as _,
    future::{Either, join, select},
};
use lavinmq_core::{BufferPolicy, Confirm, Delivery, Producer, Receipt, event::State};

use crate::{
    broker::Broker,
    runtimes::{Rt, eventually, off_thread, soon},
    scene::{assert_none_lost, body, close, connect, number, options, queue, tally},
    witness::Witness,
};

/// Disturbances of the broker, one after the other, while a test publishes.
#[derive(Default)]
struct Disturbed {
    /// How far the publisher is.
    progress: AtomicUsize,
    over: AtomicBool,
}

impl Disturbed {
    /// Applies the `verbs` of the broker's control in turn, each `every` messages further on.
    async fn apply<R: Rt>(
        &self,
        broker: &Broker,
        every: usize,
        disturbances: &[&'static [&'static str]],
    ) {
        for verbs in disturbances {
            let at = self.progress.load(Relaxed) + every;
            eventually::<R>("progress", || self.progress.load(Relaxed) >= at).await;
            let control = broker.controller();
            let verbs = *verbs;
            let work = move || verbs.iter().for_each(|verb| control.change(verb));
            off_thread::<R, _>("control of the broker", work).await;
        }
        self.over.store(true, Relaxed);
    }

    /// Publishes until the last disturbance is over, and 5,000 messages more; every one of them must
    /// be confirmed. Returns their number.
    async fn publish<R: Rt>(&self, producer: &Producer<Confirm>) -> usize {
        let mut receipts = VecDeque::new();
        let (mut published, mut left) = (0, 5000);
        while left > 0 {
            left -= usize::from(self.over.load(Relaxed));
            receipts.push_back(
                soon::<R, _>("publish", producer.publish(body(published))).await.unwrap(),
            );
            published += 1;
            while receipts.len() > 1000 || receipts.front().is_some_and(Receipt::is_settled) {
                soon::<R, _>("a confirm", receipts.pop_front().unwrap()).await.unwrap();
                self.progress.fetch_add(1, Relaxed);
            }
        }
        for receipt in receipts {
            soon::<R, _>("a confirm", receipt).await.unwrap();
        }
        published
    }
}

async fn confirm_mode_survives<R: Rt>(
    broker: &Broker,
    purpose: &str,
    verbs: &'static [&'static str],
) {
    let queue = queue::<R>(broker, purpose);
    broker.sync();
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    let disturbed = Disturbed::default();
    let (messages, ()) =
        join(disturbed.publish::<R>(&producer), disturbed.apply::<R>(broker, 5000, &[verbs])).await;
    close::<R>(client).await;
    let copies = Witness::new(&broker.url).drain(&queue.name);
    assert_none_lost(&copies, messages);
}

pub async fn f19_confirm_mode_loses_nothing_in_a_clean_restart<R: Rt>(broker: &Broker) {
    confirm_mode_survives::<R>(broker, "restart", &["stop", "start"]).await;
}

pub async fn f19_confirm_mode_loses_nothing_when_the_broker_is_killed<R: Rt>(broker: &Broker) {
    confirm_mode_survives::<R>(broker, "kill", &["kill", "start"]).await;
}

/// With a consumer that acks: it receives everything, and then the queue is empty.
pub async fn f15_nothing_is_lost_when_the_broker_closes_all_connections<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "close-all");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    let mut consumer = client.consumer(&*queue.name).prefetch(500).open().await.unwrap();
    let mut received: Vec<bool> = Vec::new();
    let mut note = |delivery: Delivery| {
        let number = number(delivery.body());
        assert_eq!(delivery.body(), body(number), "a body was damaged");
        received.resize(received.len().max(number + 1), false);
        received[number] = true;
        delivery.ack();
    };
    let disturbed = Disturbed::default();
    let twice: [&[&str]; 2] = [&["close-connections"]; 2];
    let mut publishing =
        pin!(join(disturbed.publish::<R>(&producer), disturbed.apply::<R>(broker, 5000, &twice),));
    let messages = loop {
        match select(&mut publishing, pin!(consumer.next())).await {
            Either::Left(((messages, ()), _)) => break messages,
            Either::Right((delivery, _)) => note(delivery.unwrap()),
        }
    };
    // Until the broker says that nothing is left, not even a copy that it delivers again.
    soon::<R, _>("an empty queue", async {
        loop {
            soon::<R, _>("settles written", consumer.settled()).await;
            if broker.depth(&queue.name) == Some(0) {
                return;
            }
            match select(pin!(consumer.next()), R::sleep(Duration::from_millis(20))).await {
                Either::Left((delivery, _)) => note(delivery.unwrap()),
                Either::Right(_) => {}
            }
            while let Some(Some(delivery)) = futures::FutureExt::now_or_never(consumer.next()) {
                note(delivery);
            }
        }
    })
    .await;
    close::<R>(client).await;
    assert_eq!(received.len(), messages);
    let lost = received.iter().filter(|received| !**received).count();
    assert_eq!(lost, 0, "confirmed, not received, and not in the queue any more");
}

/// At most one copy of each, in the order of publishing: a gap is allowed, a second copy is not.
pub async fn f10_fire_and_forget_never_duplicates<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "at-most-once");
    let client = connect::<R>(broker).await;
    let builder = client.producer(&*queue.name).buffer_policy(BufferPolicy::Block);
    let producer = builder.open().await.unwrap();
    let disturbed = Disturbed::default();
    let publish = async {
        let (mut published, mut left) = (0, 5000);
        while left > 0 {
            left -= usize::from(disturbed.over.load(Relaxed));
            soon::<R, _>("publish", producer.publish(body(published))).await.unwrap();
            published += 1;
            disturbed.progress.store(published, Relaxed);
            if published % 50 == 0 {
                // Not faster than the broker can be told to close the connections.
                R::sleep(Duration::from_millis(1)).await;
            }
        }
        soon::<R, _>("flush", producer.flush()).await;
        published
    };
    let once: [&[&str]; 1] = [&["close-connections"]];
    let (messages, ()) = join(publish, disturbed.apply::<R>(broker, 5000, &once)).await;
    let stats = producer.stats();
    close::<R>(client).await;
    let copies = Witness::new(&broker.url).drain(&queue.name);
    assert!(tally(&copies, messages).iter().all(|&copies| copies <= 1), "a second copy");
    assert!(copies.is_sorted_by_key(|copy| number(&copy.body)), "out of order");
    assert!(copies.iter().all(|copy| copy.attempt.is_none()));
    // What is missing was written, and lay unread in a socket when the broker closed it; what came
    // after that is all there.
    assert_eq!(copies.last().map(|copy| number(&copy.body)), Some(messages - 1));
    assert_eq!(stats.sent, messages as u64, "{stats:?}");
    assert!(copies.len() > messages / 2, "{} of {messages}", copies.len());
}

pub async fn s21_a_blocked_producer_waits_while_consuming_goes_on<R: Rt>(broker: &Broker) {
    const FIRST: usize = 500;
    const LATER: usize = 300;
    let target = queue::<R>(broker, "blocked");
    let work = queue::<R>(broker, "consumed");
    let witness = Witness::new(&broker.url);
    witness.publish(&work.name, (0..FIRST).map(body));
    let (states, mut seen) = futures::channel::mpsc::unbounded();
    let client = soon::<R, _>(
        "connect",
        R::connect(options(&broker.url).on_state_change(move |state: State| {
            let _ = states.unbounded_send(state);
        })),
    )
    .await
    .unwrap();
    let producer = client.producer(&*target.name).confirm().open().await.unwrap();
    let receipt = soon::<R, _>("publish", producer.publish(body(0))).await.unwrap();
    soon::<R, _>("a confirm", receipt).await.unwrap();

    broker.control("block");
    // RabbitMQ says so to a connection that publishes. That message may or may not get through.
    let mut receipts = Vec::new();
    for number in 1..=LATER {
        receipts.push(soon::<R, _>("publish", producer.publish(body(number))).await.unwrap());
    }
    soon::<R, _>("blocked", async {
        while !matches!(seen.next().await.unwrap(), State::Blocked { .. }) {}
    })
    .await;
    assert!(client.is_connected(), "blocked is not offline");
    // Consuming goes on, acks included, on its own connection.
    let mut consumer = client.consumer(&*work.name).prefetch(10).open().await.unwrap();
    for expected in 0..FIRST {
        let delivery = soon::<R, _>("a delivery while blocked", consumer.next()).await.unwrap();
        assert_eq!(number(delivery.body()), expected);
        delivery.ack();
    }
    soon::<R, _>("settles written", consumer.settled()).await;
    eventually::<R>("all acks arrived while blocked", || broker.depth(&work.name) == Some(0)).await;
    // And publishing does not: nothing was confirmed that is not there.
    let there = broker.depth(&target.name).unwrap();
    let confirmed = 1 + receipts.iter().filter(|receipt| receipt.is_settled()).count() as u64;
    assert!(confirmed <= there, "{confirmed} confirmed, {there} there");
    assert!(there < LATER as u64 / 2, "{there} of {LATER} messages got past the alarm");

    broker.control("unblock");
    for receipt in receipts {
        soon::<R, _>("a confirm after the alarm", receipt).await.unwrap();
    }
    assert_eq!(broker.depth(&target.name), Some(LATER as u64 + 1));
    close::<R>(client).await;
    assert_none_lost(&witness.drain(&target.name), LATER + 1);
}
