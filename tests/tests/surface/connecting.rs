use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lavinmq_core::{
    Options,
    error::{ConnectError, DialError, Loss, OptionsError},
    event::State,
};
use lavinmq_testing::{Broker, Personality};

use crate::{
    runtimes::Rt,
    stage::{
        bodies, broker, confirming, connect, options, options_for, stop, until, until_depth,
        until_state,
    },
};

pub async fn connect_takes_whatever_makes_options<R: Rt>() {
    let broker = broker();
    let url = broker.url();
    let parsed: Options = url.parse().unwrap();
    for options in [
        Options::new(&url).unwrap(),
        Options::try_from(url.as_str()).unwrap(),
        Options::try_from(&url).unwrap(),
        Options::try_from(url.clone()).unwrap(),
        parsed,
    ] {
        let client = R::connect(options).await.unwrap();
        assert!(client.is_connected());
        assert!(client.close().await.is_clean());
    }
    // Two connections each, and none left.
    assert_eq!(broker.counters().connections, 10);
    until(&broker, "all closed", |state| state.connections().is_empty());
}

#[test]
fn outside_a_runtime_connect_is_an_error() {
    let connect = lavinmq_tokio::connect("amqp://127.0.0.1:1");
    let error = futures::executor::block_on(connect).unwrap_err();
    assert_eq!(error, ConnectError::NoRuntime);
    assert_eq!(
        lavinmq_tokio::connect_lazy("amqp://127.0.0.1:1").unwrap_err(),
        ConnectError::NoRuntime
    );
    // The argument is converted at the call, inside a runtime or not.
    let error = futures::executor::block_on(lavinmq_tokio::connect("http://x")).unwrap_err();
    assert!(matches!(error, ConnectError::Options(OptionsError::Scheme { .. })), "{error}");
    // smol brings its own everywhere.
    let broker = broker();
    let client = futures::executor::block_on(lavinmq_smol::connect(broker.url())).unwrap();
    assert!(client.is_connected());
}

pub async fn connect_lazy_publishes_into_the_buffer_meanwhile<R: Rt>() {
    let broker = broker();
    broker.stop();
    let client = R::connect_lazy(options(&broker)).unwrap();
    assert!(!client.is_connected());
    let orders = confirming(&client).await;
    let receipt = orders.publish("early").await.unwrap();
    assert!(!receipt.is_settled());
    broker.resume().unwrap();
    client.ready().await.unwrap();
    assert!(client.is_connected());
    receipt.await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["early"]);
}

pub async fn a_driver_can_be_placed_by_hand_and_dropping_it_is_a_close<R: Rt>() {
    let broker = broker();
    let (client, driver) = R::with_driver(options(&broker)).unwrap();
    let (stop, stopped) = futures::channel::oneshot::channel::<()>();
    let task = R::spawn(async move {
        futures::future::select(driver, stopped).await;
    });
    client.ready().await.unwrap();
    let orders = confirming(&client).await;
    orders.publish("driven").await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["driven"]);
    stop.send(()).unwrap();
    task.await;
    assert!(matches!(client.state(), State::Closed { .. }), "{:?}", client.state());
    assert!(orders.publish("too late").await.is_err());
    until(&broker, "all gone", |state| state.connections().is_empty());
}

pub async fn options_reach_the_broker<R: Rt>() {
    let broker = Broker::builder().user("alice", "wonder").vhost("shop").start().unwrap();
    let options = Options::new(broker.url())
        .unwrap()
        .name("surface")
        .credentials("alice", "wonder")
        .vhost("shop")
        .heartbeat(Duration::from_secs(7))
        .connections(1)
        .frame_max(8192)
        .channel_max(10)
        .body_max(1000);
    let client = R::connect(options).await.unwrap();
    let connections = broker.connections();
    assert_eq!(connections.len(), 1);
    let connection = &connections[0];
    assert_eq!(connection.name.as_deref(), Some("surface"));
    assert_eq!((&*connection.user, &*connection.vhost), ("alice", "shop"));
    assert_eq!((connection.heartbeat, connection.frame_max), (7, 8192));
    let producer = client.producer("anything").open().await.unwrap();
    assert!(producer.publish(vec![0; 1001]).await.is_err());
}

pub async fn url_parameters_are_the_setters<R: Rt>() {
    let broker = broker();
    let url = format!(
        "{}?buffer_size=3&buffer_policy=error&heartbeat=9&reconnect_initial_delay=0.01\
         &reconnect_max_delay=0.05&reconnect_multiplier=1.5",
        broker.url()
    );
    let client = R::connect(Options::new(url).unwrap()).await.unwrap();
    assert_eq!(broker.connections()[0].heartbeat, 9);
    let orders = confirming(&client).await;
    assert_eq!(orders.buffer_capacity(), 3);
    stop::<R>(&broker, &client).await;
    for _ in 0..3 {
        orders.publish("kept").await.unwrap().detach();
    }
    assert!(orders.publish("refused").await.is_err());
    broker.resume().unwrap();
    orders.flush().await;
    assert_eq!(broker.depth("orders"), 3);
}

pub async fn a_value_out_of_range_is_an_error_at_connect<R: Rt>() {
    let plain = || Options::new("amqp://127.0.0.1:1").unwrap();
    let wrong: [(Options, &str); 6] = [
        (plain().connections(3), "connections"),
        (plain().buffer_size(0), "buffer_size"),
        (plain().frame_max(100), "frame_max"),
        (plain().channel_max(0), "channel_max"),
        (plain().reconnect_multiplier(0.5), "reconnect_multiplier"),
        (plain().reconnect_attempts(0), "reconnect_attempts"),
    ];
    for (options, name) in wrong {
        match R::connect(options).await.unwrap_err() {
            ConnectError::Options(OptionsError::Value { key, .. }) => assert_eq!(key, name),
            other => panic!("{name}: {other}"),
        }
    }
}

pub async fn a_connector_brings_its_own_transport<R: Rt>() {
    let broker = broker();
    let (address, dials) = (broker.addr(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&dials);
    // The target of the URL is never dialled: the connector decides.
    let options = Options::new("amqp://guest:guest@nowhere.invalid:1")
        .unwrap()
        .reconnect_initial_delay(Duration::from_millis(10))
        .connector(move |target| {
            assert_eq!(&*target.host, "nowhere.invalid");
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let stream = smol::net::TcpStream::connect(address).await?;
                Ok::<_, DialError>(stream)
            }
        });
    let client = R::connect(options).await.unwrap();
    assert_eq!(dials.load(Ordering::Relaxed), 2);
    let orders = confirming(&client).await;
    orders.publish("one").await.unwrap().await.unwrap();
    broker.cut();
    orders.publish("two").await.unwrap().await.unwrap();
    assert_eq!(bodies(&broker, "orders"), ["one", "two"]);
    assert!(dials.load(Ordering::Relaxed) >= 3);
}

pub async fn f04_dns_fails_then_recovers_and_is_asked_again_at_each_attempt<R: Rt>() {
    let (first, second) = (broker(), broker());
    // What the broker's name means at the moment: nothing at first.
    let zone = Arc::new(Mutex::new(None::<SocketAddr>));
    let resolver = Arc::clone(&zone);
    let options = options_for("amqp://guest:guest@broker.example").connector(move |target| {
        assert_eq!(&*target.host, "broker.example");
        let found = *resolver.lock().unwrap();
        async move {
            let message = "no such name".into();
            let unknown = DialError::Resolve { host: target.host.clone(), message };
            let stream = smol::net::TcpStream::connect(found.ok_or(unknown)?).await?;
            Ok::<_, DialError>(stream)
        }
    });
    let client = R::connect_lazy(options).unwrap();
    let orders = confirming(&client).await;
    let receipt = orders.publish("early").await.unwrap();
    // It fails again and again, and the state says why.
    until_state::<R>(&client, |state| {
        let State::Reconnecting { loss: Loss::Dial { error, .. }, attempt } = state else {
            return false;
        };
        *attempt >= 3 && matches!(error, DialError::Resolve { .. })
    })
    .await;
    *zone.lock().unwrap() = Some(first.addr());
    receipt.await.unwrap();
    assert_eq!(bodies(&first, "orders"), ["early"]);
    client.ready().await.unwrap();
    // The name moves on while nobody answers at the old address.
    *zone.lock().unwrap() = None;
    stop::<R>(&first, &client).await;
    let receipt = orders.publish("late").await.unwrap();
    *zone.lock().unwrap() = Some(second.addr());
    receipt.await.unwrap();
    assert_eq!(bodies(&second, "orders"), ["late"]);
}

pub async fn s3_errors_name_the_problem_and_never_the_password<R: Rt>() {
    const CANARY: &str = "canary-5d21";
    let broker = Broker::builder().user("alice", "wonder").start().unwrap();
    let address = broker.addr();
    let told = |error: &ConnectError| {
        let words = format!("{error} {error:?}");
        assert!(!words.contains(CANARY), "{words}");
    };

    let url = format!("amqp://alice:{CANARY}@{address}");
    let error = R::connect(Options::new(&url).unwrap()).await.unwrap_err();
    told(&error);
    assert!(
        matches!(&error, ConnectError::Failed(Loss::AccessRefused { user, .. }) if &**user == "alice"),
        "{error}"
    );

    let url = format!("amqp://alice:wonder@{address}/missing");
    let error = R::connect(Options::new(&url).unwrap()).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Failed(Loss::VhostRefused { vhost, .. }) if &**vhost == "missing"),
        "{error}"
    );

    drop(broker);
    let url = format!("amqp://alice:{CANARY}@{address}");
    let error = R::connect(Options::new(&url).unwrap()).await.unwrap_err();
    told(&error);
    assert!(
        matches!(&error, ConnectError::Failed(Loss::Dial { target, .. }) if **target == *address.to_string()),
        "{error}"
    );

    for (url, problem) in [
        (format!("amqp://alice:{CANARY}@host:port"), "not an AMQP URL"),
        (format!("amqpx://alice:{CANARY}@host"), "unknown scheme"),
        (format!("amqp://alice:{CANARY}@host?hartbeat=1"), "did you mean"),
        (format!("amqp://alice:{CANARY}%00@host"), "password"),
    ] {
        let error = Options::new(&url).unwrap_err();
        let words = format!("{error} {error:?}");
        assert!(words.contains(problem) && !words.contains(CANARY), "{words}");
    }
}

pub async fn the_client_says_how_it_is<R: Rt>() {
    // LavinMQ never says that it blocks.
    let broker = Broker::builder().personality(Personality::RabbitMq).start().unwrap();
    broker.declare_queue("orders");
    let client = connect::<R>(&broker).await;
    assert!(client.health().is_healthy());
    assert_eq!(client.state(), State::Connected);

    let orders = confirming(&client).await;
    broker.block("low on memory");
    for _ in 0..5 {
        orders.publish("held back").await.unwrap().detach();
    }
    until_state::<R>(&client, |state| matches!(state, State::Blocked { .. })).await;
    assert!(client.is_connected() && !client.health().is_healthy());
    assert!(client.explain().contains("low on memory"), "{}", client.explain());
    broker.unblock();
    until_state::<R>(&client, |state| *state == State::Connected).await;
    orders.flush().await;
    until_depth(&broker, 5);

    stop::<R>(&broker, &client).await;
    assert!(!client.is_connected());
    orders.publish("buffered").await.unwrap().detach();
    assert_eq!(orders.buffer_size(), 1);
    assert!(client.explain().contains("orders"), "{}", client.explain());
    broker.resume().unwrap();
    orders.flush().await;
    assert!(client.stats().losses >= 1 && client.stats().reconnects >= 1);
    let report = client.close().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(client.state(), State::Closed { loss: None });
}
