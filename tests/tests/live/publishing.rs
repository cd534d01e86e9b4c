//! Publishing on a link that holds.

use lavinmq_core::{
    Verdict,
    event::{FailReason, Return},
    message::Message,
};

use crate::{
    broker::Broker,
    runtimes::{Rt, eventually, soon},
    scene::{body, close, connect, queue},
    witness::{Copy, Witness},
};

const MESSAGES: usize = 2000;

fn once_each() -> Vec<Copy> {
    (0..MESSAGES)
        .map(|number| Copy { body: body(number), attempt: None, redelivered: false })
        .collect()
}

pub async fn s18_confirmed_messages_are_in_the_queue<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "confirmed");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..MESSAGES {
        receipts.push(soon::<R, _>("publish", producer.publish(body(number))).await.unwrap());
    }
    for receipt in receipts {
        soon::<R, _>("a confirm", receipt).await.unwrap();
    }
    // Asked while the client is still open: a confirm is a promise about now.
    assert_eq!(broker.depth(&queue.name), Some(MESSAGES as u64));
    assert_eq!(Witness::new(&broker.url).drain(&queue.name), once_each());
    close::<R>(client).await;
}

pub async fn s11_fire_and_forget_messages_arrive_once_and_in_order<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "fire-and-forget");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).open().await.unwrap();
    for number in 0..MESSAGES {
        soon::<R, _>("publish", producer.publish(body(number))).await.unwrap();
    }
    soon::<R, _>("flush", producer.flush()).await;
    eventually::<R>("all messages in the queue", || {
        broker.depth(&queue.name) == Some(MESSAGES as u64)
    })
    .await;
    assert_eq!(Witness::new(&broker.url).drain(&queue.name), once_each());
    close::<R>(client).await;
}

/// Around every size where the encoding changes: inline bodies, one and more frames, vectored writes.
pub async fn s10_bodies_of_every_size_arrive_whole<R: Rt>(broker: &Broker) {
    let frame = 131_072 - 8;
    let sizes = [
        0,
        1,
        63,
        64,
        65,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        frame - 1,
        frame,
        frame + 1,
        2 * frame,
        2 * frame + 1,
        1 << 20,
    ];
    let body = |size: usize| (0..size).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let queue = queue::<R>(broker, "sizes");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    for size in sizes {
        let receipt = soon::<R, _>("publish", producer.publish(body(size))).await.unwrap();
        soon::<R, _>("a confirm", receipt).await.unwrap();
    }
    let copies = Witness::new(&broker.url).drain(&queue.name);
    let got: Vec<_> = copies.iter().map(|copy| copy.body.len()).collect();
    assert_eq!(got, sizes);
    for copy in copies {
        assert!(copy.body == body(copy.body.len()), "a body of {} was damaged", copy.body.len());
    }
    close::<R>(client).await;
}

pub async fn s20_a_message_to_a_missing_queue_is_returned<R: Rt>(broker: &Broker) {
    let missing = format!("live-missing-{}", std::process::id());
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*missing).confirm().open().await.unwrap();
    let receipt = soon::<R, _>("publish", producer.publish("lost?")).await.unwrap();
    let error = soon::<R, _>("a verdict", receipt).await.unwrap_err();
    let Verdict::Returned(reply) = &error.verdict else { panic!("{error}") };
    let Return { code, exchange, routing_key, .. } = &**reply;
    assert_eq!((*code, &**exchange, &**routing_key), (312, "", &*missing));
    assert_eq!(error.into_message().body(), b"lost?");
    close::<R>(client).await;
}

pub async fn s25_only_the_message_to_a_missing_exchange_fails<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "good");
    let client = connect::<R>(broker).await;
    let good = client.producer(&*queue.name).confirm().open().await.unwrap();
    let bad = client.producer_on("live-no-such-exchange", "x").confirm().open().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(soon::<R, _>("publish", good.publish(body(number))).await.unwrap());
    }
    let refused = soon::<R, _>("publish", bad.publish(Message::new("x"))).await.unwrap();
    for number in 100..200 {
        receipts.push(soon::<R, _>("publish", good.publish(body(number))).await.unwrap());
    }
    let error = soon::<R, _>("a verdict", refused).await.unwrap_err();
    assert!(
        matches!(&error.verdict, Verdict::Failed(FailReason::Refused { code: 404, .. })),
        "{error}"
    );
    for receipt in receipts {
        soon::<R, _>("a confirm", receipt).await.unwrap();
    }
    // On a channel of its own nothing was resent either.
    let copies = Witness::new(&broker.url).drain(&queue.name);
    let expected: Vec<_> =
        (0..200).map(|n| Copy { body: body(n), attempt: None, redelivered: false }).collect();
    assert_eq!(copies, expected);
    close::<R>(client).await;
}
