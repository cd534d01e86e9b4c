//! The facade: a pure state machine for everything that outlives one connection.

pub mod api;

use std::{io::IoSlice, sync::Arc, time::Duration};

pub use api::{Action, DeclaredQueue, Flow, ProducerUpdate, Report, SessionEvent};

use crate::{
    config::{Config, ConsumerConfig, ProducerConfig, QueueConfig},
    consume::{Batch, SettleRun},
    error::{ConsumeError, DeclareError, InvalidMessage, Loss, OpenError, PublishError},
    event::{Deadline, State},
    ids::{ConnectionId, ConsumerId, ProducerId, RequestId},
    message::Message,
    publish::Accepted,
    stats::{ConsumerStats, ProducerStats, Stats},
    time::Time,
};

/// The client as a state machine: bytes and times in, bytes and events out. (API sketch.)
#[derive(Debug)]
pub struct Session;

#[allow(
    unused_variables,
    clippy::todo,
    clippy::unused_self,
    missing_docs,
    clippy::missing_const_for_fn
)]
impl Session {
    /// `retry_first`: go on trying when the first connect fails (`connect_lazy`); otherwise
    /// `SessionEvent::ConnectFailed` and the session is closed.
    pub fn new(config: Config, retry_first: bool, seed: [u8; 32], now: Time) -> Self {
        todo!()
    }

    // ---- handle_*: the transport tells it something -------------------------------------------
    pub fn handle_connected(&mut self, connection: ConnectionId, now: Time) {
        todo!()
    }
    /// `n` bytes were read into the front of `receive_buffer(connection)`.
    pub fn handle_received(&mut self, connection: ConnectionId, n: usize, now: Time) {
        todo!()
    }
    /// `n` bytes of what `transmit` offered were taken by the transport. `last`: they are in the
    /// kernel's hands; otherwise they count as *possibly written* until `handle_flushed`.
    pub fn handle_written(&mut self, connection: ConnectionId, n: usize, last: bool, now: Time) {
        todo!()
    }
    /// Everything that the transport took is written.
    pub fn handle_flushed(&mut self, connection: ConnectionId, now: Time) {
        todo!()
    }
    /// The transport ended, or could not be opened (`Loss::Dial`).
    pub fn handle_disconnected(&mut self, connection: ConnectionId, loss: Loss, now: Time) {
        todo!()
    }
    /// Time has passed. Call it at every deadline of `poll_deadline`, and at least every 100 ms.
    pub fn handle_tick(&mut self, now: Time) {
        todo!()
    }

    // ---- mutators: the application asks for something -------------------------------------------
    pub fn open_producer(
        &mut self,
        config: ProducerConfig,
        now: Time,
    ) -> Result<ProducerId, OpenError> {
        todo!()
    }
    /// Takes over a message that was accepted at a hand-over. Never refuses: at capacity it evicts
    /// (`DropOldest`) or lets the buffer overrun by what the hand-over admitted.
    pub fn accept(&mut self, producer: ProducerId, accepted: Accepted, now: Time) {
        todo!()
    }
    /// Takes over a message that was accepted and then evicted at the hand-over itself: it is counted
    /// and reported as `Dropped(BufferFull)`. It does not count in `ProducerUpdate::left`.
    pub fn accept_evicted(&mut self, producer: ProducerId, accepted: Accepted, now: Time) {
        todo!()
    }
    /// Publishes without a hand-over (custom event loops): applies the policy itself; `Block` is
    /// `Err(Full)` here, since the core cannot wait. Returns the sequence number.
    pub fn publish(
        &mut self,
        producer: ProducerId,
        message: Message,
        now: Time,
    ) -> Result<u64, PublishError> {
        todo!()
    }
    /// Whether the session could ever send this message (limits). Call before accepting.
    pub fn check(&self, producer: ProducerId, message: &Message) -> Result<(), InvalidMessage> {
        todo!()
    }
    /// No more messages will come; what is queued is still sent. `ProducerUpdate::closed` follows.
    /// With `abandon`, what is queued or in flight ends now (`Dropped(Closed)`, `Unknown(Closed)`).
    pub fn close_producer(&mut self, producer: ProducerId, abandon: bool, now: Time) {
        todo!()
    }

    pub fn open_consumer(
        &mut self,
        config: ConsumerConfig,
        now: Time,
    ) -> Result<ConsumerId, ConsumeError> {
        todo!()
    }
    /// One call counts as one settle for `SessionEvent::SettlesWritten`. Stale runs are ignored.
    pub fn settle(&mut self, consumer: ConsumerId, run: SettleRun, now: Time) {
        todo!()
    }
    /// The application took deliveries with so many bytes of bodies out of a no-ack consumer's queue.
    pub fn handle_consumed(&mut self, consumer: ConsumerId, bytes: u64, now: Time) {
        todo!()
    }
    /// Cancels; `ConsumerEnded` follows once what the application settled until then is written and
    /// what it never saw is requeued. Deliveries in hand are requeued by the broker unless settled
    /// before the channel closes.
    pub fn close_consumer(&mut self, consumer: ConsumerId, now: Time) {
        todo!()
    }

    pub fn declare_queue(
        &mut self,
        config: QueueConfig,
        now: Time,
    ) -> Result<RequestId, DeclareError> {
        todo!()
    }
    /// Nobody waits for this declaration any more (it stays recorded for the replay if it succeeds).
    pub fn forget_request(&mut self, request: RequestId) {
        todo!()
    }

    /// Stops admission, sends what is queued, awaits the settlements, closes consumers, channels
    /// and connections; at the deadline it gives up what is left. `SessionEvent::Closed` ends it.
    pub fn shutdown(&mut self, deadline: Duration, now: Time) {
        todo!()
    }
    /// Gives up at once: every message gets its outcome now, transports are hung up. What the
    /// driver calls when it is dropped.
    pub fn abort(&mut self, now: Time) {
        todo!()
    }

    // ---- poll_*: outputs, drained after any of the above ----------------------------------------
    pub fn poll_action(&mut self) -> Option<Action> {
        todo!()
    }
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        todo!()
    }
    pub fn poll_producer(&mut self) -> Option<ProducerUpdate> {
        todo!()
    }
    /// Runs of sequence numbers beyond the watermark that settled since the last call.
    pub fn take_settled_early(&mut self, producer: ProducerId, runs: &mut Vec<(u64, u64)>) {
        todo!()
    }
    pub fn poll_batch(&mut self) -> Option<(ConsumerId, Arc<Batch>)> {
        todo!()
    }
    /// The space to read into; empty while reading is paused (or there is no connection).
    pub fn receive_buffer(&mut self, connection: ConnectionId) -> &mut [u8] {
        todo!()
    }
    /// Encodes what is due and returns how many slices were filled; 0 = nothing to write.
    pub fn transmit<'a>(
        &'a mut self,
        connection: ConnectionId,
        slices: &mut [IoSlice<'a>],
    ) -> usize {
        todo!()
    }
    /// When `handle_tick` is needed next, and why.
    pub fn poll_deadline(&self) -> Option<Deadline> {
        todo!()
    }

    // ---- getters ---------------------------------------------------------------------------------
    pub fn state(&self) -> &State {
        todo!()
    }
    pub fn is_closed(&self) -> bool {
        todo!()
    }
    /// Every connection slot there is (0, 1, and later ones once opened).
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> + use<> {
        (0..0).map(ConnectionId)
    }
    /// The right-hand side of the law: `accepted`, outcomes, `queued`, `in_flight`. The admission
    /// terms are the hand-over's.
    pub fn producer_stats(&self, producer: ProducerId) -> Option<ProducerStats> {
        todo!()
    }
    /// `queued` and `in_hand` are not told apart here: all outstanding counts as `in_hand`.
    pub fn consumer_stats(&self, consumer: ConsumerId) -> Option<ConsumerStats> {
        todo!()
    }
    /// Sums, closed producers and consumers included.
    pub fn stats(&self) -> Stats {
        todo!()
    }
    pub fn report(&self) -> Report {
        todo!()
    }
    /// In words: what each producer, consumer and connection waits for, and until when.
    pub fn explain(&self, now: Time) -> String {
        todo!()
    }
}
