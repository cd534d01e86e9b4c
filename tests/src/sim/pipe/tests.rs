#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{future::poll_fn, io::ErrorKind};

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::sim::{
    executor::{Executor, Step},
    trace::Trace,
};

struct Outcome {
    got: Vec<u8>,
    end: Result<usize, ErrorKind>,
    written: u64,
    hash: u64,
}

/// Writes 10,000 bytes up, reads them at the broker's end.
fn transfer(seed: u64, conditions: Conditions, prepare: impl FnOnce(&Link)) -> Outcome {
    let mut executor = Executor::new(Random::new(seed), Trace::default());
    let handle = executor.handle().clone();
    let (link, mut io, mut server) = Link::new(0, conditions, &handle, Random::new(seed));
    prepare(&link);
    let written = Arc::new(Mutex::new(0));
    let count = written.clone();
    handle.spawn("client", async move {
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match io.write(rest).await {
                Ok(n) => {
                    rest = &rest[n..];
                    *count.lock().unwrap() += n as u64;
                }
                Err(_) => return,
            }
        }
        let _ = io.flush().await;
        let _ = io.close().await;
        let mut end = [0; 8];
        let _ = io.read(&mut end).await;
    });
    let result = Arc::new(Mutex::new((Vec::new(), Ok(usize::MAX))));
    let inner = result.clone();
    handle.spawn("server", async move {
        let mut buffer = [0; 700];
        loop {
            match poll_fn(|cx| server.poll_read(cx, &mut buffer)).await {
                Ok(0) => break inner.lock().unwrap().1 = Ok(0),
                Ok(n) => inner.lock().unwrap().0.extend_from_slice(&buffer[..n]),
                Err(error) => break inner.lock().unwrap().1 = Err(error.kind()),
            }
        }
        server.shut(Ending::Eof);
    });
    while executor.step() != Step::Quiet {}
    let (got, end) = result.lock().unwrap().clone();
    let written = *written.lock().unwrap();
    Outcome { got, end, written, hash: handle.hash() }
}

fn rough(seed: u64) -> Conditions {
    Conditions {
        chunk: 1 + seed as usize % 64,
        capacity: 1 + seed as usize % 300,
        latency: Duration::from_millis(3),
        spurious: 8,
        buffers: seed % 2 == 1,
    }
}

#[test]
fn every_byte_arrives_in_order() {
    let expected: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    for seed in 0..20 {
        let outcome = transfer(seed, rough(seed), |_| ());
        assert_eq!(outcome.got, expected);
        assert_eq!(outcome.end, Ok(0));
    }
}

#[test]
fn a_cut_lets_exactly_n_bytes_through() {
    for seed in 0..20 {
        for takes_more in [false, true] {
            let outcome = transfer(seed, rough(seed), |link| {
                link.cut(Cut { way: Way::Up, after: 777, ending: Ending::Eof, takes_more });
            });
            assert_eq!(outcome.got.len(), 777);
            assert_eq!(outcome.end, Ok(0));
            if !takes_more && seed % 2 == 0 {
                assert_eq!(outcome.written, 777);
            }
        }
    }
}

#[test]
fn a_reset_is_an_error_and_may_lose_bytes() {
    let outcomes: Vec<_> = (0..20)
        .map(|seed| {
            transfer(seed, rough(seed), |link| {
                link.cut(Cut {
                    way: Way::Up,
                    after: 5000,
                    ending: Ending::Reset,
                    takes_more: false,
                });
            })
        })
        .collect();
    assert!(outcomes.iter().all(|o| o.end == Err(ErrorKind::ConnectionReset)));
    assert!(outcomes.iter().any(|o| o.got.len() == 5000));
    assert!(outcomes.iter().any(|o| o.got.len() < 5000));
}

#[test]
fn silence_is_never_signalled() {
    let outcome = transfer(2, rough(2), Link::silence);
    assert_eq!((outcome.got.len(), outcome.end), (0, Ok(usize::MAX)));
}

#[test]
fn the_same_seed_gives_the_same_hash() {
    assert_eq!(transfer(5, rough(5), |_| ()).hash, transfer(5, rough(5), |_| ()).hash);
    assert_ne!(transfer(5, rough(5), |_| ()).hash, transfer(6, rough(5), |_| ()).hash);
}
