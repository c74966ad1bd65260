//! Mini-batches that arrive one by one: the batched solver without the whole data set at hand.

use super::Data;
use super::features::{FeatureMap, Mapped};
use super::info::FitInfo;
use super::options::{FitOptions, Init};
use super::solve::{Problem, Side, Start, add};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::{Component, Encoder, Model};
use crate::positives::Positives;
use faer::Mat;

/// A batched linear fit as a stream: [`add`](Self::add) solves a batch from the encoders that the pass began with,
/// [`finish`](Self::finish) averages the solutions as `F1^T F2` (with weights max(validation accuracy, 0), where there
/// are validation rows) and factorises once more. The next pass begins from there: `finish` after every pass over the
/// data is the paper's iteration (arXiv 2604.16678, Algorithm 1).
pub struct PartialFit<B: Backend> {
    backend: B,
    options: FitOptions,
    dims: (usize, usize),
    validation: Option<(B::Matrix, B::Matrix, Positives)>,
    start: Option<Start<B::Matrix>>,
    /// `sum_b w_b F1_b^T F2_b`, and the same with weights 1.
    weighed: Option<Mat<f64>>,
    plain: Option<Mat<f64>>,
    weight: f64,
    batches: usize,
}

impl<B: Backend> PartialFit<B> {
    /// A stream of batches of `dims` = (d1, d2) features.
    ///
    /// # Errors
    /// As [`fit`](super::fit()); [`Error::Unsupported`] for kernels, whitening and a given similarity, which need all
    /// the data.
    pub fn new(
        backend: B,
        dims: (usize, usize),
        validation: Option<Data<'_>>,
        options: FitOptions,
    ) -> Result<Self> {
        options.validate()?;
        let whole = [
            ("a kernel", options.kernel.is_some()),
            ("whitening", options.whiten.is_some()),
            ("a batch size", options.batches.is_some()),
            ("a given similarity", matches!(options.init, Init::Similarity(_))),
        ];
        if let Some((what, _)) = whole.iter().find(|(_, asked)| *asked) {
            return Err(Error::Unsupported(format!("{what} with batches that arrive one by one")));
        }
        let bound = dims.0.min(dims.1);
        if options.rank > bound {
            return Err(Error::invalid("rank", format!("at most min(d1, d2) = {bound}"), options.rank));
        }
        let validation = match validation {
            Some(v) => {
                v.check("validation ")?;
                check_widths("validation ", &v, dims)?;
                backend.screen(v.x)?;
                backend.screen(v.y)?;
                Some((backend.load(v.x)?, backend.load(v.y)?, v.positives.clone()))
            }
            None => None,
        };
        let (weighed, plain) = (None, None);
        Ok(Self { backend, options, dims, validation, start: None, weighed, plain, weight: 0.0, batches: 0 })
    }

    /// Solves one batch, adds its solution to the average, and returns its loss before the update.
    ///
    /// # Errors
    /// As [`fit`](super::fit()). The stream is unchanged by a batch that fails.
    pub fn add(&mut self, batch: Data<'_>) -> Result<f64> {
        batch.check("")?;
        check_widths("", &batch, self.dims)?;
        self.backend.screen(batch.x)?;
        self.backend.screen(batch.y)?;
        let raw = |m| Mapped { cross: m, embed: None, map: FeatureMap::default() };
        let (x, y) = (raw(self.backend.load(batch.x)?), raw(self.backend.load(batch.y)?));
        let problem = Problem {
            backend: &self.backend,
            x: &x,
            y: &y,
            positives: batch.positives,
            validation: self.validation.as_ref().map(|(x, y, p)| (x, y, p)),
            options: &self.options,
        };
        let start = match self.start.take() {
            Some(start) => start,
            None => problem.start()?,
        };
        let (side_x, side_y) =
            (Side { cross: &x.cross, embed: &x.cross }, Side { cross: &y.cross, embed: &y.cross });
        let mut info = FitInfo::default();
        let solved = problem.update(side_x, side_y, batch.positives, &start, &mut info).and_then(|update| {
            let weight = problem.validate(&update.encoders, &mut info)?;
            Ok((update, weight))
        });
        self.start = Some(start);
        let (update, weight) = solved?;
        let g = update.encoders.f1.transpose() * &update.encoders.f2;
        add(&mut self.weighed, weight, &g);
        add(&mut self.plain, 1.0, &g);
        self.weight += weight;
        self.batches += 1;
        Ok(update.loss)
    }

    /// Ends a pass: the model of the average.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when nothing was added since the last pass; those of the decomposition.
    pub fn finish(&mut self) -> Result<Model> {
        // No batch did better than nothing on the validation rows: they count alike.
        let (sum, total) = match self.weight > 0.0 {
            true => (&self.weighed, self.weight),
            false => (&self.plain, self.batches as f64),
        };
        let Some(sum) = sum else {
            return Err(Error::invalid("batches", "at least one since the last pass", 0));
        };
        let average = sum * faer::Scale(1.0 / total);
        let o = &self.options;
        let encoders = super::solve::refactor(&self.backend, average, o, &mut FitInfo::default())?.0;
        let encoder = |f: &Mat<f64>| Encoder { map: None, matrix: f.clone() };
        let component = Component { weight: 1.0, x: encoder(&encoders.f1), y: encoder(&encoders.f2) };
        let model = Model::new(vec![component], o);
        self.start = Some(Start::Encoders(encoders));
        (self.weighed, self.plain, self.weight, self.batches) = (None, None, 0.0, 0);
        Ok(model)
    }
}

fn check_widths(name: &str, data: &Data<'_>, dims: (usize, usize)) -> Result<()> {
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

    #[test]
    fn a_stream_of_the_same_batches_is_the_batched_fit() {
        let (n, size) = (90, 30);
        let (x, y) = (random(n, 8, 1), random(n, 6, 2));
        let (vx, vy) = (random(20, 8, 3), random(20, 6, 4));
        let (all, held, part) = (Positives::diagonal(n), Positives::diagonal(20), Positives::diagonal(size));
        let validation = Data { x: &vx, y: &vy, positives: &held };
        let cpu = Cpu::<f64>::new(1).unwrap();
        let options = FitOptions { loss: Loss::clip(0.3), n_iters: 2, ridge: 0.1, ..FitOptions::new(4) };
        let batches = Some(Batches { size, count: None, drop_trailing: false });
        let data = Data { x: &x, y: &y, positives: &all };
        let whole = FitOptions { batches, ..options.clone() };
        for validation in [None, Some(validation)] {
            let expected = product(&fit(&cpu, data, validation, &whole).unwrap().0);
            let mut stream = PartialFit::new(cpu.clone(), (8, 6), validation, options.clone()).unwrap();
            let mut model = None;
            for _ in 0..2 {
                for b in 0..3 {
                    let rows = b * size..(b + 1) * size;
                    let (x, y) = (RowRange::new(&x, rows.clone()).unwrap(), RowRange::new(&y, rows).unwrap());
                    assert!(stream.add(Data { x: &x, y: &y, positives: &part }).unwrap().is_finite());
                }
                model = Some(stream.finish().unwrap());
            }
            let difference = product(&model.unwrap()) - &expected;
            // The same sums in the same order: rounding of the decompositions only.
            assert!(difference.norm_l2() < 1e-12 * expected.norm_l2());
            assert!(stream.finish().is_err());
        }
    }

    #[test]
    fn a_bad_batch_leaves_the_stream_as_it_was() {
        let (x, y) = (random(10, 4, 1), random(10, 3, 2));
        let bad = HostMatrix::from_f64("bad", 10, 4, vec![f64::NAN; 40]).unwrap();
        let p = Positives::diagonal(10);
        let good = Data { x: &x, y: &y, positives: &p };
        let mut stream =
            PartialFit::new(Cpu::<f64>::new(1).unwrap(), (4, 3), None, FitOptions::new(2)).unwrap();
        stream.add(good).unwrap();
        assert!(stream.add(Data { x: &bad, ..good }).is_err());
        assert!(stream.add(Data { x: &y, y: &x, positives: &p }).is_err());
        let one = product(&stream.finish().unwrap());
        stream = PartialFit::new(Cpu::<f64>::new(1).unwrap(), (4, 3), None, FitOptions::new(2)).unwrap();
        stream.add(good).unwrap();
        assert_eq!(product(&stream.finish().unwrap()), one);
    }

    #[test]
    fn what_needs_all_the_data_is_refused() {
        let refused = |o| PartialFit::new(Cpu::<f64>::new(1).unwrap(), (4, 3), None, o).is_err();
        assert!(refused(FitOptions { whiten: Some(0.1), ..FitOptions::new(2) }));
        assert!(refused(FitOptions::new(4)));
        assert!(!refused(FitOptions::new(3)));
    }
}
