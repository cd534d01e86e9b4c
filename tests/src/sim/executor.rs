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

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use lavinmq_core::{runtime::Timer, time::Time};

use super::{random::Random, trace::Trace};

type BoxTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the tasks of one world.
pub struct Executor {
    handle: Handle,
    tasks: BTreeMap<u64, Task>,
    random: Random,
    fresh_wakers: bool,
    polls: u64,
}

struct Task {
    name: Arc<str>,
    future: BoxTask,
    background: bool,
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

/// What tasks share with their executor: the clock, timers, spawning, the trace.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Shared>>);

struct Shared {
    now: Time,
    next_id: u64,
    spawned: Vec<(u64, Task)>,
    /// Tasks whose latest waker fired, in the order of firing.
    ready: Vec<u64>,
    /// The number of each live task's latest poll; `None` once its waker fired.
    armed: BTreeMap<u64, Option<u64>>,
    timers: BTreeMap<(Time, u64), Waker>,
    stale_wakes: u64,
    counters: BTreeMap<&'static str, u64>,
    trace: Trace,
}

impl Executor {
    /// An executor that draws from `random`.
    #[must_use]
    pub fn new(mut random: Random, trace: Trace) -> Self {
        let shared = Shared {
            now: Time::ZERO,
            next_id: 0,
            spawned: Vec::new(),
            ready: Vec::new(),
            armed: BTreeMap::new(),
            timers: BTreeMap::new(),
            stale_wakes: 0,
            counters: BTreeMap::new(),
            trace,
        };
        Self {
            handle: Handle(Arc::new(Mutex::new(shared))),
            tasks: BTreeMap::new(),
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
        let Some((id, poll)) = self.next() else {
            return if self.jump() { Step::Waited } else { Step::Quiet };
        };
        let Some(task) = self.tasks.get_mut(&id) else { return Step::Waited };
        task.polls += 1;
        self.polls += 1;
        let name = task.name.clone();
        let waker = match &task.waker {
            Some(waker) => waker.clone(),
            None => {
                let handle = self.handle.clone();
                let waker = Waker::from(Arc::new(TaskWaker { id, poll, handle }));
                if !self.fresh_wakers {
                    task.waker = Some(waker.clone());
                }
                waker
            }
        };
        let done = task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            let task = self.tasks.remove(&id);
            self.handle.lock().armed.remove(&id);
            // Its destructors may wake others: the lock must be free.
            drop(task);
        }
        let pass = Duration::from_nanos(self.random.below(2_000));
        self.handle.advance(pass);
        Step::Polled(name)
    }

    /// Takes what was spawned, and draws the next task from those that are ready.
    fn next(&mut self) -> Option<(u64, u64)> {
        let mut shared = self.handle.lock();
        for (id, task) in std::mem::take(&mut shared.spawned) {
            self.tasks.insert(id, task);
        }
        if shared.ready.is_empty() {
            return None;
        }
        let at = self.random.index(shared.ready.len());
        let id = shared.ready.remove(at);
        // One number for all polls: every waker is the latest.
        let poll = if self.fresh_wakers { self.polls } else { 0 };
        shared.armed.insert(id, Some(poll));
        let Shared { trace, now, .. } = &mut *shared;
        if let Some(task) = self.tasks.get(&id) {
            trace.event(*now, format_args!("poll {}", task.name));
        }
        Some((id, poll))
    }

    /// Lets time jump to the next timer; false if there is none.
    fn jump(&self) -> bool {
        let now = {
            let shared = self.handle.lock();
            let Some((&(at, _), _)) = shared.timers.first_key_value() else { return false };
            at - shared.now
        };
        self.handle.advance(now);
        true
    }

    /// Names of the tasks that are not done, but for those in the background, and how often each
    /// was polled.
    #[must_use]
    pub fn waiting(&self) -> Vec<(Arc<str>, u64)> {
        let shared = self.handle.lock();
        let spawned = shared.spawned.iter().map(|(_, task)| task);
        self.tasks
            .values()
            .chain(spawned)
            .filter(|task| !task.background)
            .map(|task| (task.name.clone(), task.polls))
            .collect()
    }

    /// Whether every task is done, but for those in the background.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.tasks.values().all(|task| task.background)
            && self.handle.lock().spawned.iter().all(|(_, task)| task.background)
    }

    /// Polls so far.
    #[must_use]
    pub const fn polls(&self) -> u64 {
        self.polls
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // One thread; a panic elsewhere is reported as itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.lock().now
    }

    /// Starts a task that the world waits for.
    pub fn spawn(
        &self,
        name: impl Into<Arc<str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(name.into(), Box::pin(task), false);
    }

    /// Starts a task that need not end (the broker).
    pub fn spawn_background(
        &self,
        name: impl Into<Arc<str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.start(name.into(), Box::pin(task), true);
    }

    fn start(&self, name: Arc<str>, future: BoxTask, background: bool) {
        let mut shared = self.lock();
        let id = shared.next_id;
        shared.next_id += 1;
        shared.spawned.push((id, Task { name, future, background, polls: 0, waker: None }));
        shared.armed.insert(id, None);
        shared.ready.push(id);
    }

    /// A future that is done at `at`.
    pub fn sleep_until(&self, at: Time) -> Sleep {
        Sleep { timer: self.timer(), at }
    }

    /// A future that is done after `delay`, counted from this call.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_until(self.now() + delay)
    }

    /// A timer, not armed yet.
    #[must_use]
    pub fn timer(&self) -> SimTimer {
        SimTimer { handle: self.clone(), key: None }
    }

    /// Timers that are armed.
    #[must_use]
    pub fn armed_timers(&self) -> usize {
        self.lock().timers.len()
    }

    /// Wake-ups by wakers that were not their task's latest.
    #[must_use]
    pub fn stale_wakes(&self) -> u64 {
        self.lock().stale_wakes
    }

    /// Counts something that happened: a fault, a rare state.
    pub fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts it `n` times.
    pub fn add(&self, name: &'static str, n: u64) {
        *self.lock().counters.entry(name).or_default() += n;
    }

    /// How often things happened.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.lock().counters.clone()
    }

    /// Writes to the trace.
    pub fn event(&self, what: fmt::Arguments<'_>) {
        let mut shared = self.lock();
        let Shared { trace, now, .. } = &mut *shared;
        trace.event(*now, what);
    }

    /// Writes bytes to the trace.
    pub fn bytes(&self, wire: fmt::Arguments<'_>, bytes: &[u8]) {
        let mut shared = self.lock();
        let Shared { trace, now, .. } = &mut *shared;
        trace.bytes(*now, wire, bytes);
    }

    /// The trace's hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.lock().trace.hash()
    }

    /// Events in the trace so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.lock().trace.events()
    }

    /// Lets time pass, and fires the timers that are due.
    fn advance(&self, by: Duration) {
        let mut due = Vec::new();
        let mut shared = self.lock();
        shared.now += by;
        let now = shared.now;
        while let Some(entry) = shared.timers.first_entry()
            && entry.key().0 <= now
        {
            due.push(entry.remove());
        }
        drop(shared);
        due.into_iter().for_each(Waker::wake);
    }

    fn wake(&self, id: u64, poll: u64) {
        let mut shared = self.lock();
        match shared.armed.get_mut(&id) {
            Some(armed) if *armed == Some(poll) => {
                *armed = None;
                shared.ready.push(id);
            }
            Some(Some(_)) => shared.stale_wakes += 1,
            // Woken already, or done.
            Some(None) | None => {}
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle(at {})", self.now())
    }
}

struct TaskWaker {
    id: u64,
    poll: u64,
    handle: Handle,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.handle.wake(self.id, self.poll);
    }
}

/// The runtime's timer: one entry in the executor's heap.
#[derive(Debug)]
pub struct SimTimer {
    handle: Handle,
    key: Option<(Time, u64)>,
}

impl SimTimer {
    /// It no longer wakes anybody.
    pub fn disarm(&mut self) {
        if let Some(key) = self.key.take() {
            let waker = self.handle.lock().timers.remove(&key);
            drop(waker);
        }
    }
}

impl Timer for SimTimer {
    fn poll_until(mut self: Pin<&mut Self>, cx: &mut Context<'_>, at: Time) -> Poll<()> {
        self.disarm();
        let mut shared = self.handle.lock();
        if shared.now >= at {
            return Poll::Ready(());
        }
        if at == Time::MAX {
            return Poll::Pending;
        }
        let key = (at, shared.next_id);
        shared.next_id += 1;
        shared.timers.insert(key, cx.waker().clone());
        drop(shared);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Done at a point in time.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    timer: SimTimer,
    at: Time,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        Pin::new(&mut self.timer).poll_until(cx, at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::poll_fn;

    use super::*;

    fn executor(seed: u64) -> Executor {
        Executor::new(Random::new(seed), Trace::default())
    }

    fn run(executor: &mut Executor) {
        while executor.step() != Step::Quiet {}
    }

    #[test]
    fn time_jumps_from_timer_to_timer() {
        let mut executor = executor(1);
        let handle = executor.handle().clone();
        let times = Arc::new(Mutex::new(Vec::new()));
        for seconds in [3, 1, 2] {
            let (inner, times) = (handle.clone(), times.clone());
            handle.spawn("sleeper", async move {
                inner.sleep(Duration::from_secs(seconds)).await;
                times.lock().unwrap().push(inner.now().as_nanos() / 1_000_000_000);
            });
        }
        run(&mut executor);
        assert_eq!(*times.lock().unwrap(), [1, 2, 3]);
        assert!(executor.waiting().is_empty());
        assert_eq!(handle.armed_timers(), 0);
    }

    #[test]
    fn a_task_is_polled_only_when_it_was_woken() {
        let mut executor = executor(1);
        executor.handle().spawn("lost", poll_fn(|_| Poll::Pending));
        run(&mut executor);
        assert_eq!(executor.waiting(), [("lost".into(), 1)]);
    }

    /// Keeps the waker of its first poll only, and is woken by that one.
    #[test]
    fn a_stale_waker_does_not_count() {
        let mut executor = executor(1);
        executor.fresh_wakers = true;
        let handle = executor.handle().clone();
        let mut kept: Option<Waker> = None;
        let mut polls = 0;
        handle.spawn(
            "stale",
            poll_fn(move |cx| {
                polls += 1;
                match (&kept, polls) {
                    (None, _) => {
                        kept = Some(cx.waker().clone());
                        cx.waker().wake_by_ref();
                    }
                    (Some(waker), _) => waker.wake_by_ref(),
                }
                Poll::Pending
            }),
        );
        run(&mut executor);
        assert_eq!(executor.waiting(), [("stale".into(), 2)]);
        assert_eq!(handle.stale_wakes(), 1);
    }

    #[test]
    fn one_waker_for_all_polls_always_counts() {
        let mut executor = executor(1);
        executor.fresh_wakers = false;
        let mut kept: Option<Waker> = None;
        let mut polls = 0;
        executor.handle().spawn(
            "patient",
            poll_fn(move |cx| {
                polls += 1;
                let waker = kept.get_or_insert_with(|| cx.waker().clone());
                assert!(waker.will_wake(cx.waker()));
                waker.wake_by_ref();
                if polls < 5 { Poll::Pending } else { Poll::Ready(()) }
            }),
        );
        run(&mut executor);
        assert!(executor.is_done());
    }

    #[test]
    fn a_task_spawned_by_a_task_runs() {
        let mut executor = executor(1);
        let handle = executor.handle().clone();
        let inner = handle.clone();
        handle.spawn("outer", async move {
            let again = inner.clone();
            inner.spawn("inner", async move { again.sleep(Duration::from_secs(1)).await });
        });
        run(&mut executor);
        assert!(executor.waiting().is_empty());
        assert!(handle.now() >= Time::from_nanos(1_000_000_000));
    }

    #[test]
    fn rearming_a_timer_replaces_it() {
        let mut executor = executor(1);
        let handle = executor.handle().clone();
        let mut timer = handle.timer();
        let (mut polls, start) = (0, handle.now());
        handle.spawn(
            "rearm",
            poll_fn(move |cx| {
                polls += 1;
                let at = if polls == 1 { 10 } else { 2 };
                if polls == 1 {
                    cx.waker().wake_by_ref();
                }
                Pin::new(&mut timer).poll_until(cx, start + Duration::from_secs(at))
            }),
        );
        run(&mut executor);
        assert!(executor.waiting().is_empty());
        assert!(handle.now() < start + Duration::from_secs(3));
    }

    #[test]
    fn the_order_of_polls_depends_on_the_seed_alone() {
        let order = |seed| {
            let mut executor = executor(seed);
            for task in 0..8 {
                executor.handle().spawn(format!("{task}"), async {});
            }
            let mut order = Vec::new();
            while let Step::Polled(name) = executor.step() {
                order.push(name);
            }
            order
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
