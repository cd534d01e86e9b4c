//! Outgoing bytes: one contiguous tail, and large bodies queued whole beside it.

use std::{collections::VecDeque, io::IoSlice};

use bytes::Bytes;

use crate::wire::{FRAME_HEADER, FRAME_OVERHEAD};

/// Bodies (chunks of them) from this length on are queued as their own `Bytes` and leave by vectored
/// write; smaller ones are copied.
pub(crate) const CUT_THRESHOLD: usize = 4096;

/// What an idle buffer keeps.
const IDLE_CAPACITY: usize = 8 << 10;

/// Bytes on their way out, addressed by their offset in the connection's stream.
///
/// Frames are appended whole; the transport takes bytes. `offered` counts what it took, `flushed`
/// what is surely written (the same on plain TCP).
#[derive(Clone, Debug, Default)]
pub(crate) struct Transmit {
    tail: Vec<u8>,
    /// Where the next unwritten byte of the tail is.
    head: usize,
    /// Where the frame that contains the next unwritten byte begins in the tail.
    frame: usize,
    /// The same as an offset in the stream.
    frame_offset: u64,
    /// Payloads that are not in the tail, by their place in it. Those of the frame at `frame` stay
    /// until the whole frame is written.
    cuts: VecDeque<Cut>,
    enqueued: u64,
    offered: u64,
    flushed: u64,
}

#[derive(Clone, Debug)]
struct Cut {
    /// It belongs before this byte of the tail.
    at: usize,
    bytes: Bytes,
    written: usize,
}

impl Transmit {
    /// The tail, to append whole frames to. Call [`Self::appended`] afterwards.
    pub(crate) const fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Takes note of what was appended to the tail since its length was `from`.
    pub(crate) const fn appended(&mut self, from: usize) {
        self.enqueued += (self.tail.len() - from) as u64;
    }

    /// Appends whole frames.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.tail.len();
        write(&mut self.tail);
        self.appended(from);
    }

    /// Queues the payload of the body frame whose header was just appended; the caller appends the
    /// end octet next.
    pub(crate) fn cut(&mut self, bytes: Bytes) {
        self.enqueued += bytes.len() as u64;
        self.cuts.push_back(Cut { at: self.tail.len(), bytes, written: 0 });
    }

    /// Bytes that the transport has not taken yet.
    pub(crate) const fn pending(&self) -> usize {
        (self.enqueued - self.offered) as usize
    }

    /// The offset at which the next byte appended will be.
    pub(crate) const fn enqueued(&self) -> u64 {
        self.enqueued
    }

    pub(crate) const fn offered(&self) -> u64 {
        self.offered
    }

    pub(crate) const fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Fills `slices` with what is pending; returns how many were filled.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        let mut at = self.head;
        let mut push = |bytes: &'a [u8]| {
            if !bytes.is_empty()
                && let Some(slot) = slices.get_mut(used)
            {
                *slot = IoSlice::new(bytes);
                used += 1;
            }
        };
        for cut in self.cuts.iter().filter(|cut| cut.written < cut.bytes.len()) {
            push(&self.tail[at..cut.at]);
            push(&cut.bytes[cut.written..]);
            at = cut.at;
        }
        push(&self.tail[at..]);
        used
    }

    /// The transport took `n` more bytes. `last`: they are in the kernel's hands.
    pub(crate) fn written(&mut self, n: usize, last: bool) {
        let n = n.min(self.pending());
        self.offered += n as u64;
        if last {
            self.flushed = self.offered;
        }
        if self.offered == self.enqueued {
            self.reset();
        } else {
            self.advance(n);
        }
    }

    pub(crate) const fn flush(&mut self) {
        self.flushed = self.offered;
    }

    fn reset(&mut self) {
        self.tail.clear();
        self.cuts.clear();
        self.head = 0;
        self.frame = 0;
        self.frame_offset = self.enqueued;
    }

    fn advance(&mut self, mut n: usize) {
        for cut in self.cuts.iter_mut().filter(|cut| cut.written < cut.bytes.len()) {
            let before = (cut.at - self.head).min(n);
            self.head += before;
            n -= before;
            let inside = (cut.bytes.len() - cut.written).min(n);
            cut.written += inside;
            n -= inside;
            if n == 0 {
                break;
            }
        }
        self.head += n;
        while let Some((in_tail, whole)) = self.frame_len()
            && self.frame_offset + whole <= self.offered
        {
            if whole > in_tail as u64 {
                self.cuts.pop_front();
            }
            self.frame += in_tail;
            self.frame_offset += whole;
        }
        self.compact();
    }

    /// The length of the frame at `frame`: in the tail, and with the payload that is beside it.
    fn frame_len(&self) -> Option<(usize, u64)> {
        let header = self.tail.get(self.frame..self.frame + FRAME_HEADER)?;
        if header.starts_with(b"AMQP") {
            return Some((FRAME_OVERHEAD, FRAME_OVERHEAD as u64));
        }
        let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
        let beside = self.cuts.front().is_some_and(|cut| cut.at == self.frame + FRAME_HEADER);
        let whole = size + FRAME_OVERHEAD;
        Some((if beside { FRAME_OVERHEAD } else { whole }, whole as u64))
    }

    /// Drops what is written from the front, once that is more than what stays.
    fn compact(&mut self) {
        if self.frame < IDLE_CAPACITY || self.frame < self.tail.len() - self.frame {
            return;
        }
        self.tail.drain(..self.frame);
        for cut in &mut self.cuts {
            cut.at -= self.frame;
        }
        self.head -= self.frame;
        self.frame = 0;
    }

    /// Drops everything behind the frame of which a part was written already (semantics s13): a peer
    /// that got half a frame would swallow what follows.
    pub(crate) fn keep_begun_frame(&mut self) {
        if self.pending() == 0 {
            return;
        }
        let begun = self.frame_offset < self.offered;
        let (in_tail, whole) = if begun { self.frame_len().unwrap_or((0, 0)) } else { (0, 0) };
        self.tail.truncate(self.frame + in_tail);
        self.cuts.truncate(usize::from(whole > in_tail as u64));
        self.enqueued = self.frame_offset + whole;
        if !begun {
            self.head = self.frame;
            self.enqueued = self.offered;
        }
    }

    /// Overwrites what was written: it held a password.
    pub(crate) fn wipe(&mut self) {
        if self.pending() == 0 {
            let capacity = self.tail.capacity();
            self.tail.resize(capacity, 0);
            self.tail.clear();
        }
    }

    /// Gives memory back while nothing is pending.
    pub(crate) fn shrink(&mut self) {
        if self.pending() == 0 {
            self.tail.shrink_to(IDLE_CAPACITY);
            self.cuts.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::wire::{FRAME_END, FrameKind, put_body_header, put_frame};

    fn large(length: usize) -> Bytes {
        (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<u8>>().into()
    }

    /// Three frames, the second with its payload beside the tail; and the same bytes flat.
    fn filled() -> (Transmit, Vec<u8>) {
        let mut transmit = Transmit::default();
        let mut flat = Vec::new();
        let small =
            |out: &mut Vec<u8>| put_frame(out, FrameKind::Method, 1, |out| out.extend(b"hello"));
        transmit.append(small);
        small(&mut flat);
        let body = large(5000);
        transmit.append(|out| put_body_header(out, 1, 5000));
        transmit.cut(body.clone());
        transmit.append(|out| out.push(FRAME_END));
        put_frame(&mut flat, FrameKind::Body, 1, |out| out.extend(&body));
        transmit.append(small);
        small(&mut flat);
        (transmit, flat)
    }

    fn gather(transmit: &Transmit) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 8];
        let used = transmit.slices(&mut slices);
        slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect()
    }

    #[test]
    fn f3_a_partial_write_resumes_exactly_at_every_offset() {
        let (_, flat) = filled();
        for first in 0..=flat.len() {
            let (mut transmit, _) = filled();
            transmit.written(first, true);
            assert_eq!(gather(&transmit), flat[first..], "after {first}");
            let second = (flat.len() - first) / 2;
            transmit.written(second, true);
            assert_eq!(gather(&transmit), flat[first + second..], "after {first} and {second}");
            assert_eq!(transmit.offered(), (first + second) as u64);
        }
    }

    #[test]
    fn f32_only_the_begun_frame_survives_a_close_at_every_offset() {
        let (_, flat) = filled();
        let ends = [13, 13 + 5008, flat.len()];
        for written in 0..=flat.len() {
            let (mut transmit, _) = filled();
            transmit.written(written, true);
            transmit.keep_begun_frame();
            let end =
                if written == 0 { 0 } else { *ends.iter().find(|&&end| end >= written).unwrap() };
            assert_eq!(gather(&transmit), flat[written..end], "after {written}");
            transmit.append(|out| out.extend(b"close-ok"));
            assert!(gather(&transmit).ends_with(b"close-ok"), "after {written}");
            assert_eq!(transmit.pending(), end - written + 8);
        }
    }

    #[test]
    fn the_tail_is_compacted_while_it_never_runs_empty() {
        let mut transmit = Transmit::default();
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for round in 0..2000_u32 {
            let body = round.to_be_bytes().repeat(1 + (round as usize % 40));
            let frame =
                |out: &mut Vec<u8>| put_frame(out, FrameKind::Body, 1, |out| out.extend(&body));
            transmit.append(frame);
            frame(&mut expected);
            if transmit.pending() > 20_000 {
                let chunk = gather(&transmit)[..1234].to_vec();
                sent.extend(&chunk);
                transmit.written(chunk.len(), true);
            }
            assert!(transmit.tail.capacity() < 256 << 10);
        }
        sent.extend(gather(&transmit));
        assert!(sent == expected);
    }

    #[test]
    fn memory_is_given_back_while_nothing_is_pending() {
        let mut transmit = Transmit::default();
        transmit.append(|out| put_frame(out, FrameKind::Body, 1, |out| out.extend(large(100_000))));
        transmit.shrink();
        assert_eq!(transmit.pending(), 100_008);
        transmit.written(100_008, true);
        transmit.shrink();
        assert!(transmit.tail.capacity() <= IDLE_CAPACITY);
    }
}
