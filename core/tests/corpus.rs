//! Replays the fuzz target's seeds on a stable compiler, and says what each is an example of.

#![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

mod round_trip;

use std::{collections::BTreeMap, fs, path::Path};

use lavinmq_core::wire::WireError;

#[test]
fn f20_f21_seeds_end_as_they_should() {
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
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/frame_decode");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // What the fuzzer itself adds is not committed, and only has to pass.
        let outcome = round_trip::check(&fs::read(&path).unwrap());
        if name.starts_with("seed-") {
            found.insert(name, outcome);
        }
    }
    let found: BTreeMap<_, _> = found.iter().map(|(name, end)| (&**name, end.clone())).collect();
    assert_eq!(found, expected);
}
