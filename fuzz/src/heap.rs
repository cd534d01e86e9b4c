//! What the code under test takes from the heap.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes that are allocated now. Of all threads: nothing else may run beside a measurement.
pub(crate) fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

/// Runs `work` and returns how many bytes it allocated, freed ones included.
pub(crate) fn spent<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HEAP.stats().bytes_allocated;
    let result = work();
    (result, HEAP.stats().bytes_allocated.wrapping_sub(before))
}
