//! Scale, offset, and values that are not finite.
//!
//! The tries of public reports on the built program, and fits of random data at random scales, offsets and shapes in
//! process. `UNICON_FITS=30000 cargo test --release --test people numbers::` runs as many of those as it says.

mod random;
mod ways;

use crate::program::{Lab, numbers};
use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::fit::{
    Accumulate, BestOptions, Center, Data, Dim, FitOptions, Init, PartialFit, RefineOptions, fit,
};
use unicon::io::{Dtype, HostMatrix, MatView, RowScale, read_all};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Component, Encoder, Model, Side};
use unicon::positives::Positives;
use ways::*;

#[test]
fn scale_does_not_change_an_answer() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 1);
    let lab = Lab::new();
    train.write(&lab, "");
    test.write(&lab, "t");
    let recall = |lab: &Lab, options: &str, name: &str| {
        let files = format!("--x x{name}.npy --y y{name}.npy");
        lab.json(&format!("fit {files} --rank 8 {options} --out m.safetensors"));
        let report = lab.json(&format!("eval --model m.safetensors --x xt{name}.npy --y yt{name}.npy"));
        numbers(&report["recall"]["x_to_y"])[0]
    };
    let ways = ["--iters 1", "--preset global --iters 1 --whiten 0.01", "", "--preset paper"];
    let clean = ways.map(|w| recall(&lab, w, ""));
    assert!(clean[1] > 0.9 && clean[2] > 0.9, "{clean:?}");
    for scale in [1e30, 1e25, 1e19, 1e-6, 1e-25, 1e-36] {
        let name = format!("{scale:e}");
        train.scaled(scale).write(&lab, &name);
        test.scaled(scale).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let got = recall(&lab, way, &name);
            assert!((got - clean).abs() <= 0.011, "{way} at {scale:e}: {got}, {clean} unscaled");
        }
    }
    // Rows over 14 decades, of which some are beyond what float32 can square.
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let powers: Vec<f64> = (0..1000).map(|_| 10f64.powf(rng.random_range(-7.0..7.0))).collect();
    for (name, scale) in [("rows", 1.0), ("rows20", 1e20), ("rows-25", 1e-25)] {
        let spread = |v: &Views, from: usize| {
            v.changed(|side, i, _, v| v * scale * powers[(from + 2 * i + side) % powers.len()])
        };
        spread(&train, 0).write(&lab, name);
        spread(&test, 7).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let got = recall(&lab, way, name);
            assert!(got > clean - 0.02, "{way}, {name}: {got}, {clean} unscaled");
        }
    }
}

#[test]
fn float64_beyond_float32_is_brought_into_range() {
    let [train, test] = views(200, 100, (16, 12), 0.3, 2);
    let (narrow, wide) = (Cpu::<f32>::new(2).unwrap(), Cpu::<f64>::new(2).unwrap());
    for name in WAYS {
        let way = way(name, loss(LossKind::Clip), 8, 200);
        let clean = reached(&narrow, [&train, &test], true, &way);
        for scale in [1e300, 1e39, 1e-300] {
            // The widths of these kernels, or their squares, would not be float64 numbers.
            if matches!(name, "rbf" | "matern") && scale != 1e39 {
                let failed = fitted(&narrow, &train.scaled(scale).sources(true), &way);
                let text = failed.err().map(|e| e.to_string());
                assert!(text.as_ref().is_some_and(|t| t.contains("rescale the features")), "{text:?}");
                continue;
            }
            let (train, test) = (train.scaled(scale), test.scaled(scale));
            for got in
                [reached(&narrow, [&train, &test], true, &way), reached(&wide, [&train, &test], true, &way)]
            {
                assert!((got - clean).abs() <= 0.02, "{name} at {scale:e}: {got}, {clean} unscaled");
            }
        }
    }
}

#[test]
fn every_stored_type_gives_the_same_answer() {
    use half::{bf16, f16};
    let [train, test] = views(300, 150, (16, 12), 0.3, 4);
    let cpu = Cpu::<f32>::new(2).unwrap();
    let way = way("whiten", loss(LossKind::Clip), 8, 300);
    let clean = reached(&cpu, [&train, &test], false, &way);
    // The smallest halves are far below the range that float32 products have.
    for (scale, types) in [(1.0, 0b111), (1e-4, 0b111), (1e3, 0b111), (1e-30, 0b100), (1e30, 0b100)] {
        let (train, test) = (train.scaled(scale), test.scaled(scale));
        for (k, dtype) in [Dtype::F16, Dtype::F32, Dtype::BF16].into_iter().enumerate() {
            if types >> k & 1 == 0 {
                continue;
            }
            let bytes = |values: &[f64]| -> Vec<u8> {
                let bytes = values.iter().flat_map(|&v| match dtype {
                    Dtype::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
                    Dtype::BF16 => bf16::from_f64(v).to_le_bytes().to_vec(),
                    _ => (v as f32).to_le_bytes().to_vec(),
                });
                bytes.collect()
            };
            let (tx, ty, ex, ey) = (bytes(&train.x), bytes(&train.y), bytes(&test.x), bytes(&test.y));
            let view = |b: &[u8], d: usize| {
                let values: Vec<f32> =
                    read_all(&MatView::row_major(b, b.len() / d / dtype.size(), d, dtype).unwrap()).unwrap();
                HostMatrix::from_f32("half", values.len() / d, d, values).unwrap()
            };
            let (model, _) = fitted(&cpu, &(view(&tx, 16), view(&ty, 12)), &way).unwrap();
            let got = recall(&cpu, &model, &(view(&ex, 16), view(&ey, 12)));
            assert!((got - clean).abs() <= 0.02, "{dtype} at {scale:e}: {got}, {clean}");
        }
    }
}

#[test]
fn an_offset_is_taken_out() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 1);
    let lab = Lab::new();
    let fit = |options: &str, name: &str| {
        let files = format!("--x x{name}.npy --y y{name}.npy");
        let report = lab.json(&format!("fit {files} --rank 8 {options} --out m{name}.safetensors"));
        let eval = lab.json(&format!("eval --model m{name}.safetensors --x xt{name}.npy --y yt{name}.npy"));
        (report, numbers(&eval["recall"]["x_to_y"])[0])
    };
    train.write(&lab, "");
    test.write(&lab, "t");
    let ways = ["--preset global --iters 1 --whiten 0.01", "--iters 1", ""];
    let clean = ways.map(|w| fit(w, "").1);
    for offset in [30.0, 1000.0, 30000.0, -1e6] {
        let name = format!("{offset}");
        train.changed(|_, _, _, v| v + offset).write(&lab, &name);
        test.changed(|_, _, _, v| v + offset).write(&lab, &format!("t{name}"));
        for (way, clean) in ways.iter().zip(clean) {
            let (report, got) = fit(&format!("{way} --center on"), &name);
            // Beyond 1e5 float32 itself has lost the digits.
            let limit = if offset.abs() > 1e5 { 0.3 } else { 0.02 };
            assert!(got > clean - limit, "{way} + {offset}: {got}, {clean} without");
            assert_eq!(report["info"]["prepared"][1]["centred"], true);
            if offset.abs() >= 1000.0 {
                let (report, auto) = fit(way, &name);
                assert_eq!(auto, got, "{way} + {offset}");
                let ratio = report["info"]["prepared"][0]["mean_over_spread"].as_f64().unwrap();
                assert!(ratio > 30.0);
                let files = format!("--x x{name}.npy --y y{name}.npy --rank 8 {way} --out m.safetensors");
                let text = lab.text(&format!("fit {files}"));
                assert!(text.contains("mean taken out"), "{text}");
            }
        }
    }
    // What was asked for is done: without centring the offset is all that float32 products see.
    let (report, off) = fit("--preset global --iters 1 --whiten 0.01 --center off", "30000");
    assert_eq!(report["info"]["prepared"][0]["centred"], false);
    assert!(off < 0.5, "{off}");
    // Models keep it, and others can read it: f(x) = F x + b.
    let model = Model::load(lab.path("m1000.safetensors")).unwrap();
    let e = &model.components[0].x;
    let b = e.bias().unwrap();
    let cpu = Cpu::<f64>::new(1).unwrap();
    let x = unicon::io::open(lab.path("xt1000.npy").to_str().unwrap()).unwrap();
    let values: Vec<f64> = read_all(&x).unwrap();
    let (z, _) = embedded(&cpu, &model, Side::X, &x);
    for i in [0, 17, 199] {
        let f: Vec<f64> = (0..8)
            .map(|k| (0..16).map(|j| e.matrix[(k, j)] * values[i * 16 + j]).sum::<f64>() + b[k])
            .collect();
        let length = f.iter().map(|v| v * v).sum::<f64>().sqrt();
        (0..8).for_each(|k| assert!((f[k] / length - z[(i, k)]).abs() < 1e-9));
    }
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap().components[0].x.offset, e.offset);
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.contains("c0.x.bias")
            && text.contains("c0.y.offset")
            && text.contains("\"format_version\":\"2\"")
    );
    assert_eq!(fit("--preset paper", "1000").0["info"]["prepared"][0]["centred"], false);
    assert!(Model::load(lab.path("m1000.safetensors")).unwrap().components[0].x.bias().is_none());
}

/// Files without offsets are what they were, and one whose bias is not that of its offset is refused.
#[test]
fn biases_in_files_are_checked() {
    let encoder = |offset: Option<Vec<f64>>| Encoder {
        offset: offset.map(Into::into),
        ..Encoder::linear(Mat::from_fn(2, 3, |i, j| 1.0 + (i * 3 + j) as f64))
    };
    let model = |m: Option<Vec<f64>>| Model {
        components: vec![Component { weight: 1.0, x: encoder(m), y: encoder(None) }],
        compression: None,
        loss: Loss::default(),
        notes: Default::default(),
    };
    let plain = model(None).to_bytes().unwrap();
    let text = String::from_utf8_lossy(&plain).into_owned();
    assert!(text.contains("\"format_version\":\"1\"") && !text.contains("bias"));
    let bytes = model(Some(vec![1.0, -2.0, 0.5])).to_bytes().unwrap();
    let read = Model::from_bytes(&bytes).unwrap();
    assert_eq!(read.components[0].x.bias().unwrap(), [1.5, 3.0]);
    assert!(read.components[0].y.bias().is_none());
    // -0.5 is the only such number in the file: the offset's last value.
    let half = 0.5f64.to_le_bytes();
    let at = bytes.windows(8).position(|w| w == half).unwrap();
    let mut other = bytes.clone();
    other[at..at + 8].copy_from_slice(&7.5f64.to_le_bytes());
    let text = Model::from_bytes(&other).unwrap_err();
    assert!(text.contains("c0.x.bias"), "{text}");
    other[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    assert!(Model::from_bytes(&other).is_err());
    assert!(model(Some(vec![1.0, 2.0])).to_bytes().is_err());
    assert!(model(Some(vec![1.0, f64::INFINITY, 2.0])).to_bytes().is_err());
}

#[test]
fn what_is_not_finite_is_refused_with_its_place() {
    let [train, _] = views(60, 10, (16, 12), 0.3, 5);
    let lab = Lab::new();
    train.write(&lab, "");
    lab.json("fit --x x.npy --y y.npy --rank 4 --iters 1 --out m.safetensors");
    for (bad, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
        let broken = |side: usize, at: (usize, usize)| {
            train.changed(move |s, i, j, v| if (s, i, j) == (side, at.0, at.1) { bad } else { v })
        };
        broken(0, (37, 5)).write(&lab, "a");
        broken(1, (8, 11)).write(&lab, "b");
        let place = format!("got {shown} at row 37, column 5");
        let calls = [
            "fit --x xa.npy --y y.npy --rank 4 --out n.safetensors",
            "fit --x xa.npy --y y.npy --rank 4 --iters 1 --out n.safetensors",
            "fit --x x.npy --y y.npy --rank 4 --val-x xa.npy --val-y y.npy --out n.safetensors",
            "encode --model m.safetensors --side x --input xa.npy --out z.npy",
            "eval --model m.safetensors --x xa.npy --y y.npy",
            "search --model m.safetensors --queries xa.npy --items y.npy --out h.npy",
            "gram --a xa.npy --out k.npy",
        ];
        for call in calls {
            let line = lab.fails(1, call);
            assert!(line.contains("xa.npy") && line.contains(&place), "{call}: {line}");
        }
        let line = lab.fails(1, "fit --x x.npy --y yb.npy --rank 4 --iters 1 --out n.safetensors");
        assert!(
            line.contains("yb.npy") && line.contains(&format!("got {shown} at row 8, column 11")),
            "{line}"
        );
    }
    let cpu = Cpu::<f32>::new(1).unwrap();
    let (x, y) = train.sources(false);
    let positives = Positives::diagonal(60);
    let data = Data { x: &x, y: &y, positives: &positives };
    let given = |v: f64| Init::Given(Mat::from_fn(4, 16, |_, _| v), Mat::from_fn(4, 12, |_, _| 1.0));
    for init in
        [given(f64::NAN), given(f64::INFINITY), Init::Similarity(Mat::from_fn(60, 60, |_, _| f64::NAN))]
    {
        let o = FitOptions { init, ..FitOptions::new(4) };
        assert!(fit(&cpu, data, None, &o).is_err());
    }
    for loss in [
        Loss { nu: f64::NAN, ..Loss::clip(0.1) },
        Loss { tau: f64::INFINITY, ..Loss::clip(0.1) },
        Loss { margin: f64::NAN, ..Loss::new(LossKind::TripletHard, 0.1) },
    ] {
        assert!(fit(&cpu, data, None, &FitOptions { loss, ..FitOptions::new(4) }).is_err());
    }
    // Extreme but finite parameters fit or fail; they never give a number that is not one.
    for kind in LOSSES {
        for nu in [-1e308, -1e3, 0.0, 1e3, 1e308] {
            for (eps_pos, eps_neg) in [(1.0, 1.0), (0.0, 1e300), (1e300, 1e-300)] {
                let loss = Loss { nu, eps_pos, eps_neg, ..loss(kind) };
                let way = Way::Fit(Box::new(FitOptions { loss, ..FitOptions::new(4) }));
                if let Err(e) = fitted(&cpu, &(x.clone(), y.clone()), &way) {
                    assert!(matches!(e, Error::Numerical(_) | Error::InvalidArgument { .. }), "{e}");
                }
            }
        }
    }
    for rho in [1e-300, 1e300] {
        let o = FitOptions { rho, ..FitOptions::new(4) };
        if let Err(e) = fitted(&cpu, &(x.clone(), y.clone()), &Way::Fit(Box::new(o))) {
            assert!(matches!(e, Error::Numerical(_)), "{e}");
        }
    }
}

#[test]
fn encoders_of_any_size_embed_unit_rows() {
    let [_, test] = views(2, 50, (6, 5), 0.3, 6);
    let base = Mat::from_fn(4, 6, |i, j| ((i * 6 + j) as f64 * 0.7).sin());
    let (f32s, f64s) = (Cpu::<f32>::new(1).unwrap(), Cpu::<f64>::new(1).unwrap());
    let model = |x: Encoder| Model {
        components: vec![Component { weight: 1.0, x, y: Encoder::linear(Mat::from_fn(4, 5, |_, _| 1.0)) }],
        compression: None,
        loss: Loss::default(),
        notes: Default::default(),
    };
    let (want, _) = embedded(&f64s, &model(Encoder::linear(base.clone())), Side::X, &test.sources(true).0);
    for size in [1e39, 1e149, 1e-39, 1e-149, 1e-300] {
        let scaled = Mat::from_fn(4, 6, |i, j| base[(i, j)] * size);
        for x_size in [1.0, 1e-300, 1e300, 1e30] {
            let x = test.scaled(x_size).sources(true).0;
            for z in [
                embedded(&f32s, &model(Encoder::linear(scaled.clone())), Side::X, &x).0,
                embedded(&f64s, &model(Encoder::linear(scaled.clone())), Side::X, &x).0,
            ] {
                assert!((&z - &want).norm_max() < 1e-5, "{size:e} {x_size:e}: {:?}", (&z - &want).norm_max());
            }
        }
    }
    // A zero row is exactly zero, whatever else there is.
    let x = test.changed(|_, i, _, v| if i == 3 { 0.0 } else { v * 1e-30 }).sources(false).0;
    assert_eq!(embedded(&f32s, &model(Encoder::linear(base)), Side::X, &x).1, 1);
}

/// A constant side says nothing, and nothing is made up: no recall, no error, no NaN.
#[test]
fn constant_features_fit() {
    let [train, _] = views(80, 10, (6, 5), 0.3, 7);
    let cpu = Cpu::<f32>::new(1).unwrap();
    for value in [0.0, 1.0, 1e-30, 30000.0] {
        let constant = train.changed(|side, _, _, v| if side == 0 { value } else { v });
        let both = train.changed(|_, _, _, _| value);
        for views in [constant, both] {
            for name in WAYS {
                for kind in [LossKind::Clip, LossKind::Sigmoid] {
                    let way = way(name, loss(kind), 4, 80);
                    match fitted(&cpu, &views.sources(false), &way) {
                        Ok((model, _)) => {
                            let _ = recall(&cpu, &model, &views.sources(false));
                        }
                        Err(e) => panic!("{name} {value}: {e}"),
                    }
                }
            }
        }
    }
}

/// Batches that arrive one by one, at any scale and offset.
#[test]
fn streams_are_brought_into_range() {
    let [train, test] = views(400, 200, (16, 12), 0.3, 8);
    let reached = |train: &Views, test: &Views, stream: Accumulate, center: Center| {
        let whiten = (stream == Accumulate::Moments).then_some(0.01);
        let options = FitOptions { whiten, center, ..FitOptions::new(8) };
        let mut partial =
            PartialFit::new(Cpu::<f32>::new(1).unwrap(), (16, 12), stream, None, options).unwrap();
        let (x, y) = train.sources(true);
        let positives = Positives::diagonal(100);
        for first in (0..400).step_by(100) {
            let rows = |m| unicon::io::RowRange::new(m, first..first + 100).unwrap();
            let (x, y) = (rows(&x), rows(&y));
            assert!(partial.add(Data { x: &x, y: &y, positives: &positives }).unwrap().is_finite());
        }
        recall(&Cpu::<f32>::new(1).unwrap(), &partial.finish().unwrap(), &test.sources(true))
    };
    for stream in [Accumulate::Moments, Accumulate::Solutions] {
        let clean = reached(&train, &test, stream, Center::Auto);
        for scale in [1e-25, 1e30, 1e300] {
            let got = reached(&train.scaled(scale), &test.scaled(scale), stream, Center::Auto);
            assert!((got - clean).abs() <= 0.02, "{stream:?} {scale:e}: {got}, {clean}");
        }
        let shifted = |v: &Views| v.changed(|_, _, _, v| v + 30000.0);
        for center in [Center::Auto, Center::On] {
            let got = reached(&shifted(&train), &shifted(&test), stream, center);
            assert!(got > clean - 0.02, "{stream:?} {center:?}: {got}, {clean}");
        }
    }
}

/// A start comes with what its model takes out.
#[test]
fn a_start_keeps_its_offset() {
    let [train, test] = views(200, 100, (16, 12), 0.3, 9);
    let shifted = |v: &Views| v.changed(|_, _, _, v| v + 1000.0);
    let (train, test) = (shifted(&train), shifted(&test));
    let cpu = Cpu::<f32>::new(1).unwrap();
    let first = way("whiten", loss(LossKind::Clip), 8, 200);
    let (model, _) = fitted(&cpu, &train.sources(true), &first).unwrap();
    let before = recall(&cpu, &model, &test.sources(true));
    let refine = Some(RefineOptions { max_steps: 0, ..Default::default() });
    let again =
        FitOptions { init: Init::from_model(&model).unwrap(), n_iters: 0, refine, ..FitOptions::new(8) };
    let (same, info) = fitted(&cpu, &train.sources(true), &Way::Fit(Box::new(again))).unwrap();
    assert!(info.prepared.0.centred && info.prepared.0.mean_over_spread.is_none());
    assert_eq!(same.components[0].x.offset, model.components[0].x.offset);
    assert!((recall(&cpu, &same, &test.sources(true)) - before).abs() < 1e-9);
    let best = BestOptions { start: Some(model.clone()), ..BestOptions::new(Dim::Fixed(8)) };
    let (best, _) = fitted(&cpu, &train.sources(true), &Way::Best(Box::new(best))).unwrap();
    assert!(recall(&cpu, &best, &test.sources(true)) >= before - 0.02);
}

/// Powers of two bring features into range; ordinary ones are left alone.
#[test]
fn ordinary_features_are_left_alone() {
    let [train, _] = views(100, 10, (6, 5), 0.3, 11);
    let cpu = Cpu::<f32>::new(1).unwrap();
    let way = way("whiten", loss(LossKind::Clip), 4, 100);
    let prepared = |v: &Views| fitted(&cpu, &v.sources(true), &way).unwrap().1.prepared;
    for scale in [1.0, 1e-5, 1e4] {
        let (x, y) = prepared(&train.scaled(scale));
        assert!([x, y].iter().all(|p| !p.centred && p.exponent == 0 && p.rows == RowScale::None));
    }
    let (x, _) = prepared(&train.scaled(1e30));
    assert!(x.exponent < -90 && x.rows == RowScale::None, "{x:?}");
    let (x, _) = prepared(&train.changed(|_, i, _, v| v * 10f64.powi(i as i32 % 15 - 7)));
    assert_eq!((x.exponent, x.rows), (0, RowScale::All));
}
