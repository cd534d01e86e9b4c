//! A one-thread executor with a virtual clock, stricter than any real one.
//!
//! - A task is polled only if its waker fired; which of several is polled next is drawn.
//! - In half of the worlds only the waker of a task's *latest* poll counts (that is all that `Future`
//!   promises), so a future that keeps an old one hangs there. In the other half a task has one waker,
//!   as with most executors, so that code which asks `will_wake` takes its other branch.
//! - Time stands still while a task is polled, passes by a drawn microsecond or two between polls,
//!   and jumps to the next timer when nothing is runnable.
//! - When nothing is runnable and no timer is armed, the world is [`Quiet`](Step::Quiet): with work
//!   left, that is a hang, and [`Executor::waiting`] says who waits.
//!
//! `handle` is what tasks share with it, `timer` what they sleep on, `waker` how they are woken.

mod handle;
#[cfg(test)]
mod tests;
mod timer;
mod waker;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

pub use self::{
    handle::Handle,
    timer::{SimTimer, Sleep},
};
use super::{random::Random, trace::Trace};

type BoxTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the tasks of one world.
pub struct Executor {
    handle: Handle,
    /// By the slot that the handle gave them.
    tasks: Vec<Option<Task>>,
    random: Random,
    fresh_wakers: bool,
    polls: u64,
}

struct Task {
    name: Arc<str>,
    future: BoxTask,
    /// The world does not wait for it.
    background: bool,
    /// Its number; where it has one waker for all polls, that waker's, too.
    serial: u64,
    polls: u64,
    /// The only waker, if it has one only.
    waker: Option<Waker>,
}

/// What one step of an [`Executor`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It polled the task of this name.
    Polled(Arc<str>),
    /// Nothing was runnable: time jumped to the next timer.
    Waited,
    /// Nothing is runnable and no timer is armed.
    Quiet,
}

impl Executor {
    /// An executor that draws from `random`.
    #[must_use]
    pub fn new(mut random: Random, trace: Trace) -> Self {
        Self {
            handle: Handle::new(trace),
            tasks: Vec::new(),
            fresh_wakers: random.chance(1, 2),
            random,
            polls: 0,
        }
    }

    /// The handle that tasks get.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Polls one task, or lets time jump.
    pub fn step(&mut self) -> Step {
        let poll = self.fresh_wakers.then_some(self.polls);
        let next = self.handle.next(&mut self.tasks, &mut self.random, poll);
        let Some((slot, poll)) = next else {
            return if self.handle.jump() { Step::Waited } else { Step::Quiet };
        };
        let Some(task) = self.tasks.get_mut(slot).and_then(Option::as_mut) else {
            return Step::Waited;
        };
        task.polls += 1;
        self.polls += 1;
        let name = task.name.clone();
        let fresh;
        let waker = if self.fresh_wakers {
            fresh = self.handle.waker(slot, poll);
            &fresh
        } else {
            task.waker.get_or_insert_with(|| self.handle.waker(slot, poll))
        };
        if task.future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            // Its destructors may wake others: no lock is held.
            let background = task.background;
            self.tasks[slot] = None;
            self.handle.done(slot, background);
        }
        self.handle.advance(Duration::from_nanos(self.random.below(2_000)));
        Step::Polled(name)
    }

    /// Names of the tasks that are not done, but for those in the background, and how often each
    /// was polled.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Arc<str>, u64)> {
        let tasks = self.tasks.iter().flatten().filter(|task| !task.background);
        let polled = tasks.map(|task| (task.name.clone(), task.polls));
        polled.chain(self.handle.spawned().into_iter().map(|name| (name, 0))).collect()
    }

    /// Whether every task is done, but for those in the background.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.handle.live_tasks() == 0
    }

    /// Polls so far.
    #[must_use]
    pub const fn polls(&self) -> u64 {
        self.polls
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks first: their timers disarm themselves. Whatever is armed then would keep itself alive.
        self.tasks.clear();
        self.handle.clear();
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}
