//! What was declared, so that it can be declared again after an outage (semantics s37, s38, s40).

use std::{collections::VecDeque, sync::Arc};

use crate::{config::QueueConfig, ids::RequestId, time::Time};

/// One queue on record.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) config: QueueConfig,
    /// Its name now: the broker's, if it has none of its own.
    pub(crate) name: Arc<str>,
    /// The requests that had the broker name it: who learns of a new name.
    pub(crate) requests: Vec<RequestId>,
    /// Whether it stands on the current connection.
    pub(crate) standing: bool,
}

impl Recorded {
    /// It no longer stands, as far as is known: the declaration that finds it or makes it again.
    fn again(&mut self) -> Declaration {
        self.standing = false;
        let mut config = self.config.clone();
        let server_named = config.name.is_empty();
        let why = if server_named && !config.exclusive {
            config.name = self.name.clone();
            config.passive = true;
            Why::LookUp(self.name.clone())
        } else {
            Why::Replay(self.name.clone())
        };
        Declaration::new(config, why)
    }
}

/// A declaration to send.
#[derive(Clone, Debug)]
pub(crate) struct Declaration {
    pub(crate) config: QueueConfig,
    pub(crate) why: Why,
    /// Attempts refused with 405: a named exclusive queue is held by a connection that the broker
    /// has not reaped yet (s39).
    pub(crate) locked: u32,
    /// It is not sent again before.
    pub(crate) not_before: Time,
}

impl Declaration {
    pub(crate) const fn new(config: QueueConfig, why: Why) -> Self {
        Self { config, why, locked: 0, not_before: Time::ZERO }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The application asked; nobody may be waiting any more.
    Request(RequestId),
    /// It is replayed: the recorded queue of this name.
    Replay(Arc<str>),
    /// A server-named queue is looked up first: it may have survived.
    LookUp(Arc<str>),
}

/// The record, and the declarations on their way through the control channel, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    queues: Vec<Recorded>,
    /// In this order, but for those that must wait.
    pub(crate) todo: VecDeque<Declaration>,
}

impl Topology {
    /// Puts every recorded queue on the list again, ahead of what the application asked for since.
    pub(crate) fn replay(&mut self) {
        self.todo.retain(|declaration| matches!(declaration.why, Why::Request(_)));
        for queue in self.queues.iter_mut().rev() {
            self.todo.push_front(queue.again());
        }
    }

    /// Puts the queues that stand and have a name of their own on the list again: whether they still
    /// stand is not certain. Those that the broker named went with their connection, or are looked up
    /// once that is found to be lost.
    pub(crate) fn verify(&mut self) {
        let named = |queue: &&mut Recorded| queue.standing && !queue.config.name.is_empty();
        for queue in self.queues.iter_mut().rev().filter(named) {
            self.todo.push_front(queue.again());
        }
    }

    /// Takes the first declaration that need not wait.
    pub(crate) fn next(&mut self, now: Time) -> Option<Declaration> {
        let due = self.todo.iter().position(|declaration| declaration.not_before <= now)?;
        self.todo.remove(due)
    }

    /// When the first of those that wait may be sent.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.todo.iter().map(|declaration| declaration.not_before).min()
    }

    /// Whether everything on record stands.
    pub(crate) fn is_standing(&self) -> bool {
        self.queues.iter().all(|queue| queue.standing)
    }

    /// Whether the queue stands, as far as we are concerned: one that is not on record does.
    pub(crate) fn stands(&self, name: &str) -> bool {
        self.queues.iter().all(|queue| queue.standing || *queue.name != *name)
    }

    /// Whether only the connection that declared it may use it.
    pub(crate) fn is_exclusive(&self, name: &str) -> bool {
        self.queues.iter().any(|queue| queue.config.exclusive && *queue.name == *name)
    }

    pub(crate) fn find_mut(&mut self, name: &str) -> Option<&mut Recorded> {
        self.queues.iter_mut().find(|queue| *queue.name == *name)
    }

    /// Records a queue that the broker declared.
    pub(crate) fn record(&mut self, config: QueueConfig, name: Arc<str>, request: RequestId) {
        if config.passive {
            return;
        }
        // Only a queue that the broker named is ever renamed.
        let requests = if config.name.is_empty() { vec![request] } else { Vec::new() };
        match self.find_mut(&name) {
            Some(queue) => {
                queue.config = config;
                queue.standing = true;
                queue.requests.extend(requests);
            }
            None => self.queues.push(Recorded { config, name, requests, standing: true }),
        }
    }

    /// Drops a queue from the record, and from the list, if it is an auto-delete one.
    pub(crate) fn forget_auto_delete(&mut self, name: &str) {
        if !self.find_mut(name).is_some_and(|queue| queue.config.auto_delete) {
            return;
        }
        self.queues.retain(|queue| *queue.name != *name);
        self.todo.retain(|declaration| match &declaration.why {
            Why::Replay(queue) | Why::LookUp(queue) => **queue != *name,
            Why::Request(_) => true,
        });
    }

    /// What this request asked for is not sent, if it was not yet.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        self.todo.retain(|declaration| declaration.why != Why::Request(request));
    }

    /// Nobody holds the handle of this request any more; the queue stays on record.
    pub(crate) fn forget_request(&mut self, request: RequestId) {
        for queue in &mut self.queues {
            queue.requests.retain(|&other| other != request);
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.queues.iter().map(|queue| (&*queue.name, queue.standing))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn s38_a_server_named_queue_is_looked_up_unless_it_is_exclusive() {
        let mut topology = Topology::default();
        let mut named = QueueConfig::new("").unwrap();
        topology.record(named.clone(), "amq.gen-1".into(), RequestId(1));
        named.exclusive = true;
        topology.record(named, "amq.gen-2".into(), RequestId(2));
        topology.record(QueueConfig::new("orders").unwrap(), "orders".into(), RequestId(3));
        topology.replay();
        let todo: Vec<_> = topology
            .todo
            .iter()
            .map(|d| (&*d.config.name, d.config.passive, d.why.clone()))
            .collect();
        assert_eq!(
            todo,
            [
                ("amq.gen-1", true, Why::LookUp("amq.gen-1".into())),
                ("", false, Why::Replay("amq.gen-2".into())),
                ("orders", false, Why::Replay("orders".into())),
            ]
        );
        assert!(!topology.is_standing() && !topology.stands("orders") && topology.stands("other"));
    }

    #[test]
    fn s40_a_passive_declaration_is_never_recorded() {
        let mut topology = Topology::default();
        let config = QueueConfig { passive: true, ..QueueConfig::new("orders").unwrap() };
        topology.record(config, "orders".into(), RequestId(1));
        assert!(topology.queues.is_empty());
    }
}
