//! Reading fields from the front of a slice, and writing the one that needs care.

use super::WireError;

/// What is left to read of something.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// What is being read, for errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(WireError::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(WireError::Truncated { what: self.what });
        };
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A short string, as it came.
    #[inline]
    pub(super) fn short(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u8()?;
        self.bytes(length.into())
    }

    /// Nothing may be left.
    #[inline]
    pub(super) const fn finish(self, error: &'static str) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Malformed { what: error }) }
    }
}

/// Appends a short string. Callers check lengths where the string comes in (semantics s12); should
/// one ever slip through, the frame stays well formed: the string is cut.
#[inline]
pub(super) fn put_short(out: &mut Vec<u8>, string: &[u8]) {
    debug_assert!(string.len() <= 255, "a short string of {} bytes", string.len());
    let length = u8::try_from(string.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend_from_slice(string.get(..length.into()).unwrap_or(string));
}
