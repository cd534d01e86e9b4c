//! The core on a blocking `std::net::TcpStream`, without any runtime: declare, publish with confirms,
//! consume, ack; reconnects included. `cargo run -p lavinmq-core --example blocking [amqp://…]`

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "here is the driver: clock and socket"
)]

use std::{
    error::Error, io, io::IoSlice, io::Read, io::Write, net::TcpStream, time::Duration,
    time::Instant,
};

use lavinmq_core::{
    config::{ConsumerConfig, ProducerConfig, PublishMode, QueueConfig},
    consume::{SettleRun, Settlement},
    error::{DialError, Loss},
    session::{Action, Session, SessionEvent},
    time::Time,
};

const MESSAGES: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let broker = lavinmq_testing::Broker::start()?; // used when no URL is given
    let url = std::env::args().nth(1).unwrap_or_else(|| broker.url());
    let start = Instant::now();
    let clock = || Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let seed = [u8::try_from(std::process::id() % 251)?; 32]; // a real driver asks the system

    let mut config = lavinmq_core::uri::parse(&url)?.config;
    config.connections = 1;
    let mut session = Session::new(config, true, seed, clock());
    session.declare_queue(QueueConfig::new("blocking")?, clock())?;
    let producer = session
        .open_producer(ProducerConfig::new("", "blocking", PublishMode::Confirm)?, clock())?;
    let mut socket: Option<TcpStream> = None;
    let (mut published, mut received, mut closing) = (0, 0, false);

    while !session.is_closed() {
        // What the session wants with the transport.
        while let Some(action) = session.poll_action() {
            match action {
                Action::Dial { connection, target } => {
                    match TcpStream::connect((&*target.host, target.port)) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            socket = Some(stream);
                            session.handle_connected(connection, clock());
                        }
                        Err(error) => {
                            let loss = Loss::Dial {
                                target: target.to_string().into(),
                                error: DialError::from(error),
                            };
                            session.handle_disconnected(connection, loss, clock());
                        }
                    }
                }
                _ => socket = None, // hang up
            }
        }
        // What happened, and what we want.
        while let Some(event) = session.poll_event() {
            match event {
                SessionEvent::Declared { result, .. } => {
                    result?;
                    session.open_consumer(ConsumerConfig::new("blocking")?, clock())?;
                }
                SessionEvent::ConsumerOpened { result, .. } => result?,
                SessionEvent::Event(event) => println!("{event:?}"),
                _ => {}
            }
        }
        while published < MESSAGES && session.publish(producer, "hello".into(), clock()).is_ok() {
            published += 1;
        }
        while let Some((consumer, batch)) = session.poll_batch() {
            received += batch.len() as u64;
            let (first, last) = (batch.tag(0), batch.tag(batch.len() - 1));
            let run = SettleRun {
                generation: batch.generation(),
                first,
                last,
                settlement: Settlement::Ack,
            };
            session.settle(consumer, run, clock());
        }
        while session.poll_producer().is_some() {} // watermarks: nobody waits for them here
        if received >= MESSAGES && session.stats().publish.confirmed == MESSAGES && !closing {
            closing = true;
            session.shutdown(Duration::from_secs(5), clock());
        }
        // Write what is due, then read until something comes or the next deadline is there.
        let connection = session.connections().next().ok_or("no connection")?;
        let due = session.poll_deadline().map_or(Duration::MAX, |deadline| deadline.at - clock());
        let wait = due.clamp(Duration::from_millis(1), Duration::from_millis(100));
        let Some(stream) = &mut socket else {
            std::thread::sleep(wait); // waiting before the next attempt
            session.handle_tick(clock());
            continue;
        };
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = session.transmit(connection, &mut slices);
        let written = if filled > 0 { stream.write_vectored(&slices[..filled]) } else { Ok(0) };
        let read = written.and_then(|n| {
            session.handle_written(connection, n, true, clock());
            stream.set_read_timeout(Some(if n > 0 { Duration::from_millis(1) } else { wait }))?;
            stream.read(session.receive_buffer(connection))
        });
        match read {
            Ok(0) => session.handle_disconnected(connection, Loss::Eof, clock()),
            Ok(n) => session.handle_received(connection, n, clock()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => session.handle_disconnected(connection, error.into(), clock()),
        }
        session.handle_tick(clock());
    }
    println!("published {published}, received {received}, {:?}", session.report());
    if session.report().is_clean() && received >= MESSAGES {
        Ok(())
    } else {
        Err("something was left behind".into())
    }
}
