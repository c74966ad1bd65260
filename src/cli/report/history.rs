//! What a model remembers of its making.

use serde::Deserialize;
use unicon::model::Model;

/// The record of a fit as [`FitInfo`](unicon::fit::FitInfo) notes it in a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss, in stretches that are comparable.
    pub stretches: Vec<Stretch>,
    /// The loss of the result over all negatives.
    pub result: Option<f64>,
    /// Singular values of the last `C`, descending: all that were computed.
    pub singular_values: Vec<f64>,
    /// How many of them the model kept.
    pub rank: usize,
}

/// Consecutive points of the loss that see the same negatives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stretch {
    /// How the points came about.
    pub name: String,
    /// `(updates and steps done before, loss)`.
    pub points: Vec<(usize, f64)>,
}

#[derive(Deserialize)]
struct Point {
    loss: Option<f64>,
    negatives: Option<usize>,
}

impl History {
    /// Reads the notes; what is missing or unreadable stays empty.
    pub fn of(model: &Model) -> Self {
        let losses: Vec<Option<f64>> = note(model, "history_loss");
        let trace: Vec<Point> = note(model, "history");
        // Spectral updates come first; each step of damping or refinement is in both records.
        let updates = losses.len().saturating_sub(trace.len());
        let mut history = Self {
            result: note(model, "final_loss"),
            singular_values: note::<Vec<Option<f64>>>(model, "singular_values")
                .into_iter()
                .flatten()
                .collect(),
            rank: note::<Option<usize>>(model, "rank").unwrap_or(0),
            ..Self::default()
        };
        for (k, loss) in losses[..updates].iter().enumerate() {
            history.push("spectral updates", k, *loss);
        }
        for (k, point) in trace.iter().enumerate() {
            let name = match point.negatives {
                None => "steps, all negatives".to_string(),
                Some(m) => format!("steps, {m} sampled negatives"),
            };
            history.push(&name, updates + k, point.loss);
        }
        history
    }

    fn push(&mut self, name: &str, step: usize, loss: Option<f64>) {
        let Some(loss) = loss.filter(|l| l.is_finite()) else { return };
        if self.stretches.last().is_none_or(|s| s.name != name) {
            self.stretches.push(Stretch { name: name.into(), points: Vec::new() });
        }
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.points.push((step, loss));
        }
    }
}

fn note<T: Default + for<'a> Deserialize<'a>>(model: &Model, name: &str) -> T {
    model.notes.get(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use unicon::loss::Loss;

    fn model(notes: &[(&str, &str)]) -> Model {
        let notes: HashMap<_, _> = notes.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Model { components: Vec::new(), compression: None, loss: Loss::default(), notes }
    }

    #[test]
    fn updates_come_before_steps_and_samples_are_kept_apart() {
        let trace = "[{\"loss\":0.5,\"negatives\":64,\"evaluations\":1,\"score\":null},\
                     {\"loss\":0.4,\"negatives\":null,\"evaluations\":2,\"score\":null}]";
        let history = History::of(&model(&[
            ("history", trace),
            ("history_loss", "[0.9,0.5,0.4]"),
            ("final_loss", "0.45"),
            ("singular_values", "[2.0,1.0]"),
            ("rank", "1"),
        ]));
        let points: Vec<_> = history.stretches.iter().flat_map(|s| s.points.clone()).collect();
        assert_eq!(points, [(0, 0.9), (1, 0.5), (2, 0.4)]);
        assert_eq!(history.stretches.len(), 3);
        assert_eq!((history.result, history.rank), (Some(0.45), 1));
    }

    #[test]
    fn strange_notes_are_left_out() {
        let history = History::of(&model(&[
            ("history", "[{\"loss\":[]}]"),
            ("history_loss", "[null,0.5]"),
            ("rank", "-1"),
        ]));
        assert_eq!(history.stretches[0].points, [(1, 0.5)]);
        assert_eq!((history.singular_values.len(), history.rank), (0, 0));
    }
}
