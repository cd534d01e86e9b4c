//! URLs: parsing never panics, nothing ever shows the password, and what was parsed can be written
//! as a URL again.

use std::fmt::Write;

use lavinmq_core::{BufferPolicy, Options, uri};

use super::input::Input;

const CANARY: &str = "c4n4ryPassw0rd";

/// One input: text, or a URL around a password.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.below(3);
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    // Whoever writes it somewhere else has told it.
    if text.contains(CANARY) {
        return;
    }
    match mode {
        0 => {
            if let Ok(parsed) = uri::parse(text) {
                round_trip(&parsed);
            }
        }
        // user | what is around the password, not encoded | the rest.
        1 => {
            let mut parts = text.splitn(4, '|');
            let mut part = || parts.next().unwrap_or_default();
            let (user, before, after, rest) = (part(), part(), part(), part());
            hides(&format!("amqp://{user}:{before}{CANARY}{after}@{rest}"));
            hides(&format!("amqps://{user}:{before}{CANARY}{after}@{rest}"));
        }
        // The same, encoded: it can be read back.
        _ => {
            let (user, rest) = text.split_once('|').unwrap_or((text, ""));
            if user.chars().any(|c| c == '\0') {
                return;
            }
            let password = format!("{user}{CANARY}");
            let url = format!("amqp://{}:{}@{rest}", encoded(user), encoded(&password));
            if let Ok(parsed) = uri::parse(&url) {
                // An @ in the rest makes another password.
                if !rest.contains('@') {
                    assert_eq!(&*parsed.config.credentials.user, user);
                    assert_eq!(parsed.config.credentials.password.expose(), password);
                }
                round_trip(&parsed);
            }
            hides(&url);
        }
    }
}

/// Nobody who shows what came of this URL shows the password.
fn hides(url: &str) {
    let shown = match uri::parse(url) {
        Ok(parsed) => {
            round_trip(&parsed);
            format!("{parsed:?} {}", parsed.config.target)
        }
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!shown.contains(CANARY), "{shown}");
    let shown = match Options::new(url) {
        Ok(options) => format!("{options:?}"),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!shown.contains(CANARY), "{shown}");
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        write!(out, "%{byte:02X}").unwrap();
    }
    out
}

/// A target is shown as host and port; a URL of those leads to the same one, and everything else
/// survives as well.
fn round_trip(parsed: &uri::Parsed) {
    let config = &parsed.config;
    let scheme = if config.target.tls { "amqps" } else { "amqp" };
    let shown = config.target.to_string();
    let alone = uri::parse(&format!("{scheme}://{shown}")).expect("what is shown can be parsed");
    assert_eq!(alone.config.target, config.target);

    let mut url = format!(
        "{scheme}://{}:{}@{shown}/{}?connections={}",
        encoded(&config.credentials.user),
        encoded(config.credentials.password.expose()),
        encoded(&config.vhost),
        config.connections,
    );
    for (key, value) in [
        ("heartbeat", config.heartbeat.as_secs().to_string()),
        ("frame_max", config.limits.frame_max.to_string()),
        ("channel_max", config.limits.channel_max.to_string()),
        ("reconnect_initial_delay", format!("{}s", config.backoff.initial.as_secs_f64())),
        ("reconnect_max_delay", format!("{}s", config.backoff.max.as_secs_f64())),
        ("reconnect_multiplier", config.backoff.multiplier.to_string()),
        ("connection_timeout", format!("{}s", config.deadlines.connect.as_secs_f64())),
    ] {
        write!(url, "&{key}={value}").unwrap();
    }
    if let Some(attempts) = config.backoff.max_attempts {
        write!(url, "&reconnect_attempts={attempts}").unwrap();
    }
    if let Some(name) = &config.name {
        write!(url, "&name={}", encoded(name)).unwrap();
    }
    if let Some(size) = parsed.buffer_size {
        write!(url, "&buffer_size={size}").unwrap();
    }
    if let Some(policy) = parsed.buffer_policy {
        let policy = match policy {
            BufferPolicy::Block => "block",
            BufferPolicy::Error => "error",
            BufferPolicy::DropOldest => "drop_oldest",
            other => panic!("a policy that is not tested: {other:?}"),
        };
        write!(url, "&buffer_policy={policy}").unwrap();
    }
    assert_eq!(uri::parse(&url).as_ref(), Ok(parsed), "{url}");
}
