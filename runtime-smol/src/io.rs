//! A socket that is not read while it is known to have nothing.

use std::{
    io::{IoSlice, Read, Result, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_io::Async;
use futures::io::{AsyncRead, AsyncWrite};

/// An async-io socket for the driver, which looks for bytes in each of its turns.
///
/// `Async` asks the system each time. This one remembers that a read found less than there was room
/// for, and asks again once the reactor has said that there is more: a system call less per turn
/// (four per message where each is confirmed before the next is sent).
#[derive(Debug)]
pub struct SmolIo<T> {
    socket: Async<T>,
    /// The last read took all that was there.
    drained: bool,
}

impl<T> SmolIo<T> {
    pub(crate) const fn new(socket: Async<T>) -> Self {
        Self { socket, drained: false }
    }
}

impl<T> AsyncRead for SmolIo<T>
where
    for<'a> &'a T: Read,
    T: Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        if self.drained {
            ready!(self.socket.poll_readable(cx))?;
            self.drained = false;
        }
        let read = Pin::new(&mut &self.socket).poll_read(cx, buffer);
        self.drained = match &read {
            // An end of file, or an error, is there for every read to come.
            Poll::Ready(Ok(n)) => 0 < *n && *n < buffer.len(),
            Poll::Ready(Err(_)) => false,
            Poll::Pending => true,
        };
        read
    }
}

impl<T> AsyncWrite for SmolIo<T>
where
    for<'a> &'a T: Write,
    T: Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut &self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut &self.socket).poll_write_vectored(cx, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut &self.socket).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut &self.socket).poll_close(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        net::{TcpListener, TcpStream},
        os::fd::{AsFd, BorrowedFd},
    };

    use super::*;

    /// Counts how often the system is asked.
    struct Counting {
        socket: TcpStream,
        reads: Cell<u32>,
    }

    impl Read for &Counting {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            self.reads.set(self.reads.get() + 1);
            (&self.socket).read(buffer)
        }
    }

    impl AsFd for Counting {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.socket.as_fd()
        }
    }

    fn pair() -> (SmolIo<Counting>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let theirs = listener.accept().unwrap().0;
        theirs.set_nodelay(true).unwrap();
        (SmolIo::new(Async::new(Counting { socket, reads: Cell::new(0) }).unwrap()), theirs)
    }

    async fn read(io: &mut SmolIo<Counting>, room: usize) -> Vec<u8> {
        let mut buffer = vec![0; room];
        let n = poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut buffer)).await.unwrap();
        buffer.truncate(n);
        buffer
    }

    fn finds_nothing(io: &mut SmolIo<Counting>, cx: &mut Context<'_>) -> bool {
        Pin::new(io).poll_read(cx, &mut [0; 64]).is_pending()
    }

    #[test]
    fn what_is_known_to_be_empty_is_not_read_again_until_the_reactor_says_so() {
        let (mut ours, mut theirs) = pair();
        smol::block_on(async {
            theirs.write_all(b"hello").unwrap();
            assert_eq!(read(&mut ours, 64).await, b"hello");
            let asked = ours.socket.get_ref().reads.get();
            poll_fn(|cx| {
                for _ in 0..10 {
                    assert!(finds_nothing(&mut ours, cx));
                }
                Poll::Ready(())
            })
            .await;
            assert_eq!(ours.socket.get_ref().reads.get(), asked);
            // Nothing is missed for it.
            for word in [&b"more"[..], b"and", b"more"] {
                theirs.write_all(word).unwrap();
                assert_eq!(read(&mut ours, 64).await, word);
            }
        });
    }

    #[test]
    fn a_full_buffer_is_no_reason_to_wait_and_the_end_comes_after_what_was_sent() {
        let (mut ours, mut theirs) = pair();
        smol::block_on(async {
            theirs.write_all(b"hello world").unwrap();
            drop(theirs);
            let mut got = Vec::new();
            loop {
                let part = read(&mut ours, 4).await;
                if part.is_empty() {
                    break;
                }
                got.extend(part);
            }
            assert_eq!(got, b"hello world");
            assert_eq!(read(&mut ours, 4).await, b"");
        });
    }
}
