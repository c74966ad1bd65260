//! Embeddings of fewer columns, against the dense singular value decomposition of all similarities.

use crate::parts::{Parts, tensor};
use crate::people::fitting::{matrix, views};
use crate::program::Lab;
use faer::Mat;
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::fit::{Batches, Data, FitOptions, Init, KernelOptions, Landmarks, fit};
use unicon::io::{HostMatrix, read_all};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::Loss;
use unicon::model::{Compressed, Model, Side};
use unicon::positives::Positives;
use unicon::real::Real;

/// Pairs that train, and rows of each side beside them, of which there are other numbers.
struct Rows {
    x: HostMatrix,
    y: HostMatrix,
    more_x: HostMatrix,
    more_y: HostMatrix,
}

const DIMS: (usize, usize) = (9, 7);

fn rows() -> Rows {
    let (x, y) = views(106, DIMS, 4, 0.4, 3);
    let (x, more_x) = x.split_at(61 * DIMS.0);
    let (y, more_y) = y.split_at(61 * DIMS.1);
    Rows {
        x: matrix("x", 61, x),
        y: matrix("y", 61, y),
        more_x: matrix("more x", 45, more_x),
        more_y: matrix("more y", 33, &more_y[..33 * DIMS.1]),
    }
}

/// Kernel solutions of three batches of different weight, or linear encoders.
fn fitted<T: Real>(
    cpu: &Cpu<T>,
    rows: &Rows,
    fused: bool,
    compress: Option<usize>,
) -> (Model, Option<Compressed>) {
    let positives = Positives::diagonal(61);
    let kernel = KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Exact);
    let options = FitOptions {
        loss: Loss { tau: 0.5, ..Loss::default() },
        kernel: fused.then_some(kernel),
        batches: fused.then(|| Batches::new(20)),
        compress,
        ..FitOptions::new(5)
    };
    let held = Positives::diagonal(33);
    let held_x =
        HostMatrix::from_f64("held x", 33, DIMS.0, read_all(&rows.more_x).unwrap()[..33 * DIMS.0].to_vec());
    let held_x = held_x.unwrap();
    let validation = Data { x: &held_x, y: &rows.more_y, positives: &held };
    let data = Data { x: &rows.x, y: &rows.y, positives: &positives };
    let (model, info) = fit(cpu, data, Some(validation), &options).unwrap();
    assert_eq!(model.components.len(), if fused { 3 } else { 1 });
    (model, info.compressed)
}

fn embedded<T: Real>(cpu: &Cpu<T>, model: &Model, side: Side, rows: &HostMatrix) -> Mat<f64> {
    let z = model.encode(cpu, side, rows).unwrap();
    let (n, r) = cpu.shape(&z);
    let mut out = Mat::zeros(n, r);
    cpu.store(&z, &mut |first, panel| {
        panel.iter().enumerate().for_each(|(at, &v)| out[(first + at / r, at % r)] = v);
        Ok(())
    })
    .unwrap();
    out
}

fn similarities<T: Real>(cpu: &Cpu<T>, model: &Model, x: &HostMatrix, y: &HostMatrix) -> Mat<f64> {
    embedded(cpu, model, Side::X, x) * embedded(cpu, model, Side::Y, y).transpose()
}

/// The best approximation of rank r, and the relative error that it leaves.
fn best(t: &Mat<f64>, r: usize) -> (Mat<f64>, f64) {
    let svd = t.thin_svd().unwrap();
    let s: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let kept = r.min(s.len());
    let left = Mat::from_fn(t.nrows(), kept, |i, k| svd.U()[(i, k)] * s[k]);
    let error = s[kept..].iter().map(|v| v * v).sum::<f64>().sqrt() / t.norm_l2();
    (left * svd.V().subcols(0, kept).transpose(), error)
}

fn products_are_the_nearest<T: Real>(limit: f64) {
    let cpu = Cpu::<T>::new(2).unwrap();
    let rows = rows();
    for fused in [true, false] {
        let (model, _) = fitted(&cpu, &rows, fused, None);
        let width = model.embedding_dim();
        assert_eq!(width, if fused { 15 } else { 5 });
        for (x, y) in [(&rows.x, &rows.y), (&rows.more_x, &rows.more_y)] {
            let t = similarities(&cpu, &model, x, y);
            for r in [1, 3, 4, 5, 7, 11, width] {
                if r > width {
                    continue;
                }
                let (small, told) = model.compressed(&cpu, x, y, r).unwrap();
                let (want, error) = best(&t, r);
                let got = similarities(&cpu, &small, x, y);
                assert_eq!((small.embedding_dim(), told.from, told.columns), (r, width, r));
                assert_eq!(told.singular_values.len(), r);
                let off = (&got - &want).norm_l2() / t.norm_l2();
                assert!(off < limit, "{fused} {r}: {off:e}");
                assert!(
                    (told.error - error).abs() < limit.max(1e-7),
                    "{fused} {r}: {} and {error}",
                    told.error
                );
                // What is told is what these embeddings do.
                let lost = (&got - &t).norm_l2() / t.norm_l2();
                assert!(
                    (told.error - lost).abs() < limit.max(1e-7),
                    "{fused} {r}: {} and {lost}",
                    told.error
                );
                assert!(if r == 1 { lost > 0.1 } else { r < width || lost < limit }, "{fused} {r}: {lost}");
            }
        }
    }
}

#[test]
fn products_are_the_nearest_that_so_few_columns_give() {
    products_are_the_nearest::<f64>(1e-9);
    products_are_the_nearest::<f32>(2e-5);
}

/// Rows that say nothing of most columns: what they leave open does no harm to other rows.
#[test]
fn few_rows_and_no_rows_that_matter() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    let all = rows();
    let (model, _) = fitted(&cpu, &all, true, None);
    let values = read_all::<f64>(&all.x).unwrap();
    let three = matrix("three", 3, &values[..3 * DIMS.0]);
    let (small, told) = model.compressed(&cpu, &three, &all.y, 6).unwrap();
    let t = similarities(&cpu, &model, &three, &all.y);
    assert!((similarities(&cpu, &small, &three, &all.y) - &t).norm_l2() < 1e-8 * t.norm_l2());
    assert!(told.error < 1e-7 && told.singular_values[3] < 1e-7 * told.singular_values[0]);
    let z = embedded(&cpu, &small, Side::X, &all.x);
    // Not thousands, as it would be of singular values that are rounding.
    assert!(z.norm_max() < 10.0, "{}", z.norm_max());
    // Linear encoders embed rows of zeros as 0.
    let (linear, _) = fitted(&cpu, &all, false, None);
    let zeros = matrix("zeros", 4, &[0.0; 4 * DIMS.0]);
    let refused = linear.compressed(&cpu, &zeros, &all.y, 2).unwrap_err().to_string();
    assert!(refused.contains("all similarities of the given rows are 0"), "{refused}");
    for r in [0, 16] {
        let refused = model.compressed(&cpu, &all.x, &all.y, r).unwrap_err().to_string();
        assert!(refused.starts_with("compress: expected between 1 and the model's 15 columns"), "{refused}");
    }
    let refused = model.compressed(&cpu, &all.y, &all.y, 3).unwrap_err().to_string();
    assert!(refused.contains("9 columns, as the model's"), "{refused}");
}

#[test]
fn a_compressed_model_is_compressed_further_and_kept_in_files() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    let rows = rows();
    let (model, told) = fitted(&cpu, &rows, true, Some(8));
    let told = told.unwrap();
    // As the method does it, by the rows that trained.
    let (whole, nothing) = fitted(&cpu, &rows, true, None);
    assert_eq!(nothing, None);
    let (same, again) = whole.compressed(&cpu, &rows.x, &rows.y, 8).unwrap();
    assert_eq!(told, again);
    let t = similarities(&cpu, &model, &rows.more_x, &rows.more_y);
    assert_eq!(similarities(&cpu, &same, &rows.more_x, &rows.more_y), t);
    assert_eq!(model.notes["compressed_from"], "15");
    assert_eq!(model.notes["compression_error"].parse::<f64>().unwrap(), told.error);

    let (twice, _) = model.compressed(&cpu, &rows.x, &rows.y, 4).unwrap();
    let (want, _) = best(&similarities(&cpu, &model, &rows.x, &rows.y), 4);
    let got = similarities(&cpu, &twice, &rows.x, &rows.y);
    assert!((got - &want).norm_l2() < 1e-9 * want.norm_l2());

    let bytes = model.to_bytes().unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("\"format_version\":\"3\""));
    let read = Model::from_bytes(&bytes).unwrap();
    assert_eq!(read.to_bytes().unwrap(), bytes);
    assert_eq!(similarities(&cpu, &read, &rows.more_x, &rows.more_y), t);

    // Neither a start nor an encoder matrix: its embeddings are not those of its encoders.
    let (linear, _) = fitted(&cpu, &rows, false, Some(3));
    assert!(Init::from_model(&linear).is_err());
    let options = FitOptions { compress: Some(6), ..FitOptions::new(5) };
    let positives = Positives::diagonal(61);
    let data = Data { x: &rows.x, y: &rows.y, positives: &positives };
    let refused = fit(&cpu, data, None, &options).unwrap_err().to_string();
    assert!(refused.starts_with("compress: expected at most the rank, 5"), "{refused}");
}

/// Files whose map does not fit, or that are older than maps.
#[test]
fn wrong_maps_are_refused() {
    let with = |x: &[u64], y: &[u64]| {
        let mut all = Parts::linear();
        all.note("format_version", "3");
        all.tensors.push(tensor("compression.x", x));
        all.tensors.push(tensor("compression.y", y));
        all
    };
    let model = Model::from_bytes(&with(&[1, 2], &[1, 2]).bytes()).unwrap();
    assert_eq!(model.embedding_dim(), 1);
    let mut lone = with(&[1, 2], &[1, 2]);
    lone.tensors.pop();
    for (parts, words) in [
        (with(&[1, 2], &[2, 2]), "compression.y: expected 1 x 2 values, got 2 x 2"),
        (with(&[1, 3], &[1, 2]), "compression.x: expected 1 x 2 values, got 1 x 3"),
        (with(&[0, 2], &[0, 2]), "at least one row and one column"),
        (with(&[1, 2], &[1, 2]).valued(2, 1, f64::NAN), "compression.x: row 0 holds NaN"),
        (with(&[1, 2], &[1, 2]).valued(3, 0, 1e200), "compression.y: 1e200"),
        (with(&[1, 2], &[1, 2]).said("format_version", "3", "2"), "compression.x belongs to no encoder"),
        (lone, "compression.y is missing"),
    ] {
        let refused = Model::from_bytes(&parts.bytes()).unwrap_err();
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn the_program_compresses_and_says_what_that_loses() {
    let lab = Lab::new();
    let rows = rows();
    let values = |m: &HostMatrix| read_all::<f64>(m).unwrap();
    lab.npy("x.npy", &[61, DIMS.0], &values(&rows.x));
    lab.npy("y.npy", &[61, DIMS.1], &values(&rows.y));
    let fit = "fit --x x.npy --y y.npy --kernel angular --batch-size 20 --rank 5";
    let json = lab.json(&format!("{fit} --compress 5 --out small.safetensors"));
    lab.json(&format!("{fit} --out large.safetensors"));
    let (from, columns) = (&json["info"]["compressed"]["from"], &json["info"]["compressed"]["columns"]);
    assert_eq!((from.as_u64(), columns.as_u64()), (Some(15), Some(5)));
    let error = json["info"]["compressed"]["error"].as_f64().unwrap();
    for (model, width) in [("small", 5), ("large", 15)] {
        for side in ["x", "y"] {
            lab.text(&format!(
                "encode --model {model}.safetensors --side {side} --input {side}.npy --out {model}_{side}.npy"
            ));
            assert_eq!(lab.matrix(&format!("{model}_{side}.npy")).1, width);
        }
    }
    let read = |name: &str, width: usize| {
        let values = lab.matrix(name).0;
        Mat::from_fn(61, width, |i, j| values[i * width + j])
    };
    let t = read("large_x.npy", 15) * read("large_y.npy", 15).transpose();
    let small = read("small_x.npy", 5) * read("small_y.npy", 5).transpose();
    let lost = (small - &t).norm_l2() / t.norm_l2();
    assert!(error > 1e-3 && (lost - error).abs() < 1e-5, "{lost} and {error}");
    let text = lab.text(&format!("{fit} --compress 5 --out small.safetensors"));
    assert!(text.contains("from 15 columns to 5: relative error"), "{text}");
    let best = "fit --x x.npy --y y.npy --preset best --rank 5 --compress 2 --out no.safetensors";
    for (args, words) in [
        (format!("{fit} --compress 0 --out no.safetensors"), "compress: expected at least 1 column"),
        (best.to_string(), "--compress"),
    ] {
        let refused = lab.fails(1, &args);
        assert!(refused.contains(words), "{refused}");
    }
}
