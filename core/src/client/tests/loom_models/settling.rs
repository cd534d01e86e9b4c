//! Consumers: settlements on their way to the driver, deliveries on their way from it.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use loom::thread;

use super::{Bell, Ordering, models};
use crate::{
    client::{
        consumer_queue::{ConsumerShared, Taken},
        delivery::{Parcel, Settle},
        link::{DriverLink, Hold},
        settles::SettleLog,
    },
    config::ConsumerConfig,
    consume::{Batch, SettleRun, Settlement},
    event::EndReason,
    ids::ConsumerId,
    time::Time,
};

/// The tags that runs settle, in order.
fn tags(runs: &[SettleRun], settlement: Settlement) -> Vec<u64> {
    let mut tags: Vec<_> = runs
        .iter()
        .filter(|run| run.settlement == settlement)
        .flat_map(|run| run.first..=run.last)
        .collect();
    tags.sort_unstable();
    tags
}

fn batch(first: u64, last: u64) -> Arc<Batch> {
    let mut batch = Batch::new(1);
    for tag in first..=last {
        batch.push(tag, false, &[0, 0], &[0, 0], b"x");
    }
    Arc::new(batch)
}

struct World {
    link: Arc<DriverLink>,
    _hold: Hold,
    shared: Arc<ConsumerShared>,
}

fn world() -> World {
    let link = DriverLink::new(Time::ZERO);
    let config = ConsumerConfig::new("orders").unwrap();
    let shared = ConsumerShared::new(ConsumerId(7), Some(link.clone()), &config, false);
    World { _hold: Hold::new(&link), link, shared }
}

impl World {
    /// A visit, if the consumer is listed.
    fn visit(&self, runs: &mut Vec<SettleRun>) -> Option<Taken> {
        self.link.pop_consumer()?;
        Some(self.shared.take(runs))
    }
}

/// Polls for a parcel, with a bell.
fn poll(shared: &ConsumerShared) -> (Poll<Option<Arc<Parcel>>>, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    (shared.poll_parcel(&Context::from_waker(&waker)), bell)
}

fn rang(bell: &Bell) -> bool {
    bell.0.load(Ordering::Relaxed) > 0
}

fn wake(waker: Option<Waker>) {
    waker.into_iter().for_each(Waker::wake);
}

models! {
    /// Acks in the order of delivery take one compare-and-swap, against a driver that drains and
    /// another that settles out of order.
    #[test]
    fn acks_in_order_and_the_drivers_drain_lose_nothing(3) {
        let log = Arc::new(SettleLog::default());
        let acking = thread::spawn({
            let log = log.clone();
            move || {
                for tag in 1..=3 {
                    assert_eq!(log.note(1, tag, Settlement::Ack, false), Settle::Queued);
                }
            }
        });
        let mut runs = Vec::new();
        log.lock().take(&mut runs);
        log.lock().take(&mut runs);
        acking.join().unwrap();
        log.lock().take(&mut runs);
        assert_eq!(tags(&runs, Settlement::Ack), [1, 2, 3]);
    }

    #[test]
    fn two_that_ack_and_one_that_rejects_lose_nothing(3) {
        let log = Arc::new(SettleLog::default());
        assert_eq!(log.note(1, 1, Settlement::Ack, false), Settle::Queued); // the shortcut is open
        let settling = [(2, Settlement::Ack), (3, Settlement::Reject)].map(|(tag, settlement)| {
            let log = log.clone();
            thread::spawn(move || assert_eq!(log.note(1, tag, settlement, false), Settle::Queued))
        });
        assert_eq!(log.note(1, 4, Settlement::Ack, false), Settle::Queued);
        let mut runs = Vec::new();
        log.lock().take(&mut runs);
        for settling in settling {
            settling.join().unwrap();
        }
        log.lock().take(&mut runs);
        assert_eq!(tags(&runs, Settlement::Ack), [1, 2, 4]);
        assert_eq!(tags(&runs, Settlement::Reject), [3]);
    }

    /// `reject_through` settles what is not acked by then, and an ack after it says so.
    #[test]
    fn s34_an_ack_beside_a_reject_through_is_queued_or_says_that_it_came_late(3) {
        let log = Arc::new(SettleLog::default());
        assert_eq!(log.note(1, 1, Settlement::Ack, false), Settle::Queued);
        let acking = thread::spawn({
            let log = log.clone();
            move || log.note(1, 2, Settlement::Ack, false)
        });
        assert_eq!(log.note(1, 3, Settlement::Reject, true), Settle::Queued);
        let mut runs = Vec::new();
        let acked = acking.join().unwrap();
        log.lock().take(&mut runs);
        match acked {
            Settle::Queued => {
                assert_eq!(tags(&runs, Settlement::Ack), [1, 2]);
                assert_eq!(tags(&runs, Settlement::Reject), [3]);
            }
            late => {
                assert_eq!(late, Settle::AlreadySettled);
                assert_eq!(tags(&runs, Settlement::Ack), [1]);
                assert_eq!(tags(&runs, Settlement::Reject), [2, 3]);
            }
        }
    }

    #[test]
    fn a_generation_that_begins_settles_none_of_the_old_ones_tags(3) {
        let log = Arc::new(SettleLog::default());
        assert_eq!(log.note(1, 1, Settlement::Ack, false), Settle::Queued);
        let acking = thread::spawn({
            let log = log.clone();
            move || assert_eq!(log.note(1, 2, Settlement::Ack, false), Settle::Queued)
        });
        assert_eq!(log.note(2, 1, Settlement::Ack, false), Settle::Queued);
        assert_eq!(log.note(2, 2, Settlement::Ack, false), Settle::Queued);
        acking.join().unwrap();
        let mut runs = Vec::new();
        log.lock().take(&mut runs);
        let of = |generation| {
            let runs: Vec<_> =
                runs.iter().filter(|run| run.generation == generation).copied().collect();
            tags(&runs, Settlement::Ack)
        };
        assert_eq!((of(1), of(2)), (vec![1, 2], vec![1, 2]));
    }

    /// Everything that was settled is taken: at the visit that runs, or at another that is announced.
    #[test]
    fn what_is_settled_during_a_visit_is_taken_or_announced(3) {
        let world = world();
        let settling = [1, 2].map(|tag| {
            let shared = world.shared.clone();
            thread::spawn(move || {
                assert_eq!(shared.settle(1, tag, Settlement::Ack, false), Settle::Queued);
            })
        });
        let mut runs = Vec::new();
        world.visit(&mut runs);
        for settling in settling {
            settling.join().unwrap();
        }
        while world.visit(&mut runs).is_some() {}
        assert_eq!(tags(&runs, Settlement::Ack), [1, 2], "settled, and nobody says so");
    }

    #[test]
    fn bytes_consumed_during_a_visit_are_taken_or_announced(3) {
        let link = DriverLink::new(Time::ZERO);
        let config = ConsumerConfig {
            no_ack: true,
            queue_bytes: 8,
            ..ConsumerConfig::new("orders").unwrap()
        };
        let shared = ConsumerShared::new(ConsumerId(7), Some(link.clone()), &config, false);
        let world = World { _hold: Hold::new(&link), link, shared };
        let weight = batch(1, 1).weight();
        let consuming = thread::spawn({
            let shared = world.shared.clone();
            move || (0..2).for_each(|_| shared.finished(&batch(1, 1)))
        });
        let mut consumed = 0;
        let mut visit = || world.visit(&mut Vec::new()).map(|taken| consumed += taken.consumed);
        visit();
        consuming.join().unwrap();
        while visit().is_some() {}
        assert_eq!(consumed, 2 * weight, "consumed, and nobody says so");
    }

    #[test]
    fn a_consumer_that_looks_as_a_batch_comes_has_it_or_is_woken(3) {
        let world = world();
        let looking = thread::spawn({
            let shared = world.shared.clone();
            move || poll(&shared)
        });
        wake(world.shared.push(batch(1, 1)));
        let (found, bell) = looking.join().unwrap();
        assert!(matches!(found, Poll::Ready(Some(_))) || rang(&bell), "a batch, and it sleeps");
        assert!(found.is_ready() || matches!(poll(&world.shared).0, Poll::Ready(Some(_))));
    }

    /// A batch arrives as the application closes: each delivery is seen or handed back, none is both
    /// but the one in between (which answers that it is settled already).
    #[test]
    fn s48_a_batch_that_comes_as_the_consumer_closes_is_handed_back(3) {
        let world = world();
        let closing = thread::spawn({
            let shared = world.shared.clone();
            move || assert!(shared.begin_close())
        });
        wake(world.shared.push(batch(1, 2)));
        closing.join().unwrap();
        let mut runs = Vec::new();
        while world.visit(&mut runs).is_some() {}
        assert_eq!(tags(&runs, Settlement::Requeue), [1, 2], "neither seen nor handed back");
        assert!(matches!(poll(&world.shared).0, Poll::Ready(None)));
    }

    /// The application takes a batch as the driver takes everything back: the batch is handed back
    /// whole, or the application has it, and the driver the rest.
    #[test]
    fn s48_a_batch_taken_as_the_consumer_is_closed_is_shared_out(3) {
        let world = world();
        wake(world.shared.push(batch(1, 2)));
        let taking = thread::spawn({
            let shared = world.shared.clone();
            move || match poll(&shared).0 {
                // As `Consumer::poll_next` does for the first of two.
                Poll::Ready(Some(parcel)) if shared.is_current(&parcel) => {
                    shared.set_shown(1);
                    Some(shared.settle(1, 1, Settlement::Ack, false))
                }
                Poll::Ready(Some(_)) => {
                    shared.hand_back_current();
                    None
                }
                Poll::Ready(None) | Poll::Pending => None,
            }
        });
        let (first, waker) = world.shared.hand_back_all(EndReason::ClientClosed);
        assert!(first);
        wake(waker);
        let seen = taking.join().unwrap();
        // Dropping the consumer hands back what is left of a batch.
        world.shared.begin_close();
        let mut runs = Vec::new();
        while world.visit(&mut runs).is_some() {}
        let (acked, back) = (tags(&runs, Settlement::Ack), tags(&runs, Settlement::Requeue));
        match seen {
            Some(Settle::Queued) => assert!(acked == [1] && back.ends_with(&[2]), "{runs:?}"),
            Some(Settle::AlreadySettled) => assert!(acked.is_empty() && back == [1, 2], "{runs:?}"),
            Some(other) => panic!("{other:?}"),
            None => assert!(acked.is_empty() && back == [1, 2], "{runs:?}"),
        }
    }

    /// The timer of `next_batch` is asked for as the driver visits.
    #[test]
    fn a_timer_asked_for_during_a_visit_is_started_or_announced(3) {
        let world = world();
        wake(world.shared.push(batch(1, 1)));
        let asking = thread::spawn({
            let shared = world.shared.clone();
            move || {
                shared.settle(1, 1, Settlement::Ack, false);
                let bell = Arc::new(Bell::default());
                let waker = Waker::from(bell.clone());
                let cx = Context::from_waker(&waker);
                let poll = shared.poll_enough(&cx, 0, 2, Duration::from_secs(1));
                assert!(poll.is_pending());
                bell
            }
        });
        let mut runs = Vec::new();
        let mut started = world.visit(&mut runs).is_some_and(|taken| taken.linger.is_some());
        let bell = asking.join().unwrap();
        while let Some(taken) = world.visit(&mut runs) {
            started |= taken.linger.is_some();
        }
        assert!(started, "asked for, and never started");
        assert_eq!(tags(&runs, Settlement::Ack), [1]);
        wake(world.shared.linger_over());
        assert!(rang(&bell));
    }

    #[test]
    fn whoever_waits_for_the_end_as_it_comes_is_told(3) {
        let world = world();
        let waiting = thread::spawn({
            let shared = world.shared.clone();
            move || {
                let bell = Arc::new(Bell::default());
                let waker = Waker::from(bell.clone());
                let ended = shared.poll_ended(&Context::from_waker(&waker), &mut None);
                (ended, poll(&shared), bell)
            }
        });
        let mut wakers = Vec::new();
        world.shared.end(EndReason::Closed, 0, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        let (ended, (stream, stream_bell), bell) = waiting.join().unwrap();
        assert!(ended.is_ready() || rang(&bell));
        assert!(matches!(stream, Poll::Ready(None)) || rang(&stream_bell));
    }

    #[test]
    fn settled_is_told_when_the_last_settlement_is_written(3) {
        let world = world();
        world.shared.settle(1, 1, Settlement::Ack, false);
        let mut runs = Vec::new();
        world.visit(&mut runs);
        let waiting = thread::spawn({
            let shared = world.shared.clone();
            move || {
                let bell = Arc::new(Bell::default());
                let waker = Waker::from(bell.clone());
                let cx = Context::from_waker(&waker);
                let target = shared.settle_target();
                (shared.poll_settled(&cx, target, &mut None), bell)
            }
        });
        let mut wakers = Vec::new();
        world.shared.settles_written(1, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        let (settled, bell) = waiting.join().unwrap();
        assert!(settled.is_ready() || rang(&bell), "written, and it sleeps");
    }
}
