//! Sockets, timer, time and randomness on async-io.

use std::{
    future::Future as _,
    hash::{BuildHasher as _, RandomState},
    io,
    net::TcpStream,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_io::Async;
use lavinmq_core::{
    Target, Time,
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
};

use crate::io::SmolIo;

/// smol, as the driver needs it.
#[derive(Clone, Copy, Debug)]
pub struct SmolRuntime {
    epoch: Instant,
}

impl SmolRuntime {
    /// Time counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self { epoch: Instant::now() }
    }
}

impl Default for SmolRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for SmolRuntime {
    type Io = SmolIo<TcpStream>;
    type Timer = SmolTimer;

    fn now(&self) -> Time {
        let nanos = self.epoch.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        if getrandom::fill(&mut seed).is_err() {
            // No system source: what std keys its hash maps with has to do.
            for part in seed.chunks_exact_mut(8) {
                part.copy_from_slice(&RandomState::new().hash_one(part.as_ptr()).to_le_bytes());
            }
        }
        seed
    }

    fn connect(&self, target: Target) -> BoxFuture<'static, Result<Self::Io, DialError>> {
        Box::pin(async move {
            if target.tls {
                return Err(DialError::Tls { message: "not supported by this version".into() });
            }
            let addresses =
                smol::net::resolve((&*target.host, target.port)).await.map_err(|error| {
                    DialError::Resolve {
                        host: target.host.clone(),
                        message: error.to_string().into(),
                    }
                })?;
            let mut failure = DialError::Resolve {
                host: target.host.clone(),
                message: "the name has no address".into(),
            };
            for address in addresses {
                match Async::<TcpStream>::connect(address).await.and_then(without_delay) {
                    Ok(stream) => return Ok(SmolIo::new(stream)),
                    Err(error) => failure = error.into(),
                }
            }
            Err(failure)
        })
    }

    fn timer(&self) -> SmolTimer {
        SmolTimer { epoch: self.epoch, armed: None, timer: async_io::Timer::never() }
    }

    fn writes_are_final(_: &Self::Io) -> bool {
        true
    }
}

/// The driver gathers small frames itself.
fn without_delay(stream: Async<TcpStream>) -> io::Result<Async<TcpStream>> {
    stream.get_ref().set_nodelay(true)?;
    Ok(stream)
}

/// A timer of async-io's reactor.
#[derive(Debug)]
pub struct SmolTimer {
    epoch: Instant,
    armed: Option<Time>,
    timer: async_io::Timer,
}

impl Timer for SmolTimer {
    fn poll_until(mut self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        if self.armed != Some(at) {
            self.armed = Some(at);
            match self.epoch.checked_add(Duration::from_nanos(at.as_nanos())) {
                Some(at) => self.timer.set_at(at),
                None => self.timer = async_io::Timer::never(),
            }
        }
        let fired = Pin::new(&mut self.timer).poll(cx).map(|_| ());
        if fired.is_ready() {
            // A timer that fired is used up: the next call arms it again.
            self.armed = None;
        }
        fired
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn a_timer_fires_not_before_its_time_and_again() {
        let runtime = SmolRuntime::new();
        let mut timer = runtime.timer();
        smol::block_on(async {
            for millis in [5, 10] {
                let at = runtime.now() + Duration::from_millis(millis);
                poll_fn(|cx| Pin::new(&mut timer).poll_until(cx, at)).await;
                assert!(runtime.now() >= at);
                // What is past is past.
                poll_fn(|cx| Pin::new(&mut timer).poll_until(cx, at)).await;
            }
        });
    }

    #[test]
    fn f5_a_refused_connection_is_the_systems_error() {
        // Bound and dropped: nobody listens there.
        #[expect(clippy::unwrap_used, reason = "tests")]
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let connecting = SmolRuntime::new().connect(Target::new("127.0.0.1", port, false));
        let result = smol::block_on(connecting);
        assert!(
            matches!(&result, Err(DialError::Io { kind: io::ErrorKind::ConnectionRefused, .. })),
            "{result:?}"
        );
    }
}
