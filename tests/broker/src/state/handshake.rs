//! Opening and closing a connection: methods of the class `connection`.

use std::time::Duration;

use amq_protocol::{
    protocol::{AMQPClass, connection as conn},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use lavinmq_core::wire::FRAME_MIN_SIZE;

use super::{
    BrokerState, ConnId,
    connection::{Capabilities, Phase},
    frames::{MethodId, Refusal, reply_text},
};

/// The largest frame where neither side has a limit.
const UNLIMITED: u32 = 1 << 30;

impl BrokerState {
    /// Answers the protocol header.
    pub(super) fn start(&mut self, id: ConnId) {
        let start = conn::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.server_properties(),
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        };
        self.send(id, 0, &AMQPClass::Connection(conn::AMQPMethod::Start(start)));
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::StartOk;
        }
    }

    fn server_properties(&self) -> FieldTable {
        let personality = self.settings.personality;
        let mut capabilities = FieldTable::default();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
            "per_consumer_qos",
        ] {
            capabilities.insert(ShortString::from(name), AMQPValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        for (name, value) in [
            ("product", personality.product()),
            ("version", personality.version()),
            ("platform", "lavinmq-testing (in-process)"),
        ] {
            properties.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
        }
        properties
    }

    pub(super) fn connection_method(
        &mut self,
        id: ConnId,
        method: conn::AMQPMethod,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(&id) else { return Ok(()) };
        let phase = connection.phase;
        match (phase, method) {
            (Phase::Over, _) => Ok(()),
            (_, conn::AMQPMethod::Close(close)) => {
                self.logs.add(id, 0, "connection.close", &close.reply_code.to_string());
                self.send_confirms(id);
                self.release_connection(id);
                let ok = conn::AMQPMethod::CloseOk(conn::CloseOk {});
                self.send(id, 0, &AMQPClass::Connection(ok));
                // RabbitMQ leaves it to the client to close the socket, for a long time.
                let personality = self.settings.personality;
                if personality.is_rabbitmq() {
                    let until = self.now + personality.close_ok_patience();
                    self.end_at(id, until, personality.ending());
                } else {
                    self.end(id, personality.ending());
                }
                Ok(())
            }
            (Phase::Closing, conn::AMQPMethod::CloseOk(_)) => {
                self.logs.add(id, 0, "connection.close-ok", "");
                self.end(id, self.settings.personality.ending());
                Ok(())
            }
            (Phase::Closing, _) => Ok(()),
            (Phase::StartOk, conn::AMQPMethod::StartOk(start_ok)) => {
                self.start_ok(id, start_ok);
                Ok(())
            }
            (Phase::TuneOk, conn::AMQPMethod::TuneOk(tune_ok)) => {
                self.tune_ok(id, &tune_ok);
                Ok(())
            }
            (Phase::Open, conn::AMQPMethod::Open(open)) => {
                self.open(id, open.virtual_host.as_str())
            }
            (Phase::Running, conn::AMQPMethod::UpdateSecret(_)) => {
                self.logs.add(id, 0, "connection.update-secret", "");
                if !self.settings.personality.is_rabbitmq() {
                    return Err(Refusal::connection(403, "secret update is not supported"));
                }
                let ok = conn::AMQPMethod::UpdateSecretOk(conn::UpdateSecretOk {});
                self.send(id, 0, &AMQPClass::Connection(ok));
                Ok(())
            }
            _ => Err(Refusal::connection(503, "not expected now")),
        }
    }

    fn start_ok(&mut self, id: ConnId, start_ok: conn::StartOk) {
        self.logs.add(id, 0, "connection.start-ok", start_ok.mechanism.as_str());
        if start_ok.mechanism.as_str() != "PLAIN" {
            self.give_up(id);
            return;
        }
        let user = plain(start_ok.response.as_bytes())
            .filter(|(user, password)| {
                self.settings.users.get(*user).is_some_and(|p| p == password)
            })
            .map(|(user, _)| user.to_owned());
        let tune = self.settings.tune;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.capabilities = Capabilities::of(&start_ok.client_properties);
        connection.client_properties = start_ok.client_properties;
        let Some(user) = user else {
            if connection.capabilities.authentication_failure_close {
                let text = format!(
                    "Login was refused using authentication mechanism {}. For details see the \
                     broker logfile.",
                    start_ok.mechanism
                );
                self.close_connection_with(id, 403, &reply_text(403, &text), MethodId::default());
            } else {
                self.give_up(id);
            }
            return;
        };
        connection.user = user;
        connection.phase = Phase::TuneOk;
        let tune = conn::Tune {
            channel_max: tune.channel_max,
            frame_max: tune.frame_max,
            heartbeat: tune.heartbeat,
        };
        self.send(id, 0, &AMQPClass::Connection(conn::AMQPMethod::Tune(tune)));
    }

    /// Ends a connection whose handshake went wrong, without a word.
    pub(super) fn give_up(&mut self, id: ConnId) {
        let (after, ending) = self.settings.personality.after_a_bad_handshake();
        self.end_at(id, self.now + after, ending);
    }

    fn tune_ok(&mut self, id: ConnId, tune_ok: &conn::TuneOk) {
        let subject = format!(
            "channel_max={} frame_max={} heartbeat={}",
            tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat
        );
        self.logs.add(id, 0, "connection.tune-ok", &subject);
        let offer = self.settings.tune;
        let frame_max_ok = is_within(tune_ok.frame_max, offer.frame_max)
            && (tune_ok.frame_max == 0 || tune_ok.frame_max >= FRAME_MIN_SIZE);
        let channel_max_ok = is_within(tune_ok.channel_max.into(), offer.channel_max.into());
        if !frame_max_ok || !channel_max_ok {
            if self.settings.personality.is_rabbitmq() {
                self.give_up(id);
            } else {
                let text = reply_text(530, "negotiated frame_max or channel_max is not allowed");
                self.close_connection_with(id, 530, &text, MethodId(10, 31));
            }
            return;
        }
        let now = self.now;
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = Phase::Open;
            connection.frame_max =
                if tune_ok.frame_max == 0 { UNLIMITED } else { tune_ok.frame_max };
            connection.channel_max = tune_ok.channel_max;
            connection.heartbeat = Duration::from_secs(tune_ok.heartbeat.into());
            connection.last_received = now;
            connection.last_sent = now;
        }
    }

    fn open(&mut self, id: ConnId, vhost: &str) -> Result<(), Refusal> {
        self.logs.add(id, 0, "connection.open", vhost);
        let vhost =
            if vhost.is_empty() && !self.settings.personality.is_rabbitmq() { "/" } else { vhost };
        if !self.settings.vhosts.contains(vhost) {
            return Err(Refusal::connection(530, format!("vhost {vhost} not found")));
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            vhost.clone_into(&mut connection.vhost);
            connection.phase = Phase::Running;
        }
        let ok = conn::AMQPMethod::OpenOk(conn::OpenOk {});
        self.send(id, 0, &AMQPClass::Connection(ok));
        Ok(())
    }
}

/// User and password of a PLAIN response: an authorisation id that nobody uses, and the two, after a NUL
/// each.
fn plain(response: &[u8]) -> Option<(&str, &str)> {
    let response = std::str::from_utf8(response).ok()?;
    let mut parts = response.split('\0');
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some((user, password))
}

/// Whether an answer keeps to the offer, where 0 is "no limit".
const fn is_within(answer: u32, offer: u32) -> bool {
    offer == 0 || (answer != 0 && answer <= offer)
}
