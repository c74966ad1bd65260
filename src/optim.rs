//! Limited-memory BFGS with a strong-Wolfe line search, for smooth functions of many variables.
//!
//! Source: Nocedal and Wright, Numerical Optimization (2nd ed.), algorithms 7.4, 7.5, 3.5 and 3.6. The state is plain
//! data, so that a run can be saved after any iteration and continued bit for bit.

use crate::error::Result;
use std::collections::VecDeque;

/// Sufficient decrease: `f(x + t d) <= f(x) + C1 t f'(x) d`.
const C1: f64 = 1e-4;
/// Curvature: `|f'(x + t d) d| <= C2 |f'(x) d|`.
const C2: f64 = 0.9;
/// Evaluations that one line search may take.
const MAX_TRIALS: usize = 20;

/// A smooth function.
pub trait Objective {
    /// Returns the value at `x` and overwrites `gradient` (as long as `x`). A value that is not finite means "too far".
    ///
    /// # Errors
    /// Whatever the computation meets (cancellation, memory); the iteration stops there.
    fn evaluate(&mut self, x: &[f64], gradient: &mut [f64]) -> Result<f64>;
}

impl<F: FnMut(&[f64], &mut [f64]) -> Result<f64>> Objective for F {
    fn evaluate(&mut self, x: &[f64], gradient: &mut [f64]) -> Result<f64> {
        self(x, gradient)
    }
}

/// What one iteration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value fell.
    Descended,
    /// No lower value was found along the search direction, nor along the gradient: a minimum to rounding.
    Stalled,
}

/// A change of variables and of gradients, `1/(y s)` with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// `x_{k+1} - x_k`.
    pub s: Vec<f64>,
    /// `g_{k+1} - g_k`.
    pub y: Vec<f64>,
}

/// The state of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Lbfgs {
    /// Where it stands.
    pub x: Vec<f64>,
    /// The function's value there.
    pub value: f64,
    /// The gradient there.
    pub gradient: Vec<f64>,
    /// The latest changes, oldest first.
    pub pairs: VecDeque<Pair>,
    /// How many changes are kept.
    pub memory: usize,
    /// Length of the very first step as a share of `|x|`.
    pub first_step: f64,
    /// Evaluations so far.
    pub evaluations: usize,
}

/// A point of a line search.
struct Point {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// Step length, value and slope at one end of the bracket.
#[derive(Clone, Copy)]
struct End {
    t: f64,
    value: f64,
    slope: f64,
}

impl Lbfgs {
    /// Evaluates the start.
    ///
    /// # Errors
    /// Those of the function.
    pub fn new(x: Vec<f64>, memory: usize, first_step: f64, f: &mut impl Objective) -> Result<Self> {
        let mut state = Self {
            gradient: vec![0.0; x.len()],
            x,
            value: f64::NAN,
            pairs: VecDeque::new(),
            memory,
            first_step,
            evaluations: 0,
        };
        state.restart(f)?;
        Ok(state)
    }

    /// Evaluates another function at the same point and keeps the curvature learnt: for functions that differ little.
    ///
    /// # Errors
    /// Those of the function.
    pub fn restart(&mut self, f: &mut impl Objective) -> Result<()> {
        self.value = f.evaluate(&self.x, &mut self.gradient)?;
        self.evaluations += 1;
        Ok(())
    }

    /// One iteration. The value never rises.
    ///
    /// # Errors
    /// Those of the function; the state is then the one before the call.
    pub fn step(&mut self, f: &mut impl Objective) -> Result<Step> {
        let slope = dot(&self.gradient, &self.gradient);
        // Written so that NaN stalls too.
        if !(self.value.is_finite() && slope.is_finite() && slope > 0.0) {
            return Ok(Step::Stalled);
        }
        let mut direction = self.direction();
        let mut found = None;
        if dot(&direction, &self.gradient) < 0.0 {
            let t = if self.pairs.is_empty() { self.first_length(slope) } else { 1.0 };
            found = self.search(&direction, t, f)?;
        }
        if found.is_none() && !self.pairs.is_empty() {
            self.pairs.clear();
            direction = self.gradient.iter().map(|g| -g).collect();
            found = self.search(&direction, self.first_length(slope), f)?;
        }
        let Some(next) = found else { return Ok(Step::Stalled) };
        let s: Vec<f64> = next.x.iter().zip(&self.x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next.gradient.iter().zip(&self.gradient).map(|(a, b)| a - b).collect();
        // Only pairs of positive curvature keep the approximation positive definite.
        if self.memory > 0 && dot(&s, &y) > 1e-10 * dot(&y, &y).sqrt() * dot(&s, &s).sqrt() {
            if self.pairs.len() >= self.memory {
                self.pairs.pop_front();
            }
            self.pairs.push_back(Pair { s, y });
        }
        (self.x, self.value, self.gradient) = (next.x, next.value, next.gradient);
        Ok(Step::Descended)
    }

    fn first_length(&self, slope: f64) -> f64 {
        let size = dot(&self.x, &self.x).sqrt();
        self.first_step * if size > 0.0 { size } else { 1.0 } / slope.sqrt()
    }

    /// `-H g` by the two-loop recursion.
    fn direction(&self) -> Vec<f64> {
        let mut q: Vec<f64> = self.gradient.iter().map(|g| -g).collect();
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let alpha = dot(&pair.s, &q) / dot(&pair.s, &pair.y);
            add(&mut q, -alpha, &pair.y);
            alphas.push(alpha);
        }
        if let Some(last) = self.pairs.back() {
            let scale = dot(&last.s, &last.y) / dot(&last.y, &last.y);
            q.iter_mut().for_each(|v| *v *= scale);
        }
        for (pair, alpha) in self.pairs.iter().zip(alphas.iter().rev()) {
            let beta = dot(&pair.y, &q) / dot(&pair.s, &pair.y);
            add(&mut q, alpha - beta, &pair.s);
        }
        q
    }

    /// A step length that satisfies the strong Wolfe conditions, first trying `t`; after [`MAX_TRIALS`] the lowest point
    /// met that satisfies sufficient decrease, if any.
    fn search(&mut self, direction: &[f64], mut t: f64, f: &mut impl Objective) -> Result<Option<Point>> {
        let start = End { t: 0.0, value: self.value, slope: dot(&self.gradient, direction) };
        let (mut low, mut high): (End, Option<End>) = (start, None);
        let mut best: Option<Point> = None;
        for _ in 0..MAX_TRIALS {
            let mut x = self.x.clone();
            add(&mut x, t, direction);
            let mut gradient = vec![0.0; x.len()];
            let value = f.evaluate(&x, &mut gradient)?;
            self.evaluations += 1;
            let end = End { t, value, slope: dot(&gradient, direction) };
            let usable = value.is_finite() && end.slope.is_finite();
            let enough = usable && value <= start.value + C1 * t * start.slope && value < start.value;
            if !enough || (low.t > 0.0 && value >= low.value) {
                high = Some(end);
            } else {
                let satisfied = end.slope.abs() <= C2 * start.slope.abs();
                if best.as_ref().is_none_or(|b| value < b.value) {
                    best = Some(Point { x, value, gradient });
                }
                if satisfied {
                    break;
                }
                let outward = high.map_or(1.0, |h| h.t - low.t);
                if end.slope * outward >= 0.0 {
                    high = Some(low);
                }
                low = end;
            }
            t = match high {
                None => 4.0 * t,
                Some(high) => {
                    let next = between(low, high);
                    // The bracket has shrunk to rounding.
                    if (high.t - low.t).abs() <= 1e-14 * low.t.abs().max(high.t.abs()) {
                        break;
                    }
                    next
                }
            };
        }
        Ok(best)
    }
}

/// The minimiser of the cubic through both ends, kept off the ends; bisection (towards `low`) where the far end is not
/// finite.
fn between(low: End, high: End) -> f64 {
    let width = high.t - low.t;
    if !(high.value.is_finite() && high.slope.is_finite()) {
        return low.t + 0.1 * width;
    }
    let d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.t - high.t);
    let d2 = width.signum() * (d1 * d1 - low.slope * high.slope).max(0.0).sqrt();
    let t = high.t - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    let share = (t - low.t) / width;
    low.t + width * if share.is_finite() { share.clamp(0.1, 0.9) } else { 0.5 }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimise(mut f: impl FnMut(&[f64], &mut [f64]) -> f64, x: Vec<f64>, steps: usize) -> Lbfgs {
        let mut f = |x: &[f64], g: &mut [f64]| Ok(f(x, g));
        let mut state = Lbfgs::new(x, 8, 0.1, &mut f).unwrap();
        for _ in 0..steps {
            let before = state.value;
            if state.step(&mut f).unwrap() == Step::Stalled {
                break;
            }
            assert!(state.value < before);
        }
        state
    }

    fn rosenbrock(x: &[f64], g: &mut [f64]) -> f64 {
        g.fill(0.0);
        let mut value = 0.0;
        for i in 0..x.len() - 1 {
            let (a, b) = (1.0 - x[i], x[i + 1] - x[i] * x[i]);
            value += a * a + 100.0 * b * b;
            g[i] += -2.0 * a - 400.0 * x[i] * b;
            g[i + 1] += 200.0 * b;
        }
        value
    }

    #[test]
    fn rosenbrock_is_solved_in_two_and_many_dimensions() {
        for n in [2, 50] {
            let start = (0..n).map(|i| if i % 2 == 0 { -1.2 } else { 1.0 }).collect();
            let state = minimise(rosenbrock, start, 400);
            assert!(state.x.iter().all(|x| (x - 1.0).abs() < 1e-6), "{n}: {}", state.value);
            assert!(state.evaluations < 700, "{n}: {}", state.evaluations);
        }
    }

    #[test]
    fn an_ill_conditioned_quadratic_and_a_flat_quartic_are_solved() {
        let quadratic = |x: &[f64], g: &mut [f64]| {
            let mut value = 0.0;
            for (i, (x, g)) in x.iter().zip(g).enumerate() {
                let w = 10f64.powf(3.0 * i as f64 / 29.0);
                *g = w * x;
                value += 0.5 * w * x * x;
            }
            value
        };
        let state = minimise(quadratic, vec![1.0; 30], 400);
        assert!(state.value < 1e-12, "{} after {} evaluations", state.value, state.evaluations);
        let quartic = |x: &[f64], g: &mut [f64]| {
            g.iter_mut().zip(x).for_each(|(g, x)| *g = 4.0 * (x - 3.0).powi(3));
            x.iter().map(|x| (x - 3.0).powi(4)).sum()
        };
        assert!(minimise(quartic, vec![0.0; 4], 200).value < 1e-10);
    }

    #[test]
    fn walls_of_infinity_and_far_starts_are_survived() {
        // -log barriers: not finite outside (0, inf); minimum at 1.
        let barrier = |x: &[f64], g: &mut [f64]| {
            g.iter_mut().zip(x).for_each(|(g, x)| *g = 1.0 - 1.0 / x);
            x.iter().map(|&x| if x > 0.0 { x - x.ln() } else { f64::INFINITY }).sum()
        };
        let state = minimise(barrier, vec![1e-3, 1e3, 5.0], 300);
        assert!(state.x.iter().all(|x| (x - 1.0).abs() < 1e-5), "{:?}", state.x);
    }

    #[test]
    fn a_minimum_and_nan_stall_at_once() {
        let state = minimise(rosenbrock, vec![1.0, 1.0], 5);
        assert_eq!((state.evaluations, state.value), (1, 0.0));
        let nan = minimise(
            |_, g| {
                g.fill(f64::NAN);
                f64::NAN
            },
            vec![1.0],
            5,
        );
        assert_eq!(nan.evaluations, 1);
    }

    #[test]
    fn a_cloned_state_continues_bit_for_bit() {
        let mut f = |x: &[f64], g: &mut [f64]| Ok(rosenbrock(x, g));
        let mut a = Lbfgs::new(vec![-1.2, 1.0, 0.5], 4, 0.1, &mut f).unwrap();
        for _ in 0..7 {
            a.step(&mut f).unwrap();
        }
        let mut b = a.clone();
        for _ in 0..7 {
            a.step(&mut f).unwrap();
            b.step(&mut f).unwrap();
        }
        assert_eq!(a, b);
    }
}
