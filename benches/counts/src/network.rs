//! What is between client and peers: pipes, the queue of what is to run next, and the counts.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use lavinmq_core::Time;

use crate::peer::{Peer, Seen};

/// How much a pipe holds before it takes no more, in bytes: a socket's send buffer.
pub const PIPE: usize = 256 * 1024;

/// After so many alarms without a byte in between nothing will come any more: the driver has a tick.
const ALARMS: u32 = 1_000;

/// Bytes on their way in one direction.
#[derive(Debug, Default)]
pub struct Pipe {
    bytes: Vec<u8>,
    taken: usize,
}

impl Pipe {
    /// What waits to be taken.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Overwrites bytes from `at` on.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[self.taken + at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Takes the first `n` bytes away.
    pub fn consume(&mut self, n: usize) {
        self.taken += n;
        assert!(self.taken <= self.bytes.len(), "more taken than there was");
        // Rarely, and always at the same places.
        if self.taken == self.bytes.len() || self.taken >= PIPE {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// How many more bytes it takes.
    #[must_use]
    pub fn room(&self) -> usize {
        PIPE.saturating_sub(self.bytes().len())
    }

    fn with_capacity() -> Self {
        // Twice, for what was taken; a batch may begin just under the limit.
        Self { bytes: Vec::with_capacity(4 * PIPE), taken: 0 }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Events {
    /// Calls of `poll_read`.
    pub reads: u64,
    /// … that found nothing.
    pub reads_pending: u64,
    /// Calls of `poll_write` and `poll_write_vectored`.
    pub writes: u64,
    /// … that found no room.
    pub writes_pending: u64,
    /// Calls of `poll_flush`.
    pub flushes: u64,
    /// Wakers called: the driver's.
    pub driver_wakes: u64,
    /// Wakers called: the application's tasks'.
    pub application_wakes: u64,
    /// Polls of the driver.
    pub driver_polls: u64,
    /// Polls of the application's tasks.
    pub application_polls: u64,
}

/// What can run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A task of the executor's.
    Task(u64),
    /// The peer of a connection.
    Peer(usize),
}

/// What the executor does next.
pub(crate) enum Next {
    Run(Work),
    Wake(Waker),
    /// Everybody waits for ever.
    Nothing,
}

/// One connection: both pipes, and who waits for them.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) to_peer: Pipe,
    pub(crate) to_client: Pipe,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    peer: Peer,
    queued: bool,
}

/// Everything that is not the client, behind one lock that nobody contends for.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) events: Events,
    pub(crate) connections: Vec<Connection>,
    ready: VecDeque<Work>,
    now: Time,
    /// Alarms since a peer had something to do.
    alarms: u32,
    /// The driver's timer.
    pub(crate) alarm: Option<(Time, Waker)>,
}

impl State {
    pub(crate) const fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn enqueue(&mut self, work: Work) {
        self.ready.push_back(work);
    }

    pub(crate) fn connect(&mut self) -> usize {
        self.connections.push(Connection {
            to_peer: Pipe::with_capacity(),
            to_client: Pipe::with_capacity(),
            reader: None,
            writer: None,
            peer: Peer::default(),
            queued: false,
        });
        self.connections.len() - 1
    }

    /// Has the peer look at its connection, in its turn.
    pub(crate) fn notify_peer(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !std::mem::replace(&mut connection.queued, true) {
            self.enqueue(Work::Peer(index));
        }
    }
}

/// Shared by the executor, the transports and the wakers.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Mutex<State>>);

impl Network {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far.
    #[must_use]
    pub fn events(&self) -> Events {
        self.lock().events
    }

    /// What the peers have seen, all together.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut sum = Seen::default();
        for connection in &self.lock().connections {
            let Seen { published, published_bytes, acked } = connection.peer.seen();
            sum.published += published;
            sum.published_bytes += published_bytes;
            sum.acked += acked;
        }
        sum
    }

    /// What is next, first come, first served. If nothing can run, time jumps to the alarm.
    pub(crate) fn next(&self) -> Next {
        let mut state = self.lock();
        // A little of it passes with everything that is done.
        state.now += Duration::from_micros(1);
        if let Some(work) = state.ready.pop_front() {
            return Next::Run(work);
        }
        state.alarms += 1;
        match state.alarm.take().filter(|_| state.alarms < ALARMS) {
            Some((at, waker)) => {
                state.now = state.now.max(at);
                Next::Wake(waker)
            }
            None => Next::Nothing,
        }
    }

    /// The peer's turn on one of the connections. Returns who waits for what it did.
    pub(crate) fn peer_turn(&self, index: usize) -> [Option<Waker>; 2] {
        let mut state = self.lock();
        state.alarms = 0;
        let connection = &mut state.connections[index];
        connection.queued = false;
        connection.peer.turn(&mut connection.to_peer, &mut connection.to_client);
        let reader = connection.reader.take_if(|_| !connection.to_client.bytes().is_empty());
        let writer = connection.writer.take_if(|_| connection.to_peer.room() > 0);
        [reader, writer]
    }
}

impl Events {
    /// What happened since.
    #[must_use]
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            reads_pending: self.reads_pending - before.reads_pending,
            writes: self.writes - before.writes,
            writes_pending: self.writes_pending - before.writes_pending,
            flushes: self.flushes - before.flushes,
            driver_wakes: self.driver_wakes - before.driver_wakes,
            application_wakes: self.application_wakes - before.application_wakes,
            driver_polls: self.driver_polls - before.driver_polls,
            application_polls: self.application_polls - before.application_polls,
        }
    }
}
