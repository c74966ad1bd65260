//! Results for people (tables) and for programs (one JSON object).

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use serde_json::{Map, Value};
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use unicon::io::AtomicFile;

/// A command's result: what `--json` prints, and the tables and lines people see.
#[derive(Clone, Default)]
pub struct Report {
    json: Map<String, Value>,
    parts: Vec<Part>,
}

/// What people see, in order.
#[derive(Clone)]
pub enum Part {
    Line(String),
    /// A header, which may be empty, and rows.
    Table(Vec<String>, Vec<Vec<String>>),
}

impl Report {
    /// A result of `command`.
    pub fn new(command: &str) -> Self {
        let mut report = Self::default();
        report.json.insert("command".into(), command.into());
        report
    }

    /// A value for `--json` only.
    pub fn value(&mut self, name: &str, value: impl serde::Serialize) -> Result<()> {
        let value = serde_json::to_value(value).with_context(|| format!("writing {name} as JSON"))?;
        self.json.insert(name.into(), value);
        Ok(())
    }

    /// A line for people only.
    pub fn line(&mut self, line: impl Into<String>) {
        self.parts.push(Part::Line(line.into()));
    }

    /// Takes out what people see so far, to show it while work goes on.
    pub fn take_parts(&mut self) -> Self {
        Self { json: Map::new(), parts: std::mem::take(&mut self.parts) }
    }

    /// What people see.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// A table for people only: words on the left, numbers on the right.
    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) {
        self.parts.push(Part::Table(header.iter().map(|h| h.to_string()).collect(), rows));
    }

    /// Names and values, for people only.
    pub fn list(&mut self, rows: Vec<(String, String)>) {
        let rows = rows.into_iter().map(|(name, value)| vec![name, value]).collect();
        self.parts.push(Part::Table(Vec::new(), rows));
    }
}

/// Whether a cell begins like a number.
fn is_number(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || "-.".contains(c))
}

/// Which columns hold numbers alone.
pub fn numbers(columns: usize, rows: &[Vec<String>]) -> Vec<bool> {
    (0..columns).map(|k| rows.iter().all(|r| r.get(k).is_some_and(|cell| is_number(cell)))).collect()
}

impl Part {
    /// For a terminal.
    fn text(&self) -> String {
        let (header, rows) = match self {
            Self::Line(line) => return line.clone(),
            Self::Table(header, rows) => (header, rows.clone()),
        };
        let mut table = Table::new();
        if header.is_empty() {
            table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.add_rows(rows);
            return table.trim_fmt();
        }
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .remove_style(TableComponent::HorizontalLines)
            .remove_style(TableComponent::MiddleIntersections);
        table.set_content_arrangement(ContentArrangement::Disabled);
        let right = numbers(header.len(), &rows);
        table.set_header(header).add_rows(rows);
        for (column, _) in table.column_iter_mut().zip(right).filter(|(_, right)| *right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }
}

/// Writes a result to stdout.
pub fn print(report: &Report, json: bool) -> Result<()> {
    let mut text = if json {
        serde_json::to_string(&report.json).context("writing JSON")?
    } else {
        report.parts.iter().map(Part::text).collect::<Vec<_>>().join("\n")
    };
    text.push('\n');
    if STDOUT_LEFT.load(Ordering::Relaxed) {
        let mut out = std::io::stderr().lock();
        return out.write_all(text.as_bytes()).context("writing to standard error");
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}

/// Writes a text file aside and renames it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes()).map_err(|e| unicon::Error::io(path, e))?;
    Ok(file.commit()?)
}

/// Whether standard output is a command's output file, in which no report has a place.
static STDOUT_LEFT: AtomicBool = AtomicBool::new(false);

/// From now on reports go to standard error.
pub fn leave_stdout() {
    STDOUT_LEFT.store(true, Ordering::Relaxed);
}

/// Whether a file is standard output; the null device takes anything and is nobody's.
pub fn is_stdout(file: &Metadata) -> bool {
    let same =
        |path: &str| std::fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (file.dev(), file.ino()));
    same("/dev/stdout") && !same("/dev/null")
}

/// `.8173` as `0.817`.
pub fn three(value: f64) -> String {
    format!("{value:.3}")
}

/// A loss: six significant digits whatever its size.
pub fn loss(value: f64) -> String {
    if value == 0.0 || (1e-3..1e4).contains(&value.abs()) {
        format!("{value:.6}")
    } else {
        format!("{value:.5e}")
    }
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A line about zero rows, where there are any.
pub fn zero_rows((x, y): (usize, usize)) -> Option<String> {
    (x + y > 0).then(|| format!("zero rows: {x} of x, {y} of y"))
}

/// `1 row`, `2 rows`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
