//! Deliveries in batches: one shared allocation holds the bodies of many side by side.

#[cfg(any(test, feature = "test-util"))]
mod for_test;

use bytes::Bytes;

/// Deliveries of one consumer that arrived together, at most 32 KiB of them (or one large one).
///
/// A delivery is a handle on its batch and an index. Keeping one keeps its batch: at most 32 KiB.
#[derive(Debug, Default)]
pub struct Batch {
    generation: u64,
    entries: Vec<Entry>,
    data: Vec<u8>,
    /// The body of the only entry, if it was too large to be copied.
    large: Option<Bytes>,
}

#[derive(Debug)]
struct Entry {
    tag: u64,
    names: u32,
    properties: u32,
    body: u32,
    end: u32,
    redelivered: bool,
}

impl Batch {
    /// The generation of the channel that it came on. Grows with every channel of the session.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many deliveries it holds; never 0 when it comes from a session.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn slice(&self, from: u32, to: u32) -> &[u8] {
        self.data.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The delivery tag. Tags within a batch are consecutive.
    #[must_use]
    pub fn tag(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.tag)
    }

    /// Whether it may have been delivered before.
    #[must_use]
    pub fn redelivered(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.redelivered)
    }

    /// The body.
    #[must_use]
    pub fn body(&self, index: usize) -> &[u8] {
        match (&self.large, self.entries.get(index)) {
            (Some(body), Some(_)) => body,
            (None, Some(entry)) => self.slice(entry.body, entry.end),
            (_, None) => &[],
        }
    }

    /// The body as `Bytes`: shared if it is large, copied otherwise.
    #[must_use]
    pub fn body_bytes(&self, index: usize) -> Bytes {
        self.large.clone().unwrap_or_else(|| Bytes::copy_from_slice(self.body(index)))
    }

    /// The properties, not decoded (`wire::decode_properties` takes them).
    #[must_use]
    pub fn raw_properties(&self, index: usize) -> &[u8] {
        self.entries.get(index).map_or(&[], |entry| self.slice(entry.properties, entry.body))
    }

    /// Exchange and routing key.
    fn names(&self, index: usize) -> (&str, &str) {
        let Some(entry) = self.entries.get(index) else { return ("", "") };
        let names = self.data.get(entry.names as usize..).unwrap_or_default();
        let Some((&length, rest)) = names.split_first() else { return ("", "") };
        let Some((exchange, rest)) = rest.split_at_checked(usize::from(length)) else {
            return ("", "");
        };
        let Some((&length, rest)) = rest.split_first() else { return ("", "") };
        let key = rest.get(..usize::from(length)).unwrap_or_default();
        // Checked when the batch was filled.
        (std::str::from_utf8(exchange).unwrap_or(""), std::str::from_utf8(key).unwrap_or(""))
    }

    /// The exchange that it was published to.
    #[must_use]
    pub fn exchange(&self, index: usize) -> &str {
        self.names(index).0
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self, index: usize) -> &str {
        self.names(index).1
    }

    /// Bytes of all bodies.
    #[must_use]
    pub fn body_len(&self) -> usize {
        (0..self.len()).map(|index| self.body(index).len()).sum()
    }
}
