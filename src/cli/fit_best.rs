//! `unicon fit --preset best`.

use super::args::{LossArgs, RankChoice};
use super::fit::{CenterArg, KernelFitArgs, Preset, SolverArgs};
use super::output::{self, Report};
use anyhow::Result;
use std::path::Path;
use unicon::Error;
use unicon::fit::{Apart, BestOptions, Chosen, Dim, FitInfo, FitStatus, Landmarks, TracePoint, WIDTHS};
use unicon::loss::Loss;
use unicon::model::Model;

/// Steps of the history that people see.
const SHOWN: usize = 12;

/// The options of the preset.
pub fn options(
    solver: &SolverArgs,
    loss: &LossArgs,
    kernel: &KernelFitArgs,
    seed: u64,
) -> Result<BestOptions> {
    if let Some(name) = solver.of_the_iteration() {
        let expected = "the preset global or one of the paper's: the preset best chooses its own iteration";
        return Err(Error::invalid(name, expected, "the preset best").into());
    }
    let rank = match solver.rank_or(None)? {
        RankChoice::Fixed(r) => Dim::Fixed(r),
        RankChoice::Energy(share) => Dim::Energy(share),
        RankChoice::Auto => Dim::Auto,
    };
    let (loss, tau_auto) = loss.build_or_auto(Loss::default())?;
    let defaults = BestOptions::new(rank);
    let mut refine = defaults.refine.clone();
    refine.max_steps = solver.refine.unwrap_or(refine.max_steps);
    let widths = if kernel.has_own_width() { Vec::new() } else { WIDTHS.to_vec() };
    let kernel = kernel.build(Preset::Best.schedule(false), false)?;
    if kernel.as_ref().is_some_and(|k| k.landmarks == Landmarks::Exact) {
        return Err(Error::Unsupported("--exact with the preset best: use --landmarks".into()).into());
    }
    Ok(BestOptions {
        loss,
        tau_auto,
        whiten: if solver.whiten.is_empty() { defaults.whiten } else { solver.whiten.clone() },
        center: CenterArg::of(solver.center, defaults.center),
        refine,
        kernel,
        widths,
        sample: solver.negatives,
        exact: solver.exact_last,
        start: solver.start.as_deref().map(Model::load).transpose()?,
        checkpoint: solver.checkpoint.clone(),
        budget: solver.budget,
        seed,
        final_loss: !solver.no_final_loss,
        ..defaults
    })
}

/// What the preset chose and how the fit went, for people.
pub fn describe(info: &FitInfo, report: &mut Report) -> Vec<(String, String)> {
    let row = |name: &str, value: String| (name.to_string(), value);
    let mut rows = Vec::new();
    if let Some(c) = &info.chosen {
        let width = c.width.map_or_else(String::new, |w| format!(", kernel width {w} median distances"));
        let Chosen { whiten, power, tau, dim, .. } = c;
        rows.push(row("chosen", format!("whiten {whiten}, power {power}, tau {tau}, rank {dim}{width}")));
        if let Some((raw, centred)) = c.centring {
            let better = if info.prepared.0.centred { "centred" } else { "as they are" };
            rows.push(row("features", format!("{better}: MRR {raw:.4} as they are, {centred:.4} centred")));
        }
        if c.held_back.0 > 0 {
            let mut value = format!("{} of x, {} of y", c.held_back.0, c.held_back.1);
            if let Some(known) = c.apart.and_then(shared) {
                value += &format!("; {known}");
            }
            rows.push(row("held back to judge", value));
        }
    }
    rows.extend(ended(info));
    history(info, report);
    rows
}

/// How a fit ended and which step's encoders it returns, for people.
pub fn ended(info: &FitInfo) -> Vec<(String, String)> {
    let row = |name: &str, value: String| (name.to_string(), value);
    let status = match info.status {
        FitStatus::Completed => "all steps were done",
        FitStatus::Converged => "nothing was left to gain",
        FitStatus::OutOfTime => "the budget was used up",
    };
    let mut rows = vec![row("ended", format!("{status}, {}", output::count(info.evaluations, "gradient")))];
    let validated = info.trace.iter().any(|t| t.score.is_some());
    let why = if validated { ", the best on the validation rows" } else { "" };
    if let Some(last) = info.trace.len().checked_sub(1) {
        let of = |k: usize| format!("step {} of {}", k + 1, last + 1);
        rows.push(row("returned", format!("{}{why}", info.returned.map_or_else(|| "the start".into(), of))));
    }
    rows
}

/// What the loss of a history's points is over.
fn loss_name(trace: &[TracePoint]) -> &'static str {
    if trace.iter().all(|t| t.negatives.is_none()) { "loss" } else { "loss seen" }
}

/// What held-back rows have in common with those that trained, where it could not be helped.
pub fn shared(apart: Apart) -> Option<String> {
    let all = [
        ("parts of their groups", apart.matches),
        ("copies of their x", apart.duplicates_x),
        ("copies of their y", apart.duplicates_y),
    ];
    let known: Vec<&str> = all.iter().filter(|(_, apart)| !apart).map(|(name, _)| *name).collect();
    let known = (!known.is_empty()).then(|| known.join(" and "))?;
    Some(format!("{known} trained, for they are too many to hold back"))
}

/// The steps of a descent as a table: some of many, that which is returned among them.
pub fn history(info: &FitInfo, report: &mut Report) {
    let trace = &info.trace;
    if trace.is_empty() {
        return;
    }
    let every = trace.len().div_ceil(SHOWN);
    let some = |k: usize| (trace.len() - 1 - k).is_multiple_of(every) || info.returned == Some(k);
    let shown = trace.iter().enumerate().filter(|(k, _)| some(*k));
    let optional = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
    let cells = |(k, t): (usize, &TracePoint)| {
        vec![
            format!("{}{}", k + 1, if info.returned == Some(k) { " *" } else { "" }),
            format!("{:.2}", t.seconds),
            output::loss(t.loss),
            t.negatives.map_or_else(|| "all".into(), |m| m.to_string()),
            optional(t.score),
            optional(t.sampling_error),
        ]
    };
    let name = loss_name(trace);
    let header = ["step", "seconds", name, "negatives", "validation MRR", "sampling error"];
    report.table(&header, shown.map(cells).collect());
    if name != "loss" {
        let what = "loss seen: over the negatives of the step's batches or sample, before each batch's step";
        report.line(format!("* returned; {what}"));
    }
}

/// Refuses to start where a checkpoint could not be written.
pub fn check_writable(path: Option<&Path>) -> Result<()> {
    if let Some(path) = path.filter(|p| !p.exists()) {
        drop(unicon::io::AtomicFile::create(path)?);
    }
    Ok(())
}
