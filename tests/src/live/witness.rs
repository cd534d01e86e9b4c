//! The witness: lapin, a client that is not ours. What it reads out of a queue is the verdict.

use std::{future::Future, time::Duration};

use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, options, types::AMQPValue,
    types::FieldTable,
};

/// One message as the witness read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub body: Vec<u8>,
    /// The header `x-attempt`.
    pub attempt: Option<i64>,
    pub redelivered: bool,
}

/// Calls that the witness makes, each on a connection of its own. Blocking: the library under test
/// runs on threads of its own meanwhile.
pub struct Witness<'a> {
    url: &'a str,
}

impl<'a> Witness<'a> {
    pub const fn new(url: &'a str) -> Self {
        Self { url }
    }

    fn run<F, T>(&self, what: &str, work: impl FnOnce(Channel) -> F + Send) -> T
    where
        F: Future<Output = lapin::Result<T>>,
        T: Send,
    {
        let call = || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let all = async {
                    let name = "witness".into();
                    let options = ConnectionProperties::default().with_connection_name(name);
                    let connection = Connection::connect(self.url, options).await?;
                    // Kept until the close, because dropping it sends a close of its own.
                    let channel = connection.create_channel().await?;
                    let result = work(channel.clone()).await?;
                    connection.close(200, "done".into()).await?;
                    Ok::<T, lapin::Error>(result)
                };
                tokio::time::timeout(Duration::from_secs(60), all).await
            })
        };
        // On a thread of its own, because the caller is inside a runtime.
        let result = std::thread::scope(|scope| scope.spawn(call).join());
        match result {
            Ok(Ok(Ok(value))) => value,
            Ok(Ok(Err(error))) => panic!("the witness could not {what}: {error}"),
            Ok(Err(_)) => panic!("the witness could not {what} within 60 s"),
            Err(_) => panic!("the witness panicked when it was to {what}"),
        }
    }

    /// A durable queue of this name, new and empty.
    pub fn declare(&self, queue: &str) {
        self.run("declare", |channel| async move {
            let options = options::QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
        });
    }

    pub fn delete(&self, queue: &str) {
        self.run("delete", |channel| async move {
            channel
                .queue_delete(queue.into(), options::QueueDeleteOptions::default())
                .await
                .map(drop)
        });
    }

    /// Puts messages into a queue; all are confirmed when this returns.
    pub fn publish(&self, queue: &str, bodies: impl Iterator<Item = Vec<u8>> + Send) {
        self.run("publish", |channel| async move {
            channel.confirm_select(options::ConfirmSelectOptions::default()).await?;
            for body in bodies {
                let persistent = BasicProperties::default().with_delivery_mode(2);
                let options = options::BasicPublishOptions::default();
                drop(
                    channel
                        .basic_publish("".into(), queue.into(), options, &body, persistent)
                        .await?,
                );
            }
            channel.wait_for_confirms().await.map(drop)
        });
    }

    /// How many messages are ready in a queue: in it, and with no consumer.
    pub fn ready(&self, queue: &str) -> u32 {
        self.run("look a queue up", |channel| async move {
            let options = options::QueueDeclareOptions { passive: true, ..Default::default() };
            let queue = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
            Ok(queue.message_count())
        })
    }

    /// Reads a queue to its end and empties it. Nobody else may be using it.
    pub fn drain(&self, queue: &str) -> Vec<Copy> {
        self.run("drain a queue", |channel| async move {
            let mut copies = Vec::new();
            channel.basic_qos(5000, options::BasicQosOptions::default()).await?;
            loop {
                let options = options::QueueDeclareOptions { passive: true, ..Default::default() };
                let state =
                    channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
                if state.message_count() == 0 {
                    return Ok(copies);
                }
                let tag = "witness";
                let options = options::BasicConsumeOptions::default();
                let mut consumer = channel
                    .basic_consume(queue.into(), tag.into(), options, FieldTable::default())
                    .await?;
                for number in 1..=state.message_count() {
                    let Some(delivery) = consumer.next().await else { break };
                    let delivery = delivery?;
                    let attempt = delivery.properties.headers().as_ref().and_then(|headers| {
                        match headers.inner().get("x-attempt") {
                            Some(AMQPValue::LongInt(attempt)) => Some(i64::from(*attempt)),
                            Some(AMQPValue::LongLongInt(attempt)) => Some(*attempt),
                            _ => None,
                        }
                    });
                    if number % 1000 == 0 || number == state.message_count() {
                        delivery.ack(options::BasicAckOptions { multiple: true }).await?;
                    }
                    let redelivered = delivery.redelivered;
                    copies.push(Copy { body: delivery.data, attempt, redelivered });
                }
                channel.basic_cancel(tag.into(), options::BasicCancelOptions::default()).await?;
            }
        })
    }
}
