//! One task of a producer: publishes, waits, gives up, and keeps the receipts.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures::future::{Either, select};
use lavinmq_core::{Message, Mode, Producer, Publish, Receipt, error::PublishError};

use super::shared::{Busy, Shared, race};
use crate::sim::{
    accounts::Id,
    scenario::{PublishOp, ReceiptPlan},
};

/// What a publish yields: nothing, or a receipt.
pub(super) trait Ticket: Send + 'static {
    fn receipt(self) -> Option<Receipt>;
}

impl Ticket for () {
    fn receipt(self) -> Option<Receipt> {
        None
    }
}

impl Ticket for Receipt {
    fn receipt(self) -> Option<Receipt> {
        Some(self)
    }
}

/// One task of a producer.
pub(super) struct Publisher<M: Mode> {
    pub(super) shared: Arc<Shared>,
    pub(super) producer: Producer<M>,
    pub(super) index: usize,
    pub(super) task: usize,
    pub(super) receipts: u64,
}

impl<M: Mode> Publisher<M>
where
    M::Accepted: Ticket,
{
    pub(super) async fn run(mut self, ops: Vec<PublishOp>) {
        let _busy = Busy(self.shared.clone());
        for op in ops {
            if self.shared.stop.is_open() {
                return;
            }
            match op {
                PublishOp::Publish { bytes, receipt } => self.publish(bytes, receipt).await,
                PublishOp::PublishTo { queue, bytes, receipt } => {
                    self.publish_to(queue, bytes, receipt).await;
                }
                PublishOp::Abandon { bytes, polls, patience } => {
                    self.abandon(bytes, polls, patience).await;
                }
                PublishOp::Try { bytes } => self.try_publish(bytes),
                PublishOp::Invalid => self.invalid().await,
                PublishOp::Flush(patience) => {
                    let shared = self.shared.clone();
                    let enough = race(shared.handle.sleep(patience), shared.stop.wait());
                    race(self.producer.flush(), enough).await;
                }
                PublishOp::Pause(pause) => {
                    // Once everything has healed there is no more dallying.
                    let shared = &self.shared;
                    let enough = race(shared.healed.wait(), shared.stop.wait());
                    race(shared.handle.sleep(pause), enough).await;
                }
            }
        }
    }

    fn offer(&self, queue: Option<usize>) -> Id {
        self.shared.books().offer(self.index, self.task, queue)
    }

    /// Writes down how an offer ended.
    fn offered(&self, id: Id, result: Result<M::Accepted, PublishError>) -> Option<Receipt> {
        match result {
            Ok(accepted) => {
                let receipt = accepted.receipt();
                let sequence = receipt.as_ref().map(Receipt::sequence);
                self.shared.handle.event(format_args!("{id} accepted as {sequence:?}"));
                self.shared.books().accepted_one(id, sequence);
                receipt
            }
            Err(error) => {
                self.shared.handle.event(format_args!("{id} refused: {error}"));
                self.shared.books().refused(id, &error);
                None
            }
        }
    }

    /// Polls a publish until it ends, or the world stops, or it was pending so often.
    async fn poll_publish(
        &self,
        id: Id,
        mut publish: Publish<'_, M, Message>,
        polls: Option<u32>,
    ) -> Option<Receipt> {
        let mut stop = pin!(self.shared.stop.wait());
        let mut left = polls;
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut publish).poll(cx) {
                return Poll::Ready(Some(result));
            }
            left = left.map(|left| left.saturating_sub(1));
            if left == Some(0) || stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match result {
            Some(result) => self.offered(id, result),
            None => {
                drop(publish);
                self.shared.handle.event(format_args!("{id} cancelled"));
                self.shared.books().cancelled(id);
                None
            }
        }
    }

    async fn publish(&mut self, bytes: usize, plan: ReceiptPlan) {
        let id = self.offer(None);
        let publish = self.producer.publish(id.message(bytes));
        if let Some(receipt) = self.poll_publish(id, publish, None).await {
            self.keep(id, receipt, plan).await;
        }
    }

    async fn publish_to(&mut self, queue: usize, bytes: usize, plan: ReceiptPlan) {
        let id = self.offer(Some(queue));
        let key = &self.shared.scenario.queues[queue].name;
        let publish = self.producer.publish_to(key, id.message(bytes));
        if let Some(receipt) = self.poll_publish(id, publish, None).await {
            self.keep(id, receipt, plan).await;
        }
    }

    async fn abandon(&mut self, bytes: usize, polls: u32, patience: Duration) {
        let id = self.offer(None);
        let shared = self.shared.clone();
        let outcome = {
            let publish = self.producer.publish(id.message(bytes));
            let publish = pin!(self.poll_publish(id, publish, Some(polls)));
            let timer = pin!(shared.handle.sleep(patience));
            match select(publish, timer).await {
                Either::Left((receipt, _)) => Some(receipt),
                Either::Right(((), _)) => None,
            }
        };
        match outcome {
            Some(Some(receipt)) => self.keep(id, receipt, ReceiptPlan::AwaitLater).await,
            Some(None) => {}
            None => shared.books().cancelled(id),
        }
    }

    fn try_publish(&mut self, bytes: usize) {
        let id = self.offer(None);
        let result = self.producer.try_publish(id.message(bytes));
        if let Some(receipt) = self.offered(id, result) {
            self.await_later(id, receipt);
        }
    }

    async fn invalid(&mut self) {
        let id = self.offer(None);
        let message = id.message(20).message_id(&"y".repeat(256));
        match self.producer.publish(message).await {
            Ok(_) => self.shared.books().violation(format!("{id}: accepted, though invalid")),
            Err(error) => self.shared.books().refused(id, &error),
        }
    }

    async fn keep(&mut self, id: Id, mut receipt: Receipt, plan: ReceiptPlan) {
        match plan {
            ReceiptPlan::AwaitLater => self.await_later(id, receipt),
            ReceiptPlan::AwaitNow => {
                let stop = self.shared.stop.wait();
                match race(&mut receipt, stop).await {
                    Either::Left(result) => {
                        self.shared.books().receipt(id, result.as_ref().copied());
                    }
                    Either::Right(()) => self.await_later(id, receipt),
                }
            }
            ReceiptPlan::Detach => receipt.detach(),
            ReceiptPlan::PollThenDrop => {
                let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut receipt).poll(cx))).await;
                if let Poll::Ready(result) = polled {
                    self.shared.books().receipt(id, result.as_ref().copied());
                }
            }
            ReceiptPlan::Drop => drop(receipt),
        }
    }

    fn await_later(&mut self, id: Id, receipt: Receipt) {
        self.receipts += 1;
        let shared = self.shared.clone();
        shared.busy.fetch_add(1, Ordering::Relaxed);
        self.shared.handle.spawn(format!("receipt of {id}"), async move {
            let _busy = Busy(shared.clone());
            let result = receipt.await;
            shared.handle.event(format_args!("receipt of {id}: {:?}", result.is_ok()));
            shared.books().receipt(id, result.as_ref().copied());
        });
    }
}
