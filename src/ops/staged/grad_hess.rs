//! Gradient and diagonal Hessian of cross-entropy from staged scores.
#![expect(unsafe_code, reason = "the operation takes views")]

use super::run_all;
use crate::error::Error;
use crate::float::Float;
use crate::kernels::grad_hess::{Chunk, GradHess};
use crate::lines::{PerRow, Plan};
use crate::simd::dispatch;
use crate::stage::{Block, Call, Operand, Results};
use std::ops::Range;

/// [`grad_hess_view`](crate::ops::grad_hess_view) of the scores `x`, in place of those of the call.
///
/// # Safety
/// As `grad_hess_view`; the results are apart from `x`.
pub(crate) unsafe fn grad_hess<T: Float>(x: Operand<T>, mut call: GradHess<T>) -> Result<(), Error> {
    call.labels.check(call.shape.batch())?;
    call.stream = call.streams();
    let call = &call;
    let results = Results::As(PerRow::Nothing);
    let staged =
        Call { shape: call.shape, x: &[x], rows: &[], out: None, results, mask: None, stream: false };
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, _: &Block<T>| {
        dispatch(Chunk { call: &GradHess { x: plan.x[0], ..*call }, rows });
    };
    // SAFETY: the caller's promise.
    unsafe { run_all(&staged, &run) };
    Ok(())
}
