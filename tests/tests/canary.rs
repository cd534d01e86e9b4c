//! The password of a client appears nowhere: not in a log at TRACE level, an error, an event, a
//! `Debug`, an explanation or a panic, whatever happens to the client.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests: a panic is a failure")]

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use lavinmq_core::{BufferPolicy, Options, event::State};
use lavinmq_testing::{Broker, Personality};
use lavinmq_tests::runtimes::{Rt, Smol, Tokio, eventually, soon};
use tracing_subscriber::{fmt::MakeWriter, util::SubscriberInitExt as _};

/// Letters only, so that encodings (percent, base64 aside) leave it as it is.
const CANARY: &str = "canarypasswordcanary";

/// Everything that was said, by whomever.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn say(&self, what: &impl Debug) {
        use io::Write as _;
        writeln!(self.0.lock().unwrap(), "{what:?} {what:#?}").unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Said {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The life of one client, with all that can be said about it said.
async fn life<R: Rt>(said: &Said) {
    let builder = Broker::builder().personality(Personality::RabbitMq);
    let broker = builder.user("alice", CANARY).start().unwrap();
    broker.declare_queue("orders");
    let url = format!("amqp://alice:{CANARY}@{}", broker.addr());
    let told = said.clone();
    let options = Options::new(&url)
        .unwrap()
        .reconnect_initial_delay(Duration::from_millis(10))
        .reconnect_max_delay(Duration::from_millis(50))
        .on_state_change(move |state| told.say(&state))
        .on_confirm(|_| panic!("a hook of the application"));
    said.say(&options);
    let client = R::connect(options).await.unwrap();
    let mut events = client.events();
    let few = client.producer("orders").confirm().buffer_policy(BufferPolicy::DropOldest);
    let orders = few.buffer_size(2).open().await.unwrap();
    orders.publish("one").await.unwrap().await.unwrap();
    let mut consumer = client.consumer("orders").open().await.unwrap();
    let delivery = consumer.next().await.unwrap();
    said.say(&(&client, &orders, &consumer, &delivery));
    said.say(&client.consumer("missing").open().await.unwrap_err());
    delivery.ack();

    // Refused, cut, blocked, closed, restarted, away.
    broker.nack_next(1);
    said.say(&orders.publish("nacked").await.unwrap().await.unwrap_err());
    broker.block("low on memory");
    orders.publish("blocked").await.unwrap().detach();
    said.say(&client.explain());
    broker.unblock();
    broker.close_connections(320, "CONNECTION_FORCED");
    eventually::<R>("the loss", || client.stats().losses > 0).await;
    broker.cut();
    broker.restart();
    broker.stop();
    eventually::<R>("the loss", || !client.is_connected()).await;
    for n in 0..5 {
        orders.publish(format!("{n}")).await.unwrap().detach();
    }
    said.say(&(client.stats(), client.health(), client.state(), orders.stats()));
    said.say(&client.explain());
    broker.resume().unwrap();
    eventually::<R>("the return", || client.state() == State::Connected).await;
    said.say(&client.shutdown(Duration::from_secs(1)).await);
    while let Some(event) = events.next().await {
        said.say(&event);
    }
    said.say(&orders.publish("late").await.unwrap_err());
}

/// Clients that never stand: a wrong password, a vhost that is missing, nobody there, a URL with a
/// mistake in it.
async fn failures<R: Rt>(said: &Said) {
    let broker = Broker::builder().user("alice", "wonder").start().unwrap();
    let address = broker.addr();
    for url in [
        format!("amqp://alice:{CANARY}@{address}"),
        format!("amqp://bob:{CANARY}@{address}"),
        format!("amqp://alice:{CANARY}@{address}/missing"),
    ] {
        let error = R::connect(Options::new(&url).unwrap()).await.unwrap_err();
        said.say(&error);
        said.say(&error.to_string());
    }
    drop(broker);
    let url = format!("amqp://alice:{CANARY}@{address}");
    let error = R::connect(Options::new(&url).unwrap()).await.unwrap_err();
    said.say(&(error.to_string(), error));
    for url in [
        format!("amqp://alice:{CANARY}@{address}:port"),
        format!("amqpx://alice:{CANARY}@{address}"),
        format!("amqp://alice:{CANARY}%00@{address}"),
        format!("amqp://alice:{CANARY}%zz@{address}"),
        format!("amqp://alice:{CANARY}@{address}?hartbeat=1"),
        format!("amqp://alice:{CANARY}@{address}?heartbeat=x"),
        format!("alice:{CANARY}@{address}"),
        format!("amqp//alice:{CANARY}@{address}"),
        format!("amqp://alice:{CANARY}@"),
        format!("amqp://alice:{CANARY}@a b"),
        format!("amqp://alice:{CANARY}/@{address}"),
        format!("amqp://alice:#{CANARY}@{address}"),
        format!("amqp://alice:?{CANARY}@{address}"),
    ] {
        match Options::new(&url) {
            Err(error) => said.say(&(error.to_string(), error)),
            Ok(options) => said.say(&options),
        }
    }
}

#[test]
fn s3_the_password_is_in_no_log_error_event_debug_or_panic() {
    let said = Said::default();
    let panics = said.clone();
    std::panic::set_hook(Box::new(move |info| panics.say(&info.to_string())));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(said.clone())
        .finish();
    subscriber.try_init().unwrap();
    Tokio::block_on(soon::<Tokio, _>("a life on tokio", life::<Tokio>(&said)));
    Smol::block_on(soon::<Smol, _>("a life on smol", life::<Smol>(&said)));
    Tokio::block_on(soon::<Tokio, _>("failures on tokio", failures::<Tokio>(&said)));
    Smol::block_on(soon::<Smol, _>("failures on smol", failures::<Smol>(&said)));
    drop(std::panic::take_hook());

    let text = said.text();
    // It was listened to: the log at its lowest level, the user's name, the hook's panic.
    for expected in
        ["DEBUG", "alice", "a hook of the application", "reconnecting", "CONNECTION_FORCED"]
    {
        assert!(text.contains(expected), "{expected} was not said: {text}");
    }
    for line in text.lines() {
        assert!(!line.to_lowercase().contains(CANARY), "{line}");
    }
}
