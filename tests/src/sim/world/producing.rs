//! Producers: opened as planned, with hooks that write down what they hear.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lavinmq_core::{Mode, Producer, config::PublishMode, event::Settled, time::Time};

use futures::future::Either;

use super::{
    publisher::{Publisher, Ticket},
    shared::{AnyProducer, Busy, Shared, lock, race},
};
use crate::sim::{
    scenario::{ClosePlan, Target},
    states,
};

impl Shared {
    pub(super) async fn produce(self: Arc<Self>, index: usize) {
        let _busy = Busy(self.clone());
        let plan = self.scenario.producers[index].clone();
        let Some(client) = self.client() else { return };
        let key = self.scenario.routing_key(index);
        let builder = match plan.target {
            Target::Queue(_) | Target::Nowhere => client.producer(key.as_str()),
            Target::MissingExchange => client.producer_on("missing", &key),
        };
        drop(client);
        let mut builder = builder
            .buffer_size(plan.buffer_size)
            .buffer_bytes(plan.buffer_bytes)
            .buffer_policy(plan.policy)
            .when_offline(plan.when_offline);
        if let Some(timeout) = plan.publish_timeout {
            builder = builder.publish_timeout(timeout);
        }
        if let Some(ttl) = plan.ttl {
            builder = builder.ttl(ttl);
        }
        let calls = Arc::new(AtomicU64::new(0));
        let hook = || {
            let (shared, calls, every) = (self.clone(), calls.clone(), plan.hook_panics_every);
            move |settled: &Settled| {
                shared.books().hook(index, settled);
                let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
                if every > 0 && call.is_multiple_of(every) {
                    shared.books().hook_panicked();
                    // Without the panic hook's message: it is meant.
                    std::panic::resume_unwind(Box::new("planned"));
                }
            }
        };
        builder = builder.on_nack(hook()).on_return(hook()).on_error(hook()).on_drop(hook());
        match plan.mode {
            PublishMode::Confirm => {
                let mut builder =
                    builder.confirm().max_in_flight(plan.max_in_flight).mandatory(plan.mandatory);
                if let Some(timeout) = plan.confirm_timeout {
                    builder = builder.confirm_timeout(timeout);
                }
                if plan.hears_confirms {
                    builder = builder.on_confirm(hook());
                }
                if let Some(producer) = self.opened(index, builder.open()).await {
                    lock(&self.handles).producers[index] =
                        Some(AnyProducer::Confirm(producer.clone()));
                    self.publish_in_tasks(index, producer);
                }
            }
            _ => {
                if let Some(producer) = self.opened(index, builder.open()).await {
                    lock(&self.handles).producers[index] =
                        Some(AnyProducer::FireAndForget(producer.clone()));
                    self.publish_in_tasks(index, producer);
                }
            }
        }
    }

    /// Closes the producer at its time, while others go on.
    fn close_alone(self: &Arc<Self>, index: usize) {
        let Some((at, how)) = self.scenario.producers[index].closes else { return };
        let shared = self.clone();
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.handle.spawn(format!("closer of producer {index}"), async move {
            let _busy = Busy(shared.clone());
            let time = shared.handle.sleep_until(Time::ZERO + at);
            if let Either::Right(()) = race(time, shared.stop.wait()).await {
                return;
            }
            let producer = lock(&shared.handles).producers[index].as_ref().map(AnyProducer::again);
            let Some(producer) = producer else { return };
            {
                let mut books = shared.books();
                books.state(states::CLOSED_ALONE);
                if books.waiting(index) > 0 {
                    books.state(states::CLOSE_WITH_WAITERS);
                }
            }
            let deadline = match how {
                ClosePlan::Drain => Duration::from_secs(3600),
                ClosePlan::Abandon(deadline) => deadline,
            };
            let done = race(producer.shutdown(deadline), shared.stop.wait()).await;
            if let Either::Left(report) = done {
                shared.handle.event(format_args!("producer {index} closed: {report:?}"));
                if report.unknown > 0 {
                    shared.books().state(states::ABANDONED);
                }
            }
        });
    }

    async fn opened<P>(
        &self,
        index: usize,
        open: impl Future<Output = Result<P, lavinmq_core::error::OpenError>>,
    ) -> Option<P> {
        match race(open, self.stop.wait()).await {
            Either::Left(Ok(producer)) if !self.stop.is_open() => Some(producer),
            Either::Left(Err(error)) if !self.stop.is_open() && !self.closing.is_open() => {
                self.books().violation(format!("producer {index} did not open: {error}"));
                None
            }
            _ => None,
        }
    }

    fn publish_in_tasks<M>(self: &Arc<Self>, index: usize, producer: Producer<M>)
    where
        M: Mode,
        M::Accepted: Ticket,
    {
        self.close_alone(index);
        for (task, ops) in self.scenario.producers[index].tasks.iter().enumerate() {
            let publisher = Publisher {
                shared: self.clone(),
                producer: producer.clone(),
                index,
                task,
                receipts: 0,
            };
            self.busy.fetch_add(1, Ordering::Relaxed);
            let name = format!("producer {index} task {task}");
            self.handle.spawn(name, publisher.run(ops.clone()));
        }
    }
}
