//! What the table means: the effects of whitening, of `S(gamma)` and of the preset `best` on the validation rows, and one
//! line of advice that follows from them.
//!
//! A choice among m settings looks better than it is. The interval of its effect is therefore at the level 1 - 0.05/m
//! (Bonferroni), and nothing but what such an interval excludes is advised.

use super::design::Method;
use super::run::{Difference, Outcome, Row, difference};
use crate::cli::evaluation;
use serde::Serialize;
use unicon::backend::{Backend, Ties};
use unicon::error::Result;
use unicon::retrieval::Bootstrap;

/// Resamples for each setting that was chosen among, at least: five lie beyond each end of the interval.
const RESAMPLES: usize = 200;

/// What an interval says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It lies above 0.
    Gains,
    /// It lies below 0.
    Loses,
    /// It holds 0.
    Undecided,
}

/// What one row has over another in mean Recall@1 of both directions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The row, counted from 0.
    pub row: usize,
    /// What it is compared with.
    pub over: usize,
    /// How many rows it is the best of, on the validation rows.
    pub chosen_among: usize,
    /// Probability that the interval on the validation rows covers.
    pub level: f64,
    /// On the validation rows.
    pub validation: Difference,
    /// What that says.
    pub verdict: Verdict,
    /// On the test rows, at 95 %.
    pub test: Difference,
}

/// The advice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// The best whitened centred identity over the one that is not whitened; none where either is missing.
    pub whitening: Option<Effect>,
    /// The best row of `S(gamma)` over the best centred identity.
    pub s: Option<Effect>,
    /// The same of rows that are not whitened; none where all are or none is.
    pub s_unwhitened: Option<Effect>,
    /// The preset `best` over the row that is advised among the others.
    pub best: Option<Effect>,
    /// That row.
    pub row: Option<usize>,
    /// The options of `unicon fit` that it stands for.
    pub options: Option<String>,
    /// The advice in words.
    pub text: String,
}

/// How effects are judged.
pub struct Terms {
    pub ties: Ties,
    pub bootstrap: Bootstrap,
}

impl Effect {
    fn of<B: Backend>(
        backend: &B,
        outcome: &Outcome,
        (row, among): (usize, usize),
        over: usize,
        terms: &Terms,
    ) -> Result<Option<Self>> {
        let (Some(own), Some(other)) = (&outcome.rankings[row], &outcome.rankings[over]) else {
            return Ok(None);
        };
        let level = 1.0 - (1.0 - terms.bootstrap.level) / among as f64;
        let resamples = terms.bootstrap.resamples.max(RESAMPLES * among);
        let strict = Bootstrap { level, resamples, ..terms.bootstrap };
        let validation = difference(backend, &own.0, &other.0, terms.ties, &strict)?;
        let test = difference(backend, &own.1, &other.1, terms.ties, &terms.bootstrap)?;
        let verdict = match validation.interval {
            [low, _] if low > 0.0 => Verdict::Gains,
            [_, high] if high < 0.0 => Verdict::Loses,
            _ => Verdict::Undecided,
        };
        Ok(Some(Self { row, over, chosen_among: among, level, validation, verdict, test }))
    }
}

/// The best of some rows on the validation rows, the first of equals, and how many there are.
fn best_of(rows: &[Row], is: impl Fn(&Row) -> bool) -> Option<(usize, usize)> {
    let there = rows.iter().enumerate().filter(|(_, r)| is(r));
    let all: Vec<(usize, f64)> =
        there.filter_map(|(k, r)| Some((k, r.validation.as_ref()?.recall()))).collect();
    let best = all.iter().fold(None, |best: Option<(usize, f64)>, &(k, v)| match best {
        Some((_, held)) if held >= v => best,
        _ => Some((k, v)),
    });
    best.map(|(k, _)| (k, all.len()))
}

/// What follows from the table.
pub fn advise<B: Backend>(backend: &B, outcome: &Outcome, terms: &Terms) -> Result<Advice> {
    let rows = &outcome.rows;
    let identity = |r: &Row| r.setting.method == Method::CentredIdentity;
    let gamma = |r: &Row| r.setting.method == Method::Gamma;
    let plain = |r: &Row| r.setting.whiten.is_none();
    let effect = |chosen: Option<(usize, usize)>, over: Option<usize>| match (chosen, over) {
        (Some(chosen), Some(over)) => Effect::of(backend, outcome, chosen, over, terms),
        _ => Ok(None),
    };
    let whitened = best_of(rows, |r| identity(r) && !plain(r));
    let as_it_is = best_of(rows, |r| identity(r) && plain(r));
    let whitening = effect(whitened, as_it_is.map(|(k, _)| k))?;
    let base = best_of(rows, identity).map(|(k, _)| k);
    let s = effect(best_of(rows, gamma), base)?;
    let s_unwhitened = match whitened {
        Some(_) => effect(best_of(rows, |r| gamma(r) && plain(r)), as_it_is.map(|(k, _)| k))?,
        None => None,
    };
    let row = match &s {
        Some(s) if s.verdict == Verdict::Gains => Some(s.row),
        _ => base,
    };
    let preset = rows.iter().position(|r| r.setting.method == Method::Best);
    let best = effect(preset.map(|k| (k, 1)), row)?;
    let options = row.map(|k| rows[k].setting.of_fit());
    let mut advice = Advice { whitening, s, s_unwhitened, best, row, options, text: String::new() };
    advice.text = advice.words();
    Ok(advice)
}

/// A difference without its sign, and its interval.
fn size(d: &Difference) -> String {
    format!("{:.3} ({:.3} to {:.3})", d.mean.abs(), d.interval[0], d.interval[1])
}

impl Advice {
    /// The advice, from what is known.
    fn words(&self) -> String {
        let Some(options) = &self.options else {
            return "no row of the centred identity was fitted: no advice (a larger --budget?)".into();
        };
        let undecided = |e: &Option<Effect>| e.as_ref().is_none_or(|e| e.verdict == Verdict::Undecided);
        let nothing = self.whitening.is_some() && undecided(&self.whitening) && undecided(&self.s);
        let found = match (&self.whitening, &self.s) {
            (Some(w), Some(s)) if nothing => format!(
                "neither whitening ({}) nor S(gamma) ({}{}) makes a difference that the validation rows show",
                evaluation::gain(w.validation.mean, w.validation.interval),
                evaluation::gain(s.validation.mean, s.validation.interval),
                self.unwhitened()
            ),
            (whitening, s) => {
                let of_whitening = whitening.as_ref().map(whitening_words);
                let more = whitening.as_ref().is_some_and(|w| w.verdict == Verdict::Gains);
                let of_s = s.as_ref().map(|s| format!("S(gamma) {}{}", s_words(s, more), self.unwhitened()));
                match (of_whitening, of_s) {
                    (Some(w), Some(s)) => format!("{w} and {s}"),
                    (Some(one), None) | (None, Some(one)) => one,
                    (None, None) => "there was time for the centred identity alone".into(),
                }
            }
        };
        let of_preset = |e: &Effect| evaluation::gain(e.validation.mean, e.validation.interval);
        match &self.best {
            Some(e) if e.verdict == Verdict::Gains => format!(
                "On this data {found}: use the default preset best, which is {} above the best of these, {options}",
                size(&e.validation)
            ),
            Some(e) if e.verdict == Verdict::Loses => {
                format!(
                    "On this data {found}: use {options}; the default preset best is {} below",
                    size(&e.validation)
                )
            }
            Some(e) => format!(
                "On this data {found}: use {options}, or the default preset best, from which it cannot be told apart ({})",
                of_preset(e)
            ),
            None => format!("On this data {found}: use {options}"),
        }
    }

    /// What `S(gamma)` does without whitening, where that is another question.
    fn unwhitened(&self) -> String {
        let Some(e) = &self.s_unwhitened else { return String::new() };
        if self.s.as_ref().is_some_and(|s| (s.row, s.over) == (e.row, e.over)) {
            return String::new();
        }
        format!("; without whitening {}", evaluation::gain(e.validation.mean, e.validation.interval))
    }
}

fn whitening_words(e: &Effect) -> String {
    match e.verdict {
        Verdict::Gains => format!("whitening gains {}", size(&e.validation)),
        Verdict::Loses => format!("whitening loses at least {}", size(&e.validation)),
        Verdict::Undecided => {
            let d = evaluation::gain(e.validation.mean, e.validation.interval);
            format!("whitening changes nothing that the validation rows show ({d})")
        }
    }
}

/// `more`: beside a gain of the whitening.
fn s_words(e: &Effect, more: bool) -> String {
    let more = if more { " more" } else { "" };
    let d = &e.validation;
    match e.verdict {
        Verdict::Gains => format!("gains {}{}", if more.is_empty() { "" } else { "another " }, size(d)),
        Verdict::Loses => format!("loses at least {}", size(d)),
        Verdict::Undecided if d.mean > 0.0 => {
            let gains = if more.is_empty() { "gains " } else { "" };
            format!("{gains}at most {:.3}{more} ({:.3} to {:.3})", d.mean, d.interval[0], d.interval[1])
        }
        Verdict::Undecided => format!("gains nothing ({})", evaluation::gain(d.mean, d.interval)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(mean: f64, interval: [f64; 2]) -> Option<Effect> {
        let validation = Difference { mean, interval, excludes_zero: interval[0] > 0.0 || interval[1] < 0.0 };
        let verdict = match interval {
            [low, _] if low > 0.0 => Verdict::Gains,
            [_, high] if high < 0.0 => Verdict::Loses,
            _ => Verdict::Undecided,
        };
        Some(Effect {
            row: 3,
            over: 1,
            chosen_among: 4,
            level: 0.9875,
            validation,
            verdict,
            test: validation,
        })
    }

    /// The advice of effects of whitening, S(gamma), S(gamma) without whitening and the preset.
    fn words(effects: [Option<Effect>; 4]) -> String {
        let [whitening, s, s_unwhitened, best] = effects;
        let s_unwhitened = s_unwhitened.map(|e| Effect { row: 7, ..e });
        let options = Some("--whiten 0.01 --iters 1".into());
        let text = String::new();
        Advice { whitening, s, s_unwhitened, best, row: Some(1), options, text }.words()
    }

    #[test]
    fn every_case_has_its_words() {
        let (up, down, none) = ([0.1, 0.2], [-0.2, -0.1], [-0.002, 0.008]);
        let (gain, loss, even) = (|| effect(0.14, up), || effect(-0.15, down), || effect(0.003, none));
        for (effects, expected) in [
            (
                [gain(), even(), gain(), even()],
                "On this data whitening gains 0.140 (0.100 to 0.200) and S(gamma) at most 0.003 more (-0.002 to 0.008); \
                 without whitening +0.140 (+0.100 to +0.200): use --whiten 0.01 --iters 1, or the default preset best, \
                 from which it cannot be told apart (+0.003 (-0.002 to +0.008))",
            ),
            (
                [gain(), gain(), None, gain()],
                "On this data whitening gains 0.140 (0.100 to 0.200) and S(gamma) gains another 0.140 (0.100 to 0.200): use the \
                 default preset best, which is 0.140 (0.100 to 0.200) above the best of these, --whiten 0.01 --iters 1",
            ),
            (
                [gain(), loss(), even(), loss()],
                "On this data whitening gains 0.140 (0.100 to 0.200) and S(gamma) loses at least 0.150 (-0.200 to -0.100); \
                 without whitening +0.003 (-0.002 to +0.008): use --whiten 0.01 --iters 1; the default preset best is 0.150 \
                 (-0.200 to -0.100) below",
            ),
            (
                [loss(), effect(-0.001, none), None, None],
                "On this data whitening loses at least 0.150 (-0.200 to -0.100) and S(gamma) gains nothing (-0.001 (-0.002 to \
                 +0.008)): use --whiten 0.01 --iters 1",
            ),
            (
                [even(), even(), None, None],
                "On this data neither whitening (+0.003 (-0.002 to +0.008)) nor S(gamma) (+0.003 (-0.002 to +0.008)) makes a \
                 difference that the validation rows show: use --whiten 0.01 --iters 1",
            ),
            (
                [even(), gain(), None, None],
                "On this data whitening changes nothing that the validation rows show (+0.003 (-0.002 to +0.008)) and S(gamma) \
                 gains 0.140 (0.100 to 0.200): use --whiten 0.01 --iters 1",
            ),
            (
                [None, even(), None, None],
                "On this data S(gamma) gains at most 0.003 (-0.002 to 0.008): use --whiten 0.01 --iters 1",
            ),
            (
                [None, None, None, None],
                "On this data there was time for the centred identity alone: use --whiten 0.01 --iters 1",
            ),
        ] {
            assert_eq!(words(effects), expected);
        }
        let nothing = Advice {
            whitening: None,
            s: None,
            s_unwhitened: None,
            best: None,
            row: None,
            options: None,
            text: String::new(),
        };
        assert!(nothing.words().contains("no advice"));
    }
}
