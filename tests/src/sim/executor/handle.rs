//! What tasks share with their executor: the clock, timers, spawning, the trace.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use lavinmq_core::time::Time;

use super::{
    BoxTask, Task,
    timer::{SimTimer, Sleep},
    waker::TaskWaker,
};
use crate::sim::{pipe::Way, random::Random, trace::Trace};

/// What tasks share with their executor: the clock, timers, spawning, the trace.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

pub(super) struct Inner {
    /// Beside the lock: it is read far more often than anything else.
    now: AtomicU64,
    /// Wakers that somebody holds.
    pub(super) wakers: AtomicUsize,
    shared: Mutex<Shared>,
}

struct Shared {
    spawned: Vec<(usize, Task)>,
    /// Tasks whose latest waker fired.
    ready: Vec<usize>,
    /// By slot: the number of a task's latest poll; `None` once its waker fired, or it is done.
    armed: Vec<Option<u64>>,
    free: Vec<usize>,
    /// Tasks so far.
    serial: u64,
    /// Tasks that are not done and that the world waits for.
    live: usize,
    timers: BTreeMap<(Time, u64), Waker>,
    timer_keys: u64,
    stale_wakes: u64,
    counters: BTreeMap<&'static str, u64>,
    trace: Trace,
}

impl Handle {
    pub(super) fn new(trace: Trace) -> Self {
        Self(Arc::new(Inner {
            now: AtomicU64::new(0),
            wakers: AtomicUsize::new(0),
            shared: Mutex::new(Shared {
                spawned: Vec::new(),
                ready: Vec::new(),
                armed: Vec::new(),
                free: Vec::new(),
                serial: 0,
                live: 0,
                timers: BTreeMap::new(),
                timer_keys: 0,
                stale_wakes: 0,
                counters: BTreeMap::new(),
                trace,
            }),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // One thread; a panic elsewhere is reported as itself.
        self.0.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_nanos(self.0.now.load(Ordering::Relaxed))
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
        let slot = shared.free.pop().unwrap_or(shared.armed.len());
        if slot == shared.armed.len() {
            shared.armed.push(None);
        }
        shared.live += usize::from(!background);
        shared.serial += 1;
        let serial = shared.serial;
        shared
            .spawned
            .push((slot, Task { name, future, background, serial, polls: 0, waker: None }));
        shared.ready.push(slot);
    }

    /// A future that is done at `at`.
    pub fn sleep_until(&self, at: Time) -> Sleep {
        Sleep::new(self.timer(), at)
    }

    /// A future that is done after `delay`, counted from this call.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        self.sleep_until(self.now() + delay)
    }

    /// A timer, not armed yet.
    #[must_use]
    pub fn timer(&self) -> SimTimer {
        SimTimer::new(self.clone())
    }

    /// Timers that are armed.
    #[must_use]
    pub fn armed_timers(&self) -> usize {
        self.lock().timers.len()
    }

    /// Wakers that somebody holds, the clones of one counted once.
    #[must_use]
    pub fn live_wakers(&self) -> usize {
        self.0.wakers.load(Ordering::Relaxed)
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
        self.lock().trace.event(self.now(), what);
    }

    /// Writes bytes of a link to the trace.
    pub fn bytes(&self, way: Way, link: u64, bytes: &[u8]) {
        self.lock().trace.bytes(self.now(), way, link, bytes);
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

    // ---- for the executor -----------------------------------------------------------------------

    /// Takes what was spawned, and draws the next task from those that are ready. Its waker is
    /// the one of this poll from now on, or always the same one if `poll` is none.
    pub(super) fn next(
        &self,
        tasks: &mut Vec<Option<Task>>,
        random: &mut Random,
        poll: Option<u64>,
    ) -> Option<(usize, u64)> {
        let mut shared = self.lock();
        for (slot, task) in shared.spawned.drain(..) {
            if slot >= tasks.len() {
                tasks.resize_with(slot + 1, || None);
            }
            tasks[slot] = Some(task);
        }
        if shared.ready.is_empty() {
            return None;
        }
        let at = random.index(shared.ready.len());
        let slot = shared.ready.swap_remove(at);
        let task = tasks.get(slot)?.as_ref()?;
        let poll = poll.unwrap_or(task.serial);
        shared.armed[slot] = Some(poll);
        shared.trace.poll(self.now(), &task.name);
        Some((slot, poll))
    }

    /// A task is done, and dropped.
    pub(super) fn done(&self, slot: usize, background: bool) {
        let mut shared = self.lock();
        shared.live -= usize::from(!background);
        shared.armed[slot] = None;
        // It may have woken itself on its way out.
        shared.ready.retain(|&ready| ready != slot);
        shared.free.push(slot);
    }

    /// Tasks that are not done, but for those in the background.
    pub(super) fn live_tasks(&self) -> usize {
        self.lock().live
    }

    /// The names of the tasks that were never polled.
    pub(super) fn spawned(&self) -> Vec<Arc<str>> {
        let shared = self.lock();
        let spawned = shared.spawned.iter().filter(|(_, task)| !task.background);
        spawned.map(|(_, task)| task.name.clone()).collect()
    }

    pub(super) fn waker(&self, slot: usize, poll: u64) -> Waker {
        self.0.wakers.fetch_add(1, Ordering::Relaxed);
        Waker::from(Arc::new(TaskWaker { slot, poll, inner: self.0.clone() }))
    }

    /// Lets time jump to the next timer; false if there is none.
    pub(super) fn jump(&self) -> bool {
        let next = self.lock().timers.first_key_value().map(|(&(at, _), _)| at);
        let Some(at) = next else { return false };
        self.advance(at - self.now());
        true
    }

    /// Lets time pass, and fires the timers that are due.
    pub(super) fn advance(&self, by: Duration) {
        let now = self.now() + by;
        self.0.now.store(now.as_nanos(), Ordering::Relaxed);
        loop {
            let mut shared = self.lock();
            let Some(entry) = shared.timers.first_entry().filter(|entry| entry.key().0 <= now)
            else {
                return;
            };
            let due = entry.remove();
            drop(shared);
            due.wake();
        }
    }

    /// Drops what would keep itself alive.
    pub(super) fn clear(&self) {
        let mut shared = self.lock();
        let spawned = mem::take(&mut shared.spawned);
        drop(shared);
        drop(spawned);
        let timers = mem::take(&mut self.lock().timers);
        drop(timers);
    }

    // ---- for timers -----------------------------------------------------------------------------

    /// Arms a timer, or moves the one that is armed.
    pub(super) fn arm(&self, armed: &mut Option<(Time, u64)>, at: Time, waker: &Waker) {
        let mut shared = self.lock();
        if let Some(key) = *armed
            && key.0 == at
            && let Some(known) = shared.timers.get_mut(&key)
        {
            let old = (!known.will_wake(waker)).then(|| mem::replace(known, waker.clone()));
            drop(shared);
            return drop(old);
        }
        let old = armed.take().and_then(|key| shared.timers.remove(&key));
        let key = (at, shared.timer_keys);
        shared.timer_keys += 1;
        shared.timers.insert(key, waker.clone());
        *armed = Some(key);
        drop(shared);
        drop(old);
    }

    pub(super) fn disarm(&self, armed: &mut Option<(Time, u64)>) {
        if let Some(key) = armed.take() {
            let waker = self.lock().timers.remove(&key);
            drop(waker);
        }
    }
}

impl Inner {
    pub(super) fn wake(&self, slot: usize, poll: u64) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.armed.get_mut(slot) {
            Some(armed) if *armed == Some(poll) => {
                *armed = None;
                shared.ready.push(slot);
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
