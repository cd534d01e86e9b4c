//! Recovery: s37 to s42, f7, f26.

use crate::harness::*;

fn named(name: &str) -> QueueConfig {
    QueueConfig::new(name).unwrap()
}

fn with(mut config: QueueConfig, change: impl FnOnce(&mut QueueConfig)) -> QueueConfig {
    change(&mut config);
    config
}

fn server_named(exclusive: bool) -> QueueConfig {
    with(named(""), |config| {
        config.durable = false;
        config.exclusive = exclusive;
    })
}

/// Everything in one connection, so that the order of all frames is seen.
fn single() -> Stage {
    let mut config = config();
    config.connections = 1;
    let mut stage = Stage::new(config);
    stage.accept(PUB, &Broker::default());
    stage.states();
    stage
}

fn declare_single(stage: &mut Stage, config: QueueConfig, name: &str) -> RequestId {
    let request = stage.declare(config);
    let (n, class) = stage.expect_method(PUB);
    if let AMQPClass::Channel(channel::AMQPMethod::Open(_)) = class {
        stage.channel_open_ok(PUB, n);
        stage.expect_declare(PUB);
    }
    stage.declare_ok(PUB, n, name);
    assert_eq!(stage.declared(), [(request, Ok(name.to_owned()))]);
    request
}

#[test]
fn s37_queues_stand_again_before_anything_is_sent_in_flight_first() {
    let mut stage = single();
    declare_single(&mut stage, named("a"), "a");
    declare_single(&mut stage, named("b"), "b");
    let (producer, _) = stage.confirming("b");
    stage.publish(producer, "2");
    stage.publish(producer, "3");
    stage.expect_publishes(PUB, &["2", "3"]);
    stage.cut(PUB);
    stage.publish(producer, "4");
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    // Both channels are opened at once; declarations go one after the other.
    let mut control = None;
    let mut lane = None;
    for _ in 0..2 {
        let n = stage.expect_channel_open(PUB);
        if control.is_none() && lane.is_some() {
            control = Some(n)
        } else {
            lane = Some(n)
        };
    }
    // Which is which, the next frames say.
    let (one, other) = (lane.unwrap(), control.unwrap());
    stage.channel_open_ok(PUB, one);
    stage.channel_open_ok(PUB, other);
    let mut selected = None;
    let mut declaring = None;
    for _ in 0..2 {
        match stage.expect_method(PUB) {
            (n, AMQPClass::Confirm(_)) => selected = Some(n),
            (n, AMQPClass::Queue(queue::AMQPMethod::Declare(d))) => {
                assert_eq!(d, declare("a"));
                declaring = Some(n);
            }
            other => panic!("{other:?}"),
        }
    }
    let (lane, control) = (selected.unwrap(), declaring.unwrap());
    stage.select_ok(PUB, lane);
    stage.silent();
    stage.declare_ok(PUB, control, "a");
    assert_eq!(stage.expect_declare(PUB), (control, declare("b")));
    stage.silent();
    stage.declare_ok(PUB, control, "b");
    let copies = stage.expect_publishes(PUB, &["2", "3", "4"]);
    assert_eq!(
        copies.iter().map(Copy::attempt).collect::<Vec<_>>(),
        [Some(2), Some(2), None],
        "in flight first, then the queue"
    );
    stage.ack(PUB, lane, 3, true);
    assert_eq!(stage.verdicts(), [(2, None), (3, None), (4, None)]);
    stage.finish();
}

#[test]
fn s37_a_producer_waits_for_its_own_queue_and_for_no_other() {
    let mut stage = Stage::connected(config());
    stage.declare_now(named("a"), "a");
    stage.declare_now(named("b"), "b");
    let (to_a, _) = stage.confirming("a");
    let (to_b, _) = stage.confirming("b");
    let (to_c, _) = stage.confirming("c");
    stage.cut(PUB);
    stage.cut(CON);
    for producer in [to_a, to_b, to_c] {
        stage.publish(producer, "2");
    }
    stage.advance(Duration::ZERO);
    // The publishing connection is back first.
    stage.accept(PUB, &Broker::default());
    // Channels may open meanwhile.
    for _ in 0..3 {
        let channel = stage.expect_channel_open(PUB);
        stage.channel_open_ok(PUB, channel);
    }
    for _ in 0..3 {
        let (channel, _) = stage.expect_method(PUB);
        stage.select_ok(PUB, channel);
    }
    assert_eq!(stage.expect_publish(PUB).routing_key, "c", "not on record: it stands");
    stage.silent();
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    assert_eq!(stage.expect_declare(CON), (control, declare("a")));
    stage.declare_ok(CON, control, "a");
    assert_eq!(stage.expect_publish(PUB).routing_key, "a");
    stage.silent_but(CON);
    assert_eq!(stage.expect_declare(CON), (control, declare("b")));
    stage.declare_ok(CON, control, "b");
    assert_eq!(stage.expect_publish(PUB).routing_key, "b");
    stage.finish();
}

/// After a restart of the broker the publishing connection may be back before the other is found to
/// be lost: whether a queue still stands is asked, or a publish to a transient one would be returned.
#[test]
fn s37_a_publishing_connection_that_comes_back_alone_has_the_queues_declared_first() {
    for restarted in [false, true] {
        let mut stage = Stage::connected(config());
        let (_, control) = stage.declare_now(named("a"), "a");
        // A queue that the broker named is not made a second time.
        stage.declare_now(named(""), "amq.gen-1");
        let (producer, _) = stage.confirming("a");
        stage.cut(PUB);
        stage.publish(producer, "2");
        stage.advance(Duration::ZERO);
        stage.accept(PUB, &Broker::default());
        assert_eq!(stage.expect_declare(CON), (control, declare("a")));
        stage.accept_lane(PUB, PublishMode::Confirm);
        stage.silent();
        if restarted {
            stage.cut(CON);
            stage.advance(SEC);
            stage.accept(CON, &Broker::default());
            let control = stage.expect_channel_open(CON);
            stage.channel_open_ok(CON, control);
            assert_eq!(stage.expect_declare(CON), (control, declare("a")));
            stage.silent_but(CON);
            stage.declare_ok(CON, control, "a");
            let (_, look_up) = stage.expect_declare(CON);
            assert!(look_up.passive && look_up.queue.as_str() == "amq.gen-1");
            stage.declare_ok(CON, control, "amq.gen-1");
        } else {
            stage.declare_ok(CON, control, "a");
        }
        stage.expect_publishes(PUB, &["2"]);
        stage.finish();
    }
}

#[test]
fn s37_what_waits_to_be_sent_again_waits_for_its_queue_too() {
    let mut stage = Stage::connected(config());
    stage.declare_now(named("a"), "a");
    let (producer, _) = stage.confirming("a");
    stage.publish(producer, "2");
    stage.expect_publishes(PUB, &["2"]);
    // The declaring connection alone is lost, then the publishing one.
    stage.cut(CON);
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    if stage.has_frames(PUB) {
        stage.accept_lane(PUB, PublishMode::Confirm);
    }
    stage.silent();
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "a");
    if stage.has_frames(PUB) && !stage.peers[PUB].frames_contain_publish() {
        stage.accept_lane(PUB, PublishMode::Confirm);
    }
    assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
    stage.finish();
}

#[test]
fn s37_a_standing_channel_waits_while_the_queue_is_declared_again() {
    let mut stage = Stage::connected(config());
    stage.declare_now(named("a"), "a");
    let (producer, _) = stage.confirming("a");
    // On its way when the declaring connection is lost; the publishing one stands.
    stage.stalled.insert(PUB);
    for _ in 0..200 {
        stage.publish(producer, vec![b'x'; 1000]);
    }
    let first = stage.pending(PUB);
    stage.cut(CON);
    stage.publish(producer, "last");
    stage.stalled.clear();
    stage.write(PUB, first);
    stage.pump();
    let mut before = 0;
    while stage.peers[PUB].frames_contain_publish() {
        stage.expect_publish(PUB);
        before += 1;
    }
    assert!(before < 201, "the rest waits: {before}");
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.silent();
    stage.declare_ok(CON, control, "a");
    for _ in before..200 {
        stage.expect_publish(PUB);
    }
    stage.expect_publishes(PUB, &["last"]);
    stage.finish();
}

#[test]
fn f07_a_cut_at_each_step_of_the_setup_replays_it_in_order() {
    for step in 0..5 {
        let mut stage = single();
        declare_single(&mut stage, named("a"), "a");
        let (producer, _) = stage.confirming("a");
        stage.publish(producer, "2");
        stage.expect_publishes(PUB, &["2"]);
        stage.cut(PUB);
        for attempt in 0..2 {
            stage.until_reason(DeadlineReason::Reconnect);
            stage.accept(PUB, &Broker::default());
            let one = stage.expect_channel_open(PUB);
            let two = stage.expect_channel_open(PUB);
            let last = attempt == 1;
            if step > 0 || last {
                stage.channel_open_ok(PUB, one);
            }
            if step > 1 || last {
                stage.channel_open_ok(PUB, two);
            }
            if step > 2 || last {
                let mut lane = 0;
                let mut control = 0;
                for _ in 0..2 {
                    match stage.expect_method(PUB) {
                        (n, AMQPClass::Confirm(_)) => lane = n,
                        (n, AMQPClass::Queue(_)) => control = n,
                        other => panic!("{other:?}"),
                    }
                }
                if step == 3 || last {
                    stage.select_ok(PUB, lane);
                }
                if step == 4 || last {
                    stage.declare_ok(PUB, control, "a");
                }
                if last {
                    assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
                    stage.ack(PUB, lane, 1, false);
                }
            }
            if !last {
                stage.cut(PUB);
            }
        }
        assert_eq!(stage.verdicts(), [(2, None)], "step {step}");
        stage.finish();
    }
}

#[test]
fn f07_a_declaration_that_is_cut_is_sent_again_for_the_one_who_waits() {
    let mut stage = Stage::connected(config());
    let request = stage.declare(named("a"));
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.cut(CON);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    assert_eq!(stage.expect_declare(CON), (channel, declare("a")));
    stage.declare_ok(CON, channel, "a");
    assert_eq!(stage.declared(), [(request, Ok("a".into()))]);
    stage.finish();
}

/// Loses the declaring connection and brings it back; its control channel.
fn replay(stage: &mut Stage) -> u16 {
    stage.cut(CON);
    stage.until_reason(DeadlineReason::Reconnect);
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    control
}

#[test]
fn s38_a_server_named_queue_is_looked_up_and_kept_if_it_survived() {
    let mut stage = Stage::connected(config());
    stage.declare_now(server_named(false), "amq.gen-1");
    let (producer, _) = stage.forgetting("amq.gen-1");
    let control = replay(&mut stage);
    let (_, lookup) = stage.expect_declare(CON);
    assert_eq!((lookup.queue.as_str(), lookup.passive), ("amq.gen-1", true));
    stage.declare_ok(CON, control, "amq.gen-1");
    assert_eq!(stage.events(), []);
    stage.publish(producer, "2");
    assert_eq!(stage.expect_publish(PUB).routing_key, "amq.gen-1");
    stage.finish();
}

#[test]
fn s38_a_server_named_queue_that_is_gone_gets_a_new_name_and_its_producers_follow() {
    for exclusive in [false, true] {
        let mut stage = Stage::connected(config());
        let (request, _) = stage.declare_now(server_named(exclusive), "amq.gen-1");
        let (producer, _) = stage.forgetting("amq.gen-1");
        let mut control = replay(&mut stage);
        stage.publish(producer, "2");
        stage.silent_but(CON);
        if !exclusive {
            assert!(stage.expect_declare(CON).1.passive);
            stage.close_channel(CON, control, 404, "NOT_FOUND", (50, 10));
            stage.expect_channel_close_ok(CON, control);
            control = stage.expect_channel_open(CON);
            stage.channel_open_ok(CON, control);
        }
        let (_, anew) = stage.expect_declare(CON);
        assert_eq!((anew.queue.as_str(), anew.passive, anew.exclusive), ("", false, exclusive));
        stage.declare_ok(CON, control, "amq.gen-2");
        let (from, to) = ("amq.gen-1".into(), "amq.gen-2".into());
        assert_eq!(stage.events(), [Event::QueueRenamed { from, to }]);
        let told = stage.take_events(|event| matches!(event, SessionEvent::QueueRenamed { .. }));
        let [SessionEvent::QueueRenamed { request: who, name }] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((*who, &**name), (request, "amq.gen-2"));
        assert_eq!(stage.expect_publish(PUB).routing_key, "amq.gen-2");
        // And once more: the record carries the new name.
        stage.advance(11 * SEC);
        replay(&mut stage);
        let (_, again) = stage.expect_declare(CON);
        assert_eq!(again.queue.as_str(), if exclusive { "" } else { "amq.gen-2" });
        stage.finish();
    }
}

#[test]
fn s38_only_a_404_says_that_a_server_named_queue_is_gone() {
    let mut stage = Stage::connected(config());
    stage.declare_now(server_named(false), "amq.gen-1");
    let control = replay(&mut stage);
    stage.expect_declare(CON);
    stage.close_channel(CON, control, 403, "ACCESS_REFUSED", (50, 10));
    stage.expect_channel_close_ok(CON, control);
    let failed = Event::RedeclareFailed {
        queue: "amq.gen-1".into(),
        code: 403,
        text: "ACCESS_REFUSED".into(),
    };
    assert_eq!(stage.events(), [failed]);
    stage.finish();
}

#[test]
fn s39_a_locked_queue_is_retried_with_backoff_and_holds_nobody_else_up() {
    let mut stage = Stage::connected(config());
    stage.declare_now(with(named("locked"), |config| config.exclusive = true), "locked");
    stage.declare_now(named("b"), "b");
    let (to_locked, _) = stage.confirming("locked");
    let mut control = replay(&mut stage);
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "locked");
    stage.close_channel(CON, control, 405, "RESOURCE_LOCKED", (50, 10));
    stage.expect_channel_close_ok(CON, control);
    // The others go on at once.
    control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    assert_eq!(stage.expect_declare(CON), (control, declare("b")));
    stage.declare_ok(CON, control, "b");
    stage.publish(to_locked, "2");
    let mut waits = Vec::new();
    for _ in 0..4 {
        let before = stage.now;
        stage.silent();
        stage.until_reason(DeadlineReason::Reopen);
        waits.push((stage.now - before).as_millis());
        if waits.len() > 1 {
            control = stage.expect_channel_open(CON);
            stage.channel_open_ok(CON, control);
        }
        assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "locked");
        if waits.len() < 4 {
            stage.close_channel(CON, control, 405, "RESOURCE_LOCKED", (50, 10));
            stage.expect_channel_close_ok(CON, control);
            if stage.has_frames(CON) {
                // A channel that is opened again ahead of time is as good.
                control = stage.expect_channel_open(CON);
                stage.channel_open_ok(CON, control);
            }
        }
    }
    assert!(waits.is_sorted() && waits[0] >= 100 && waits[3] >= 400, "{waits:?}");
    stage.declare_ok(CON, control, "locked");
    assert_eq!(stage.events(), []);
    assert_eq!(stage.expect_publish(PUB).routing_key, "locked");
    stage.finish();
}

#[test]
fn s40_a_passive_declaration_is_answered_and_never_replayed() {
    let mut stage = Stage::connected(config());
    stage.declare_now(with(named("a"), |config| config.passive = true), "a");
    stage.cut(CON);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    stage.silent();
    stage.finish();
}

#[test]
fn s40_an_auto_delete_queue_is_forgotten_with_its_last_consumer() {
    let mut stage = Stage::connected(config());
    stage.declare_now(with(named("a"), |config| config.auto_delete = true), "a");
    let subscribed = |stage: &mut Stage| {
        let channel = stage.expect_channel_open(CON);
        stage.channel_open_ok(CON, channel);
        stage.expect_method(CON);
        let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
        stage.reply(CON, channel, AMQPClass::Basic(ok));
        let (_, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))) = stage.expect_method(CON)
        else {
            panic!("basic.consume is due");
        };
        let consumer_tag = consume.consumer_tag;
        let ok = basic::ConsumeOk { consumer_tag: consumer_tag.clone() };
        stage.reply(CON, channel, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
        (channel, consumer_tag)
    };
    let subscribe = |stage: &mut Stage| {
        let settings = lavinmq_core::config::ConsumerConfig::new("a").unwrap();
        stage.session.open_consumer(settings, stage.now).unwrap()
    };
    let unsubscribe = |stage: &mut Stage, consumer, (channel, consumer_tag)| {
        stage.session.close_consumer(consumer, stage.now);
        stage.expect_method(CON);
        let ok = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag });
        stage.reply(CON, channel, AMQPClass::Basic(ok));
        assert_eq!(stage.expect_channel_close(CON).0, channel);
        stage.channel_close_ok(CON, channel);
    };
    let first = subscribe(&mut stage);
    let channel = subscribed(&mut stage);
    let second = subscribe(&mut stage);
    subscribed(&mut stage);
    unsubscribe(&mut stage, first, channel);
    let control = replay(&mut stage);
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "a", "there is a consumer left");
    stage.declare_ok(CON, control, "a");
    let channel = subscribed(&mut stage);
    unsubscribe(&mut stage, second, channel);
    stage.advance(11 * SEC);
    stage.cut(CON);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    stage.silent();
    stage.finish();
}

#[test]
fn s40_one_failed_queue_is_reported_and_does_not_stop_the_rest() {
    let mut stage = Stage::connected(config());
    stage.declare_now(named("a"), "a");
    stage.declare_now(named("b"), "b");
    let (to_a, _) = stage.forgetting("a");
    let (to_b, _) = stage.forgetting("b");
    let control = replay(&mut stage);
    stage.publish(to_a, "2");
    stage.publish(to_b, "2");
    stage.expect_declare(CON);
    stage.close_channel(CON, control, 406, "PRECONDITION_FAILED", (50, 10));
    stage.expect_channel_close_ok(CON, control);
    let failed =
        Event::RedeclareFailed { queue: "a".into(), code: 406, text: "PRECONDITION_FAILED".into() };
    assert_eq!(stage.events(), [failed]);
    // Its producer goes on: whether the queue takes messages, its broker says.
    assert_eq!(stage.expect_publish(PUB).routing_key, "a");
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    assert_eq!(stage.expect_declare(CON), (control, declare("b")));
    stage.declare_ok(CON, control, "b");
    assert_eq!(stage.expect_publish(PUB).routing_key, "b");
    stage.finish();
}

#[test]
fn s12_a_declaration_that_does_not_fit_into_the_smallest_frame_is_refused() {
    let mut stage = Stage::connected(config());
    let mut declare = |length: usize| {
        let mut queue = named("a");
        let text = "x".repeat(length);
        queue.arguments.insert("h".into(), AMQPValue::LongString(text.as_str().into()));
        stage.session.declare_queue(queue, stage.now)
    };
    let Err(DeclareError::TooLarge { size, limit }) = declare(5000) else { panic!("too large") };
    assert_eq!(limit, 4096);
    let most = 5000 - (size - limit);
    assert_eq!(declare(most + 1), Err(DeclareError::TooLarge { size: limit + 1, limit }));
    assert!(declare(most).is_ok());
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.finish();
}

#[test]
fn f23_a_declaration_that_nobody_waits_for_any_more_is_not_sent() {
    let mut stage = Stage::connected(config());
    stage.declare(named("a"));
    let given_up = stage.declare(named("b"));
    let last = stage.declare(named("c"));
    stage.session.forget_request(given_up);
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.declare_ok(CON, channel, "a");
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "c");
    stage.declare_ok(CON, channel, "c");
    assert_eq!(stage.declared().last(), Some(&(last, Ok("c".into()))));
    stage.advance(60 * SEC);
    assert_eq!(stage.declared(), []);
    stage.finish();
}

#[test]
fn s40_a_declaration_that_the_broker_refuses_is_an_error_and_is_not_recorded() {
    let mut stage = Stage::connected(config());
    let request = stage.declare(named("a"));
    let channel = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, channel);
    stage.expect_declare(CON);
    stage.close_channel(CON, channel, 406, "inequivalent arg", (50, 10));
    stage.expect_channel_close_ok(CON, channel);
    let error =
        DeclareError::Refused { queue: "a".into(), code: 406, text: "inequivalent arg".into() };
    assert_eq!(stage.declared(), [(request, Err(error))]);
    stage.cut(CON);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    stage.finish();
}

// ---- the next attempt ------------------------------------------------------------------------

/// How long the session waits before each of the next dials, when each of them fails.
fn delays(stage: &mut Stage, count: usize) -> Vec<u128> {
    let mut delays = Vec::new();
    for _ in 0..count {
        let before = stage.now;
        stage.until_reason(DeadlineReason::Reconnect);
        delays.push((stage.now - before).as_millis());
        let error = lavinmq_core::error::DialError::Other("refused".into());
        stage.cut_by(PUB, Loss::Dial { target: "x".into(), error });
    }
    delays
}

#[test]
fn s41_after_a_stable_connection_at_once_then_100_ms_doubling_up_to_30_s() {
    let mut stage = Stage::connected(config());
    stage.advance(10 * SEC);
    stage.cut(PUB);
    let expected = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
    assert_eq!(delays(&mut stage, 12), expected);
    stage.until_reason(DeadlineReason::Reconnect);
    stage.accept(PUB, &Broker::default());
    stage.advance(10 * SEC);
    stage.cut(PUB);
    assert_eq!(delays(&mut stage, 3), [0, 100, 200], "it stood long enough");
    stage.finish();
}

#[test]
fn f26_a_connection_that_falls_at_once_does_not_reset_the_backoff() {
    let mut stage = Stage::connected(config());
    stage.advance(10 * SEC);
    stage.cut(PUB);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let before = stage.now;
        stage.until_reason(DeadlineReason::Reconnect);
        delays.push((stage.now - before).as_millis());
        stage.accept(PUB, &Broker::default());
        stage.advance(10 * SEC - MS);
        stage.cut(PUB);
    }
    assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400]);
    assert_eq!(stage.session.stats().losses, 9);
    assert_eq!(stage.session.stats().reconnects, 8);
    stage.finish();
}

#[test]
fn s41_jitter_spreads_over_the_upper_half_and_follows_the_seed() {
    let run = || {
        let mut config = config();
        config.backoff.jitter = true;
        let mut stage = Stage::connected(config);
        stage.advance(10 * SEC);
        stage.cut(PUB);
        delays(&mut stage, 12)
    };
    let (one, two) = (run(), run());
    assert_eq!(one, two);
    let full = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
    assert!(one.iter().zip(full).all(|(&delay, full)| delay >= full / 2 && delay <= full));
    assert_ne!(one, full);
}

#[test]
fn s42_a_loss_is_noticed_at_once_and_the_state_says_why() {
    let losses = [
        Loss::Eof,
        Loss::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        Loss::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
    ];
    for loss in losses {
        let mut stage = Stage::connected(config());
        stage.cut_by(PUB, loss.clone());
        assert_eq!(stage.states(), [State::Reconnecting { loss, attempt: 1 }]);
        assert!(!stage.session.state().is_connected());
        stage.advance(Duration::ZERO);
        stage.accept(PUB, &Broker::default());
        assert_eq!(stage.states(), [State::Connected]);
        stage.finish();
    }
}

#[test]
fn s42_the_state_is_that_of_the_connection_that_is_missing() {
    let mut stage = Stage::with_retry(config(), true);
    stage.connect(PUB);
    stage.cut(PUB);
    assert_eq!(stage.states(), [State::Reconnecting { loss: Loss::Eof, attempt: 1 }]);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    assert_eq!(stage.states(), [State::Connecting], "the other one was not lost");
    stage.accept(CON, &Broker::default());
    assert_eq!(stage.states(), [State::Connected]);
    stage.finish();
}

#[test]
fn s39_a_queue_that_stays_locked_is_reported_after_eight_more_attempts() {
    let mut stage = Stage::connected(config());
    stage.declare_now(with(named("locked"), |config| config.exclusive = true), "locked");
    let mut control = replay(&mut stage);
    let wait = |stage: &mut Stage| {
        while !stage.has_frames(CON) {
            stage.advance(50 * MS);
        }
    };
    for attempt in 0..9 {
        assert_eq!(stage.events(), [], "{attempt}");
        if attempt > 0 {
            wait(&mut stage);
            control = stage.expect_channel_open(CON);
            stage.channel_open_ok(CON, control);
            wait(&mut stage);
        }
        assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "locked");
        stage.close_channel(CON, control, 405, "RESOURCE_LOCKED", (50, 10));
        stage.expect_channel_close_ok(CON, control);
    }
    let events = stage.events();
    assert!(matches!(events[..], [Event::RedeclareFailed { code: 405, .. }]), "{events:?}");
    stage.advance(600 * SEC);
    stage.finish();
}
