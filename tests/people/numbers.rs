//! Scale, offset, and values that are not finite.
//!
//! The tries of public reports on the built program, and fits of random data at random scales, offsets and shapes in
//! process. `UNICON_FITS=30000 cargo test --release --test people numbers::` runs as many of those as it says.

use crate::program::{Lab, numbers};
use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Ties};
use unicon::fit::{
    Batches, BestOptions, Center, DampingOptions, Data, FitInfo, FitOptions, Init, KernelOptions, Landmarks,
    PartialFit, Rank, RefineOptions, Stream, WIDTHS, fit, fit_best,
};
use unicon::io::{Dtype, HostMatrix, MatView, RowScale, RowSource, read_all};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Component, Encoder, Model, Side};
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::retrieval::recall_at_k;

/// Rows of two modalities that show the same 8-dimensional points.
#[derive(Clone)]
struct Views {
    n: usize,
    x: Vec<f64>,
    y: Vec<f64>,
    widths: (usize, usize),
}

/// Training and test rows; maps of the latent points are those of `seed`.
fn views(train: usize, test: usize, widths: (usize, usize), noise: f64, seed: u64) -> [Views; 2] {
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
    fn changed(&self, change: impl Fn(usize, usize, usize, f64) -> f64) -> Self {
        let of = |side: usize, values: &[f64], d: usize| {
            values.iter().enumerate().map(|(e, v)| change(side, e / d, e % d, *v)).collect()
        };
        Self { x: of(0, &self.x, self.widths.0), y: of(1, &self.y, self.widths.1), ..self.clone() }
    }

    fn scaled(&self, by: f64) -> Self {
        self.changed(|_, _, _, v| v * by)
    }

    fn sources(&self, wide: bool) -> (HostMatrix, HostMatrix) {
        let of = |name: &str, values: &[f64], d: usize| match wide {
            true => HostMatrix::from_f64(name, self.n, d, values.to_vec()).unwrap(),
            false => {
                HostMatrix::from_f32(name, self.n, d, values.iter().map(|v| *v as f32).collect()).unwrap()
            }
        };
        (of("x", &self.x, self.widths.0), of("y", &self.y, self.widths.1))
    }

    fn write(&self, lab: &Lab, name: &str) {
        let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        lab.npy(&format!("x{name}.npy"), &[self.n, self.widths.0], &narrow(&self.x));
        lab.npy(&format!("y{name}.npy"), &[self.n, self.widths.1], &narrow(&self.y));
    }
}

/// A way to fit.
#[derive(Clone, Debug)]
enum Way {
    Fit(Box<FitOptions>),
    Best(Box<BestOptions>),
}

fn way(name: &str, loss: Loss, rank: usize, n: usize) -> Way {
    let plain = FitOptions { loss, n_iters: 1, ..FitOptions::new(rank) };
    let kernel = |kind, landmarks| Some(KernelOptions::new(Kernel::new(kind), landmarks));
    let some = Landmarks::Count(40.min(n));
    let best = BestOptions { loss, ..BestOptions::new(Rank::Fixed(rank)) };
    let fit = |o: FitOptions| Way::Fit(Box::new(o));
    match name {
        "global" => fit(plain),
        "whiten" => fit(FitOptions { whiten: Some(0.01), ..plain }),
        "two" => fit(FitOptions { n_iters: 2, scale_inputs: true, ..plain }),
        "paper" => fit(FitOptions {
            n_iters: 2,
            init: Init::Random,
            center: Center::Off,
            batches: Some(Batches { size: 30.min(n), count: None, drop_trailing: true }),
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

const WAYS: [&str; 14] = [
    "global", "whiten", "two", "paper", "damping", "refine", "cosine", "angular", "arccos", "exp", "linear",
    "rbf", "matern", "best",
];
const LOSSES: [LossKind; 4] =
    [LossKind::Clip, LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth];

fn loss(kind: LossKind) -> Loss {
    Loss::new(kind, if kind == LossKind::Clip { 0.07 } else { 0.3 })
}

/// Fits; what is not finite must have been an error.
fn fitted<B: Backend>(
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
fn embedded<T: Real>(backend: &Cpu<T>, model: &Model, side: Side, x: &dyn RowSource) -> (Mat<f64>, usize) {
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
fn recall<T: Real>(backend: &Cpu<T>, model: &Model, test: &(HostMatrix, HostMatrix)) -> f64 {
    embedded(backend, model, Side::X, &test.0);
    embedded(backend, model, Side::Y, &test.1);
    let (zx, zy) =
        (model.encode(backend, Side::X, &test.0).unwrap(), model.encode(backend, Side::Y, &test.1).unwrap());
    let positives = Positives::diagonal(test.0.rows());
    let recall = recall_at_k(backend, &zx, &zy, &positives, &[1], Ties::LowerIndex).unwrap();
    0.5 * (recall.x_to_y[0] + recall.y_to_x[0])
}

/// What a way reaches on test rows.
fn reached<T: Real>(backend: &Cpu<T>, [train, test]: [&Views; 2], wide: bool, way: &Way) -> f64 {
    let (model, _) = fitted(backend, &train.sources(wide), way).unwrap_or_else(|e| panic!("{way:?}: {e}"));
    recall(backend, &model, &test.sources(wide))
}

#[test]
fn scale_does_not_change_an_answer() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 1);
    let lab = Lab::new();
    train.write(&lab, "");
    test.write(&lab, "t");
    let recall = |lab: &Lab, options: &str, name: &str| {
        let files = format!("--x x{name}.npy --y y{name}.npy");
        lab.json(&format!("fit {files} --rank 8 {options} --out m.safetensors"));
        let report = lab.json(&format!("eval --model m.safetensors --x xt{name}.npy --y yt{name}.npy"));
        numbers(&report["recall"]["x_to_y"])[0]
    };
    let ways = ["--iters 1", "--preset global --iters 1 --whiten 0.01", "", "--preset paper"];
    let clean = ways.map(|w| recall(&lab, w, ""));
    assert!(clean[1] > 0.9 && clean[2] > 0.9, "{clean:?}");
    for scale in [1e30, 1e25, 1e19, 1e-6, 1e-25, 1e-36] {
        let name = format!("{scale:e}");
        train.scaled(scale).write(&lab, &name);
        test.scaled(scale).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let got = recall(&lab, way, &name);
            assert!((got - clean).abs() <= 0.011, "{way} at {scale:e}: {got}, {clean} unscaled");
        }
    }
    // Rows over 14 decades, of which some are beyond what float32 can square.
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let powers: Vec<f64> = (0..1000).map(|_| 10f64.powf(rng.random_range(-7.0..7.0))).collect();
    for (name, scale) in [("rows", 1.0), ("rows20", 1e20), ("rows-25", 1e-25)] {
        let spread = |v: &Views, from: usize| {
            v.changed(|side, i, _, v| v * scale * powers[(from + 2 * i + side) % powers.len()])
        };
        spread(&train, 0).write(&lab, name);
        spread(&test, 7).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let got = recall(&lab, way, name);
            assert!(got > clean - 0.02, "{way}, {name}: {got}, {clean} unscaled");
        }
    }
}

#[test]
fn float64_beyond_float32_is_brought_into_range() {
    let [train, test] = views(200, 100, (16, 12), 0.3, 2);
    let (narrow, wide) = (Cpu::<f32>::new(2).unwrap(), Cpu::<f64>::new(2).unwrap());
    for name in WAYS {
        let way = way(name, loss(LossKind::Clip), 8, 200);
        let clean = reached(&narrow, [&train, &test], true, &way);
        for scale in [1e300, 1e39, 1e-300] {
            // The widths of these kernels, or their squares, would not be float64 numbers.
            if matches!(name, "rbf" | "matern") && scale != 1e39 {
                let failed = fitted(&narrow, &train.scaled(scale).sources(true), &way);
                let text = failed.err().map(|e| e.to_string());
                assert!(text.as_ref().is_some_and(|t| t.contains("rescale the features")), "{text:?}");
                continue;
            }
            let (train, test) = (train.scaled(scale), test.scaled(scale));
            for got in
                [reached(&narrow, [&train, &test], true, &way), reached(&wide, [&train, &test], true, &way)]
            {
                assert!((got - clean).abs() <= 0.02, "{name} at {scale:e}: {got}, {clean} unscaled");
            }
        }
    }
}

#[test]
fn every_stored_type_gives_the_same_answer() {
    use half::{bf16, f16};
    let [train, test] = views(300, 150, (16, 12), 0.3, 4);
    let cpu = Cpu::<f32>::new(2).unwrap();
    let way = way("whiten", loss(LossKind::Clip), 8, 300);
    let clean = reached(&cpu, [&train, &test], false, &way);
    // The smallest halves are far below the range that float32 products have.
    for (scale, types) in [(1.0, 0b111), (1e-4, 0b111), (1e3, 0b111), (1e-30, 0b100), (1e30, 0b100)] {
        let (train, test) = (train.scaled(scale), test.scaled(scale));
        for (k, dtype) in [Dtype::F16, Dtype::F32, Dtype::BF16].into_iter().enumerate() {
            if types >> k & 1 == 0 {
                continue;
            }
            let bytes = |values: &[f64]| -> Vec<u8> {
                let bytes = values.iter().flat_map(|&v| match dtype {
                    Dtype::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
                    Dtype::BF16 => bf16::from_f64(v).to_le_bytes().to_vec(),
                    _ => (v as f32).to_le_bytes().to_vec(),
                });
                bytes.collect()
            };
            let (tx, ty, ex, ey) = (bytes(&train.x), bytes(&train.y), bytes(&test.x), bytes(&test.y));
            let view = |b: &[u8], d: usize| {
                let values: Vec<f32> =
                    read_all(&MatView::row_major(b, b.len() / d / dtype.size(), d, dtype).unwrap()).unwrap();
                HostMatrix::from_f32("half", values.len() / d, d, values).unwrap()
            };
            let (model, _) = fitted(&cpu, &(view(&tx, 16), view(&ty, 12)), &way).unwrap();
            let got = recall(&cpu, &model, &(view(&ex, 16), view(&ey, 12)));
            assert!((got - clean).abs() <= 0.02, "{dtype} at {scale:e}: {got}, {clean}");
        }
    }
}

#[test]
fn an_offset_is_taken_out() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 1);
    let lab = Lab::new();
    let fit = |options: &str, name: &str| {
        let files = format!("--x x{name}.npy --y y{name}.npy");
        let report = lab.json(&format!("fit {files} --rank 8 {options} --out m{name}.safetensors"));
        let eval = lab.json(&format!("eval --model m{name}.safetensors --x xt{name}.npy --y yt{name}.npy"));
        (report, numbers(&eval["recall"]["x_to_y"])[0])
    };
    train.write(&lab, "");
    test.write(&lab, "t");
    let ways = ["--preset global --iters 1 --whiten 0.01", "--iters 1", ""];
    let clean = ways.map(|w| fit(w, "").1);
    for offset in [30.0, 1000.0, 30000.0, -1e6] {
        let name = format!("{offset}");
        train.changed(|_, _, _, v| v + offset).write(&lab, &name);
        test.changed(|_, _, _, v| v + offset).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let (report, got) = fit(&format!("{way} --center on"), &name);
            // Beyond 1e5 float32 itself has lost the digits.
            let limit = if offset.abs() > 1e5 { 0.3 } else { 0.02 };
            assert!(got > clean - limit, "{way} + {offset}: {got}, {clean} without");
            assert_eq!(report["info"]["prepared"][1]["centred"], true);
            if offset.abs() >= 1000.0 {
                let (report, auto) = fit(way, &name);
                assert_eq!(auto, got, "{way} + {offset}");
                let ratio = report["info"]["prepared"][0]["mean_over_spread"].as_f64().unwrap();
                assert!(ratio > 30.0);
                let files = format!("--x x{name}.npy --y y{name}.npy --rank 8 {way} --out m.safetensors");
                let text = lab.text(&format!("fit {files}"));
                assert!(text.contains("mean taken out"), "{text}");
            }
        }
    }
    // What was asked for is done: without centring the offset is all that float32 products see.
    let (report, off) = fit("--preset global --iters 1 --whiten 0.01 --center off", "30000");
    assert_eq!(report["info"]["prepared"][0]["centred"], false);
    assert!(off < 0.5, "{off}");
    // Models keep it, and others can read it: f(x) = F x + b.
    let model = Model::load(lab.path("m1000.safetensors")).unwrap();
    let e = &model.components[0].x;
    let b = e.bias().unwrap();
    let cpu = Cpu::<f64>::new(1).unwrap();
    let x = unicon::io::open(lab.path("xt1000.npy").to_str().unwrap()).unwrap();
    let values: Vec<f64> = read_all(&x).unwrap();
    let (z, _) = embedded(&cpu, &model, Side::X, &x);
    for i in [0, 17, 199] {
        let f: Vec<f64> = (0..8)
            .map(|k| (0..16).map(|j| e.matrix[(k, j)] * values[i * 16 + j]).sum::<f64>() + b[k])
            .collect();
        let length = f.iter().map(|v| v * v).sum::<f64>().sqrt();
        (0..8).for_each(|k| assert!((f[k] / length - z[(i, k)]).abs() < 1e-9));
    }
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap().components[0].x.offset, e.offset);
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("c0.x.bias")
            && text.contains("c0.y.offset")
            && text.contains("\"format_version\":\"2\"")
    );
    assert_eq!(fit("--preset paper", "1000").0["info"]["prepared"][0]["centred"], false);
    assert!(Model::load(lab.path("m1000.safetensors")).unwrap().components[0].x.bias().is_none());
}

/// Files without offsets are what they were, and one whose bias is not that of its offset is refused.
#[test]
fn biases_in_files_are_checked() {
    let encoder = |offset: Option<Vec<f64>>| Encoder {
        offset: offset.map(Into::into),
        ..Encoder::linear(Mat::from_fn(2, 3, |i, j| 1.0 + (i * 3 + j) as f64))
    };
    let model = |m: Option<Vec<f64>>| Model {
        components: vec![Component { weight: 1.0, x: encoder(m), y: encoder(None) }],
        loss: Loss::default(),
        notes: Default::default(),
    };
    let plain = model(None).to_bytes().unwrap();
    let text = String::from_utf8_lossy(&plain).into_owned();
    assert!(text.contains("\"format_version\":\"1\"") && !text.contains("bias"));
    let bytes = model(Some(vec![1.0, -2.0, 0.5])).to_bytes().unwrap();
    let read = Model::from_bytes(&bytes).unwrap();
    assert_eq!(read.components[0].x.bias().unwrap(), [1.5, 3.0]);
    assert!(read.components[0].y.bias().is_none());
    // -0.5 is the only such number in the file: the offset's last value.
    let half = 0.5f64.to_le_bytes();
    let at = bytes.windows(8).position(|w| w == half).unwrap();
    let mut other = bytes.clone();
    other[at..at + 8].copy_from_slice(&7.5f64.to_le_bytes());
    let text = Model::from_bytes(&other).unwrap_err();
    assert!(text.contains("c0.x.bias"), "{text}");
    other[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(Model::from_bytes(&other).is_err());
    assert!(model(Some(vec![1.0, 2.0])).to_bytes().is_err());
    assert!(model(Some(vec![1.0, f64::INFINITY, 2.0])).to_bytes().is_err());
}

#[test]
fn what_is_not_finite_is_refused_with_its_place() {
    let [train, _] = views(60, 10, (16, 12), 0.3, 5);
    let lab = Lab::new();
    train.write(&lab, "");
    lab.json("fit --x x.npy --y y.npy --rank 4 --iters 1 --out m.safetensors");
    for (bad, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
        let broken = |side: usize, at: (usize, usize)| {
            train.changed(move |s, i, j, v| if (s, i, j) == (side, at.0, at.1) { bad } else { v })
        };
        broken(0, (37, 5)).write(&lab, "a");
        broken(1, (8, 11)).write(&lab, "b");
        let place = format!("got {shown} at row 37, column 5");
        let calls = [
            "fit --x xa.npy --y y.npy --rank 4 --out n.safetensors",
            "fit --x xa.npy --y y.npy --rank 4 --iters 1 --out n.safetensors",
            "fit --x x.npy --y y.npy --rank 4 --val-x xa.npy --val-y y.npy --out n.safetensors",
            "encode --model m.safetensors --side x --input xa.npy --out z.npy",
            "eval --model m.safetensors --x xa.npy --y y.npy",
            "search --model m.safetensors --queries xa.npy --items y.npy --out h.npy",
            "gram --a xa.npy --out k.npy",
        ];
        for call in calls {
            let line = lab.fails(1, call);
            assert!(line.contains("xa.npy") && line.contains(&place), "{call}: {line}");
        }
        let line = lab.fails(1, "fit --x x.npy --y yb.npy --rank 4 --iters 1 --out n.safetensors");
        assert!(
            line.contains("yb.npy") && line.contains(&format!("got {shown} at row 8, column 11")),
            "{line}"
        );
    }
    let cpu = Cpu::<f32>::new(1).unwrap();
    let (x, y) = train.sources(false);
    let positives = Positives::diagonal(60);
    let data = Data { x: &x, y: &y, positives: &positives };
    let given = |v: f64| Init::Given(Mat::from_fn(4, 16, |_, _| v), Mat::from_fn(4, 12, |_, _| 1.0));
    for init in
        [given(f64::NAN), given(f64::INFINITY), Init::Similarity(Mat::from_fn(60, 60, |_, _| f64::NAN))]
    {
        let o = FitOptions { init, ..FitOptions::new(4) };
        assert!(fit(&cpu, data, None, &o).is_err());
    }
    for loss in [
        Loss { nu: f64::NAN, ..Loss::clip(0.1) },
        Loss { tau: f64::INFINITY, ..Loss::clip(0.1) },
        Loss { margin: f64::NAN, ..Loss::new(LossKind::TripletHard, 0.1) },
    ] {
        assert!(fit(&cpu, data, None, &FitOptions { loss, ..FitOptions::new(4) }).is_err());
    }
    // Extreme but finite parameters fit or fail; they never give a number that is not one.
    for kind in LOSSES {
        for nu in [-1e308, -1e3, 0.0, 1e3, 1e308] {
            for (eps_pos, eps_neg) in [(1.0, 1.0), (0.0, 1e300), (1e300, 1e-300)] {
                let loss = Loss { nu, eps_pos, eps_neg, ..loss(kind) };
                let way = Way::Fit(Box::new(FitOptions { loss, ..FitOptions::new(4) }));
                if let Err(e) = fitted(&cpu, &(x.clone(), y.clone()), &way) {
                    assert!(matches!(e, Error::Numerical(_) | Error::InvalidArgument { .. }), "{e}");
                }
            }
        }
    }
    for rho in [1e-300, 1e300] {
        let o = FitOptions { rho, ..FitOptions::new(4) };
        if let Err(e) = fitted(&cpu, &(x.clone(), y.clone()), &Way::Fit(Box::new(o))) {
            assert!(matches!(e, Error::Numerical(_)), "{e}");
        }
    }
}

#[test]
fn encoders_of_any_size_embed_unit_rows() {
    let [_, test] = views(2, 50, (6, 5), 0.3, 6);
    let base = Mat::from_fn(4, 6, |i, j| ((i * 6 + j) as f64 * 0.7).sin());
    let (f32s, f64s) = (Cpu::<f32>::new(1).unwrap(), Cpu::<f64>::new(1).unwrap());
    let model = |x: Encoder| Model {
        components: vec![Component { weight: 1.0, x, y: Encoder::linear(Mat::from_fn(4, 5, |_, _| 1.0)) }],
        loss: Loss::default(),
        notes: Default::default(),
    };
    let (want, _) = embedded(&f64s, &model(Encoder::linear(base.clone())), Side::X, &test.sources(true).0);
    for size in [1e39, 1e149, 1e-39, 1e-149, 1e-300] {
        let scaled = Mat::from_fn(4, 6, |i, j| base[(i, j)] * size);
        for x_size in [1.0, 1e-300, 1e300, 1e30] {
            let x = test.scaled(x_size).sources(true).0;
            for z in [
                embedded(&f32s, &model(Encoder::linear(scaled.clone())), Side::X, &x).0,
                embedded(&f64s, &model(Encoder::linear(scaled.clone())), Side::X, &x).0,
            ] {
                assert!((&z - &want).norm_max() < 1e-5, "{size:e} {x_size:e}: {:?}", (&z - &want).norm_max());
            }
        }
    }
    // A zero row is exactly zero, whatever else there is.
    let x = test.changed(|_, i, _, v| if i == 3 { 0.0 } else { v * 1e-30 }).sources(false).0;
    assert_eq!(embedded(&f32s, &model(Encoder::linear(base)), Side::X, &x).1, 1);
}

/// A constant side says nothing, and nothing is made up: no recall, no error, no NaN.
#[test]
fn constant_features_fit() {
    let [train, _] = views(80, 10, (6, 5), 0.3, 7);
    let cpu = Cpu::<f32>::new(1).unwrap();
    for value in [0.0, 1.0, 1e-30, 30000.0] {
        let constant = train.changed(|side, _, _, v| if side == 0 { value } else { v });
        let both = train.changed(|_, _, _, _| value);
        for views in [constant, both] {
            for name in WAYS {
                for kind in [LossKind::Clip, LossKind::Sigmoid] {
                    let way = way(name, loss(kind), 4, 80);
                    match fitted(&cpu, &views.sources(false), &way) {
                        Ok((model, _)) => {
                            let _ = recall(&cpu, &model, &views.sources(false));
                        }
                        Err(e) => panic!("{name} {value}: {e}"),
                    }
                }
            }
        }
    }
}

/// Batches that arrive one by one, at any scale and offset.
#[test]
fn streams_are_brought_into_range() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 8);
    let reached = |train: &Views, test: &Views, stream: Stream, center: Center| {
        let whiten = (stream == Stream::Sums).then_some(0.01);
        let options = FitOptions { whiten, center, ..FitOptions::new(8) };
        let mut partial =
            PartialFit::new(Cpu::<f32>::new(1).unwrap(), (16, 12), stream, None, options).unwrap();
        let (x, y) = train.sources(true);
        let positives = Positives::diagonal(100);
        for first in (0..400).step_by(100) {
            let rows = |m| unicon::io::RowRange::new(m, first..first + 100).unwrap();
            let (x, y) = (rows(&x), rows(&y));
            assert!(partial.add(Data { x: &x, y: &y, positives: &positives }).unwrap().is_finite());
        }
        recall(&Cpu::<f32>::new(1).unwrap(), &partial.finish().unwrap(), &test.sources(true))
    };
    for stream in [Stream::Sums, Stream::Solutions] {
        let clean = reached(&train, &test, stream, Center::Auto);
        for scale in [1e-25, 1e30, 1e300] {
            let got = reached(&train.scaled(scale), &test.scaled(scale), stream, Center::Auto);
            assert!((got - clean).abs() <= 0.02, "{stream:?} {scale:e}: {got}, {clean}");
        }
        let shifted = |v: &Views| v.changed(|_, _, _, v| v + 30000.0);
        for center in [Center::Auto, Center::On] {
            let got = reached(&shifted(&train), &shifted(&test), stream, center);
            assert!(got > clean - 0.02, "{stream:?} {center:?}: {got}, {clean}");
        }
    }
}

/// A start comes with what its model takes out.
#[test]
fn a_start_keeps_its_offset() {
    let [train, test] = views(200, 100, (16, 12), 0.3, 9);
    let shifted = |v: &Views| v.changed(|_, _, _, v| v + 1000.0);
    let (train, test) = (shifted(&train), shifted(&test));
    let cpu = Cpu::<f32>::new(1).unwrap();
    let first = way("whiten", loss(LossKind::Clip), 8, 200);
    let (model, _) = fitted(&cpu, &train.sources(true), &first).unwrap();
    let before = recall(&cpu, &model, &test.sources(true));
    let refine = Some(RefineOptions { max_steps: 0, ..Default::default() });
    let again =
        FitOptions { init: Init::from_model(&model).unwrap(), n_iters: 0, refine, ..FitOptions::new(8) };
    let (same, info) = fitted(&cpu, &train.sources(true), &Way::Fit(Box::new(again))).unwrap();
    assert!(info.prepared.0.centred && info.prepared.0.mean_over_spread.is_none());
    assert_eq!(same.components[0].x.offset, model.components[0].x.offset);
    assert!((recall(&cpu, &same, &test.sources(true)) - before).abs() < 1e-9);
    let best = BestOptions { start: Some(model.clone()), ..BestOptions::new(Rank::Fixed(8)) };
    let (best, _) = fitted(&cpu, &train.sources(true), &Way::Best(Box::new(best))).unwrap();
    assert!(recall(&cpu, &best, &test.sources(true)) >= before - 0.02);
}

/// How many random fits to try.
fn fits() -> usize {
    std::env::var("UNICON_FITS").map_or(150, |n| n.parse().expect("UNICON_FITS: a number"))
}

/// A random change of training and test rows.
struct Change {
    kind: usize,
    /// The same with none of what must not matter.
    clean: [Views; 2],
    changed: [Views; 2],
    what: String,
}

fn random_change(rng: &mut ChaCha8Rng, train: &Views, test: &Views, wide: bool) -> Change {
    let decades = if wide { 300.0 } else { 30.0 };
    let scales: [f64; 2] = [0, 1].map(|_| 10f64.powf(rng.random_range(-decades..decades)));
    let kind = rng.random_range(0..5);
    let powers: Vec<f64> = (0..997).map(|_| 10f64.powf(rng.random_range(-7.0..7.0))).collect();
    let offset = 10f64.powf(rng.random_range(-1.0..4.0));
    let (zero, constant) = (rng.random_range(0..4usize), rng.random_range(0..4usize));
    let value = 10f64.powf(rng.random_range(-3.0..3.0));
    let without = |j: usize, column: usize, v: f64| if j == column { 0.0 } else { v };
    let change = |v: &Views, from: usize| {
        v.changed(|side, i, j, v| match kind {
            // Scale alone.
            0 => v * scales[side],
            // Rows over 14 decades, together within what the type holds.
            1 => v * scales[side].powf(0.7) * powers[(from + 2 * i + side) % powers.len()],
            // An offset beside the spread, at any scale.
            2 => (v + offset) * scales[side],
            // A column of zeros.
            3 => without(j, zero, v) * scales[side],
            // A constant column.
            _ => (without(j, constant, v) + if j == constant { value } else { 0.0 }) * scales[side],
        })
    };
    let clean = |v: &Views| {
        v.changed(|_, _, j, v| match kind {
            3 => without(j, zero, v),
            4 => without(j, constant, v),
            _ => v,
        })
    };
    let what = format!("kind {kind}, scales {scales:?}, offset {offset}, column {zero}/{constant} = {value}");
    Change { kind, clean: [clean(train), clean(test)], changed: [change(train, 0), change(test, 5)], what }
}

/// A way with means taken out.
fn centred(way: Way) -> Way {
    match way {
        Way::Fit(o) => Way::Fit(Box::new(FitOptions { center: Center::On, ..*o })),
        Way::Best(o) => Way::Best(Box::new(BestOptions { center: Center::On, ..*o })),
    }
}

#[test]
fn random_fits_have_no_nan_and_the_clean_recall() {
    let mut rng = ChaCha8Rng::seed_from_u64(2026);
    let (narrow, wide) = (Cpu::<f32>::new(1).unwrap(), Cpu::<f64>::new(1).unwrap());
    let (mut tried, mut worst) = (0, (0.0, String::new()));
    while tried < fits() {
        let seed = rng.random_range(0..1u64 << 40);
        let [train, test] = views(160, 100, (14, 12), 0.05, seed);
        let name = WAYS[rng.random_range(0..WAYS.len())];
        let kind = LOSSES[rng.random_range(0..LOSSES.len())];
        let is_wide = rng.random_bool(0.4) && !matches!(name, "rbf" | "matern");
        let mut way = way(name, loss(kind), 8, 160);
        let Change { kind: of, clean: [train, test], changed, what } =
            random_change(&mut rng, &train, &test, is_wide);
        // Offsets are taken out on request; below 30 times the spread they are not without.
        if of == 2 || of == 4 {
            way = centred(way);
        }
        // Distances do not forgive rows of other lengths.
        if of == 1 && matches!(name, "rbf" | "matern") {
            continue;
        }
        let (clean, got) = match rng.random_bool(0.2) {
            true => (
                reached(&wide, [&train, &test], is_wide, &way),
                reached(&wide, [&changed[0], &changed[1]], is_wide, &way),
            ),
            false => (
                reached(&narrow, [&train, &test], is_wide, &way),
                reached(&narrow, [&changed[0], &changed[1]], is_wide, &way),
            ),
        };
        tried += 2;
        // Where the clean data is not aligned well either, another rounding is another answer.
        let lost = if clean > 0.9 { clean - got } else { 0.0 };
        let text = format!("{name} {kind:?} {what}, seed {seed}, wide {is_wide}: {got}, {clean} clean");
        if lost > 0.02 {
            eprintln!("{text}");
        }
        if lost > worst.0 {
            worst = (lost, text);
        }
    }
    eprintln!("{tried} fits; most recall lost: {worst:?}");
    assert!(worst.0 <= 0.02, "{}", worst.1);
}

/// Shapes down to one row and one column, with zeros, duplicates and constants: no NaN, no row that is not unit.
#[test]
fn random_small_shapes_have_no_nan() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let cpu = Cpu::<f32>::new(1).unwrap();
    let (mut ended, mut refused, mut failed) = (0, 0, Vec::new());
    for _ in 0..fits() {
        let (n, d1, d2) = (rng.random_range(1..40), rng.random_range(1..12), rng.random_range(1..12));
        let [base, _] = views(n, 1, (d1, d2), 0.5, rng.random());
        let (zero_rows, copies, zero_cols) =
            (rng.random_bool(0.3), rng.random_range(1..4usize), rng.random_bool(0.3));
        let scale = 10f64.powf(rng.random_range(-30.0..30.0));
        let changed = base.changed(|side, i, j, v| match () {
            () if zero_rows && (i + side) % 3 == 0 => 0.0,
            () if zero_cols && j % 2 == side => 0.0,
            () => v * scale,
        });
        // Rows repeat.
        let repeat = |values: &[f64], d: usize| -> Vec<f64> {
            (0..n).flat_map(|i| values[i / copies * d..(i / copies + 1) * d].to_vec()).collect()
        };
        let changed = Views { x: repeat(&changed.x, d1), y: repeat(&changed.y, d2), ..changed };
        let name = WAYS[rng.random_range(0..WAYS.len())];
        let kind = LOSSES[rng.random_range(0..LOSSES.len())];
        let way = way(name, loss(kind), rng.random_range(1..=d1.min(d2)), n);
        match fitted(&cpu, &changed.sources(false), &way) {
            Ok((model, _)) => {
                let _ = recall(&cpu, &model, &changed.sources(false));
                ended += 1;
            }
            Err(Error::InvalidArgument { .. }) => refused += 1,
            Err(e) => failed.push(format!("{name} {kind:?}, {n} x {d1}, {d2} at {scale:e}: {e}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    eprintln!("{ended} fits, {refused} refused");
    assert!(ended > 2 * refused, "{ended} fits, {refused} refused");
}

/// Powers of two bring features into range; ordinary ones are left alone.
#[test]
fn ordinary_features_are_left_alone() {
    let [train, _] = views(100, 10, (6, 5), 0.3, 11);
    let cpu = Cpu::<f32>::new(1).unwrap();
    let way = way("whiten", loss(LossKind::Clip), 4, 100);
    let prepared = |v: &Views| fitted(&cpu, &v.sources(true), &way).unwrap().1.prepared;
    for scale in [1.0, 1e-5, 1e4] {
        let (x, y) = prepared(&train.scaled(scale));
        assert!([x, y].iter().all(|p| !p.centred && p.exponent == 0 && p.rows == RowScale::None));
    }
    let (x, _) = prepared(&train.scaled(1e30));
    assert!(x.exponent < -90 && x.rows == RowScale::None, "{x:?}");
    let (x, _) = prepared(&train.changed(|_, i, _, v| v * 10f64.powi(i as i32 % 15 - 7)));
    assert_eq!((x.exponent, x.rows), (0, RowScale::All));
}
