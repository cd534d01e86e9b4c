//! Consumers: opened, closed and opened again, and what they do with their deliveries.

use std::{future::Future, sync::Arc, time::Duration};

use futures::future::Either;
use lavinmq_core::{Consumer, Delivery, Manual, NoAck, Settle, error::ConsumeError, time::Time};

use super::shared::{Shared, race};
use crate::sim::{
    accounts::{Id, Treatment},
    random::Random,
    scenario::ConsumerPlan,
};

impl Shared {
    pub(super) async fn consume(self: Arc<Self>, index: usize, plan: ConsumerPlan) {
        let mut random = self.root.split(&format!("consumer {index}"));
        let mut reopens_at = plan.reopens_at.map(|at| Time::ZERO + at);
        while !self.stop.is_open() {
            let Some(client) = self.client() else { return };
            let builder = client.consumer(self.scenario.queues[plan.queue].name.as_str());
            drop(client);
            let until = reopens_at.take();
            let again = if plan.no_ack {
                match race(builder.no_ack().open(), self.stop.wait()).await {
                    Either::Left(Ok(consumer)) => self.receive(index, consumer, until).await,
                    Either::Left(Err(error)) => self.refused(index, &error).await,
                    Either::Right(()) => false,
                }
            } else {
                match race(
                    builder.prefetch(plan.prefetch).requeue_delay(plan.requeue_delay).open(),
                    self.stop.wait(),
                )
                .await
                {
                    Either::Left(Ok(consumer)) => {
                        self.settle_all(index, &plan, &mut random, consumer, until).await
                    }
                    Either::Left(Err(error)) => self.refused(index, &error).await,
                    Either::Right(()) => false,
                }
            };
            if !again {
                return;
            }
        }
    }

    /// A consumer did not open; whether to try again.
    async fn refused(&self, index: usize, error: &ConsumeError) -> bool {
        self.handle.event(format_args!("consumer {index}: {error}"));
        race(self.handle.sleep(Duration::from_millis(300)), self.stop.wait()).await;
        !matches!(error, ConsumeError::Closed)
    }

    async fn until(&self, at: Option<Time>) {
        match at {
            Some(at) => self.handle.sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// A no-ack consumer; whether it is to be opened again.
    async fn receive(
        &self,
        index: usize,
        mut consumer: Consumer<NoAck>,
        until: Option<Time>,
    ) -> bool {
        loop {
            let stop = race(self.until(until), self.stop.wait());
            match race(consumer.next(), stop).await {
                Either::Left(Some(received)) => {
                    let id = read_id(&received);
                    self.handle.event(format_args!("consumer {index} gets {id:?}"));
                    match id {
                        Some(id) => {
                            let place = self.books().handed(id, index, received.redelivered());
                            self.books().treated(place, Treatment::NoAck);
                        }
                        None => self.books().violation("a delivery that nobody published"),
                    }
                }
                Either::Left(None) => return self.ended(index, consumer.end_reason().is_some()),
                Either::Right(Either::Left(())) => {
                    self.close(index, consumer.close()).await;
                    return true;
                }
                Either::Right(Either::Right(())) => return false,
            }
        }
    }

    fn ended(&self, index: usize, says_why: bool) -> bool {
        if !says_why {
            self.books().violation(format!("consumer {index} ended without a reason"));
        }
        if !self.stop.is_open() {
            self.books().violation(format!("consumer {index} ended though nobody closed it"));
        }
        false
    }

    async fn close(
        &self,
        index: usize,
        close: impl Future<Output = lavinmq_core::session::Report>,
    ) {
        match race(close, self.stop.wait()).await {
            Either::Left(report) => {
                self.handle.event(format_args!("consumer {index} closed: {report:?}"));
            }
            Either::Right(()) => {}
        }
    }

    /// A consumer that settles; whether it is to be opened again.
    async fn settle_all(
        self: &Arc<Self>,
        index: usize,
        plan: &ConsumerPlan,
        random: &mut Random,
        mut consumer: Consumer<Manual>,
        until: Option<Time>,
    ) -> bool {
        loop {
            let stop = race(self.until(until), self.stop.wait());
            match race(consumer.next(), stop).await {
                Either::Left(Some(delivery)) => self.treat(index, plan, random, delivery),
                Either::Left(None) => return self.ended(index, consumer.end_reason().is_some()),
                Either::Right(Either::Left(())) => {
                    self.close(index, consumer.close()).await;
                    return true;
                }
                Either::Right(Either::Right(())) => return false,
            }
        }
    }

    fn treat(
        self: &Arc<Self>,
        index: usize,
        plan: &ConsumerPlan,
        random: &mut Random,
        delivery: Delivery,
    ) {
        let id = read_id(&delivery);
        self.handle.event(format_args!("consumer {index} gets {id:?}"));
        let Some(id) = id else {
            return self.books().violation("a delivery that nobody published");
        };
        let place = self.books().handed(id, index, delivery.redelivered());
        let habits = plan.habits;
        let mut draw = if self.healed.is_open() { 64 } else { random.below(64) };
        let mut is = |n: u64| {
            let hit = draw < n;
            draw = draw.saturating_sub(n);
            hit
        };
        let (settle, treatment) = if is(habits.requeue) {
            (delivery.requeue(), Treatment::Requeue)
        } else if is(habits.reject) {
            (delivery.reject(), Treatment::Reject)
        } else if is(habits.forget) {
            drop(delivery);
            (Settle::Queued, Treatment::Forget)
        } else if is(habits.ack_through) {
            let settle = delivery.ack_through();
            if settle == Settle::Queued {
                self.books().treated_through(index, Treatment::Ack);
            }
            (settle, Treatment::Ack)
        } else if is(habits.hold) {
            let shared = self.clone();
            let pause = Duration::from_millis(random.below(3000));
            let (_, acker) = delivery.into_parts();
            self.handle.spawn(format!("holder of {id}"), async move {
                race(race(shared.handle.sleep(pause), shared.healed.wait()), shared.stop.wait())
                    .await;
                let settle = acker.ack();
                shared.handle.event(format_args!("acks {id} late: {settle:?}"));
                if settle == Settle::Queued {
                    shared.books().treated(place, Treatment::Ack);
                }
            });
            return;
        } else {
            (delivery.ack(), Treatment::Ack)
        };
        self.handle.event(format_args!("{treatment:?} of {id}: {settle:?}"));
        if settle == Settle::Queued {
            self.books().treated(place, treatment);
        }
    }
}

fn read_id(received: &lavinmq_core::Received) -> Option<Id> {
    if !received.body().is_empty() {
        return Id::read(received.body(), None);
    }
    let properties = received.properties().ok()?;
    Id::read(b"", properties.message_id().as_ref().map(|id| id.as_str()))
}
