//! Model files in parts, for tests to put together as no writer would.

#![allow(dead_code, reason = "each test program uses a part of this")]

use serde_json::{Value, json};

/// A tensor: its name, dtype, extents and bytes.
pub type Tensor = (String, &'static str, Vec<u64>, Vec<u8>);

/// A model file in parts, for tests to put together as no writer would.
#[derive(Clone)]
pub struct Parts {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

pub fn f64s(values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    values.into_iter().flat_map(f64::to_le_bytes).collect()
}

pub fn tensor(name: &str, shape: &[u64]) -> Tensor {
    let len = shape.iter().product::<u64>();
    (name.into(), "F64", shape.to_vec(), f64s((0..len).map(|v| v as f64 / 7.0 - 0.4)))
}

pub fn kernel(kind: &str) -> Value {
    json!({ "kind": kind, "beta": 1.0, "gamma": 1.0, "lengthscale": 1.0, "cos_clamp": 0.0 })
}

impl Parts {
    /// Encoders of 3 and 4 columns into 2 dimensions.
    pub fn linear() -> Self {
        let loss = json!({ "kind": "clip", "tau": 0.07, "nu": 1.0, "margin": 0.5, "eps_pos": 1.0, "eps_neg": 1.0,
            "log_eps": 0.0, "eps_by": "positives" });
        let parts = json!([{ "weight": 1.0, "kernel_x": null, "kernel_y": null }]);
        let mut all = Self { metadata: Vec::new(), tensors: Vec::new() };
        all.note("format", "unicon");
        all.note("format_version", "1");
        all.note("loss", &loss.to_string());
        all.note("components", &parts.to_string());
        all.tensors = vec![tensor("c0.x.encoder", &[2, 3]), tensor("c0.y.encoder", &[2, 4])];
        all
    }

    /// A kernel of five landmarks on the side x.
    pub fn with_kernel(kernel: Value) -> Self {
        let mut all = Self::linear();
        let parts = json!([{ "weight": 1.0, "kernel_x": kernel, "kernel_y": null }]);
        all.note("components", &parts.to_string());
        all.tensors[0] = tensor("c0.x.encoder", &[2, 5]);
        all.tensors.push(tensor("c0.x.landmarks", &[5, 3]));
        all
    }

    /// A linear model that takes a mean out of x: the bias of every row is that of the encoder times the mean.
    pub fn centred() -> Self {
        let mut all = Self::linear();
        all.note("format_version", "2");
        let mean = [0.5, -2.0, 3.25];
        let row = |i: usize| -> f64 { (0..3).map(|j| ((3 * i + j) as f64 / 7.0 - 0.4) * mean[j]).sum() };
        all.tensors.push(("c0.x.offset".into(), "F64", vec![3], f64s(mean)));
        all.tensors.push(("c0.x.bias".into(), "F64", vec![2], f64s([-row(0), -row(1)])));
        all
    }

    pub fn note(&mut self, name: &str, value: &str) {
        self.metadata.retain(|(n, _)| n != name);
        self.metadata.push((name.into(), value.into()));
    }

    /// The same with part of a note replaced.
    pub fn said(mut self, name: &str, old: &str, new: &str) -> Self {
        let note = self.metadata.iter_mut().find(|(n, _)| n == name).unwrap();
        let text = note.1.as_str().unwrap();
        assert!(text.contains(old), "{text} has no {old}");
        note.1 = text.replacen(old, new, 1).into();
        self
    }

    /// The same with other extents of a tensor, and as many bytes as they ask for, where that is possible.
    pub fn shaped(mut self, k: usize, shape: &[u64]) -> Self {
        self.tensors[k].2 = shape.to_vec();
        let bytes = shape.iter().try_fold(8u64, |n, &d| n.checked_mul(d)).unwrap_or(0);
        self.tensors[k].3.resize(bytes.min(1 << 12) as usize, 0);
        self
    }

    /// The same with one value of a tensor.
    pub fn valued(mut self, k: usize, at: usize, value: f64) -> Self {
        self.tensors[k].3[8 * at..8 * at + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        // By hand: a map would drop what is repeated.
        let quoted = |text: &str| Value::from(text).to_string();
        let notes: Vec<String> = self.metadata.iter().map(|(n, v)| format!("{}:{v}", quoted(n))).collect();
        let mut entries = vec![format!("\"__metadata__\":{{{}}}", notes.join(","))];
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            let (begin, end) = (data.len(), data.len() + bytes.len());
            let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            entries.push(format!("{}:{info}", quoted(name)));
            data.extend(bytes);
        }
        let header = format!("{{{}}}", entries.join(","));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }
}
