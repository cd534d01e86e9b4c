//! Memory pipes between the client and the broker, with everything that a network does to bytes:
//! chunks, latency, bounded buffers, end of stream, reset, silence, a cut after byte N.
//!
//! A [`Link`] is one connection: a pipe up (from client to broker) and a pipe down. The client's end
//! ([`SimIo`]) is a futures-io stream; the broker's end ([`ServerEnd`]) has poll functions of the same
//! shape. Writes are partial, reads are partial, and both return `Pending` without need now and
//! then (and wake later), all drawn from the link's own stream.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::io::{AsyncRead, AsyncWrite};
use lavinmq_core::{runtime::Timer as _, time::Time};

use super::{
    executor::{Handle, SimTimer},
    random::Random,
};

/// How a link ends, as its reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// End of stream, after everything that was written before.
    Eof,
    /// A reset: what was not read yet may be lost.
    Reset,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the broker.
    Up,
    /// From the broker to the client.
    Down,
}

/// How a network treats bytes, drawn per world.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// The most bytes that one read or write moves.
    pub chunk: usize,
    /// Bytes that a pipe holds.
    pub capacity: usize,
    /// The longest time that a byte takes.
    pub latency: Duration,
    /// Out of 64 reads and writes, this many return `Pending` without need.
    pub spurious: u64,
    /// The client's end buffers what it takes until it is flushed (as TLS does).
    pub buffers: bool,
}

impl Conditions {
    /// A good network.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            chunk: 1 << 16,
            capacity: 1 << 18,
            latency: Duration::from_micros(200),
            spurious: 0,
            buffers: false,
        }
    }
}

/// A cut that waits for its byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In which direction bytes are counted.
    pub way: Way,
    /// How many more bytes get through.
    pub after: u64,
    /// What the readers see then.
    pub ending: Ending,
    /// Whether the writer may write on for a while (the kernel takes it, nobody gets it).
    pub takes_more: bool,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Link(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    number: u64,
    handle: Handle,
    random: Random,
    conditions: Conditions,
    up: Pipe,
    down: Pipe,
    cut: Option<Cut>,
    /// No byte arrives any more, and nobody is told.
    silent: bool,
    /// It is over: since when writers are told.
    over: Option<(Time, Ending)>,
}

#[derive(Debug, Default)]
struct Pipe {
    /// Bytes under way, each with its time of arrival (never decreasing).
    chunks: VecDeque<(Time, Vec<u8>)>,
    held: usize,
    written: u64,
    read: u64,
    /// What the reader sees after the bytes, and from when on.
    end: Option<(Time, Ending)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Link {
    /// A fresh connection: the client's end, the broker's end, and the link itself for faults.
    #[must_use]
    pub fn new(
        number: u64,
        conditions: Conditions,
        handle: &Handle,
        random: Random,
    ) -> (Self, SimIo, ServerEnd) {
        let buffers = conditions.buffers;
        let state = State {
            number,
            handle: handle.clone(),
            random,
            conditions,
            up: Pipe::default(),
            down: Pipe::default(),
            cut: None,
            silent: false,
            over: None,
        };
        let link = Self(Arc::new(Mutex::new(state)));
        let io = SimIo {
            link: link.clone(),
            read_timer: handle.timer(),
            write_timer: handle.timer(),
            pending: Vec::new(),
            buffers,
        };
        let server = ServerEnd {
            link: link.clone(),
            read_timer: handle.timer(),
            write_timer: handle.timer(),
        };
        (link, io, server)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link's number, counted from 0 in its world.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.lock().number
    }

    /// Ends it now, both ways.
    pub fn end(&self, ending: Ending) {
        self.lock().finish(ending, true);
    }

    /// Ends it when so many more bytes were written one way.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.lock();
        if state.over.is_none() && !state.silent {
            let written = state.pipe(cut.way).written;
            state.cut = Some(Cut { after: written + cut.after, ..cut });
        }
    }

    /// From now on nothing arrives, either way, and nobody is told.
    pub fn silence(&self) {
        let mut state = self.lock();
        if state.over.is_none() {
            state.silent = true;
            state.cut = None;
        }
    }

    /// Whether it is over or silent.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let state = self.lock();
        state.over.is_some() || state.silent
    }

    /// Whether it fell silent, so that the broker may never learn that it is over.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.lock().silent
    }

    /// Removes a pending cut, and lets bytes flow as in a good network.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.cut = None;
        state.conditions = Conditions { buffers: state.conditions.buffers, ..Conditions::calm() };
        state.wake_all();
    }
}

impl State {
    const fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    fn delay(&mut self) -> Duration {
        let nanos = u64::try_from(self.conditions.latency.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.range(nanos / 4, nanos))
    }

    fn wake_all(&mut self) {
        for pipe in [&mut self.up, &mut self.down] {
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }

    /// Ends both directions; a reset loses a drawn part of what is under way.
    /// Writers may write on for a while, into nothing, if `takes_more`.
    fn finish(&mut self, ending: Ending, takes_more: bool) {
        if self.over.is_some() || self.silent {
            return;
        }
        self.cut = None;
        let now = self.handle.now();
        let told = now + self.delay();
        self.over = Some((if takes_more { told } else { now }, ending));
        let number = self.number;
        self.handle.event(format_args!("link {number} ends: {ending:?}"));
        for way in [Way::Up, Way::Down] {
            let keep = ending == Ending::Eof || self.random.chance(1, 2);
            let pipe = self.pipe(way);
            if !keep {
                pipe.held = 0;
                pipe.chunks.clear();
            }
            let at = pipe.chunks.back().map_or(told, |(at, _)| (*at).max(told));
            pipe.end.get_or_insert((at, ending));
        }
        self.wake_all();
    }

    fn poll_write(
        &mut self,
        way: Way,
        timer: &mut SimTimer,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let now = self.handle.now();
        if let Some((told, _)) = self.over {
            if now >= told {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            // The other end is gone, and the kernel does not know yet: it takes what comes.
            return Poll::Ready(Ok(bytes.len()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.random.chance(self.conditions.spurious, 64) {
            let later = now + Duration::from_micros(self.random.range(1, 900));
            return match Pin::new(timer).poll_until(cx, later) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            };
        }
        let capacity = self.conditions.capacity;
        let most = self.random.range(1, self.conditions.chunk as u64) as usize;
        let arrives = now + self.delay();
        let pipe = self.pipe(way);
        let room = capacity.saturating_sub(pipe.held);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut n = bytes.len().min(room).min(most);
        let mut through = n;
        let mut ends = None;
        let written = pipe.written;
        if let Some(cut) = self.cut.filter(|cut| cut.way == way) {
            let left = (cut.after.saturating_sub(written)) as usize;
            if n >= left {
                ends = Some((cut.ending, cut.takes_more));
                through = left;
                n = if cut.takes_more { n } else { left };
            }
        }
        let pipe = self.pipe(way);
        if through > 0 {
            let at = pipe.chunks.back().map_or(arrives, |(last, _)| (*last).max(arrives));
            pipe.chunks.push_back((at, bytes[..through].to_vec()));
            pipe.held += through;
            pipe.written += through as u64;
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
            let number = self.number;
            match way {
                Way::Up => self.handle.bytes(format_args!("up {number}:"), &bytes[..through]),
                Way::Down => self.handle.bytes(format_args!("down {number}:"), &bytes[..through]),
            }
        }
        if let Some((ending, takes_more)) = ends {
            self.handle.count(match (way, ending) {
                (Way::Up, Ending::Eof) => "cut-up-eof",
                (Way::Up, Ending::Reset) => "cut-up-reset",
                (Way::Down, Ending::Eof) => "cut-down-eof",
                (Way::Down, Ending::Reset) => "cut-down-reset",
            });
            self.finish(ending, takes_more);
            if n == 0 {
                return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(Ok(n))
    }

    fn poll_read(
        &mut self,
        way: Way,
        timer: &mut SimTimer,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let now = self.handle.now();
        if !self.silent && self.random.chance(self.conditions.spurious, 64) {
            let later = now + Duration::from_micros(self.random.range(1, 900));
            if Pin::new(&mut *timer).poll_until(cx, later).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let most = self.random.range(1, self.conditions.chunk as u64) as usize;
        let silent = self.silent;
        let pipe = self.pipe(way);
        if silent {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let waits_until = match (pipe.chunks.front_mut(), pipe.end) {
            (Some((at, chunk)), _) if *at <= now => {
                let n = chunk.len().min(into.len()).min(most);
                into[..n].copy_from_slice(&chunk[..n]);
                if n == chunk.len() {
                    pipe.chunks.pop_front();
                } else {
                    chunk.drain(..n);
                }
                pipe.held -= n;
                pipe.read += n as u64;
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(n));
            }
            (Some((at, _)), _) => Some(*at),
            (None, Some((at, ending))) if at <= now => {
                return Poll::Ready(match ending {
                    Ending::Eof => Ok(0),
                    Ending::Reset => Err(ErrorKind::ConnectionReset.into()),
                });
            }
            (None, Some((at, _))) => Some(at),
            (None, None) => None,
        };
        pipe.reader = Some(cx.waker().clone());
        if let Some(at) = waits_until
            && Pin::new(timer).poll_until(cx, at).is_ready()
        {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// One end is dropped or shut down: the other sees the end after what was written.
    fn shut(&mut self, way: Way, ending: Ending) {
        if self.over.is_some() || self.silent {
            return;
        }
        let now = self.handle.now();
        let told = now + self.delay();
        let pipe = self.pipe(way);
        let at = pipe.chunks.back().map_or(told, |(at, _)| (*at).max(told));
        pipe.end.get_or_insert((at, ending));
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }
}

/// The client's end.
#[derive(Debug)]
pub struct SimIo {
    link: Link,
    read_timer: SimTimer,
    write_timer: SimTimer,
    /// Taken and not passed on yet, if this end buffers.
    pending: Vec<u8>,
    buffers: bool,
}

impl SimIo {
    /// Whether a byte taken is a byte written.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !self.buffers
    }

    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let mut state = self.link.lock();
            let n = match state.poll_write(Way::Up, &mut self.write_timer, cx, &self.pending) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            drop(state);
            self.pending.drain(..n);
        }
        Poll::Ready(Ok(()))
    }
}

/// What a buffering end holds at most.
const BUFFERED: usize = 4096;

impl AsyncRead for SimIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { link, read_timer, .. } = &mut *self;
        link.lock().poll_read(Way::Down, read_timer, cx, into)
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.buffers {
            return this.link.lock().poll_write(Way::Up, &mut this.write_timer, cx, bytes);
        }
        if this.pending.len() >= BUFFERED {
            match this.poll_pass_on(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let n = bytes.len().min(BUFFERED - this.pending.len());
        this.pending.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One write for all of them, which can end inside any of them.
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pass_on(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_pass_on(cx) {
            Poll::Ready(Ok(())) => {
                self.link.lock().shut(Way::Up, Ending::Eof);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        state.shut(Way::Up, Ending::Eof);
        if state.over.is_none() && !state.silent {
            // Nobody reads: what still comes down goes nowhere.
            let told = state.handle.now() + state.delay();
            state.over = Some((told, Ending::Eof));
        }
        state.down.reader = None;
        state.up.writer = None;
        if let Some(writer) = state.down.writer.take() {
            writer.wake();
        }
    }
}

/// The broker's end.
#[derive(Debug)]
pub struct ServerEnd {
    link: Link,
    read_timer: SimTimer,
    write_timer: SimTimer,
}

impl ServerEnd {
    /// Reads what arrived.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.link.lock().poll_read(Way::Up, &mut self.read_timer, cx, into)
    }

    /// Writes as much as the pipe takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.lock().poll_write(Way::Down, &mut self.write_timer, cx, bytes)
    }

    /// Ends the connection: the client reads what was written, and then this.
    pub fn shut(self, ending: Ending) {
        let mut state = self.link.lock();
        match ending {
            Ending::Eof => {
                state.shut(Way::Down, Ending::Eof);
                if state.over.is_none() && !state.silent {
                    let told = state.handle.now() + state.delay();
                    state.over = Some((told, Ending::Eof));
                    state.wake_all();
                }
            }
            Ending::Reset => state.finish(Ending::Reset, true),
        }
    }

    /// The link.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::poll_fn;

    use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::sim::{
        executor::{Executor, Step},
        trace::Trace,
    };

    struct Outcome {
        got: Vec<u8>,
        end: Result<usize, ErrorKind>,
        written: u64,
        hash: u64,
    }

    /// Writes 10,000 bytes up, reads them at the broker's end.
    fn transfer(seed: u64, conditions: Conditions, prepare: impl FnOnce(&Link)) -> Outcome {
        let mut executor = Executor::new(Random::new(seed), Trace::default());
        let handle = executor.handle().clone();
        let (link, mut io, mut server) = Link::new(0, conditions, &handle, Random::new(seed));
        prepare(&link);
        let written = Arc::new(Mutex::new(0));
        let count = written.clone();
        handle.spawn("client", async move {
            let bytes: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match io.write(rest).await {
                    Ok(n) => {
                        rest = &rest[n..];
                        *count.lock().unwrap() += n as u64;
                    }
                    Err(_) => return,
                }
            }
            let _ = io.flush().await;
            let _ = io.close().await;
            let mut end = [0; 8];
            let _ = io.read(&mut end).await;
        });
        let result = Arc::new(Mutex::new((Vec::new(), Ok(usize::MAX))));
        let inner = result.clone();
        handle.spawn("server", async move {
            let mut buffer = [0; 700];
            loop {
                match poll_fn(|cx| server.poll_read(cx, &mut buffer)).await {
                    Ok(0) => break inner.lock().unwrap().1 = Ok(0),
                    Ok(n) => inner.lock().unwrap().0.extend_from_slice(&buffer[..n]),
                    Err(error) => break inner.lock().unwrap().1 = Err(error.kind()),
                }
            }
            server.shut(Ending::Eof);
        });
        while executor.step() != Step::Quiet {}
        let (got, end) = result.lock().unwrap().clone();
        let written = *written.lock().unwrap();
        Outcome { got, end, written, hash: handle.hash() }
    }

    fn rough(seed: u64) -> Conditions {
        Conditions {
            chunk: 1 + seed as usize % 64,
            capacity: 1 + seed as usize % 300,
            latency: Duration::from_millis(3),
            spurious: 8,
            buffers: seed % 2 == 1,
        }
    }

    #[test]
    fn every_byte_arrives_in_order() {
        let expected: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        for seed in 0..20 {
            let outcome = transfer(seed, rough(seed), |_| ());
            assert_eq!(outcome.got, expected);
            assert_eq!(outcome.end, Ok(0));
        }
    }

    #[test]
    fn a_cut_lets_exactly_n_bytes_through() {
        for seed in 0..20 {
            for takes_more in [false, true] {
                let outcome = transfer(seed, rough(seed), |link| {
                    link.cut(Cut { way: Way::Up, after: 777, ending: Ending::Eof, takes_more });
                });
                assert_eq!(outcome.got.len(), 777);
                assert_eq!(outcome.end, Ok(0));
                if !takes_more && seed % 2 == 0 {
                    assert_eq!(outcome.written, 777);
                }
            }
        }
    }

    #[test]
    fn a_reset_is_an_error_and_may_lose_bytes() {
        let outcomes: Vec<_> = (0..20)
            .map(|seed| {
                transfer(seed, rough(seed), |link| {
                    link.cut(Cut {
                        way: Way::Up,
                        after: 5000,
                        ending: Ending::Reset,
                        takes_more: false,
                    });
                })
            })
            .collect();
        assert!(outcomes.iter().all(|o| o.end == Err(ErrorKind::ConnectionReset)));
        assert!(outcomes.iter().any(|o| o.got.len() == 5000));
        assert!(outcomes.iter().any(|o| o.got.len() < 5000));
    }

    #[test]
    fn silence_is_never_signalled() {
        let outcome = transfer(2, rough(2), Link::silence);
        assert_eq!((outcome.got.len(), outcome.end), (0, Ok(usize::MAX)));
    }

    #[test]
    fn the_same_seed_gives_the_same_hash() {
        assert_eq!(transfer(5, rough(5), |_| ()).hash, transfer(5, rough(5), |_| ()).hash);
        assert_ne!(transfer(5, rough(5), |_| ()).hash, transfer(6, rough(5), |_| ()).hash);
    }
}
