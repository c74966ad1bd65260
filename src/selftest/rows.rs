//! Operations on rows: features in and out, encodes, Gram matrices, kernels.

use super::problem::{Problem, random};
use super::record::{Record, relative_list};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::error::Result;
use crate::fit::{download, upload};
use crate::kernel::{Kernel, KernelKind};
use faer::Mat;

const KERNELS: [KernelKind; 7] = [
    KernelKind::Linear,
    KernelKind::Cosine,
    KernelKind::Angular,
    KernelKind::Arccos,
    KernelKind::ExpCosine,
    KernelKind::Rbf,
    KernelKind::Matern,
];

pub(super) fn check<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    p: &Problem,
    record: &mut Record,
) -> Result<()> {
    let case = p.to_string();
    let (arithmetic, d) = (device.arithmetic(), p.x.ncols());
    let limit = arithmetic.rows(1);
    let Some(x) = record.value("load, store", &case, upload(device, p.x.as_ref()))? else { return Ok(()) };
    let Some(held) = record.value("load, store", &case, download(device, &x))? else { return Ok(()) };
    record.matrix("load, store", &case, &held, &p.x, limit);
    // From here on the features are what the device holds.
    let ox = upload(oracle, held.as_ref())?;
    let mut compare = |operation, got: Result<B::Matrix>, want: Result<_>, limit: f64| -> Result<()> {
        let got = got.and_then(|m| download(device, &m));
        if let Some(got) = record.value(operation, &case, got)? {
            record.matrix(operation, &case, &got, &download(oracle, &want?)?, limit);
        }
        Ok(())
    };

    let n = p.n_x;
    let middle = n / 3..n - n / 4;
    compare("rows", device.rows(&x, middle.clone()), oracle.rows(&ox, middle), 0.0)?;
    let ids: Vec<u32> = (0..n as u32 + 3).map(|i| (i * 31 + 2) % n as u32).collect();
    compare("select", device.select(&x, &ids), oracle.select(&ox, &ids), 0.0)?;
    let scale: Vec<f64> = (0..n).map(|i| if i == 1 { 0.0 } else { 0.3 + i as f64 * 0.01 }).collect();
    compare("scale_rows", device.scale_rows(&x, &scale), oracle.scale_rows(&ox, &scale), limit)?;
    let (blocks, wanted) = ([(0.5, &x), (2.0, &x)], [(0.5, &ox), (2.0, &ox)]);
    compare("hstack", device.hstack(&blocks), oracle.hstack(&wanted), limit)?;
    compare("linear", device.linear(&x, p.f.as_ref()), oracle.linear(&ox, p.f.as_ref()), arithmetic.rows(d))?;

    let m = 9.min(n);
    let mut landmarks = Mat::from_fn(m, d, |i, j| held[(i, j)]);
    if m > 2 {
        (0..d).for_each(|j| landmarks[(2, j)] = -held[(0, j)]);
    }
    // Distances of the size at which the kernels bend.
    let square = held.norm_l2().powi(2) / n as f64;
    for kind in KERNELS {
        let kernel = Kernel { gamma: 1.0 / square, lengthscale: square.sqrt(), ..Kernel::new(kind) };
        let got = device.kernel(&kernel, &x, landmarks.as_ref());
        let want = oracle.kernel(&kernel, &ox, landmarks.as_ref());
        // At equal and opposite points the angle has a square-root singularity: a rounding comes out as its root.
        let rounding = 4.0 * arithmetic.rows(d);
        let singular = if kind == KernelKind::Angular { (rounding / n as f64).sqrt() } else { 0.0 };
        compare("kernel", got, want, rounding + singular)?;
    }

    let gram = device.gram(&x);
    if let Some(gram) = record.value("gram", &case, gram)? {
        record.matrix("gram", &case, &gram, &oracle.gram(&ox)?, arithmetic.rows(n));
    }
    encode(device, oracle, p, (&x, &ox), record)
}

/// Embeddings, their norms, and the gradient back through the normalisation.
fn encode<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    p: &Problem,
    (x, ox): (&B::Matrix, &<Cpu<f64> as Backend>::Matrix),
    record: &mut Record,
) -> Result<()> {
    let case = p.to_string();
    let (arithmetic, d) = (device.arithmetic(), p.x.ncols());
    let limit = arithmetic.rows(d);
    let Some((z, norms)) = record.value("encode", &case, device.encode(x, p.f.as_ref()))? else {
        return Ok(());
    };
    let (wz, wn) = oracle.encode(ox, p.f.as_ref())?;
    if let Some(got) = record.value("encode", &case, download(device, &z))? {
        // The product before the normalisation, and the rounding of what is stored.
        record.matrix("encode", &case, &got, &download(oracle, &wz)?, limit + arithmetic.stored());
    }
    record.error("encode", &format!("{case}, norms"), relative_list(&norms, &wn), limit);

    let gradient = random(p.n_x, p.r, 77);
    let Some(g) = record.value("encode_backward", &case, upload(device, gradient.as_ref()))? else {
        return Ok(());
    };
    let Some(got) = record.value("encode_backward", &case, device.encode_backward(x, &z, &norms, &g))? else {
        return Ok(());
    };
    let want = oracle.encode_backward(ox, &wz, &wn, &upload(oracle, gradient.as_ref())?)?;
    // z enters as it is stored.
    record.matrix("encode_backward", &case, &got, &want, 4.0 * limit + arithmetic.rows(p.n_x));
    Ok(())
}
