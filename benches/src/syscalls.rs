//! System calls of this process, counted by the kernel at the tracepoint where each one begins.

use std::path::Path;
use std::sync::OnceLock;

use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};

use crate::Fallible;

/// Where the kernel lists its tracepoints.
const TRACING: &str = "/sys/kernel/tracing";

/// Counts from when it was made, in all threads begun since by the one that made it, and in that.
pub(crate) struct Syscalls(Counter);

impl Syscalls {
    /// To be called before there are other threads.
    ///
    /// # Errors
    ///
    /// Where counting is not permitted: it takes root, or CAP_PERFMON and a mounted tracefs.
    pub(crate) fn start() -> Fallible<Self> {
        let event = Tracepoint::with_id(tracepoint()?);
        // The calls are counted in the kernel's own code.
        let mut counter = Builder::new(event).include_kernel().inherit(true).build()?;
        counter.enable()?;
        Ok(Self(counter))
    }

    /// So far. (Reading is one itself, and the first in the next figure.)
    pub(crate) fn count(&mut self) -> Fallible<u64> {
        Ok(self.0.read()?)
    }
}

/// Why they can't be counted here, if they can't.
pub(crate) fn obstacle() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    WHY.get_or_init(|| Syscalls::start().err().map(|error| error.to_string())).clone()
}

/// The number that the kernel has given it.
fn tracepoint() -> Fallible<u64> {
    let events = Path::new(TRACING).join("events");
    if !events.exists() {
        mount();
    }
    let file = events.join("raw_syscalls/sys_enter/id");
    let id =
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(id.trim().parse()?)
}

/// As `perf` does, where nobody has mounted it yet: whether that worked shows in the file.
fn mount() {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _ = mount("nodev", TRACING, "tracefs", flags, None::<&std::ffi::CStr>);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn reads(count: usize) -> std::io::Result<()> {
        let mut file = std::fs::File::open("/dev/zero")?;
        for _ in 0..count {
            file.read_exact(&mut [0])?;
        }
        Ok(())
    }

    #[test]
    fn a_known_number_of_calls_is_seen_in_this_thread_and_in_one_begun_later() -> Fallible {
        let mut syscalls = match Syscalls::start() {
            Ok(syscalls) => syscalls,
            Err(why) => {
                eprintln!("not run: system calls can't be counted here: {why}");
                return Ok(());
            }
        };
        let idle = syscalls.count()?;
        reads(1_000)?;
        let here = syscalls.count()?;
        // Opening and closing the file, and reading the counter.
        assert!((1_000..1_010).contains(&(here - idle)), "{}", here - idle);

        let (done, is_done) = std::sync::mpsc::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let result = reads(1_000);
            let _ = done.send(());
            // It is still there when it is counted.
            let _ = may_end.recv();
            result
        });
        is_done.recv()?;
        let both = syscalls.count()?;
        drop(end);
        other.join().map_err(|_| "the other thread panicked")??;
        // Beginning a thread takes some, too.
        assert!((1_000..1_200).contains(&(both - here)), "{}", both - here);
        Ok(())
    }
}
