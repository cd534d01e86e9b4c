//! Many threads: counts only, no timing.
#![expect(clippy::disallowed_methods, reason = "threads are what is tested")]

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use super::{Fake, config};
use crate::{
    client::{Confirm, FireAndForget, Producer},
    config::BufferPolicy,
    event::Verdict,
    session::Flow,
};

const THREADS: usize = 8;
const EACH: usize = 4000;

/// Unparks a thread; a wake-up that comes too early is remembered.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(), // a lost wake-up hangs here
        }
    }
}

/// Runs the driver until everybody is done. It sleeps exactly as the real one does.
fn drive(mut fake: Fake, working: &AtomicUsize, settle: Option<Option<Verdict>>) -> Fake {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let cx = Context::from_waker(&waker);
    loop {
        fake.link.woke(fake.now);
        while fake.link.pop_ready().is_some() {}
        let mut busy = true;
        while busy {
            busy = fake.take(100);
            fake.send(usize::MAX);
            while let Some(verdict) = &settle
                && let Some(&sequence) = fake.in_flight.keys().next_back()
            {
                fake.settle(sequence, verdict.clone()); // the newest first
            }
            fake.tell();
        }
        if working.load(Ordering::SeqCst) == 0 && fake.shared.hand_over().is_drained() {
            return fake;
        }
        fake.link.prepare_sleep(&cx);
        if fake.link.is_idle() && working.load(Ordering::SeqCst) > 0 {
            thread::park();
        }
    }
}

fn stress(policy: BufferPolicy, size: usize, flow: Flow, publish: fn(&Producer<Confirm>, usize)) {
    stress_with(None, policy, size, flow, publish);
}

fn stress_with(
    verdict: Option<Verdict>,
    policy: BufferPolicy,
    size: usize,
    flow: Flow,
    publish: fn(&Producer<Confirm>, usize),
) {
    let mut fake = Fake::new(config::<Confirm>(policy, size));
    fake.flow = flow;
    fake.tell();
    let working = AtomicUsize::new(THREADS);
    let link = fake.link.clone();
    let producer = fake.producer::<Confirm>();
    let mut fake = thread::scope(|scope| {
        for _ in 0..THREADS {
            let (producer, link, working) = (producer.clone(), &link, &working);
            scope.spawn(move || {
                (0..EACH).for_each(|i| publish(&producer, i));
                working.fetch_sub(1, Ordering::SeqCst);
                link.wake();
            });
        }
        drive(fake, &working, Some(verdict))
    });
    let stats = fake.tell();
    assert_eq!((stats.queued, stats.in_flight, stats.waiting), (0, 0, 0));
    assert_eq!(stats.accepted + stats.refused_full, (THREADS * EACH) as u64);
    fake.taken.sort_unstable();
    assert!(fake.taken.iter().copied().eq(1..=stats.accepted), "a number is missing or twice");
    assert_eq!(producer.buffer_size(), 0);
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0));
}

#[test]
fn eight_threads_that_wait_for_room() {
    stress(BufferPolicy::Block, 16, Flow::default(), |producer, _| {
        block_on(producer.publish("x")).unwrap().detach();
    });
}

#[test]
fn eight_threads_that_never_wait() {
    stress(BufferPolicy::Block, 64, Flow::default(), |producer, _| {
        if let Ok(receipt) = producer.try_publish("x") {
            receipt.detach();
        }
    });
}

#[test]
fn eight_threads_with_a_free_fast_path_that_await_their_receipts() {
    stress(BufferPolicy::Block, 10_000, Flow::default(), |producer, i| {
        let receipt = block_on(producer.publish("x")).unwrap();
        if i % 16 == 0 {
            block_on(receipt).unwrap();
        } else {
            receipt.detach();
        }
    });
}

#[test]
fn eight_threads_that_drop_the_receipts_of_nacked_messages() {
    let verdict = Some(Verdict::Nacked);
    stress_with(verdict, BufferPolicy::Block, 10_000, Flow::default(), |producer, i| {
        let receipt = block_on(producer.publish("x")).unwrap();
        match i % 8 {
            0 => assert!(block_on(receipt).is_err()),
            1 => thread::yield_now(), // dropped a little later
            _ => receipt.detach(),
        }
    });
}

#[test]
fn eight_threads_that_evict() {
    stress(BufferPolicy::DropOldest, 8, Flow { may_evict: true, offline: false }, |producer, i| {
        if i % 2 == 0 {
            block_on(producer.publish("x")).unwrap().detach();
        } else if let Ok(receipt) = producer.try_publish("y") {
            receipt.detach();
        }
    });
}

#[test]
fn eight_threads_that_give_up_their_places() {
    let fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 4));
    let working = AtomicUsize::new(THREADS);
    let link = fake.link.clone();
    let producer = fake.producer::<FireAndForget>();
    let accepted = AtomicUsize::new(0);
    let mut fake = thread::scope(|scope| {
        for _ in 0..THREADS {
            let (producer, link, working, accepted) =
                (producer.clone(), &link, &working, &accepted);
            scope.spawn(move || {
                for i in 0..EACH {
                    let mut publish = producer.publish("x");
                    if i % 3 == 0 {
                        let waker = Waker::noop();
                        let poll = pin!(&mut publish).poll(&mut Context::from_waker(waker));
                        accepted.fetch_add(usize::from(poll.is_ready()), Ordering::SeqCst);
                    } else {
                        block_on(publish).unwrap();
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                }
                working.fetch_sub(1, Ordering::SeqCst);
                link.wake();
            });
        }
        drive(fake, &working, None)
    });
    let stats = fake.tell();
    assert_eq!(stats.accepted as usize, accepted.into_inner());
    assert_eq!((stats.waiting, stats.offered as usize), (0, THREADS * EACH));
    fake.taken.sort_unstable();
    assert!(fake.taken.iter().copied().eq(1..=stats.accepted));
}

/// Everything at once: each thread publishes in its own ways, gives up, flushes and lets receipts go,
/// and the producer is closed in the middle. What each thread was told is what the driver was given.
fn closed_in_the_middle(policy: BufferPolicy, may_evict: bool) {
    let mut fake = Fake::new(config::<Confirm>(policy, 8));
    fake.flow = Flow { may_evict, offline: false };
    fake.tell();
    let working = AtomicUsize::new(THREADS);
    let link = fake.link.clone();
    let producer = fake.producer::<Confirm>();
    let (mut fake, accepted) = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                let (producer, link, working) = (producer.clone(), &link, &working);
                scope.spawn(move || {
                    let mut accepted = Vec::new();
                    for i in 0..EACH {
                        let body = format!("{t} {i}");
                        if every_way(&producer, &body, t + i) {
                            accepted.push(body.into_bytes());
                        }
                    }
                    working.fetch_sub(1, Ordering::SeqCst);
                    link.wake();
                    accepted
                })
            })
            .collect();
        let shared = fake.shared.clone();
        scope.spawn(move || {
            // Roughly in the middle; where exactly is for the threads to find out.
            while shared.hand_over().accepted() < (THREADS * EACH / 4) as u64 {
                thread::yield_now();
            }
            shared.close();
        });
        let fake = drive(fake, &working, Some(None));
        (fake, threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>())
    });
    let stats = fake.tell();
    assert_eq!((stats.queued, stats.in_flight, stats.waiting), (0, 0, 0));
    assert_eq!(stats.offered, (THREADS * EACH) as u64, "{stats:?}");
    assert!(stats.refused_closed > 0, "{stats:?}");
    fake.taken.sort_unstable();
    assert!(fake.taken.iter().copied().eq(1..=stats.accepted), "a number is missing or twice");
    let mut told: Vec<_> = accepted.concat();
    assert_eq!(told.len() as u64, stats.accepted);
    told.sort_unstable();
    fake.bodies.sort_unstable();
    assert!(told == fake.bodies, "accepted is not what was taken");
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0));
}

/// Publishes in one of many ways. Whether it was accepted.
fn every_way(producer: &Producer<Confirm>, body: &str, way: usize) -> bool {
    let published = match way % 5 {
        0 => Some(producer.try_publish(body)),
        1 => {
            // Dropped in line, perhaps with room granted.
            let mut publish = producer.publish(body);
            let waker = Waker::noop();
            let mut cx = Context::from_waker(waker);
            let first = pin!(&mut publish).poll(&mut cx);
            thread::yield_now();
            match first {
                Poll::Ready(published) => Some(published),
                Poll::Pending if way.is_multiple_of(2) => None,
                Poll::Pending => match pin!(&mut publish).poll(&mut cx) {
                    Poll::Ready(published) => Some(published),
                    Poll::Pending => None,
                },
            }
        }
        _ => Some(block_on(producer.publish(body))),
    };
    let Some(Ok(receipt)) = published else { return false };
    match way % 3 {
        0 => block_on(receipt).unwrap_or_default(), // evicted, perhaps
        1 => receipt.detach(),
        _ => {
            let mut receipt = receipt;
            let _ = pin!(&mut receipt).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
    true
}

#[test]
fn eight_threads_that_wait_as_the_producer_closes() {
    closed_in_the_middle(BufferPolicy::Block, false);
}

#[test]
fn eight_threads_that_are_refused_as_the_producer_closes() {
    closed_in_the_middle(BufferPolicy::Error, false);
}

#[test]
fn eight_threads_that_evict_as_the_producer_closes() {
    closed_in_the_middle(BufferPolicy::DropOldest, true);
}

#[test]
fn f24_a_driver_that_ends_takes_what_is_being_handed_over() {
    for _ in 0..200 {
        let fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 8));
        let producer = fake.producer::<FireAndForget>();
        let stop = AtomicBool::new(false);
        let accepted = AtomicUsize::new(0);
        let taken = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while producer.try_publish("x").is_ok() {
                        accepted.fetch_add(1, Ordering::SeqCst);
                        stop.store(true, Ordering::SeqCst);
                    }
                });
            }
            while !stop.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            let mut taken = 0;
            fake.shared.close();
            fake.shared.take_rest(|_, _| taken += 1);
            taken
        });
        assert_eq!(taken, accepted.into_inner());
    }
}
