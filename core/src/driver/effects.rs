//! What a turn leads to outside the session: wake-ups, hooks, events, answers. Collected while the
//! session is locked, done when it no longer is.

#![expect(clippy::disallowed_types, reason = "whoever waits for the driver is woken from here")]

use std::{fmt, sync::Arc, task::Waker};

use futures::channel::oneshot;

use super::requests::Requests;
use crate::{
    client::{
        client_shared::{ClientShared, Core},
        consumer_queue::ConsumerShared,
        hooks::Hooks,
        producer_shared::ProducerShared,
        producers::Closed,
    },
    error::{Loss, NotConfirmed},
    event::{EndReason, Event, Settled, State},
    ids::ProducerId,
    session::{ProducerUpdate, SessionEvent},
    time::Time,
};

/// See the module.
#[derive(Default)]
pub(super) struct Effects {
    happened: Vec<Happened>,
    updates: Vec<Update>,
    wakers: Vec<Waker>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    closed: Vec<Closed>,
    /// Producers whose account has changed.
    touched: Vec<ProducerId>,
}

/// Something that hooks and readers of events hear, in order.
enum Happened {
    Event(Event),
    Settled { producer: Arc<ProducerShared>, hooks: Arc<Hooks>, settled: Box<Settled> },
    Ready,
    Failed(Loss),
}

struct Update {
    producer: Arc<ProducerShared>,
    update: ProducerUpdate,
    early: Vec<(u64, u64)>,
}

impl Effects {
    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.wakers.extend(waker);
    }

    /// Answers a request, if somebody still waits.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: oneshot::Sender<T>, answer: T) {
        self.answers.push(Box::new(move || drop(reply.send(answer))));
    }

    /// This producer's account has changed.
    pub(super) fn touch(&mut self, producer: ProducerId) {
        if self.touched.last() != Some(&producer) {
            self.touched.push(producer);
        }
    }

    pub(super) fn end_consumer(
        &mut self,
        consumer: &ConsumerShared,
        reason: EndReason,
        abandoned: u64,
    ) {
        consumer.end(reason, abandoned, &mut self.wakers);
    }

    /// Takes everything that the session has to tell. Returns whether that was anything.
    pub(super) fn collect(
        &mut self,
        core: &mut Core,
        client: &ClientShared,
        requests: &mut Requests,
        now: Time,
    ) -> bool {
        let mut changed = false;
        // Before the events: one may be that its consumer has ended.
        while let Some((consumer, batch)) = core.session.poll_batch() {
            changed = true;
            if let Some(consumer) = core.consumers.get(&consumer) {
                let waker = consumer.push(batch);
                self.wake(waker);
            }
        }
        // Before the updates: a verdict must be known before the watermark that covers it.
        while let Some(event) = core.session.poll_event() {
            changed = true;
            self.event(event, core, client, requests, now);
        }
        while let Some(update) = core.session.poll_producer() {
            changed = true;
            self.touch(update.producer);
            let Some(producer) = core.producers.get(update.producer).cloned() else { continue };
            let mut early = Vec::new();
            core.session.take_settled_early(update.producer, &mut early);
            if update.closed {
                let account = core.session.closed_producer_stats(update.producer);
                self.closed.extend(core.producers.closed(update.producer, account));
            }
            self.updates.push(Update { producer, update, early });
        }
        changed
    }

    fn event(
        &mut self,
        event: SessionEvent,
        core: &mut Core,
        client: &ClientShared,
        requests: &mut Requests,
        now: Time,
    ) {
        match event {
            SessionEvent::Event(event) => {
                if let Event::State(state) = &event {
                    // Before producers are told.
                    client.link.set_state(Arc::new(state.clone()));
                }
                self.happened.push(Happened::Event(event));
            }
            SessionEvent::Ready => self.happened.push(Happened::Ready),
            SessionEvent::ConnectFailed(loss) => self.happened.push(Happened::Failed(loss)),
            SessionEvent::Settled { producer, settled } => {
                if let Some(shared) = core.producers.get(producer)
                    && let Some(hooks) = core.producers.hooks(producer)
                {
                    self.happened.push(Happened::Settled {
                        producer: Arc::clone(shared),
                        hooks: Arc::clone(hooks),
                        settled,
                    });
                }
            }
            SessionEvent::Declared { request, result } => requests.declared(request, result, self),
            SessionEvent::QueueRenamed { request, name } => requests.renamed(request, name),
            SessionEvent::ConsumerOpened { consumer, result } => {
                requests.consumer_opened(consumer, result, core, client, self);
            }
            SessionEvent::Generation { consumer, valid_from } => {
                if let Some(consumer) = core.consumers.get(&consumer) {
                    consumer.set_valid_from(valid_from);
                }
            }
            SessionEvent::SettlesWritten { consumer, settles } => {
                if let Some(consumer) = core.consumers.get(&consumer) {
                    consumer.settles_written(settles, &mut self.wakers);
                }
            }
            SessionEvent::HandBack { consumer } => {
                if let Some(consumer) = core.consumers.get(&consumer) {
                    let (_, stream) = consumer.hand_back_all(requests.end_reason());
                    self.wake(stream);
                }
            }
            SessionEvent::ConsumerEnded { consumer, reason, abandoned } => {
                requests.consumer_ended(consumer);
                if let Some(shared) = core.consumers.remove(&consumer) {
                    self.end_consumer(&shared, reason, abandoned);
                }
            }
            // Whatever was handed over meanwhile still gets its outcome; the driver then ends.
            SessionEvent::Closed => core.producers.close_admission(&mut core.session, now),
        }
    }

    /// The end of a turn, before the session is unlocked: publishes the accounts of all producers
    /// that were touched.
    pub(super) fn finish_turn(&mut self, core: &mut Core) {
        core.producers.take_wakers(&mut self.wakers);
        if self.touched.is_empty() {
            return;
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for producer in self.touched.drain(..) {
            if let Some(shared) = core.producers.get(producer)
                && let Some(stats) = core.session.producer_stats(producer)
            {
                shared.publish_stats(stats);
            }
        }
    }

    /// Does it all. No lock of ours is held: this runs the application's code.
    pub(super) fn run(&mut self, client: &ClientShared) {
        drain(&mut self.happened, |happened| happened.tell(client));
        drain(&mut self.updates, |Update { producer, update, early }| {
            producer.apply(&update, &early);
        });
        drain(&mut self.answers, |answer| answer());
        drain(&mut self.closed, |Closed { shared, report, replies }| {
            shared.abandon();
            for reply in replies {
                // Nobody has to wait for it.
                let _ = reply.send(report);
            }
        });
        drain(&mut self.wakers, Waker::wake);
    }
}

/// Mostly there is nothing, which a `Drain` finds out by a hundred instructions.
#[inline]
fn drain<T>(from: &mut Vec<T>, each: impl FnMut(T)) {
    if !from.is_empty() {
        from.drain(..).for_each(each);
    }
}

impl Happened {
    fn tell(self, client: &ClientShared) {
        match self {
            Self::Event(event) => {
                if let Event::State(state) = &event {
                    log_state(state);
                    heard(client, client.hooks.state(state));
                } else {
                    tracing::debug!(?event, "event");
                }
                client.events.emit(&event);
            }
            Self::Settled { producer, hooks, settled } => {
                heard(client, hooks.settled(&settled));
                heard(client, client.hooks.settled(&settled));
                let Settled { sequence, verdict, message, .. } = *settled;
                if let Some(verdict) = verdict
                    && producer.wants_verdicts()
                {
                    producer.not_confirmed(NotConfirmed::new(verdict, sequence, message));
                }
            }
            Self::Ready => client.wake_waiting(|status| status.ready = true),
            Self::Failed(loss) => client.wake_waiting(|status| status.failed = Some(loss)),
        }
    }
}

fn heard(client: &ClientShared, result: Result<(), &'static str>) {
    if let Err(hook) = result {
        client.events.panicked(hook);
    }
}

fn log_state(state: &State) {
    match state {
        State::Reconnecting { .. } | State::Closed { loss: Some(_) } | State::Blocked { .. } => {
            tracing::warn!(%state, "client");
        }
        State::Connecting | State::Connected | State::Closed { loss: None } => {
            tracing::info!(%state, "client");
        }
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effects").finish_non_exhaustive()
    }
}
