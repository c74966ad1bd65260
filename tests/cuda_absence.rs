//! What `unicon` says and does where CUDA, or a part of it, is missing or too old: one line that names it, and the CPU
//! where the device was left to choose. With the stand-in libraries, or some of them.

use crate::standin;
use std::path::Path;
use std::process::Output;

const ALL: &[&str] = &["cuda", "cublas", "cusolver"];

struct Case {
    /// Libraries that are there.
    present: &'static [&'static str],
    /// A variable of the stand-ins.
    setting: Option<(&'static str, &'static str)>,
    /// Parts of what is said.
    says: &'static [&'static str],
}

const CASES: [Case; 9] = [
    Case { present: &[], setting: None, says: &["no NVIDIA driver", "libcuda.so.1 was not found"] },
    Case {
        present: ALL,
        setting: Some(("UNICON_STANDIN_DRIVER", "12080")),
        says: &["driver is for CUDA 12.8", "13.0 or newer is needed"],
    },
    Case { present: ALL, setting: Some(("UNICON_STANDIN_DEVICES", "0")), says: &["no CUDA", "device"] },
    Case {
        present: ALL,
        setting: Some(("UNICON_STANDIN_FAIL", "cuInit:1")),
        says: &["driver does not start"],
    },
    Case {
        present: &["cuda", "cusolver"],
        setting: None,
        says: &["no cuBLAS", "libcublas.so.13 was not found", "LD_LIBRARY_PATH"],
    },
    Case {
        present: ALL,
        setting: Some(("UNICON_STANDIN_CUBLAS", "12")),
        says: &["cuBLAS 12 was found", "cuBLAS 13 is needed"],
    },
    Case {
        present: &["cuda", "cublas"],
        setting: None,
        says: &["no cuSOLVER", "libcusolver.so.12 was not found", "LD_LIBRARY_PATH"],
    },
    Case {
        present: ALL,
        setting: Some(("UNICON_STANDIN_CUSOLVER", "11")),
        says: &["cuSOLVER 11 was found", "cuSOLVER 12 is needed"],
    },
    Case {
        present: ALL,
        setting: Some(("UNICON_STANDIN_SM", "75")),
        says: &["compute capability 7.5", "8.0 is needed"],
    },
];

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Two small sides of features.
fn features(folder: &Path) -> [String; 2] {
    ["x", "y"].map(|side| {
        let path = folder.join(format!("{side}.npy"));
        let values: Vec<f32> = (0..40 * 8).map(|i| ((i * i + side.len()) as f32 * 0.37).sin()).collect();
        unicon::io::write_npy(&path, &[40, 8], &values).expect("a temporary file");
        path.display().to_string()
    })
}

#[test]
fn what_is_missing_is_one_clear_line_and_auto_uses_the_cpu() {
    let Some(all) = standin::libraries() else { return };
    if !standin::built(&all) {
        return;
    }
    let work = tempfile::tempdir().expect("a temporary folder");
    let [x, y] = features(work.path());
    let model = work.path().join("m.safetensors").display().to_string();
    for case in &CASES {
        let folder = standin::only(&all, case.present);
        let run = |arguments: &[&str]| {
            let mut command = standin::unicon(folder.path());
            command.args(arguments).envs(case.setting);
            command.output().expect("unicon starts")
        };
        let fit =
            |device| run(&["fit", "--x", &x, "--y", &y, "--rank", "3", "--out", &model, "--device", device]);
        let name = format!("{:?} {:?}", case.present, case.setting);

        let out = fit("cuda:0");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{name}: {}", text(&out));
        assert_eq!(said.trim_end().lines().count(), 1, "{name}: {said}");
        assert!(said.starts_with("unicon: --device cuda:0: "), "{name}: {said}");
        assert!(case.says.iter().all(|s| said.contains(s)), "{name}: {said}");

        let out = run(&["info"]);
        assert!(out.status.success(), "{name}: {}", text(&out));
        let said = text(&out);
        assert!(case.says.iter().all(|s| said.contains(s)), "{name}: {said}");

        let out = fit("auto");
        assert!(out.status.success(), "{name}: {}", text(&out));
        assert!(Path::new(&model).exists(), "{name}");
        std::fs::remove_file(&model).expect("the model was written");
    }
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let Some(all) = standin::libraries() else { return };
    if !standin::built(&all) {
        return;
    }
    for (devices, says) in [("1", "there is only cuda:0"), ("2", "there are cuda:0 to cuda:1")] {
        let mut command = standin::unicon(&all);
        command.args(["selftest", "--device", "cuda:7"]).env("UNICON_STANDIN_DEVICES", devices);
        let out = command.output().expect("unicon starts");
        assert_eq!(out.status.code(), Some(1), "{}", text(&out));
        assert!(text(&out).contains(says), "{}", text(&out));
    }
}

#[test]
fn libraries_of_a_python_package_are_found() {
    let Some(all) = standin::libraries() else { return };
    if !standin::built(&all) {
        return;
    }
    let folder = standin::only(&all, &["cuda"]);
    let environment = tempfile::tempdir().expect("a temporary folder");
    let packages = environment.path().join("lib/python3.13/site-packages/nvidia/cu13/lib");
    std::fs::create_dir_all(&packages).expect("a folder");
    for file in ["libcublas.so.13", "libcusolver.so.12"] {
        std::os::unix::fs::symlink(all.join(file), packages.join(file)).expect("a link");
    }
    let info = |python: Option<&Path>| {
        let mut command = standin::unicon(folder.path());
        if let Some(python) = python {
            command.env_remove("UNICON_CUDA_LIBRARIES").env("VIRTUAL_ENV", python);
        }
        text(&command.arg("info").output().expect("unicon starts"))
    };
    assert!(info(None).contains("no cuBLAS"), "{}", info(None));
    let said = info(Some(environment.path()));
    assert!(said.contains("cuda:0") && !said.contains("no cuBLAS"), "{said}");
}
