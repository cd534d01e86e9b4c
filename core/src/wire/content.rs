//! Content headers (specification 4.2.6.1): class, weight, body size, property flags, properties.

use crate::message::Properties;

use amq_protocol::{protocol::basic, types::ShortString};

use super::{
    WireError,
    frame::{FrameKind, put_frame},
    publish::{ATTEMPT_HEADER, REFERENCE_HEADER},
    read::{Reader, put_short},
    table::{
        check_properties, check_short, check_table_encodable, put_entry, put_sized, put_table,
        table_len,
    },
};

/// The class `basic`, the only one with content.
pub(super) const BASIC: u16 = 60;

/// A content header as it came; the properties are not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class; 60 (basic) is the only one that has content.
    pub class: u16,
    /// The body's size in bytes, as announced: up to 2^64 − 1, so allocate nothing by it.
    pub body_size: u64,
    /// The properties.
    pub properties: RawProperties<'a>,
}

/// The properties of a message as they came: two bytes of flags and the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawProperties<'a>(&'a [u8]);

impl<'a> RawProperties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self(&[0, 0]);

    /// The bytes: two of flags, and the list.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether no property is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self.0, [0, 0, ..])
    }

    /// Decodes them.
    ///
    /// # Errors
    ///
    /// Those of [`decode_properties`].
    pub fn decode(self) -> Result<Properties, WireError> {
        decode_properties(self.0)
    }
}

/// Decodes the payload of a content header frame; the properties are taken as they are.
///
/// The weight, which is unused, is ignored.
///
/// # Errors
///
/// `Truncated` if a fixed field is missing.
#[inline]
pub fn decode_content_header(payload: &[u8]) -> Result<ContentHeader<'_>, WireError> {
    let mut reader = Reader::new(payload, "a content header");
    let class = reader.u16()?;
    let _weight = reader.u16()?;
    let body_size = reader.u64()?;
    let raw = reader.rest();
    if raw.len() < 2 {
        return Err(WireError::Truncated { what: "a content header" });
    }
    Ok(ContentHeader { class, body_size, properties: RawProperties(raw) })
}

/// Decodes a property list: two bytes of flags, and the properties.
///
/// Memory: strings once more, and for values in the headers up to about 64 bytes for each byte
/// received (an array of voids); that is 8 MiB for a frame of 128 KiB. Headers nested 32 deep take
/// 64 KiB of stack (under 400 KiB without optimisation).
///
/// # Errors
///
/// Those of [`check_properties`]. The message is bad, not the connection: it can be rejected.
pub fn decode_properties(raw: &[u8]) -> Result<Properties, WireError> {
    if RawProperties(raw).is_empty() && raw.len() == 2 {
        return Ok(Properties::default());
    }
    check_properties(raw)?;
    match basic::parse_properties(raw) {
        Ok(([], properties)) => Ok(properties),
        Ok(_) | Err(_) => Err(WireError::Malformed { what: "a property list" }),
    }
}

/// Whether these properties can be written: every string fits its field and the headers are nested at
/// most [`MAX_NESTING`](super::MAX_NESTING) deep. Whether they fit into a frame, [`properties_len`]
/// says.
///
/// # Errors
///
/// `ShortStringTooLong` (deserialising can make such a string), `TableTooDeep`.
pub fn check_encodable(properties: &Properties) -> Result<(), WireError> {
    for string in short_strings(properties).into_iter().flatten() {
        check_short(string.as_str())?;
    }
    properties.headers().as_ref().map_or(Ok(()), |headers| check_table_encodable(headers, 1))
}

/// The encoded length of a property list in bytes, flags included.
#[must_use]
pub fn properties_len(properties: &Properties) -> usize {
    let strings: usize = short_strings(properties)
        .into_iter()
        .flatten()
        .map(|string| 1 + string.as_str().len())
        .sum();
    let octets = usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some())
        + 8 * usize::from(properties.timestamp().is_some());
    2 + strings + octets + properties.headers().as_ref().map_or(0, table_len)
}

/// The properties that are short strings, in the order of their flags.
fn short_strings(properties: &Properties) -> [Option<&ShortString>; 10] {
    [
        properties.content_type().as_ref(),
        properties.content_encoding().as_ref(),
        properties.correlation_id().as_ref(),
        properties.reply_to().as_ref(),
        properties.expiration().as_ref(),
        properties.message_id().as_ref(),
        properties.kind().as_ref(),
        properties.user_id().as_ref(),
        properties.app_id().as_ref(),
        properties.cluster_id().as_ref(),
    ]
}

/// Appends a property list: flags, and the properties.
///
/// Check strings and nesting with [`check_encodable`] where they come from others.
pub fn put_properties(out: &mut Vec<u8>, properties: &Properties) {
    put_properties_with(out, properties, Extra::default());
}

/// Appends a content header frame of class `basic`.
pub fn put_content_header(
    out: &mut Vec<u8>,
    channel: u16,
    body_size: u64,
    properties: &Properties,
) {
    put_frame(out, FrameKind::Header, channel, |out| {
        put_fixed(out, body_size);
        put_properties(out, properties);
    });
}

/// Appends a content header frame of class `basic` with a property list that is encoded already.
#[inline]
pub fn put_content_header_raw(out: &mut Vec<u8>, channel: u16, body_size: u64, raw: &[u8]) {
    put_frame(out, FrameKind::Header, channel, |out| {
        put_fixed(out, body_size);
        out.extend_from_slice(raw);
    });
}

#[inline]
pub(super) fn put_fixed(out: &mut Vec<u8>, body_size: u64) {
    let [c0, c1] = BASIC.to_be_bytes();
    out.extend_from_slice(&[c0, c1, 0, 0]);
    out.extend_from_slice(&body_size.to_be_bytes());
}

/// Properties that we add to those of the application.
#[derive(Clone, Copy, Default)]
pub(super) struct Extra {
    /// A message id, if the application set none.
    pub(super) message_id: Option<[u8; 32]>,
    /// The header `x-lavinmq-ref`.
    pub(super) reference: Option<i64>,
    /// The header `x-attempt`.
    pub(super) attempt: Option<i32>,
}

/// Where in the output the added values begin.
#[derive(Clone, Copy, Default)]
pub(super) struct Places {
    pub(super) message_id: Option<usize>,
    pub(super) reference: Option<usize>,
}

pub(super) fn put_properties_with(
    out: &mut Vec<u8>,
    properties: &Properties,
    extra: Extra,
) -> Places {
    let message_id = if properties.message_id().is_some() { None } else { extra.message_id };
    let added_headers = extra.reference.is_some() || extra.attempt.is_some();
    let mut places = Places::default();
    let flags_at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut flags = 0;
    let mut short = |out: &mut Vec<u8>, bit: u32, value: &Option<ShortString>| {
        if let Some(value) = value {
            flags |= 0x8000 >> bit;
            put_short(out, value.as_str().as_bytes());
        }
    };
    short(out, 0, properties.content_type());
    short(out, 1, properties.content_encoding());
    if added_headers {
        places.reference = put_headers_with(out, properties, extra);
    } else if let Some(headers) = properties.headers() {
        put_table(out, headers);
    }
    out.extend(*properties.delivery_mode());
    out.extend(*properties.priority());
    short(out, 5, properties.correlation_id());
    short(out, 6, properties.reply_to());
    short(out, 7, properties.expiration());
    short(out, 8, properties.message_id());
    if let Some(id) = message_id {
        places.message_id = Some(out.len() + 1);
        put_short(out, &id);
    }
    if let Some(timestamp) = properties.timestamp() {
        out.extend_from_slice(&timestamp.to_be_bytes());
    }
    short(out, 10, properties.kind());
    short(out, 11, properties.user_id());
    short(out, 12, properties.app_id());
    short(out, 13, properties.cluster_id());
    for (bit, set) in [
        (2, added_headers || properties.headers().is_some()),
        (3, properties.delivery_mode().is_some()),
        (4, properties.priority().is_some()),
        (8, message_id.is_some()),
        (9, properties.timestamp().is_some()),
    ] {
        if set {
            flags |= 0x8000 >> bit;
        }
    }
    out[flags_at..flags_at + 2].copy_from_slice(&u16::to_be_bytes(flags));
    places
}

/// The application's headers and ours; ours replace those of the same name. Returns where the value
/// of the reference begins.
fn put_headers_with(out: &mut Vec<u8>, properties: &Properties, extra: Extra) -> Option<usize> {
    let mut place = None;
    put_sized(out, |out| {
        for (name, value) in properties.headers().iter().flatten() {
            let replaced = (name.as_str() == REFERENCE_HEADER && extra.reference.is_some())
                || (name.as_str() == ATTEMPT_HEADER && extra.attempt.is_some());
            if !replaced {
                put_entry(out, name.as_str(), value);
            }
        }
        if let Some(attempt) = extra.attempt {
            put_short(out, ATTEMPT_HEADER.as_bytes());
            out.push(b'I');
            out.extend_from_slice(&attempt.to_be_bytes());
        }
        if let Some(reference) = extra.reference {
            put_short(out, REFERENCE_HEADER.as_bytes());
            out.push(b'l');
            place = Some(out.len());
            out.extend_from_slice(&reference.to_be_bytes());
        }
    });
    place
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use amq_protocol::{
        frame::{AMQPContentHeader, AMQPFrame},
        types::FieldTable,
    };

    use super::{
        super::{decode, samples},
        *,
    };

    fn encoded(properties: &Properties) -> Vec<u8> {
        let mut out = Vec::new();
        put_properties(&mut out, properties);
        out
    }

    fn all_samples() -> Vec<Properties> {
        let mut all = samples::single_properties();
        all.push(samples::properties());
        all
    }

    #[test]
    fn properties_are_written_and_read_as_amq_protocol_does() {
        for properties in all_samples() {
            let bytes = encoded(&properties);
            let generated = basic::gen_properties(&properties)(Vec::new().into()).unwrap().write;
            assert_eq!(bytes, generated, "{properties:?}");
            assert_eq!(bytes.len(), properties_len(&properties), "{properties:?}");
            assert_eq!(check_encodable(&properties), Ok(()));
            assert_eq!(decode_properties(&bytes), Ok(properties));
        }
    }

    #[test]
    fn content_headers_are_written_and_read_as_amq_protocol_does() {
        for properties in all_samples() {
            let mut out = Vec::new();
            put_content_header(&mut out, 513, 1 << 40, &properties);
            let header = AMQPContentHeader {
                class_id: 60,
                body_size: 1 << 40,
                properties: properties.clone(),
            };
            let generated = samples::generated(&AMQPFrame::Header(513, header));
            assert_eq!(out, generated);

            let (frame, _) = decode(&out, 131_072).unwrap().unwrap();
            let header = decode_content_header(frame.payload).unwrap();
            assert_eq!((header.class, header.body_size), (60, 1 << 40));
            assert_eq!(header.properties.decode(), Ok(properties));

            let mut raw = Vec::new();
            put_content_header_raw(&mut raw, 513, 1 << 40, header.properties.as_bytes());
            assert_eq!(raw, out);
        }
    }

    #[test]
    fn f20_any_body_size_is_only_a_number() {
        let mut out = Vec::new();
        put_content_header(&mut out, 1, u64::MAX, &Properties::default());
        let header = decode_content_header(&out[7..out.len() - 1]).unwrap();
        assert_eq!((header.body_size, header.properties), (u64::MAX, RawProperties::EMPTY));
        assert!(header.properties.is_empty());
    }

    #[test]
    fn f21_a_content_header_cut_anywhere_is_an_error_or_has_less_in_it() {
        let mut out = Vec::new();
        put_content_header(&mut out, 1, 5, &samples::properties());
        let payload = &out[7..out.len() - 1];
        for length in 0..payload.len() {
            match decode_content_header(&payload[..length]) {
                Err(error) => {
                    assert!(length < 14, "{length}");
                    assert_eq!(error, WireError::Truncated { what: "a content header" });
                }
                Ok(header) => assert!(header.properties.decode().is_err(), "{length} bytes"),
            }
        }
    }

    #[test]
    fn f21_properties_with_bytes_after_them_are_an_error() {
        for properties in all_samples() {
            let mut bytes = encoded(&properties);
            bytes.push(0);
            let error = WireError::Malformed { what: "bytes after the last property" };
            assert_eq!(decode_properties(&bytes), Err(error));
        }
    }

    #[test]
    fn f21_unknown_property_flags_are_an_error() {
        let error = WireError::Malformed { what: "unknown property flags" };
        assert_eq!(decode_properties(&[0, 1, 0, 0]), Err(error.clone()));
        assert_eq!(decode_properties(&[0, 2]), Err(error));
    }

    #[test]
    fn f21_invalid_utf8_is_an_error_in_every_string() {
        for bit in [0, 1, 5, 6, 7, 8, 10, 11, 12, 13] {
            let [f0, f1] = u16::to_be_bytes(0x8000 >> bit);
            let error = WireError::Utf8 { what: "a property" };
            assert_eq!(decode_properties(&[f0, f1, 1, 0xFF]), Err(error));
        }
    }

    #[test]
    fn f21_deeply_nested_headers_are_an_error() {
        let mut bytes = vec![0x20, 0];
        bytes.extend_from_slice(&samples::nested(600));
        assert_eq!(decode_properties(&bytes), Err(WireError::TableTooDeep));
    }

    #[test]
    fn f21_every_changed_byte_is_an_error_or_other_properties() {
        let bytes = encoded(&samples::properties());
        for at in 0..bytes.len() {
            for value in [0, 1, 0x41, 0x46, 0x7F, 0x80, 0xFF] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                // What the walk lets through, the parser takes.
                assert_eq!(check_properties(&bytes).err(), decode_properties(&bytes).err());
            }
        }
    }

    #[test]
    fn s12_the_lengths_of_added_properties_are_counted_right() {
        let extra = Extra { message_id: Some([b'0'; 32]), reference: Some(0), attempt: Some(2) };
        for properties in all_samples() {
            let mut out = Vec::new();
            let places = put_properties_with(&mut out, &properties, extra);
            let decoded = decode_properties(&out).unwrap();
            let given = properties.message_id().is_some();
            assert_eq!(places.message_id.is_some(), !given);
            assert_eq!(properties_len(&decoded), out.len());
            let headers = decoded.headers().clone().unwrap_or_default();
            let before = properties.headers().clone().unwrap_or_default();
            assert_eq!(headers.inner().len(), before.inner().len() + 2);
        }
    }

    #[test]
    fn s20_our_headers_replace_those_of_the_same_name() {
        let mut headers = FieldTable::default();
        headers.insert(REFERENCE_HEADER.into(), amq_protocol::types::AMQPValue::Boolean(true));
        headers.insert(ATTEMPT_HEADER.into(), amq_protocol::types::AMQPValue::Boolean(true));
        let properties = Properties::default().with_headers(headers);
        let extra = Extra { reference: Some(7), attempt: Some(2), ..Extra::default() };
        let mut out = Vec::new();
        put_properties_with(&mut out, &properties, extra);
        let mut expected = FieldTable::default();
        expected.insert(REFERENCE_HEADER.into(), amq_protocol::types::AMQPValue::LongLongInt(7));
        expected.insert(ATTEMPT_HEADER.into(), amq_protocol::types::AMQPValue::LongInt(2));
        let expected = Properties::default().with_headers(expected);
        // The keys are in an order of ours; a table has none.
        assert_eq!(decode_properties(&out), Ok(expected));
    }
}
