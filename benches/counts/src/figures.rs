//! The committed figures: a table to read, and to compare with.

use std::fmt::Write as _;

/// What one message costs may grow, or shrink, by so much before somebody has to look.
const TOLERANCE: f64 = 0.05;

/// A column of the table: one sort of count, per message.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// As in the table's head.
    pub name: &'static str,
    decimals: usize,
    /// A difference too small to matter, for figures near zero.
    slack: f64,
}

const fn count(name: &'static str) -> Column {
    // Four of the 20,000 messages that most modes measure.
    Column { name, decimals: 5, slack: 0.000_2 }
}

const fn large(name: &'static str) -> Column {
    Column { name, decimals: 1, slack: 1.0 }
}

/// All columns.
pub const COLUMNS: [Column; 12] = [
    count("allocations"),
    large("bytes allocated"),
    count("reads"),
    count("reads pending"),
    count("writes"),
    count("writes pending"),
    count("flushes"),
    count("driver wakes"),
    count("driver polls"),
    count("application wakes"),
    count("application polls"),
    large(INSTRUCTIONS),
];

/// The column that depends on more than the sources.
pub const INSTRUCTIONS: &str = "instructions";

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The mode's name.
    pub mode: String,
    /// One for each of [`COLUMNS`]; `None` where it was not measured.
    pub figures: [Option<f64>; COLUMNS.len()],
}

/// The table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What the instructions were counted with.
    pub compiler: String,
    /// One for each mode.
    pub rows: Vec<Row>,
}

/// How a figure differs from the committed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The name of the column.
    pub column: &'static str,
    /// In words.
    pub text: String,
}

/// Begins the line that says what the instructions were counted with.
const COMPILER: &str = "Instructions by ";

impl Table {
    /// Reads what [`Display`](std::fmt::Display) writes; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let compiler = text.lines().find_map(|line| line.strip_prefix(COMPILER))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        if lines.next()? != head() {
            return None;
        }
        let mut rows = Vec::new();
        for line in lines {
            let mut cells = line.split(" | ").map(str::trim);
            let mode = cells.next()?.to_owned();
            let mut figures = [None; COLUMNS.len()];
            for figure in &mut figures {
                *figure = match cells.next()? {
                    "" => None,
                    number => Some(number.parse().ok()?),
                };
            }
            rows.push(Row { mode, figures });
        }
        let compiler = compiler.trim_end_matches('.').to_owned();
        Some(Self { compiler, rows })
    }

    /// Where `now` differs from this, the committed table, by more than may be.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        for Row { mode, figures } in &now.rows {
            let committed = self.rows.iter().find(|row| row.mode == *mode);
            for (index, column) in COLUMNS.iter().enumerate() {
                let Some(after) = figures[index] else { continue };
                let before = committed.and_then(|row| row.figures[index]);
                let Some(how) = column.judge(before, after) else { continue };
                let text = format!("{mode}: {} per message {how}", column.name);
                found.push(Difference { column: column.name, text });
            }
        }
        for Row { mode, .. } in &self.rows {
            if !now.rows.iter().any(|row| row.mode == *mode) {
                let text = format!("{mode}: there is no such mode any more");
                found.push(Difference { column: "", text });
            }
        }
        found
    }
}

impl Column {
    fn judge(&self, before: Option<f64>, after: f64) -> Option<String> {
        let digits = self.decimals;
        let Some(before) = before else { return Some(format!("is new: {after:.digits$}")) };
        let how = if after > before * (1.0 + TOLERANCE) + self.slack {
            "grew"
        } else if after < before * (1.0 - TOLERANCE) - self.slack {
            "shrank"
        } else {
            return None;
        };
        let percent = match before {
            0.0 => String::new(),
            _ => format!(" ({:+.1} %)", (after / before - 1.0) * 100.0),
        };
        Some(format!("{how} from {before:.digits$} to {after:.digits$}{percent}"))
    }
}

fn head() -> String {
    COLUMNS.iter().fold("mode".to_owned(), |head, column| head + " | " + column.name)
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "# Counts per message\n")?;
        writeln!(
            f,
            "Written by `cargo run --release -p lavinmq-counts -- --update`, and compared with"
        )?;
        writeln!(
            f,
            "by the same command without `--update`: see \"Counts that CI holds\" in ../README.md.\n"
        )?;
        writeln!(f, "{COMPILER}{}.\n", self.compiler)?;
        writeln!(f, "| {} |", head())?;
        writeln!(f, "|---|{}", "---:|".repeat(COLUMNS.len()))?;
        for Row { mode, figures } in &self.rows {
            let mut line = String::new();
            for (figure, Column { decimals, .. }) in figures.iter().zip(COLUMNS) {
                line += " | ";
                if let Some(figure) = figure {
                    write!(line, "{figure:.decimals$}")?;
                }
            }
            writeln!(f, "| {mode}{line} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(change: impl FnOnce(&mut [Option<f64>])) -> Table {
        let mut figures =
            COLUMNS.map(|column| Some(if column.decimals == 1 { 1000.0 } else { 0.02 }));
        // Flushes.
        figures[6] = Some(0.0);
        change(&mut figures);
        let rows = vec![Row { mode: "publish".into(), figures }];
        Table { compiler: "rustc 1.95.0 for a target".into(), rows }
    }

    fn texts(before: &Table, after: &Table) -> Vec<String> {
        before.differences(after).into_iter().map(|difference| difference.text).collect()
    }

    #[test]
    fn a_table_reads_back_as_it_was_written() {
        let whole = table(|_| {});
        assert_eq!(Table::parse(&whole.to_string()), Some(whole));
        let without_instructions = table(|figures| figures[11] = None);
        assert_eq!(Table::parse(&without_instructions.to_string()), Some(without_instructions));
        assert_eq!(Table::parse("| mode | colour |"), None);
    }

    #[test]
    fn what_stays_within_five_percent_is_no_difference() {
        let close = table(|figures| {
            figures[0] = Some(0.0211);
            figures[11] = Some(1050.0);
        });
        assert_eq!(texts(&table(|_| {}), &close), [""; 0]);
        assert_eq!(texts(&close, &table(|_| {})), [""; 0]);
    }

    #[test]
    fn what_grows_is_named_with_both_figures() {
        let worse = table(|figures| {
            figures[0] = Some(1.02);
            figures[6] = Some(0.001);
            figures[11] = Some(1052.0);
        });
        assert_eq!(
            texts(&table(|_| {}), &worse),
            [
                "publish: allocations per message grew from 0.02000 to 1.02000 (+5000.0 %)",
                "publish: flushes per message grew from 0.00000 to 0.00100",
                "publish: instructions per message grew from 1000.0 to 1052.0 (+5.2 %)",
            ]
        );
    }

    #[test]
    fn what_shrinks_is_named_so_that_the_gain_is_kept() {
        let better = table(|figures| figures[8] = Some(0.01));
        assert_eq!(
            texts(&table(|_| {}), &better),
            ["publish: driver polls per message shrank from 0.02000 to 0.01000 (-50.0 %)"]
        );
    }

    #[test]
    fn a_figure_that_was_not_measured_is_not_compared() {
        assert_eq!(texts(&table(|_| {}), &table(|figures| figures[11] = None)), [""; 0]);
    }

    #[test]
    fn modes_that_come_and_go_are_named() {
        let mut renamed = table(|figures| figures[1..].fill(None));
        renamed.rows[0].mode = "broadcast".into();
        assert_eq!(
            texts(&table(|_| {}), &renamed),
            [
                "broadcast: allocations per message is new: 0.02000",
                "publish: there is no such mode any more",
            ]
        );
    }
}
