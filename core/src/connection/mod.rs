//! One AMQP connection, from protocol header to close-ok: bytes, phases, channels, liveness.
//!
//! What outlives a connection (messages, consumers, topology) is the session's.

pub(crate) mod channel;
pub(crate) mod handshake;
pub(crate) mod receive;
pub(crate) mod transmit;

use std::{sync::Arc, time::Duration};

use amq_protocol::protocol::{
    AMQPClass, channel as channel_class,
    connection::{AMQPMethod, Close, CloseOk},
};
use channel::{Channels, Expect, Owner};
use handshake::{Server, Tuned};
use receive::Receive;
use transmit::Transmit;

use crate::{
    backoff::Backoff,
    error::Loss,
    time::Time,
    wire::{FRAME_END, HEARTBEAT, PROTOCOL_HEADER, WireError, put_method},
};

/// Nothing more is encoded while this much output is pending; the frame that passes it may be large.
pub(crate) const OUTPUT_LIMIT: usize = 64 << 10;

/// A peer that makes us answer without reading the answers is not read any more beyond this.
const ANSWER_LIMIT: usize = 4 * OUTPUT_LIMIT;

/// A whole `connection.close-ok`.
pub(crate) const CLOSE_OK: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, FRAME_END];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Publishing, consuming and declaring: the only connection.
    All,
    /// Publishing.
    Publish,
    /// Consuming with acks, and declaring.
    Consume,
    /// Consuming without acks: a slow application pauses it.
    NoAck,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::All => "the connection",
            Self::Publish => "the publishing connection",
            Self::Consume => "the consuming connection",
            Self::NoAck => "the no-ack connection",
        }
    }
}

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    /// Not wanted yet, or not any more.
    Idle,
    /// Waiting for the next attempt.
    Waiting,
    /// The driver is opening a transport.
    Dialling,
    /// Our protocol header is out; Start is due.
    AwaitStart,
    /// StartOk is out; Tune is due.
    AwaitTune,
    /// Open is out; OpenOk is due.
    AwaitOpenOk,
    /// In use.
    Open,
    /// Our close is out; close-ok is due. Then the connection counts as lost for this reason.
    Closing(Loss),
    /// Our close-ok must still be written. Then the same.
    Draining(Loss),
}

#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    pub(crate) transmit: Transmit,
    pub(crate) receive: Receive,
    pub(crate) channels: Channels,
    pub(crate) tuned: Tuned,
    pub(crate) server: Server,
    pub(crate) blocked: Option<Arc<str>>,
    pub(crate) blocked_since: Time,
    pub(crate) backoff: Backoff,
    /// Attempts since the last connection stood.
    pub(crate) attempts: u32,
    /// Whether it has stood since it is wanted.
    pub(crate) was_open: bool,
    /// Transports in a row that ended during authentication without a word.
    pub(crate) bare_closes: u8,
    /// Whether this transport was in use.
    pub(crate) standing: bool,
    /// Why it was lost last.
    pub(crate) loss: Option<Loss>,
    pub(crate) last_received: Time,
    pub(crate) last_sent: Time,
    /// When the transport last took a byte, or output became pending.
    pub(crate) last_progress: Time,
    /// Whether output has been pending since then.
    pub(crate) output_waits: bool,
    /// No-ack consumers on it whose queues are full: reading pauses.
    pub(crate) full_queues: usize,
    /// The connection was closed by the peer with a 50x code shortly before (s25).
    pub(crate) suspicious_closes: u32,
}

impl Connection {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            phase: Phase::Idle,
            transmit: Transmit::default(),
            receive: Receive::default(),
            channels: Channels::default(),
            tuned: Tuned::default(),
            server: Server::default(),
            blocked: None,
            blocked_since: Time::ZERO,
            backoff: Backoff::default(),
            attempts: 0,
            was_open: false,
            bare_closes: 0,
            standing: false,
            loss: None,
            last_received: Time::ZERO,
            last_sent: Time::ZERO,
            last_progress: Time::ZERO,
            output_waits: false,
            full_queues: 0,
            suspicious_closes: 0,
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether it stood and is being closed, by whichever side, to be opened again.
    pub(crate) fn is_ending(&self) -> bool {
        self.was_open
            && matches!(&self.phase, Phase::Closing(then) | Phase::Draining(then)
                if *then != Loss::LocalClose && !then.is_fatal())
    }

    /// Why it does not stand: the loss, known from the first close on.
    pub(crate) fn cause(&self) -> Option<&Loss> {
        match &self.phase {
            Phase::Closing(then) | Phase::Draining(then) if self.is_ending() => Some(then),
            _ => self.loss.as_ref(),
        }
    }

    /// Whether there is a transport, which may be read and written.
    pub(crate) const fn has_transport(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Waiting | Phase::Dialling)
    }

    /// Whether it is wanted and does not stand. One that is opened later counts once it has stood.
    pub(crate) fn is_missing(&self) -> bool {
        !matches!(self.phase, Phase::Open | Phase::Idle)
            && (self.was_open || self.role != Role::NoAck)
    }

    /// Starts the protocol on a new transport.
    pub(crate) fn start(&mut self, now: Time) {
        self.transmit = Transmit::default();
        self.receive = Receive::default();
        self.channels.clear();
        self.tuned = Tuned::default();
        self.blocked = None;
        self.full_queues = 0;
        self.last_received = now;
        self.last_sent = now;
        self.last_progress = now;
        self.output_waits = false;
        self.phase = Phase::AwaitStart;
        self.transmit.append(|out| out.extend_from_slice(&PROTOCOL_HEADER));
    }

    /// Whether the driver should read.
    pub(crate) fn reads(&self) -> bool {
        self.has_transport() && self.full_queues == 0 && self.transmit.pending() < ANSWER_LIMIT
    }

    /// Appends a method frame; on a channel only while the connection is open: behind a close or a
    /// close-ok nothing may follow (s13).
    pub(crate) fn send(&mut self, channel: u16, class: &AMQPClass) -> Result<(), WireError> {
        if channel > 0 && !self.is_open() {
            return Ok(());
        }
        let mut result = Ok(());
        self.transmit.append(|out| result = put_method(out, channel, class));
        result
    }

    pub(crate) fn send_heartbeat(&mut self) {
        self.transmit.append(|out| out.extend_from_slice(&HEARTBEAT));
    }

    /// Sends our close; what was not begun to be written is dropped. Then the connection counts as
    /// lost for this reason.
    pub(crate) fn close(&mut self, code: u16, text: &str, then: Loss) {
        self.transmit.keep_begun_frame();
        let close = Close {
            reply_code: code,
            reply_text: amq_protocol::types::ShortString::try_new(text).unwrap_or_default(),
            class_id: 0,
            method_id: 0,
        };
        // Encoding a close cannot fail; if it did, the deadline would hang up.
        let _ = self.send(0, &AMQPClass::Connection(AMQPMethod::Close(close)));
        self.phase = Phase::Closing(then);
    }

    /// Answers the peer's close and nothing else (s13).
    pub(crate) fn answer_close(&mut self, then: Loss) {
        self.transmit.keep_begun_frame();
        let _ = self.send(0, &AMQPClass::Connection(AMQPMethod::CloseOk(CloseOk {})));
        self.phase = Phase::Draining(then);
    }

    /// Opens a channel for `owner`: its number, or `None` if there is none left.
    pub(crate) fn open_channel(&mut self, owner: Owner) -> Option<u16> {
        let number = self.channels.open(owner, self.tuned.channel_max.max(1))?;
        let open = channel_class::AMQPMethod::Open(channel_class::Open {});
        let _ = self.send(number, &AMQPClass::Channel(open));
        Some(number)
    }

    /// Whether a channel will be free once its close-ok comes.
    pub(crate) const fn is_closing_channels(&self) -> bool {
        self.channels.disowned() > 0
    }

    /// Starts closing a channel: its number is free again after close-ok.
    pub(crate) fn close_channel(&mut self, number: u16, code: u16, text: &str) {
        let Some(channel) = self.channels.get_mut(number) else { return };
        if channel.expect == Some(Expect::CloseOk) {
            return;
        }
        channel.expect = Some(Expect::CloseOk);
        let close = channel_class::Close {
            reply_code: code,
            reply_text: amq_protocol::types::ShortString::try_new(text).unwrap_or_default(),
            class_id: 0,
            method_id: 0,
        };
        let _ = self.send(number, &AMQPClass::Channel(channel_class::AMQPMethod::Close(close)));
    }

    /// Half the heartbeat interval: silence of ours after which a heartbeat is due.
    pub(crate) fn heartbeat_every(&self) -> Option<Duration> {
        (self.tuned.heartbeat > 0)
            .then(|| Duration::from_millis(u64::from(self.tuned.heartbeat) * 500))
    }

    /// Two heartbeat intervals: silence of the peer's after which it counts as dead.
    pub(crate) fn silence_limit(&self) -> Option<Duration> {
        (self.tuned.heartbeat > 0).then(|| Duration::from_secs(u64::from(self.tuned.heartbeat) * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_read_its_answers_is_not_read_from_the_limit_on() {
        let mut connection = Connection::new(Role::All);
        connection.start(Time::ZERO);
        let more = ANSWER_LIMIT - 1 - connection.transmit.pending();
        connection.transmit.append(|out| out.resize(out.len() + more, 0));
        assert!(connection.reads());
        connection.transmit.append(|out| out.push(0));
        assert!(!connection.reads());
    }

    #[test]
    fn s6_heartbeats_go_out_at_half_the_interval_and_two_are_the_limit_and_0_is_off() {
        let mut connection = Connection::new(Role::All);
        let times =
            |connection: &Connection| (connection.heartbeat_every(), connection.silence_limit());
        assert_eq!(times(&connection), (None, None));
        connection.tuned.heartbeat = 1;
        let seconds = |seconds| Some(Duration::from_secs_f32(seconds));
        assert_eq!(times(&connection), (seconds(0.5), seconds(2.0)));
        connection.tuned.heartbeat = 10;
        assert_eq!(times(&connection), (seconds(5.0), seconds(20.0)));
    }
}
