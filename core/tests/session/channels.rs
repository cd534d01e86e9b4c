//! Channels that the broker closes, pauses, or never answers on: s15 to s17, s22, s24 to s26, f16,
//! f31, f33.

use lavinmq_core::{
    error::DeclareError,
    event::{DeadlineReason, FailReason, UnknownReason},
};

use crate::harness::*;

const PUBLISH: (u16, u16) = (60, 40);

fn failed(code: u16, text: &str) -> Option<Verdict> {
    Some(Verdict::Failed(FailReason::Refused { code, text: text.into() }))
}

fn closed(code: u16, text: &str) -> Event {
    Event::ChannelClosed { code, text: text.into() }
}

#[test]
fn s15_a_channel_close_is_answered_and_nothing_else_on_the_connection_notices() {
    for code in [311, 403, 404, 405, 406] {
        let mut stage = Stage::connected(config());
        let (bad, channel) = stage.forgetting("bad");
        let (good, other) = stage.confirming("good");
        stage.publish(good, "2");
        stage.expect_publishes(PUB, &["2"]);
        stage.close_channel(PUB, channel, code, "why", PUBLISH);
        stage.expect_channel_close_ok(PUB, channel);
        assert_eq!(stage.events(), [closed(code, "why")]);
        assert_eq!(stage.states(), []);
        stage.ack(PUB, other, 2, false);
        stage.publish(good, "3");
        stage.expect_publishes(PUB, &["3"]);
        stage.ack(PUB, other, 3, false);
        assert_eq!(stage.verdicts(), [(2, None), (3, None)]);
        // It is opened again for the next message.
        stage.publish(bad, "2");
        stage.advance(Duration::ZERO);
        let again = stage.accept_lane(PUB, PublishMode::FireAndForget);
        assert_eq!(again, channel, "the number is free after close-ok");
        stage.expect_publishes(PUB, &["2"]);
        stage.finish();
    }
}

#[test]
fn s15_close_ok_comes_after_the_frame_already_begun() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.stalled.insert(PUB);
    stage.publish(producer, vec![b'x'; 100_000]);
    // Method, header, and a part of the first body frame are out.
    stage.write(PUB, 500);
    stage.close_channel(PUB, channel, 406, "why", (0, 0));
    stage.stalled.clear();
    stage.expect_publish_begun(PUB);
    // The peer checks that frames are whole and in order.
    stage.expect_channel_close_ok(PUB, channel);
    stage.finish();
}

#[test]
fn s16_a_number_is_taken_until_close_ok() {
    let mut stage = Stage::connected(config());
    let (first, channel) = stage.confirming("a");
    stage.session.close_producer(first, false, stage.now);
    assert_eq!(stage.expect_channel_close(PUB).0, channel);
    let second = stage.producer("b", PublishMode::Confirm);
    stage.publish(second, "1");
    let other = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_ne!(other, channel);
    stage.expect_publishes(PUB, &["1"]);
    stage.channel_close_ok(PUB, channel);
    let third = stage.producer("c", PublishMode::Confirm);
    stage.publish(third, "1");
    assert_eq!(stage.expect_channel_open(PUB), channel);
    stage.ack(PUB, other, 1, false);
    assert_eq!(stage.outcomes(), [(second, 1, None)]);
    stage.finish();
}

#[test]
fn f31_two_channel_closes_that_cross_are_both_answered_before_the_number_is_used_again() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("orders", PublishMode::Confirm);
    settings.confirm_timeout = Some(SEC);
    let (producer, channel) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.advance(SEC);
    assert_eq!(stage.expect_channel_close(PUB).0, channel);
    stage.close_channel(PUB, channel, 404, "crossed", PUBLISH);
    stage.expect_channel_close_ok(PUB, channel);
    // What was in flight goes on elsewhere at once: our close-ok is still due here.
    let other = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_ne!(other, channel);
    assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
    // A late confirm of the old channel means nothing any more.
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), []);
    stage.channel_close_ok(PUB, channel);
    stage.ack(PUB, other, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    let third = stage.producer("c", PublishMode::Confirm);
    stage.publish(third, "1");
    assert_eq!(stage.expect_channel_open(PUB), channel, "free now");
    stage.finish();
}

#[test]
fn s17_one_declaration_at_a_time_and_the_next_after_the_reply() {
    let mut stage = Stage::connected(config());
    let first = stage.declare(QueueConfig::new("a").unwrap());
    let second = stage.declare(QueueConfig::new("b").unwrap());
    let channel = stage.expect_channel_open(CON);
    stage.silent();
    stage.channel_open_ok(CON, channel);
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "a");
    stage.silent();
    stage.declare_ok(CON, channel, "a");
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "b");
    assert_eq!(stage.declared(), [(first, Ok("a".into()))]);
    stage.declare_ok(CON, channel, "b");
    assert_eq!(stage.declared(), [(second, Ok("b".into()))]);
    stage.finish();
}

#[test]
fn f33_a_reply_after_its_deadline_is_never_handed_to_the_next_caller() {
    let mut config = config();
    config.deadlines.request = SEC;
    let mut stage = Stage::connected(config);
    let first = stage.declare(QueueConfig::new("a").unwrap());
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.advance(SEC);
    let answer = stage.declared();
    assert!(
        matches!(&answer[..], [(request, Err(DeclareError::TimedOut { .. }))] if *request == first),
        "{answer:?}"
    );
    let second = stage.declare(QueueConfig::new("b").unwrap());
    stage.silent();
    // The late reply is swallowed; only then does the next one go out.
    stage.declare_ok(CON, channel, "a");
    assert_eq!(stage.declared(), []);
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "b");
    stage.declare_ok(CON, channel, "b");
    assert_eq!(stage.declared(), [(second, Ok("b".into()))]);
    stage.finish();
}

#[test]
fn f33_a_reply_that_never_comes_closes_the_channel_and_the_next_call_has_a_new_one() {
    let mut stage = Stage::connected(config());
    stage.declare(QueueConfig::new("a").unwrap());
    let second = stage.declare(QueueConfig::new("b").unwrap());
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.advance(10 * SEC);
    assert_eq!(stage.expect_channel_close(CON).0, channel);
    let answer = stage.declared();
    assert!(matches!(&answer[..], [(_, Err(DeclareError::TimedOut { .. }))]), "{answer:?}");
    let other = stage.expect_channel_open(CON);
    assert_ne!(other, channel, "close-ok is still due");
    // The late reply meets nobody.
    stage.declare_ok(CON, channel, "a");
    stage.channel_open_ok(CON, other);
    assert_eq!(stage.expect_declare(CON), (other, declare("b")));
    stage.channel_close_ok(CON, channel);
    stage.declare_ok(CON, other, "b");
    assert_eq!(stage.declared(), [(second, Ok("b".into()))]);
    stage.finish();
}

#[test]
fn f33_a_reply_of_another_kind_is_a_protocol_error() {
    let mut stage = Stage::connected(config());
    stage.declare(QueueConfig::new("a").unwrap());
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.select_ok(CON, channel);
    assert_eq!(stage.expect_close(CON), 503);
    stage.close_ok(CON);
    stage.finish();
}

#[test]
fn s16_a_close_ok_that_nobody_asked_for_is_a_protocol_error() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.channel_close_ok(PUB, channel);
    assert_eq!(stage.expect_close(PUB), 503);
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)], "s14: until close-ok it counts");
    stage.close_ok(PUB);
    stage.finish();
}

#[test]
fn s22_low_disk_on_lavinmq_is_back_pressure_and_blames_no_message() {
    let mut stage = Stage::connected(config());
    let (producer, mut channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    let text = "PRECONDITION_FAILED - Server low on disk space, can not accept message";
    let mut delays = Vec::new();
    for _ in 0..5 {
        stage.close_channel(PUB, channel, 406, text, PUBLISH);
        stage.expect_channel_close_ok(PUB, channel);
        assert_eq!(stage.events(), [closed(406, text)]);
        let before = stage.now;
        stage.until_reason(DeadlineReason::Reopen);
        delays.push((stage.now - before).as_millis());
        channel = stage.accept_lane(PUB, PublishMode::Confirm);
        stage.expect_publishes(PUB, &["2"]);
    }
    assert_eq!(delays, [0, 100, 200, 400, 800]);
    assert_eq!(stage.verdicts(), []);
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn s24_channel_flow_pauses_its_channel_only_and_is_answered() {
    let flow = |active| AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }));
    let flow_ok =
        |active| AMQPClass::Channel(channel::AMQPMethod::FlowOk(channel::FlowOk { active }));
    let mut stage = Stage::connected(config());
    let (paused, channel) = stage.forgetting("paused");
    let (other, _) = stage.forgetting("other");
    stage.reply(PUB, channel, flow(false));
    assert_eq!(stage.expect_method(PUB), (channel, flow_ok(false)));
    stage.publish(paused, "2");
    stage.publish(other, "2");
    assert_eq!(stage.expect_publish(PUB).routing_key, "other");
    stage.silent();
    assert!(stage.update(paused).flow.may_evict && !stage.update(other).flow.may_evict);
    stage.reply(PUB, channel, flow(true));
    assert_eq!(stage.expect_method(PUB), (channel, flow_ok(true)));
    assert_eq!(stage.expect_publish(PUB).routing_key, "paused");
    assert!(!stage.update(paused).flow.may_evict);
    stage.finish();
}

#[test]
fn s24_a_body_that_was_begun_is_finished_although_the_channel_is_paused() {
    let flow = |active| AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }));
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.forgetting("orders");
    stage.stalled.insert(PUB);
    let large = vec![b'x'; 300_000];
    stage.publish(producer, large.clone());
    stage.write(PUB, 1000);
    stage.reply(PUB, channel, flow(false));
    stage.publish(producer, "3");
    stage.stalled.clear();
    stage.pump();
    // The peer insists on whole messages, wherever flow-ok stands.
    let copy = stage.expect_publish_around(PUB, |class| {
        assert!(matches!(class, AMQPClass::Channel(channel::AMQPMethod::FlowOk(_))));
    });
    assert_eq!(copy.body, large);
    stage.finish();
}

// ---- bad publishes ---------------------------------------------------------------------------

#[test]
fn s25_a_bad_publish_is_found_by_a_window_of_one() {
    let mut stage = Stage::connected(config());
    let (producer, mut channel) = stage.confirming("orders");
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    stage.expect_publishes(PUB, &["2", "3", "4", "5"]);
    // It is number 4; nobody says so.
    stage.close_channel(PUB, channel, 404, "no exchange", PUBLISH);
    stage.expect_channel_close_ok(PUB, channel);
    assert_eq!(stage.verdicts(), [], "nobody is blamed yet");
    for tag in 1..=2 {
        if tag == 1 {
            channel = stage.accept_lane(PUB, PublishMode::Confirm);
        }
        let copy = stage.expect_publish(PUB);
        assert_eq!((copy.text(), copy.attempt()), (&*(tag + 1).to_string(), Some(2)));
        stage.silent();
        stage.ack(PUB, channel, tag, false);
    }
    assert_eq!(stage.verdicts(), [(2, None), (3, None)]);
    stage.expect_publishes(PUB, &["4"]);
    stage.close_channel(PUB, channel, 404, "no exchange", PUBLISH);
    stage.expect_channel_close_ok(PUB, channel);
    assert_eq!(stage.verdicts(), [(4, failed(404, "no exchange"))]);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["5"])[0].attempt(), Some(2));
    stage.publish(producer, "6");
    stage.silent();
    stage.ack(PUB, channel, 1, false);
    // The search is over: the window is whole again.
    stage.publish(producer, "7");
    stage.publish(producer, "8");
    stage.expect_publishes(PUB, &["6", "7", "8"]);
    stage.ack(PUB, channel, 4, true);
    assert_eq!(stage.verdicts(), [(5, None), (6, None), (7, None), (8, None)]);
    stage.finish();
}

#[test]
fn s25_the_only_message_in_flight_is_the_offender_at_once() {
    for code in [403, 404, 406] {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.confirming("orders");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        stage.close_channel(PUB, channel, code, "no", PUBLISH);
        stage.expect_channel_close_ok(PUB, channel);
        assert_eq!(stage.verdicts(), [(2, failed(code, "no"))]);
        assert_eq!(stage.stats(producer).failed, 1);
        stage.accept_lane(PUB, PublishMode::Confirm);
        stage.finish();
    }
}

#[test]
fn s25_a_close_that_names_no_publish_blames_no_message() {
    for method in [(0, 0), (50, 10)] {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.confirming("orders");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        stage.close_channel(PUB, channel, 404, "no", method);
        stage.expect_channel_close_ok(PUB, channel);
        stage.advance(Duration::ZERO);
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        stage.expect_publishes(PUB, &["2"]);
        stage.ack(PUB, channel, 1, false);
        assert_eq!(stage.verdicts(), [(2, None)]);
        stage.finish();
    }
}

#[test]
fn s25_after_three_offenders_in_a_row_the_probes_back_off() {
    let mut stage = Stage::connected(config());
    let settings = to_exchange("missing", "key", PublishMode::Confirm);
    let producer = stage.open_producer(settings);
    for n in 1..=9 {
        stage.publish(producer, n.to_string());
    }
    let mut channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let mut delays = Vec::new();
    for n in 0..=8 {
        stage.close_channel(PUB, channel, 404, "no exchange", PUBLISH);
        stage.expect_channel_close_ok(PUB, channel);
        if n > 0 {
            assert_eq!(stage.verdicts(), [(n, failed(404, "no exchange"))]);
        }
        let before = stage.now;
        if !stage.has_frames(PUB) {
            stage.until_reason(DeadlineReason::Reopen);
        }
        delays.push((stage.now - before).as_millis());
        channel = stage.accept_lane(PUB, PublishMode::Confirm);
        stage.expect_publishes(PUB, &[&*(n + 1).to_string()]);
    }
    assert_eq!(delays[..3], [0, 0, 0], "the search itself is quick: {delays:?}");
    assert!(delays[3] >= 100 && delays[3..].is_sorted() && delays[8] >= 1000, "{delays:?}");
    // A confirm ends it.
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(9, None)]);
    stage.finish();
}

#[test]
fn f16_in_fire_and_forget_what_was_written_stays_sent_and_the_rest_waits_for_the_channel() {
    for code in [311, 403, 404, 405, 406] {
        let mut stage = Stage::connected(config());
        let (producer, mut channel) = stage.forgetting("orders");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        let mut delays = Vec::new();
        for n in 3..=6 {
            stage.close_channel(PUB, channel, code, "no", PUBLISH);
            stage.expect_channel_close_ok(PUB, channel);
            assert_eq!(stage.events(), [closed(code, "no")]);
            stage.publish(producer, n.to_string());
            let before = stage.now;
            stage.silent();
            stage.until_reason(DeadlineReason::Reopen);
            delays.push((stage.now - before).as_millis());
            channel = stage.accept_lane(PUB, PublishMode::FireAndForget);
            stage.expect_publishes(PUB, &[&*n.to_string()]);
        }
        assert_eq!(delays, [0, 100, 200, 400]);
        assert_eq!(stage.verdicts(), []);
        assert_eq!(stage.stats(producer).sent, 6);
        stage.finish();
    }
}

#[test]
fn f16_in_fire_and_forget_what_the_transport_had_not_taken_is_sent_again() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.forgetting("orders");
    stage.stalled.insert(PUB);
    for n in 2..=5 {
        stage.publish(producer, n.to_string());
    }
    let one = stage.pending(PUB) / 4;
    // Number 2 whole, number 3 in part.
    stage.write(PUB, one + 10);
    stage.close_channel(PUB, channel, 404, "no", PUBLISH);
    stage.stalled.clear();
    stage.expect_publishes(PUB, &["2"]);
    stage.expect_channel_close_ok(PUB, channel);
    let discarded = stage.peers[PUB].discarded.iter();
    assert_eq!(discarded.filter(|frame| matches!(frame, Wrote::Publish { .. })).count(), 3);
    stage.advance(Duration::ZERO);
    stage.accept_lane(PUB, PublishMode::FireAndForget);
    let copies = stage.expect_publishes(PUB, &["3", "4", "5"]);
    assert!(copies.iter().all(|copy| copy.attempt().is_none()));
    assert_eq!(stage.stats(producer).sent, 5);
    stage.finish();
}

// ---- confirms that never come ----------------------------------------------------------------

#[test]
fn s26_without_a_timeout_a_confirm_is_awaited_for_ever() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.advance(24 * 3600 * SEC);
    stage.silent();
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn s26_a_confirm_that_never_comes_resets_the_channel_and_doubles_its_patience() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("orders", PublishMode::Confirm);
    settings.confirm_timeout = Some(SEC);
    settings.confirm_retries = 3;
    let (producer, mut channel) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    for n in 0..4 {
        let wait = SEC * (1 << n);
        stage.advance(wait - MS);
        stage.silent();
        stage.advance(MS);
        assert_eq!(stage.expect_channel_close(PUB).0, channel, "after {wait:?}");
        if n < 3 {
            stage.channel_close_ok(PUB, channel);
            channel = stage.accept_lane(PUB, PublishMode::Confirm);
            assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(n + 2));
            assert_eq!(stage.verdicts(), []);
        }
    }
    let unknown = Some(Verdict::Unknown(UnknownReason::ConfirmTimeout));
    assert_eq!(stage.verdicts(), [(2, unknown)]);
    assert_eq!(stage.stats(producer).unknown, 1);
    stage.channel_close_ok(PUB, channel);
    stage.finish();
}

#[test]
fn s26_neighbours_of_an_overdue_message_spend_no_retry() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("orders", PublishMode::Confirm);
    settings.confirm_timeout = Some(SEC);
    settings.confirm_retries = 0;
    let (producer, channel) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    stage.advance(900 * MS);
    stage.publish(producer, "3");
    stage.publish(producer, "4");
    stage.expect_publishes(PUB, &["3", "4"]);
    stage.advance(100 * MS);
    stage.expect_channel_close(PUB);
    let unknown = Some(Verdict::Unknown(UnknownReason::ConfirmTimeout));
    assert_eq!(stage.verdicts(), [(2, unknown)]);
    // An ack that comes before close-ok counts; what it leaves is sent again.
    stage.ack(PUB, channel, 3, false);
    assert_eq!(stage.verdicts(), [(3, None)]);
    stage.channel_close_ok(PUB, channel);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["4"])[0].attempt(), Some(2));
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(4, None)]);
    stage.finish();
}

/// A session whose producers share channels: the first and the ninth one meet.
fn sharing(first: ProducerConfig, ninth: ProducerConfig) -> (Stage, ProducerId, ProducerId) {
    let mut config = config();
    config.limits.own_channels = 0;
    let mut stage = Stage::connected(config);
    let mode = first.mode;
    let first = stage.open_producer(first);
    for n in 0..7 {
        stage.producer(&n.to_string(), mode);
    }
    let ninth = stage.open_producer(ninth);
    (stage, first, ninth)
}

#[test]
fn s26_on_a_shared_channel_each_producer_has_its_own_patience() {
    let settings = |queue, timeout| {
        let mut settings = to_queue(queue, PublishMode::Confirm);
        settings.confirm_timeout = timeout;
        settings.confirm_retries = 0;
        settings
    };
    let (mut stage, patient, hasty) = sharing(settings("a", None), settings("b", Some(SEC)));
    stage.publish(patient, "1");
    stage.publish(hasty, "1");
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["1", "1"]);
    stage.advance(SEC);
    assert_eq!(stage.expect_channel_close(PUB).0, channel);
    let unknown = Some(Verdict::Unknown(UnknownReason::ConfirmTimeout));
    assert_eq!(stage.outcomes(), [(hasty, 1, unknown)]);
    stage.channel_close_ok(PUB, channel);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publish(PUB).routing_key, "a");
    stage.advance(3600 * SEC);
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.outcomes(), [(patient, 1, None)]);
    stage.finish();
}

#[test]
fn s25_on_a_shared_channel_the_neighbours_of_an_offender_are_sent_again() {
    let (mut stage, good, bad) = sharing(
        to_exchange("there", "a", PublishMode::Confirm),
        to_exchange("missing", "b", PublishMode::Confirm),
    );
    for n in 1..=2 {
        stage.publish(good, n.to_string());
        stage.publish(bad, n.to_string());
    }
    let mut channel = stage.accept_lane(PUB, PublishMode::Confirm);
    for _ in 0..4 {
        stage.expect_publish(PUB);
    }
    stage.close_channel(PUB, channel, 404, "missing", PUBLISH);
    stage.expect_channel_close_ok(PUB, channel);
    channel = stage.accept_lane(PUB, PublishMode::Confirm);
    let mut tag = 0;
    for _ in 0..4 {
        if !stage.has_frames(PUB) {
            stage.advance(Duration::ZERO);
        }
        let copy = match stage.peers[PUB].frames_contain_publish() {
            true => stage.expect_publish(PUB),
            false => {
                channel = stage.accept_lane(PUB, PublishMode::Confirm);
                tag = 0;
                stage.expect_publish(PUB)
            }
        };
        stage.silent();
        tag += 1;
        if copy.exchange == "missing" {
            stage.close_channel(PUB, channel, 404, "missing", PUBLISH);
            stage.expect_channel_close_ok(PUB, channel);
        } else {
            stage.ack(PUB, channel, tag, false);
        }
    }
    let mut outcomes = stage.outcomes();
    outcomes.sort_by_key(|(producer, sequence, _)| (*producer, *sequence));
    let failed = || failed(404, "missing");
    let expected = [(good, 1, None), (good, 2, None), (bad, 1, failed()), (bad, 2, failed())];
    assert_eq!(outcomes, expected);
}
