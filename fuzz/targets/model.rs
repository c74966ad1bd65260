//! Model files: `unicon_model_load`, and everything a loaded model can be asked.
#![no_main]

mod shared;

use libfuzzer_sys::fuzz_target;
use shared::{File, bindings::*, context, matrix};

/// A file of a few bytes can describe encoders of any size; larger ones take time, not paths.
const WIDEST: i64 = 64;

fuzz_target!(|bytes: &[u8]| {
    static FILE: File = File::new();
    let path = FILE.with(bytes);
    let mut model = std::ptr::null_mut();
    // SAFETY: a context, a path and an output as the header asks.
    let status = unsafe { unicon_model_load(context(), path.as_ptr(), &mut model) };
    if status != UNICON_OK as i32 {
        assert!(
            model.is_null()
                && (status == UNICON_ERROR_BAD_FILE as i32 || status == UNICON_ERROR_OUT_OF_MEMORY as i32)
        );
        return;
    }
    // SAFETY: a model that was just made; matrices of the sizes it names; destroyed once.
    unsafe {
        let mut d: unicon_model_description = std::mem::zeroed();
        d.struct_size = size_of_val(&d);
        assert_eq!(unicon_model_describe(model, &mut d), 0);
        assert!(d.d1 > 0 && d.d2 > 0 && d.r > 0 && d.members > 0);
        for (side, width) in [(UNICON_SIDE_X, d.d1), (UNICON_SIDE_Y, d.d2)] {
            if width <= WIDEST && d.r <= WIDEST {
                let mut x: Vec<f64> = (0..2 * width).map(|k| (k % 7) as f64 - 3.0).collect();
                let mut z = vec![0.0; 2 * d.r as usize];
                let (x, z) = (matrix(&mut x, 2, width), matrix(&mut z, 2, d.r));
                unicon_model_encode(context(), model, side as i32, &x, &z);
                let mut f = vec![0.0; (d.r * width) as usize];
                unicon_model_encoder(context(), model, side as i32, &matrix(&mut f, d.r, width));
            }
        }
        unicon_model_destroy(model);
    }
});
