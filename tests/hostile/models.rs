//! Models whose files are in order and whose contents are not: refused in one line, or a model that works.

use crate::parts::{Parts, kernel, tensor};
use crate::watch::{cases, watched};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::io::HostMatrix;
use unicon::model::{Model, Side};

/// What must become of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Refused,
    Accepted,
}

const KINDS: [&str; 7] = ["linear", "cosine", "angular", "arccos", "exp-cosine", "rbf", "matern"];
const EXTENTS: [u64; 12] =
    [0, 1, 2, 3, 7, 1 << 20, 1 << 31, 1 << 32, 1 << 53, 1 << 62, u64::MAX / 2, u64::MAX];
const VALUES: [f64; 14] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    -f64::MAX,
    1e300,
    -1e151,
    1e150,
    1e39,
    -1e30,
    0.0,
    -0.0,
    5e-324,
    -1e-310,
];
/// Numbers as JSON has them, and what is none.
const WRITTEN: [&str; 22] = [
    "0", "-0.0", "1", "-1", "0.5", "1e-300", "5e-324", "1e300", "-1e308", "1e999", "-1e999", "NaN",
    "Infinity", "null", "true", "\"1\"", "[]", "{}", "[1]", "0x10", "1_000", "79.5",
];

/// A whole model of some kind.
fn whole(rng: &mut impl Rng) -> Parts {
    match rng.random_range(0..5) {
        0 => Parts::linear(),
        4 => Parts::centred(),
        1 => Parts::with_kernel(kernel(KINDS.choose(rng).unwrap())),
        2 => {
            let mut two = Parts::linear();
            let one = json!({ "weight": 0.5, "kernel_x": null, "kernel_y": null });
            two.note("components", &json!([one, one]).to_string());
            two.tensors.extend([tensor("c1.x.encoder", &[2, 3]), tensor("c1.y.encoder", &[2, 4])]);
            two
        }
        _ => {
            let mut narrow = Parts::linear();
            for (_, dtype, _, bytes) in &mut narrow.tensors {
                let values = bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32);
                *bytes = values.flat_map(f32::to_le_bytes).collect();
                *dtype = "F32";
            }
            narrow
        }
    }
}

/// Changes something, and says what must become of it.
fn change(parts: &mut Parts, rng: &mut impl Rng) -> Fate {
    let k = rng.random_range(0..parts.tensors.len());
    let name = |parts: &Parts, k: usize| parts.tensors[k].0.clone();
    match rng.random_range(0..12) {
        0 => {
            let dims = *[1, 2, 2, 2, 2, 3].choose(rng).unwrap();
            let shape: Vec<u64> = (0..dims).map(|_| *EXTENTS.choose(rng).unwrap()).collect();
            let same = shape == parts.tensors[k].2;
            *parts = parts.clone().shaped(k, &shape);
            // Bytes that were cut or filled up with zeros are a model still, if another one.
            if same && parts.tensors[k].1 == "F64" { Fate::Accepted } else { Fate::Refused }
        }
        1 | 2 if parts.tensors[k].1 == "F64" => {
            let value = *VALUES.choose(rng).unwrap();
            let at = rng.random_range(0..parts.tensors[k].3.len() / 8);
            *parts = parts.clone().valued(k, at, value);
            // Of the three tensors that agree with each other none may change alone.
            if parts.tensors.iter().any(|t| t.0 == "c0.x.bias") && name(parts, k).starts_with("c0.x") {
                return Fate::Refused;
            }
            let most = if name(parts, k).ends_with("landmarks") { f64::from(f32::MAX) } else { 1e150 };
            if value.abs() <= most { Fate::Accepted } else { Fate::Refused }
        }
        1 | 2 => {
            let value = *[f32::NAN, f32::INFINITY, f32::MAX, 1e-45, 0.0].choose(rng).unwrap();
            parts.tensors[k].3[4..8].copy_from_slice(&value.to_le_bytes());
            if value.is_finite() { Fate::Accepted } else { Fate::Refused }
        }
        3..=5 => number(parts, rng),
        6 => {
            let other = [
                "",
                "c0.x.encode",
                "c0.z.encoder",
                "c00.x.encoder",
                "C0.x.encoder",
                "c0.x.bias\n",
                "c9999999999.x.encoder",
            ];
            parts.tensors[k].0 = (*other.choose(rng).unwrap()).into();
            Fate::Refused
        }
        7 => {
            let place = parts.metadata.len();
            let again = parts.metadata[rng.random_range(0..place)].clone();
            if rng.random() {
                parts.metadata.push(again);
            } else {
                let tensor = parts.tensors[k].clone();
                parts.tensors.push(tensor);
            }
            Fate::Refused
        }
        8 => {
            if rng.random() {
                parts.tensors.remove(k);
            } else {
                let at = rng.random_range(0..parts.metadata.len());
                parts.metadata.remove(at);
            }
            Fate::Refused
        }
        9 => {
            let (dtype, size) =
                *[("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("F8_E4M3", 1), ("BOOL", 1), ("X", 8)]
                    .choose(rng)
                    .unwrap();
            let count: u64 = parts.tensors[k].2.iter().product();
            parts.tensors[k].1 = dtype;
            parts.tensors[k].3.resize(count as usize * size, 0);
            Fate::Refused
        }
        10 => {
            let words = ["loss", "components", "format", "format_version"];
            let texts = [
                "",
                "{",
                "[]",
                "null",
                "polynomial",
                "\u{0}",
                "99",
                "-1",
                "1e300",
                "[[[[[[",
                "{\"kind\":\"clip\"}",
            ];
            parts.note(words.choose(rng).unwrap(), texts.choose(rng).unwrap());
            Fate::Refused
        }
        _ => {
            // A note is anyone's to write.
            let text = ["\u{1b}[31m", "a\nb", "", "null", "\u{202e}", &"9".repeat(5000)];
            parts.note("history", text.choose(rng).unwrap());
            parts.note("title", text.choose(rng).unwrap());
            Fate::Accepted
        }
    }
}

/// Replaces a number of the loss, the shares or a kernel by another, or by none.
fn number(parts: &mut Parts, rng: &mut impl Rng) -> Fate {
    let note = if rng.random() { "loss" } else { "components" };
    let Some((_, Value::String(text))) = parts.metadata.iter().find(|(n, _)| n == note) else {
        return Fate::Refused;
    };
    let fields = [
        "tau",
        "nu",
        "margin",
        "eps_pos",
        "eps_neg",
        "log_eps",
        "weight",
        "beta",
        "gamma",
        "lengthscale",
        "cos_clamp",
    ];
    let there: Vec<&str> = fields.into_iter().filter(|f| text.contains(&format!("\"{f}\":"))).collect();
    let field = *there.choose(rng).unwrap();
    let start = text.find(&format!("\"{field}\":")).unwrap() + field.len() + 3;
    let end = start + text[start..].find([',', '}']).unwrap();
    let written = *WRITTEN.choose(rng).unwrap();
    let shared = text.matches("\"weight\":").count() > 1;
    let text = format!("{}{written}{}", &text[..start], &text[end..]);
    parts.note(note, &text);
    let Ok(v) = serde_json::from_str::<f64>(written) else { return Fate::Refused };
    let good = match field {
        "tau" => (1e-3..=1e6).contains(&v),
        "nu" | "margin" => v.abs() <= 1e6,
        "eps_pos" | "eps_neg" | "log_eps" => (0.0..=1e6).contains(&v),
        "weight" => v == if shared { 0.5 } else { 1.0 },
        "beta" => v.abs() <= 80.0,
        "gamma" | "lengthscale" => (1e-100..=1e100).contains(&v),
        _ => (0.0..1.0).contains(&v),
    };
    if good { Fate::Accepted } else { Fate::Refused }
}

/// What a model makes of rows: finite, and of unit length or zero; or the reason why not.
fn embedded(cpu: &Cpu<f32>, model: &Model) -> Result<(), String> {
    for (side, d) in [(Side::X, 3), (Side::Y, 4)] {
        let values: Vec<f32> = (0..3 * d).map(|k| (k as f32 * 0.7).sin() + 0.1).collect();
        let rows = HostMatrix::from_f32("rows", 3, d, values).unwrap();
        let z = model.encode(cpu, side, &rows).map_err(|e| e.to_string())?;
        let width = model.embedding_dim();
        cpu.store(&z, &mut |_, panel| {
            for row in panel.chunks(width) {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                let unit = (norm - 1.0).abs() < 1e-3;
                // Of several components each may be zero.
                let zero = model.components.len() > 1 || row.iter().all(|v| *v == 0.0);
                assert!(norm.is_finite() && (unit || zero), "a row of length {norm}: {row:?}");
            }
            Ok(())
        })
        .map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// UNICON_HOSTILE_MODELS asks for another number of models.
#[test]
fn malicious_models_are_refused_or_work() {
    let cpu = Cpu::<f32>::with(1, None, Default::default()).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(13);
    let mut fates: BTreeMap<String, usize> = BTreeMap::new();
    let count = cases("UNICON_HOSTILE_MODELS", 500);
    for case in 0..count {
        let mut parts = whole(&mut rng);
        let fate = change(&mut parts, &mut rng);
        let bytes = parts.bytes();
        let header = || {
            format!("case {case}: {}", String::from_utf8_lossy(&bytes[8..bytes.len().min(1200)]).into_owned())
        };
        let outcome = watched(header, || match Model::from_bytes(&bytes) {
            Err(reason) => {
                assert!(!reason.contains('\n') && reason.len() < 600, "not one short line: {reason}");
                (Fate::Refused, None)
            }
            Ok(model) => {
                let again =
                    Model::from_bytes(&model.to_bytes().expect("what was loaded can be saved")).unwrap();
                assert_eq!(format!("{:?}", again.components), format!("{:?}", model.components));
                (Fate::Accepted, Some(embedded(&cpu, &model)))
            }
        });
        assert_eq!(outcome.0, fate, "{}", header());
        let encodes = match outcome.1 {
            None => "refused",
            Some(Ok(())) => "accepted: encodes",
            Some(Err(_)) => "accepted: says why it cannot encode",
        };
        *fates.entry(encodes.into()).or_default() += 1;
    }
    println!("{count} models: {fates:?}");
}
