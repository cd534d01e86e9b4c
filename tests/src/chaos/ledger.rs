//! What is known of every message of one producer, by its number: what the client said, and which
//! copies were seen.

use std::{
    mem,
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use lavinmq_core::Verdict;

/// What became of a message, as a hook or a receipt said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Heard {
    #[default]
    Nothing,
    Confirmed,
    Dropped,
    Nacked,
    Returned,
    Failed,
    Unknown,
}

impl Heard {
    pub const fn of(verdict: Option<&Verdict>) -> Self {
        match verdict {
            None => Self::Confirmed,
            Some(Verdict::Nacked) => Self::Nacked,
            Some(Verdict::Returned(_)) => Self::Returned,
            Some(Verdict::Dropped(_)) => Self::Dropped,
            Some(Verdict::Failed(_)) => Self::Failed,
            Some(_) => Self::Unknown,
        }
    }
}

/// One message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// `publish` took it (and not only began).
    pub accepted: bool,
    pub hook: Heard,
    pub receipt: Heard,
    /// When its outcome was heard, in milliseconds since the start.
    pub settled_ms: u32,
    /// Copies seen that had not been delivered before, by their attempt: bit 0 is the first.
    /// The last bit stands for that attempt and all later ones.
    fresh: u16,
    /// The same for all copies seen, those delivered again included.
    seen: u16,
}

/// The attempts that are told apart.
const ATTEMPTS: i64 = 16;

impl Entry {
    pub const fn was_seen(&self) -> bool {
        self.seen != 0
    }

    /// How many different copies were seen.
    pub const fn copies(&self) -> u32 {
        self.seen.count_ones()
    }

    pub const fn attempts_seen(&self) -> u16 {
        self.seen
    }
}

/// How a producer publishes: what may become of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    FireAndForget,
    Confirm,
}

/// Entries are kept in pieces that never move: the memory they take is known.
const PIECE: usize = 16 * 1024;

#[derive(Debug)]
struct Entries {
    pieces: Vec<Box<[Entry]>>,
    count: usize,
}

/// What a producer's messages came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub offered: u64,
    pub accepted: u64,
    pub confirmed: u64,
    pub dropped: u64,
    pub nacked: u64,
    pub returned: u64,
    pub failed: u64,
    pub unknown: u64,
    pub unheard: u64,
    pub seen: u64,
    pub copies: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.offered += other.offered;
        self.accepted += other.accepted;
        self.confirmed += other.confirmed;
        self.dropped += other.dropped;
        self.nacked += other.nacked;
        self.returned += other.returned;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.unheard += other.unheard;
        self.seen += other.seen;
        self.copies += other.copies;
    }
}

/// The messages of one producer.
#[derive(Debug)]
pub struct Ledger {
    /// Names it in bodies.
    pub id: u16,
    pub name: &'static str,
    pub mode: Mode,
    pub queue: String,
    began: Instant,
    entries: Mutex<Entries>,
    /// What cannot be, as it is noticed.
    violations: Arc<Violations>,
}

/// What cannot be: a bounded list, and how many more there were.
#[derive(Debug, Default)]
pub struct Violations(Mutex<(Vec<String>, u64)>);

impl Violations {
    const KEPT: usize = 40;

    pub fn add(&self, what: String) {
        let mut list = self.0.lock().unwrap();
        if list.0.len() < Self::KEPT {
            eprintln!("chaos: VIOLATION {what}");
            list.0.push(what);
        } else {
            list.1 += 1;
        }
    }

    pub fn count(&self) -> u64 {
        let list = self.0.lock().unwrap();
        list.0.len() as u64 + list.1
    }

    /// Those kept, and the number of the others.
    pub fn take(&self) -> (Vec<String>, u64) {
        mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Ledger {
    pub fn new(
        id: u16,
        name: &'static str,
        mode: Mode,
        queue: &str,
        began: Instant,
        violations: &Arc<Violations>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            mode,
            queue: queue.to_owned(),
            began,
            entries: Mutex::new(Entries { pieces: Vec::new(), count: 0 }),
            violations: Arc::clone(violations),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap()
    }

    fn violation(&self, number: u64, what: &str) {
        self.violations.add(format!("{} message {number}: {what}", self.name));
    }

    /// The number of a new message.
    pub fn offer(&self) -> u64 {
        let mut entries = self.lock();
        let number = entries.count;
        if number.is_multiple_of(PIECE) {
            entries.pieces.push(vec![Entry::default(); PIECE].into_boxed_slice());
        }
        entries.count += 1;
        number as u64
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Entry) -> Option<&'static str>) {
        let mut entries = self.lock();
        let known = number < entries.count as u64;
        let entry = entries
            .pieces
            .get_mut(number as usize / PIECE)
            .and_then(|piece| piece.get_mut(number as usize % PIECE))
            .filter(|_| known);
        let problem = entry.map_or(Some("nobody published it"), change);
        drop(entries);
        if let Some(problem) = problem {
            self.violation(number, problem);
        }
    }

    pub fn accept(&self, number: u64) {
        self.change(number, |entry| {
            entry.accepted = true;
            None
        });
    }

    /// A hook called. (It may do so before the publisher has noted that its message was accepted.)
    pub fn hook(&self, number: u64, heard: Heard) {
        let now = self.began.elapsed().as_millis() as u32;
        self.change(number, |entry| {
            if entry.hook != Heard::Nothing {
                return Some("its outcome was reported to a hook twice");
            }
            entry.hook = heard;
            entry.settled_ms = now;
            None
        });
    }

    pub fn receipt(&self, number: u64, heard: Heard) {
        self.change(number, |entry| {
            entry.receipt = heard;
            None
        });
    }

    /// A copy was read by a consumer or by the witness, with its header `x-attempt`.
    pub fn saw(&self, number: u64, attempt: Option<i64>, redelivered: bool) {
        let mode = self.mode;
        self.change(number, |entry| {
            if attempt.is_some_and(|attempt| attempt < 2) {
                return Some("x-attempt below 2");
            }
            let attempt = attempt.unwrap_or(1).clamp(1, ATTEMPTS);
            let bit = 1 << (attempt - 1);
            if mode == Mode::FireAndForget && attempt > 1 {
                return Some("a second attempt in fire-and-forget mode");
            }
            if !redelivered {
                if entry.fresh & bit != 0 && attempt < ATTEMPTS {
                    return Some("two copies of one attempt");
                }
                entry.fresh |= bit;
            }
            entry.seen |= bit;
            None
        });
    }

    pub fn for_each(&self, mut visit: impl FnMut(u64, &Entry)) {
        let entries = self.lock();
        let all = entries.pieces.iter().flatten().take(entries.count);
        for (number, entry) in all.enumerate() {
            visit(number as u64, entry);
        }
    }

    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        self.for_each(|_, entry| {
            sums.offered += 1;
            sums.accepted += u64::from(entry.accepted);
            sums.seen += u64::from(entry.was_seen());
            sums.copies += u64::from(entry.copies());
            *match entry.hook {
                Heard::Nothing if entry.accepted => &mut sums.unheard,
                Heard::Nothing => return,
                Heard::Confirmed => &mut sums.confirmed,
                Heard::Dropped => &mut sums.dropped,
                Heard::Nacked => &mut sums.nacked,
                Heard::Returned => &mut sums.returned,
                Heard::Failed => &mut sums.failed,
                Heard::Unknown => &mut sums.unknown,
            } += 1;
        });
        sums
    }

    /// How many bytes the entries take.
    pub fn memory(&self) -> u64 {
        (self.lock().pieces.len() * PIECE * size_of::<Entry>()) as u64
    }
}

/// A body: whose it is, its number, and a filling that only this message has.
pub fn body(producer: u16, number: u64, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length.max(HEAD));
    body.extend_from_slice(MARK);
    body.extend_from_slice(&producer.to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    let filling = filling(producer, number);
    while body.len() < length {
        let left = length - body.len();
        body.extend_from_slice(&filling[..left.min(filling.len())]);
    }
    body
}

/// Whose a body is, and its number; `None` if it is not one of ours, or was damaged.
pub fn parse(body: &[u8]) -> Option<(u16, u64)> {
    let rest = body.strip_prefix(MARK)?;
    let (producer, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (producer, number) = (u16::from_be_bytes(*producer), u64::from_be_bytes(*number));
    let filling = filling(producer, number);
    rest.chunks(filling.len())
        .all(|chunk| *chunk == filling[..chunk.len()])
        .then_some((producer, number))
}

const MARK: &[u8] = b"chaos ";
const HEAD: usize = MARK.len() + 2 + 8;

fn filling(producer: u16, number: u64) -> [u8; 8] {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(producer) << 17).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(mode: Mode) -> (Arc<Ledger>, Arc<Violations>) {
        let violations = Arc::new(Violations::default());
        (Ledger::new(1, "p", mode, "q", Instant::now(), &violations), violations)
    }

    #[test]
    fn bodies_say_whose_they_are_and_whether_they_are_whole() {
        for length in [0, 16, 17, 100, 5_000] {
            let whole = body(7, 300, length);
            assert_eq!(whole.len(), length.max(HEAD));
            assert_eq!(parse(&whole), Some((7, 300)));
            if length > HEAD {
                let mut damaged = whole;
                damaged[length - 1] ^= 1;
                assert_eq!(parse(&damaged), None);
            }
        }
        assert_eq!(parse(b"chaos 12"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn copies_are_told_apart_by_their_attempt() {
        let (ledger, violations) = ledger(Mode::Confirm);
        let number = ledger.offer();
        ledger.accept(number);
        ledger.saw(number, None, false);
        ledger.saw(number, None, true);
        ledger.saw(number, Some(2), false);
        assert_eq!((violations.count(), ledger.sums().copies), (0, 2));
        ledger.saw(number, Some(2), false);
        assert_eq!(violations.count(), 1);
        ledger.saw(number + 1, None, false);
        assert_eq!(violations.count(), 2);
    }

    #[test]
    fn a_second_outcome_and_a_second_attempt_without_confirms_are_noticed() {
        let (ledger, violations) = ledger(Mode::FireAndForget);
        let number = ledger.offer();
        ledger.hook(number, Heard::Dropped);
        assert_eq!(violations.count(), 0);
        ledger.hook(number, Heard::Dropped);
        assert_eq!(violations.count(), 1);
        ledger.saw(number, Some(2), false);
        assert_eq!(violations.count(), 2);
    }
}
