//! The gradient of the loss in both encoders, through normalisation and whitening, against central differences.

use super::{Sample, many, oracle, pairs};
use crate::backend::Backend;
use crate::fit::info::Seconds;
use crate::fit::linear::Encoders;
use crate::fit::objective::Alignment;
use crate::loss::{Loss, LossKind};
use crate::optim::Objective;
use crate::similarity::NegativeSampling;
use faer::Mat;
use rand::{Rng, SeedableRng};

/// Central differences with step h err by h^2 f'''/6 and eps |f|/h: at h = 1e-5, |f| about 1 and curvature up to
/// 1/tau^2 this stays below 1e-6 of the gradient's norm for tau >= 0.07.
const TOLERANCE: f64 = 1e-6;

fn check(data: &Sample, loss: &Loss, mapped: bool, negatives: NegativeSampling) {
    let backend = oracle();
    let (x, y) = (backend.load(&data.x).unwrap(), backend.load(&data.y).unwrap());
    let (d1, d2, r) = (backend.shape(&x).1, backend.shape(&y).1, 4);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut random = |m: usize, n: usize| Mat::from_fn(m, n, |_, _| rng.random_range(-1.0..1.0));
    let maps = (random(d1 - 1, d1), random(d2, d2));
    let (p1, p2) = if mapped { (d1 - 1, d2) } else { (d1, d2) };
    let start = Encoders { f1: random(r, p1), f2: random(r, p2) };
    let mut f = Alignment {
        backend: &backend,
        x: &x,
        y: &y,
        positives: &data.positives,
        loss: loss.clone(),
        negatives,
        maps: mapped.then_some((&maps.0, &maps.1)),
        dim: r,
        seconds: Seconds::default(),
    };
    let v = f.variables(&start);
    let mut gradient = vec![0.0; v.len()];
    f.evaluate(&v, &mut gradient).unwrap();
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!(norm > 0.0);
    let mut unused = vec![0.0; v.len()];
    for at in (0..v.len()).step_by(3) {
        let mut moved = |h: f64| {
            let mut v = v.clone();
            v[at] += h;
            f.evaluate(&v, &mut unused).unwrap()
        };
        let h = 1e-5;
        let slope = (moved(h) - moved(-h)) / (2.0 * h);
        assert!((slope - gradient[at]).abs() < TOLERANCE * norm, "{loss:?} {at}: {slope} {}", gradient[at]);
    }
}

#[test]
fn every_member_one_to_one_and_many_to_many() {
    let (one, two) = (pairs(37, 7, 5, 4, 0.4, 1), many(23, 6, 5, 4, 0.4, 2));
    for loss in [
        Loss::clip(0.07),
        Loss::clip(0.5).with_nu(1.5),
        Loss { eps_pos: 0.0, ..Loss::clip(0.2) },
        Loss::new(LossKind::Sigmoid, 0.3),
        Loss { margin: 0.37, ..Loss::new(LossKind::TripletHard, 1.0) },
        Loss::new(LossKind::TripletSmooth, 0.2),
    ] {
        for data in [&one, &two] {
            check(data, &loss, false, NegativeSampling::All);
            check(data, &loss, true, NegativeSampling::All);
        }
    }
}

#[test]
fn sampled_negatives_have_the_gradient_of_their_own_loss() {
    let negatives = NegativeSampling::Sampled { per_anchor: 12, seed: 4 };
    for data in [pairs(61, 6, 5, 4, 0.4, 3), many(41, 6, 5, 4, 0.4, 3)] {
        check(&data, &Loss::clip(0.1), true, negatives);
        check(&data, &Loss::new(LossKind::Sigmoid, 0.3), false, negatives);
    }
}
