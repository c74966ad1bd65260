//! `S(gamma)`: the loss, its coefficients and every product with `S`.

use super::problem::{Problem, Relation, random};
use super::record::{Record, relative, relative_list};
use crate::backend::cpu::Cpu;
use crate::backend::{Arithmetic, Backend, Similarity};
use crate::error::Result;
use crate::fit::{download, upload};
use crate::loss::{Loss, LossKind};
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use crate::similarity::definition::definition;
use faer::Mat;

pub(super) const LOSSES: [LossKind; 4] =
    [LossKind::Clip, LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth];

type Oracle = <Cpu<f64> as Backend>::Matrix;

/// A matrix of the device and the same values in the oracle.
struct Both<M> {
    device: M,
    oracle: Oracle,
    host: Mat<f64>,
}

fn both<B: Backend>(device: &B, oracle: &Cpu<f64>, m: B::Matrix) -> Result<Both<B::Matrix>> {
    let host = download(device, &m)?;
    Ok(Both { device: m, oracle: upload(oracle, host.as_ref())?, host })
}

/// Everything a problem's products need, or why it could not be made.
struct Sides<M> {
    x: Both<M>,
    y: Both<M>,
    zx: Both<M>,
    zy: Both<M>,
}

fn sides<B: Backend>(device: &B, oracle: &Cpu<f64>, p: &Problem) -> Result<Sides<B::Matrix>> {
    let (x, y) = (upload(device, p.x.as_ref())?, upload(device, p.y.as_ref())?);
    let (zx, zy) = (device.encode(&x, p.f.as_ref())?.0, device.encode(&y, p.g.as_ref())?.0);
    Ok(Sides {
        x: both(device, oracle, x)?,
        y: both(device, oracle, y)?,
        zx: both(device, oracle, zx)?,
        zy: both(device, oracle, zy)?,
    })
}

pub(super) fn check<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    p: &Problem,
    record: &mut Record,
) -> Result<()> {
    let Some(sides) = record.value("load, store", &p.to_string(), sides(device, oracle, p))? else {
        return Ok(());
    };
    let s = &sides.zx.host * sides.zy.host.transpose();
    for &relation in &p.relations {
        let positives = p.positives(relation)?;
        for kind in LOSSES {
            for (k, &tau) in p.taus.iter().enumerate() {
                // The hinge knows no temperature.
                if kind == LossKind::TripletHard && k > 0 {
                    continue;
                }
                let mut loss = Loss::new(kind, tau);
                if relation != Relation::Diagonal {
                    loss = Loss { nu: 1.3, eps_pos: 0.7, eps_neg: 1.2, ..loss };
                }
                if kind == LossKind::TripletHard {
                    loss.margin = margin_in_a_gap(&s, &positives, loss.nu);
                }
                let mut samples = vec![NegativeSampling::All];
                if p.n_x > 100 && k == 0 {
                    samples.push(NegativeSampling::Sampled { per_anchor: 40, seed: 5 });
                }
                for negatives in samples {
                    let case = Case { p, relation, loss: loss.clone(), negatives };
                    products(device, oracle, &sides, &positives, &case, record)?;
                }
            }
        }
    }
    Ok(())
}

struct Case<'a> {
    p: &'a Problem,
    relation: Relation,
    loss: Loss,
    negatives: NegativeSampling,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sampled = if self.negatives == NegativeSampling::All { "" } else { ", sampled" };
        write!(f, "{}, {:?}, {:?}, tau {}{sampled}", self.p, self.relation, self.loss.kind, self.loss.tau)
    }
}

fn products<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    sides: &Sides<B::Matrix>,
    positives: &Positives,
    case: &Case<'_>,
    record: &mut Record,
) -> Result<()> {
    let name = case.to_string();
    let arithmetic = device.arithmetic();
    let s = Similarity::Embeddings(&sides.zx.device, &sides.zy.device);
    let os = Similarity::Embeddings(&sides.zx.oracle, &sides.zy.oracle);
    let w = device.weights(s, &case.loss, positives, case.negatives);
    let Some(w) = record.value("loss", &name, w)? else { return Ok(()) };
    let ow = oracle.weights(os, &case.loss, positives, case.negatives)?;
    // Rounded similarities cross the hinge's kink: a few entries of S jump.
    let kink = match (case.loss.kind, arithmetic) {
        (LossKind::TripletHard, Arithmetic::Bf16) => 0.2,
        _ => 0.0,
    };
    let size = ow.loss_rows.abs().max(ow.loss_cols.abs()).max(f64::MIN_POSITIVE);
    let error = (w.loss_rows - ow.loss_rows).abs().max((w.loss_cols - ow.loss_cols).abs()) / size;
    // The smallest losses are differences of larger numbers.
    let floor = if size < 0.1 { 0.1 / size } else { 1.0 };
    record.error("loss", &name, error / floor, arithmetic.loss(case.loss.tau));

    let limit = arithmetic.product(case.loss.tau, case.p.n_x.max(case.p.n_y)) + kink;
    let mut compare = |operation, got: Result<Mat<f64>>, want: Mat<f64>| -> Result<()> {
        if let Some(got) = record.value(operation, &name, got)? {
            record.matrix(operation, &name, &got, &want, limit);
        }
        Ok(())
    };
    let of = |m: Result<B::Matrix>| m.and_then(|m| download(device, &m));
    let (x, y) = (&sides.x, &sides.y);
    // Over all negatives the definition itself is the oracle; where it is sampled, the float64 backend on the same sample.
    let dense = match case.negatives {
        NegativeSampling::All => {
            definition((&sides.zx.host * sides.zy.host.transpose()).as_ref(), &case.loss, positives)?.weights
        }
        NegativeSampling::Sampled { .. } => oracle.dense(os, &ow)?,
    };
    compare("dense", device.dense(s, &w), dense.clone())?;
    compare("apply", of(device.apply(s, &w, &y.device)), &dense * &y.host)?;
    compare("apply_transpose", of(device.apply_transpose(s, &w, &x.device)), dense.transpose() * &x.host)?;
    compare("cross", device.cross(s, &w, &x.device, &y.device), x.host.transpose() * &dense * &y.host)?;
    let gradients = device.gradients(&sides.zx.device, &sides.zy.device, &w);
    let (gx, gy) = match gradients {
        Ok((gx, gy)) => (Ok(gx), Ok(gy)),
        Err(e) => (Err(e), device.gradients(&sides.zx.device, &sides.zy.device, &w).map(|g| g.1)),
    };
    compare("gradients", of(gx), -(&dense * &sides.zy.host))?;
    compare("gradients", of(gy), -(dense.transpose() * &sides.zx.host))
}

/// A margin for which no difference `s_ij - nu s_ik + margin` of a negative is near 0: there the hinge's derivative jumps,
/// and the last bit of a similarity would decide.
fn margin_in_a_gap(s: &Mat<f64>, positives: &Positives, nu: f64) -> f64 {
    let mut kinks = vec![0.1, 0.4];
    let mut see = |thresholds: &mut dyn Iterator<Item = f64>, others: &[f64]| {
        for t in thresholds {
            kinks.extend(others.iter().map(|o| t - o).filter(|m| (0.1..0.4).contains(m)));
        }
    };
    for i in 0..s.nrows() {
        let negatives: Vec<f64> =
            (0..s.ncols()).filter(|&j| !positives.contains(i, j)).map(|j| s[(i, j)]).collect();
        see(&mut positives.row(i).iter().map(|&k| nu * s[(i, k as usize)]), &negatives);
    }
    for j in 0..s.ncols() {
        let negatives: Vec<f64> =
            (0..s.nrows()).filter(|&i| !positives.contains(i, j)).map(|i| s[(i, j)]).collect();
        see(&mut positives.col(j).iter().map(|&k| nu * s[(k as usize, j)]), &negatives);
    }
    kinks.sort_unstable_by(f64::total_cmp);
    let widest = kinks.windows(2).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    widest.map_or(0.25, |gap| (gap[0] + gap[1]) / 2.0)
}

/// Similarities that are all zero, and similarities given explicitly.
pub(super) fn zeros_and_given<B: Backend>(device: &B, oracle: &Cpu<f64>, record: &mut Record) -> Result<()> {
    let (n_x, n_y) = (133, 70);
    let (x, y) = (random(n_x, 11, 1), random(n_y, 14, 2));
    let given = random(n_x, n_y, 3);
    let made = || -> Result<_> {
        let of = |m: &Mat<f64>| both(device, oracle, upload(device, m.as_ref())?);
        Ok((of(&x)?, of(&y)?, of(&given)?))
    };
    let Some((x, y, given)) = record.value("load, store", "133 x 70", made())? else { return Ok(()) };
    let groups = |n: usize| (0..n as i64).map(|i| i % 40).collect::<Vec<_>>();
    let positives = Positives::from_groups(&groups(n_x), &groups(n_y))?;
    let tau = 0.3;
    for kind in LOSSES {
        let mut loss = Loss::new(kind, tau);
        if kind == LossKind::TripletHard {
            loss.margin = margin_in_a_gap(&given.host, &positives, loss.nu);
        }
        let sources = [
            ("zero similarities", Similarity::Zeros(n_x, n_y), Similarity::Zeros(n_x, n_y)),
            ("given similarities", Similarity::Dense(&given.device), Similarity::Dense(&given.oracle)),
        ];
        for (operation, s, os) in sources {
            let case = format!("{n_x} x {n_y}, {kind:?}");
            let w = device.weights(s, &loss, &positives, NegativeSampling::All);
            let Some(w) = record.value(operation, &case, w)? else { continue };
            let ow = oracle.weights(os, &loss, &positives, NegativeSampling::All)?;
            let limit = device.arithmetic().product(tau, n_x);
            record.error(operation, &case, relative_list(&[w.value()], &[ow.value()]), limit);
            let values = match s {
                Similarity::Zeros(..) => Mat::zeros(n_x, n_y),
                _ => given.host.clone(),
            };
            let dense = definition(values.as_ref(), &loss, &positives)?.weights;
            if let Some(got) = record.value(operation, &case, device.dense(s, &w))? {
                record.error(operation, &case, relative(&got, &dense), limit);
            }
            let want = x.host.transpose() * &dense * &y.host;
            if let Some(c) = record.value(operation, &case, device.cross(s, &w, &x.device, &y.device))? {
                record.error(operation, &case, relative(&c, &want), limit);
            }
        }
    }
    Ok(())
}
