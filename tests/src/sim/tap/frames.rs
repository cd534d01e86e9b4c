//! Cuts a stream of bytes into frames, however it is split.

use lavinmq_core::wire::{Frame, PROTOCOL_HEADER, decode};

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the protocol header that are still to come.
    header: usize,
    /// A frame of which only the beginning came.
    partial: Vec<u8>,
}

impl Frames {
    /// What a client sends: its protocol header comes first.
    pub(super) const fn of_client() -> Self {
        Self { header: PROTOCOL_HEADER.len(), partial: Vec::new() }
    }

    /// What a broker sends.
    pub(super) const fn of_broker() -> Self {
        Self { header: 0, partial: Vec::new() }
    }

    /// Takes bytes, and gives the frames that they complete. False if they are no frames.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) -> bool {
        let skipped = self.header.min(bytes.len());
        self.header -= skipped;
        let mut bytes = &bytes[skipped..];
        let joined;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            bytes = &joined;
        }
        loop {
            match decode(bytes, u32::MAX) {
                Ok(Some((frame, used))) => {
                    each(frame);
                    bytes = &bytes[used..];
                }
                Ok(None) => {
                    self.partial.extend_from_slice(bytes);
                    return true;
                }
                Err(_) => return false,
            }
        }
    }

    /// The beginning of the frame that did not come whole.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }
}

#[cfg(test)]
mod tests {
    use lavinmq_core::wire::{put_ack, put_body};

    use super::*;

    #[test]
    fn frames_are_the_same_however_they_are_split() {
        let mut bytes = PROTOCOL_HEADER.to_vec();
        for n in 1..20 {
            put_ack(&mut bytes, 1, n, false);
            put_body(&mut bytes, 2, &vec![7; n as usize * 3], 4096);
        }
        for size in [1, 2, 7, 13, 4096] {
            let mut frames = Frames::of_client();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                assert!(
                    frames.feed(chunk, |frame| seen.push((frame.channel, frame.payload.len())))
                );
            }
            assert_eq!(seen.len(), 38, "chunks of {size}");
            assert!(frames.partial().is_empty());
        }
    }
}
