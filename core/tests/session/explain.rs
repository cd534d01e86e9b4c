//! `explain`: what everything waits for, in words. These may change; what they must say is which
//! thing waits, for what, and until when.

use crate::harness::*;

/// The lines that begin so, without that beginning.
fn said(stage: &Stage, about: &str) -> Vec<String> {
    let text = stage.session.explain(stage.now);
    text.lines().filter_map(|line| line.strip_prefix(about).map(str::to_owned)).collect()
}

/// What is said of the publishing connection.
fn of_connection(stage: &Stage) -> String {
    said(stage, "the publishing connection: ").concat()
}

/// What is said of the only producer.
fn of_producer(stage: &Stage) -> String {
    said(stage, "producer 0 to \"orders\": ").concat()
}

#[test]
fn a_connection_says_where_it_stands_and_until_when() {
    let mut stage = Stage::with_retry(config(), true);
    let dialling = [
        "client: connecting",
        "the publishing connection: connecting to localhost:5672, 10s left",
        "the consuming connection: connecting to localhost:5672, 10s left",
        "the no-ack connection: not in use",
        "next deadline: Dial in 10s",
    ];
    assert_eq!(said(&stage, ""), dialling);
    stage.connect(PUB);
    stage.sleep(SEC);
    assert_eq!(of_connection(&stage), "in the AMQP handshake, 9s left");
    stage.cut(PUB);
    stage.advance(Duration::ZERO);
    stage.cut(PUB);
    assert_eq!(
        of_connection(&stage),
        "waiting before attempt 3, 100ms left (last loss: the connection was closed by the peer)"
    );
    let mut stage = Stage::connected(config());
    assert_eq!(of_connection(&stage), "open, 0 channels");
    stage.confirming("orders");
    assert_eq!(of_connection(&stage), "open, 1 channels");
    stage.session.shutdown(10 * SEC, stage.now);
    stage.pump();
    assert_eq!(of_connection(&stage), "closing, 10s left (closed)");
    let mut single = config();
    single.connections = 1;
    assert_eq!(said(&Stage::new(single), "the connection: ").len(), 1);
}

#[test]
fn what_a_connection_has_to_write_is_said_with_its_age_and_so_is_a_block() {
    let mut stage = Stage::connected(config());
    let (producer, _) = stage.confirming("orders");
    stage.stalled.insert(PUB);
    stage.publish(producer, "2");
    let pending = stage.pending(PUB);
    stage.sleep(3 * SEC);
    assert_eq!(
        of_connection(&stage),
        format!("open, 1 channels, {pending} bytes to write, the last one 3s ago")
    );
    stage.stalled.clear();
    stage.blocked(PUB, "low on memory");
    stage.sleep(2 * SEC);
    let blocked = "the broker blocked us 2s ago: low on memory";
    assert_eq!(of_connection(&stage), format!("open, 1 channels, {blocked}"));
    assert_eq!(of_producer(&stage), format!("0 queued, 1 in flight; {blocked}"));
}

#[test]
fn a_producer_says_what_its_messages_wait_for() {
    let mut stage = Stage::new(config());
    let mut settings = to_queue("orders", PublishMode::Confirm);
    settings.max_in_flight = 2;
    settings.confirm_timeout = Some(SEC);
    let producer = stage.open_producer(settings);
    assert_eq!(of_producer(&stage), "0 queued, 0 in flight");
    stage.publish(producer, "1");
    assert_eq!(of_producer(&stage), "1 queued, 0 in flight; waiting for the connection");
    stage.accept(PUB, &Broker::default());
    assert_eq!(of_producer(&stage), "1 queued, 0 in flight; waiting for its channel to open");
    stage.accept(CON, &Broker::default());
    let mut channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publish(PUB);
    assert_eq!(of_producer(&stage), "0 queued, 1 in flight; waiting for confirms");
    stage.publish(producer, "2");
    stage.expect_publish(PUB);
    assert_eq!(of_producer(&stage), "0 queued, 2 in flight; waiting for confirms");
    stage.publish(producer, "3");
    assert_eq!(
        of_producer(&stage),
        "1 queued, 2 in flight; the window is full: waiting for confirms"
    );
    stage.close_channel(PUB, channel, 404, "no exchange", (60, 40));
    stage.expect_channel_close_ok(PUB, channel);
    channel = stage.accept_lane(PUB, PublishMode::Confirm);
    stage.expect_publishes(PUB, &["1"]);
    assert_eq!(
        of_producer(&stage),
        "1 queued, 2 in flight; looking for the message that closed the channel: 2 left"
    );
    stage.ack(PUB, channel, 1, false);
    stage.expect_publishes(PUB, &["2"]);
    stage.ack(PUB, channel, 2, false);
    stage.expect_publishes(PUB, &["3"]);
    assert_eq!(of_producer(&stage), "0 queued, 1 in flight; waiting for confirms");
    stage.advance(SEC);
    assert_eq!(of_producer(&stage), "0 queued, 1 in flight; its channel is being closed");
    assert_eq!(stage.expect_channel_close(PUB).0, channel);
    stage.cut(PUB);
    assert_eq!(of_producer(&stage), "0 queued, 1 in flight; waiting for the connection");
    stage.session.close_producer(producer, false, stage.now);
    assert_eq!(of_producer(&stage), "0 queued, 1 in flight; waiting for the connection; closing");
}

#[test]
fn a_producer_on_an_open_channel_says_if_it_only_has_to_be_written() {
    for (mode, encoded) in
        [(PublishMode::Confirm, "waiting for confirms"), (PublishMode::FireAndForget, "being sent")]
    {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.warmed_up(to_queue("orders", mode));
        // Nothing is encoded before the transport asks for it.
        stage.session.publish(producer, "2".into(), stage.now).unwrap();
        assert_eq!(of_producer(&stage), "1 queued, 0 in flight; being sent");
        stage.stalled.insert(PUB);
        stage.pump();
        stage.pending(PUB);
        assert_eq!(of_producer(&stage), format!("0 queued, 1 in flight; {encoded}"));
        stage.stalled.clear();
        let flow = channel::Flow { active: false };
        stage.reply(PUB, channel, AMQPClass::Channel(channel::AMQPMethod::Flow(flow)));
        stage.publish(producer, "3");
        let text = of_producer(&stage);
        assert!(
            text.starts_with("1 queued") && text.ends_with("; paused by the broker (channel.flow)"),
            "{text}"
        );
    }
}

#[test]
fn a_channel_that_is_opened_again_later_says_when() {
    let mut stage = Stage::connected(config());
    let (producer, mut channel) = stage.forgetting("orders");
    for left in ["0ns", "100ms"] {
        stage.close_channel(PUB, channel, 404, "no exchange", (60, 40));
        stage.expect_channel_close_ok(PUB, channel);
        stage.publish(producer, "m");
        assert_eq!(
            of_producer(&stage),
            format!(
                "1 queued, 0 in flight; its channel was closed; it is opened again, {left} left"
            )
        );
        stage.until_reason(DeadlineReason::Reopen);
        channel = stage.accept_lane(PUB, PublishMode::FireAndForget);
        stage.expect_publish(PUB);
    }
}

#[test]
fn declarations_and_those_who_depend_on_them_are_named() {
    let mut stage = Stage::connected(config());
    stage.declare(QueueConfig::new("orders").unwrap());
    stage.sleep(SEC);
    assert_eq!(said(&stage, "declaration of "), ["\"orders\": waiting for the broker, 29s left"]);
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "orders");
    assert_eq!(said(&stage, "declaration of ").len() + said(&stage, "queue ").len(), 0);
    let producer = stage.producer("orders", PublishMode::Confirm);
    stage.open_producer(to_exchange("logs", "key", PublishMode::Confirm));
    assert_eq!(
        said(&stage, "producer 1 to "),
        ["\"key\" on exchange \"logs\": 0 queued, 0 in flight"]
    );
    stage.cut(CON);
    stage.publish(producer, "1");
    assert_eq!(said(&stage, "queue "), ["orders: to be declared again (stands: false)"]);
    assert_eq!(
        of_producer(&stage),
        "1 queued, 0 in flight; waiting for its queue to be declared again"
    );
}
