//! Feature files: `.npy` and safetensors, opened, checked and read.
#![no_main]

mod shared;

use libfuzzer_sys::fuzz_target;
use shared::File;
use unicon_under_test::io::{
    Features, RowSource, check_finite, open_npy, open_safetensors, parse_npy, read_index_vector,
    safetensors_names,
};

/// Values that are read of one matrix: a header of a few bytes can promise many that a sparse file holds.
const MOST: usize = 1 << 12;

fuzz_target!(|bytes: &[u8]| {
    static FILE: File = File::new();
    let path = FILE.with(bytes);
    let path = std::path::Path::new(path.to_str().expect("our own path"));
    let _ = parse_npy("bytes", bytes);
    let _ = read_index_vector(path);
    // By its first bytes: archives, too.
    read(Features::open(path).ok());
    if let Ok(array) = open_npy(path) {
        read(array.into_matrix().ok());
    }
    for name in safetensors_names(path).unwrap_or_default() {
        read(open_safetensors(path, Some(&name)).ok().and_then(|t| t.into_matrix().ok()));
    }
});

fn read(source: Option<impl RowSource>) {
    let Some(source) = source else { return };
    let (rows, cols) = (source.rows(), source.cols());
    if rows.saturating_mul(cols) <= MOST {
        let _ = check_finite(&source);
    }
    let few = rows.min(MOST / cols.max(1));
    let _ = source.read_rows(0, &mut vec![0.0; few * cols]);
    let _ = source.read_rows_f64(rows - few, &mut vec![0.0; few * cols]);
}
