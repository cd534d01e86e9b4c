//! The broker over TCP: threads and sockets around [`BrokerState`].
//!
//! Each connection has a thread that reads and one that writes, so that a client that does not read
//! holds up nobody else: the state is never locked while a socket is waited for.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lavinmq_core::time::Time;
use socket2::SockRef;

use crate::{
    error::StartError,
    personality::Ending,
    state::{BrokerState, ConnId, Settings},
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often a thread that waits for a socket looks at whether it still should.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// How long a client may take to close its end after we closed ours, and connections to end at a stop.
const LINGER: Duration = Duration::from_secs(1);
/// The size of a read, in bytes.
const READ: usize = 64 * 1024;

/// A state that is served over TCP. Dropping it ends the server.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Something happened in the state.
    happened: Condvar,
    /// The server stops.
    stop: Condvar,
    epoch: Instant,
}

#[derive(Debug)]
struct Inner {
    state: BrokerState,
    transports: BTreeMap<ConnId, Transport>,
    threads: Vec<JoinHandle<()>>,
    listening: bool,
    stopping: bool,
}

#[derive(Debug)]
struct Transport {
    socket: Arc<TcpStream>,
    /// Wakes the connection's threads.
    wake: Arc<Condvar>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    /// We sent the end of our stream and discard what still comes. The state has forgotten it.
    Draining(Time),
    /// The threads end.
    Gone,
}

impl Server {
    pub(crate) fn start(settings: Settings, seed: u64, port: u16) -> Result<Self, StartError> {
        let listener = listen((Ipv4Addr::LOCALHOST, port).into())?;
        let address = listener
            .local_addr()
            .map_err(|error| StartError::new("learn the server's own address", error))?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                state: BrokerState::with_settings(settings, seed),
                transports: BTreeMap::new(),
                threads: Vec::new(),
                listening: true,
                stopping: false,
            }),
            happened: Condvar::new(),
            stop: Condvar::new(),
            epoch: Instant::now(),
        });
        let ticker = spawn("broker-tick", {
            let shared = shared.clone();
            move || shared.tick()
        })?;
        let mut server = Self { shared, address, acceptor: None, ticker: Some(ticker) };
        server.acceptor = Some(server.accept_from(listener)?);
        Ok(server)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs `act` on the state, and writes what came of it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut BrokerState, Time) -> T) -> T {
        let mut inner = self.shared.lock();
        let result = act(&mut inner.state, self.shared.now());
        self.shared.wake_changed(&mut inner);
        result
    }

    /// For waiting while others use the server.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter(self.shared.clone())
    }

    /// Listens no more, and waits until the connections have ended, resetting those that do not.
    pub(crate) fn stop(&mut self) {
        self.stop_listening();
        let inner = self.shared.lock();
        let (mut inner, _) = self
            .shared
            .happened
            .wait_timeout_while(inner, LINGER, |inner| {
                inner.transports.values().any(|transport| transport.phase == Phase::Live)
            })
            .unwrap_or_else(PoisonError::into_inner);
        self.shared.reset_all(&mut inner);
        let threads = std::mem::take(&mut inner.threads);
        drop(inner);
        join(threads);
    }

    /// Listens again, on the same port.
    pub(crate) fn resume(&mut self) -> Result<(), StartError> {
        if self.acceptor.is_none() {
            let listener = listen(self.address)?;
            self.shared.lock().listening = true;
            self.acceptor = Some(self.accept_from(listener)?);
        }
        Ok(())
    }

    fn accept_from(&self, listener: TcpListener) -> Result<JoinHandle<()>, StartError> {
        let shared = self.shared.clone();
        spawn("broker-accept", move || shared.accept(&listener))
    }

    fn stop_listening(&mut self) {
        self.shared.lock().listening = false;
        if let Some(acceptor) = self.acceptor.take() {
            // Its accept returns for this connection, and it sees that it shall end. If connecting
            // fails, the acceptor has failed, too.
            drop(TcpStream::connect(self.address));
            join([acceptor]);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        let mut inner = self.shared.lock();
        inner.stopping = true;
        self.shared.reset_all(&mut inner);
        let threads = std::mem::take(&mut inner.threads);
        drop(inner);
        self.shared.stop.notify_all();
        join(threads);
        join(self.ticker.take());
    }
}

/// Waits for something to happen in the state.
pub(crate) struct Waiter(Arc<Shared>);

impl Waiter {
    /// Waits until `condition` holds; false if it does not within `timeout`.
    pub(crate) fn wait_until(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&BrokerState) -> bool,
    ) -> bool {
        let (inner, _) = self
            .0
            .happened
            .wait_timeout_while(self.0.lock(), timeout, |inner| !condition(&inner.state))
            .unwrap_or_else(PoisonError::into_inner);
        condition(&inner.state)
    }
}

impl Shared {
    /// A thread that panicked leaves a state that is still worth looking at.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time::ZERO + self.epoch.elapsed()
    }

    /// Wakes the threads of connections with something to do, and whoever waits for something.
    fn wake_changed(&self, inner: &mut Inner) {
        while let Some(id) = inner.state.poll_changed() {
            if let Some(transport) = inner.transports.get(&id) {
                transport.wake.notify_all();
            }
        }
        self.happened.notify_all();
    }

    fn reset_all(&self, inner: &mut Inner) {
        let ids: Vec<ConnId> = inner.transports.keys().copied().collect();
        for id in ids {
            self.end(inner, id, Ending::Reset);
        }
    }

    fn tick(&self) {
        let mut inner = self.lock();
        while !inner.stopping {
            let now = self.now();
            if inner.state.next_deadline().is_some_and(|due| due <= now) {
                inner.state.tick(now);
                self.wake_changed(&mut inner);
            }
            let overdue: Vec<ConnId> = inner
                .transports
                .iter()
                .filter(|(_, t)| matches!(t.phase, Phase::Draining(since) if since + LINGER <= now))
                .map(|(id, _)| *id)
                .collect();
            for id in overdue {
                self.end(&mut inner, id, Ending::Reset);
            }
            (inner, _) =
                self.stop.wait_timeout(inner, TICK).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            let mut inner = self.lock();
            if !inner.listening {
                return;
            }
            // What fails here is the client's connection, or a want of file descriptors; a server for
            // tests goes on with the next one.
            if let Ok((socket, _)) = accepted {
                let finished = inner.threads.extract_if(.., |thread| thread.is_finished());
                join(finished);
                self.serve(&mut inner, socket);
            }
        }
    }

    fn serve(self: &Arc<Self>, inner: &mut Inner, socket: TcpStream) {
        let configured =
            socket.set_nodelay(true).and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
        if configured.is_err() {
            return;
        }
        let socket = Arc::new(socket);
        let wake = Arc::new(Condvar::new());
        let id = inner.state.connect(self.now());
        let transport =
            Transport { socket: socket.clone(), wake: wake.clone(), phase: Phase::Live };
        inner.transports.insert(id, transport);
        let reader = spawn("broker-read", {
            let (shared, socket, wake) = (self.clone(), socket.clone(), wake.clone());
            move || shared.read(id, &socket, &wake)
        });
        let writer = spawn("broker-write", {
            let shared = self.clone();
            move || shared.write(id, &socket, &wake)
        });
        if reader.is_err() || writer.is_err() {
            self.end(inner, id, Ending::Reset);
            inner.transports.remove(&id);
        }
        inner.threads.extend([reader, writer].into_iter().flatten());
        self.wake_changed(inner);
    }

    fn read(&self, id: ConnId, mut socket: &TcpStream, wake: &Condvar) {
        let mut buffer = vec![0; READ];
        loop {
            let inner = self.lock();
            let inner = wake
                .wait_while(inner, |inner| {
                    inner.phase(id) == Phase::Live && !inner.state.wants_input(id)
                })
                .unwrap_or_else(PoisonError::into_inner);
            if inner.phase(id) == Phase::Gone {
                break;
            }
            drop(inner);
            let n = match socket.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let mut inner = self.lock();
            if inner.phase(id) == Phase::Live {
                let bytes = buffer.get(..n).unwrap_or_default();
                inner.state.receive(id, bytes, self.now());
                self.wake_changed(&mut inner);
            }
        }
        // The client is gone, or we are done with it.
        let mut inner = self.lock();
        inner.state.disconnect(id, self.now());
        inner.transports.remove(&id);
        wake.notify_all();
        self.wake_changed(&mut inner);
    }

    fn write(&self, id: ConnId, socket: &TcpStream, wake: &Condvar) {
        let mut out = Vec::new();
        loop {
            let mut inner = self.lock();
            loop {
                if inner.phase(id) != Phase::Live {
                    return;
                }
                if let Some(ending) = inner.state.ending(id) {
                    self.end(&mut inner, id, ending);
                    return;
                }
                inner.state.take_output(id, &mut out);
                if !out.is_empty() {
                    break;
                }
                inner = wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            drop(inner);
            self.write_all(id, socket, &out);
        }
    }

    /// Writes, for as long as the connection is wanted.
    fn write_all(&self, id: ConnId, mut socket: &TcpStream, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = socket.write(rest);
            let mut inner = self.lock();
            match written {
                Ok(n) if n > 0 => {
                    inner.state.output_written(id, n, self.now());
                    self.wake_changed(&mut inner);
                    rest = rest.get(n..).unwrap_or_default();
                }
                // The client does not read.
                Err(error) if is_impatience(&error) => {
                    if inner.phase(id) != Phase::Live || inner.state.ending(id).is_some() {
                        return;
                    }
                }
                _ => {
                    // The reader will notice, too, but perhaps not soon.
                    self.end(&mut inner, id, Ending::Reset);
                    return;
                }
            }
        }
    }

    /// Ends a transport; the state forgets it at once.
    fn end(&self, inner: &mut Inner, id: ConnId, ending: Ending) {
        let now = self.now();
        let Some(transport) = inner.transports.get_mut(&id) else { return };
        // What fails here, fails because the client is gone already.
        match ending {
            Ending::Eof => {
                transport.phase = Phase::Draining(now);
                let _ = transport.socket.shutdown(Shutdown::Write);
            }
            Ending::Reset => {
                transport.phase = Phase::Gone;
                // Closing resets now. Only the reading half is shut down, to wake the reader: the other
                // would send an orderly end first.
                let _ = SockRef::from(&*transport.socket).set_linger(Some(Duration::ZERO));
                let _ = transport.socket.shutdown(Shutdown::Read);
            }
        }
        transport.wake.notify_all();
        inner.state.disconnect(id, now);
        self.wake_changed(inner);
    }
}

impl Inner {
    fn phase(&self, id: ConnId) -> Phase {
        self.transports.get(&id).map_or(Phase::Gone, |transport| transport.phase)
    }
}

pub(crate) fn is_impatience(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::new("listen on 127.0.0.1", error))
}

pub(crate) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| StartError::new("start a thread", error))
}

/// Waits for threads; one that panicked has said so.
pub(crate) fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join();
    }
}
