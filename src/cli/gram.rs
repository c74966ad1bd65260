//! `unicon gram`.

use super::args::{self, KernelArgs};
use super::output::Report;
use super::session::{Precision, Session, on_backend};
use anyhow::Result;
use faer::Mat;
use std::ffi::OsString;
use std::path::PathBuf;
use unicon::Error;
use unicon::backend::Backend;
use unicon::io::{Element, NpyWriter, RowRange, RowSource, check_finite};
use unicon::kernel::{Kernel, KernelKind};

/// Bytes of Gram matrix made at a time.
const CHUNK_BYTES: usize = 64 << 20;

/// Writes a kernel's Gram matrix, K_ij = k(a_i, b_j).
///
/// float64 unless --precision f32 is given. Rows of A are read, and rows of K written, a chunk at a time.
#[derive(clap::Args)]
pub struct Args {
    /// n x d.
    #[arg(long, value_name = "MATRIX")]
    a: OsString,
    /// m x d [default: A].
    #[arg(long, value_name = "MATRIX")]
    b: Option<OsString>,
    #[command(flatten)]
    kernel: KernelArgs,
    /// K, n x m.
    #[arg(long, value_name = "NPY")]
    out: PathBuf,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let kind = args.kernel.kernel.unwrap_or(KernelKind::Angular);
    let kernel = args.kernel.build(kind, 0.0)?;
    let a = args::open(&args.a)?;
    let other = args.b.as_ref().map(args::open).transpose()?;
    let b = other.as_ref().unwrap_or(&a);
    if a.cols() != b.cols() {
        let expected = format!("{} columns, as {}", a.cols(), a.name());
        return Err(Error::invalid(b.name(), expected, b.cols()).into());
    }
    check_finite(&a)?;
    check_finite(b)?;
    let points = args::matrix_of(b)?;
    let shape = [a.rows(), b.rows()];
    let dtype = match session.precision() {
        Some(Precision::F32 | Precision::Bf16) => {
            let writer = NpyWriter::<f32>::create(&args.out, &shape)?;
            on_backend!(session, |backend| stream(session, backend, &kernel, &a, &points, writer, |v| v
                as f32))?;
            "float32"
        }
        _ => {
            let writer = NpyWriter::<f64>::create(&args.out, &shape)?;
            stream(session, &session.oracle("gram")?, &kernel, &a, &points, writer, |v| v)?;
            "float64"
        }
    };
    let mut report = Report::new("gram");
    report.value("out", args.out.display().to_string())?;
    report.value("kernel", kernel)?;
    report.value("shape", shape)?;
    report.value("dtype", dtype)?;
    report.line(format!("{}: {} x {} {dtype}", args.out.display(), shape[0], shape[1]));
    session.print(&report)
}

fn stream<B: Backend, T: Element>(
    session: &Session,
    backend: &B,
    kernel: &Kernel,
    a: &dyn RowSource,
    points: &Mat<f64>,
    mut writer: NpyWriter<T>,
    narrow: impl Fn(f64) -> T,
) -> Result<()> {
    let chunk = (CHUNK_BYTES / (8 * points.nrows())).max(1);
    let mut panel = Vec::new();
    for start in (0..a.rows()).step_by(chunk) {
        session.check()?;
        let rows = backend.load(&RowRange::new(a, start..(start + chunk).min(a.rows()))?)?;
        backend.store(&backend.kernel(kernel, &rows, points.as_ref())?, &mut |_, values| {
            panel.clear();
            panel.extend(values.iter().map(|&v| narrow(v)));
            writer.write(&panel)
        })?;
    }
    Ok(writer.finish()?)
}
