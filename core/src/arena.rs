//! Values by number, where a number is not used again soon.

/// Slots that are reused, under numbers that carry how often: an old number finds nothing.
#[derive(Clone, Debug)]
pub(crate) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Slot<T> {
    uses: u32,
    value: Option<T>,
}

/// The low bits of a number are its slot, the others count the slot's uses.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

impl<T> Arena<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// The number that the value got; `None` if a million are in use.
    pub(crate) fn insert(&mut self, value: T) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() <= INDEX_MASK as usize => {
                // In steps of a quarter: twice as much as needed would be much where there are many.
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(self.slots.len() / 4 + 4);
                }
                self.slots.push(Slot { uses: 0, value: None });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.value = Some(value);
        Some(slot.uses << INDEX_BITS | index)
    }

    fn slot(&self, number: u32) -> Option<&Slot<T>> {
        #[cfg(feature = "sabotage")]
        crate::sabotage::step();
        self.slots
            .get((number & INDEX_MASK) as usize)
            .filter(|slot| slot.uses == number >> INDEX_BITS)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.slot(number)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        #[cfg(feature = "sabotage")]
        crate::sabotage::step();
        self.slots
            .get_mut((number & INDEX_MASK) as usize)
            .filter(|slot| slot.uses == number >> INDEX_BITS)?
            .value
            .as_mut()
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let index = number & INDEX_MASK;
        let slot =
            self.slots.get_mut(index as usize).filter(|slot| slot.uses == number >> INDEX_BITS)?;
        let value = slot.value.take()?;
        slot.uses = (slot.uses + 1) & (u32::MAX >> INDEX_BITS);
        self.free.push(index);
        Some(value)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            #[cfg(feature = "sabotage")]
            crate::sabotage::step();
            slot.value.as_ref().map(|value| (slot.uses << INDEX_BITS | index as u32, value))
        })
    }

    /// The numbers in use.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.iter().map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_old_number_finds_nothing_and_slots_are_reused() {
        let mut arena = Arena::new();
        let a = arena.insert('a').unwrap();
        let b = arena.insert('b').unwrap();
        assert_eq!(arena.remove(a), Some('a'));
        let c = arena.insert('c').unwrap();
        assert_eq!((arena.get(a), arena.get(b), arena.get(c)), (None, Some(&'b'), Some(&'c')));
        assert_eq!(arena.remove(a), None);
        assert_eq!(arena.numbers(), [c, b]);
        assert_eq!(arena.slots.len(), 2);
        assert!(!arena.is_empty());
        assert_eq!((arena.remove(b), arena.remove(c)), (Some('b'), Some('c')));
        assert!(arena.is_empty());
    }
}
