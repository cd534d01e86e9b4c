//! What a run has to say: the tables, and the lines that sum them up.

mod row;
pub(crate) mod table;
mod verdict;

use std::fmt::Write;

pub(crate) use row::{Measure, Row, Spread};
pub(crate) use table::{Cells, aligned, markdown};

/// All rows that were run against one peer.
pub(crate) struct Part {
    /// The peer, and how it was run: a line each.
    pub(crate) about: Vec<String>,
    /// A real broker: what counts are messages a second, and no ceiling holds.
    pub(crate) broker: bool,
    /// They come task by task.
    pub(crate) rows: Vec<Row>,
}

/// All of a run.
pub(crate) struct Report {
    /// The machine and the run, a line each.
    pub(crate) about: Vec<String>,
    pub(crate) parts: Vec<Part>,
    /// What was not done, and why.
    pub(crate) notes: Vec<String>,
}

/// The page of results begins so.
const HEAD: &str = "# Results\n\n\
    Written by `versus --markdown`; [README.md](README.md) says what was measured, and how to read it.\n\n";

impl Report {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = self.about.join("\n") + "\n";
        for part in &self.parts {
            let _ = writeln!(out, "\n{}", part.about.join("\n"));
            for rows in part.by_task() {
                let table = table::aligned(&table::table(rows));
                let _ = write!(out, "\n{}\n{table}", title(part, rows));
            }
        }
        let _ = writeln!(out);
        for line in self.remarks().into_iter().chain(self.verdicts()) {
            let _ = writeln!(out, "{line}");
        }
        out
    }

    /// The page of results.
    pub(crate) fn markdown(&self) -> String {
        let mut out = HEAD.to_owned();
        let list = |out: &mut String, lines: &[String]| {
            for line in lines {
                let _ = writeln!(out, "- {line}");
            }
        };
        list(&mut out, &self.about);
        let _ = writeln!(out, "\n```\n{}\n```", self.verdicts().join("\n"));
        for part in &self.parts {
            let _ = writeln!(out, "\n## {}\n", if part.broker { "A broker" } else { "The sink" });
            list(&mut out, &part.about);
            for rows in part.by_task() {
                let table = table::markdown(&table::table(rows));
                let _ = writeln!(out, "\n### {}\n\n{table}", title(part, rows));
            }
        }
        let remarks = self.remarks();
        if !remarks.is_empty() {
            let _ = writeln!(out, "\n## Remarks\n");
            list(&mut out, &remarks);
        }
        out
    }

    /// What failed, and what was not run.
    fn remarks(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        for part in &self.parts {
            let place = if part.broker { " at the broker" } else { "" };
            for row in &part.rows {
                let runs = row.failures.len();
                if let Some(last) = row.failures.last() {
                    let label = row.label();
                    lines.push(format!("{label}{place}: {runs} runs failed, the last: {last}"));
                }
                if let Some(why) = row.excused {
                    lines.push(format!("{}{place}: not run: {why}", row.label()));
                }
            }
        }
        lines
    }

    /// The last lines.
    fn verdicts(&self) -> Vec<String> {
        let mut lines = Vec::new();
        // Those against the sink come last: they are what is looked at first.
        for part in self.parts.iter().rev() {
            let say = if part.broker { verdict::against_broker } else { verdict::against_sink };
            lines.extend(part.by_task().filter(|rows| verdict::has_verdict(rows)).map(say));
        }
        lines
    }
}

impl Part {
    pub(crate) fn by_task(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| a.task == b.task)
    }
}

fn title(part: &Part, rows: &[Row]) -> String {
    let title = rows.first().map_or(String::new(), |row| row.task.title());
    if part.broker { format!("{title}, at the broker") } else { title }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Outcome;
    use crate::contestants;
    use crate::modes::{Mode, Task};

    fn part(broker: bool, contestants: &[&str]) -> crate::Fallible<Part> {
        let mut rows = Vec::new();
        for (mode, size) in [(Mode::Publish, 16), (Mode::PingPong, 16), (Mode::Publish, 1 << 10)] {
            for name in contestants {
                let task = Task { mode, size, queue: String::new(), transient: false };
                let measure = Measure::of(&task, broker);
                let mut row = Row::new(contestants::named(name)?, task, measure);
                row.outcomes =
                    vec![Outcome { cpu: 50.0, rate: 2e6, p50: Some(9e3), ..Outcome::default() }];
                rows.push(row);
            }
        }
        Ok(Part { about: vec!["against: a peer".to_owned()], broker, rows })
    }

    #[test]
    fn everything_that_was_run_is_in_both_forms_and_the_sink_has_the_last_word() -> crate::Fallible
    {
        let contestants = ["raw", "ours-tokio-ct"];
        let mut sink = part(false, &contestants)?;
        sink.rows[1].failures = vec!["hung".to_owned(), "hung again".to_owned()];
        let parts = vec![sink, part(true, &contestants)?];
        let report = Report {
            about: vec!["a machine".to_owned()],
            parts,
            notes: vec!["no plots".to_owned()],
        };
        let text = report.text();
        let markdown = report.markdown();
        for out in [&text, &markdown] {
            for wanted in [
                "a machine",
                "no plots",
                "publish, 16 B\n",
                "ping-pong, 16 B\n",
                "publish, 1 KiB\n",
                "publish, 1 KiB, at the broker\n",
                "ours-tokio-ct publish, 16 B: 2 runs failed, the last: hung again",
                "publish at the broker: ours 2.00M/s (tokio current-thread)",
                "publish: ours 50 ns (tokio current-thread)",
                "publish 1 KiB: ours 50 ns",
            ] {
                assert!(out.contains(wanted), "{wanted} is not in:\n{out}");
            }
        }
        let last: Vec<_> = text.lines().rev().take(3).collect();
        assert!(last[0].starts_with("publish 1 KiB: "), "{last:?}");
        assert!(last[1].starts_with("ping-pong: "), "{last:?}");
        assert!(last[2].starts_with("publish: "), "{last:?}");
        Ok(())
    }
}
