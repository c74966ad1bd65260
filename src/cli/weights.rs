//! `unicon weights`.

use super::args::{self, LossArgs, PositivesArgs};
use super::output::{self, Report};
use super::session::Session;
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use unicon::Error;
use unicon::backend::{Backend, Similarity};
use unicon::io::{NpyWriter, check_finite_as};
use unicon::weights::Negatives;

/// Writes the contrastive similarity weight matrix S(gamma) = -dL/ds of a similarity matrix, in float64.
#[derive(clap::Args)]
pub struct Args {
    /// Similarities s, n_x x n_y.
    #[arg(long, value_name = "MATRIX")]
    similarity: OsString,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    positives: PositivesArgs,
    /// S, n_x x n_y.
    #[arg(long, value_name = "NPY", help_heading = "Output")]
    out: PathBuf,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let loss = args.loss.build()?;
    let rows = &args.positives.rows;
    for (name, given) in [("--groups", rows.groups.is_some()), ("--drop-bad-rows", rows.drop_bad_rows)] {
        if given {
            return Err(
                Error::invalid(name, "rows of features, which similarities are not", "--similarity").into()
            );
        }
    }
    let s = args::open(&args.similarity)?;
    let name = s.name();
    let columns = format!("columns of {name}");
    let positives = args.positives.read_shape((name, s.rows()), (&columns, s.cols()))?;
    check_finite_as::<f64>(&s)?;
    let backend = session.oracle("weights")?;
    let mut writer = NpyWriter::<f64>::create(&args.out, &[s.rows(), s.cols()])?;
    let matrix = backend.load(&s)?;
    let similarity = Similarity::Dense(&matrix);
    let w = backend.weights(similarity, &loss, &positives, Negatives::All)?;
    let dense = backend.dense(similarity, &w)?;
    let mut row = vec![0.0; dense.ncols()];
    for i in 0..dense.nrows() {
        row.iter_mut().enumerate().for_each(|(j, v)| *v = dense[(i, j)]);
        writer.write(&row)?;
    }
    writer.finish()?;
    let mut report = Report::new("weights");
    report.value("out", args.out.display().to_string())?;
    report.value("shape", [s.rows(), s.cols()])?;
    report.value("loss_def", loss)?;
    report.value("loss", w.value())?;
    report.value("loss_rows", w.loss_rows)?;
    report.value("loss_cols", w.loss_cols)?;
    report.value("max_abs", dense.norm_max())?;
    report.value("unmatched", positives.unmatched())?;
    report.line(format!(
        "{}: {} x {} float64, loss {}, largest |S| {:.3e}",
        args.out.display(),
        s.rows(),
        s.cols(),
        output::loss(w.value()),
        dense.norm_max()
    ));
    session.print(&report)
}
