//! Bad input: one line that names the thing, an exit code, nothing half-written, no panic.

use crate::program::Lab;
use unicon::io::Element;

const ROWS: usize = 60;
const D1: usize = 8;
const D2: usize = 6;

/// Reproducible numbers in -1 .. 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A lab with `x.npy`, `y.npy` (60 pairs), a model of them, and everything that is wrong with such files.
fn lab() -> Lab {
    let lab = Lab::new();
    let (x, y) = (numbers(ROWS * D1, 1), numbers(ROWS * D2, 2));
    lab.npy("x.npy", &[ROWS, D1], &x);
    lab.npy("y.npy", &[ROWS, D2], &y);
    lab.text("fit --x x.npy --y y.npy --rank 3 --out m.safetensors");
    lab
}

fn npy_with<T: Element>(lab: &Lab, name: &str, shape: &[usize], values: &[T], change: impl Fn(&mut Vec<T>)) {
    let mut values = values.to_vec();
    change(&mut values);
    lab.npy(name, shape, &values);
}

/// A `.npy` file whose header says what it likes.
fn forged(lab: &Lab, name: &str, descr: &str, shape: &str, data: usize) {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(std::iter::repeat_n(0, data));
    std::fs::write(lab.path(name), file).unwrap();
}

/// Runs every line and expects its words in the complaint.
fn expect(lab: &Lab, code: i32, table: &[(&str, &[&str])]) {
    for (args, words) in table {
        let line = lab.fails(code, args);
        for word in *words {
            assert!(line.contains(word), "unicon {args}\n  says: {line}\n  without: {word}");
        }
        // Nothing is said twice.
        let parts: Vec<&str> = line.split(": ").collect();
        assert!(parts.windows(2).all(|w| w[0] != w[1]), "{line}");
    }
}

#[test]
fn features() {
    let lab = lab();
    let x = numbers(ROWS * D1, 1);
    let shape = [ROWS, D1];
    npy_with(&lab, "nan.npy", &shape, &x, |v| v[17 * D1 + 3] = f32::NAN);
    npy_with(&lab, "inf.npy", &shape, &x, |v| v[5 * D1 + 2] = f32::NEG_INFINITY);
    npy_with(&lab, "huge.npy", &shape, &x.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), |v| {
        v[9] = 1e200
    });
    lab.npy("short.npy", &[50, D1], &x[..50 * D1]);
    lab.npy("vector.npy", &[ROWS], &x[..ROWS]);
    lab.npy("cube.npy", &[ROWS, 4, 2], &x);
    lab.npy("no_rows.npy", &[0, D1], &x[..0]);
    lab.npy("no_columns.npy", &[ROWS, 0], &x[..0]);
    lab.npy("wide.npy", &[30, 2 * D1], &x);
    let fit = |x: &str| format!("fit --x {x} --y y.npy --rank 3 --out out.safetensors");
    let cases: &[(&str, &[&str])] = &[
        ("nan.npy", &["nan.npy", "NaN", "row 17", "column 3"]),
        ("inf.npy", &["inf.npy", "-inf", "row 5", "column 2"]),
        ("short.npy", &["y.npy", "as many rows as short.npy", "50", "60"]),
        ("vector.npy", &["vector.npy", "matrix", "[60]"]),
        ("cube.npy", &["cube.npy", "matrix", "[60, 4, 2]"]),
        ("no_rows.npy", &["no_rows.npy", "no rows"]),
        ("no_columns.npy", &["no_columns.npy", "no columns"]),
        ("missing.npy", &["missing.npy", "No such file"]),
        ("m.safetensors", &["m.safetensors", "c0.x.encoder", "FILE:TENSOR"]),
        ("m.safetensors:a", &["m.safetensors", "no tensor 'a'"]),
    ];
    let lines: Vec<(String, &[&str])> = cases.iter().map(|(x, words)| (fit(x), *words)).collect();
    expect(&lab, 1, &lines.iter().map(|(a, w)| (a.as_str(), *w)).collect::<Vec<_>>());
    // Beyond the range of float32, but finite: the row is brought into range.
    lab.text(&fit("huge.npy"));
    lab.text("encode --model out.safetensors --side x --input huge.npy --out z.npy");
    assert!(lab.matrix("z.npy").0.iter().all(|v| v.is_finite()));
    std::fs::remove_file(lab.path("out.safetensors")).unwrap();
    // The same screening guards every command that reads features.
    expect(
        &lab,
        1,
        &[
            ("encode --model m.safetensors --side x --input nan.npy --out z.npy", &["nan.npy", "row 17"]),
            (
                "encode --model m.safetensors --side x --input wide.npy --out z.npy",
                &["wide.npy:", "8 columns", "16"],
            ),
            ("eval --model m.safetensors --x y.npy --y y.npy", &["y.npy:", "8 columns", "6"]),
            ("eval --model m.safetensors --x short.npy --y y.npy", &["y.npy", "short.npy", "50", "60"]),
            (
                "search --model m.safetensors --queries x.npy --items nan.npy --item-side x --out h.npz",
                &["nan.npy", "row 17"],
            ),
            ("report --model m.safetensors --x nan.npy --y y.npy --out r.html", &["nan.npy", "row 17"]),
            ("gram --a inf.npy --out k.npy", &["inf.npy", "row 5"]),
            ("gram --a x.npy --b y.npy --out k.npy", &["y.npy", "8 columns", "6"]),
            (
                "weights --similarity nan.npy --pos-indptr i.npy --pos-indices j.npy --out s.npy",
                &["i.npy", "No such file"],
            ),
            ("weights --similarity x.npy --out s.npy", &["x.npy", "60", "8"]),
            (
                "fit --x x.npy --y y.npy --val-x nan.npy --val-y y.npy --batch-size 20 --rank 3 --out o",
                &["nan.npy", "row 17"],
            ),
            (
                "fit --x x.npy --y y.npy --val-x y.npy --val-y y.npy --batch-size 20 --rank 3 --out o",
                &["validation x", "8 columns", "6"],
            ),
            ("compare --x nan.npy --y y.npy --test-x x.npy --test-y y.npy --rank 3", &["nan.npy", "row 17"]),
        ],
    );
}

#[test]
fn options() {
    let lab = lab();
    lab.npy("f1.npy", &[2, D1], &numbers(2 * D1, 5));
    lab.npy("f2.npy", &[3, D2], &numbers(3 * D2, 6));
    lab.npy("rows.npy", &[2], &[3i64, 60]);
    lab.npy("minus.npy", &[2], &[3i64, -1]);
    let mut fits: Vec<(String, &[&str])> = Vec::new();
    let table: &[(&str, &[&str])] = &[
        ("--rank 7", &["rank", "at most min(d1, d2) = 6", "got 7"]),
        ("--rank 0", &["rank", "at least 1"]),
        ("--rank 3 --tau 0", &["tau", "> 0", "got 0"]),
        ("--rank 3 --tau -0.5", &["tau", "> 0", "got -0.5"]),
        ("--rank 3 --tau nan", &["tau", "NaN"]),
        ("--rank 3 --tau 1e-5", &["tau", "0.001"]),
        ("--rank 3 --nu inf", &["nu", "finite"]),
        ("--rank 3 --eps-neg -1", &["eps_neg", ">= 0"]),
        ("--rank 3 --loss sigmoid --log-eps 1e-8", &["log_eps", "clip"]),
        ("--rank 3 --iters 0", &["n_iters", "at least 1"]),
        ("--rank 3 --rho 0", &["rho", "> 0"]),
        ("--rank 3 --ridge -1", &["ridge", ">= 0"]),
        ("--rank 3 --whiten -1", &["whiten", ">= 0"]),
        ("--rank 3 --tol nan", &["tol", ">= 0"]),
        ("--rank 3 --factorization power:-1", &["factorization", "power >= 0"]),
        ("--rank 3 --batch-size 1", &["batch_size", "at least 2"]),
        ("--rank 3 --batch-size 61", &["batch_size", "at most", "60"]),
        ("--rank 3 --batches 2", &["--batches", "--batch-size"]),
        ("--rank 3 --negatives 0", &["negatives", "at least 1"]),
        ("--rank 3 --init f1.npy,f2.npy", &["init F1", "3 x 8", "2 x 8"]),
        ("--rank 3 --init gone.npy,f2.npy", &["gone.npy", "No such file"]),
        ("--rank 3 --init similarity:x.npy", &["init similarity", "60 x 60", "60 x 8"]),
        ("--rank 3 --kernel rbf --gamma 0", &["gamma"]),
        ("--rank 3 --kernel matern --lengthscale -1", &["lengthscale"]),
        ("--rank 3 --kernel angular --landmarks 61", &["landmarks", "60", "61"]),
        ("--rank 3 --kernel angular --landmarks 0", &["landmarks", "at least 1"]),
        ("--rank 3 --kernel angular --landmark-rows rows.npy", &["landmarks", "60"]),
        ("--rank 3 --kernel angular --landmark-rows minus.npy", &["minus.npy", "-1"]),
        ("--rank 3 --kernel angular --landmarks 2", &["rank", "at most the number of features, 2"]),
        ("--rank 3 --kernel angular --exact --whiten 1", &["unsupported", "whitening"]),
    ];
    for (args, words) in table {
        fits.push((format!("fit --x x.npy --y y.npy --out out.safetensors {args}"), words));
    }
    expect(&lab, 1, &fits.iter().map(|(a, w)| (a.as_str(), *w)).collect::<Vec<_>>());
    expect(
        &lab,
        1,
        &[
            ("eval --model m.safetensors --x x.npy --y y.npy --k 0", &["k:", ">= 1"]),
            ("search --model m.safetensors --queries x.npy --items y.npy -k 0 --out h.npz", &["k:", ">= 1"]),
            (
                "search --model m.safetensors --queries x.npy --items y.npy --out h.txt",
                &["--out", ".npz or .npy", "h.txt"],
            ),
            ("report --model m.safetensors --x x.npy --y y.npy --k 0 --out r.html", &["k:", ">= 1"]),
            ("weights --similarity m.safetensors:c0.x.encoder --tau 0 --out s.npy", &["tau", "> 0"]),
            ("gram --a x.npy --kernel rbf --gamma -1 --out k.npy", &["gamma"]),
        ],
    );
    // Wrong usage has its own code.
    expect(
        &lab,
        2,
        &[
            ("align", &["align"]),
            ("fit --x x.npy --y y.npy --rank 3", &["--out"]),
            ("fit --x x.npy --y y.npy --rank three --out o", &["--rank", "three"]),
            ("fit --x x.npy --y y.npy --rank 3 --loss mse --out o", &["--loss", "mse", "clip"]),
            ("fit --x x.npy --y y.npy --rank 3 --svd half --out o", &["--svd", "half", "randomized"]),
            ("fit --x x.npy --y y.npy --rank 3 --init f1.npy --out o", &["--init", "zeros"]),
            ("fit --x x.npy --y y.npy --rank 3 --exact --out o", &["--kernel"]),
            ("fit --x x.npy --y y.npy --rank 3 --val-x x.npy --out o", &["--val-y"]),
            ("fit --x x.npy --y y.npy --rank 3 --groups-x g.npy --out o", &["--groups-y"]),
            ("fit --x x.npy --y y.npy --rank 3 --device gpu --out o", &["--device", "cuda:N"]),
            ("encode --model m.safetensors --side z --input x.npy --out z.npy", &["--side", "z"]),
            ("eval --model m.safetensors --x x.npy", &["--y"]),
            ("eval --model m.safetensors --x x.npy --classes y.npy", &["--labels"]),
            ("eval --model m.safetensors --x x.npy --y y.npy --k 1,two", &["--k", "two"]),
            ("info --threads many", &["--threads", "many"]),
        ],
    );
}

#[test]
fn positives() {
    let lab = lab();
    let n = ROWS as i64;
    let ptr: Vec<i64> = (0..=n).collect();
    let idx: Vec<i64> = (0..n).collect();
    lab.npy("ptr.npy", &[ROWS + 1], &ptr);
    lab.npy("idx.npy", &[ROWS], &idx);
    npy_with(&lab, "beyond.npy", &[ROWS], &idx, |v| v[7] = n);
    npy_with(&lab, "minus.npy", &[ROWS], &idx, |v| v[7] = -1);
    npy_with(&lab, "ptr_down.npy", &[ROWS + 1], &ptr, |v| v[5] = 9);
    lab.npy("ptr_short.npy", &[ROWS], &ptr[..ROWS]);
    lab.npy("ptr_none.npy", &[ROWS + 1], &vec![0i64; ROWS + 1]);
    lab.npy("none.npy", &[0], &[0i64; 0]);
    let twice: Vec<i64> = std::iter::once(0).chain(2..=n + 1).collect();
    lab.npy("ptr_twice.npy", &[ROWS + 1], &twice);
    let repeated: Vec<i64> = [0, 0].into_iter().chain(1..n).collect();
    lab.npy("twice.npy", &[ROWS + 1], &repeated);
    lab.npy("float.npy", &[ROWS], &numbers(ROWS, 3));
    lab.npy("other.npy", &[ROWS], &idx.iter().map(|g| g + 1000).collect::<Vec<_>>());
    let csr = |ptr: &str, idx: &str| format!("--pos-indptr {ptr} --pos-indices {idx}");
    let groups = |x: &str, y: &str| format!("--groups-x {x} --groups-y {y}");
    let cases: [(String, &[&str]); 11] = [
        (csr("ptr.npy", "beyond.npy"), &["beyond.npy", "0..60", "got 60 in row 7"]),
        (csr("ptr.npy", "minus.npy"), &["minus.npy", "0..60", "got -1 in row 7"]),
        (csr("ptr_twice.npy", "twice.npy"), &["twice.npy", "once a row", "0 twice in row 0"]),
        (csr("ptr_down.npy", "idx.npy"), &["ptr_down.npy", "non-decreasing"]),
        (csr("ptr_short.npy", "idx.npy"), &["ptr_short.npy", "61 entries", "x.npy", "got 60"]),
        (csr("ptr_none.npy", "none.npy"), &["ptr_none.npy", "at least one matching pair"]),
        (csr("ptr.npy", "none.npy"), &["none.npy", "60"]),
        (csr("ptr.npy", "float.npy"), &["float.npy", "integers", "float32"]),
        (csr("ptr.npy", "x.npy"), &["x.npy", "integers"]),
        (groups("idx.npy", "other.npy"), &["groups", "none in common"]),
        (groups("idx.npy", "none.npy"), &["none.npy", "60 group ids", "y.npy", "got 0"]),
    ];
    for (args, words) in &cases {
        let fit = format!("fit --x x.npy --y y.npy --rank 3 --out out.safetensors {args}");
        let eval = format!("eval --model m.safetensors --x x.npy --y y.npy {args}");
        let report = format!("report --model m.safetensors --x x.npy --y y.npy --out r.html {args}");
        expect(&lab, 1, &[(&fit, words), (&eval, words), (&report, words)]);
    }
    expect(
        &lab,
        1,
        &[
            (
                "eval --model m.safetensors --x x.npy --classes y.npy --labels beyond.npy",
                &["beyond.npy", "0..60", "60 at row 7"],
            ),
            (
                "eval --model m.safetensors --x x.npy --classes y.npy --labels minus.npy",
                &["minus.npy", "-1 at row 7"],
            ),
            (
                "eval --model m.safetensors --x x.npy --classes y.npy --labels none.npy",
                &["none.npy", "60 labels", "x.npy"],
            ),
            (
                "eval --model m.safetensors --x x.npy --classes x.npy --labels idx.npy",
                &["x.npy:", "6 columns", "8"],
            ),
        ],
    );
}

#[test]
fn hostile_files() {
    let lab = lab();
    let whole = std::fs::read(lab.path("x.npy")).unwrap();
    std::fs::write(lab.path("cut.npy"), &whole[..500]).unwrap();
    std::fs::write(lab.path("cut_header.npy"), &whole[..40]).unwrap();
    std::fs::write(lab.path("empty.npy"), b"").unwrap();
    std::fs::write(lab.path("text.npy"), b"1.0,2.0\n3.0,4.0\n").unwrap();
    forged(&lab, "exa.npy", "<f4", "1000000000000, 1000000", 64);
    forged(&lab, "overflow.npy", "<f4", "18446744073709551615, 2", 64);
    forged(&lab, "minus.npy", "<f4", "-60, 8", 64);
    forged(&lab, "object.npy", "|O", "60, 8", 64);
    forged(&lab, "complex.npy", "<c8", "60, 8", 60 * 64);
    forged(&lab, "big_endian.npy", ">f4", "60, 8", 60 * 32);
    forged(&lab, "vector.npy", "<i8", "1000000000000", 64);
    let mut header = whole.clone();
    header[8..10].copy_from_slice(&u16::MAX.to_le_bytes());
    std::fs::write(lab.path("long_header.npy"), &header).unwrap();
    let lie = |bytes: &[u8], length: u64| [&length.to_le_bytes()[..], bytes].concat();
    std::fs::write(lab.path("lie.safetensors"), lie(b"{}", 1 << 63)).unwrap();
    let far = br#"{"a":{"dtype":"F32","shape":[60,8],"data_offsets":[0,99999999999]}}"#;
    std::fs::write(lab.path("far.safetensors"), lie(far, far.len() as u64)).unwrap();
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    std::fs::write(lab.path("deep.safetensors"), lie(&deep, deep.len() as u64)).unwrap();
    let files = [
        ("cut.npy", "truncated"),
        ("cut_header.npy", ""),
        ("empty.npy", "empty"),
        ("text.npy", "not a .npy file"),
        ("exa.npy", "truncated"),
        ("overflow.npy", "overflows"),
        ("minus.npy", ""),
        ("object.npy", "pickled"),
        ("complex.npy", "is needed"),
        ("big_endian.npy", "big-endian"),
        ("long_header.npy", ""),
        ("lie.safetensors", "header"),
        ("far.safetensors:a", ""),
        ("deep.safetensors:a", ""),
    ];
    for (file, word) in files {
        let name = file.split(':').next().unwrap();
        for args in [
            format!("fit --x {file} --y y.npy --rank 3 --out out.safetensors"),
            format!("encode --model m.safetensors --side x --input {file} --out z.npy"),
            format!("gram --a x.npy --b {file} --out k.npy"),
        ] {
            expect(&lab, 1, &[(&args, &[name, word])]);
        }
    }
    for file in ["vector.npy", "cut.npy", "empty.npy"] {
        let args = format!("eval --model m.safetensors --x x.npy --classes y.npy --labels {file}");
        expect(&lab, 1, &[(&args, &[file])]);
    }
    // Models: not a model, somebody else's safetensors, cut anywhere, and each byte of the header changed.
    let model = std::fs::read(lab.path("m.safetensors")).unwrap();
    let foreign = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut bytes = lie(foreign, foreign.len() as u64);
    bytes.extend([0; 4]);
    std::fs::write(lab.path("foreign.safetensors"), bytes).unwrap();
    for name in ["x.npy", "foreign.safetensors", "lie.safetensors", "deep.safetensors", "gone.safetensors"] {
        let args = format!("eval --model {name} --x x.npy --y y.npy");
        expect(&lab, 1, &[(&args, &[name])]);
    }
    for cut in [0, 7, 8, 100, model.len() / 2, model.len() - 1] {
        std::fs::write(lab.path("cut.safetensors"), &model[..cut]).unwrap();
        let args = "encode --model cut.safetensors --side x --input x.npy --out z.npy";
        expect(&lab, 1, &[(args, &["cut.safetensors"])]);
    }
    for at in (0..400).step_by(7) {
        let mut changed = model.clone();
        changed[at] ^= 0x11;
        std::fs::write(lab.path("changed.safetensors"), &changed).unwrap();
        let ran = lab.run("eval --model changed.safetensors --x x.npy --y y.npy");
        // Some bytes may be changed without harm; none may do worse than a line.
        assert!(matches!(ran.code, Some(0 | 1)) && ran.stderr.lines().count() <= 1, "byte {at}: {ran:?}");
    }
}

#[test]
fn places_that_cannot_be_written() {
    let lab = lab();
    std::fs::create_dir(lab.path("folder")).unwrap();
    let before = std::fs::read(lab.path("m.safetensors")).unwrap();
    let commands = [
        "fit --x x.npy --y y.npy --rank 3 --out",
        "encode --model m.safetensors --side x --input x.npy --out",
        "weights --similarity s.npy --out",
        "gram --a x.npy --out",
        "report --model m.safetensors --x x.npy --y y.npy --out",
        "demo --draws 1 --report",
    ];
    lab.npy("s.npy", &[2, 2], &[1f32, 0.0, 0.0, 1.0]);
    for command in commands {
        expect(
            &lab,
            1,
            &[
                (
                    &format!("{command} missing/out.npy"),
                    &["missing/out.npy", "cannot be written", "no directory missing"],
                ),
                (&format!("{command} folder"), &["folder", "neither a file nor a stream"]),
                (&format!("{command} x.npy/out.npy"), &["x.npy/out.npy", "cannot be written"]),
            ],
        );
        // A stream takes what it is given.
        lab.text(&format!("{command} /dev/null"));
    }
    let search = "search --model m.safetensors --queries x.npy --items y.npy --out missing/hits.npz";
    expect(&lab, 1, &[(search, &["missing/hits.npz", "no directory missing"])]);
    // A failed fit leaves the model that was there.
    lab.fails(1, "fit --x x.npy --y y.npy --rank 99 --out m.safetensors");
    assert_eq!(std::fs::read(lab.path("m.safetensors")).unwrap(), before);
}

#[test]
fn too_little_memory_is_known_before_the_work() {
    let lab = Lab::new();
    // 1,000,000 rows: the exact kernel solver would take 64 TB.
    let n = 1_000_000;
    lab.npy("tall.npy", &[n, 1], &vec![1f32; n]);
    let line =
        lab.fails(1, "fit --x tall.npy --y tall.npy --rank 1 --kernel angular --exact --out out.safetensors");
    for word in
        ["out of memory", "exact kernel solver on 1000000 rows", "use landmarks", "64000000000000 bytes"]
    {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn zero_rows_are_counted_and_stay_zero() {
    let lab = lab();
    let shape = [ROWS, D1];
    npy_with(&lab, "zero.npy", &shape, &numbers(ROWS * D1, 1), |v| {
        v[3 * D1..4 * D1].fill(0.0);
        v[9 * D1..10 * D1].fill(0.0);
    });
    for options in ["", "--whiten 0.1", "--loss sigmoid", "--kernel angular --landmarks 20", "--scale-inputs"]
    {
        // Without the mean a row of zeros would be a row as any other.
        let fit = format!("fit --x zero.npy --y y.npy --rank 3 --center off --out m0.safetensors {options}");
        let fit = lab.json(&fit);
        assert_eq!(fit["info"]["zero_rows"], serde_json::json!([2, 0]), "{options}");
        // JSON has no NaN: it would be null.
        assert!(
            !fit["info"]["loss"].to_string().contains("null") && fit["info"]["final_loss"].is_number(),
            "{fit}"
        );
        let eval = lab.json("eval --model m0.safetensors --x zero.npy --y y.npy --loss");
        assert_eq!(eval["zero_rows"], serde_json::json!([2, 0]));
        assert!(eval["loss"].is_number());
        let encode = lab.json("encode --model m0.safetensors --side x --input zero.npy --out z.npy");
        assert_eq!(encode["zero_rows"], 2);
        let (z, r) = lab.matrix("z.npy");
        for (i, row) in z.chunks(r).enumerate() {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            let expected = if (i == 3 || i == 9) && !options.contains("kernel") { 0.0 } else { 1.0 };
            // Unit rows rounded to float32.
            assert!((norm - expected).abs() < 1e-6, "{options}: row {i} has norm {norm}");
        }
    }
    let text = lab.text("eval --model m0.safetensors --x zero.npy --y y.npy");
    assert!(text.contains("zero rows: 2 of x, 0 of y"), "{text}");
}

/// Sends a signal to a command that would take minutes, once its handler stands.
#[cfg(target_os = "linux")]
fn interrupted(args: &str, signal: &str, code: i32) {
    let lab = Lab::new();
    let n = 4000;
    lab.npy("x.npy", &[n, 32], &numbers(n * 32, 1));
    lab.npy("y.npy", &[n, 32], &numbers(n * 32, 2));
    let child = lab
        .program(&format!("{args} --x x.npy --y y.npy --rank 16 --out m.safetensors --json"))
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let caught = || {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap().trim().to_string();
        // SIGINT is the second of the mask.
        u64::from_str_radix(&mask, 16).unwrap() & 2 != 0
    };
    while !caught() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Into the work.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(code), "{out:?}");
    assert_eq!(String::from_utf8(out.stderr).unwrap(), "unicon: cancelled\n");
    assert!(out.stdout.is_empty());
    assert_eq!(lab.files().into_iter().collect::<Vec<_>>(), ["x.npy", "y.npy"]);
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_ends_a_command_without_a_trace() {
    interrupted("fit --iters 100000", "-INT", 130);
    interrupted("fit --iters 100000", "-TERM", 143);
    interrupted("fit --iters 100000", "-HUP", 129);
    interrupted("ablate --iters 1000", "-INT", 130);
}
