//! What must hold, whatever happened: read from what the broker holds.

use std::collections::BTreeSet;

use crate::{broker::short, harness::*, world::World};

impl World {
    /// Each settlement that reached the broker is one that the application gave for that very
    /// delivery: none of an earlier generation, none of a neighbour's.
    pub fn check_settlements(&mut self) {
        for number in self.broker.settled.drain(..) {
            assert!(self.settled.contains(&number), "delivery {number} was not settled by us");
        }
    }

    /// The outcome of this message, `None` while it has none; two are a violation.
    pub fn outcome(&self, producer: ProducerId, sequence: u64) -> Option<&Option<Verdict>> {
        let told = self.outcomes.get(&(producer, sequence))?;
        assert_eq!(told.len(), 1, "message {sequence} of {producer} has one outcome: {told:?}");
        told.first()
    }

    /// After the end: what the broker holds is what was told. `lossy`: what was written may have
    /// vanished on the way.
    pub fn check_accounts(&mut self, lossy: bool) {
        assert!(self.closed && self.stage.session.is_closed());
        assert_eq!(self.stage.session.poll_deadline(), None, "nothing ticks after the end");
        let stats = self.stage.session.stats();
        assert!(stats.is_conserved(), "{stats:#?}");
        assert_eq!((stats.publish.queued, stats.publish.in_flight), (0, 0), "{stats:#?}");
        assert_eq!(stats.publish.accepted, self.accepted.len() as u64);
        let forgotten =
            self.accepted.iter().filter(|(p, ..)| self.modes[p] == PublishMode::FireAndForget);
        assert_eq!(stats.publish.sent, forgotten.count() as u64, "{stats:#?}");
        for (producer, sequence, body) in &self.accepted {
            let copies: Vec<_> =
                self.broker.copies.iter().filter(|copy| copy.body == *body).collect();
            let what = format!("{}: {} copies", short(body), copies.len());
            if self.modes[producer] == PublishMode::FireAndForget {
                let told = self.outcomes.get(&(*producer, *sequence));
                assert_eq!(told, None, "{what}: sent is no outcome that is told");
                assert!(copies.len() == 1 || (lossy && copies.is_empty()), "{what}");
                continue;
            }
            let outcome = self.outcome(*producer, *sequence).unwrap_or_else(|| panic!("{what}"));
            let attempts: Vec<_> =
                copies.iter().map(|copy| copy.attempt().unwrap_or(1) as usize).collect();
            match outcome {
                None | Some(Verdict::Nacked | Verdict::Returned(_)) => {
                    assert!(!copies.is_empty(), "{what}, and yet {outcome:?}");
                }
                Some(Verdict::Dropped(_)) => assert!(copies.is_empty(), "{what}, and yet dropped"),
                Some(_) => {}
            }
            if lossy {
                assert!(attempts.is_sorted(), "{what}: {attempts:?}");
                assert!(copies.len() <= attempts.last().copied().unwrap_or(0), "{what}");
            } else {
                // Each copy says which one it is, and none is missing.
                assert!(attempts.iter().copied().eq(1..=copies.len()), "{what}: {attempts:?}");
            }
            let ids: BTreeSet<_> = copies.iter().map(|copy| copy.message_id()).collect();
            assert!(ids.len() <= 1, "{what}: one message, one id");
        }
        self.check_order();
    }

    /// First copies come in the order of acceptance, for each producer.
    fn check_order(&self) {
        for producer in self.modes.keys() {
            let firsts = self.accepted.iter().filter(|(p, ..)| p == producer);
            let places: Vec<_> = firsts
                .filter_map(|(.., body)| {
                    self.broker.copies.iter().position(|copy| copy.body == *body)
                })
                .collect();
            assert!(places.is_sorted(), "{producer}: {places:?}");
        }
    }
}
