//! What the clients talk to: sinks in processes of their own, or a broker.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::modes::Task;
use crate::raw::{Raw, Target};
use crate::sink::CHANNEL_MAX;
use crate::{Fallible, machine};

/// Starts and ends a private RabbitMQ: the tests' own way.
const CONTROL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/broker-control/control.sh");

/// The other side of a run.
pub(crate) enum Peer {
    /// On the core of its own, and on the client's, for latencies.
    Sinks { far: Sink, near: Sink },
    /// A real one.
    Broker(Broker),
}

impl Peer {
    pub(crate) fn url(&self, task: &Task) -> &str {
        match self {
            Self::Sinks { near, .. } if task.mode.is_latency() => &near.url,
            Self::Sinks { far, .. } => &far.url,
            Self::Broker(broker) => &broker.url,
        }
    }

    pub(crate) fn is_broker(&self) -> bool {
        matches!(self, Self::Broker(_))
    }
}

/// A sink in a process of its own, ended with it.
pub(crate) struct Sink {
    process: Child,
    pub(crate) url: String,
}

impl Sink {
    pub(crate) fn start(program: &Path, core: Option<usize>, spin: u64) -> Fallible<Self> {
        Self::start_with(program, core, spin, CHANNEL_MAX)
    }

    /// One that offers so many channels a connection.
    pub(crate) fn start_with(
        program: &Path,
        core: Option<usize>,
        spin: u64,
        channel_max: u16,
    ) -> Fallible<Self> {
        let mut command = Command::new(program);
        command.args(["sink", "--spin", &spin.to_string()]).stdout(Stdio::piped());
        command.args(["--channel-max", &channel_max.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut process = command.spawn()?;
        let mut port = String::new();
        let output = process.stdout.take().ok_or("the sink has no output")?;
        BufReader::new(output).read_line(&mut port)?;
        Ok(Self { process, url: format!("amqp://guest:guest@127.0.0.1:{}", port.trim()) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It has no state to lose, and may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A broker that answers.
pub(crate) struct Broker {
    pub(crate) url: String,
    /// In a line: what it is, and where it runs.
    pub(crate) about: String,
    /// If it is ours. Ends it when dropped.
    _guard: Option<Guard>,
}

impl Broker {
    /// One that somebody else runs.
    pub(crate) fn at(target: &Target) -> Fallible<Self> {
        let product = Raw::open(target)?.product().to_owned();
        let about = format!("against: {product} at {}:{}", target.host, target.port);
        Ok(Self { url: target.url.clone(), about, _guard: None })
    }

    /// A private RabbitMQ with its own port and data, kept on one core.
    pub(crate) fn start(core: Option<usize>) -> Fallible<Self> {
        let directory = Directory::new()?;
        let guard = Guard::new(&directory)?;
        let mut command = Command::new("bash");
        command.arg(CONTROL).arg(&directory.0).arg("start").stdin(Stdio::null());
        // A process runs where the thread that began it does.
        let output = match core {
            Some(core) => machine::pinned(core, || command.output())?,
            None => command.output()?,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        let url = text
            .lines()
            .find_map(|line| line.strip_prefix("AMQP_URL="))
            .filter(|_| output.status.success())
            .ok_or_else(|| complaint.lines().last().unwrap_or("it did not start").to_owned())?;
        let product = Raw::open(&url.parse()?)?.product().to_owned();
        let core = core.map_or(String::new(), |core| format!(", on core {core}"));
        let about = format!("against: a private {product}{core}");
        Ok(Self { url: url.to_owned(), about, _guard: Some(guard) })
    }
}

/// Made by mktemp, removed by [`Guard`].
struct Directory(PathBuf);

impl Directory {
    fn new() -> Fallible<Self> {
        let output =
            Command::new("mktemp").args(["-d", "-t", "lavinmq-benches.XXXXXXXX"]).output()?;
        let path = String::from_utf8(output.stdout)?.trim().to_owned();
        if path.is_empty() { Err("mktemp -d failed".into()) } else { Ok(Self(path.into())) }
    }
}

/// Ends and removes the instance in a directory when the pipe to it closes: on drop, and also
/// when this process is killed.
struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    fn new(directory: &Directory) -> Fallible<Self> {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("bash")
            .args(["-c", "read -r _; exec bash \"$0\" \"$1\" destroy", CONTROL])
            .arg(&directory.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the benchmarks; the guard ends by its pipe.
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.child.wait();
    }
}
