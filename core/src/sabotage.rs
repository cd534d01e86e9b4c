//! Defects on purpose, so that the simulator can show that it would find them.
//!
//! Behind the feature `sabotage`, which only the simulator's tests turn on: nothing that ships has it.

use std::cell::Cell;

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// The driver's wake-ups are lost, from the fiftieth on.
    LostWakeUp,
    /// The window is not rewound when its channel is gone.
    NoRewind,
    /// A nacked message counts as dropped.
    NackIsDrop,
}

thread_local! {
    static PLANTED: Cell<Option<Sabotage>> = const { Cell::new(None) };
    static WAKE_UPS: Cell<u64> = const { Cell::new(0) };
}

/// Plants a defect in everything that runs on this thread, or removes it.
pub fn plant(sabotage: Option<Sabotage>) {
    PLANTED.set(sabotage);
    WAKE_UPS.set(0);
}

/// Whether this one is planted.
pub(crate) fn is(sabotage: Sabotage) -> bool {
    PLANTED.get() == Some(sabotage)
}

/// Whether this wake-up is to be lost.
pub(crate) fn loses_wake_up() -> bool {
    let count = WAKE_UPS.get() + 1;
    WAKE_UPS.set(count);
    is(Sabotage::LostWakeUp) && count >= 50
}
