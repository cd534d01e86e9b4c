//! Which publish made the broker close the channel, or the connection (semantics s25).
//!
//! A close names no message. So what was in flight is sent again one at a time, and when it happens
//! again there is only one that it can be.

use std::sync::Arc;

use super::{PUBLISH, Session};
use crate::{
    config::PublishMode,
    error::Loss,
    event::{Event, FailReason, Verdict},
    ids::ProducerId,
    publish::{lane::LaneState, producer::Outcome},
};

/// `basic.publish`, as a close names it.
const BASIC_PUBLISH: (u16, u16) = (60, 40);

/// Offenders in a row after which the search waits between its probes.
const PATIENCE: u32 = 3;

impl Session {
    /// The broker closed a lane's channel; our close-ok is on its way.
    pub(super) fn lane_closed(&mut self, l: usize, code: u16, text: &Arc<str>, method: (u16, u16)) {
        let stood = self.config.backoff.stable;
        let Some(lane) = self.lanes.get_mut(l) else { return };
        if self.now - lane.opened_at >= stood {
            lane.backoff.reset();
        }
        // LavinMQ never sends connection.blocked: it closes the channel of whoever publishes (s22).
        let low_on_disk = code == 406 && text.to_ascii_lowercase().contains("low on disk");
        let blamed = method == BASIC_PUBLISH && !low_on_disk && lane.mode == PublishMode::Confirm;
        let offender = if blamed { lane.only_outstanding() } else { None };
        self.lane_channel_lost(l);
        self.event(Event::ChannelClosed { code, text: text.clone() });
        let mut patient = false;
        if let Some((producer, place)) = offender {
            self.fail(producer, place, code, text);
            if let Some(lane) = self.lanes.get_mut(l) {
                lane.offenders = if lane.offence == code { lane.offenders + 1 } else { 1 };
                lane.offence = code;
                patient = lane.offenders >= PATIENCE;
                if patient && lane.backoff.failures() == 0 {
                    // The first delay would be none: that one was the search itself.
                    let _ = lane.backoff.next(&self.config.backoff, &mut self.rng);
                }
            }
        }
        if blamed {
            let suspects = self.suspects(l);
            if let Some(lane) = self.lanes.get_mut(l) {
                lane.suspects = suspects;
            }
        }
        if blamed && !patient {
            if let Some(lane) = self.lanes.get_mut(l) {
                lane.state = LaneState::Reopening;
            }
            self.reopen_lane(l);
        } else {
            self.delay_lane(l);
        }
    }

    fn fail(&mut self, producer: ProducerId, place: u64, code: u16, text: &Arc<str>) {
        let reason = FailReason::Refused { code, text: text.clone() };
        self.finish(producer, place, &Outcome::Not(Verdict::Failed(reason)));
        self.check_closed(producer);
    }

    /// The broker closed the whole connection: over a publish, if that happens again and again.
    pub(super) fn blame_connection_close(&mut self, c: usize, loss: &Loss) {
        let Loss::Closed { code, text, method } = loss else { return };
        if c != PUBLISH
            || !matches!(code, 501..=506 | 540)
            || !matches!(*method, BASIC_PUBLISH | (0, 0))
        {
            return;
        }
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.suspicious_closes += 1;
        let suspicious = *code == 540 || connection.suspicious_closes >= 2;
        let mut outstanding = self.lanes.iter().filter_map(|lane| match lane.outstanding() {
            0 => None,
            _ => Some(lane.only_outstanding()),
        });
        // Fire-and-forget messages are never settled: among those nobody can be found.
        let Some(first) = outstanding.next() else { return };
        let only = first.filter(|_| outstanding.next().is_none());
        drop(outstanding);
        match only {
            Some((producer, place)) if self.single_file || suspicious => {
                self.fail(producer, place, *code, text)
            }
            _ if suspicious => self.single_file = true,
            _ => {}
        }
    }

    /// Whether the one message that may be on its way is.
    pub(super) fn in_single_file(&self) -> bool {
        self.lanes.iter().any(|lane| lane.outstanding() > 0 || lane.partial.is_some())
    }

    /// Ends the search once everything that had to be sent again is settled.
    pub(super) fn end_single_file(&mut self) {
        if !self.in_single_file() && self.producers.iter().all(|(_, p)| !p.ring.has_resend()) {
            self.single_file = false;
        }
    }
}
