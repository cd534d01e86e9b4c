//! As much SVG as two plots need: written by hand, because what they consist of (bars in groups,
//! dots on a logarithmic axis, columns of figures) is a few rectangles and texts, and plotting
//! libraries have their say in where those go.

use std::fmt::Write;

/// Where a text is held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Shapes, in the order in which they are drawn.
#[derive(Debug)]
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    shapes: String,
}

/// The color of texts and marks.
pub(crate) const INK: &str = "#202124";
/// The color of what is less important.
pub(crate) const PALE: &str = "#5f6368";
/// The color of the lines behind.
pub(crate) const GRID: &str = "#e0e0e0";

impl Canvas {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: String::new() }
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: Anchor, size: u32, text: &str) {
        self.styled_text((x, y), anchor, size, INK, false, text);
    }

    pub(crate) fn styled_text(
        &mut self,
        (x, y): (f64, f64),
        anchor: Anchor,
        size: u32,
        color: &str,
        bold: bool,
        text: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let weight = if bold { r#" font-weight="bold""# } else { "" };
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            self.shapes,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{color}"{weight}>{text}</text>"#
        );
    }

    pub(crate) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        let _ = writeln!(
            self.shapes,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.shapes,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}" stroke-width="{width}"/>"#
        );
    }

    /// A filled one, or (with a `fill` of white) a ring.
    pub(crate) fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str, stroke: &str) {
        let _ = writeln!(
            self.shapes,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>"#
        );
    }

    /// The file, on a white ground: it is to be readable on a dark page, too.
    pub(crate) fn finish(self) -> String {
        let Self { width, height, shapes } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n{shapes}</svg>\n"
        )
    }
}

/// A logarithmic axis from left to right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    from: f64,
    to: f64,
    left: f64,
    width: f64,
}

impl Axis {
    /// From the round number at or below the least of `values` to the one at or above the greatest.
    pub(crate) fn covering(
        values: impl Iterator<Item = f64>,
        left: f64,
        width: f64,
    ) -> Option<Self> {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (least, greatest) = positive.fold((f64::MAX, 0.0_f64), |(least, greatest), value| {
            (least.min(value), greatest.max(value))
        });
        if greatest == 0.0 {
            return None;
        }
        let from = steps().take_while(|&step| step <= least).last()?;
        let to = steps().find(|&step| step >= greatest && step > from)?;
        Some(Self { from, to, left, width })
    }

    /// Where a value is.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let part = (value / self.from).log10() / (self.to / self.from).log10();
        self.left + self.width * part.clamp(0.0, 1.0)
    }

    /// The round numbers on it.
    pub(crate) fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (from, to) = (self.from, self.to);
        steps().skip_while(move |&step| step < from).take_while(move |&step| step <= to)
    }
}

/// 1, 2, 5, 10, 20, 50 and so on.
fn steps() -> impl Iterator<Item = f64> {
    (0..12).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_covers_its_values_from_round_number_to_round_number() {
        let axis = Axis::covering([23.0, 1_870.0].into_iter(), 100.0, 200.0);
        let ticks: Vec<_> = axis.iter().flat_map(Axis::ticks).collect();
        assert_eq!(ticks, [20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0]);
        let at = |value| axis.map(|axis| axis.at(value).round());
        assert_eq!([at(20.0), at(200.0), at(2_000.0)], [Some(100.0), Some(200.0), Some(300.0)]);
        assert!(Axis::covering([].into_iter(), 0.0, 1.0).is_none());
    }

    #[test]
    fn texts_are_escaped() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.text(0.0, 0.0, Anchor::Start, 10, "a < b & c");
        assert!(canvas.finish().contains(">a &lt; b &amp; c</text>"));
    }
}
