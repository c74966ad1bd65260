//! The table as a picture: mean Recall@1 on the test rows after each number of updates, a panel for each whitening.

use super::design::{Design, Method, factorization_name};
use super::run::{Outcome, Row};
use crate::cli::report::svg::{Axis, Chart, Series};

/// Values of a panel's rows: updates and mean recall.
type Points = Vec<(usize, f64)>;

/// A self-contained SVG, legible on light and dark grounds.
pub fn svg(design: &Design, outcome: &Outcome) -> String {
    let value = |r: &Row| r.test.as_ref().map(|f| f.recall());
    let values: Vec<f64> = outcome.rows.iter().filter_map(value).collect();
    let (low, high) = values.iter().fold((1.0f64, 0.0f64), |(a, b), &v| (a.min(v), b.max(v)));
    let margin = 0.04 * (high - low).max(0.01);
    // A panel has a place for each number of updates, the first for one, and a gap after it.
    let mut places = design.further().to_vec();
    places.insert(0, 1);
    let width = places.len() + 1;
    let place = |panel: usize, updates: usize| {
        (panel * width + places.iter().position(|&n| n == updates).unwrap_or(0)) as f64
    };
    let mut panels = Vec::new();
    for &whiten in &design.whiten {
        for (factorization, batch) in design.solvers() {
            panels.push((whiten, factorization.power(), batch));
        }
    }
    let names = (0..panels.len()).flat_map(|p| places.iter().map(move |n| (p, *n)));
    let names = names.map(|(p, n)| (place(p, n), n.to_string())).collect();
    let end = (panels.len() * width) as f64 - 1.5;
    let mut chart = Chart::new(
        f64::max(760.0, 70.0 + 46.0 * (panels.len() * width) as f64),
        420.0,
        Axis::named("spectral updates", -0.5, end, names),
        // Room for the names of the panels.
        Axis::linear("mean Recall@1 of both directions, test rows", low - margin, high + 3.0 * margin),
    )
    .titled("Mean Recall@1 after each number of updates, for each whitening and S");
    let several = design.factorizations.len() > 1;
    for (p, (whiten, power, batch)) in panels.iter().enumerate() {
        let whitening = whiten.map_or_else(|| "not whitened".into(), |l| format!("whiten {l}"));
        let split = if several { format!(", {}", factorization_name(*power)) } else { String::new() };
        let batch = batch.map_or_else(String::new, |b| format!(", batch {b}"));
        chart.mark(place(p, 1) - 0.5, &format!("{whitening}{split}{batch}"));
    }
    let of = |p: usize, method: Method, key: Option<(Option<f64>, f64)>| -> Points {
        let (whiten, power, batch) = panels[p];
        let is = |r: &&Row| {
            let s = &r.setting;
            let same = (s.whiten, s.power, s.batch_size) == (whiten, Some(power), batch);
            // The first update, which no temperature changes, belongs to all.
            let kin = key.is_none_or(|(tau, nu)| (s.tau == tau || s.tau.is_none()) && s.nu == Some(nu));
            s.method == method && same && kin
        };
        let rows = outcome.rows.iter().filter(is);
        rows.filter_map(|r| Some((r.setting.updates?, value(r)?))).collect()
    };
    // The centred identity: a level to compare with along the panel.
    let mut name = "centred identity";
    for p in 0..panels.len() {
        for (_, v) in of(p, Method::CentredIdentity, None) {
            let ends = vec![(place(p, 1) - 0.4, v), (place(p, places[places.len() - 1]) + 0.4, v)];
            chart.push(Series::dashes(std::mem::take(&mut name), 0, ends));
        }
    }
    let mut color = 1;
    for &tau in &design.tau {
        for &nu in &design.nu {
            let mut name = format!("tau {tau}, nu {nu}");
            for p in 0..panels.len() {
                let mut points = of(p, Method::Gamma, Some((Some(tau), nu)));
                if nu == 1.0 && !points.is_empty() {
                    points.extend(of(p, Method::CentredIdentity, None));
                }
                points.sort_unstable_by_key(|(n, _)| *n);
                let points: Vec<(f64, f64)> = points.iter().map(|&(n, v)| (place(p, n), v)).collect();
                if points.is_empty() {
                    continue;
                }
                chart.push(Series::dots("", color, points.clone()));
                chart.push(Series::line(&std::mem::take(&mut name), color, points));
            }
            color += 1;
        }
    }
    if let Some(v) = outcome.rows.iter().find(|r| r.setting.method == Method::Best).and_then(value) {
        chart.push(Series::line("preset best", color, vec![(-0.5, v), (end, v)]));
    }
    chart.for_legend().svg()
}
