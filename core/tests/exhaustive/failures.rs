//! What goes wrong, and how it is made to.

use lavinmq_core::{error::DialError, wire::FrameKind};

use crate::{
    broker::Answer,
    harness::*,
    states::{CONSUMER, CONTROL, Case, Where},
    world::Failure,
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Eof,
    Reset,
    /// Nothing arrives any more in either direction.
    Silence,
    WriteError,
    Close320,
    Close530,
    Close541,
    Channel404,
    Channel406,
    /// A method that nobody asked for.
    Unexpected,
    /// A frame on a channel that was never opened.
    NoChannel,
    /// A frame without its end octet.
    Malformed,
    /// A heartbeat on a channel.
    Heartbeat,
    /// The reply that is waited for comes after its deadline.
    Late,
    /// The broker blocks the connection for longer than a reply may take.
    Alarm,
    /// The broker cancels a consumer.
    Cancel,
    /// The peer closes what we have closed already.
    Crossing,
}

impl What {
    pub const ALL: [Self; 17] = [
        Self::Eof,
        Self::Reset,
        Self::Silence,
        Self::WriteError,
        Self::Close320,
        Self::Close530,
        Self::Close541,
        Self::Channel404,
        Self::Channel406,
        Self::Unexpected,
        Self::NoChannel,
        Self::Malformed,
        Self::Heartbeat,
        Self::Late,
        Self::Alarm,
        Self::Cancel,
        Self::Crossing,
    ];
}

impl Case {
    /// The peer says something of its own.
    pub fn hear(&mut self, kind: FrameKind, channel: u16, payload: &[u8]) {
        let mut bytes = Vec::new();
        wire::put_frame(&mut bytes, kind, channel, |out| out.extend_from_slice(payload));
        self.world.broker.links[0].out.push_back(bytes);
    }

    pub fn say(&mut self, channel: u16, class: AMQPClass) {
        let Self { world, .. } = self;
        world.broker.say(&mut world.stage, 0, channel, class);
    }

    /// Lets it happen; or says why it cannot.
    pub fn fail(&mut self, what: What) -> Result<(), &'static str> {
        use What::*;
        let state = self.state;
        let handshake = matches!(state, Where::AwaitStart | Where::AwaitTune | Where::AwaitOpenOk);
        let closing = matches!(state, Where::Goodbye | Where::Broken | Where::Draining);
        if !self.world.is_up(0) {
            // What a driver could still report of a transport that is gone must be ignored.
            let space = self.world.stage.session.receive_buffer(self.world.stage.id(0));
            assert!(space.is_empty());
            match (state, what) {
                (Where::Dialling, Reset) => self.world.stage.cut_by(0, refused_dial()),
                (Where::Dialling, Silence) => {
                    let hang_ups = self.world.stage.peers[0].hang_ups;
                    self.world
                        .until("the dial ends", |world| world.stage.peers[0].hang_ups > hang_ups);
                }
                (Where::Dialling, Eof | WriteError) => return Err("there is no stream yet"),
                (_, Eof | Reset | WriteError) => {
                    let id = self.world.stage.id(0);
                    let now = self.world.stage.now;
                    self.world.stage.session.handle_disconnected(id, Loss::Eof, now);
                }
                (Where::Waiting, Silence) => return Err("nobody is listened to"),
                _ => return Err("nothing can be read"),
            }
            self.world.turn();
            return Ok(());
        }
        match what {
            Eof => self.world.fail(0, Failure::Eof),
            Reset => self.world.fail(0, Failure::Reset),
            WriteError => {
                let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                self.world.stage.cut_by(0, error.into());
            }
            Silence => self.world.silence(0),
            Close320 | Close530 | Close541 => {
                let code = match what {
                    Close320 => 320,
                    Close530 => 530,
                    _ => 541,
                };
                let Self { world, .. } = self;
                world.broker.close(&mut world.stage, 0, code);
            }
            Channel404 | Channel406 => {
                // The one blames what its channel is for, the other nothing in particular.
                let method = match self.channel {
                    _ if what == Channel406 => (0, 0),
                    CONTROL => (50, 10),
                    CONSUMER => (60, 20),
                    _ if matches!(state, Where::Qos | Where::Subscribing) => (60, 20),
                    _ => (60, 40),
                };
                let why = if what == Channel404 { (404, "gone") } else { (406, "no") };
                let crosses = matches!(state, Where::Closing | Where::Tombstone);
                let Self { world, channel, .. } = self;
                if crosses {
                    world.broker.cross(&mut world.stage, 0, *channel, why);
                } else {
                    world.broker.close_channel(&mut world.stage, 0, *channel, why, method);
                }
            }
            Unexpected if handshake => {
                let secure = connection::Secure { challenge: "?".into() };
                self.say(0, AMQPClass::Connection(connection::AMQPMethod::Secure(secure)));
            }
            Unexpected => {
                use amq_protocol::protocol::exchange;
                let ok = exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {});
                self.say(self.channel, AMQPClass::Exchange(ok));
            }
            NoChannel => {
                let mut bytes = Vec::new();
                wire::put_ack(&mut bytes, 99, 1, false);
                self.world.broker.links[0].out.push_back(bytes);
            }
            Malformed => {
                let bytes = [8, 0, 0, 0, 0, 0, 0, 0xCD];
                self.world.broker.links[0].out.push_back(bytes.to_vec());
            }
            Heartbeat => self.hear(FrameKind::Heartbeat, self.channel, &[]),
            Late if state == Where::Idle => return Err("no call waits"),
            Late if handshake => return Err("the deadline of the handshake hangs up: see Silence"),
            Late if closing => return Err("the deadline of the close hangs up: see Silence"),
            Late => {
                // The reply and our close cross: close-ok comes behind it.
                self.withhold(&[Answer::ChannelCloseOk]);
                let until = self.world.stage.now + 11 * SEC;
                while self.world.stage.now < until {
                    self.world.pass();
                }
            }
            Alarm => {
                let Self { world, .. } = self;
                world.broker.blocked(&mut world.stage, 0);
                world.turn();
                let (until, dials) = (world.stage.now + 20 * SEC, world.dials.len());
                while world.stage.now < until && world.is_up(0) && world.dials.len() == dials {
                    world.pass();
                }
                world.broker.tell_if_open(&mut world.stage, 0, false);
            }
            Cancel => {
                let tag = self.world.broker.consumer_tag(0, self.channel);
                let tag = tag.unwrap_or_default().as_str().into();
                let cancel = basic::Cancel { consumer_tag: tag, nowait: false };
                self.say(self.channel, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
            }
            Crossing => match state {
                Where::Goodbye | Where::Broken => {
                    let Self { world, .. } = self;
                    world.broker.close(&mut world.stage, 0, 320);
                }
                Where::Closing | Where::Tombstone => {
                    let Self { world, channel, .. } = self;
                    let why = (406, "locked");
                    world.broker.cross(&mut world.stage, 0, *channel, why);
                }
                _ => return Err("no close of ours is out"),
            },
        }
        self.world.turn();
        Ok(())
    }
}

pub fn refused_dial() -> Loss {
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    Loss::Dial { target: "broker:5672".into(), error: DialError::from(error) }
}
