//! The CUDA kernels, compiled for the host and run on small ragged problems (`tests/cuda_emulation/`, `cuda/emu/`): under
//! AddressSanitizer against float64, and under ThreadSanitizer, where no kernel may have a race. Deliberate faults
//! (`tests/cuda_emulation/faults.rs`) must all be noticed.

#![cfg(target_arch = "x86_64")]

use crate::skip::{full, is_full, skip};
use crate::standin::faults::{self, FAULTS, Fault, Shows, Suite};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Mistakes 1 .. of `mistakes.cpp`, races 1 .. of `race_kinds.cpp`.
const MISTAKES: u32 = 27;
const RACES: u32 = 14;

/// A compiler, and its flags for a program of the emulation.
struct Build {
    compiler: String,
    /// Of kernels and tests; of the files of `cuda/emu`; of both and the linker.
    kernels: &'static [&'static str],
    emulation: &'static [&'static str],
    all: &'static [&'static str],
    files: &'static [&'static str],
}

impl Build {
    /// `None`, with a message, without a compiler.
    fn new(kernels: &'static [&'static str], all: &'static [&'static str]) -> Option<Self> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_string());
        let works = Command::new(&compiler).arg("--version").output().is_ok_and(|o| o.status.success());
        if !works {
            skip(&format!("{compiler} not found; get it with apt-get install g++"));
            return None;
        }
        Some(Build { compiler, kernels, emulation: &["-O2"], all, files: &["device.cpp", "hopper.cpp"] })
    }

    fn address_sanitizer() -> Option<Self> {
        Build::new(&["-O1", "-fsanitize=address"], &["-fsanitize=address"])
            .map(|b| Build { emulation: &["-O2", "-fsanitize=address"], ..b })
    }

    /// Kernels for ThreadSanitizer, whose stores the emulation sees too. The emulation is not compiled for it.
    fn thread_sanitizer() -> Option<Self> {
        let all = &[
            "-fsanitize=thread",
            "-Wl,--wrap=__tsan_write1,--wrap=__tsan_write2,--wrap=__tsan_write4,--wrap=__tsan_write8,--wrap=__tsan_write16",
        ];
        let build = Build::new(&["-O1", "-fsanitize=thread"], all)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, program) = (folder.path().join("empty.cpp"), folder.path().join("empty"));
        std::fs::write(&source, "#include <sanitizer/tsan_interface.h>\nint main() {}\n").expect("writable");
        let built = Command::new(&build.compiler)
            .arg("-fsanitize=thread")
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .output();
        let runs = |o: Output| {
            o.status.success() && Command::new(&program).output().is_ok_and(|o| o.status.success())
        };
        if !built.is_ok_and(runs) {
            skip(
                "no ThreadSanitizer; get it with apt-get install libtsan2 (g++) or libclang-rt-14-dev (clang++)",
            );
            return None;
        }
        Some(Build {
            emulation: &["-O2", "-DUNICON_RACES"],
            files: &["device.cpp", "hopper.cpp", "races.cpp"],
            ..build
        })
    }

    /// Compiles a program from `tests/cuda_emulation/SOURCE` with the kernels of a folder.
    fn program(&self, name: &str, source: &str, cuda: &Path) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        let test = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_emulation").join(source);
        let sources: Vec<(PathBuf, &[&str])> = std::iter::once((test, self.kernels))
            .chain(self.files.iter().map(|f| (cuda.join("emu").join(f), self.emulation)))
            .collect();
        let objects: Vec<PathBuf> = std::thread::scope(|scope| {
            let compile = |(source, flags): &(PathBuf, &[&str])| {
                let object = folder.join(source.file_name().expect("a file")).with_extension("o");
                let mut command = Command::new(&self.compiler);
                // Unused kernels of a family, and the unroll pragmas meant for nvcc.
                let warnings = ["-Wall", "-Werror", "-Wno-unused-function", "-Wno-unknown-pragmas"];
                command.args(["-std=c++20", "-g1", "-c"]).args(warnings).args(*flags).arg("-I").arg(cuda);
                let out = command.arg(source).arg("-o").arg(&object).output().expect("the compiler starts");
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
                object
            };
            let all: Vec<_> = sources.iter().map(|s| scope.spawn(move || compile(s))).collect();
            all.into_iter().map(|t| t.join().expect("it compiles")).collect()
        });
        let program = folder.join("program");
        let out = Command::new(&self.compiler)
            // The emulation's files first: of functions that both have, theirs are linked.
            .args(objects.iter().rev())
            .args(self.all)
            .arg("-o")
            .arg(&program)
            .output()
            .expect("the compiler starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        program
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// A copy of the kernels with all faults in it.
fn faulty(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).join("cuda");
    faults::copy(&sources(), &folder);
    folder
}

/// Runs the tests of kernels with a fault (0: none).
fn run(program: &Path, fault: usize, arguments: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program)
        .args(arguments)
        .env("UNICON_FAULT", fault.to_string())
        // The first race ends the program; little is kept of what was done before, for there are many threads.
        .env("TSAN_OPTIONS", "halt_on_error=1:history_size=0")
        .output()
        .expect("the emulation starts");
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
    )
}

/// Two at a time.
fn in_pairs<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            done.push(work(item));
        }
        done
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(some), scope.spawn(some)];
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    })
}

const ORDERS: [&str; 2] = ["forwards", "backwards"];

#[test]
fn kernels_agree_with_float64() {
    // In a test of a few seconds one order, without a sanitizer.
    let (build, orders) = if is_full() {
        (Build::address_sanitizer(), &ORDERS[..])
    } else {
        (Build::new(&["-O1"], &[]), &ORDERS[..1])
    };
    let Some(build) = build else { return };
    let program = build.program("cuda_emulation", "main.cpp", &sources());
    in_pairs(orders, |order| {
        let (code, text) = run(&program, 0, &[order]);
        assert_eq!(code, Some(0), "{order}: {text}");
        assert!(text.contains(", 0 failures") && !text.starts_with("0 checks"), "{order}: {text}");
    });
}

#[test]
fn faults_show_in_values() {
    if !full() {
        return;
    }
    let Some(build) = Build::new(&["-O0"], &[]) else { return };
    let program = build.program("cuda_emulation_faults", "main.cpp", &faulty("cuda_emulation_faults"));
    let wanted: Vec<(usize, &Fault)> =
        FAULTS.iter().enumerate().filter(|(_, f)| f.shows != Shows::Race).map(|(k, f)| (k + 1, f)).collect();
    let missed: Vec<&str> = in_pairs(&wanted, |(number, fault)| {
        // Some show only when copies happen at once, or only when they happen late.
        let noticed = |order: &&str| {
            let (code, text) = run(&program, *number, &["first", fault.suite.name(), order]);
            assert!(matches!(code, Some(0 | 1 | 3)), "{}: {text}", fault.name);
            code != Some(0)
        };
        (!ORDERS.iter().any(noticed)).then_some(fault.name)
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(missed.is_empty(), "faults {missed:?} went unnoticed");
}

fn reports_a_race(text: &str) -> bool {
    text.contains("ThreadSanitizer: data race") || text.contains("emulation: race")
}

#[test]
fn kernels_have_no_races_and_planted_races_are_found() {
    if !full() {
        return;
    }
    let Some(build) = Build::thread_sanitizer() else { return };
    let program = build.program("cuda_emulation_races", "main.cpp", &faulty("cuda_emulation_races"));
    let suites: Vec<(Suite, &str)> = [Suite::Dense, Suite::Rows, Suite::Hopper]
        .iter()
        .flat_map(|&suite| ORDERS.map(|order| (suite, order)))
        .collect();
    in_pairs(&suites, |(suite, order)| {
        let (code, text) = run(&program, 0, &[suite.name(), order]);
        assert!(code == Some(0) && text.contains(", 0 failures"), "{suite:?} {order}: {text}");
    });
    let numbered: Vec<(usize, &Fault)> = FAULTS.iter().enumerate().map(|(k, f)| (k + 1, f)).collect();
    let wrong: Vec<String> = in_pairs(&numbered, |(number, fault)| {
        // A fault may stop the emulation in one order before its race is met.
        let orders = if fault.shows == Shows::Values { &ORDERS[..1] } else { &ORDERS[..] };
        let found = orders
            .iter()
            .any(|order| reports_a_race(&run(&program, *number, &["first", fault.suite.name(), order]).1));
        (found != (fault.shows != Shows::Values))
            .then(|| format!("{}: a race was found: {found}", fault.name))
    })
    .into_iter()
    .flatten()
    .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn races_of_every_kind_are_found() {
    if !full() {
        return;
    }
    let Some(build) = Build::thread_sanitizer() else { return };
    let program = build.program("cuda_emulation_small_races", "race_kinds.cpp", &sources());
    for order in ["0", "1"] {
        assert_eq!(run(&program, 0, &["0", order]), (Some(0), String::new()), "backwards: {order}");
    }
    // Those between blocks are looked for in one order.
    let found = |k: u32, order: &str| reports_a_race(&run(&program, 0, &[&k.to_string(), order]).1);
    let missed: Vec<u32> = (1..=RACES).filter(|&k| !found(k, "0") && !found(k, "1")).collect();
    assert!(missed.is_empty(), "races {missed:?} went unnoticed");
    assert_eq!(
        run(&program, 0, &[&(RACES + 1).to_string()]).0,
        Some(64),
        "RACES must be the number of races"
    );
}

#[test]
fn mistakes_in_the_use_of_hopper_instructions_are_noticed() {
    if !full() {
        return;
    }
    let Some(build) = Build::address_sanitizer() else { return };
    let program = build.program("cuda_emulation_mistakes", "mistakes.cpp", &sources());
    for order in ["0", "1"] {
        assert_eq!(run(&program, 0, &["0", order]), (Some(0), String::new()), "backwards: {order}");
        let others: Vec<u32> =
            (1..=MISTAKES).filter(|k| run(&program, 0, &[&k.to_string(), order]).0 != Some(3)).collect();
        assert!(others.is_empty(), "mistakes {others:?} went unnoticed (backwards: {order})");
    }
    assert_eq!(
        run(&program, 0, &[&(MISTAKES + 1).to_string()]).0,
        Some(64),
        "MISTAKES must be the number of mistakes"
    );
}
