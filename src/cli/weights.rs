//! `unicon weights`.

use super::args::{self, LossArgs, PositivesArgs};
use super::output::{self, Report};
use super::session::Session;
use anyhow::Result;
use faer::MatRef;
use std::ffi::OsString;
use std::path::PathBuf;
use unicon::Error;
use unicon::backend::{Backend, Similarity};
use unicon::io::{NpyWriter, RowSource, check_finite_as, read_all};
use unicon::similarity::NegativeSampling;
use unicon::similarity::definition::{Definition, definition};

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
    /// Add up the triple sums of the definition term by term, O(n^3), instead of the O(n^2) way. Small n only.
    #[arg(long)]
    definition: bool,
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
    let Definition { loss_rows, loss_cols, weights: dense } = if args.definition {
        let values = read_all::<f64>(&s)?;
        let matrix = MatRef::from_row_major_slice(&values, s.rows(), s.cols());
        definition(matrix, &loss, &positives)?
    } else {
        let backend = session.oracle("weights")?;
        let matrix = backend.load(&s)?;
        let similarity = Similarity::Dense(&matrix);
        let w = backend.weights(similarity, &loss, &positives, NegativeSampling::All)?;
        let weights = backend.dense(similarity, &w)?;
        Definition { loss_rows: w.loss_rows, loss_cols: w.loss_cols, weights }
    };
    let mut writer = NpyWriter::<f64>::create(&args.out, &[s.rows(), s.cols()])?;
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
    report.value("by", if args.definition { "definition" } else { "sums" })?;
    report.value("loss", loss_rows + loss_cols)?;
    report.value("loss_rows", loss_rows)?;
    report.value("loss_cols", loss_cols)?;
    report.value("max_abs", dense.norm_max())?;
    report.value("unmatched", positives.unmatched())?;
    report.line(format!(
        "{}: {} x {} float64, loss {}, largest |S| {:.3e}",
        args.out.display(),
        s.rows(),
        s.cols(),
        output::loss(loss_rows + loss_cols),
        dense.norm_max()
    ));
    session.print(&report)
}
