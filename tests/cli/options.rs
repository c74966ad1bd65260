//! Every option of `unicon fit` against the library asked for the same.

use crate::program::{Lab, distance};
use std::path::Path;
use unicon::backend::cpu::Cpu;
use unicon::data::LatentFactor;
use unicon::fit::{
    BatchScore, Batches, Data, Factorization, FitInfo, FitOptions, Init, KernelOptions, Landmarks, Preset,
    fit,
};
use unicon::io::{HostMatrix, RowSource, read_all};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;
use unicon::spectral::SvdMethod;

const N: usize = 75;
const RANK: usize = 5;

struct Pairs {
    lab: Lab,
    x: HostMatrix,
    y: HostMatrix,
    val_x: HostMatrix,
    val_y: HostMatrix,
    groups: Vec<i64>,
}

fn pairs() -> Pairs {
    let model = LatentFactor { sizes: [N, 40, 0], d1: 12, d2: 9, latent: 6, ..LatentFactor::nonlinear() };
    let splits = model.draw(3).unwrap();
    let lab = Lab::new();
    // What the program reads back is exactly what the library is given: float64.
    let save =
        |name: &str, m: &HostMatrix| lab.npy(name, &[m.rows(), m.cols()], &read_all::<f64>(m).unwrap());
    save("x.npy", &splits.train.x);
    save("y.npy", &splits.train.y);
    save("val_x.npy", &splits.val.x);
    save("val_y.npy", &splits.val.y);
    let groups: Vec<i64> = (0..N as i64).map(|i| 7 * (i % 15) - 20).collect();
    lab.npy("groups.npy", &[N], &groups);
    Pairs { lab, x: splits.train.x, y: splits.train.y, val_x: splits.val.x, val_y: splits.val.y, groups }
}

/// Cosines of all pairs of the validation rows.
fn similarities(model: &Model, pairs: &Pairs) -> Vec<f64> {
    let cpu = Cpu::<f64>::new(2).unwrap();
    let rows = |side: Side, source: &HostMatrix| -> Vec<f64> {
        let z = model.encode(&cpu, side, source).unwrap();
        let mut all = Vec::new();
        unicon::backend::Backend::store(&cpu, &z, &mut |_, panel| {
            all.extend_from_slice(panel);
            Ok(())
        })
        .unwrap();
        all
    };
    let (zx, zy, r) = (rows(Side::X, &pairs.val_x), rows(Side::Y, &pairs.val_y), model.embedding_dim());
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    zx.chunks(r).flat_map(|a| zy.chunks(r).map(move |b| product(a, b))).collect()
}

/// The program with `args` and the library with `options` must agree.
fn agree(pairs: &Pairs, args: &str, options: &FitOptions) -> FitInfo {
    let validated = args.contains("--val-x") || options.batches.is_some();
    let grouped = args.contains("--groups-x");
    let mut line =
        format!("fit --x x.npy --y y.npy --rank {} --precision f64 --out m.safetensors {args}", options.dim);
    if !args.contains("--preset") {
        line.push_str(" --preset global");
    }
    if validated {
        line.push_str(" --val-x val_x.npy --val-y val_y.npy");
    }
    let json = pairs.lab.json(&line);
    let positives = if grouped {
        Positives::from_groups(&pairs.groups, &pairs.groups).unwrap()
    } else {
        Positives::diagonal(N)
    };
    let val_positives = Positives::diagonal(pairs.val_x.rows());
    let data = Data { x: &pairs.x, y: &pairs.y, positives: &positives };
    let validation = Data { x: &pairs.val_x, y: &pairs.val_y, positives: &val_positives };
    let cpu = Cpu::<f64>::new(2).unwrap();
    let (model, info) = fit(&cpu, data, validated.then_some(validation), options).unwrap();
    let saved = Model::load(pairs.lab.path("m.safetensors")).unwrap();
    assert_eq!(saved.loss, model.loss, "{args}");
    assert_eq!(saved.components.len(), model.components.len(), "{args}");
    let error = distance(&similarities(&saved, pairs), &similarities(&model, pairs));
    // The same code in the same precision; sums may be split between threads in another order.
    assert!(error < 1e-9, "{args}: similarities differ by {error:e}");
    for (name, ours) in
        [("loss", &info.loss), ("singular_values", &info.singular_values), ("change", &info.change)]
    {
        let theirs = crate::program::numbers(&json["info"][name]);
        let scale = ours.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
        assert!(distance(&theirs, ours) < 1e-9 * scale, "{args}: {name}: {theirs:?}, expected {ours:?}");
    }
    assert_eq!(json["info"]["final_loss"].is_number(), info.final_loss.is_some(), "{args}");
    assert_eq!(json["info"]["iterations"], info.iterations, "{args}");
    info
}

#[test]
fn linear() {
    let pairs = pairs();
    let usual = FitOptions::new(RANK);
    agree(&pairs, "", &usual);
    agree(&pairs, "--iters 1 --whiten 0.1", &FitOptions { n_iters: 1, whiten: Some(0.1), ..usual.clone() });
    agree(
        &pairs,
        "--iters 3 --rho 2 --ridge 0.01 --scale-inputs --factorization power:1.5",
        &FitOptions {
            n_iters: 3,
            rho: 2.0,
            ridge: 0.01,
            scale_inputs: true,
            factorization: Factorization::Power(1.5),
            ..usual.clone()
        },
    );
    agree(&pairs, "--init random --seed 5", &FitOptions { init: Init::Random, seed: 5, ..usual.clone() });
    let gaussian = FitOptions { init: Init::Gaussian, seed: 5, ..usual.clone() };
    agree(&pairs, "--init gaussian --seed 5", &gaussian);
    let seeds = [5, 6].map(|seed| {
        agree(
            &pairs,
            &format!("--init random --seed {seed}"),
            &FitOptions { init: Init::Random, seed, ..usual.clone() },
        )
    });
    assert_ne!(seeds[0].loss, seeds[1].loss, "the seed matters");
    let converged = FitOptions { n_iters: 9, tol: 1e9, ..usual.clone() };
    assert_eq!(agree(&pairs, "--iters 9 --tol 1e9", &converged).iterations, 2);
    agree(&pairs, "--no-final-loss", &FitOptions { final_loss: false, ..usual.clone() });
    let negatives = NegativeSampling::Sampled { per_anchor: 16, seed: 3 };
    agree(&pairs, "--negatives 16 --seed 3", &FitOptions { negatives, seed: 3, ..usual.clone() });
    for (args, oversample, power_iterations) in [("randomized", 10, 4), ("randomized:2,1", 2, 1)] {
        let svd = SvdMethod::Randomized { oversample, power_iterations, seed: 4 };
        agree(&pairs, &format!("--svd {args} --seed 4"), &FitOptions { svd, seed: 4, ..usual.clone() });
    }
    agree(
        &pairs,
        "--groups-x groups.npy --groups-y groups.npy --iters 1",
        &FitOptions { n_iters: 1, ..usual },
    );
}

#[test]
fn losses() {
    let pairs = pairs();
    let of = |loss: Loss| FitOptions { loss, ..FitOptions::new(RANK) };
    let clip = Loss { eps_pos: 0.5, eps_neg: 2.0, log_eps: 1e-8, ..Loss::clip(0.2).with_nu(1.5) };
    agree(&pairs, "--tau 0.2 --nu 1.5 --eps-pos 0.5 --eps-neg 2 --log-eps 1e-8", &of(clip));
    agree(&pairs, "--loss sigmoid --tau 0.5", &of(Loss::new(LossKind::Sigmoid, 0.5)));
    for name in ["triplet-hard", "triplet_hard"] {
        let hard = Loss { margin: 0.2, ..Loss::new(LossKind::TripletHard, 0.07) };
        agree(&pairs, &format!("--loss {name} --margin 0.2"), &of(hard));
    }
    let smooth = Loss { margin: 0.3, ..Loss::new(LossKind::TripletSmooth, 0.4) };
    agree(&pairs, "--loss triplet_smooth --tau 0.4 --margin 0.3", &of(smooth));
}

#[test]
fn batches_and_the_papers_preset() {
    let pairs = pairs();
    let of = |size, count, drop_trailing| Some(Batches { count, drop_trailing, ..Batches::new(size) });
    let usual = FitOptions::new(RANK);
    let info =
        agree(&pairs, "--batch-size 20", &FitOptions { batches: of(20, None, false), ..usual.clone() });
    assert_eq!((info.rows_dropped, info.batch_weights[0].len()), (0, 3));
    let drop = FitOptions { batches: of(20, None, true), ..usual.clone() };
    assert_eq!(agree(&pairs, "--batch-size 20 --drop-trailing", &drop).rows_dropped, 15);
    agree(
        &pairs,
        "--batch-size 25 --batches 2",
        &FitOptions { batches: of(25, Some(2), false), ..usual.clone() },
    );
    let by_loss = Batches { score: BatchScore::Loss, ..Batches::new(20) };
    let by_loss = FitOptions { batches: Some(by_loss), ..usual.clone() };
    agree(&pairs, "--batch-size 20 --batch-score loss", &by_loss);
    let weighed = Batches { score: BatchScore::Recall, ..Batches::new(20) };
    agree(&pairs, "--batch-size 20 --batch-score recall", &FitOptions { batches: Some(weighed), ..usual });
    agree(&pairs, "--preset paper --seed 2", &FitOptions { seed: 2, ..Preset::PaperLinear.options(RANK) });
    let kernel = Some(KernelOptions::new(Preset::PaperKernel.kernel(KernelKind::Arccos), Landmarks::Exact));
    let random = FitOptions { kernel, init: Init::Random, ..Preset::PaperKernel.options(RANK) };
    agree(&pairs, "--preset paper --kernel arccos --init random", &random);
    let flickr = FitOptions { rho: 0.5, ..Preset::PaperFlickr.options(RANK) };
    agree(&pairs, "--preset paper-flickr --rho 0.5", &flickr);
    agree(&pairs, "--preset paper-coco-resnet", &Preset::PaperCocoResnet.options(RANK));
}

#[test]
fn kernels() {
    let pairs = pairs();
    let of = |kernel: Kernel, landmarks: Landmarks| FitOptions {
        kernel: Some(KernelOptions::new(kernel, landmarks)),
        ..FitOptions::new(RANK)
    };
    agree(&pairs, "--kernel angular", &of(Kernel::new(KernelKind::Angular), Landmarks::Count(N)));
    agree(&pairs, "--kernel arccos --exact", &of(Kernel::new(KernelKind::Arccos), Landmarks::Exact));
    let rbf = Kernel { gamma: 0.1, ..Kernel::new(KernelKind::Rbf) };
    let whitened = FitOptions { whiten: Some(0.5), seed: 8, ..of(rbf, Landmarks::Count(20)) };
    agree(&pairs, "--kernel rbf --gamma 0.1 --landmarks 20 --whiten 0.5 --seed 8", &whitened);
    let matern = Kernel { lengthscale: 2.0, ..Kernel::new(KernelKind::Matern) };
    let mut options = of(matern, Landmarks::Rows(vec![0, 9, 30, 31, 70, 74]));
    options.kernel.as_mut().unwrap().ridge = 1e-4;
    pairs.lab.npy("rows.npy", &[6], &[0i64, 9, 30, 31, 70, 74]);
    agree(&pairs, "--kernel matern --lengthscale 2 --landmark-rows rows.npy --kernel-ridge 1e-4", &options);
    let clamped = Kernel { beta: 2.0, cos_clamp: 1e-3, ..Kernel::new(KernelKind::ExpCosine) };
    agree(
        &pairs,
        "--kernel exp_cosine --beta 2 --cos-clamp 1e-3 --landmarks 30",
        &of(clamped, Landmarks::Count(30)),
    );
}

#[test]
fn every_kind_of_file_gives_the_same_model() {
    let pairs = pairs();
    let lab = &pairs.lab;
    let fit = |x: &str| {
        lab.json(&format!(
            "fit --preset global --x {x} --y y.npy --rank 4 --precision f64 --out f.safetensors"
        ));
        Model::load(lab.path("f.safetensors")).unwrap()
    };
    let usual = similarities(&fit("x.npy"), &pairs);
    let values: Vec<f64> = read_all(&pairs.x).unwrap();
    let d = pairs.x.cols();
    // Shards, in order of their names; a tensor of a safetensors file.
    std::fs::create_dir(lab.path("shards")).unwrap();
    for (k, rows) in values.chunks(20 * d).enumerate() {
        lab.npy(&format!("shards/part-{k:02}.npy"), &[rows.len() / d, d], rows);
    }
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![N, d], &bytes).unwrap();
    let file = safetensors::serialize([("features", tensor)], None).unwrap();
    std::fs::write(lab.path("x.safetensors"), file).unwrap();
    for x in ["shards", "shards/part-*.npy", "x.safetensors:features", "x.safetensors"] {
        assert_eq!(distance(&similarities(&fit(x), &pairs), &usual), 0.0, "{x}");
    }
    // Integers are converted.
    let small: Vec<u8> = values.iter().map(|v| (20.0 * v + 100.0) as u8).collect();
    lab.npy("u8.npy", &[N, d], &small);
    lab.npy("f32.npy", &[N, d], &small.iter().map(|&v| f32::from(v)).collect::<Vec<_>>());
    let (a, b) = (similarities(&fit("u8.npy"), &pairs), similarities(&fit("f32.npy"), &pairs));
    assert_eq!(distance(&a, &b), 0.0);
    assert!(Path::new(&lab.path("f.safetensors")).exists());
}
