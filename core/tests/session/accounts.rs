//! The table of transitions: what a message can become (semantics, section 1).

use lavinmq_core::{
    BufferPolicy, PublishError, WhenOffline, error::InvalidMessage, event::UnknownReason,
    publish::Accepted, session::Report,
};

use crate::harness::*;

fn dropped(reason: DropReason) -> Option<Verdict> {
    Some(Verdict::Dropped(reason))
}

fn unknown(reason: UnknownReason) -> Option<Verdict> {
    Some(Verdict::Unknown(reason))
}

fn with(settings: ProducerConfig, change: impl FnOnce(&mut ProducerConfig)) -> ProducerConfig {
    let mut settings = settings;
    change(&mut settings);
    settings
}

#[test]
fn full_is_refused_and_the_message_comes_back() {
    for policy in [BufferPolicy::Block, BufferPolicy::Error] {
        let mut stage = Stage::new(config());
        let settings = with(to_queue("orders", PublishMode::FireAndForget), |settings| {
            settings.policy = policy;
            settings.buffer_size = 2;
        });
        let producer = stage.open_producer(settings);
        stage.publish(producer, "1");
        stage.publish(producer, "2");
        let error = stage.session.publish(producer, "3".into(), stage.now).unwrap_err();
        assert_eq!(error, PublishError::Full("3".into()));
        let stats = stage.stats(producer);
        assert_eq!((stats.offered, stats.refused_full, stats.queued), (3, 1, 2));
        stage.finish();
    }
}

#[test]
fn the_byte_cap_refuses_what_is_full_and_what_is_larger_than_the_whole_buffer() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("orders", PublishMode::Confirm), |settings| {
        settings.buffer_bytes = 100;
    });
    let producer = stage.open_producer(settings);
    stage.publish(producer, vec![0; 60]);
    let error = stage.session.publish(producer, vec![0; 41].into(), stage.now).unwrap_err();
    assert!(matches!(error, PublishError::Full(_)));
    let error = stage.session.publish(producer, vec![0; 101].into(), stage.now).unwrap_err();
    let invalid = InvalidMessage::LargerThanBuffer { length: 101, limit: 100 };
    assert_eq!(error, PublishError::Invalid(vec![0; 101].into(), invalid));
    stage.publish(producer, vec![0; 40]);
    assert_eq!(stage.stats(producer).queued_bytes, 100);
    stage.finish();
}

#[test]
fn offline_is_refused_when_told_to_fail_and_blocked_is_not_offline() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("orders", PublishMode::Confirm), |settings| {
        settings.when_offline = WhenOffline::Fail;
    });
    let producer = stage.open_producer(settings);
    let error = stage.session.publish(producer, "1".into(), stage.now).unwrap_err();
    assert_eq!(error, PublishError::Offline("1".into(), State::Connecting.into()));
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    stage.blocked(PUB, "low on memory");
    stage.publish(producer, "2");
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.silent();
    stage.unblocked(PUB);
    stage.expect_publishes(PUB, &["2"]);
    stage.ack(PUB, channel, 1, false);
    stage.cut(PUB);
    let error = stage.session.publish(producer, "3".into(), stage.now).unwrap_err();
    assert!(matches!(error, PublishError::Offline(..)), "{error:?}");
    let stats = stage.stats(producer);
    assert_eq!((stats.refused_offline, stats.confirmed), (2, 1));
    stage.finish();
}

#[test]
fn a_closed_producer_refuses_and_what_it_had_is_still_sent() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.session.close_producer(producer, false, stage.now);
    stage.expect_publishes(PUB, &["2"]);
    let error = stage.session.publish(producer, "3".into(), stage.now).unwrap_err();
    assert_eq!(error, PublishError::Closed("3".into()));
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    assert!(stage.update(producer).closed);
    assert_eq!(stage.update(producer).settled, 2);
    // Its account stays in the sum.
    assert_eq!(stage.session.producer_stats(producer), None);
    assert_eq!(stage.session.stats().publish.confirmed, 2);
    assert_eq!(stage.expect_channel_close(PUB), (channel, 200));
    stage.finish();
}

#[test]
fn drop_oldest_evicts_the_oldest_and_the_byte_cap_several_for_one() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("clicks", PublishMode::FireAndForget), |settings| {
        settings.buffer_size = 3;
        settings.buffer_bytes = 1000;
    });
    let producer = stage.open_producer(settings);
    for _ in 1..=3 {
        stage.publish(producer, vec![b'x'; 300]);
    }
    stage.publish(producer, vec![b'y'; 300]);
    assert_eq!(stage.verdicts(), [(1, dropped(DropReason::BufferFull))]);
    // 300 + 300 + 300 + 900 is over the cap until all three are gone.
    stage.publish(producer, vec![b'z'; 900]);
    let evicted: Vec<_> = (2..=4).map(|n| (n, dropped(DropReason::BufferFull))).collect();
    assert_eq!(stage.verdicts(), evicted);
    let stats = stage.stats(producer);
    assert_eq!((stats.dropped_buffer_full, stats.queued, stats.queued_bytes), (4, 1, 900));
    assert_eq!(stage.update(producer).settled, 4);
    assert_eq!(stage.left[&producer], 4, "room for others");
    // Full to the last byte is not over the cap.
    stage.publish(producer, vec![b'!'; 100]);
    assert_eq!(stage.verdicts(), []);
    stage.accept(PUB, &Broker::default());
    stage.accept_lane(PUB, PublishMode::FireAndForget);
    assert_eq!(stage.expect_publish(PUB).body, vec![b'z'; 900]);
    assert_eq!(stage.expect_publish(PUB).body, vec![b'!'; 100]);
    assert_eq!(stage.stats(producer).sent, 2);
    stage.finish();
}

#[test]
fn what_leaves_the_buffer_is_told_in_messages_and_in_bytes() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("clicks", PublishMode::FireAndForget), |settings| {
        settings.buffer_size = 3;
        settings.ttl = Some(SEC);
    });
    let producer = stage.open_producer(settings);
    let left = |stage: &mut Stage| {
        let mut sum = (0, 0);
        while let Some(update) = stage.session.poll_producer() {
            sum = (sum.0 + update.left, sum.1 + update.left_bytes);
        }
        sum
    };
    let publish = |stage: &mut Stage, bytes: usize| {
        stage.session.publish(producer, vec![0; bytes].into(), stage.now).unwrap();
    };
    for bytes in [5, 7, 11, 13] {
        publish(&mut stage, bytes);
    }
    assert_eq!(left(&mut stage), (1, 5), "evicted");
    stage.now += SEC;
    stage.session.handle_tick(stage.now);
    assert_eq!(left(&mut stage), (3, 31), "expired");
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    stage.publish(producer, "");
    stage.accept_lane(PUB, PublishMode::FireAndForget);
    stage.expect_publish(PUB);
    publish(&mut stage, 17);
    publish(&mut stage, 19);
    assert_eq!(left(&mut stage), (0, 0));
    let mut slices = [std::io::IoSlice::new(&[]); 16];
    stage.session.transmit(stage.id(PUB), &mut slices);
    assert_eq!(left(&mut stage), (2, 36), "encoded");
    assert!(stage.session.stats().is_conserved());
}

#[test]
fn what_was_evicted_at_the_hand_over_is_counted_and_reported() {
    let mut stage = Stage::new(config());
    let producer = stage.producer("clicks", PublishMode::FireAndForget);
    let accepted = |sequence| Accepted {
        sequence,
        at: Time::ZERO,
        routing_key: None,
        message: Message::new("x"),
    };
    stage.session.accept(producer, accepted(2), stage.now);
    stage.session.accept_evicted(producer, accepted(1), stage.now);
    let told = stage.session.producer_stats(producer).unwrap();
    assert_eq!((told.accepted, told.accepted_terms()), (2, 2));
    assert_eq!((told.dropped_buffer_full, told.queued), (1, 1));
    let mut evicted = 0;
    while let Some(event) = stage.session.poll_event() {
        if let SessionEvent::Settled { settled, .. } = event {
            assert_eq!((settled.sequence, settled.verdict), (1, dropped(DropReason::BufferFull)));
            evicted += 1;
        }
    }
    assert_eq!(evicted, 1);
    let update = stage.session.poll_producer().unwrap();
    assert_eq!((update.left, update.settled), (0, 1), "it never counted as being in the buffer");
}

#[test]
fn an_encoded_message_is_never_evicted_and_never_expires() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = Stage::connected(config());
        let settings = with(to_queue("orders", mode), |settings| {
            settings.policy = BufferPolicy::DropOldest;
            settings.buffer_size = 2;
            settings.ttl = Some(SEC);
        });
        let (producer, _) = stage.warmed_up(settings);
        stage.stalled.insert(PUB);
        // Encoded, and a part of it taken; then the connection breaks.
        stage.publish(producer, "encoded");
        stage.write(PUB, 10);
        assert_eq!(stage.stats(producer).in_flight, 1);
        stage.cut(PUB);
        for n in 3..=5 {
            stage.publish(producer, n.to_string());
        }
        assert_eq!(stage.verdicts(), [(3, dropped(DropReason::BufferFull))]);
        let stats = stage.stats(producer);
        assert_eq!((stats.in_flight, stats.queued), (1, 2));
        // Nobody answers for longer than the time to live.
        stage.sleep(5 * SEC);
        stage.session.handle_tick(stage.now);
        assert_eq!(
            stage.verdicts(),
            [(4, dropped(DropReason::TtlExpired)), (5, dropped(DropReason::TtlExpired))]
        );
        stage.accept(PUB, &Broker::default());
        stage.accept_lane(PUB, mode);
        assert_eq!(stage.expect_publishes(PUB, &["encoded"])[0].attempt(), None);
        stage.finish();
    }
}

#[test]
fn a_time_to_live_counts_from_acceptance_and_to_the_exact_time() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("orders", PublishMode::Confirm), |settings| {
        settings.ttl = Some(SEC);
    });
    let producer = stage.open_producer(settings);
    stage.publish(producer, "1");
    stage.advance(400 * MS);
    stage.publish(producer, "2");
    stage.publish(producer, "3");
    stage.advance(600 * MS - MS);
    assert_eq!(stage.verdicts(), []);
    stage.advance(MS);
    assert_eq!(stage.verdicts(), [(1, dropped(DropReason::TtlExpired))]);
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    // The channel opens too late for one that expired meanwhile, without any tick.
    let channel = stage.expect_channel_open(PUB);
    stage.sleep(400 * MS);
    stage.publish(producer, "4");
    stage.channel_open_ok(PUB, channel);
    assert!(matches!(stage.next(PUB), Wrote::Method(_, AMQPClass::Confirm(_))));
    stage.select_ok(PUB, channel);
    stage.expect_publishes(PUB, &["4"]);
    assert_eq!(
        stage.verdicts(),
        [(2, dropped(DropReason::TtlExpired)), (3, dropped(DropReason::TtlExpired))]
    );
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(4, None)]);
    assert_eq!(stage.stats(producer).dropped_ttl, 3);
    stage.finish();
}

#[test]
fn a_full_window_is_not_filled_further_and_a_confirm_makes_room() {
    let mut stage = Stage::connected(config());
    let settings = with(to_queue("orders", PublishMode::Confirm), |settings| {
        settings.max_in_flight = 2;
    });
    let (producer, channel) = stage.warmed_up(settings);
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    stage.expect_publishes(PUB, &["2", "3"]);
    stage.silent();
    let stats = stage.stats(producer);
    assert_eq!((stats.in_flight, stats.queued), (2, 2));
    stage.ack(PUB, channel, 3, false);
    stage.expect_publishes(PUB, &["4"]);
    stage.silent();
    stage.ack(PUB, channel, 0, true);
    stage.expect_publishes(PUB, &["5"]);
    stage.ack(PUB, channel, 5, false);
    stage.finish();
}

#[test]
fn drop_oldest_waits_while_messages_leave_and_evicts_once_nothing_has_left_for_100_ms() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.forgetting("clicks");
    assert!(!stage.update(producer).flow.may_evict);
    stage.stalled.insert(PUB);
    // The first fills the transport; the second stays in the buffer.
    stage.publish(producer, vec![0; 100_000]);
    stage.publish(producer, "3");
    stage.pending(PUB);
    stage.advance(100 * MS - MS);
    assert!(!stage.update(producer).flow.may_evict);
    stage.advance(2 * MS);
    assert!(stage.update(producer).flow.may_evict);
    // Something leaves: it waits again.
    stage.stalled.clear();
    stage.pump();
    assert_eq!(stage.expect_publish(PUB).body.len(), 100_000);
    stage.expect_publishes(PUB, &["3"]);
    assert!(!stage.update(producer).flow.may_evict);
    // While the connection is down, blocked, or the channel closed: at once.
    stage.blocked(PUB, "memory");
    assert!(stage.update(producer).flow.may_evict && !stage.update(producer).flow.offline);
    stage.unblocked(PUB);
    assert!(!stage.update(producer).flow.may_evict);
    stage.cut(PUB);
    assert!(stage.update(producer).flow.may_evict && stage.update(producer).flow.offline);
    stage.finish();
}

#[test]
fn drop_oldest_evicts_at_once_however_late_the_outputs_are_drained() {
    let mut stage = Stage::new(config());
    let settings = with(to_queue("clicks", PublishMode::FireAndForget), |settings| {
        settings.buffer_size = 2;
    });
    let producer = stage.open_producer(settings);
    for n in 1..=6 {
        stage.session.publish(producer, n.to_string().into(), stage.now).unwrap();
        assert_eq!(stage.stats(producer).queued, n.min(2));
    }
    let evicted: Vec<_> = (1..=4).map(|n| (n, dropped(DropReason::BufferFull))).collect();
    assert_eq!(stage.verdicts(), evicted);
    stage.finish();
}

#[test]
fn a_buffer_stalls_100_ms_after_something_left_it_whatever_comes_in_meanwhile() {
    let mut stage = Stage::connected(config());
    let producer = stage.producer("clicks", PublishMode::FireAndForget);
    // Its channel is being opened, and nobody answers.
    for _ in 0..3 {
        assert!(!stage.update(producer).flow.may_evict);
        stage.publish(producer, vec![0; 60_000]);
        stage.advance(40 * MS);
    }
    assert!(stage.update(producer).flow.may_evict, "120 ms");
    let channel = stage.expect_channel_open(PUB);
    stage.stalled.insert(PUB);
    stage.channel_open_ok(PUB, channel);
    // The first is encoded: something left. What stays behind it stands still again.
    stage.pending(PUB);
    stage.pump();
    assert!(stage.stats(producer).queued > 0);
    assert!(!stage.update(producer).flow.may_evict);
    stage.advance(100 * MS);
    assert!(stage.update(producer).flow.may_evict);
    stage.stalled.clear();
    stage.pump();
    assert!(!stage.update(producer).flow.may_evict);
    for _ in 0..3 {
        stage.expect_publish(PUB);
    }
    stage.finish();
}

// ---- the end ---------------------------------------------------------------------------------

/// A producer with a message in each state, and the connection's fate after it.
fn in_every_state(mode: PublishMode) -> (Stage, ProducerId) {
    let mut stage = Stage::connected(config());
    let settings = with(to_queue("orders", mode), |settings| settings.max_in_flight = 3);
    let (producer, _) = stage.warmed_up(settings);
    // Written whole; written in part; encoded; queued.
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.stalled.insert(PUB);
    stage.publish(producer, "3");
    stage.write(PUB, 20);
    stage.publish(producer, "4");
    stage.pending(PUB);
    for n in 5..=9 {
        stage.publish(producer, n.to_string());
    }
    (stage, producer)
}

#[test]
fn abort_drops_what_the_broker_cannot_have_and_calls_the_rest_unknown() {
    let (mut stage, producer) = in_every_state(PublishMode::Confirm);
    let stats = stage.stats(producer);
    assert_eq!((stats.in_flight, stats.queued), (3, 5));
    stage.session.abort(stage.now);
    let mut expected = vec![(2, unknown(UnknownReason::Closed))];
    expected.extend((3..=9).map(|n| (n, dropped(DropReason::Closed))));
    assert_eq!(stage.verdicts(), expected);
    assert!(stage.is_closed() && stage.peers.iter().all(|peer| !peer.up));
    let report: Report = stage.session.report();
    assert_eq!((report.dropped, report.unknown, report.timed_out), (7, 1, false));
    let sum = stage.session.stats().publish;
    assert_eq!((sum.queued, sum.in_flight, sum.waiting), (0, 0, 0));
    assert_eq!((sum.dropped_closed, sum.unknown, sum.confirmed), (7, 1, 1));
    // Later publishes are refused.
    let error = stage.session.publish(producer, "x".into(), stage.now).unwrap_err();
    assert_eq!(error, PublishError::Closed("x".into()));
    stage.finish();
}

#[test]
fn abort_counts_what_fire_and_forget_wrote_as_sent() {
    let (mut stage, producer) = in_every_state(PublishMode::FireAndForget);
    stage.session.abort(stage.now);
    let expected: Vec<_> = (3..=9).map(|n| (n, dropped(DropReason::Closed))).collect();
    assert_eq!(stage.verdicts(), expected);
    let _ = producer;
    assert_eq!(stage.session.stats().publish.sent, 2);
    stage.finish();
}

#[test]
fn a_resent_copy_makes_it_unknown_even_if_that_copy_was_cut() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    stage.accept_lane(PUB, PublishMode::Confirm);
    stage.stalled.insert(PUB);
    let _ = producer;
    // The second copy is out already; another message is cut.
    assert_eq!(stage.expect_publish(PUB).attempt(), Some(2));
    stage.publish(producer, "3");
    stage.write(PUB, 20);
    stage.cut(PUB);
    stage.session.abort(stage.now);
    assert_eq!(
        stage.verdicts(),
        [(2, unknown(UnknownReason::Closed)), (3, dropped(DropReason::Closed))]
    );
    stage.finish();
}

#[test]
fn shutdown_sends_what_is_queued_and_awaits_the_settlements() {
    let mut stage = Stage::connected(config());
    let settings = with(to_queue("orders", PublishMode::Confirm), |s| s.max_in_flight = 1);
    let (producer, channel) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.publish(producer, "3");
    stage.expect_publishes(PUB, &["2"]);
    stage.session.shutdown(30 * SEC, stage.now);
    let error = stage.session.publish(producer, "x".into(), stage.now).unwrap_err();
    assert!(matches!(error, PublishError::Closed(_)));
    stage.silent();
    stage.ack(PUB, channel, 2, false);
    stage.expect_publishes(PUB, &["3"]);
    stage.silent();
    stage.ack(PUB, channel, 3, false);
    assert_eq!(stage.verdicts(), [(2, None), (3, None)]);
    while stage.has_frames(PUB) {
        match stage.expect_method(PUB) {
            (n, AMQPClass::Channel(channel::AMQPMethod::Close(_))) => assert_eq!(n, channel),
            (0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                assert_eq!(close.reply_code, 200);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stage.expect_close(CON), 200);
    assert!(!stage.is_closed());
    stage.close_ok(PUB);
    stage.close_ok(CON);
    assert!(stage.is_closed() && stage.session.report().is_clean());
    assert_eq!(stage.states(), [State::Closed { loss: None }]);
    stage.finish();
}

#[test]
fn a_shutdown_that_reaches_its_deadline_gives_up_what_is_left() {
    let (mut stage, _) = in_every_state(PublishMode::Confirm);
    stage.session.shutdown(5 * SEC, stage.now);
    stage.advance(5 * SEC - MS);
    assert!(!stage.is_closed());
    stage.advance(MS);
    assert!(stage.is_closed());
    let mut expected = vec![(2, unknown(UnknownReason::Closed))];
    expected.extend((3..=9).map(|n| (n, dropped(DropReason::Closed))));
    assert_eq!(stage.verdicts(), expected);
    let report = stage.session.report();
    assert_eq!((report.dropped, report.unknown, report.timed_out), (7, 1, true));
    stage.finish();
}

#[test]
fn reconnect_attempts_that_ran_out_drop_or_do_not_know() {
    let mut config = config();
    config.backoff.max_attempts = Some(3);
    let mut stage = Stage::connected(config);
    let (producer, _) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.cut(PUB);
    stage.publish(producer, "3");
    for _ in 0..3 {
        stage.until_reason(DeadlineReason::Reconnect);
        let error = lavinmq_core::error::DialError::TimedOut(SEC);
        stage.cut_by(PUB, Loss::Dial { target: "x".into(), error });
    }
    assert!(stage.is_closed());
    assert_eq!(
        stage.verdicts(),
        [(2, unknown(UnknownReason::Disconnected)), (3, dropped(DropReason::Disconnected))]
    );
    let error = stage.session.publish(producer, "x".into(), stage.now).unwrap_err();
    assert!(matches!(error, PublishError::Closed(_)));
    let state = stage.states().pop();
    assert!(matches!(state, Some(State::Closed { loss: Some(Loss::Dial { .. }) })), "{state:?}");
    stage.finish();
}

#[test]
fn abandoning_a_producer_alone_settles_it_and_leaves_the_connection_in_order() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = Stage::connected(config());
        let settings = with(to_queue("orders", mode), |settings| settings.max_in_flight = 2);
        let (producer, channel) = stage.warmed_up(settings);
        stage.stalled.insert(PUB);
        // Begun: its body is longer than what is encoded at once.
        stage.publish(producer, vec![b'x'; 400_000]);
        stage.write(PUB, 30_000);
        stage.publish(producer, "3");
        stage.session.close_producer(producer, true, stage.now);
        stage.stalled.clear();
        // It must be finished on its channel, and so it is no drop: the broker gets it whole.
        assert_eq!(stage.expect_publish(PUB).body.len(), 400_000);
        assert_eq!(stage.expect_channel_close(PUB), (channel, 200));
        // Nobody looks again whether it gets that far: not even in fire-and-forget mode is it sent.
        let expected = [(2, unknown(UnknownReason::Closed)), (3, dropped(DropReason::Closed))];
        assert_eq!(stage.verdicts(), expected);
        assert!(stage.update(producer).closed);
        // Confirms of a producer that is gone are no error.
        if mode == PublishMode::Confirm {
            stage.ack(PUB, channel, 2, false);
        }
        stage.channel_close_ok(PUB, channel);
        stage.finish();
    }
}

#[test]
fn s48_what_is_encoded_and_not_written_when_a_producer_is_abandoned_is_not_sent() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.forgetting("orders");
    stage.stalled.insert(PUB);
    stage.session.publish(producer, "2".into(), stage.now).unwrap();
    stage.session.publish(producer, "3".into(), stage.now).unwrap();
    let first = stage.pending(PUB) / 2;
    stage.write(PUB, first + 1);
    stage.session.close_producer(producer, true, stage.now);
    // The transport has the whole of the first only. The second may go out, and it may be cut.
    assert_eq!(stage.verdicts(), [(3, unknown(UnknownReason::Closed))]);
    assert_eq!(stage.session.stats().publish.sent, 2);
    stage.stalled.clear();
    stage.expect_publishes(PUB, &["2", "3"]);
    assert_eq!(stage.expect_channel_close(PUB), (channel, 200));
    assert!(stage.update(producer).closed);
    stage.channel_close_ok(PUB, channel);
    stage.finish();
}
