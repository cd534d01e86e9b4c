//! What can be set before the broker starts.

use std::collections::{BTreeMap, BTreeSet};

use crate::personality::{Personality, Tune};

/// The settings of a broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The broker to play.
    pub personality: Personality,
    /// Passwords by user name. By default `guest` with the password `guest`.
    pub users: BTreeMap<String, String>,
    /// The virtual hosts that exist. By default `/` alone.
    pub vhosts: BTreeSet<String>,
    /// What connection.tune offers. By default what the personality's broker offers.
    pub tune: Tune,
    /// Over this many bytes of pending output, nothing is delivered to a connection. By default 256 KiB.
    /// It bounds the memory that a client which does not read can take.
    pub output_limit: usize,
}

impl Settings {
    /// The default settings.
    #[must_use]
    pub fn new(personality: Personality) -> Self {
        Self {
            personality,
            users: BTreeMap::from([("guest".to_owned(), "guest".to_owned())]),
            vhosts: BTreeSet::from(["/".to_owned()]),
            tune: personality.tune(),
            output_limit: 256 * 1024,
        }
    }
}
