//! Liveness: s6, s7, s21, s42, f12 to f14, f17, f22, f27, f35.

use lavinmq_core::event::UnknownReason;

use crate::harness::*;

fn beating(seconds: u64) -> Config {
    let mut config = config();
    config.heartbeat = Duration::from_secs(seconds);
    config
}

/// Both connections stand with this heartbeat interval.
fn with_heartbeat(seconds: u16) -> Stage {
    let mut stage = Stage::new(beating(seconds.into()));
    let broker = Broker { tune: (2047, 131_072, seconds), ..Broker::default() };
    stage.accept(PUB, &broker);
    stage.accept(CON, &broker);
    stage.states();
    stage
}

fn heartbeat(stage: &mut Stage, c: usize) {
    stage.feed(c, &wire::HEARTBEAT);
}

/// The deadline counts from the last byte that was taken, not from the next look at what is left.
#[test]
fn s07_a_transport_that_took_a_part_and_takes_no_more_is_dropped_30_s_after_that() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.forgetting("orders");
    stage.stalled.insert(PUB);
    stage.publish(producer, "2");
    stage.write(PUB, 10);
    stage.sleep(29 * SEC);
    stage.session.handle_tick(stage.now);
    stage.pending(PUB);
    stage.advance(SEC - MS);
    assert!(stage.peers[PUB].up);
    stage.advance(MS);
    assert!(!stage.peers[PUB].up);
}

#[test]
fn a_connection_that_is_lost_once_counts_once_however_often_it_is_dialled() {
    let mut stage = Stage::connected(config());
    stage.cut(PUB);
    for _ in 0..3 {
        stage.until_reason(DeadlineReason::Reconnect);
        stage.connect(PUB);
        stage.cut(PUB);
    }
    assert_eq!((stage.session.stats().losses, stage.session.stats().reconnects), (1, 0));
    stage.until_reason(DeadlineReason::Reconnect);
    stage.accept(PUB, &Broker::default());
    stage.cut(PUB);
    assert_eq!((stage.session.stats().losses, stage.session.stats().reconnects), (2, 1));
}

#[test]
fn s06_a_heartbeat_follows_half_an_interval_without_sending() {
    let mut stage = with_heartbeat(10);
    stage.advance(5 * SEC - MS);
    stage.silent();
    stage.advance(MS);
    assert_eq!(stage.next(PUB), Wrote::Heartbeat);
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    // Any traffic counts: the next one is due half an interval after the last byte.
    stage.advance(3 * SEC);
    let producer = stage.producer("a", PublishMode::FireAndForget);
    stage.publish(producer, "1");
    let channel = stage.expect_channel_open(PUB);
    heartbeat(&mut stage, CON);
    stage.advance(2 * SEC);
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    stage.silent();
    stage.channel_open_ok(PUB, channel);
    stage.expect_publishes(PUB, &["1"]);
    stage.advance(5 * SEC - MS);
    stage.silent();
    stage.advance(MS);
    assert_eq!(stage.next(PUB), Wrote::Heartbeat);
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    stage.finish();
}

#[test]
fn s06_heartbeats_are_off_only_if_both_sides_say_zero() {
    for (ours, theirs, on) in [(0, 0, false), (0, 20, true), (10, 0, true)] {
        let mut stage = Stage::new(beating(ours));
        let broker = Broker { tune: (10, 131_072, theirs), ..Broker::default() };
        stage.accept(PUB, &broker);
        stage.accept(CON, &broker);
        if on {
            let interval = u64::from(theirs).max(ours);
            stage.advance(Duration::from_millis(interval * 500));
            assert_eq!(stage.next(PUB), Wrote::Heartbeat);
            assert_eq!(stage.next(CON), Wrote::Heartbeat);
        } else {
            stage.advance(3600 * SEC);
        }
        stage.finish();
    }
}

#[test]
fn f12_a_half_open_peer_is_dead_after_two_intervals() {
    let mut stage = with_heartbeat(10);
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    // The last sign of life of this peer; the other one is well.
    for _ in 0..3 {
        stage.advance(5 * SEC);
        heartbeat(&mut stage, CON);
        assert_eq!(stage.next(PUB), Wrote::Heartbeat);
        assert_eq!(stage.next(CON), Wrote::Heartbeat);
    }
    stage.advance(5 * SEC - MS);
    assert!(stage.peers[PUB].up);
    stage.advance(MS);
    assert!(!stage.peers[PUB].up && stage.peers[CON].up);
    // It stood for more than the stable period: the next attempt is immediate.
    assert!(stage.peers[PUB].dialling);
    let states = stage.states();
    let [State::Reconnecting { loss, attempt: 1 }] = &states[..] else { panic!("{states:?}") };
    assert_eq!(*loss, Loss::Silence(20 * SEC));
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    stage.accept(PUB, &Broker::default());
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn f14_any_inbound_byte_is_a_sign_of_life() {
    let mut stage = with_heartbeat(10);
    // Never a heartbeat: half of a frame, byte by byte, is enough for an hour.
    let mut method = Vec::new();
    wire::put_ack(&mut method, 1, 1, false);
    for &byte in &method[..18] {
        stage.advance(19 * SEC);
        stage.feed(PUB, &[byte]);
        heartbeat(&mut stage, CON);
        while stage.has_frames(PUB) || stage.has_frames(CON) {
            for c in [PUB, CON] {
                if stage.has_frames(c) {
                    assert_eq!(stage.next(c), Wrote::Heartbeat);
                }
            }
        }
    }
    assert!(stage.peers[PUB].up && stage.peers[CON].up);
    assert_eq!(stage.states(), []);
    stage.finish();
}

#[test]
fn f13_a_window_of_zero_ends_at_the_write_deadline() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("a");
    stage.stalled.insert(PUB);
    stage.publish(producer, "2");
    stage.pending(PUB);
    stage.advance(29 * SEC);
    // A single byte is progress.
    stage.write(PUB, 1);
    stage.advance(30 * SEC - MS);
    assert!(stage.peers[PUB].up);
    stage.advance(MS);
    assert!(!stage.peers[PUB].up);
    let Some(State::Reconnecting { loss, .. }) = stage.states().pop() else { panic!() };
    assert_eq!(loss, Loss::WriteStalled(30 * SEC));
    stage.stalled.clear();
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), None);
    stage.finish();
}

#[test]
fn f13_the_write_deadline_counts_from_when_output_became_pending() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("a");
    // Written at once; the deadline that was armed for it is old when the next write stalls.
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.ack(PUB, channel, 2, false);
    stage.advance(29_900 * MS);
    stage.stalled.insert(PUB);
    stage.publish(producer, "3");
    stage.pending(PUB);
    stage.advance(30 * SEC - MS);
    assert!(stage.peers[PUB].up, "{}", stage.session.explain(stage.now));
    stage.advance(MS);
    assert!(!stage.peers[PUB].up);
    stage.stalled.clear();
    stage.finish();
}

#[test]
fn f13_heartbeats_go_ahead_of_queued_publishes() {
    let mut stage = with_heartbeat(10);
    let (producer, _) = stage.forgetting("a");
    stage.stalled.insert(PUB);
    // Far more than is encoded at once.
    for _ in 0..1000 {
        stage.publish(producer, vec![b'x'; 1000]);
    }
    let ahead = stage.pending(PUB);
    assert!(ahead < 70_000, "{ahead} bytes are ahead of everything else");
    // Each time the transport has taken it all, the heartbeat is next, before further messages.
    stage.write(PUB, ahead);
    stage.advance(5 * SEC);
    let mut frames = 0;
    stage.stalled.clear();
    stage.pump();
    while stage.has_frames(PUB) {
        if stage.next(PUB) == Wrote::Heartbeat {
            break;
        }
        frames += 1;
    }
    assert!(frames <= 3 * 70, "the heartbeat is not behind a million bytes: {frames} frames");
    assert!(stage.has_frames(PUB));
    while stage.has_frames(PUB) {
        stage.next(PUB);
    }
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    stage.finish();
}

#[test]
fn f22_a_late_tick_fires_each_overdue_timer_once() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.cut(PUB);
    // Nobody ticks for an hour: one dial, not one per delay that passed.
    stage.sleep(3600 * SEC);
    stage.session.handle_tick(stage.now);
    stage.pump();
    assert!(stage.peers[PUB].dialling);
    stage.accept(PUB, &Broker::default());
    stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["2"]);
    // Bunched ticks do nothing more.
    for _ in 0..100 {
        stage.session.handle_tick(stage.now);
    }
    stage.silent();
    // A clock that goes back stands still instead: no deadline in the past.
    stage.peers[CON].up = false;
    stage.session.handle_disconnected(stage.id(CON), Loss::Eof, Time::ZERO);
    stage.pump();
    assert!(stage.session.poll_deadline().unwrap().at >= stage.now);
    let mut stage2 = with_heartbeat(10);
    stage2.sleep(19 * SEC);
    stage2.session.handle_tick(stage2.now);
    assert_eq!(stage2.next(PUB), Wrote::Heartbeat, "one heartbeat for three that were due");
    assert_eq!(stage2.next(CON), Wrote::Heartbeat);
    stage2.finish();
    stage.finish();
}

#[test]
fn f27_a_loss_that_is_never_signalled_is_found_by_the_deadline_alone() {
    let mut stage = with_heartbeat(2);
    // Nothing but the deadlines that the session names: no tick, no event, no read.
    let started = stage.now;
    while stage.peers[PUB].up {
        let deadline = stage.session.poll_deadline().unwrap();
        stage.advance(deadline.at - stage.now);
    }
    assert_eq!(stage.now - started, 4 * SEC);
    let Some(State::Reconnecting { loss, .. }) = stage.states().pop() else { panic!() };
    assert_eq!(loss, Loss::Silence(4 * SEC));
}

// ---- blocked ---------------------------------------------------------------------------------

#[test]
fn s21_blocked_stops_publishing_and_nothing_else() {
    let mut stage = with_heartbeat(10);
    let (producer, channel) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.blocked(PUB, "low on memory");
    assert_eq!(stage.states(), [State::Blocked { reason: "low on memory".into() }]);
    stage.publish(producer, "3");
    stage.silent();
    // Reading and heartbeating go on.
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.advance(5 * SEC);
    assert_eq!(stage.next(PUB), Wrote::Heartbeat);
    assert_eq!(stage.next(CON), Wrote::Heartbeat);
    // Declarations go over the other connection.
    stage.declare_now(QueueConfig::new("b").unwrap(), "b");
    heartbeat(&mut stage, PUB);
    heartbeat(&mut stage, CON);
    stage.unblocked(PUB);
    assert_eq!(stage.states(), [State::Connected]);
    stage.expect_publishes(PUB, &["3"]);
    stage.ack(PUB, channel, 3, false);
    assert_eq!(stage.verdicts(), [(3, None)]);
    stage.finish();
}

#[test]
fn f17_blocked_for_ever_only_silence_kills_it() {
    let mut stage = with_heartbeat(10);
    let mut settings = to_queue("a", PublishMode::Confirm);
    settings.confirm_timeout = Some(SEC);
    settings.confirm_retries = 0;
    let (producer, _) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    let other = stage.producer("b", PublishMode::Confirm);
    // The broker stops reading: what is written next never arrives, what is awaited does not come.
    stage.publish(other, "1");
    stage.expect_channel_open(PUB);
    stage.blocked(PUB, "memory");
    stage.stalled.insert(PUB);
    stage.advance(SEC);
    stage.pending(PUB);
    // Server heartbeats go on for an hour.
    for _ in 0..360 {
        stage.advance(10 * SEC);
        heartbeat(&mut stage, PUB);
        heartbeat(&mut stage, CON);
        while stage.has_frames(CON) {
            assert_eq!(stage.next(CON), Wrote::Heartbeat);
        }
    }
    assert!(stage.peers[PUB].up);
    assert_eq!(stage.verdicts(), []);
    assert_eq!(stage.stats(producer).in_flight, 1);
    // Then they end, too.
    stage.advance(20 * SEC);
    assert!(!stage.peers[PUB].up);
    stage.stalled.clear();
    while stage.has_frames(CON) {
        stage.next(CON);
    }
}

#[test]
fn f35_deadlines_that_a_block_suspended_start_again_when_it_ends() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("a", PublishMode::Confirm);
    settings.confirm_timeout = Some(10 * SEC);
    settings.confirm_retries = 0;
    let (producer, confirming) = stage.warmed_up(settings);
    let (writing, _) = stage.forgetting("c");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    let other = stage.producer("b", PublishMode::Confirm);
    stage.publish(other, "1");
    let opening = stage.expect_channel_open(PUB);
    stage.stalled.insert(PUB);
    stage.publish(writing, "x");
    stage.pending(PUB);
    stage.advance(SEC);
    stage.blocked(PUB, "memory");
    // Just before each of them would expire the block ends.
    stage.advance(8 * SEC + 999 * MS);
    stage.unblocked(PUB);
    stage.stalled.clear();
    stage.expect_publishes(PUB, &["x"]);
    stage.advance(9 * SEC);
    assert!(stage.peers[PUB].up, "{}", stage.session.explain(stage.now));
    stage.silent();
    stage.channel_open_ok(PUB, opening);
    stage.expect_method(PUB);
    stage.advance(SEC);
    assert_eq!(stage.expect_channel_close(PUB).0, confirming, "ten seconds after the block");
    let unknown = Some(Verdict::Unknown(UnknownReason::ConfirmTimeout));
    assert_eq!(stage.outcomes(), [(producer, 2, unknown)]);
    stage.finish();
}

#[test]
fn f35_the_write_deadline_starts_again_when_a_block_ends() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.forgetting("a");
    stage.stalled.insert(PUB);
    stage.publish(producer, "2");
    stage.pending(PUB);
    stage.blocked(PUB, "memory");
    stage.advance(29 * SEC);
    stage.unblocked(PUB);
    stage.advance(30 * SEC - MS);
    assert!(stage.peers[PUB].up, "{}", stage.session.explain(stage.now));
    stage.advance(MS);
    assert!(!stage.peers[PUB].up);
    stage.stalled.clear();
    stage.finish();
}

#[test]
fn f35_an_rpc_deadline_that_fires_while_blocked_waits_for_the_end_and_a_whole_deadline_more() {
    let mut stage = Stage::connected(config());
    let producer = stage.producer("a", PublishMode::Confirm);
    stage.publish(producer, "1");
    stage.expect_channel_open(PUB);
    stage.blocked(PUB, "memory");
    stage.advance(95 * SEC);
    stage.unblocked(PUB);
    stage.advance(10 * SEC - MS);
    assert!(stage.peers[PUB].up);
    stage.advance(MS);
    assert!(!stage.peers[PUB].up, "nobody answered channel.open");
    let Some(State::Reconnecting { loss: Loss::RpcTimedOut { method, .. }, .. }) =
        stage.states().pop()
    else {
        panic!("the state says why");
    };
    assert_eq!(method, "channel.open");
    stage.finish();
}

#[test]
fn f35_an_alarm_while_closing_does_not_hold_up_the_close() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("a");
    stage.blocked(PUB, "memory");
    stage.publish(producer, "2");
    stage.session.shutdown(5 * SEC, stage.now);
    stage.advance(5 * SEC - MS);
    assert!(!stage.is_closed());
    stage.advance(MS);
    assert!(stage.is_closed());
    assert_eq!(stage.verdicts(), [(2, Some(Verdict::Dropped(DropReason::Closed)))]);
    let report = stage.session.report();
    assert_eq!((report.dropped, report.unknown, report.timed_out), (1, 0, true));
    stage.finish();
}

#[test]
fn f35_an_alarm_that_stops_reads_keeps_the_deadline_of_our_close() {
    let mut stage = Stage::connected(config());
    stage.blocked(PUB, "memory");
    stage.session.shutdown(60 * SEC, stage.now);
    assert_eq!(stage.expect_close(PUB), 200);
    assert_eq!(stage.expect_close(CON), 200);
    stage.close_ok(CON);
    stage.advance(10 * SEC);
    assert!(stage.is_closed());
    stage.finish();
}

#[test]
fn s21_a_blocked_connection_that_is_lost_is_not_blocked_when_it_comes_back() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("a");
    stage.blocked(PUB, "memory");
    stage.publish(producer, "2");
    stage.silent();
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    assert_eq!(stage.states().pop(), Some(State::Connected));
    stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["2"]);
    stage.finish();
}

#[test]
fn f13_no_heartbeats_pile_up_while_the_peer_takes_nothing() {
    let mut stage = with_heartbeat(10);
    let (producer, _) = stage.forgetting("orders");
    stage.stalled.insert(PUB);
    stage.publish(producer, "2");
    let pending = stage.pending(PUB);
    for _ in 0..4 {
        stage.advance(5 * SEC);
        assert_eq!(stage.pending(PUB), pending);
        // It goes on sending.
        heartbeat(&mut stage, PUB);
        heartbeat(&mut stage, CON);
    }
}
