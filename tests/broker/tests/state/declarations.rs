//! Declaring again, bindings, arguments and their refusals, word for word; what expires when.

use std::time::Duration;

use amq_protocol::{
    protocol::{AMQPClass, basic, channel, exchange, queue},
    types::{AMQPValue, FieldTable},
};
use lavinmq_core::message::Properties;

use super::common::*;

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// The close's code and text.
fn words(method: &AMQPClass) -> (u16, String) {
    match method {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            (close.reply_code, close.reply_text.to_string())
        }
        other => panic!("no close of a channel: {other:?}"),
    }
}

/// What is answered to a declare, on a channel of its own.
fn refused(world: &mut World, declare: queue::Declare) -> (u16, String) {
    let id = world.client();
    words(&world.call(id, 1, queue(queue::AMQPMethod::Declare(declare))))
}

fn declare_exchange(name: &str, kind: &str, passive: bool) -> AMQPClass {
    exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive,
        ..Default::default()
    }))
}

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        table.insert((*name).into(), value.clone());
    }
    table
}

fn bind(name: &str, to: &str, arguments: &[(&str, AMQPValue)]) -> AMQPClass {
    queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: name.into(),
        exchange: to.into(),
        arguments: table(arguments),
        ..Default::default()
    }))
}

fn unbind(name: &str, from: &str) -> AMQPClass {
    queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: name.into(),
        exchange: from.into(),
        ..Default::default()
    }))
}

#[test]
fn rabbitmq_shows_that_a_text_was_cut() {
    let mut world = rabbit();
    let id = world.client();
    let long = "q".repeat(240);
    let passive = queue::Declare { passive: true, ..durable(&long) };
    let answer = world.call(id, 1, queue(queue::AMQPMethod::Declare(passive)));
    let (code, text) = words(&answer);
    assert_eq!((code, text.len()), (404, 255));
    assert!(text.starts_with("NOT_FOUND - no queue 'qqq") && text.ends_with("q..."), "{text}");
}

#[test]
fn s39_whose_a_queue_is_comes_before_how_it_is() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    let exclusive = queue::Declare { exclusive: true, durable: false, ..durable("q") };
    assert_eq!(refused(&mut world, exclusive).0, 405);
    let transient = queue::Declare { durable: false, ..durable("q") };
    let inequivalent = "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': \
                        received 'false' but current is 'true'";
    assert_eq!(refused(&mut world, transient), (406, inequivalent.to_owned()));
}

#[test]
fn rabbitmq_compares_the_arguments_that_it_knows_in_its_order() {
    let mut world = rabbit();
    let id = world.client();
    let number = AMQPValue::LongInt;
    world.declare(
        id,
        with_arguments(
            "q",
            &[("x-max-length", number(5)), ("x-message-ttl", number(9)), ("x-else", number(1))],
        ),
    );
    let wider = [("x-max-length", AMQPValue::LongLongInt(5)), ("x-message-ttl", number(9))];
    world.declare(id, with_arguments("q", &wider));
    let of = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': ";
    let none = format!("{of}received none but current is the value '9' of type 'signedint'");
    assert_eq!(refused(&mut world, durable("q")), (406, none));
    let other = [("x-message-ttl", number(8))];
    let eight = format!("{of}received '8' but current is '9'");
    assert_eq!(refused(&mut world, with_arguments("q", &other)), (406, eight));
    // Without it, a queue is a classic one.
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    world.declare(id, with_arguments("q", &[("x-queue-type", text("classic"))]));
    let quorum = with_arguments("q", &[("x-queue-type", text("quorum"))]);
    assert_eq!(refused(&mut world, quorum).0, 406);
}

#[test]
fn rabbitmq_refuses_arguments_that_make_no_sense() {
    let number = AMQPValue::LongInt;
    for (arguments, why) in [
        (vec![("x-expires", number(0))], "'x-expires' for queue 'q' in vhost '/': {value_zero,0}"),
        (
            vec![("x-message-ttl", AMQPValue::LongLongInt(1 << 40))],
            "'x-message-ttl' for queue 'q' in vhost '/': {value_too_large,1099511627776}",
        ),
        (
            vec![("x-max-length-bytes", number(-1))],
            "'x-max-length-bytes' for queue 'q' in vhost '/': {value_negative,-1}",
        ),
        (
            vec![("x-max-priority", number(256))],
            "'x-max-priority' for queue 'q' in vhost '/': {max_value_exceeded,256}",
        ),
        (
            vec![("x-overflow", number(1))],
            "'x-overflow' for queue 'q' in vhost '/': {unacceptable_type,signedint}",
        ),
        (
            vec![("x-dead-letter-routing-key", text("k"))],
            "'x-dead-letter-routing-key' for queue 'q' in vhost '/': routing_key_but_no_dlx_defined",
        ),
        (
            vec![("x-max-length", number(-1)), ("x-expires", number(-1))],
            "'x-expires' for queue 'q' in vhost '/': {value_negative,-1}",
        ),
    ] {
        let mut world = rabbit();
        let expected = format!("PRECONDITION_FAILED - invalid arg {why}");
        assert_eq!(refused(&mut world, with_arguments("q", &arguments)), (406, expected));
        assert!(!world.state.has_queue("q"));
    }
    let dead = with_arguments("q", &[("x-dead-letter-exchange", number(5))]);
    let expected = "PRECONDITION_FAILED - invalid type 'signedint' for arg \
                    'x-dead-letter-exchange' in queue 'q' in vhost '/'";
    assert_eq!(refused(&mut rabbit(), dead), (406, expected.to_owned()));
}

#[test]
fn what_is_not_bound_can_be_unbound() {
    for mut world in [rabbit(), lavin()] {
        let (id, other) = (world.client(), world.client());
        let ok = queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {}));
        assert_eq!(world.call(id, 1, unbind("none", "amq.direct")), ok);
        let mine = queue::Declare { exclusive: true, ..durable("mine") };
        world.declare(id, mine);
        assert_eq!(world.call(id, 1, unbind("mine", "none")), ok);
        world.call(id, 1, bind("mine", "amq.direct", &[]));
        assert_eq!(words(&world.call(other, 1, unbind("mine", "amq.direct"))).0, 405);
        let between = exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
            source: "none".into(),
            destination: "none".into(),
            ..Default::default()
        }));
        let ok = exchange(exchange::AMQPMethod::UnbindOk(exchange::UnbindOk {}));
        assert_eq!(world.call(id, 1, between), ok);
        assert_eq!(words(&world.call(id, 1, unbind("mine", ""))).0, 403);
    }
}

#[test]
fn the_default_exchange_cannot_be_declared_not_even_passively() {
    for mut world in [rabbit(), lavin()] {
        let id = world.client();
        assert_eq!(words(&world.call(id, 1, declare_exchange("", "direct", true))).0, 403);
    }
}

#[test]
fn a_headers_exchange_looks_at_headers() {
    for mut world in [rabbit(), lavin()] {
        let id = world.client();
        world.call(id, 1, declare_exchange("x", "headers", false));
        let red = ("color", text("red"));
        let size = ("size", AMQPValue::LongInt(5));
        let how = |how: &str| ("x-match", text(how));
        for (name, arguments) in [
            ("all", vec![red.clone(), size.clone()]),
            ("any", vec![how("any"), red.clone(), size.clone()]),
            ("there", vec![("color", AMQPValue::Void), ("x-note", text("ignored"))]),
            ("x", vec![how("all-with-x"), ("x-note", text("seen"))]),
        ] {
            world.declare(id, durable(name));
            world.call(id, 1, bind(name, "x", &arguments));
        }
        let wide = ("size", AMQPValue::LongLongInt(5));
        for (body, headers) in [
            ("1", vec![red.clone(), wide]),
            ("2", vec![red.clone()]),
            ("3", vec![size.clone(), ("color", text("blue"))]),
            ("4", vec![("x-note", text("seen"))]),
            ("5", vec![]),
        ] {
            let properties = Properties::default().with_headers(table(&headers));
            let bytes = publish(1, "x", "ignored", false, body.as_bytes(), &properties);
            world.receive(id, &bytes);
        }
        assert_eq!(world.bodies("all"), ["1"]);
        assert_eq!(world.bodies("any"), ["1", "2", "3"]);
        assert_eq!(world.bodies("there"), ["1", "2", "3"]);
        assert_eq!(world.bodies("x"), ["4"]);
    }
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    let answer = world.call(id, 1, bind("q", "amq.match", &[("x-match", text("some"))]));
    let expected = "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, \
                    any, all-with-x, or any-with-x";
    assert_eq!(words(&answer), (406, expected.to_owned()));
}

#[test]
fn an_expiration_that_is_none_is_refused_with_the_reason() {
    for (expiration, why) in [
        ("soon", "no_integer"),
        ("-1", "{value_negative,-1}"),
        ("20ms", "{leftover_string,\"ms\"}"),
        ("9000000000000", "{value_too_large,9000000000000}"),
        ("99999999999999999999", "{value_too_large,99999999999999999999}"),
        ("", "no_integer"),
    ] {
        let mut world = rabbit();
        let id = world.client();
        let properties = Properties::default().with_expiration(expiration.into());
        world.receive(id, &publish(1, "", "q", false, b"x", &properties));
        let expected = format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {why}");
        assert_eq!(words(&world.one(id)), (406, expected));
    }
}

#[test]
fn a_time_to_live_of_0_lets_a_waiting_consumer_have_it() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    let now = Properties::default().with_expiration("0".into());
    world.receive(id, &publish(1, "", "q", false, b"nobody", &now));
    world.pass(Duration::ZERO);
    assert_eq!(world.bodies("q"), [""; 0]);
    world.consume(id, "q", "c");
    world.receive(id, &publish(1, "", "q", false, b"somebody", &now));
    assert_eq!(deliveries(&world.got(id)), [("c".to_owned(), 1, false)]);
}

#[test]
fn what_expired_behind_a_message_is_gone_when_that_is_taken() {
    let mut world = rabbit();
    let id = world.client();
    world.declare(id, durable("q"));
    world.publish(id, "", "q", b"stays");
    let soon = Properties::default().with_expiration("1".into());
    world.receive(id, &publish(1, "", "q", false, b"goes", &soon));
    world.pass(Duration::from_millis(10));
    assert_eq!(world.bodies("q"), ["stays", "goes"], "only the head expires");
    let get = basic::Get { queue: "q".into(), no_ack: true };
    world.send(id, 1, basic(basic::AMQPMethod::Get(get)));
    let got = world.got(id);
    let Some(Got::Method(_, AMQPClass::Basic(basic::AMQPMethod::GetOk(ok)))) = got.first() else {
        panic!("{got:?}")
    };
    assert_eq!(ok.message_count, 0);
}
