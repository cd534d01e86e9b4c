//! A world that publishes: one producer, up to three messages, and a broker that answers as it likes.

mod events;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::IoSlice,
    time::Duration,
};

use lavinmq_core::{
    Message,
    config::{BufferPolicy, Config, ProducerConfig, PublishMode},
    error::{Loss, PublishError},
    event::{DeadlineReason, UnknownReason, Verdict},
    ids::{ConnectionId, ProducerId},
    session::{Action, Session, SessionEvent},
    stats::ProducerStats,
    time::Time,
    wire,
};

use super::{
    peer::{self, Heard, Next, Peer, Reply, Stage},
    search::World,
};

pub use events::{Event, On, Setup};

/// The queue.
const QUEUE: &str = "q";

/// What became of a message, as the application was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Confirmed,
    Sent,
    Nacked,
    Returned,
    Dropped,
    Failed,
    Unknown,
    /// No confirm came in time.
    TimedOut,
}

/// A message, as everybody but the session knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Truth {
    outcome: Option<Outcome>,
    /// Told by the watermark, or early.
    settled: bool,
    /// Copies of which the transport took the last byte.
    whole: u8,
    /// The broker has a copy.
    there: bool,
    /// What the broker said of a copy that it has, and said to this session.
    acked: bool,
    nacked: bool,
    returned: bool,
}

/// A copy that the broker has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copied {
    channel: u16,
    tag: u64,
    number: u64,
    mandatory: bool,
    returned: bool,
}

impl Copied {
    const fn on(&self) -> On {
        (self.channel, self.tag)
    }
}

/// Everything but the session and the clock.
#[derive(Clone, Debug, Hash)]
struct Around {
    peer: Peer,
    dialling: bool,
    truths: [Truth; 3],
    published: u8,
    copies: Vec<Copied>,
    /// On this channel the broker has got the message that it does not want, and closes it next.
    refusing: Option<u16>,
    /// The number of the latest first copy.
    latest: u64,
    prefix: u64,
    cuts: u8,
    ticks: u8,
    channel_closes: u8,
    blocked: bool,
    may_block: bool,
    abandoned: bool,
    shut_down: bool,
    closed: bool,
}

/// A session, the broker at the other end of its wire, and what the application was told.
#[derive(Clone, Debug)]
pub struct Publishing {
    setup: Setup,
    session: Session,
    connection: ConnectionId,
    producer: ProducerId,
    now: Time,
    around: Around,
}

impl Publishing {
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
        let mut producer =
            ProducerConfig::new("", QUEUE, setup.mode).map_err(|error| error.to_string())?;
        producer.buffer_size = setup.buffer;
        producer.policy = setup.policy;
        producer.max_in_flight = Setup::WINDOW;
        producer.mandatory = setup.returns;
        producer.confirm_timeout = setup.confirm_timeout;
        producer.confirm_retries = 1;
        producer.ttl = setup.ttl;
        producer.report_confirmed = setup.report_confirmed;
        let producer = session.open_producer(producer, now).map_err(|error| error.to_string())?;
        let connection = session.connections().next().ok_or("no connection")?;
        let around = Around {
            peer: Peer::default(),
            dialling: false,
            truths: [Truth::default(); 3],
            published: 0,
            copies: Vec::new(),
            refusing: None,
            latest: 0,
            prefix: 0,
            cuts: setup.cuts,
            ticks: setup.ticks,
            channel_closes: setup.channel_closes,
            blocked: false,
            may_block: setup.blocks,
            abandoned: false,
            shut_down: false,
            closed: false,
        };
        let mut world = Self { setup, session, connection, producer, now, around };
        world.drain()?;
        Ok(world)
    }

    fn body(&self, number: u64) -> Vec<u8> {
        vec![b'0' + number as u8; self.setup.body]
    }

    fn pending(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.pending_output(self.connection, &mut out);
        out
    }

    fn is_up(&self) -> bool {
        self.around.peer.stage != Stage::Gone
    }

    fn is_open(&self) -> bool {
        self.around.peer.stage == Stage::Open
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), String> {
        peer::give(&mut self.session, self.connection, bytes, self.now)
    }

    fn write(&mut self, n: usize) -> Result<(), String> {
        let bytes = peer::take(&mut self.session, self.connection, n, self.now);
        for heard in self.around.peer.hear(&bytes)? {
            self.heard(heard)?;
        }
        Ok(())
    }

    fn encode(&mut self) {
        let mut slices = [IoSlice::new(&[]); 16];
        let _ = self.session.transmit(self.connection, &mut slices);
    }

    fn heard(&mut self, heard: Heard) -> Result<(), String> {
        let confirm = self.setup.mode == PublishMode::Confirm;
        match heard {
            Heard::Header { id, attempt } => {
                let Some((prefix, number)) = id else {
                    return match (confirm, attempt) {
                        (false, None) => Ok(()),
                        (true, _) => Err("a message without an id".into()),
                        (false, Some(_)) => Err("x-attempt in fire-and-forget mode".into()),
                    };
                };
                self.around.prefix = prefix;
                let whole = i32::from(self.truth(number)?.whole);
                let expected = (whole > 0).then_some(whole + 1);
                if attempt != expected {
                    return Err(format!(
                        "a copy of message {number} with x-attempt {attempt:?}, where {whole} copies were written whole before"
                    ));
                }
            }
            Heard::Message { channel, id, body, mandatory, tag, discarded } => {
                let number = u64::from(body.first().map_or(0, |digit| digit.wrapping_sub(b'0')));
                // What was given up while it was on its way goes out still.
                let outcome = self.truth(number)?.outcome;
                let given_up = outcome == Some(Outcome::TimedOut) || self.around.abandoned;
                if outcome.is_some() && !given_up && !discarded {
                    return Err(format!("a copy of message {number}, which has its outcome"));
                }
                if body != self.body(number) || id.is_some_and(|(_, id)| id != number) {
                    return Err(format!("message {number} has another's body or id"));
                }
                if mandatory != self.setup.returns {
                    return Err(format!("message {number} is mandatory: {mandatory}"));
                }
                let around = &mut self.around;
                let confirms = around.peer.channel(channel).is_some_and(|channel| channel.confirms);
                if confirms != confirm && !discarded {
                    return Err("a publish before confirm.select".into());
                }
                let Some(truth) = around.truths.get_mut(number as usize - 1) else { return Ok(()) };
                truth.whole += 1;
                if discarded {
                    return Ok(());
                }
                if !truth.there && number < around.latest {
                    return Err(format!(
                        "the first copy of message {number} comes after that of {}",
                        around.latest
                    ));
                }
                truth.there = true;
                around.latest = around.latest.max(number);
                if self.setup.poison.map(u64::from) == Some(number) {
                    around.refusing = Some(channel);
                }
                if around.refusing != Some(channel) {
                    around.copies.push(Copied { channel, tag, number, mandatory, returned: false });
                }
            }
            Heard::Call(..) => {}
            Heard::Settle { .. } => return Err("a settlement from a publisher".into()),
        }
        Ok(())
    }

    fn truth(&mut self, number: u64) -> Result<&mut Truth, String> {
        let published = u64::from(self.around.published);
        let index = (number as usize).wrapping_sub(1);
        self.around
            .truths
            .get_mut(index)
            .filter(|_| number <= published)
            .ok_or_else(|| format!("message {number} was never accepted"))
    }

    // ---- the broker ------------------------------------------------------------------------------

    fn confirm(&mut self, (channel, tag): On, multiple: bool, nack: bool) -> Result<(), String> {
        let meant = |copy: &Copied| {
            copy.channel == channel && (copy.tag == tag || multiple && copy.tag < tag)
        };
        let answered: Vec<Copied> = self.around.copies.extract_if(.., |copy| meant(copy)).collect();
        for copy in answered {
            let truth = self.truth(copy.number)?;
            if nack {
                truth.nacked = true;
            } else {
                truth.acked = true;
                truth.returned |= copy.returned;
            }
        }
        let mut bytes = Vec::new();
        if nack {
            wire::put_nack(&mut bytes, channel, tag, multiple, false);
        } else {
            wire::put_ack(&mut bytes, channel, tag, multiple);
        }
        self.give(&bytes)
    }

    fn return_message(&mut self, on: On) -> Result<(), String> {
        let prefix = self.around.prefix;
        let Some(copy) = self.around.copies.iter_mut().find(|copy| copy.on() == on) else {
            return Ok(());
        };
        copy.returned = true;
        let number = copy.number;
        let body = self.body(number);
        self.give(&peer::returned(on.0, QUEUE, (prefix, number), &body))
    }

    fn channel_is_gone(&mut self, number: u16) {
        self.around.copies.retain(|copy| copy.channel != number);
        self.around.refusing.take_if(|refusing| *refusing == number);
    }

    fn connection_is_gone(&mut self) {
        self.around.copies.clear();
        self.around.refusing = None;
        self.around.peer = Peer::default();
        self.around.blocked = false;
    }

    fn tick(&mut self) {
        if let Some(deadline) = self.session.poll_deadline() {
            self.now = self.now.max(deadline.at);
        }
        self.session.handle_tick(self.now);
    }

    fn next_reason(&self) -> Option<DeadlineReason> {
        self.session.poll_deadline().map(|deadline| deadline.reason)
    }

    // ---- what the session says -------------------------------------------------------------------

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
                SessionEvent::Settled { settled, .. } => {
                    let outcome = outcome(settled.verdict.as_ref());
                    self.told(settled.sequence, outcome)?;
                    if *settled.message.body() != *self.body(settled.sequence) {
                        return Err(format!("message {} comes back changed", settled.sequence));
                    }
                }
                SessionEvent::Closed if self.around.closed => return Err("closed twice".into()),
                SessionEvent::Closed => self.around.closed = true,
                SessionEvent::ConnectFailed(loss) => return Err(format!("gave up: {loss}")),
                _ => {}
            }
        }
        let mut runs = Vec::new();
        self.session.take_settled_early(self.producer, &mut runs);
        while let Some(update) = self.session.poll_producer() {
            runs.push((1, update.settled));
        }
        for (first, last) in runs {
            for number in first..=last {
                self.settled(number)?;
            }
        }
        self.check()
    }

    fn told(&mut self, number: u64, outcome: Outcome) -> Result<(), String> {
        let truth = *self.truth(number)?;
        if let Some(before) = truth.outcome {
            return Err(format!("message {number} is {outcome:?}, and was {before:?}"));
        }
        let Truth { whole, acked, nacked, returned, there, .. } = truth;
        let right = match outcome {
            Outcome::Confirmed => acked && there,
            Outcome::Returned => acked && returned,
            Outcome::Nacked => nacked,
            Outcome::Sent => whole == 1,
            Outcome::Dropped => whole == 0,
            // What is still on its way when the producer is given up counts as possibly written.
            Outcome::Unknown => whole > 0 || self.around.abandoned,
            // It was encoded: it may go out yet.
            Outcome::TimedOut => self.setup.confirm_timeout.is_some(),
            Outcome::Failed => self.setup.poison.map(u64::from) == Some(number) && whole > 0,
        };
        if !right {
            return Err(format!("message {number} is told to be {outcome:?}; in truth: {truth:?}"));
        }
        self.truth(number)?.outcome = Some(outcome);
        Ok(())
    }

    /// The watermark, or a run beyond it, covers this number.
    fn settled(&mut self, number: u64) -> Result<(), String> {
        if self.truth(number)?.outcome.is_none() {
            let outcome = match self.setup.mode {
                PublishMode::FireAndForget => Outcome::Sent,
                PublishMode::Confirm if self.setup.report_confirmed => {
                    return Err(format!("message {number} is settled, and nobody said how"));
                }
                _ => Outcome::Confirmed,
            };
            self.told(number, outcome)?;
        }
        self.truth(number)?.settled = true;
        Ok(())
    }

    fn unsettled(&self) -> u64 {
        let published = usize::from(self.around.published);
        self.around.truths.iter().take(published).filter(|truth| truth.outcome.is_none()).count()
            as u64
    }

    fn check(&self) -> Result<(), String> {
        let around = &self.around;
        let stats = self.session.stats().publish;
        if !stats.is_conserved() {
            return Err(format!("the law is broken: {stats:?}"));
        }
        let published = usize::from(around.published);
        let truths = || around.truths.iter().take(published);
        let count =
            |outcome| truths().filter(|truth| truth.outcome == Some(outcome)).count() as u64;
        let ProducerStats { accepted, confirmed, sent, nacked, returned, failed, unknown, .. } =
            stats;
        let told = [
            (accepted, published as u64, "accepted"),
            (confirmed, count(Outcome::Confirmed), "confirmed"),
            (sent, count(Outcome::Sent), "sent"),
            (nacked, count(Outcome::Nacked), "nacked"),
            (returned, count(Outcome::Returned), "returned"),
            (failed, count(Outcome::Failed), "failed"),
            (unknown, count(Outcome::Unknown) + count(Outcome::TimedOut), "unknown"),
            (stats.dropped(), count(Outcome::Dropped), "dropped"),
            (stats.queued + stats.in_flight, self.unsettled(), "queued or in flight"),
        ];
        for (account, told, what) in told {
            if account != told {
                return Err(format!("the account says {account} {what}, and {told} were told"));
            }
        }
        if let Some(number) = truths().position(|truth| truth.outcome.is_some() != truth.settled) {
            return Err(format!("message {} has an outcome, and is not settled", number + 1));
        }
        if stats.in_flight > Setup::WINDOW as u64 {
            return Err(format!("{} messages in flight", stats.in_flight));
        }
        let unconfirmed = around
            .copies
            .iter()
            .filter(|copy| {
                around.truths.get(copy.number as usize - 1).is_some_and(|t| t.outcome.is_none())
            })
            .count();
        if unconfirmed > Setup::WINDOW {
            return Err(format!("{unconfirmed} unconfirmed messages on the wire"));
        }
        for (index, truth) in truths().enumerate() {
            let number = index + 1;
            match truth.outcome {
                Some(Outcome::Dropped) if truth.whole > 0 => {
                    return Err(format!("message {number} was dropped, and the broker has it"));
                }
                _ if self.setup.mode == PublishMode::FireAndForget && truth.whole > 1 => {
                    return Err(format!("{} copies of message {number}", truth.whole));
                }
                _ => {}
            }
        }
        if stats.queued > self.setup.buffer as u64 {
            return Err(format!("{} messages in the buffer", stats.queued));
        }
        if self.session.is_closed() != around.closed {
            return Err("closed, and nobody was told".into());
        }
        if around.closed && (self.unsettled() > 0 || self.is_up() || around.dialling) {
            return Err("closed, and something is left".into());
        }
        Ok(())
    }

    /// Everything that can be done without a deadline; whether there was anything.
    fn heal_once(&mut self) -> Result<bool, String> {
        if self.around.dialling {
            self.apply(Event::Connect)?;
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
        if self.around.blocked {
            self.apply(Event::Block(false))?;
            return Ok(true);
        }
        if self.around.peer.stage == Stage::ClosedByClient {
            self.apply(Event::Answer(0))?;
            return Ok(true);
        }
        let owed = self.around.peer.channels.iter().find(|channel| channel.owed.is_some());
        if let Some(number) = owed.map(|channel| channel.number) {
            self.apply(Event::Answer(number))?;
            return Ok(true);
        }
        if let Some(channel) = self.around.refusing {
            self.apply(Event::Refuse(channel))?;
            return Ok(true);
        }
        let confirms = self.setup.mode == PublishMode::Confirm;
        if let Some(copy) = self.around.copies.last().filter(|_| confirms) {
            self.apply(Event::AckThrough(copy.on()))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The driver is dropped: every message has its outcome at once, and the right one.
    fn abort(mut self) -> Result<(), String> {
        self.session.abort(self.now);
        self.drain()?;
        if self.around.closed { Ok(()) } else { Err("not closed".into()) }
    }
}

const fn outcome(verdict: Option<&Verdict>) -> Outcome {
    match verdict {
        None => Outcome::Confirmed,
        Some(Verdict::Nacked) => Outcome::Nacked,
        Some(Verdict::Returned(_)) => Outcome::Returned,
        Some(Verdict::Dropped(_)) => Outcome::Dropped,
        Some(Verdict::Failed(_)) => Outcome::Failed,
        Some(Verdict::Unknown(UnknownReason::ConfirmTimeout)) => Outcome::TimedOut,
        Some(_) => Outcome::Unknown,
    }
}

impl World for Publishing {
    type Event = Event;

    fn events(&self, out: &mut Vec<Event>) {
        let (setup, around) = (&self.setup, &self.around);
        if around.closed {
            return;
        }
        if around.published < setup.messages && !around.shut_down && !around.abandoned {
            out.push(Event::Publish);
        }
        if setup.abandon && !around.abandoned {
            out.push(Event::Abandon);
        }
        if setup.shutdown && !around.shut_down {
            out.push(Event::Shutdown);
        }
        let free =
            matches!(self.next_reason(), Some(DeadlineReason::Reconnect | DeadlineReason::Reopen));
        if free || around.ticks > 0 && self.next_reason().is_some() {
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
            if next == Next::Publish && setup.parts {
                out.push(Event::WritePart);
            }
        }
        if around.cuts > 0 {
            out.push(Event::Cut);
        }
        if around.peer.stage == Stage::ClosedByClient {
            out.push(Event::Answer(0));
        }
        if !self.is_open() {
            return;
        }
        if around.cuts > 0 && setup.broker_closes {
            out.push(Event::BrokerCloses);
        }
        if around.blocked || around.may_block {
            out.push(Event::Block(!around.blocked));
        }
        out.extend(
            around
                .peer
                .channels
                .iter()
                .filter(|c| c.owed.is_some())
                .map(|c| Event::Answer(c.number)),
        );
        if setup.mode == PublishMode::FireAndForget {
            return;
        }
        out.extend(around.refusing.map(Event::Refuse));
        if around.channel_closes > 0 {
            let stands = |c: &&peer::Channel| !c.closed && c.owed != Some(Reply::OpenOk);
            out.extend(
                around.peer.channels.iter().filter(stands).map(|c| Event::CloseChannel(c.number)),
            );
        }
        for (index, copy) in around.copies.iter().enumerate() {
            let on = copy.on();
            let more = around.copies.iter().take(index).any(|other| other.channel == copy.channel);
            out.push(Event::Ack(on));
            if more {
                out.push(Event::AckThrough(on));
            }
            if setup.nacks {
                out.push(Event::Nack(on));
                if more {
                    out.push(Event::NackThrough(on));
                }
            }
            if setup.returns && !copy.returned {
                out.push(Event::Return(on));
            }
        }
    }

    fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Publish => {
                let body = self.body(u64::from(self.around.published) + 1);
                match self.session.publish(self.producer, Message::from(body), self.now) {
                    Ok(number) => {
                        self.around.published += 1;
                        if number != u64::from(self.around.published) {
                            return Err(format!("the number {number} was given"));
                        }
                    }
                    Err(PublishError::Full(_)) if self.setup.policy != BufferPolicy::DropOldest => {
                    }
                    Err(error) => return Err(format!("publish: {error}")),
                }
            }
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
            Event::Ack(on) => self.confirm(on, false, false)?,
            Event::AckThrough(on) => self.confirm(on, true, false)?,
            Event::Nack(on) => self.confirm(on, false, true)?,
            Event::NackThrough(on) => self.confirm(on, true, true)?,
            Event::Return(on) => self.return_message(on)?,
            Event::Refuse(number) | Event::CloseChannel(number) => {
                let bytes = if event == Event::Refuse(number) {
                    self.around.peer.close_channel(number, 404, "NOT_FOUND", true)
                } else {
                    self.around.channel_closes -= 1;
                    self.around.peer.close_channel(number, 406, "PRECONDITION_FAILED", false)
                };
                self.channel_is_gone(number);
                self.give(&bytes)?;
            }
            Event::Block(blocked) => {
                self.around.blocked = blocked;
                self.around.may_block = false;
                self.give(&peer::blocked(blocked))?;
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
            Event::Abandon => {
                self.around.abandoned = true;
                self.session.close_producer(self.producer, true, self.now);
            }
            Event::Shutdown => {
                self.around.shut_down = true;
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

    /// Without a fault, and with a broker that confirms, everything gets its outcome without waiting
    /// for a deadline that is only a guard; then the session closes, and is clean.
    fn heal(mut self) -> Result<(), String> {
        self.clone().abort().map_err(|what| format!("the driver is dropped: {what}"))?;
        let mut shut_down = self.around.shut_down;
        for _ in 0..100 {
            if self.around.closed {
                let report = self.session.report();
                let late = shut_down && !self.around.shut_down && !report.is_clean();
                return if late { Err(format!("the shutdown leaves {report:?}")) } else { Ok(()) };
            }
            if self.heal_once()? {
                continue;
            }
            let work = self.unsettled() > 0;
            if !work && !shut_down {
                shut_down = true;
                self.session.shutdown(Duration::from_secs(30), self.now);
                self.drain()?;
                continue;
            }
            match self.next_reason() {
                Some(
                    DeadlineReason::Reconnect
                    | DeadlineReason::Reopen
                    | DeadlineReason::Stable
                    | DeadlineReason::Stall
                    | DeadlineReason::Ttl,
                ) => {
                    self.tick();
                    self.drain()?;
                }
                other => {
                    return Err(format!(
                        "{} messages are stuck, and the next deadline is {other:?}: {}",
                        self.unsettled(),
                        self.session.explain(self.now)
                    ));
                }
            }
        }
        Err(format!("it never ends: {}", self.session.explain(self.now)))
    }
}
