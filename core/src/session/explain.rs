//! In words: what everything waits for, and until when.

use std::fmt::Write as _;

use super::{PUBLISH, Session, timer::Timer};
use crate::{
    connection::{Connection, Phase},
    consume::consumer::{Consumer, ConsumerState},
    ids::{ConsumerId, ProducerId},
    publish::{lane::LaneState, producer::Producer},
    time::Time,
};

impl Session {
    /// What each connection, producer and consumer waits for, and until when: one line each.
    ///
    /// For people: its words can change in any release.
    #[must_use]
    pub fn explain(&self, now: Time) -> String {
        let mut text = format!("client: {}\n", self.state);
        for (c, connection) in self.connections.iter().enumerate() {
            let _ = writeln!(text, "{}", self.explain_connection(c, connection, now));
        }
        for (number, producer) in self.producers.iter() {
            let _ = writeln!(text, "{}", self.explain_producer(ProducerId(number), producer, now));
        }
        for (number, consumer) in self.consumers.iter() {
            let _ = writeln!(text, "{}", self.explain_consumer(ConsumerId(number), consumer, now));
        }
        for (name, standing) in self.topology.names().filter(|(_, standing)| !standing) {
            let _ = writeln!(text, "queue {name}: to be declared again (stands: {standing})");
        }
        for (request, queue) in &self.requests {
            let until = self.until(Timer::Request(*request), now);
            let _ = writeln!(text, "declaration of {queue:?}: waiting for the broker{until}");
        }
        if let Some((at, timer)) = self.timers.next() {
            let _ = writeln!(text, "next deadline: {:?} in {:?}", timer.reason(), at - now);
        }
        text
    }

    fn until(&self, timer: Timer, now: Time) -> String {
        self.timers.get(timer).map(|at| format!(", {:?} left", at - now)).unwrap_or_default()
    }

    fn explain_connection(&self, c: usize, connection: &Connection, now: Time) -> String {
        let name = connection.role.name();
        let why = connection
            .loss
            .as_ref()
            .map(|loss| format!(" (last loss: {loss})"))
            .unwrap_or_default();
        match &connection.phase {
            Phase::Idle => format!("{name}: not in use"),
            Phase::Waiting => {
                let until = self.until(Timer::Reconnect(c), now);
                format!("{name}: waiting before attempt {}{until}{why}", connection.attempts + 1)
            }
            Phase::Dialling => {
                format!(
                    "{name}: connecting to {}{}{why}",
                    self.config.target,
                    self.until(Timer::Dial(c), now)
                )
            }
            Phase::AwaitStart | Phase::AwaitTune | Phase::AwaitOpenOk => {
                format!(
                    "{name}: in the AMQP handshake{}{why}",
                    self.until(Timer::Handshake(c), now)
                )
            }
            Phase::Open => {
                let mut text = format!("{name}: open, {} channels", connection.channels.used());
                if let Some(reason) = &connection.blocked {
                    let since = now - connection.blocked_since;
                    let _ = write!(text, ", the broker blocked us {since:?} ago: {reason}");
                }
                if connection.full_queues > 0 {
                    let _ = write!(text, ", reading paused: a no-ack consumer's queue is full");
                }
                if connection.transmit.pending() > 0 {
                    let since = now - connection.last_progress;
                    let pending = connection.transmit.pending();
                    let _ = write!(text, ", {pending} bytes to write, the last one {since:?} ago");
                }
                text
            }
            Phase::Closing(loss) | Phase::Draining(loss) => {
                format!("{name}: closing{} ({loss})", self.until(Timer::Close(c), now))
            }
        }
    }

    fn explain_producer(&self, id: ProducerId, producer: &Producer, now: Time) -> String {
        let config = &producer.config;
        let (queued, in_flight) = (producer.ring.queued(), producer.ring.in_flight());
        let mut text = format!("{id} to {:?}", config.routing_key);
        if !config.exchange.is_empty() {
            let _ = write!(text, " on exchange {:?}", config.exchange);
        }
        let _ = write!(text, ": {queued} queued, {in_flight} in flight");
        let connection = self.connections.get(PUBLISH);
        let lane = self.lanes.get(producer.lane);
        let why = match (connection, lane) {
            _ if queued == 0 && in_flight == 0 => String::new(),
            (Some(connection), _) if !connection.is_open() => {
                "waiting for the connection".to_owned()
            }
            (Some(connection), _) if connection.blocked.is_some() => {
                let since = now - connection.blocked_since;
                format!(
                    "the broker blocked us {since:?} ago: {}",
                    connection.blocked.as_deref().unwrap_or_default()
                )
            }
            _ if !producer.gate_open => "waiting for its queue to be declared again".to_owned(),
            (_, Some(lane)) => match lane.state {
                LaneState::Opening => "waiting for its channel to open".to_owned(),
                LaneState::Reopening => {
                    let until = self.until(Timer::Reopen(producer.lane), now);
                    format!("its channel was closed; it is opened again{until}")
                }
                LaneState::Closing => "its channel is being closed".to_owned(),
                LaneState::Closed => "its channel is closed".to_owned(),
                LaneState::Open if lane.paused => "paused by the broker (channel.flow)".to_owned(),
                LaneState::Open if lane.suspects > 0 => {
                    format!(
                        "looking for the message that closed the channel: {} left",
                        lane.suspects
                    )
                }
                LaneState::Open
                    if queued > 0 && !producer.ring.can_send(config.max_in_flight, usize::MAX) =>
                {
                    "the window is full: waiting for confirms".to_owned()
                }
                LaneState::Open if in_flight > 0 && producer.is_confirm() => {
                    "waiting for confirms".to_owned()
                }
                LaneState::Open => "being sent".to_owned(),
            },
            _ => String::new(),
        };
        if !why.is_empty() {
            let _ = write!(text, "; {why}");
        }
        if producer.closing {
            text.push_str("; closing");
        }
        text
    }

    fn explain_consumer(&self, id: ConsumerId, consumer: &Consumer, now: Time) -> String {
        let stats = consumer.snapshot();
        let mut text = format!("{id} of {:?}: ", consumer.config.queue);
        text.push_str(&match &consumer.state {
            ConsumerState::Waiting if !self.topology.stands(&consumer.config.queue) => {
                "waiting for its queue to be declared again".to_owned()
            }
            ConsumerState::Waiting => match self.timers.get(Timer::Resubscribe(id)) {
                Some(at) => format!("subscribing again in {:?}", at - now),
                None => "waiting for the connection".to_owned(),
            },
            ConsumerState::Opening => "being subscribed".to_owned(),
            ConsumerState::Active => "subscribed".to_owned(),
            ConsumerState::Closing(reason) => {
                format!("closing ({reason}){}", self.until(Timer::ConsumerClose(id), now))
            }
        });
        let _ =
            write!(text, "; {} with the application, {} settling", stats.in_hand, stats.settling);
        if !consumer.config.no_ack && stats.in_hand >= u64::from(consumer.config.prefetch) {
            text.push_str("; the prefetch is used up: the broker waits for acks");
        }
        if !consumer.delayed.is_empty() {
            let _ =
                write!(text, "; {} forgotten deliveries to be requeued", consumer.delayed.len());
        }
        text
    }
}
