//! Presets: one name is one algorithm in the library, the program and the C ABI, and what each does without being told.

use super::fitting::*;
use super::models::abi::*;
use crate::program::Lab;
use faer::Mat;
use std::ptr::{null, null_mut};
use unicon::fit::*;
use unicon::kernel::{Kernel, KernelKind};
use unicon::model::Model;
use unicon::positives::Positives;

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
            let (options, none) = (&options, null());
            let status = unicon_fit(context, options, &x, &y, none, null(), null(), &mut model, null_mut());
            assert_eq!(status, 0);
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
    let (default, paper) = (UNICON_PRESET_DEFAULT as i32, UNICON_PRESET_PAPER as i32);
    for (preset, args, number) in
        [(Preset::Global, "--preset global", default), (Preset::Paper, "--preset paper", paper)]
    {
        let o = preset.options(RANK);
        let want = fronts.rust(&o);
        assert!(relative(&fronts.program(args), &want) < 1e-9, "{args}");
        assert!(relative(&fronts.c(number, |_| ()), &want) < 1e-9, "{args}");
        // What is set beside it is set in all.
        let o = FitOptions { whiten: Some(0.2), ..o };
        let want = fronts.rust(&o);
        assert!(relative(&fronts.program(&format!("{args} --whiten 0.2")), &want) < 1e-9, "{args}");
        assert!(relative(&fronts.c(number, |o| o.whiten = 0.2), &want) < 1e-9, "{args}");
    }
    // They are two algorithms.
    let of = |p: Preset| fronts.rust(&p.options(RANK));
    assert!(relative(&of(Preset::Paper), &of(Preset::Global)) > 0.1);
}

#[test]
fn the_papers_kernels_clamp_cosines_in_every_front() {
    let fronts = Fronts::new();
    let kernel = |clamp: f64| {
        let kernel = Kernel { cos_clamp: clamp, ..Kernel::new(KernelKind::Angular) };
        Some(KernelOptions::new(kernel, Landmarks::Exact))
    };
    let (x, y) = (matrix("x", ROWS, &fronts.x), matrix("y", ROWS, &fronts.y));
    let positives = Positives::diagonal(ROWS);
    let of = |clamp: f64| {
        let o = FitOptions { kernel: kernel(clamp), ..Preset::Paper.options(RANK) };
        fit(&oracle(), Data { x: &x, y: &y, positives: &positives }, None, &o).unwrap().0
    };
    let clamps = |model: &Model| model.components[0].x.map.as_ref().unwrap().kernel.cos_clamp;
    let want = of(Preset::Paper.cos_clamp());
    fronts.program("--preset paper --kernel angular");
    let program = Model::load(fronts.lab.path("m.safetensors")).unwrap();
    fronts.c(UNICON_PRESET_PAPER as i32, |o| {
        // SAFETY: a struct that its function initialises; it outlives the call.
        let kernel = Box::leak(Box::new(unsafe { std::mem::zeroed::<unicon_kernel>() }));
        // SAFETY: the same.
        let status =
            unsafe { unicon_kernel_init(kernel, size_of::<unicon_kernel>(), UNICON_KERNEL_ANGULAR as i32) };
        assert_eq!(status, 0);
        o.kernel = kernel;
    });
    let c = Model::load(fronts.lab.path("c.safetensors")).unwrap();
    assert_eq!([clamps(&want), clamps(&program), clamps(&c)], [1e-5; 3]);
    for got in [&program, &c] {
        assert_eq!(got.components.len(), want.components.len());
        assert!(relative(&product(got), &product(&want)) < 1e-9);
    }
    assert_ne!(product(&of(0.0)), product(&want));
}

#[test]
fn a_kernel_of_the_preset_best_has_landmarks_without_being_told() {
    let fronts = Fronts::new();
    let json = fronts
        .lab
        .json(&format!("fit --x x.npy --y y.npy --rank {RANK} --kernel angular --out m.safetensors"));
    assert!(json["info"]["chosen"]["rank"] == RANK);
    let model = Model::load(fronts.lab.path("m.safetensors")).unwrap();
    // 512, or all rows that are not held back.
    assert_eq!(model.components[0].x.map.as_ref().unwrap().landmarks.nrows(), ROWS - ROWS / 10);
}

/// A second update ruins a whitened fit (titles, icons: by up to two thirds of Recall@1), so that there is none by default.
#[test]
fn a_whitened_fit_makes_one_update_unless_told_otherwise() {
    let fronts = Fronts::new();
    let iterations = |args: &str| {
        let json = fronts.lab.json(&format!(
            "fit --preset global --x x.npy --y y.npy --rank {RANK} --out m.safetensors {args}"
        ));
        (json["info"]["iterations"].as_u64().unwrap(), json["warning"].as_str().map(String::from))
    };
    assert_eq!(iterations("").0, 2);
    assert_eq!(iterations("--whiten 0.1").0, 1);
    let (two, warning) = iterations("--whiten 0.1 --iters 2 --tau 0.01");
    assert_eq!(two, 2);
    // Advice that was taken already is not given.
    let warning = warning.expect("a second update that raises the loss");
    assert!(!warning.contains("--whiten") && warning.contains("--iters 1"), "{warning}");
    let plain = iterations("--iters 3 --tau 0.01").1.expect("an update that raises the loss");
    assert!(plain.contains("--whiten"), "{plain}");
}
