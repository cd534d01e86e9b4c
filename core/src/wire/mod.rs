//! Bytes to frames and back, in both directions: the client and the in-process broker use the same
//! codec, and so can tools of your own.
//!
//! Nothing here holds state or does I/O. Decoding never panics, never recurses by the input's will,
//! and never allocates before the bytes it pays for have arrived; what it refuses, it refuses with a
//! [`WireError`] that knows its reply code.
//!
//! The methods that come once per message (publish, deliver, ack, nack) are coded by hand, borrowed
//! and without allocation; all others go through amq-protocol's parser and generator, after
//! [`check_table`] has walked every field table in them: that parser recurses.
//!
//! ```
//! use lavinmq_core::wire::{self, FrameKind, Method};
//!
//! let mut bytes = Vec::new();
//! wire::put_ack(&mut bytes, 1, 7, true);
//! bytes.extend_from_slice(&wire::HEARTBEAT);
//!
//! let mut rest = &bytes[..];
//! while let Some((frame, used)) = wire::decode(rest, 131_072)? {
//!     rest = &rest[used..];
//!     if frame.kind == FrameKind::Method
//!         && let Method::Ack(ack) = wire::decode_method(frame.payload)?
//!     {
//!         assert_eq!((frame.channel, ack.delivery_tag, ack.multiple), (1, 7, true));
//!     }
//! }
//! assert!(rest.is_empty()); // else: the beginning of a frame
//! # Ok::<(), wire::WireError>(())
//! ```

mod content;
mod frame;
mod method;
mod publish;
mod read;
#[cfg(test)]
mod samples;
mod table;

use thiserror::Error;

pub use content::{
    ContentHeader, RawProperties, check_encodable, decode_content_header, decode_properties,
    properties_len, put_content_header, put_content_header_raw, put_properties,
};
pub use frame::{
    FRAME_END, FRAME_HEADER, FRAME_MIN_SIZE, FRAME_OVERHEAD, Frame, FrameKind, HEARTBEAT,
    PROTOCOL_HEADER, decode, put_body, put_body_header, put_frame,
};
pub use method::{
    Ack, Deliver, Method, Nack, Publish, decode_method, put_ack, put_deliver, put_method, put_nack,
    put_publish, put_reject, split_names,
};
pub(crate) use method::{decode_deliver, is_deliver};
pub use publish::{ATTEMPT_HEADER, IdPrefix, REFERENCE_HEADER, Template, parse_generated_id};
pub use table::{MAX_NESTING, check_properties, check_table, put_table, table_len};

/// Bytes that are no frame, method, content header or field table. The sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame of a kind that AMQP 0-9-1 does not have.
    #[error("a frame of the unknown kind {0}")]
    UnknownFrameKind(u8),
    /// A frame larger than what was agreed upon.
    #[error("a frame of {size} bytes exceeds the limit of {max}")]
    FrameTooLarge {
        /// The whole frame's size in bytes, as its header announces it.
        size: u32,
        /// The largest frame allowed here.
        max: u32,
    },
    /// The octet at the end of a frame is not 0xCE.
    #[error("a frame ends with {0:#04x} instead of 0xce")]
    FrameEnd(u8),
    /// A protocol header where a frame belongs: the peer does not speak our version.
    #[error("a protocol header instead of a frame: {}", .0.escape_ascii())]
    ProtocolHeader([u8; 8]),
    /// Something ends before its last field.
    #[error("{what} is cut short")]
    Truncated {
        /// What is cut short.
        what: &'static str,
    },
    /// Something has a form that its grammar does not allow.
    #[error("{what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A string that must be UTF-8 is not.
    #[error("{what} is not UTF-8")]
    Utf8 {
        /// Which string.
        what: &'static str,
    },
    /// Tables and arrays nested deeper than [`MAX_NESTING`].
    #[error("tables nested deeper than {MAX_NESTING}")]
    TableTooDeep,
    /// A length inside a table that reaches beyond what contains it.
    #[error("a length in a table reaches beyond its end")]
    TableLength,
    /// A field type that nobody sends.
    #[error("the unknown field type {0:#04x}")]
    UnknownFieldType(u8),
    /// A method that AMQP 0-9-1 does not have.
    #[error("the unknown method {class}.{method}")]
    UnknownMethod {
        /// Its class.
        class: u16,
        /// Its number.
        method: u16,
    },
    /// A string of over 255 bytes where only a short string can be. The caller's fault.
    #[error("a short string of {length} bytes; AMQP allows 255")]
    ShortStringTooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl WireError {
    /// The reply code of the `connection.close` that answers it (specification 1.2).
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::UnknownFrameKind(_)
            | Self::FrameTooLarge { .. }
            | Self::FrameEnd(_)
            | Self::ProtocolHeader(_) => 501,
            Self::Truncated { .. }
            | Self::Malformed { .. }
            | Self::Utf8 { .. }
            | Self::TableTooDeep
            | Self::TableLength
            | Self::UnknownFieldType(_)
            | Self::ShortStringTooLong { .. } => 502,
            Self::UnknownMethod { .. } => 540,
        }
    }
}
