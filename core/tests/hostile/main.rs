//! Hostile brokers: each class of defects and of advisories that other AMQP clients had (2026) is a
//! test here, or names the one that it already has.
//!
//! Memory is counted by an allocator: what a peer makes the session hold is at most [`MULTIPLE`] times
//! what it sent, and [`FIXED`] beside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::disallowed_methods,
    unused_imports,
    reason = "tests: a panic is a failure; they use a part of the words, and a thread for its small stack"
)]

mod advisories;
mod defects;
#[path = "../session/harness/mod.rs"]
mod harness;
mod nesting;
#[path = "../session_consuming/words.rs"]
mod words;

use words::*;

/// The receive buffer doubles (2), and while it moves both are held (3); what was decoded is held
/// beside it (1).
pub const MULTIPLE: u64 = 4;
/// The smallest receive buffer and what a close needs.
pub const FIXED: u64 = 24 << 10;

/// Bytes that the session held at most, beyond what it held before, while it took these.
pub fn held_for(stage: &mut Stage, c: usize, bytes: &[u8]) -> u64 {
    let (id, now) = (stage.id(c), stage.now);
    let session = &mut stage.session;
    let info = allocation_counter::measure(|| {
        let mut rest = bytes;
        // As a driver does: it reads what there is, and stops where there is no space.
        while !rest.is_empty() {
            let space = session.receive_buffer(id);
            let n = space.len().min(rest.len());
            if n == 0 {
                break;
            }
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            session.handle_received(id, n, now);
        }
    });
    info.bytes_max
}

/// The same, and that it is no more than the peer paid for.
pub fn feed_counted(stage: &mut Stage, c: usize, bytes: &[u8]) {
    let held = held_for(stage, c, bytes);
    let limit = FIXED + MULTIPLE * bytes.len() as u64;
    assert!(held <= limit, "{held} bytes held for {} received", bytes.len());
    stage.pump();
}

/// The first seven bytes of a frame.
pub fn frame_header(kind: u8, channel: u16, size: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend(size.to_be_bytes());
    bytes
}

/// A whole frame.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_header(kind, channel, u32::try_from(payload.len()).unwrap());
    bytes.extend_from_slice(payload);
    bytes.push(0xCE);
    bytes
}

/// The payload of a content header without properties.
pub fn content_header(size: u64) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0];
    payload.extend(size.to_be_bytes());
    payload.extend([0, 0]);
    payload
}

/// A delivery up to its content header, which is raw.
pub fn begun_delivery(channel: u16, tag: u64, header: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    lavinmq_core::wire::put_deliver(&mut bytes, channel, "", tag, false, "", "orders");
    bytes.extend(frame(2, channel, header));
    bytes
}
