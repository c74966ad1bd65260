//! `unicon search`.

use super::args;
use super::encoding::{check_widths, embeddings};
use super::names;
use super::output::Report;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unicon::Error;
use unicon::backend::TopK;
use unicon::io::{NpzWriter, RowSource, write_npy};
use unicon::model::{Model, Side};
use unicon::retrieval;

/// Queries that are shown by name, and items of each.
const SHOWN: (usize, usize) = (5, 3);

/// Finds the k most similar items of every query.
///
/// Writes .npz with `scores` (float32) and `indices` (int64), or .npy with the indices: queries x k, best first,
/// equal scores by lower index. With fewer items than k there are as many columns as items. Without --model queries and
/// items are embeddings, whose rows are scaled to unit length.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote; without one, queries and items are embeddings of one space.
    #[arg(long, value_name = "SAFETENSORS")]
    model: Option<PathBuf>,
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
    /// Query i never finds item i: for a set searched in itself.
    #[arg(long)]
    exclude_self: bool,
    /// Names of the queries, one a line: some results are shown by name.
    #[arg(long, visible_alias = "names-x", value_name = "FILE")]
    names_queries: Option<PathBuf>,
    /// Names of the items, one a line.
    #[arg(long, visible_alias = "names-y", value_name = "FILE")]
    names_items: Option<PathBuf>,
    /// Where to write the result: .npz or .npy.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let write = writer(&args.out)?;
    let model = args.model.as_ref().map(Model::load).transpose()?;
    let (queries, items) = (args::open(&args.queries)?, args::open(&args.items)?);
    let item_side = args.item_side.unwrap_or(match args.query_side {
        Side::X => Side::Y,
        Side::Y => Side::X,
    });
    let model = model.as_ref();
    check_widths(model, &queries, &items)?;
    if args.k == 0 {
        return Err(Error::invalid("-k", "a number >= 1", 0).into());
    }
    if args.exclude_self && (queries.rows() != items.rows() || items.rows() < 2) {
        let expected = "as many rows as the queries, and at least 2, with --exclude-self";
        return Err(Error::invalid(items.name(), expected, items.rows()).into());
    }
    let names = |path: &Option<PathBuf>, rows: &dyn RowSource| {
        path.as_ref().map(|path| names::read(path, rows.rows(), rows.name())).transpose()
    };
    let (query_names, item_names) =
        (names(&args.names_queries, &queries)?, names(&args.names_items, &items)?);
    let (top, zero_rows) = on_backend!(session, |backend| {
        let (zq, zero_q) = embeddings(session, backend, model, args.query_side, &queries)?;
        let (zi, zero_i) = embeddings(session, backend, model, item_side, &items)?;
        let top = match args.exclude_self {
            true => retrieval::search_others(backend, &zq, &zi, args.k, 0)?,
            false => retrieval::search(backend, &zq, &zi, args.k)?,
        };
        (top, (zero_q, zero_i))
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
    report.value("normalised", model.is_none())?;
    report.value("exclude_self", args.exclude_self)?;
    report.value("seconds", seconds)?;
    report.line(format!(
        "{}: the {} best of {} items for {} queries, {seconds:.2} s",
        args.out.display(),
        top.k,
        items.rows(),
        queries.rows()
    ));
    if model.is_none() {
        report.line("no model: embeddings as given, rows scaled to unit length");
    }
    if query_names.is_some() || item_names.is_some() {
        examples(&mut report, &top, (query_names.as_deref(), item_names.as_deref()))?;
    }
    let (zq, zi) = zero_rows;
    if zq + zi > 0 {
        report.line(format!("zero rows: {zq} of the queries, {zi} of the items"));
    }
    session.print(&report)
}

/// The first queries and their best items by name.
fn examples(
    report: &mut Report,
    top: &TopK,
    (queries, items): (Option<&[String]>, Option<&[String]>),
) -> Result<()> {
    let (mut list, mut rows) = (Vec::new(), Vec::new());
    let best = top.indices.chunks_exact(top.k).zip(top.scores.chunks_exact(top.k));
    for (q, (indices, scores)) in best.enumerate().take(SHOWN.0) {
        let found = || indices.iter().zip(scores).take(SHOWN.1);
        // In full in JSON.
        let name = |names: Option<&[String]>, row: usize| names.and_then(|n| n.get(row).cloned());
        let items_json: Vec<serde_json::Value> = found()
            .map(|(&j, s)| serde_json::json!({"item": j, "name": name(items, j as usize), "score": s}))
            .collect();
        list.push(serde_json::json!({"query": q, "name": name(queries, q), "items": items_json}));
        let shown: Vec<String> =
            found().map(|(&j, s)| format!("{} ({s:.3})", names::shown(items, j as usize))).collect();
        rows.push(vec![names::shown(queries, q), shown.join("; ")]);
    }
    report.value("examples", list)?;
    report.table(&["query", "most similar items"], rows);
    Ok(())
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
