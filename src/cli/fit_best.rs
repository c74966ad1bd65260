//! `unicon fit --preset best`.

use super::args::{LossArgs, RankChoice};
use super::fit::{CenterArg, KernelFitArgs, Preset, SolverArgs};
use super::output::{self, Report};
use anyhow::Result;
use std::path::Path;
use unicon::Error;
use unicon::fit::{BestOptions, Chosen, FitInfo, FitStatus, Landmarks, Rank, TracePoint, WIDTHS};
use unicon::model::Model;

/// Steps of the history that people see.
const SHOWN: usize = 12;

/// The options of the preset.
pub fn options(
    solver: &SolverArgs,
    loss: &LossArgs,
    kernel: &KernelFitArgs,
    n: usize,
    seed: u64,
) -> Result<BestOptions> {
    if let Some(name) = solver.of_the_iteration() {
        let expected = "the preset global or paper: the preset best chooses its own iteration";
        return Err(Error::invalid(name, expected, "the preset best").into());
    }
    let rank = match solver.rank {
        RankChoice::Fixed(r) => Rank::Fixed(r),
        RankChoice::Energy(share) => Rank::Energy(share),
        RankChoice::Auto => Rank::Auto,
    };
    let (loss, tau_auto) = loss.build_or_auto()?;
    let defaults = BestOptions::new(rank);
    let mut refine = defaults.refine.clone();
    refine.max_steps = solver.refine.unwrap_or(refine.max_steps);
    let widths = if kernel.has_own_width() { Vec::new() } else { WIDTHS.to_vec() };
    let kernel = kernel.build(Preset::Best, false, n)?;
    if kernel.as_ref().is_some_and(|k| k.landmarks == Landmarks::Exact) {
        return Err(Error::Unsupported("--exact with the preset best: use --landmarks".into()).into());
    }
    Ok(BestOptions {
        loss,
        tau_auto,
        whiten: if solver.whiten.is_empty() { defaults.whiten } else { solver.whiten.clone() },
        center: CenterArg::of(solver.center, Preset::Best),
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
        let Chosen { whiten, power, tau, rank, .. } = c;
        rows.push(row("chosen", format!("whiten {whiten}, power {power}, tau {tau}, rank {rank}{width}")));
        if let Some((raw, centred)) = c.centring {
            let better = if info.prepared.0.centred { "centred" } else { "as they are" };
            rows.push(row("features", format!("{better}: MRR {raw:.4} as they are, {centred:.4} centred")));
        }
        if c.held_back.0 > 0 {
            rows.push(row("held back to judge", format!("{} of x, {} of y", c.held_back.0, c.held_back.1)));
        }
    }
    let status = match info.status {
        FitStatus::Completed => "all steps were done",
        FitStatus::Converged => "nothing was left to gain",
        FitStatus::OutOfTime => "the budget was used up",
    };
    rows.push(row("ended", format!("{status}, {}", output::count(info.evaluations, "gradient"))));
    history(&info.trace, report);
    rows
}

/// The steps of a descent as a table: some of many.
pub fn history(trace: &[TracePoint], report: &mut Report) {
    if trace.is_empty() {
        return;
    }
    let every = trace.len().div_ceil(SHOWN);
    let shown = trace.iter().enumerate().filter(|(k, _)| (trace.len() - 1 - k).is_multiple_of(every));
    let optional = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| format!("{v:.4}"));
    let cells = |(k, t): (usize, &TracePoint)| {
        vec![
            (k + 1).to_string(),
            format!("{:.2}", t.seconds),
            output::loss(t.loss),
            t.negatives.map_or_else(|| "all".into(), |m| m.to_string()),
            optional(t.score),
            optional(t.sampling_error),
        ]
    };
    let header = ["step", "seconds", "loss", "negatives", "validation MRR", "sampling error"];
    report.table(&header, shown.map(cells).collect());
}

/// Refuses to start where a checkpoint could not be written.
pub fn check_writable(path: Option<&Path>) -> Result<()> {
    if let Some(path) = path.filter(|p| !p.exists()) {
        drop(unicon::io::AtomicFile::create(path)?);
    }
    Ok(())
}
