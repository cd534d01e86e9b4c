//! Bytes to frames and back.

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("placeholder")]
pub struct WireError;

impl WireError {
    /// The reply code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        501
    }
}
