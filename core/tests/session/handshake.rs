//! The handshake: s1 to s5, s7, f7 and f8.

use lavinmq_core::error::{DialError, Incompatible, ProtocolError};
use lavinmq_core::wire::WireError;

use crate::harness::*;

/// Why the first connect failed; after it the session has ended, and dials no more.
fn failure(stage: &mut Stage) -> Loss {
    let failed = stage.take_events(|event| matches!(event, SessionEvent::ConnectFailed(_)));
    let [SessionEvent::ConnectFailed(loss)] = &failed[..] else {
        panic!("one failure is due: {failed:?}");
    };
    assert!(stage.is_closed());
    assert_eq!(stage.take_events(|event| matches!(event, SessionEvent::Closed)).len(), 1);
    stage.advance(3600 * SEC);
    assert!(stage.peers.iter().all(|peer| !peer.up && !peer.dialling));
    loss.clone()
}

/// A connection whose Start is due.
fn greeted(config: Config) -> Stage {
    let mut stage = Stage::new(config);
    stage.connect(PUB);
    assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
    stage
}

fn tune(stage: &mut Stage, offer: (u16, u32, u16)) {
    let (channel_max, frame_max, heartbeat) = offer;
    let tune = connection::Tune { channel_max, frame_max, heartbeat };
    stage.reply(PUB, 0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
}

/// What we answer to this offer.
fn tuned(config: Config, broker: &Broker) -> (u16, u32, u16) {
    let mut stage = greeted(config);
    stage.start(PUB, broker);
    stage.expect_start_ok(PUB);
    tune(&mut stage, broker.tune);
    let ok = stage.expect_tune_ok(PUB);
    stage.expect_connection_open(PUB);
    stage.finish();
    (ok.channel_max, ok.frame_max, ok.heartbeat)
}

#[test]
fn s01_another_protocol_header_is_a_version_mismatch_and_final() {
    for retry_first in [false, true] {
        for header in [*b"AMQP\x00\x00\x09\x00", *b"AMQP\x03\x01\0\0"] {
            let mut stage = Stage::with_retry(config(), retry_first);
            stage.connect(PUB);
            assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
            stage.feed(PUB, &header[..5]);
            assert!(stage.peers[PUB].up, "its eight bytes are awaited");
            stage.feed(PUB, &header[5..]);
            let loss = Loss::Incompatible(Incompatible::Version(header));
            if retry_first {
                assert_eq!(stage.states().pop(), Some(State::Closed { loss: Some(loss) }));
                stage.advance(3600 * SEC);
                assert!(stage.peers.iter().all(|peer| !peer.up && !peer.dialling));
            } else {
                assert_eq!(failure(&mut stage), loss);
            }
            stage.finish();
        }
    }
}

#[test]
fn s02_a_start_ok_over_the_limit_never_leaves_and_is_a_typed_error() {
    let mut long = config();
    long.name = Some("n".repeat(5000).into());
    let mut stage = greeted(long.clone());
    stage.start(PUB, &Broker::default());
    let Loss::Incompatible(Incompatible::StartOkTooLarge { size, limit: 4096 }) =
        failure(&mut stage)
    else {
        panic!("a typed error is due");
    };
    assert!((5000..6000).contains(&size));
    assert_eq!(stage.peers[PUB].bytes, 8, "nothing but the protocol header left");
    stage.finish();
    // RabbitMQ takes 8,192 bytes from 4.1 on.
    let broker = Broker { product: "RabbitMQ", version: "4.1.0", ..Broker::default() };
    let mut stage = greeted(long);
    stage.start(PUB, &broker);
    assert_eq!(
        stage.expect_start_ok(PUB).client_properties.inner()["connection_name"],
        AMQPValue::LongString("n".repeat(5000).as_str().into())
    );
    stage.finish();
}

#[test]
fn s02_a_frame_over_8192_bytes_before_tune_is_refused_from_its_header() {
    for (size, refused) in [(8192_u32, false), (8193, true)] {
        let mut stage = greeted(config());
        let mut header = vec![1, 0, 0];
        header.extend_from_slice(&(size - 8).to_be_bytes());
        stage.feed(PUB, &header);
        if refused {
            let error = WireError::FrameTooLarge { size, max: 8192 };
            assert_eq!(failure(&mut stage), Loss::Protocol(ProtocolError::Wire(error)));
        }
        assert_eq!(stage.peers[PUB].up, !refused);
        stage.finish();
    }
}

#[test]
fn s03_the_capabilities_the_name_and_the_credentials_are_in_start_ok() {
    let mut config = config();
    config.name = Some("orders-api".into());
    config.vhost = "shop".into();
    let mut stage = greeted(config);
    stage.start(PUB, &Broker { mechanisms: "AMQPLAIN PLAIN", ..Broker::default() });
    let ok = stage.expect_start_ok(PUB);
    assert_eq!(ok.mechanism.as_str(), "PLAIN");
    assert_eq!(ok.response.as_bytes(), b"\0guest\0guest");
    let properties = ok.client_properties.inner();
    assert_eq!(properties["connection_name"], AMQPValue::LongString("orders-api".into()));
    let AMQPValue::FieldTable(capabilities) = &properties["capabilities"] else {
        panic!("no capabilities");
    };
    for name in [
        "authentication_failure_close",
        "consumer_cancel_notify",
        "connection.blocked",
        "basic.nack",
        "publisher_confirms",
        "exchange_exchange_bindings",
        "per_consumer_qos",
    ] {
        assert_eq!(capabilities.inner()[name], AMQPValue::Boolean(true), "{name}");
    }
    tune(&mut stage, (2047, 131_072, 60));
    stage.expect_tune_ok(PUB);
    assert_eq!(stage.expect_connection_open(PUB), "shop");
    stage.finish();
}

#[test]
fn s03_a_mechanism_that_is_not_offered_is_a_typed_error() {
    let mut stage = greeted(config());
    stage.start(PUB, &Broker { mechanisms: "EXTERNAL", ..Broker::default() });
    let error = Incompatible::Mechanism { wanted: "PLAIN", offered: "EXTERNAL".into() };
    assert_eq!(failure(&mut stage), Loss::Incompatible(error));
    stage.finish();
}

#[test]
fn f08_a_refusal_on_the_first_connect_is_an_error_to_the_caller() {
    // With a close, as the capability asks for.
    let mut stage = greeted(config());
    stage.start(PUB, &Broker::default());
    stage.expect_start_ok(PUB);
    stage.close(PUB, 403, "ACCESS_REFUSED", (0, 0));
    stage.expect_close_ok(PUB);
    let refused = Loss::AccessRefused { user: "guest".into(), text: "ACCESS_REFUSED".into() };
    assert_eq!(failure(&mut stage), refused);
    stage.finish();
    // Without a word, as LavinMQ does for an unknown mechanism.
    let mut stage = greeted(config());
    stage.start(PUB, &Broker::default());
    stage.expect_start_ok(PUB);
    stage.cut(PUB);
    assert!(matches!(failure(&mut stage), Loss::AccessRefused { .. }));
    stage.finish();
    // The virtual host.
    let mut stage = greeted(config());
    stage.start(PUB, &Broker::default());
    stage.expect_start_ok(PUB);
    tune(&mut stage, (0, 0, 0));
    stage.expect_tune_ok(PUB);
    stage.expect_connection_open(PUB);
    stage.close(PUB, 530, "NOT_ALLOWED - vhost / not found", (10, 40));
    stage.expect_close_ok(PUB);
    assert!(matches!(failure(&mut stage), Loss::VhostRefused { code: 530, .. }));
    stage.finish();
}

#[test]
fn f08_a_close_during_the_handshake_that_refuses_nobody_is_told_as_it_came() {
    // Before Tune and after it, with a code that is neither about the user nor about the host.
    for tuned in [false, true] {
        let mut stage = greeted(config());
        stage.start(PUB, &Broker::default());
        stage.expect_start_ok(PUB);
        if tuned {
            tune(&mut stage, (0, 0, 0));
            stage.expect_tune_ok(PUB);
            stage.expect_connection_open(PUB);
        }
        stage.close(PUB, 541, "INTERNAL_ERROR", (0, 0));
        stage.expect_close_ok(PUB);
        let closed = Loss::Closed { code: 541, text: "INTERNAL_ERROR".into(), method: (0, 0) };
        assert_eq!(failure(&mut stage), closed, "{tuned}");
        stage.finish();
    }
}

#[test]
fn s07_with_tls_dialling_has_the_time_of_both() {
    for (tls, seconds) in [(false, 7), (true, 18)] {
        let mut config = config();
        config.target.tls = tls;
        config.deadlines.connect = 7 * SEC;
        config.deadlines.tls = 11 * SEC;
        let stage = Stage::new(config);
        let deadline = stage.session.poll_deadline().unwrap();
        assert_eq!(deadline.reason, DeadlineReason::Dial);
        assert_eq!(deadline.at - stage.now, seconds * SEC, "{tls}");
    }
}

#[test]
fn s03_a_refusal_later_is_retried_at_the_longest_backoff() {
    let mut stage = Stage::connected(config());
    stage.advance(20 * SEC);
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.connect(PUB);
    assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
    stage.start(PUB, &Broker::default());
    stage.expect_start_ok(PUB);
    stage.close(PUB, 403, "ACCESS_REFUSED", (0, 0));
    stage.expect_close_ok(PUB);
    assert!(!stage.peers[PUB].up && !stage.is_closed());
    let Some(State::Reconnecting { loss: Loss::AccessRefused { .. }, .. }) = stage.states().pop()
    else {
        panic!("the state says why");
    };
    stage.advance(30 * SEC - MS);
    assert!(!stage.peers[PUB].dialling);
    stage.advance(MS);
    stage.accept(PUB, &Broker::default());
    assert_eq!(stage.states().pop(), Some(State::Connected));
    stage.finish();
}

/// A broker that is starting closes without a word once; one that does so again means it.
#[test]
fn s03_two_bare_closes_during_authentication_are_a_refusal() {
    let mut stage = Stage::connected(config());
    stage.advance(20 * SEC);
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    for refused in [false, true] {
        stage.connect(PUB);
        assert_eq!(stage.next(PUB), Wrote::ProtocolHeader);
        stage.start(PUB, &Broker::default());
        stage.expect_start_ok(PUB);
        stage.cut(PUB);
        let Some(State::Reconnecting { loss, .. }) = stage.states().pop() else {
            panic!("reconnects")
        };
        assert_eq!(matches!(loss, Loss::AccessRefused { .. }), refused, "{loss}");
        if !refused {
            stage.advance(SEC);
        }
    }
    stage.advance(30 * SEC - MS);
    assert!(!stage.peers[PUB].dialling);
    stage.advance(MS);
    stage.accept(PUB, &Broker::default());
    assert_eq!(stage.states().pop(), Some(State::Connected));
    stage.finish();
}

#[test]
fn s04_zero_is_no_limit_and_is_never_the_answer_to_one() {
    let offer = |tune| Broker { tune, ..Broker::default() };
    let heartbeat = |seconds| {
        let mut config = config();
        config.heartbeat = seconds * SEC;
        config
    };
    // What is offered, what we want, what we answer.
    for (tune, seconds, answer) in [
        ((2047, 131_072, 60), 10, (2047, 131_072, 10)),
        ((0, 0, 0), 10, (2047, 131_072, 10)),
        ((0, 0, 0), 0, (2047, 131_072, 0)),
        ((100, 4096, 5), 10, (100, 4096, 5)),
        ((2047, 131_072, 60), 0, (2047, 131_072, 60)),
        ((65_535, u32::MAX, u16::MAX), 10, (2047, 131_072, 10)),
    ] {
        assert_eq!(tuned(heartbeat(seconds), &offer(tune)), answer, "{tune:?}");
    }
    let mut unlimited = heartbeat(10);
    unlimited.limits.channel_max = 0;
    assert_eq!(tuned(unlimited, &offer((100, 4096, 0))), (100, 4096, 10));
}

#[test]
fn s04_frame_sizes_that_do_not_meet_are_typed_errors_without_a_retry() {
    let mut stage = greeted(config());
    stage.start(PUB, &Broker::default());
    stage.expect_start_ok(PUB);
    tune(&mut stage, (2047, 4095, 60));
    let error = Incompatible::FrameMax { offered: 4095, minimum: 4096 };
    assert_eq!(failure(&mut stage), Loss::Incompatible(error));
    stage.finish();

    let mut small = config();
    small.limits.frame_max = 4096;
    let mut stage = greeted(small.clone());
    stage.start(PUB, &Broker { product: "RabbitMQ", version: "4.3.6", ..Broker::default() });
    stage.expect_start_ok(PUB);
    tune(&mut stage, (2047, 131_072, 60));
    let error = Incompatible::FrameMax { offered: 4096, minimum: 8192 };
    assert_eq!(failure(&mut stage), Loss::Incompatible(error));
    stage.finish();
    assert_eq!(tuned(small, &Broker::default()).1, 4096, "others take 4,096");
}

#[test]
fn s05_lavinmq_offers_300_seconds_and_gets_ten() {
    let broker = Broker { tune: (2048, 131_072, 300), ..Broker::default() };
    assert_eq!(tuned(Config::default(), &broker), (2047, 131_072, 10));
}

#[test]
fn s07_dialling_and_the_handshake_have_deadlines() {
    let mut stage = Stage::with_retry(config(), true);
    stage.advance(10 * SEC);
    // It is dialled anew at once, since it was the first failure.
    assert_eq!((stage.peers[PUB].hang_ups, stage.peers[PUB].dialling), (1, true));
    let Some(State::Reconnecting { loss: Loss::Dial { error, .. }, attempt: 1 }) =
        stage.states().pop()
    else {
        panic!("the state says why");
    };
    assert_eq!(error, DialError::TimedOut(10 * SEC));
    // A peer that falls silent at each step of the handshake.
    for step in 0..3 {
        let mut stage = Stage::new(config());
        stage.accept(CON, &Broker::default());
        stage.connect(PUB);
        stage.next(PUB);
        if step > 0 {
            stage.start(PUB, &Broker::default());
            stage.expect_start_ok(PUB);
        }
        if step > 1 {
            tune(&mut stage, (0, 0, 0));
            stage.expect_tune_ok(PUB);
            stage.expect_connection_open(PUB);
        }
        stage.advance(10 * SEC - MS);
        assert!(stage.peers[PUB].up);
        stage.advance(MS);
        assert_eq!(failure(&mut stage), Loss::HandshakeTimedOut(10 * SEC), "step {step}");
        stage.finish();
    }
}

#[test]
fn f07_a_cut_at_each_step_of_the_handshake_begins_it_again() {
    for step in 0..4 {
        let mut stage = Stage::connected(config());
        stage.advance(20 * SEC);
        let producer = stage.producer("orders", PublishMode::Confirm);
        stage.cut(PUB);
        stage.publish(producer, "1");
        stage.advance(Duration::ZERO);
        // The attempt that is cut.
        stage.connect(PUB);
        stage.next(PUB);
        if step > 0 {
            stage.start(PUB, &Broker::default());
            stage.expect_start_ok(PUB);
        }
        if step > 1 {
            tune(&mut stage, (0, 0, 0));
            stage.expect_tune_ok(PUB);
            stage.expect_connection_open(PUB);
        }
        if step > 2 {
            stage.open_ok(PUB);
            stage.expect_channel_open(PUB);
        }
        stage.cut(PUB);
        stage.advance(SEC);
        stage.accept(PUB, &Broker::default());
        let channel = stage.accept_lane(PUB, PublishMode::Confirm);
        assert_eq!(stage.expect_publishes(PUB, &["1"])[0].attempt(), None);
        stage.ack(PUB, channel, 1, false);
        assert_eq!(stage.verdicts(), [(1, None)], "step {step}");
        stage.finish();
    }
}
