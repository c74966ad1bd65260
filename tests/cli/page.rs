//! `unicon report`: the page is whole, needs nothing else, and says what `unicon eval` says.

use crate::program::{Lab, numbers};
use serde_json::Value;
use std::path::Path;

/// Digits by class, fitted on some rows, with other rows to evaluate and to compare.
fn lab(fit: &str) -> Lab {
    let lab = Lab::new();
    lab.take(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits_halves"));
    for name in ["left", "right"] {
        let (values, d) = lab.matrix(&format!("{name}.npy"));
        for (set, from, to) in [("train", 0, 500), ("test", 500, 800), ("val", 800, 900)] {
            lab.npy(&format!("{set}_{name}.npy"), &[to - from, d], &values[from * d..to * d]);
        }
    }
    lab.text(&format!("fit --x train_left.npy --y train_right.npy --rank 8 --out m.safetensors {fit}"));
    lab
}

/// Checks that tags are balanced, attributes quoted and text escaped, as XML wants it; returns the tags' names.
fn tags(html: &str) -> Vec<String> {
    let body = html.strip_prefix("<!DOCTYPE html>").expect("a doctype");
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        // Style sheets hold no markup either.
        assert!(!text.contains('>') || open.last().is_some_and(|t| t == "style"), "stray > in {text:?}");
        for entity in text.match_indices('&').map(|(k, _)| &text[k..]) {
            assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| entity.starts_with(e)), "{entity:?}");
        }
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "unbalanced");
            continue;
        }
        let name: String = tag.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        assert!(!name.is_empty(), "<{tag}>");
        assert!(
            tag.matches('"').count().is_multiple_of(2)
                && tag.matches('=').count() <= tag.matches('"').count(),
            "<{tag}>"
        );
        if !tag.ends_with('/') {
            open.push(name.clone());
        }
        seen.push(name);
    }
    assert!(open.is_empty(), "left open: {open:?}");
    seen
}

/// The full value of a row of the table of figures, by set.
fn figures(html: &str, key: &str) -> Vec<String> {
    let row =
        html.split(&format!("<tr data-key=\"{key}\">")).nth(1).unwrap_or_else(|| panic!("no row {key}"));
    let row = row.split("</tr>").next().unwrap();
    row.split("<data value=\"").skip(1).map(|v| v.split('"').next().unwrap().to_string()).collect()
}

/// Checks that a page is whole and needs nothing else; returns its tags' names.
fn check_alone(html: &str) -> Vec<String> {
    let tags = tags(html);
    for forbidden in ["script", "link", "img", "iframe", "object"] {
        assert!(!tags.iter().any(|t| t == forbidden), "{forbidden}");
    }
    // The name of the namespace is no address that a browser opens; nothing else looks like one.
    let plain = html.replace("http://www.w3.org/2000/svg", "");
    for forbidden in ["http:", "https:", "//", "url(", "@import", "src=", "href="] {
        assert!(!plain.contains(forbidden), "{forbidden}");
    }
    // As words of their own: captions may hold "info".
    let mut words = plain.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(!words.any(|word| ["NaN", "inf"].contains(&word)), "a number that is none");
    assert!(html.contains("prefers-color-scheme:dark") && html.contains("name=\"viewport\""));
    let labels = html.matches("role=\"img\"").count();
    assert_eq!(labels, html.matches("role=\"img\" aria-label=\"").count(), "every picture has a name");
    tags
}

fn check_page(html: &str) {
    let tags = check_alone(html);
    for (name, least) in [("svg", 7), ("table", 2), ("figure", 6), ("h1", 1), ("polyline", 3), ("circle", 50)]
    {
        let count = tags.iter().filter(|t| *t == name).count();
        assert!(count >= least, "{count} {name}");
    }
    for words in [
        "Recall@k",
        "cosine similarity",
        "principal axis",
        "before alignment",
        "after alignment",
        "iterations done",
        "singular value",
    ] {
        assert!(html.contains(words), "{words}");
    }
}

#[test]
fn a_page_says_what_eval_says() {
    // One thread: with several, the last digit of a sum depends on who was first.
    let lab = lab("--preset global --iters 3 --whiten 0.1");
    let json = lab.json(
        "report --model m.safetensors --x test_left.npy --y test_right.npy --val-x val_left.npy --val-y val_right.npy \
         --k 1,2,40 --threads 1 --out page.html",
    );
    let html = std::fs::read_to_string(lab.path("page.html")).unwrap();
    assert_eq!(json["bytes"].as_u64(), Some(html.len() as u64));
    assert!(html.len() < 400_000, "{} bytes", html.len());
    check_page(&html);
    let evals: Vec<Value> = ["test", "val"]
        .map(|set| {
            lab.json(&format!(
                "eval --model m.safetensors --x {set}_left.npy --y {set}_right.npy --k 1,2,40 --loss --threads 1"
            ))
        })
        .into();
    let same = |key: &str, of: &dyn Fn(&Value) -> Value| {
        let want: Vec<String> = evals.iter().map(|e| of(e).to_string()).collect();
        assert_eq!(figures(&html, key), want, "{key}");
    };
    for key in ["n_x", "n_y", "matching_accuracy", "loss"] {
        same(key, &|e| e[key].clone());
    }
    for at in 0..3 {
        same(&format!("x_to_y.{at}"), &|e| e["recall"]["x_to_y"][at].clone());
        same(&format!("y_to_x.{at}"), &|e| e["recall"]["y_to_x"][at].clone());
    }
    for at in 0..2 {
        for key in ["mrr", "median_rank", "mean_rank", "tied"] {
            same(&format!("{key}.{at}"), &|e| e["recall"][key][at].clone());
        }
        same(&format!("zero_rows.{at}"), &|e| e["zero_rows"][at].clone());
        same(&format!("unmatched.{at}"), &|e| e["unmatched"][at].clone());
    }
    // Every number of the table is one of those above, and is shown rounded.
    let rows = html.matches("<tr data-key=").count();
    assert_eq!(rows, 4 + 6 + 8 + 4 + 1, "pairs is the one that eval does not print");
    let accuracy = evals[0]["matching_accuracy"].as_f64().unwrap();
    assert!(html.contains(&format!(">{accuracy:.4}</data>")));
    assert_eq!(json["evaluated"]["recall"], evals[0]["recall"]);
    assert_eq!(json["validation"]["recall"], evals[1]["recall"]);
    // The curve goes on where the table stops, never falls, and begins at Recall@1.
    let curve = numbers(&json["evaluated"]["curve"]["x_to_y"]);
    assert!(curve.len() > 15 && curve.windows(2).all(|w| w[0] <= w[1]));
    assert_eq!(curve[0], numbers(&evals[0]["recall"]["x_to_y"])[0]);
    // Equal seeds give equal pages.
    lab.text(
        "report --model m.safetensors --x test_left.npy --y test_right.npy --val-x val_left.npy --val-y val_right.npy \
         --k 1,2,40 --threads 1 --out again.html",
    );
    assert_eq!(std::fs::read_to_string(lab.path("again.html")).unwrap(), html);
}

#[test]
fn the_fits_history_is_drawn() {
    let lab = lab("--preset global --iters 4");
    lab.text("report --model m.safetensors --x test_left.npy --y test_right.npy --out page.html");
    let html = std::fs::read_to_string(lab.path("page.html")).unwrap();
    check_page(&html);
    // Four updates' losses and the result; 32 singular values, 8 of them kept.
    let card = |title: &str| html.split(title).nth(1).unwrap().split("</figure>").next().unwrap();
    let line = card("<h2>Training loss by iteration").split("points=\"").nth(1).unwrap();
    assert_eq!(line.split('"').next().unwrap().split(' ').count(), 4);
    let values = card("<h2>Singular values");
    assert!(values.contains("rank 8") && values.contains("Of 32 that were computed"), "{values}");
}

#[test]
fn kernels_groups_and_strange_titles() {
    let lab = lab("--preset global --kernel angular --landmarks 40 --iters 1");
    for (set, from, to) in [("train", 0usize, 500usize), ("test", 500, 800)] {
        let labels = unicon::data::digits().unwrap().labels[from..to].to_vec();
        lab.npy(&format!("{set}_labels.npy"), &[to - from], &labels);
    }
    let mut command = lab.program(
        "report --model m.safetensors --x test_left.npy --y test_right.npy --groups-x test_labels.npy --groups-y \
         test_labels.npy --out page.html --title",
    );
    let out = command.arg("<script>\"a\" & b</script>").output().unwrap();
    assert!(out.status.success(), "{out:?}");
    let html = std::fs::read_to_string(lab.path("page.html")).unwrap();
    check_page(&html);
    assert!(html.contains("angular kernel, 32 to 8, 40 landmarks"));
}

#[test]
fn an_old_page_stays_until_the_new_one_is_whole() {
    let lab = lab("--preset global");
    std::fs::write(lab.path("page.html"), "old").unwrap();
    lab.fails(1, "report --model gone.safetensors --x test_left.npy --y test_right.npy --out page.html");
    lab.fails(1, "report --model m.safetensors --x test_left.npy --y val_right.npy --out page.html");
    assert_eq!(std::fs::read_to_string(lab.path("page.html")).unwrap(), "old");
    let before = lab.files();
    lab.text("report --model m.safetensors --x test_left.npy --y test_right.npy --out page.html");
    assert_eq!(lab.files(), before);
}

#[test]
fn the_page_of_the_demo_shows_names_and_marks() {
    let lab = Lab::new();
    let text = lab.text("demo --query music --html page.html");
    let html = std::fs::read_to_string(lab.path("page.html")).unwrap();
    check_alone(&html);
    // How the fit went on is shown where it had the time for more than a step.
    assert!(html.contains("Recall@k") && html.contains("Surest hits"));
    let marked = |mark: char| html.matches(mark).count() - 1;
    assert_eq!(marked('✓'), text.matches('✓').count() - 1);
    assert_eq!(marked('✗'), text.matches('✗').count() - 1);
    assert!(marked('✓') > 0 && marked('✗') > 0);
    let shown = text.lines().find(|line| line.contains('✓')).unwrap();
    let name = shown.split('✓').nth(1).unwrap().split("   ").next().unwrap().trim();
    assert!(html.contains(&format!("✓\u{a0}{name}</span>")), "{name}");
}
