//! The end: a shutdown that drains, and an abort that does not.

use std::time::Duration;

use super::{DeclaredQueue, Report, Session, SessionEvent, timer::Timer};
use crate::{
    connection::Phase,
    error::{DeclareError, Loss},
    event::{DropReason, EndReason},
    ids::{ConnectionId, ConsumerId, ProducerId},
    session::Action,
    time::Time,
};

impl Session {
    /// Stops admission, sends what is queued, awaits the settlements, closes consumers, channels and
    /// connections. At the deadline what is left is given up. [`SessionEvent::Closed`] ends it, and
    /// [`report`](Self::report) says what was left behind.
    pub fn shutdown(&mut self, deadline: Duration, now: Time) {
        self.advance(now);
        if self.closed {
            return;
        }
        let at = self.now + deadline;
        if self.closing.is_some() {
            // A second shutdown can only shorten the first.
            if self.timers.get(Timer::Shutdown).is_none_or(|current| at < current) {
                self.timers.arm(Timer::Shutdown, at);
            }
            return;
        }
        self.closing = Some(Report::default());
        self.timers.arm(Timer::Shutdown, at);
        for number in self.producers.numbers() {
            self.close_producer(ProducerId(number), false, now);
        }
        for number in self.consumers.numbers() {
            self.cancel_consumer(ConsumerId(number), EndReason::ClientClosed);
        }
        for request in self.requests.keys().copied().collect::<Vec<_>>() {
            self.forget_request_as(request, Err(DeclareError::Closed));
        }
        self.advance_closing();
    }

    pub(super) fn shutdown_due(&mut self) {
        if let Some(report) = &mut self.closing {
            report.timed_out = true;
        }
        self.abort(self.now);
    }

    /// Takes the next step of a shutdown, if everything before it is done.
    pub(super) fn advance_closing(&mut self) {
        if self.closing.is_none() || self.closed {
            return;
        }
        if self.not_closed > 0 || !self.consumers.is_empty() {
            return;
        }
        for c in 0..self.connections.len() {
            let Some(connection) = self.connections.get_mut(c) else { continue };
            match connection.phase {
                Phase::Open => {
                    // Everything is settled, so that nothing is cut off here.
                    connection.close(200, "goodbye", Loss::LocalClose);
                    self.timers.arm(Timer::Close(c), self.now + self.config.deadlines.handshake);
                }
                Phase::Idle | Phase::Closing(_) | Phase::Draining(_) => {}
                Phase::Waiting => {
                    connection.phase = Phase::Idle;
                    self.timers.cancel(Timer::Reconnect(c));
                }
                Phase::Dialling | Phase::AwaitStart | Phase::AwaitTune | Phase::AwaitOpenOk => {
                    self.hang_up(c, Loss::LocalClose);
                    return;
                }
            }
        }
        if self.connections.iter().all(|connection| connection.phase == Phase::Idle) {
            self.finish_closing(None);
        }
    }

    fn finish_closing(&mut self, loss: Option<Loss>) {
        self.closed = true;
        self.timers.clear();
        // What was on the wire has its answer already.
        self.declaring = None;
        self.control = None;
        self.close_state(loss);
        self.events.push_back(SessionEvent::Closed);
    }

    /// Gives up at once: every message gets its outcome, every consumer ends, every transport is hung
    /// up. What a driver calls when it is dropped.
    pub fn abort(&mut self, now: Time) {
        self.advance(now);
        self.end(DropReason::Closed, None);
    }

    /// The reconnect attempts ran out, or no attempt can help.
    pub(super) fn give_up(&mut self, loss: Loss) {
        self.end(DropReason::Disconnected, Some(loss));
    }

    fn end(&mut self, reason: DropReason, loss: Option<Loss>) {
        if self.closed {
            return;
        }
        // From here on nothing drains: the last producer that ends must not end the session, too.
        self.closed = true;
        self.closing.get_or_insert_default();
        for number in self.consumers.numbers() {
            if let Some(consumer) = self.consumers.get_mut(number) {
                consumer.begin_closing(match &loss {
                    Some(loss) => EndReason::Disconnected(loss.clone()),
                    None => EndReason::ClientClosed,
                });
            }
        }
        // Connections first: what was written decides what became of the messages.
        for c in 0..self.connections.len() {
            self.settle_lost(c);
            let Some(connection) = self.connections.get_mut(c) else { continue };
            let had = connection.has_transport() || connection.phase == Phase::Dialling;
            connection.phase = Phase::Idle;
            connection.standing = false;
            if had {
                self.actions.push_back(Action::HangUp { connection: ConnectionId(c as u32) });
            }
        }
        for number in self.producers.numbers() {
            let producer = ProducerId(number);
            if let Some(p) = self.producers.get_mut(number) {
                p.closing = true;
            }
            self.abandon(producer, reason);
        }
        for number in self.consumers.numbers() {
            self.end_consumer(ConsumerId(number));
        }
        for request in self.requests.keys().copied().collect::<Vec<_>>() {
            self.forget_request_as(request, Err(DeclareError::Closed));
        }
        for connection in &mut self.connections {
            connection.channels.clear();
            connection.transmit = Default::default();
            connection.receive = Default::default();
        }
        self.finish_closing(loss);
    }

    fn forget_request_as(
        &mut self,
        request: crate::ids::RequestId,
        result: Result<DeclaredQueue, DeclareError>,
    ) {
        if self.requests.contains_key(&request) {
            self.events.push_back(SessionEvent::Declared { request, result });
        }
        self.forget_request(request);
    }
}
