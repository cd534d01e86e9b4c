//! The transports: dialling, writing, reading.

use std::{
    io::{self, ErrorKind, IoSlice},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::io::{AsyncRead, AsyncWrite};

use crate::{
    client::options::Connector,
    config::Target,
    error::{DialError, Loss},
    ids::ConnectionId,
    runtime::{BoxFuture, Runtime, Transport},
    session::{Action, Session},
    time::Time,
};

/// Slices of one vectored write.
const SLICES: usize = 64;

/// Writes in one turn, before the other connections have theirs.
const WRITES: u32 = 16;

/// Bytes after which a turn writes no more: what was published meanwhile is taken before much more of
/// a large body is encoded.
const WRITTEN: usize = 128 << 10;

/// How long reading goes on after a write has failed. RabbitMQ sends the reason of its close and then
/// resets: the reason may have arrived, and the runtime not have noticed yet.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// One place per connection of the session, which holds one transport after the other.
pub(super) struct Transports<R: Runtime>(Vec<Slot<R::Io>>);

/// One connection's transport.
enum Slot<Io> {
    Vacant,
    Dialling { target: Arc<str>, opening: Opening<Io> },
    Open(Open<Io>),
}

/// A transport in use.
struct Open<Io> {
    stream: Stream<Io>,
    /// Whether a byte that was taken is in the kernel's hands.
    final_writes: bool,
    unflushed: bool,
    /// Bytes read and written since the driver last asked.
    moved: usize,
    /// Why writing failed, and until when reading goes on nevertheless.
    write_error: Option<(io::Error, Time)>,
}

impl<Io> Open<Io> {
    fn write_failed(&mut self, error: io::Error, now: Time) {
        self.write_error = Some((error, now + LAST_WORDS));
    }
}

/// A transport of the runtime's, or of the application's own making.
enum Stream<Io> {
    Runtime(Io),
    Own(Box<dyn Transport>),
}

enum Opening<Io> {
    Runtime(BoxFuture<'static, Result<Io, DialError>>),
    Own(BoxFuture<'static, Result<Box<dyn Transport>, DialError>>),
}

impl<R: Runtime> Transports<R> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// When a transport that cannot be written is given up.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadline = |slot: &Slot<R::Io>| match slot {
            Slot::Open(Open { write_error: Some((_, until)), .. }) => Some(*until),
            Slot::Open(_) | Slot::Vacant | Slot::Dialling { .. } => None,
        };
        self.0.iter().filter_map(deadline).min()
    }

    /// Bytes read and written since the last call.
    pub(super) fn take_moved(&mut self) -> usize {
        let moved = |slot: &mut Slot<R::Io>| match slot {
            Slot::Open(open) => std::mem::take(&mut open.moved),
            Slot::Dialling { .. } | Slot::Vacant => 0,
        };
        self.0.iter_mut().map(moved).sum()
    }

    /// Drops them all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Does what the session wants, and whatever can be done at the moment. Returns whether anything
    /// was.
    pub(super) fn drive(
        &mut self,
        session: &mut Session,
        runtime: &R,
        connector: Option<&Connector>,
        cx: &mut Context<'_>,
        now: Time,
    ) -> bool {
        let mut changed = self.act(session, runtime, connector, cx);
        let mut index = 0;
        while index < self.0.len() {
            let connection = ConnectionId(index as u32);
            // After each step that did something, since the session may have hung up.
            for step in [dial::<R>, write::<R>, read::<R>] {
                if step(&mut self.0[index], connection, session, cx, now) {
                    changed = true;
                    self.act(session, runtime, connector, cx);
                }
            }
            // What could not be encoded may have ended something, too.
            changed |= self.act(session, runtime, connector, cx);
            index += 1;
        }
        changed
    }

    fn act(
        &mut self,
        session: &mut Session,
        runtime: &R,
        connector: Option<&Connector>,
        cx: &mut Context<'_>,
    ) -> bool {
        let mut changed = false;
        while let Some(action) = session.poll_action() {
            changed = true;
            match action {
                Action::Dial { connection, target } => {
                    *self.slot(connection) = Slot::Dialling {
                        target: target.to_string().into(),
                        opening: Opening::new(runtime, connector, target),
                    };
                }
                Action::HangUp { connection } => {
                    let slot = std::mem::replace(self.slot(connection), Slot::Vacant);
                    if let Slot::Open(mut open) = slot {
                        // Politely, but without waiting.
                        let _ = Pin::new(&mut open.stream).poll_close(cx);
                    }
                }
            }
        }
        changed
    }

    fn slot(&mut self, connection: ConnectionId) -> &mut Slot<R::Io> {
        let index = connection.0 as usize;
        if index >= self.0.len() {
            self.0.resize_with(index + 1, || Slot::Vacant);
        }
        &mut self.0[index]
    }
}

fn dial<R: Runtime>(
    slot: &mut Slot<R::Io>,
    connection: ConnectionId,
    session: &mut Session,
    cx: &mut Context<'_>,
    now: Time,
) -> bool {
    let Slot::Dialling { target, opening } = slot else { return false };
    match opening.poll(cx) {
        Poll::Pending => return false,
        Poll::Ready(Ok(stream)) => {
            let final_writes = match &stream {
                Stream::Runtime(io) => R::writes_are_final(io),
                Stream::Own(_) => false,
            };
            *slot = Slot::Open(Open {
                stream,
                final_writes,
                unflushed: false,
                moved: 0,
                write_error: None,
            });
            session.handle_connected(connection, now);
        }
        Poll::Ready(Err(error)) => {
            let loss = Loss::Dial { target: Arc::clone(target), error };
            *slot = Slot::Vacant;
            session.handle_disconnected(connection, loss, now);
        }
    }
    true
}

fn write<R: Runtime>(
    slot: &mut Slot<R::Io>,
    connection: ConnectionId,
    session: &mut Session,
    cx: &mut Context<'_>,
    now: Time,
) -> bool {
    let Slot::Open(open) = slot else { return false };
    let mut changed = false;
    let mut written = 0;
    if open.write_error.is_some() {
        return false;
    }
    for _ in 0..WRITES {
        let stream = Pin::new(&mut open.stream);
        let wrote = {
            // Mostly there is nothing, or one slice: a plain write is the cheaper call, and so many
            // slices are not cleared for nothing.
            let mut few = [IoSlice::new(&[]); 2];
            match session.transmit(connection, &mut few) {
                0 => return changed | flush(open, connection, session, cx, now),
                1 => stream.poll_write(cx, &few[0]),
                _ => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let filled = session.transmit(connection, &mut slices);
                    stream.poll_write_vectored(cx, &slices[..filled])
                }
            }
        };
        match wrote {
            Poll::Ready(Ok(0)) => {
                open.write_failed(ErrorKind::WriteZero.into(), now);
                return true;
            }
            Poll::Ready(Ok(n)) => {
                session.handle_written(connection, n, open.final_writes, now);
                open.unflushed = !open.final_writes;
                open.moved += n;
                written += n;
                changed = true;
                if written >= WRITTEN {
                    break;
                }
            }
            Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => changed = true,
            Poll::Ready(Err(error)) => {
                open.write_failed(error, now);
                return true;
            }
            Poll::Pending => return changed,
        }
    }
    changed
}

fn flush<Io: Transport>(
    open: &mut Open<Io>,
    connection: ConnectionId,
    session: &mut Session,
    cx: &mut Context<'_>,
    now: Time,
) -> bool {
    if !open.unflushed {
        return false;
    }
    match Pin::new(&mut open.stream).poll_flush(cx) {
        Poll::Ready(Ok(())) => {
            open.unflushed = false;
            session.handle_flushed(connection, now);
            true
        }
        Poll::Ready(Err(error)) => {
            open.write_failed(error, now);
            true
        }
        Poll::Pending => false,
    }
}

fn read<R: Runtime>(
    slot: &mut Slot<R::Io>,
    connection: ConnectionId,
    session: &mut Session,
    cx: &mut Context<'_>,
    now: Time,
) -> bool {
    let Slot::Open(open) = slot else { return false };
    let buffer = session.receive_buffer(connection);
    // Reading is paused: its end is not looked for, either.
    let paused = buffer.is_empty();
    let read =
        if paused { Poll::Pending } else { Pin::new(&mut open.stream).poll_read(cx, buffer) };
    let loss = match read {
        Poll::Ready(Ok(0)) => Loss::Eof,
        Poll::Ready(Ok(n)) => {
            open.moved += n;
            session.handle_received(connection, n, now);
            return true;
        }
        Poll::Ready(Err(error)) if error.kind() == ErrorKind::Interrupted => return true,
        Poll::Ready(Err(error)) => error.into(),
        Poll::Pending => match open.write_error.take_if(|(_, until)| paused || *until <= now) {
            Some((error, _)) => error.into(),
            None => return false,
        },
    };
    *slot = Slot::Vacant;
    session.handle_disconnected(connection, loss, now);
    true
}

impl<Io> Opening<Io> {
    fn new<R: Runtime<Io = Io>>(
        runtime: &R,
        connector: Option<&Connector>,
        target: Target,
    ) -> Self {
        match connector {
            None => Self::Runtime(runtime.connect(target)),
            // The application's code, which may panic in two places.
            Some(connect) => match catch_unwind(AssertUnwindSafe(|| connect(target))) {
                Ok(opening) => Self::Own(opening),
                Err(_) => Self::Own(Box::pin(std::future::ready(Err(panicked())))),
            },
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream<Io>, DialError>> {
        match self {
            Self::Runtime(opening) => opening.as_mut().poll(cx).map_ok(Stream::Runtime),
            Self::Own(opening) => {
                match catch_unwind(AssertUnwindSafe(|| opening.as_mut().poll(cx))) {
                    Ok(polled) => polled.map_ok(Stream::Own),
                    Err(_) => Poll::Ready(Err(panicked())),
                }
            }
        }
    }
}

fn panicked() -> DialError {
    DialError::Other("the connector panicked".into())
}

impl<Io: Transport> AsyncRead for Stream<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Runtime(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Own(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl<Io: Transport> AsyncWrite for Stream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Runtime(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Own(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Runtime(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Own(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Runtime(io) => Pin::new(io).poll_flush(cx),
            Self::Own(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Runtime(io) => Pin::new(io).poll_close(cx),
            Self::Own(io) => Pin::new(io).poll_close(cx),
        }
    }
}
