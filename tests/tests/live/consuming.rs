//! Consuming.

use lavinmq_core::{
    Settle,
    event::{Event, Interruption},
};

use crate::{
    broker::Broker,
    runtimes::{Rt, eventually, soon},
    scene::{body, close, connect, number, queue},
    witness::Witness,
};

pub async fn s17_settled_deliveries_are_gone_and_the_others_come_back<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "settle");
    let witness = Witness::new(&broker.url);
    witness.publish(&queue.name, (0..12).map(body));
    let client = connect::<R>(broker).await;
    let mut consumer = client.consumer(&*queue.name).prefetch(12).open().await.unwrap();
    let mut held = Vec::new();
    for expected in 0..12 {
        let delivery = soon::<R, _>("a delivery", consumer.next()).await.unwrap();
        assert_eq!(number(delivery.body()), expected);
        match expected % 3 {
            0 => assert_eq!(delivery.ack(), Settle::Queued),
            1 => assert_eq!(delivery.reject(), Settle::Queued),
            _ => held.push(delivery),
        }
    }
    soon::<R, _>("settles written", consumer.settled()).await;
    // Acked and rejected ones are gone while the consumer is still there; the held ones are not.
    eventually::<R>("only the held ones left", || broker.depth(&queue.name) == Some(4)).await;
    if let Some(unacked) = broker.unacked(&queue.name) {
        assert_eq!(unacked, 4);
    }
    for delivery in held {
        assert_eq!(delivery.requeue(), Settle::Queued);
    }
    soon::<R, _>("close", consumer.close()).await;
    close::<R>(client).await;
    let left: Vec<_> = witness.drain(&queue.name).iter().map(|copy| number(&copy.body)).collect();
    assert_eq!(left, [2, 5, 8, 11]);
}

pub async fn s35_a_no_ack_consumer_receives_everything<R: Rt>(broker: &Broker) {
    const MESSAGES: usize = 5000;
    let queue = queue::<R>(broker, "no-ack");
    let witness = Witness::new(&broker.url);
    witness.publish(&queue.name, (0..MESSAGES).map(body));
    let client = connect::<R>(broker).await;
    let mut consumer = client.consumer(&*queue.name).no_ack().open().await.unwrap();
    for expected in 0..MESSAGES {
        let received = soon::<R, _>("a delivery", consumer.next()).await.unwrap();
        assert_eq!(received.body(), body(expected));
    }
    assert_eq!(witness.ready(&queue.name), 0);
    close::<R>(client).await;
}

pub async fn s31_a_consumer_survives_the_deletion_of_its_queue<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "deleted");
    let witness = Witness::new(&broker.url);
    let client = connect::<R>(broker).await;
    // Declared by us as well, so that it is declared again before the consumer returns to it.
    client.queue(&queue.name).declare().await.unwrap();
    let mut events = client.events();
    let mut consumer = client.consumer(&*queue.name).open().await.unwrap();
    witness.publish(&queue.name, (0..3).map(body));
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        deliveries.push(soon::<R, _>("a delivery", consumer.next()).await.unwrap());
    }
    witness.delete(&queue.name);
    soon::<R, _>("the interruption", async {
        let cancelled = Interruption::Cancelled;
        while !matches!(events.next().await.unwrap(), Event::ConsumerInterrupted { why, .. } if why == cancelled) {}
    })
    .await;
    soon::<R, _>("the resumption", async {
        while !matches!(events.next().await.unwrap(), Event::ConsumerResumed { .. }) {}
    })
    .await;
    witness.publish(&queue.name, (100..103).map(body));
    for expected in 100..103 {
        let delivery = soon::<R, _>("a delivery of the new queue", consumer.next()).await.unwrap();
        assert_eq!(number(delivery.body()), expected);
        assert_eq!(delivery.ack(), Settle::Queued);
    }
    // The old ones are settled on the channel that they came from, which harms nobody.
    for delivery in deliveries {
        delivery.ack();
    }
    soon::<R, _>("settles written", consumer.settled()).await;
    close::<R>(client).await;
    assert_eq!(witness.drain(&queue.name), []);
}

pub async fn s30_prefetch_is_in_force_after_a_reconnect<R: Rt>(broker: &Broker) {
    const MESSAGES: usize = 200;
    const PREFETCH: usize = 20;
    let queue = queue::<R>(broker, "prefetch");
    let witness = Witness::new(&broker.url);
    witness.publish(&queue.name, (0..MESSAGES).map(body));
    let client = connect::<R>(broker).await;
    let mut consumer =
        client.consumer(&*queue.name).prefetch(PREFETCH as u16).open().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..PREFETCH {
        held.push(soon::<R, _>("a delivery", consumer.next()).await.unwrap());
    }
    assert_outstanding(broker, &witness, &queue.name, MESSAGES, PREFETCH);

    broker.control("close-connections");
    // The broker delivers the same ones again on the new channel; what is in hand is stale.
    let mut again = Vec::new();
    for _ in 0..PREFETCH {
        again.push(soon::<R, _>("a delivery after the reconnect", consumer.next()).await.unwrap());
    }
    for delivery in held {
        assert_eq!(delivery.ack(), Settle::Stale);
    }
    // A message more, so that the broker has had its turn with this queue.
    witness.publish(&queue.name, std::iter::once(body(MESSAGES)));
    assert_outstanding(broker, &witness, &queue.name, MESSAGES + 1, PREFETCH);
    for delivery in again {
        assert_eq!(delivery.requeue(), Settle::Queued);
    }
    soon::<R, _>("close", consumer.close()).await;
    close::<R>(client).await;
    let copies = witness.drain(&queue.name);
    assert_eq!(copies.len(), MESSAGES + 1);
}

fn assert_outstanding(broker: &Broker, witness: &Witness, queue: &str, all: usize, held: usize) {
    if let Some(unacked) = broker.unacked(queue) {
        assert_eq!(unacked, held as u64, "unacknowledged");
        assert_eq!(broker.depth(queue), Some(all as u64));
    }
    assert_eq!(witness.ready(queue), (all - held) as u32, "ready");
}
