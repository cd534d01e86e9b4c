//! The future of a first connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    client::Client,
    options::{Options, convert},
};
use crate::error::ConnectError;

/// A client that is connecting: what a runtime's `connect` returns.
///
/// # Cancel safety
///
/// Dropping it gives the attempt up.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Connect {
    step: Step,
    start: fn(Options) -> Result<Client, ConnectError>,
}

enum Step {
    Begin(Result<Box<Options>, ConnectError>),
    /// And its key among those who wait.
    Wait(Client, Option<u64>),
    Done,
}

impl Connect {
    /// Converts the argument now. At the first poll, `start` looks for the runtime, makes a client
    /// whose first connection may fail, and spawns its driver. For runtime crates.
    pub fn new<O>(options: O, start: fn(Options) -> Result<Client, ConnectError>) -> Self
    where
        O: TryInto<Options>,
        ConnectError: From<O::Error>,
    {
        Self { step: Step::Begin(convert(options).map(Box::new)), start }
    }
}

impl Future for Connect {
    type Output = Result<Client, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (client, mut key) = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Begin(options) => (options.and_then(|options| (self.start)(*options))?, None),
            Step::Wait(client, key) => (client, key),
            // Polled after it was ready.
            Step::Done => return Poll::Pending,
        };
        match client.shared().poll_ready(cx, &mut key) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(client)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.step = Step::Wait(client, key);
                Poll::Pending
            }
        }
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Step::Wait(client, Some(key)) = &self.step {
            client.shared().stop_waiting(*key);
        }
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.step {
            Step::Begin(_) => "Connect(not begun)",
            Step::Wait(..) => "Connect(waiting)",
            Step::Done => "Connect(done)",
        })
    }
}
