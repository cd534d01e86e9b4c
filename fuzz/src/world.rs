//! A real `Session` and the in-process broker, with a link between them that is moved by hand.

use std::{io::IoSlice, sync::Arc, time::Duration};

use lavinmq_core::{
    Time,
    config::Config,
    consume::Batch,
    error::{DialError, Loss},
    ids::{ConnectionId, ConsumerId},
    session::{Action, ProducerUpdate, Session, SessionEvent},
};
use lavinmq_testing::{BrokerState, ConnId, Ending, Settings};

/// The transport of one connection.
#[derive(Default)]
pub struct Link {
    /// The session asked for a transport.
    pub dialling: bool,
    /// There is one.
    pub up: bool,
    /// The broker's end of it; none if somebody else plays the peer.
    pub peer: Option<ConnId>,
    /// What the session wrote and the peer has not read.
    pub wire: Vec<u8>,
    /// What the session wrote on this transport, in bytes.
    pub written: u64,
}

/// The session, the broker, and time.
pub struct World {
    pub session: Session,
    pub broker: BrokerState,
    pub now: Time,
    pub links: Vec<Link>,
    ids: Vec<ConnectionId>,
    /// Written bytes count only once they are flushed, as under TLS.
    pub flushes: bool,
    /// What the session told, until somebody takes it.
    pub events: Vec<SessionEvent>,
    pub batches: Vec<(ConsumerId, Arc<Batch>)>,
    pub updates: Vec<ProducerUpdate>,
    /// What the broker sent to each connection, if it is recorded.
    pub tap: Option<Vec<Vec<u8>>>,
}

impl World {
    pub fn new(config: Config, settings: Settings) -> Self {
        let now = Time::from_nanos(1);
        let session = Session::new(config, true, [7; 32], now);
        let ids: Vec<_> = session.connections().collect();
        let links = ids.iter().map(|_| Link::default()).collect();
        let mut world = Self {
            session,
            broker: BrokerState::with_settings(settings, 7),
            now,
            links,
            ids,
            flushes: false,
            events: Vec::new(),
            batches: Vec::new(),
            updates: Vec::new(),
            tap: None,
        };
        world.drain();
        world
    }

    /// Takes every output but the bytes.
    pub fn drain(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Dial { connection, .. } => {
                    self.links[connection.get() as usize].dialling = true;
                }
                Action::HangUp { connection } => self.gone(connection.get() as usize),
                other => panic!("an action that is not tested: {other:?}"),
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
        while let Some(batch) = self.session.poll_batch() {
            self.batches.push(batch);
        }
        while let Some(update) = self.session.poll_producer() {
            self.updates.push(update);
        }
    }

    /// The transport is no more.
    fn gone(&mut self, c: usize) {
        let link = std::mem::take(&mut self.links[c]);
        if let Some(peer) = link.peer {
            self.broker.disconnect(peer, self.now);
        }
    }

    /// The broker accepts the connection that was asked for, if one was.
    pub fn accept(&mut self, c: usize) {
        if std::mem::take(&mut self.links[c].dialling) {
            let peer = self.broker.connect(self.now);
            self.links[c] = Link { up: true, peer: Some(peer), ..Link::default() };
            self.session.handle_connected(self.ids[c], self.now);
            self.drain();
        }
    }

    /// Nobody is there.
    pub fn refuse(&mut self, c: usize) {
        if std::mem::take(&mut self.links[c].dialling) {
            let error =
                DialError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            let loss = Loss::Dial { target: "localhost".into(), error };
            self.session.handle_disconnected(self.ids[c], loss, self.now);
            self.drain();
        }
    }

    /// The transport ends; the broker reads what it did not read yet, if it is `late`.
    pub fn cut(&mut self, c: usize, loss: Loss, late: bool) {
        if !self.links[c].up {
            return;
        }
        self.session.handle_disconnected(self.ids[c], loss, self.now);
        if late {
            self.carry(c, usize::MAX);
        }
        self.gone(c);
        self.drain();
    }

    /// The session writes at most `most` bytes; how many it did.
    pub fn write(&mut self, c: usize, most: usize) -> usize {
        if !self.links[c].up {
            return 0;
        }
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = self.session.transmit(self.ids[c], &mut slices);
        let mut taken = 0;
        for slice in &slices[..filled] {
            let n = slice.len().min(most - taken);
            self.links[c].wire.extend_from_slice(&slice[..n]);
            taken += n;
        }
        if taken > 0 {
            self.links[c].written += taken as u64;
            self.session.handle_written(self.ids[c], taken, !self.flushes, self.now);
        }
        self.drain();
        taken
    }

    pub fn flush(&mut self, c: usize) {
        if self.flushes && self.links[c].up {
            self.session.handle_flushed(self.ids[c], self.now);
            self.drain();
        }
    }

    /// The broker reads at most `most` bytes; how many it did.
    pub fn carry(&mut self, c: usize, most: usize) -> usize {
        let link = &mut self.links[c];
        let Some(peer) = link.peer.filter(|peer| self.broker.wants_input(*peer)) else { return 0 };
        let n = link.wire.len().min(most);
        if n > 0 {
            self.broker.receive(peer, &link.wire[..n], self.now);
            link.wire.drain(..n);
        }
        n
    }

    /// The session reads at most `most` bytes of what the broker sent, and notices if that ended the
    /// transport; how many it read.
    pub fn read(&mut self, c: usize, most: usize) -> usize {
        let Some(peer) = self.links[c].peer else { return 0 };
        let output = self.broker.output(peer);
        let space = self.session.receive_buffer(self.ids[c]);
        let n = output.len().min(most).min(space.len());
        if n > 0 {
            space[..n].copy_from_slice(&output[..n]);
            if let Some(tap) = &mut self.tap {
                tap[c].extend_from_slice(&output[..n]);
            }
            self.session.handle_received(self.ids[c], n, self.now);
            self.broker.consume_output(peer, n, self.now);
            self.drain();
        }
        if self.links[c].peer == Some(peer)
            && let Some(ending) = self.broker.ending(peer)
        {
            let loss = match ending {
                Ending::Eof => Loss::Eof,
                Ending::Reset => std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
            };
            self.cut(c, loss, false);
        }
        n
    }

    /// Feeds bytes of anybody's to the session; how many it took before it hung up or stopped reading.
    pub fn feed(&mut self, c: usize, bytes: &[u8]) -> usize {
        let mut fed = 0;
        while fed < bytes.len() {
            let space = self.session.receive_buffer(self.ids[c]);
            let n = space.len().min(bytes.len() - fed);
            if n == 0 {
                break;
            }
            space[..n].copy_from_slice(&bytes[fed..fed + n]);
            self.session.handle_received(self.ids[c], n, self.now);
            fed += n;
        }
        fed
    }

    /// Everything that can move without time passing moves once: whether anything did.
    pub fn serve(&mut self) -> bool {
        let mut moved = false;
        for c in 0..self.links.len() {
            moved |= self.links[c].dialling;
            self.accept(c);
            moved |= self.write(c, usize::MAX) > 0;
            self.flush(c);
            moved |= self.carry(c, usize::MAX) > 0;
        }
        for c in 0..self.links.len() {
            let up = self.links[c].up;
            moved |= self.read(c, usize::MAX) > 0 || self.links[c].up != up;
        }
        moved
    }

    /// Serves until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.serve() {
                return;
            }
        }
        panic!("the session and the broker never come to rest\n{}", self.session.explain(self.now));
    }

    /// Time passes: to the next deadline of either side, or at most `most`.
    pub fn pass(&mut self, most: Duration) {
        let limit = self.now + most;
        let due = self.session.poll_deadline().map(|deadline| deadline.at);
        let next = [due, self.broker.next_deadline(), Some(limit)].into_iter().flatten().min();
        self.now = self.now.max(next.unwrap_or(limit));
        self.session.handle_tick(self.now);
        self.broker.tick(self.now);
        self.drain();
    }
}
