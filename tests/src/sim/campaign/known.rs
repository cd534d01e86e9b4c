//! The seeds that ever failed. They never leave their list, `tests/seeds.txt`.

/// Each with why it is there.
///
/// # Panics
///
/// If the list cannot be read.
#[must_use]
pub fn known() -> Vec<(u64, &'static str)> {
    include_str!("../../../seeds.txt")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (seed, why) = line.split_once(' ').unwrap_or((line, ""));
            match seed.parse() {
                Ok(seed) if !why.trim().is_empty() => (seed, why.trim()),
                _ => panic!("tests/seeds.txt: not a seed and a reason: {line:?}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_seed_is_there_once() {
        let known = super::known();
        let seeds: BTreeSet<_> = known.iter().map(|(seed, _)| seed).collect();
        assert_eq!(seeds.len(), known.len());
        assert!(!known.is_empty());
    }
}
