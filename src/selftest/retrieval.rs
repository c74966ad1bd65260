//! Search, ranks and the similarities of positive pairs.

use super::problem::Problem;
use super::record::Record;
use crate::backend::cpu::Cpu;
use crate::backend::{Arithmetic, Backend, Similarity, Standing, TopK};
use crate::error::Result;
use crate::fit::{download, upload};
use crate::positives::Positives;
use faer::Mat;

pub(super) fn check<B: Backend>(
    device: &B,
    oracle: &Cpu<f64>,
    p: &Problem,
    record: &mut Record,
) -> Result<()> {
    let case = p.to_string();
    let made = || -> Result<_> {
        let (x, y) = (upload(device, p.x.as_ref())?, upload(device, p.y.as_ref())?);
        let (zx, zy) = (device.encode(&x, p.f.as_ref())?.0, device.encode(&y, p.g.as_ref())?.0);
        let s = download(device, &zx)? * download(device, &zy)?.transpose();
        Ok((zx, zy, s))
    };
    let Some((zx, zy, s)) = record.value("search", &case, made())? else { return Ok(()) };
    // Scores are f32 in every mode, and of the embeddings as they are stored: on CUDA in two 16-bit parts, and what is
    // left out, the product of the remainders, is up to 2^-18 with bfloat16.
    let remainders = if device.arithmetic() == Arithmetic::Bf16 { 2f64.powi(-18) } else { 0.0 };
    let near = 8.0 * Arithmetic::F32.sums() + remainders;
    for k in [1, 5, 33, p.n_y + 2] {
        if let Some(top) = record.value("search", &case, device.top_k(&zx, &zy, k))? {
            record.error("search", &format!("{case}, k {k}"), wrong_places(&top, &s, k, near), 0.0);
        }
    }
    for &relation in &p.relations {
        let positives = p.positives(relation)?;
        let case = format!("{case}, {relation:?}");
        let pair = Similarity::Embeddings(&zx, &zy);
        let found = device.positive_similarities(pair, &positives);
        if let Some(found) = record.value("positive pairs", &case, found)? {
            let want = (0..p.n_x).flat_map(|i| positives.row(i).iter().map(move |&j| (i, j as usize)));
            let want: Vec<f64> = want.map(|at| s[at]).collect();
            let worst = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let error = if found.len() == want.len() { worst } else { f64::INFINITY };
            record.error("positive pairs", &case, error, device.arithmetic().similarity());
        }
        if let Some(found) = record.value("ranks", &case, device.standings(pair, &positives, false))? {
            record.error("ranks", &case, wrong_standings(&found, &s, &positives, near), 0.0);
        }
        // The oracle's ties on exactly equal embeddings, with and without the query itself.
        let o = upload(oracle, (Mat::<f64>::ones(5, 2) * faer::Scale(0.5f64.sqrt())).as_ref())?;
        let same = upload(device, (Mat::<f64>::ones(5, 2) * faer::Scale(0.5f64.sqrt())).as_ref())?;
        for (five, exclude_self) in [
            (Positives::diagonal(5), false),
            (Positives::from_groups(&[0, 1, 1, 0, 2], &[0, 1, 1, 0, 2])?, true),
        ] {
            let got = device.standings(Similarity::Embeddings(&same, &same), &five, exclude_self);
            if let Some(got) = record.value("ranks", "five equal items", got)? {
                let want = oracle.standings(Similarity::Embeddings(&o, &o), &five, exclude_self)?;
                let wrong = got.iter().zip(&want).filter(|(a, b)| a != b).count();
                record.error("ranks", "five equal items", wrong as f64, 0.0);
            }
        }
    }
    Ok(())
}

/// Places of a search result that are wrong beyond rounding: a score that is not its item's, an item out of order or twice,
/// a better item left out, equal scores not by lower index.
fn wrong_places(top: &TopK, s: &Mat<f64>, k: usize, near: f64) -> f64 {
    let (n, m) = (s.nrows(), s.ncols());
    if top.k != k.min(m) || top.scores.len() != n * top.k || top.indices.len() != n * top.k {
        return f64::INFINITY;
    }
    let mut wrong = 0;
    for i in 0..n {
        let row: Vec<f64> = (0..m).map(|j| s[(i, j)]).collect();
        let mut sorted = row.clone();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut seen = vec![false; m];
        for (e, &best) in sorted.iter().take(top.k).enumerate() {
            let at = i * top.k + e;
            let (score, j) = (top.scores[at], top.indices[at] as usize);
            let Some(seen) = seen.get_mut(j) else {
                wrong += 1;
                continue;
            };
            let again = std::mem::replace(seen, true);
            let ordered = e == 0
                || score < top.scores[at - 1]
                || (score == top.scores[at - 1] && top.indices[at - 1] < top.indices[at]);
            let right = (f64::from(score) - row[j]).abs() <= near && (f64::from(score) - best).abs() <= near;
            wrong += usize::from(again || !ordered || !right);
        }
    }
    wrong as f64
}

/// Queries whose standing no order within rounding of the similarities explains.
fn wrong_standings(standings: &[Standing], s: &Mat<f64>, positives: &Positives, near: f64) -> f64 {
    if standings.len() != s.nrows() {
        return f64::INFINITY;
    }
    let wrong = (0..s.nrows()).filter(|&i| {
        let best = positives.row(i).iter().map(|&j| s[(i, j as usize)]).fold(f64::NEG_INFINITY, f64::max);
        let got = standings[i];
        if best == f64::NEG_INFINITY {
            return got != Standing::default();
        }
        let above = |slack: f64| {
            (0..s.ncols()).filter(|&j| !positives.contains(i, j) && s[(i, j)] > best + slack).count()
        };
        let (least, most) = (above(2.0 * near), above(-2.0 * near));
        let first = got.ahead as usize;
        first < least
            || first + got.tied as usize > most
            || got.tied_before > got.tied
            || !(1..=positives.row(i).len()).contains(&(got.positives as usize))
    });
    wrong.count() as f64
}
