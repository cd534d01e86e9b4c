//! What an application receives, and how it answers.

use std::{fmt, ops::Deref, sync::Arc};

use amq_protocol::types::AMQPValue;
use bytes::Bytes;

use crate::{
    client::consumer_queue::ConsumerShared,
    consume::{Batch, Settlement},
    message::{Message, Properties},
    wire::{self, REFERENCE_HEADER, WireError},
};

/// What became of a settlement.
///
/// Nothing has to be done about any of these: a delivery that was not settled is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settle {
    /// It will be sent.
    Queued,
    /// The channel that the delivery came on is gone: the broker delivers it again.
    Stale,
    /// The delivery was settled before, by a later delivery's `ack_through` and the like.
    AlreadySettled,
    /// The queue does not know this way of settling (streams know `ack` only).
    Unsupported,
}

/// A batch, and the consumer whose it is.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) batch: Arc<Batch>,
    pub(crate) consumer: Arc<ConsumerShared>,
}

/// A message as it was received.
///
/// It shares the memory of the deliveries that arrived with it, up to 32 KiB, for as long as it is
/// kept. [`Received::to_bytes`] and [`Received::into_message`] give what does not.
#[derive(Clone)]
pub struct Received {
    parcel: Arc<Parcel>,
    index: usize,
}

impl Received {
    pub(crate) const fn new(parcel: Arc<Parcel>, index: usize) -> Self {
        Self { parcel, index }
    }

    #[inline]
    fn batch(&self) -> &Batch {
        &self.parcel.batch
    }

    /// The body.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.batch().body(self.index)
    }

    /// The body as `Bytes`. Bodies over 32 KiB are shared, others copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.batch().body_bytes(self.index)
    }

    /// The exchange that it was published to.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.batch().exchange(self.index)
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.batch().routing_key(self.index)
    }

    /// Whether it may have been delivered before. Brokers forget this when they restart, perhaps.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.batch().redelivered(self.index)
    }

    /// How many times it was delivered before: the header `x-delivery-count` where the queue counts
    /// (quorum queues), else 1 if it was redelivered, else 0.
    #[must_use]
    pub fn redelivery_count(&self) -> u64 {
        let counted = self.properties().ok().and_then(|properties| {
            let headers = properties.headers().as_ref()?;
            count(headers.inner().get("x-delivery-count")?)
        });
        counted.unwrap_or_else(|| u64::from(self.redelivered()))
    }

    /// The properties, decoded anew at each call.
    ///
    /// # Errors
    ///
    /// If they are malformed. That is the publisher's fault, and this message's alone: reject it.
    pub fn properties(&self) -> Result<Properties, WireError> {
        let properties = wire::decode_properties(self.batch().raw_properties(self.index))?;
        Ok(without_reference(properties))
    }

    /// The message, to publish it again perhaps. Properties that are malformed are left out.
    #[must_use]
    pub fn into_message(self) -> Message {
        let message = Message::from(self.to_bytes());
        match self.properties() {
            Ok(properties) if properties != Properties::default() => {
                message.with_properties(properties)
            }
            Ok(_) | Err(_) => message,
        }
    }
}

/// A header's value, if it is a count.
fn count(value: &AMQPValue) -> Option<u64> {
    match *value {
        AMQPValue::ShortShortInt(count) => count.try_into().ok(),
        AMQPValue::ShortShortUInt(count) => Some(count.into()),
        AMQPValue::ShortInt(count) => count.try_into().ok(),
        AMQPValue::ShortUInt(count) => Some(count.into()),
        AMQPValue::LongInt(count) => count.try_into().ok(),
        AMQPValue::LongUInt(count) => Some(count.into()),
        AMQPValue::LongLongInt(count) => count.try_into().ok(),
        _ => None,
    }
}

/// Without the header that is ours: it matches a return to its message, and tells nobody else
/// anything.
fn without_reference(properties: Properties) -> Properties {
    let Some(headers) = properties.headers() else { return properties };
    if !headers.contains_key(REFERENCE_HEADER) {
        return properties;
    }
    let mut headers = headers.inner().clone();
    headers.remove(REFERENCE_HEADER);
    if headers.is_empty() {
        let mut bare = Properties::default();
        macro_rules! copy {
            ($($get:ident $with:ident)*) => {
                $(if let Some(value) = properties.$get().clone() { bare = bare.$with(value); })*
            };
        }
        copy!(
            content_type with_content_type
            content_encoding with_content_encoding
            delivery_mode with_delivery_mode
            priority with_priority
            correlation_id with_correlation_id
            reply_to with_reply_to
            expiration with_expiration
            message_id with_message_id
            timestamp with_timestamp
            kind with_type
            user_id with_user_id
            app_id with_app_id
            cluster_id with_cluster_id
        );
        return bare;
    }
    properties.with_headers(headers.into())
}

/// Shows the body's length only: bodies are the application's secrets.
impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("redelivered", &self.redelivered())
            .field("body_len", &self.body().len())
            .finish_non_exhaustive()
    }
}

/// A message that has to be settled.
///
/// Settling is synchronous and cheap: it is noted here, coalesced with its neighbours, and sent by
/// the driver. Dropped without being settled, it is requeued after the consumer's requeue delay, so
/// that a forgotten delivery never stalls its consumer (unless the consumer was opened with
/// `hold_on_drop`).
#[derive(Debug)]
#[must_use = "a delivery that is dropped without being settled is requeued"]
pub struct Delivery {
    acker: Acker,
}

/// The right to settle one delivery, without its content. Dropping it requeues.
#[must_use = "an acker that is dropped without settling requeues its delivery"]
pub struct Acker {
    received: Received,
    settled: bool,
}

macro_rules! settles {
    ($($(#[$doc:meta])* $name:ident($settlement:ident, $through:literal);)*) => {
        impl Delivery {
            $($(#[$doc])*
            #[inline]
            pub fn $name(self) -> Settle {
                self.acker.$name()
            })*
        }

        impl Acker {
            $($(#[$doc])*
            #[inline]
            pub fn $name(mut self) -> Settle {
                self.settled = true;
                self.settle(Settlement::$settlement, $through)
            })*
        }
    };
}

settles! {
    /// Done: the broker forgets the message.
    ack(Ack, false);
    /// Not done: the broker delivers it again, perhaps to another consumer, perhaps at once.
    /// Prefer dropping it for a failure that may last, which waits for a moment first.
    requeue(Requeue, false);
    /// Not wanted: the broker drops the message, or moves it to the dead letter exchange.
    reject(Reject, false);
    /// Acks this one and every earlier one of its consumer that is not settled.
    ack_through(Ack, true);
    /// Requeues this one and every earlier one of its consumer that is not settled.
    requeue_through(Requeue, true);
    /// Rejects this one and every earlier one of its consumer that is not settled.
    reject_through(Reject, true);
}

impl Delivery {
    pub(crate) const fn new(parcel: Arc<Parcel>, index: usize) -> Self {
        Self { acker: Acker { received: Received::new(parcel, index), settled: false } }
    }

    /// The content, and the right to settle it: for handing them to different places.
    #[must_use = "dropping the acker requeues the delivery"]
    pub fn into_parts(self) -> (Received, Acker) {
        (self.acker.received.clone(), self.acker)
    }

    /// A delivery made by hand, for unit tests of handlers. Settling it answers
    /// [`Settle::Queued`] and goes nowhere.
    #[cfg(any(test, feature = "test-util"))]
    pub fn for_test(body: impl AsRef<[u8]>) -> Self {
        let batch = Arc::new(Batch::single(1, 1, "", &[0, 0], body.as_ref()));
        Self::new(Arc::new(Parcel { batch, consumer: ConsumerShared::detached() }), 0)
    }
}

impl Deref for Delivery {
    type Target = Received;

    #[inline]
    fn deref(&self) -> &Received {
        &self.acker.received
    }
}

impl Acker {
    /// Requeues it after the consumer's requeue delay, also if it holds dropped deliveries.
    pub(crate) fn requeue_later(mut self) -> Settle {
        self.settled = true;
        self.settle(Settlement::RequeueLater, false)
    }

    #[inline]
    fn settle(&self, settlement: Settlement, through: bool) -> Settle {
        let Parcel { batch, consumer } = &*self.received.parcel;
        consumer.settle(batch.generation(), batch.tag(self.received.index), settlement, through)
    }
}

impl Drop for Acker {
    #[inline]
    fn drop(&mut self) {
        if !self.settled && !self.received.parcel.consumer.holds_on_drop() {
            self.settle(Settlement::RequeueLater, false);
        }
    }
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acker").field(&self.received).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s45_redeliveries_are_counted_by_the_queue_or_else_by_the_flag() {
        let counted = |count: Option<AMQPValue>, redelivered: bool| {
            let mut headers = amq_protocol::types::FieldTable::default();
            if let Some(count) = count {
                headers.insert("x-delivery-count".into(), count);
            }
            let mut raw = Vec::new();
            wire::put_properties(&mut raw, &Properties::default().with_headers(headers));
            let mut batch = Batch::new(1);
            batch.push(1, redelivered, &[0, 0], &raw, b"");
            let consumer = ConsumerShared::detached();
            let parcel = Parcel { batch: Arc::new(batch), consumer };
            Received::new(Arc::new(parcel), 0).redelivery_count()
        };
        // Brokers differ in the type that they count with.
        for value in [
            AMQPValue::LongLongInt(7),
            AMQPValue::LongInt(7),
            AMQPValue::LongUInt(7),
            AMQPValue::ShortInt(7),
            AMQPValue::ShortUInt(7),
            AMQPValue::ShortShortInt(7),
            AMQPValue::ShortShortUInt(7),
        ] {
            assert_eq!(counted(Some(value), false), 7);
        }
        assert_eq!((counted(None, false), counted(None, true)), (0, 1));
        // The first delivery of a quorum queue is redelivered for no reason of its own.
        assert_eq!(counted(Some(AMQPValue::LongLongInt(0)), true), 0);
        assert_eq!(counted(Some(AMQPValue::LongLongInt(-1)), true), 1, "that is no count");
        assert_eq!(counted(Some(AMQPValue::Boolean(true)), true), 1, "nor is that");
    }

    #[test]
    fn a_delivery_made_by_hand_can_be_read_and_settled() {
        let delivery = Delivery::for_test("hello");
        assert_eq!(delivery.body(), b"hello");
        assert_eq!((delivery.exchange(), delivery.routing_key()), ("", ""));
        assert_eq!(delivery.redelivery_count(), 0);
        let (received, acker) = delivery.into_parts();
        assert_eq!(acker.ack(), Settle::Queued);
        assert_eq!(received.into_message().body(), b"hello");
    }

    #[test]
    fn debug_shows_the_length_only() {
        let text = format!("{:?}", Delivery::for_test("canary"));
        assert!(text.contains("body_len: 6") && !text.contains("canary"), "{text}");
    }
}
