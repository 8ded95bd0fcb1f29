//! Gradient and diagonal Hessian of cross-entropy: labels checked, rows split over threads.
#![expect(unsafe_code, reason = "safe functions over slices call the walks over views")]

use super::{Label, SERIAL, STREAM_BYTES, compiled, input, labels, wants};
use crate::error::Error;
use crate::float::Float;
use crate::kernels::grad_hess::{Chunk, GradHess, Hessian, Results, Weights};
use crate::lines::{GROUP, chunk_rows};
use crate::parallel::{get_num_threads, run_chunks};
use crate::shape::{Shape, View};
use crate::simd::dispatch;

impl<T: Float> GradHess<T> {
    /// Whether results go past the caches: they are large, and not where the scores, or nothing yet, were.
    pub(super) fn streams(&self) -> bool {
        let past = |to: *mut u8, fresh: bool, size: usize| {
            !fresh && self.shape.size() * size >= STREAM_BYTES && to != self.x.ptr.cast()
        };
        match &self.results {
            Results::Same(to) => to.iter().all(|to| past(to.ptr.cast(), to.fresh, size_of::<T>())),
            Results::Narrow(to) => to.iter().all(|to| past(to.ptr.cast(), to.fresh, size_of::<f32>())),
        }
    }
}

/// Gradient and diagonal Hessian of every row's cross-entropy.
///
/// # Safety
/// The views are valid for the shape, whose `inner` is 1; labels and weights for its batch. The results are apart from
/// all operands and from each other, but that one of them may be exactly `x`.
pub(crate) unsafe fn grad_hess_view<T: Float>(mut call: GradHess<T>) -> Result<(), Error> {
    let narrow = matches!(call.results, Results::Narrow(_));
    assert!(!narrow || size_of::<T>() == size_of::<f64>(), "only f64 has narrower results");
    let rows = call.shape.batch();
    call.labels.check(rows)?;
    call.stream = call.streams();
    let few = chunk_rows(call.shape);
    let (call, step) = (&call, if call.is_strided() { few.max(GROUP) } else { few });
    let chunk = |i: usize| dispatch(Chunk { call, rows: i * step..((i + 1) * step).min(rows) });
    let chunks = rows.div_ceil(step);
    if call.shape.size() < SERIAL || chunks <= 1 {
        (0..chunks).for_each(chunk);
    } else {
        run_chunks(chunks, get_num_threads(), &chunk);
    }
    Ok(())
}

/// The gradient of each row's cross-entropy with respect to its scores, `w (p - onehot)` with `p = softmax(scores)`,
/// and the diagonal of the Hessian in the form that is asked for: `max(w hess_scale f, hess_floor)`. Both within 3 ulp
/// (`f32`) or 4 (`f64`), also for a confident row.
///
/// Rows of weight 0 have gradient 0 whatever their scores.
///
/// ```
/// use logitkit::{Hessian, Shape, cross_entropy_grad_hess};
/// let (mut grad, mut hess) = ([0.0f32; 3], [0.0; 3]);
/// let shape = Shape::rows(1, 3);
/// let scores = [17.0f32, 0.0, 0.0];
/// cross_entropy_grad_hess(&scores, &[0u8], shape, None, Hessian::Upper, 1.0, 1e-16, &mut grad, &mut hess)?;
/// assert_eq!(grad, [-8.279875e-8, 4.1399375e-8, 4.1399375e-8]);
/// assert_eq!(hess, [1.6559748e-7, 8.279875e-8, 8.279875e-8]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape; [`Error::Label`] for a label that is no class number.
///
/// # Panics
/// When the class axis is not the last one, when `hess_scale` is not finite, or `hess_floor` is NaN.
#[expect(clippy::too_many_arguments, reason = "operands, options and two results")]
pub fn cross_entropy_grad_hess<T: Float, L: Label>(
    scores: &[T],
    classes: &[L],
    shape: Shape,
    weights: Option<&[f64]>,
    hessian: Hessian,
    hess_scale: f64,
    hess_floor: f64,
    grad: &mut [T],
    hess: &mut [T],
) -> Result<(), Error> {
    assert!(shape.inner == 1, "the class axis is the last one");
    assert!(hess_scale.is_finite() && !hess_floor.is_nan(), "numbers to scale and to compare with");
    wants("scores", scores.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    wants("grad", grad.len(), shape.size())?;
    wants("hess", hess.len(), shape.size())?;
    let weights = match weights {
        Some(weights) => {
            wants("weights", weights.len(), shape.batch())?;
            Weights::Double(View::per_row(weights.as_ptr().cast_mut(), shape))
        }
        None => Weights::One,
    };
    let results = [grad, hess].map(|to| View::contiguous(to.as_mut_ptr(), shape));
    let call = GradHess {
        shape,
        x: input(scores, shape),
        labels: labels(classes, shape, None),
        weights,
        hessian,
        factor: hessian.factor::<T::Ops>(shape.len, hess_scale),
        floor: hess_floor,
        results: Results::Same(results),
        stream: false,
    };
    // SAFETY: the slices have the sizes needed; the results do not overlap.
    unsafe { (compiled().cross_entropy_grad_hess)(call) }
}
