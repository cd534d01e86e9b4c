//! Deliveries in batches: one shared allocation holds the bodies of many side by side.

use bytes::Bytes;

use crate::wire::split_names;

/// The most bytes that one batch holds side by side.
pub(crate) const BATCH_BYTES: usize = 32 << 10;

/// What a delivery counts in a bounded queue beside its body and properties: what it costs us.
const OVERHEAD: u64 = 64;

/// What a delivery counts in a bounded queue, in bytes.
pub(crate) const fn weight(properties: usize, body: usize) -> u64 {
    properties as u64 + body as u64 + OVERHEAD
}

/// Deliveries of one consumer that arrived together, at most 32 KiB of them (or one large one).
///
/// A delivery is a handle on its batch and an index. Keeping one keeps its batch: at most 32 KiB.
#[derive(Debug, Default)]
#[cfg_attr(feature = "model", derive(Clone))]
pub struct Batch {
    generation: u64,
    entries: Vec<Entry>,
    data: Vec<u8>,
    weight: u64,
    /// The body of the only entry, if it was too large to be copied.
    large: Option<Bytes>,
}

#[derive(Debug)]
#[cfg_attr(feature = "model", derive(Clone))]
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

    #[inline]
    fn slice(&self, from: u32, to: u32) -> &[u8] {
        self.data.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The delivery tag. Tags within a batch are consecutive.
    #[must_use]
    #[inline]
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
    #[inline]
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

    /// What its deliveries count in a bounded queue, in bytes: bodies, properties, and 64 each.
    #[must_use]
    pub const fn weight(&self) -> u64 {
        self.weight
    }

    /// A batch of one, made by hand: for tests of applications, and for `Delivery::for_test`.
    #[must_use]
    pub fn single(
        generation: u64,
        tag: u64,
        routing_key: &str,
        properties: &[u8],
        body: &[u8],
    ) -> Self {
        let mut batch = Self::new(generation);
        let mut names = vec![0, u8::try_from(routing_key.len()).unwrap_or(0)];
        if names[1] > 0 {
            names.extend_from_slice(routing_key.as_bytes());
        }
        batch.push(tag, false, &names, properties, body);
        batch
    }

    pub(crate) fn new(generation: u64) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Makes room for a delivery and as many `more` of its size as belong into this batch, at once.
    pub(crate) fn reserve(&mut self, more: usize, each: usize, names: usize) {
        let fitting = BATCH_BYTES.saturating_sub(names) / each.max(1);
        let count = more.min(fitting) + 1;
        self.entries.reserve_exact(count);
        self.data.reserve_exact(names + count * each);
    }

    /// Whether one more delivery of this size still belongs into this batch.
    #[inline]
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.large.is_none() && self.data.len() + length <= BATCH_BYTES
    }

    /// Appends a delivery whose body is small enough to be copied. `names` and `properties` as they
    /// came from the wire.
    #[inline]
    pub(crate) fn push(
        &mut self,
        tag: u64,
        redelivered: bool,
        names: &[u8],
        properties: &[u8],
        body: &[u8],
    ) {
        self.weight += weight(properties.len(), body.len());
        let names = self.put_names(names);
        let properties_at = self.data.len() as u32;
        self.data.extend_from_slice(properties);
        let body_at = self.data.len() as u32;
        self.data.extend_from_slice(body);
        let end = self.data.len() as u32;
        self.entries.push(Entry {
            tag,
            names,
            properties: properties_at,
            body: body_at,
            end,
            redelivered,
        });
    }

    /// Makes this the batch of a single large delivery.
    pub(crate) fn push_large(
        &mut self,
        tag: u64,
        redelivered: bool,
        names: &[u8],
        properties: &[u8],
        body: Bytes,
    ) {
        self.push(tag, redelivered, names, properties, &[]);
        self.weight += body.len() as u64;
        self.large = Some(body);
    }

    /// Stores exchange and routing key, once for neighbours that share them. Invalid UTF-8 (which
    /// AMQP forbids and brokers pass on) is replaced, so that it harms nobody but its own message.
    #[inline]
    fn put_names(&mut self, names: &[u8]) -> u32 {
        if let Some(last) = self.entries.last()
            && self.data.get(last.names as usize..last.names as usize + names.len()) == Some(names)
        {
            return last.names;
        }
        let at = self.data.len() as u32;
        match std::str::from_utf8(names.get(1..).unwrap_or_default()) {
            Ok(_) => self.data.extend_from_slice(names),
            Err(_) => self.put_lossy_names(names),
        }
        at
    }

    #[cold]
    fn put_lossy_names(&mut self, names: &[u8]) {
        let (exchange, key) = split_names(names).unwrap_or_default();
        for name in [exchange, key] {
            let mut lossy = String::from_utf8_lossy(name).into_owned();
            while lossy.len() > 255 {
                lossy.pop();
            }
            self.data.push(lossy.len() as u8);
            self.data.extend_from_slice(lossy.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn names(exchange: &[u8], key: &[u8]) -> Vec<u8> {
        let mut names = vec![exchange.len() as u8];
        names.extend(exchange);
        names.push(key.len() as u8);
        names.extend(key);
        names
    }

    #[test]
    fn every_part_of_every_delivery_comes_back() {
        let mut batch = Batch::new(3);
        for tag in 1..=50_u64 {
            let key = format!("key-{}", tag / 7);
            let body = vec![tag as u8; tag as usize];
            let properties = vec![0, 0, tag as u8];
            batch.push(tag, tag % 2 == 0, &names(b"ex", key.as_bytes()), &properties, &body);
        }
        assert_eq!((batch.generation(), batch.len()), (3, 50));
        for index in 0..50 {
            let tag = index as u64 + 1;
            assert_eq!(batch.tag(index), tag);
            assert_eq!(batch.redelivered(index), tag.is_multiple_of(2));
            assert_eq!(
                (batch.exchange(index), batch.routing_key(index)),
                ("ex", &*format!("key-{}", tag / 7))
            );
            assert_eq!(batch.raw_properties(index), [0, 0, tag as u8]);
            assert_eq!(batch.body(index), vec![tag as u8; tag as usize]);
        }
        assert!(batch.body(50).is_empty());
    }

    #[test]
    fn f21_a_name_that_is_no_utf8_is_replaced_and_its_neighbours_are_whole() {
        let mut batch = Batch::new(1);
        batch.push(1, false, &names(b"", b"good"), &[0, 0], b"a");
        batch.push(2, false, &names(b"\xff", &[0xC3; 255]), &[0, 0], b"b");
        batch.push(3, false, &names(b"", b"good"), &[0, 0], b"c");
        assert_eq!(
            (batch.exchange(1), batch.routing_key(1).chars().next()),
            ("\u{fffd}", Some('\u{fffd}'))
        );
        assert_eq!(batch.body(1), b"b");
        assert_eq!((batch.routing_key(2), batch.body(2)), ("good", &b"c"[..]));
    }

    #[test]
    fn a_batch_holds_32_kib_side_by_side_or_one_large_body() {
        let mut batch = Batch::new(1);
        assert!(batch.has_room(BATCH_BYTES) && !batch.has_room(BATCH_BYTES + 1));
        batch.push(1, false, &names(b"", b"key"), &[0, 0], &[7; 100]);
        let held = 5 + 2 + 100;
        assert!(batch.has_room(BATCH_BYTES - held) && !batch.has_room(BATCH_BYTES - held + 1));
        assert_eq!(batch.weight(), weight(2, 100));
        let mut batch = Batch::new(1);
        batch.push_large(1, false, &names(b"", b"key"), &[0, 0], Bytes::from_static(b"large"));
        assert!(!batch.has_room(0), "a second one would get the first one's body");
        assert_eq!((batch.weight(), batch.body(0)), (weight(2, 5), &b"large"[..]));
    }

    #[test]
    fn neighbours_share_their_names() {
        let mut batch = Batch::new(1);
        for tag in 1..=9 {
            let key: &[u8] = if tag < 4 { b"one" } else { b"two" };
            batch.push(tag, false, &names(b"ex", key), &[], &[]);
        }
        assert_eq!(batch.data.len(), 2 * 7);
        assert_eq!((batch.routing_key(2), batch.routing_key(8)), ("one", "two"));
    }

    #[test]
    fn f21_a_replaced_name_has_255_bytes_at_most() {
        for (length, expected) in [(251, 254), (252, 255), (253, 255)] {
            let mut name = vec![0xFF];
            name.resize(1 + length, b'a');
            let mut batch = Batch::new(1);
            batch.push(1, false, &names(b"", &name), &[], b"x");
            assert_eq!((batch.routing_key(0).len(), batch.body(0)), (expected, &b"x"[..]));
        }
    }

    #[test]
    fn a_batch_made_by_hand_has_what_it_was_given() {
        for (key, seen) in [("orders", "orders"), ("", ""), (&*"x".repeat(256), "")] {
            let batch = Batch::single(3, 7, key, &[0, 0], b"body");
            assert_eq!((batch.generation(), batch.tag(0), batch.routing_key(0)), (3, 7, seen));
            assert_eq!((batch.raw_properties(0), batch.body(0)), (&[0, 0][..], &b"body"[..]));
        }
    }
}
