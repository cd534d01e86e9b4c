use std::sync::{Arc, Mutex};

use lavinmq_core::{
    BufferPolicy, Verdict,
    event::{DropReason, Event, Settled, State},
};

use crate::{
    runtimes::{Rt, eventually, soon},
    stage::{broker, connect, options, stop},
};

type Log = Arc<Mutex<Vec<(&'static str, u64, String)>>>;

fn into(log: &Log, hook: &'static str) -> impl Fn(&Settled) + Send + Sync + 'static {
    let log = Arc::clone(log);
    move |settled| {
        let body = String::from_utf8(settled.message.body().to_vec()).unwrap();
        log.lock().unwrap().push((
            hook,
            settled.sequence,
            format!("{} {body}", settled.routing_key),
        ));
    }
}

fn heard(log: &Log) -> Vec<(&'static str, u64, String)> {
    std::mem::take(&mut *log.lock().unwrap())
}

pub async fn each_outcome_reaches_its_hook<R: Rt>() {
    let broker = broker();
    let (of_client, of_producer, states) =
        (Log::default(), Log::default(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&states);
    let options = options(&broker)
        .on_confirm(into(&of_client, "confirm"))
        .on_nack(into(&of_client, "nack"))
        .on_return(into(&of_client, "return"))
        .on_error(into(&of_client, "error"))
        .on_drop(into(&of_client, "drop"))
        .on_state_change(move |state: State| seen.lock().unwrap().push(state));
    let client = R::connect(options).await.unwrap();
    let orders = client
        .producer("orders")
        .confirm()
        .buffer_size(1)
        .buffer_policy(BufferPolicy::DropOldest)
        .on_confirm(into(&of_producer, "confirm"))
        .on_nack(into(&of_producer, "nack"))
        .on_return(into(&of_producer, "return"))
        .on_error(into(&of_producer, "error"))
        .on_drop(into(&of_producer, "drop"))
        .open()
        .await
        .unwrap();

    orders.publish("fine").await.unwrap().detach();
    orders.flush().await;
    broker.nack_next(1);
    orders.publish("refused").await.unwrap().detach();
    orders.flush().await;
    orders.publish_to("missing", "unwanted").await.unwrap().detach();
    orders.flush().await;
    stop::<R>(&broker, &client).await;
    orders.publish("evicted").await.unwrap().detach();
    orders.publish("kept").await.unwrap().detach();
    broker.resume().unwrap();
    orders.flush().await;

    let expected = [
        ("confirm", 1, "orders fine"),
        ("nack", 2, "orders refused"),
        ("return", 3, "missing unwanted"),
        ("drop", 4, "orders evicted"),
        ("confirm", 5, "orders kept"),
    ]
    .map(|(hook, sequence, text)| (hook, sequence, text.to_owned()));
    assert_eq!(heard(&of_producer), expected);
    assert_eq!(heard(&of_client), expected);

    let wrong = client.producer_on("missing", "x").confirm().open().await.unwrap();
    wrong.publish("nowhere").await.unwrap().detach();
    wrong.flush().await;
    assert_eq!(heard(&of_client), [("error", 1, "x nowhere".to_owned())]);

    client.close().await;
    let states = states.lock().unwrap();
    assert_eq!(states.last(), Some(&State::Closed { loss: None }));
    assert!(states.iter().any(|state| matches!(state, State::Reconnecting { .. })), "{states:?}");
    assert!(states.contains(&State::Connected), "{states:?}");
}

pub async fn f25_a_hook_that_panics_is_counted_and_the_client_lives<R: Rt>() {
    let broker = broker();
    let client = connect::<R>(&broker).await;
    let mut events = client.events();
    let builder = client.producer("orders").confirm();
    let orders =
        builder.on_confirm(|_| panic!("the application's own panic")).open().await.unwrap();
    orders.publish("one").await.unwrap().await.unwrap();
    orders.publish("two").await.unwrap().await.unwrap();
    assert_eq!(broker.depth("orders"), 2);
    soon::<R, _>("the event", async {
        while !matches!(events.next().await, Some(Event::HookPanicked { hook: "on_confirm" })) {}
    })
    .await;
    eventually::<R>("both panics counted", || client.stats().hook_panics == 2).await;
    assert!(client.is_connected());
}

pub async fn events_say_how_many_they_skipped<R: Rt>() {
    const DROPPED: usize = 3000;
    let broker = broker();
    let client = connect::<R>(&broker).await;
    stop::<R>(&broker, &client).await;
    let mut events = client.events();
    let builder = client.producer("orders").confirm().buffer_policy(BufferPolicy::DropOldest);
    let orders = builder.buffer_size(1).open().await.unwrap();
    for _ in 0..=DROPPED {
        orders.publish("x").await.unwrap().detach();
    }
    // 1,024 are kept for a reader that does not read; the rest is one number.
    client.close().await;
    let (mut told, mut skipped) = (0, 0);
    while let Some(event) = events.next().await {
        match event {
            Event::NotConfirmed { verdict: Verdict::Dropped(DropReason::BufferFull), .. } => {
                told += 1
            }
            Event::Skipped(count) => skipped += count,
            _ => {}
        }
    }
    assert!(told > 0 && told <= 1024, "{told}");
    assert!(skipped > 0 && told + skipped >= DROPPED as u64, "{told} told, {skipped} skipped");
}
