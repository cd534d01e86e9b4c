//! What every scenario starts from.

use std::time::Duration;

use lavinmq_core::{Client, Options};

use crate::{
    broker::Broker,
    runtimes::{Rt, soon},
    witness::{Copy, Witness},
};

/// A queue of one test, on one runtime, in one run. Deleted when the test is over, failed or not.
pub struct Queue<'a> {
    pub name: String,
    witness: Witness<'a>,
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        // After a failed test the broker may be stopped; it is not used again then.
        if !std::thread::panicking() {
            self.witness.delete(&self.name);
        }
    }
}

/// A durable queue, new and empty.
pub fn queue<'a, R: Rt>(broker: &'a Broker, purpose: &str) -> Queue<'a> {
    let name = format!("live-{}-{purpose}-{}", R::NAME, std::process::id());
    let witness = Witness::new(&broker.url);
    witness.declare(&name);
    Queue { name, witness }
}

/// Options for this broker, with a backoff for tests: an outage is to be over soon after it ends.
pub fn options(url: &str) -> Options {
    Options::new(url)
        .unwrap()
        .name("live suite")
        .reconnect_initial_delay(Duration::from_millis(50))
        .reconnect_max_delay(Duration::from_millis(500))
}

pub async fn connect<R: Rt>(broker: &Broker) -> Client {
    soon::<R, _>("connect", R::connect(options(&broker.url))).await.unwrap()
}

/// Closes a client, which must leave nothing behind.
pub async fn close<R: Rt>(client: Client) {
    let report = soon::<R, _>("close", client.close()).await;
    assert!(report.is_clean(), "{report:?}");
    let stats = client.stats();
    assert!(stats.is_conserved(), "{stats:?}");
}

/// The numbered body that most tests send: unlike all others, and a little long.
pub fn body(number: usize) -> Vec<u8> {
    format!("message {number:06} of the live suite, with a body that does not fit into 64 bytes of a message")
        .into_bytes()
}

pub fn number(body: &[u8]) -> usize {
    let digits = body.get(8..14).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("not ours: {body:?}"))
}

/// How often each of so many numbers occurs in what was read.
pub fn tally(copies: &[Copy], messages: usize) -> Vec<usize> {
    let mut tally = vec![0; messages];
    for copy in copies {
        tally[number(&copy.body)] += 1;
        assert_eq!(copy.body, body(number(&copy.body)), "a body was damaged");
    }
    tally
}

/// Every message is there at least once; and once more at most for every copy that says of itself
/// that it was sent again.
pub fn assert_none_lost(copies: &[Copy], messages: usize) {
    let tally = tally(copies, messages);
    let lost: Vec<_> = (0..messages).filter(|&number| tally[number] == 0).collect();
    assert!(lost.is_empty(), "{} messages lost: {:?}", lost.len(), &lost[..lost.len().min(20)]);
    let mut resent = vec![0; messages];
    for copy in copies.iter().filter(|copy| copy.attempt.is_some()) {
        resent[number(&copy.body)] += 1;
        assert!(copy.attempt >= Some(2), "{copy:?}");
    }
    for number in 0..messages {
        assert!(
            tally[number] <= resent[number] + 1,
            "message {number}: {} copies, of which {} say that they were sent again",
            tally[number],
            resent[number]
        );
    }
}
