//! A blocking connection with frames encoded by hand: the floor that clients are compared
//! with, and the harness's own way of asking the broker how many messages have arrived.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use url::Url;

use crate::wire::{self, Fields, Frame, Method, id};
use crate::{Failure, Fallible};

/// Reads and writes are batched to this many bytes.
pub(crate) const BATCH: usize = 64 * 1024;

/// From this size on a body is written where it lies, not copied to the others.
const VECTORED: usize = 32 * 1024;

/// The one channel in use.
pub(crate) const CHANNEL: u16 = 1;

/// Where a broker is, taken apart for clients that want the parts.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) vhost: String,
}

impl std::str::FromStr for Target {
    type Err = Failure;

    fn from_str(text: &str) -> Fallible<Self> {
        let url = Url::parse(text)?;
        if url.scheme() != "amqp" {
            return Err("the benchmarks speak plain amqp:// only".into());
        }
        let or_guest = |part: &str| if part.is_empty() { "guest" } else { part }.to_owned();
        Ok(Self {
            url: text.to_owned(),
            host: url.host_str().unwrap_or("127.0.0.1").to_owned(),
            port: url.port().unwrap_or(5672),
            user: or_guest(url.username()),
            password: or_guest(url.password().unwrap_or_default()),
            vhost: match url.path().trim_start_matches('/') {
                "" | "%2f" | "%2F" => "/".to_owned(),
                name => name.to_owned(),
            },
        })
    }
}

/// A connection with one open channel.
pub(crate) struct Raw {
    socket: TcpStream,
    input: Vec<u8>,
    /// What was read and not yet taken.
    start: usize,
    end: usize,
    frame_max: u32,
    /// What is about to be written, kept for its memory.
    out: Vec<u8>,
    persistent: bool,
    /// What the broker calls itself, and its version.
    product: String,
}

impl Raw {
    /// Connects, and opens [`CHANNEL`].
    pub(crate) fn open(target: &Target) -> Fallible<Self> {
        let socket = TcpStream::connect((target.host.as_str(), target.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut raw = Self {
            socket,
            input: vec![0; 8 * BATCH],
            start: 0,
            end: 0,
            frame_max: wire::FRAME_MAX,
            out: Vec::new(),
            persistent: false,
            product: String::new(),
        };
        raw.socket.write_all(b"AMQP\0\0\x09\x01")?;
        raw.product = raw.expect(0, id::CONNECTION_START, |fields| {
            let _ = fields.short()?;
            Ok(product(fields.rest()))
        })?;
        let response = format!("\0{}\0{}", target.user, target.password);
        raw.send(0, id::CONNECTION_START_OK, |w| {
            w.long(0).short_string("PLAIN").long_string(response.as_bytes()).short_string("en_US");
        })?;
        let (channels, frame_max) =
            raw.expect(0, id::CONNECTION_TUNE, |fields| Ok((fields.short()?, fields.long()?)))?;
        raw.frame_max = if frame_max == 0 { wire::FRAME_MAX } else { frame_max };
        let frame_max = raw.frame_max.min(wire::FRAME_MAX);
        raw.frame_max = frame_max;
        raw.send(0, id::CONNECTION_TUNE_OK, |w| {
            w.short(channels).long(frame_max).short(0);
        })?;
        raw.send(0, id::CONNECTION_OPEN, |w| {
            w.short_string(&target.vhost).short_string("").octet(0);
        })?;
        raw.expect(0, id::CONNECTION_OPEN_OK, |_| Ok(()))?;
        raw.call(id::CHANNEL_OPEN, id::CHANNEL_OPEN_OK, |w| {
            w.short_string("");
        })?;
        Ok(raw)
    }

    /// What the broker calls itself, and its version.
    pub(crate) fn product(&self) -> &str {
        &self.product
    }

    /// From now on messages are persistent.
    pub(crate) fn persist(&mut self) {
        self.persistent = true;
    }

    /// Sends a message to the default exchange, or appends it to `out`, which is written when it
    /// is [`BATCH`] bytes long, and at last by the caller.
    pub(crate) fn publish(
        &mut self,
        out: &mut Vec<u8>,
        routing_key: &str,
        body: &[u8],
    ) -> Fallible {
        wire::method(out, CHANNEL, id::BASIC_PUBLISH, |w| {
            w.short(0).short_string("").short_string(routing_key).octet(0);
        });
        wire::header(out, CHANNEL, body.len(), self.persistent);
        if body.len() >= VECTORED {
            return self.write_body(out, body);
        }
        wire::body(out, CHANNEL, body, self.frame_max);
        if out.len() >= BATCH {
            self.write(out)?;
            out.clear();
        }
        Ok(())
    }

    /// Writes what `out` holds and the frames of a body, without a copy of it.
    fn write_body(&mut self, out: &mut Vec<u8>, body: &[u8]) -> Fallible {
        let chunks = || body.chunks(self.frame_max as usize - wire::OVERHEAD);
        // What goes before each chunk, and after the last, one after the other in `out`.
        let mut ends = Vec::new();
        for chunk in chunks() {
            wire::body_start(out, CHANNEL, chunk.len());
            ends.push(out.len());
            out.push(wire::FRAME_END);
        }
        let mut slices = Vec::new();
        let mut start = 0;
        for (&end, chunk) in ends.iter().zip(chunks()) {
            slices.extend([IoSlice::new(&out[start..end]), IoSlice::new(chunk)]);
            start = end;
        }
        slices.push(IoSlice::new(&out[start..]));
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let n = self.socket.write_vectored(slices)?;
            if n == 0 {
                return Err("the broker takes nothing".into());
            }
            IoSlice::advance_slices(&mut slices, n);
        }
        out.clear();
        Ok(())
    }

    /// Writes all of `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Fallible {
        Ok(self.socket.write_all(bytes)?)
    }

    /// Hands every whole frame that is there to `each`, after one read if there was none.
    #[inline(always)]
    pub(crate) fn read(&mut self, mut each: impl FnMut(Frame<'_>) -> Fallible) -> Fallible {
        let mut any = false;
        while !any {
            while let Some((frame, length)) = wire::first_frame(&self.input[self.start..self.end])?
            {
                any = true;
                self.start += length;
                each(frame)?;
            }
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if !any {
                let n = self.socket.read(&mut self.input[self.end..])?;
                if n == 0 {
                    return Err("the broker closed the connection".into());
                }
                self.end += n;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        channel: u16,
        method: Method,
        fill: impl FnOnce(&mut wire::Writer<'_>),
    ) -> Fallible {
        let mut out = Vec::new();
        wire::method(&mut out, channel, method, fill);
        self.write(&out)
    }

    /// Waits for one method, alone on the line: nothing else may be under way.
    fn expect<T>(
        &mut self,
        channel: u16,
        wanted: Method,
        take: impl Fn(&mut Fields<'_>) -> wire::Read<T>,
    ) -> Fallible<T> {
        let mut reply = None;
        while reply.is_none() {
            self.read(|frame| {
                if frame.kind == wire::HEARTBEAT {
                    return Ok(());
                }
                let mut fields = Fields::new(frame.payload);
                let method = fields.method()?;
                if (frame.channel, method) != (channel, wanted) {
                    let code = fields.short().unwrap_or(0);
                    let text = fields.short_string().unwrap_or("");
                    return Err(
                        format!("awaiting {wanted:?} came {method:?}: {code} {text}").into()
                    );
                }
                reply = Some(take(&mut fields)?);
                Ok(())
            })?;
        }
        reply.ok_or_else(|| "no reply".into())
    }

    /// A request on the channel and its reply, of which nothing is needed.
    pub(crate) fn call(
        &mut self,
        request: Method,
        reply: Method,
        fill: impl FnOnce(&mut wire::Writer<'_>),
    ) -> Fallible {
        self.send(CHANNEL, request, fill)?;
        self.expect(CHANNEL, reply, |_| Ok(()))
    }

    /// Declares a queue (`passive`: only asks about it): its number of messages.
    pub(crate) fn declare(&mut self, queue: &str, passive: bool) -> Fallible<u32> {
        self.send(CHANNEL, id::QUEUE_DECLARE, |w| {
            let durable = if passive { 1 } else { 2 };
            w.short(0).short_string(queue).octet(durable).long(0);
        })?;
        self.expect(CHANNEL, id::QUEUE_DECLARE_OK, |fields| {
            let _ = fields.short_string()?;
            fields.long()
        })
    }

    /// Empties a queue.
    pub(crate) fn purge(&mut self, queue: &str) -> Fallible {
        self.call(id::QUEUE_PURGE, id::QUEUE_PURGE_OK, |w| {
            w.short(0).short_string(queue).octet(0);
        })
    }

    /// Deletes a queue.
    pub(crate) fn delete(&mut self, queue: &str) -> Fallible {
        self.call(id::QUEUE_DELETE, id::QUEUE_DELETE_OK, |w| {
            w.short(0).short_string(queue).octet(0);
        })
    }

    /// Confirms on.
    pub(crate) fn confirm_select(&mut self) -> Fallible {
        self.call(id::CONFIRM_SELECT, id::CONFIRM_SELECT_OK, |w| {
            w.octet(0);
        })
    }

    /// Limits unsettled deliveries.
    pub(crate) fn prefetch(&mut self, count: u16) -> Fallible {
        self.ask_prefetch(count)?;
        self.expect(CHANNEL, id::BASIC_QOS_OK, |_| Ok(()))
    }

    /// The same where deliveries may come in the same read as the reply, which is not awaited.
    pub(crate) fn ask_prefetch(&mut self, count: u16) -> Fallible {
        self.send(CHANNEL, id::BASIC_QOS, |w| {
            w.long(0).short(count).octet(0);
        })
    }

    /// Subscribes. Deliveries may come in the same read as the reply, so it is not awaited
    /// here: [`read`](Self::read) yields it before the first of them.
    pub(crate) fn consume(&mut self, queue: &str, tag: &str, no_ack: bool) -> Fallible {
        self.send(CHANNEL, id::BASIC_CONSUME, |w| {
            let bits = if no_ack { 2 } else { 0 };
            w.short(0).short_string(queue).short_string(tag).octet(bits).long(0);
        })
    }

    /// The reply to [`consume`](Self::consume), where nothing can be delivered yet.
    pub(crate) fn await_consume_ok(&mut self) -> Fallible {
        self.expect(CHANNEL, id::BASIC_CONSUME_OK, |_| Ok(()))
    }

    /// Ends a subscription that has nothing left to deliver.
    pub(crate) fn cancel(&mut self, tag: &str) -> Fallible {
        self.call(id::BASIC_CANCEL, id::BASIC_CANCEL_OK, |w| {
            w.short_string(tag).octet(0);
        })
    }

    /// Publishes `count` messages to `queue`, at most `window` of them unconfirmed, and returns
    /// when the broker has confirmed all. The channel is in confirm mode, and
    /// `sent` counts its publishes so far.
    pub(crate) fn publish_confirmed(
        &mut self,
        queue: &str,
        body: &[u8],
        window: usize,
        sent: &mut u64,
        count: u64,
    ) -> Fallible {
        let window = window as u64;
        let last = *sent + count;
        let mut settled = Settled { tag: *sent, singles: 0 };
        let mut out = std::mem::take(&mut self.out);
        while settled.count() < last {
            // What the broker says is looked at after each batch, or large message.
            let mut batch = 0;
            while *sent < last && *sent - settled.count() < window && batch < BATCH {
                self.publish(&mut out, queue, body)?;
                *sent += 1;
                batch += body.len() + 64;
            }
            if !out.is_empty() {
                self.write(&out)?;
                out.clear();
            }
            if *sent - settled.count() >= window || *sent == last {
                self.read(|frame| settled.note(frame))?;
            }
        }
        self.out = out;
        Ok(())
    }

    /// Waits until `queue` holds (the sink: has swallowed) `count` messages more than `base`,
    /// for half a minute at most. `idle` passes the time between two questions.
    pub(crate) fn await_messages(
        &mut self,
        queue: &str,
        base: u32,
        count: u64,
        mut idle: impl FnMut(Duration),
    ) -> Fallible {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let arrived = self.declare(queue, true)?.wrapping_sub(base);
            if u64::from(arrived) >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{arrived} of {count} messages arrived").into());
            }
            idle(Duration::from_millis(1));
        }
    }
}

/// "RabbitMQ 3.10.8", out of a server's properties, or as much of it as is there. It is for people
/// to read: looking for the two keys does, where a table would have to be taken apart.
fn product(properties: &[u8]) -> String {
    let value = |key: &[u8]| {
        let at = properties.windows(key.len()).position(|window| window == key)?;
        let mut fields = Fields::new(&properties[at + key.len()..]);
        let length = fields.long().ok()?;
        std::str::from_utf8(fields.rest().get(..length as usize)?).ok()
    };
    let words: Vec<_> =
        [&b"\x07productS"[..], b"\x07versionS"].into_iter().filter_map(value).collect();
    words.join(" ")
}

/// Counts confirms. Brokers settle in order but for single nacks and acks in between, so a
/// tag and a number of singles above it say how many are settled; a nack is an error here.
struct Settled {
    tag: u64,
    singles: u64,
}

impl Settled {
    fn count(&self) -> u64 {
        self.tag + self.singles
    }

    #[inline]
    fn note(&mut self, frame: Frame<'_>) -> Fallible {
        if frame.kind == wire::HEARTBEAT {
            return Ok(());
        }
        let mut fields = Fields::new(frame.payload);
        match fields.method()? {
            id::BASIC_ACK => {
                let (tag, multiple) = (fields.longlong()?, fields.octet()? & 1 == 1);
                if multiple || tag == self.tag + 1 {
                    // Singles at or below the tag are in it; those above are rare enough
                    // (and only delay the end of a run) to be counted anew.
                    let covered = tag.saturating_sub(self.tag);
                    self.singles = self.singles.saturating_sub(covered);
                    self.tag = self.tag.max(tag);
                } else {
                    self.singles += 1;
                }
                Ok(())
            }
            method => Err(format!("awaiting confirms came {method:?}").into()),
        }
    }
}
