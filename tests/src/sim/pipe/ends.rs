//! The two ends of a link.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};

use super::{Ending, Link, Watch, Way};
use crate::sim::executor::{Handle, SimTimer};

/// The client's end.
#[derive(Debug)]
pub struct SimIo {
    link: Link,
    read_timer: SimTimer,
    write_timer: SimTimer,
    /// Taken and not passed on yet, if this end buffers.
    pending: Vec<u8>,
    buffers: bool,
    /// What a vectored write is put together in.
    whole: Vec<u8>,
    watch: Option<Box<dyn Watch>>,
}

impl SimIo {
    pub(super) fn new(link: Link, handle: &Handle, buffers: bool) -> Self {
        Self {
            link,
            read_timer: handle.timer(),
            write_timer: handle.timer(),
            pending: Vec::new(),
            buffers,
            whole: Vec::new(),
            watch: None,
        }
    }

    /// Has somebody look at what goes through this end.
    pub fn watch_with(&mut self, watch: Box<dyn Watch>) {
        self.watch = Some(watch);
    }

    fn wrote(&mut self, bytes: &[u8], taken: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(n)), Some(watch)) = (&taken, &mut self.watch) {
            watch.wrote(&bytes[..*n]);
        }
        taken
    }

    fn ended(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.ended(self.link.is_silent());
        }
    }

    /// Whether a byte taken is a byte written.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !self.buffers
    }

    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let mut state = self.link.lock();
            let n = match state.poll_write(Way::Up, &mut self.write_timer, cx, &self.pending) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            drop(state);
            self.pending.drain(..n);
        }
        Poll::Ready(Ok(()))
    }
}

/// What a buffering end holds at most.
const BUFFERED: usize = 4096;

impl AsyncRead for SimIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { link, read_timer, .. } = &mut *self;
        let read = link.lock().poll_read(Way::Down, read_timer, cx, into);
        match &read {
            Poll::Ready(Ok(n)) if *n > 0 => {
                if let Some(watch) = &mut self.watch {
                    watch.read(&into[..*n]);
                }
            }
            Poll::Ready(_) => self.ended(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.buffers {
            let taken = this.link.lock().poll_write(Way::Up, &mut this.write_timer, cx, bytes);
            return this.wrote(bytes, taken);
        }
        if this.pending.len() >= BUFFERED {
            match this.poll_pass_on(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let n = bytes.len().min(BUFFERED - this.pending.len());
        this.pending.extend_from_slice(&bytes[..n]);
        self.wrote(bytes, Poll::Ready(Ok(n)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One write for all of them, which can end inside any of them.
        let most = if self.buffers { BUFFERED } else { self.link.lock().conditions.chunk };
        let mut whole = std::mem::take(&mut self.whole);
        whole.clear();
        for slice in slices {
            let room = most.saturating_sub(whole.len());
            whole.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let result = self.as_mut().poll_write(cx, &whole);
        self.whole = whole;
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pass_on(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_pass_on(cx) {
            Poll::Ready(Ok(())) => {
                self.link.lock().shut(Way::Up, Ending::Eof);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        self.ended();
        let mut state = self.link.lock();
        state.shut(Way::Up, Ending::Eof);
        if state.over.is_none() && !state.silent {
            // Nobody reads: what still comes down goes nowhere.
            let told = state.handle.now() + state.delay();
            state.over = Some((told, Ending::Eof));
        }
        state.down.reader = None;
        state.up.writer = None;
        if let Some(writer) = state.down.writer.take() {
            writer.wake();
        }
    }
}

/// The broker's end.
#[derive(Debug)]
pub struct ServerEnd {
    link: Link,
    read_timer: SimTimer,
    write_timer: SimTimer,
}

impl ServerEnd {
    pub(super) fn new(link: Link, handle: &Handle) -> Self {
        Self { link, read_timer: handle.timer(), write_timer: handle.timer() }
    }

    /// Reads what arrived.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.link.lock().poll_read(Way::Up, &mut self.read_timer, cx, into)
    }

    /// Writes as much as the pipe takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.link.lock().poll_write(Way::Down, &mut self.write_timer, cx, bytes)
    }

    /// Ends the connection: the client reads what was written, and then this.
    pub fn shut(self, ending: Ending) {
        let mut state = self.link.lock();
        match ending {
            Ending::Eof => {
                state.shut(Way::Down, Ending::Eof);
                if state.over.is_none() && !state.silent {
                    let told = state.handle.now() + state.delay();
                    state.over = Some((told, Ending::Eof));
                    state.wake_all();
                }
            }
            Ending::Reset => state.finish(Ending::Reset, true),
        }
    }

    /// The link.
    #[must_use]
    pub const fn link(&self) -> &Link {
        &self.link
    }
}
