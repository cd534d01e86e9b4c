#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = lavinmq_fuzz::frame_decode::check(data);
});
