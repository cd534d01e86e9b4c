//! The network of one world: who gets a link, and what happens to it.

use std::{
    collections::VecDeque,
    fmt,
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use lavinmq_core::{error::DialError, time::Time};

use super::{
    executor::Handle,
    pipe::{Conditions, Cut, Link, ServerEnd, SimIo, Watch},
    random::Random,
};

/// Makes the one who looks at a link of this number.
type MakeWatch = Box<dyn Fn(u64) -> Box<dyn Watch> + Send>;

/// What clients dial, and the broker listens on.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("made", &self.made()).finish_non_exhaustive()
    }
}

struct State {
    handle: Handle,
    random: Random,
    conditions: Conditions,
    /// Links that are not over, as far as the network knows.
    links: Vec<Link>,
    made: u64,
    arrivals: VecDeque<ServerEnd>,
    listener: Option<Waker>,
    refuses_until: Time,
    /// Dials that get no answer at all.
    hanging_dials: u32,
    /// Cuts for connections to come, so that handshakes are cut, too.
    cuts: VecDeque<Cut>,
    watch: Option<MakeWatch>,
}

impl Network {
    /// A network in these conditions.
    #[must_use]
    pub fn new(handle: &Handle, random: Random, conditions: Conditions) -> Self {
        Self(Arc::new(Mutex::new(State {
            handle: handle.clone(),
            random,
            conditions,
            links: Vec::new(),
            made: 0,
            arrivals: VecDeque::new(),
            listener: None,
            refuses_until: Time::ZERO,
            hanging_dials: 0,
            cuts: VecDeque::new(),
            watch: None,
        })))
    }

    /// Has somebody look at the client's end of every link to come.
    pub fn watch_with(&self, watch: impl Fn(u64) -> Box<dyn Watch> + Send + 'static) {
        self.lock().watch = Some(Box::new(watch));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a link.
    ///
    /// # Errors
    ///
    /// While connections are refused.
    pub async fn dial(self) -> Result<SimIo, DialError> {
        let (handle, delay, hangs) = {
            let mut state = self.lock();
            let nanos = u64::try_from(state.conditions.latency.as_nanos()).unwrap_or(u64::MAX);
            let delay = Duration::from_nanos(state.random.range(nanos / 4, nanos));
            let hangs = state.hanging_dials > 0;
            state.hanging_dials -= u32::from(hangs);
            (state.handle.clone(), delay, hangs)
        };
        if hangs {
            handle.count("dial-hangs");
            return std::future::pending().await;
        }
        handle.sleep(delay).await;
        let mut state = self.lock();
        if handle.now() < state.refuses_until {
            handle.count("dial-refused");
            return Err(DialError::Io {
                kind: ErrorKind::ConnectionRefused,
                message: "connection refused".into(),
            });
        }
        let number = state.made;
        state.made += 1;
        let random = state.random.split(&format!("link {number}"));
        let (link, mut io, server) = Link::new(number, state.conditions.clone(), &handle, random);
        if let Some(watch) = &state.watch {
            io.watch_with(watch(number));
        }
        if let Some(cut) = state.cuts.pop_front() {
            link.cut(cut);
        }
        state.links.retain(|link| !link.is_dead());
        state.links.push(link);
        state.arrivals.push_back(server);
        let listener = state.listener.take();
        drop(state);
        handle.event(format_args!("link {number} opens"));
        listener.into_iter().for_each(Waker::wake);
        Ok(io)
    }

    /// The broker's end of the next connection.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<ServerEnd> {
        let mut state = self.lock();
        if let Some(end) = state.arrivals.pop_front() {
            return Poll::Ready(end);
        }
        state.listener = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The links that stand.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let mut state = self.lock();
        state.links.retain(|link| !link.is_dead());
        state.links.clone()
    }

    /// One of the links that stand.
    #[must_use]
    pub fn pick(&self, draw: u64) -> Option<Link> {
        let links = self.links();
        let at = usize::try_from(draw).unwrap_or(0).checked_rem(links.len())?;
        links.get(at).cloned()
    }

    /// Refuses connections until then.
    pub fn refuse_until(&self, at: Time) {
        let mut state = self.lock();
        state.refuses_until = state.refuses_until.max(at);
    }

    /// Leaves the next dial without an answer.
    pub fn hang_next_dial(&self) {
        self.lock().hanging_dials += 1;
    }

    /// Cuts the next connection.
    pub fn cut_next(&self, cut: Cut) {
        self.lock().cuts.push_back(cut);
    }

    /// No more faults: bytes flow as in a good network, connections are accepted.
    pub fn heal(&self) {
        let mut state = self.lock();
        let buffers = state.conditions.buffers;
        state.conditions = Conditions { buffers, ..Conditions::calm() };
        state.refuses_until = Time::ZERO;
        state.hanging_dials = 0;
        state.cuts.clear();
        let links = state.links.clone();
        drop(state);
        links.iter().for_each(Link::heal);
    }

    /// Nobody listens any more.
    pub fn stop(&self) {
        let mut state = self.lock();
        let listener = state.listener.take();
        let links = std::mem::take(&mut state.links);
        drop(state);
        drop((listener, links));
    }

    /// Connections made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.lock().made
    }
}
