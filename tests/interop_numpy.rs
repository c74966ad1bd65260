//! NumPy and UniCon read each other's files.

use crate::skip::skip;
use std::path::Path;
use std::process::Command;

use unicon::io::{NpzWriter, open_npy, read_all, read_index_vector, write_npy};

/// Runs a Python program in `dir`; `None` if there is no Python with NumPy.
fn numpy(dir: &Path, program: &str) -> Option<String> {
    let run = |code: &str| Command::new("python3").current_dir(dir).args(["-c", code]).output();
    if !run("import numpy").is_ok_and(|o| o.status.success()) {
        skip("python3 with NumPy not found; get it with pip install numpy");
        return None;
    }
    let out = run(program).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn numpy_reads_our_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let values: Vec<f32> = (0..12).map(|v| v as f32 * 0.5).collect();
    write_npy(at("m.npy"), &[4, 3], &values).unwrap();
    write_npy(at("v.npy"), &[3], &[1i64, -2, 3]).unwrap();
    write_npy(at("s.npy"), &[], &[2.5f64]).unwrap();
    let mut npz = NpzWriter::create(at("z.npz")).unwrap();
    npz.add("scores", &[4, 3], &values).unwrap();
    npz.add("indices", &[3], &[1i64, -2, 3]).unwrap();
    npz.finish().unwrap();
    let program = "
import numpy as np
m = (np.arange(12, dtype=np.float32) / 2).reshape(4, 3)
v = np.array([1, -2, 3])
def same(a, b): assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), (a, b)
same(np.load('m.npy'), m); same(np.load('v.npy'), v); same(np.load('s.npy'), np.array(2.5))
z = np.load('z.npz'); same(z['scores'], m); same(z['indices'], v); assert len(z.files) == 2
print('equal')
";
    if let Some(out) = numpy(dir.path(), program) {
        assert_eq!(out.trim(), "equal");
    }
}

#[test]
fn we_read_numpys_files() {
    let dir = tempfile::tempdir().unwrap();
    let program = "
import numpy as np
m = (np.arange(12) - 5).reshape(4, 3)
for t in ['f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1']:
    np.save(t + '.npy', m.astype(t)); np.save(t + '_f.npy', np.asfortranarray(m.astype(t)))
for t in ['u8', 'u4', 'u2', 'u1']: np.save(t + '.npy', (m + 5).astype(t))
np.save('bool.npy', m > 0)
np.save('v.npy', np.arange(5))
np.save('big.npy', m.astype('>f4')); np.save('object.npy', np.array([[None, 1]]), allow_pickle=True)
np.save('complex.npy', m.astype('c8')); np.save('text.npy', np.array([['a', 'b']]))
np.save('record.npy', np.zeros(3, dtype=[('a', 'f4'), ('b', 'i4')]))
";
    if numpy(dir.path(), program).is_none() {
        return;
    }
    let read = |name: &str| read_all::<f64>(&open_npy(dir.path().join(name))?.into_matrix()?);
    let expected: Vec<f64> = (0..12).map(|v| f64::from(v) - 5.0).collect();
    for t in ["f8", "f4", "f2", "i8", "i4", "i2", "i1"] {
        assert_eq!(read(&format!("{t}.npy")).unwrap(), expected, "{t}");
        assert_eq!(read(&format!("{t}_f.npy")).unwrap(), expected, "{t}, Fortran order");
    }
    for t in ["u8", "u4", "u2", "u1"] {
        let shifted: Vec<f64> = expected.iter().map(|v| v + 5.0).collect();
        assert_eq!(read(&format!("{t}.npy")).unwrap(), shifted, "{t}");
    }
    let positive: Vec<f64> = expected.iter().map(|&v| f64::from(u8::from(v > 0.0))).collect();
    assert_eq!(read("bool.npy").unwrap(), positive);
    assert_eq!(read_index_vector(dir.path().join("v.npy")).unwrap(), [0, 1, 2, 3, 4]);
    let refused =
        [("big", "big-endian"), ("object", "pickled"), ("complex", "is needed"), ("text", "is needed")];
    for (name, cause) in refused.into_iter().chain([("record", "records")]) {
        let text = read(&format!("{name}.npy")).unwrap_err().to_string();
        assert!(text.contains(cause), "{name}: {text}");
    }
}
