//! Receipts and flushes against the driver that settles.

use std::{sync::Arc, task::Poll};

use loom::thread;

use super::{models, poll_once};
use crate::{
    client::{
        outcomes::Outcomes,
        receipt::{Flush, Receipt},
    },
    error::NotConfirmed,
    event::Verdict,
    message::Message,
};

fn receipt(outcomes: &Arc<Outcomes>, sequence: u64) -> Receipt {
    Receipt::new(outcomes.clone(), sequence)
}

fn nacked(outcomes: &Outcomes, sequence: u64) {
    outcomes.store(NotConfirmed::new(Verdict::Nacked, sequence, Message::empty()));
}

/// As the driver does it: whom it has to wake, it wakes.
fn settle(outcomes: &Outcomes, watermark: u64, early: &[(u64, u64)]) {
    outcomes.settle(watermark, early).into_iter().for_each(std::task::Waker::wake);
}

models! {
    #[test]
    fn a_receipt_polled_as_its_message_settles_is_ready_or_woken(3) {
        let outcomes = Arc::new(Outcomes::default());
        let polling = thread::spawn({
            let receipt = receipt(&outcomes, 1);
            move || poll_once(receipt)
        });
        settle(&outcomes, 1, &[]);
        let (mut task, poll) = polling.join().unwrap();
        if poll.is_pending() {
            assert!(task.is_woken(), "settled, and its receipt sleeps");
            assert_eq!(task.poll(), Poll::Ready(Ok(())));
        }
        drop(task);
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    #[test]
    fn a_receipt_of_a_nacked_message_never_says_that_all_is_well(3) {
        let outcomes = Arc::new(Outcomes::default());
        let polling = thread::spawn({
            let receipt = receipt(&outcomes, 1);
            move || poll_once(receipt)
        });
        nacked(&outcomes, 1);
        settle(&outcomes, 1, &[]);
        let (mut task, mut poll) = polling.join().unwrap();
        if poll.is_pending() {
            assert!(task.is_woken(), "nacked, and its receipt sleeps");
            poll = task.poll();
        }
        assert!(matches!(&poll, Poll::Ready(Err(error)) if error.sequence == 1), "{poll:?}");
        drop(task);
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    #[test]
    fn a_receipt_settled_early_is_ready_or_woken(3) {
        let outcomes = Arc::new(Outcomes::default());
        let polling = thread::spawn({
            let receipt = receipt(&outcomes, 2);
            move || poll_once(receipt)
        });
        nacked(&outcomes, 2);
        settle(&outcomes, 0, &[(2, 2)]);
        let (mut task, mut poll) = polling.join().unwrap();
        if poll.is_pending() {
            assert!(task.is_woken(), "settled early, and its receipt sleeps");
            poll = task.poll();
        }
        assert!(matches!(poll, Poll::Ready(Err(_))));
        settle(&outcomes, 2, &[]);
        drop(task);
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    /// Nobody will ever ask for the verdict: it must not be kept.
    #[test]
    fn a_verdict_for_a_receipt_that_is_dropped_just_now_is_not_kept(3) {
        let outcomes = Arc::new(Outcomes::default());
        let dropping = thread::spawn({
            let receipt = receipt(&outcomes, 1);
            move || drop(receipt)
        });
        nacked(&outcomes, 1);
        settle(&outcomes, 1, &[]);
        dropping.join().unwrap();
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    /// The same for one that had left its waker.
    #[test]
    fn a_verdict_for_a_polled_receipt_that_is_dropped_just_now_is_not_kept(3) {
        let outcomes = Arc::new(Outcomes::default());
        let (task, poll) = poll_once(receipt(&outcomes, 1));
        assert!(poll.is_pending());
        let dropping = thread::spawn(move || drop(task));
        nacked(&outcomes, 1);
        settle(&outcomes, 1, &[]);
        dropping.join().unwrap();
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    /// Two drop receipts that are no neighbours: one displaces the other's number.
    #[test]
    fn two_receipts_dropped_at_once_leave_no_verdict(2) {
        let outcomes = Arc::new(Outcomes::default());
        let dropping = [1, 3].map(|sequence| {
            let receipt = receipt(&outcomes, sequence);
            thread::spawn(move || drop(receipt))
        });
        nacked(&outcomes, 1);
        nacked(&outcomes, 3);
        settle(&outcomes, 3, &[]);
        for dropping in dropping {
            dropping.join().unwrap();
        }
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    /// One receipt is told the bad news while another is dropped: the count of verdicts stays right.
    #[test]
    fn one_receipt_is_told_while_another_is_dropped(3) {
        let outcomes = Arc::new(Outcomes::default());
        let telling = thread::spawn({
            let receipt = receipt(&outcomes, 1);
            move || poll_once(receipt)
        });
        let dropping = thread::spawn({
            let receipt = receipt(&outcomes, 2);
            move || drop(receipt)
        });
        nacked(&outcomes, 1);
        nacked(&outcomes, 2);
        settle(&outcomes, 2, &[]);
        dropping.join().unwrap();
        let (mut task, mut poll) = telling.join().unwrap();
        if poll.is_pending() {
            assert!(task.is_woken());
            poll = task.poll();
        }
        assert!(matches!(poll, Poll::Ready(Err(_))));
        drop(task);
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    #[test]
    fn a_flush_polled_as_the_last_message_settles_is_ready_or_woken(3) {
        let outcomes = Arc::new(Outcomes::default());
        let flushing = thread::spawn({
            let flush = Flush::new(outcomes.clone(), 2);
            move || poll_once(flush)
        });
        settle(&outcomes, 1, &[]);
        settle(&outcomes, 2, &[]);
        let (mut task, poll) = flushing.join().unwrap();
        if poll.is_pending() {
            assert!(task.is_woken(), "all settled, and the flush sleeps");
            assert!(task.poll().is_ready());
        }
        drop(task);
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }

    #[test]
    fn f24_nobody_waits_for_a_driver_that_is_gone(3) {
        let outcomes = Arc::new(Outcomes::default());
        let waiting = thread::spawn({
            let (receipt, flush) = (receipt(&outcomes, 1), Flush::new(outcomes.clone(), 1));
            move || (poll_once(receipt), poll_once(flush))
        });
        outcomes.abandon().into_iter().for_each(std::task::Waker::wake);
        let ((mut receipt, told), (mut flush, flushed)) = waiting.join().unwrap();
        assert!(told.is_ready() || receipt.is_woken() && receipt.poll().is_ready());
        assert!(flushed.is_ready() || flush.is_woken() && flush.poll().is_ready());
        drop((receipt, flush));
        assert_eq!(outcomes.kept(), (0, 0, 0, 0));
    }
}
