//! What handles ask for, and what they are answered later.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use futures::channel::oneshot;

use super::effects::Effects;
use crate::{
    client::{
        client_shared::{ClientShared, Core},
        consumer_queue::{ConsumerShared, Taken},
        link::Control,
        opened::{OpenedConsumer, OpenedProducer},
        producer_shared::ProducerShared,
        queue::QueueState,
    },
    consume::SettleRun,
    error::{ConsumeError, DeclareError, OpenError},
    event::EndReason,
    ids::{ConsumerId, RequestId},
    session::DeclaredQueue,
    time::Time,
    timers::Timers,
};

/// Requests whose answers are still to come.
#[derive(Debug, Default)]
pub(super) struct Requests {
    consumers: BTreeMap<ConsumerId, oneshot::Sender<Result<OpenedConsumer, ConsumeError>>>,
    declares: BTreeMap<RequestId, oneshot::Sender<Result<Arc<QueueState>, DeclareError>>>,
    /// Queues that the broker named, and may name anew.
    queues: BTreeMap<RequestId, Weak<QueueState>>,
    /// The timers of `next_batch`, one per consumer at most.
    lingers: Timers<ConsumerId>,
    shutting_down: bool,
    runs: Vec<SettleRun>,
}

impl Requests {
    pub(super) const fn is_shutting_down(&self) -> bool {
        self.shutting_down
    }

    /// Why consumers that close now do so.
    pub(super) const fn end_reason(&self) -> EndReason {
        if self.shutting_down { EndReason::ClientClosed } else { EndReason::Closed }
    }

    /// Takes everything that handles have asked for.
    pub(super) fn take(
        &mut self,
        core: &mut Core,
        client: &ClientShared,
        effects: &mut Effects,
        now: Time,
    ) -> bool {
        let mut changed = false;
        let mut forget = false;
        while let Some(control) = client.link.pop_control() {
            changed = true;
            // Once for all who gave up.
            forget |= matches!(control, Control::Forget);
            self.request(control, core, client, effects, now);
        }
        if forget {
            self.forget(core, now);
        }
        if client.link.is_abandoned() && !self.shutting_down {
            changed = true;
            self.shut_down(client.config.deadlines.drop, core, now);
        }
        changed
    }

    fn request(
        &mut self,
        control: Control,
        core: &mut Core,
        client: &ClientShared,
        effects: &mut Effects,
        now: Time,
    ) {
        match control {
            Control::OpenProducer { config, hooks, reply } => {
                let opened = if self.shutting_down {
                    Err(OpenError::Closed)
                } else {
                    core.session.open_producer((*config).clone(), now).map(|id| {
                        let limits = &client.config.limits;
                        let shared = ProducerShared::new(id, *config, limits, &client.link);
                        core.producers.insert(Arc::clone(&shared), *hooks);
                        effects.touch(id);
                        OpenedProducer::new(shared)
                    })
                };
                effects.answer(reply, opened);
            }
            Control::CloseProducer { producer, deadline, reply } => {
                let deadline = reply
                    .is_some()
                    .then(|| now + deadline.unwrap_or(client.config.deadlines.shutdown));
                let closed =
                    core.producers.close(producer, deadline, reply, &mut core.session, now);
                if let Some(reply) = closed {
                    effects.answer(reply, crate::session::Report::default());
                }
                effects.touch(producer);
            }
            Control::OpenConsumer { config, hold_on_drop, reply } => {
                let opened = if self.shutting_down {
                    Err(ConsumeError::Closed)
                } else {
                    core.session.open_consumer((*config).clone(), now)
                };
                match opened {
                    Ok(id) => {
                        let link = Some(Arc::clone(&client.link));
                        let shared = ConsumerShared::new(id, link, &config, hold_on_drop);
                        core.consumers.insert(id, shared);
                        self.consumers.insert(id, reply);
                    }
                    Err(error) => effects.answer(reply, Err(error)),
                }
            }
            Control::CloseConsumer { consumer } => {
                if core.consumers.contains_key(&consumer) {
                    // First what it settled.
                    self.visit_consumer(core, consumer, now);
                    core.session.close_consumer(consumer, now);
                }
            }
            Control::Declare { config, reply } => {
                let server_named = config.name.is_empty();
                let declared = if self.shutting_down {
                    Err(DeclareError::Closed)
                } else {
                    core.session.declare_queue(*config, now)
                };
                match declared {
                    Ok(request) => {
                        self.declares.insert(request, reply);
                        if server_named {
                            self.queues.insert(request, Weak::new());
                        }
                    }
                    Err(error) => effects.answer(reply, Err(error)),
                }
            }
            // Done when all are taken.
            Control::Forget => {}
            Control::Shutdown { deadline } => self.shut_down(deadline, core, now),
        }
    }

    /// Withdraws whatever nobody waits for any more.
    fn forget(&mut self, core: &mut Core, now: Time) {
        let Self { declares, consumers, queues, .. } = self;
        declares.retain(|&request, reply| {
            let forgotten = reply.is_canceled();
            if forgotten {
                core.session.forget_request(request);
                queues.remove(&request);
            }
            !forgotten
        });
        consumers.retain(|&consumer, reply| {
            let forgotten = reply.is_canceled();
            if forgotten {
                core.session.close_consumer(consumer, now);
            }
            !forgotten
        });
    }

    fn shut_down(&mut self, deadline: std::time::Duration, core: &mut Core, now: Time) {
        self.shutting_down = true;
        core.producers.close_admission(&mut core.session, now);
        let consumers: Vec<_> = core.consumers.keys().copied().collect();
        for consumer in consumers {
            self.visit_consumer(core, consumer, now);
        }
        core.session.shutdown(deadline, now);
    }

    /// Takes what a consumer's application settled and consumed.
    pub(super) fn visit_consumer(&mut self, core: &mut Core, consumer: ConsumerId, now: Time) {
        let Some(shared) = core.consumers.get(&consumer) else { return };
        let Taken { consumed, linger } = shared.take(&mut self.runs);
        for run in self.runs.drain(..) {
            core.session.settle(consumer, run, now);
        }
        if consumed > 0 {
            core.session.handle_consumed(consumer, consumed, now);
        }
        if let Some(after) = linger {
            self.lingers.arm(consumer, now + after);
        }
    }

    /// The timers of `next_batch` that are over.
    pub(super) fn expire(&mut self, core: &Core, effects: &mut Effects, now: Time) {
        while let Some(consumer) = self.lingers.pop_due(now) {
            effects.wake(core.consumers.get(&consumer).and_then(|consumer| consumer.linger_over()));
        }
    }

    pub(super) fn next_linger(&self) -> Option<Time> {
        self.lingers.next().map(|(at, _)| at)
    }

    pub(super) fn declared(
        &mut self,
        request: RequestId,
        result: Result<DeclaredQueue, DeclareError>,
        effects: &mut Effects,
    ) {
        let result = result.map(|declared| Arc::new(QueueState::new(declared)));
        match &result {
            Ok(state) => {
                if let Some(known) = self.queues.get_mut(&request) {
                    *known = Arc::downgrade(state);
                }
            }
            Err(_) => {
                self.queues.remove(&request);
            }
        }
        if let Some(reply) = self.declares.remove(&request) {
            effects.answer(reply, result);
        }
    }

    pub(super) fn renamed(&mut self, request: RequestId, name: Arc<str>) {
        match self.queues.get(&request).and_then(Weak::upgrade) {
            Some(state) => state.rename(name),
            None => {
                self.queues.remove(&request);
            }
        }
    }

    pub(super) fn consumer_opened(
        &mut self,
        consumer: ConsumerId,
        result: Result<(), ConsumeError>,
        core: &mut Core,
        client: &ClientShared,
        effects: &mut Effects,
    ) {
        let shared = if result.is_ok() {
            core.consumers.get(&consumer).cloned()
        } else {
            core.consumers.remove(&consumer)
        };
        if let (Some(reply), Some(shared)) = (self.consumers.remove(&consumer), shared) {
            let link = Arc::clone(&client.link);
            effects.answer(reply, result.map(|()| OpenedConsumer::new(shared, link)));
        }
    }

    pub(super) fn consumer_ended(&mut self, consumer: ConsumerId) {
        self.consumers.remove(&consumer);
        self.lingers.cancel(consumer);
    }
}
