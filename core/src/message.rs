//! Messages: a body and its properties.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use bytes::Bytes;

use crate::error::{InvalidMessage, NameTooLong};

/// The properties of a message (specification 1.8.2), as amq-protocol has them.
pub type Properties = BasicProperties;

/// Bodies up to this length live inside the message itself, without an allocation.
const INLINE: usize = 64;

/// A message to publish: a body, and properties if it has any of its own.
///
/// Made from anything that is a body (`&str`, `String`, `Vec<u8>`, `Bytes`, …), or by
/// [`Message::new`] and setters. Cloning is cheap: bodies up to 64 bytes are copied (they live in the
/// message), longer ones and the properties are shared.
///
/// A setter that is given a value AMQP cannot carry (a string over 255 bytes) keeps the error;
/// publishing the message then fails with `PublishError::Invalid`.
#[derive(Clone)]
pub struct Message {
    body: Body,
    properties: Option<Arc<Draft>>,
}

#[derive(Clone)]
enum Body {
    Inline(heapless::Vec<u8, INLINE, u8>),
    Shared(Bytes),
}

/// Properties, and the first thing that was wrong with them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Draft {
    properties: Properties,
    invalid: Option<InvalidMessage>,
}

impl Message {
    /// A message with this body and no properties of its own.
    #[must_use]
    pub fn new(body: impl Into<Self>) -> Self {
        body.into()
    }

    /// An empty message: what is left where a message was taken.
    pub(crate) const fn empty() -> Self {
        Self { body: Body::Shared(Bytes::new()), properties: None }
    }

    #[inline]
    fn from_slice(body: &[u8]) -> Self {
        match Self::inline(body) {
            Some(message) => message,
            None => Self::shared(Bytes::copy_from_slice(body)),
        }
    }

    #[inline]
    fn from_bytes(body: Bytes) -> Self {
        match Self::inline(&body) {
            Some(message) => message,
            None => Self::shared(body),
        }
    }

    #[inline]
    fn inline(body: &[u8]) -> Option<Self> {
        let mut inline = heapless::Vec::new();
        inline.extend_from_slice(body).ok()?;
        Some(Self { body: Body::Inline(inline), properties: None })
    }

    #[inline]
    const fn shared(body: Bytes) -> Self {
        Self { body: Body::Shared(body), properties: None }
    }

    /// The body.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Body::Inline(body) => body,
            Body::Shared(body) => body,
        }
    }

    /// The body as `Bytes`; copied if it is at most 64 bytes long.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.body {
            Body::Inline(body) => Bytes::copy_from_slice(body),
            Body::Shared(body) => body.clone(),
        }
    }

    /// The body if it is shared, for queueing it without a copy.
    #[inline]
    pub(crate) const fn shared_body(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Inline(_) => None,
            Body::Shared(body) => Some(body),
        }
    }

    /// The properties, if any were set.
    #[must_use]
    #[inline]
    pub fn properties(&self) -> Option<&Properties> {
        self.properties.as_deref().map(|draft| &draft.properties)
    }

    /// Replaces all properties.
    #[must_use]
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.properties = Some(Arc::new(Draft { properties, invalid: None }));
        self
    }

    /// The first value set that AMQP cannot carry.
    pub(crate) fn invalid(&self) -> Option<&InvalidMessage> {
        self.properties.as_deref().and_then(|draft| draft.invalid.as_ref())
    }

    /// Whether both have the very same properties (shared, or none): their encoding can be reused.
    pub(crate) fn shares_properties_with(&self, other: &Self) -> bool {
        match (&self.properties, &other.properties) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// A message without a body that shares this one's properties: a key for cached encodings.
    pub(crate) fn properties_only(&self) -> Self {
        Self { body: Body::Shared(Bytes::new()), properties: self.properties.clone() }
    }

    fn set(mut self, set: impl FnOnce(Properties) -> Properties) -> Self {
        let draft = Arc::make_mut(self.properties.get_or_insert_default());
        draft.properties = set(std::mem::take(&mut draft.properties));
        self
    }

    fn set_short(
        mut self,
        what: &'static str,
        value: &str,
        set: impl FnOnce(Properties, ShortString) -> Properties,
    ) -> Self {
        match ShortString::try_new(value) {
            Ok(value) => self.set(|properties| set(properties, value)),
            Err(_) => {
                let draft = Arc::make_mut(self.properties.get_or_insert_default());
                draft.invalid.get_or_insert(NameTooLong { what, length: value.len() }.into());
                self
            }
        }
    }

    /// Sets the content type, such as `application/json`.
    #[must_use]
    pub fn content_type(self, value: &str) -> Self {
        self.set_short("content type", value, Properties::with_content_type)
    }

    /// Sets the content encoding, such as `gzip`.
    #[must_use]
    pub fn content_encoding(self, value: &str) -> Self {
        self.set_short("content encoding", value, Properties::with_content_encoding)
    }

    /// Sets whether the broker writes the message to disk. Unset, confirm producers publish
    /// persistent messages and fire-and-forget producers transient ones.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        self.set(|properties| properties.with_delivery_mode(if persistent { 2 } else { 1 }))
    }

    /// Sets the priority (0 to 9, for queues with `x-max-priority`).
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.set(|properties| properties.with_priority(priority))
    }

    /// Sets the correlation id.
    #[must_use]
    pub fn correlation_id(self, value: &str) -> Self {
        self.set_short("correlation id", value, Properties::with_correlation_id)
    }

    /// Sets the queue that replies go to.
    #[must_use]
    pub fn reply_to(self, value: &str) -> Self {
        self.set_short("reply-to", value, Properties::with_reply_to)
    }

    /// Sets the time to live in the broker's queue, in whole milliseconds.
    #[must_use]
    pub fn expiration(self, after: Duration) -> Self {
        self.set_short("expiration", &after.as_millis().to_string(), Properties::with_expiration)
    }

    /// Sets the message id. Unset, confirm producers generate one (see `Options::message_ids`).
    #[must_use]
    pub fn message_id(self, value: &str) -> Self {
        self.set_short("message id", value, Properties::with_message_id)
    }

    /// Sets the timestamp, in seconds since 1970.
    #[must_use]
    pub fn timestamp(self, seconds: u64) -> Self {
        self.set(|properties| properties.with_timestamp(seconds))
    }

    /// Sets the message's type.
    #[must_use]
    pub fn kind(self, value: &str) -> Self {
        self.set_short("type", value, Properties::with_type)
    }

    /// Sets the user id; the broker checks that it is ours.
    #[must_use]
    pub fn user_id(self, value: &str) -> Self {
        self.set_short("user id", value, Properties::with_user_id)
    }

    /// Sets the application id.
    #[must_use]
    pub fn app_id(self, value: &str) -> Self {
        self.set_short("application id", value, Properties::with_app_id)
    }

    /// Sets one header.
    #[must_use]
    pub fn header(mut self, key: &str, value: AMQPValue) -> Self {
        let Ok(name) = ShortString::try_new(key) else {
            let draft = Arc::make_mut(self.properties.get_or_insert_default());
            draft
                .invalid
                .get_or_insert(NameTooLong { what: "header name", length: key.len() }.into());
            return self;
        };
        let mut headers: FieldTable = self
            .properties()
            .and_then(|properties| properties.headers().clone())
            .unwrap_or_default();
        headers.insert(name, value);
        self.set(|properties| properties.with_headers(headers))
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.body() == other.body() && self.properties == other.properties
    }
}

/// Shows the body's length only: bodies are the application's secrets.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.body().len())
    }
}

impl From<&[u8]> for Message {
    #[inline]
    fn from(body: &[u8]) -> Self {
        Self::from_slice(body)
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    #[inline]
    fn from(body: &[u8; N]) -> Self {
        Self::from_slice(body)
    }
}

impl From<&str> for Message {
    #[inline]
    fn from(body: &str) -> Self {
        Self::from_slice(body.as_bytes())
    }
}

impl From<&String> for Message {
    #[inline]
    fn from(body: &String) -> Self {
        Self::from_slice(body.as_bytes())
    }
}

impl From<&Vec<u8>> for Message {
    #[inline]
    fn from(body: &Vec<u8>) -> Self {
        Self::from_slice(body)
    }
}

impl From<String> for Message {
    #[inline]
    fn from(body: String) -> Self {
        Self::from(body.into_bytes())
    }
}

impl From<Vec<u8>> for Message {
    #[inline]
    fn from(body: Vec<u8>) -> Self {
        if body.len() <= INLINE { Self::from_slice(&body) } else { Self::from_bytes(body.into()) }
    }
}

impl From<Bytes> for Message {
    #[inline]
    fn from(body: Bytes) -> Self {
        Self::from_bytes(body)
    }
}

impl From<Cow<'_, str>> for Message {
    #[inline]
    fn from(body: Cow<'_, str>) -> Self {
        match body {
            Cow::Borrowed(body) => body.into(),
            Cow::Owned(body) => body.into(),
        }
    }
}

impl From<&Self> for Message {
    #[inline]
    fn from(message: &Self) -> Self {
        message.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_small() {
        assert!(size_of::<Message>() <= 80, "{}", size_of::<Message>());
    }

    #[test]
    fn bodies_of_every_length_survive() {
        for length in [0, 1, 63, 64, 65, 4096] {
            let body = vec![7; length];
            assert_eq!(Message::from(&body).body(), body);
            assert_eq!(Message::from(body.clone()).body(), body);
            assert_eq!(Message::from(Bytes::from(body.clone())).to_bytes(), body);
        }
    }

    #[test]
    fn s12_a_long_short_string_is_kept_as_an_error() {
        let message = Message::new("x").message_id(&"y".repeat(256)).reply_to("ok");
        let error = InvalidMessage::Name(NameTooLong { what: "message id", length: 256 });
        assert_eq!(message.invalid(), Some(&error));
    }

    #[test]
    fn debug_shows_the_length_only() {
        assert_eq!(format!("{:?}", Message::new("secret")), "Message(6 bytes)");
    }
}
