//! The admission half of the conservation law, after every step of random runs.

use std::task::Poll;

use futures::future::Either;

use super::{Fake, Task, config};
use crate::{
    client::{Confirm, Receipt},
    config::{BufferPolicy, WhenOffline},
    error::{NotConfirmed, PublishError},
    event::Verdict,
    session::Flow,
    stats::ProducerStats,
    time::Time,
};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What the test itself saw.
#[derive(Default)]
struct Seen {
    polled: u64,
    accepted: u64,
    full: u64,
    offline: u64,
    closed: u64,
    invalid: u64,
    timed_out: u64,
    confirmed: u64,
    bad: u64,
}

impl Seen {
    fn refused(&mut self, error: &PublishError) {
        *match error {
            PublishError::Full(_) => &mut self.full,
            PublishError::Closed(_) => &mut self.closed,
            PublishError::Offline(..) => &mut self.offline,
            PublishError::Invalid(..) => &mut self.invalid,
            PublishError::TimedOut(_) => &mut self.timed_out,
        } += 1;
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let policy = [BufferPolicy::Block, BufferPolicy::Error, BufferPolicy::DropOldest]
        [random.below(3) as usize];
    let mut config = config::<Confirm>(policy, 1 + random.below(6) as usize);
    config.buffer_bytes = 40;
    if random.below(2) == 0 {
        config.when_offline = WhenOffline::Fail;
    }
    if random.below(2) == 0 {
        config.publish_timeout = Some(std::time::Duration::from_nanos(50));
    }
    let mut fake = Fake::new(config);
    let producer = fake.producer::<Confirm>();
    let mut waiting = Vec::new();
    let mut receipts: Vec<Task<Receipt>> = Vec::new();
    let mut numbers = Vec::new();
    let mut seen = Seen::default();
    let mut dropped = 0;

    for step in 0..400 {
        match random.below(16) {
            0..6 => {
                let size = if random.below(20) == 0 { 41 } else { random.below(20) as usize };
                let publish = if random.below(2) == 0 {
                    Either::Left(producer.publish("x".repeat(size)))
                } else {
                    Either::Right(producer.publish_to("k", vec![b'y'; size]))
                };
                waiting.push((Task::new(publish), false));
            }
            6 => {
                seen.polled += 1;
                match producer.try_publish("z".repeat(random.below(20) as usize)) {
                    Ok(receipt) => {
                        seen.accepted += 1;
                        numbers.push(receipt.sequence());
                        receipts.push(Task::new(receipt));
                    }
                    Err(error) => seen.refused(&error),
                }
            }
            7 if !waiting.is_empty() => {
                let (task, polled) =
                    waiting.swap_remove(random.below(waiting.len() as u64) as usize);
                dropped += u64::from(polled);
                drop(task);
            }
            8 if !receipts.is_empty() => {
                let last = receipts.len() as u64;
                drop(receipts.swap_remove(random.below(last) as usize));
            }
            9 => fake.now = Time::from_nanos(fake.now.as_nanos() + random.below(40)),
            10 => {
                fake.flow = Flow { may_evict: random.below(2) == 0, offline: random.below(3) == 0 };
            }
            11 => {
                fake.take(random.below(4) as usize);
            }
            12 => {
                let n = random.below(4) as usize;
                fake.send(n);
            }
            13 if !fake.in_flight.is_empty() => {
                let place = random.below(fake.in_flight.len() as u64) as usize;
                let sequence = *fake.in_flight.keys().nth(place).unwrap();
                fake.settle(sequence, (random.below(3) == 0).then_some(Verdict::Nacked));
            }
            14 if step > 300 && random.below(20) == 0 => fake.shared.close(),
            _ => {
                fake.turn(random.below(5) as usize);
            }
        }
        poll_woken(&mut waiting, &mut receipts, &mut numbers, &mut seen);
        check(&fake.shared.snapshot(fake.session), &seen, &waiting, dropped);
    }
    // The link stands again, and the driver keeps running: nobody is left behind.
    for _ in 0..400 {
        fake.flow = Flow::default();
        fake.now = Time::from_nanos(fake.now.as_nanos() + 5);
        fake.turn(3);
        while let Some(&sequence) = fake.in_flight.keys().next() {
            fake.settle(sequence, None);
        }
        fake.tell();
        poll_woken(&mut waiting, &mut receipts, &mut numbers, &mut seen);
    }
    assert_eq!((waiting.len(), receipts.len()), (0, 0), "seed {seed}: somebody was forgotten");
    let stats = fake.turn(0);
    check(&stats, &seen, &waiting, dropped);
    assert_eq!((stats.queued, stats.in_flight, stats.queued_bytes), (0, 0, 0));
    assert_eq!((producer.buffer_size(), stats.accepted), (0, seen.accepted));
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0), "seed {seed}");
    numbers.sort_unstable();
    fake.taken.sort_unstable();
    assert_eq!(numbers, (1..=stats.accepted).collect::<Vec<_>>(), "no number is missing or twice");
    assert_eq!(numbers, fake.taken, "each accepted message came out once");
}

/// As an executor: until nobody was woken.
fn poll_woken<F>(
    waiting: &mut Vec<(Task<F>, bool)>,
    receipts: &mut Vec<Task<Receipt>>,
    numbers: &mut Vec<u64>,
    seen: &mut Seen,
) where
    F: Future<Output = Result<Receipt, PublishError>>,
{
    while waiting.iter().any(|(task, _)| task.is_woken()) {
        let mut i = 0;
        while i < waiting.len() {
            let (task, polled) = &mut waiting[i];
            if task.is_woken() && !*polled {
                *polled = true;
                seen.polled += 1;
            }
            match task.run() {
                Poll::Pending => {
                    i += 1;
                    continue;
                }
                Poll::Ready(Ok(receipt)) => {
                    seen.accepted += 1;
                    numbers.push(receipt.sequence());
                    receipts.push(Task::new(receipt));
                }
                Poll::Ready(Err(error)) => seen.refused(&error),
            }
            waiting.remove(i);
        }
    }
    receipts.retain_mut(|receipt| match receipt.run() {
        Poll::Pending => true,
        Poll::Ready(Ok(())) => {
            seen.confirmed += 1;
            false
        }
        Poll::Ready(Err(NotConfirmed { .. })) => {
            seen.bad += 1;
            false
        }
    });
}

fn check<F: Future>(stats: &ProducerStats, seen: &Seen, waiting: &[(Task<F>, bool)], dropped: u64) {
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.offered, seen.polled);
    assert_eq!(stats.accepted, seen.accepted);
    assert_eq!(stats.waiting, waiting.len() as u64);
    assert_eq!(stats.cancelled, dropped);
    assert_eq!(stats.refused_full, seen.full);
    assert_eq!(stats.refused_offline, seen.offline);
    assert_eq!(stats.refused_closed, seen.closed);
    assert_eq!(stats.refused_invalid, seen.invalid);
    assert_eq!(stats.timed_out, seen.timed_out);
    assert!(seen.confirmed + seen.bad <= stats.settled());
}

#[test]
fn the_admission_law_holds_after_every_step() {
    for seed in 0..300 {
        run(seed);
    }
}
