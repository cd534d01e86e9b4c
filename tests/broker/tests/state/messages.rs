//! Publishing, confirms, queues and their limits, deliveries and settlements, restarts.

use std::time::Duration;

use amq_protocol::{
    protocol::{AMQPClass, basic, exchange, queue},
    types::AMQPValue,
};
use lavinmq_core::message::{Message, Properties};

use super::common::*;

const MS: Duration = Duration::from_millis(1);

fn ack(tag: u64, multiple: bool) -> AMQPClass {
    basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple }))
}

fn nack(tag: u64, multiple: bool, requeue: bool) -> AMQPClass {
    basic(basic::AMQPMethod::Nack(basic::Nack { delivery_tag: tag, multiple, requeue }))
}

/// `n` publishes in one read.
fn many(key: &str, n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|i| publish(1, "", key, false, i.to_string().as_bytes(), &persistent()))
        .collect()
}

#[test]
fn s19_rabbitmq_coalesces_confirms_and_lavinmq_always_does() {
    for (mut world, one) in [(rabbit(), false), (lavin(), true)] {
        let id = world.client();
        world.declare(id, durable("q"));
        world.confirms(id);
        world.publish(id, "", "q", b"x");
        assert_eq!(confirms(&world.got(id)), [(true, 1, one)]);
        world.receive(id, &many("q", 5));
        assert_eq!(confirms(&world.got(id)), [(true, 6, true)]);
    }
}

#[test]
fn s23_nacks_cut_an_ack_in_two_on_rabbitmq_and_go_first_on_lavinmq() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    let limit = [
        ("x-max-length", AMQPValue::LongInt(0)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    world.declare(id, with_arguments("full", &limit));
    world.confirms(id);
    world.receive(id, &[many("q", 2), many("full", 1), many("q", 2)].concat());
    // The acks below the nack together, those above it singly.
    let expected = [(false, 3, false), (true, 2, true), (true, 4, false), (true, 5, false)];
    assert_eq!(confirms(&world.got(id)), expected);

    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.confirms(id);
    world.state.nack_next(3);
    world.receive(id, &many("q", 5));
    let expected = [(false, 1, false), (false, 2, false), (false, 3, false), (true, 5, true)];
    assert_eq!(confirms(&world.got(id)), expected);
    assert_eq!(world.bodies("q"), ["3", "4"], "what is nacked is not kept");
}

#[test]
fn held_confirms_come_when_released() {
    for mut world in [rabbit(), lavin()] {
        let id = world.client();
        world.declare(id, durable("q"));
        world.confirms(id);
        world.state.hold_confirms();
        world.receive(id, &many("q", 3));
        world.receive(id, &many("q", 3));
        assert_eq!(confirms(&world.got(id)), []);
        assert_eq!(world.state.queue_depth("q"), 6);
        world.state.release_confirms(world.now);
        assert_eq!(confirms(&world.got(id)), [(true, 6, true)]);
    }
}

#[test]
fn f18_reordered_confirms_come_singly_out_of_order_and_all_of_them() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    world.confirms(id);
    world.state.reorder_confirms(true);
    let mut tags = Vec::new();
    let mut unsorted = 0;
    for _ in 0..10 {
        world.receive(id, &many("q", 10));
        let now = confirms(&world.got(id));
        unsorted += u32::from(!now.is_sorted_by_key(|(_, tag, _)| *tag));
        tags.extend(now);
    }
    assert!(unsorted > 5, "within one read, too");
    assert!(tags.len() < 100, "and some come later");
    while let Some(due) = world.state.next_deadline() {
        world.pass(due - world.now);
        tags.extend(confirms(&world.got(id)));
    }
    assert!(tags.iter().all(|(ack, _, multiple)| *ack && !multiple));
    tags.sort_by_key(|(_, tag, _)| *tag);
    assert!(tags.iter().map(|(_, tag, _)| *tag).eq(1..=100), "{tags:?}");
}

#[test]
fn s20_a_return_comes_before_its_confirm() {
    for (mut world, ack_kind) in [(rabbit(), false), (lavin(), true)] {
        let id = world.client();
        world.confirms(id);
        world.receive(id, &publish(1, "", "nobody", true, b"body", &persistent()));
        let got = world.got(id);
        let Got::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(returned))) = &got[0] else {
            panic!("{got:?}")
        };
        assert_eq!((returned.reply_code, returned.routing_key.as_str()), (312, "nobody"));
        let rest = [
            Got::Header(1, 4),
            Got::Body(1, b"body".to_vec()),
            Got::Ack { channel: 1, tag: 1, multiple: ack_kind },
        ];
        assert_eq!(got[1..], rest);
    }
}

#[test]
fn s20_lavinmq_returns_what_a_full_queue_refused_and_then_nacks_it() {
    for (mut world, returns) in [(rabbit(), 0), (lavin(), 1)] {
        let id = world.client();
        let limit = [
            ("x-max-length", AMQPValue::LongInt(1)),
            ("x-overflow", AMQPValue::LongString("reject-publish".into())),
        ];
        world.declare(id, with_arguments("q", &limit));
        world.confirms(id);
        world.publish(id, "", "q", b"1");
        world.got(id);
        world.receive(id, &publish(1, "", "q", true, b"2", &persistent()));
        let got = world.got(id);
        let is_return = |got: &&Got| matches!(got, Got::Method(_, AMQPClass::Basic(_)));
        assert_eq!(got.iter().filter(is_return).count(), returns);
        // RabbitMQ's nacks are cumulative where they can be, even a single one.
        let multiple = returns == 0;
        assert_eq!(got.last(), Some(&Got::Nack { channel: 1, tag: 2, multiple }));
        assert_eq!(world.state.counters().refused, 1);
    }
}

#[test]
fn s25_a_publish_to_no_exchange_closes_its_channel_and_its_neighbours_are_confirmed() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    world.confirms(id);
    let bad = publish(1, "none", "", false, b"", &persistent());
    world.receive(id, &[many("q", 2), bad, many("q", 2)].concat());
    let got = world.got(id);
    assert_eq!(confirms(&got), [(true, 2, true)]);
    let Some(Got::Method(1, close)) = got.last() else { panic!() };
    assert_eq!(closed(close), ("channel", 404, (60, 40)));
    assert_eq!(world.state.queue_depth("q"), 2, "what came after it is discarded");
}

#[test]
fn a_full_queue_drops_its_head_but_not_what_a_consumer_waits_for() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, with_arguments("q", &[("x-max-length", AMQPValue::LongInt(2))]));
    world.receive(id, &many("q", 5));
    assert_eq!(world.bodies("q"), ["3", "4"]);
    assert_eq!(world.state.counters().dropped, 3);
    world.state.purge("q");
    world.consume(id, "q", "c");
    world.got(id);
    world.receive(id, &many("q", 5));
    assert_eq!(deliveries(&world.got(id)).len(), 5);
    assert_eq!(world.state.counters().dropped, 3);
}

#[test]
fn messages_expire_by_the_shorter_of_the_queues_and_their_own_time() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, with_arguments("ttl", &[("x-message-ttl", AMQPValue::LongInt(100))]));
    world.declare(id, durable("q"));
    let own = Properties::default().with_expiration("50".into());
    world.receive(id, &publish(1, "", "ttl", false, b"own", &own));
    world.receive(id, &publish(1, "", "q", false, b"own", &own));
    world.publish(id, "", "ttl", b"the queue's");
    world.publish(id, "", "q", b"none");
    assert_eq!(world.state.next_deadline(), Some(world.now + 50 * MS));
    world.pass(49 * MS);
    assert_eq!(world.state.counters().expired, 0);
    world.pass(MS);
    assert_eq!(world.bodies("ttl"), ["the queue's"]);
    assert_eq!(world.bodies("q"), ["none"]);
    world.pass(50 * MS);
    assert!(world.bodies("ttl").is_empty());
    assert_eq!(world.state.counters().expired, 3);
    assert_eq!(world.state.next_deadline(), None);
}

#[test]
fn s30_prefetch_is_that_of_the_qos_before_the_consume() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 10));
    world.send(id, 1, qos(2));
    world.consume(id, "q", "two");
    world.send(id, 1, qos(3));
    world.consume(id, "q", "three");
    let got = deliveries(&world.got(id));
    let count = |of: &str| got.iter().filter(|(consumer, ..)| consumer == of).count();
    assert_eq!((count("two"), count("three")), (2, 3));
    let log: Vec<&str> = world.state.log(id).iter().map(|entry| entry.method).collect();
    assert_eq!(log[log.len() - 4..], ["basic.qos", "basic.consume", "basic.qos", "basic.consume"]);
    // An ack makes room for its own consumer.
    world.send(id, 1, ack(1, false));
    assert_eq!(deliveries(&world.got(id)), [("two".into(), 6, false)]);
}

#[test]
fn a_prefetch_for_the_whole_channel() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 10));
    let global = basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 3, global: true });
    world.send(id, 1, basic(global));
    world.consume(id, "q", "a");
    world.consume(id, "q", "b");
    assert_eq!(deliveries(&world.got(id)).len(), 3);
    world.send(id, 1, ack(2, true));
    assert_eq!(deliveries(&world.got(id)).len(), 2);
}

#[test]
fn consumers_take_turns() {
    let mut world = lavin();
    let (one, two) = (world.client(), world.client());
    world.declare(one, durable("q"));
    world.consume(one, "q", "a");
    world.consume(two, "q", "b");
    world.got(one);
    world.got(two);
    world.receive(one, &many("q", 10));
    assert_eq!((deliveries(&world.got(one)).len(), deliveries(&world.got(two)).len()), (5, 5));
}

#[test]
fn settlements_single_and_multiple() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 8));
    world.send(id, 1, qos(8));
    world.consume(id, "q", "c");
    world.got(id);
    assert_eq!(world.state.unacked("q"), 8);
    world.send(id, 1, ack(2, false));
    world.send(id, 1, ack(4, true));
    assert_eq!(world.state.unacked("q"), 4);
    world.send(id, 1, nack(5, false, false));
    world.send(id, 1, nack(0, true, false));
    assert_eq!(world.state.unacked("q"), 0);
    let counters = world.state.counters();
    assert_eq!((counters.acked, counters.rejected, counters.requeued), (4, 4, 0));
    assert!(world.bodies("q").is_empty());
}

#[test]
fn an_unknown_delivery_tag_is_a_406() {
    for tag in [0, 2, 9] {
        let mut world = lavin();
        let id = world.client();
        world.declare(id, durable("q"));
        world.receive(id, &many("q", 1));
        world.consume(id, "q", "c");
        world.got(id);
        let close = world.call(id, 1, ack(tag, false));
        assert_eq!(closed(&close), ("channel", 406, (60, 80)));
        assert!(format!("{close:?}").contains(&format!("unknown delivery tag {tag}")));
        assert_eq!(world.state.queue_depth("q"), 1, "what it held went back");
    }
}

#[test]
fn requeued_messages_go_back_to_their_place_and_say_that_they_were_delivered() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 6));
    world.send(id, 1, qos(4));
    world.consume(id, "q", "c");
    world.got(id);
    let cancel = basic::Cancel { consumer_tag: "c".into(), nowait: true };
    world.send(id, 1, basic(basic::AMQPMethod::Cancel(cancel)));
    world.send(id, 1, ack(2, false));
    world.send(id, 1, nack(1, false, true));
    world.send(id, 1, nack(3, false, true));
    let seen = |world: &World| -> Vec<(String, bool, bool)> {
        let messages = world.state.messages("q").into_iter();
        messages
            .map(|m| (String::from_utf8(m.body.to_vec()).unwrap(), m.redelivered, m.unacked))
            .collect()
    };
    let expected = |list: &[(&str, bool, bool)]| -> Vec<(String, bool, bool)> {
        list.iter().map(|(body, again, out)| ((*body).to_owned(), *again, *out)).collect()
    };
    assert_eq!(
        seen(&world),
        expected(&[
            ("0", true, false),
            ("2", true, false),
            ("3", false, true),
            ("4", false, false),
            ("5", false, false)
        ])
    );
    // A connection that goes gives back what it held.
    world.state.disconnect(id, world.now);
    assert_eq!(world.state.unacked("q"), 0);
    assert!(seen(&world)[..3].iter().all(|(_, again, out)| *again && !out));
    let other = world.client();
    world.consume(other, "q", "c");
    let got = world.got(other);
    let bodies = got.iter().filter_map(|got| match got {
        Got::Body(_, body) => Some(&body[..]),
        _ => None,
    });
    assert!(bodies.eq(["0", "2", "3", "4", "5"].map(str::as_bytes)), "{got:?}");
}

#[test]
fn get_counts_what_is_left_and_awaits_its_ack() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 2));
    let get = |no_ack| basic(basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack }));
    world.send(id, 1, get(false));
    let got = world.got(id);
    let Got::Method(1, AMQPClass::Basic(basic::AMQPMethod::GetOk(ok))) = &got[0] else { panic!() };
    assert_eq!((ok.delivery_tag, ok.message_count), (1, 1));
    world.send(id, 1, get(true));
    world.got(id);
    assert_eq!(world.bodies("q"), ["0"], "the one that awaits its ack");
    let empty = basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {}));
    assert_eq!(world.call(id, 1, get(true)), empty);
    world.send(id, 1, ack(1, false));
    assert!(world.bodies("q").is_empty());
}

#[test]
fn s46_recover_delivers_again() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 2));
    world.send(id, 1, qos(2));
    world.consume(id, "q", "c");
    world.got(id);
    world.send(id, 1, basic(basic::AMQPMethod::Recover(basic::Recover { requeue: true })));
    let again = deliveries(&world.got(id));
    assert_eq!(again, [("c".into(), 3, true), ("c".into(), 4, true)]);
    assert_eq!(closed(&world.call(id, 1, ack(1, false))).1, 406, "the old tags are void");
}

#[test]
fn s31_a_deleted_queue_cancels_those_who_want_to_know() {
    let mut world = lavin();
    let (knows, ignores) =
        (world.client(), world.open_with(start_ok("guest", "guest", &[]), (0, 0, 0)));
    world.channel(ignores, 1);
    world.declare(knows, durable("q"));
    world.consume(knows, "q", "c");
    world.consume(ignores, "q", "d");
    world.got(knows);
    world.got(ignores);
    world.state.delete_queue("q", world.now);
    let cancel = basic::Cancel { consumer_tag: "c".into(), nowait: true };
    assert_eq!(world.one(knows), basic(basic::AMQPMethod::Cancel(cancel)));
    assert_eq!(world.got(ignores), []);
}

#[test]
fn s33_a_consumer_tag_used_twice_is_a_530_on_rabbitmq_only() {
    for (mut world, refuses) in [(rabbit(), true), (lavin(), false)] {
        let id = world.client();
        world.declare(id, durable("q"));
        world.consume(id, "q", "c");
        world.got(id);
        let answer = world.call(id, 1, consume("q", "c"));
        match refuses {
            true => assert_eq!(closed(&answer), ("connection", 530, (60, 20))),
            false => assert!(matches!(answer, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)))),
        }
    }
}

#[test]
fn what_else_differs_between_the_brokers() {
    let unknown = exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "x".into(),
        kind: "nonsense".into(),
        ..Default::default()
    }));
    let (mut rabbit, mut lavin) = (rabbit(), lavin());
    let id = rabbit.client();
    assert_eq!(closed(&rabbit.call(id, 1, unknown.clone())), ("connection", 503, (40, 10)));
    let id = lavin.client();
    assert_eq!(closed(&lavin.call(id, 1, unknown)), ("channel", 406, (40, 10)));

    let immediate = basic(basic::AMQPMethod::Publish(basic::Publish {
        routing_key: "q".into(),
        immediate: true,
        ..Default::default()
    }));
    let mut header = Vec::new();
    lavinmq_core::wire::put_content_header(&mut header, 1, 0, &Properties::default());
    let id = rabbit.client();
    rabbit.send(id, 1, immediate.clone());
    rabbit.receive(id, &header);
    assert_eq!(closed(&rabbit.one(id)), ("connection", 540, (60, 40)));
    let id = lavin.client();
    lavin.declare(id, durable("q"));
    lavin.send(id, 1, immediate);
    lavin.receive(id, &header);
    assert_eq!(lavin.state.queue_depth("q"), 1);
}

#[test]
fn s39_an_exclusive_queue_is_locked_and_goes_with_its_connection() {
    let mut world = lavin();
    let (owner, other) = (world.client(), world.client());
    let mine = queue::Declare { queue: "mine".into(), exclusive: true, ..Default::default() };
    world.declare(owner, mine.clone());
    let answer = world.call(other, 1, queue(queue::AMQPMethod::Declare(mine)));
    assert_eq!(closed(&answer), ("channel", 405, (50, 10)));
    world.state.disconnect(owner, world.now);
    assert!(!world.state.has_queue("mine"));
}

#[test]
fn s40_an_auto_delete_queue_goes_with_its_last_consumer_and_its_exchange_with_its_last_binding() {
    let mut world = lavin();
    let id = world.client();
    let auto = queue::Declare { queue: "auto".into(), auto_delete: true, ..Default::default() };
    world.declare(id, auto);
    world.send(
        id,
        1,
        exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: "x".into(),
            kind: "fanout".into(),
            auto_delete: true,
            ..Default::default()
        })),
    );
    world.send(
        id,
        1,
        queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: "auto".into(),
            exchange: "x".into(),
            ..Default::default()
        })),
    );
    world.consume(id, "auto", "a");
    world.consume(id, "auto", "b");
    world.got(id);
    let cancel = |tag: &str| {
        basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: tag.into(), nowait: true }))
    };
    world.send(id, 1, cancel("a"));
    assert!(world.state.has_queue("auto"));
    world.send(id, 1, cancel("b"));
    assert!(!world.state.has_queue("auto"));
    world.publish(id, "x", "", b"");
    assert_eq!(closed(&world.one(id)).1, 404, "the exchange went, too");
}

#[test]
fn s38_server_named_queues_have_names_of_their_own() {
    let mut world = lavin();
    let id = world.client();
    let unnamed = || queue::Declare { exclusive: true, ..Default::default() };
    let one = world.declare(id, unnamed()).queue;
    let two = world.declare(id, unnamed()).queue;
    assert!(one.as_str().starts_with("amq.gen-") && two.as_str().starts_with("amq.gen-"));
    assert_ne!(one, two);
}

#[test]
fn f19_a_restart_keeps_what_is_durable_and_persistent() {
    for (mut world, again) in [(rabbit(), true), (lavin(), false)] {
        let id = world.client();
        world.declare(id, durable("kept"));
        world.declare(id, queue::Declare { queue: "lost".into(), ..Default::default() });
        world.receive(id, &many("kept", 2));
        world.receive(id, &publish(1, "", "kept", false, b"transient", &Properties::default()));
        world.send(id, 1, qos(1));
        world.consume(id, "kept", "c");
        world.got(id);
        world.state.restart(world.now);
        assert_eq!(closed(&world.one(id)).1, 320);
        assert!(!world.state.has_queue("lost"));
        let messages = world.state.messages("kept");
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[0].redelivered, again);
        assert!(!messages[0].unacked && !messages[1].redelivered);
    }
}

#[test]
fn f19_a_crash_says_nothing() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    world.confirms(id);
    world.state.hold_confirms();
    world.receive(id, &many("q", 3));
    world.state.crash(world.now);
    assert_eq!(world.got(id), []);
    assert_eq!(world.ending(id), Some(lavinmq_testing::Ending::Reset));
    assert_eq!(world.bodies("q"), ["0", "1", "2"], "the confirms were lost, the messages not");
}

#[test]
fn messages_can_be_put_by_hand() {
    let mut world = lavin();
    world.state.declare_queue("q");
    let message = Message::new("body").persistent(true).correlation_id("7");
    assert!(world.state.put("q", &message, world.now));
    assert!(!world.state.put("nowhere", &message, world.now));
    let stored = &world.state.messages("q")[0];
    assert_eq!(stored.body, "body");
    assert_eq!(stored.properties.correlation_id().as_ref().unwrap().as_str(), "7");
}

#[test]
fn s24_flow_is_sent_when_asked_for_and_obeyed_when_lavinmq_is_told() {
    let mut world = lavin();
    let id = world.client();
    world.state.flow(id, 1, false, world.now);
    assert!(format!("{:?}", world.one(id)).contains("Flow { active: false }"));
    let flow = |active| {
        let flow = amq_protocol::protocol::channel::Flow { active };
        AMQPClass::Channel(amq_protocol::protocol::channel::AMQPMethod::Flow(flow))
    };
    world.declare(id, durable("q"));
    world.consume(id, "q", "c");
    world.send(id, 1, flow(false));
    world.got(id);
    world.receive(id, &many("q", 2));
    assert_eq!(world.got(id), []);
    world.send(id, 1, flow(true));
    assert_eq!(deliveries(&world.got(id)).len(), 2);
}

#[test]
fn the_log_counts_publishes_in_a_row() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.receive(id, &many("q", 1000));
    let log = world.state.log(id);
    let last = log.last().unwrap();
    assert_eq!((last.method, last.count), ("basic.publish", 1000));
    world.state.disconnect(id, world.now);
    assert_eq!(world.state.log(id), log, "it outlives the connection");
}

#[test]
fn f33_replies_can_come_late_out_of_order_or_never() {
    let mut world = lavin();
    let id = world.client();
    world.state.hold_replies();
    let declare = |name| queue(queue::AMQPMethod::Declare(durable(name)));
    for name in ["a", "b", "c", "d", "e", "f"] {
        world.send(id, 1, declare(name));
    }
    assert_eq!(world.got(id), []);
    assert!(world.state.has_queue("f"), "they were obeyed");
    world.state.release_replies(true, world.now);
    let mut names: Vec<String> = world
        .got(id)
        .iter()
        .map(|got| match got {
            Got::Method(1, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) => {
                ok.queue.as_str().to_owned()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(!names.is_sorted(), "{names:?}");
    names.sort();
    assert_eq!(names.concat(), "abcdef");
    world.state.hold_replies();
    world.send(id, 1, declare("g"));
    world.state.drop_replies();
    assert!(matches!(world.call(id, 1, declare("h")), AMQPClass::Queue(_)));
}
