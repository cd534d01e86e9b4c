//! The channels of one connection: their numbers, who owns them, and what each waits for.

use std::collections::BTreeSet;

use crate::{event::Return, ids::ConsumerId, wire::Deliver};

/// Who a channel works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Declarations.
    Control,
    /// A lane, by its index.
    Lane(usize),
    /// A consumer, in this generation of its channel.
    Consumer(ConsumerId, u64),
    /// Nobody any more: it is being closed.
    Nobody,
}

/// The reply that a channel waits for. At most one: the next method is written after it (s17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the methods are called so")]
pub(crate) enum Expect {
    OpenOk,
    SelectOk,
    QosOk,
    ConsumeOk,
    CancelOk,
    DeclareOk,
    CloseOk,
}

/// Content on its way in.
#[derive(Clone, Debug, Default)]
pub(crate) enum Content {
    #[default]
    None,
    /// The method came; its header is due.
    Header(Incoming),
    /// The header came; `missing` bytes of the body are due.
    Body { incoming: Incoming, body: Vec<u8>, missing: u64 },
}

impl Content {
    /// The bytes of a body that are due.
    pub(crate) const fn missing(&self) -> u64 {
        match self {
            Self::Body { missing, .. } => *missing,
            Self::None | Self::Header(_) => 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Incoming {
    Delivery(Arriving),
    Return { reply: Return, properties: Vec<u8> },
}

/// A delivery whose content is still arriving.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) names: Vec<u8>,
    pub(crate) properties: Vec<u8>,
}

impl Arriving {
    pub(crate) fn new(deliver: &Deliver<'_>) -> Self {
        Self {
            tag: deliver.delivery_tag,
            redelivered: deliver.redelivered,
            names: deliver.names.to_vec(),
            properties: Vec::new(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) owner: Owner,
    pub(crate) expect: Option<Expect>,
    pub(crate) content: Content,
}

/// The channels by number. A number is free again only after close-ok (s16).
#[derive(Clone, Debug, Default)]
pub(crate) struct Channels {
    /// Index 0 is channel 1.
    slots: Vec<Option<Channel>>,
    /// Those of the slots that are free.
    free: BTreeSet<u16>,
    used: usize,
    /// Used, and nobody's any more.
    disowned: usize,
    /// The longest body that has arrived, of those over [`TRUSTED_FROM`].
    longest: usize,
    /// The channel whose body has memory for all that was announced of it.
    trusted: Option<u16>,
}

/// Bodies up to this length never cost more than twice what has arrived of them.
const TRUSTED_FROM: usize = 64 << 10;

impl Channels {
    /// Takes the lowest free number, at most `max` (s47).
    pub(crate) fn open(&mut self, owner: Owner, max: u16) -> Option<u16> {
        let channel = Channel { owner, expect: Some(Expect::OpenOk), content: Content::None };
        let number = match self.free.pop_first() {
            Some(number) => number,
            None if self.slots.len() < usize::from(max) => {
                self.slots.push(None);
                u16::try_from(self.slots.len()).ok()?
            }
            None => return None,
        };
        *self.slots.get_mut(usize::from(number).checked_sub(1)?)? = Some(channel);
        self.used += 1;
        Some(number)
    }

    /// The channel is nobody's any more, and what was arriving on it is discarded.
    pub(crate) fn disown(&mut self, number: u16) {
        if let Some(channel) = self.get_mut(number) {
            let owner = std::mem::replace(&mut channel.owner, Owner::Nobody);
            channel.content = Content::None;
            self.disowned += usize::from(owner != Owner::Nobody);
        }
    }

    /// How many are nobody's, and not free yet.
    pub(crate) const fn disowned(&self) -> usize {
        self.disowned
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        self.slots.get_mut(usize::from(number).checked_sub(1)?)?.as_mut()
    }

    pub(crate) fn get(&self, number: u16) -> Option<&Channel> {
        self.slots.get(usize::from(number).checked_sub(1)?)?.as_ref()
    }

    pub(crate) fn remove(&mut self, number: u16) -> Option<Channel> {
        let channel = self.slots.get_mut(usize::from(number).checked_sub(1)?)?.take()?;
        self.free.insert(number);
        self.used -= 1;
        self.disowned -= usize::from(channel.owner == Owner::Nobody);
        Some(channel)
    }

    /// Appends a piece of the body that is arriving on a channel, which is no longer than what is
    /// missing of it. A channel that is in no body any more lets it go.
    ///
    /// Memory comes as the body does (f20): its capacity is the least of its announced size, a half of
    /// that, a quarter and so on that holds what has arrived, so at most twice that. While it grows the
    /// allocator may have to copy it, once over in all. That is saved where a body as long has arrived
    /// on this connection before: then one at a time has its whole size from the start.
    pub(crate) fn append(&mut self, number: u16, piece: &[u8]) {
        let (longest, trusted) = (self.longest, self.trusted);
        let taken = trusted.is_some_and(|other| {
            other != number && self.get(other).is_some_and(|other| other.content.missing() > 0)
        });
        let Some(Content::Body { body, missing, .. }) =
            self.get_mut(number).map(|channel| &mut channel.content)
        else {
            return;
        };
        let announced = usize::try_from(*missing).unwrap_or(usize::MAX).saturating_add(body.len());
        let needed = body.len() + piece.len();
        let trusts = announced <= longest && !taken;
        if body.capacity() < needed {
            let mut capacity = announced;
            while !trusts && capacity / 2 >= needed {
                capacity /= 2;
            }
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(piece);
        *missing = missing.saturating_sub(piece.len() as u64);
        if trusts {
            self.trusted = Some(number);
        }
        if announced == needed && announced > TRUSTED_FROM {
            self.longest = longest.max(announced);
        }
    }

    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s47_numbers_are_reused_and_never_exceed_the_maximum() {
        let mut channels = Channels::default();
        assert_eq!(
            (1..=4).map(|_| channels.open(Owner::Control, 3)).collect::<Vec<_>>(),
            [Some(1), Some(2), Some(3), None]
        );
        assert!(channels.remove(2).is_some());
        assert_eq!(channels.open(Owner::Control, 3), Some(2));
        assert_eq!(channels.used(), 3);
        assert!(channels.get(0).is_none() && channels.get(4).is_none());
        channels.disown(1);
        channels.disown(1);
        channels.disown(3);
        assert_eq!(channels.disowned(), 2);
        assert!(channels.remove(3).is_some() && channels.remove(1).is_some());
        assert_eq!((channels.used(), channels.disowned()), (1, 0));
        // The lowest first, whichever was free first.
        assert_eq!(channels.open(Owner::Control, 3), Some(1));
    }
}
