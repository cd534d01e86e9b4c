//! The machine that figures belong to.

use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Fallible;

/// In one line each: processor, cores, kernel, compiler.
pub(crate) fn description() -> Vec<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = Command::new("rustc").arg("--version").output().map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    vec![
        format!("processor: {model}, {cores} cores"),
        format!("kernel: Linux {}", kernel.trim()),
        format!("compiler: {rustc}"),
    ]
}

/// How busy the machine is with other things: the load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Keeps this process, and what it starts from now on, on one core.
pub(crate) fn pin(core: usize) -> Fallible {
    pin_to(&[core])
}

/// The same, on some cores.
pub(crate) fn pin_to(cores: &[usize]) -> Fallible {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// Does `work` on one core: the processes that it starts stay there.
pub(crate) fn pinned<T, E>(core: usize, work: impl FnOnce() -> Result<T, E>) -> Fallible<T>
where
    crate::Failure: From<E>,
{
    let before = sched_getaffinity(None)?;
    pin(core)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    Ok(result?)
}
