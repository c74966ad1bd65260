//! Every preset and every default that depends on another choice, nowhere else: the program, the C ABI and the languages
//! above it translate.

use super::{Batches, FitOptions, Init, Landmarks};
use crate::fit::Center;

/// Sets of defaults of [`fit`](crate::fit::fit); the preset `best` is [`fit_best`](crate::fit::fit_best) with
/// [`BestOptions::new`](crate::fit::BestOptions::new).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// The exact global batch from zeros: [`FitOptions::new`].
    #[default]
    Global,
    /// The authors' schedule: 2 updates of mini-batches of 30 rows, weighed by validation accuracy where there are
    /// validation rows, from random encoders, neither whitened nor centred; a trailing partial batch is dropped. Kernels are exact in every
    /// batch, with cosines clamped to [`cos_clamp`](Self::cos_clamp).
    Paper,
}

/// Batch size of the paper's experiments on synthetic data (Section 4.1).
const PAPER_BATCH: usize = 30;

impl Preset {
    /// The options of this preset for a rank.
    pub fn options(self, rank: usize) -> FitOptions {
        let global = FitOptions::new(rank);
        match self {
            Self::Global => global,
            Self::Paper => FitOptions {
                n_iters: 2,
                init: Init::Random,
                center: Center::Off,
                batches: Some(Batches { size: PAPER_BATCH, count: None, drop_trailing: true }),
                ..global
            },
        }
    }

    /// What its kernels clamp cosines to, unless told otherwise: `+-(1 - this)`.
    pub fn cos_clamp(self) -> f64 {
        match self {
            Self::Global => 0.0,
            Self::Paper => 1e-5,
        }
    }
}

impl Landmarks {
    /// Rows that stand for the data where their number is not given: 512, or all of them where there are fewer.
    pub const USUAL: usize = 512;

    /// How many landmarks there are among `n` rows.
    pub fn count(&self, n: usize) -> usize {
        match self {
            Self::Auto => n.min(Self::USUAL),
            Self::Exact => n,
            Self::Count(m) => *m,
            Self::Rows(rows) => rows.len(),
        }
    }
}

impl FitOptions {
    /// As `n_iters`: 2 updates, and 1 where both sides are whitened. From zeros a whitened update is regularised CCA; a
    /// second one, undamped and at the default loss, lowers Recall@1 on every data set tried. Damped updates, of which none
    /// raises the loss, are 2 in either case.
    pub const AUTO: usize = usize::MAX;

    /// The number of spectral updates.
    pub fn updates(&self) -> usize {
        match self.n_iters {
            Self::AUTO if self.whiten.is_some() && self.damping.is_none() => 1,
            Self::AUTO => 2,
            n => n,
        }
    }
}
