//! What happens to bytes on their way.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use lavinmq_core::{runtime::Timer as _, time::Time};

use super::{Conditions, Cut, Ending, Way};
use crate::sim::{
    executor::{Handle, SimTimer},
    random::Random,
};

/// One connection: both pipes, and how it ends.
#[derive(Debug)]
pub(super) struct State {
    pub(super) number: u64,
    pub(super) handle: Handle,
    random: Random,
    pub(super) conditions: Conditions,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    pub(super) cut: Option<Cut>,
    /// No byte arrives any more, and nobody is told.
    pub(super) silent: bool,
    /// It is over: since when writers are told.
    pub(super) over: Option<(Time, Ending)>,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Bytes under way.
    bytes: VecDeque<u8>,
    /// How many of them come at which time (never decreasing), as they were written.
    arrivals: VecDeque<(Time, usize)>,
    pub(super) written: u64,
    /// What the reader sees after the bytes, and from when on.
    end: Option<(Time, Ending)>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    /// When a byte or an end that is written now arrives: never before what was written earlier.
    fn arrives(&self, at: Time) -> Time {
        self.arrivals.back().map_or(at, |(last, _)| (*last).max(at))
    }

    fn write(&mut self, at: Time, bytes: &[u8]) {
        self.arrivals.push_back((self.arrives(at), bytes.len()));
        self.bytes.extend(bytes);
        self.written += bytes.len() as u64;
    }

    /// Takes the next bytes; no more than were written at once.
    fn read(&mut self, into: &mut [u8], most: usize) -> usize {
        let Some((_, left)) = self.arrivals.front_mut() else { return 0 };
        let n = (*left).min(into.len()).min(most);
        *left -= n;
        if *left == 0 {
            self.arrivals.pop_front();
        }
        let (front, back) = self.bytes.as_slices();
        let whole = n.min(front.len());
        into[..whole].copy_from_slice(&front[..whole]);
        into[whole..n].copy_from_slice(&back[..n - whole]);
        self.bytes.drain(..n);
        n
    }

    fn lose(&mut self) {
        self.bytes.clear();
        self.arrivals.clear();
    }

    fn ends(&mut self, at: Time, ending: Ending) {
        self.end.get_or_insert((self.arrives(at), ending));
    }
}

impl State {
    pub(super) fn new(
        number: u64,
        conditions: Conditions,
        handle: &Handle,
        random: Random,
    ) -> Self {
        Self {
            number,
            handle: handle.clone(),
            random,
            conditions,
            up: Pipe::default(),
            down: Pipe::default(),
            cut: None,
            silent: false,
            over: None,
        }
    }

    pub(super) const fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    pub(super) fn delay(&mut self) -> Duration {
        let nanos = u64::try_from(self.conditions.latency.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.range(nanos / 4, nanos))
    }

    pub(super) fn wake_all(&mut self) {
        for pipe in [&mut self.up, &mut self.down] {
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }

    /// Ends both directions; a reset loses a drawn part of what is under way.
    /// Writers may write on for a while, into nothing, if `takes_more`.
    pub(super) fn finish(&mut self, ending: Ending, takes_more: bool) {
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
                pipe.lose();
            }
            pipe.ends(told, ending);
        }
        self.wake_all();
    }

    pub(super) fn poll_write(
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
        let room = capacity.saturating_sub(pipe.bytes.len());
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
            pipe.write(arrives, &bytes[..through]);
            if let Some(reader) = pipe.reader.take() {
                reader.wake();
            }
            self.handle.bytes(way, self.number, &bytes[..through]);
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

    pub(super) fn poll_read(
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
        let waits_until = match (pipe.arrivals.front().copied(), pipe.end) {
            (Some((at, _)), _) if at <= now => {
                let n = pipe.read(into, most);
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                return Poll::Ready(Ok(n));
            }
            (Some((at, _)), _) => Some(at),
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
    pub(super) fn shut(&mut self, way: Way, ending: Ending) {
        if self.over.is_some() || self.silent {
            return;
        }
        let now = self.handle.now();
        let told = now + self.delay();
        let pipe = self.pipe(way);
        pipe.ends(told, ending);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
    }
}
