//! What is done to features before a solver sees them: powers of two bring them into range, and a mean that dwarfs their
//! spread is taken out. Both are folded into the encoders, which apply to raw features.

use super::{Data, FitInfo, Init, KernelOptions};
use crate::backend::{self, Backend};
use crate::error::Result;
use crate::io::{Conditioned, Conditioning, RowScale, RowSource, Survey, times_power};
use crate::kernel::{Kernel, KernelKind};
use crate::model::{Component, Encoder};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A mean longer than this many times the spread of the rows about it is taken out, unless centring is off.
const DWARFED: f64 = 30.0;

/// Whether the mean of each side's features is taken out of them (and folded into its encoder as a bias).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Center {
    /// Where it is more than 30 times as long as the spread of the rows about it; the preset `best` also chooses it by
    /// validation score.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What was done to one side's features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Prepared {
    /// Whether their mean was taken out.
    pub centred: bool,
    /// Length of the mean over the spread of the rows about it; none where it was not computed.
    pub mean_over_spread: Option<f64>,
    /// They were multiplied by two to this power.
    pub exponent: i32,
    /// Rows that were multiplied by powers of their own.
    pub rows: RowScale,
}

/// What brings both sides into range.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sides {
    pub(crate) x: Conditioning,
    pub(crate) y: Conditioning,
}

/// Both sides' rows, brought into range.
pub(crate) struct InRange<'a> {
    x: Conditioned<&'a dyn RowSource>,
    y: Conditioned<&'a dyn RowSource>,
    data: Data<'a>,
}

impl InRange<'_> {
    /// The rows in range, for fits.
    pub(crate) fn data(&self) -> Data<'_> {
        Data { x: &self.x, y: &self.y, positives: self.data.positives }
    }
}

impl Sides {
    /// These rows, or others of the same kind, in range.
    pub(crate) fn of<'a>(&self, data: Data<'a>) -> InRange<'a> {
        let (x, y) = (self.x.clone(), self.y.clone());
        InRange { x: Conditioned::new(data.x, x), y: Conditioned::new(data.y, y), data }
    }

    /// The same for later rows of the same kind, some of which may be out of range.
    pub(crate) fn of_batch(&self, (x, y): (&Survey, &Survey)) -> Self {
        Self { x: self.x.with_later(x), y: self.y.with_later(y) }
    }

    /// The encoders of raw features that equal those of features in range; their kernel is `kernel`, or that of the
    /// features in range as it applies to raw ones.
    pub(crate) fn finish(&self, component: Component, kernel: Option<Kernel>) -> Component {
        let side = |e: Encoder, how: &Conditioning| Encoder {
            offset: how.offset.clone(),
            map: e.map.map(|map| map.of_raw_rows(how.exponent, kernel)),
            matrix: e.matrix,
        };
        Component { x: side(component.x, &self.x), y: side(component.y, &self.y), ..component }
    }

    /// Whether a mean can still be taken out of both sides: rows that were each scaled have none in common.
    pub(crate) fn can_be_centred(&self) -> bool {
        let free =
            |how: &Conditioning| how.offset.is_none() && matches!(how.rows, RowScale::None | RowScale::Dust);
        free(&self.x) && free(&self.y)
    }

    /// The same with the means of features in range taken out.
    pub(crate) fn with_means(
        &self,
        (x, y): &(Vec<f64>, Vec<f64>),
        prepared: &mut (Prepared, Prepared),
    ) -> Self {
        (prepared.0.centred, prepared.1.centred) = (true, true);
        let side = |how: &Conditioning, mean: &[f64]| {
            let offset = mean.iter().map(|&m| times_power(m, -how.exponent)).collect();
            Conditioning { offset: Some(offset), ..how.clone() }
        };
        Self { x: side(&self.x, x), y: side(&self.y, y) }
    }

    /// What a checkpoint must agree on beside the options; nothing for ordinary features.
    pub(crate) fn fingerprint(&self) -> String {
        let side = |how: &Conditioning| match how.is_plain() {
            true => String::new(),
            false => format!(" {} {} {:?}", how.offset.is_some(), how.exponent, how.rows),
        };
        side(&self.x) + &side(&self.y)
    }
}

/// What is asked of [`prepare`].
pub(crate) struct Wanted<'a> {
    pub(crate) center: Center,
    pub(crate) kernel: Option<Kernel>,
    /// The encoders that a fit starts from; their offsets are those of the fit.
    pub(crate) start: Option<&'a Component>,
    /// The features are kernel values, which are taken as they are.
    pub(crate) values: bool,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(center: Center, kernel: Option<&KernelOptions>, init: &'a Init) -> Self {
        let start = if let Init::Model(start) = init { Some(&**start) } else { None };
        let values = kernel.is_some_and(|k| k.precomputed);
        Self { center, kernel: kernel.map(|k| k.kernel), start, values }
    }
}

/// What brings both sides into range in a fit without centring.
///
/// # Errors
/// NaN or infinite features (the row is named); those of the source and the backend.
#[cfg(feature = "cli")]
pub(crate) fn in_range<B: Backend>(backend: &B, data: Data<'_>) -> Result<Sides> {
    let wanted = Wanted { center: Center::Off, kernel: None, start: None, values: false };
    let seen = (&backend.survey(data.x)?, &backend.survey(data.y)?);
    prepare(backend, data, seen, &wanted, &mut FitInfo::default())
}

/// Decides what brings both sides, which look like `seen`, into range; notes it, and the zero rows.
pub(crate) fn prepare<B: Backend>(
    backend: &B,
    data: Data<'_>,
    (seen_x, seen_y): (&Survey, &Survey),
    wanted: &Wanted<'_>,
    info: &mut FitInfo,
) -> Result<Sides> {
    info.zero_rows = (seen_x.zero_rows, seen_y.zero_rows);
    let start = |side: fn(&Component) -> &Encoder| wanted.start.map(|c| side(c).offset.clone());
    let (x, of_x) = side(backend, data.x, seen_x, wanted, start(|c| &c.x))?;
    let (y, of_y) = side(backend, data.y, seen_y, wanted, start(|c| &c.y))?;
    info.prepared = (of_x, of_y);
    Ok(Sides { x, y })
}

/// The mean of rows.
pub(crate) fn mean_of<B: Backend>(backend: &B, source: &dyn RowSource) -> Result<Vec<f64>> {
    let seen = backend.survey(source)?;
    Ok(backend::center(backend, source, &seen)?.mean)
}

fn side<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    seen: &Survey,
    wanted: &Wanted<'_>,
    start: Option<Option<Arc<[f64]>>>,
) -> Result<(Conditioning, Prepared)> {
    if wanted.values {
        return Ok(Default::default());
    }
    let mut ratio = None;
    let offset = match (wanted.center, start) {
        (Center::Off, _) => None,
        (Center::Auto, Some(given)) | (Center::On, Some(given @ Some(_))) => given,
        (center, _) => {
            let found = backend::center(backend, source, seen)?;
            ratio = Some(found.ratio);
            (center == Center::On || found.ratio > DWARFED).then(|| Arc::from(found.mean))
        }
    };
    let scale = |seen: &Survey| match wanted.kernel.map(|k| k.kind) {
        None => Conditioning::for_fit(seen),
        Some(KernelKind::Linear) => Conditioning::for_products(seen),
        Some(KernelKind::Rbf | KernelKind::Matern) => Conditioning::for_distances(seen),
        Some(_) => Conditioning::for_encoding(seen, None),
    };
    let how = match offset {
        None => scale(seen),
        Some(offset) => {
            let taken = Conditioning { offset: Some(offset.clone()), ..Conditioning::default() };
            let left = backend.survey(&Conditioned::new(source, taken))?;
            Conditioning { offset: Some(offset), ..scale(&left) }
        }
    };
    let prepared = Prepared {
        centred: how.offset.is_some(),
        mean_over_spread: ratio,
        exponent: how.exponent,
        rows: how.rows,
    };
    Ok((how, prepared))
}
