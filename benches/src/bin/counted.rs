//! The benchmark program, over an allocator that counts: for the columns of allocations and of memory only.

use std::alloc::System;
use std::process::ExitCode;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let allocations = || {
        let stats = ALLOCATOR.stats();
        // A realloc is a trip to the allocator, too: a growing `Vec` is not free.
        (stats.allocations + stats.reallocations) as u64
    };
    let live = || {
        let stats = ALLOCATOR.stats();
        // What a realloc adds is in the first, what it takes away in the second.
        stats.bytes_allocated.saturating_sub(stats.bytes_deallocated) as u64
    };
    lavinmq_benches::main(Some(allocations), Some(live))
}
