//! What a child process says on its one line, and the medians of several such lines.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::{Failure, Fallible};

/// Named numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub(crate) fn set(&mut self, name: &str, value: f64) -> &mut Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// For each name its median over the runs that have it.
    pub(crate) fn median(runs: &[Self]) -> Self {
        let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, &value) in runs.iter().flat_map(|run| &run.0) {
            all.entry(name).or_default().push(value);
        }
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2])
        };
        Self(all.into_iter().map(|(name, values)| (name.to_owned(), middle(values))).collect())
    }

    pub(crate) fn line(&self) -> String {
        let parts: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        parts.join(" ")
    }
}

impl FromStr for Figures {
    type Err = Failure;

    fn from_str(line: &str) -> Fallible<Self> {
        let mut figures = Self::default();
        for part in line.split_whitespace() {
            let (name, value) = part.split_once('=').ok_or("a figure without a name")?;
            figures.set(name, value.parse()?);
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_their_line_and_medians_are_taken_by_name() -> Fallible {
        let runs: Vec<Figures> = ["cpu=4 open=1", "cpu=1.5", "cpu=9 open=2"]
            .iter()
            .map(|line| line.parse())
            .collect::<Fallible<_>>()?;
        assert_eq!(runs[0].line(), "cpu=4 open=1");
        assert_eq!(Figures::median(&runs).line(), "cpu=4 open=1.5");
        Ok(())
    }
}
