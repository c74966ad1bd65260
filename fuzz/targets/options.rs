//! Option structs of any bytes and any size, each before a wall that a byte read too far hits.
//!
//! The input is a header of choices and then the structs, each as long as the header says. Pointers among the bytes are
//! replaced by NULL or by structs that are fuzzed as well: what C cannot check, the library cannot either.
#![no_main]

mod shared;

use libfuzzer_sys::fuzz_target;
use shared::{Walled, bindings::*, context, matrix};
use std::cell::RefCell;

const N: i64 = 8;
const D1: i64 = 3;
const D2: i64 = 2;

/// Reports until a fit is cancelled: options may ask for any number of iterations.
const PATIENCE: i32 = 12;

unsafe extern "C" fn progress(_: *const unicon_progress, user: *mut std::ffi::c_void) -> i32 {
    // SAFETY: the counter below.
    unsafe {
        *user.cast::<i32>() -= 1;
        i32::from(*user.cast::<i32>() < 0)
    }
}

const WATCH: unicon_progress_fn = Some(progress);

/// Takes bytes off the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A struct of the library with `changes` laid over its defaults, cut or extended to the size that its first bytes name (or to
/// one near it, so that the size fits the memory).
fn fill<T: Copy>(wall: &mut Walled, bytes: &mut Bytes<'_>, defaults: impl FnOnce(&mut T)) {
    let choice = bytes.byte();
    // SAFETY: zeros are a value of such a struct; its bytes may be read.
    let mut value: T = unsafe { std::mem::zeroed() };
    defaults(&mut value);
    // SAFETY: as above.
    let mut raw = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(&value).cast::<u8>(), size_of::<T>()).to_vec()
    };
    let raw_len = raw.len();
    match choice % 4 {
        // Fields, one word at a time.
        0 | 1 => {
            for _ in 0..choice >> 2 & 7 {
                let at = 8 + 8 * (usize::from(bytes.byte()) % (raw_len / 8 - 1));
                let word = bytes.take(8);
                raw[at..at + word.len()].copy_from_slice(word);
            }
        }
        // Everything.
        2 => {
            let all = bytes.take(raw_len - 8);
            raw[8..8 + all.len()].copy_from_slice(all);
        }
        // Another size, with memory of that size.
        _ => {
            let size = usize::from(bytes.byte()) * 4;
            raw.resize(size.max(8), 0);
            let tail = bytes.take(raw.len().saturating_sub(raw_len));
            let from = raw.len() - tail.len();
            raw[from..].copy_from_slice(tail);
            raw[..8].copy_from_slice(&size.to_ne_bytes());
        }
    }
    wall.fill(&raw);
}

/// The identity, as psi and as phi.
unsafe extern "C" fn own(
    at: *const f64,
    value: *mut f64,
    derivative: *mut f64,
    count: i64,
    _: *mut std::ffi::c_void,
) -> i32 {
    for k in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: `count` numbers each.
        unsafe {
            *value.add(k) = *at.add(k);
            *derivative.add(k) = 1.0;
        }
    }
    0
}

#[derive(Default)]
struct Walls {
    family: Walled,
    loss: Walled,
    kernel: Walled,
    positives: Walled,
    damping: Walled,
    refine: Walled,
    fit: Walled,
    best: Walled,
    evaluation: Walled,
    context: Walled,
}

thread_local! {
    static WALLS: RefCell<Walls> = RefCell::default();
}

macro_rules! init {
    ($function:ident $(, $more:expr)?) => {
        // SAFETY: a struct of the library and its size.
        |value| { #[allow(unused_unsafe)] unsafe { assert_eq!($function(value, size_of_val(value) $(, $more)?), 0) } }
    };
}

fuzz_target!(|input: &[u8]| {
    WALLS.with_borrow_mut(|w| {
        let mut b = Bytes(input);
        let choices = u32::from_le_bytes([b.byte(), b.byte(), b.byte(), b.byte()]);
        let chosen = |bit: u32| choices >> bit & 1 == 1;
        fn given<T>(yes: bool, wall: &Walled) -> *mut T {
            if yes { wall.pointer() } else { std::ptr::null_mut() }
        }
        fill(&mut w.loss, &mut b, init!(unicon_loss_init, (choices >> 28 & 3) as i32));
        fill(&mut w.kernel, &mut b, init!(unicon_kernel_init, 5));
        fill(&mut w.positives, &mut b, init!(unicon_positives_init));
        fill(&mut w.damping, &mut b, init!(unicon_damping_init));
        fill(&mut w.refine, &mut b, init!(unicon_refine_init));
        fill(&mut w.evaluation, &mut b, init!(unicon_evaluation_options_init));

        let mut x: Vec<f64> = (0..N * D1).map(|k| ((k * 7 + 3) % 11) as f64 - 5.0).collect();
        let mut y: Vec<f64> = (0..N * D2).map(|k| ((k * 5 + 1) % 13) as f64 - 6.0).collect();
        let (x, y) = (matrix(&mut x, N, D1), matrix(&mut y, N, D2));
        let mut ids: Vec<i64> = (0..=N).map(|k| k >> (choices >> 24 & 3)).collect();
        let mut left = PATIENCE;
        // From the end of the input: what begins it is read as before there were losses of one's own.
        let mut last = Bytes(&input[input.len().saturating_sub(32)..]);
        fill(&mut w.family, &mut last, init!(unicon_family_init));
        if let Some(f) = w.family.get::<unicon_family>() {
            // Names end with a zero; functions are there or are not.
            f.name = if chosen(17) { c"own".as_ptr() } else { std::ptr::null() };
            (f.psi, f.phi) = (chosen(18).then_some(own as _), chosen(19).then_some(own as _));
            f.user = std::ptr::null_mut();
        }
        if let Some(l) = w.loss.get::<unicon_loss>() {
            let whole = w.family.get::<unicon_family>().is_some();
            l.family = if whole { given(chosen(20), &w.family) } else { std::ptr::null() };
        }
        if let Some(p) = w.positives.get::<unicon_positives>() {
            let mut array = |bit| if chosen(bit) { ids.as_mut_ptr() } else { std::ptr::null_mut() };
            (p.x_groups, p.y_groups) = (array(0), array(1));
            (p.indptr, p.indices) = (array(2), array(3));
            p.nnz = p.nnz.min(N);
        }
        if let Some(r) = w.refine.get::<unicon_refine>() {
            r.stages = if chosen(4) { ids.as_ptr() } else { std::ptr::null() };
            r.n_stages = r.n_stages.min(N);
        }
        if let Some(e) = w.evaluation.get::<unicon_evaluation_options>() {
            e.ks = if chosen(5) { ids.as_ptr() } else { std::ptr::null() };
            (e.n_ks, e.resamples) = (e.n_ks.min(N), e.resamples.min(100));
        }
        let (loss, kernel) = (given(chosen(9), &w.loss), given(chosen(10), &w.kernel));
        let positives = given(chosen(11), &w.positives);
        let pairs = pairs(&x, &y, positives);
        let held = if chosen(12) { &raw const pairs } else { std::ptr::null() };
        let (damping, refine) = (given(chosen(13), &w.damping), given(chosen(14), &w.refine));
        let (mut model, mut report) = (std::ptr::null_mut(), std::ptr::null_mut());
        let told = if chosen(6) { &raw mut report } else { std::ptr::null_mut() };
        // SAFETY: every pointer is NULL, a matrix, or a struct whose memory is as long as its size says, with such pointers.
        unsafe {
            match choices >> 30 {
                0 => {
                    fill(&mut w.fit, &mut b, init!(unicon_fit_options_init));
                    if let Some(o) = w.fit.get::<unicon_fit_options>() {
                        (o.loss, o.kernel, o.damping, o.refine) = (loss, kernel, damping, refine);
                        o.landmarks = if chosen(15) { ids.as_ptr() } else { std::ptr::null() };
                        o.n_landmarks = if chosen(15) { o.n_landmarks.min(N) } else { o.n_landmarks };
                        o.similarity = if chosen(16) { &x } else { std::ptr::null() };
                        (o.checkpoint, o.validation, o.warm_start) =
                            (std::ptr::null(), held, std::ptr::null());
                        (o.progress, o.progress_user) = (WATCH, std::ptr::from_mut(&mut left).cast());
                    } else {
                        // Cut before the callback: a fit of few updates.
                        return;
                    }
                    let o = w.fit.pointer();
                    let mut bytes = 0;
                    let sizes = unicon_sizes {
                        struct_size: size_of::<unicon_sizes>(),
                        n_x: N,
                        n_y: N,
                        d1: D1,
                        d2: D2,
                        m_x: 0,
                        m_y: 0,
                        dtype: UNICON_F64 as i32,
                        reserved: 0,
                    };
                    unicon_fit_workspace(context(), o, &sizes, &mut bytes);
                    unicon_fit(context(), o, &pairs, &mut model, told);
                }
                1 => {
                    fill(&mut w.best, &mut b, init!(unicon_best_options_init));
                    let Some(o) = w.best.get::<unicon_best_options>() else { return };
                    (o.loss, o.kernel, o.refine) = (loss, kernel, refine);
                    o.minibatch = std::ptr::null();
                    o.landmarks = if chosen(15) { ids.as_ptr() } else { std::ptr::null() };
                    o.n_landmarks = if chosen(15) { o.n_landmarks.min(N) } else { o.n_landmarks };
                    o.whiten = if chosen(16) { x.data.cast() } else { std::ptr::null() };
                    o.powers = if chosen(17) { y.data.cast() } else { std::ptr::null() };
                    o.widths = if chosen(17) { x.data.cast() } else { std::ptr::null() };
                    (o.n_whiten, o.n_powers) = (o.n_whiten.min(4), o.n_powers.min(4));
                    o.n_widths = o.n_widths.min(4);
                    (o.checkpoint, o.validation, o.warm_start) = (std::ptr::null(), held, std::ptr::null());
                    (o.progress, o.progress_user) = (WATCH, std::ptr::from_mut(&mut left).cast());
                    let o = w.best.pointer();
                    unicon_fit_best(context(), o, &pairs, &mut model, told);
                }
                2 => {
                    fill(&mut w.context, &mut b, init!(unicon_context_options_init));
                    let Some(o) = w.context.get::<unicon_context_options>() else { return };
                    (o.stream, o.allocator, o.communicator) = Default::default();
                    (o.warning, o.warning_user) = (None, std::ptr::null_mut());
                    if o.n_threads != i32::MIN {
                        o.n_threads = o.n_threads.min(2) | i32::from(o.n_threads == 0);
                    }
                    let mut made = std::ptr::null_mut();
                    if unicon_context_create(w.context.pointer(), &mut made) == 0 {
                        unicon_context_destroy(made);
                    }
                }
                _ => {
                    let mut s = [0.1; (N * N) as usize];
                    let s = matrix(&mut s, N, N);
                    let mut weights = std::ptr::null_mut();
                    let options = unicon_weights_options {
                        struct_size: size_of::<unicon_weights_options>(),
                        loss,
                        n_negatives: i64::from(b.byte()) - 1,
                        seed: choices.into(),
                    };
                    unicon_weights_create_similarity(context(), &options, &s, positives, &mut weights);
                    unicon_evaluate(
                        context(),
                        given(chosen(13), &w.evaluation),
                        &self::pairs(&x, &x, positives),
                        &mut report,
                    );
                    unicon_weights_destroy(weights);
                    let mut k = [0.0; (N * N) as usize];
                    unicon_gram(context(), kernel, &x, &x, &matrix(&mut k, N, N));
                }
            }
            // Every key of the report, and some that are none.
            let (mut real, mut integer) = (0.0, 0);
            for key in (0..2200).step_by(1 + usize::from(b.byte() % 7)) {
                unicon_report_real(report, key, &mut real);
                unicon_report_integer(report, key, &mut integer);
                unicon_report_series(report, key, &mut real, 1, &mut integer);
            }
            unicon_report_destroy(report);
            unicon_model_destroy(model);
        }
    });
});

fn pairs(x: &unicon_matrix, y: &unicon_matrix, positives: *const unicon_positives) -> unicon_pairs {
    unicon_pairs { struct_size: size_of::<unicon_pairs>(), x, y, positives }
}
