//! Both quickstarts on the broker that they bring along. Against RabbitMQ: see `live`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "each suite uses its part")]
#[path = "common/quickstart.rs"]
mod quickstart;

use quickstart::Quickstart;

fn loses_nothing(runtime: &str) {
    let ended = Quickstart::start(runtime, None, &[]).end();
    let accounts = ended.accounts();
    for full in ["accepted", "confirmed", "received_unique"] {
        assert_eq!(accounts[full], 100_000, "{full}: {}", ended.last_line);
    }
    assert_eq!(accounts["lost"], 0, "{}", ended.last_line);
    assert!(accounts["resent"] > 0, "{}", ended.last_line);
    assert!(accounts["cuts"] >= 5, "{}", ended.last_line);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.said);
}

fn notices_a_message_thrown_away(runtime: &str) {
    let arguments = ["--messages", "20000", "--sabotage", "skip-one"];
    let ended = Quickstart::start(runtime, None, &arguments).end();
    let accounts = ended.accounts();
    assert_eq!((accounts["confirmed"], accounts["lost"]), (20_000, 1), "{}", ended.last_line);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.said);
}

#[test]
fn f9_loses_nothing_through_a_bad_network_on_tokio() {
    loses_nothing("tokio");
}

#[test]
fn f9_loses_nothing_through_a_bad_network_on_smol() {
    loses_nothing("smol");
}

#[test]
fn notices_a_message_thrown_away_on_tokio() {
    notices_a_message_thrown_away("tokio");
}

#[test]
fn notices_a_message_thrown_away_on_smol() {
    notices_a_message_thrown_away("smol");
}
