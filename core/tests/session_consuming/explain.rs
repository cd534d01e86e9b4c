//! `explain`: what consumers wait for, in words.

use crate::words::*;

/// What is said of the only consumer.
fn of_consumer(stage: &Stage) -> String {
    let text = stage.session.explain(stage.now);
    let of = "consumer 0 of \"orders\": ";
    text.lines().filter_map(|line| line.strip_prefix(of)).collect()
}

#[test]
fn a_consumer_says_what_it_waits_for_and_what_waits_for_it() {
    let mut stage = Stage::connected(config());
    stage.declare_now(QueueConfig::new("orders").unwrap(), "orders");
    let mut settings = consume("orders");
    settings.prefetch = 2;
    let consumer = stage.open_consumer(&settings);
    let nothing = "; 0 with the application, 0 settling";
    assert_eq!(of_consumer(&stage), format!("being subscribed{nothing}"));
    let (channel, tag) = stage.accept_consumer(CON, &settings);
    assert_eq!(of_consumer(&stage), format!("subscribed{nothing}"));
    stage.deliver(CON, channel, 1..=2);
    let full = "; the prefetch is used up: the broker waits for acks";
    assert_eq!(
        of_consumer(&stage),
        format!("subscribed; 2 with the application, 0 settling{full}")
    );
    let (generation, _) = stage.got_tags();
    stage.settle_quietly(consumer, generation, 1..=1, Settlement::Ack);
    assert_eq!(of_consumer(&stage), "subscribed; 1 with the application, 1 settling");
    stage.settle(consumer, generation, 2..=2, Settlement::Ack);
    assert_eq!(stage.next(CON), ack_multiple(channel, 2));
    stage.cut(CON);
    assert_eq!(of_consumer(&stage), format!("waiting for its queue to be declared again{nothing}"));
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "orders");
    let (channel, again) = stage.accept_consumer(CON, &settings);
    assert_ne!(tag, again);
    stage.deliver(CON, channel, 1..=1);
    let (generation, _) = stage.got_tags();
    stage.settle(consumer, generation, 1..=1, Settlement::RequeueLater);
    assert_eq!(
        of_consumer(&stage),
        "subscribed; 1 with the application, 0 settling; 1 forgotten deliveries to be requeued"
    );
    stage.until_reason(DeadlineReason::Requeue);
    assert_eq!(stage.next(CON), requeue(channel, 1));
    stage.refuse(CON, channel, 406, "no");
    let (channel, _) = stage.accept_consumer(CON, &settings);
    stage.refuse(CON, channel, 406, "no");
    assert_eq!(of_consumer(&stage), format!("subscribing again in 100ms{nothing}"));
    stage.session.close_consumer(consumer, stage.now);
    stage.finish();
}

#[test]
fn a_consumer_without_a_declared_queue_waits_for_the_connection_alone() {
    let mut stage = Stage::with_retry(config(), true);
    let consumer = stage.open_consumer(&consume("orders"));
    let nothing = "; 0 with the application, 0 settling";
    assert_eq!(of_consumer(&stage), format!("waiting for the connection{nothing}"));
    stage.accept(PUB, &Broker::default());
    stage.accept(CON, &Broker::default());
    let (channel, _) = stage.accept_consumer(CON, &consume("orders"));
    stage.deliver(CON, channel, 1..=1);
    stage.session.close_consumer(consumer, stage.now);
    assert_eq!(
        of_consumer(&stage),
        "closing (the consumer was closed), 30s left; 1 with the application, 0 settling"
    );
}

#[test]
fn a_no_ack_consumer_has_no_prefetch_to_use_up_and_says_when_its_queue_is_full() {
    let mut stage = Stage::connected(config());
    let mut settings = consume_no_ack("orders");
    settings.queue_bytes = 100;
    let (_, channel, _) = stage.subscribed(&settings);
    let of_connection = |stage: &Stage| {
        let text = stage.session.explain(stage.now);
        let of = "the no-ack connection: ";
        text.lines().filter_map(|line| line.strip_prefix(of)).collect::<String>()
    };
    assert_eq!(of_connection(&stage), "open, 1 channels");
    stage.deliver(NOACK, channel, 1..=3);
    assert_eq!(of_consumer(&stage), "subscribed; 0 with the application, 0 settling");
    assert_eq!(
        of_connection(&stage),
        "open, 1 channels, reading paused: a no-ack consumer's queue is full"
    );
}
