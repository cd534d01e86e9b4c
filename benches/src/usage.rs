//! What a process has cost so far.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::syscalls::Syscalls;
use crate::{AllocationCount, Fallible};

/// What is counted besides, in runs that are not timed.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) allocations: Option<AllocationCount>,
    pub(crate) syscalls: Option<Syscalls>,
}

impl Counters {
    /// Allocations and system calls.
    fn read(&mut self) -> Fallible<(Option<u64>, Option<u64>)> {
        let syscalls = self.syscalls.as_mut().map(Syscalls::count).transpose()?;
        Ok((self.allocations.map(|count| count()), syscalls))
    }
}

/// A reading of all meters of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    cpu: Duration,
    switches: u64,
    allocations: Option<u64>,
    syscalls: Option<u64>,
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
    pub(crate) syscalls: Option<u64>,
}

impl Usage {
    pub(crate) fn now(counters: &mut Counters) -> Fallible<Self> {
        // Reading the files comes first: it is not to be part of what is measured.
        let switches = switches()?;
        let (allocations, syscalls) = counters.read()?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.try_into()?, cpu.tv_nsec.try_into()?);
        Ok(Self { at: Instant::now(), cpu, switches, allocations, syscalls })
    }

    /// From `self` until now. The reading's own cost (about 20 µs) is not in it, but for the
    /// clocks.
    pub(crate) fn elapsed(&self, counters: &mut Counters) -> Fallible<Cost> {
        let wall = self.at.elapsed();
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.try_into()?, cpu.tv_nsec.try_into()?);
        let (allocations, syscalls) = counters.read()?;
        let since =
            |now: Option<u64>, then: Option<u64>| now.zip(then).map(|(now, then)| now - then);
        Ok(Cost {
            wall,
            cpu: cpu.saturating_sub(self.cpu),
            switches: switches()?.saturating_sub(self.switches),
            allocations: since(allocations, self.allocations),
            syscalls: since(syscalls, self.syscalls),
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
        let start = Usage::now(&mut Counters::default())?;
        let mut x = 1_u64;
        while start.at.elapsed() < Duration::from_millis(20) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let busy = start.elapsed(&mut Counters::default())?.cpu;
        assert!(busy > Duration::ZERO);
        assert!(peak_memory()? > 100_000);
        Ok(())
    }
}
