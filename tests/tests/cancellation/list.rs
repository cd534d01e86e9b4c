//! The list of public futures, held against the sources.

use std::{collections::BTreeSet, fs, path::Path};

/// Every public function that gives a future, and every public future; and the test in `rows` that
/// drops it.
const ROWS: &[(&str, &str)] = &[
    ("Client::close", "client_close"),
    ("Client::ready", "client_ready"),
    ("Client::shutdown", "client_shutdown"),
    ("Connect", "connect"),
    ("Consumer::close", "consumer_close"),
    ("Consumer::next", "consumer_next"),
    ("Consumer::next_batch", "consumer_next_batch"),
    ("Consumer::run", "consumer_run"),
    ("Consumer::settled", "consumer_settled"),
    ("ConsumerBuilder::open", "consumer_open"),
    ("ConsumerHandle::close", "consumer_handle_close"),
    ("ConsumerHandle::settled", "consumer_handle_settled"),
    ("Driver", "driver"),
    ("Events::next", "events_next"),
    ("Flush", "producer_flush"),
    ("Producer::close", "producer_close"),
    ("Producer::flush", "producer_flush"),
    ("Producer::publish", "producer_publish"),
    ("Producer::publish_to", "producer_publish_to"),
    ("Producer::shutdown", "producer_shutdown"),
    ("ProducerBuilder::open", "producer_open"),
    ("Publish", "producer_publish"),
    ("QueueBuilder::declare", "queue_declare"),
    ("Receipt", "receipt"),
    ("lavinmq_smol::connect", "connect"),
    ("lavinmq_tokio::connect", "connect"),
];

/// What a public function's signature names when it gives a future.
const FUTURES: [&str; 6] = ["Publish<", "Flush", "Receipt", "Next<", "Connect", "impl Future"];

#[test]
fn f23_every_public_future_has_a_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeSet::new();
    for (folder, prefix) in [
        ("core/src/client", ""),
        ("core/src/driver", ""),
        ("core/src/event.rs", ""),
        ("runtime-tokio/src/lib.rs", "lavinmq_tokio::"),
        ("runtime-smol/src/lib.rs", "lavinmq_smol::"),
    ] {
        let path = root.join(folder);
        let files = if path.is_file() {
            vec![path]
        } else {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
            let text = fs::read_to_string(file).unwrap();
            futures_in(text.split("#[cfg(test)]\nmod tests {").next().unwrap(), prefix, &mut found);
        }
    }
    let rows: BTreeSet<String> = ROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let without: Vec<_> = found.difference(&rows).collect();
    assert!(without.is_empty(), "no row: {without:?}");
    let gone: Vec<_> = rows.difference(&found).collect();
    assert!(gone.is_empty(), "not in the sources: {gone:?}");
    let tests = include_str!("rows.rs");
    for (name, test) in ROWS {
        assert!(tests.contains(&format!("fn f23_{test}(")), "{name}: no test f23_{test}");
    }
}

/// The last word of a type's path, without its generics.
fn name(of: &str) -> String {
    let path = of.trim().split(['<', ' ']).next().unwrap_or_default();
    path.rsplit("::").next().unwrap_or_default().to_owned()
}

fn futures_in(text: &str, prefix: &str, found: &mut BTreeSet<String>) {
    let mut owner = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("impl") || line.starts_with("pub(crate) ") || line.starts_with('}') {
            let header = line.strip_prefix("impl").unwrap_or_default();
            let header = header.strip_prefix('<').map_or(header, after_generics);
            match header.split_once(" for ") {
                Some((what, whose)) if what.trim() == "Future" => {
                    // One that is no part of the public surface has a public name elsewhere.
                    if text.contains(&format!("pub struct {}", name(whose))) {
                        found.insert(name(whose));
                    }
                    owner.clear();
                }
                Some(_) => owner.clear(),
                None => owner = name(header),
            }
            continue;
        }
        let declared = line.trim_start();
        if !declared.starts_with("pub ") || !declared.contains("fn ") {
            continue;
        }
        let mut signature = declared.to_owned();
        while !signature.contains('{')
            && !signature.ends_with(';')
            && let Some(more) = lines.next()
        {
            signature.push_str(more);
        }
        let function = signature.split("fn ").nth(1).and_then(|f| f.split(['(', '<']).next());
        let gives = signature.rsplit("->").next().filter(|_| signature.contains("->"));
        let future = signature.starts_with("pub async ")
            || gives.is_some_and(|gives| {
                FUTURES.iter().any(|future| gives.trim_start().starts_with(future))
            });
        // `new` of a future is for runtime crates.
        if let Some(function) = function.filter(|_| future) {
            let owner = if owner.is_empty() { String::new() } else { format!("{owner}::") };
            found.insert(format!("{prefix}{owner}{function}"));
        }
    }
}

/// What follows `A, B: C<D>>` of `impl<A, B: C<D>> …`.
fn after_generics(header: &str) -> &str {
    let mut depth = 1;
    for (at, c) in header.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &header[at + 1..];
        }
    }
    header
}
