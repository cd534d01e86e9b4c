//! Arbitrary bytes through the whole decoder, and back; see `round_trip`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../core/tests/round_trip/mod.rs"]
mod round_trip;

fuzz_target!(|data: &[u8]| {
    let _ = round_trip::check(data);
});
