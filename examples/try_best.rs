use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Ties};
use unicon::fit::*;
use unicon::io;
use unicon::positives::Positives;
use unicon::retrieval::recall_at_k;
fn main() -> unicon::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let d = &a[1];
    let get = |k: &str, def: &str| -> String {
        a.iter().find_map(|s| s.strip_prefix(&format!("{k}=")).map(String::from)).unwrap_or(def.into())
    };
    let num = |k: &str, def: &str| -> f64 { get(k, def).parse().unwrap() };
    let list =
        |k: &str, def: &str| -> Vec<f64> { get(k, def).split(',').map(|v| v.parse().unwrap()).collect() };
    let f = |n: &str| io::open(&format!("{d}/{n}.npy"));
    let (x, y, vx, vy, tx, ty) =
        (f("train_x")?, f("train_y")?, f("val_x")?, f("val_y")?, f("test_x")?, f("test_y")?);
    let pos = |n: &str, nx: usize, ny: usize| -> unicon::Result<Positives> {
        let p = format!("{d}/{n}_indptr.npy");
        if std::path::Path::new(&p).exists() {
            Positives::from_csr(
                &io::read_index_vector(&p)?,
                &io::read_index_vector(format!("{d}/{n}_indices.npy"))?,
                ny,
            )
        } else {
            Ok(Positives::diagonal(nx))
        }
    };
    let (p, vp, tp) = (
        pos("train", x.rows(), y.rows())?,
        pos("val", vx.rows(), vy.rows())?,
        pos("test", tx.rows(), ty.rows())?,
    );
    let b = Cpu::<f32>::new(0)?;
    let mut o = BestOptions::new(Rank::Fixed(num("rank", "128") as usize));
    o.refine.first_step = num("fs", "0.07");
    o.refine.max_steps = num("steps", "8") as usize;
    o.whiten = list("whiten", "1,0.3,0.1,0.03,0.01,0.001");
    o.powers = list("powers", "0,0.5,1,2");
    o.refine.patience = num("patience", "3") as usize;
    o.sample = Some(num("m", "512") as usize);
    o.refine.memory = num("memory", "10") as usize;
    let fr = num("rows", "8192") as usize;
    let (txm, tym) = (b.load(&*tx)?, b.load(&*ty)?);
    let mut rec = vec![];
    let (_m, info) = fit_best_watched(
        &b,
        Data { x: &*x, y: &*y, positives: &p },
        Some(Data { x: &*vx, y: &*vy, positives: &vp }),
        &o,
        &mut |i| {
            let zx = b.encode(&txm, i.x.as_ref())?.0;
            let zy = b.encode(&tym, i.y.as_ref())?.0;
            let r = recall_at_k(&b, &zx, &zy, &tp, &[1], Ties::Shared)?;
            rec.push((r.x_to_y[0], r.y_to_x[0]));
            Ok(())
        },
    )?;
    println!("start {:?}", rec[0]);
    for (t, r) in info.trace.iter().zip(&rec[1..]) {
        println!(
            "{:.3}s loss {:.5} m {:?} ev {} score {:.4} R@1 {:?}",
            t.seconds,
            t.loss,
            t.negatives,
            t.evaluations,
            t.score.unwrap(),
            r
        );
    }
    let c = info.chosen.as_ref().unwrap();
    println!("{:?} {} {}", info.seconds, c.whiten, c.power);
    Ok(())
}
