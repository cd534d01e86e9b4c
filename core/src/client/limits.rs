//! What no broker could ever take is refused before it is accepted.

use amq_protocol::types::{AMQPValue, FieldTable};

use crate::{
    config::{Limits, ProducerConfig},
    error::InvalidMessage,
    message::{Message, Properties},
};

/// Bytes of a header frame that are not properties: frame header and end (8), class, weight, body
/// size and flags (14), and what the session adds in confirm mode (message id, `x-attempt`,
/// `x-lavinmq-ref`), generously.
const RESERVED: usize = 8 + 14 + 128;

/// The limits that a publish is checked against, without a session at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishLimits {
    body_max: usize,
    buffer_bytes: usize,
    /// What we ask for; the broker's may be smaller (then the session ends the message as `Failed`).
    frame_max: usize,
}

impl PublishLimits {
    pub(crate) fn new(config: &ProducerConfig, limits: &Limits) -> Self {
        Self {
            body_max: limits.body_max,
            buffer_bytes: config.buffer_bytes.max(1),
            frame_max: limits.frame_max as usize,
        }
    }

    /// Whether nothing can be wrong with it: a body within the limits, and no properties.
    #[inline]
    pub(crate) fn is_plain(&self, message: &Message) -> bool {
        let length = message.body().len();
        length <= self.body_max && length <= self.buffer_bytes && message.properties().is_none()
    }

    /// Why this message can never be sent.
    pub(crate) fn check(&self, message: &Message) -> Result<(), InvalidMessage> {
        if let Some(invalid) = message.invalid() {
            return Err(invalid.clone());
        }
        let length = message.body().len();
        if length > self.body_max {
            return Err(InvalidMessage::BodyTooLarge { length, limit: self.body_max });
        }
        if length > self.buffer_bytes {
            return Err(InvalidMessage::LargerThanBuffer { length, limit: self.buffer_bytes });
        }
        // Without headers they are 13 short fields: less than the smallest frame.
        if let Some(properties) = message.properties()
            && let Some(headers) = properties.headers()
        {
            let length = short_fields(properties) + 4 + table(headers);
            let limit = self.frame_max.saturating_sub(RESERVED);
            if length > limit {
                return Err(InvalidMessage::PropertiesTooLarge { length, limit });
            }
        }
        Ok(())
    }
}

/// The encoded length of all properties but the headers.
fn short_fields(properties: &Properties) -> usize {
    let strings = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    strings.into_iter().flatten().map(|string| 1 + string.as_str().len()).sum::<usize>()
        + usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some())
        + properties.timestamp().map_or(0, |_| 8)
}

/// The encoded length of a table's entries. Iterative: an application may nest as it likes.
fn table(table: &FieldTable) -> usize {
    let mut sum = 0;
    let mut tables = vec![table];
    let mut values: Vec<&AMQPValue> = Vec::new();
    loop {
        while let Some(value) = values.pop() {
            sum += 1 + match value {
                AMQPValue::Void => 0,
                AMQPValue::Boolean(_)
                | AMQPValue::ShortShortInt(_)
                | AMQPValue::ShortShortUInt(_) => 1,
                AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
                AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
                AMQPValue::DecimalValue(_) => 5,
                AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
                AMQPValue::ShortString(string) => 1 + string.as_str().len(),
                AMQPValue::LongString(string) => 4 + string.as_bytes().len(),
                AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
                AMQPValue::FieldArray(array) => {
                    values.extend(array.as_slice());
                    4
                }
                AMQPValue::FieldTable(table) => {
                    tables.push(table);
                    4
                }
            };
        }
        let Some(table) = tables.pop() else { return sum };
        for (name, value) in table {
            sum += 1 + name.as_str().len();
            values.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::{protocol::basic, types::ShortString};

    use super::*;
    use crate::config::PublishMode;

    #[test]
    fn the_length_of_properties_is_the_encoded_one() {
        let mut inner = FieldTable::default();
        let name = |name: &str| ShortString::try_new(name).unwrap_or_default();
        inner.insert(name("void"), AMQPValue::Void);
        inner.insert(name("bytes"), AMQPValue::ByteArray(vec![1, 2, 3].into()));
        let array = vec![
            AMQPValue::FieldTable(inner),
            AMQPValue::LongInt(1),
            AMQPValue::FieldArray(vec![AMQPValue::Double(1.0), AMQPValue::ShortInt(2)].into()),
        ];
        let message = Message::new("x")
            .content_type("text/plain")
            .content_encoding("gzip")
            .correlation_id("c")
            .reply_to("r")
            .expiration(std::time::Duration::from_secs(1))
            .message_id("m")
            .kind("k")
            .user_id("u")
            .app_id("a")
            .timestamp(1)
            .priority(3)
            .persistent(true)
            .header("array", AMQPValue::FieldArray(array.into()))
            .header("long", AMQPValue::LongString("l".repeat(300).into()))
            .header("time", AMQPValue::Timestamp(7))
            .header("yes", AMQPValue::Boolean(true));
        let properties = message.properties().cloned().unwrap_or_default();
        let headers = properties.headers().clone().unwrap_or_default();
        let context = amq_protocol::types::generation::gen_field_table(&headers)(Vec::new().into());
        let headers_length =
            context.map(|context| context.into_inner().0.len()).unwrap_or_default();
        assert_eq!(4 + table(&headers), headers_length);
        let context = basic::gen_properties(&properties)(Vec::new().into());
        let length = context.map(|context| context.into_inner().0.len()).unwrap_or_default();
        assert_eq!(2 + short_fields(&properties) + 4 + table(&headers), length, "2: the flags");
    }

    #[test]
    fn s12_deep_nesting_does_not_overflow_the_stack() {
        let mut value = AMQPValue::Void;
        for _ in 0..10_000 {
            value = AMQPValue::FieldArray(vec![value].into());
        }
        let message = Message::new("x").header("h", value);
        let Ok(config) = ProducerConfig::new("", "q", PublishMode::Confirm) else { return };
        let limits = PublishLimits::new(&config, &Limits::default());
        assert_eq!(limits.check(&message), Ok(()));
        std::mem::forget(message); // dropping it recurses: amq-protocol's, not ours
    }
}
