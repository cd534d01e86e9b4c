//! Every interleaving of small worlds, on the real session. See `src/small`.
//!
//! Prints states, transitions and depth of each. `SMALL_WORLDS=large` explores larger ones (minutes).

use std::time::Duration;

use lavinmq_core::{
    config::BufferPolicy,
    consume::Settlement::{Ack, Reject, Requeue, RequeueLater},
    sabotage::{Sabotage, plant},
};
use lavinmq_tests::small::{
    consuming::{Consuming, Setup as Consume},
    publishing::{Publishing, Setup as Publish},
    search::{World, audit, explore},
};

/// Beyond this many states a world is not small.
const LIMIT: usize = 5_000_000;

const SECOND: Duration = Duration::from_secs(1);
const CONFIRM: Publish = Publish::confirm();
const FORGET: Publish = Publish::fire_and_forget();
const ACKS: Consume = Consume::acks();

fn large() -> bool {
    std::env::var("SMALL_WORLDS").is_ok_and(|size| size == "large")
}

/// Explores a world. One with fewer states than that was not explored: nothing could happen in it, or
/// states were taken for one that are several.
fn holds<W: World>(name: &str, world: Result<W, String>, at_least: usize) {
    match world.and_then(|world| explore(world, LIMIT)) {
        Ok(explored) => {
            println!("{name}: {explored}");
            assert!(explored.states >= at_least, "{name}: {explored}");
        }
        Err(violation) => panic!("{name}: {violation}"),
    }
}

fn publishing(name: &str, setup: Publish, at_least: usize) {
    let more = if large() {
        Publish { cuts: setup.cuts + 1, parts: true, broker_closes: true, ..setup }
    } else {
        setup
    };
    holds(name, Publishing::new(more), at_least);
}

fn consuming(name: &str, setup: Consume, at_least: usize) {
    let more = if large() {
        Consume { cuts: setup.cuts + 1, parts: true, deliveries: setup.deliveries + 1, ..setup }
    } else {
        setup
    };
    holds(name, Consuming::new(more), at_least);
}

#[test]
fn s01_confirm_with_frames_in_parts_two_cuts_and_a_broker_that_closes() {
    let setup = Publish { parts: true, broker_closes: true, ..CONFIRM };
    publishing("confirm, in parts", setup, 9_000);
}

#[test]
fn s19_s20_acks_nacks_and_returns_in_every_order() {
    let setup = Publish { nacks: true, returns: true, parts: true, broker_closes: true, ..CONFIRM };
    publishing("confirm, nacked and returned", setup, 40_000);
    let setup = Publish { nacks: true, report_confirmed: false, ..CONFIRM };
    publishing("confirm, told by the watermark", setup, 7_000);
}

#[test]
fn s14_a_shutdown_at_any_time() {
    let setup = Publish { shutdown: true, broker_closes: true, parts: true, ..CONFIRM };
    publishing("confirm, shut down", setup, 15_000);
    let setup = Publish { shutdown: true, messages: 1, cuts: 1, ticks: 2, ..CONFIRM };
    publishing("confirm, shut down late", setup, 5_000);
}

#[test]
fn s15_s25_a_channel_that_is_closed_at_any_time_and_a_message_that_closes_it() {
    let setup = Publish { channel_closes: 2, cuts: 1, ..CONFIRM };
    publishing("confirm, channel closed", setup, 30_000);
    let setup = Publish { poison: Some(2), ..CONFIRM };
    publishing("confirm, one message refused", setup, 5_000);
}

#[test]
fn s26_a_confirm_that_never_comes() {
    let setup =
        Publish { messages: 2, cuts: 0, ticks: 3, confirm_timeout: Some(SECOND), ..CONFIRM };
    publishing("confirm, timed out", setup, 15_000);
}

#[test]
fn s21_blocked_at_any_time() {
    let setup = Publish { blocks: true, shutdown: true, broker_closes: true, cuts: 1, ..CONFIRM };
    publishing("confirm, blocked", setup, 7_000);
}

#[test]
fn s01_a_ring_of_one_that_evicts_and_one_that_expires() {
    let setup =
        Publish { policy: BufferPolicy::DropOldest, buffer: 1, ticks: 1, cuts: 1, ..CONFIRM };
    publishing("confirm, evicting", setup, 10_000);
    let setup = Publish { messages: 2, cuts: 1, ticks: 2, ttl: Some(SECOND), ..CONFIRM };
    publishing("confirm, expiring", setup, 5_000);
}

#[test]
fn s48_a_producer_given_up_at_any_time() {
    let setup = Publish { messages: 2, abandon: true, shutdown: true, parts: true, ..CONFIRM };
    publishing("confirm, given up", setup, 10_000);
    let setup = Publish { broker_closes: true, mode: FORGET.mode, ..setup };
    publishing("fire-and-forget, given up", setup, 5_000);
}

#[test]
fn f09_f10_fire_and_forget_in_parts() {
    let setup = Publish { parts: true, broker_closes: true, shutdown: true, ..FORGET };
    publishing("fire-and-forget, in parts", setup, 4_000);
    let setup = Publish {
        policy: BufferPolicy::DropOldest,
        buffer: 1,
        ticks: 1,
        parts: true,
        shutdown: true,
        cuts: 1,
        ..FORGET
    };
    publishing("fire-and-forget, evicting", setup, 10_000);
}

#[test]
fn f28_acks_in_parts_two_cuts_and_a_broker_that_closes() {
    let setup = Consume { parts: true, broker_closes: true, deliveries: 6, ..ACKS };
    consuming("acks, in parts", setup, 50_000);
    consuming("acks, two cuts", Consume { messages: 2, deliveries: 4, ..ACKS }, 3_000);
}

#[test]
fn s34_every_verdict_alone_and_coalesced() {
    let all = &[Ack, Requeue, Reject];
    let setup = Consume { deliveries: 4, cuts: 1, through: true, settlements: all, ..ACKS };
    consuming("every verdict", setup, 15_000);
    let later = &[Ack, RequeueLater];
    let setup =
        Consume { messages: 1, deliveries: 3, cuts: 1, ticks: 2, settlements: later, ..ACKS };
    consuming("forgotten deliveries", setup, 10_000);
}

#[test]
fn s31_a_consumer_that_is_cancelled_or_loses_its_channel_at_any_time() {
    let setup = Consume { messages: 2, deliveries: 3, cuts: 1, cancels: 1, through: true, ..ACKS };
    consuming("cancelled", setup, 5_000);
    let setup = Consume { cuts: 0, channel_closes: 1, ..setup };
    consuming("cancelled, channel closed", setup, 5_000);
}

#[test]
fn s48_a_consumer_that_ends_at_any_time() {
    let setup = Consume {
        messages: 2,
        deliveries: 3,
        cuts: 1,
        close: true,
        shutdown: true,
        broker_closes: true,
        ..ACKS
    };
    consuming("closed", setup, 10_000);
    let setup = Consume { messages: 1, deliveries: 2, cuts: 0, ticks: 2, ..setup };
    consuming("closed late", setup, 5_000);
}

/// What the search does not tell apart is alike.
#[test]
fn states_with_equal_fingerprints_have_equal_successors() {
    let compared = [
        Publishing::new(Publish {
            messages: 2,
            nacks: true,
            returns: true,
            ticks: 1,
            cuts: 1,
            ..CONFIRM
        })
        .and_then(audit),
        Publishing::new(Publish { messages: 2, parts: true, shutdown: true, ..FORGET })
            .and_then(audit),
        Consuming::new(Consume {
            messages: 2,
            deliveries: 3,
            cancels: 1,
            cuts: 1,
            close: true,
            ..ACKS
        })
        .and_then(audit),
    ];
    for compared in compared {
        match compared {
            Ok(compared) => {
                println!("{compared} pairs of states compared");
                assert!(compared > 1_000);
            }
            Err(what) => panic!("{what}"),
        }
    }
}

/// What the search says of a world with a planted defect.
fn found(sabotage: Sabotage, setup: Publish) -> String {
    plant(Some(sabotage));
    let explored = Publishing::new(setup).and_then(|world| explore(world, LIMIT));
    plant(None);
    match explored {
        Ok(explored) => panic!("{sabotage:?} was not found: {explored}"),
        Err(said) => {
            println!("{sabotage:?}: {said}");
            said
        }
    }
}

#[test]
fn a_window_that_is_not_rewound_is_found_by_the_shortest_path() {
    // Giving it up rewinds, too: that comes first.
    let said = found(Sabotage::NoRewind, CONFIRM);
    assert!(said.contains("7. the driver asks for bytes to write\n"), "{said}");
    assert!(said.contains("message 1 is told to be Unknown"), "{said}");
}

#[test]
fn a_nack_that_counts_as_a_drop_is_found_by_the_shortest_path() {
    let said = found(Sabotage::NackIsDrop, Publish { nacks: true, ..CONFIRM });
    assert!(said.contains("the broker nacks tag 1 on channel 1"), "{said}");
    assert!(said.contains("message 1 is told to be Dropped"), "{said}");
}
