//! The page: one HTML file that needs nothing else.

use super::svg::{self, Axis, Chart, Series, escape};
use super::{Confusion, Example, Examples, History, Look, Measured, Nearest};
use serde::Serialize;
use std::fmt::Write;
use unicon::loss::LossKind;
use unicon::model::{Encoder, Model};

/// What a page shows.
pub struct Page<'a> {
    /// Its heading.
    pub title: &'a str,
    /// The model; none: the embeddings were given.
    pub model: Option<&'a Model>,
    /// Named sets of rows; the first is the one that is looked at.
    pub sets: &'a [(&'a str, &'a Measured)],
    /// A sample of the first set.
    pub look: &'a Look,
    /// Queries of the first set.
    pub examples: Option<&'a Examples>,
    /// Names of the rows of x and y of the first set.
    pub names: (Option<&'a [String]>, Option<&'a [String]>),
    /// Some rows of y and what is nearest to them.
    pub nearest: Option<&'a Nearest>,
}

/// Pixels of a chart before it is scaled to the page: a phone shows it at about this size.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
/// Colours of x, y, positives and negatives, spectral updates, and refinement.
const X: usize = 2;
const Y: usize = 3;
const POSITIVE: usize = 5;
const NEGATIVE: usize = 4;
const QUIET: usize = 0;
const SAMPLED: usize = 1;

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--text:#1d2129;--quiet:#5a6270;--line:#dcdfe4;--right:#1a7f37}\
@media(prefers-color-scheme:dark){:root{--page:#0f1114;--card:#16181c;--text:#e4e6ea;--quiet:#a0a7b3;--line:#2c3038;--right:#3fb950}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}\
main{max-width:1120px;margin:auto;padding:24px 16px 40px}h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}\
h2{font-size:1.05rem;margin:0 0 4px}p{margin:0}.quiet,figcaption{color:var(--quiet);font-size:.9rem}\
.tiles,.cards{display:grid;gap:16px;margin-top:16px}\
.tiles{grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr))}\
.cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}\
.cards>section{align-self:start}.stack{display:flex;flex-direction:column;gap:16px;min-width:0}\
.tiles>div,figure,section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin:0;\
min-width:0}.tiles b{display:block;font-size:1.7rem;line-height:1.25;font-variant-numeric:tabular-nums}\
figure>svg{display:block;width:100%;height:auto}figcaption{margin-top:6px}\
.pair{display:grid;grid-template-columns:1fr 1fr;gap:10px;margin:10px 0}.pair svg{display:block;width:100%;height:auto;\
border:1px solid var(--line)}.pair p{font-size:.85rem;text-align:center}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.92rem}\
th,td{text-align:right;padding:3px 0 3px 10px;border-bottom:1px solid var(--line)}td{overflow-wrap:anywhere}\
th:first-child,td:first-child,.words td,.words th{text-align:left;font-weight:normal}\
th:first-child,td:first-child{padding-left:0}.wide{grid-column:1/-1;overflow-x:auto}.item{display:inline-block;margin-right:14px}.right{color:var(--right)}.wrong{color:var(--quiet)}tr:last-child>*{border-bottom:0}";

/// The page as HTML: no scripts, no other files, light and dark.
pub fn page(page: &Page<'_>) -> String {
    let history = page.model.map(History::of).unwrap_or_default();
    let made = page.model.map(making).unwrap_or_default();
    let stacked = format!("<div class=\"stack\">{}{made}</div>\n", singular_values(&history));
    let cards = [
        page.nearest.map(Nearest::card).unwrap_or_default(),
        recall(page),
        similarities(page.look),
        plane(page.look),
        weights(page.look),
        loss_by_step(&history),
        figures(page),
        stacked,
        examples(page),
    ]
    .concat();
    document(page.title, &format!("{}{}<div class=\"cards\">{cards}</div>", heading(page), tiles(page)))
}

/// A page of a title and a body.
pub fn document(title: &str, body: &str) -> String {
    let (title, style) = (escape(title), svg::style());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"/><title>{title}</title>\
         <style>{STYLE}{style}</style></head>\n<body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
}

fn heading(page: &Page<'_>) -> String {
    let Some((name, set)) = page.sets.first() else { return String::new() };
    format!(
        "<p class=\"quiet\">{} and {} rows of two modalities in one space, {} positive pairs ({})</p>",
        set.n_x,
        set.n_y,
        set.pairs,
        escape(name)
    )
}

fn tiles(page: &Page<'_>) -> String {
    let Some((_, set)) = page.sets.first() else { return String::new() };
    let mut out = String::from("<div class=\"tiles\">");
    let mut tile = |name: &str, value: String, note: String| {
        let _ = write!(
            out,
            "<div><span class=\"quiet\">{name}</span><b>{value}</b><span class=\"quiet\">{note}</span></div>"
        );
    };
    let k = set.recall.ks.first().copied().unwrap_or(1);
    let chance = |curve: &[f64]| match set.chance.ks.iter().position(|&c| c == k).and_then(|at| curve.get(at))
    {
        Some(chance) => format!("chance {chance:.2} %", chance = 100.0 * chance),
        None => String::new(),
    };
    let percent = |v: Option<&f64>| format!("{:.1} %", 100.0 * v.copied().unwrap_or(0.0));
    tile(&format!("Recall@{k}, x to y"), percent(set.recall.x_to_y.first()), chance(&set.chance.x_to_y));
    tile(&format!("Recall@{k}, y to x"), percent(set.recall.y_to_x.first()), chance(&set.chance.y_to_x));
    tile("Pairs told apart", format!("{:.1} %", 100.0 * page.look.histogram.above), "chance 50 %".into());
    tile("Loss", short_loss(set.loss), format!("of {} rows", set.n_x));
    out.push_str("</div>");
    out
}

/// A card with a chart.
fn figure(heading: &str, chart: &Chart, caption: &str) -> String {
    format!(
        "<figure><h2>{}</h2>{}<figcaption>{caption}</figcaption></figure>\n",
        escape(heading),
        chart.inline()
    )
}

fn recall(page: &Page<'_>) -> String {
    let most = page.sets.iter().filter_map(|(_, s)| s.curve.ks.last()).max().copied().unwrap_or(1);
    let title = "Recall@k both ways";
    let x = Axis::log("k, items looked at", 1.0, most as f64);
    let mut chart =
        Chart::new(WIDTH, HEIGHT, x, Axis::linear("share of queries, %", 0.0, 100.0)).titled(title);
    let points = |ks: &[usize], shares: &[f64]| -> Vec<(f64, f64)> {
        ks.iter().zip(shares).map(|(&k, &v)| (k as f64, 100.0 * v)).collect()
    };
    for (at, (name, set)) in page.sets.iter().enumerate() {
        let (x, y) = (points(&set.curve.ks, &set.curve.x_to_y), points(&set.curve.ks, &set.curve.y_to_x));
        if at == 0 {
            chart.push(Series::line("chance", QUIET, points(&set.chance.ks, &set.chance.x_to_y)));
            chart.push(Series::line("x to y", X, x));
            chart.push(Series::line("y to x", Y, y));
        } else {
            chart.push(Series::dashes("", X, x));
            chart.push(Series::dashes("", Y, y));
            chart.push(Series::dashes(name, QUIET, Vec::new()));
        }
    }
    figure(title, &chart, "How often one of a query's matches is among its k most similar items.")
}

fn similarities(look: &Look) -> String {
    let h = &look.histogram;
    let width = (1.0 - h.low) / h.positives.len() as f64;
    let points = |bars: &[f64]| -> Vec<(f64, f64)> {
        bars.iter().enumerate().map(|(k, &v)| (h.low + (k as f64 + 0.5) * width, 100.0 * v)).collect()
    };
    let tallest = h.positives.iter().chain(&h.negatives).copied().fold(0.0, f64::max);
    let title = "Similarities of pairs";
    let x = Axis::linear("cosine similarity", h.low, 1.0);
    let y = Axis::linear("share of pairs, %", 0.0, 108.0 * tallest);
    let mut chart = Chart::new(WIDTH, HEIGHT, x, y).titled(title);
    chart.push(Series::bars("not a match", NEGATIVE, width, points(&h.negatives)));
    chart.push(Series::bars("match", POSITIVE, width, points(&h.positives)));
    let caption = format!(
        "{} matches (median {}) and {} other pairs (median {}) of a sample. A match is the more similar one {:.1} % of the \
         time.",
        grouped(h.counts.0),
        two(h.medians.0),
        grouped(h.counts.1),
        two(h.medians.1),
        100.0 * h.above
    );
    figure(title, &chart, &caption)
}

/// `4192256` as `4,192,256`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Two decimals, without a negative zero.
fn two(v: f64) -> String {
    format!("{:.2}", (100.0 * v).round() / 100.0 + 0.0)
}

fn plane(look: &Look) -> String {
    let map = &look.map;
    let all = || map.x.iter().chain(&map.y).map(|(_, p)| *p);
    let range = |k: usize| {
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p[k]), h.max(p[k])));
        let margin = 0.04 * (high - low).max(0.1);
        (low - margin, high + margin)
    };
    let axis = |k: usize| {
        let (low, high) = range(k);
        let name = if k == 0 { "first" } else { "second" };
        let percent = 100.0 * map.explained[k];
        Axis::linear(&format!("{name} principal axis ({percent:.0} % of variance)"), low, high)
    };
    let title = "Both modalities in the plane of largest variance";
    let mut chart = Chart::new(WIDTH, 330.0, axis(0), axis(1)).titled(title);
    let point = |p: [f64; 2]| (p[0], p[1]);
    let ends = map.links.iter().flat_map(|&(i, j)| [point(map.x[i].1), point(map.y[j].1)]);
    chart.push(Series::links(QUIET, ends.collect()));
    let notes = |side: &str, dots: &[(usize, [f64; 2])]| {
        dots.iter().map(|(i, _)| format!("{side} row {i}")).collect()
    };
    let dots = |dots: &[(usize, [f64; 2])]| dots.iter().map(|(_, p)| point(*p)).collect();
    chart.push(Series::dots("x", X, dots(&map.x)).noted(notes("x", &map.x)));
    chart.push(Series::squares("y", Y, dots(&map.y)).noted(notes("y", &map.y)));
    let caption = format!(
        "{} rows of x and their matches in y, joined by lines: the shorter, the better aligned. Point at one for its row \
         number.",
        map.x.len()
    );
    figure(title, &chart, &caption)
}

fn weights(look: &Look) -> String {
    let w = &look.weights;
    let values = || w.before.iter().chain(&w.after).flatten();
    let largest = values().map(|v| v.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let map = |values: &[Vec<f64>], when: &str| {
        let map = svg::heat_map(values, largest, 180.0, &format!("weights {when}"));
        format!("<div>{map}<p class=\"quiet\">{when}</p></div>")
    };
    format!(
        "<figure><h2>Weights S(γ): who is pulled, who is pushed</h2><div class=\"pair\">{}{}</div>{}\
         <figcaption>Rows: {} rows of x; columns: their matches in y. Blue pairs are pulled together, orange ones pushed apart. \
         Before, all similarities are 0: every match pulls and all else pushes alike. After, {:.0} % of the total weight \
         is left, on what is still confused.</figcaption></figure>\n",
        map(&w.before, "before alignment"),
        map(&w.after, "after alignment"),
        svg::heat_key(largest, WIDTH),
        w.after.len(),
        100.0 * w.left()
    )
}

/// The range of positive values, logarithmic where they span much.
fn value_axis(label: &str, values: &[f64]) -> Axis {
    let high = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let low = values.iter().copied().filter(|v| *v > 0.0).fold(high, f64::min);
    let signed = values.iter().any(|v| *v <= 0.0);
    if !signed && high > 8.0 * low {
        return Axis::log(label, low / 1.3, high * 1.3);
    }
    let low = values.iter().copied().fold(0.0, f64::min);
    Axis::linear(label, 1.08 * low, 1.08 * high)
}

/// Pushes each stretch as a line with dots, in its colour.
fn push_stretches(chart: &mut Chart, history: &History) {
    for stretch in &history.stretches {
        let color = match &stretch.name {
            name if name.contains("sampled") => SAMPLED,
            name if name.contains("update") => QUIET,
            _ => POSITIVE,
        };
        let points: Vec<(f64, f64)> = stretch.points.iter().map(|p| (p.0 as f64, p.1)).collect();
        chart.push(Series::line("", color, points.clone()));
        chart.push(Series::dots(&stretch.name, color, points));
    }
}

/// Pushes the result, joined to the last update where that is what it follows from.
fn push_result(chart: &mut Chart, history: &History, at: f64) {
    let Some(loss) = history.result else { return };
    let last = history.stretches.last().filter(|s| s.name.contains("update")).and_then(|s| s.points.last());
    if let Some(&(step, before)) = last {
        chart.push(Series::dashes("", QUIET, vec![(step as f64, before), (at, loss)]));
    }
    chart.push(Series::squares("result", NEGATIVE, vec![(at, loss)]));
}

fn losses(history: &History) -> Vec<f64> {
    history.stretches.iter().flat_map(|s| &s.points).map(|p| p.1).chain(history.result).collect()
}

fn loss_by_step(history: &History) -> String {
    let last = history.stretches.iter().flat_map(|s| &s.points).map(|p| p.0).max();
    let Some(last) = last else { return String::new() };
    let title = "Training loss by iteration";
    // Each record is of an iteration's start; only steps of refinement record their result themselves.
    let updates = history.stretches.iter().all(|s| s.name.contains("update"));
    let end = if updates { last + 1 } else { last };
    let x = Axis::whole("iterations done", 0, end.max(1));
    let mut chart = Chart::new(WIDTH, HEIGHT, x, value_axis("loss", &losses(history))).titled(title);
    push_stretches(&mut chart, history);
    push_result(&mut chart, history, end as f64);
    let caption = "The loss L on the training rows, and that of the returned encoders over all negatives.";
    figure(title, &chart, caption)
}

fn singular_values(history: &History) -> String {
    let values = &history.singular_values;
    if values.is_empty() {
        return String::new();
    }
    let title = "Singular values of C(γ)";
    let highest = values[0].max(f64::MIN_POSITIVE);
    // What is below the rounding of a fit in float32 says nothing.
    let shown: Vec<(f64, f64)> = values
        .iter()
        .enumerate()
        .filter(|(_, v)| **v > 1e-6 * highest)
        .map(|(k, &v)| (k as f64 + 1.0, v))
        .collect();
    let heights: Vec<f64> = shown.iter().map(|p| p.1).collect();
    let x = Axis::linear("index", 0.0, values.len() as f64 + 1.0);
    let mut chart = Chart::new(WIDTH, HEIGHT, x, value_axis("singular value", &heights)).titled(title);
    let split = shown.iter().take_while(|p| p.0 <= history.rank as f64).count();
    chart.push(Series::dots("kept", POSITIVE, shown[..split].to_vec()));
    if split < shown.len() {
        chart.push(Series::dots("left out", QUIET, shown[split..].to_vec()));
    }
    if history.rank > 0 {
        chart.mark(history.rank as f64 + 0.5, &format!("rank {}", history.rank));
    }
    let energy = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
    let kept = energy(&values[..history.rank.min(values.len())]) / energy(values).max(f64::MIN_POSITIVE);
    let caption = format!(
        "Of {} that were computed; those kept hold {:.1} % of the energy.",
        values.len(),
        100.0 * kept
    );
    figure(title, &chart, &caption)
}

/// A number that is read rounded and holds all its digits.
fn datum(value: &impl Serialize, shown: &str) -> String {
    // Numbers are always JSON; NaN is null.
    let full = serde_json::to_string(value).unwrap_or_default();
    format!("<data value=\"{full}\">{shown}</data>")
}

fn short_loss(v: f64) -> String {
    if v == 0.0 || (1e-3..1e4).contains(&v.abs()) { format!("{v:.4}") } else { format!("{v:.3e}") }
}

fn figures(page: &Page<'_>) -> String {
    let mut out = String::from("<section><h2>Figures</h2><table><tr><th></th>");
    for (name, _) in page.sets {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(name));
    }
    out.push_str("</tr>");
    let mut row = |key: &str, name: &str, cell: &dyn Fn(&Measured) -> String| {
        let _ = write!(out, "<tr data-key=\"{key}\"><th scope=\"row\">{name}</th>");
        for (_, set) in page.sets {
            let _ = write!(out, "<td>{}</td>", cell(set));
        }
        out.push_str("</tr>");
    };
    let count = |n: usize| datum(&n, &n.to_string());
    let share = |v: f64| datum(&v, &format!("{v:.4}"));
    row("n_x", "rows of x", &|s| count(s.n_x));
    row("n_y", "rows of y", &|s| count(s.n_y));
    row("pairs", "positive pairs", &|s| count(s.pairs));
    let ks = page.sets.first().map_or(&[][..], |(_, s)| &s.recall.ks);
    for (at, k) in ks.iter().enumerate() {
        row(&format!("x_to_y.{at}"), &format!("Recall@{k}, x to y"), &|s| share(s.recall.x_to_y[at]));
    }
    for (at, k) in ks.iter().enumerate() {
        row(&format!("y_to_x.{at}"), &format!("Recall@{k}, y to x"), &|s| share(s.recall.y_to_x[at]));
    }
    row("matching_accuracy", "matching accuracy", &|s| share(s.recall.matching_accuracy));
    for (at, way) in ["x to y", "y to x"].iter().enumerate() {
        row(&format!("mrr.{at}"), &format!("mean reciprocal rank, {way}"), &|s| share(s.recall.mrr[at]));
    }
    let rank = |v: Option<f64>| v.map_or_else(String::new, |v| datum(&v, &svg::short(v)));
    for (at, way) in ["x to y", "y to x"].iter().enumerate() {
        row(&format!("median_rank.{at}"), &format!("median rank, {way}"), &|s| {
            rank(s.recall.median_rank[at])
        });
        row(&format!("mean_rank.{at}"), &format!("mean rank, {way}"), &|s| rank(s.recall.mean_rank[at]));
    }
    row("tied.0", "rows of x with a tie", &|s| count(s.recall.tied[0]));
    row("tied.1", "rows of y with a tie", &|s| count(s.recall.tied[1]));
    row("loss", "loss", &|s| datum(&s.loss, &short_loss(s.loss)));
    row("zero_rows.0", "zero rows of x", &|s| count(s.zero_rows.0));
    row("zero_rows.1", "zero rows of y", &|s| count(s.zero_rows.1));
    row("unmatched.0", "rows of x without a match", &|s| count(s.unmatched.0));
    row("unmatched.1", "rows of y without a match", &|s| count(s.unmatched.1));
    out.push_str("</table></section>\n");
    out
}

/// A row's name, or its number.
fn named(side: &str, names: Option<&[String]>, row: usize) -> String {
    names.and_then(|n| n.get(row)).map_or_else(|| format!("{side} row {row}"), |name| escape(name))
}

fn examples(page: &Page<'_>) -> String {
    let Some(found) = page.examples else { return String::new() };
    let (x, y) = (|i| named("x", page.names.0, i), |j| named("y", page.names.1, j));
    let table = |heading: &str, columns: &[&str], rows: Vec<Vec<String>>| {
        if rows.is_empty() {
            return String::new();
        }
        let mut out = format!("<section class=\"wide\"><h2>{heading}</h2><table class=\"words\"><tr>");
        columns.iter().for_each(|c| out.push_str(&format!("<th scope=\"col\">{c}</th>")));
        out.push_str("</tr>");
        for row in rows {
            out.push_str("<tr>");
            row.iter().for_each(|cell| out.push_str(&format!("<td>{cell}</td>")));
            out.push_str("</tr>");
        }
        out.push_str("</table></section>\n");
        out
    };
    let cells = |e: &Example| {
        vec![
            x(e.query),
            y(e.right),
            two(e.right_score.into()),
            e.rank.to_string(),
            y(e.wrong),
            two(e.wrong_score.into()),
        ]
    };
    let columns = ["row of x", "its match in y", "similarity", "rank", "best other item", "similarity"];
    let rows = |examples: &[Example]| examples.iter().map(cells).collect();
    let pair = |c: &Confusion| vec![y(c.first), y(c.second), c.queries.to_string()];
    [
        table("Surest hits", &columns, rows(&found.hits)),
        table("Worst misses", &columns, rows(&found.misses)),
        table("Taken for each other", &["in y", "and", "queries"], found.confused.iter().map(pair).collect()),
    ]
    .concat()
}

fn making(model: &Model) -> String {
    let mut out = String::from("<section><h2>The model</h2><table>");
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(&value));
    };
    let l = &model.loss;
    let mut loss = name(l.kind);
    if let Some(family) = &l.family {
        let _ = write!(loss, ", psi and phi of \"{}\"", family.name());
    }
    if !matches!(l.kind, LossKind::TripletHard | LossKind::Custom) {
        let _ = write!(loss, ", τ = {}", l.tau);
    }
    let _ = write!(loss, ", ν = {}", l.nu);
    if matches!(l.kind, LossKind::TripletHard | LossKind::TripletSmooth) {
        let _ = write!(loss, ", margin {}", l.margin);
    }
    row("loss", loss);
    if let Some(first) = model.components.first() {
        row("encoder of x", encoder(&first.x));
        row("encoder of y", encoder(&first.y));
    }
    if model.components.len() > 1 {
        row("fused solutions", model.components.len().to_string());
    }
    if let (Some(_), Some(error)) = (&model.compression, model.notes.get("compression_error")) {
        let columns = model.embedding_dim();
        row("compressed", format!("to {columns} columns, relative error of the similarities {error}"));
    }
    for (note, shown) in [
        ("preset", "preset"),
        ("whiten", "shrinkage of the whitening"),
        ("factorization_power", "power of the singular values"),
        ("n_iters", "spectral updates"),
        ("refine_steps", "steps of refinement"),
        ("seed", "seed"),
    ] {
        if let Some(value) = model.notes.get(note) {
            row(shown, value.clone());
        }
    }
    row("written by", format!("UniCon {}", env!("CARGO_PKG_VERSION")));
    out.push_str("</table></section>\n");
    out
}

fn encoder(e: &Encoder) -> String {
    let r = e.matrix.nrows();
    match &e.map {
        None => format!("linear, {} to {r}", e.input_dim()),
        Some(map) => {
            format!(
                "{} kernel, {} to {r}, {} landmarks",
                name(map.kernel.kind),
                e.input_dim(),
                map.landmarks.nrows()
            )
        }
    }
}

/// The library's name for a choice.
fn name(choice: impl Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
