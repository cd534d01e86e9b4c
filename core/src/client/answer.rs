//! The answer to something that a handle asked of the driver.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::channel::oneshot::{self, Canceled};

use super::link::{Control, DriverLink};

/// Waits for an answer. Dropped before it came, it has the driver forget what was asked, as far as
/// that is possible still: nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    receiver: oneshot::Receiver<T>,
    link: Arc<DriverLink>,
    came: bool,
}

impl<T> Answer<T> {
    /// Asks what `control` makes of the end where the answer goes.
    pub(crate) fn ask(
        link: &Arc<DriverLink>,
        control: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Self {
        let (reply, receiver) = oneshot::channel();
        link.request(control(reply));
        Self { receiver, link: Arc::clone(link), came: false }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Canceled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.receiver).poll(cx);
        self.came |= answer.is_ready();
        answer
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if !self.came {
            // Before the driver looks.
            self.receiver.close();
            self.link.request(Control::Forget);
        }
    }
}
