//! The runtimes that our client is measured on.

use std::future::Future;
use std::pin::Pin;

use futures::FutureExt;
use futures::future::RemoteHandle;
use lavinmq_core::{Client, Options};
use tokio::runtime::Builder;

use crate::{Failure, Fallible};

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    TokioCurrentThread,
    TokioMultiThread,
    Smol,
}

impl Runtime {
    pub(crate) const ALL: [Self; 3] =
        [Self::TokioCurrentThread, Self::TokioMultiThread, Self::Smol];

    /// As it is called in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TokioCurrentThread => "tokio current-thread",
            Self::TokioMultiThread => "tokio multi-thread",
            Self::Smol => "smol",
        }
    }

    /// Runs `work` on a runtime of its own (smol: on the one that a process has), in a task where
    /// there are threads for it.
    pub(crate) fn run<T, F>(self, work: F) -> Fallible<T>
    where
        T: Send + 'static,
        F: Future<Output = Fallible<T>> + Send + 'static,
    {
        match self {
            Self::TokioCurrentThread => {
                Builder::new_current_thread().enable_all().build()?.block_on(work)
            }
            Self::TokioMultiThread => {
                let runtime = Builder::new_multi_thread().enable_all().build()?;
                let work = runtime.spawn(work);
                runtime.block_on(work).map_err(Failure::from)?
            }
            Self::Smol => futures::executor::block_on(smol::spawn(work)),
        }
    }

    /// Inside [`run`](Self::run): a task beside this one. It ends with its handle.
    pub(crate) fn spawn<F>(self, work: F) -> RemoteHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (work, handle) = work.remote_handle();
        match self {
            Self::TokioCurrentThread | Self::TokioMultiThread => drop(tokio::spawn(work)),
            Self::Smol => smol::spawn(work).detach(),
        }
        handle
    }

    /// Inside [`run`](Self::run): a client, connected.
    pub(crate) async fn connect(self, options: Options) -> Fallible<Client> {
        Ok(match self {
            Self::Smol => lavinmq_smol::connect(options).await?,
            Self::TokioCurrentThread | Self::TokioMultiThread => {
                lavinmq_tokio::connect(options).await?
            }
        })
    }

    /// Inside [`run`](Self::run): passes time.
    pub(crate) fn sleep(
        self,
        time: std::time::Duration,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self {
            Self::Smol => Box::pin(smol::Timer::after(time).map(|_| ())),
            Self::TokioCurrentThread | Self::TokioMultiThread => Box::pin(tokio::time::sleep(time)),
        }
    }
}
