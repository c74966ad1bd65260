//! The table for people.

use super::Ablation;
use super::advice::Effect;
use super::design::{Design, factorization_name};
use super::run::{Difference, Figures, Row};
use crate::cli::evaluation;
use crate::cli::output::{self, Report};

/// A difference, marked where its interval excludes 0.
fn gain(d: Option<Difference>) -> String {
    let Some(d) = d else { return String::new() };
    let mark = if d.excludes_zero { " *" } else { "" };
    format!("{}{mark}", evaluation::gain(d.mean, d.interval))
}

/// The table, what was held out and left out, and the advice.
pub fn show(report: &mut Report, design: &Design, ablation: &Ablation<'_>) {
    let (solvers, loss) = (design.solvers().count() > 1, ablation.rows.iter().any(|r| r.loss.is_some()));
    let mut header = vec!["whiten"];
    header.extend(solvers.then_some("factors, batch"));
    header.extend(["S", "seconds", "validation R@1", "less centred identity (95 %)"]);
    header.extend(["test x to y", "y to x", "less centred identity (95 %)"]);
    header.extend(loss.then_some("loss"));
    let cells = |r: &Row| {
        let mut row = vec![r.setting.whitening()];
        if solvers {
            let split = r.setting.power.map(factorization_name).unwrap_or_default();
            let batch = r.setting.batch_size.map_or_else(|| "all".into(), |b| b.to_string());
            row.push(if split.is_empty() { split } else { format!("{split}, {batch}") });
        }
        row.push(r.setting.weights());
        row.push(r.seconds.map_or_else(|| "-".into(), |s| format!("{s:.2}")));
        let failed = || "-".to_string();
        let of = |f: &Option<Figures>, v: fn(&Figures) -> f64| {
            f.as_ref().map_or_else(failed, |f| output::three(v(f)))
        };
        let difference = |f: &Option<Figures>| gain(f.as_ref().and_then(|f| f.gain));
        row.extend([of(&r.validation, Figures::recall), difference(&r.validation)]);
        row.extend([of(&r.test, |f| f.x_to_y), of(&r.test, |f| f.y_to_x), difference(&r.test)]);
        row.extend(loss.then(|| r.loss.map_or_else(failed, output::loss)));
        row
    };
    report.table(&header, ablation.rows.iter().map(cells).collect());
    report.line("* the interval excludes 0");
    for (what, held) in [("validation", ablation.held_out.validation), ("test", ablation.held_out.test)] {
        if let Some(held) = held {
            report.line(format!("{what} rows: {}", held.words()));
        }
    }
    let failed: Vec<&Row> = ablation.rows.iter().filter(|r| r.failure.is_some()).collect();
    if let Some(first) = failed.first() {
        let why = first.failure.as_deref().unwrap_or_default();
        let (whitening, weights) = (first.setting.whitening(), first.setting.weights());
        let rows = output::count(failed.len(), "row");
        report.line(format!("{rows} failed, the first (whiten {whitening}, {weights}): {why}"));
    }
    if ablation.left_out > 0 {
        report.line(format!("the budget left {} out", output::count(ablation.left_out, "row")));
    }
    let tied = ablation.rows.iter().filter_map(|r| r.test.as_ref()).map(|f| f.tied[0] + f.tied[1]).max();
    if let Some(tied @ 1..) = tied {
        let rule = evaluation::name(ablation.ties);
        report.line(format!("tied with a wrong item: up to {tied} of a row's test queries (--ties {rule})"));
    }
    report.line(&ablation.advice.text);
    let a = ablation.advice;
    let of_test = |(name, effect): (&str, &Option<Effect>)| {
        effect.as_ref().map(|e| format!("{name} {}", evaluation::gain(e.test.mean, e.test.interval)))
    };
    let effects = [("whitening", &a.whitening), ("S(gamma)", &a.s), ("best", &a.best)];
    let shown: Vec<String> = effects.into_iter().filter_map(of_test).collect();
    if !shown.is_empty() {
        report.line(format!("the same rows on the test rows: {}", shown.join(", ")));
    }
}
