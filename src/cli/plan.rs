//! `unicon plan`.

use super::output::{self, Report};
use super::session::Session;
use anyhow::{Context, Result};
use std::path::PathBuf;
use unicon::fit::FitOptions;
use unicon::plan::{Job, Rates, plan};

/// Predicts time, memory and traffic of a fit from its size, before it is started: of `unicon fit --preset global`, linear
/// or with as many kernel features as columns, from zeros.
///
/// Rates are those of a named device, or measured ones: `unicon bench --scaling --json` writes them as `rates`.
#[derive(clap::Args)]
pub struct Args {
    /// Rows of x; 1e9 will do.
    #[arg(long, value_parser = count, value_name = "ROWS")]
    n: f64,
    /// Rows of y [default: as many].
    #[arg(long, value_parser = count, value_name = "ROWS")]
    n_y: Option<f64>,
    /// Columns of x.
    #[arg(long, value_parser = count, default_value = "768")]
    dx: f64,
    /// Columns of y.
    #[arg(long, value_parser = count, default_value = "768")]
    dy: f64,
    /// Dimension of the shared space.
    #[arg(long, value_parser = count)]
    rank: f64,
    /// Sampled negatives per row instead of all.
    #[arg(long, value_parser = count, value_name = "N")]
    negatives: Option<f64>,
    /// Spectral updates; the first costs O(n) [default: as unicon fit, 2, with --whiten 1].
    #[arg(long, value_parser = number, value_name = "N")]
    iters: Option<f64>,
    /// Evaluations of loss and gradient of a refinement.
    #[arg(long, value_parser = number, default_value = "0", value_name = "N")]
    gradients: f64,
    /// Whiten both sides first.
    #[arg(long)]
    whiten: bool,
    /// Without the loss of the result, as `unicon fit --no-final-loss`.
    #[arg(long)]
    no_final_loss: bool,
    /// Number of GPUs, one a rank.
    #[arg(long, value_parser = count, conflicts_with = "ranks")]
    gpus: Option<f64>,
    /// Number of ranks [default: 1].
    #[arg(long, value_parser = count)]
    ranks: Option<f64>,
    /// h200, h100, a100, or cpu (one core) [default: h200 with --gpus, else cpu].
    #[arg(long, value_name = "DEVICE")]
    on: Option<String>,
    /// Number type of the features' files: GPUs hold and send them as they are stored [default: f32, or that of --rates].
    #[arg(long, value_parser = ["f32", "f16", "bf16"], value_name = "TYPE")]
    dtype: Option<String>,
    /// Measured rates: JSON with any of flops, exps, overlap, link, latency, read, memory, bytes; or the output of
    /// `unicon bench --scaling --json`.
    #[arg(long, value_name = "JSON")]
    rates: Option<PathBuf>,
}

fn number(s: &str) -> std::result::Result<f64, String> {
    let whole = |v: &f64| v.is_finite() && *v >= 0.0 && v.fract() == 0.0;
    s.parse().ok().filter(whole).ok_or_else(|| "expected a whole number >= 0".into())
}

fn count(s: &str) -> std::result::Result<f64, String> {
    number(s).ok().filter(|v| *v >= 1.0).ok_or_else(|| "expected a whole number >= 1".into())
}

/// The named device's rates, with those in the file instead where it has any.
fn rates(args: &Args) -> Result<Rates> {
    let device = args.on.as_deref().unwrap_or(if args.gpus.is_some() { "h200" } else { "cpu" });
    let mut named = Rates::of(device)?;
    // CPUs hold them as f32 whatever they were.
    let stored = args.dtype.as_ref().map(|name| if name == "f32" { 4.0 } else { 2.0 });
    let stored = stored.filter(|_| named.overlap);
    let Some(path) = &args.rates else {
        named.bytes = stored.unwrap_or(named.bytes);
        return Ok(named);
    };
    let bad = || format!("{}", path.display());
    let text = std::fs::read_to_string(path).with_context(bad)?;
    let mut given: serde_json::Value = serde_json::from_str(&text).with_context(bad)?;
    if let Some(inner) = given.get("rates") {
        given = inner.clone();
    }
    let mut all = serde_json::to_value(named).with_context(bad)?;
    if let (Some(all), Some(given)) = (all.as_object_mut(), given.as_object()) {
        all.extend(given.clone());
    }
    let mut rates: Rates = serde_json::from_value(all).with_context(bad)?;
    rates.bytes = stored.unwrap_or(rates.bytes);
    rates.validate()?;
    Ok(rates)
}

/// What the figures rest on, in words.
fn assumptions(args: &Args, job: &Job, rates: &Rates) -> Vec<String> {
    let device = args.on.as_deref().unwrap_or(if args.gpus.is_some() { "h200" } else { "cpu" });
    let whose = match &args.rates {
        Some(path) => format!("{}, else those of {device}", path.display()),
        None => format!(
            "{device}, nominal: measure yours with `unicon bench --scaling --json`, give them with --rates"
        ),
    };
    let negatives = job.negatives.map_or("all".to_string(), |m| format!("{m:.0} sampled"));
    let rank = if rates.overlap { "GPU" } else { "core" };
    vec![
        format!(
            "rates of {whose}: {:.0} Gflop/s and {:.2e} exp/s a {rank}, {}/s between ranks, {}/s of reading a rank",
            rates.flops / 1e9,
            rates.exps,
            output::bytes(rates.link as u64),
            output::bytes(rates.read as u64)
        ),
        format!(
            "counted: preset global from zeros, {:.0} updates, {negatives} negatives, one positive a row, features of {:.0} bytes a number; \
             one rank a {rank}, all at the same speed",
            job.updates, rates.bytes
        ),
        "not counted: starting, writing the model, validation; SVDs, which take d^3; a second pass 1 where tau < 0.015"
            .to_string(),
    ]
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let rates = rates(&args)?;
    let usual = FitOptions { whiten: args.whiten.then_some(0.0), ..FitOptions::new(1) };
    let job = Job {
        n_x: args.n,
        n_y: args.n_y.unwrap_or(args.n),
        d: (args.dx, args.dy),
        dim: args.rank,
        negatives: args.negatives,
        updates: args.iters.unwrap_or(usual.updates() as f64),
        gradients: args.gradients,
        whiten: args.whiten,
        final_loss: !args.no_final_loss,
        ranks: args.gpus.or(args.ranks).unwrap_or(1.0),
    };
    let p = plan(&job, &rates)?;
    let fits = p.fits(&rates);
    let assumptions = assumptions(&args, &job, &rates);
    let mut report = Report::new("plan");
    report.value("job", job)?;
    report.value("rates", rates)?;
    report.value("plan", p)?;
    report.value("fits", fits)?;
    report.value("assumptions", &assumptions)?;
    let row = |name: &str, value: String| (name.to_string(), value);
    let bytes = |b: f64| output::bytes(b as u64);
    let verdict = if fits { "fits" } else { "does not fit: more ranks, or --memory-limit" };
    let share = 100.0 * p.comm_seconds / p.seconds;
    report.list(vec![
        row("reading", time(p.read_seconds)),
        row("whitening", time(p.whiten_seconds)),
        row("encoding", time(p.encode_seconds)),
        row("pass 1, statistics", time(p.pass1_seconds)),
        row("pass 2, X^T S Y or gradients", time(p.pass2_seconds)),
        row(
            if rates.overlap { "communication" } else { "communication, most of it beside the passes" },
            format!("{} ({share:.1}%)", time(p.comm_seconds)),
        ),
        row("in all", time(p.seconds)),
        row("received by a rank", bytes(p.traffic_bytes)),
        row(
            "memory of a rank, its share",
            format!("{} of {}: {verdict}", bytes(p.memory_bytes), bytes(rates.memory)),
        ),
        row("on every rank in host memory, numbers per row", bytes(p.replicated_bytes)),
        row("pages of mapped files, given back when needed", bytes(p.mapped_bytes)),
        row("matrix products", format!("{:.3e} flop", p.flop)),
    ]);
    assumptions.into_iter().for_each(|line| report.line(line));
    session.print(&report)
}

/// Seconds in words of a useful size.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.2} ms", 1e3 * s),
        s if s < 120.0 => format!("{s:.2} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}
