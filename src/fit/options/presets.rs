//! Every preset and every default that depends on another choice, nowhere else: the program, the C ABI and the languages
//! above it translate.

use super::{BatchScore, Batches, Factorization, FitOptions, Init, KernelOptions, Landmarks};
use crate::fit::Center;
use crate::kernel::{Kernel, KernelKind};
use crate::loss::Loss;

/// Sets of defaults of [`fit`](crate::fit::fit); the preset `best` is [`fit_best`](crate::fit::fit_best) with
/// [`BestOptions::new`](crate::fit::BestOptions::new).
///
/// Those named after the paper (arXiv 2604.16678) are the schedules of its experiments as the authors' code runs them: neither whitened
/// nor centred, and without damping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// The exact global batch from zeros: [`FitOptions::new`].
    #[default]
    Global,
    /// Linear encoders on synthetic data (Section 4.1): r = 10, tau = nu = 1, batches of 30 of equal weight, one update from random
    /// encoders. Rows beyond the last whole batch are dropped.
    PaperLinear,
    /// Kernel encoders on synthetic data (Sections 4.1, C.6, C.7): r = 10, tau = nu = 1, batches of 30 fused by validation accuracy, at
    /// most 10 updates from zeros until `|A B^T - previous| < 1e-3`, angular kernels whose cosines are clamped to
    /// [`cos_clamp`](Self::cos_clamp). Rows beyond the last whole batch are dropped.
    PaperKernel,
    /// Flickr30k (Table 1): r = 128, tau = 1, nu = 2, orthonormal factors, two updates of one batch of all rows. The paper takes
    /// features of CLIP with unit rows and those of ResNet-50 raw.
    PaperFlickr,
    /// MSCOCO with features of CLIP (Table 2): r = 512, tau = 0.07, nu = 1.5, orthonormal factors, two updates of the first 1,000 rows
    /// (200 images with 5 captions each, many-to-many), ridge 10, `C` from scaled inputs.
    PaperCocoClip,
    /// MSCOCO with features of ResNet-50 (Table 2): r = 256, tau = 0.07, nu = 1.5, orthonormal factors, two updates of one batch of all
    /// rows, rho = 0.1, ridge 1e-4, `C` from scaled inputs.
    PaperCocoResnet,
}

/// Batch size of the paper's experiments on synthetic data (Section 4.1).
const PAPER_BATCH: usize = 30;

/// What the authors' kernels clamp cosines to: `+-(1 - this)`.
const PAPER_COS_CLAMP: f64 = 1e-5;

impl Preset {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Global,
        Self::PaperLinear,
        Self::PaperKernel,
        Self::PaperFlickr,
        Self::PaperCocoClip,
        Self::PaperCocoResnet,
    ];

    /// What `paper` stands for: the schedule on synthetic data of linear or of kernel encoders.
    pub fn paper(kernel: bool) -> Self {
        if kernel { Self::PaperKernel } else { Self::PaperLinear }
    }

    /// Its name in the program, Python and Julia.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::PaperLinear => "paper-linear",
            Self::PaperKernel => "paper-kernel",
            Self::PaperFlickr => "paper-flickr",
            Self::PaperCocoClip => "paper-coco-clip",
            Self::PaperCocoResnet => "paper-coco-resnet",
        }
    }

    /// The dimension of the shared space that belongs to the schedule; none for [`Global`](Self::Global).
    pub fn dim(self) -> Option<usize> {
        match self {
            Self::Global => None,
            Self::PaperLinear | Self::PaperKernel => Some(10),
            Self::PaperFlickr => Some(128),
            Self::PaperCocoClip => Some(512),
            Self::PaperCocoResnet => Some(256),
        }
    }

    /// The loss that belongs to the schedule.
    pub fn loss(self) -> Loss {
        let clip = Loss::default();
        match self {
            Self::Global => clip,
            Self::PaperLinear | Self::PaperKernel => Loss { tau: 1.0, nu: 1.0, ..clip },
            Self::PaperFlickr => Loss { tau: 1.0, nu: 2.0, ..clip },
            Self::PaperCocoClip | Self::PaperCocoResnet => Loss { tau: 0.07, nu: 1.5, ..clip },
        }
    }

    /// The options of this preset for a dimension, which may be another than [`dim`](Self::dim).
    pub fn options(self, dim: usize) -> FitOptions {
        let global = FitOptions::new(dim);
        if self == Self::Global {
            return global;
        }
        let batches = |size, count, score| Some(Batches { size, count, drop_trailing: true, score });
        let paper = FitOptions {
            loss: self.loss(),
            n_iters: 2,
            init: Init::Random,
            center: Center::Off,
            factorization: Factorization::Orthonormal,
            ..global
        };
        match self {
            Self::Global | Self::PaperFlickr => paper,
            Self::PaperLinear => FitOptions {
                n_iters: 1,
                factorization: Factorization::Sqrt,
                batches: batches(PAPER_BATCH, None, BatchScore::Equal),
                ..paper
            },
            Self::PaperKernel => FitOptions {
                n_iters: 10,
                tol: 1e-3,
                init: Init::Zeros,
                factorization: Factorization::Sqrt,
                batches: batches(PAPER_BATCH, None, BatchScore::Accuracy),
                kernel: Some(KernelOptions::new(self.kernel(KernelKind::Angular), Landmarks::Exact)),
                ..paper
            },
            Self::PaperCocoClip => FitOptions {
                batches: batches(1000, Some(1), BatchScore::Recall),
                ridge: 10.0,
                scale_inputs: true,
                ..paper
            },
            Self::PaperCocoResnet => FitOptions { rho: 0.1, ridge: 1e-4, scale_inputs: true, ..paper },
        }
    }

    /// What its kernels clamp cosines to, unless told otherwise: `+-(1 - this)`.
    pub fn cos_clamp(self) -> f64 {
        if self == Self::Global { 0.0 } else { PAPER_COS_CLAMP }
    }

    /// A kernel with its clamp.
    pub fn kernel(self, kind: KernelKind) -> Kernel {
        Kernel { cos_clamp: self.cos_clamp(), ..Kernel::new(kind) }
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
    /// As `n_iters`: 1 update where both sides are whitened, else 2, of which the second is kept where it lowers the loss (one more
    /// pass over the pairs, which also gives the final loss). From zeros a whitened update is regularised CCA; a second one,
    /// undamped and at the default loss, lowers Recall@1 on every data set tried. Damped updates, of which none raises the loss, are 2 in either case.
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
