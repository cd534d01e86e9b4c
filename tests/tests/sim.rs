//! The simulator's fixed seeds, and proof that it sees what it is made to see.

use lavinmq_core::sabotage::{Sabotage, plant};
use lavinmq_tests::sim::{
    campaign::{self, median},
    scenario::Scenario,
    world,
};

/// Seeds that once found something. They never leave this list.
const FOUND_SOMETHING: &[u64] = &[1559, 1648];

/// Worlds per run. (The dev profile optimises the crates that the simulator spends its time in.)
const WORLDS: u64 = 200;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[test]
fn worlds_keep_their_accounts_with_exact_deadlines_and_with_ticks() {
    let seeds = FOUND_SOMETHING.iter().copied().chain(0..WORLDS);
    let summary = campaign::run_many(seeds, threads(), || false);
    let failures: Vec<_> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{summary}");
    assert!(median(&summary.accepted) >= 300, "{summary}");
    assert!(median(&summary.cuts) >= 3, "{summary}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_events() {
    for seed in [1, 2, 3] {
        let scenario = Scenario::draw(seed);
        for tick in [None, Some(campaign::TICK)] {
            let (once, again) =
                (world::run(&scenario, tick, false), world::run(&scenario, tick, false));
            assert_eq!(once.hash, again.hash, "seed {seed}");
            assert_eq!((once.polls, once.ended_at), (again.polls, again.ended_at));
        }
    }
    let other = world::run(&Scenario::draw(4), None, false).hash;
    assert_ne!(world::run(&Scenario::draw(5), None, false).hash, other);
}

/// What the oracle says of the first of these worlds in which it finds the planted defect.
fn caught(sabotage: Sabotage, worlds: impl Iterator<Item = Scenario>) -> String {
    for scenario in worlds {
        plant(Some(sabotage));
        let violations = world::run(&scenario, None, false).violations;
        plant(None);
        if !violations.is_empty() {
            return violations.join("\n");
        }
    }
    panic!("{sabotage:?} was not found");
}

/// Nothing else would wake the driver there: no fault, no heartbeat, no tick.
#[test]
fn a_lost_wake_up_of_the_driver_is_a_hang_that_names_who_waits() {
    let said =
        caught(Sabotage::LostWakeUp, (0..5).map(|seed| Scenario::draw(seed).without_faults()));
    assert!(said.contains("hang"), "{said}");
    let waits = ["director", "producer", "receipt of p"];
    assert!(waits.iter().any(|name| said.contains(name)), "{said}");
    assert!(said.contains("the client explains"), "{said}");
}

#[test]
fn a_window_that_is_not_rewound_at_a_reconnect_is_caught() {
    caught(Sabotage::NoRewind, (0..20).map(Scenario::draw));
}

#[test]
fn a_nack_counted_as_a_drop_is_caught() {
    caught(Sabotage::NackIsDrop, (0..20).map(Scenario::draw));
}

#[test]
fn worlds_without_faults_are_well_without_sabotage() {
    for seed in 0..5 {
        let scenario = Scenario::draw(seed).without_faults();
        assert_eq!(world::run(&scenario, None, false).violations, Vec::<String>::new());
    }
}
