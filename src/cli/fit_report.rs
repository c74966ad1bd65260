//! What `unicon fit` says when it is done.

use super::fit::Preset;
use super::fit_best;
use super::output::{self, Report};
use anyhow::Result;
use std::path::Path;
use unicon::fit::{FitInfo, FitStatus, Prepared};
use unicon::io::RowScale;
use unicon::model::Model;

/// The report of a fit whose model goes to `out`, of `n_x x d1` and `n_y x d2` features.
pub(super) fn report(
    out: &Path,
    (preset, kernel): (Preset, bool),
    model: &Model,
    info: &FitInfo,
    device: &str,
    (n_x, n_y, d1, d2): (usize, usize, usize, usize),
    pairs: usize,
) -> Result<Report> {
    let mut report = Report::new("fit");
    report.value("out", out.display().to_string())?;
    report.value("device", device)?;
    report.value("n_x", n_x)?;
    report.value("n_y", n_y)?;
    report.value("d1", d1)?;
    report.value("d2", d2)?;
    report.value("pairs", pairs)?;
    report.value("rank", model.dim())?;
    let name = if preset == Preset::Best { "best" } else { preset.schedule(kernel).name() };
    report.value("preset", name)?;
    report.value("loss_def", &model.loss)?;
    report.value("info", info)?;
    let whitened = model.notes.contains_key("whiten");
    let warning = if info.trace.is_empty() { rising_loss(info, whitened) } else { None };
    report.value("warning", &warning)?;
    let row = |name: &str, value: String| (name.to_string(), value);
    let mut rows = vec![
        row("data", format!("{n_x} x {d1} and {n_y} x {d2}, {} of positives", output::count(pairs, "pair"))),
        row("device", device.to_string()),
        row("preset", format!("{name}: rank {}, tau {}, nu {}", model.dim(), model.loss.tau, model.loss.nu)),
    ];
    if preset == Preset::Best {
        rows.extend(fit_best::describe(info, &mut report));
    } else {
        if !info.trace.is_empty() || info.status == FitStatus::OutOfTime {
            rows.extend(fit_best::ended(info));
        }
        fit_best::history(info, &mut report);
    }
    for (k, loss) in info.loss.iter().enumerate().take_while(|_| info.trace.is_empty()) {
        let change = match k.checked_sub(1).and_then(|k| info.change.get(k)) {
            Some(change) => format!(", change of F1^T F2 {change:.3e}"),
            None => String::new(),
        };
        rows.push(row(&format!("loss before update {}", k + 1), format!("{}{change}", output::loss(*loss))));
    }
    if let Some(loss) = info.rejected {
        let what = format!("raised the loss to {}: the encoders before it are returned", output::loss(loss));
        rows.push(row(&format!("update {}", info.iterations + 1), what));
    }
    if let Some(loss) = info.final_loss {
        rows.push(row(
            "final loss",
            format!("{} over all rows, of the encoders returned", output::loss(loss)),
        ));
    } else if info.status == FitStatus::OutOfTime {
        rows.push(row("final loss", "not evaluated: the budget was used up".into()));
    }
    if info.status == FitStatus::Converged && info.trace.is_empty() {
        rows.push(row("converged", format!("after {} updates", info.iterations)));
    }
    let top: Vec<String> = info.singular_values.iter().take(5).map(|s| format!("{s:.4e}")).collect();
    rows.push(row("singular values", format!("{} ..", top.join(", "))));
    if let Some(batches) = info.batch_weights.last() {
        let used = batches.iter().filter(|&&w| w > 0.0).count();
        rows.push(row("mini-batches", format!("{}, {used} of weight > 0", batches.len())));
    }
    if let Some(c) = &info.compressed {
        let text = format!(
            "from {} to {}: relative error of the training rows' similarities {:.3e}",
            output::count(c.from, "column"),
            c.columns,
            c.error
        );
        rows.push(row("compressed", text));
    }
    rows.extend(prepared(info).map(|text| row("features", text)));
    for (name, (x, y)) in [("zero rows", info.zero_rows), ("rows without a positive", info.unmatched)] {
        if x + y > 0 {
            rows.push(row(name, format!("{x} of x, {y} of y")));
        }
    }
    if info.rows_dropped > 0 {
        rows.push(row("rows dropped", format!("{} (trailing partial batch)", info.rows_dropped)));
    }
    let s = &info.seconds;
    rows.push(row(
        "seconds",
        format!(
            "{:.2}: load {:.2}, features {:.2}, encode {:.2}, sums {:.2}, weights {:.2}, SVD {:.2}, validation {:.2}",
            s.total, s.load, s.features, s.encode, s.statistics, s.weights, s.spectral, s.validation
        ),
    ));
    let process = |b| format!("; {} the whole process", output::bytes(b));
    let process = info.resident_bytes.map_or_else(String::new, process);
    let memory = format!("{} of features and embeddings{process}", output::bytes(info.peak_bytes));
    rows.push(row("peak memory", memory));
    report.list(rows);
    if let Some(warning) = &warning {
        report.line(format!("warning: {warning}"));
    }
    report.line(format!("wrote {}", out.display()));
    Ok(report)
}

/// What was done to features before the fit, where something was.
fn prepared(info: &FitInfo) -> Option<String> {
    let side = |name: &str, p: &Prepared| {
        let mut done = Vec::new();
        if p.centred {
            let ratio =
                p.mean_over_spread.map_or_else(String::new, |r| format!(" ({r:.3} times their spread)"));
            done.push(format!("mean taken out{ratio}"));
        }
        if p.exponent != 0 {
            done.push(format!("times 2^{}", p.exponent));
        }
        match p.rows {
            RowScale::None => {}
            RowScale::All => {
                done.push("each row times a power of two, as their lengths differ widely".into())
            }
            _ => done.push("rows out of range times powers of two".into()),
        }
        (!done.is_empty()).then(|| format!("{name}: {}", done.join(", ")))
    };
    let sides = [side("x", &info.prepared.0), side("y", &info.prepared.1)];
    let said: Vec<String> = sides.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The undamped iteration is no descent method; where it made things worse, say so.
fn rising_loss(info: &FitInfo, whitened: bool) -> Option<String> {
    let losses: Vec<f64> = info.loss.iter().copied().chain(info.final_loss).collect();
    let update = losses.windows(2).position(|w| w[1] > w[0])? + 1;
    let (before, after) = (output::loss(losses[update - 1]), output::loss(losses[update]));
    let fewer = (update > 1).then(|| format!("--iters {}", update - 1));
    let advice = [(!whitened).then(|| "--whiten".into()), fewer, Some("a larger --nu".to_string())];
    let advice = advice.into_iter().flatten().collect::<Vec<_>>().join(" or ");
    Some(format!("update {update} raised the loss from {before} to {after}: try {advice}"))
}
