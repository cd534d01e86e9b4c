//! The sleep protocol between handles and driver, under real threads.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a lost wake-up needs threads to happen"
)]

use std::{
    sync::{Arc, mpsc},
    task::{Context, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use crate::{
    client::link::{DriverLink, Hold},
    ids::ConsumerId,
    time::Time,
};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How long nothing may happen before the wake-up counts as lost. Never waited for when all is well.
const LOST: Duration = Duration::from_secs(20);

/// Two threads play ping-pong with a driver that sleeps whenever it finds nothing.
#[test]
fn s42_no_wake_up_is_lost_between_the_last_look_and_the_sleep() {
    const ROUNDS: u32 = 20_000;
    let link = DriverLink::new(Time::ZERO);
    let hold = Hold::new(&link);
    let (answers, answered) = mpsc::channel();

    let driver = thread::spawn({
        let link = Arc::clone(&link);
        move || {
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let cx = Context::from_waker(&waker);
            let mut slept = 0_u32;
            loop {
                link.woke(Time::ZERO);
                while let Some(ConsumerId(round)) = link.pop_consumer() {
                    answers.send(round).unwrap();
                }
                if link.is_abandoned() {
                    return slept;
                }
                link.prepare_sleep(&cx);
                if link.is_idle() && !link.is_abandoned() {
                    slept += 1;
                    thread::park_timeout(LOST);
                }
            }
        }
    });
    for round in 0..ROUNDS {
        link.notify_consumer(ConsumerId(round));
        // Awake for the answer, so that the next notification meets the driver on its way to bed.
        let answer = (0..5_000)
            .find_map(|_| answered.try_recv().ok())
            .map_or_else(|| answered.recv_timeout(LOST / 2), Ok);
        (0..round % 97).for_each(|_| std::hint::spin_loop());
        assert_eq!(answer, Ok(round), "the driver sleeps through a notification");
    }
    drop(hold);
    assert!(driver.join().unwrap() > 0, "it never slept");
}

/// Whoever asks after the driver is gone is answered all the same.
#[test]
fn a_request_that_races_the_drivers_end_is_never_left_waiting() {
    use futures::{FutureExt as _, channel::oneshot};

    use crate::{client::link::Control, config::QueueConfig};

    for _ in 0..500 {
        let link = DriverLink::new(Time::ZERO);
        let ending = thread::spawn({
            let link = Arc::clone(&link);
            move || link.driver_gone()
        });
        let (reply, answer) = oneshot::channel();
        let config = Box::new(QueueConfig::new("orders").unwrap());
        link.request(Control::Declare { config, reply });
        ending.join().unwrap();
        assert!(answer.now_or_never().is_some_and(|answer| answer.is_err()));
    }
}

/// A waker keeps its task in memory: handles of a closed client must not.
#[test]
fn a_driver_that_is_gone_leaves_no_waker_behind() {
    let link = DriverLink::new(Time::ZERO);
    let task = Arc::new(Unpark(thread::current()));
    link.prepare_sleep(&Context::from_waker(&Waker::from(Arc::clone(&task))));
    assert_eq!(Arc::strong_count(&task), 2);
    link.driver_gone();
    assert_eq!(Arc::strong_count(&task), 1);
}
