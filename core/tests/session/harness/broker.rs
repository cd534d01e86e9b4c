//! Playing the broker: what the session wrote, and what the peer says.

use std::collections::VecDeque;

use super::*;

impl Stage {
    // ---- what the session wrote --------------------------------------------------------------

    /// The next frame that the session wrote.
    pub fn next(&mut self, c: usize) -> Wrote {
        self.pump();
        match self.peers[c].frames.pop_front() {
            Some(frame) => frame,
            None => {
                panic!("connection {c}: nothing was written\n{}", self.session.explain(self.now))
            }
        }
    }

    /// Whether the session has written something that the test has not taken.
    pub fn has_frames(&mut self, c: usize) -> bool {
        self.pump();
        !self.peers[c].frames.is_empty()
    }

    /// The session has written nothing that the test has not taken: neither frames nor parts.
    pub fn silent(&mut self) {
        self.pump();
        for (c, peer) in self.peers.iter().enumerate() {
            assert!(peer.frames.is_empty(), "connection {c}: unexpected {:?}", peer.frames);
            assert!(
                !peer.up || peer.partial.is_empty() || self.stalled.contains(&c),
                "connection {c}: half a frame"
            );
        }
    }

    /// The same, but for one connection.
    pub fn silent_but(&mut self, but: usize) {
        self.pump();
        for (c, peer) in self.peers.iter().enumerate().filter(|&(c, _)| c != but) {
            assert!(peer.frames.is_empty(), "connection {c}: unexpected {:?}", peer.frames);
        }
    }

    /// Nothing is left unexpected, and the law holds: the end of a test.
    pub fn finish(mut self) {
        self.silent();
    }

    pub fn expect_method(&mut self, c: usize) -> (u16, AMQPClass) {
        match self.next(c) {
            Wrote::Method(n, class) => (n, class),
            other => panic!("a method is due: {other:?}"),
        }
    }

    /// `channel.open`; the number.
    pub fn expect_channel_open(&mut self, c: usize) -> u16 {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => n,
            other => panic!("channel.open is due: {other:?}"),
        }
    }

    /// `channel.close`; the number and the reply code.
    pub fn expect_channel_close(&mut self, c: usize) -> (u16, u16) {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => (n, close.reply_code),
            other => panic!("channel.close is due: {other:?}"),
        }
    }

    pub fn expect_channel_close_ok(&mut self, c: usize, channel: u16) {
        match self.expect_method(c) {
            (n, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => assert_eq!(n, channel),
            other => panic!("channel.close-ok is due: {other:?}"),
        }
    }

    /// `connection.close`; the reply code.
    pub fn expect_close(&mut self, c: usize) -> u16 {
        match self.expect_method(c) {
            (0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => close.reply_code,
            other => panic!("connection.close is due: {other:?}"),
        }
    }

    pub fn expect_close_ok(&mut self, c: usize) {
        match self.expect_method(c) {
            (0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) => {}
            other => panic!("connection.close-ok is due: {other:?}"),
        }
    }

    pub fn expect_declare(&mut self, c: usize) -> (u16, queue::Declare) {
        match self.expect_method(c) {
            (n, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))) => (n, declare),
            other => panic!("queue.declare is due: {other:?}"),
        }
    }

    /// One whole publish: method, header, body.
    pub fn expect_publish(&mut self, c: usize) -> Copy {
        let Wrote::Publish { channel, exchange, routing_key, mandatory } = self.next(c) else {
            panic!("basic.publish is due");
        };
        let Wrote::Header { size, properties, .. } = self.next(c) else {
            panic!("a content header is due");
        };
        let (mut body, mut chunks) = (Vec::new(), Vec::new());
        while (body.len() as u64) < size {
            match self.next(c) {
                Wrote::Body(n, bytes) if n == channel => {
                    chunks.push(bytes.len());
                    body.extend(bytes);
                }
                other => panic!("a body frame is due: {other:?}"),
            }
        }
        Copy { channel, exchange, routing_key, mandatory, properties, body, chunks }
    }

    /// A publish whose channel was closed before it was whole.
    pub fn expect_publish_begun(&mut self, c: usize) {
        assert!(matches!(self.next(c), Wrote::Publish { .. }));
        while matches!(self.peers[c].frames.front(), Some(Wrote::Header { .. } | Wrote::Body(..))) {
            self.next(c);
        }
    }

    /// One whole publish with methods of other kinds between its frames, as long as they are on
    /// other channels or the peer tolerates them.
    pub fn expect_publish_around(&mut self, c: usize, mut other: impl FnMut(&AMQPClass)) -> Copy {
        self.pump();
        let mut kept = VecDeque::new();
        for frame in self.peers[c].frames.drain(..) {
            match frame {
                Wrote::Method(_, class) => other(&class),
                frame => kept.push_back(frame),
            }
        }
        self.peers[c].frames = kept;
        self.expect_publish(c)
    }

    /// Publishes with these bodies, in this order, and nothing else on this connection.
    pub fn expect_publishes(&mut self, c: usize, bodies: &[&str]) -> Vec<Copy> {
        let copies: Vec<_> = bodies.iter().map(|_| self.expect_publish(c)).collect();
        let seen: Vec<_> = copies.iter().map(Copy::text).collect();
        assert_eq!(seen, bodies);
        copies
    }

    // ---- what the peer says ------------------------------------------------------------------

    /// The peer sends a method.
    pub fn reply(&mut self, c: usize, channel: u16, class: AMQPClass) {
        self.peers[c].note_reply(channel, &class);
        let mut bytes = Vec::new();
        wire::put_method(&mut bytes, channel, &class).unwrap();
        self.feed(c, &bytes);
    }

    pub fn channel_open_ok(&mut self, c: usize, channel: u16) {
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
    }

    pub fn select_ok(&mut self, c: usize, channel: u16) {
        let ok = confirm::SelectOk {};
        self.reply(c, channel, AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(ok)));
    }

    /// The peer closes the channel over `method`.
    pub fn close_channel(
        &mut self,
        c: usize,
        channel: u16,
        code: u16,
        text: &str,
        method: (u16, u16),
    ) {
        let close = channel::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
    }

    pub fn channel_close_ok(&mut self, c: usize, channel: u16) {
        let ok = channel::CloseOk {};
        self.reply(c, channel, AMQPClass::Channel(channel::AMQPMethod::CloseOk(ok)));
    }

    /// The peer closes the connection over `method`.
    pub fn close(&mut self, c: usize, code: u16, text: &str, method: (u16, u16)) {
        let close = connection::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: method.0,
            method_id: method.1,
        };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
    }

    pub fn close_ok(&mut self, c: usize) {
        let ok = connection::CloseOk {};
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(ok)));
    }

    pub fn blocked(&mut self, c: usize, reason: &str) {
        let blocked = connection::Blocked { reason: reason.into() };
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
    }

    pub fn unblocked(&mut self, c: usize) {
        let unblocked = connection::Unblocked {};
        self.reply(c, 0, AMQPClass::Connection(connection::AMQPMethod::Unblocked(unblocked)));
    }

    pub fn declare_ok(&mut self, c: usize, channel: u16, name: &str) {
        let ok = queue::DeclareOk { queue: name.into(), message_count: 0, consumer_count: 0 };
        self.reply(c, channel, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)));
    }

    pub fn ack(&mut self, c: usize, channel: u16, tag: u64, multiple: bool) {
        let mut bytes = Vec::new();
        wire::put_ack(&mut bytes, channel, tag, multiple);
        self.feed(c, &bytes);
    }

    pub fn nack(&mut self, c: usize, channel: u16, tag: u64, multiple: bool) {
        let mut bytes = Vec::new();
        wire::put_nack(&mut bytes, channel, tag, multiple, false);
        self.feed(c, &bytes);
    }

    /// The peer returns a message that no queue wants.
    pub fn give_back(&mut self, c: usize, copy: &Copy) {
        let bytes = returned(copy, 312, "NO_ROUTE");
        self.feed(c, &bytes);
    }
}

/// `queue.declare` of a durable queue.
pub fn declare(name: &str) -> queue::Declare {
    queue::Declare { queue: name.into(), durable: true, ..queue::Declare::default() }
}

/// The frames of `basic.return` for this copy.
pub fn returned(copy: &Copy, code: u16, text: &str) -> Vec<u8> {
    let method = basic::Return {
        reply_code: code,
        reply_text: text.into(),
        exchange: copy.exchange.as_str().into(),
        routing_key: copy.routing_key.as_str().into(),
    };
    let mut bytes = Vec::new();
    let class = AMQPClass::Basic(basic::AMQPMethod::Return(method));
    wire::put_method(&mut bytes, copy.channel, &class).unwrap();
    wire::put_content_header(&mut bytes, copy.channel, copy.body.len() as u64, &copy.properties);
    wire::put_body(&mut bytes, copy.channel, &copy.body, 131_072);
    bytes
}
