//! What goes through the client's end of each connection, read frame by frame.
//!
//! A byte that the transport took is a byte that the broker may have; a byte that the client read is
//! one that it knows of. So this, and nothing that the client counts itself, says which messages were
//! possibly written whole, which confirm stands for which message, and which delivery an ack settles.

mod channel;
mod frames;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use amq_protocol::protocol::{AMQPClass, basic, channel as chan, confirm, connection, queue};
use lavinmq_core::wire::{Frame, FrameKind, Method, decode_content_header, decode_method};

use self::{
    channel::{Channel, Content, Phase},
    frames::Frames,
};
use super::{
    accounts::{Accounts, Settlement},
    pipe::Watch,
    states,
};

/// Looks at one connection.
#[derive(Debug)]
pub struct Tap {
    link: u64,
    accounts: Arc<Mutex<Accounts>>,
    up: Frames,
    down: Frames,
    view: View,
}

#[derive(Debug, Default)]
struct View {
    running: bool,
    blocked: bool,
    channels: BTreeMap<u16, Channel>,
    /// Channels whose consume-ok came in the bytes that are being read.
    consume_ok: BTreeSet<u16>,
}

impl Tap {
    /// Looks at the connection of this number, and writes down what it sees.
    #[must_use]
    pub fn new(link: u64, accounts: Arc<Mutex<Accounts>>) -> Self {
        Self {
            link,
            accounts,
            up: Frames::of_client(),
            down: Frames::of_broker(),
            view: View::default(),
        }
    }
}

fn lock(accounts: &Mutex<Accounts>) -> MutexGuard<'_, Accounts> {
    accounts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch for Tap {
    fn wrote(&mut self, bytes: &[u8]) {
        let Self { accounts, up, view, link, .. } = self;
        let mut books = lock(accounts);
        let each = |frame: Frame<'_>| {
            view.sent(frame, &mut books);
            // The frame that was begun when its channel ended: nothing after it.
            let channels = view.channels.values_mut();
            channels.filter(|channel| channel.phase == Phase::LastFrame).for_each(Channel::forget);
        };
        if !up.feed(bytes, each) {
            books.violation(format!("link {link}: the client wrote what is no frame"));
        }
    }

    fn read(&mut self, bytes: &[u8]) {
        let Self { accounts, up, down, view, .. } = self;
        view.consume_ok.clear();
        let begun = !up.partial().is_empty();
        down.feed(bytes, |frame| view.came(frame, begun, &mut lock(accounts)));
    }

    fn ended(&mut self, silent: bool) {
        let mut books = lock(&self.accounts);
        let view = &mut self.view;
        if silent && view.running {
            books.state(states::HALF_OPEN);
        }
        // A method frame of class 60, method 60, or what follows it.
        let partial = self.down.partial();
        let inside = view.channels.values().any(|channel| channel.delivery.is_some());
        if inside || (partial.first() == Some(&1) && partial.get(7..11) == Some(&[0, 60, 0, 60])) {
            books.state(states::CUT_IN_DELIVERY);
        }
        for channel in view.channels.values_mut() {
            channel.cut(self.up.partial(), &mut books);
            channel.lost(false, &mut books);
        }
        if std::mem::take(&mut view.running) {
            books.link_down(std::mem::take(&mut view.blocked));
        }
    }
}

impl View {
    /// The client wrote a frame.
    fn sent(&mut self, frame: Frame<'_>, books: &mut Accounts) {
        match frame.kind {
            FrameKind::Method => match decode_method(frame.payload) {
                Ok(method) => self.sent_method(frame.channel, method, books),
                Err(error) => books.violation(format!("the client wrote {error}")),
            },
            FrameKind::Header => {
                if let (Some(channel), Ok(header)) =
                    (self.channels.get_mut(&frame.channel), decode_content_header(frame.payload))
                {
                    channel.publish_header(header.body_size, header.properties.as_bytes(), books);
                }
            }
            FrameKind::Body => {
                if let Some(channel) = self.channels.get_mut(&frame.channel) {
                    channel.publish_body(frame.payload, books);
                }
            }
            FrameKind::Heartbeat => {}
        }
    }

    fn sent_method(&mut self, number: u16, method: Method<'_>, books: &mut Accounts) {
        if let Method::Other(class) = &method
            && matches!(**class, AMQPClass::Channel(chan::AMQPMethod::Open(_)))
        {
            self.channels.insert(number, Channel::default());
            return;
        }
        let Some(channel) = self.channels.get_mut(&number) else { return };
        match method {
            Method::Publish(_) => channel.publish(),
            Method::Ack(ack) => {
                channel.settle(ack.delivery_tag, ack.multiple, Settlement::Ack, books);
            }
            Method::Nack(nack) => {
                let how = if nack.requeue { Settlement::Requeue } else { Settlement::Reject };
                channel.settle(nack.delivery_tag, nack.multiple, how, books);
            }
            Method::Other(class) => match *class {
                AMQPClass::Basic(basic::AMQPMethod::Reject(reject)) => {
                    let how = if reject.requeue { Settlement::Requeue } else { Settlement::Reject };
                    channel.settle(reject.delivery_tag, false, how, books);
                }
                AMQPClass::Basic(basic::AMQPMethod::Qos(qos)) => {
                    channel.prefetch = Some(qos.prefetch_count);
                }
                AMQPClass::Basic(basic::AMQPMethod::Consume(consume)) => {
                    channel.no_ack = consume.no_ack;
                    books.subscribes(consume.queue.as_str(), consume.no_ack, channel.prefetch);
                }
                AMQPClass::Channel(chan::AMQPMethod::Close(_)) => channel.phase = Phase::Closing,
                AMQPClass::Confirm(confirm::AMQPMethod::Select(_)) => channel.confirms = true,
                AMQPClass::Queue(queue::AMQPMethod::Declare(declare)) => {
                    books.asks(declare.queue.as_str());
                    channel.declares.push_back(declare.queue.as_str().to_owned());
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// The client read a frame; `begun` if it has written a part of one.
    fn came(&mut self, frame: Frame<'_>, begun: bool, books: &mut Accounts) {
        match frame.kind {
            FrameKind::Method => {
                if let Ok(method) = decode_method(frame.payload) {
                    self.came_method(frame.channel, method, begun, books);
                }
            }
            FrameKind::Header => {
                if let (Some(channel), Ok(header)) =
                    (self.channels.get_mut(&frame.channel), decode_content_header(frame.payload))
                {
                    channel.content_header(header.body_size, header.properties.as_bytes(), books);
                }
            }
            FrameKind::Body => {
                if let Some(channel) = self.channels.get_mut(&frame.channel) {
                    channel.content_body(frame.payload, books);
                }
            }
            FrameKind::Heartbeat => {}
        }
    }

    fn came_method(&mut self, number: u16, method: Method<'_>, begun: bool, books: &mut Accounts) {
        if let Method::Other(class) = &method
            && let AMQPClass::Connection(method) = &**class
        {
            return self.came_for_all(method, begun, books);
        }
        let Some(channel) = self.channels.get_mut(&number) else { return };
        match method {
            Method::Ack(ack) => channel.confirm(ack.delivery_tag, ack.multiple, false, books),
            Method::Nack(nack) => channel.confirm(nack.delivery_tag, nack.multiple, true, books),
            Method::Deliver(deliver) => {
                if self.consume_ok.contains(&number) {
                    books.state(states::WITH_CONSUME_OK);
                }
                channel.delivery = Some(Content::new(deliver.delivery_tag));
            }
            Method::Other(class) => match *class {
                AMQPClass::Basic(basic::AMQPMethod::Return(_)) => {
                    channel.returned = Some(Content::new(0));
                }
                AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => {
                    self.consume_ok.insert(number);
                }
                AMQPClass::Channel(chan::AMQPMethod::Close(_)) => {
                    channel.closed_by_broker(books);
                }
                AMQPClass::Channel(chan::AMQPMethod::CloseOk(_)) => channel.lost(false, books),
                AMQPClass::Channel(chan::AMQPMethod::Flow(flow))
                    if !flow.active && channel.has_unsettled() =>
                {
                    books.state(states::STOPPED_BY_FLOW);
                }
                AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)) => {
                    if let Some(name) = channel.declares.pop_front() {
                        books.answered(&name, false);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn came_for_all(&mut self, method: &connection::AMQPMethod, begun: bool, books: &mut Accounts) {
        match method {
            connection::AMQPMethod::OpenOk(_) => {
                self.running = true;
                books.link_up();
            }
            connection::AMQPMethod::Blocked(_) if !self.blocked => {
                self.blocked = true;
                books.blocked(true);
            }
            connection::AMQPMethod::Unblocked(_) if self.blocked => {
                self.blocked = false;
                books.blocked(false);
            }
            connection::AMQPMethod::Close(close) => {
                if close.reply_code == 540 {
                    books.state(states::CLOSED_540);
                }
                for channel in self.channels.values_mut() {
                    channel.lost(begun, books);
                }
            }
            _ => {}
        }
    }
}
