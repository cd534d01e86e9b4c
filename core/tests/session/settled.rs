//! What a session tells of messages whose producer asks for no outcome of each: a watermark, runs
//! beyond it, and counts; and that several producers on one channel are kept apart.

use crate::harness::*;

/// Settings under which good outcomes are told one by one, or not.
fn settings(queue: &str, mode: PublishMode, each: bool) -> ProducerConfig {
    let mut settings = to_queue(queue, mode);
    settings.report_confirmed = each;
    settings
}

/// The watermark, and the runs beyond it since the last call.
fn settled(stage: &mut Stage, producer: ProducerId) -> (u64, Vec<(u64, u64)>) {
    stage.pump();
    let mut runs = Vec::new();
    stage.session.take_settled_early(producer, &mut runs);
    (stage.update(producer).settled, runs)
}

#[test]
fn s19_what_settles_out_of_order_is_told_in_runs_beyond_the_watermark() {
    for each in [true, false] {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.warmed_up(settings("orders", PublishMode::Confirm, each));
        for n in 2..=9 {
            stage.publish(producer, n.to_string());
            stage.expect_publish(PUB);
        }
        for tag in [4, 5, 7] {
            stage.ack(PUB, channel, tag, false);
        }
        assert_eq!(settled(&mut stage, producer), (1, vec![(4, 5), (7, 7)]));
        stage.ack(PUB, channel, 3, false);
        assert_eq!(settled(&mut stage, producer), (1, vec![(3, 3)]));
        stage.ack(PUB, channel, 2, false);
        assert_eq!(settled(&mut stage, producer), (5, vec![]));
        stage.ack(PUB, channel, 7, true);
        assert_eq!(settled(&mut stage, producer), (7, vec![]));
        stage.ack(PUB, channel, 0, true);
        assert_eq!(settled(&mut stage, producer), (9, vec![]));
        let stats = stage.stats(producer);
        assert_eq!((stats.confirmed, stats.in_flight), (9, 0));
        assert_eq!(stage.verdicts().len(), if each { 8 } else { 0 });
        stage.finish();
    }
}

/// Threads that race hand messages over in another order than their numbers: settled are the numbers.
#[test]
fn numbers_that_arrive_out_of_order_are_settled_by_number() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = Stage::connected(config());
        let (producer, channel) = stage.warmed_up(settings("orders", mode, false));
        for sequence in [3, 2, 6] {
            stage.hand_over(producer, sequence, None, sequence.to_string());
        }
        stage.expect_publishes(PUB, &["3", "2", "6"]);
        if mode == PublishMode::Confirm {
            stage.ack(PUB, channel, 4, true);
        }
        // 3 was settled before 2 was.
        assert_eq!(settled(&mut stage, producer), (3, vec![(3, 3), (6, 6)]));
        let stats = stage.stats(producer);
        assert_eq!((stats.confirmed + stats.sent, stats.in_flight), (4, 0));
        stage.finish();
    }
}

#[test]
fn s20_a_return_is_the_outcome_although_good_ones_are_not_told() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.warmed_up(settings("orders", PublishMode::Confirm, false));
    for n in 2..=4 {
        stage.publish(producer, n.to_string());
    }
    let copies = stage.expect_publishes(PUB, &["2", "3", "4"]);
    stage.give_back(PUB, &copies[1]);
    stage.ack(PUB, channel, 4, true);
    let verdicts = stage.verdicts();
    assert!(matches!(verdicts[..], [(3, Some(Verdict::Returned(_)))]), "{verdicts:?}");
    let stats = stage.stats(producer);
    assert_eq!((stats.confirmed, stats.returned), (3, 1));
    stage.finish();
}

/// Two producers on one channel, and its number.
fn sharing(settings: [ProducerConfig; 2]) -> (Stage, [ProducerId; 2], u16) {
    let mut config = config();
    config.limits.own_channels = 0;
    let mut stage = Stage::connected(config);
    let mode = settings[0].mode;
    let [first, ninth] = settings;
    let first = stage.open_producer(first);
    for n in 0..7 {
        stage.producer(&n.to_string(), mode);
    }
    let ninth = stage.open_producer(ninth);
    stage.publish(first, "warm-up");
    let channel = stage.accept_lane(PUB, mode);
    stage.expect_publish(PUB);
    if mode == PublishMode::Confirm {
        stage.ack(PUB, channel, 1, false);
    }
    stage.outcomes();
    (stage, [first, ninth], channel)
}

#[test]
fn s19_one_ack_for_the_messages_of_two_producers_settles_each_of_them() {
    for each in [true, false] {
        let both = ["a", "b"].map(|queue| settings(queue, PublishMode::Confirm, each));
        let (mut stage, [a, b], channel) = sharing(both);
        // In the order of their places, and across it.
        for (producer, body) in [(a, "a2"), (b, "b1"), (b, "b2"), (a, "a3"), (b, "b3"), (a, "a4")] {
            stage.publish(producer, body);
            stage.expect_publishes(PUB, &[body]);
        }
        stage.ack(PUB, channel, 5, true);
        let told = [(a, 2), (b, 1), (b, 2), (a, 3)].map(|(producer, n)| (producer, n, None));
        assert_eq!(stage.outcomes(), if each { told.to_vec() } else { vec![] });
        let account = |stage: &Stage, producer| {
            let stats = stage.stats(producer);
            (stats.confirmed, stats.in_flight)
        };
        assert_eq!((account(&stage, a), account(&stage, b)), ((3, 1), (2, 1)));
        stage.ack(PUB, channel, 7, true);
        assert_eq!((account(&stage, a), account(&stage, b)), ((4, 0), (3, 0)));
        stage.finish();
    }
}

#[test]
fn s20_on_a_shared_channel_a_return_is_its_own_producers() {
    // To one queue: but for their ids, the messages look alike.
    let both = ["a", "a"].map(|queue| settings(queue, PublishMode::Confirm, true));
    let (mut stage, [a, b], channel) = sharing(both);
    // Both have a number 2.
    for (producer, body) in [(b, "1"), (a, "2"), (b, "2")] {
        stage.publish(producer, body);
    }
    let copies = stage.expect_publishes(PUB, &["1", "2", "2"]);
    stage.give_back(PUB, &copies[2]);
    stage.ack(PUB, channel, 4, true);
    let outcomes = stage.outcomes();
    assert_eq!(outcomes[..2], [(b, 1, None), (a, 2, None)]);
    assert!(matches!(outcomes[2], (producer, 2, Some(Verdict::Returned(_))) if producer == b));
    stage.finish();
}

/// It has the id that its first producer generated, and a reference of the second one's.
#[test]
fn s20_a_message_that_is_passed_on_with_its_id_is_found_when_it_is_returned() {
    let mut stage = Stage::connected(config());
    let (first, _) = stage.confirming("first");
    stage.publish(first, "m");
    let id = stage.expect_publish(PUB).message_id().unwrap();
    let (second, channel) = stage.confirming("second");
    stage.publish(second, Message::new("m").message_id(&id));
    let copy = stage.expect_publish(PUB);
    stage.give_back(PUB, &copy);
    stage.ack(PUB, channel, 2, false);
    let verdicts = stage.verdicts();
    assert!(matches!(verdicts[..], [(2, Some(Verdict::Returned(_)))]), "{verdicts:?}");
    stage.finish();
}

#[test]
fn s20_in_fire_and_forget_a_return_counts_for_the_producer_of_its_exchange() {
    let both = ["x", "y"].map(|exchange| {
        let mut settings = to_exchange(exchange, "key", PublishMode::FireAndForget);
        settings.mandatory = true;
        settings
    });
    let (mut stage, [x, y], _) = sharing(both);
    stage.publish(x, "x");
    stage.publish(y, "y");
    let copies = stage.expect_publishes(PUB, &["x", "y"]);
    stage.give_back(PUB, &copies[1]);
    assert_eq!((stage.stats(x).returns, stage.stats(y).returns), (0, 1));
    stage.events();
    stage.finish();
}

#[test]
fn s37_on_a_shared_channel_a_producer_whose_queue_is_missing_holds_up_no_other() {
    let both = ["a", "b"].map(|queue| settings(queue, PublishMode::FireAndForget, false));
    let (mut stage, [a, b], _) = sharing(both);
    stage.declare_now(QueueConfig::new("a").unwrap(), "a");
    stage.cut(CON);
    // Both are ready when the transport asks for more.
    for (producer, body) in [(a, "a2"), (b, "b1"), (b, "b2")] {
        stage.session.publish(producer, body.into(), stage.now).unwrap();
    }
    stage.expect_publishes(PUB, &["b1", "b2"]);
    stage.advance(Duration::ZERO);
    stage.accept(CON, &Broker::default());
    let control = stage.expect_channel_open(CON);
    stage.channel_open_ok(CON, control);
    stage.expect_declare(CON);
    stage.declare_ok(CON, control, "a");
    stage.expect_publishes(PUB, &["a2"]);
    stage.finish();
}

#[test]
fn s47_a_producer_gets_a_channel_of_its_own_again_once_another_one_is_gone() {
    for (closed, channels) in [(0, 9), (1, 9)] {
        let mut config = config();
        config.limits.own_channels = 1;
        let mut stage = Stage::connected(config);
        for n in 0..closed {
            let producer = stage.producer(&format!("gone {n}"), PublishMode::FireAndForget);
            stage.session.close_producer(producer, false, stage.now);
            stage.pump();
        }
        // One has its own; eight are shared by the rest.
        for n in 0..11 {
            let producer = stage.producer(&n.to_string(), PublishMode::FireAndForget);
            stage.publish(producer, "m");
        }
        let mut opened = 0;
        while stage.has_frames(PUB) {
            stage.expect_channel_open(PUB);
            opened += 1;
        }
        assert_eq!(opened, channels, "{closed}");
    }
}

/// Two producers of this mode with a channel each, and messages of both encoded and not written.
fn side_by_side(mode: PublishMode) -> (Stage, [ProducerId; 2], [u16; 2]) {
    let mut stage = Stage::connected(config());
    let (a, channel_a) = stage.warmed_up(to_queue("a", mode));
    let (b, channel_b) = stage.warmed_up(to_queue("b", mode));
    stage.stalled.insert(PUB);
    for body in ["2", "3"] {
        stage.publish(a, body);
        stage.publish(b, body);
    }
    stage.pending(PUB);
    // More than is encoded at once: both channels have something left to encode.
    for _ in 0..3 {
        stage.publish(a, vec![b'x'; 100_000]);
        stage.publish(b, vec![b'x'; 100_000]);
    }
    stage.pending(PUB);
    (stage, [a, b], [channel_a, channel_b])
}

/// Takes what is written; the bodies' lengths on this channel.
fn written(stage: &mut Stage, channel: u16) -> Vec<usize> {
    stage.stalled.clear();
    stage.pump();
    let (mut lengths, mut open) = (Vec::new(), false);
    while stage.has_frames(PUB) {
        match stage.next(PUB) {
            Wrote::Header { channel: n, size, .. } if n == channel => {
                open = true;
                lengths.push(size as usize);
            }
            _ => {}
        }
    }
    assert!(open);
    lengths
}

const BOTH: [usize; 5] = [1, 1, 100_000, 100_000, 100_000];

#[test]
fn s15_what_another_channel_has_encoded_goes_out_and_counts_although_one_is_closed() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for closed in 0..2 {
            let (mut stage, producers, channels) = side_by_side(mode);
            let (other, channel) = (producers[1 - closed], channels[1 - closed]);
            stage.close_channel(PUB, channels[closed], 404, "no exchange", (50, 10));
            assert_eq!(written(&mut stage, channel), BOTH, "{closed}");
            if mode == PublishMode::Confirm {
                stage.ack(PUB, channel, 0, true);
            }
            let stats = stage.stats(other);
            assert_eq!((stats.sent + stats.confirmed, stats.in_flight), (6, 0), "{closed}");
        }
    }
}

#[test]
fn s48_what_another_producer_has_encoded_goes_out_and_counts_although_one_is_abandoned() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        for closed in 0..2 {
            let (mut stage, producers, channels) = side_by_side(mode);
            let (other, channel) = (producers[1 - closed], channels[1 - closed]);
            stage.session.close_producer(producers[closed], true, stage.now);
            assert_eq!(written(&mut stage, channel), BOTH, "{closed}");
            if mode == PublishMode::Confirm {
                stage.ack(PUB, channel, 0, true);
            }
            let stats = stage.stats(other);
            assert_eq!((stats.sent + stats.confirmed, stats.in_flight), (6, 0), "{closed}");
        }
    }
}
