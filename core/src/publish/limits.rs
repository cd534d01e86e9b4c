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
