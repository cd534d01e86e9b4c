//! The last lines: one for each mode, ours against the ceiling, raw and the best peer.

use super::row::{Measure, Row, best_peer, of_role};
use super::table::rate;
use crate::ceilings;
use crate::contestants::Role;
use crate::modes::size;

/// Against a broker we are to be this close to the raw client.
const OF_RAW: f64 = 0.95;

/// Whether there is a line for such rows: at 16 B for each mode, else where there is a ceiling.
pub(super) fn has_verdict(rows: &[Row]) -> bool {
    rows.first().is_some_and(|row| {
        let Row { task, .. } = row;
        task.size == 16
            || (row.measure == Measure::Cpu
                && ceilings::limits(task.mode, task.size, 1.0).is_some())
    })
}

/// Against the sink: whether we are under the ceiling.
pub(super) fn against_sink(rows: &[Row]) -> String {
    let Some(task) = rows.first().map(|row| &row.task) else { return String::new() };
    let raw = of_role(rows, Role::Floor);
    let one = of_role(rows, Role::OursCurrentThread);
    let many = of_role(rows, Role::OursMultiThread);
    let smol = of_role(rows, Role::OursSmol);
    let limits = raw.and_then(|raw| ceilings::limits(task.mode, task.size, raw));
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
    let mode = match task.size {
        16 => task.mode.name().to_owned(),
        other => format!("{} {}", task.mode.name(), size(other)),
    };
    format!(
        "{mode}: ours {}{runtime}, multi-thread {}, smol {}, raw {}, best peer {peer}, ceiling {}, {word}",
        ns(one),
        ns(many),
        ns(smol),
        ns(raw),
        ns(limits.map(|limits| limits.tokio)),
    )
}

/// Against a broker: how close we are to raw, and whether, where acks count, ahead of every peer.
pub(super) fn against_broker(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let show = |figure: Option<f64>| match (figure, first.measure) {
        (None, _) => "-".to_owned(),
        (Some(figure), Measure::Rate) => format!("{}/s", rate(figure)),
        (Some(figure), Measure::Cpu | Measure::Latency) => format!("{:.0} µs", figure / 1e3),
    };
    let raw = of_role(rows, Role::Floor);
    let ours = of_role(rows, Role::OursCurrentThread);
    let peer = best_peer(rows);
    let of_raw = ours.zip(raw).map(|(ours, raw)| ours / raw);
    let word = match (first.measure, of_raw) {
        (Measure::Rate, Some(part)) => {
            let ahead = !first.task.mode.acks()
                || ours.zip(peer).is_none_or(|(ours, (_, peer))| ours > peer);
            if part >= OF_RAW && ahead { "ok" } else { "under" }
        }
        _ => "-",
    };
    format!(
        "{} at the broker: ours {}{}, multi-thread {}, smol {}, raw {}, best peer {}{}, {} of raw, {word}",
        first.task.mode.name(),
        show(ours),
        if ours.is_some() { " (tokio current-thread)" } else { "" },
        show(of_role(rows, Role::OursMultiThread)),
        show(of_role(rows, Role::OursSmol)),
        show(raw),
        show(peer.map(|(_, figure)| figure)),
        peer.map_or(String::new(), |(name, _)| format!(" ({name})")),
        of_raw.map_or("-".to_owned(), |part| format!("{part:.2}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Outcome;
    use crate::contestants;
    use crate::modes::{Mode, Task};

    fn rows(mode: Mode, size: usize, broker: bool, figures: &[(&str, f64)]) -> Vec<Row> {
        let row = |&(name, figure): &(&str, f64)| {
            let task = Task { mode, size, queue: String::new(), transient: false };
            let measure = Measure::of(&task, broker);
            let mut row = Row::new(contestants::named(name).ok()?, task, measure);
            row.outcomes = vec![Outcome {
                cpu: figure,
                rate: figure,
                p50: Some(figure),
                ..Outcome::default()
            }];
            Some(row)
        };
        figures.iter().filter_map(row).collect()
    }

    #[test]
    fn a_line_names_ours_raw_the_best_peer_and_the_scaled_ceiling() {
        let with = |smol| {
            let figures = [
                ("raw", 120.0),
                ("lapin", 1_800.0),
                ("amqp-client", 500.0),
                ("ours-tokio-ct", 200.0),
                ("ours-tokio-mt", 210.0),
                ("ours-smol", smol),
            ];
            against_sink(&rows(Mode::Publish, 16, false, &figures))
        };
        assert_eq!(
            with(262.0),
            "publish: ours 200 ns (tokio current-thread), multi-thread 210 ns, smol 262 ns, \
             raw 120 ns, best peer 500 ns (amqp-client), ceiling 210 ns, ok"
        );
        assert!(with(263.0).ends_with("ceiling 210 ns, over"));
    }

    #[test]
    fn without_ours_a_verdict_still_names_raw_the_best_peer_and_the_ceiling() {
        let figures = [("raw", 120.0), ("lapin", 1_800.0), ("amqp-client", 500.0)];
        assert_eq!(
            against_sink(&rows(Mode::Publish, 16, false, &figures)),
            "publish: ours -, multi-thread -, smol -, raw 120 ns, \
             best peer 500 ns (amqp-client), ceiling 210 ns, -"
        );
    }

    #[test]
    fn beside_16_bytes_there_are_lines_where_there_are_ceilings() {
        let has = |mode, size| has_verdict(&rows(mode, size, false, &[("raw", 1.0)]));
        assert!(has(Mode::PingPong, 16));
        assert!(has(Mode::Publish, 1 << 10));
        assert!(has(Mode::ConsumeNoAck, 1 << 10));
        assert!(!has(Mode::ConfirmOne, 1 << 10));
        assert!(!has(Mode::Publish, 64 << 10));
        let line = against_sink(&rows(Mode::Publish, 1 << 10, false, &[("raw", 200.0)]));
        assert!(line.starts_with("publish 1 KiB: "), "{line}");
        assert!(line.contains("ceiling 270 ns"), "{line}");
    }

    #[test]
    fn at_a_broker_within_a_twentieth_of_raw_is_enough_and_where_acks_count_so_is_the_best_peer() {
        let word = |mode, ours, peer| {
            let figures = [("raw", 100e3), ("lapin", peer), ("ours-tokio-ct", ours)];
            let line = against_broker(&rows(mode, 16, true, &figures));
            line.rsplit(' ').next().map(str::to_owned).unwrap_or_default()
        };
        assert_eq!(word(Mode::Publish, 95e3, 99e3), "ok");
        assert_eq!(word(Mode::Publish, 94e3, 50e3), "under");
        assert_eq!(word(Mode::ConsumeAck1000, 96e3, 95e3), "ok");
        assert_eq!(word(Mode::ConsumeAck1000, 96e3, 97e3), "under");
        assert_eq!(word(Mode::PingPong, 96e3, 97e3), "-");
    }
}
