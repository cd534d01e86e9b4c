//! Defects that other clients had (2026), where no other suite has a test of the class already.
//!
//! Those that have: frames of two publishes interleaved (`s11_`), tags out of wire order (`s18_`),
//! replies that shift after a deadline (`f33_`), a reply or delivery in the same read as what it
//! follows (`s29_`), a cancel that is never answered (`s48_`), a passive declaration replayed (`s40_`),
//! acks of a cancelled consumer (`s31_`), a close blamed on the wrong publish (`s25_`), a panic that
//! nobody hears of (`f25_`, `f36_`, `f24_`), a frame_max that loops (`s04_`, `s10_`, `s12_`).

use lavinmq_core::error::ProtocolError;

use crate::{words::*, *};

/// A confirm channel counts every publish: one that takes no tag would shift all later confirms. So
/// no channel carries publishes of both modes, not even where many producers share few channels.
#[test]
fn no_channel_carries_publishes_of_both_modes() {
    let mut config = config();
    config.limits.own_channels = 1;
    let mut stage = Stage::connected(config);
    let modes = [PublishMode::Confirm, PublishMode::FireAndForget];
    let producers: Vec<_> = (0..40)
        .map(|n| (modes[n % 3 % 2], stage.open_producer(to_queue("a", modes[n % 3 % 2]))))
        .collect();
    for (mode, producer) in &producers {
        stage.publish(*producer, format!("{mode:?}"));
    }
    let mut confirming = std::collections::BTreeSet::new();
    let mut published = 0;
    while published < producers.len() {
        let mut opened = Vec::new();
        while stage.has_frames(PUB) {
            match stage.next(PUB) {
                Wrote::Method(channel, AMQPClass::Channel(channel::AMQPMethod::Open(_))) => {
                    opened.push(channel);
                }
                Wrote::Method(channel, AMQPClass::Confirm(_)) => {
                    confirming.insert(channel);
                    stage.select_ok(PUB, channel);
                }
                Wrote::Publish { .. } | Wrote::Header { .. } => {}
                Wrote::Body(channel, body) => {
                    let confirm = body == format!("{:?}", PublishMode::Confirm).as_bytes();
                    assert_eq!(confirm, confirming.contains(&channel), "channel {channel}");
                    published += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        for channel in opened {
            stage.channel_open_ok(PUB, channel);
        }
    }
}

/// What is between the reader and the application is bounded by the prefetch, also where the broker
/// takes no notice of it.
#[test]
fn s35_a_broker_that_ignores_the_prefetch_is_cut_off() {
    let mut stage = Stage::connected(config());
    let mut few = consume("orders");
    few.prefetch = 10;
    let (consumer, channel, _) = stage.subscribed(&few);
    // More than was asked for is borne, as long as it is not without a bound.
    stage.deliver(CON, channel, 1..=148);
    assert!(stage.peers[CON].up && !stage.has_frames(CON));
    let (generation, tags) = stage.got_tags();
    assert_eq!(tags.len(), 148);
    // What is settled on the wire makes room; what the application has settled and nobody has
    // written does not.
    stage.stalled.insert(CON);
    stage.settle(consumer, generation, 1..=10, Settlement::Ack);
    stage.stalled.clear();
    stage.pump();
    assert_eq!(stage.next(CON), ack_multiple(channel, 10));
    stage.deliver(CON, channel, 149..=158);
    assert!(stage.peers[CON].up && !stage.has_frames(CON));
    stage.deliver(CON, channel, 159..=159);
    assert_eq!(stage.expect_close(CON), 503);
    stage.close_ok(CON);
    let State::Reconnecting { loss, .. } = stage.session.state() else {
        panic!("{}", stage.session.state());
    };
    let wanted = ProtocolError::PrefetchExceeded { channel, prefetch: 10, outstanding: 148 };
    assert_eq!(*loss, Loss::Protocol(wanted));
    let account = stage.account(consumer);
    assert_eq!(account.received, 158);
}

/// A single large message does not keep its memory for as long as the client lives.
#[test]
fn memory_of_large_messages_is_given_back() {
    let mut beating = config();
    beating.heartbeat = 10 * SEC;
    let mut stage = Stage::new(beating);
    for c in [PUB, CON] {
        stage.accept(c, &Broker { tune: (2047, 131_072, 10), ..Broker::default() });
    }
    let (producer, lane) = stage.confirming("a");
    let (consumer, channel, _) = stage.consuming();
    let mut confirmed = 1;
    let mut round = |stage: &mut Stage, length: usize| {
        // Neither what the peer nor what the test holds counts.
        let body = vec![7; length];
        stage.publish(producer, body.clone());
        stage.expect_publish(PUB);
        confirmed += 1;
        stage.ack(PUB, lane, confirmed, false);
        let mut bytes = Vec::new();
        wire::put_deliver(&mut bytes, channel, "", confirmed - 1, false, "", "orders");
        wire::put_content_header(&mut bytes, channel, body.len() as u64, &Properties::default());
        wire::put_body(&mut bytes, channel, &body, 131_072);
        stage.feed(CON, &bytes);
        let (generation, tags) = stage.got_tags();
        stage.settle(consumer, generation, tags[0]..=tags[0], Settlement::Ack);
        stage.next(CON);
        for _ in 0..8 {
            stage.advance(SEC);
            for c in [PUB, CON] {
                while stage.has_frames(c) {
                    assert_eq!(stage.next(c), Wrote::Heartbeat);
                }
                stage.feed(c, &frame(8, 0, &[]));
            }
        }
        stage.take_events(|_| true);
    };
    round(&mut stage, 1000);
    let info = allocation_counter::measure(|| {
        round(&mut stage, 4 << 20);
        round(&mut stage, 1000);
    });
    assert!(info.bytes_current < 64 << 10, "{} bytes kept", info.bytes_current);
    stage.account(consumer);
}
