//! The live suite: the library on both runtimes against a real broker.
//!
//! It starts its own private RabbitMQ brokers (Debian's `rabbitmq-server`), or goes to one that is
//! running: `AMQP_TEST_URL`, and for the tests that stop, block or question the broker
//! `AMQP_TEST_CTL`, a command that takes the verbs of `tests/broker-control/control.sh`.
//!
//! Verdicts come from the broker (`rabbitmqctl list_queues`) and from the bodies that lapin reads
//! out of the queues, never from the library's own counters alone.

// A test that cannot go on fails: that is what these are for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::{process::ExitCode, sync::Arc};

use lavinmq_tests::{
    live::{broker, witness},
    runtimes,
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{
    broker::{Broker, Pool, Product},
    runtimes::{Rt, Smol, Tokio},
};

mod consuming;
mod errors;
mod outages;
#[path = "../common/quickstart.rs"]
mod programs;
mod publishing;
mod quickstart;
mod scene;

/// What a test needs of its broker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// To be there.
    Nothing,
    /// To be stopped, started, or asked (`AMQP_TEST_CTL`).
    Control,
    /// To block publishers, and say so.
    Blocking,
}

impl Needs {
    /// Why a test with this need cannot run here.
    fn lacks(self, product: Product, control: bool) -> Option<&'static str> {
        match self {
            Self::Control | Self::Blocking if !control => Some("it needs AMQP_TEST_CTL"),
            Self::Blocking if !product.sends_blocked() => {
                Some("this broker never sends connection.blocked (semantics.md, s22)")
            }
            _ => None,
        }
    }
}

type Test = Box<dyn FnOnce(&Broker) + Send>;

/// A test's name and need, and its body on both runtimes.
type Case = (&'static str, Needs, [(&'static str, Test); 2]);

fn body<R: Rt, F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    R::block_on(test());
}

macro_rules! cases {
    ($($needs:ident $module:ident::$name:ident)*) => {
        vec![$((
            stringify!($name),
            Needs::$needs,
            [
                (Tokio::NAME, Box::new(|broker: &Broker| body::<Tokio, _>(|| $module::$name::<Tokio>(broker))) as Test),
                (Smol::NAME, Box::new(|broker: &Broker| body::<Smol, _>(|| $module::$name::<Smol>(broker))) as Test),
            ],
        )),*]
    };
}

fn cases() -> Vec<Case> {
    // The long ones first: two run side by side.
    cases! {
        Control quickstart::f19_quickstart_loses_nothing_when_the_broker_is_killed_twice
        Nothing quickstart::quickstart_notices_a_message_thrown_away
        Control outages::f19_confirm_mode_loses_nothing_in_a_clean_restart
        Control outages::f19_confirm_mode_loses_nothing_when_the_broker_is_killed
        Control outages::f15_nothing_is_lost_when_the_broker_closes_all_connections
        Control outages::f10_fire_and_forget_never_duplicates
        Blocking outages::s21_a_blocked_producer_waits_while_consuming_goes_on
        Control consuming::s30_prefetch_is_in_force_after_a_reconnect
        Nothing consuming::s31_a_consumer_survives_the_deletion_of_its_queue
        Control consuming::s17_settled_deliveries_are_gone_and_the_others_come_back
        Nothing consuming::s35_a_no_ack_consumer_receives_everything
        Nothing publishing::s18_confirmed_messages_are_in_the_queue
        Nothing publishing::s11_fire_and_forget_messages_arrive_once_and_in_order
        Nothing publishing::s10_bodies_of_every_size_arrive_whole
        Nothing publishing::s20_a_message_to_a_missing_queue_is_returned
        Nothing publishing::s25_only_the_message_to_a_missing_exchange_fails
        Nothing errors::s3_a_wrong_password_is_refused_and_never_shown
        Nothing errors::f8_a_missing_vhost_is_refused
        Nothing errors::f5_nobody_listening_is_an_error_that_says_where
        Nothing errors::s32_consuming_a_missing_queue_is_refused
        Nothing errors::s12_a_message_over_a_limit_comes_back
        Nothing errors::s14_a_publish_after_close_comes_back
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let pool = Arc::new(Pool::from_env());
    arguments.test_threads = Some(pool.size());
    let product = match pool.product() {
        Ok(product) => product,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut not_run = Vec::new();
    let mut trials = Vec::new();
    for (name, needs, bodies) in cases() {
        let lacks = needs.lacks(product, pool.has_control());
        for (runtime, test) in bodies {
            let name = format!("{runtime}::{name}");
            let (pool, title) = (Arc::clone(&pool), name.clone());
            let trial = Trial::ignorable_test(name, move || match lacks {
                Some(why) => Ok(Completion::ignored_with(why)),
                None => {
                    pool.with(&title, test).map(|()| Completion::Completed).map_err(Failed::from)
                }
            });
            if let Some(why) = lacks.filter(|_| !arguments.is_filtered_out(&trial)) {
                not_run.push(format!("NOT RUN: {}: {why}", trial.name()));
            }
            trials.push(trial);
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Ends the brokers that this run started.
    drop(pool);
    if !arguments.list {
        for line in not_run {
            eprintln!("{line}");
        }
    }
    conclusion.exit_code()
}
