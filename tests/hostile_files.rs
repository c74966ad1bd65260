//! Damaged and hostile feature files: an error that names the file, never a panic, never more than the file holds.

use std::path::Path;
use std::sync::LazyLock;

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
            assert!(values.len() <= bytes.len(), "more elements than bytes");
            let finite = values.iter().all(|v| v.is_finite());
            assert_eq!(check_finite(&source).is_ok(), finite);
            true
        }
        Err(e) => {
            refused(e.to_string());
            false
        }
    };
    match read_index_vector(path) {
        Ok(v) => assert!(v.len() <= bytes.len()),
        Err(e) => refused(e.to_string()),
    }
    matrix
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
    files
});

#[test]
fn intact_files_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let accepted =
        VALID_FILES.iter().map(|(ext, bytes)| use_file(&dir.path().join(format!("f.{ext}")), bytes));
    assert_eq!(accepted.collect::<Vec<_>>(), [true, false, true, true, true]);
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
        for at in 0..bytes.len().min(160) {
            for bit in 0..8 {
                let flipped = damage(bytes.clone(), &Damage::Flip { at, mask: 1 << bit });
                use_file(&dir.path().join(format!("f.{ext}")), &flipped);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_is_survived(which in 0usize..5, damages in prop::collection::vec(any_damage(), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let (ext, bytes) = &VALID_FILES[which];
        let bytes = damages.iter().fold(bytes.clone(), damage);
        use_file(&dir.path().join(format!("f.{ext}")), &bytes);
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), ext in prop::sample::select(vec!["npy", "safetensors"])) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("f.{ext}"));
        prop_assert!(!use_file(&path, &bytes));
    }
}

#[test]
fn special_files_are_refused() {
    for spec in ["/dev/null", "/dev/zero"] {
        if Path::new(spec).exists() {
            let text = Features::open(spec).unwrap_err().to_string();
            assert!(text.contains("not a regular file"), "{text}");
        }
    }
}
