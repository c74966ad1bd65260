//! Batches that arrive one by one: a linear fit that never holds more than one of them.

use super::features::{FeatureMap, Mapped, whitening};
use super::info::FitInfo;
use super::linear::{Encoders, Problem, Rows, Side, Start, add, leading_triplets, refactor};
use super::options::{FitOptions, Init};
use super::{Data, Sides, Wanted, prepare};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::{Component, Encoder, Model};
use crate::positives::Positives;
use faer::Mat;

/// What is kept of the batches of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulate {
    /// The Gram matrices of both sides and `C`, each summed over the batches (a batch counts by its rows): one solution
    /// of all of them, also with whitening.
    #[default]
    Moments,
    /// A solution per batch, averaged as `F1^T F2` with weights max(validation accuracy, 0): the paper's batched mode.
    Solutions,
}

/// A linear fit as a stream: [`add`](Self::add) batches, [`finish`](Self::finish) a pass. Every batch is one update from
/// the encoders that the pass began with; its similarities, `S` and `C` are its own. The next pass begins from what
/// `finish` gives: one `finish` per pass over the data is the paper's iteration (arXiv 2604.16678, Algorithm 1).
pub struct PartialFit<B: Backend> {
    backend: B,
    options: FitOptions,
    dims: (usize, usize),
    /// What brings features into range: the validation rows, or else the first batch, decide.
    sides: Option<Sides>,
    start: Option<Start<B::Matrix>>,
    validation: Option<(B::Matrix, B::Matrix, Positives)>,
    so_far: SoFar,
    batches: usize,
}

/// The same, so far.
enum SoFar {
    /// `X^T X` and `Y^T Y` (with whitening), `sum_b n_b C_b`, and the numbers of rows.
    Moments { grams: (Mat<f64>, Mat<f64>), cross: Mat<f64>, rows: (usize, usize) },
    /// `sum_b w_b F1_b^T F2_b` with `sum_b w_b`, and the sum with weights 1.
    Solutions { weighed: Option<Mat<f64>>, weight: f64, plain: Option<Mat<f64>> },
}

impl SoFar {
    fn nothing(accumulate: Accumulate, (d1, d2): (usize, usize)) -> Self {
        match accumulate {
            Accumulate::Moments => Self::Moments {
                grams: (Mat::zeros(d1, d1), Mat::zeros(d2, d2)),
                cross: Mat::zeros(d1, d2),
                rows: (0, 0),
            },
            Accumulate::Solutions => Self::Solutions { weighed: None, weight: 0.0, plain: None },
        }
    }

    fn accumulate(&self) -> Accumulate {
        match self {
            Self::Moments { .. } => Accumulate::Moments,
            Self::Solutions { .. } => Accumulate::Solutions,
        }
    }
}

impl<B: Backend> PartialFit<B> {
    /// A stream of batches of `dims` = (d1, d2) features. `n_iters`, `tol` and `final_loss` have no effect.
    ///
    /// # Errors
    /// As [`fit`](super::fit()); [`Error::Unsupported`] for what needs all the data, for validation rows with moments
    /// (they weigh solutions) and for whitening with solutions.
    pub fn new(
        backend: B,
        dims: (usize, usize),
        accumulate: Accumulate,
        validation: Option<Data<'_>>,
        options: FitOptions,
    ) -> Result<Self> {
        options.validate()?;
        backend.check_loss(&options.loss)?;
        let refused = [
            ("a kernel", options.kernel.is_some()),
            ("a batch size", options.batches.is_some()),
            ("a given similarity", matches!(options.init, Init::Similarity(_) | Init::Gaussian)),
            ("damping", options.damping.is_some()),
            ("refinement", options.refine.is_some()),
            ("a checkpoint", options.checkpoint.is_some()),
            ("compression", options.compress.is_some()),
            ("a time budget", options.budget.is_some()),
            (
                "whitening and a solution per batch",
                options.whiten.is_some() && accumulate == Accumulate::Solutions,
            ),
            ("validation rows and sums", validation.is_some() && accumulate == Accumulate::Moments),
        ];
        if let Some((what, _)) = refused.iter().find(|(_, asked)| *asked) {
            return Err(Error::Unsupported(format!("{what} with batches that arrive one by one")));
        }
        let bound = dims.0.min(dims.1);
        if options.dim > bound {
            return Err(Error::invalid("rank", format!("at most min(d1, d2) = {bound}"), options.dim));
        }
        if let Some((f1, f2)) = options.init.encoders() {
            for (name, f, d) in [("init F1", f1, dims.0), ("init F2", f2, dims.1)] {
                if f.ncols() != d {
                    return Err(Error::invalid(name, format!("an encoder of {d} features"), f.ncols()));
                }
            }
        }
        let mut sides = None;
        let validation = match validation {
            Some(v) => {
                v.check("validation ")?;
                check_features("validation ", &v, dims)?;
                let in_range = sides.insert(decide(&backend, v, &options)?).of(v);
                let rows = in_range.data();
                Some((backend.load(rows.x)?, backend.load(rows.y)?, v.positives.clone()))
            }
            None => None,
        };
        let so_far = SoFar::nothing(accumulate, dims);
        Ok(Self { backend, options, dims, sides, start: None, validation, so_far, batches: 0 })
    }

    /// Batches added in this pass.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Adds one batch with its own relation, and returns its loss before the update. Without validation rows the first one
    /// decides, by [`FitOptions::center`], whether its mean is taken out of all batches, and which power of two scales them.
    ///
    /// # Errors
    /// As [`fit`](super::fit()). The stream is unchanged by a batch that fails.
    pub fn add(&mut self, batch: Data<'_>) -> Result<f64> {
        batch.check("")?;
        check_features("", &batch, self.dims)?;
        let sides = match &self.sides {
            Some(sides) => sides.of_batch((&self.backend.survey(batch.x)?, &self.backend.survey(batch.y)?)),
            None => decide(&self.backend, batch, &self.options)?,
        };
        let in_range = sides.of(batch);
        let batch = in_range.data();
        let raw = |m| Mapped { cross: m, embed: None, basis: None, map: FeatureMap::default() };
        let (x, y) = (raw(self.backend.load(batch.x)?), raw(self.backend.load(batch.y)?));
        let problem = Problem {
            backend: &self.backend,
            x: &x,
            y: &y,
            positives: batch.positives,
            validation: self.validation.as_ref().map(|(x, y, p)| (x, y, p)),
            options: &self.options,
            negatives: self.options.negatives,
        };
        let start = match self.start.take() {
            Some(start) => start,
            None => problem.start()?,
        };
        let side = |m| Side { cross: m, embed: m };
        let rows = Rows { x: side(&x.cross), y: side(&y.cross), positives: batch.positives };
        let added = add_batch(&problem, &rows, &start, &mut self.so_far);
        self.start = Some(start);
        let loss = added?;
        self.batches += 1;
        self.sides.get_or_insert(sides);
        Ok(loss)
    }

    /// The model of the batches of this pass so far; more may follow.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when nothing was added since the last pass; those of the decompositions.
    pub fn model(&self) -> Result<Model> {
        Ok(self.model_of(self.solve()?))
    }

    /// The model of encoders of features in range.
    fn model_of(&self, Encoders { f1, f2 }: Encoders) -> Model {
        let component = Component { weight: 1.0, x: Encoder::linear(f1), y: Encoder::linear(f2) };
        let component = match &self.sides {
            Some(sides) => sides.finish(component, None),
            None => component,
        };
        Model::new(vec![component], &self.options)
    }

    /// Ends a pass: its model, from which the next pass begins.
    ///
    /// # Errors
    /// As [`model`](Self::model).
    pub fn finish(&mut self) -> Result<Model> {
        let encoders = self.solve()?;
        let model = self.model_of(encoders.clone());
        self.start = Some(Start::Encoders(encoders));
        self.so_far = SoFar::nothing(self.so_far.accumulate(), self.dims);
        self.batches = 0;
        Ok(model)
    }

    /// Encoders of features in range.
    fn solve(&self) -> Result<Encoders> {
        if self.batches == 0 {
            return Err(Error::invalid("batches", "at least one since the last pass", 0));
        }
        let (backend, o, info) = (&self.backend, &self.options, &mut FitInfo::default());
        match &self.so_far {
            SoFar::Moments { grams, cross, rows } => {
                let c = cross * faer::Scale(1.0 / rows.0 as f64);
                let maps = match o.whiten {
                    Some(lambda) => {
                        let of = |g: &Mat<f64>, n| whitening(g, n, g.nrows(), lambda);
                        Some((of(&grams.0, rows.0)?, of(&grams.1, rows.1)?))
                    }
                    None => None,
                };
                let c = maps.as_ref().map_or_else(|| c.clone(), |(wx, wy)| wx * &c * wy);
                let mut e =
                    Encoders::split(&leading_triplets(backend, c.as_ref(), o.dim, o.svd)?, o.factorization);
                if o.ridge > 0.0 {
                    e = refactor(backend, e.f1.transpose() * &e.f2, o, info)?.0;
                }
                Ok(match maps {
                    Some((wx, wy)) => Encoders { f1: e.f1 * wx, f2: e.f2 * wy },
                    None => e,
                })
            }
            SoFar::Solutions { weighed, weight, plain } => {
                // Where all weights are 0 the batches are averaged equally.
                let (sum, total) =
                    if *weight > 0.0 { (weighed, *weight) } else { (plain, self.batches as f64) };
                let Some(sum) = sum else {
                    return Err(Error::invalid("batches", "at least one since the last pass", 0));
                };
                Ok(refactor(backend, sum * faer::Scale(1.0 / total), o, info)?.0)
            }
        }
    }
}

/// Adds what a batch says to what is kept, all or nothing, and returns its loss.
fn add_batch<B: Backend>(
    problem: &Problem<'_, B>,
    rows: &Rows<'_, B::Matrix>,
    start: &Start<B::Matrix>,
    so_far: &mut SoFar,
) -> Result<f64> {
    let info = &mut FitInfo::default();
    match so_far {
        SoFar::Moments { grams, cross, rows: seen } => {
            let (c, loss) = problem.contrast(rows, start, info)?;
            let (n_x, n_y) = (problem.positives.n_x(), problem.positives.n_y());
            if problem.options.whiten.is_some() {
                let (gx, gy) = (problem.backend.gram(rows.x.cross)?, problem.backend.gram(rows.y.cross)?);
                grams.0 += gx;
                grams.1 += gy;
            }
            *cross += c * faer::Scale(n_x as f64);
            *seen = (seen.0 + n_x, seen.1 + n_y);
            Ok(loss)
        }
        SoFar::Solutions { weighed, weight, plain } => {
            let update = problem.update(rows, start, info)?;
            let w = problem.batch_weight(&update.encoders, info)?;
            let g = update.encoders.f1.transpose() * &update.encoders.f2;
            add(weighed, w, &g);
            add(plain, 1.0, &g);
            *weight += w;
            Ok(update.loss)
        }
    }
}

/// What brings the features of a stream into range, by some of them; they are finite.
fn decide<B: Backend>(backend: &B, data: Data<'_>, options: &FitOptions) -> Result<Sides> {
    let seen = (&backend.survey(data.x)?, &backend.survey(data.y)?);
    let wanted = Wanted::new(options.center, None, &options.init);
    prepare(backend, data, seen, &wanted, &mut FitInfo::default())
}

fn check_features(name: &str, data: &Data<'_>, dims: (usize, usize)) -> Result<()> {
    for (side, source, d) in [("x", data.x, dims.0), ("y", data.y, dims.1)] {
        if source.cols() != d {
            return Err(Error::invalid(format!("{name}{side}"), format!("{d} columns"), source.cols()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::fit::{Batches, fit};
    use crate::io::{HostMatrix, RowRange};
    use crate::loss::Loss;
    use rand::{Rng, SeedableRng};

    fn random(n: usize, d: usize, seed: u64) -> HostMatrix {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values = (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect();
        HostMatrix::from_f64("random", n, d, values).unwrap()
    }

    /// `F1^T F2` of a linear model.
    fn product(model: &Model) -> Mat<f64> {
        model.components[0].x.matrix.transpose() * &model.components[0].y.matrix
    }

    fn stream(kind: Accumulate, validation: Option<Data<'_>>, o: FitOptions) -> Result<PartialFit<Cpu<f64>>> {
        PartialFit::new(Cpu::new(1).unwrap(), (8, 6), kind, validation, o)
    }

    /// Adds the rows of `x` and `y` in batches of `size`.
    fn add_all(s: &mut PartialFit<Cpu<f64>>, x: &HostMatrix, y: &HostMatrix, size: usize) {
        use crate::io::RowSource;
        let positives = Positives::diagonal(size);
        for first in (0..x.rows()).step_by(size) {
            let rows = first..first + size;
            let (x, y) = (RowRange::new(x, rows.clone()).unwrap(), RowRange::new(y, rows).unwrap());
            assert!(s.add(Data { x: &x, y: &y, positives: &positives }).unwrap().is_finite());
        }
    }

    #[test]
    fn solutions_of_the_same_batches_are_the_batched_fit() {
        let (n, size) = (90, 30);
        let (x, y) = (random(n, 8, 1), random(n, 6, 2));
        let (vx, vy) = (random(20, 8, 3), random(20, 6, 4));
        let (all, held) = (Positives::diagonal(n), Positives::diagonal(20));
        let validation = Data { x: &vx, y: &vy, positives: &held };
        let cpu = Cpu::<f64>::new(1).unwrap();
        let options = FitOptions { loss: Loss::clip(0.3), n_iters: 2, ridge: 0.1, ..FitOptions::new(4) };
        let batches = Some(Batches::new(size));
        let data = Data { x: &x, y: &y, positives: &all };
        let whole = FitOptions { batches, ..options.clone() };
        for validation in [None, Some(validation)] {
            let expected = product(&fit(&cpu, data, validation, &whole).unwrap().0);
            let mut s = stream(Accumulate::Solutions, validation, options.clone()).unwrap();
            add_all(&mut s, &x, &y, size);
            s.finish().unwrap();
            add_all(&mut s, &x, &y, size);
            let difference = product(&s.finish().unwrap()) - &expected;
            // The same sums in the same order: rounding of the decompositions only.
            assert!(difference.norm_l2() < 1e-12 * expected.norm_l2());
            assert!(s.finish().is_err());
        }
    }

    #[test]
    fn moments_of_one_batch_are_the_global_fit() {
        let (x, y, all) = (random(90, 8, 1), random(90, 6, 2), Positives::diagonal(90));
        let data = Data { x: &x, y: &y, positives: &all };
        for (whiten, n_iters) in [(None, 1), (Some(0.1), 1), (None, 2)] {
            let o = FitOptions { whiten, n_iters, ridge: 0.05, rho: 2.0, ..FitOptions::new(4) };
            let expected = product(&fit(&Cpu::<f64>::new(1).unwrap(), data, None, &o).unwrap().0);
            let mut s = stream(Accumulate::Moments, None, o).unwrap();
            let mut last = None;
            for _ in 0..n_iters {
                s.add(data).unwrap();
                let so_far = product(&s.model().unwrap());
                assert_eq!(s.batches(), 1);
                last = Some(product(&s.finish().unwrap()));
                assert_eq!(last.as_ref(), Some(&so_far));
            }
            let difference = last.unwrap() - &expected;
            assert!(difference.norm_l2() < 1e-12 * expected.norm_l2(), "{whiten:?} {n_iters}");
        }
    }

    /// From zeros the moments know everything but the means between batches: shuffled batches come close to the whole.
    #[test]
    fn moments_of_many_batches_are_close_to_the_whole() {
        let z = random(600, 4, 3);
        let view = |d: usize, seed: u64| {
            let (a, noise) = (random(4, d, seed), random(600, d, seed + 1));
            let z = crate::fit::host(&z).unwrap() * crate::fit::host(&a).unwrap();
            let noise = crate::fit::host(&noise).unwrap();
            let values = (0..600 * d).map(|k| z[(k / d, k % d)] + 0.1 * noise[(k / d, k % d)]).collect();
            HostMatrix::from_f64("view", 600, d, values).unwrap()
        };
        let (x, y, all) = (view(8, 10), view(6, 20), Positives::diagonal(600));
        let o = FitOptions { whiten: Some(0.1), n_iters: 1, ..FitOptions::new(4) };
        let data = Data { x: &x, y: &y, positives: &all };
        let whole = product(&fit(&Cpu::<f64>::new(1).unwrap(), data, None, &o).unwrap().0);
        let mut s = stream(Accumulate::Moments, None, o).unwrap();
        add_all(&mut s, &x, &y, 50);
        let sums = product(&s.finish().unwrap());
        // C of 50 rows: a mean over fewer pairs of negatives, (1 - 1/50)/(1 - 1/600) of the whole in expectation.
        let cosine =
            (0..8).flat_map(|i| (0..6).map(move |j| (i, j))).map(|ij| whole[ij] * sums[ij]).sum::<f64>()
                / (whole.norm_l2() * sums.norm_l2());
        assert!(cosine > 0.999, "{cosine}");
    }

    #[test]
    fn a_bad_batch_leaves_the_stream_as_it_was() {
        let (x, y) = (random(10, 8, 1), random(10, 6, 2));
        let bad = HostMatrix::from_f64("bad", 10, 8, vec![f64::NAN; 80]).unwrap();
        let p = Positives::diagonal(10);
        let good = Data { x: &x, y: &y, positives: &p };
        for kind in [Accumulate::Moments, Accumulate::Solutions] {
            let mut s = stream(kind, None, FitOptions::new(2)).unwrap();
            s.add(good).unwrap();
            assert!(s.add(Data { x: &bad, ..good }).is_err());
            assert!(s.add(Data { x: &y, y: &x, positives: &p }).is_err());
            let one = product(&s.finish().unwrap());
            s = stream(kind, None, FitOptions::new(2)).unwrap();
            s.add(good).unwrap();
            assert_eq!(product(&s.finish().unwrap()), one);
        }
    }

    #[test]
    fn what_needs_all_the_data_is_refused() {
        let refused = |kind, o| stream(kind, None, o).is_err();
        assert!(refused(Accumulate::Solutions, FitOptions { whiten: Some(0.1), ..FitOptions::new(2) }));
        assert!(!refused(Accumulate::Moments, FitOptions { whiten: Some(0.1), ..FitOptions::new(2) }));
        assert!(refused(
            Accumulate::Moments,
            FitOptions { refine: Some(Default::default()), ..FitOptions::new(2) }
        ));
        assert!(refused(Accumulate::Moments, FitOptions::new(7)));
        assert!(!refused(Accumulate::Moments, FitOptions::new(6)));
    }
}
