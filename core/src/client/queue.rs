//! Declaring queues, and naming them.
#![expect(clippy::disallowed_types, reason = "a queue's name follows a rename by the driver")]

use std::sync::Arc;

use super::{
    answer::Answer,
    link::Control,
    link::Hold,
    sync::{Mutex, lock},
};
use crate::{
    config::QueueConfig,
    error::{DeclareError, NameTooLong},
    session::DeclaredQueue,
};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

/// What is known of a declared queue.
#[derive(Debug)]
pub(crate) struct QueueState {
    name: Mutex<Arc<str>>,
    messages: u32,
    consumers: u32,
}

impl QueueState {
    pub(crate) fn new(declared: DeclaredQueue) -> Self {
        let DeclaredQueue { name, messages, consumers } = declared;
        Self { name: Mutex::new(name), messages, consumers }
    }

    pub(crate) fn rename(&self, name: Arc<str>) {
        *lock(&self.name) = name;
    }
}

/// A queue, as it was declared. It is declared again after every reconnect.
#[derive(Clone, Debug)]
pub struct Queue(Arc<QueueState>);

impl Queue {
    /// Its name. A queue that the broker named has another one after an outage in which it was lost.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        lock(&self.0.name).clone()
    }

    /// Messages ready in it when it was declared.
    #[must_use]
    pub fn message_count(&self) -> u32 {
        self.0.messages
    }

    /// Its consumers when it was declared.
    #[must_use]
    pub fn consumer_count(&self) -> u32 {
        self.0.consumers
    }
}

/// A queue by its name: what `producer` and `consumer` take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRef(pub(crate) Arc<str>);

impl From<&str> for QueueRef {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<&String> for QueueRef {
    fn from(name: &String) -> Self {
        Self(name.as_str().into())
    }
}

impl From<String> for QueueRef {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Arc<str>> for QueueRef {
    fn from(name: Arc<str>) -> Self {
        Self(name)
    }
}

impl From<&Queue> for QueueRef {
    fn from(queue: &Queue) -> Self {
        Self(queue.name())
    }
}

impl From<Queue> for QueueRef {
    fn from(queue: Queue) -> Self {
        Self(queue.name())
    }
}

/// A queue to be declared: durable, shared and without arguments, unless told otherwise.
#[derive(Debug)]
#[must_use = "a queue is declared by declare().await"]
pub struct QueueBuilder {
    hold: Hold,
    config: Result<QueueConfig, NameTooLong>,
}

impl QueueBuilder {
    pub(crate) fn new(hold: Hold, name: &str) -> Self {
        Self { hold, config: QueueConfig::new(name) }
    }

    fn set(mut self, set: impl FnOnce(&mut QueueConfig)) -> Self {
        if let Ok(config) = &mut self.config {
            set(config);
        }
        self
    }

    /// Whether it survives a restart of the broker (yes). Newer RabbitMQ refuses transient queues
    /// that are not exclusive.
    pub fn durable(self, durable: bool) -> Self {
        self.set(|config| config.durable = durable)
    }

    /// Only this client may use it, and it goes with the connection that consumes it.
    pub fn exclusive(self) -> Self {
        self.set(|config| config.exclusive = true)
    }

    /// It goes with its last consumer.
    pub fn auto_delete(self) -> Self {
        self.set(|config| config.auto_delete = true)
    }

    /// Only look it up: an error if it does not exist. Never repeated after a reconnect.
    pub fn passive(self) -> Self {
        self.set(|config| config.passive = true)
    }

    /// Sets one argument, such as `x-queue-type`.
    pub fn argument(mut self, key: &str, value: AMQPValue) -> Self {
        match ShortString::try_new(key) {
            Ok(key) => self.set(|config| {
                config.arguments.insert(key, value);
            }),
            Err(_) => {
                if self.config.is_ok() {
                    self.config = Err(NameTooLong { what: "argument name", length: key.len() });
                }
                self
            }
        }
    }

    /// Replaces all arguments.
    pub fn arguments(self, arguments: FieldTable) -> Self {
        self.set(|config| config.arguments = arguments)
    }

    /// Declares the queue, and remembers it for every reconnect.
    ///
    /// It waits for a connection if there is none, up to `deadlines.request` in all.
    ///
    /// # Errors
    ///
    /// If the broker refuses (the queue exists with other properties, …), does not answer in time,
    /// the client is closed, or a name exceeds 255 bytes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws the declaration if it was not sent yet. If it was, the queue may
    /// be declared (and declared again after every reconnect) nevertheless.
    pub async fn declare(self) -> Result<Queue, DeclareError> {
        let config = Box::new(self.config?);
        let answer = Answer::ask(self.hold.link(), |reply| Control::Declare { config, reply });
        answer.await.unwrap_or(Err(DeclareError::Closed)).map(Queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_follows_its_rename() {
        let declared = DeclaredQueue { name: "amq.gen-1".into(), messages: 2, consumers: 1 };
        let queue = Queue(Arc::new(QueueState::new(declared)));
        let copy = queue.clone();
        queue.0.rename("amq.gen-2".into());
        assert_eq!(&*copy.name(), "amq.gen-2");
        assert_eq!((copy.message_count(), copy.consumer_count()), (2, 1));
        assert_eq!(QueueRef::from(&queue), QueueRef::from("amq.gen-2"));
    }
}
