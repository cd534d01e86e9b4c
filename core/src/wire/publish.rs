//! What every publish of a producer has in common, encoded once.

use crate::message::Properties;

use super::{
    content::{Extra, put_fixed, put_properties_with},
    frame::{FrameKind, put_frame},
    method::put_publish,
};

/// The header that ties a `basic.return` to its message (semantics s20): a `l` (signed 64 bit), the
/// message's sequence. The consuming side removes it before the application sees the message.
pub const REFERENCE_HEADER: &str = "x-lavinmq-ref";

/// The header that says that a copy is not the first (semantics section 1): an `I` (signed 32 bit),
/// 2 or more.
pub const ATTEMPT_HEADER: &str = "x-attempt";

/// The first half of generated message ids: who made them. Random, so that it is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdPrefix(pub u64);

/// The method frame and the content header frame of a publish, encoded for channel 0 and a body of
/// 0 bytes: publishing copies them and patches what differs from message to message.
///
/// Memory: the encoded bytes, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the content header frame begins.
    header: usize,
    /// Where the 16 digits of the sequence are, in a generated message id.
    id: Option<usize>,
    /// Where the value of the header `x-lavinmq-ref` is.
    reference: Option<usize>,
}

/// Within the content header frame: after the frame's header, class and weight.
const BODY_SIZE: usize = 11;

impl Template {
    /// Encodes what is common to all publishes with these names and properties.
    ///
    /// With `message_id` each publish gets an id of its own (32 hexadecimal digits: the prefix, then
    /// the sequence), unless `properties` have one. With `reference` each carries its sequence in
    /// [`REFERENCE_HEADER`].
    ///
    /// Names are at most 255 bytes long and the properties pass
    /// [`check_encodable`](super::check_encodable); both are checked where they come in. Whether the
    /// properties fit into a frame, [`header_len`](Self::header_len) says.
    #[must_use]
    pub fn new(
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        properties: &Properties,
        message_id: Option<IdPrefix>,
        reference: bool,
    ) -> Self {
        Self::build(exchange, routing_key, mandatory, properties, message_id, reference, None)
    }

    /// The same for a copy that is not the first: `attempt` (2 or more) goes into [`ATTEMPT_HEADER`].
    #[must_use]
    pub fn with_attempt(
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        properties: &Properties,
        message_id: Option<IdPrefix>,
        reference: bool,
        attempt: u32,
    ) -> Self {
        let attempt = Some(i32::try_from(attempt).unwrap_or(i32::MAX));
        Self::build(exchange, routing_key, mandatory, properties, message_id, reference, attempt)
    }

    fn build(
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        properties: &Properties,
        message_id: Option<IdPrefix>,
        reference: bool,
        attempt: Option<i32>,
    ) -> Self {
        let mut bytes = Vec::new();
        put_publish(&mut bytes, 0, exchange, routing_key, mandatory);
        let header = bytes.len();
        let extra = Extra {
            message_id: message_id.map(|prefix| {
                let mut id = [b'0'; 32];
                id[..16].copy_from_slice(&hex(prefix.0));
                id
            }),
            reference: reference.then_some(0),
            attempt,
        };
        let mut places = None;
        put_frame(&mut bytes, FrameKind::Header, 0, |out| {
            put_fixed(out, 0);
            places = Some(put_properties_with(out, properties, extra));
        });
        let places = places.unwrap_or_default();
        bytes.shrink_to_fit();
        Self { bytes, header, id: places.message_id.map(|at| at + 16), reference: places.reference }
    }

    /// Appends the two frames of one publish. The body's frames follow, see
    /// [`put_body`](super::put_body).
    ///
    /// `sequence` is what a generated id and the reference carry; it is unused without them.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>, channel: u16, body_size: u64, sequence: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let frames = &mut out[start..];
        let channel = channel.to_be_bytes();
        frames[1..3].copy_from_slice(&channel);
        frames[self.header + 1..self.header + 3].copy_from_slice(&channel);
        let size = self.header + BODY_SIZE;
        frames[size..size + 8].copy_from_slice(&body_size.to_be_bytes());
        if let Some(at) = self.id {
            frames[at..at + 16].copy_from_slice(&hex(sequence));
        }
        if let Some(at) = self.reference {
            frames[at..at + 8].copy_from_slice(&sequence.to_be_bytes());
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "two frames are never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The length of the content header frame alone: it must not exceed `frame_max`.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.bytes.len() - self.header
    }

    /// Whether each publish gets a message id of its own.
    #[must_use]
    pub const fn generates_id(&self) -> bool {
        self.id.is_some()
    }
}

/// The prefix and the sequence of a generated message id: exactly 32 lower-case hexadecimal digits.
#[must_use]
pub fn parse_generated_id(id: &str) -> Option<(u64, u64)> {
    let digits: &[u8; 32] = id.as_bytes().try_into().ok()?;
    let (prefix, sequence) = digits.split_at(16);
    Some((parse_hex(prefix)?, parse_hex(sequence)?))
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// Two digits for each byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// 16 lower-case hexadecimal digits.
#[inline]
fn hex(value: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(value.to_be_bytes()) {
        *pair = HEX[usize::from(byte)];
    }
    digits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use amq_protocol::types::AMQPValue;

    use super::{
        super::{
            Method, WireError, decode, decode_content_header, decode_method, put_content_header,
            samples,
        },
        *,
    };

    /// The content header's body size and properties, of the two frames that `bytes` consist of.
    fn header(bytes: &[u8]) -> Result<(u64, Properties), WireError> {
        let (method, used) = decode(bytes, 131_072)?.unwrap();
        assert!(matches!(decode_method(method.payload)?, Method::Publish(_)));
        let (frame, rest) = decode(&bytes[used..], 131_072)?.unwrap();
        assert_eq!(used + rest, bytes.len());
        assert_eq!(frame.channel, method.channel);
        let header = decode_content_header(frame.payload)?;
        Ok((header.body_size, header.properties.decode()?))
    }

    #[test]
    fn a_template_writes_what_the_plain_encoders_write() {
        for properties in samples::single_properties() {
            let template = Template::new("exchange", "key", true, &properties, None, false);
            let mut out = vec![1];
            template.encode(&mut out, 0x0102, 0x0304_0506_0708_090A, 99);
            let mut plain = vec![1];
            put_publish(&mut plain, 0x0102, "exchange", "key", true);
            let method = plain.len();
            put_content_header(&mut plain, 0x0102, 0x0304_0506_0708_090A, &properties);
            assert_eq!(out, plain);
            assert_eq!(template.len(), plain.len() - 1);
            assert_eq!(template.header_len(), plain.len() - method);
            assert!(!template.generates_id());
        }
    }

    #[test]
    fn generated_ids_and_references_follow_the_sequence() {
        let prefix = IdPrefix(0x0123_4567_89AB_CDEF);
        let template = Template::new("", "q", true, &Properties::default(), Some(prefix), true);
        for sequence in [0, 1, 0xFEDC_BA98_7654_3210, u64::MAX] {
            let mut out = Vec::new();
            template.encode(&mut out, 3, 16, sequence);
            let (size, properties) = header(&out).unwrap();
            assert_eq!(size, 16);
            let id = properties.message_id().as_ref().unwrap().as_str();
            assert_eq!(id, format!("{:016x}{sequence:016x}", prefix.0));
            assert_eq!(parse_generated_id(id), Some((prefix.0, sequence)));
            let headers = properties.headers().as_ref().unwrap().inner();
            assert_eq!(headers[REFERENCE_HEADER], AMQPValue::LongLongInt(sequence.cast_signed()));
            assert_eq!(headers.len(), 1);
        }
    }

    #[test]
    fn an_id_of_the_applications_is_kept() {
        let properties = samples::properties();
        let template = Template::new("", "q", false, &properties, Some(IdPrefix(1)), false);
        let mut out = Vec::new();
        template.encode(&mut out, 3, 16, 7);
        assert_eq!(header(&out), Ok((16, properties)));
    }

    #[test]
    fn resent_copies_say_which_they_are() {
        let template =
            Template::with_attempt("", "q", false, &samples::properties(), None, true, 2);
        let mut out = Vec::new();
        template.encode(&mut out, 3, 16, 7);
        let (_, properties) = header(&out).unwrap();
        let headers = properties.headers().as_ref().unwrap().inner();
        assert_eq!(headers[ATTEMPT_HEADER], AMQPValue::LongInt(2));
        assert_eq!(headers[REFERENCE_HEADER], AMQPValue::LongLongInt(7));
        assert_eq!(headers["string"], AMQPValue::LongString("text".into()));
    }

    #[test]
    fn only_ids_of_our_form_are_parsed() {
        for id in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789abcdef0123456789abcdef0",
            "0123456789ABCDEF0123456789abcdef",
            "0123456789abcdef0123456789abcdeg",
            "ü123456789abcdef0123456789abcde",
        ] {
            assert_eq!(parse_generated_id(id), None, "{id}");
        }
    }
}
