//! The simulator's fixed seeds, and proof that it sees what it is made to see.

use lavinmq_tests::sim::{
    campaign::{self, median},
    scenario::Scenario,
    world,
};

/// Seeds that once found something. They never leave this list.
const FOUND_SOMETHING: &[u64] = &[];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

#[test]
fn two_hundred_worlds_keep_their_accounts_with_exact_deadlines_and_with_ticks() {
    let seeds = FOUND_SOMETHING.iter().copied().chain(0..200);
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
