//! The state of a long refinement on disk: written after every step, renamed into place, and read back bit for bit.

use super::info::TracePoint;
use super::refine::State;
use crate::comm::Group;
use crate::error::{Error, Result};
use crate::io::AtomicFile;
use crate::optim::{Lbfgs, Pair};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the state is kept, and of which fit it is.
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// Options and shapes: a state of another fit is refused.
    fingerprint: String,
}

/// What is not a tensor. Float64 values travel as tensors: JSON might round them.
#[derive(Serialize, Deserialize)]
struct Header {
    fingerprint: String,
    stage: usize,
    steps: usize,
    stale: usize,
    done: bool,
    memory: usize,
    evaluations: usize,
    pairs: usize,
    best: bool,
    negatives: Vec<Option<usize>>,
    trace_evaluations: Vec<usize>,
}

impl Checkpoint {
    pub(crate) fn new(path: &Path, fingerprint: &str) -> Self {
        Self { path: path.to_path_buf(), fingerprint: fingerprint.into() }
    }

    /// Replaces the file.
    pub(crate) fn save(&self, state: &State, trace: &[TracePoint]) -> Result<()> {
        let l = &state.lbfgs;
        let header = Header {
            fingerprint: self.fingerprint.clone(),
            stage: state.stage,
            steps: state.steps,
            stale: state.stale,
            done: state.done,
            memory: l.memory,
            evaluations: l.evaluations,
            pairs: l.pairs.len(),
            best: state.best.is_some(),
            negatives: trace.iter().map(|t| t.negatives).collect(),
            trace_evaluations: trace.iter().map(|t| t.evaluations).collect(),
        };
        let best_score = state.best.as_ref().map_or(f64::NAN, |b| b.0);
        let scalars = vec![l.value, l.first_step, best_score];
        let of = |f: &dyn Fn(&TracePoint) -> f64| trace.iter().map(f).collect::<Vec<f64>>();
        let (seconds, loss) = (of(&|t| t.seconds), of(&|t| t.loss));
        let score = of(&|t| t.score.unwrap_or(f64::NAN));
        let mut named: Vec<(String, &[f64])> = vec![
            ("x".into(), &l.x),
            ("gradient".into(), &l.gradient),
            ("scalars".into(), &scalars),
            ("trace.seconds".into(), &seconds),
            ("trace.loss".into(), &loss),
            ("trace.score".into(), &score),
        ];
        for (k, pair) in l.pairs.iter().enumerate() {
            named.push((format!("s.{k}"), &pair.s));
            named.push((format!("y.{k}"), &pair.y));
        }
        if let Some((_, x)) = &state.best {
            named.push(("best".into(), x));
        }
        let bad = |e: &dyn std::fmt::Display| Error::bad_file(&self.path, e.to_string());
        let bytes: Vec<(String, usize, Vec<u8>)> = named
            .into_iter()
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

    /// The state of an earlier run over `variables` variables; none where there is no file. Rank 0 reads it for all; it does
    /// not depend on the number of ranks.
    pub(crate) fn load(&self, group: &Group, variables: usize) -> Result<Option<(State, Vec<TracePoint>)>> {
        let mut bytes = Vec::new();
        if group.is_first() {
            match std::fs::read(&self.path) {
                Ok(read) => bytes = read,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(&self.path, e)),
            }
        }
        bytes.resize(group.same(bytes.len() as u64)? as usize, 0);
        group.broadcast(0, &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.parse(&bytes, variables).map(Some).map_err(|reason| Error::bad_file(&self.path, reason))
    }

    fn parse(&self, bytes: &[u8], variables: usize) -> std::result::Result<(State, Vec<TracePoint>), String> {
        let (_, meta) = SafeTensors::read_metadata(bytes).map_err(|e| format!("not a checkpoint: {e}"))?;
        let notes = meta.metadata().clone().unwrap_or_default();
        if notes.get("format").map(String::as_str) != Some("unicon-checkpoint") {
            return Err("not a checkpoint of a fit".into());
        }
        let header: Header = serde_json::from_str(notes.get("state").map_or("", String::as_str))
            .map_err(|e| format!("state: {e}"))?;
        if header.fingerprint != self.fingerprint {
            return Err(
                "it belongs to a fit with other options or other data; remove it to start anew".into()
            );
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let read = |name: &str, len: Option<usize>| {
            let t = tensors.tensor(name).map_err(|_| format!("tensor {name} is missing"))?;
            let values: Vec<f64> =
                t.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
            match len {
                Some(len) if values.len() != len => {
                    Err(format!("{name}: expected {len} values, got {}", values.len()))
                }
                _ => Ok(values),
            }
        };
        let scalars = read("scalars", Some(3))?;
        let pair = |k: usize| {
            Ok::<_, String>(Pair {
                s: read(&format!("s.{k}"), Some(variables))?,
                y: read(&format!("y.{k}"), Some(variables))?,
            })
        };
        let lbfgs = Lbfgs {
            x: read("x", Some(variables))?,
            value: scalars[0],
            gradient: read("gradient", Some(variables))?,
            pairs: (0..header.pairs).map(pair).collect::<std::result::Result<_, _>>()?,
            memory: header.memory,
            first_step: scalars[1],
            evaluations: header.evaluations,
        };
        let best = match header.best {
            true => Some((scalars[2], read("best", Some(variables))?)),
            false => None,
        };
        let count = header.negatives.len();
        let (seconds, loss) = (read("trace.seconds", Some(count))?, read("trace.loss", Some(count))?);
        let score = read("trace.score", Some(count))?;
        if header.trace_evaluations.len() != count {
            return Err("its history is incomplete".into());
        }
        let trace = (0..count)
            .map(|k| TracePoint {
                seconds: seconds[k],
                loss: loss[k],
                negatives: header.negatives[k],
                evaluations: header.trace_evaluations[k],
                score: Some(score[k]).filter(|s| !s.is_nan()),
            })
            .collect();
        let (stage, steps, stale, done) = (header.stage, header.steps, header.stale, header.done);
        Ok((State { lbfgs, stage, steps, stale, best, done }, trace))
    }
}
