//! Files people have: empty shards, NaN in one of many, archives, pipes, existing outputs.

use crate::ffi::{python_with, run};
use crate::program::{Lab, Ran, distance};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::{Command, Output, Stdio};
use unicon::io::{Element, NpzWriter, RowSource, open, read_all};

const N: usize = 48;
const D1: usize = 5;
const D2: usize = 4;

/// Features of both sides that share most of what they say.
fn features() -> (Vec<f32>, Vec<f32>) {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let (mut x, mut y) = (Vec::<f32>::new(), Vec::<f32>::new());
    for _ in 0..N {
        let latent: [f32; 3] = std::array::from_fn(|_| next());
        x.extend((0..D1).map(|j| latent[j % 3] + 0.2 * next()));
        y.extend((0..D2).map(|j| latent[(j + 1) % 3] - 0.2 * next()));
    }
    (x, y)
}

/// A lab with `x.npy`, `y.npy` and a model of them.
fn lab() -> Lab {
    let lab = Lab::new();
    let (x, y) = features();
    lab.npy("x.npy", &[N, D1], &x);
    lab.npy("y.npy", &[N, D2], &y);
    lab.text("fit --x x.npy --y y.npy --rank 2 --preset global --iters 1 --whiten 0.1 --out m.safetensors");
    lab
}

/// Writes the rows of a matrix as shards `<folder>/<name>-<k>.npy`, each of so many rows.
fn shards(lab: &Lab, folder: &str, cols: usize, values: &[f32], rows: &[usize]) {
    std::fs::create_dir_all(lab.path(folder)).unwrap();
    let mut rest = values;
    for (k, &rows) in rows.iter().enumerate() {
        let (part, left) = rest.split_at(rows * cols);
        lab.npy(&format!("{folder}/part-{k}.npy"), &[rows, cols], part);
        rest = left;
    }
    assert!(rest.is_empty());
}

/// A safetensors file of matrices.
fn safetensors(lab: &Lab, name: &str, tensors: &[(&str, [usize; 2], &[f32])]) {
    let view = |shape: &[usize; 2], values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (shape.to_vec(), bytes)
    };
    let data: Vec<_> = tensors.iter().map(|(name, shape, v)| (*name, view(shape, v))).collect();
    let views = data.iter().map(|(name, (shape, bytes))| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(lab.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A `.npy` file of a dtype that the library does not write.
fn npy_of(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    text += &" ".repeat(63 - (10 + text.len()) % 64);
    text.push('\n');
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), data].concat()
}

fn bytes_of<T: Element>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// The embeddings that the lab's model gives to an input.
fn encoded(lab: &Lab, input: &str) -> Vec<f64> {
    lab.text(&format!("encode --model m.safetensors --side x --input {input} --out z.npy"));
    lab.matrix("z.npy").0
}

#[test]
fn every_way_to_name_a_matrix_reads_the_same_rows() {
    let lab = lab();
    let (x, y) = features();
    let expected = encoded(&lab, "x.npy");
    let halves = x.split_at(20 * D1);
    // Empty shards, as `np.save` of `np.array([])` makes them, between others.
    shards(&lab, "parts", D1, &x, &[10, 0, 30, 8]);
    lab.npy::<f64>("parts/part-4.npy", &[0], &[]);
    lab.npy::<f64>("parts/part-5.npy", &[0, 9], &[]);
    // A folder whose name is a pattern, and a file too.
    shards(&lab, "run[1]{a}", D1, &x, &[40, 8]);
    lab.npy("x[1].npy", &[N, D1], &x);
    // Shards of safetensors: one tensor each, several each, and a checkpoint whose tensors are spread.
    std::fs::create_dir(lab.path("st")).unwrap();
    safetensors(&lab, "st/model-00001-of-00002.safetensors", &[("x", [20, D1], halves.0)]);
    safetensors(&lab, "st/model-00002-of-00002.safetensors", &[("x", [28, D1], halves.1)]);
    std::fs::create_dir(lab.path("two")).unwrap();
    safetensors(&lab, "two/a-9.safetensors", &[("x", [20, D1], halves.0), ("y", [20, D2], &y[..20 * D2])]);
    safetensors(&lab, "two/a-10.safetensors", &[("x", [28, D1], halves.1), ("y", [28, D2], &y[20 * D2..])]);
    std::fs::create_dir(lab.path("spread")).unwrap();
    safetensors(&lab, "spread/m-1.safetensors", &[("other", [1, 1], &[0.0])]);
    safetensors(&lab, "spread/m-2.safetensors", &[("x", [N, D1], &x)]);
    // Archives, stored and compressed.
    let mut npz = NpzWriter::create(lab.path("xy.npz")).unwrap();
    npz.add("x", &[N, D1], &x).unwrap();
    npz.add("y", &[N, D2], &y).unwrap();
    npz.finish().unwrap();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(lab.path("small.npz")).unwrap());
    let deflated =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    zip.start_file("x.npy", deflated).unwrap();
    zip.write_all(&std::fs::read(lab.path("x.npy")).unwrap()).unwrap();
    zip.finish().unwrap();
    // bfloat16 as ml_dtypes writes it: a matrix of such values is exact in float32 too.
    let half: Vec<half::bf16> = x.iter().map(|&v| half::bf16::from_f32(v)).collect();
    std::fs::write(lab.path("bf16.npy"), npy_of("|V2", &format!("({N}, {D1})"), &bytes_of(&half))).unwrap();
    lab.npy("rounded.npy", &[N, D1], &half.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    for spec in [
        "parts",
        "parts/part-*.npy",
        "parts/part-{0..5}.npy",
        "parts/part-{0,1,2,3}.npy",
        "run[1]{a}",
        "run[1]{a}/part-?.npy",
        "x[1].npy",
        "st",
        "st:x",
        "st/model-0000*-of-*.safetensors",
        "st/model-0000{1..2}-of-00002.safetensors:x",
        "two:x",
        "two/a-{9,10}.safetensors:x",
        "spread:x",
        "spread/*.safetensors:x",
        "xy.npz:x",
        "xy.npz:x.npy",
        "small.npz",
        "small.npz:x",
    ] {
        assert_eq!(encoded(&lab, spec), expected, "{spec}");
    }
    assert_eq!(encoded(&lab, "bf16.npy:bf16"), encoded(&lab, "rounded.npy"));
    for (spec, words) in [
        ("bf16.npy", "bfloat16; :bf16 after its name reads them so"),
        ("x.npy:bf16", "values of two bytes"),
        ("two", "holds 2 tensors; choose one as FILE:TENSOR (x, y)"),
        ("xy.npz", "holds 2 arrays; choose one as FILE:ARRAY (x, y)"),
        ("xy.npz:z", "has no array 'z'; it has x, y"),
        ("run[2]/x.npy", "at least one .npy shard"),
        ("parts/part-{0,0}.npy", "part-0.npy twice"),
        ("missing/x.npy", "No such file"),
    ] {
        let line = lab.fails(1, &format!("encode --model m.safetensors --side x --input {spec} --out o.npy"));
        assert!(line.contains(words), "{spec}: {line}");
    }
    // Some shards with a tensor and some without: rows would be missing.
    safetensors(&lab, "st/model-00003-of-00003.safetensors", &[("y", [1, D1], &x[..D1])]);
    let line = lab.fails(1, "encode --model m.safetensors --side x --input st:x --out o.npy");
    assert!(
        line.contains("model-00003-of-00003.safetensors") && line.contains("has no tensor 'x'"),
        "{line}"
    );
}

#[test]
fn pipes_are_read_to_their_end() {
    let lab = lab();
    let expected = encoded(&lab, "x.npy");
    let mut npz = NpzWriter::create(lab.path("x.npz")).unwrap();
    npz.add("x", &[N, D1], &features().0).unwrap();
    npz.finish().unwrap();
    safetensors(&lab, "x.safetensors", &[("x", [N, D1], &features().0)]);
    let half: Vec<half::bf16> = features().0.iter().map(|&v| half::bf16::from_f32(v)).collect();
    std::fs::write(lab.path("bf16.npy"), npy_of("|V2", &format!("({N}, {D1})"), &bytes_of(&half))).unwrap();
    let rounded = encoded(&lab, "bf16.npy:bf16");
    for (file, spec) in [
        ("x.npy", "/dev/stdin"),
        ("bf16.npy", "/dev/stdin:bf16"),
        ("x.npz", "/dev/stdin"),
        ("x.npz", "/dev/stdin:x"),
        ("x.safetensors", "/dev/stdin"),
        ("x.safetensors", "/dev/stdin:x"),
    ] {
        let bytes = std::fs::read(lab.path(file)).unwrap();
        let ran =
            fed(&lab, &format!("encode --model m.safetensors --side x --input {spec} --out z.npy"), &bytes);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{file} as {spec}");
        let expected = if file == "bf16.npy" { &rounded } else { &expected };
        assert_eq!(lab.matrix("z.npy").0, *expected, "{file} as {spec}");
    }
    // A model too.
    let model = std::fs::read(lab.path("m.safetensors")).unwrap();
    let ran = fed(&lab, "encode --model /dev/stdin --side x --input x.npy --out z.npy", &model);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(lab.matrix("z.npy").0, expected);
    // What is not all there, what is more than it says, and what is nothing.
    let bytes = std::fs::read(lab.path("x.npy")).unwrap();
    let more = [&bytes[..], &[0; 100_000]].concat();
    for (bytes, words) in
        [(&bytes[..bytes.len() - 1], "truncated"), (&more[..], "longer"), (b"1,2,3", "no .npy")]
    {
        let ran = fed(&lab, "encode --model m.safetensors --side x --input /dev/stdin --out o.npy", bytes);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(words) && ran.stderr.contains("/dev/stdin"), "{}", ran.stderr);
    }
    let line = lab.fails(1, "encode --model m.safetensors --side x --input /dev/zero --out o.npy");
    assert!(line.contains("not a regular file or a pipe"), "{line}");
    // One pipe cannot be both sides.
    let ran = fed(&lab, "fit --x /dev/stdin --y /dev/stdin --rank 2 --out o", &bytes);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("a pipe can be read once"), "{}", ran.stderr);
}

/// A run with bytes on its standard input.
fn fed(lab: &Lab, args: &str, bytes: &[u8]) -> Ran {
    let mut child = lab.program(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let out = std::thread::scope(|scope| {
        // A program that refuses its input stops reading it.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        child.wait_with_output().unwrap()
    });
    ran(out)
}

fn ran(out: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

#[test]
fn outputs_go_into_pipes() {
    let lab = lab();
    let expected = encoded(&lab, "x.npy");
    let out = lab
        .program("encode --model m.safetensors --side x --input x.npy --out /dev/stdout")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0));
    std::fs::write(lab.path("piped.npy"), &out.stdout).unwrap();
    assert_eq!(lab.matrix("piped.npy").0, expected);
    assert!(String::from_utf8(out.stderr).unwrap().contains("48 x 2 float32"));
    // A redirection to a file is one, too; and the null device takes anything, with the report at its usual place.
    let file = std::fs::File::create(lab.path("redirected.npy")).unwrap();
    let mut command = lab.program("encode --model m.safetensors --side x --input x.npy --out /dev/stdout");
    assert_eq!(command.stdout(file).status().unwrap().code(), Some(0));
    assert_eq!(lab.matrix("redirected.npy").0, expected);
    let text = lab.text("encode --model m.safetensors --side x --input x.npy --out /dev/null");
    assert!(text.contains("/dev/null: 48 x 2"), "{text}");
    let search = "search --model m.safetensors --queries x.npy --items y.npy -k 2 --out";
    lab.text(&format!("{search} found.npz"));
    symlink("/dev/stdout", lab.path("out.npz")).unwrap();
    let out = lab.program(&format!("{search} out.npz")).output().unwrap();
    assert_eq!(out.stdout, std::fs::read(lab.path("found.npz")).unwrap());
    let line = lab.fails(1, "encode --model m.safetensors --side x --input x.npy --out /dev/full");
    assert!(line.contains("/dev/full") && line.contains("space"), "{line}");
}

#[test]
fn not_finite_rows_are_told_by_shard_and_dropped_on_request() {
    let lab = lab();
    let (mut x, mut y) = features();
    let (clean_x, clean_y) = (x.clone(), y.clone());
    for row in [13, 14, 45] {
        x[row * D1 + 2] = f32::NAN;
    }
    x[13 * D1 + 4] = f32::INFINITY;
    y[7 * D2 + 1] = f32::NEG_INFINITY;
    shards(&lab, "px", D1, &x, &[10, 0, 30, 8]);
    shards(&lab, "py", D2, &y, &[24, 24]);
    let fit = "--rank 2 --preset global --iters 1 --whiten 0.1";
    let line = lab.fails(1, &format!("fit --x px --y py {fit} --out o"));
    for words in [
        "px",
        "NaN at row 13, column 2 (row 3 of px/part-2.npy)",
        "3 rows of 48",
        "in 2 of 3 files",
        "--drop-bad-rows",
    ] {
        assert!(line.contains(words), "{words:?} in {line}");
    }
    let line = lab.fails(1, &format!("fit --x x.npy --y py {fit} --out o"));
    assert!(
        line.contains("-inf at row 7, column 1 (row 7 of py/part-0.npy)") && line.contains("1 row of 48"),
        "{line}"
    );

    // Where there are no pairs to drop, the remedy does not name what the command does not take.
    lab.text(&format!("fit --x x.npy --y y.npy {fit} --out m.safetensors"));
    let line = lab.fails(1, "encode --model m.safetensors --side x --input px --out z.npy");
    assert!(line.contains("leave them out") && !line.contains("--drop"), "{line}");

    // The pair goes on both sides: the same as a fit of the rows that are left.
    let bad = [7, 13, 14, 45];
    let kept = |values: &[f32], d: usize| -> Vec<f32> {
        values
            .chunks(d)
            .enumerate()
            .filter(|(i, _)| !bad.contains(i))
            .flat_map(|(_, row)| row.to_vec())
            .collect()
    };
    lab.npy("kx.npy", &[44, D1], &kept(&clean_x, D1));
    lab.npy("ky.npy", &[44, D2], &kept(&clean_y, D2));
    lab.text(&format!("fit --x kx.npy --y ky.npy {fit} --out kept.safetensors"));
    let report = lab.json(&format!("fit --x px --y py --drop-bad-rows {fit} --out dropped.safetensors"));
    assert_eq!(report["dropped_rows"], json!({ "x": 4, "y": 4 }));
    assert_eq!(report["n_x"], 44);
    let weights = |model: &str| {
        let model = unicon::model::Model::load(lab.path(model)).unwrap();
        let m = &model.components[0].x.matrix;
        (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| m[(i, j)])).collect::<Vec<f64>>()
    };
    assert!(distance(&weights("kept.safetensors"), &weights("dropped.safetensors")) < 1e-12);
    let text = lab.text("eval --model m.safetensors --x px --y py --drop-bad-rows");
    assert!(text.contains("4 rows of x, 4 rows of y"), "{text}");
    let both = |x: &str, y: &str, more: &str| {
        lab.json(&format!("eval --model m.safetensors --x {x} --y {y} {more}"))
    };
    let (kept, dropped) = (both("kx.npy", "ky.npy", ""), both("px", "py", "--drop-bad-rows"));
    assert_eq!(kept["recall"], dropped["recall"]);

    // With groups only the row itself goes.
    let ids: Vec<i64> = (0..N as i64).map(|i| i / 2).collect();
    lab.npy("g.npy", &[N], &ids);
    let report = both("px", "py", "--groups-x g.npy --groups-y g.npy --drop-bad-rows");
    assert_eq!(report["dropped_rows"], json!({ "x": 3, "y": 1 }));
    assert_eq!((&report["n_x"], &report["n_y"]), (&json!(45), &json!(47)));

    // Nothing left is an error, and nothing bad drops nothing.
    lab.npy("nan.npy", &[N, D1], &[f32::NAN; N * D1]);
    let line = lab.fails(1, "eval --model m.safetensors --x nan.npy --y y.npy --drop-bad-rows");
    assert!(line.contains("a pair of good rows"), "{line}");
    assert_eq!(both("x.npy", "y.npy", "--drop-bad-rows")["dropped_rows"], json!({ "x": 0, "y": 0 }));
}

#[test]
fn files_of_other_programs_are_named_with_a_way_out() {
    let lab = lab();
    let mut zip = zip::ZipWriter::new(std::fs::File::create(lab.path("torch.bin")).unwrap());
    zip.start_file(
        "archive/data.pkl",
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
    )
    .unwrap();
    zip.write_all(b"\x80\x02").unwrap();
    zip.finish().unwrap();
    std::fs::copy(lab.path("torch.bin"), lab.path("x.pt")).unwrap();
    for (name, bytes) in [
        ("x.csv", &b"1,2\n"[..]),
        ("x.tsv", b"1\t2\n"),
        ("x.parquet", b"PAR1"),
        ("x.mat", b"MATLAB 5.0 MAT-file"),
        ("x.h5", b"\x89HDF\r\n\x1a\n"),
        ("x.pkl", b"\x80\x04\x95"),
        ("x.pth", b"\x80\x02\x8a"),
        ("x.npy.gz", b"\x1f\x8b\x08"),
    ] {
        std::fs::write(lab.path(name), bytes).unwrap();
    }
    for (name, words) in [
        ("x.csv", "numpy.loadtxt('x.csv', delimiter=',', dtype='float32')"),
        ("x.tsv", "delimiter='\\t'"),
        ("x.parquet", "pandas.read_parquet"),
        ("x.mat", "scipy.io.loadmat"),
        ("x.h5", "h5py.File"),
        ("x.pkl", "pickle.load"),
        ("x.pt", "torch.load('x.pt'"),
        ("x.pth", "torch.load('x.pth'"),
        ("torch.bin", "PyTorch"),
        ("x.npy.gz", "gunzip"),
    ] {
        let line = lab.fails(1, &format!("encode --model m.safetensors --side x --input {name} --out o.npy"));
        assert!(line.contains(words) && line.contains(name), "{name}: {line}");
    }
}

#[test]
fn labels_and_features_of_any_type_that_holds_them() {
    let lab = lab();
    let (x, _) = features();
    let ids: Vec<i64> = (0..N as i64).map(|i| i / 2).collect();
    lab.npy("g.npy", &[N], &ids);
    lab.npy("f.npy", &[N], &ids.iter().map(|&v| v as f64).collect::<Vec<_>>());
    lab.npy("fraction.npy", &[N], &ids.iter().map(|&v| v as f32 + 0.5).collect::<Vec<_>>());
    let mut npz = NpzWriter::create(lab.path("g.npz")).unwrap();
    npz.add("ids", &[N], &ids).unwrap();
    npz.finish().unwrap();
    let eval =
        |g: &str| format!("eval --model m.safetensors --x x.npy --y y.npy --groups-x {g} --groups-y g.npy");
    let expected = lab.json(&eval("g.npy"));
    for g in ["f.npy", "g.npz", "g.npz:ids"] {
        assert_eq!(lab.json(&eval(g))["recall"], expected["recall"], "{g}");
    }
    let line = lab.fails(1, &eval("fraction.npy"));
    assert!(line.contains("fraction.npy: expected integers, got 0.5 at element 0 (float32)"), "{line}");
    // int8 features, as quantised embeddings are.
    let small: Vec<i8> = x.iter().map(|&v| (v * 60.0) as i8).collect();
    lab.npy("i8.npy", &[N, D1], &small);
    lab.npy("same.npy", &[N, D1], &small.iter().map(|&v| f32::from(v)).collect::<Vec<_>>());
    assert_eq!(encoded(&lab, "i8.npy"), encoded(&lab, "same.npy"));
}

#[test]
fn existing_outputs_keep_mode_and_owner() {
    let lab = lab();
    let root = std::fs::metadata(lab.path("x.npy")).unwrap().uid() == 0;
    for mode in [0o600, 0o640, 0o664] {
        std::fs::write(lab.path("z.npy"), "old").unwrap();
        std::fs::set_permissions(lab.path("z.npy"), PermissionsExt::from_mode(mode)).unwrap();
        if root {
            chown(lab.path("z.npy"), Some(12345), Some(54321)).unwrap();
        }
        encoded(&lab, "x.npy");
        let meta = std::fs::metadata(lab.path("z.npy")).unwrap();
        assert_eq!(meta.mode() & 0o7777, mode);
        assert!(!root || (meta.uid(), meta.gid()) == (12345, 54321));
    }
    // A link is written through, and stays.
    symlink("z.npy", lab.path("link.npy")).unwrap();
    lab.text("encode --model m.safetensors --side y --input y.npy --out link.npy");
    assert!(lab.path("link.npy").is_symlink());
    assert_eq!(lab.matrix("z.npy").0.len(), 2 * N);
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let lab = lab();
    let (x, _) = features();
    shards(&lab, "parts", D1, &x, &[40, 8]);
    std::fs::hard_link(lab.path("x.npy"), lab.path("hard.npy")).unwrap();
    symlink("x.npy", lab.path("soft.npy")).unwrap();
    lab.npy("s.npy", &[3, 3], &[1f64, 0., 0., 0., 1., 0., 0., 0., 1.]);
    lab.npy("g.npy", &[N], &[0i64; N]);
    std::fs::copy(lab.path("x.npy"), lab.path("f1.npy")).unwrap();
    let contents = |lab: &Lab| {
        let files: Vec<String> = lab.files().into_iter().filter(|f| !lab.path(f).is_dir()).collect();
        files.iter().map(|f| std::fs::read(lab.path(f)).unwrap()).collect::<Vec<_>>()
    };
    let before = contents(&lab);
    for args in [
        "fit --x x.npy --y y.npy --rank 2 --out x.npy",
        "fit --x x.npy --y y.npy --rank 2 --out ./y.npy",
        "fit --x x.npy --y y.npy --rank 2 --out hard.npy",
        "fit --x x.npy --y y.npy --rank 2 --out soft.npy",
        "fit --x soft.npy --y y.npy --rank 2 --out x.npy",
        "fit --x parts --y y.npy --rank 2 --out parts/part-1.npy",
        "fit --x parts/part-*.npy --y y.npy --rank 2 --out parts/part-0.npy",
        "fit --x x.npy --y y.npy --rank 2 --out o --checkpoint y.npy",
        "fit --x x.npy --y y.npy --rank 2 --out o --checkpoint o",
        "fit --x x.npy --y y.npy --rank 2 --out o --checkpoint ./o",
        "fit --x x.npy --y y.npy --rank 2 --start m.safetensors --out m.safetensors",
        "fit --x x.npy --y y.npy --rank 2 --groups-x g.npy --groups-y g.npy --out g.npy",
        "fit --x x.npy --y y.npy --rank 2 --init f1.npy,y.npy --out f1.npy",
        "fit --x x.npy --y y.npy --rank 2 --val-x f1.npy --val-y y.npy --out f1.npy",
        "encode --model m.safetensors --side x --input x.npy --out m.safetensors",
        "encode --model m.safetensors --side x --input x.npy --out x.npy",
        "search --model m.safetensors --queries x.npy --items y.npy --out y.npy",
        "report --model m.safetensors --x x.npy --y y.npy --out m.safetensors",
        "weights --similarity s.npy --out s.npy",
        "gram --a x.npy --out x.npy",
        "gram --a y.npy --b f1.npy --out f1.npy",
        "compare --x x.npy --y y.npy --test-x f1.npy --test-y y.npy --rank 2 --out f1.npy",
        "compare --x x.npy --y y.npy --test-x f1.npy --test-y y.npy --rank 2 --plot x.npy",
        "compare --x x.npy --y y.npy --test-x f1.npy --test-y y.npy --rank 2 --plot o --out o",
    ] {
        let line = lab.fails(1, args);
        assert!(
            line.contains("expected a file that is not read") || line.contains("expected another file"),
            "{args}: {line}"
        );
        assert!(
            line.contains("--out") || line.contains("--checkpoint") || line.contains("--plot"),
            "{args}: {line}"
        );
    }
    assert!(contents(&lab) == before);
}

#[test]
fn paths_need_not_be_utf8() {
    let lab = lab();
    let odd = OsStr::from_bytes(b"caf\xe9.npy");
    let odd_out = OsStr::from_bytes(b"z\xff.npy");
    std::fs::copy(lab.path("x.npy"), lab.path("").join(odd)).unwrap();
    let expected = encoded(&lab, "x.npy");
    let out = lab
        .program("encode --model m.safetensors --side x --input")
        .arg(odd)
        .arg("--out")
        .arg(odd_out)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let z = open(lab.path("").join(odd_out)).unwrap();
    assert_eq!(read_all::<f64>(&z).unwrap(), expected);
    let mut fit = lab.program("fit --rank 2 --preset global --iters 1 --y y.npy --out o --x");
    assert_eq!(fit.arg(odd).output().unwrap().status.code(), Some(0));
    // In a folder of that name, too.
    let folder = lab.path("").join(OsStr::from_bytes(b"d\xfe"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(lab.path("x.npy"), folder.join("a.npy")).unwrap();
    assert_eq!(open(&folder).unwrap().rows(), N);
}

/// NumPy's own files, where there is NumPy: `savez_compressed`, and bfloat16 where there is ml_dtypes.
#[test]
fn files_that_numpy_writes() {
    let lab = lab();
    let script = "import numpy as n; x = n.load('x.npy'); n.savez('a.npz', x=x); n.savez_compressed('c.npz', x=x, y=x); \
                  n.savez('one.npz', x); n.save('e.npy', n.array([])); n.save('f.npy', n.asfortranarray(x))";
    let Some(python) = python_with("numpy") else { return };
    run(Command::new(python).current_dir(lab.path("")).args(["-c", script]));
    let expected = encoded(&lab, "x.npy");
    for spec in ["a.npz", "a.npz:x", "c.npz:x", "c.npz:y", "one.npz", "one.npz:arr_0", "f.npy"] {
        assert_eq!(encoded(&lab, spec), expected, "{spec}");
    }
    let line = lab.fails(1, "encode --model m.safetensors --side x --input e.npy --out o.npy");
    assert!(line.contains("e.npy"), "{line}");
    let _: Value = lab.json("encode --model m.safetensors --side x --input {x,e}.npy --out o.npy");
}
