//! The driver at its edges: transports that misbehave, hooks that do, and handles that go away.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _,
    io::{AsyncRead, AsyncWrite},
};
use lavinmq_testing::Broker;
use lavinmq_tokio::{
    Client, ConnectError, Event, Options, State, TokioIo, connect, connect_lazy,
    error::{DialError, Loss},
};
use tokio::net::TcpStream;

/// A hang is a failure. Never waited for when all is well.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .unwrap_or_else(|_| panic!("{what} hangs"))
}

/// What a test does to transports, and sees of them.
#[derive(Default)]
struct Control {
    /// Nothing can be read until a write has failed.
    reset_on_write: AtomicBool,
    /// Writes are taken one byte at a time, and count once they are flushed.
    one_byte: AtomicBool,
    flushes: AtomicU64,
    reads: AtomicU64,
}

/// A socket under control.
struct Controlled {
    stream: TokioIo<TcpStream>,
    control: Arc<Control>,
    reset: bool,
}

impl AsyncRead for Controlled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.control.reads.fetch_add(1, Ordering::Relaxed);
        if self.control.reset_on_write.load(Ordering::SeqCst) && !self.reset {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Controlled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.control.reset_on_write.load(Ordering::SeqCst) {
            self.reset = true;
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let most = if self.control.one_byte.load(Ordering::Relaxed) { 1 } else { bytes.len() };
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..most.min(bytes.len())])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        self.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.flushes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

fn controlled(broker: &Broker) -> (Options, Arc<Control>) {
    let control = Arc::new(Control::default());
    let options = Options::new(broker.url()).unwrap().connector({
        let control = Arc::clone(&control);
        move |target| {
            let control = Arc::clone(&control);
            async move {
                let stream = TcpStream::connect((&*target.host, target.port)).await?;
                Ok::<_, DialError>(Controlled {
                    stream: TokioIo::new(stream),
                    control,
                    reset: false,
                })
            }
        }
    });
    (options, control)
}

async fn round_trip(client: &Client, body: &[u8]) {
    let orders = client.producer("orders").confirm().open().await.unwrap();
    within("a receipt", within("publish", orders.publish(body)).await.unwrap()).await.unwrap();
    let mut jobs = within("open", client.consumer("orders").open()).await.unwrap();
    let delivery = within("a delivery", jobs.next()).await.unwrap();
    assert!(delivery.body() == body);
    delivery.ack();
    assert!(within("close", jobs.close()).await.is_clean());
}

#[tokio::test]
async fn f3_a_transport_of_the_applications_own_that_takes_byte_by_byte() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let (options, control) = controlled(&broker);
    control.one_byte.store(true, Ordering::Relaxed);
    let client = within("connect", connect(options)).await.unwrap();
    round_trip(&client, &[7; 5000]).await;
    // What it took counts as written once it is flushed, before the driver sleeps.
    assert!(control.flushes.load(Ordering::Relaxed) > 0);
    assert!(within("close", client.close()).await.is_clean());
}

#[tokio::test]
async fn large_bodies_leave_by_vectored_writes() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let client = within("connect", connect(broker.url())).await.unwrap();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    round_trip(&client, &body).await;
    assert!(within("close", client.close()).await.is_clean());
}

#[tokio::test]
async fn a_close_that_came_before_a_reset_is_read_first() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let (options, control) = controlled(&broker);
    let client = within("connect", connect(options)).await.unwrap();
    let orders = client.producer("orders").confirm().open().await.unwrap();
    within("a receipt", orders.publish("opens the channel").await.unwrap()).await.unwrap();
    let mut events = client.events();
    control.reset_on_write.store(true, Ordering::SeqCst);
    broker.close_connections(320, "CONNECTION_FORCED - shutdown");
    // RabbitMQ resets right after its close: the write fails, the reason is still to be read.
    let receipt = orders.publish("meets the reset").await.unwrap();
    let loss = async {
        loop {
            if let Event::State(State::Reconnecting { loss, .. }) = events.next().await.unwrap() {
                return loss;
            }
        }
    };
    let loss = within("the loss", loss).await;
    assert!(matches!(loss, Loss::Closed { code: 320, .. }), "{loss:?}");
    control.reset_on_write.store(false, Ordering::SeqCst);
    within("a receipt", receipt).await.unwrap();
}

#[tokio::test]
async fn f25_a_connector_that_panics_is_a_failed_attempt() {
    let at_the_call = Options::new("amqp://localhost").unwrap().connector(
        |_| -> std::future::Ready<Result<TokioIo<TcpStream>, DialError>> { panic!("a bug") },
    );
    let later = Options::new("amqp://localhost").unwrap().connector(|_| async {
        assert!(std::hint::black_box(false), "a bug");
        Err::<TokioIo<TcpStream>, _>(DialError::Other("unreachable".into()))
    });
    for options in [at_the_call, later] {
        let error = within("connect", connect(options)).await.unwrap_err();
        let panicked = DialError::Other("the connector panicked".into());
        assert!(
            matches!(&error, ConnectError::Failed(Loss::Dial { error, .. }) if *error == panicked),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn f25_hooks_run_outside_every_lock_and_may_panic() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let heard = Arc::new(AtomicU64::new(0));
    let client = within("connect", connect(broker.url())).await.unwrap();
    let orders = client
        .producer("orders")
        .confirm()
        .on_confirm({
            let (heard, client) = (Arc::clone(&heard), client.clone());
            move |settled| {
                // Each of these takes the lock that a turn holds.
                assert!(client.stats().publish.accepted > 0 && !client.explain().is_empty());
                heard.fetch_add(settled.sequence, Ordering::Relaxed);
                assert_ne!(settled.sequence, 1, "a bug of the application");
            }
        })
        .open()
        .await
        .unwrap();
    for _ in 0..2 {
        within("a receipt", orders.publish("x").await.unwrap()).await.unwrap();
    }
    assert_eq!(heard.load(Ordering::Relaxed), 3);
    assert_eq!(client.stats().hook_panics, 1);
}

#[tokio::test]
async fn f23_an_open_that_is_given_up_leaves_no_consumer_behind() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    let client = within("connect", connect(broker.url())).await.unwrap();
    assert!(client.consumer("orders").open().now_or_never().is_none());
    // Refused for as long as another one is there.
    let exclusive = async {
        loop {
            if let Ok(consumer) = client.consumer("orders").exclusive().open().await {
                return consumer;
            }
        }
    };
    drop(within("an exclusive consumer", exclusive).await);
}

#[tokio::test]
async fn an_idle_driver_does_not_spin() {
    let broker = Broker::start().unwrap();
    let (options, control) = controlled(&broker);
    let client = within("connect", connect(options)).await.unwrap();
    // Each answer of the driver takes a few turns, and each turn one read of each connection.
    let before = control.reads.load(Ordering::Relaxed);
    for _ in 0..10 {
        drop(within("open", client.producer("q").open()).await.unwrap());
    }
    let per_request = (control.reads.load(Ordering::Relaxed) - before) / 10;
    assert!(per_request <= 32, "{per_request} reads for one request without any I/O");
}

#[tokio::test]
async fn a_client_that_is_dropped_before_its_driver_ran_is_closed() {
    let (client, driver) = lavinmq_tokio::with_driver("amqp://127.0.0.1:1").unwrap();
    let lazy = connect_lazy("amqp://127.0.0.1:1").unwrap();
    let events = lazy.events();
    drop((client, lazy));
    within("the driver", driver).await;
    within("the events", async {
        let mut events = events;
        while events.next().await.is_some() {}
    })
    .await;
}
