//! Connections come and go: dialling, the handshake, liveness, loss, and the next attempt.

use amq_protocol::protocol::{AMQPClass, connection};

use super::{PUBLISH, Session, api::Action, timer::Timer};
use crate::{
    connection::{
        Connection, Phase,
        handshake::{self, Server, Tuned},
    },
    error::{Loss, ProtocolError},
    event::State,
    ids::ConnectionId,
    time::Time,
    wire::put_method,
};

/// How long a peer that broke the protocol may take to answer our close.
const BROKEN_PEER_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

impl Session {
    pub(super) fn dial(&mut self, c: usize) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.phase = Phase::Dialling;
        let target = self.config.target.clone();
        let mut limit = self.config.deadlines.connect;
        if target.tls {
            limit += self.config.deadlines.tls;
        }
        self.timers.arm(Timer::Dial(c), self.now + limit);
        self.actions.push_back(Action::Dial { connection: ConnectionId(c as u32), target });
        self.update_state();
    }

    /// The transport that [`Action::Dial`] asked for is open.
    pub fn handle_connected(&mut self, connection: ConnectionId, now: Time) {
        self.advance(now);
        let c = connection.0 as usize;
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c).filter(|c| c.phase == Phase::Dialling)
        else {
            return;
        };
        connection.start(now);
        self.timers.cancel(Timer::Dial(c));
        self.timers.arm(Timer::Handshake(c), now + self.config.deadlines.handshake);
    }

    /// The transport took `n` bytes of what [`transmit`](Self::transmit) offered.
    ///
    /// With `last` they are in the kernel's hands. Without, they count as possibly written until
    /// [`handle_flushed`](Self::handle_flushed): TLS buffers.
    pub fn handle_written(&mut self, connection: ConnectionId, n: usize, last: bool, now: Time) {
        self.advance(now);
        let c = connection.0 as usize;
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c).filter(|c| c.has_transport()) else {
            return;
        };
        connection.transmit.written(n, last);
        connection.last_sent = now;
        connection.last_progress = now;
        connection.output_waits = connection.transmit.pending() > 0;
        self.after_write(c);
    }

    /// Everything that the transport took is written.
    pub fn handle_flushed(&mut self, connection: ConnectionId, now: Time) {
        self.advance(now);
        let c = connection.0 as usize;
        let Some(connection) = self.connections.get_mut(c).filter(|c| c.has_transport()) else {
            return;
        };
        connection.transmit.flush();
        self.after_write(c);
    }

    fn after_write(&mut self, c: usize) {
        self.settle_written(c);
        if let Some(connection) = self.connections.get(c)
            && let Phase::Draining(then) = &connection.phase
            && connection.transmit.flushed() == connection.transmit.enqueued()
        {
            let then = then.clone();
            self.hang_up(c, then);
        }
    }

    /// The transport ended, or could not be opened ([`Loss::Dial`]).
    pub fn handle_disconnected(&mut self, connection: ConnectionId, loss: Loss, now: Time) {
        self.advance(now);
        let c = connection.0 as usize;
        let Some(connection) = self.connections.get_mut(c) else { return };
        let loss = match (&connection.phase, loss) {
            (Phase::Idle | Phase::Waiting, _) => return,
            // The close said why already.
            (Phase::Closing(then) | Phase::Draining(then), _) => then.clone(),
            (Phase::AwaitTune, loss @ (Loss::Eof | Loss::Io { .. })) => {
                connection.bare_closes = connection.bare_closes.saturating_add(1);
                // Credentials that were good once: a broker that is starting hangs up here, too.
                // Twice in a row it counts as what it means otherwise (s3).
                if connection.was_open && connection.bare_closes < 2 {
                    loss
                } else {
                    Loss::AccessRefused {
                        user: self.config.credentials.user.clone(),
                        text: "the broker closed the connection during authentication".into(),
                    }
                }
            }
            (_, loss) => loss,
        };
        self.lost(c, loss);
    }

    /// Drops the transport.
    pub(super) fn hang_up(&mut self, c: usize, loss: Loss) {
        self.actions.push_back(Action::HangUp { connection: ConnectionId(c as u32) });
        self.lost(c, loss);
    }

    /// A connection is gone. What was in flight keeps its state; the next attempt is scheduled.
    fn lost(&mut self, c: usize, loss: Loss) {
        let now = self.now;
        let stood = {
            let Some(connection) = self.connections.get_mut(c) else { return };
            connection.phase = Phase::Waiting;
            connection.standing
        };
        for timer in [
            Timer::Dial(c),
            Timer::Handshake(c),
            Timer::HeartbeatSend(c),
            Timer::HeartbeatReceive(c),
            Timer::Write(c),
            Timer::Close(c),
            Timer::Stable(c),
        ] {
            self.timers.cancel(timer);
        }
        self.blame_connection_close(c, &loss);
        self.settle_lost(c);
        if c == self.consuming() {
            self.control_lost();
        }
        self.consumers_lost(c);
        for reply in self.timers.armed(Timer::Rpc(c, 0)..=Timer::Rpc(c, u16::MAX)) {
            self.timers.cancel(reply);
        }
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.forget_transport();
        connection.loss = Some(loss.clone());
        if stood {
            self.closed_stats.losses += 1;
        }
        if c == PUBLISH {
            self.refresh_flows();
        }
        if loss == Loss::LocalClose || self.closed {
            self.retire(c);
        } else if !self.was_ready && !self.retry_first && self.closing.is_none() {
            self.events.push_back(super::SessionEvent::ConnectFailed(loss.clone()));
            self.give_up(loss);
        } else if loss.is_fatal() {
            self.give_up(loss);
        } else {
            self.schedule_attempt(c, loss, now);
        }
        self.update_state();
        self.advance_closing();
    }

    fn schedule_attempt(&mut self, c: usize, loss: Loss, now: Time) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.attempts = connection.attempts.saturating_add(1);
        if self.config.backoff.max_attempts.is_some_and(|max| connection.attempts > max) {
            self.give_up(loss);
            return;
        }
        let config = &self.config.backoff;
        let delay = if loss.is_refusal() {
            connection.backoff.longest(config, &mut self.rng)
        } else {
            connection.backoff.next(config, &mut self.rng)
        };
        self.timers.arm(Timer::Reconnect(c), now + delay);
    }

    /// The connection is not wanted any more.
    fn retire(&mut self, c: usize) {
        if let Some(connection) = self.connections.get_mut(c) {
            connection.phase = Phase::Idle;
        }
        self.timers.cancel(Timer::Reconnect(c));
    }

    /// The peer broke the protocol: tell it so, and count the connection as lost.
    pub(super) fn protocol_error(&mut self, c: usize, error: ProtocolError) {
        if self.connections.get(c).is_some_and(Connection::is_open) {
            self.cut_output(c);
        }
        let Some(connection) = self.connections.get_mut(c) else { return };
        match connection.phase {
            Phase::Open => {
                connection.close(error.code(), &error.to_string(), Loss::Protocol(error));
                self.timers.arm(Timer::Close(c), self.now + BROKEN_PEER_WAIT);
                self.update_state();
                if c == PUBLISH {
                    self.refresh_flows();
                }
            }
            Phase::Closing(ref then) => {
                let then = then.clone();
                self.hang_up(c, then);
            }
            // What follows the peer's close does not count, right or wrong; it is owed close-ok (s13).
            Phase::Draining(_) => {}
            // Before the connection is open there is nobody to tell.
            _ => self.hang_up(c, Loss::Protocol(error)),
        }
    }

    // ---- the handshake ---------------------------------------------------------------------------

    /// A method on channel 0 (specification 1.4).
    pub(super) fn on_connection_method(
        &mut self,
        c: usize,
        method: connection::AMQPMethod,
    ) -> Result<(), ProtocolError> {
        use connection::AMQPMethod as M;
        let Some(connection) = self.connections.get_mut(c) else { return Ok(()) };
        match (&connection.phase, method) {
            (Phase::AwaitStart, M::Start(start)) => self.on_start(c, &start),
            (Phase::AwaitTune, M::Tune(tune)) => self.on_tune(c, &tune),
            (Phase::AwaitOpenOk, M::OpenOk(_)) => self.on_open_ok(c),
            (Phase::Closing(then), M::CloseOk(_)) => {
                let then = then.clone();
                self.hang_up(c, then);
            }
            (Phase::Closing(then), M::Close(_)) => {
                // f31: two closes crossed: ours says why.
                let then = then.clone();
                connection.answer_close(then);
            }
            (Phase::Closing(_) | Phase::Draining(_), _) => {}
            (_, M::Close(close)) => self.on_close(c, close),
            (Phase::Open, M::Blocked(blocked)) => {
                self.on_blocked(c, Some(blocked.reason.as_str().into()))
            }
            (Phase::Open, M::Unblocked(_)) => self.on_blocked(c, None),
            (_, method) => {
                let class = AMQPClass::Connection(method);
                return Err(ProtocolError::UnexpectedMethod {
                    channel: 0,
                    class: class.get_amqp_class_id(),
                    method: class.get_amqp_method_id(),
                });
            }
        }
        Ok(())
    }

    fn on_start(&mut self, c: usize, start: &connection::Start) {
        let server = Server::of(start);
        let answer = handshake::start_ok(&self.config, start).and_then(|answer| {
            let mut bytes = Vec::new();
            let class = AMQPClass::Connection(connection::AMQPMethod::StartOk(answer));
            // Names and tables of ours encode; a frame that is too long is refused below.
            let _ = put_method(&mut bytes, 0, &class);
            handshake::check_start_ok(&server, bytes.len()).map(|()| bytes)
        });
        match answer {
            Ok(mut bytes) => {
                let Some(connection) = self.connections.get_mut(c) else { return };
                connection.transmit.append(|out| out.extend_from_slice(&bytes));
                handshake::wipe(&mut bytes);
                connection.server = server;
                connection.phase = Phase::AwaitTune;
            }
            Err(incompatible) => self.hang_up(c, incompatible.into()),
        }
    }

    fn on_tune(&mut self, c: usize, tune: &connection::Tune) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        let (channels, frame, heartbeat) = (tune.channel_max, tune.frame_max, tune.heartbeat);
        match handshake::tune(&self.config, &connection.server, channels, frame, heartbeat) {
            Ok(tuned) => {
                connection.tuned = tuned;
                connection.transmit.wipe();
                let vhost = amq_protocol::types::ShortString::try_new(&*self.config.vhost)
                    .unwrap_or_default();
                let tune_ok = connection::AMQPMethod::TuneOk(tuned.into());
                let open = connection::AMQPMethod::Open(connection::Open { virtual_host: vhost });
                for method in [tune_ok, open] {
                    // Fixed fields and a name of at most 255 bytes: it encodes.
                    let _ = connection.send(0, &AMQPClass::Connection(method));
                }
                connection.phase = Phase::AwaitOpenOk;
            }
            Err(incompatible) => self.hang_up(c, incompatible.into()),
        }
    }

    fn on_open_ok(&mut self, c: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.phase = Phase::Open;
        connection.standing = true;
        connection.bare_closes = 0;
        connection.attempts = 0;
        let again = std::mem::replace(&mut connection.was_open, true);
        if again {
            self.closed_stats.reconnects += 1;
        }
        self.timers.cancel(Timer::Handshake(c));
        self.timers.arm(Timer::Stable(c), now + self.config.backoff.stable);
        if let (Some(every), Some(limit)) =
            (connection.heartbeat_every(), connection.silence_limit())
        {
            self.timers.arm(Timer::HeartbeatSend(c), now + every);
            self.timers.arm(Timer::HeartbeatReceive(c), now + limit);
        }
        self.update_state();
        if c == PUBLISH {
            if again {
                self.verify_topology();
            }
            self.refresh_flows();
            self.open_waiting_lanes();
        }
        if c == self.consuming() {
            self.pump_control();
        }
        self.subscribe_waiting();
        self.advance_closing();
    }

    fn on_close(&mut self, c: usize, close: connection::Close) {
        self.cut_output(c);
        let Some(connection) = self.connections.get_mut(c) else { return };
        let (code, text) = (close.reply_code, close.reply_text.as_str().into());
        let loss = match connection.phase {
            Phase::AwaitTune | Phase::AwaitStart if code == 403 => {
                Loss::AccessRefused { user: self.config.credentials.user.clone(), text }
            }
            Phase::AwaitOpenOk if matches!(code, 402 | 403 | 530) => {
                Loss::VhostRefused { vhost: self.config.vhost.clone(), code, text }
            }
            _ => Loss::Closed { code, text, method: (close.class_id, close.method_id) },
        };
        if connection.transmit.offered() == 0 {
            // Not even our protocol header is written: close-ok would come in its place.
            self.hang_up(c, loss);
            return;
        }
        connection.answer_close(loss);
        self.timers.arm(Timer::Close(c), self.now + BROKEN_PEER_WAIT);
        // Nothing more is sent here; channels' fate follows when the transport is dropped.
        self.update_state();
        if c == PUBLISH {
            self.refresh_flows();
        }
        self.after_write(c);
    }

    fn on_blocked(&mut self, c: usize, reason: Option<std::sync::Arc<str>>) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.blocked = reason;
        connection.blocked_since = now;
        connection.last_progress = now;
        if connection.blocked.is_none() {
            self.restart_deadlines(c);
        }
        self.update_state();
        if c == PUBLISH {
            self.refresh_flows();
        }
    }

    /// The broker reads and answers again: replies and confirms get their whole time from now on.
    pub(super) fn restart_deadlines(&mut self, c: usize) {
        let at = self.now + self.config.deadlines.rpc;
        for reply in self.timers.armed(Timer::Rpc(c, 0)..=Timer::Rpc(c, u16::MAX)) {
            self.timers.arm(reply, at);
        }
        if c == PUBLISH {
            for lane in &mut self.lanes {
                lane.forgive(self.now);
            }
        }
    }

    // ---- liveness --------------------------------------------------------------------------------

    /// Time has passed: due at each deadline of [`poll_deadline`](Self::poll_deadline). Timers that
    /// are overdue fire once, however late the call.
    pub fn handle_tick(&mut self, now: Time) {
        self.advance(now);
        // A timer may arm another for this very moment (an attempt without delay). One that does so for
        // ever, which would be a bug, cannot hold this up: the rest waits for the next call.
        for _ in 0..self.timers.len() * 4 + 16 {
            let Some(timer) = self.timers.pop_due(self.now) else { break };
            self.fire(timer);
        }
        for connection in &mut self.connections {
            connection.give_memory_back(self.now);
        }
        self.give_memory_back();
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Reconnect(c) => self.dial(c),
            Timer::Dial(c) => {
                let error = crate::error::DialError::TimedOut(self.config.deadlines.connect);
                let target = self.config.target.to_string().into();
                self.hang_up(c, Loss::Dial { target, error });
            }
            Timer::Handshake(c) => {
                self.hang_up(c, Loss::HandshakeTimedOut(self.config.deadlines.handshake));
            }
            Timer::HeartbeatSend(c) => self.heartbeat_due(c),
            Timer::HeartbeatReceive(c) => self.silence_due(c),
            Timer::Write(c) => self.write_due(c),
            Timer::Close(c) => {
                if let Some(Phase::Closing(then) | Phase::Draining(then)) =
                    self.connections.get(c).map(|connection| &connection.phase)
                {
                    let then = then.clone();
                    self.hang_up(c, then);
                }
            }
            Timer::Stable(c) => {
                if let Some(connection) = self.connections.get_mut(c) {
                    connection.backoff.reset();
                    connection.suspicious_closes = 0;
                }
            }
            Timer::Rpc(c, channel) => self.rpc_timed_out(c, channel),
            Timer::Reopen(lane) => self.reopen_lane(lane),
            Timer::Confirm(lane) => self.confirm_due(lane),
            Timer::Ttl(producer) => self.ttl_due(producer),
            Timer::Stall(producer) => self.stall_due(producer),
            Timer::Resubscribe(consumer) => self.subscribe(consumer),
            Timer::Requeue(consumer) => self.requeue_due(consumer),
            Timer::Forgotten(consumer) => self.warn_again(consumer),
            Timer::Opening(consumer) => self.opening_timed_out(consumer),
            Timer::ConsumerClose(consumer) => self.end_consumer(consumer),
            Timer::Request(request) => self.request_timed_out(request),
            Timer::Redeclare => self.pump_control(),
            Timer::Shutdown => self.shutdown_due(),
        }
    }

    fn heartbeat_due(&mut self, c: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        let Some(every) = connection.heartbeat_every() else { return };
        if now - connection.last_sent >= every {
            // Output that is pending says as much, once the peer reads.
            if connection.transmit.pending() == 0
                && matches!(connection.phase, Phase::Open | Phase::Closing(_))
            {
                connection.send_heartbeat();
            }
            self.timers.arm(Timer::HeartbeatSend(c), now + every);
        } else {
            self.timers.arm(Timer::HeartbeatSend(c), connection.last_sent + every);
        }
    }

    fn silence_due(&mut self, c: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(c) else { return };
        let Some(limit) = connection.silence_limit() else { return };
        if !connection.reads() {
            // We do not listen at the moment (s35).
            connection.last_received = now;
        }
        if now - connection.last_received >= limit {
            self.hang_up(c, Loss::Silence(limit));
        } else {
            self.timers.arm(Timer::HeartbeatReceive(c), connection.last_received + limit);
        }
    }

    fn write_due(&mut self, c: usize) {
        let now = self.now;
        let limit = self.config.deadlines.write;
        let Some(connection) = self.connections.get_mut(c) else { return };
        if connection.transmit.pending() == 0 {
            return;
        }
        if connection.blocked.is_some() {
            // A broker that blocks us does not read (s21).
            connection.last_progress = now;
        }
        if now - connection.last_progress >= limit {
            self.hang_up(c, Loss::WriteStalled(limit));
        } else {
            self.timers.arm(Timer::Write(c), connection.last_progress + limit);
        }
    }

    /// Whether the first message may be sent: the connection publishes.
    pub(super) fn publishes(&self) -> bool {
        self.connections
            .get(PUBLISH)
            .is_some_and(|connection| connection.is_open() && connection.blocked.is_none())
    }

    /// Opens the connection of the no-ack consumers when the first of them comes.
    pub(super) fn want_connection(&mut self, c: usize) {
        if self.connections.get(c).is_some_and(|connection| connection.phase == Phase::Idle)
            && !self.closed
            && self.closing.is_none()
        {
            self.dial(c);
        }
    }

    /// The session ends: the state says why.
    pub(super) fn close_state(&mut self, loss: Option<Loss>) {
        let state = State::Closed { loss };
        if self.state != state {
            self.state = state.clone();
            self.event(crate::event::Event::State(state));
        }
    }
}

impl Connection {
    fn forget_transport(&mut self) {
        self.transmit = Default::default();
        self.receive = Default::default();
        self.channels.clear();
        self.tuned = Tuned::default();
        self.blocked = None;
        self.full_queues = 0;
        self.standing = false;
    }

    fn give_memory_back(&mut self, now: Time) {
        const IDLE: std::time::Duration = std::time::Duration::from_secs(1);
        if now - self.last_received >= IDLE {
            self.receive.shrink();
        }
        if now - self.last_progress >= IDLE {
            self.transmit.shrink();
        }
    }
}
