//! Ranks, ties and search: what equal items, items that are not numbers and long lists do.

use crate::ffi::{STRICT, built, have, python_script, python_with, root, run};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::process::Command;
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity, Standing, Ties};
use unicon::io::HostMatrix;
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::retrieval::{
    Bootstrap, Items, Ranking, RecallOptions, evaluate, matching_accuracy, search, search_others,
    zero_shot_accuracy,
};

const TIES: [Ties; 4] = [Ties::LowerIndex, Ties::Optimistic, Ties::Pessimistic, Ties::Expected];

fn matrix(rows: usize, values: Vec<f64>) -> HostMatrix {
    HostMatrix::from_f64("z", rows, values.len() / rows, values).unwrap()
}

/// All orders of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert = |order: Vec<usize>| {
        (0..n).map(move |at| {
            let mut order = order.clone();
            order.insert(at, n - 1);
            order
        })
    };
    orders(n - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn expected_ranks_are_means_over_all_orders_of_equal_items() {
    for (ahead, tied, positives) in
        (0..3).flat_map(|a| (0..5).flat_map(move |t| (1..4).map(move |p| (a, t, p))))
    {
        let s = Standing { ahead, tied, tied_before: 0, positives };
        let all = orders((tied + positives) as usize);
        // Items below `positives` are right; the first of them decides.
        let ranks: Vec<f64> = all
            .iter()
            .map(|order| {
                let first = order.iter().position(|&item| item < positives as usize).unwrap();
                f64::from(ahead) + first as f64 + 1.0
            })
            .collect();
        let mean = |f: &dyn Fn(f64) -> f64| ranks.iter().map(|&r| f(r)).sum::<f64>() / ranks.len() as f64;
        for k in 1..10 {
            let want = mean(&|r| f64::from(u8::from(r <= k as f64)));
            assert!((s.hit(k, Ties::Expected) - want).abs() < 1e-13, "{s:?} {k}");
        }
        assert!((s.rank(Ties::Expected).unwrap() - mean(&|r| r)).abs() < 1e-12, "{s:?}");
        assert!((s.reciprocal(Ties::Expected) - mean(&|r| 1.0 / r)).abs() < 1e-13, "{s:?}");
        let (best, worst) =
            (ranks.iter().copied().fold(9e9, f64::min), ranks.iter().copied().fold(0.0, f64::max));
        assert_eq!((s.rank(Ties::Optimistic), s.rank(Ties::Pessimistic)), (Some(best), Some(worst)), "{s:?}");
    }
    // Many equal items: the sums have closed forms.
    let s = Standing { ahead: 4, tied: 99_999, tied_before: 7, positives: 1 };
    let want = (5..=100_004).rev().map(|i| 1.0 / f64::from(i)).sum::<f64>() / 100_000.0;
    assert!((s.reciprocal(Ties::Expected) - want).abs() < 1e-14 * want);
    assert_eq!(s.hit(104, Ties::Expected), 0.001);
}

/// Rows that are one of three directions: similarities are exactly 0 or 1, so nearly everything is tied.
fn directions(n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut values = Vec::new();
    for _ in 0..n {
        let one = rng.random_range(0..3);
        values.extend((0..3).map(|k| f64::from(u8::from(k == one))));
    }
    values
}

#[test]
fn every_rule_is_what_sorting_in_every_order_gives() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let all = orders(5);
    for case in 0..40 {
        let exclude_self = case % 2 == 1;
        let (x, y) = (directions(5, &mut rng), directions(5, &mut rng));
        let mut pairs: Vec<(usize, usize)> = (0..5)
            .flat_map(|i| (0..5).map(move |j| (i, j)))
            .filter(|_| rng.random_range(0..3) == 0)
            .collect();
        pairs.extend([(0, 1), (3, 3)]);
        pairs.sort_unstable();
        pairs.dedup();
        let (mut ptr, mut idx) = (vec![0i64], Vec::new());
        for i in 0..5 {
            idx.extend(pairs.iter().filter(|p| p.0 == i).map(|p| p.1 as i64));
            ptr.push(idx.len() as i64);
        }
        let positives = Positives::from_csr(&ptr, &idx, 5).unwrap();
        let cpu = Cpu::<f64>::new(1).unwrap();
        let (zx, zy) = (cpu.load(&matrix(5, x.clone())).unwrap(), cpu.load(&matrix(5, y.clone())).unwrap());
        let ranking = Ranking::new(&cpu, &zx, &zy, &positives, exclude_self).unwrap();
        let dot = |a: &[f64], b: &[f64], i: usize, j: usize| {
            (0..3).map(|k| a[3 * i + k] * b[3 * j + k]).sum::<f64>()
        };
        for (way, (a, b)) in [(&x, &y), (&y, &x)].into_iter().enumerate() {
            let right = |i: usize, j: usize| {
                if way == 0 { positives.contains(i, j) } else { positives.contains(j, i) }
            };
            // Ranks of every query in every order of the items.
            let ranks: Vec<Vec<Option<usize>>> = (0..5)
                .map(|i| {
                    let rank = |order: &Vec<usize>| {
                        let mut items: Vec<usize> =
                            order.iter().copied().filter(|&j| !(exclude_self && i == j)).collect();
                        items.sort_by(|&p, &q| dot(a, b, i, q).total_cmp(&dot(a, b, i, p)));
                        items.iter().position(|&j| right(i, j)).map(|at| at + 1)
                    };
                    all.iter().map(rank).collect()
                })
                .collect();
            for ties in TIES {
                let of = |ranks: &Vec<Option<usize>>, f: &dyn Fn(usize) -> f64| -> Option<f64> {
                    let known: Vec<usize> = ranks.iter().copied().collect::<Option<_>>()?;
                    Some(match ties {
                        Ties::LowerIndex => f(*known.last().unwrap()),
                        Ties::Optimistic => f(*known.iter().min().unwrap()),
                        Ties::Pessimistic => f(*known.iter().max().unwrap()),
                        Ties::Expected => known.iter().map(|&r| f(r)).sum::<f64>() / known.len() as f64,
                    })
                };
                // The identity is the last order made.
                assert_eq!(all.last().unwrap(), &[0, 1, 2, 3, 4]);
                let recall = ranking.recall(&[1, 2, 3, 9], ties).unwrap();
                let got = [&recall.x_to_y, &recall.y_to_x][way];
                for (at, &k) in [1, 2, 3, 9].iter().enumerate() {
                    let hit = |r: &Vec<Option<usize>>| of(r, &|r| f64::from(u8::from(r <= k))).unwrap_or(0.0);
                    let want = ranks.iter().map(hit).sum::<f64>() / 5.0;
                    assert!(
                        (got[at] - want).abs() < 1e-13,
                        "case {case}, {way}, {ties:?}, k {k}: {} {want}",
                        got[at]
                    );
                }
                let want = ranks.iter().map(|r| of(r, &|r| 1.0 / r as f64).unwrap_or(0.0)).sum::<f64>() / 5.0;
                assert!((recall.mrr[way] - want).abs() < 1e-13, "case {case}, {way}, {ties:?}");
                let mut known: Vec<f64> = ranks.iter().filter_map(|r| of(r, &|r| r as f64)).collect();
                known.sort_by(f64::total_cmp);
                let (n, mean) = (known.len(), known.iter().sum::<f64>() / known.len().max(1) as f64);
                let median = |_: ()| 0.5 * (known[(n - 1) / 2] + known[n / 2]);
                let near = |a: Option<f64>, b: Option<f64>| match (a, b) {
                    (Some(a), Some(b)) => (a - b).abs() < 1e-12,
                    (a, b) => a.is_none() && b.is_none(),
                };
                assert!(near(recall.mean_rank[way], (n > 0).then_some(mean)), "case {case}, {way}, {ties:?}");
                assert!(
                    near(recall.median_rank[way], (n > 0).then_some(()).map(median)),
                    "case {case}, {way}"
                );
                let tied = ranks.iter().filter(|r| r.iter().any(|v| *v != r[0])).count();
                assert_eq!(recall.tied[way], tied, "case {case}, {way}");
            }
        }
    }
}

fn constant_is_chance<T: Real>() {
    let cpu = Cpu::<T>::new(2).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let n = 600;
    let same = cpu.load(&matrix(n, [0.6, 0.0, 0.8].repeat(n))).unwrap();
    let other = cpu.load(&matrix(n, directions(n, &mut rng))).unwrap();
    for (zx, zy) in [(&same, &same), (&other, &same)] {
        let positives = Positives::diagonal(n);
        let got = evaluate(&cpu, zx, zy, &positives, &RecallOptions::new(&[1, 6, 600])).unwrap();
        let near = |got: &[f64]| [1.0 / 600.0, 0.01, 1.0].iter().zip(got).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near(&got.x_to_y), "{got:?}");
        assert!((got.matching_accuracy - 1.0 / 600.0).abs() < 1e-12);
        assert_eq!((got.tied[0], got.median_rank[0]), (n, Some(300.5)));
        let s = Similarity::Embeddings(zx, zy);
        assert!((matching_accuracy(&cpu, s, &positives).unwrap() - 1.0 / 600.0).abs() < 1e-12);
    }
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
    let classes = cpu.load(&matrix(3, [0.6, 0.0, 0.8].repeat(3))).unwrap();
    let shot = zero_shot_accuracy(&cpu, &same, &classes, &labels, &RecallOptions::new(&[1, 2])).unwrap();
    assert!((shot.accuracy[0] - 1.0 / 3.0).abs() < 1e-12 && (shot.accuracy[1] - 2.0 / 3.0).abs() < 1e-12);
}

#[test]
fn items_that_are_all_equal_give_chance() {
    constant_is_chance::<f32>();
    constant_is_chance::<f64>();
}

fn nan_is_no_hit<T: Real>() {
    let cpu = Cpu::<T>::new(1).unwrap();
    let nan = f64::NAN;
    // A wrong item that is not a number stands behind; a positive that is none is not found.
    let s = cpu.load(&matrix(3, vec![0.5, nan, nan, nan, nan, 0.1, 0.3, 0.2, nan])).unwrap();
    let found = cpu.standings(Similarity::Dense(&s), &Positives::diagonal(3), false).unwrap();
    assert_eq!(found[0], Standing { ahead: 0, tied: 0, tied_before: 0, positives: 1 });
    assert!(!found[1].is_found() && !found[2].is_found(), "{found:?}");
    for ties in TIES {
        assert_eq!(found[1].hit(3, ties), 0.0);
    }
    assert!(
        (matching_accuracy(&cpu, Similarity::Dense(&s), &Positives::diagonal(3)).unwrap() - 1.0 / 3.0).abs()
            < 1e-15
    );
    // Of several positives those that are numbers count.
    let both = Positives::from_csr(&[0, 2, 4, 5], &[0, 1, 1, 2, 0], 3).unwrap();
    let found = cpu.standings(Similarity::Dense(&s), &both, false).unwrap();
    assert_eq!(found.map_ahead(), [Some(0), Some(0), Some(0)]);
    // In embeddings it is an error that names the query; the backend's own list has it last.
    for queries in [1, 3, 20] {
        let mut values: Vec<f64> = (0..2 * queries).map(|i| (i as f64).cos()).collect();
        let items = cpu.load(&matrix(4, vec![1.0, 0.0, nan, 0.0, 0.0, 1.0, -1.0, 0.0])).unwrap();
        let q = cpu.load(&matrix(queries, values.clone())).unwrap();
        let top = cpu.top_k(&q, &items, 4).unwrap();
        for (indices, scores) in top.indices.chunks(4).zip(top.scores.chunks(4)) {
            assert!(
                indices[3] == 1 && scores[3].is_nan() && scores[..3].is_sorted_by(|a, b| a >= b),
                "{top:?}"
            );
        }
        assert!(!search(&cpu, &q, &items, 1).unwrap().indices.contains(&1));
        assert!(matches!(search(&cpu, &q, &items, 4), Err(Error::Numerical(_))));
        values[0] = nan;
        let q = cpu.load(&matrix(queries, values)).unwrap();
        let text = search(&cpu, &q, &items, 2).unwrap_err().to_string();
        assert!(text.contains("query 0") && text.contains("NaN") && !text.contains('\n'), "{text}");
        let positives = Positives::from_groups(&vec![1; queries], &[1, 2, 3, 4]).unwrap();
        let e = Ranking::new(&cpu, &q, &items, &positives, false).unwrap_err();
        assert!(matches!(&e, Error::Numerical(text) if text.contains("row 0 of x")), "{e}");
    }
    // The items of a handle are checked when they come, queries when they do, by row and column.
    let bad = HostMatrix::from_f64("items", 2, 2, vec![1.0, 0.0, 0.0, nan]).unwrap();
    let text = Items::new(cpu.clone(), &bad).unwrap_err().to_string();
    assert!(text.contains("items") && text.contains("row 1, column 1"), "{text}");
    let items = Items::new(cpu, &matrix(2, vec![1.0, 0.0, 0.0, 1.0])).unwrap();
    let text = items.search(&bad, 1).unwrap_err().to_string();
    assert!(text.contains("row 1, column 1"), "{text}");
}

trait Ahead {
    fn map_ahead(&self) -> Vec<Option<u32>>;
}

impl Ahead for Vec<Standing> {
    fn map_ahead(&self) -> Vec<Option<u32>> {
        self.iter().map(|s| s.is_found().then_some(s.ahead)).collect()
    }
}

#[test]
fn what_is_not_a_number_never_ranks() {
    nan_is_no_hit::<f32>();
    nan_is_no_hit::<f64>();
}

/// The order by the definition: falling scores, of equal ones the lower index.
fn sorted(scores: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    // Both zeros are equal.
    let of = |i: u32| scores[i as usize] + 0.0;
    order.sort_by(|&a, &b| of(b).total_cmp(&of(a)).then(a.cmp(&b)));
    order
}

fn lists_are_sorted<T: Real>() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    // Few distinct values, exact in every type: ties by the hundred.
    let mut small = |n: usize, r: usize| -> Vec<f64> {
        (0..n * r).map(|_| f64::from(rng.random_range(-2..3)) / 4.0).collect()
    };
    for (n, m, r) in
        [(1, 1, 1), (1, 1300, 3), (2, 513, 2), (8, 700, 5), (9, 700, 5), (600, 1100, 3), (3, 40, 17)]
    {
        let (q, i) = (small(n, r), small(m, r));
        let score = |a: usize, b: usize| (0..r).map(|k| q[a * r + k] * i[b * r + k]).sum::<f64>();
        let (one, two) = (Cpu::<T>::new(1).unwrap(), Cpu::<T>::new(3).unwrap());
        let load = |cpu: &Cpu<T>| {
            (cpu.load(&matrix(n, q.clone())).unwrap(), cpu.load(&matrix(m, i.clone())).unwrap())
        };
        let ((q1, i1), (q2, i2)) = (load(&one), load(&two));
        for k in [1, 2, 10, 63, 65, m / 2, m - 1, m, m + 5].into_iter().filter(|k| *k > 0) {
            let top = search(&one, &q1, &i1, k).unwrap();
            assert_eq!(top, search(&two, &q2, &i2, k).unwrap(), "threads show: {n} {m} {k}");
            assert_eq!(top.k, k.min(m));
            for (a, list) in top.indices.chunks(top.k).enumerate() {
                let scores: Vec<f64> = (0..m).map(|b| score(a, b)).collect();
                assert_eq!(list, &sorted(&scores)[..top.k], "{n} {m} {r}, k {k}, query {a}");
                for (place, &b) in list.iter().enumerate() {
                    assert_eq!(f64::from(top.scores[a * top.k + place]), scores[b as usize]);
                }
            }
            let items = Items::new(two.clone(), &matrix(m, i.clone())).unwrap();
            assert_eq!(items.search(&matrix(n, q.clone()), k).unwrap(), top, "resident items");
        }
    }
}

#[test]
fn lists_of_any_length_are_those_of_a_full_sort() {
    lists_are_sorted::<f32>();
    lists_are_sorted::<f64>();
}

#[test]
fn a_few_queries_find_what_many_find() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut unit = |n: usize| -> Vec<f64> { (0..n * 32).map(|_| rng.random_range(-0.2..0.2)).collect() };
    let (q, i) = (unit(40), unit(3000));
    let cpu = Cpu::<f32>::new(2).unwrap();
    let items = Items::new(cpu, &matrix(3000, i)).unwrap();
    let all = items.search(&matrix(40, q.clone()), 25).unwrap();
    for count in [1, 5, 8] {
        let few = items.search(&matrix(count, q[..count * 32].to_vec()), 25).unwrap();
        // Products of another order of additions: equal to rounding of float32, places may differ where scores do not.
        for at in 0..count * 25 {
            assert!((few.scores[at] - all.scores[at]).abs() < 1e-6);
        }
        let same = few.indices.iter().zip(&all.indices).filter(|(a, b)| a == b).count();
        assert!(same * 100 >= 98 * count * 25, "{same}");
    }
    // Copies of one item tie exactly wherever they stand.
    let one: Vec<f64> = (0..32).map(|k| (f64::from(k) * 0.7).sin()).collect();
    let copies = Items::new(Cpu::<f32>::new(2).unwrap(), &matrix(1003, one.repeat(1003))).unwrap();
    for queries in [1, 30] {
        let top = copies.search(&matrix(queries, q[..queries * 32].to_vec()), 700).unwrap();
        assert!(top.indices.chunks(700).all(|list| list.iter().copied().eq(0..700)));
    }
}

#[test]
fn a_query_never_finds_itself() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let cpu = Cpu::<f64>::new(2).unwrap();
    let values = directions(300, &mut rng);
    let z = cpu.load(&matrix(300, values.clone())).unwrap();
    let score = |i: usize, j: usize| (0..3).map(|k| values[3 * i + k] * values[3 * j + k]).sum::<f64>();
    for k in [1, 50, 298, 299, 1000] {
        let top = search_others(&cpu, &z, &z, k, 0).unwrap();
        assert_eq!(top.k, k.min(299));
        for (i, list) in top.indices.chunks(top.k).enumerate() {
            let scores: Vec<f64> = (0..300).map(|j| score(i, j)).collect();
            let want: Vec<u32> = sorted(&scores).into_iter().filter(|&j| j as usize != i).take(k).collect();
            assert_eq!(list, want, "query {i}");
        }
    }
    // Some rows of the set, by their first number.
    let part = cpu.load(&matrix(20, values[3 * 100..3 * 120].to_vec())).unwrap();
    let top = search_others(&cpu, &part, &z, 5, 100).unwrap();
    assert_eq!(top.indices, search_others(&cpu, &z, &z, 5, 0).unwrap().indices[500..600]);
    for (queries, items, first) in [(&z, &part, 0), (&part, &z, 281), (&part, &z, usize::MAX)] {
        assert!(matches!(search_others(&cpu, queries, items, 5, first), Err(Error::InvalidArgument { .. })));
    }
    let one = cpu.load(&matrix(1, vec![1.0, 0.0, 0.0])).unwrap();
    assert!(search_others(&cpu, &one, &one, 1, 0).is_err());
    // Without another match there is nothing to find.
    let e = Ranking::new(&cpu, &z, &z, &Positives::diagonal(300), true).unwrap_err().to_string();
    assert!(e.contains("other than the row itself"), "{e}");
}

#[test]
fn intervals_repeat_and_differences_are_paired() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let n = 400;
    let mut noisy = |of: &[f64], noise: f64| -> Vec<f64> {
        of.iter().map(|v| v + noise * rng.random_range(-1.0..1.0)).collect()
    };
    let latent = noisy(&vec![0.0; n * 6], 1.0);
    let (x, y, worse) = (noisy(&latent, 0.6), noisy(&latent, 0.6), noisy(&latent, 0.9));
    let unit = |v: Vec<f64>| {
        let norm = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.chunks(6).flat_map(|row| row.iter().map(move |v| v / norm(row))).collect::<Vec<f64>>()
    };
    let (one, two) = (Cpu::<f64>::new(1).unwrap(), Cpu::<f64>::new(2).unwrap());
    let positives = Positives::diagonal(n);
    let options = RecallOptions {
        bootstrap: Some(Bootstrap { seed: 9, ..Bootstrap::default() }),
        ..RecallOptions::new(&[1, 5])
    };
    let of = |cpu: &Cpu<f64>, options: &RecallOptions| {
        let load = |v: &[f64]| cpu.load(&matrix(n, unit(v.to_vec()))).unwrap();
        evaluate(cpu, &load(&x), &load(&y), &positives, options).unwrap()
    };
    let first = of(&one, &options);
    assert_eq!(first, of(&two, &options), "threads show");
    let another = RecallOptions { bootstrap: Some(Bootstrap::default()), ..options.clone() };
    assert_ne!(first.intervals, of(&one, &another).intervals);
    let i = first.intervals.as_ref().unwrap();
    for (shares, intervals) in [(&first.x_to_y, &i.x_to_y), (&first.y_to_x, &i.y_to_x)] {
        for (&share, &[low, high]) in shares.iter().zip(intervals) {
            // The normal approximation of a share of n queries, to a quarter: the ends of 1,000 resamples are that exact.
            let half = 1.96 * (share * (1.0 - share) / n as f64).sqrt();
            assert!(
                (share - low - half).abs() < 0.25 * half && (high - share - half).abs() < 0.25 * half,
                "{low} {share} {high}"
            );
        }
    }
    let ranking = |v: &[f64]| {
        let load = |v: &[f64]| two.load(&matrix(n, unit(v.to_vec()))).unwrap();
        Ranking::new(&two, &load(&x), &load(v), &positives, false).unwrap()
    };
    let (good, bad, b) = (ranking(&y), ranking(&worse), Bootstrap::default());
    let gain = good.gain(&two, &bad, 1, Ties::Expected, &b).unwrap();
    let mean = |r: &Ranking| {
        let r = r.recall(&[1], Ties::Expected).unwrap();
        0.5 * (r.x_to_y[0] + r.y_to_x[0])
    };
    assert!((gain.mean - (mean(&good) - mean(&bad))).abs() < 1e-12 && gain.mean > 0.02);
    assert!(gain.interval[0] < gain.mean && gain.mean < gain.interval[1]);
    let none = good.gain(&two, &good, 1, Ties::Expected, &b).unwrap();
    assert_eq!((none.mean, none.interval), (0.0, [0.0, 0.0]));
    for bad in [Bootstrap { resamples: 1, ..b }, Bootstrap { level: 0.0, ..b }] {
        let options = RecallOptions { bootstrap: Some(bad), ..RecallOptions::new(&[1]) };
        let z = two.load(&matrix(n, unit(x.clone()))).unwrap();
        assert!(matches!(evaluate(&two, &z, &z, &positives, &options), Err(Error::InvalidArgument { .. })));
    }
}

#[test]
fn duplicates_in_any_order_have_one_expected_recall() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    // 40 distinct rows, each three times: the same set in another order has the same figures by expectation, not by index.
    let distinct: Vec<f64> = (0..40 * 4).map(|_| rng.random_range(-1.0..1.0)).collect();
    let mut order: Vec<usize> = (0..120).collect();
    let cpu = Cpu::<f64>::new(1).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let rows: Vec<f64> =
            order.iter().flat_map(|&i| distinct[4 * (i % 40)..4 * (i % 40) + 4].to_vec()).collect();
        let z = cpu.load(&unicon::io::UnitRows::new(matrix(120, rows))).unwrap();
        let r = evaluate(&cpu, &z, &z, &Positives::diagonal(120), &RecallOptions::new(&[1, 2, 3])).unwrap();
        assert_eq!(r.tied, [120, 120]);
        assert!(
            r.x_to_y.iter().zip([1.0 / 3.0, 2.0 / 3.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-12),
            "{r:?}"
        );
        seen.push((r.x_to_y, r.mrr));
        order.shuffle(&mut rng);
    }
    assert!(seen.windows(2).all(|w| (w[0].1[0] - w[1].1[0]).abs() < 1e-12));
}

#[test]
fn python_ranks_and_resident_items() {
    if let Some(python) = python_with("numpy") {
        print!("{}", run(&mut python_script(python, "tests/people/bindings/ranks.py")));
    }
}

#[test]
fn cpp_ranks_and_resident_items() {
    if !have("g++", "g++") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["libunicon.so", "libunicon.so.1"] {
        std::os::unix::fs::symlink(built().join("libunicon.so"), dir.path().join(name)).unwrap();
    }
    let program = dir.path().join("ranks");
    let mut command = Command::new("g++");
    command.arg("-std=c++17").args(STRICT).arg("-I").arg(root().join("include"));
    command.arg(root().join("tests/people/bindings/ranks.cpp")).arg("-o").arg(&program);
    command.arg("-L").arg(dir.path()).arg("-lunicon").arg(format!("-Wl,-rpath,{}", dir.path().display()));
    run(&mut command);
    print!("{}", run(&mut Command::new(&program)));
}
