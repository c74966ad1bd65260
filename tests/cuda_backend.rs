//! The CUDA backend against the CPU backend in float64: every operation, on the stand-in libraries (`cuda_standin/`), which
//! run the same kernels on the host. `UNICON_TEST_GPU=1` runs the same tests on a real device instead.
//!
//! Tolerances. A similarity of fp16 embeddings is off by up to 2^-11 sqrt(2/r) or so, of bf16 ones by 2^-8, in fp32 mode by
//! about 4e-7; a weight moves by that over tau. C is a sum over many weights, so its relative error is smaller; the
//! project's limits for it are 1e-4 (fp16, tau = 0.07) and 2e-6 (fp32 mode), at sizes where sums average (here: hundreds).

mod operator;

use crate::standin::on_a_device;
use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::backend::cuda::{Cuda, KernelSet, Mode, Options};
use unicon::backend::{Backend, Similarity, Ties};
use unicon::control::Control;
use unicon::io::HostMatrix;
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{EpsBy, Loss, LossKind};
use unicon::positives::Positives;
use unicon::similarity::{NegativeSampling, Weights};
use unicon::spectral::{self, SvdMethod};

const KINDS: [LossKind; 4] =
    [LossKind::Clip, LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth];
const MODES: [Mode; 3] = [Mode::Fp16, Mode::Bf16, Mode::Fp32];

fn open(mode: Mode) -> Cuda {
    Cuda::open(0, Options { mode, ..Options::default() }).unwrap()
}

/// The device with each set of kernels for the clip loss that it can take.
fn with_each_set(mode: Mode) -> Vec<Cuda> {
    let gpu = open(mode);
    let sets = [KernelSet::Portable, KernelSet::Hopper].into_iter().filter(|set| set.runs_on(gpu.device()));
    sets.map(|set| gpu.with_kernels(set).unwrap()).collect()
}

fn random(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    // Numbers of fp32: what is loaded is then the same on every backend.
    Mat::from_fn(rows, cols, |_, _| f64::from(rng.random_range(-1.0f32..1.0)))
}

fn source(m: &Mat<f64>) -> HostMatrix {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    HostMatrix::from_f64("m", m.nrows(), m.ncols(), values).unwrap()
}

fn load<B: Backend>(backend: &B, m: &Mat<f64>) -> B::Matrix {
    backend.load(&source(m)).unwrap()
}

fn host<B: Backend>(backend: &B, m: &B::Matrix) -> Mat<f64> {
    let (rows, cols) = backend.shape(m);
    let mut out = Mat::zeros(rows, cols);
    backend
        .store(m, &mut |first, panel| {
            panel.iter().enumerate().for_each(|(k, v)| out[(first + k / cols, k % cols)] = *v);
            Ok(())
        })
        .unwrap();
    out
}

/// Unit rows; some of them belong together, so that similarities reach their whole range.
fn embeddings<B: Backend>(backend: &B, n: usize, r: usize, seed: u64) -> B::Matrix {
    let (mut z, shared) = (random(n, r, seed), random(n, r, 77));
    for i in 0..n {
        for k in 0..r {
            z[(i, k)] += (i % 3) as f64 * 0.7 * shared[(i, k)];
        }
    }
    backend.encode(&load(backend, &z), Mat::<f64>::identity(r, r).as_ref()).unwrap().0
}

/// Ragged positives: some rows have none, one has many.
fn ragged(n_x: usize, n_y: usize, seed: u64) -> Positives {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut ptr, mut idx) = (vec![0i64], Vec::new());
    for i in 0..n_x {
        let count = if i == 1 { n_y / 5 + 1 } else { rng.random_range(0..3usize) };
        let mut row = rand::seq::index::sample(&mut rng, n_y, count.min(n_y)).into_vec();
        row.sort_unstable();
        idx.extend(row.into_iter().map(|j| j as i64));
        ptr.push(idx.len() as i64);
    }
    Positives::from_csr(&ptr, &idx, n_y).unwrap()
}

fn error(got: MatRef<'_, f64>, want: MatRef<'_, f64>) -> f64 {
    (got - want).norm_l2() / want.norm_l2().max(f64::MIN_POSITIVE)
}

fn near(what: &str, got: &Mat<f64>, want: &Mat<f64>, limit: f64) {
    let error = error(got.as_ref(), want.as_ref());
    assert!(error <= limit, "{what}: {error:e} above {limit:e}");
}

#[test]
fn features() {
    if !on_a_device("cuda_backend::features") {
        return;
    }
    let cpu = Cpu::<f64>::new(1).unwrap();
    for mode in MODES {
        let gpu = open(mode);
        assert!(gpu.describe().starts_with("cuda:0, "));
        let (x, w) = (random(301, 37, 1), random(19, 37, 2));
        let (a, b) = (load(&gpu, &x), load(&cpu, &x));
        assert_eq!(host(&gpu, &a), x);
        assert_eq!(gpu.shape(&a), (301, 37));
        assert_eq!(host(&gpu, &gpu.rows(&a, 7..300).unwrap()), host(&cpu, &cpu.rows(&b, 7..300).unwrap()));
        let ids = [300, 0, 5, 5, 17];
        assert_eq!(host(&gpu, &gpu.select(&a, &ids).unwrap()), host(&cpu, &cpu.select(&b, &ids).unwrap()));
        // Sums of 37 products in fp32.
        let both = |f: &dyn Fn() -> Mat<f64>, g: &dyn Fn() -> Mat<f64>, limit: f64, what: &str| {
            near(&format!("{what} in {mode:?}"), &f(), &g(), limit);
        };
        let linear = (gpu.linear(&a, w.as_ref()).unwrap(), cpu.linear(&b, w.as_ref()).unwrap());
        both(&|| host(&gpu, &linear.0), &|| host(&cpu, &linear.1), 3e-7, "linear");
        let scale: Vec<f64> = (0..301).map(|i| if i == 3 { 0.0 } else { 0.5 + i as f64 }).collect();
        let scaled = (gpu.scale_rows(&a, &scale).unwrap(), cpu.scale_rows(&b, &scale).unwrap());
        both(&|| host(&gpu, &scaled.0), &|| host(&cpu, &scaled.1), 2e-7, "scaled");
        both(&|| gpu.gram(&a).unwrap(), &|| cpu.gram(&b).unwrap(), 1e-6, "gram");
        let stacked = (
            gpu.hstack(&[(2.0, &a), (0.5, &linear.0), (1.0, &a)]).unwrap(),
            cpu.hstack(&[(2.0, &b), (0.5, &linear.1), (1.0, &b)]).unwrap(),
        );
        both(&|| host(&gpu, &stacked.0), &|| host(&cpu, &stacked.1), 3e-7, "stacked");
        let points = random(23, 37, 3);
        for kind in [
            KernelKind::Linear,
            KernelKind::Cosine,
            KernelKind::Angular,
            KernelKind::Arccos,
            KernelKind::ExpCosine,
            KernelKind::Rbf,
            KernelKind::Matern,
        ] {
            let kernel =
                Kernel { gamma: 0.1, beta: 1.5, lengthscale: 2.0, cos_clamp: 1e-5, ..Kernel::new(kind) };
            let k = (
                gpu.kernel(&kernel, &a, points.as_ref()).unwrap(),
                cpu.kernel(&kernel, &b, points.as_ref()).unwrap(),
            );
            both(&|| host(&gpu, &k.0), &|| host(&cpu, &k.1), 1e-7, "kernel");
        }
        // A zero row and a tiny one; 22 bits of an embedding, 16 in bfloat16.
        let mut x = x.clone();
        for k in 0..37 {
            x[(4, k)] = 0.0;
            x[(5, k)] *= 1e-13;
        }
        let (a, b) = (load(&gpu, &x), load(&cpu, &x));
        let ((za, na), (zb, nb)) = (gpu.encode(&a, w.as_ref()).unwrap(), cpu.encode(&b, w.as_ref()).unwrap());
        let digits = if mode == Mode::Bf16 { 2e-5 } else { 4e-7 };
        both(&|| host(&gpu, &za), &|| host(&cpu, &zb), digits, "encoded");
        assert!(na.iter().zip(&nb).all(|(a, b)| (a - b).abs() <= 1e-6 * b), "lengths");
        assert_eq!(na[4], 0.0);
        let g = random(301, 19, 5);
        let (ga, gb) = (load(&gpu, &g), load(&cpu, &g));
        both(
            &|| gpu.encode_backward(&a, &za, &na, &ga).unwrap(),
            &|| cpu.encode_backward(&b, &zb, &nb, &gb).unwrap(),
            if mode == Mode::Bf16 { 1e-4 } else { 2e-6 },
            "encoder gradient",
        );
        let again = gpu.select(&za, &ids).unwrap();
        both(
            &|| host(&gpu, &again),
            &|| host(&cpu, &cpu.select(&zb, &ids).unwrap()),
            digits,
            "selected embeddings",
        );
        // 16-bit files keep their type, and their values, in every mode.
        let exact = Mat::from_fn(40, 11, |i, j| f64::from(half::f16::from_f64(x[(i, j)])));
        let bits: Vec<half::f16> = (0..40)
            .flat_map(|i| (0..11).map(move |j| (i, j)))
            .map(|(i, j)| half::f16::from_f64(exact[(i, j)]))
            .collect();
        let view = unicon::io::MatView::from_slice(&bits, 40, 11).unwrap();
        let narrow = gpu.load(&view).unwrap();
        assert_eq!(host(&gpu, &narrow), exact);
        assert_eq!(host(&gpu, &gpu.select(&narrow, &[39, 0]).unwrap())[(0, 10)], exact[(39, 10)]);
        assert!(gpu.memory().0 > 0);
        drop((a, za, ga, again, narrow, linear, scaled, stacked));
    }
}

#[test]
fn given_similarities_and_none() {
    if !on_a_device("cuda_backend::given_similarities_and_none") {
        return;
    }
    let (gpu, cpu) = (open(Mode::Fp16), Cpu::<f64>::new(1).unwrap());
    for kind in KINDS {
        for eps_by in [EpsBy::Positives, EpsBy::Diagonal] {
            let loss = Loss { eps_by, eps_pos: 0.7, ..Loss::new(kind, 0.3).with_nu(1.5) };
            let positives = ragged(90, 130, 1);
            let (x, y) = (random(90, 5, 1), random(130, 7, 2));
            let given = random(90, 130, 3);
            fn all<B: Backend>(
                b: &B,
                s: Similarity<'_, B::Matrix>,
                loss: &Loss,
                p: &Positives,
                x: &Mat<f64>,
                y: &Mat<f64>,
            ) -> (Weights, [Mat<f64>; 4]) {
                let w = b.weights(s, loss, p, NegativeSampling::All).unwrap();
                let (x, y) = (load(b, x), load(b, y));
                let c = b.cross(s, &w, &x, &y).unwrap();
                let back = b.cross(s, &w, &y_like(b, &x), &y).unwrap();
                let (sv, stu) = (b.apply(s, &w, &y).unwrap(), b.apply_transpose(s, &w, &x).unwrap());
                (w, [c, back, host(b, &sv), host(b, &stu)])
            }
            fn y_like<B: Backend>(b: &B, x: &B::Matrix) -> B::Matrix {
                b.hstack(&[(1.0, x), (0.5, x)]).unwrap()
            }
            let (dense_gpu, dense_cpu) = (load(&gpu, &given), load(&cpu, &given));
            let zeros = (Similarity::Zeros(90, 130), Similarity::Zeros(90, 130));
            for (a, b) in [zeros, (Similarity::Dense(&dense_gpu), Similarity::Dense(&dense_cpu))] {
                let (wa, ra) = all(&gpu, a, &loss, &positives, &x, &y);
                let (wb, rb) = all(&cpu, b, &loss, &positives, &x, &y);
                assert!((wa.value() - wb.value()).abs() <= 1e-12 * wb.value().abs());
                // Products in fp32 of numbers that cancel.
                ra.iter().zip(&rb).for_each(|(a, b)| near("given similarities", a, b, 2e-6));
                near("S", &gpu.dense(a, &wa).unwrap(), &cpu.dense(b, &wb).unwrap(), 1e-12);
                let (pa, pb) = (
                    gpu.positive_similarities(a, &positives).unwrap(),
                    cpu.positive_similarities(b, &positives).unwrap(),
                );
                assert_eq!(pa, pb);
                assert_eq!(
                    gpu.standings(a, &positives, false).unwrap(),
                    cpu.standings(b, &positives, false).unwrap()
                );
            }
        }
    }
}

#[test]
fn retrieval() {
    if !on_a_device("cuda_backend::retrieval") {
        return;
    }
    let cpu = Cpu::<f64>::new(1).unwrap();
    for mode in [Mode::Fp16, Mode::Fp32] {
        let gpu = open(mode);
        // Items 5 and 9 are the same as item 2: exact ties.
        let mut items = random(260, 20, 1);
        for k in 0..20 {
            items[(5, k)] = items[(2, k)];
            items[(9, k)] = items[(2, k)];
        }
        let queries = random(150, 20, 2);
        let unit = |m: &Mat<f64>| {
            let identity = Mat::<f64>::identity(20, 20);
            (
                gpu.encode(&load(&gpu, m), identity.as_ref()).unwrap().0,
                cpu.encode(&load(&cpu, m), identity.as_ref()).unwrap().0,
            )
        };
        let ((qa, qb), (ia, ib)) = (unit(&queries), unit(&items));
        for k in [1, 7, 300] {
            let (a, b) = (gpu.top_k(&qa, &ia, k).unwrap(), cpu.top_k(&qb, &ib, k).unwrap());
            assert_eq!(a.k, b.k);
            // Scores to fp32's digits; an order may differ only where scores are that close.
            for (place, (x, y)) in a.scores.iter().zip(&b.scores).enumerate() {
                assert!((x - y).abs() < 2e-6, "place {place}: {x} {y}");
            }
            let same = a.indices.iter().zip(&b.indices).filter(|(x, y)| x == y).count();
            assert!(same as f64 > 0.99 * a.indices.len() as f64, "{same} of {}", a.indices.len());
            for list in a.indices.chunks(a.k).filter(|l| l.len() == 260) {
                let place = |j: u32| list.iter().position(|&i| i == j).unwrap();
                assert!(place(2) < place(5) && place(5) < place(9));
            }
        }
        let positives = ragged(150, 260, 4);
        let a = gpu.standings(Similarity::Embeddings(&qa, &ia), &positives, false).unwrap();
        let b = cpu.standings(Similarity::Embeddings(&qb, &ib), &positives, false).unwrap();
        let close = a.iter().zip(&b).filter(|(a, b)| a.ahead.abs_diff(b.ahead) > 1).count();
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!(close == 0 && equal >= 148, "{equal} equal, {close} far");
        // Rows that equal the duplicate: rank 1 of item 2, 2 of item 5 by index, 1 by the kindest rule.
        let (da, _) = unit(&Mat::from_fn(1, 20, |_, k| items[(2, k)]));
        let rank = |item: i64, ties: Ties| {
            let p = Positives::from_csr(&[0, 1], &[item], 260).unwrap();
            let found = gpu.standings(Similarity::Embeddings(&da, &ia), &p, false).unwrap();
            found[0].rank(ties).unwrap()
        };
        assert_eq!([2, 5, 9].map(|j| rank(j, Ties::LowerIndex)), [1.0, 2.0, 3.0]);
        assert_eq!([2, 5, 9].map(|j| rank(j, Ties::Optimistic)), [1.0, 1.0, 1.0]);
        assert_eq!([2, 5, 9].map(|j| rank(j, Ties::Pessimistic)), [3.0, 3.0, 3.0]);
        assert_eq!([2, 5, 9].map(|j| rank(j, Ties::Expected)), [2.0, 2.0, 2.0]);
        // Of a set in itself without the query: equal rows are each other's right answer.
        let twin = |i: i64| if [2, 5, 9].contains(&i) { 2 } else { i };
        let groups: Vec<i64> = (0..260).map(|i| if i < 200 { twin(i) } else { 200 + i % 7 }).collect();
        let own = Positives::from_groups(&groups, &groups).unwrap();
        let a = gpu.standings(Similarity::Embeddings(&ia, &ia), &own, true).unwrap();
        let b = cpu.standings(Similarity::Embeddings(&ib, &ib), &own, true).unwrap();
        let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        assert!(equal >= 255, "{equal} equal");
        assert_eq!((a[2].positives, a[2].ahead, a[2].tied), (2, 0, 0));
        assert!(!a[0].is_found());
        let s = (
            gpu.positive_similarities(Similarity::Embeddings(&qa, &ia), &positives).unwrap(),
            cpu.positive_similarities(Similarity::Embeddings(&qb, &ib), &positives).unwrap(),
        );
        assert!(s.0.iter().zip(&s.1).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn triplets() {
    if !on_a_device("cuda_backend::triplets") {
        return;
    }
    let gpu = open(Mode::Fp16);
    for (m, n) in [(130, 101), (101, 140)] {
        let (u, v) = (random(m, 100, 1), random(n, 100, 2));
        let scaled = Mat::from_fn(m, 100, |i, j| u[(i, j)] * 0.7f64.powi(j as i32));
        let c = &scaled * v.transpose();
        let exact = spectral::top_r(c.as_ref(), 8, SvdMethod::Full).unwrap();
        for method in [SvdMethod::Full, SvdMethod::randomized(3)] {
            let got = gpu.top_r(c.as_ref(), 8, method).unwrap();
            assert!(got.all.len() >= 8);
            for k in 0..8 {
                assert!((exact.s[k] - got.s[k]).abs() < 1e-9 * exact.s[0], "{method:?} {k}");
            }
            let of = |t: &spectral::TopR| Mat::from_fn(m, 8, |i, j| t.u[(i, j)] * t.s[j]) * t.v.transpose();
            near("U S V^T", &of(&got), &of(&exact), 1e-7);
            let q = got.u.transpose() * &got.u - Mat::<f64>::identity(8, 8);
            assert!(q.norm_max() < 1e-9, "{:e}", q.norm_max());
        }
        // A rank-deficient matrix goes to the host, and bad arguments fail as there.
        let low = random(m, 3, 4) * random(3, n, 5);
        let got = gpu.top_r(low.as_ref(), 6, SvdMethod::Full).unwrap();
        assert!((got.u.transpose() * &got.u - Mat::<f64>::identity(6, 6)).norm_max() < 1e-10);
        assert!(gpu.top_r(low.as_ref(), 0, SvdMethod::Full).unwrap_err().to_string().starts_with("rank"));
    }
}

#[test]
fn equal_bits_from_run_to_run_and_from_the_host() {
    if !on_a_device("cuda_backend::equal_bits_from_run_to_run_and_from_the_host") {
        return;
    }
    // Rows of x are several panels (of 4,096); its features take 3.3 MB.
    let (n_x, n_y, d) = (13_000, 130, 64);
    let (x, y) = (random(n_x, d, 1), random(n_y, 9, 2));
    let positives = ragged(n_x, n_y, 5);
    let results = |limit: Option<u64>, on_device: bool| {
        // The Hopper kernels give way to the portable ones where their packed copies have no room: other bits.
        let kernels = KernelSet::Portable;
        let gpu = Cuda::open(0, Options { memory_limit: limit, kernels, ..Options::default() }).unwrap();
        let (zx, _) = gpu.encode(&load(&gpu, &x), random(8, d, 3).as_ref()).unwrap();
        let (zy, _) = gpu.encode(&load(&gpu, &y), random(8, 9, 4).as_ref()).unwrap();
        let (a, b) = (load(&gpu, &x), load(&gpu, &y));
        assert_eq!(a.on_device(), on_device, "{:?}", gpu.memory());
        let s = Similarity::Embeddings(&zx, &zy);
        let w = gpu.weights(s, &Loss::clip(0.1), &positives, NegativeSampling::All).unwrap();
        let zeros = Similarity::Zeros(n_x, n_y);
        let w0 = gpu.weights(zeros, &Loss::clip(0.1), &positives, NegativeSampling::All).unwrap();
        let sampled = NegativeSampling::Sampled { per_anchor: 60, seed: 1 };
        let ws = gpu.weights(s, &Loss::clip(0.1), &positives, sampled).unwrap();
        let out = (
            w.value().to_bits(),
            gpu.cross(s, &w, &a, &b).unwrap(),
            gpu.cross(zeros, &w0, &a, &b).unwrap(),
            gpu.cross(s, &ws, &a, &b).unwrap(),
            host(&gpu, &gpu.apply_transpose(s, &w, &a).unwrap()),
            gpu.gram(&a).unwrap(),
            host(&gpu, &gpu.linear(&a, random(9, d, 4).as_ref()).unwrap()),
        );
        drop((zx, zy, a, b));
        assert_eq!(gpu.memory().0, 0, "everything is given back");
        assert!(limit.is_none_or(|l| gpu.memory().1 <= l), "{:?}", gpu.memory());
        out
    };
    let first = results(None, true);
    assert!(first == results(None, true), "two runs differ");
    // Too little to hold the features beside the work, enough for the work.
    let limit = std::env::var("UNICON_LIMIT").map_or(5_100_000, |v| v.parse().unwrap());
    assert!(first == results(Some(limit), false), "streamed features give other bits");
}

#[test]
fn memory_is_limited_and_its_end_is_said() {
    if !on_a_device("cuda_backend::memory_is_limited_and_its_end_is_said") {
        return;
    }
    let gpu = Cuda::open(0, Options { memory_limit: Some(1 << 20), ..Options::default() }).unwrap();
    let small = load(&gpu, &Mat::zeros(1000, 100));
    assert_eq!(gpu.memory(), (400_000, 400_000));
    // Too large to stay on the device: it waits on the host.
    let large = load(&gpu, &Mat::zeros(1000, 300));
    assert!(small.on_device() && !large.on_device());
    // Embeddings must be on the device.
    let wide = random(1, 300, 1);
    let error = gpu.encode(&load(&gpu, &Mat::zeros(20_000, 300)), wide.as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("out of memory: ") && error.contains("1048576"), "{error}");
    drop((small, large));
    assert_eq!(gpu.memory().0, 0);
}

#[test]
fn cancelling_stops_between_panels() {
    if !on_a_device("cuda_backend::cancelling_stops_between_panels") {
        return;
    }
    let control = Arc::new(Control::default());
    let gpu = Cuda::open(0, Options { control: control.clone(), ..Options::default() }).unwrap();
    let (zx, zy) = (embeddings(&gpu, 300, 8, 1), embeddings(&gpu, 300, 8, 2));
    control.cancel();
    let s = Similarity::Embeddings(&zx, &zy);
    let result = gpu.weights(s, &Loss::clip(0.1), &Positives::diagonal(300), NegativeSampling::All);
    assert!(matches!(result, Err(unicon::Error::Cancelled)));
    control.reset();
    assert!(gpu.weights(s, &Loss::clip(0.1), &Positives::diagonal(300), NegativeSampling::All).is_ok());
}

#[test]
fn losses_of_ones_own_are_for_the_cpu() {
    if !on_a_device("cuda_backend::losses_of_ones_own_are_for_the_cpu") {
        return;
    }
    let gpu = open(Mode::Fp16);
    let line = |t: &[f64], value: &mut [f64], derivative: &mut [f64]| {
        value.copy_from_slice(t);
        derivative.fill(1.0);
    };
    let loss = Loss::custom(unicon::loss::Custom::of_functions("line", line, line));
    let (zx, zy) = (embeddings(&gpu, 140, 6, 1), embeddings(&gpu, 140, 6, 2));
    let positives = Positives::diagonal(140);
    for s in [Similarity::Embeddings(&zx, &zy), Similarity::Zeros(140, 140)] {
        let refused = gpu.weights(s, &loss, &positives, NegativeSampling::All);
        assert!(matches!(&refused, Err(Error::Unsupported(text)) if text.contains("CPU")), "{refused:?}");
    }
    let (x, y) = (source(&random(140, 6, 3)), source(&random(140, 5, 4)));
    let data = unicon::fit::Data { x: &x, y: &y, positives: &positives };
    let options = unicon::fit::FitOptions { loss, ..unicon::fit::FitOptions::new(3) };
    assert!(matches!(unicon::fit::fit(&gpu, data, None, &options), Err(Error::Unsupported(_))));
}

#[test]
fn numbers_that_are_not_numbers_are_not_hidden() {
    if !on_a_device("cuda_backend::numbers_that_are_not_numbers_are_not_hidden") {
        return;
    }
    let gpu = open(Mode::Fp16);
    let mut x = random(140, 6, 1);
    x[(7, 3)] = f64::NAN;
    let identity = Mat::<f64>::identity(6, 6);
    let refused = gpu.encode(&load(&gpu, &x), identity.as_ref()).err().unwrap();
    assert!(matches!(&refused, Error::Numerical(text) if text.contains("row 7 ")), "{refused}");
    // Embeddings that the backend did not make: every sum that row 7 enters is no number, and so is the loss.
    let (zx, zy) = (load(&gpu, &x), embeddings(&gpu, 140, 6, 2));
    let (positives, loss) = (Positives::diagonal(140), Loss::clip(0.1));
    let sums = gpu.weights(Similarity::Embeddings(&zx, &zy), &loss, &positives, NegativeSampling::All);
    assert!(matches!(sums, Err(Error::Numerical(_))));
}
