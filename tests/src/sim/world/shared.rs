//! What all actors of a world share.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use futures::future::{Either, select};
use lavinmq_core::{
    Client, Confirm, FireAndForget, Producer, Report,
    stats::{ProducerStats, Stats},
};

use crate::sim::{
    accounts::Accounts, executor::Handle, host::Host, network::Network, random::Random,
    scenario::Scenario,
};

/// What all actors share.
pub(super) struct Shared {
    pub(super) scenario: Scenario,
    pub(super) handle: Handle,
    pub(super) network: Network,
    pub(super) host: Host,
    pub(super) accounts: Arc<Mutex<Accounts>>,
    pub(super) root: Random,
    /// Everything is well from now on.
    pub(super) healed: Gate,
    /// Applications let go of everything.
    pub(super) stop: Gate,
    /// The client is being closed.
    pub(super) closing: Gate,
    /// Handles whose stats the oracle reads.
    pub(super) handles: Mutex<Handles>,
    /// Producer tasks and awaited receipts that are not done.
    pub(super) busy: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Handles {
    pub(super) client: Option<Client>,
    pub(super) producers: Vec<Option<AnyProducer>>,
    /// The stats as last seen.
    pub(super) stats: Vec<Option<ProducerStats>>,
    pub(super) sum: Option<Stats>,
}

pub(super) enum AnyProducer {
    FireAndForget(Producer<FireAndForget>),
    Confirm(Producer<Confirm>),
}

impl AnyProducer {
    pub(super) fn stats(&self) -> ProducerStats {
        match self {
            Self::FireAndForget(producer) => producer.stats(),
            Self::Confirm(producer) => producer.stats(),
        }
    }

    pub(super) async fn flush(&self) {
        match self {
            Self::FireAndForget(producer) => producer.flush().await,
            Self::Confirm(producer) => producer.flush().await,
        }
    }

    pub(super) async fn shutdown(&self, deadline: Duration) -> Report {
        match self {
            Self::FireAndForget(producer) => producer.shutdown(deadline).await,
            Self::Confirm(producer) => producer.shutdown(deadline).await,
        }
    }

    pub(super) fn again(&self) -> Self {
        match self {
            Self::FireAndForget(producer) => Self::FireAndForget(producer.clone()),
            Self::Confirm(producer) => Self::Confirm(producer.clone()),
        }
    }
}

/// Something that many wait for and that happens once.
#[derive(Default)]
pub(super) struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    pub(super) fn open(&self) {
        let wakers = {
            let mut state = lock(&self.0);
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.0).0
    }

    pub(super) async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = lock(&self.0);
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of two futures to end.
pub(super) async fn race<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    match select(pin!(a), pin!(b)).await {
        Either::Left((a, _)) => Either::Left(a),
        Either::Right((b, _)) => Either::Right(b),
    }
}

impl Shared {
    pub(super) fn books(&self) -> MutexGuard<'_, Accounts> {
        lock(&self.accounts)
    }

    /// The client's handle, while the world holds one.
    pub(super) fn client(&self) -> Option<Client> {
        lock(&self.handles).client.clone()
    }
}

/// One task that counts as busy until it ends.
pub(super) struct Busy(pub(super) Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
