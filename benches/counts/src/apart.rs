//! The line between what is measured and what is not.

use std::{cell::Cell, hint::black_box};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is: the bench warms up.
    Idle,
    /// The client's part is.
    Measuring,
    /// Meanwhile something else runs, which is not.
    Apart,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Idle) };
}

/// Measures `work`, but for what runs [`apart`] in it.
pub fn measure<T>(work: impl FnOnce() -> T) -> T {
    STATE.set(State::Measuring);
    let result = work();
    STATE.set(State::Idle);
    result
}

/// Runs what is not the client's.
///
/// # Panics
///
/// Inside itself: what toggles callgrind twice has it count.
#[inline]
pub fn apart<T>(work: impl FnOnce() -> T) -> T {
    match STATE.get() {
        State::Idle => work(),
        State::Measuring => not_counted(work),
        State::Apart => panic!("apart inside apart"),
    }
}

/// Callgrind stops counting when this is entered, and goes on when it is left: `--toggle-collect`, in
/// benches/instructions.rs. It would begin to count if it were entered while nothing is measured.
#[inline(never)]
fn not_counted<T>(work: impl FnOnce() -> T) -> T {
    STATE.set(State::Apart);
    let result = work();
    STATE.set(State::Measuring);
    // Looked at here, so that no jump into `work` ends this function.
    black_box(result)
}
