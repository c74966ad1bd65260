//! `unicon bench --scaling`: how one spectral update shares out over ranks.

use crate::cli::output::{self, Report};
use crate::cli::report::svg::{Axis, Chart, Series};
use crate::cli::session::Session;
use anyhow::Result;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity};
use unicon::distributed::{Group, threads};
use unicon::io::RowSource;
use unicon::loss::Loss;
use unicon::memory::{forget_resident_peak, resident_peak};
use unicon::plan::{self, Rates, update_traffic};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;
use unicon::{Error, Result as Tried};

/// Sizes of the scaling benchmark.
///
/// Alone, ranks are threads of this process with one compute thread each; under mpirun or srun they are its processes,
/// compared with the first of them on its own.
#[derive(clap::Args)]
#[command(next_help_heading = "Scaling")]
#[group(skip)]
pub struct Args {
    /// Strong and weak scaling over ranks of one exact update, on random data.
    #[arg(long)]
    pub scaling: bool,
    /// Numbers of ranks, without a launcher.
    #[arg(long = "sizes", value_delimiter = ',', default_value = "1,2,4", value_name = "R,R,..")]
    scaling_sizes: Vec<usize>,
    /// Pairs on one rank; strong scaling keeps them, weak scaling takes n sqrt(R), for the work grows as n^2.
    #[arg(long, default_value_t = 8192, value_name = "N")]
    scaling_n: usize,
    /// Columns of both sides.
    #[arg(long, default_value_t = 384, value_name = "D")]
    scaling_d: usize,
    /// Dimension of the shared space.
    #[arg(long, default_value_t = 128, value_name = "R")]
    scaling_rank: usize,
    /// Repetitions; the median counts.
    #[arg(long, default_value_t = 3, value_name = "N")]
    scaling_repeat: usize,
    /// A chart of the efficiencies.
    #[arg(long, value_name = "SVG")]
    scaling_svg: Option<PathBuf>,
}

/// Random rows, the same whoever reads them.
struct Noise {
    rows: usize,
    cols: usize,
    seed: u64,
}

impl RowSource for Noise {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Tried<()> {
        for (i, row) in out.chunks_exact_mut(self.cols).enumerate() {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream((start + i) as u64);
            row.iter_mut().for_each(|v| *v = rng.random_range(-1.0..1.0));
        }
        Ok(())
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Tried<()> {
        let mut narrow = vec![0f32; out.len()];
        self.read_rows(start, &mut narrow)?;
        out.iter_mut().zip(narrow).for_each(|(o, v)| *o = f64::from(v));
        Ok(())
    }
    fn name(&self) -> &str {
        "noise"
    }
}

/// One repetition on the slowest rank: seconds, and bytes received.
#[derive(Clone, Copy, Default, Serialize)]
struct Sample {
    seconds: f64,
    pass1: f64,
    pass2: f64,
    /// Neither moving data nor waiting, except beside computation.
    compute: f64,
    moving: f64,
    waiting: f64,
    hidden: f64,
    received: f64,
}

/// One size.
#[derive(Clone, Serialize)]
struct Point {
    mode: &'static str,
    ranks: usize,
    n: usize,
    #[serde(flatten)]
    median: Sample,
    least: f64,
    most: f64,
    /// Bytes the model of `unicon plan` expects a rank to receive.
    predicted: f64,
    memory: Memory,
    /// Bytes of memory the model expects of a rank.
    predicted_memory: f64,
    /// Time of one rank against time of these, per work.
    efficiency: f64,
    /// Seconds that the model expects, with the rates of this run.
    predicted_seconds: f64,
    /// Share of the time that moving data took of the slowest rank, beside computation or not.
    share: f64,
    /// The same as the model has it.
    predicted_share: f64,
}

/// The most memory that the ranks had during the measurement of a size, in bytes, rank by rank.
#[derive(Clone, Default, Serialize)]
struct Memory {
    /// n-sized data.
    held: Vec<u64>,
    /// Of the whole process, as its kernel counts it; empty where ranks share a process.
    resident: Vec<u64>,
}

fn measure(group: &Group, threads: usize, n: usize, args: &Args) -> Tried<(Vec<Sample>, Memory)> {
    forget_resident_peak();
    let cpu = Cpu::<f32>::new(threads)?.with_group(group.clone());
    let source = |seed| Noise { rows: n, cols: args.scaling_d, seed };
    let (x, y) = (cpu.load(&source(1))?, cpu.load(&source(2))?);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut encoder =
        || faer::Mat::<f64>::from_fn(args.scaling_rank, args.scaling_d, |_, _| rng.random_range(-1.0..1.0));
    let (zx, zy) = (cpu.encode(&x, encoder().as_ref())?.0, cpu.encode(&y, encoder().as_ref())?.0);
    let s = Similarity::Embeddings(&zx, &zy);
    let positives = Positives::diagonal(n);
    let mut out = Vec::new();
    // The first one warms up.
    for k in 0..=args.scaling_repeat.max(1) {
        group.barrier()?;
        let (before, begin) = (group.traffic(), Instant::now());
        let w = cpu.weights(s, &Loss::default(), &positives, NegativeSampling::All)?;
        let pass1 = begin.elapsed().as_secs_f64();
        cpu.cross(s, &w, &x, &y)?;
        let seconds = begin.elapsed().as_secs_f64();
        let t = group.traffic();
        let (moving, waiting) = (t.moving - before.moving, t.waiting - before.waiting);
        let hidden = t.hidden - before.hidden;
        let compute = seconds - (moving + waiting - hidden);
        let received = (t.received - before.received) as f64;
        let pass2 = seconds - pass1;
        let own = Sample { seconds, pass1, pass2, compute, moving, waiting, hidden, received };
        let all = group.concat(vec![
            own.seconds,
            own.pass1,
            own.pass2,
            own.compute,
            own.moving,
            own.waiting,
            own.hidden,
            own.received,
        ])?;
        let slowest = all.chunks_exact(8).max_by(|a, b| a[0].total_cmp(&b[0])).unwrap_or(&all);
        if let (true, &[seconds, pass1, pass2, compute, moving, waiting, hidden, received]) = (k > 0, slowest)
        {
            out.push(Sample { seconds, pass1, pass2, compute, moving, waiting, hidden, received });
        }
    }
    let held = group.concat(vec![cpu.memory().1])?;
    let mut resident = group.concat(vec![resident_peak().unwrap_or(0)])?;
    if group.transport() == "threads" {
        resident.clear();
    }
    Ok((out, Memory { held, resident }))
}

/// Measures `n` pairs on so many ranks; none on ranks that do not take part.
fn point(job: &Group, mode: &'static str, ranks: usize, n: usize, args: &Args) -> Result<Point> {
    let (mut samples, memory) = if job.size() == 1 && ranks == 1 {
        measure(job, 1, n, args)?
    } else if job.size() == 1 {
        let all = threads::run(ranks, |group| group.conclude(measure(&group, 1, n, args)));
        all.into_iter().next().unwrap_or_else(|| Ok(Default::default()))?
    } else if ranks == 1 {
        let alone = if job.is_first() { measure(&Group::default(), 1, n, args)? } else { Default::default() };
        job.barrier()?;
        alone
    } else {
        measure(job, 1, n, args)?
    };
    samples.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let of = |k: usize| samples.get(k).copied().unwrap_or_default();
    let shape = shape(ranks, n, args);
    let rates = Rates::of("cpu")?;
    let predicted = update_traffic(&shape, &rates);
    let planned = plan::plan(&shape, &rates)?;
    let (least, most) = (of(0).seconds, of(samples.len().saturating_sub(1)).seconds);
    let median = of(samples.len() / 2);
    let predicted_memory = planned.memory_bytes + planned.replicated_bytes;
    let share = median.moving / median.seconds;
    Ok(Point {
        mode,
        ranks,
        n,
        median,
        least,
        most,
        predicted,
        memory,
        predicted_memory,
        efficiency: 1.0,
        predicted_seconds: 0.0,
        share,
        predicted_share: 0.0,
    })
}

/// The job of which one exact update is measured.
fn shape(ranks: usize, n: usize, args: &Args) -> plan::Job {
    plan::Job {
        n_x: n as f64,
        n_y: n as f64,
        d: (args.scaling_d as f64, args.scaling_d as f64),
        dim: args.scaling_rank as f64,
        negatives: None,
        updates: 2.0,
        gradients: 0.0,
        whiten: false,
        final_loss: false,
        ranks: ranks as f64,
    }
}

/// What the model expects of one exact update with these rates: seconds, and the share of moving data.
fn predicted(p: &Point, rates: &Rates, args: &Args) -> Tried<(f64, f64)> {
    let job = shape(p.ranks, p.n, args);
    let passes = |updates: f64| -> Tried<f64> {
        let planned = plan::plan(&plan::Job { updates, ..job }, rates)?;
        Ok(planned.seconds - planned.encode_seconds)
    };
    // The first update is from zeros.
    let seconds = passes(2.0)? - passes(1.0)?;
    Ok((seconds, p.predicted / rates.link / seconds))
}

/// Rates that the measurement implies, for `unicon plan --rates`.
fn rates(alone: &Point, widest: Option<&Point>, args: &Args) -> Tried<Rates> {
    let named = Rates::of("cpu")?;
    let (pairs, d, r) = ((alone.n as f64).powi(2), args.scaling_d as f64, args.scaling_rank as f64);
    let t = alone.median;
    let flops = Some(2.0 * pairs * d / (t.pass2 - t.pass1))
        .filter(|f| f.is_finite() && *f > 0.0)
        .unwrap_or(named.flops);
    let exps = Some(pairs / (t.pass1 - 2.0 * pairs * r / flops)).filter(|e| e.is_finite() && *e > 0.0);
    let link = widest.map(|p| p.median.received / p.median.moving).filter(|l| l.is_finite() && *l > 0.0);
    Ok(Rates { flops, exps: exps.unwrap_or(named.exps), link: link.unwrap_or(named.link), ..named })
}

pub fn run(session: &Session, args: &Args) -> Result<()> {
    if args.scaling_n < 512
        || args.scaling_d == 0
        || args.scaling_rank == 0
        || args.scaling_rank > args.scaling_d
        || args.scaling_sizes.contains(&0)
    {
        return Err(Error::invalid(
            "--scaling",
            "n >= 512, 1 <= rank <= d and sizes >= 1",
            format!("{} x {}", args.scaling_n, args.scaling_d),
        )
        .into());
    }
    let job = session.group();
    let mut sizes = if job.size() == 1 { args.scaling_sizes.clone() } else { vec![1, job.size()] };
    sizes.push(1);
    sizes.sort_unstable();
    sizes.dedup();
    let mut points: Vec<Point> = Vec::new();
    for &ranks in &sizes {
        session.check()?;
        points.push(point(job, "strong", ranks, args.scaling_n, args)?);
        let n = ((args.scaling_n as f64 * (ranks as f64).sqrt()) / 512.0).round() as usize * 512;
        points.push(point(job, "weak", ranks, if ranks == 1 { args.scaling_n } else { n }, args)?);
    }
    let base = |mode: &str| points.iter().find(|p| p.mode == mode).map(|p| (p.n, p.median.seconds));
    let bases = [base("strong"), base("weak")];
    for p in &mut points {
        // Per work, which is n^2 a rank.
        if let Some((n, seconds)) = bases[usize::from(p.mode == "weak")] {
            let work = (p.n as f64 / n as f64).powi(2) / p.ranks as f64;
            p.efficiency = seconds * work / p.median.seconds;
        }
    }
    let transport = if job.size() == 1 { "threads" } else { job.transport() };
    let widest = points.iter().filter(|p| p.ranks > 1).max_by_key(|p| p.ranks);
    let mut report = Report::new("bench scaling");
    report.value("transport", transport)?;
    report.value("d", args.scaling_d)?;
    report.value("rank", args.scaling_rank)?;
    let rates = points.first().map(|alone| rates(alone, widest, args)).transpose()?;
    if let Some(rates) = rates.filter(|_| session.is_first()) {
        for p in &mut points {
            (p.predicted_seconds, p.predicted_share) = predicted(p, &rates, args)?;
        }
        report.value("rates", rates)?;
    }
    report.value("points", &points)?;
    let share = |v: f64, p: &Point| format!("{:.3}", v / p.median.seconds);
    let row = |p: &Point| {
        vec![
            p.mode.to_string(),
            p.ranks.to_string(),
            p.n.to_string(),
            format!("{:.3}", p.median.seconds),
            format!("{:.3}", p.predicted_seconds),
            format!("{:.3}", p.efficiency),
            share(p.median.compute, p),
            share(p.median.moving, p),
            output::three(p.predicted_share),
            share(p.median.waiting, p),
            share(p.median.hidden, p),
            output::bytes(p.median.received as u64),
            output::bytes(p.predicted as u64),
            p.memory.resident.iter().max().map_or("-".into(), |b| output::bytes(*b)),
            output::bytes(p.predicted_memory as u64),
        ]
    };
    let header = [
        "scaling",
        "ranks",
        "n",
        "seconds",
        "model",
        "efficiency",
        "compute",
        "moving",
        "model",
        "waiting",
        "hidden",
        "received",
        "model",
        "resident",
        "model",
    ];
    report.table(&header, points.iter().map(row).collect());
    report.line(format!("ranks are {transport}, one compute thread each; shares of the slowest rank's time"));
    if let Some(path) = args.scaling_svg.as_ref().filter(|_| session.is_first()) {
        std::fs::write(path, chart(&points)).map_err(|e| Error::io(path, e))?;
        report.value("svg", path)?;
    }
    session.print(&report)
}

fn chart(points: &[Point]) -> String {
    let most = points.iter().map(|p| p.ranks).max().unwrap_or(1);
    let mut chart = Chart::new(
        560.0,
        340.0,
        Axis::whole("ranks", 1, most),
        Axis::linear("parallel efficiency", 0.0, 1.1),
    );
    for (color, mode) in [(5, "strong"), (4, "weak")] {
        let of = points.iter().filter(|p| p.mode == mode);
        chart.push(Series::line(mode, color, of.map(|p| (p.ranks as f64, p.efficiency)).collect()));
    }
    chart.svg()
}
