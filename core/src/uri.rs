//! `amqp://` and `amqps://` URLs.
//!
//! ```text
//! amqp[s]://[user[:password]@][host][:port][/vhost][?key=value[&key=value]…]
//! ```
//!
//! What is absent has a default: `guest` and `guest`, `localhost`, 5672 (5671 for `amqps`), the virtual
//! host `/`. User, password and virtual host are percent-decoded after splitting, so `%2F` is a slash
//! in any of them. An absent virtual host is `/`, but an empty one (`amqp://host/`) is the empty one,
//! which RabbitMQ refuses and LavinMQ takes as `/`.
//!
//! | key | value |
//! |---|---|
//! | `buffer_size` | messages that each producer may buffer: a number from 1 |
//! | `buffer_policy` | `block`, `error` or `drop_oldest` |
//! | `reconnect_initial_delay`, `reconnect_max_delay` | a duration from 1 ms to one day |
//! | `reconnect_multiplier` | a number from 1 to 100 |
//! | `reconnect_attempts` | attempts in a row before giving up: a number from 1 |
//! | `heartbeat` | seconds, from 0 (off) to 65535 |
//! | `frame_max` | bytes, from 4096 |
//! | `channel_max` | a number from 1 to 65535 |
//! | `connection_timeout` | a duration from 1 ms to one day; a plain number is **milliseconds**, as in RabbitMQ's URI specification |
//! | `name` | the connection's name: up to 255 bytes |
//! | `connections` | 1 or 2 |
//!
//! A duration is a number with the unit `ms`, `s` or `m`, such as `100ms` or `1.5s`; a plain number is
//! seconds, but for `connection_timeout`.
//!
//! Any other key is an error, also those for TLS files that other clients read: whoever controls a
//! URL must not choose the files that we trust. No error ever contains a part of the URL that can hold
//! the password.

use std::time::Duration;

use url::{Host, Url};

use crate::{
    config::{BufferPolicy, Config, Credentials, Secret, Target},
    error::OptionsError,
};

/// What a URL says.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Parsed {
    /// The session's settings; what the URL does not mention has its default.
    pub config: Config,
    /// The most messages in each producer's buffer, if given.
    pub buffer_size: Option<usize>,
    /// What to do when a buffer is full, if given.
    pub buffer_policy: Option<BufferPolicy>,
}

/// Parses a URL. Whether TLS can be had is not asked here: see `config.target.tls`.
///
/// # Errors
///
/// See [`OptionsError`]. The first thing that is wrong is named, never echoed.
pub fn parse(url: &str) -> Result<Parsed, OptionsError> {
    let parts = split(url)?;
    let (user, password) = credentials(parts.user_info)?;
    let (host, port) = host_and_port(parts.host)?;
    let port = port.unwrap_or(if parts.tls { 5671 } else { 5672 });
    let mut parsed = Parsed {
        config: Config {
            target: Target::new(&host, port, parts.tls),
            vhost: vhost(parts.path)?.into(),
            credentials: Credentials { user: user.into(), password: Secret::new(password) },
            ..Config::default()
        },
        buffer_size: None,
        buffer_policy: None,
    };
    apply_query(&mut parsed, parts.query)?;
    Ok(parsed)
}

/// The parts of a URL, nothing decoded yet.
struct Parts<'a> {
    tls: bool,
    user_info: Option<&'a str>,
    host: &'a str,
    path: Option<&'a str>,
    query: &'a str,
}

/// Splits by hand: the `url` crate drops an empty user and dots in the path, and its buffers, which
/// are not zeroed, shall never see the password.
fn split(url: &str) -> Result<Parts<'_>, OptionsError> {
    if url.chars().any(char::is_control) {
        return refuse("it contains a line break or another control character");
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return refuse("it does not begin with amqp:// or amqps://");
    };
    let tls = if scheme.eq_ignore_ascii_case("amqp") {
        false
    } else if scheme.eq_ignore_ascii_case("amqps") {
        true
    } else if !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(OptionsError::Scheme { scheme: scheme.chars().take(16).collect() });
    } else {
        return refuse("it does not begin with amqp:// or amqps://");
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A reserved character in the password ends the authority too early. What follows must then
    // not be taken for a virtual host or a key, which are shown.
    if tail.contains('@') {
        return refuse(
            "an @ after the host: in a user name or password write / as %2F, ? as %3F, # as %23, \
             and elsewhere @ as %40",
        );
    }
    if tail.contains('#') {
        return refuse("it has a fragment (write # as %23)");
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let (user_info, host) = match authority.rsplit_once('@') {
        Some((user_info, host)) => (Some(user_info), host),
        None => (None, authority),
    };
    Ok(Parts { tls, user_info, host, path: path.strip_prefix('/'), query })
}

fn refuse<T>(reason: &str) -> Result<T, OptionsError> {
    Err(OptionsError::Url { reason: reason.into() })
}

const fn bad_part(part: &'static str, reason: &'static str) -> OptionsError {
    OptionsError::Part { part, reason }
}

fn credentials(user_info: Option<&str>) -> Result<(String, String), OptionsError> {
    let (user, password) = match user_info.map(|info| (info, info.split_once(':'))) {
        None => (None, None),
        Some((_, Some((user, password)))) => (Some(user), Some(password)),
        Some((user, None)) => (Some(user), None),
    };
    let decode = |part, text: Option<&str>| match text {
        None => Ok("guest".into()),
        Some(text) => decode_part(part, text),
    };
    Ok((decode("user name", user)?, decode("password", password)?))
}

fn vhost(path: Option<&str>) -> Result<String, OptionsError> {
    const PART: &str = "virtual host";
    let Some(path) = path else {
        return Ok("/".into());
    };
    if path.contains('/') {
        return Err(bad_part(PART, "has more than one segment (write / as %2F)"));
    }
    let vhost = decode_part(PART, path)?;
    if vhost.len() > 255 {
        return Err(bad_part(PART, "is longer than 255 bytes"));
    }
    Ok(vhost)
}

/// Percent-decodes strictly.
fn decode_part(part: &'static str, text: &str) -> Result<String, OptionsError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => decoded.push((high << 4 | low) as u8),
            _ => return Err(bad_part(part, "has a % without two hexadecimal digits after it")),
        }
    }
    if decoded.contains(&0) {
        return Err(bad_part(part, "contains a NUL"));
    }
    String::from_utf8(decoded).map_err(|_| bad_part(part, "is not UTF-8"))
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), OptionsError> {
    const HOST: &str = "host";
    if text.is_empty() {
        return Ok(("localhost".into(), None));
    }
    if let Some(port) = text.strip_prefix(':') {
        // No host, which the `url` crate refuses together with a port.
        return host_and_port(&format!("localhost:{port}"));
    }
    let url = Url::parse(&format!("amqp://{text}"))
        .map_err(|error| OptionsError::Url { reason: error.to_string() })?;
    if url.port() == Some(0) {
        return Err(bad_value("port", "a number from 1 to 65535"));
    }
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Domain(name)) => {
            let name = decode_part(HOST, name)?;
            if name.is_ascii() {
                name
            } else {
                Host::parse(&name)
                    .map_err(|_| bad_part(HOST, "is no internationalised domain name"))?
                    .to_string()
            }
        }
        None => return Err(bad_part(HOST, "is missing")),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if !host.bytes().all(allowed) {
        return Err(bad_part(HOST, "contains a character that no host name has"));
    }
    Ok((host, url.port()))
}

const KEYS: [&str; 12] = [
    "buffer_size",
    "buffer_policy",
    "reconnect_initial_delay",
    "reconnect_max_delay",
    "reconnect_multiplier",
    "reconnect_attempts",
    "heartbeat",
    "frame_max",
    "channel_max",
    "connection_timeout",
    "name",
    "connections",
];

const fn bad_value(key: &'static str, expected: &'static str) -> OptionsError {
    OptionsError::Value { key, expected }
}

fn apply_query(parsed: &mut Parsed, query: &str) -> Result<(), OptionsError> {
    let (mut initial, mut max) = (None, None);
    let mut seen = Vec::new();
    let config = &mut parsed.config;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let Some(&key) = KEYS.iter().find(|known| **known == key) else {
            let suggestion = suggestion(&key);
            return Err(OptionsError::UnknownKey {
                key: key.chars().take(64).collect(),
                suggestion,
            });
        };
        if seen.contains(&key) {
            return Err(bad_value(key, "given once"));
        }
        seen.push(key);
        let value = &*value;
        match key {
            "buffer_size" => {
                parsed.buffer_size = Some(number(key, value, 1..=usize::MAX, "a number from 1")?);
            }
            "buffer_policy" => {
                parsed.buffer_policy = Some(match value {
                    "block" => BufferPolicy::Block,
                    "error" => BufferPolicy::Error,
                    "drop_oldest" => BufferPolicy::DropOldest,
                    _ => return Err(bad_value(key, "block, error or drop_oldest")),
                });
            }
            "reconnect_initial_delay" => initial = Some(duration(key, value, Unit::Seconds)?),
            "reconnect_max_delay" => max = Some(duration(key, value, Unit::Seconds)?),
            "reconnect_multiplier" => {
                config.backoff.multiplier =
                    number(key, value, 1.0..=100.0, "a number from 1 to 100")?;
            }
            "reconnect_attempts" => {
                let expected = "a number from 1 (leave it out to try for ever)";
                config.backoff.max_attempts = Some(number(key, value, 1..=u32::MAX, expected)?);
            }
            "heartbeat" => {
                let expected = "whole seconds, from 0 (off) to 65535";
                let seconds = number(key, value, 0..=u16::MAX, expected)?;
                config.heartbeat = Duration::from_secs(seconds.into());
            }
            "frame_max" => {
                config.limits.frame_max =
                    number(key, value, 4096..=u32::MAX, "a number of bytes, from 4096")?;
            }
            "channel_max" => {
                config.limits.channel_max =
                    number(key, value, 1..=u16::MAX, "a number from 1 to 65535")?;
            }
            "connection_timeout" => {
                config.deadlines.connect = duration(key, value, Unit::Milliseconds)?;
            }
            "name" if value.len() > 255 => return Err(bad_value(key, "at most 255 bytes")),
            "name" => config.name = Some(value.into()),
            _ => config.connections = number(key, value, 1..=2, "1 or 2")?,
        }
    }
    apply_delays(config, initial, max)
}

/// One delay alone takes the other's default along, so that the first is never above the longest.
fn apply_delays(
    config: &mut Config,
    initial: Option<Duration>,
    max: Option<Duration>,
) -> Result<(), OptionsError> {
    let backoff = &mut config.backoff;
    (backoff.initial, backoff.max) = match (initial, max) {
        (Some(initial), Some(max)) if initial > max => {
            return Err(bad_value("reconnect_max_delay", "at least reconnect_initial_delay"));
        }
        (Some(initial), Some(max)) => (initial, max),
        (Some(initial), None) => (initial, backoff.max.max(initial)),
        (None, Some(max)) => (backoff.initial.min(max), max),
        (None, None) => (backoff.initial, backoff.max),
    };
    Ok(())
}

fn number<T: std::str::FromStr + PartialOrd>(
    key: &'static str,
    value: &str,
    range: std::ops::RangeInclusive<T>,
    expected: &'static str,
) -> Result<T, OptionsError> {
    // `parse` would take a sign, an exponent, "inf" and "NaN".
    let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    value
        .parse()
        .ok()
        .filter(|number| plain && range.contains(number))
        .ok_or_else(|| bad_value(key, expected))
}

#[derive(Clone, Copy)]
enum Unit {
    Milliseconds,
    Seconds,
}

fn duration(key: &'static str, value: &str, plain: Unit) -> Result<Duration, OptionsError> {
    let expected = match plain {
        Unit::Seconds => "a duration such as 100ms, 1.5s or 2m (1 ms to one day; plain: seconds)",
        Unit::Milliseconds => "milliseconds, or a duration such as 1.5s (1 ms to one day)",
    };
    let split = value.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(value.len());
    let (amount, unit) = value.split_at(split);
    let seconds = match (unit, plain) {
        ("ms", _) | ("", Unit::Milliseconds) => 0.001,
        ("s", _) | ("", Unit::Seconds) => 1.0,
        ("m", _) => 60.0,
        _ => return Err(bad_value(key, expected)),
    };
    let amount: f64 = number(key, amount, 0.0..=1e9, expected)?;
    // Rounded to whole microseconds: 0.001 is no binary fraction.
    let micros = (amount * seconds * 1e6).round();
    if !(1e3..=86_400e6).contains(&micros) {
        return Err(bad_value(key, expected));
    }
    Ok(Duration::from_micros(micros as u64))
}

/// The key that somebody who wrote `wrong` may have meant: one at most two letters away, or three if
/// it is long.
fn suggestion(wrong: &str) -> Option<&'static str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    if wrong.len() > 40 {
        return None;
    }
    KEYS.iter()
        .map(|key| (distance(&wrong, key), *key))
        .filter(|(distance, key)| *distance <= (key.len() / 4).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// The edit distance (Levenshtein) between two strings.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is a failure here")]

    use super::*;

    const CANARY: &str = "c4n4ry";

    fn target(url: &str) -> String {
        let config = parse(url).unwrap().config;
        format!("{}{}", if config.target.tls { "tls " } else { "" }, config.target)
    }

    fn login(url: &str) -> (String, String) {
        let credentials = parse(url).unwrap().config.credentials;
        (credentials.user.as_ref().into(), credentials.password.expose().into())
    }

    fn error(url: &str) -> OptionsError {
        let error = parse(url).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(CANARY), "{shown}");
        error
    }

    fn with(query: &str) -> Parsed {
        parse(&format!("amqp://u:{CANARY}@h?{query}")).unwrap()
    }

    #[test]
    fn what_is_absent_has_its_default() {
        for url in ["amqp://", "amqp://localhost", "AMQP://localhost:5672", "amqp://localhost?"] {
            let parsed = parse(url).unwrap();
            assert_eq!(parsed.config, Config::default(), "{url}");
            assert_eq!((parsed.buffer_size, parsed.buffer_policy), (None, None));
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (url, expected) in [
            ("amqp://rabbit", "rabbit:5672"),
            ("amqp://rabbit:", "rabbit:5672"),
            ("amqp://rabbit:1", "rabbit:1"),
            ("amqps://rabbit", "tls rabbit:5671"),
            ("amqps://rabbit:5672/v", "tls rabbit:5672"),
            ("amqp://my_rabbit.local-1", "my_rabbit.local-1:5672"),
            ("amqp://127.0.0.1:5673/", "127.0.0.1:5673"),
            ("amqp://[::1]", "[::1]:5672"),
            ("amqp://u:p@[2001:db8::1]:77/v", "[2001:db8::1]:77"),
            ("amqp://:77", "localhost:77"),
            ("amqp:///v", "localhost:5672"),
            ("amqp://u:p@/v", "localhost:5672"),
            ("amqp://r%61bbit", "rabbit:5672"),
            ("amqp://bücher.example", "xn--bcher-kva.example:5672"),
        ] {
            assert_eq!(target(url), expected, "{url}");
        }
        assert_eq!(&*parse("amqp://[::1]").unwrap().config.target.host, "::1");
    }

    #[test]
    fn users_and_passwords_are_decoded_after_splitting() {
        for (url, user, password) in [
            ("amqp://h", "guest", "guest"),
            ("amqp://u@h", "u", "guest"),
            ("amqp://u:@h", "u", ""),
            ("amqp://:p@h", "", "p"),
            ("amqp://:@h", "", ""),
            ("amqp://u:p:q@h", "u", "p:q"),
            ("amqp://u:p@q@h", "u", "p@q"),
            ("amqp://u%3a%40:p%2F%3F%23%40%3A@h", "u:@", "p/?#@:"),
            ("amqp://%C3%BC:ü@h", "ü", "ü"),
            ("amqp://u:a+b@h", "u", "a+b"),
        ] {
            assert_eq!(login(url), (user.into(), password.into()), "{url}");
        }
    }

    #[test]
    fn an_absent_vhost_is_not_an_empty_one() {
        for (path, vhost) in [
            ("", "/"),
            ("?heartbeat=1", "/"),
            ("/", ""),
            ("/?heartbeat=1", ""),
            ("/%2f", "/"),
            ("/%2Fa%2Fb", "/a/b"),
            ("/v", "v"),
            ("/.", "."),
            ("/%2e%2e", ".."),
            ("/a%40b", "a@b"),
        ] {
            assert_eq!(&*parse(&format!("amqp://h{path}")).unwrap().config.vhost, vhost, "{path}");
        }
        for path in ["/a/b", "//", "/a/"] {
            let reason = "has more than one segment (write / as %2F)";
            assert_eq!(error(&format!("amqp://h{path}")), bad_part("virtual host", reason));
        }
        let reason = "is longer than 255 bytes";
        let long = format!("amqp://h/{}", "v".repeat(256));
        assert_eq!(error(&long), bad_part("virtual host", reason));
    }

    #[test]
    fn every_key_arrives() {
        let parsed = with(
            "buffer_size=7&buffer_policy=drop_oldest&reconnect_initial_delay=250ms\
             &reconnect_max_delay=2m&reconnect_multiplier=1.5&reconnect_attempts=3&heartbeat=0\
             &frame_max=8192&channel_max=16&connection_timeout=2500&name=my%20app&connections=1",
        );
        assert_eq!(parsed.buffer_size, Some(7));
        assert_eq!(parsed.buffer_policy, Some(BufferPolicy::DropOldest));
        let config = parsed.config;
        assert_eq!(config.backoff.initial, Duration::from_millis(250));
        assert_eq!(config.backoff.max, Duration::from_secs(120));
        assert_eq!(config.backoff.multiplier.to_bits(), 1.5f64.to_bits());
        assert_eq!(config.backoff.max_attempts, Some(3));
        assert_eq!(config.heartbeat, Duration::ZERO);
        assert_eq!((config.limits.frame_max, config.limits.channel_max), (8192, 16));
        assert_eq!(config.deadlines.connect, Duration::from_millis(2500));
        assert_eq!(config.name.as_deref(), Some("my app"));
        assert_eq!(config.connections, 1);
        for (value, policy) in [("block", BufferPolicy::Block), ("error", BufferPolicy::Error)] {
            let parsed = with(&format!("buffer_policy={value}"));
            assert_eq!(parsed.buffer_policy, Some(policy));
        }
    }

    #[test]
    fn durations() {
        for (value, millis) in [
            ("1ms", 1),
            ("100ms", 100),
            ("0.1", 100),
            ("2", 2000),
            ("2s", 2000),
            ("1.5s", 1500),
            ("1.5m", 90_000),
            ("1440m", 86_400_000),
        ] {
            let backoff = with(&format!("reconnect_max_delay={value}")).config.backoff;
            assert_eq!(backoff.max, Duration::from_millis(millis), "{value}");
        }
        for value in ["", "0", "0.5ms", "1441m", "-1", "+1", "1e3", "inf", "NaN", "s", "1h", "1 s"]
        {
            for key in ["reconnect_initial_delay", "reconnect_max_delay", "connection_timeout"] {
                let error = error(&format!("amqp://h?{key}={value}"));
                assert!(
                    matches!(error, OptionsError::Value { key: named, .. } if named == key),
                    "{value}"
                );
            }
        }
        let connect = |value| with(&format!("connection_timeout={value}")).config.deadlines.connect;
        assert_eq!(connect("1"), Duration::from_millis(1));
        assert_eq!(connect("1s"), Duration::from_secs(1));
    }

    #[test]
    fn s41_the_first_delay_is_never_above_the_longest() {
        let delays = |query| {
            let backoff = with(query).config.backoff;
            (backoff.initial.as_millis(), backoff.max.as_millis())
        };
        assert_eq!(delays("reconnect_initial_delay=60"), (60_000, 60_000));
        assert_eq!(delays("reconnect_max_delay=50ms"), (50, 50));
        assert_eq!(
            error("amqp://h?reconnect_max_delay=1&reconnect_initial_delay=2"),
            bad_value("reconnect_max_delay", "at least reconnect_initial_delay")
        );
    }

    #[test]
    fn values_out_of_range_are_errors_that_name_the_key() {
        for (key, values) in [
            ("buffer_size", &["0", "-1", "x", "", "1.5", "99999999999999999999"][..]),
            ("buffer_policy", &["", "Block", "raise", "drop-oldest"]),
            ("reconnect_multiplier", &["0.9", "100.1", "inf", "NaN", "1e1", ""]),
            ("reconnect_attempts", &["0", "-1", "4294967296"]),
            ("heartbeat", &["65536", "-1", "1.5", "10s"]),
            ("frame_max", &["0", "4095", "4294967296"]),
            ("channel_max", &["0", "65536"]),
            ("connections", &["0", "3"]),
        ] {
            for value in values {
                let error = error(&format!("amqp://u:{CANARY}@h?{key}={value}"));
                assert!(
                    matches!(error, OptionsError::Value { key: named, .. } if named == key),
                    "{key}={value}: {error:?}"
                );
            }
        }
        let long = format!("amqp://h?name={}", "n".repeat(256));
        assert_eq!(error(&long), bad_value("name", "at most 255 bytes"));
        assert_eq!(error("amqp://h?heartbeat=1&heartbeat=1"), bad_value("heartbeat", "given once"));
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion_for_a_near_miss() {
        for (key, suggestion) in [
            ("heartbeats", Some("heartbeat")),
            ("hartbeat", Some("heartbeat")),
            ("buffer-size", Some("buffer_size")),
            ("bufferSize", Some("buffer_size")),
            ("reconnect_inital_delay", Some("reconnect_initial_delay")),
            ("Name", Some("name")),
            ("frame", None),
            ("zzz", None),
            ("", None),
        ] {
            let error = error(&format!("amqp://u:{CANARY}@h?{key}=1"));
            assert_eq!(error, OptionsError::UnknownKey { key: key.into(), suggestion });
        }
        let long = error(&format!("amqp://h?{}=1", "k".repeat(1000)));
        assert_eq!(long, OptionsError::UnknownKey { key: "k".repeat(64), suggestion: None });
    }

    #[test]
    fn tls_files_cannot_be_chosen_by_url() {
        for key in
            ["cacertfile", "certfile", "keyfile", "verify", "fail_if_no_peer_cert", "password"]
        {
            let error = error(&format!("amqps://h?{key}={CANARY}"));
            let expected = OptionsError::UnknownKey { key: key.into(), suggestion: None };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn other_schemes_are_refused() {
        for scheme in ["http", "amqp1", "mqtt"] {
            let expected = OptionsError::Scheme { scheme: scheme.into() };
            assert_eq!(error(&format!("{scheme}://u:{CANARY}@h")), expected);
        }
        for url in ["", "localhost", "localhost:5672", "amqp:h", "://h", "u:c4n4ry@h"] {
            assert!(matches!(error(url), OptionsError::Url { .. }), "{url}");
        }
    }

    #[test]
    fn nul_and_what_does_not_decode_are_refused() {
        let hex = "has a % without two hexadecimal digits after it";
        for (part, prefix, suffix) in [
            ("user name", "amqp://a", ":c4n4ry@h"),
            ("password", "amqp://u:c4n4ry", "@h"),
            ("virtual host", "amqp://u:c4n4ry@h/v", ""),
        ] {
            for (text, reason) in [
                ("%00", "contains a NUL"),
                ("%", hex),
                ("%4", hex),
                ("%zz", hex),
                ("%+1", hex),
                ("%FF", "is not UTF-8"),
            ] {
                let url = format!("{prefix}{text}{suffix}");
                assert_eq!(error(&url), bad_part(part, reason), "{url}");
            }
        }
        for url in ["amqp://h\0", "amqp://u:c4n4ry\t@h", "amqp://u:c4n4ry@h\n", "\ramqp://h"] {
            assert!(matches!(error(url), OptionsError::Url { .. }), "{url:?}");
        }
    }

    #[test]
    fn a_password_that_was_not_encoded_is_not_taken_for_something_that_is_shown() {
        for url in [
            // Each would be a host `u` with another password, path or key behind it.
            "amqp://u:/c4n4ry@h",
            "amqp://u:1/c4n4ry@h",
            "amqp://u:1?c4n4ry@h",
            "amqp://u:1?c4n4ry&x@h",
            "amqp://u:1?x=c4n4ry@h",
            "amqp://u:1#c4n4ry@h",
            "amqp://u:p@q/c4n4ry@h",
            "amqp://u:c4n4ry#@h",
            "amqp://u:c4n4ry@h#x",
            "amqp://u:c4n4ry@h:x",
            "amqp://u:c4n4ry@h:0",
            "amqp://u:c4n4ry@h:65536",
            "amqp://u:c4n4ry@h h",
            "amqp://u:c4n4ry@h%20h",
            "amqp://u:c4n4ry@[::1",
            "amqp://u:c4n4ry@[::x]",
            "amqp://u:c4n4ry@::1",
            "amqp://u:c4n4ry",
        ] {
            error(url);
        }
    }

    #[test]
    fn debug_hides_the_password() {
        let shown = format!("{:?}", with("heartbeat=5"));
        assert!(!shown.contains(CANARY), "{shown}");
    }
}
