//! What tests of ranks that are processes share: features in shards, models as bits, and an end to everything that hangs.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use unicon::io::write_npy;
use unicon::model::Model;

pub const UNICON: &str = env!("CARGO_BIN_EXE_unicon");
/// No run takes more than a few seconds; one that takes this long hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Waits for a process and takes what it wrote, which must fit its pipes.
pub fn wait(mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("hangs: {:?}", child.wait_with_output().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lines of the program's complaints.
pub fn complaints(out: &Output) -> Vec<String> {
    text(&out.stderr).lines().filter(|l| l.starts_with("unicon:")).map(str::to_string).collect()
}

/// Correlated sides in shards of very different sizes.
pub fn data(dir: &Path, n: usize) -> (String, String) {
    let value = |i: usize, j: usize| ((i * 37 + j * 101 + i * j) as f32 * 0.7).sin();
    for (side, d, cuts) in
        [("x", 24, [0, 1, n / 2, n / 2 + 30, n]), ("y", 20, [0, n / 3, n / 3 + 513, n - 1, n])]
    {
        let folder = dir.join(side);
        std::fs::create_dir_all(&folder).unwrap();
        for (k, cut) in cuts.windows(2).enumerate() {
            let rows =
                (cut[0]..cut[1]).flat_map(|i| (0..d).map(move |j| value(i, j) + 0.3 * value(i + d, j + 3)));
            let values: Vec<f32> = rows.collect();
            write_npy(folder.join(format!("part-{k}.npy")), &[cut[1] - cut[0], d], &values).unwrap();
        }
    }
    let path = |side: &str| dir.join(side).display().to_string();
    (path("x"), path("y"))
}

/// The encoders of a model, bit for bit.
pub fn tensors(path: &Path) -> Vec<u64> {
    let model = Model::load(path).unwrap();
    let matrices = model.components.iter().flat_map(|c| [&c.x.matrix, &c.y.matrix]);
    matrices
        .flat_map(|m| (0..m.ncols()).flat_map(move |j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())))
        .collect()
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Of Open MPI, and of MPICH, which `UNICON_TEST_MPICH` asks for.
pub const MPI_LAUNCHER: [&str; 2] = ["mpirun", "mpiexec.mpich"];
pub const MPI_COMPILER: [&str; 2] = ["mpicc", "mpicc.mpich"];

pub fn mpich() -> bool {
    std::env::var_os("UNICON_TEST_MPICH").is_some()
}

/// Whether MPI can be tested; says what is missing, and fails where nothing may be.
pub fn mpi() -> bool {
    if !cfg!(feature = "mpi") {
        println!("over MPI this is tested with cargo test --release --features mpi");
        return false;
    }
    let found = Command::new(MPI_LAUNCHER[usize::from(mpich())])
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    if found {
        return true;
    }
    let how = "apt-get install libopenmpi-dev openmpi-bin libclang1-14";
    crate::skip::skip(&format!("no MPI; get it with {how}"));
    false
}

/// `mpirun -n ranks sh -c script`, where the script knows its rank as `$r`.
pub fn mpirun(ranks: usize, script: &str) -> Command {
    let mut command = Command::new(MPI_LAUNCHER[usize::from(mpich())]);
    if !mpich() {
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]);
    }
    command.args(["-n", &ranks.to_string()]);
    command.args(["sh", "-c", &format!("r=${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}; {script}")]);
    command
        .env("UNICON_COMM_TIMEOUT", "60")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Processes of this program below a process.
pub fn ranks_of(mpirun: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1)?.parse::<u32>().ok());
        let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if parent == Some(mpirun) && exe == Path::new(UNICON) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}
