//! Closed-form contrastive alignment of two sets of frozen features.
//!
//! Given paired features of two modalities, UniCon finds encoders into a shared space by spectral updates of the
//! contrastive similarity weight matrix `S(gamma)` instead of thousands of gradient steps (arXiv 2604.16678). What
//! the textbook formulas do in `O(n^3)` time or `n x n` memory is done exactly in `O(n^2)` time and `O(n)` memory.
//!
//! The feature `cli`, on by default, is the `unicon` program; a crate that depends on this one can do without its argument
//! parser and pages (`default-features = false`).
//!
//! Where the paper's mathematics stands:
//!
//! | in the paper | here | in sum, by tiles |
//! |---|---|---|
//! | the unified loss: psi, phi, nu, eps (Eq. 2) | `loss.rs::psi`, `loss.rs::dpsi`, `similarity/definition.rs::definition` | |
//! | `S(gamma)`, the triple reductions, term by term | `similarity/definition.rs::reductions` | |
//! | clip in `O(n^2)`: the loss and `gamma` | `similarity/clip.rs::anchor`, `similarity/clip.rs::gamma_positive` | `backend/cpu/simd/clip.rs::exp_sums`, `cuda/clip_stats.cu` |
//! | clip: `S` of negatives | `similarity/coefficients.rs::new` | `backend/cpu/simd/clip.rs::exp_weights`, `cuda/weights.cuh` |
//! | sigmoid and triplets in `O(nnz(P) n)` | `similarity/additive.rs::anchors`, `similarity/additive.rs::gamma_positive` | `backend/cpu/simd/additive.rs::sums`, `cuda/additive.cu` |
//! | any psi and phi in `O(nnz(P) n)` | `similarity/family.rs::anchors` | `backend/cpu/family.rs::fill` |
//! | `C(gamma) = X^T S Y` | `similarity/pass1.rs::weights`, `similarity/pass2.rs::cross` | |
//! | `dL/dZ_x = -S Z_y`, `dL/dZ_y = -S^T Z_x` | `similarity/gradients.rs::gradients` | |
//! | Algorithm 1, the linear solver | `fit/linear.rs::solve`, `fit/linear.rs::contrast`, `fit/linear.rs::update` | |
//! | its mini-batches | `fit/linear.rs::batched` | |
//! | Theorem 9, the kernel solver | `fit/kernel.rs::exact_features`, `fit/kernel.rs::nystrom_features` | |
//! | Algorithm 2, its mini-batches | `fit/kernel.rs::fit_batches` | |
//! | kernels | `kernel.rs::of_product` | |
//! | matching accuracy and retrieval | `retrieval/ranking.rs::matching_accuracy` | |
//!
//! `docs/method.md` has the mathematics in the same symbols, and what of it is exact: for fixed features `C` is minus the gradient
//! of the loss in the bilinear form, and a spectral update the best step at its rank.
//!
//! What is ours: a line search along `C` (`fit/damping.rs::damped`), descent by `dL/dz_x = -S z_y` from the spectral start
//! (`fit/refine.rs::refine`, `fit/minibatch.rs::run`), and the default preset (`fit/best/mod.rs::fit_best`).

// The program's code names the library as any other crate does.
#[cfg(feature = "cli")]
extern crate self as unicon;

pub mod backend;
// In the library, so that what it has in common with the C ABI, fits for every backend above all, is compiled once.
#[cfg(feature = "cli")]
mod cli;
pub mod control;
pub mod data;
mod dense;
pub mod distributed;
pub mod error;
mod ffi;
pub mod fit;
pub mod io;
pub mod kernel;
pub mod loss;
mod memory;
pub mod model;
pub mod optim;
pub mod plan;
pub mod positives;
pub mod real;
pub mod retrieval;
pub mod selftest;
pub mod similarity;
pub mod spectral;
pub mod threads;

pub use error::{Error, Result};

/// What `src/main.rs` needs.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod program {
    pub use crate::cli::main;
    pub use crate::cli::memory::Allocator;
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every `file::function` and `file` of the table above is where it says.
    #[test]
    fn the_map_of_the_paper_is_right() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("src/lib.rs")).unwrap();
        let map = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        let names =
            map.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs") || name.contains(".cu"));
        let mut found = 0;
        for name in names {
            let (file, function) = name.split_once("::").unwrap_or((name, ""));
            let folder = if file.starts_with("cuda/") { root.to_path_buf() } else { root.join("src") };
            let source = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
            assert!(!source.is_empty(), "{file}: no such file");
            let defined = ["(", "<"].iter().any(|end| source.contains(&format!("fn {function}{end}")));
            assert!(function.is_empty() || defined, "{file}: no function {function}");
            found += 1;
        }
        assert!(found > 20, "{found} names");
    }
}
