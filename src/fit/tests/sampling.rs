//! The error that sampled negatives leave, against its estimate at run time.

use super::{many, oracle, pairs};
use crate::backend::{Backend, Similarity};
use crate::fit::{Data, FitOptions, fit, sampled_cross};
use crate::loss::{Loss, LossKind};
use crate::similarity::NegativeSampling;

/// 20 samples of two data sets and three temperatures: the estimate is within a factor of 2 of the error in at least 18.
#[test]
fn the_jackknife_estimates_the_error_of_c() {
    let backend = oracle();
    for (name, s) in [("pairs", pairs(600, 12, 10, 6, 0.4, 7)), ("many", many(300, 12, 10, 6, 0.4, 8))] {
        let data = Data { x: &s.x, y: &s.y, positives: &s.positives };
        let start = FitOptions { n_iters: 1, whiten: Some(0.1), ..FitOptions::new(6) };
        let model = fit(&backend, data, None, &start).unwrap().0;
        let (x, y) = (backend.load(&s.x).unwrap(), backend.load(&s.y).unwrap());
        let c = &model.components[0];
        let (zx, zy) = (backend.encode(&x, c.x.matrix.as_ref()), backend.encode(&y, c.y.matrix.as_ref()));
        let (zx, zy) = (zx.unwrap().0, zy.unwrap().0);
        for loss in [Loss::clip(0.07), Loss::clip(0.2), Loss::clip(0.5), Loss::new(LossKind::Sigmoid, 0.3)] {
            let cross = |negatives| {
                let similarity = Similarity::Embeddings(&zx, &zy);
                sampled_cross(&backend, similarity, (&x, &y), &loss, &s.positives, negatives).unwrap()
            };
            let exact = cross(NegativeSampling::All);
            assert_eq!(exact.error, None);
            let within = (0..20).filter(|&seed| {
                let sampled = cross(NegativeSampling::Sampled { per_anchor: 100, seed });
                let error = (&sampled.cross - &exact.cross).norm_l2() / exact.cross.norm_l2();
                let ratio = sampled.error.unwrap() / error;
                (0.5..=2.0).contains(&ratio)
            });
            let within = within.count();
            assert!(within >= 18, "{name} {loss:?}: {within} of 20");
        }
    }
}

#[test]
fn an_update_reports_its_error_and_a_growing_sample_ends_in_all() {
    let s = pairs(400, 10, 9, 5, 0.4, 9);
    let data = Data { x: &s.x, y: &s.y, positives: &s.positives };
    let negatives = NegativeSampling::Sampled { per_anchor: 32, seed: 1 };
    let o = FitOptions { negatives, growth: 4.0, n_iters: 4, whiten: Some(0.1), ..FitOptions::new(5) };
    let (model, info) = fit(&oracle(), data, None, &o).unwrap();
    // The first update is from zeros, where nothing is sampled.
    assert_eq!(info.sampling_error.len(), 3);
    assert!(info.sampling_error[1] < info.sampling_error[0], "{:?}", info.sampling_error);
    // Equal seeds give equal fits, bit for bit.
    let again = fit(&oracle(), data, None, &o).unwrap().0;
    assert_eq!(again.components[0].x.matrix, model.components[0].x.matrix);
    let exact = FitOptions { exact_last: true, ..o };
    assert_eq!(fit(&oracle(), data, None, &exact).unwrap().1.sampling_error.len(), 2);
}
