//! One body of test code for both runtimes: a test is generic over [`Rt`].

// What cannot go on ends its test: this is for tests only.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, missing_debug_implementations)]

use std::{future::Future, time::Duration};

use futures::future::{BoxFuture, Either, select};
use lavinmq_core::{Client, Options, error::ConnectError};

/// A runtime crate and the executor that it is for.
pub trait Rt: 'static {
    const NAME: &'static str;

    /// Runs a test.
    fn block_on<F: Future>(future: F) -> F::Output;

    /// Runs a task beside the test; the future yields its result.
    fn spawn<F>(future: F) -> BoxFuture<'static, F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send;

    /// The crate's own `connect`.
    fn connect(options: Options) -> BoxFuture<'static, Result<Client, ConnectError>>;

    /// The crate's own `connect_lazy`.
    fn connect_lazy(options: Options) -> Result<Client, ConnectError>;

    /// The crate's own `with_driver`.
    fn with_driver(options: Options) -> Result<(Client, BoxFuture<'static, ()>), ConnectError>;

    fn sleep(duration: Duration) -> BoxFuture<'static, ()>;
}

/// lavinmq-tokio on tokio's multi-threaded runtime.
pub struct Tokio;

impl Rt for Tokio {
    const NAME: &'static str = "tokio";

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn spawn<F>(future: F) -> BoxFuture<'static, F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let task = tokio::spawn(future);
        Box::pin(async { task.await.unwrap() })
    }

    fn connect(options: Options) -> BoxFuture<'static, Result<Client, ConnectError>> {
        Box::pin(lavinmq_tokio::connect(options))
    }

    fn connect_lazy(options: Options) -> Result<Client, ConnectError> {
        lavinmq_tokio::connect_lazy(options)
    }

    fn with_driver(options: Options) -> Result<(Client, BoxFuture<'static, ()>), ConnectError> {
        let (client, driver) = lavinmq_tokio::with_driver(options)?;
        Ok((client, Box::pin(driver)))
    }

    fn sleep(duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// lavinmq-smol on smol's global executor.
pub struct Smol;

impl Rt for Smol {
    const NAME: &'static str = "smol";

    fn block_on<F: Future>(future: F) -> F::Output {
        smol::block_on(future)
    }

    fn spawn<F>(future: F) -> BoxFuture<'static, F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        Box::pin(smol::spawn(future))
    }

    fn connect(options: Options) -> BoxFuture<'static, Result<Client, ConnectError>> {
        Box::pin(lavinmq_smol::connect(options))
    }

    fn connect_lazy(options: Options) -> Result<Client, ConnectError> {
        lavinmq_smol::connect_lazy(options)
    }

    fn with_driver(options: Options) -> Result<(Client, BoxFuture<'static, ()>), ConnectError> {
        let (client, driver) = lavinmq_smol::with_driver(options)?;
        Ok((client, Box::pin(driver)))
    }

    fn sleep(duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            smol::Timer::after(duration).await;
        })
    }
}

/// How long anything may take before it counts as a hang. Far more than it ever takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The output of a future that must not hang; `what` it is, for the message if it does.
pub async fn soon<R: Rt, F: Future>(what: &str, future: F) -> F::Output {
    within::<R, F>(PATIENCE, what, future).await
}

/// The same with a patience of its own.
pub async fn within<R: Rt, F: Future>(patience: Duration, what: &str, future: F) -> F::Output {
    match select(std::pin::pin!(future), R::sleep(patience)).await {
        Either::Left((output, _)) => output,
        Either::Right(_) => panic!("{what}: not within {patience:?}"),
    }
}

/// Waits until a condition holds that nothing announces.
pub async fn eventually<R: Rt>(what: &str, mut condition: impl FnMut() -> bool) {
    soon::<R, _>(what, async {
        while !condition() {
            R::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The output of blocking work, done on a thread of its own so that the test's task goes on.
pub async fn off_thread<R: Rt, T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, output) = futures::channel::oneshot::channel();
    let thread = std::thread::spawn(move || done.send(work()).is_ok());
    let output = soon::<R, _>(what, output).await;
    assert!(thread.join().is_ok(), "{what}: panicked");
    output.unwrap_or_else(|_| panic!("{what}: panicked"))
}
