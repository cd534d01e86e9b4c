//! A client, its driver and the broker on one thread, moved step by step by the test: a poll of the
//! driver, bytes of one connection in one direction, or a jump of the clock to the next timer.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::io::{AsyncRead, AsyncWrite};
use lavinmq_core::{
    Client, ConnectError, Driver, Options, Time,
    config::Target,
    driver::{FirstConnect, start},
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
};
use lavinmq_testing::{BrokerState, ConnId, Ending, Personality};

/// Whether a task was woken.
#[derive(Debug)]
pub struct Bell(AtomicBool);

impl Bell {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The broker, and everything between it and the driver.
#[derive(Clone)]
pub struct Net(Arc<Mutex<State>>);

struct State {
    broker: BrokerState,
    links: BTreeMap<ConnId, Link>,
    now: Time,
    refuses: bool,
    /// No byte is taken from the client.
    stalled: bool,
    timer: Option<(Time, Waker)>,
}

#[derive(Default)]
struct Link {
    to_broker: Vec<u8>,
    to_client: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Net {
    fn new() -> Self {
        let broker = BrokerState::new(Personality::RabbitMq, 1);
        let links = BTreeMap::new();
        let state =
            State { broker, links, now: Time::ZERO, refuses: false, stalled: false, timer: None };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Asks something of the broker, or makes trouble.
    pub fn broker<T>(&self, act: impl FnOnce(&mut BrokerState, Time) -> T) -> T {
        let mut state = self.lock();
        let now = state.now;
        act(&mut state.broker, now)
    }

    pub fn bodies(&self, queue: &str) -> Vec<String> {
        let messages = self.broker(|broker, _| broker.messages(queue));
        messages.iter().map(|m| String::from_utf8_lossy(&m.body).into_owned()).collect()
    }

    pub fn refuse(&self, refuses: bool) {
        self.lock().refuses = refuses;
    }

    pub fn stall(&self, stalled: bool) {
        let mut state = self.lock();
        state.stalled = stalled;
        let writers: Vec<_> =
            state.links.values_mut().filter_map(|link| link.writer.take()).collect();
        drop(state);
        writers.into_iter().for_each(Waker::wake);
    }

    pub fn cut(&self) {
        self.broker(BrokerState::cut);
    }

    /// Moves the bytes of one connection in one direction, or ends one. `false`: there is nothing.
    fn serve(&self) -> bool {
        let mut state = self.lock();
        let State { broker, links, now, .. } = &mut *state;
        while broker.poll_changed().is_some() {}
        for (&id, link) in links.iter_mut() {
            if !link.to_broker.is_empty() && broker.wants_input(id) {
                broker.receive(id, &std::mem::take(&mut link.to_broker), *now);
                return true;
            }
            let n = broker.output(id).len();
            if n > 0 {
                link.to_client.extend(broker.output(id));
                broker.consume_output(id, n, *now);
            } else if let Some(Ending::Eof | Ending::Reset) = broker.ending(id)
                && !link.ended
            {
                link.ended = true;
                broker.disconnect(id, *now);
            } else {
                continue;
            }
            link.reader.take().into_iter().for_each(Waker::wake);
            return true;
        }
        false
    }

    /// Lets time jump to the next timer that is due by then.
    fn jump(&self, until: Time) -> bool {
        let mut state = self.lock();
        let timer = state.timer.as_ref().map(|(at, _)| *at);
        let next = timer.into_iter().chain(state.broker.next_deadline()).min();
        let Some(at) = next.filter(|at| *at <= until) else {
            return false;
        };
        state.now = state.now.max(at);
        let now = state.now;
        state.broker.tick(now);
        let waker = state.timer.take_if(|(at, _)| *at <= now);
        drop(state);
        waker.into_iter().for_each(|(_, waker)| waker.wake());
        true
    }
}

pub struct Io {
    net: Net,
    id: ConnId,
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.net.lock();
        let Some(link) = state.links.get_mut(&self.id) else { return Poll::Ready(Ok(0)) };
        if link.to_client.is_empty() && !link.ended {
            link.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = link.to_client.len().min(into.len());
        for (to, from) in into.iter_mut().zip(link.to_client.drain(..n)) {
            *to = from;
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.net.lock();
        let stalled = state.stalled;
        let Some(link) = state.links.get_mut(&self.id).filter(|link| !link.ended) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if stalled {
            link.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        link.to_broker.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let now = state.now;
        state.links.remove(&self.id);
        state.broker.disconnect(self.id, now);
    }
}

/// The driver's timer: the world has one only.
pub struct OneTimer(Net);

impl Timer for OneTimer {
    fn poll_until(self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        let mut state = self.0.lock();
        if state.now >= at {
            return Poll::Ready(());
        }
        state.timer = Some((at, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for OneTimer {
    fn drop(&mut self) {
        let timer = self.0.lock().timer.take();
        drop(timer);
    }
}

pub struct ByHand(Net);

impl Runtime for ByHand {
    type Io = Io;
    type Timer = OneTimer;

    fn now(&self) -> Time {
        self.0.lock().now
    }

    fn seed(&self) -> [u8; 32] {
        [3; 32]
    }

    fn connect(&self, _: Target) -> BoxFuture<'static, Result<Io, DialError>> {
        let net = self.0.clone();
        Box::pin(async move {
            let mut state = net.lock();
            if state.refuses {
                return Err(DialError::Io {
                    kind: io::ErrorKind::ConnectionRefused,
                    message: "connection refused".into(),
                });
            }
            let now = state.now;
            let id = state.broker.connect(now);
            state.links.insert(id, Link::default());
            drop(state);
            Ok(Io { net, id })
        })
    }

    fn timer(&self) -> OneTimer {
        OneTimer(self.0.clone())
    }

    fn writes_are_final(_: &Io) -> bool {
        true
    }

    /// Exact deadlines alone.
    fn tick(&self) -> Option<Duration> {
        None
    }
}

/// The world of one test.
pub struct World {
    pub net: Net,
    pub driver: Option<Driver<ByHand>>,
    bell: Arc<Bell>,
}

impl World {
    /// A world with a broker and nobody else.
    pub fn empty() -> Self {
        Self { net: Net::new(), driver: None, bell: Bell::new() }
    }

    /// Starts a client.
    pub fn start(&mut self, first: FirstConnect) -> Result<Client, ConnectError> {
        let options = Options::new("amqp://127.0.0.1")?.reconnect_jitter(false);
        let (client, driver) = start(ByHand(self.net.clone()), options, first)?;
        self.driver = Some(driver);
        self.bell = Bell::new();
        Ok(client)
    }

    /// The next thing happens, without time passing. `false`: nothing does.
    pub fn step(&mut self) -> bool {
        if let Some(driver) = &mut self.driver
            && self.bell.0.swap(false, Ordering::SeqCst)
        {
            let waker = Waker::from(self.bell.clone());
            if Pin::new(driver).poll(&mut Context::from_waker(&waker)).is_ready() {
                self.driver = None;
            }
            return true;
        }
        self.net.serve()
    }

    /// The next thing happens, or time jumps.
    pub fn step_or_jump(&mut self) -> bool {
        self.step() || self.net.jump(Time::MAX)
    }

    /// Everything that can happen without time passing.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// So much time passes.
    pub fn pass(&mut self, time: Duration) {
        let until = self.net.lock().now + time;
        loop {
            self.settle();
            if !self.net.jump(until) {
                break;
            }
        }
        self.net.lock().now = until;
        self.settle();
    }

    /// The output of a future that must come to its end.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let bell = Bell::new();
        let waker = Waker::from(bell.clone());
        let mut future = pin!(future);
        for _ in 0..10_000 {
            if bell.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            let moved = self.step_or_jump();
            assert!(moved || bell.0.load(Ordering::SeqCst), "a hang");
        }
        panic!("it never ends");
    }
}
