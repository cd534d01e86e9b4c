//! Runs one input without a fuzzer, and on stable: `cargo run --example replay -- TARGET FILE`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a tool for us")]

use lavinmq_fuzz as targets;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap();
    for file in arguments {
        let data = std::fs::read(&file).unwrap();
        match &*target {
            "frame_decode" => drop(targets::frame_decode::check(&data)),
            "split" => targets::split::check(&data),
            "connection" => targets::connection::check(&data),
            "operations" => targets::operations::check(&data),
            "differential" => targets::differential::check(&data),
            "tables" => targets::tables::check(&data),
            "uri" => targets::uri::check(&data),
            other => panic!("no target {other}"),
        }
    }
}
