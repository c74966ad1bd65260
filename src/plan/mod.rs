//! What a fit will take before it is started: time, memory and traffic from the counts of operations, with measured
//! rates.
//!
//! One exact update over `n_x x n_y` pairs in `r` dimensions is pass 1 (`2 n_x n_y r` operations of a matrix product and
//! `n_x n_y` exponentials) and pass 2 (`2 n_x n_y (r + d)` operations, `d` the narrower side, and as many exponentials);
//! a gradient of the loss costs two passes of the same kind with `3 r` in place of `r + d`. With sampled negatives `n_y` is
//! their number. Rows are shared among the ranks; columns and their values pass every rank once a pass (once for every
//! 65,536 of its rows in pass 2), and sums over rows are exchanged in parts. The relation is held on every rank, and with
//! sampled negatives some numbers of every row.

mod devices;
pub(crate) mod memory;
mod traffic;

use crate::error::{Error, Result};
use crate::similarity::schedule::TILE;
use serde::{Deserialize, Serialize};

/// Speeds of one rank's device and of what connects it to the others. All > 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Operations of matrix products a second.
    pub flops: f64,
    /// Exponentials a second, with all that happens to an element.
    pub exps: f64,
    /// Whether ranks are CUDA devices: exponentials run beside products, not after them, and memory is the device's.
    pub overlap: bool,
    /// Bytes a second that a rank receives from others.
    pub link: f64,
    /// Seconds that a collective takes whatever it moves.
    pub latency: f64,
    /// Bytes of features read a second.
    pub read: f64,
    /// Bytes of memory of a rank.
    pub memory: f64,
    /// Bytes of a number of the features: on CPUs that of the arithmetic, on devices as it is stored, 4 of fp32 files and
    /// 2 of fp16 or bf16 ones.
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
            bytes: 4.0,
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
    /// Dimension of the shared space.
    #[serde(rename = "rank")]
    pub dim: f64,
    /// Negatives per row; none: all.
    pub negatives: Option<f64>,
    /// Spectral updates, a given number. The first, from zeros, costs `O(n)`. Where the number is left to the fit and no final loss is asked
    /// for, it evaluates the loss once more than counted here.
    pub updates: f64,
    /// Evaluations of loss and gradient (`refine`).
    pub gradients: f64,
    /// Whether both sides are whitened first.
    pub whiten: bool,
    /// Whether the loss of the result is evaluated at the end.
    pub final_loss: bool,
    /// Ranks.
    pub ranks: f64,
}

impl Job {
    /// The number of sampled negatives a row; none where they are all.
    fn sample(&self) -> Option<f64> {
        let m = self.negatives?;
        let tile = m.min(TILE as f64);
        ((m / tile).ceil() < (self.n_y / tile).ceil()).then_some(m)
    }

    /// Spectral updates after the first, which starts from zeros.
    fn exact(&self) -> f64 {
        (self.updates - 1.0).max(0.0)
    }

    /// Evaluations of the loss, by itself or on the way to an update or a gradient.
    fn passes(&self) -> f64 {
        self.exact() + self.gradients + f64::from(self.final_loss)
    }

    /// Checks that there is such a job.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what is not a whole number in its range, or does not fit the rest.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("n", self.n_x, 1.0, 1e15),
            ("n_y", self.n_y, 1.0, 1e15),
            ("dx", self.d.0, 1.0, 1e7),
            ("dy", self.d.1, 1.0, 1e7),
            ("rank", self.dim, 1.0, 1e7),
            ("ranks", self.ranks, 1.0, 1e6),
            ("negatives", self.negatives.unwrap_or(1.0), 1.0, 1e15),
            ("iters", self.updates, 0.0, 1e9),
            ("gradients", self.gradients, 0.0, 1e9),
        ];
        for (name, value, least, most) in counts {
            if !(value.fract() == 0.0 && (least..=most).contains(&value)) {
                return Err(Error::invalid(name, format!("a whole number from {least} to {most:e}"), value));
            }
        }
        let (narrow, rows) = (self.d.0.min(self.d.1), self.n_x.max(self.n_y));
        if self.dim > narrow {
            let expected = format!("at most the columns of the narrower side, {narrow}");
            return Err(Error::invalid("rank", expected, self.dim));
        }
        if self.ranks > rows {
            return Err(Error::invalid("ranks", format!("at most the rows, {rows}"), self.ranks));
        }
        Ok(())
    }
}

/// Operations of pass 1 for a pair in `r` dimensions.
fn pass1(r: f64) -> f64 {
    2.0 * r
}

/// Operations of pass 2 for a pair: the similarity again, and the values of the narrower side.
fn pass2(r: f64, narrow: f64) -> f64 {
    2.0 * (r + narrow)
}

/// How many times as long as an evaluation of the loss an update takes that sees the similarities.
pub(crate) fn update_per_loss(r: usize, narrow: usize) -> f64 {
    let (r, narrow) = (r as f64, narrow as f64);
    1.0 + pass2(r, narrow) / pass1(r)
}

/// Seconds, bytes and their parts, per rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CostEstimate {
    /// Reading the features once to check and once to load them.
    pub read_seconds: f64,
    /// Whitening.
    pub whiten_seconds: f64,
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
    /// Bytes that a rank receives in all passes, the mean of the ranks.
    pub traffic_bytes: f64,
    /// Bytes of memory that a rank needs for its share of the rows: its device's, where it has one, with the embeddings of
    /// all rows.
    pub memory_bytes: f64,
    /// Bytes that every rank holds for the rows of all, in host memory.
    pub replicated_bytes: f64,
    /// Pages of a rank's rows of the input files that are mapped: they count as resident, and the kernel takes them back
    /// when memory is short.
    pub mapped_bytes: f64,
    /// Operations of matrix products, of all ranks.
    pub flop: f64,
}

fn steps(job: &Job, rates: &Rates) -> traffic::Steps {
    match rates.overlap {
        true => devices::steps(job, rates.bytes),
        false => traffic::steps(job, rates.bytes),
    }
}

/// Bytes that a rank receives in both passes of one update, on average.
pub fn update_traffic(job: &Job, rates: &Rates) -> f64 {
    let (streamed, exchanged) = steps(job, rates).update;
    (streamed + exchanged) / job.ranks
}

/// Predicts a fit.
///
/// # Errors
/// As [`Job::validate`] and [`Rates::validate`].
pub fn plan(job: &Job, rates: &Rates) -> Result<CostEstimate> {
    rates.validate()?;
    job.validate()?;
    let (ranks, bytes) = (job.ranks, rates.bytes);
    let shared = |flop: f64, exps: f64| {
        let (f, e) = (flop / ranks / rates.flops, exps / ranks / rates.exps);
        if rates.overlap { f.max(e) } else { f + e }
    };
    let pairs = job.n_x * job.negatives.map_or(job.n_y, |m| m.min(job.n_y));
    let narrow = job.d.0.min(job.d.1);
    let cells = job.n_x * job.d.0 + job.n_y * job.d.1;
    let outer = 2.0 * job.n_x * job.d.0 * job.d.1;
    let (one, two) = (pairs * pass1(job.dim), pairs * pass2(job.dim, narrow) + outer);
    let encode = 2.0 * job.dim * cells;
    let gradient = 2.0 * pairs * 3.0 * job.dim + 2.0 * encode;
    let whiten = if job.whiten { 4.0 * (job.n_x * job.d.0.powi(2) + job.n_y * job.d.1.powi(2)) } else { 0.0 };
    let (exact, last) = (job.exact(), f64::from(job.final_loss));
    let (updates, passes) = (job.updates.min(1.0), job.passes());

    let features = bytes * cells / ranks;
    let read_seconds = 2.0 * features / rates.read;
    let whiten_seconds = shared(whiten, 0.0);
    let encode_seconds = passes * shared(encode, 0.0);
    // Two half samples show the error that sampling leaves in an update: together as much work as the sample.
    let samples = if job.sample().is_some_and(|m| m >= 2.0) { 2.0 } else { 1.0 };
    let pass1_seconds = (passes + exact * (samples - 1.0)) * shared(one, pairs);
    let pass2_seconds = samples * exact * shared(two, pairs)
        + job.gradients * shared(gradient, pairs)
        + updates * shared(outer, 0.0);

    let steps = steps(job, rates);
    // What streams past beside the passes, and what is exchanged before and after.
    let others = job.gradients + last;
    let streamed = others * steps.pass1.0 + exact * steps.update.0 + job.gradients * steps.gradient.0;
    let exchanged = steps.screen
        + steps.whiten
        + updates * steps.zeros
        + passes * steps.encode
        + others * steps.pass1.1
        + exact * steps.update.1
        + job.gradients * steps.gradient.1;
    let traffic_bytes = (streamed + exchanged) / ranks;
    let messages = (passes + exact + job.gradients) * (steps.pieces + 8.0);
    let latency = if ranks > 1.0 { messages * rates.latency } else { 0.0 };
    let comm_seconds = traffic_bytes / rates.link + latency;
    let beside = streamed / ranks / rates.link + latency;
    let seconds = read_seconds
        + whiten_seconds
        + encode_seconds
        + (pass1_seconds + pass2_seconds).max(beside)
        + exchanged / ranks / rates.link;

    let memory = memory::of_rank(job, rates);
    Ok(CostEstimate {
        read_seconds,
        whiten_seconds,
        encode_seconds,
        pass1_seconds,
        pass2_seconds,
        comm_seconds,
        seconds,
        traffic_bytes,
        memory_bytes: memory.own,
        replicated_bytes: memory.replicated,
        mapped_bytes: memory.mapped,
        flop: whiten
            + passes * (one + encode)
            + exact * (samples * two + (samples - 1.0) * one)
            + job.gradients * gradient
            + updates * outer,
    })
}

impl CostEstimate {
    /// Whether a rank has the memory.
    pub fn fits(&self, rates: &Rates) -> bool {
        // A GPU's memory is its own; a CPU has one for all.
        let needed = self.memory_bytes + if rates.overlap { 0.0 } else { self.replicated_bytes };
        needed <= rates.memory
    }
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
            dim: 128.0,
            negatives: None,
            updates: 2.0,
            gradients: 0.0,
            whiten: false,
            final_loss: false,
            ranks: 1.0,
        }
    }

    #[test]
    fn the_table_of_floors_is_met() {
        // n = 1M, r = 128, d = 768 at 790 Tflop/s: 0.32 s and 2.3 s.
        let rates = Rates { flops: 790e12, exps: 1e15, bytes: 2.0, ..Rates::of("h200").unwrap() };
        let p = plan(&million(), &rates).unwrap();
        assert!((p.pass1_seconds - 0.324).abs() < 0.01, "{}", p.pass1_seconds);
        assert!((p.pass2_seconds - 2.27).abs() < 0.05, "{}", p.pass2_seconds);
        assert_eq!(p.traffic_bytes, 0.0);
        // X and Y are 3.07 GB, both halves of Z 1.02, S Y a tenth.
        assert!((4.1e9..4.6e9).contains(&p.memory_bytes), "{}", p.memory_bytes);
    }

    #[test]
    fn ranks_share_time_and_memory_and_pay_in_traffic() {
        let rates = Rates::of("h200").unwrap();
        let one = plan(&million(), &rates).unwrap();
        let eight = plan(&Job { ranks: 8.0, ..million() }, &rates).unwrap();
        assert!(eight.pass2_seconds < one.pass2_seconds / 7.9);
        // The embeddings of all rows are on every device.
        let z = 2e6 * 4.0 * 128.0;
        assert!(eight.memory_bytes - z < one.memory_bytes / 5.0);
        assert_eq!(eight.replicated_bytes, one.replicated_bytes);
        assert!(eight.traffic_bytes > 7.0 / 8.0 * 1e6 * 2.0 * (128.0 + 896.0));
        // Devices take all columns past, CPUs only those that are visited.
        let sampled = Job { negatives: Some(4096.0), ranks: 8.0, ..million() };
        assert!(plan(&sampled, &rates).unwrap().seconds < eight.seconds);
        let rates = Rates::of("cpu").unwrap();
        let eight = plan(&Job { ranks: 8.0, ..million() }, &rates).unwrap();
        let sampled = plan(&sampled, &rates).unwrap();
        assert!(sampled.seconds < eight.seconds && sampled.traffic_bytes < eight.traffic_bytes);
    }

    #[test]
    fn nonsense_is_refused() {
        let rates = Rates::of("cpu").unwrap();
        assert!(plan(&Job { n_x: 0.0, ..million() }, &rates).unwrap_err().to_string().starts_with("n:"));
        let text = |job: Job| plan(&job, &rates).unwrap_err().to_string();
        assert!(text(Job { n_x: 1000.5, ..million() }).contains("whole number"));
        assert!(text(Job { dim: 1000.0, ..million() }).contains("narrower side, 768"));
        assert!(text(Job { ranks: 2e6, ..million() }).starts_with("ranks:"));
        assert!(plan(&million(), &Rates { flops: f64::NAN, ..rates }).is_err());
        assert!(Rates::of("abacus").is_err());
    }
}
