//! How offers and messages end.

use lavinmq_core::event::{DropReason, UnknownReason, Verdict};

/// What became of an accepted message. (Fire-and-forget messages that were sent are not reported.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Confirmed.
    Confirmed,
    /// Nacked.
    Nacked,
    /// Returned.
    Returned,
    /// Dropped.
    Dropped(DropReason),
    /// Failed.
    Failed,
    /// Unknown.
    Unknown(UnknownReason),
    /// One that this oracle does not know.
    Other,
}

impl Outcome {
    pub(super) fn of(verdict: Option<&Verdict>) -> Self {
        match verdict {
            None => Self::Confirmed,
            Some(Verdict::Nacked) => Self::Nacked,
            Some(Verdict::Returned(_)) => Self::Returned,
            Some(Verdict::Dropped(reason)) => Self::Dropped(*reason),
            Some(Verdict::Failed(_)) => Self::Failed,
            Some(Verdict::Unknown(reason)) => Self::Unknown(*reason),
            Some(_) => Self::Other,
        }
    }
}

/// How an offer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It waits for room.
    Waiting,
    /// It was taken.
    Accepted,
    /// It came back.
    Refused,
    /// Its future was dropped while it waited.
    Cancelled,
}
