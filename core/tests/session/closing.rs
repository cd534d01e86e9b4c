//! Connections that end: s13, s14, f15, f31, f32; and what breaks the protocol: s8, s9, f20, f21.

use lavinmq_core::{
    config::ConsumerConfig,
    error::{ConsumeError, OpenError, ProtocolError, PublishError},
    event::FailReason,
    wire::{FrameKind, WireError},
};

use crate::harness::*;

const PUBLISH: (u16, u16) = (60, 40);

/// After 10 s of standing, so that the next attempt is immediate.
fn stable() -> Stage {
    let mut stage = Stage::connected(config());
    stage.advance(11 * SEC);
    stage
}

fn reconnect(stage: &mut Stage) {
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
}

#[test]
fn f15_a_connection_close_is_answered_and_what_was_in_flight_is_sent_again() {
    for code in [320, 501, 502, 503, 504, 505, 506, 530, 541] {
        let mut stage = stable();
        let (confirming, channel) = stage.confirming("a");
        let (forgetting, _) = stage.forgetting("b");
        stage.publish(confirming, "2");
        stage.publish(forgetting, "2");
        stage.expect_publishes(PUB, &["2", "2"]);
        stage.close(PUB, code, "why", (0, 0));
        stage.expect_close_ok(PUB);
        assert!(!stage.peers[PUB].up && stage.peers[PUB].hang_ups == 1);
        let Some(State::Reconnecting { loss: Loss::Closed { code: told, .. }, .. }) =
            stage.states().pop()
        else {
            panic!("the state says why");
        };
        assert_eq!(told, code);
        assert_eq!(stage.verdicts(), []);
        let _ = channel;
        reconnect(&mut stage);
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        let copies = stage.expect_publishes(PUB, &["2"]);
        assert_eq!((&*copies[0].routing_key, copies[0].attempt()), ("a", Some(2)));
        stage.ack(PUB, channel, 1, false);
        assert_eq!(stage.verdicts(), [(2, None)]);
        assert_eq!(stage.stats(forgetting).sent, 2);
        assert_eq!(stage.session.stats().losses, 1);
        stage.finish();
    }
}

/// From the first close on, not only once the transport is gone: `when_offline(Fail)` refuses then,
/// and the refusal says why.
#[test]
fn s1_a_publish_refused_while_a_connection_is_closed_is_told_that_state() {
    for by_us in [false, true] {
        let mut stage = stable();
        let mut failing = to_queue("a", PublishMode::Confirm);
        failing.when_offline = lavinmq_core::config::WhenOffline::Fail;
        let (producer, _) = stage.warmed_up(failing);
        stage.states();
        stage.stalled.insert(PUB);
        if by_us {
            stage.feed(PUB, &[9; 64]);
        } else {
            stage.close(PUB, 320, "CONNECTION_FORCED", (0, 0));
        }
        let refused = stage.session.publish(producer, Message::new("x"), stage.now);
        let Err(PublishError::Offline(_, state)) = refused else { panic!("{refused:?}") };
        assert!(matches!(&*state, State::Reconnecting { attempt: 1, .. }), "{state}");
        assert_eq!(stage.states(), [(*state).clone()]);
        stage.stalled.clear();
        stage.cut(PUB);
        assert_eq!(stage.states(), [], "the same attempt, for the same reason");
        stage.take_events(|_| true);
    }
}

#[test]
fn f15_a_540_is_reported_and_not_repeated() {
    let mut stage = stable();
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.close(PUB, 540, "NOT_IMPLEMENTED", PUBLISH);
    stage.expect_close_ok(PUB);
    let reason = FailReason::Refused { code: 540, text: "NOT_IMPLEMENTED".into() };
    assert_eq!(stage.verdicts(), [(2, Some(Verdict::Failed(reason)))]);
    reconnect(&mut stage);
    stage.publish(producer, "3");
    stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["3"])[0].attempt(), None);
    stage.finish();
}

/// A body longer than what is encoded at once goes on while everybody else waits for its outcome.
#[test]
fn f15_a_long_body_is_sent_whole_while_an_offender_is_looked_for() {
    let long = "x".repeat(300_000);
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = stable();
        let (producer, _) = stage.warmed_up(to_queue("a", mode));
        let (other, _) = stage.confirming("b");
        stage.publish(other, "b2");
        stage.publish(other, "b3");
        stage.expect_publishes(PUB, &["b2", "b3"]);
        stage.stalled.insert(PUB);
        stage.publish(producer, long.clone());
        stage.close(PUB, 540, "no", PUBLISH);
        stage.stalled.clear();
        stage.pump();
        stage.expect_close_ok(PUB);
        reconnect(&mut stage);
        let mut tags = std::collections::BTreeMap::new();
        let (mut seen, mut size, mut arrived) = (Vec::new(), 0, 0);
        while seen.len() < 3 {
            match stage.next(PUB) {
                Wrote::Method(n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                    stage.channel_open_ok(PUB, n);
                }
                Wrote::Method(n, AMQPClass::Confirm(_)) => {
                    tags.insert(n, 0);
                    stage.select_ok(PUB, n);
                }
                Wrote::Header { size: announced, .. } => (size, arrived) = (announced, 0),
                Wrote::Body(n, body) => {
                    arrived += body.len() as u64;
                    if arrived == size {
                        seen.push(size);
                        if let Some(tag) = tags.get_mut(&n) {
                            *tag += 1;
                            let tag = *tag;
                            assert!(!stage.peers[PUB].frames_contain_publish(), "one at a time");
                            stage.ack(PUB, n, tag, false);
                        }
                    }
                }
                Wrote::Publish { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [2, 2, 300_000]);
        assert_eq!(stage.stats(producer).in_flight, 0);
        stage.verdicts();
        stage.finish();
    }
}

#[test]
fn f15_a_540_among_several_is_found_one_at_a_time() {
    let mut stage = stable();
    let (a, _) = stage.confirming("a");
    let (b, _) = stage.confirming("b");
    stage.publish(a, "a2");
    stage.publish(b, "b2");
    stage.publish(a, "a3");
    for _ in 0..3 {
        stage.expect_publish(PUB);
    }
    stage.close(PUB, 540, "no", PUBLISH);
    stage.expect_close_ok(PUB);
    assert_eq!(stage.verdicts(), []);
    reconnect(&mut stage);
    // One message at a time over all channels; "b2" is the bad one.
    let mut channels = std::collections::BTreeMap::new();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if !stage.has_frames(PUB) {
            stage.until_reason(DeadlineReason::Reconnect);
            channels.clear();
            stage.accept(PUB, &Broker::default());
        }
        match stage.next(PUB) {
            Wrote::Method(n, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                channels.insert(n, 0);
                stage.channel_open_ok(PUB, n);
            }
            Wrote::Method(n, AMQPClass::Confirm(_)) => stage.select_ok(PUB, n),
            Wrote::Publish { channel, .. } => {
                let Wrote::Header { .. } = stage.next(PUB) else { panic!("a header is due") };
                let Wrote::Body(_, body) = stage.next(PUB) else { panic!("a body is due") };
                let body = String::from_utf8(body).unwrap();
                let tag = channels.get_mut(&channel).unwrap();
                *tag += 1;
                let tag = *tag;
                assert!(
                    !stage.peers[PUB].frames_contain_publish(),
                    "one at a time: {body} is not settled"
                );
                seen.push(body.clone());
                if body == "b2" {
                    stage.close(PUB, 540, "no", PUBLISH);
                    stage.expect_close_ok(PUB);
                } else {
                    stage.ack(PUB, channel, tag, false);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let mut outcomes = stage.outcomes();
    outcomes.sort_by_key(|(producer, sequence, _)| (*producer, *sequence));
    let reason = FailReason::Refused { code: 540, text: "no".into() };
    assert_eq!(outcomes, [(a, 2, None), (a, 3, None), (b, 2, Some(Verdict::Failed(reason)))]);
}

#[test]
fn f15_two_50x_soon_after_a_resend_lead_to_a_window_of_one() {
    let mut stage = stable();
    let (producer, _) = stage.confirming("a");
    for n in 2..=4 {
        stage.publish(producer, n.to_string());
    }
    stage.expect_publishes(PUB, &["2", "3", "4"]);
    stage.close(PUB, 501, "FRAME_ERROR", (0, 0));
    stage.expect_close_ok(PUB);
    reconnect(&mut stage);
    stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["2", "3", "4"]);
    stage.close(PUB, 501, "FRAME_ERROR", (0, 0));
    stage.expect_close_ok(PUB);
    stage.until_reason(DeadlineReason::Reconnect);
    stage.accept(PUB, &Broker::default());
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["2"]);
    stage.silent();
    stage.ack(PUB, channel, 1, false);
    stage.expect_publishes(PUB, &["3"]);
    stage.close(PUB, 501, "FRAME_ERROR", (0, 0));
    stage.expect_close_ok(PUB);
    let reason = FailReason::Refused { code: 501, text: "FRAME_ERROR".into() };
    assert_eq!(stage.verdicts(), [(2, None), (3, Some(Verdict::Failed(reason)))]);
    stage.until_reason(DeadlineReason::Reconnect);
    stage.accept(PUB, &Broker::default());
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["4"])[0].attempt(), Some(3));
    stage.ack(PUB, channel, 1, false);
    stage.publish(producer, "5");
    stage.publish(producer, "6");
    stage.expect_publishes(PUB, &["5", "6"]);
    stage.finish();
}

/// The frame that was begun is to be finished, and the connection is lost before it is: its message
/// was not written, and is sent again in both modes as if for the first time.
#[test]
fn f32_a_frame_that_was_begun_and_never_finished_was_not_written() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for written in 0..200 {
            let mut stage = Stage::connected(config());
            let (producer, _) = stage.warmed_up(to_queue("q", mode));
            stage.stalled.insert(PUB);
            for body in ["2", "3", "4"] {
                stage.publish(producer, body);
            }
            stage.write(PUB, written);
            stage.close(PUB, 320, "going down", (0, 0));
            let mut bodies = 0;
            while stage.has_frames(PUB) {
                bodies += u64::from(matches!(stage.next(PUB), Wrote::Body(..)));
            }
            stage.cut(PUB);
            stage.stalled.clear();
            let stats = stage.stats(producer);
            if mode == PublishMode::FireAndForget {
                assert_eq!(stats.sent, 1 + bodies, "{written} bytes");
            }
            stage.until_reason(DeadlineReason::Reconnect);
            stage.accept(PUB, &Broker::default());
            if mode == PublishMode::Confirm || bodies < 3 {
                stage.accept_lane(PUB, mode);
                for number in 0..3_u64 {
                    if mode == PublishMode::FireAndForget && number < bodies {
                        continue;
                    }
                    let copy = stage.expect_publish(PUB);
                    let attempt = (number < bodies).then_some(2);
                    assert_eq!(copy.attempt(), attempt, "{written} bytes, number {number}");
                }
            }
            stage.finish();
        }
    }
}

#[test]
fn f32_half_a_frame_is_finished_before_close_ok_at_every_offset() {
    // What is on its way: 2 (method, header, body), then 3, whose body is beside the buffer.
    let make = |mode| {
        let mut stage = Stage::connected(config());
        let (producer, _) = stage.warmed_up(to_queue("q", mode));
        stage.stalled.insert(PUB);
        stage.publish(producer, "2");
        stage.publish(producer, vec![b'x'; 5000]);
        (stage, producer)
    };
    let (mut whole, _) = make(PublishMode::Confirm);
    let total = whole.pending(PUB);
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for written in (0..200).chain(total - 300..=total) {
            let (mut stage, producer) = make(mode);
            let written = written.min(stage.pending(PUB));
            stage.write(PUB, written);
            stage.close(PUB, 320, "going down", (0, 0));
            stage.stalled.clear();
            stage.pump();
            // The peer checks that every frame is whole; here that close-ok arrives, and is the last.
            let mut frames = Vec::new();
            while stage.has_frames(PUB) {
                frames.push(stage.next(PUB));
            }
            assert!(matches!(
                frames.pop(),
                Some(Wrote::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))))
            ));
            let bodies =
                frames.iter().filter(|frame| matches!(frame, Wrote::Body(..))).count() as u64;
            assert!(!stage.peers[PUB].up);
            let stats = stage.stats(producer);
            match mode {
                PublishMode::Confirm => assert_eq!((stats.in_flight, stats.sent), (2, 0)),
                _ => assert_eq!(stats.sent, 1 + bodies, "what this frame completed is sent"),
            }
            // On the next connection: what was whole says so, what was cut does not, FF is not sent
            // twice.
            stage.until_reason(DeadlineReason::Reconnect);
            stage.accept(PUB, &Broker::default());
            if mode == PublishMode::Confirm || bodies < 2 {
                stage.accept_lane(PUB, mode);
                for number in 0..2_u64 {
                    if mode == PublishMode::FireAndForget && number < bodies {
                        continue;
                    }
                    let copy = stage.expect_publish(PUB);
                    let attempt = (number < bodies).then_some(2);
                    assert_eq!(copy.attempt(), attempt, "{written} bytes, number {number}");
                }
            }
            stage.finish();
        }
    }
}

/// Messages of one drain, the first of them begun; the peer closes, and the transport ends before the
/// frame that was begun is out.
#[test]
fn s13_of_messages_encoded_together_only_the_whole_ones_are_sent_when_the_transport_ends_too() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for written in 0.. {
            let mut stage = Stage::connected(config());
            let (producer, _) = stage.warmed_up(to_queue("q", mode));
            stage.stalled.insert(PUB);
            for body in ["2", "3"] {
                stage.session.publish(producer, body.into(), stage.now).unwrap();
            }
            let total = stage.pending(PUB);
            if written > total {
                break;
            }
            stage.write(PUB, written);
            stage.close(PUB, 320, "going down", (0, 0));
            stage.cut(PUB);
            stage.stalled.clear();
            let whole = 2 * written / total;
            if mode == PublishMode::FireAndForget {
                assert_eq!(stage.stats(producer).sent, 1 + whole as u64, "{written} of {total}");
            }
            stage.until_reason(DeadlineReason::Reconnect);
            stage.accept(PUB, &Broker::default());
            if mode == PublishMode::Confirm || whole < 2 {
                stage.accept_lane(PUB, mode);
            }
            for (number, body) in ["2", "3"].into_iter().enumerate() {
                if mode == PublishMode::Confirm || number >= whole {
                    let copy = stage.expect_publish(PUB);
                    let attempt = (number < whole).then_some(2);
                    assert_eq!((copy.text(), copy.attempt()), (body, attempt), "{written}");
                }
            }
            stage.finish();
        }
    }
}

#[test]
fn f31_connection_closes_that_cross_are_both_answered() {
    for peer_answers_first in [true, false] {
        let mut stage = Stage::connected(config());
        stage.session.shutdown(30 * SEC, stage.now);
        assert_eq!(stage.expect_close(PUB), 200);
        assert_eq!(stage.expect_close(CON), 200);
        if peer_answers_first {
            stage.close_ok(PUB);
        } else {
            stage.close(PUB, 320, "going down", (0, 0));
            stage.expect_close_ok(PUB);
        }
        assert!(!stage.peers[PUB].up && !stage.is_closed());
        stage.close(CON, 320, "going down", (0, 0));
        stage.expect_close_ok(CON);
        assert!(stage.is_closed() && stage.session.report().is_clean());
        stage.finish();
    }
}

#[test]
fn s14_a_close_that_is_never_answered_has_a_deadline() {
    let mut stage = Stage::connected(config());
    stage.session.shutdown(60 * SEC, stage.now);
    assert_eq!(stage.expect_close(PUB), 200);
    assert_eq!(stage.expect_close(CON), 200);
    stage.close_ok(CON);
    stage.advance(10 * SEC - MS);
    assert!(!stage.is_closed());
    stage.advance(MS);
    assert!(stage.is_closed() && !stage.peers[PUB].up);
    assert!(stage.session.report().is_clean());
    stage.finish();
}

#[test]
fn s14_a_shutdown_while_disconnected_keeps_its_deadline_and_dials_meanwhile() {
    let mut stage = stable();
    let (producer, _) = stage.confirming("a");
    stage.cut(PUB);
    stage.publish(producer, "2");
    stage.session.shutdown(5 * SEC, stage.now);
    reconnect(&mut stage);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["2"]);
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    let mut closes = 0;
    while stage.has_frames(PUB) {
        if let AMQPClass::Connection(_) = stage.expect_method(PUB).1 {
            closes += 1;
        }
    }
    assert_eq!(closes, 1);
    stage.close_ok(PUB);
    stage.expect_close(CON);
    stage.close_ok(CON);
    assert!(stage.is_closed() && stage.session.report().is_clean());
    stage.finish();
}

#[test]
fn s14_after_our_close_confirms_still_count_and_other_methods_do_not() {
    let mut stage = stable();
    let (producer, channel) = stage.confirming("a");
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    let copies = stage.expect_publishes(PUB, &["2", "3", "4", "5"]);
    // A heartbeat on a channel: we close.
    let mut bytes = Vec::new();
    wire::put_frame(&mut bytes, FrameKind::Heartbeat, channel, |_| {});
    // In the same read: a confirm; and the beginning of another frame.
    wire::put_ack(&mut bytes, channel, 2, false);
    let mut ack = Vec::new();
    wire::put_ack(&mut ack, channel, 3, false);
    bytes.extend_from_slice(&ack[..9]);
    stage.feed(PUB, &bytes);
    assert_eq!(stage.expect_close(PUB), 501);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.feed(PUB, &ack[9..]);
    assert_eq!(stage.verdicts(), [(3, None)]);
    // A return and its ack, too; the peer checks that nothing is answered.
    stage.give_back(PUB, &copies[2]);
    stage.close_channel(PUB, 2000, 404, "late", (0, 0));
    stage.ack(PUB, channel, 99, false);
    stage.ack(PUB, channel, 4, false);
    let verdicts = stage.verdicts();
    assert!(matches!(verdicts[..], [(4, Some(Verdict::Returned(_)))]), "{verdicts:?}");
    stage.nack(PUB, channel, 5, false);
    assert_eq!(stage.verdicts(), [(5, Some(Verdict::Nacked))]);
    stage.close_channel(PUB, channel, 404, "late", PUBLISH);
    stage.close_ok(PUB);
    assert!(!stage.peers[PUB].up);
    reconnect(&mut stage);
    stage.finish();
}

#[test]
fn s14_a_reply_after_our_close_is_nobodys() {
    let mut stage = stable();
    let request = stage.declare(QueueConfig::new("a").unwrap());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    let mut bytes = Vec::new();
    wire::put_frame(&mut bytes, FrameKind::Heartbeat, control, |_| {});
    stage.feed(CON, &bytes);
    assert_eq!(stage.expect_close(CON), 501);
    stage.declare_ok(CON, control, "a");
    assert_eq!(stage.declared(), [], "it is asked for again");
    stage.close_ok(CON);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "a");
    assert_eq!(stage.declared(), [(request, Ok("a".into()))]);
    stage.finish();
}

#[test]
fn f15_a_connection_close_over_no_publish_blames_none() {
    // Which connection, the code, and the method that it names.
    for (c, code, method) in
        [(CON, 540, (0, 0)), (PUB, 320, (0, 0)), (PUB, 540, (50, 10)), (PUB, 320, (50, 10))]
    {
        let mut stage = stable();
        let (producer, mut channel) = stage.confirming("a");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        for attempt in 2..=3 {
            stage.close(c, code, "no", method);
            stage.expect_close_ok(c);
            assert_eq!(stage.verdicts(), [], "{c} {code} {method:?}");
            stage.until_reason(DeadlineReason::Reconnect);
            stage.accept(c, &Broker::default());
            if c == PUB {
                channel = stage.accept_lane(PUB, PublishMode::Confirm);
                assert_eq!(stage.expect_publish(PUB).attempt(), Some(attempt));
            }
        }
        stage.ack(PUB, channel, if c == PUB { 1 } else { 2 }, false);
        assert_eq!(stage.verdicts(), [(2, None)]);
        stage.finish();
    }
}

#[test]
fn s14_from_a_shutdown_on_nothing_is_opened_declared_or_published() {
    let mut stage = stable();
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.session.shutdown(30 * SEC, stage.now);
    stage.pump();
    let now = stage.now;
    let settings = to_queue("b", PublishMode::Confirm);
    assert_eq!(stage.session.open_producer(settings, now), Err(OpenError::Closed));
    let queue = QueueConfig::new("b").unwrap();
    assert_eq!(stage.session.declare_queue(queue, now), Err(DeclareError::Closed));
    let consumer = ConsumerConfig::new("b").unwrap();
    assert_eq!(stage.session.open_consumer(consumer, now), Err(ConsumeError::Closed));
    let error = stage.session.publish(producer, "3".into(), now).unwrap_err();
    assert_eq!(error, PublishError::Closed("3".into()));
    stage.finish();
}

#[test]
fn s14_no_deadline_of_a_channel_writes_anything_after_our_close() {
    let mut config = config();
    config.deadlines.rpc = 300 * MS;
    let mut stage = Stage::connected(config);
    let mut settings = to_queue("a", PublishMode::Confirm);
    settings.confirm_timeout = Some(200 * MS);
    let (producer, _) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    let opening = stage.producer("b", PublishMode::Confirm);
    stage.publish(opening, "1");
    let channel = stage.expect_channel_open(PUB);
    stage.channel_open_ok(PUB, channel);
    stage.expect_method(PUB);
    stage.feed(PUB, &[4, 0, 0, 0, 0, 0, 0, 0xCE]);
    assert_eq!(stage.expect_close(PUB), 501);
    // Both deadlines pass; the peer checks what it gets.
    stage.advance(900 * MS);
    stage.silent();
    stage.close_ok(PUB);
    assert!(!stage.peers[PUB].up);
    stage.finish();
}

// ---- what breaks the protocol ----------------------------------------------------------------

fn frame(kind: FrameKind, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::put_frame(&mut bytes, kind, channel, |out| out.extend_from_slice(payload));
    bytes
}

#[test]
fn s08_what_breaks_the_protocol_is_answered_with_its_code_and_a_reconnect() {
    let header = {
        let mut bytes = Vec::new();
        wire::put_content_header(&mut bytes, 1, 3, &Properties::default());
        bytes
    };
    let ack_in_content = |copy: &Copy| {
        let mut bytes = returned(copy, 312, "x");
        let method = wire::decode(&bytes, 131_072).unwrap().unwrap().1;
        bytes.truncate(method);
        wire::put_ack(&mut bytes, copy.channel, 2, false);
        bytes
    };
    let overrun = |copy: &Copy| {
        let mut bytes = returned(copy, 312, "x");
        bytes.truncate(bytes.len() - 9);
        bytes.extend(frame(FrameKind::Body, copy.channel, b"more"));
        bytes
    };
    let huge = |copy: &Copy| {
        let mut bytes = returned(copy, 312, "x");
        let method = wire::decode(&bytes, 131_072).unwrap().unwrap().1;
        bytes.truncate(method);
        wire::put_content_header(&mut bytes, copy.channel, 1 << 63, &Properties::default());
        bytes
    };
    type Make<'a> = &'a dyn Fn(&Copy) -> Vec<u8>;
    let cases: [(&str, u16, Make<'_>); 12] = [
        ("a heartbeat on channel 1", 501, &|_| frame(FrameKind::Heartbeat, 1, b"")),
        ("a heartbeat with a payload", 501, &|_| vec![8, 0, 0, 0, 0, 0, 1, 7, 0xCE]),
        ("a frame on a closed channel", 504, &|_| {
            frame(FrameKind::Method, 9, &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0])
        }),
        ("a content header out of place", 505, &|_| header.clone()),
        ("a body out of place", 505, &|_| frame(FrameKind::Body, 1, b"x")),
        ("a confirm where content is due", 505, &ack_in_content),
        ("more body than announced", 501, &overrun),
        ("an absurd body size", 501, &huge),
        ("an unknown frame kind", 501, &|_| vec![4, 0, 0, 0, 0, 0, 0, 0xCE]),
        ("a wrong frame end", 501, &|_| vec![8, 0, 0, 0, 0, 0, 0, 0xCD]),
        ("a frame over frame_max", 501, &|_| {
            let mut bytes = vec![1, 0, 1];
            bytes.extend_from_slice(&(131_072_u32 - 7).to_be_bytes());
            bytes
        }),
        ("an unknown method", 540, &|_| frame(FrameKind::Method, 1, &[0, 60, 0, 1])),
    ];
    for (what, code, make) in cases {
        let mut stage = stable();
        let (producer, channel) = stage.confirming("a");
        assert_eq!(channel, 1);
        stage.publish(producer, "2");
        let copy = stage.expect_publish(PUB);
        stage.feed(PUB, &make(&copy));
        assert_eq!(stage.expect_close(PUB), code, "{what}");
        stage.close_ok(PUB);
        assert!(!stage.peers[PUB].up, "{what}");
        let Some(State::Reconnecting { loss: Loss::Protocol(error), .. }) = stage.states().pop()
        else {
            panic!("{what}: the state says why");
        };
        assert_eq!(error.code(), code, "{error}");
        reconnect(&mut stage);
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
        stage.ack(PUB, channel, 1, false);
        assert_eq!(stage.verdicts(), [(2, None)], "{what}");
        stage.finish();
    }
}

#[test]
fn s08_a_peer_that_broke_the_protocol_may_take_a_second_to_answer_our_close() {
    let mut stage = stable();
    stage.feed(PUB, &[4, 0, 0, 0, 0, 0, 0, 0xCE]);
    assert_eq!(stage.expect_close(PUB), 501);
    stage.advance(SEC - MS);
    assert!(stage.peers[PUB].up);
    stage.advance(MS);
    assert!(!stage.peers[PUB].up && stage.peers[PUB].hang_ups == 1);
    stage.finish();
}

#[test]
fn s09_an_oversize_frame_is_refused_from_its_seven_bytes() {
    let mut stage = stable();
    let mut header = vec![3, 0, 1];
    header.extend_from_slice(&u32::MAX.to_be_bytes());
    stage.feed(PUB, &header[..6]);
    stage.silent();
    stage.feed(PUB, &header[6..]);
    assert_eq!(stage.expect_close(PUB), 501);
    let id = stage.id(PUB);
    let space = stage.session.receive_buffer(id).len();
    assert!(space <= 8192, "nothing was allocated for it: {space}");
    stage.close_ok(PUB);
    let error = WireError::FrameTooLarge { size: u32::MAX, max: 131_072 };
    let Some(State::Reconnecting { loss, .. }) = stage.states().pop() else { panic!() };
    assert_eq!(loss, Loss::Protocol(ProtocolError::Wire(error)));
    stage.finish();
}

#[test]
fn f21_a_table_nested_600_deep_closes_the_connection_and_overflows_nothing() {
    // In Start, before anybody is authenticated.
    let mut table = Vec::new();
    for _ in 0..600 {
        let mut outer = Vec::new();
        outer.extend_from_slice(&[1, b'k', b'F']);
        outer.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
        outer.extend_from_slice(&table);
        table = outer;
    }
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    payload.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
    payload.extend_from_slice(&table);
    payload.extend_from_slice(b"\0\0\0\x05PLAIN\0\0\0\x05en_US");
    let mut stage = Stage::with_retry(config(), true);
    stage.connect(PUB);
    stage.next(PUB);
    stage.feed(PUB, &frame(FrameKind::Method, 0, &payload));
    assert!(!stage.peers[PUB].up);
    let Some(State::Reconnecting { loss, .. }) = stage.states().pop() else { panic!() };
    assert_eq!(loss, Loss::Protocol(ProtocolError::Wire(WireError::TableTooDeep)));
    stage.finish();
}

#[test]
fn f21_a_return_with_bad_properties_is_no_reason_to_lose_the_connection() {
    let mut stage = stable();
    let (producer, channel) = stage.confirming("a");
    stage.publish(producer, "2");
    let copy = stage.expect_publish(PUB);
    let mut bytes = returned(&copy, 312, "NO_ROUTE");
    let method = wire::decode(&bytes, 131_072).unwrap().unwrap().1;
    bytes.truncate(method);
    // A message id that is not UTF-8, and a headers table with a lying length.
    for raw in [&[0x00, 0x80, 1, 0xFF][..], &[0x20, 0, 0, 0, 0, 99]] {
        let mut bytes = bytes.clone();
        wire::put_content_header_raw(&mut bytes, channel, 1, raw);
        wire::put_body(&mut bytes, channel, b"2", 131_072);
        stage.feed(PUB, &bytes);
    }
    stage.ack(PUB, channel, 2, false);
    let verdicts = stage.verdicts();
    assert_eq!(verdicts.len(), 1);
    assert_eq!(stage.states(), []);
    stage.finish();
}

#[test]
fn f01_nothing_counts_after_bytes_that_are_no_frame_however_they_are_split() {
    for apart in [false, true] {
        let mut stage = stable();
        let (producer, channel) = stage.confirming("orders");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        // Where the next frame begins nobody knows, and this may as well be a part of a body.
        let mut bytes = vec![0xFF; 32];
        let garbage = bytes.len();
        wire::put_ack(&mut bytes, channel, 2, false);
        let (garbage, ack) = bytes.split_at(garbage);
        if apart {
            stage.feed(PUB, garbage);
            stage.feed(PUB, garbage);
            stage.feed(PUB, ack);
        } else {
            stage.feed(PUB, &bytes);
        }
        assert!(stage.peers[PUB].up, "the close is not answered yet");
        assert_eq!(stage.expect_close(PUB), 501);
        assert_eq!(stage.verdicts(), []);
        stage.advance(Duration::from_secs(1));
        assert!(!stage.peers[PUB].up);
        assert_eq!(stage.stats(producer).in_flight, 1);
        stage.finish();
    }
}

#[test]
fn s13_the_first_message_of_all_is_sent_again_if_the_close_comes_before_its_first_byte_is_out() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = stable();
        let producer = stage.producer("q", mode);
        stage.session.publish(producer, "1".into(), stage.now).unwrap();
        let channel = stage.expect_channel_open(PUB);
        if mode == PublishMode::Confirm {
            stage.channel_open_ok(PUB, channel);
            stage.expect_method(PUB);
            stage.stalled.insert(PUB);
            stage.select_ok(PUB, channel);
        } else {
            stage.stalled.insert(PUB);
            stage.channel_open_ok(PUB, channel);
        }
        assert!(stage.pending(PUB) > 0);
        stage.close(PUB, 320, "going down", (0, 0));
        stage.stalled.clear();
        stage.expect_close_ok(PUB);
        reconnect(&mut stage);
        stage.accept_lane(PUB, mode);
        assert_eq!(stage.expect_publishes(PUB, &["1"])[0].attempt(), None);
        stage.finish();
    }
}
