#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{future::poll_fn, sync::Mutex, task::Poll};

use lavinmq_core::{runtime::Timer as _, time::Time};

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

/// The slot of a task that is done is used again, by one that its wakers must not wake.
#[test]
fn a_waker_of_a_task_that_is_done_wakes_nobody() {
    for fresh in [false, true] {
        let mut executor = executor(1);
        executor.fresh_wakers = fresh;
        let handle = executor.handle().clone();
        let kept: Arc<Mutex<Option<Waker>>> = Arc::default();
        let keep = kept.clone();
        handle.spawn(
            "done",
            poll_fn(move |cx| {
                *keep.lock().unwrap() = Some(cx.waker().clone());
                Poll::Ready(())
            }),
        );
        run(&mut executor);
        handle.spawn("next", poll_fn(|_| Poll::Pending));
        run(&mut executor);
        assert_eq!(handle.live_wakers(), if fresh { 1 } else { 2 });
        kept.lock().unwrap().take().unwrap().wake();
        assert_eq!(executor.step(), Step::Quiet);
        assert_eq!(executor.waiting(), [("next".into(), 1)]);
    }
}

#[test]
fn a_waker_that_is_kept_counts_as_live_and_nothing_else_does() {
    let mut executor = executor(1);
    let handle = executor.handle().clone();
    let kept: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (keep, sleeps) = (kept.clone(), handle.clone());
    handle.spawn(
        "keeps",
        poll_fn(move |cx| {
            *keep.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        }),
    );
    handle.spawn("sleeps", async move { sleeps.sleep(Duration::from_secs(1)).await });
    for _ in 0..2 {
        executor.step();
    }
    drop(executor);
    assert_eq!((handle.live_wakers(), handle.armed_timers()), (1, 0));
    kept.lock().unwrap().take();
    assert_eq!(handle.live_wakers(), 0);
}
