//! One table for each task: a line for each contestant.

use std::fmt::Write;

use super::row::{Measure, Row, Spread, best_peer, of_role};
use crate::contestants::{self, Entry, Role};

/// The texts of one line.
pub(crate) type Cells = Vec<String>;

/// The head, and a line for each row.
pub(super) fn table(rows: &[Row]) -> Vec<Cells> {
    let Some(measure) = rows.first().map(|row| row.measure) else { return Vec::new() };
    let raw = of_role(rows, Role::Floor);
    let peer = best_peer(rows).map(|(_, figure)| figure);
    let mut table = vec![head(measure)];
    table.extend(rows.iter().map(|row| line(row, raw, peer)));
    table
}

fn head(measure: Measure) -> Cells {
    let compared = match measure {
        Measure::Cpu => "CPU ns/msg",
        Measure::Latency => "p50 µs",
        Measure::Rate => "msg/s",
    };
    let mut head = vec!["contestant", compared, "min–max", "× raw", "× best peer"];
    if measure == Measure::Latency {
        head.extend(["p99 µs", "p99.9 µs"]);
    }
    if measure != Measure::Cpu {
        head.extend(["CPU ns/msg", "min–max"]);
    }
    if measure != Measure::Rate {
        head.extend(["msg/s", "min–max"]);
    }
    head.extend(["allocs/msg", "syscalls/msg", "waits/msg", "peak MB", "min–max"]);
    head.into_iter().map(str::to_owned).collect()
}

fn line(row: &Row, raw: Option<f64>, peer: Option<f64>) -> Cells {
    let mut cells = vec![name(row.entry)];
    let mut both = |spread: Option<Spread>, show: &dyn Fn(f64) -> String| {
        cells.push(cell(spread, |s| show(s.median)));
        cells.push(cell(spread, |s| format!("{}–{}", show(s.min), show(s.max))));
    };
    let figure = row.figure();
    both(figure, &|value| shown(row.measure, value));
    let ratios = [raw, peer]
        .map(|base| cell(figure.zip(base), |(s, base)| format!("{:.2}", s.median / base)));
    cells.extend(ratios);
    if row.measure == Measure::Latency {
        for spread in [row.spread(|o| o.p99), row.spread(|o| o.p999)] {
            cells.push(cell(spread, |s| shown(row.measure, s.median)));
        }
    }
    let mut both = |spread: Option<Spread>, show: &dyn Fn(f64) -> String| {
        cells.push(cell(spread, |s| show(s.median)));
        cells.push(cell(spread, |s| format!("{}–{}", show(s.min), show(s.max))));
    };
    if row.measure != Measure::Cpu {
        both(row.spread(|o| Some(o.cpu)), &number);
    }
    if row.measure != Measure::Rate {
        both(row.spread(|o| Some(o.rate)), &rate);
    }
    cells.push(cell(row.counted(|o| o.allocations), few));
    cells.push(cell(row.counted(|o| o.syscalls), few));
    cells.push(cell(row.spread(|o| Some(o.switches)), |s| few(s.median)));
    let megabytes = row.spread(|o| Some(o.memory as f64 / 1e6));
    cells.push(cell(megabytes, |s| format!("{:.1}", s.median)));
    cells.push(cell(megabytes, |s| format!("{:.1}–{:.1}", s.min, s.max)));
    cells
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

/// What contestants are compared by, in its unit.
fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Cpu => number(value),
        Measure::Latency => number(value / 1e3),
        Measure::Rate => rate(value),
    }
}

/// Three digits.
fn number(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// What is often a small part of one.
fn few(value: f64) -> String {
    match value {
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Messages a second.
pub(crate) fn rate(value: f64) -> String {
    match value {
        1e6.. => format!("{:.2}M", value / 1e6),
        1e5.. => format!("{:.0}k", value / 1e3),
        1e3.. => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.0}"),
    }
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

/// The same as markdown.
pub(crate) fn markdown(table: &[Cells]) -> String {
    let mut out = String::new();
    for (i, row) in table.iter().enumerate() {
        let _ = writeln!(out, "| {} |", row.join(" | "));
        if i == 0 {
            let _ = writeln!(out, "|---|{}", "---:|".repeat(row.len() - 1));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Outcome;
    use crate::modes::{Mode, Task};

    fn row(mode: Mode, broker: bool, name: &str, outcomes: &[Outcome]) -> crate::Fallible<Row> {
        let task = Task { mode, size: 16, queue: String::new(), transient: false };
        let measure = Measure::of(&task, broker);
        let mut row = Row::new(contestants::named(name)?, task, measure);
        row.outcomes = outcomes.to_vec();
        Ok(row)
    }

    /// The cell of a contestant in the first column of that head.
    fn at<'a>(table: &'a [Cells], contestant: &str, head: &str) -> &'a str {
        let column = table[0].iter().position(|text| text == head);
        let line = table.iter().find(|line| line[0].starts_with(contestant));
        column.zip(line).map_or("none", |(column, line)| &line[column])
    }

    #[test]
    fn against_the_sink_ratios_are_of_cpu_time_and_the_best_peer_is_the_cheapest() -> crate::Fallible
    {
        let cpu = |cpu| Outcome { cpu, rate: 1e6 / cpu, memory: 5_000_000, ..Outcome::default() };
        let mut ours =
            row(Mode::Publish, false, "ours-smol", &[cpu(90.0), cpu(100.0), cpu(130.0)])?;
        ours.counts = vec![
            Outcome { syscalls: Some(0.25), allocations: Some(0.01), ..Outcome::default() },
            Outcome { syscalls: Some(0.75), allocations: Some(0.03), ..Outcome::default() },
        ];
        let rows = [
            row(Mode::Publish, false, "raw", &[cpu(50.0)])?,
            row(Mode::Publish, false, "lapin", &[cpu(2_000.0)])?,
            row(Mode::Publish, false, "amqp-client", &[cpu(400.0)])?,
            ours,
        ];
        let table = table(&rows);
        for line in &table {
            assert_eq!(line.len(), table[0].len());
        }
        assert_eq!(at(&table, "ours", "CPU ns/msg"), "100");
        assert_eq!(at(&table, "ours", "min–max"), "90.0–130");
        assert_eq!(at(&table, "ours", "× raw"), "2.00");
        assert_eq!(at(&table, "ours", "× best peer"), "0.25");
        assert_eq!(at(&table, "lapin", "× best peer"), "5.00");
        assert_eq!(at(&table, "ours", "msg/s"), "10.0k");
        assert_eq!(at(&table, "ours", "allocs/msg"), "0.0200");
        assert_eq!(at(&table, "ours", "syscalls/msg"), "0.50");
        assert_eq!(at(&table, "raw", "syscalls/msg"), "-");
        assert_eq!(at(&table, "ours", "peak MB"), "5.0");
        Ok(())
    }

    #[test]
    fn against_a_broker_ratios_are_of_messages_a_second_and_the_best_peer_is_the_fastest()
    -> crate::Fallible {
        let rate = |rate| Outcome { rate, ..Outcome::default() };
        let rows = [
            row(Mode::Publish, true, "raw", &[rate(200e3)])?,
            row(Mode::Publish, true, "lapin", &[rate(50e3)])?,
            row(Mode::Publish, true, "amqp-client", &[rate(100e3)])?,
            row(Mode::Publish, true, "ours-smol", &[rate(190e3)])?,
        ];
        let table = table(&rows);
        assert_eq!(at(&table, "ours", "msg/s"), "190k");
        assert_eq!(at(&table, "ours", "× raw"), "0.95");
        assert_eq!(at(&table, "ours", "× best peer"), "1.90");
        Ok(())
    }

    #[test]
    fn latencies_are_in_microseconds_and_have_their_tail() -> crate::Fallible {
        let outcome = Outcome {
            p50: Some(12_000.0),
            p99: Some(30_500.0),
            p999: Some(200_000.0),
            ..Outcome::default()
        };
        let table = table(&[row(Mode::PingPong, false, "raw", &[outcome])?]);
        let cells = ["p50 µs", "p99 µs", "p99.9 µs"].map(|head| at(&table, "raw", head));
        assert_eq!(cells, ["12.0", "30.5", "200"]);
        Ok(())
    }
}
