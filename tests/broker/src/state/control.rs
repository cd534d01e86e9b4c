//! What tests ask for: a look inside, and trouble.

use std::sync::Arc;

use amq_protocol::{
    protocol::{AMQPClass, channel as chan, connection as conn},
    types::FieldTable,
};
use bytes::Bytes;
use lavinmq_core::{
    message::{Message, Properties},
    time::Time,
    wire::{decode_properties, put_ack, put_properties},
};

use super::{
    BrokerState, ConnId, Logged,
    connection::{Output, Phase},
    frames::{MethodId, reply_text, short},
    queue::{Content, Entry, Limits, Queue, QueueId},
};
use crate::personality::{Ending, Personality};

/// Trouble that was asked for.
#[derive(Debug, Default)]
pub(super) struct Controls {
    pub(super) hold_confirms: bool,
    pub(super) reorder_confirms: bool,
    /// How many confirmed publishes are still to be nacked.
    pub(super) nack_next: u64,
    pub(super) hold_replies: bool,
    /// Replies that are held back: for whom, and the frame.
    pub(super) held_replies: Vec<(ConnId, Vec<u8>)>,
    /// What came into queues, if it is recorded.
    pub(super) enqueued: Option<Vec<Enqueued>>,
}

/// A published message as it came into a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The queue.
    pub queue: Arc<str>,
    /// On which connection it came.
    pub connection: ConnId,
    /// The body.
    pub body: Bytes,
    /// The properties, not decoded.
    pub properties: Bytes,
}

/// What happened so far, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Transports that were opened.
    pub connections: u64,
    /// Messages that arrived whole.
    pub published: u64,
    /// Messages acked to their publisher.
    pub confirmed: u64,
    /// Messages nacked to their publisher.
    pub nacked: u64,
    /// Messages returned to their publisher.
    pub returned: u64,
    /// Deliveries, those of `basic.get` included.
    pub delivered: u64,
    /// Deliveries of messages that had been delivered before.
    pub redelivered: u64,
    /// Deliveries acked by consumers.
    pub acked: u64,
    /// Deliveries rejected by consumers without being requeued.
    pub rejected: u64,
    /// Deliveries that went back into their queue.
    pub requeued: u64,
    /// Messages that a full queue dropped from its head.
    pub dropped: u64,
    /// Copies that a full queue refused.
    pub refused: u64,
    /// Messages that expired in a queue.
    pub expired: u64,
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The body.
    pub body: Bytes,
    /// The properties; empty if they are malformed.
    pub properties: Properties,
    /// The exchange that it was published to.
    pub exchange: String,
    /// The routing key that it was published with.
    pub routing_key: String,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Whether it is at a consumer now, that has not settled it.
    pub unacked: bool,
}

/// What is known about a connection.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Which one.
    pub id: ConnId,
    /// The connection's name, if the client gave it one.
    pub name: Option<String>,
    /// The user that it was opened for; empty before that.
    pub user: String,
    /// Its virtual host; empty before connection.open.
    pub vhost: String,
    /// The client's properties.
    pub client_properties: FieldTable,
    /// The heartbeat interval in seconds; 0 is none.
    pub heartbeat: u64,
    /// The largest frame, in bytes.
    pub frame_max: u32,
    /// Whether connection.open-ok was sent and nobody closed it since.
    pub is_open: bool,
    /// Whether an alarm stopped it.
    pub is_blocked: bool,
    /// Open channels.
    pub channels: usize,
    /// Consumers on all its channels.
    pub consumers: usize,
}

/// # Looking inside
impl BrokerState {
    /// The broker that this one plays.
    #[must_use]
    pub const fn personality(&self) -> Personality {
        self.settings.personality
    }

    /// The names of all queues.
    #[must_use]
    pub fn queue_names(&self) -> Vec<String> {
        self.queue_names.keys().map(|name| (**name).to_owned()).collect()
    }

    /// Whether a queue of this name exists.
    #[must_use]
    pub fn has_queue(&self, queue: &str) -> bool {
        self.queue_names.contains_key(queue)
    }

    /// How many messages of a queue are ready to be delivered; 0 if it does not exist.
    #[must_use]
    pub fn queue_depth(&self, queue: &str) -> usize {
        self.queue_by_name(queue).map_or(0, |(_, queue)| queue.ready.len())
    }

    /// How many messages of a queue are at consumers that have not settled them.
    #[must_use]
    pub fn unacked(&self, queue: &str) -> usize {
        self.queue_by_name(queue).map_or(0, |(id, _)| self.unacked_entries(id).count())
    }

    /// How many consumers a queue has.
    #[must_use]
    pub fn consumer_count(&self, queue: &str) -> usize {
        self.queue_by_name(queue).map_or(0, |(_, queue)| queue.consumers.len())
    }

    /// The messages of a queue in their order, those at consumers included. Empty if it does not exist.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        let Some((id, queue)) = self.queue_by_name(queue) else { return Vec::new() };
        let ready = queue.ready.iter().map(|entry| (entry, false));
        let mut all: Vec<(&Entry, bool)> =
            ready.chain(self.unacked_entries(id).map(|entry| (entry, true))).collect();
        all.sort_by_key(|(entry, _)| entry.position);
        all.into_iter().map(|(entry, unacked)| stored(entry, unacked)).collect()
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The connections that stand, in the order in which they came.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let info = |(id, connection): (&ConnId, &super::Connection)| ConnectionInfo {
            id: *id,
            name: connection
                .client_properties
                .inner()
                .get("connection_name")
                .and_then(super::queue::text),
            user: connection.user.clone(),
            vhost: connection.vhost.clone(),
            client_properties: connection.client_properties.clone(),
            heartbeat: connection.heartbeat.as_secs(),
            frame_max: connection.frame_max,
            is_open: connection.is_running(),
            is_blocked: connection.blocked,
            channels: connection.channels.values().filter(|channel| !channel.closing).count(),
            consumers: connection.channels.values().map(|channel| channel.consumers.len()).sum(),
        };
        self.connections.iter().map(info).collect()
    }

    /// The methods that a connection's client sent, in their order; also of a connection that is gone.
    /// The last 4,096 of each of the last 1,024 connections are kept.
    #[must_use]
    pub fn log(&self, id: ConnId) -> Vec<Logged> {
        self.logs.read(id)
    }

    /// Keeps no more than so many methods of each of so many connections: see [`log`](Self::log).
    pub fn limit_log(&mut self, methods: usize, connections: usize) {
        self.logs.limit(methods, connections);
    }

    fn queue_by_name(&self, name: &str) -> Option<(QueueId, &Queue)> {
        let id = *self.queue_names.get(name)?;
        Some((id, self.queues.get(&id)?))
    }

    fn unacked_entries(&self, queue: QueueId) -> impl Iterator<Item = &Entry> {
        self.connections
            .values()
            .flat_map(|connection| connection.channels.values())
            .flat_map(|channel| &channel.unacked)
            .filter(move |unacked| unacked.queue == queue)
            .map(|unacked| &unacked.entry)
    }
}

/// # Recording
impl BrokerState {
    /// Records every published message that comes into a queue, for a test that wants to know what was
    /// ever there. Grows until [`take_enqueued`](Self::take_enqueued) is called.
    pub fn record_enqueued(&mut self, record: bool) {
        self.controls.enqueued = record.then(Vec::new);
    }

    /// What came into queues since the last call, in order.
    pub fn take_enqueued(&mut self) -> Vec<Enqueued> {
        self.controls.enqueued.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn record(&mut self, connection: ConnId, queue: QueueId, content: &Content) {
        if let Some(enqueued) = &mut self.controls.enqueued
            && let Some(queue) = self.queues.get(&queue)
        {
            enqueued.push(Enqueued {
                queue: queue.name.clone(),
                connection,
                body: content.body.clone(),
                properties: content.properties.clone(),
            });
        }
    }

    /// The numbers of a connection's open channels.
    #[must_use]
    pub fn channels(&self, id: ConnId) -> Vec<u16> {
        let open = |connection: &super::Connection| {
            let channels = connection.channels.iter().filter(|(_, channel)| !channel.closing);
            channels.map(|(number, _)| *number).collect()
        };
        self.connections.get(&id).map(open).unwrap_or_default()
    }
}

/// # Making trouble
impl BrokerState {
    /// Declares a durable queue, if none of this name exists.
    pub fn declare_queue(&mut self, name: &str) {
        if !self.queue_names.contains_key(name) {
            let id = QueueId(self.next_queue);
            self.next_queue += 1;
            let name: Arc<str> = Arc::from(name);
            let queue = Queue::new(name.clone(), true, Limits::NONE, FieldTable::default());
            self.queues.insert(id, queue);
            self.queue_names.insert(name, id);
        }
    }

    /// Puts a message into a queue, as if somebody had published it to the default exchange; false if
    /// there is no such queue, or it refuses the message.
    pub fn put(&mut self, queue: &str, message: &Message, now: Time) -> bool {
        self.advance(now);
        let Some((id, queue)) = self.queue_by_name(queue) else { return false };
        let mut properties = Vec::new();
        match message.properties() {
            Some(set) => put_properties(&mut properties, set),
            None => properties.extend_from_slice(&[0, 0]),
        }
        let persistent = message.properties().and_then(|set| *set.delivery_mode()) == Some(2);
        let content = Content {
            exchange: Arc::from(""),
            routing_key: queue.name.clone(),
            properties: properties.into(),
            body: message.to_bytes(),
            persistent,
            expiration: None,
        };
        self.enqueue(id, &Arc::new(content))
    }

    /// Deletes a queue, if it exists: its consumers are cancelled, its messages are gone.
    pub fn delete_queue(&mut self, queue: &str, now: Time) {
        self.advance(now);
        if let Some(id) = self.queue_names.get(queue).copied() {
            self.delete_queue_id(id);
        }
    }

    /// Removes the messages that are ready in a queue; how many that were.
    pub fn purge(&mut self, queue: &str) -> usize {
        let id = self.queue_names.get(queue).copied();
        id.map_or(0, |id| self.purge_queue_id(id)).try_into().unwrap_or(usize::MAX)
    }

    /// Stops publishers, as an alarm does: RabbitMQ tells a connection that publishes from now on, and
    /// reads it no longer (others notice nothing); LavinMQ closes the channel of each publish with 406.
    pub fn block(&mut self, reason: &str, now: Time) {
        self.advance(now);
        self.blocked = Some(reason.to_owned());
    }

    /// Ends what [`block`](Self::block) began.
    pub fn unblock(&mut self, now: Time) {
        self.advance(now);
        self.blocked = None;
        for id in self.connection_ids() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if !connection.blocked {
                continue;
            }
            connection.blocked = false;
            connection.last_received = self.now;
            if connection.capabilities.connection_blocked {
                let unblocked = conn::AMQPMethod::Unblocked(conn::Unblocked {});
                self.send(id, 0, &AMQPClass::Connection(unblocked));
            }
            self.announce(id);
            self.process_input(id);
        }
    }

    /// Stops reading a connection because of the alarm.
    pub(super) fn block_connection(&mut self, id: ConnId) {
        let reason = self.blocked.clone().unwrap_or_default();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.blocked || !connection.is_running() {
            return;
        }
        connection.blocked = true;
        if connection.capabilities.connection_blocked {
            let blocked = conn::Blocked { reason: short(&reason).into() };
            self.send(id, 0, &AMQPClass::Connection(conn::AMQPMethod::Blocked(blocked)));
        }
        self.announce(id);
    }

    /// Closes every connection with this reply code.
    pub fn close_connections(&mut self, code: u16, text: &str, now: Time) {
        self.advance(now);
        for id in self.connection_ids() {
            self.close_connection(id, code, text, now);
        }
    }

    /// Closes one connection with this reply code.
    pub fn close_connection(&mut self, id: ConnId, code: u16, text: &str, now: Time) {
        self.advance(now);
        let text = reply_text(code, text);
        self.close_connection_with(id, code, &text, MethodId::default());
        self.dispatch();
    }

    /// Closes one channel with this reply code; `class` and `method` say for which method.
    #[allow(clippy::too_many_arguments, reason = "the fields of channel.close")]
    pub fn close_channel(
        &mut self,
        id: ConnId,
        channel: u16,
        code: u16,
        text: &str,
        class: u16,
        method: u16,
        now: Time,
    ) {
        self.advance(now);
        let text = reply_text(code, text);
        self.close_channel_with(id, channel, code, &text, MethodId(class, method));
        self.dispatch();
    }

    /// Sends channel.flow: the client shall stop publishing on this channel, or go on.
    pub fn flow(&mut self, id: ConnId, channel: u16, active: bool, now: Time) {
        self.advance(now);
        let flow = chan::AMQPMethod::Flow(chan::Flow { active });
        self.send(id, channel, &AMQPClass::Channel(flow));
    }

    /// Sends bytes as they are: frames that no broker would send, or that come out of place.
    pub fn inject(&mut self, id: ConnId, bytes: &[u8], now: Time) {
        self.advance(now);
        self.write(id, |out| out.extend_from_slice(bytes));
    }

    /// Keeps all confirms back until [`release_confirms`](Self::release_confirms): what is published
    /// meanwhile stays in flight. (LavinMQ's nacks still go out at once.)
    pub const fn hold_confirms(&mut self) {
        self.controls.hold_confirms = true;
    }

    /// Sends the confirms that were kept back.
    pub fn release_confirms(&mut self, now: Time) {
        self.advance(now);
        self.controls.hold_confirms = false;
        self.send_all_confirms();
    }

    /// Confirms again the last tag of each confirm channel, where nothing is left to be said. Real
    /// brokers do not; a client must not mind. How many that were.
    pub fn repeat_confirms(&mut self, now: Time) -> usize {
        self.advance(now);
        let mut repeated = Vec::new();
        for (id, connection) in &self.connections {
            for (number, channel) in &connection.channels {
                if let Some(confirms) = &channel.confirms
                    && confirms.decided.is_empty()
                    && confirms.next_tag > 1
                {
                    repeated.push((*id, *number, confirms.next_tag - 1));
                }
            }
        }
        for &(id, channel, tag) in &repeated {
            self.write(id, |out| put_ack(out, channel, tag, false));
        }
        repeated.len()
    }

    /// Keeps the replies to methods on channels back until [`release_replies`](Self::release_replies) or
    /// [`drop_replies`](Self::drop_replies); what the methods ask for is done. Deliveries, confirms,
    /// returns, `basic.get`'s messages and closes are no replies.
    pub const fn hold_replies(&mut self) {
        self.controls.hold_replies = true;
    }

    /// Sends the replies that were kept back, in their order or, `shuffled`, in a random one (RabbitMQ
    /// answers pipelined methods out of order).
    pub fn release_replies(&mut self, shuffled: bool, now: Time) {
        self.advance(now);
        self.controls.hold_replies = false;
        let mut held = std::mem::take(&mut self.controls.held_replies);
        if shuffled {
            self.random.shuffle(&mut held);
        }
        for (id, frame) in held {
            self.write(id, |out| out.extend_from_slice(&frame));
        }
    }

    /// Forgets the replies that were kept back: they never come.
    pub fn drop_replies(&mut self) {
        self.controls.hold_replies = false;
        self.controls.held_replies.clear();
    }

    /// Nacks the next `n` publishes on confirm channels, instead of taking them.
    pub const fn nack_next(&mut self, n: u64) {
        self.controls.nack_next = n;
    }

    /// Whether RabbitMQ's confirms come singly, in random order and some of them late. (LavinMQ's are
    /// always cumulative.)
    pub const fn reorder_confirms(&mut self, reorder: bool) {
        self.controls.reorder_confirms = reorder;
    }

    /// The broker is shut down in an orderly way and started again: connections are closed with 320, and
    /// what is not durable is gone. RabbitMQ ends the transports without waiting for an answer.
    pub fn restart(&mut self, now: Time) {
        self.advance(now);
        let text = reply_text(320, "broker forced connection closure with reason 'shutdown'");
        for id in self.connection_ids() {
            let opened = self
                .connections
                .get(&id)
                .is_some_and(|c| !matches!(c.phase, Phase::Header | Phase::Closing | Phase::Over));
            if opened {
                self.close_connection_with(id, 320, &text, MethodId::default());
            }
            if !opened || self.settings.personality.is_rabbitmq() {
                self.end(id, self.settings.personality.ending());
            }
        }
        self.lose_what_is_transient();
    }

    /// The broker dies and is started again: connections are reset without a word, and what is not
    /// durable is gone.
    pub fn crash(&mut self, now: Time) {
        self.advance(now);
        self.cut(now);
        self.lose_what_is_transient();
    }

    /// Resets all connections without a word.
    pub fn cut(&mut self, now: Time) {
        self.advance(now);
        for id in self.connection_ids() {
            self.release_connection(id);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.output = Output::default();
            }
            self.end(id, Ending::Reset);
        }
        self.dispatch();
    }

    fn lose_what_is_transient(&mut self) {
        let transient: Vec<QueueId> =
            self.queues.iter().filter(|(_, queue)| !queue.durable).map(|(id, _)| *id).collect();
        for id in transient {
            self.delete_queue_id(id);
        }
        self.exchanges.retain(|_, exchange| exchange.durable);
        // LavinMQ forgets what it had delivered.
        let forgets = !self.settings.personality.is_rabbitmq();
        for queue in self.queues.values_mut() {
            queue.ready.retain(|entry| entry.content.persistent);
            for entry in &mut queue.ready {
                entry.redelivered &= !forgets;
            }
        }
        self.controls.hold_confirms = false;
        self.blocked = None;
    }
}

fn stored(entry: &Entry, unacked: bool) -> StoredMessage {
    let content = &entry.content;
    StoredMessage {
        body: content.body.clone(),
        properties: decode_properties(&content.properties).unwrap_or_default(),
        exchange: (*content.exchange).to_owned(),
        routing_key: (*content.routing_key).to_owned(),
        redelivered: entry.redelivered,
        unacked,
    }
}
