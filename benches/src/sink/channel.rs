//! One channel of a connection of the sink: the message on its way in, and what its consumers are
//! given.

use std::collections::VecDeque;
use std::time::Duration;

use super::echo::Echo;
use crate::Fallible;
use crate::wire::{self, id};

#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) open: bool,
    pub(super) confirms: bool,
    /// Messages that came whole: since confirm.select, the tag of the last one.
    pub(super) published: u64,
    pub(super) confirmed: u64,
    /// Of the message that is on its way: `None` between messages.
    pub(super) content: Option<Content>,
    /// The same message, if it goes back to consumers.
    pub(super) echo: Option<Box<Echo>>,
    /// The most unsettled deliveries of the channel's consumers together; 0 is no limit.
    pub(super) prefetch: u32,
    /// The tag of the last delivery.
    pub(super) delivered: u64,
    /// One entry per delivery from `delivered - unsettled.len() + 1` on: settled yet?
    pub(super) unsettled: VecDeque<bool>,
    pub(super) outstanding: u32,
    pub(super) consumers: Vec<Consumer>,
    /// Whether it is on the list of those that may have something to deliver.
    pub(super) listed: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Header,
    Body(u64),
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) tag: String,
    pub(super) no_ack: bool,
    /// Gets nothing before the next `basic.qos` on its channel.
    pub(super) held: bool,
    /// A whole delivery, encoded; its tag is patched in at `tag_at`.
    pub(super) encoded: Vec<u8>,
    pub(super) tag_at: usize,
    pub(super) left: u64,
    /// The most deliveries before another channel has its turn.
    turn: u64,
}

impl Consumer {
    /// Of a queue that is named for what it holds: see [`Supply`].
    pub(super) fn new(
        tag: String,
        no_ack: bool,
        number: u16,
        queue: &str,
        supply: &Supply,
        frame_max: u32,
    ) -> Self {
        let mut encoded = Vec::new();
        let mut tag_at = 0;
        wire::method(&mut encoded, number, id::BASIC_DELIVER, |w| {
            w.short_string(&tag);
            tag_at = w.0.len();
            w.longlong(0).octet(0).short_string("").short_string(queue);
        });
        wire::header(&mut encoded, number, supply.size, false);
        wire::body(&mut encoded, number, &vec![b'x'; supply.size], frame_max);
        let Supply { held, left, turn, .. } = *supply;
        Self { tag, no_ack, held, encoded, tag_at, left, turn }
    }
}

impl Channel {
    pub(super) fn can_deliver(&self) -> bool {
        self.consumers.iter().any(|consumer| {
            consumer.left > 0
                && !consumer.held
                && (consumer.no_ack || self.prefetch == 0 || self.outstanding < self.prefetch)
        })
    }

    /// Encodes deliveries until `batch` bytes are in `out`, or none may be sent: how many.
    pub(super) fn deliver(&mut self, out: &mut Vec<u8>, batch: usize) -> u64 {
        let mut delivered = 0;
        for consumer in &mut self.consumers {
            let until = consumer.left.saturating_sub(consumer.turn);
            while consumer.left > until && !consumer.held && out.len() < batch {
                if !consumer.no_ack {
                    if self.prefetch > 0 && self.outstanding >= self.prefetch {
                        break;
                    }
                    self.outstanding += 1;
                    self.unsettled.push_back(false);
                }
                self.delivered += 1;
                // A no-ack delivery takes a tag as well: nobody will settle it.
                if consumer.no_ack && !self.unsettled.is_empty() {
                    self.unsettled.push_back(true);
                }
                let tag_at = out.len() + consumer.tag_at;
                out.extend_from_slice(&consumer.encoded);
                out[tag_at..tag_at + 8].copy_from_slice(&self.delivered.to_be_bytes());
                consumer.left -= 1;
                delivered += 1;
            }
        }
        delivered
    }

    /// A delivery, or all up to it, was acked or rejected: how many that settles.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool) -> Fallible<u32> {
        let base = self.delivered - self.unsettled.len() as u64 + 1;
        let tag = if tag == 0 && multiple { self.delivered } else { tag };
        let place = tag.checked_sub(base).unwrap_or(u64::MAX);
        let mut settled = 0;
        match self.unsettled.get_mut(usize::try_from(place)?) {
            None => return Err(format!("unknown delivery tag {tag}").into()),
            Some(true) => return Err(format!("delivery tag {tag} settled twice").into()),
            Some(done) if !multiple => {
                *done = true;
                settled = 1;
            }
            Some(_) => {
                for done in self.unsettled.drain(..=usize::try_from(place)?) {
                    settled += u32::from(!done);
                }
            }
        }
        while self.unsettled.front() == Some(&true) {
            self.unsettled.pop_front();
        }
        self.outstanding -= settled;
        Ok(settled)
    }
}

/// The channel of that number, which must be open.
#[inline]
pub(super) fn open(channels: &mut [Channel], number: u16) -> Fallible<&mut Channel> {
    match channels.get_mut(usize::from(number)) {
        Some(channel) if channel.open => Ok(channel),
        _ => Err(format!("channel {number} is not open").into()),
    }
}

/// What a queue holds for each consumer.
pub(super) struct Supply {
    size: usize,
    left: u64,
    held: bool,
    pub(super) delay: Duration,
    turn: u64,
}

impl Supply {
    /// By its name: see the module above.
    pub(super) fn of(queue: &str) -> Self {
        let (queue, held) = match queue.strip_suffix("-held") {
            Some(queue) => (queue, true),
            None => (queue, false),
        };
        let mut parts = queue.strip_prefix("deliver-").unwrap_or("0-0").split('-').map(str::parse);
        let mut next = |otherwise| parts.next().and_then(Result::ok).unwrap_or(otherwise);
        let (size, left) = (next(0) as usize, next(u64::MAX));
        let delay = Duration::from_millis(next(0));
        Self { size, left, held, delay, turn: next(u64::MAX).max(1) }
    }
}
