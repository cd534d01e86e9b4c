//! Memory pipes between the client and the broker, with everything that a network does to bytes:
//! chunks, latency, bounded buffers, end of stream, reset, silence, a cut after byte N.
//!
//! A [`Link`] is one connection: a pipe up (from client to broker) and a pipe down. The client's end
//! ([`SimIo`]) is a futures-io stream; the broker's end ([`ServerEnd`]) has poll functions of the same
//! shape. Writes are partial, reads are partial, and both return `Pending` without need now and
//! then (and wake later), all drawn from the link's own stream.

mod ends;
mod state;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use self::ends::{ServerEnd, SimIo};
use self::state::State;
use super::{executor::Handle, random::Random};

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

/// Looks at what the client's end of a link takes and gives.
pub trait Watch: Send + fmt::Debug {
    /// These bytes were taken from the client.
    fn wrote(&mut self, bytes: &[u8]);
    /// These bytes were given to the client.
    fn read(&mut self, bytes: &[u8]);
    /// The client was told that the link is over, or has let go of it.
    fn ended(&mut self, silent: bool);
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Link(Arc<Mutex<State>>);

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
        let link = Self(Arc::new(Mutex::new(State::new(number, conditions, handle, random))));
        let io = SimIo::new(link.clone(), handle, buffers);
        let server = ServerEnd::new(link.clone(), handle);
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
