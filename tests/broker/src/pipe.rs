//! One direction of a memory link, as a value: the simulator's network.

use std::{collections::VecDeque, time::Duration};

use lavinmq_core::time::Time;

use crate::random::Random;

/// How a [`Pipe`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeSettings {
    /// The least time that bytes are under way.
    pub latency: Duration,
    /// Up to this much is added to the latency of each write, at random. Bytes still arrive in order.
    pub jitter: Duration,
    /// How many bytes can be under way, in bytes. Writes beyond it take nothing.
    pub capacity: usize,
    /// A read gives at most this many bytes, and at random as few as one; 0 is no limit.
    pub chunk: usize,
}

impl Default for PipeSettings {
    /// No latency, 64 KiB, reads as large as they can be.
    fn default() -> Self {
        Self { latency: Duration::ZERO, jitter: Duration::ZERO, capacity: 64 * 1024, chunk: 0 }
    }
}

/// What a read found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeRead {
    /// So many bytes.
    Bytes(usize),
    /// Nothing has arrived; see [`Pipe::next_arrival`].
    Nothing,
    /// The writer closed its end, and everything was read.
    Eof,
    /// The connection was reset.
    Reset,
}

/// Nobody will read what is written: the pipe was reset, closed or cut. The write took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pipe is broken")]
pub struct BrokenPipe;

/// Bytes under way in one direction, with latency, a capacity, and faults.
///
/// No clock and no randomness of its own: the same calls give the same results. Two of them make a
/// connection; a reset of a connection is [`reset`](Self::reset) on both.
#[derive(Clone, Debug)]
pub struct Pipe {
    settings: PipeSettings,
    segments: VecDeque<Segment>,
    /// Bytes under way.
    length: usize,
    /// Bytes taken since the beginning, those that were lost included.
    taken: u64,
    end: End,
    stalled: bool,
    cut_at: Option<u64>,
    lose_from: Option<u64>,
    /// When the last byte arrives: nothing overtakes it.
    last_arrival: Time,
}

#[derive(Clone, Debug)]
struct Segment {
    arrives: Time,
    bytes: VecDeque<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// Closed by the writer: an end of the stream after the last byte.
    Closed,
    /// A reset after the last byte.
    Cut,
    Reset,
}

impl Pipe {
    /// An empty pipe.
    #[must_use]
    pub const fn new(settings: PipeSettings) -> Self {
        Self {
            settings,
            segments: VecDeque::new(),
            length: 0,
            taken: 0,
            end: End::Open,
            stalled: false,
            cut_at: None,
            lose_from: None,
            last_arrival: Time::ZERO,
        }
    }

    /// Writes as much as there is room for; how much that was (0: wait for a read).
    ///
    /// # Errors
    ///
    /// [`BrokenPipe`] after a close, cut or reset.
    pub fn write(
        &mut self,
        bytes: &[u8],
        now: Time,
        random: &mut Random,
    ) -> Result<usize, BrokenPipe> {
        if self.end != End::Open {
            return Err(BrokenPipe);
        }
        let mut n = bytes.len().min(self.room());
        if let Some(at) = self.cut_at {
            n = n.min(usize::try_from(at.saturating_sub(self.taken)).unwrap_or(usize::MAX));
        }
        let kept = self.lose_from.map_or(n, |from| {
            n.min(usize::try_from(from.saturating_sub(self.taken)).unwrap_or(usize::MAX))
        });
        let nanos = u64::try_from(self.settings.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = Duration::from_nanos(random.below(nanos.saturating_add(1)));
        self.last_arrival = self.last_arrival.max(now + self.settings.latency + jitter);
        if let Some(bytes) = bytes.get(..kept)
            && kept > 0
        {
            self.segments.push_back(Segment {
                arrives: self.last_arrival,
                bytes: bytes.iter().copied().collect(),
            });
        }
        self.length += kept;
        self.taken += n as u64;
        self.check_cut();
        Ok(n)
    }

    /// Reads what has arrived, into the beginning of `into`.
    pub fn read(&mut self, into: &mut [u8], now: Time, random: &mut Random) -> PipeRead {
        if self.end == End::Reset {
            return PipeRead::Reset;
        }
        if self.stalled || self.last_arrival > now && self.segments.is_empty() {
            return PipeRead::Nothing;
        }
        let arrived: usize = self
            .segments
            .iter()
            .take_while(|segment| segment.arrives <= now)
            .map(|segment| segment.bytes.len())
            .sum();
        if arrived == 0 {
            return match self.end {
                _ if !self.segments.is_empty() => PipeRead::Nothing,
                End::Open => PipeRead::Nothing,
                End::Closed => PipeRead::Eof,
                End::Cut | End::Reset => PipeRead::Reset,
            };
        }
        let mut n = arrived.min(into.len());
        if self.settings.chunk > 0 && n > 0 {
            let most = n.min(self.settings.chunk);
            n = 1 + usize::try_from(random.below(most as u64)).unwrap_or(0);
        }
        let mut slots = into.iter_mut().take(n);
        while let Some(segment) = self.segments.front_mut() {
            while !segment.bytes.is_empty()
                && let Some(slot) = slots.next()
            {
                *slot = segment.bytes.pop_front().unwrap_or_default();
            }
            if !segment.bytes.is_empty() {
                break;
            }
            self.segments.pop_front();
        }
        self.length -= n;
        PipeRead::Bytes(n)
    }

    /// When a read will find something; none while nothing is under way, or the pipe is stalled.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Time> {
        if self.end == End::Reset {
            return Some(Time::ZERO);
        }
        if self.stalled {
            return None;
        }
        let ended = (self.end != End::Open).then_some(self.last_arrival);
        self.segments.front().map(|segment| segment.arrives).or(ended)
    }

    /// How many bytes a write can take now.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.settings.capacity.saturating_sub(self.length)
    }

    /// Bytes under way.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether no bytes are under way.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes taken since the beginning.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether writes fail.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.end != End::Open
    }

    /// The writer closes its end: what is under way still arrives, then the end of the stream.
    pub fn close(&mut self) {
        if self.end == End::Open {
            self.end = End::Closed;
        }
    }

    /// Resets at once: what is under way is lost, reads find a reset, writes fail.
    pub fn reset(&mut self) {
        self.end = End::Reset;
        self.segments.clear();
        self.length = 0;
    }

    /// Silence: nothing arrives (not even an end) until [`resume`](Self::resume); writes are taken as
    /// long as there is room.
    pub const fn stall(&mut self) {
        self.stalled = true;
    }

    /// Ends a silence.
    pub const fn resume(&mut self) {
        self.stalled = false;
    }

    /// Cuts the pipe after the next `n` bytes: a write takes no more than these, they arrive, and then
    /// reads find a reset and writes fail.
    pub fn cut_after(&mut self, n: u64) {
        self.cut_at = Some(self.taken.saturating_add(n));
        self.check_cut();
    }

    /// Loses everything after the next `n` bytes: writes are taken as before, as a kernel would, but
    /// arrive nowhere. End it with [`reset`](Self::reset).
    pub const fn lose_after(&mut self, n: u64) {
        self.lose_from = Some(self.taken.saturating_add(n));
    }

    /// Replaces the settings; what is under way keeps its time of arrival.
    pub const fn set(&mut self, settings: PipeSettings) {
        self.settings = settings;
    }

    fn check_cut(&mut self) {
        if self.end == End::Open && self.cut_at.is_some_and(|at| at <= self.taken) {
            self.end = End::Cut;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::ZERO;
    const MS: Duration = Duration::from_millis(1);

    fn all(pipe: &mut Pipe, now: Time, random: &mut Random) -> (Vec<u8>, PipeRead) {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 64]);
        loop {
            match pipe.read(&mut buffer, now, random) {
                PipeRead::Bytes(n) => bytes.extend_from_slice(&buffer[..n]),
                end => return (bytes, end),
            }
        }
    }

    #[test]
    fn bytes_arrive_in_order_after_their_latency() {
        let settings = PipeSettings { latency: 5 * MS, jitter: 20 * MS, ..Default::default() };
        let (mut pipe, mut random) = (Pipe::new(settings), Random::new(3));
        for (i, byte) in (0..50).enumerate() {
            let now = NOW + MS * u32::try_from(i).unwrap();
            assert_eq!(pipe.write(&[byte], now, &mut random), Ok(1));
        }
        assert_eq!(pipe.read(&mut [0; 9], NOW + 4 * MS, &mut random), PipeRead::Nothing);
        assert!(pipe.next_arrival().unwrap() >= NOW + 5 * MS);
        let (bytes, end) = all(&mut pipe, NOW + 75 * MS, &mut random);
        assert_eq!((bytes, end), ((0..50).collect(), PipeRead::Nothing));
    }

    #[test]
    fn capacity_bounds_what_is_under_way() {
        let settings = PipeSettings { capacity: 4, ..Default::default() };
        let (mut pipe, mut random) = (Pipe::new(settings), Random::new(3));
        assert_eq!(pipe.write(b"abcdef", NOW, &mut random), Ok(4));
        assert_eq!(pipe.write(b"ef", NOW, &mut random), Ok(0));
        assert_eq!(pipe.read(&mut [0; 3], NOW, &mut random), PipeRead::Bytes(3));
        assert_eq!(pipe.write(b"efgh", NOW, &mut random), Ok(3));
        assert_eq!(all(&mut pipe, NOW, &mut random).0, b"defg");
    }

    #[test]
    fn chunks_are_small_and_lose_nothing() {
        let settings = PipeSettings { chunk: 3, ..Default::default() };
        let (mut pipe, mut random) = (Pipe::new(settings), Random::new(3));
        let sent: Vec<u8> = (0..=255).collect();
        assert_eq!(pipe.write(&sent, NOW, &mut random), Ok(256));
        let (mut got, mut buffer, mut sizes) = (Vec::new(), [0; 64], [0; 4]);
        while let PipeRead::Bytes(n) = pipe.read(&mut buffer, NOW, &mut random) {
            got.extend_from_slice(&buffer[..n]);
            sizes[n] += 1;
        }
        assert_eq!(got, sent);
        assert!(sizes[1..].iter().all(|n| *n > 0), "{sizes:?}");
    }

    #[test]
    fn a_close_comes_after_the_last_byte_and_a_reset_before_it() {
        let settings = PipeSettings { latency: MS, ..Default::default() };
        let (mut pipe, mut random) = (Pipe::new(settings), Random::new(3));
        assert_eq!(pipe.write(b"ab", NOW, &mut random), Ok(2));
        pipe.close();
        assert_eq!(pipe.write(b"c", NOW, &mut random), Err(BrokenPipe));
        assert_eq!(all(&mut pipe.clone(), NOW, &mut random), (vec![], PipeRead::Nothing));
        assert_eq!(all(&mut pipe.clone(), NOW + MS, &mut random), (b"ab".to_vec(), PipeRead::Eof));
        pipe.reset();
        assert_eq!(all(&mut pipe, NOW, &mut random), (vec![], PipeRead::Reset));
    }

    #[test]
    fn a_cut_lets_exactly_n_bytes_through() {
        for n in 0..8 {
            let (mut pipe, mut random) = (Pipe::new(PipeSettings::default()), Random::new(3));
            pipe.write(b"..", NOW, &mut random).unwrap();
            pipe.cut_after(n);
            let mut taken = 0;
            for byte in b"abcdefgh" {
                taken += pipe.write(&[*byte], NOW, &mut random).unwrap_or(0) as u64;
            }
            assert_eq!(taken, n);
            let (bytes, end) = all(&mut pipe, NOW, &mut random);
            assert_eq!((bytes.len() as u64, end), (2 + n, PipeRead::Reset));
        }
    }

    #[test]
    fn lost_bytes_are_taken_and_do_not_arrive() {
        let (mut pipe, mut random) = (Pipe::new(PipeSettings::default()), Random::new(3));
        pipe.lose_after(3);
        assert_eq!(pipe.write(b"abcdef", NOW, &mut random), Ok(6));
        assert_eq!(pipe.write(b"ghi", NOW, &mut random), Ok(3));
        assert_eq!(all(&mut pipe, NOW, &mut random), (b"abc".to_vec(), PipeRead::Nothing));
    }

    #[test]
    fn a_stalled_pipe_is_silent() {
        let (mut pipe, mut random) = (Pipe::new(PipeSettings::default()), Random::new(3));
        pipe.stall();
        pipe.write(b"a", NOW, &mut random).unwrap();
        pipe.close();
        assert_eq!(pipe.next_arrival(), None);
        assert_eq!(all(&mut pipe, NOW, &mut random), (vec![], PipeRead::Nothing));
        pipe.resume();
        assert_eq!(all(&mut pipe, NOW, &mut random), (b"a".to_vec(), PipeRead::Eof));
    }
}
