//! NumPy and UniCon read each other's files, and UniCon reads PyTorch's.

use crate::ffi::python_with;
use crate::skip::skip;
use std::path::Path;
use std::process::Command;

use unicon::io::{Features, NpzWriter, open_npy, read_all, read_index_vector, write_npy};

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

#[test]
fn we_read_pytorchs_files() {
    let Some(python) = python_with("torch") else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = "
import collections, torch
m = (torch.arange(12) - 5).reshape(4, 3).float()
for t in ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8']:
    torch.save(m.to(getattr(torch, t)), t + '.pt')
torch.save((m + 5).to(torch.uint8), 'uint8.pt')
torch.save(m > 0, 'bool.pt')
# Views: a transposed one, rows of a larger one, every other column.
torch.save(m.t().contiguous().t(), 'transposed.pt')
torch.save(torch.cat([m * 7, m])[4:], 'rows.pt')
torch.save(torch.stack([m, m], 2).reshape(4, 6)[:, ::2], 'strided.pt')
torch.save(torch.nn.Parameter(m), 'parameter.pt')
torch.save(torch.arange(5), 'vector.pt')
layer = torch.nn.Linear(3, 4)
with torch.no_grad(): layer.weight.copy_(m)
torch.save(layer.state_dict(), 'state.pth')
torch.save({'train': {'x': m, 'y': m[:2] * 2}, 'both': [m, (m * 3, 'text')], 5: m * 4, 'epoch': 3, 'loss': 0.5}, 'nested.pt')
torch.save({'x': m, 'again': m}, 'shared.pt')
torch.save('text', 'text.pt')
torch.save(m, 'old.pt', _use_new_zipfile_serialization=False)
torch.save(layer, 'module.pt')
torch.save(m.to_sparse(), 'sparse.pt')
torch.save(m + 1j, 'complex.pt')
torch.save({1: m, '1': -m, 'x': m}, 'collide.pt')
torch.save({'a': {'b': m}, 'a.b': -m}, 'dots.pt')
import numpy
torch.save({'array': numpy.ones((4, 3)), 'x': m}, 'mixed.pt')
torch.save({True: m * 9, 'x': m}, 'odd.pt')
around = [m]; around.extend([around] * 64); torch.save(around, 'around.pt')
";
    let out =
        Command::new(python).current_dir(dir.path()).args(["-W", "ignore", "-c", program]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let read = |name: &str| read_all::<f64>(&Features::open(dir.path().join(name))?);
    let expected: Vec<f64> = (0..12).map(|v| f64::from(v) - 5.0).collect();
    let times = |factor: f64| expected.iter().map(|v| v * factor).collect::<Vec<_>>();
    for t in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"] {
        assert_eq!(read(&format!("{t}.pt")).unwrap(), expected, "{t}");
    }
    assert_eq!(read("uint8.pt").unwrap(), expected.iter().map(|v| v + 5.0).collect::<Vec<_>>());
    assert_eq!(
        read("bool.pt").unwrap(),
        expected.iter().map(|&v| f64::from(u8::from(v > 0.0))).collect::<Vec<_>>()
    );
    for name in [
        "transposed.pt",
        "rows.pt",
        "parameter.pt",
        "state.pth:weight",
        "nested.pt:train.x",
        "nested.pt:both.0",
    ] {
        assert_eq!(read(name).unwrap(), expected, "{name}");
    }
    for name in ["shared.pt:x", "shared.pt:again", "collide.pt:x", "mixed.pt:x", "odd.pt:x"] {
        assert_eq!(read(name).unwrap(), expected, "{name}");
    }
    assert_eq!(read("nested.pt:train.y").unwrap(), times(2.0)[..6]);
    assert_eq!(read("nested.pt:both.1.0").unwrap(), times(3.0));
    assert_eq!(read("nested.pt:5").unwrap(), times(4.0));
    assert_eq!(read_index_vector(dir.path().join("vector.pt")).unwrap(), [0, 1, 2, 3, 4]);
    for (name, cause) in [
        ("nested.pt", "holds 5 tensors; choose one as FILE:TENSOR (5, both.0, both.1.0, train.x, train.y)"),
        ("nested.pt:train", "has no tensor 'train'; it has 5, both.0"),
        ("float32.pt:x", "is one tensor, which has no name; got ':x'"),
        ("strided.pt", "neither contiguous nor transposed: save it with .contiguous()"),
        ("vector.pt", "expected a matrix (2 extents), got shape [5]"),
        ("state.pth:bias", "expected a matrix"),
        ("text.pt", "holds no tensor that can be found"),
        ("old.pt", "is a PyTorch file; convert it"),
        ("module.pt", "PyTorch file"),
        ("sparse.pt", "holds no tensor that can be found"),
        ("complex.pt", "has dtype ComplexFloatStorage, which is not supported"),
        ("float32.pt:bf16", ":bf16 is for those"),
        ("collide.pt:1", "has several tensors that are called '1'"),
        ("dots.pt:a.b", "has several tensors that are called 'a.b'"),
        ("mixed.pt", "holds a tensor 'x' and values that are not read; choose it as FILE:x"),
        ("odd.pt", "choose it as FILE:x"),
        ("around.pt", "holds more than"),
    ] {
        let text = read(name).unwrap_err().to_string();
        assert!(text.contains(cause) && !text.contains('\n'), "{name}: {text}");
    }
}
