//! Which pictures does a caption mean? Encoders fitted on some concepts, tried on others, with what they find by name.

use super::super::output::{self, Report};
use super::super::report::{Measured, Nearest, Page, examples, look, measure, nearest, page};
use super::super::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::time::{Duration, Instant};
use unicon::Error;
use unicon::backend::Backend;
use unicon::data::{IconRows, Icons};
use unicon::fit::{BestOptions, Data, Dim, fit_best};
use unicon::io::{RowSource, check_finite};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::RecallOptions;

const RANK: usize = 128;
/// No step of the fit is begun later.
const BUDGET: Duration = Duration::from_secs(3);
/// Captions that are shown, and pictures of each.
const CAPTIONS: usize = 8;
const PICTURES: usize = 5;
/// Words of the captions that are shown unless one is asked for: most shorter ones repeat a picture's name.
const WORDS: usize = 5;

/// What `--json` says.
#[derive(Serialize)]
struct Found<'a> {
    pictures: usize,
    captions: usize,
    concepts: usize,
    /// Seconds of the fit.
    seconds: f64,
    /// The shrinkage of the whitening that was chosen.
    whiten: Option<&'a str>,
    ks: &'a [usize],
    caption_to_picture: &'a [f64],
    picture_to_caption: &'a [f64],
    /// R@1 of a random order, likewise.
    chance: [f64; 2],
    shown: &'a Nearest,
}

/// The captions to show: those that hold `query`, whole captions and whole words first, or some of many words.
///
/// # Errors
/// No caption holds it.
pub fn captions(icons: &Icons, query: Option<&str>) -> Result<Vec<usize>> {
    let texts = &icons.test_texts;
    let Some(query) = query else {
        let long: Vec<usize> =
            (0..texts.len()).filter(|&j| texts[j].split_whitespace().count() >= WORDS).collect();
        return Ok((0..CAPTIONS).map(|k| long[k * long.len() / CAPTIONS]).collect());
    };
    let wanted = query.trim().to_lowercase();
    let standing = |j: &usize| {
        let text = texts[*j].to_lowercase();
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        (text != wanted, !words.any(|word| word == wanted))
    };
    let holds = |j: &usize| !wanted.is_empty() && texts[*j].to_lowercase().contains(&wanted);
    let mut found: Vec<usize> = (0..texts.len()).filter(holds).collect();
    found.sort_by_key(standing);
    if found.is_empty() {
        let expected = format!(
            "words that are in one of the {} bundled captions (none of another text can be looked up, for no text encoder is \
             bundled), such as music, weather or \"light bulb\"",
            texts.len()
        );
        return Err(Error::invalid("--query", expected, format!("\"{query}\"")).into());
    }
    Ok(found)
}

/// Fits, reports, and returns the page.
pub fn run<B: Backend>(
    session: &Session,
    backend: &B,
    icons: &Icons,
    (query, chosen): (Option<&str>, &[usize]),
    report: &mut Report,
) -> Result<String> {
    let (train, test) = (&icons.train, &icons.test);
    report.line(format!(
        "Icons and words: fitted on {} pictures and {} captions of {} concepts, tried on {} and {} of {} others",
        train.pictures.rows(),
        train.captions.rows(),
        train.concepts(),
        test.pictures.rows(),
        test.captions.rows(),
        test.concepts()
    ));
    session.show(report)?;
    let begin = Instant::now();
    let model = fitted(session, backend, icons)?;
    let seconds = begin.elapsed().as_secs_f64();
    let positives = test.positives()?;
    let z = embed(backend, &model, test)?;
    let (figures, ranking) = measured(backend, &model, test, &positives, &z)?;
    let names = (&icons.test_names[..], &icons.test_texts[..]);
    let shown = &chosen[..chosen.len().min(CAPTIONS)];
    let shown = nearest(backend, (&z.0, &z.1), &positives, names, shown, PICTURES)?;
    let recall = &figures.recall;
    let chance = [figures.chance.y_to_x[0], figures.chance.x_to_y[0]];
    let found = Found {
        pictures: figures.n_x,
        captions: figures.n_y,
        concepts: test.concepts(),
        seconds,
        whiten: model.notes.get("whiten").map(String::as_str),
        ks: &recall.ks,
        caption_to_picture: &recall.y_to_x,
        picture_to_caption: &recall.x_to_y,
        chance,
        shown: &shown,
    };
    report.value("icons", &found)?;
    let row = |way: &str, recall: &[f64], chance: f64| {
        let mut row = vec![way.to_string()];
        row.extend(recall.iter().map(|&v| output::three(v)));
        row.extend([output::three(chance), format!("{:.0}", recall[0] / chance)]);
        row
    };
    let header = ["", "R@1", "R@5", "R@10", "R@1 by chance", "times chance"];
    report.table(
        &header,
        vec![
            row("caption to pictures", &recall.y_to_x, chance[0]),
            row("picture to captions", &recall.x_to_y, chance[1]),
        ],
    );
    report.line(format!("the default of `unicon fit`, rank {RANK}, {seconds:.1} s\n"));
    report.line(match query {
        Some(query) => format!(
            "{} of the {} held-out captions hold \"{query}\" (matched as text: no text encoder is bundled); {}the pictures nearest \
             to each:",
            chosen.len(),
            figures.n_y,
            if chosen.len() > CAPTIONS { format!("the first {CAPTIONS} and ") } else { String::new() }
        ),
        None => format!(
            "{CAPTIONS} of the held-out captions, evenly spaced among those of {WORDS} words or more, and the {PICTURES} pictures \
             nearest to each:"
        ),
    });
    shown.lines().into_iter().for_each(|line| report.line(line));
    report.line("✓ a picture of the caption's concept, ✗ of another; names are icon set: name\n");
    session.show(report)?;
    let validation = icons.validation.positives()?;
    let zv = embed(backend, &model, &icons.validation)?;
    let chosen_on = measured(backend, &model, &icons.validation, &validation, &zv)?.0;
    let found = examples(backend, (&z.0, &z.1), &positives, &ranking, false, None)?;
    let look = look(backend, &model.loss, (&z.0, &z.1), &positives, session.seed())?;
    Ok(page(&Page {
        title: "Pictures of icons (x) and their captions (y)",
        model: Some(&model),
        sets: &[("test", &figures), ("validation", &chosen_on)],
        look: &look,
        examples: Some(&found),
        names: (Some(names.0), Some(names.1)),
        nearest: Some(&shown),
    }))
}

/// What `unicon fit` does with the validation rows.
fn fitted<B: Backend>(session: &Session, backend: &B, icons: &Icons) -> Result<Model> {
    let (train, validation) = (icons.train.positives()?, icons.validation.positives()?);
    let options = BestOptions {
        budget: Some(BUDGET),
        seed: session.seed(),
        final_loss: false,
        ..BestOptions::new(Dim::Fixed(RANK))
    };
    let validation = Some(data(&icons.validation, &validation));
    Ok(fit_best(backend, data(&icons.train, &train), validation, &options)?.0)
}

fn data<'a>(rows: &'a IconRows, positives: &'a Positives) -> Data<'a> {
    Data { x: &rows.pictures, y: &rows.captions, positives }
}

fn embed<B: Backend>(backend: &B, model: &Model, rows: &IconRows) -> Result<(B::Matrix, B::Matrix)> {
    Ok((model.encode(backend, Side::X, &rows.pictures)?, model.encode(backend, Side::Y, &rows.captions)?))
}

fn measured<B: Backend>(
    backend: &B,
    model: &Model,
    rows: &IconRows,
    positives: &Positives,
    (zx, zy): &(B::Matrix, B::Matrix),
) -> Result<(Measured, unicon::retrieval::Ranking)> {
    let zero_rows = (check_finite(&rows.pictures)?.zero_rows, check_finite(&rows.captions)?.zero_rows);
    Ok(measure(backend, &model.loss, (zx, zy), positives, &RecallOptions::new(&[1, 5, 10]), zero_rows)?)
}
