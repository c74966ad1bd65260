//! Small charts as SVG: axes, lines, dots, bars and cells. Colours are CSS classes, so that one picture serves light
//! and dark grounds.

use std::fmt::Write;

/// Colours of the series on light and on dark ground (Okabe and Ito's, which the colour-blind can tell apart, and their
/// lighter kin).
const COLORS: [(&str, &str); 8] = [
    ("#8a8a8a", "#a8a8a8"),
    ("#b8860b", "#f0c650"),
    ("#00805f", "#3fd0a4"),
    ("#8a3f8f", "#d99ae0"),
    ("#c24a00", "#ff9a55"),
    ("#005f9e", "#62b5f0"),
    ("#7a6a4f", "#c9b68f"),
    ("#b0306a", "#ff8fc0"),
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
         .ground{{fill:#fff}}.mark{{paint-order:stroke;stroke:#fff;stroke-width:4px}}.pos{{fill:#005f9e}}.neg{{fill:#c24a00}}{light}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.grid{{stroke:#333}}.frame{{stroke:#777}}\
         .ground{{fill:#16181c}}.mark{{stroke:#16181c}}.pos{{fill:#62b5f0}}.neg{{fill:#ff9a55}}{dark}}}"
    )
}

/// Text that may stand in markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The attribute that names a picture, if it has a name.
fn label(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!(" aria-label=\"{}\"", escape(title)) }
}

/// A range of values along an edge.
#[derive(Clone, Debug)]
pub struct Axis {
    label: String,
    low: f64,
    high: f64,
    log: bool,
    whole: bool,
    /// What stands at which value, instead of numbers.
    names: Vec<(f64, String)>,
}

impl Axis {
    /// Evenly spaced.
    pub fn linear(label: &str, low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { label: label.into(), low, high, log: false, whole: false, names: Vec::new() }
    }

    /// Of counts: evenly spaced, with a margin, marked at whole numbers.
    pub fn whole(label: &str, low: usize, high: usize) -> Self {
        let margin = 0.04 * high.saturating_sub(low).max(1) as f64;
        Self { whole: true, ..Self::linear(label, low as f64 - margin, high as f64 + margin) }
    }

    /// Evenly spaced, with words at some values.
    pub fn named(label: &str, low: f64, high: f64, names: Vec<(f64, String)>) -> Self {
        Self { names, ..Self::linear(label, low, high) }
    }

    /// Spaced by powers of ten; both ends positive.
    pub fn log(label: &str, low: f64, high: f64) -> Self {
        let low = low.max(1e-300);
        let high = if high > low { high } else { 10.0 * low };
        Self { label: label.into(), low, high, log: true, whole: false, names: Vec::new() }
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

    /// Values to mark, and what is written there.
    fn ticks(&self) -> Vec<(f64, String)> {
        match self.names.is_empty() {
            true => self.numbers().into_iter().map(|v| (v, short(v))).collect(),
            false => self.names.clone(),
        }
    }

    fn numbers(&self) -> Vec<f64> {
        if self.log {
            let steps: &[f64] = if self.high / self.low > 1e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            let all = (first..=last).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
            return all.filter(|v| (self.low..=self.high).contains(v)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * unit).find(|s| *s >= rough).unwrap_or(rough);
        let step = if self.whole { step.max(1.0) } else { step };
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
    Dashes,
    Dots,
    Squares,
    /// Bars of this width, from the lower edge.
    Bars(f64),
    /// Thin lines between consecutive pairs of points.
    Links,
}

fn dashes(shape: Shape) -> &'static str {
    if shape == Shape::Dashes { " stroke-dasharray=\"5 4\"" } else { "" }
}

/// Values to draw.
#[derive(Clone, Debug)]
pub struct Series {
    name: String,
    color: usize,
    shape: Shape,
    points: Vec<(f64, f64)>,
    notes: Vec<String>,
}

impl Series {
    fn new(name: &str, color: usize, shape: Shape, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), color, shape, points, notes: Vec::new() }
    }

    /// A line through points.
    pub fn line(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, color, Shape::Line, points)
    }

    /// A dashed line through points.
    pub fn dashes(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, color, Shape::Dashes, points)
    }

    /// A dot at each point.
    pub fn dots(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, color, Shape::Dots, points)
    }

    /// A small square at each point.
    pub fn squares(name: &str, color: usize, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, color, Shape::Squares, points)
    }

    /// A bar of a width (in values) centred on each point.
    pub fn bars(name: &str, color: usize, width: f64, points: Vec<(f64, f64)>) -> Self {
        Self::new(name, color, Shape::Bars(width), points)
    }

    /// A thin line from each even point to the odd one after it.
    pub fn links(color: usize, points: Vec<(f64, f64)>) -> Self {
        Self::new("", color, Shape::Links, points)
    }

    fn sign_width(&self) -> f64 {
        if matches!(self.shape, Shape::Line | Shape::Dashes) { 18.0 } else { 10.0 }
    }

    /// What it takes in the legend.
    fn legend_width(&self) -> f64 {
        self.sign_width() + 18.0 + 6.6 * self.name.chars().count() as f64
    }

    /// What a pointer over each dot or square shows.
    pub fn noted(self, notes: Vec<String>) -> Self {
        Self { notes, ..self }
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
    title: String,
}

const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;

impl Chart {
    /// An empty one, in pixels.
    pub fn new(width: f64, height: f64, x: Axis, y: Axis) -> Self {
        Self { width, height, x, y, series: Vec::new(), marks: Vec::new(), title: String::new() }
    }

    /// What it shows, for those who cannot see it.
    pub fn titled(self, title: &str) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Adds values.
    pub fn push(&mut self, series: Series) {
        self.series.push(series);
    }

    /// As wide as its legend, if that is wider.
    pub fn for_legend(self) -> Self {
        let named = self.series.iter().filter(|s| !s.name.is_empty());
        let width = LEFT + RIGHT + named.map(Series::legend_width).sum::<f64>();
        Self { width: self.width.max(width.ceil()), ..self }
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
             role=\"img\"{}>{style}<rect class=\"ground\" width=\"{w}\" height=\"{h}\"/>",
            label(&self.title)
        );
        for (t, name) in self.x.ticks() {
            let x = self.px(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{floor}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                floor + 16.0,
                escape(&name)
            );
        }
        for (t, name) in self.y.ticks() {
            let y = self.py(t);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                escape(&name)
            );
        }
        self.series.iter().for_each(|s| self.draw_series(s, &mut out));
        for (x, label) in &self.marks {
            let x = self.px(*x);
            let _ = write!(
                out,
                "<line class=\"frame\" stroke-dasharray=\"4 3\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" \
                 y2=\"{floor}\"/><text class=\"mark\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
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
        self.draw_legend(&mut out);
        out.push_str("</svg>");
        out
    }

    fn draw_legend(&self, out: &mut String) {
        let mut at = LEFT;
        for s in self.series.iter().filter(|s| !s.name.is_empty()) {
            let color = s.color % COLORS.len();
            let width = s.sign_width();
            let _ = match s.shape {
                Shape::Line | Shape::Dashes => write!(
                    out,
                    "<line class=\"s{color}\" stroke-width=\"2\"{} x1=\"{at:.1}\" x2=\"{:.1}\" y1=\"13\" y2=\"13\"/>",
                    dashes(s.shape),
                    at + width
                ),
                Shape::Dots => {
                    write!(out, "<circle class=\"f{color}\" cx=\"{:.1}\" cy=\"13\" r=\"4.5\"/>", at + 5.0)
                }
                _ => {
                    write!(out, "<rect class=\"f{color}\" x=\"{at:.1}\" y=\"8.5\" width=\"9\" height=\"9\"/>")
                }
            };
            let _ = write!(out, "<text x=\"{:.1}\" y=\"17\">{}</text>", at + width + 4.0, escape(&s.name));
            at += s.legend_width();
        }
    }

    fn draw_series(&self, s: &Series, out: &mut String) {
        let color = s.color % COLORS.len();
        let place = |&(x, y): &(f64, f64)| (self.px(x), self.py(y));
        match s.shape {
            Shape::Line | Shape::Dashes => {
                let path: Vec<String> =
                    s.points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                if path.is_empty() {
                    return;
                }
                let path = path.join(" ");
                let _ = write!(
                    out,
                    "<polyline class=\"s{color}\" fill=\"none\" stroke-width=\"2\"{} points=\"{path}\"/>",
                    dashes(s.shape)
                );
            }
            Shape::Dots | Shape::Squares => {
                for (k, (x, y)) in s.points.iter().map(place).enumerate() {
                    let note = s.notes.get(k).map(|n| format!("<title>{}</title>", escape(n)));
                    let note = note.unwrap_or_default();
                    let _ = match s.shape {
                        Shape::Dots => write!(
                            out,
                            "<circle class=\"f{color}\" fill-opacity=\"0.7\" cx=\"{x:.1}\" cy=\"{y:.1}\" \
                             r=\"3\">{note}</circle>"
                        ),
                        _ => write!(
                            out,
                            "<rect class=\"f{color}\" fill-opacity=\"0.7\" x=\"{:.1}\" y=\"{:.1}\" width=\"5.4\" \
                             height=\"5.4\">{note}</rect>",
                            x - 2.7,
                            y - 2.7
                        ),
                    };
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

/// Steps of a heat map's opacity.
const SHADES: usize = 24;

/// A signed matrix as cells: one colour for each sign, opacity by size relative to `largest` (square root, so that small
/// values show). The picture is square.
pub fn heat_map(values: &[Vec<f64>], largest: f64, size: f64, title: &str) -> String {
    let (rows, cols) = (values.len().max(1), values.first().map_or(1, Vec::len).max(1));
    // One path for all cells of a shade keeps the picture small.
    let mut shades = vec![String::new(); 2 * SHADES + 1];
    for (i, row) in values.iter().enumerate() {
        for (j, v) in row.iter().enumerate() {
            let shade = (SHADES as f64 * (v.abs() / largest.max(f64::MIN_POSITIVE)).min(1.0).sqrt()).round();
            if shade >= 1.0 {
                let k = SHADES as isize + v.signum() as isize * shade as isize;
                let _ = write!(shades[k as usize], "M{j} {i}h1v1h-1z");
            }
        }
    }
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {cols} {rows}\" width=\"{size}\" \
         height=\"{size}\" preserveAspectRatio=\"none\" shape-rendering=\"crispEdges\" role=\"img\"{}>\
         <rect class=\"ground\" width=\"{cols}\" height=\"{rows}\"/>",
        label(title)
    );
    for (k, path) in shades.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let class = if k > SHADES { "pos" } else { "neg" };
        let opacity = k.abs_diff(SHADES) as f64 / SHADES as f64;
        let _ = write!(out, "<path class=\"{class}\" fill-opacity=\"{opacity:.2}\" d=\"{path}\"/>");
    }
    out.push_str("</svg>");
    out
}

/// The key of a [`heat_map`]: its shades with the values at both ends and in the middle.
pub fn heat_key(largest: f64, width: f64) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} 34\" width=\"{width}\" height=\"34\" \
         role=\"img\"{}><rect class=\"ground\" width=\"{width}\" height=\"34\"/>",
        label("key of the colours")
    );
    let step = width / (2 * SHADES + 1) as f64;
    for k in 0..=2 * SHADES {
        let class = if k > SHADES { "pos" } else { "neg" };
        let opacity = k.abs_diff(SHADES) as f64 / SHADES as f64;
        let _ = write!(
            out,
            "<rect class=\"{class}\" fill-opacity=\"{opacity:.2}\" x=\"{:.1}\" width=\"{:.1}\" height=\"12\"/>",
            k as f64 * step,
            step + 0.3
        );
    }
    for (x, anchor, v) in [
        (0.0, "start", -largest),
        (0.25, "middle", -0.25 * largest),
        (0.5, "middle", 0.0),
        (0.75, "middle", 0.25 * largest),
        (1.0, "end", largest),
    ] {
        let _ =
            write!(out, "<text x=\"{:.1}\" y=\"28\" text-anchor=\"{anchor}\">{}</text>", x * width, short(v));
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_lie_inside_and_numbers_are_short() {
        let log = Axis::log("t", 0.3, 20.0);
        assert_eq!(log.numbers(), vec![0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        let linear = Axis::linear("r", 0.6, 0.9);
        assert!(linear.numbers().iter().all(|t| (0.6..=0.9001).contains(t)));
        assert_eq!((short(0.05), short(1e-7), short(12.0)), ("0.05".into(), "1e-7".into(), "12".into()));
        let named = Axis::named("n", 0.0, 2.0, vec![(0.0, "none".into()), (2.0, "<1".into())]);
        assert_eq!(named.ticks().len(), 2);
        let svg = Chart::new(300.0, 200.0, named, linear).svg();
        assert!(svg.contains(">none<") && svg.contains("&lt;1"), "{svg}");
    }

    #[test]
    fn values_outside_and_markup_do_no_harm() {
        let mut chart = Chart::new(300.0, 200.0, Axis::log("<t>", 0.0, 0.0), Axis::linear("y", 1.0, 1.0));
        chart.push(Series::line("a & b", 0, vec![(f64::NAN, 1.0), (1e9, -5.0)]));
        let svg = chart.svg();
        assert!(svg.contains("&lt;t&gt;") && svg.contains("a &amp; b") && !svg.contains("NaN"));
    }
}
