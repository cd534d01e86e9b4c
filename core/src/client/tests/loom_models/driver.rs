//! The real driver, session included, on a runtime that never connects: whatever a handle asks for is
//! found or wakes it.

use std::{
    future::{Future as _, pending},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::FutureExt as _;
use loom::thread;

use super::{Bell, Ordering, models, poll_once};
use crate::{
    BufferPolicy, Client, Driver, FireAndForget, Options, Producer,
    config::Target,
    driver::with_driver,
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
    time::Time,
};

/// A clock that stands still, and a network where nothing ever answers.
struct Nowhere;

struct Never;

impl Timer for Never {
    fn poll_until(self: Pin<&mut Self>, _: &mut Context<'_>, _: Time) -> Poll<()> {
        Poll::Pending
    }
}

impl Runtime for Nowhere {
    type Io = futures::io::Cursor<Vec<u8>>;
    type Timer = Never;

    fn now(&self) -> Time {
        Time::ZERO
    }

    fn seed(&self) -> [u8; 32] {
        [7; 32]
    }

    fn connect(&self, _: Target) -> BoxFuture<'static, Result<Self::Io, DialError>> {
        Box::pin(pending())
    }

    fn timer(&self) -> Never {
        Never
    }

    fn tick(&self) -> Option<Duration> {
        None
    }
}

/// A driver that has nothing to do, an executor's side of it, and a producer.
struct World {
    client: Client,
    driver: Driver<Nowhere>,
    bell: Arc<Bell>,
}

fn world() -> (World, Producer<FireAndForget>) {
    let options = Options::new("amqp://localhost").unwrap();
    let (client, driver) = with_driver(Nowhere, options).unwrap();
    let mut world = World { client, driver, bell: Arc::default() };
    let builder = world.client.producer("orders").buffer_size(2);
    let mut opening = Box::pin(builder.buffer_policy(BufferPolicy::Block).open());
    assert!((&mut opening).now_or_never().is_none());
    assert!(world.poll());
    let producer = opening.now_or_never().unwrap().unwrap();
    assert!(world.poll());
    (world, producer)
}

impl World {
    /// Whether it is still there.
    fn poll(&mut self) -> bool {
        self.bell.0.store(0, Ordering::Relaxed);
        let waker = Waker::from(self.bell.clone());
        Pin::new(&mut self.driver).poll(&mut Context::from_waker(&waker)).is_pending()
    }

    /// As an executor does: polls it while it is woken.
    fn run(&mut self) {
        while self.bell.0.load(Ordering::Relaxed) > 0 {
            if !self.poll() {
                return;
            }
        }
    }
}

models! {
    #[test]
    fn s42_a_publish_reaches_the_session_before_the_driver_sleeps(3) {
        let (mut world, producer) = world();
        let publishing = thread::spawn({
            let producer = producer.clone();
            move || {
                producer.try_publish("x").unwrap();
                producer
            }
        });
        assert!(world.poll());
        let clone = publishing.join().unwrap();
        world.run();
        let stats = world.client.stats().publish;
        assert!(stats.is_conserved(), "{stats:?}");
        // What is handed over and not taken counts, too: it must be taken.
        assert!(producer.shared().hand_over().is_drained(), "asleep, and a message waits");
        drop(clone);
    }

    #[test]
    fn a_close_beside_a_publish_leaves_an_outcome(3) {
        let (mut world, producer) = world();
        let publishing = thread::spawn({
            let producer = producer.clone();
            move || (producer.try_publish("x").is_ok(), producer)
        });
        let (mut closing, closed) = poll_once(producer.shutdown(Duration::ZERO));
        assert!(closed.is_pending());
        assert!(world.poll());
        let (accepted, clone) = publishing.join().unwrap();
        world.run();
        let Poll::Ready(report) = closing.run() else { panic!("closed, and nobody says so") };
        assert_eq!(report.dropped, u64::from(accepted));
        let stats = world.client.stats().publish;
        assert!(stats.is_conserved(), "{stats:?}");
        assert_eq!(stats.accepted, u64::from(accepted));
        assert_eq!(stats.dropped(), u64::from(accepted));
        drop(closing);
        drop((clone, producer));
    }

    /// The driver is dropped while somebody publishes and waits.
    #[test]
    fn f24_a_driver_dropped_beside_a_publish_gives_it_an_outcome(3) {
        let (world, producer) = world();
        let World { client, driver, .. } = world;
        let publishing = thread::spawn({
            let producer = producer.clone();
            move || producer.try_publish("x").is_ok()
        });
        drop(driver);
        let accepted = publishing.join().unwrap();
        let stats = client.stats().publish;
        assert!(stats.is_conserved(), "{stats:?}");
        assert_eq!(stats.dropped(), u64::from(accepted));
        assert!(producer.flush().now_or_never().is_some());
    }
}
