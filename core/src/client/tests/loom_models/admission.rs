//! What a message's admission, the driver's take, eviction and the end of admission do to each other.

use std::{
    sync::Arc,
    task::{Poll, Waker},
};

use loom::thread;

use super::{Bell, Fake, Ordering, config, models, poll_once};
use crate::{
    client::{
        FireAndForget,
        account::Account,
        hand_over::{Admission, Attempt},
        producer_shared::ProducerShared,
        waiters::Amount,
    },
    config::BufferPolicy,
    error::PublishError,
    session::Flow,
};

/// Two publishers, and admission ends: what was accepted is taken, the rest comes back.
fn closed_while_two_publish(policy: BufferPolicy) {
    let fake = Fake::new(config::<FireAndForget>(policy, 1));
    let producer = fake.producer::<FireAndForget>();
    let publishers = [(), ()].map(|()| {
        let producer = producer.clone();
        thread::spawn(move || {
            let accepted = match producer.try_publish("x") {
                Ok(()) => 1,
                Err(PublishError::Closed(_) | PublishError::Full(_)) => 0,
                Err(error) => panic!("{error}"),
            };
            (accepted, producer)
        })
    });
    let mut taken = Vec::new();
    fake.shared.close();
    fake.shared.take_rest(|_, accepted| taken.push(accepted.sequence));
    let accepted: usize = publishers.into_iter().map(|publisher| publisher.join().unwrap().0).sum();
    assert!(matches!(producer.try_publish("late"), Err(PublishError::Closed(_))));
    taken.sort_unstable();
    assert!(taken.iter().copied().eq(1..=accepted as u64), "{accepted} accepted, taken {taken:?}");
}

/// A place in line, without a future.
fn ticket(shared: &ProducerShared) -> (u64, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    match shared.hand_over().admit_slowly(1, Attempt::Await(&waker), || unreachable!()) {
        Admission::Waiting { ticket, .. } => (ticket, bell),
        admission => panic!("{admission:?}"),
    }
}

models! {
    #[test]
    fn a_message_accepted_as_admission_ends_is_taken_or_given_back(3) {
        closed_while_two_publish(BufferPolicy::Block);
    }

    #[test]
    fn an_evicting_message_accepted_as_admission_ends_is_taken_or_given_back(3) {
        closed_while_two_publish(BufferPolicy::DropOldest);
    }

    /// Somebody in line is told; nobody is left there.
    #[test]
    fn whoever_waits_as_admission_ends_is_told(3) {
        let fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
        let producer = fake.producer::<FireAndForget>();
        producer.try_publish("fills it").unwrap();
        let waiting = thread::spawn({
            let producer = producer.clone();
            move || {
                let (mut task, mut poll) = poll_once(producer.publish("waits"));
                while poll.is_pending() {
                    thread::yield_now();
                    poll = task.run();
                }
                matches!(poll, Poll::Ready(Err(PublishError::Closed(_))))
            }
        });
        fake.shared.close();
        assert!(waiting.join().unwrap());
        let mut taken = 0;
        fake.shared.take_rest(|_, _| taken += 1);
        assert_eq!(taken, 1);
    }

    /// The publisher evicts from the hand-over while the driver takes from it: each message is taken
    /// once, as sent or as evicted, and the account comes out even.
    #[test]
    fn an_eviction_and_the_drivers_take_share_out_the_messages(3) {
        let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::DropOldest, 1));
        fake.flow = Flow { may_evict: true, offline: false };
        fake.tell();
        let producer = fake.producer::<FireAndForget>();
        // One in the buffer and one in the burst: the next one evicts.
        producer.try_publish("1").unwrap();
        producer.try_publish("2").unwrap();
        let evicting = thread::spawn({
            let producer = producer.clone();
            move || usize::from(producer.try_publish("3").is_ok())
        });
        let more = fake.take(usize::MAX);
        let accepted = 2 + evicting.join().unwrap();
        assert_eq!(fake.link.pop_ready().map(|_| ()), Some(()), "the first push lists it");
        // What was pushed behind the driver's back is announced, by `take` or by the list.
        let listed = fake.link.pop_ready().is_some();
        if fake.taken.len() < accepted {
            assert!(more || listed, "{} of {accepted}, and nobody says so", fake.taken.len());
        }
        while fake.take(usize::MAX) {}
        fake.taken.sort_unstable();
        assert!(fake.taken.iter().copied().eq(1..=accepted as u64), "{:?}", fake.taken);
        fake.send(usize::MAX);
        fake.tell();
        assert_eq!(producer.buffer_size(), 0);
    }

    /// Capacity for two, one free: of two claims at the same time one gets it, or both once something
    /// has left; numbers are drawn once.
    #[test]
    fn claims_never_exceed_what_is_free(3) {
        let account = Arc::new(Account::default());
        let fits = |queued: Amount| queued.messages < 2 && queued.bytes + 5 <= 10;
        assert_eq!(account.claim(5, |now| fits(now.queued)), Some(1));
        let claiming = [(), ()].map(|()| {
            let account = account.clone();
            thread::spawn(move || account.claim(5, |now| fits(now.queued)))
        });
        account.leave(Amount { messages: 1, bytes: 5 });
        let mut numbers: Vec<_> =
            claiming.into_iter().filter_map(|claim| claim.join().unwrap()).collect();
        numbers.sort_unstable();
        let now = account.read();
        assert!(numbers.iter().copied().eq(2..2 + numbers.len() as u64), "{numbers:?}");
        assert!(!numbers.is_empty(), "one place was free all the time");
        assert_eq!(now.queued.messages, numbers.len() as u64);
        assert_eq!(now.queued.bytes, 5 * numbers.len() as u64);
        assert_eq!(now.accepted, 1 + numbers.len() as u64);
    }

    /// What has left is read before what was accepted: at worst too much seems to be queued.
    #[test]
    fn a_reading_beside_claims_and_leaves_is_never_beyond_what_was_accepted(3) {
        let account = Arc::new(Account::default());
        let reading = thread::spawn({
            let account = account.clone();
            move || account.read()
        });
        for _ in 0..2 {
            assert!(account.claim(5, |_| true).is_some());
            account.leave(Amount { messages: 1, bytes: 5 });
        }
        let read = reading.join().unwrap();
        assert!(read.queued.messages <= 2 && read.queued.bytes <= 10, "{read:?}");
        assert!(read.accepted <= 2, "{read:?}");
    }

    /// A full buffer, one that waits in line, one that tries its luck, and room for one comes.
    #[test]
    fn room_goes_to_one_and_to_whoever_waited_first(3) {
        let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
        let producer = fake.producer::<FireAndForget>();
        producer.try_publish("fills it").unwrap();
        assert!(!fake.take(usize::MAX));
        fake.send(1);
        let (mut first, poll) = poll_once(producer.publish("first in line"));
        assert!(poll.is_pending());
        let hasty = thread::spawn({
            let producer = producer.clone();
            move || producer.try_publish("hasty").is_ok()
        });
        fake.tell();
        assert!(!hasty.join().unwrap(), "it took the room of whoever waits");
        assert!(first.is_woken());
        assert!(matches!(first.run(), Poll::Ready(Ok(()))));
        assert_eq!(producer.buffer_size(), 1);
    }

    /// Room comes while somebody is on the way into the line.
    #[test]
    fn whoever_joins_the_line_as_room_comes_gets_it(3) {
        let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
        let producer = fake.producer::<FireAndForget>();
        producer.try_publish("fills it").unwrap();
        assert!(!fake.take(usize::MAX));
        fake.send(1);
        let publishing = thread::spawn({
            let producer = producer.clone();
            move || {
                let (mut task, mut poll) = poll_once(producer.publish("waits"));
                // Woken, or never: a place without a wake-up is an endless loop, which loom reports.
                while poll.is_pending() {
                    thread::yield_now();
                    poll = task.run();
                }
                assert!(matches!(poll, Poll::Ready(Ok(()))));
            }
        });
        fake.tell();
        publishing.join().unwrap();
        assert_eq!(producer.buffer_size(), 1);
    }

    /// A place that is given up while room comes: the next in line gets the room.
    #[test]
    fn room_granted_to_a_dropped_future_passes_to_the_next(3) {
        let mut fake = Fake::new(config::<FireAndForget>(BufferPolicy::Block, 1));
        let producer = fake.producer::<FireAndForget>();
        producer.try_publish("fills it").unwrap();
        assert!(!fake.take(usize::MAX));
        fake.send(1);
        let hand_over = fake.shared.clone();
        let (first, second) = (ticket(&hand_over), ticket(&hand_over));
        let leaving = thread::spawn({
            let shared = hand_over.clone();
            move || shared.hand_over().leave(first.0)
        });
        fake.tell();
        leaving.join().unwrap();
        assert!(second.1.0.load(Ordering::Relaxed) > 0, "room, and nobody was woken");
        let admission = hand_over.hand_over().poll_place(second.0, Waker::noop());
        assert!(matches!(admission, Admission::Accepted(2)), "{admission:?}");
    }
}
