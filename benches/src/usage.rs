//! What a process has cost so far.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::{AllocationCount, Fallible};

/// A reading of all meters of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    cpu: Duration,
    switches: u64,
    allocations: Option<u64>,
}

/// What happened between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time of all threads.
    pub(crate) cpu: Duration,
    /// How often a thread gave up the processor to wait.
    pub(crate) switches: u64,
    pub(crate) allocations: Option<u64>,
}

impl Usage {
    pub(crate) fn now(allocations: Option<AllocationCount>) -> Fallible<Self> {
        // Reading the files comes first: it is not to be part of what is measured.
        let switches = switches()?;
        let allocations = allocations.map(|count| count());
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.try_into()?, cpu.tv_nsec.try_into()?);
        Ok(Self { at: Instant::now(), cpu, switches, allocations })
    }

    /// From `self` until now. The reading's own cost (about 20 µs) is not in it, but for the
    /// clocks.
    pub(crate) fn elapsed(&self, allocations: Option<AllocationCount>) -> Fallible<Cost> {
        let wall = self.at.elapsed();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.try_into()?, cpu.tv_nsec.try_into()?);
        let counted = allocations.map(|count| count());
        Ok(Cost {
            wall,
            cpu: cpu.saturating_sub(self.cpu),
            switches: switches()?.saturating_sub(self.switches),
            allocations: counted.zip(self.allocations).map(|(now, then)| now - then),
        })
    }
}

/// Voluntary context switches of all threads alive.
fn switches() -> Fallible<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread may end between the listing and the reading.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        sum += field(&text, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(sum)
}

/// The most memory that this process had resident, in bytes.
pub(crate) fn peak_memory() -> Fallible<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    Ok(field(&text, "VmHWM:").ok_or("no VmHWM")? * 1024)
}

/// The memory that this process has resident now, in bytes.
pub(crate) fn resident_memory() -> Fallible<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    Ok(field(&text, "VmRSS:").ok_or("no VmRSS")? * 1024)
}

/// How many entries a folder of this process has: `task` its threads, `fd` its file descriptors.
pub(crate) fn entries(folder: &str) -> Fallible<usize> {
    Ok(std::fs::read_dir(format!("/proc/self/{folder}"))?.count())
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_on_the_cpu_clock_and_sleep_does_not() -> Fallible {
        let start = Usage::now(None)?;
        let mut x = 1_u64;
        while start.at.elapsed() < Duration::from_millis(20) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let busy = start.elapsed(None)?.cpu;
        assert!(busy > Duration::ZERO);
        assert!(peak_memory()? > 100_000);
        Ok(())
    }
}
