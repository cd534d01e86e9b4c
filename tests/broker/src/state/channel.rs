//! One channel as the server sees it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::queue::{Entry, QueueId};

/// A consumer, for as long as the state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConsumerId(pub(super) u64);

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) id: ConsumerId,
    pub(super) tag: String,
    pub(super) queue: QueueId,
    pub(super) no_ack: bool,
    /// Zero is no limit.
    pub(super) prefetch: u16,
    pub(super) unacked: u32,
}

impl Consumer {
    pub(super) fn has_room(&self) -> bool {
        self.prefetch == 0 || self.unacked < self.prefetch.into()
    }
}

/// A message that awaits its settlement.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) tag: u64,
    pub(super) queue: QueueId,
    pub(super) entry: Entry,
    /// None for `basic.get`.
    pub(super) consumer: Option<ConsumerId>,
}

/// A publish whose content has not arrived whole.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) exchange: Arc<str>,
    pub(super) routing_key: Arc<str>,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
    /// None until the header arrived.
    pub(super) size: Option<u64>,
    pub(super) properties: Bytes,
    pub(super) body: Vec<u8>,
}

/// Publisher confirms of a channel.
#[derive(Debug)]
pub(super) struct Confirms {
    /// The tag of the next publish.
    pub(super) next_tag: u64,
    /// Decided and not told yet: the tag, and whether it is an ack.
    pub(super) decided: Vec<(u64, bool)>,
}

#[derive(Debug)]
pub(super) struct Channel {
    /// channel.close was sent; its close-ok is awaited.
    pub(super) closing: bool,
    pub(super) incoming: Option<Incoming>,
    /// The exchange and routing key of the last publish, so that equal ones share an allocation.
    pub(super) last_target: (Arc<str>, Arc<str>),
    pub(super) confirms: Option<Confirms>,
    pub(super) next_delivery_tag: u64,
    /// By delivery tag.
    pub(super) unacked: VecDeque<Unacked>,
    pub(super) consumers: Vec<Consumer>,
    /// For consumers to come.
    pub(super) prefetch: u16,
    /// For all consumers together (`global`); zero is no limit.
    pub(super) channel_prefetch: u16,
    /// The queue declared last: the one meant where a method names none.
    pub(super) last_queue: Arc<str>,
    /// What the client asked for by channel.flow.
    pub(super) flow: bool,
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            closing: false,
            incoming: None,
            last_target: (Arc::from(""), Arc::from("")),
            confirms: None,
            next_delivery_tag: 1,
            unacked: VecDeque::new(),
            consumers: Vec::new(),
            prefetch: 0,
            channel_prefetch: 0,
            last_queue: Arc::from(""),
            flow: true,
        }
    }

    /// The consumer, if it may get a delivery now.
    pub(super) fn consumer_with_room(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        let room =
            self.channel_prefetch == 0 || self.unacked.len() < usize::from(self.channel_prefetch);
        if self.closing || !self.flow {
            return None;
        }
        self.consumer(id).filter(|consumer| consumer.no_ack || (room && consumer.has_room()))
    }

    pub(super) fn consumer(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.id == id)
    }

    /// The exchange and key as shared strings.
    pub(super) fn target(&mut self, exchange: &str, routing_key: &str) -> (Arc<str>, Arc<str>) {
        if *self.last_target.0 != *exchange {
            self.last_target.0 = Arc::from(exchange);
        }
        if *self.last_target.1 != *routing_key {
            self.last_target.1 = Arc::from(routing_key);
        }
        self.last_target.clone()
    }

    /// Takes one delivery that awaits its settlement.
    pub(super) fn take_unacked(&mut self, tag: u64) -> Option<Unacked> {
        let at = self.unacked.binary_search_by_key(&tag, |unacked| unacked.tag).ok()?;
        self.unacked.remove(at)
    }

    /// Takes all deliveries up to `tag` (0: all there are). None if `tag` is not among them.
    pub(super) fn take_unacked_through(&mut self, tag: u64) -> Option<VecDeque<Unacked>> {
        if tag == 0 {
            return Some(std::mem::take(&mut self.unacked));
        }
        let at = self.unacked.binary_search_by_key(&tag, |unacked| unacked.tag).ok()?;
        let rest = self.unacked.split_off(at + 1);
        Some(std::mem::replace(&mut self.unacked, rest))
    }
}
