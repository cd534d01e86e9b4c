//! Publishing: what the wire looks like, confirms, returns. s10 to s12, s18 to s20, s23, f18, f34.

use lavinmq_core::{
    PublishError,
    error::{InvalidMessage, NameTooLong},
    event::{FailReason, Return, UnknownReason},
    wire::REFERENCE_HEADER,
};

use crate::harness::*;

fn no_route(routing_key: &str) -> Option<Verdict> {
    Some(Verdict::Returned(Box::new(no_route_reply("", routing_key))))
}

/// `Return` cannot be built outside its crate: take it from a return that is received.
fn no_route_reply(exchange: &str, routing_key: &str) -> Return {
    let mut stage = Stage::connected(config());
    let mut settings = to_exchange(exchange, routing_key, PublishMode::FireAndForget);
    settings.mandatory = true;
    let producer = stage.open_producer(settings);
    stage.publish(producer, "x");
    stage.accept_lane(PUB, PublishMode::FireAndForget);
    let copy = stage.expect_publish(PUB);
    stage.give_back(PUB, &copy);
    let [Event::Returned(returned)] = &stage.events()[..] else { panic!("a return is due") };
    assert_eq!(
        (returned.reply.code, &*returned.reply.text, &*returned.reply.exchange),
        (312, "NO_ROUTE", exchange)
    );
    assert_eq!(&*returned.reply.routing_key, routing_key);
    returned.reply.clone()
}

#[test]
fn s10_a_body_is_cut_at_frame_max_less_eight_and_an_empty_one_has_no_frame() {
    let mut stage = Stage::new(config());
    let broker = Broker { tune: (10, 4096, 0), ..Broker::default() };
    stage.accept(PUB, &broker);
    stage.accept(CON, &broker);
    let (producer, channel) = stage.confirming("orders");
    let body: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    for (tag, (length, chunks)) in [
        (0, vec![]),
        (1, vec![1]),
        (4088, vec![4088]),
        (4089, vec![4088, 1]),
        (20_000, vec![4088, 4088, 4088, 4088, 3648]),
    ]
    .into_iter()
    .enumerate()
    {
        stage.publish(producer, &body[..length]);
        let copy = stage.expect_publish(PUB);
        assert_eq!((copy.chunks, &copy.body[..]), (chunks, &body[..length]));
        stage.ack(PUB, channel, tag as u64 + 2, false);
    }
    assert_eq!(stage.verdicts().len(), 5);
    stage.finish();
}

#[test]
fn s11_large_and_small_messages_of_many_producers_never_interleave_on_a_channel() {
    // The peer checks the order on each channel; here two producers share one.
    let mut config = config();
    config.limits.own_channels = 0;
    config.limits.channel_max = 4;
    let mut stage = Stage::connected(config);
    let producers: Vec<_> =
        (0..9).map(|n| stage.producer(&n.to_string(), PublishMode::Confirm)).collect();
    for round in 0..3 {
        for (n, &producer) in producers.iter().enumerate() {
            let length = if (n + round) % 2 == 0 { 300_000 } else { 3 };
            stage.publish(producer, vec![n as u8; length]);
        }
    }
    let mut channels = Vec::new();
    // Four channels are all that there are; nine producers share them.
    for _ in 0..4 {
        channels.push(stage.expect_channel_open(PUB));
    }
    for &channel in &channels {
        stage.channel_open_ok(PUB, channel);
    }
    let mut selected = 0;
    let (mut frames, mut copies) = (Vec::new(), 0);
    while selected < 4 {
        match stage.next(PUB) {
            Wrote::Method(n, AMQPClass::Confirm(confirm::AMQPMethod::Select(_))) => {
                stage.select_ok(PUB, n);
                selected += 1;
            }
            other => frames.push(other),
        }
    }
    // Bodies of different channels may alternate; on one channel the peer has checked the order.
    stage.pump();
    while stage.has_frames(PUB) {
        frames.push(stage.next(PUB));
    }
    copies += frames.iter().filter(|frame| matches!(frame, Wrote::Publish { .. })).count();
    let seen: usize = frames
        .iter()
        .map(|frame| if let Wrote::Body(_, bytes) = frame { bytes.len() } else { 0 })
        .sum();
    let shared: u64 = stage.session.stats().publish.in_flight;
    assert_eq!(copies as u64, shared);
    let expected: usize = stage.session.stats().publish.queued_bytes as usize + seen;
    assert_eq!(expected, 14 * 300_000 + 13 * 3);
    stage.finish();
}

#[test]
fn s12_a_short_string_over_255_bytes_is_refused_and_never_sent() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    let long = "x".repeat(256);
    for (what, message) in [
        ("message id", Message::new("m").message_id(&long)),
        ("reply-to", Message::new("m").reply_to(&long)),
        ("header name", Message::new("m").header(&long, AMQPValue::Void)),
        ("content type", Message::new("m").content_type(&long)),
    ] {
        let error = stage.session.publish(producer, message, stage.now).unwrap_err();
        let PublishError::Invalid(message, invalid) = error else { panic!("{error:?}") };
        assert_eq!(invalid, InvalidMessage::Name(NameTooLong { what, length: 256 }));
        assert_eq!(message.body(), b"m");
    }
    assert!(ProducerConfig::new("", &long, PublishMode::Confirm).is_err());
    let just_right = "y".repeat(255);
    stage.publish(producer, Message::new("m").message_id(&just_right));
    assert_eq!(stage.expect_publish(PUB).message_id().unwrap(), just_right);
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.stats(producer).refused_invalid, 4);
    stage.finish();
}

#[test]
fn s12_properties_over_frame_max_are_refused_at_publish() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("orders");
    let large = AMQPValue::LongString("x".repeat(131_072).as_str().into());
    let message = Message::new("m").header("large", large);
    let error = stage.session.publish(producer, message, stage.now).unwrap_err();
    assert!(
        matches!(error, PublishError::Invalid(_, InvalidMessage::PropertiesTooLarge { .. })),
        "{error:?}"
    );
    stage.finish();
}

#[test]
fn s12_a_frame_max_that_shrinks_fails_the_message_locally_without_a_loop() {
    let large = || AMQPValue::LongString("x".repeat(5000).as_str().into());
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    // Number 2 was possibly written whole; number 3 was not, nor was number 4.
    stage.publish(producer, Message::new("2").header("large", large()));
    stage.expect_publish(PUB);
    stage.stalled.insert(PUB);
    stage.publish(producer, Message::new("3").header("large", large()));
    stage.publish(producer, "4");
    let _ = channel;
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker { tune: (10, 4096, 0), ..Broker::default() });
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publishes(PUB, &["4"])[0].attempt(), None);
    stage.ack(PUB, channel, 1, false);
    assert_eq!(
        stage.verdicts(),
        [
            (2, Some(Verdict::Unknown(UnknownReason::FrameTooLarge))),
            (3, Some(Verdict::Failed(FailReason::FrameTooLarge))),
            (4, None)
        ]
    );
    stage.finish();
}

#[test]
fn s18_tags_are_counted_in_wire_order_from_one() {
    let mut stage = Stage::connected(config());
    let producer = stage.producer("orders", PublishMode::Confirm);
    for body in ["1", "2", "3"] {
        stage.publish(producer, body);
    }
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    let copies = stage.expect_publishes(PUB, &["1", "2", "3"]);
    assert!(copies.iter().all(|copy| copy.channel == channel && copy.routing_key == "orders"));
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.ack(PUB, channel, 3, true);
    assert_eq!(stage.verdicts(), [(1, None), (3, None)]);
    stage.finish();
}

#[test]
fn s18_producers_that_share_a_channel_share_its_tags_and_a_new_channel_starts_at_one() {
    let mut config = config();
    config.limits.own_channels = 0;
    config.limits.channel_max = 1;
    let mut stage = Stage::connected(config);
    let first = stage.producer("a", PublishMode::Confirm);
    stage.publish(first, "a1");
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["a1"]);
    // Eight lanes are shared: the ninth producer meets the first one.
    let others: Vec<_> =
        (0..8).map(|n| stage.producer(&n.to_string(), PublishMode::Confirm)).collect();
    let second = others[7];
    stage.publish(second, "b1");
    stage.publish(first, "a2");
    stage.expect_publishes(PUB, &["b1", "a2"]);
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.outcomes(), [(second, 1, None)]);
    stage.close_channel(PUB, channel, 404, "no", (0, 0));
    stage.expect_channel_close_ok(PUB, channel);
    stage.advance(SEC);
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["a1", "a2"]);
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.outcomes(), [(first, 1, None)]);
    stage.ack(PUB, channel, 2, true);
    assert_eq!(stage.outcomes(), [(first, 2, None)]);
    stage.finish();
}

#[test]
fn f18_confirms_out_of_order_mixed_duplicated_and_with_tag_zero() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    for n in 2..=7 {
        stage.publish(producer, n.to_string());
    }
    stage.expect_publishes(PUB, &["2", "3", "4", "5", "6", "7"]);
    stage.ack(PUB, channel, 5, false);
    stage.nack(PUB, channel, 3, false);
    assert_eq!(stage.verdicts(), [(5, None), (3, Some(Verdict::Nacked))]);
    // Again, and the other way round: both are settled.
    stage.ack(PUB, channel, 5, false);
    stage.ack(PUB, channel, 3, false);
    stage.nack(PUB, channel, 5, false);
    assert_eq!(stage.verdicts(), []);
    // A cumulative ack behind a nack: what was nacked stays nacked.
    stage.ack(PUB, channel, 4, true);
    assert_eq!(stage.verdicts(), [(2, None), (4, None)]);
    // One for what lies below.
    stage.ack(PUB, channel, 2, true);
    assert_eq!(stage.verdicts(), []);
    // Everything.
    stage.nack(PUB, channel, 0, true);
    assert_eq!(stage.verdicts(), [(6, Some(Verdict::Nacked)), (7, Some(Verdict::Nacked))]);
    let stats = stage.stats(producer);
    assert_eq!((stats.confirmed, stats.nacked, stats.duplicate_confirms), (4, 3, 4));
    stage.finish();
}

#[test]
fn s19_a_tag_that_was_never_sent_is_an_error_and_settles_nothing() {
    for (tag, multiple) in [(3, false), (3, true), (0, false), (u64::MAX, true)] {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.confirming("orders");
        stage.publish(producer, "2");
        let copies = stage.expect_publishes(PUB, &["2"]);
        stage.ack(PUB, channel, tag, multiple);
        assert_eq!(stage.verdicts(), []);
        // Only the channel pays for it; a peer that does it again and again is met with patience.
        assert_eq!(stage.expect_channel_close(PUB), (channel, 406));
        // What crosses our close is nobody's.
        stage.give_back(PUB, &copies[0]);
        stage.ack(PUB, channel, 2, false);
        stage.silent();
        stage.advance(Duration::ZERO);
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(2));
        stage.ack(PUB, channel, 99, false);
        assert_eq!(stage.expect_channel_close(PUB), (channel, 406));
        stage.advance(100 * MS - MS);
        stage.silent();
        stage.advance(MS);
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        assert_eq!(stage.expect_publishes(PUB, &["2"])[0].attempt(), Some(3));
        stage.ack(PUB, channel, 1, false);
        assert_eq!(stage.verdicts(), [(2, None)], "{tag} {multiple}");
        stage.finish();
    }
}

#[test]
fn s19_a_tag_that_was_never_sent_in_the_middle_of_a_body_costs_the_connection() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.stalled.insert(PUB);
    stage.publish(producer, vec![b'x'; 400_000]);
    stage.write(PUB, 30_000);
    stage.ack(PUB, channel, 99, false);
    stage.stalled.clear();
    stage.expect_publish_begun(PUB);
    assert_eq!(stage.expect_close(PUB), 503, "no channel.close fits between its frames");
    stage.close_ok(PUB);
    stage.finish();
}

#[test]
fn s23_a_nack_is_terminal_and_gives_the_message_back() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, Message::new("2").correlation_id("c"));
    stage.expect_publishes(PUB, &["2"]);
    stage.nack(PUB, channel, 2, false);
    let told = stage.take_events(|event| matches!(event, SessionEvent::Settled { .. }));
    let [SessionEvent::Settled { settled, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(settled.verdict, Some(Verdict::Nacked));
    assert_eq!(settled.message, Message::new("2").correlation_id("c"));
    assert_eq!((&*settled.routing_key, settled.sequence), ("orders", 2));
    // It is not sent again: not now, and not on the next connection.
    stage.cut(PUB);
    stage.advance(SEC);
    stage.accept(PUB, &Broker::default());
    assert_eq!(stage.stats(producer).nacked, 1);
    stage.finish();
}

#[test]
fn s20_the_default_exchange_is_published_to_mandatory_in_confirm_mode_only() {
    let mut stage = Stage::connected(config());
    for (settings, mandatory) in [
        (to_queue("orders", PublishMode::Confirm), true),
        (to_exchange("logs", "key", PublishMode::Confirm), false),
        (to_queue("orders", PublishMode::FireAndForget), false),
    ] {
        let mode = settings.mode;
        let producer = stage.open_producer(settings);
        stage.publish(producer, "m");
        stage.accept_lane(PUB, mode);
        assert_eq!(stage.expect_publish(PUB).mandatory, mandatory);
    }
    stage.finish();
}

#[test]
fn s20_a_return_and_then_an_ack_is_returned() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    for n in 2..=4 {
        stage.publish(producer, n.to_string());
    }
    let copies = stage.expect_publishes(PUB, &["2", "3", "4"]);
    stage.give_back(PUB, &copies[1]);
    assert_eq!(stage.verdicts(), [], "the outcome is fixed when the tag settles");
    stage.ack(PUB, channel, 4, true);
    assert_eq!(stage.verdicts(), [(2, None), (3, no_route("orders")), (4, None)]);
    assert_eq!(stage.stats(producer).returned, 1);
    stage.finish();
}

#[test]
fn f34_a_return_and_then_a_nack_is_nacked() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    let copy = stage.expect_publish(PUB);
    stage.give_back(PUB, &copy);
    stage.nack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, Some(Verdict::Nacked))]);
    stage.finish();
}

#[test]
fn f34_a_return_without_a_settlement_is_forgotten_with_its_channel() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    stage.publish(producer, "2");
    let copy = stage.expect_publish(PUB);
    stage.give_back(PUB, &copy);
    let _ = channel;
    stage.cut(PUB);
    assert_eq!(stage.stats(producer).in_flight, 1);
    stage.advance(Duration::ZERO);
    stage.accept(PUB, &Broker::default());
    let channel = stage.accept_lane(PUB, PublishMode::Confirm);
    assert_eq!(stage.expect_publish(PUB).attempt(), Some(2));
    stage.ack(PUB, channel, 1, false);
    assert_eq!(stage.verdicts(), [(2, None)]);
    stage.finish();
}

#[test]
fn s20_equal_messages_are_told_apart_by_what_we_added() {
    // With an id that we made; with one of the application's; without any.
    for (ids, own) in [(true, false), (true, true), (false, false)] {
        let mut config = config();
        config.message_ids = ids;
        let mut stage = Stage::connected(config);
        let (producer, channel) = stage.confirming("orders");
        let message =
            if own { Message::new("same").message_id("mine") } else { Message::new("same") };
        for _ in 2..=4 {
            stage.publish(producer, message.clone());
        }
        let copies = stage.expect_publishes(PUB, &["same", "same", "same"]);
        for copy in &copies {
            let reference = copy.header(REFERENCE_HEADER).is_some();
            assert_eq!(reference, own || !ids, "sent only where no id of ours says it");
        }
        stage.give_back(PUB, &copies[2]);
        stage.give_back(PUB, &copies[1]);
        stage.ack(PUB, channel, 0, true);
        assert_eq!(
            stage.verdicts(),
            [(2, None), (3, no_route("orders")), (4, no_route("orders"))],
            "ids {ids}, own {own}"
        );
        stage.finish();
    }
}

#[test]
fn s20_without_a_trace_of_ours_it_is_the_oldest_equal_message() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    for body in ["other", "same", "same"] {
        stage.publish(producer, body);
    }
    let mut copies = stage.expect_publishes(PUB, &["other", "same", "same"]);
    // A broker that gives back what it likes: the body, and the properties that we set ourselves.
    copies[2].properties = Properties::default().with_delivery_mode(2);
    stage.give_back(PUB, &copies[2].clone());
    stage.ack(PUB, channel, 0, true);
    assert_eq!(stage.verdicts(), [(2, None), (3, no_route("orders")), (4, None)]);
    stage.finish();
}

#[test]
fn s20_in_fire_and_forget_a_return_is_an_event_and_a_counter_and_no_outcome() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("orders", PublishMode::FireAndForget);
    settings.mandatory = true;
    let (producer, _) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    let copy = stage.expect_publish(PUB);
    assert!(copy.header(REFERENCE_HEADER).is_none() && copy.message_id().is_none());
    stage.give_back(PUB, &copy);
    let events = stage.events();
    let [Event::Returned(returned)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(returned.message.body(), b"2");
    assert_eq!(stage.verdicts(), []);
    let stats = stage.stats(producer);
    assert_eq!((stats.sent, stats.returns, stats.returned), (2, 1, 0));
    stage.finish();
}

#[test]
fn s20_a_return_that_crosses_our_channel_close_still_counts() {
    let mut stage = Stage::connected(config());
    let mut settings = to_queue("orders", PublishMode::Confirm);
    settings.confirm_timeout = Some(SEC);
    let (producer, channel) = stage.warmed_up(settings);
    stage.publish(producer, "2");
    let copy = stage.expect_publish(PUB);
    stage.advance(SEC);
    assert_eq!(stage.expect_channel_close(PUB).0, channel);
    stage.give_back(PUB, &copy);
    stage.ack(PUB, channel, 2, false);
    assert_eq!(stage.verdicts(), [(2, no_route("orders"))]);
    stage.channel_close_ok(PUB, channel);
    stage.finish();
}
