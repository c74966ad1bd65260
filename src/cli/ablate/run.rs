//! The fits of a design, judged on validation and on test rows.

use super::design::{Design, Family, Method, Setting};
use serde::Serialize;
use std::time::{Duration, Instant};
use unicon::backend::{Backend, Similarity, Ties};
use unicon::error::{Error, Result};
use unicon::fit::{BestOptions, Data, Dim, Factorization, FitOptions, Step, Sweep, Whitened, fit_best};
use unicon::loss::Loss;
use unicon::model::{Component, Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::{Bootstrap, Ranking};
use unicon::similarity::NegativeSampling;

/// Share of a budget that the preset `best` may take.
const SHARE_OF_BEST: f64 = 0.25;

/// How rows are judged.
#[derive(Clone, Debug)]
pub struct Judging {
    pub ties: Ties,
    pub bootstrap: Bootstrap,
    /// Also the exact loss of every row on the training pairs.
    pub exact_loss: bool,
    /// Wall time after which no update is begun.
    pub budget: Option<Duration>,
}

/// The rows to fit, to choose and to report on.
#[derive(Clone, Copy)]
pub struct Sets<'a> {
    pub train: Data<'a>,
    pub validation: Data<'a>,
    pub test: Data<'a>,
}

/// What a row reaches on a set of rows.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Recall@1, x to y.
    pub x_to_y: f64,
    /// Recall@1, y to x.
    pub y_to_x: f64,
    /// Mean reciprocal rank, x to y and y to x.
    pub mrr: [f64; 2],
    /// Queries tied with a wrong item.
    pub tied: [usize; 2],
    /// Against the centred identity that differs in nothing else; none of that itself.
    pub gain: Option<Difference>,
}

impl Figures {
    /// Mean Recall@1 of both directions.
    pub fn recall(&self) -> f64 {
        0.5 * (self.x_to_y + self.y_to_x)
    }
}

/// A difference in mean Recall@1 of both directions, paired by query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    /// Its bootstrap interval.
    pub interval: [f64; 2],
    /// Whether that excludes 0.
    pub excludes_zero: bool,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub setting: Setting,
    /// Wall time of such a fit, without evaluation; none where it failed.
    pub seconds: Option<f64>,
    /// The exact loss on the training pairs, of clip at tau = 0.07 and nu = 1 whatever was fitted.
    pub loss: Option<f64>,
    /// On the rows that settings are chosen on; none where the fit failed.
    pub validation: Option<Figures>,
    /// On the rows that nothing is chosen on.
    pub test: Option<Figures>,
    /// Why the fit failed.
    pub failure: Option<String>,
}

/// Where the right items of a row stand, on validation and on test rows.
pub type Rankings = Option<(Ranking, Ranking)>;

/// All rows that there was time for, and where their right items stand.
pub struct Outcome {
    pub rows: Vec<Row>,
    pub rankings: Vec<Rankings>,
    /// Rows that the budget left out.
    pub left_out: usize,
}

impl Outcome {
    /// The centred identity that differs from a row in nothing but `S`.
    fn matched(&self, row: &Row) -> Option<usize> {
        let is = |other: &Row| {
            other.setting.method == Method::CentredIdentity && other.setting.is_matched(&row.setting)
        };
        self.rows.iter().position(is).filter(|_| row.setting.method == Method::Gamma)
    }
}

/// Loaded rows to judge on, as a sweep's components take them.
struct Judge<'a, B: Backend> {
    validation: (B::Matrix, B::Matrix),
    test: (B::Matrix, B::Matrix),
    positives: (&'a Positives, &'a Positives),
}

/// Runs every fit; `note` is told of each row before it is begun.
///
/// # Errors
/// Those of the fits, but for fits whose numbers are not finite: these are rows that failed.
pub fn run<B: Backend>(
    backend: &B,
    sets: Sets<'_>,
    design: &Design,
    judging: &Judging,
    note: &mut dyn FnMut(&Setting),
) -> Result<Outcome> {
    let begin = Instant::now();
    let others = [sets.validation, sets.test];
    let mut sweep = Sweep::new(backend, sets.train, &others, &design.options())?;
    let judge = Judge {
        validation: sweep.load(sets.validation)?,
        test: sweep.load(sets.test)?,
        positives: (sets.validation.positives, sets.test.positives),
    };
    let (rows, rankings) = (Vec::new(), Vec::new());
    let mut table = Table { backend, sets, design, judging, begin, rows, rankings, note };
    table.best()?;
    let weighs = design.batches.iter().any(Option::is_some);
    for &whiten in &design.whiten {
        if table.is_late() {
            break;
        }
        let weighing = weighs.then_some((&judge.validation, sets.validation.positives));
        let features = sweep.whitened(whiten, weighing)?;
        for solver in design.solvers() {
            for family in design.families() {
                table.family(&features, &judge, &family, (whiten, solver))?;
            }
        }
    }
    let Table { rows, rankings, .. } = table;
    let mut outcome = Outcome { left_out: 1 + design.rows() - rows.len(), rows, rankings };
    outcome.compare(backend, judging)?;
    Ok(outcome)
}

/// The difference of a ranking to another.
pub fn difference<B: Backend>(
    backend: &B,
    own: &Ranking,
    other: &Ranking,
    ties: Ties,
    bootstrap: &Bootstrap,
) -> Result<Difference> {
    let gain = own.gain(backend, other, 1, ties, bootstrap)?;
    let [low, high] = gain.interval;
    Ok(Difference { mean: gain.mean, interval: gain.interval, excludes_zero: low > 0.0 || high < 0.0 })
}

impl Outcome {
    /// Gives every row of `S(gamma)` its difference to the centred identity.
    fn compare<B: Backend>(&mut self, backend: &B, judging: &Judging) -> Result<()> {
        for k in 0..self.rows.len() {
            let Some(base) = self.matched(&self.rows[k]) else { continue };
            let (Some(own), Some(other)) = (&self.rankings[k], &self.rankings[base]) else { continue };
            let of = |a, b| difference(backend, a, b, judging.ties, &judging.bootstrap).map(Some);
            let (validation, test) = (of(&own.0, &other.0)?, of(&own.1, &other.1)?);
            let row = &mut self.rows[k];
            for (figures, gain) in [(&mut row.validation, validation), (&mut row.test, test)] {
                if let Some(figures) = figures {
                    figures.gain = gain;
                }
            }
        }
        Ok(())
    }
}

/// The table as it grows.
struct Table<'a, B: Backend> {
    backend: &'a B,
    sets: Sets<'a>,
    design: &'a Design,
    judging: &'a Judging,
    begin: Instant,
    rows: Vec<Row>,
    rankings: Vec<Rankings>,
    note: &'a mut dyn FnMut(&Setting),
}

/// A whitening and what else is matched.
type Matched = (Option<f64>, (Factorization, Option<usize>));

/// The setting of a method, a number of updates and a temperature.
type Named<'a> = &'a dyn Fn(Method, usize, Option<f64>) -> Setting;

impl<B: Backend> Table<'_, B> {
    fn is_late(&self) -> bool {
        self.judging.budget.is_some_and(|b| self.begin.elapsed() >= b)
    }

    /// The preset with its defaults, as `unicon fit` has it.
    fn best(&mut self) -> Result<()> {
        if self.is_late() {
            return Ok(());
        }
        (self.note)(&Setting::BEST);
        let sets = self.sets;
        let options = BestOptions {
            seed: self.design.seed,
            budget: self.judging.budget.map(|b| b.mul_f64(SHARE_OF_BEST)),
            ..BestOptions::new(Dim::Fixed(self.design.rank))
        };
        let fitted = attempt(fit_best(self.backend, sets.train, Some(sets.validation), &options))?;
        let (model, info) = match fitted {
            Ok(fitted) => fitted,
            Err(why) => return self.add(Setting::BEST, None, None, Err(why)),
        };
        let ranking = |rows: Data<'_>| {
            let (zx, zy) = embed(self.backend, &model, rows)?;
            Ranking::new(self.backend, &zx, &zy, rows.positives, false)
        };
        let rankings = (ranking(sets.validation)?, ranking(sets.test)?);
        let loss = match self.judging.exact_loss {
            true => {
                let (zx, zy) = embed(self.backend, &model, sets.train)?;
                let s = Similarity::Embeddings(&zx, &zy);
                let (loss, positives) = (Loss::default(), sets.train.positives);
                Some(self.backend.weights(s, &loss, positives, NegativeSampling::All)?.value())
            }
            false => None,
        };
        self.add(Setting::BEST, Some(info.seconds.total), loss, Ok(rankings))
    }

    /// One first update, and every fit that goes on from it.
    fn family(
        &mut self,
        features: &Whitened<'_, B>,
        judge: &Judge<'_, B>,
        family: &Family,
        (whiten, solver): Matched,
    ) -> Result<()> {
        if self.is_late() {
            return Ok(());
        }
        let nu = family.nu;
        let setting = |method, updates, tau| Setting {
            method,
            updates: Some(updates),
            tau,
            nu: Some(nu),
            whiten,
            power: Some(solver.0.power()),
            batch_size: solver.1,
        };
        let design = self.design;
        let fit = |tau: f64| design.fit(tau, nu, whiten, solver);
        // From zeros the temperature changes nothing.
        let options = fit(design.tau[0]);
        let named = setting(family.first.unwrap_or(Method::Gamma), 1, None);
        if family.first.is_some() {
            (self.note)(&named);
        }
        let first = attempt(features.update(&options, None))?;
        if family.first.is_some() {
            self.judge(features, judge, named, &first)?;
        }
        for &tau in &family.tau {
            self.go_on(features, judge, &fit(tau), (first.clone(), &setting))?;
        }
        Ok(())
    }

    /// The updates after the first, of one temperature.
    fn go_on(
        &mut self,
        features: &Whitened<'_, B>,
        judge: &Judge<'_, B>,
        options: &FitOptions,
        (first, setting): (Attempt<Step>, Named<'_>),
    ) -> Result<()> {
        let (mut step, mut done) = (first, 1);
        for &updates in self.design.further() {
            let named = setting(Method::Gamma, updates, Some(options.loss.tau));
            (self.note)(&named);
            while done < updates {
                if self.is_late() {
                    return Ok(());
                }
                if let Ok(before) = &step {
                    step = attempt(features.update(options, Some(before)))?;
                }
                done += 1;
            }
            self.judge(features, judge, named, &step)?;
        }
        Ok(())
    }

    fn judge(
        &mut self,
        features: &Whitened<'_, B>,
        judge: &Judge<'_, B>,
        setting: Setting,
        step: &Attempt<Step>,
    ) -> Result<()> {
        let step = match step {
            Ok(step) => step,
            Err(why) => return self.add(setting, None, None, Err(why.clone())),
        };
        let judged = || {
            let component = features.component(step);
            let ranking = |(x, y): &(B::Matrix, B::Matrix), positives: &Positives| {
                let Component { x: f, y: g, .. } = &component;
                let (zx, zy) = (f.apply(self.backend, x)?, g.apply(self.backend, y)?);
                Ranking::new(self.backend, &zx, &zy, positives, false)
            };
            Ok((ranking(&judge.validation, judge.positives.0)?, ranking(&judge.test, judge.positives.1)?))
        };
        let loss = match self.judging.exact_loss {
            true => Some(features.loss(step, &Loss::default())?),
            false => None,
        };
        let judged = attempt(judged())?;
        self.add(setting, Some(step.seconds), loss, judged)
    }

    /// Adds a row: where its right items stand, or why it failed.
    fn add(
        &mut self,
        setting: Setting,
        seconds: Option<f64>,
        loss: Option<f64>,
        judged: Attempt<(Ranking, Ranking)>,
    ) -> Result<()> {
        let mut row = Row { setting, seconds, loss, validation: None, test: None, failure: None };
        let rankings = match judged {
            Ok((validation, test)) => {
                let figures = |ranking: &Ranking| {
                    let r = ranking.recall(&[1], self.judging.ties)?;
                    let (x_to_y, y_to_x) = (r.x_to_y[0], r.y_to_x[0]);
                    Ok::<_, Error>(Figures { x_to_y, y_to_x, mrr: r.mrr, tied: r.tied, gain: None })
                };
                (row.validation, row.test) = (Some(figures(&validation)?), Some(figures(&test)?));
                Some((validation, test))
            }
            Err(why) => {
                row.failure = Some(why);
                None
            }
        };
        self.rows.push(row);
        self.rankings.push(rankings);
        Ok(())
    }
}

/// What a fit came to, or why its numbers are not finite; any other error ends all.
type Attempt<T> = std::result::Result<T, String>;

fn attempt<T>(done: Result<T>) -> Result<Attempt<T>> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Error::Numerical(why)) => Ok(Err(why)),
        Err(e) => Err(e),
    }
}

fn embed<B: Backend>(backend: &B, model: &Model, rows: Data<'_>) -> Result<(B::Matrix, B::Matrix)> {
    Ok((model.encode(backend, Side::X, rows.x)?, model.encode(backend, Side::Y, rows.y)?))
}
