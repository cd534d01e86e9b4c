//! Which message it is: written in its body, read wherever it turns up.

use std::fmt;

use lavinmq_core::message::Message;

/// Which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The producer's index.
    pub producer: usize,
    /// Its number in the order of offers of this producer, from 0.
    pub number: usize,
}

impl Id {
    /// A message of about this length with this identity.
    #[must_use]
    pub fn message(self, bytes: usize) -> Message {
        if bytes == 0 {
            return Message::new("").message_id(&self.to_string());
        }
        let mut body = self.to_string().into_bytes();
        body.push(b';');
        if bytes > body.len() {
            body.resize(bytes, b'x');
        }
        Message::new(body)
    }

    /// The identity in a body, or in a message id.
    #[must_use]
    pub fn read(body: &[u8], message_id: Option<&str>) -> Option<Self> {
        let text = if body.is_empty() {
            message_id?
        } else {
            let end = body.iter().position(|&byte| byte == b';')?;
            std::str::from_utf8(&body[..end]).ok()?
        };
        let (producer, number) = text.strip_prefix('p')?.split_once('.')?;
        Some(Self { producer: producer.parse().ok()?, number: number.parse().ok()? })
    }

    pub(super) fn of(message: &Message) -> Option<Self> {
        let id = message.properties().and_then(|properties| properties.message_id().as_ref());
        Self::read(message.body(), id.map(|id| id.as_str()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}.{}", self.producer, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_identity() {
        let id = Id { producer: 3, number: 141 };
        for bytes in [0, 1, 10, 100, 5000] {
            let message = id.message(bytes);
            assert_eq!(Id::of(&message), Some(id));
            assert!(bytes == 0 || message.body().len() >= bytes);
        }
        assert_eq!(Id::read(b"something else", None), None);
    }
}
