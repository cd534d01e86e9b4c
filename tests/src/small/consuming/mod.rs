//! A world that consumes: one consumer with a prefetch of two, a queue of up to three messages, an
//! application that settles them as it likes, and a broker that does with the channel what it likes.

mod events;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::IoSlice,
    time::Duration,
};

use lavinmq_core::{
    config::{Config, ConsumerConfig},
    consume::{SettleRun, Settlement},
    error::Loss,
    event::DeadlineReason,
    ids::{ConnectionId, ConsumerId},
    session::{Action, Session, SessionEvent},
    time::Time,
};

use super::{
    peer::{self, Heard, Next, Peer, Reply, Stage},
    search::World,
};

pub use events::{Delivery, Event, Setup};

/// What the broker may send before it is acked.
const PREFETCH: u16 = 2;

/// A delivery, as the broker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Unacked {
    channel: u16,
    tag: u64,
    message: u8,
    /// Which one the application got; `None`: it got none.
    handed: Option<u64>,
}

/// Everything but the session and the clock.
#[derive(Clone, Debug, Hash)]
struct Around {
    peer: Peer,
    dialling: bool,
    /// Messages in the queue, the next one first, and whether each was delivered before.
    ready: Vec<(u8, bool)>,
    unacked: Vec<Unacked>,
    /// Messages acked or rejected.
    done: Vec<u8>,
    hand: Vec<Delivery>,
    /// What the application decided, and is not written.
    decided: Vec<(Delivery, Settlement)>,
    /// The oldest generation that can be settled.
    valid_from: u64,
    /// Settle calls not told to be written.
    uncovered: u64,
    deliveries: u8,
    cuts: u8,
    channel_closes: u8,
    cancels: u8,
    ticks: u8,
    opened: bool,
    closing: bool,
    /// It ended, or was refused in the first place.
    ended: bool,
    end_told: bool,
    shut_down: bool,
    closed: bool,
}

/// How many settlements were written, in which way, and told: the accounts, which nothing depends on.
#[derive(Clone, Debug, Default)]
struct Written {
    received: u64,
    acked: u64,
    requeued: u64,
    rejected: u64,
    settles: u64,
    /// Which call settled what.
    calls: Vec<(Delivery, u64)>,
}

/// A session, the broker at the other end of its wire, and the application.
#[derive(Clone, Debug)]
pub struct Consuming {
    setup: Setup,
    session: Session,
    connection: ConnectionId,
    consumer: ConsumerId,
    now: Time,
    around: Around,
    written: Written,
}

impl Consuming {
    /// A world in which nothing has happened.
    ///
    /// # Errors
    ///
    /// If the session refuses to begin.
    pub fn new(setup: Setup) -> Result<Self, String> {
        let mut config = Config::default();
        config.connections = 1;
        config.heartbeat = Duration::ZERO;
        config.backoff.jitter = false;
        config.limits.frame_max = peer::FRAME_MAX;
        let now = Time::ZERO;
        let mut session = Session::new(config, true, [7; 32], now);
        let mut consumer = ConsumerConfig::new("q").map_err(|error| error.to_string())?;
        consumer.prefetch = PREFETCH;
        let consumer = session.open_consumer(consumer, now).map_err(|error| error.to_string())?;
        let connection = session.connections().next().ok_or("no connection")?;
        let around = Around {
            peer: Peer::default(),
            dialling: false,
            ready: (1..=setup.messages).map(|message| (message, false)).collect(),
            unacked: Vec::new(),
            done: Vec::new(),
            hand: Vec::new(),
            decided: Vec::new(),
            valid_from: 0,
            uncovered: 0,
            deliveries: setup.deliveries,
            cuts: setup.cuts,
            channel_closes: setup.channel_closes,
            cancels: setup.cancels,
            ticks: setup.ticks,
            opened: false,
            closing: false,
            ended: false,
            end_told: false,
            shut_down: false,
            closed: false,
        };
        let written = Written::default();
        let mut world = Self { setup, session, connection, consumer, now, around, written };
        world.drain()?;
        Ok(world)
    }

    fn pending(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.pending_output(self.connection, &mut out);
        out
    }

    fn is_up(&self) -> bool {
        self.around.peer.stage != Stage::Gone
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), String> {
        peer::give(&mut self.session, self.connection, bytes, self.now)
    }

    fn encode(&mut self) {
        let mut slices = [IoSlice::new(&[]); 16];
        let _ = self.session.transmit(self.connection, &mut slices);
    }

    fn write(&mut self, n: usize) -> Result<(), String> {
        let bytes = peer::take(&mut self.session, self.connection, n, self.now);
        for heard in self.around.peer.hear(&bytes)? {
            self.heard(heard)?;
        }
        Ok(())
    }

    // ---- the broker ------------------------------------------------------------------------------

    fn heard(&mut self, heard: Heard) -> Result<(), String> {
        match heard {
            Heard::Settle { channel, tag, multiple, settlement, discarded } => {
                self.settled(channel, tag, multiple, settlement, discarded)
            }
            Heard::Call(channel, Reply::ConsumeOk) => {
                match self.around.peer.channel(channel).map(|channel| channel.prefetch) {
                    Some(PREFETCH) => Ok(()),
                    other => Err(format!("a consume with the prefetch {other:?}")),
                }
            }
            Heard::Call(channel, Reply::CloseOk) => {
                self.channel_is_gone(channel);
                Ok(())
            }
            Heard::Call(..) => Ok(()),
            Heard::Header { .. } | Heard::Message { .. } => Err("a consumer publishes".into()),
        }
    }

    /// A settlement came: of what is outstanding here, as the application decided it.
    fn settled(
        &mut self,
        channel: u16,
        tag: u64,
        multiple: bool,
        settlement: Settlement,
        discarded: bool,
    ) -> Result<(), String> {
        let around = &mut self.around;
        if !around.unacked.iter().any(|u| u.channel == channel && u.tag == tag) {
            return Err(format!("406: tag {tag} on channel {channel} is not outstanding"));
        }
        let meant = |u: &Unacked| u.channel == channel && (u.tag == tag || multiple && u.tag < tag);
        let gone: Vec<Unacked> = around.unacked.extract_if(.., |u| meant(u)).collect();
        for Unacked { tag, message, handed, .. } in gone {
            let decision = handed.map(|generation| Delivery { generation, tag }).map(|delivery| {
                let at = around.decided.iter().position(|(other, _)| *other == delivery);
                (delivery, at.map(|at| around.decided.remove(at).1))
            });
            match decision {
                // What came too late to be handed over.
                None if settlement == Settlement::Requeue => {}
                Some((_, Some(Settlement::RequeueLater))) if settlement == Settlement::Requeue => {}
                Some((_, Some(decided))) if decided == settlement => {}
                other => {
                    return Err(format!(
                        "tag {tag} is settled as {settlement:?}; decided: {other:?}"
                    ));
                }
            }
            match settlement {
                Settlement::Ack => self.written.acked += 1,
                Settlement::Reject => self.written.rejected += 1,
                _ => self.written.requeued += 1,
            }
            if discarded || settlement == Settlement::Requeue {
                around.ready.push((message, true));
                around.ready.sort_unstable();
            } else {
                around.done.push(message);
                around.done.sort_unstable();
            }
        }
        Ok(())
    }

    /// The broker delivers again what was outstanding there.
    fn channel_is_gone(&mut self, channel: u16) {
        let gone = |u: &mut Unacked| u.channel == channel;
        let again: Vec<Unacked> = self.around.unacked.extract_if(.., gone).collect();
        self.around.ready.extend(again.iter().map(|u| (u.message, true)));
        self.around.ready.sort_unstable();
        for Unacked { tag, handed, .. } in again {
            let lost =
                |delivery: &Delivery| delivery.tag == tag && Some(delivery.generation) == handed;
            self.around.decided.retain(|(delivery, _)| !lost(delivery));
        }
    }

    fn connection_is_gone(&mut self) {
        while let Some(channel) = self.around.unacked.first().map(|u| u.channel) {
            self.channel_is_gone(channel);
        }
        self.around.peer = Peer::default();
    }

    fn may_deliver(&self, channel: &peer::Channel) -> bool {
        let outstanding =
            self.around.unacked.iter().filter(|u| u.channel == channel.number).count();
        !self.around.ready.is_empty()
            && !channel.closed
            && channel.consumer.is_some()
            && !matches!(channel.owed, Some(Reply::CloseOk))
            && outstanding < usize::from(PREFETCH)
    }

    fn deliver(&mut self, number: u16) -> Vec<u8> {
        let Some(channel) = self.around.peer.channel_mut(number) else { return Vec::new() };
        channel.tags += 1;
        let tag = channel.tags;
        let (message, again) = self.around.ready.remove(0);
        self.around.unacked.push(Unacked { channel: number, tag, message, handed: None });
        self.written.received += 1;
        let consumer = channel.consumer.clone().unwrap_or_default();
        peer::delivery(number, &consumer, tag, again, &[b'0' + message])
    }

    // ---- the application -------------------------------------------------------------------------

    fn settle(&mut self, first: u64, last: Delivery, settlement: Settlement) {
        let Delivery { generation, tag } = last;
        let run = |delivery: &Delivery| {
            delivery.generation == generation && (first..=tag).contains(&delivery.tag)
        };
        let settled: Vec<Delivery> = self.around.hand.extract_if(.., |d| run(d)).collect();
        for delivery in settled {
            // Those of older generations are decided by nobody any more.
            if generation >= self.around.valid_from && !self.around.ended {
                self.around.decided.push((delivery, settlement));
                self.written.calls.push((delivery, self.written.settles + 1));
            }
        }
        self.around.decided.sort_by_key(|(delivery, _)| *delivery);
        if !self.around.ended {
            self.around.uncovered += 1;
            self.written.settles += 1;
        }
        let run = SettleRun { generation, first, last: tag, settlement };
        self.session.settle(self.consumer, run, self.now);
    }

    // ---- what the session says -------------------------------------------------------------------

    fn tick(&mut self) {
        if let Some(deadline) = self.session.poll_deadline() {
            self.now = self.now.max(deadline.at);
        }
        self.session.handle_tick(self.now);
    }

    fn next_reason(&self) -> Option<DeadlineReason> {
        self.session.poll_deadline().map(|deadline| deadline.reason)
    }

    /// Takes every output, and looks at the accounts.
    fn drain(&mut self) -> Result<(), String> {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Dial { .. } => self.around.dialling = true,
                _ => {
                    self.around.dialling = false;
                    self.connection_is_gone();
                }
            }
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::ConsumerOpened { result, .. } => {
                    if std::mem::replace(&mut self.around.opened, true) {
                        return Err("opened twice".into());
                    }
                    self.around.ended |= result.is_err();
                }
                SessionEvent::Generation { valid_from, .. } => {
                    if valid_from < self.around.valid_from {
                        return Err("a generation is valid again".into());
                    }
                    self.around.valid_from = valid_from;
                }
                SessionEvent::SettlesWritten { settles, .. } => self.covered(settles)?,
                SessionEvent::ConsumerEnded { .. } => {
                    if std::mem::replace(&mut self.around.end_told, true) {
                        return Err("ended twice".into());
                    }
                    self.around.ended = true;
                }
                SessionEvent::Closed if self.around.closed => return Err("closed twice".into()),
                SessionEvent::Closed => self.around.closed = true,
                SessionEvent::ConnectFailed(loss) => return Err(format!("gave up: {loss}")),
                _ => {}
            }
        }
        while let Some((_, batch)) = self.session.poll_batch() {
            for index in 0..batch.len() {
                self.handed(batch.generation(), batch.tag(index), batch.body(index))?;
            }
        }
        self.check()
    }

    /// So many settle calls are told to be written.
    fn covered(&mut self, settles: u64) -> Result<(), String> {
        let Some(uncovered) = self.written.settles.checked_sub(settles) else {
            return Err(format!("{settles} settles are told, of {}", self.written.settles));
        };
        self.around.uncovered = uncovered;
        if self.around.peer.stage != Stage::Open {
            // It is void, or was written.
            return Ok(());
        }
        // What is put off was not settled by anybody, and what is stale is void.
        let early = self.around.decided.iter().find(|(delivery, settlement)| {
            *settlement != Settlement::RequeueLater
                && delivery.generation >= self.around.valid_from
                && self.written.calls.iter().any(|(d, call)| d == delivery && *call <= settles)
        });
        early.map_or(Ok(()), |(delivery, _)| {
            Err(format!("{delivery} is told to be settled, and that is not written"))
        })
    }

    fn handed(&mut self, generation: u64, tag: u64, body: &[u8]) -> Result<(), String> {
        let delivery = Delivery { generation, tag };
        if self.around.closing || self.around.ended {
            return Err(format!("{delivery} is handed over at the end"));
        }
        // The latest delivery is the one that was given to the session.
        let latest = self.around.unacked.last_mut();
        let Some(unacked) = latest.filter(|u| u.tag == tag && u.handed.is_none()) else {
            return Err(format!("{delivery} was not delivered"));
        };
        if body != [b'0' + unacked.message] {
            return Err(format!("{delivery} has another's body"));
        }
        unacked.handed = Some(generation);
        self.around.hand.push(delivery);
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let around = &self.around;
        let stats = self.session.stats().consume;
        let Written { received, acked, requeued, rejected, .. } = self.written;
        if !stats.is_conserved() {
            return Err(format!("the law is broken: {stats:?}"));
        }
        // Those on a channel that the session closes are nobody's.
        if stats.received > received {
            return Err(format!("the account says {} received of {received}", stats.received));
        }
        // What is encoded when the consumer ends, or on a channel that the session gives up because
        // nobody answers, counts as abandoned although it may be written still.
        let given_up = around.ended || around.ticks < self.setup.ticks;
        let accounts = [
            (stats.acked, acked, "acked"),
            (stats.requeued, requeued, "requeued"),
            (stats.rejected, rejected, "rejected"),
        ];
        for (account, truth, what) in accounts {
            if account > truth || account < truth && !given_up {
                return Err(format!("the account says {account} {what}; in truth: {truth}"));
            }
        }
        // A channel that stands: what the application has of it can be settled, and nothing else.
        for delivery in &around.hand {
            let there = around
                .unacked
                .iter()
                .any(|u| u.tag == delivery.tag && u.handed == Some(delivery.generation));
            let stale = delivery.generation < around.valid_from || around.ended;
            if !there && !stale && around.peer.stage == Stage::Gone {
                return Err(format!("{delivery} is not stale, and the connection is gone"));
            }
        }
        if around.closed && (self.is_up() || around.dialling || !around.ended) {
            return Err("closed, and something is left".into());
        }
        if self.session.is_closed() != around.closed {
            return Err("closed, and nobody was told".into());
        }
        if around.ended && stats.in_hand + stats.settling > 0 {
            return Err(format!("ended, and something is left: {stats:?}"));
        }
        Ok(())
    }

    /// Everything that can be done without a deadline; whether there was anything.
    fn heal_once(&mut self) -> Result<bool, String> {
        if self.around.dialling {
            self.apply(Event::Connect)?;
            return Ok(true);
        }
        if let Some(delivery) = self.around.hand.first().copied() {
            self.apply(Event::Settle(delivery, Settlement::Ack))?;
            return Ok(true);
        }
        if !self.is_up() {
            return Ok(false);
        }
        self.apply(Event::Encode)?;
        if !self.pending().is_empty() {
            self.apply(Event::WriteAll)?;
            return Ok(true);
        }
        if self.around.peer.stage == Stage::ClosedByClient {
            self.apply(Event::Answer(0))?;
            return Ok(true);
        }
        let channels = &self.around.peer.channels;
        let owed = channels.iter().find(|channel| channel.owed.is_some());
        let ready = channels.iter().find(|channel| self.may_deliver(channel));
        let event = match (owed, ready) {
            (Some(channel), _) => Event::Answer(channel.number),
            (None, Some(channel)) => Event::Deliver(channel.number),
            (None, None) => return Ok(false),
        };
        self.around.deliveries = 2;
        self.apply(event)?;
        Ok(true)
    }

    /// The driver is dropped: everything ends at once.
    fn abort(mut self) -> Result<(), String> {
        self.session.abort(self.now);
        self.drain()?;
        if self.around.closed { Ok(()) } else { Err("not closed".into()) }
    }
}

impl World for Consuming {
    type Event = Event;

    fn events(&self, out: &mut Vec<Event>) {
        let (setup, around) = (&self.setup, &self.around);
        if around.closed {
            return;
        }
        if setup.shutdown && !around.shut_down {
            out.push(Event::Shutdown);
        }
        if setup.close && !around.closing && !around.ended {
            out.push(Event::Close);
        }
        for &delivery in &around.hand {
            out.extend(setup.settlements.iter().map(|&how| Event::Settle(delivery, how)));
            if setup.through {
                out.push(Event::AckThrough(delivery));
            }
        }
        let reason = self.next_reason();
        let free = matches!(reason, Some(DeadlineReason::Reconnect | DeadlineReason::Reopen));
        if free || around.ticks > 0 && reason.is_some() {
            out.push(Event::Tick);
        }
        if around.dialling {
            out.push(Event::Connect);
        }
        if !self.is_up() {
            return;
        }
        out.push(Event::Encode);
        let pending = self.pending();
        if let Some((left, next)) = around.peer.next_frame(&pending) {
            out.push(Event::WriteAll);
            if left < pending.len() {
                out.push(Event::WriteFrame);
            }
            if setup.parts && next == Next::Settle {
                out.push(Event::WritePart);
            }
        }
        if around.cuts > 0 {
            out.push(Event::Cut);
        }
        match around.peer.stage {
            Stage::ClosedByClient => out.push(Event::Answer(0)),
            Stage::Open => {
                if around.cuts > 0 && setup.broker_closes {
                    out.push(Event::BrokerCloses);
                }
                for channel in &around.peer.channels {
                    self.channel_events(channel, out);
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Encode => self.encode(),
            Event::WritePart | Event::WriteFrame => {
                let pending = self.pending();
                let left = self.around.peer.next_frame(&pending).map_or(0, |(left, _)| left);
                self.write(if event == Event::WritePart { left / 2 } else { left })?;
            }
            Event::WriteAll => self.write(usize::MAX)?,
            Event::Answer(0) => self.give(&peer::close_ok())?,
            Event::Answer(number) => {
                let bytes = self.around.peer.answer(number);
                if self.around.peer.channel(number).is_none() {
                    self.channel_is_gone(number);
                }
                self.give(&bytes)?;
            }
            Event::Deliver(number) => {
                self.around.deliveries -= 1;
                let bytes = self.deliver(number);
                self.give(&bytes)?;
            }
            Event::AnswerAndDeliver(number) => {
                self.around.deliveries -= 1;
                let mut bytes = self.around.peer.answer(number);
                bytes.extend(self.deliver(number));
                self.give(&bytes)?;
            }
            Event::Settle(delivery, settlement) => self.settle(delivery.tag, delivery, settlement),
            Event::AckThrough(delivery) => self.settle(1, delivery, Settlement::Ack),
            Event::Cancel(number) => {
                self.around.cancels -= 1;
                let Some(channel) = self.around.peer.channel_mut(number) else { return Ok(()) };
                // A call of the session's for that consumer is not answered any more.
                channel.owed.take_if(|owed| matches!(owed, Reply::ConsumeOk));
                let tag = channel.consumer.take().unwrap_or_default();
                self.give(&peer::cancel(number, &tag))?;
            }
            Event::CloseChannel(number) => {
                self.around.channel_closes -= 1;
                let bytes = self.around.peer.close_channel(number, 406, "TIMEOUT", false);
                self.channel_is_gone(number);
                self.give(&bytes)?;
            }
            Event::Cut => {
                self.around.cuts -= 1;
                self.connection_is_gone();
                self.session.handle_disconnected(self.connection, Loss::Eof, self.now);
            }
            Event::BrokerCloses => {
                self.around.cuts -= 1;
                let bytes = self.around.peer.close(320, "CONNECTION_FORCED");
                self.give(&bytes)?;
            }
            Event::Connect => {
                self.around.dialling = false;
                self.around.peer.connect(&mut self.session, self.connection, self.now)?;
            }
            Event::Tick => {
                let free = [Some(DeadlineReason::Reconnect), Some(DeadlineReason::Reopen)];
                if !free.contains(&self.next_reason()) {
                    self.around.ticks = self.around.ticks.saturating_sub(1);
                }
                self.tick();
            }
            Event::Close => {
                self.around.closing = true;
                self.session.close_consumer(self.consumer, self.now);
            }
            Event::Shutdown => {
                self.around.shut_down = true;
                self.around.closing = true;
                self.session.shutdown(Duration::from_secs(30), self.now);
            }
        }
        self.drain()
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.session.fingerprint(&mut hasher);
        self.around.hash(&mut hasher);
        hasher.finish()
    }

    /// Without a fault, every message is delivered and acked without waiting for a deadline that is
    /// only a guard, every settle is told to be written, and the session closes, clean.
    fn heal(mut self) -> Result<(), String> {
        self.clone().abort().map_err(|what| format!("the driver is dropped: {what}"))?;
        let mut shut_down = self.around.shut_down;
        for _ in 0..100 {
            if self.around.closed {
                return Ok(());
            }
            if self.heal_once()? {
                continue;
            }
            let over = self.around.ended || self.around.closing;
            let left = self.around.ready.len() + self.around.unacked.len();
            if (over || left == 0) && !shut_down {
                if !over && self.around.uncovered > 0 {
                    return Err(format!("{} settles are never told", self.around.uncovered));
                }
                if self.around.closing && !self.around.ended {
                    return Err(format!("it never ends: {}", self.session.explain(self.now)));
                }
                shut_down = true;
                self.around.closing = true;
                self.session.shutdown(Duration::from_secs(30), self.now);
                self.drain()?;
                continue;
            }
            match self.next_reason() {
                Some(
                    DeadlineReason::Reconnect
                    | DeadlineReason::Reopen
                    | DeadlineReason::Stable
                    | DeadlineReason::Requeue,
                ) => {
                    self.tick();
                    self.drain()?;
                }
                other => {
                    return Err(format!(
                        "{left} messages are stuck, and the next deadline is {other:?}: {}",
                        self.session.explain(self.now)
                    ));
                }
            }
        }
        Err(format!("it never ends: {}", self.session.explain(self.now)))
    }
}

impl Consuming {
    fn channel_events(&self, channel: &peer::Channel, out: &mut Vec<Event>) {
        let around = &self.around;
        let number = channel.number;
        if channel.owed.is_some() {
            out.push(Event::Answer(number));
        }
        if around.deliveries > 0 && self.may_deliver(channel) {
            match channel.owed {
                Some(Reply::ConsumeOk) => out.push(Event::AnswerAndDeliver(number)),
                _ => out.push(Event::Deliver(number)),
            }
        }
        if channel.closed || matches!(channel.owed, Some(Reply::OpenOk)) {
            return;
        }
        if around.channel_closes > 0 {
            out.push(Event::CloseChannel(number));
        }
        if around.cancels > 0 && channel.consumer.is_some() && channel.owed != Some(Reply::CloseOk)
        {
            out.push(Event::Cancel(number));
        }
    }
}
