//! `unicon ablate`: its figures against those of `fit` and `eval`, its advice on data where the answer is known, and what it
//! says to bad lists.

use crate::program::{Lab, numbers};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::Value;

const SETS: [(&str, usize); 3] = [("train", 600), ("val", 200), ("test", 200)];

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// Views of `coordinates` (one a call, of the row's own), with noise in every column and two columns of nothing else.
fn write(lab: &Lab, noise: &[f64], seed: u64, mut coordinates: impl FnMut(&mut ChaCha8Rng) -> Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (set, n) in SETS {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let row = coordinates(&mut rng);
            for view in [&mut x, &mut y] {
                view.extend(row.iter().zip(noise).map(|(v, s)| v + s * normal(&mut rng)));
                view.extend((0..2).map(|_| 0.05 * normal(&mut rng)));
            }
        }
        let d = noise.len() + 2;
        lab.npy(&format!("{set}_x.npy"), &[n, d], &x);
        lab.npy(&format!("{set}_y.npy"), &[n, d], &y);
    }
}

/// Coordinates of very different sizes that tell as much each: what whitening is for.
fn steep(lab: &Lab) {
    let sizes: Vec<f64> = (0..12).map(|k| 4.0 * 0.79f64.powi(k)).collect();
    let noise: Vec<f64> = sizes.iter().map(|s| 0.3 * s).collect();
    write(lab, &noise, 1, |rng| sizes.iter().map(|s| s * normal(rng)).collect());
}

/// Coordinates of one size.
fn flat(lab: &Lab) {
    write(lab, &[0.5; 12], 2, |rng| (0..12).map(|_| normal(rng)).collect());
}

/// Large coordinates that both sides share almost exactly but that have six values only, beside small ones that tell rows
/// apart: more of either than the encoders have room for. Correlations choose the former; weights that look at what is
/// still confused, the latter.
fn coarse(lab: &Lab) {
    let noise = [[0.1; 6].as_slice(), &[0.3; 8]].concat();
    write(lab, &noise, 4, |rng| {
        let k = rng.random_range(0..6usize);
        let mut row: Vec<f64> = (0..6).map(|j| if j == k { 3.0 } else { 0.0 }).collect();
        row.extend((0..8).map(|_| normal(rng)));
        row
    });
}

const ROWS: &str = "--x train_x.npy --y train_y.npy --val-x val_x.npy --val-y val_y.npy";
const TEST: &str = "--test-x test_x.npy --test-y test_y.npy";

fn ablation(lab: &Lab, args: &str) -> Value {
    lab.json(&format!("ablate {ROWS} {TEST} {args}"))["ablation"].clone()
}

fn recall(figures: &Value) -> f64 {
    0.5 * (figures["x_to_y"].as_f64().unwrap() + figures["y_to_x"].as_f64().unwrap())
}

#[test]
fn figures_are_those_of_fit_and_eval() {
    let lab = Lab::new();
    flat(&lab);
    let table = ablation(
        &lab,
        "--rank 5 --whiten none,0.1 --tau 0.2 --nu 1,2 --iters 1,3 --batch-size 150 --factorization orthonormal,sqrt \
         --exact-loss --precision f64 --out a.json --plot a.svg",
    );
    let rows = table["rows"].as_array().unwrap();
    // The preset; for 2 whitenings, 2 splits, 2 kinds of batch: the identity, one update at nu = 2, two fits of 3.
    assert_eq!(rows.len(), 1 + 2 * 2 * 2 * 4);
    let file: Value = serde_json::from_str(&std::fs::read_to_string(lab.path("a.json")).unwrap()).unwrap();
    assert_eq!(file["rows"].as_array().unwrap().len(), rows.len());
    let svg = std::fs::read_to_string(lab.path("a.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("centred identity") && svg.contains("whiten 0.1"),
        "{svg}"
    );
    for row in rows {
        let method = row["method"].as_str().unwrap();
        let word = |option: &str, value: &Value| match value {
            Value::Null => String::new(),
            value => format!("{option} {value} "),
        };
        let factorization = match row["power"].as_f64() {
            Some(0.0) => "--factorization orthonormal ",
            Some(_) => "--factorization sqrt ",
            None => "",
        };
        // From zeros the temperature changes nothing.
        let args = [
            word("--iters", &row["updates"]),
            word("--tau", &row["tau"]),
            word("--nu", &row["nu"]),
            word("--whiten", &row["whiten"]),
            word("--batch-size", &row["batch_size"]),
            factorization.into(),
        ]
        .concat();
        let model = "--precision f64 --out m.safetensors";
        let fit = lab.json(&format!("fit {ROWS} --rank 5 {args} {model}"));
        for (set, figures) in [("val", &row["validation"]), ("test", &row["test"])] {
            let eval = lab.json(&format!(
                "eval --model m.safetensors --x {set}_x.npy --y {set}_y.npy --k 1 --precision f64 --resamples 0"
            ));
            let recall = &eval["recall"];
            // Ranks are counts: float64 decides every one of them alike.
            assert_eq!(figures["x_to_y"], recall["x_to_y"][0], "{args}");
            assert_eq!(figures["y_to_x"], recall["y_to_x"][0], "{args}");
            let (a, b) = (numbers(&figures["mrr"]), numbers(&recall["mrr"]));
            assert!((a[0] - b[0]).abs() < 1e-12 && (a[1] - b[1]).abs() < 1e-12, "{args}: {a:?} and {b:?}");
        }
        // The loss of every row is that of tau = 0.07, nu = 1, as these fits have it by default.
        if method == "centred identity" {
            let (a, b) = (row["loss"].as_f64().unwrap(), fit["info"]["final_loss"].as_f64().unwrap());
            // Sums of 600 x 600 float64 terms, in the same order but for the encoders' folding.
            assert!((a - b).abs() < 1e-9 * b, "{args}: {a} and {b}");
        }
        assert!(row["loss"].as_f64().unwrap() > 0.0 && row["seconds"].as_f64().unwrap() > 0.0, "{row}");
        for set in ["validation", "test"] {
            let gain = &row[set]["gain"];
            if method != "S(gamma)" {
                assert_eq!(*gain, Value::Null, "{row}");
                continue;
            }
            let same = |other: &&Value| {
                let fields = ["whiten", "power", "batch_size"];
                other["method"] == "centred identity" && fields.iter().all(|f| other[*f] == row[*f])
            };
            let base = rows.iter().find(same).unwrap();
            let mean = gain["mean"].as_f64().unwrap();
            // Means of a few hundred shares in another order.
            assert!((mean - (recall(&row[set]) - recall(&base[set]))).abs() < 1e-12, "{row}");
            let ends = numbers(&gain["interval"]);
            assert!(ends[0] <= mean && mean <= ends[1], "{row}");
            assert_eq!(gain["excludes_zero"], ends[0] > 0.0 || ends[1] < 0.0);
        }
    }
}

/// Every name in a JSON value.
fn names(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, v)| {
            all.push(name.clone());
            names(v, all);
        }),
        Value::Array(list) => list.iter().for_each(|v| names(v, all)),
        _ => {}
    }
}

#[test]
fn every_field_of_the_json_is_documented() {
    let lab = Lab::new();
    flat(&lab);
    let json = lab
        .json("ablate --x train_x.npy --y train_y.npy --rank 4 --whiten none,0.1 --tau 0.2 --nu 1 --iters 2");
    let mut all = Vec::new();
    names(&json["ablation"], &mut all);
    all.sort_unstable();
    all.dedup();
    assert!(all.len() > 30, "{all:?}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ablation.md");
    let text = std::fs::read_to_string(page).unwrap();
    for name in all {
        assert!(text.contains(&format!("`{name}`")), "docs/ablation.md says nothing of {name}");
    }
}

#[test]
fn rows_that_are_not_given_are_held_out() {
    let lab = Lab::new();
    flat(&lab);
    let args = "--rank 4 --whiten none --tau 0.2 --nu 1 --iters 2";
    let json = lab.json(&format!("ablate --x train_x.npy --y train_y.npy {args}"));
    let held = &json["ablation"]["held_out"];
    assert_eq!((&held["test"]["x"], &held["test"]["y"]), (&60.into(), &60.into()));
    // A tenth of the 540 that are left.
    assert_eq!(
        (&held["validation"]["x"], &held["validation"]["apart"]["matches"]),
        (&54.into(), &true.into())
    );
    let text = lab.text(&format!("ablate --x train_x.npy --y train_y.npy {args}"));
    for words in [
        "validation rows: 54 rows of x and 54 of y held out of the training rows",
        "test rows: 60 rows of x and 60 of y held out of the training rows",
    ] {
        assert!(text.contains(words), "{text}");
    }
    let given = ablation(&lab, args);
    assert_eq!((&given["held_out"]["test"], &given["held_out"]["validation"]), (&Value::Null, &Value::Null));
    // A few rows are all needed.
    lab.npy("few.npy", &[15, 14], &[1.0; 15 * 14]);
    let line = lab.fails(1, "ablate --x few.npy --y few.npy --rank 2");
    assert!(line.contains("--test-x") && line.contains("15 rows"), "{line}");
}

#[test]
fn many_to_many_rows_are_held_out_with_their_matches() {
    let lab = Lab::new();
    flat(&lab);
    // Groups of two rows of x and two of y.
    let groups: Vec<i64> = (0..600).map(|i| i / 2).collect();
    lab.npy("groups.npy", &[600], &groups);
    let json = lab.json(
        "ablate --x train_x.npy --y train_y.npy --groups-x groups.npy --groups-y groups.npy --rank 4 --whiten 0.1 --tau 0.2 \
         --nu 1 --iters 2",
    );
    let table = &json["ablation"];
    assert_eq!(table["held_out"]["test"]["apart"]["matches"], true);
    assert_eq!(table["held_out"]["test"]["x"], table["held_out"]["test"]["y"]);
    // All are whitened: nothing is said of whitening.
    assert_eq!(table["advice"]["whitening"], Value::Null);
    assert!(table["advice"]["text"].as_str().unwrap().starts_with("On this data S(gamma)"), "{table}");
}

#[test]
fn the_advice_finds_where_whitening_does_the_work() {
    let lab = Lab::new();
    steep(&lab);
    let advice = &ablation(&lab, "--rank 12 --whiten none,0.01 --tau 1,0.2 --nu 1,2 --iters 1,2")["advice"];
    assert_eq!(
        (&advice["whitening"]["verdict"], &advice["s"]["verdict"]),
        (&"gains".into(), &"undecided".into())
    );
    let options = advice["options"].as_str().unwrap();
    assert_eq!(options, "--whiten 0.01 --iters 1 --factorization orthonormal");
    let text = advice["text"].as_str().unwrap();
    assert!(text.contains("whitening gains 0.") && text.contains(options), "{text}");
    // Whitening has no second row to be chosen among, S(gamma) ten in all: 2 whitenings, and for each one update at nu = 2 and
    // 2 x 2 fits of two.
    let (w, s) = (&advice["whitening"], &advice["s"]);
    assert_eq!((&w["chosen_among"], &s["chosen_among"]), (&1.into(), &10.into()));
    assert!((s["level"].as_f64().unwrap() - 0.995).abs() < 1e-12, "{s}");
}

#[test]
fn the_advice_finds_where_s_helps() {
    let lab = Lab::new();
    coarse(&lab);
    let table = ablation(&lab, "--rank 6 --tau 1,0.2 --nu 1 --iters 2");
    let advice = &table["advice"];
    assert_eq!(
        (&advice["s"]["verdict"], &advice["whitening"]["verdict"]),
        (&"gains".into(), &"loses".into())
    );
    assert!(advice["s"]["test"]["interval"][0].as_f64().unwrap() > 0.0, "{advice}");
    assert!(advice["text"].as_str().unwrap().contains("S(gamma) gains 0."), "{advice}");
    let row = &table["rows"][advice["row"].as_u64().unwrap() as usize];
    assert_eq!((&row["method"], &row["updates"]), (&"S(gamma)".into(), &2.into()));
    let options = advice["options"].as_str().unwrap();
    assert!(options.contains("--iters 2 --tau"), "{advice}");
    // The options do what they say.
    lab.text(&format!("fit {ROWS} --rank 6 {options} --out m.safetensors"));
    let eval = lab.json("eval --model m.safetensors --x test_x.npy --y test_y.npy --k 1 --resamples 0");
    let (a, b) = (row["test"]["x_to_y"].as_f64().unwrap(), eval["recall"]["x_to_y"][0].as_f64().unwrap());
    // Float32: a query may fall on the other side.
    assert!((a - b).abs() < 0.011, "{a} and {b}");
}

#[test]
fn the_advice_finds_where_s_hurts() {
    let lab = Lab::new();
    flat(&lab);
    let advice = &ablation(&lab, "--rank 12 --whiten none,0.01 --tau 0.07 --nu 1 --iters 2,5")["advice"];
    assert_eq!(advice["s"]["verdict"], "loses", "{advice}");
    assert!(advice["text"].as_str().unwrap().contains("S(gamma) loses at least 0."), "{advice}");
    // Rows of one size need no whitening either.
    assert_eq!(advice["whitening"]["verdict"], "undecided", "{advice}");
    assert!(advice["options"].as_str().unwrap().contains("--iters 1"), "{advice}");
}

#[test]
fn a_budget_leaves_rows_out_and_says_so() {
    let lab = Lab::new();
    flat(&lab);
    let table = ablation(&lab, "--rank 4 --budget 0.001ms");
    let rows = table["rows"].as_array().unwrap().len() as u64;
    // 3 whitenings with one identity, one first update at nu = 2 and 2 x 3 x 2 more, and the preset.
    assert_eq!(rows + table["left_out"].as_u64().unwrap(), 1 + 3 * (1 + 1 + 12));
    assert!(rows < 3 && table["advice"]["text"].as_str().unwrap().contains("no advice"), "{table}");
    let text = lab.text(&format!("ablate {ROWS} {TEST} --rank 4 --budget 0.001ms"));
    assert!(text.contains("the budget left 4"), "{text}");
}

#[test]
fn bad_lists_are_refused() {
    let lab = Lab::new();
    flat(&lab);
    for (code, args, words) in [
        (2, "--tau", "--tau"),
        (2, "--tau ,", "--tau"),
        (2, "--whiten some", "expected a number >= 0 or none"),
        (2, "--factorization cube", "expected sqrt, orthonormal or power:P"),
        (2, "--budget soon", "expected a time"),
        (1, "--iters 0", "--iters: expected numbers of updates from 1 to 1000, got 0"),
        (1, "--iters 5000", "from 1 to 1000"),
        (1, "--iters 1 --nu 1", "one update at nu = 1 is the centred identity"),
        (1, "--tau 0", "tau: expected a finite temperature > 0"),
        (1, "--nu nan", "nu"),
        (1, "--whiten -1", "whiten: expected a finite number >= 0"),
        (1, "--batch-size 1", "batch_size: expected at least 2"),
        (1, "--batch-size 601", "at most the number of rows, 600"),
        (1, "--resamples 0", "--resamples: expected at least 40"),
        (1, "--resamples 7", "--resamples"),
        (1, "--out train_x.npy", "expected a file that is not read"),
    ] {
        let line = lab.fails(code, &format!("ablate {ROWS} {TEST} --rank 4 {args}"));
        assert!(line.contains(words), "{args}: {line}");
    }
    let list = (1..=60).map(|k| k.to_string()).collect::<Vec<_>>().join(",");
    let line = lab.fails(1, &format!("ablate {ROWS} {TEST} --rank 4 --tau {list}"));
    // 3 whitenings of the identity, one first update and 60 x 2 x 2 others.
    assert!(line.contains("at most 500 rows") && line.contains("726"), "{line}");
    for (args, words) in [
        (format!("{ROWS} {TEST} --rank 15"), "at most min(d1, d2) = 14"),
        (
            format!("{ROWS} --test-x test_x.npy --test-y val_y.npy --test-groups-x g.npy --rank 3"),
            "--test-groups-y",
        ),
        (format!("{ROWS} --test-x test_x.npy --rank 3"), "--test-y"),
    ] {
        let code = if args.contains("15") { 1 } else { 2 };
        let line = lab.fails(code, &format!("ablate {args}"));
        assert!(line.contains(words), "{args}: {line}");
    }
}
