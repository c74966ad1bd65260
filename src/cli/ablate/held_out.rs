//! Rows that are held out of the training rows where no validation or test rows are given.

use crate::cli::fit_best::shared;
use crate::cli::output;
use crate::cli::pairs::Pairs;
use anyhow::Result;
use serde::Serialize;
use std::borrow::Cow;
use unicon::Error;
use unicon::fit::{Apart, Data, Together, hold_out};
use unicon::io::{RowSource, Rows, duplicate_groups};
use unicon::positives::Positives;

/// What was held out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct HeldOut {
    /// For validation; none where validation rows were given.
    pub validation: Option<Held>,
    /// For the test; none where test rows were given.
    pub test: Option<Held>,
}

/// Rows held out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Held {
    pub x: usize,
    pub y: usize,
    /// What they share with no row that trains.
    pub apart: Apart,
}

impl Held {
    /// What it is, for people.
    pub fn words(&self) -> String {
        let known = shared(self.apart).map_or_else(String::new, |known| format!("; {known}"));
        format!(
            "{} of x and {} of y held out of the training rows{known}",
            output::count(self.x, "row"),
            self.y
        )
    }
}

/// Some rows of both sides, and which match.
pub struct Part<'a> {
    x: Box<dyn RowSource + 'a>,
    y: Box<dyn RowSource + 'a>,
    positives: Cow<'a, Positives>,
}

impl<'a> Part<'a> {
    /// All rows.
    pub fn of(data: Data<'a>) -> Self {
        Self { x: Box::new(data.x), y: Box::new(data.y), positives: Cow::Borrowed(data.positives) }
    }

    pub fn data(&self) -> Data<'_> {
        Data { x: &self.x, y: &self.y, positives: &self.positives }
    }

    fn some(&'a self, (x, y): (Vec<usize>, Vec<usize>)) -> Result<Self> {
        let positives = Cow::Owned(self.positives.subset(&x, &y)?);
        let (of_x, of_y): (&dyn RowSource, &dyn RowSource) = (&self.x, &self.y);
        Ok(Self { x: Box::new(Rows::new(of_x, x)?), y: Box::new(Rows::new(of_y, y)?), positives })
    }

    /// The rows that were given for a purpose, or some held out of these; and those that are left.
    pub fn or_held_out(
        &'a self,
        given: Option<&'a Pairs>,
        name: &str,
        seed: u64,
    ) -> Result<(Self, Self, Option<Held>)> {
        if let Some(pairs) = given {
            return Ok((Self::of(pairs.data()), Self::of(self.data()), None));
        }
        let duplicates = (duplicate_groups(&self.x)?, duplicate_groups(&self.y)?);
        let together = Together::new(&self.positives, Some(&duplicates.0), Some(&duplicates.1));
        let Some(split) = hold_out(together, seed) else {
            let expected = "rows for this purpose: too few rows match to hold some out";
            return Err(Error::invalid(name, expected, output::count(self.x.rows(), "row")).into());
        };
        let held = Held { x: split.validation.0.len(), y: split.validation.1.len(), apart: split.apart };
        Ok((self.some(split.validation)?, self.some(split.train)?, Some(held)))
    }
}
