//! What happened, as the broker saw it: for oracles that judge a client by its broker.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    BrokerState, ConnId,
    channel::{Channel, Unacked},
    connection::Phase,
    queue::Content,
};

/// Something that happened at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact {
    /// A published message arrived whole, whatever became of it then.
    Received {
        /// On this connection.
        connection: ConnId,
        /// On this channel of it.
        channel: u16,
        /// Its routing key.
        routing_key: Arc<str>,
        /// The body.
        body: Bytes,
        /// The properties, not decoded.
        properties: Bytes,
    },
    /// A message was delivered to a consumer.
    Delivered {
        /// On this connection.
        connection: ConnId,
        /// On this channel of it.
        channel: u16,
        /// From this queue.
        queue: Arc<str>,
        /// The body.
        body: Bytes,
        /// The properties, not decoded.
        properties: Bytes,
        /// As the delivery says.
        redelivered: bool,
        /// Whether it is settled by being delivered.
        no_ack: bool,
        /// What the consumer asked for; zero is no limit.
        prefetch: u16,
        /// What the consumer has not settled, this delivery included.
        unacked: u32,
    },
    /// A consumer settled a delivery.
    Settled {
        /// On this connection.
        connection: ConnId,
        /// The body.
        body: Bytes,
        /// The properties, not decoded.
        properties: Bytes,
        /// None for an ack.
        requeue: Option<bool>,
    },
    /// The broker cancelled a consumer.
    Cancelled {
        /// On this connection.
        connection: ConnId,
        /// Deliveries of its channel that are not settled.
        unacked: usize,
    },
    /// A transport is gone.
    Lost(Lost),
}

/// How far a connection was when its transport went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// Which one.
    pub connection: ConnId,
    /// Whether it was open, and neither side had closed it.
    pub running: bool,
    /// Whether its handshake was not over.
    pub opening: bool,
    /// Whether an alarm had stopped it.
    pub blocked: bool,
    /// Publishes of which a part arrived: whether the header did, and the properties.
    pub partial: Vec<(bool, Bytes)>,
    /// The beginning of the frame that did not arrive whole.
    pub frame: Vec<u8>,
    /// Deliveries that were not settled.
    pub unacked: usize,
    /// Confirms that were decided and not sent.
    pub unconfirmed: usize,
    /// The last method that arrived.
    pub last: Option<&'static str>,
}

impl BrokerState {
    /// Records what happens, for an oracle. Grows until [`take_facts`](Self::take_facts) is called.
    pub fn record_facts(&mut self, record: bool) {
        self.facts = record.then(Vec::new);
    }

    /// What happened since the last call, in order.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        self.facts.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn note(&mut self, fact: impl FnOnce() -> Fact) {
        if let Some(facts) = &mut self.facts {
            facts.push(fact());
        }
    }

    pub(super) fn note_received(&mut self, connection: ConnId, channel: u16, content: &Content) {
        self.note(|| Fact::Received {
            connection,
            channel,
            routing_key: content.routing_key.clone(),
            body: content.body.clone(),
            properties: content.properties.clone(),
        });
    }

    pub(super) fn note_settled(
        &mut self,
        connection: ConnId,
        unacked: &Unacked,
        requeue: Option<bool>,
    ) {
        let content = &unacked.entry.content;
        self.note(|| Fact::Settled {
            connection,
            body: content.body.clone(),
            properties: content.properties.clone(),
            requeue,
        });
    }

    pub(super) fn note_lost(&mut self, id: ConnId) {
        if self.facts.is_none() {
            return;
        }
        let last = self.logs.last(id);
        let Some(connection) = self.connections.get(&id) else { return };
        let channels = || connection.channels.values();
        let lost = Lost {
            connection: id,
            running: connection.is_running(),
            opening: connection.is_unproven() || connection.phase == Phase::Open,
            blocked: connection.blocked,
            partial: channels()
                .filter_map(|channel| channel.incoming.as_ref())
                .map(|incoming| (incoming.size.is_some(), incoming.properties.clone()))
                .collect(),
            frame: connection.input.iter().take(16).copied().collect(),
            unacked: channels().map(|channel| channel.unacked.len()).sum(),
            unconfirmed: channels().map(undecided).sum(),
            last,
        };
        self.note(|| Fact::Lost(lost));
    }
}

fn undecided(channel: &Channel) -> usize {
    channel.confirms.as_ref().map_or(0, |confirms| confirms.decided.len())
}
