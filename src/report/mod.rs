//! One page that shows an alignment: [`measure`] and [`look`] make the numbers, [`page`] the HTML, [`svg`] the charts.

mod history;
mod look;
mod measure;
mod page;
pub mod svg;

pub use history::{History, Stretch};
pub use look::{Histogram, Look, Map, WeightSample, look};
pub use measure::{Measured, measure};
pub use page::{Page, page};
