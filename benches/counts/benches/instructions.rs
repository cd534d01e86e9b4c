//! Instructions, counted by callgrind, one run for each mode.
//!
//! `cargo run --release -p lavinmq-counts` runs this and compares what comes of it. The profiles stay
//! under target/gungraun, for callgrind_annotate.

// The macros make public items. A mode that does not exist ends the program.
#![allow(missing_docs, clippy::expect_used)]

use std::hint::black_box;

use gungraun::{Callgrind, prelude::*};
use lavinmq_counts::modes::{Bench, Mode};

/// What glibc is not to see in the processor, so that its memcpy is the same one everywhere. (And callgrind
/// counts a `rep movsb` as an instruction for each byte.)
const PROCESSOR: &str = "glibc.cpu.hwcaps=-ERMS,-FSRM,-SSSE3,-SSE4_1,-AVX2,\
    -AVX_Fast_Unaligned_Load,-AVX512F,-AVX512VL,-AVX512BW";

fn warm(name: &str) -> Bench {
    Bench::new(Mode::named(name).expect("a mode"))
}

#[library_benchmark(setup = warm)]
#[bench::publish("publish")]
#[bench::publish_4_tasks("publish-4-tasks")]
#[bench::confirm_pipelined("confirm-pipelined")]
#[bench::confirm_hook("confirm-hook")]
#[bench::confirm_one("confirm-one")]
#[bench::consume_no_ack("consume-no-ack")]
#[bench::consume_ack_1000("consume-ack-1000")]
#[bench::consume_ack_100("consume-ack-100")]
#[bench::publish_1k("publish-1k")]
#[bench::consume_1k("consume-1k")]
#[bench::publish_64k("publish-64k")]
#[bench::consume_64k("consume-64k")]
fn measured(mut bench: Bench) -> Bench {
    black_box(bench.measured());
    // Whose end is not measured.
    bench
}

library_benchmark_group!(name = counts, benchmarks = [measured]);
main!(
    config = LibraryBenchmarkConfig::default().env("GLIBC_TUNABLES", PROCESSOR).tool(
        // Counting begins and ends with `measured`, and stops for what runs apart in it.
        Callgrind::with_args([
            "--cache-sim=no",
            "--toggle-collect=*lavinmq_counts::apart::not_counted*"
        ])
    ),
    library_benchmark_groups = counts
);
