//! A broker that answers everything and keeps everything: what it holds is the verdict.
//!
//! It turns the frames that a client wrote into the frames that it answers. Answers can be withheld,
//! to hold the client in a state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::harness::*;

/// What can be withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    Start,
    Tune,
    OpenOk,
    CloseOk,
    ChannelOpenOk,
    ChannelCloseOk,
    SelectOk,
    QosOk,
    ConsumeOk,
    DeclareOk,
    Confirm,
}

impl Answer {
    fn of(class: &AMQPClass) -> Option<Self> {
        Some(match class {
            AMQPClass::Connection(connection::AMQPMethod::Start(_)) => Self::Start,
            AMQPClass::Connection(connection::AMQPMethod::Tune(_)) => Self::Tune,
            AMQPClass::Connection(connection::AMQPMethod::OpenOk(_)) => Self::OpenOk,
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => Self::CloseOk,
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Self::ChannelOpenOk,
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => Self::ChannelCloseOk,
            AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_)) => Self::SelectOk,
            AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => Self::QosOk,
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => Self::ConsumeOk,
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)) => Self::DeclareOk,
            _ => return None,
        })
    }
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Held {
    body: Vec<u8>,
    properties: Properties,
    redelivered: bool,
}

#[derive(Debug)]
struct Subscription {
    tag: String,
    queue: String,
}

/// The broker's side of a channel.
#[derive(Debug, Default)]
struct Channel {
    /// Confirm mode: the last tag given.
    confirms: Option<u64>,
    /// The last tag confirmed.
    confirmed: u64,
    prefetch: usize,
    subscription: Option<Subscription>,
    /// The last delivery tag given.
    delivered: u64,
    /// Deliveries without a settlement: their number, and the message.
    outstanding: BTreeMap<u64, (u64, Held)>,
    /// A publish whose content is incomplete.
    incoming: Option<(Copy, u64)>,
}

/// The broker's side of a connection.
#[derive(Debug, Default)]
pub struct Link {
    /// Frames on their way to the client.
    pub out: VecDeque<Vec<u8>>,
    /// Whether connection.open was answered.
    pub open: bool,
    /// connection.close was sent: everything but its close-ok is ignored.
    closing: bool,
    channels: BTreeMap<u16, Channel>,
    /// What is withheld, for each the channel and the frame.
    withheld: Vec<(Answer, u16, Vec<u8>)>,
}

/// See the module.
#[derive(Debug)]
pub struct Holder {
    pub links: Vec<Link>,
    tune: (u16, u32, u16),
    queues: BTreeMap<String, VecDeque<Held>>,
    /// Every whole copy of a message that a queue took or that was returned, in order of arrival.
    pub copies: Vec<Copy>,
    /// Numbers of the deliveries that the client acked or handed back, since the last look.
    pub settled: Vec<u64>,
    next_delivery: u64,
    /// Answers that do not go out.
    pub withhold: BTreeSet<Answer>,
    /// Every publish closes its channel: low disk, in LavinMQ's words (s22).
    pub low_disk: bool,
    /// Nobody answers dials.
    pub refuses_dials: bool,
    /// What the client wrote about closing and cancelling, in order.
    pub closes: Vec<String>,
}

impl Holder {
    pub fn new(connections: usize, tune: (u16, u32, u16)) -> Self {
        Self {
            links: (0..connections).map(|_| Link::default()).collect(),
            tune,
            queues: BTreeMap::new(),
            copies: Vec::new(),
            settled: Vec::new(),
            next_delivery: 1,
            withhold: BTreeSet::new(),
            low_disk: false,
            refuses_dials: false,
            closes: Vec::new(),
        }
    }

    /// How many messages are in this queue, or were delivered from it and not settled.
    pub fn left_in(&self, queue: &str) -> usize {
        let ready = self.queues.get(queue).map_or(0, VecDeque::len);
        let channels = self.links.iter().flat_map(|link| link.channels.values());
        let consumes = |channel: &&Channel| {
            channel.subscription.as_ref().is_some_and(|subscription| subscription.queue == queue)
        };
        ready + channels.filter(consumes).map(|channel| channel.outstanding.len()).sum::<usize>()
    }

    /// The bodies that are in a queue or were delivered and not settled.
    pub fn left(&self) -> Vec<String> {
        let ready = self.queues.values().flatten();
        let channels = self.links.iter().flat_map(|link| link.channels.values());
        let out = channels.flat_map(|channel| channel.outstanding.values().map(|(_, held)| held));
        ready.chain(out).map(|held| short(&held.body)).collect()
    }

    /// How many whole copies of this message it got.
    pub fn count(&self, body: &[u8]) -> usize {
        self.copies.iter().filter(|copy| copy.body == body).count()
    }

    /// The transport is gone: what was not settled is ready again.
    pub fn lost(&mut self, c: usize) {
        let link = std::mem::take(&mut self.links[c]);
        for channel in link.channels.into_values() {
            self.requeue(channel);
        }
    }

    fn requeue(&mut self, channel: Channel) {
        let Some(Subscription { queue, .. }) = channel.subscription else { return };
        let queue = self.queues.get_mut(&queue).unwrap();
        for (_, mut held) in channel.outstanding.into_values().rev() {
            held.redelivered = true;
            queue.push_front(held);
        }
    }

    // ---- what it says --------------------------------------------------------------------------

    /// Sends a method, unless it is withheld.
    pub fn say(&mut self, stage: &mut Stage, c: usize, n: u16, class: AMQPClass) {
        let mut bytes = Vec::new();
        wire::put_method(&mut bytes, n, &class).unwrap();
        if let Some(answer) = Answer::of(&class).filter(|answer| self.withhold.contains(answer)) {
            self.links[c].withheld.push((answer, n, bytes));
            return;
        }
        stage.peers[c].note_reply(n, &class);
        self.links[c].out.push_back(bytes);
    }

    /// Sends what was withheld on channels that are still open; from now on nothing is withheld.
    pub fn release(&mut self, stage: &mut Stage) {
        self.withhold.clear();
        for c in 0..self.links.len() {
            for (answer, n, bytes) in std::mem::take(&mut self.links[c].withheld) {
                let link = &mut self.links[c];
                if link.closing || (n > 0 && !link.channels.contains_key(&n)) {
                    continue;
                }
                if answer == Answer::ChannelCloseOk {
                    let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                    stage.peers[c].note_reply(n, &ok);
                    link.channels.remove(&n);
                }
                if answer == Answer::OpenOk {
                    link.open = true;
                }
                link.out.push_back(bytes);
            }
        }
    }

    pub fn heartbeat(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.open) {
            link.out.push_back(wire::HEARTBEAT.to_vec());
        }
    }

    /// Closes a connection; what the client still writes counts as sent too late.
    pub fn close(&mut self, stage: &mut Stage, c: usize, code: u16) {
        self.say_close(stage, c, code);
        self.links[c].closing = true;
    }

    /// The same, but that what the client still writes is taken.
    pub fn say_close(&mut self, stage: &mut Stage, c: usize, code: u16) {
        let close = connection::Close {
            reply_code: code,
            reply_text: "because".into(),
            class_id: 0,
            method_id: 0,
        };
        self.say(stage, c, 0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    }

    /// Closes a channel over `method`.
    pub fn close_channel(
        &mut self,
        stage: &mut Stage,
        c: usize,
        n: u16,
        (code, text): (u16, &str),
        method: (u16, u16),
    ) {
        let close = channel::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.say(stage, c, n, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        self.forget_channel(c, n);
    }

    fn forget_channel(&mut self, c: usize, n: u16) {
        let link = &mut self.links[c];
        link.withheld.retain(|(_, channel, _)| *channel != n);
        if let Some(channel) = link.channels.remove(&n) {
            self.requeue(channel);
        }
    }

    /// Closes a channel that the client has closed: the two cross, and both are answered.
    pub fn cross(&mut self, stage: &mut Stage, c: usize, n: u16, (code, text): (u16, &str)) {
        let close =
            channel::Close { reply_code: code, reply_text: text.into(), class_id: 0, method_id: 0 };
        self.say(stage, c, n, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
    }

    /// Blocks a connection, or lets it go on, if it stands.
    pub fn tell_if_open(&mut self, stage: &mut Stage, c: usize, blocked: bool) {
        if !self.links[c].open || self.links[c].closing {
            return;
        }
        if blocked {
            self.blocked(stage, c);
        } else {
            self.unblocked(stage, c);
        }
    }

    pub fn blocked(&mut self, stage: &mut Stage, c: usize) {
        let blocked = connection::Blocked { reason: "memory".into() };
        self.say(stage, c, 0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
    }

    pub fn unblocked(&mut self, stage: &mut Stage, c: usize) {
        let unblocked = connection::Unblocked {};
        self.say(stage, c, 0, AMQPClass::Connection(connection::AMQPMethod::Unblocked(unblocked)));
    }

    /// The tag of the consumer on this channel.
    pub fn consumer_tag(&self, c: usize, n: u16) -> Option<String> {
        let subscription = self.links[c].channels.get(&n)?.subscription.as_ref()?;
        Some(subscription.tag.clone())
    }

    // ---- what it hears -------------------------------------------------------------------------

    /// A frame of the client's.
    pub fn hear(&mut self, stage: &mut Stage, c: usize, frame: Wrote) {
        self.note_close(&frame);
        if self.links[c].closing {
            return;
        }
        match frame {
            Wrote::ProtocolHeader => {
                let start = connection::Start {
                    version_major: 0,
                    version_minor: 9,
                    server_properties: FieldTable::default(),
                    mechanisms: "PLAIN".into(),
                    locales: "en_US".into(),
                };
                self.say(stage, c, 0, AMQPClass::Connection(connection::AMQPMethod::Start(start)));
            }
            Wrote::Heartbeat => {}
            Wrote::Method(0, class) => self.hear_connection(stage, c, class),
            Wrote::Method(n, class) => self.hear_channel(stage, c, n, class),
            Wrote::Publish { channel: n, exchange, routing_key, mandatory } => {
                let Some(channel) = self.links[c].channels.get_mut(&n) else { return };
                if let Some(tag) = &mut channel.confirms {
                    *tag += 1;
                }
                let copy = Copy {
                    channel: n,
                    exchange,
                    routing_key,
                    mandatory,
                    properties: Properties::default(),
                    body: Vec::new(),
                    chunks: Vec::new(),
                };
                channel.incoming = Some((copy, 0));
            }
            Wrote::Header { channel: n, size, properties } => {
                let Some(channel) = self.links[c].channels.get_mut(&n) else { return };
                let (copy, missing) = channel.incoming.as_mut().unwrap();
                copy.properties = properties;
                *missing = size;
                self.whole(stage, c, n);
            }
            Wrote::Body(n, bytes) => {
                let Some(channel) = self.links[c].channels.get_mut(&n) else { return };
                let (copy, missing) = channel.incoming.as_mut().unwrap();
                *missing -= bytes.len() as u64;
                copy.chunks.push(bytes.len());
                copy.body.extend(bytes);
                self.whole(stage, c, n);
            }
            Wrote::Ack { channel, tag, multiple } => self.settle(c, channel, tag, multiple, false),
            Wrote::Nack { channel, tag, multiple, requeue } => {
                self.settle(c, channel, tag, multiple, requeue);
            }
        }
    }

    fn note_close(&mut self, frame: &Wrote) {
        let Wrote::Method(n, class) = frame else { return };
        self.closes.push(match class {
            AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                format!("close {}", close.reply_code)
            }
            AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)) => "close-ok".into(),
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                format!("{n}: close {}", close.reply_code)
            }
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => format!("{n}: close-ok"),
            AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)) => format!("{n}: cancel-ok"),
            _ => return,
        });
    }

    fn hear_connection(&mut self, stage: &mut Stage, c: usize, class: AMQPClass) {
        use connection::AMQPMethod as M;
        let AMQPClass::Connection(method) = class else { panic!("on channel 0: {class:?}") };
        let answer = match method {
            M::StartOk(_) => {
                let (channel_max, frame_max, heartbeat) = self.tune;
                M::Tune(connection::Tune { channel_max, frame_max, heartbeat })
            }
            M::TuneOk(_) | M::CloseOk(_) => return,
            M::Open(_) => {
                self.links[c].open = !self.withhold.contains(&Answer::OpenOk);
                M::OpenOk(connection::OpenOk {})
            }
            M::Close(_) => M::CloseOk(connection::CloseOk {}),
            other => panic!("a client never sends {other:?}"),
        };
        let last = matches!(answer, M::CloseOk(_));
        self.say(stage, c, 0, AMQPClass::Connection(answer));
        self.links[c].closing |= last && !self.withhold.contains(&Answer::CloseOk);
    }

    fn hear_channel(&mut self, stage: &mut Stage, c: usize, n: u16, class: AMQPClass) {
        let answer = match class {
            AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                let old = self.links[c].channels.insert(n, Channel::default());
                assert!(old.is_none(), "channel {n} is open already");
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}))
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                if self.withhold.contains(&Answer::ChannelCloseOk) {
                    if let Some(channel) = self.links[c].channels.insert(n, Channel::default()) {
                        self.requeue(channel);
                    }
                } else {
                    self.forget_channel(c, n);
                }
                AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
            }
            AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => {
                self.channel(c, n).confirms = Some(0);
                AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {}))
            }
            AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                let queue = declare.queue.as_str();
                let ready = self.queues.entry(queue.to_owned()).or_default().len() as u32;
                let queue = declare.queue.clone();
                let ok = queue::DeclareOk { queue, message_count: ready, consumer_count: 0 };
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))
            }
            AMQPClass::Basic(basic::AMQPMethod::Qos(qos)) => {
                self.channel(c, n).prefetch = usize::from(qos.prefetch_count);
                AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {}))
            }
            AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                let (tag, queue) = (consume.consumer_tag, consume.queue.as_str().to_owned());
                assert!(self.queues.contains_key(&queue), "no queue {queue}");
                let channel = self.channel(c, n);
                assert!(channel.prefetch > 0, "qos goes out before consume");
                channel.subscription = Some(Subscription { tag: tag.as_str().to_owned(), queue });
                let ok = basic::ConsumeOk { consumer_tag: tag };
                AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok))
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => {
                self.channel(c, n).prefetch = 0;
                let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag };
                AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok))
            }
            AMQPClass::Channel(
                channel::AMQPMethod::CloseOk(_) | channel::AMQPMethod::FlowOk(_),
            )
            | AMQPClass::Basic(basic::AMQPMethod::CancelOk(_)) => return,
            other => panic!("no answer to {other:?}"),
        };
        self.say(stage, c, n, answer);
    }

    fn channel(&mut self, c: usize, n: u16) -> &mut Channel {
        self.links[c].channels.get_mut(&n).unwrap_or_else(|| panic!("channel {n} is not open"))
    }

    /// A message may be whole now.
    fn whole(&mut self, stage: &mut Stage, c: usize, n: u16) {
        let channel = self.channel(c, n);
        let Some((copy, 0)) = channel.incoming.take_if(|(_, missing)| *missing == 0) else {
            return;
        };
        if !copy.exchange.is_empty() {
            let why = (404, "NOT_FOUND - no such exchange");
            self.close_channel(stage, c, n, why, (60, 40));
            return;
        }
        if self.low_disk {
            let why = (406, "PRECONDITION_FAILED - Server low on disk space");
            self.close_channel(stage, c, n, why, (60, 40));
            return;
        }
        match self.queues.get_mut(&copy.routing_key) {
            Some(_) if copy.body.starts_with(b"refused") => {
                let mut bytes = Vec::new();
                let tag = self.channel(c, n).confirms.unwrap();
                wire::put_nack(&mut bytes, n, tag, false, false);
                self.links[c].out.push_back(bytes);
            }
            Some(queue) => queue.push_back(Held {
                body: copy.body.clone(),
                properties: copy.properties.clone(),
                redelivered: false,
            }),
            None if copy.mandatory => {
                self.links[c].out.push_back(returned(&copy, 312, "NO_ROUTE"));
            }
            None => {}
        }
        self.copies.push(copy);
    }

    fn settle(&mut self, c: usize, n: u16, tag: u64, multiple: bool, requeue: bool) {
        let Some(channel) = self.links[c].channels.get_mut(&n) else { return };
        assert!(channel.outstanding.contains_key(&tag), "406: delivery tag {tag} is unknown");
        let above = channel.outstanding.split_off(&(tag + 1));
        let mut named = std::mem::replace(&mut channel.outstanding, above);
        if !multiple {
            let one = named.split_off(&tag);
            channel.outstanding.append(&mut std::mem::replace(&mut named, one));
        }
        let queue = &channel.subscription.as_ref().unwrap().queue;
        let queue = self.queues.get_mut(queue).unwrap();
        for (number, mut held) in named.into_values().rev() {
            self.settled.push(number);
            if requeue {
                held.redelivered = true;
                queue.push_front(held);
            }
        }
    }

    /// The end of a turn: confirms what came in it, and delivers what is ready.
    pub fn confirm_and_deliver(&mut self) {
        let confirm = !self.withhold.contains(&Answer::Confirm);
        let deliver = !self.withhold.contains(&Answer::ConsumeOk);
        for link in self.links.iter_mut().filter(|link| !link.closing) {
            for (&n, channel) in &mut link.channels {
                let pending = u64::from(channel.incoming.is_some());
                if let Some(tag) = channel.confirms.map(|tag| tag - pending)
                    && tag > channel.confirmed
                    && confirm
                {
                    let mut bytes = Vec::new();
                    wire::put_ack(&mut bytes, n, tag, tag > channel.confirmed + 1);
                    link.out.push_back(bytes);
                    channel.confirmed = tag;
                }
                let Some(Subscription { tag, queue }) = &channel.subscription else { continue };
                let queue = self.queues.get_mut(queue).unwrap();
                while deliver
                    && channel.outstanding.len() < channel.prefetch
                    && let Some(held) = queue.pop_front()
                {
                    let number = self.next_delivery;
                    self.next_delivery += 1;
                    channel.delivered += 1;
                    // The number travels as the name of the exchange, which nobody needs here.
                    let mut bytes = Vec::new();
                    wire::put_deliver(
                        &mut bytes,
                        n,
                        tag,
                        channel.delivered,
                        held.redelivered,
                        &number.to_string(),
                        "a",
                    );
                    let size = held.body.len() as u64;
                    wire::put_content_header(&mut bytes, n, size, &held.properties);
                    wire::put_body(&mut bytes, n, &held.body, self.tune.1);
                    channel.outstanding.insert(channel.delivered, (number, held));
                    link.out.push_back(bytes);
                }
            }
        }
    }
}

/// A body as text, its middle left out.
pub fn short(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(12)]);
    match body.len() {
        ..=12 => text.into_owned(),
        length => format!("{text}… ({length} bytes)"),
    }
}
