//! Files of other programs: what they are, and the line that makes a `.npy` file of them.

use std::path::Path;

/// What a file is by its name or its first bytes, and how to convert it, where it is one of a known kind that is not read.
pub(super) fn hint(path: &Path, head: &[u8]) -> Option<String> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let magic: &[(&[u8], &str)] = &[
        (b"\x89HDF\r\n\x1a\n", "h5"),
        (b"PAR1", "parquet"),
        (b"MATLAB 5.0", "mat"),
        (b"ARROW1", "arrow"),
        (b"\x1f\x8b", "gz"),
        (b"\x80\x02", "pkl"),
        (b"\x80\x03", "pkl"),
        (b"\x80\x04", "pkl"),
        (b"\x80\x05", "pkl"),
    ];
    let known = magic.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    let kind = known.filter(|_| !matches!(&*extension, "pt" | "pth" | "bin")).unwrap_or(&extension);
    let name = path.display().to_string();
    let to = path.with_extension("npy").display().to_string();
    let numpy = |load: String| format!("python3 -c \"import numpy; numpy.save('{to}', {load})\"");
    let with = |module: &str, load: String| {
        format!("python3 -c \"import numpy, {module}; numpy.save('{to}', {load})\"")
    };
    let (what, how) = match kind {
        "pt" | "pth" | "ckpt" => return Some(torch(path)),
        "csv" => {
            let load = format!("numpy.loadtxt('{name}', delimiter=',', dtype='float32')");
            ("a table in text (skiprows=1 leaves out a heading)", numpy(load))
        }
        "tsv" => {
            let load = format!("numpy.loadtxt('{name}', delimiter='\\t', dtype='float32')");
            ("a table in text (skiprows=1 leaves out a heading)", numpy(load))
        }
        "txt" => ("text", numpy(format!("numpy.loadtxt('{name}', dtype='float32')"))),
        "json" => ("JSON", with("json", format!("numpy.asarray(json.load(open('{name}')), 'float32')"))),
        "parquet" => {
            ("a Parquet table", with("pandas", format!("pandas.read_parquet('{name}').to_numpy('float32')")))
        }
        "arrow" | "feather" => {
            ("an Arrow table", with("pandas", format!("pandas.read_feather('{name}').to_numpy('float32')")))
        }
        "mat" => ("a MATLAB file", with("scipy.io", format!("scipy.io.loadmat('{name}')['NAME']"))),
        "h5" | "hdf5" => ("an HDF5 file", with("h5py", format!("h5py.File('{name}')['NAME'][:]"))),
        "pkl" | "pickle" => (
            "a Python pickle, which is never loaded here",
            with("pickle", format!("numpy.asarray(pickle.load(open('{name}', 'rb')))")),
        ),
        "gz" => ("compressed", format!("gunzip -k '{name}'")),
        "zst" => ("compressed", format!("zstd -dk '{name}'")),
        _ => return None,
    };
    Some(format!("is {what}; convert it: {how}"))
}

/// As [`hint`], of a file that PyTorch saved.
pub(super) fn torch(path: &Path) -> String {
    let (name, to) = (path.display(), path.with_extension("npy"));
    format!(
        "is a PyTorch file; convert it: python3 -c \"import numpy, torch; \
         numpy.save('{}', torch.load('{name}', map_location='cpu').float().numpy())\"",
        to.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told() {
        for (name, head, words) in [
            ("x.pt", &b"PK"[..], "torch.load('x.pt'"),
            ("x.CSV", b"1,2", "numpy.loadtxt('x.CSV', delimiter=','"),
            ("x", b"PAR1...", "read_parquet('x')"),
            ("x.npy", b"\x1f\x8b\x08", "gunzip -k 'x.npy'"),
            ("x.dat", b"\x80\x04\x95", "pickle"),
        ] {
            let text = hint(Path::new(name), head).unwrap();
            assert!(text.contains(words) && !text.contains('\n'), "{text}");
        }
        assert_eq!(hint(Path::new("x.npy"), b"\x93NUMPY"), None);
    }
}
