//! The end of the whole client: s13, s14, s48, f31.

use lavinmq_core::error::DialError;

use crate::words::*;

fn closed_state(stage: &mut Stage) -> Option<Loss> {
    match stage.states().last() {
        Some(State::Closed { loss }) => loss.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s14_shutdown_ends_consumers_first_and_closes_the_connections_last() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    stage.session.shutdown(30 * SEC, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    stage.silent();
    assert_eq!(stage.told(), [Told::HandBack(consumer)]);
    // Nothing new is admitted.
    assert_eq!(
        stage.session.open_consumer(consume("orders"), stage.now),
        Err(ConsumeError::Closed)
    );
    stage.settle(consumer, 1, 2..=3, Settlement::Requeue);
    stage.expect_frames(CON, &[requeue(channel, 2), requeue(channel, 3)]);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.silent();
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    // Only now: both connections, the channels with them.
    assert_eq!(stage.expect_close(PUB), 200);
    assert_eq!(stage.expect_close(CON), 200);
    let told = stage.told();
    assert_eq!(told.last(), Some(&Told::Ended(consumer, EndReason::ClientClosed)), "{told:?}");
    stage.close_ok(PUB);
    assert!(!stage.is_closed());
    stage.close_ok(CON);
    assert!(stage.is_closed());
    assert_eq!(stage.told(), [Told::Closed]);
    assert_eq!(closed_state(&mut stage), None);
    assert_eq!(stage.session.report(), Report::default());
    let account = stage.session.stats().consume;
    assert_eq!((account.received, account.acked, account.requeued), (3, 1, 2));
    assert_eq!(stage.session.poll_deadline(), None, "nothing is armed any more");
    stage.finish();
}

#[test]
fn s14_an_ack_is_flushed_before_the_connection_is_closed() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.session.shutdown(30 * SEC, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    // Half of it is out.
    stage.write(CON, 10);
    stage.silent();
    stage.stalled.clear();
    stage.expect_frames(CON, &[ack(channel, 1)]);
    assert_eq!(stage.expect_close(CON), 200);
}

#[test]
fn s14_the_deadline_ends_it_and_the_report_says_what_is_left() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    stage.session.shutdown(7 * SEC, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    stage.expect_frames(CON, &[ack(channel, 1)]);
    // One more is settled, and never written.
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 2..=2, Settlement::Ack);
    stage.pending(CON);
    stage.advance(7 * SEC - MS);
    assert!(!stage.is_closed());
    stage.advance(MS);
    assert!(stage.is_closed());
    assert_eq!((stage.peers[PUB].hang_ups, stage.peers[CON].hang_ups), (1, 1));
    let mut told = stage.told();
    told.retain(|told| !matches!(told, Told::HandBack(_) | Told::Written(..)));
    assert_eq!(
        told,
        [
            Told::Generation(consumer, 2),
            Told::Ended(consumer, EndReason::ClientClosed),
            Told::Closed
        ]
    );
    let report = stage.session.report();
    assert_eq!((report.abandoned, report.timed_out, report.is_clean()), (2, true, false));
    let account = stage.session.stats().consume;
    assert_eq!((account.received, account.acked, account.abandoned), (3, 1, 2));
}

#[test]
fn s14_a_second_shutdown_can_only_shorten_the_first() {
    for (second, ends_after) in [(2 * SEC, 2 * SEC), (100 * SEC, 10 * SEC)] {
        let mut stage = Stage::connected(config());
        let (_, channel, _) = stage.consuming();
        stage.deliver(CON, channel, 1..=1);
        stage.session.shutdown(10 * SEC, stage.now);
        stage.expect_cancel(CON, channel);
        stage.session.shutdown(second, stage.now);
        stage.advance(ends_after - MS);
        assert!(!stage.is_closed());
        stage.advance(MS);
        assert!(stage.is_closed());
    }
}

#[test]
fn s14_a_shutdown_without_anything_to_do_only_closes_the_connections() {
    let mut stage = Stage::connected(config());
    stage.session.shutdown(30 * SEC, stage.now);
    for c in [PUB, CON] {
        assert_eq!(stage.expect_close(c), 200);
    }
    // s14: after close, everything but close and close-ok is ignored.
    stage.reply(
        CON,
        0,
        AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {})),
    );
    stage.feed(CON, &wire::HEARTBEAT);
    stage.feed(CON, &deliveries(1, 1..=1));
    stage.reply(CON, 1, channel_close(404, "late"));
    stage.silent();
    assert_eq!((stage.peers[CON].hang_ups, stage.got()), (0, vec![]));
    stage.close_ok(CON);
    stage.close_ok(PUB);
    assert!(stage.is_closed());
    stage.finish();
}

#[test]
fn f31_connection_closes_that_cross_are_both_answered() {
    let mut stage = Stage::connected(config());
    stage.session.shutdown(30 * SEC, stage.now);
    for c in [PUB, CON] {
        assert_eq!(stage.expect_close(c), 200);
        stage.close(c, 320, "crossed", (0, 0));
        stage.expect_close_ok(c);
        assert_eq!(stage.peers[c].hang_ups, 1);
    }
    assert!(stage.is_closed());
    assert_eq!(closed_state(&mut stage), None, "our close says why");
    assert_eq!(stage.session.report(), Report::default());
    stage.finish();
}

#[test]
fn s14_a_close_that_is_never_answered_ends_at_its_deadline() {
    let mut stage = Stage::connected(config());
    stage.session.shutdown(300 * SEC, stage.now);
    for c in [PUB, CON] {
        stage.expect_close(c);
    }
    stage.advance(10 * SEC - MS);
    assert!(!stage.is_closed());
    stage.advance(MS);
    assert!(stage.is_closed());
    assert_eq!((stage.peers[PUB].hang_ups, stage.peers[CON].hang_ups), (1, 1));
    stage.finish();
}

#[test]
fn s13_the_peers_close_during_a_shutdown_is_answered_and_ends_the_consumers() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.session.shutdown(30 * SEC, stage.now);
    stage.expect_cancel(CON, channel);
    stage.stalled.insert(CON);
    stage.settle(consumer, 1, 1..=1, Settlement::Ack);
    // Half of the ack is out; it is finished, and nothing but close-ok follows.
    stage.write(CON, 10);
    stage.close(CON, 320, "shutdown", (0, 0));
    stage.stalled.clear();
    stage.expect_frames(CON, &[ack(channel, 1)]);
    stage.expect_close_ok(CON);
    assert_eq!(stage.expect_close(PUB), 200);
    stage.close_ok(PUB);
    assert!(stage.is_closed());
    let report = stage.session.report();
    let account = stage.session.stats().consume;
    assert_eq!((account.acked, account.abandoned, report.abandoned), (1, 1, 1));
    stage.finish();
}

#[test]
fn s14_a_shutdown_before_anything_stands_ends_at_once() {
    let mut stage = Stage::with_retry(config(), true);
    let consumer = stage.open_consumer(&consume("orders"));
    stage.connect(CON);
    stage.session.shutdown(30 * SEC, stage.now);
    assert!(stage.is_closed());
    let opened = Told::Opened(consumer, Err(ConsumeError::Closed));
    let ended = Told::Ended(consumer, EndReason::ClientClosed);
    assert_eq!(stage.told(), [Told::HandBack(consumer), opened, ended, Told::Closed]);
    assert_eq!(stage.states(), [State::Closed { loss: None }], "it was never connected");
    assert_eq!((stage.peers[PUB].hang_ups, stage.peers[CON].hang_ups), (1, 1));
    assert_eq!(stage.session.poll_deadline(), None);
}

#[test]
fn s14_while_the_connection_is_down_a_shutdown_does_not_wait_for_it() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=2);
    stage.cut(CON);
    stage.told();
    stage.session.shutdown(30 * SEC, stage.now);
    assert_eq!(
        stage.told(),
        [Told::HandBack(consumer), Told::Ended(consumer, EndReason::ClientClosed)]
    );
    stage.expect_close(PUB);
    stage.close_ok(PUB);
    assert!(stage.is_closed());
    assert!(stage.session.report().is_clean(), "lost before, and not by the shutdown");
}

#[test]
fn s48_a_consumer_that_its_application_closed_first_keeps_its_reason() {
    let mut stage = Stage::connected(config());
    let (first, channel, _) = stage.consuming();
    let (second, other, _) = stage.consuming();
    stage.session.close_consumer(first, stage.now);
    stage.expect_cancel(CON, channel);
    stage.session.shutdown(SEC, stage.now);
    stage.expect_cancel(CON, other);
    stage.advance(SEC);
    let told = stage.told();
    assert!(told.contains(&Told::Ended(first, EndReason::Closed)), "{told:?}");
    assert!(told.contains(&Told::Ended(second, EndReason::ClientClosed)), "{told:?}");
    assert_eq!(told.last(), Some(&Told::Closed));
}

#[test]
fn f24_an_abort_hangs_up_at_once_and_everybody_learns_it() {
    let mut stage = Stage::connected(config());
    let (active, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=3);
    let opening = stage.open_consumer(&consume("orders"));
    stage.expect_channel_open(CON);
    let request =
        stage.session.declare_queue(QueueConfig::new("late").unwrap(), stage.now).unwrap();
    stage.expect_channel_open(CON);
    stage.stalled.insert(CON);
    stage.settle(active, 1, 1..=1, Settlement::Ack);
    stage.pending(CON);
    stage.told();
    stage.session.abort(stage.now);
    assert!(stage.is_closed());
    assert_eq!((stage.peers[PUB].hang_ups, stage.peers[CON].hang_ups), (1, 1));
    let declared = stage.take_events(|event| matches!(event, SessionEvent::Declared { .. }));
    assert!(
        matches!(&declared[..], [SessionEvent::Declared { request: r, result: Err(_) }] if *r == request)
    );
    let told = stage.told();
    let ended = |consumer| Told::Ended(consumer, EndReason::ClientClosed);
    assert!(told.contains(&Told::Generation(active, 3)), "{told:?}");
    assert!(told.contains(&ended(active)) && told.contains(&ended(opening)), "{told:?}");
    assert!(told.contains(&Told::Opened(opening, Err(ConsumeError::Closed))));
    assert_eq!(told.last(), Some(&Told::Closed));
    // Encoded and never written counts as well.
    assert_eq!(stage.session.report().abandoned, 3);
    let account = stage.session.stats().consume;
    assert_eq!((account.received, account.abandoned), (3, 3));
    // Nothing that comes later wakes the dead.
    stage.settle(active, 1, 2..=2, Settlement::Ack);
    stage.session.close_consumer(active, stage.now);
    stage.session.shutdown(SEC, stage.now);
    stage.session.abort(stage.now);
    assert_eq!(stage.told(), []);
    assert_eq!(stage.session.poll_deadline(), None);
}

#[test]
fn s41_when_the_attempts_run_out_consumers_end_with_the_loss() {
    let mut config = config();
    config.backoff.max_attempts = Some(2);
    let mut stage = Stage::connected(config);
    let (consumer, channel, _) = stage.consuming();
    stage.deliver(CON, channel, 1..=1);
    stage.cut(CON);
    let loss = Loss::Dial { target: "localhost:5672".into(), error: DialError::TimedOut(SEC) };
    for _ in 0..2 {
        while !stage.peers[CON].dialling {
            stage.advance(50 * MS);
        }
        stage.cut_by(CON, loss.clone());
    }
    assert!(stage.is_closed());
    let told = stage.told();
    assert!(
        told.contains(&Told::Ended(consumer, EndReason::Disconnected(loss.clone()))),
        "{told:?}"
    );
    assert_eq!(closed_state(&mut stage), Some(loss));
}
