//! One row for each public future; see `list`.

use std::{
    cell::{Cell, RefCell},
    future::Future as _,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::FutureExt as _;
use lavinmq_core::{
    Client, ConnectError, Delivery, Options, PublishError, Receipt, Received,
    client::{BoxError, Connect},
    driver::FirstConnect,
    error::OpenError,
};

use crate::{
    stage::{Cut, SCENES, Scene, Stage, each, each_with_jobs},
    world::{Bell, World},
};

const SOON: Duration = Duration::from_secs(1);

// ---- publishing -------------------------------------------------------------------------------

/// Counts what became of a publish. Its receipt is dropped: the outcome comes all the same.
fn publish_ended(
    stage: &mut Stage,
    cut: &Cut,
    body: &str,
    output: Option<Result<Receipt, PublishError>>,
) {
    if cut.never_polled() {
        return;
    }
    stage.offered += 1;
    match output {
        Some(Ok(receipt)) => {
            stage.accepted.push(body.into());
            drop(receipt);
        }
        Some(Err(error)) => panic!("{error}"),
        None => stage.cancelled += 1,
    }
}

#[test]
fn f23_producer_publish() {
    each(|stage, cut| {
        let orders = stage.orders.clone();
        let output = stage.drop_after(cut, orders.publish("maybe"));
        publish_ended(stage, cut, "maybe", output);
    });
}

#[test]
fn f23_producer_publish_to() {
    each(|stage, cut| {
        let orders = stage.orders.clone();
        let output = stage.drop_after(cut, orders.publish_to("orders", "maybe"));
        publish_ended(stage, cut, "maybe", output);
    });
}

/// The fairness yield comes before acceptance.
#[test]
fn f23_a_publish_dropped_at_its_yield_publishes_nothing() {
    for polls in 0..3 {
        let mut published = 0;
        let mut world = World::empty();
        world.net.broker(|broker, _| broker.declare_queue("orders"));
        let client = world.start(FirstConnect::Retry).unwrap();
        let orders = world.block_on(client.producer("orders").open()).unwrap();
        world.block_on(client.ready()).unwrap();
        // The driver does not run meanwhile.
        for _ in 0..512 {
            orders.publish("x").now_or_never().unwrap().unwrap();
            published += 1;
        }
        let mut yielding = orders.publish("y");
        let done = (0..polls).any(|_| (&mut yielding).now_or_never().is_some());
        assert_eq!(done, polls == 2, "one poll to yield, and one to be accepted");
        drop(yielding);
        published += usize::from(done);
        world.settle();
        let stats = client.stats().publish;
        assert!(stats.is_conserved(), "{stats:?}");
        assert_eq!((stats.waiting, stats.cancelled), (0, u64::from(polls == 1)), "{stats:?}");
        world.block_on(orders.flush());
        world.settle();
        assert_eq!(world.net.bodies("orders").len(), published);
    }
}

/// Room that was granted to a future and not taken yet passes to the next in line.
#[test]
fn f23_a_grant_that_is_dropped_passes_to_the_next() {
    for steps in 0..20 {
        let mut stage = Stage::new(Scene::Full, true);
        stage.context = format!("dropped after {steps} steps");
        let orders = stage.orders.clone();
        let (mut first, mut next) = (orders.publish("given up"), orders.publish("next"));
        assert!((&mut first).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        stage.heal();
        for _ in 0..steps {
            stage.world.step();
        }
        let room = orders.buffer_size() < 2;
        drop(first);
        match (&mut next).now_or_never() {
            Some(accepted) => accepted.unwrap().detach(),
            None => {
                assert!(!room, "{}: room, and it went to nobody", stage.context);
                stage.world.block_on(next).unwrap().detach();
            }
        }
        (stage.offered, stage.cancelled) = (stage.offered + 2, 1);
        stage.accepted.push("next".into());
        stage.finish();
    }
}

#[test]
fn f23_receipt() {
    each(|stage, cut| {
        // In the buffer of two there is room for one more, or the broker is blocked and it is full.
        if stage.scene == Scene::Full {
            stage.heal();
            stage.world.pass(SOON);
        }
        let receipt = stage.orders.try_publish("kept").unwrap();
        stage.offered += 1;
        stage.accepted.push("kept".into());
        if let Some(outcome) = stage.drop_after(cut, receipt) {
            outcome.unwrap();
        }
    });
}

#[test]
fn f23_producer_flush() {
    each(|stage, cut| {
        if stage.scene != Scene::Full {
            stage.publish("kept");
        }
        let flush = stage.orders.flush();
        stage.drop_after(cut, flush);
    });
}

fn producer_ends(stage: &mut Stage, cut: &Cut) {
    stage.orders_closed = !cut.never_polled();
    let refused = stage.orders.try_publish("late");
    if stage.orders_closed {
        assert!(matches!(refused, Err(PublishError::Closed(_))), "{}", stage.context);
        stage.offered += 1;
    } else if let Ok(receipt) = refused {
        receipt.detach();
        stage.offered += 1;
        stage.accepted.push("late".into());
    } else {
        stage.offered += 1;
    }
}

#[test]
fn f23_producer_close() {
    each(|stage, cut| {
        let orders = stage.orders.clone();
        if let Some(report) = stage.drop_after(cut, orders.close()) {
            assert!(report.is_clean(), "{report:?}");
        }
        producer_ends(stage, cut);
    });
}

#[test]
fn f23_producer_shutdown() {
    each(|stage, cut| {
        let orders = stage.orders.clone();
        if let Some(report) = stage.drop_after(cut, orders.shutdown(Duration::from_secs(60))) {
            assert!(report.is_clean(), "{report:?}");
        }
        producer_ends(stage, cut);
    });
}

#[test]
fn f23_producer_open() {
    each(|stage, cut| {
        let client = stage.client();
        let opened = stage.drop_after(cut, client.producer("other").confirm().open());
        drop(opened.map(Result::unwrap));
    });
}

// ---- the client -------------------------------------------------------------------------------

#[test]
fn f23_client_ready() {
    each(|stage, cut| {
        let client = stage.client();
        stage.drop_after(cut, client.ready());
    });
    // And while it is not ready yet.
    for polls in 0.. {
        let mut world = World::empty();
        world.net.refuse(true);
        let client = world.start(FirstConnect::Retry).unwrap();
        let bell = Bell::new();
        let waker = Waker::from(bell.clone());
        let mut ready = Box::pin(client.ready());
        let mut done = false;
        for poll in 0..polls {
            if poll == 5 {
                world.net.refuse(false);
            }
            done = ready.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            world.step_or_jump();
        }
        drop((ready, waker));
        assert_eq!(Arc::strong_count(&bell), 1, "its waker is kept");
        world.net.refuse(false);
        world.block_on(client.ready()).unwrap();
        if done {
            assert!(polls > 6);
            break;
        }
    }
}

fn client_ends(stage: &mut Stage, cut: &Cut) {
    if cut.never_polled() {
        return;
    }
    let client = stage.client.take().unwrap();
    stage.heal();
    stage.world.pass(Duration::from_secs(40));
    let stats = client.stats().publish;
    assert!(stats.is_conserved(), "{}: {stats:?}", stage.context);
    assert_eq!((stats.waiting, stats.queued, stats.in_flight), (0, 0, 0), "{}", stage.context);
    assert!(matches!(stage.orders.try_publish("late"), Err(PublishError::Closed(_))));
    let opened = stage.world.block_on(client.producer("other").open());
    assert_eq!(opened.unwrap_err(), OpenError::Closed);
    assert!(stage.world.block_on(client.close()).is_clean(), "{}", stage.context);
}

#[test]
fn f23_client_close() {
    each(|stage, cut| {
        let client = stage.client();
        stage.drop_after(cut, client.close());
        drop(client);
        client_ends(stage, cut);
    });
}

#[test]
fn f23_client_shutdown() {
    each(|stage, cut| {
        let client = stage.client();
        stage.drop_after(cut, client.shutdown(Duration::from_secs(60)));
        drop(client);
        client_ends(stage, cut);
    });
}

thread_local! {
    /// `Connect` takes a function that captures nothing.
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn start(_: Options) -> Result<Client, ConnectError> {
    WORLD.with_borrow_mut(|world| world.as_mut().unwrap().start(FirstConnect::OrFail))
}

fn with_world<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| act(world.as_mut().unwrap()))
}

#[test]
fn f23_connect() {
    for scene in SCENES {
        for polls in 0..200 {
            let world = World::empty();
            match scene {
                Scene::Offline => world.net.refuse(true),
                Scene::Stalled => world.net.stall(true),
                Scene::Silent => world.net.broker(|broker, _| broker.hold_replies()),
                _ => {}
            }
            WORLD.set(Some(world));
            let mut connect = Connect::new("amqp://127.0.0.1", start);
            let mut output = None;
            for _ in 0..polls {
                output = (&mut connect).now_or_never();
                if output.is_some() {
                    break;
                }
                with_world(|world| {
                    world.step_or_jump();
                });
            }
            drop(connect);
            let context = format!("{scene:?}, dropped after {polls} polls");
            let done = output.is_some();
            if let Some(Ok(client)) = output {
                with_world(|world| world.block_on(client.close()));
            }
            with_world(|world| {
                world.pass(Duration::from_secs(60));
                assert!(world.driver.is_none(), "{context}: the driver goes on");
                let connections = world.net.broker(|broker, _| broker.connections().len());
                assert_eq!(connections, 0, "{context}");
            });
            if done {
                assert!(polls > 0);
                break;
            }
            assert!(polls < 199, "{context}: it never ends");
        }
    }
}

/// Dropping the driver is a close: everything has its outcome, everybody is woken.
#[test]
fn f23_driver() {
    for scene in SCENES {
        for steps in 0..40 {
            let mut world = World::empty();
            world.net.broker(|broker, _| broker.declare_queue("orders"));
            let client = world.start(FirstConnect::Retry).unwrap();
            let builder = client.producer("orders").confirm().buffer_size(2);
            let mut open = Box::pin(builder.open());
            let mut orders = (&mut open).now_or_never();
            for step in 0..steps {
                if step == 3 {
                    match scene {
                        Scene::Calm | Scene::Full => {}
                        Scene::Offline => world.net.refuse(true),
                        Scene::Stalled => world.net.stall(true),
                        Scene::Blocked => world.net.broker(|broker, now| broker.block("x", now)),
                        Scene::Silent => world.net.broker(|broker, _| broker.hold_replies()),
                        Scene::Unconfirmed => world.net.broker(|broker, _| broker.hold_confirms()),
                    }
                }
                world.step_or_jump();
                orders = orders.or_else(|| (&mut open).now_or_never());
            }
            let mut receipts = Vec::new();
            let orders = orders.map(Result::unwrap);
            if let Some(orders) = &orders {
                while let Ok(receipt) = orders.try_publish("x") {
                    receipts.push(receipt);
                }
            }
            for _ in 0..steps % 7 {
                world.step();
            }
            let mut waiting = orders.as_ref().map(|orders| Box::pin(orders.publish("y")));
            let accepted = waiting.as_mut().and_then(|waiting| waiting.now_or_never());
            drop(world.driver.take());
            let context = format!("{scene:?}, dropped after {steps} steps");
            if let Some(accepted) = accepted {
                receipts.extend(accepted);
            } else if let Some(waiting) = waiting {
                let refused = waiting.now_or_never().expect("it waits for ever");
                assert!(matches!(refused, Err(PublishError::Closed(_))), "{context}");
            }
            let mut confirmed = 0;
            for receipt in receipts {
                confirmed += u64::from(receipt.now_or_never().expect("it waits for ever").is_ok());
            }
            let stats = client.stats().publish;
            assert!(stats.is_conserved(), "{context}: {stats:?}");
            assert_eq!((stats.queued, stats.in_flight, stats.waiting), (0, 0, 0), "{context}");
            assert_eq!(stats.confirmed, confirmed, "{context}");
            assert!(world.net.bodies("orders").len() as u64 >= confirmed, "{context}");
            assert!(client.ready().now_or_never().expect("it waits for ever").is_err());
            world.settle();
            let connections = world.net.broker(|broker, _| broker.connections().len());
            assert_eq!(connections, 0, "{context}");
        }
    }
}

#[test]
fn f23_events_next() {
    each(|stage, cut| {
        stage.keeps_one_waker = true;
        let mut events = stage.client().events();
        // What has been heard so far is the other reader's alone.
        while stage.events.next().now_or_never().is_some() {}
        // Nothing is in flight, but where the buffer is full: that would be sent twice.
        if stage.scene != Scene::Full {
            let net = stage.world.net.clone();
            stage.at_poll = Some(Box::new(move |poll| {
                if poll == 2 {
                    net.cut();
                }
            }));
        }
        let first = stage.drop_after(cut, events.next());
        stage.heal();
        stage.world.pass(SOON);
        let mut heard: Vec<_> = first.into_iter().flatten().collect();
        let mut others = Vec::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            heard.push(event);
        }
        while let Some(Some(event)) = stage.events.next().now_or_never() {
            others.push(event);
        }
        assert_eq!(heard, others, "{}", stage.context);
    });
}

// ---- queues -----------------------------------------------------------------------------------

#[test]
fn f23_queue_declare() {
    each(|stage, cut| {
        let client = stage.client();
        let declared = stage.drop_after(cut, client.queue("new").declare());
        let sent = stage.world.net.broker(|broker, _| broker.has_queue("new"));
        stage.heal();
        stage.world.pass(SOON);
        let there = stage.world.net.broker(|broker, _| broker.has_queue("new"));
        match declared {
            Some(declared) => {
                declared.unwrap();
                assert!(there, "{}", stage.context);
            }
            // Nobody asks for it any more, and it was never sent.
            None if cut.never_polled() || (stage.scene == Scene::Offline && !sent) => {
                assert!(!there, "{}: declared, and nobody wants it", stage.context);
            }
            None => {}
        }
        assert!(!stage.explain().contains("declaration of"), "{}", stage.explain());
    });
}

/// What was written and is lost with its connection is not repeated for nobody.
#[test]
fn f23_a_declaration_dropped_before_the_connection_is_lost_is_not_repeated() {
    for wanted in [false, true] {
        let mut stage = Stage::new(Scene::Stalled, true);
        let client = stage.client();
        let mut declare = Box::pin(client.queue("new").declare());
        assert!((&mut declare).now_or_never().is_none());
        stage.world.settle();
        let declare = wanted.then_some(declare);
        stage.world.settle();
        stage.heal();
        stage.world.net.cut();
        stage.world.pass(SOON);
        assert_eq!(stage.world.net.broker(|broker, _| broker.has_queue("new")), wanted);
        if let Some(declare) = declare {
            stage.world.block_on(declare).unwrap();
        }
        stage.finish();
    }
}

// ---- consuming --------------------------------------------------------------------------------

#[test]
fn f23_consumer_open() {
    each(|stage, cut| {
        let client = stage.client();
        let opened = stage.drop_after(cut, client.consumer("other").open());
        drop(opened.map(Result::unwrap));
        stage.heal();
        stage.world.pass(SOON);
        let left = stage.world.net.broker(|broker, _| broker.consumer_count("other"));
        assert_eq!(left, 0, "{}", stage.context);
    });
}

/// What was taken goes back to the queue, and comes again.
fn give_back(taken: impl IntoIterator<Item = Delivery>) {
    for delivery in taken {
        delivery.requeue();
    }
}

#[test]
fn f23_consumer_next() {
    each(|stage, cut| {
        stage.keeps_one_waker = true;
        let mut jobs = stage.jobs.take().unwrap();
        let taken = stage.drop_after(cut, jobs.next());
        give_back(taken.flatten());
        stage.jobs = Some(jobs);
    });
}

#[test]
fn f23_consumer_next_batch() {
    each(|stage, cut| {
        stage.keeps_one_waker = true;
        let mut jobs = stage.jobs.take().unwrap();
        let taken = stage.drop_after(cut, jobs.next_batch(5, Duration::from_millis(10)));
        give_back(taken.flatten().into_iter().flatten());
        stage.jobs = Some(jobs);
    });
}

/// Handlers that run are dropped with it: their deliveries come again.
#[test]
fn f23_consumer_run() {
    each(|stage, cut| {
        stage.keeps_one_waker = true;
        let mut jobs = stage.jobs.take().unwrap();
        let handle = jobs.handle();
        stage.at_poll = Some(Box::new(move |poll| {
            if poll == 40 {
                handle.stop();
            }
        }));
        let handled = Cell::new(0);
        let ended = stage.drop_after(
            cut,
            jobs.run(2, async |received: Received| {
                let mut polls = 0;
                std::future::poll_fn(|cx| {
                    polls += 1;
                    cx.waker().wake_by_ref();
                    if polls < 4 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                drop(received);
                handled.set(handled.get() + 1);
                Ok::<(), BoxError>(())
            }),
        );
        stage.jobs_closed = ended.is_some() || cut.polls > 40;
        stage.jobs = Some(jobs);
        stage.heal();
        stage.world.pass(Duration::from_secs(40));
        assert!(stage.acked() <= handled.get(), "{}", stage.context);
    });
}

fn take_and_ack(stage: &mut Stage) {
    let jobs = stage.jobs.as_mut().unwrap();
    while let Some(Some(delivery)) = jobs.next().now_or_never() {
        delivery.ack();
    }
}

#[test]
fn f23_consumer_settled() {
    each_with_jobs(|stage, cut| {
        take_and_ack(stage);
        let jobs = stage.jobs.take().unwrap();
        stage.drop_after(cut, jobs.settled());
        stage.jobs = Some(jobs);
    });
}

#[test]
fn f23_consumer_handle_settled() {
    each_with_jobs(|stage, cut| {
        take_and_ack(stage);
        let handle = stage.jobs.as_ref().unwrap().handle();
        stage.drop_after(cut, handle.settled());
    });
}

/// A close goes on without its future: the broker has all jobs back.
fn consumer_ends(stage: &mut Stage, cut: &Cut) {
    stage.jobs_closed = !cut.never_polled();
    if stage.jobs_closed {
        stage.heal();
        stage.world.pass(SOON);
        let (consumers, ready) = stage
            .world
            .net
            .broker(|broker, _| (broker.consumer_count("jobs"), broker.queue_depth("jobs")));
        assert_eq!((consumers, ready), (0, 2), "{}", stage.context);
    }
}

#[test]
fn f23_consumer_close() {
    each_with_jobs(|stage, cut| {
        let mut jobs = stage.jobs.take().unwrap();
        stage.drop_after(cut, jobs.close());
        stage.jobs = Some(jobs);
        consumer_ends(stage, cut);
    });
}

#[test]
fn f23_consumer_handle_close() {
    each_with_jobs(|stage, cut| {
        let handle = stage.jobs.as_ref().unwrap().handle();
        stage.drop_after(cut, handle.close());
        consumer_ends(stage, cut);
    });
}
