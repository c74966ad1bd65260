//! Deliberate faults of the kernels: what the tests of the emulation and of the stand-ins must notice. Each is a replacement
//! of text in a copy of `cuda/`; the copy holds all of them, one chosen when a program starts (`UNICON_FAULT`), so that
//! one compilation serves.

use std::path::{Path, PathBuf};

/// The suite of `tests/cuda_emulation` whose values show a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    Dense,
    Rows,
    Hopper,
}

impl Suite {
    pub fn name(self) -> &'static str {
        match self {
            Suite::Dense => "dense",
            Suite::Rows => "rows",
            Suite::Hopper => "hopper",
        }
    }
}

/// How a fault shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Wrong values, or the emulation stops.
    Values,
    /// A race, whatever the values are.
    Race,
    /// Both.
    Both,
}

#[derive(Debug)]
pub struct Fault {
    pub name: &'static str,
    pub suite: Suite,
    pub shows: Shows,
    /// File below `cuda/`, what it says once (white space does not matter), and what it says instead: statements that end in
    /// `;` or `}`, or an expression.
    edits: &'static [(&'static str, &'static str, &'static str)],
}

const fn fault(
    name: &'static str,
    suite: Suite,
    shows: Shows,
    edits: &'static [(&'static str, &'static str, &'static str)],
) -> Fault {
    Fault { name, suite, shows, edits }
}

use Shows::{Both, Race, Values};
use Suite::{Dense, Hopper, Rows};

/// Fault k of `UNICON_FAULT` is `FAULTS[k - 1]`.
#[rustfmt::skip]
pub const FAULTS: &[Fault] = &[
    // The sweep of the portable kernels.
    fault("no wait for the copies of a chunk", Dense, Both, &[
        ("sweep.cuh", "copy_async_wait<kSweepStages - 2>();", "")]),
    fault("a wait for the chunk before", Dense, Both, &[
        ("sweep.cuh", "copy_async_wait<kSweepStages - 2>();", "copy_async_wait<kSweepStages - 1>();")]),
    fault("no barrier before a chunk is read", Dense, Both, &[
        ("sweep.cuh", "block_barrier(); load_next();", "load_next();")]),
    fault("a stage is filled while it is read", Dense, Both, &[
        ("sweep.cuh", "copy_async_wait<kSweepStages - 2>();", "load_next(); copy_async_wait<kSweepStages - 2>();"),
        ("sweep.cuh", "block_barrier(); load_next();", "block_barrier();")]),
    fault("no barrier after the mask is built", Dense, Both, &[
        ("sweep.cuh", "if (chunks == 1) block_barrier();", "")]),
    fault("column bound", Dense, Values, &[
        ("sweep.cuh", "col_end - col - w * 32", "col_end - col - w * 32 + 1")]),
    fault("search of masked entries", Dense, Values, &[
        ("sweep.cuh", "position_ = first_masked(columns_, p.masked.offsets[i], end_, col_begin);",
                      "position_ = first_masked(columns_, p.masked.offsets[i], end_, col_begin + 1);")]),
    fault("swapped fragment", Dense, Values, &[
        ("tiles.cuh", "mma_16x8x16<T>(acc[m][n], a, b[n / 2][(n & 1) * 2], b[n / 2][(n & 1) * 2 + 1]);",
                      "mma_16x8x16<T>(acc[m][n], a, b[n / 2][(n & 1) * 2 + 1], b[n / 2][(n & 1) * 2]);")]),
    fault("skipped exchange", Dense, Values, &[
        ("weights.cuh", "exchange(w[2], w[3], 1);", "")]),
    fault("blocks write the same column sums", Dense, Both, &[
        ("clip_stats.cu", "int64_t(blockIdx.x) * 2 + at.warp_row", "int64_t(at.warp_row)")]),
    fault("no barrier in the fused kernel", Dense, Both, &[
        ("clip_fused.cu", "block_barrier();", "")]),
    fault("values that are not transposed", Dense, Values, &[
        ("clip_fused.cu", "load_matrix_x4_transposed(b, from);", "load_matrix_x4(b, from);")]),
    fault("tie order", Rows, Values, &[
        ("search.cu", "j < other_j", "j > other_j")]),
    fault("a list is written before all lanes have read it", Rows, Both, &[
        ("search.cu", "warp_barrier(); if (displaced) { value[i] = first ? s : ahead; index[i] = first ? j : ahead_j; }",
                      "if (displaced) { value[i] = first ? s : ahead; index[i] = first ? j : ahead_j; }")]),

    // The kernels for compute capability 9.0.
    fault("a stage is given back before its products are done", Hopper, Both, &[
        ("hopper_sweep.cuh", "wgmma_wait<0>(); for (int c = 0; c < chunks; ++c) { ring.release(); ring.advance(); }",
                             "for (int c = 0; c < chunks; ++c) { ring.release(); ring.advance(); } wgmma_wait<0>();")]),
    fault("no wait for a stage", Hopper, Both, &[
        ("hopper.cuh", "barrier_wait(full(), parity);", "")]),
    fault("parity of the empty barriers", Hopper, Values, &[
        ("hopper.cuh", "barrier_wait(empty(), parity ^ 1);", "barrier_wait(empty(), parity);")]),
    fault("no wait for an empty stage", Hopper, Both, &[
        ("hopper.cuh", "barrier_wait(empty(), parity ^ 1);", "")]),
    fault("no barrier after the barriers are made", Hopper, Both, &[
        ("hopper.cuh", "block_barrier();", "")]),
    fault("no proxy fence", Hopper, Race, &[
        ("hopper.cuh", "proxy_fence();", "")]),
    fault("pieces that are not swizzled", Hopper, Values, &[
        ("hopper_pack.cu", "(index & 7) ^ (piece_row(index) & 7)", "index & 7")]),
    fault("order of packed values", Hopper, Values, &[
        ("hopper_pack.cu", "w * 2 + e", "w + 4 * e")]),
    fault("step of an operand", Hopper, Values, &[
        ("hopper_sweep.cuh", "tile_operand(cols, step)", "tile_operand(cols, step ^ 1)")]),
    fault("no wait for products", Hopper, Values, &[
        ("hopper_sweep.cuh", "sweep_products<T, true>(low, p, ring, first, stages); wgmma_wait<0>();",
                             "sweep_products<T, true>(low, p, ring, first, stages);"),
        ("hopper_fused.cu", "wgmma_wait<1>();", "")]),
    fault("row bound", Hopper, Values, &[
        ("hopper.cuh", "row < p.row_end", "row < p.row_end + 1")]),
    fault("column bound of the Hopper kernels", Hopper, Values, &[
        ("hopper.cuh", "col + Cols > col_end_", "col + Cols > col_end_ + 1"),
        ("hopper.cuh", "col_end_ - col - w * 32", "col_end_ - col - w * 32 + 1")]),
    fault("search of masked entries of the Hopper kernels", Hopper, Values, &[
        ("hopper.cuh", "position_ = first_masked(columns_, p.masked.offsets[row], end_, begin);",
                       "position_ = first_masked(columns_, p.masked.offsets[row], end_, begin + 1);")]),
    fault("no barrier after a warp's mask is built", Hopper, Both, &[
        ("hopper.cuh", "warp_barrier(); return true;", "return true;")]),
    fault("a mask is built while the last is read", Hopper, Race, &[
        ("hopper.cuh", "if (any_) warp_barrier();", "")]),
    fault("no barrier in the exchange of column sums", Hopper, Both, &[
        ("hopper_stats.cu", "named_barrier(1 + at.warpgroup, 128);", "")]),
    fault("places of the exchange are not used in turn", Hopper, Both, &[
        ("hopper_stats.cu", "parity ^= 1;", "")]),
    fault("chunk order", Hopper, Values, &[
        ("hopper_sweep.cuh", "if (low) row += depth_chunks;", "row = 0;")]),
];

/// The number of a fault.
pub fn number(name: &str) -> usize {
    1 + FAULTS.iter().position(|f| f.name == name).unwrap_or_else(|| panic!("no fault is called {name}"))
}

/// Where `what` stands in `text`, white space counting alike; it must stand there once.
fn find(text: &str, what: &str) -> Result<(usize, usize), String> {
    let squeezed = |text: &str| -> (String, Vec<usize>) {
        let mut places = Vec::new();
        let mut out = String::new();
        for (at, c) in text.char_indices() {
            let c = if c.is_whitespace() { ' ' } else { c };
            if c == ' ' && out.ends_with(' ') {
                continue;
            }
            out.push(c);
            places.resize(out.len(), at);
        }
        (out, places)
    };
    let (text, places) = squeezed(text);
    let (what, _) = squeezed(what);
    match text.match_indices(&what).map(|(at, _)| at).collect::<Vec<_>>()[..] {
        [at] => Ok((places[at], places[at + what.len() - 1] + 1)),
        ref found => Err(format!("`{what}` stands there {} times", found.len())),
    }
}

/// Copies `cuda` to `to` with all faults in it.
///
/// # Panics
/// When a fault no longer applies to the sources.
pub fn copy(cuda: &Path, to: &Path) {
    let mut wrong = Vec::new();
    for folder in ["", "emu"] {
        std::fs::create_dir_all(to.join(folder)).expect("the target folder is writable");
        for entry in std::fs::read_dir(cuda.join(folder)).expect("a folder of the project") {
            let path: PathBuf = entry.expect("a readable entry").path();
            if path.is_dir() {
                continue;
            }
            let name = path.strip_prefix(cuda).expect("below it").to_string_lossy().into_owned();
            let mut text = std::fs::read_to_string(&path).expect("readable");
            let mut edits: Vec<((usize, usize), usize, &str)> = Vec::new();
            for (k, fault) in FAULTS.iter().enumerate() {
                for &(file, what, instead) in fault.edits.iter().filter(|e| e.0 == name) {
                    match find(&text, what) {
                        Ok(place) => edits.push((place, k + 1, instead)),
                        Err(e) => wrong.push(format!("{}: {file}: {e}", fault.name)),
                    }
                }
            }
            // The last first, so that places stay; of several faults in one place each stands before those that were there.
            edits.sort_by_key(|e| std::cmp::Reverse(e.0));
            let mut k = 0;
            while k < edits.len() {
                let (begin, end) = edits[k].0;
                let here = edits[k..].iter().take_while(|e| e.0 == (begin, end)).count();
                let next = edits.get(k + here);
                assert!(next.is_none_or(|e| e.0.1 <= begin), "{name}: faults overlap: {:?}", &edits[k..]);
                let mut inside = text[begin..end].to_string();
                let statement = inside.ends_with([';', '}']);
                for (_, number, instead) in &edits[k..k + here] {
                    inside = if statement {
                        format!("if (emu::fault == {number}) {{ {instead} }} else {{ {inside} }}")
                    } else {
                        format!("(emu::fault == {number} ? ({instead}) : ({inside}))")
                    };
                }
                text.replace_range(begin..end, &inside);
                k += here;
            }
            match name.as_str() {
                "emu/device.h" => text += "\nnamespace emu { extern const int fault; }\n",
                "emu/device.cpp" => {
                    text += "\nnamespace emu { const int fault = getenv(\"UNICON_FAULT\") ? atoi(getenv(\"UNICON_FAULT\")) : 0; }\n"
                }
                _ => {}
            }
            std::fs::write(to.join(name), text).expect("the target folder is writable");
        }
    }
    assert!(
        wrong.is_empty(),
        "faults that no longer apply to cuda/ (tests/cuda_emulation/faults.rs): {wrong:#?}"
    );
}
