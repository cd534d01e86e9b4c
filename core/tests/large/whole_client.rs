//! The whole client, driver included, over a transport in memory that notes what it is given.

#![expect(clippy::disallowed_types, reason = "the transport is shared with the test")]

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    FutureExt as _,
    io::{AsyncRead, AsyncWrite},
    task::noop_waker,
};
use lavinmq_core::{
    Driver, Options,
    config::Target,
    driver::with_driver,
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
    time::Time,
};
use lavinmq_testing::{BrokerState, ConnId, Personality};

use crate::*;

/// What all transports share: the broker behind them, and what they were given.
struct Wire {
    broker: BrokerState,
    /// Addresses and lengths.
    pieces: Vec<(usize, usize)>,
    /// Calls, and the bytes of each.
    writes: Vec<usize>,
    /// Bytes written at the time that the broker had the small body.
    small_at: Option<usize>,
}

impl Wire {
    fn written(&self) -> usize {
        self.writes.iter().sum()
    }
}

type Hook = Box<dyn FnMut(usize) + Send>;

#[derive(Clone)]
struct Memory {
    wire: Arc<Mutex<Wire>>,
    now: Arc<AtomicU64>,
    /// Bytes that one write takes at most.
    step: Arc<AtomicUsize>,
    /// Called after each write with the bytes written so far, while the driver is in its turn.
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Memory {
    fn new() -> Self {
        let wire = Wire {
            broker: BrokerState::new(Personality::LavinMq, 7),
            pieces: Vec::new(),
            writes: Vec::new(),
            small_at: None,
        };
        Self {
            wire: Arc::new(Mutex::new(wire)),
            now: Arc::default(),
            step: Arc::new(AtomicUsize::new(usize::MAX)),
            hook: Arc::default(),
        }
    }

    fn time(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::Relaxed))
    }
}

impl Runtime for Memory {
    type Io = Socket;
    type Timer = Clock;

    fn now(&self) -> Time {
        self.time()
    }

    fn seed(&self) -> [u8; 32] {
        [7; 32]
    }

    fn connect(&self, _: Target) -> BoxFuture<'static, Result<Socket, DialError>> {
        let memory = self.clone();
        let id = memory.wire.lock().unwrap().broker.connect(memory.time());
        async move { Ok(Socket { memory, id }) }.boxed()
    }

    fn timer(&self) -> Clock {
        Clock(self.clone())
    }

    fn writes_are_final(_: &Socket) -> bool {
        true
    }
}

/// Time stands still: whatever has to happen happens without it.
struct Clock(Memory);

impl Timer for Clock {
    fn poll_until(self: Pin<&mut Self>, _: &mut Context<'_>, at: Time) -> Poll<()> {
        if at <= self.0.time() { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct Socket {
    memory: Memory,
    id: ConnId,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let now = self.memory.time();
        let broker = &mut self.memory.wire.lock().unwrap().broker;
        let output = broker.output(self.id);
        let n = output.len().min(buffer.len());
        if n == 0 {
            return Poll::Pending;
        }
        buffer[..n].copy_from_slice(&output[..n]);
        broker.consume_output(self.id, n, now);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let now = self.memory.time();
        let most = self.memory.step.load(Ordering::Relaxed);
        let mut wire = self.memory.wire.lock().unwrap();
        let mut total = 0;
        for slice in slices {
            let n = slice.len().min(most - total);
            wire.pieces.push((slice.as_ptr().addr(), n));
            if wire.small_at.is_none() && slice[..n].windows(5).any(|window| window == b"small") {
                wire.small_at = Some(wire.written() + total);
            }
            // Without a copy of ours that would count.
            allocation_counter::opt_out(|| wire.broker.receive(self.id, &slice[..n], now));
            total += n;
        }
        wire.writes.push(total);
        let written = wire.written();
        drop(wire);
        if let Some(hook) = &mut *self.memory.hook.lock().unwrap() {
            hook(written);
        }
        Poll::Ready(Ok(total))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Polls both until the work is done.
fn run<T>(driver: &mut Driver<Memory>, work: impl Future<Output = T>) -> T {
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut work = pin!(work);
    for _ in 0..10_000 {
        assert!(driver.poll_unpin(&mut cx).is_pending(), "the driver has ended");
        if let Poll::Ready(value) = work.as_mut().poll(&mut cx) {
            return value;
        }
    }
    panic!("it never ends");
}

fn connected() -> (Memory, lavinmq_core::Client, Driver<Memory>) {
    let memory = Memory::new();
    memory.wire.lock().unwrap().broker.declare_queue("orders");
    let (client, mut driver) =
        with_driver(memory.clone(), Options::new("amqp://localhost").unwrap()).unwrap();
    run(&mut driver, client.ready()).unwrap();
    (memory, client, driver)
}

#[test]
fn a_body_of_16_mib_goes_to_poll_write_vectored_as_the_applications_own_memory() {
    for confirm in [true, false] {
        let (memory, client, mut driver) = connected();
        let message = Bytes::from(body(16 * MIB));
        let frames = (16 * MIB).div_ceil(CHUNK);
        // The first message opens the channel.
        for (text, count) in [(Bytes::from_static(b"warm-up"), false), (message.clone(), true)] {
            let producer = client.producer("orders");
            let mut opened = None;
            if confirm {
                opened = Some(run(&mut driver, producer.confirm().open()).unwrap());
            }
            let plain = run(&mut driver, client.producer("orders").open()).unwrap();
            {
                let mut wire = memory.wire.lock().unwrap();
                wire.pieces.clear();
                wire.writes.clear();
            }
            let publish = async {
                match &opened {
                    Some(producer) => producer.publish(text).await.unwrap().await.unwrap(),
                    None => {
                        plain.publish(text).await.unwrap();
                        plain.flush().await;
                    }
                }
            };
            let info = allocated(|| run(&mut driver, publish));
            if count {
                assert!(info.bytes_total <= 64 << 10, "{info:?}");
            }
        }
        let wire = memory.wire.lock().unwrap();
        let ours = |&&(at, _): &&(usize, usize)| place(&message).contains(&at);
        let inside: usize = wire.pieces.iter().filter(ours).map(|(_, length)| length).sum();
        // All but what is left for the last frame, which is short.
        assert_eq!(inside, 16 * MIB / CHUNK * CHUNK);
        // A frame a call, and a few to open the channel.
        assert!(wire.writes.len() <= frames + 6, "{} calls", wire.writes.len());
        let stored = wire.broker.messages("orders");
        assert!(stored.last().unwrap().body == message);
    }
}

/// What the driver writes before it looks at what was published meanwhile, what is encoded by then, and
/// the large body's next frame.
const TURN: usize = (512 << 10) + 131_072;

#[test]
fn a_small_publish_in_the_middle_of_a_drivers_turn_waits_for_a_bounded_number_of_bytes() {
    for step in [usize::MAX, 100_000, 10_000] {
        let (memory, client, mut driver) = connected();
        let large = run(&mut driver, client.producer("orders").confirm().open()).unwrap();
        let small = run(&mut driver, client.producer("orders").confirm().open()).unwrap();
        for producer in [&large, &small] {
            run(&mut driver, async {
                producer.publish("warm-up").await.unwrap().await.unwrap();
            });
        }
        memory.wire.lock().unwrap().writes.clear();
        memory.step.store(step, Ordering::Relaxed);
        // Published by somebody else, at any time while the driver is writing: here in the middle.
        let published = Arc::new(Mutex::new(None));
        let (waiting, other) = (Arc::clone(&published), small.clone());
        *memory.hook.lock().unwrap() = Some(Box::new(move |written| {
            let mut published = waiting.lock().unwrap();
            if written > 5 * MIB && published.is_none() {
                *published = Some((written, other.try_publish("small").unwrap()));
            }
        }));
        run(&mut driver, async {
            large.publish(body(16 * MIB)).await.unwrap().await.unwrap();
        });
        let (at, receipt) = published.lock().unwrap().take().unwrap();
        run(&mut driver, receipt).unwrap();
        let passed = memory.wire.lock().unwrap().small_at.unwrap() - at;
        assert!(passed <= TURN, "{passed} bytes, {step} at a time");
        *memory.hook.lock().unwrap() = None;
    }
}

/// One poll of the driver, over a transport that takes all that it is given: then the other tasks on
/// its thread have their turn.
#[test]
fn one_poll_of_the_driver_moves_a_bounded_number_of_bytes() {
    const MOST: usize = 2 * MIB;
    let (memory, client, mut driver) = connected();
    let large = run(&mut driver, client.producer("orders").confirm().open()).unwrap();
    run(&mut driver, async {
        large.publish("warm-up").await.unwrap().await.unwrap();
    });
    memory.wire.lock().unwrap().writes.clear();
    let receipt = large.try_publish(body(16 * MIB)).unwrap();
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let (mut polls, mut before) = (0, 0);
    while before < 16 * MIB {
        assert!(driver.poll_unpin(&mut cx).is_pending());
        let written = memory.wire.lock().unwrap().written();
        assert!(written - before <= MOST, "{} bytes in one poll", written - before);
        assert!(written > before, "it stopped at {written}");
        before = written;
        polls += 1;
    }
    assert!(polls >= 8, "{polls}");
    run(&mut driver, receipt).unwrap();

    // The same on the way in.
    let mut consumer = run(&mut driver, client.consumer("orders").open()).unwrap();
    let first = run(&mut driver, consumer.next()).unwrap();
    assert_eq!(first.body(), b"warm-up");
    let mut polls = 0;
    let whole = loop {
        assert!(driver.poll_unpin(&mut cx).is_pending());
        polls += 1;
        if let Some(whole) = consumer.next().now_or_never() {
            break whole.unwrap();
        }
    };
    assert!(whole.body() == body(16 * MIB));
    // About a megabyte each; what had come with the first message is not counted.
    assert!(polls >= 12, "{polls}");
}
