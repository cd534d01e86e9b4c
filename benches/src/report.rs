//! Rows of figures, and the tables made of them.

use std::fmt::Write;

use crate::ceilings;
use crate::child::Outcome;
use crate::contestants::{self, Entry, Role};
use crate::modes::Task;

/// What one contestant did in one task.
pub(crate) struct Row {
    pub(crate) entry: &'static Entry,
    pub(crate) task: Task,
    /// One for each round.
    pub(crate) outcomes: Vec<Outcome>,
    /// A message, from the round that counts.
    pub(crate) allocations: Option<f64>,
    pub(crate) failures: Vec<String>,
}

/// The middle of several runs, and the best and the worst of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        };
        Some(Self { median, min: *values.first()?, max: *values.last()? })
    }
}

impl Row {
    pub(crate) fn new(entry: &'static Entry, task: Task) -> Self {
        Self { entry, task, outcomes: Vec::new(), allocations: None, failures: Vec::new() }
    }

    /// For the progress line.
    pub(crate) fn label(&self) -> String {
        format!("{} {} {} B", self.entry.name, self.task.mode.name(), self.task.size)
    }

    fn spread(&self, figure: impl Fn(&Outcome) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.outcomes.iter().filter_map(figure))
    }

    /// What contestants are compared by, in nanoseconds: CPU a message, or p50.
    fn figure(&self) -> Option<Spread> {
        self.spread(
            |outcome| {
                if self.task.mode.is_latency() { outcome.p50 } else { Some(outcome.cpu) }
            },
        )
    }

    fn median(&self) -> Option<f64> {
        self.figure().map(|spread| spread.median)
    }
}

/// All rows of a run.
pub(crate) struct Report {
    /// The machine and the run, a line each.
    pub(crate) about: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// Against a real broker: what counts are messages a second, and no ceiling holds.
    pub(crate) broker: bool,
}

pub(crate) type Cells = Vec<String>;

impl Report {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for line in &self.about {
            let _ = writeln!(out, "{line}");
        }
        self.each_task(|title, table| {
            let _ = write!(out, "\n{title}\n{}", aligned(table));
        });
        let _ = writeln!(out, "\n{}", self.failures().join("\n"));
        for line in self.verdicts() {
            let _ = writeln!(out, "{line}");
        }
        out
    }

    /// For `README.md`.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        for line in &self.about {
            let _ = writeln!(out, "- {line}");
        }
        self.each_task(|title, table| {
            let _ = writeln!(out, "\n### {title}\n");
            out.push_str(&piped(table));
        });
        let failures = self.failures();
        if !failures.is_empty() {
            let _ = writeln!(out, "\n{}", failures.join("\n"));
        }
        let _ = writeln!(out, "\n```\n{}\n```", self.verdicts().join("\n"));
        out
    }

    fn each_task(&self, mut show: impl FnMut(&str, &[Cells])) {
        for rows in self.by_task() {
            let Some(first) = rows.first() else { continue };
            let Task { mode, size, .. } = first.task;
            show(&format!("{}, {size} B", mode.name()), &table(rows));
        }
    }

    /// The rows come task by task.
    fn by_task(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| (a.task.mode, a.task.size) == (b.task.mode, b.task.size))
    }

    fn failures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            let runs = row.failures.len();
            if let Some(last) = row.failures.last() {
                lines.push(format!("{}: {runs} runs failed, the last: {last}", row.label()));
            }
        }
        lines
    }

    /// One line for each mode at 16 B: whether we are under the ceiling.
    fn verdicts(&self) -> Vec<String> {
        self.by_task()
            .filter(|rows| rows.iter().any(|row| row.task.size == 16))
            .map(if self.broker { broker_verdict } else { verdict })
            .collect()
    }
}

/// The figure of the first row of that role.
fn of_role(rows: &[Row], role: Role) -> Option<f64> {
    rows.iter().find(|row| row.entry.role == role)?.median()
}

/// The cheapest peer.
fn best_peer(rows: &[Row]) -> Option<(&'static str, f64)> {
    rows.iter()
        .filter(|row| row.entry.role == Role::Peer)
        .filter_map(|row| Some((row.entry.name, row.median()?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

fn verdict(rows: &[Row]) -> String {
    let Some(Task { mode, size, .. }) = rows.first().map(|row| &row.task) else {
        return String::new();
    };
    let raw = of_role(rows, Role::Floor);
    let one = of_role(rows, Role::OursCurrentThread);
    let many = of_role(rows, Role::OursMultiThread);
    let smol = of_role(rows, Role::OursSmol);
    let limits = raw.and_then(|raw| ceilings::limits(*mode, *size, raw));
    let judged = limits.map(|limits| {
        // The ceiling is for tokio's current thread; the other two may take a quarter more.
        [(one, limits.tokio), (many, limits.tokio * 1.25), (smol, limits.smol * 1.25)]
            .map(|(figure, limit)| figure.map(|figure| figure <= limit))
    });
    let word = match judged {
        Some(all) if all.contains(&Some(false)) => "over",
        Some([Some(true), Some(true), Some(true)]) => "ok",
        _ => "-",
    };
    let ns = |figure: Option<f64>| figure.map_or("-".to_owned(), |ns| format!("{ns:.0} ns"));
    let runtime = if one.is_some() { " (tokio current-thread)" } else { "" };
    let peer =
        best_peer(rows).map_or("-".to_owned(), |(name, figure)| format!("{figure:.0} ns ({name})"));
    format!(
        "{}: ours {}{runtime}, multi-thread {}, smol {}, raw {}, best peer {peer}, ceiling {}, {word}",
        mode.name(),
        ns(one),
        ns(many),
        ns(smol),
        ns(raw),
        ns(limits.map(|limits| limits.tokio)),
    )
}

/// Messages a second, for a run against a broker.
fn broker_verdict(rows: &[Row]) -> String {
    let median = |row: &Row| row.spread(|outcome| Some(outcome.rate)).map(|spread| spread.median);
    let per_second = |role| {
        let row = rows.iter().find(|row| row.entry.role == role);
        row.and_then(median).map_or("-".to_owned(), |figure| format!("{}/s", rate(figure)))
    };
    let peer = rows
        .iter()
        .filter(|row| row.entry.role == Role::Peer)
        .filter_map(|row| Some((row.entry.name, median(row)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or("-".to_owned(), |(name, figure)| format!("{}/s ({name})", rate(figure)));
    format!(
        "{}: ours {}, multi-thread {}, smol {}, raw {}, best peer {peer}",
        rows.first().map_or("", |row| row.task.mode.name()),
        per_second(Role::OursCurrentThread),
        per_second(Role::OursMultiThread),
        per_second(Role::OursSmol),
        per_second(Role::Floor),
    )
}

fn table(rows: &[Row]) -> Vec<Cells> {
    let raw = of_role(rows, Role::Floor);
    let peer = best_peer(rows).map(|(_, figure)| figure);
    let latency = rows.first().is_some_and(|row| row.task.mode.is_latency());
    let mut head = vec!["contestant".to_owned()];
    if latency {
        head.extend(["p50 µs".to_owned(), "min–max".to_owned(), "p99 µs".to_owned()]);
    } else {
        head.extend(["CPU ns/msg".to_owned(), "min–max".to_owned()]);
    }
    head.extend(
        ["× raw", "× best peer", "msg/s", "allocs/msg", "waits/msg", "peak MB"].map(str::to_owned),
    );
    let mut table = vec![head];
    for row in rows {
        let mut cells = vec![name(row.entry)];
        let unit = if latency { 1_000.0 } else { 1.0 };
        let spread = row.figure();
        cells.push(cell(spread, |s| number(s.median / unit)));
        cells.push(cell(spread, |s| format!("{}–{}", number(s.min / unit), number(s.max / unit))));
        if latency {
            cells.push(cell(row.spread(|o| o.p99), |s| number(s.median / unit)));
        }
        for base in [raw, peer] {
            cells.push(cell(spread.zip(base), |(s, base)| format!("{:.2}", s.median / base)));
        }
        cells.push(cell(row.spread(|o| Some(o.rate)), |s| rate(s.median)));
        cells.push(cell(row.allocations, |n| format!("{n:.2}")));
        cells.push(cell(row.spread(|o| Some(o.switches)), |s| format!("{:.3}", s.median)));
        cells.push(cell(row.spread(|o| Some(o.memory as f64)), |s| {
            format!("{:.1}", s.median / 1e6)
        }));
        table.push(cells);
    }
    table
}

fn cell<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or("-".to_owned(), show)
}

fn name(entry: &Entry) -> String {
    match entry.package.and_then(contestants::version) {
        Some(version) => format!("{} {version}", entry.name),
        None => entry.name.to_owned(),
    }
}

pub(crate) fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

pub(crate) fn rate(value: f64) -> String {
    match value {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e3.. => format!("{:.0}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
}

/// The same for markdown.
pub(crate) fn piped(table: &[Cells]) -> String {
    let mut out = String::new();
    for (i, row) in table.iter().enumerate() {
        let _ = writeln!(out, "| {} |", row.join(" | "));
        if i == 0 {
            let _ = writeln!(out, "|---|{}", "---:|".repeat(row.len() - 1));
        }
    }
    out
}

/// Columns side by side: the first to the left, the others to the right.
pub(crate) fn aligned(table: &[Cells]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in table {
        let mut line = String::new();
        for (column, (text, &width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - text.chars().count());
            let _ = match column {
                0 => write!(line, "{text}{pad}"),
                _ => write!(line, "  {pad}{text}"),
            };
        }
        let _ = writeln!(out, "  {line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modes::Mode;

    fn row(name: &'static str, cpu: &[f64]) -> crate::Fallible<Row> {
        let task = Task { mode: Mode::Publish, size: 16, queue: String::new() };
        let mut row = Row::new(contestants::named(name)?, task);
        row.outcomes = cpu.iter().map(|&cpu| Outcome { cpu, ..Outcome::default() }).collect();
        Ok(row)
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0].into_iter());
        assert_eq!(spread, Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn without_ours_a_verdict_still_names_raw_the_best_peer_and_the_scaled_ceiling()
    -> crate::Fallible {
        let rows = vec![
            row("raw", &[120.0, 110.0, 130.0])?,
            row("lapin", &[1_800.0])?,
            row("amqp-client", &[500.0])?,
        ];
        let report = Report { about: Vec::new(), rows, broker: false };
        let expected = "publish: ours -, multi-thread -, smol -, raw 120 ns, \
                        best peer 500 ns (amqp-client), ceiling 210 ns, -";
        assert_eq!(report.verdicts(), [expected]);
        Ok(())
    }
}
