//! `unicon encode`.

use super::args;
use super::encoding::stream;
use super::output::{self, Report};
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;
use unicon::io::NpyWriter;
use unicon::model::{Model, Side};

/// Applies a model to one side's features: float32 rows of unit length, but for models of --compress.
///
/// Rows are read, encoded and written a chunk at a time: neither features nor embeddings have to fit in memory.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote.
    #[arg(long, value_name = "SAFETENSORS")]
    model: PathBuf,
    /// Which of the model's encoders.
    #[arg(long, value_parser = args::side(), value_name = "x|y")]
    side: Side,
    /// Features, n x d.
    #[arg(long, value_name = "MATRIX")]
    input: OsString,
    /// Embeddings, n x r.
    #[arg(long, value_name = "NPY")]
    out: PathBuf,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let model = Model::load(&args.model)?;
    let input = args::open(&args.input)?;
    let shape = [input.rows(), model.embedding_dim()];
    let mut writer = match session.is_first() {
        true => Some(NpyWriter::<f32>::create(&args.out, &shape)?),
        false => None,
    };
    let mut panel = Vec::new();
    let zero_rows = on_backend!(session, |backend| {
        stream(session, backend, &model, args.side, &input, &mut |rows| {
            let Some(writer) = &mut writer else { return Ok(()) };
            panel.clear();
            panel.extend(rows.iter().map(|&v| v as f32));
            writer.write(&panel)
        })
    })?;
    if let Some(writer) = writer {
        writer.finish()?;
    }
    let mut report = Report::new("encode");
    report.value("out", args.out.display().to_string())?;
    report.value("rows", shape[0])?;
    report.value("cols", shape[1])?;
    report.value("zero_rows", zero_rows)?;
    report.value("seconds", begin.elapsed().as_secs_f64())?;
    report.line(format!(
        "{}: {} x {} float32, {} in the input, {:.2} s",
        args.out.display(),
        shape[0],
        shape[1],
        output::count(zero_rows, "zero row"),
        begin.elapsed().as_secs_f64()
    ));
    let unit = model.compression.is_none();
    report.value("unit_rows", unit)?;
    if !unit {
        report.line(
            "a compressed model: the rows are not of unit length and their products are the similarities; search and eval scale rows \
             that come without the model",
        );
    }
    session.print(&report)
}
