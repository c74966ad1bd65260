//! Every relative link and anchor in every Markdown page of the project leads somewhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Markdown pages under a folder. What is hidden or built is left out, and so is the first page of the documentation site, which
/// links to pages that are made with it: `scripts/site` follows those links.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir()
            && !path.is_symlink()
            && !name.starts_with('.')
            && name != "target"
            && !path.ends_with("docs/site")
        {
            pages(&path, found);
        } else if path.is_file() && name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Lines outside of blocks of code, numbered from 1, without what stands between backticks.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut lines = Vec::new();
    for (k, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            lines.push((k + 1, line.split('`').step_by(2).collect::<Vec<_>>().join("``")));
        }
    }
    lines
}

/// Where `](...)` of a line lead.
fn targets(line: &str) -> Vec<&str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.trim())
        .collect()
}

/// Anchors of a page's headings, as GitHub makes them: small letters, hyphens for spaces, no punctuation, numbers for repeats.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = HashMap::<String, usize>::new();
    let mut inside = false;
    let mut all = Vec::new();
    for line in text.lines() {
        inside ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if inside || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug = kept.collect::<String>().replace(' ', "-");
        let count = seen.entry(slug.clone()).or_default();
        all.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    all
}

/// What is wrong with a page's links.
fn broken(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let mut wrong = Vec::new();
    for (line, words) in prose(&text) {
        for target in targets(&words) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if file.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(file) };
            let found = match std::fs::read_to_string(&to) {
                _ if anchor.is_empty() => to.exists(),
                Ok(text) => anchors(&text).iter().any(|a| a == anchor),
                Err(_) => false,
            };
            if !found {
                wrong.push(format!("{}:{line}: {target}", page.display()));
            }
        }
    }
    wrong
}

#[test]
fn links_of_every_page_lead_somewhere() {
    let mut all = Vec::new();
    pages(super::root(), &mut all);
    assert!(all.len() > 10, "{all:?}");
    let wrong: Vec<String> = all.iter().flat_map(|page| broken(page)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("a.md");
    let text = "# One `thing`, two\n\n## Part\n\n## Part\n\n[a](a.md#one-thing-two) [b](#part-1) [c](https://x.org/y) `[d](no.md)`\n\
                ```\n[e](no.md)\n```\n![f](no.png) [g](#part-2)\n[h](b.md#x)\n";
    std::fs::write(&page, text).unwrap();
    let wrong = broken(&page);
    let ends: Vec<&str> = wrong.iter().map(|w| w.rsplit(' ').next().unwrap()).collect();
    assert_eq!(ends, ["no.png", "#part-2", "b.md#x"]);
    assert!(wrong[0].contains("a.md:11: "), "{wrong:?}");
}
