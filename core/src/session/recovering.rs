//! Consumers whose channel is gone: lost with its connection, closed or cancelled by the broker.

use std::sync::Arc;

use super::{Session, SessionEvent};
use crate::{
    config::WhenCancelled,
    consume::consumer::{ConsumerState, Subscription},
    error::ConsumeError,
    event::{EndReason, Event, Interruption},
    ids::ConsumerId,
    session::appended::What,
};

impl Session {
    /// Forgets the subscriptions that `gone` names: the broker delivers again what was outstanding.
    pub(super) fn abandon_subscriptions(
        &mut self,
        id: ConsumerId,
        gone: impl Fn(&Subscription) -> bool,
    ) -> bool {
        let abandoned = self.remove_subscriptions(id, gone);
        let Some(consumer) = self.consumers.get_mut(id.0) else { return false };
        let Some(abandoned) = abandoned else { return false };
        consumer.stats.abandoned += abandoned;
        if let Some(report) = &mut self.closing {
            report.abandoned += abandoned;
        }
        self.tell_generation(id);
        self.note_settles(id);
        true
    }

    /// Removes subscriptions: how many deliveries were not settled on them; `None` if there were none
    /// such. Complete deliveries without ack stay: nobody sends them again.
    pub(super) fn remove_subscriptions(
        &mut self,
        id: ConsumerId,
        which: impl Fn(&Subscription) -> bool,
    ) -> Option<u64> {
        let consumer = self.consumers.get_mut(id.0)?;
        let before = consumer.subscriptions.len();
        let no_ack = consumer.config.no_ack;
        let mut unsettled = 0;
        let batches = &mut self.batches;
        consumer.subscriptions.retain_mut(|subscription| {
            let gone = which(subscription);
            if gone {
                unsettled +=
                    (subscription.acks.outstanding() + subscription.acks.settling()) as u64;
                if no_ack && !subscription.batch.is_empty() {
                    batches.push_back((id, Arc::new(std::mem::take(&mut subscription.batch))));
                }
            }
            !gone
        });
        let removed = consumer.subscriptions.len() < before;
        if removed && consumer.subscriptions.iter().all(|subscription| subscription.cancelled) {
            // Nothing comes that would have to wait for room.
            self.resume_reading(id);
        }
        removed.then_some(unsettled)
    }

    /// Tells the oldest generation whose deliveries can be settled.
    pub(super) fn tell_generation(&mut self, id: ConsumerId) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let valid_from =
            consumer.subscriptions.first().map_or(self.generation + 1, |s| s.generation);
        if !consumer.config.no_ack {
            self.batches.retain(|(other, batch)| *other != id || batch.generation() >= valid_from);
        }
        self.filling.retain(|&(other, generation)| other != id || generation >= valid_from);
        self.events.push_back(SessionEvent::Generation { consumer: id, valid_from });
    }

    /// A connection is gone, and with it every consumer's channel on it.
    pub(super) fn consumers_lost(&mut self, c: usize) {
        // Whoever waits for one of its channels waits for the connection now.
        self.starved.retain(|&(of, _)| of != c);
        for number in self.consumers.numbers() {
            let id = ConsumerId(number);
            if !self.abandon_subscriptions(id, |subscription| subscription.connection == c) {
                continue;
            }
            let Some(consumer) = self.consumers.get_mut(id.0) else { continue };
            if consumer.is_closing() {
                self.check_consumer(id);
                continue;
            }
            consumer.state = ConsumerState::Waiting;
            consumer.interrupted(self.now, self.config.backoff.stable);
            if consumer.was_active {
                let queue = consumer.config.queue.clone();
                self.event(Event::ConsumerInterrupted { queue, why: Interruption::Disconnected });
            }
        }
    }

    /// The broker closed a consumer's channel, or refused its subscription.
    pub(super) fn consumer_closed(
        &mut self,
        id: ConsumerId,
        generation: u64,
        code: u16,
        text: &Arc<str>,
    ) {
        let Some(consumer) = self.consumers.get(id.0) else { return };
        let current = consumer
            .subscriptions
            .last()
            .is_some_and(|s| s.generation == generation && !s.cancelled);
        // Generations are valid from one number on: older channels go with it, unless nothing came on
        // this one.
        let unused = consumer.subscription(generation).is_some_and(|s| s.acks.next_tag() == 1)
            && consumer.state == ConsumerState::Opening;
        let refused = consumer.state == ConsumerState::Opening && code != 0;
        if unused {
            self.abandon_subscriptions(id, |s| s.generation == generation);
        } else {
            self.forget_settlements(id, generation);
            self.close_channels(id, |s| s.generation < generation);
            self.abandon_subscriptions(id, |s| s.generation <= generation);
        }
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if refused && consumer.was_active && consumer.config.when_cancelled == WhenCancelled::End {
            consumer.begin_closing(EndReason::Refused { code, text: text.clone() });
            self.arm_consumer_close(id);
        }
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        if !current || consumer.is_closing() {
            self.check_consumer(id);
            return;
        }
        let queue = consumer.config.queue.clone();
        if consumer.was_active {
            consumer.state = ConsumerState::Waiting;
            let why = Interruption::Refused { code, text: text.clone() };
            self.event(Event::ConsumerInterrupted { queue: queue.clone(), why });
            if code == 404 {
                self.redeclare(&queue);
            }
        }
        let (after, state) = (self.config.deadlines.rpc, self.state.to_string().into());
        self.refuse_or_retry(id, |_| match code {
            // No broker refuses with 0: it has not answered.
            0 => ConsumeError::TimedOut { queue, after, state },
            code => ConsumeError::Refused { queue, code, text: text.clone() },
        });
    }

    /// Settlements that are encoded for a channel that the broker has closed never count. Those on older
    /// channels do: they are written ahead of our own close.
    fn forget_settlements(&mut self, id: ConsumerId, generation: u64) {
        let Some(c) = self
            .consumers
            .get(id.0)
            .and_then(|consumer| consumer.subscription(generation))
            .map(|s| s.connection)
        else {
            return;
        };
        let mut lost = Vec::new();
        if let Some(appended) = self.appended.get_mut(c) {
            for appended in appended.iter_mut() {
                if let What::Settlements { consumer, generation: of, settled, .. } =
                    &mut appended.what
                    && *consumer == id
                    && *of == generation
                {
                    lost.push(std::mem::take(settled));
                }
            }
        }
        for settled in lost {
            self.settlements_lost(id, settled);
        }
    }

    /// The broker cancelled a consumer (s31): it is subscribed again on a new channel; the old one
    /// stays until what is in hand is settled.
    pub(super) fn consumer_cancelled(&mut self, id: ConsumerId, generation: u64) {
        let Some(consumer) = self.consumers.get_mut(id.0) else { return };
        let Some(subscription) = consumer.subscription_mut(generation) else { return };
        if std::mem::replace(&mut subscription.cancelled, true) {
            return;
        }
        let queue = consumer.config.queue.clone();
        if consumer.is_closing() {
            self.check_consumer(id);
            return;
        }
        if consumer.config.when_cancelled == WhenCancelled::End {
            consumer.begin_closing(EndReason::Cancelled);
            self.arm_consumer_close(id);
            self.check_consumer(id);
            return;
        }
        if consumer.state != ConsumerState::Active {
            // It was on its way: the reply to its consume does not come any more.
            self.close_channels(id, |s| s.generation == generation);
            self.abandon_subscriptions(id, |s| s.generation == generation);
        }
        self.event(Event::ConsumerInterrupted {
            queue: queue.clone(),
            why: Interruption::Cancelled,
        });
        self.check_consumer(id);
        self.redeclare(&queue);
        self.resubscribe_later(id);
    }
}
