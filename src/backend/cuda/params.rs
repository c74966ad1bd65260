//! The kernels' argument structs, as `cuda/params.cuh` declares them. Both sides assert sizes and offsets.

use std::mem::offset_of;

/// A type that a kernel takes by value, with the layout that the kernel expects.
///
/// # Safety
/// Only for types whose Rust and C++ layouts are the same and in which every bit pattern of a pointer field is one.
pub(super) unsafe trait Argument: Copy {}

/// Declares kernel arguments and checks their layout at compile time.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident[$size:literal] { $($field:ident: $t:ty = $offset:literal,)+ })+) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub(super) struct $name { $(pub(super) $field: $t,)+ }
            const _: () = assert!(size_of::<$name>() == $size);
            $(const _: () = assert!(offset_of!($name, $field) == $offset);)+
            // SAFETY: repr(C) with the offsets that params.cuh asserts too.
            unsafe impl Argument for $name {}
        )+
    };
}

/// A device address.
pub(super) type Ptr = u64;

// SAFETY: the scalar types of the kernels' parameters; a pointer is a 64-bit integer on both sides.
unsafe impl Argument for Ptr {}
// SAFETY: as above.
unsafe impl Argument for i32 {}
// SAFETY: as above.
unsafe impl Argument for i64 {}
// SAFETY: as above.
unsafe impl Argument for f32 {}
// SAFETY: as above.
unsafe impl Argument for f64 {}

arguments! {
    /// Entries that dense tiles leave out, by row; columns ascending.
    Csr[16] { offsets: Ptr = 0, columns: Ptr = 8, }

    /// Both sides' embeddings in the 16-bit layout.
    Embeddings[32] { rows: Ptr = 0, cols: Ptr = 8, depth: i32 = 16, ld: i32 = 20, products: i32 = 24, resident: i32 = 28, }

    /// Rows against columns of one launch.
    Sweep[80] {
        z: Embeddings = 0, masked: Csr = 32, row_of: Ptr = 48, row_begin: i32 = 56, row_end: i32 = 60,
        col_begin: i32 = 64, col_end: i32 = 68, tiles_per_block: i32 = 72, reserved: i32 = 76,
    }

    /// Pass 1 of clip.
    ClipStats[120] {
        sweep: Sweep = 0, scale: f32 = 80, shift: f32 = 84, row_sum: Ptr = 88, row_max: Ptr = 96, col_sum: Ptr = 104,
        col_max: Ptr = 112,
    }

    /// A panel of clip's weights.
    ClipWeights[120] {
        sweep: Sweep = 0, scale: f32 = 80, shift: f32 = 84, row: Ptr = 88, col: Ptr = 96, out: Ptr = 104, ld_out: i64 = 112,
    }

    /// Clip's weights times values, without a panel.
    ClipFused[144] {
        sweep: Sweep = 0, scale: f32 = 80, shift: f32 = 84, row: Ptr = 88, col: Ptr = 96, values: Ptr = 104,
        ld_values: i64 = 112, width: i32 = 120, accumulate: i32 = 124, out: Ptr = 128, ld_out: i64 = 136,
    }

    /// Pass 1 of the additive members: one row of the sweep for every positive.
    AdditiveSums[112] {
        sweep: Sweep = 0, tau: f32 = 80, margin: f32 = 84, threshold: Ptr = 88, psi: Ptr = 96, dpsi: Ptr = 104,
    }

    /// A panel of an additive member's weights.
    AdditiveWeights[152] {
        sweep: Sweep = 0, tau: f32 = 80, margin: f32 = 84, row_offsets: Ptr = 88, row_threshold: Ptr = 96,
        row_factor: Ptr = 104, col_offsets: Ptr = 112, col_threshold: Ptr = 120, col_factor: Ptr = 128, out: Ptr = 136,
        ld_out: i64 = 144,
    }

    /// The k best columns of every row.
    TopK[104] { sweep: Sweep = 0, k: i32 = 80, reserved: i32 = 84, value: Ptr = 88, index: Ptr = 96, }

    /// Columns before a row's best positive.
    Ranks[104] { sweep: Sweep = 0, best: Ptr = 80, best_index: Ptr = 88, count: Ptr = 96, }
}
