//! One connection as the server sees it: its transport's bytes, its handshake, its liveness.

use std::{collections::BTreeMap, time::Duration};

use amq_protocol::types::{AMQPValue, FieldTable};
use lavinmq_core::{time::Time, wire::FRAME_MIN_SIZE};

use super::channel::Channel;
use crate::personality::Ending;

/// How far the connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Awaits the protocol header.
    Header,
    /// Awaits start-ok.
    StartOk,
    /// Awaits tune-ok.
    TuneOk,
    /// Awaits connection.open.
    Open,
    Running,
    /// Sent connection.close, awaits close-ok.
    Closing,
    /// Nothing is read any more.
    Over,
}

/// What the client said that it understands (the table `capabilities` of its properties).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    pub(super) authentication_failure_close: bool,
    pub(super) consumer_cancel_notify: bool,
    pub(super) connection_blocked: bool,
}

impl Capabilities {
    pub(super) fn of(properties: &FieldTable) -> Self {
        let Some(table) =
            properties.inner().get("capabilities").and_then(AMQPValue::as_field_table)
        else {
            return Self::default();
        };
        let says = |name: &str| table.inner().get(name).and_then(AMQPValue::as_bool) == Some(true);
        Self {
            authentication_failure_close: says("authentication_failure_close"),
            consumer_cancel_notify: says("consumer_cancel_notify"),
            connection_blocked: says("connection.blocked"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// Bytes received and not yet understood: part of a frame, or everything while blocked.
    pub(super) input: Vec<u8>,
    pub(super) output: Output,
    /// Whether it is in the list of changed connections.
    pub(super) announced: bool,
    /// When, and how, the transport is to be ended once the output is flushed.
    pub(super) ending: Option<(Time, Ending)>,
    /// When a tick has to look at `ending`.
    pub(super) ending_check: Option<Time>,
    /// The largest frame, in both directions; before Tune, the smallest that it could be.
    pub(super) frame_max: u32,
    pub(super) channel_max: u16,
    /// Zero is none.
    pub(super) heartbeat: Duration,
    pub(super) last_received: Time,
    pub(super) last_sent: Time,
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) client_properties: FieldTable,
    pub(super) capabilities: Capabilities,
    /// An alarm stopped this connection: nothing is read from it.
    pub(super) blocked: bool,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// The channels with confirms to send.
    pub(super) confirming: Vec<u16>,
}

impl Connection {
    pub(super) fn new(now: Time) -> Self {
        Self {
            phase: Phase::Header,
            input: Vec::new(),
            output: Output::default(),
            announced: false,
            ending: None,
            ending_check: None,
            frame_max: FRAME_MIN_SIZE,
            channel_max: 0,
            heartbeat: Duration::ZERO,
            last_received: now,
            last_sent: now,
            user: String::new(),
            vhost: String::new(),
            client_properties: FieldTable::default(),
            capabilities: Capabilities::default(),
            blocked: false,
            channels: BTreeMap::new(),
            confirming: Vec::new(),
        }
    }

    /// Whether frames are taken from the input.
    pub(super) fn is_reading(&self) -> bool {
        !self.blocked && self.phase != Phase::Over
    }

    pub(super) const fn end_at(&mut self, at: Time, ending: Ending) {
        self.ending = Some((at, ending));
        self.ending_check = Some(at);
    }

    /// Whether the client has not shown yet who it is and that it understands us: its mistakes are then
    /// not worth an answer.
    pub(super) const fn is_unproven(&self) -> bool {
        matches!(self.phase, Phase::Header | Phase::StartOk | Phase::TuneOk)
    }

    /// Whether deliveries may be written.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// When a heartbeat is due.
    pub(super) fn heartbeat_due(&self) -> Option<Time> {
        (self.has_heartbeats() && self.phase != Phase::Over)
            .then(|| self.last_sent + self.heartbeat / 2)
    }

    /// When the client's silence is too long. A blocked connection is not watched: it is not read.
    pub(super) fn silence_due(&self, half_intervals: u32) -> Option<Time> {
        (self.has_heartbeats() && self.is_reading())
            .then(|| self.last_received + self.heartbeat / 2 * half_intervals)
    }

    fn has_heartbeats(&self) -> bool {
        !self.heartbeat.is_zero()
            && matches!(self.phase, Phase::Open | Phase::Running | Phase::Closing)
    }
}

/// Bytes for the client: pending, and taken by a writer that has not reported them as written yet.
#[derive(Debug, Default)]
pub(super) struct Output {
    buffer: Vec<u8>,
    /// Where the pending bytes start.
    start: usize,
    taken: usize,
}

impl Output {
    /// Where frames are appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(super) fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Pending and taken.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start + self.taken
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.start = self.buffer.len().min(self.start.saturating_add(n));
        // Moved only once at least half is free, so that each byte moves at most once on average.
        if self.start * 2 >= self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }

    pub(super) fn take(&mut self, into: &mut Vec<u8>) {
        into.clear();
        self.buffer.drain(..self.start);
        self.start = 0;
        std::mem::swap(&mut self.buffer, into);
        self.taken += into.len();
    }

    pub(super) fn written(&mut self, n: usize) {
        self.taken = self.taken.saturating_sub(n);
    }
}
