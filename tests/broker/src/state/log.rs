//! What each connection did, for assertions.

use std::collections::{BTreeMap, VecDeque};

use super::ConnId;

/// Entries kept of one connection, and connections kept; the oldest go first.
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

#[derive(Debug, Default)]
pub(super) struct Logs(BTreeMap<ConnId, VecDeque<Logged>>);

impl Logs {
    pub(super) fn add(
        &mut self,
        connection: ConnId,
        channel: u16,
        method: &'static str,
        subject: &str,
    ) {
        let entries = self.of(connection);
        if entries.len() == ENTRIES {
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
        self.0.get(&connection).map(|log| log.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn last(&self, connection: ConnId) -> Option<&'static str> {
        Some(self.0.get(&connection)?.back()?.method)
    }

    fn of(&mut self, connection: ConnId) -> &mut VecDeque<Logged> {
        if !self.0.contains_key(&connection) && self.0.len() == CONNECTIONS {
            self.0.pop_first();
        }
        self.0.entry(connection).or_default()
    }
}
