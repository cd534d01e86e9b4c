//! Every name that an application sees, on both runtimes, against the in-process broker.
//!
//! | name | tests |
//! |---|---|
//! | `connect`, `TryInto<Options>` | `connecting::connect_takes_whatever_makes_options`, `connecting::outside_a_runtime_connect_is_an_error` |
//! | `connect_lazy`, `Client::ready` | `connecting::connect_lazy_publishes_into_the_buffer_meanwhile` |
//! | `with_driver`, `Driver` | `connecting::a_driver_can_be_placed_by_hand_and_dropping_it_is_a_close` |
//! | `Options` and its setters | `connecting::options_reach_the_broker`, `connecting::url_parameters_are_the_setters`, `connecting::a_value_out_of_range_is_an_error_at_connect` |
//! | `Options::connector` | `connecting::a_connector_brings_its_own_transport`, `connecting::f04_*` |
//! | `OptionsError`, `ConnectError` | `connecting::s3_errors_name_the_problem_and_never_the_password` |
//! | `Client::{is_connected, state, health, events, explain}` | `connecting::the_client_says_how_it_is`, `hooks::events_say_how_many_they_skipped` |
//! | `Client::{stats, shutdown, close}`, `Report`, `Clone` | `lifetime::*` |
//! | `Client::queue`, `QueueBuilder`, `Queue`, `DeclareError` | `queues::*` |
//! | `Client::{producer, producer_on}`, `ProducerBuilder` | `publishing::*` |
//! | `Producer::{publish, publish_to, try_publish, flush}` | `publishing::*` |
//! | `Producer::{buffer_size, buffer_capacity, in_flight, stats}` | `publishing::the_producer_says_what_it_holds` |
//! | `Producer::{shutdown, close}` | `lifetime::s14_a_closed_producer_gives_messages_back` |
//! | `Publish::into_message` | `publishing::f23_a_publish_dropped_before_it_is_accepted_publishes_nothing` |
//! | `BufferPolicy`, `when_offline`, `publish_timeout`, `ttl`, `max_in_flight` | `admission::*` |
//! | `PublishError` and its methods | `admission::*`, `lifetime::s14_a_closed_producer_gives_messages_back` |
//! | `Receipt::{sequence, is_settled, detach}`, `FusedFuture` | `publishing::a_receipt_says_what_became_of_its_own_message` |
//! | `NotConfirmed`, `Verdict` | `publishing::s20_*`, `publishing::s23_*`, `publishing::s25_*`, `admission::*`, `lifetime::*` |
//! | `Message` | `publishing::every_kind_of_body_is_a_message`, `publishing::properties_arrive_as_they_were_set` |
//! | hooks | `hooks::*` |
//! | `Client::consumer`, `ConsumerBuilder`, `ConsumeError` | `consuming::*` |
//! | `Consumer::{next, next_batch, run, handle, end_reason, close, settled}`, `Stream` | `consuming::*` |
//! | `ConsumerHandle` | `consuming::a_handle_stops_and_closes_a_consumer_from_elsewhere` |
//! | `Delivery`, `Acker`, `Settle` | `settling::*` |
//! | `Received` | `consuming::a_delivery_shows_the_message_as_it_was_published` |
//! | `Delivery::for_test` | in core, with the feature `test-util` |
//!
//! Where the broker can be asked, it gives the verdict: `broker.messages("orders")` and the like.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use lavinmq_tests::runtimes;

mod admission;
mod connecting;
mod consuming;
mod hooks;
mod lifetime;
mod publishing;
mod queues;
mod settling;
mod stage;

macro_rules! on_both_runtimes {
    ($($module:ident { $($name:ident)* })*) => {
        on_both_runtimes! { @ tokio Tokio $($module { $($name)* })* }
        on_both_runtimes! { @ smol Smol $($module { $($name)* })* }
    };
    (@ $runtime:ident $rt:ident $($module:ident { $($name:ident)* })*) => {
        mod $runtime {
            $(mod $module {
                use crate::{$module as tests, runtimes::$rt, stage::run};
                $(#[test] fn $name() { run::<$rt, _>(tests::$name::<$rt>()) })*
            })*
        }
    };
}

on_both_runtimes! {
    connecting {
        connect_takes_whatever_makes_options
        connect_lazy_publishes_into_the_buffer_meanwhile
        a_driver_can_be_placed_by_hand_and_dropping_it_is_a_close
        options_reach_the_broker
        url_parameters_are_the_setters
        a_value_out_of_range_is_an_error_at_connect
        a_connector_brings_its_own_transport
        f04_dns_fails_then_recovers_and_is_asked_again_at_each_attempt
        s3_errors_name_the_problem_and_never_the_password
        the_client_says_how_it_is
    }
    queues {
        a_queue_is_declared_as_it_was_built
        s37_queues_are_declared_again_after_an_outage
        a_server_names_a_queue_without_a_name
        errors_of_declare_say_what_is_wrong
    }
    publishing {
        every_kind_of_body_is_a_message
        properties_arrive_as_they_were_set
        a_producer_on_an_exchange_publishes_by_routing_key
        try_publish_takes_a_message_without_waiting
        flush_waits_for_everything_accepted
        a_receipt_says_what_became_of_its_own_message
        the_producer_says_what_it_holds
        f23_a_publish_dropped_before_it_is_accepted_publishes_nothing
        s20_a_message_that_no_queue_wants_is_returned
        s20_without_mandatory_the_broker_confirms_it
        s23_a_nack_is_a_verdict
        s25_a_missing_exchange_is_the_fault_of_its_own_message
        s12_what_amqp_cannot_carry_is_refused
        clones_share_one_buffer_and_one_order
    }
    admission {
        block_waits_for_room
        error_gives_the_message_back
        drop_oldest_evicts_while_the_broker_is_away
        when_offline_fail_refuses_and_says_the_state
        a_publish_timeout_gives_the_message_back
        a_ttl_drops_what_waited_too_long
        max_in_flight_bounds_what_is_sent
    }
    hooks {
        each_outcome_reaches_its_hook
        f25_a_hook_that_panics_is_counted_and_the_client_lives
        events_say_how_many_they_skipped
    }
    consuming {
        a_consumer_is_a_stream
        a_delivery_shows_the_message_as_it_was_published
        next_batch_is_never_empty_and_ends_with_the_stream
        run_acks_what_went_well_and_rejects_what_did_not
        run_requeues_a_failure_later
        a_handle_stops_and_closes_a_consumer_from_elsewhere
        s30_prefetch_bounds_what_is_outstanding
        s31_a_cancelled_consumer_can_end_instead
        s32_a_missing_queue_is_shown_at_once
        s33_tags_are_unique_unless_they_are_named
        exclusive_keeps_others_away
        no_ack_has_nothing_to_settle
    }
    settling {
        ack_requeue_and_reject_do_what_they_say
        through_settles_everything_before
        into_parts_separates_content_and_settlement
        s34_a_forgotten_delivery_is_requeued
        s34_hold_on_drop_keeps_it
        f28_a_settle_after_a_reconnect_is_stale
        settled_waits_until_everything_is_written
    }
    lifetime {
        shutdown_says_what_it_left_behind
        close_sends_what_is_queued
        s14_a_closed_producer_gives_messages_back
        a_closed_client_opens_nothing
        f24_a_client_dropped_without_close_sends_what_is_queued
        a_client_lives_as_long_as_its_producers_and_consumers
        stats_add_up_with_closed_producers
    }
}
