#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lavinmq_fuzz::connection::check(data));
