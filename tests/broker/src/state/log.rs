//! What each connection did, for assertions.

use std::collections::{BTreeMap, VecDeque};

use super::ConnId;

/// Entries kept of one connection, and connections kept, unless limited; the oldest go first.
const ENTRIES: usize = 4096;
const CONNECTIONS: usize = 1024;

/// A method that a connection received from its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The channel.
    pub channel: u16,
    /// Such as `"basic.consume"`.
    pub method: &'static str,
    /// What it was about: the queue, the exchange, the consumer tag's queue, the prefetch count; or
    /// empty.
    pub subject: String,
    /// How often it was received in a row. Only publishes and settlements are counted together.
    pub count: u64,
}

#[derive(Debug)]
pub(super) struct Logs {
    logs: BTreeMap<ConnId, VecDeque<Logged>>,
    entries: usize,
    connections: usize,
}

impl Default for Logs {
    fn default() -> Self {
        Self { logs: BTreeMap::new(), entries: ENTRIES, connections: CONNECTIONS }
    }
}

impl Logs {
    pub(super) fn limit(&mut self, entries: usize, connections: usize) {
        self.entries = entries.max(1);
        self.connections = connections.max(1);
    }

    pub(super) fn add(
        &mut self,
        connection: ConnId,
        channel: u16,
        method: &'static str,
        subject: &str,
    ) {
        let most = self.entries;
        let entries = self.of(connection);
        while entries.len() >= most {
            entries.pop_front();
        }
        entries.push_back(Logged { channel, method, subject: subject.to_owned(), count: 1 });
    }

    /// As `add`, but entries that follow one another directly become one.
    pub(super) fn count(
        &mut self,
        connection: ConnId,
        channel: u16,
        method: &'static str,
        subject: &str,
    ) {
        if let Some(last) = self.of(connection).back_mut()
            && last.channel == channel
            && last.method == method
            && last.subject == subject
        {
            last.count += 1;
            return;
        }
        self.add(connection, channel, method, subject);
    }

    pub(super) fn read(&self, connection: ConnId) -> Vec<Logged> {
        self.logs.get(&connection).map(|log| log.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn last(&self, connection: ConnId) -> Option<&'static str> {
        Some(self.logs.get(&connection)?.back()?.method)
    }

    fn of(&mut self, connection: ConnId) -> &mut VecDeque<Logged> {
        while !self.logs.contains_key(&connection) && self.logs.len() >= self.connections {
            self.logs.pop_first();
        }
        self.logs.entry(connection).or_default()
    }
}
