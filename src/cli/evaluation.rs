//! How retrieval is evaluated: arguments that eval, report and compare share, and what they say.

use super::args;
use super::output::{self, Report};
use anyhow::Result;
use unicon::Error;
use unicon::backend::Ties;
use unicon::retrieval::{Bootstrap, Intervals, Recall, RecallOptions};

/// Ranks and their uncertainty.
#[derive(clap::Args)]
pub struct EvaluationArgs {
    /// The values of k.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10", value_name = "K,K,..")]
    pub k: Vec<usize>,
    /// What items of equal score do to a rank: expected is the mean over their orders, so that equal items give chance.
    #[arg(long, value_parser = args::ties(), default_value = "expected", value_name = "RULE")]
    pub ties: Ties,
    /// Row i of x never finds row i of y, nor the other way round: for a set against itself, with groups or pairs.
    #[arg(long)]
    pub exclude_self: bool,
    /// Resamples of the queries for the 95 % confidence intervals (bootstrap, seeded by --seed); 0: none.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub resamples: usize,
}

impl EvaluationArgs {
    /// As the library takes them, checked.
    pub fn options(&self, seed: u64) -> Result<RecallOptions> {
        if self.k.is_empty() || self.k.contains(&0) {
            return Err(Error::invalid("--k", "numbers >= 1", format!("{:?}", self.k)).into());
        }
        let bootstrap = bootstrap(self.resamples, seed)?;
        Ok(RecallOptions { ks: self.k.clone(), ties: self.ties, exclude_self: self.exclude_self, bootstrap })
    }
}

/// The intervals of so many resamples; none of 0.
pub fn bootstrap(resamples: usize, seed: u64) -> Result<Option<Bootstrap>> {
    match resamples {
        0 => Ok(None),
        1..40 => Err(Error::invalid("--resamples", "0 or at least 40", resamples).into()),
        _ => Ok(Some(Bootstrap { resamples, seed, ..Bootstrap::default() })),
    }
}

/// `+0.012 (+0.004 to +0.020)`: a difference and its interval.
pub fn gain(mean: f64, [low, high]: [f64; 2]) -> String {
    format!("{mean:+.3} ({low:+.3} to {high:+.3})")
}

/// The table of a recall: a line a direction, and its intervals below.
pub fn table(report: &mut Report, recall: &Recall, (n_x, n_y): (usize, usize)) {
    let header: Vec<String> = recall.ks.iter().map(|k| format!("R@{k}")).collect();
    let mut header: Vec<&str> =
        ["direction", "queries"].into_iter().chain(header.iter().map(String::as_str)).collect();
    header.extend(["MRR", "median rank", "mean rank"]);
    let rank = |rank: Option<f64>, decimals: usize| rank.map_or("-".into(), |r| format!("{r:.decimals$}"));
    let mut rows = Vec::new();
    for (at, (way, n, shares)) in
        [("x to y", n_x, &recall.x_to_y), ("y to x", n_y, &recall.y_to_x)].into_iter().enumerate()
    {
        let mut row = vec![way.to_string(), n.to_string()];
        row.extend(shares.iter().map(|&v| output::three(v)));
        row.push(output::three(recall.mrr[at]));
        row.extend([rank(recall.median_rank[at], 1), rank(recall.mean_rank[at], 1)]);
        rows.push(row);
        if let Some(intervals) = &recall.intervals {
            rows.push(interval_row(intervals, at));
        }
    }
    report.table(&header, rows);
}

fn interval_row(i: &Intervals, at: usize) -> Vec<String> {
    let mut row = vec![format!("  {:.0} %", 100.0 * i.bootstrap.level), String::new()];
    row.extend([&i.x_to_y, &i.y_to_x][at].iter().map(|&v| interval(v)));
    row.extend([interval(i.mrr[at]), String::new(), String::new()]);
    row
}

/// `.812-.834`: both ends of an interval.
pub fn interval([low, high]: [f64; 2]) -> String {
    format!("{low:.3}-{high:.3}")
}

/// What to say of queries whose rank is up to a rule.
pub fn tied(ties: Ties, (x, n_x): (usize, usize), (y, n_y): (usize, usize)) -> Option<String> {
    (x + y > 0).then(|| {
        format!(
            "tied with a wrong item: {x} of {} of x, {y} of {} of y (--ties {})",
            output::count(n_x, "row"),
            output::count(n_y, "row"),
            name(ties)
        )
    })
}

/// The spelling of a rule.
pub fn name(ties: Ties) -> &'static str {
    match ties {
        Ties::LowerIndex => "lower-index",
        Ties::Optimistic => "optimistic",
        Ties::Pessimistic => "pessimistic",
        Ties::Expected => "expected",
    }
}
