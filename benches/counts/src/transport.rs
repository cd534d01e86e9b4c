//! A runtime for the client whose transports are memory, and count.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};
use lavinmq_core::{
    Target, Time,
    error::DialError,
    runtime::{BoxFuture, Runtime, Timer},
};

use crate::{
    apart::apart,
    network::{Network, State},
};

/// The runtime.
#[derive(Debug)]
pub struct Counted(pub Network);

impl Runtime for Counted {
    type Io = Transport;
    type Timer = Alarm;

    fn now(&self) -> Time {
        apart(|| self.0.lock().now())
    }

    fn seed(&self) -> [u8; 32] {
        [7; 32]
    }

    fn connect(&self, _: Target) -> BoxFuture<'static, Result<Transport, DialError>> {
        let network = self.0.clone();
        let connection = network.lock().connect();
        Box::pin(async move { Ok(Transport { network, connection }) })
    }

    fn timer(&self) -> Alarm {
        Alarm(self.0.clone())
    }

    /// As on plain TCP.
    fn writes_are_final(_: &Transport) -> bool {
        true
    }
}

/// The driver's timer.
#[derive(Debug)]
pub struct Alarm(Network);

impl Timer for Alarm {
    fn poll_until(self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        apart(|| {
            let mut state = self.0.lock();
            if at <= state.now() {
                state.alarm = None;
                return Poll::Ready(());
            }
            state.alarm = Some((at, cx.waker().clone()));
            Poll::Pending
        })
    }
}

/// A connection's end at the client.
#[derive(Debug)]
pub struct Transport {
    network: Network,
    connection: usize,
}

impl Transport {
    fn read(&self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut guard = self.network.lock();
        let State { events, connections, .. } = &mut *guard;
        let connection = &mut connections[self.connection];
        events.reads += 1;
        let bytes = connection.to_client.bytes();
        let n = bytes.len().min(buffer.len());
        if n == 0 {
            events.reads_pending += 1;
            connection.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buffer[..n].copy_from_slice(&bytes[..n]);
        connection.to_client.consume(n);
        // There is room for more.
        guard.notify_peer(self.connection);
        Poll::Ready(Ok(n))
    }

    fn write(&self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut guard = self.network.lock();
        let State { events, connections, .. } = &mut *guard;
        let connection = &mut connections[self.connection];
        events.writes += 1;
        let room = connection.to_peer.room();
        if room == 0 {
            events.writes_pending += 1;
            connection.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut left = room;
        for slice in slices {
            let n = slice.len().min(left);
            connection.to_peer.push(&slice[..n]);
            left -= n;
        }
        guard.notify_peer(self.connection);
        Poll::Ready(Ok(room - left))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        apart(|| self.read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        apart(|| self.write(cx, &[IoSlice::new(bytes)]))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        apart(|| self.write(cx, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        apart(|| self.network.lock().events.flushes += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
