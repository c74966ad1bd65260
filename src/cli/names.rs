//! Names of rows: a text file with one a line.

use anyhow::Result;
use std::path::Path;
use unicon::Error;

/// Characters of a name in a line for people.
const SHOWN: usize = 48;

/// Reads one name a line (UTF-8), as many as `rows` of `what`.
pub fn read(path: &Path, rows: usize, what: &str) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let name = path.display().to_string();
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        let byte = bytes.get(e.valid_up_to()).copied().unwrap_or(0);
        Error::invalid(&name, "names in UTF-8, one a line", format!("byte {byte:#04x} in line {line}"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let names: Vec<String> = text.lines().map(clean).collect();
    if names.len() != rows {
        let expected = format!("{rows} names, one a line for each row of {what}");
        return Err(Error::invalid(name, expected, names.len()).into());
    }
    Ok(names)
}

/// A name that does nothing to a terminal or a page.
fn clean(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_string()
}

/// A row's name, cut to what a line holds, or its number.
pub fn shown(names: Option<&[String]>, row: usize) -> String {
    let Some(name) = names.and_then(|n| n.get(row)) else { return format!("row {row}") };
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", name[..end].trim_end()),
        None => name.clone(),
    }
}
