//! A page of tables: what a command prints, to be looked at in a browser.

use super::page::document;
use super::svg::escape;
use crate::cli::output::{Part, Report, numbers};
use std::fmt::Write;

/// The lines and tables of a report as a page.
pub fn tables(title: &str, report: &Report) -> String {
    let mut cards = String::new();
    for part in report.parts() {
        match part {
            Part::Line(line) if line.trim().is_empty() => {}
            Part::Line(line) => {
                let _ = write!(cards, "<p class=\"wide\">{}</p>", escape(line.trim()));
            }
            Part::Table(header, rows) => cards.push_str(&table(header, rows)),
        }
    }
    document(title, &format!("<div class=\"cards\">{cards}</div>"))
}

/// Words on the left, numbers on the right.
fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0).max(header.len());
    let right = numbers(columns, rows);
    let line = |tag: &str, cells: &[String]| {
        let mut out = String::from("<tr>");
        for (k, cell) in cells.iter().enumerate() {
            let side = if right[k] { "right" } else { "left" };
            let _ = write!(out, "<{tag} style=\"text-align:{side}\">{}</{tag}>", escape(cell));
        }
        out + "</tr>"
    };
    let mut out = String::from("<section class=\"wide\"><table>");
    if !header.is_empty() {
        out += &line("th", header);
    }
    for row in rows {
        out += &line("td", row);
    }
    out + "</table></section>"
}
