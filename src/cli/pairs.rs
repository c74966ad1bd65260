//! Rows of both sides and who matches whom: read, rid of bad rows where asked for, and looked at for repeats.

use super::args::PositivesArgs;
use super::output::{self, Report};
use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;
use unicon::Error;
use unicon::fit::Data;
use unicon::io::{Duplicates, RowSource, Rows, bad_rows, duplicate_groups};
use unicon::positives::Positives;

/// `--groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupsArg {
    /// Rows of x that are equal have each other's matches, and so have rows of y.
    Auto,
}

/// What happens to rows before they are used.
#[derive(clap::Args, Clone, Default)]
pub struct RowsArgs {
    /// Equal rows are one: a row of x matches every row of y that one equal to it is paired with, and the other way round.
    #[arg(long, value_enum, conflicts_with_all = ["groups_x", "groups_y", "pos_indptr", "pos_indices"])]
    pub groups: Option<GroupsArg>,
    /// Leave out rows that hold NaN, infinity or values beyond float32: the whole pair, or with groups or lists the row with its
    /// matches.
    #[arg(long)]
    pub drop_bad_rows: bool,
}

/// Features of both sides and who matches whom.
pub struct Pairs {
    pub x: Box<dyn RowSource>,
    pub y: Box<dyn RowSource>,
    pub positives: Positives,
    /// Rows that were dropped, where that was asked for.
    dropped: Option<(usize, usize)>,
    /// Whether row i matches row i because nothing else was said.
    by_row: bool,
}

impl Pairs {
    /// Opened features with their matches, as the arguments have them.
    pub fn of(x: Box<dyn RowSource>, y: Box<dyn RowSource>, args: &PositivesArgs) -> Result<Self> {
        let positives = args.read(&x, &y)?;
        let by_row = positives.is_diagonal() && args.groups_x.is_none() && args.pos_indptr.is_none();
        let mut pairs = Self { x, y, positives, dropped: None, by_row };
        if args.rows.drop_bad_rows {
            pairs = pairs.without_bad_rows()?;
        }
        if args.rows.groups == Some(GroupsArg::Auto) {
            pairs.positives =
                Positives::of_equal_rows(&duplicate_groups(&pairs.x)?, &duplicate_groups(&pairs.y)?)?;
            pairs.by_row = false;
        }
        Ok(pairs)
    }

    fn without_bad_rows(self) -> Result<Self> {
        let Self { x, y, positives, by_row, .. } = self;
        let (bad_x, bad_y) = (bad_rows(&x)?, bad_rows(&y)?);
        if bad_x.is_empty() && bad_y.is_empty() {
            return Ok(Self { x, y, positives, dropped: Some((0, 0)), by_row });
        }
        let (keep_x, keep_y, positives) = positives.without(&bad_x, &bad_y)?;
        let dropped = (x.rows() - keep_x.len(), y.rows() - keep_y.len());
        if positives.nnz() == 0 {
            let got = format!("{} of {} and {} of {} bad", bad_x.len(), x.name(), bad_y.len(), y.name());
            return Err(Error::invalid("--drop-bad-rows", "a pair of good rows", got).into());
        }
        let (x, y) = (Box::new(Rows::new(x, keep_x)?), Box::new(Rows::new(y, keep_y)?));
        Ok(Self { x, y, positives, dropped: Some(dropped), by_row })
    }

    /// As the solvers take them.
    pub fn data(&self) -> Data<'_> {
        Data { x: &self.x, y: &self.y, positives: &self.positives }
    }

    /// Says what was dropped and which rows repeat: their numbers as a fit counted them, or counted here.
    pub fn tell(&self, report: &mut Report, counted: Option<(Option<usize>, Option<usize>)>) -> Result<()> {
        if let Some((x, y)) = self.dropped {
            report.value("dropped_rows", json!({ "x": x, "y": y }))?;
            if x + y > 0 {
                let (x, y) = (output::count(x, "row"), output::count(y, "row"));
                report
                    .line(format!("dropped for NaN, infinity or values beyond float32: {x} of x, {y} of y"));
            }
        }
        let (x, y) = match counted {
            Some(counted) => counted,
            None => {
                let distinct = |source: &dyn RowSource| duplicate_groups(source).map(|d| d.distinct());
                (Some(distinct(&self.x)?), Some(distinct(&self.y)?))
            }
        };
        let sides = [("x", self.x.rows(), x), ("y", self.y.rows(), y)];
        let counts = sides.map(|(_, rows, distinct)| json!({ "rows": rows, "distinct": distinct }));
        let [x, y] = counts;
        report.value("duplicates", json!({ "x": x, "y": y }))?;
        let many = sides.iter().filter_map(|&(side, rows, distinct)| {
            let distinct = distinct.filter(|&d| Duplicates::many_of(rows, d))?;
            Some(format!("{side}: {distinct} distinct rows of {rows}"))
        });
        let many: Vec<String> = many.collect();
        if self.by_row && !many.is_empty() {
            let hint = format!(
                "{}: rows that repeat are their own negatives; --groups auto makes equal rows match (or give --groups-x and \
                 --groups-y)",
                many.join(", ")
            );
            report.value("hint", &hint)?;
            report.line(format!("hint: {hint}"));
        }
        Ok(())
    }
}
