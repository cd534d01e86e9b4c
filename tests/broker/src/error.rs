//! Errors.

use std::io;

/// A server or link that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct StartError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl StartError {
    pub(crate) const fn new(what: &'static str, source: io::Error) -> Self {
        Self { what, source }
    }
}
