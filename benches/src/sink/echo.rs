//! Queues whose messages come back: what is published to a queue named `lavinmq-benches-echo…`
//! goes at once to each consumer of that queue, on whatever connection it is.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::modes::ECHO;
use crate::wire::{self, id};

/// The socket of a connection, on which other connections' threads write as well.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) socket: TcpStream,
    /// Held while a frame is half written.
    turn: Mutex<()>,
}

impl Line {
    pub(crate) fn new(socket: TcpStream) -> Arc<Self> {
        Arc::new(Self { socket, turn: Mutex::new(()) })
    }

    /// To be taken before the first byte of a frame, and kept until the last one is written.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        // It guards no value that a panic could have left half changed.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer of an echo queue.
#[derive(Debug)]
struct Ear {
    line: Arc<Line>,
    channel: u16,
    tag: String,
    queue: String,
    frame_max: u32,
    /// The last delivery tag.
    delivered: AtomicU64,
}

impl Ear {
    fn is(&self, line: &Arc<Line>, channel: u16, tag: &str) -> bool {
        self.channel == channel && self.tag == tag && Arc::ptr_eq(&self.line, line)
    }
}

/// The consumers of all echo queues.
#[derive(Debug, Default)]
pub(super) struct Echoes(Mutex<Vec<Arc<Ear>>>);

/// A message on its way in.
#[derive(Debug)]
pub(super) struct Echo {
    queue: String,
    pub(super) body: Vec<u8>,
}

impl Echo {
    /// Of a `basic.publish` that goes to an echo queue. This looks at every publish, so it does
    /// not take the method apart for those that don't.
    #[inline]
    pub(super) fn of(publish: &[u8]) -> Option<Box<Self>> {
        // Class, method, ticket, an empty exchange, the length of the routing key.
        let key = publish.get(8..)?;
        if publish[6] != 0 || !key.starts_with(ECHO.as_bytes()) {
            return None;
        }
        let queue = std::str::from_utf8(key.get(..publish[7].into())?).ok()?;
        Some(Box::new(Self { queue: queue.to_owned(), body: Vec::new() }))
    }
}

impl Echoes {
    pub(super) fn listen(
        &self,
        line: &Arc<Line>,
        channel: u16,
        tag: &str,
        queue: &str,
        frame_max: u32,
    ) {
        self.all().push(Arc::new(Ear {
            line: Arc::clone(line),
            channel,
            tag: tag.to_owned(),
            queue: queue.to_owned(),
            frame_max,
            delivered: AtomicU64::new(0),
        }));
    }

    /// A cancelled consumer.
    pub(super) fn forget(&self, line: &Arc<Line>, channel: u16, tag: &str) {
        self.all().retain(|ear| !ear.is(line, channel, tag));
    }

    /// The consumers of a connection that has ended, or of its channel that was closed.
    pub(super) fn forget_all(&self, line: &Arc<Line>, channel: Option<u16>) {
        self.all().retain(|ear| {
            !Arc::ptr_eq(&ear.line, line) || channel.is_some_and(|channel| channel != ear.channel)
        });
    }

    /// Delivers `echo`: into `out` where the consumer is on the publisher's own `line`, else by
    /// writing to the other connection. Returns how many consumers got it: one that has just gone
    /// away is no fault.
    pub(super) fn deliver(&self, echo: &Echo, line: &Arc<Line>, out: &mut Vec<u8>) -> u64 {
        let ears: Vec<_> =
            self.all().iter().filter(|ear| ear.queue == echo.queue).map(Arc::clone).collect();
        let mut delivered = 0;
        for ear in &ears {
            let tag = ear.delivered.fetch_add(1, Ordering::Relaxed) + 1;
            let encode = |out: &mut Vec<u8>| {
                wire::method(out, ear.channel, id::BASIC_DELIVER, |w| {
                    w.short_string(&ear.tag).longlong(tag).octet(0);
                    w.short_string("").short_string(&ear.queue);
                });
                wire::header(out, ear.channel, echo.body.len(), false);
                wire::body(out, ear.channel, &echo.body, ear.frame_max);
            };
            if Arc::ptr_eq(&ear.line, line) {
                encode(out);
                delivered += 1;
            } else {
                let mut delivery = Vec::with_capacity(echo.body.len() + 256);
                encode(&mut delivery);
                let _turn = ear.line.turn();
                delivered += u64::from((&ear.line.socket).write_all(&delivery).is_ok());
            }
        }
        delivered
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Ear>>> {
        // Only whole elements are ever added or removed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::Fallible;
    use crate::raw::{Raw, Target};
    use crate::sink::{Manner, Totals, accept};
    use crate::wire::{BODY, HEADER, METHOD};

    fn sink() -> Fallible<(Target, Arc<Totals>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let target = format!("amqp://{}", listener.local_addr()?).parse()?;
        let totals = Arc::new(Totals::default());
        let shared = Arc::clone(&totals);
        std::thread::spawn(move || accept(&listener, &shared, Manner::default()));
        Ok((target, totals))
    }

    fn publish(raw: &mut Raw, queue: &str, body: &[u8]) -> Fallible {
        let mut out = Vec::new();
        raw.publish(&mut out, queue, body)?;
        raw.write(&out)
    }

    /// The next delivery: its tag and its body.
    fn delivery(raw: &mut Raw) -> Fallible<(u64, Vec<u8>)> {
        let (mut tag, mut announced, mut body) = (0, None, Vec::new());
        while announced.is_none_or(|size| body.len() < size) {
            raw.read(|frame| {
                let mut fields = wire::Fields::new(frame.payload);
                match frame.kind {
                    METHOD => {
                        assert_eq!(fields.method()?, id::BASIC_DELIVER);
                        fields.skip_short_string()?;
                        tag = fields.longlong()?;
                    }
                    HEADER => {
                        let _ = fields.long()?;
                        announced = Some(fields.longlong()? as usize);
                    }
                    BODY => body.extend_from_slice(frame.payload),
                    kind => return Err(format!("a frame of type {kind}").into()),
                }
                Ok(())
            })?;
        }
        Ok((tag, body))
    }

    #[test]
    fn what_is_published_to_an_echo_queue_comes_to_its_consumer_on_this_connection_or_another()
    -> Fallible {
        let (target, totals) = sink()?;
        let mut here = Raw::open(&target)?;
        let mut there = Raw::open(&target)?;
        let mine = format!("{ECHO}-mine");
        let yours = format!("{ECHO}-yours");
        here.consume(&mine, "mine", true)?;
        here.await_consume_ok()?;
        there.consume(&yours, "yours", true)?;
        there.await_consume_ok()?;
        for n in 1..=3_u8 {
            // The second fits in no frame.
            let body = vec![n; if n == 2 { 300_000 } else { 10 }];
            publish(&mut here, &mine, &body)?;
            assert_eq!(delivery(&mut here)?, (n.into(), body.clone()));
            publish(&mut here, &yours, &body)?;
            assert_eq!(delivery(&mut there)?, (n.into(), body));
        }
        publish(&mut here, "an ordinary queue", b"is not echoed")?;
        here.cancel("mine")?;
        publish(&mut here, &mine, b"nobody listens")?;
        // Its reply is the next thing that comes.
        here.declare(&mine, true)?;
        assert_eq!(totals.snapshot(), [8, 6, 0, 0]);
        Ok(())
    }
}
