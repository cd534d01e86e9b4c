//! Frames (specification 4.2.3): one octet of kind, two of channel, four of payload size, the
//! payload, and one end octet.

use super::WireError;

/// The length of a frame's header in bytes.
pub const FRAME_HEADER: usize = 7;
/// What a frame takes beside its payload: header and end octet, in bytes.
pub const FRAME_OVERHEAD: usize = 8;
/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;
/// The smallest `frame_max` that a peer may ask for, and the limit before Tune (specification 4.2.3).
pub const FRAME_MIN_SIZE: u32 = 4096;
/// What a client sends first (specification 4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";
/// A whole heartbeat frame (specification 4.2.7).
pub const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A method.
    Method = 1,
    /// The header of a content: its size and properties.
    Header = 2,
    /// A piece of a body.
    Body = 3,
    /// Nothing: a sign of life.
    Heartbeat = 8,
}

/// A frame whose bytes have all arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// What is between the header and the end octet.
    pub payload: &'a [u8],
}

/// Takes the first frame of `buf`, with the number of bytes that it occupies there. `None`: more
/// bytes are needed.
///
/// `frame_max` counts the whole frame, header and end octet included. There is no "no limit": with a
/// `frame_max` under 8 every frame is refused.
///
/// # Errors
///
/// `UnknownFrameKind`, `FrameTooLarge` as soon as the seven bytes of the header are there, before
/// anything is stored for it; `ProtocolHeader` if `buf` begins with "AMQP" (its eight bytes are
/// awaited); `FrameEnd`. All of them are fatal to the connection: the frame's end is unknown.
#[inline]
pub fn decode(buf: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    let Some((&[kind, c0, c1, s0, s1, s2, s3], rest)) = buf.split_first_chunk() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    let kind = match kind {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 if size == 0 => FrameKind::Heartbeat,
        _ => return refuse_kind(kind, size, buf),
    };
    if size > frame_max.saturating_sub(FRAME_OVERHEAD as u32) || frame_max < FRAME_OVERHEAD as u32 {
        return Err(too_large(size, frame_max));
    }
    let size = size as usize;
    let Some(&end) = rest.get(size) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(WireError::FrameEnd(end));
    }
    let frame = Frame { kind, channel: u16::from_be_bytes([c0, c1]), payload: &rest[..size] };
    Ok(Some((frame, size + FRAME_OVERHEAD)))
}

#[cold]
fn refuse_kind(kind: u8, size: u32, buf: &[u8]) -> Result<Option<(Frame<'_>, usize)>, WireError> {
    if kind == FrameKind::Heartbeat as u8 {
        return Err(too_large(size, FRAME_OVERHEAD as u32));
    }
    if buf.starts_with(b"AMQP") {
        return buf
            .first_chunk()
            .map_or(Ok(None), |header| Err(WireError::ProtocolHeader(*header)));
    }
    Err(WireError::UnknownFrameKind(kind))
}

#[cold]
const fn too_large(payload: u32, max: u32) -> WireError {
    WireError::FrameTooLarge { size: payload.saturating_add(FRAME_OVERHEAD as u32), max }
}

/// Appends a frame whose payload `payload` appends; its size is patched in afterwards.
///
/// The caller sees to it that the frame does not exceed `frame_max`.
#[inline]
pub fn put_frame(
    out: &mut Vec<u8>,
    kind: FrameKind,
    channel: u16,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    put_header(out, kind, channel, 0);
    payload(out);
    let size = size_of_payload(out.len() - start - FRAME_HEADER);
    out[start + 3..start + FRAME_HEADER].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends the header alone of a body frame with a payload of `len` bytes, for payloads that leave by
/// vectored write. The caller appends the payload and [`FRAME_END`].
#[inline]
pub fn put_body_header(out: &mut Vec<u8>, channel: u16, len: u32) {
    put_header(out, FrameKind::Body, channel, len);
}

/// Appends a body, split into frames of at most `frame_max` bytes (an empty body has none).
///
/// A `frame_max` under 9 counts as 9.
#[inline]
pub fn put_body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    let most = (frame_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
    for chunk in body.chunks(most) {
        put_body_header(out, channel, size_of_payload(chunk.len()));
        out.extend_from_slice(chunk);
        out.push(FRAME_END);
    }
}

#[inline]
fn put_header(out: &mut Vec<u8>, kind: FrameKind, channel: u16, size: u32) {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = size.to_be_bytes();
    out.extend_from_slice(&[kind as u8, c0, c1, s0, s1, s2, s3]);
}

/// No payload of ours comes near 4 GiB: `frame_max` is a u32 and every caller checks against it.
fn size_of_payload(length: usize) -> u32 {
    debug_assert!(u32::try_from(length).is_ok(), "a payload of {length} bytes");
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use amq_protocol::frame::{AMQPFrame, parse_frame};

    use super::{super::samples, *};

    fn method_frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, FrameKind::Method, 5, |out| out.extend_from_slice(payload));
        out
    }

    #[test]
    fn frames_of_every_kind_survive() {
        for kind in [FrameKind::Method, FrameKind::Header, FrameKind::Body] {
            let mut out = vec![1, 2, 3];
            put_frame(&mut out, kind, 0xABCD, |out| out.extend_from_slice(b"payload"));
            out.push(77);
            let frame = Frame { kind, channel: 0xABCD, payload: b"payload" };
            assert_eq!(decode(&out[3..], 4096), Ok(Some((frame, 15))));
        }
        let frame = Frame { kind: FrameKind::Heartbeat, channel: 0, payload: b"" };
        assert_eq!(decode(&HEARTBEAT, 4096), Ok(Some((frame, 8))));
        assert_eq!(HEARTBEAT.to_vec(), samples::generated(&AMQPFrame::Heartbeat));
    }

    #[test]
    fn s09_a_frame_without_its_end_octet_is_refused() {
        let mut bytes = method_frame(b"x");
        *bytes.last_mut().unwrap() = 0xCD;
        assert_eq!(decode(&bytes, 4096), Err(WireError::FrameEnd(0xCD)));
        assert_eq!(WireError::FrameEnd(0xCD).code(), 501);
    }

    #[test]
    fn s09_an_oversize_frame_is_refused_from_its_header() {
        let mut header = Vec::new();
        put_body_header(&mut header, 1, 4096 - 8);
        assert_eq!(decode(&header, 4096), Ok(None));
        let mut header = Vec::new();
        put_body_header(&mut header, 1, 4096 - 7);
        let error = WireError::FrameTooLarge { size: 4097, max: 4096 };
        assert_eq!(decode(&header, 4096), Err(error.clone()));
        assert_eq!(error.code(), 501);
        assert_eq!(decode(&header[..6], 4096), Ok(None));
    }

    #[test]
    fn f20_a_lying_size_is_refused() {
        let mut header = Vec::new();
        put_body_header(&mut header, 1, u32::MAX);
        let error = WireError::FrameTooLarge { size: u32::MAX, max: 131_072 };
        assert_eq!(decode(&header, 131_072), Err(error));
    }

    #[test]
    fn s09_a_frame_max_of_zero_is_no_license() {
        for frame_max in 0..8 {
            let error = WireError::FrameTooLarge { size: 8, max: frame_max };
            assert_eq!(decode(&method_frame(b""), frame_max), Err(error));
        }
        assert!(decode(&method_frame(b""), 8).unwrap().is_some());
    }

    #[test]
    fn s09_unknown_kinds_are_refused_from_the_header() {
        for kind in (0..=255).filter(|kind| ![1, 2, 3, 8].contains(kind)) {
            let header = [kind, 0, 0, 0, 0, 0, 1];
            assert_eq!(decode(&header, 4096), Err(WireError::UnknownFrameKind(kind)));
        }
    }

    #[test]
    fn a_heartbeat_with_a_payload_is_refused() {
        let error = WireError::FrameTooLarge { size: 9, max: 8 };
        assert_eq!(decode(&[8, 0, 0, 0, 0, 0, 1, 7, FRAME_END], 4096), Err(error));
    }

    #[test]
    fn s01_a_protocol_header_is_told_from_garbage() {
        let answer = *b"AMQP\x03\x01\0\0";
        assert_eq!(decode(&answer[..7], 4096), Ok(None));
        assert_eq!(decode(&answer, 4096), Err(WireError::ProtocolHeader(answer)));
        assert_eq!(decode(b"AMQX\0\0\0\0", 4096), Err(WireError::UnknownFrameKind(b'A')));
    }

    #[test]
    fn f02_coalesced_frames_come_one_by_one() {
        let mut bytes = method_frame(b"one");
        bytes.extend_from_slice(&HEARTBEAT);
        let (frame, used) = decode(&bytes, 4096).unwrap().unwrap();
        assert_eq!(frame.payload, b"one");
        let (frame, rest) = decode(&bytes[used..], 4096).unwrap().unwrap();
        assert_eq!((frame.kind, used + rest), (FrameKind::Heartbeat, bytes.len()));
    }

    #[test]
    fn f01_a_frame_cut_anywhere_waits_for_more() {
        let bytes = method_frame(b"payload");
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length], 4096), Ok(None), "{length} bytes");
        }
    }

    #[test]
    fn s10_bodies_are_split_at_frame_max() {
        let body: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (length, frames) in [(0, 0), (1, 1), (4088, 1), (4089, 2), (8176, 2), (10_000, 3)] {
            let mut out = Vec::new();
            put_body(&mut out, 7, &body[..length], 4096);
            let (mut rest, mut joined, mut count) = (&out[..], Vec::new(), 0);
            while let Some((frame, used)) = decode(rest, 4096).unwrap() {
                assert_eq!((frame.kind, frame.channel), (FrameKind::Body, 7));
                joined.extend_from_slice(frame.payload);
                rest = &rest[used..];
                count += 1;
            }
            assert_eq!((count, &joined[..], rest), (frames, &body[..length], &[][..]));
        }
    }

    #[test]
    fn s10_a_tiny_frame_max_does_not_loop() {
        let mut out = Vec::new();
        put_body(&mut out, 7, b"abc", 0);
        assert_eq!(out.len(), 3 * 9);
    }

    #[test]
    fn a_body_header_equals_that_of_a_whole_frame() {
        let mut out = Vec::new();
        put_body_header(&mut out, 3, 4);
        out.extend_from_slice(b"body");
        out.push(FRAME_END);
        assert_eq!(out, samples::generated(&AMQPFrame::Body(3, b"body".to_vec())));
        assert_eq!(parse_frame(&out[..]).unwrap().1, AMQPFrame::Body(3, b"body".to_vec()));
    }
}
