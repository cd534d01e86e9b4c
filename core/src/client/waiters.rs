//! The line: publish futures that wait for room, first in, first out.
#![expect(clippy::disallowed_types, reason = "a waker is stored while its future waits")]

use std::{collections::BTreeMap, ops::Add, sync::Arc, task::Waker};

use crate::{event::State, time::Time};

/// So many messages, with so many bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }
}

/// Why a publish was refused; the message is wherever the caller has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    Full,
    Closed,
    Offline(Arc<State>),
    TimedOut,
}

/// How publishes ended that were not accepted, and how many wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admissions {
    pub(crate) refused_full: u64,
    pub(crate) refused_closed: u64,
    pub(crate) refused_offline: u64,
    pub(crate) refused_invalid: u64,
    pub(crate) timed_out: u64,
    pub(crate) cancelled: u64,
}

impl Admissions {
    pub(crate) const fn count(&mut self, refusal: &Refusal) {
        *match refusal {
            Refusal::Full => &mut self.refused_full,
            Refusal::Closed => &mut self.refused_closed,
            Refusal::Offline(_) => &mut self.refused_offline,
            Refusal::TimedOut => &mut self.timed_out,
        } += 1;
    }
}

/// What a waiting future finds when it looks.
#[derive(Debug)]
pub(crate) enum Turn {
    /// With the waker stored before, to be dropped outside the lock.
    Wait(Option<Waker>),
    /// Room was reserved for it. It has left the line and must take it now.
    Granted(u64),
    Refused(Refusal),
}

#[derive(Debug)]
enum Status {
    Waiting,
    /// Room is reserved; the future has been woken to take it.
    Granted,
    /// Decided (and counted); the future has been woken to hear it.
    Refused(Refusal),
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    status: Status,
    /// Set by the driver, by its own clock, when it first sees the entry.
    deadline: Option<Time>,
    waker: Option<Waker>,
}

/// What the admission keeps behind its lock.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) closed: bool,
    /// There is no connection, and the producer was told to refuse then.
    pub(crate) offline: bool,
    pub(crate) counts: Admissions,
    /// Futures at their fairness yield: they wait, but not for room.
    pub(crate) yielding: u64,
    /// By ticket, so in order of arrival.
    entries: BTreeMap<u64, Entry>,
    next_ticket: u64,
    /// No entry with a smaller ticket waits for a grant.
    next_grant: u64,
    /// Every entry with a smaller ticket has its deadline.
    next_stamp: u64,
    /// Entries that wait or hold a grant.
    live: u64,
    granted: Amount,
}

impl Line {
    /// Whether newcomers must look here before they are admitted.
    pub(crate) const fn is_needed(&self) -> bool {
        self.closed || self.offline || self.live > 0
    }

    /// Whether somebody waits for room, or was granted it and has not taken it yet.
    pub(crate) const fn is_occupied(&self) -> bool {
        self.live > 0
    }

    /// Futures that wait, for whatever reason.
    pub(crate) const fn waiting(&self) -> u64 {
        self.live + self.yielding
    }

    /// Joins the end of the line. Returns the ticket, and whether the driver must be told, so that
    /// it sets the deadline (if waiting has one).
    pub(crate) fn join(&mut self, bytes: u64, waker: Waker) -> (u64, bool) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.live += 1;
        let entry = Entry { bytes, status: Status::Waiting, deadline: None, waker: Some(waker) };
        self.entries.insert(ticket, entry);
        (ticket, self.next_stamp == ticket)
    }

    /// Reserves room for those in front, as far as there is any (`fits` is asked with what is
    /// reserved already, and the size of the next).
    pub(crate) fn grant(&mut self, fits: impl Fn(Amount, u64) -> bool, wakers: &mut Vec<Waker>) {
        for (&ticket, entry) in self.entries.range_mut(self.next_grant..) {
            if matches!(entry.status, Status::Waiting) {
                if !fits(self.granted, entry.bytes) {
                    break;
                }
                entry.status = Status::Granted;
                self.granted = self.granted + Amount { messages: 1, bytes: entry.bytes };
                wakers.extend(entry.waker.take());
            }
            self.next_grant = ticket + 1;
        }
    }

    /// A future looks after its place. Whoever is granted or refused has left the line after this.
    pub(crate) fn poll(&mut self, ticket: u64, waker: &Waker) -> Turn {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return Turn::Refused(Refusal::Closed); // not reached: a place ends with its entry
        };
        match &entry.status {
            Status::Waiting => {
                return Turn::Wait(store(&mut entry.waker, waker));
            }
            Status::Granted => {}
            Status::Refused(refusal) => {
                let refusal = refusal.clone();
                self.entries.remove(&ticket);
                return Turn::Refused(refusal);
            }
        }
        let bytes = entry.bytes;
        self.entries.remove(&ticket);
        self.live -= 1;
        self.release(bytes);
        Turn::Granted(bytes)
    }

    /// A future was dropped before it left the line. Returns its waker, to be dropped elsewhere.
    pub(crate) fn leave(&mut self, ticket: u64) -> Option<Waker> {
        let entry = self.entries.remove(&ticket)?;
        match entry.status {
            Status::Refused(_) => return entry.waker, // counted already
            Status::Granted => self.release(entry.bytes),
            Status::Waiting => {}
        }
        self.live -= 1;
        self.counts.cancelled += 1;
        entry.waker
    }

    /// Refuses everybody in the line, those with a grant too: none of them is accepted yet.
    pub(crate) fn refuse_all(&mut self, refusal: &Refusal, wakers: &mut Vec<Waker>) {
        for entry in self.entries.values_mut() {
            if !matches!(entry.status, Status::Refused(_)) {
                entry.status = Status::Refused(refusal.clone());
                self.counts.count(refusal);
                wakers.extend(entry.waker.take());
            }
        }
        self.live = 0;
        self.granted = Amount::default();
        self.next_grant = self.next_ticket;
    }

    /// Sets the deadlines of those who came since the last call.
    pub(crate) fn stamp(&mut self, deadline: Time) {
        for entry in self.entries.range_mut(self.next_stamp..).map(|(_, entry)| entry) {
            entry.deadline = Some(deadline);
        }
        self.next_stamp = self.next_ticket;
    }

    /// Ends the waiting of those whose deadline has come: they are refused, or (`admit`) granted
    /// room whether there is any or not. Deadlines come in the order of the line.
    pub(crate) fn expire(&mut self, now: Time, admit: bool, wakers: &mut Vec<Waker>) {
        for (&ticket, entry) in self.entries.range_mut(self.next_grant..) {
            if matches!(entry.status, Status::Waiting) {
                if entry.deadline.is_none_or(|deadline| deadline > now) {
                    break;
                }
                if admit {
                    entry.status = Status::Granted;
                    self.granted = self.granted + Amount { messages: 1, bytes: entry.bytes };
                } else {
                    entry.status = Status::Refused(Refusal::TimedOut);
                    self.counts.timed_out += 1;
                    self.live -= 1;
                }
                wakers.extend(entry.waker.take());
            }
            self.next_grant = ticket + 1;
        }
    }

    /// The earliest deadline of those who wait.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.entries
            .range(self.next_grant..)
            .find(|(_, entry)| matches!(entry.status, Status::Waiting))
            .and_then(|(_, entry)| entry.deadline)
    }

    const fn release(&mut self, bytes: u64) {
        self.granted.messages -= 1;
        self.granted.bytes -= bytes;
    }
}

/// Stores a waker, and returns the one that it replaces: dropping a waker runs an executor's code, so
/// that belongs outside every lock.
pub(crate) fn store(place: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match place {
        Some(stored) if stored.will_wake(waker) => None,
        _ => place.replace(waker.clone()),
    }
}
