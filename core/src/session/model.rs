//! Sessions that can be told apart, for the exhaustive search of small worlds (feature `model`; nothing
//! that ships has it). With it, sessions can also be cloned.
//!
//! Two sessions with equal fingerprints do the same from here on, given the same inputs; only words
//! differ (why a connection was lost) and counters. So a search need follow only one of them. Times
//! count from now, offsets in a stream from what the transport took: what has been is left out as far
//! as nothing depends on it.
//!
//! Each structure is taken apart by name: whoever adds a field decides here what it is.

use std::{
    fmt::{self, Write},
    hash::Hasher,
    io::IoSlice,
};

use super::Session;
use crate::{
    connection::Connection,
    ids::ConnectionId,
    session::appended::{Appended, What},
    time::Time,
};

/// Feeds what is written to a hasher.
struct Feed<'a, H>(&'a mut H);

impl<H: Hasher> Write for Feed<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Writing to a hasher cannot fail.
macro_rules! feed {
    ($out:expr, $($part:expr),+ $(,)?) => {{ $( let _ = write!($out, "{:?};", $part); )+ }};
}

impl Session {
    /// Feeds everything that its further behaviour depends on to `hasher`.
    pub fn fingerprint<H: Hasher>(&self, hasher: &mut H) {
        let Self {
            config,
            retry_first: _,
            // Draws are counted by what they were for: generations, and delays without jitter.
            rng: _,
            now,
            state,
            was_ready,
            closing,
            closed,
            connections,
            appended,
            unwritten,
            timers,
            producers,
            // Follow from the others.
            not_closed: _,
            dependents: _,
            lanes,
            active,
            single_file,
            dirty,
            // Memory alone.
            resting: _,
            consumers,
            starved,
            settling,
            filling,
            batches,
            generation,
            topology,
            control,
            declaring,
            requests,
            next_request: _,
            actions,
            events,
            // Whoever searches compares the accounts with what was told, at every step.
            closed_stats: _,
            last_closed: _,
        } = self;
        let mut out = Feed(hasher);
        feed!(out, std::mem::discriminant(state), was_ready, closing.is_some(), closed);
        for (connection, appended) in connections.iter().zip(appended) {
            feed_connection(&mut out, connection, *now);
            let offered = connection.transmit.offered();
            for &Appended { end, mut what } in appended {
                if let What::Settlements { consumer, settles, .. } = &mut what
                    && let Some(consumer) = consumers.get(consumer.0)
                {
                    // As a count of those that came since.
                    *settles = consumer.settles - *settles;
                }
                feed!(out, end - offered, what);
            }
        }
        feed!(out, unwritten);
        for (at, timer) in timers.iter() {
            feed!(out, at - *now, timer);
        }
        for (number, producer) in producers.iter() {
            feed!(out, number);
            feed!(out, producer.fingerprint(*now));
        }
        for lane in lanes {
            feed!(out, lane.fingerprint(*now));
        }
        feed!(out, active, single_file, dirty);
        for (number, consumer) in consumers.iter() {
            feed!(out, number);
            feed!(out, consumer.fingerprint(*now, config.backoff.stable));
        }
        feed!(out, starved, settling, filling, batches, generation);
        feed!(out, topology, control, declaring, requests, actions, events);
    }

    /// Appends the bytes that [`transmit`](Self::transmit) has offered, or would offer without
    /// encoding anything.
    pub fn pending_output(&self, connection: ConnectionId, out: &mut Vec<u8>) {
        let Some(connection) =
            self.connections.get(connection.0 as usize).filter(|c| c.has_transport())
        else {
            return;
        };
        let mut slices = [IoSlice::new(&[]); 16];
        let used = connection.transmit.slices(&mut slices);
        slices.iter().take(used).for_each(|slice| out.extend_from_slice(slice));
    }
}

fn feed_connection<H: Hasher>(out: &mut Feed<'_, H>, connection: &Connection, now: Time) {
    let Connection {
        role: _,
        phase,
        transmit,
        receive,
        channels,
        tuned,
        // The same at each connection of a small world.
        server: _,
        blocked,
        blocked_since: _,
        backoff,
        attempts,
        was_open,
        bare_closes,
        standing,
        // Words.
        loss: _,
        last_received,
        last_sent,
        last_progress,
        output_waits,
        full_queues,
        suspicious_closes,
    } = connection;
    feed!(out, std::mem::discriminant(phase), channels, blocked, backoff, attempts);
    feed!(out, was_open, bare_closes, standing, full_queues, suspicious_closes);
    feed!(out, output_waits.then(|| now - *last_progress), output_waits);
    if tuned.heartbeat > 0 {
        feed!(out, now - *last_received, now - *last_sent);
    }
    feed!(out, transmit.offered() - transmit.flushed());
    let mut slices = [IoSlice::new(&[]); 16];
    let used = transmit.slices(&mut slices);
    slices.iter().take(used).for_each(|slice| out.0.write(slice));
    out.0.write(receive.bytes());
    feed!(out, receive.payload());
}
