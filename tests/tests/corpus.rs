//! Replays the corpora of the fuzz targets on a stable compiler: what the fuzzer found once holds for
//! ever. How to fuzz, and what the targets check, is in `fuzz/README.md`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a panic is a failure here")]

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{
    collections::BTreeMap,
    fs, panic,
    path::Path,
    sync::{Mutex, PoisonError},
};

use lavinmq_core::{
    sabotage::{self, Sabotage},
    wire::WireError,
};

/// The targets measure the heap of the whole process: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `check` over every file of a corpus; what it returned, by file.
fn replay<T>(target: &str, check: impl Fn(&[u8]) -> T) -> BTreeMap<String, T> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut results = BTreeMap::new();
    for entry in fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        println!("{target}/{name}"); // shown if it fails
        results.insert(name, check(&fs::read(&path).unwrap()));
    }
    assert!(results.len() >= 7, "the corpus of {target} is gone");
    results
}

#[test]
fn f20_f21_seeds_of_frames_end_as_they_should() {
    let expected = BTreeMap::from([
        ("seed-all-properties", (1, None)),
        ("seed-bad-frame-end", (0, Some(WireError::FrameEnd(0)))),
        ("seed-bad-utf8", (1, Some(WireError::Utf8 { what: "a property" }))),
        ("seed-declare-consume-return", (3, None)),
        ("seed-deliver-in-pieces", (4, None)),
        ("seed-lying-length", (1, Some(WireError::TableLength))),
        ("seed-lying-table", (1, Some(WireError::TableLength))),
        ("seed-nested-32", (1, None)),
        ("seed-nested-600", (1, Some(WireError::TableTooDeep))),
        ("seed-oversize", (0, Some(WireError::FrameTooLarge { size: u32::MAX, max: 131_072 }))),
        ("seed-protocol-header", (0, Some(WireError::ProtocolHeader(*b"AMQP\0\0\x09\x01")))),
        ("seed-publish", (3, None)),
        ("seed-settle", (3, None)),
        ("seed-start", (1, None)),
        ("seed-tune-open-close", (5, None)),
        ("seed-unknown-method", (1, Some(WireError::UnknownMethod { class: 60, method: 1 }))),
    ]);
    let found = replay("frame_decode", targets::frame_decode::check);
    // The others only have to pass.
    let found: BTreeMap<_, _> = found
        .iter()
        .filter(|(name, _)| name.starts_with("seed-"))
        .map(|(name, end)| (&**name, end.clone()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn f01_f02_split_replays() {
    replay("split", targets::split::check);
}

#[test]
fn f18_f20_connection_replays() {
    replay("connection", targets::connection::check);
}

#[test]
fn operations_replay() {
    replay("operations", targets::operations::check);
}

#[test]
fn f21_tables_replay() {
    replay("tables", targets::tables::check);
}

#[test]
fn differential_replays() {
    replay("differential", targets::differential::check);
}

#[test]
fn uri_replays() {
    replay("uri", targets::uri::check);
}

/// The corpus reaches what it claims to reach: with a defect planted, some file of it fails.
#[test]
fn planted_defects_are_found_by_the_operations() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/operations");
    let files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    for defect in [Sabotage::NoRewind, Sabotage::NackIsDrop] {
        sabotage::plant(Some(defect));
        let found = files
            .iter()
            .any(|file| panic::catch_unwind(|| targets::operations::check(file)).is_err());
        sabotage::plant(None);
        assert!(found, "{defect:?}");
    }
}
