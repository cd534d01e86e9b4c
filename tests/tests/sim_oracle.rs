//! Defects planted in the client: the oracle must catch each of them, within a thousand worlds of the
//! plain draw.
//!
//! Each test runs the first worlds of the plain draw (exact deadlines) until the oracle says what it
//! should. When this was written, each defect was caught within the first eight; `measure` finds the
//! seeds anew.

use std::collections::BTreeSet;

use lavinmq_core::sabotage::{Sabotage, plant};
use lavinmq_tests::sim::{scenario::Scenario, states, world};

/// What the oracle says of this world with the defect.
fn said(sabotage: Sabotage, scenario: &Scenario) -> Vec<String> {
    plant(Some(sabotage));
    let violations = world::run(scenario, None, false).violations;
    plant(None);
    violations
}

/// Worlds of the plain draw in which each defect must be caught. Far fewer than the thousand that
/// would do: each shows within the first fifty, and a test must not take long.
const WORLDS: u64 = 250;

/// The defect is caught in one of the first worlds, in such words; and without it that world is well.
fn is_caught(sabotage: Sabotage, words: &[&str]) {
    for seed in 0..WORLDS {
        let scenario = Scenario::draw(seed);
        let all = said(sabotage, &scenario).join("\n");
        if words.iter().any(|word| all.contains(word)) {
            println!("{sabotage:?}: seed {seed}");
            let without = world::run(&scenario, None, false).violations;
            assert_eq!(without, Vec::<String>::new(), "seed {seed} without {sabotage:?}");
            return;
        }
    }
    panic!("{sabotage:?} was not caught");
}

#[test]
fn a_block_producer_that_drops_is_caught() {
    is_caught(Sabotage::BlockDrops, &["Dropped(BufferFull), which cannot be"]);
}

/// Bodies are equal only where they are empty.
#[test]
fn a_retry_count_keyed_by_payload_is_caught() {
    is_caught(Sabotage::RetriesByPayload, &["a copy says attempt Some(2)"]);
}

#[test]
fn an_evicted_message_that_is_forgotten_is_caught() {
    is_caught(Sabotage::ForgetsEvicted, &["not conserved"]);
}

#[test]
fn acks_without_a_generation_are_caught() {
    let words = ["the broker got 1 acks and 0 rejects, the application gave 0"];
    is_caught(Sabotage::AcksWithoutGeneration, &words);
}

#[test]
fn qos_that_is_not_replayed_is_caught() {
    is_caught(Sabotage::QosNotReplayed, &["subscribes without qos"]);
}

#[test]
fn a_window_that_is_not_rewound_is_caught() {
    is_caught(Sabotage::NoRewind, &["hang at"]);
}

#[test]
fn confirm_tags_out_of_wire_order_are_caught() {
    let words = ["and the broker said nothing", "published again after its outcome Confirmed"];
    is_caught(Sabotage::TagsOutOfOrder, &words);
}

#[test]
fn a_nack_counted_as_a_drop_is_caught() {
    is_caught(Sabotage::NackIsDrop, &["the broker said Nacked"]);
}

#[test]
fn a_publishers_multiple_ack_that_spans_a_nacked_tag_is_caught() {
    is_caught(Sabotage::AckSpansNack, &["the broker said Nacked"]);
}

#[test]
fn a_consumers_multiple_ack_that_spans_a_nacked_tag_is_caught() {
    is_caught(Sabotage::SettlesSpanned, &["the application gave", "requeued 1"]);
}

/// A few worlds reach most of the rare states; that all are reached, a campaign checks.
#[test]
fn a_few_worlds_reach_most_rare_states() {
    let mut reached = BTreeSet::new();
    for seed in 0..40 {
        let outcome = world::run(&Scenario::draw(seed), None, false);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        reached.extend(outcome.counters.into_keys().filter(|name| name.starts_with("state ")));
    }
    let unknown: Vec<_> = reached.iter().filter(|name| !states::ALL.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let missing: Vec<_> = states::ALL.iter().filter(|name| !reached.contains(*name)).collect();
    assert!(missing.len() <= 16, "{missing:?}");
}

/// Run it to measure again: `cargo test -p lavinmq-tests --test sim_oracle -- --ignored --nocapture`.
#[test]
#[ignore = "measures; asserts only that each defect is caught within a thousand worlds"]
fn measure() {
    let only = std::env::var("SABOTAGE").unwrap_or_default();
    for sabotage in Sabotage::ALL {
        if !format!("{sabotage:?}").contains(&only) {
            continue;
        }
        let mut hits = Vec::new();
        let mut words = Vec::new();
        for seed in 0..1000 {
            let scenario = Scenario::draw(seed);
            let scenario = match sabotage {
                // Nothing else would wake the driver.
                Sabotage::LostWakeUp => scenario.without_faults(),
                _ => scenario,
            };
            let violations = said(sabotage, &scenario);
            if let Some(first) = violations.first() {
                hits.push(seed);
                words.push(first.clone());
            }
            if hits.len() == 4 {
                break;
            }
        }
        println!("{sabotage:?}: {hits:?}");
        words.iter().for_each(|words| println!("    {}", words.lines().next().unwrap_or_default()));
        assert!(!hits.is_empty(), "{sabotage:?}");
    }
}
