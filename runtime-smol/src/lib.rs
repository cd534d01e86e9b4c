//! AMQP 0-9-1 for LavinMQ and RabbitMQ on smol.
//!
//! Three functions make a client, and differ in when it is ready:
//!
//! - [`connect`] waits for the first connection, or for the error that prevented it;
//! - [`connect_lazy`] returns at once and goes on trying; messages are buffered meanwhile;
//! - [`with_driver`] leaves the [`Driver`] to the caller, for an `Executor` or `LocalExecutor`.
//!
//! The first two drive the client on smol's global executor. Everything else is `lavinmq-core`'s,
//! exported here again: the types are the same in `lavinmq-tokio`.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! smol::block_on(async {
//!     let client = lavinmq_smol::connect("amqp://localhost").await?;
//!     client.queue("orders").declare().await?;
//!
//!     let orders = client.producer("orders").confirm().open().await?;
//!     let receipt = orders.publish("order data").await?; // accepted: it has exactly one outcome
//!     receipt.await?; // the broker has it, or the error says what became of it
//!     Ok(())
//! })
//! # }
//! ```
//!
//! On a `LocalExecutor`:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let executor = smol::LocalExecutor::new();
//! let (client, driver) = lavinmq_smol::with_driver("amqp://localhost")?;
//! executor.spawn(driver).detach();
//! smol::block_on(executor.run(async {
//!     client.ready().await?;
//!     Ok(())
//! }))
//! # }
//! ```

mod io;
mod smol_runtime;

use lavinmq_core::driver::FirstConnect;
#[doc(inline)]
pub use lavinmq_core::*;

pub use self::{
    io::SmolIo,
    smol_runtime::{SmolRuntime, SmolTimer},
};

/// Drives a client on smol. Dropping it closes the client at once.
pub type Driver = lavinmq_core::Driver<SmolRuntime>;

/// Connects, and drives the client on smol's global executor.
///
/// The argument, a URL or [`Options`], is converted at the call; nothing is done before the future
/// is first polled.
///
/// # Errors
///
/// If the options are wrong, or the first connection fails.
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
/// If the options are wrong.
pub fn connect_lazy<O>(options: O) -> Result<Client, ConnectError>
where
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    let options = options.try_into()?;
    spawn(options, FirstConnect::Retry)
}

/// Makes a client and its driver, which the caller has to poll: on an `Executor`, on a
/// `LocalExecutor`, or in a `select!` of its own. It connects in the background, as
/// [`connect_lazy`] does.
///
/// # Errors
///
/// If the options are wrong.
pub fn with_driver<O>(options: O) -> Result<(Client, Driver), ConnectError>
where
    O: TryInto<Options>,
    ConnectError: From<O::Error>,
{
    lavinmq_core::driver::with_driver(SmolRuntime::new(), options)
}

fn spawn(options: Options, first: FirstConnect) -> Result<Client, ConnectError> {
    let (client, driver) = lavinmq_core::driver::start(SmolRuntime::new(), options, first)?;
    smol::spawn(driver).detach();
    Ok(client)
}
