//! What the C boundary costs: the same fits through the C ABI and through Rust, on the same data, in turns.
//!
//!     cargo bench --bench boundary
//!
//! Prints the median time of each and the median of the ratios of neighbouring runs, with their middle half.

use std::time::Instant;
use unicon::backend::cpu::Cpu;
use unicon::fit::{Data, FitOptions, fit};
use unicon::io::HostMatrix;
use unicon::positives::Positives;

/// The header, as the library sees it; the functions are the library's own.
#[path = "../src/ffi/bindings.rs"]
#[rustfmt::skip]
mod bindings;

use bindings::*;

fn uniform(len: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn view(values: &[f32], cols: usize) -> unicon_matrix {
    unicon_matrix {
        data: values.as_ptr().cast_mut().cast(),
        rows: (values.len() / cols) as i64,
        cols: cols as i64,
        row_stride: cols as i64,
        col_stride: 1,
        dtype: UNICON_F32 as i32,
        device_type: UNICON_DEVICE_CPU as i32,
        device_id: 0,
        reserved: 0,
    }
}

fn seconds(f: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    f();
    begin.elapsed().as_secs_f64()
}

/// The values at a quarter, a half and three quarters.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|q| values[(values.len() - 1) * q / 4])
}

fn compare(n: usize, d1: usize, d2: usize, r: usize, runs: usize) {
    let (x, y) = (uniform(n * d1, 1), uniform(n * d2, 2));
    let cpu = Cpu::<f32>::new(0).expect("threads");
    let (hx, hy) = (HostMatrix::from_f32("x", n, d1, x.clone()), HostMatrix::from_f32("y", n, d2, y.clone()));
    let (hx, hy) = (hx.expect("a matrix"), hy.expect("a matrix"));
    let (positives, options) = (Positives::diagonal(n), FitOptions::new(r));
    let data = Data { x: &hx, y: &hy, positives: &positives };
    let rust = || {
        fit(&cpu, data, None, &options).expect("a fit");
    };
    let mut context = std::ptr::null_mut();
    // SAFETY: NULL for the defaults, and an output.
    assert_eq!(unsafe { unicon_context_create(std::ptr::null(), &mut context) }, 0);
    let (mx, my) = (view(&x, d1), view(&y, d2));
    // SAFETY: structs, matrices and outputs as the header asks; the model is destroyed once.
    let c = || unsafe {
        let (mut o, mut model) = (std::mem::zeroed(), std::ptr::null_mut());
        assert_eq!(unicon_fit_options_init(&mut o, size_of_val(&o)), 0);
        o.r = r as i64;
        let pairs = unicon_pairs {
            struct_size: size_of::<unicon_pairs>(),
            x: &mx,
            y: &my,
            positives: std::ptr::null(),
        };
        let status = unicon_fit(context, &o, &pairs, &mut model, std::ptr::null_mut());
        assert_eq!(status, 0);
        unicon_model_destroy(model);
    };
    let (mut in_rust, mut in_c, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=runs {
        // Each goes first in turn; the first pair warms up.
        let (a, b) = if run % 2 == 0 {
            let a = seconds(rust);
            (a, seconds(c))
        } else {
            let b = seconds(c);
            (seconds(rust), b)
        };
        if run > 0 {
            in_rust.push(a);
            in_c.push(b);
            ratios.push(b / a);
        }
    }
    // SAFETY: destroyed once.
    unsafe { unicon_context_destroy(context) };
    let ([_, rust, _], [_, c, _], [low, ratio, high]) =
        (quartiles(in_rust), quartiles(in_c), quartiles(ratios));
    println!(
        "n {n:6}, d {d1}/{d2}, r {r}: rust {:9.3} ms, c {:9.3} ms, c/rust {ratio:.4} ({low:.4} to {high:.4})",
        1e3 * rust,
        1e3 * c
    );
}

fn main() {
    compare(100, 16, 12, 4, 401);
    compare(1000, 64, 48, 16, 101);
    compare(8192, 256, 256, 64, 11);
}
