//! What a copy on the wire carries: the delivery mode, the routing key, `x-attempt`, and frames up to
//! exactly the size that was negotiated.

use lavinmq_core::event::FailReason;

use crate::harness::*;

#[test]
fn a_message_is_persistent_by_default_in_confirm_mode_only_and_what_it_says_itself_stays() {
    for (mode, given, expected) in [
        (PublishMode::Confirm, None, Some(2)),
        (PublishMode::Confirm, Some(false), Some(1)),
        (PublishMode::Confirm, Some(true), Some(2)),
        (PublishMode::FireAndForget, None, None),
        (PublishMode::FireAndForget, Some(false), Some(1)),
        (PublishMode::FireAndForget, Some(true), Some(2)),
    ] {
        let mut stage = Stage::connected(config());
        let (producer, _) = stage.warmed_up(to_queue("orders", mode));
        let mut message = Message::new("m").correlation_id("c");
        if let Some(persistent) = given {
            message = message.persistent(persistent);
        }
        stage.publish(producer, message);
        assert_eq!(*stage.expect_publish(PUB).properties.delivery_mode(), expected, "{given:?}");
        stage.finish();
    }
}

/// Headers that were encoded once are used again for messages that share their properties: never with
/// another one's key, nor with a copy's `x-attempt`.
#[test]
fn a_message_that_shares_its_properties_goes_to_its_own_key_and_is_no_copy_of_another() {
    for mode in [PublishMode::Confirm, PublishMode::FireAndForget] {
        let mut stage = Stage::connected(config());
        let (producer, _) = stage.warmed_up(to_queue("orders", mode));
        let message = Message::new("m").correlation_id("shared");
        let mut sequence = 2;
        let mut send = |stage: &mut Stage, key: Option<&str>| {
            stage.hand_over(producer, sequence, key, message.clone());
            sequence += 1;
            let copy = stage.expect_publish(PUB);
            assert_eq!(copy.properties.correlation_id().as_ref().unwrap().as_str(), "shared");
            (copy.routing_key.clone(), copy.attempt())
        };
        let other = || ("other".to_owned(), None);
        let own = || ("orders".to_owned(), None);
        for _ in 0..3 {
            assert_eq!(send(&mut stage, Some("other")), other());
        }
        assert_eq!(send(&mut stage, None), own());
        assert_eq!(send(&mut stage, Some("other")), other());
        if mode == PublishMode::FireAndForget {
            stage.finish();
            continue;
        }
        stage.cut(PUB);
        stage.advance(Duration::ZERO);
        stage.accept(PUB, &Broker::default());
        stage.accept_lane(PUB, mode);
        for key in ["other", "other", "other", "orders", "other"] {
            let copy = stage.expect_publish(PUB);
            assert_eq!((&*copy.routing_key, copy.attempt()), (key, Some(2)));
        }
        for _ in 0..3 {
            assert_eq!(send(&mut stage, None), own());
        }
        stage.finish();
    }
}

#[test]
fn an_outcome_is_told_with_the_messages_own_key() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    for (sequence, key) in [(2, Some("other")), (3, None), (4, Some("other"))] {
        stage.hand_over(producer, sequence, key, "m");
        stage.expect_publish(PUB);
    }
    stage.ack(PUB, channel, 3, true);
    stage.nack(PUB, channel, 4, false);
    let told = stage.take_events(|event| matches!(event, SessionEvent::Settled { .. }));
    let keys: Vec<_> = told
        .iter()
        .map(|event| match event {
            SessionEvent::Settled { settled, .. } => &*settled.routing_key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys, ["other", "orders", "other"]);
    stage.finish();
}

#[test]
fn s12_a_header_frame_of_exactly_frame_max_is_sent() {
    let mut stage = Stage::with_retry(config(), true);
    let producer = stage.producer("orders", PublishMode::FireAndForget);
    let with = |length: usize| {
        let text = "x".repeat(length);
        Message::new("m").header("h", AMQPValue::LongString(text.as_str().into()))
    };
    // Frame header and end, class, weight and body size: 20 bytes.
    let bare = 20 + wire::properties_len(with(0).properties().unwrap());
    for frame in [4095, 4096, 4097] {
        stage.publish(producer, with(frame - bare));
    }
    for c in [PUB, CON] {
        stage.accept(c, &Broker { tune: (10, 4096, 0), ..Broker::default() });
    }
    stage.accept_lane(PUB, PublishMode::FireAndForget);
    stage.expect_publishes(PUB, &["m", "m"]);
    let too_large = Some(Verdict::Failed(FailReason::FrameTooLarge));
    assert_eq!(stage.verdicts(), [(3, too_large)]);
    stage.finish();
}

#[test]
fn s20_without_a_trace_of_ours_equal_bodies_are_told_apart_by_their_properties() {
    let mut stage = Stage::connected(config());
    let (producer, channel) = stage.confirming("orders");
    for id in ["a", "b"] {
        stage.publish(producer, Message::new("same").correlation_id(id));
    }
    let mut copies = stage.expect_publishes(PUB, &["same", "same"]);
    copies[1].properties =
        Properties::default().with_delivery_mode(2).with_correlation_id("b".into());
    stage.give_back(PUB, &copies[1].clone());
    stage.ack(PUB, channel, 0, true);
    let verdicts = stage.verdicts();
    assert!(matches!(verdicts[..], [(2, None), (3, Some(Verdict::Returned(_)))]), "{verdicts:?}");
    stage.finish();
}
