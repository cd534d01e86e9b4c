//! A stream read whole, byte by byte, and cut where the fuzzer likes: the same frames, the same
//! deliveries, the same events, the same answers, the same error.

use std::collections::BTreeMap;

use lavinmq_core::{
    session::SessionEvent,
    wire::{self, WireError},
};

use super::{
    connection::{NO_ACK, STATES, stage},
    input::Input,
    world::World,
};

/// One input: the state of the session, settings, where to cut, and the stream.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let (state, settings) = (input.below(STATES), input.u8());
    let n = input.below(16);
    let cuts: Vec<usize> = input.bytes(n).iter().map(|n| 1 + usize::from(*n)).collect();
    let stream = input.rest();

    let whole = frames(stream, &[]);
    assert_eq!(frames(stream, &[1]), whole);
    assert_eq!(frames(stream, &cuts), whole);

    let whole = session(state, settings, stream, &[]);
    for lengths in [&[1][..], &cuts] {
        let made = session(state, settings, stream, lengths);
        for ((what, whole), (_, made)) in whole.iter().zip(made) {
            assert_eq!(made, *whole, "{what} (left: in pieces, right: whole)");
        }
    }
}

/// `stream` in pieces of these lengths, over and over; of none: in one.
fn pieces<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    let (mut rest, mut pieces) = (stream, Vec::new());
    while !rest.is_empty() {
        let n = lengths.next().map_or(rest.len(), |n| (*n).min(rest.len()));
        let (piece, tail) = rest.split_at(n);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// The frames of a stream that arrives in pieces, what is in them, and the error that ends it.
fn frames(stream: &[u8], lengths: &[usize]) -> (Vec<String>, Option<WireError>) {
    let (mut buffer, mut seen) = (Vec::new(), Vec::new());
    for piece in pieces(stream, lengths) {
        buffer.extend_from_slice(piece);
        loop {
            match wire::decode(&buffer, 4096) {
                Ok(Some((frame, used))) => {
                    let method = wire::decode_method(frame.payload);
                    let header = wire::decode_content_header(frame.payload);
                    let properties = header.clone().map(|header| header.properties.decode());
                    seen.push(format!("{frame:?} {method:?} {header:?} {properties:?}"));
                    buffer.drain(..used);
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

/// What a session makes of a stream that arrives in pieces, each with a name.
fn session(
    state: usize,
    settings: u8,
    stream: &[u8],
    lengths: &[usize],
) -> Vec<(&'static str, String)> {
    let (mut world, c) = stage(state, settings);
    let World { events, batches, updates, .. } = &mut world;
    (*events, *batches, *updates) = Default::default();
    if let Some(peer) = world.links[c].peer.take() {
        world.broker.disconnect(peer, world.now);
    }
    let already = world.links[c].wire.len();
    // Nothing is written in between: what a close drops of our output depends on what was written.
    for piece in pieces(stream, lengths) {
        world.feed(c, piece);
        world.drain();
    }
    // A wake-up for each read is no difference: the last of each, and the sums, are what counts.
    let mut left = BTreeMap::new();
    for update in &world.updates {
        let entry = left.entry(update.producer.get()).or_insert((0, 0, 0, false));
        *entry =
            (entry.0 + update.left, entry.1 + update.left_bytes, update.settled, update.closed);
    }
    // What the broker will deliver again is purged, if the application has not had it yet: whether
    // a batch was told before its channel was lost makes no difference.
    let stale = |generation| {
        state != NO_ACK
            && world.events.iter().any(|event| {
                matches!(event, SessionEvent::Generation { valid_from, .. } if generation < *valid_from)
            })
    };
    let fresh = world.batches.iter().filter(|(_, batch)| !stale(batch.generation()));
    let deliveries = fresh.flat_map(|(consumer, batch)| {
        (0..batch.len()).map(move |at| {
            format!(
                "{consumer} {} {} {} {:?} {:?} {:?} {:?}",
                batch.generation(),
                batch.tag(at),
                batch.redelivered(at),
                batch.exchange(at),
                batch.routing_key(at),
                batch.raw_properties(at),
                batch.body(at)
            )
        })
    });
    let deliveries = deliveries.collect::<Vec<_>>().join("\n");
    let hung_up: Vec<_> = world.links.iter().map(|link| !link.up).collect();
    world.write(c, usize::MAX);
    let answers = world.links[c].wire.get(already..).unwrap_or_default();
    vec![
        ("events", format!("{:#?}", world.events)),
        ("deliveries", deliveries),
        ("producers", format!("{left:?}")),
        ("accounts", format!("{:?}", world.session.stats())),
        ("the explanation", world.session.explain(world.now)),
        ("the deadline", format!("{:?}", world.session.poll_deadline())),
        ("hung up", format!("{hung_up:?}")),
        ("answers", answers.escape_ascii().to_string()),
    ]
}
