//! Methods (specification 4.2.4): the four that come once per message by hand, all others by
//! amq-protocol.

use amq_protocol::{
    protocol::{AMQPClass, gen_class, parse_class},
    types::parsing::ParserError,
};

use super::{
    WireError,
    content::BASIC,
    frame::{FRAME_END, FRAME_OVERHEAD, FrameKind, put_frame},
    read::{Reader, put_short},
    table::check_table,
};

/// A decoded method.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Method<'a> {
    /// `basic.deliver`.
    Deliver(Deliver<'a>),
    /// `basic.ack`, from either side.
    Ack(Ack),
    /// `basic.nack`, from either side.
    Nack(Nack),
    /// `basic.publish`.
    Publish(Publish<'a>),
    /// Any other method.
    Other(Box<AMQPClass>),
}

/// `basic.deliver`; its strings as they came, which need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deliver<'a> {
    /// The consumer's tag.
    pub consumer_tag: &'a [u8],
    /// The delivery's tag.
    pub delivery_tag: u64,
    /// Whether the broker has delivered the message before.
    pub redelivered: bool,
    /// Exchange and routing key, two short strings side by side; see [`split_names`].
    pub names: &'a [u8],
}

impl<'a> Deliver<'a> {
    /// The length of the whole method frame.
    #[inline]
    pub(crate) const fn frame_len(&self) -> usize {
        FRAME_OVERHEAD + 4 + 1 + self.consumer_tag.len() + 8 + 1 + self.names.len()
    }

    /// The exchange that the message was published to.
    #[must_use]
    pub fn exchange(&self) -> &'a [u8] {
        split_names(self.names).unwrap_or_default().0
    }

    /// The routing key that it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &'a [u8] {
        split_names(self.names).unwrap_or_default().1
    }
}

/// `basic.ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The tag.
    pub delivery_tag: u64,
    /// Whether all tags up to it are meant.
    pub multiple: bool,
}

/// `basic.nack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The tag.
    pub delivery_tag: u64,
    /// Whether all tags up to it are meant.
    pub multiple: bool,
    /// Whether the broker shall deliver the message again (from a broker: meaningless).
    pub requeue: bool,
}

/// `basic.publish`; its strings as they came, which need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Exchange and routing key, two short strings side by side; see [`split_names`].
    pub names: &'a [u8],
    /// Whether the message is returned if no queue wants it.
    pub mandatory: bool,
    /// Whether it is returned if no consumer is ready.
    pub immediate: bool,
}

impl<'a> Publish<'a> {
    /// The exchange.
    #[must_use]
    pub fn exchange(&self) -> &'a [u8] {
        split_names(self.names).unwrap_or_default().0
    }

    /// The routing key.
    #[must_use]
    pub fn routing_key(&self) -> &'a [u8] {
        split_names(self.names).unwrap_or_default().1
    }
}

/// The two short strings that `names` consists of (exchange, routing key); `None` if it does not.
#[inline]
#[must_use]
pub fn split_names(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = names.split_first()?;
    let (exchange, rest) = rest.split_at_checked(length.into())?;
    let (&length, routing_key) = rest.split_first()?;
    (routing_key.len() == usize::from(length)).then_some((exchange, routing_key))
}

const DELIVER: u32 = id(BASIC, 60);
const ACK: u32 = id(BASIC, 80);
const NACK: u32 = id(BASIC, 120);
const PUBLISH: u32 = id(BASIC, 40);

const fn id(class: u16, method: u16) -> u32 {
    (class as u32) << 16 | method as u32
}

const AFTER: &str = "bytes after the method";

/// Whether the payload of a method frame is a delivery, for [`decode_deliver`].
#[inline]
pub(crate) fn is_deliver(payload: &[u8]) -> bool {
    payload.first_chunk().is_some_and(|method| u32::from_be_bytes(*method) == DELIVER)
}

/// Decodes the payload of a method frame.
///
/// The four methods of the data plane borrow from it and allocate nothing; any other allocates up to
/// about 64 bytes for each byte of it (see [`decode_properties`](super::decode_properties)).
///
/// # Errors
///
/// `Truncated`, `UnknownMethod`, `Malformed` (bytes after the method, or a string that is not UTF-8),
/// and those of [`check_table`].
#[inline]
pub fn decode_method(payload: &[u8]) -> Result<Method<'_>, WireError> {
    let Some((method, fields)) = payload.split_first_chunk() else {
        return Err(WireError::Truncated { what: "a method" });
    };
    match u32::from_be_bytes(*method) {
        DELIVER => decode_deliver(payload).map(Method::Deliver),
        ACK => {
            let (delivery_tag, flags) = decode_settle(fields, "basic.ack")?;
            Ok(Method::Ack(Ack { delivery_tag, multiple: flags & 1 != 0 }))
        }
        NACK => {
            let (delivery_tag, flags) = decode_settle(fields, "basic.nack")?;
            Ok(Method::Nack(Nack {
                delivery_tag,
                multiple: flags & 1 != 0,
                requeue: flags & 2 != 0,
            }))
        }
        PUBLISH => decode_publish(fields).map(Method::Publish),
        method => decode_other(method, payload, fields),
    }
}

/// Decodes the payload of a method frame that [`is_deliver`].
#[inline]
pub(crate) fn decode_deliver(payload: &[u8]) -> Result<Deliver<'_>, WireError> {
    let mut reader = Reader::new(payload.get(4..).unwrap_or_default(), "basic.deliver");
    let consumer_tag = reader.short()?;
    let delivery_tag = reader.u64()?;
    let redelivered = reader.u8()? & 1 != 0;
    let names = reader.rest();
    if split_names(names).is_none() {
        reader.short()?;
        reader.short()?;
        reader.finish(AFTER)?;
    }
    Ok(Deliver { consumer_tag, delivery_tag, redelivered, names })
}

#[inline]
fn decode_settle(fields: &[u8], what: &'static str) -> Result<(u64, u8), WireError> {
    let mut reader = Reader::new(fields, what);
    let settle = (reader.u64()?, reader.u8()?);
    reader.finish(AFTER)?;
    Ok(settle)
}

#[inline]
fn decode_publish(fields: &[u8]) -> Result<Publish<'_>, WireError> {
    let mut reader = Reader::new(fields, "basic.publish");
    let _ticket = reader.u16()?;
    let start = reader.rest();
    reader.short()?;
    reader.short()?;
    let (names, _) = start.split_at(start.len() - reader.rest().len());
    let flags = reader.u8()?;
    reader.finish(AFTER)?;
    Ok(Publish { names, mandatory: flags & 1 != 0, immediate: flags & 2 != 0 })
}

#[cold]
fn decode_other<'a>(id: u32, payload: &[u8], fields: &[u8]) -> Result<Method<'a>, WireError> {
    let (class, method) = ((id >> 16) as u16, id as u16);
    check_tables(class, method, fields)?;
    match parse_class(payload) {
        Ok(([], class)) => Ok(Method::Other(Box::new(class))),
        Ok(_) => Err(WireError::Malformed { what: AFTER }),
        Err(ParserError::Incomplete(_)) => Err(WireError::Truncated { what: "a method" }),
        Err(ParserError::Error(_) | ParserError::Failure(_)) => {
            Err(WireError::Malformed { what: "a field of a method" })
        }
    }
}

/// Walks the field table of a method that has one (no method has two).
///
/// This is also the list of the methods that reach amq-protocol's parser: a newer version of it could
/// know a method, with a table, that is not known here.
fn check_tables(class: u16, method: u16, fields: &[u8]) -> Result<(), WireError> {
    // What is before the table: octets, short strings, octets.
    let (before, strings, between) = match (class, method) {
        (10, 10) => (2, 0, 0),      // connection.start: versions
        (10, 11) => (0, 0, 0),      // connection.start-ok
        (40, 10) => (2, 2, 1),      // exchange.declare: ticket, exchange, type, flags
        (40, 30 | 40) => (2, 3, 1), // exchange.bind, unbind: ticket, three names, flags
        (50, 10) => (2, 1, 1),      // queue.declare: ticket, queue, flags
        (50, 20) => (2, 3, 1),      // queue.bind: ticket, three names, flags
        (50, 50) => (2, 3, 0),      // queue.unbind: ticket, three names
        (60, 20) => (2, 2, 1),      // basic.consume: ticket, queue, tag, flags
        (10, 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51 | 60 | 61 | 70 | 71)
        | (20, 10 | 11 | 20 | 21 | 40 | 41)
        | (30, 10 | 11)
        | (40, 11 | 20 | 21 | 31 | 51)
        | (50, 11 | 21 | 30 | 31 | 40 | 41 | 51)
        | (60, 10 | 11 | 21 | 30 | 31 | 50 | 70 | 71 | 72 | 90 | 100 | 110 | 111)
        | (85, 10 | 11)
        | (90, 10 | 11 | 20 | 21 | 30 | 31) => return Ok(()),
        _ => return Err(WireError::UnknownMethod { class, method }),
    };
    let mut reader = Reader::new(fields, "a method");
    reader.bytes(before)?;
    for _ in 0..strings {
        reader.short()?;
    }
    reader.bytes(between)?;
    check_table(reader.rest()).map(drop)
}

/// Appends a method frame, by amq-protocol's generator.
///
/// The caller sees to it that the frame does not exceed `frame_max`.
///
/// # Errors
///
/// If a table in it is nested too deep, or has a value of a type that cannot be sent (a short
/// string). `out` is as it was then.
pub fn put_method(out: &mut Vec<u8>, channel: u16, class: &AMQPClass) -> Result<(), WireError> {
    // The generator takes its output by value, and would lose it with an error.
    let payload = gen_class(class)(Vec::new().into())
        .map_err(|_| WireError::Malformed { what: "a method that cannot be encoded" })?
        .write;
    if let Some((_, fields)) = payload.split_first_chunk::<4>() {
        check_tables(class.get_amqp_class_id(), class.get_amqp_method_id(), fields).or_else(
            // The hot methods are not in that list, and have no tables.
            |error| match error {
                WireError::UnknownMethod { .. } => Ok(()),
                error => Err(error),
            },
        )?;
    }
    put_frame(out, FrameKind::Method, channel, |out| out.extend_from_slice(&payload));
    Ok(())
}

/// Appends `basic.ack`. Allocates nothing if there is room for 21 bytes.
#[inline]
pub fn put_ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    put_settle(out, channel, 80, delivery_tag, multiple.into());
}

/// Appends `basic.nack`. Allocates nothing if there is room for 21 bytes.
#[inline]
pub fn put_nack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
    put_settle(out, channel, 120, delivery_tag, u8::from(multiple) | u8::from(requeue) << 1);
}

/// Appends `basic.reject`. Allocates nothing if there is room for 21 bytes.
#[inline]
pub fn put_reject(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, requeue: bool) {
    put_settle(out, channel, 90, delivery_tag, requeue.into());
}

/// A whole frame of a method that has a tag and flags.
#[inline]
fn put_settle(out: &mut Vec<u8>, channel: u16, method: u8, delivery_tag: u64, flags: u8) {
    let mut frame =
        [1, 0, 0, 0, 0, 0, 13, 0, 60, 0, method, 0, 0, 0, 0, 0, 0, 0, 0, flags, FRAME_END];
    frame[1..3].copy_from_slice(&channel.to_be_bytes());
    frame[11..19].copy_from_slice(&delivery_tag.to_be_bytes());
    out.extend_from_slice(&frame);
}

/// Appends `basic.deliver`. Its strings are at most 255 bytes long; longer ones are cut.
#[inline]
pub fn put_deliver(
    out: &mut Vec<u8>,
    channel: u16,
    consumer_tag: &str,
    delivery_tag: u64,
    redelivered: bool,
    exchange: &str,
    routing_key: &str,
) {
    put_frame(out, FrameKind::Method, channel, |out| {
        out.extend_from_slice(&DELIVER.to_be_bytes());
        put_short(out, consumer_tag.as_bytes());
        out.extend_from_slice(&delivery_tag.to_be_bytes());
        out.push(redelivered.into());
        put_short(out, exchange.as_bytes());
        put_short(out, routing_key.as_bytes());
    });
}

/// Appends `basic.publish`. Its strings are at most 255 bytes long; longer ones are cut.
#[inline]
pub fn put_publish(
    out: &mut Vec<u8>,
    channel: u16,
    exchange: &str,
    routing_key: &str,
    mandatory: bool,
) {
    put_frame(out, FrameKind::Method, channel, |out| {
        out.extend_from_slice(&PUBLISH.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        put_short(out, exchange.as_bytes());
        put_short(out, routing_key.as_bytes());
        out.push(mandatory.into());
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use amq_protocol::{
        frame::AMQPFrame,
        protocol::{basic, queue},
        types::{AMQPValue, FieldTable},
    };

    use super::{
        super::{Frame, decode, samples},
        *,
    };

    fn all_methods() -> Vec<AMQPClass> {
        let mut all = samples::empty_methods();
        all.extend(samples::table_methods(&samples::table()));
        all
    }

    /// The payload of a method frame.
    fn payload(class: &AMQPClass) -> Vec<u8> {
        let frame = samples::generated(&AMQPFrame::Method(0, class.clone()));
        frame[7..frame.len() - 1].to_vec()
    }

    fn basic(method: basic::AMQPMethod) -> Vec<u8> {
        samples::generated(&AMQPFrame::Method(258, AMQPClass::Basic(method)))
    }

    #[test]
    fn every_method_survives() {
        for class in all_methods() {
            let mut out = vec![9];
            put_method(&mut out, 258, &class).unwrap();
            assert_eq!(out[1..], samples::generated(&AMQPFrame::Method(258, class.clone())));
            let (Frame { channel, payload, .. }, _) = decode(&out[1..], 131_072).unwrap().unwrap();
            assert_eq!(channel, 258);
            match decode_method(payload).unwrap() {
                Method::Other(decoded) => assert_eq!(*decoded, class),
                hot => assert!(
                    matches!(
                        (hot, &class),
                        (Method::Deliver(_), AMQPClass::Basic(basic::AMQPMethod::Deliver(_)))
                            | (Method::Ack(_), AMQPClass::Basic(basic::AMQPMethod::Ack(_)))
                            | (Method::Nack(_), AMQPClass::Basic(basic::AMQPMethod::Nack(_)))
                            | (Method::Publish(_), AMQPClass::Basic(basic::AMQPMethod::Publish(_)))
                    ),
                    "{class:?}"
                ),
            }
        }
    }

    #[test]
    fn hot_methods_are_written_and_read_as_amq_protocol_does() {
        for bits in 0..4 {
            let (one, two) = (bits & 1 != 0, bits & 2 != 0);
            let tag = 0x0102_0304_0506_0708 + bits;
            let mut out = Vec::new();
            put_ack(&mut out, 258, tag, one);
            let ack = basic::Ack { delivery_tag: tag, multiple: one };
            assert_eq!(out, basic(basic::AMQPMethod::Ack(ack)));
            let ack = Ack { delivery_tag: tag, multiple: one };
            assert_eq!(decode_method(&out[7..20]), Ok(Method::Ack(ack)));

            let mut out = Vec::new();
            put_nack(&mut out, 258, tag, one, two);
            let nack = basic::Nack { delivery_tag: tag, multiple: one, requeue: two };
            assert_eq!(out, basic(basic::AMQPMethod::Nack(nack)));
            let nack = Nack { delivery_tag: tag, multiple: one, requeue: two };
            assert_eq!(decode_method(&out[7..20]), Ok(Method::Nack(nack)));

            let mut out = Vec::new();
            put_reject(&mut out, 258, tag, one);
            let reject = basic::Reject { delivery_tag: tag, requeue: one };
            assert_eq!(out, basic(basic::AMQPMethod::Reject(reject)));

            let publish = basic::Publish {
                exchange: "exchange".into(),
                routing_key: "".into(),
                mandatory: one,
                immediate: two,
            };
            let bytes = basic(basic::AMQPMethod::Publish(publish));
            let Method::Publish(publish) = decode_method(&bytes[7..bytes.len() - 1]).unwrap()
            else {
                panic!("not a publish");
            };
            assert_eq!((publish.mandatory, publish.immediate), (one, two));
            assert_eq!((publish.exchange(), publish.routing_key()), (&b"exchange"[..], &b""[..]));
            if !two {
                let mut out = Vec::new();
                put_publish(&mut out, 258, "exchange", "", one);
                assert_eq!(out, bytes);
            }

            let mut out = Vec::new();
            let longest = "k".repeat(255);
            put_deliver(&mut out, 258, "tag", tag, one, "", &longest);
            let deliver = basic::Deliver {
                consumer_tag: "tag".into(),
                delivery_tag: tag,
                redelivered: one,
                exchange: "".into(),
                routing_key: longest.clone().into(),
            };
            assert_eq!(out, basic(basic::AMQPMethod::Deliver(deliver)));
            let Method::Deliver(deliver) = decode_method(&out[7..out.len() - 1]).unwrap() else {
                panic!("not a deliver");
            };
            assert_eq!((deliver.consumer_tag, deliver.delivery_tag), (&b"tag"[..], tag));
            assert_eq!(deliver.redelivered, one);
            assert_eq!((deliver.exchange(), deliver.routing_key()), (&b""[..], longest.as_bytes()));
        }
    }

    #[test]
    fn f21_a_method_cut_anywhere_is_an_error() {
        for class in all_methods() {
            let payload = payload(&class);
            for length in 0..payload.len() {
                let error = decode_method(&payload[..length]).unwrap_err();
                assert!(matches!(error, WireError::Truncated { .. }), "{class:?}: {error:?}");
            }
        }
    }

    #[test]
    fn f21_bytes_after_a_method_are_an_error() {
        for class in all_methods() {
            let mut payload = payload(&class);
            payload.push(0);
            let error = WireError::Malformed { what: AFTER };
            assert_eq!(decode_method(&payload), Err(error), "{class:?}");
        }
    }

    #[test]
    fn f21_nesting_is_refused_in_every_method_that_has_a_table() {
        // An empty table is replaced by one nested too deep: the list of tables is complete.
        let mut with_table = 0;
        for class in samples::table_methods(&FieldTable::default()) {
            let payload = payload(&class);
            let found = (4..payload.len() - 3).filter(|&at| {
                let mut deep = payload[..at].to_vec();
                deep.extend_from_slice(&samples::nested(600));
                deep.extend_from_slice(&payload[at + 4..]);
                payload[at..at + 4] == [0; 4]
                    && decode_method(&deep) == Err(WireError::TableTooDeep)
            });
            assert_eq!(found.count(), 1, "{class:?}");
            with_table += 1;
        }
        assert_eq!(with_table, 9);
        // And no other method has a table: wherever there is room for one, none is decoded.
        for class in samples::empty_methods() {
            let payload = payload(&class);
            for at in 4..payload.len().saturating_sub(3) {
                let mut deep = payload[..at].to_vec();
                deep.extend_from_slice(&samples::nested(40));
                deep.extend_from_slice(&payload[at + 4..]);
                let decoded = format!("{:?}", decode_method(&deep));
                assert!(!decoded.contains("FieldArray("), "{decoded}");
            }
        }
    }

    #[test]
    fn f21_every_changed_byte_is_an_error_or_another_method() {
        for class in all_methods() {
            let original = payload(&class);
            for at in 0..original.len() {
                for value in [0, 1, 0x46, 0xFF] {
                    let mut changed = original.clone();
                    changed[at] = value;
                    if let Ok(Method::Other(class)) = decode_method(&changed) {
                        let mut out = Vec::new();
                        put_method(&mut out, 0, &class).unwrap();
                        let again = decode_method(&out[7..out.len() - 1]).unwrap();
                        assert_eq!(format!("{again:?}"), format!("{:?}", Method::Other(class)));
                    }
                }
            }
        }
    }

    #[test]
    fn unknown_methods_are_not_implemented() {
        for (class, method) in [(60, 41), (60, 0), (11, 10), (0, 0), (40, 50)] {
            let error = WireError::UnknownMethod { class, method };
            let payload = id(class, method).to_be_bytes();
            assert_eq!(decode_method(&payload), Err(error.clone()));
            assert_eq!(error.code(), 540);
        }
    }

    #[test]
    fn f21_a_method_that_nobody_could_read_is_not_written() {
        let mut arguments = FieldTable::default();
        arguments.insert("k".into(), AMQPValue::ShortString("v".into()));
        let declare = queue::Declare { arguments, ..Default::default() };
        let class = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
        let mut out = vec![1, 2];
        let error = WireError::UnknownFieldType(b'_');
        assert_eq!(put_method(&mut out, 1, &class), Err(error));
        assert_eq!(out, [1, 2]);
    }

    #[test]
    fn names_are_two_short_strings_and_nothing_else() {
        assert_eq!(split_names(b"\x01a\x02bc"), Some((&b"a"[..], &b"bc"[..])));
        assert_eq!(split_names(b"\0\0"), Some((&b""[..], &b""[..])));
        for names in [&b""[..], b"\0", b"\x01", b"\x01a", b"\x01a\x02b", b"\x01a\x02bcd"] {
            assert_eq!(split_names(names), None, "{names:?}");
        }
    }
}
