//! Models of what threads hand over to each other, explored by loom: the code is the real one, on
//! loom's atomics and locks (see `client::sync`, which says what loom cannot see, and how to run this).
//!
//! Each model runs a few calls on two or three threads in every order, up to as many preemptions as
//! it says beyond those that waiting makes (`LOOM_MAX_PREEMPTIONS` for more). It says how many orders that were.
//!
//! The driver's side is played by the test's own thread. It does not wait for wake-ups there: after
//! one poll that ended as `Pending` the model looks whether its waker fired, and if not, nothing may be
//! left for it. So a lost wake-up is an assertion that fails, in the very order that loses it.

mod admission;
mod driver;
mod outcomes;
mod settling;
mod wake_up;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Bell, Fake, config, poll_once};

/// Explores `body`, with up to so many preemptions.
fn model(name: &str, preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    builder.check({
        let orders = Arc::clone(&orders);
        move || {
            orders.fetch_add(1, Ordering::Relaxed);
            body();
        }
    });
    eprintln!("{name}: {} orders", orders.load(Ordering::Relaxed));
}

macro_rules! models {
    ($($(#[$attribute:meta])* fn $name:ident($preemptions:literal) $body:block)*) => {
        $($(#[$attribute])*
        fn $name() {
            super::model(stringify!($name), $preemptions, || $body);
        })*
    };
}

use models;
