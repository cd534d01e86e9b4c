//! The server's threads and the fault link, at the level of bytes.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may panic")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use lavinmq_core::wire;
use lavinmq_testing::{Broker, Direction, FaultLink, Personality};

/// Longer than anything here takes; only so that a defect is a failure and not a hang.
const LONG: Duration = Duration::from_secs(30);

/// A server whose connections the test holds.
struct Server(TcpListener);

impl Server {
    fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn accept(&self) -> TcpStream {
        patient(self.0.accept().unwrap().0)
    }
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.set_write_timeout(Some(LONG)).unwrap();
    socket
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

fn exactly(socket: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

/// Everything up to the end, and how it ended: none is an orderly end.
fn until_end(socket: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return (bytes, None),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) => return (bytes, Some(error.kind())),
        }
    }
}

#[test]
fn a_link_forwards_both_ways_and_passes_an_end_on() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    client.write_all(b"to the broker").unwrap();
    assert_eq!(exactly(&mut broker, 13), b"to the broker");
    broker.write_all(b"back").unwrap();
    assert_eq!(exactly(&mut client, 4), b"back");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(until_end(&mut broker), (vec![], None));
    broker.write_all(b"still").unwrap();
    drop(broker);
    assert_eq!(until_end(&mut client), (b"still".to_vec(), None));
    let counters = link.counters();
    assert_eq!((counters.to_broker, counters.to_client), (13, 9));
    assert_eq!((counters.connections, counters.cuts), (1, 0));
}

#[test]
fn a_cut_resets_both_ends() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    client.write_all(b"x").unwrap();
    exactly(&mut broker, 1);
    link.cut();
    assert_eq!(until_end(&mut client).1, Some(ErrorKind::ConnectionReset));
    assert_eq!(until_end(&mut broker).1, Some(ErrorKind::ConnectionReset));
    assert_eq!((link.counters().cuts, link.connections()), (1, 0));
    // The next connection stands.
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    client.write_all(b"y").unwrap();
    assert_eq!(exactly(&mut broker, 1), b"y");
}

#[test]
fn f09_a_cut_after_n_bytes_lets_exactly_these_through() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    for n in [1, 7, 4095, 70_000, 200_000] {
        for direction in [Direction::ToBroker, Direction::ToClient] {
            let (client, broker) = (connect(link.addr()), server.accept());
            let (mut from, mut to) = match direction {
                Direction::ToBroker => (client, broker),
                Direction::ToClient => (broker, client),
            };
            from.write_all(b"before").unwrap();
            exactly(&mut to, 6);
            let before = link.counters().cuts;
            link.cut_after(n, direction);
            let sender = thread::spawn(move || {
                // Fails somewhere on the way.
                let _ = from.write_all(&[7; 300_000]);
                until_end(&mut from).0
            });
            let (bytes, end) = until_end(&mut to);
            assert_eq!((bytes.len() as u64, end), (n, None));
            drop(to);
            assert_eq!(sender.join().unwrap(), b"");
            assert_eq!(link.counters().cuts, before + 1);
        }
    }
}

#[test]
fn f10_a_cut_after_the_last_byte_needs_no_further_one() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    link.cut_after(5, Direction::ToBroker);
    client.write_all(b"whole").unwrap();
    assert_eq!(until_end(&mut broker), (b"whole".to_vec(), None));
    drop(broker);
    assert_eq!(until_end(&mut client).0, b"");
    // It is used up: the next connection stands.
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    client.write_all(b"whole again").unwrap();
    assert_eq!(exactly(&mut broker, 11), b"whole again");
}

#[test]
fn f12_a_stalled_link_is_silent_and_a_resumed_one_loses_nothing() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    link.stall();
    client.write_all(b"one").unwrap();
    broker.write_all(b"two").unwrap();
    // A connection made meanwhile is accepted, and silent, too.
    let (mut late, mut late_broker) = (connect(link.addr()), server.accept());
    late.write_all(b"three").unwrap();
    assert_eq!((link.counters().to_broker, link.counters().to_client), (0, 0));
    link.resume();
    assert_eq!(exactly(&mut broker, 3), b"one");
    assert_eq!(exactly(&mut client, 3), b"two");
    assert_eq!(exactly(&mut late_broker, 5), b"three");
}

#[test]
fn f13_a_stalled_link_takes_only_so_much() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, _broker) = (connect(link.addr()), server.accept());
    link.stall();
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    // Kernels buffer some megabytes; a link that went on reading would take it all.
    while written < 256 << 20 {
        match client.write(&[0; 1 << 16]) {
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(written < 256 << 20);
}

#[test]
fn f01_chunks_split_what_was_written_at_once() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    link.chunk(3);
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    let sent: Vec<u8> = (0..=255).collect();
    client.write_all(&sent).unwrap();
    let mut buffer = [0; 256];
    let first = broker.read(&mut buffer).unwrap();
    assert_eq!(first % 3, 0, "whole pieces, while more are to come");
    assert_eq!([&buffer[..first], &exactly(&mut broker, 256 - first)].concat(), sent);
}

#[test]
fn a_delay_is_the_least_that_bytes_take() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    link.delay(Duration::from_millis(30));
    let sent = Instant::now();
    client.write_all(b"x").unwrap();
    exactly(&mut broker, 1);
    assert!(sent.elapsed() >= Duration::from_millis(30));
}

#[test]
fn f05_a_refusing_link_resets_new_connections_and_leaves_the_others() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    link.refuse(true);
    assert_eq!(until_end(&mut connect(link.addr())).1, Some(ErrorKind::ConnectionReset));
    client.write_all(b"x").unwrap();
    assert_eq!(exactly(&mut broker, 1), b"x");
    link.refuse(false);
    let other = Server::start();
    link.set_upstream(other.address());
    let _client = connect(link.addr());
    other.accept();
    assert!(link.wait_until(LONG, |counters| (counters.connections, counters.refused) == (2, 1)));
    // Nobody there: refused, too.
    drop(other);
    assert_eq!(until_end(&mut connect(link.addr())).1, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_upstream_is_passed_on_as_one() {
    let broker = Broker::start().unwrap();
    let link = FaultLink::start(broker.addr()).unwrap();
    let mut client = connect(link.addr());
    client.write_all(&wire::PROTOCOL_HEADER).unwrap();
    exactly(&mut client, 8);
    broker.cut();
    assert_eq!(until_end(&mut client).1, Some(ErrorKind::ConnectionReset));
}

#[test]
fn dropping_a_link_ends_its_connections_even_when_stalled() {
    let server = Server::start();
    let link = FaultLink::start(server.address()).unwrap();
    let (mut client, mut broker) = (connect(link.addr()), server.accept());
    link.stall();
    client.write_all(b"x").unwrap();
    drop(link);
    assert!(until_end(&mut client).1.is_some());
    assert!(until_end(&mut broker).1.is_some());
}

/// A connection with channel 1 open, as far as the client's side is concerned.
fn open(broker: &Broker) -> TcpStream {
    let mut socket = connect(broker.addr());
    let mut bytes = wire::PROTOCOL_HEADER.to_vec();
    let start_ok = connection::StartOk {
        mechanism: "PLAIN".into(),
        response: "\0guest\0guest".into(),
        locale: "en_US".into(),
        ..Default::default()
    };
    let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 };
    let open = connection::Open { virtual_host: "/".into() };
    for method in [
        connection::AMQPMethod::StartOk(start_ok),
        connection::AMQPMethod::TuneOk(tune_ok),
        connection::AMQPMethod::Open(open),
    ] {
        wire::put_method(&mut bytes, 0, &AMQPClass::Connection(method)).unwrap();
    }
    let open = channel::AMQPMethod::Open(channel::Open {});
    wire::put_method(&mut bytes, 1, &AMQPClass::Channel(open)).unwrap();
    socket.write_all(&bytes).unwrap();
    socket
}

fn consume(socket: &mut TcpStream, queue: &str) {
    let consume = basic::Consume { queue: queue.into(), no_ack: true, ..Default::default() };
    let consume = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
    let mut bytes = Vec::new();
    wire::put_method(&mut bytes, 1, &consume).unwrap();
    socket.write_all(&bytes).unwrap();
}

#[test]
fn s35_a_client_that_does_not_read_holds_up_nobody_and_takes_bounded_memory() {
    let broker = Broker::start().unwrap();
    broker.declare_queue("big");
    broker.declare_queue("small");
    let (mut slow, mut fast) = (open(&broker), open(&broker));
    consume(&mut slow, "big");
    consume(&mut fast, "small");
    assert!(broker.wait_until(LONG, |s| s.consumer_count("big") + s.consumer_count("small") == 2));
    let body = vec![7; 1 << 20];
    for _ in 0..64 {
        broker.put("big", body.clone());
    }
    broker.put("small", "hello");
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello\xce") {
        seen.extend(exactly(&mut fast, 1));
    }
    // What is not with the client waits in the queue, not in the connection's output.
    assert!(broker.depth("big") > 32, "{}", broker.depth("big"));
    // Once it reads, it gets everything.
    let (done, read) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = 0;
        let mut buffer = vec![0; 1 << 16];
        while bytes < 64 << 20 {
            bytes += slow.read(&mut buffer).unwrap();
        }
        done.send(()).unwrap();
    });
    read.recv_timeout(LONG).unwrap();
    reader.join().unwrap();
    assert_eq!(broker.depth("big"), 0);
}

#[test]
fn a_broker_that_is_dropped_resets_its_clients_and_frees_its_port() {
    let broker = Broker::start().unwrap();
    let address = broker.addr();
    let mut client = open(&broker);
    consume(&mut client, "nothing");
    drop(broker);
    assert!(until_end(&mut client).1.is_some_and(|kind| kind == ErrorKind::ConnectionReset));
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_restart_says_320_and_rabbitmq_ends_with_a_reset() {
    for personality in [Personality::RabbitMq, Personality::LavinMq] {
        let broker = Broker::builder().personality(personality).start().unwrap();
        let mut client = open(&broker);
        assert!(broker.wait_until(LONG, |s| s.connections().iter().any(|c| c.channels == 1)));
        thread::scope(|scope| {
            // Reads while the broker stops: a reset takes what was not read.
            let reader = scope.spawn(|| until_end(&mut client));
            broker.stop();
            let (bytes, _) = reader.join().unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(text.contains("CONNECTION_FORCED"), "{text}");
        });
        broker.resume().unwrap();
        open(&broker);
        assert!(broker.wait_until(LONG, |s| s.counters().connections == 2));
    }
}

#[test]
fn f31_a_client_that_never_answers_a_close_is_ended() {
    let broker = Broker::start().unwrap();
    let mut socket = open(&broker);
    assert!(broker.wait_until(LONG, |s| s.connections().iter().any(|c| c.channels == 1)));
    // No time passes for the state but what it is told: far in the future, this client was silent.
    broker.with(|state, now| {
        let id = state.connections()[0].id;
        state.close_connection(id, 320, "bye", now);
        state.tick(now + Duration::from_secs(6));
    });
    let (bytes, end) = until_end(&mut socket);
    assert!(String::from_utf8_lossy(&bytes).contains("bye"));
    assert_eq!(end, None, "an orderly end without a close-ok");
}
