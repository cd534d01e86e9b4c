//! One connection of the sink, without its socket: bytes in, bytes out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Totals;
use super::channel::{Channel, Consumer, Content, Supply, open};
use super::echo::{Echo, Line};
use crate::Fallible;
use crate::modes::ECHO;
use crate::wire::{self, Fields, Frame, Method, id};

/// The heartbeat that the sink offers, in seconds.
const HEARTBEAT: u16 = 60;

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    totals: Arc<Totals>,
    line: Arc<Line>,
    /// What is to be written.
    pub(crate) out: Vec<u8>,
    /// The timeout that the socket has, kept here to spare a system call per read.
    pub(crate) read_timeout: Option<Duration>,
    heartbeat: u16,
    frame_max: u32,
    channels: Vec<Channel>,
    /// Channels whose publishes of this read are to be confirmed.
    to_confirm: Vec<u16>,
    /// Channels that may have something to deliver, in turn. Each is listed once.
    delivering: VecDeque<u16>,
    /// What is offered; 0 is no limit.
    channel_max: u16,
    not_before: Option<Instant>,
    over: bool,
    published: u64,
    delivered: u64,
    acked: u64,
}

impl Session {
    pub(crate) fn new(totals: Arc<Totals>, line: Arc<Line>, channel_max: u16) -> Self {
        Self {
            totals,
            line,
            out: Vec::new(),
            read_timeout: None,
            heartbeat: 0,
            frame_max: wire::FRAME_MAX,
            channels: Vec::new(),
            to_confirm: Vec::new(),
            delivering: VecDeque::new(),
            channel_max,
            not_before: None,
            over: false,
            published: 0,
            delivered: 0,
            acked: 0,
        }
    }

    /// The connection was closed properly.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Messages that came whole.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// What came and went, in words.
    pub(crate) fn account(&self) -> String {
        let Self { published, delivered, acked, .. } = self;
        format!("published={published} delivered={delivered} acked={acked}")
    }

    /// How often a heartbeat is due on an idle connection; never, where there are none.
    pub(crate) fn heartbeat_interval(&self) -> Option<Duration> {
        (self.heartbeat > 0).then(|| Duration::from_millis(u64::from(self.heartbeat) * 500))
    }

    pub(crate) fn beat(&mut self) {
        wire::heartbeat(&mut self.out);
    }

    /// After the protocol header.
    pub(crate) fn start(&mut self) {
        let mut capabilities = Vec::new();
        for name in [
            "publisher_confirms",
            "basic.nack",
            "consumer_cancel_notify",
            "per_consumer_qos",
            "authentication_failure_close",
        ] {
            wire::Writer(&mut capabilities).short_string(name).octet(b't').octet(1);
        }
        let mut properties = Vec::new();
        let mut w = wire::Writer(&mut properties);
        w.short_string("product").octet(b'S').long_string(b"lavinmq-benches sink");
        w.short_string("version").octet(b'S').long_string(env!("CARGO_PKG_VERSION").as_bytes());
        w.short_string("capabilities").octet(b'F').long_string(&capabilities);
        wire::method(&mut self.out, 0, id::CONNECTION_START, |w| {
            w.octet(0).octet(9).long_string(&properties);
            w.long_string(b"PLAIN AMQPLAIN").long_string(b"en_US");
        });
    }

    /// Takes as many whole frames as there are, and says how many bytes that was.
    ///
    /// # Errors
    ///
    /// Whatever a broker would close the connection for.
    pub(crate) fn receive(&mut self, input: &[u8]) -> Fallible<usize> {
        let mut taken = 0;
        let before = (self.published, self.acked);
        while let Some((frame, length)) = wire::first_frame(&input[taken..])? {
            self.frame(frame)?;
            taken += length;
        }
        let Totals { published, acked, .. } = &*self.totals;
        if self.published != before.0 {
            published.fetch_add(self.published - before.0, Ordering::Release);
        }
        if self.acked != before.1 {
            acked.fetch_add(self.acked - before.1, Ordering::Relaxed);
        }
        while let Some(number) = self.to_confirm.pop() {
            let channel = &mut self.channels[usize::from(number)];
            channel.confirmed = channel.published;
            wire::ack(&mut self.out, number, channel.published, true);
        }
        Ok(taken)
    }

    #[inline]
    fn frame(&mut self, frame: Frame<'_>) -> Fallible {
        match frame.kind {
            wire::METHOD => match frame.payload.first_chunk() {
                Some([0, 60, 0, 40]) => {
                    let channel = open(&mut self.channels, frame.channel)?;
                    match channel.content.replace(Content::Header) {
                        None => {
                            channel.echo = Echo::of(frame.payload);
                            Ok(())
                        }
                        Some(_) => Err("a publish inside another".into()),
                    }
                }
                Some([0, 60, 0, 80]) => self.ack(frame),
                _ => self.method(frame),
            },
            wire::HEADER => {
                let channel = open(&mut self.channels, frame.channel)?;
                let Some(Content::Header) = channel.content else {
                    return Err("a content header out of place".into());
                };
                let mut fields = Fields::new(frame.payload);
                let _ = fields.long()?;
                match fields.longlong()? {
                    0 => self.complete(frame.channel),
                    size => {
                        channel.content = Some(Content::Body(size));
                        Ok(())
                    }
                }
            }
            wire::BODY => {
                let channel = open(&mut self.channels, frame.channel)?;
                let Some(Content::Body(left)) = &mut channel.content else {
                    return Err("a body out of place".into());
                };
                *left = left
                    .checked_sub(frame.payload.len() as u64)
                    .ok_or("more body than the header announced")?;
                if let Some(echo) = &mut channel.echo {
                    echo.body.extend_from_slice(frame.payload);
                }
                if *left == 0 { self.complete(frame.channel) } else { Ok(()) }
            }
            wire::HEARTBEAT => Ok(()),
            kind => Err(format!("a frame of type {kind}").into()),
        }
    }

    #[inline]
    fn complete(&mut self, number: u16) -> Fallible {
        let channel = open(&mut self.channels, number)?;
        channel.content = None;
        self.published += 1;
        if channel.confirms {
            if channel.confirmed == channel.published {
                self.to_confirm.push(number);
            }
            channel.published += 1;
        }
        if let Some(echo) = channel.echo.take() {
            let delivered = self.totals.echoes.deliver(&echo, &self.line, &mut self.out);
            self.delivered += delivered;
            self.totals.delivered.fetch_add(delivered, Ordering::Relaxed);
        }
        Ok(())
    }

    fn ack(&mut self, frame: Frame<'_>) -> Fallible {
        let mut fields = Fields::new(&frame.payload[4..]);
        let (tag, multiple) = (fields.longlong()?, fields.octet()? & 1 == 1);
        self.settle(frame.channel, tag, multiple)
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool) -> Fallible {
        let settled = open(&mut self.channels, number)?.settle(tag, multiple)?;
        self.acked += u64::from(settled);
        self.list(number);
        Ok(())
    }

    fn method(&mut self, frame: Frame<'_>) -> Fallible {
        let mut fields = Fields::new(frame.payload);
        let method = fields.method()?;
        let number = frame.channel;
        if !matches!(method.0, 10 | 20) {
            open(&mut self.channels, number)?;
        }
        match method {
            id::CONNECTION_START_OK => wire::method(&mut self.out, 0, id::CONNECTION_TUNE, |w| {
                w.short(self.channel_max).long(wire::FRAME_MAX).short(HEARTBEAT);
            }),
            id::CONNECTION_TUNE_OK => {
                let _ = fields.short()?;
                self.frame_max = match fields.long()? {
                    0 => wire::FRAME_MAX,
                    size @ 4096..=wire::FRAME_MAX => size,
                    size => return Err(format!("frame_max {size}").into()),
                };
                self.heartbeat = fields.short()?;
            }
            id::CONNECTION_OPEN => wire::method(&mut self.out, 0, id::CONNECTION_OPEN_OK, |w| {
                w.short_string("");
            }),
            id::CONNECTION_CLOSE => {
                self.ok(0, id::CONNECTION_CLOSE_OK);
                self.over = true;
            }
            id::CHANNEL_OPEN => {
                let index = usize::from(number);
                if self.channels.len() <= index {
                    self.channels.resize_with(index + 1, Channel::default);
                }
                let listed = self.channels[index].listed;
                self.channels[index] = Channel { open: true, listed, ..Channel::default() };
                wire::method(&mut self.out, number, id::CHANNEL_OPEN_OK, |w| {
                    w.long(0);
                });
            }
            id::CHANNEL_CLOSE => {
                let channel = open(&mut self.channels, number)?;
                // Still on the list, perhaps: nothing comes of that.
                *channel = Channel { listed: channel.listed, ..Channel::default() };
                self.totals.echoes.forget_all(&self.line, Some(number));
                self.ok(number, id::CHANNEL_CLOSE_OK);
            }
            id::CHANNEL_FLOW => {
                let active = fields.octet()?;
                wire::method(&mut self.out, number, id::CHANNEL_FLOW_OK, |w| {
                    w.octet(active);
                });
            }
            id::CHANNEL_FLOW_OK | id::CONNECTION_CLOSE_OK | id::CHANNEL_CLOSE_OK => {}
            id::EXCHANGE_DECLARE => self.ok(number, id::EXCHANGE_DECLARE_OK),
            id::EXCHANGE_DELETE => self.ok(number, id::EXCHANGE_DELETE_OK),
            id::QUEUE_DECLARE => {
                let _ = fields.short()?;
                let name = fields.short_string()?;
                let name = if name.is_empty() { "sink.gen-1" } else { name };
                let swallowed = self.published_by_all();
                wire::method(&mut self.out, number, id::QUEUE_DECLARE_OK, |w| {
                    w.short_string(name).long(swallowed as u32).long(0);
                });
            }
            id::QUEUE_BIND => self.ok(number, id::QUEUE_BIND_OK),
            id::QUEUE_UNBIND => self.ok(number, id::QUEUE_UNBIND_OK),
            id::QUEUE_PURGE | id::QUEUE_DELETE => {
                let reply = (method.0, method.1 + 1);
                wire::method(&mut self.out, number, reply, |w| {
                    w.long(0);
                });
            }
            id::BASIC_QOS => {
                let _ = fields.long()?;
                let channel = open(&mut self.channels, number)?;
                channel.prefetch = fields.short()?.into();
                for consumer in &mut channel.consumers {
                    consumer.held = false;
                }
                self.list(number);
                self.ok(number, id::BASIC_QOS_OK);
            }
            id::BASIC_CONSUME => self.consume(number, fields)?,
            id::BASIC_CANCEL => {
                let tag = fields.short_string()?;
                self.totals.echoes.forget(&self.line, number, tag);
                let channel = open(&mut self.channels, number)?;
                channel.consumers.retain(|consumer| consumer.tag != tag);
                wire::method(&mut self.out, number, id::BASIC_CANCEL_OK, |w| {
                    w.short_string(tag);
                });
            }
            id::BASIC_NACK => {
                let (tag, bits) = (fields.longlong()?, fields.octet()?);
                self.settle(number, tag, bits & 1 == 1)?;
            }
            id::BASIC_REJECT => {
                let tag = fields.longlong()?;
                self.settle(number, tag, false)?;
            }
            id::CONFIRM_SELECT => {
                open(&mut self.channels, number)?.confirms = true;
                self.ok(number, id::CONFIRM_SELECT_OK);
            }
            (class, method) => return Err(format!("method {class}.{method}").into()),
        }
        Ok(())
    }

    /// The count includes what this read brought before.
    fn published_by_all(&self) -> u64 {
        // `receive` adds a read's publishes to the total at its end; a declare that overtakes
        // them by that much only makes the harness ask once more.
        self.totals.published.load(Ordering::Acquire)
    }

    fn ok(&mut self, channel: u16, reply: Method) {
        wire::method(&mut self.out, channel, reply, |_| {});
    }

    fn consume(&mut self, number: u16, mut fields: Fields<'_>) -> Fallible {
        let _ = fields.short()?;
        let queue = fields.short_string()?;
        let asked = fields.short_string()?;
        let bits = fields.octet()?;
        let channel = open(&mut self.channels, number)?;
        let tag = match asked {
            "" => format!("sink.{number}.{}", channel.consumers.len() + 1),
            tag => tag.to_owned(),
        };
        let no_ack = bits & 2 == 2;
        wire::method(&mut self.out, number, id::BASIC_CONSUME_OK, |w| {
            w.short_string(&tag);
        });
        if queue.starts_with(ECHO) {
            if !no_ack {
                return Err("an echo queue is consumed without acks".into());
            }
            self.totals.echoes.listen(&self.line, number, &tag, queue, self.frame_max);
            return Ok(());
        }
        let supply = Supply::of(queue);
        let consumer = Consumer::new(tag, no_ack, number, queue, &supply, self.frame_max);
        channel.consumers.push(consumer);
        self.list(number);
        if !supply.delay.is_zero() {
            self.not_before = Some(Instant::now() + supply.delay);
        }
        Ok(())
    }

    /// How long until deliveries may begin, where that is what they wait for.
    pub(crate) fn starts_in(&self, now: Instant) -> Option<Duration> {
        self.not_before.map(|at| at.saturating_duration_since(now))
    }

    /// The channel may have something to deliver.
    fn list(&mut self, number: u16) {
        if let Some(channel) = self.channels.get_mut(usize::from(number))
            && !channel.listed
            && channel.can_deliver()
        {
            channel.listed = true;
            self.delivering.push_back(number);
        }
    }

    /// Whether [`deliver`](Self::deliver) may write something.
    pub(crate) fn can_deliver(&self) -> bool {
        self.not_before.is_none() && !self.delivering.is_empty()
    }

    /// Encodes deliveries until `batch` bytes are waiting, or none may be sent.
    pub(crate) fn deliver(&mut self, batch: usize) {
        if let Some(at) = self.not_before {
            if Instant::now() < at {
                return;
            }
            self.not_before = None;
        }
        let mut delivered = 0;
        while self.out.len() < batch
            && let Some(number) = self.delivering.pop_front()
        {
            let Some(channel) = self.channels.get_mut(usize::from(number)) else { continue };
            channel.listed = false;
            delivered += channel.deliver(&mut self.out, batch);
            self.list(number);
        }
        self.delivered += delivered;
        self.totals.delivered.fetch_add(delivered, Ordering::Relaxed);
    }
}
