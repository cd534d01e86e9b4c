//! The canonical trace: a bit of everything, once.

use lavinmq_core::{config::ConsumerConfig, event::FailReason};

use crate::{harness::*, world::World};

/// So small that a body soon has two frames: one that leaves beside the others' bytes, and one that is
/// copied among them.
const FRAME_MAX: u32 = 4200;

pub fn settings() -> Config {
    let mut config = config();
    config.heartbeat = 10 * SEC;
    config.deadlines.shutdown = 300 * SEC;
    config
}

pub fn world() -> World {
    World::new(settings(), (2048, FRAME_MAX, 10))
}

fn large() -> Vec<u8> {
    let mut body = b"large".to_vec();
    body.resize(FRAME_MAX as usize + 100, b'x');
    body
}

/// Plays the trace to its end, whatever happens on the way, and holds the accounts against it.
pub fn play(world: &mut World, lossy: bool) {
    use PublishMode::{Confirm, FireAndForget};
    world.until("the connections stand", |world| world.ready);
    world.declare("a");
    world.declare("b");
    world.until("the queues are declared", |world| world.declared.len() == 2);
    let mut jobs = ConsumerConfig::new("a").unwrap();
    jobs.prefetch = 3;
    world.consume(jobs);
    world.until("the consumer is subscribed", |world| world.subscribed.len() == 1);

    // Both modes, each channel opened by the first message; one body of two frames.
    let orders = world.producer("", "a", Confirm);
    let clicks = world.producer("", "b", FireAndForget);
    world.publish(orders, "1");
    world.publish(clicks, "c1");
    world.publish(clicks, "c2");
    world.publish(orders, large());
    world.publish(orders, "again");
    world.until("they are settled", |world| world.outcomes.len() == 3);
    world.until("they are delivered", |world| world.received >= 3);

    // Settled in one go, one of them handed back; more is on its way meanwhile.
    world.publish(orders, "2");
    world.publish(orders, "refused");
    world.publish(orders, "3");
    world.settle();
    for click in ["c3", "c4", "c5"] {
        world.publish(clicks, click);
    }
    world.until("they are settled", |world| world.outcomes.len() == 6);
    world.drain("a");

    // Time passes: heartbeats go both ways.
    world.pass();
    // Returned, and refused with the channel.
    let lost = world.producer("", "nowhere", Confirm);
    let missing = world.producer("missing", "key", Confirm);
    world.publish(lost, "lost");
    world.publish(missing, "failed");
    world.publish(clicks, "c6");
    world.until("they have their outcomes", |world| world.outcomes.len() == 8);
    assert!(matches!(world.outcome(lost, 1), Some(Some(Verdict::Returned(_)))));
    let Some(Some(Verdict::Failed(FailReason::Refused { code: 404, .. }))) =
        world.outcome(missing, 1)
    else {
        panic!("the offender fails: {:?}", world.outcomes);
    };

    // Blocked and unblocked, a declaration meanwhile.
    world.broker.tell_if_open(&mut world.stage, PUB, true);
    world.turn();
    world.publish(orders, "4");
    world.declare("c");
    world.turn();
    world.broker.tell_if_open(&mut world.stage, PUB, false);
    world.until("the queue is declared", |world| world.declared.len() == 3);
    world.until("it is settled", |world| world.outcomes.len() == 9);

    // A channel that we close, and then everything.
    world.stage.session.close_producer(clicks, false, world.stage.now);
    world.turn();
    world.drain("a");
    world.shutdown();
    world.until("the end", |world| world.closed);

    let mut declared: Vec<_> = world.declared.iter().flatten().collect();
    declared.sort();
    assert_eq!(declared, ["a", "b", "c"]);
    for (producer, sequence, body) in &world.accepted {
        if *producer == orders {
            let nacked = body.starts_with(b"refused").then_some(Verdict::Nacked);
            assert_eq!(world.outcome(*producer, *sequence), Some(&nacked));
        }
    }
    world.check_accounts(lossy);
    let (a, b) = (world.broker.left_in("a"), world.broker.left_in("b"));
    assert_eq!(a, 0, "all is consumed and nothing comes back");
    assert!(b == 6 || (lossy && b < 6), "{b} clicks");
}
