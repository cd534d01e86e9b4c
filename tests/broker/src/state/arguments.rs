//! Whether what is declared again is as it was.

use amq_protocol::types::{AMQPValue, FieldTable, ShortString};

use super::{
    frames::Refusal,
    queue::{integer, text, type_name},
};
use crate::personality::Personality;

/// The arguments of a classic queue that RabbitMQ compares when it is declared again, in its order.
pub(super) const QUEUE_ARGUMENTS: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-master-locator",
    "x-queue-type",
];

/// As [`QUEUE_ARGUMENTS`], of an exchange.
pub(super) const EXCHANGE_ARGUMENTS: &[&str] = &["alternate-exchange"];

/// Whether a flag is as it was.
pub(super) fn equal(
    argument: &str,
    of: &str,
    received: bool,
    current: bool,
) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(inequivalent(argument, of, &received.to_string(), &current.to_string()))
}

/// Whether the arguments are as they were. RabbitMQ looks at those that it knows (`known`), in that
/// order, and takes integers of any width for one type.
pub(super) fn equal_arguments(
    personality: Personality,
    of: &str,
    known: &[&str],
    received: &FieldTable,
    current: &FieldTable,
) -> Result<(), Refusal> {
    let rabbitmq = personality.is_rabbitmq();
    let all: Vec<&str> = if rabbitmq {
        known.to_vec()
    } else {
        received.inner().keys().chain(current.inner().keys()).map(ShortString::as_str).collect()
    };
    for name in all {
        let (received, current) = (received.inner().get(name), current.inner().get(name));
        let equal = match (received, current) {
            (Some(received), Some(current)) if rabbitmq => {
                received == current
                    || integer(received).is_some_and(|n| integer(current) == Some(n))
            }
            (one, other) if rabbitmq && name == "x-queue-type" => {
                let kind = one.or(other).and_then(text);
                kind.is_none_or(|kind| kind == "classic")
            }
            _ => received == current,
        };
        if !equal {
            let (received, current) = match (received, current) {
                (Some(received), Some(current)) if rabbitmq => {
                    (format!("'{}'", shown(received)), format!("'{}'", shown(current)))
                }
                _ => (in_words(received), in_words(current)),
            };
            let text = format!(
                "inequivalent arg '{name}' for {of}: received {received} but current is {current}"
            );
            return Err(Refusal::channel(406, text));
        }
    }
    Ok(())
}

pub(super) fn inequivalent(argument: &str, of: &str, received: &str, current: &str) -> Refusal {
    Refusal::channel(
        406,
        format!(
            "inequivalent arg '{argument}' for {of}: received '{received}' but current is \
             '{current}'"
        ),
    )
}

/// Whether a binding of a headers exchange says in RabbitMQ's words what is to match.
pub(super) fn check_x_match(arguments: &FieldTable) -> Result<(), Refusal> {
    let Some(value) = arguments.inner().get("x-match") else { return Ok(()) };
    let wrong = match text(value) {
        Some(how) if ["all", "any", "all-with-x", "any-with-x"].contains(&how.as_str()) => {
            return Ok(());
        }
        Some(how) => format!(
            "Invalid x-match field value <<\"{how}\">>; expected all, any, all-with-x, or any-with-x"
        ),
        None => format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            type_name(value),
            shown(value)
        ),
    };
    Err(Refusal::channel(406, wrong))
}

/// An argument's value as RabbitMQ shows it.
fn in_words(value: Option<&AMQPValue>) -> String {
    let Some(value) = value else { return "none".to_owned() };
    format!("the value '{}' of type '{}'", shown(value), type_name(value))
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::Boolean(value) => value.to_string(),
        value => integer(value)
            .map(|n| n.to_string())
            .or_else(|| text(value))
            .unwrap_or_else(|| format!("{value:?}")),
    }
}
