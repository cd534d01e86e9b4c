//! How each message ended, by its place in the plan: for comparing two runs.

use std::collections::BTreeMap;

use super::{Accounts, Admission, Outcome};
use crate::sim::scenario::Place;

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Its publish did not end.
    Waiting,
    /// It came back.
    Refused,
    /// Its future was dropped.
    Cancelled,
    /// It was accepted, and this was reported of it.
    Ended(Outcome),
    /// It was accepted, and nothing was reported: sent, or confirmed and nobody listens.
    Accepted,
}

impl Accounts {
    /// How each message ended.
    #[must_use]
    pub fn fates(&self) -> BTreeMap<Place, Fate> {
        let mut fates = BTreeMap::new();
        for (producer, book) in self.producers.iter().enumerate() {
            let mut offers: BTreeMap<usize, usize> = BTreeMap::new();
            for record in &book.records {
                let next = offers.entry(record.task).or_default();
                let place = Place { producer, task: record.task, offer: *next };
                *next += 1;
                let fate = match (record.admission, record.hook) {
                    (Admission::Waiting, _) => Fate::Waiting,
                    (Admission::Refused, _) => Fate::Refused,
                    (Admission::Cancelled, _) => Fate::Cancelled,
                    (Admission::Accepted, Some((_, outcome))) => Fate::Ended(outcome),
                    (Admission::Accepted, None) => Fate::Accepted,
                };
                fates.insert(place, fate);
            }
        }
        fates
    }
}
