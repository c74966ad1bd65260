//! The frontiers as a picture: mean Recall@1 against wall time.

use super::methods::{Comparison, Curve};
use crate::cli::report::svg::{Axis, Chart, Series};

/// A self-contained SVG, legible on light and dark grounds.
pub fn svg(comparison: &Comparison) -> String {
    let points = || comparison.curves.iter().flat_map(|c| &c.points);
    let low = points().map(|p| p.seconds).fold(f64::INFINITY, f64::min).max(1e-3);
    let high = points().map(|p| p.seconds).fold(low, f64::max);
    let recalls: Vec<f64> = points().map(|p| p.recall()).collect();
    let top = recalls.iter().copied().fold(0.0, f64::max);
    let bottom = recalls.iter().copied().fold(1.0, f64::min);
    // What matters happens near the top; a method far below is drawn at the lower edge.
    let bottom = bottom.max(top - 0.25).min(top - 0.02);
    let mut chart = Chart::new(
        760.0,
        420.0,
        Axis::log("seconds, wall time", low / 1.2, high * 1.2),
        Axis::linear("mean Recall@1 of both directions", bottom, top + 0.01),
    );
    let methods = [
        "raw features",
        "PLS-SVD",
        "regularised CCA",
        "paper",
        "SGD-CLIP",
        "best",
        "kernel CCA",
        "kernel best",
    ];
    for (color, method) in methods.iter().enumerate() {
        let curves: Vec<&Curve> = comparison.curves.iter().filter(|c| c.method == *method).collect();
        if curves.is_empty() {
            continue;
        }
        // Every point, and the best that the method has reached at each time.
        let mut all: Vec<(f64, f64)> = curves
            .iter()
            .flat_map(|c| &c.points)
            .map(|p| (p.seconds.max(low), p.recall().max(bottom)))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for &(t, r) in &all {
            let so_far = steps.last().map_or(f64::NEG_INFINITY, |p| p.1);
            if r > so_far {
                if so_far.is_finite() {
                    steps.push((t, so_far));
                }
                steps.push((t, r));
            }
        }
        if let Some(&(_, r)) = steps.last() {
            steps.push((high, r));
        }
        chart.push(Series::dots("", color, all));
        chart.push(Series::line(method, color, steps));
    }
    chart.svg()
}
