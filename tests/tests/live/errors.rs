//! What the application is told when something is wrong: where, what, and never the password.

use std::{error::Error, net::TcpListener};

use lavinmq_core::{
    PublishError,
    error::{ConnectError, ConsumeError, DialError, InvalidMessage, Loss},
    message::Message,
};

use crate::{
    broker::Broker,
    runtimes::{Rt, soon},
    scene::{close, connect, options, queue},
};

const CANARY: &str = "canary-7f3a9c";

/// Everything that an error can be made to say.
fn all_words(error: &(dyn Error + 'static)) -> String {
    let mut words = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(error) = source {
        words += &format!(" {error} {error:?}");
        source = error.source();
    }
    words
}

fn changed(broker: &Broker, change: impl FnOnce(&mut url::Url)) -> String {
    let mut url = url::Url::parse(&broker.url).unwrap();
    change(&mut url);
    url.into()
}

async fn refused<R: Rt>(url: &str) -> Loss {
    let options = options(url);
    assert!(!format!("{options:?}").contains(CANARY), "Options show the password");
    let error = soon::<R, _>("an answer", R::connect(options)).await.err().unwrap();
    assert!(!all_words(&error).contains(CANARY), "the error shows the password");
    let ConnectError::Failed(loss) = error else { panic!("{error}") };
    loss
}

pub async fn s3_a_wrong_password_is_refused_and_never_shown<R: Rt>(broker: &Broker) {
    let url = changed(broker, |url| url.set_password(Some(CANARY)).unwrap());
    let loss = refused::<R>(&url).await;
    assert!(matches!(&loss, Loss::AccessRefused { user, .. } if &**user == "guest"), "{loss}");
}

pub async fn f8_a_missing_vhost_is_refused<R: Rt>(broker: &Broker) {
    let url = changed(broker, |url| url.set_path("/live-no-such-vhost"));
    let loss = refused::<R>(&url).await;
    assert!(
        matches!(&loss, Loss::VhostRefused { vhost, .. } if &**vhost == "live-no-such-vhost"),
        "{loss}"
    );
}

pub async fn f5_nobody_listening_is_an_error_that_says_where<R: Rt>(_: &Broker) {
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let loss = refused::<R>(&format!("amqp://guest:{CANARY}@127.0.0.1:{port}")).await;
    let Loss::Dial { target, error } = &loss else { panic!("{loss}") };
    assert_eq!(**target, *format!("127.0.0.1:{port}"));
    assert!(
        matches!(error, DialError::Io { kind: std::io::ErrorKind::ConnectionRefused, .. }),
        "{error:?}"
    );
}

pub async fn s32_consuming_a_missing_queue_is_refused<R: Rt>(broker: &Broker) {
    let client = connect::<R>(broker).await;
    let open = client.consumer("live-no-such-queue").open();
    let error = soon::<R, _>("an answer", open).await.err().unwrap();
    assert!(
        matches!(&error, ConsumeError::Refused { queue, code: 404, .. } if &**queue == "live-no-such-queue"),
        "{error}"
    );
    assert!(error.to_string().contains("declare it first"), "{error}");
    // The client is none the worse for it.
    let queue = queue::<R>(broker, "after-a-refusal");
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    let receipt = soon::<R, _>("publish", producer.publish("fine")).await.unwrap();
    soon::<R, _>("a confirm", receipt).await.unwrap();
    close::<R>(client).await;
}

pub async fn s12_a_message_over_a_limit_comes_back<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "limits");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    let long = Message::new("kept").correlation_id(&"x".repeat(256));
    let error = soon::<R, _>("an answer", producer.publish(long.clone())).await.err().unwrap();
    let PublishError::Invalid(message, InvalidMessage::Name(name)) = &error else {
        panic!("{error}")
    };
    assert_eq!((message, name.what, name.length), (&long, "correlation id", 256));
    let receipt = soon::<R, _>("publish", producer.publish("fine")).await.unwrap();
    soon::<R, _>("a confirm", receipt).await.unwrap();
    close::<R>(client).await;
}

pub async fn s14_a_publish_after_close_comes_back<R: Rt>(broker: &Broker) {
    let queue = queue::<R>(broker, "closed");
    let client = connect::<R>(broker).await;
    let producer = client.producer(&*queue.name).confirm().open().await.unwrap();
    close::<R>(client).await;
    let error = soon::<R, _>("an answer", producer.publish("too late")).await.err().unwrap();
    assert!(matches!(&error, PublishError::Closed(_)), "{error}");
    assert_eq!(error.into_message().body(), b"too late");
}
