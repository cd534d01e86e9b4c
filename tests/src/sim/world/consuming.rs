//! Consumers: opened, closed and opened again.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::Either;
use lavinmq_core::{Consumer, Manual, NoAck, OnFailure, Report, error::ConsumeError, time::Time};

use super::{
    shared::{Shared, lock, race},
    treating::Treating,
};
use crate::sim::{
    accounts::Treatment,
    scenario::{ConsumerPlan, Style},
    states,
};

/// Why a consumer is no longer read.
enum End {
    /// Its time has come: it is closed, and opened again.
    Reopen,
    /// It ended by itself.
    Ended,
    /// The world stops.
    Stop,
}

impl Shared {
    pub(super) async fn consume(self: Arc<Self>, index: usize, plan: ConsumerPlan) {
        let treating = Arc::new(Treating {
            shared: self.clone(),
            index,
            random: Mutex::new(self.root.split(&format!("consumer {index}"))),
            plan: plan.clone(),
        });
        let mut times: VecDeque<_> = plan.reopens_at.iter().map(|at| Time::ZERO + *at).collect();
        while !self.stop.is_open() {
            let Some(client) = self.client() else { return };
            let builder = client.consumer(self.scenario.queues[plan.queue].name.as_str());
            drop(client);
            let until = times.pop_front();
            let again = if plan.no_ack {
                match race(builder.no_ack().open(), self.stop.wait()).await {
                    Either::Left(Ok(consumer)) => self.receive(index, consumer, until).await,
                    Either::Left(Err(error)) => self.refused(index, &error).await,
                    Either::Right(()) => false,
                }
            } else {
                let builder = builder.prefetch(plan.prefetch).requeue_delay(plan.requeue_delay);
                let builder = match plan.style {
                    Style::Run { rejects: true, .. } => builder.on_failure(OnFailure::Reject),
                    Style::Run { .. } | Style::Next | Style::Batch { .. } => builder,
                };
                match race(builder.open(), self.stop.wait()).await {
                    Either::Left(Ok(consumer)) => self.settle_all(&treating, consumer, until).await,
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

    pub(super) async fn until(&self, at: Option<Time>) {
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
                    let Some(place) = self.gets(index, &received) else { continue };
                    self.books().treated(place, Treatment::NoAck);
                }
                Either::Left(None) => return self.ended(index, consumer.end_reason().is_some()),
                Either::Right(Either::Left(())) => {
                    if !self.scenario.consumers[index].drops {
                        self.close(index, consumer.close()).await;
                    }
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
        if !self.stop.is_open() && !self.closing.is_open() {
            self.books().violation(format!("consumer {index} ended though nobody closed it"));
        }
        false
    }

    async fn close(&self, index: usize, close: impl Future<Output = Report>) {
        match race(close, self.stop.wait()).await {
            Either::Left(report) => {
                self.handle.event(format_args!("consumer {index} closed: {report:?}"));
            }
            Either::Right(()) => {}
        }
    }

    /// A consumer that settles; whether it is to be opened again.
    async fn settle_all(
        &self,
        treating: &Arc<Treating>,
        mut consumer: Consumer<Manual>,
        until: Option<Time>,
    ) -> bool {
        let (index, plan) = (treating.index, &treating.plan);
        let end = {
            let stop = race(self.until(until), self.stop.wait());
            match race(Self::take_all(treating, &mut consumer), stop).await {
                Either::Left(()) => End::Ended,
                Either::Right(Either::Left(())) => End::Reopen,
                Either::Right(Either::Right(())) => End::Stop,
            }
        };
        match end {
            End::Ended => self.ended(index, consumer.end_reason().is_some()),
            End::Stop => false,
            End::Reopen => {
                if lock(&self.accounts).holds(index) {
                    self.books().state(states::CLOSED_UNACKED);
                }
                if plan.drops {
                    drop(consumer);
                } else {
                    self.close(index, consumer.close()).await;
                }
                true
            }
        }
    }

    /// Takes deliveries as planned, until there are none.
    async fn take_all(treating: &Arc<Treating>, consumer: &mut Consumer<Manual>) {
        match treating.plan.style {
            Style::Next => {
                while let Some(delivery) = consumer.next().await {
                    treating.treat(delivery);
                }
            }
            Style::Batch { most, linger } => {
                while let Some(batch) = consumer.next_batch(most, linger).await {
                    if batch.is_empty() || batch.len() > most {
                        let got = batch.len();
                        treating
                            .shared
                            .books()
                            .violation(format!("a batch of {got} instead of 1 to {most}"));
                    }
                    if batch.len() > 1 {
                        treating.shared.books().state(states::BATCH_OF_MANY);
                    }
                    batch.into_iter().for_each(|delivery| treating.treat(delivery));
                }
            }
            Style::Run { concurrency, .. } => {
                let treating = treating.clone();
                consumer
                    .run(concurrency, move |received| {
                        let treating = treating.clone();
                        treating.clone().handle(received)
                    })
                    .await;
            }
        }
    }
}
