//! Producers and consumers opened and closed for ever: f29.

use crate::words::*;

const ROUNDS: usize = 10_000;

/// How long everything is that a session holds, written out.
fn size(stage: &Stage) -> usize {
    format!("{:?}", stage.session).len()
}

/// Counters grow by a digit now and then; nothing else does.
fn assert_flat(stage: &Stage, before: usize) {
    let after = size(stage);
    assert!(after < before + 400, "from {before} to {after}:\n{:?}", stage.session);
}

#[test]
fn f29_ten_thousand_consumers_reuse_channel_numbers_and_memory_is_flat() {
    let mut stage = Stage::connected(config());
    let (steady, kept, _) = stage.subscribed(&consume("steady"));
    let mut before = 0;
    for round in 0..ROUNDS {
        let (consumer, channel, tag) = stage.consuming();
        assert_eq!(channel, kept + 1, "round {round}");
        stage.deliver(CON, channel, 1..=3);
        let (generation, _) = stage.got_tags();
        stage.settle(consumer, generation, 1..=1, Settlement::Ack);
        stage.settle(consumer, generation, 2..=2, Settlement::RequeueLater);
        stage.session.close_consumer(consumer, stage.now);
        stage.expect_frames(CON, &[ack(channel, 1)]);
        stage.expect_cancel(CON, channel);
        stage.settle(consumer, generation, 3..=3, Settlement::Requeue);
        stage.feed(CON, &cancel_ok(channel, &tag));
        stage.expect_frames(CON, &[requeue(channel, 2), requeue(channel, 3)]);
        stage.expect_channel_close(CON);
        stage.channel_close_ok(CON, channel);
        assert_eq!(stage.told().last(), Some(&Told::Ended(consumer, EndReason::Closed)));
        if round == 10 {
            before = size(&stage);
        }
    }
    assert_flat(&stage, before);
    let account = stage.session.stats().consume;
    let n = ROUNDS as u64;
    assert_eq!((account.received, account.acked, account.requeued), (3 * n, n, 2 * n));
    assert_eq!(account.forgotten, n);
    stage.deliver(CON, kept, 1..=1);
    assert_eq!(stage.terms(steady), [1, 0, 0, 0, 0, 1, 0]);
    stage.finish();
}

#[test]
fn f29_ten_thousand_no_ack_consumers_that_close_with_full_queues() {
    let mut stage = Stage::connected(config());
    let mut narrow = consume_no_ack("orders");
    narrow.queue_bytes = 10;
    let mut before = 0;
    for round in 0..ROUNDS {
        let (consumer, channel, tag) = stage.subscribed(&narrow);
        assert_eq!(channel, 1);
        stage.deliver(NOACK, channel, 1..=3);
        stage.session.close_consumer(consumer, stage.now);
        stage.expect_cancel(NOACK, channel);
        stage.feed(NOACK, &cancel_ok(channel, &tag));
        stage.expect_channel_close(NOACK);
        stage.channel_close_ok(NOACK, channel);
        assert_eq!(stage.told(), [Told::Ended(consumer, EndReason::Closed)]);
        assert_eq!(stage.got_bodies().len(), 3);
        if round == 10 {
            before = size(&stage);
        }
    }
    assert_flat(&stage, before);
    stage.finish();
}

#[test]
fn f29_ten_thousand_producers_of_both_modes_reuse_channel_numbers_and_memory_is_flat() {
    let mut stage = Stage::connected(config());
    let mut before = 0;
    for round in 0..ROUNDS / 2 {
        for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
            let producer = stage.producer("orders", mode);
            stage.publish(producer, "hello");
            let channel = stage.accept_lane(PUB, mode);
            assert_eq!(channel, 1, "round {round}");
            stage.expect_publishes(PUB, &["hello"]);
            stage.session.close_producer(producer, false, stage.now);
            stage.pump();
            if mode == PublishMode::Confirm {
                stage.ack(PUB, channel, 1, false);
            }
            assert!(stage.update(producer).closed);
            assert_eq!(stage.expect_channel_close(PUB), (channel, 200));
            stage.channel_close_ok(PUB, channel);
            assert_eq!(stage.session.producer_stats(producer), None);
        }
        stage.outcomes();
        if round == 10 {
            before = size(&stage);
        }
    }
    assert_flat(&stage, before);
    let n = ROUNDS as u64 / 2;
    let account = stage.session.stats().publish;
    assert_eq!((account.accepted, account.confirmed, account.sent), (2 * n, n, n));
    stage.finish();
}

/// A consumer that is cancelled and comes back for ever keeps nothing of its old channels.
#[test]
fn f29_ten_thousand_cancels_of_one_consumer() {
    let mut stage = Stage::connected(config());
    let orders = consume("orders");
    let (consumer, mut channel, mut tag) = stage.subscribed(&orders);
    let mut before = 0;
    for round in 0..ROUNDS {
        stage.feed(CON, &server_cancel(channel, &tag, true));
        assert_eq!(stage.expect_channel_close(CON), (channel, 200));
        stage.channel_close_ok(CON, channel);
        if round > 0 {
            stage.wait_for_backoff();
        }
        (channel, tag) = stage.accept_consumer(CON, &orders);
        assert!(channel <= 2);
        assert_eq!(stage.told().last(), Some(&resumed("orders")));
        if round == 10 {
            before = size(&stage);
        }
    }
    assert_flat(&stage, before);
    assert_eq!(stage.terms(consumer), [0; 7]);
    stage.finish();
}
