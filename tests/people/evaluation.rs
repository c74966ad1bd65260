//! Evaluation as people do it: embeddings without a model, several prompts a class, a set against itself, names, ties told.

use crate::program::{Lab, distance, numbers};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const N: usize = 120;

/// `n` rows of `latent` seen through `d` random directions, with noise.
fn seen(rng: &mut ChaCha8Rng, latent: &[f64], d: usize, noise: f64) -> Vec<f64> {
    let map: Vec<f64> = (0..6 * d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let row = |z: &[f64], rng: &mut ChaCha8Rng| -> Vec<f64> {
        let of = |j: usize| (0..6).map(|k| z[k] * map[6 * j + k]).sum::<f64>();
        (0..d).map(|j| of(j) + noise * rng.random_range(-1.0..1.0)).collect()
    };
    latent.chunks(6).flat_map(|z| row(z, rng)).collect()
}

/// x.npy and y.npy: embeddings of one space, of any length; cx.npy: a constant; groups of four; names.
fn lab() -> Lab {
    let lab = Lab::new();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let latent: Vec<f64> = (0..N * 6).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut noisy = || -> Vec<f64> { latent.iter().map(|v| v + 0.5 * rng.random_range(-1.0..1.0)).collect() };
    let (x, y) = (noisy(), noisy());
    lab.npy("x.npy", &[N, 6], &x);
    lab.npy("y.npy", &[N, 6], &y);
    lab.npy("cx.npy", &[N, 6], &vec![0.3; N * 6]);
    lab.npy("thin.npy", &[N, 5], &vec![0.3; N * 5]);
    let groups: Vec<i64> = (0..N as i64).map(|i| i / 4).collect();
    lab.npy("g.npy", &[N], &groups);
    let names = |of: &str| (0..N).map(|i| format!("{of} no. {i}\n")).collect::<String>();
    std::fs::write(lab.path("x.txt"), names("picture")).unwrap();
    std::fs::write(lab.path("y.txt"), names("<caption> & more")).unwrap();
    lab
}

fn unit(values: &[f64], d: usize) -> Vec<f64> {
    let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
    values.chunks(d).flat_map(|row| row.iter().map(|v| v / norm(row)).collect::<Vec<_>>()).collect()
}

/// For every row of x the items of y by falling cosine.
fn order(lab: &Lab, x: &str, y: &str) -> Vec<Vec<usize>> {
    let ((x, d), (y, _)) = (lab.matrix(x), lab.matrix(y));
    let (x, y) = (unit(&x, d), unit(&y, d));
    let dot = |i: usize, j: usize| (0..d).map(|k| x[i * d + k] * y[j * d + k]).sum::<f64>();
    let of = |i: usize| {
        let mut order: Vec<usize> = (0..y.len() / d).collect();
        order.sort_by(|&a, &b| dot(i, b).total_cmp(&dot(i, a)).then(a.cmp(&b)));
        order
    };
    (0..x.len() / d).map(of).collect()
}

#[test]
fn embeddings_are_evaluated_without_a_model() {
    let lab = lab();
    let json = lab.json("eval --x x.npy --y y.npy --k 1,5");
    assert_eq!(json["normalised"], true);
    let ranks = |x: &str, y: &str| -> Vec<usize> {
        order(&lab, x, y)
            .iter()
            .enumerate()
            .map(|(i, o)| 1 + o.iter().position(|&j| j == i).unwrap())
            .collect()
    };
    for (way, key, ranks) in [(0, "x_to_y", ranks("x.npy", "y.npy")), (1, "y_to_x", ranks("y.npy", "x.npy"))]
    {
        let recall = |k: usize| ranks.iter().filter(|&&r| r <= k).count() as f64 / N as f64;
        assert_eq!(numbers(&json["recall"][key]), [recall(1), recall(5)], "{key}");
        let mean = |f: &dyn Fn(usize) -> f64| ranks.iter().map(|&r| f(r)).sum::<f64>() / N as f64;
        let mut sorted = ranks.clone();
        sorted.sort_unstable();
        let median = (sorted[N / 2 - 1] + sorted[N / 2]) as f64 / 2.0;
        let near = |name: &str, want: f64| {
            let got = json["recall"][name][way].as_f64().unwrap();
            assert!((got - want).abs() < 1e-12, "{name}: {got}, expected {want}");
        };
        near("mrr", mean(&|r| 1.0 / r as f64));
        near("mean_rank", mean(&|r| r as f64));
        near("median_rank", median);
        for (at, interval) in json["recall"]["intervals"][key].as_array().unwrap().iter().enumerate() {
            let (ends, share) = (numbers(interval), recall([1, 5][at]));
            assert!(ends[0] < share && share < ends[1] && ends[1] - ends[0] < 0.3, "{ends:?} {share}");
        }
    }
    // Intervals come of the seed alone.
    let again = lab.json("eval --x x.npy --y y.npy --k 1,5 --threads 1");
    assert_eq!(again["recall"], json["recall"]);
    let other = lab.json("eval --x x.npy --y y.npy --k 1,5 --seed 1");
    assert_ne!(other["recall"]["intervals"], json["recall"]["intervals"]);
    assert_eq!(other["recall"]["x_to_y"], json["recall"]["x_to_y"]);
    let none = lab.json("eval --x x.npy --y y.npy --k 1,5 --resamples 0");
    assert_eq!(none["recall"]["intervals"], Value::Null);
    let text = lab.text("eval --x x.npy --y y.npy");
    for words in ["MRR", "median rank", "mean rank", "95 %", "no model", "scaled to unit length"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // A model that does nothing says the same; rows of any size too.
    let (x, _) = lab.matrix("x.npy");
    let sized: Vec<f64> = x
        .chunks(6)
        .enumerate()
        .flat_map(|(i, row)| {
            let scale = 10f64.powi(i as i32 % 60 - 30);
            row.iter().map(move |v| v * scale).collect::<Vec<_>>()
        })
        .collect();
    lab.npy("sized.npy", &[N, 6], &sized);
    assert_eq!(
        lab.json("eval --x sized.npy --y y.npy --k 1,5")["recall"]["x_to_y"],
        json["recall"]["x_to_y"]
    );
}

#[test]
fn ties_have_one_spelling_and_are_told() {
    let lab = lab();
    let chance = 1.0 / N as f64;
    let recall = |rule: &str| {
        let json = lab.json(&format!("eval --x cx.npy --y y.npy --k 1 {rule}"));
        assert_eq!(json["recall"]["tied"], json!([0, N]));
        (json["recall"]["y_to_x"][0].as_f64().unwrap(), json["recall"]["ties"].as_str().unwrap().to_string())
    };
    // All rows of x are equal: of those of y nobody can tell.
    for rule in ["", "--ties expected"] {
        let (share, name) = recall(rule);
        assert!((share - chance).abs() < 1e-12 && name == "expected", "{rule}: {share} {name}");
    }
    assert_eq!(recall("--ties optimistic"), (1.0, "optimistic".into()));
    assert_eq!(recall("--ties shared"), (1.0, "optimistic".into()));
    assert_eq!(recall("--ties pessimistic"), (0.0, "pessimistic".into()));
    let (share, name) = recall("--ties lower-index");
    assert!((share - chance).abs() < 1e-12 && name == "lower-index");
    let text = lab.text("eval --x cx.npy --y y.npy");
    assert!(
        text.contains("tied with a wrong item: 0 of 120 rows of x, 120 of 120 rows of y (--ties expected)"),
        "{text}"
    );
    assert!(!lab.text("eval --x x.npy --y y.npy").contains("tied"));
    let line = lab.fails(2, "eval --x x.npy --y y.npy --ties mean");
    for name in ["mean", "lower-index", "optimistic", "pessimistic", "expected"] {
        assert!(line.contains(name), "{line}");
    }
    let json = lab.json("report --x cx.npy --y y.npy --out p.html");
    assert!((json["evaluated"]["recall"]["y_to_x"][0].as_f64().unwrap() - chance).abs() < 1e-12);
    assert_eq!(json["evaluated"]["recall"]["tied"], json!([0, N]));
    // Classes that are all alike give chance too.
    lab.npy("same.npy", &[3, 6], &[0.2; 18]);
    lab.npy("l.npy", &[N], &(0..N as i64).map(|i| i % 3).collect::<Vec<_>>());
    let json = lab.json("eval --x x.npy --classes same.npy --labels l.npy --k 1,2");
    assert!(distance(&numbers(&json["accuracy"]), &[1.0 / 3.0, 2.0 / 3.0]) < 1e-12, "{json}");
    assert_eq!(json["tied"], N);
    assert!(
        lab.text("eval --x x.npy --classes same.npy --labels l.npy")
            .contains("tied with a wrong class: 120 samples")
    );
}

#[test]
fn a_set_against_itself_leaves_the_query_out() {
    let lab = lab();
    let json = lab.json("eval --x x.npy --y x.npy --groups-x g.npy --groups-y g.npy --exclude-self --k 1,3");
    let order = order(&lab, "x.npy", "x.npy");
    let rank = |i: usize| {
        let others: Vec<usize> = order[i].iter().copied().filter(|&j| j != i).collect();
        1 + others.iter().position(|&j| j / 4 == i / 4).unwrap()
    };
    let share = |k: usize| (0..N).filter(|&i| rank(i) <= k).count() as f64 / N as f64;
    assert_eq!(numbers(&json["recall"]["x_to_y"]), [share(1), share(3)]);
    assert!(share(1) < 0.5, "without the option every query finds itself");
    let with = lab.json("eval --x x.npy --y x.npy --groups-x g.npy --groups-y g.npy --k 1");
    assert_eq!(with["recall"]["x_to_y"][0], 1.0);
    let text = lab.text("search --queries x.npy --items x.npy --exclude-self -k 7 --out s.npy");
    assert!(text.contains("the 7 best of 120"), "{text}");
    let (found, k) = lab.matrix("s.npy");
    for (i, list) in found.chunks(k).enumerate() {
        let want: Vec<f64> = order[i].iter().filter(|&&j| j != i).take(7).map(|&j| j as f64).collect();
        assert_eq!(list, want, "query {i}");
    }
    let json = lab.json("search --queries x.npy --items x.npy --exclude-self -k 500 --out s.npz");
    assert_eq!(json["k"], N - 1);
    let page = lab.json(
        "report --x x.npy --y x.npy --groups-x g.npy --groups-y g.npy --exclude-self --k 1,3 --out p.html",
    );
    assert_eq!(numbers(&page["evaluated"]["recall"]["x_to_y"]), [share(1), share(3)]);
    for (args, words) in [
        ("eval --x x.npy --y y.npy --exclude-self", "other than the row itself"),
        (
            "search --queries x.npy --items few.npy --exclude-self --out s2.npy",
            "few.npy: expected as many rows as the queries",
        ),
        ("eval --x x.npy --y few.npy --groups-x g.npy --groups-y gf.npy --exclude-self", "120 rows, as x"),
    ] {
        lab.npy("few.npy", &[3, 6], &[0.5; 18]);
        lab.npy("gf.npy", &[3], &[0i64, 1, 2]);
        let line = lab.fails(1, args);
        assert!(line.contains(words), "{line}");
    }
    let line = lab.fails(2, "eval --x x.npy --classes few.npy --labels l.npy --exclude-self");
    assert!(line.contains("--exclude-self"), "{line}");
}

#[test]
fn classes_of_several_prompts() {
    let lab = lab();
    // Three classes, of two, one and three prompts, in no order.
    let groups = [2i64, 0, 2, 1, 0, 2];
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let prompts: Vec<f64> = (0..36).map(|_| rng.random_range(-1.0..1.0)).collect();
    lab.npy("prompts.npy", &[6, 6], &prompts);
    lab.npy("pg.npy", &[6], &groups);
    let rows = unit(&prompts, 6);
    let mut means = vec![0.0; 18];
    for (row, &c) in rows.chunks(6).zip(&groups) {
        row.iter().enumerate().for_each(|(k, v)| means[6 * c as usize + k] += v);
    }
    lab.npy("means.npy", &[3, 6], &means);
    lab.npy("l.npy", &[N], &(0..N as i64).map(|i| i * 7 % 3).collect::<Vec<_>>());
    let args = "--x x.npy --labels l.npy --k 1,2";
    let got = lab.json(&format!("eval {args} --classes prompts.npy --class-groups pg.npy"));
    let want = lab.json(&format!("eval {args} --classes means.npy"));
    for key in ["accuracy", "predictions", "class_accuracy", "balanced_accuracy", "intervals", "classes"] {
        assert_eq!(got[key], want[key], "{key}");
    }
    assert_eq!((&got["classes"], &got["class_rows"]), (&json!(3), &json!(6)));
    lab.npy("hole.npy", &[6], &[2i64, 0, 2, 3, 0, 2]);
    lab.npy("short.npy", &[5], &[0i64; 5]);
    lab.npy("minus.npy", &[6], &[0i64, -1, 0, 0, 0, 0]);
    lab.npy("huge.npy", &[6], &[0i64, 1 << 40, 0, 0, 0, 0]);
    lab.npy("five.npy", &[N], &[5i64; N]);
    for (groups, words) in [
        ("hole.npy", "none for class 1"),
        ("short.npy", "6 labels, one a row of prompts.npy"),
        ("minus.npy", "-1 at row 1"),
        ("huge.npy", "1099511627776 at row 1"),
    ] {
        let line = lab.fails(1, &format!("eval {args} --classes prompts.npy --class-groups {groups}"));
        assert!(line.contains(groups) && line.contains(words), "{line}");
    }
    let line = lab.fails(1, "eval --x x.npy --labels five.npy --classes prompts.npy --class-groups pg.npy");
    assert!(line.contains("labels in 0..3, got 5 at row 0"), "{line}");
    assert!(lab.fails(2, "eval --x x.npy --y y.npy --class-groups pg.npy").contains("--classes"));
}

#[test]
fn rows_have_names() {
    let lab = lab();
    let json = lab.json(
        "search --queries x.npy --items y.npy -k 4 --names-queries x.txt --names-items y.txt --out s.npy",
    );
    let order = order(&lab, "x.npy", "y.npy");
    let examples = json["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 5);
    for (q, example) in examples.iter().enumerate() {
        assert_eq!((&example["query"], &example["name"]), (&json!(q), &json!(format!("picture no. {q}"))));
        for (item, &j) in example["items"].as_array().unwrap().iter().zip(&order[q]) {
            assert_eq!(item["item"], j);
            assert_eq!(item["name"], format!("<caption> & more no. {j}"));
        }
    }
    let text = lab.text("search --queries x.npy --items y.npy --names-x x.txt --names-y y.txt --out s.npy");
    assert!(text.contains(&format!("<caption> & more no. {} (", order[0][0])), "{text}");
    assert!(!lab.text("search --queries x.npy --items y.npy --out s.npy").contains("picture"));
    // The report's examples are those that a sort finds, in the page by name.
    let json = lab.json("report --x x.npy --y y.npy --names-x x.txt --names-y y.txt --out p.html");
    let html = std::fs::read_to_string(lab.path("p.html")).unwrap();
    let rank = |i: usize| 1 + order[i].iter().position(|&j| j == i).unwrap();
    let worst = (0..N).map(rank).max().unwrap();
    let misses = json["examples"]["misses"].as_array().unwrap();
    assert_eq!(misses[0]["rank"], worst);
    for miss in misses {
        let (i, wrong) = (miss["query"].as_u64().unwrap() as usize, miss["wrong"].as_u64().unwrap() as usize);
        assert_eq!((rank(i) as u64, order[i][0]), (miss["rank"].as_u64().unwrap(), wrong));
        assert_eq!(miss["right"], i);
        assert!(
            html.contains(&format!("<td>picture no. {i}</td><td>&lt;caption&gt; &amp; more no. {i}</td>")),
            "{i}"
        );
    }
    for hit in json["examples"]["hits"].as_array().unwrap() {
        assert_eq!(rank(hit["query"].as_u64().unwrap() as usize), 1);
    }
    for pair in json["examples"]["confused"].as_array().unwrap() {
        let (a, b) = (pair["first"].as_u64().unwrap() as usize, pair["second"].as_u64().unwrap() as usize);
        let count = usize::from(order[a][0] == b) + usize::from(order[b][0] == a);
        assert_eq!(pair["queries"], count, "{a} {b}");
    }
    assert!(html.contains("Worst misses") && html.contains("Surest hits") && !html.contains("<caption>"));
    // Windows' line ends and a byte order mark; a last line without an end.
    let mut windows = String::from("\u{feff}first\r\n");
    (1..N).for_each(|i| windows += &format!("row {i}\r\n"));
    std::fs::write(lab.path("windows.txt"), windows.trim_end()).unwrap();
    let json = lab.json("search --queries x.npy --items y.npy --names-queries windows.txt --out s.npy");
    assert_eq!(
        (&json["examples"][0]["name"], &json["examples"][1]["name"]),
        (&json!("first"), &json!("row 1"))
    );
    // What is no list of names.
    std::fs::write(lab.path("short.txt"), "a\nb\n").unwrap();
    std::fs::write(lab.path("latin.txt"), b"caf\xe9\n").unwrap();
    std::fs::write(lab.path("late.txt"), [b"a\nb\n".as_slice(), &[0xff, b'\n']].concat()).unwrap();
    for (args, words) in [
        (
            "report --x x.npy --y y.npy --names-x short.txt --out q.html",
            "short.txt: expected 120 names, one a line for each row of x.npy, got 2",
        ),
        ("report --x x.npy --y y.npy --names-y latin.txt --out q.html", "byte 0xe9 in line 1"),
        ("search --queries x.npy --items y.npy --names-items late.txt --out q.npy", "byte 0xff in line 3"),
        (
            "search --queries x.npy --items y.npy --names-queries none.txt --out q.npy",
            "none.txt: No such file",
        ),
    ] {
        let line = lab.fails(1, args);
        assert!(line.contains(words), "{line}");
    }
    // Nothing in a name reaches the terminal.
    std::fs::write(lab.path("wild.txt"), "\x1b[31mred\x07\n".repeat(N)).unwrap();
    let text = lab.text("search --queries x.npy --items y.npy --names-queries wild.txt --out s.npy");
    assert!(!text.contains('\x1b') && text.contains("[31mred"), "{text:?}");
}

#[test]
fn what_cannot_be_evaluated_is_one_line() {
    let lab = lab();
    let mut nan = lab.matrix("y.npy").0;
    nan[6 * 17 + 2] = f64::NAN;
    lab.npy("nan.npy", &[N, 6], &nan);
    for (code, args, words) in [
        (1, "eval --x x.npy --y thin.npy", "thin.npy: expected 6 columns, as x.npy has"),
        (1, "search --queries x.npy --items thin.npy --out s.npy", "thin.npy: expected 6 columns"),
        (1, "report --x x.npy --y thin.npy --out s.html", "thin.npy: expected 6 columns"),
        (1, "eval --x x.npy --y nan.npy", "nan.npy: expected finite values, got NaN at row 17, column 2"),
        (
            1,
            "search --queries nan.npy --items y.npy --out s.npy",
            "nan.npy: expected finite values, got NaN at row 17",
        ),
        (1, "report --x x.npy --y nan.npy --out s.html", "NaN at row 17, column 2"),
        (1, "eval --x x.npy --y y.npy --k 0", "--k: expected numbers >= 1"),
        (1, "eval --x x.npy --y y.npy --resamples 5", "--resamples: expected 0 or at least 40, got 5"),
        (1, "search --queries x.npy --items y.npy -k 0 --out s.npy", "-k: expected a number >= 1"),
        (2, "eval --x x.npy --y y.npy --loss", "--model"),
        (2, "eval --x x.npy", "--y"),
    ] {
        let line = lab.fails(code, args);
        assert!(line.contains(words), "{args}: {line}");
    }
}

/// Fewer rows than columns: a fit works in the span of the rows, and its iterates are encoders of the columns all the same.
#[test]
fn methods_are_compared_on_few_rows_of_many_columns() {
    let lab = Lab::new();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let latent: Vec<f64> = (0..140 * 6).map(|_| rng.random_range(-1.0..1.0)).collect();
    let (x, y) = (seen(&mut rng, &latent, 150, 0.3), seen(&mut rng, &latent, 130, 0.3));
    for (name, d, values) in [("x", 150, &x), ("y", 130, &y)] {
        lab.npy(&format!("{name}.npy"), &[80, d], &values[..80 * d]);
        lab.npy(&format!("v{name}.npy"), &[30, d], &values[80 * d..110 * d]);
        lab.npy(&format!("t{name}.npy"), &[30, d], &values[110 * d..]);
    }
    let args = "compare --x x.npy --y y.npy --val-x vx.npy --val-y vy.npy --test-x tx.npy --test-y ty.npy --rank 4 --lr 0.01 \
                --batch 20 --epochs 1 --paper none";
    let json = lab.json(args);
    let curves = json["comparison"]["curves"].as_array().unwrap();
    let best = curves.iter().find(|c| c["method"] == "best").unwrap();
    let points = best["points"].as_array().unwrap();
    assert!(points.len() > 2, "{best}");
    // The first iterate is a spectral step already; chance is one of 30.
    for point in points {
        assert!(
            point["x_to_y"][0].as_f64().unwrap() > 0.5 && point["loss"].as_f64().unwrap().is_finite(),
            "{point}"
        );
    }
    // The grid of SGD-CLIP, by other optimizers and at other temperatures.
    let json = lab.json(&format!("{args} --optimizer adamw,sgd --sgd-tau 0.05,0.2 --weight-decay 0.1"));
    let curves = json["comparison"]["curves"].as_array().unwrap();
    let settings: Vec<&str> =
        curves.iter().filter(|c| c["method"] == "SGD-CLIP").map(|c| c["setting"].as_str().unwrap()).collect();
    let wanted = ["AdamW, decay 0.1", "SGD, momentum 0.9"]
        .map(|name| ["tau 0.05", "tau 0.2"].map(|tau| format!("{tau}, {name}, lr 0.01, batch 20, 1 epochs")));
    assert_eq!(settings, wanted.concat());
    let losses: Vec<f64> = curves.iter().filter_map(|c| c["exact_loss"].as_f64()).collect();
    assert!(losses.len() == curves.len() && losses.iter().all(|l| l.is_finite()), "{losses:?}");
    for (wrong, name) in [("--optimizer sgd --momentum 1", "momentum"), ("--sgd-tau 0", "tau")] {
        let said = lab.fails(1, &format!("{args} {wrong}"));
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn methods_are_compared_on_test_groups_and_kernels() {
    let lab = Lab::new();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let latent: Vec<f64> = (0..400 * 6).map(|_| rng.random_range(-1.0..1.0)).collect();
    let (x, y) = (seen(&mut rng, &latent, 9, 0.3), seen(&mut rng, &latent, 7, 0.3));
    lab.npy("x.npy", &[300, 9], &x[..300 * 9]);
    lab.npy("y.npy", &[300, 7], &y[..300 * 7]);
    lab.npy("tx.npy", &[100, 9], &x[300 * 9..]);
    // Every test row of y twice: groups say so.
    let twice: Vec<f64> = y[300 * 7..].chunks(7).flat_map(|row| [row, row].concat()).collect();
    lab.npy("ty.npy", &[200, 7], &twice);
    lab.npy("gx.npy", &[100], &(0..100i64).collect::<Vec<_>>());
    lab.npy("gy.npy", &[200], &(0..200i64).map(|i| i / 2).collect::<Vec<_>>());
    let args = "compare --x x.npy --y y.npy --test-x tx.npy --test-y ty.npy --test-groups-x gx.npy --test-groups-y gy.npy \
                --rank 4 --lr 0.01 --batch 64 --epochs 1 --paper none";
    let json = lab.json(&format!("{args} --kernel rbf --landmarks 60"));
    let curves = json["comparison"]["curves"].as_array().unwrap();
    let methods: Vec<&str> = curves.iter().map(|c| c["method"].as_str().unwrap()).collect();
    assert_eq!(
        methods,
        [
            "PLS-SVD",
            "regularised CCA",
            "regularised CCA",
            "SGD-CLIP",
            "kernel CCA",
            "kernel CCA",
            "kernel best",
            "best"
        ]
    );
    for curve in curves {
        // Both copies are right, so that none of them is a wrong item.
        assert_eq!(curve["last"]["tied"], json!([0, 0]), "{curve}");
        let (x, y) =
            (curve["last"]["x_to_y"][0].as_f64().unwrap(), curve["last"]["y_to_x"][0].as_f64().unwrap());
        // All are above chance, which is .01; one epoch of SGD-CLIP and an untuned kernel not by much.
        let least = if curve["method"] == "best" { 0.3 } else { 0.015 };
        assert!(x > least && y > least, "{curve}");
        match curve["method"].as_str() {
            Some("best") => assert_eq!(curve["gain"], Value::Null),
            _ => {
                let ends = numbers(&curve["gain"]["interval"]);
                let mean = curve["gain"]["mean"].as_f64().unwrap();
                assert!(ends[0] <= mean && mean <= ends[1], "{curve}");
            }
        }
    }
    let text = lab.text(&format!("{args} --resamples 0 --ties pessimistic"));
    assert!(!text.contains("95 %") && !text.contains("tied"), "{text}");
    assert!(lab.text(args).contains("mean R@1 less best's (95 %)"));
    // A learning rate beyond all reason ends its own curve only, and is no perfect recall.
    let wild = lab.json(&args.replace("--lr 0.01", "--lr 0.01,1e300"));
    let of = |rate: &str| {
        let all = wild["comparison"]["curves"].as_array().unwrap().iter();
        let mut found = all.filter(|c| c["setting"].as_str().unwrap().contains(rate));
        found.next().unwrap_or_else(|| panic!("no {rate}")).clone()
    };
    assert!(!of("lr 0.01,")["points"].as_array().unwrap().is_empty());
    let wild = of("lr 1000000000000000");
    for point in wild["points"].as_array().unwrap() {
        assert!(point["loss"].as_f64().is_some() && point["x_to_y"][0].as_f64().unwrap() < 0.5, "{wild}");
    }
    for (code, more, words) in [
        (2, "--test-groups-x gx.npy", "--test-groups-y"),
        (2, "--shared-ties --ties expected", "--ties"),
        (1, "--kernel rbf --exact", "use --landmarks"),
        (1, "--resamples 3", "--resamples"),
    ] {
        let plain = "compare --x x.npy --y y.npy --test-x tx.npy --test-y ty.npy --rank 4";
        let groups = if code == 1 { " --test-groups-x gx.npy --test-groups-y gy.npy" } else { "" };
        let line = lab.fails(code, &format!("{plain}{groups} {more}"));
        assert!(line.contains(words), "{line}");
    }
}
