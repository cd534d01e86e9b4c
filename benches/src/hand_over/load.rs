//! Threads that publish, and the driver that takes: what a client does around its hand-over.
//!
//! The wake-up is the client's: a push into an empty hand-over puts the producer on the ready list,
//! fences, and wakes the driver if that sleeps; the driver says that it sleeps, fences, and looks at
//! the list again. A publisher that finds no room waits in line until the driver has made some.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use lavinmq_core::{Message, Time};

use super::queues::{HandOver, Pushed};
use crate::contestants::{Latencies, latencies, record};
use crate::usage::{Counters, Usage};
use crate::{Failure, Fallible};

/// What both stages hold at most, as in a producer by default.
const CAPACITY: u64 = 10_000;

/// Messages taken at one visit, as the client's driver does.
const PER_VISIT: usize = 1024;

/// What is encoded before it is written.
const OUTPUT: usize = 64 * 1024;

/// The frames of a publish around its body, in bytes.
const FRAMES: usize = 48;

/// Acceptances after which a publish yields unless the driver ran.
const ACCEPTED_PER_TURN: u32 = 512;

/// The driver sleeps no longer than this.
const TICK: Duration = Duration::from_millis(100);

/// What one run is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) threads: usize,
    pub(super) time: Duration,
    /// What a publisher does between two messages, in rounds of [`work`]. Zero: nothing, so that
    /// the buffer is full most of the time.
    pub(super) work: u32,
    /// Read the clock around each push. Costs as much as half a push, so that CPU time is measured
    /// without.
    pub(super) timed: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    #[cfg(test)]
    pub(super) messages: u64,
    /// CPU nanoseconds a message, the driver's included.
    pub(super) cpu: f64,
    pub(super) per_second: f64,
    /// How often a publisher found no room.
    pub(super) full: u64,
    /// The time of each push that found room.
    pub(super) pushes: Latencies,
}

/// What publishers and driver share beside the hand-over.
#[derive(Default)]
struct Link {
    ready: SegQueue<u32>,
    asleep: AtomicBool,
    now: AtomicU64,
    accepted_since_turn: AtomicU32,
    /// Somebody waits for room.
    waiting: AtomicBool,
    line: Mutex<VecDeque<Thread>>,
    stop: AtomicBool,
    /// Publishers that have not stopped yet.
    publishing: AtomicUsize,
}

impl Link {
    fn notify(&self, driver: &Thread) {
        self.ready.push(1);
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self
                .asleep
                .compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            driver.unpark();
        }
    }

    /// A publisher waits until there may be room.
    fn wait_for_room(&self, hand_over: &impl HandOver) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.push_back(thread::current());
        self.waiting.store(true, Ordering::SeqCst);
        drop(line);
        fence(Ordering::SeqCst);
        if !hand_over.has_room() && !self.stop.load(Ordering::Relaxed) {
            thread::park_timeout(TICK);
        }
    }

    /// The driver has made room.
    fn let_in(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            self.waiting.store(false, Ordering::SeqCst);
            let waiting = std::mem::take(&mut *line);
            drop(line);
            waiting.into_iter().for_each(|thread| thread.unpark());
        }
    }
}

/// Lets `threads` publish as fast as they can for a while.
pub(super) fn run<H: HandOver>(load: Load) -> Fallible<Outcome> {
    run_and_see::<H>(load, |_| Ok(()))
}

/// [`run`], where `see` is shown each body that the driver writes.
fn run_and_see<H: HandOver>(load: Load, see: impl FnMut(&[u8]) -> Fallible) -> Fallible<Outcome> {
    let hand_over = H::new(CAPACITY);
    let link = Link { publishing: AtomicUsize::new(load.threads), ..Link::default() };
    let driver = thread::current();
    let (link, hand_over, driver) = (&link, &hand_over, &driver);
    thread::scope(|scope| {
        let mut nothing = Counters::default();
        let before = Usage::now(&mut nothing)?;
        let publishers: Vec<_> = (0..load.threads)
            .map(|number| scope.spawn(move || publish(hand_over, link, driver, number, load)))
            .collect();
        let taken = Driver::new()?.drive(hand_over, link, load.time, see)?;
        let cost = before.elapsed(&mut nothing)?;
        let mut outcome = Outcome {
            #[cfg(test)]
            messages: taken,
            cpu: cost.cpu.as_nanos() as f64 / taken as f64,
            per_second: taken as f64 / cost.wall.as_secs_f64(),
            full: 0,
            pushes: latencies()?,
        };
        let mut accepted = 0;
        for publisher in publishers {
            let published =
                publisher.join().map_err(|_| Failure::from("a publisher panicked"))??;
            accepted += published.count;
            outcome.full += published.full;
            outcome.pushes.add(published.pushes)?;
        }
        match accepted == taken {
            true => Ok(outcome),
            false => Err(format!("{accepted} accepted, {taken} taken").into()),
        }
    })
}

struct Published {
    count: u64,
    full: u64,
    pushes: Latencies,
}

fn publish<H: HandOver>(
    hand_over: &H,
    link: &Link,
    driver: &Thread,
    number: usize,
    load: Load,
) -> Fallible<Published> {
    let mut published = Published { count: 0, full: 0, pushes: latencies()? };
    // Sixteen bytes: who, and which.
    let mut body = [0; 16];
    body[..8].copy_from_slice(&(number as u64).to_le_bytes());
    while !link.stop.load(Ordering::Relaxed) {
        body[8..].copy_from_slice(&published.count.to_le_bytes());
        work(load.work);
        let start = load.timed.then(Instant::now);
        if link.accepted_since_turn.load(Ordering::Relaxed) >= ACCEPTED_PER_TURN {
            // A publish of the client yields to its executor here, which has nobody else to run.
            link.accepted_since_turn.store(0, Ordering::Relaxed);
        }
        let at = Time::from_nanos(link.now.load(Ordering::Relaxed));
        let pushed = hand_over.push(Message::new(&body), at);
        if matches!(pushed, Pushed::Full) {
            published.full += 1;
            link.wait_for_room(hand_over);
            continue;
        }
        let count = link.accepted_since_turn.load(Ordering::Relaxed);
        link.accepted_since_turn.store(count.wrapping_add(1), Ordering::Relaxed);
        if matches!(pushed, Pushed::First) {
            link.notify(driver);
        }
        if let Some(start) = start {
            record(&mut published.pushes, start.elapsed());
        }
        published.count += 1;
    }
    link.publishing.fetch_sub(1, Ordering::Release);
    driver.unpark();
    Ok(published)
}

/// Keeps a core busy, for about a nanosecond a round.
fn work(rounds: u32) {
    let mut x = 1_u64;
    for _ in 0..rounds {
        x = std::hint::black_box(x).wrapping_mul(3);
    }
    std::hint::black_box(x);
}

/// The driver's side: takes, keeps in a buffer, encodes, and writes what is encoded to a socket,
/// whose other end it empties itself.
struct Driver {
    buffer: VecDeque<lavinmq_core::publish::Accepted>,
    output: Vec<u8>,
    socket: UnixStream,
    peer: UnixStream,
    read: Vec<u8>,
}

impl Driver {
    fn new() -> Fallible<Self> {
        let (socket, peer) = UnixStream::pair()?;
        Ok(Self {
            buffer: VecDeque::new(),
            output: Vec::with_capacity(OUTPUT + 1024),
            socket,
            peer,
            read: vec![0; OUTPUT + 1024],
        })
    }

    /// Drives for `time`, then has publishers stop, and takes the rest. Returns how many messages
    /// that were; `each` sees the bodies.
    fn drive<H: HandOver>(
        &mut self,
        hand_over: &H,
        link: &Link,
        time: Duration,
        mut each: impl FnMut(&[u8]) -> Fallible,
    ) -> Fallible<u64> {
        let start = Instant::now();
        let mut local = H::Local::default();
        let mut again = false;
        let mut taken = 0;
        loop {
            let now = start.elapsed();
            if now >= time && !link.stop.load(Ordering::Relaxed) {
                link.stop.store(true, Ordering::Relaxed);
                link.waiting.store(true, Ordering::SeqCst);
                link.let_in();
            }
            link.now.store(now.as_nanos() as u64, Ordering::Relaxed);
            link.accepted_since_turn.store(0, Ordering::Relaxed);
            let mut visits = again;
            while link.ready.pop().is_some() {
                visits = true;
            }
            if visits {
                again = hand_over.take(&mut local, PER_VISIT, |accepted| {
                    self.buffer.push_back(accepted);
                });
            }
            let written = self.write(hand_over, &mut each)?;
            taken += written;
            if written > 0 {
                link.let_in();
            }
            if visits || written > 0 {
                continue;
            }
            if link.publishing.load(Ordering::Acquire) == 0 {
                if hand_over.accepted() == taken {
                    return Ok(taken);
                }
                continue;
            }
            link.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if link.ready.is_empty() {
                thread::park_timeout(TICK.min(time.saturating_sub(now) + Duration::from_micros(1)));
            }
            link.asleep.store(false, Ordering::Relaxed);
        }
    }

    fn write(
        &mut self,
        hand_over: &impl HandOver,
        each: &mut impl FnMut(&[u8]) -> Fallible,
    ) -> Fallible<u64> {
        let (mut messages, mut bytes) = (0, 0);
        self.output.clear();
        while self.output.len() < OUTPUT
            && let Some(accepted) = self.buffer.pop_front()
        {
            let body = accepted.message.body();
            each(body)?;
            self.output.extend_from_slice(&[0; FRAMES]);
            self.output.extend_from_slice(body);
            messages += 1;
            bytes += body.len() as u64;
        }
        if messages > 0 {
            self.socket.write_all(&self.output)?;
            self.peer.read_exact(&mut self.read[..self.output.len()])?;
            hand_over.leave(messages, bytes);
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queues::{Array, ParkingLot, ParkingLotHeld, Segmented, StdLock};
    use super::*;

    /// Each publisher's messages come in order and without a gap, and as many as it accepted.
    fn hands_over_everything_in_order<H: HandOver>() -> Fallible {
        let mut next = [0; 5];
        let load = Load { threads: 5, time: Duration::from_millis(50), work: 0, timed: true };
        let outcome = run_and_see::<H>(load, |body| {
            let (who, which) = body.split_at(8);
            let who = u64::from_le_bytes(who.try_into()?) as usize;
            let which = u64::from_le_bytes(which.try_into()?);
            if which != next[who] {
                return Err(format!("{which} of {who} instead of {}", next[who]).into());
            }
            next[who] += 1;
            Ok(())
        })?;
        assert!(outcome.messages > 0);
        assert_eq!(outcome.messages, next.iter().sum::<u64>());
        assert_eq!(outcome.messages, outcome.pushes.len());
        Ok(())
    }

    #[test]
    fn every_candidate_hands_over_everything_in_order() -> Fallible {
        hands_over_everything_in_order::<Segmented>()?;
        hands_over_everything_in_order::<Array>()?;
        hands_over_everything_in_order::<StdLock>()?;
        hands_over_everything_in_order::<ParkingLot>()?;
        hands_over_everything_in_order::<ParkingLotHeld>()
    }
}
