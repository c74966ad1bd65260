//! What a fit noticed that a person may want to know.

use super::info::{FitInfo, FitStatus};
use crate::io::Duplicates;

impl FitInfo {
    /// A sentence for everything out of the ordinary, of a fit of `rows` of x and of y; `by_row` where x_i matches y_i.
    pub fn notes(&self, rows: (usize, usize), by_row: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let sides = [("x", rows.0, self.zero_rows.0, self.unmatched.0, self.distinct.0), {
            ("y", rows.1, self.zero_rows.1, self.unmatched.1, self.distinct.1)
        }];
        for (side, rows, zero, unmatched, distinct) in sides {
            if zero > 0 {
                notes.push(format!(
                    "{zero} of {rows} rows of {side} are all zero: they have no direction to embed"
                ));
            }
            if unmatched > 0 {
                notes.push(format!(
                    "{unmatched} of {rows} rows of {side} match nothing: they add nothing to the loss"
                ));
            }
            match distinct {
                Some(distinct) if by_row && Duplicates::many_of(rows, distinct) => notes.push(format!(
                    "{side} has {distinct} distinct rows of {rows}: rows that repeat are their own negatives unless groups make them match"
                )),
                _ => {}
            }
        }
        if self.rows_dropped > 0 {
            notes.push(format!("{} rows were not used by any batch", self.rows_dropped));
        }
        let apart = self.chosen.as_ref().and_then(|c| c.apart);
        if apart.is_some_and(|a| !(a.matches && a.duplicates_x && a.duplicates_y)) {
            notes.push("rows held back to choose on have matches or copies among the rows that train, for these are too many".into());
        }
        // The record of a single solver: refinement and damping only ever go down.
        let raised = self.loss.windows(2).position(|w| w[1] > w[0]).filter(|_| self.trace.is_empty());
        if let Some(after) = self.rejected {
            let (update, before) = (self.iterations + 1, self.loss.last().copied().unwrap_or(f64::NAN));
            notes.push(format!(
                "update {update} raised the loss from {before:.6} to {after:.6}: the encoders before it are returned"
            ));
        } else if let Some(k) = raised {
            notes.push(format!(
                "update {} raised the loss from {:.6} to {:.6}: fewer updates, whitening or a larger nu may help",
                k + 1,
                self.loss[k],
                self.loss[k + 1]
            ));
        }
        if self.status == FitStatus::OutOfTime {
            notes.push("the time allowed ended the fit before its last update or step".into());
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_fits_have_no_notes() {
        let info = FitInfo { loss: vec![2.0, 1.0], distinct: (Some(100), None), ..FitInfo::default() };
        assert_eq!(info.notes((100, 100), true), [""; 0]);
    }

    #[test]
    fn every_note_has_its_numbers() {
        let info = FitInfo {
            loss: vec![2.0, 1.0, 1.5],
            distinct: (Some(80), Some(400)),
            zero_rows: (3, 0),
            unmatched: (0, 7),
            rows_dropped: 10,
            status: FitStatus::OutOfTime,
            ..FitInfo::default()
        };
        let notes = info.notes((400, 400), true).join("\n");
        for expected in
            ["3 of 400 rows of x are all zero", "7 of 400 rows of y match nothing", "80 distinct rows of 400"]
        {
            assert!(notes.contains(expected), "{notes}");
        }
        assert!(notes.contains("update 2 raised the loss from 1.000000 to 1.500000"), "{notes}");
        assert!(
            notes.contains("10 rows") && notes.contains("the time allowed") && !notes.contains("y has"),
            "{notes}"
        );
        assert!(!info.notes((400, 400), false).join("\n").contains("distinct"));
        let rejected =
            FitInfo { loss: vec![2.0, 1.0], iterations: 1, rejected: Some(3.0), ..FitInfo::default() };
        assert!(
            rejected.notes((9, 9), true)[0].contains("update 2 raised the loss from 1.000000 to 3.000000")
        );
    }
}
