//! Zero-shot classification: each sample's class is the class embedding most similar to it.

use super::bootstrap::Bootstrap;
use super::ranking::{Classes, RecallOptions};
use super::{check_ks, search};
use crate::backend::{Backend, Similarity, Standing, Ties};
use crate::error::{Error, Result};
use crate::fit::{download, upload};
use crate::positives::Positives;
use faer::Mat;
use serde::Serialize;

/// Zero-shot classification: each sample's class is the class embedding most similar to it.
///
/// # Errors
/// As [`search`].
pub fn zero_shot<B: Backend>(backend: &B, samples: &B::Matrix, classes: &B::Matrix) -> Result<Vec<u32>> {
    Ok(search(backend, samples, classes, 1)?.indices)
}

/// One embedding a class from several (prompts, views): `of[i]` is the class of row `i`. A class's is the mean of its
/// rows' (unit) embeddings, normalised again; where they cancel out it is zero.
///
/// # Errors
/// [`Error::InvalidArgument`] unless there is a class for every row and a row for every class from 0 to the highest;
/// those of the backend.
pub fn class_embeddings<B: Backend>(backend: &B, z: &B::Matrix, of: &[u32]) -> Result<B::Matrix> {
    let (n, r) = backend.shape(z);
    if of.len() != n {
        return Err(Error::invalid("class groups", format!("{n} classes, one a row"), of.len()));
    }
    let classes = of.iter().max().map_or(0, |&c| c as usize + 1);
    let mut rows = vec![0usize; classes.min(n + 1)];
    for &c in of.iter().filter(|&&c| (c as usize) <= n) {
        rows[c as usize] += 1;
    }
    if let Some(c) = rows.iter().position(|&rows| rows == 0) {
        let expected = format!("a row for each of the classes 0 to {}", classes - 1);
        return Err(Error::invalid("class groups", expected, format!("none for class {c}")));
    }
    let (z, mut sums) = (download(backend, z)?, Mat::<f64>::zeros(classes, r));
    for (i, &c) in of.iter().enumerate() {
        (0..r).for_each(|k| sums[(c as usize, k)] += z[(i, k)]);
    }
    for c in 0..classes {
        let norm = sums.row(c).norm_l2();
        // What is left of unit rows that cancel out is rounding.
        let cancelled = norm <= 1e-6 * rows[c] as f64;
        (0..r).for_each(|k| sums[(c, k)] = if cancelled { 0.0 } else { sums[(c, k)] / norm });
    }
    upload(backend, sums.as_ref())
}

/// How well samples were classified.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ZeroShot {
    /// The values of k.
    pub ks: Vec<usize>,
    /// What classes of equal score did.
    pub ties: Ties,
    /// Share of samples whose class is among the k most similar ones.
    pub accuracy: Vec<f64>,
    /// Confidence intervals of these, where they were asked for.
    pub intervals: Option<Vec<[f64; 2]>>,
    /// Share of each class's samples that were classified right; none for a class without samples.
    pub class_accuracy: Vec<Option<f64>>,
    /// Mean of those: what [`accuracy`](Self::accuracy) at 1 would be if all classes were equally frequent.
    pub balanced_accuracy: f64,
    /// Samples whose class is exactly as similar as another one.
    pub tied: usize,
    /// The class of each sample; of equal ones the lowest.
    pub predictions: Vec<u32>,
}

/// Classifies samples (`n x r`) by class embeddings (`c x r`) and compares with their classes, `labels`.
///
/// # Errors
/// [`Error::InvalidArgument`] when there are not as many labels as samples, a label is no class, or for an empty list of
/// k or a k of 0; as [`search`].
pub fn zero_shot_accuracy<B: Backend>(
    backend: &B,
    samples: &B::Matrix,
    classes: &B::Matrix,
    labels: &[u32],
    options: &RecallOptions,
) -> Result<ZeroShot> {
    let (ks, ties) = (&options.ks, options.ties);
    check_ks(ks)?;
    options.bootstrap.as_ref().map_or(Ok(()), Bootstrap::validate)?;
    if options.exclude_self {
        return Err(Error::invalid("exclude_self", "retrieval of a set in itself", "classes"));
    }
    let (n, class_count) = (backend.shape(samples).0, backend.shape(classes).0);
    if labels.len() != n {
        return Err(Error::invalid("labels", format!("{n} classes, one a sample"), labels.len()));
    }
    if let Some(l) = labels.iter().find(|&&l| l as usize >= class_count) {
        return Err(Error::invalid("labels", format!("classes in 0..{class_count}"), l));
    }
    let predictions = zero_shot(backend, samples, classes)?;
    let indptr: Vec<i64> = (0..=n as i64).collect();
    let right: Vec<i64> = labels.iter().map(|&l| i64::from(l)).collect();
    let positives = Positives::from_csr(&indptr, &right, class_count)?;
    let standings = backend.standings(Similarity::Embeddings(samples, classes), &positives, false)?;
    if let Some(i) = standings.iter().position(|s| !s.is_found()) {
        return Err(Error::Numerical(format!("the similarity of sample {i} to its class is not a number")));
    }
    let mut of_class = vec![(0.0, 0usize); class_count];
    for (&label, standing) in labels.iter().zip(&standings) {
        let (hits, all) = &mut of_class[label as usize];
        (*hits, *all) = (*hits + standing.hit(1, ties), *all + 1);
    }
    let class_accuracy: Vec<Option<f64>> =
        of_class.iter().map(|&(hits, all)| (all > 0).then(|| hits / all as f64)).collect();
    let seen: Vec<f64> = class_accuracy.iter().copied().flatten().collect();
    let kinds = Classes::new(&standings);
    let hit = |k: usize| move |s: &Standing| s.hit(k, ties);
    let intervals = |b: &Bootstrap| {
        let values: Vec<Vec<f64>> = ks.iter().map(|&k| kinds.values(hit(k))).collect();
        b.means(backend, &kinds.of, &values)
    };
    Ok(ZeroShot {
        ks: ks.clone(),
        ties,
        accuracy: ks.iter().map(|&k| kinds.mean(hit(k))).collect(),
        intervals: options.bootstrap.as_ref().map(intervals).transpose()?,
        balanced_accuracy: seen.iter().sum::<f64>() / seen.len() as f64,
        class_accuracy,
        tied: kinds.count(|s| s.tied > 0),
        predictions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::io::HostMatrix;

    #[test]
    fn samples_take_the_class_most_similar_to_them() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let load = |rows: &[[f64; 2]]| {
            cpu.load(&HostMatrix::from_f64("z", rows.len(), 2, rows.concat()).unwrap()).unwrap()
        };
        // Class 1 and 3 are the same; the lower index is taken.
        let classes = load(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]]);
        let samples = load(&[[0.8, 0.6], [0.6, 0.8], [-0.6, 0.8], [0.0, 1.0]]);
        assert_eq!(zero_shot(&cpu, &samples, &classes).unwrap(), [0, 1, 1, 1]);
        let options = RecallOptions { ties: Ties::LowerIndex, ..RecallOptions::new(&[1, 2, 3, 9]) };
        let shot = zero_shot_accuracy(&cpu, &samples, &classes, &[0, 0, 2, 3], &options).unwrap();
        assert_eq!(shot.predictions, [0, 1, 1, 1]);
        assert_eq!(shot.accuracy, [0.25, 0.5, 1.0, 1.0]);
        assert_eq!(shot.tied, 1);
        // The last sample's class is first or second with equal probability; chance where all classes are equal.
        let expected = RecallOptions::new(&[1, 2]);
        let shot2 = zero_shot_accuracy(&cpu, &samples, &classes, &[0, 0, 2, 3], &expected).unwrap();
        assert_eq!(shot2.accuracy, [0.375, 0.5]);
        let same = load(&[[0.6, 0.8]; 4]);
        let chance = zero_shot_accuracy(&cpu, &samples, &same, &[0, 0, 2, 3], &expected).unwrap();
        assert_eq!((chance.accuracy, chance.balanced_accuracy, chance.tied), (vec![0.25, 0.5], 0.25, 4));
        assert_eq!(shot.class_accuracy, [Some(0.5), None, Some(0.0), Some(0.0)]);
        // (1/2 + 0 + 0) / 3, one rounding.
        assert!((shot.balanced_accuracy - 1.0 / 6.0).abs() < 1e-15);
        for (labels, ks) in [(&[0u32, 0, 2][..], &[1usize][..]), (&[0, 0, 2, 4], &[1]), (&[0, 0, 2, 3], &[0])]
        {
            let e = zero_shot_accuracy(&cpu, &samples, &classes, labels, &RecallOptions::new(ks));
            assert!(matches!(e, Err(Error::InvalidArgument { .. })), "{labels:?} {ks:?}");
        }
    }

    #[test]
    fn classes_of_several_prompts_are_their_normalised_mean() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let z = HostMatrix::from_f64("z", 5, 2, vec![1., 0., 0., 1., 0.6, 0.8, 1., 0., -1., 0.]).unwrap();
        let z = cpu.load(&z).unwrap();
        let c = download(&cpu, &class_embeddings(&cpu, &z, &[1, 1, 0, 2, 2]).unwrap()).unwrap();
        let half = 0.5f64.sqrt();
        let want = [[0.6, 0.8], [half, half], [0.0, 0.0]];
        assert!((0..3).all(|i| (0..2).all(|k| (c[(i, k)] - want[i][k]).abs() < 1e-15)), "{c:?}");
        for bad in [&[0u32, 0, 0][..], &[0, 0, 0, 0, 2], &[u32::MAX; 5]] {
            assert!(matches!(class_embeddings(&cpu, &z, bad), Err(Error::InvalidArgument { .. })), "{bad:?}");
        }
    }
}
