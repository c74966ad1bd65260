//! What each command writes and prints.

use crate::program::{Lab, distance, numbers};
use std::path::Path;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Ties};
use unicon::data::digits;
use unicon::io::{HostMatrix, RowSource, open, read_all};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::{Recall, recall_at_k, search};

/// Digits halves in files, and a model of their classes.
fn digits_lab() -> Lab {
    let lab = Lab::new();
    lab.take(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits_halves"));
    lab.text(
        "fit --preset global --x left.npy --y right.npy --groups-x labels.npy --groups-y labels.npy --rank 16 --iters 1 \
         --whiten 0.1 --tau 0.2 --out m.safetensors",
    );
    lab
}

fn source(lab: &Lab, name: &str) -> impl RowSource + use<> {
    open(lab.path(name).to_str().unwrap()).unwrap()
}

/// The recall that the library finds, on float32 as the program does.
fn recall(lab: &Lab, x: &str, y: &str, positives: &Positives, ks: &[usize], ties: Ties) -> Recall {
    let cpu = Cpu::<f32>::new(2).unwrap();
    let model = Model::load(lab.path("m.safetensors")).unwrap();
    let zx = model.encode(&cpu, Side::X, &source(lab, x)).unwrap();
    let zy = model.encode(&cpu, Side::Y, &source(lab, y)).unwrap();
    recall_at_k(&cpu, &zx, &zy, positives, ks, ties).unwrap()
}

#[test]
fn eval_finds_what_the_library_finds() {
    let lab = digits_lab();
    let labels = digits().unwrap().labels;
    let n = labels.len();
    let args = "eval --model m.safetensors --x left.npy --y right.npy --k 1,3,50";
    let check = |json: &serde_json::Value, want: &Recall| {
        assert_eq!(json["recall"]["ks"], serde_json::json!([1, 3, 50]));
        assert_eq!(numbers(&json["recall"]["x_to_y"]), want.x_to_y);
        assert_eq!(numbers(&json["recall"]["y_to_x"]), want.y_to_x);
        assert_eq!(json["matching_accuracy"].as_f64().unwrap(), want.matching_accuracy);
        assert_eq!((json["n_x"].as_u64(), json["n_y"].as_u64()), (Some(n as u64), Some(n as u64)));
    };
    let diagonal = Positives::diagonal(n);
    let want = recall(&lab, "left.npy", "right.npy", &diagonal, &[1, 3, 50], Ties::Expected);
    check(&lab.json(args), &want);
    for (name, ties) in [
        ("lower-index", Ties::LowerIndex),
        ("optimistic", Ties::Optimistic),
        ("shared", Ties::Optimistic),
        ("pessimistic", Ties::Pessimistic),
    ] {
        let want = recall(&lab, "left.npy", "right.npy", &diagonal, &[1, 3, 50], ties);
        check(&lab.json(&format!("{args} --ties {name}")), &want);
    }
    let groups = Positives::from_groups(&labels, &labels).unwrap();
    let want = recall(&lab, "left.npy", "right.npy", &groups, &[1, 3, 50], Ties::Expected);
    let json = lab.json(&format!("{args} --groups-x labels.npy --groups-y labels.npy --loss"));
    check(&json, &want);
    assert!(want.matching_accuracy > 0.5, "classes can be told from half a digit: {want:?}");
    // The loss of the training data, which the fit reported too.
    let fit = lab.json(
        "fit --preset global --x left.npy --y right.npy --groups-x labels.npy --groups-y labels.npy --rank 16 --iters 1 \
         --whiten 0.1 --tau 0.2 --out again.safetensors",
    );
    let (a, b) = (json["loss"].as_f64().unwrap(), fit["info"]["final_loss"].as_f64().unwrap());
    // Encoders are folded into one matrix when saved: float32 rounding of the embeddings.
    assert!((a - b).abs() < 1e-5 * b.abs(), "{a} and {b}");
    assert_eq!(json["unmatched"], serde_json::json!([0, 0]));
    // CSR says the same as groups.
    let (mut ptr, mut idx) = (vec![0i64], Vec::new());
    for i in 0..n {
        idx.extend((0..n as i64).filter(|&j| labels[j as usize] == labels[i]));
        ptr.push(idx.len() as i64);
    }
    lab.npy("ptr.npy", &[n + 1], &ptr);
    lab.npy("idx.npy", &[idx.len()], &idx);
    check(&lab.json(&format!("{args} --pos-indptr ptr.npy --pos-indices idx.npy")), &want);
}

#[test]
fn fewer_items_than_k_and_rows_without_a_positive() {
    let lab = digits_lab();
    let few = read_all::<f32>(&source(&lab, "right.npy")).unwrap();
    lab.npy("few.npy", &[3, 32], &few[..96]);
    let some = read_all::<f32>(&source(&lab, "left.npy")).unwrap();
    lab.npy("some.npy", &[2, 32], &some[..64]);
    // Row 1 of x matches nothing.
    lab.npy("gx.npy", &[2], &[7i64, 8]);
    lab.npy("gy.npy", &[3], &[7i64, 7, 9]);
    let groups = "--groups-x gx.npy --groups-y gy.npy";
    let json = lab.json(&format!("eval --model m.safetensors --x some.npy --y few.npy {groups} --k 1,3,99"));
    assert_eq!(numbers(&json["recall"]["x_to_y"])[1..], [0.5, 0.5]);
    assert_eq!(json["unmatched"], serde_json::json!([1, 1]));
    let text = lab.text(&format!("eval --model m.safetensors --x some.npy --y few.npy {groups}"));
    assert!(text.contains("without a positive: 1 row of x, 1 row of y"), "{text}");
    let json = lab.json("search --model m.safetensors --queries some.npy --items few.npy -k 10 --out h.npy");
    assert_eq!(
        (json["k"].as_u64(), json["queries"].as_u64(), json["items"].as_u64()),
        (Some(3), Some(2), Some(3))
    );
    let (indices, k) = lab.matrix("h.npy");
    assert_eq!(k, 3);
    for row in indices.chunks(3) {
        let mut row = row.to_vec();
        row.sort_by(f64::total_cmp);
        assert_eq!(row, [0.0, 1.0, 2.0]);
    }
}

#[test]
fn encode_and_search_agree_with_the_library() {
    let lab = digits_lab();
    let cpu = Cpu::<f32>::new(2).unwrap();
    let model = Model::load(lab.path("m.safetensors")).unwrap();
    let host = |z: &<Cpu<f32> as Backend>::Matrix| {
        let mut all = Vec::new();
        cpu.store(z, &mut |_, panel| {
            all.extend_from_slice(panel);
            Ok(())
        })
        .unwrap();
        all
    };
    for (name, side, file) in [("x", Side::X, "left.npy"), ("y", Side::Y, "right.npy")] {
        let json =
            lab.json(&format!("encode --model m.safetensors --side {name} --input {file} --out z{name}.npy"));
        assert_eq!((json["rows"].as_u64(), json["cols"].as_u64()), (Some(1797), Some(16)));
        let (z, r) = lab.matrix(&format!("z{name}.npy"));
        let norms = z.chunks(r).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt());
        // 16 squares of float32 numbers below 1.
        assert!(norms.map(|n| (n - 1.0).abs()).fold(0.0, f64::max) < 1e-6);
        let want = host(&model.encode(&cpu, side, &source(&lab, file)).unwrap());
        assert_eq!(distance(&z, &want), 0.0);
        assert_eq!(
            open(lab.path(&format!("z{name}.npy")).to_str().unwrap())
                .unwrap()
                .view()
                .unwrap()
                .dtype()
                .to_string(),
            "float32"
        );
    }
    let (zx, zy) = (source(&lab, "zx.npy"), source(&lab, "zy.npy"));
    let top = search(&cpu, &cpu.load(&zx).unwrap(), &cpu.load(&zy).unwrap(), 4).unwrap();
    lab.json("search --model m.safetensors --queries left.npy --items right.npy -k 4 --out hits.npy");
    let want: Vec<f64> = top.indices.iter().map(|&i| f64::from(i)).collect();
    assert_eq!(lab.matrix("hits.npy").0, want);
    // Within a side, everybody finds himself (or an identical row before him).
    lab.json(
        "search --model m.safetensors --queries left.npy --items left.npy --item-side x -k 1 --out self.npy",
    );
    let (own, _) = lab.matrix("self.npy");
    let found = own.iter().enumerate().filter(|(i, j)| *i as f64 == **j).count();
    assert!(found > 1780, "{found}");
    // As .npz: scores and indices of the same search.
    lab.json("search --model m.safetensors --queries right.npy --query-side y --items left.npy -k 2 --out hits.npz");
    let bytes = std::fs::read(lab.path("hits.npz")).unwrap();
    for member in [&b"scores.npy"[..], b"indices.npy"] {
        assert!(bytes.windows(member.len()).any(|w| w == member));
    }
}

#[test]
fn zero_shot_classification_with_class_embeddings() {
    let lab = digits_lab();
    let data = digits().unwrap();
    let (right, d) = (read_all::<f64>(&data.right).unwrap(), data.right.cols());
    // A class is embedded as the mean of its right halves.
    let mut classes = vec![0.0; 10 * d];
    for (row, &label) in right.chunks(d).zip(&data.labels) {
        let size = data.labels.iter().filter(|&&l| l == label).count() as f64;
        let class = &mut classes[label as usize * d..][..d];
        class.iter_mut().zip(row).for_each(|(c, v)| *c += v / size);
    }
    lab.npy("classes.npy", &[10, d], &classes);
    let json = lab
        .json("eval --model m.safetensors --x left.npy --classes classes.npy --labels labels.npy --k 1,2,20");
    // By the definition, in float64.
    let cpu = Cpu::<f64>::new(2).unwrap();
    let model = Model::load(lab.path("m.safetensors")).unwrap();
    let host = |z: &<Cpu<f64> as Backend>::Matrix| {
        let mut all = Vec::new();
        cpu.store(z, &mut |_, panel| {
            all.extend_from_slice(panel);
            Ok(())
        })
        .unwrap();
        all
    };
    let zx = host(&model.encode(&cpu, Side::X, &data.left).unwrap());
    let classes = HostMatrix::from_f64("classes", 10, d, classes).unwrap();
    let zc = host(&model.encode(&cpu, Side::Y, &classes).unwrap());
    let r = model.embedding_dim();
    let (mut hits, mut per_class, mut near) = ([0usize; 2], [(0usize, 0usize); 10], 0);
    for (i, z) in zx.chunks(r).enumerate() {
        let scores: Vec<f64> =
            zc.chunks(r).map(|c| c.iter().zip(z).map(|(a, b)| a * b).sum::<f64>()).collect();
        let label = data.labels[i] as usize;
        let ahead = scores.iter().filter(|&&s| s > scores[label]).count();
        near += usize::from((0..10).any(|c| c != label && (scores[c] - scores[label]).abs() < 1e-5));
        hits[0] += usize::from(ahead < 1);
        hits[1] += usize::from(ahead < 2);
        per_class[label].0 += usize::from(ahead < 1);
        per_class[label].1 += 1;
    }
    let n = data.labels.len() as f64;
    let got = numbers(&json["accuracy"]);
    // Float32 may decide the near ties otherwise.
    let tolerance = (near as f64 + 1e-9) / n;
    assert!((got[0] - hits[0] as f64 / n).abs() <= tolerance, "{got:?}, expected {hits:?} of {n}");
    assert!((got[1] - hits[1] as f64 / n).abs() <= tolerance);
    assert_eq!(got[2], 1.0, "20 guesses of 10 classes");
    assert!(got[0] > 0.5, "{got:?}");
    let mean = per_class.iter().map(|&(hit, all)| hit as f64 / all as f64).sum::<f64>() / 10.0;
    let balanced = json["balanced_accuracy"].as_f64().unwrap();
    assert!((balanced - mean).abs() <= 10.0 * tolerance, "{balanced}, expected {mean}");
    let predictions = numbers(&json["predictions"]);
    let right = predictions.iter().zip(&data.labels).filter(|(p, l)| **p == **l as f64).count();
    assert_eq!(right as f64 / n, got[0]);
    let text = lab.text("eval --model m.safetensors --x left.npy --classes classes.npy --labels labels.npy");
    assert!(text.contains("zero-shot") && text.contains(&format!("{:.3}", got[0])), "{text}");
}

#[test]
fn info_tells_what_there_is() {
    let lab = Lab::new();
    let json = lab.json("info --threads 3");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["threads"], 3);
    assert_eq!(json["devices"][0]["id"], "cpu");
    assert!(json["simd"].is_string() && json["features"].is_array());
    let text = lab.text("info");
    assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains("device cpu"), "{text}");
    assert_eq!(lab.text("--version"), format!("unicon {}\n", env!("CARGO_PKG_VERSION")));
    let help = lab.text("--help");
    for command in [
        "demo",
        "fit",
        "encode",
        "search",
        "compare",
        "ablate",
        "reproduce",
        "eval",
        "report",
        "weights",
        "gram",
        "info",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let of = lab.text(&format!("{command} --help"));
        assert!(of.contains("Usage:") && of.contains("--json"), "{of}");
    }
}

#[test]
fn demo_shows_icons_digits_and_the_papers_experiment() {
    let lab = Lab::new();
    let json = lab.json("demo --draws 1");
    let icons = &json["icons"];
    let shown = icons["shown"]["queries"].as_array().unwrap();
    assert_eq!((shown.len(), shown[0]["items"].as_array().unwrap().len()), (8, 5));
    let digits = json["digits"].as_array().unwrap();
    assert_eq!(digits.len(), 4);
    let recall = |k: usize| digits[k]["recall"]["x_to_y"][0].as_f64().unwrap();
    // Chance is 1/400; whitened encoders are far above it, plain ones above it less.
    assert!(recall(1) > 0.03 && recall(3) > 0.1 && recall(1) > recall(0), "{digits:?}");
    // One draw of 100 test rows: five standard errors of a share.
    for (experiment, rows) in [("linear", 3), ("kernels", 6), ("losses", 3)] {
        let experiment = json[experiment].as_array().unwrap();
        assert_eq!(experiment.len(), rows);
        for row in experiment {
            let code = row["code"][0].as_f64().unwrap();
            for ours in ["schedule", "best"] {
                assert!(row[ours]["mean"].as_f64().unwrap() > code - 0.25, "{row}");
            }
        }
    }
    assert_eq!(json["report"], "unicon-demo.html");
    assert_eq!(lab.files().into_iter().collect::<Vec<_>>(), ["unicon-demo.html"]);
    let other = Lab::new();
    let text = other.text("demo --draws 1 --report page.html");
    assert!(text.contains("page.html") && other.path("page.html").exists(), "{text}");
    // It ends with commands that are there.
    for command in ["demo", "fit", "eval", "report", "ablate"] {
        assert!(text.contains(&format!("\n  unicon {command} --")), "{text}");
    }
}

#[test]
fn demo_looks_captions_up_among_those_that_come_with_it() {
    let lab = Lab::new();
    let json = lab.json("demo --query MUSIC --no-report");
    assert!(json["report"].is_null() && json["digits"].is_null());
    assert!(lab.files().is_empty());
    let icons = &json["icons"];
    // Chance is 0.0034 both ways; two fifths of what is reached in a second, by rows of other concepts.
    for way in ["caption_to_picture", "picture_to_caption"] {
        let recall = numbers(&icons[way]);
        assert!(recall[0] > 0.12 && recall[2] > recall[1] && recall[1] > recall[0], "{way}: {recall:?}");
    }
    for chance in numbers(&icons["chance"]) {
        assert!((0.002..0.005).contains(&chance), "{chance}");
    }
    let data = unicon::data::icons().unwrap();
    let queries = icons["shown"]["queries"].as_array().unwrap();
    assert!(!queries.is_empty());
    let mut right = 0;
    for query in queries {
        let row = query["row"].as_u64().unwrap() as usize;
        assert_eq!(query["name"], data.test_texts[row]);
        assert!(data.test_texts[row].contains("music"));
        let items = query["items"].as_array().unwrap();
        for item in items {
            let picture = item["row"].as_u64().unwrap() as usize;
            assert_eq!(item["name"], data.test_names[picture]);
            let same = data.test.picture_concepts[picture] == data.test.caption_concepts[row];
            assert_eq!(item["right"], same);
            right += usize::from(same);
        }
        let scores: Vec<f64> = items.iter().map(|i| i["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    }
    assert!(right > 0);
    // The words themselves first: "lock" is in "clock", too.
    let json = lab.json("demo --query lock --no-report");
    assert_eq!(json["icons"]["shown"]["queries"][0]["name"], "lock");
    for nothing in ["demo --query qwertz", "demo --query ,;,"] {
        let line = lab.fails(1, nothing);
        assert!(line.contains("--query") && line.contains("no text encoder"), "{line}");
    }
}

#[test]
fn experiments_of_the_paper_are_repeated_by_name() {
    let lab = Lab::new();
    let json = lab.json("reproduce losses --draws 2 --html page.html");
    assert!(json["kernels"].is_null());
    let rows = json["losses"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["loss"].as_str().unwrap()).collect();
    assert_eq!(names, ["clip", "triplet-smooth", "sigmoid"]);
    let paper: Vec<f64> = rows.iter().map(|r| r["paper"].as_f64().unwrap()).collect();
    assert_eq!(paper, [0.86, 0.90, 0.876]);
    assert_eq!(rows[0]["schedule"]["draws"].as_array().unwrap().len(), 2);
    let page = std::fs::read_to_string(lab.path("page.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("angular kernel") && page.contains("0.876"));
    let text = lab.text("reproduce section-4.1 --draws 1");
    assert!(text.contains("Section 4.1") && text.contains("authors' code"), "{text}");
    assert!(lab.fails(2, "reproduce nothing").contains("losses"));
    assert!(lab.fails(1, "reproduce table-1").contains("--test-x"));
    // Nothing that is given is left aside.
    assert!(lab.fails(1, "reproduce losses --rank 3").contains("--x, --y"));
}

/// Halves of digits to train on, to validate and to test with.
fn split_digits_lab() -> Lab {
    let lab = digits_lab();
    let rows = |name: &str, from: usize, to: usize| {
        read_all::<f32>(&source(&lab, name)).unwrap()[32 * from..32 * to].to_vec()
    };
    for (set, from, to) in [("train", 0, 400), ("val", 400, 500), ("test", 500, 700)] {
        lab.npy(&format!("{set}_x.npy"), &[to - from, 32], &rows("left.npy", from, to));
        lab.npy(&format!("{set}_y.npy"), &[to - from, 32], &rows("right.npy", from, to));
    }
    lab
}

/// What `reproduce` says of the paper's schedule is what `fit` and `eval` say.
#[test]
fn tables_of_the_paper_are_repeated_on_given_features() {
    let lab = split_digits_lab();
    let data = "--x train_x.npy --y train_y.npy --val-x val_x.npy --val-y val_y.npy";
    let test = "--test-x test_x.npy --test-y test_y.npy --rank 16";
    let json = lab.json(&format!("reproduce flickr coco-resnet batches {data} {test} --seed 3"));
    for (experiment, preset, published) in
        [("flickr", "paper-flickr", 0.284), ("coco-resnet", "paper-coco-resnet", 0.105)]
    {
        let rows = json[experiment].as_array().unwrap();
        let of = |word: &str| rows.iter().find(|r| r["method"].as_str().unwrap().contains(word)).unwrap();
        let ours = of("schedule");
        assert_eq!(ours["paper"]["x_to_y"][0], published);
        assert!(of("raw")["ours"].is_object() && of("default")["ours"]["seconds"].as_f64().unwrap() > 0.0);
        lab.json(&format!("fit {data} --preset {preset} --rank 16 --seed 3 --out m.safetensors"));
        let eval = lab.json("eval --model m.safetensors --x test_x.npy --y test_y.npy --k 1,10");
        assert_eq!(ours["ours"]["recall"]["x_to_y"], eval["recall"]["x_to_y"], "{experiment}");
        assert_eq!(ours["ours"]["recall"]["y_to_x"], eval["recall"]["y_to_x"], "{experiment}");
    }
    assert!(
        json["flickr"].as_array().unwrap().iter().any(|r| r["method"].as_str().unwrap().contains("Adam"))
    );
    let batches = json["batches"].as_array().unwrap();
    // Of 400 rows.
    assert_eq!(batches.iter().map(|b| b["rows"].as_u64().unwrap()).collect::<Vec<_>>(), [100]);
    assert!(
        lab.fails(1, &format!("reproduce coco-clip {data} {test}"))
            .contains("at most the number of rows, 400")
    );
    assert!(lab.fails(1, &format!("reproduce losses {data} {test}")).contains("synthetic"));
}

#[test]
fn compare_runs_every_method_on_the_same_rows() {
    let lab = split_digits_lab();
    let json = lab.json(
        "compare --x train_x.npy --y train_y.npy --val-x val_x.npy --val-y val_y.npy --test-x test_x.npy --test-y \
         test_y.npy --rank 16 --lr 0.01 --batch 100 --epochs 1 --out c.json --plot c.svg",
    );
    let curves = json["comparison"]["curves"].as_array().unwrap();
    let methods: Vec<&str> = curves.iter().map(|c| c["method"].as_str().unwrap()).collect();
    for method in ["raw features", "PLS-SVD", "regularised CCA", "SGD-CLIP", "paper", "best"] {
        assert!(methods.contains(&method), "{methods:?}");
    }
    // What these rows do not suffice for is said.
    let without = curves.iter().find(|c| c["setting"].as_str().unwrap().contains("paper-coco-clip")).unwrap();
    assert!(without["setting"].as_str().unwrap().contains("needs 1000 rows"), "{without}");
    assert!(without["points"].as_array().unwrap().is_empty());
    for point in curves.iter().flat_map(|c| c["points"].as_array().unwrap()) {
        let shares = numbers(&point["x_to_y"]);
        assert!(shares.iter().all(|v| (0.0..=1.0).contains(v)) && point["seconds"].as_f64().unwrap() >= 0.0);
    }
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(lab.path("c.json")).unwrap()).unwrap();
    assert_eq!(file["curves"].as_array().unwrap().len(), curves.len());
    assert!(std::fs::read_to_string(lab.path("c.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn people_get_tables() {
    let lab = digits_lab();
    let fit = lab.text("fit --preset global --x left.npy --y right.npy --rank 4 --out t.safetensors");
    for word in [
        "1797 x 32",
        "loss before update 1",
        "final loss",
        "singular values",
        "seconds",
        "wrote t.safetensors",
    ] {
        assert!(fit.contains(word), "{word}: {fit}");
    }
    let eval = lab.text("eval --model t.safetensors --x left.npy --y right.npy --loss");
    for word in ["R@1", "R@5", "R@10", "x to y", "y to x", "matching accuracy", "loss"] {
        assert!(eval.contains(word), "{word}: {eval}");
    }
    assert!(!eval.contains('\u{1b}'), "no colours into a pipe");
}
