//! Fits whose matrices do not fit in memory: the same bits as in memory.

use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::distributed::threads;
use unicon::fit::{Data, FitOptions, KernelOptions, Landmarks, RefineOptions, fit};
use unicon::io::{Features, write_npy};
use unicon::kernel::Kernel;
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

fn bits(model: &Model) -> Vec<u64> {
    let matrices = model.components.iter().flat_map(|c| [&c.x.matrix, &c.y.matrix]);
    let entry = |m: &faer::Mat<f64>| {
        (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())).collect::<Vec<_>>()
    };
    matrices.flat_map(entry).collect()
}

/// float16 shards and a float64 file: what is read is converted.
fn features(dir: &std::path::Path, n: usize) -> (Features, Features) {
    let value = |i: usize, j: usize| f64::from(((i * 37 + j * 101 + i * j) as f32 * 0.7).sin());
    std::fs::create_dir(dir.join("x")).unwrap();
    for (k, rows) in [0..700, 700..701, 701..n].into_iter().enumerate() {
        let len = rows.len();
        let values: Vec<half::f16> =
            rows.flat_map(|i| (0..18).map(move |j| half::f16::from_f64(value(i, j)))).collect();
        write_npy(dir.join(format!("x/{k}.npy")), &[len, 18], &values).unwrap();
    }
    let values: Vec<f64> =
        (0..n * 15).map(|k| value(k / 15 + 3, k % 15) + 0.5 * value(k / 15, k % 15)).collect();
    write_npy(dir.join("y.npy"), &[n, 15], &values).unwrap();
    let open = |path: &str| Features::open(dir.join(path).to_str().unwrap()).unwrap();
    (open("x"), open("y.npy"))
}

#[test]
fn results_do_not_depend_on_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let n = 1500;
    let (x, y) = features(dir.path(), n);
    let positives = Positives::diagonal(n);
    let data = Data { x: &x, y: &y, positives: &positives };
    let linear = FitOptions { whiten: Some(0.1), ..FitOptions::new(6) };
    let sampled =
        FitOptions { negatives: NegativeSampling::Sampled { per_anchor: 200, seed: 1 }, ..linear.clone() };
    let refined = FitOptions {
        refine: Some(RefineOptions { max_steps: 2, ..RefineOptions::default() }),
        ..linear.clone()
    };
    let kernel = KernelOptions::new(Kernel::default(), Landmarks::Count(40));
    let nystrom = FitOptions { kernel: Some(kernel), ..FitOptions::new(6) };
    for options in [linear, sampled, refined, nystrom] {
        let ample = Cpu::<f32>::new(2).unwrap();
        let (model, info) = fit(&ample, data, None, &options).unwrap();
        let z = ample.store_all(&model, &x);
        // Features on disk and embeddings in memory; everything on disk.
        for limit in [200_000, 1] {
            let tight = Cpu::<f32>::new(2).unwrap().with_spill(limit, dir.path());
            let (other, other_info) = fit(&tight, data, None, &options).unwrap();
            assert!(bits(&other) == bits(&model), "{limit} bytes, {options:?}");
            assert_eq!((&other_info.loss, other_info.final_loss), (&info.loss, info.final_loss));
            assert!(
                other_info.peak_bytes < info.peak_bytes,
                "{} and {}",
                other_info.peak_bytes,
                info.peak_bytes
            );
            assert!(tight.store_all(&model, &x) == z);
        }
        // Both at once.
        let all = threads::run(2, |group| {
            let tight = Cpu::<f32>::new(1).unwrap().with_group(group.clone()).with_spill(1, dir.path());
            group.conclude(fit(&tight, data, None, &options)).unwrap().0
        });
        assert!(all.iter().all(|other| bits(other) == bits(&model)), "two ranks, {options:?}");
    }
    // Nothing is left behind.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

trait StoreAll {
    fn store_all(&self, model: &Model, x: &Features) -> Vec<u64>;
}

impl StoreAll for Cpu<f32> {
    fn store_all(&self, model: &Model, x: &Features) -> Vec<u64> {
        let z = model.encode(self, Side::X, x).unwrap();
        let mut out = Vec::new();
        self.store(&z, &mut |_, rows| {
            out.extend(rows.iter().map(|v| v.to_bits()));
            Ok(())
        })
        .unwrap();
        out
    }
}
