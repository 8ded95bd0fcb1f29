//! Gradient and diagonal Hessian of cross-entropy from staged scores.
#![expect(unsafe_code, reason = "the operation takes views")]

use super::SERIAL;
use crate::error::Error;
use crate::float::Float;
use crate::kernels::grad_hess::{Chunk, GradHess};
use crate::lines::GROUP;
use crate::parallel::{get_num_threads, run_chunks};
use crate::simd::dispatch;
use crate::stage::{Operand, Scratch, stage_rows};

/// Bytes of the rows that are staged together; they are copied once more, so they need not stay in the nearest cache.
const BLOCK_BYTES: usize = 64 * 1024;
/// The same where a band of rows is more, as the kernel takes them.
const BAND_BYTES: usize = 1 << 20;

/// Scores that threads share.
struct Scores<T: Float>(Operand<T>);
// SAFETY: only read; the caller of an operation vouches for the memory.
unsafe impl<T: Float> Sync for Scores<T> {}

/// [`grad_hess_view`](crate::ops::grad_hess_view) of the scores `x`, in place of those of the call.
///
/// # Safety
/// As `grad_hess_view`; the results are apart from `x`.
pub(crate) unsafe fn grad_hess<T: Float>(x: Operand<T>, mut call: GradHess<T>) -> Result<(), Error> {
    let (shape, x) = (call.shape, &Scores(x));
    let rows = shape.batch();
    call.labels.check(rows)?;
    call.stream = call.streams();
    let (call, bytes) = (&call, (shape.len * size_of::<T>()).max(1));
    let band = GROUP.min((BAND_BYTES / bytes).max(1));
    let step = (BLOCK_BYTES / bytes / GROUP * GROUP).max(band);
    let chunk = |i: usize| {
        let (rows, Scores(x)) = (i * step..((i + 1) * step).min(rows), x);
        Scratch::with(|scratch| {
            // SAFETY: the caller's promise.
            let x = unsafe { stage_rows(x, shape, rows.clone(), scratch) };
            dispatch(Chunk { call: &GradHess { x, ..*call }, rows });
        });
    };
    let chunks = rows.div_ceil(step);
    if shape.size() < SERIAL || chunks <= 1 {
        (0..chunks).for_each(chunk);
    } else {
        run_chunks(chunks, get_num_threads(), &chunk);
    }
    Ok(())
}
