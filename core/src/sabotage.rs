//! Defects on purpose, so that the simulator can show that it would find them; and a count of steps.
//!
//! Behind the feature `sabotage`, which only the simulator's tests turn on: nothing that ships has it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sabotage {
    /// The driver's wake-ups are lost, from the fiftieth on.
    LostWakeUp,
    /// A full buffer whose policy is `Block` drops its oldest message.
    BlockDrops,
    /// Attempts are counted for each payload instead of each message.
    RetriesByPayload,
    /// A message evicted by another is forgotten.
    ForgetsEvicted,
    /// A settlement goes to whatever channel its consumer has now.
    AcksWithoutGeneration,
    /// A consumer that is subscribed again sends no qos.
    QosNotReplayed,
    /// The window is not rewound when its channel is gone.
    NoRewind,
    /// One confirm tag in eight is exchanged with the one before it.
    TagsOutOfOrder,
    /// A nacked message counts as dropped.
    NackIsDrop,
    /// A publisher's nack is not noted: a later `multiple` ack spans its tag.
    AckSpansNack,
    /// A consumer's `multiple` ack spans tags that were rejected or requeued.
    SettlesSpanned,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LostWakeUp,
        Self::BlockDrops,
        Self::RetriesByPayload,
        Self::ForgetsEvicted,
        Self::AcksWithoutGeneration,
        Self::QosNotReplayed,
        Self::NoRewind,
        Self::TagsOutOfOrder,
        Self::NackIsDrop,
        Self::AckSpansNack,
        Self::SettlesSpanned,
    ];
}

thread_local! {
    static PLANTED: Cell<Option<Sabotage>> = const { Cell::new(None) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static ATTEMPTS: RefCell<BTreeMap<Vec<u8>, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// How often a producer or a consumer was looked at on this thread: what the state machine's work is
/// counted by.
pub fn steps() -> u64 {
    STEPS.get()
}

/// One was.
pub(crate) fn step() {
    STEPS.set(STEPS.get() + 1);
}

/// Plants a defect in everything that runs on this thread, or removes it.
pub fn plant(sabotage: Option<Sabotage>) {
    PLANTED.set(sabotage);
    COUNT.set(0);
    ATTEMPTS.take();
}

/// Whether this one is planted.
pub(crate) fn is(sabotage: Sabotage) -> bool {
    PLANTED.get() == Some(sabotage)
}

/// Whether this one is planted, and how often it was asked for, this time included.
pub(crate) fn count(sabotage: Sabotage) -> Option<u64> {
    is(sabotage).then(|| {
        COUNT.set(COUNT.get() + 1);
        COUNT.get()
    })
}

/// A message of this payload was sent so often.
pub(crate) fn note_attempts(payload: &[u8], attempts: u32) {
    if is(Sabotage::RetriesByPayload) {
        ATTEMPTS.with_borrow_mut(|all| all.insert(payload.to_vec(), attempts));
    }
}

/// How often a message of this payload was sent, if that is what counts.
pub(crate) fn attempts_of(payload: &[u8]) -> u32 {
    ATTEMPTS.with_borrow(|all| all.get(payload).copied().unwrap_or(0))
}
