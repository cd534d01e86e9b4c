//! Opening, closing and watching connections and channels.

use std::time::Duration;

use super::common::*;
use amq_protocol::protocol::{AMQPClass, channel, connection, queue};
use lavinmq_core::wire;
use lavinmq_testing::{Ending, Personality, Settings};

fn tune_ok(channel_max: u16, frame_max: u32) -> AMQPClass {
    conn(connection::AMQPMethod::TuneOk(connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat: 0,
    }))
}

#[test]
fn start_says_which_broker_it_is_and_tune_what_it_offers() {
    for (mut world, product, tune) in
        [(rabbit(), "RabbitMQ", (2047, 131_072, 60)), (lavin(), "LavinMQ", (2048, 131_072, 300))]
    {
        let id = world.state.connect(world.now);
        world.receive(id, &wire::PROTOCOL_HEADER);
        let AMQPClass::Connection(connection::AMQPMethod::Start(start)) = world.one(id) else {
            panic!()
        };
        let said = start.server_properties.inner().get("product").unwrap().clone();
        assert_eq!(said.as_long_string().unwrap().as_bytes(), product.as_bytes());
        let AMQPClass::Connection(connection::AMQPMethod::Tune(offer)) =
            world.call(id, 0, start_ok("guest", "guest", ALL))
        else {
            panic!()
        };
        assert_eq!((offer.channel_max, offer.frame_max, offer.heartbeat), tune);
    }
}

#[test]
fn s01_a_wrong_protocol_header_is_answered_with_ours() {
    for (mut world, ending) in [(rabbit(), Ending::Reset), (lavin(), Ending::Eof)] {
        let id = world.state.connect(world.now);
        world.receive(id, b"AMQP\x01\x01\x00\x0a");
        assert_eq!(world.ending(id), None, "before the answer is written");
        assert_eq!(world.state.poll_changed(), Some(id));
        assert_eq!(world.state.poll_changed(), None);
        assert_eq!(world.got(id), [Got::ProtocolHeader]);
        assert_eq!(world.ending(id), Some(ending));
        assert_eq!(world.state.poll_changed(), Some(id), "now it can be ended");
    }
}

#[test]
fn every_byte_may_come_alone() {
    let mut world = lavin();
    let id = world.state.connect(world.now);
    let mut bytes = wire::PROTOCOL_HEADER.to_vec();
    wire::put_method(&mut bytes, 0, &start_ok("guest", "guest", ALL)).unwrap();
    wire::put_method(&mut bytes, 0, &tune_ok(2048, 131_072)).unwrap();
    wire::put_method(&mut bytes, 0, &open("/")).unwrap();
    for byte in bytes {
        world.receive(id, &[byte]);
    }
    assert_eq!(world.got(id).len(), 3, "start, tune, open-ok");
}

#[test]
fn s03_a_wrong_password_is_a_403_for_those_who_can_take_it_and_else_an_end() {
    for (mut world, after, ending) in [(rabbit(), 3, Ending::Reset), (lavin(), 0, Ending::Eof)] {
        let id = world.state.connect(world.now);
        world.receive(id, &wire::PROTOCOL_HEADER);
        world.got(id);
        assert_eq!(closed(&world.call(id, 0, start_ok("guest", "wrong", ALL))).1, 403);

        let id = world.state.connect(world.now);
        world.receive(id, &wire::PROTOCOL_HEADER);
        world.got(id);
        world.send(id, 0, start_ok("guest", "wrong", &[]));
        assert_eq!(world.got(id), []);
        if after > 0 {
            assert_eq!(world.ending(id), None);
            assert_eq!(world.state.next_deadline(), Some(world.now + Duration::from_secs(after)));
            world.pass(Duration::from_secs(after));
        }
        assert_eq!(world.ending(id), Some(ending));
    }
}

#[test]
fn s02_mistakes_before_tune_are_not_worth_an_answer() {
    let AMQPClass::Connection(connection::AMQPMethod::StartOk(proper)) =
        start_ok("guest", "guest", ALL)
    else {
        panic!()
    };
    let nonsense = connection::StartOk { mechanism: "NONSENSE".into(), ..proper.clone() };
    let large =
        connection::StartOk { locale: "x".into(), response: "x".repeat(4096).into(), ..proper };
    for start_ok in [nonsense, large] {
        for (mut world, after, ending) in [(rabbit(), 3, Ending::Reset), (lavin(), 0, Ending::Eof)]
        {
            let id = world.state.connect(world.now);
            world.receive(id, &wire::PROTOCOL_HEADER);
            world.got(id);
            world.send(id, 0, conn(connection::AMQPMethod::StartOk(start_ok.clone())));
            assert_eq!(world.got(id), []);
            world.pass(Duration::from_secs(after));
            assert_eq!(world.ending(id), Some(ending));
        }
    }
}

#[test]
fn s04_a_tune_ok_of_0_or_above_the_offer_is_refused() {
    for answer in [
        tune_ok(0, 131_072),
        tune_ok(2047, 0),
        tune_ok(2047, 131_073),
        tune_ok(2049, 4096),
        tune_ok(2047, 4095),
    ] {
        let mut world = lavin();
        let id = world.state.connect(world.now);
        world.receive(id, &wire::PROTOCOL_HEADER);
        world.send(id, 0, start_ok("guest", "guest", ALL));
        world.got(id);
        assert_eq!(closed(&world.call(id, 0, answer.clone())).1, 530);

        let mut world = rabbit();
        let id = world.state.connect(world.now);
        world.receive(id, &wire::PROTOCOL_HEADER);
        world.send(id, 0, start_ok("guest", "guest", ALL));
        world.got(id);
        world.send(id, 0, answer);
        assert_eq!(world.got(id), []);
        world.pass(Duration::from_secs(3));
        assert_eq!(world.ending(id), Some(Ending::Reset));
    }
}

#[test]
fn f08_an_unknown_vhost_is_a_530() {
    for (mut world, empty_is_known) in [(rabbit(), false), (lavin(), true)] {
        for (vhost, known) in [("nowhere", false), ("", empty_is_known), ("/", true)] {
            let id = world.state.connect(world.now);
            world.receive(id, &wire::PROTOCOL_HEADER);
            world.send(id, 0, start_ok("guest", "guest", ALL));
            world.send(id, 0, tune_ok(2047, 131_072));
            world.got(id);
            let answer = world.call(id, 0, open(vhost));
            if known {
                assert!(matches!(answer, AMQPClass::Connection(connection::AMQPMethod::OpenOk(_))));
            } else {
                assert_eq!(closed(&answer).1, 530, "{vhost:?}");
            }
        }
    }
}

#[test]
fn s06_heartbeats_are_sent_at_half_the_interval_and_silence_ends_the_connection() {
    for (mut world, half_intervals, ending) in
        [(rabbit(), 6, Ending::Reset), (lavin(), 7, Ending::Eof)]
    {
        let id = world.open_with(start_ok("guest", "guest", ALL), (0, 0, 2));
        world.pass(Duration::from_millis(999));
        assert_eq!(world.got(id), []);
        assert_eq!(
            world.state.next_deadline().map(|due| due - world.now),
            Some(Duration::from_millis(1))
        );
        world.pass(Duration::from_millis(1));
        assert_eq!(world.got(id), [Got::Heartbeat]);
        // Any byte counts.
        world.receive(id, &wire::HEARTBEAT);
        world.pass(Duration::from_millis(half_intervals * 1000 - 1));
        assert_eq!(world.ending(id), None);
        world.pass(Duration::from_millis(1));
        assert_eq!(world.ending(id), Some(ending));
    }
}

#[test]
fn s08_frames_out_of_place_close_the_connection_with_the_right_code() {
    let mut body_first = Vec::new();
    wire::put_body(&mut body_first, 1, b"body", 4096);
    let mut method_in_content = Vec::new();
    wire::put_publish(&mut method_in_content, 1, "", "q", false);
    wire::put_method(&mut method_in_content, 1, &qos(1)).unwrap();
    let mut heartbeat = wire::HEARTBEAT;
    heartbeat[2] = 1;
    let mut too_much = Vec::new();
    wire::put_publish(&mut too_much, 1, "", "q", false);
    wire::put_content_header(&mut too_much, 1, 3, &Default::default());
    wire::put_body(&mut too_much, 1, b"four", 4096);
    for (bytes, code) in [
        (&heartbeat[..], 505),
        (&body_first, 505),
        (&method_in_content, 505),
        (&too_much, 501),
        (&[1, 0, 1, 0xff, 0, 0, 0], 501),
        (&[9, 0, 1, 0, 0, 0, 0, 0xce], 501),
    ] {
        let mut world = rabbit();
        let id = world.client();
        world.receive(id, bytes);
        let answer = world.one(id);
        assert_eq!((closed(&answer).0, closed(&answer).1), ("connection", code), "{bytes:?}");
    }
}

#[test]
fn a_channel_that_is_not_open_is_504_on_rabbitmq_and_ignored_on_lavinmq() {
    let mut world = rabbit();
    let id = world.open();
    assert_eq!(closed(&world.call(id, 7, qos(1))).1, 504);
    let mut world = lavin();
    let id = world.open();
    world.send(id, 7, qos(1));
    assert_eq!(world.got(id), []);
}

#[test]
fn s47_more_channels_than_agreed_are_a_530() {
    let mut world = lavin();
    let id = world.open_with(start_ok("guest", "guest", ALL), (2, 0, 0));
    world.channel(id, 1);
    world.channel(id, 2);
    let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
    assert_eq!(closed(&world.call(id, 3, open)).1, 530);
}

#[test]
fn s16_a_channel_closed_by_the_server_discards_until_close_ok() {
    let mut world = rabbit();
    let id = world.client();
    world.state.close_channel(id, 1, 406, "because", 60, 40, world.now);
    assert_eq!(closed(&world.one(id)), ("channel", 406, (60, 40)));
    world.send(id, 1, qos(1));
    world.publish(id, "", "q", b"late");
    assert_eq!(world.got(id), [], "all that is discarded");
    // Closes that cross: theirs is answered, ours still awaits its answer.
    let close = channel::AMQPMethod::Close(channel::Close::default());
    assert_eq!(world.call(id, 1, AMQPClass::Channel(close)), channel_close_ok());
    world.send(id, 1, qos(1));
    assert_eq!(world.got(id), []);
    world.send(id, 1, channel_close_ok());
    world.channel(id, 1);
}

#[test]
fn the_clients_close_is_answered_and_rabbitmq_leaves_the_socket_to_the_client() {
    for (mut world, after) in [(rabbit(), 30), (lavin(), 0)] {
        let id = world.client();
        let mine = queue::Declare { queue: "mine".into(), exclusive: true, ..Default::default() };
        world.declare(id, mine);
        let close = conn(connection::AMQPMethod::Close(connection::Close::default()));
        let ok = conn(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
        assert_eq!(world.call(id, 0, close), ok);
        assert!(!world.state.has_queue("mine"));
        assert_eq!(world.ending(id).is_some(), after == 0);
        // The client's end of the socket must be noticed meanwhile.
        assert!(world.state.wants_input(id));
        world.send(id, 1, qos(1));
        world.pass(Duration::from_secs(after));
        assert!(world.ending(id).is_some());
        assert_eq!(world.got(id), []);
    }
}

#[test]
fn close_connections_waits_for_close_ok_or_five_seconds() {
    let mut world = lavin();
    let (answers, silent) = (world.client(), world.client());
    world.state.close_connections(320, "restarting", world.now);
    assert_eq!(closed(&world.one(answers)).1, 320);
    assert_eq!(closed(&world.one(silent)).1, 320);
    world.send(answers, 0, conn(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
    assert_eq!(world.ending(answers), Some(Ending::Eof));
    assert_eq!(world.ending(silent), None);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.ending(silent), Some(Ending::Eof));
}

#[test]
fn s21_rabbitmq_blocks_who_publishes_after_the_alarm_and_reads_no_more() {
    let mut world = rabbit();
    let (published, publishes) = (world.client(), world.client());
    world.declare(published, durable("q"));
    world.publish(published, "", "q", b"before");
    world.state.block("low on memory", world.now);
    // Having published before is no reason.
    assert!(matches!(world.call(published, 1, qos(1)), AMQPClass::Basic(_)));
    world.publish(publishes, "", "q", b"meanwhile");
    let AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)) = world.one(publishes)
    else {
        panic!()
    };
    assert_eq!(blocked.reason.as_str(), "low on memory");
    assert!(!world.state.wants_input(publishes) && world.state.wants_input(published));
    world.send(publishes, 1, qos(1));
    assert_eq!(world.got(publishes), [], "no method is answered");
    assert_eq!(world.bodies("q"), ["before"]);
    world.state.unblock(world.now);
    let got = world.got(publishes);
    assert!(matches!(
        got[0],
        Got::Method(0, AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)))
    ));
    assert_eq!(got.len(), 2, "and qos-ok");
    assert_eq!(world.bodies("q"), ["before", "meanwhile"]);
}

#[test]
fn s22_lavinmq_closes_the_channel_of_a_publish_when_low_on_disk() {
    let mut world = lavin();
    let id = world.client();
    world.declare(id, durable("q"));
    world.state.block("", world.now);
    world.publish(id, "", "q", b"x");
    let close = world.one(id);
    assert_eq!(closed(&close), ("channel", 406, (60, 40)));
    assert!(format!("{close:?}").contains("Server low on disk space"));
}

#[test]
fn output_that_nobody_takes_stops_deliveries_and_then_reading() {
    let mut settings = Settings::new(Personality::LavinMq);
    settings.output_limit = 10_000;
    let mut world = World::new(settings);
    let id = world.client();
    world.declare(id, durable("q"));
    world.consume(id, "q", "c");
    world.got(id);
    let other = world.client();
    for _ in 0..50 {
        world.publish(other, "", "q", &[7; 1000]);
    }
    let pending = world.state.output(id).len();
    assert!((10_000..12_000).contains(&pending), "{pending}");
    assert!(world.state.wants_input(id));
    while world.state.output(id).len() <= 20_000 {
        world.send(id, 1, qos(1));
    }
    assert!(!world.state.wants_input(id));
    while world.state.poll_changed().is_some() {}
    let (_, first_frame) = wire::decode(world.state.output(id), u32::MAX).unwrap().unwrap();
    world.state.consume_output(id, first_frame, world.now);
    assert_eq!(world.state.poll_changed(), Some(id), "it is to be read again");
    assert!(world.state.wants_input(id));
    let mut delivered = 0;
    for _ in 0..10 {
        delivered += deliveries(&world.got(id)).len();
    }
    assert_eq!(delivered, 49, "the rest came as room was made");
    assert!(world.state.wants_input(id));
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = || {
        let mut world = rabbit();
        let id = world.client();
        world.state.reorder_confirms(true);
        world.confirms(id);
        let name = world.declare(id, Default::default()).queue;
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend(publish(1, "", name.as_str(), false, b"x", &persistent()));
        }
        world.receive(id, &bytes);
        world.pass(Duration::from_millis(1));
        world.got(id)
    };
    assert_eq!(run(), run());
}
