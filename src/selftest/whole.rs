//! Checks of the device as a whole: memory, accuracy from the features on, decompositions, repeatability.

use super::Options;
use super::operator::LOSSES;
use super::problem::random;
use super::record::{Record, relative};
use crate::backend::cpu::Cpu;
use crate::backend::{Backend, Similarity};
use crate::data::synthetic_pairs;
use crate::error::Result;
use crate::fit::download;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use crate::spectral::SvdMethod;
use faer::Mat;

/// What a pass holds at most beyond its inputs: its result, `O(n)` numbers, and the workspace that the device announces.
/// Above all no `n x n` matrix.
pub(super) fn memory<B: Backend>(device: &B, options: Options, record: &mut Record) -> Result<()> {
    let (n, r, d1, d2) = if options.quick { (700, 16, 24, 32) } else { (3001, 64, 96, 128) };
    let case = format!("{n} x {n}, r {r}, d {d1}/{d2}");
    let run = || -> Result<(u64, u64)> {
        let (x, y) = synthetic_pairs(n, d1, d2, r, 0.3, 1)?;
        let (x, y) = (device.load(&x)?, device.load(&y)?);
        let zx = device.encode(&x, random(r, d1, 2).as_ref())?.0;
        let zy = device.encode(&y, random(r, d2, 3).as_ref())?.0;
        let held = device.memory().0;
        let s = Similarity::Embeddings(&zx, &zy);
        let w = device.weights(s, &Loss::clip(0.07), &Positives::diagonal(n), NegativeSampling::All)?;
        device.cross(s, &w, &x, &y)?;
        device.gradients(&zx, &zy, &w)?;
        Ok((held, device.memory().1))
    };
    if let Some((held, peak)) = record.value("memory of passes", &case, run())? {
        let announced = device.workspace() + 8 * (n * (2 * r + d1.max(d2) + 32)) as u64;
        record.error("memory of passes", &case, peak.saturating_sub(held) as f64, announced as f64);
    }
    Ok(())
}

/// `C` of structured pairs from the features on, where the rounding of the embeddings counts too.
pub(super) fn accuracy<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    options: Options,
    record: &mut Record,
) -> Result<()> {
    let (n, r, d1, d2) = if options.quick { (600, 32, 48, 40) } else { (4099, 128, 192, 160) };
    let case = format!("{n} x {n}, r {r}, d {d1}/{d2}, clip, tau 0.07");
    let (sx, sy) = synthetic_pairs(n, d1, d2, r, 0.2, 4)?;
    let (loss, positives) = (Loss::clip(0.07), Positives::diagonal(n));
    // Encoders as a fit makes them: the leading directions of the cross-covariance.
    let (ox, oy) = (oracle.load(&sx)?, oracle.load(&sy)?);
    let zero = Similarity::Zeros(n, n);
    let c0 =
        oracle.cross(zero, &oracle.weights(zero, &loss, &positives, NegativeSampling::All)?, &ox, &oy)?;
    let top = oracle.top_r(c0.as_ref(), r, SvdMethod::Full)?;
    let (f, g) = (top.u.transpose().to_owned(), top.v.transpose().to_owned());

    fn run<B: Backend>(
        b: &B,
        (x, y): (&B::Matrix, &B::Matrix),
        (f, g): (&Mat<f64>, &Mat<f64>),
        loss: &Loss,
        positives: &Positives,
    ) -> Result<Mat<f64>> {
        let (zx, zy) = (b.encode(x, f.as_ref())?.0, b.encode(y, g.as_ref())?.0);
        let s = Similarity::Embeddings(&zx, &zy);
        let w = b.weights(s, loss, positives, NegativeSampling::All)?;
        b.cross(s, &w, x, y)
    }
    let want = run(oracle, (&ox, &oy), (&f, &g), &loss, &positives)?;
    let got = device.load(&sx).and_then(|x| {
        let y = device.load(&sy)?;
        run(device, (&x, &y), (&f, &g), &loss, &positives)
    });
    if let Some(got) = record.value("C from features", &case, got)? {
        record.matrix("C from features", &case, &got, &want, device.arithmetic().whole());
    }
    Ok(())
}

/// The device's top-r decomposition, as a product: equal singular values leave the factors free.
pub(super) fn svd<B: Backend>(device: &B, oracle: &Cpu<f64>, record: &mut Record) -> Result<()> {
    // Singular values that fall by a fifth each, so that randomised iterations converge to rounding.
    let falling = Mat::from_fn(23, 23, |i, j| if i == j { 0.8f64.powi(i as i32) } else { 0.0 });
    let c = random(57, 23, 5) * falling * random(23, 40, 6);
    for (name, method) in [("full", SvdMethod::Full), ("randomized", SvdMethod::randomized(7))] {
        for r in [1, 12, 23] {
            let case = format!("57 x 40, r {r}, {name}");
            let Some(got) = record.value("top_r", &case, device.top_r(c.as_ref(), r, method))? else {
                continue;
            };
            let want = oracle.top_r(c.as_ref(), r, SvdMethod::Full)?;
            let product = |u: &Mat<f64>, s: &[f64], v: &Mat<f64>| {
                u * Mat::from_fn(s.len(), s.len(), |i, j| if i == j { s[i] } else { 0.0 }) * v.transpose()
            };
            let (got, want) = (product(&got.u, &got.s, &got.v), product(&want.u, &want.s, &want.v));
            // In float64 on every device.
            record.error("top_r", &case, relative(&got, &want), 1e-6);
        }
    }
    Ok(())
}

/// Two runs, bit by bit. The error is the number of results that differ.
pub(super) fn determinism<B: Backend>(device: &B, options: Options, record: &mut Record) -> Result<()> {
    let (n, r, d1, d2) = if options.quick { (389, 24, 30, 40) } else { (3333, 128, 200, 130) };
    let (sx, sy) = synthetic_pairs(n, d1, d2, r, 0.3, 9)?;
    let positives = Positives::diagonal(n);
    for kind in LOSSES {
        let case = format!("{n} x {n}, r {r}, d {d1}/{d2}, {kind:?}");
        let loss = Loss::new(kind, 0.1);
        let run = || -> Result<Vec<Vec<u64>>> {
            let bits =
                |m: Mat<f64>| m.col_iter().flat_map(|c| c.iter().map(|v| v.to_bits())).collect::<Vec<_>>();
            let (x, y) = (device.load(&sx)?, device.load(&sy)?);
            let zx = device.encode(&x, random(r, d1, 2).as_ref())?.0;
            let zy = device.encode(&y, random(r, d2, 3).as_ref())?.0;
            let s = Similarity::Embeddings(&zx, &zy);
            let w = device.weights(s, &loss, &positives, NegativeSampling::All)?;
            let (gx, gy) = device.gradients(&zx, &zy, &w)?;
            Ok(vec![
                bits(download(device, &zx)?),
                vec![w.loss_rows.to_bits(), w.loss_cols.to_bits()],
                bits(device.cross(s, &w, &x, &y)?),
                bits(download(device, &device.apply(s, &w, &y)?)?),
                bits(download(device, &gx)?),
                bits(download(device, &gy)?),
                device.top_k(&zx, &zy, 10)?.indices.iter().map(|&i| u64::from(i)).collect(),
            ])
        };
        let Some(first) = record.value("bitwise repeatable", &case, run())? else { continue };
        let Some(second) = record.value("bitwise repeatable", &case, run())? else { continue };
        let different = first.iter().zip(&second).filter(|(a, b)| a != b).count();
        record.error("bitwise repeatable", &case, different as f64, 0.0);
    }
    Ok(())
}
