//! Which right half belongs to this left half? Encoders fitted on some digits, tried on others.

use super::super::output::{self, Report};
use super::super::session::Session;
use anyhow::Result;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use unicon::backend::{Backend, Similarity};
use unicon::data::digits;
use unicon::fit::{Data, FitOptions, KernelOptions, Landmarks, fit};
use unicon::io::Rows;
use unicon::kernel::{Kernel, KernelKind};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::{Recall, RecallOptions, evaluate as recall_of};
use unicon::similarity::NegativeSampling;

const VALIDATION_ROWS: usize = 200;
const TEST_ROWS: usize = 400;
const RANK_LINEAR: usize = 28;
const RANK_KERNEL: usize = 64;
const LANDMARKS: usize = 512;
/// Shrinkages that compete on the validation rows.
const SHRINKAGES: [f64; 3] = [1.0, 0.1, 0.01];

#[derive(Serialize)]
struct Row {
    encoder: &'static str,
    rank: usize,
    whiten: Option<f64>,
    recall: Recall,
    train_loss: Option<f64>,
    test_loss: f64,
    seconds: f64,
}

/// Fits, chooses on validation rows and reports.
pub fn run<B: Backend>(session: &Session, backend: &B, report: &mut Report) -> Result<()> {
    let data = digits()?;
    let mut order: Vec<usize> = (0..data.labels.len()).collect();
    order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(session.seed()));
    let split = |rows: &[usize]| {
        let x = Rows::new(&data.left, rows.to_vec())?;
        Ok::<_, unicon::Error>((x, Rows::new(&data.right, rows.to_vec())?, Positives::diagonal(rows.len())))
    };
    let (test, rest) = order.split_at(TEST_ROWS);
    let (validation, train) = rest.split_at(VALIDATION_ROWS);
    let (test, validation, train) = (split(test)?, split(validation)?, split(train)?);
    // One exact update from zeros; whitened, this is regularised canonical correlation analysis.
    let linear = FitOptions { n_iters: 1, seed: session.seed(), ..FitOptions::new(RANK_LINEAR) };
    let angular = KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Count(LANDMARKS));
    let kernel = FitOptions { kernel: Some(angular), dim: RANK_KERNEL, ..linear.clone() };
    let plain: &[Option<f64>] = &[None];
    let shrinkages = SHRINKAGES.map(Some);
    let mut rows = Vec::new();
    let progress = session.steps("digits", 2 + 2 * SHRINKAGES.len() as u64);
    for (encoder, options, whiten) in [
        ("linear", &linear, plain),
        ("linear, whitened", &linear, &shrinkages),
        ("angular kernel", &kernel, plain),
        ("angular kernel, whitened", &kernel, &shrinkages),
    ] {
        let mut best: Option<(f64, Model, Row)> = None;
        for &whiten in whiten {
            session.check()?;
            let options = FitOptions { whiten, ..options.clone() };
            let (x, y, positives) = &train;
            let (model, info) = fit(backend, Data { x, y, positives }, None, &options)?;
            let (recall, test_loss) = evaluate(backend, &model, &validation)?;
            let score = recall.x_to_y[0] + recall.y_to_x[0];
            let (rank, train_loss, seconds) = (options.dim, info.final_loss, info.seconds.total);
            let row = Row { encoder, rank, whiten, recall, train_loss, test_loss, seconds };
            if best.as_ref().is_none_or(|(s, ..)| score > *s) {
                best = Some((score, model, row));
            }
            progress.inc(1);
        }
        if let Some((_, model, row)) = best {
            let (recall, test_loss) = evaluate(backend, &model, &test)?;
            rows.push(Row { recall, test_loss, ..row });
        }
    }
    progress.finish_and_clear();
    report.value("digits", &rows)?;
    report.line(format!(
        "Left and right halves of handwritten digits: fitted on {}, tried on {TEST_ROWS} others (chance R@1 {:.4})",
        train.2.n_x(),
        1.0 / TEST_ROWS as f64
    ));
    let cells = |r: &Row| {
        let mut cells = vec![r.encoder.to_string(), r.rank.to_string()];
        cells.push(r.whiten.map_or_else(|| "-".into(), |l| l.to_string()));
        cells.extend(r.recall.x_to_y.iter().chain(&r.recall.y_to_x).map(|&v| output::three(v)));
        cells.extend([r.train_loss.map_or_else(String::new, output::three), output::three(r.test_loss)]);
        cells
    };
    let header = [
        "encoders",
        "r",
        "whiten",
        "R@1",
        "R@5",
        "R@10",
        "back R@1",
        "R@5",
        "R@10",
        "train loss",
        "test loss",
    ];
    report.table(&header, rows.iter().map(cells).collect());
    report.line(format!(
        "clip loss, tau = {}; the shrinkage is the best of {SHRINKAGES:?} on {VALIDATION_ROWS} validation rows\n",
        linear.loss.tau
    ));
    Ok(())
}

type Split<'a> = (Rows<&'a unicon::io::HostMatrix>, Rows<&'a unicon::io::HostMatrix>, Positives);

fn evaluate<B: Backend>(backend: &B, model: &Model, (x, y, positives): &Split<'_>) -> Result<(Recall, f64)> {
    let (zx, zy) = (model.encode(backend, Side::X, x)?, model.encode(backend, Side::Y, y)?);
    let recall = recall_of(backend, &zx, &zy, positives, &RecallOptions::new(&[1, 5, 10]))?;
    let w =
        backend.weights(Similarity::Embeddings(&zx, &zy), &model.loss, positives, NegativeSampling::All)?;
    Ok((recall, w.value()))
}
