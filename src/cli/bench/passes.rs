//! `unicon bench`: the passes of a fit over n.

use crate::cli::args::LossArgs;
use crate::cli::output::{self, Report};
use crate::cli::session::{Session, on_backend};
use anyhow::Result;
use serde::Serialize;
use std::time::{Duration, Instant};
use unicon::backend::cpu::simd;
use unicon::backend::{Backend, Similarity};
use unicon::data::synthetic_pairs;
use unicon::io::{HostMatrix, RowSource, read_all};
use unicon::loss::Loss;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;
use unicon::spectral::SvdMethod;

/// What is measured.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Numbers of pairs.
    #[arg(long, value_delimiter = ',', default_value = "2048,8192", value_name = "N,N,..")]
    n: Vec<usize>,
    /// Dimension of the shared space.
    #[arg(long, default_value_t = 128, value_name = "R")]
    rank: usize,
    /// Columns of x.
    #[arg(long, default_value_t = 512, value_name = "D")]
    d1: usize,
    /// Columns of y.
    #[arg(long, default_value_t = 384, value_name = "D")]
    d2: usize,
    /// Runs of each step, after one that does not count.
    #[arg(long, default_value_t = 10, value_name = "K")]
    repeat: usize,
    /// A step that takes longer in all is run fewer times, and the table says so.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    budget: f64,
    #[command(flatten)]
    loss: LossArgs,
}

/// One step at one n.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    n: usize,
    runs: usize,
    /// Median, fastest and slowest.
    seconds: f64,
    min: f64,
    max: f64,
    /// Useful operations: the products of the method, counted once. `None` where they are not what takes the time.
    flop: Option<f64>,
    /// Useful operations a second.
    rate: Option<f64>,
    /// The same over the device's product rate in this run.
    fraction: Option<f64>,
    /// Most bytes of n-sized data held on the device so far.
    peak_bytes: u64,
}

/// Times of one step.
struct Clock {
    repeat: usize,
    budget: Duration,
}

impl Clock {
    /// Seconds of each run, sorted; device work is waited for.
    fn time<B: Backend>(
        &self,
        backend: &B,
        mut step: impl FnMut() -> unicon::Result<()>,
    ) -> Result<Vec<f64>> {
        let begin = Instant::now();
        let mut once = || -> Result<f64> {
            let begin = Instant::now();
            step()?;
            backend.synchronize()?;
            Ok(begin.elapsed().as_secs_f64())
        };
        once()?;
        let mut seconds = Vec::new();
        while seconds.len() < self.repeat && (seconds.is_empty() || begin.elapsed() < self.budget) {
            seconds.push(once()?);
        }
        seconds.sort_unstable_by(f64::total_cmp);
        Ok(seconds)
    }
}

pub fn run(session: &Session, args: &Args) -> Result<()> {
    session.quiet();
    let loss = args.loss.build()?;
    let bound = args.d1.min(args.d2);
    if args.rank == 0 || args.rank > bound {
        return Err(
            unicon::Error::invalid("--rank", format!("1 to {bound}, the narrower side"), args.rank).into()
        );
    }
    for (name, value) in [("--n", args.n.iter().min().copied().unwrap_or(0)), ("--repeat", args.repeat)] {
        if value == 0 {
            return Err(unicon::Error::invalid(name, "at least 1", 0).into());
        }
    }
    let budget = Duration::try_from_secs_f64(args.budget)
        .map_err(|_| unicon::Error::invalid("--budget", "seconds >= 0", args.budget))?;
    let clock = Clock { repeat: args.repeat, budget };
    let (device, product, rows) = on_backend!(session, |backend| {
        let product = backend.product_rate()?;
        let mut rows = Vec::new();
        for &n in &args.n {
            rows.extend(measure(backend, n, args, &loss, &clock, product)?);
        }
        (backend.describe(), product, rows)
    });
    let mut report = Report::new("bench");
    report.value("version", env!("CARGO_PKG_VERSION"))?;
    report.value("device", &device)?;
    report.value("threads", session.threads())?;
    report.value("simd", simd::level().to_string())?;
    report.value("product_rate", product)?;
    report.value("rank", args.rank)?;
    report.value("d1", args.d1)?;
    report.value("d2", args.d2)?;
    report.value("loss", &loss)?;
    report.value("rows", &rows)?;
    let tera = |rate: Option<f64>| rate.map_or_else(String::new, |r| format!("{:.3}", r / 1e12));
    report.line(format!("{device}; unicon {}", env!("CARGO_PKG_VERSION")));
    report.line(format!(
        "r = {}, d = {}/{}, {:?} tau {}; the device's own product: {} TFLOP/s",
        args.rank,
        args.d1,
        args.d2,
        loss.kind,
        loss.tau,
        if product.is_some() { tera(product) } else { "not measured, ?".into() }
    ));
    let header = ["step", "n", "seconds", "min", "max", "runs", "TFLOP/s", "of product", "peak"];
    let line = |r: &Row| {
        let seconds = |v: f64| format!("{v:.3e}");
        let fraction = r.fraction.map_or_else(String::new, |f| format!("{f:.2}"));
        vec![
            r.name.into(),
            r.n.to_string(),
            seconds(r.seconds),
            seconds(r.min),
            seconds(r.max),
            r.runs.to_string(),
            tera(r.rate),
            fraction,
            output::bytes(r.peak_bytes),
        ]
    };
    report.table(&header, rows.iter().map(line).collect());
    if rows.iter().any(|r| r.runs < 10) {
        report.line("steps with fewer than 10 runs are indications, not measurements");
    }
    session.print(&report)
}

fn measure<B: Backend>(
    backend: &B,
    n: usize,
    args: &Args,
    loss: &Loss,
    clock: &Clock,
    product: Option<f64>,
) -> Result<Vec<Row>> {
    let (r, d) = (args.rank, args.d1.min(args.d2));
    let (x, y) = features(n, args)?;
    let positives = Positives::diagonal(n);
    let mut rows = Vec::new();
    let mut add = |name, flop: Option<f64>, seconds: Vec<f64>| {
        let median = seconds[seconds.len() / 2];
        let rate = flop.map(|f| f / median);
        rows.push(Row {
            name,
            n,
            runs: seconds.len(),
            seconds: median,
            min: seconds[0],
            max: seconds[seconds.len() - 1],
            flop,
            rate,
            fraction: rate.zip(product).map(|(rate, product)| rate / product),
            peak_bytes: backend.memory().1,
        });
    };
    // 2 n^2 k operations.
    let pairs = |k: usize| Some(2.0 * (n as f64).powi(2) * k as f64);

    add("load", None, clock.time(backend, || backend.load(&x).and_then(|_| backend.load(&y)).map(drop))?);
    let (x, y) = (backend.load(&x)?, backend.load(&y)?);
    // The encoders of a first update, so that similarities are those of a fit.
    let zeros = Similarity::Zeros(n, n);
    let w = backend.weights(zeros, loss, &positives, NegativeSampling::All)?;
    let c = backend.cross(zeros, &w, &x, &y)?;
    let top = backend.top_r(c.as_ref(), r, SvdMethod::Full)?;
    let (f, g) = (top.u.transpose().to_owned(), top.v.transpose().to_owned());
    let both = || -> unicon::Result<_> {
        Ok((backend.encode(&x, f.as_ref())?.0, backend.encode(&y, g.as_ref())?.0))
    };
    let encodes = 2.0 * n as f64 * r as f64 * (args.d1 + args.d2) as f64;
    add("encode both sides", Some(encodes), clock.time(backend, || both().map(drop))?);
    let (zx, zy) = both()?;
    let s = Similarity::Embeddings(&zx, &zy);
    let weights = || backend.weights(s, loss, &positives, NegativeSampling::All);
    add("pass 1", pairs(r), clock.time(backend, || weights().map(drop))?);
    let w = weights()?;
    add("pass 2", pairs(r + d), clock.time(backend, || backend.cross(s, &w, &x, &y).map(drop))?);
    add("S Zy", pairs(2 * r), clock.time(backend, || backend.apply(s, &w, &zy).map(drop))?);
    let c = backend.cross(s, &w, &x, &y)?;
    let svd = |method| clock.time(backend, || backend.top_r(c.as_ref(), r, method).map(drop));
    add("SVD, full", None, svd(SvdMethod::Full)?);
    add("SVD, randomized", None, svd(SvdMethod::randomized(1))?);
    let update = || {
        let (zx, zy) = both()?;
        let s = Similarity::Embeddings(&zx, &zy);
        let w = backend.weights(s, loss, &positives, NegativeSampling::All)?;
        backend.top_r(backend.cross(s, &w, &x, &y)?.as_ref(), r, SvdMethod::randomized(1)).map(drop)
    };
    add("fit iteration", pairs(2 * r + d), clock.time(backend, update)?);
    // The sums, then s again and both products with S.
    let gradient = || backend.gradients(&zx, &zy, &weights()?).map(drop);
    add("loss + gradient", pairs(4 * r), clock.time(backend, gradient)?);
    Ok(rows)
}

/// Pairs of the linear latent model, in memory.
fn features(n: usize, args: &Args) -> Result<(HostMatrix, HostMatrix)> {
    let latent = args.rank.min(64);
    let (x, y) = synthetic_pairs(n, args.d1, args.d2, latent, 0.3, 1)?;
    let held = |name, d, source: &dyn RowSource| HostMatrix::from_f32(name, n, d, read_all(source)?);
    Ok((held("x", args.d1, &x)?, held("y", args.d2, &y)?))
}
