//! Declarations: what the application asks for, and what is replayed after an outage.

use std::{sync::Arc, time::Duration};

use amq_protocol::{
    protocol::{AMQPClass, queue},
    types::ShortString,
};

use super::{DeclaredQueue, PUBLISH, Session, SessionEvent, timer::Timer};
use crate::{
    config::{QueueConfig, check_name},
    connection::{
        Connection,
        channel::{Expect, Owner},
    },
    error::DeclareError,
    event::Event,
    ids::RequestId,
    time::Time,
    topology::{Declaration, Why},
    wire::{FRAME_MIN_SIZE, put_method},
};

/// Reply codes (specification 1.2).
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;

/// How long a queue that another connection still holds is waited for at first (s39).
const LOCKED_WAIT: Duration = Duration::from_millis(100);
/// Attempts at such a queue before it counts as failed: about 25 s, more than most heartbeats.
const LOCKED_ATTEMPTS: u32 = 8;

impl Session {
    /// Declares a queue. It is recorded once the broker agrees, and declared again after each outage.
    /// [`SessionEvent::Declared`] answers, within the request deadline.
    ///
    /// # Errors
    ///
    /// If the session is closed, or the declaration cannot be encoded in a frame that every broker
    /// takes.
    pub fn declare_queue(
        &mut self,
        config: QueueConfig,
        now: Time,
    ) -> Result<RequestId, DeclareError> {
        self.advance(now);
        if self.closed || self.closing.is_some() {
            return Err(DeclareError::Closed);
        }
        check_name("queue", &config.name)?;
        let mut bytes = Vec::new();
        let limit = FRAME_MIN_SIZE as usize;
        match put_method(&mut bytes, 1, &declare(&config)) {
            Ok(()) if bytes.len() <= limit => {}
            _ => return Err(DeclareError::TooLarge { size: bytes.len(), limit }),
        }
        let request = RequestId(self.next_request);
        self.next_request = self.next_request.wrapping_add(1);
        self.requests.insert(request, config.name.clone());
        self.timers.arm(Timer::Request(request), self.now + self.config.deadlines.request);
        self.topology.ask(config, request);
        self.pump_control();
        Ok(request)
    }

    /// Nobody waits for this declaration, or holds its queue, any more. What was not sent is
    /// withdrawn; what was still takes effect, and nobody is told.
    pub fn forget_request(&mut self, request: RequestId) {
        if self.requests.remove(&request).is_some() {
            self.timers.cancel(Timer::Request(request));
            self.topology.withdraw(request);
        }
        self.topology.forget_request(request);
    }

    pub(super) fn request_timed_out(&mut self, request: RequestId) {
        let Some(queue) = self.requests.remove(&request) else { return };
        let after = self.config.deadlines.request;
        let state = self.state.to_string().into();
        let result = Err(DeclareError::TimedOut { queue, after, state });
        self.events.push_back(SessionEvent::Declared { request, result });
        // On the wire it stays: its reply is swallowed (s17). Before that it is withdrawn.
        self.topology.withdraw(request);
    }

    fn reply(&mut self, request: RequestId, result: Result<DeclaredQueue, DeclareError>) {
        self.timers.cancel(Timer::Request(request));
        if self.requests.remove(&request).is_some() {
            self.events.push_back(SessionEvent::Declared { request, result });
        }
    }

    /// Sends the next declaration, if the one before it is answered.
    pub(super) fn pump_control(&mut self) {
        if self.declaring.is_some() {
            return;
        }
        match self.topology.next_due() {
            None => return,
            Some(at) if at > self.now => {
                self.timers.arm(Timer::Redeclare, at);
                return;
            }
            Some(_) => {}
        }
        let c = self.consuming();
        let Some(connection) =
            self.connections.get_mut(c).filter(|connection| connection.is_open())
        else {
            return;
        };
        let Some(number) = self.control else {
            // With every channel taken, the next one that is closed makes room.
            self.control = connection.open_channel(Owner::Control);
            if let Some(number) = self.control {
                self.await_reply(c, number);
            }
            return;
        };
        if connection.channels.get(number).is_none_or(|channel| channel.expect.is_some()) {
            return;
        }
        let Some(declaration) = self.topology.next(self.now) else { return };
        let class = declare(&declaration.config);
        self.declaring = Some(declaration);
        self.call(c, number, &class, Expect::DeclareOk);
    }

    /// `queue.declare-ok` came.
    pub(super) fn declared(&mut self, ok: &queue::DeclareOk) {
        let Some(Declaration { config, why, .. }) = self.declaring.take() else { return };
        let name: Arc<str> = ok.queue.as_str().into();
        match why {
            Why::Request(request) => {
                self.topology.record(config, name.clone(), request);
                let queue = DeclaredQueue {
                    name,
                    messages: ok.message_count,
                    consumers: ok.consumer_count,
                };
                self.reply(request, Ok(queue));
            }
            Why::Replay(recorded) | Why::LookUp(recorded) => self.stands(&recorded, &name),
        }
        self.pump_control();
    }

    /// A recorded queue stands again, under this name: whoever waited for it goes on.
    fn stands(&mut self, recorded: &Arc<str>, name: &Arc<str>) {
        let Some(requests) = self.topology.stood_up(recorded, name) else { return };
        if recorded != name {
            self.event(Event::QueueRenamed { from: recorded.clone(), to: name.clone() });
            for request in requests {
                self.events.push_back(SessionEvent::QueueRenamed { request, name: name.clone() });
            }
            self.rename(recorded, name);
        }
        self.refresh_gates_of(name);
        for consumer in self.dependents.consumers(name) {
            self.subscribe(consumer);
        }
    }

    /// Consumers and producers follow a queue to its new name (s38).
    fn rename(&mut self, from: &str, to: &Arc<str>) {
        for consumer in self.dependents.consumers(from) {
            if let Some(consumer) = self.consumers.get_mut(consumer.0) {
                consumer.config.queue = to.clone();
            }
        }
        let message_ids = self.config.message_ids;
        for producer in self.dependents.producers(from) {
            if let Some(p) = self.producers.get_mut(producer.0) {
                p.rename(to.clone(), message_ids);
            }
        }
        self.dependents.rename(from, to);
    }

    /// The control channel was closed by the broker: the declaration on it failed.
    pub(super) fn control_closed(&mut self, code: u16, text: &Arc<str>) {
        self.control = None;
        let Some(mut declaration) = self.declaring.take() else {
            self.pump_control();
            return;
        };
        match declaration.why.clone() {
            Why::Request(request) => {
                let queue = declaration.config.name.clone();
                let error = match code {
                    // Nobody refused it: the reply never came.
                    0 => DeclareError::TimedOut {
                        queue,
                        after: self.config.deadlines.rpc,
                        state: self.state.to_string().into(),
                    },
                    _ => DeclareError::Refused { queue, code, text: text.clone() },
                };
                self.reply(request, Err(error));
            }
            // It has not survived: declare it anew.
            Why::LookUp(recorded) if code == NOT_FOUND => {
                if let Some(queue) = self.topology.find(&recorded) {
                    declaration.config = queue.config.clone();
                    declaration.why = Why::Replay(recorded);
                    self.topology.again_at_once(declaration);
                }
            }
            Why::Replay(_) if code == RESOURCE_LOCKED && declaration.locked < LOCKED_ATTEMPTS => {
                let wait = LOCKED_WAIT * (1 << declaration.locked);
                declaration.locked += 1;
                self.topology.again_at(self.now + wait, declaration);
            }
            Why::Replay(recorded) | Why::LookUp(recorded) => {
                self.event(Event::RedeclareFailed {
                    queue: recorded.clone(),
                    code,
                    text: text.clone(),
                });
                // Reported, and no reason to hold the others up (s40).
                self.stands(&recorded.clone(), &recorded);
            }
        }
        self.pump_control();
    }

    /// The connection that declares is gone: everything on record must be declared again.
    pub(super) fn control_lost(&mut self) {
        self.control = None;
        self.timers.cancel(Timer::Redeclare);
        if let Some(declaration) = self.declaring.take()
            && let Why::Request(request) = declaration.why
            && self.requests.contains_key(&request)
        {
            self.topology.again_at_once(declaration);
        }
        self.topology.replay();
        self.refresh_gates();
    }

    /// The publishing connection is back, and the one that declares has not been lost, as far as is
    /// known. If the broker was restarted that is to come, and transient queues are gone: an answer
    /// over that connection, asked for now, says that they are not (s37).
    pub(super) fn verify_topology(&mut self) {
        let declares = self.connections.get(self.consuming());
        if self.consuming() != PUBLISH && declares.is_some_and(Connection::is_open) {
            self.topology.verify();
            self.refresh_gates();
            self.pump_control();
        }
    }

    /// A consumer of this queue ended. An auto-delete queue goes with its last one, and is not
    /// declared again (s40).
    pub(super) fn forget_auto_delete(&mut self, name: &str) {
        if !self.dependents.has_consumers(name) && self.topology.forget_auto_delete(name) {
            self.refresh_gates_of(name);
        }
    }

    /// A recorded queue has vanished: it is declared again before it is consumed again (s32).
    pub(super) fn redeclare(&mut self, name: &str) {
        let stood = self.topology.is_standing();
        if !self.topology.redeclare(name) {
            return;
        }
        self.refresh_gates_of(name);
        if stood {
            self.refresh_gates_on_all();
        }
        self.pump_control();
    }
}

fn declare(config: &QueueConfig) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: ShortString::try_new(&*config.name).unwrap_or_default(),
        passive: config.passive,
        durable: config.durable,
        exclusive: config.exclusive,
        auto_delete: config.auto_delete,
        nowait: false,
        arguments: config.arguments.clone(),
    }))
}
