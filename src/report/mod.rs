//! One page that shows an alignment: [`measure`] and [`look`] make the numbers, [`page`] the HTML, [`svg`] the charts.

mod examples;
mod history;
mod look;
mod measure;
mod page;
pub mod svg;

pub use examples::{Confusion, Example, Examples, examples};
pub use history::{History, Stretch};
pub use look::{Histogram, Look, Map, WeightSample, look};
pub use measure::{Curve, Measured, measure};
pub use page::{Page, page};
