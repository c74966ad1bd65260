//! The checks hold on the CPU in every mode, and each notices the mistake it is there for.

use super::*;
use crate::backend::cpu::simd::halves::Products;
use crate::backend::{Arithmetic, Reader, Similarity, Standing, TopK};
use crate::control::Control;
use crate::distributed::Group;
use crate::io::{Duplicates, RowSource, Survey};
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::{NegativeSampling, Weights};
use faer::{Mat, MatRef};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Mutex;

const QUICK: Options = Options { quick: true };

fn failed(outcome: &Outcome) -> Vec<&str> {
    outcome.checks.iter().filter(|c| !c.ok).map(|c| c.operation).collect()
}

#[test]
fn the_cpu_passes_in_every_mode() {
    let check = |outcome: Outcome| {
        assert!(failed(&outcome).is_empty(), "{:?}: {:#?}", outcome.arithmetic, outcome.checks);
        assert!(outcome.checks.iter().all(|c| c.cases > 0 && c.notes.is_empty()));
        assert_eq!(outcome.checks.len(), 25);
    };
    check(run(&Cpu::<f32>::new(2).unwrap(), QUICK).unwrap());
    check(run(&Cpu::<f64>::new(2).unwrap(), QUICK).unwrap());
    match Cpu::<f32>::new(2).unwrap().with_bf16() {
        Ok(cpu) => check(run(&cpu, QUICK).unwrap()),
        Err(e) => println!("skipped: {e}"),
    }
}

/// As [`the_cpu_passes_in_every_mode`], but for what matrix units compute, on every machine.
#[test]
fn products_of_halves_pass() {
    for (products, arithmetic) in
        [(Products::One, Arithmetic::Bf16), (Products::Three, Arithmetic::Bf16Halves)]
    {
        let outcome = run(&Cpu::<f32>::new(2).unwrap().with_software(products), QUICK).unwrap();
        assert_eq!((outcome.arithmetic, outcome.checks.len()), (arithmetic, 25));
        assert!(failed(&outcome).is_empty(), "{arithmetic:?}: {:#?}", outcome.checks);
    }
}

/// One mistake of a device, by operation, and the checks that must notice it.
const MISTAKES: [(&str, &[&str]); 20] = [
    ("store", &["load, store"]),
    ("rows", &["rows"]),
    ("select", &["select"]),
    ("scale_rows", &["scale_rows"]),
    ("hstack", &["hstack"]),
    ("linear", &["linear"]),
    ("kernel", &["kernel"]),
    ("gram", &["gram"]),
    ("norms", &["encode"]),
    ("encode_backward", &["encode_backward"]),
    ("loss", &["loss"]),
    ("dense", &["dense"]),
    ("apply", &["apply"]),
    ("apply_transpose", &["apply_transpose"]),
    ("cross", &["cross", "C from features"]),
    ("gradients", &["gradients"]),
    ("top_k", &["search"]),
    ("ranks", &["ranks"]),
    ("pairs", &["positive pairs"]),
    ("memory", &["memory of passes"]),
];

#[test]
fn every_mistake_is_noticed_by_its_check() {
    for (mistake, checks) in MISTAKES {
        let outcome = run(&Faulty::new(mistake), QUICK).unwrap();
        let failed = failed(&outcome);
        assert!(checks.iter().all(|c| failed.contains(c)), "{mistake}: {failed:?}");
    }
    let outcome = run(&Faulty::new("unsteady"), QUICK).unwrap();
    assert_eq!(failed(&outcome), ["bitwise repeatable"]);
    // An error is a failed check that says why, and the others still run.
    let outcome = run(&Faulty::new("error"), QUICK).unwrap();
    assert_eq!(failed(&outcome), ["search", "bitwise repeatable"]);
    assert!(outcome.checks.iter().any(|c| c.notes.iter().any(|n| n.contains("no such luck"))));
    assert!(matches!(run(&Faulty::new("cancelled"), QUICK), Err(crate::Error::Cancelled)));
}

/// The f32 CPU backend with a mistake.
struct Faulty {
    cpu: Cpu<f32>,
    mistake: &'static str,
    calls: Mutex<Cell<u32>>,
}

type M = <Cpu<f32> as Backend>::Matrix;
type S<'a> = Similarity<'a, M>;

impl Faulty {
    fn new(mistake: &'static str) -> Self {
        // Products of halves have limits that a mistake of a thousandth may keep.
        Self { cpu: Cpu::new(2).unwrap().with_vectors(), mistake, calls: Mutex::default() }
    }

    fn is(&self, mistake: &str) -> bool {
        self.mistake == mistake
    }

    /// The last row is off by a thousandth, as if a bound were wrong.
    fn bent(&self, mistake: &str, m: Result<M>) -> Result<M> {
        let m = m?;
        if !self.is(mistake) {
            return Ok(m);
        }
        let n = self.cpu.shape(&m).0;
        let scale: Vec<f64> = (0..n).map(|i| if i + 1 == n { 1.0 + 1e-3 } else { 1.0 }).collect();
        self.cpu.scale_rows(&m, &scale)
    }

    fn bent_host(&self, mistake: &str, m: Result<Mat<f64>>) -> Result<Mat<f64>> {
        let mut m = m?;
        if self.is(mistake) {
            m[(0, 0)] += 1e-4 * m.norm_l2();
        }
        Ok(m)
    }
}

impl Backend for Faulty {
    type Matrix = M;

    fn describe(&self) -> String {
        self.cpu.describe()
    }
    fn control(&self) -> &Control {
        self.cpu.control()
    }
    fn memory(&self) -> (u64, u64) {
        let (now, peak) = self.cpu.memory();
        (now, if self.is("memory") { peak + 700 * 700 * 2 } else { peak })
    }
    fn arithmetic(&self) -> Arithmetic {
        self.cpu.arithmetic()
    }
    fn group(&self) -> &Group {
        self.cpu.group()
    }
    fn over_rows(&self, source: &dyn RowSource, read: Reader<'_>) -> Result<Vec<Vec<u64>>> {
        self.cpu.over_rows(source, read)
    }
    fn screen_duplicates(&self, source: &dyn RowSource) -> Result<(Survey, Option<Duplicates>)> {
        self.cpu.screen_duplicates(source)
    }
    fn load(&self, source: &dyn RowSource) -> Result<M> {
        self.cpu.load(source)
    }
    fn store(&self, x: &M, sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        let bent = self.is("store");
        self.cpu.store(x, &mut |first, rows| {
            let mut rows = rows.to_vec();
            rows.iter_mut().take(usize::from(bent)).for_each(|v| *v += 0.1);
            sink(first, &rows)
        })
    }
    fn shape(&self, x: &M) -> (usize, usize) {
        self.cpu.shape(x)
    }
    fn rows(&self, x: &M, range: Range<usize>) -> Result<M> {
        self.bent("rows", self.cpu.rows(x, range))
    }
    fn linear(&self, x: &M, w: MatRef<'_, f64>) -> Result<M> {
        self.bent("linear", self.cpu.linear(x, w))
    }
    fn encode(&self, x: &M, f: MatRef<'_, f64>) -> Result<(M, Vec<f64>)> {
        let (z, mut norms) = self.cpu.encode(x, f)?;
        norms.iter_mut().take(usize::from(self.is("norms"))).for_each(|n| *n *= 1.01);
        Ok((z, norms))
    }
    fn scale_rows(&self, x: &M, scale: &[f64]) -> Result<M> {
        self.bent("scale_rows", self.cpu.scale_rows(x, scale))
    }
    fn kernel(&self, kernel: &Kernel, x: &M, landmarks: MatRef<'_, f64>) -> Result<M> {
        self.bent("kernel", self.cpu.kernel(kernel, x, landmarks))
    }
    fn gram(&self, x: &M) -> Result<Mat<f64>> {
        self.bent_host("gram", self.cpu.gram(x))
    }
    fn weights(&self, s: S<'_>, l: &Loss, p: &Positives, n: NegativeSampling) -> Result<Weights> {
        let mut w = self.cpu.weights(s, l, p, n)?;
        if self.is("loss") {
            w.loss_rows *= 1.0 + 1e-5;
        }
        if self.is("unsteady") {
            let calls = self.calls.lock().unwrap();
            calls.set(calls.get() + 1);
            w.loss_cols *= 1.0 + f64::EPSILON * f64::from(calls.get());
        }
        Ok(w)
    }
    fn cross(&self, s: S<'_>, w: &Weights, x: &M, y: &M) -> Result<Mat<f64>> {
        self.bent_host("cross", self.cpu.cross(s, w, x, y))
    }
    fn apply(&self, s: S<'_>, w: &Weights, v: &M) -> Result<M> {
        self.bent("apply", self.cpu.apply(s, w, v))
    }
    fn apply_transpose(&self, s: S<'_>, w: &Weights, u: &M) -> Result<M> {
        self.bent("apply_transpose", self.cpu.apply_transpose(s, w, u))
    }
    fn gradients(&self, zx: &M, zy: &M, w: &Weights) -> Result<(M, M)> {
        let (gx, gy) = self.cpu.gradients(zx, zy, w)?;
        Ok((gx, self.bent("gradients", Ok(gy))?))
    }
    fn encode_backward(&self, x: &M, z: &M, norms: &[f64], g: &M) -> Result<Mat<f64>> {
        self.bent_host("encode_backward", self.cpu.encode_backward(x, z, norms, g))
    }
    fn select(&self, x: &M, ids: &[u32]) -> Result<M> {
        self.bent("select", self.cpu.select(x, ids))
    }
    fn dense(&self, s: S<'_>, w: &Weights) -> Result<Mat<f64>> {
        self.bent_host("dense", self.cpu.dense(s, w))
    }
    fn hstack(&self, blocks: &[(f64, &M)]) -> Result<M> {
        self.bent("hstack", self.cpu.hstack(blocks))
    }
    fn top_k(&self, queries: &M, items: &M, k: usize) -> Result<TopK> {
        match self.mistake {
            "error" => return Err(crate::Error::Numerical("no such luck".into())),
            "cancelled" => return Err(crate::Error::Cancelled),
            _ => (),
        }
        let mut top = self.cpu.top_k(queries, items, k)?;
        if self.is("top_k") && top.indices.len() > 1 {
            top.indices.swap(0, 1);
        }
        Ok(top)
    }
    fn standings(&self, s: S<'_>, p: &Positives, exclude_self: bool) -> Result<Vec<Standing>> {
        let mut standings = self.cpu.standings(s, p, exclude_self)?;
        if self.is("ranks") {
            standings[0].ahead += 1;
        }
        Ok(standings)
    }
    fn positive_similarities(&self, s: S<'_>, p: &Positives) -> Result<Vec<f64>> {
        let mut found = self.cpu.positive_similarities(s, p)?;
        if self.is("pairs") {
            found[0] += 1e-5;
        }
        Ok(found)
    }
}
