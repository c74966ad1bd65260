//! `S(gamma)` in every form, with the errors that its number formats explain.

use super::*;

/// All results of the operator on one backend.
struct Results {
    loss: f64,
    c: Mat<f64>,
    wide: Mat<f64>,
    sv: Mat<f64>,
    stu: Mat<f64>,
    gx: Mat<f64>,
    gy: Mat<f64>,
}

struct Case<'a> {
    loss: Loss,
    positives: &'a Positives,
    r: usize,
    negatives: NegativeSampling,
}

fn run<B: Backend>(backend: &B, case: &Case<'_>) -> Results {
    let (n_x, n_y) = (case.positives.n_x(), case.positives.n_y());
    let (zx, zy) = (embeddings(backend, n_x, case.r, 1), embeddings(backend, n_y, case.r, 2));
    let s = Similarity::Embeddings(&zx, &zy);
    let w = backend.weights(s, &case.loss, case.positives, case.negatives).unwrap();
    // Related to the embeddings, as features are.
    let x = load(backend, &random(n_x, 24, 3));
    let y = load(backend, &random(n_y, 17, 4));
    // Wider than the portable fused kernel serves, not than that for compute capability 9.0.
    let wide = load(backend, &random(n_y, 140, 5));
    let (gx, gy) = backend.gradients(&zx, &zy, &w).unwrap();
    Results {
        loss: w.value(),
        c: backend.cross(s, &w, &x, &y).unwrap(),
        wide: backend.cross(s, &w, &load(backend, &random(n_x, 150, 6)), &wide).unwrap(),
        sv: host(backend, &backend.apply(s, &w, &y).unwrap()),
        stu: host(backend, &backend.apply_transpose(s, &w, &x).unwrap()),
        gx: host(backend, &gx),
        gy: host(backend, &gy),
    }
}

/// Relative errors: of the loss, and the largest of all products.
fn compare(gpu: &Cuda, case: &Case<'_>) -> (f64, f64) {
    let (got, want) = (run(gpu, case), run(&Cpu::<f64>::new(1).unwrap(), case));
    let pairs = [
        (&got.c, &want.c),
        (&got.wide, &want.wide),
        (&got.sv, &want.sv),
        (&got.stu, &want.stu),
        (&got.gx, &want.gx),
        (&got.gy, &want.gy),
    ];
    let errors = pairs.map(|(a, b)| {
        assert!(!a.has_nan(), "NaN");
        error(a.as_ref(), b.as_ref())
    });
    let worst = errors.iter().copied().fold(0.0, f64::max);
    if std::env::var_os("UNICON_SHOW").is_some() {
        eprintln!("{:?} {:?} {errors:?}", gpu.mode(), case.loss.kind);
    }
    ((got.loss - want.loss).abs() / want.loss.abs().max(1e-3), worst)
}

fn check(gpu: &Cuda, case: &Case<'_>, loss_limit: f64, limit: f64) {
    let (loss, products) = compare(gpu, case);
    let what = format!(
        "{gpu:?} {:?} tau {} {}x{} {:?}",
        case.loss.kind,
        case.loss.tau,
        case.positives.n_x(),
        case.positives.n_y(),
        case.negatives
    );
    assert!(loss <= loss_limit, "loss of {what}: {loss:e} above {loss_limit:e}");
    assert!(products <= limit, "products of {what}: {products:e} above {limit:e}");
}

#[test]
fn the_operator_has_the_errors_it_may_have() {
    if !on_a_device("cuda_backend::operator::the_operator_has_the_errors_it_may_have") {
        return;
    }
    // The project's limits at tau = 0.07, on what a fit does: paired features and the encoders of one spectral update.
    let n = 500;
    let latent = random(n, 12, 1);
    let noisy =
        |d: usize, seed: u64| &latent * random(12, d, seed) + random(n, d, seed + 1) * faer::Scale(0.5);
    let (x, y) = (noisy(40, 2), noisy(33, 4));
    let (x, y) = [x, y].map(|m| Mat::from_fn(n, m.ncols(), |i, j| f64::from(m[(i, j)] as f32))).into();
    let (positives, loss) = (Positives::diagonal(n), Loss::clip(0.07));
    fn update<B: Backend>(
        b: &B,
        x: &Mat<f64>,
        y: &Mat<f64>,
        p: &Positives,
        loss: &Loss,
    ) -> (f64, Mat<f64>, Mat<f64>) {
        let (x, y, zeros) = (load(b, x), load(b, y), Similarity::Zeros(p.n_x(), p.n_y()));
        let w = b.weights(zeros, loss, p, NegativeSampling::All).unwrap();
        let c = b.cross(zeros, &w, &x, &y).unwrap();
        let top = b.top_r(c.as_ref(), 10, SvdMethod::Full).unwrap();
        let (zx, zy) =
            (b.encode(&x, top.u.transpose()).unwrap().0, b.encode(&y, top.v.transpose()).unwrap().0);
        let s = Similarity::Embeddings(&zx, &zy);
        let w = b.weights(s, loss, p, NegativeSampling::All).unwrap();
        (w.value(), c, b.cross(s, &w, &x, &y).unwrap())
    }
    let want = update(&Cpu::<f64>::new(1).unwrap(), &x, &y, &positives, &loss);
    let limits = [(Mode::Fp16, 1e-4), (Mode::Fp32, 2e-6), (Mode::Bf16, 1e-3)];
    for (gpu, limit) in
        limits.into_iter().flat_map(|(m, l)| with_each_set(m).into_iter().map(move |g| (g, l)))
    {
        let got = update(&gpu, &x, &y, &positives, &loss);
        near("first C", &got.1, &want.1, 2e-6);
        near("C", &got.2, &want.2, limit);
        assert!((got.0 - want.0).abs() <= limit * want.0.abs(), "{gpu:?}: {} {}", got.0, want.0);
        if std::env::var_os("UNICON_SHOW").is_some() {
            eprintln!("{gpu:?} C {:e}", error(got.2.as_ref(), want.2.as_ref()));
        }
    }
    // Features that have nothing to do with the embeddings, so that rounding does not average out.
    let positives = Positives::diagonal(400);
    let case = Case { loss, positives: &positives, r: 33, negatives: NegativeSampling::All };
    for (mode, loss, products) in
        [(Mode::Fp16, 1e-4, 3e-4), (Mode::Fp32, 1e-6, 2e-6), (Mode::Bf16, 1e-3, 2.5e-3)]
    {
        with_each_set(mode).iter().for_each(|gpu| check(gpu, &case, loss, products));
    }
}

#[test]
fn every_loss_relation_and_temperature() {
    if !on_a_device("cuda_backend::operator::every_loss_relation_and_temperature") {
        return;
    }
    let relations = [
        Positives::diagonal(150),
        ragged(140, 270, 3),
        Positives::from_groups(
            &(0..200).map(|i| i % 40).collect::<Vec<_>>(),
            &(0..90).map(|i| i % 43).collect::<Vec<_>>(),
        )
        .unwrap(),
    ];
    for (mode, gpu) in MODES.into_iter().flat_map(|m| with_each_set(m).into_iter().map(move |gpu| (m, gpu))) {
        // Sets of kernels differ in the clip loss only.
        let kinds = if gpu.kernels() == KernelSet::Hopper { 1 } else { KINDS.len() };
        // What one rounding of an embedding does to a similarity.
        let rounding = match mode {
            Mode::Fp16 => 5e-5,
            Mode::Bf16 => 4e-4,
            Mode::Fp32 => 5e-7,
        };
        for (k, kind) in KINDS.into_iter().enumerate().take(kinds) {
            for (t, tau) in [1.0, 0.2, 0.05, 0.01].into_iter().enumerate() {
                let positives = &relations[(k + t) % 3];
                let eps_by = if t % 2 == 1 { EpsBy::Diagonal } else { EpsBy::Positives };
                let loss = Loss { eps_by, eps_pos: 0.7, eps_neg: 1.3, ..Loss::new(kind, tau).with_nu(1.5) };
                let case = Case { loss, positives, r: 9 + 17 * t, negatives: NegativeSampling::All };
                // A hinge counts: an entry within rounding of its kink may fall on either side.
                let kink = if kind == LossKind::TripletHard { 6e-3 } else { 0.0 };
                let storage = if mode == Mode::Fp32 { 0.0 } else { 4e-4 };
                let storage = if mode == Mode::Bf16 { 8.0 * storage } else { storage };
                let limit = 4.0 * rounding / tau + storage + kink + 2e-6;
                check(&gpu, &case, 2.0 * rounding / tau + 1e-6, limit);
            }
        }
    }
}

#[test]
fn sampled_negatives_are_the_same_sample() {
    if !on_a_device("cuda_backend::operator::sampled_negatives_are_the_same_sample") {
        return;
    }
    let gpu = open(Mode::Fp32);
    for kind in KINDS {
        for positives in [Positives::diagonal(230), ragged(150, 260, 8)] {
            let loss = Loss::new(kind, 0.3).with_nu(1.2);
            let negatives = NegativeSampling::Sampled { per_anchor: 40, seed: 3 };
            let limit = if kind == LossKind::TripletHard { 3e-3 } else { 1e-5 };
            check(&gpu, &Case { loss, positives: &positives, r: 6, negatives }, 1e-6, limit);
        }
    }
}
