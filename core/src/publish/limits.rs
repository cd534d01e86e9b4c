//! What no broker could ever take is refused before it is accepted.

use crate::{
    config::{Limits, ProducerConfig},
    error::InvalidMessage,
    message::Message,
    wire::{check_encodable, properties_len},
};

/// Bytes of a header frame that are not the application's properties: frame header and end (8),
/// class, weight and body size (12), and what the session may add (message id, `x-attempt`,
/// `x-lavinmq-ref`).
const HEADER_OVERHEAD: usize = 8 + 12 + 33 + 64;

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
        if let Some(properties) = message.properties() {
            let length = properties_len(properties);
            let limit = self.frame_max.saturating_sub(HEADER_OVERHEAD);
            if length > limit || check_encodable(properties).is_err() {
                return Err(InvalidMessage::PropertiesTooLarge { length, limit });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::PublishMode;
    use amq_protocol::types::AMQPValue;

    fn limits(body_max: usize, buffer_bytes: usize, frame_max: u32) -> PublishLimits {
        let mut config = ProducerConfig::new("", "orders", PublishMode::Confirm).unwrap();
        config.buffer_bytes = buffer_bytes;
        let limits = Limits { body_max, frame_max, ..Limits::default() };
        PublishLimits::new(&config, &limits)
    }

    #[test]
    fn a_body_may_fill_each_limit_and_exceed_none() {
        for (body_max, buffer_bytes) in [(10, 20), (20, 10), (10, 10)] {
            let limits = limits(body_max, buffer_bytes, 4096);
            for length in [0, 9, 10, 11, 20, 21] {
                let message = Message::new(vec![0; length]);
                let expected = if length > body_max {
                    Err(InvalidMessage::BodyTooLarge { length, limit: body_max })
                } else if length > buffer_bytes {
                    Err(InvalidMessage::LargerThanBuffer { length, limit: buffer_bytes })
                } else {
                    Ok(())
                };
                assert_eq!(limits.check(&message), expected, "{body_max} {buffer_bytes}");
                // A hand-over looks no further where this says so.
                assert_eq!(limits.is_plain(&message), expected.is_ok(), "{length}");
            }
        }
        let with_properties = Message::new("").correlation_id("1");
        assert!(!limits(10, 10, 4096).is_plain(&with_properties));
    }

    #[test]
    fn s12_properties_may_fill_a_frame_beside_what_the_session_may_add() {
        let limits = limits(10, 10, 4096);
        // 117 bytes are not the application's.
        let limit = 4096 - 117;
        let with_header = |length: usize| {
            let text = "x".repeat(length);
            Message::new("").header("h", AMQPValue::LongString(text.as_str().into()))
        };
        let frame = properties_len(with_header(0).properties().unwrap());
        let of_length = |length: usize| with_header(length - frame);
        assert_eq!(limits.check(&of_length(limit)), Ok(()));
        let error = InvalidMessage::PropertiesTooLarge { length: limit + 1, limit };
        assert_eq!(limits.check(&of_length(limit + 1)), Err(error));
    }
}
