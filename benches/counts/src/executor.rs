//! One thread, first come, first served: the driver, the application's tasks and the peers.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures::future::LocalBoxFuture;

use crate::{
    apart::apart,
    network::{Network, Next, Work},
    transport::Counted,
};

/// The task that is the driver.
const DRIVER: u64 = 0;

/// Runs everything in turn.
#[derive(Debug)]
pub struct Executor {
    network: Network,
    driver: lavinmq_core::Driver<Counted>,
    driver_waker: (Arc<TaskWaker>, Waker),
    next_task: u64,
}

struct Task<'a> {
    future: LocalBoxFuture<'a, ()>,
    inner: Arc<TaskWaker>,
    waker: Waker,
}

impl Executor {
    /// With a driver that was not polled yet.
    #[must_use]
    pub fn new(network: Network, driver: lavinmq_core::Driver<Counted>) -> Self {
        let driver_waker = TaskWaker::new(&network, DRIVER);
        driver_waker.1.wake_by_ref();
        Self { network, driver, driver_waker, next_task: DRIVER + 1 }
    }

    /// Runs until these tasks of the application are done.
    ///
    /// # Panics
    ///
    /// If they never will be: nothing can run, and no timer is armed.
    pub fn run(&mut self, tasks: Vec<LocalBoxFuture<'_, ()>>) {
        let mut running = BTreeMap::new();
        for future in tasks {
            let (inner, waker) = TaskWaker::new(&self.network, self.next_task);
            waker.wake_by_ref();
            running.insert(self.next_task, Task { future, inner, waker });
            self.next_task += 1;
        }
        while !running.is_empty() {
            match apart(|| self.network.next()) {
                Next::Run(Work::Peer(index)) => self.peer_turn(index),
                Next::Wake(waker) => waker.wake(),
                Next::Run(Work::Task(DRIVER)) => {
                    apart(|| self.driver_waker.0.polled());
                    let mut cx = Context::from_waker(&self.driver_waker.1);
                    let done = Pin::new(&mut self.driver).poll(&mut cx).is_ready();
                    assert!(!done, "the client has closed");
                }
                Next::Run(Work::Task(task)) => {
                    // One that is done may be woken once more.
                    let Some(running_task) = apart(|| running.get_mut(&task)) else { continue };
                    apart(|| running_task.inner.polled());
                    let mut cx = Context::from_waker(&running_task.waker);
                    if running_task.future.as_mut().poll(&mut cx).is_ready() {
                        running.remove(&task);
                    }
                }
                Next::Nothing => panic!("everybody waits, and nothing will come"),
            }
        }
    }

    /// Lets the peers take what was written.
    pub fn settle(&self) {
        let connections = self.network.lock().connections.len();
        (0..connections).for_each(|index| self.peer_turn(index));
    }

    fn peer_turn(&self, index: usize) {
        let waiting = apart(|| self.network.peer_turn(index));
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Wakes a task, and counts that.
#[derive(Debug)]
struct TaskWaker {
    network: Network,
    task: u64,
    queued: AtomicBool,
}

impl TaskWaker {
    fn new(network: &Network, task: u64) -> (Arc<Self>, Waker) {
        let waker =
            Arc::new(Self { network: network.clone(), task, queued: AtomicBool::new(false) });
        (Arc::clone(&waker), waker.into())
    }

    /// The task is polled now.
    fn polled(&self) {
        self.queued.store(false, Ordering::Relaxed);
        let events = &mut self.network.lock().events;
        match self.task {
            DRIVER => events.driver_polls += 1,
            _ => events.application_polls += 1,
        }
    }

    fn note(&self) {
        let mut state = self.network.lock();
        match self.task {
            DRIVER => state.events.driver_wakes += 1,
            _ => state.events.application_wakes += 1,
        }
        if !self.queued.swap(true, Ordering::Relaxed) {
            state.enqueue(Work::Task(self.task));
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        apart(|| self.note());
    }

    fn wake_by_ref(self: &Arc<Self>) {
        apart(|| self.note());
    }
}
