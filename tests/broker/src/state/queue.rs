//! Queues and the messages in them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use amq_protocol::types::{AMQPValue, FieldTable};
use bytes::Bytes;
use lavinmq_core::{time::Time, wire::decode_properties};

use super::{ConnId, channel::ConsumerId};

/// A queue, for as long as the state lives: a queue declared again under the same name is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueId(pub(crate) u64);

/// A message as it was published; queues share it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) exchange: Arc<str>,
    pub(super) routing_key: Arc<str>,
    /// The properties as they came, to be delivered unchanged.
    pub(super) properties: Bytes,
    pub(super) body: Bytes,
    pub(super) persistent: bool,
    /// The property `expiration`.
    pub(super) expiration: Option<Duration>,
}

impl Content {
    /// The property `headers`; empty if the properties are malformed.
    pub(super) fn headers(&self) -> FieldTable {
        let properties = decode_properties(&self.properties).ok();
        properties.and_then(|properties| properties.headers().clone()).unwrap_or_default()
    }
}

/// A message's place in one queue.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Order within the queue; a requeued message goes back to its place.
    pub(super) position: u64,
    pub(super) content: Arc<Content>,
    pub(super) redelivered: bool,
    pub(super) expires: Option<Time>,
}

/// What happens to a publish that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    DropHead,
    RejectPublish,
}

/// What the queue's arguments say, as far as this broker knows them.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) max_length: Option<u64>,
    pub(super) overflow: Overflow,
    pub(super) message_ttl: Option<Duration>,
}

impl Limits {
    pub(super) const NONE: Self =
        Self { max_length: None, overflow: Overflow::DropHead, message_ttl: None };

    /// Reads the arguments, or says which one has no sensible value, and why.
    pub(super) fn from_arguments(arguments: &FieldTable) -> Result<Self, (&'static str, String)> {
        let message_ttl = number(arguments, "x-message-ttl")?;
        let max_length = number(arguments, "x-max-length")?;
        let overflow = match arguments.inner().get("x-overflow") {
            None => Overflow::DropHead,
            Some(how) => match text(how).as_deref() {
                Some("drop-head") => Overflow::DropHead,
                Some("reject-publish" | "reject-publish-dlx") => Overflow::RejectPublish,
                Some(_) => return Err(("x-overflow", "invalid_overflow".to_owned())),
                None => return Err(("x-overflow", unacceptable(how))),
            },
        };
        Ok(Self { max_length, overflow, message_ttl: message_ttl.map(Duration::from_millis) })
    }

    /// As [`from_arguments`](Self::from_arguments), and what RabbitMQ checks beside them, in its order,
    /// though this broker does nothing with it.
    pub(super) fn checked_by_rabbitmq(
        arguments: &FieldTable,
    ) -> Result<Self, (&'static str, String)> {
        let field = |name: &str| arguments.inner().get(name);
        for name in ["x-expires", "x-message-ttl"] {
            let time = number(arguments, name)?;
            if name == "x-expires" && time == Some(0) {
                return Err((name, "{value_zero,0}".to_owned()));
            }
            if let Some(time) = time.filter(|time| *time > u32::MAX.into()) {
                return Err((name, format!("{{value_too_large,{time}}}")));
            }
        }
        if field("x-dead-letter-routing-key").is_some() && field("x-dead-letter-exchange").is_none()
        {
            let why = "routing_key_but_no_dlx_defined".to_owned();
            return Err(("x-dead-letter-routing-key", why));
        }
        number(arguments, "x-max-length")?;
        number(arguments, "x-max-length-bytes")?;
        if let Some(most) = number(arguments, "x-max-priority")?.filter(|most| *most > 255) {
            return Err(("x-max-priority", format!("{{max_value_exceeded,{most}}}")));
        }
        let limits = Self::from_arguments(arguments)?;
        match field("x-single-active-consumer") {
            None | Some(AMQPValue::Boolean(_)) => Ok(limits),
            Some(other) => Err(("x-single-active-consumer", unacceptable(other))),
        }
    }
}

/// A count that is not negative.
fn number(
    arguments: &FieldTable,
    name: &'static str,
) -> Result<Option<u64>, (&'static str, String)> {
    let Some(value) = arguments.inner().get(name) else { return Ok(None) };
    let Some(value) = integer(value) else {
        return Err((name, format!("\"expected integer, got {}\"", type_name(value))));
    };
    match u64::try_from(value) {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err((name, format!("{{value_negative,{value}}}"))),
    }
}

fn unacceptable(value: &AMQPValue) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

/// A field that holds an integer of any width.
pub(super) fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

/// What RabbitMQ calls a field's type.
pub(super) const fn type_name(value: &AMQPValue) -> &'static str {
    match value {
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::ShortShortInt(_) => "byte",
        AMQPValue::ShortShortUInt(_) => "unsignedbyte",
        AMQPValue::ShortInt(_) => "short",
        AMQPValue::ShortUInt(_) => "unsignedshort",
        AMQPValue::LongInt(_) => "signedint",
        AMQPValue::LongUInt(_) => "unsignedint",
        AMQPValue::LongLongInt(_) => "long",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::ShortString(_) | AMQPValue::LongString(_) => "longstr",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "binary",
        AMQPValue::Void => "void",
    }
}

/// A field that holds text.
pub(super) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// Where a consumer of a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConsumerPlace {
    pub(super) connection: ConnId,
    pub(super) channel: u16,
    pub(super) id: ConsumerId,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) durable: bool,
    /// The connection that it belongs to.
    pub(super) exclusive: Option<ConnId>,
    pub(super) auto_delete: bool,
    pub(super) arguments: FieldTable,
    pub(super) limits: Limits,
    /// By position.
    pub(super) ready: VecDeque<Entry>,
    next_position: u64,
    pub(super) consumers: Vec<ConsumerPlace>,
    /// The consumer whose turn it is, as an index.
    pub(super) turn: usize,
    pub(super) exclusive_consumer: bool,
}

impl Queue {
    pub(super) fn new(
        name: Arc<str>,
        durable: bool,
        limits: Limits,
        arguments: FieldTable,
    ) -> Self {
        Self {
            name,
            durable,
            exclusive: None,
            auto_delete: false,
            arguments,
            limits,
            ready: VecDeque::new(),
            next_position: 0,
            consumers: Vec::new(),
            turn: 0,
            exclusive_consumer: false,
        }
    }

    /// Whether the queue refuses one more message.
    pub(super) fn refuses(&self) -> bool {
        self.limits.overflow == Overflow::RejectPublish && self.is_full()
    }

    fn is_full(&self) -> bool {
        self.limits.max_length.is_some_and(|max| self.ready_count() >= max)
    }

    pub(super) fn ready_count(&self) -> u64 {
        u64::try_from(self.ready.len()).unwrap_or(u64::MAX)
    }

    /// Adds a message at the end. The queue may then be over its length: see [`Self::trim`].
    pub(super) fn push(&mut self, content: Arc<Content>, now: Time) {
        let ttl = match (self.limits.message_ttl, content.expiration) {
            (Some(queue), Some(message)) => Some(queue.min(message)),
            (queue, message) => queue.or(message),
        };
        self.ready.push_back(Entry {
            position: self.next_position,
            content,
            redelivered: false,
            expires: ttl.map(|ttl| now + ttl),
        });
        self.next_position += 1;
    }

    /// Drops what is over the length limit from the head; how many that were.
    pub(super) fn trim(&mut self) -> u64 {
        let mut dropped = 0;
        if self.limits.overflow == Overflow::RejectPublish {
            // What was requeued may overrun it: a queue that refuses publishes never drops.
            return 0;
        }
        while self.limits.max_length.is_some_and(|max| self.ready_count() > max) {
            self.ready.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// Puts a delivered message back into its place.
    pub(super) fn requeue(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        match self.ready.front() {
            Some(front) if front.position < entry.position => {
                let at = self.ready.partition_point(|other| other.position < entry.position);
                self.ready.insert(at, entry);
            }
            _ => self.ready.push_front(entry),
        }
    }

    /// Drops what expired at the head (as RabbitMQ, which looks no further); how many that were.
    pub(super) fn expire(&mut self, now: Time) -> u64 {
        let mut dropped = 0;
        while self.ready.front().is_some_and(|e| e.expires.is_some_and(|at| at <= now)) {
            self.ready.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// When the message at the head expires.
    pub(super) fn next_expiry(&self) -> Option<Time> {
        self.ready.front().and_then(|entry| entry.expires)
    }
}
