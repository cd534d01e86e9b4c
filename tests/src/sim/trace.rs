//! What happened in a world: a hash of everything, and the words if somebody wants to read them.

use std::fmt::{self, Write as _};

use lavinmq_core::time::Time;

use super::pipe::Way;

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

    /// A task is about to be polled.
    pub fn poll(&mut self, at: Time, task: &str) {
        self.events += 1;
        self.hash.word(at.as_nanos());
        self.hash.bytes(task.as_bytes());
        if self.print {
            eprintln!("{:>12.6} poll {task}", at.as_nanos() as f64 / 1e9);
        }
    }

    /// Bytes went over the link of this number.
    pub fn bytes(&mut self, at: Time, way: Way, link: u64, bytes: &[u8]) {
        self.events += 1;
        self.hash.word(at.as_nanos());
        self.hash.word(link << 1 | u64::from(way == Way::Up));
        self.hash.bytes(bytes);
        if self.print {
            let way = if way == Way::Up { "up" } else { "down" };
            let count = bytes.len();
            eprintln!("{:>12.6} {way} {link}: {count} bytes", at.as_nanos() as f64 / 1e9);
            eprintln!("             {}", bytes[..count.min(4000)].escape_ascii());
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
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
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
        let run = |at: u64, what: &str, way: Way, link: u64, bytes: &[u8]| {
            let at = Time::from_nanos(at);
            let mut trace = Trace::default();
            trace.event(at, format_args!("{what}"));
            trace.poll(at, what);
            trace.bytes(at, way, link, bytes);
            trace.hash()
        };
        let base = run(1, "a", Way::Up, 0, b"xyz");
        assert_eq!(base, run(1, "a", Way::Up, 0, b"xyz"));
        for other in [
            run(2, "a", Way::Up, 0, b"xyz"),
            run(1, "b", Way::Up, 0, b"xyz"),
            run(1, "a", Way::Down, 0, b"xyz"),
            run(1, "a", Way::Up, 1, b"xyz"),
            run(1, "a", Way::Up, 0, b"xyw"),
            run(1, "a", Way::Up, 0, b"xyz\0"),
        ] {
            assert_ne!(base, other);
        }
    }
}
