//! Two plots of a run against the sink, at 16 B: what a message costs, and how long it takes.

mod cost;
mod latency;
pub(crate) mod svg;

use std::path::Path;

use crate::Fallible;
use crate::report::{Part, Row};

/// Draws what was run into `directory`, which is made if it is not there.
pub(crate) fn write(parts: &[Part], directory: &Path) -> Fallible {
    let sink = parts.iter().find(|part| !part.broker);
    let sink = sink.ok_or("the plots are of a run against the sink")?;
    let tasks: Vec<&[Row]> =
        sink.by_task().filter(|rows| rows.first().is_some_and(|row| row.task.size == 16)).collect();
    std::fs::create_dir_all(directory)?;
    for (name, plot) in [("cost.svg", cost::plot(&tasks)), ("latency.svg", latency::plot(&tasks))] {
        if let Some(plot) = plot {
            std::fs::write(directory.join(name), plot)?;
        }
    }
    Ok(())
}

/// Nanoseconds, in the unit in which they are short.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        1e6.. => (ns / 1e6, "ms"),
        1e3.. => (ns / 1e3, "µs"),
        _ => (ns, "ns"),
    };
    if value < 10.0 && value.fract() >= 0.05 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Outcome;
    use crate::contestants;
    use crate::modes::{Mode, Task};
    use crate::report::Measure;

    #[test]
    fn times_have_two_digits_where_one_would_say_too_little() {
        let times = [13.4, 99.6, 1_870.0, 2_000.0, 45_210.0, 3_200_000.0].map(time);
        assert_eq!(times, ["13 ns", "100 ns", "1.9 µs", "2 µs", "45 µs", "3.2 ms"]);
    }

    #[test]
    fn both_plots_name_every_mode_and_contestant_that_was_run() -> Fallible {
        let mut rows = Vec::new();
        for mode in Mode::ALL {
            for entry in contestants::all() {
                let task = Task { mode, size: 16, queue: String::new(), transient: false };
                let measure = Measure::of(&task, false);
                let mut row = Row::new(entry, task, measure);
                row.outcomes = vec![Outcome {
                    cpu: 100.0,
                    p50: Some(12e3),
                    p99: Some(20e3),
                    p999: Some(90e3),
                    ..Outcome::default()
                }];
                rows.push(row);
            }
        }
        let part = Part { about: Vec::new(), broker: false, rows };
        let tasks: Vec<_> = part.by_task().collect();
        let cost = cost::plot(&tasks).ok_or("no cost plot")?;
        let latency = latency::plot(&tasks).ok_or("no latency plot")?;
        for mode in Mode::ALL {
            let plot = if mode.is_latency() { &latency } else { &cost };
            assert!(plot.contains(&format!(">{}<", mode.name())), "{}", mode.name());
        }
        for entry in contestants::all() {
            assert!(latency.contains(&format!(">{}<", entry.name)), "{}", entry.name);
        }
        for name in ["raw socket", "amqp-client", "lapin", "amqprs", "ours, smol"] {
            assert!(cost.contains(&format!(">{name}<")), "{name}");
        }
        Ok(())
    }
}
