//! Models as files: safetensors with tensors in float64 and everything else in the metadata.
//!
//! Files may be damaged or hostile. Everything is validated before memory of its size is allocated: extents against the
//! bytes that are there, numbers against the range in which encoding cannot overflow. Unknown tensors and fields are refused.

use super::{Component, Compression, Encoder, KernelMap, Model};
use crate::error::{Error, Result};
use crate::io::{self, AtomicFile};
use crate::kernel::Kernel;
use crate::loss::Loss;
use faer::Mat;
use safetensors::tensor::{Dtype, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Version of the file layout; readers refuse newer ones. Version 1 has no offsets, version 2 no compression; models are written as the
/// lowest version that holds them.
const FORMAT_VERSION: u32 = 3;
/// Largest magnitude of a weight. Its square and its products with any float32 are float64 numbers, so that encoders can be
/// brought into the range of float32 exactly.
const LARGEST_WEIGHT: f64 = 1e150;
/// Largest magnitude in a map to fewer columns: products with unit rows are float32 numbers. Those of the library are below 1e4.
const LARGEST_MAP: f64 = 1e15;
/// Landmarks are rows of features, which are float32 numbers.
const LARGEST_LANDMARK: f64 = f32::MAX as f64;
/// Relative error allowed between a bias and the product of encoder and offset.
const BIAS_TOLERANCE: f64 = 1e-6;
/// Error allowed in the sum of the component weights, which is 1.
const SHARES_TOLERANCE: f64 = 1e-6;

/// What is wrong with a file, in words.
type Checked<T> = std::result::Result<T, String>;

/// A component, but for its tensors.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    weight: f64,
    #[serde(deserialize_with = "stated")]
    kernel_x: Option<Kernel>,
    #[serde(deserialize_with = "stated")]
    kernel_y: Option<Kernel>,
}

/// A kernel or null, never missing: without this serde reads a missing field as null, and a kernel encoder as a linear one.
fn stated<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Kernel>, D::Error> {
    Option::deserialize(d)
}

impl Model {
    /// Writes a safetensors file: tensors `c<k>.<side>.encoder` (`r x d`), `c<k>.<side>.landmarks` (`m x d`) of kernels, and
    /// where means are taken out `c<k>.<side>.offset` (`d`) and, of linear encoders, `c<k>.<side>.bias` (`r`): their
    /// embeddings are `F x + b = F (x - m)`, divided by its length. Of compressed models `compression.<side>` (`r x R`), by which
    /// the `R` columns of all encoders side by side, each times the root of its weight, are multiplied. All float64; the metadata
    /// hold format version, loss, kernels and notes. Written aside and renamed.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::Numerical`] for a model that [`load`](Self::load) would refuse, with NaN in
    /// an encoder for instance.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = self.to_bytes()?;
        let mut file = AtomicFile::create(path.as_ref())?;
        file.write_all(&bytes).map_err(|e| Error::io(path.as_ref(), e))?;
        file.commit()
    }

    /// The bytes of a model file; equal models give equal bytes.
    ///
    /// # Errors
    /// [`Error::Numerical`] for a model that [`from_bytes`](Self::from_bytes) would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.check().map_err(|reason| Error::Numerical(format!("the model cannot be kept: {reason}")))?;
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut headers = Vec::new();
        for (k, c) in self.components.iter().enumerate() {
            for (side, e) in [("x", &c.x), ("y", &c.y)] {
                tensors.push(named(format!("c{k}.{side}.encoder"), &e.matrix));
                if let Some(map) = &e.map {
                    tensors.push(named(format!("c{k}.{side}.landmarks"), &map.landmarks));
                }
                for (name, values) in [("offset", e.offset.as_deref()), ("bias", e.bias().as_deref())] {
                    if let Some(values) = values {
                        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                        tensors.push((format!("c{k}.{side}.{name}"), vec![values.len()], bytes));
                    }
                }
            }
            let kernel = |e: &Encoder| e.map.as_ref().map(|m| m.kernel);
            headers.push(Header { weight: c.weight, kernel_x: kernel(&c.x), kernel_y: kernel(&c.y) });
        }
        let failed = |e: &dyn std::fmt::Display| Error::Numerical(format!("the model cannot be kept: {e}"));
        let mut metadata = self.notes.clone();
        metadata.insert("format".into(), "unicon".into());
        let offsets = self.components.iter().any(|c| c.x.offset.is_some() || c.y.offset.is_some());
        let version = match &self.compression {
            Some(_) => 3,
            None if offsets => 2,
            None => 1,
        };
        for (side, a) in self.compression.iter().flat_map(|a| [("x", &a.x), ("y", &a.y)]) {
            tensors.push(named(compression_name(side), a));
        }
        metadata.insert("format_version".into(), version.to_string());
        metadata.insert("loss".into(), serde_json::to_string(&self.loss).map_err(|e| failed(&e))?);
        metadata.insert("components".into(), serde_json::to_string(&headers).map_err(|e| failed(&e))?);
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F64, shape.clone(), bytes);
                view.map(|v| (name.as_str(), v)).map_err(|e| failed(&e))
            })
            .collect::<Result<_>>()?;
        let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))?;
        sort_header(&mut bytes).map_err(|e| failed(&e))?;
        Ok(bytes)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] for anything that is not such a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&io::read_file(path)?).map_err(|reason| Error::bad_file(path, reason))
    }

    /// Reads the bytes of a model file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> Checked<Self> {
        let file = Tensors::of(bytes)?;
        let mut notes = file.directory.metadata().clone().unwrap_or_default();
        if notes.remove("format").as_deref() != Some("unicon") {
            return Err("is not a UniCon model: its metadata has no format = unicon".into());
        }
        let version = notes.remove("format_version").unwrap_or_default();
        let version = match version.parse::<u32>() {
            Ok(v) if (1..=FORMAT_VERSION).contains(&v) => v,
            _ => return Err(format!("format_version: expected at most {FORMAT_VERSION}, got {version:?}")),
        };
        let mut field = |name: &str| notes.remove(name).ok_or_else(|| format!("metadata lacks {name}"));
        let loss: Loss = parsed("loss", &field("loss")?)?;
        let headers: Vec<Header> = parsed("components", &field("components")?)?;
        let (encoder_tensors, compression) = file.encoder_tensors(&headers, version)?;
        let components = headers
            .iter()
            .zip(encoder_tensors)
            .map(|(h, [x, y])| {
                let (x, y) = (file.encoder(x, h.kernel_x)?, file.encoder(y, h.kernel_y)?);
                Ok(Component { weight: h.weight, x, y })
            })
            .collect::<Checked<_>>()?;
        let compression = compression.map(|[x, y]| Compression { x: x.read(), y: y.read() });
        let model = Self { components, compression, loss, notes };
        model.check()?;
        Ok(model)
    }

    /// Checks that components fit together and that no number can make encoding overflow.
    fn check(&self) -> Checked<()> {
        self.loss.check_numbers().map_err(|e| e.to_string())?;
        let Some(first) = self.components.first() else { return Err("it has no components".into()) };
        for (k, c) in self.components.iter().enumerate() {
            if !(c.weight > 0.0 && c.weight <= 1.0) {
                return Err(format!("c{k}: weight: expected in (0, 1], got {}", c.weight));
            }
            if c.x.matrix.nrows() != c.y.matrix.nrows() || c.x.matrix.nrows() == 0 {
                return Err(format!("c{k}: the encoders of x and y must have equal numbers of rows"));
            }
            for (side, e, of) in [("x", &c.x, &first.x), ("y", &c.y, &first.y)] {
                if e.input_dim() != of.input_dim() || e.input_dim() == 0 {
                    return Err(format!("c{k}.{side}: input widths differ between components"));
                }
                in_range(&format!("c{k}.{side}.encoder"), &e.matrix, LARGEST_WEIGHT)?;
                if let Some(offset) = &e.offset {
                    let name = format!("c{k}.{side}.offset");
                    if offset.len() != e.input_dim() {
                        return Err(format!(
                            "{name}: expected {} values, got {}",
                            e.input_dim(),
                            offset.len()
                        ));
                    }
                    in_range(&name, &Mat::from_fn(1, offset.len(), |_, j| offset[j]), f64::MAX)?;
                    // Features of ordinary float64 values times weights are float64 values.
                    if e.bias().is_some_and(|b| b.iter().any(|v| !v.is_finite())) {
                        return Err(format!("c{k}.{side}.bias: the encoder times the offset is not finite"));
                    }
                }
                if let Some(map) = &e.map {
                    if map.landmarks.nrows() != e.matrix.ncols() || e.matrix.ncols() == 0 {
                        return Err(format!("c{k}.{side}: as many landmarks as encoder columns are needed"));
                    }
                    map.kernel.validate().map_err(|e| format!("c{k}.{side}: kernel: {e}"))?;
                    in_range(&format!("c{k}.{side}.landmarks"), &map.landmarks, LARGEST_LANDMARK)?;
                }
            }
        }
        if let Some(a) = &self.compression {
            let (fused, columns) = (self.fused_dim(), a.x.nrows());
            for (side, a) in [("x", &a.x), ("y", &a.y)] {
                let name = compression_name(side);
                if a.ncols() != fused || a.nrows() != columns || columns == 0 {
                    let got = format!("{} x {}", a.nrows(), a.ncols());
                    return Err(format!("{name}: expected {} x {fused} values, got {got}", columns.max(1)));
                }
                in_range(&name, a, LARGEST_MAP)?;
            }
        }
        let total: f64 = self.components.iter().map(|c| c.weight).sum();
        if (total - 1.0).abs() > SHARES_TOLERANCE {
            return Err(format!("the components' weights: expected to sum to 1, got {total}"));
        }
        Ok(())
    }
}

/// The tensor of a side's map to fewer columns.
fn compression_name(side: &str) -> String {
    format!("compression.{side}")
}

/// A part of the metadata that is JSON.
fn parsed<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Checked<T> {
    serde_json::from_str(text).map_err(|e| format!("{name}: {}", io::one_line(&e.to_string())))
}

/// Values finite and of a magnitude of at most `largest`.
fn in_range(name: &str, m: &Mat<f64>, largest: f64) -> Checked<()> {
    for j in 0..m.ncols() {
        if let Some(i) = (0..m.nrows()).find(|&i| !(-largest..=largest).contains(&m[(i, j)])) {
            let v = m[(i, j)];
            if !v.is_finite() {
                return Err(format!("{name}: row {i} holds NaN or infinity (column {j})"));
            }
            return Err(format!("{name}: {v:e} at row {i}, column {j}; at most {largest:e} can be used"));
        }
    }
    Ok(())
}

/// Puts the names in a safetensors header into order, which its writer leaves to chance, without changing its length.
fn sort_header(file: &mut [u8]) -> Checked<()> {
    let cut = || "its header cannot be read again".to_string();
    let (length, rest) = file.split_first_chunk_mut::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let header = rest.get_mut(..length).ok_or_else(cut)?;
    // A map of serde_json is sorted.
    let value: serde_json::Value = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let sorted = serde_json::to_vec(&value).map_err(|e| e.to_string())?;
    let (text, blanks) = header.split_at_mut_checked(sorted.len()).ok_or_else(cut)?;
    text.copy_from_slice(&sorted);
    blanks.fill(b' ');
    Ok(())
}

/// A tensor's name, shape and little-endian row-major bytes.
fn named(name: String, m: &Mat<f64>) -> (String, Vec<usize>, Vec<u8>) {
    let mut bytes = Vec::with_capacity(8 * m.nrows() * m.ncols());
    for i in 0..m.nrows() {
        (0..m.ncols()).for_each(|j| bytes.extend(m[(i, j)].to_le_bytes()));
    }
    (name, vec![m.nrows(), m.ncols()], bytes)
}

/// The tensors of an encoder, found and measured but not read.
struct EncoderTensors<'a> {
    name: String,
    matrix: Found<'a>,
    landmarks: Option<Found<'a>>,
    offset: Option<Found<'a>>,
    bias: Option<Found<'a>>,
}

/// The tensors of all encoders, and the maps to fewer columns.
type ModelTensors<'a> = (Vec<[EncoderTensors<'a>; 2]>, Option<[Found<'a>; 2]>);

/// A matrix in the file: its extents are not zero and their product is what its bytes hold.
struct Found<'a> {
    rows: usize,
    cols: usize,
    dtype: Dtype,
    bytes: &'a [u8],
}

/// The tensors of a model file.
struct Tensors<'a> {
    directory: safetensors::tensor::Metadata,
    data: &'a [u8],
}

impl<'a> Tensors<'a> {
    fn of(bytes: &'a [u8]) -> Checked<Self> {
        let (directory, start) = io::safetensors_directory(bytes)?;
        Ok(Self { directory, data: bytes.get(start..).unwrap_or_default() })
    }

    /// Finds every tensor that the headers announce, and the optional ones of the version; other tensors are an error.
    fn encoder_tensors(&self, headers: &[Header], version: u32) -> Checked<ModelTensors<'a>> {
        let offsets = version > 1;
        let mut left: BTreeSet<String> = self.directory.offset_keys().into_iter().collect();
        let mut take = |name: String| {
            left.remove(&name);
            self.find(&name)
        };
        let mut encoder_tensors = Vec::new();
        for (k, h) in headers.iter().enumerate() {
            let mut of_side = |side: &str, kernel: &Option<Kernel>| {
                let landmarks = match kernel {
                    Some(_) => Some(take(format!("c{k}.{side}.landmarks"))?),
                    None => None,
                };
                let name = format!("c{k}.{side}");
                let matrix = take(format!("{name}.encoder"))?;
                let there = |what: &str| offsets && self.directory.info(&format!("{name}.{what}")).is_some();
                let offset = if there("offset") { Some(take(format!("{name}.offset"))?) } else { None };
                // A linear encoder has both or neither.
                let both = kernel.is_none() && (offset.is_some() || there("bias"));
                let bias = if both { Some(take(format!("{name}.bias"))?) } else { None };
                if bias.is_some() && offset.is_none() {
                    return Err(format!("tensor {name}.offset is missing"));
                }
                Ok::<_, String>(EncoderTensors { name, matrix, landmarks, offset, bias })
            };
            encoder_tensors.push([of_side("x", &h.kernel_x)?, of_side("y", &h.kernel_y)?]);
        }
        let compressed = version > 2 && ["x", "y"].iter().any(|side| left.contains(&compression_name(side)));
        let compression = match compressed {
            true => {
                let mut map = |side| {
                    left.remove(&compression_name(side));
                    self.find(&compression_name(side))
                };
                Some([map("x")?, map("y")?])
            }
            false => None,
        };
        match left.first() {
            None => Ok((encoder_tensors, compression)),
            Some(name) => Err(format!("tensor {} belongs to no encoder", io::one_line(name))),
        }
    }

    fn find(&self, name: &str) -> Checked<Found<'a>> {
        let info: &TensorInfo =
            self.directory.info(name).ok_or_else(|| format!("tensor {name} is missing"))?;
        let vector = name.ends_with(".offset") || name.ends_with(".bias");
        let (rows, cols) = match (&info.shape[..], vector) {
            (&[rows, cols], false) => (rows, cols),
            (&[cols], true) => (1, cols),
            (shape, _) => {
                let wanted = if vector { "1 dimension" } else { "2 dimensions" };
                return Err(format!("{name}: expected {wanted}, got {}", shape.len()));
            }
        };
        if rows == 0 || cols == 0 {
            return Err(format!("{name}: expected at least one row and one column, got {rows} x {cols}"));
        }
        let dtype = info.dtype;
        if !matches!(dtype, Dtype::F64 | Dtype::F32) {
            return Err(format!("{name}: expected F32 or F64, got {dtype:?}"));
        }
        let size = dtype.bitsize() / 8;
        let bytes = self.data.get(info.data_offsets.0..info.data_offsets.1).unwrap_or_default();
        if rows.checked_mul(cols).and_then(|n| n.checked_mul(size)) != Some(bytes.len()) {
            let got = bytes.len() / size;
            return Err(format!("{name}: expected {rows} x {cols} values, got {got}"));
        }
        Ok(Found { rows, cols, dtype, bytes })
    }

    fn encoder(&self, tensors: EncoderTensors<'_>, kernel: Option<Kernel>) -> Checked<Encoder> {
        let map = kernel.zip(tensors.landmarks).map(|(kernel, z)| KernelMap { kernel, landmarks: z.read() });
        let offset = tensors.offset.map(|m| (0..m.cols).map(|j| m.value(0, j)).collect());
        let encoder = Encoder { offset, map, matrix: tensors.matrix.read() };
        if let Some(bias) = tensors.bias {
            agrees(&tensors.name, &encoder, &bias)?;
        }
        Ok(encoder)
    }
}

/// Checks that the bias, which other readers use, is minus encoder times offset.
fn agrees(name: &str, encoder: &Encoder, bias: &Found<'_>) -> Checked<()> {
    let (Some(m), (r, d)) = (&encoder.offset, (encoder.matrix.nrows(), encoder.matrix.ncols())) else {
        return Ok(());
    };
    if bias.cols != r || m.len() != d {
        let got = format!("{} and {}", bias.cols, m.len());
        return Err(format!("{name}: expected a bias of {r} values and an offset of {d}, got {got}"));
    }
    for i in 0..r {
        let terms = (0..d).map(|j| encoder.matrix[(i, j)] * m[j]);
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
        let off = (bias.value(0, i) + sum).abs();
        if off.is_nan() || off > BIAS_TOLERANCE * size {
            return Err(format!("{name}.bias: value {i} is not that of the encoder times the offset"));
        }
    }
    Ok(())
}

impl Found<'_> {
    fn value(&self, i: usize, j: usize) -> f64 {
        let at = i * self.cols + j;
        match self.dtype {
            Dtype::F32 => f32::from_le_bytes(self.bytes.as_chunks::<4>().0[at]).into(),
            _ => f64::from_le_bytes(self.bytes.as_chunks::<8>().0[at]),
        }
    }

    fn read(&self) -> Mat<f64> {
        Mat::from_fn(self.rows, self.cols, |i, j| self.value(i, j))
    }
}
