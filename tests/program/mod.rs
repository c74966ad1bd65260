//! The `unicon` program as tests run it: in a folder of its own, from outside.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use unicon::io::{Element, RowSource, open, read_all, write_npy};

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; none: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A temporary folder to run the program in. Relative paths in arguments are in it.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Copies the files of a folder here.
    pub fn take(&self, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), self.dir.path().join(entry.file_name())).unwrap();
        }
    }

    /// Writes an array.
    pub fn npy<T: Element>(&self, name: &str, shape: &[usize], values: &[T]) {
        write_npy(self.path(name), shape, values).unwrap();
    }

    /// Reads a matrix: values row by row, and its number of columns.
    pub fn matrix(&self, name: &str) -> (Vec<f64>, usize) {
        let source = open(self.path(name).to_str().unwrap()).unwrap();
        (read_all(&source).unwrap(), source.cols())
    }

    /// Every file here, hidden ones too.
    pub fn files(&self) -> BTreeSet<String> {
        let names = std::fs::read_dir(self.dir.path()).unwrap();
        names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The program with arguments parted by blanks, standard streams piped.
    pub fn program(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unicon"));
        command.current_dir(self.dir.path()).args(args.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        usual_signals(&mut command);
        command
    }

    pub fn run(&self, args: &str) -> Ran {
        let out = self.program(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
    }

    /// A run that must succeed, silent on stderr (no progress into a pipe): its stdout.
    pub fn text(&self, args: &str) -> String {
        let ran = self.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "unicon {args}");
        ran.stdout
    }

    /// A run with `--json` that must succeed with one line of JSON.
    pub fn json(&self, args: &str) -> Value {
        let text = self.text(&format!("{args} --json"));
        assert_eq!(text.lines().count(), 1, "unicon {args}: not one line: {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("unicon {args}: {e}: {text}"))
    }

    /// A run that must fail with a code and one line on stderr, leaving the folder as it was: the line.
    pub fn fails(&self, code: i32, args: &str) -> String {
        let before = self.files();
        let ran = self.run(args);
        assert_eq!(ran.code, Some(code), "unicon {args}: {ran:?}");
        assert_eq!(ran.stdout, "", "unicon {args}");
        let line = ran.stderr.strip_suffix('\n').unwrap_or(&ran.stderr);
        assert!(line.starts_with("unicon: ") && !line.contains('\n'), "unicon {args}: not one line: {line}");
        assert!(!line.contains("panicked"), "unicon {args}: {line}");
        assert_eq!(self.files(), before, "unicon {args} left files behind");
        line.to_string()
    }
}

/// Numbers of a JSON list.
pub fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("not a list: {value}"));
    list.iter().map(|v| v.as_f64().unwrap_or_else(|| panic!("not a number: {v}"))).collect()
}

/// The largest difference of two lists.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Signals as the child of a terminal has them: under nohup, or in the background of a script, children ignore some.
pub fn usual_signals(command: &mut Command) {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // SAFETY: between fork and exec, where signal() may be called.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
    }
}
