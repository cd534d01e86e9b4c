//! The handshake's decisions: what we answer to Start and Tune (specification 2.2.4, semantics s1-s5).

use amq_protocol::{
    protocol::connection::{Start, StartOk, TuneOk},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use zeroize::Zeroize;

use crate::{
    config::Config,
    error::Incompatible,
    wire::{FRAME_MIN_SIZE, FRAME_OVERHEAD},
};

/// The largest frame that we take before Tune.
pub(crate) const FRAME_MAX_BEFORE_TUNE: u32 = 8192;

/// What was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuned {
    pub(crate) frame_max: u32,
    pub(crate) channel_max: u16,
    /// Seconds; 0: no heartbeats.
    pub(crate) heartbeat: u16,
}

impl Default for Tuned {
    fn default() -> Self {
        Self { frame_max: FRAME_MAX_BEFORE_TUNE, channel_max: 0, heartbeat: 0 }
    }
}

/// What the broker says of itself in Start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) product: String,
    pub(crate) version: String,
    /// It takes a cancel-ok for a `basic.cancel` that does not ask for one (s31).
    pub(crate) takes_cancel_ok: bool,
}

impl Server {
    pub(crate) fn of(start: &Start) -> Self {
        let text = |key: &str| match start.server_properties.inner().get(key) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => String::new(),
        };
        let takes_cancel_ok = match start.server_properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(capabilities)) => {
                capabilities.inner().get("accept_consumer_cancel_ok")
                    == Some(&AMQPValue::Boolean(true))
            }
            _ => false,
        };
        Self { product: text("product"), version: text("version"), takes_cancel_ok }
    }

    /// Whether a StartOk may have 8,192 bytes instead of 4,096: RabbitMQ from 4.1 on.
    fn takes_large_start_ok(&self) -> bool {
        let mut parts = self.version.split('.').map_while(|part| part.parse::<u32>().ok());
        self.product == "RabbitMQ" && (parts.next(), parts.next()) >= (Some(4), Some(1))
    }

    /// The smallest frame_max that it accepts in TuneOk.
    fn frame_minimum(&self) -> u32 {
        if self.takes_large_start_ok() { 8192 } else { FRAME_MIN_SIZE }
    }
}

/// The answer to Start, by PLAIN (RFC 4616).
pub(crate) fn start_ok(config: &Config, start: &Start) -> Result<StartOk, Incompatible> {
    let offered = start.mechanisms.to_string();
    if !offered.split(' ').any(|mechanism| mechanism == "PLAIN") {
        return Err(Incompatible::Mechanism { wanted: "PLAIN", offered: offered.into() });
    }
    let password = config.credentials.password.expose();
    let mut response = Vec::with_capacity(config.credentials.user.len() + password.len() + 2);
    response.push(0);
    response.extend_from_slice(config.credentials.user.as_bytes());
    response.push(0);
    response.extend_from_slice(password.as_bytes());
    Ok(StartOk {
        client_properties: client_properties(config),
        mechanism: short("PLAIN"),
        response: LongString::from(response),
        locale: short("en_US"),
    })
}

/// Whether an encoded StartOk may be sent (s2): LavinMQ drops a longer one without a word.
pub(crate) fn check_start_ok(server: &Server, encoded: usize) -> Result<(), Incompatible> {
    let limit = if server.takes_large_start_ok() { 8192 } else { 4096 };
    if encoded > limit {
        Err(Incompatible::StartOkTooLarge { size: encoded, limit })
    } else {
        Ok(())
    }
}

/// The encoded StartOk holds the password: it is wiped once it is sent.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.zeroize();
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

fn client_properties(config: &Config) -> FieldTable {
    let mut capabilities = FieldTable::default();
    for capability in [
        "authentication_failure_close",
        "consumer_cancel_notify",
        "connection.blocked",
        "basic.nack",
        "publisher_confirms",
        "exchange_exchange_bindings",
        "per_consumer_qos",
    ] {
        capabilities.insert(short(capability), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    let mut text = |key: &str, value: &str| {
        properties
            .insert(short(key), AMQPValue::LongString(LongString::from(value.as_bytes().to_vec())));
    };
    text("product", "lavinmq-rs");
    text("version", env!("CARGO_PKG_VERSION"));
    text("platform", "Rust");
    if let Some(name) = &config.name {
        text("connection_name", name);
    }
    properties.insert(short("capabilities"), AMQPValue::FieldTable(capabilities));
    properties
}

/// The smaller of two limits, where 0 means none (s4).
fn smaller(ours: u32, theirs: u32) -> u32 {
    match (ours, theirs) {
        (0, limit) | (limit, 0) => limit,
        (ours, theirs) => ours.min(theirs),
    }
}

/// The answer to Tune. Never 0 where the broker has a limit: both brokers close with 530 then.
pub(crate) fn tune(
    config: &Config,
    server: &Server,
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
) -> Result<Tuned, Incompatible> {
    let minimum = server.frame_minimum();
    if frame_max != 0 && frame_max < FRAME_MIN_SIZE {
        return Err(Incompatible::FrameMax { offered: frame_max, minimum: FRAME_MIN_SIZE });
    }
    if config.limits.frame_max < minimum {
        return Err(Incompatible::FrameMax { offered: config.limits.frame_max, minimum });
    }
    let wanted =
        u32::try_from(config.heartbeat.as_secs()).unwrap_or(u32::MAX).min(u32::from(u16::MAX));
    let wanted = if config.heartbeat.is_zero() { 0 } else { wanted.max(1) };
    Ok(Tuned {
        frame_max: smaller(config.limits.frame_max, frame_max),
        channel_max: smaller(config.limits.channel_max.into(), channel_max.into()) as u16,
        heartbeat: smaller(wanted, heartbeat.into()) as u16,
    })
}

impl From<Tuned> for TuneOk {
    fn from(tuned: Tuned) -> Self {
        Self {
            channel_max: tuned.channel_max,
            frame_max: tuned.frame_max,
            heartbeat: tuned.heartbeat,
        }
    }
}

/// The most bytes of a body that one frame carries.
pub(crate) const fn body_chunk(frame_max: u32) -> usize {
    frame_max as usize - FRAME_OVERHEAD
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn tuned(config: &Config, offer: (u16, u32, u16)) -> Result<(u16, u32, u16), Incompatible> {
        tune(config, &Server::default(), offer.0, offer.1, offer.2)
            .map(|tuned| (tuned.channel_max, tuned.frame_max, tuned.heartbeat))
    }

    #[test]
    fn s4_zero_is_no_limit_and_the_smaller_one_wins() {
        let mut config = Config::default();
        assert_eq!(tuned(&config, (2048, 131_072, 300)), Ok((2047, 131_072, 10)));
        assert_eq!(tuned(&config, (0, 0, 0)), Ok((2047, 131_072, 10)));
        assert_eq!(tuned(&config, (100, 4096, 5)), Ok((100, 4096, 5)));
        config.heartbeat = std::time::Duration::ZERO;
        assert_eq!(
            tuned(&config, (100, 4096, 5)),
            Ok((100, 4096, 5)),
            "s6: off only if both say so"
        );
        assert_eq!(tuned(&config, (100, 4096, 0)), Ok((100, 4096, 0)));
    }

    #[test]
    fn s4_an_undersized_frame_max_is_refused() {
        let config = Config::default();
        let error = Incompatible::FrameMax { offered: 4095, minimum: 4096 };
        assert_eq!(tuned(&config, (1, 4095, 1)), Err(error));
        let mut small = Config::default();
        small.limits.frame_max = 4096;
        let server =
            Server { product: "RabbitMQ".into(), version: "4.1.0".into(), takes_cancel_ok: false };
        let error = Incompatible::FrameMax { offered: 4096, minimum: 8192 };
        assert_eq!(tune(&small, &server, 1, 131_072, 1), Err(error));
    }

    #[test]
    fn s2_start_ok_may_be_longer_to_rabbitmq_from_4_1_only() {
        let server = |product: &str, version: &str| Server {
            product: product.into(),
            version: version.into(),
            takes_cancel_ok: false,
        };
        for (server, limit) in [
            (server("RabbitMQ", "3.13.7"), 4096),
            (server("RabbitMQ", "4.0.9"), 4096),
            (server("RabbitMQ", "4.1.0"), 8192),
            (server("RabbitMQ", "5.0.0"), 8192),
            (server("LavinMQ", "2.9.1"), 4096),
            (Server::default(), 4096),
        ] {
            assert!(check_start_ok(&server, limit).is_ok());
            assert!(check_start_ok(&server, limit + 1).is_err());
        }
    }

    #[test]
    fn s3_the_response_and_the_capabilities() {
        let start = Start { mechanisms: "AMQPLAIN PLAIN".into(), ..Start::default() };
        let answer = start_ok(&Config::default(), &start).unwrap();
        assert_eq!(answer.response.as_bytes(), b"\0guest\0guest");
        let AMQPValue::FieldTable(capabilities) = &answer.client_properties.inner()["capabilities"]
        else {
            panic!("no capabilities");
        };
        assert_eq!(capabilities.inner().len(), 7);
        let error = start_ok(&Config::default(), &Start { mechanisms: "EXTERNAL".into(), ..start });
        assert!(matches!(error, Err(Incompatible::Mechanism { .. })));
    }

    #[test]
    fn what_is_wiped_holds_nothing_any_more() {
        let mut bytes = *b"secret";
        wipe(&mut bytes);
        assert_eq!(bytes, [0; 6]);
    }
}
