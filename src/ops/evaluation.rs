//! Evaluation of a classifier or a language model: log-probabilities of labels, the best classes.

use super::{Label, Labels, PerRow, Plan, View, compiled, input, labels, run, wants};
use crate::error::Error;
use crate::float::Float;
use crate::kernels::temperature::Temperature;
use crate::kernels::token_logprobs::TokenLogprobs;
use crate::kernels::top_k::TopK;
use crate::shape::Shape;
use std::marker::PhantomData;

/// The log-probability of every row's label, and whether the label is the first maximum.
///
/// # Safety
/// The views are valid for `shape`, the labels and per-row views for its batch; the results are apart from all others.
pub(crate) unsafe fn token_logprobs_view<T: Float>(
    shape: Shape,
    x: View<T>,
    labels: Labels,
    temperature: Temperature,
    logprobs: View<T>,
    is_argmax: View<u8>,
) -> Result<(), Error> {
    labels.check(shape.batch())?;
    let (inner, element) = (shape.inner, PhantomData);
    let kernel = TokenLogprobs::<T::Ops> { labels, is_argmax, inner, temperature, element };
    run(&kernel, &Plan { shape, x: [x, x], out: x, per_row: PerRow::Array(logprobs), stream: false });
    Ok(())
}

/// The `k` largest log-probabilities of every row and their classes, `1 <= k <= len`.
///
/// # Safety
/// The views are valid for `shape`, those of the results with `k` in the place of its classes; the results are apart
/// from all others.
pub(crate) unsafe fn top_k_logprobs_view<T: Float>(
    shape: Shape,
    k: usize,
    x: View<T>,
    temperature: Temperature,
    values: View<T>,
    indices: View<i64>,
) {
    assert!((1..=shape.len).contains(&k), "k = {k} of {} classes", shape.len);
    let kernel = TopK { k, values, indices, inner: shape.inner, temperature };
    run(&kernel, &Plan { shape, x: [x, x], out: x, per_row: PerRow::Nothing, stream: false });
}

/// The log-probability of each row's label, `log_softmax(x)_y`, within 3 ulp (`f32`) or 4 (`f64`), and whether the
/// label is the row's first maximum, in one pass. A row whose label equals `ignore` has 0 and false.
///
/// ```
/// use logitkit::{Shape, token_logprobs};
/// let (mut logprobs, mut is_argmax) = ([0.0f32; 2], [false; 2]);
/// let logits = [17.0, 0.0, 0.0, 1.0, 1.0, 0.0];
/// token_logprobs(&logits, &[0u8, 1], Shape::rows(2, 3), None, &mut logprobs, &mut is_argmax)?;
/// assert_eq!(logprobs, [-8.2798756e-8, -0.8619948]);
/// assert_eq!(is_argmax, [true, false]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape; [`Error::Label`] for a label that is neither a
/// class number nor ignored.
pub fn token_logprobs<T: Float, L: Label>(
    logits: &[T],
    classes: &[L],
    shape: Shape,
    ignore: Option<i64>,
    logprobs: &mut [T],
    is_argmax: &mut [bool],
) -> Result<(), Error> {
    wants("logits", logits.len(), shape.size())?;
    wants("classes", classes.len(), shape.batch())?;
    wants("logprobs", logprobs.len(), shape.batch())?;
    wants("is_argmax", is_argmax.len(), shape.batch())?;
    let labels = labels(classes, shape, ignore);
    let logprobs = View::per_row(logprobs.as_mut_ptr(), shape);
    let is_argmax = View::per_row(is_argmax.as_mut_ptr().cast::<u8>(), shape);
    // SAFETY: the slices have the sizes needed and do not overlap; 0 and 1 are the bits of `bool`.
    unsafe {
        (compiled().token_logprobs)(
            shape,
            input(logits, shape),
            labels,
            Temperature::One,
            logprobs,
            is_argmax,
        )
    }
}

/// The `k` largest log-probabilities of each row, best first, and their classes, of equal logits the lowest first,
/// within 3 ulp (`f32`) or 4 (`f64`). Both results have the shape with `k` in the place of its classes.
///
/// ```
/// use logitkit::{Shape, top_k_logprobs};
/// let (mut values, mut indices) = ([0.0f64; 2], [0; 2]);
/// top_k_logprobs(&[0.0, 3.0, 1.0, 3.0], 2, Shape::rows(1, 4), &mut values, &mut indices)?;
/// assert_eq!(indices, [1, 3]);
/// assert_eq!(values[0], values[1]);
/// # Ok::<(), logitkit::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when a buffer does not fit the shape.
///
/// # Panics
/// When `k` is zero or larger than the number of classes.
pub fn top_k_logprobs<T: Float>(
    logits: &[T],
    k: usize,
    shape: Shape,
    values: &mut [T],
    indices: &mut [i64],
) -> Result<(), Error> {
    let results = Shape { len: k, ..shape };
    wants("logits", logits.len(), shape.size())?;
    wants("values", values.len(), results.size())?;
    wants("indices", indices.len(), results.size())?;
    let values = View::contiguous(values.as_mut_ptr(), results);
    let indices = View::contiguous(indices.as_mut_ptr(), results);
    // SAFETY: the slices have the sizes needed and do not overlap.
    unsafe { (compiled().top_k_logprobs)(shape, k, input(logits, shape), Temperature::One, values, indices) };
    Ok(())
}
