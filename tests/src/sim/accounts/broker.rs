//! What the broker says: what it received, stored, delivered, and what was settled there.

use lavinmq_core::wire::decode_properties;
use lavinmq_testing::{Fact, Lost};

use super::{Accounts, Id};
use crate::sim::states;

/// A message that the broker received whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) number: usize,
    pub(super) connection: u64,
}

fn read_id(body: &[u8], properties: &[u8]) -> Option<Id> {
    if !body.is_empty() {
        return Id::read(body, None);
    }
    let properties = decode_properties(properties).ok()?;
    Id::read(b"", properties.message_id().as_ref().map(|id| id.as_str()))
}

impl Accounts {
    /// Something happened at the broker.
    pub fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Received { connection, body, properties, .. } => {
                match read_id(body, properties) {
                    Some(id) => self.received(id, connection.get()),
                    None => self.violation("the broker got a message that nobody published"),
                }
            }
            Fact::Delivered {
                queue,
                body,
                properties,
                redelivered,
                no_ack,
                prefetch,
                unacked,
                ..
            } => {
                if !no_ack {
                    self.check_prefetch(queue, *prefetch, *unacked);
                }
                if let Some(id) = read_id(body, properties) {
                    let deliveries = self.deliveries_of(id);
                    deliveries.sent[usize::from(*redelivered)] += 1;
                    let lost = deliveries.wire_acks > deliveries.acks;
                    if lost && *redelivered {
                        self.state(states::ACK_LOST);
                    }
                }
            }
            Fact::Settled { body, properties, requeue, .. } => {
                if let Some(id) = read_id(body, properties) {
                    self.broker_settled(id, *requeue);
                }
            }
            Fact::Cancelled { unacked, .. } if *unacked > 0 => {
                self.state(states::CANCELLED_UNACKED);
            }
            Fact::Lost(lost) => self.lost(lost),
            _ => {}
        }
    }

    fn received(&mut self, id: Id, connection: u64) {
        let Some(record) = self.record(id) else {
            return self.violation(format!("{id}: the broker got what nobody offered"));
        };
        record.received += 1;
        let (received, whole) = (record.received, record.wire.whole);
        if received > whole {
            self.violation(format!("{id}: the broker got {received} copies of {whole}"));
        }
        if received == 1 {
            let arrival = Arrival { number: id.number, connection };
            self.producers[id.producer].arrivals.push(arrival);
        }
    }

    /// No consumer has more than it asked for, and each asks for what its application wants.
    fn check_prefetch(&mut self, queue: &str, prefetch: u16, unacked: u32) {
        let Some(wanted) = self.prefetches.get(queue) else { return };
        let most = wanted.iter().max().copied().unwrap_or(0);
        if !wanted.contains(&prefetch) || unacked > u32::from(most) {
            self.violation(format!(
                "a consumer of {queue} has {unacked} deliveries with a prefetch of {prefetch}; \
                 the applications want {wanted:?}"
            ));
        }
    }

    fn broker_settled(&mut self, id: Id, requeue: Option<bool>) {
        let deliveries = self.deliveries_of(id);
        match requeue {
            None => deliveries.acks += 1,
            Some(false) => deliveries.rejects += 1,
            Some(true) => return,
        }
        let all = *deliveries;
        if all.acks > all.app_acks || all.rejects > all.app_rejects {
            self.violation(format!(
                "{id}: the broker got {} acks and {} rejects, the application gave {} and {}",
                all.acks, all.rejects, all.app_acks, all.app_rejects
            ));
        }
    }

    fn lost(&mut self, lost: &Lost) {
        if lost.opening {
            self.state(states::CUT_IN_HANDSHAKE);
            if std::mem::replace(&mut self.cut_in_handshake, true) {
                self.state(states::CUT_IN_HANDSHAKE_TWICE);
            }
            return;
        }
        self.cut_in_handshake = false;
        if !lost.running {
            return;
        }
        if lost.blocked {
            self.state(states::BLOCKED_THEN_CUT);
        }
        if lost.unacked > 0 {
            self.state(states::CUT_WITH_UNACKED);
        }
        if lost.unconfirmed > 0 {
            self.state(states::CUT_BEFORE_CONFIRM);
        }
        // A method frame of class 60, method 40.
        if lost.frame.first() == Some(&1) && lost.frame.get(7..11) == Some(&[0, 60, 0, 40]) {
            self.state(states::CUT_IN_METHOD);
        }
        for (header, properties) in &lost.partial {
            if !header {
                self.state(states::CUT_IN_HEADER);
                continue;
            }
            self.state(states::CUT_IN_BODY);
            if properties.windows(9).any(|window| window == b"x-attempt") {
                self.state(states::CUT_IN_RESENT_BODY);
            }
        }
        match lost.last {
            Some("queue.declare") => self.state(states::CUT_WHILE_DECLARING),
            Some("channel.open" | "confirm.select") => self.state(states::CUT_WHILE_OPENING),
            Some("basic.qos" | "basic.consume") => self.state(states::CUT_WHILE_SUBSCRIBING),
            _ => {}
        }
    }
}
