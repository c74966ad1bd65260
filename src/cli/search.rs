//! `unicon search`.

use super::args;
use super::encoding::embed;
use super::output::Report;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unicon::Error;
use unicon::backend::TopK;
use unicon::io::{NpzWriter, write_npy};
use unicon::model::{Model, Side};
use unicon::retrieval;

/// Finds the k most similar items of every query.
///
/// Writes .npz with `scores` (float32) and `indices` (int64), or .npy with the indices: queries x k, best first,
/// equal scores by lower index. With fewer items than k there are as many columns as items.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote.
    #[arg(long, value_name = "SAFETENSORS")]
    model: PathBuf,
    /// Features of the queries.
    #[arg(long, value_name = "MATRIX")]
    queries: OsString,
    /// Features of the items.
    #[arg(long, value_name = "MATRIX")]
    items: OsString,
    /// Side the queries are of.
    #[arg(long, value_parser = args::side(), default_value = "x", value_name = "x|y")]
    query_side: Side,
    /// Side the items are of [default: the other one].
    #[arg(long, value_parser = args::side(), value_name = "x|y")]
    item_side: Option<Side>,
    /// Items per query.
    #[arg(short, long, default_value_t = 10)]
    k: usize,
    /// Where to write the result: .npz or .npy.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let write = writer(&args.out)?;
    let model = Model::load(&args.model)?;
    let (queries, items) = (args::open(&args.queries)?, args::open(&args.items)?);
    let item_side = args.item_side.unwrap_or(match args.query_side {
        Side::X => Side::Y,
        Side::Y => Side::X,
    });
    let (top, zero_rows) = on_backend!(session, |backend| {
        let (zq, zero_q) = embed(session, backend, &model, args.query_side, &queries)?;
        let (zi, zero_i) = embed(session, backend, &model, item_side, &items)?;
        (retrieval::search(backend, &zq, &zi, args.k)?, (zero_q, zero_i))
    });
    if session.is_first() {
        write(&args.out, queries.rows(), &top)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let mut report = Report::new("search");
    report.value("out", args.out.display().to_string())?;
    report.value("queries", queries.rows())?;
    report.value("items", items.rows())?;
    report.value("k", top.k)?;
    report.value("zero_queries", zero_rows.0)?;
    report.value("zero_items", zero_rows.1)?;
    report.value("seconds", seconds)?;
    report.line(format!(
        "{}: the {} best of {} items for {} queries, {seconds:.2} s",
        args.out.display(),
        top.k,
        items.rows(),
        queries.rows()
    ));
    let (zq, zi) = zero_rows;
    if zq + zi > 0 {
        report.line(format!("zero rows: {zq} of the queries, {zi} of the items"));
    }
    session.print(&report)
}

type Write = fn(&Path, usize, &TopK) -> Result<()>;

/// How to write the result, by the name of the file: asked before any work is done.
fn writer(out: &Path) -> Result<Write> {
    match out.extension().and_then(|e| e.to_str()) {
        Some("npz") => Ok(write_npz),
        Some("npy") => Ok(write_indices),
        _ => Err(Error::invalid("--out", "a name that ends in .npz or .npy", out.display()).into()),
    }
}

fn write_npz(out: &Path, queries: usize, top: &TopK) -> Result<()> {
    let shape = [queries, top.k];
    let mut npz = NpzWriter::create(out)?;
    npz.add("scores", &shape, &top.scores)?;
    npz.add("indices", &shape, &signed(top))?;
    Ok(npz.finish()?)
}

fn write_indices(out: &Path, queries: usize, top: &TopK) -> Result<()> {
    Ok(write_npy(out, &[queries, top.k], &signed(top))?)
}

/// NumPy's own index type.
fn signed(top: &TopK) -> Vec<i64> {
    top.indices.iter().map(|&i| i64::from(i)).collect()
}
