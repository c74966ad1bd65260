//! Data of two modalities, and ways to fit it.

use crate::program::Lab;
use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Ties};
use unicon::fit::{
    Batches, BestOptions, Center, DampingOptions, Data, Dim, FitInfo, FitOptions, Init, KernelOptions,
    Landmarks, RefineOptions, WIDTHS, fit, fit_best,
};
use unicon::io::{HostMatrix, RowSource};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::retrieval::recall_at_k;

/// Rows of two modalities that show the same 8-dimensional points.
#[derive(Clone)]
pub struct Views {
    pub n: usize,
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    pub widths: (usize, usize),
}

/// Training and test rows; maps of the latent points are those of `seed`.
pub fn views(train: usize, test: usize, widths: (usize, usize), noise: f64, seed: u64) -> [Views; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |n: usize| -> Vec<f64> { (0..n).map(|_| rng.sample(StandardNormal)).collect() };
    const LATENT: usize = 8;
    let (a, b) = (normal(LATENT * widths.0), normal(LATENT * widths.1));
    [train, test].map(|n| {
        let z = normal(n * LATENT);
        let mut view = |map: &[f64], d: usize| -> Vec<f64> {
            let noise: Vec<f64> = normal(n * d).iter().map(|v| noise * v).collect();
            let of =
                |i: usize, j: usize| (0..LATENT).map(|k| z[i * LATENT + k] * map[k * d + j]).sum::<f64>();
            // Rounded as float32 files are.
            (0..n * d).map(|e| f64::from((of(e / d, e % d) + noise[e]) as f32)).collect()
        };
        Views { n, x: view(&a, widths.0), y: view(&b, widths.1), widths }
    })
}

impl Views {
    /// Every value changed: `change(side, row, column, value)`.
    pub fn changed(&self, change: impl Fn(usize, usize, usize, f64) -> f64) -> Self {
        let of = |side: usize, values: &[f64], d: usize| {
            values.iter().enumerate().map(|(e, v)| change(side, e / d, e % d, *v)).collect()
        };
        Self { x: of(0, &self.x, self.widths.0), y: of(1, &self.y, self.widths.1), ..self.clone() }
    }

    pub fn scaled(&self, by: f64) -> Self {
        self.changed(|_, _, _, v| v * by)
    }

    pub fn sources(&self, wide: bool) -> (HostMatrix, HostMatrix) {
        let of = |name: &str, values: &[f64], d: usize| match wide {
            true => HostMatrix::from_f64(name, self.n, d, values.to_vec()).unwrap(),
            false => {
                HostMatrix::from_f32(name, self.n, d, values.iter().map(|v| *v as f32).collect()).unwrap()
            }
        };
        (of("x", &self.x, self.widths.0), of("y", &self.y, self.widths.1))
    }

    pub fn write(&self, lab: &Lab, name: &str) {
        let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        lab.npy(&format!("x{name}.npy"), &[self.n, self.widths.0], &narrow(&self.x));
        lab.npy(&format!("y{name}.npy"), &[self.n, self.widths.1], &narrow(&self.y));
    }
}

/// A way to fit.
#[derive(Clone, Debug)]
pub enum Way {
    Fit(Box<FitOptions>),
    Best(Box<BestOptions>),
}

pub fn way(name: &str, loss: Loss, rank: usize, n: usize) -> Way {
    let plain = FitOptions { loss: loss.clone(), n_iters: 1, ..FitOptions::new(rank) };
    let kernel = |kind, landmarks| Some(KernelOptions::new(Kernel::new(kind), landmarks));
    let some = Landmarks::Count(40.min(n));
    let best = BestOptions { loss, ..BestOptions::new(Dim::Fixed(rank)) };
    let fit = |o: FitOptions| Way::Fit(Box::new(o));
    match name {
        "global" => fit(plain),
        "whiten" => fit(FitOptions { whiten: Some(0.01), ..plain }),
        "two" => fit(FitOptions { n_iters: 2, scale_inputs: true, ..plain }),
        "paper" => fit(FitOptions {
            n_iters: 2,
            init: Init::Random,
            center: Center::Off,
            batches: Some(Batches { drop_trailing: true, ..Batches::new(30.min(n)) }),
            ..plain
        }),
        "damping" => fit(FitOptions { damping: Some(DampingOptions::default()), n_iters: 3, ..plain }),
        "refine" => fit(FitOptions {
            refine: Some(RefineOptions { max_steps: 4, ..Default::default() }),
            whiten: Some(0.1),
            ..plain
        }),
        "cosine" => fit(FitOptions { kernel: kernel(KernelKind::Cosine, some), whiten: Some(0.01), ..plain }),
        "angular" => {
            fit(FitOptions { kernel: kernel(KernelKind::Angular, some), whiten: Some(0.01), ..plain })
        }
        "arccos" => fit(FitOptions { kernel: kernel(KernelKind::Arccos, Landmarks::Exact), ..plain }),
        "exp" => fit(FitOptions { kernel: kernel(KernelKind::ExpCosine, some), whiten: Some(0.01), ..plain }),
        "linear" => fit(FitOptions { kernel: kernel(KernelKind::Linear, some), whiten: Some(0.01), ..plain }),
        "rbf" => Way::Best(Box::new(BestOptions {
            kernel: kernel(KernelKind::Rbf, some),
            widths: WIDTHS.to_vec(),
            refine: RefineOptions { max_steps: 2, ..Default::default() },
            ..best
        })),
        "matern" => Way::Best(Box::new(BestOptions {
            kernel: kernel(KernelKind::Matern, some),
            widths: vec![2.0],
            refine: RefineOptions { max_steps: 2, ..Default::default() },
            ..best
        })),
        "best" => {
            let refine = RefineOptions { max_steps: 4, ..Default::default() };
            Way::Best(Box::new(BestOptions { refine, ..best }))
        }
        other => panic!("{other}"),
    }
}

pub const WAYS: [&str; 14] = [
    "global", "whiten", "two", "paper", "damping", "refine", "cosine", "angular", "arccos", "exp", "linear",
    "rbf", "matern", "best",
];
pub const LOSSES: [LossKind; 4] =
    [LossKind::Clip, LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth];

pub fn loss(kind: LossKind) -> Loss {
    Loss::new(kind, if kind == LossKind::Clip { 0.07 } else { 0.3 })
}

/// Fits; what is not finite must have been an error.
pub fn fitted<B: Backend>(
    backend: &B,
    train: &(HostMatrix, HostMatrix),
    way: &Way,
) -> Result<(Model, FitInfo), Error> {
    let positives = Positives::diagonal(train.0.rows());
    let data = Data { x: &train.0, y: &train.1, positives: &positives };
    let (model, info) = match way {
        Way::Fit(o) => fit(backend, data, None, o)?,
        Way::Best(o) => fit_best(backend, data, None, o)?,
    };
    for loss in info.loss.iter().chain(&info.final_loss) {
        assert!(loss.is_finite(), "loss {loss}");
    }
    for c in &model.components {
        assert!(c.x.matrix.norm_max().is_finite() && c.y.matrix.norm_max().is_finite());
    }
    Ok((model, info))
}

/// Embeddings, every row of which is unit or exactly zero; and how many are zero.
pub fn embedded<T: Real>(
    backend: &Cpu<T>,
    model: &Model,
    side: Side,
    x: &dyn RowSource,
) -> (Mat<f64>, usize) {
    let z = model.encode(backend, side, x).unwrap();
    let (n, r) = backend.shape(&z);
    let (mut out, mut zeros) = (Mat::zeros(n, r), 0);
    backend
        .store(&z, &mut |first, rows| {
            for (i, row) in rows.chunks_exact(r).enumerate() {
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                let parts = model.components.len() as f64;
                let unit =
                    (length - 1.0).abs() < 1e-5 || (parts > 1.0 && length <= 1.0 + 1e-5 && length > 0.0);
                assert!(unit || length == 0.0, "row {} has length {length}", first + i);
                zeros += usize::from(length == 0.0);
                row.iter().enumerate().for_each(|(j, v)| out[(first + i, j)] = *v);
            }
            Ok(())
        })
        .unwrap();
    (out, zeros)
}

/// Mean R@1 of both directions; embeddings are unit or zero.
pub fn recall<T: Real>(backend: &Cpu<T>, model: &Model, test: &(HostMatrix, HostMatrix)) -> f64 {
    embedded(backend, model, Side::X, &test.0);
    embedded(backend, model, Side::Y, &test.1);
    let (zx, zy) =
        (model.encode(backend, Side::X, &test.0).unwrap(), model.encode(backend, Side::Y, &test.1).unwrap());
    let positives = Positives::diagonal(test.0.rows());
    let recall = recall_at_k(backend, &zx, &zy, &positives, &[1], Ties::LowerIndex).unwrap();
    0.5 * (recall.x_to_y[0] + recall.y_to_x[0])
}

/// What a way reaches on test rows.
pub fn reached<T: Real>(backend: &Cpu<T>, [train, test]: [&Views; 2], wide: bool, way: &Way) -> f64 {
    let (model, _) = fitted(backend, &train.sources(wide), way).unwrap_or_else(|e| panic!("{way:?}: {e}"));
    recall(backend, &model, &test.sources(wide))
}
