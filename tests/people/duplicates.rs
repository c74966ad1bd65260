//! Repeated rows and groups: counted, told, and never on both sides of a split.

use crate::program::Lab;
use serde_json::json;

/// Five captions an image given as repeated rows: `x.npy` has 80 distinct rows of 400, `y.npy` none that repeat.
fn captions() -> Lab {
    let mut state = 3u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let (images, captions, d) = (80, 5, 8);
    let (mut x, mut y) = (Vec::<f32>::new(), Vec::<f32>::new());
    for _ in 0..images {
        let image: Vec<f32> = (0..d).map(|_| next()).collect();
        for _ in 0..captions {
            x.extend(&image);
            y.extend(image.iter().map(|v| v + 0.2 * next()));
        }
    }
    let lab = Lab::new();
    lab.npy("x.npy", &[images * captions, d], &x);
    lab.npy("y.npy", &[images * captions, d], &y);
    let ids: Vec<i64> = (0..(images * captions) as i64).map(|i| i / captions as i64).collect();
    lab.npy("g.npy", &[images * captions], &ids);
    lab
}

const FIT: &str = "fit --x x.npy --y y.npy --rank 4 --preset global --iters 1 --whiten 0.1";

#[test]
fn repeats_are_counted_and_a_way_out_is_told() {
    let lab = captions();
    let text = lab.text(&format!("{FIT} --out m.safetensors"));
    assert!(text.contains("x: 80 distinct rows of 400") && text.contains("--groups auto"), "{text}");
    assert!(!text.contains("y: "), "{text}");
    let counts = json!({ "x": { "rows": 400, "distinct": 80 }, "y": { "rows": 400, "distinct": 400 } });
    let report = lab.json(&format!("{FIT} --out m.safetensors"));
    assert_eq!(report["duplicates"], counts);
    assert_eq!(report["info"]["distinct"], json!([80, 400]));
    assert!(report["hint"].as_str().unwrap().contains("80 distinct rows of 400"));
    for args in [
        "eval --model m.safetensors --x x.npy --y y.npy",
        "report --model m.safetensors --x x.npy --y y.npy --out r.html",
    ] {
        let report = lab.json(args);
        assert_eq!(report["duplicates"], counts, "{args}");
        assert!(report["hint"].as_str().unwrap().contains("--groups auto"), "{args}");
    }
    // Where groups are given nothing needs to be said.
    for groups in ["--groups-x g.npy --groups-y g.npy", "--groups auto"] {
        let text = lab.text(&format!("{FIT} {groups} --out m.safetensors"));
        assert!(!text.contains("hint"), "{groups}: {text}");
    }
    let compare = "compare --x x.npy --y y.npy --test-x x.npy --test-y y.npy --rank 4 --lr 0.01 --batch 100 --epochs 1 \
                   --no-exact-loss";
    assert!(lab.text(compare).contains("80 distinct rows of 400"));
}

#[test]
fn equal_rows_are_groups_on_request() {
    let lab = captions();
    for (groups, model) in
        [("--groups-x g.npy --groups-y g.npy", "given.safetensors"), ("--groups auto", "auto.safetensors")]
    {
        let report = lab.json(&format!("{FIT} {groups} --out {model}"));
        assert_eq!(report["pairs"], 400 * 5, "{groups}");
    }
    let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
    let weights = |name: &str| {
        let model = unicon::model::Model::load(lab.path(name)).unwrap();
        (model.components[0].x.matrix.clone(), model.components[0].y.matrix.clone())
    };
    assert_eq!(weights("given.safetensors"), weights("auto.safetensors"));
    assert!(!read("auto.safetensors").is_empty());
    // Recall is no longer capped at one caption in five.
    let eval = |groups: &str| {
        let report = lab.json(&format!("eval --model auto.safetensors --x x.npy --y y.npy {groups}"));
        report["recall"]["x_to_y"][0].as_f64().unwrap()
    };
    let (plain, auto, given) = (eval(""), eval("--groups auto"), eval("--groups-x g.npy --groups-y g.npy"));
    assert!(plain < 0.35 && auto > 0.8, "{plain} {auto}");
    assert_eq!(auto, given);
    for (args, words) in [
        ("--groups auto --groups-x g.npy --groups-y g.npy", "cannot be used with"),
        ("--groups some", "auto"),
    ] {
        let line = lab.fails(2, &format!("{FIT} {args} --out o"));
        assert!(line.contains(words), "{line}");
    }
    let line = lab.fails(1, "weights --similarity x.npy --groups auto --out s.npy");
    assert!(line.contains("rows of features"), "{line}");
}

#[test]
fn rows_without_repeats_are_not_talked_about() {
    let lab = captions();
    let report = lab.json("fit --x y.npy --y y.npy --rank 4 --preset global --iters 1 --out m.safetensors");
    assert!(report.get("hint").is_none());
    assert_eq!(report["duplicates"]["x"], json!({ "rows": 400, "distinct": 400 }));
}

/// Rows that a fit holds back to judge itself.
mod held_back {
    use crate::program::Lab;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};

    /// Sixty items of five copies each; what a copy's partner is like can be known from another copy only.
    fn copies(lab: &Lab) {
        let (n, d) = (300, 70);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let mut normal =
            |len: usize| -> Vec<f64> { (0..len).map(|_| StandardNormal.sample(&mut rng)).collect() };
        let (x, centre, noise) = (normal(n / 5 * d), normal(n / 5 * d), normal(n * d));
        let item = |at: usize| at / d % (n / 5) * d + at % d;
        lab.npy("x.npy", &[n, d], &(0..n * d).map(|at| x[item(at)]).collect::<Vec<_>>());
        let y: Vec<f64> = (0..n * d).map(|at| centre[item(at)] + 0.1 * noise[at]).collect();
        lab.npy("y.npy", &[n, d], &y);
        lab.npy("constant.npy", &[n, d], &(0..n * d).map(|at| (at % d) as f64).collect::<Vec<_>>());
        lab.npy("classes.npy", &[n], &(0..n as i64).map(|i| i % 3).collect::<Vec<_>>());
    }

    #[test]
    fn no_copy_of_a_row_that_trains_judges() {
        let lab = Lab::new();
        copies(&lab);
        let json = lab.json("fit --x x.npy --y y.npy --rank 20 --out m.safetensors");
        let chosen = &json["info"]["chosen"];
        assert_eq!(chosen["held_back"], serde_json::json!([30, 30]));
        for what in ["matches", "duplicates_x", "duplicates_y"] {
            assert_eq!(chosen["apart"][what], true, "{what}");
        }
        // Copies that trained would give themselves away: nearly half of the queries' reciprocal ranks, five copies sharing
        // the first five places. Six items of which nothing is known are found by chance.
        let scores = chosen["candidates"].as_array().unwrap().iter().map(|c| c[2].as_f64().unwrap());
        let highest = scores.fold(0.0, f64::max);
        assert!(highest < 0.3, "{highest}");
        let text = lab.text("fit --x x.npy --y y.npy --rank 20 --out m.safetensors");
        assert!(text.contains("held back to judge") && !text.contains("too many to hold back"), "{text}");
    }

    #[test]
    fn what_cannot_be_kept_apart_is_told() {
        let lab = Lab::new();
        copies(&lab);
        let args = "--rank 4 --out m.safetensors";
        let constant = lab.json(&format!("fit --x x.npy --y constant.npy {args}"));
        let apart = &constant["info"]["chosen"]["apart"];
        assert_eq!((&apart["duplicates_x"], &apart["duplicates_y"]), (&true.into(), &false.into()));
        let text = lab.text(&format!("fit --x x.npy --y constant.npy {args}"));
        assert!(text.contains("copies of their y trained"), "{text}");
        // Three classes: held-back rows are of classes that train, and their x is still none that trains.
        let groups = "--groups-x classes.npy --groups-y classes.npy";
        let classes = lab.json(&format!("fit --x x.npy --y y.npy {groups} {args}"));
        let apart = &classes["info"]["chosen"]["apart"];
        assert_eq!((&apart["matches"], &apart["duplicates_x"]), (&false.into(), &true.into()));
    }
}
