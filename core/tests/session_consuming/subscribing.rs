//! Subscribing: s17, s29, s30, s32, s33, s47, f33.

use crate::words::*;

#[test]
fn s29_a_delivery_in_the_same_read_as_consume_ok_is_delivered() {
    for chunk in [usize::MAX, 1, 7] {
        let mut stage = Stage::connected(config());
        let orders = consume("orders");
        let consumer = stage.open_consumer(&orders);
        let (channel, tag) = stage.accept_consume(CON, &orders);
        stage.chunk = chunk;
        let mut bytes = consume_ok(channel, &tag);
        bytes.extend(deliveries(channel, 1..=2));
        stage.feed(CON, &bytes);
        assert_eq!(stage.told(), [Told::Opened(consumer, Ok(()))]);
        let got = |tag: u64| Got { consumer, generation: 1, tag, body: tag.to_string() };
        assert_eq!(stage.got(), [got(1), got(2)], "in pieces of {chunk}");
        assert_eq!(stage.terms(consumer), [2, 0, 0, 0, 0, 2, 0]);
        stage.finish();
    }
}

#[test]
fn s30_qos_goes_out_before_consume_and_is_replayed_after_every_reconnect() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.prefetch = 7;
    let (consumer, ..) = stage.subscribed(&orders);
    for generation in 2..5 {
        stage.cut(CON);
        assert_eq!(
            stage.told(),
            [
                Told::Generation(consumer, generation),
                interrupted("orders", Interruption::Disconnected)
            ]
        );
        stage.reconnect(CON);
        // Looks at the order, at the prefetch, and that each call waits for the reply before.
        stage.accept_consumer(CON, &orders);
        assert_eq!(stage.told(), [resumed("orders")]);
    }
    stage.finish();
}

#[test]
fn s30_a_prefetch_of_zero_which_means_no_limit_is_refused() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.prefetch = 0;
    assert_eq!(
        stage.session.open_consumer(orders.clone(), stage.now),
        Err(ConsumeError::Option { key: "prefetch", expected: "at least 1" })
    );
    stage.silent();
    // Without acks nobody counts what is outstanding.
    orders.no_ack = true;
    let consumer = stage.open_consumer(&orders);
    stage.accept(NOACK, &Broker::default());
    stage.accept_consumer(NOACK, &orders);
    assert_eq!(stage.told(), [Told::Opened(consumer, Ok(()))]);
    stage.finish();
}

#[test]
fn s32_a_first_subscription_that_fails_is_told_at_once_and_never_retried() {
    for (code, text) in [(404, "no queue"), (403, "exclusive")] {
        let mut stage = Stage::connected(config());
        let orders = consume("orders");
        let consumer = stage.open_consumer(&orders);
        let (channel, _) = stage.accept_consume(CON, &orders);
        stage.refuse(CON, channel, code, text);
        let error = ConsumeError::Refused { queue: name("orders"), code, text: name(text) };
        let told = stage.told();
        assert!(told.contains(&Told::Opened(consumer, Err(error))), "{told:?}");
        assert_eq!(stage.session.consumer_stats(consumer), None);
        stage.advance(120 * SEC);
        assert_eq!(stage.told(), []);
        stage.finish();
    }
}

#[test]
fn s32_on_recovery_a_refusal_is_an_event_and_the_queue_is_declared_before_it_is_consumed_again() {
    let mut stage = Stage::connected(config());
    stage.session.declare_queue(QueueConfig::new("orders").unwrap(), stage.now).unwrap();
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "orders");
    let (consumer, channel, _) = stage.consuming();

    stage.refuse(CON, channel, 404, "deleted");
    let why = || interrupted("orders", refused(404, "deleted"));
    assert_eq!(stage.told(), [Told::Generation(consumer, 2), why()]);
    let (n, declare) = stage.expect_declare(CON);
    assert_eq!((n, declare.queue.as_str(), declare.passive), (control, "orders", false));
    stage.silent();
    stage.advance(SEC);
    stage.silent();
    stage.declare_ok(CON, control, "orders");
    // An auto-delete queue can vanish between declare and consume.
    let (channel, _) = stage.accept_consume(CON, &consume("orders"));
    stage.refuse(CON, channel, 404, "deleted");
    assert_eq!(stage.told(), [Told::Generation(consumer, 3), why()]);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "orders");
    // The second failure in a row: not at once.
    stage.advance(99 * MS);
    stage.silent();
    stage.advance(MS);
    stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.told(), [resumed("orders")]);
    stage.finish();
}

#[test]
fn s32_a_consumer_that_is_told_to_ends_when_it_is_refused_on_recovery() {
    let mut stage = Stage::connected(config());
    let mut orders = consume("orders");
    orders.when_cancelled = lavinmq_core::WhenCancelled::End;
    let (consumer, ..) = stage.subscribed(&orders);
    stage.cut(CON);
    stage.told();
    stage.reconnect(CON);
    let (channel, _) = stage.accept_consume(CON, &orders);
    stage.refuse(CON, channel, 404, "gone");
    let told = stage.told();
    let ended = Told::Ended(consumer, EndReason::Refused { code: 404, text: name("gone") });
    assert_eq!(told.last(), Some(&ended), "{told:?}");
    stage.advance(120 * SEC);
    stage.finish();
}

#[test]
fn s33_tags_have_128_random_bits_unless_they_are_named() {
    let mut stage = Stage::connected(config());
    let mut tags = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (_, _, tag) = stage.consuming();
        // 22 digits of 6 bits; the last one carries 2.
        let is_digit = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        assert!(tag.len() == 22 && tag.bytes().all(is_digit), "{tag}");
        assert!(tags.insert(tag));
    }
    let mut named = consume("orders");
    named.tag = Some(name("mine"));
    let (_, channel, tag) = stage.subscribed(&named);
    assert_eq!(tag, "mine");
    // A name that the user gave stays.
    stage.feed(CON, &server_cancel(channel, "mine", true));
    stage.expect_channel_close(CON);
    assert_eq!(stage.accept_consumer(CON, &named).1, "mine");
    stage.finish();
}

#[test]
fn s17_consume_ok_for_another_tag_is_a_protocol_error() {
    let mut stage = Stage::connected(config());
    let consumer = stage.open_consumer(&consume("orders"));
    let (channel, _) = stage.accept_consume(CON, &consume("orders"));
    stage.feed(CON, &consume_ok(channel, "somebody else's"));
    assert_eq!(stage.told(), []);
    assert_eq!(stage.expect_close(CON), 503);
    stage.close_ok(CON);
    stage.reconnect(CON);
    stage.accept_consumer(CON, &consume("orders"));
    assert!(stage.told().contains(&Told::Opened(consumer, Ok(()))));
    stage.finish();
}

#[test]
fn s17_cancel_ok_for_another_tag_is_a_protocol_error() {
    let mut stage = Stage::connected(config());
    let (consumer, channel, tag) = stage.consuming();
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(stage.expect_cancel(CON, channel), tag);
    stage.feed(CON, &cancel_ok(channel, "somebody else's"));
    assert_eq!(stage.expect_close(CON), 503);
    stage.close_ok(CON);
    stage.finish();
}

#[test]
fn f33_a_reply_out_of_order_is_nobodys_reply() {
    let mut stage = Stage::connected(config());
    let consumer = stage.open_consumer(&consume("orders"));
    let channel = stage.expect_channel_open(CON);
    stage.qos_ok(CON, channel);
    assert_eq!(stage.expect_close(CON), 503);
    assert_eq!(stage.told(), []);
    assert_eq!(stage.terms(consumer), [0; 7]);
    stage.close_ok(CON);
    stage.reconnect(CON);
    stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.told().last(), Some(&Told::Opened(consumer, Ok(()))));
    stage.finish();
}

#[test]
fn f33_a_reply_that_comes_after_its_deadline_is_swallowed() {
    let mut stage = Stage::connected(config());
    let (steady, ..) = stage.subscribed(&consume("steady"));
    let late = stage.open_consumer(&consume("late"));
    let (channel, tag) = stage.accept_consume(CON, &consume("late"));
    stage.advance(10 * SEC);
    assert_eq!(stage.expect_channel_close(CON), (channel, 200));
    match stage.told().last() {
        Some(Told::Opened(consumer, Err(ConsumeError::TimedOut { .. }))) => {
            assert_eq!(*consumer, late);
        }
        other => panic!("{other:?}"),
    }
    // Another one opens meanwhile, and gets neither its channel nor its reply.
    let next = stage.open_consumer(&consume("next"));
    stage.feed(CON, &consume_ok(channel, &tag));
    stage.feed(CON, &deliveries(channel, 1..=1));
    assert_eq!((stage.told(), stage.got()), (vec![], vec![]));
    let (other, _) = stage.accept_consumer(CON, &consume("next"));
    assert_ne!(other, channel);
    stage.channel_close_ok(CON, channel);
    assert_eq!(stage.told(), [Told::Opened(next, Ok(()))]);
    assert_eq!(stage.terms(steady), [0; 7]);
    stage.finish();
}

#[test]
fn f33_a_channel_whose_close_is_never_answered_takes_the_connection_down() {
    let mut stage = Stage::connected(config());
    stage.open_consumer(&consume("orders"));
    stage.accept_consume(CON, &consume("orders"));
    stage.advance(10 * SEC);
    stage.expect_channel_close(CON);
    stage.advance(10 * SEC);
    assert_eq!(stage.peers[CON].hang_ups, 1);
}

#[test]
fn s47_consumers_beyond_the_channels_get_a_typed_error_and_channel_max_is_never_exceeded() {
    let mut stage = Stage::new(config());
    let broker = Broker { tune: (3, 131_072, 0), ..Broker::default() };
    stage.accept(PUB, &broker);
    stage.accept(CON, &broker);
    let consumers: Vec<_> = (0..3).map(|_| stage.consuming()).collect();
    assert_eq!(consumers.iter().map(|(_, n, _)| *n).collect::<Vec<_>>(), [1, 2, 3]);
    let fourth = stage.open_consumer(&consume("orders"));
    assert_eq!(
        stage.told(),
        [Told::Opened(fourth, Err(ConsumeError::ChannelsExhausted { limit: 3 }))]
    );
    stage.silent();

    // A channel that is being closed is as good as free: one waits for it.
    let (first, channel, tag) = &consumers[0];
    stage.session.close_consumer(*first, stage.now);
    stage.expect_cancel(CON, *channel);
    stage.feed(CON, &cancel_ok(*channel, tag));
    assert_eq!(stage.expect_channel_close(CON), (*channel, 200));
    let fifth = stage.open_consumer(&consume("orders"));
    stage.silent();
    assert_eq!(stage.told(), [Told::HandBack(*first), Told::Ended(*first, EndReason::Closed)]);
    stage.channel_close_ok(CON, *channel);
    assert_eq!(stage.accept_consumer(CON, &consume("orders")).0, *channel);
    assert_eq!(stage.told(), [Told::Opened(fifth, Ok(()))]);
    stage.finish();
}

#[test]
fn s47_a_declaration_waits_for_a_channel() {
    let mut stage = Stage::new(config());
    let broker = Broker { tune: (1, 131_072, 0), ..Broker::default() };
    stage.accept(PUB, &broker);
    stage.accept(CON, &broker);
    let (consumer, channel, tag) = stage.consuming();
    stage.session.declare_queue(QueueConfig::new("orders").unwrap(), stage.now).unwrap();
    stage.silent();
    stage.session.close_consumer(consumer, stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.expect_channel_close(CON);
    stage.channel_close_ok(CON, channel);
    assert_eq!(stage.expect_channel_open(CON), channel);
    stage.channel_open_ok(CON, channel);
    assert_eq!(stage.expect_declare(CON).1.queue.as_str(), "orders");
    stage.finish();
}

#[test]
fn s47_on_recovery_a_consumer_waits_for_a_channel() {
    let mut stage = Stage::connected(config());
    let consumers: Vec<_> = (0..2).map(|_| stage.consuming().0).collect();
    stage.cut(CON);
    stage.told();
    stage.advance(MS);
    // The broker was given a smaller limit.
    stage.accept(CON, &Broker { tune: (1, 131_072, 0), ..Broker::default() });
    let (channel, tag) = stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.told(), [resumed("orders")]);
    stage.advance(20 * SEC);
    stage.silent();
    stage.session.close_consumer(consumers[0], stage.now);
    stage.expect_cancel(CON, channel);
    stage.feed(CON, &cancel_ok(channel, &tag));
    stage.expect_channel_close(CON);
    stage.channel_close_ok(CON, channel);
    stage.wait_for_backoff();
    stage.accept_consumer(CON, &consume("orders"));
    assert_eq!(stage.told().last(), Some(&resumed("orders")));
    stage.finish();
}

#[test]
fn s32_a_subscription_that_nobody_answers_ends_at_the_request_deadline() {
    let mut config = config();
    config.deadlines.request = 5 * SEC;
    let mut stage = Stage::with_retry(config, true);
    let consumer = stage.open_consumer(&consume("orders"));
    stage.advance(5 * SEC);
    match &stage.told()[..] {
        [Told::Opened(told, Err(ConsumeError::TimedOut { after, queue, .. }))] => {
            assert_eq!((*told, *after, &**queue), (consumer, 5 * SEC, "orders"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.session.consumer_stats(consumer), None);
}

#[test]
fn s38_a_consumer_follows_a_server_named_queue_to_its_new_name_and_others_stay() {
    let mut stage = Stage::connected(config());
    stage.declare_now(QueueConfig::new("").unwrap(), "amq.gen-1");
    stage.subscribed(&consume("amq.gen-1"));
    stage.subscribed(&consume("other"));
    stage.cut(CON);
    stage.reconnect(CON);
    let control = stage.expect_channel_open(CON);
    let other = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    assert!(stage.expect_declare(CON).1.passive);
    stage.close_channel(CON, control, 404, "NOT_FOUND", (50, 10));
    stage.expect_channel_close_ok(CON, control);
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "amq.gen-2");
    stage.accept_consumer(CON, &consume("amq.gen-2"));
    stage.channel_open_ok(CON, other);
    stage.expect_qos(CON, other);
    stage.qos_ok(CON, other);
    assert_eq!(stage.expect_consume(CON, other).queue.as_str(), "other");
    stage.finish();
}
