//! Random numbers that are the same on every machine and every run.

/// A stream of numbers from a seed (SplitMix64: small, fast, and good enough to draw faults with).
///
/// Every part of a world draws from a stream of its own ([`Random::split`]), so that one more draw
/// in one part does not shift the draws of all others.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for the part of this name. Does not advance this one.
    #[must_use]
    pub fn split(&self, name: &str) -> Self {
        let mut seed = mix(self.0 ^ 0x5bd1_e995_9e37_79b9);
        for byte in name.bytes() {
            seed = mix(seed ^ u64::from(byte));
        }
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(n);
        (wide >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `n` times in `of`.
    pub fn chance(&mut self, n: u64, of: u64) -> bool {
        self.below(of) < n
    }

    /// An index below `len`; 0 if it is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// 32 bytes.
    pub fn seed32(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes());
        }
        seed
    }
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_and_splitting_does_not_advance() {
        let mut root = Random::new(1);
        let (mut a, mut b, mut again) = (root.split("a"), root.split("b"), root.split("a"));
        assert_ne!(a.bits(), b.bits());
        again.bits();
        assert_eq!(a.bits(), again.bits());
        assert_eq!(root.bits(), Random::new(1).bits());
    }

    #[test]
    fn ranges_reach_both_ends() {
        let mut random = Random::new(3);
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| random.range(2, 5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5]);
    }
}
