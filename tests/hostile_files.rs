//! Damaged and hostile feature files: an error that names the file, never a panic, never more than the file holds.

#[path = "hostile/models.rs"]
mod models;
mod parts;
#[path = "hostile/watch.rs"]
mod watch;

use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;
use watch::{cases, watched};

#[global_allocator]
static COUNTING: watch::Counting = watch::Counting;

use proptest::prelude::*;
use unicon::io::{Features, RowSource, check_finite, read_all, read_index_vector, write_npy};

/// A change to a file.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: usize, mask: u8 },
    Set { at: usize, bytes: Vec<u8> },
    Truncate { to: usize },
    Insert { at: usize, bytes: Vec<u8> },
    Repeat { from: usize, len: usize },
}

fn damage(mut file: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let n = file.len().max(1);
    match damage {
        Damage::Flip { at, mask } => {
            if let Some(b) = file.get_mut(at % n) {
                *b ^= mask;
            }
        }
        Damage::Set { at, bytes } => {
            for (b, new) in file.iter_mut().skip(at % n).zip(bytes) {
                *b = *new;
            }
        }
        Damage::Truncate { to } => file.truncate(to % n),
        Damage::Insert { at, bytes } => {
            let at = (at % n).min(file.len());
            file.splice(at..at, bytes.iter().copied());
        }
        Damage::Repeat { from, len } => {
            let part: Vec<u8> = file.iter().skip(from % n).take(*len).copied().collect();
            file.splice(0..0, part);
        }
    }
    file
}

/// Damage anywhere, but mostly in the first 160 bytes, where headers are.
fn any_damage() -> impl Strategy<Value = Damage> {
    let place = || prop_oneof![4 => 0usize..160, 1 => 0usize..4096];
    let digits = prop::sample::select(vec![
        "9",
        "99999999999",
        "18446744073709551615",
        "-1",
        "(",
        "[",
        "{",
        "'",
        "\"",
    ]);
    prop_oneof![
        (place(), 1u8..).prop_map(|(at, mask)| Damage::Flip { at, mask }),
        (place(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Set { at, bytes }),
        (place(), digits).prop_map(|(at, text)| Damage::Set { at, bytes: text.into() }),
        place().prop_map(|to| Damage::Truncate { to }),
        (place(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        (place(), 1usize..40).prop_map(|(from, len)| Damage::Repeat { from, len }),
    ]
}

/// Opens and reads everything a file offers; true if it was accepted.
fn use_file(path: &Path, bytes: &[u8]) -> bool {
    std::fs::write(path, bytes).unwrap();
    let spec = path.to_str().unwrap();
    let refused = |text: String| {
        assert!(text.contains(spec), "the error does not name the file: {text}");
        assert!(!text.contains('\n') && text.len() < spec.len() * 3 + 1000, "not one short line: {text}");
    };
    let matrix = match Features::open(spec) {
        Ok(source) => {
            let values: Vec<f32> = read_all(&source).unwrap();
            let wide: Vec<f64> = read_all(&source).unwrap();
            assert_eq!(values.len(), source.rows() * source.cols());
            assert_eq!(values.len(), wide.len());
            // What is compressed may hold more.
            assert!(values.len() <= bytes.len() || bytes.starts_with(b"PK"), "more elements than bytes");
            let finite = wide.iter().all(|v| v.is_finite());
            assert_eq!(check_finite(&source).is_ok(), finite);
            if let Some(stored) = promised(bytes) {
                assert_eq!(stored, values.len(), "accepted, against what its header says");
            }
            true
        }
        Err(e) => {
            refused(e.to_string());
            false
        }
    };
    match read_index_vector(path) {
        Ok(v) => assert!(v.len() <= bytes.len() || bytes.starts_with(b"PK")),
        Err(e) => refused(e.to_string()),
    }
    matrix
}

/// The number of elements that a `.npy` file's header promises, as a reader finds it that looks at nothing but the words.
fn promised(file: &[u8]) -> Option<usize> {
    let start = if file.get(6)? == &1 { 10 } else { 12 };
    let text = file.strip_prefix(b"\x93NUMPY").and(file.get(start..))?;
    let text = &text[..text.iter().position(|&b| b == b'}')?];
    let text = String::from_utf8_lossy(text).into_owned();
    let shape = text.split_once("shape")?.1.split_once('(')?.1.split_once(')')?.0.to_string();
    let extents = shape.split(',').map(|d| d.trim().trim_end_matches('L')).filter(|d| !d.is_empty());
    extents.map(|d| d.parse::<usize>().ok()).try_fold(1usize, |n, d| n.checked_mul(d?))
}

/// Headers of hostile extents and types before a few bytes: consistent in form, whatever they claim.
fn any_header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let extents = [0u64, 1, 2, 7, 35, 36, 1 << 31, 1 << 32, 1 << 53, 1 << 62, u64::MAX / 2, u64::MAX];
    let shape = prop::collection::vec(prop::sample::select(extents.to_vec()), 0..5);
    let types = [
        "<f4",
        "<f8",
        "<f2",
        "|i1",
        "<i8",
        "|b1",
        "|V2",
        ">f4",
        "<c8",
        "|O",
        "|V4294967295",
        "<f9999999999",
        "",
        "f",
    ];
    let npy = (prop::sample::select(types.to_vec()), shape.clone(), any::<bool>(), 0usize..200);
    let npy = npy.prop_map(|(descr, shape, fortran, len)| {
        let fortran = if fortran { "True" } else { "False" };
        let shape: Vec<String> = shape.iter().map(|d| format!("{d}, ")).collect();
        let text =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({}), }}\n", shape.concat());
        let mut file =
            [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat();
        file.resize(file.len() + len, 1);
        ("npy", file)
    });
    let types = ["F32", "F64", "BF16", "I8", "F8_E4M3", "F4", "C64", "X"];
    let safetensors =
        (prop::sample::select(types.to_vec()), shape, 0u64..200, prop::sample::select(extents.to_vec()));
    let safetensors = safetensors.prop_map(|(dtype, shape, len, end)| {
        let end = if end > 1 << 40 { end } else { len };
        let text = format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{end}]}}}}"#);
        let mut file = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        file.resize(file.len() + len as usize, 1);
        ("safetensors", file)
    });
    prop_oneof![npy, safetensors]
}

/// Valid files of each kind, with the extension that selects their reader.
static VALID_FILES: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.npy");
    let values: Vec<f32> = (0..35).map(|v| v as f32 / 4.0).collect();
    let mut files = Vec::new();
    let mut npy = |write: &dyn Fn(&Path)| {
        write(&path);
        let bytes = std::fs::read(&path).unwrap();
        files.push(("npy", bytes));
    };
    npy(&|p| write_npy(p, &[7, 5], &values).unwrap());
    npy(&|p| write_npy(p, &[35], &(0..35).collect::<Vec<i64>>()).unwrap());
    npy(&|p| write_npy(p, &[5, 1], &[1u8, 2, 3, 4, 5]).unwrap());
    // Fortran order and format version 2.0, with the text that Python writes.
    let text = "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 2), }\n";
    let mut v2 = [b"\x93NUMPY\x02\x00", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    v2.extend((0..6).flat_map(|v| f64::from(v).to_le_bytes()));
    files.push(("npy", v2));
    let tensor = |shape: Vec<usize>| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytemuck::cast_slice(&values))
            .unwrap()
    };
    let one = safetensors::serialize([("x", tensor(vec![7, 5]))], None).unwrap();
    files.push(("safetensors", one));
    for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        zip.start_file("x.npy", options).unwrap();
        zip.write_all(&files[0].1).unwrap();
        files.push(("npz", zip.finish().unwrap().into_inner()));
    }
    // A tensor of 7 x 5 floats, as torch.save writes it.
    let pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01ctorch\nFloatStorage\nq\x02\
        X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04K#tq\x05QK\x00K\x07K\x05\x86q\x06K\x05K\x01\x86q\x07\x89\
        ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.";
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in [
        ("x/data.pkl", &pickle[..]),
        ("x/byteorder", b"little"),
        ("x/data/0", bytemuck::cast_slice(&values)),
        ("x/version", b"3\n"),
    ] {
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    files.push(("pt", zip.finish().unwrap().into_inner()));
    files
});

#[test]
fn intact_files_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let accepted =
        VALID_FILES.iter().map(|(ext, bytes)| use_file(&dir.path().join(format!("f.{ext}")), bytes));
    assert_eq!(accepted.collect::<Vec<_>>(), [true, false, true, true, true, true, true, true]);
}

#[test]
fn every_truncation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (ext, bytes) in VALID_FILES.iter() {
        for len in 0..bytes.len() {
            let path = dir.path().join(format!("f.{ext}"));
            assert!(!use_file(&path, &bytes[..len]), "{ext}: {len} of {} bytes were accepted", bytes.len());
        }
    }
}

#[test]
fn every_single_bit_flip_of_a_header_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    for (ext, bytes) in VALID_FILES.iter() {
        for at in 0..bytes.len().min(if *ext == "pt" { 400 } else { 160 }) {
            for bit in 0..8 {
                let flipped = damage(bytes.clone(), &Damage::Flip { at, mask: 1 << bit });
                use_file(&dir.path().join(format!("f.{ext}")), &flipped);
            }
        }
    }
}

/// UNICON_HOSTILE_FILES asks for another number of files, of each of the first two kinds.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: cases("UNICON_HOSTILE_FILES", 1000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_damage_is_survived(which in 0usize..8, damages in prop::collection::vec(any_damage(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let (ext, bytes) = &VALID_FILES[which];
        let bytes = damages.iter().fold(bytes.clone(), damage);
        let case = || format!("{ext}: {:?}", String::from_utf8_lossy(&bytes));
        watched(case, || use_file(&dir.path().join(format!("f.{ext}")), &bytes));
    }

    #[test]
    fn hostile_headers_are_survived((ext, bytes) in any_header()) {
        let dir = tempfile::tempdir().unwrap();
        let case = || format!("{ext}: {:?}", String::from_utf8_lossy(&bytes));
        watched(case, || use_file(&dir.path().join(format!("f.{ext}")), &bytes));
    }
}

proptest! {
    #[test]
    fn noise_is_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        ext in prop::sample::select(vec!["npy", "safetensors", "npz", "pt"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("f.{ext}"));
        let case = || format!("{ext}: {bytes:?}");
        let accepted = watched(case, || use_file(&path, &bytes));
        prop_assert!(!accepted);
    }
}

#[test]
fn special_files_are_refused() {
    for spec in ["/dev/null", "/dev/zero"] {
        if Path::new(spec).exists() {
            let text = Features::open(spec).unwrap_err().to_string();
            assert!(text.contains("not a regular file or a pipe"), "{text}");
        }
    }
}
