//! Weighted sums of exponentials, on staged operands whatever their format.
#![expect(unsafe_code, reason = "the operations take views")]

use super::{run_all, streams};
use crate::float::Float;
use crate::kernels::weighted_logsumexp::{WeightedBackward, WeightedLogSumExp};
use crate::lines::{PerRow, Plan};
use crate::shape::{Shape, View};
use crate::simd::dispatch;
use crate::stage::{Block, Call, Mask, Operand, Results};
use std::ops::Range;

/// Signs that threads share.
struct Signs<T>(Option<View<T>>);
// SAFETY: a row's sign is written by the one thread that has the row; the caller of an operation vouches for the memory.
unsafe impl<T: Float> Sync for Signs<T> {}

/// `log |sum b exp(a)|` over what the mask leaves, and the signs of the sums. Without signs, negative sums are NaN.
///
/// # Safety
/// The views are valid for `shape`; `log` and `signs` have an element per row, apart from each other and all others.
pub(crate) unsafe fn logsumexp<T: Float>(
    shape: Shape,
    a: Operand<T>,
    b: Operand<T>,
    log: View<T>,
    signs: Option<View<T>>,
    mask: Option<View<u8>>,
) {
    let mask = mask.map(|view| Mask::new(view, T::default()));
    let results = Results::As(PerRow::Array(log));
    let x = [a, b];
    let call = Call { results, mask, only_rows: true, ..Call::new(shape, &x) };
    let signs = &Signs(signs);
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, _block: &Block<T>| {
        let &Signs(signs) = signs;
        dispatch(WeightedLogSumExp::<T> { plan, rows, signs, inner: shape.inner });
    };
    // SAFETY: the caller's promise.
    unsafe { run_all(&call, &run) }
}

/// `grad b exp(a - lse)`, 0 where `b` is 0.
///
/// # Safety
/// The views are valid for `shape`; `grad` and `lse` have an element per row; `out` is apart from the others, or exactly
/// `a` or `b`.
pub(crate) unsafe fn logsumexp_backward<T: Float>(
    shape: Shape,
    [grad, lse]: [Operand<T>; 2],
    a: Operand<T>,
    b: Operand<T>,
    out: Operand<T>,
) {
    let (x, rows) = ([a, b], [grad, lse]);
    let stream = streams(shape.size(), &out, &x);
    let call = Call { rows: &rows, out: Some(out), stream, only_rows: true, ..Call::new(shape, &x) };
    let run = |plan: &Plan<'_, T::Ops>, rows: Range<usize>, block: &Block<T>| {
        dispatch(WeightedBackward::<T> { plan, rows, per_row: block.rows });
    };
    // SAFETY: the caller's promise.
    unsafe { run_all(&call, &run) }
}
