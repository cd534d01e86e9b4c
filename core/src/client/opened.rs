//! Answers on their way to whoever opened something. If nobody takes them, they close it again.

use std::{mem, sync::Arc};

use super::{
    consumer_queue::ConsumerShared,
    link::{Control, DriverLink},
    producer_shared::ProducerShared,
};

/// A producer that no handle holds yet.
#[derive(Debug)]
pub(crate) struct OpenedProducer(Arc<ProducerShared>);

impl OpenedProducer {
    pub(crate) fn new(shared: Arc<ProducerShared>) -> Self {
        shared.add_handle();
        Self(shared)
    }

    pub(crate) const fn shared(&self) -> &Arc<ProducerShared> {
        &self.0
    }
}

impl Drop for OpenedProducer {
    fn drop(&mut self) {
        self.0.remove_handle();
    }
}

/// A consumer that no handle holds yet.
#[derive(Debug)]
pub(crate) struct OpenedConsumer {
    shared: Arc<ConsumerShared>,
    link: Arc<DriverLink>,
    kept: bool,
}

impl OpenedConsumer {
    pub(crate) const fn new(shared: Arc<ConsumerShared>, link: Arc<DriverLink>) -> Self {
        Self { shared, link, kept: false }
    }

    /// From here on a [`super::consumer::Consumer`] closes it.
    pub(crate) fn keep(mut self) -> Arc<ConsumerShared> {
        self.kept = true;
        Arc::clone(&self.shared)
    }
}

impl Drop for OpenedConsumer {
    fn drop(&mut self) {
        if mem::replace(&mut self.kept, true) {
            return;
        }
        if self.shared.begin_close() {
            self.link.request(Control::CloseConsumer { consumer: self.shared.id() });
        }
        self.shared.abandon();
    }
}
