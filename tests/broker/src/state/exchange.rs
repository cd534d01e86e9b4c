//! Exchanges and how they route.

use std::sync::Arc;

use amq_protocol::types::{AMQPValue, FieldTable};

use super::queue::{QueueId, integer, text};

/// How an exchange chooses among its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "fanout" => Some(Self::Fanout),
            "topic" => Some(Self::Topic),
            "headers" => Some(Self::Headers),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Queue(QueueId),
    Exchange(Arc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binding {
    pub(super) destination: Destination,
    pub(super) key: String,
    pub(super) arguments: FieldTable,
}

#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) kind: Kind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    pub(super) arguments: FieldTable,
    pub(super) bindings: Vec<Binding>,
}

impl Exchange {
    pub(super) fn predeclared(kind: Kind) -> Self {
        Self {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
            bindings: Vec::new(),
        }
    }

    /// The destinations that a message goes to (one may occur twice). Its headers are asked for by an
    /// exchange that looks at them.
    pub(super) fn matching<'a>(
        &'a self,
        routing_key: &'a str,
        headers: impl Fn() -> &'a FieldTable + 'a,
    ) -> impl Iterator<Item = &'a Destination> {
        self.bindings
            .iter()
            .filter(move |binding| match self.kind {
                Kind::Direct => binding.key == routing_key,
                Kind::Fanout => true,
                Kind::Topic => topic_matches(&binding.key, routing_key),
                Kind::Headers => headers_match(&binding.arguments, headers()),
            })
            .map(|binding| &binding.destination)
    }
}

/// Whether a message's headers are those that a binding's arguments ask for: all of them, or any
/// (`x-match`). An argument without a value asks for the header's presence. Arguments that start with
/// `x-` ask for nothing, unless `x-match` ends with `-with-x`.
fn headers_match(arguments: &FieldTable, headers: &FieldTable) -> bool {
    let how = arguments.inner().get("x-match").and_then(text);
    let how = how.as_deref().unwrap_or("all");
    let (any, with_x) = (how.starts_with("any"), how.ends_with("-with-x"));
    let mut asked = arguments.inner().iter().filter(|(name, _)| {
        let name = name.as_str();
        name != "x-match" && (with_x || !name.starts_with("x-"))
    });
    let met = |(name, value): (&_, &AMQPValue)| match headers.inner().get(name) {
        None => false,
        Some(_) if *value == AMQPValue::Void => true,
        Some(header) => {
            header == value || integer(header).is_some_and(|n| integer(value) == Some(n))
        }
    };
    if any { asked.any(met) } else { asked.all(met) }
}

/// Whether a topic pattern (words between dots; `*` is one word, `#` is any number of them) matches a
/// routing key.
fn topic_matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = words(pattern);
    let key: Vec<&str> = words(key);
    // Classic glob matching with one point to return to: linear memory, no recursion.
    let (mut p, mut k) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while k < key.len() {
        match pattern.get(p) {
            Some(&"#") => {
                retry = Some((p, k));
                p += 1;
            }
            Some(&word) if word == "*" || Some(&word) == key.get(k) => {
                p += 1;
                k += 1;
            }
            _ => match retry {
                Some((at, from)) => {
                    retry = Some((at, from + 1));
                    p = at + 1;
                    k = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|word| *word == "#")
}

/// The words of a routing key; an empty key has none.
fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_patterns() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a", false),
            ("a.b", "a.b.c", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("*", "", false),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "b", false),
            ("#.c", "a.b.c", true),
            ("#.c", "c", true),
            ("#.b.#", "a.b.c", true),
            ("#.b.#", "a.c", false),
            ("*.b.#.d", "a.b.c.c.d", true),
            ("*.b.#.d", "a.b.d.c", false),
            ("#.*", "", false),
            ("#.*", "a.b", true),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} against {key}");
        }
    }
}
