//! Methods on channels: one call at a time on each, its reply, and the closes (semantics s15-s17).

use std::sync::Arc;

use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, queue};

use super::{PUBLISH, Session, timer::Timer};
use crate::{
    connection::channel::{Channel, Expect, Owner},
    error::{Loss, ProtocolError},
    publish::lane::LaneState,
};

impl Expect {
    const fn name(self) -> &'static str {
        match self {
            Self::OpenOk => "channel.open",
            Self::SelectOk => "confirm.select",
            Self::QosOk => "basic.qos",
            Self::ConsumeOk => "basic.consume",
            Self::CancelOk => "basic.cancel",
            Self::DeclareOk => "queue.declare",
            Self::CloseOk => "channel.close",
        }
    }
}

impl Session {
    /// Starts the clock for the reply that the channel waits for.
    pub(super) fn await_reply(&mut self, c: usize, channel: u16) {
        self.timers.arm(Timer::Rpc(c, channel), self.now + self.config.deadlines.rpc);
    }

    /// Calls a method. The one before it on this channel has been answered.
    pub(super) fn call(&mut self, c: usize, number: u16, class: &AMQPClass, expect: Expect) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        let Some(channel) = connection.channels.get_mut(number) else { return };
        channel.expect = Some(expect);
        // What cannot be encoded was refused before it came here; a reply that never comes is noticed.
        let _ = connection.send(number, class);
        self.await_reply(c, number);
    }

    /// Starts closing a channel.
    pub(super) fn close_channel(&mut self, c: usize, number: u16, code: u16, text: &str) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        connection.close_channel(number, code, text);
        self.await_reply(c, number);
    }

    /// A reply did not come in time.
    pub(super) fn rpc_timed_out(&mut self, c: usize, number: u16) {
        let Some(connection) = self.connections.get(c).filter(|c| c.is_open()) else { return };
        if connection.blocked.is_some() || !connection.reads() {
            // It may have been answered had the broker, or we, listened (s21, s35).
            self.await_reply(c, number);
            return;
        }
        let Some(channel) = connection.channels.get(number) else { return };
        let Some(expect) = channel.expect else { return };
        let owner = channel.owner;
        if expect == Expect::CloseOk || expect == Expect::OpenOk {
            // Not even that: the connection is of no use.
            let after = self.config.deadlines.rpc;
            self.hang_up(c, Loss::RpcTimedOut { method: expect.name(), after });
            return;
        }
        self.disown(c, number);
        self.close_channel(c, number, 200, "no reply in time");
        let text =
            format!("no reply to {} within {:?}", expect.name(), self.config.deadlines.rpc).into();
        self.channel_gone(owner, 0, &text, (0, 0));
    }

    /// Late frames of the channel are discarded from now on (s16).
    pub(super) fn disown(&mut self, c: usize, number: u16) {
        if let Some(connection) = self.connections.get_mut(c) {
            connection.channels.disown(number);
        }
    }

    /// The owner's channel was closed by the broker, or given up.
    fn channel_gone(&mut self, owner: Owner, code: u16, text: &Arc<str>, method: (u16, u16)) {
        match owner {
            Owner::Control => self.control_closed(code, text),
            Owner::Lane(l) => self.lane_closed(l, code, text, method),
            Owner::Consumer(consumer, generation) => {
                self.consumer_closed(consumer, generation, code, text)
            }
            Owner::Nobody => {}
        }
    }

    /// A method on a channel that is open, or being opened or closed.
    pub(super) fn on_channel_method(
        &mut self,
        c: usize,
        number: u16,
        class: AMQPClass,
    ) -> Result<(), ProtocolError> {
        let unexpected = ProtocolError::UnexpectedMethod {
            channel: number,
            class: class.get_amqp_class_id(),
            method: class.get_amqp_method_id(),
        };
        let Some(channel) =
            self.connections.get_mut(c).and_then(|connection| connection.channels.get_mut(number))
        else {
            return Err(ProtocolError::ChannelNotOpen(number));
        };
        let &mut Channel { owner, expect, .. } = channel;
        match class {
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                self.on_channel_close(c, number, owner, expect, &close);
                return Ok(());
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))
                if expect == Some(Expect::CloseOk) =>
            {
                self.on_channel_close_ok(c, number, owner);
                return Ok(());
            }
            // A reply that crossed our close is swallowed: nobody waits for it (s16, s17).
            _ if expect == Some(Expect::CloseOk) => return Ok(()),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                match owner {
                    Owner::Lane(l) => self.lane_flow(l, c, number, flow.active),
                    _ => self.answer_flow(c, number, flow.active),
                }
                return Ok(());
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                let Owner::Consumer(consumer, generation) = owner else { return Err(unexpected) };
                let wanted = self
                    .connections
                    .get(c)
                    .is_some_and(|connection| connection.server.takes_cancel_ok);
                if !cancel.nowait || wanted {
                    self.answer_cancel(c, number, &cancel);
                }
                self.consumer_cancelled(consumer, generation);
                return Ok(());
            }
            _ => {}
        }
        let reply = match &class {
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Expect::OpenOk,
            AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_)) => Expect::SelectOk,
            AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => Expect::QosOk,
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => Expect::ConsumeOk,
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)) => Expect::CancelOk,
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)) => Expect::DeclareOk,
            _ => return Err(unexpected),
        };
        let tag = match &class {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)) => Some(&ok.consumer_tag),
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)) => Some(&ok.consumer_tag),
            _ => None,
        };
        // Matched by the consumer tag as well (s17).
        if expect != Some(reply) || tag.is_some_and(|tag| !self.has_tag(owner, tag.as_str())) {
            return Err(unexpected);
        }
        if let Some(channel) =
            self.connections.get_mut(c).and_then(|connection| connection.channels.get_mut(number))
        {
            channel.expect = None;
        }
        self.timers.cancel(Timer::Rpc(c, number));
        match (owner, class) {
            (Owner::Control, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) => {
                self.declared(&ok)
            }
            (Owner::Control, _) => self.pump_control(),
            (Owner::Lane(l), _) => self.lane_step(l, number, reply),
            (Owner::Consumer(consumer, generation), _) => {
                self.consumer_step(consumer, generation, reply)
            }
            (Owner::Nobody, _) => {}
        }
        Ok(())
    }

    pub(super) fn answer_flow(&mut self, c: usize, number: u16, active: bool) {
        let flow_ok = AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active }));
        if let Some(connection) = self.connections.get_mut(c) {
            let _ = connection.send(number, &flow_ok);
        }
    }

    fn on_channel_close(
        &mut self,
        c: usize,
        number: u16,
        owner: Owner,
        expect: Option<Expect>,
        close: &channel::Close,
    ) {
        let Some(connection) = self.connections.get_mut(c) else { return };
        let close_ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
        let _ = connection.send(number, &close_ok);
        if expect == Some(Expect::CloseOk) {
            // The closes crossed: ours is still to be answered, and the number still taken (s16).
            if let Owner::Lane(l) = owner {
                self.disown(c, number);
                self.lane_reset(l);
            }
            return;
        }
        connection.channels.remove(number);
        self.timers.cancel(Timer::Rpc(c, number));
        let method = (close.class_id, close.method_id);
        self.channel_gone(owner, close.reply_code, &close.reply_text.as_str().into(), method);
    }

    fn on_channel_close_ok(&mut self, c: usize, number: u16, owner: Owner) {
        if let Some(connection) = self.connections.get_mut(c) {
            connection.channels.remove(number);
        }
        self.timers.cancel(Timer::Rpc(c, number));
        if let Owner::Lane(l) = owner {
            self.lane_reset(l);
        }
        if c == PUBLISH {
            self.open_waiting_lanes();
        }
        if c == self.consuming() {
            self.pump_control();
        }
        self.subscribe_starved(c);
        self.advance_closing();
    }

    /// A lane that we closed ourselves is closed: after a confirm timeout, what is unsettled is sent
    /// again.
    fn lane_reset(&mut self, l: usize) {
        self.lane_channel_lost(l);
        if let Some(lane) = self.lanes.get_mut(l) {
            lane.state = LaneState::Closed;
        }
        self.refresh_lane(l);
        self.open_waiting_lanes();
    }

    fn has_tag(&self, owner: Owner, tag: &str) -> bool {
        match owner {
            Owner::Consumer(consumer, _) => {
                self.consumers.get(consumer.0).is_some_and(|consumer| *consumer.tag == *tag)
            }
            Owner::Control | Owner::Lane(_) | Owner::Nobody => false,
        }
    }

    fn answer_cancel(&mut self, c: usize, number: u16, cancel: &basic::Cancel) {
        let cancel_ok = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
        if let Some(connection) = self.connections.get_mut(c) {
            let _ =
                connection.send(number, &AMQPClass::Basic(basic::AMQPMethod::CancelOk(cancel_ok)));
        }
    }
}
