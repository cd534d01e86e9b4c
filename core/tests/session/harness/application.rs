//! Playing the application: producers, messages, declarations, and what is told of them.

use super::*;

impl Stage {
    // ---- the application ---------------------------------------------------------------------

    pub fn open_producer(&mut self, config: ProducerConfig) -> ProducerId {
        let producer = self.session.open_producer(config, self.now).unwrap();
        self.pump();
        producer
    }

    /// A producer to the queue of this name, every outcome reported.
    pub fn producer(&mut self, queue: &str, mode: PublishMode) -> ProducerId {
        self.open_producer(to_queue(queue, mode))
    }

    /// A confirm producer whose channel stands; its channel.
    pub fn confirming(&mut self, queue: &str) -> (ProducerId, u16) {
        self.warmed_up(to_queue(queue, PublishMode::Confirm))
    }

    /// A fire-and-forget producer whose channel stands; its channel.
    pub fn forgetting(&mut self, queue: &str) -> (ProducerId, u16) {
        self.warmed_up(to_queue(queue, PublishMode::FireAndForget))
    }

    /// A producer whose channel stands: channels open with the first message, which is settled here
    /// (so that the next one is number 2 on the channel, and number 2 of the producer).
    pub fn warmed_up(&mut self, config: ProducerConfig) -> (ProducerId, u16) {
        let mode = config.mode;
        let producer = self.open_producer(config);
        self.publish(producer, "warm-up");
        let channel = self.accept_lane(PUB, mode);
        self.expect_publishes(PUB, &["warm-up"]);
        if mode == PublishMode::Confirm {
            self.ack(PUB, channel, 1, false);
        }
        self.outcomes();
        (producer, channel)
    }

    /// The peer lets the session open a channel to publish on; its number.
    pub fn accept_lane(&mut self, c: usize, mode: PublishMode) -> u16 {
        let channel = self.expect_channel_open(c);
        self.channel_open_ok(c, channel);
        if mode == PublishMode::Confirm {
            match self.expect_method(c) {
                (n, AMQPClass::Confirm(confirm::AMQPMethod::Select(select))) => {
                    assert_eq!((n, select.nowait), (channel, false));
                }
                other => panic!("confirm.select is due: {other:?}"),
            }
            self.select_ok(c, channel);
        }
        channel
    }

    pub fn declare(&mut self, config: QueueConfig) -> RequestId {
        let request = self.session.declare_queue(config, self.now).unwrap();
        self.pump();
        request
    }

    /// The answers to declarations told since the last call: the queue's name, or the error.
    pub fn declared(&mut self) -> Vec<(RequestId, Result<String, DeclareError>)> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Declared { .. }));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Declared { request, result } => {
                (request, result.map(|queue| queue.name.to_string()))
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// Declares a queue on the consuming connection, and the peer agrees. The control channel's
    /// number, which the first declaration opens.
    pub fn declare_now(&mut self, config: QueueConfig, name: &str) -> (RequestId, u16) {
        let request = self.declare(config);
        let (n, class) = self.expect_method(CON);
        let channel = match class {
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                self.channel_open_ok(CON, n);
                self.expect_declare(CON).0
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(_)) => n,
            other => panic!("queue.declare is due: {other:?}"),
        };
        self.declare_ok(CON, channel, name);
        assert_eq!(self.declared(), [(request, Ok(name.to_owned()))]);
        (request, channel)
    }

    pub fn publish(&mut self, producer: ProducerId, message: impl Into<Message>) -> u64 {
        let sequence = self.session.publish(producer, message.into(), self.now).unwrap();
        self.pump();
        sequence
    }

    /// A message comes from a hand-over, which draws the numbers: in any order, with any key.
    pub fn hand_over(
        &mut self,
        producer: ProducerId,
        sequence: u64,
        key: Option<&str>,
        message: impl Into<Message>,
    ) {
        let (routing_key, message) = (key.map(Into::into), message.into());
        let accepted = Accepted { sequence, at: self.now, routing_key, message };
        self.handed_over += 1;
        self.session.accept(producer, accepted, self.now);
    }

    pub fn stats(&self, producer: ProducerId) -> ProducerStats {
        self.session.producer_stats(producer).unwrap()
    }

    /// The latest update about a producer.
    pub fn update(&self, producer: ProducerId) -> ProducerUpdate {
        self.updates[&producer]
    }

    /// Takes the events that `wanted` picks.
    pub fn take_events(&mut self, wanted: impl Fn(&SessionEvent) -> bool) -> Vec<SessionEvent> {
        self.pump();
        let (taken, kept) = self.events.drain(..).partition(wanted);
        self.events = kept;
        taken.into_iter().collect::<Vec<_>>()
    }

    /// The outcomes told since the last call: `None` is confirmed.
    pub fn outcomes(&mut self) -> Vec<(ProducerId, u64, Option<Verdict>)> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Settled { .. }));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Settled { producer, settled } => {
                (producer, settled.sequence, settled.verdict)
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// The outcomes of one producer's messages told since the last call, by sequence number.
    pub fn verdicts(&mut self) -> Vec<(u64, Option<Verdict>)> {
        self.outcomes().into_iter().map(|(_, sequence, verdict)| (sequence, verdict)).collect()
    }

    /// The client's states told since the last call.
    pub fn states(&mut self) -> Vec<State> {
        let told = self.take_events(|event| matches!(event, SessionEvent::Event(Event::State(_))));
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Event(Event::State(state)) => state,
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    /// Other events told since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        let told = self.take_events(|event| {
            matches!(event, SessionEvent::Event(event) if !matches!(event, Event::State(_)))
        });
        let told = told.into_iter().map(|event| match event {
            SessionEvent::Event(event) => event,
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    pub fn is_closed(&mut self) -> bool {
        self.pump();
        self.session.is_closed()
    }
}

/// A producer's settings to the queue of this name, where confirms are reported, too.
pub fn to_queue(queue: &str, mode: PublishMode) -> ProducerConfig {
    let mut config = ProducerConfig::new("", queue, mode).unwrap();
    config.report_confirmed = true;
    config
}

/// A producer's settings to an exchange.
pub fn to_exchange(exchange: &str, key: &str, mode: PublishMode) -> ProducerConfig {
    let mut config = ProducerConfig::new(exchange, key, mode).unwrap();
    config.report_confirmed = true;
    config
}
