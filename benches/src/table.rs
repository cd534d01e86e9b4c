//! A table with a title, for a terminal and for a page.

use crate::report::{Cells, aligned, markdown};

/// Rows of cells, the first of them the heads of the columns.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    rows: Vec<Cells>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        let heads = heads.iter().map(|&head| head.to_owned()).collect();
        Self { title: title.into(), rows: vec![heads] }
    }

    pub(crate) fn row(&mut self, cells: Cells) {
        self.rows.push(cells);
    }

    pub(crate) fn text(&self) -> String {
        format!("{}\n{}", self.title, aligned(&self.rows))
    }

    pub(crate) fn markdown(&self) -> String {
        format!("### {}\n\n{}", self.title, markdown(&self.rows))
    }
}

/// What a command found: what it was run on, tables, and words about them.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The machine and the run, a line each.
    pub(crate) about: Vec<String>,
    pub(crate) tables: Vec<Table>,
    pub(crate) notes: Vec<String>,
}

impl Findings {
    /// Prints them, and writes them as markdown if `file` says where to.
    pub(crate) fn show(&self, file: Option<&std::path::Path>) -> crate::Fallible {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect();
        let join = |tables: Vec<String>| tables.join("\n");
        let (about, notes): (String, String) = (lines(&self.about), lines(&self.notes));
        println!("{about}\n{}\n{notes}", join(self.tables.iter().map(Table::text).collect()));
        if let Some(file) = file {
            let items = |lines: &[String]| lines.iter().map(|l| format!("- {l}\n")).collect();
            let (about, notes): (String, String) = (items(&self.about), items(&self.notes));
            let tables = join(self.tables.iter().map(Table::markdown).collect());
            std::fs::write(file, format!("{about}\n{tables}\n{notes}"))?;
        }
        Ok(())
    }
}

/// Per second: `4.20M`, `950k`.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        1e6.. => format!("{:.2}M", per_second / 1e6),
        1e5.. => format!("{:.0}k", per_second / 1e3),
        1e3.. => format!("{:.2}k", per_second / 1e3),
        _ => format!("{per_second:.0}"),
    }
}

/// Nanoseconds in the unit that keeps them short: `87 ns`, `1.24 ms`.
pub(crate) fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ..1e3 => (nanoseconds, "ns"),
        ..1e6 => (nanoseconds / 1e3, "µs"),
        ..1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    match value {
        ..10.0 if unit != "ns" => format!("{value:.2} {unit}"),
        ..100.0 if unit != "ns" => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_keep_three_digits() {
        let times = [87.4, 1_236.0, 45_678.0, 999_999.0, 12_345_678.0, 2.5e9].map(time);
        assert_eq!(times, ["87 ns", "1.24 µs", "45.7 µs", "1000 µs", "12.3 ms", "2.50 s"]);
    }
}
