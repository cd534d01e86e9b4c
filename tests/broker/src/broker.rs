//! The broker that tests start.

use std::{
    fmt::Write,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lavinmq_core::{message::Message, time::Time};

use crate::{
    error::StartError,
    personality::{Personality, Tune},
    server::Server,
    state::{BrokerState, ConnId, ConnectionInfo, Counters, Logged, Settings, StoredMessage},
};

/// An AMQP 0-9-1 broker in this process, on a port of its own on 127.0.0.1.
///
/// It keeps everything in memory, and ends with its value: connections are reset, threads joined.
///
/// Everything that a test can ask of it is a method here, or of [`BrokerState`], which
/// [`with`](Self::with) lends. Nothing here is async; no method waits for a client, except
/// [`stop`](Self::stop) and [`wait_until`](Self::wait_until), which say how long.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lavinmq_testing::{Broker, Personality};
///
/// let broker = Broker::builder().personality(Personality::RabbitMq).start()?;
/// broker.declare_queue("orders");
/// broker.put("orders", "one order");
///
/// println!("connect to {}", broker.url()); // any AMQP 0-9-1 client
///
/// assert_eq!(broker.depth("orders"), 1);
/// assert_eq!(broker.messages("orders")[0].body, "one order");
///
/// broker.cut(); // every connection is reset, without a word
/// broker.restart(); // 320, and only what is durable and persistent is left
/// assert_eq!(broker.depth("orders"), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    server: Mutex<Server>,
    address: SocketAddr,
    /// User and password of the URL.
    credentials: (String, String),
}

/// Settings of a [`Broker`] to be started.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    settings: Settings,
    credentials: Option<(String, String)>,
    seed: u64,
    port: u16,
}

impl Builder {
    fn new() -> Self {
        let settings = Settings::new(Personality::default());
        Self { settings, credentials: None, seed: 0, port: 0 }
    }

    /// The broker to play: LavinMQ, unless set otherwise. Sets what Tune offers, too.
    pub const fn personality(mut self, personality: Personality) -> Self {
        self.settings.personality = personality;
        self.settings.tune = personality.tune();
        self
    }

    /// Adds a user. The first one replaces the default user (`guest`, with the password `guest`), and is
    /// the one of [`Broker::url`].
    pub fn user(mut self, name: &str, password: &str) -> Self {
        if self.credentials.is_none() {
            self.settings.users.clear();
            self.credentials = Some((name.to_owned(), password.to_owned()));
        }
        self.settings.users.insert(name.to_owned(), password.to_owned());
        self
    }

    /// Adds a virtual host to `/`. All virtual hosts share one set of queues.
    pub fn vhost(mut self, name: &str) -> Self {
        self.settings.vhosts.insert(name.to_owned());
        self
    }

    /// What connection.tune offers, if not what the personality's broker does.
    pub const fn tune(mut self, tune: Tune) -> Self {
        self.settings.tune = tune;
        self
    }

    /// The heartbeat interval that connection.tune offers, in seconds; 0 is none.
    pub const fn heartbeat(mut self, seconds: u16) -> Self {
        self.settings.tune.heartbeat = seconds;
        self
    }

    /// See [`Settings::output_limit`].
    pub const fn output_limit(mut self, bytes: usize) -> Self {
        self.settings.output_limit = bytes;
        self
    }

    /// Seeds what is random: generated names, reordered confirms. 0 unless set.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The port to listen on; 0, the default, is any free one.
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts the broker.
    ///
    /// # Errors
    ///
    /// If the port is taken, or no thread can be started.
    pub fn start(self) -> Result<Broker, StartError> {
        let guest = || ("guest".to_owned(), "guest".to_owned());
        let credentials = self.credentials.unwrap_or_else(guest);
        let server = Server::start(self.settings, self.seed, self.port)?;
        let address = server.address();
        Ok(Broker { server: Mutex::new(server), address, credentials })
    }
}

impl Broker {
    /// Starts a broker with default settings: LavinMQ's behaviour, the user `guest`, a free port.
    ///
    /// # Errors
    ///
    /// If there is no free port, or no thread can be started.
    pub fn start() -> Result<Self, StartError> {
        Self::builder().start()
    }

    /// Settings for a broker.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL to connect to, with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The URL with another address: that of a [`FaultLink`](crate::FaultLink) to this broker.
    #[must_use]
    pub fn url_at(&self, address: SocketAddr) -> String {
        let (user, password) = &self.credentials;
        format!("amqp://{}:{}@{address}", percent_encoded(user), percent_encoded(password))
    }

    /// Lends the state, and the time to call it with; what comes of it is written afterwards. The broker
    /// stands still meanwhile.
    pub fn with<T>(&self, act: impl FnOnce(&mut BrokerState, Time) -> T) -> T {
        self.server().with(act)
    }

    /// Waits until `condition` holds, looking whenever something happens; false if it does not within
    /// `timeout`. The broker stands still while `condition` looks.
    #[must_use]
    pub fn wait_until(
        &self,
        timeout: Duration,
        condition: impl FnMut(&BrokerState) -> bool,
    ) -> bool {
        let waiter = self.server().waiter();
        waiter.wait_until(timeout, condition)
    }

    /// The server is taken for moments only, except by `stop`.
    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Looking inside
impl Broker {
    /// How many messages of a queue are ready to be delivered; 0 if it does not exist.
    #[must_use]
    pub fn depth(&self, queue: &str) -> usize {
        self.with(|state, _| state.queue_depth(queue))
    }

    /// How many messages of a queue are at consumers that have not settled them.
    #[must_use]
    pub fn unacked(&self, queue: &str) -> usize {
        self.with(|state, _| state.unacked(queue))
    }

    /// The messages of a queue in their order, those at consumers included.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        self.with(|state, _| state.messages(queue))
    }

    /// Whether a queue of this name exists.
    #[must_use]
    pub fn has_queue(&self, queue: &str) -> bool {
        self.with(|state, _| state.has_queue(queue))
    }

    /// How many consumers a queue has.
    #[must_use]
    pub fn consumer_count(&self, queue: &str) -> usize {
        self.with(|state, _| state.consumer_count(queue))
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.with(|state, _| state.counters())
    }

    /// The connections that stand, in the order in which they came.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.with(|state, _| state.connections())
    }

    /// The methods that a connection's client sent; see [`BrokerState::log`].
    #[must_use]
    pub fn log(&self, id: ConnId) -> Vec<Logged> {
        self.with(|state, _| state.log(id))
    }
}

/// # Making trouble
impl Broker {
    /// Declares a durable queue, if none of this name exists.
    pub fn declare_queue(&self, name: &str) {
        self.with(|state, _| state.declare_queue(name));
    }

    /// Puts a message into a queue; false if there is no such queue, or it refuses the message.
    pub fn put(&self, queue: &str, message: impl Into<Message>) -> bool {
        self.with(|state, now| state.put(queue, &message.into(), now))
    }

    /// Deletes a queue, if it exists: its consumers are cancelled, its messages are gone.
    pub fn delete_queue(&self, queue: &str) {
        self.with(|state, now| state.delete_queue(queue, now));
    }

    /// Removes the messages that are ready in a queue; how many that were.
    pub fn purge(&self, queue: &str) -> usize {
        self.with(|state, _| state.purge(queue))
    }

    /// Stops publishers, as an alarm does; see [`BrokerState::block`].
    pub fn block(&self, reason: &str) {
        self.with(|state, now| state.block(reason, now));
    }

    /// Ends what [`block`](Self::block) began.
    pub fn unblock(&self) {
        self.with(BrokerState::unblock);
    }

    /// Closes every connection with this reply code.
    pub fn close_connections(&self, code: u16, text: &str) {
        self.with(|state, now| state.close_connections(code, text, now));
    }

    /// Closes one channel with this reply code; `class` and `method` say for which method.
    pub fn close_channel(
        &self,
        id: ConnId,
        channel: u16,
        code: u16,
        text: &str,
        class: u16,
        method: u16,
    ) {
        self.with(|state, now| state.close_channel(id, channel, code, text, class, method, now));
    }

    /// Keeps all confirms back until [`release_confirms`](Self::release_confirms).
    pub fn hold_confirms(&self) {
        self.with(|state, _| state.hold_confirms());
    }

    /// Sends the confirms that were kept back.
    pub fn release_confirms(&self) {
        self.with(BrokerState::release_confirms);
    }

    /// Keeps the replies to methods back; see [`BrokerState::hold_replies`].
    pub fn hold_replies(&self) {
        self.with(|state, _| state.hold_replies());
    }

    /// Sends the replies that were kept back, in their order or, `shuffled`, in a random one.
    pub fn release_replies(&self, shuffled: bool) {
        self.with(|state, now| state.release_replies(shuffled, now));
    }

    /// Forgets the replies that were kept back: they never come.
    pub fn drop_replies(&self) {
        self.with(|state, _| state.drop_replies());
    }

    /// Nacks the next `n` publishes on confirm channels, instead of taking them.
    pub fn nack_next(&self, n: u64) {
        self.with(|state, _| state.nack_next(n));
    }

    /// Whether RabbitMQ's confirms come singly, in random order and some of them late.
    pub fn reorder_confirms(&self, reorder: bool) {
        self.with(|state, _| state.reorder_confirms(reorder));
    }

    /// Resets every connection, without a word. New ones are accepted at once.
    pub fn cut(&self) {
        self.with(BrokerState::cut);
    }

    /// Restarts in an orderly way: connections are closed with 320, and what is not durable is gone. New
    /// connections are accepted at once.
    pub fn restart(&self) {
        self.with(BrokerState::restart);
    }

    /// Dies and starts again: connections are reset, and what is not durable is gone. New connections are
    /// accepted at once.
    pub fn crash(&self) {
        self.with(BrokerState::crash);
    }

    /// As [`restart`](Self::restart), but stays down until [`resume`](Self::resume): connections are
    /// refused. Returns when all connections have ended; those that have not after a second are reset.
    pub fn stop(&self) {
        let mut server = self.server();
        server.with(BrokerState::restart);
        server.stop();
    }

    /// Listens again on the same port, after [`stop`](Self::stop).
    ///
    /// # Errors
    ///
    /// If somebody else has taken the port meanwhile.
    pub fn resume(&self) -> Result<(), StartError> {
        self.server().resume()
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
