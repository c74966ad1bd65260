//! What is varied: the lists, their cross product, and its order.

use serde::Serialize;
use unicon::error::{Error, Result};
use unicon::fit::{Batches, Factorization, FitOptions};
use unicon::loss::Loss;

/// Rows of a table at most.
const MOST_ROWS: usize = 500;
/// Updates of a fit at most.
const MOST_UPDATES: usize = 1000;

/// The matrix of weights that `C = X^T S Y` is built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Method {
    /// `S` proportional to `I - 11^T/n`: one update from zeros at nu = 1.
    #[serde(rename = "centred identity")]
    CentredIdentity,
    /// `S(gamma)` of the encoders before, in every update after the first, which starts from zeros.
    #[serde(rename = "S(gamma)")]
    Gamma,
    /// The preset `best`, for reference.
    #[serde(rename = "best")]
    Best,
}

/// One row's setting; what does not apply, or is chosen by the preset, is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// What `S` is.
    pub method: Method,
    /// Spectral updates.
    pub updates: Option<usize>,
    /// Temperature; the first update does not depend on it.
    pub tau: Option<f64>,
    /// Weight of the positive.
    pub nu: Option<f64>,
    /// Shrinkage of the whitening; none: not whitened.
    pub whiten: Option<f64>,
    /// Power of the singular values in each encoder: 0 orthonormal, 1/2 sqrt.
    pub power: Option<f64>,
    /// Rows of a mini-batch; none: all rows at once.
    pub batch_size: Option<usize>,
}

impl Setting {
    /// The preset `best`.
    pub const BEST: Self = Self {
        method: Method::Best,
        updates: None,
        tau: None,
        nu: None,
        whiten: None,
        power: None,
        batch_size: None,
    };

    /// Whether `other` differs in nothing but `S`.
    pub fn is_matched(&self, other: &Self) -> bool {
        (self.whiten, self.power, self.batch_size) == (other.whiten, other.power, other.batch_size)
    }

    /// What `S` is, in words.
    pub fn weights(&self) -> String {
        let updates = |n: usize| if n == 1 { "1 update".to_string() } else { format!("{n} updates") };
        match (self.method, self.updates) {
            (Method::CentredIdentity, _) => "centred identity".into(),
            (Method::Best, _) | (_, None) => "preset best".into(),
            (Method::Gamma, Some(n)) => {
                let tau = self.tau.map_or_else(String::new, |t| format!("tau {t}, "));
                let nu = self.nu.map_or_else(String::new, |v| format!("nu {v}, "));
                format!("S(gamma), {tau}{nu}{}", updates(n))
            }
        }
    }

    /// The whitening, in words.
    pub fn whitening(&self) -> String {
        match (self.method, self.whiten) {
            (Method::Best, _) => "chosen".into(),
            (_, Some(lambda)) => lambda.to_string(),
            (_, None) => "none".into(),
        }
    }

    /// The options of `unicon fit` that do the same.
    pub fn of_fit(&self) -> String {
        let mut words = Vec::new();
        if let Some(lambda) = self.whiten {
            words.push(format!("--whiten {lambda}"));
        }
        if let Some(n) = self.updates {
            words.push(format!("--iters {n}"));
        }
        // One update does not depend on the temperature.
        if let (Method::Gamma, Some(tau)) = (self.method, self.tau) {
            words.push(format!("--tau {tau}"));
        }
        if let (Method::Gamma, Some(nu)) = (self.method, self.nu) {
            words.push(format!("--nu {nu}"));
        }
        if let Some(power) = self.power {
            words.push(format!("--factorization {}", factorization_name(power)));
        }
        if let Some(size) = self.batch_size {
            words.push(format!("--batch-size {size}"));
        }
        words.join(" ")
    }
}

/// The spelling of a factorization with this power of the singular values.
pub fn factorization_name(power: f64) -> String {
    match power {
        p if p == Factorization::Orthonormal.power() => "orthonormal".into(),
        p if p == Factorization::Sqrt.power() => "sqrt".into(),
        p => format!("power:{p}"),
    }
}

/// The lists, without repetitions.
#[derive(Clone, Debug)]
pub struct Design {
    /// Dimension of the shared space.
    pub rank: usize,
    /// Shrinkages; none: not whitened.
    pub whiten: Vec<Option<f64>>,
    /// Splits of `C`.
    pub factorizations: Vec<Factorization>,
    /// Sizes of mini-batches; none: all rows at once.
    pub batches: Vec<Option<usize>>,
    /// Temperatures.
    pub tau: Vec<f64>,
    /// Weights of the positive.
    pub nu: Vec<f64>,
    /// Numbers of updates.
    pub iters: Vec<usize>,
    /// Seed of everything random.
    pub seed: u64,
}

/// The fits that go on from one first update, all of one nu.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub nu: f64,
    /// Whether the first update is a row, and what of.
    pub first: Option<Method>,
    /// Temperatures of the updates after it.
    pub tau: Vec<f64>,
}

fn distinct<T: PartialEq + Copy>(values: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::new();
    values.retain(|v| {
        !seen.contains(v) && {
            seen.push(*v);
            true
        }
    });
}

impl Design {
    /// Checks every value, that something is varied, and that it is not too much.
    pub fn checked(mut self) -> Result<Self> {
        distinct(&mut self.whiten);
        distinct(&mut self.factorizations);
        distinct(&mut self.batches);
        distinct(&mut self.tau);
        distinct(&mut self.nu);
        self.iters.sort_unstable();
        self.iters.dedup();
        let lists = [
            ("--whiten", self.whiten.is_empty()),
            ("--factorization", self.factorizations.is_empty()),
            ("--batch-size", self.batches.is_empty()),
            ("--tau", self.tau.is_empty()),
            ("--nu", self.nu.is_empty()),
            ("--iters", self.iters.is_empty()),
        ];
        if let Some((name, _)) = lists.iter().find(|(_, empty)| *empty) {
            return Err(Error::invalid(*name, "at least one value", "none"));
        }
        let of_updates = format!("numbers of updates from 1 to {MOST_UPDATES}");
        if let Some(bad) = self.iters.iter().find(|n| !(1..=MOST_UPDATES).contains(*n)) {
            return Err(Error::invalid("--iters", of_updates, bad));
        }
        self.options().iter().try_for_each(FitOptions::validate)?;
        if self.rows_of_gamma() == 0 {
            let expected =
                "a number above 1, or a --nu other than 1: one update at nu = 1 is the centred identity";
            return Err(Error::invalid("--iters", expected, 1));
        }
        let rows = self.rows();
        if rows > MOST_ROWS {
            let expected = format!(
                "at most {MOST_ROWS} rows of --whiten, --factorization, --batch-size, --tau, --nu and --iters"
            );
            return Err(Error::invalid("lists", expected, rows));
        }
        Ok(self)
    }

    /// What differs in nothing but `S`: splits of `C` and batches.
    pub fn solvers(&self) -> impl Iterator<Item = (Factorization, Option<usize>)> {
        let of = |f: &Factorization| self.batches.iter().map(|b| (*f, *b)).collect::<Vec<_>>();
        self.factorizations.iter().flat_map(of).collect::<Vec<_>>().into_iter()
    }

    /// What begins with one update each: that of the centred identity first.
    pub fn families(&self) -> Vec<Family> {
        let goes_on = self.iters.last().is_some_and(|&n| n > 1);
        let tau = |nu: f64| if goes_on && self.nu.contains(&nu) { self.tau.clone() } else { Vec::new() };
        let mut all = vec![Family { nu: 1.0, first: Some(Method::CentredIdentity), tau: tau(1.0) }];
        for &nu in self.nu.iter().filter(|&&nu| nu != 1.0) {
            let first = self.iters.contains(&1).then_some(Method::Gamma);
            all.push(Family { nu, first, tau: tau(nu) });
        }
        all
    }

    /// Numbers of updates above 1.
    pub fn further(&self) -> &[usize] {
        &self.iters[usize::from(self.iters.first() == Some(&1))..]
    }

    /// Rows of `S(gamma)` for one whitening and one solver.
    fn rows_of_gamma(&self) -> usize {
        let of =
            |f: &Family| usize::from(f.first == Some(Method::Gamma)) + f.tau.len() * self.further().len();
        self.families().iter().map(of).sum()
    }

    /// Rows of the table but for the preset `best`.
    pub fn rows(&self) -> usize {
        self.whiten.len() * self.solvers().count() * (1 + self.rows_of_gamma())
    }

    /// The options of fits with a setting's values.
    pub fn fit(
        &self,
        tau: f64,
        nu: f64,
        whiten: Option<f64>,
        solver: (Factorization, Option<usize>),
    ) -> FitOptions {
        FitOptions {
            loss: Loss::clip(tau).with_nu(nu),
            factorization: solver.0,
            batches: solver.1.map(Batches::new),
            whiten,
            n_iters: 1,
            final_loss: false,
            seed: self.seed,
            ..FitOptions::new(self.rank)
        }
    }

    /// Options that have every value of the lists among them, for checks.
    pub fn options(&self) -> Vec<FitOptions> {
        let solvers = self.solvers().collect::<Vec<_>>();
        let (Some(&solver), Some(&tau), Some(&nu)) = (solvers.first(), self.tau.first(), self.nu.first())
        else {
            return Vec::new();
        };
        let mut all: Vec<FitOptions> = solvers.iter().map(|&s| self.fit(tau, nu, None, s)).collect();
        all.extend(self.whiten.iter().map(|&w| self.fit(tau, nu, w, solver)));
        all.extend(self.tau.iter().map(|&tau| self.fit(tau, nu, None, solver)));
        all.extend(self.nu.iter().map(|&nu| self.fit(tau, nu, None, solver)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design() -> Design {
        Design {
            rank: 4,
            whiten: vec![None, Some(0.1), None],
            factorizations: vec![Factorization::Orthonormal],
            batches: vec![None],
            tau: vec![1.0, 0.2],
            nu: vec![1.0, 2.0],
            iters: vec![5, 1, 2, 2],
            seed: 0,
        }
    }

    #[test]
    fn every_setting_is_a_row_once() {
        let d = design().checked().unwrap();
        assert_eq!((d.whiten.len(), &d.iters[..], d.further()), (2, &[1, 2, 5][..], &[2, 5][..]));
        let families = d.families();
        assert_eq!(families[0].first, Some(Method::CentredIdentity));
        assert_eq!((families[1].nu, families[1].first), (2.0, Some(Method::Gamma)));
        // For each whitening: the identity, one update at nu = 2, and 2 temperatures, 2 nu, 2 numbers of updates.
        assert_eq!(d.rows(), 2 * (1 + 1 + 8));
        // Without nu = 1 the centred identity is there all the same, and nothing goes on from it.
        let other = Design { nu: vec![2.0], iters: vec![3], ..design() }.checked().unwrap();
        let none = Family { nu: 1.0, first: Some(Method::CentredIdentity), tau: Vec::new() };
        assert_eq!((other.families()[0].clone(), other.rows()), (none, 2 * (1 + 2)));
    }

    #[test]
    fn bad_lists_are_refused_by_name() {
        let refused = |d: Design, words: &str| {
            let text = d.checked().unwrap_err().to_string();
            assert!(text.contains(words), "{words}: {text}");
        };
        refused(Design { tau: vec![], ..design() }, "--tau");
        refused(Design { iters: vec![0], ..design() }, "from 1 to 1000");
        refused(Design { iters: vec![1001], ..design() }, "from 1 to 1000");
        refused(Design { iters: vec![1], nu: vec![1.0], ..design() }, "centred identity");
        refused(Design { tau: vec![f64::NAN], ..design() }, "tau");
        refused(Design { nu: vec![f64::INFINITY], ..design() }, "nu");
        refused(Design { whiten: vec![Some(-1.0)], ..design() }, "whiten");
        refused(Design { batches: vec![Some(1)], ..design() }, "batch_size");
        refused(Design { factorizations: vec![Factorization::Power(-1.0)], ..design() }, "factorization");
        let many: Vec<f64> = (1..=200).map(f64::from).collect();
        // 2 whitenings of the identity, 1 + 199 first updates but that of nu = 1, and 200 nu, 2 temperatures, 2 numbers.
        refused(Design { nu: many, ..design() }, "2000");
    }
}
