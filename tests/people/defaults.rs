//! Defaults: what is not given is the same in the library, the program, C, C++, Python and Julia.

use super::models::abi::*;
use crate::ffi::{self, have, python_script, python_with, root, run};
use crate::program::Lab;
use std::collections::BTreeMap;
use std::process::Command;
use unicon::fit::{
    BatchScore, BestOptions, DampingOptions, Dim, FitOptions, KernelOptions, Landmarks, MinibatchOptions,
    Preset, RefineOptions,
};
use unicon::kernel::Kernel;
use unicon::loss::{Loss, LossKind};
use unicon::retrieval::Bootstrap;

/// Values by `struct.field`, as unicon.h names them.
type Values = BTreeMap<String, f64>;

fn count(n: usize) -> f64 {
    n as f64
}

/// The header's number.
fn score(score: BatchScore) -> f64 {
    f64::from(match score {
        BatchScore::Accuracy => UNICON_BATCH_SCORE_ACCURACY,
        BatchScore::Equal => UNICON_BATCH_SCORE_EQUAL,
        BatchScore::Recall => UNICON_BATCH_SCORE_RECALL,
        BatchScore::ReciprocalRank => UNICON_BATCH_SCORE_RECIPROCAL_RANK,
        BatchScore::Loss => UNICON_BATCH_SCORE_LOSS,
    })
}

/// The fields of `unicon_fit_options` in a preset.
fn of_fit(preset: Preset) -> Vec<(&'static str, f64)> {
    let o = preset.options(1);
    let updates = if o.n_iters == FitOptions::AUTO { -1.0 } else { count(o.n_iters) };
    vec![
        ("n_iters", updates),
        ("rho", o.rho),
        ("power", o.factorization.power()),
        ("ridge", o.ridge),
        ("scale_inputs", f64::from(o.scale_inputs)),
        ("tol", o.tol),
        ("batch_size", o.batches.map_or(0.0, |b| count(b.size))),
        ("n_batches", o.batches.and_then(|b| b.count).map_or(0.0, count)),
        ("drop_trailing", f64::from(o.batches.is_some_and(|b| b.drop_trailing))),
        ("batch_score", o.batches.map_or(0.0, |b| score(b.score))),
        ("whiten", o.whiten.unwrap_or(-1.0)),
        ("kernel_ridge", KernelOptions::new(Kernel::default(), Landmarks::Auto).ridge),
        ("cos_clamp", preset.cos_clamp()),
        ("n_negatives", o.negatives.per_anchor().map_or(0.0, count)),
        ("growth", o.growth),
        ("exact_last", f64::from(o.exact_last)),
        ("seed", o.seed as f64),
        ("budget", o.budget.map_or(0.0, |b| b.as_secs_f64())),
        ("final_loss", f64::from(o.final_loss)),
    ]
}

/// The schedules of the paper.
const PAPER: [(&str, Preset); 5] = [
    ("paper-linear", Preset::PaperLinear),
    ("paper-kernel", Preset::PaperKernel),
    ("paper-flickr", Preset::PaperFlickr),
    ("paper-coco-clip", Preset::PaperCocoClip),
    ("paper-coco-resnet", Preset::PaperCocoResnet),
];

/// The defaults of the library.
fn library() -> Values {
    let mut all = Values::new();
    let mut put = |name: &str, values: &[(&str, f64)]| {
        all.extend(values.iter().map(|(field, value)| (format!("{name}.{field}"), *value)));
    };
    put("fit", &of_fit(Preset::Global));
    for (name, preset) in PAPER {
        put(name, &of_fit(preset));
    }
    let (o, ridge) =
        (BestOptions::new(Dim::Auto), KernelOptions::new(Kernel::default(), Landmarks::Auto).ridge);
    put(
        "best",
        &[
            ("energy", Dim::ENERGY),
            ("tau_auto", f64::from(o.tau_auto)),
            ("kernel_ridge", ridge),
            ("n_negatives", o.sample.map_or(0.0, count)),
            ("exact", f64::from(o.exact)),
            ("final_loss", f64::from(o.final_loss)),
            ("budget", o.budget.map_or(0.0, |b| b.as_secs_f64())),
            ("seed", o.seed as f64),
        ],
    );
    let l = Loss::default();
    let terms =
        [("margin", l.margin), ("eps_pos", l.eps_pos), ("eps_neg", l.eps_neg), ("log_eps", l.log_eps)];
    put("loss", &terms);
    put("loss", &[("tau", l.tau)]);
    // Which the kind decides.
    put("loss", &[("nu", -f64::MAX)]);
    assert_eq!([Loss::new(LossKind::Clip, 0.1).nu, Loss::new(LossKind::Sigmoid, 0.1).nu], [1.0, 1.5]);
    let k = Kernel::default();
    let parameters = [("gamma", k.gamma), ("lengthscale", k.lengthscale), ("cos_clamp", k.cos_clamp)];
    put("kernel", &parameters);
    put("kernel", &[("beta", k.beta)]);
    let d = DampingOptions::default();
    put("damping", &[("first", d.first), ("halvings", count(d.halvings)), ("tol", d.tol)]);
    let r = RefineOptions::default();
    put("refine", &[("max_steps", count(r.max_steps)), ("tol", r.tol), ("first_step", r.first_step)]);
    put("refine", &[("memory", count(r.memory)), ("patience", count(r.patience))]);
    let m = MinibatchOptions::default();
    let most = if m.max_steps == usize::MAX { 0.0 } else { count(m.max_steps) };
    put("minibatch", &[("batch", count(m.batch)), ("epochs", count(m.epochs)), ("max_steps", most)]);
    put("minibatch", &[("min_steps", count(m.min_steps)), ("patience", count(m.patience))]);
    put("minibatch", &[("rate", m.rate), ("momentum", m.momentum)]);
    let b = Bootstrap::default();
    put("evaluation", &[("resamples", count(b.resamples)), ("level", b.level), ("seed", b.seed as f64)]);
    all
}

/// What a front printed: a line `struct.field value` for each.
fn parsed(text: &str) -> Values {
    let value = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(value).collect()
}

/// What a front says is what the library says, and it says all of it, or at least `least` values.
fn check(front: &str, said: &Values, least: usize) {
    let library = library();
    for (name, value) in said {
        assert_eq!(Some(value), library.get(name), "{front}: {name}");
    }
    let missing: Vec<_> = library.keys().filter(|name| !said.contains_key(*name)).collect();
    assert!(said.len() >= least, "{front} says nothing of {missing:?}");
}

/// Reads fields of a struct that its function has initialised.
macro_rules! fields {
    ($values:ident, $name:literal, $raw:ident: $($field:ident)*) => {
        $($values.insert(format!(concat!($name, ".", stringify!($field))), $raw.$field as f64);)*
    };
}

#[test]
#[allow(clippy::unnecessary_cast)] // Fields are integers and floats.
fn those_of_c_are_the_librarys() {
    let mut said = Values::new();
    // SAFETY: as include/unicon.h asks: structs of the sizes given.
    unsafe {
        let mut o: unicon_fit_options = std::mem::zeroed();
        assert_eq!(unicon_fit_options_init(&mut o, size_of_val(&o)), 0);
        fields!(said, "fit", o: n_iters rho power ridge scale_inputs tol batch_size n_batches drop_trailing batch_score whiten
            kernel_ridge cos_clamp n_negatives growth exact_last seed budget final_loss);
        for (preset, (name, _)) in (UNICON_PRESET_PAPER_LINEAR..).zip(PAPER) {
            assert_eq!(unicon_fit_options_init(&mut o, size_of_val(&o)), 0);
            assert_eq!(unicon_fit_options_preset(&mut o, preset as i32), 0);
            let mut of_it = Values::new();
            fields!(of_it, "paper", o: n_iters rho power ridge scale_inputs tol batch_size n_batches drop_trailing
                batch_score whiten kernel_ridge cos_clamp n_negatives growth exact_last seed budget final_loss);
            said.extend(of_it.into_iter().map(|(field, v)| (field.replace("paper", name), v)));
        }
        let mut o: unicon_best_options = std::mem::zeroed();
        assert_eq!(unicon_best_options_init(&mut o, size_of_val(&o)), 0);
        fields!(said, "best", o: energy tau_auto kernel_ridge n_negatives exact final_loss budget seed);
        let mut l: unicon_loss = std::mem::zeroed();
        assert_eq!(unicon_loss_init(&mut l, size_of_val(&l), UNICON_LOSS_SIGMOID as i32), 0);
        fields!(said, "loss", l: margin eps_pos eps_neg log_eps tau nu);
        let mut k: unicon_kernel = std::mem::zeroed();
        assert_eq!(unicon_kernel_init(&mut k, size_of_val(&k), UNICON_KERNEL_RBF as i32), 0);
        fields!(said, "kernel", k: gamma lengthscale cos_clamp beta);
        let mut d: unicon_damping = std::mem::zeroed();
        assert_eq!(unicon_damping_init(&mut d, size_of_val(&d)), 0);
        fields!(said, "damping", d: first halvings tol);
        let mut r: unicon_refine = std::mem::zeroed();
        assert_eq!(unicon_refine_init(&mut r, size_of_val(&r)), 0);
        fields!(said, "refine", r: max_steps tol first_step memory patience);
        let mut m: unicon_minibatch = std::mem::zeroed();
        assert_eq!(unicon_minibatch_init(&mut m, size_of_val(&m)), 0);
        fields!(said, "minibatch", m: batch epochs max_steps min_steps patience rate momentum);
        let mut e: unicon_evaluation_options = std::mem::zeroed();
        assert_eq!(unicon_evaluation_options_init(&mut e, size_of_val(&e)), 0);
        fields!(said, "evaluation", e: resamples level seed);
    }
    check("C", &said, library().len());
}

#[test]
fn those_of_the_program_are_the_librarys() {
    let lab = Lab::new();
    let mut said = Values::new();
    for (command, options) in [
        (
            "fit",
            &[
                ("--rho", "fit.rho"),
                ("--ridge", "fit.ridge"),
                ("--tol", "fit.tol"),
                ("--growth", "fit.growth"),
                ("--tau", "loss.tau"),
                ("--margin", "loss.margin"),
                ("--eps-pos", "loss.eps_pos"),
                ("--eps-neg", "loss.eps_neg"),
                ("--log-eps", "loss.log_eps"),
                ("--beta", "kernel.beta"),
                ("--kernel-ridge", "fit.kernel_ridge"),
            ][..],
        ),
        ("eval", &[("--resamples", "evaluation.resamples")]),
    ] {
        let help = lab.run(&format!("{command} --help")).stdout;
        for (option, name) in options {
            let of_it = help.split(&format!("{option} <")).nth(1).unwrap_or_else(|| panic!("{option}"));
            let value = of_it.split("[default: ").nth(1).unwrap_or_else(|| panic!("{option}"));
            said.insert((*name).into(), value.split([']', ';']).next().unwrap().parse().unwrap());
        }
    }
    check("the program", &said, 12);
}

#[test]
fn those_of_cpp_are_the_librarys() {
    if !have("g++", "g++") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    super::bindings::linkable(dir.path());
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-I"]).arg(root().join("include"));
    compiler
        .arg(root().join("tests/people/bindings/defaults.cpp"))
        .arg("-o")
        .arg(dir.path().join("defaults"));
    compiler.arg("-L").arg(dir.path()).arg("-lunicon");
    run(compiler.arg(format!("-Wl,-rpath,{}", dir.path().display())));
    check("C++", &parsed(&run(&mut Command::new(dir.path().join("defaults")))), library().len());
}

#[test]
fn those_of_python_are_the_librarys() {
    let Some(python) = python_with("numpy") else { return };
    let text = run(&mut python_script(python, "tests/people/bindings/defaults.py"));
    check("Python", &parsed(&text), library().len());
}

#[test]
fn those_of_julia_are_the_librarys() {
    let depot = tempfile::tempdir().unwrap();
    if let Some(mut julia) = ffi::julia(depot.path()) {
        let text = run(julia.arg(root().join("tests/people/bindings/defaults.jl")));
        check("Julia", &parsed(&text), library().len());
    }
}
