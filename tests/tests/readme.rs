//! The tables of tests/README.md are made from the tests' names: `sNN_…` and `fNN_…` name lines of
//! the two lists below.
//!
//! A line without a test, a test that nothing runs, and a table that is not up to date are failures.
//! `UPDATE_README=1 cargo test -p lavinmq-tests --test readme` writes the tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// What the client does, line by line. (Numbers that are missing come with what they are about.)
const BEHAVIOURS: &[(u32, &str)] = &[
    (1, "another protocol version, and the state that a refusal names"),
    (2, "frame sizes before Tune"),
    (3, "credentials, capabilities, refusals; secrets are never shown"),
    (4, "Tune: limits of both sides"),
    (5, "the heartbeat that is asked for"),
    (6, "heartbeats both ways"),
    (7, "deadlines of dialling and of the handshake"),
    (8, "frames and tags out of place"),
    (9, "frames too large, or without an end"),
    (10, "bodies cut at frame_max"),
    (11, "frames of one message stay together"),
    (12, "strings and properties over their limits"),
    (13, "the server closes the connection"),
    (14, "the client closes: in what order, until when"),
    (15, "a channel that is closed concerns no other"),
    (16, "channel numbers, used again after close-ok"),
    (17, "one call at a time on a channel"),
    (18, "confirm tags, in wire order"),
    (19, "confirms in any order and form"),
    (20, "returns, matched to their messages"),
    (21, "blocked connections"),
    (22, "low disk on LavinMQ is back-pressure"),
    (23, "nacks are terminal"),
    (24, "channel.flow"),
    (25, "the publish that closes a channel is found"),
    (26, "confirms that never come"),
    (29, "deliveries in the same read as consume-ok"),
    (30, "the prefetch, and its replay"),
    (31, "the server cancels a consumer"),
    (32, "a consume that fails"),
    (33, "consumer tags"),
    (34, "settling, coalescing, forgotten deliveries"),
    (35, "slow consumers are bounded"),
    (37, "topology stands before anything is sent"),
    (38, "queues named by the server"),
    (39, "exclusive queues that are still locked"),
    (40, "what is replayed and what is not"),
    (41, "backoff"),
    (42, "a loss is noticed at once"),
    (44, "the broker's timeout of deliveries"),
    (45, "redeliveries are counted"),
    (46, "basic.recover, and what it makes stale"),
    (47, "channels are a finite number"),
    (48, "a consumer that is closed"),
];

/// What goes wrong.
const FAULTS: &[(u32, &str)] = &[
    (1, "a read split at any byte"),
    (2, "frames coalesced"),
    (3, "partial writes"),
    (4, "name resolution fails, and recovers"),
    (5, "TCP refused, or hanging"),
    (7, "a cut during setup"),
    (8, "authentication refused, vhost missing"),
    (9, "a cut inside a publish"),
    (10, "a cut after the last byte of a publish"),
    (11, "a cut inside a delivery"),
    (12, "a half-open peer"),
    (13, "a peer that reads nothing"),
    (14, "heartbeats lost one way"),
    (15, "connection.close with every code"),
    (16, "channel.close while publishing"),
    (17, "blocked for ever"),
    (18, "confirms reordered, repeated, unknown"),
    (19, "the broker restarts between write and confirm"),
    (20, "sizes that nobody could hold"),
    (21, "tables that nobody should read"),
    (22, "clocks that jump, ticks that are late"),
    (23, "futures dropped at each await"),
    (24, "clients dropped without a close"),
    (25, "callbacks that panic"),
    (26, "connections that fall as soon as they stand"),
    (27, "a loss that nothing signals"),
    (28, "an ack that races a reconnect"),
    (29, "many producers and consumers, made and closed"),
    (30, "a buffering transport (TLS) that fails in a write"),
    (31, "closes that cross"),
    (32, "a close while half a frame of ours is out"),
    (33, "replies late, out of order, or never"),
    (34, "a return without a settlement, or before a nack"),
    (35, "an alarm while closing, declaring, confirming"),
    (36, "deliveries forgotten, handlers that panic"),
];

const BEGIN: &str = "<!-- made by tests/tests/readme.rs; do not edit -->";
const END: &str = "<!-- end of what is made -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(under: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(under).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// A test: the suite that it is of, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    suite: String,
    name: String,
}

/// The suite of a file, for people.
fn suite(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
    let stem = |part: &str| part.trim_end_matches(".rs").to_owned();
    match parts.as_slice() {
        ["core", "tests", suite, ..] => format!("core: {}", stem(suite)),
        ["core", ..] => "core".to_owned(),
        ["tests", "tests", suite, ..] => stem(suite),
        ["tests", "broker", ..] => "in-process broker".to_owned(),
        ["tests", "src", ..] => "simulator".to_owned(),
        [package, ..] => (*package).to_owned(),
        [] => String::new(),
    }
}

/// The name of the function that begins on this line.
fn function(line: &str) -> Option<&str> {
    let rest = line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
    let rest = rest.strip_prefix("fn ")?;
    Some(&rest[..rest.find(['(', '<'])?])
}

/// Every test of the workspace. Where a suite lists its tests by name (for both runtimes, or for a
/// main of its own), being listed is what makes one.
fn tests() -> (Vec<Test>, Vec<String>) {
    let (mut tests, mut not_run) = (Vec::new(), Vec::new());
    let mut files = Vec::new();
    for package in ["core", "runtime-tokio", "runtime-smol", "tests"] {
        rust_files(&root().join(package), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(root()).unwrap();
        let list = fs::read_to_string(file.with_file_name("main.rs")).unwrap_or_default();
        let listed: BTreeSet<_> = list.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let mut attributed = false;
        for line in text.lines() {
            if line.trim() == "#[test]" || line.trim().starts_with("#[tokio::test") {
                attributed = true;
                continue;
            }
            let Some(name) = function(line) else { continue };
            let is_test =
                std::mem::take(&mut attributed) || (listed.contains(name) && line.contains("<R"));
            if is_test {
                tests.push(Test { suite: suite(path), name: name.to_owned() });
            } else if !lines('s', name).is_empty() || !lines('f', name).is_empty() {
                not_run.push(format!("{}: {name}", path.display()));
            }
        }
    }
    tests.sort();
    (tests, not_run)
}

/// The lines that a test's name begins with: 9 and 10 of `f09_f10_a_cut`.
fn lines(kind: char, name: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for part in name.split('_') {
        let mut letters = part.chars();
        let letter = letters.next();
        let Ok(number) = letters.as_str().parse() else { break };
        if !matches!(letter, Some('s' | 'f')) {
            break;
        }
        if letter == Some(kind) {
            numbers.push(number);
        }
    }
    numbers
}

fn table(kind: char, about: &[(u32, &str)], tests: &[Test], missing: &mut Vec<String>) -> String {
    let mut by_line: BTreeMap<u32, Vec<&Test>> = BTreeMap::new();
    for test in tests {
        for line in lines(kind, &test.name) {
            by_line.entry(line).or_default().push(test);
        }
    }
    let mut table = "| line | about | tests |\n|---|---|---|\n".to_owned();
    for &(line, words) in about {
        let Some(tests) = by_line.remove(&line) else {
            missing.push(format!("{kind}{line}"));
            continue;
        };
        let names: Vec<_> =
            tests.iter().map(|test| format!("{}: `{}`", test.suite, test.name)).collect();
        writeln!(table, "| {kind}{line} | {words} | {} |", names.join("<br>")).unwrap();
    }
    missing.extend(by_line.keys().map(|line| format!("{kind}{line} (tested, and on no list)")));
    table
}

fn suites(tests: &[Test]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for test in tests {
        *counts.entry(&test.suite).or_default() += 1;
    }
    let mut table = "| suite | tests |\n|---|---:|\n".to_owned();
    for (suite, count) in counts {
        writeln!(table, "| {suite} | {count} |").unwrap();
    }
    writeln!(table, "| together | {} |", tests.len()).unwrap();
    table
}

#[test]
fn every_line_has_a_test_that_runs_and_the_readme_says_so() {
    let (tests, not_run) = tests();
    assert!(tests.len() > 500, "{} tests found", tests.len());
    assert!(not_run.is_empty(), "named like tests, and run by nothing: {not_run:#?}");
    let mut missing = Vec::new();
    let faults = table('f', FAULTS, &tests, &mut missing);
    let behaviours = table('s', BEHAVIOURS, &tests, &mut missing);
    assert!(missing.is_empty(), "lines without a test, or tests without a line: {missing:?}");

    let path = root().join("tests/README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the mark where the tables begin");
    let (_, after) = rest.split_once(END).expect("the mark where they end");
    let made = format!(
        "{before}{BEGIN}\n\n### Suites\n\n{}\n### Faults\n\n{faults}\n### Behaviours\n\n{behaviours}\n{END}{after}",
        suites(&tests)
    );
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(&path, made).unwrap();
    } else {
        assert!(
            text == made,
            "tests/README.md is out of date: UPDATE_README=1 cargo test -p lavinmq-tests --test readme"
        );
    }
}
