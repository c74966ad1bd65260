//! The tile registers of AMX-BF16: 16 rows of 64 bytes each, multiplied two at a time.
//!
//! The compiler does not know them yet, so the instructions stand in assembly. Software asks the system once for the use of
//! tile registers; a thread loads a configuration before it uses them and releases them after.

use super::halves::{Engine, Square};

/// Whether the processor has AMX-BF16 and the system lets this process use it.
pub(super) fn is_granted() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static GRANTED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *GRANTED.get_or_init(|| x86::is_there() && x86::is_permitted())
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        false
    }
}

/// Tile registers of this thread, configured as eight whole tiles if the engine is AMX.
pub(super) struct Tiles {
    #[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), allow(dead_code))]
    configured: bool,
}

impl Tiles {
    /// For products of `engine`, which is [here](Engine::is_here).
    pub(super) fn configured(engine: Engine) -> Self {
        let configured = engine == Engine::Amx && is_granted();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if configured {
            // SAFETY: the processor has the registers and the system has granted them.
            unsafe { x86::configure() };
        }
        Self { configured }
    }

    /// `C <- A B` or `C <- C + A B` for a block of 32 by 32 elements of `C`, rows `ldc` apart.
    pub(super) fn block(
        &self,
        add: bool,
        c: &mut [f32],
        ldc: usize,
        left: [&[Square]; 2],
        right: [&[Square]; 2],
        halves: usize,
    ) {
        super::clip::check_tile(c.len(), ldc, 32, 32);
        let squares = left[0].len();
        assert!(left[1].len() == squares && right.iter().all(|r| r.len() == squares) && self.configured);
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: the registers are configured; the block and the squares were checked.
        unsafe {
            x86::block(add, c.as_mut_ptr(), ldc, left, right, squares / halves, halves);
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        let _ = (add, halves);
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.configured {
            // SAFETY: as when they were configured.
            unsafe { x86::release() };
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use super::Square;
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    /// Linux: ask for the use of a feature whose state is large.
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    /// Number of the tile data among the processor's states.
    const XTILEDATA: libc::c_ulong = 18;

    /// Leaf 7 of CPUID: AMX-BF16 and AMX-TILE. The vectors around the tiles are AVX-512's.
    pub fn is_there() -> bool {
        // SAFETY: every x86-64 processor has CPUID, and leaf 7 where it has AVX2. Newer compilers know that the call is safe.
        #[allow(unused_unsafe)]
        let features = unsafe { __cpuid_count(7, 0) }.edx;
        super::super::level() == super::super::SimdLevel::Avx512
            && features >> 22 & 1 == 1
            && features >> 24 & 1 == 1
    }

    /// Asks the system, for all threads of the process.
    pub fn is_permitted() -> bool {
        // SAFETY: a system call with two numbers; where it is unknown it fails.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
    }

    /// What LDTILECFG loads: eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    const WHOLE: Configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };

    /// # Safety
    /// The processor must have AMX and the system must have granted it.
    pub unsafe fn configure() {
        // SAFETY: by contract; the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE, options(nostack, readonly, preserves_flags)) };
    }

    /// # Safety
    /// As of [`configure`].
    pub unsafe fn release() {
        // SAFETY: by contract.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }

    /// The four sums of a block are tiles 0 to 3, squares of the left factor tiles 4 and 5, of the right one 6 and 7. The low
    /// half of a square lies 1,024 bytes behind its high half.
    /// # Safety
    /// Tiles must be configured; `c` must hold 32 rows of 32 elements, and each factor's rows `depth * halves` squares.
    pub unsafe fn block(
        add: bool,
        c: *mut f32,
        ldc: usize,
        left: [&[Square]; 2],
        right: [&[Square]; 2],
        depth: usize,
        halves: usize,
    ) {
        let [a0, a1] = left.map(|row| row.as_ptr());
        let [b0, b1] = right.map(|row| row.as_ptr());
        // SAFETY: by contract. What is read: `depth` times `halves` squares from each of the four rows; what is written: the block.
        unsafe {
            asm!(
                // Sums: those of `c`, or zeros.
                "test {add:e}, {add:e}",
                "jz 2f",
                "tileloadd tmm0, [{c} + {ldc}]",
                "tileloadd tmm1, [{c} + {ldc} + 64]",
                "tileloadd tmm2, [{below} + {ldc}]",
                "tileloadd tmm3, [{below} + {ldc} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "test {depth}, {depth}",
                "jz 6f",
                "4:",
                "tileloadd tmm4, [{a0} + {row}]",
                "tileloadd tmm5, [{a1} + {row}]",
                "tileloadd tmm6, [{b0} + {row}]",
                "tileloadd tmm7, [{b1} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "cmp {step}, 1024",
                "je 5f",
                // Low halves on the left while the high ones on the right are here, then the other way round.
                "tileloadd tmm4, [{a0} + {row} + 1024]",
                "tileloadd tmm5, [{a1} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm4, [{a0} + {row}]",
                "tileloadd tmm5, [{a1} + {row}]",
                "tileloadd tmm6, [{b0} + {row} + 1024]",
                "tileloadd tmm7, [{b1} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "5:",
                "add {a0}, {step}",
                "add {a1}, {step}",
                "add {b0}, {step}",
                "add {b1}, {step}",
                "dec {depth}",
                "jnz 4b",
                "6:",
                "tilestored [{c} + {ldc}], tmm0",
                "tilestored [{c} + {ldc} + 64], tmm1",
                "tilestored [{below} + {ldc}], tmm2",
                "tilestored [{below} + {ldc} + 64], tmm3",
                add = in(reg) u32::from(add),
                c = in(reg) c,
                below = in(reg) c.wrapping_add(16 * ldc),
                ldc = in(reg) 4 * ldc,
                a0 = inout(reg) a0 => _,
                a1 = inout(reg) a1 => _,
                b0 = inout(reg) b0 => _,
                b1 = inout(reg) b1 => _,
                depth = inout(reg) depth => _,
                step = in(reg) 1024 * halves,
                row = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}
