//! What a fit will take before it is started: time, memory and traffic from the counts of operations, with measured
//! rates.
//!
//! One exact update over `n_x x n_y` pairs at rank `r` is pass 1 (`2 n_x n_y r` operations of a matrix product and
//! `n_x n_y` exponentials) and pass 2 (`2 n_x n_y (r + d)` operations, `d` the narrower side, and as many exponentials);
//! a gradient of the loss costs two passes of the same kind with `3 r` in place of `r + d`. With sampled negatives `n_y` is
//! their number. Rows are shared among the ranks; columns and their values pass every rank once a pass, and sums over
//! rows are exchanged in parts.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Speeds of one rank's device and of what connects it to the others. All > 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Operations of matrix products a second.
    pub flops: f64,
    /// Exponentials a second, with all that happens to an element.
    pub exps: f64,
    /// Whether exponentials run beside products (GPUs) or after them (CPUs).
    pub overlap: bool,
    /// Bytes a second that a rank receives from others.
    pub link: f64,
    /// Seconds that a collective takes whatever it moves.
    pub latency: f64,
    /// Bytes of features read a second.
    pub read: f64,
    /// Bytes of memory of a rank.
    pub memory: f64,
    /// Bytes of a number in n-sized matrices.
    pub bytes: f64,
}

impl Rates {
    /// Named devices: `h200`, `h100`, `a100`, `cpu` (one core with AVX-512).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another name.
    pub fn of(device: &str) -> Result<Self> {
        let gpu = Self {
            flops: 0.8 * 790e12,
            exps: 3.5e12,
            overlap: true,
            link: 40e9,
            latency: 30e-6,
            read: 5e9,
            memory: 141e9,
            bytes: 2.0,
        };
        Ok(match device {
            "h200" => gpu,
            "h100" => Self { memory: 80e9, ..gpu },
            "a100" => Self { flops: 0.8 * 280e12, exps: 2.4e12, memory: 80e9, link: 20e9, ..gpu },
            "cpu" => Self {
                flops: 90e9,
                exps: 1.5e9,
                overlap: false,
                link: 1e9,
                latency: 100e-6,
                read: 1e9,
                memory: 8e9,
                bytes: 4.0,
            },
            _ => return Err(Error::invalid("device", "h200, h100, a100 or cpu", device)),
        })
    }

    /// Checks that rates are rates.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the first that is not a finite number > 0.
    pub fn validate(&self) -> Result<()> {
        let all = [
            ("flops", self.flops),
            ("exps", self.exps),
            ("link", self.link),
            ("read", self.read),
            ("memory", self.memory),
            ("bytes", self.bytes),
        ];
        for (name, value) in all {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::invalid(format!("rate {name}"), "a finite number > 0", value));
            }
        }
        if !(self.latency.is_finite() && self.latency >= 0.0) {
            return Err(Error::invalid("rate latency", "a finite number >= 0", self.latency));
        }
        Ok(())
    }
}

/// What is to be fitted. Counts are floats: they may be large.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Rows of x.
    pub n_x: f64,
    /// Rows of y.
    pub n_y: f64,
    /// Columns of x and y.
    pub d: (f64, f64),
    /// Rank of the encoders.
    pub rank: f64,
    /// Negatives per row; none: all.
    pub negatives: Option<f64>,
    /// Spectral updates. The first, from zeros, costs `O(n)`.
    pub updates: f64,
    /// Evaluations of loss and gradient (`refine`).
    pub gradients: f64,
    /// Ranks.
    pub ranks: f64,
}

/// Seconds, bytes and their parts, per rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Reading the features once to check and once to load them.
    pub read_seconds: f64,
    /// Encoding.
    pub encode_seconds: f64,
    /// Row and column statistics.
    pub pass1_seconds: f64,
    /// `X^T S Y`, or gradients.
    pub pass2_seconds: f64,
    /// Receiving what other ranks hold, in all passes.
    pub comm_seconds: f64,
    /// All of it, with communication beside computation where it can be.
    pub seconds: f64,
    /// Bytes that a rank receives in all passes.
    pub traffic_bytes: f64,
    /// Bytes of memory that a rank needs.
    pub memory_bytes: f64,
    /// Operations of matrix products, of all ranks.
    pub flop: f64,
}

/// Columns that a rank sees in a pass.
fn columns(job: &Job) -> f64 {
    match job.negatives {
        // The tiles that a rank's panels visit, its own among them, and the rows of its positions.
        Some(m) => (job.n_y / job.ranks + m).min(job.n_y) + job.n_x / job.ranks,
        None => job.n_y,
    }
}

/// Bytes that a rank of `ranks` receives in one exact update: pass 1, then pass 2.
///
/// `parts` is the number of partial sums that a rank sends (see [`sum_parts`]); `bytes` that of a number.
pub fn update_traffic(job: &Job, bytes: f64, parts: f64) -> (f64, f64) {
    let (others, columns) = ((job.ranks - 1.0) / job.ranks, columns(job));
    let narrow = job.d.0.min(job.d.1);
    // Float64 sums: parts of the columns', the sums themselves, and three numbers an anchor.
    let sums = 8.0 * others * (parts * job.n_y + job.n_x + job.n_y + 3.0 * (job.n_x + job.n_y));
    let pass1 = bytes * others * columns * job.rank + sums;
    let c = 8.0 * job.d.0 * job.d.1;
    let pass2 = bytes * others * columns * (job.rank + narrow) + others * (parts * c + c);
    (pass1, pass2)
}

/// Partial sums that a rank of so many sends: the nodes of the tree over blocks that its blocks make up.
pub fn sum_parts(n: f64, ranks: f64) -> f64 {
    if ranks <= 1.0 {
        return 0.0;
    }
    let blocks = (n / 512.0).ceil().clamp(1.0, 1024.0).max((n / 65_536.0).ceil());
    // About one node a level on either side of a range; half of them are missing on average.
    ((blocks / ranks).max(1.0).log2() + 1.0).max(1.0)
}

/// Predicts a fit.
///
/// # Errors
/// [`Error::InvalidArgument`] for counts or rates that are not finite numbers > 0.
pub fn plan(job: &Job, rates: &Rates) -> Result<Plan> {
    rates.validate()?;
    let counts = [
        ("n", job.n_x),
        ("n_y", job.n_y),
        ("dx", job.d.0),
        ("dy", job.d.1),
        ("rank", job.rank),
        ("ranks", job.ranks),
        ("negatives", job.negatives.unwrap_or(1.0)),
    ];
    for (name, value) in counts {
        if !(value.is_finite() && value >= 1.0) {
            return Err(Error::invalid(name, "a finite number >= 1", value));
        }
    }
    let pairs = job.n_x * job.negatives.map_or(job.n_y, |m| m.min(job.n_y));
    let narrow = job.d.0.min(job.d.1);
    let seconds = |flop: f64, exps: f64| {
        let (f, e) = (flop / job.ranks / rates.flops, exps / job.ranks / rates.exps);
        if rates.overlap { f.max(e) } else { f + e }
    };
    // The first update starts from zeros.
    let exact = (job.updates - 1.0).max(0.0);
    let outer = 2.0 * job.n_x * job.d.0 * job.d.1;
    let (one, two) = (2.0 * pairs * job.rank, 2.0 * pairs * (job.rank + narrow) + outer);
    let gradient = 2.0 * pairs * 3.0 * job.rank + 4.0 * job.rank * (job.n_x * job.d.0 + job.n_y * job.d.1);
    let encode = 2.0 * job.rank * (job.n_x * job.d.0 + job.n_y * job.d.1);
    let passes = exact + job.gradients;
    let pass1_seconds = passes * seconds(one, pairs);
    let pass2_seconds = exact * seconds(two, pairs)
        + job.gradients * seconds(gradient, pairs)
        + job.updates.min(1.0) * seconds(outer, 0.0);
    let encode_seconds = passes * seconds(encode, 0.0);
    let bytes = rates.bytes * (job.n_x * job.d.0 + job.n_y * job.d.1) / job.ranks;
    let read_seconds = 2.0 * bytes / rates.read;
    let parts = sum_parts(job.n_x, job.ranks);
    let (t1, t2) = update_traffic(job, rates.bytes, parts);
    let others = (job.ranks - 1.0) / job.ranks;
    // Columns' gradients travel back as partial sums.
    let back = rates.bytes * others * job.rank * (job.n_y * parts + job.n_y);
    let traffic_bytes = exact * (t1 + t2) + job.gradients * (2.0 * t1 + back);
    let pieces = (job.n_y / 8192.0).max(job.ranks);
    let comm_seconds = if job.ranks > 1.0 {
        traffic_bytes / rates.link + passes * 2.0 * pieces * rates.latency
    } else {
        0.0
    };
    // Columns stream past beside the passes; sums are exchanged after them.
    let sums = if job.ranks > 1.0 {
        let streamed = rates.bytes * others * columns(job) * (2.0 * job.rank + narrow) * exact;
        (traffic_bytes - streamed).max(0.0) / rates.link
    } else {
        0.0
    };
    let busy = pass1_seconds + pass2_seconds;
    let seconds = read_seconds + encode_seconds + busy.max(comm_seconds - sums) + sums;
    let held = (job.n_x / job.ranks).min(65_536.0);
    let memory_bytes = bytes
        + rates.bytes * job.rank * (job.n_x + job.n_y) / job.ranks
            * if job.gradients > 0.0 { 3.0 } else { 1.0 }
        + rates.bytes * held * narrow
        + 2.0 * rates.bytes * 8192.0 * (job.rank + narrow)
        + 100.0 * (job.n_x + job.n_y)
        + 8.0 * job.d.0 * job.d.1 * (parts + 3.0);
    let flop = passes * (one + encode) + exact * two + job.gradients * gradient + outer;
    Ok(Plan {
        read_seconds,
        encode_seconds,
        pass1_seconds,
        pass2_seconds,
        comm_seconds,
        seconds,
        traffic_bytes,
        memory_bytes,
        flop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn million() -> Job {
        let (n_x, n_y) = (1e6, 1e6);
        Job {
            n_x,
            n_y,
            d: (768.0, 768.0),
            rank: 128.0,
            negatives: None,
            updates: 2.0,
            gradients: 0.0,
            ranks: 1.0,
        }
    }

    #[test]
    fn the_table_of_floors_is_met() {
        // n = 1M, r = 128, d = 768 at 790 Tflop/s: 0.32 s and 2.3 s.
        let rates = Rates { flops: 790e12, exps: 1e15, ..Rates::of("h200").unwrap() };
        let p = plan(&million(), &rates).unwrap();
        assert!((p.pass1_seconds - 0.324).abs() < 0.01, "{}", p.pass1_seconds);
        assert!((p.pass2_seconds - 2.27).abs() < 0.05, "{}", p.pass2_seconds);
        assert_eq!(p.traffic_bytes, 0.0);
        // X and Y are 3.07 GB, Z 0.51.
        assert!((3.6e9..4.5e9).contains(&p.memory_bytes), "{}", p.memory_bytes);
    }

    #[test]
    fn ranks_share_time_and_memory_and_pay_in_traffic() {
        let rates = Rates::of("h200").unwrap();
        let one = plan(&million(), &rates).unwrap();
        let eight = plan(&Job { ranks: 8.0, ..million() }, &rates).unwrap();
        assert!(eight.pass2_seconds < one.pass2_seconds / 7.9);
        // 200 of the 4,100 MB are numbers per row, which every rank holds.
        assert!(eight.memory_bytes < one.memory_bytes / 4.0);
        assert!(eight.traffic_bytes > 7.0 / 8.0 * 1e6 * 2.0 * (128.0 + 896.0));
        let sampled = plan(&Job { negatives: Some(4096.0), ranks: 8.0, ..million() }, &rates).unwrap();
        assert!(sampled.seconds < eight.seconds && sampled.traffic_bytes < eight.traffic_bytes);
    }

    #[test]
    fn nonsense_is_refused() {
        let rates = Rates::of("cpu").unwrap();
        assert!(plan(&Job { n_x: 0.0, ..million() }, &rates).unwrap_err().to_string().starts_with("n:"));
        assert!(plan(&million(), &Rates { flops: f64::NAN, ..rates }).is_err());
        assert!(Rates::of("abacus").is_err());
    }
}
