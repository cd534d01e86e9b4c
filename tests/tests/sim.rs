//! The simulator's fixed seeds, and proof that it sees what it is made to see.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::process::Command;

use lavinmq_core::sabotage::{Sabotage, plant};
use lavinmq_tests::sim::{
    campaign::{self, Campaign, known, median},
    heap::Heap,
    reconnects,
    scenario::Scenario,
    shrink::shrink,
    world,
};

/// Worlds per run. (The dev profile optimises the crates that the simulator spends its time in.)
const WORLDS: u64 = 200;

const HEAP: Heap = Heap {
    measure: |run| allocation_counter::measure(run).bytes_current,
    apart: |run| allocation_counter::opt_out(run),
};

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Each seed that ever failed, and some more, both ways: the accounts hold after every step, what must
/// end alike does, and nothing is left when a world is over, no byte of the heap either.
#[test]
fn worlds_keep_their_accounts_with_exact_deadlines_and_with_ticks() {
    let seeds = known().into_iter().map(|(seed, _)| seed).chain(0..WORLDS);
    let campaign = Campaign { threads: threads(), heap: Some(HEAP) };
    let summary = campaign.run(seeds, || false);
    let failures: Vec<_> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{}\n{summary}", summary.details());
    assert!(median(&summary.accepted) >= 300, "{summary}");
    assert!(median(&summary.reconnects) >= 3, "{summary}");
    assert!(median(&summary.fire_and_forget) >= 1 && median(&summary.confirm) >= 1, "{summary}");
    assert!(summary.compared > 10 * WORLDS, "{} messages compared", summary.compared);
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

/// Nothing depends on what differs between processes: addresses, hash seeds, threads, other worlds.
#[test]
fn two_other_processes_see_the_same_bytes_and_events() {
    let seeds = [11, 12, 13];
    let in_this_one: String = seeds
        .iter()
        .map(|&seed| {
            let (exact, ticks) = campaign::SeedRun::new(seed, None).hashes();
            format!("{seed} {exact:016x} {ticks:016x}\n")
        })
        .collect();
    for order in ["11,12,13", "13,12,11"] {
        let program = Command::new(env!("CARGO_BIN_EXE_sim")).args(["--hashes", order]).output();
        let said = String::from_utf8(program.unwrap().stdout).unwrap();
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, in_this_one.lines().collect::<Vec<_>>(), "{order}");
    }
}

#[test]
fn f29_memory_is_flat_over_many_reconnects_and_nothing_is_left() {
    for seed in 0..4 {
        let report = reconnects::run(seed, 500, HEAP).unwrap();
        assert!(report.reconnects >= 500 && report.confirmed >= 100, "{report:?}");
    }
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

/// A cut with one message in flight is all that it takes, and all that is left.
#[test]
fn a_failing_world_shrinks_to_what_makes_it_fail() {
    let judge = |scenario: &Scenario| {
        plant(Some(Sabotage::NoRewind));
        let violations = world::run(scenario, None, false).violations;
        plant(None);
        violations
    };
    let shrunk = (0..20).find_map(|seed| shrink(&Scenario::draw(seed), 20_000, judge)).unwrap();
    let small = &shrunk.scenario;
    println!("{} worlds:\n{small}", shrunk.runs);
    assert!(small.operations() <= 10 && small.faults.len() <= 2, "{small}");
    assert!(small.producers.len() == 1 && small.queues.len() == 1, "{small}");
    // The same world fails in the same way without the search.
    assert_eq!(judge(small), shrunk.violations);
}

#[test]
fn worlds_without_faults_are_well_without_sabotage() {
    for seed in 0..5 {
        let scenario = Scenario::draw(seed).without_faults();
        assert_eq!(world::run(&scenario, None, false).violations, Vec::<String>::new());
    }
}
