//! The state of a long fit on disk: written after every iteration, renamed into place, and read back bit for bit.

use super::info::{FitInfo, TracePoint};
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::io::{AtomicFile, one_line, read_file, safetensors_directory};
use safetensors::tensor::{Dtype, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the state is kept, and of which fit it is.
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// Options, shapes and a digest of the start: a state of another fit is refused.
    fingerprint: String,
}

/// What is not a tensor. Float64 values travel as tensors: JSON might round them.
#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: String,
    /// Which part of the fit it belongs to.
    phase: String,
    state: serde_json::Value,
    negatives: Vec<Option<usize>>,
    evaluations: Vec<usize>,
}

/// A state that was read.
pub(crate) struct Saved {
    path: PathBuf,
    header: Header,
    tensors: HashMap<String, Vec<f64>>,
    trace: Vec<TracePoint>,
}

impl Checkpoint {
    /// A checkpoint of the fit that `options` describe and that starts from `start`.
    pub(crate) fn new(path: &Path, options: &str, start: &[f64]) -> Self {
        // FNV-1a over the bits.
        let digest = start.iter().flat_map(|v| v.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| {
            (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { path: path.to_path_buf(), fingerprint: format!("{options} {digest:016x}") }
    }

    /// Replaces the file. Rank 0 writes.
    pub(crate) fn save(
        &self,
        group: &Group,
        phase: &str,
        state: &impl Serialize,
        tensors: Vec<(String, &[f64])>,
        trace: &[TracePoint],
    ) -> Result<()> {
        if !group.is_first() {
            return Ok(());
        }
        let bad = |e: &dyn std::fmt::Display| Error::bad_file(&self.path, e.to_string());
        let header = Header {
            fingerprint: self.fingerprint.clone(),
            phase: phase.into(),
            state: serde_json::to_value(state).map_err(|e| bad(&e))?,
            negatives: trace.iter().map(|t| t.negatives).collect(),
            evaluations: trace.iter().map(|t| t.evaluations).collect(),
        };
        let of = |f: &dyn Fn(&TracePoint) -> f64| trace.iter().map(f).collect::<Vec<f64>>();
        let history = [
            ("trace.seconds", of(&|t| t.seconds)),
            ("trace.loss", of(&|t| t.loss)),
            ("trace.score", of(&|t| t.score.unwrap_or(f64::NAN))),
            ("trace.error", of(&|t| t.sampling_error.unwrap_or(f64::NAN))),
        ];
        let history = history.iter().map(|(name, values)| ((*name).into(), &values[..]));
        let bytes: Vec<(String, usize, Vec<u8>)> = tensors
            .into_iter()
            .chain(history)
            .map(|(name, v)| (name, v.len(), v.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, len, bytes)| {
                TensorView::new(Dtype::F64, vec![*len], bytes)
                    .map(|v| (name.as_str(), v))
                    .map_err(|e| bad(&e))
            })
            .collect::<Result<Vec<_>>>()?;
        let header = serde_json::to_string(&header).map_err(|e| bad(&e))?;
        let metadata =
            HashMap::from([("format".into(), "unicon-checkpoint".into()), ("state".into(), header)]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(|e| bad(&e))?;
        let mut out = AtomicFile::create(&self.path)?;
        out.write_all(&file).map_err(|e| Error::io(&self.path, e))?;
        out.commit()
    }

    /// The state of an earlier run, where there is one of this phase. Rank 0 reads it for all; it does not depend on the
    /// number of ranks.
    pub(crate) fn load(&self, group: &Group, phase: &str) -> Result<Option<Saved>> {
        let mut bytes = Vec::new();
        if group.is_first() {
            match read_file(&self.path) {
                Ok(read) => bytes = read,
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        bytes.resize(group.same(bytes.len() as u64)? as usize, 0);
        group.broadcast(0, &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let saved = self.parse(&bytes).map_err(|reason| Error::bad_file(&self.path, reason))?;
        Ok(Some(saved).filter(|s| s.header.phase == phase))
    }

    fn parse(&self, bytes: &[u8]) -> std::result::Result<Saved, String> {
        let (meta, start) =
            safetensors_directory(bytes).map_err(|reason| format!("not a checkpoint: {reason}"))?;
        let notes = meta.metadata().clone().unwrap_or_default();
        if notes.get("format").map(String::as_str) != Some("unicon-checkpoint") {
            return Err("not a checkpoint of a fit".into());
        }
        let header: Header = serde_json::from_str(notes.get("state").map_or("", String::as_str))
            .map_err(|e| format!("state: {}", one_line(&e.to_string())))?;
        if header.fingerprint != self.fingerprint {
            return Err(
                "it belongs to a fit with other options or other data; remove it to start anew".into()
            );
        }
        let data = bytes.get(start..).unwrap_or_default();
        let mut tensors = HashMap::new();
        for (name, info) in meta.tensors() {
            if info.dtype != Dtype::F64 {
                return Err(format!("{}: expected F64, got {:?}", one_line(&name), info.dtype));
            }
            let values = data.get(info.data_offsets.0..info.data_offsets.1).unwrap_or_default();
            let values = values.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
            tensors.insert(name, values.collect::<Vec<f64>>());
        }
        let mut saved = Saved { path: self.path.clone(), header, tensors, trace: Vec::new() };
        let count = saved.header.negatives.len();
        if saved.header.evaluations.len() != count {
            return Err("its history is incomplete".into());
        }
        let read = |name: &str| saved.tensor(name, count).map_err(|e| e.to_string());
        let (seconds, loss) = (read("trace.seconds")?, read("trace.loss")?);
        let (score, error) = (read("trace.score")?, read("trace.error")?);
        let known = |v: f64| Some(v).filter(|v| !v.is_nan());
        saved.trace = (0..count)
            .map(|k| TracePoint {
                seconds: seconds[k],
                loss: loss[k],
                negatives: saved.header.negatives[k],
                evaluations: saved.header.evaluations[k],
                score: known(score[k]),
                sampling_error: known(error[k]),
            })
            .collect();
        Ok(saved)
    }
}

impl Saved {
    /// What is not a tensor.
    pub(crate) fn header<H: DeserializeOwned>(&self) -> Result<H> {
        serde_json::from_value(self.header.state.clone())
            .map_err(|e| Error::bad_file(&self.path, format!("state: {e}")))
    }

    /// A tensor of `len` values.
    pub(crate) fn tensor(&self, name: &str, len: usize) -> Result<Vec<f64>> {
        match self.tensors.get(name) {
            Some(values) if values.len() == len => Ok(values.clone()),
            Some(values) => {
                let reason = format!("{name}: expected {len} values, got {}", values.len());
                Err(Error::bad_file(&self.path, reason))
            }
            None => Err(Error::bad_file(&self.path, format!("tensor {name} is missing"))),
        }
    }

    /// Continues the history.
    pub(crate) fn resume(self, info: &mut FitInfo) {
        info.iterations += self.trace.len();
        info.loss.extend(self.trace.iter().map(|t| t.loss));
        info.evaluations = self.trace.last().map_or(info.evaluations, |t| t.evaluations);
        info.trace.extend(self.trace);
    }
}
