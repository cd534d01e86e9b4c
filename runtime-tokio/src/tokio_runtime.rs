//! Sockets, timer, time and randomness on tokio.

use std::{
    future::Future as _,
    hash::{BuildHasher as _, RandomState},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use lavinmq_core::{
    Target, Time,
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, Sleep, sleep_until},
};

use crate::TokioIo;

/// Tokio, as the driver needs it.
#[derive(Clone, Copy, Debug)]
pub struct TokioRuntime {
    /// tokio's own clock, so that paused tests pause the client, too.
    epoch: Instant,
}

impl TokioRuntime {
    /// Time counts from here.
    #[must_use]
    pub fn new() -> Self {
        Self { epoch: Instant::now() }
    }
}

impl Default for TokioRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl Runtime for TokioRuntime {
    type Io = TokioIo<TcpStream>;
    type Timer = TokioTimer;

    fn now(&self) -> Time {
        let nanos = Instant::now().saturating_duration_since(self.epoch).as_nanos();
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
            let addresses = lookup_host((&*target.host, target.port)).await.map_err(|error| {
                DialError::Resolve { host: target.host.clone(), message: error.to_string().into() }
            })?;
            let mut failure = DialError::Resolve {
                host: target.host.clone(),
                message: "the name has no address".into(),
            };
            for address in addresses {
                match TcpStream::connect(address).await.and_then(without_delay) {
                    Ok(stream) => return Ok(TokioIo::new(stream)),
                    Err(error) => failure = error.into(),
                }
            }
            Err(failure)
        })
    }

    fn timer(&self) -> TokioTimer {
        TokioTimer { epoch: self.epoch, sleep: None }
    }

    fn writes_are_final(_: &Self::Io) -> bool {
        true
    }
}

/// The driver gathers small frames itself.
fn without_delay(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A timer, bound to the runtime in which it is first polled.
#[derive(Debug)]
pub struct TokioTimer {
    epoch: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer for TokioTimer {
    fn poll_until(mut self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        // tokio takes 30 years for "never".
        let at = Duration::from_nanos(at.as_nanos()).min(Duration::from_secs(30 * 365 * 86_400));
        let at = self.epoch + at;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_pauses_the_client() {
        let runtime = TokioRuntime::new();
        let mut timer = runtime.timer();
        for seconds in [3600, 7200] {
            let at = Time::ZERO + Duration::from_secs(seconds);
            poll_fn(|cx| Pin::new(&mut timer).poll_until(cx, at)).await;
            // To the millisecond, which is tokio's resolution.
            let late = runtime.now().saturating_since(at);
            assert!(runtime.now() >= at && late < Duration::from_millis(2), "{late:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_can_be_moved_earlier() {
        let runtime = TokioRuntime::new();
        let mut timer = runtime.timer();
        let late = Time::ZERO + Duration::from_secs(100);
        let pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut timer).poll_until(cx, late))).await;
        assert!(pending.is_pending());
        let early = Time::ZERO + Duration::from_secs(1);
        poll_fn(|cx| Pin::new(&mut timer).poll_until(cx, early)).await;
        assert!(runtime.now() < late);
    }

    #[test]
    fn seeds_differ() {
        let runtime = TokioRuntime::new();
        assert_ne!(runtime.seed(), runtime.seed());
    }

    #[tokio::test]
    async fn f5_a_refused_connection_is_the_systems_error() {
        // Bound and dropped: nobody listens there.
        #[expect(clippy::unwrap_used, reason = "tests")]
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let result = TokioRuntime::new().connect(Target::new("127.0.0.1", port, false)).await;
        assert!(
            matches!(&result, Err(DialError::Io { kind: io::ErrorKind::ConnectionRefused, .. })),
            "{result:?}"
        );
    }
}
