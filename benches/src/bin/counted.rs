//! The benchmark program, over an allocator that counts: for the column of allocations only.

use std::alloc::System;
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    lavinmq_benches::main(Some(|| {
        let stats = ALLOCATOR.stats();
        // A realloc is a trip to the allocator, too: a growing `Vec` is not free.
        (stats.allocations + stats.reallocations) as u64
    }))
}
