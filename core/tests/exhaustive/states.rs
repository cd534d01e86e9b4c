//! The states that the table is about, and how to get there.

use lavinmq_core::{config::ConsumerConfig, wire::FrameKind};

use crate::{
    broker::Answer,
    cells::loss_in_words,
    failures::refused_dial,
    harness::*,
    world::{Failure, World},
};

/// Where the client stands when it fails. The first twelve are states of the connection, the rest
/// states of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Dialling,
    AwaitStart,
    AwaitTune,
    AwaitOpenOk,
    /// Open, and nothing is on its way.
    Idle,
    /// Half of a publish is written.
    HalfWritten,
    /// A message is unconfirmed.
    Unconfirmed,
    Blocked,
    /// We closed the connection, since we were asked to.
    Goodbye,
    /// We closed the connection, since the peer broke the protocol.
    Broken,
    /// The peer closed the connection, and our close-ok is not written yet.
    Draining,
    /// Between two attempts.
    Waiting,

    /// A lane's channel.open is unanswered.
    Opening,
    /// A lane's confirm.select is unanswered.
    Selecting,
    /// A consumer's basic.qos is unanswered.
    Qos,
    /// A consumer's basic.consume is unanswered.
    Subscribing,
    /// A consumer has a delivery in hand.
    Consuming,
    /// The control channel's queue.declare is unanswered.
    Declaring,
    /// A lane waits before it opens its channel again.
    Reopening,
    /// We closed a lane's channel, over a confirm that did not come.
    Closing,
    /// The peer closed a lane's channel, and our close-ok is not written yet.
    ClosedByPeer,
    /// We closed the control channel, over a reply that did not come.
    Tombstone,
}

/// A world in the state, a confirm message on its way in it and a call waiting.
pub struct Case {
    pub world: World,
    pub state: Where,
    /// The channel that failures of channels concern.
    pub channel: u16,
    /// Its message, once it is published.
    pub message: Option<(ProducerId, u64)>,
    pub producer: ProducerId,
    pub called: bool,
}

/// Channels in the order in which they are opened.
pub const CONTROL: u16 = 1;
pub const CONSUMER: u16 = 2;
pub const LANE: u16 = 3;
pub const NEXT: u16 = 4;

const LOW_DISK: (u16, &str) = (406, "PRECONDITION_FAILED - Server low on disk space");

impl Case {
    /// One connection on which everything stands: a consumer, a queue, a producer.
    pub fn standing(state: Where) -> Self {
        let mut config = config();
        config.connections = 1;
        config.heartbeat = 10 * SEC;
        let mut world = World::new(config, (2048, 4096, 10));
        world.patient = false;
        world.until("it connects", |world| world.ready);
        world.declare("a");
        world.until("its queue stands", |world| world.declared.len() == 1);
        world.consume(jobs());
        world.until("it consumes", |world| world.subscribed.len() == 1);
        let producer = world.producer("", "a", PublishMode::Confirm);
        world.publish(producer, "warm-up");
        world.drain("a");
        // Long enough for the next attempt to be immediate.
        let stable = world.stage.now + 15 * SEC;
        world.until("it is stable", |world| world.stage.now >= stable);
        Self { world, state, channel: LANE, message: None, producer, called: false }
    }

    pub fn publish(&mut self) {
        self.world.publish(self.producer, vec![b'm'; 100]);
        let (producer, sequence, _) = self.world.accepted.last().unwrap();
        self.message = Some((*producer, *sequence));
    }

    pub fn call(&mut self) {
        self.called = true;
        self.world.declare("b");
    }

    pub fn publish_and_call(&mut self) {
        self.publish();
        self.call();
        self.world.turn();
    }

    pub fn withhold(&mut self, answers: &[Answer]) {
        self.world.broker.withhold.extend(answers);
    }

    /// The connection is lost, and the next attempt begins.
    pub fn lose(&mut self) {
        self.world.fail(0, Failure::Eof);
        self.world.pass();
    }

    pub fn another_lane(&mut self, confirm_timeout: Option<Duration>) {
        let mut config = to_queue("a", PublishMode::Confirm);
        config.confirm_timeout = confirm_timeout;
        self.producer = self.world.open_producer(config);
        self.channel = NEXT;
    }

    pub fn another_consumer(&mut self, withheld: Answer) {
        self.withhold(&[Answer::Confirm, withheld]);
        self.publish();
        self.called = true;
        self.world.consume(jobs());
        self.world.turn();
        self.channel = NEXT;
    }

    pub fn new(state: Where) -> Self {
        let mut case = Self::standing(state);
        match state {
            Where::Dialling => {
                case.world.broker.refuses_dials = true;
                case.lose();
                case.publish_and_call();
            }
            Where::AwaitStart => {
                case.withhold(&[Answer::Start]);
                case.lose();
                case.publish_and_call();
            }
            Where::AwaitTune => {
                case.withhold(&[Answer::Tune]);
                case.lose();
                case.publish_and_call();
            }
            Where::AwaitOpenOk => {
                case.withhold(&[Answer::OpenOk]);
                case.lose();
                case.publish_and_call();
            }
            Where::Idle => {}
            Where::HalfWritten => {
                // Beside the declaration, half of the message's header.
                case.withhold(&[Answer::DeclareOk]);
                case.world.limit(0, Some(60));
                case.publish_and_call();
            }
            Where::Unconfirmed => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk]);
                case.publish_and_call();
            }
            Where::Blocked => {
                case.withhold(&[Answer::DeclareOk]);
                case.world.broker.blocked(&mut case.world.stage, 0);
                case.world.turn();
                case.publish_and_call();
            }
            Where::Goodbye => {
                case.withhold(&[Answer::CloseOk]);
                case.world.shutdown();
                case.world.turn();
                assert_eq!(case.world.broker.closes.last().unwrap(), "close 200");
            }
            Where::Broken => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk, Answer::CloseOk]);
                case.publish_and_call();
                case.hear(FrameKind::Heartbeat, LANE, &[]);
                case.world.turn();
                assert_eq!(case.world.broker.closes.last().unwrap(), "close 501");
                case.assert_loss("protocol 501");
            }
            Where::Draining => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk]);
                case.publish_and_call();
                case.world.limit(0, Some(0));
                case.world.broker.close(&mut case.world.stage, 0, 320);
                case.world.turn();
                case.assert_loss("closed 320");
            }
            Where::Waiting => {
                case.world.broker.refuses_dials = true;
                case.lose();
                case.world.stage.cut_by(0, refused_dial());
                case.publish_and_call();
            }
            Where::Opening => {
                case.withhold(&[Answer::ChannelOpenOk, Answer::DeclareOk]);
                case.another_lane(None);
                case.publish_and_call();
            }
            Where::Selecting => {
                case.withhold(&[Answer::SelectOk, Answer::DeclareOk]);
                case.another_lane(None);
                case.publish_and_call();
            }
            Where::Qos => case.another_consumer(Answer::QosOk),
            Where::Subscribing => case.another_consumer(Answer::ConsumeOk),
            Where::Consuming => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk]);
                case.publish_and_call();
                case.channel = CONSUMER;
                assert_eq!(case.world.in_hand.len(), 1);
            }
            Where::Declaring => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk]);
                case.publish_and_call();
                case.channel = CONTROL;
            }
            Where::Reopening => {
                case.withhold(&[Answer::DeclareOk]);
                case.world.broker.low_disk = true;
                case.publish_and_call();
                // The first time it is opened again at once.
                case.world.stage.advance(Duration::ZERO);
                case.world.turn();
                let deadline = case.world.stage.session.poll_deadline().unwrap();
                assert_eq!(deadline.reason, DeadlineReason::Reopen);
            }
            Where::Closing => {
                case.withhold(&[Answer::Confirm, Answer::ChannelCloseOk, Answer::DeclareOk]);
                case.another_lane(Some(5 * SEC));
                case.publish();
                case.world.turn();
                case.world.pass();
                assert_eq!(case.world.broker.closes.last().unwrap(), "4: close 200");
                case.call();
                case.world.turn();
            }
            Where::ClosedByPeer => {
                case.withhold(&[Answer::Confirm, Answer::DeclareOk]);
                case.publish_and_call();
                case.world.limit(0, Some(0));
                let Self { world, .. } = &mut case;
                world.broker.close_channel(&mut world.stage, 0, LANE, LOW_DISK, (60, 40));
                world.turn();
            }
            Where::Tombstone => {
                case.withhold(&[Answer::Confirm, Answer::ChannelCloseOk, Answer::DeclareOk]);
                case.publish_and_call();
                case.channel = CONTROL;
                case.world.until("it gives the call up", |world| !world.broker.closes.is_empty());
                assert_eq!(case.world.broker.closes.last().unwrap(), "1: close 200");
            }
        }
        case
    }

    /// The loss was told already, although the transport still stands.
    pub fn assert_loss(&self, expected: &str) {
        let Some((_, State::Reconnecting { loss, .. })) = self.world.states.last() else {
            panic!("{:?}", self.world.states);
        };
        assert!(self.world.is_up(0) && loss_in_words(loss) == expected, "{loss}");
    }
}

fn jobs() -> ConsumerConfig {
    let mut config = ConsumerConfig::new("a").unwrap();
    config.prefetch = 3;
    config
}
