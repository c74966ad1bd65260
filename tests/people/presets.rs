//! Presets: one name is one algorithm in the library, the program and the C ABI, and what each does without being told.

use super::fitting::*;
use super::models::abi::*;
use crate::program::Lab;
use faer::Mat;
use std::ptr::{null, null_mut};
use unicon::backend::{Backend, Similarity};
use unicon::fit::*;
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::Loss;
use unicon::model::Model;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

/// The same data for the library, the program and the C ABI.
struct Fronts {
    lab: Lab,
    x: Vec<f64>,
    y: Vec<f64>,
}

const ROWS: usize = 70;
const DIMS: (usize, usize) = (9, 7);
const RANK: usize = 4;

impl Fronts {
    fn new() -> Self {
        let (x, y) = views(ROWS, DIMS, 5, 0.4, 21);
        let lab = Lab::new();
        lab.npy("x.npy", &[ROWS, DIMS.0], &x);
        lab.npy("y.npy", &[ROWS, DIMS.1], &y);
        Self { lab, x, y }
    }

    fn rust(&self, o: &FitOptions) -> Mat<f64> {
        let (x, y) = (matrix("x", ROWS, &self.x), matrix("y", ROWS, &self.y));
        let positives = Positives::diagonal(ROWS);
        product(&fit(&oracle(), Data { x: &x, y: &y, positives: &positives }, None, o).unwrap().0)
    }

    fn program(&self, args: &str) -> Mat<f64> {
        self.lab.json(&format!(
            "fit --x x.npy --y y.npy --rank {RANK} --precision f64 --out m.safetensors {args}"
        ));
        product(&Model::load(self.lab.path("m.safetensors")).unwrap())
    }

    fn c(&self, preset: i32, set: impl Fn(&mut unicon_fit_options)) -> Mat<f64> {
        let view = |values: &[f64], d: usize| unicon_matrix {
            data: values.as_ptr().cast_mut().cast(),
            rows: ROWS as i64,
            cols: d as i64,
            row_stride: d as i64,
            col_stride: 1,
            dtype: UNICON_F64 as i32,
            device_type: UNICON_DEVICE_CPU as i32,
            device_id: 0,
            reserved: 0,
        };
        let (x, y) = (view(&self.x, DIMS.0), view(&self.y, DIMS.1));
        let path = self.lab.path("c.safetensors");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: as include/unicon.h asks: structs that its functions have initialised, arrays of the sizes given.
        unsafe {
            let (mut context, mut model) = (null_mut(), null_mut());
            let mut options: unicon_fit_options = std::mem::zeroed();
            assert_eq!(unicon_context_create(null(), &mut context), 0);
            assert_eq!(unicon_fit_options_init(&mut options, size_of::<unicon_fit_options>()), 0);
            options.r = RANK as i64;
            assert_eq!(unicon_fit_options_preset(&mut options, preset), 0);
            set(&mut options);
            let pairs =
                unicon_pairs { struct_size: size_of::<unicon_pairs>(), x: &x, y: &y, positives: null() };
            assert_eq!(unicon_fit(context, &options, &pairs, &mut model, null_mut()), 0);
            assert_eq!(unicon_model_save(context, model, name.as_ptr()), 0);
            unicon_model_destroy(model);
            unicon_context_destroy(context);
        }
        product(&Model::load(path).unwrap())
    }
}

/// One name is one algorithm, whichever front it is asked of.
#[test]
fn a_preset_is_the_same_in_the_library_the_program_and_c() {
    let fronts = Fronts::new();
    let mut all: Vec<Mat<f64>> = Vec::new();
    for (preset, number) in NUMBERS {
        // The presets' batches of 1,000 rows are more than there are.
        let batch = preset.options(RANK).batches.map(|b| b.size.min(40));
        let args = format!("--preset {}", preset.name());
        let args = batch.map_or(args.clone(), |b| format!("{args} --batch-size {b}"));
        let mut o = preset.options(RANK);
        let batched = |o: &mut unicon_fit_options| o.batch_size = batch.map_or(0, |b| b as i64);
        o.batches = o.batches.map(|b| Batches { size: b.size.min(40), ..b });
        let want = fronts.rust(&o);
        assert!(relative(&fronts.program(&args), &want) < 1e-9, "{args}");
        assert!(relative(&fronts.c(number as i32, batched), &want) < 1e-9, "{args}");
        // What is set beside it is set in all.
        o.ridge = 0.3;
        let ridged = fronts.rust(&o);
        assert!(relative(&fronts.program(&format!("{args} --ridge 0.3")), &ridged) < 1e-9, "{args}");
        let set = |o: &mut unicon_fit_options| {
            batched(o);
            o.ridge = 0.3;
        };
        assert!(relative(&fronts.c(number as i32, set), &ridged) < 1e-9, "{args}");
        // They are as many algorithms.
        assert!(
            all.iter().all(|other| other.shape() != want.shape() || relative(other, &want) > 1e-3),
            "{args}"
        );
        all.push(want);
    }
    assert_eq!(all.len(), Preset::ALL.len());
}

/// The presets by the numbers of the C ABI.
const NUMBERS: [(Preset, u32); 6] = [
    (Preset::Global, UNICON_PRESET_DEFAULT),
    (Preset::PaperLinear, UNICON_PRESET_PAPER_LINEAR),
    (Preset::PaperKernel, UNICON_PRESET_PAPER_KERNEL),
    (Preset::PaperFlickr, UNICON_PRESET_PAPER_FLICKR),
    (Preset::PaperCocoClip, UNICON_PRESET_PAPER_COCO_CLIP),
    (Preset::PaperCocoResnet, UNICON_PRESET_PAPER_COCO_RESNET),
];

/// What each schedule is, as the authors' experiment scripts have it.
#[test]
fn presets_of_the_paper_are_the_authors_schedules() {
    let of = |p: Preset| {
        let rank = p.dim().unwrap();
        let o = p.options(rank);
        assert_eq!((o.whiten, o.center, o.damping.is_none()), (None, Center::Off, true));
        let batch = o.batches.map(|b| (b.size, b.count, b.drop_trailing));
        let random = matches!(o.init, Init::Random);
        (rank, (o.loss.tau, o.loss.nu), o.factorization.power(), o.n_iters, batch, random)
    };
    let thirty = Some((30, None, true));
    assert_eq!(of(Preset::PaperLinear), (10, (1.0, 1.0), 0.5, 1, thirty, true));
    assert_eq!(of(Preset::PaperKernel), (10, (1.0, 1.0), 0.5, 10, thirty, false));
    assert_eq!(of(Preset::PaperFlickr), (128, (1.0, 2.0), 0.0, 2, None, true));
    assert_eq!(of(Preset::PaperCocoClip), (512, (0.07, 1.5), 0.0, 2, Some((1000, Some(1), true)), true));
    assert_eq!(of(Preset::PaperCocoResnet), (256, (0.07, 1.5), 0.0, 2, None, true));
    let rest = |p: Preset| {
        let o = p.options(10);
        (o.tol, o.rho, o.ridge, o.scale_inputs)
    };
    assert_eq!(rest(Preset::PaperKernel), (1e-3, 1.0, 0.0, false));
    assert_eq!(rest(Preset::PaperCocoClip), (0.0, 1.0, 10.0, true));
    assert_eq!(rest(Preset::PaperCocoResnet), (0.0, 0.1, 1e-4, true));
    let score = |p: Preset| p.options(10).batches.unwrap().score;
    assert_eq!(score(Preset::PaperLinear), BatchScore::Equal);
    assert_eq!(score(Preset::PaperKernel), BatchScore::Accuracy);
    let kernel = Preset::PaperKernel.options(10).kernel.unwrap();
    assert_eq!((kernel.kernel.kind, kernel.landmarks), (KernelKind::Angular, Landmarks::Exact));
}

/// A preset brings its dimension and its loss, unless they are given.
#[test]
fn a_preset_of_the_paper_brings_its_rank_and_loss() {
    let fronts = Fronts::new();
    let said = |args: &str| {
        let json = fronts.lab.json(&format!("fit --x x.npy --y y.npy --out m.safetensors {args}"));
        let n = |v: &serde_json::Value| v.as_f64().unwrap();
        (
            json["preset"].as_str().unwrap().to_string(),
            n(&json["rank"]),
            n(&json["loss_def"]["tau"]),
            n(&json["loss_def"]["nu"]),
        )
    };
    assert_eq!(said("--preset paper --rank 3"), ("paper-linear".into(), 3.0, 1.0, 1.0));
    // Of 7 features there is no shared space of dimension 10, of kernel features of 30 rows there is.
    assert_eq!(said("--preset paper --kernel rbf"), ("paper-kernel".into(), 10.0, 1.0, 1.0));
    assert_eq!(said("--preset paper-flickr --rank 2 --tau 0.2"), ("paper-flickr".into(), 2.0, 0.2, 2.0));
    assert_eq!(said("--preset paper-flickr --rank 2 --nu 1"), ("paper-flickr".into(), 2.0, 1.0, 1.0));
    assert_eq!(said("--preset global --rank 2"), ("global".into(), 2.0, 0.07, 1.0));
    let out = fronts.lab.fails(1, "fit --x x.npy --y y.npy --out m.safetensors");
    assert!(out.contains("--rank") && out.contains("dimension"), "{out}");
    let out = fronts.lab.fails(1, "fit --preset paper-flickr --x x.npy --y y.npy --out m.safetensors");
    assert!(out.contains("min(d1, d2) = 7") && out.contains("128"), "{out}");
    // C: 0 and NULL are not set yet.
    // SAFETY: structs that the header's functions initialise.
    unsafe {
        let mut o: unicon_fit_options = std::mem::zeroed();
        assert_eq!(unicon_fit_options_init(&mut o, size_of_val(&o)), 0);
        assert_eq!(unicon_fit_options_preset(&mut o, UNICON_PRESET_DEFAULT as i32), 0);
        assert_eq!((o.r, o.loss.is_null(), o.kernel.is_null()), (0, true, true));
        assert_eq!(unicon_fit_options_preset(&mut o, UNICON_PRESET_PAPER as i32), 0);
        assert_eq!((o.r, o.n_iters, o.kernel.is_null()), (10, 1, true));
        assert_eq!(((*o.loss).tau, (*o.loss).nu), (1.0, 1.0));
        assert_eq!(unicon_fit_options_preset(&mut o, UNICON_PRESET_PAPER_KERNEL as i32), 0);
        assert_eq!(((*o.kernel).kind, (*o.kernel).cos_clamp), (UNICON_KERNEL_ANGULAR as i32, 1e-5));
        o.r = 5;
        o.n_iters = 1;
        assert_eq!(unicon_fit_options_preset(&mut o, UNICON_PRESET_PAPER as i32), 0);
        assert_eq!((o.r, o.n_iters), (5, 10));
        assert_ne!(unicon_fit_options_preset(&mut o, 7), 0);
        assert_ne!(unicon_fit_options_preset(&mut o, -1), 0);
    }
}

/// What weighs batches: scores of the definition on the validation rows, or nothing.
#[test]
fn batches_are_weighed_by_the_score_that_is_asked_for() {
    let fronts = Fronts::new();
    let (x, y) = (matrix("x", ROWS, &fronts.x), matrix("y", ROWS, &fronts.y));
    let (vx, vy) = views(50, DIMS, 5, 0.4, 22);
    let (vx, vy) = (matrix("x", 50, &vx), matrix("y", 50, &vy));
    let (positives, held) = (Positives::diagonal(ROWS), Positives::diagonal(50));
    let fitted = |score: BatchScore, size: usize, kernel: Option<KernelOptions>| {
        let batches = Some(Batches { score, drop_trailing: true, ..Batches::new(size) });
        let o = FitOptions { batches, n_iters: 1, kernel, center: Center::Off, ..FitOptions::new(RANK) };
        let validation = Some(Data { x: &vx, y: &vy, positives: &held });
        fit(&oracle(), Data { x: &x, y: &y, positives: &positives }, validation, &o).unwrap()
    };
    let kernel = Some(KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Exact));
    for kernel in [None, kernel] {
        let equal = fitted(BatchScore::Equal, 35, kernel.clone()).1.batch_weights[0].clone();
        assert_eq!(equal[0], equal[1]);
        // The encoders of a batch alone score what its weight is.
        let alone = |score: Option<fn(&unicon::retrieval::Recall) -> f64>, from: usize| {
            let rows = |m: &unicon::io::HostMatrix| {
                unicon::io::Rows::new(m.clone(), (from..from + 35).collect()).unwrap()
            };
            let o = FitOptions {
                n_iters: 1,
                kernel: kernel.clone(),
                center: Center::Off,
                ..FitOptions::new(RANK)
            };
            let p = Positives::diagonal(35);
            let model =
                fit(&oracle(), Data { x: &rows(&x), y: &rows(&y), positives: &p }, None, &o).unwrap().0;
            let encode = |side, m| model.encode(&oracle(), side, m).unwrap();
            let (zx, zy) = (encode(unicon::model::Side::X, &vx), encode(unicon::model::Side::Y, &vy));
            let Some(score) = score else {
                let (s, loss) = (Similarity::Embeddings(&zx, &zy), FitOptions::new(RANK).loss);
                let w = oracle().weights(s, &loss, &held, NegativeSampling::All).unwrap();
                return (-w.value()).exp();
            };
            let o = unicon::retrieval::RecallOptions::new(&[1]);
            score(&unicon::retrieval::evaluate(&oracle(), &zx, &zy, &held, &o).unwrap())
        };
        let recall = |r: &unicon::retrieval::Recall| 0.5 * (r.x_to_y[0] + r.y_to_x[0]);
        let mrr = |r: &unicon::retrieval::Recall| 0.5 * (r.mrr[0] + r.mrr[1]);
        for (kind, score) in [
            (BatchScore::Recall, Some(recall as fn(&_) -> f64)),
            (BatchScore::ReciprocalRank, Some(mrr)),
            (BatchScore::Loss, None),
        ] {
            let got = fitted(kind, 35, kernel.clone()).1.batch_weights[0].clone();
            let want = [alone(score, 0), alone(score, 35)];
            assert!(
                (got[0] * want[1] - got[1] * want[0]).abs() < 1e-9 && want[0] != want[1],
                "{got:?} {want:?}"
            );
        }
    }
}

/// The losses that are compared are over the same negatives, those of the second update, also where the first saw others.
#[test]
fn updates_are_compared_over_the_negatives_of_the_second() {
    let positives = Positives::diagonal(400);
    let cpu = oracle();
    let (mut kept, mut rejected) = (0, 0);
    // Pairs that have little in common, where a second update overshoots, and pairs that have much.
    for (k, (noise, tau)) in
        [0.4, 1.0, 3.0, 8.0].into_iter().flat_map(|s| [0.5, 0.07, 0.02].map(|tau| (s, tau))).enumerate()
    {
        let (x, y) = views(400, DIMS, 5, noise, 23 + k as u64);
        let (x, y) = (matrix("x", 400, &x), matrix("y", 400, &y));
        let negatives = NegativeSampling::Sampled { per_anchor: 40, seed: k as u64 };
        let loss = Loss::clip(tau).with_nu(1.5);
        let o = FitOptions { loss: loss.clone(), negatives, exact_last: true, ..FitOptions::new(RANK) };
        let (model, info) = fit(&cpu, Data { x: &x, y: &y, positives: &positives }, None, &o).unwrap();
        let encode = |side, m| model.encode(&cpu, side, m).unwrap();
        let (zx, zy) = (encode(unicon::model::Side::X, &x), encode(unicon::model::Side::Y, &y));
        let s = Similarity::Embeddings(&zx, &zy);
        // All of them, as the last update has.
        let exact = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap().value();
        // Sums of 400 terms in two orders.
        let limit = 1e-10 * info.loss[1].abs();
        match info.rejected {
            Some(after) => {
                rejected += 1;
                assert!(after > info.loss[1] && (exact - info.loss[1]).abs() < limit);
            }
            None => {
                kept += 1;
                assert!(exact <= info.loss[1] + limit, "{noise}, tau {tau}: {exact} after {}", info.loss[1]);
            }
        }
    }
    assert!(kept > 0 && rejected > 0, "{kept} {rejected}");
}
