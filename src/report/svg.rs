//! Small charts as SVG: axes, lines, dots, bars and cells. Colours are CSS classes, so that one picture serves light
//! and dark grounds.

use std::fmt::Write;

/// Colours of the series on light and on dark ground (Okabe and Ito's, which the colour-blind can tell apart, and their
/// lighter kin).
const COLORS: [(&str, &str); 6] = [
    ("#8a8a8a", "#a8a8a8"),
    ("#b8860b", "#f0c650"),
    ("#00805f", "#3fd0a4"),
    ("#8a3f8f", "#d99ae0"),
    ("#c24a00", "#ff9a55"),
    ("#005f9e", "#62b5f0"),
];

/// The style that the pictures need, for a page that holds several.
pub fn style() -> String {
    let mut light = String::new();
    let mut dark = String::new();
    for (k, (l, d)) in COLORS.iter().enumerate() {
        let _ = write!(light, ".s{k}{{stroke:{l}}}.f{k}{{fill:{l}}}");
        let _ = write!(dark, ".s{k}{{stroke:{d}}}.f{k}{{fill:{d}}}");
    }
    format!(
        "text{{font:12px system-ui,sans-serif;fill:#222}}.grid{{stroke:#ddd}}.frame{{stroke:#888;fill:none}}\
         .ground{{fill:#fff}}.pos{{fill:#005f9e}}.neg{{fill:#c24a00}}{light}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.grid{{stroke:#333}}.frame{{stroke:#777}}\
         .ground{{fill:#16181c}}.pos{{fill:#62b5f0}}.neg{{fill:#ff9a55}}{dark}}}"
    )
}

/// Text that may stand in markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A range of values along an edge.
#[derive(Clone, Debug)]
pub struct Axis {
    label: String,
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// Evenly spaced.
    pub fn linear(label: &str, low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { label: label.into(), low, high, log: false }
    }

    /// Spaced by powers of ten; both ends positive.
    pub fn log(label: &str, low: f64, high: f64) -> Self {
        let low = low.max(1e-300);
        let high = if high > low { high } else { 10.0 * low };
        Self { label: label.into(), low, high, log: true }
    }

    /// Where a value lies, 0 to 1 (clamped).
    fn place(&self, v: f64) -> f64 {
        let share = if self.log {
            (v.max(1e-300) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let steps: &[f64] = if self.high / self.low > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let all = (first..=last).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            return all.filter(|v| (self.low..=self.high).contains(v)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * unit).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|k| k as f64 * step).take_while(|v| *v <= self.high + 1e-9 * step).take(12).collect()
    }
}

/// A number in a few characters.
pub fn short(v: f64) -> String {
    let a = v.abs();
    if v == 0.0 {
        "0".into()
    } else if !(1e-3..1e5).contains(&a) {
        format!("{v:.0e}")
    } else {
        let text = format!("{v:.3}");
        text.trim_end_matches('0').trim_end_matches('.').into()
    }
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Line,
    Dots,
    /// Bars of this width, from the lower edge.
    Bars(f64),
    /// Thin lines between consecutive pairs of points.
    Links,
}

/// Values to draw.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    color: usize,
    shape: Shape,
    points: Vec<(f64, f64)>,
}

impl Series {
    /// A line through points.
    pub fn line(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), color, shape: Shape::Line, points }
    }

    /// A dot at each point.
    pub fn dots(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), color, shape: Shape::Dots, points }
    }

    /// A bar of a width (in values) centred on each point.
    pub fn bars(name: &str, color: usize, width: f64, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), color, shape: Shape::Bars(width), points }
    }

    /// A thin line from each even point to the odd one after it.
    pub fn links(color: usize, points: Vec<(f64, f64)>) -> Self {
        Self { name: String::new(), color, shape: Shape::Links, points }
    }
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    width: f64,
    height: f64,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    marks: Vec<(f64, String)>,
}

const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;

impl Chart {
    /// An empty one, in pixels.
    pub fn new(width: f64, height: f64, x: Axis, y: Axis) -> Self {
        Self { width, height, x, y, series: Vec::new(), marks: Vec::new() }
    }

    /// Adds values.
    pub fn push(&mut self, series: Series) {
        self.series.push(series);
    }

    /// Adds a vertical line with a label.
    pub fn mark(&mut self, x: f64, label: &str) {
        self.marks.push((x, label.into()));
    }

    fn px(&self, v: f64) -> f64 {
        LEFT + self.x.place(v) * (self.width - LEFT - RIGHT)
    }

    fn py(&self, v: f64) -> f64 {
        self.height - BOTTOM - self.y.place(v) * (self.height - TOP - BOTTOM)
    }

    /// The picture with its own style, for a file of its own.
    pub fn svg(&self) -> String {
        self.draw(&format!("<style>{}</style>", style()))
    }

    /// The picture for a page that has the [`style`].
    pub fn inline(&self) -> String {
        self.draw("")
    }

    fn draw(&self, style: &str) -> String {
        let (w, h) = (self.width, self.height);
        let (right, floor) = (w - RIGHT, h - BOTTOM);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" \
             role=\"img\">{style}<rect class=\"ground\" width=\"{w}\" height=\"{h}\"/>"
        );
        for t in self.x.ticks() {
            let x = self.px(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                floor + 16.0,
                short(t)
            );
        }
        for t in self.y.ticks() {
            let y = self.py(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(t)
            );
        }
        self.series.iter().for_each(|s| self.draw_series(s, &mut out));
        for (x, label) in &self.marks {
            let x = self.px(*x);
            let _ = write!(
                out,
                "<line class=\"frame\" stroke-dasharray=\"4 3\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" \
                 y2=\"{floor}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 4.0,
                TOP + 14.0,
                escape(label)
            );
        }
        let _ = write!(
            out,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            right - LEFT,
            floor - TOP
        );
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            0.5 * (LEFT + right),
            h - 8.0,
            escape(&self.x.label),
            0.5 * (TOP + floor),
            escape(&self.y.label)
        );
        let mut at = LEFT;
        for s in self.series.iter().filter(|s| !s.name.is_empty()) {
            let _ = write!(
                out,
                "<rect class=\"f{}\" x=\"{at:.1}\" y=\"8\" width=\"10\" height=\"10\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"17\">{}</text>",
                s.color % COLORS.len(),
                at + 14.0,
                escape(&s.name)
            );
            at += 30.0 + 6.6 * s.name.chars().count() as f64;
        }
        out.push_str("</svg>");
        out
    }

    fn draw_series(&self, s: &Series, out: &mut String) {
        let color = s.color % COLORS.len();
        let place = |&(x, y): &(f64, f64)| (self.px(x), self.py(y));
        match s.shape {
            Shape::Line => {
                let path: Vec<String> =
                    s.points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let path = path.join(" ");
                let _ = write!(
                    out,
                    "<polyline class=\"s{color}\" fill=\"none\" stroke-width=\"2\" points=\"{path}\"/>"
                );
            }
            Shape::Dots => {
                for (x, y) in s.points.iter().map(place) {
                    let _ = write!(
                        out,
                        "<circle class=\"f{color}\" fill-opacity=\"0.6\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>"
                    );
                }
            }
            Shape::Bars(width) => {
                for &(v, height) in &s.points {
                    let (left, right) = (self.px(v - 0.5 * width), self.px(v + 0.5 * width));
                    let (top, floor) = (self.py(height), self.height - BOTTOM);
                    let _ = write!(
                        out,
                        "<rect class=\"f{color}\" fill-opacity=\"0.55\" x=\"{left:.1}\" y=\"{top:.1}\" \
                         width=\"{:.1}\" height=\"{:.1}\"/>",
                        (right - left).max(0.5),
                        floor - top
                    );
                }
            }
            Shape::Links => {
                for pair in s.points.chunks_exact(2) {
                    let ((x1, y1), (x2, y2)) = (place(&pair[0]), place(&pair[1]));
                    let _ = write!(
                        out,
                        "<line class=\"s{color}\" stroke-opacity=\"0.35\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" \
                         x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
                    );
                }
            }
        }
    }
}

/// A signed matrix as cells: one colour for each sign, opacity by size (square root, so that small values show).
pub fn heat_map(values: &[Vec<f64>], size: f64) -> String {
    let n = values.len().max(1) as f64;
    let largest = values.iter().flatten().map(|v| v.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let cell = size / n;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" width=\"{size}\" \
         height=\"{size}\" role=\"img\"><rect class=\"ground\" width=\"{size}\" height=\"{size}\"/>"
    );
    for (i, row) in values.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            let opacity = (v.abs() / largest).sqrt();
            if opacity > 0.02 {
                let class = if *v > 0.0 { "pos" } else { "neg" };
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" fill-opacity=\"{opacity:.2}\" x=\"{:.2}\" y=\"{:.2}\" \
                     width=\"{cell:.2}\" height=\"{cell:.2}\"/>",
                    j as f64 * cell,
                    i as f64 * cell
                );
            }
        }
    }
    let _ = write!(out, "<rect class=\"frame\" width=\"{size}\" height=\"{size}\"/></svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_lie_inside_and_numbers_are_short() {
        let log = Axis::log("t", 0.3, 20.0);
        assert_eq!(log.ticks(), vec![0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        let linear = Axis::linear("r", 0.6, 0.9);
        assert!(linear.ticks().iter().all(|t| (0.6..=0.9001).contains(t)));
        assert_eq!((short(0.05), short(1e-7), short(12.0)), ("0.05".into(), "1e-7".into(), "12".into()));
    }

    #[test]
    fn values_outside_and_markup_do_no_harm() {
        let mut chart = Chart::new(300.0, 200.0, Axis::log("<t>", 0.0, 0.0), Axis::linear("y", 1.0, 1.0));
        chart.push(Series::line("a & b", 0, vec![(f64::NAN, 1.0), (1e9, -5.0)]));
        let svg = chart.svg();
        assert!(svg.contains("&lt;t&gt;") && svg.contains("a &amp; b") && !svg.contains("NaN"));
    }
}
