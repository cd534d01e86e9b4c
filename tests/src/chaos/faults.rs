//! The disturbances: drawn from a seed, of the broker and of the link to it.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use lavinmq_testing::{Direction, FaultLink};

use crate::{
    live::broker::{Broker, Control},
    runtimes::{Rt, within},
    sim::random::Random,
};

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of the broker, and a start.
    Kill,
    /// A clean stop, and a start.
    Restart,
    /// The broker closes every connection.
    CloseConnections,
    /// A memory alarm, for a while.
    Block,
    /// Both connections are reset.
    Cut,
    /// A connection is cut after so many bytes, in the middle of whatever goes by then.
    CutAfter,
    /// Nothing goes through the link for a while, and nobody says so.
    Silence,
    /// Everything goes in pieces of a few bytes for a while.
    Chunks,
    /// Everything comes later for a while.
    Latency,
    /// Connections are cut, and new ones are refused for a while.
    Refuse,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::Restart,
        Self::CloseConnections,
        Self::Block,
        Self::Cut,
        Self::CutAfter,
        Self::Silence,
        Self::Chunks,
        Self::Latency,
        Self::Refuse,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::CloseConnections => "close-connections",
            Self::Block => "block",
            Self::Cut => "cut",
            Self::CutAfter => "cut-after",
            Self::Silence => "silence",
            Self::Chunks => "chunks",
            Self::Latency => "latency",
            Self::Refuse => "refuse",
        }
    }

    /// Whether the broker's control does it.
    const fn is_control(self) -> bool {
        matches!(self, Self::Kill | Self::Restart | Self::CloseConnections | Self::Block)
    }

    /// Whether it goes on until it is ended.
    const fn is_lasting(self) -> bool {
        matches!(self, Self::Block | Self::Silence | Self::Chunks | Self::Latency | Self::Refuse)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
        let place = all.iter().position(|known| *known == name);
        place.map(|place| Self::ALL[place]).ok_or_else(|| format!("one of {}", all.join(", ")))
    }
}

/// How long the broker's control may take before that is an error of the broker's.
const CONTROL: Duration = Duration::from_secs(180);

/// Draws faults and applies them.
pub struct Injector<'a> {
    broker: &'a Broker,
    control: Control,
    link: Arc<FaultLink>,
    random: Random,
    kinds: Vec<Kind>,
    /// How many of each kind there were.
    pub counts: BTreeMap<Kind, u64>,
}

impl<'a> Injector<'a> {
    /// `only` these kinds, or all that can be done to this broker.
    pub fn new(broker: &'a Broker, link: Arc<FaultLink>, random: Random, only: &[Kind]) -> Self {
        let possible = |kind: &Kind| {
            (!kind.is_control() || broker.has_control())
                && (*kind != Kind::Block || broker.product.sends_blocked())
                && (only.is_empty() || only.contains(kind))
        };
        let kinds = Kind::ALL.into_iter().filter(possible).collect();
        Self { broker, control: broker.controller(), link, random, kinds, counts: BTreeMap::new() }
    }

    /// Whether there is anything that it could do.
    pub const fn is_idle(&self) -> bool {
        self.kinds.is_empty()
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The pause before the next fault.
    pub fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.range(100, 2500))
    }

    /// Whether to wait until everything has recovered before the next one.
    pub fn waits(&mut self) -> bool {
        self.random.chance(7, 10)
    }

    /// One fault, and sometimes another one in its midst; over when this returns. Each is reported
    /// with what is to be printed of it.
    pub async fn one<R: Rt>(&mut self, say: &impl Fn(String)) -> Result<(), String> {
        if self.is_idle() {
            return Ok(());
        }
        let kind = self.random.pick(&self.kinds);
        self.begin::<R>(kind, say).await?;
        if kind.is_lasting() {
            let whole = self.random.range(200, if kind == Kind::Silence { 9000 } else { 4000 });
            let first = self.random.range(0, whole);
            R::sleep(Duration::from_millis(first)).await;
            let instant: Vec<_> =
                self.kinds.iter().copied().filter(|kind| !kind.is_lasting()).collect();
            if !instant.is_empty() && self.random.chance(1, 3) {
                let second = self.random.pick(&instant);
                self.begin::<R>(second, say).await?;
            }
            R::sleep(Duration::from_millis(whole - first)).await;
            self.end::<R>(kind).await?;
        }
        Ok(())
    }

    async fn begin<R: Rt>(&mut self, kind: Kind, say: &impl Fn(String)) -> Result<(), String> {
        *self.counts.entry(kind).or_default() += 1;
        let (link, random) = (&self.link, &mut self.random);
        let mut detail = String::new();
        let verbs: &[&str] = match kind {
            Kind::Kill => &["kill", "start"],
            Kind::Restart => &["stop", "start"],
            Kind::CloseConnections => &["close-connections"],
            Kind::Block => &["block"],
            Kind::Cut => {
                link.cut();
                &[]
            }
            Kind::CutAfter => {
                let bytes = random.below(20_000);
                let direction = random.pick(&[Direction::ToBroker, Direction::ToClient]);
                link.cut_after(bytes, direction);
                detail = format!(" {bytes} {direction:?}");
                &[]
            }
            Kind::Silence => {
                link.stall();
                &[]
            }
            Kind::Chunks => {
                let bytes = random.range(1, 200) as usize;
                link.chunk(bytes);
                detail = format!(" {bytes}");
                &[]
            }
            Kind::Latency => {
                let delay = Duration::from_millis(random.range(1, 60));
                link.delay(delay);
                detail = format!(" {delay:?}");
                &[]
            }
            Kind::Refuse => {
                link.refuse(true);
                link.cut();
                &[]
            }
        };
        say(format!("fault {kind}{detail}"));
        self.verbs::<R>(verbs).await
    }

    async fn end<R: Rt>(&self, kind: Kind) -> Result<(), String> {
        match kind {
            Kind::Block => self.verbs::<R>(&["unblock"]).await?,
            Kind::Silence => self.link.resume(),
            Kind::Chunks => self.link.chunk(0),
            Kind::Latency => self.link.delay(Duration::ZERO),
            Kind::Refuse => self.link.refuse(false),
            Kind::Kill | Kind::Restart | Kind::CloseConnections | Kind::Cut | Kind::CutAfter => {}
        }
        Ok(())
    }

    /// Ends everything that could still disturb.
    pub async fn heal<R: Rt>(&self) -> Result<(), String> {
        self.link.resume();
        self.link.chunk(0);
        self.link.delay(Duration::ZERO);
        self.link.refuse(false);
        if self.broker.has_control() && self.kinds.iter().any(|kind| kind.is_control()) {
            self.verbs::<R>(&["start"]).await?;
            if self.kinds.contains(&Kind::Block) {
                self.verbs::<R>(&["unblock"]).await?;
            }
        }
        Ok(())
    }

    /// Has the broker's control do this, one after the other.
    async fn verbs<R: Rt>(&self, verbs: &[&str]) -> Result<(), String> {
        if verbs.is_empty() {
            return Ok(());
        }
        let verbs: Vec<_> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        let control = self.control.clone();
        let (done, result) = futures::channel::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = done.send(verbs.iter().try_for_each(|verb| control.try_change(verb)));
        });
        let result = within::<R, _>(CONTROL, "control of the broker", result).await;
        let joined = thread.join().is_ok();
        match result {
            Ok(result) if joined => result,
            _ => Err("the control of the broker panicked".to_owned()),
        }
    }
}
