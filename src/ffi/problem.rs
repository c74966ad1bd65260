//! Losses, positives and kernels as the header has them.

use super::bindings::*;
use super::matrix::values;
use super::structs::{Versioned, count, init, read, read_or_default, reserved};
use super::{entry, family};
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::fit::Preset;
use crate::kernel::{Kernel, KernelKind};
use crate::loss::{EpsBy, Loss, LossKind};
use crate::positives::Positives;
use std::sync::OnceLock;

fn loss_kind(kind: i32) -> Result<LossKind> {
    match u32::try_from(kind) {
        Ok(UNICON_LOSS_CLIP) => Ok(LossKind::Clip),
        Ok(UNICON_LOSS_SIGMOID) => Ok(LossKind::Sigmoid),
        Ok(UNICON_LOSS_TRIPLET_HARD) => Ok(LossKind::TripletHard),
        Ok(UNICON_LOSS_TRIPLET_SMOOTH) => Ok(LossKind::TripletSmooth),
        Ok(UNICON_LOSS_CUSTOM) => Ok(LossKind::Custom),
        _ => Err(Error::invalid("loss.kind", "a value of unicon_loss_kind", kind)),
    }
}

/// The header's UNICON_NU_USUAL, which is no integer and so not among the bindings.
pub(super) const NU_USUAL: f64 = -f64::MAX;

fn set_loss(raw: &mut unicon_loss, kind: i32, loss: &Loss) {
    raw.kind = kind;
    raw.eps_by = UNICON_EPS_BY_POSITIVES as i32;
    // Not the number: the kind may be changed afterwards.
    (raw.tau, raw.nu, raw.margin) = (loss.tau, NU_USUAL, loss.margin);
    (raw.eps_pos, raw.eps_neg, raw.log_eps) = (loss.eps_pos, loss.eps_neg, loss.log_eps);
}

/// Clip with the crate's defaults.
pub(super) fn default_loss(raw: &mut unicon_loss) {
    set_loss(raw, UNICON_LOSS_CLIP as i32, &Loss::default());
}

/// A kernel with the crate's defaults: the linear one, as zero bytes say.
pub(super) fn default_kernel(raw: &mut unicon_kernel) {
    let kernel = Kernel::default();
    (raw.beta, raw.gamma, raw.lengthscale) = (kernel.beta, kernel.gamma, kernel.lengthscale);
    raw.cos_clamp = kernel.cos_clamp;
}

/// What C may keep a pointer to for as long as the process lives.
struct Lasting<T>(T);

// SAFETY: written once, by the cell that holds it, and only read afterwards.
unsafe impl<T> Sync for Lasting<T> {}
// SAFETY: as above; what it points to lives as long.
unsafe impl<T> Send for Lasting<T> {}

/// One a preset.
type PerPreset<T> = [OnceLock<Lasting<T>>; Preset::ALL.len()];

/// The loss of a preset.
pub(super) fn lasting_loss(preset: Preset) -> *const unicon_loss_t {
    static LOSSES: PerPreset<unicon_loss> = [const { OnceLock::new() }; Preset::ALL.len()];
    let fill = || {
        let (mut raw, loss) = (unicon_loss::defaults(), preset.loss());
        set_loss(&mut raw, UNICON_LOSS_CLIP as i32, &loss);
        raw.nu = loss.nu;
        Lasting(raw)
    };
    &raw const LOSSES[preset as usize].get_or_init(fill).0
}

/// The kernel of a preset that has one.
pub(super) fn lasting_kernel(preset: Preset) -> *const unicon_kernel_t {
    static KERNELS: PerPreset<unicon_kernel> = [const { OnceLock::new() }; Preset::ALL.len()];
    let fill = || {
        let mut raw = unicon_kernel::defaults();
        if let Some(k) = preset.options(0).kernel {
            (raw.kind, raw.cos_clamp) = (kernel_number(k.kernel.kind), k.kernel.cos_clamp);
        }
        Lasting(raw)
    };
    &raw const KERNELS[preset as usize].get_or_init(fill).0
}

/// The loss that is asked for, validated; NULL is the default.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
pub(super) unsafe fn loss(pointer: *const unicon_loss_t) -> Result<Loss> {
    // SAFETY: passed on.
    let raw = unsafe { read_or_default(pointer)? };
    let eps_by = match u32::try_from(raw.eps_by) {
        Ok(UNICON_EPS_BY_POSITIVES) => EpsBy::Positives,
        Ok(UNICON_EPS_BY_DIAGONAL) => EpsBy::Diagonal,
        _ => return Err(Error::invalid("loss.eps_by", "a value of unicon_eps_by", raw.eps_by)),
    };
    let kind = loss_kind(raw.kind)?;
    let unicon_loss { tau, nu, margin, eps_pos, eps_neg, log_eps, .. } = raw;
    let nu = if nu == NU_USUAL { Loss::new(kind, tau).nu } else { nu };
    let family = match raw.family.is_null() {
        true => None,
        // SAFETY: a caller's struct.
        false => Some(unsafe { family::read(raw.family)? }),
    };
    let loss = Loss { kind, tau, nu, margin, eps_pos, eps_neg, log_eps, eps_by, family };
    loss.validate()?;
    Ok(loss)
}

fn kernel_kind(kind: i32) -> Result<KernelKind> {
    match u32::try_from(kind) {
        Ok(UNICON_KERNEL_LINEAR) => Ok(KernelKind::Linear),
        Ok(UNICON_KERNEL_COSINE) => Ok(KernelKind::Cosine),
        Ok(UNICON_KERNEL_ANGULAR) => Ok(KernelKind::Angular),
        Ok(UNICON_KERNEL_ARCCOS) => Ok(KernelKind::Arccos),
        Ok(UNICON_KERNEL_EXP_COSINE) => Ok(KernelKind::ExpCosine),
        Ok(UNICON_KERNEL_RBF) => Ok(KernelKind::Rbf),
        Ok(UNICON_KERNEL_MATERN32) => Ok(KernelKind::Matern),
        Ok(UNICON_KERNEL_PRECOMPUTED) => {
            Err(Error::invalid("kernel.kind", "a kernel of features; precomputed is one of fits", kind))
        }
        _ => Err(Error::invalid("kernel.kind", "a value of unicon_kernel_kind", kind)),
    }
}

/// The header's number of a kernel.
pub(super) fn kernel_number(kind: KernelKind) -> i32 {
    let number = match kind {
        KernelKind::Linear => UNICON_KERNEL_LINEAR,
        KernelKind::Cosine => UNICON_KERNEL_COSINE,
        KernelKind::Angular => UNICON_KERNEL_ANGULAR,
        KernelKind::Arccos => UNICON_KERNEL_ARCCOS,
        KernelKind::ExpCosine => UNICON_KERNEL_EXP_COSINE,
        KernelKind::Rbf => UNICON_KERNEL_RBF,
        KernelKind::Matern => UNICON_KERNEL_MATERN32,
    };
    number as i32
}

/// Whether the kernel's values are given in place of features.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
pub(super) unsafe fn is_precomputed(pointer: *const unicon_kernel_t) -> Result<bool> {
    // SAFETY: passed on.
    let raw = unsafe { read(pointer)? };
    reserved("kernel", raw.reserved)?;
    Ok(u32::try_from(raw.kind) == Ok(UNICON_KERNEL_PRECOMPUTED))
}

/// The kernel that is asked for, validated.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
pub(super) unsafe fn kernel(pointer: *const unicon_kernel_t) -> Result<Kernel> {
    // SAFETY: passed on.
    let raw = unsafe { read(pointer)? };
    reserved("kernel", raw.reserved)?;
    let unicon_kernel { beta, gamma, lengthscale, cos_clamp, .. } = raw;
    let kernel = Kernel { kind: kernel_kind(raw.kind)?, beta, gamma, lengthscale, cos_clamp };
    kernel.validate()?;
    Ok(kernel)
}

/// The positives that are asked for; NULL is the diagonal.
///
/// # Safety
/// `pointer` is NULL or a caller's struct whose arrays are as long as the header says.
pub(super) unsafe fn positives(
    pointer: *const unicon_positives_t,
    n_x: usize,
    n_y: usize,
) -> Result<Positives> {
    // SAFETY: passed on.
    unsafe { positives_over(&Group::default(), pointer, (n_x, n_y), (n_x, n_y)) }
}

/// As [`positives`], of which every rank has told the part of its own rows (`own` of `all`).
///
/// # Safety
/// As [`positives`].
pub(super) unsafe fn positives_over(
    group: &Group,
    pointer: *const unicon_positives_t,
    own: (usize, usize),
    (n_x, n_y): (usize, usize),
) -> Result<Positives> {
    // SAFETY: passed on.
    let raw = unsafe { read_or_default(pointer)? };
    reserved("positives", raw.reserved)?;
    let kind = u32::try_from(raw.kind).ok();
    let (groups, csr) = (kind == Some(UNICON_POSITIVES_GROUPS), kind == Some(UNICON_POSITIVES_CSR));
    // Arrays of another kind than the one that is set: which was meant is not for us to say.
    for (name, given, belongs) in [
        ("positives.x_groups", !raw.x_groups.is_null(), groups),
        ("positives.y_groups", !raw.y_groups.is_null(), groups),
        ("positives.indptr", !raw.indptr.is_null(), csr),
        ("positives.indices", !raw.indices.is_null(), csr),
        ("positives.nnz", raw.nnz != 0, csr),
    ] {
        if given && !belongs && kind.is_some_and(|k| k <= UNICON_POSITIVES_CSR) {
            let expected = format!("NULL (or 0) for positives of kind {}", raw.kind);
            return Err(Error::invalid(name, expected, "a value; set positives.kind"));
        }
    }
    match u32::try_from(raw.kind) {
        Ok(UNICON_POSITIVES_DIAGONAL) => {
            if n_x != n_y {
                let expected = format!("groups or CSR where n_x = {n_x} and n_y = {n_y} differ");
                return Err(Error::invalid("positives", expected, "the diagonal"));
            }
            Ok(Positives::diagonal(n_x))
        }
        // SAFETY: arrays of these lengths by the header's contract.
        Ok(UNICON_POSITIVES_GROUPS) => unsafe {
            let x = values("positives.x_groups", raw.x_groups, own.0)?;
            let y = values("positives.y_groups", raw.y_groups, own.1)?;
            Positives::from_groups(&group.whole(x)?, &group.whole(y)?)
        },
        // SAFETY: as above.
        Ok(UNICON_POSITIVES_CSR) => unsafe {
            let indptr = values("positives.indptr", raw.indptr, own.0 + 1)?;
            // Of several ranks each has rows, and one may have no pairs.
            let alone = own == (n_x, n_y);
            let nnz = count("positives.nnz", raw.nnz, i64::from(alone))?;
            let indices = match nnz {
                0 => &[],
                nnz => values("positives.indices", raw.indices, nnz)?,
            };
            if alone {
                return Positives::from_csr(indptr, indices, n_y);
            }
            // Each row's length, and its first offset, which must be 0 as on one rank.
            if indptr[0] != 0 || indptr[own.0] != raw.nnz {
                let got = format!("{} to {}", indptr[0], indptr[own.0]);
                return Err(Error::invalid("positives.indptr", format!("0 to nnz = {nnz}"), got));
            }
            let lengths = indptr.windows(2).map(|w| w[1].wrapping_sub(w[0])).collect();
            let (lengths, indices) = (group.concat(lengths)?, group.whole(indices)?);
            let ends = lengths.iter().scan(0i64, |end, n| {
                *end = end.wrapping_add(*n);
                Some(*end)
            });
            Positives::from_csr(&std::iter::once(0).chain(ends).collect::<Vec<_>>(), &indices, n_y)
        },
        _ => Err(Error::invalid("positives.kind", "a value of unicon_positives_kind", raw.kind)),
    }
}

entry!(
    fn unicon_loss_init(loss: *mut unicon_loss_t, struct_size: usize, kind: i32) {
        let mut value = unicon_loss::defaults();
        set_loss(&mut value, kind, &Loss::new(loss_kind(kind)?, Loss::default().tau));
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(loss, struct_size, &value) }
    }
);

entry!(
    fn unicon_positives_init(positives: *mut unicon_positives_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(positives, struct_size, &unicon_positives::defaults()) }
    }
);

entry!(
    fn unicon_kernel_init(kernel: *mut unicon_kernel_t, struct_size: usize, kind: i32) {
        if u32::try_from(kind) != Ok(UNICON_KERNEL_PRECOMPUTED) {
            kernel_kind(kind)?;
        }
        let value = unicon_kernel { kind, ..unicon_kernel::defaults() };
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(kernel, struct_size, &value) }
    }
);
