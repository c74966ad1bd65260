//! Small stand-ins for data that does not come with the project.

use crate::program::Lab;
use unicon::data::synthetic_pairs;
use unicon::io::{RowSource, read_all};

/// Rows of matching views, float32.
fn pairs(n: usize, d1: usize, d2: usize, latent: usize, noise: f64) -> (Vec<f32>, Vec<f32>) {
    let (x, y) = synthetic_pairs(n, d1, d2, latent, noise, 7).unwrap();
    assert_eq!((x.rows(), y.cols()), (n, d2));
    (read_all(&x).unwrap(), read_all(&y).unwrap())
}

/// `x.npy` and `y.npy`.
pub fn views(lab: &Lab) {
    let (x, y) = pairs(800, 32, 24, 8, 0.2);
    lab.npy("x.npy", &[800, 32], &x);
    lab.npy("y.npy", &[800, 24], &y);
}

/// Puts files of a kind into a folder.
pub fn make(lab: &Lab, kind: &str, folder: &str) {
    std::fs::create_dir_all(lab.path(folder)).unwrap();
    match kind {
        "titles_en_it" => splits(lab, folder, (512, 384), 200),
        "pairs" => splits(lab, folder, (160, 144), 60),
        "titles_multi" => several(lab, folder, 256),
        "embeddings" => embeddings(lab, folder),
        _ => panic!("no data {kind:?}"),
    }
}

/// Unit rows of both sides in one space.
fn embeddings(lab: &Lab, folder: &str) {
    let (n, d) = (300, 16);
    let (x, noise) = pairs(n, d, d, 8, 0.1);
    let y: Vec<f32> = x.iter().zip(&noise).map(|(x, e)| x + 0.2 * e).collect();
    for (name, values) in [("zx", x), ("zy", y)] {
        let unit = |row: &[f32]| {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(|v| v / length).collect::<Vec<f32>>()
        };
        let rows: Vec<f32> = values.chunks_exact(d).flat_map(unit).collect();
        lab.npy(&format!("{folder}/{name}.npy"), &[n, d], &rows);
    }
}

const SETS: [(&str, usize, usize); 3] = [("train", 0, 600), ("val", 600, 750), ("test", 750, 950)];

fn splits(lab: &Lab, folder: &str, (d1, d2): (usize, usize), latent: usize) {
    let (x, y) = pairs(950, d1, d2, latent, 0.3);
    for (set, from, to) in SETS {
        lab.npy(&format!("{folder}/{set}_x.npy"), &[to - from, d1], &x[from * d1..to * d1]);
        lab.npy(&format!("{folder}/{set}_y.npy"), &[to - from, d2], &y[from * d2..to * d2]);
    }
}

/// Every third, second or single pair shares its x.
fn several(lab: &Lab, folder: &str, d: usize) {
    let (x, y) = pairs(950, d, d, 100, 0.3);
    for (set, from, to) in SETS {
        let (mut rows, mut indptr) = (Vec::new(), vec![0i64]);
        let mut at = from;
        while at < to {
            let own = (1 + at % 3).min(to - at);
            rows.extend_from_slice(&x[at * d..(at + 1) * d]);
            at += own;
            indptr.push((at - from) as i64);
        }
        let indices: Vec<i64> = (0..(to - from) as i64).collect();
        lab.npy(&format!("{folder}/{set}_x.npy"), &[indptr.len() - 1, d], &rows);
        lab.npy(&format!("{folder}/{set}_y.npy"), &[to - from, d], &y[from * d..to * d]);
        lab.npy(&format!("{folder}/{set}_indptr.npy"), &[indptr.len()], &indptr);
        lab.npy(&format!("{folder}/{set}_indices.npy"), &[indices.len()], &indices);
    }
}
