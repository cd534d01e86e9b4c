//! A handle leaves something and looks whether the driver sleeps; the driver says that it sleeps and
//! looks again. Whatever the order: it is found, or the driver is woken.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use futures::{FutureExt as _, channel::oneshot};
use loom::thread;

use super::{Bell, Fake, Ordering, config, models};
use crate::{
    client::{
        FireAndForget,
        consumer_queue::ConsumerShared,
        delivery::Settle,
        link::{Control, DriverLink, Hold},
    },
    config::{BufferPolicy, ConsumerConfig, QueueConfig},
    consume::Settlement,
    ids::ConsumerId,
    message::Message,
    time::Time,
};

/// What one poll of the driver does: turns until nothing is found, then to bed, as in `driver`.
fn poll_driver(link: &DriverLink, bell: &Arc<Bell>, mut turn: impl FnMut() -> bool) {
    let waker = Waker::from(Arc::clone(bell));
    let cx = Context::from_waker(&waker);
    link.woke(Time::ZERO);
    loop {
        link.begin_turn(Time::ZERO);
        if turn() {
            continue;
        }
        link.prepare_sleep(&cx);
        if link.is_idle() && !link.is_abandoned() {
            return;
        }
        link.woke(Time::ZERO);
    }
}

fn rang(bell: &Bell) -> bool {
    bell.0.load(Ordering::Relaxed) > 0
}

/// One visit to the producer if it is listed, or said that it had more.
fn visit(fake: &mut Fake, again: &mut bool) -> bool {
    let mut listed = std::mem::take(again);
    while fake.link.pop_ready().is_some() {
        listed = true;
    }
    if listed {
        *again = fake.take(1);
    }
    listed
}

fn pushed_while_the_driver_falls_asleep(publishers: usize) {
    let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 4));
    let pushing: Vec<_> = (0..publishers)
        .map(|_| {
            // Admitted before: how that goes is for other models.
            let message = Message::from("x");
            let sequence = fake.shared.admit(&message).unwrap();
            let shared = fake.shared.clone();
            thread::spawn(move || shared.push(sequence, None, message))
        })
        .collect();
    let bell = Arc::new(Bell::default());
    let link = fake.link.clone();
    let mut again = false;
    poll_driver(&link, &bell, || visit(&mut fake, &mut again));
    for pushing in pushing {
        pushing.join().unwrap();
    }
    if !rang(&bell) {
        assert!(!again && fake.shared.hand_over().is_drained(), "asleep, and messages wait");
    }
    // And when it is woken, it finds all.
    poll_driver(&link, &bell, || visit(&mut fake, &mut again));
    assert!(fake.shared.hand_over().is_drained());
    assert_eq!(fake.taken.len(), publishers);
}

/// Answers what is asked, and counts.
fn answer(link: &DriverLink, answered: &mut usize) -> bool {
    let mut found = false;
    while let Some(control) = link.pop_control() {
        drop(control);
        *answered += 1;
        found = true;
    }
    found
}

fn declare() -> (Control, oneshot::Receiver<impl Sized + use<>>) {
    let (reply, answer) = oneshot::channel();
    let config = Box::new(QueueConfig::new("orders").unwrap());
    (Control::Declare { config, reply }, answer)
}

fn consumer(link: &Arc<DriverLink>) -> Arc<ConsumerShared> {
    let config = ConsumerConfig::new("orders").unwrap();
    ConsumerShared::new(ConsumerId(7), Some(link.clone()), &config, false)
}

/// The same where only the last handle counts: whether the driver ends.
fn poll_until_abandoned(link: &DriverLink, bell: &Arc<Bell>) -> bool {
    let waker = Waker::from(Arc::clone(bell));
    link.woke(Time::ZERO);
    if link.is_abandoned() {
        return true;
    }
    link.prepare_sleep(&Context::from_waker(&waker));
    link.is_abandoned()
}

models! {
    #[test]
    fn s42_a_publish_finds_the_driver_awake_or_wakes_it(3) {
        pushed_while_the_driver_falls_asleep(1);
    }

    #[test]
    fn s42_two_publishes_and_one_of_them_lists_the_producer(1) {
        pushed_while_the_driver_falls_asleep(2);
    }

    #[test]
    fn s42_a_request_finds_the_driver_awake_or_wakes_it(3) {
        let link = DriverLink::new(Time::ZERO);
        let _hold = Hold::new(&link);
        let asking = thread::spawn({
            let link = link.clone();
            move || {
                let (control, answer) = declare();
                link.request(control);
                answer
            }
        });
        let (bell, mut answered) = (Arc::new(Bell::default()), 0);
        poll_driver(&link, &bell, || answer(&link, &mut answered));
        let _answer = asking.join().unwrap();
        assert!(answered == 1 || rang(&bell), "asleep, and a request waits");
    }

    /// `asleep` is taken back by one of two: both must have left theirs before.
    #[test]
    fn s42_two_requests_and_one_of_them_wakes_the_driver(3) {
        let link = DriverLink::new(Time::ZERO);
        let _hold = Hold::new(&link);
        let asking = [(), ()].map(|()| {
            let link = link.clone();
            thread::spawn(move || {
                let (control, answer) = declare();
                link.request(control);
                answer
            })
        });
        let (bell, mut answered) = (Arc::new(Bell::default()), 0);
        poll_driver(&link, &bell, || answer(&link, &mut answered));
        let _answers = asking.map(|asking| asking.join().unwrap());
        assert!(answered == 2 || rang(&bell), "asleep, and a request waits");
        poll_driver(&link, &bell, || answer(&link, &mut answered));
        assert_eq!(answered, 2);
    }

    #[test]
    fn f24_the_last_handle_dropped_is_noticed(3) {
        let link = DriverLink::new(Time::ZERO);
        let hold = Hold::new(&link);
        let dropping = thread::spawn(move || drop(hold));
        let bell = Arc::new(Bell::default());
        let ended = poll_until_abandoned(&link, &bell);
        dropping.join().unwrap();
        assert!(ended || rang(&bell), "asleep, and nobody holds the client");
    }

    #[test]
    fn f24_a_request_that_races_the_drivers_end_is_answered(3) {
        let link = DriverLink::new(Time::ZERO);
        let asking = thread::spawn({
            let link = link.clone();
            move || {
                let (control, answer) = declare();
                link.request(control);
                answer
            }
        });
        link.driver_gone();
        let answer = asking.join().unwrap();
        assert!(answer.now_or_never().is_some_and(|answer| answer.is_err()), "it waits for ever");
    }

    /// A consumer is on the list once; what is settled while the driver visits it is taken at this
    /// visit, or it is listed again.
    #[test]
    fn s42_a_settlement_finds_the_driver_awake_or_wakes_it(3) {
        let link = DriverLink::new(Time::ZERO);
        let _hold = Hold::new(&link);
        let shared = consumer(&link);
        let settling = thread::spawn({
            let shared = shared.clone();
            move || {
                for tag in 1..=2 {
                    assert_eq!(shared.settle(1, tag, Settlement::Ack, false), Settle::Queued);
                }
            }
        });
        let (bell, mut runs) = (Arc::new(Bell::default()), Vec::new());
        let mut turn = || {
            let mut found = false;
            while link.pop_consumer().is_some() {
                shared.take(&mut runs);
                found = true;
            }
            found
        };
        poll_driver(&link, &bell, &mut turn);
        settling.join().unwrap();
        let woken = rang(&bell);
        if woken {
            poll_driver(&link, &bell, &mut turn);
        }
        let settled: u64 = runs.iter().map(|run| run.last + 1 - run.first).sum();
        assert_eq!(settled, 2, "asleep, and a settlement waits (woken: {woken})");
    }
}
