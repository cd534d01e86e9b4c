//! The fast peer: speaks as much AMQP 0-9-1 as the clients ask for, and otherwise only
//! swallows publishes, confirms them (one `multiple` ack for all that one read brought), and
//! delivers encoded messages as fast as the socket takes them.
//!
//! One thread per connection. Nothing is stored: a queue named `deliver-SIZE-COUNT-DELAY-TURN`
//! yields COUNT messages of SIZE bytes to each of its consumers, the first DELAY milliseconds
//! after the connection's latest consume-ok, TURN of them before another channel has its turn
//! (without COUNT: endless; without DELAY: at once; without TURN: as many as a write takes). With
//! `-held` at the end it does so from the next `basic.qos` on. What is published to a queue named
//! `lavinmq-benches-echo…` goes to its consumers (module `echo`). Every other queue
//! is empty. `queue.declare-ok` answers in its message count how many publishes
//! the sink has swallowed on all connections: that is how a client's harness knows that its
//! messages have arrived.

mod channel;
pub(crate) mod echo;
pub(crate) mod session;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use echo::{Echoes, Line};
use session::Session;

use crate::Fallible;
use crate::contestants::{self, Job};
use crate::modes::{ECHO, Mode, Task};
use crate::raw::{Raw, Target};

/// Reads are this large, so that a write of 64 KiB and what gathered behind it come in one.
const READ_BUFFER: usize = 512 * 1024;

/// Deliveries are written in batches of about this size, in bytes.
const WRITE_BATCH: usize = 64 * 1024;

/// How a sink is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Say on stderr what each connection did.
    pub(crate) verbose: bool,
    /// How long to look for bytes before sleeping. Above zero the client does not pay for
    /// waking the sink: a broker that is always awake.
    pub(crate) spin: Duration,
    /// The channels that a connection may have, as offered; 0 is no limit.
    pub(crate) channel_max: u16,
}

/// As RabbitMQ offers it.
pub(crate) const CHANNEL_MAX: u16 = 2047;

impl Default for Manner {
    fn default() -> Self {
        Self { verbose: false, spin: Duration::ZERO, channel_max: CHANNEL_MAX }
    }
}

/// What all connections did so far.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) published: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) faults: AtomicU64,
    echoes: Echoes,
}

/// Binds a loopback port, prints its number on a line of its own, and serves until killed.
pub(crate) fn serve(port: u16, manner: Manner) -> Fallible {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    accept(&listener, &Arc::new(Totals::default()), manner)
}

/// Serves every connection of `listener` on a thread of its own.
fn accept(listener: &TcpListener, totals: &Arc<Totals>, manner: Manner) -> Fallible {
    loop {
        let (socket, _) = listener.accept()?;
        let totals = Arc::clone(totals);
        std::thread::spawn(move || {
            let line = Line::new(socket);
            let mut session =
                Session::new(Arc::clone(&totals), Arc::clone(&line), manner.channel_max);
            let end = connection(&line, &mut session, manner.spin);
            totals.echoes.forget_all(&line, None);
            if let Err(fault) = &end {
                totals.faults.fetch_add(1, Ordering::Relaxed);
                eprintln!("sink: {fault}");
            }
            if manner.verbose {
                eprintln!("sink: connection ended, {}", session.account());
            }
        });
    }
}

/// One connection, from the protocol header to its end. An end without `connection.close` is
/// no fault: contestants are processes that may simply exit.
fn connection(line: &Line, session: &mut Session, spin: Duration) -> Fallible {
    let mut socket = &line.socket;
    socket.set_nodelay(true)?;
    let mut header = [0; 8];
    socket.read_exact(&mut header)?;
    if header != *b"AMQP\0\0\x09\x01" {
        return Err(format!("protocol header {header:?}").into());
    }
    session.start();

    let mut input = vec![0; READ_BUFFER];
    let mut filled = 0;
    let mut written = 0;
    let mut turn = None;
    while !session.is_over() {
        session.deliver(WRITE_BATCH);
        if !session.out.is_empty() && turn.is_none() {
            turn = Some(line.turn());
        }
        let wrote = match write_some(socket, &session.out[written..]) {
            Ok(n) => n,
            Err(end) => return lost(end),
        };
        written += wrote;
        if written == session.out.len() {
            session.out.clear();
            written = 0;
            turn = None;
        }

        // A full buffer holds half of a frame at most, so there is room.
        let room = &mut input[filled..];
        let read = if session.out.is_empty() && !session.can_deliver() {
            read_or_beat(socket, room, session, spin)
        } else {
            read_some(socket, room)
        };
        let read = match read {
            Ok(Some(0)) => return Ok(()),
            Ok(read) => read.unwrap_or(0),
            Err(end) => return lost(end),
        };
        filled += read;
        let taken = session.receive(&input[..filled])?;
        input.copy_within(taken..filled, 0);
        filled -= taken;

        if wrote == 0 && read == 0 && !session.out.is_empty() {
            await_progress(socket)?;
        }
    }
    // The last word is a close-ok.
    let _turn = turn.unwrap_or_else(|| line.turn());
    socket.write_all(&session.out[written..]).or_else(lost)
}

/// A peer that goes away says goodbye by a reset, a broken pipe, or an end of file.
fn lost(error: std::io::Error) -> Fallible {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Ok(()),
        _ => Err(error.into()),
    }
}

/// What the socket takes now.
fn write_some(socket: &TcpStream, bytes: &[u8]) -> std::io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}

/// What the socket has now: `Some(0)` is the end.
fn read_some(socket: &TcpStream, room: &mut [u8]) -> std::io::Result<Option<usize>> {
    match recv(socket, room, RecvFlags::DONTWAIT) {
        Ok((_, n)) => Ok(Some(n)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits for bytes, for the moment to begin a delivery, or for the time of a heartbeat.
fn read_or_beat(
    mut socket: &TcpStream,
    room: &mut [u8],
    session: &mut Session,
    spin: Duration,
) -> std::io::Result<Option<usize>> {
    let (wait, beat) = match session.starts_in(Instant::now()) {
        Some(delay) => (Some(delay.max(Duration::from_micros(100))), false),
        None => (session.heartbeat_interval(), true),
    };
    let spinning = Instant::now();
    while spinning.elapsed() < spin {
        if let Some(n) = read_some(socket, room)? {
            return Ok(Some(n));
        }
    }
    if session.read_timeout != wait {
        socket.set_read_timeout(wait)?;
        session.read_timeout = wait;
    }
    match socket.read(room) {
        Ok(n) => Ok(Some(n)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            if beat {
                session.beat();
            }
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sleeps until the peer reads or writes.
fn await_progress(socket: &TcpStream) -> Fallible {
    let mut descriptors = [PollFd::new(socket, PollFlags::IN | PollFlags::OUT)];
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    match poll(&mut descriptors, Some(&second)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The sink in this process, driven by the raw client: what was sent must be what was counted,
/// and what was named in a queue must be what comes. Prints how fast both together are.
/// `messages` is the most of one run.
pub(crate) fn self_test(messages: u64) -> Fallible {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let target: Target = format!("amqp://{}", listener.local_addr()?).parse()?;
    let totals = Arc::new(Totals::default());
    let serving = Arc::clone(&totals);
    std::thread::spawn(move || accept(&listener, &serving, Manner::default()));

    for size in [16, 1 << 10, 200_000, 1 << 20] {
        let count = (400_000_000 / (size as u64 + 64)).min(messages);
        for mode in Mode::ALL {
            let queue = if mode == Mode::PingPong { ECHO } else { "self-test" }.to_owned();
            let task = Task { mode, size, queue, transient: false };
            let count = if mode.is_latency() { count.min(1_000) } else { count };
            let before = totals.snapshot();
            let mut probe = Raw::open(&target)?;
            let mut raw = (contestants::named("raw")?.open)(&target, &task)?;
            let base = probe.declare(&task.queue, true)?;
            let queue = match mode.consumes() {
                true => format!("deliver-{size}-{count}"),
                false => task.queue.clone(),
            };
            let start = Instant::now();
            raw.run(Job { count, queue, tag: "self-test".to_owned() })?;
            if !mode.consumes() {
                probe.await_messages(&task.queue, base, count, |time| raw.idle(time))?;
            }
            let rate = count as f64 / start.elapsed().as_secs_f64() / 1e6;
            let after = totals.snapshot();
            let came: [u64; 4] = std::array::from_fn(|i| after[i] - before[i]);
            let if_so = |so: bool| if so { count } else { 0 };
            let expected = [
                if_so(!mode.consumes()),
                if_so(mode.consumes() || mode == Mode::PingPong),
                if_so(mode.acks()),
                0,
            ];
            let verdict = if came == expected { "ok" } else { "wrong" };
            println!("{:<18} {size:>7} B {rate:>8.2} M/s  {verdict}", mode.name());
            if came != expected {
                let names = "published, delivered, acked, faults";
                return Err(format!("{names}: {came:?} instead of {expected:?}").into());
            }
        }
    }
    Ok(())
}

impl Totals {
    fn snapshot(&self) -> [u64; 4] {
        [&self.published, &self.delivered, &self.acked, &self.faults]
            .map(|count| count.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_raw_client_sends_and_takes_is_what_the_sink_counts() -> Fallible {
        self_test(2_500)
    }

    #[test]
    fn a_held_queue_delivers_from_the_next_qos_on() -> Fallible {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let target: Target = format!("amqp://{}", listener.local_addr()?).parse()?;
        let totals = Arc::new(Totals::default());
        let serving = Arc::clone(&totals);
        std::thread::spawn(move || accept(&listener, &serving, Manner::default()));
        let mut raw = Raw::open(&target)?;
        raw.consume("deliver-10-3-held", "held", true)?;
        raw.await_consume_ok()?;
        // A delivery in the place of the reply is an error.
        raw.declare("any", true)?;
        assert_eq!(totals.snapshot()[1], 0);
        raw.ask_prefetch(0)?;
        let mut bodies = 0;
        while bodies < 3 {
            raw.read(|frame| {
                bodies += usize::from(frame.kind == crate::wire::BODY);
                Ok(())
            })?;
        }
        assert_eq!(totals.snapshot(), [0, 3, 0, 0]);
        Ok(())
    }
}
