//! Kernels of which the values are given, against the built-in ones with the same values.

use crate::people::fitting::{matrix, views};
use crate::program::Lab;
use faer::Mat;
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::fit::{
    Batches, BestOptions, Center, Data, Dim, FitOptions, KernelOptions, Landmarks, fit, fit_best,
};
use unicon::io::{HostMatrix, read_all};
use unicon::kernel::{Kernel, KernelKind, kernel_values};
use unicon::loss::Loss;
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::real::Real;

const DIMS: (usize, usize) = (9, 7);
const N: (usize, usize) = (43, 38);

/// Rows that train, of which several match several, and rows to encode.
struct Rows {
    x: HostMatrix,
    y: HostMatrix,
    new_x: HostMatrix,
    new_y: HostMatrix,
    positives: Positives,
}

fn rows() -> Rows {
    let (x, y) = views(60, DIMS, 4, 0.4, 8);
    let ids = |n: usize| (0..n as i64).map(|i| i / 2).collect::<Vec<_>>();
    Rows {
        x: matrix("x", N.0, &x[..N.0 * DIMS.0]),
        y: matrix("y", N.1, &y[..N.1 * DIMS.1]),
        new_x: matrix("new x", 17, &x[N.0 * DIMS.0..]),
        new_y: matrix("new y", 22, &y[N.1 * DIMS.1..]),
        positives: Positives::from_groups(&ids(N.0), &ids(N.1)).unwrap(),
    }
}

/// The built-in kernel as a function of two rows.
fn function(k: Kernel) -> impl Fn(&[f64], &[f64]) -> f64 + Sync {
    move |a, b| {
        let product = a.iter().zip(b).map(|(a, b)| a * b).sum();
        k.of_product(product, k.norm(a.iter().copied()), k.norm(b.iter().copied()))
    }
}

fn download<C: Backend>(cpu: &C, m: &C::Matrix) -> Mat<f64> {
    let (n, cols) = cpu.shape(m);
    let mut out = Mat::<f64>::zeros(n, cols);
    cpu.store(m, &mut |first, panel| {
        panel.iter().enumerate().for_each(|(at, &v)| out[(first + at / cols, at % cols)] = v);
        Ok(())
    })
    .unwrap();
    out
}

fn similarities<T: Real>(cpu: &Cpu<T>, model: &Model, x: &HostMatrix, y: &HostMatrix) -> Mat<f64> {
    let embedded = |side, rows: &HostMatrix| download(cpu, &model.encode(cpu, side, rows).unwrap());
    embedded(Side::X, x) * embedded(Side::Y, y).transpose()
}

fn options(kernel: KernelOptions) -> FitOptions {
    let whiten = (kernel.landmarks != Landmarks::Exact).then_some(0.1);
    let loss = Loss { tau: 0.5, ..Loss::default() };
    FitOptions { loss, whiten, kernel: Some(kernel), center: Center::Off, ..FitOptions::new(5) }
}

fn agrees<T: Real>(limit: f64) {
    let cpu = Cpu::<T>::new(2).unwrap();
    let r = rows();
    let of = Kernel::new;
    let kernels =
        [of(KernelKind::Angular), Kernel { gamma: 0.05, ..of(KernelKind::Rbf) }, of(KernelKind::Linear)];
    let drawn = Landmarks::Rows(vec![3, 30, 7, 12, 0, 21, 19, 37, 5]);
    for kernel in kernels {
        let f = function(kernel);
        // The backend's own values: an angle near 0 is the root of a rounding, which no two orders of a sum agree on.
        let values = |a: &HostMatrix, z: &HostMatrix| {
            let points = download(&cpu, &cpu.load(z).unwrap());
            let k = download(&cpu, &cpu.kernel(&kernel, &cpu.load(a).unwrap(), points.as_ref()).unwrap());
            let by_function = read_all::<f64>(&kernel_values(&f, a, z).unwrap()).unwrap();
            let rows: Vec<f64> =
                (0..k.nrows()).flat_map(|i| (0..k.ncols()).map(move |j| (i, j))).map(|at| k[at]).collect();
            let off = rows.iter().zip(&by_function).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < if T::NAME == "f64" { 1e-7 } else { 2e-3 }, "{off:e}");
            matrix(unicon::io::RowSource::name(a), k.nrows(), &rows)
        };
        let (gx, gy) = (values(&r.x, &r.x), values(&r.y, &r.y));
        let (kx, ky) = (values(&r.new_x, &r.x), values(&r.new_y, &r.y));
        for landmarks in [Landmarks::Exact, Landmarks::Count(20), drawn.clone()] {
            let plain = Data { x: &r.x, y: &r.y, positives: &r.positives };
            let given = Data { x: &gx, y: &gy, positives: &r.positives };
            // A kernel of low rank is singular but for its ridge.
            let ridge = if kernel.kind == KernelKind::Linear { 1e-2 } else { 1e-6 };
            let built_in = KernelOptions { ridge, ..KernelOptions::new(kernel, landmarks.clone()) };
            let of_values = KernelOptions { ridge, ..KernelOptions::of_values(landmarks.clone()) };
            let (want, info) = fit(&cpu, plain, None, &options(built_in)).unwrap();
            let (got, told) = fit(&cpu, given, None, &options(of_values)).unwrap();
            let what = format!("{:?} {landmarks:?}", kernel.kind);
            assert_eq!(
                (info.loss.len(), info.final_loss.is_some()),
                (told.loss.len(), told.final_loss.is_some())
            );
            for (a, b) in
                info.loss.iter().chain(&info.final_loss).zip(told.loss.iter().chain(&told.final_loss))
            {
                assert!((a - b).abs() < limit, "{what}: {a} and {b}");
            }
            let off = similarities(&cpu, &want, &r.new_x, &r.new_y) - similarities(&cpu, &got, &kx, &ky);
            assert!(off.norm_max() < limit, "{what}: {:e}", off.norm_max());
            assert_eq!((got.input_dim(Side::X), got.input_dim(Side::Y)), N);
            let again = Model::from_bytes(&got.to_bytes().unwrap()).unwrap();
            assert_eq!(similarities(&cpu, &again, &kx, &ky), similarities(&cpu, &got, &kx, &ky), "{what}");
        }
    }
}

#[test]
fn values_of_a_kernel_give_what_the_kernel_gives() {
    agrees::<f64>(1e-9);
    agrees::<f32>(2e-3);
}

/// A kernel that is not built in has what a kernel has: the exact features of its own Gram matrix.
#[test]
fn what_is_no_gram_matrix_is_refused_by_name() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    let r = rows();
    let f = function(Kernel::new(KernelKind::Angular));
    let gram = |m: &HostMatrix| kernel_values(&f, m, m).unwrap();
    let (gx, gy) = (gram(&r.x), gram(&r.y));
    let changed = |g: &HostMatrix, name: &str, change: &dyn Fn(&mut [f64], usize)| {
        let (mut v, n) = (read_all::<f64>(g).unwrap(), unicon::io::RowSource::rows(g));
        change(&mut v, n);
        HostMatrix::from_f64(name, n, n, v).unwrap()
    };
    let exact = options(KernelOptions::of_values(Landmarks::Exact));
    let fails = |x: &HostMatrix, y: &HostMatrix, o: &FitOptions| {
        let data = Data { x, y, positives: &r.positives };
        fit(&cpu, data, None, o).unwrap_err().to_string()
    };
    let uneven = changed(&gy, "y", &|v, n| v[3 * n + 5] += 0.01);
    let said = fails(&gx, &uneven, &exact);
    assert!(said.starts_with("y: expected a symmetric Gram matrix") && said.contains("at (3, 5)"), "{said}");
    let indefinite = changed(&gx, "x", &|v, n| (0..n).for_each(|i| v[i * n + i] -= 0.9));
    for landmarks in [Landmarks::Exact, Landmarks::Count(12)] {
        let said = fails(&indefinite, &gy, &options(KernelOptions::of_values(landmarks)));
        assert!(said.starts_with("x: expected a positive semi-definite Gram matrix"), "{said}");
    }
    // Rounding is neither.
    let rounded = changed(&gy, "y", &|v, _| v.iter_mut().for_each(|v| *v = f64::from(*v as f32)));
    fit(&cpu, Data { x: &gx, y: &rounded, positives: &r.positives }, None, &exact).unwrap();
    let said = fails(&r.x, &gy, &exact);
    assert!(said.starts_with("x: expected a Gram matrix of the rows of x, 43 columns"), "{said}");
    for (o, words) in [
        (FitOptions { batches: Some(Batches::new(20)), ..exact.clone() }, "mini-batches of precomputed"),
        (FitOptions { center: Center::On, ..exact.clone() }, "taking means out of precomputed"),
    ] {
        let said = fails(&gx, &gy, &o);
        assert!(said.contains(words), "{said}");
    }
    let best = BestOptions {
        kernel: Some(KernelOptions::of_values(Landmarks::Count(12))),
        ..BestOptions::new(Dim::Fixed(3))
    };
    let said = fit_best(&cpu, Data { x: &gx, y: &gy, positives: &r.positives }, None, &best).unwrap_err();
    assert!(said.to_string().contains("precomputed Gram matrices"), "{said}");
    let said = kernel_values(&|a, b| (a[0] - b[0]).ln(), &r.x, &r.x).unwrap_err().to_string();
    assert!(said.contains("the kernel of row 0 of x and row 0 of x is -inf"), "{said}");
    let said = kernel_values(&f, &r.x, &r.y).unwrap_err().to_string();
    assert!(said.starts_with("y: expected 9 columns"), "{said}");
}

#[test]
fn the_program_takes_gram_matrices() {
    let lab = Lab::new();
    let (x, y) = views(40, DIMS, 4, 0.4, 8);
    lab.npy("x.npy", &[40, DIMS.0], &x);
    lab.npy("y.npy", &[40, DIMS.1], &y);
    let fit = "fit --rank 4 --iters 2 --center off --precision f64";
    for side in ["x", "y"] {
        lab.text(&format!(
            "gram --kernel angular --a {side}.npy --b {side}.npy --out k{side}.npy --precision f64"
        ));
    }
    for more in ["--exact", "--landmarks 11 --kernel-ridge 1e-3"] {
        let values =
            lab.json(&format!("{fit} --precomputed {more} --x kx.npy --y ky.npy --out k.safetensors"));
        let rows =
            lab.json(&format!("{fit} --kernel angular {more} --x x.npy --y y.npy --out m.safetensors"));
        let loss = |json: &serde_json::Value| json["info"]["final_loss"].as_f64().unwrap();
        assert!((loss(&values) - loss(&rows)).abs() < 1e-4, "{more}: {} and {}", loss(&values), loss(&rows));
        lab.text("encode --model k.safetensors --side x --input kx.npy --out zk.npy");
        lab.text("encode --model m.safetensors --side x --input x.npy --out zm.npy");
        let (a, b) = (lab.matrix("zk.npy").0, lab.matrix("zm.npy").0);
        let product =
            |z: &[f64], i: usize, j: usize| (0..4).map(|k| z[4 * i + k] * z[4 * j + k]).sum::<f64>();
        for (i, j) in (0..40).flat_map(|i| (0..40).map(move |j| (i, j))) {
            assert!((product(&a, i, j) - product(&b, i, j)).abs() < 1e-2, "{more} {i} {j}");
        }
    }
    for (args, words) in [
        ("--precomputed --x x.npy --y ky.npy", "a Gram matrix of the rows of x, 40 columns"),
        ("--precomputed --preset best --x kx.npy --y ky.npy", "precomputed Gram matrices"),
    ] {
        let fit = if args.contains("best") { fit.replace("--iters 2", "") } else { fit.to_string() };
        let said = lab.fails(1, &format!("{fit} {args} --out no.safetensors"));
        assert!(said.contains(words), "{said}");
    }
}
