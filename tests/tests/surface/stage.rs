//! What every test starts from: a broker in this process, and a client.

use std::{future::Future, time::Duration};

use lavinmq_core::{Client, Confirm, Consumer, FireAndForget, Manual, Options, Producer};
use lavinmq_testing::Broker;

use crate::runtimes::{PATIENCE, Rt, eventually, soon, within};

/// Runs one test to its end, or fails it as a hang.
pub fn run<R: Rt, F: Future<Output = ()>>(test: F) {
    R::block_on(within::<R, _>(3 * PATIENCE, "the whole test", test));
}

/// A broker with a queue `orders`.
pub fn broker() -> Broker {
    let broker = Broker::start().unwrap();
    broker.declare_queue("orders");
    broker
}

/// Options with a backoff for tests: an outage is over as soon as it ends.
pub fn options(broker: &Broker) -> Options {
    options_for(&broker.url())
}

pub fn options_for(url: &str) -> Options {
    Options::new(url)
        .unwrap()
        .reconnect_initial_delay(Duration::from_millis(10))
        .reconnect_max_delay(Duration::from_millis(50))
}

pub async fn connect<R: Rt>(broker: &Broker) -> Client {
    R::connect(options(broker)).await.unwrap()
}

pub async fn confirming(client: &Client) -> Producer<Confirm> {
    client.producer("orders").confirm().open().await.unwrap()
}

pub async fn forgetting(client: &Client) -> Producer<FireAndForget> {
    client.producer("orders").open().await.unwrap()
}

pub async fn consumer(client: &Client) -> Consumer<Manual> {
    client.consumer("orders").open().await.unwrap()
}

/// Waits until the broker is in a state: the verdict of most tests.
pub fn until(
    broker: &Broker,
    what: &str,
    condition: impl FnMut(&lavinmq_testing::BrokerState) -> bool,
) {
    assert!(broker.wait_until(PATIENCE, condition), "{what}: not within {PATIENCE:?}");
}

/// Waits until so many messages are ready in `orders`.
pub fn until_depth(broker: &Broker, depth: usize) {
    until(broker, &format!("{depth} messages in the queue"), |state| {
        state.queue_depth("orders") == depth
    });
}

/// The bodies in a queue, as text.
pub fn bodies(broker: &Broker, queue: &str) -> Vec<String> {
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    broker.messages(queue).iter().map(|message| text(&message.body)).collect()
}

/// Puts numbered messages into `orders`.
pub fn put(broker: &Broker, messages: usize) {
    for number in 0..messages {
        assert!(broker.put("orders", format!("{number}")));
    }
}

/// Waits until a client's state is as wanted.
pub async fn until_state<R: Rt>(
    client: &Client,
    wanted: impl Fn(&lavinmq_core::event::State) -> bool,
) {
    let mut events = client.events();
    if wanted(&client.state()) {
        return;
    }
    let reached = async {
        while let Some(event) = events.next().await {
            if matches!(&event, lavinmq_core::event::Event::State(state) if wanted(state)) {
                return;
            }
        }
        panic!("the client closed");
    };
    soon::<R, _>("a change of state", reached).await;
}

/// Stops the broker, and waits until the client knows that both of its connections are lost. (As it
/// stops, the broker may accept one more connection, and then end that as well.)
pub async fn stop<R: Rt>(broker: &Broker, client: &Client) {
    broker.stop();
    eventually::<R>("the loss of both connections", || {
        let stats = client.stats();
        stats.losses == stats.reconnects + 2
    })
    .await;
}
