//! Features on disk and in memory, and outputs.
//!
//! A [`RowSource`] is a matrix (rows are samples) from which ranges of rows can be read as `f32` or `f64`, whatever it is
//! stored as: a borrowed strided view ([`MatView`]), an owned matrix ([`HostMatrix`]), a memory-mapped `.npy` file,
//! `.npz` array or safetensors tensor ([`MappedMatrix`]), a set of such shards ([`Shards`]), or some rows of another source
//! ([`Rows`], [`RowRange`]). [`Features::open`] chooses by the path. Files are validated against their length before
//! anything is allocated or read, so that a damaged or hostile one gives an error that names it.
//!
//! Outputs are written to a temporary file in their own directory and renamed when complete ([`AtomicFile`]).

mod archive;
mod atomic;
mod bytes;
mod center;
mod check;
mod condition;
mod convert;
mod convert_hint;
mod dtype;
mod duplicates;
mod features;
mod index;
mod mapped;
mod npy;
mod npy_header;
mod npz;
mod paged;
mod partial;
mod pickle;
mod safetensors;
mod shards;
mod source;
mod spec;
mod subset;
mod torch;
mod unit;
mod view;

pub(crate) use self::safetensors::{directory as safetensors_directory, one_line};
pub use self::safetensors::{open_safetensors, safetensors_names};
pub use atomic::AtomicFile;
pub(crate) use bytes::read_file;
pub(crate) use center::{Center, column_sums};
#[cfg(feature = "cli")]
pub(crate) use check::FINITE;
pub use check::{FeatureReport, Survey, bad_rows, check_finite, check_finite_as, survey};
pub(crate) use check::{Screened, check_digests, exponent, survey_rows};
pub use condition::{Conditioned, Conditioning, RowScale};
pub(crate) use condition::{is_ordinary, times_power};
pub use convert::HostFloat;
pub use dtype::{Dtype, Element};
pub use duplicates::{Digest, Duplicates, duplicate_groups};
pub use features::{Features, files_of, open};
pub(crate) use index::parse_index_vector;
pub use index::read_index_vector;
pub use mapped::{MappedArray, MappedMatrix};
pub use npy::{NpyWriter, open_npy, parse_npy, write_npy};
pub use npz::NpzWriter;
pub(crate) use paged::PagedMatrix;
pub use partial::remove_partial_files;
pub use shards::Shards;
pub(crate) use source::check_request;
pub use source::{Part, RowSource, read_all, read_panel};
pub use subset::{RowRange, Rows};
pub use unit::UnitRows;
pub use view::{HostMatrix, MatView};

#[cfg(not(target_endian = "little"))]
compile_error!(
    "UniCon reads and writes little-endian files without conversion and needs a little-endian machine"
);
