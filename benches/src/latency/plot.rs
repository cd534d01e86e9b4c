//! Percentiles: a panel for each load, a line for each client. From left to right the share of
//! messages that took longer becomes a tenth with each step, so that the tail is as wide as the rest.

use std::path::Path;

use super::{Row, Who};
use crate::Fallible;
use crate::plots::svg::{Anchor, Axis, Canvas, GRID, INK, PALE};
use crate::table::time;

const PANEL: f64 = 300.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const GAP: f64 = 44.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 58.0;

/// The last percentile is 99.99: one in ten to the power of this takes longer.
const DECADES: f64 = 4.0;

const PERCENTILES: [(f64, &str); 5] =
    [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99")];

fn color(who: Who) -> &'static str {
    match who {
        Who::OursTokioCt => "#174ea6",
        Who::OursTokioMt => "#4285f4",
        Who::OursSmol => "#8ab4f8",
        Who::AmqpClient => "#e37400",
        Who::Lapin => "#188038",
    }
}

/// Draws `rows`, which come load by load, if there are any.
pub(super) fn write(file: &Path, title: &str, rows: &[Row]) -> Fallible {
    if let Some(plot) = plot(title, rows) {
        std::fs::write(file, plot)?;
    }
    Ok(())
}

/// The quantile that lies so many decades from the left.
fn quantile(decades: f64) -> f64 {
    1.0 - 10_f64.powf(-decades)
}

fn plot(title: &str, rows: &[Row]) -> Option<String> {
    let panels: Vec<_> = rows.chunk_by(|a, b| a.load == b.load).collect();
    let bottom = TOP + HEIGHT;
    let values = rows
        .iter()
        .filter(|row| !row.times.is_empty())
        .flat_map(|row| [0.1, DECADES].map(|at| row.times.value_at_quantile(quantile(at)) as f64));
    // From the bottom up.
    let axis = Axis::covering(values, bottom, -HEIGHT)?;
    let width = LEFT + panels.len() as f64 * (PANEL + GAP);
    let mut canvas = Canvas::new(width, bottom + BOTTOM);
    canvas.styled_text((LEFT, 26.0), Anchor::Start, 16, INK, true, title);
    let mut x = LEFT;
    for who in Who::ALL {
        if rows.iter().any(|row| row.who == who) {
            canvas.line((x, 48.0), (x + 18.0, 48.0), color(who), 2.5);
            canvas.text(x + 24.0, 52.0, Anchor::Start, 12, who.name());
            x += 130.0;
        }
    }
    let label = "percentile of messages (%); time on a logarithmic axis";
    canvas.styled_text((LEFT, bottom + 42.0), Anchor::Start, 12, PALE, false, label);
    for tick in axis.ticks().filter(|tick| is_power_of_ten(*tick)) {
        canvas.text(LEFT - 8.0, axis.at(tick) + 4.0, Anchor::End, 11, &time(tick));
    }
    for (i, rows) in panels.iter().enumerate() {
        panel(&mut canvas, &axis, rows, LEFT + i as f64 * (PANEL + GAP));
    }
    Some(canvas.finish())
}

fn is_power_of_ten(value: f64) -> bool {
    value.log10().fract().abs() < 1e-9
}

fn panel(canvas: &mut Canvas, axis: &Axis, rows: &[Row], left: f64) {
    let bottom = TOP + HEIGHT;
    let x = |decades: f64| left + PANEL * decades / DECADES;
    if let Some(first) = rows.first() {
        let head = match first.offered {
            Some(offered) => format!("{}: {}/s", first.load.name(), crate::table::rate(offered)),
            None => first.load.name(),
        };
        canvas.styled_text((left, TOP - 10.0), Anchor::Start, 13, INK, true, &head);
    }
    for tick in axis.ticks().filter(|tick| is_power_of_ten(*tick)) {
        canvas.line((left, axis.at(tick)), (left + PANEL, axis.at(tick)), GRID, 1.0);
    }
    for (decades, name) in PERCENTILES {
        canvas.line((x(decades), TOP), (x(decades), bottom), GRID, 1.0);
        canvas.text(x(decades), bottom + 16.0, Anchor::Middle, 11, name);
    }
    for row in rows.iter().filter(|row| !row.times.is_empty()) {
        let at = |step: u32| {
            let decades = f64::from(step) * DECADES / 100.0;
            (x(decades), axis.at(row.times.value_at_quantile(quantile(decades)) as f64))
        };
        for step in 0..100 {
            canvas.line(at(step), at(step + 1), color(row.who), 2.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Load;
    use super::*;

    #[test]
    fn a_decade_is_a_nine() {
        let shown = [0.0, 1.0, 2.0, 4.0].map(|decades| format!("{:.4}", quantile(decades)));
        assert_eq!(shown, ["0.0000", "0.9000", "0.9900", "0.9999"]);
    }

    #[test]
    fn each_load_has_a_panel_and_each_client_that_was_run_a_line() -> Fallible {
        let mut rows = Vec::new();
        for share in [10, 50] {
            for who in [Who::OursSmol, Who::Lapin] {
                let mut row = Row::new(who, Load::Share(share), Some(5e3))?;
                row.times.record_n(100_000, 50)?;
                rows.push(row);
            }
        }
        let plot = plot("title", &rows).ok_or("no plot")?;
        for text in ["title", "10 %: 5.00k/s", "50 %: 5.00k/s", "ours-smol", "lapin", "99.9"] {
            assert!(plot.contains(&format!(">{text}<")), "{text}");
        }
        assert!(!plot.contains("amqp-client"));
        Ok(())
    }
}
