use lavinmq_core::{
    error::DeclareError,
    types::{AMQPValue, FieldTable},
};

use crate::{
    runtimes::Rt,
    stage::{broker, connect, consumer, stop, until},
};

pub async fn a_queue_is_declared_as_it_was_built<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let durable = client.queue("durable").declare().await.unwrap();
    let transient = client.queue("transient").durable(false).declare().await.unwrap();
    let auto = client.queue("auto").auto_delete().declare().await.unwrap();
    let own = client.queue("own").exclusive().declare().await.unwrap();
    for queue in [&durable, &transient, &auto, &own] {
        assert!(broker.has_queue(&queue.name()));
        assert_eq!((queue.message_count(), queue.consumer_count()), (0, 0));
    }

    // What was built shows in what becomes of it.
    client.consumer(&auto).open().await.unwrap().close().await;
    until(&broker, "auto-delete", |state| !state.has_queue("auto"));

    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(2));
    client.queue("short").arguments(arguments).declare().await.unwrap();
    client
        .queue("shorter")
        .argument("x-max-length", AMQPValue::LongInt(1))
        .declare()
        .await
        .unwrap();
    for (queue, kept) in [("short", 2), ("shorter", 1)] {
        let producer = client.producer(queue).confirm().open().await.unwrap();
        for _ in 0..3 {
            producer.publish("x").await.unwrap().await.unwrap();
        }
        assert_eq!(broker.depth(queue), kept, "{queue}");
    }

    let _consumer = consumer(&client).await;
    let orders = client.queue("orders").passive().declare().await.unwrap();
    assert_eq!(orders.consumer_count(), 1);
}

pub async fn s37_queues_are_declared_again_after_an_outage<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    client.queue("transient").durable(false).declare().await.unwrap();
    let producer = client.producer("transient").confirm().open().await.unwrap();
    producer.publish("lost with its queue").await.unwrap().await.unwrap();
    // In an orderly stop, what is not durable is gone.
    stop::<R>(&broker, &client).await;
    assert!(!broker.has_queue("transient"));
    broker.resume().unwrap();
    // The producer waits for the queue that it depends on: this is no return.
    producer.publish("kept").await.unwrap().await.unwrap();
    assert_eq!(broker.messages("transient")[0].body, "kept");
}

pub async fn a_server_names_a_queue_without_a_name<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let queue = client.queue("").exclusive().declare().await.unwrap();
    let first = queue.name();
    assert!(broker.has_queue(&first), "{first}");
    let producer = client.producer(&queue).confirm().open().await.unwrap();
    producer.publish("by its name").await.unwrap().await.unwrap();
    assert_eq!(broker.messages(&first)[0].body, "by its name");
}

pub async fn errors_of_declare_say_what_is_wrong<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    // `orders` is durable.
    let error = client.queue("orders").durable(false).declare().await.unwrap_err();
    assert!(
        matches!(&error, DeclareError::Refused { queue, code: 406, .. } if &**queue == "orders"),
        "{error}"
    );
    let error = client.queue("missing").passive().declare().await.unwrap_err();
    assert!(matches!(&error, DeclareError::Refused { code: 404, .. }), "{error}");
    let error = client.queue(&"x".repeat(256)).declare().await.unwrap_err();
    assert!(matches!(&error, DeclareError::Name(name) if name.length == 256), "{error}");
    // The channel that was closed over it is open again.
    client.queue("fine").declare().await.unwrap();
    client.close().await;
    let error = client.queue("late").declare().await.unwrap_err();
    assert_eq!(error, DeclareError::Closed);
    assert!(!broker.has_queue("late"));
}
