//! Several ranks against one: every operation of the CPU backend, and whole fits, must give the same bits.

use faer::Mat;
use rand::{Rng, SeedableRng};
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity, Standing};
use unicon::distributed::{Group, share_rows, threads};
use unicon::fit::{Data, FitOptions, KernelOptions, Landmarks, RefineOptions, fit};
use unicon::io::{HostMatrix, RowRange};
use unicon::kernel::Kernel;
use unicon::loss::{EpsBy, Loss, LossKind};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

fn features(n: usize, d: usize, seed: u64) -> HostMatrix {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values = (0..n * d).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    HostMatrix::from_f32("x", n, d, values).unwrap()
}

fn small(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0))
}

/// A ragged relation: some rows match nothing, some several, and the partners of a row are far apart.
fn ragged(n_x: usize, n_y: usize) -> Positives {
    let (mut indptr, mut indices) = (vec![0i64], Vec::new());
    for i in 0..n_x {
        for k in 0..i % 4 {
            indices.push(((i * 7 + k * (n_y / 3 + 1)) % n_y) as i64);
        }
        indptr.push(indices.len() as i64);
    }
    Positives::from_csr(&indptr, &indices, n_y).unwrap()
}

fn grouped(n_x: usize, n_y: usize) -> Positives {
    let of = |n: usize, step: usize| (0..n).map(|i| (i * step % 97) as i64).collect::<Vec<_>>();
    Positives::from_groups(&of(n_x, 5), &of(n_y, 3)).unwrap()
}

fn bits(m: &Mat<f64>) -> Vec<u64> {
    (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())).collect()
}

fn download<B: Backend>(backend: &B, m: &B::Matrix) -> Vec<u64> {
    let mut out = Vec::new();
    let mut next = 0;
    backend
        .store(m, &mut |first, rows| {
            assert_eq!(first, next);
            next += rows.len() / backend.shape(m).1;
            out.extend(rows.iter().map(|v| v.to_bits()));
            Ok(())
        })
        .unwrap();
    assert_eq!(next, backend.shape(m).0);
    out
}

/// Everything a backend computes from one problem, as bits with names.
fn everything(
    group: Group,
    (n_x, n_y): (usize, usize),
    positives: &Positives,
    loss: &Loss,
    negatives: NegativeSampling,
    start: &str,
) -> Vec<(String, Vec<u64>)> {
    let cpu = Cpu::<f32>::new(2).unwrap().with_group(group);
    let (d1, d2, r) = (19, 23, 8);
    let x = cpu.load(&features(n_x, d1, 1)).unwrap();
    let y = cpu.load(&features(n_y, d2, 2)).unwrap();
    let mut out = Vec::new();
    let mut put = |name: &str, bits: Vec<u64>| out.push((name.to_string(), bits));
    put("gram", bits(&cpu.gram(&x).unwrap()));
    let (zx, norms) = cpu.encode(&x, small(r, d1, 3).as_ref()).unwrap();
    let (zy, _) = cpu.encode(&y, small(r, d2, 4).as_ref()).unwrap();
    let all = cpu.group().concat(norms.clone()).unwrap();
    put("scaled", download(&cpu, &cpu.scale_rows(&x, &norms).unwrap()));
    put("norms", all.iter().map(|v| v.to_bits()).collect());
    put("zx", download(&cpu, &zx));
    let explicit = (start == "dense").then(|| {
        let s = small(n_x, n_y, 5);
        let values = (0..n_x * n_y).map(|k| s[(k / n_y, k % n_y)] as f32).collect();
        cpu.load(&HostMatrix::from_f32("s", n_x, n_y, values).unwrap()).unwrap()
    });
    let s = match (start, &explicit) {
        ("zeros", _) => Similarity::Zeros(n_x, n_y),
        ("dense", Some(s)) => Similarity::Dense(s),
        _ => Similarity::Embeddings(&zx, &zy),
    };
    let w = cpu.weights(s, loss, positives, negatives).unwrap();
    put("loss", vec![w.loss_rows.to_bits(), w.loss_cols.to_bits()]);
    let whole = w.clone().complete(cpu.group()).unwrap();
    for (name, side) in [("rows", &whole.rows), ("cols", &whole.cols)] {
        let pairs = [&side.s_pos, &side.dpsi, &side.dphi, &side.gamma];
        for values in [&side.log_neg, &side.coeff, &side.sampling_weight].into_iter().chain(pairs) {
            put(name, values.iter().map(|v| v.to_bits()).collect());
        }
    }
    put("cross", bits(&cpu.cross(s, &w, &x, &y).unwrap()));
    put(
        "cross, other side",
        bits(&cpu.cross(s, &w, &cpu.hstack(&[(1.0, &x), (0.5, &x)]).unwrap(), &y).unwrap()),
    );
    put("apply", download(&cpu, &cpu.apply(s, &w, &y).unwrap()));
    put("apply, of all", download(&cpu, &cpu.apply(s, &whole, &y).unwrap()));
    put("apply_transpose", download(&cpu, &cpu.apply_transpose(s, &w, &x).unwrap()));
    put("dense", bits(&cpu.dense(s, &w).unwrap()));
    let standings = cpu.standings(s, positives, false).unwrap();
    let numbers = |q: Standing| [q.ahead, q.tied, q.tied_before, q.positives].map(u64::from);
    put("ranks", standings.into_iter().flat_map(numbers).collect());
    put("pairs", cpu.positive_similarities(s, positives).unwrap().iter().map(|v| v.to_bits()).collect());
    if start == "embeddings" {
        let (gx, gy) = cpu.gradients(&zx, &zy, &w).unwrap();
        put("gx", download(&cpu, &gx));
        put("gy", download(&cpu, &gy));
        put("backward", bits(&cpu.encode_backward(&x, &zx, &norms, &gx).unwrap()));
    }
    let top = cpu.top_k(&zx, &zy, 3).unwrap();
    put("top scores", top.scores.iter().map(|v| u64::from(v.to_bits())).collect());
    put("top indices", top.indices.iter().map(|&v| u64::from(v)).collect());
    let ids: Vec<u32> = (0..n_x as u32).rev().step_by(2).chain([3, 3]).collect();
    put("select", download(&cpu, &cpu.select(&x, &ids).unwrap()));
    put("range", download(&cpu, &cpu.rows(&x, 100..n_x - 7).unwrap()));
    out
}

/// The same problem on one rank and on several. Panels are of 512 rows: five ranks are more than some sides have.
fn same_on_ranks(
    shape: (usize, usize),
    positives: &Positives,
    loss: &Loss,
    negatives: NegativeSampling,
    start: &str,
) {
    let alone = everything(Group::default(), shape, positives, loss, negatives, start);
    for size in [2, 5] {
        let all = threads::run(size, |group| {
            let out = everything(group.clone(), shape, positives, loss, negatives, start);
            group.conclude(Ok(())).unwrap();
            out
        });
        for (rank, out) in all.iter().enumerate() {
            for ((name, got), (_, want)) in out.iter().zip(&alone) {
                assert!(
                    got == want,
                    "{name} on rank {rank} of {size}, {:?} {negatives:?} {start}",
                    loss.kind
                );
            }
        }
    }
}

fn losses() -> Vec<Loss> {
    let of = |kind, tau, nu| Loss { kind, tau, nu, ..Loss::default() };
    vec![
        of(LossKind::Clip, 0.07, 1.0),
        // Below 1/40 sums in f32 take the path of running maxima.
        of(LossKind::Clip, 0.012, 2.0),
        of(LossKind::Sigmoid, 0.5, 1.5),
        of(LossKind::TripletHard, 1.0, 1.0),
        of(LossKind::TripletSmooth, 0.5, 1.0),
    ]
}

/// A psi and a phi of one's own: the root of a sum of exponentials.
fn own() -> Loss {
    let psi = |t: &[f64], value: &mut [f64], derivative: &mut [f64]| {
        for (k, t) in t.iter().enumerate() {
            (value[k], derivative[k]) = ((5.0 * t).exp(), 5.0 * (5.0 * t).exp());
        }
    };
    let phi = |u: &[f64], value: &mut [f64], derivative: &mut [f64]| {
        for (k, u) in u.iter().enumerate() {
            (value[k], derivative[k]) = (u.sqrt(), 0.5 / u.sqrt());
        }
    };
    Loss::custom(unicon::loss::Custom::of_functions("root", psi, phi))
}

const SAMPLED: NegativeSampling = NegativeSampling::Sampled { per_anchor: 200, seed: 3 };

#[test]
fn one_to_one() {
    let n = 1300;
    for loss in losses().into_iter().chain([own()]) {
        same_on_ranks((n, n), &Positives::diagonal(n), &loss, NegativeSampling::All, "embeddings");
        same_on_ranks((n, n), &Positives::diagonal(n), &loss, SAMPLED, "embeddings");
    }
}

#[test]
fn many_to_many() {
    let shape = (1100, 1600);
    let diagonal = Loss { eps_by: EpsBy::Diagonal, eps_pos: 0.5, ..Loss::default() };
    for loss in losses().into_iter().take(3).chain([diagonal, own()]) {
        for positives in [ragged(shape.0, shape.1), grouped(shape.0, shape.1)] {
            same_on_ranks(shape, &positives, &loss, NegativeSampling::All, "embeddings");
            same_on_ranks(shape, &positives, &loss, SAMPLED, "embeddings");
        }
    }
}

#[test]
fn starts_without_embeddings() {
    let shape = (1100, 700);
    for loss in losses().into_iter().take(3).chain([own()]) {
        let positives = ragged(shape.0, shape.1);
        same_on_ranks(shape, &positives, &loss, NegativeSampling::All, "zeros");
        same_on_ranks(shape, &positives, &loss, SAMPLED, "zeros");
        same_on_ranks(shape, &positives, &loss, NegativeSampling::All, "dense");
    }
}

fn model_bits(model: &unicon::model::Model) -> Vec<u64> {
    model.components.iter().flat_map(|c| [bits(&c.x.matrix), bits(&c.y.matrix)].concat()).collect()
}

#[test]
fn fits() {
    let n = 1600;
    let (x, y) = (features(n, 12, 7), features(n, 10, 8));
    let positives = Positives::diagonal(n);
    let data = Data { x: &x, y: &y, positives: &positives };
    let linear = FitOptions { whiten: Some(0.1), ..FitOptions::new(6) };
    let refine = RefineOptions { max_steps: 3, ..RefineOptions::default() };
    let refined = FitOptions { refine: Some(refine), ..linear.clone() };
    let kernel = KernelOptions::new(Kernel::default(), Landmarks::Count(40));
    let nystrom = FitOptions { kernel: Some(kernel), negatives: SAMPLED, ..FitOptions::new(6) };
    for options in [linear, refined, nystrom] {
        let (model, info) = fit(&Cpu::<f32>::new(1).unwrap(), data, None, &options).unwrap();
        for size in [2, 4] {
            let all = threads::run(size, |group| {
                let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
                group.conclude(fit(&cpu, data, None, &options)).unwrap()
            });
            for (other, other_info) in &all {
                assert!(model_bits(other) == model_bits(&model), "{size} ranks, {options:?}");
                assert_eq!(other_info.loss, info.loss);
                assert_eq!(other_info.final_loss, info.final_loss);
            }
        }
    }
}

#[test]
fn ranks_may_bring_rows_of_their_own() {
    let n = 1500;
    let (x, y) = (features(n, 12, 7), features(n, 10, 8));
    let positives = Positives::diagonal(n);
    let options = FitOptions { whiten: Some(0.1), ..FitOptions::new(6) };
    let data = Data { x: &x, y: &y, positives: &positives };
    let (model, _) = fit(&Cpu::<f32>::new(1).unwrap(), data, None, &options).unwrap();
    // Uneven, and one rank with nothing.
    let cuts = [[0, 700, 700, 1500], [0, 3, 1400, 1500]];
    for side in cuts {
        let all = threads::run(3, |group| {
            let rank = group.rank();
            let own = |source, cuts: [usize; 4]| {
                share_rows(&group, RowRange::new(source, cuts[rank]..cuts[rank + 1]).unwrap()).unwrap()
            };
            // The two sides need not be cut alike.
            let (x, y) = (own(&x, side), own(&y, [0, 512, 600, 1500]));
            let data = Data { x: &x, y: &y, positives: &positives };
            let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
            group.conclude(fit(&cpu, data, None, &options)).unwrap().0
        });
        assert!(all.iter().all(|other| model_bits(other) == model_bits(&model)));
    }
}

/// A fit on three ranks of which rank 1 does what `spoil` says; what each rank's error says.
fn spoiled(spoil: impl Fn(Cpu<f32>) -> Cpu<f32> + Sync) -> Vec<String> {
    let n = 1600;
    let (x, y) = (features(n, 12, 7), features(n, 10, 8));
    let positives = Positives::diagonal(n);
    let refine = RefineOptions { max_steps: 2, ..RefineOptions::default() };
    let options = FitOptions { whiten: Some(0.1), refine: Some(refine), ..FitOptions::new(6) };
    let data = Data { x: &x, y: &y, positives: &positives };
    threads::run(3, |group| {
        let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
        let cpu = if group.rank() == 1 { spoil(cpu) } else { cpu };
        group.conclude(fit(&cpu, data, None, &options)).unwrap_err().to_string()
    })
}

#[test]
fn one_rank_out_of_memory_ends_all() {
    let said = spoiled(|cpu| {
        #[derive(Debug)]
        struct Nothing;
        impl unicon::backend::cpu::HostMemory for Nothing {
            fn zeroed(&self, _: usize) -> Option<Box<dyn unicon::backend::cpu::HostBlock>> {
                None
            }
        }
        cpu.with_memory(std::sync::Arc::new(Nothing), None)
    });
    assert!(said[1].starts_with("out of memory: "), "{said:?}");
    assert!([0, 2].iter().all(|&k| said[k] == format!("communicator: rank 1: {}", said[1])), "{said:?}");
}

#[test]
fn one_rank_cancelled_in_any_phase_ends_all() {
    use std::ops::ControlFlow;
    use unicon::control::Phase;
    for phase in [Phase::Features, Phase::Statistics, Phase::Weights, Phase::Iteration] {
        let said = spoiled(|cpu| {
            cpu.control().set_hook(Some(Box::new(move |p| {
                if p.phase == phase { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })));
            cpu
        });
        assert_eq!(said, ["communicator: rank 1: cancelled", "cancelled", "communicator: rank 1: cancelled"]);
    }
}

#[test]
fn a_rank_that_dies_in_any_phase_ends_all() {
    use unicon::control::Phase;
    let n = 1600;
    let (x, y) = (features(n, 12, 7), features(n, 10, 8));
    let positives = Positives::diagonal(n);
    let options = FitOptions::new(6);
    for phase in [Phase::Features, Phase::Statistics, Phase::Weights, Phase::Iteration] {
        let said: Vec<std::thread::Result<String>> = std::thread::scope(|scope| {
            let start = |rank: threads::ThreadRank| {
                let (x, y, positives, options) = (&x, &y, &positives, &options);
                scope.spawn(move || {
                    let group = Group::new(std::sync::Arc::new(rank));
                    let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
                    let dies = group.rank() == 1;
                    cpu.control().set_hook(Some(Box::new(move |p| {
                        assert!(!dies || p.phase != phase, "killed");
                        std::ops::ControlFlow::Continue(())
                    })));
                    let data = Data { x, y, positives };
                    group.conclude(fit(&cpu, data, None, options)).unwrap_err().to_string()
                })
            };
            let handles: Vec<_> = threads::ranks(3).into_iter().map(start).collect();
            handles.into_iter().map(|h| h.join()).collect()
        });
        assert!(said[1].is_err());
        for k in [0, 2] {
            assert_eq!(said[k].as_ref().unwrap(), "communicator: rank 1 is gone", "{phase:?}");
        }
    }
}

#[test]
fn a_checkpoint_resumes_on_another_number_of_ranks() {
    use std::ops::ControlFlow;
    use unicon::control::Phase;
    let dir = tempfile::tempdir().unwrap();
    let n = 1600;
    let (x, y) = (features(n, 12, 7), features(n, 10, 8));
    let positives = Positives::diagonal(n);
    let data = Data { x: &x, y: &y, positives: &positives };
    let refine = RefineOptions { max_steps: 5, tol: 0.0, ..RefineOptions::default() };
    let of = |checkpoint| FitOptions { refine: Some(refine.clone()), checkpoint, ..FitOptions::new(6) };
    let (model, info) = fit(&Cpu::<f32>::new(1).unwrap(), data, None, &of(None)).unwrap();
    let options = of(Some(dir.path().join("state")));
    let run = |size: usize, stop: bool| {
        threads::run(size, |group| {
            let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
            // All ranks are asked to stop, as a batch system does.
            cpu.control().set_hook(Some(Box::new(move |p| match p.phase {
                Phase::Iteration if stop && p.total == 5 && p.done == 2 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })));
            group.conclude(fit(&cpu, data, None, &options))
        })
    };
    assert!(run(2, true).iter().all(|r| matches!(r, Err(unicon::Error::Cancelled))));
    assert!(dir.path().join("state").exists());
    for resumed in run(3, false) {
        let (other, other_info) = resumed.unwrap();
        assert!(model_bits(&other) == model_bits(&model));
        assert_eq!(other_info.final_loss, info.final_loss);
    }
}
