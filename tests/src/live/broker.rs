//! The broker under test: a private RabbitMQ that is started and ended here, or one that is
//! already running (`AMQP_TEST_URL`), and whatever can control it (`AMQP_TEST_CTL`, a command that
//! takes the verbs of `tests/broker-control/control.sh`).

use std::{
    env,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use super::witness::Witness;

const INSTALL: &str = "\
this needs a RabbitMQ of its own, and there is no rabbitmq-server here. Install it:

    apt-get update && apt-get install -y --no-install-recommends rabbitmq-server

(tests/run does that, without starting a service), or point to a broker that is running:

    AMQP_TEST_URL=amqp://guest:guest@127.0.0.1:5672/%2f";

/// Which broker it is, as far as the suite must know ("Brokers differ" in semantics.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    RabbitMq,
    LavinMq,
    Other,
}

impl Product {
    /// Whether it ever sends `connection.blocked`. LavinMQ advertises it and closes the channel
    /// with 406 on low disk instead.
    pub const fn sends_blocked(self) -> bool {
        !matches!(self, Self::LavinMq)
    }

    /// Read out of the server's `connection.start`, whose properties are the first long thing a
    /// broker says.
    fn ask(address: &str) -> Self {
        let start = || -> std::io::Result<Vec<u8>> {
            let mut socket = TcpStream::connect(address)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            socket.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut header = [0; 7];
            socket.read_exact(&mut header)?;
            let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
            let mut frame = vec![0; size.min(8192) as usize];
            socket.read_exact(&mut frame)?;
            Ok(frame)
        };
        let frame = start().unwrap_or_default();
        let says = |word: &[u8]| frame.windows(word.len()).any(|window| window == word);
        if says(b"RabbitMQ") {
            Self::RabbitMq
        } else if says(b"LavinMQ") {
            Self::LavinMq
        } else {
            Self::Other
        }
    }
}

/// A broker, for one test at a time.
pub struct Broker {
    pub url: String,
    pub product: Product,
    control: Control,
    /// If it is ours. Ends it when dropped.
    _guard: Option<Guard>,
}

/// Ends and removes the instance in a directory when the pipe to it closes: on drop, and also when
/// this process is killed.
struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.child.wait();
    }
}

impl Guard {
    fn new(directory: &str) -> Result<Self, String> {
        use std::os::unix::process::CommandExt as _;
        let mut child = Command::new("bash")
            .args([
                "-c",
                "read -r _; exec bash \"$0\" \"$1\" destroy",
                &script("control.sh"),
                directory,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the suite; the guard ends by its pipe.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot run bash: {error}"))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

fn script(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("broker-control")
        .join(name)
        .display()
        .to_string()
}

impl Broker {
    /// A new, empty RabbitMQ with its own port, data, node name and cookie.
    pub fn start_own() -> Result<Self, String> {
        let directory = unique_directory()?;
        let guard = Guard::new(&directory)?;
        let output = Command::new("bash")
            .args([&script("control.sh"), &directory, "start"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run bash: {error}"))?;
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if err.contains("no rabbitmq-server found") {
            return Err(INSTALL.to_owned());
        }
        let url = out
            .lines()
            .find_map(|line| line.strip_prefix("AMQP_URL="))
            .filter(|_| output.status.success())
            .ok_or_else(|| format!("RabbitMQ did not start:\n{err}"))?;
        let control = format!("bash {} {}", quote(&script("control.sh")), quote(&directory));
        Ok(Self {
            url: url.to_owned(),
            product: Product::RabbitMq,
            control: Control(Some(control)),
            _guard: Some(guard),
        })
    }

    /// What the environment asks for: the one at `AMQP_TEST_URL`, or a new one of our own.
    pub fn from_env() -> Result<Self, String> {
        match external() {
            None => Self::start_own(),
            Some((url, control)) => Self::running(url, control),
        }
    }

    /// Whether it can be stopped, blocked and asked.
    pub const fn has_control(&self) -> bool {
        self.control.0.is_some()
    }

    /// The broker at `url`, which somebody else started.
    fn running(url: String, control: Option<String>) -> Result<Self, String> {
        let parsed = url::Url::parse(&url).map_err(|error| format!("AMQP_TEST_URL: {error}"))?;
        let host = parsed.host_str().unwrap_or("localhost");
        let address = format!("{host}:{}", parsed.port().unwrap_or(5672));
        TcpStream::connect(&address)
            .map_err(|error| format!("AMQP_TEST_URL: nobody answers at {address}: {error}"))?;
        Ok(Self { product: Product::ask(&address), url, control: Control(control), _guard: None })
    }

    /// A handle to its control that can be taken to another thread.
    pub fn controller(&self) -> Control {
        self.control.clone()
    }

    /// One of the verbs that change the broker: `stop`, `start`, `kill`, `block`, `unblock`,
    /// `close-connections`. Returns when it is done.
    pub fn control(&self, verb: &str) {
        self.control.change(verb);
    }

    /// Has what was declared so far written to disk, where the broker can be told. To be called before
    /// the first `kill` after a declare: RabbitMQ 3.10 confirms messages in a durable queue that it
    /// does not know any more if it is killed within the next two seconds. (Its transaction log has the
    /// declaration then, but not yet that it was committed.)
    pub fn sync(&self) {
        // A broker that has no such verb is taken to need none.
        let _ = self.control.run(&["sync"]);
    }

    /// The broker's own count of the messages in a queue, unacknowledged ones included; `None` if
    /// there is no such queue. Where nobody can be asked, the witness looks: at a queue that nobody
    /// consumes, it sees the same.
    pub fn depth(&self, queue: &str) -> Option<u64> {
        if self.control.0.is_none() {
            return Some(Witness::new(&self.url).ready(queue).into());
        }
        self.control.run(&["depth", queue]).ok()?.trim().parse().ok()
    }

    /// The broker's own count of unacknowledged messages, where it can be asked.
    pub fn unacked(&self, queue: &str) -> Option<u64> {
        self.control.run(&["unacked", queue]).ok()?.trim().parse().ok()
    }

    /// How many connections of this name the broker has, and how many channels they have together,
    /// where it can be asked.
    pub fn connections(&self, name: &str) -> Option<(u64, u64)> {
        let answer = self.control.run(&["connections", name]).ok()?;
        let (connections, channels) = answer.trim().split_once(' ')?;
        Some((connections.parse().ok()?, channels.parse().ok()?))
    }

    /// The host and port that it listens at.
    pub fn address(&self) -> SocketAddr {
        let url = url::Url::parse(&self.url).unwrap();
        let host = url.host_str().unwrap_or("localhost").trim_matches(['[', ']']).to_owned();
        let mut addresses = (host, url.port().unwrap_or(5672)).to_socket_addrs().unwrap();
        addresses.next().expect("the broker's host has an address")
    }
}

/// The command that takes the verbs of `AMQP_TEST_CTL`, if there is one.
#[derive(Clone)]
pub struct Control(Option<String>);

impl Control {
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let Some(command) = &self.0 else { return Err("AMQP_TEST_CTL is not set".to_owned()) };
        let mut line = command.clone();
        for argument in arguments {
            let _ = write!(line, " {}", quote(argument));
        }
        let output = Command::new("sh")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run sh: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// See [`Broker::control`].
    pub fn change(&self, verb: &str) {
        self.try_change(verb).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The same, for whom a failure is not the end.
    pub fn try_change(&self, verb: &str) -> Result<(), String> {
        self.run(&[verb]).map(drop)
    }
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A directory that nobody else has, for one instance.
fn unique_directory() -> Result<String, String> {
    let output = Command::new("mktemp")
        .args(["-d", "-t", "lavinmq-live.XXXXXXXX"])
        .output()
        .map_err(|error| format!("cannot run mktemp: {error}"))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if path.is_empty() { Err("mktemp -d failed".to_owned()) } else { Ok(path) }
}

/// `AMQP_TEST_URL` and `AMQP_TEST_CTL`, if they are set.
fn external() -> Option<(String, Option<String>)> {
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    Some((variable("AMQP_TEST_URL")?, variable("AMQP_TEST_CTL")))
}

/// The brokers of one run: at most so many at a time, started when they are first needed.
pub struct Pool {
    external: Option<(String, Option<String>)>,
    idle: Mutex<Idle>,
    returned: Condvar,
}

struct Idle {
    brokers: Vec<Broker>,
    /// How many more may be started.
    room: usize,
    /// Why none can be had. Told to every test: each fails, loudly.
    broken: Option<String>,
}

impl Pool {
    /// What the environment asks for: the one broker at `AMQP_TEST_URL`, or two of our own, so that
    /// two tests run side by side, each with a broker to itself.
    pub fn from_env() -> Self {
        let external = external();
        let room = if external.is_some() { 1 } else { 2 };
        let idle = Mutex::new(Idle { brokers: Vec::new(), room, broken: None });
        Self { external, idle, returned: Condvar::new() }
    }

    pub const fn size(&self) -> usize {
        if self.external.is_some() { 1 } else { 2 }
    }

    /// Whether the brokers can be stopped, blocked and asked.
    pub fn has_control(&self) -> bool {
        self.external.as_ref().is_none_or(|(_, control)| control.is_some())
    }

    /// Which broker the tests will meet.
    pub fn product(&self) -> Result<Product, String> {
        match &self.external {
            None => Ok(Product::RabbitMq),
            Some((url, control)) => Ok(Broker::running(url.clone(), control.clone())?.product),
        }
    }

    /// Runs a test with a broker of its own. One that a failed test leaves behind (stopped, or
    /// blocked) is not used again.
    pub fn with(&self, name: &str, test: impl FnOnce(&Broker)) -> Result<(), String> {
        let broker = self.take()?;
        let start = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&broker)));
        eprintln!("{:8.1} s  {name}", start.elapsed().as_secs_f64());
        let ok = result.is_ok();
        {
            let mut idle = self.idle.lock().unwrap();
            if ok || self.external.is_some() {
                idle.brokers.push(broker);
            } else {
                drop(broker);
                idle.room += 1;
            }
        }
        self.returned.notify_one();
        result.map_err(|panic| {
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "panicked".to_owned())
        })
    }

    fn take(&self) -> Result<Broker, String> {
        let mut idle = self.idle.lock().unwrap();
        loop {
            if let Some(why) = &idle.broken {
                return Err(why.clone());
            }
            if let Some(broker) = idle.brokers.pop() {
                return Ok(broker);
            }
            if idle.room > 0 {
                idle.room -= 1;
                drop(idle);
                let started = match &self.external {
                    None => Broker::start_own(),
                    Some((url, control)) => Broker::running(url.clone(), control.clone()),
                };
                return started.inspect_err(|why| {
                    self.idle.lock().unwrap().broken = Some(why.clone());
                    self.returned.notify_all();
                });
            }
            idle = self.returned.wait(idle).unwrap();
        }
    }
}
