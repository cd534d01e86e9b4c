//! What a session still keeps: the simulator looks after every close.

use super::Session;
use crate::connection::Phase;

impl Session {
    /// Everything that is still kept for somebody: empty once the client is closed.
    #[must_use]
    pub fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let connections = || self.connections.iter();
        let lanes = || self.lanes.iter();
        let kept = [
            ("channels", connections().map(|c| c.channels.used()).sum()),
            ("connections in use", connections().filter(|c| c.phase != Phase::Idle).count()),
            ("bytes to write", connections().map(|c| c.transmit.pending()).sum()),
            ("full queues", connections().map(|c| c.full_queues).sum()),
            ("producers", self.producers.iter().count()),
            ("members of lanes", lanes().map(|lane| lane.members.len()).sum()),
            ("lanes with a channel", lanes().filter(|lane| lane.channel.is_some()).count()),
            ("tags", lanes().map(|lane| lane.outstanding()).sum()),
            ("consumers", self.consumers.iter().count()),
            ("starved consumers", self.starved.len()),
            ("dependents", self.dependents.len()),
            ("batches", self.batches.len() + self.filling.len()),
            ("settling consumers", self.settling.iter().map(|queue| queue.len()).sum()),
            ("declarations", self.requests.len() + usize::from(self.declaring.is_some())),
            ("resends to look for", self.unwritten.len()),
            ("timers", usize::from(self.timers.next().is_some())),
            ("actions", self.actions.len()),
            ("events", self.events.len()),
        ];
        kept.into_iter().filter(|&(_, n)| n > 0).collect()
    }
}
