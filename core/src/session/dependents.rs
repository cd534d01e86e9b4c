//! Who depends on which queue, by its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    config::ProducerConfig,
    ids::{ConsumerId, ProducerId},
};

/// Producers and consumers by the queue that they publish to or consume from, so that what happens to
/// one queue concerns only those.
#[derive(Clone, Debug, Default)]
pub(super) struct Dependents {
    producers: BTreeMap<Arc<str>, BTreeSet<ProducerId>>,
    consumers: BTreeMap<Arc<str>, BTreeSet<ConsumerId>>,
    /// Producers to an exchange: nobody knows which queues stand behind it.
    on_all: BTreeSet<ProducerId>,
}

impl Dependents {
    pub(super) fn add_producer(&mut self, config: &ProducerConfig, producer: ProducerId) {
        if config.exchange.is_empty() {
            self.producers.entry(config.routing_key.clone()).or_default().insert(producer);
        } else {
            self.on_all.insert(producer);
        }
    }

    pub(super) fn remove_producer(&mut self, config: &ProducerConfig, producer: ProducerId) {
        if config.exchange.is_empty() {
            remove(&mut self.producers, &config.routing_key, &producer);
        } else {
            self.on_all.remove(&producer);
        }
    }

    pub(super) fn add_consumer(&mut self, queue: &Arc<str>, consumer: ConsumerId) {
        self.consumers.entry(queue.clone()).or_default().insert(consumer);
    }

    pub(super) fn remove_consumer(&mut self, queue: &str, consumer: ConsumerId) {
        remove(&mut self.consumers, queue, &consumer);
    }

    /// Producers to this queue, over the default exchange.
    pub(super) fn producers(&self, queue: &str) -> Vec<ProducerId> {
        self.producers.get(queue).into_iter().flatten().copied().collect()
    }

    /// Producers to exchanges.
    pub(super) fn producers_on_all(&self) -> Vec<ProducerId> {
        self.on_all.iter().copied().collect()
    }

    /// Consumers of this queue.
    pub(super) fn consumers(&self, queue: &str) -> Vec<ConsumerId> {
        self.consumers.get(queue).into_iter().flatten().copied().collect()
    }

    pub(super) fn has_consumers(&self, queue: &str) -> bool {
        self.consumers.contains_key(queue)
    }

    /// The queue has another name.
    pub(super) fn rename(&mut self, from: &str, to: &Arc<str>) {
        if let Some(producers) = self.producers.remove(from) {
            self.producers.entry(to.clone()).or_default().extend(producers);
        }
        if let Some(consumers) = self.consumers.remove(from) {
            self.consumers.entry(to.clone()).or_default().extend(consumers);
        }
    }

    /// How many they are.
    #[cfg(feature = "sabotage")]
    pub(super) fn len(&self) -> usize {
        self.producers.values().map(BTreeSet::len).sum::<usize>()
            + self.consumers.values().map(BTreeSet::len).sum::<usize>()
            + self.on_all.len()
    }
}

fn remove<T: Ord>(all: &mut BTreeMap<Arc<str>, BTreeSet<T>>, queue: &str, one: &T) {
    if let Some(of) = all.get_mut(queue) {
        of.remove(one);
        if of.is_empty() {
            all.remove(queue);
        }
    }
}
