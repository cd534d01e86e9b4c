//! AMQP 0-9-1 for LavinMQ and RabbitMQ on tokio.
//!
//! Three functions make a client, and differ in when it is ready:
//!
//! - [`connect`] waits for the first connection, or for the error that prevented it;
//! - [`connect_lazy`] returns at once and goes on trying; messages are buffered meanwhile;
//! - [`with_driver`] leaves the [`Driver`] to the caller, for a `LocalSet` or a runtime of its own.
//!
//! Everything else is `lavinmq-core`'s, exported here again: the types are the same in
//! `lavinmq-smol`.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = lavinmq_tokio::connect("amqp://localhost").await?;
//! client.queue("orders").declare().await?;
//!
//! let orders = client.producer("orders").confirm().open().await?;
//! let receipt = orders.publish("order data").await?; // accepted: it has exactly one outcome
//! receipt.await?; // the broker has it, or the error says what became of it
//!
//! let mut jobs = client.consumer("orders").prefetch(100).open().await?;
//! while let Some(delivery) = jobs.next().await {
//!     println!("{} bytes", delivery.body().len());
//!     delivery.ack();
//! }
//! # Ok(()) }
//! ```
//!
//! The driver is one task. It runs on the runtime in which the client was made, needs its I/O and
//! time drivers (`enable_all`), and ends with the client.

mod io;
mod tokio_runtime;

use lavinmq_core::driver::FirstConnect;
#[doc(inline)]
pub use lavinmq_core::*;

pub use self::{
    io::TokioIo,
    tokio_runtime::{TokioRuntime, TokioTimer},
};

/// Drives a client on tokio. Dropping it closes the client at once.
pub type Driver = lavinmq_core::Driver<TokioRuntime>;

/// Connects, and drives the client in a task of the current runtime.
///
/// The argument, a URL or [`Options`], is converted at the call; the runtime is looked for when the
/// future is first polled, so that `runtime.block_on(connect(url))` works.
///
/// # Errors
///
/// If the options are wrong, the first connection fails, or no runtime is running.
///
/// # Cancel safety
///
/// Dropping the future gives the attempt up.
pub fn connect<O>(options: O) -> Connect
where
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    Connect::new(options, |options| spawn(options, FirstConnect::OrFail))
}

/// Makes a client that connects in the background and goes on trying.
///
/// Publishing fills the buffers meanwhile; `Client::ready` waits for the connection.
///
/// # Errors
///
/// If the options are wrong, or no runtime is running.
pub fn connect_lazy<O>(options: O) -> Result<Client, ConnectError>
where
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    let options = options.try_into()?;
    spawn(options, FirstConnect::Retry)
}

/// Makes a client and its driver, which the caller has to poll: by `tokio::spawn`, on a `LocalSet`,
/// or in a `select!` of its own. It connects in the background, as [`connect_lazy`] does.
///
/// May be called outside a runtime; the driver must be polled inside one.
///
/// # Errors
///
/// If the options are wrong.
pub fn with_driver<O>(options: O) -> Result<(Client, Driver), ConnectError>
where
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    lavinmq_core::driver::with_driver(TokioRuntime::new(), options)
}

fn spawn(options: Options, first: FirstConnect) -> Result<Client, ConnectError> {
    let handle = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
    let (client, driver) = lavinmq_core::driver::start(TokioRuntime::new(), options, first)?;
    handle.spawn(driver);
    Ok(client)
}

/// The README's code, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
