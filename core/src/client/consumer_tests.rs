//! Consumers without a session: the test is the driver.
#![allow(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_types, reason = "tests share state with handlers")]

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures::{FutureExt as _, future::poll_immediate};

use super::{
    consumer::{Consumer, Kind, Manual, NoAck, OnFailure},
    consumer_queue::{ConsumerShared, Taken},
    delivery::{Delivery, Received, Settle},
    events::EventHub,
    link::{Control, DriverLink, Hold},
};
use crate::{
    config::ConsumerConfig,
    consume::{Batch, SettleRun, Settlement},
    event::{EndReason, Event},
    ids::ConsumerId,
    session::Report,
    time::Time,
};

const ID: ConsumerId = ConsumerId(7);

/// A consumer, and the driver's side of it.
struct World<K: Kind> {
    link: Arc<DriverLink>,
    shared: Arc<ConsumerShared>,
    events: Arc<EventHub>,
    consumer: Consumer<K>,
}

fn world<K: Kind>(no_ack: bool, hold_on_drop: bool, on_failure: OnFailure) -> World<K> {
    let link = DriverLink::new(Time::ZERO);
    let config =
        ConsumerConfig { no_ack, queue_bytes: 800, ..ConsumerConfig::new("orders").unwrap() };
    let shared = ConsumerShared::new(ID, Some(link.clone()), &config, hold_on_drop);
    let events = Arc::new(EventHub::default());
    let consumer = Consumer::new(shared.clone(), events.clone(), Hold::new(&link), on_failure);
    World { link, shared, events, consumer }
}

fn manual() -> World<Manual> {
    world(false, false, OnFailure::RequeueLater)
}

fn no_ack() -> World<NoAck> {
    world(true, false, OnFailure::RequeueLater)
}

impl<K: Kind> World<K> {
    fn push(&self, generation: u64, first_tag: u64, bodies: &[&str]) {
        let mut batch = Batch::new(generation);
        for (tag, body) in (first_tag..).zip(bodies) {
            batch.push(tag, false, &[0, 0], &[0, 0], body.as_bytes());
        }
        let waker = self.shared.push(Arc::new(batch));
        waker.into_iter().for_each(Waker::wake);
    }

    fn next(&mut self) -> Option<Option<K::Item>> {
        self.consumer.next().now_or_never()
    }

    /// What the driver finds at a visit, if it was told to make one.
    fn visit(&self) -> Option<(Vec<SettleRun>, Taken)> {
        assert_eq!(self.link.pop_consumer()?, ID);
        assert_eq!(self.link.pop_consumer(), None, "listed twice");
        let mut runs = Vec::new();
        let taken = self.shared.take(&mut runs);
        Some((runs, taken))
    }

    fn runs(&self) -> Vec<SettleRun> {
        self.visit().map(|(runs, _)| runs).unwrap_or_default()
    }

    fn end(&self, reason: EndReason, abandoned: u64) {
        let mut wakers = Vec::new();
        self.shared.end(reason, abandoned, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn was_closed(&self) -> bool {
        matches!(self.link.pop_control(), Some(Control::CloseConsumer { consumer: ID }))
    }
}

fn run(generation: u64, first: u64, last: u64, settlement: Settlement) -> SettleRun {
    SettleRun { generation, first, last, settlement }
}

fn bodies(items: &[Delivery]) -> Vec<&[u8]> {
    items.iter().map(|item| item.body()).collect()
}

#[test]
fn deliveries_come_in_order_over_batches_and_settle_in_one_run() {
    let mut world = manual();
    world.push(1, 1, &["a", "b"]);
    world.push(1, 3, &["c"]);
    for body in ["a", "b", "c"] {
        let delivery = world.next().flatten().unwrap();
        assert_eq!(delivery.body(), body.as_bytes());
        assert_eq!(delivery.ack(), Settle::Queued);
    }
    assert!(world.next().is_none());
    assert_eq!(world.runs(), [run(1, 1, 3, Settlement::Ack)]);
    // Nothing new: the driver is not told.
    assert!(world.visit().is_none());
}

#[test]
fn s34_a_forgotten_delivery_is_requeued_later() {
    let mut world = manual();
    world.push(1, 1, &["a", "b"]);
    drop(world.next());
    let (received, acker) = world.next().flatten().unwrap().into_parts();
    drop(received);
    assert_eq!(world.runs(), [run(1, 1, 1, Settlement::RequeueLater)]);
    drop(acker);
    assert_eq!(world.runs(), [run(1, 2, 2, Settlement::RequeueLater)]);
}

#[test]
fn s34_hold_on_drop_holds() {
    let mut world = world::<Manual>(false, true, OnFailure::RequeueLater);
    world.push(1, 1, &["a"]);
    drop(world.next());
    assert!(world.visit().is_none());
}

#[test]
fn s34_settled_by_a_later_through_is_already_settled() {
    let mut world = manual();
    world.push(1, 1, &["a", "b", "c"]);
    let first = world.next().flatten().unwrap();
    let second = world.next().flatten().unwrap();
    let third = world.next().flatten().unwrap();
    assert_eq!(second.reject_through(), Settle::Queued);
    assert_eq!(first.ack(), Settle::AlreadySettled);
    assert_eq!(third.ack(), Settle::Queued);
    let expected = [run(1, 1, 2, Settlement::Reject), run(1, 3, 3, Settlement::Ack)];
    assert_eq!(world.runs(), expected);
}

#[test]
fn f28_an_ack_that_comes_after_a_reconnect_is_stale() {
    let mut world = manual();
    world.push(1, 1, &["in hand", "half-read batch"]);
    world.push(1, 3, &["queued"]);
    let delivery = world.next().flatten().unwrap();
    world.shared.set_valid_from(2);
    assert_eq!(delivery.ack(), Settle::Stale);
    // The broker delivers them again: what was not handed over is not, any more.
    assert_eq!(world.shared.queued(), 0);
    assert!(world.next().is_none());
    world.push(1, 4, &["late"]);
    assert_eq!(world.shared.queued(), 0);
    world.push(2, 1, &["again"]);
    let again = world.next().flatten().unwrap();
    assert_eq!(again.body(), b"again");
    assert_eq!(again.ack(), Settle::Queued);
    assert_eq!(world.runs(), [run(2, 1, 1, Settlement::Ack)]);
    assert_eq!(world.shared.queued(), 0);
}

#[test]
fn complete_deliveries_without_acks_survive_a_reconnect() {
    let mut world = no_ack();
    world.push(1, 1, &["a", "b"]);
    world.next().flatten().unwrap();
    world.shared.set_valid_from(2);
    assert_eq!(world.next().flatten().unwrap().body(), b"b");
}

#[test]
fn s35_the_driver_hears_of_consumed_bytes_once_they_matter() {
    let mut world = no_ack();
    // Each counts its body, its properties, and 64.
    let body = "x".repeat(10);
    world.push(1, 1, &[&body]);
    world.push(1, 2, &[&body]);
    world.next().flatten().unwrap();
    assert!(world.visit().is_none(), "less than an eighth");
    world.next().flatten().unwrap();
    assert_eq!(world.visit().unwrap().1, Taken { consumed: 152, linger: None });
}

#[test]
fn s48_closing_a_full_queue_without_acks_does_not_block_its_own_answer() {
    let mut world = no_ack();
    world.push(1, 1, &[&"x".repeat(900)]);
    assert!(world.consumer.close().now_or_never().is_none());
    assert!(world.was_closed());
    assert_eq!(world.visit().unwrap().1.consumed, 966);
    world.end(EndReason::Closed, 0);
    // It is not delivered again, so it can still be read.
    assert_eq!(world.next().flatten().unwrap().body().len(), 900);
    assert!(world.next().unwrap().is_none());
}

#[test]
fn s48_close_hands_back_what_was_not_seen_and_reports_what_was_in_hand() {
    let mut world = manual();
    world.push(1, 1, &["in hand", "held"]);
    world.push(1, 3, &["queued", "queued"]);
    let in_hand = world.next().flatten().unwrap();
    assert!(world.consumer.close().now_or_never().is_none());
    assert!(world.was_closed());
    let requeued = [run(1, 2, 2, Settlement::Requeue), run(1, 3, 4, Settlement::Requeue)];
    assert_eq!(world.runs(), requeued);
    world.push(1, 5, &["late"]);
    assert_eq!(world.runs(), [run(1, 5, 5, Settlement::Requeue)]);
    // The deadline came first.
    world.end(EndReason::Closed, 1);
    let report = world.consumer.close().now_or_never().unwrap();
    assert_eq!(report, Report { abandoned: 1, ..Report::default() });
    assert!(!world.was_closed(), "asked for twice");
    assert!(world.next().unwrap().is_none());
    assert_eq!(world.consumer.end_reason(), Some(EndReason::Closed));
    drop(in_hand);
}

#[test]
fn s48_a_client_that_closes_hands_back_what_its_consumers_have_not_seen() {
    let mut world = manual();
    world.push(1, 1, &["in hand", "held"]);
    world.push(1, 3, &["queued"]);
    let in_hand = world.next().flatten().unwrap();
    assert!(world.shared.hand_back_all(EndReason::ClientClosed).0);
    let requeued = [run(1, 2, 2, Settlement::Requeue), run(1, 3, 3, Settlement::Requeue)];
    assert_eq!(world.runs(), requeued);
    assert!(world.next().unwrap().is_none());
    assert_eq!(world.consumer.end_reason(), Some(EndReason::ClientClosed));
    assert_eq!(world.runs(), []);
    assert_eq!(in_hand.ack(), Settle::Queued);
}

#[test]
fn s48_a_dropped_consumer_closes_and_lets_the_client_go() {
    let world = manual();
    let World { link, consumer, .. } = world;
    drop(consumer);
    assert!(matches!(link.pop_control(), Some(Control::CloseConsumer { consumer: ID })));
    assert!(link.is_abandoned());
}

#[test]
fn a_stopped_consumer_can_still_settle_what_is_in_hand() {
    let mut world = manual();
    world.push(1, 1, &["a", "b"]);
    let delivery = world.next().flatten().unwrap();
    world.consumer.handle().stop();
    assert!(world.was_closed());
    assert!(world.next().unwrap().is_none());
    assert_eq!(delivery.ack(), Settle::Queued);
    let expected = [run(1, 2, 2, Settlement::Requeue), run(1, 1, 1, Settlement::Ack)];
    assert_eq!(world.runs(), expected);
}

#[test]
fn settled_waits_until_it_is_written() {
    let mut world = manual();
    world.push(1, 1, &["a"]);
    world.next().flatten().unwrap().ack();
    assert!(world.consumer.settled().now_or_never().is_none());
    let handle = world.consumer.handle();
    let mut settled = pin!(handle.settled());
    assert!(poll_immediate(&mut settled).now_or_never().unwrap().is_none());
    assert_eq!(world.runs().len(), 1);
    world.shared.settles_written(1, &mut Vec::new());
    assert!(settled.now_or_never().is_some());
}

#[test]
fn f23_a_batch_that_is_given_up_loses_nothing() {
    let mut world = manual();
    world.push(1, 1, &["a", "b"]);
    let linger = Duration::from_millis(5);
    assert!(world.consumer.next_batch(3, linger).now_or_never().is_none());
    // The driver has the clock.
    assert_eq!(world.visit().unwrap().1.linger, Some(linger));
    {
        let mut batch = pin!(world.consumer.next_batch(3, linger));
        assert!(poll_immediate(&mut batch).now_or_never().unwrap().is_none());
        // The timer of the one that was given up is not this one's.
        assert!(world.shared.linger_over().is_none());
        assert!(poll_immediate(&mut batch).now_or_never().unwrap().is_none());
        assert_eq!(world.link.pop_consumer(), Some(ID));
        world.shared.take(&mut Vec::new());
        assert!(world.shared.linger_over().is_some());
        let batch = batch.now_or_never().unwrap().unwrap();
        assert_eq!(bodies(&batch), [b"a", b"b"]);
    }
}

#[test]
fn a_batch_is_complete_as_soon_as_enough_is_there_and_never_empty() {
    let mut world = manual();
    let long = Duration::from_secs(60);
    world.push(1, 1, &["a", "b", "c"]);
    drop(world.next());
    let batch = world.consumer.next_batch(2, long).now_or_never().unwrap().unwrap();
    assert_eq!(bodies(&batch), [b"b", b"c"]);
    assert!(world.consumer.next_batch(2, Duration::ZERO).now_or_never().is_none());
    world.end(EndReason::Cancelled, 0);
    assert!(world.consumer.next_batch(2, long).now_or_never().unwrap().is_none());
    assert_eq!(world.consumer.end_reason(), Some(EndReason::Cancelled));
}

#[test]
fn f36_handlers_that_fail_or_panic_requeue_later() {
    let mut world = manual();
    let mut events = world.events.subscribe();
    world.push(1, 1, &["ok", "fails", "panics at once", "panics later"]);
    let running = world.consumer.run(2, handler).now_or_never();
    assert!(running.is_none(), "it goes on");
    let expected = [run(1, 1, 1, Settlement::Ack), run(1, 2, 4, Settlement::RequeueLater)];
    assert_eq!(world.runs(), expected);
    assert_eq!(world.events.panics(), 2);
    for _ in 0..2 {
        let event = events.next().now_or_never().flatten();
        assert_eq!(event, Some(Event::HookPanicked { hook: "handler" }));
    }
}

#[test]
fn handlers_that_fail_reject_when_told_to() {
    let mut world = world::<Manual>(false, true, OnFailure::Reject);
    world.push(1, 1, &["ok", "fails"]);
    assert!(world.consumer.run(1, handler).now_or_never().is_none());
    let expected = [run(1, 1, 1, Settlement::Ack), run(1, 2, 2, Settlement::Reject)];
    assert_eq!(world.runs(), expected);
}

/// Does what the body says.
fn handler(received: Received) -> impl Future<Output = Result<(), &'static str>> {
    assert_ne!(received.body(), b"panics at once");
    async move {
        assert_ne!(received.body(), b"panics later");
        if received.body() == b"ok" { Ok(()) } else { Err("a reason") }
    }
}

#[test]
fn run_keeps_to_its_concurrency_and_finishes_what_it_began() {
    let mut world = manual();
    world.push(1, 1, &["a", "b", "c"]);
    let begun = AtomicU64::new(0);
    let gate = Mutex::new(Vec::new());
    let handle = world.consumer.handle();
    let shared = world.shared.clone();
    let mut running = pin!(world.consumer.run(2, |_| {
        begun.fetch_add(1, Ordering::Relaxed);
        let (open, opened) = futures::channel::oneshot::channel();
        gate.lock().unwrap().push(open);
        opened
    }));
    let mut poll = || poll_immediate(&mut running).now_or_never().unwrap();
    assert_eq!(poll(), None);
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    handle.stop();
    assert!(matches!(world.link.pop_control(), Some(Control::CloseConsumer { consumer: ID })));
    assert_eq!(poll(), None);
    for open in gate.lock().unwrap().drain(..) {
        open.send(()).unwrap();
    }
    // Handlers are done; now it closes.
    assert_eq!(poll(), None);
    assert_eq!(begun.load(Ordering::Relaxed), 2, "c was not begun");
    let mut runs = Vec::new();
    shared.take(&mut runs);
    let expected = [run(1, 3, 3, Settlement::Requeue), run(1, 1, 2, Settlement::Ack)];
    assert_eq!(runs, expected);
    shared.end(EndReason::Closed, 0, &mut Vec::new());
    assert_eq!(poll(), Some(EndReason::Closed));
}

/// What is queued holds its consumer, and the consumer holds its queue.
#[test]
fn f29_a_no_ack_consumer_that_is_dropped_keeps_nothing_in_memory() {
    let World { shared, consumer, link: _link, events: _events } = {
        let world = no_ack();
        world.push(1, 1, &["a", "b"]);
        world
    };
    let weak = Arc::downgrade(&shared);
    drop(consumer);
    let mut batch = Batch::new(1);
    batch.push(3, false, &[0, 0], &[0, 0], b"late");
    assert!(shared.push(Arc::new(batch)).is_none());
    assert_eq!(shared.queued(), 0);
    drop(shared);
    assert!(weak.upgrade().is_none());
}
