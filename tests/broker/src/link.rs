//! A TCP proxy between a client and a broker that can misbehave.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    error::StartError,
    server::{PATIENCE, is_impatience, join, listen, spawn},
};

/// The size of a read, in bytes.
const READ: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

/// What a link has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkCounters {
    /// Connections that were forwarded.
    pub connections: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Bytes forwarded to the broker.
    pub to_broker: u64,
    /// Bytes forwarded to clients.
    pub to_client: u64,
}

/// A TCP proxy on 127.0.0.1, between clients and any broker, that can cut, stall, delay and split.
///
/// What is set holds for connections that stand and for later ones. The link ends with its value:
/// connections are reset, threads joined.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lavinmq_testing::{Broker, Direction, FaultLink};
///
/// let broker = Broker::start()?;
/// let link = FaultLink::start(broker.addr())?;
/// println!("connect to {}", broker.url_at(link.addr()));
///
/// link.cut_after(1000, Direction::ToBroker); // in the middle of a frame, probably
/// link.stall(); // silence both ways
/// link.resume();
/// link.cut(); // resets what stands
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FaultLink {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Debug)]
struct Control {
    upstream: SocketAddr,
    refuse: bool,
    stalled: bool,
    delay: Duration,
    /// The most bytes that are written at once; 0 is no limit.
    chunk: usize,
    /// By direction: after how many bytes the first connection that gets there is cut.
    cut_after: [Option<u64>; 2],
    links: BTreeMap<u64, Link>,
    next: u64,
    counters: LinkCounters,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

#[derive(Debug)]
struct Link {
    client: Arc<TcpStream>,
    broker: Arc<TcpStream>,
    cut: bool,
    /// By direction: bytes since the link began or `cut_after` was set.
    bytes: [u64; 2],
    /// Directions that still forward.
    running: u8,
}

impl FaultLink {
    /// Starts a link to `upstream`, which need not be there yet.
    ///
    /// # Errors
    ///
    /// If there is no free port, or no thread can be started.
    pub fn start(upstream: SocketAddr) -> Result<Self, StartError> {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener
            .local_addr()
            .map_err(|error| StartError::new("learn the link's own address", error))?;
        let shared = Arc::new(Shared {
            control: Mutex::new(Control {
                upstream,
                refuse: false,
                stalled: false,
                delay: Duration::ZERO,
                chunk: 0,
                cut_after: [None; 2],
                links: BTreeMap::new(),
                next: 0,
                counters: LinkCounters::default(),
                threads: Vec::new(),
                stopping: false,
            }),
            changed: Condvar::new(),
        });
        let acceptor = spawn("link-accept", {
            let shared = shared.clone();
            move || shared.accept(&listener)
        })?;
        Ok(Self { shared, address, acceptor: Some(acceptor) })
    }

    /// Where clients connect to.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections, both ends, at once. What was under way may be lost.
    pub fn cut(&self) {
        self.set(|control| {
            let links: Vec<u64> = control.links.keys().copied().collect();
            for link in links {
                control.cut(link);
            }
        });
    }

    /// Cuts one connection once exactly `bytes` more bytes went this way: the first connection, standing
    /// or new, that gets there; then this is used up. The receiver gets these bytes and the end of the
    /// stream; the sender gets the end, and a reset if it goes on sending. With 0, the cut comes with the
    /// next byte, which is not forwarded any more.
    pub fn cut_after(&self, bytes: u64, direction: Direction) {
        self.set(|control| {
            control.cut_after[direction as usize] = Some(bytes);
            for link in control.links.values_mut() {
                link.bytes[direction as usize] = 0;
            }
        });
    }

    /// Silence: nothing is forwarded, either way, and soon nothing is read. New connections are accepted.
    pub fn stall(&self) {
        self.set(|control| control.stalled = true);
    }

    /// Ends a silence: what was kept back is forwarded.
    pub fn resume(&self) {
        self.set(|control| control.stalled = false);
    }

    /// Forwards everything this much later. What arrives meanwhile waits outside, so that a delay bounds
    /// the rate, too: 64 KiB per delay and direction.
    pub fn delay(&self, delay: Duration) {
        self.set(|control| control.delay = delay);
    }

    /// Forwards in pieces of at most this many bytes, each a write of its own; 0 is no limit.
    pub fn chunk(&self, bytes: usize) {
        self.set(|control| control.chunk = bytes);
    }

    /// Whether new connections are reset at once.
    pub fn refuse(&self, refuse: bool) {
        self.set(|control| control.refuse = refuse);
    }

    /// Where new connections go.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.set(|control| control.upstream = upstream);
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.shared.lock().counters
    }

    /// Connections that stand.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().links.values().filter(|link| !link.cut).count()
    }

    /// Waits until the counters fulfil a condition; false if they do not within `timeout`.
    #[must_use]
    pub fn wait_until(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(LinkCounters) -> bool,
    ) -> bool {
        let control = self.shared.lock();
        let (control, _) = self
            .shared
            .changed
            .wait_timeout_while(control, timeout, |control| !condition(control.counters))
            .unwrap_or_else(PoisonError::into_inner);
        condition(control.counters)
    }

    fn set(&self, set: impl FnOnce(&mut Control)) {
        set(&mut self.shared.lock());
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultLink {
    fn drop(&mut self) {
        self.set(|control| control.stopping = true);
        // The acceptor sees that it shall end; if connecting fails, it has ended.
        drop(TcpStream::connect(self.address));
        join(self.acceptor.take());
        self.cut();
        let threads = std::mem::take(&mut self.shared.lock().threads);
        join(threads);
    }
}

impl Control {
    /// Resets both ends of a connection.
    fn cut(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        self.counters.cuts += u64::from(!link.cut);
        link.cut = true;
        reset(&link.client);
        reset(&link.broker);
    }

    /// Ends the receiver's stream after what was written, and the sender's at once.
    fn cut_behind(&mut self, id: u64, direction: Direction) {
        let Some(link) = self.links.get_mut(&id) else { return };
        self.counters.cuts += u64::from(!link.cut);
        link.cut = true;
        let (from, to) = match direction {
            Direction::ToBroker => (&link.client, &link.broker),
            Direction::ToClient => (&link.broker, &link.client),
        };
        // What fails here, fails because the peer is gone already.
        let _ = SockRef::from(&**from).set_linger(Some(Duration::ZERO));
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Resets a connection: closing it does, once its last user has let go. Only the reading half is shut
/// down, to wake who reads: the other would send an orderly end first.
fn reset(socket: &TcpStream) {
    // What fails here, fails because the peer is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    let _ = socket.shutdown(Shutdown::Read);
}

impl Shared {
    /// A thread that panicked leaves settings that are still worth looking at.
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            let mut control = self.lock();
            if control.stopping {
                return;
            }
            let Ok((client, _)) = accepted else { continue };
            if control.refuse {
                control.counters.refused += 1;
                drop(control);
                reset(&client);
                self.changed.notify_all();
                continue;
            }
            let finished = control.threads.extract_if(.., |thread| thread.is_finished());
            join(finished);
            let upstream = control.upstream;
            drop(control);
            // On 127.0.0.1, connecting succeeds or fails at once.
            match TcpStream::connect(upstream) {
                Ok(broker) => self.forward(client, broker),
                Err(_) => {
                    self.lock().counters.refused += 1;
                    reset(&client);
                }
            }
            self.changed.notify_all();
        }
    }

    fn forward(self: &Arc<Self>, client: TcpStream, broker: TcpStream) {
        for socket in [&client, &broker] {
            let configured =
                socket.set_nodelay(true).and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
            if configured.is_err() {
                return;
            }
        }
        let (client, broker) = (Arc::new(client), Arc::new(broker));
        let mut control = self.lock();
        let id = control.next;
        control.next += 1;
        control.counters.connections += 1;
        let link = Link {
            client: client.clone(),
            broker: broker.clone(),
            cut: false,
            bytes: [0; 2],
            running: 2,
        };
        control.links.insert(id, link);
        for (direction, from, to) in [
            (Direction::ToBroker, client.clone(), broker.clone()),
            (Direction::ToClient, broker, client),
        ] {
            let shared = self.clone();
            match spawn("link", move || shared.pump(id, direction, &from, &to)) {
                Ok(thread) => control.threads.push(thread),
                Err(_) => {
                    control.cut(id);
                    control.leave(id);
                }
            }
        }
    }

    /// Forwards one direction of one connection until it ends.
    fn pump(&self, id: u64, direction: Direction, mut from: &TcpStream, to: &TcpStream) {
        let mut buffer = vec![0; READ];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => {
                    // An end, which is passed on as such, when its time has come.
                    if self.wait_turn(id, Instant::now()) {
                        let _ = to.shutdown(Shutdown::Write);
                    }
                    break;
                }
                Ok(n) => {
                    if self.wait_turn(id, Instant::now()) {
                        self.write(id, direction, to, buffer.get(..n).unwrap_or_default());
                    }
                    // What comes after a cut is read and discarded until the peer has closed, too:
                    // closing with unread bytes would reset the peer before it has read its own.
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // A reset is passed on as one.
                    let mut control = self.lock();
                    if let Some(link) = control.links.get_mut(&id)
                        && !link.cut
                    {
                        link.cut = true;
                        reset(to);
                    }
                    break;
                }
            }
        }
        self.lock().leave(id);
        self.changed.notify_all();
    }

    /// Waits while the link is stalled and until the delay is over; whether to forward.
    fn wait_turn(&self, id: u64, arrived: Instant) -> bool {
        let mut control = self.lock();
        loop {
            if control.links.get(&id).is_none_or(|link| link.cut) {
                return false;
            }
            let left = control.delay.saturating_sub(arrived.elapsed());
            if control.stalled {
                control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
            } else if left.is_zero() {
                return true;
            } else {
                (control, _) = self
                    .changed
                    .wait_timeout(control, left)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn write(&self, id: u64, direction: Direction, to: &TcpStream, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut control = self.lock();
            let Some(n) = control.claim(id, direction, rest.len()) else { return };
            if n == 0 {
                control.cut_after[direction as usize] = None;
                control.cut_behind(id, direction);
                drop(control);
                self.changed.notify_all();
                return;
            }
            drop(control);
            self.changed.notify_all();
            let (piece, after) = rest.split_at(n);
            if !self.write_all(id, to, piece) {
                return;
            }
            rest = after;
        }
        self.cut_if_due(id, direction);
    }

    /// Writes, as long as the connection stands; whether it did.
    fn write_all(&self, id: u64, mut to: &TcpStream, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if is_impatience(&error) => {
                    if self.lock().links.get(&id).is_none_or(|link| link.cut) {
                        return false;
                    }
                }
                // Gone: the other direction finds out, and tells.
                Err(_) => return false,
            }
        }
        true
    }

    /// Cuts once the last byte is written, not only when the next one comes.
    fn cut_if_due(&self, id: u64, direction: Direction) {
        let mut control = self.lock();
        let at = control.cut_after[direction as usize];
        let bytes = control.links.get(&id).map(|link| link.bytes[direction as usize]);
        if bytes.is_some() && at.is_some_and(|at| at > 0) && at <= bytes {
            control.cut_after[direction as usize] = None;
            control.cut_behind(id, direction);
            drop(control);
            self.changed.notify_all();
        }
    }
}

impl Control {
    /// How many of `available` bytes may be written at once; none if the connection is cut. They count as
    /// forwarded from here on, before the receiver can have seen them: what is asked for once it has,
    /// does not count them again.
    fn claim(&mut self, id: u64, direction: Direction, available: usize) -> Option<usize> {
        let link = self.links.get_mut(&id).filter(|link| !link.cut)?;
        let bytes = &mut link.bytes[direction as usize];
        let mut n = available;
        if self.chunk > 0 {
            n = n.min(self.chunk);
        }
        if let Some(at) = self.cut_after[direction as usize] {
            n = n.min(usize::try_from(at.saturating_sub(*bytes)).unwrap_or(usize::MAX));
        }
        *bytes += n as u64;
        match direction {
            Direction::ToBroker => self.counters.to_broker += n as u64,
            Direction::ToClient => self.counters.to_client += n as u64,
        }
        Some(n)
    }

    /// One direction of a link has ended.
    fn leave(&mut self, id: u64) {
        if let Some(link) = self.links.get_mut(&id) {
            link.running = link.running.saturating_sub(1);
            if link.running == 0 {
                self.links.remove(&id);
            }
        }
    }
}
