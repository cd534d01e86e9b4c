//! The third runtime: a virtual clock and memory pipes.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lavinmq_core::{
    config::Target,
    error::DialError,
    runtime::{BoxFuture, Runtime},
    time::Time,
};

use super::{
    executor::{Handle, SimTimer},
    network::Network,
    pipe::SimIo,
    random::Random,
};

/// A runtime inside a simulated world.
#[derive(Debug)]
pub struct SimRuntime {
    handle: Handle,
    network: Network,
    random: Mutex<Random>,
    tick: Option<Duration>,
}

impl SimRuntime {
    /// A runtime on this network, with the failsafe tick or without.
    #[must_use]
    pub const fn new(
        handle: Handle,
        network: Network,
        random: Random,
        tick: Option<Duration>,
    ) -> Self {
        Self { handle, network, random: Mutex::new(random), tick }
    }
}

impl Runtime for SimRuntime {
    type Io = SimIo;
    type Timer = SimTimer;

    fn now(&self) -> Time {
        self.handle.now()
    }

    fn seed(&self) -> [u8; 32] {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).seed32()
    }

    fn connect(&self, _target: Target) -> BoxFuture<'static, Result<SimIo, DialError>> {
        Box::pin(self.network.clone().dial())
    }

    fn timer(&self) -> SimTimer {
        self.handle.timer()
    }

    fn writes_are_final(io: &SimIo) -> bool {
        io.is_final()
    }

    fn tick(&self) -> Option<Duration> {
        self.tick
    }
}
