//! A broker that ends its publisher's connection once, and notes when what happens after that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use crate::sink::echo::Line;
use crate::sink::session::Session;
use crate::sink::{CHANNEL_MAX, Totals};
use crate::wire::{self, Fields, id};
use crate::{Failure, Fallible};

/// No step takes longer than this, unless something hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a read brings at most.
const READ: usize = 512 * 1024;

/// What the peer does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Messages that it takes and never confirms before it ends their connection.
    pub(super) unconfirmed: u64,
    /// The next connection is accepted, and answered only when it is told so.
    pub(super) gated: bool,
    /// Messages after which the next connection has served its purpose.
    pub(super) expected: u64,
}

/// When what happened, on the clock of this process, which the client shares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// The connection was about to be reset.
    pub(super) cut: Instant,
    /// The next one was there.
    pub(super) accepted: Instant,
    /// The peer began to answer: where it is gated, when it was told so.
    pub(super) answered: Instant,
    /// Open-ok was written.
    pub(super) open: Instant,
    /// Select-ok was written: messages may come.
    pub(super) ready: Instant,
    /// The first bytes of a message were read.
    pub(super) first: Instant,
    /// The last expected message was read whole.
    pub(super) last: Instant,
    /// Its confirm was written.
    pub(super) confirmed: Instant,
}

/// A peer, and how to steer it. It ends with its connections.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// It has what it leaves unconfirmed.
    pub(super) loaded: oneshot::Receiver<()>,
    /// The next connection is accepted.
    pub(super) accepted: oneshot::Receiver<()>,
    /// Everything that was expected has come.
    pub(super) done: oneshot::Receiver<Fallible<Marks>>,
    pub(super) steering: Steering,
}

/// What it waits for.
pub(super) struct Steering {
    cut: Sender<()>,
    open: Sender<()>,
}

impl Steering {
    /// End the connection now.
    pub(super) fn cut(&self) {
        // A peer that has failed says so at its end.
        let _ = self.cut.send(());
    }

    /// Answer the next one now.
    pub(super) fn open(&self) {
        let _ = self.open.send(());
    }
}

/// Shared by the threads of the connections.
struct Shared {
    plan: Plan,
    totals: Arc<Totals>,
    /// Once each.
    loaded: Mutex<Option<oneshot::Sender<()>>>,
    accepted: Mutex<Option<oneshot::Sender<()>>>,
    done: Mutex<Option<oneshot::Sender<Fallible<Marks>>>>,
    may_cut: Mutex<Receiver<()>>,
    may_open: Mutex<Receiver<()>>,
    cut: Mutex<Option<Instant>>,
}

/// Starts one on a free port.
pub(super) fn start(plan: Plan) -> Fallible<Peer> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let (loaded, is_loaded) = oneshot::channel();
    let (accepted, is_accepted) = oneshot::channel();
    let (done, is_done) = oneshot::channel();
    let (cut, may_cut) = channel();
    let (open, may_open) = channel();
    let shared = Arc::new(Shared {
        plan,
        totals: Arc::default(),
        loaded: Mutex::new(Some(loaded)),
        accepted: Mutex::new(Some(accepted)),
        done: Mutex::new(Some(done)),
        may_cut: Mutex::new(may_cut),
        may_open: Mutex::new(may_open),
        cut: Mutex::new(None),
    });
    std::thread::spawn(move || accept(&listener, &shared));
    Ok(Peer {
        address,
        loaded: is_loaded,
        accepted: is_accepted,
        done: is_done,
        steering: Steering { cut, open },
    })
}

/// Two connections at the start, and one after the cut.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for _ in 0..3 {
        let Ok((socket, _)) = listener.accept() else { return };
        let at = Instant::now();
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let cut = *lock(&shared.cut);
            let result = match cut {
                None => before(socket, &shared).map(|()| None),
                Some(cut) => after(socket, &shared, cut, at).map(Some),
            };
            let result = match result {
                Ok(None) => return,
                Ok(Some(marks)) => Ok(marks),
                Err(failure) => Err(failure),
            };
            if let Some(done) = lock(&shared.done).take() {
                // Whoever gave up waiting has said why.
                let _ = done.send(result);
            }
        });
    }
}

/// A connection of the beginning: the one that publishes is ended.
fn before(socket: TcpStream, shared: &Shared) -> Fallible {
    let mut connection = Connection::new(socket, shared)?;
    loop {
        if connection.read()?.is_none() {
            return Ok(());
        }
        connection.receive()?;
        let published = connection.session.published();
        if published == 0 {
            connection.write()?;
            continue;
        }
        // Not a word about messages.
        connection.session.out.clear();
        if published >= shared.plan.unconfirmed {
            tell(&shared.loaded);
            lock(&shared.may_cut).recv_timeout(DEADLINE)?;
            // It ends by a reset, and what was not read is lost.
            rustix::net::sockopt::set_socket_linger(&connection.line.socket, Some(Duration::ZERO))?;
            // Until this is known, nobody can come back.
            let mut cut = lock(&shared.cut);
            *cut = Some(Instant::now());
            drop(connection);
            return Ok(());
        }
    }
}

/// The connection after the cut.
fn after(socket: TcpStream, shared: &Shared, cut: Instant, accepted: Instant) -> Fallible<Marks> {
    let mut connection = Connection::new(socket, shared)?;
    tell(&shared.accepted);
    if shared.plan.gated {
        lock(&shared.may_open).recv_timeout(DEADLINE)?;
    }
    let answered = Instant::now();
    let mut marks = Marks {
        cut,
        accepted,
        answered,
        open: answered,
        ready: answered,
        first: answered,
        last: answered,
        confirmed: answered,
    };
    let mut begun = false;
    loop {
        let at = connection.read()?.ok_or("the client closed the connection")?;
        let asked = if begun { Asked::default() } else { connection.asked()? };
        if asked.publish {
            begun = true;
            marks.first = at;
        }
        connection.receive()?;
        let complete = connection.session.published() >= shared.plan.expected;
        if complete {
            marks.last = at;
        }
        connection.write()?;
        let now = Instant::now();
        if asked.open {
            marks.open = now;
        }
        if asked.select {
            marks.ready = now;
        }
        if complete {
            marks.confirmed = now;
            std::thread::spawn(move || serve(connection));
            return Ok(marks);
        }
    }
}

/// Goes on until the client leaves.
fn serve(mut connection: Connection) -> Fallible {
    while connection.read()?.is_some() && !connection.session.is_over() {
        connection.receive()?;
        connection.write()?;
    }
    Ok(())
}

/// What a read has asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    open: bool,
    select: bool,
    publish: bool,
}

struct Connection {
    line: Arc<Line>,
    session: Session,
    input: Vec<u8>,
    filled: usize,
    /// The protocol header has come.
    greeted: bool,
}

impl Connection {
    fn new(socket: TcpStream, shared: &Shared) -> Fallible<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        let line = Line::new(socket);
        let session = Session::new(Arc::clone(&shared.totals), Arc::clone(&line), CHANNEL_MAX);
        Ok(Self { line, session, input: vec![0; READ], filled: 0, greeted: false })
    }

    /// When bytes were there; `None` at the end.
    fn read(&mut self) -> Fallible<Option<Instant>> {
        let n = (&self.line.socket).read(&mut self.input[self.filled..])?;
        self.filled += n;
        Ok((n > 0).then(Instant::now))
    }

    /// What the bytes begin that have not been received yet.
    fn asked(&self) -> Fallible<Asked> {
        let mut asked = Asked::default();
        let mut bytes = &self.input[..self.filled];
        if !self.greeted {
            bytes = bytes.get(8..).unwrap_or_default();
        }
        while let Some((frame, length)) = wire::first_frame(bytes)? {
            bytes = &bytes[length..];
            if frame.kind == wire::METHOD {
                match Fields::new(frame.payload).method()? {
                    id::CONNECTION_OPEN => asked.open = true,
                    id::CONFIRM_SELECT => asked.select = true,
                    id::BASIC_PUBLISH => asked.publish = true,
                    _ => {}
                }
            }
            if asked.publish {
                break;
            }
        }
        Ok(asked)
    }

    fn receive(&mut self) -> Fallible {
        let mut taken = 0;
        if !self.greeted {
            if self.filled < 8 {
                return Ok(());
            }
            self.greeted = true;
            self.session.start();
            taken = 8;
        }
        taken += self.session.receive(&self.input[taken..self.filled])?;
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(())
    }

    fn write(&mut self) -> Fallible {
        (&self.line.socket).write_all(&self.session.out)?;
        self.session.out.clear();
        Ok(())
    }
}

fn tell(whom: &Mutex<Option<oneshot::Sender<()>>>) {
    if let Some(sender) = lock(whom).take() {
        // Nobody has to listen.
        let _ = sender.send(());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peer's threads ended without a word.
pub(super) fn gone(_: oneshot::Canceled) -> Failure {
    "the peer is gone".into()
}
