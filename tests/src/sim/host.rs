//! The in-process broker, served over the world's pipes.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use amq_protocol::types::AMQPValue;
use lavinmq_core::{runtime::Timer as _, time::Time, wire::decode_properties};
use lavinmq_testing::{BrokerState, ConnId};

use super::{
    accounts::{Accounts, Id, StoredCopy},
    executor::{Handle, SimTimer},
    network::Network,
    pipe::{self, ServerEnd},
    random::Random,
};

/// The broker and its ends of the connections.
#[derive(Clone, Debug)]
pub struct Host(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    broker: BrokerState,
    ends: BTreeMap<ConnId, ServerEnd>,
    network: Network,
    handle: Handle,
    /// None: nothing is written down.
    accounts: Option<Arc<Mutex<Accounts>>>,
    timer: SimTimer,
    random: Random,
    stalled_until: Time,
    waker: Option<Waker>,
    /// What a read goes into, and the connections of a round: kept, since there are many rounds.
    buffer: Box<[u8]>,
    round: Vec<ConnId>,
}

/// The most bytes that one read takes.
const READ: usize = 4096;

impl Host {
    /// Serves this broker on this network, in a background task.
    pub fn start(
        mut broker: BrokerState,
        network: Network,
        handle: &Handle,
        accounts: Option<Arc<Mutex<Accounts>>>,
        random: Random,
    ) -> Self {
        // Nobody reads it, but for its last entry.
        broker.limit_log(1, 8);
        broker.record_enqueued(accounts.is_some());
        broker.record_facts(accounts.is_some());
        let host = Self(Arc::new(Mutex::new(State {
            broker,
            ends: BTreeMap::new(),
            network,
            handle: handle.clone(),
            accounts,
            timer: handle.timer(),
            random,
            stalled_until: Time::ZERO,
            waker: None,
            buffer: vec![0; READ].into(),
            round: Vec::new(),
        })));
        let serving = host.clone();
        let serve = std::future::poll_fn(move |cx| {
            serving.lock().poll(cx);
            Poll::Pending
        });
        handle.spawn_background("broker", serve);
        host
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks something of the broker, or makes trouble.
    pub fn with<T>(&self, act: impl FnOnce(&mut BrokerState, Time) -> T) -> T {
        let mut state = self.lock();
        let now = state.handle.now();
        let result = act(&mut state.broker, now);
        state.kick();
        result
    }

    /// The broker reads nothing until then.
    pub fn stall_until(&self, at: Time) {
        let mut state = self.lock();
        state.stalled_until = state.stalled_until.max(at);
        state.kick();
    }

    /// Reads again, and gives up the connections that fell silent: nobody else would.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.stalled_until = Time::ZERO;
        let now = state.handle.now();
        let silent: Vec<ConnId> = state
            .ends
            .iter()
            .filter(|(_, end)| end.link().is_silent())
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            state.gone(id, now);
        }
        state.broker.unblock(now);
        state.broker.release_confirms(now);
        state.broker.reorder_confirms(false);
        state.broker.nack_next(0);
        state.kick();
    }

    /// Serves no more, so that the timers that are armed and the wakers that are held are others'.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.timer.disarm();
        state.network.stop();
        let waker = state.waker.take();
        drop(state);
        drop(waker);
    }

    /// Connections that the broker knows.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lock().ends.len()
    }
}

impl State {
    fn kick(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn gone(&mut self, id: ConnId, now: Time) {
        self.broker.disconnect(id, now);
        self.ends.remove(&id);
    }

    fn books(&self) -> Option<MutexGuard<'_, Accounts>> {
        Some(self.accounts.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One round over all connections: a drawn number of reads and writes each, so that others run
    /// in between.
    fn poll(&mut self, cx: &mut Context<'_>) {
        self.waker = Some(cx.waker().clone());
        self.timer.disarm();
        let now = self.handle.now();
        let mut progress = false;
        while let Poll::Ready(end) = self.network.poll_accept(cx) {
            let id = self.broker.connect(now);
            self.ends.insert(id, end);
            progress = true;
        }
        // Still true at the end of the round, if there was no progress.
        let deadline = self.broker.next_deadline();
        if deadline.is_some_and(|at| at <= now) {
            self.broker.tick(now);
            progress = true;
        }
        let mut round = std::mem::take(&mut self.round);
        round.extend(self.ends.keys());
        let turns = self.random.pick(&[1, 8, 32]);
        for id in round.drain(..) {
            for _ in 0..turns {
                if !self.serve(id, now, cx) {
                    break;
                }
                progress = true;
            }
        }
        self.round = round;
        while self.broker.poll_changed().is_some() {
            progress = true;
        }
        self.write_down();
        if progress {
            cx.waker().wake_by_ref();
            return;
        }
        let stalled = (self.stalled_until > now).then_some(self.stalled_until);
        let at = deadline.into_iter().chain(stalled).min().unwrap_or(Time::MAX);
        if Pin::new(&mut self.timer).poll_until(cx, at).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Moves bytes of one connection; whether it moved any.
    fn serve(&mut self, id: ConnId, now: Time, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let Some(end) = self.ends.get_mut(&id) else { return false };
        if !self.broker.output(id).is_empty() {
            match end.poll_write(cx, self.broker.output(id)) {
                Poll::Ready(Ok(n)) => {
                    self.broker.consume_output(id, n, now);
                    progress = true;
                }
                Poll::Ready(Err(_)) => {
                    self.gone(id, now);
                    return true;
                }
                Poll::Pending => {}
            }
        }
        let Some(end) = self.ends.get_mut(&id) else { return progress };
        if now >= self.stalled_until && self.broker.wants_input(id) {
            let most = self.random.range(1, READ as u64) as usize;
            match end.poll_read(cx, &mut self.buffer[..most]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.broker.receive(id, &self.buffer[..n], now);
                    progress = true;
                }
                Poll::Ready(_) => {
                    self.gone(id, now);
                    return true;
                }
                Poll::Pending => {}
            }
        }
        if let Some(ending) = self.broker.ending(id)
            && let Some(end) = self.ends.remove(&id)
        {
            end.shut(match ending {
                lavinmq_testing::Ending::Eof => pipe::Ending::Eof,
                lavinmq_testing::Ending::Reset => pipe::Ending::Reset,
            });
            self.gone(id, now);
            progress = true;
        }
        progress
    }

    /// Writes down what happened, and what came into queues.
    fn write_down(&mut self) {
        let facts = self.broker.take_facts();
        if let Some(mut accounts) = self.books() {
            facts.iter().for_each(|fact| accounts.fact(fact));
        }
        for copy in self.broker.take_enqueued() {
            let properties = decode_properties(&copy.properties).unwrap_or_default();
            let attempt = properties
                .headers()
                .as_ref()
                .and_then(|headers| headers.inner().get("x-attempt"))
                .and_then(|value| match value {
                    AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
                    AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
                    _ => None,
                });
            let message_id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
            let id = Id::read(&copy.body, message_id.as_deref());
            self.handle.event(format_args!("broker stores {id:?} in {}", copy.queue));
            let Some(mut accounts) = self.books() else { return };
            match id {
                Some(id) => accounts.stored(
                    id,
                    StoredCopy { queue: copy.queue, connection: copy.connection.get(), attempt },
                ),
                None => accounts.violation("the broker stored a message that nobody published"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use lavinmq_testing::Personality;

    use super::*;
    use crate::sim::{
        executor::{Executor, Step},
        pipe::Conditions,
        trace::Trace,
    };

    #[test]
    fn a_client_gets_start_over_rough_pipes_and_its_loss_is_noticed() {
        for seed in 0..20 {
            let mut executor = Executor::new(Random::new(seed), Trace::default());
            let handle = executor.handle().clone();
            let conditions = Conditions {
                chunk: 1 + seed as usize,
                capacity: 10,
                latency: Duration::from_millis(2),
                spurious: 8,
                buffers: seed % 2 == 0,
            };
            let network = Network::new(&handle, Random::new(seed), conditions);
            let broker = BrokerState::new(Personality::RabbitMq, seed);
            let host = Host::start(broker, network.clone(), &handle, None, Random::new(seed));
            handle.spawn("client", async move {
                let mut io = network.dial().await.unwrap();
                io.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
                io.flush().await.unwrap();
                let mut frame = [0; 11];
                io.read_exact(&mut frame).await.unwrap();
                assert_eq!((frame[0], &frame[7..]), (1, &[0, 10, 0, 10][..]));
            });
            while executor.step() != Step::Quiet {}
            assert!(executor.is_done());
            assert_eq!(host.connections(), 0);
        }
    }
}
