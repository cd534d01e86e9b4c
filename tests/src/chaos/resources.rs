//! What this process and the broker hold for us.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::live::broker::Broker;

/// A reading of what must stay flat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Resident memory without the ledgers, in KiB.
    pub memory: u64,
    pub descriptors: u64,
    /// Ours at the broker, where it can be asked.
    pub connections: Option<u64>,
    pub channels: Option<u64>,
}

impl Reading {
    /// `ledgers` is the memory that the accounts themselves take, in bytes.
    pub fn take(broker: &Broker, name: &str, ledgers: u64) -> Self {
        let at_broker = broker.connections(name);
        Self {
            memory: resident().saturating_sub(ledgers / 1024),
            descriptors: descriptors(),
            connections: at_broker.map(|(connections, _)| connections),
            channels: at_broker.map(|(_, channels)| channels),
        }
    }
}

/// `VmRSS`, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Open file descriptors; that of the directory that is being read does not count.
pub fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| (entries.count() as u64).saturating_sub(1))
}

/// Waits until a reading settles: sockets that were cut end a little later than their connections.
pub fn settles(patience: Duration, mut fine: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !fine() {
        if began.elapsed() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(200));
    }
    true
}
