//! How long one message takes, by mode: a line for each contestant with its p50, p99 and p99.9 on
//! a logarithmic axis, and the figures beside it.

use super::svg::{Anchor, Axis, Canvas, GRID, INK, PALE};
use super::time;
use crate::contestants::Role;
use crate::report::{Measure, Row};

const WIDTH: f64 = 920.0;
const LEFT: f64 = 150.0;
/// Room for the three columns of figures.
const RIGHT: f64 = 210.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 56.0;
const LINE: f64 = 19.0;
/// Above the lines of a mode: its name.
const HEAD: f64 = 34.0;

/// The names of the three, and where the columns of figures end.
const PERCENTILES: [(&str, f64); 3] = [("p50", 70.0), ("p99", 135.0), ("p99.9", 200.0)];

/// `None` if there is nothing to show.
pub(super) fn plot(tasks: &[&[Row]]) -> Option<String> {
    let groups: Vec<_> = tasks
        .iter()
        .filter(|rows| rows.first().is_some_and(|row| row.measure == Measure::Latency))
        .collect();
    let all = groups.iter().flat_map(|rows| rows.iter().filter_map(percentiles)).flatten();
    let right = WIDTH - RIGHT;
    let axis = Axis::covering(all, LEFT, right - LEFT)?;
    let height = |rows: &[Row]| HEAD + rows.len() as f64 * LINE;
    let bottom = TOP + groups.iter().map(|rows| height(rows)).sum::<f64>();

    let mut canvas = Canvas::new(WIDTH, bottom + BOTTOM);
    let title = "How long one message of 16 bytes takes, one at a time";
    canvas.styled_text((LEFT, 26.0), Anchor::Start, 16, INK, true, title);
    legend(&mut canvas);
    for tick in axis.ticks() {
        let x = axis.at(tick);
        canvas.line((x, TOP), (x, bottom), GRID, 1.0);
        canvas.text(x, bottom + 16.0, Anchor::Middle, 11, &time(tick));
    }
    let label = "time from the call to publish (logarithmic); client and sink on one core";
    canvas.styled_text((LEFT, bottom + 38.0), Anchor::Start, 12, PALE, false, label);

    let mut y = TOP;
    for rows in groups {
        let mode = rows.first()?.task.mode;
        canvas.rectangle(LEFT, y + 6.0, right - LEFT, HEAD - 12.0, "white");
        canvas.styled_text((LEFT, y + 22.0), Anchor::Start, 13, INK, true, mode.name());
        for (name, column) in PERCENTILES {
            canvas.styled_text((right + column, y + 22.0), Anchor::End, 11, PALE, false, name);
        }
        y += HEAD;
        for row in *rows {
            line(&mut canvas, &axis, row, y + LINE / 2.0);
            y += LINE;
        }
    }
    Some(canvas.finish())
}

/// Medians of the rounds.
fn percentiles(row: &Row) -> Option<[f64; 3]> {
    let p50 = row.spread(|o| o.p50)?.median;
    let p99 = row.spread(|o| o.p99)?.median;
    let p999 = row.spread(|o| o.p999)?.median;
    Some([p50, p99, p999])
}

fn legend(canvas: &mut Canvas) {
    for (i, (name, _)) in PERCENTILES.iter().enumerate() {
        let x = LEFT + 8.0 + i as f64 * 90.0;
        mark(canvas, i, (x, 50.0), INK);
        canvas.text(x + 12.0, 54.0, Anchor::Start, 12, name);
    }
    let note = "Medians of the rounds. -ct: on tokio's current-thread runtime, others of tokio's \
                on the multi-thread one.";
    canvas.styled_text((LEFT, 74.0), Anchor::Start, 11, PALE, false, note);
}

fn line(canvas: &mut Canvas, axis: &Axis, row: &Row, y: f64) {
    let (color, bold) = match row.entry.role {
        Role::Floor => (PALE, false),
        Role::Peer => ("#e37400", false),
        Role::OursCurrentThread | Role::OursMultiThread | Role::OursSmol => ("#174ea6", true),
    };
    canvas.styled_text((LEFT - 10.0, y + 4.0), Anchor::End, 12, INK, bold, row.entry.name);
    let Some(values) = percentiles(row) else { return };
    canvas.line((axis.at(values[0]), y), (axis.at(values[2]), y), color, 1.5);
    // The slowest first: where they meet, the fastest is what is seen.
    for (i, &value) in values.iter().enumerate().rev() {
        mark(canvas, i, (axis.at(value), y), color);
    }
    for (value, (_, column)) in values.iter().zip(PERCENTILES) {
        let x = WIDTH - RIGHT + column;
        canvas.text(x, y + 4.0, Anchor::End, 11, &time(*value));
    }
}

/// A disc, a ring, a bar: told apart without colors.
fn mark(canvas: &mut Canvas, percentile: usize, (x, y): (f64, f64), color: &str) {
    match percentile {
        0 => canvas.circle((x, y), 4.5, color, color),
        1 => canvas.circle((x, y), 4.0, "white", color),
        _ => canvas.line((x, y - 6.0), (x, y + 6.0), color, 2.5),
    }
}
