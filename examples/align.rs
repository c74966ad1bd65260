//! Two views of the same things are aligned: fit, encode, recall, search, save and load.
//!
//! ```sh
//! cargo run --release --example align
//! ```
//!
//! With two files, `X.npy Y.npy`, those are aligned instead: row i of one belongs to row i of the other.

use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Ties};
use unicon::data::LatentFactor;
use unicon::fit::{BestOptions, Data, Dim, fit_best};
use unicon::io::{self, RowSource, Rows};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::{recall_at_k, search};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    // Anything that gives rows is a source of features: matrices, files, folders of files, rows chosen from another source.
    let (x, y): (Box<dyn RowSource>, Box<dyn RowSource>) = match &files[..] {
        [] => {
            let drawn = LatentFactor::linear().draw(0)?;
            (Box::new(drawn.train.x), Box::new(drawn.train.y))
        }
        [x, y] => (Box::new(io::open(x)?), Box::new(io::open(y)?)),
        _ => return Err("usage: align [X.npy Y.npy]".into()),
    };

    // Every fifth pair is kept for the test.
    let (test, train): (Vec<usize>, Vec<usize>) = (0..x.rows()).partition(|i| i % 5 == 0);
    let part = |source, rows: &[usize]| Rows::new(source, rows.to_vec());
    let (train_x, train_y) = (part(&*x, &train)?, part(&*y, &train)?);
    let (test_x, test_y) = (part(&*x, &test)?, part(&*y, &test)?);

    // The CPU in single precision, on all threads.
    let backend = Cpu::<f32>::new(0)?;
    let pairs = Positives::diagonal(train.len());
    let data = Data { x: &train_x, y: &train_y, positives: &pairs };
    let (model, info) = fit_best(&backend, data, None, &BestOptions::new(Dim::Fixed(10)))?;
    println!("{} pairs on {}: fitted in {:.2} s", train.len(), backend.describe(), info.seconds.total);

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    model.save(&path)?;
    let model = Model::load(&path)?;

    let (zx, zy) = (model.encode(&backend, Side::X, &test_x)?, model.encode(&backend, Side::Y, &test_y)?);
    let truth = Positives::diagonal(test.len());
    let recall = recall_at_k(&backend, &zx, &zy, &truth, &[1, 5], Ties::Expected)?;
    println!("{} test pairs: Recall@1 {:.3}, Recall@5 {:.3}", test.len(), recall.x_to_y[0], recall.x_to_y[1]);
    let found = search(&backend, &zx, &zy, 3)?; // three items for each query, row by row
    println!("nearest to x of test pair 0: y of test pairs {:?}", &found.indices[..found.k]);
    Ok(())
}
