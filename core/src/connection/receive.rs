//! Incoming bytes: one buffer that the driver reads into and frames are decoded from.

/// The size that a buffer starts with, and falls back to when idle.
const IDLE: usize = 8 << 10;
/// The size beyond which it grows only for a frame that needs it.
const BUSY: usize = 64 << 10;

/// Bytes received and not decoded yet.
///
/// It grows by doubling when a read fills it, so that it never holds more than twice what arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receive {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    filled: bool,
    /// The body frame whose payload is being taken as it arrives.
    payload: Option<Payload>,
    /// Nobody knows where the next frame begins.
    adrift: bool,
}

/// A body frame that has begun to arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    pub(crate) channel: u16,
    /// Bytes of its payload that are due; after them comes its end octet.
    pub(crate) missing: usize,
}

impl Receive {
    /// Space to read into: never empty. `frame_max` is the largest frame that can be under way.
    pub(crate) fn space(&mut self, frame_max: usize) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let length = self.buffer.len();
        if length == 0 {
            self.buffer.resize(IDLE, 0);
        } else if self.end == length && length < BUSY.max(frame_max) || self.filled && length < BUSY
        {
            self.buffer.resize(length * 2, 0);
        }
        self.filled = false;
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// `n` bytes were read into the space.
    pub(crate) fn read(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
        self.filled = self.end == self.buffer.len();
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) const fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// The payload that these bytes begin with, or go on with.
    pub(crate) const fn payload(&self) -> Option<Payload> {
        self.payload
    }

    pub(crate) const fn set_payload(&mut self, payload: Option<Payload>) {
        self.payload = payload;
    }

    /// No frame can be found in these bytes, nor in what follows. One that were found there, an ack
    /// say, would be nobody's word.
    pub(crate) const fn lose_frames(&mut self) {
        self.adrift = true;
    }

    pub(crate) const fn is_adrift(&self) -> bool {
        self.adrift
    }

    /// Discards everything; whether `wanted` was in it, also in parts.
    pub(crate) fn discard_and_seek(&mut self, wanted: &[u8]) -> bool {
        let found = self.bytes().windows(wanted.len()).any(|window| window == wanted);
        self.consume((self.end - self.start).saturating_sub(wanted.len() - 1));
        found
    }

    /// Gives memory back while it holds nothing.
    pub(crate) fn shrink(&mut self) {
        if self.start == self.end && self.buffer.len() > IDLE {
            let Self { payload, adrift, .. } = *self;
            *self = Self { payload, adrift, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_reads_fill_it_and_for_a_frame_that_needs_it() {
        let mut receive = Receive::default();
        for expected in [8, 16, 32, 64, 64] {
            let space = receive.space(131_072).len();
            assert_eq!(space, expected << 10);
            receive.read(space);
            receive.consume(space);
        }
        // A frame of 128 KiB is under way.
        let mut arrived = 0;
        while arrived < 131_072 {
            let space = receive.space(131_072).len().min(10_000);
            assert!(space > 0);
            receive.read(space);
            arrived += space;
        }
        assert_eq!(receive.bytes().len(), arrived);
        assert!(receive.buffer.len() <= 262_144);
    }

    #[test]
    fn what_is_not_consumed_moves_to_the_front() {
        let mut receive = Receive::default();
        receive.space(4096)[..6].copy_from_slice(b"abcdef");
        receive.read(6);
        receive.consume(4);
        receive.space(4096)[0] = b'g';
        receive.read(1);
        assert_eq!(receive.bytes(), b"efg");
    }

    #[test]
    fn f01_what_is_sought_is_found_once_however_the_reads_cut_it() {
        let stream = b"..wanted....";
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut receive = Receive::default();
                // Something in front that was consumed.
                receive.space(4096)[0] = b'!';
                receive.read(1);
                let mut found = 0;
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    receive.space(4096)[..part.len()].copy_from_slice(part);
                    receive.read(part.len());
                    if found == 0 && first % 2 == 0 && receive.bytes().starts_with(b"!") {
                        receive.consume(1);
                    }
                    found += usize::from(receive.discard_and_seek(b"wanted"));
                    assert!(receive.bytes().len() < 6, "no more than may be its beginning");
                }
                assert_eq!(found, 1, "{first} {second}");
            }
        }
    }

    #[test]
    fn memory_is_given_back_only_while_it_holds_nothing() {
        let mut receive = Receive::default();
        let mut give_back = |fill: usize, consume: usize| {
            while receive.bytes().len() < fill {
                let more = (fill - receive.bytes().len()).min(receive.space(131_072).len());
                receive.read(more);
            }
            receive.consume(consume);
            receive.shrink();
            (receive.bytes().len(), receive.buffer.len())
        };
        // The space that it starts with is kept.
        assert_eq!(give_back(100, 100), (0, IDLE));
        assert_eq!(give_back(100_000, 99_999), (1, 131_072));
        assert_eq!(give_back(1, 1), (0, 0));
        // Where the stream stands is not lost with it: in a payload, or nobody knows where.
        receive.set_payload(Some(Payload { channel: 1, missing: 20_000 }));
        receive.lose_frames();
        receive.space(4096);
        receive.buffer.resize(2 * IDLE, 0);
        receive.shrink();
        assert!(receive.buffer.is_empty() && receive.is_adrift());
        assert_eq!(receive.payload().map(|payload| payload.missing), Some(20_000));
    }
}
