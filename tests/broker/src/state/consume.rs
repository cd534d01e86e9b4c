//! Consuming: subscriptions, deliveries, settlements.

use std::collections::VecDeque;

use amq_protocol::protocol::{AMQPClass, basic};
use lavinmq_core::wire::put_deliver;

use super::{
    BrokerState, ConnId, Fact, announce,
    channel::{Consumer, ConsumerId, Unacked},
    frames::{Refusal, put_method, short},
    publish::put_content,
    queue::{ConsumerPlace, QueueId},
};

impl BrokerState {
    pub(super) fn basic_method(
        &mut self,
        id: ConnId,
        channel: u16,
        method: basic::AMQPMethod,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        match method {
            basic::AMQPMethod::Qos(qos) => self.qos(id, channel, &qos, payload),
            basic::AMQPMethod::Consume(consume) => self.consume(id, channel, &consume),
            basic::AMQPMethod::Cancel(cancel) => {
                self.cancel(id, channel, &cancel);
                Ok(())
            }
            // The answer to a basic.cancel of ours.
            basic::AMQPMethod::CancelOk(ok) => {
                self.logs.add(id, channel, "basic.cancel-ok", ok.consumer_tag.as_str());
                Ok(())
            }
            basic::AMQPMethod::Get(get) => self.get(id, channel, &get),
            basic::AMQPMethod::Reject(reject) => {
                let requeue = Some(reject.requeue);
                self.settle(id, channel, "basic.reject", reject.delivery_tag, false, requeue)
            }
            basic::AMQPMethod::Recover(recover) => {
                self.recover(id, channel, recover.requeue)?;
                let ok = basic::AMQPMethod::RecoverOk(basic::RecoverOk {});
                self.send(id, channel, &AMQPClass::Basic(ok));
                Ok(())
            }
            basic::AMQPMethod::RecoverAsync(recover) => self.recover(id, channel, recover.requeue),
            _ => Err(Refusal::connection(503, "unimplemented method")),
        }
    }

    fn qos(
        &mut self,
        id: ConnId,
        channel: u16,
        qos: &basic::Qos,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        self.logs.add(id, channel, "basic.qos", &qos.prefetch_count.to_string());
        // amq-protocol does not keep the prefetch size, which follows class and method.
        let size = payload.get(4..8).and_then(|size| size.first_chunk().copied());
        let size = size.map_or(0, u32::from_be_bytes);
        if size != 0 {
            return Err(if self.settings.personality.is_rabbitmq() {
                Refusal::connection(540, format!("prefetch_size!=0 ({size})"))
            } else {
                Refusal::channel(540, "prefetch size is not supported")
            });
        }
        if let Some(open) = self.channel_mut(id, channel) {
            if qos.global {
                open.channel_prefetch = qos.prefetch_count;
                let queues: Vec<_> = open.consumers.iter().map(|consumer| consumer.queue).collect();
                self.dirty.extend(queues);
            } else {
                open.prefetch = qos.prefetch_count;
            }
        }
        let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
        self.send(id, channel, &AMQPClass::Basic(ok));
        Ok(())
    }

    fn consume(
        &mut self,
        id: ConnId,
        channel: u16,
        consume: &basic::Consume,
    ) -> Result<(), Refusal> {
        self.logs.add(id, channel, "basic.consume", consume.queue.as_str());
        let queue = self.accessible_queue(id, channel, consume.queue.as_str())?;
        let tag = if consume.consumer_tag.as_str().is_empty() {
            self.generated("amq.ctag-")
        } else {
            consume.consumer_tag.as_str().to_owned()
        };
        let rabbitmq = self.settings.personality.is_rabbitmq();
        let consumer = ConsumerId(self.next_consumer);
        let Some(open) = self.channel_mut(id, channel) else { return Ok(()) };
        if rabbitmq && open.consumers.iter().any(|other| other.tag == tag) {
            return Err(Refusal::connection(530, format!("attempt to reuse consumer tag '{tag}'")));
        }
        let prefetch = open.prefetch;
        if let Some(queue_state) = self.queues.get_mut(&queue) {
            let shared = !queue_state.consumers.is_empty();
            if queue_state.exclusive_consumer || (consume.exclusive && shared) {
                return Err(Refusal::channel(
                    403,
                    format!("queue '{}' in vhost '/' in exclusive use", queue_state.name),
                ));
            }
            queue_state.exclusive_consumer = consume.exclusive;
            queue_state.consumers.push(ConsumerPlace { connection: id, channel, id: consumer });
        }
        self.next_consumer += 1;
        if let Some(open) = self.channel_mut(id, channel) {
            open.consumers.push(Consumer {
                id: consumer,
                tag: tag.clone(),
                queue,
                no_ack: consume.no_ack,
                prefetch,
                unacked: 0,
            });
        }
        if !consume.nowait {
            let ok = basic::ConsumeOk { consumer_tag: short(&tag).into() };
            self.send(id, channel, &AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
        }
        self.dirty.insert(queue);
        Ok(())
    }

    fn cancel(&mut self, id: ConnId, channel: u16, cancel: &basic::Cancel) {
        let tag = cancel.consumer_tag.as_str();
        self.logs.add(id, channel, "basic.cancel", tag);
        let mut ended = None;
        if let Some(open) = self.channel_mut(id, channel)
            && let Some(at) = open.consumers.iter().position(|consumer| consumer.tag == tag)
        {
            ended = Some(open.consumers.remove(at));
        }
        if let Some(consumer) = ended {
            self.forget_consumer(consumer.queue, consumer.id);
        }
        if !cancel.nowait {
            let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
            self.send(id, channel, &AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)));
        }
    }

    /// A consumer is gone from its channel: the queue forgets it, and goes too if it was the last one of
    /// an auto-delete queue.
    pub(super) fn forget_consumer(&mut self, queue: QueueId, consumer: ConsumerId) {
        let Some(queue_state) = self.queues.get_mut(&queue) else { return };
        queue_state.consumers.retain(|place| place.id != consumer);
        queue_state.exclusive_consumer &= !queue_state.consumers.is_empty();
        if queue_state.auto_delete && queue_state.consumers.is_empty() {
            self.delete_queue_id(queue);
        }
    }

    /// Tells the consumers of a queue that is gone.
    pub(super) fn cancel_consumers(&mut self, consumers: Vec<ConsumerPlace>) {
        for place in consumers {
            let Some(connection) = self.connections.get_mut(&place.connection) else { continue };
            let notify = connection.capabilities.consumer_cancel_notify;
            let Some(open) = connection.channels.get_mut(&place.channel) else { continue };
            let Some(at) = open.consumers.iter().position(|consumer| consumer.id == place.id)
            else {
                continue;
            };
            let consumer = open.consumers.remove(at);
            let unacked = open.unacked.len();
            self.note(|| Fact::Cancelled { connection: place.connection, unacked });
            if notify {
                let cancel =
                    basic::Cancel { consumer_tag: short(&consumer.tag).into(), nowait: true };
                let cancel = AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel));
                self.send(place.connection, place.channel, &cancel);
            }
        }
    }

    fn get(&mut self, id: ConnId, channel: u16, get: &basic::Get) -> Result<(), Refusal> {
        self.logs.add(id, channel, "basic.get", get.queue.as_str());
        let queue = self.accessible_queue(id, channel, get.queue.as_str())?;
        let now = self.now;
        let Some(queue_state) = self.queues.get_mut(&queue) else { return Ok(()) };
        self.counters.expired += queue_state.expire(now);
        let Some(entry) = queue_state.ready.pop_front() else {
            let empty = basic::AMQPMethod::GetEmpty(basic::GetEmpty {});
            self.send(id, channel, &AMQPClass::Basic(empty));
            return Ok(());
        };
        // What expired behind it goes before the rest is counted.
        self.counters.expired += queue_state.expire(now);
        let left = u32::try_from(queue_state.ready.len()).unwrap_or(u32::MAX);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let frame_max = connection.frame_max;
        let Some(open) = connection.channels.get_mut(&channel) else { return Ok(()) };
        let tag = open.next_delivery_tag;
        open.next_delivery_tag += 1;
        let content = entry.content.clone();
        let ok = basic::GetOk {
            delivery_tag: tag,
            redelivered: entry.redelivered,
            exchange: short(&content.exchange).into(),
            routing_key: short(&content.routing_key).into(),
            message_count: left,
        };
        if !get.no_ack {
            open.unacked.push_back(Unacked { tag, queue, entry, consumer: None });
        }
        self.counters.delivered += 1;
        self.write(id, |out| {
            put_method(out, channel, &AMQPClass::Basic(basic::AMQPMethod::GetOk(ok)));
            put_content(out, channel, &content, frame_max);
        });
        Ok(())
    }

    fn recover(&mut self, id: ConnId, channel: u16, requeue: bool) -> Result<(), Refusal> {
        self.logs.add(id, channel, "basic.recover", "");
        if !requeue && self.settings.personality.is_rabbitmq() {
            return Err(Refusal::connection(540, "requeue=false"));
        }
        if let Some(open) = self.channel_mut(id, channel) {
            let unacked = std::mem::take(&mut open.unacked);
            for consumer in &mut open.consumers {
                consumer.unacked = 0;
            }
            self.requeue(unacked);
        }
        Ok(())
    }

    /// An ack (`requeue` is none), nack or reject.
    pub(super) fn settle(
        &mut self,
        id: ConnId,
        channel: u16,
        name: &'static str,
        tag: u64,
        multiple: bool,
        requeue: Option<bool>,
    ) -> Result<(), Refusal> {
        self.logs.count(id, channel, name, "");
        let unknown = || Refusal::channel(406, format!("unknown delivery tag {tag}"));
        let Some(open) = self.channel_mut(id, channel) else { return Ok(()) };
        if multiple {
            let settled = open.take_unacked_through(tag).ok_or_else(unknown)?;
            for unacked in &settled {
                self.note_settled(id, unacked, requeue);
                self.free_room(id, channel, unacked.consumer);
            }
            self.count_settled(requeue, settled.len() as u64);
            if requeue == Some(true) {
                self.requeue(settled);
            }
            return Ok(());
        }
        let settled = open.take_unacked(tag).ok_or_else(unknown)?;
        self.note_settled(id, &settled, requeue);
        self.free_room(id, channel, settled.consumer);
        self.count_settled(requeue, 1);
        if requeue == Some(true) {
            self.requeue(VecDeque::from([settled]));
        }
        Ok(())
    }

    const fn count_settled(&mut self, requeue: Option<bool>, n: u64) {
        match requeue {
            None => self.counters.acked += n,
            Some(false) => self.counters.rejected += n,
            // Counted as it goes back.
            Some(true) => {}
        }
    }

    /// A delivery was settled: its consumer may get another one.
    fn free_room(&mut self, id: ConnId, channel: u16, consumer: Option<ConsumerId>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(open) = connection.channels.get_mut(&channel) else { return };
        if open.channel_prefetch != 0 {
            self.dirty.extend(open.consumers.iter().map(|consumer| consumer.queue));
        }
        if let Some(consumer) = consumer.and_then(|consumer| open.consumer(consumer)) {
            if !consumer.has_room() {
                self.dirty.insert(consumer.queue);
            }
            consumer.unacked = consumer.unacked.saturating_sub(1);
        }
    }

    /// Puts deliveries back into their queues, as far as these still exist.
    pub(super) fn requeue(&mut self, unacked: VecDeque<Unacked>) {
        // Backwards, so that each one goes to the front.
        for Unacked { queue, entry, .. } in unacked.into_iter().rev() {
            if let Some(queue_state) = self.queues.get_mut(&queue) {
                queue_state.requeue(entry);
                self.counters.requeued += 1;
                self.dirty.insert(queue);
            }
        }
    }

    /// Delivers from every queue that may have something to deliver.
    pub(super) fn dispatch(&mut self) {
        while let Some(queue) = self.dirty.pop_first() {
            self.deliver(queue);
            if let Some(queue_state) = self.queues.get_mut(&queue) {
                self.counters.dropped += queue_state.trim();
            }
        }
    }

    /// Delivers from one queue to its consumers in turn, until it is empty or they have no room.
    pub(super) fn deliver(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        self.counters.expired += queue.expire(self.now);
        self.deliver_unexpired(id);
    }

    /// As [`deliver`](Self::deliver), and what has just come is delivered though its time to live is 0.
    pub(super) fn deliver_unexpired(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.consumers.is_empty() {
            return;
        }
        let mut refused_in_a_row = 0;
        while !queue.ready.is_empty() && refused_in_a_row < queue.consumers.len() {
            if queue.turn >= queue.consumers.len() {
                queue.turn = 0;
            }
            let Some(&place) = queue.consumers.get(queue.turn) else { return };
            queue.turn += 1;
            refused_in_a_row += 1;
            let Some(connection) = self.connections.get_mut(&place.connection) else { continue };
            if !connection.is_running() || connection.output.len() >= self.settings.output_limit {
                continue;
            }
            let Some(channel) = connection.channels.get_mut(&place.channel) else { continue };
            let tag = channel.next_delivery_tag;
            let Some(consumer) = channel.consumer_with_room(place.id) else { continue };
            let Some(entry) = queue.ready.pop_front() else { return };
            refused_in_a_row = 0;
            let content = &entry.content;
            let out = connection.output.buffer();
            put_deliver(
                out,
                place.channel,
                &consumer.tag,
                tag,
                entry.redelivered,
                &content.exchange,
                &content.routing_key,
            );
            put_content(out, place.channel, content, connection.frame_max);
            self.counters.delivered += 1;
            self.counters.redelivered += u64::from(entry.redelivered);
            let no_ack = consumer.no_ack;
            if !no_ack {
                consumer.unacked += 1;
            }
            if let Some(facts) = &mut self.facts {
                facts.push(Fact::Delivered {
                    connection: place.connection,
                    channel: place.channel,
                    queue: queue.name.clone(),
                    body: entry.content.body.clone(),
                    properties: entry.content.properties.clone(),
                    redelivered: entry.redelivered,
                    no_ack,
                    prefetch: consumer.prefetch,
                    unacked: consumer.unacked,
                });
            }
            channel.next_delivery_tag += 1;
            if !no_ack {
                channel.unacked.push_back(Unacked {
                    tag,
                    queue: id,
                    entry,
                    consumer: Some(place.id),
                });
            }
            connection.last_sent = self.now;
            announce(&mut self.changed, place.connection, connection);
        }
    }
}
