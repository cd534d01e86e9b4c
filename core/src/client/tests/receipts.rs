//! Receipts, flushes, closing, and what types promise.

use std::task::Poll;

use futures::future::FusedFuture;

use super::{Fake, Task, config, poll_once};
use crate::{
    client::{Confirm, FireAndForget, Flush, Mode, Producer, Publish, Receipt, link::Control},
    config::BufferPolicy,
    error::{NotConfirmed, PublishError},
    event::{UnknownReason, Verdict},
    message::Message,
    session::Report,
};

fn confirm() -> Fake {
    Fake::new(config::<Confirm>(BufferPolicy::Block, 100))
}

fn sent(fake: &mut Fake, n: usize) -> Vec<Receipt> {
    let producer = fake.producer::<Confirm>();
    let receipts = (0..n).map(|i| producer.try_publish(format!("{i}")).unwrap()).collect();
    fake.turn(n);
    receipts
}

fn bad(poll: Poll<Result<(), NotConfirmed>>) -> NotConfirmed {
    match poll {
        Poll::Ready(Err(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_receipt_resolves_when_its_own_message_settles_and_only_it_is_woken() {
    let mut fake = confirm();
    let mut receipts: Vec<_> = sent(&mut fake, 4).into_iter().map(Task::new).collect();
    assert!(receipts.iter_mut().all(|receipt| receipt.poll().is_pending()));
    fake.settle(3, None);
    fake.tell();
    let woken: Vec<_> = receipts.iter().map(Task::is_woken).collect();
    assert_eq!(woken, [false, false, true, false]);
    assert_eq!(receipts[2].poll(), Poll::Ready(Ok(())));
    fake.settle(1, Some(Verdict::Nacked));
    fake.settle(2, None);
    fake.tell();
    let woken: Vec<_> = receipts.iter().map(Task::is_woken).collect();
    assert_eq!(woken, [true, true, false, false]);
    let error = bad(receipts[0].poll());
    assert_eq!(
        (error.sequence, error.verdict, error.message.body()),
        (1, Verdict::Nacked, &b"0"[..])
    );
    assert_eq!(receipts[1].poll(), Poll::Ready(Ok(())));
    assert!(receipts[3].poll().is_pending());
    assert_eq!(fake.shared.outcomes().kept(), (0, 1, 0, 0));
}

#[test]
fn late_receipts_are_told_the_same_and_then_are_terminated() {
    let mut fake = confirm();
    let mut receipts = sent(&mut fake, 3);
    fake.settle(2, Some(Verdict::Unknown(UnknownReason::ConfirmTimeout)));
    fake.settle(1, None);
    fake.settle(3, None);
    fake.tell();
    assert!(receipts.iter().all(|receipt| receipt.is_settled() && !receipt.is_terminated()));
    let (mut third, poll) = poll_once(receipts.remove(2));
    assert_eq!(poll, Poll::Ready(Ok(())));
    assert!(third.poll().is_pending() && third.into_future().is_terminated());
    let (_, poll) = poll_once(receipts.remove(1));
    assert_eq!(bad(poll).sequence, 2);
    assert_eq!(poll_once(receipts.remove(0)).1, Poll::Ready(Ok(())));
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0));
}

#[test]
fn a_verdict_that_nobody_can_ask_for_is_not_kept() {
    let mut fake = confirm();
    let mut receipts = sent(&mut fake, 6);
    drop(receipts.remove(0)); // 1: dropped before
    receipts.remove(0).detach(); // 2: the same
    let (polled, _) = poll_once(receipts.remove(0));
    assert_eq!(fake.shared.outcomes().kept().1, 1);
    drop(polled); // 3: after it has waited
    assert_eq!(fake.shared.outcomes().kept().1, 0, "nor its waker");
    for sequence in 1..=4 {
        fake.settle(sequence, Some(Verdict::Nacked));
    }
    fake.settle(6, Some(Verdict::Nacked));
    let stats = fake.tell();
    assert_eq!(stats.nacked, 5, "counted all the same");
    assert_eq!(fake.shared.outcomes().kept().0, 2, "those of 4 and 6");
    drop(receipts.remove(0)); // 4: dropped after
    drop(receipts.remove(1)); // 6: the same, beyond the watermark
    assert_eq!(fake.shared.outcomes().kept().0, 0);
    fake.settle(5, None);
    fake.tell();
    assert_eq!(poll_once(receipts.remove(0)).1, Poll::Ready(Ok(())));
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0));
}

#[test]
fn memory_stays_flat_however_many_receipts_are_dropped() {
    let mut fake = confirm();
    let stuck = sent(&mut fake, 1);
    for _ in 0..200 {
        drop(sent(&mut fake, 50));
        let sequences: Vec<_> = fake.in_flight.keys().copied().skip(1).collect();
        for sequence in sequences {
            fake.settle(sequence, Some(Verdict::Nacked));
        }
        fake.tell();
    }
    let (verdicts, _, _, runs) = fake.shared.outcomes().kept();
    assert_eq!((verdicts, runs), (0, 1));
    drop(stuck);
}

#[test]
fn a_receipt_moves_between_tasks_and_the_last_waker_counts() {
    let mut fake = confirm();
    let receipt = sent(&mut fake, 1).remove(0);
    let (first, poll) = poll_once(receipt);
    assert!(poll.is_pending());
    let mut second = Task::new(first.into_future());
    assert!(second.poll().is_pending());
    fake.settle(1, None);
    fake.tell();
    assert_eq!(second.run(), Poll::Ready(Ok(())));
}

#[test]
fn flush_waits_for_everything_accepted_before_it() {
    let mut fake = confirm();
    let producer = fake.producer::<Confirm>();
    assert!(poll_once(producer.flush()).1.is_ready());
    producer.try_publish("a").unwrap().detach();
    producer.try_publish("b").unwrap().detach();
    let mut flush = Task::new(producer.flush());
    producer.try_publish("c").unwrap().detach();
    assert!(flush.poll().is_pending());
    let (dropped, _) = poll_once(producer.flush());
    drop(dropped);
    fake.turn(3);
    fake.settle(2, None);
    fake.tell();
    assert!(!flush.is_woken());
    fake.settle(1, Some(Verdict::Nacked));
    fake.tell();
    assert!(flush.run().is_ready());
    assert_eq!(fake.shared.outcomes().kept(), (0, 0, 0, 0));
}

#[test]
fn f24_when_the_driver_is_gone_everything_that_waits_is_told() {
    let mut fake = confirm();
    let mut receipts: Vec<_> = sent(&mut fake, 2).into_iter().map(Task::new).collect();
    assert!(receipts[0].poll().is_pending());
    let producer = fake.producer::<Confirm>();
    let mut flush = Task::new(producer.flush());
    assert!(flush.poll().is_pending());
    let mut shutdown = Task::new(producer.close());
    assert!(shutdown.poll().is_pending());
    fake.link.driver_gone();
    assert_eq!(shutdown.run(), Poll::Ready(Report::default()));
    assert!(matches!(producer.try_publish("x"), Err(PublishError::Closed(_))));
    fake.shared.abandon();
    let unknown = Verdict::Unknown(UnknownReason::Closed);
    assert_eq!(bad(receipts[0].run()).verdict, unknown);
    assert_eq!(bad(receipts[1].poll()).verdict, unknown, "also if it asks later");
    assert!(flush.run().is_ready());
    let (_, poll) = poll_once(producer.close());
    assert_eq!(poll, Poll::Ready(Report::default()), "a request that comes later, too");
}

#[test]
fn the_last_clone_asks_the_driver_to_close_the_producer() {
    let fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 9));
    let producer = fake.producer::<FireAndForget>();
    #[allow(clippy::redundant_clone, reason = "that is the test")]
    let clone = producer.clone();
    drop(producer);
    assert!(fake.link.pop_control().is_none());
    clone.try_publish("x").unwrap();
    drop(clone);
    let control = fake.link.pop_control();
    assert!(matches!(
        control,
        Some(Control::CloseProducer { producer, deadline: None, reply: None })
            if producer == fake.shared.id()
    ));
    assert!(!fake.link.is_abandoned());
}

#[test]
fn shutdown_stops_admission_at_once_and_gives_the_drivers_report() {
    let fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 9));
    let producer = fake.producer::<FireAndForget>();
    let deadline = std::time::Duration::from_secs(3);
    let (mut shutdown, poll) = poll_once(producer.shutdown(deadline));
    assert!(poll.is_pending());
    assert!(matches!(producer.try_publish("x"), Err(PublishError::Closed(_))));
    let Some(Control::CloseProducer { deadline: asked, reply: Some(reply), .. }) =
        fake.link.pop_control()
    else {
        panic!()
    };
    assert_eq!(asked, Some(deadline));
    let report = Report { dropped: 3, ..Report::default() };
    reply.send(report).unwrap();
    assert_eq!(shutdown.run(), Poll::Ready(report));
}

#[test]
fn errors_are_small_and_handles_go_where_they_must() {
    const fn send<T: Send>() {}
    const fn sync<T: Sync>() {}
    const fn unpin<T: Unpin>() {}
    const fn fixed<T: 'static>() {}
    const fn clone<T: Clone>() {}
    fn send_value<T: Send>(_: &T) {}
    fn mode<M: Mode>() {
        clone::<Producer<M>>();
        send::<Producer<M>>();
        sync::<Producer<M>>();
        fixed::<Producer<M>>();
        send::<Publish<'static, M, String>>();
        unpin::<Publish<'static, M, std::marker::PhantomPinned>>();
    }
    mode::<FireAndForget>();
    mode::<Confirm>();
    send::<Receipt>();
    sync::<Receipt>();
    unpin::<Receipt>();
    fixed::<Receipt>();
    send::<Flush>();
    unpin::<Flush>();
    fixed::<Flush>();
    let fake = confirm();
    let producer = fake.producer::<Confirm>();
    send_value(&producer.close());
    assert!(size_of::<PublishError>() < 128, "{}", size_of::<PublishError>());
    assert!(size_of::<NotConfirmed>() < 128, "{}", size_of::<NotConfirmed>());
    assert_eq!(size_of::<Receipt>(), 16);
    assert!(size_of::<Publish<'_, Confirm, Message>>() <= 144);
}
