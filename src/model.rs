//! A fitted pair of encoders: applying it, saving it, loading it.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::FitOptions;
use crate::io::{AtomicFile, RowSource};
use crate::kernel::Kernel;
use crate::loss::Loss;
use faer::Mat;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Version of the file layout; readers refuse newer ones.
const FORMAT_VERSION: u32 = 1;

/// Which modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first (rows of the similarity matrix).
    X,
    /// The second (its columns).
    Y,
}

/// `k(x) = (k(x, z_1), ..., k(x, z_m))`.
#[derive(Clone, Debug)]
pub struct KernelMap {
    /// The kernel.
    pub kernel: Kernel,
    /// `Z`, `m x d`.
    pub landmarks: Mat<f64>,
}

/// One encoder: `f(x) = F x`, or `f(x) = F k(x)`.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Kernel features first, if any.
    pub map: Option<KernelMap>,
    /// `F`, `r x d` (or `r x m`).
    pub matrix: Mat<f64>,
}

impl Encoder {
    /// Width of the raw features.
    pub fn input_dim(&self) -> usize {
        self.map.as_ref().map_or(self.matrix.ncols(), |m| m.landmarks.ncols())
    }

    /// Unit-norm embeddings of raw features.
    pub(crate) fn encode<B: Backend>(&self, backend: &B, x: &B::Matrix) -> Result<B::Matrix> {
        match &self.map {
            Some(map) => {
                let k = backend.kernel(&map.kernel, x, map.landmarks.as_ref())?;
                Ok(backend.encode(&k, self.matrix.as_ref())?.0)
            }
            None => Ok(backend.encode(x, self.matrix.as_ref())?.0),
        }
    }
}

/// A pair of encoders and its share of the fused similarity.
#[derive(Clone, Debug)]
pub struct Component {
    /// Share, in (0, 1]; all components' sum to 1.
    pub weight: f64,
    /// Encoder of x.
    pub x: Encoder,
    /// Encoder of y.
    pub y: Encoder,
}

/// A fitted model. Usually one component; the batched kernel solver fuses one per mini-batch, whose similarities
/// `sum_b w_b cos_b` are the products of concatenated embeddings `sqrt(w_b) z_b`.
#[derive(Clone, Debug)]
pub struct Model {
    /// The components.
    pub components: Vec<Component>,
    /// The loss it was fitted with.
    pub loss: Loss,
    /// Everything else worth knowing about its making, by name.
    pub notes: HashMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    weight: f64,
    kernel_x: Option<Kernel>,
    kernel_y: Option<Kernel>,
}

impl Model {
    /// A model of fitted components.
    pub fn new(components: Vec<Component>, options: &FitOptions) -> Self {
        let mut notes = HashMap::new();
        let mut note = |name: &str, value: String| notes.insert(name.to_string(), value);
        note("rank", options.rank.to_string());
        note("n_iters", options.n_iters.to_string());
        note("factorization_power", options.factorization.power().to_string());
        note("rho", options.rho.to_string());
        note("ridge", options.ridge.to_string());
        note("scale_inputs", options.scale_inputs.to_string());
        note("seed", options.seed.to_string());
        if let Some(lambda) = options.whiten {
            note("whiten", lambda.to_string());
        }
        Self { components, loss: options.loss, notes }
    }

    /// Width of the raw features of a side.
    pub fn input_dim(&self, side: Side) -> usize {
        self.components.first().map_or(0, |c| encoder(c, side).input_dim())
    }

    /// Dimension of the shared space of each component.
    pub fn rank(&self) -> usize {
        self.components.first().map_or(0, |c| c.x.matrix.nrows())
    }

    /// Width of the embeddings: the components' side by side.
    pub fn embedding_dim(&self) -> usize {
        self.components.iter().map(|c| c.x.matrix.nrows()).sum()
    }

    /// Unit-norm embeddings of raw features: `n x r`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the width is not the model's; those of the source and the backend.
    pub fn encode<B: Backend>(&self, backend: &B, side: Side, x: &dyn RowSource) -> Result<B::Matrix> {
        let expected = self.input_dim(side);
        if x.cols() != expected {
            return Err(Error::invalid(x.name(), format!("{expected} columns, as the model's"), x.cols()));
        }
        self.encode_loaded(backend, side, &backend.load(x)?)
    }

    /// As [`encode`](Self::encode), of features already in the backend.
    pub(crate) fn encode_loaded<B: Backend>(
        &self,
        backend: &B,
        side: Side,
        x: &B::Matrix,
    ) -> Result<B::Matrix> {
        if let [only] = &self.components[..] {
            return encoder(only, side).encode(backend, x);
        }
        let parts: Vec<(f64, B::Matrix)> = self
            .components
            .iter()
            .map(|c| Ok((c.weight.sqrt(), encoder(c, side).encode(backend, x)?)))
            .collect::<Result<_>>()?;
        let blocks: Vec<(f64, &B::Matrix)> = parts.iter().map(|(w, z)| (*w, z)).collect();
        backend.hstack(&blocks)
    }

    /// Writes a safetensors file: tensors `c<k>.<side>.encoder` (`r x d`) and `c<k>.<side>.landmarks` (`m x d`), float64,
    /// and metadata (format version, loss, kernels, notes). Written aside and renamed.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        let mut headers = Vec::new();
        for (k, c) in self.components.iter().enumerate() {
            for (side, e) in [("x", &c.x), ("y", &c.y)] {
                tensors.push(named(format!("c{k}.{side}.encoder"), &e.matrix));
                if let Some(map) = &e.map {
                    tensors.push(named(format!("c{k}.{side}.landmarks"), &map.landmarks));
                }
            }
            let kernel = |e: &Encoder| e.map.as_ref().map(|m| m.kernel);
            headers.push(Header { weight: c.weight, kernel_x: kernel(&c.x), kernel_y: kernel(&c.y) });
        }
        let json = |what: serde_json::Result<String>| {
            what.map_err(|e| Error::bad_file(path.as_ref(), e.to_string()))
        };
        let mut metadata = self.notes.clone();
        metadata.insert("format".into(), "unicon".into());
        metadata.insert("format_version".into(), FORMAT_VERSION.to_string());
        metadata.insert("loss".into(), json(serde_json::to_string(&self.loss))?);
        metadata.insert("components".into(), json(serde_json::to_string(&headers))?);
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F64, shape.clone(), bytes);
                view.map(|v| (name.as_str(), v)).map_err(|e| Error::bad_file(path.as_ref(), e.to_string()))
            })
            .collect::<Result<_>>()?;
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|e| Error::bad_file(path.as_ref(), e.to_string()))?;
        let mut file = AtomicFile::create(path.as_ref())?;
        file.write_all(&bytes).map_err(|e| Error::io(path.as_ref(), e))?;
        file.commit()
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::BadFile`] for anything that is not such a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        Self::from_bytes(&bytes).map_err(|reason| Error::bad_file(path, reason))
    }

    /// Reads the bytes of a model file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
        let mut notes = header.metadata().clone().unwrap_or_default();
        if notes.remove("format").as_deref() != Some("unicon") {
            return Err("not a UniCon model: its metadata has no format = unicon".into());
        }
        let version = notes.remove("format_version").unwrap_or_default();
        match version.parse::<u32>() {
            Ok(v) if (1..=FORMAT_VERSION).contains(&v) => {}
            _ => return Err(format!("format_version: expected at most {FORMAT_VERSION}, got {version:?}")),
        }
        let field = |name: &str, notes: &mut HashMap<String, String>| {
            notes.remove(name).ok_or_else(|| format!("metadata lacks {name}"))
        };
        let loss: Loss =
            serde_json::from_str(&field("loss", &mut notes)?).map_err(|e| format!("loss: {e}"))?;
        loss.validate().map_err(|e| e.to_string())?;
        let headers: Vec<Header> = serde_json::from_str(&field("components", &mut notes)?)
            .map_err(|e| format!("components: {e}"))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let components: Vec<Component> = headers
            .iter()
            .enumerate()
            .map(|(k, h)| read_component(&tensors, k, h))
            .collect::<std::result::Result<_, _>>()?;
        let model = Self { components, loss, notes };
        model.check()?;
        Ok(model)
    }

    /// Whether components fit together.
    fn check(&self) -> std::result::Result<(), String> {
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
                if let Some(map) = &e.map
                    && map.landmarks.nrows() != e.matrix.ncols()
                {
                    return Err(format!("c{k}.{side}: as many landmarks as encoder columns are needed"));
                }
            }
        }
        Ok(())
    }
}

fn encoder(c: &Component, side: Side) -> &Encoder {
    match side {
        Side::X => &c.x,
        Side::Y => &c.y,
    }
}

/// A tensor's name, shape and little-endian row-major bytes.
fn named(name: String, m: &Mat<f64>) -> (String, Vec<usize>, Vec<u8>) {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)].to_le_bytes()));
    (name, vec![m.nrows(), m.ncols()], values.flatten().collect())
}

fn read_component(tensors: &SafeTensors<'_>, k: usize, h: &Header) -> std::result::Result<Component, String> {
    let side = |name: &str, kernel: Option<Kernel>| {
        let map = match kernel {
            Some(kernel) => {
                kernel.validate().map_err(|e| e.to_string())?;
                Some(KernelMap {
                    kernel,
                    landmarks: read_matrix(tensors, &format!("c{k}.{name}.landmarks"))?,
                })
            }
            None => None,
        };
        Ok::<_, String>(Encoder { map, matrix: read_matrix(tensors, &format!("c{k}.{name}.encoder"))? })
    };
    Ok(Component { weight: h.weight, x: side("x", h.kernel_x)?, y: side("y", h.kernel_y)? })
}

/// A finite 2-D tensor of float32 or float64.
fn read_matrix(tensors: &SafeTensors<'_>, name: &str) -> std::result::Result<Mat<f64>, String> {
    let t = tensors.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
    let &[rows, cols] = t.shape() else {
        return Err(format!("{name}: expected 2 dimensions, got {}", t.shape().len()));
    };
    let values: Vec<f64> = match t.dtype() {
        Dtype::F64 => t.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        other => return Err(format!("{name}: expected F32 or F64, got {other:?}")),
    };
    if values.len() != rows * cols {
        return Err(format!("{name}: expected {rows} x {cols} values, got {}", values.len()));
    }
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(format!("{name}: row {} holds NaN or infinity", at / cols));
    }
    Ok(Mat::from_fn(rows, cols, |i, j| values[i * cols + j]))
}
