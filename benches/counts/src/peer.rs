//! A broker with just enough to it: it takes publishes and confirms them, and has endless queues.
//!
//! It is strict where the client could save work by doing it wrongly: frames, announced sizes, tags.

use crate::network::Pipe;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;

/// Type, channel, size, and the end octet.
const OVERHEAD: usize = 8;

const FRAME_MAX: usize = 131_072;

/// No more deliveries are written while this much waits for the client, in bytes: what a read takes.
const BATCH: usize = 64 * 1024;

/// One connection, from the broker's side.
#[derive(Debug, Default)]
pub struct Peer {
    greeted: bool,
    channels: Vec<Channel>,
    seen: Seen,
}

/// What a peer has seen, all its channels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages published, whole.
    pub published: u64,
    /// Bytes of their bodies.
    pub published_bytes: u64,
    /// Deliveries that were acked.
    pub acked: u64,
}

#[derive(Debug, Default)]
struct Channel {
    /// Of a message that is on its way: `None` between messages.
    content: Option<Content>,
    confirms: bool,
    published: u64,
    confirmed: u64,
    prefetch: u64,
    delivered: u64,
    acked: u64,
    consumer: Option<Consumer>,
}

#[derive(Debug)]
enum Content {
    Header,
    /// Bytes of the body that are still to come.
    Body(u64),
}

#[derive(Debug)]
struct Consumer {
    no_ack: bool,
    /// A delivery, encoded; its tag is patched in.
    encoded: Vec<u8>,
    tag_at: usize,
}

impl Peer {
    /// What it has seen so far.
    #[must_use]
    pub const fn seen(&self) -> Seen {
        self.seen
    }

    /// Takes what came, answers it, and delivers what may be delivered.
    pub fn turn(&mut self, input: &mut Pipe, output: &mut Pipe) {
        if !self.greeted {
            let Some(header) = input.bytes().first_chunk::<8>() else { return };
            assert_eq!(header, b"AMQP\0\0\x09\x01", "not a protocol header");
            self.greeted = true;
            input.consume(8);
            method(output, 0, 10, 10, |out| {
                out.push(&[0, 9]);
                out.push(&0_u32.to_be_bytes());
                long_string(out, b"PLAIN");
                long_string(out, b"en_US");
            });
        }
        let mut taken = 0;
        let bytes = input.bytes();
        while let Some((kind, channel, payload)) = first_frame(&bytes[taken..]) {
            taken += payload.len() + OVERHEAD;
            self.frame(kind, channel, payload, output);
        }
        input.consume(taken);
        for (number, channel) in (0..).zip(&mut self.channels) {
            if channel.confirms && channel.confirmed < channel.published {
                channel.confirmed = channel.published;
                method(output, number, 60, 80, |out| {
                    out.push(&channel.published.to_be_bytes());
                    out.push(&[1]);
                });
            }
            channel.deliver(output);
        }
    }

    fn frame(&mut self, kind: u8, number: u16, payload: &[u8], output: &mut Pipe) {
        match kind {
            METHOD => self.method(number, payload, output),
            HEADER => {
                let size = payload[4..12].try_into().map(u64::from_be_bytes).unwrap();
                let channel = self.channel(number);
                assert!(matches!(channel.content, Some(Content::Header)), "header out of place");
                channel.content = Some(Content::Body(size));
                self.seen.published_bytes += size;
                self.complete(number);
            }
            BODY => {
                let channel = self.channel(number);
                let Some(Content::Body(left)) = &mut channel.content else {
                    panic!("body out of place")
                };
                *left = left.checked_sub(payload.len() as u64).expect("more body than announced");
                self.complete(number);
            }
            HEARTBEAT => {}
            _ => panic!("a frame of type {kind}"),
        }
    }

    fn channel(&mut self, number: u16) -> &mut Channel {
        self.channels.get_mut(usize::from(number)).expect("an open channel")
    }

    fn complete(&mut self, number: u16) {
        let channel = self.channel(number);
        if matches!(channel.content, Some(Content::Body(0))) {
            channel.content = None;
            channel.published += 1;
            self.seen.published += 1;
        }
    }

    fn method(&mut self, number: u16, payload: &[u8], output: &mut Pipe) {
        let (id, arguments) = payload.split_at(4);
        let id = (u16::from_be_bytes([id[0], id[1]]), u16::from_be_bytes([id[2], id[3]]));
        let ok = |output: &mut Pipe| method(output, number, id.0, id.1 + 1, |_| {});
        match id {
            // basic.publish
            (60, 40) => {
                let content = &mut self.channel(number).content;
                assert!(content.is_none(), "a publish inside another");
                *content = Some(Content::Header);
            }
            // basic.ack
            (60, 80) => {
                let tag = arguments[..8].try_into().map(u64::from_be_bytes).unwrap();
                let newly = self.channel(number).ack(tag, arguments[8] & 1 == 1);
                self.seen.acked += newly;
            }
            // connection.start-ok, answered with tune
            (10, 11) => method(output, 0, 10, 30, |out| {
                out.push(&2047_u16.to_be_bytes());
                out.push(&(FRAME_MAX as u32).to_be_bytes());
                out.push(&60_u16.to_be_bytes());
            }),
            // connection.tune-ok
            (10, 31) => {}
            // connection.open
            (10, 40) => method(output, 0, 10, 41, |out| out.push(&[0])),
            // channel.open
            (20, 10) => {
                let needed = usize::from(number) + 1;
                if self.channels.len() < needed {
                    self.channels.resize_with(needed, Channel::default);
                }
                method(output, number, 20, 11, |out| out.push(&0_u32.to_be_bytes()));
            }
            // confirm.select
            (85, 10) => {
                self.channel(number).confirms = true;
                ok(output);
            }
            // basic.qos
            (60, 10) => {
                self.channel(number).prefetch =
                    u16::from_be_bytes([arguments[4], arguments[5]]).into();
                ok(output);
            }
            // basic.consume
            (60, 20) => self.consume(number, arguments, output),
            _ => panic!("method {id:?}"),
        }
    }

    /// A queue is named for the size of its messages.
    fn consume(&mut self, number: u16, arguments: &[u8], output: &mut Pipe) {
        let (queue, rest) = short_string(&arguments[2..]);
        let (tag, rest) = short_string(rest);
        let size: usize = std::str::from_utf8(queue).unwrap().parse().expect("a number as a name");
        method(output, number, 60, 21, |out| {
            out.push(&arguments[2 + 1 + queue.len()..][..1 + tag.len()])
        });
        let mut encoded = Pipe::default();
        let mut tag_at = 0;
        method(&mut encoded, number, 60, 60, |out| {
            out.push(&[tag.len() as u8]);
            out.push(tag);
            tag_at = out.bytes().len();
            out.push(&[0; 8 + 1 + 1]);
            out.push(&[queue.len() as u8]);
            out.push(queue);
        });
        frame(&mut encoded, HEADER, number, |out| {
            out.push(&[0, 60, 0, 0]);
            out.push(&(size as u64).to_be_bytes());
            out.push(&[0, 0]);
        });
        for chunk in vec![b'x'; size].chunks(FRAME_MAX - OVERHEAD) {
            frame(&mut encoded, BODY, number, |out| out.push(chunk));
        }
        let no_ack = rest[0] & 2 == 2;
        let encoded = encoded.bytes().to_vec();
        self.channel(number).consumer = Some(Consumer { no_ack, encoded, tag_at });
    }
}

impl Channel {
    fn deliver(&mut self, output: &mut Pipe) {
        let Some(Consumer { no_ack, encoded, tag_at }) = &self.consumer else { return };
        while output.bytes().len() < BATCH
            && (*no_ack || self.prefetch == 0 || self.delivered - self.acked < self.prefetch)
        {
            self.delivered += 1;
            let (before, after) = encoded.split_at(*tag_at);
            output.push(before);
            output.push(&self.delivered.to_be_bytes());
            output.push(&after[8..]);
        }
    }

    /// Returns how many deliveries this settles. Applications here settle in order.
    fn ack(&mut self, tag: u64, multiple: bool) -> u64 {
        assert!(self.acked < tag && tag <= self.delivered, "ack of {tag}: settled, or never sent");
        assert!(multiple || tag == self.acked + 1, "ack of {tag} alone, out of order");
        let newly = tag - self.acked;
        self.acked = tag;
        newly
    }
}

/// The first frame of `bytes`, if it is whole: type, channel and payload.
fn first_frame(bytes: &[u8]) -> Option<(u8, u16, &[u8])> {
    let ([kind, c1, c0, size @ ..], rest) = bytes.split_first_chunk::<7>()?;
    let size = u32::from_be_bytes(*size) as usize;
    assert!(size + OVERHEAD <= FRAME_MAX, "a frame over the limit");
    let end = *rest.get(size)?;
    assert_eq!(end, FRAME_END, "no end octet");
    Some((*kind, u16::from_be_bytes([*c1, *c0]), &rest[..size]))
}

fn short_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[1..].split_at(bytes[0].into())
}

fn long_string(out: &mut Pipe, text: &[u8]) {
    out.push(&(text.len() as u32).to_be_bytes());
    out.push(text);
}

fn method(out: &mut Pipe, channel: u16, class: u16, method: u16, fill: impl FnOnce(&mut Pipe)) {
    frame(out, METHOD, channel, |out| {
        out.push(&class.to_be_bytes());
        out.push(&method.to_be_bytes());
        fill(out);
    });
}

fn frame(out: &mut Pipe, kind: u8, channel: u16, fill: impl FnOnce(&mut Pipe)) {
    out.push(&[kind]);
    out.push(&channel.to_be_bytes());
    let size_at = out.bytes().len();
    out.push(&[0; 4]);
    fill(out);
    let size = (out.bytes().len() - size_at - 4) as u32;
    out.patch(size_at, &size.to_be_bytes());
    out.push(&[FRAME_END]);
}
