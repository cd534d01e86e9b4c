//! What happened in a world: a hash of everything, and the words if somebody wants to read them.

use std::fmt::{self, Write as _};

use lavinmq_core::time::Time;

/// A hash over all events and bytes of a run. Two runs of one seed must end with the same.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: Hash,
    events: u64,
    print: bool,
}

impl Trace {
    /// A trace that also prints every event to standard error, if `print`.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    /// Something happened.
    pub fn event(&mut self, at: Time, what: fmt::Arguments<'_>) {
        self.events += 1;
        self.hash.word(at.as_nanos());
        // Writing into a hash cannot fail; a Display that fails shows in the hash all the same.
        let _ = self.hash.write_fmt(what);
        if self.print {
            eprintln!("{:>12.6} {what}", at.as_nanos() as f64 / 1e9);
        }
    }

    /// Bytes went over a wire.
    pub fn bytes(&mut self, at: Time, wire: fmt::Arguments<'_>, bytes: &[u8]) {
        self.event(at, format_args!("{wire} {} bytes", bytes.len()));
        self.hash.bytes(bytes);
        if self.print {
            let shown = &bytes[..bytes.len().min(4000)];
            eprintln!("             {}", shown.escape_ascii());
        }
    }

    /// The hash so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash.0
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Hash(u64);

impl Hash {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
    }
}

impl fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_shows_in_the_hash() {
        let run = |at: u64, what: &str, bytes: &[u8]| {
            let mut trace = Trace::default();
            trace.event(Time::from_nanos(at), format_args!("{what}"));
            trace.bytes(Time::from_nanos(at), format_args!("up"), bytes);
            trace.hash()
        };
        let base = run(1, "a", b"xyz");
        assert_eq!(base, run(1, "a", b"xyz"));
        for other in
            [run(2, "a", b"xyz"), run(1, "b", b"xyz"), run(1, "a", b"xyw"), run(1, "a", b"xyz\0")]
        {
            assert_ne!(base, other);
        }
    }
}
