//! What a command line says about files: nothing that is read may be overwritten.

use super::output;
use anyhow::Result;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use unicon::Error;
use unicon::io::files_of;

/// Options that name a file to write; all others that name a file read it.
const OUTPUTS: [&str; 5] = ["out", "checkpoint", "plot", "scaling_svg", "report"];

/// Options whose values are words, which may look like patterns.
const WORDS: [&str; 1] = ["title"];

/// A file that exists, whatever it is called.
type Identity = (u64, u64);

/// Refuses a command line that would overwrite what it reads, write two things to one file, or read a pipe twice. Where the
/// output goes to standard output, the report goes to standard error. Returns an option that reads a pipe, if one does.
pub fn check(matches: &ArgMatches) -> Result<Option<String>> {
    let Some((_, command)) = matches.subcommand() else { return Ok(None) };
    let mut inputs: HashMap<Identity, (String, bool)> = HashMap::new();
    let mut outputs: Vec<(String, PathBuf)> = Vec::new();
    let given = |id: &&clap::Id| command.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    for id in command.ids().filter(given).filter(|id| !WORDS.contains(&id.as_str())) {
        let Ok(Some(values)) = command.try_get_raw(id.as_str()) else { continue };
        let option = format!("--{}", id.as_str().replace('_', "-"));
        let output = OUTPUTS.contains(&id.as_str());
        for value in values {
            if output {
                outputs.push((option.clone(), value.into()));
                continue;
            }
            for (identity, pipe) in read_by(value) {
                if let Some((other, true)) = inputs.insert(identity, (option.clone(), pipe)) {
                    let expected = format!("another file than {other}'s: a pipe can be read once");
                    return Err(Error::invalid(option, expected, value.display()).into());
                }
            }
        }
    }
    let mut taken: Vec<(String, PathBuf)> = Vec::new();
    for (option, path) in outputs {
        let existing = std::fs::metadata(&path).ok();
        let stream = existing.as_ref().is_some_and(|m| !m.is_file());
        if let Some(existing) = &existing
            && !stream
            && let Some((input, _)) = inputs.get(&(existing.dev(), existing.ino()))
        {
            let expected = format!("a file that is not read; it is {input}'s");
            return Err(Error::invalid(option, expected, path.display()).into());
        }
        let place = match existing.as_ref().filter(|_| !stream) {
            Some(m) => PathBuf::from(format!("{} {}", m.dev(), m.ino())),
            None => destination(&path),
        };
        if let Some((other, _)) = taken.iter().find(|(_, p)| *p == place && !stream) {
            let expected = format!("another file than {other}'s");
            return Err(Error::invalid(option, expected, path.display()).into());
        }
        if existing.is_some_and(|m| output::is_stdout(&m)) {
            output::leave_stdout();
        }
        taken.push((option, place));
    }
    Ok(inputs.into_values().find(|(_, pipe)| *pipe).map(|(option, _)| option))
}

/// The files that an option's value stands for, where it stands for any, and which are pipes.
fn read_by(value: &OsStr) -> Vec<(Identity, bool)> {
    let identity = |path: &Path| {
        let meta = std::fs::metadata(path).ok().filter(|m| !m.is_dir())?;
        Some(((meta.dev(), meta.ino()), meta.file_type().is_fifo()))
    };
    let of = |value: &OsStr| -> Vec<(Identity, bool)> {
        files_of(value).unwrap_or_default().iter().filter_map(|path| identity(path)).collect()
    };
    let whole = of(value);
    if !whole.is_empty() {
        return whole;
    }
    // F1.npy,F2.npy and similarity:S.npy of --init.
    let Some(text) = value.to_str() else { return Vec::new() };
    let parts = text.strip_prefix("similarity:").unwrap_or(text).split(',');
    parts.flat_map(|part| of(&OsString::from(part))).collect()
}

/// The place of a file that need not exist, whichever way it is written.
fn destination(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (parent.canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}
