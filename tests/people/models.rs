//! Models from strangers: whatever a file says, the answer is a model that works or one line, at once.

// The C ABI as its header has it; the functions are the library's own, linked in.
#[path = "../../src/ffi/bindings.rs"]
#[rustfmt::skip]
pub(crate) mod abi;

use crate::parts::{Parts, kernel, tensor};
use crate::program::Lab;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::io::HostMatrix;
use unicon::model::{Model, Side};

/// More than any refusal takes, less than a person waits.
const LONG: Duration = Duration::from_secs(10);

/// What a file is refused for, and words of the refusal.
fn refused() -> Vec<(Parts, &'static str)> {
    let linear = Parts::linear;
    let angular = || Parts::with_kernel(kernel("angular"));
    let mut cases = Vec::new();
    // Extents: zero ones spun for ever where the other was large.
    for shape in [[0, 1 << 62], [0, 1_000_000_000], [1 << 62, 0], [0, 0], [2, 0], [0, 3]] {
        cases.push((linear().shaped(0, &shape), "at least one row and one column"));
        cases.push((linear().shaped(1, &shape), "at least one row and one column"));
        cases.push((angular().shaped(2, &shape), "at least one row and one column"));
    }
    for shape in [[1 << 62, 1 << 62], [1 << 32, 1 << 32], [u64::MAX, 2], [1 << 61, 4]] {
        cases.push((linear().shaped(0, &shape), "bad safetensors header"));
    }
    cases.push((linear().shaped(0, &[2, 3, 1]), "2 dimensions"));
    cases.push((linear().shaped(0, &[]), "2 dimensions"));
    cases.push((linear().shaped(0, &[1, 6]), "equal numbers of rows"));
    cases.push((angular().shaped(2, &[4, 3]), "as many landmarks"));
    // Numbers.
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        cases.push((linear().valued(0, 5, value), "c0.x.encoder: row 1 holds NaN or infinity (column 2)"));
        cases.push((angular().valued(2, 0, value), "c0.x.landmarks: row 0 holds NaN or infinity"));
    }
    cases.push((linear().valued(1, 4, 1e300), "1e300 at row 1, column 0"));
    cases.push((linear().valued(1, 4, -f64::MAX), "at row 1, column 0"));
    cases.push((angular().valued(2, 1, 1e39), "c0.x.landmarks: 1e39"));
    for (weight, words) in [
        ("1e300", "(0, 1]"),
        ("0.0", "(0, 1]"),
        ("-1.0", "(0, 1]"),
        ("1e-300", "sum to 1"),
        ("0.5", "sum to 1"),
        ("1e999", "components"),
        ("null", "components"),
        ("\"1\"", "components"),
        ("NaN", "components"),
    ] {
        cases.push((linear().said("components", "1.0", weight), words));
    }
    // Names.
    cases.push((Parts::with_kernel(kernel("polynomial")), "unknown variant `polynomial`"));
    cases.push((linear().said("loss", "clip", "hinge"), "unknown variant `hinge`"));
    cases.push((linear().said("loss", "margin", "slack"), "loss"));
    cases.push((linear().said("components", "kernel_x", "kernel_z"), "components"));
    cases.push((linear().said("components", "\"kernel_x\":null,", ""), "components"));
    cases.push((linear().said("components", "\"weight\"", "\"weight\":1.0,\"weight\""), "duplicate field"));
    cases.push((linear().said("components", "{", "{\"bias\":1,"), "unknown field"));
    cases.push((linear().said("components", "[", "[["), "components"));
    cases.push((linear().said("format_version", "1", "99"), "format_version"));
    cases.push((linear().said("format_version", "1", "-1"), "format_version"));
    cases.push((linear().said("format", "unicon", "other"), "not a UniCon model"));
    let mut none = linear();
    none.note("components", "[]");
    none.tensors.clear();
    cases.push((none, "no components"));
    let mut many = linear();
    many.note(
        "components",
        &format!("[{}]", ["{\"weight\":1.0,\"kernel_x\":null,\"kernel_y\":null}"; 500].join(",")),
    );
    cases.push((many, "c1.x.encoder is missing"));
    let mut huge = linear();
    huge.note("components", &"[".repeat(100_000));
    cases.push((huge, "components"));
    // Parameters.
    for (name, bad) in [
        ("beta", -1e308),
        ("beta", 81.0),
        ("gamma", 0.0),
        ("gamma", 1e300),
        ("lengthscale", -1.0),
        ("cos_clamp", 1.0),
    ] {
        let mut k = kernel("exp-cosine");
        k[name] = json!(bad);
        cases.push((Parts::with_kernel(k), name));
    }
    for (name, bad) in
        [("tau", "0.0"), ("tau", "-1e300"), ("tau", "1e300"), ("nu", "1e300"), ("eps_neg", "-1.0")]
    {
        let usual = if name == "tau" { "0.07" } else { "1.0" };
        cases.push((
            linear().said("loss", &format!("\"{name}\":{usual}"), &format!("\"{name}\":{bad}")),
            name,
        ));
    }
    // Tensors: repeated, missing, more than there should be, of no number.
    let mut twice = linear();
    twice.tensors.push(tensor("c0.x.encoder", &[2, 3]));
    cases.push((twice, "'c0.x.encoder' comes twice"));
    let mut noted = linear();
    noted.metadata.push(("format".into(), "unicon".into()));
    cases.push((noted, "'format' comes twice"));
    let mut missing = linear();
    missing.tensors.pop();
    cases.push((missing, "c0.y.encoder is missing"));
    let mut more = linear();
    more.tensors.push(tensor("c1.x.encoder", &[2, 3]));
    cases.push((more, "c1.x.encoder belongs to no encoder"));
    // A bias of another mean than the one beside it, and one without a mean.
    cases.push((Parts::centred().valued(3, 1, 7.0), "bias: value 1"));
    cases.push((Parts::centred().valued(2, 1, 7.0), "bias: value 0"));
    cases.push((Parts::centred().valued(2, 0, f64::NAN), "c0.x"));
    let mut lone = Parts::centred();
    lone.tensors.remove(2);
    cases.push((lone, "c0.x.offset is missing"));
    cases.push((Parts::centred().said("format_version", "2", "1"), "belongs to no encoder"));
    cases.push((Parts::centred().shaped(2, &[0]), "at least one row and one column"));
    cases.push((Parts::centred().shaped(2, &[1 << 62]), "bad safetensors header"));
    // A kernel that was dropped from the metadata: the encoder would pass for a linear one.
    let mut dropped = angular();
    dropped.note("components", &json!([{ "weight": 1.0, "kernel_x": null, "kernel_y": null }]).to_string());
    cases.push((dropped, "c0.x.landmarks belongs to no encoder"));
    let mut whole = linear();
    whole.tensors[0].1 = "I64";
    cases.push((whole, "expected F32 or F64, got I64"));
    let mut noise = linear();
    noise.metadata[1].1 = json!(1);
    cases.push((noise, "bad safetensors header"));
    cases
}

/// Runs `f` on a thread of its own: a loop without end fails the test instead of holding it.
fn promptly<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(f()));
    receive.recv_timeout(LONG).unwrap_or_else(|e| panic!("{what}: {e}"))
}

fn one_line(text: &str) {
    assert!(
        !text.contains('\n') && text.len() < 500 && !text.contains("panicked"),
        "not one short line: {text}"
    );
}

#[test]
fn whole_files_load() {
    for parts in [
        Parts::linear(),
        Parts::centred(),
        Parts::with_kernel(kernel("angular")),
        Parts::with_kernel(kernel("rbf")),
    ] {
        let model = Model::from_bytes(&parts.bytes()).unwrap();
        assert_eq!((model.input_dim(Side::X), model.input_dim(Side::Y), model.dim()), (3, 4, 2));
        let again = Model::from_bytes(&model.to_bytes().unwrap()).unwrap();
        assert_eq!(again.components[0].x.matrix, model.components[0].x.matrix);
    }
    // Weights as large as they may be still encode: what matters is their ratio.
    let parts = Parts::linear().valued(0, 0, 1e30);
    Model::from_bytes(&parts.bytes()).unwrap();
}

#[test]
fn every_loader_refuses_every_hostile_model() {
    for (k, (parts, words)) in refused().into_iter().enumerate() {
        let what = format!("case {k} ({words})");
        let bytes = parts.bytes();
        let text = promptly(&what, move || Model::from_bytes(&bytes)).unwrap_err();
        assert!(text.contains(words), "{what}: {text}");
        one_line(&text);
    }
}

#[test]
fn damaged_files_are_refused() {
    let whole = Parts::linear().bytes();
    for len in 0..whole.len() {
        one_line(&Model::from_bytes(&whole[..len]).unwrap_err());
    }
    for claim in [0, 7, 1 << 20, 1 << 40, u64::MAX / 2, u64::MAX - 7, u64::MAX] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        one_line(&Model::from_bytes(&bytes).unwrap_err());
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(Model::from_bytes(&longer).unwrap_err().contains("longer"));
}

/// The files that a person could name: of the program every command that takes a model, and the C ABI.
#[test]
fn the_program_and_the_c_abi_refuse_them_too() {
    let lab = Lab::new();
    lab.npy("x.npy", &[3, 3], &[1f32, 2., 3., 4., 5., 6., 7., 8., 10.]);
    lab.npy("y.npy", &[3, 4], &[1f32, 2., 3., 4., 5., 6., 7., 8., 10., 1., 0., 1.]);
    std::fs::create_dir(lab.path("folder")).unwrap();
    std::fs::write(lab.path("empty"), "").unwrap();
    std::fs::write(lab.path("spin"), Parts::linear().shaped(0, &[0, 1 << 62]).bytes()).unwrap();
    std::fs::write(lab.path("wide"), Parts::linear().shaped(0, &[1 << 62, 0]).bytes()).unwrap();
    std::fs::write(lab.path("slow"), Parts::linear().shaped(1, &[0, 1_000_000_000]).bytes()).unwrap();
    std::fs::write(lab.path("nan"), Parts::linear().valued(0, 0, f64::NAN).bytes()).unwrap();
    std::fs::write(lab.path("beta"), {
        let mut k = kernel("exp-cosine");
        k["beta"] = json!(-1e308);
        Parts::with_kernel(k).bytes()
    })
    .unwrap();
    let cases = [
        ("spin", "at least one row and one column, got 0 x 4611686018427387904"),
        ("wide", "at least one row and one column"),
        ("slow", "at least one row and one column"),
        ("nan", "NaN"),
        ("beta", "beta"),
        ("empty", "too short"),
        ("folder", "not a regular file or a pipe"),
        ("/dev/zero", "not a regular file or a pipe"),
        ("missing", "No such file"),
        ("x.npy", "safetensors"),
    ];
    for (file, words) in cases {
        for args in [
            format!("encode --model {file} --side x --input x.npy --out z.npy"),
            format!("eval --model {file} --x x.npy --y y.npy"),
            format!("search --model {file} --queries x.npy --items y.npy --out h.npy"),
            format!("report --model {file} --x x.npy --y y.npy --out r.html"),
            format!("fit --x x.npy --y y.npy --rank 2 --start {file} --out m"),
        ] {
            let begin = Instant::now();
            let line = lab.fails(1, &args);
            assert!(line.contains(words) && line.contains(file), "{args}: {line}");
            assert!(begin.elapsed() < LONG, "{args}");
        }
        let text = load_in_c(&lab.path(file)).unwrap_err();
        assert!(text.contains(words), "{file}: {text}");
    }
    std::fs::write(lab.path("good"), Parts::linear().bytes()).unwrap();
    load_in_c(&lab.path("good")).unwrap();
}

/// `unicon_model_load`, and the text of its failure.
fn load_in_c(path: &Path) -> Result<(), String> {
    use abi::*;
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let (mut context, mut model) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: structs, outputs and texts as the header asks.
    unsafe {
        let mut o: unicon_context_options = std::mem::zeroed();
        assert_eq!(unicon_context_options_init(&mut o, size_of_val(&o)), 0);
        o.n_threads = 1;
        assert_eq!(unicon_context_create(&o, &mut context), 0);
        let status = unicon_model_load(context, path.as_ptr(), &mut model);
        let mut text = [0u8; 1000];
        unicon_last_error(context, text.as_mut_ptr().cast(), text.len());
        let text = std::ffi::CStr::from_bytes_until_nul(&text).unwrap().to_str().unwrap().to_string();
        unicon_model_destroy(model);
        unicon_context_destroy(context);
        match status {
            0 => Ok(()),
            9 | 10 => Err(text),
            other => panic!("status {other}: {text}"),
        }
    }
}

/// Equal fits are equal files, byte for byte, in processes of their own and on any number of threads.
#[test]
fn the_same_fit_twice_is_the_same_file() {
    let lab = Lab::new();
    let value = |i: usize| ((i * 7919 % 4001) as f32 * 0.37).sin() + (i % 17) as f32 * 0.05;
    lab.npy("x.npy", &[320, 9], &(0..320 * 9).map(value).collect::<Vec<_>>());
    lab.npy("y.npy", &[320, 7], &(0..320 * 7).map(|i| value(i * 3 + 1)).collect::<Vec<_>>());
    let ways = [
        "--refine 3",
        "--preset global --iters 2 --whiten 0.1 --damping",
        "--preset paper --seed 3",
        "--kernel rbf --landmarks 30 --refine 2 --center off",
    ];
    for way in ways {
        let fit = |threads: usize| {
            lab.json(&format!(
                "fit --x x.npy --y y.npy --rank 4 {way} --threads {threads} --out m.safetensors"
            ));
            std::fs::read(lab.path("m.safetensors")).unwrap()
        };
        let first = fit(1);
        assert!(first == fit(1) && first == fit(3), "{way}");
    }
}

#[test]
fn what_could_not_be_loaded_is_not_saved() {
    let lab = Lab::new();
    let mut model = Model::from_bytes(&Parts::linear().bytes()).unwrap();
    model.components[0].x.matrix[(1, 2)] = f64::NAN;
    let text = model.save(lab.path("m.safetensors")).unwrap_err().to_string();
    assert!(text.contains("c0.x.encoder: row 1 holds NaN"), "{text}");
    assert!(lab.files().is_empty());
}

/// The embeddings of rows of x, row by row.
fn encoded(model: &Model, rows: usize, values: &[f32]) -> Vec<f64> {
    let cpu = Cpu::<f32>::with(1, None, Default::default()).unwrap();
    let x = HostMatrix::from_f32("x", rows, 3, values.to_vec()).unwrap();
    let mut z = Vec::new();
    let m = model.encode(&cpu, Side::X, &x).unwrap();
    cpu.store(&m, &mut |_, panel| {
        z.extend_from_slice(panel);
        Ok(())
    })
    .unwrap();
    z
}

#[test]
fn accepted_models_encode() {
    for kind in ["linear", "cosine", "angular", "arccos", "exp-cosine", "rbf", "matern"] {
        let model = Model::from_bytes(&Parts::with_kernel(kernel(kind)).bytes()).unwrap();
        for z in encoded(&model, 2, &[1., 2., 3., 0.5, -1., 2.]).chunks(2) {
            let norm = z[0].hypot(z[1]);
            assert!((norm - 1.0).abs() < 1e-5, "{kind}: {norm}");
        }
    }
}
