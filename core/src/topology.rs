//! What was declared, so that it can be declared again after an outage (semantics s37, s38, s40).

use std::{collections::BTreeMap, sync::Arc};

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
}

impl Declaration {
    pub(crate) const fn new(config: QueueConfig, why: Why) -> Self {
        Self { config, why, locked: 0 }
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
///
/// Each question about one queue or one request takes the logarithm of how many there are: all of
/// them are asked about when the connection is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Topology {
    /// By their places, in the order in which they were recorded.
    queues: BTreeMap<u64, Recorded>,
    by_name: BTreeMap<Arc<str>, u64>,
    /// By the requests that had the broker name one.
    by_request: BTreeMap<RequestId, u64>,
    next_place: u64,
    /// Queues on record that do not stand.
    missing: usize,
    todo: Todo,
}

/// Declarations to send.
#[derive(Clone, Debug, Default)]
struct Todo {
    /// In this order.
    due: BTreeMap<i64, Declaration>,
    /// Those that must wait, by when.
    later: BTreeMap<(Time, i64), Declaration>,
    /// What the application asked for.
    requests: BTreeMap<RequestId, i64>,
}

impl Todo {
    fn push_front(&mut self, declaration: Declaration) {
        let place = self.due.first_key_value().map_or(0, |(&first, _)| first - 1);
        self.insert(place, declaration);
    }

    fn push_back(&mut self, declaration: Declaration) {
        let place = self.due.last_key_value().map_or(0, |(&last, _)| last + 1);
        self.insert(place, declaration);
    }

    fn insert(&mut self, place: i64, declaration: Declaration) {
        if let Why::Request(request) = declaration.why {
            self.requests.insert(request, place);
        }
        self.due.insert(place, declaration);
    }

    fn wait(&mut self, until: Time, declaration: Declaration) {
        let place = self.later.last_key_value().map_or(0, |(&(_, last), _)| last + 1);
        self.later.insert((until, place), declaration);
    }

    fn withdraw(&mut self, request: RequestId) {
        if let Some(place) = self.requests.remove(&request) {
            self.due.remove(&place);
        }
    }

    /// Takes the first that need not wait; first of all one that has waited.
    fn next(&mut self, now: Time) -> Option<Declaration> {
        if self.later.first_key_value().is_some_and(|(&(until, _), _)| until <= now) {
            return self.later.pop_first().map(|(_, declaration)| declaration);
        }
        let (_, declaration) = self.due.pop_first()?;
        if let Why::Request(request) = declaration.why {
            self.requests.remove(&request);
        }
        Some(declaration)
    }

    fn next_due(&self) -> Option<Time> {
        if self.due.is_empty() {
            return self.later.first_key_value().map(|(&(until, _), _)| until);
        }
        Some(Time::ZERO)
    }

    /// Keeps only what the application asked for, and of the rest what `keep` says.
    fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        let keep = |declaration: &Declaration| match &declaration.why {
            Why::Request(_) => true,
            Why::Replay(queue) | Why::LookUp(queue) => keep(queue),
        };
        self.due.retain(|_, declaration| keep(declaration));
        self.later.retain(|_, declaration| keep(declaration));
    }
}

impl Topology {
    // ---- what is to be declared ------------------------------------------------------------------

    /// Something that the application asked for.
    pub(crate) fn ask(&mut self, config: QueueConfig, request: RequestId) {
        self.todo.push_back(Declaration::new(config, Why::Request(request)));
    }

    /// A declaration that has to be sent again, ahead of the others.
    pub(crate) fn again_at_once(&mut self, declaration: Declaration) {
        self.todo.push_front(declaration);
    }

    /// The same, but not before `at`.
    pub(crate) fn again_at(&mut self, at: Time, declaration: Declaration) {
        self.todo.wait(at, declaration);
    }

    /// Puts every recorded queue on the list again, ahead of what the application asked for since.
    pub(crate) fn replay(&mut self) {
        self.todo.retain(|_| false);
        for queue in self.queues.values_mut().rev() {
            self.todo.push_front(queue.again());
        }
        self.missing = self.queues.len();
    }

    /// Puts the queues that stand and have a name of their own on the list again: whether they still
    /// stand is not certain. Those that the broker named went with their connection, or are looked up
    /// once that is found to be lost.
    pub(crate) fn verify(&mut self) {
        let named = |queue: &&mut Recorded| queue.standing && !queue.config.name.is_empty();
        for queue in self.queues.values_mut().rev().filter(named) {
            self.missing += 1;
            self.todo.push_front(queue.again());
        }
    }

    /// A queue on record has vanished: it is declared again. Whether that is news.
    pub(crate) fn redeclare(&mut self, name: &str) -> bool {
        let Some(queue) = self.find_mut(name).filter(|queue| queue.standing) else { return false };
        queue.standing = false;
        let (config, why) = (queue.config.clone(), Why::Replay(queue.name.clone()));
        self.missing += 1;
        self.todo.push_back(Declaration::new(config, why));
        true
    }

    /// Takes the first declaration that need not wait.
    pub(crate) fn next(&mut self, now: Time) -> Option<Declaration> {
        self.todo.next(now)
    }

    /// When the first of those that wait may be sent.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.todo.next_due()
    }

    /// What this request asked for is not sent, if it was not yet.
    pub(crate) fn withdraw(&mut self, request: RequestId) {
        self.todo.withdraw(request);
    }

    // ---- what stands -----------------------------------------------------------------------------

    /// Whether everything on record stands.
    pub(crate) const fn is_standing(&self) -> bool {
        self.missing == 0
    }

    /// Whether the queue stands, as far as we are concerned: one that is not on record does.
    pub(crate) fn stands(&self, name: &str) -> bool {
        self.find(name).is_none_or(|queue| queue.standing)
    }

    /// Whether only the connection that declared it may use it.
    pub(crate) fn is_exclusive(&self, name: &str) -> bool {
        self.find(name).is_some_and(|queue| queue.config.exclusive)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Recorded> {
        self.queues.get(self.by_name.get(name)?)
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Recorded> {
        self.queues.get_mut(self.by_name.get(name)?)
    }

    /// Records a queue that the broker declared.
    pub(crate) fn record(&mut self, config: QueueConfig, name: Arc<str>, request: RequestId) {
        if config.passive {
            return;
        }
        // Only a queue that the broker named is ever renamed.
        let named = config.name.is_empty();
        let requests = if named { vec![request] } else { Vec::new() };
        let place = match self.by_name.get(&name) {
            Some(&place) => place,
            None => {
                self.next_place += 1;
                self.next_place
            }
        };
        if named {
            self.by_request.insert(request, place);
        }
        match self.queues.get_mut(&place) {
            Some(queue) => {
                self.missing -= usize::from(!queue.standing);
                queue.config = config;
                queue.standing = true;
                queue.requests.extend(requests);
            }
            None => {
                self.by_name.insert(name.clone(), place);
                self.queues.insert(place, Recorded { config, name, requests, standing: true });
            }
        }
    }

    /// A recorded queue stands again, under this name. The requests that learn of it, if that is a new
    /// one; `None` if it is not on record (any more).
    pub(crate) fn stood_up(&mut self, recorded: &str, name: &Arc<str>) -> Option<Vec<RequestId>> {
        let place = *self.by_name.get(recorded)?;
        let queue = self.queues.get_mut(&place)?;
        self.missing -= usize::from(!std::mem::replace(&mut queue.standing, true));
        if *queue.name == **name {
            return Some(Vec::new());
        }
        queue.name = name.clone();
        let requests = queue.requests.clone();
        self.by_name.remove(recorded);
        if let Some(other) = self.by_name.insert(name.clone(), place) {
            // The broker gave it a name that is on record: that one is gone.
            self.drop_record(other);
        }
        Some(requests)
    }

    /// Drops a queue from the record, and from the list, if it is an auto-delete one. Whether it was.
    pub(crate) fn forget_auto_delete(&mut self, name: &str) -> bool {
        let Some(queue) = self.find(name).filter(|queue| queue.config.auto_delete) else {
            return false;
        };
        if !queue.standing {
            self.todo.retain(|queue| **queue != *name);
        }
        if let Some(place) = self.by_name.remove(name) {
            self.drop_record(place);
        }
        true
    }

    fn drop_record(&mut self, place: u64) {
        if let Some(queue) = self.queues.remove(&place) {
            self.missing -= usize::from(!queue.standing);
            for request in queue.requests {
                self.by_request.remove(&request);
            }
        }
    }

    /// Nobody holds the handle of this request any more; the queue stays on record.
    pub(crate) fn forget_request(&mut self, request: RequestId) {
        if let Some(place) = self.by_request.remove(&request)
            && let Some(queue) = self.queues.get_mut(&place)
        {
            queue.requests.retain(|&other| other != request);
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.queues.values().map(|queue| (&*queue.name, queue.standing))
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
            .due
            .values()
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

    fn queue(name: &str) -> QueueConfig {
        QueueConfig::new(name).unwrap()
    }

    #[test]
    fn s39_what_must_wait_holds_nothing_up_and_comes_first_when_its_time_has_come() {
        let mut topology = Topology::default();
        topology.record(queue("locked"), "locked".into(), RequestId(1));
        topology.replay();
        let locked = topology.next(Time::ZERO).unwrap();
        assert_eq!(topology.next_due(), None);
        let at = Time::from_nanos(100);
        topology.again_at(at, locked);
        assert_eq!(topology.next_due(), Some(at));
        for (number, name) in [(2, "first"), (3, "withdrawn"), (4, "second")] {
            topology.ask(queue(name), RequestId(number));
        }
        topology.withdraw(RequestId(3));
        assert_eq!(topology.next_due(), Some(Time::ZERO));
        let mut next = |now| topology.next(now).map(|next| next.config.name);
        assert_eq!(next(Time::ZERO).as_deref(), Some("first"));
        assert_eq!(next(at).as_deref(), Some("locked"));
        assert_eq!(next(at).as_deref(), Some("second"));
        assert_eq!(next(at), None);
    }

    #[test]
    fn s37_what_is_missing_is_counted_through_every_change() {
        let mut topology = Topology::default();
        let mut temporary = queue("temporary");
        temporary.auto_delete = true;
        topology.record(queue(""), "amq.gen-1".into(), RequestId(1));
        topology.record(temporary, "temporary".into(), RequestId(2));
        topology.record(queue("orders"), "orders".into(), RequestId(3));
        assert!(topology.is_standing());
        topology.replay();
        assert!(topology.forget_auto_delete("temporary") && !topology.forget_auto_delete("orders"));
        assert!(topology.stands("temporary") && !topology.stands("amq.gen-1"));
        // Only those who asked the broker for a name learn of another.
        let renamed = topology.stood_up("amq.gen-1", &"amq.gen-2".into());
        assert_eq!(renamed, Some(vec![RequestId(1)]));
        assert!(topology.stands("amq.gen-2") && !topology.is_standing());
        assert_eq!(topology.stood_up("amq.gen-1", &"amq.gen-1".into()), None);
        assert_eq!(topology.stood_up("orders", &"orders".into()), Some(Vec::new()));
        assert!(topology.is_standing());
        assert!(topology.redeclare("orders") && !topology.redeclare("orders"));
        assert!(!topology.is_standing());
        topology.record(queue("orders"), "orders".into(), RequestId(4));
        assert!(topology.is_standing());
        topology.verify();
        topology.forget_request(RequestId(1));
        assert_eq!(topology.stood_up("amq.gen-2", &"amq.gen-3".into()), Some(Vec::new()));
        // A name that is on record already: that record is gone.
        assert_eq!(topology.stood_up("amq.gen-3", &"orders".into()), Some(Vec::new()));
        assert!(topology.is_standing() && topology.names().count() == 1);
    }
}
