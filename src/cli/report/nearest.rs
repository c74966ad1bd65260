//! Some queries and the items nearest to each, with what is right marked: for a terminal, and as a card of the page.

use super::svg::escape;
use serde::Serialize;
use std::fmt::Write;
use unicon::backend::Backend;
use unicon::error::Result;
use unicon::positives::Positives;
use unicon::retrieval::search;

/// Characters of a line in a terminal.
const LINE: usize = 78;
const RIGHT: char = '✓';
const WRONG: char = '✗';

/// Rows of y and the rows of x nearest to each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nearest {
    /// In the order asked for.
    pub queries: Vec<Query>,
}

/// A row of y.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Query {
    /// Its number.
    pub row: usize,
    /// Its name.
    pub name: String,
    /// Rows of x that match it.
    pub matches: usize,
    /// The most similar rows of x, best first.
    pub items: Vec<Item>,
}

/// A row of x.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// Its number.
    pub row: usize,
    /// Its name.
    pub name: String,
    /// Its similarity to the query.
    pub score: f32,
    /// Whether it matches the query.
    pub right: bool,
}

/// The `k` rows of x (embeddings `zx`) nearest to some rows of y (`zy`), by name.
///
/// # Errors
/// Those of the backend.
pub fn nearest<B: Backend>(
    backend: &B,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    (names_x, names_y): (&[String], &[String]),
    rows: &[usize],
    k: usize,
) -> Result<Nearest> {
    let ids: Vec<u32> = rows.iter().map(|&j| j as u32).collect();
    let top = search(backend, &backend.select(zy, &ids)?, zx, k)?;
    let name = |names: &[String], row: usize| names.get(row).cloned().unwrap_or_default();
    let lists = top.indices.chunks_exact(top.k).zip(top.scores.chunks_exact(top.k));
    let queries = rows.iter().zip(lists).map(|(&row, (indices, scores))| {
        let item = |(&i, &score): (&u32, &f32)| {
            let i = i as usize;
            Item { row: i, name: name(names_x, i), score, right: positives.contains(i, row) }
        };
        let items = indices.iter().zip(scores).map(item).collect();
        Query { row, name: name(names_y, row), matches: positives.col(row).len(), items }
    });
    Ok(Nearest { queries: queries.collect() })
}

impl Nearest {
    /// A line a query, and below it its items, with a mark before each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for query in &self.queries {
            lines.push(format!("  {}", query.name));
            let mut line = String::new();
            for item in &query.items {
                let shown = format!("{} {}", if item.right { RIGHT } else { WRONG }, item.name);
                if !line.is_empty() && line.chars().count() + 3 + shown.chars().count() > LINE {
                    lines.push(std::mem::take(&mut line));
                }
                line.push_str(if line.is_empty() { "      " } else { "   " });
                line.push_str(&shown);
            }
            lines.push(line);
        }
        lines
    }

    /// A card of the page.
    pub fn card(&self) -> String {
        let mut out = String::from(
            "<section class=\"wide\"><h2>Some rows of y and the rows of x nearest to each</h2><table class=\"words\"><tr>\
             <th scope=\"col\">row of y</th><th scope=\"col\">nearest first; ✓: its match, ✗: another</th></tr>",
        );
        for query in &self.queries {
            let _ = write!(out, "<tr><td>{}</td><td>", escape(&query.name));
            for item in &query.items {
                let (class, mark) = if item.right { ("right", RIGHT) } else { ("wrong", WRONG) };
                let _ = write!(
                    out,
                    "<span class=\"item {class}\" title=\"similarity {:.3}\">{mark}\u{a0}{}</span> ",
                    item.score,
                    escape(&item.name)
                );
            }
            out.push_str("</td></tr>");
        }
        out + "</table></section>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicon::backend::cpu::Cpu;
    use unicon::io::HostMatrix;

    #[test]
    fn right_and_wrong_items_are_marked_by_their_relation() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let at = |angles: &[f64]| {
            let values: Vec<f64> =
                angles.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
            cpu.load(&HostMatrix::from_f64("z", angles.len(), 2, values).unwrap()).unwrap()
        };
        let (zx, zy) = (at(&[0.0, 10.0, 90.0]), at(&[80.0, 7.0]));
        let positives = Positives::from_groups(&[1, 1, 0], &[0, 1]).unwrap();
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let (of_x, of_y) = (names(&["a<b", "c", "d"]), names(&["e", "f"]));
        let got = nearest(&cpu, (&zx, &zy), &positives, (&of_x, &of_y), &[1, 0], 2).unwrap();
        let seen = |q: &Query| q.items.iter().map(|i| (i.row, i.right)).collect::<Vec<_>>();
        assert_eq!((got.queries[0].name.as_str(), got.queries[0].matches), ("f", 2));
        assert_eq!(seen(&got.queries[0]), [(1, true), (0, true)]);
        assert_eq!(seen(&got.queries[1]), [(2, true), (1, false)]);
        assert!((f64::from(got.queries[1].items[0].score) - 10f64.to_radians().cos()).abs() < 1e-6);
        assert_eq!(got.lines(), ["  f", "      ✓ c   ✓ a<b", "  e", "      ✓ d   ✗ c"]);
        let card = got.card();
        assert!(card.contains("✓\u{a0}a&lt;b") && card.contains("class=\"item wrong\""), "{card}");
    }
}
