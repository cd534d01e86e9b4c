//! The director: sets the stage, lets everything heal, and ends the world.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use amq_protocol::types::AMQPValue;
use futures::future::Either;
use lavinmq_core::{Client, Options, time::Time};

use super::shared::{AnyProducer, Shared, lock, race};
use crate::sim::{
    runtime::SimRuntime,
    scenario::{DeclarePlan, EndingPlan},
    states,
};

/// How long bytes may be under way in a healed network that was bad before.
const UNDER_WAY: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn start(self: &Arc<Self>, runtime: SimRuntime) {
        let plan = &self.scenario.client;
        let options = Options::new("amqp://guest:guest@broker")
            .map(|options| {
                options
                    .heartbeat(plan.heartbeat)
                    .connections(plan.connections)
                    .frame_max(plan.frame_max)
                    .reconnect_max_delay(plan.max_delay)
                    .message_ids(plan.message_ids)
            })
            .map_err(lavinmq_core::error::ConnectError::from);
        let made = options.and_then(|options| lavinmq_core::driver::with_driver(runtime, options));
        let (client, driver) = match made {
            Ok(made) => made,
            Err(error) => return self.books().violation(format!("no client: {error}")),
        };
        let mut events = client.events();
        lock(&self.handles).client = Some(client);
        self.handle.spawn("driver", async move {
            driver.await;
        });
        let shared = self.clone();
        self.handle.spawn("events", async move {
            while let Some(event) = events.next().await {
                shared.handle.event(format_args!("event {event:?}"));
                shared.books().event(&event);
            }
        });
        self.handle.spawn("director", self.clone().direct());
        self.handle.spawn("faults", self.clone().make_faults());
    }

    /// Sets the stage, lets everything heal, and ends the world.
    async fn direct(self: Arc<Self>) {
        let Some(client) = self.client() else { return };
        if !self.scenario.client.impatient {
            race(client.ready(), self.stop.wait()).await;
        }
        for queue in 0..self.scenario.queues.len() {
            self.declare(&client, queue).await;
        }
        for index in 0..self.scenario.producers.len() {
            self.busy.fetch_add(1, Ordering::Relaxed);
            self.handle.spawn(format!("producer {index}"), self.clone().produce(index));
        }
        for (index, plan) in self.scenario.consumers.iter().enumerate() {
            self.handle
                .spawn(format!("consumer {index}"), self.clone().consume(index, plan.clone()));
        }
        for plan in self.scenario.declares.clone() {
            let name = format!("declares {}", plan.name);
            self.handle.spawn(name, self.clone().declare_on_the_way(plan));
        }
        self.handle.sleep_until(Time::ZERO + self.scenario.heals_at).await;
        match self.scenario.ending {
            EndingPlan::Calm => {
                self.heal();
                self.settle_everything().await;
                self.stop.open();
                let report = client.shutdown(Duration::from_secs(20)).await;
                self.handle.event(format_args!("shutdown: {report:?}"));
                if report.dropped + report.unknown > 0 || report.timed_out {
                    self.books().violation(format!("a calm shutdown left something: {report:?}"));
                }
            }
            EndingPlan::Abrupt => {
                let patience = self.root.split("shutdown").below(3000);
                self.note_close();
                self.closing.open();
                // In half of the worlds, whoever waits for something learns it from the client.
                if patience.is_multiple_of(2) {
                    self.stop.open();
                }
                let report = client.shutdown(Duration::from_millis(patience)).await;
                self.stop.open();
                self.handle.event(format_args!("shutdown: {report:?}"));
                self.heal();
            }
            EndingPlan::Dropped => {
                self.stop.open();
                {
                    let mut handles = lock(&self.handles);
                    handles.producers.iter_mut().for_each(|producer| *producer = None);
                    handles.client = None;
                }
                drop(client);
                // The driver gets its five seconds in bad weather; then even lost links are found.
                self.handle.sleep(Duration::from_secs(10)).await;
                self.heal();
            }
        }
    }

    async fn declare_on_the_way(self: Arc<Self>, plan: DeclarePlan) {
        let time = self.handle.sleep_until(Time::ZERO + plan.at);
        if let Either::Right(()) = race(time, self.stop.wait()).await {
            return;
        }
        let Some(client) = self.client() else { return };
        let mut builder = client.queue(&plan.name);
        if plan.exclusive {
            builder = builder.exclusive();
        }
        drop(client);
        let patience = plan.patience.map(|patience| self.handle.now() + patience);
        let enough = race(self.until(patience), self.stop.wait());
        match race(builder.declare(), enough).await {
            Either::Left(result) => {
                let result = result.map(|queue| queue.message_count());
                self.handle.event(format_args!("declares {}: {result:?}", plan.name));
            }
            Either::Right(_) => self.books().gives_up(&plan.name),
        }
        if let Some(after) = plan.deleted_after {
            race(self.handle.sleep(after), self.stop.wait()).await;
            self.host.with(|broker, now| broker.delete_queue(&plan.name, now));
        }
    }

    fn note_close(&self) {
        let mut books = self.books();
        if (0..self.scenario.producers.len()).any(|producer| books.waiting(producer) > 0) {
            books.state(states::CLOSE_WITH_WAITERS);
        }
    }

    fn heal(&self) {
        self.handle.event(format_args!("everything heals"));
        self.healed.open();
        self.network.heal();
        self.host.heal();
    }

    /// Waits until every producer's task is done, every message has its outcome, every queue is empty.
    async fn settle_everything(&self) {
        while self.busy.load(Ordering::Relaxed) > 0 {
            self.handle.sleep(Duration::from_millis(20)).await;
        }
        for index in 0..self.scenario.producers.len() {
            let producer = lock(&self.handles).producers[index].as_ref().map(AnyProducer::again);
            if let Some(producer) = producer {
                producer.flush().await;
            }
        }
        // What was sent may still be under way to its queue.
        self.handle.sleep(UNDER_WAY).await;
        let consumed = |queue: &str| {
            self.host.with(|broker, _| broker.queue_depth(queue) + broker.unacked(queue) == 0)
        };
        while !self.scenario.queues.iter().all(|queue| consumed(&queue.name)) {
            self.handle.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Declares a queue, again and again until it stands or the world ends.
    pub(super) async fn declare(&self, client: &Client, queue: usize) {
        let plan = &self.scenario.queues[queue];
        loop {
            let mut builder = client.queue(&plan.name).durable(!plan.transient);
            if let Some(most) = plan.rejects_over {
                let mut arguments = amq_protocol::types::FieldTable::default();
                arguments.insert("x-max-length".into(), AMQPValue::LongInt(most as i32));
                let overflow = AMQPValue::LongString("reject-publish".into());
                arguments.insert("x-overflow".into(), overflow);
                builder = builder.arguments(arguments);
            }
            match race(builder.declare(), self.stop.wait()).await {
                Either::Left(Ok(_)) | Either::Right(()) => return,
                Either::Left(Err(error)) => {
                    self.handle.event(format_args!("declare {}: {error}", plan.name));
                    if self.stop.is_open() {
                        return;
                    }
                    self.handle.sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }
}
