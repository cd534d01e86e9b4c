//! What a message costs by mode: a group of bars for each, on a logarithmic axis.

use super::svg::{Anchor, Axis, Canvas, GRID, INK, PALE};
use super::time;
use crate::ceilings;
use crate::contestants::Role;
use crate::report::{Measure, Row, Spread};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 104.0;
const BOTTOM: f64 = 56.0;
const BAR: f64 = 12.0;
const GAP: f64 = 20.0;
/// The color of the ceiling.
const MARK: &str = "#d93025";

/// Whose bar it is.
struct Series {
    name: &'static str,
    color: &'static str,
    belongs: fn(&Row) -> bool,
}

/// From top to bottom. A peer has one bar, of whichever of its two forms is cheaper.
const SERIES: [Series; 7] = [
    Series { name: "raw socket", color: "#9aa0a6", belongs: |row| row.entry.role == Role::Floor },
    Series {
        name: "ours, tokio current-thread",
        color: "#174ea6",
        belongs: |row| row.entry.role == Role::OursCurrentThread,
    },
    Series {
        name: "ours, tokio multi-thread",
        color: "#4285f4",
        belongs: |row| row.entry.role == Role::OursMultiThread,
    },
    Series {
        name: "ours, smol",
        color: "#8ab4f8",
        belongs: |row| row.entry.role == Role::OursSmol,
    },
    Series { name: "amqp-client", color: "#e37400", belongs: |row| of(row, "amqp-client") },
    Series { name: "lapin", color: "#188038", belongs: |row| of(row, "lapin") },
    Series { name: "amqprs", color: "#9334e6", belongs: |row| of(row, "amqprs") },
];

fn of(row: &Row, package: &str) -> bool {
    row.entry.role == Role::Peer && row.entry.package == Some(package)
}

impl Series {
    fn is_ours(&self) -> bool {
        self.name.starts_with("ours")
    }

    fn figure(&self, rows: &[Row]) -> Option<Spread> {
        let own = rows.iter().filter(|row| (self.belongs)(row));
        own.filter_map(Row::figure).min_by(|a, b| a.median.total_cmp(&b.median))
    }
}

/// `None` if there is nothing to show.
pub(super) fn plot(tasks: &[&[Row]]) -> Option<String> {
    let groups: Vec<_> = tasks
        .iter()
        .filter(|rows| rows.first().is_some_and(|row| row.measure == Measure::Cpu))
        .collect();
    let spreads = groups.iter().flat_map(|rows| SERIES.iter().filter_map(|s| s.figure(rows)));
    // Half of the least, so that its bar has a length.
    let values = spreads.flat_map(|spread| [spread.median / 2.0, spread.max]);
    let axis = Axis::covering(values, LEFT, WIDTH - LEFT - RIGHT)?;
    let present: Vec<_> =
        SERIES.iter().filter(|s| groups.iter().any(|rows| s.figure(rows).is_some())).collect();
    let group = present.len() as f64 * BAR + GAP;
    let bottom = TOP + groups.len() as f64 * group;

    let mut canvas = Canvas::new(WIDTH, bottom + BOTTOM);
    let title = "What one message of 16 bytes costs the client";
    canvas.styled_text((LEFT, 26.0), Anchor::Start, 16, INK, true, title);
    legend(&mut canvas, &present);
    for tick in axis.ticks() {
        let x = axis.at(tick);
        canvas.line((x, TOP), (x, bottom), GRID, 1.0);
        canvas.text(x, bottom + 16.0, Anchor::Middle, 11, &time(tick));
    }
    let label = "CPU time of the client's process, user and system, per message (logarithmic)";
    canvas.styled_text((LEFT, bottom + 38.0), Anchor::Start, 12, PALE, false, label);

    for (i, rows) in groups.iter().enumerate() {
        let top = TOP + i as f64 * group + GAP / 2.0;
        let mode = rows.first()?.task.mode;
        let middle = top + (group - GAP) / 2.0 + 4.0;
        canvas.text(LEFT - 10.0, middle, Anchor::End, 13, mode.name());
        let ceiling = ceiling(rows).map(|ceiling| axis.at(ceiling));
        for (j, series) in present.iter().enumerate() {
            let Some(spread) = series.figure(rows) else { continue };
            let y = top + j as f64 * BAR;
            let end = axis.at(spread.median);
            canvas.rectangle(LEFT, y, end - LEFT, BAR - 1.0, series.color);
            let (min, max) = (axis.at(spread.min), axis.at(spread.max));
            let center = y + (BAR - 1.0) / 2.0;
            canvas.line((min, center), (max, center), INK, 1.0);
            let mut x = max.max(end) + 5.0;
            // The mark would go through the figure.
            if let Some(mark) =
                ceiling.filter(|mark| series.is_ours() && (x - 4.0..x + 42.0).contains(mark))
            {
                x = mark + 5.0;
            }
            canvas.text(x, y + BAR - 2.5, Anchor::Start, 10, &time(spread.median));
        }
        let ours = |series: &&Series| series.is_ours();
        if let (Some(x), Some(first)) = (ceiling, present.iter().position(ours)) {
            let y = top + first as f64 * BAR;
            let height = present.iter().filter(|series| ours(series)).count() as f64 * BAR;
            canvas.line((x, y - 1.0), (x, y + height), MARK, 2.0);
        }
    }
    canvas.line((LEFT, TOP), (LEFT, bottom), INK, 1.0);
    Some(canvas.finish())
}

/// Two lines of it: ours with the floor, then the peers and the marks.
fn legend(canvas: &mut Canvas, present: &[&Series]) {
    let width = (WIDTH - LEFT) / 4.0;
    let place = |i: usize| (LEFT + (i % 4) as f64 * width, 44.0 + (i / 4) as f64 * 18.0);
    for (i, series) in present.iter().enumerate() {
        let (x, y) = place(i);
        canvas.rectangle(x, y, 11.0, 11.0, series.color);
        canvas.text(x + 16.0, y + 10.0, Anchor::Start, 12, series.name);
    }
    let (x, y) = place(present.len());
    canvas.line((x + 5.0, y - 2.0), (x + 5.0, y + 13.0), MARK, 2.0);
    canvas.text(x + 16.0, y + 10.0, Anchor::Start, 12, "our ceiling");
    let note =
        "Medians; thin lines: least to greatest. Peers: the cheaper of tokio's two runtimes.";
    canvas.styled_text((LEFT, 94.0), Anchor::Start, 11, PALE, false, note);
}

/// The highest that our figure on the current-thread runtime may be.
fn ceiling(rows: &[Row]) -> Option<f64> {
    let raw = SERIES[0].figure(rows)?.median;
    let task = &rows.first()?.task;
    Some(ceilings::limits(task.mode, task.size, raw)?.tokio)
}
