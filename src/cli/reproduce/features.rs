//! The paper's experiments on real features (Tables 1 and 2, Appendix C.3): its schedule, the default and, where its settings are
//! known, its SGD-CLIP, on the caller's features beside what the paper prints for its own.

use crate::cli::compare::{SgdClipOptions, sgd_clip};
use crate::cli::output::{self, Report};
use crate::cli::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::fit::{Batches, BestOptions, Data, Dim, FitOptions, Preset, fit, fit_best};
use unicon::loss::Loss;
use unicon::model::{Model, Side};
use unicon::retrieval::{Recall, RecallOptions, evaluate};

/// The k of the published recalls.
const KS: [usize; 2] = [1, 10];

/// A row of a published table: Recall@1 and @10 from x (images) to y (captions) and back, and seconds on one L40S.
#[derive(Clone, Copy, Serialize)]
pub struct Published {
    x_to_y: [f64; 2],
    y_to_x: [f64; 2],
    seconds: Option<f64>,
}

const fn published(x_to_y: [f64; 2], y_to_x: [f64; 2], seconds: f64) -> Option<Published> {
    Some(Published { x_to_y, y_to_x, seconds: Some(seconds) })
}

/// An experiment: the paper's schedule, and what it prints for raw features, SGD-CLIP and the schedule.
pub struct Table {
    pub name: &'static str,
    pub title: &'static str,
    pub preset: Preset,
    pub raw: Option<Published>,
    pub sgd: Option<Published>,
    pub ours: Option<Published>,
    /// The paper's SGD-CLIP, where its settings are known, and its temperature.
    pub adam: Option<(SgdClipOptions, f64)>,
}

/// Table 1, Flickr30k with features of CLIP ViT-B/32.
pub const FLICKR: Table = Table {
    name: "flickr",
    title: "Table 1, Flickr30k (the paper's: CLIP ViT-B/32)",
    preset: Preset::PaperFlickr,
    raw: None,
    sgd: published([0.231, 0.595], [0.241, 0.600], 45.3),
    ours: published([0.284, 0.636], [0.421, 0.777], 0.76),
    adam: Some((SgdClipOptions::adam(1e-4, 128, 50), 1.0)),
};

/// Table 2, MSCOCO with features of CLIP.
pub const COCO_CLIP: Table = Table {
    name: "coco-clip",
    title: "Table 2, MSCOCO (the paper's: CLIP ViT-B/32)",
    preset: Preset::PaperCocoClip,
    raw: Some(Published { x_to_y: [0.338, 0.687], y_to_x: [0.294, 0.652], seconds: None }),
    sgd: None,
    ours: published([0.329, 0.685], [0.292, 0.644], 11.15),
    adam: None,
};

/// Table 2, MSCOCO with features of ResNet-50.
pub const COCO_RESNET: Table = Table {
    name: "coco-resnet",
    title: "Table 2, MSCOCO (the paper's: ResNet-50)",
    preset: Preset::PaperCocoResnet,
    raw: None,
    sgd: None,
    ours: published([0.105, 0.388], [0.129, 0.439], 11.11),
    adam: None,
};

/// Appendix C.3, MSCOCO with features of CLIP: rows that the schedule sees, and the paper's mean Recall@1 of both directions.
const BATCHES: [(usize, f64); 6] =
    [(100, 0.368), (500, 0.371), (1000, 0.368), (5000, 0.358), (10_000, 0.348), (20_000, 0.349)];

/// The caller's features.
#[derive(Clone, Copy)]
pub struct Features<'a> {
    pub train: Data<'a>,
    pub validation: Option<Data<'a>>,
    pub test: Data<'a>,
    /// The dimension of the shared space, if not the paper's.
    pub rank: Option<usize>,
}

#[derive(Serialize)]
struct Row {
    method: String,
    paper: Option<Published>,
    ours: Option<Ours>,
}

#[derive(Serialize)]
struct Ours {
    recall: Recall,
    seconds: f64,
}

impl Features<'_> {
    /// The recall of a model on the test rows.
    fn judge<B: Backend>(&self, backend: &B, model: &Model) -> Result<Recall> {
        let Data { x, y, positives } = self.test;
        let (zx, zy) = (model.encode(backend, Side::X, x)?, model.encode(backend, Side::Y, y)?);
        Ok(evaluate(backend, &zx, &zy, positives, &RecallOptions::new(&KS))?)
    }
}

/// Runs an experiment on the caller's features.
pub fn run<B: Backend>(
    session: &Session,
    backend: &B,
    table: &Table,
    features: &Features<'_>,
    report: &mut Report,
) -> Result<()> {
    let (train, test, seed) = (features.train, features.test, session.seed());
    let rank = features.rank.or(table.preset.dim()).unwrap_or(1);
    let progress = session.steps(table.name, 4);
    let mut rows = Vec::new();
    if train.x.cols() == train.y.cols() {
        let (zx, zy) = (backend.load(test.x)?, backend.load(test.y)?);
        let unit = |z: &B::Matrix| {
            let identity = faer::Mat::<f64>::identity(train.x.cols(), train.x.cols());
            backend.encode(z, identity.as_ref()).map(|(z, _)| z)
        };
        let recall = evaluate(backend, &unit(&zx)?, &unit(&zy)?, test.positives, &RecallOptions::new(&KS))?;
        rows.push(Row {
            method: "raw features".into(),
            paper: table.raw,
            ours: Some(Ours { recall, seconds: 0.0 }),
        });
    } else if let Some(paper) = table.raw {
        rows.push(Row { method: "raw features".into(), paper: Some(paper), ours: None });
    }
    progress.inc(1);
    session.check()?;
    let begin = Instant::now();
    let ours = match &table.adam {
        Some((adam, tau)) => {
            let loss = Loss { tau: *tau, ..Loss::default() };
            let model = sgd_clip(backend, train, rank, &loss, adam, seed, &mut |_| Ok(()))?;
            let seconds = begin.elapsed().as_secs_f64();
            Some(Ours { recall: features.judge(backend, &model)?, seconds })
        }
        None => None,
    };
    if ours.is_some() || table.sgd.is_some() {
        let method = match &table.adam {
            Some((a, tau)) => format!(
                "SGD-CLIP (Adam, lr {}, batch {}, {} epochs, tau {tau})",
                a.learning_rate, a.batch, a.epochs
            ),
            None => "SGD-CLIP".into(),
        };
        rows.push(Row { method, paper: table.sgd, ours });
    }
    progress.inc(1);
    session.check()?;
    let begin = Instant::now();
    let o = FitOptions { seed, final_loss: false, ..table.preset.options(rank) };
    let (model, _) = fit(backend, train, features.validation, &o)?;
    let seconds = begin.elapsed().as_secs_f64();
    let recall = features.judge(backend, &model)?;
    rows.push(Row {
        method: format!("the paper's schedule ({})", table.preset.name()),
        paper: table.ours,
        ours: Some(Ours { recall, seconds }),
    });
    progress.inc(1);
    session.check()?;
    let begin = Instant::now();
    let best = BestOptions { seed, final_loss: false, ..BestOptions::new(Dim::Fixed(rank)) };
    let (model, _) = fit_best(backend, train, features.validation, &best)?;
    let seconds = begin.elapsed().as_secs_f64();
    let recall = features.judge(backend, &model)?;
    rows.push(Row { method: "the default".into(), paper: None, ours: Some(Ours { recall, seconds }) });
    progress.finish_and_clear();
    report.value(table.name, &rows)?;
    report.line(format!("{}: r = {rank}, {} test rows of x", table.title, test.x.rows()));
    let pair = |v: [f64; 2]| format!("{}/{}", output::three(v[0]), output::three(v[1]));
    let time = |s: f64| if s > 0.0 { format!("{s:.2}") } else { "-".into() };
    let cells = |r: &Row| {
        let dash = || "-".to_string();
        let mut cells = vec![r.method.clone()];
        cells.extend(match &r.paper {
            Some(p) => [pair(p.x_to_y), pair(p.y_to_x), p.seconds.map_or_else(dash, time)],
            None => [dash(), dash(), dash()],
        });
        cells.extend(match &r.ours {
            Some(o) => {
                let at = |v: &[f64]| pair([v[0], v[1]]);
                [at(&o.recall.x_to_y), at(&o.recall.y_to_x), time(o.seconds)]
            }
            None => [dash(), dash(), dash()],
        });
        cells
    };
    let header = ["method", "paper x to y", "y to x", "seconds", "yours x to y", "y to x", "seconds"];
    report.table(&header, rows.iter().map(cells).collect());
    report.line(
        "R@1/R@10; paper: its features and one L40S; yours: the features given, this machine; SGD-CLIP here decays along a half cosine\n",
    );
    Ok(())
}

#[derive(Serialize)]
struct BatchRow {
    rows: usize,
    paper: f64,
    recall: f64,
    seconds: f64,
}

/// Appendix C.3: the schedule of MSCOCO with CLIP on more and more rows.
pub fn batches<B: Backend>(
    session: &Session,
    backend: &B,
    features: &Features<'_>,
    report: &mut Report,
) -> Result<()> {
    let preset = Preset::PaperCocoClip;
    let rank = features.rank.or(preset.dim()).unwrap_or(1);
    let n = features.train.x.rows();
    let sizes: Vec<_> = BATCHES.iter().filter(|(rows, _)| *rows <= n).collect();
    if sizes.is_empty() {
        return Err(unicon::Error::invalid("--x", "at least 100 rows for the experiment batches", n).into());
    }
    let progress = session.steps("batches", sizes.len() as u64);
    let mut found = Vec::new();
    for &&(size, paper) in &sizes {
        session.check()?;
        let usual = preset.options(rank);
        let batches = usual.batches.map(|b| Batches { size, ..b });
        let o = FitOptions { batches, seed: session.seed(), final_loss: false, ..usual };
        let begin = Instant::now();
        let (model, _) = fit(backend, features.train, features.validation, &o)?;
        let seconds = begin.elapsed().as_secs_f64();
        let recall = features.judge(backend, &model)?;
        found.push(BatchRow {
            rows: size,
            paper,
            recall: 0.5 * (recall.x_to_y[0] + recall.y_to_x[0]),
            seconds,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.value("batches", &found)?;
    report.line(format!(
        "Appendix C.3, rows that {} sees: mean R@1 of both directions, r = {rank}",
        preset.name()
    ));
    let cells = |r: &BatchRow| {
        vec![r.rows.to_string(), output::three(r.paper), output::three(r.recall), format!("{:.2}", r.seconds)]
    };
    report.table(&["rows", "paper (MSCOCO)", "yours", "seconds"], found.iter().map(cells).collect());
    report.line("");
    Ok(())
}
