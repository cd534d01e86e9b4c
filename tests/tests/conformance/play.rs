//! What the clients in Rust share: how a transcript's lines look.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use crate::{
    script::{Step, show_body},
    value::{Value, show_table},
};

/// Longer than anything here takes, also on a loaded machine: only so that a defect is a failure
/// and not a hang.
pub const LONG: Duration = Duration::from_secs(60);

/// What a client heard instead of an answer.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The server closed the channel.
    Channel(u16, String),
    /// The server closed the connection.
    Connection(u16, String),
    /// The connection was refused, and the client has its own words for it.
    Refused(String),
    /// Anything else. No golden file should have one.
    Other(String),
}

impl Failure {
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    fn show(&self) -> String {
        match self {
            Self::Channel(code, text) => format!("channel closed: {code} {text}"),
            Self::Connection(code, text) => format!("connection closed: {code} {text}"),
            Self::Refused(what) => format!("not connected: {what}"),
            Self::Other(what) => format!("error: {what}"),
        }
    }
}

pub type Seen = Result<String, Failure>;

/// A client that plays scripts. One value plays one script.
pub trait Player {
    /// Does one step, and says what came of it.
    fn step(&mut self, step: &Step) -> impl Future<Output = Seen>;
    /// Closes what is still open.
    fn end(&mut self) -> impl Future<Output = ()>;
}

/// The transcript: each step's line, and under it what the client saw.
pub async fn play(player: &mut impl Player, steps: &[Step]) -> String {
    let mut transcript = String::new();
    let mut closed = Closed::default();
    for step in steps {
        transcript += &format!("{}\n", step.line);
        if let Some(what) = closed.concerns(step) {
            transcript += &format!("    not done: the {what} is closed\n");
            continue;
        }
        match tokio::time::timeout(LONG, player.step(step)).await {
            Ok(seen) => {
                let seen = seen.unwrap_or_else(|failure| failure.show());
                closed.note(step, &seen);
                transcript += &format!("    {seen}\n");
            }
            Err(_) => {
                transcript += &format!("    nothing within {} s\n", LONG.as_secs());
                break;
            }
        }
    }
    let _ = tokio::time::timeout(LONG, player.end()).await;
    transcript
}

/// What the server has closed: a client does nothing on it any more, each in its own way.
#[derive(Default)]
struct Closed {
    /// The connection of each channel.
    on: BTreeMap<String, String>,
    channels: BTreeSet<String>,
    connections: BTreeSet<String>,
}

impl Closed {
    fn concerns(&mut self, step: &Step) -> Option<&'static str> {
        let name = step.word(0);
        if step.verb == "channel" {
            let on = step.option("on").unwrap_or("main").to_owned();
            self.on.insert(name.to_owned(), on);
            self.channels.remove(name);
        }
        let on = self.on.get(name).map_or(name, String::as_str);
        if self.connections.contains(on) {
            Some("connection")
        } else {
            self.channels.contains(name).then_some("channel")
        }
    }

    fn note(&mut self, step: &Step, seen: &str) {
        let name = step.word(0);
        if seen.starts_with("channel closed: ") {
            self.channels.insert(name.to_owned());
        } else if seen.starts_with("connection closed: ")
            && let Some(on) = self.on.get(name)
        {
            self.connections.insert(on.clone());
        }
    }
}

/// A message as the transcript shows it.
pub struct Shown<'a> {
    /// `None` for a returned message.
    pub tag: Option<u64>,
    pub redelivered: bool,
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub body: &'a [u8],
    pub properties: Properties,
}

impl Shown<'_> {
    pub fn show(&self) -> String {
        let mut line = match self.tag {
            Some(tag) => {
                let again = if self.redelivered { ", redelivered" } else { "" };
                format!("#{tag}{again}, {}", show_body(self.body))
            }
            None => show_body(self.body),
        };
        line += &format!(" from {:?} by {:?}", self.exchange, self.routing_key);
        line + &self.properties.show()
    }
}

/// Properties under the names that scripts use.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    pub fields: BTreeMap<&'static str, String>,
    pub headers: Option<BTreeMap<String, Value>>,
}

impl Properties {
    pub fn set(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.fields.insert(name, value.to_string());
        }
    }

    fn show(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.fields {
            line += &format!(", {name}={value}");
        }
        if let Some(headers) = &self.headers {
            line += &format!(", headers={}", show_table(headers));
        }
        line
    }
}

/// The properties of a publish: persistent unless it says otherwise (`delivery-mode=`).
pub fn headers(step: &Step) -> Option<BTreeMap<String, Value>> {
    let headers: BTreeMap<_, _> =
        step.fields("h.").map(|(name, value)| (name.to_owned(), Value::parse(value))).collect();
    (!headers.is_empty()).then_some(headers)
}

/// Arguments of a declare, a bind or a consume: options that start with `x-`, and with `a.` (left out).
pub fn arguments(step: &Step) -> BTreeMap<String, Value> {
    let named = step.options.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("a.").or(name.starts_with("x-").then_some(name))?;
        Some((name.to_owned(), Value::parse(value)))
    });
    named.collect()
}

/// How a returned message and its confirm are shown.
pub fn show_return(code: u16, text: &str, message: &Shown<'_>) -> String {
    format!("returned: {code} {text}, {}", message.show())
}
